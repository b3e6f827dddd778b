//! Assembles the way of a row for one table: steps, checks, route, dedup, batch checks, route, and the table's own columns.
//!
//! Plans only. Where the input comes from, where the files go and when they are published is the driver's to say.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::Column as ColumnRef;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};

use crate::checks::{self, Check, Flag};
use crate::conform::Sensitive;
use crate::contract::hidden;
use crate::error::{Complaint, Error, Result};
use crate::route::{Rule, route};
use crate::steps::{self, Scope, Step, under};
use crate::write::{PartitionBy, plan_partitions, stored_type};

/// What one table does to its rows.
#[derive(Debug, Clone, Copy)]
pub struct LoadSpec<'a> {
    pub steps: &'a [Step],
    pub checks: &'a [Check],
    pub partition_by: &'a [PartitionBy],
    /// Columns whose values may not leave in clear with a row that is refused between the steps.
    pub sensitive: &'a Sensitive,
    /// Keep `_file` and `_line` in the table, where the rows still have them.
    pub provenance: bool,
    /// Hidden columns that the plan keeps for whoever writes the rows; no part of the table.
    pub hidden: &'a [&'a str],
}

/// The plan of a table's rows, ready to be written.
#[derive(Debug)]
pub struct Assembled {
    pub plan: LogicalPlan,
    /// Columns of the table in order, in the types that it stores.
    pub schema: SchemaRef,
    pub partition_columns: Vec<String>,
}

/// Plans `input` through everything that `spec` says. Complaints have paths from the table: `steps.0.derive.x`, `checks.2`.
pub async fn assemble(input: LogicalPlan, spec: &LoadSpec<'_>, scope: &Scope<'_>) -> Result<Assembled> {
    // A dedup at the end comes after the checks, so that a bad row never wins over a good one.
    let (before, dedup) = match spec.steps.split_last() {
        Some((Step::Dedup(dedup), rest)) => (rest, Some((rest.len(), dedup))),
        _ => (spec.steps, None),
    };
    let (sensitive, keys) = (spec.sensitive.clone(), scope.keys);
    let leave = move |plan, flags, step: usize| {
        // under the names that the columns have here, and those that they came with
        let mut sensitive = sensitive.clone();
        sensitive.columns.extend(steps::mask::sensitive(&before[step.min(before.len())..], keys).columns);
        Ok(route(plan, rules(flags), sensitive, "steps"))
    };
    let scope = &Scope { route: Some(&leave), ..*scope };
    let planned = steps::plan_steps(before, input, scope).await.map_err(|e| under(e, &["steps"]))?;

    // the steps have masked what they mask: what quarantine shows of a row from here on is what the table would show
    let checked = checks::plan_checks(spec.checks, planned.plan, scope).await.map_err(|e| under(e, &["checks"]))?;
    let flags: Vec<Flag> = planned.flags.into_iter().chain(checked.flags).collect();
    let mut plan = if flags.is_empty() { checked.plan } else { route(checked.plan, rules(flags), Sensitive::default(), "check") };

    if let Some((at, dedup)) = dedup {
        plan = dedup.plan(plan).map_err(|e| under(e, &["steps", &at.to_string(), "dedup"]))?;
    }
    let checked = checks::plan_batch_checks(spec.checks, plan, scope).await.map_err(|e| under(e, &["checks"]))?;
    plan = if checked.flags.is_empty() { checked.plan } else { route(checked.plan, rules(checked.flags), Sensitive::default(), "check") };

    plan = table_columns(plan, spec)?;
    let (plan, partition_columns) = plan_partitions(plan, spec.partition_by).map_err(|e| under(e, &["partition_by"]))?;
    let schema = plain_schema(plan.schema().as_arrow(), spec.hidden);
    Ok(Assembled { plan, schema, partition_columns })
}

fn rules(flags: Vec<Flag>) -> Vec<Rule> {
    flags.into_iter().map(Rule::from).collect()
}

/// Leaves out hidden columns and casts the rest to types that every reader of the table knows.
fn table_columns(input: LogicalPlan, spec: &LoadSpec<'_>) -> Result<LogicalPlan> {
    let mut complaints = vec![];
    let mut seen: BTreeMap<String, ()> = BTreeMap::new();
    let mut visible = vec![];
    let mut kept = vec![];
    for (qualifier, field) in input.schema().iter() {
        let name = field.name().as_str();
        let is_kept =
            name == hidden::RESCUED || (spec.provenance && (name == hidden::FILE || name == hidden::LINE)) || spec.hidden.contains(&name);
        if hidden::RESERVED.contains(&name) && !is_kept {
            continue;
        }
        if seen.insert(name.to_lowercase(), ()).is_some() {
            complaints.push(
                Complaint::at(Vec::<String>::new(), format!("two columns are named `{name}`"))
                    .help("give one of them another name with `as`"),
            );
            continue;
        }
        let expr = Expr::Column(ColumnRef::new(qualifier.cloned(), name));
        let list = if is_kept { &mut kept } else { &mut visible };
        match stored_type(field.data_type()) {
            Some(ty) if &ty == field.data_type() => list.push(expr.alias(name)),
            Some(ty) => list.push(cast(expr, ty).alias(name)),
            None => complaints.push(
                Complaint::at(Vec::<String>::new(), format!("column `{name}` is {}, which no table format holds", field.data_type()))
                    .help("cast it to another type, or leave it out"),
            ),
        }
    }
    if visible.is_empty() && complaints.is_empty() {
        complaints.push(Complaint::at(Vec::<String>::new(), "no column is left"));
    }
    if !complaints.is_empty() {
        return Err(Error::Pipeline(complaints));
    }
    visible.append(&mut kept);
    Ok(LogicalPlanBuilder::from(input).project(visible)?.build()?)
}

/// Field names and types without qualifiers or metadata, all nullable: what a table's log records.
fn plain_schema(schema: &Schema, hidden: &[&str]) -> SchemaRef {
    let fields = schema.fields().iter().filter(|f| !hidden.contains(&f.name().as_str()));
    Arc::new(Schema::new(fields.map(|f| Field::new(f.name(), f.data_type().clone(), true)).collect::<Vec<_>>()))
}
