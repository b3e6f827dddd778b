//! The best row of each key among the batches pushed so far: a hash table from key to position, and the batches that
//! the positions point into. Rows are never sorted nor copied one by one; batches that hold mostly beaten rows are
//! rewritten now and then.

use std::cmp::Ordering;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::record_batch::RecordBatch;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::compare::RowCompare;
use super::keys::Keys;
use super::ranks::Ranks;
use crate::error::Result;
use crate::write::views;

/// Rows of a batch that were kept, not yet copied out.
#[derive(Debug)]
pub(crate) struct Selected {
    pub batch: RecordBatch,
    /// `None`: all rows.
    pub live: Option<BooleanArray>,
    /// One flag for each row of `batch`: a tie decided for it. `None`: nowhere.
    pub tied: Option<BooleanArray>,
}

/// What to know about rows that are equal in key and order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Find out which keys were decided by a tie.
    Ties,
    /// It does not matter.
    Nothing,
}

/// `Best` without its type parameters.
pub(crate) trait Winners: Send {
    /// Takes a batch; `tied` are the flags of rows that come back from a spill.
    fn push(&mut self, batch: RecordBatch, tied: Option<&BooleanArray>) -> Result<()>;
    /// Bytes held.
    fn size(&self) -> usize;
    /// True when a good part of what is held are beaten rows.
    fn wasteful(&self) -> bool;
    /// Rewrites the held batches without beaten rows.
    fn compact(&mut self) -> Result<()>;
    /// Hands over the kept rows with the number of keys that a tie decided, and forgets everything.
    fn drain(&mut self) -> (Vec<Selected>, u64);
}

#[derive(Debug, Clone, Copy)]
struct Slot<K, R> {
    key: K,
    rank: R,
    batch: u32,
    /// The upper bit is the mark of a tie.
    row: u32,
}

const TIED: u32 = 1 << 31;

impl<K, R> Slot<K, R> {
    #[inline]
    fn row(&self) -> usize {
        (self.row & !TIED) as usize
    }
    #[inline]
    fn tied(&self) -> bool {
        self.row & TIED != 0
    }
}

#[derive(Debug)]
struct Held {
    /// `None` once no row of it is kept.
    batch: Option<RecordBatch>,
    live: usize,
    bytes: usize,
}

pub(crate) struct Best<K: Keys, R: Ranks> {
    key_columns: Vec<usize>,
    rank_columns: Vec<usize>,
    keys: K,
    ranks: R,
    compare: RowCompare,
    watch: Watch,
    hashes: Vec<u64>,
    table: HashTable<Slot<K::Key, R::Rank>>,
    null: Option<Slot<K::Key, R::Rank>>,
    held: Vec<Held>,
    held_rows: usize,
    held_bytes: usize,
}

/// Words of 64 row flags, for each held batch.
type Bits = Vec<Vec<u64>>;

impl<K: Keys, R: Ranks> Best<K, R> {
    pub fn new(key_columns: Vec<usize>, rank_columns: Vec<usize>, keys: K, ranks: R, compare: RowCompare, watch: Watch) -> Self {
        Best {
            key_columns,
            rank_columns,
            keys,
            ranks,
            compare,
            watch,
            hashes: Vec::new(),
            table: HashTable::new(),
            null: None,
            held: Vec::new(),
            held_rows: 0,
            held_bytes: 0,
        }
    }

    fn keys_kept(&self) -> usize {
        self.table.len() + usize::from(self.null.is_some())
    }

    /// One word of 64 row flags after the other, for each held batch: kept rows, and rows decided by a tie.
    fn flags(&self) -> (Bits, Option<Bits>, u64) {
        let words = |h: &Held| h.batch.as_ref().map_or(0, |b| b.num_rows().div_ceil(64));
        let empty = || self.held.iter().map(|h| vec![0u64; words(h)]).collect::<Vec<_>>();
        let mut live = empty();
        let mut tied: Option<Vec<Vec<u64>>> = None;
        let mut ties = 0;
        for slot in self.table.iter().chain(&self.null) {
            let (batch, row) = (slot.batch as usize, slot.row());
            live[batch][row / 64] |= 1 << (row % 64);
            if slot.tied() {
                tied.get_or_insert_with(empty)[batch][row / 64] |= 1 << (row % 64);
                ties += 1;
            }
        }
        (live, tied, ties)
    }

    /// Drops the rows of the newest batch that were beaten at once, when they are most of it.
    fn trim_newest(&mut self, index: usize) -> Result<()> {
        let Held { batch: Some(batch), live, .. } = &self.held[index] else { return Ok(()) };
        let rows = batch.num_rows();
        if *live == 0 {
            self.release(index);
            return Ok(());
        }
        if *live * 4 > rows {
            return Ok(());
        }
        let mut keep = vec![false; rows];
        let mut moved = Vec::with_capacity(*live);
        // Only rows of this batch can be in it, so each is found again by its key while the keys are still loaded.
        for (row, keep) in keep.iter_mut().enumerate() {
            let slot = if self.keys.is_null(row) {
                self.null.as_mut()
            } else {
                let keys = &self.keys;
                self.table.find_mut(self.hashes[row], |s| keys.matches(row, &s.key))
            };
            if let Some(slot) = slot
                && slot.batch as usize == index
                && slot.row() == row
            {
                slot.row = (slot.row & TIED) | moved.len() as u32;
                *keep = true;
                moved.push(row as u32);
            }
        }
        let trimmed = views::compact(&filter_record_batch(batch, &BooleanArray::from(keep))?);
        let bytes = views::bytes(&trimmed);
        self.held_rows = self.held_rows - rows + trimmed.num_rows();
        self.held_bytes = self.held_bytes - self.held[index].bytes + bytes;
        self.held[index] = Held { live: trimmed.num_rows(), batch: Some(trimmed), bytes };
        Ok(())
    }

    fn release(&mut self, index: usize) {
        let held = &mut self.held[index];
        if let Some(batch) = held.batch.take() {
            self.held_rows -= batch.num_rows();
            self.held_bytes -= held.bytes;
            held.bytes = 0;
        }
    }
}

/// Whether the new row takes the place of the old one, and whether they differ in what users see.
fn settle(compare: &RowCompare, watch: Watch, tied: bool, new: (&RecordBatch, usize), old: (&RecordBatch, usize)) -> Result<(bool, bool)> {
    let place = compare.place(new, old)?;
    let ask = place == Ordering::Equal || (watch == Watch::Ties && !tied);
    let seen = if ask { compare.visible(new, old)? } else { Ordering::Equal };
    // Where even the place is equal, or there is none, the rows' values decide: any order of arrival gives the same row.
    Ok((place.then(seen) == Ordering::Less, seen != Ordering::Equal))
}

impl<K: Keys, R: Ranks> Winners for Best<K, R> {
    fn push(&mut self, batch: RecordBatch, tied: Option<&BooleanArray>) -> Result<()> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let columns = |indices: &[usize]| indices.iter().map(|i| ArrayRef::clone(batch.column(*i))).collect::<Vec<_>>();
        self.keys.load(&columns(&self.key_columns), &mut self.hashes)?;
        self.ranks.load(&columns(&self.rank_columns))?;
        let batch = views::compact(&batch);
        let bytes = views::bytes(&batch);
        let index = self.held.len() as u32;
        self.held.push(Held { batch: Some(batch), live: 0, bytes });
        self.held_rows += rows;
        self.held_bytes += bytes;
        let mark = |row: usize| if tied.is_some_and(|t| t.value(row)) { TIED } else { 0 };
        for row in 0..rows {
            let slot = if self.keys.is_null(row) {
                match &mut self.null {
                    Some(slot) => slot,
                    none => {
                        *none = Some(Slot {
                            key: K::Key::default(),
                            rank: self.ranks.keep(row, None),
                            batch: index,
                            row: row as u32 | mark(row),
                        });
                        self.held[index as usize].live += 1;
                        continue;
                    }
                }
            } else {
                let keys = &self.keys;
                match self.table.entry(self.hashes[row], |s| keys.matches(row, &s.key), |s| keys.hash(&s.key)) {
                    Entry::Occupied(slot) => slot.into_mut(),
                    Entry::Vacant(vacant) => {
                        let key = self.keys.keep(row);
                        vacant.insert(Slot { key, rank: self.ranks.keep(row, None), batch: index, row: row as u32 | mark(row) });
                        self.held[index as usize].live += 1;
                        continue;
                    }
                }
            };
            let mut flag = mark(row);
            match self.ranks.order(row, &slot.rank) {
                Ordering::Greater => continue,
                Ordering::Less => {}
                Ordering::Equal => {
                    flag |= slot.row & TIED;
                    let (Some(new), Some(old)) = (&self.held[index as usize].batch, &self.held[slot.batch as usize].batch) else {
                        continue;
                    };
                    let (wins, differ) = settle(&self.compare, self.watch, flag != 0, (new, row), (old, slot.row()))?;
                    if differ && self.watch == Watch::Ties {
                        flag = TIED;
                    }
                    if !wins {
                        slot.row |= flag;
                        continue;
                    }
                }
            }
            let beaten = slot.batch as usize;
            slot.rank = self.ranks.keep(row, Some(&slot.rank));
            slot.batch = index;
            slot.row = row as u32 | flag;
            self.held[index as usize].live += 1;
            self.held[beaten].live -= 1;
            if self.held[beaten].live == 0 && beaten != index as usize {
                self.release(beaten);
            }
        }
        self.trim_newest(index as usize)?;
        let kept = self.keys_kept();
        if self.held_rows > 2 * kept + (1 << 16) || self.held.len() > kept / 1024 + 1024 {
            self.compact()?;
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.held_bytes
            + self.table.allocation_size()
            + self.keys.size()
            + self.ranks.size()
            + self.hashes.capacity() * 8
            + self.held.capacity() * size_of::<Held>()
    }

    fn wasteful(&self) -> bool {
        self.held_rows > self.keys_kept() + self.keys_kept() / 4
    }

    fn compact(&mut self) -> Result<()> {
        const GROUP: usize = 8192;
        let (live, _, _) = self.flags();
        // Where each old batch went: new batch, and rows before it there; and within it, kept rows before each word.
        let mut moves: Vec<(u32, u32)> = vec![(0, 0); self.held.len()];
        let mut group: Vec<RecordBatch> = Vec::new();
        let mut rows = 0;
        let mut next: Vec<Held> = Vec::new();
        let close = |group: &mut Vec<RecordBatch>, rows: &mut usize, next: &mut Vec<Held>| -> Result<()> {
            if let Some(first) = group.first() {
                let batch = if group.len() == 1 { first.clone() } else { concat_batches(first.schema_ref(), group.iter())? };
                let batch = views::compact(&batch);
                let bytes = views::bytes(&batch);
                next.push(Held { batch: Some(batch), live: *rows, bytes });
                group.clear();
                *rows = 0;
            }
            Ok(())
        };
        for (i, held) in self.held.iter_mut().enumerate() {
            let Some(batch) = held.batch.take() else { continue };
            moves[i] = (next.len() as u32, rows as u32);
            let kept =
                if held.live == batch.num_rows() { batch } else { filter_record_batch(&batch, &flags_array(&live[i], batch.num_rows()))? };
            rows += kept.num_rows();
            group.push(kept);
            if rows >= GROUP {
                close(&mut group, &mut rows, &mut next)?;
            }
        }
        close(&mut group, &mut rows, &mut next)?;
        let before: Vec<Vec<u32>> = live
            .iter()
            .map(|words| {
                words
                    .iter()
                    .scan(0u32, |sum, w| {
                        let at = *sum;
                        *sum += w.count_ones();
                        Some(at)
                    })
                    .collect()
            })
            .collect();
        for slot in self.table.iter_mut().chain(&mut self.null) {
            let (batch, row) = (slot.batch as usize, slot.row());
            let below = live[batch][row / 64] & ((1u64 << (row % 64)) - 1);
            let (to, base) = moves[batch];
            slot.batch = to;
            slot.row = (slot.row & TIED) | (base + before[batch][row / 64] + below.count_ones());
        }
        self.held_rows = next.iter().map(|h| h.live).sum();
        self.held_bytes = next.iter().map(|h| h.bytes).sum();
        self.held = next;
        Ok(())
    }

    fn drain(&mut self) -> (Vec<Selected>, u64) {
        let (live, tied, ties) = self.flags();
        let mut tied = tied.map(Vec::into_iter);
        let selected = self
            .held
            .drain(..)
            .zip(live)
            .filter_map(|(held, live)| {
                let tied = tied.as_mut().and_then(Iterator::next);
                let batch = held.batch?;
                let rows = batch.num_rows();
                let flags = (held.live < rows).then(|| flags_array(&live, rows));
                Some(Selected { live: flags, tied: tied.map(|t| flags_array(&t, rows)), batch })
            })
            .collect();
        self.table = HashTable::new();
        self.null = None;
        self.keys.clear();
        self.ranks.clear();
        self.held_rows = 0;
        self.held_bytes = 0;
        (selected, ties)
    }
}

fn flags_array(words: &[u64], rows: usize) -> BooleanArray {
    BooleanArray::new(BooleanBuffer::new(Buffer::from_slice_ref(words), 0, rows), None)
}
