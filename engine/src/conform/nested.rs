//! Structs, lists and maps from JSON text. Each level is taken apart for the whole batch at once: the members of one field, or the
//! elements of all lists, become a text column of their own, which the field's parser reads as it reads any column.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanBufferBuilder, ListArray, MapArray, StringViewArray, StringViewBuilder, StructArray, make_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, FieldRef, Fields};

use super::json;
use super::parser::{Fault, How, Parser};
use super::sensitive::shown;
use crate::error::{Error, Result};

impl Parser {
    pub(super) fn structs(&self, array: &StringViewArray, parts: &[(String, Parser)]) -> Result<(ArrayRef, Vec<Fault>)> {
        let DataType::Struct(fields) = &self.arrow else { return Err(Error::bug("a struct's parser without fields")) };
        let n = array.len();
        let mut texts: Vec<StringViewBuilder> = parts.iter().map(|_| StringViewBuilder::with_capacity(n)).collect();
        let (mut valid, mut faults) = (BooleanBufferBuilder::new(n), vec![]);
        let mut slots: Vec<Option<&str>> = vec![None; parts.len()];
        for row in 0..n {
            slots.fill(None);
            let text = if array.is_null(row) { "null" } else { array.value(row).trim_ascii() };
            let found = |key: Cow<str>, value| {
                if let Some(at) = parts.iter().position(|(name, _)| *name == key) {
                    slots[at] = Some(value);
                }
            };
            let present = text != "null" && json::valid(text) && json::members(text, found);
            if text != "null" && !present {
                faults.push(self.fault(row, text));
                slots.fill(None);
            }
            valid.append(present);
            for (((name, part), text), slot) in parts.iter().zip(&mut texts).zip(&slots) {
                if let Err(fault) = append(text, *slot, part, row) {
                    faults.push(Fault { path: format!(".{name}"), ..fault });
                }
            }
        }
        let children = parts.iter().zip(&mut texts).map(|((name, part), text)| {
            let (child, inner) = part.parse(&text.finish())?;
            faults.extend(inner.into_iter().map(|f| Fault { path: format!(".{name}{}", f.path), ..f }));
            Ok(child)
        });
        let children = children.collect::<Result<Vec<_>>>()?;
        Ok((struct_array(fields, children, NullBuffer::new(valid.finish()), n)?, faults))
    }

    pub(super) fn lists(&self, array: &StringViewArray, item: &Parser) -> Result<(ArrayRef, Vec<Fault>)> {
        let DataType::List(field) = &self.arrow else { return Err(Error::bug("a list's parser without an element")) };
        let mut nested = Nested::new(array.len());
        let (mut items, mut faults) = (StringViewBuilder::new(), vec![]);
        for row in 0..array.len() {
            let text = if array.is_null(row) { "null" } else { array.value(row).trim_ascii() };
            let present = text != "null"
                && json::valid(text)
                && json::elements(text, |value| {
                    let position = nested.child(row);
                    if let Err(fault) = append(&mut items, Some(value), item, row) {
                        faults.push(Fault { path: format!("[{position}]"), ..fault });
                    }
                });
            if text != "null" && !present {
                faults.push(self.fault(row, text));
            }
            nested.end(present)?;
        }
        let (values, inner) = item.parse(&items.finish())?;
        faults.extend(inner.into_iter().map(|f| nested.outer(f, |k| format!("[{k}]"))));
        let (offsets, nulls) = nested.finish();
        Ok((Arc::new(ListArray::try_new(Arc::clone(field), offsets, values, nulls)?), faults))
    }

    pub(super) fn maps(&self, array: &StringViewArray, key: &Parser, value: &Parser) -> Result<(ArrayRef, Vec<Fault>)> {
        let mut nested = Nested::new(array.len());
        let (mut keys, mut values, mut faults) = (StringViewBuilder::new(), StringViewBuilder::new(), vec![]);
        for row in 0..array.len() {
            let text = if array.is_null(row) { "null" } else { array.value(row).trim_ascii() };
            let mut seen: HashSet<Cow<str>> = HashSet::new();
            let mut twice = false;
            let present = text != "null"
                && json::valid(text)
                && json::members(text, |name, member| {
                    keys.append_value(&name);
                    let position = nested.child(row);
                    if let Err(fault) = append(&mut values, Some(member), value, row) {
                        faults.push(Fault { path: format!("[entry {}]", position + 1), ..fault });
                    }
                    twice |= !seen.insert(name);
                });
            if twice {
                faults.push(Fault { why: "names a key twice".into(), ..self.fault(row, text) });
            } else if text != "null" && !present {
                faults.push(self.fault(row, text));
            }
            nested.end(present)?;
        }
        let (keys, bad_keys) = key.parse(&keys.finish())?;
        let (values, inner) = value.parse(&values.finish())?;
        // A key is data, so the path counts the entries instead of naming them.
        faults.extend(bad_keys.into_iter().map(|f| nested.outer(f, |k| format!("[key {}]", k + 1))));
        faults.extend(inner.into_iter().map(|f| nested.outer(f, |k| format!("[entry {}]", k + 1))));
        let (offsets, nulls) = nested.finish();
        Ok((map_array(&self.arrow, offsets, keys, values, nulls)?, faults))
    }
}

/// A struct of `fields`; what is not valid is NULL.
pub(crate) fn struct_array(fields: &Fields, children: Vec<ArrayRef>, nulls: NullBuffer, len: usize) -> Result<ArrayRef> {
    let nulls = (nulls.null_count() > 0).then_some(nulls);
    Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), children, nulls, len)?))
}

/// A map in our layout. Keys that failed have no NULL to be: their rows are refused anyway, so they keep the buffer's default.
pub(crate) fn map_array(
    arrow: &DataType,
    offsets: OffsetBuffer<i32>,
    keys: ArrayRef,
    values: ArrayRef,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let DataType::Map(field, _) = arrow else { return Err(Error::bug("a map's parser without entries")) };
    let DataType::Struct(fields) = field.data_type() else { return Err(Error::bug("a map without key and value")) };
    let keys = if keys.null_count() > 0 { make_array(keys.to_data().into_builder().nulls(None).build()?) } else { keys };
    let len = keys.len();
    let entries = StructArray::try_new_with_length(fields.clone(), vec![keys, values], None, len)?;
    let field: &FieldRef = field;
    Ok(Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, false)?))
}

/// Rows with children: where each row's children begin, and whose child each one is.
struct Nested {
    offsets: Vec<i32>,
    parents: Vec<usize>,
    valid: BooleanBufferBuilder,
}

impl Nested {
    fn new(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Nested { offsets, parents: vec![], valid: BooleanBufferBuilder::new(rows) }
    }
    /// Counts a child of the row that is being read; its position in that row.
    fn child(&mut self, row: usize) -> usize {
        let begin = self.offsets.last().map_or(0, |o| *o as usize);
        self.parents.push(row);
        self.parents.len() - 1 - begin
    }
    fn end(&mut self, valid: bool) -> Result<()> {
        let end = i32::try_from(self.parents.len()).map_err(|_| Error::bug("a batch with more than 2^31 list elements"))?;
        self.offsets.push(end);
        self.valid.append(valid);
        Ok(())
    }
    /// A child's fault as its row's.
    fn outer(&self, fault: Fault, segment: impl Fn(usize) -> String) -> Fault {
        let row = self.parents[fault.row];
        let position = fault.row - self.offsets[row] as usize;
        Fault { row, path: format!("{}{}", segment(position), fault.path), ..fault }
    }
    fn finish(mut self) -> (OffsetBuffer<i32>, Option<NullBuffer>) {
        let nulls = NullBuffer::new(self.valid.finish());
        (OffsetBuffer::new(ScalarBuffer::from(self.offsets)), (nulls.null_count() > 0).then_some(nulls))
    }
}

/// Appends a JSON value as the text that `part` reads: leaves without quotes, nested values as JSON.
fn append(texts: &mut StringViewBuilder, value: Option<&str>, part: &Parser, row: usize) -> Result<(), Fault> {
    let Some(value) = value.filter(|v| *v != "null") else {
        texts.append_null();
        return Ok(());
    };
    if matches!(part.how, How::Json | How::Struct(_) | How::List(_) | How::Map(..)) {
        texts.append_value(value);
        return Ok(());
    }
    match json::leaf(value) {
        Ok(text) => {
            texts.append_option(text);
            Ok(())
        }
        Err(()) => {
            texts.append_null();
            Err(Fault {
                row,
                path: String::new(),
                value: shown(value).into_owned(),
                why: "holds a lone surrogate, which is not text".into(),
            })
        }
    }
}
