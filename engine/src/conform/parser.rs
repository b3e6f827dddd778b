//! A column of text to a column of its type: a whole batch at once, straight into the typed buffers. Only a value that fails
//! costs more than its parsing; what was wrong with it is worked out then.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryViewBuilder, BooleanArray, BooleanBufferBuilder, PrimitiveArray, StringViewArray,
    StringViewBuilder,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use base64::Engine;

use super::number::{self, NoDecimal};
use super::sensitive::{SHOWN, scrub, shown};
use super::time::{self, Format, NoTime, TimeText, Zone};
use super::{json, native};
use crate::contract::Column;
use crate::error::{Complaint, Result};
use crate::types::ContractType;

/// How the text of one column (or of one leaf of a nested one) is read. Made once, used by all partitions.
#[derive(Debug)]
pub(crate) struct Parser {
    pub ty: ContractType,
    pub arrow: DataType,
    pub how: How,
}

#[derive(Debug)]
pub(crate) enum How {
    Text,
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    Float,
    Double,
    Decimal(u8, i8),
    /// No format: ISO 8601. So for the next two.
    Date(Vec<Format>),
    Timestamp(Vec<Format>, Zone),
    Time(Vec<Format>),
    Binary(Vec<Encoding>),
    Json,
    Struct(Vec<(String, Parser)>),
    List(Box<Parser>),
    Map(Box<Parser>, Box<Parser>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Hex,
    Base64,
}

/// One value that is not of its type.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub row: usize,
    /// From the column to the value, e.g. `[2].price`; empty for the column itself. Holds no key of a map.
    pub path: String,
    /// The value's text, bounded. In clear: not to be shown where the column is sensitive.
    pub value: String,
    /// What it is not, without the value.
    pub why: String,
}

impl Fault {
    /// For the quarantine; a sensitive column shows the value's shape only.
    pub fn message(&self, column: &str, sensitive: bool) -> String {
        let place = if self.path.is_empty() { String::new() } else { format!("{column}{}: ", self.path) };
        let value = if sensitive { Cow::Owned(scrub(&self.value)) } else { Cow::Borrowed(self.value.as_str()) };
        format!("{place}'{value}' {}", self.why)
    }
}

impl Parser {
    /// A column's parser. Complaints are about the column's `type` and `format`.
    pub fn new(column: &Column) -> Result<Parser, Complaint> {
        if !column.formats.is_empty() && !takes_format(&column.ty) {
            let help = "formats are for date, time, timestamp and binary; leave it out";
            return Err(Complaint::at(["format"], format!("{} takes no format", column.ty)).help(help));
        }
        Parser::of(&column.ty, &column.formats, column.timezone)
    }

    fn of(ty: &ContractType, formats: &[String], timezone: Option<chrono_tz::Tz>) -> Result<Parser, Complaint> {
        let part = |ty: &ContractType| Parser::of(ty, formats, timezone);
        let how = match ty {
            ContractType::String => How::Text,
            ContractType::Boolean => How::Boolean,
            ContractType::Int8 => How::Int8,
            ContractType::Int16 => How::Int16,
            ContractType::Int32 => How::Int32,
            ContractType::Int64 => How::Int64,
            ContractType::Float => How::Float,
            ContractType::Double => How::Double,
            ContractType::Decimal(precision, scale) => How::Decimal(*precision, *scale),
            ContractType::Date => How::Date(compile(formats, "a date", |text, f| time::date(text, f).is_some())?),
            ContractType::Timestamp => {
                let utc = Zone::new(None);
                How::Timestamp(compile(formats, "a date", |text, f| time::timestamp(text, f, &utc).is_ok())?, Zone::new(timezone))
            }
            ContractType::Time => How::Time(compile(formats, "a time of day", |text, f| time::time(text, f).is_some())?),
            ContractType::Binary => How::Binary(encodings(formats)?),
            ContractType::Json => How::Json,
            ContractType::Struct(fields) => {
                How::Struct(fields.iter().map(|(name, ty)| Ok((name.clone(), part(ty)?))).collect::<Result<_, Complaint>>()?)
            }
            ContractType::List(item) => How::List(Box::new(part(item)?)),
            ContractType::Map(key, value) => How::Map(Box::new(part(key)?), Box::new(part(value)?)),
        };
        Ok(Parser { ty: ty.clone(), arrow: ty.arrow(), how })
    }

    /// Parses text, or casts values that come typed, to this type. Values that fail are NULL in the array and named in the list,
    /// in the order of rows only within one leaf.
    pub fn bring(&self, array: &ArrayRef) -> Result<(ArrayRef, Vec<Fault>)> {
        match array.as_any().downcast_ref::<StringViewArray>() {
            Some(text) => self.parse(text),
            None => native::cast(array, self),
        }
    }

    pub fn parse(&self, array: &StringViewArray) -> Result<(ArrayRef, Vec<Fault>)> {
        let (typed, bad): (ArrayRef, Vec<usize>) = match &self.how {
            How::Text => return Ok((Arc::new(array.clone()), vec![])),
            How::Boolean => booleans(array),
            How::Int8 => numbers::<Int8Type>(array, |t| i8::try_from(number::int(t)?).ok()),
            How::Int16 => numbers::<Int16Type>(array, |t| i16::try_from(number::int(t)?).ok()),
            How::Int32 => numbers::<Int32Type>(array, |t| i32::try_from(number::int(t)?).ok()),
            How::Int64 => numbers::<Int64Type>(array, number::int),
            How::Float => numbers::<Float32Type>(array, number::float),
            How::Double => numbers::<Float64Type>(array, number::double),
            How::Decimal(precision, scale) => {
                let (precision, scale) = (*precision, *scale);
                let (values, bad) = primitive::<Decimal128Type>(array, |t| number::decimal(t, precision, scale));
                (Arc::new(values.with_precision_and_scale(precision, scale)?), bad)
            }
            How::Date(formats) => match formats.as_slice() {
                [] => numbers::<Date32Type>(array, time::iso_date),
                [one] => numbers::<Date32Type>(array, |t| time::date(t, one)),
                many => numbers::<Date32Type>(array, |t| many.iter().find_map(|f| time::date(t, f))),
            },
            How::Timestamp(formats, zone) => {
                let (values, bad) = match formats.as_slice() {
                    [] => primitive::<TimestampMicrosecondType>(array, |t| time::iso_timestamp(t, zone).ok()),
                    many => primitive::<TimestampMicrosecondType>(array, |t| many.iter().find_map(|f| time::timestamp(t, f, zone).ok())),
                };
                (Arc::new(values.with_timezone("UTC")), bad)
            }
            How::Time(formats) => times(array, formats),
            How::Binary(encodings) => binaries(array, encodings),
            How::Json => {
                let bad = (0..array.len()).filter(|i| array.is_valid(*i) && !json::valid(array.value(*i))).collect::<Vec<_>>();
                (cleared(array, &bad), bad)
            }
            How::Struct(fields) => return self.structs(array, fields),
            How::List(item) => return self.lists(array, item),
            How::Map(key, value) => return self.maps(array, key, value),
        };
        Ok((typed, bad.into_iter().map(|row| self.fault(row, array.value(row))).collect()))
    }

    pub fn fault(&self, row: usize, value: &str) -> Fault {
        Fault { row, path: String::new(), value: shown(value).into_owned(), why: self.why(value) }
    }

    /// What a text that failed is not, and the remedy. Never shows the text.
    #[cold]
    fn why(&self, text: &str) -> String {
        let (ty, trimmed) = (&self.ty, text.trim_ascii());
        let what = match &self.how {
            How::Date(formats) if !formats.is_empty() => format!("is not a date of format {}", texts(formats)),
            How::Date(_) => "is not a date of format %Y-%m-%d".into(),
            How::Timestamp(formats, zone) => {
                let gap = |r: Result<i64, NoTime>| r == Err(NoTime::Gap);
                let bytes = trimmed.as_bytes();
                if gap(time::iso_timestamp(bytes, zone)) || formats.iter().any(|f| gap(time::timestamp(bytes, f, zone))) {
                    return format!("does not exist in {}: the clocks went forward over it", zone.name());
                }
                if formats.is_empty() {
                    "is not a timestamp of format %Y-%m-%dT%H:%M:%S".into()
                } else {
                    format!("is not a timestamp of format {}", texts(formats))
                }
            }
            How::Time(formats) if !formats.is_empty() => format!("is not a time of format {}", texts(formats)),
            How::Time(_) => "is not a time of format %H:%M:%S".into(),
            How::Binary(encodings) => {
                let names: Vec<_> = encodings.iter().map(|e| if *e == Encoding::Hex { "hex" } else { "base64" }).collect();
                format!("is not {}", names.join(" or "))
            }
            How::Json => "is not a JSON value".into(),
            How::Struct(_) | How::Map(..) => format!("is not a JSON object for {}", name_of(ty)),
            How::List(_) => "is not a JSON array".into(),
            How::Boolean => "is not a boolean (true, false, t, f, yes, no, 1, 0)".into(),
            How::Decimal(p, s) => match number::decimal_or_why(trimmed.as_bytes(), *p, *s) {
                Err(NoDecimal::TooFine) => format!("has more than {s} digits after the point, too many for {ty}"),
                Err(NoDecimal::TooGreat) => {
                    format!("has more than {} digits before the point, too many for {ty}", i16::from(*p) - i16::from(*s))
                }
                _ => format!("is not a {ty}"),
            },
            How::Float | How::Double => match trimmed.parse::<f64>() {
                Ok(v) if v.is_nan() || !trimmed.bytes().any(|b| b.is_ascii_digit()) => {
                    format!("is not a {ty}; the words are NaN, Infinity and -Infinity")
                }
                Ok(_) => format!("is too great for {ty}"),
                Err(_) => format!("is not a {ty}"),
            },
            How::Int8 | How::Int16 | How::Int32 | How::Int64 => {
                let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
                let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                let fraction = digits.split_once('.').is_some_and(|(_, f)| f.bytes().all(|b| b.is_ascii_digit()));
                match (whole, fraction && digits.parse::<f64>().is_ok()) {
                    (true, _) => format!("is out of range for {ty}"),
                    (_, true) => format!("is not an {ty}: it has a fraction"),
                    _ => format!("is not an {ty}"),
                }
            }
            How::Text => format!("is not a {ty}"),
        };
        let numeric = matches!(ty, ContractType::Decimal(..) | ContractType::Float | ContractType::Double)
            || matches!(self.how, How::Int8 | How::Int16 | How::Int32 | How::Int64);
        if trimmed.is_empty() {
            format!("{what}; list empty text in null_values if it means NULL")
        } else if numeric && has_separators(trimmed) {
            format!("{what}: write it without thousands separators and with a decimal point")
        } else {
            what
        }
    }
}

/// `nulls` and the rows that failed.
pub(crate) fn with_bad(nulls: Option<&NullBuffer>, len: usize, bad: &[usize]) -> Option<NullBuffer> {
    if bad.is_empty() {
        return nulls.cloned();
    }
    let mut valid = BooleanBufferBuilder::new(len);
    match nulls {
        Some(nulls) => valid.append_buffer(nulls.inner()),
        None => valid.append_n(len, true),
    }
    bad.iter().for_each(|row| valid.set_bit(*row, false));
    Some(NullBuffer::new(valid.finish()))
}

fn numbers<T: ArrowPrimitiveType>(array: &StringViewArray, parse: impl Fn(&[u8]) -> Option<T::Native>) -> (ArrayRef, Vec<usize>) {
    let (values, bad) = primitive::<T>(array, parse);
    (Arc::new(values), bad)
}

/// The hot loop. NULLs cost a bit test, and only where there are any; without failures the input's null buffer is shared.
#[inline]
fn primitive<T: ArrowPrimitiveType>(
    array: &StringViewArray,
    parse: impl Fn(&[u8]) -> Option<T::Native>,
) -> (PrimitiveArray<T>, Vec<usize>) {
    let n = array.len();
    let mut bad = vec![];
    let mut value = |row: usize| {
        // SAFETY: `row` is below the array's length.
        let text = unsafe { array.value_unchecked(row) }.as_bytes();
        match parse(text) {
            Some(value) => value,
            None => trimmed(text, &parse).unwrap_or_else(|| {
                bad.push(row);
                T::default_value()
            }),
        }
    };
    let values: Vec<T::Native> = match array.nulls().filter(|n| n.null_count() > 0) {
        None => (0..n).map(value).collect(),
        Some(nulls) => (0..n).map(|row| if nulls.is_valid(row) { value(row) } else { T::default_value() }).collect(),
    };
    let nulls = with_bad(array.nulls(), n, &bad);
    (PrimitiveArray::new(ScalarBuffer::from(values), nulls), bad)
}

/// Spaces around a value are common, but not common enough for the first try.
#[cold]
#[inline(never)]
fn trimmed<V>(text: &[u8], parse: impl Fn(&[u8]) -> Option<V>) -> Option<V> {
    let inner = text.trim_ascii();
    if inner.len() == text.len() { None } else { parse(inner) }
}

fn booleans(array: &StringViewArray) -> (ArrayRef, Vec<usize>) {
    let mut bad = vec![];
    let values = BooleanBuffer::collect_bool(array.len(), |row| {
        if array.is_null(row) {
            return false;
        }
        let text = array.value(row).as_bytes();
        number::boolean(text).or_else(|| trimmed(text, number::boolean)).unwrap_or_else(|| {
            bad.push(row);
            false
        })
    });
    let nulls = with_bad(array.nulls(), array.len(), &bad);
    (Arc::new(BooleanArray::new(values, nulls)), bad)
}

fn times(array: &StringViewArray, formats: &[Format]) -> (ArrayRef, Vec<usize>) {
    let (mut out, mut bad, mut canonical) = (StringViewBuilder::with_capacity(array.len()), vec![], String::new());
    for row in 0..array.len() {
        if array.is_null(row) {
            out.append_null();
            continue;
        }
        let text = array.value(row).trim_ascii().as_bytes();
        let micros = if formats.is_empty() { time::iso_time(text) } else { formats.iter().find_map(|f| time::time(text, f)) };
        match micros {
            Some(micros) => {
                canonical.clear();
                // Writing to a String cannot fail.
                let _ = write!(canonical, "{}", TimeText(micros));
                out.append_value(&canonical);
            }
            None => {
                bad.push(row);
                out.append_null();
            }
        }
    }
    (Arc::new(out.finish()), bad)
}

fn binaries(array: &StringViewArray, encodings: &[Encoding]) -> (ArrayRef, Vec<usize>) {
    let (mut out, mut bad, mut bytes) = (BinaryViewBuilder::with_capacity(array.len()), vec![], vec![]);
    for row in 0..array.len() {
        if array.is_null(row) {
            out.append_null();
            continue;
        }
        let text = array.value(row).trim_ascii();
        if encodings.iter().any(|encoding| decode(text, *encoding, &mut bytes)) {
            out.append_value(&bytes);
        } else {
            bad.push(row);
            out.append_null();
        }
    }
    (Arc::new(out.finish()), bad)
}

fn decode(text: &str, encoding: Encoding, bytes: &mut Vec<u8>) -> bool {
    bytes.clear();
    match encoding {
        Encoding::Hex => {
            bytes.resize(text.len() / 2, 0);
            hex::decode_to_slice(text, bytes).is_ok()
        }
        Encoding::Base64 => {
            let unpadded = text.trim_end_matches('=');
            let padding = text.len() - unpadded.len();
            padding <= 2
                && (padding == 0 || text.len().is_multiple_of(4))
                && base64::engine::general_purpose::STANDARD_NO_PAD.decode_vec(unpadded, bytes).is_ok()
        }
    }
}

fn cleared(array: &StringViewArray, bad: &[usize]) -> ArrayRef {
    if bad.is_empty() {
        return Arc::new(array.clone());
    }
    let nulls = with_bad(array.nulls(), array.len(), bad);
    // SAFETY: views and buffers are the array's own; only the null buffer is new, and of the same length.
    Arc::new(unsafe { StringViewArray::new_unchecked(array.views().clone(), array.data_buffers().to_vec(), nulls) })
}

/// Compiles strftime formats, and tries each on a sample: a format that lacks a part of what the type needs is refused here.
fn compile(formats: &[String], needs: &str, reads: impl Fn(&[u8], &Format) -> bool) -> Result<Vec<Format>, Complaint> {
    let compiled = formats.iter().enumerate().map(|(i, text)| {
        let at = || format_path(formats, i);
        let Some(format) = Format::new(text) else {
            return Err(Complaint::at(at(), format!("'{text}' is not a format")).help("write for example %d/%m/%Y or %Y-%m-%d %H:%M:%S"));
        };
        let sample = chrono::DateTime::from_timestamp(981_173_106, 0).unwrap_or_default();
        let mut rendered = String::new();
        let written = if format.is_epoch() { write!(rendered, "1") } else { write!(rendered, "{}", sample.format(text)) }.is_ok();
        if !written || !reads(rendered.as_bytes(), &format) {
            let message = format!("the format '{text}' does not give {needs}");
            return Err(Complaint::at(at(), message).help("a date needs year, month and day, a time of day needs hour and minute"));
        }
        Ok(format)
    });
    compiled.collect()
}

fn encodings(formats: &[String]) -> Result<Vec<Encoding>, Complaint> {
    if formats.is_empty() {
        return Ok(vec![Encoding::Hex]);
    }
    let known = formats.iter().enumerate().map(|(i, format)| match format.as_str() {
        "hex" => Ok(Encoding::Hex),
        "base64" => Ok(Encoding::Base64),
        other => Err(Complaint::at(format_path(formats, i), format!("'{other}' is no encoding of bytes")).help("write hex or base64")),
    });
    known.collect()
}

/// `format: X` has no index, `format: [X, Y]` has.
fn format_path(formats: &[String], at: usize) -> Vec<String> {
    let mut path = vec!["format".to_owned()];
    if formats.len() > 1 {
        path.push(at.to_string());
    }
    path
}

fn takes_format(ty: &ContractType) -> bool {
    match ty {
        ContractType::Date | ContractType::Timestamp | ContractType::Time | ContractType::Binary => true,
        ContractType::Struct(fields) => fields.iter().any(|(_, ty)| takes_format(ty)),
        ContractType::List(item) => takes_format(item),
        ContractType::Map(key, value) => takes_format(key) || takes_format(value),
        _ => false,
    }
}

fn texts(formats: &[Format]) -> String {
    formats.iter().map(|f| f.text.as_str()).collect::<Vec<_>>().join(" or ")
}

/// A nested type's text may be long.
fn name_of(ty: &ContractType) -> String {
    let text = ty.to_string();
    if text.len() <= SHOWN { text } else { text.split('<').next().unwrap_or_default().to_owned() }
}

/// Digits with commas, spaces, apostrophes or underscores between them, or more than one point.
fn has_separators(text: &str) -> bool {
    let separator = |c: char| matches!(c, ',' | ' ' | '\'' | '_' | '\u{a0}' | '\u{202f}' | '\u{2019}');
    let number = text.chars().all(|c| c.is_ascii_digit() || separator(c) || matches!(c, '.' | '-' | '+'));
    number && text.chars().any(|c| c.is_ascii_digit()) && (text.chars().any(separator) || text.matches('.').count() > 1)
}
