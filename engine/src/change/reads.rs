//! What of the table decides how a change comes out: the partitions that its keys fall into, where the keys say so, else all of it.

use std::collections::BTreeSet;

use super::apply::{Job, Prepared};
use super::plan::Kind;
use crate::error::Result;
use crate::table::{Partition, Reads};
use crate::write::{Transform, hive};

/// More partitions than this are the whole table.
const PARTITIONS: usize = 10_000;

impl Job<'_> {
    /// A key lies in one partition where everything that the table is partitioned by comes from key columns. All of the table is read
    /// by a snapshot, by a row that empties the table, and where the keys are too many to be held.
    pub fn reads(&self, prepared: &Prepared) -> Result<Reads> {
        if self.mode.kind == Kind::Snapshot || self.partition_by.is_empty() || prepared.truncates() > 0 {
            return Ok(Reads::Everything);
        }
        let layout = &self.shape.layout;
        // every combination of the values of each: more than are touched, and never fewer
        let mut partitions: BTreeSet<Partition> = [vec![]].into();
        for by in self.partition_by {
            let key = layout.keys.iter().find(|key| *layout.stored[**key].name() == by.column);
            let Some(sorted) = key.map(|key| prepared.key_values(*key)).transpose()?.flatten() else { return Ok(Reads::Everything) };
            let values = if by.transform == Transform::Identity { sorted } else { by.values(&sorted)? };
            let texts = (0..values.len()).map(|row| hive::value(&values, row)).collect::<Result<BTreeSet<_>>>()?;
            if partitions.len() * texts.len() > PARTITIONS {
                return Ok(Reads::Everything);
            }
            let column = by.name();
            let extended = |partition: &Partition| {
                let partition = partition.clone();
                let column = &column;
                texts.iter().map(move |text| [&partition[..], &[(column.clone(), text.clone())]].concat()).collect::<Vec<_>>()
            };
            partitions = partitions.iter().flat_map(extended).collect();
        }
        Ok(Reads::Partitions(partitions))
    }
}
