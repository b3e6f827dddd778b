//! `references`: a value must be found in a column of another table of the lake.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::TableReference;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{ExprSchemable, JoinType, LogicalPlan, LogicalPlanBuilder, cast};

use super::{Finding, Plan};
use crate::error::{Complaint, Error, Result};
use crate::steps::config::Ruled;
use crate::steps::expression::{column, field, in_words, is_text, nearest, unknown_column};
use crate::steps::{Scope, verdict};

/// The value must be found in a column of another table, `layer.table.column`, as that table is when the run reads it. NULL passes.
///
/// ```yaml
/// - references: {customer_id: silver.customers.customer_id, on_fail: warn}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct References(pub Ruled<String>);

impl References {
    pub(super) fn tables(&self) -> impl Iterator<Item = String> {
        self.0.rules.iter().filter_map(|(_, target)| split(target)).map(|(layer, table, _)| format!("{layer}.{table}"))
    }
}

#[async_trait]
impl Plan for References {
    async fn plan(&self, input: LogicalPlan, scope: &Scope<'_>) -> Result<(LogicalPlan, Vec<Finding>)> {
        let mut complaints = vec![];
        let mut findings = vec![];
        let mut plan = input;
        for (name, target) in &self.0.rules {
            match one(plan.clone(), name, target, self.0.on_fail, scope).await {
                Ok((next, finding)) => {
                    plan = next;
                    findings.push(finding);
                }
                Err(Error::Pipeline(found)) => complaints.extend(found),
                Err(other) => return Err(other),
            }
        }
        verdict(complaints)?;
        Ok((plan, findings))
    }
}

async fn one(input: LogicalPlan, name: &str, target: &str, on_fail: super::OnFail, scope: &Scope<'_>) -> Result<(LogicalPlan, Finding)> {
    let path = ["references", name];
    let complain = |complaint: Complaint| Error::pipeline(complaint);
    let own = field(input.schema(), name, &path).map_err(complain)?.clone();
    let Some((layer, table, key)) = split(target) else {
        let complaint = Complaint::at(path, format!("`{target}` does not name a column of a table"));
        return Err(complain(complaint.help("write layer.table.column, as in silver.customers.customer_id")));
    };
    let Ok(provider) = scope.session.table_provider(TableReference::partial(layer, table)).await else {
        let known: Vec<String> = scope.session.catalog("lake").and_then(|c| c.schema(layer)).map(|s| s.table_names()).unwrap_or_default();
        let complaint = Complaint::at(path, format!("there is no table `{layer}.{table}`"));
        return Err(complain(match nearest(table, known.iter().map(String::as_str)) {
            Some(near) => complaint.help(format!("did you mean `{layer}.{near}`?")),
            None => complaint.help("name a table of this pipeline or of the lake"),
        }));
    };
    let schema = provider.schema();
    let Ok(theirs) = schema.field_with_name(key) else {
        return Err(complain(unknown_column(key, schema.fields().iter().map(|f| f.name().as_str()), &path)));
    };
    let (left, right) = (own.data_type(), theirs.data_type());
    if left != right && !(is_text(left) && is_text(right)) && !(left.is_integer() && right.is_integer()) {
        let message = format!("`{name}` is of type {}, and {target} of type {}", in_words(left), in_words(right));
        return Err(complain(Complaint::at(path, message).help("give both columns one type, with cast in this table or the other")));
    }
    // Names of earlier references' columns are still in the plan.
    let found = format!("__found_{}", input.schema().fields().len());
    let projection = vec![schema.index_of(key)?];
    let keys = LogicalPlanBuilder::scan(TableReference::partial(layer, table), provider_as_source(provider), Some(projection))?;
    let keys_schema = Arc::clone(keys.schema());
    let key_column = datafusion::logical_expr::Expr::Column(datafusion::common::Column::from(keys_schema.qualified_field(0)));
    let key_column = if key_column.get_type(&keys_schema)? == *left { key_column } else { cast(key_column, left.clone()) };
    // The keys are the join's left side, which is the one that is held in memory: the rows stream past. Distinct keys never multiply them.
    let keys = keys.project([key_column.alias(&found)])?.distinct()?;
    let columns: Vec<_> = input.schema().fields().iter().map(|f| column(f.name())).chain([column(&found)]).collect();
    let on = (vec![datafusion::common::Column::new_unqualified(&found)], vec![datafusion::common::Column::new_unqualified(name)]);
    let plan = keys.join(input, JoinType::Right, on, None)?.project(columns)?.build()?;
    let finding = Finding {
        column: name.to_owned(),
        rule: "references".into(),
        message: format!("the value is not in {target}"),
        on_fail,
        broken: column(name).is_not_null().and(column(&found).is_null()),
    };
    Ok((plan, finding))
}

/// `layer.table.column` in its parts.
fn split(target: &str) -> Option<(&str, &str, &str)> {
    let mut parts = target.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(layer), Some(table), Some(key), None) if ![layer, table, key].contains(&"") => Some((layer, table, key)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::checks::testing::{complaints, flagged};
    use crate::steps::testing::*;

    #[tokio::test]
    async fn values_without_a_partner_are_flagged_once() {
        let columns = [("a", text(&[Some("ann"), Some("bob"), None])), ("b", text(&[Some("zed"), Some("ann2"), None]))];
        let (mut rows, _) = flagged(r#"[{"references": {"a": "silver.cities.name", "b": "silver.cities.name"}}]"#, &columns).await;
        rows.sort();
        assert_eq!(rows, ["..", ".x", "x."]);
    }

    #[tokio::test]
    async fn double_keys_do_not_multiply_rows() {
        let session = session();
        let silver = session.catalog("lake").unwrap().schema("silver").unwrap();
        silver.register_table("twice".into(), table(&[("id", ints(&[Some(1), Some(1), None]))])).unwrap();
        let check: Vec<crate::checks::Check> = serde_json::from_str(r#"[{"references": {"price": "silver.twice.id"}}]"#).unwrap();
        let planned = crate::checks::plan_checks(&check, source(&session), &scope(&session)).await.unwrap();
        let out = csv(&session, planned.plan).await.unwrap();
        assert!(out.starts_with("name,price,_file,_line,__flag_0\n"), "{out}");
        assert_eq!(out.matches("true").count(), 2, "{out}");
        assert_eq!(out.lines().count(), 5, "{out}");
    }

    #[tokio::test]
    async fn what_does_not_exist_is_told() {
        let columns = [("a", text(&[None])), ("n", ints(&[None]))];
        let json = r#"[{"references": {"a": "silver.citie.name", "n": "silver.cities.name"}}, {"references": {"a": "silver.cities.nam"}}, {"references": {"a": "cities"}}]"#;
        let found = complaints(json, &columns).await;
        let helps: Vec<&str> = found.iter().filter_map(|c| c.help.as_deref()).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(helps[0], "did you mean `silver.cities`?");
        assert_eq!(helps[2], "did you mean `name`?");
    }
}
