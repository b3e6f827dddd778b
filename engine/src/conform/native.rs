//! Columns that come typed (Parquet) to the contract's types: a checked cast. A value that the cast would lose, by NULL, by
//! rounding or by overflow, is a fault of its row. Only fractions of a second beyond the microsecond, and a double's
//! precision beyond a float's, are given up silently.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray, StringViewBuilder, make_array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType};
use arrow::json::EncoderOptions;
use arrow::json::writer::make_encoder;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::nested::{map_array, struct_array};
use super::parser::{Fault, How, Parser, with_bad};
use super::sensitive::shown;
use super::time::{Format, NoTime, TimeText, Zone};
use crate::error::{Error, Result};
use crate::types::ContractType;

/// Casts `array` to the parser's type. `Error::Data` where no cast between the two types makes sense.
pub(crate) fn cast(array: &ArrayRef, parser: &Parser) -> Result<(ArrayRef, Vec<Fault>)> {
    let from = array.data_type();
    if *from == parser.arrow && !matches!(parser.ty, ContractType::Json | ContractType::Time) {
        return Ok((Arc::clone(array), vec![]));
    }
    match (from, &parser.how) {
        (DataType::Null, _) => Ok((new_null_array(&parser.arrow, array.len()), vec![])),
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, _) => parser.parse(plain(array, &DataType::Utf8View)?.as_string_view()),
        (DataType::Dictionary(_, value), _) => cast(&plain(array, value)?, parser),
        (DataType::RunEndEncoded(_, value), _) => cast(&plain(array, value.data_type())?, parser),
        (DataType::Struct(_), How::Struct(parts)) => structs(array, parser, parts),
        (DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::ListView(f) | DataType::LargeListView(f), How::List(_)) => {
            cast(&plain(array, &DataType::List(Arc::clone(f)))?, parser)
        }
        (DataType::List(_), How::List(item)) => lists(array, parser, item),
        (DataType::Map(..), How::Map(key, value)) => maps(array, parser, key, value),
        (_, How::Json) => Ok((Arc::new(json(array)?), vec![])),
        (_, How::Text) if from.is_nested() => Ok((Arc::new(json(array)?), vec![])),
        (DataType::Binary | DataType::LargeBinary | DataType::BinaryView, How::Text) => lossy(array, &parser.arrow, parser, false),
        (_, How::Text) if !from.is_binary() => {
            let (typed, bad) = display_or_fail(array)?;
            let why = || format!("is a {from} without a text");
            Ok((typed, bad.into_iter().map(|row| Fault { row, path: String::new(), value: String::new(), why: why() }).collect()))
        }
        (_, How::Binary(_)) if from.is_binary() || matches!(from, DataType::FixedSizeBinary(_)) => {
            let array = if matches!(from, DataType::FixedSizeBinary(_)) { plain(array, &DataType::Binary)? } else { Arc::clone(array) };
            Ok((plain(&array, &parser.arrow)?, vec![]))
        }
        (DataType::Timestamp(_, Some(_)), How::Timestamp(..)) => lossy(array, &parser.arrow, parser, false),
        (DataType::Timestamp(_, None) | DataType::Date32 | DataType::Date64, How::Timestamp(_, zone)) => {
            let (local, mut faults) =
                lossy(array, &DataType::Timestamp(TimeUnit::Microsecond, None), parser, matches!(from, DataType::Date32))?;
            let (instants, gaps) = instants(&local, parser, zone)?;
            faults.extend(gaps);
            Ok((instants, faults))
        }
        (_, How::Date(formats) | How::Timestamp(formats, _)) if from.is_integer() && formats.iter().any(Format::is_epoch) => {
            parser.parse(display(array)?.as_string_view())
        }
        (DataType::Date64, How::Date(_)) => Ok((plain(array, &parser.arrow)?, vec![])),
        (DataType::Timestamp(..), How::Date(_)) => lossy(array, &parser.arrow, parser, true),
        (DataType::Time32(_) | DataType::Time64(_), How::Time(_)) => {
            let micros = plain(array, &DataType::Time64(TimeUnit::Microsecond))?;
            let micros = micros.as_primitive::<Time64MicrosecondType>();
            let mut out = StringViewBuilder::with_capacity(array.len());
            micros.iter().for_each(|m| out.append_option(m.map(|m| TimeText(m).to_string())));
            Ok((Arc::new(out.finish()), vec![]))
        }
        (_, How::Int8 | How::Int16 | How::Int32 | How::Int64 | How::Decimal(..) | How::Float | How::Double | How::Boolean)
            if from.is_numeric() || *from == DataType::Boolean =>
        {
            // A double is not expected to be a float exactly; every other number is expected to come through whole.
            let exact = !matches!((from, &parser.how), (DataType::Float64 | DataType::Float16, How::Float));
            lossy(array, &parser.arrow, parser, exact)
        }
        _ => Err(Error::data(
            format!("the file has {from} where the contract has {}", parser.ty),
            "declare the column as it is in the file, and convert it in a derive step",
        )),
    }
}

/// Each value's text: what a CSV would hold; nested values as JSON. A value that has no text (a date beyond the calendar) is NULL.
pub(crate) fn display(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(display_or_fail(array)?.0)
}

/// [`display`], and the rows that have no text.
fn display_or_fail(array: &ArrayRef) -> Result<(ArrayRef, Vec<usize>)> {
    let ty = array.data_type();
    match ty {
        DataType::Utf8View => return Ok((Arc::clone(array), vec![])),
        DataType::Utf8 | DataType::LargeUtf8 => return Ok((plain(array, &DataType::Utf8View)?, vec![])),
        _ if ty.is_nested() => return Ok((Arc::new(json(array)?), vec![])),
        _ => {}
    }
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array, &options)?;
    let (mut out, mut bad, mut text) = (StringViewBuilder::with_capacity(array.len()), vec![], String::new());
    for row in 0..array.len() {
        text.clear();
        if array.is_null(row) {
            out.append_null();
        } else if formatter.value(row).write(&mut text).is_ok() {
            out.append_value(&text);
        } else {
            bad.push(row);
            out.append_null();
        }
    }
    Ok((Arc::new(out.finish()), bad))
}

/// Each value as JSON text.
fn json(array: &ArrayRef) -> Result<StringViewArray> {
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let field = Arc::new(Field::new("value", array.data_type().clone(), true));
    let mut encoder = make_encoder(&field, array, &options)?;
    let (mut out, mut bytes) = (StringViewBuilder::with_capacity(array.len()), vec![]);
    for row in 0..array.len() {
        if array.is_null(row) {
            out.append_null();
            continue;
        }
        bytes.clear();
        encoder.encode(row, &mut bytes);
        out.append_value(std::str::from_utf8(&bytes).map_err(|_| Error::bug("JSON that is not UTF-8"))?);
    }
    Ok(out.finish())
}

fn plain(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    Ok(cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() })?)
}

/// Arrow's cast, and the values that it lost. `exact`: a value must also come back as it was.
fn lossy(array: &ArrayRef, to: &DataType, parser: &Parser, exact: bool) -> Result<(ArrayRef, Vec<Fault>)> {
    let safe = CastOptions { safe: true, ..CastOptions::default() };
    let typed = cast_with_options(array, to, &safe)?;
    let mut bad: Vec<usize> = vec![];
    if typed.null_count() > array.null_count() {
        bad.extend((0..array.len()).filter(|row| array.is_valid(*row) && typed.is_null(*row)));
    }
    if exact {
        let back = cast_with_options(&typed, array.data_type(), &safe)?;
        let differs = distinct(&back, array)?;
        if differs.true_count() > 0 {
            bad.extend((0..array.len()).filter(|row| differs.value(*row) && typed.is_valid(*row) && !is_zero(array, *row)));
        }
    } else if let (Some(wide), Some(narrow)) = (array.as_primitive_opt::<Float64Type>(), typed.as_primitive_opt::<Float32Type>()) {
        bad.extend((0..array.len()).filter(|row| typed.is_valid(*row) && wide.value(*row).is_finite() && narrow.value(*row).is_infinite()));
    }
    if bad.is_empty() {
        return Ok((typed, vec![]));
    }
    bad.sort_unstable();
    let nulls = with_bad(typed.nulls(), typed.len(), &bad);
    let typed = make_array(typed.to_data().into_builder().nulls(nulls).build()?);
    let binary = array.data_type().is_binary();
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array, &options)?;
    let faults = bad.into_iter().map(|row| {
        let value = formatter.value(row).try_to_string().unwrap_or_default();
        let why = if binary { "is not UTF-8 text".to_owned() } else { format!("does not fit {} without loss", parser.ty) };
        Fault { row, path: String::new(), value: shown(&value).into_owned(), why }
    });
    Ok((typed, faults.collect()))
}

/// -0.0 comes back from a whole number as 0.0.
fn is_zero(array: &ArrayRef, row: usize) -> bool {
    array.as_primitive_opt::<Float64Type>().is_some_and(|a| a.value(row) == 0.0)
        || array.as_primitive_opt::<Float32Type>().is_some_and(|a| a.value(row) == 0.0)
}

/// Local microseconds to instants.
fn instants(array: &ArrayRef, parser: &Parser, zone: &Zone) -> Result<(ArrayRef, Vec<Fault>)> {
    let local = array.as_primitive::<TimestampMicrosecondType>();
    let mut gaps = vec![];
    let mut values = Vec::with_capacity(local.len());
    for row in 0..local.len() {
        values.push(match local.is_valid(row).then(|| zone.instant(local.value(row))) {
            Some(Ok(instant)) => instant,
            Some(Err(NoTime::Gap | NoTime::Text)) => {
                gaps.push(row);
                0
            }
            None => 0,
        });
    }
    let nulls = with_bad(local.nulls(), local.len(), &gaps);
    let typed = arrow::array::TimestampMicrosecondArray::new(values.into(), nulls).with_timezone("UTC");
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array, &options)?;
    let faults = gaps.into_iter().map(|row| {
        let value = formatter.value(row).try_to_string().unwrap_or_default();
        parser.fault(row, &value)
    });
    Ok((Arc::new(typed), faults.collect()))
}

/// Fields are found by name; one that the file lacks is NULL.
fn structs(array: &ArrayRef, parser: &Parser, parts: &[(String, Parser)]) -> Result<(ArrayRef, Vec<Fault>)> {
    let DataType::Struct(fields) = &parser.arrow else { return Err(Error::bug("a struct's parser without fields")) };
    let source = array.as_struct();
    let mut faults = vec![];
    let children = parts.iter().map(|(name, part)| {
        let Some(child) = source.column_by_name(name) else { return Ok(new_null_array(&part.arrow, array.len())) };
        let (typed, inner) = cast(child, part)?;
        let inner = inner.into_iter().filter(|f| source.is_valid(f.row));
        faults.extend(inner.map(|f| Fault { path: format!(".{name}{}", f.path), ..f }));
        Ok(typed)
    });
    let children = children.collect::<Result<Vec<_>>>()?;
    let nulls = source.nulls().cloned().unwrap_or_else(|| NullBuffer::new_valid(array.len()));
    Ok((struct_array(fields, children, nulls, array.len())?, faults))
}

fn lists(array: &ArrayRef, parser: &Parser, item: &Parser) -> Result<(ArrayRef, Vec<Fault>)> {
    let DataType::List(field) = &parser.arrow else { return Err(Error::bug("a list's parser without an element")) };
    let source = array.as_list::<i32>();
    let (values, inner) = cast(source.values(), item)?;
    let typed = arrow::array::ListArray::try_new(Arc::clone(field), source.offsets().clone(), values, source.nulls().cloned())?;
    Ok((Arc::new(typed), outer(inner, source.offsets(), source.nulls(), |k| format!("[{k}]"))))
}

fn maps(array: &ArrayRef, parser: &Parser, key: &Parser, value: &Parser) -> Result<(ArrayRef, Vec<Fault>)> {
    let source = array.as_map();
    let (keys, bad_keys) = cast(source.keys(), key)?;
    let (values, inner) = cast(source.values(), value)?;
    let mut faults = outer(bad_keys, source.offsets(), source.nulls(), |k| format!("[key {}]", k + 1));
    faults.extend(outer(inner, source.offsets(), source.nulls(), |k| format!("[entry {}]", k + 1)));
    Ok((map_array(&parser.arrow, source.offsets().clone(), keys, values, source.nulls().cloned())?, faults))
}

/// Children's faults as their rows'; children of no row, or of a NULL, have none.
fn outer(faults: Vec<Fault>, offsets: &[i32], nulls: Option<&NullBuffer>, segment: impl Fn(usize) -> String) -> Vec<Fault> {
    let placed = faults.into_iter().filter_map(|f| {
        let child = i32::try_from(f.row).ok()?;
        let row = offsets.partition_point(|o| *o <= child).checked_sub(1).filter(|row| row + 1 < offsets.len())?;
        let position = (child - offsets[row]) as usize;
        nulls.is_none_or(|n| n.is_valid(row)).then(|| Fault { row, path: format!("{}{}", segment(position), f.path), ..f })
    });
    placed.collect()
}
