//! What a table format promises: a snapshot, and a commit that happens whole or not at all.
//!
//! Formats live in the connectors; the engine sees them through [`TableFormat`] only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use serde::{Deserialize, Serialize};

use crate::batches::Batches;
use crate::change::ChangeState;
use crate::consumed::Consumed;
use crate::error::Result;
use crate::evolve::SchemaChange;

/// `layer.name`, e.g. `silver.orders`. Both parts are lower-case identifiers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    pub layer: String,
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.layer, self.name)
    }
}

/// Names a run. The same id never publishes twice to one table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub String);

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What identifies one state of an input file: the same values mean the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileMark {
    /// Bytes.
    pub size: u64,
    /// Milliseconds since the epoch, UTC.
    pub modified: i64,
    /// Where the store gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// What a table has taken in so far. Lives with the table's own commit and nowhere else.
///
/// Writers that publish side by side merge theirs: a field that is added here needs its rule in the formats' `rebase`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Checkpoint {
    /// Counts commits by Smelt to this table, from 1.
    pub sequence: u64,
    /// All batches that were published, the newest last.
    pub batches: Batches,
    /// Input files consumed, whatever the source was called.
    pub files: Consumed,
    /// For tables made by SQL: the version of each table that was read.
    pub upstream: BTreeMap<String, u64>,
    /// Hash of the part of the pipeline that decides this table's rows; a change rebuilds SQL tables.
    pub definition: String,
    /// What a table of the change modes remembers beside its rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<ChangeState>,
    /// Quarantine files that may not be in the quarantine table yet, so that a run that died between the two commits
    /// can be finished by any other. At most one entry a batch.
    #[serde(rename = "unsettled")]
    pub quarantine: Vec<Unsettled>,
    /// What commits did to the columns, the newest last. The log forgets it sooner or later.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<SchemaChange>,
}

/// The quarantine files of one batch, which the quarantine table takes after the table's own commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    pub batch: BatchId,
    /// The sequence that the batch's commit was planned for. It is not changed when the commit steps over another
    /// one, since it is part of the name under which the files are published once.
    pub sequence: u64,
    pub files: Vec<DataFile>,
}

impl Checkpoint {
    /// The checkpoint of the commit that publishes `batch` on top of this one, whose quarantine files have been settled.
    /// `rejected`: the batch's own quarantine files.
    pub fn advance(&mut self, batch: &BatchId, rejected: Vec<DataFile>) {
        self.sequence += 1;
        self.batches.push(batch.clone());
        self.quarantine.clear();
        if !rejected.is_empty() {
            self.quarantine.push(Unsettled { batch: batch.clone(), sequence: self.sequence, files: rejected });
        }
    }
}

/// A checkpoint as bytes may hold it: format 1 kept the quarantine files of the last batch only.
#[derive(Deserialize)]
struct Stored {
    sequence: u64,
    batches: Batches,
    #[serde(default)]
    files: Consumed,
    #[serde(default)]
    upstream: BTreeMap<String, u64>,
    #[serde(default)]
    definition: String,
    #[serde(default)]
    state: Option<ChangeState>,
    #[serde(default)]
    quarantine: Vec<DataFile>,
    #[serde(default)]
    unsettled: Vec<Unsettled>,
    #[serde(default)]
    schemas: Vec<SchemaChange>,
}

impl From<Stored> for Checkpoint {
    fn from(stored: Stored) -> Self {
        let Stored { sequence, batches, files, upstream, definition, state, quarantine, mut unsettled, schemas } = stored;
        if let (false, Some(batch)) = (quarantine.is_empty(), batches.last()) {
            unsettled.push(Unsettled { batch: batch.clone(), sequence, files: quarantine });
        }
        Checkpoint { sequence, batches, files, upstream, definition, state, quarantine: unsettled, schemas }
    }
}

/// One finished, immutable data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Path below the table's root, `/`-separated, percent-encoded as hive partitioning demands.
    pub path: String,
    /// Values of the partition columns in order; `None` is NULL.
    pub partition: Vec<(String, Option<String>)>,
    pub rows: u64,
    pub bytes: u64,
    /// Delta's statistics JSON: numRecords, minValues, maxValues, nullCount.
    pub stats: Option<String>,
    /// Milliseconds since the epoch at which the file was finished.
    pub modified: i64,
}

/// A table as one reader sees it.
#[derive(Clone)]
pub struct Snapshot {
    /// Version of the format's log.
    pub version: u64,
    /// Versions up to this one that only laid rows out anew: tables made from this one need not follow them.
    pub rewrites: u64,
    /// Without hidden columns other than those the table keeps (`_file`, `_line`, `_rescued`); partition columns included, in table order.
    pub schema: SchemaRef,
    pub partition_columns: Vec<String>,
    pub files: Arc<Vec<DataFile>>,
    pub checkpoint: Checkpoint,
    /// The format's own handle on this version, for a commit that builds on it.
    pub state: Arc<dyn std::any::Any + Send + Sync>,
}

impl Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("version", &self.version).field("files", &self.files.len()).finish_non_exhaustive()
    }
}

/// Which of the current files a change takes away.
#[derive(Debug, Clone)]
pub enum Remove {
    Nothing,
    Everything,
    Files(Vec<DataFile>),
}

/// Values of all partition columns in order, as in [`DataFile::partition`].
pub type Partition = Vec<(String, Option<String>)>;

/// What a change looked at in its base version to come out as it did. It decides which commits of others, published since
/// the base, it can step over. Whatever it read, a file that it removes must still be there, a change of the table's
/// rules (schema, partitioning, protocol) conflicts, and so does an input file that both have consumed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reads {
    /// A blind append: the rows are the same whatever the table holds. Steps over every change of files.
    #[default]
    Nothing,
    /// The files that it removes and no others, as a compaction does.
    Files,
    /// All files of these partitions, and that there were no others: any file added to or removed from one of them conflicts.
    Partitions(BTreeSet<Partition>),
    /// The whole table: any file added or removed conflicts, and any commit with a checkpoint of its own.
    /// [`Remove::Everything`] always means this.
    Everything,
}

/// What one commit does.
#[derive(Debug, Clone)]
pub struct Change {
    pub add: Vec<DataFile>,
    pub remove: Remove,
    pub reads: Reads,
    pub batch: BatchId,
    pub checkpoint: Checkpoint,
    /// The table's schema after the change.
    pub schema: SchemaRef,
    pub partition_columns: Vec<String>,
    /// Descriptions of columns, for formats that keep them.
    pub descriptions: BTreeMap<String, String>,
    /// `append`, `replace`, ...: for the format's history.
    pub operation: String,
    /// `false`: the rows of `add` are those of `remove`, laid out anew. Such a change goes on top of whatever was published in
    /// between, unless a file that it removes went away, whatever `reads` says, and keeps the checkpoint, the schema and the partition
    /// columns that it finds.
    pub data_change: bool,
    /// Milliseconds since the epoch.
    pub now: i64,
}

/// How a commit ended. `Conflict` is an outcome, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    Published {
        version: u64,
    },
    /// The batch was in the table already; nothing was done.
    AlreadyPublished,
    /// Another writer published version `with` first, and the change does not commute with what was published since its base.
    /// `batch`: that writer's, where it says one.
    Conflict {
        with: u64,
        batch: Option<BatchId>,
    },
}

/// What `TableFormat::purge` may take away.
#[derive(Debug, Clone, Copy)]
pub struct Purge {
    /// Files that no version ever named go when they are older than this (milliseconds since the epoch): younger ones may belong to a
    /// writer that has not committed yet.
    pub unnamed_before: i64,
    /// Only counts.
    pub dry_run: bool,
}

/// What a purge took away, or would.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Data and state files that the newest version does not name.
    pub files: u64,
    /// Of these.
    pub bytes: u64,
    /// Entries of the log, checkpoints and sidecars that were removed, or rewritten without statistics and paths of files that are gone.
    pub log_entries: u64,
    /// Files that no version names and that are too young to go.
    pub left: u64,
}

/// One version, as the log tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionInfo {
    pub version: u64,
    /// Milliseconds since the epoch at which the store took the version: what [`At::Timestamp`] goes by.
    pub timestamp: i64,
    /// `append`, `optimize`, ... for versions of Smelt; in capitals what other writers call it.
    pub operation: String,
    pub batch: Option<BatchId>,
    /// Who wrote it, with its version.
    pub engine: Option<String>,
    pub files_added: u64,
    pub files_removed: u64,
    /// Rows in the files added, where the log counts them.
    pub rows_added: Option<u64>,
    /// Of the files added.
    pub bytes_added: u64,
    /// Whether rows changed, or only their layout.
    pub data_change: bool,
}

/// Which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Version(u64),
    /// The newest one that was there at this time, in milliseconds since the epoch.
    Timestamp(i64),
}

/// An object below the table's root that nothing needs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// As [`DataFile::path`].
    pub path: String,
    pub bytes: u64,
}

/// One table of one format at one place.
#[async_trait]
pub trait TableFormat: Debug + Send + Sync {
    /// The newest version, or `None` where there is no table yet.
    async fn snapshot(&self) -> Result<Option<Snapshot>>;
    /// An older version, with the checkpoint that it had.
    ///
    /// # Errors
    /// `Error::Pipeline` where there is no such version, not yet or not any more; it names those that there are.
    /// Whether the data files are still there is not looked at.
    async fn snapshot_at(&self, at: At) -> Result<Snapshot>;
    /// The newest `limit` versions that the log still tells of, the newest first.
    async fn history(&self, limit: usize) -> Result<Vec<VersionInfo>>;
    /// What no version needs that was the newest at `before` (milliseconds since the epoch) or later, no removal since then, and no
    /// path in `keep`; nothing that was written since then. What tells of other objects comes before them.
    async fn garbage(&self, before: i64, keep: &BTreeSet<String>) -> Result<Vec<Garbage>>;
    /// Publishes `change`, which was made from `base`: all of it or none. It goes on top of versions that others published
    /// since, where [`Change::reads`] allows it; what they and the change have taken in is then merged.
    async fn commit(&self, base: &Option<Snapshot>, change: Change) -> Result<Commit>;
    /// Reads one version.
    async fn provider(&self, snapshot: &Snapshot) -> Result<Arc<dyn TableProvider>>;
    /// The least and the greatest value of a column in each file of the snapshot, in order; NULL where it is not known.
    fn bounds(&self, snapshot: &Snapshot, column: &str) -> Result<(ArrayRef, ArrayRef)>;
    /// `delta` or `parquet`.
    fn name(&self) -> &'static str;
    /// A prefix below the table's root for the data files of a change to come ("" for the root itself).
    /// Files there are invisible to readers until `commit` names them.
    fn data_prefix(&self, base: &Option<Snapshot>, batch: &BatchId) -> String;
    /// Makes the newest version the only one that can be read: removes all data and state files that it does not name, and from the log
    /// what was said about them (statistics, paths, partition values). Doing it twice changes nothing.
    async fn purge(&self, options: Purge) -> Result<Purged>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_of_format_1_names_its_quarantine_files_under_its_last_batch() {
        let file = DataFile { path: "q.parquet".into(), partition: vec![], rows: 1, bytes: 2, stats: None, modified: 3 };
        let old = serde_json::json!({"sequence": 7, "batches": ["a", "b"], "quarantine": [file]});
        let read: Checkpoint = serde_json::from_value(old).unwrap();
        let expected = vec![Unsettled { batch: BatchId("b".into()), sequence: 7, files: vec![file] }];
        assert_eq!((read.sequence, &read.quarantine), (7, &expected));
        let again: Checkpoint = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn a_commit_keeps_only_its_own_quarantine_files() {
        let file = DataFile { path: "q.parquet".into(), partition: vec![], rows: 1, bytes: 2, stats: None, modified: 3 };
        let mut checkpoint = Checkpoint::default();
        checkpoint.advance(&BatchId("a".into()), vec![file.clone()]);
        checkpoint.advance(&BatchId("b".into()), vec![file]);
        assert_eq!((checkpoint.sequence, checkpoint.batches.len(), checkpoint.quarantine.len()), (2, 2, 1));
        assert_eq!((checkpoint.quarantine[0].batch.0.as_str(), checkpoint.quarantine[0].sequence), ("b", 2));
        checkpoint.advance(&BatchId("c".into()), vec![]);
        assert!(checkpoint.quarantine.is_empty());
    }
}
