//! The tree of a YAML document: every node knows where it was written.
//!
//! Invariants: keys are scalars, no key occurs twice in a map, aliases and merge keys are resolved (the copies keep the
//! places of the original). Knows nothing of pipelines.

use super::source::Span;

/// One value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub span: Span,
    /// The part of `span` on its first line: what a diagnostic marks.
    pub head: Span,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Scalar(Scalar),
    /// `${secret:…}`: the reference (`env://NAME`), never the value.
    Secret(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// After unquoting, folding and interpolation.
    pub text: String,
    pub style: Style,
    /// Present where `${…}` or `$${` were replaced.
    pub replaced: Option<Box<Replaced>>,
}

/// What interpolation did to a scalar.
#[derive(Debug, Clone, PartialEq)]
pub struct Replaced {
    /// The text before interpolation.
    pub original: String,
    /// Byte ranges in the new text, and the ranges of the original that they stand for; in order.
    pub pieces: Vec<(std::ops::Range<usize>, std::ops::Range<usize>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Single,
    Double,
    /// `|`
    Literal,
    /// `>`
    Folded,
}

/// A plain scalar as the YAML 1.2 core schema types it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(&'a str),
}

impl Scalar {
    /// Its value under the YAML 1.2 core schema: only plain scalars are anything but text, and `yes` and `no` are text.
    /// A quoted scalar that holds a `${…}` is typed like a plain one, since `{` forces the quotes inside `{…}` and `[…]`.
    pub fn value(&self) -> Value<'_> {
        if self.style != Style::Plain && self.replaced.is_none() {
            return Value::Text(&self.text);
        }
        if self.replaced.is_some() && self.text.is_empty() {
            return Value::Text("");
        }
        core(&self.text)
    }
}

impl Node {
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.kind {
            Kind::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        self.scalar().map(|s| s.text.as_str())
    }

    pub fn entries(&self) -> &[(Node, Node)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    /// The entry of a map with this key.
    pub fn entry(&self, key: &str) -> Option<&(Node, Node)> {
        self.entries().iter().find(|(k, _)| k.text() == Some(key))
    }

    /// The value of a map at this key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, value)| value)
    }

    pub fn is_null(&self) -> bool {
        self.scalar().is_some_and(|s| s.value() == Value::Null)
    }

    /// `{}` or `[]`.
    pub fn is_empty_collection(&self) -> bool {
        match &self.kind {
            Kind::List(items) => items.is_empty(),
            Kind::Map(entries) => entries.is_empty(),
            Kind::Scalar(_) | Kind::Secret(_) => false,
        }
    }

    /// Whether the node goes past the line it starts on.
    pub fn is_multiline(&self) -> bool {
        self.head != self.span
    }

    /// What a diagnostic about this value marks: the value, or its key where the value is empty or a block of several lines.
    pub fn spot(&self, key: Option<&Node>) -> Span {
        match key {
            Some(key) if self.span.is_empty() || (self.is_multiline() && self.scalar().is_none()) => key.span,
            _ => self.head,
        }
    }
}

/// The node at a path of keys and list indices, or its deepest ancestor that exists.
pub fn deepest<'n>(root: &'n Node, path: &[String]) -> (Option<&'n Node>, &'n Node, usize) {
    let (mut key, mut node) = (None, root);
    for (depth, step) in path.iter().enumerate() {
        let next = match &node.kind {
            Kind::Map(_) => node.entry(step).map(|(k, v)| (Some(k), v)),
            Kind::List(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)).map(|item| (None, item)),
            Kind::Scalar(_) | Kind::Secret(_) => None,
        };
        match next {
            Some(next) => (key, node) = next,
            None => return (key, node, depth),
        }
    }
    (key, node, path.len())
}

/// What to mark for the value at a path of keys and list indices; falls back to the deepest ancestor that exists.
pub fn locate(root: &Node, path: &[String]) -> Span {
    let (key, node, depth) = deepest(root, path);
    match (depth == path.len(), key) {
        (false, Some(key)) if node.scalar().is_none() => key.span,
        _ => node.spot(key),
    }
}

/// What to mark for the key at a path; the value where there is no key (list items), or its deepest ancestor.
pub fn locate_key(root: &Node, path: &[String]) -> Span {
    let (key, node, _) = deepest(root, path);
    key.map_or_else(|| node.spot(None), |key| key.span)
}

fn core(text: &str) -> Value<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let radix = |digits: &str, radix| i128::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with(['+', '-']));
    let int = match (text.strip_prefix("0o"), text.strip_prefix("0x")) {
        (Some(digits), _) => radix(digits, 8),
        (_, Some(digits)) => radix(digits, 16),
        _ => text.parse::<i128>().ok(),
    };
    if let Some(int) = int {
        return Value::Int(int);
    }
    // Rust also reads `inf`, `nan` and `infinity`; YAML does not.
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    match text.parse::<f64>() {
        Ok(float) if numeric => Value::Float(float),
        _ => Value::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        assert_eq!(core("~"), Value::Null);
        assert_eq!(core("True"), Value::Bool(true));
        for text in ["yes", "no", "on", "off", "y", "inf", "nan", "1_000", "12:30", "0x", "1.2.3", "+-1"] {
            assert_eq!(core(text), Value::Text(text));
        }
        assert_eq!(core("0o17"), Value::Int(15));
        assert_eq!(core("0xff"), Value::Int(255));
        assert_eq!(core("-12"), Value::Int(-12));
        assert_eq!(core("007"), Value::Int(7));
        assert_eq!(core("1e3"), Value::Float(1000.0));
        assert_eq!(core(".5"), Value::Float(0.5));
        assert_eq!(core("-.inf"), Value::Float(f64::NEG_INFINITY));
    }
}
