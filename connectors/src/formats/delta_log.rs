//! Reads a Delta log: the last checkpoint and the commits after it, replayed into one state.
//!
//! Our own reader, because a run that has nothing to do opens every table of a pipeline and must not notice; delta-rs
//! takes some milliseconds a table and panics on features that it does not know. It reads what Smelt supports
//! (see `delta_protocol`) and refuses the rest by name. Tests hold it against delta-rs.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, AsArray, BooleanArray, MapArray, RecordBatch, StructArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use smelt_engine::error::{Error, Result};
use smelt_engine::table::DataFile;

use super::checkpoint::{damaged, fetch};
use super::delta_protocol::Protocol;
use super::versions::Versions;
use crate::stores::{Location, decode};

/// Below the table's root.
pub(super) const FOLDER: &str = "_delta_log";

/// The object, below the table, that is version `version`.
pub(super) fn entry(version: u64) -> String {
    format!("{FOLDER}/{version:020}.json")
}

/// The `metaData` action.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub format: Value,
    pub schema_string: String,
    #[serde(default)]
    pub partition_columns: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<i64>,
    #[serde(default)]
    pub configuration: BTreeMap<String, Option<String>>,
}

/// A table at one version.
#[derive(Debug)]
pub(super) struct LogState {
    pub version: u64,
    pub protocol: Protocol,
    pub metadata: Metadata,
    /// `txn` actions: the last version of each application.
    pub txns: BTreeMap<String, i64>,
    pub files: Vec<DataFile>,
    /// Version of the newest log checkpoint.
    pub checkpoint: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Action {
    add: Option<Add>,
    remove: Option<Gone>,
    meta_data: Option<Metadata>,
    protocol: Option<Protocol>,
    txn: Option<Txn>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Add {
    path: String,
    #[serde(default)]
    partition_values: HashMap<String, Option<String>>,
    size: u64,
    #[serde(default)]
    modification_time: i64,
    stats: Option<String>,
}

#[derive(Deserialize)]
struct Gone {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Txn {
    app_id: String,
    version: i64,
}

#[derive(Deserialize)]
struct Hint {
    version: u64,
}

/// The newest version, or `None` where there is no log.
pub(super) async fn load(table: &Location) -> Result<Option<LogState>> {
    let hint = match fetch(table, &format!("{FOLDER}/_last_checkpoint")).await? {
        Some(json) => serde_json::from_slice::<Hint>(&json).ok().map(|hint| hint.version),
        None => None,
    };
    let mut listing = list(table, hint).await?;
    if hint.is_some() && listing.checkpoint.is_none() {
        // The hint is stale or wrong; it is only a hint.
        listing = list(table, None).await?;
    }
    let Some(newest) = listing.newest() else { return Ok(None) };
    replay(table, listing, newest).await.map(Some)
}

/// Version `version`, which [`versions`] says is there.
pub(super) async fn load_at(table: &Location, version: u64) -> Result<LogState> {
    let mut listing = list(table, None).await?;
    listing.checkpoint = listing.checkpoints.range(..=version).next_back().map(|(v, parts)| (*v, parts.clone()));
    replay(table, listing, version).await
}

/// The versions that can be read; `None` where there is no log.
pub(super) async fn versions(table: &Location) -> Result<Option<Versions>> {
    let mut listing = list(table, None).await?;
    let Some(newest) = listing.newest() else { return Ok(None) };
    // Commits without a gap up to the newest one, and the oldest version from which they lead there. A listing that was made while
    // others wrote may leave one out.
    let lowest = listing.commits.first().copied().unwrap_or(newest);
    let mut first = newest + 1;
    while first > lowest && (listing.commits.binary_search(&(first - 1)).is_ok() || fetch(table, &entry(first - 1)).await?.is_some()) {
        first -= 1;
        if let Some(later) = listing.times.get(&(first + 1)).copied() {
            listing.times.entry(first).or_insert(later);
        }
    }
    let oldest = match first {
        0 => 0,
        _ => listing.checkpoints.range(first - 1..).next().map_or(newest, |(v, _)| *v),
    };
    Ok(Some(Versions::new(oldest, newest, listing.times)))
}

/// The newest log checkpoint: its version and the names of its parts; and the commits after it, or all where there is none.
pub(super) async fn newest_checkpoint(table: &Location) -> Result<(u64, Vec<String>, Vec<u64>)> {
    let Listing { checkpoint, mut commits, .. } = list(table, None).await?;
    match checkpoint {
        Some((version, parts)) => {
            commits.retain(|v| *v > version);
            Ok((version, parts, commits))
        }
        None => Ok((0, vec![], commits)),
    }
}

async fn replay(table: &Location, mut listing: Listing, newest: u64) -> Result<LogState> {
    let first = listing.checkpoint.as_ref().map_or(0, |c| c.0 + 1);
    let needed: Vec<u64> = (first..=newest).collect();
    listing.commits.retain(|v| (first..=newest).contains(v));
    if let Some(missing) = missing(table, &listing.commits, &needed).await? {
        let (reason, help) = if listing.v2 {
            (
                "its checkpoints use v2Checkpoint, which smelt cannot read".to_owned(),
                "set delta.checkpointPolicy to classic and drop the feature v2Checkpoint",
            )
        } else {
            (format!("version {missing} is missing from {FOLDER}"), "restore the log from a backup or versioning")
        };
        return Err(Error::data(format!("the Delta table {} cannot be read: {reason}", table.display), help));
    }

    let mut replay = Replay::default();
    if let Some((version, parts)) = &listing.checkpoint {
        for part in fetch_all(table, parts.clone()).await? {
            replay.checkpoint(part).map_err(|e| damaged(table, &format!("checkpoint {version}"), e))?;
        }
    }
    for (version, commit) in needed.iter().zip(fetch_all(table, needed.iter().map(|v| entry(*v)).collect()).await?) {
        replay.commit(&commit).map_err(|e| damaged(table, &entry(*version), e))?;
    }
    replay.finish(newest, listing.checkpoint.map(|c| c.0), table)
}

/// The first version that is needed and not there. A listing that was made while others wrote may leave out a version
/// and have the next one, so that what it lacks is looked for by name.
async fn missing(table: &Location, listed: &[u64], needed: &[u64]) -> Result<Option<u64>> {
    for version in needed.iter().filter(|v| listed.binary_search(v).is_err()) {
        if fetch(table, &entry(*version)).await?.is_none() {
            return Ok(Some(*version));
        }
    }
    Ok(None)
}

#[derive(Default)]
struct Listing {
    /// Ascending.
    commits: Vec<u64>,
    /// Complete ones, and their parts.
    checkpoints: BTreeMap<u64, Vec<String>>,
    /// The one to start from: the newest.
    checkpoint: Option<(u64, Vec<String>)>,
    /// Milliseconds since the epoch at which each version was written.
    times: BTreeMap<u64, i64>,
    /// There are checkpoints of the second kind.
    v2: bool,
}

impl Listing {
    fn newest(&self) -> Option<u64> {
        self.commits.last().copied().max(self.checkpoints.keys().next_back().copied())
    }
}

async fn list(table: &Location, from: Option<u64>) -> Result<Listing> {
    let folder = table.path(FOLDER)?;
    let mut entries = match from {
        // Everything of version `from` sorts after its bare number.
        Some(version) => table.store.list_with_offset(Some(&folder), &table.path(&format!("{FOLDER}/{version:020}"))?),
        None => table.store.list(Some(&folder)),
    };
    let mut found = Listing::default();
    let mut parts: BTreeMap<u64, BTreeMap<(u64, u64), String>> = BTreeMap::new();
    while let Some(object) = entries.try_next().await? {
        let Some((version, kind)) = name_in(&folder, &object.location) else { continue };
        let written = object.last_modified.timestamp_millis();
        let known = found.times.entry(version).or_insert(written);
        match kind.split('.').collect::<Vec<_>>()[..] {
            ["json"] => {
                *known = written;
                found.commits.push(version);
            }
            ["checkpoint", "parquet"] => drop(parts.entry(version).or_default().insert((1, 1), format!("{FOLDER}/{version:020}.{kind}"))),
            ["checkpoint", part, of, "parquet"] => {
                if let (Ok(part), Ok(of)) = (part.parse(), of.parse()) {
                    parts.entry(version).or_default().insert((of, part), format!("{FOLDER}/{version:020}.{kind}"));
                }
            }
            ["checkpoint", _, "json" | "parquet"] => found.v2 = true,
            _ => {}
        }
    }
    found.commits.sort_unstable();
    let complete = parts.into_iter().filter_map(|(version, parts)| {
        let complete = parts.keys().map(|(of, _)| *of).find(|of| parts.keys().filter(|(o, _)| o == of).count() as u64 == *of)?;
        Some((version, parts.into_iter().filter(|((of, _), _)| *of == complete).map(|(_, name)| name).collect()))
    });
    found.checkpoints = complete.collect();
    found.checkpoint = found.checkpoints.iter().next_back().map(|(version, parts)| (*version, parts.clone()));
    Ok(found)
}

/// The version and the rest of the name of an object that lies directly in the log.
fn name_in<'a>(folder: &Path, object: &'a Path) -> Option<(u64, &'a str)> {
    let name = object.as_ref().strip_prefix(folder.as_ref())?.strip_prefix('/')?;
    if name.contains('/') {
        return None;
    }
    let (version, rest) = name.split_at_checked(20)?;
    Some((version.parse().ok()?, rest.strip_prefix('.')?))
}

pub(super) async fn fetch_all(table: &Location, names: Vec<String>) -> Result<Vec<Bytes>> {
    futures::stream::iter(names)
        .map(|name| async move {
            fetch(table, &name).await?.ok_or_else(|| {
                Error::retry(format!("{name} of {} went away while it was read", table.display), "another writer cleans the log; run again")
            })
        })
        .buffered(16)
        .try_collect()
        .await
}

#[derive(Default)]
struct Replay {
    protocol: Option<Protocol>,
    metadata: Option<Metadata>,
    txns: BTreeMap<String, i64>,
    files: Vec<Option<Add>>,
    by_path: HashMap<String, usize>,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

impl Replay {
    fn commit(&mut self, json: &[u8]) -> Result<(), Fault> {
        // Within one commit the order of actions means nothing: what goes, goes first.
        let mut adds = vec![];
        for line in json.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let action: Action = serde_json::from_slice(line)?;
            if let Some(gone) = &action.remove {
                self.remove(&gone.path);
            }
            adds.extend(self.other(action));
        }
        adds.into_iter().for_each(|add| self.add(add));
        Ok(())
    }

    fn other(&mut self, action: Action) -> Option<Add> {
        if let Some(metadata) = action.meta_data {
            self.metadata = Some(metadata);
        }
        if let Some(protocol) = action.protocol {
            self.protocol = Some(protocol);
        }
        if let Some(txn) = action.txn {
            self.txns.insert(txn.app_id, txn.version);
        }
        action.add
    }

    fn add(&mut self, add: Add) {
        self.remove(&add.path);
        self.by_path.insert(decode(&add.path), self.files.len());
        self.files.push(Some(add));
    }

    fn remove(&mut self, path: &str) {
        if let Some(at) = self.by_path.remove(decode(path).as_str()) {
            self.files[at] = None;
        }
    }

    fn checkpoint(&mut self, parquet: Bytes) -> Result<(), Fault> {
        const WANTED: [&str; 9] = [
            "protocol",
            "metaData",
            "txn",
            "add.path",
            "add.partitionValues",
            "add.size",
            "add.modificationTime",
            "add.stats",
            "add.deletionVector",
        ];
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(parquet, options)?;
        let schema = builder.parquet_schema();
        let leaves = schema.columns().iter().enumerate().filter_map(|(i, column)| {
            let path = column.path().string();
            WANTED.iter().any(|w| path.strip_prefix(w).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))).then_some(i)
        });
        let mask = ProjectionMask::leaves(schema, leaves.collect::<Vec<_>>());
        for batch in builder.with_projection(mask).with_batch_size(8192).build()? {
            self.checkpoint_batch(&batch?)?;
        }
        Ok(())
    }

    /// Files are many and are decoded by column; the few other actions go through their JSON form.
    fn checkpoint_batch(&mut self, batch: &RecordBatch) -> Result<(), Fault> {
        let add = batch.column_by_name("add").and_then(|c| c.as_struct_opt()).ok_or("no column add")?;
        let others: BooleanArray = (0..batch.num_rows()).map(|i| Some(add.is_null(i))).collect();
        let rest: Vec<usize> = (0..batch.num_columns()).filter(|i| batch.schema_ref().field(*i).name() != "add").collect();
        let mut json = arrow::json::LineDelimitedWriter::new(Vec::new());
        json.write(&filter_record_batch(&batch.project(&rest)?, &others)?)?;
        json.finish()?;
        self.commit(&json.into_inner())?;

        let column = |name: &str| add.column_by_name(name).ok_or_else(|| Fault::from(format!("no column add.{name}")));
        let path = column("path")?.as_string_opt::<i32>().ok_or("add.path is not a string")?;
        let size = column("size")?.as_primitive_opt::<Int64Type>().ok_or("add.size is not a long")?;
        let modified = column("modificationTime")?.as_primitive_opt::<Int64Type>().ok_or("add.modificationTime is not a long")?;
        let values = column("partitionValues")?.as_map_opt().ok_or("add.partitionValues is not a map")?;
        let stats = add.column_by_name("stats").and_then(|s| s.as_string_opt::<i32>());
        for i in (0..add.len()).filter(|i| add.is_valid(*i)) {
            self.add(Add {
                path: path.value(i).to_owned(),
                partition_values: pairs(values, i)?,
                size: size.value(i).try_into()?,
                modification_time: modified.value(i),
                stats: stats.filter(|s| s.is_valid(i)).map(|s| s.value(i).to_owned()),
            });
        }
        Ok(())
    }

    fn finish(self, version: u64, checkpoint: Option<u64>, table: &Location) -> Result<LogState> {
        let (Some(protocol), Some(metadata)) = (self.protocol, self.metadata) else {
            return Err(damaged(table, FOLDER, "it has no protocol or no metaData action"));
        };
        protocol.check_read(&metadata.configuration, &table.display)?;
        let files = self
            .files
            .into_iter()
            .flatten()
            .map(|add| data_file(add, &metadata.partition_columns))
            .collect::<Result<Vec<_>, String>>()
            .map_err(|path| {
                Error::data(
                    format!(
                        "{} is a Delta table whose files lie outside it ({path}), as shallow clones have them; smelt cannot read it",
                        table.display
                    ),
                    "make a deep clone of the table",
                )
            })?;
        Ok(LogState { version, protocol, metadata, txns: self.txns, files, checkpoint })
    }
}

fn pairs(map: &MapArray, row: usize) -> Result<HashMap<String, Option<String>>, Fault> {
    let entries: StructArray = map.value(row);
    let keys = entries.column(0).as_string_opt::<i32>().ok_or("partition names are not strings")?;
    let values = entries.column(1).as_string_opt::<i32>().ok_or("partition values are not strings")?;
    Ok((0..entries.len()).map(|i| (keys.value(i).to_owned(), values.is_valid(i).then(|| values.value(i).to_owned()))).collect())
}

/// `Err` holds a path that is not below the table.
fn data_file(mut add: Add, partition_columns: &[String]) -> Result<DataFile, String> {
    if add.path.starts_with('/') || add.path.contains("://") || add.path.starts_with("file:") {
        return Err(add.path);
    }
    // An empty partition value is Delta's NULL.
    let mut value = |name: &String| add.partition_values.remove(name).flatten().filter(|v| !v.is_empty());
    let partition = partition_columns.iter().map(|name| (name.clone(), value(name))).collect();
    Ok(DataFile {
        path: decode(&add.path),
        partition,
        rows: rows_of(add.stats.as_deref()).unwrap_or_default(),
        bytes: add.size,
        stats: add.stats,
        modified: add.modification_time,
    })
}

/// `numRecords` of a statistics JSON, where it has one.
pub(super) fn rows_of(stats: Option<&str>) -> Option<u64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Rows {
        num_records: Option<u64>,
    }
    serde_json::from_str::<Rows>(stats?).ok()?.num_records
}

/// The path as it stands in the log: a URI, so that what hive partitioning encoded is encoded once more.
pub(super) fn encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            0..=b' ' | 127.. | b'\\' | b'{' | b'}' | b'^' | b'%' | b'`' | b'[' | b']' | b'"' | b'<' | b'>' | b'#' | b'|' | b'*' | b'?' => {
                out.push_str(&format!("%{byte:02X}"));
            }
            plain => out.push(char::from(plain)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_once_more_than_on_disk() {
        let path = "city=S%C3%A3o Paulo/part ü.parquet";
        assert_eq!(encode(path), "city=S%25C3%25A3o%20Paulo/part%20%C3%BC.parquet");
        assert_eq!(decode(&encode(path)), path);
    }

    #[test]
    fn a_remove_and_an_add_in_one_commit_do_not_depend_on_their_order() {
        let mut replay = Replay::default();
        replay.commit(br#"{"add":{"path":"a%20b","size":1,"partitionValues":{}}}"#).unwrap();
        replay.commit(b"{\"add\":{\"path\":\"c\",\"size\":1}}\n{\"remove\":{\"path\":\"a%20b\"}}\n{\"newAction\":{\"x\":1}}\n").unwrap();
        let left: Vec<&str> = replay.files.iter().flatten().map(|a| a.path.as_str()).collect();
        assert_eq!(left, ["c"]);
    }

    #[test]
    fn only_entries_of_the_log_itself_count() {
        let folder = Path::from("t/_delta_log");
        let at = |name: &str| name_in(&folder, &Path::parse(format!("t/_delta_log/{name}")).unwrap()).map(|(v, k)| (v, k.to_owned()));
        assert_eq!(at("00000000000000000007.json"), Some((7, "json".into())));
        assert_eq!(at("00000000000000000007.checkpoint.parquet"), Some((7, "checkpoint.parquet".into())));
        assert_eq!(at("_last_checkpoint"), None);
        assert_eq!(at("_commits/00000000000000000007.json"), None);
    }
}
