//! The columns of a table under a change mode: what the rows bring, what the table has, what the mode adds.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{EmptyRelation, LogicalPlan};

use super::events::{Missing, plan_events};
use super::plan::{ChangeMode, Kind, Layout};
use crate::contract::hidden;
use crate::error::Result;
use crate::steps::{Scope, under};
use crate::write::{PartitionBy, Transform, plan_partitions};

/// The columns of a table under a change mode.
#[derive(Debug, Clone)]
pub struct Shape {
    pub layout: Layout,
    /// All columns of the table, in the order of a new one.
    pub schema: SchemaRef,
    pub partition_columns: Vec<String>,
    /// Columns of the table that the rows do not have any more.
    pub missing: Vec<String>,
}

/// Divides the columns of `rows` (what the steps give) and of the table, if there is one.
///
/// # Errors
/// `Error::Pipeline`, paths from the table: `write.merge.keys.0`, `partition_by.1`.
pub fn shape(mode: &ChangeMode, rows: &Schema, base: Option<&Schema>, partition_by: &[PartitionBy]) -> Result<Shape> {
    let computed: BTreeSet<String> = partition_by.iter().filter(|p| p.transform != Transform::Identity).map(PartitionBy::name).collect();
    let surrogate = mode.surrogate_key.as_ref().map(|s| s.name.as_str());
    let added = mode.extras(&DataType::Int64, &[]);
    let left_out = |name: &str| {
        let sequence: &[String] = if mode.kind == Kind::Snapshot { &mode.sequence } else { &[] };
        mode.except.iter().chain(sequence).any(|n| n == name)
    };
    let own = |name: &str| {
        let of_mode = surrogate == Some(name) || added.iter().any(|f| f.name() == name);
        !of_mode && !computed.contains(name)
    };
    let missing: Vec<String> = base
        .iter()
        .flat_map(|b| b.fields())
        .filter(|f| own(f.name()) && (rows.field_with_name(f.name()).is_err() || left_out(f.name())))
        .map(|f| f.name().clone())
        .collect();
    // what the table has stored stays in its place, whether it is still given or not
    let stored = |name: &String| base.is_some_and(|b| b.field_with_name(name).is_ok()) && own(name);
    let mode = &ChangeMode { except: mode.except.iter().filter(|e| !stored(e)).cloned().collect(), ..mode.clone() };
    // the order of the table, then what is new
    let mut fields: Vec<Field> = vec![];
    for field in base.iter().flat_map(|b| b.fields()).filter(|f| own(f.name())) {
        let field = rows.field_with_name(field.name()).unwrap_or(field);
        fields.push(Field::new(field.name(), field.data_type().clone(), true));
    }
    for field in rows.fields().iter().filter(|f| !hidden::RESERVED.contains(&f.name().as_str()) || f.name() == hidden::RESCUED) {
        if !fields.iter().any(|f| f.name() == field.name()) {
            fields.push(Field::new(field.name(), field.data_type().clone(), true));
        }
    }
    let layout = mode.layout(&Schema::new(fields)).map_err(|e| under(e, &["write", mode.name()]))?;
    let schema = mode.table_schema(&layout);
    let relation = EmptyRelation { produce_one_row: false, schema: Arc::new(DFSchema::try_from(schema)?) };
    let (plan, partition_columns) =
        plan_partitions(LogicalPlan::EmptyRelation(relation), partition_by).map_err(|e| under(e, &["partition_by"]))?;
    let fields: Vec<Field> = plan.schema().as_arrow().fields().iter().map(|f| Field::new(f.name(), f.data_type().clone(), true)).collect();
    Ok(Shape { layout, schema: Arc::new(Schema::new(fields)), partition_columns, missing })
}

/// Plans a change without any table or data: everything that can be wrong with its configuration is found.
pub fn check(mode: &ChangeMode, rows: LogicalPlan, schema: &Schema, partition_by: &[PartitionBy], scope: &Scope<'_>) -> Result<Shape> {
    let shape = shape(mode, schema, None, partition_by)?;
    plan_events(rows, mode, &shape.layout, &Missing::default(), scope, 0).map_err(|e| under(e, &["write", mode.name()]))?;
    Ok(shape)
}
