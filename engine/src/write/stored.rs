//! The Arrow types that files hold. Engines differ in what else they would read.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};

use crate::error::{Complaint, Error, Result};

/// How a column of this type is written; `None` where it cannot be.
///
/// Instants become microseconds in UTC, whatever their unit or zone; unsigned integers the next wider signed one
/// (UInt64: Int64, larger values fail); times of day and dictionaries their text or values; NULL columns text.
pub fn stored_type(t: &DataType) -> Option<DataType> {
    let inner = |f: &FieldRef| stored_type(f.data_type()).map(|t| Arc::new(f.as_ref().clone().with_data_type(t)));
    Some(match t {
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Date64 => DataType::Date32,
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Null | DataType::Time32(_) | DataType::Time64(_) => DataType::Utf8View,
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::BinaryView,
        DataType::Dictionary(_, values) => stored_type(values)?,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
        DataType::Decimal256(..) | DataType::Interval(_) | DataType::Duration(_) | DataType::Union(..) | DataType::RunEndEncoded(..) => {
            return None;
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect::<Option<_>>()?),
        DataType::List(f) | DataType::LargeList(f) | DataType::ListView(f) | DataType::LargeListView(f) | DataType::FixedSizeList(f, _) => {
            DataType::List(inner(f)?)
        }
        DataType::Map(f, sorted) => DataType::Map(inner(f)?, *sorted),
        other => other.clone(),
    })
}

/// The schema of a table that a plan with this schema writes, partition columns included; metadata is left out.
///
/// # Errors
/// `Error::Pipeline` with a complaint for each column whose type cannot be stored.
pub fn stored_schema(schema: &Schema) -> Result<Schema> {
    let mut wrong = vec![];
    let mut fields = vec![];
    for field in schema.fields() {
        match stored_type(field.data_type()) {
            Some(t) => fields.push(Field::new(field.name(), t, field.is_nullable())),
            None => wrong.push(
                Complaint::at(Vec::<String>::new(), format!("column {} is {}, which tables do not hold", field.name(), field.data_type()))
                    .help("cast it to another type first"),
            ),
        }
    }
    if wrong.is_empty() { Ok(Schema::new(fields)) } else { Err(Error::Pipeline(wrong)) }
}

/// Casts what must be cast.
pub(crate) fn plan(input: LogicalPlan) -> Result<LogicalPlan> {
    let schema: &DFSchema = input.schema();
    let stored = stored_schema(schema.as_arrow())?;
    if schema.fields().iter().zip(stored.fields()).all(|(a, b)| a.data_type() == b.data_type()) {
        return Ok(input);
    }
    let exprs: Vec<Expr> = schema
        .iter()
        .zip(stored.fields())
        .map(|((qualifier, field), to)| {
            let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
            if field.data_type() == to.data_type() { column } else { cast(column, to.data_type().clone()).alias(field.name()) }
        })
        .collect();
    Ok(LogicalPlanBuilder::from(input).project(exprs)?.build()?)
}
