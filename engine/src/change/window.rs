//! The batches that the operator still looks at, with what is compared again and again: keys and sequences as bytes, hashes.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int8Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Int8Type, Int64Type};
use arrow::row::{RowConverter, Rows, SortField};

use super::fold::{At, Given, Time, Values};
use super::hash;
use super::plan::{Layout, meta};
use crate::error::{Error, Result};

/// Turns keys and sequences into bytes that compare as they do.
#[derive(Debug)]
pub(super) struct Converters {
    keys: RowConverter,
    pub sequence: RowConverter,
    pub first: RowConverter,
}

impl Converters {
    pub fn new(layout: &Layout) -> Result<Self> {
        let field = |t: &DataType| SortField::new(t.clone());
        Ok(Converters {
            keys: RowConverter::new(layout.keys.iter().map(|k| field(layout.stored[*k].data_type())).collect())?,
            sequence: RowConverter::new(layout.sequence_types.iter().map(field).collect())?,
            first: RowConverter::new(vec![field(&layout.sequence_types[0])])?,
        })
    }
}

/// One batch of events.
pub(super) struct Page {
    pub batch: RecordBatch,
    pub keys: Rows,
    pub sequence: Rows,
    /// Of the first member; `None` where it is the whole sequence.
    first: Option<Rows>,
    pub to: Option<Rows>,
    /// Of the first member as the table stores it.
    shown: Option<Rows>,
    pub op: Int8Array,
    pub origin: Int8Array,
    given: Option<usize>,
    recorded: Option<usize>,
    /// Sums of hashes of the value columns: all, and the tracked ones.
    all: Vec<u64>,
    tracked: Vec<u64>,
    /// Of the stored sequence columns, and of the sequence itself under their names. They differ where a row stands for several events.
    pub stored_sequence: Vec<u64>,
    pub own_sequence: Vec<u64>,
    /// Of each value column, where single values are inherited.
    each: Vec<Vec<u64>>,
}

impl Page {
    /// `latest`: a row shows its sequence even where it is in no column of its own; `each`: keep the hash of each value.
    pub fn new(batch: RecordBatch, layout: &Layout, converters: &Converters, latest: bool, each: bool) -> Result<Self> {
        let column = |name: &str| batch.column_by_name(name).cloned().ok_or_else(|| Error::bug(format!("an event has no column {name}")));
        let keys: Vec<ArrayRef> = layout.keys.iter().map(|k| Arc::clone(batch.column(*k))).collect();
        let members = (0..layout.sequence_types.len()).map(|i| column(&meta::sequence(i))).collect::<Result<Vec<_>>>()?;
        let to = column(meta::TO)?;
        let rows = batch.num_rows();
        let (mut all, mut tracked, mut kept) = (vec![0u64; rows], vec![0u64; rows], vec![]);
        for (value, is_tracked) in layout.values.iter().zip(&layout.tracked) {
            let hashes = hash::column(layout.stored[*value].name(), batch.column(*value))?;
            for (row, hash) in hashes.iter().enumerate() {
                all[row] = all[row].wrapping_add(*hash);
                if *is_tracked {
                    tracked[row] = tracked[row].wrapping_add(*hash);
                }
            }
            if each {
                kept.push(hashes);
            }
        }
        let (mut stored_sequence, mut own_sequence) = (vec![0u64; rows], vec![0u64; rows]);
        for ((member, stored), name) in members.iter().zip(&layout.sequence).zip(&layout.sequence_names) {
            let shown = match stored {
                Some(i) => batch.column(*i),
                None if latest => member,
                None => continue,
            };
            for (sums, column) in [(&mut stored_sequence, shown), (&mut own_sequence, member)] {
                for (sum, hash) in sums.iter_mut().zip(hash::column(name, column)?) {
                    *sum = sum.wrapping_add(hash);
                }
            }
        }
        let index = |name: &str| batch.schema_ref().index_of(name).ok().filter(|i| batch.column(*i).null_count() < rows);
        Ok(Page {
            keys: converters.keys.convert_columns(&keys)?,
            first: if members.len() > 1 { Some(converters.first.convert_columns(&members[..1])?) } else { None },
            sequence: converters.sequence.convert_columns(&members)?,
            to: if to.null_count() < rows { Some(converters.first.convert_columns(&[to])?) } else { None },
            shown: match layout.sequence.first() {
                Some(Some(i)) => Some(converters.first.convert_columns(&[Arc::clone(batch.column(*i))])?),
                _ => None,
            },
            op: column(meta::OP)?.as_primitive::<Int8Type>().clone(),
            origin: column(meta::ORIGIN)?.as_primitive::<Int8Type>().clone(),
            given: index(meta::GIVEN),
            recorded: index(meta::RECORDED),
            all,
            tracked,
            stored_sequence,
            own_sequence,
            each: kept,
            batch,
        })
    }

    pub fn first(&self, row: usize) -> &[u8] {
        self.first.as_ref().unwrap_or(&self.sequence).row(row).data()
    }

    /// When the visible row ended, as bytes that compare with `first`.
    pub fn ended(&self, row: usize) -> Option<&[u8]> {
        let to = self.to.as_ref()?;
        let column = self.batch.column_by_name(meta::TO)?;
        column.is_valid(row).then(|| to.row(row).data())
    }

    /// The first member of the sequence as the row shows it, as bytes that compare with `first`.
    pub fn shown(&self, row: usize) -> Option<&[u8]> {
        self.shown.as_ref().map(|rows| rows.row(row).data())
    }

    pub fn given(&self, row: usize) -> Given {
        let array = self.batch.column(self.given?).as_binary_view();
        array.is_valid(row).then(|| array.value(row).into())
    }

    pub fn recorded(&self, row: usize) -> Option<i64> {
        let array = self.batch.column(self.recorded?).as_primitive::<Int64Type>();
        array.is_valid(row).then(|| array.value(row))
    }
}

/// Pages by the number that `At` has.
#[derive(Default)]
pub(super) struct Window {
    pub pages: Vec<Page>,
    columns: usize,
    is_tracked: Vec<bool>,
}

impl Window {
    pub fn new(layout: &Layout) -> Self {
        Window { pages: vec![], columns: layout.values.len(), is_tracked: layout.tracked.clone() }
    }

    pub fn page(&self, at: At) -> (&Page, usize) {
        (&self.pages[at.batch as usize], at.row as usize)
    }

    pub fn bytes(&self) -> usize {
        self.pages.iter().map(|p| p.batch.get_array_memory_size() + p.keys.size() + p.sequence.size() + 16 * p.all.len()).sum()
    }

    /// Column `index` of the rows at `rows`; `None` is NULL.
    pub fn gather(&self, index: usize, ty: &DataType, rows: &[Option<At>]) -> Result<ArrayRef> {
        let mut arrays: Vec<ArrayRef> = self.pages.iter().map(|p| Arc::clone(p.batch.column(index))).collect();
        arrays.push(new_null_array(ty, 1));
        let none = (arrays.len() - 1, 0);
        pick(&arrays, rows.iter().map(|at| at.map_or(none, |at| (at.batch as usize, at.row as usize))).collect())
    }

    /// Member `member` of the sequences at `times`, which may stand in the list `listed`; `None` is NULL.
    pub fn times(&self, member: usize, ty: &DataType, times: &[Option<Time>], listed: Option<&ArrayRef>) -> Result<ArrayRef> {
        let named = |name: &str| -> Result<Vec<ArrayRef>> {
            let column =
                |p: &Page| p.batch.column_by_name(name).cloned().ok_or_else(|| Error::bug(format!("an event has no column {name}")));
            self.pages.iter().map(column).collect()
        };
        let mut arrays = named(&meta::sequence(member))?;
        let n = arrays.len();
        arrays.extend(if member == 0 { named(meta::TO)? } else { vec![new_null_array(ty, 1); n] });
        arrays.push(listed.cloned().unwrap_or_else(|| new_null_array(ty, 1)));
        arrays.push(new_null_array(ty, 1));
        let none = (2 * n + 1, 0);
        let places = times.iter().map(|time| match time {
            Some(Time::Seq(at)) => (at.batch as usize, at.row as usize),
            Some(Time::To(at)) if member == 0 => (n + at.batch as usize, at.row as usize),
            Some(Time::Listed(i)) => (2 * n, *i as usize),
            _ => none,
        });
        pick(&arrays, places.collect())
    }
}

/// As `interleave`; rows in order of one array are taken without it.
fn pick(arrays: &[ArrayRef], places: Vec<(usize, usize)>) -> Result<ArrayRef> {
    if let Some((first, _)) = places.first()
        && places.iter().all(|(array, _)| array == first)
    {
        let rows = UInt32Array::from_iter_values(places.iter().map(|(_, row)| *row as u32));
        return Ok(take(&arrays[*first], &rows, None)?);
    }
    let arrays: Vec<&dyn Array> = arrays.iter().map(|a| a.as_ref()).collect();
    Ok(interleave(&arrays, &places)?)
}

impl Values for Window {
    fn columns(&self) -> usize {
        self.columns
    }
    fn hash(&self, at: At, column: usize) -> u64 {
        let (page, row) = self.page(at);
        page.each.get(column).map_or(0, |c| c[row])
    }
    fn all(&self, at: At) -> u64 {
        let (page, row) = self.page(at);
        page.all[row]
    }
    fn tracked(&self, at: At) -> u64 {
        let (page, row) = self.page(at);
        page.tracked[row]
    }
    fn is_tracked(&self, column: usize) -> bool {
        self.is_tracked[column]
    }
}
