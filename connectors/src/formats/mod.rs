//! Table formats: Delta and Parquet with versioned manifests, behind `smelt_engine::table::TableFormat`.
//!
//! A format is how a list of data files becomes a table version: its log, its commit, its snapshot. What both formats
//! share lives beside them: `publish` (the commit protocol), `rebase` (who can step over whom), `checkpoint` and `consumed` (what a table
//! has taken in), `schema` (types as JSON), `scan` (reading a version), `purge` (leaving nothing but the newest version). No format knows how rows are made or how data files are written.

mod checkpoint;
pub mod consumed;
mod delta;
mod delta_log;
mod delta_protocol;
mod delta_versions;
mod garbage;
mod parquet;
mod parquet_versions;
mod publish;
mod purge;
mod rebase;
mod scan;
mod schema;
mod schema_log;
mod symlink;
mod versions;

#[cfg(test)]
mod suite;

use std::sync::Arc;

use futures::StreamExt;
use smelt_engine::error::Result;
use smelt_engine::table::TableFormat;

pub use delta::DeltaFormat;
pub use garbage::{missing, sweep};
pub use parquet::ParquetFormat;
pub use schema_log::{LoggedSchema, schema_log};

use crate::stores::Location;

/// How a table is kept: `delta` (a Delta Lake table) or `parquet` (Parquet files with versioned manifests).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatKind {
    /// A Delta Lake table: one commit of `_delta_log` per batch.
    #[default]
    Delta,
    /// Parquet files below `data/`, published by manifests in `_smelt/versions` and, for other engines, symlink manifests.
    Parquet,
}

/// The table of this format at `location`, whether it exists yet or not.
pub fn open(kind: FormatKind, location: Location) -> Arc<dyn TableFormat> {
    match kind {
        FormatKind::Delta => Arc::new(DeltaFormat::new(location)),
        FormatKind::Parquet => Arc::new(ParquetFormat::new(location)),
    }
}

/// Which format the table at `location` has; `None` where there is no table.
pub async fn detect(location: &Location) -> Result<Option<FormatKind>> {
    for (folder, kind) in [(delta_log::FOLDER, FormatKind::Delta), (parquet::VERSIONS, FormatKind::Parquet)] {
        let mut entries = location.store.list(Some(&location.path(folder)?));
        if let Some(first) = entries.next().await {
            first?;
            return Ok(Some(kind));
        }
    }
    Ok(None)
}
