//! The pipeline language, typed. Steps, checks, sources and types belong to the components that carry them out; this file
//! puts them together.
//!
//! Doc comments here are what users read in the manual and in their editor. Knows no plans and does no I/O.

mod check;
mod load;
mod values;

use schemars::JsonSchema;
use serde::Deserialize;
use smelt_connectors::formats::FormatKind;
use smelt_connectors::sources::SourceSpec;
use smelt_engine::change::{HistorySpec, MergeSpec, SnapshotSpec};
use smelt_engine::checks::Check;
use smelt_engine::contract::{OnMissingColumn, OnNewColumn};
use smelt_engine::steps::Step;
use smelt_engine::types::ContractType;
use smelt_engine::write::PartitionBy;

pub use load::{LoadOptions, Loaded, load, load_os, resolve_keys};
pub use values::{ByteSize, Formats, MaxRejected, Names, Subject, Zone};

use crate::yaml::{Ordered, SecretRef, Spanned, Unavailable};

/// What later versions have: said in place of "unknown key".
pub(crate) const UNAVAILABLE: Unavailable<'static> = &[
    ("Pipeline", "catalog"),
    ("Pipeline", "warehouse"),
    ("Pipeline", "notify"),
    ("Pipeline", "mask_all"),
    ("Table", "publish"),
    ("Mask", "encrypt"),
    ("Mask", "fpe"),
    ("Mask", "substitute"),
    ("Mask", "scramble"),
    ("Mask", "noise"),
    ("Mask", "redact_text"),
];

/// A pipeline: from raw files to tables.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// The pipeline's name, for reports: `name: olist`.
    pub name: String,
    /// What the pipeline is for, in a sentence.
    pub description: Option<String>,
    /// Where the tables live: a folder (a relative one starts at the pipeline's folder), `s3://`, `gs://`, `az://` or
    /// `memory://`. Example: `lake: ${LAKE:-lake}`.
    #[serde(default = "default_lake")]
    pub lake: String,
    /// Time zone of timestamps that carry none, unless the column says otherwise: `timezone: America/Sao_Paulo`. UTC when absent.
    pub timezone: Option<Zone>,
    /// Keys that masks use by name: `keys: {pii: "${secret:env://PII_KEY}"}`. Never printed.
    #[serde(default)]
    pub keys: Ordered<SecretRef>,
    /// Where rows come from, by name: `orders: {csv: {path: "data/orders/*.csv"}}`.
    #[serde(default)]
    pub sources: Ordered<SourceSpec>,
    /// The tables to make, by `layer.name`, such as `silver.orders`.
    pub tables: Ordered<Table>,
    /// Whose rows are, beyond what `subject: true` at a contract's column says: for `smelt forget`, columns of tables by the name of the subject:
    /// `subjects: {customer_id: [silver.orders.customer_id, gold.dim_customer.customer_id]}`.
    #[serde(default)]
    pub subjects: Ordered<Vec<Spanned<String>>>,
    /// What holds for every table that does not say otherwise.
    #[serde(default)]
    pub defaults: Defaults,
    /// Sample input that `smelt run` makes in the local environment where there is no input yet: `sample: {olist: {orders: 20000}}`.
    pub sample: Option<SampleSpec>,
    /// Laid over the rest before this type is read; here so that it is a known key.
    #[serde(default, rename = "environments")]
    #[schemars(with = "serde_json::Value")]
    _environments: serde::de::IgnoredAny,
}

/// Sample input of one shape.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SampleSpec {
    /// The eight files of the Olist shop.
    Olist(OlistSample),
    /// Nested JSON clicks.
    Clickstream(ClickstreamSample),
}

/// `sample: {olist: {orders: 20000}}`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OlistSample {
    /// Orders to make; the other files follow in proportion.
    #[serde(default = "default_orders")]
    pub orders: u64,
    /// The folder, beside the pipeline: `data`.
    #[serde(default = "default_folder")]
    pub folder: String,
}

/// `sample: {clickstream: {events: 100000}}`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClickstreamSample {
    /// Events to make.
    #[serde(default = "default_events")]
    pub events: u64,
    /// The folder, beside the pipeline: `data`.
    #[serde(default = "default_folder")]
    pub folder: String,
}

fn default_orders() -> u64 {
    20_000
}

fn default_events() -> u64 {
    100_000
}

fn default_folder() -> String {
    "data".to_owned()
}

/// Settings for every table that does not have its own.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// `delta` or `parquet`.
    pub format: Option<FormatKind>,
    /// What happens when the input's columns differ from the contract.
    pub schema: Option<SchemaRules>,
    /// How files are laid out.
    pub optimize: Option<Optimize>,
    /// How many rows may be rejected before the run fails: `1%` or `1000`.
    pub max_rejected: Option<MaxRejected>,
    /// Whether tables keep `_file` and `_line`.
    pub provenance: Option<bool>,
    /// What to do about an input file that changed after it was loaded.
    pub on_changed_file: Option<OnChangedFile>,
}

/// One table: where its rows come from, what they must look like, and how they are written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The source (or another table) that the rows come from: `from: orders`. Either this or `sql`.
    pub from: Option<Spanned<String>>,
    /// A query over other tables, by `layer.name`: `sql: select … from silver.orders`. Either this or `from`.
    pub sql: Option<Spanned<String>>,
    /// What the table holds, in a sentence.
    pub description: Option<String>,
    /// The contract: columns in order, each with its type. Inferred from the input when absent; `smelt plan` shows it, ready to paste.
    #[serde(default)]
    pub columns: Ordered<ColumnSpec>,
    /// What happens when the input's columns differ from the contract.
    pub schema: Option<SchemaRules>,
    /// What is done to the rows, in order.
    #[serde(default)]
    pub steps: Vec<Spanned<Step>>,
    /// What must hold for the rows after the steps.
    #[serde(default)]
    pub checks: Vec<Spanned<Check>>,
    /// How the rows reach the table: `append` (the default with `from`), `replace` (the default with `sql`), `replace_partitions`, or as changes:
    /// `merge`, `scd2`, `bitemporal`, `snapshot`.
    pub write: Option<WriteSpec>,
    /// `delta` (the default) or `parquet`.
    pub format: Option<FormatKind>,
    /// Columns, or transforms of them, by which files are put into folders: `[month(purchased_at), "bucket(16, customer_id)"]`.
    #[serde(default)]
    pub partition_by: Vec<Spanned<PartitionBy>>,
    /// How files are laid out.
    pub optimize: Option<Optimize>,
    /// How many rows may be rejected before the run fails and nothing is published: `1%` of the rows read, or `1000` rows. No limit when absent.
    pub max_rejected: Option<MaxRejected>,
    /// Whether the table keeps `_file` and `_line`, the place each row came from. `true` when absent, for tables with `from` that are not written as changes.
    pub provenance: Option<bool>,
    /// What to do about an input file that changed after it was loaded: `fail` (the default), `ignore` or `reload`.
    pub on_changed_file: Option<OnChangedFile>,
}

/// One column of a contract. `price: "decimal(12,2)"` is short for `price: {type: "decimal(12,2)"}`.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnSpec {
    pub ty: ContractType,
    pub required: bool,
    pub formats: Formats,
    pub timezone: Option<Zone>,
    pub path: Option<String>,
    pub was: Names,
    pub description: Option<String>,
    pub tags: Vec<String>,
    pub subject: Subject,
}

/// What happens when the input's columns differ from the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaRules {
    /// A column that the contract does not name: `add`, `ignore` (the default), `rescue` (keep it as JSON in `_rescued`) or `fail`.
    #[serde(default)]
    pub on_new_column: OnNewColumn,
    /// A column of the contract that a file lacks: `fail` (the default) or `ignore` (fill with NULL).
    #[serde(default)]
    pub on_missing_column: OnMissingColumn,
    /// A column whose type in the table differs from the contract: `fail` (the default) or `widen` (take the type that holds the values of both).
    #[serde(default)]
    pub on_type_change: OnTypeChange,
}

/// What to do when the contract's type of a column is no longer the table's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTypeChange {
    /// Stop before anything is written.
    #[default]
    Fail,
    /// Take the wider of the two types, where it holds every value of the other: `int32` and `int64`, `float` and `double`, `int32` and
    /// `double`, `decimal(8,2)` and `decimal(12,4)`, `int64` and `decimal(20,0)`, inside structs, lists and maps too. Files of the
    /// table are written anew where its type becomes wider. Any other change fails.
    Widen,
}

/// What to do about an input file that changed after it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnChangedFile {
    /// Stop before anything is written.
    #[default]
    Fail,
    /// Keep what was loaded, and say so in the report.
    Ignore,
    /// Take the file's rows out of the table and load it again, in one commit. Needs `provenance`.
    Reload,
}

/// How the rows of a run reach the table. `write: append` and `write: {append: {}}` are the same.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteSpec {
    Append,
    Replace,
    ReplacePartitions,
    Merge(MergeSpec),
    Scd2(HistorySpec),
    Bitemporal(HistorySpec),
    Snapshot(SnapshotSpec),
}

/// How data files are laid out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Optimize {
    /// About how large a data file should become: `128MB`.
    pub target_file_size: Option<ByteSize>,
    /// The order of rows in files that compaction writes: `[customer_id]`. Queries on the first of these columns then skip files.
    #[serde(default)]
    pub sort_by: Vec<String>,
    /// After a load, compact each partition that has at least as many files below half of `target_file_size`: `50`. Never when absent.
    #[schemars(range(min = 2))]
    pub when_small_files: Option<u64>,
}

impl Table {
    /// The write mode, or what holds when none is given: `append` for tables from a source, `replace` for SQL.
    pub fn write_mode(&self) -> WriteSpec {
        self.write.clone().unwrap_or(if self.sql.is_some() { WriteSpec::Replace } else { WriteSpec::Append })
    }

    /// Takes from `defaults` what the table does not say itself.
    fn apply(&mut self, defaults: &Defaults) {
        self.format = self.format.or(defaults.format);
        self.schema = self.schema.or(defaults.schema);
        self.optimize = self.optimize.take().or_else(|| defaults.optimize.clone());
        self.max_rejected = self.max_rejected.or(defaults.max_rejected);
        self.provenance = self.provenance.or(defaults.provenance);
        self.on_changed_file = self.on_changed_file.or(defaults.on_changed_file);
    }
}

fn default_lake() -> String {
    "lake".to_owned()
}
