//! `not_null`: a value must be there.

use async_trait::async_trait;
use datafusion::logical_expr::LogicalPlan;

use super::{Finding, Plan};
use crate::error::Result;
use crate::steps::config::ColumnList;
use crate::steps::expression::{column, field};
use crate::steps::{Scope, verdict};

/// The columns must not be NULL.
///
/// ```yaml
/// - not_null: [order_id, customer_id]
/// - not_null: {columns: [score], on_fail: warn}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct NotNull(pub ColumnList);

#[async_trait]
impl Plan for NotNull {
    async fn plan(&self, input: LogicalPlan, _scope: &Scope<'_>) -> Result<(LogicalPlan, Vec<Finding>)> {
        let mut complaints = vec![];
        let mut findings = vec![];
        for (i, name) in self.0.columns.iter().enumerate() {
            complaints.extend(field(input.schema(), name, &["not_null", &i.to_string()]).err());
            findings.push(Finding {
                column: name.clone(),
                rule: "not_null".into(),
                message: "the value is missing".into(),
                on_fail: self.0.on_fail,
                broken: column(name).is_null(),
            });
        }
        verdict(complaints)?;
        Ok((input, findings))
    }
}

#[cfg(test)]
mod tests {
    use crate::checks::testing::flagged;
    use crate::steps::testing::text;

    #[tokio::test]
    async fn null_is_flagged_and_empty_text_is_not() {
        let (rows, flags) = flagged(r#"[{"not_null": ["a"]}]"#, &[("a", text(&[Some(""), None]))]).await;
        assert_eq!(rows, [".", "x"]);
        assert_eq!(flags[0].column, "a");
    }
}
