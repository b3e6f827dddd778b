//! Compares two whole rows: needed only where key and order are equal, so it works a cell at a time.

use std::cmp::Ordering;

use arrow::array::make_comparator;
use arrow::array::{Array, AsArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int32Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

use crate::contract::hidden;
use crate::error::Result;

/// Which columns say where a row came from, and which ones users see.
#[derive(Debug, Clone)]
pub(crate) struct RowCompare {
    place: Vec<usize>,
    visible: Vec<usize>,
}

impl RowCompare {
    pub fn new(schema: &Schema) -> Self {
        let place = [hidden::FILE, hidden::LINE].iter().filter_map(|name| schema.index_of(name).ok()).collect();
        let visible = (0..schema.fields().len()).filter(|i| !hidden::RESERVED.contains(&schema.field(*i).name().as_str())).collect();
        RowCompare { place, visible }
    }

    /// By `_file`, then `_line`; equal where the rows have neither.
    pub fn place(&self, a: (&RecordBatch, usize), b: (&RecordBatch, usize)) -> Result<Ordering> {
        compare(&self.place, a, b)
    }

    /// By all columns that users see.
    pub fn visible(&self, a: (&RecordBatch, usize), b: (&RecordBatch, usize)) -> Result<Ordering> {
        compare(&self.visible, a, b)
    }
}

fn compare(columns: &[usize], (a, i): (&RecordBatch, usize), (b, j): (&RecordBatch, usize)) -> Result<Ordering> {
    for c in columns {
        let order = cell(a.column(*c).as_ref(), i, b.column(*c).as_ref(), j)?;
        if order != Ordering::Equal {
            return Ok(order);
        }
    }
    Ok(Ordering::Equal)
}

fn cell(a: &dyn Array, i: usize, b: &dyn Array, j: usize) -> Result<Ordering> {
    match (a.is_null(i), b.is_null(j)) {
        (true, true) => return Ok(Ordering::Equal),
        (true, false) => return Ok(Ordering::Less),
        (false, true) => return Ok(Ordering::Greater),
        (false, false) => {}
    }
    Ok(match a.data_type() {
        DataType::Utf8View => a.as_string_view().value(i).cmp(b.as_string_view().value(j)),
        DataType::Int64 => a.as_primitive::<Int64Type>().value(i).cmp(&b.as_primitive::<Int64Type>().value(j)),
        DataType::Int32 => a.as_primitive::<Int32Type>().value(i).cmp(&b.as_primitive::<Int32Type>().value(j)),
        DataType::Date32 => a.as_primitive::<Date32Type>().value(i).cmp(&b.as_primitive::<Date32Type>().value(j)),
        DataType::Float64 => a.as_primitive::<Float64Type>().value(i).total_cmp(&b.as_primitive::<Float64Type>().value(j)),
        DataType::Boolean => a.as_boolean().value(i).cmp(&b.as_boolean().value(j)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            a.as_primitive::<TimestampMicrosecondType>().value(i).cmp(&b.as_primitive::<TimestampMicrosecondType>().value(j))
        }
        _ => make_comparator(a, b, SortOptions::default())?(i, j),
    })
}
