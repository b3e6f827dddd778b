//! What a table format promises: a snapshot, and a commit that happens whole or not at all.
//!
//! Formats live in the connectors; the engine sees them through [`TableFormat`] only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use serde::{Deserialize, Serialize};

use crate::error::Result;

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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Counts commits by Smelt to this table, from 1.
    pub sequence: u64,
    /// All batches that were published, the newest last.
    pub batches: Vec<BatchId>,
    /// Input files consumed, by source name and path.
    #[serde(default)]
    pub files: BTreeMap<String, BTreeMap<String, FileMark>>,
    /// For tables made by SQL: the version of each table that was read.
    #[serde(default)]
    pub upstream: BTreeMap<String, u64>,
    /// Hash of the part of the pipeline that decides this table's rows; a change rebuilds SQL tables.
    #[serde(default)]
    pub definition: String,
    /// Quarantine files of the last batch, so that a run that died between the two commits can finish the second.
    #[serde(default)]
    pub quarantine: Vec<DataFile>,
    /// What the table remembers beside its rows.
    #[serde(default)]
    pub state: State,
}

/// What a table remembers and does not show.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// Parquet files below the table's `_smelt/state/`.
    #[serde(default)]
    pub files: Vec<DataFile>,
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

/// What one commit does.
#[derive(Debug, Clone)]
pub struct Change {
    pub add: Vec<DataFile>,
    pub remove: Remove,
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
    /// between, unless a file that it removes went away, and keeps the checkpoint, the schema and the partition columns that it finds.
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
    /// Another writer published version `with` first, and the change does not commute with it.
    Conflict {
        with: u64,
    },
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
    /// Publishes `change` on top of `base`: all of it or none.
    async fn commit(&self, base: &Option<Snapshot>, change: Change) -> Result<Commit>;
    /// Reads one version.
    async fn provider(&self, snapshot: &Snapshot) -> Result<Arc<dyn TableProvider>>;
    /// `delta` or `parquet`.
    fn name(&self) -> &'static str;
    /// A prefix below the table's root for the data files of a change to come ("" for the root itself).
    /// Files there are invisible to readers until `commit` names them.
    fn data_prefix(&self, base: &Option<Snapshot>, batch: &BatchId) -> String;
}
