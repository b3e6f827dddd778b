//! A pipeline after its YAML: names resolved, types parsed, tables in the order in which they load.
//! What is here came through `bind` and is right as far as can be known without reading data.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use smelt_connectors::formats::FormatKind;
use smelt_connectors::sources::{Locate, SourceSpec};
use smelt_connectors::stores::{Location, Stores};
use smelt_engine::change::{ChangeMode, Kind};
use smelt_engine::checks::Check;
use smelt_engine::contract::{Contract, OnMissingColumn};
use smelt_engine::error::Complaint;
use smelt_engine::keys::Keys;
use smelt_engine::steps::Step;
use smelt_engine::table::{TableFormat, TableName};
use smelt_engine::write::partition::PartitionBy;
use smelt_engine::{Error, Result};

use crate::diagnostic::Diagnostics;
use crate::forget::subjects::Declared;
use crate::graph::Graph;
use crate::look::Listings;
use crate::spec::{Loaded, SampleSpec};
pub use crate::spec::{MaxRejected, OnChangedFile, OnTypeChange};

/// A whole pipeline for one environment.
#[derive(Debug)]
pub struct Bound {
    pub name: String,
    /// The pipeline as the user named it, for messages that suggest a command.
    pub shown: String,
    pub environment: String,
    /// Relative paths in sources start here.
    pub base: PathBuf,
    pub stores: Arc<Stores>,
    pub lake: Location,
    pub keys: Keys,
    pub sources: BTreeMap<String, SourceSpec>,
    /// In loading order.
    pub tables: Vec<BoundTable>,
    /// Columns that say whose a row is.
    pub subjects: Declared,
    pub graph: Graph,
    /// Of timestamps that carry none, unless their column says otherwise.
    pub timezone: Option<chrono_tz::Tz>,
    /// Input that a run may make itself where there is none.
    pub sample: Option<SampleSpec>,
    /// The text and its positions, for diagnostics of later stages.
    pub loaded: Loaded,
    /// What each source holds, listed once per process: see [`Bound::listing`].
    pub listings: Listings,
}

/// Where a table's rows come from.
#[derive(Debug, Clone)]
pub enum Input {
    /// A source of the pipeline, by name.
    Source(String),
    /// A query over other tables of the lake.
    Sql(String),
}

/// What a load does to the rows that are in the table already.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    Append,
    Replace,
    ReplacePartitions,
    /// By key and sequence: `merge`, `scd2`, `bitemporal`, `snapshot`.
    Change(Box<ChangeMode>),
}

impl Mode {
    /// The mode, where rows change rows.
    pub fn change(&self) -> Option<&ChangeMode> {
        match self {
            Mode::Change(mode) => Some(mode),
            _ => None,
        }
    }

    /// Whether rows must say which columns they were not given.
    pub fn needs_absent(&self, contract: &Contract) -> bool {
        // a change feed may leave a value out of a row: the old one stands
        let leaves_out = contract.on_missing_column == OnMissingColumn::Ignore || contract.changes.is_some();
        leaves_out && self.change().is_some_and(|m| m.kind != Kind::Snapshot)
    }

    pub fn name(&self) -> &'static str {
        match self {
            Mode::Change(mode) => mode.name(),
            Mode::Append => "append",
            Mode::Replace => "replace",
            Mode::ReplacePartitions => "replace_partitions",
        }
    }
}

/// One table.
#[derive(Debug)]
pub struct BoundTable {
    pub name: TableName,
    pub input: Input,
    /// `None`: inferred from the input.
    pub contract: Option<Contract>,
    pub steps: Vec<Step>,
    pub checks: Vec<Check>,
    pub mode: Mode,
    pub kind: FormatKind,
    pub format: Arc<dyn TableFormat>,
    pub location: Location,
    /// Where its rejected rows go: a Delta table `quarantine.<layer>_<name>`.
    pub quarantine: Arc<dyn TableFormat>,
    pub quarantine_location: Location,
    pub partition_by: Vec<PartitionBy>,
    /// Bytes.
    pub target_file_size: u64,
    /// Of rows in files that compaction writes.
    pub sort_by: Vec<String>,
    /// So many small files in a partition are compacted after a load.
    pub when_small_files: Option<u64>,
    pub max_rejected: Option<MaxRejected>,
    pub provenance: bool,
    pub on_changed_file: OnChangedFile,
    pub on_type_change: OnTypeChange,
    /// Descriptions of columns, for the table's log.
    pub descriptions: BTreeMap<String, String>,
    /// Hash of all that decides the table's rows.
    pub definition: String,
}

impl Bound {
    /// The tables that `name` reads.
    pub fn reads(&self, name: &TableName) -> impl Iterator<Item = &BoundTable> {
        let reads = self.graph.get(&name.to_string());
        self.tables.iter().filter(move |t| reads.is_some_and(|r| r.contains(&t.name.to_string())))
    }

    /// A source by name.
    pub fn source(&self, name: &str) -> Result<&SourceSpec> {
        self.sources.get(name).ok_or_else(|| Error::bug(format!("no source {name}")))
    }

    /// Where the lake is, as the user would name it from here.
    pub fn lake_shown(&self) -> String {
        if self.lake.display.contains("://") {
            return self.lake.display.clone();
        }
        let path = self.base.join(&self.lake.display);
        let here = std::env::current_dir().unwrap_or_default();
        path.strip_prefix(&here).unwrap_or(&path).display().to_string()
    }

    /// Whether a source looks for its files in `folder`.
    pub fn reads_below(&self, folder: &std::path::Path) -> bool {
        self.sources.values().any(|s| s.paths().iter().any(|p| self.base.join(p).starts_with(folder)))
    }

    /// Turns complaints about a table into diagnostics with their places.
    pub fn diagnose(&self, table: &TableName, complaints: Vec<Complaint>, out: &mut Diagnostics) {
        let name = table.to_string();
        for complaint in &complaints {
            out.push(self.loaded.diagnose(&["tables", &name], complaint));
        }
    }
}

impl Bound {
    /// Complaints about a table as text for a report, each with its file, line and column, and its remedy.
    pub fn located(&self, table: &TableName, complaints: &[Complaint]) -> String {
        let mut all = Diagnostics::default();
        self.diagnose(table, complaints.to_vec(), &mut all);
        let lines = all.to_json(&self.loaded.sources).into_iter().map(|d| {
            let text = |key: &str| d[key].as_str().unwrap_or_default().to_owned();
            let place = if d["line"].is_null() { String::new() } else { format!("{}:{}:{}: ", text("file"), d["line"], d["column"]) };
            let help = if d["help"].is_null() { String::new() } else { format!(" ({})", text("help")) };
            format!("{place}{}{help}", text("message"))
        });
        lines.collect::<Vec<_>>().join("; ")
    }
}

impl Locate for Bound {
    fn locate(&self, text: &str) -> Result<(Arc<dyn ObjectStore>, Path, String)> {
        let location = self.stores.locate(text, &self.base)?;
        // paths are shown below the pipeline's folder, or below the bucket
        let base = self.base.to_string_lossy();
        let root = match (text.contains("://"), base.split_once("://")) {
            (true, _) => String::new(),
            (false, Some((_, place))) => place.split_once('/').map(|(_bucket, folder)| folder.to_owned()).unwrap_or_default(),
            (false, None) => base.trim_start_matches('/').to_owned(),
        };
        Ok((location.store, location.prefix, root))
    }
}
