//! `generalize`: coarser values, by DataFusion's own functions.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::functions::expr_fn::{date_trunc, floor, left};
use datafusion::logical_expr::{Expr, cast, lit};

use super::{Column, TextMask};
use crate::error::Complaint;
use crate::steps::expression::column as named;

/// Makes a value coarser. One of the keys is given.
///
/// ```yaml
/// birth_date: {generalize: {year: true}}
/// zip: {generalize: {prefix: 3}}
/// salary: {generalize: {bucket: 1000}}
/// ```
#[derive(Debug, Clone, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generalize {
    /// The first day of the date's year.
    #[serde(default)]
    pub year: bool,
    /// The first day of the date's quarter.
    #[serde(default)]
    pub quarter: bool,
    /// The first day of the date's month.
    #[serde(default)]
    pub month: bool,
    /// The first characters of a text, as of a postal code.
    #[schemars(range(min = 1))]
    pub prefix: Option<u16>,
    /// The lower bound of the bucket of this width that a number falls in: 1234 with 100 gives 1200, -1 gives -100.
    #[schemars(range(min = 1))]
    pub bucket: Option<u32>,
}

impl Generalize {
    pub(super) fn expression(&self, column: Column<'_>) -> Result<Expr, Vec<Complaint>> {
        let units = [("year", self.year), ("quarter", self.quarter), ("month", self.month)];
        let unit = units.iter().find(|(_, on)| *on).map(|(unit, _)| *unit);
        let given = units.iter().filter(|(_, on)| *on).count() + usize::from(self.prefix.is_some()) + usize::from(self.bucket.is_some());
        if given != 1 {
            let complaint = column.complaint(&["generalize"], "generalize takes one of year, quarter, month, prefix and bucket");
            return Err(vec![complaint.help("write for example `generalize: {year: true}`")]);
        }
        if self.prefix == Some(0) || self.bucket == Some(0) {
            let key = if self.prefix.is_some() { "prefix" } else { "bucket" };
            return Err(vec![column.complaint(&["generalize", key], format!("{key} is at least 1"))]);
        }
        let value = named(column.name);
        match (unit, self.prefix, self.bucket) {
            (Some(unit), _, _) => match column.ty {
                DataType::Date32 | DataType::Timestamp(_, _) => Ok(cast(date_trunc(lit(unit), value), column.ty.clone())),
                _ => Err(column.wrong_type("generalize", &format!("dates and timestamps with `{unit}`"))),
            },
            (_, Some(prefix), _) => match column.as_text() {
                Some(text) if !column.ty.is_integer() => Ok(cast(left(text, lit(i64::from(prefix))), DataType::Utf8View)),
                _ => Err(column.wrong_type("generalize", "strings with `prefix`")),
            },
            (_, _, Some(bucket)) => bucketed(column, bucket).ok_or_else(|| column.wrong_type("generalize", "numbers with `bucket`")),
            _ => Err(column.wrong_type("generalize", "one key")),
        }
    }

    /// On raw text only a prefix has a meaning.
    pub(super) fn text(&self) -> Option<TextMask> {
        let prefix = usize::from(self.prefix?);
        Some(Arc::new(move |value| Some(value.chars().take(prefix).collect())))
    }
}

/// The greatest multiple of `width` that is not above the value, in the column's type (wider by one step where it might not fit).
fn bucketed(column: Column<'_>, width: u32) -> Option<Expr> {
    let value = named(column.name);
    match column.ty {
        ty if ty.is_signed_integer() => {
            let wide = cast(value, DataType::Int64);
            let width = lit(i64::from(width));
            // The remainder has the sign of the value; this one is never negative.
            let rest = (wide.clone() % width.clone() + width.clone()) % width;
            let out = if *ty == DataType::Int64 { DataType::Int64 } else { DataType::Int32 };
            Some(cast(wide - rest, if *ty == DataType::Int32 { DataType::Int64 } else { out }))
        }
        DataType::Float32 | DataType::Float64 => {
            let width = lit(f64::from(width));
            Some(cast(floor(cast(value, DataType::Float64) / width.clone()) * width, column.ty.clone()))
        }
        DataType::Decimal128(precision, scale) => {
            let ty = DataType::Decimal128(*precision, *scale);
            let scaled = i128::from(width).checked_mul(10i128.checked_pow(u32::try_from(*scale).ok()?)?)?;
            // A bucket wider than the type holds: all positive values fall in the one at zero, and the type cannot say so for negative ones.
            if scaled >= 10i128.checked_pow(u32::from(*precision))? {
                return None;
            }
            let width = Expr::Literal(ScalarValue::Decimal128(Some(scaled), *precision, *scale), None);
            let rest = (value.clone() % width.clone() + width.clone()) % width;
            Some(cast(value - rest, ty))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::testing::*;
    use arrow::array::{ArrayRef, Date32Array, Decimal128Array, Float64Array, TimestampMicrosecondArray};

    #[tokio::test]
    async fn each_type_has_its_coarser_form() {
        let date: ArrayRef = Arc::new(Date32Array::from(vec![Some(45), None]));
        let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(200 * 86_400_000_000), None]).with_timezone("UTC"));
        let zip = text(&[Some("04538"), None]);
        let whole = ints(&[Some(-1), Some(1234)]);
        let real: ArrayRef = Arc::new(Float64Array::from(vec![Some(-0.5), Some(199.9)]));
        let money: ArrayRef = Arc::new(Decimal128Array::from(vec![Some(-50), Some(123_456)]).with_precision_and_scale(12, 2).unwrap());
        let columns = [("date", date), ("time", time), ("zip", zip), ("whole", whole), ("real", real), ("money", money)];
        let json = r#"[{"mask": {"date": {"generalize": {"month": true}}, "time": {"generalize": {"quarter": true}}, "zip": {"generalize": {"prefix": 3}},
            "whole": {"generalize": {"bucket": 100}}, "real": {"generalize": {"bucket": 100}}, "money": {"generalize": {"bucket": 10}}}}]"#;
        let out = run_over(json, &columns).await.unwrap();
        assert_eq!(out.lines().nth(1), Some("1970-02-01,1970-07-01T00:00:00Z,045,-100,-100.0,-10.00"));
        assert_eq!(out.lines().nth(2), Some(",,,1200,100.0,1230.00"));
    }

    #[tokio::test]
    async fn one_key_that_fits_the_type() {
        assert!(complaints(r#"[{"mask": {"name": {"generalize": {"year": true, "prefix": 2}}}}]"#).await[0].message.contains("one of"));
        assert!(complaints(r#"[{"mask": {"name": {"generalize": {"year": true}}}}]"#).await[0].message.contains("dates"));
        assert!(complaints(r#"[{"mask": {"price": {"generalize": {"prefix": 2}}}}]"#).await[0].message.contains("strings"));
    }
}
