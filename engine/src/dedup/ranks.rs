//! The order of rows within one key: a rank is what must be remembered of a row to compare others with it.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef};
use arrow::buffer::NullBuffer;
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};

use super::keys::{Span, bits};
use crate::error::Result;

/// The order columns of the batch at hand, and storage for the ranks that a table keeps.
pub(crate) trait Ranks: Send {
    type Rank: Copy + Send;
    fn load(&mut self, columns: &[ArrayRef]) -> Result<()>;
    /// How `row` stands to a kept rank; `Less` is better.
    fn order(&self, row: usize, rank: &Self::Rank) -> Ordering;
    /// Remembers `row`, in the place of `old` where there is one.
    fn keep(&mut self, row: usize, old: Option<&Self::Rank>) -> Self::Rank;
    fn size(&self) -> usize;
    fn clear(&mut self);
}

/// No order: all rows of a key are equal.
#[derive(Debug, Default)]
pub(crate) struct NoRanks;

impl Ranks for NoRanks {
    type Rank = ();
    fn load(&mut self, _columns: &[ArrayRef]) -> Result<()> {
        Ok(())
    }
    fn order(&self, _row: usize, _rank: &()) -> Ordering {
        Ordering::Equal
    }
    fn keep(&mut self, _row: usize, _old: Option<&()>) {}
    fn size(&self) -> usize {
        0
    }
    fn clear(&mut self) {}
}

/// One integer, date or timestamp column. The rank is (place of NULL, value turned so that smaller is better).
#[derive(Debug)]
pub(crate) struct BitRanks {
    values: Vec<u64>,
    nulls: Option<NullBuffer>,
    flip: u64,
    null: u8,
}

impl BitRanks {
    pub fn new(ty: &DataType, options: SortOptions) -> Self {
        let sign = if ty.is_unsigned_integer() { 0 } else { 1 << 63 };
        let flip = if options.descending { !sign } else { sign };
        BitRanks { values: Vec::new(), nulls: None, flip, null: if options.nulls_first { 0 } else { 2 } }
    }
    #[inline]
    fn rank(&self, row: usize) -> (u8, u64) {
        match &self.nulls {
            Some(n) if n.is_null(row) => (self.null, 0),
            _ => (1, self.values[row] ^ self.flip),
        }
    }
}

impl Ranks for BitRanks {
    type Rank = (u8, u64);
    fn load(&mut self, columns: &[ArrayRef]) -> Result<()> {
        bits(&columns[0], &mut self.values);
        self.nulls = columns[0].nulls().filter(|n| n.null_count() > 0).cloned();
        Ok(())
    }
    #[inline]
    fn order(&self, row: usize, rank: &(u8, u64)) -> Ordering {
        self.rank(row).cmp(rank)
    }
    #[inline]
    fn keep(&mut self, row: usize, _old: Option<&(u8, u64)>) -> (u8, u64) {
        self.rank(row)
    }
    fn size(&self) -> usize {
        self.values.capacity() * 8
    }
    fn clear(&mut self) {}
}

/// Any columns, by Arrow's row format. A rank that no longer fits in its old place leaves that place unused; the
/// memory pool sees it, and a spill starts afresh.
#[derive(Debug)]
pub(crate) struct RowRanks {
    converter: RowConverter,
    rows: Rows,
    arena: Vec<u8>,
}

impl RowRanks {
    pub fn try_new(fields: Vec<SortField>) -> Result<Self> {
        let converter = RowConverter::new(fields)?;
        let rows = converter.empty_rows(0, 0);
        Ok(RowRanks { converter, rows, arena: Vec::new() })
    }
}

impl Ranks for RowRanks {
    type Rank = Span;
    fn load(&mut self, columns: &[ArrayRef]) -> Result<()> {
        self.rows.clear();
        Ok(self.converter.append(&mut self.rows, columns)?)
    }
    #[inline]
    fn order(&self, row: usize, rank: &Span) -> Ordering {
        self.rows.row(row).data().cmp(rank.of(&self.arena))
    }
    #[inline]
    fn keep(&mut self, row: usize, old: Option<&Span>) -> Span {
        let row = self.rows.row(row);
        let bytes = row.data();
        match old {
            Some(old) if bytes.len() <= old.len as usize => {
                let at = old.at as usize;
                self.arena[at..at + bytes.len()].copy_from_slice(bytes);
                Span { at: old.at, len: bytes.len() as u32 }
            }
            _ => Span::append(&mut self.arena, bytes),
        }
    }
    fn size(&self) -> usize {
        self.arena.capacity() + self.rows.size()
    }
    fn clear(&mut self) {
        self.arena = Vec::new();
    }
}
