//! Checks: what must hold of each row, or of the batch, before it is written.
//!
//! A check plans Boolean flag columns, true where a row breaks it; what happens to such rows is `route`'s business. Adding a check is its
//! file and its lines in this list. A NULL value passes every check but `not_null`.

pub mod expect;
pub mod in_set;
pub mod matches;
pub mod not_null;
pub mod range;
pub mod references;
pub mod unique;

use async_trait::async_trait;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};

use crate::error::{Complaint, Error, Result};
use crate::route::{Action, Rule};
use crate::steps::Scope;
use crate::steps::expression::{column, unqualified};

/// What happens to a row that breaks a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    /// The row goes to quarantine; the others load.
    #[default]
    Quarantine,
    /// The row loads and is counted in the report.
    Warn,
    /// The run fails before anything is published: exit code 3.
    Fail,
}

/// One check of a table's `checks`.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    NotNull(not_null::NotNull),
    InSet(in_set::InSet),
    Matches(matches::Matches),
    Range(range::Range),
    Unique(unique::Unique),
    References(references::References),
    Expect(expect::Expect),
}

impl Check {
    fn planner(&self) -> &dyn Plan {
        match self {
            Check::NotNull(c) => c,
            Check::InSet(c) => c,
            Check::Matches(c) => c,
            Check::Range(c) => c,
            Check::Unique(c) => c,
            Check::References(c) => c,
            Check::Expect(c) => c,
        }
    }

    /// Whether a row alone (with the lake's tables) shows if the check holds. The others need the batch after dedup.
    pub fn is_row_level(&self) -> bool {
        match self {
            Check::Unique(_) => false,
            Check::Expect(expect) => !expect.is_aggregate(),
            _ => true,
        }
    }
}

/// A Boolean column that is true where a row breaks a rule, and never NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Of the flag column, `__flag_0`.
    pub name: String,
    /// Of the column that the rule is about, or the names of several, joined by a comma.
    pub column: String,
    /// `not_null`, `range`, ...; the name that an expectation was given.
    pub rule: String,
    /// What is wrong with such a row. Holds no value of the row.
    pub message: String,
    pub on_fail: OnFail,
}

impl From<OnFail> for Action {
    fn from(on_fail: OnFail) -> Self {
        match on_fail {
            OnFail::Quarantine => Action::Quarantine,
            OnFail::Warn => Action::Warn,
            OnFail::Fail => Action::Fail,
        }
    }
}

impl From<Flag> for Rule {
    fn from(flag: Flag) -> Self {
        Rule { column: flag.column, rule: flag.rule, message: flag.message, flag: flag.name, action: flag.on_fail.into() }
    }
}

/// A plan with flag columns at its end.
#[derive(Debug, Clone)]
pub struct Planned {
    pub plan: LogicalPlan,
    pub flags: Vec<Flag>,
}

/// A rule, and the expression that is true where it is broken.
#[derive(Debug)]
pub(crate) struct Finding {
    column: String,
    rule: String,
    message: String,
    on_fail: OnFail,
    broken: Expr,
}

/// Planning of one check.
#[async_trait]
pub(crate) trait Plan: Sync {
    /// What the check looks for in the rows of `input`, and `input` with the columns that it needs to see it. No row may be added or
    /// lost. Paths of complaints begin with the check's own key.
    async fn plan(&self, input: LogicalPlan, scope: &Scope<'_>) -> Result<(LogicalPlan, Vec<Finding>)>;
}

/// Adds a flag column for each rule of the row-level checks; the others are checked for errors only. Complaints have paths from the list:
/// `["0", "range", "price"]`.
pub async fn plan_checks(checks: &[Check], input: LogicalPlan, scope: &Scope<'_>) -> Result<Planned> {
    let mut complaints = vec![];
    for (i, check) in checks.iter().enumerate().filter(|(_, c)| !c.is_row_level()) {
        gather(check.planner().plan(unqualified(input.clone())?, scope).await, i, &mut complaints)?;
    }
    plan_those(checks, Check::is_row_level, input, scope, complaints).await
}

/// Adds flag columns for the checks of rows against the rest of the batch (`unique`). Goes after dedup.
pub async fn plan_batch_checks(checks: &[Check], input: LogicalPlan, scope: &Scope<'_>) -> Result<Planned> {
    plan_those(checks, |c| matches!(c, Check::Unique(_)), input, scope, vec![]).await
}

/// The expectations over the whole batch: index in the list, the SQL expression of aggregates, and what follows when it is
/// false. `select EXPRESSION from BATCH` gives one row of one Boolean; NULL passes.
pub fn batch_expectations(checks: &[Check]) -> Vec<(usize, String, OnFail)> {
    let expectations = checks.iter().enumerate().filter_map(|(i, c)| match c {
        Check::Expect(e) if e.is_aggregate() => Some((i, e.sql.clone(), e.on_fail)),
        _ => None,
    });
    expectations.collect()
}

/// The lake tables (`silver.customers`) that the checks read, for the graph.
pub fn referenced_tables(checks: &[Check]) -> Vec<String> {
    let mut tables: Vec<String> = vec![];
    for check in checks {
        if let Check::References(references) = check {
            for table in references.tables() {
                if !tables.contains(&table) {
                    tables.push(table);
                }
            }
        }
    }
    tables
}

async fn plan_those(
    checks: &[Check],
    chosen: impl Fn(&Check) -> bool,
    input: LogicalPlan,
    scope: &Scope<'_>,
    mut complaints: Vec<Complaint>,
) -> Result<Planned> {
    let input = unqualified(input)?;
    let names: Vec<String> = input.schema().fields().iter().map(|f| f.name().clone()).collect();
    let mut plan = input;
    let mut found: Vec<Finding> = vec![];
    for (i, check) in checks.iter().enumerate().filter(|(_, c)| chosen(c)) {
        if let Some((next, findings)) = gather(check.planner().plan(plan.clone(), scope).await, i, &mut complaints)? {
            plan = next;
            found.extend(findings);
        }
    }
    if !complaints.is_empty() {
        return Err(Error::Pipeline(complaints));
    }
    let taken = names.iter().filter_map(|n| n.strip_prefix("__flag_")?.parse::<usize>().ok()).max().map_or(0, |n| n + 1);
    let mut columns: Vec<Expr> = names.iter().map(|n| column(n)).collect();
    let mut flags = vec![];
    for (i, finding) in found.into_iter().enumerate() {
        let Finding { column, rule, message, on_fail, broken } = finding;
        let name = format!("__flag_{}", taken + i);
        columns.push(broken.alias(&name));
        flags.push(Flag { name, column, rule, message, on_fail });
    }
    if flags.is_empty() {
        return Ok(Planned { plan, flags });
    }
    Ok(Planned { plan: LogicalPlanBuilder::from(plan).project(columns)?.build()?, flags })
}

/// Collects what is wrong with the pipeline; other errors end the planning.
fn gather<T>(planned: Result<T>, index: usize, complaints: &mut Vec<Complaint>) -> Result<Option<T>> {
    match planned {
        Ok(planned) => Ok(Some(planned)),
        Err(Error::Pipeline(found)) => {
            complaints.extend(found.into_iter().map(|c| c.under([index.to_string()])));
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

/// True where `holds` is false; not where it is true or NULL.
pub(crate) fn unless(holds: Expr) -> Expr {
    holds.is_false()
}

/// `value` read as a constant of the column's type, or the complaint that it is none.
pub(crate) fn constant(value: &str, f: &arrow::datatypes::Field, path: &[&str]) -> Result<Expr, Complaint> {
    let text = datafusion::common::ScalarValue::Utf8(Some(value.trim().to_owned()));
    let own = datafusion::common::ScalarValue::Utf8View(Some(value.to_owned()));
    let read = if crate::steps::expression::is_text(f.data_type()) { Ok(own) } else { text.cast_to(f.data_type()) };
    match read {
        Ok(constant) if !constant.is_null() => Ok(lit(constant)),
        _ => {
            let ty = crate::steps::expression::in_words(f.data_type());
            Err(Complaint::at(path.to_vec(), format!("`{value}` is not a {ty}, which `{}` is", f.name()))
                .help("write a value of that type"))
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::steps::testing::{csv, scope, session};
    use arrow::array::ArrayRef;

    /// Flag columns only, one line a row, and the flags.
    pub async fn flagged(json: &str, columns: &[(&str, ArrayRef)]) -> (Vec<String>, Vec<Flag>) {
        let session = session();
        let checks: Vec<Check> = serde_json::from_str(json).unwrap();
        let input = crate::steps::testing::rows(&session, columns);
        let planned = plan_checks(&checks, input, &scope(&session)).await.unwrap();
        let planned_batch = plan_batch_checks(&checks, planned.plan, &scope(&session)).await.unwrap();
        let flags = [planned.flags, planned_batch.flags].concat();
        let only = flags.iter().map(|f| column(&f.name)).collect::<Vec<_>>();
        let plan = LogicalPlanBuilder::from(planned_batch.plan).project(only).unwrap().build().unwrap();
        let text = csv(&session, plan).await.unwrap();
        let rows = text.lines().skip(1).map(|l| l.split(',').map(|v| if v == "true" { "x" } else { "." }).collect()).collect();
        (rows, flags)
    }

    pub async fn complaints(json: &str, columns: &[(&str, ArrayRef)]) -> Vec<Complaint> {
        let session = session();
        let checks: Vec<Check> = serde_json::from_str(json).unwrap();
        let input = crate::steps::testing::rows(&session, columns);
        match plan_checks(&checks, input, &scope(&session)).await {
            Err(Error::Pipeline(found)) => found,
            other => panic!("no complaints but {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{complaints, flagged};
    use super::*;
    use crate::steps::testing::{ints, text};

    #[tokio::test]
    async fn flags_come_in_order_and_all_complaints_at_once() {
        let columns = [("a", ints(&[Some(1), None, Some(5)])), ("b", text(&[Some("x"), Some("y"), None]))];
        let json =
            r#"[{"not_null": ["a", "b"]}, {"range": {"a": [0, 2], "on_fail": "warn"}}, {"in_set": {"b": ["x"]}}, {"unique": ["b"]}]"#;
        let json = json.replace("[0, 2]", r#"["0", "2"]"#);
        let (rows, flags) = flagged(&json, &columns).await;
        assert_eq!(rows, [".....", "x..x.", ".xx.."]);
        let names: Vec<&str> = flags.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["__flag_0", "__flag_1", "__flag_2", "__flag_3", "__flag_4"]);
        assert_eq!((flags[2].rule.as_str(), flags[2].on_fail), ("range", OnFail::Warn));
        let found = complaints(
            r#"[{"not_null": ["c"]}, {"in_set": {"a": ["x"]}}, {"unique": ["bb"]}, {"expect": {"sql": "cont(*) > 0"}}]"#,
            &columns,
        )
        .await;
        let mut paths: Vec<String> = found.iter().map(|c| c.place.path.join(".")).collect();
        paths.sort();
        assert_eq!(paths, ["0.not_null.0", "1.in_set.a.0", "2.unique.0", "3.expect.sql"]);
    }

    #[test]
    fn schemas_can_be_generated() {
        let schema = serde_json::to_string(&schemars::schema_for!(Vec<Check>)).unwrap();
        assert!(schema.contains("on_fail") && schema.contains("quarantine"));
        let schema = serde_json::to_string(&schemars::schema_for!(Vec<crate::steps::Step>)).unwrap();
        assert!(schema.contains("keep_last") && schema.contains("collapse_spaces"));
    }

    #[test]
    fn tables_and_expectations_are_listed() {
        let json = r#"[{"references": {"a": "silver.customers.id", "b": "silver.customers.id"}}, {"expect": {"sql": "count(*) > 0", "on_fail": "fail"}},
                       {"expect": {"sql": "a > 0"}}]"#;
        let checks: Vec<Check> = serde_json::from_str(json).unwrap();
        assert_eq!(referenced_tables(&checks), ["silver.customers"]);
        assert_eq!(batch_expectations(&checks), [(1, "count(*) > 0".to_owned(), OnFail::Fail)]);
        assert!(!checks[1].is_row_level() && checks[2].is_row_level());
    }
}
