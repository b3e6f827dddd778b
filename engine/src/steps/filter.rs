//! `filter`: keeps the rows for which a predicate is true, and counts those that go (law 2).

use async_trait::async_trait;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};

use crate::error::{Error, Result};
use crate::steps::expression::{self, Allow};
use crate::steps::{Scope, Transform, points};
use crate::tally::tally;

/// Keeps the rows for which the SQL predicate is true; where it is false or NULL the row goes. The report shows how many.
///
/// ```yaml
/// - filter: "status <> 'test'"
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Filter(pub String);

#[async_trait]
impl Transform for Filter {
    async fn plan(&self, input: LogicalPlan, scope: &Scope<'_>) -> Result<LogicalPlan> {
        let keep = expression::predicate(scope.session, &self.0, input.schema(), Allow::Scalar, &["filter"]).map_err(Error::Pipeline)?;
        let points = points("filter", scope.step);
        let kept = LogicalPlanBuilder::from(tally(input, points.input)).filter(keep)?.build()?;
        Ok(tally(kept, points.output))
    }
}

#[cfg(test)]
mod tests {
    use crate::steps::tally_points;
    use crate::steps::testing::*;

    #[tokio::test]
    async fn rows_not_true_go_and_are_counted() {
        let yaml = r#"[{"rename": {"price": "p"}}, {"filter": "p > 1"}, {"filter": "true"}]"#;
        let (out, tallies) = run_counted(yaml).await.unwrap();
        assert_eq!(out, "name,p,_file,_line\n Bob ,2,f,2\ncy,4,f,4\n");
        let points = tally_points(&steps(yaml), 0);
        assert_eq!(points.len(), 2);
        assert_eq!((points[0].step, points[0].input.as_str()), (1, "filter:1:in"));
        assert_eq!(tallies[&points[0].input], 4);
        assert_eq!(tallies[&points[0].output], 2);
        assert_eq!(tallies[&points[1].output], 2);
    }

    #[tokio::test]
    async fn a_predicate_must_be_boolean() {
        let found = complaints(r#"[{"filter": "price + 1"}]"#).await;
        assert!(found[0].message.contains("not true or false"), "{found:?}");
    }
}
