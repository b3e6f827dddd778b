//! Writes the rows of a plan as Parquet files below a table's root. One writer serves every format; what makes the
//! files part of a table is the commit, elsewhere.
//!
//! ```text
//! input streams (N) -> rows by hive partition -> row groups -> one open file per partition -> a row per finished file
//! ```

mod exec;
mod file;
mod files;
pub mod hive;
pub mod partition;
pub mod quarantine;
pub mod rewrite;
pub(crate) mod split;
mod stats;
mod stored;
mod stream;
mod transform;
pub(crate) mod views;
pub mod zorder;

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, UInt64Type};
use datafusion::logical_expr::{Extension, LogicalPlan};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::error::{Error, Result};
use crate::table::DataFile;

pub(crate) use exec::plan_operator;
pub use partition::{PartitionBy, Transform, plan_partitions};
pub use quarantine::QuarantineSink;
pub use stored::{stored_schema, stored_type};

/// Bytes at which a file is closed and the next one begun.
pub const TARGET_FILE_SIZE: u64 = 128 << 20;
/// Level of Zstd compression.
pub const ZSTD_LEVEL: i32 = 3;

/// Where and how the files of one write go.
#[derive(Clone)]
pub struct WriteSpec {
    pub store: Arc<dyn ObjectStore>,
    /// The table's root in `store`.
    pub root: Path,
    /// Below the root: where this write's files go; "" for the root itself. Part of `DataFile::path`.
    pub prefix: String,
    /// Their values go into folder names, not into the files.
    pub partition_columns: Vec<String>,
    /// Bytes.
    pub target_file_size: u64,
    pub zstd_level: i32,
    /// Milliseconds since the epoch: `DataFile::modified`.
    pub now_ms: i64,
}

impl WriteSpec {
    /// With the default size and level, unpartitioned, at the root itself.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, now_ms: i64) -> Self {
        WriteSpec {
            store,
            root,
            prefix: String::new(),
            partition_columns: vec![],
            target_file_size: TARGET_FILE_SIZE,
            zstd_level: ZSTD_LEVEL,
            now_ms,
        }
    }
}

impl fmt::Debug for WriteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteSpec").field("root", &self.root).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A plan that writes the rows of `input` and whose own rows are the finished files; read them with [`files`].
/// Columns are written as [`stored_schema`] has them. No rows: no file.
///
/// When the plan fails or its stream is dropped, uploads are aborted and finished files removed, as far as the store lets us.
///
/// # Errors
/// `Error::Pipeline` where a column's type cannot be stored; `Error::Bug` where a partition column is missing.
pub fn write(input: LogicalPlan, spec: WriteSpec) -> Result<LogicalPlan> {
    let input = stored::plan(input)?;
    let node = exec::WriteNode::new(Arc::new(spec), input)?;
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

/// Deletes files that no version names. Failing at it leaves garbage, not wrong data.
pub async fn discard(spec: &WriteSpec, files: &[DataFile]) {
    for file in files {
        let path = if spec.root.as_ref().is_empty() { file.path.clone() } else { format!("{}/{}", spec.root, file.path) };
        if let Ok(path) = Path::parse(path)
            && let Err(e) = object_store::ObjectStoreExt::delete(spec.store.as_ref(), &path).await
        {
            tracing::warn!(file = file.path, error = %e, "could not delete an unpublished file");
        }
    }
}

/// The finished files, from what a plan of [`write`](fn@write) gave.
pub fn files(batches: &[RecordBatch]) -> Result<Vec<DataFile>> {
    let mut out = vec![];
    for batch in batches {
        let column = |i: usize| batch.columns().get(i).ok_or_else(|| Error::bug("these are not the rows of a write"));
        let text = |i: usize| column(i)?.as_string_opt::<i32>().ok_or_else(|| Error::bug("these are not the rows of a write"));
        let (path, partition, stats) = (text(0)?, text(1)?, text(4)?);
        let (rows, bytes) = (column(2)?.as_primitive::<UInt64Type>(), column(3)?.as_primitive::<UInt64Type>());
        let modified = column(5)?.as_primitive::<Int64Type>();
        for i in 0..batch.num_rows() {
            out.push(DataFile {
                path: path.value(i).to_owned(),
                partition: serde_json::from_str(partition.value(i)).map_err(|e| Error::bug(e.to_string()))?,
                rows: rows.value(i),
                bytes: bytes.value(i),
                stats: stats.is_valid(i).then(|| stats.value(i).to_owned()),
                modified: modified.value(i),
            });
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
