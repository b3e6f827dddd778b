//! Recognises a person in a record of quarantine: by the fields of its JSON, or where it is no JSON, by the value as a word of the line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::DataType;
use datafusion::logical_expr::{ColumnarValue, Expr, Volatility, create_udf};
use serde_json::Value;
use smelt_engine::steps::expression::column;

/// What a field may hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Field {
    pub texts: BTreeSet<String>,
    /// Compare as whole numbers: `0042` is 42.
    pub whole: bool,
    /// The table folds upper and lower case together.
    pub fold: bool,
}

/// The forms in which the persons may stand in the records of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matcher {
    pub fields: BTreeMap<String, Field>,
    /// For lines that are no record.
    pub words: BTreeSet<String>,
}

impl Matcher {
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.words.is_empty()
    }

    /// Adds a form to a field, brought to what is compared.
    pub fn add(&mut self, field: &str, text: &str, whole: bool, fold: bool) {
        let entry = self.fields.entry(field.to_owned()).or_default();
        (entry.whole, entry.fold) = (entry.whole || whole, entry.fold || fold);
        entry.texts.insert(text.trim().to_owned());
    }

    /// Whether the record is of one of the persons.
    pub fn matches(&self, raw: &str) -> bool {
        match serde_json::from_str::<Value>(raw) {
            Ok(Value::Object(record)) => self.fields.iter().any(|(name, field)| record.get(name).is_some_and(|v| field.holds(v))),
            _ => self.words.iter().any(|word| has_word(raw, word)),
        }
    }

    /// The condition on the column `raw` of a quarantine table.
    pub fn predicate(self: Arc<Self>) -> Expr {
        let function = move |args: &[ColumnarValue]| {
            let raw: ArrayRef = args[0].to_array(1)?;
            let raw = arrow::compute::cast(&raw, &DataType::Utf8View)?;
            let found: BooleanArray = raw.as_string_view().iter().map(|text| Some(text.is_some_and(|t| self.matches(t)))).collect();
            debug_assert_eq!(found.len(), raw.len());
            Ok(ColumnarValue::Array(Arc::new(found)))
        };
        let udf = create_udf("names_person", vec![DataType::Utf8View], DataType::Boolean, Volatility::Volatile, Arc::new(function));
        udf.call(vec![column("raw")])
    }
}

impl Field {
    fn holds(&self, value: &Value) -> bool {
        let text = match value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => return false,
        };
        self.forms(&text).iter().any(|form| self.texts.contains(form))
            || (self.fold && self.texts.iter().any(|t| t.to_lowercase() == text.to_lowercase()))
    }

    /// The forms in which a text of this field is looked up.
    pub fn forms(&self, text: &str) -> Vec<String> {
        let mut forms = vec![text.to_owned()];
        if let (true, Ok(number)) = (self.whole, text.parse::<i128>()) {
            forms.push(number.to_string());
        }
        forms
    }
}

/// Whether `word` stands in `text` with no letter or digit beside it.
pub fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric();
    !word.is_empty()
        && text.match_indices(word).any(|(at, _)| {
            let (before, after) = (text[..at].chars().next_back(), text[at + word.len()..].chars().next());
            let open = |own: Option<char>, beside: Option<char>| !(own.is_some_and(part) && beside.is_some_and(part));
            open(word.chars().next(), before) && open(word.chars().next_back(), after)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_matched_by_field_and_lines_by_word() {
        let mut matcher = Matcher::default();
        matcher.add("id", "42", true, false);
        matcher.add("email", "ann@x.org", false, true);
        matcher.words.insert("42".into());
        for hit in [r#"{"id":"0042","n":1}"#, r#"{"id":42}"#, r#"{"id":" 42 "}"#, r#"{"email":"ANN@x.org"}"#, "42,SP,1", "a,\"42", "x;42;"]
        {
            assert!(matcher.matches(hit), "{hit}");
        }
        for miss in [r#"{"id":"420"}"#, r#"{"n":"42"}"#, r#"{"id":null}"#, r#"{"email":"ann@x.or"}"#, "142,SP", "a42", "[1]"] {
            assert!(!matcher.matches(miss), "{miss}");
        }
        assert!(has_word("mail ann@x.org;", "ann@x.org") && !has_word("joann@x.org", "ann@x.org"));
    }
}
