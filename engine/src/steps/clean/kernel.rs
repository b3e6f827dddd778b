//! Cleaning of string views. A value that only gets shorter at its ends stays a view into the same buffer; only rewritten text
//! is copied, and none of it with an allocation of its own.

use arrow::array::{Array, StringViewArray, make_view};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, ScalarBuffer};
use arrow::util::bit_util;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    Lower,
    Upper,
    Title,
}

/// What happens to each value, in the order of the fields.
#[derive(Debug, Default)]
pub struct Recipe {
    pub trim: bool,
    pub collapse: bool,
    pub null_if: Vec<Box<[u8]>>,
    pub unaccent: bool,
    pub case: Option<Case>,
}

const INLINE: usize = 12;
/// A buffer of fresh text is closed at this size: offsets in views are 32 bits.
const FRESH_LIMIT: usize = 1 << 30;

pub fn clean(input: &StringViewArray, recipe: &Recipe) -> StringViewArray {
    let old = input.views();
    let mut views: Vec<u128> = Vec::with_capacity(old.len());
    let mut buffers: Vec<Buffer> = input.data_buffers().to_vec();
    let mut fresh: Vec<u8> = vec![];
    let mut scratch = String::new();
    let mut nulled: Vec<usize> = vec![];
    let rewrites = recipe.collapse || recipe.unaccent || recipe.case.is_some();
    for (i, view) in old.iter().enumerate() {
        if input.is_null(i) {
            views.push(0);
            continue;
        }
        let whole = input.value(i);
        let text = if recipe.trim { trim(whole) } else { whole };
        if !rewrites {
            if recipe.null_if.iter().any(|n| **n == *text.as_bytes()) {
                nulled.push(i);
                views.push(0);
            } else {
                views.push(part(*view, whole, text));
            }
            continue;
        }
        scratch.clear();
        match rewrite(text, recipe, &mut scratch) {
            Rewritten::Null => {
                nulled.push(i);
                views.push(0);
            }
            Rewritten::Same => views.push(part(*view, whole, text)),
            Rewritten::Fresh if scratch.len() <= INLINE => views.push(make_view(scratch.as_bytes(), 0, 0)),
            Rewritten::Fresh => {
                if fresh.len() + scratch.len() > FRESH_LIMIT {
                    buffers.push(Buffer::from_vec(std::mem::take(&mut fresh)));
                }
                views.push(make_view(scratch.as_bytes(), buffers.len() as u32, fresh.len() as u32));
                fresh.extend_from_slice(scratch.as_bytes());
            }
        }
    }
    if !fresh.is_empty() {
        buffers.push(Buffer::from_vec(fresh));
    }
    let nulls = without(input.nulls(), &nulled, old.len());
    // SAFETY: each view is zero (null or empty), a view of the input, a part of one on character boundaries (`trim` gives a
    // str), or made from a str that was appended to the buffer of that index at that offset.
    unsafe { StringViewArray::new_unchecked(ScalarBuffer::from(views), buffers, nulls) }
}

enum Rewritten {
    Null,
    /// Nothing changed; the scratch text is not needed.
    Same,
    Fresh,
}

fn rewrite(text: &str, recipe: &Recipe, out: &mut String) -> Rewritten {
    if recipe.collapse && needs_collapse(text) {
        collapse(text, out);
    } else {
        out.push_str(text);
    }
    if recipe.null_if.iter().any(|n| **n == *out.as_bytes()) {
        return Rewritten::Null;
    }
    let ascii = out.is_ascii();
    if recipe.unaccent && !ascii {
        *out = out.chars().flat_map(unaccented).collect();
    }
    match recipe.case {
        None => {}
        Some(Case::Lower) if ascii => out.make_ascii_lowercase(),
        Some(Case::Upper) if ascii => out.make_ascii_uppercase(),
        Some(Case::Lower) => *out = out.to_lowercase(),
        Some(Case::Upper) => *out = out.to_uppercase(),
        Some(Case::Title) => title(out),
    }
    if out == text { Rewritten::Same } else { Rewritten::Fresh }
}

/// The view of `text`, which is a part of `whole`, whose view is `view`.
fn part(view: u128, whole: &str, text: &str) -> u128 {
    if text.len() == whole.len() {
        return view;
    }
    let start = text.as_ptr() as usize - whole.as_ptr() as usize;
    let (buffer, offset) = ((view >> 64) as u32, (view >> 96) as u32);
    make_view(text.as_bytes(), buffer, offset + if text.len() > INLINE { start as u32 } else { 0 })
}

/// `str::trim`, with a way out for the many values that need none.
fn trim(text: &str) -> &str {
    let plain = |b: &u8| *b > b' ' && *b < 0x7f;
    match (text.as_bytes().first(), text.as_bytes().last()) {
        (Some(first), Some(last)) if plain(first) && plain(last) => text,
        (None, _) => text,
        _ => {
            let trimmed = text.trim();
            // An empty result must still point into the text.
            if trimmed.is_empty() { &text[..0] } else { trimmed }
        }
    }
}

fn needs_collapse(text: &str) -> bool {
    if !text.is_ascii() {
        return true;
    }
    let bytes = text.as_bytes();
    bytes.windows(2).any(|w| w[0] == b' ' && w[1] == b' ') || bytes.iter().any(|b| (9..=13).contains(b))
}

fn collapse(text: &str, out: &mut String) {
    let mut in_space = false;
    for c in text.chars() {
        let space = c.is_whitespace();
        match (space, in_space) {
            (true, true) => {}
            (true, false) => out.push(' '),
            (false, _) => out.push(c),
        }
        in_space = space;
    }
}

fn title(text: &mut String) {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        inside = c.is_alphanumeric();
    }
    *text = out;
}

/// Latin letters of Latin-1 and Latin Extended-A without their marks; other characters as they are. Combining marks go.
fn unaccented(c: char) -> impl Iterator<Item = char> {
    let text = match c {
        'À'..='Å' | 'Ā' | 'Ă' | 'Ą' => "A",
        'à'..='å' | 'ā' | 'ă' | 'ą' => "a",
        'Æ' => "AE",
        'æ' => "ae",
        'Ç' | 'Ć' | 'Ĉ' | 'Ċ' | 'Č' => "C",
        'ç' | 'ć' | 'ĉ' | 'ċ' | 'č' => "c",
        'Ď' | 'Đ' | 'Ð' => "D",
        'ď' | 'đ' | 'ð' => "d",
        'È'..='Ë' | 'Ē' | 'Ĕ' | 'Ė' | 'Ę' | 'Ě' => "E",
        'è'..='ë' | 'ē' | 'ĕ' | 'ė' | 'ę' | 'ě' => "e",
        'Ĝ' | 'Ğ' | 'Ġ' | 'Ģ' => "G",
        'ĝ' | 'ğ' | 'ġ' | 'ģ' => "g",
        'Ĥ' | 'Ħ' => "H",
        'ĥ' | 'ħ' => "h",
        'Ì'..='Ï' | 'Ĩ' | 'Ī' | 'Ĭ' | 'Į' | 'İ' => "I",
        'ì'..='ï' | 'ĩ' | 'ī' | 'ĭ' | 'į' | 'ı' => "i",
        'Ĵ' => "J",
        'ĵ' => "j",
        'Ķ' => "K",
        'ķ' => "k",
        'Ĺ' | 'Ļ' | 'Ľ' | 'Ŀ' | 'Ł' => "L",
        'ĺ' | 'ļ' | 'ľ' | 'ŀ' | 'ł' => "l",
        'Ñ' | 'Ń' | 'Ņ' | 'Ň' => "N",
        'ñ' | 'ń' | 'ņ' | 'ň' => "n",
        'Ò'..='Ö' | 'Ø' | 'Ō' | 'Ŏ' | 'Ő' => "O",
        'ò'..='ö' | 'ø' | 'ō' | 'ŏ' | 'ő' => "o",
        'Œ' => "OE",
        'œ' => "oe",
        'Ŕ' | 'Ŗ' | 'Ř' => "R",
        'ŕ' | 'ŗ' | 'ř' => "r",
        'Ś' | 'Ŝ' | 'Ş' | 'Š' | 'Ș' => "S",
        'ś' | 'ŝ' | 'ş' | 'š' | 'ș' => "s",
        'ß' => "ss",
        'Ţ' | 'Ť' | 'Ŧ' | 'Ț' => "T",
        'ţ' | 'ť' | 'ŧ' | 'ț' => "t",
        'Ù'..='Ü' | 'Ũ' | 'Ū' | 'Ŭ' | 'Ů' | 'Ű' | 'Ų' => "U",
        'ù'..='ü' | 'ũ' | 'ū' | 'ŭ' | 'ů' | 'ű' | 'ų' => "u",
        'Ŵ' => "W",
        'ŵ' => "w",
        'Ý' | 'Ŷ' | 'Ÿ' => "Y",
        'ý' | 'ÿ' | 'ŷ' => "y",
        'Ź' | 'Ż' | 'Ž' => "Z",
        'ź' | 'ż' | 'ž' => "z",
        _ => "",
    };
    let mark = ('\u{300}'..='\u{36f}').contains(&c);
    let own = if text.is_empty() && !mark { Some(c) } else { None };
    text.chars().chain(own)
}

/// `nulls` with the rows of `more` null too.
fn without(nulls: Option<&NullBuffer>, more: &[usize], len: usize) -> Option<NullBuffer> {
    if more.is_empty() {
        return nulls.cloned();
    }
    let mut bits = MutableBuffer::new(0);
    match nulls {
        // A sliced buffer starts within a byte; `sliced` realigns it.
        Some(nulls) => bits.extend_from_slice(nulls.inner().sliced().as_slice()),
        None => bits.resize(bit_util::ceil(len, 8), 0xff),
    }
    for row in more {
        bit_util::unset_bit(bits.as_slice_mut(), *row);
    }
    Some(NullBuffer::new(BooleanBuffer::new(bits.into(), 0, len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(array: &StringViewArray) -> Vec<Option<&str>> {
        array.iter().collect()
    }

    #[test]
    fn trimming_shares_the_buffer_and_nulls_are_added() {
        let long = "  a text that is longer than twelve  ";
        let input = StringViewArray::from(vec![Some(long), Some("  ab "), None, Some(" - "), Some("\u{a0}x\u{a0}"), Some("   ")]);
        let recipe = Recipe { trim: true, null_if: vec![b"-".as_slice().into(), b"".as_slice().into()], ..Recipe::default() };
        let out = clean(&input, &recipe);
        assert_eq!(texts(&out), [Some(long.trim()), Some("ab"), None, None, Some("x"), None]);
        assert_eq!(out.data_buffers().len(), input.data_buffers().len());
        // A slice has views and nulls that start elsewhere.
        let slice = clean(&input.slice(1, 4), &recipe);
        assert_eq!(texts(&slice), [Some("ab"), None, None, Some("x")]);
        slice.to_data().validate_full().unwrap();
    }

    #[test]
    fn case_changes_short_and_long_ascii_or_not() {
        let input = StringViewArray::from(vec!["ABC", "A LONG TEXT IN UPPER CASE", "ÁÉ ÍÓÚ ÇÃÕ ABCDEF", "already lower, and long"]);
        let out = clean(&input, &Recipe { case: Some(Case::Lower), ..Recipe::default() });
        assert_eq!(
            texts(&out),
            [Some("abc"), Some("a long text in upper case"), Some("áé íóú çãõ abcdef"), Some("already lower, and long")]
        );
        out.to_data().validate_full().unwrap();
        let out = clean(&input, &Recipe { unaccent: true, collapse: true, case: Some(Case::Title), ..Recipe::default() });
        assert_eq!(texts(&out)[2], Some("Ae Iou Cao Abcdef"));
    }
}
