//! `matches`: a text must match a regular expression.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::common::{exec_datafusion_err, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast, lit,
};
use parking_lot::Mutex;
use regex::bytes::Regex;

use super::{Finding, Plan, unless};
use crate::error::{Complaint, Result};
use crate::steps::config::Ruled;
use crate::steps::expression::{column, field, in_words, is_text};
use crate::steps::{Scope, verdict};

/// The text must match the regular expression (Rust's syntax) somewhere; `^` and `$` tie it to the ends. NULL passes.
///
/// ```yaml
/// - matches: {zip: "^[0-9]{5}$", on_fail: warn}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Matches(pub Ruled<String>);

#[async_trait]
impl Plan for Matches {
    async fn plan(&self, input: LogicalPlan, _scope: &Scope<'_>) -> Result<(LogicalPlan, Vec<Finding>)> {
        let mut complaints = vec![];
        let mut findings = vec![];
        for (name, pattern) in &self.0.rules {
            let path = ["matches", name];
            let text = match field(input.schema(), name, &path) {
                Ok(f) if *f.data_type() == DataType::Utf8View => column(name),
                Ok(f) if is_text(f.data_type()) => cast(column(name), DataType::Utf8View),
                Ok(f) => {
                    let message = format!("`{name}` is of type {}, and matches takes text", in_words(f.data_type()));
                    complaints.push(Complaint::at(path, message).help("use range or in_set, or `expect` with a cast"));
                    continue;
                }
                Err(complaint) => {
                    complaints.push(complaint);
                    continue;
                }
            };
            if let Err(e) = Regex::new(pattern) {
                // The parser's message draws the pattern; its last line says what is wrong.
                let why = e.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                complaints.push(
                    Complaint::at(path, format!("the regular expression cannot be read: {why}"))
                        .help("put a backslash before characters that stand for themselves"),
                );
                continue;
            }
            findings.push(Finding {
                column: name.clone(),
                rule: "matches".into(),
                message: format!("the value does not match {pattern}"),
                on_fail: self.0.on_fail,
                broken: unless(ScalarUDF::from(MatchesFunction::new()).call(vec![text, lit(pattern.as_str())])),
            });
        }
        verdict(complaints)?;
        Ok((input, findings))
    }
}

/// `matches_pattern(text, 'pattern')`. DataFusion's own operator compiles the pattern anew for each batch; this one keeps the last.
#[derive(Debug)]
struct MatchesFunction {
    signature: Signature,
    compiled: Mutex<Option<Arc<Regex>>>,
}

impl MatchesFunction {
    fn new() -> Self {
        MatchesFunction { signature: Signature::any(2, Volatility::Immutable), compiled: Mutex::new(None) }
    }

    fn compiled(&self, pattern: &str) -> datafusion::error::Result<Arc<Regex>> {
        let mut kept = self.compiled.lock();
        match &*kept {
            Some(regex) if regex.as_str() == pattern => Ok(Arc::clone(regex)),
            _ => {
                let regex = Arc::new(Regex::new(pattern).map_err(|e| exec_datafusion_err!("{e}"))?);
                *kept = Some(Arc::clone(&regex));
                Ok(regex)
            }
        }
    }
}

// What it keeps is a cache: all of them are equal.
impl PartialEq for MatchesFunction {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for MatchesFunction {}
impl Hash for MatchesFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl ScalarUDFImpl for MatchesFunction {
    fn name(&self) -> &str {
        "matches_pattern"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _args: &[DataType]) -> datafusion::error::Result<DataType> {
        Ok(DataType::Boolean)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion::error::Result<ColumnarValue> {
        let Some(ColumnarValue::Scalar(pattern)) = args.args.get(1) else {
            return exec_err!("matches_pattern takes a constant pattern");
        };
        let regex = self.compiled(pattern.try_as_str().flatten().unwrap_or_default())?;
        let array = args.args[0].to_array(args.number_rows)?;
        let texts = array.as_string_view();
        // NULLs are views of length 0: testing them costs less than asking.
        let values = BooleanBuffer::collect_bool(texts.len(), |i| regex.is_match(texts.value(i).as_bytes()));
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::new(values, texts.nulls().cloned()))))
    }
}

#[cfg(test)]
mod tests {
    use crate::checks::testing::{complaints, flagged};
    use crate::steps::testing::{ints, text};

    #[tokio::test]
    async fn patterns_search_unless_tied() {
        let columns = [("zip", text(&[Some("04538"), Some("4538"), None, Some("x04538")])), ("n", ints(&[Some(1); 4]))];
        let (rows, flags) =
            flagged(r#"[{"matches": {"zip": "^[0-9]{5}$", "on_fail": "warn"}}, {"matches": {"zip": "[0-9]{5}"}}]"#, &columns).await;
        assert_eq!(rows, ["..", "xx", "..", "x."]);
        assert!(flags[0].message.contains("^[0-9]{5}$"));
        let found = complaints(r#"[{"matches": {"zip": "[0-9", "n": "1"}}]"#, &columns).await;
        assert_eq!(found.len(), 2);
        assert!(found[0].message.contains("unclosed character class"), "{found:?}");
    }
}
