//! `in_set`: a value must be one of a list.

use async_trait::async_trait;
use datafusion::logical_expr::LogicalPlan;

use super::{Finding, Plan, constant, unless};
use crate::error::{Complaint, Result};
use crate::steps::config::Ruled;
use crate::steps::expression::{column, field};
use crate::steps::{Scope, verdict};

/// The column's value must be one of the list, written as the column's type demands. NULL passes.
///
/// ```yaml
/// - in_set: {status: [delivered, shipped, canceled], on_fail: warn}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct InSet(pub Ruled<Vec<String>>);

#[async_trait]
impl Plan for InSet {
    async fn plan(&self, input: LogicalPlan, _scope: &Scope<'_>) -> Result<(LogicalPlan, Vec<Finding>)> {
        let mut complaints = vec![];
        let mut findings = vec![];
        for (name, values) in &self.0.rules {
            let f = match field(input.schema(), name, &["in_set", name]) {
                Ok(f) => f,
                Err(complaint) => {
                    complaints.push(complaint);
                    continue;
                }
            };
            if values.is_empty() {
                complaints.push(
                    Complaint::at(["in_set", name], "the list is empty, so no value could pass").help("list the values that may occur"),
                );
                continue;
            }
            let mut constants = vec![];
            for (i, value) in values.iter().enumerate() {
                match constant(value, f, &["in_set", name, &i.to_string()]) {
                    Ok(c) => constants.push(c),
                    Err(complaint) => complaints.push(complaint),
                }
            }
            findings.push(Finding {
                column: name.clone(),
                rule: "in_set".into(),
                message: format!("the value is none of the {} allowed", values.len()),
                on_fail: self.0.on_fail,
                broken: unless(column(name).in_list(constants, false)),
            });
        }
        verdict(complaints)?;
        Ok((input, findings))
    }
}

#[cfg(test)]
mod tests {
    use crate::checks::testing::{complaints, flagged};
    use crate::steps::testing::{ints, text};

    #[tokio::test]
    async fn values_are_of_the_columns_type() {
        let columns = [("a", text(&[Some("x"), Some("1"), None, Some("y")])), ("b", ints(&[Some(1), Some(7), None, Some(2)]))];
        let (rows, flags) = flagged(r#"[{"in_set": {"a": ["x", "1"], "b": ["1", "2"]}}]"#, &columns).await;
        assert_eq!(rows, ["..", ".x", "..", "x."]);
        assert_eq!(flags[1].message, "the value is none of the 2 allowed");
        let found = complaints(r#"[{"in_set": {"b": ["1", "two"], "a": []}}]"#, &columns).await;
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].place.path, ["0", "in_set", "b", "1"]);
    }
}
