//! What decoding errors say: in the words of the language, with the remedy for the usual slips.

use super::NodeDe;
use crate::diagnostic::{Diagnostic, did_you_mean, listing};
use crate::yaml::{Kind, Span, Style, Value};

impl NodeDe<'_> {
    /// "expected X, found Y", with the remedy for the usual slips.
    pub(super) fn mismatch(&self, expected: &str) -> Diagnostic {
        let expected = plain_words(expected);
        let spot = self.node.spot(self.key);
        let subject = self.name().map(|n| format!("`{n}`: ")).unwrap_or_default();
        let found = self.describe();
        let mut diagnostic =
            Diagnostic::error(spot, format!("{subject}expected {expected}, found {found}")).label(format!("expected {expected}"));
        if let Kind::Secret(_) = self.node.kind {
            return Diagnostic::error(spot, format!("{subject}a secret cannot stand here"))
                .label(format!("expected {expected}"))
                .help("secrets are only taken where the language asks for one, as `keys:` does");
        }
        if expected.starts_with("a list") && matches!(self.node.kind, Kind::Map(_)) {
            diagnostic = diagnostic.help("start each item with `-`, or write [a, b]");
        } else if let Some(text) = self.node.text().filter(|t| !t.is_empty()) {
            let plain = self.node.scalar().is_some_and(|s| s.style == Style::Plain);
            if expected.starts_with("a list") && !text.contains('\n') {
                diagnostic = diagnostic.help(format!("write it as a list: `[{text}]`"));
            } else if expected.starts_with("`true`") && ["yes", "on", "y"].contains(&text.to_lowercase().as_str()) {
                diagnostic = diagnostic.help(format!("in YAML 1.2 `{text}` is just text; write `true`"));
            } else if expected.starts_with("`true`") && ["no", "off", "n"].contains(&text.to_lowercase().as_str()) {
                diagnostic = diagnostic.help(format!("in YAML 1.2 `{text}` is just text; write `false`"));
            } else if expected.contains("number") && !plain && text.parse::<f64>().is_ok() {
                diagnostic = diagnostic.help(format!("remove the quotes: `{text}`"));
            } else if expected.contains("number") && text.replace(['_', ','], "").parse::<u64>().is_ok() && text.contains(['_', ',']) {
                diagnostic = diagnostic.help(format!("write digits only: `{}`", text.replace(['_', ','], "")));
            }
        }
        diagnostic
    }

    pub(super) fn describe(&self) -> String {
        if self.bare {
            return "nothing".to_owned();
        }
        match &self.node.kind {
            Kind::List(items) if items.is_empty() => "an empty list".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(entries) if entries.is_empty() => "an empty map".to_owned(),
            Kind::Map(_) => "a map".to_owned(),
            Kind::Secret(_) => "a secret".to_owned(),
            // The value of a variable is not shown: it may be what somebody keeps out of the file.
            Kind::Scalar(scalar) if scalar.replaced.is_some() => "another value in the variable".to_owned(),
            Kind::Scalar(scalar) => match scalar.value() {
                Value::Null if scalar.text.is_empty() => "nothing".to_owned(),
                Value::Null => format!("`{}`", scalar.text),
                Value::Bool(value) => format!("`{value}`"),
                Value::Int(_) | Value::Float(_) => format!("the number {}", scalar.text),
                Value::Text(text) if text.chars().count() <= 40 && !text.contains('\n') => format!("the string \"{text}\""),
                Value::Text(_) => "a string".to_owned(),
            },
        }
    }

    pub(super) fn unknown_key(&self, ty: &str, span: Span, name: &str, known: impl Iterator<Item = &'static str> + Clone) -> Diagnostic {
        let owner = self.name().map(|n| format!(" in `{n}`")).unwrap_or_default();
        if self.context.is_unavailable(ty, name) {
            return unavailable(span, name);
        }
        let diagnostic = Diagnostic::error(span, format!("unknown key `{name}`{owner}"));
        let colon = name.split_once(':').filter(|(key, _)| known.clone().any(|k| k == *key));
        let diagnostic = match (colon, did_you_mean(name, known.clone())) {
            (Some((key, value)), _) => diagnostic.label(format!("did you mean `{key}: {value}`, with a space?")),
            (None, Some(near)) => diagnostic.label(format!("did you mean `{near}`?")),
            (None, None) => diagnostic.label("not known here"),
        };
        if known.clone().next().is_none() { diagnostic } else { diagnostic.help(format!("known keys: {}", listing(known))) }
    }

    pub(super) fn unknown_variant(&self, ty: &str, span: Span, name: &str, known: &'static [&'static str]) -> Diagnostic {
        let (noun, plural) = match ty {
            "Step" => ("step", "steps"),
            "Check" => ("check", "checks"),
            "SourceSpec" => ("kind of source", "kinds"),
            "WriteSpec" => ("write mode", "write modes"),
            ty if ty.contains("Mask") => ("mask", "masks"),
            ty if ty.starts_with("Fill") => ("way to fill", "ways"),
            _ => ("value", "values"),
        };
        if self.context.is_unavailable(ty, name) {
            return unavailable(span, name);
        }
        let place = self.name().filter(|_| noun == "value").map(|n| format!(" for `{n}`")).unwrap_or_default();
        let diagnostic = Diagnostic::error(span, format!("unknown {noun} `{name}`{place}"));
        let diagnostic = match did_you_mean(name, known.iter().copied()) {
            Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
            None => diagnostic.label(format!("not a known {noun}")),
        };
        diagnostic.help(format!("known {plural}: {}", listing(known.iter().copied())))
    }
}

/// `&'static` texts of serde and of the derived visitors, in the words of this language.
fn plain_words(expected: &str) -> String {
    let unsigned = |bits: u32| format!("a whole number from 0 to {}", u64::MAX >> (64 - bits));
    match expected {
        "a sequence" => "a list".to_owned(),
        "a boolean" | "bool" => "`true` or `false`".to_owned(),
        "u8" => unsigned(8),
        "u16" => unsigned(16),
        "u32" => unsigned(32),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "str" | "string" => "a string".to_owned(),
        other if other.starts_with("struct ") || other.starts_with("map") => "a map".to_owned(),
        other if other.starts_with("unit") => "nothing".to_owned(),
        other => other.to_owned(),
    }
}

fn unavailable(span: Span, name: &str) -> Diagnostic {
    Diagnostic::error(span, format!("`{name}` is not available in this version")).label("planned, not built yet").help("remove it")
}
