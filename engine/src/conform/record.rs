//! The record of a refused row: its rules, and its raw fields as one JSON object, bounded in size.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Bytes that the raw text of one row may take in the quarantine.
const LIMIT: usize = 64 * 1024;

/// One rule that a row broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Broken<'a> {
    /// `None` where the whole line is meant.
    #[serde(borrow)]
    pub column: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub rule: Cow<'a, str>,
    #[serde(borrow)]
    pub message: Cow<'a, str>,
}

/// `{"column": "text", ...}`. Where the whole would be too long, each value is cut and marked.
pub(crate) fn record(fields: &[(&str, Option<Cow<'_, str>>)]) -> String {
    let whole = object(fields, usize::MAX);
    if whole.len() <= LIMIT { whole } else { object(fields, (LIMIT / 2 / fields.len().max(1)).max(64)) }
}

/// A text of at most 64 KB, marked where it was cut.
pub(crate) fn bounded(text: &str) -> Cow<'_, str> {
    cut(text, LIMIT)
}

fn object(fields: &[(&str, Option<Cow<'_, str>>)], limit: usize) -> String {
    let mut out = String::from("{");
    for (i, (name, value)) in fields.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        push_text(&mut out, name);
        out.push(':');
        match value {
            Some(text) => push_text(&mut out, &cut(text, limit)),
            None => out.push_str("null"),
        }
    }
    out.push('}');
    out
}

fn push_text(out: &mut String, text: &str) {
    // Text always has a JSON form.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

fn cut(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}… [cut, {} bytes in all]", &text[..text.floor_char_boundary(limit)], text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_json_and_bounded() {
        let fields = [("a\"b", Some(Cow::Borrowed("x\ny"))), ("n", None)];
        assert_eq!(record(&fields), "{\"a\\\"b\":\"x\\ny\",\"n\":null}");
        let long = "é".repeat(5_000_000);
        let text = record(&[("long", Some(Cow::Borrowed(&long))), ("short", Some("s".into()))]);
        assert!(text.len() < 70_000);
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(back["long"].as_str().unwrap().ends_with("… [cut, 10000000 bytes in all]"));
        assert_eq!(back["short"], "s");
        assert!(bounded(&long).len() < 66_000);
    }
}
