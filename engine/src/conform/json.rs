//! A walk over the text of a JSON value: members, elements and leaves as slices of it, so that numbers keep their digits
//! (a parsed float would not).

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// Whether the text is one whole JSON value. The walks below expect that it is.
pub fn valid(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Gives each member's key and the text of its value; `false` when the value is no object, or a key is no text.
pub fn members<'a>(text: &'a str, mut each: impl FnMut(Cow<'a, str>, &'a str)) -> bool {
    let Some(mut rest) = text.trim_ascii().strip_prefix('{') else { return false };
    loop {
        rest = rest.trim_ascii_start();
        if !rest.starts_with('"') {
            return rest.starts_with('}');
        }
        let (key, after) = rest.split_at(value_len(rest));
        let Some(key) = unquoted(key) else { return false };
        let Some(after) = after.trim_ascii_start().strip_prefix(':') else { return false };
        let after = after.trim_ascii_start();
        let (value, after) = after.split_at(value_len(after));
        each(key, value);
        let after = after.trim_ascii_start();
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// Gives the text of each element; `false` when the value is no array.
pub fn elements<'a>(text: &'a str, mut each: impl FnMut(&'a str)) -> bool {
    let Some(mut rest) = text.trim_ascii().strip_prefix('[') else { return false };
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() || rest.starts_with(']') {
            return !rest.is_empty();
        }
        let (value, after) = rest.split_at(value_len(rest));
        each(value);
        let after = after.trim_ascii_start();
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// The text of a leaf as a CSV would hold it: strings without their quotes, `null` as nothing, all else as written.
/// `Err` when a string has no text (a lone surrogate).
pub fn leaf(value: &str) -> Result<Option<Cow<'_, str>>, ()> {
    if value == "null" {
        return Ok(None);
    }
    if value.starts_with('"') {
        return unquoted(value).map(Some).ok_or(());
    }
    Ok(Some(Cow::Borrowed(value)))
}

/// Length of the value at the start of a valid text.
fn value_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(b'"') => string_len(bytes),
        Some(b'{' | b'[') => {
            let (mut depth, mut at) = (0usize, 0);
            while let Some(b) = bytes.get(at) {
                match b {
                    b'"' => at += string_len(&bytes[at..]),
                    b'{' | b'[' => {
                        depth += 1;
                        at += 1;
                    }
                    b'}' | b']' => {
                        depth -= 1;
                        at += 1;
                        if depth == 0 {
                            return at;
                        }
                    }
                    _ => at += 1,
                }
            }
            at
        }
        _ => bytes.iter().position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')).unwrap_or(bytes.len()).max(1),
    }
}

/// Length of the string at the start, quotes included.
fn string_len(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

fn unquoted(quoted: &str) -> Option<Cow<'_, str>> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(quoted).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members_of(text: &str) -> Option<Vec<(String, String)>> {
        assert!(valid(text), "{text}");
        let mut found = vec![];
        members(text, |k, v| found.push((k.into_owned(), v.to_owned()))).then_some(found)
    }

    fn elements_of(text: &str) -> Option<Vec<String>> {
        assert!(valid(text), "{text}");
        let mut found = vec![];
        elements(text, |v| found.push(v.to_owned())).then_some(found)
    }

    #[test]
    fn members_and_elements_are_slices() {
        let text = " { \"a\" : 1.10 , \"b\\\"}\":{\"x\":[1,\"]}\\\\\"]},\"c\":[ ],\"d\":null , \"e\": -1e5 }";
        let expected = [("a", "1.10"), ("b\"}", "{\"x\":[1,\"]}\\\\\"]}"), ("c", "[ ]"), ("d", "null"), ("e", "-1e5")];
        let expected: Vec<_> = expected.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        assert_eq!(members_of(text), Some(expected));
        assert_eq!(members_of("{}"), Some(vec![]));
        assert_eq!(members_of("[1]"), None);
        assert_eq!(members_of("5"), None);
        assert_eq!(
            elements_of("[1, [2,3] ,\"a,b\",{\"k\":1}]"),
            Some(vec!["1".into(), "[2,3]".into(), "\"a,b\"".into(), "{\"k\":1}".into()])
        );
        assert_eq!(elements_of("[ ]"), Some(vec![]));
        assert_eq!(elements_of("{\"a\":1}"), None);
    }

    #[test]
    fn leaves_lose_their_quotes_only() {
        assert_eq!(leaf("\"a\\n\\u00e9\"").unwrap().as_deref(), Some("a\né"));
        assert_eq!(leaf("12.50").unwrap().as_deref(), Some("12.50"));
        assert_eq!(leaf("null"), Ok(None));
        assert_eq!(leaf("\"null\"").unwrap().as_deref(), Some("null"));
        assert_eq!(leaf("\"\\ud800\""), Err(()));
    }
}
