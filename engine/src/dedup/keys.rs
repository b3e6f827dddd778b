//! Keys of rows for hash tables: the columns of one batch on one side, the keys kept so far on the other.
//!
//! NULL equals NULL. One integer-like column and one text column have their own forms; everything else goes through
//! Arrow's row format. Knows nothing of what the keys are for: dedup and the partitioned writer both use it.

use std::hash::BuildHasher;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Schema};
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::DefaultHashBuilder;

use crate::error::Result;

/// The keys of the batch at hand, and storage for those that a table keeps.
pub(crate) trait Keys: Send {
    /// A kept key. Small; long ones live in the store's own memory.
    type Key: Copy + Default + Send;
    /// Takes the key columns of the next batch and sets one hash per row.
    fn load(&mut self, columns: &[ArrayRef], hashes: &mut Vec<u64>) -> Result<()>;
    /// True where the key is NULL and cannot be told apart by `matches`; such rows form one group of their own.
    fn is_null(&self, row: usize) -> bool;
    fn matches(&self, row: usize, key: &Self::Key) -> bool;
    fn keep(&mut self, row: usize) -> Self::Key;
    /// The hash that `load` gave the row of this key.
    fn hash(&self, key: &Self::Key) -> u64;
    /// Bytes held for kept keys.
    fn size(&self) -> usize;
    /// Forgets all kept keys.
    fn clear(&mut self);
}

/// Which of the three forms fits the key columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Bits,
    Text,
    Rows,
}

pub(crate) fn form(types: &[DataType]) -> Form {
    match types {
        [t] if is_bits(t) => Form::Bits,
        [DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8 | DataType::BinaryView | DataType::Binary | DataType::LargeBinary] => {
            Form::Text
        }
        _ => Form::Rows,
    }
}

/// Fixed-width values of up to 64 bits whose equality is that of their bits and whose order is that of an integer.
pub(crate) fn is_bits(t: &DataType) -> bool {
    t.is_integer()
        || matches!(
            t,
            DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(..)
                | DataType::Duration(_)
        )
}

/// The values of such a column, sign-extended where the type has a sign. What lies under a NULL is arbitrary.
pub(crate) fn bits(array: &dyn Array, out: &mut Vec<u64>) {
    out.clear();
    let data = array.to_data();
    let n = array.len();
    match (array.data_type().primitive_width().unwrap_or(8), array.data_type().is_unsigned_integer()) {
        (1, false) => out.extend(data.buffer::<i8>(0)[..n].iter().map(|v| *v as i64 as u64)),
        (1, true) => out.extend(data.buffer::<u8>(0)[..n].iter().map(|v| *v as u64)),
        (2, false) => out.extend(data.buffer::<i16>(0)[..n].iter().map(|v| *v as i64 as u64)),
        (2, true) => out.extend(data.buffer::<u16>(0)[..n].iter().map(|v| *v as u64)),
        (4, false) => out.extend(data.buffer::<i32>(0)[..n].iter().map(|v| *v as i64 as u64)),
        (4, true) => out.extend(data.buffer::<u32>(0)[..n].iter().map(|v| *v as u64)),
        _ => out.extend_from_slice(&data.buffer::<u64>(0)[..n]),
    }
}

/// One integer, date or timestamp column.
#[derive(Debug, Default)]
pub(crate) struct BitKeys {
    values: Vec<u64>,
    nulls: Option<NullBuffer>,
    hasher: DefaultHashBuilder,
}

impl Keys for BitKeys {
    type Key = u64;
    fn load(&mut self, columns: &[ArrayRef], hashes: &mut Vec<u64>) -> Result<()> {
        bits(&columns[0], &mut self.values);
        self.nulls = columns[0].nulls().filter(|n| n.null_count() > 0).cloned();
        hashes.clear();
        hashes.extend(self.values.iter().map(|v| self.hasher.hash_one(v)));
        Ok(())
    }
    #[inline]
    fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|n| n.is_null(row))
    }
    #[inline]
    fn matches(&self, row: usize, key: &u64) -> bool {
        self.values[row] == *key
    }
    #[inline]
    fn keep(&mut self, row: usize) -> u64 {
        self.values[row]
    }
    #[inline]
    fn hash(&self, key: &u64) -> u64 {
        self.hasher.hash_one(key)
    }
    fn size(&self) -> usize {
        self.values.capacity() * 8
    }
    fn clear(&mut self) {}
}

/// One text or binary column. A key is an Arrow view: up to 12 bytes lie in it, longer ones in `long`, at the offset
/// that the upper half holds.
#[derive(Debug)]
pub(crate) struct TextKeys {
    array: BinaryViewArray,
    long: Vec<u8>,
    hasher: DefaultHashBuilder,
}

impl Default for TextKeys {
    fn default() -> Self {
        TextKeys { array: BinaryViewArray::new_null(0), long: Vec::new(), hasher: DefaultHashBuilder::default() }
    }
}

impl TextKeys {
    #[inline]
    fn long(&self, key: u128) -> &[u8] {
        let at = (key >> 64) as usize;
        &self.long[at..at + key as u32 as usize]
    }
    #[inline]
    fn hash_row(&self, row: usize) -> u64 {
        let view = self.array.views()[row];
        if view as u32 <= 12 { self.hasher.hash_one(view) } else { self.hasher.hash_one(self.array.value(row)) }
    }
}

impl Keys for TextKeys {
    type Key = u128;
    fn load(&mut self, columns: &[ArrayRef], hashes: &mut Vec<u64>) -> Result<()> {
        let column = &columns[0];
        self.array = match column.data_type() {
            DataType::Utf8View => column.as_string_view().clone().to_binary_view(),
            DataType::BinaryView => column.as_binary_view().clone(),
            _ => arrow::compute::cast(column, &DataType::BinaryView)?.as_binary_view().clone(),
        };
        hashes.clear();
        hashes.extend((0..self.array.len()).map(|row| if self.array.is_null(row) { 0 } else { self.hash_row(row) }));
        Ok(())
    }
    #[inline]
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }
    #[inline]
    fn matches(&self, row: usize, key: &u128) -> bool {
        let view = self.array.views()[row];
        if view as u32 <= 12 { view == *key } else { view as u64 == *key as u64 && self.array.value(row) == self.long(*key) }
    }
    #[inline]
    fn keep(&mut self, row: usize) -> u128 {
        let view = self.array.views()[row];
        if view as u32 <= 12 {
            return view;
        }
        let at = self.long.len() as u128;
        self.long.extend_from_slice(self.array.value(row));
        (at << 64) | u128::from(view as u64)
    }
    #[inline]
    fn hash(&self, key: &u128) -> u64 {
        if *key as u32 <= 12 { self.hasher.hash_one(*key) } else { self.hasher.hash_one(self.long(*key)) }
    }
    fn size(&self) -> usize {
        self.long.capacity()
    }
    fn clear(&mut self) {
        self.long = Vec::new();
    }
}

/// A piece of an arena.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span {
    pub at: u64,
    pub len: u32,
}

impl Span {
    #[inline]
    pub fn of<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.at as usize..self.at as usize + self.len as usize]
    }
    #[inline]
    pub fn append(arena: &mut Vec<u8>, bytes: &[u8]) -> Span {
        let span = Span { at: arena.len() as u64, len: bytes.len() as u32 };
        arena.extend_from_slice(bytes);
        span
    }
}

/// Any columns, by Arrow's row format, in which NULL is a value like others.
#[derive(Debug)]
pub(crate) struct RowKeys {
    converter: RowConverter,
    rows: Rows,
    arena: Vec<u8>,
    hasher: DefaultHashBuilder,
}

impl RowKeys {
    pub fn try_new(types: &[DataType]) -> Result<Self> {
        let converter = RowConverter::new(types.iter().cloned().map(SortField::new).collect())?;
        let rows = converter.empty_rows(0, 0);
        Ok(RowKeys { converter, rows, arena: Vec::new(), hasher: DefaultHashBuilder::default() })
    }
}

impl Keys for RowKeys {
    type Key = Span;
    fn load(&mut self, columns: &[ArrayRef], hashes: &mut Vec<u64>) -> Result<()> {
        self.rows.clear();
        self.converter.append(&mut self.rows, columns)?;
        hashes.clear();
        hashes.extend(self.rows.iter().map(|r| self.hasher.hash_one(r.data())));
        Ok(())
    }
    fn is_null(&self, _row: usize) -> bool {
        false
    }
    #[inline]
    fn matches(&self, row: usize, key: &Span) -> bool {
        self.rows.row(row).data() == key.of(&self.arena)
    }
    #[inline]
    fn keep(&mut self, row: usize) -> Span {
        Span::append(&mut self.arena, self.rows.row(row).data())
    }
    #[inline]
    fn hash(&self, key: &Span) -> u64 {
        self.hasher.hash_one(key.of(&self.arena))
    }
    fn size(&self) -> usize {
        self.arena.capacity() + self.rows.size()
    }
    fn clear(&mut self) {
        self.arena = Vec::new();
    }
}

/// The types of `columns` in `schema`.
pub(crate) fn types(schema: &Schema, columns: &[usize]) -> Vec<DataType> {
    columns.iter().map(|c| schema.field(*c).data_type().clone()).collect()
}
