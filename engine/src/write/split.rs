//! Splits batches by group: a number for each row's key, then one `take` per column and group.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::dedup::keys::{BitKeys, Form, Keys, RowKeys, TextKeys, form};
use crate::error::Result;

/// Numbers keys in the order in which they appear, from 0, over all batches it sees.
pub(crate) trait Groups: Send {
    /// Sets one number per row and returns how many groups there are by now.
    fn number(&mut self, columns: &[ArrayRef], ids: &mut Vec<u32>) -> Result<usize>;
}

pub(crate) fn groups(types: &[DataType]) -> Result<Box<dyn Groups>> {
    Ok(match form(types) {
        Form::Bits => Box::new(Numbered::new(BitKeys::default())),
        Form::Text => Box::new(Numbered::new(TextKeys::default())),
        Form::Rows => Box::new(Numbered::new(RowKeys::try_new(types)?)),
    })
}

struct Numbered<K: Keys> {
    keys: K,
    hashes: Vec<u64>,
    table: HashTable<(K::Key, u32)>,
    null: Option<u32>,
    count: u32,
}

impl<K: Keys> Numbered<K> {
    fn new(keys: K) -> Self {
        Numbered { keys, hashes: Vec::new(), table: HashTable::new(), null: None, count: 0 }
    }
}

impl<K: Keys> Groups for Numbered<K> {
    fn number(&mut self, columns: &[ArrayRef], ids: &mut Vec<u32>) -> Result<usize> {
        self.keys.load(columns, &mut self.hashes)?;
        ids.clear();
        for row in 0..self.hashes.len() {
            let id = if self.keys.is_null(row) {
                *self.null.get_or_insert_with(|| {
                    self.count += 1;
                    self.count - 1
                })
            } else {
                let keys = &self.keys;
                match self.table.entry(self.hashes[row], |e| keys.matches(row, &e.0), |e| keys.hash(&e.0)) {
                    Entry::Occupied(e) => e.get().1,
                    Entry::Vacant(v) => {
                        v.insert((self.keys.keep(row), self.count));
                        self.count += 1;
                        self.count - 1
                    }
                }
            };
            ids.push(id);
        }
        Ok(self.count as usize)
    }
}

/// The rows of each group that the batch has, in input order, with the group's number. `ids` are below `groups`.
pub(crate) fn split(batch: &RecordBatch, ids: &[u32], groups: usize) -> Result<Vec<(u32, RecordBatch)>> {
    if let Some(first) = ids.first()
        && ids.iter().all(|id| id == first)
    {
        return Ok(vec![(*first, batch.clone())]);
    }
    // Counting sort: `ends[g]` starts as where group g begins and finishes as where it ends.
    let mut ends = vec![0u32; groups + 1];
    for id in ids {
        ends[*id as usize + 1] += 1;
    }
    for g in 1..ends.len() {
        ends[g] += ends[g - 1];
    }
    let mut order = vec![0u32; ids.len()];
    for (row, id) in ids.iter().enumerate() {
        let at = &mut ends[*id as usize];
        order[*at as usize] = row as u32;
        *at += 1;
    }
    let order = UInt32Array::from(order);
    let mut parts = Vec::new();
    let mut start = 0;
    for (group, end) in ends[..groups].iter().enumerate() {
        if *end > start {
            // A take of its own for each group, so that a group which stays does not keep the rows of others alive.
            let rows = take_record_batch(batch, &arrow::array::Array::slice(&order, start as usize, (*end - start) as usize))?;
            parts.push((group as u32, rows));
        }
        start = *end;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array, StringViewArray};
    use arrow::datatypes::Int64Type;
    use std::sync::Arc;

    fn rows_of(columns: Vec<ArrayRef>) {
        let types: Vec<_> = columns.iter().map(|c| c.data_type().clone()).collect();
        let n = columns[0].len();
        let row: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n as i64));
        let batch = RecordBatch::try_from_iter([("row", row)]).unwrap();
        let mut groups = groups(&types).unwrap();
        let mut ids = vec![];
        let count = groups.number(&columns, &mut ids).unwrap();
        assert_eq!(count, 4, "a, NULL, b, c");
        assert_eq!(ids, [0, 1, 0, 2, 1, 3]);
        let parts = split(&batch, &ids, count).unwrap();
        let got: Vec<Vec<i64>> = parts.iter().map(|(_, b)| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(got, [vec![0, 2], vec![1, 4], vec![3], vec![5]]);
        // The numbers hold over batches.
        let last = columns.iter().map(|c| c.slice(3, 1)).collect::<Vec<_>>();
        assert_eq!(groups.number(&last, &mut ids).unwrap(), 4);
        assert_eq!(ids, [2]);
    }

    #[test]
    fn groups_by_number_text_and_several_columns() {
        let n: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), None, Some(0), Some(7), None, Some(9)]));
        let long = "a value longer than twelve bytes";
        let t: ArrayRef =
            Arc::new(StringViewArray::from(vec![Some(""), None, Some(""), Some(long), None, Some("a value longer than twelve bytez")]));
        rows_of(vec![n.clone()]);
        rows_of(vec![t.clone()]);
        rows_of(vec![n, t]);
    }
}
