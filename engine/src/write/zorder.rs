//! The Z-order of rows: a key that keeps rows together which are near each other in several columns at once, so that files written in
//! its order have narrow bounds in each of them.
//!
//! Each column's value becomes 64 bits that order as the values do (its Arrow row form, less what all values have in common), stretched
//! to the range that the column has in these rows; the bits of the columns are then interleaved. Without the stretching, a column of small
//! numbers would say nothing beside one of text. NULL comes first.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryBuilder};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use datafusion::error::Result as DfResult;
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::logical_expr::{ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::prelude::{DataFrame, SessionContext};

use crate::error::{Complaint, Error, Result};

/// Whether rows can be put in the order of a column of this type.
pub fn sortable(ty: &DataType) -> bool {
    !ty.is_nested() && !matches!(ty, DataType::Null | DataType::Interval(_)) && RowConverter::supports_fields(&[SortField::new(ty.clone())])
}

/// The key of `columns` over the rows of `input`, which is read for the columns' bounds.
///
/// # Errors
/// `Error::Pipeline` where a column is not there or has no order.
pub async fn key(session: &SessionContext, input: &LogicalPlan, columns: &[String]) -> Result<Expr> {
    let schema = Arc::clone(input.schema());
    let mut bounds = vec![];
    let mut arguments = vec![];
    for column in columns {
        let (qualifier, field) = schema
            .qualified_field_with_unqualified_name(column)
            .map_err(|_| Error::pipeline(Complaint::at(Vec::<String>::new(), format!("there is no column {column} to order by"))))?;
        if !sortable(field.data_type()) {
            let c = Complaint::at(Vec::<String>::new(), format!("column {column} is {}, which has no order", field.data_type()));
            return Err(Error::pipeline(c.help("order by another column")));
        }
        let expr = Expr::Column(datafusion::common::Column::new(qualifier.cloned(), field.name()));
        bounds.extend([min(expr.clone()), max(expr.clone())]);
        arguments.push(expr);
    }
    let frame = DataFrame::new(session.state(), input.clone());
    let batches = frame.aggregate(vec![], bounds)?.collect().await?;
    let row = batches.iter().find(|b| b.num_rows() > 0).ok_or_else(|| Error::bug("an aggregate gave no row"))?;
    let ranges = (0..columns.len()).map(|i| Range::new(row.column(2 * i), row.column(2 * i + 1))).collect::<Result<Vec<_>>>()?;
    Ok(ScalarUDF::new_from_impl(ZOrder { ranges, signature: Signature::any(columns.len(), Volatility::Immutable) }).call(arguments))
}

/// Where the values of one column lie.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Range {
    /// Bytes at the beginning of the row form that all values share.
    shared: Vec<u8>,
    /// The next eight bytes of the least value.
    low: u64,
    /// And how far the greatest one's may be shifted without loss.
    shift: u32,
}

impl Range {
    /// `low` and `high` hold one value each, or NULL where there is none.
    fn new(low: &ArrayRef, high: &ArrayRef) -> Result<Self> {
        if low.is_null(0) || high.is_null(0) {
            return Ok(Range { shared: vec![], low: 0, shift: 0 });
        }
        let converter = RowConverter::new(vec![SortField::new(low.data_type().clone())])?;
        let (low, high) = (converter.convert_columns(&[Arc::clone(low)])?, converter.convert_columns(&[Arc::clone(high)])?);
        let (low, high) = (low.row(0), high.row(0));
        let (low, high) = (low.as_ref(), high.as_ref());
        let shared = low.iter().zip(high).take_while(|(a, b)| a == b).count();
        let (from, to) = (eight(low, shared), eight(high, shared));
        Ok(Range { shared: low[..shared].to_vec(), low: from, shift: to.saturating_sub(from).leading_zeros().min(63) })
    }

    /// 63 bits at the top that order as the values do. What lies outside of the range goes to its ends.
    fn place(&self, row: &[u8]) -> u64 {
        let head = &row[..self.shared.len().min(row.len())];
        let value = match head.cmp(&self.shared) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Greater => u64::MAX,
            std::cmp::Ordering::Equal => {
                let above = eight(row, self.shared.len()).saturating_sub(self.low);
                if above.leading_zeros() < self.shift { u64::MAX } else { above << self.shift }
            }
        };
        // The first bit sets values apart from NULL.
        (value >> 1) | (1 << 63)
    }
}

/// Eight bytes from `at` on, zeros beyond the end.
fn eight(row: &[u8], at: usize) -> u64 {
    let mut bytes = [0u8; 8];
    let rest = row.get(at..).unwrap_or_default();
    let n = rest.len().min(8);
    bytes[..n].copy_from_slice(&rest[..n]);
    u64::from_be_bytes(bytes)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ZOrder {
    ranges: Vec<Range>,
    signature: Signature,
}

impl ScalarUDFImpl for ZOrder {
    fn name(&self) -> &str {
        "zorder"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Binary)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let rows = arrays.first().map_or(args.number_rows, |a| a.len());
        let mut places = vec![];
        for (range, array) in self.ranges.iter().zip(&arrays) {
            let converter = RowConverter::new(vec![SortField::new(array.data_type().clone())])?;
            let forms = converter.convert_columns(&[Arc::clone(array)])?;
            places.push((0..rows).map(|i| if array.is_null(i) { 0 } else { range.place(forms.row(i).as_ref()) }).collect::<Vec<u64>>());
        }
        let mut out = BinaryBuilder::with_capacity(rows, rows * 8 * places.len());
        let mut key = vec![0u8; 8 * places.len()];
        for row in 0..rows {
            interleave(places.iter().map(|p| p[row]), &mut key);
            out.append_value(&key);
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}

/// The first bits of all values, then the second bits, and so on. `key` has eight bytes a value.
fn interleave(values: impl ExactSizeIterator<Item = u64>, key: &mut [u8]) {
    key.fill(0);
    let count = values.len();
    for (column, mut value) in values.enumerate() {
        while value != 0 {
            let bit = value.leading_zeros() as usize;
            value &= !(1 << (63 - bit));
            let at = bit * count + column;
            key[at / 8] |= 0x80 >> (at % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch, StringViewArray};
    use datafusion::datasource::{MemTable, provider_as_source};
    use datafusion::logical_expr::LogicalPlanBuilder;

    #[test]
    fn bits_take_turns() {
        let mut key = [0u8; 16];
        interleave([1 << 63, (1 << 62) | 1].into_iter(), &mut key);
        assert_eq!(key[0], 0b1001_0000);
        assert_eq!(key[15], 0b0000_0001);
    }

    #[test]
    fn places_order_as_values_and_use_all_bits() {
        let one = |v: i64| Arc::new(Int64Array::from(vec![v])) as ArrayRef;
        let range = Range::new(&one(-5), &one(1000)).unwrap();
        let converter = RowConverter::new(vec![SortField::new(DataType::Int64)]).unwrap();
        let place = |v: i64| range.place(converter.convert_columns(&[one(v)]).unwrap().row(0).as_ref());
        let places: Vec<u64> = [-9_000_000, -5, 0, 500, 1000, 9_000_000_000].map(place).into();
        assert!(places.is_sorted(), "{places:x?}");
        assert!(places[1] < places[2] && places[2] < places[3] && places[3] < places[4]);
        assert!(places[4] >> 62 == 3, "the greatest value fills the range: {:x}", places[4]);
        // One value only, and none.
        assert_eq!(Range::new(&one(7), &one(7)).unwrap().place(converter.convert_columns(&[one(7)]).unwrap().row(0).as_ref()), 1 << 63);
        let null: ArrayRef = Arc::new(Int64Array::from(vec![None::<i64>]));
        Range::new(&null, &null).unwrap();
    }

    #[tokio::test]
    async fn a_quarter_of_the_rows_has_a_narrow_range_in_both_columns() {
        let n = 4096_i64;
        let number: ArrayRef = Arc::new(Int64Array::from_iter_values((0..n).map(|i| i * 7919 % n)));
        let text: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..n).map(|i| format!("customer-{:06}", i * 104_729 % n))));
        let batch = RecordBatch::try_from_iter([("number", number), ("text", text)]).unwrap();
        let resources = crate::session::Resources::new(64 << 20, 2, None).unwrap();
        let session = resources.session(Arc::default());
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
        let plan = LogicalPlanBuilder::scan("t", provider_as_source(Arc::new(table)), None).unwrap().build().unwrap();
        let key = key(&session, &plan, &["number".into(), "text".into()]).await.unwrap();
        let sorted = LogicalPlanBuilder::from(plan).sort([key.sort(true, true)]).unwrap().build().unwrap();
        let rows = session.execute_logical_plan(sorted).await.unwrap().collect().await.unwrap();
        let all = arrow::compute::concat_batches(&rows[0].schema(), &rows).unwrap();
        use arrow::array::AsArray;
        for quarter in 0..4 {
            let part = all.slice(quarter * 1024, 1024);
            let numbers = part.column(0).as_primitive::<arrow::datatypes::Int64Type>();
            let width = arrow::compute::max(numbers).unwrap() - arrow::compute::min(numbers).unwrap();
            assert!(width < 3 * n / 4, "quarter {quarter} spans {width} numbers");
        }
    }
}
