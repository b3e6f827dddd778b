//! The past of a Delta table: its history, and what of it nothing needs any more. The log's removes, which reading a table has no use
//! for, are read here.

use std::collections::{BTreeSet, HashSet};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde::Deserialize;
use serde_json::Value;
use smelt_engine::error::{Error, Result};
use smelt_engine::table::{BatchId, Garbage, Snapshot, VersionInfo};

use super::checkpoint::{damaged, fetch};
use super::delta::{ATTEMPT, SEQUENCE};
use super::delta_log::{self, entry, rows_of};
use super::garbage::{self, Kind};
use super::versions;
use crate::stores::{Location, decode};

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    commit_info: Option<Value>,
    add: Option<FileLine>,
    remove: Option<FileLine>,
    txn: Option<TxnLine>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileLine {
    path: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    stats: Option<String>,
    #[serde(default = "yes")]
    data_change: bool,
    #[serde(default)]
    deletion_timestamp: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TxnLine {
    app_id: String,
    version: i64,
}

fn yes() -> bool {
    true
}

fn lines(table: &Location, version: u64, json: &[u8]) -> Result<Vec<Line>> {
    json.split(|b| *b == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
        .map(|line| serde_json::from_slice(line).map_err(|e| damaged(table, &entry(version), e)))
        .collect()
}

/// The newest `limit` versions whose commits are there, the newest first.
pub(super) async fn history(table: &Location, limit: usize) -> Result<Vec<VersionInfo>> {
    let Some(versions) = delta_log::versions(table).await? else { return Ok(vec![]) };
    let mut out = vec![];
    for (version, timestamp) in versions.times.iter().rev() {
        if out.len() == limit {
            break;
        }
        if let Some(json) = fetch(table, &entry(*version)).await? {
            out.push(info(*version, *timestamp, &lines(table, *version, &json)?));
        }
    }
    Ok(out)
}

fn info(version: u64, timestamp: i64, lines: &[Line]) -> VersionInfo {
    let note = lines.iter().find_map(|l| l.commit_info.as_ref());
    let text = |key: &str| note.and_then(|n| n.get(key)?.as_str()).map(str::to_owned);
    let (adds, removes) = (|| lines.iter().filter_map(|l| l.add.as_ref()), || lines.iter().filter_map(|l| l.remove.as_ref()));
    VersionInfo {
        version,
        timestamp,
        operation: text("smelt.operation").or_else(|| text("operation")).unwrap_or_else(|| "unknown".into()),
        batch: text("smelt.batch").map(BatchId),
        engine: text("engineInfo"),
        files_added: adds().count() as u64,
        files_removed: removes().count() as u64,
        rows_added: adds().map(|f| rows_of(f.stats.as_deref())).sum(),
        bytes_added: adds().filter_map(|f| f.size).sum(),
        data_change: adds().chain(removes()).all(|f| f.data_change),
    }
}

/// See `TableFormat::garbage`.
pub(super) async fn garbage(table: &Location, current: &Snapshot, before: i64, keep: &BTreeSet<String>) -> Result<Vec<Garbage>> {
    let old = garbage::old(table, before).await?;
    let versions = delta_log::versions(table).await?.ok_or_else(|| versions::none(&table.display))?;
    let first = versions.current_since(before);
    let start = delta_log::load_at(table, first).await?;

    // Everything that a version since then names, and every removal since then, whichever clock says so.
    let mut files: HashSet<String> = current.files.iter().chain(&start.files).map(|f| f.path.clone()).collect();
    files.extend(tombstones(table, before).await?);
    let mut sidecars: HashSet<(u64, u64)> = HashSet::new();
    let number = |id: &str| start.txns.get(id).and_then(|v| u64::try_from(*v).ok());
    sidecars.extend(number(SEQUENCE).zip(number(ATTEMPT)));
    let commits: Vec<u64> = (first + 1..=versions.newest).collect();
    for (version, json) in commits.iter().zip(delta_log::fetch_all(table, commits.iter().map(|v| entry(*v)).collect()).await?) {
        let (mut sequence, mut attempt) = (None, None);
        for line in lines(table, *version, &json)? {
            files.extend(line.add.into_iter().chain(line.remove).map(|f| decode(&f.path)));
            match line.txn {
                Some(txn) if txn.app_id == SEQUENCE => sequence = u64::try_from(txn.version).ok(),
                Some(txn) if txn.app_id == ATTEMPT => attempt = u64::try_from(txn.version).ok(),
                _ => {}
            }
        }
        sidecars.extend(sequence.zip(attempt));
    }
    let state = match old.iter().any(|o| o.kind == Kind::State) {
        true => garbage::state_files(table, &sidecars).await?,
        false => HashSet::new(),
    };
    let needed = |o: &garbage::Old| match o.kind {
        Kind::Data => files.contains(&o.path),
        Kind::State => state.contains(&o.path),
        Kind::Sidecar(sequence, attempt) => sidecars.contains(&(sequence, attempt)),
        Kind::Manifest(_) => true,
    };
    Ok(garbage::left(old, needed, keep))
}

/// Paths of the files that the newest log checkpoint, and the commits after it, say were removed at `before` or later.
async fn tombstones(table: &Location, before: i64) -> Result<Vec<String>> {
    let mut out = vec![];
    let (version, parts, after) = delta_log::newest_checkpoint(table).await?;
    for part in delta_log::fetch_all(table, parts).await? {
        let wrong = |e: &dyn std::fmt::Display| damaged(table, &format!("checkpoint {version}"), e.to_string());
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(part, options).map_err(|e| wrong(&e))?;
        let schema = builder.parquet_schema();
        let wanted = ["remove.path", "remove.deletionTimestamp"];
        let leaves: Vec<usize> =
            schema.columns().iter().enumerate().filter(|(_, c)| wanted.contains(&c.path().string().as_str())).map(|(i, _)| i).collect();
        if leaves.len() < wanted.len() {
            continue;
        }
        let mask = ProjectionMask::leaves(schema, leaves);
        for batch in builder.with_projection(mask).build().map_err(|e| wrong(&e))? {
            let batch = batch.map_err(|e| wrong(&e))?;
            let unlike = || wrong(&"its column remove is not as the protocol has it");
            let remove = batch.column_by_name("remove").and_then(|c| c.as_struct_opt()).ok_or_else(unlike)?;
            let path = remove.column_by_name("path").and_then(|c| c.as_string_opt::<i32>()).ok_or_else(unlike)?;
            let at = remove.column_by_name("deletionTimestamp").and_then(|c| c.as_primitive_opt::<Int64Type>()).ok_or_else(unlike)?;
            out.extend(
                (0..batch.num_rows())
                    .filter(|i| remove.is_valid(*i) && at.is_valid(*i) && at.value(*i) >= before)
                    .map(|i| decode(path.value(i))),
            );
        }
    }
    for (version, json) in after.iter().zip(delta_log::fetch_all(table, after.iter().map(|v| entry(*v)).collect()).await?) {
        let gone = lines(table, *version, &json)?.into_iter().filter_map(|l| l.remove);
        out.extend(gone.filter(|f| f.deletion_timestamp.is_none_or(|at| at >= before)).map(|f| decode(&f.path)));
    }
    Ok(out)
}

/// What to say of an old version whose checkpoint a vacuum took.
pub(super) fn forgotten(table: &str, version: u64) -> Error {
    Error::data(
        format!("version {version} of {table} can no longer be read: what it had taken in was vacuumed"),
        "choose a newer version, and vacuum with a longer --retain to keep versions for longer",
    )
}
