//! In which columns of which tables the persons stand, and in which form: their values are taken from the declared columns through the
//! tables' own steps and queries, masks included, to every column that comes of them. Plans and computes on constants; reads no table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::Expr;
use datafusion::prelude::SessionContext;
use smelt_engine::Result;
use smelt_engine::conform::cast_column;
use smelt_engine::contract::Column;
use smelt_engine::steps::expression::column as named;
use smelt_engine::steps::mask::{self, Mask};
use smelt_engine::types::ContractType;

use super::lineage::{Lineage, Origin, START, trace};
use super::matcher::Matcher;
use super::subjects::People;
use crate::bound::{Bound, BoundTable};
use crate::check::CheckedTable;
use crate::units;

/// What is to be looked for in one table and its quarantine.
#[derive(Debug, Default)]
pub struct Target {
    /// Values by column of the finished table. Some may be NULL: they match nothing.
    pub columns: BTreeMap<String, Vec<ArrayRef>>,
    /// Forms in records that the table refused.
    pub matcher: Matcher,
    /// Columns of which refused records hold the shape only.
    pub shapes: BTreeSet<String>,
    /// Why the persons cannot be found in the table.
    pub unreachable: Vec<String>,
}

/// The targets by table, and what the user should know.
#[derive(Debug, Default)]
pub struct Targets {
    pub tables: BTreeMap<String, Target>,
    pub notes: Vec<String>,
}

/// Follows the values of `people` through all tables of the pipeline.
pub fn find(bound: &Bound, checked: &[CheckedTable], people: &People, session: &SessionContext) -> Result<Targets> {
    let lineages: BTreeMap<String, Lineage> = checked.iter().map(|t| (t.name.to_string(), trace(&t.plan))).collect();
    let mut out = Targets::default();
    for (subject, values) in &people.0 {
        let texts: ArrayRef = Arc::new(values.iter().map(|v| Some(v.as_str())).collect::<StringViewArray>());
        let (inputs, outputs) = declared(bound, subject, &lineages);
        let mut known: BTreeMap<(String, String), Vec<ArrayRef>> = BTreeMap::new();
        for table in &bound.tables {
            let name = table.name.to_string();
            let (Some(lineage), Some(plan)) = (lineages.get(&name), checked.iter().find(|t| t.name == table.name)) else { continue };
            let target = out.tables.entry(name.clone()).or_default();
            let mut roots: BTreeMap<String, ArrayRef> = BTreeMap::new();
            for (_, column) in inputs.iter().filter(|(t, _)| *t == name) {
                let contract = contract_column(table, plan, column);
                let (typed, faults) = cast_column(&texts, &contract)?;
                if !faults.is_empty() {
                    let what = units::plural(faults.len() as u64, "value");
                    out.notes.push(format!("{what} of {subject} cannot be in {name}: column {column} is {}", contract.ty));
                }
                refused(target, table, bound, &contract, values, &typed)?;
                roots.insert(column.clone(), typed);
            }
            let starts = |o: &Origin| -> Vec<ArrayRef> {
                match o.table.as_str() {
                    "" => roots.get(&o.column).cloned().into_iter().collect(),
                    upstream => known.get(&(upstream.to_owned(), o.column.clone())).cloned().unwrap_or_default(),
                }
            };
            let mut reached: BTreeMap<String, Vec<ArrayRef>> = BTreeMap::new();
            let mut blocked: Vec<(&str, &str)> = vec![];
            for (column, origins) in &lineage.columns {
                let mut arrays = vec![];
                for origin in origins {
                    for start in starts(origin) {
                        match &origin.expr {
                            Some(expr) => {
                                if origin.table.is_empty() && folds(session, expr, &start)? {
                                    add(&mut target.matcher, &origin.column, &start, true)?;
                                }
                                arrays.push(evaluate(session, expr, &origin.ty, &start)?);
                            }
                            None => blocked.push((column.as_str(), origin.by.as_str())),
                        }
                    }
                }
                if arrays.is_empty() && outputs.contains(&(name.clone(), column.clone())) {
                    arrays.push(as_column(&texts, column, &plan.schema)?);
                }
                if !arrays.is_empty() {
                    reached.insert(column.clone(), arrays);
                }
            }
            for (field, origin) in &lineage.refused {
                let Some(expr) = &origin.expr else { continue };
                for start in starts(origin) {
                    add(&mut target.matcher, field, &evaluate(session, expr, &origin.ty, &start)?, false)?;
                }
            }
            if reached.is_empty() {
                target.unreachable.extend(reason(table, subject, &roots, &blocked));
            }
            for (column, arrays) in reached {
                target.columns.entry(column.clone()).or_default().extend(arrays.iter().cloned());
                known.insert((name.clone(), column), arrays);
            }
        }
    }
    // one person under several names: a table is reached where one of the names leads to it
    if people.0.values().all(|values| values.len() == 1) {
        out.tables.values_mut().filter(|t| !t.columns.is_empty()).for_each(|t| t.unreachable.clear());
    }
    Ok(out)
}

type Columns = BTreeSet<(String, String)>;

/// The declared columns of inputs and of finished tables, and those that the latter come from.
fn declared(bound: &Bound, subject: &str, lineages: &BTreeMap<String, Lineage>) -> (Columns, Columns) {
    let all = || bound.subjects.get(subject).into_iter().flatten();
    let of = |input: bool| all().filter(|c| c.input == input).map(|c| (c.table.clone(), c.column.clone())).collect::<Columns>();
    let (mut inputs, mut outputs) = (of(true), of(false));
    for table in bound.tables.iter().rev() {
        let name = table.name.to_string();
        for (column, origins) in lineages.get(&name).into_iter().flat_map(|l| &l.columns) {
            if !outputs.contains(&(name.clone(), column.clone())) {
                continue;
            }
            for origin in origins.iter().filter(|o| o.expr.is_some()) {
                match origin.table.as_str() {
                    "" => inputs.insert((name.clone(), origin.column.clone())),
                    upstream => outputs.insert((upstream.to_owned(), origin.column.clone())),
                };
            }
        }
    }
    (inputs, outputs)
}

/// The contract's column; text where the contract does not name it (the key of a hive folder).
fn contract_column(table: &BoundTable, plan: &CheckedTable, name: &str) -> Column {
    let contract = plan.inferred.as_ref().or(table.contract.as_ref());
    let found = contract.and_then(|c| c.columns.iter().find(|c| c.name == name));
    found.cloned().unwrap_or_else(|| Column::new(name, ContractType::String))
}

/// The forms in records that were refused before the steps: raw text, or what the table's mask makes of it.
fn refused(
    target: &mut Target,
    table: &BoundTable,
    bound: &Bound,
    column: &Column,
    values: &BTreeSet<String>,
    typed: &ArrayRef,
) -> Result<()> {
    let whole = typed.data_type().is_integer();
    let plain: Vec<String> = values.iter().cloned().chain(shown(typed)?).collect();
    let masked = mask::masked_columns(&table.steps).into_iter().find(|(name, _)| *name == column.name).map(|(_, mask)| mask);
    let text = match masked {
        Some(mask @ (Mask::Tokenize(_) | Mask::Hash(_))) => mask.text(&bound.keys),
        _ => None,
    };
    if text.is_none() && (masked.is_some() || column.tags.iter().any(|t| t == "pii")) {
        target.shapes.insert(column.name.clone());
    }
    // in JSON the field may stand under its path
    for field in std::iter::once(&column.name).chain(&column.path) {
        for value in &plain {
            target.matcher.add(field, value, whole, false);
            if let Some(token) = text.as_ref().and_then(|mask| mask(value)) {
                target.matcher.add(field, &token, false, false);
            }
        }
    }
    target.matcher.words.extend(plain);
    Ok(())
}

fn add(matcher: &mut Matcher, field: &str, values: &ArrayRef, fold: bool) -> Result<()> {
    let whole = values.data_type().is_integer();
    for text in shown(values)? {
        matcher.add(field, &text, whole, fold);
    }
    Ok(())
}

/// The values that are not NULL, as text.
pub fn shown(values: &ArrayRef) -> Result<Vec<String>> {
    let texts = cast(values, &DataType::Utf8View)?;
    Ok(texts.as_string_view().iter().flatten().map(str::to_owned).collect())
}

/// Whether the expression makes one of upper and lower case.
fn folds(session: &SessionContext, expr: &Expr, start: &ArrayRef) -> Result<bool> {
    if !start.data_type().is_string() || matches!(expr, Expr::Column(_)) {
        return Ok(false);
    }
    let probe = |text: &str| evaluate(session, expr, start.data_type(), &(Arc::new(StringViewArray::from(vec![text])) as ArrayRef));
    Ok(probe("abc")? == probe("ABC")?)
}

/// Texts as values of a column of the finished table; NULL where they cannot be.
fn as_column(texts: &ArrayRef, column: &str, schema: &SchemaRef) -> Result<ArrayRef> {
    let ty = schema.field_with_name(column).map(|f| f.data_type().clone()).unwrap_or(DataType::Utf8View);
    match ContractType::from_arrow(&ty) {
        Some(contract) => Ok(cast_column(texts, &Column::new(column, contract))?.0),
        None => Ok(new_null_array(&ty, texts.len())),
    }
}

/// `expr` over the values of the column `@`. A value that it cannot take gives NULL: it cannot have come through.
fn evaluate(session: &SessionContext, expr: &Expr, ty: &DataType, start: &ArrayRef) -> Result<ArrayRef> {
    let start = cast(start, ty)?;
    let schema = Arc::new(Schema::new(vec![Field::new(START, ty.clone(), true)]));
    let physical = session.state().create_physical_expr(expr.clone(), &DFSchema::try_from(Arc::clone(&schema))?)?;
    let over = |values: ArrayRef| -> Result<ArrayRef> {
        let rows = values.len();
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![values])?;
        Ok(physical.evaluate(&batch)?.into_array(rows)?)
    };
    if let Ok(all) = over(Arc::clone(&start)) {
        return Ok(all);
    }
    let result = physical.data_type(&schema)?;
    let each: Vec<ArrayRef> = (0..start.len()).map(|i| over(start.slice(i, 1)).unwrap_or_else(|_| new_null_array(&result, 1))).collect();
    let parts: Vec<&dyn Array> = each.iter().map(AsRef::as_ref).collect();
    Ok(arrow::compute::concat(&parts)?)
}

/// Why a table that takes in a subject's column, or is computed from one, does not show it.
fn reason(table: &BoundTable, subject: &str, roots: &BTreeMap<String, ArrayRef>, blocked: &[(&str, &str)]) -> Option<String> {
    if let Some(column) = roots.keys().next() {
        let masked = mask::masked_columns(&table.steps).into_iter().find(|(name, _)| name == column);
        return Some(match masked {
            Some((_, mask)) => format!("{subject}: column {column} is masked by {}", mask_name(mask)),
            None => format!("{subject}: column {column} of the input does not reach the table"),
        });
    }
    blocked.first().map(|(column, by)| format!("{subject}: column {column} is made by {by}, which does not give the value back"))
}

fn mask_name(mask: &Mask) -> &'static str {
    match mask {
        Mask::Tokenize(_) => "tokenize",
        Mask::Hash(_) => "hash",
        Mask::Null(_) => "null",
        Mask::Redact(_) => "redact",
        Mask::ShiftDate(_) => "shift_date",
        Mask::Generalize(_) => "generalize",
    }
}

impl Target {
    /// The condition on the rows of a table with this schema; `None` where it has none of the columns.
    pub fn predicate(&self, schema: &Schema) -> Result<Option<Expr>> {
        let mut any: Option<Expr> = None;
        for (column, arrays) in &self.columns {
            let Ok(field) = schema.field_with_name(column) else { continue };
            let mut seen: BTreeSet<String> = BTreeSet::new();
            let mut list = vec![];
            for array in arrays {
                let typed = cast(array, field.data_type())?;
                for i in (0..typed.len()).filter(|i| typed.is_valid(*i)) {
                    let value = ScalarValue::try_from_array(&typed, i)?;
                    if seen.insert(value.to_string()) {
                        list.push(Expr::Literal(value, None));
                    }
                }
            }
            if !list.is_empty() {
                let one = named(column).in_list(list, false);
                any = Some(any.map_or(one.clone(), |all| all.or(one)));
            }
        }
        Ok(any)
    }
}
