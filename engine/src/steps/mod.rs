//! Steps: what happens to the rows of a table between its contract and its checks, in the order of the list.
//!
//! A step is one file (or folder): its configuration, its plan, its doc comment with a YAML example, and its tests. Adding one is that file
//! and its lines in this list. Steps plan; they read no row and do no I/O. They do not know where rows come from or go to.

pub mod cast;
pub mod clean;
pub mod config;
pub mod dedup;
pub mod derive;
pub mod expression;
pub mod fill;
pub mod filter;
pub mod mask;
pub mod rename;
pub mod select;
pub mod sql;

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;

use crate::checks::{Flag, Planned};
use crate::error::{Complaint, Error, Result};
use crate::keys::Keys;

/// One step of a table's `steps`.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Clean(clean::Clean),
    Fill(fill::Fill),
    Derive(derive::Derive),
    Filter(filter::Filter),
    Select(select::Select),
    Rename(rename::Rename),
    Cast(cast::Cast),
    Sql(sql::Sql),
    Mask(mask::Masks),
    Dedup(dedup::DedupStep),
}

impl Step {
    /// The key that the user writes, and the transform under it.
    fn transform(&self) -> (&'static str, &dyn Transform) {
        match self {
            Step::Clean(s) => ("clean", s),
            Step::Fill(s) => ("fill", s),
            Step::Derive(s) => ("derive", s),
            Step::Filter(s) => ("filter", s),
            Step::Select(s) => ("select", s),
            Step::Rename(s) => ("rename", s),
            Step::Cast(s) => ("cast", s),
            Step::Sql(s) => ("sql", s),
            Step::Mask(s) => ("mask", s),
            Step::Dedup(s) => ("dedup", s),
        }
    }

    pub fn name(&self) -> &'static str {
        self.transform().0
    }
}

/// How rows with raised flags leave for quarantine: the plan, its flags, and the index of the step that comes next (what that step and
/// those after it mask is still in clear: `mask::sensitive(&steps[index..], keys)`).
pub type Route<'a> = &'a (dyn Fn(LogicalPlan, Vec<Flag>, usize) -> Result<LogicalPlan> + Send + Sync);

/// What a step may see while it plans.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// Lake tables are registered in it as `silver.x`, `gold.y`.
    pub session: &'a SessionContext,
    pub keys: &'a Keys,
    /// The time of the run.
    pub now: DateTime<Utc>,
    /// Index of the step within the table's list; `plan_steps` counts on from it.
    pub step: usize,
    /// Used before a `sql` step, whose query may group rows away, when an earlier cast has raised flags. Without it such a
    /// list of steps is refused.
    pub route: Option<Route<'a>>,
}

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("now", &self.now).field("step", &self.step).finish_non_exhaustive()
    }
}

/// A step's rewriting of the plan.
#[async_trait]
pub trait Transform: Send + Sync {
    /// Rewrites `input`. Plans only: reads no row, does no I/O. Columns of `input` have no table in front of their names. All
    /// that is wrong with the step comes back at once, with paths from the step's own key (`["derive", "month"]`).
    async fn plan(&self, input: LogicalPlan, scope: &Scope<'_>) -> Result<LogicalPlan>;

    /// The flag columns that `plan` adds when it is step number `step`.
    fn flags(&self, step: usize) -> Vec<Flag> {
        let _ = step;
        vec![]
    }
}

/// Plans the steps in order. Hidden columns pass through all of them but `sql`. Complaints have paths from the list: `["2", "derive", "month"]`.
pub async fn plan_steps(steps: &[Step], input: LogicalPlan, scope: &Scope<'_>) -> Result<Planned> {
    let mut plan = expression::unqualified(input)?;
    let mut flags: Vec<Flag> = vec![];
    for (i, step) in steps.iter().enumerate() {
        let scope = Scope { step: scope.step + i, ..*scope };
        let (_, transform) = step.transform();
        if matches!(step, Step::Sql(_)) && !flags.is_empty() {
            let Some(route) = scope.route else {
                let message = "a sql step cannot come after a cast: rows whose value does not fit would be lost in the query";
                let complaint = Complaint::at([scope.step.to_string(), "sql".into()], message);
                return Err(Error::pipeline(complaint.help("cast after the sql step, or use try_cast in the query")));
            };
            plan = expression::unqualified(route(plan, std::mem::take(&mut flags), scope.step)?)?;
        }
        plan = transform.plan(plan, &scope).await.map_err(|e| under(e, &[&scope.step.to_string()]))?;
        flags.extend(transform.flags(scope.step));
    }
    Ok(Planned { plan, flags })
}

/// Two points of the plan between which a step may take rows away; the ledger's tallies have their counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TallyPoints {
    /// Index of the step in the list.
    pub step: usize,
    /// `filter` or `sql`.
    pub name: &'static str,
    pub input: String,
    pub output: String,
}

/// The points of all steps that may change the number of rows, `first` being the index of `steps[0]`.
pub fn tally_points(steps: &[Step], first: usize) -> Vec<TallyPoints> {
    let changing = steps.iter().enumerate().filter(|(_, s)| matches!(s, Step::Filter(_) | Step::Sql(_)));
    changing.map(|(i, s)| points(s.name(), first + i)).collect()
}

/// The lake tables (`silver.orders`) that the sql steps read, for the graph. Text that does not parse names none; planning complains of it.
pub fn referenced_tables(steps: &[Step]) -> Vec<String> {
    let mut tables = vec![];
    for step in steps {
        if let Step::Sql(step) = step {
            for table in sql::tables_in(&step.0) {
                if table != sql::INPUT && !tables.contains(&table) {
                    tables.push(table);
                }
            }
        }
    }
    tables
}

pub(crate) fn points(name: &'static str, step: usize) -> TallyPoints {
    TallyPoints { step, name, input: format!("{name}:{step}:in"), output: format!("{name}:{step}:out") }
}

/// Prefixes the paths of a pipeline error.
pub(crate) fn under(e: Error, prefix: &[&str]) -> Error {
    match e {
        Error::Pipeline(complaints) => Error::Pipeline(complaints.into_iter().map(|c| c.under(prefix.to_vec())).collect()),
        other => other,
    }
}

/// `Ok` where nothing was found wrong.
pub(crate) fn verdict(complaints: Vec<Complaint>) -> Result<()> {
    if complaints.is_empty() { Ok(()) } else { Err(Error::Pipeline(complaints)) }
}

#[cfg(test)]
pub(crate) mod testing;
