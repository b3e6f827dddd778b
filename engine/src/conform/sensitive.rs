//! Columns that the table masks later, and how their values are shown before that (law 3): never in clear.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A mask over text, as the table applies it.
pub type TextMask = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Columns that the table masks later, each with the mask over text where there is one. What has no mask is scrubbed.
#[derive(Clone, Default)]
pub struct Sensitive {
    pub columns: BTreeMap<String, Option<TextMask>>,
}

/// Values in messages and in scrubbed text are cut to this many characters.
pub const SHOWN: usize = 200;

impl Sensitive {
    pub fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// A value as a record in quarantine may hold it: whole where the column is not sensitive, else by its mask, else scrubbed.
    pub(crate) fn record_text<'a>(&self, column: &str, text: &'a str, failed: bool) -> Option<Cow<'a, str>> {
        match self.columns.get(column) {
            None => Some(Cow::Borrowed(text)),
            Some(Some(mask)) if !failed => mask(text).map(Cow::Owned),
            Some(_) => Some(Cow::Owned(scrub(text))),
        }
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.columns.keys()).finish()
    }
}

// Plans are compared and hashed; a mask is told apart by its column only.
impl PartialEq for Sensitive {
    fn eq(&self, other: &Self) -> bool {
        self.columns.keys().eq(other.columns.keys())
    }
}

impl Eq for Sensitive {}

impl Hash for Sensitive {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.columns.keys().for_each(|k| k.hash(state));
    }
}

impl PartialOrd for Sensitive {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.columns.keys().cmp(other.columns.keys()))
    }
}

/// The shape of a text: letters become `x`, digits `9`, ASCII punctuation and spaces stay. Cut to 200 characters.
pub fn scrub(text: &str) -> String {
    let shape = |c: char| match c {
        c if c.is_ascii_digit() => '9',
        c if c.is_ascii_alphabetic() || !c.is_ascii() => 'x',
        c if c.is_ascii_control() => ' ',
        c => c,
    };
    let mut chars = text.chars();
    let mut out: String = chars.by_ref().take(SHOWN).map(shape).collect();
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

/// The first characters of a text, marked where it was cut.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrubbing_keeps_the_shape_only() {
        assert_eq!(scrub("Zé.Ana+1@example.com 12/03"), "xx.xxx+9@xxxxxxx.xxx 99/99");
        assert_eq!(scrub(&"7".repeat(5000)), format!("{}…", "9".repeat(200)));
        assert_eq!(shown(&"é".repeat(201)).chars().count(), 201);
    }

    #[test]
    fn debug_shows_names_only() {
        let mask: TextMask = Arc::new(|_| None);
        let sensitive = Sensitive { columns: [("email".to_owned(), Some(mask))].into() };
        assert_eq!(format!("{sensitive:?}"), "{\"email\"}");
    }
}
