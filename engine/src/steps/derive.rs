//! `derive`: new columns, or new values for old ones, from SQL expressions.

use async_trait::async_trait;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::utils::find_window_exprs;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use crate::contract::hidden;
use crate::error::{Complaint, Result};
use crate::steps::config::Entries;
use crate::steps::expression::{self, Allow};
use crate::steps::{Scope, Transform, verdict};

/// Computes columns from SQL expressions over the row, in order: a later one may use an earlier one. A name that exists is
/// replaced where it stands; a new one is appended. Window functions may be used; aggregates only over a window.
///
/// ```yaml
/// - derive:
///     total: "price + freight"
///     purchase_month: "date_trunc('month', purchased_at)"
///     rank: "row_number() over (partition by customer_id order by purchased_at)"
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Derive(pub Entries<String>);

#[async_trait]
impl Transform for Derive {
    async fn plan(&self, input: LogicalPlan, scope: &Scope<'_>) -> Result<LogicalPlan> {
        let mut plan = input;
        let mut complaints = vec![];
        // Expressions gather in one projection until one needs the result of another.
        let mut pending: Vec<(String, Expr)> = vec![];
        for (name, sql) in self.0.iter() {
            let path = ["derive", name];
            if hidden::RESERVED.contains(&name) || name.starts_with("__") {
                complaints.push(Complaint::at(path, format!("`{name}` is a name that Smelt keeps for itself")).help("choose another name"));
                continue;
            }
            // Whether it uses a pending one shows only after parsing; parsing needs the schema with it.
            let ahead = project(plan.clone(), &pending)?;
            let parsed = match expression::parse(scope.session, sql, ahead.schema(), Allow::Windows, &path) {
                Ok(expr) => expr,
                Err(found) => {
                    complaints.extend(found);
                    // Later expressions may use it: without a stand-in each would complain as well.
                    if plan.schema().fields().iter().all(|f| f.name() != name) {
                        pending.push((name.to_owned(), datafusion::logical_expr::cast(null(), arrow::datatypes::DataType::Utf8View)));
                    }
                    continue;
                }
            };
            let expr = expression::as_travelling(parsed, ahead.schema())?;
            let uses = |other: &str| expr.column_refs().iter().any(|c| c.name == other);
            if pending.iter().any(|(other, _)| other == name || uses(other)) {
                plan = ahead;
                pending.clear();
            }
            pending.push((name.to_owned(), expr));
        }
        verdict(complaints)?;
        project(plan, &pending)
    }
}

fn null() -> Expr {
    Expr::Literal(datafusion::common::ScalarValue::Null, None)
}

/// `plan` with `columns` replaced or appended.
fn project(plan: LogicalPlan, columns: &[(String, Expr)]) -> Result<LogicalPlan> {
    if columns.is_empty() {
        return Ok(plan);
    }
    let windows = find_window_exprs(columns.iter().map(|(_, e)| e));
    let names: Vec<String> = plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    let plan = if windows.is_empty() { plan } else { LogicalPlanBuilder::window_plan(plan, windows.clone())? };
    // Above the window node, its results are columns named as the expressions are.
    let above = |expr: &Expr| -> Result<Expr> {
        let rewritten = expr.clone().transform_up(|e| {
            Ok(match windows.iter().find(|w| **w == e) {
                Some(w) => datafusion::common::tree_node::Transformed::yes(expression::column(&w.schema_name().to_string())),
                None => datafusion::common::tree_node::Transformed::no(e),
            })
        })?;
        Ok(rewritten.data)
    };
    let mut out = vec![];
    for name in &names {
        match columns.iter().find(|(n, _)| n == name) {
            Some((_, expr)) => out.push(above(expr)?.alias(name)),
            None => out.push(expression::column(name)),
        }
    }
    for (name, expr) in columns.iter().filter(|(n, _)| !names.contains(n)) {
        out.push(above(expr)?.alias(name));
    }
    Ok(LogicalPlanBuilder::from(plan).project(out)?.build()?)
}

#[cfg(test)]
mod tests {
    use crate::steps::testing::*;

    #[tokio::test]
    async fn later_ones_see_earlier_ones_and_old_names_stay_in_place() {
        let out =
            run(r#"[{"derive": {"total": "price + 1", "price": "price * 10", "twice": "total * 2", "m": "upper(name)"}}]"#).await.unwrap();
        assert_eq!(
            out,
            "\
name,price,_file,_line,total,twice,m
ann,10,f,1,2,4,ANN
 Bob ,20,f,2,3,6, BOB 
,,f,3,,,
cy,40,f,4,5,10,CY
"
        );
    }

    #[tokio::test]
    async fn windows_work_and_text_stays_a_view() {
        let out = run(r#"[{"derive": {"n": "row_number() over (order by price desc nulls last) + 1", "t": "cast(price as varchar)"}}]"#)
            .await
            .unwrap();
        assert!(out.contains("cy,4,f,4,2,4"), "{out}");
        let plan = plan(r#"[{"derive": {"t": "concat(name, '!')", "n": "row_number() over ()"}}]"#).await.unwrap().plan;
        let ty = |n: &str| plan.schema().field_with_unqualified_name(n).unwrap().data_type().clone();
        assert_eq!(ty("t"), arrow::datatypes::DataType::Utf8View);
        assert_eq!(ty("n"), arrow::datatypes::DataType::Int64);
    }

    #[tokio::test]
    async fn all_complaints_come_at_once() {
        let found = complaints(r#"[{"derive": {"a": "pric + 1", "b": "a || 'x'", "c": "name +", "_file": "1"}}]"#).await;
        let paths: Vec<String> = found.iter().map(|c| c.place.path.join(".")).collect();
        assert_eq!(paths, ["0.derive.a", "0.derive.c", "0.derive._file"]);
        assert_eq!(found[0].place.within, Some((1, 1, 4)));
        assert_eq!(found[0].help.as_deref(), Some("did you mean `price`?"));
    }
}
