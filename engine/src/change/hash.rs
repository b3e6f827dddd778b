//! The row hash: 64 bits that are equal where the values are. The same on every platform and in every version, because tables keep it.
//!
//! The hash of a row is the sum, modulo 2^64, of the hashes of its columns; NULL adds nothing, so that a column which is added
//! later leaves the hashes of older rows alone. The hash of a value is XXH64 of its bytes, seeded with XXH64 (seed 0) of the column's
//! name. Bytes: text and binary as they are; integers, dates and timestamps (microseconds) as 64-bit little-endian; floating
//! point as the bits of a double; Boolean as one byte; decimals without trailing zeros as 128-bit little-endian digits and the scale;
//! lists, maps and structs as the 64-bit little-endian hashes of their members. Widening a type keeps the hash.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, TimeUnit};
use twox_hash::XxHash64;

use crate::error::{Error, Result};

/// The hash of each value of a column named `name`; 0 for NULL.
pub(super) fn column(name: &str, array: &dyn Array) -> Result<Vec<u64>> {
    let mut out = vec![0; array.len()];
    add(XxHash64::oneshot(0, name.as_bytes()), array, &mut out)?;
    Ok(out)
}

/// Adds the hashes of `array` to `out`.
fn add(seed: u64, array: &dyn Array, out: &mut [u64]) -> Result<()> {
    let nulls = array.nulls();
    let valid = |row: usize| nulls.is_none_or(|n| n.is_valid(row));
    let mut each = |hash: &mut dyn FnMut(usize) -> u64| {
        for (row, out) in out.iter_mut().enumerate() {
            if valid(row) {
                *out = out.wrapping_add(hash(row));
            }
        }
    };
    match array.data_type() {
        DataType::Null => {}
        DataType::Boolean => {
            let array = array.as_boolean();
            each(&mut |row| XxHash64::oneshot(seed, &[u8::from(array.value(row))]));
        }
        DataType::Utf8View => {
            let array = array.as_string_view();
            each(&mut |row| XxHash64::oneshot(seed, array.value(row).as_bytes()));
        }
        DataType::Utf8 => {
            let array = array.as_string::<i32>();
            each(&mut |row| XxHash64::oneshot(seed, array.value(row).as_bytes()));
        }
        DataType::BinaryView => {
            let array = array.as_binary_view();
            each(&mut |row| XxHash64::oneshot(seed, array.value(row)));
        }
        DataType::Int64 => {
            let array = array.as_primitive::<Int64Type>();
            each(&mut |row| XxHash64::oneshot(seed, &array.value(row).to_le_bytes()));
        }
        DataType::Float64 => {
            let array = array.as_primitive::<Float64Type>();
            each(&mut |row| XxHash64::oneshot(seed, &array.value(row).to_bits().to_le_bytes()));
        }
        DataType::Decimal128(_, scale) => {
            let array = array.as_primitive::<Decimal128Type>();
            each(&mut |row| {
                let (mut digits, mut scale) = (array.value(row), i64::from(*scale));
                while digits != 0 && digits % 10 == 0 {
                    digits /= 10;
                    scale -= 1;
                }
                let mut bytes = [0; 24];
                bytes[..16].copy_from_slice(&digits.to_le_bytes());
                bytes[16..].copy_from_slice(&if digits == 0 { 0 } else { scale }.to_le_bytes());
                XxHash64::oneshot(seed, &bytes)
            });
        }
        DataType::Struct(_) => {
            let array = array.as_struct();
            let mut inner = vec![0; array.len()];
            for (field, child) in array.fields().iter().zip(array.columns()) {
                add(XxHash64::oneshot(0, field.name().as_bytes()), child, &mut inner)?;
            }
            each(&mut |row| XxHash64::oneshot(seed, &inner[row].to_le_bytes()));
        }
        DataType::List(_) => {
            let array = array.as_list::<i32>();
            let elements = elements(array.values())?;
            each(&mut |row| ranged(seed, &elements, array.value_offsets()[row], array.value_offsets()[row + 1]));
        }
        DataType::Map(..) => {
            let array = array.as_map();
            let elements = elements(array.entries())?;
            each(&mut |row| ranged(seed, &elements, array.value_offsets()[row], array.value_offsets()[row + 1]));
        }
        ty => {
            let plain = match ty {
                t if t.is_integer() => DataType::Int64,
                DataType::Float16 | DataType::Float32 => DataType::Float64,
                DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) => DataType::Int64,
                DataType::Timestamp(TimeUnit::Microsecond, _) => DataType::Int64,
                DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
                DataType::LargeUtf8 | DataType::Dictionary(..) => DataType::Utf8View,
                DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::BinaryView,
                DataType::LargeList(f) | DataType::FixedSizeList(f, _) => DataType::List(f.clone()),
                other => return Err(Error::bug(format!("no row hash for {other}"))),
            };
            let through = match ty {
                DataType::Date32 | DataType::Time32(_) => Some(DataType::Int32),
                _ => None,
            };
            let array: ArrayRef = match through {
                Some(through) => cast(&cast(array, &through)?, &plain)?,
                None => cast(array, &plain)?,
            };
            add(seed, &array, out)?;
        }
    }
    Ok(())
}

fn elements(values: &dyn Array) -> Result<Vec<u64>> {
    let mut out = vec![0; values.len()];
    add(0, values, &mut out)?;
    Ok(out)
}

fn ranged(seed: u64, elements: &[u64], from: i32, to: i32) -> u64 {
    let bytes: Vec<u8> = elements[from as usize..to as usize].iter().flat_map(|h| h.to_le_bytes()).collect();
    XxHash64::oneshot(seed, &bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Int32Array, Int64Array, StringArray, StringViewArray};

    use super::*;

    #[test]
    fn widening_and_layout_leave_the_hash_alone() {
        let narrow = column("n", &Int32Array::from(vec![Some(7), None, Some(-1)])).unwrap();
        let wide = column("n", &Int64Array::from(vec![Some(7), None, Some(-1)])).unwrap();
        assert_eq!(narrow, wide);
        assert_eq!(narrow[1], 0);
        assert_ne!(narrow, column("m", &Int64Array::from(vec![Some(7), None, Some(-1)])).unwrap());
        let text = column("t", &StringArray::from(vec!["a", ""])).unwrap();
        assert_eq!(text, column("t", &StringViewArray::from(vec!["a", ""])).unwrap());
        let money = Decimal128Array::from(vec![1250, 0]).with_precision_and_scale(12, 2).unwrap();
        let wider = Decimal128Array::from(vec![125_000, 0]).with_precision_and_scale(14, 4).unwrap();
        assert_eq!(column("d", &money).unwrap(), column("d", &wider).unwrap());
    }

    /// Tables keep these: they may never change.
    #[test]
    fn the_hash_is_what_it_was() {
        let array: ArrayRef = Arc::new(StringViewArray::from(vec!["Porto Alegre"]));
        let expected = XxHash64::oneshot(XxHash64::oneshot(0, b"city"), b"Porto Alegre");
        assert_eq!(column("city", &array).unwrap(), vec![expected]);
        assert_eq!(XxHash64::oneshot(0, b""), 0xef46_db37_51d8_e999);
    }
}
