//! `redact`: characters replaced one by one, or the whole text by a fixed one.

use std::sync::Arc;

use arrow::array::{Array, StringViewArray, StringViewBuilder};
use arrow::datatypes::DataType;
use datafusion::common::{exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit, when};

use super::tokenize::mask_views;
use super::{Column, TextMask, constant_int, constant_text};
use crate::error::Complaint;
use crate::steps::expression::column as named;

/// Replaces characters by `*`, keeping some at either end, or the whole value by a fixed text. A value that is not longer than what
/// would be kept is replaced whole, so that short values never stand in clear.
///
/// ```yaml
/// card: {redact: {keep_last: 4}}
/// comment: {redact: {text: "[removed]"}}
/// ```
#[derive(Debug, Clone, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redact {
    /// Characters kept at the beginning.
    #[serde(default)]
    pub keep_first: u16,
    /// Characters kept at the end.
    #[serde(default)]
    pub keep_last: u16,
    /// A text that stands for every value. It goes alone, without the other keys.
    pub text: Option<String>,
    /// The character written for each replaced one, `*` by default.
    pub char: Option<String>,
}

impl Redact {
    pub(super) fn expression(&self, column: Column<'_>) -> Result<Expr, Vec<Complaint>> {
        let mut found = vec![];
        if self.text.is_some() && (self.keep_first > 0 || self.keep_last > 0 || self.char.is_some()) {
            found.push(
                column
                    .complaint(&["redact", "text"], "a fixed text replaces everything, so nothing can be kept")
                    .help("give either text, or keep_first, keep_last and char"),
            );
        }
        if self.char.as_deref().is_some_and(|c| c.chars().count() != 1) {
            found.push(column.complaint(&["redact", "char"], "char is one character").help("for a fixed text write `text`"));
        }
        if !matches!(column.ty, DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8) {
            found.extend(column.wrong_type("redact", "strings"));
        }
        if !found.is_empty() {
            return Err(found);
        }
        if let Some(text) = &self.text {
            let fixed = Expr::Literal(datafusion::common::ScalarValue::Utf8View(Some(text.clone())), None);
            return when(named(column.name).is_not_null(), fixed).end().map_err(|e| vec![column.complaint(&["redact"], e.to_string())]);
        }
        let text = column.as_text().unwrap_or_else(|| named(column.name));
        let (first, last) = (i64::from(self.keep_first), i64::from(self.keep_last));
        Ok(udf().call(vec![text, lit(first), lit(last), lit(self.char.as_deref().unwrap_or("*"))]))
    }

    pub(super) fn text(&self) -> TextMask {
        if let Some(text) = self.text.clone() {
            return Arc::new(move |_| Some(text.clone()));
        }
        let (first, last) = (usize::from(self.keep_first), usize::from(self.keep_last));
        let char = self.char.as_deref().and_then(|c| c.chars().next()).unwrap_or('*');
        Arc::new(move |value| {
            let mut out = String::new();
            redact(value, first, last, char, &mut out);
            Some(out)
        })
    }
}

/// `redact(value, keep_first, keep_last [, 'char'])`.
pub fn udf() -> ScalarUDF {
    ScalarUDF::from(RedactFunction { signature: Signature::variadic_any(Volatility::Immutable) })
}

fn redact(value: &str, first: usize, last: usize, char: char, out: &mut String) {
    let length = if value.is_ascii() { value.len() } else { value.chars().count() };
    let keeps = first + last < length;
    for (i, c) in value.chars().enumerate() {
        let kept = keeps && (i < first || i >= length - last);
        out.push(if kept { c } else { char });
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RedactFunction {
    signature: Signature,
}

impl ScalarUDFImpl for RedactFunction {
    fn name(&self) -> &str {
        "redact"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, args: &[DataType]) -> datafusion::error::Result<DataType> {
        match args {
            [value, _, _] | [value, _, _, _] if value.is_string() || *value == DataType::Null => Ok(DataType::Utf8View),
            _ => plan_err!("redact takes a string, the characters to keep at its beginning and end, and perhaps the character to write"),
        }
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion::error::Result<ColumnarValue> {
        let keep = |i| match constant_int(&args.args, i, "redact")? {
            Some(n) if n >= 0 => Ok(n as usize),
            _ => exec_err!("redact: the number of characters to keep is not negative"),
        };
        let (first, last) = (keep(1)?, keep(2)?);
        let char = constant_text(&args.args, 3, "redact")?.and_then(|c| c.chars().next()).unwrap_or('*');
        mask_views(&args, |values| {
            let mut out = StringViewBuilder::with_capacity(values.len());
            let mut scratch = String::new();
            for value in values {
                match value {
                    None => out.append_null(),
                    Some(value) => {
                        scratch.clear();
                        redact(value, first, last, char, &mut scratch);
                        out.append_value(&scratch);
                    }
                }
            }
            Ok::<StringViewArray, _>(out.finish())
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::steps::testing::*;

    #[tokio::test]
    async fn ends_are_kept_and_short_values_go_whole() {
        let values = [Some("4111111111111111"), Some("abc"), None, Some("São João")];
        let columns = [("a", text(&values)), ("b", text(&values))];
        let json = r#"[{"mask": {"a": {"redact": {"keep_first": 1, "keep_last": 2}}, "b": {"redact": {"text": "[gone]"}}}}]"#;
        let out = run_over(json, &columns).await.unwrap();
        assert_eq!(out, "a,b\n4*************11,[gone]\n***,[gone]\n,\nS*****ão,[gone]\n");
    }

    #[tokio::test]
    async fn text_and_characters_exclude_each_other() {
        let found = complaints(r#"[{"mask": {"name": {"redact": {"text": "x", "char": "ab"}}}}]"#).await;
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
