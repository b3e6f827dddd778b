//! Partition transforms as a DataFusion function. Results are stable for ever: they name folders.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryViewArray, Int32Array, PrimitiveArray, StringViewArray, StringViewBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use chrono::{Datelike, NaiveDate};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::partition::Transform;
use crate::error::Error;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

/// The type of the transformed value, or `None` where the transform does not take values of this type.
pub(crate) fn result_type(transform: Transform, input: &DataType) -> Option<DataType> {
    let date = matches!(input, DataType::Date32);
    let instant = matches!(input, DataType::Timestamp(..));
    let text = matches!(input, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let bytes = matches!(input, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    let whole = matches!(input, DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64);
    let decimal = matches!(input, DataType::Decimal128(..));
    match transform {
        Transform::Identity => Some(input.clone()),
        Transform::Year if date || instant => Some(DataType::Int32),
        Transform::Month if date || instant => Some(DataType::Utf8View),
        Transform::Day if date || instant => Some(DataType::Date32),
        Transform::Hour if instant => Some(DataType::Utf8View),
        Transform::Bucket(_) if date || instant || text || bytes || whole || decimal => Some(DataType::Int32),
        Transform::Truncate(_) if text => Some(DataType::Utf8View),
        Transform::Truncate(_) if whole || decimal => Some(input.clone()),
        _ => None,
    }
}

/// One transform of one column.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct TransformFn {
    transform: Transform,
    name: String,
    signature: Signature,
}

impl TransformFn {
    pub fn new(transform: Transform) -> Self {
        let name = match transform {
            Transform::Bucket(n) => format!("partition_bucket_{n}"),
            Transform::Truncate(n) => format!("partition_truncate_{n}"),
            other => format!("partition_{other:?}").to_ascii_lowercase(),
        };
        TransformFn { transform, name, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TransformFn {
    fn name(&self) -> &str {
        &self.name
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let found = types.first().and_then(|t| result_type(self.transform, t));
        found.ok_or_else(|| Error::bug(format!("{} over {types:?}", self.name)).into())
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        Ok(ColumnarValue::Array(apply(self.transform, &arrays[0])?))
    }
}

/// Transforms a whole column; NULL stays NULL.
pub(crate) fn apply(transform: Transform, array: &ArrayRef) -> Result<ArrayRef> {
    Ok(match transform {
        Transform::Identity => Arc::clone(array),
        Transform::Day => days(array)?,
        Transform::Year => {
            let days = days(array)?;
            Arc::new(days.as_primitive::<Date32Type>().unary::<_, Int32Type>(|d| civil(d).year()))
        }
        Transform::Month => {
            let days = days(array)?;
            texts(days.as_primitive::<Date32Type>().iter(), |d, out| {
                let date = civil(d);
                let _ = fmt_year_month(out, date);
            })
        }
        Transform::Hour => {
            let micros = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, zone(array)))?;
            let hours = micros.as_primitive::<TimestampMicrosecondType>().iter().map(|v| v.map(|v| v.div_euclid(HOUR)));
            texts(hours, |h, out| {
                use std::fmt::Write;
                let date = civil(h.div_euclid(24) as i32);
                let _ = fmt_year_month(out, date);
                let _ = write!(out, "-{:02}-{:02}", date.day(), h.rem_euclid(24));
            })
        }
        Transform::Bucket(n) => Arc::new(bucket(array, n)?),
        Transform::Truncate(n) => truncate(array, n)?,
    })
}

fn fmt_year_month(out: &mut String, date: NaiveDate) -> std::fmt::Result {
    use std::fmt::Write;
    write!(out, "{:04}-{:02}", date.year(), date.month())
}

/// The zone must stay the same in a cast between units, or Arrow would shift the values.
fn zone(array: &ArrayRef) -> Option<Arc<str>> {
    match array.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    }
}

/// The UTC date of dates and instants.
fn days(array: &ArrayRef) -> Result<ArrayRef> {
    if array.data_type() == &DataType::Date32 {
        return Ok(Arc::clone(array));
    }
    let micros = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, zone(array)))?;
    Ok(Arc::new(micros.as_primitive::<TimestampMicrosecondType>().unary::<_, Date32Type>(|v| v.div_euclid(DAY) as i32)))
}

fn civil(days: i32) -> NaiveDate {
    NaiveDate::from_epoch_days(days).unwrap_or(NaiveDate::MIN)
}

/// Texts of numbers that mostly repeat: each run of equal ones is formatted once.
fn texts<T: PartialEq + Copy>(values: impl ExactSizeIterator<Item = Option<T>>, write: impl Fn(T, &mut String)) -> ArrayRef {
    let mut out = StringViewBuilder::with_capacity(values.len());
    let mut text = String::new();
    let mut last = None;
    for value in values {
        match value {
            None => out.append_null(),
            Some(v) => {
                if last != value {
                    text.clear();
                    write(v, &mut text);
                    last = value;
                }
                out.append_value(&text);
            }
        }
    }
    Arc::new(out.finish())
}

fn bucket(array: &ArrayRef, n: u32) -> Result<Int32Array> {
    let place = |h: u32| ((h & i32::MAX as u32) % n) as i32;
    let long = |v: i64| place(murmur3(&v.to_le_bytes()));
    let over = |t: DataType| cast(array, &t);
    Ok(match array.data_type() {
        DataType::Timestamp(..) => {
            let micros = over(DataType::Timestamp(TimeUnit::Microsecond, zone(array)))?;
            micros.as_primitive::<TimestampMicrosecondType>().unary(long)
        }
        DataType::Date32 => array.as_primitive::<Date32Type>().unary(|v| long(v.into())),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().unary(|v| {
            // The shortest big-endian two's complement of the unscaled value.
            let bytes = v.to_be_bytes();
            let mut from = 0;
            while from < 15 && ((bytes[from] == 0 && bytes[from + 1] < 0x80) || (bytes[from] == 0xff && bytes[from + 1] >= 0x80)) {
                from += 1;
            }
            place(murmur3(&bytes[from..]))
        }),
        t if t.is_integer() => over(DataType::Int64)?.as_primitive::<Int64Type>().unary(long),
        DataType::Utf8View => hashed(&array.as_string_view().clone().to_binary_view(), place),
        DataType::Utf8 | DataType::LargeUtf8 => hashed(&over(DataType::Utf8View)?.as_string_view().clone().to_binary_view(), place),
        _ => hashed(over(DataType::BinaryView)?.as_binary_view(), place),
    })
}

fn hashed(array: &BinaryViewArray, place: impl Fn(u32) -> i32) -> Int32Array {
    array.iter().map(|v| v.map(|v| place(murmur3(v)))).collect()
}

fn truncate(array: &ArrayRef, n: u32) -> Result<ArrayRef> {
    fn whole<T: ArrowPrimitiveType>(array: &ArrayRef, n: u32) -> ArrayRef
    where
        T::Native: Into<i64> + TryFrom<i64>,
    {
        // Rounding the least values down leaves the type; they stay at its minimum's multiple by wrapping to themselves.
        let down = |v: T::Native| {
            let wide: i64 = v.into();
            wide.checked_sub(wide.rem_euclid(i64::from(n))).and_then(|w| T::Native::try_from(w).ok()).unwrap_or(v)
        };
        Arc::new(array.as_primitive::<T>().unary::<_, T>(down))
    }
    Ok(match array.data_type() {
        DataType::Int8 => whole::<Int8Type>(array, n),
        DataType::Int16 => whole::<Int16Type>(array, n),
        DataType::Int32 => whole::<Int32Type>(array, n),
        DataType::Int64 => whole::<Int64Type>(array, n),
        DataType::Decimal128(p, s) => {
            let down: PrimitiveArray<Decimal128Type> = array.as_primitive::<Decimal128Type>().unary(|v| v - v.rem_euclid(i128::from(n)));
            Arc::new(down.with_precision_and_scale(*p, *s)?)
        }
        _ => {
            let texts = cast(array, &DataType::Utf8View)?;
            let cut = |v: &str| v.char_indices().nth(n as usize).map_or(v.len(), |(i, _)| i);
            let texts: StringViewArray = texts.as_string_view().iter().map(|v| v.map(|v| v[..cut(v)].to_owned())).collect();
            Arc::new(texts)
        }
    })
}

/// Murmur3, x86, 32 bits, seed 0: the hash of Iceberg's bucket transform.
fn murmur3(bytes: &[u8]) -> u32 {
    const C1: u32 = 0xcc9e_2d51;
    const C2: u32 = 0x1b87_3593;
    let mix = |k: u32| k.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let (blocks, rest) = bytes.as_chunks::<4>();
    let mut h = 0u32;
    for block in blocks {
        h = (h ^ mix(u32::from_le_bytes(*block))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    if !rest.is_empty() {
        let mut last = [0u8; 4];
        last[..rest.len()].copy_from_slice(rest);
        h ^= mix(u32::from_le_bytes(last));
    }
    h ^= bytes.len() as u32;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, Decimal128Array, Int64Array, TimestampMicrosecondArray, TimestampNanosecondArray};

    /// The values of the Iceberg specification, appendix B.
    #[test]
    fn hashes_are_those_of_iceberg() {
        assert_eq!(murmur3(&34i64.to_le_bytes()) as i32, 2017239379);
        assert_eq!(murmur3(b"iceberg") as i32, 1210000089);
        assert_eq!(murmur3(&[0, 1, 2, 3]) as i32, -188683207);
        let d: ArrayRef = Arc::new(Decimal128Array::from(vec![1420]).with_precision_and_scale(9, 2).unwrap());
        assert_eq!(bucket(&d, i32::MAX as u32).unwrap().value(0), -500754589i32 & i32::MAX);
        let date: ArrayRef = Arc::new(Date32Array::from(vec![17486]));
        assert_eq!(bucket(&date, i32::MAX as u32).unwrap().value(0), -653330422i32 & i32::MAX);
        let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_510_871_468_000_000]));
        assert_eq!(bucket(&at, i32::MAX as u32).unwrap().value(0), -2047944441i32 & i32::MAX);
        let ns: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_510_871_468_000_000_001]).with_timezone("+02:00"));
        assert_eq!(bucket(&ns, 100).unwrap().value(0), bucket(&at, 100).unwrap().value(0));
    }

    #[test]
    fn times_before_the_epoch_round_down() {
        let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None, Some(0), Some(3 * HOUR)]).with_timezone("UTC"));
        let text = |t| apply(t, &at).unwrap().as_string_view().iter().map(|v| v.map(str::to_owned)).collect::<Vec<_>>();
        let own = |v: [&str; 3]| vec![Some(v[0].to_owned()), None, Some(v[1].to_owned()), Some(v[2].to_owned())];
        assert_eq!(text(Transform::Month), own(["1969-12", "1970-01", "1970-01"]));
        assert_eq!(text(Transform::Hour), own(["1969-12-31-23", "1970-01-01-00", "1970-01-01-03"]));
        let years = apply(Transform::Year, &at).unwrap();
        assert_eq!(years.as_primitive::<Int32Type>(), &Int32Array::from(vec![Some(1969), None, Some(1970), Some(1970)]));
        let days = apply(Transform::Day, &at).unwrap();
        assert_eq!(days.as_primitive::<Date32Type>(), &Date32Array::from(vec![Some(-1), None, Some(0), Some(0)]));
    }

    #[test]
    fn truncation_is_by_characters_and_rounds_down() {
        let t: ArrayRef = Arc::new(StringViewArray::from(vec![Some("São Paulo"), Some("é"), None, Some("")]));
        assert_eq!(truncate(&t, 3).unwrap().as_string_view(), &StringViewArray::from(vec![Some("São"), Some("é"), None, Some("")]));
        let n: ArrayRef = Arc::new(Int64Array::from(vec![1, -1, 10, 19, i64::MIN]));
        assert_eq!(truncate(&n, 10).unwrap().as_primitive::<Int64Type>().values(), &[0, -10, 10, 10, i64::MIN]);
        let d: ArrayRef = Arc::new(Decimal128Array::from(vec![1065]).with_precision_and_scale(9, 2).unwrap());
        assert_eq!(truncate(&d, 50).unwrap().as_primitive::<Decimal128Type>().value(0), 1050);
    }
}
