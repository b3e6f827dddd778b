//! Partition values: as Delta's log has them, and as folder names, `column=value`.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::DateTime;

use crate::error::Result;

/// The folder name of NULL.
pub const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";

/// The value in `row` as Delta serialises it: dates `2024-03-01`, instants `2024-03-01T17:00:00.000000Z`, numbers and
/// booleans as text. NULL and the empty string are both `None`: Delta and Hive cannot tell them apart.
pub(crate) fn value(array: &ArrayRef, row: usize) -> Result<Option<String>> {
    if array.is_null(row) {
        return Ok(None);
    }
    let text = match array.data_type() {
        DataType::Timestamp(_, zone) => {
            let micros =
                arrow::compute::cast(&array.slice(row, 1), &DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, zone.clone()))?;
            let micros = micros.as_primitive::<TimestampMicrosecondType>().value(0);
            match (DateTime::from_timestamp_micros(micros), zone) {
                (Some(t), Some(_)) => t.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
                (Some(t), None) => t.format("%Y-%m-%d %H:%M:%S%.6f").to_string(),
                (None, _) => micros.to_string(),
            }
        }
        _ => ArrayFormatter::try_new(array.as_ref(), &FormatOptions::default())?.value(row).try_to_string()?,
    };
    Ok((!text.is_empty()).then_some(text))
}

/// `column=value`, escaped as Hive and Spark do.
pub(crate) fn folder(column: &str, value: Option<&str>) -> String {
    let mut out = String::new();
    escape(column, &mut out);
    out.push('=');
    match value {
        Some(value) => escape(value, &mut out),
        None => out.push_str(NULL_FOLDER),
    }
    out
}

/// The characters that Hive does not leave in a folder name; everything beyond ASCII stays.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\0'..='\x1f' | '\x7f' | '"' | '#' | '%' | '\'' | '*' | '/' | ':' | '=' | '?' | '\\' | '{' | '[' | ']' | '^' => {
                let _ = write!(out, "%{:02X}", c as u32);
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BooleanArray, Date32Array, Decimal128Array, Int64Array, StringViewArray, TimestampMicrosecondArray, TimestampNanosecondArray,
    };
    use std::sync::Arc;

    #[test]
    fn folders_are_those_of_hive() {
        assert_eq!(folder("city", Some("São Paulo")), "city=São Paulo");
        assert_eq!(folder("a/b", Some("x=1/2%")), "a%2Fb=x%3D1%2F2%25");
        assert_eq!(folder("t", Some("10:00")), "t=10%3A00");
        assert_eq!(folder("t", None), "t=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(folder("t", Some("a\nb")), "t=a%0Ab");
    }

    #[test]
    fn values_are_those_of_delta() {
        let v = |a: ArrayRef| value(&a, 0).unwrap();
        assert_eq!(v(Arc::new(StringViewArray::from(vec![None::<&str>]))), None);
        assert_eq!(v(Arc::new(StringViewArray::from(vec![""]))), None);
        assert_eq!(v(Arc::new(Int64Array::from(vec![-7]))).unwrap(), "-7");
        assert_eq!(v(Arc::new(BooleanArray::from(vec![true]))).unwrap(), "true");
        assert_eq!(v(Arc::new(Date32Array::from(vec![19783]))).unwrap(), "2024-03-01");
        assert_eq!(v(Arc::new(Decimal128Array::from(vec![-105]).with_precision_and_scale(9, 2).unwrap())).unwrap(), "-1.05");
        let t = 1_709_312_400_000_001;
        assert_eq!(v(Arc::new(TimestampMicrosecondArray::from(vec![t]).with_timezone("UTC"))).unwrap(), "2024-03-01T17:00:00.000001Z");
        assert_eq!(v(Arc::new(TimestampNanosecondArray::from(vec![t * 1000]))).unwrap(), "2024-03-01 17:00:00.000001");
    }
}
