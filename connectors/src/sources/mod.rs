//! Sources: raw files of one format behind one path, opened as a `TableProvider` of raw text columns.
//!
//! This room finds files and turns their bytes into raw rows. It knows no types beyond text (Parquet keeps its own), casts
//! nothing, and decides nothing about a row except whether it is a record at all.

pub mod block;
pub mod bytes;
pub mod chunk;
pub mod csv;
mod csv_decode;
mod csv_scan;
mod csv_split;
pub mod feed;
pub mod infer;
pub mod json;
mod json_source;
pub mod listing;
pub mod parquet;
pub mod scan;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use schemars::{JsonSchema, Schema as JsonSchemaValue, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use smelt_engine::contract::{Column, Contract, OnNewColumn, hidden};
use smelt_engine::error::{Complaint, Error, Result};
use smelt_engine::types::ContractType;

pub use csv::CsvSpec;
pub use feed::{MessageFeed, RowFeed};
pub use listing::{Base, Listing, Locate, SourceFile, list};
pub use parquet::ParquetSpec;

/// Where raw rows come from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceSpec {
    /// Delimited text: `csv: {path: "data/orders/*.csv"}`.
    Csv(CsvSpec),
    /// NDJSON or an array of objects: `json: {path: "data/clicks/*.ndjson.gz"}`.
    Json(JsonSpec),
    /// Parquet files: `parquet: {path: "data/events/"}`.
    Parquet(ParquetSpec),
}

/// JSON files: one object a line (NDJSON), or one array of objects a file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonSpec {
    /// A file, a folder, a glob (`data/**/*.ndjson.gz`), or a list of them.
    pub path: Paths,
    /// How the files are compressed: `auto` (by extension), `none`, `gz`, `zst`, `bz2`.
    #[serde(default)]
    pub compression: Compression,
    /// The text encoding, e.g. `utf-8`, `latin1`, `utf-16`.
    #[serde(default)]
    pub encoding: Encoding,
    /// Makes a column of every nested field, `user.id` becoming `user_id`.
    #[serde(default)]
    pub flatten: bool,
    /// A list inside the record that becomes one row per element, e.g. `items`.
    #[serde(default)]
    pub explode: Option<String>,
    /// The records are the messages of a change feed: `debezium`. Rows are the images after the change (of deletes: before it),
    /// with the columns `op` and `ts_ms`; paths that begin with `$.` are of the envelope.
    #[serde(default)]
    pub feed: Option<MessageFeed>,
    /// Leaves files alone that were modified more recently than this, e.g. `30s`, `5m`, `1h`.
    #[serde(default)]
    pub min_age: Option<String>,
    /// It is no error when no file is found.
    #[serde(default)]
    pub allow_empty: bool,
    /// Takes `key=value` folders as columns, where the contract names them.
    #[serde(default = "yes")]
    pub hive_partitions: bool,
}

/// One path, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths(pub Vec<String>);

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// By extension: `.gz`, `.zst`, `.bz2`; anything else is plain.
    #[default]
    Auto,
    None,
    Gz,
    Zst,
    Bz2,
}

/// How text is encoded. A byte order mark is always taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum Encoding {
    /// UTF-8; a UTF-16 byte order mark at the start of a file is believed.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "latin1")]
    Latin1,
    #[serde(rename = "windows-1252")]
    Windows1252,
    /// UTF-16 by its byte order mark, little-endian without one.
    #[serde(rename = "utf-16")]
    Utf16,
    #[serde(rename = "utf-16le")]
    Utf16Le,
    #[serde(rename = "utf-16be")]
    Utf16Be,
}

impl Encoding {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Utf8 => "utf-8",
            Encoding::Latin1 => "latin1",
            Encoding::Windows1252 => "windows-1252",
            Encoding::Utf16 => "utf-16",
            Encoding::Utf16Le => "utf-16le",
            Encoding::Utf16Be => "utf-16be",
        }
    }
}

/// The keys that every kind of source has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Common<'a> {
    pub kind: &'static str,
    pub path: &'a Paths,
    pub min_age: Option<&'a str>,
    pub allow_empty: bool,
    pub hive_partitions: bool,
}

impl SourceSpec {
    /// What is wrong with the options, each with its place below the source (`csv.quote`). Empty: nothing.
    pub fn validate(&self) -> Vec<Complaint> {
        let common = self.common();
        let mut complaints = vec![];
        if common.path.0.is_empty() || common.path.0.iter().any(|p| p.trim().is_empty()) {
            complaints.push(
                Complaint::at([common.kind, "path"], "the path is empty").help("name a file, a folder or a glob such as `data/*.csv`"),
            );
        }
        if let Err(message) = min_age(common.min_age) {
            complaints.push(Complaint::at([common.kind, "min_age"], message).help("write a number and a unit: `30s`, `5m`, `1h` or `1d`"));
        }
        for text in &common.path.0 {
            if let Err(message) = listing::check_pattern(text) {
                complaints.push(Complaint::at([common.kind, "path"], message).help("globs know `*`, `**`, `?`, `{a,b}` and `[..]`"));
            }
        }
        if let SourceSpec::Csv(csv) = self {
            complaints.extend(csv.validate().into_iter().map(|c| c.under(["csv"])));
        }
        if let SourceSpec::Json(json) = self
            && json.feed.is_some()
            && json.explode.is_some()
        {
            complaints.push(
                Complaint::at(["json", "explode"], "a message of a change feed is one row; `explode` would make several")
                    .help("take it out, and make rows of a list by `unnest` in a sql step"),
            );
        }
        complaints
    }

    /// The paths as the user wrote them.
    pub fn paths(&self) -> &[String] {
        &self.common().path.0
    }

    pub(crate) fn common(&self) -> Common<'_> {
        match self {
            SourceSpec::Csv(s) => Common {
                kind: "csv",
                path: &s.path,
                min_age: s.min_age.as_deref(),
                allow_empty: s.allow_empty,
                hive_partitions: s.hive_partitions,
            },
            SourceSpec::Json(s) => Common {
                kind: "json",
                path: &s.path,
                min_age: s.min_age.as_deref(),
                allow_empty: s.allow_empty,
                hive_partitions: s.hive_partitions,
            },
            SourceSpec::Parquet(s) => Common {
                kind: "parquet",
                path: &s.path,
                min_age: s.min_age.as_deref(),
                allow_empty: s.allow_empty,
                hive_partitions: s.hive_partitions,
            },
        }
    }
}

/// Opens `files` as one table of raw rows: the contract's columns (text; Parquet gives its own types), then the hidden columns.
/// Files are read by `threads` partitions that share all work. Headers are met while reading: a file that lacks a column of the
/// contract, or has one too many under `fail`, is an `Error::Data` from the stream, before anything is published.
pub async fn open(spec: &SourceSpec, files: Vec<SourceFile>, contract: &Contract, threads: usize) -> Result<Arc<dyn TableProvider>> {
    match spec {
        SourceSpec::Csv(csv) => csv::open(csv, files, contract, threads),
        SourceSpec::Parquet(_) => parquet::open(files, contract, threads).await,
        SourceSpec::Json(json) => json_source::open(json, files, contract, threads),
    }
}

/// A contract for files whose columns are not declared, from up to `rows` records of the files' starts.
pub async fn infer(spec: &SourceSpec, files: &[SourceFile], rows: usize) -> Result<Vec<Column>> {
    match spec {
        SourceSpec::Csv(csv) if csv.feed.is_some() && !csv.header() => Err(Error::pipeline(
            Complaint::at(["columns"], "the columns are not declared, and files of DMS without a header do not name them")
                .help("declare `columns:`, or set `header: true` where DMS writes the names (AddColumnName)"),
        )),
        SourceSpec::Csv(csv) => {
            let mut columns = infer::infer_text(&csv::sample(csv, files, rows, None).await?);
            columns.retain(|c| csv.feed.is_none() || !feed::is_dms_op(c));
            Ok(columns)
        }
        SourceSpec::Json(json) => json_source::infer(json, files).await,
        SourceSpec::Parquet(parquet) => {
            let mut columns: Vec<Column> = vec![];
            for file in files {
                for field in parquet::schema(file).await?.fields() {
                    if columns.iter().all(|c| &c.name != field.name()) {
                        columns.push(native(field));
                    }
                }
            }
            columns.retain(|c| parquet.feed.is_none() || !feed::is_dms_op(c));
            Ok(columns)
        }
    }
}

/// Columns of `files` that `contract` does not name, for `on_new_column: add`. Text columns are strings, whatever they hold now.
pub async fn new_columns(spec: &SourceSpec, files: &[SourceFile], contract: &Contract) -> Result<Vec<Column>> {
    let mut new: Vec<Column> = vec![];
    let mut found = |column: Column| {
        let same = |c: &Column| {
            c.path.as_deref().unwrap_or(&c.name).eq_ignore_ascii_case(&column.name)
                || c.name.eq_ignore_ascii_case(&column.name)
                || c.was.iter().any(|w| w.eq_ignore_ascii_case(&column.name))
        };
        if !contract.columns.iter().any(same) && !new.iter().any(same) {
            new.push(column);
        }
    };
    match spec {
        SourceSpec::Csv(csv) => {
            for file in files {
                for name in csv::header(csv, file).await?.unwrap_or_default() {
                    found(Column::new(name, ContractType::String));
                }
            }
        }
        SourceSpec::Parquet(_) => {
            for file in files {
                for field in parquet::schema(file).await?.fields() {
                    found(native(field));
                }
            }
        }
        SourceSpec::Json(json) => return json_source::new_columns(json, files, contract).await,
    }
    Ok(new)
}

/// Columns of the contract whose structs have more members in `files` than the contract names, for `on_new_column: add`.
pub async fn new_members(spec: &SourceSpec, files: &[SourceFile], contract: &Contract) -> Result<Vec<(String, ContractType)>> {
    match spec {
        SourceSpec::Json(json) => json_source::new_members(json, files, contract).await,
        _ => Ok(vec![]),
    }
}

/// The former names of `column` that no other column of the contract goes by: what a file that lacks the column may call it.
pub(crate) fn former<'a>(contract: &'a Contract, column: &'a Column) -> impl Iterator<Item = &'a str> {
    let taken = |name: &str| contract.columns.iter().any(|c| c.path.as_deref().unwrap_or(&c.name) == name || c.name == name);
    column.was.iter().map(String::as_str).filter(move |name| !taken(name))
}

/// A Parquet column in its own type; one that contracts have no word for is a string.
fn native(field: &Field) -> Column {
    Column::new(field.name(), ContractType::from_arrow(field.data_type()).unwrap_or(ContractType::String))
}

/// The schema of raw rows: one nullable Utf8View column per contract column, then the hidden columns.
pub fn raw_schema(contract: &Contract) -> SchemaRef {
    let mut fields: Vec<Field> = contract.columns.iter().map(|c| Field::new(&c.name, DataType::Utf8View, true)).collect();
    fields.extend(hidden_fields(contract));
    Arc::new(Schema::new(fields))
}

pub(crate) fn hidden_fields(contract: &Contract) -> Vec<Field> {
    let mut fields = vec![
        Field::new(hidden::FILE, DataType::Utf8View, false),
        Field::new(hidden::LINE, DataType::Int64, false),
        Field::new(hidden::OFFSET, DataType::Int64, false),
        Field::new(hidden::MALFORMED, DataType::Utf8View, true),
        Field::new(hidden::RAW, DataType::Utf8View, true),
    ];
    if contract.on_new_column == OnNewColumn::Rescue {
        fields.push(Field::new(hidden::RESCUED, DataType::Utf8View, true));
    }
    if contract.absent {
        fields.push(Field::new(hidden::ABSENT, DataType::BinaryView, true));
    }
    fields
}

/// `30s`, `500ms`, `5m`, `1h`, `2d`, or `0`.
pub(crate) fn min_age(text: Option<&str>) -> Result<Duration, String> {
    let Some(text) = text.map(str::trim) else { return Ok(Duration::ZERO) };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is not a duration");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit.trim() {
        "" if number == 0 => 1,
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

pub(crate) fn yes() -> bool {
    true
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Paths;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path or a list of paths")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Paths, E> {
                Ok(Paths(vec![text.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Paths, A::Error> {
                let mut paths = vec![];
                while let Some(path) = seq.next_element()? {
                    paths.push(path);
                }
                Ok(Paths(paths))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Paths {
    fn schema_name() -> Cow<'static, str> {
        "Paths".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> JsonSchemaValue {
        json_schema!({
            "description": "A file, a folder, a glob, or a list of them.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> SourceSpec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_path_or_a_list() {
        assert_eq!(spec(r#"{"csv": {"path": "a.csv"}}"#).common().path.0, ["a.csv"]);
        assert_eq!(spec(r#"{"parquet": {"path": ["a", "b"]}}"#).common().path.0, ["a", "b"]);
        assert!(serde_json::from_str::<SourceSpec>(r#"{"csv": {"path": "a", "delimeter": ";"}}"#).is_err());
    }

    #[test]
    fn complaints_name_their_key() {
        let bad = spec(r#"{"csv": {"path": "a[.csv", "min_age": "soon", "quote": ",", "comment": "//"}}"#);
        let places: Vec<String> = bad.validate().iter().map(|c| c.place.path.join(".")).collect();
        assert_eq!(places, ["csv.min_age", "csv.path", "csv.comment", "csv.quote"]);
    }

    #[test]
    fn durations() {
        assert_eq!(min_age(Some("90s")), Ok(Duration::from_secs(90)));
        assert_eq!(min_age(Some("0")), Ok(Duration::ZERO));
        assert_eq!(min_age(Some("2 d")), Ok(Duration::from_secs(172_800)));
        assert!(min_age(Some("5")).is_err());
    }
}
