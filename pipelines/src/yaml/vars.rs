//! `${VAR}`, `${VAR:-default}`, `$${` and `${secret:…}` in scalars.
//!
//! Secrets are only recognised here: the node keeps the reference, and somebody else fetches the value when it is needed.

use super::node::{Kind, Node, Replaced, Scalar};
use super::source::{Sources, Span};
use super::text::written_at;
use crate::diagnostic::{Diagnostic, Diagnostics, listing};

/// What to do about a variable that is not set and has no default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unset {
    /// It is an error.
    #[default]
    Complain,
    /// Leave `${VAR}` as it stands, to check a pipeline where the variables of production are not at hand.
    Keep,
}

/// Replaces the references in all values below `root` (keys are left alone). `vars` gives the value of a variable.
pub fn interpolate(root: &mut Node, sources: &Sources, vars: &dyn Fn(&str) -> Option<String>, unset: Unset, diagnostics: &mut Diagnostics) {
    match &mut root.kind {
        Kind::List(items) => items.iter_mut().for_each(|item| interpolate(item, sources, vars, unset, diagnostics)),
        Kind::Map(entries) => entries.iter_mut().for_each(|(_, value)| interpolate(value, sources, vars, unset, diagnostics)),
        Kind::Scalar(scalar) if scalar.text.contains("${") => {
            let scalar = scalar.clone();
            if let Some(kind) = replace(root, &scalar, sources, vars, unset, diagnostics) {
                root.kind = kind;
            }
        }
        Kind::Scalar(_) | Kind::Secret(_) => {}
    }
}

fn replace(
    node: &Node,
    scalar: &Scalar,
    sources: &Sources,
    vars: &dyn Fn(&str) -> Option<String>,
    unset: Unset,
    diagnostics: &mut Diagnostics,
) -> Option<Kind> {
    let original = scalar.text.as_str();
    let place = |range: std::ops::Range<usize>| -> Span {
        sources.get(node.span.source).and_then(|source| written_at(source, node, scalar, range)).unwrap_or(node.head)
    };
    let (mut text, mut pieces, mut at) = (String::new(), vec![], 0);
    while let Some(found) = original[at..].find("${").map(|i| at + i) {
        if original[..found].ends_with('$') && found > at {
            // `$${` is `${`, literally.
            text.push_str(&original[at..found - 1]);
            pieces.push((text.len()..text.len() + 2, found - 1..found + 2));
            text.push_str("${");
            at = found + 2;
            continue;
        }
        text.push_str(&original[at..found]);
        let Some(close) = original[found..].find('}').map(|i| found + i) else {
            let line = original[found..].lines().next().unwrap_or("").len();
            diagnostics.push(
                Diagnostic::error(place(found..found + line), "this `${` is not closed")
                    .label("no `}` follows")
                    .help("write `${NAME}`; for a literal `${` write `$${`"),
            );
            return None;
        };
        let range = found..close + 1;
        let inner = &original[found + 2..close];
        if let Some(reference) = inner.strip_prefix("secret:") {
            return secret(reference, original, range, &place, diagnostics);
        }
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let wanted =
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !wanted {
            diagnostics.push(
                Diagnostic::error(place(range.clone()), format!("`{name}` is not the name of a variable"))
                    .label("letters, digits and `_` only")
                    .help("write `${NAME}`, `${NAME:-default}` or `${secret:env://NAME}`; for a literal `${` write `$${`"),
            );
            return None;
        }
        // As in a shell, `:-` also stands in for a variable that is set to nothing.
        let value = vars(name).filter(|v| default.is_none() || !v.is_empty()).or_else(|| default.map(str::to_owned));
        let value = match (value, unset) {
            (Some(value), _) => value,
            (None, Unset::Keep) => original[range.clone()].to_owned(),
            (None, Unset::Complain) => {
                diagnostics.push(
                    Diagnostic::error(place(range.clone()), format!("the environment variable `{name}` is not set"))
                        .label("not set")
                        .help(format!("set it (`export {name}=…`), or give a default: `${{{name}:-value}}`")),
                );
                original[range.clone()].to_owned()
            }
        };
        pieces.push((text.len()..text.len() + value.len(), range.clone()));
        text.push_str(&value);
        at = range.end;
    }
    text.push_str(&original[at..]);
    let replaced = Some(Box::new(Replaced { original: original.to_owned(), pieces }));
    Some(Kind::Scalar(Scalar { text, style: scalar.style, replaced }))
}

fn secret(
    reference: &str,
    original: &str,
    range: std::ops::Range<usize>,
    place: &dyn Fn(std::ops::Range<usize>) -> Span,
    diagnostics: &mut Diagnostics,
) -> Option<Kind> {
    let schemes = smelt_connectors::secrets::SCHEMES;
    let known = schemes.iter().any(|s| reference.strip_prefix(s).is_some_and(|rest| !rest.is_empty()));
    if !known {
        let scheme = reference.split("://").next().unwrap_or(reference);
        diagnostics.push(
            Diagnostic::error(place(range), format!("secrets of kind `{scheme}` are not available in this version"))
                .label("cannot be fetched")
                .help(format!("known kinds: {}, each followed by a name or a path", listing(schemes.iter().copied()))),
        );
        return None;
    }
    if original.trim() != &original[range.clone()] {
        diagnostics.push(
            Diagnostic::error(place(range), "a secret must be the whole value")
                .label("other text stands beside it")
                .help("keep the whole value, with what stands around the secret now, in the secret itself"),
        );
        return None;
    }
    Some(Kind::Secret(reference.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Value, parse};

    fn read(yaml: &str, unset: Unset) -> (Node, Diagnostics, Sources) {
        let mut sources = Sources::default();
        let id = sources.add("p.yaml", yaml);
        let mut diagnostics = Diagnostics::default();
        let mut root = parse(&sources, id, &mut diagnostics).unwrap();
        let vars = |name: &str| match name {
            "LAKE" => Some("s3://acme".to_owned()),
            "N" => Some("5".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        interpolate(&mut root, &sources, &vars, unset, &mut diagnostics);
        (root, diagnostics, sources)
    }

    #[test]
    fn variables_defaults_and_escapes() {
        let (root, diagnostics, _) = read(
            "a: ${LAKE}/x\nb: ${NOPE:-lake}\nc: ${EMPTY:-d}\nd: $${LAKE} costs $5\ne: {n: \"${N}\"}\nf: ${NOPE:-}\ng: ^[a-z]+$\n",
            Unset::Complain,
        );
        assert!(diagnostics.is_empty());
        let text = |key: &str| root.get(key).unwrap().text().unwrap().to_owned();
        assert_eq!([text("a"), text("b"), text("c")], ["s3://acme/x", "lake", "d"]);
        assert_eq!([text("d"), text("f"), text("g")], ["${LAKE} costs $5", "", "^[a-z]+$"]);
        assert_eq!(root.get("e").unwrap().get("n").unwrap().scalar().unwrap().value(), Value::Int(5));
    }

    #[test]
    fn secrets_stay_references() {
        let (root, diagnostics, _) = read("k: ${secret:env://PII}\nl: ' ${secret:file://a/b} '\n", Unset::Complain);
        assert!(diagnostics.is_empty());
        assert_eq!(root.get("k").unwrap().kind, Kind::Secret("env://PII".into()));
        assert_eq!(root.get("l").unwrap().kind, Kind::Secret("file://a/b".into()));
    }

    #[test]
    fn an_unset_variable_may_be_kept() {
        let (root, diagnostics, _) = read("k: a/${NOPE}\n", Unset::Keep);
        assert!(diagnostics.is_empty());
        assert_eq!(root.get("k").unwrap().text(), Some("a/${NOPE}"));
    }
}
