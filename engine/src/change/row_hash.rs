//! The row hash as a DataFusion function; see `hash` for what it is.

use std::sync::Arc;

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field};
use datafusion::common::Column;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::hash;

/// The row hash over columns, as Int64.
pub(super) fn row_hash(columns: &[&Field]) -> Expr {
    let args = columns.iter().map(|f| Expr::Column(Column::from_name(f.name()))).collect();
    hash_of(columns, args)
}

/// The row hash over `args`, which have the names of `columns`.
pub(super) fn hash_of(columns: &[&Field], args: Vec<Expr>) -> Expr {
    let names = columns.iter().map(|f| f.name().clone()).collect();
    if args.is_empty() {
        return datafusion::logical_expr::lit(0i64);
    }
    ScalarUDF::new_from_impl(RowHash { names, signature: Signature::any(args.len(), Volatility::Immutable) }).call(args)
}

#[derive(Debug, PartialEq, Eq)]
struct RowHash {
    names: Vec<String>,
    signature: Signature,
}

impl std::hash::Hash for RowHash {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.names.hash(state);
    }
}

impl ScalarUDFImpl for RowHash {
    fn name(&self) -> &str {
        "row_hash"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Int64)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let mut sum = vec![0u64; arrays.first().map_or(0, |a| a.len())];
        for (name, array) in self.names.iter().zip(&arrays) {
            for (sum, hash) in sum.iter_mut().zip(hash::column(name, array)?) {
                *sum = sum.wrapping_add(hash);
            }
        }
        Ok(ColumnarValue::Array(Arc::new(Int64Array::from_iter_values(sum.into_iter().map(|h| h as i64)))))
    }
}
