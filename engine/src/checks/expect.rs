//! `expect`: an SQL expression must not be false, for each row or for the whole batch.

use std::collections::HashSet;
use std::sync::LazyLock;

use async_trait::async_trait;
use datafusion::logical_expr::LogicalPlan;

use super::{Finding, OnFail, Plan, unless};
use crate::error::{Error, Result};
use crate::steps::Scope;
use crate::steps::expression::{self, Allow};
use crate::steps::sql;

/// The SQL expression must not be false (NULL passes). Without aggregate functions it is about each row; with them about the batch,
/// and then `quarantine` cannot single out rows and acts as `fail`.
///
/// ```yaml
/// - expect: {sql: "shipped_at >= purchased_at", name: shipped_after_purchase}
/// - expect: {sql: "count(*) > 0", on_fail: fail}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The expression, of type boolean.
    pub sql: String,
    /// What happens when it is false.
    #[serde(default)]
    pub on_fail: OnFail,
    /// How the report calls it; `expect` by default.
    pub name: Option<String>,
}

impl Expect {
    /// Whether it is about the batch and not about each row.
    pub fn is_aggregate(&self) -> bool {
        static AGGREGATES: LazyLock<HashSet<String>> = LazyLock::new(|| {
            let all = datafusion::functions_aggregate::all_default_aggregate_functions();
            all.iter().flat_map(|f| f.aliases().iter().cloned().chain([f.name().to_owned()])).map(|n| n.to_lowercase()).collect()
        });
        sql::calls(&self.sql, &|name| AGGREGATES.contains(name))
    }
}

#[async_trait]
impl Plan for Expect {
    async fn plan(&self, input: LogicalPlan, scope: &Scope<'_>) -> Result<(LogicalPlan, Vec<Finding>)> {
        let path = ["expect", "sql"];
        let allow = if self.is_aggregate() { Allow::Aggregates } else { Allow::Scalar };
        let holds = expression::predicate(scope.session, &self.sql, input.schema(), allow, &path).map_err(Error::Pipeline)?;
        if allow == Allow::Aggregates {
            return Ok((input, vec![]));
        }
        let columns: std::collections::BTreeSet<String> = holds.column_refs().iter().map(|c| c.name.clone()).collect();
        let finding = Finding {
            column: columns.into_iter().collect::<Vec<_>>().join(","),
            rule: self.name.clone().unwrap_or_else(|| "expect".into()),
            message: format!("the expectation does not hold: {}", self.sql.trim()),
            on_fail: self.on_fail,
            broken: unless(holds),
        };
        Ok((input, vec![finding]))
    }
}

#[cfg(test)]
mod tests {
    use crate::checks::testing::{complaints, flagged};
    use crate::steps::testing::{ints, text};

    #[tokio::test]
    async fn rows_are_flagged_where_it_is_false() {
        let columns = [("a", ints(&[Some(1), Some(-1), None])), ("b", text(&[Some("x"); 3]))];
        let (rows, flags) =
            flagged(r#"[{"expect": {"sql": "a > 0 and b = 'x'", "name": "positive"}}, {"expect": {"sql": "sum(a) > 0"}}]"#, &columns).await;
        assert_eq!(rows, [".", "x", "."]);
        assert_eq!((flags[0].column.as_str(), flags[0].rule.as_str()), ("a,b", "positive"));
    }

    #[tokio::test]
    async fn it_must_be_boolean_and_know_its_columns() {
        let columns = [("amount", ints(&[Some(1)]))];
        let found = complaints(r#"[{"expect": {"sql": "amount + 1"}}, {"expect": {"sql": "sum(amout) > 1"}}]"#, &columns).await;
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found.iter().any(|c| c.help.as_deref() == Some("did you mean `amount`?") && c.place.within == Some((1, 5, 5))),
            "{found:?}"
        );
    }
}
