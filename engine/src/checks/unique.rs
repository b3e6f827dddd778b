//! `unique`: no two rows of a batch share a key.

use async_trait::async_trait;
use datafusion::common::ScalarValue;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, lit,
};

use super::{Finding, Plan};
use crate::error::{Complaint, Result};
use crate::steps::config::ColumnList;
use crate::steps::expression::{column, field};
use crate::steps::{Scope, verdict};

/// No two rows of the batch, after dedup, have the same values in these columns. All rows that share a key break the rule. Rows with a NULL
/// in the key pass, as in SQL.
///
/// ```yaml
/// - unique: [order_id]
/// - unique: {columns: [order_id, item], on_fail: fail}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Unique(pub ColumnList);

#[async_trait]
impl Plan for Unique {
    async fn plan(&self, input: LogicalPlan, _scope: &Scope<'_>) -> Result<(LogicalPlan, Vec<Finding>)> {
        let mut complaints = vec![];
        if self.0.columns.is_empty() {
            complaints.push(Complaint::at(["unique"], "the key has no columns").help("list the columns that make a row unique"));
        }
        for (i, name) in self.0.columns.iter().enumerate() {
            complaints.extend(field(input.schema(), name, &["unique", &i.to_string()]).err());
        }
        verdict(complaints)?;
        let keys: Vec<Expr> = self.0.columns.iter().map(|n| column(n)).collect();
        // In sorted order a row has a neighbour with its key exactly if it shares it: three rows at a time are enough, and memory stays bounded.
        let around = WindowFrame::new_bounds(
            WindowFrameUnits::Rows,
            WindowFrameBound::Preceding(ScalarValue::UInt64(Some(1))),
            WindowFrameBound::Following(ScalarValue::UInt64(Some(1))),
        );
        let neighbours = Expr::from(WindowFunction {
            fun: WindowFunctionDefinition::AggregateUDF(count_udaf()),
            params: WindowFunctionParams {
                args: vec![lit(1i64)],
                partition_by: keys.clone(),
                order_by: vec![],
                window_frame: around,
                filter: None,
                null_treatment: None,
                distinct: false,
            },
        });
        let name = neighbours.schema_name().to_string();
        let alone = input.schema().fields().iter().all(|f| *f.name() != name);
        let plan = if alone { LogicalPlanBuilder::window_plan(input, [neighbours])? } else { input };
        let whole = keys.into_iter().map(Expr::is_not_null).reduce(Expr::and).unwrap_or_else(|| lit(true));
        let finding = Finding {
            column: self.0.columns.join(","),
            rule: "unique".into(),
            message: "another row of the batch has the same key".into(),
            on_fail: self.0.on_fail,
            broken: whole.and(column(&name).gt(lit(1i64))),
        };
        Ok((plan, vec![finding]))
    }
}

#[cfg(test)]
mod tests {
    use crate::checks::testing::flagged;
    use crate::checks::{Check, plan_batch_checks};
    use crate::steps::testing::*;
    use datafusion::physical_plan::displayable;

    #[tokio::test]
    async fn all_that_share_a_key_are_flagged() {
        let columns = [
            ("a", ints(&[Some(1), Some(1), Some(1), Some(2), None, None])),
            ("b", text(&[Some("x"), Some("x"), Some("y"), Some("x"), None, None])),
        ];
        let (mut rows, _) = flagged(r#"[{"unique": ["a"]}, {"unique": ["a", "b"]}]"#, &columns).await;
        rows.sort();
        assert_eq!(rows, ["..", "..", "..", "x.", "xx", "xx"]);
    }

    #[tokio::test]
    async fn memory_stays_bounded() {
        let session = session();
        let checks: Vec<Check> = serde_json::from_str(r#"[{"unique": ["name"]}]"#).unwrap();
        let planned = plan_batch_checks(&checks, source(&session), &scope(&session)).await.unwrap();
        let plan = session.state().create_physical_plan(&planned.plan).await.unwrap();
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        assert!(shown.contains("BoundedWindowAggExec"), "{shown}");
    }
}
