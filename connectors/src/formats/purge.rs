//! Leaving nothing of a table but its newest version: what `smelt forget` needs, because a file that a version removed is still
//! on the store, and what it held (bounds of its columns, hive folders) still stands in the log.
//!
//! In this order, so that a kill anywhere leaves a table that reads as before, and a second purge completes the first: the newest
//! version is made to stand on its own (a log checkpoint, a full manifest); files that it does not name go; then the older entries
//! of the log are rewritten without statistics, paths and partition values of these files. The entries themselves stay: a
//! writer that began before the purge must find the number of its version taken. Reading an older version then fails by a file that is
//! not there, and never gives fewer rows. Knows nothing of who is forgotten.

use std::collections::{BTreeSet, HashSet};

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::basic::Compression;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};
use smelt_engine::error::{Error, Result};
use smelt_engine::steps::mask::{Hmac, hex};
use smelt_engine::table::{Checkpoint, DataFile, Purge, Purged, TableFormat};

use super::checkpoint::{self, damaged, fetch};
use super::delta::{self, DeltaFormat};
use super::delta_log::{self, encode};
use super::parquet::{self, ParquetFormat};
use crate::stores::{Location, decode};

/// Below the table's root: files of the change modes that no reader of the table sees.
const STATE: &str = "_smelt/state/";
/// Stands for the path of a file that is gone.
const GONE: &str = "forgotten/";

/// What the newest version needs.
struct Kept {
    files: HashSet<String>,
    /// Last parts of `files`, which no two files share: a store that spells a path otherwise must not cost a file.
    names: HashSet<String>,
    state: HashSet<String>,
    sidecar: Option<String>,
    sequence: u64,
}

impl Kept {
    fn new(files: &[DataFile], taken: &Checkpoint, sidecar: Option<String>) -> Self {
        let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        let state: HashSet<String> = serde_json::to_value(taken).map(|v| state_paths(&v)).unwrap_or_default().into_iter().collect();
        let names = files.iter().map(|f| name(&f.path)).chain(state.iter().map(|p| name(p))).collect();
        Kept { files: files.iter().map(|f| f.path.clone()).collect(), names, state, sidecar, sequence: taken.sequence }
    }
}

/// Paths of the state files that a checkpoint names.
fn state_paths(checkpoint: &Value) -> Vec<String> {
    let files = checkpoint.pointer("/state/files").and_then(Value::as_array);
    files.into_iter().flatten().filter_map(|f| f.get("path")?.as_str().map(str::to_owned)).collect()
}

pub(super) async fn delta(format: &DeltaFormat, table: &Location, options: Purge) -> Result<Purged> {
    let gone = || Error::retry(format!("the log of {} went away while it was read", table.display), "run again");
    let Some(before) = delta_log::load(table).await? else { return Ok(Purged::default()) };
    if !options.dry_run && before.checkpoint != Some(before.version) {
        format.log_checkpoint().await.map_err(|e| {
            let message = format!("the log checkpoint of {} could not be written, so its history was not removed: {e}", table.display);
            Error::retry(message, "run again: what was done so far stays done")
        })?;
    }
    let objects = listed(table).await?;
    let log = delta_log::load(table).await?.ok_or_else(gone)?;
    let until = if options.dry_run { log.version } else { log.checkpoint.filter(|c| *c >= before.version).ok_or_else(gone)? };
    let number = |id: &str| log.txns.get(id).and_then(|v| u64::try_from(*v).ok());
    let (taken, sidecar) = match (number(delta::SEQUENCE), number(delta::ATTEMPT)) {
        (Some(sequence), Some(id)) => (checkpoint::read(table, sequence, id).await?, Some(checkpoint::sidecar(sequence, id))),
        _ => (Checkpoint::default(), None),
    };
    let kept = Kept::new(&log.files, &taken, sidecar);

    let (mut entries, mut newest, mut old) = (BTreeSet::new(), vec![], vec![]);
    for (relative, object) in &objects {
        let Some((version, kind)) = log_name(relative) else { continue };
        match kind {
            "json" if version <= until => drop(entries.insert(version)),
            kind if kind.starts_with("checkpoint.") && version == until => newest.push(relative.clone()),
            kind if kind.starts_with("checkpoint.") && version < until => old.push(object.location.clone()),
            // what other writers put beside: sums of a version, and commits put together
            kind if (kind == "crc" || kind.ends_with("compacted.json")) && version <= until => old.push(object.location.clone()),
            _ => {}
        }
    }
    let entries: Vec<String> = entries.into_iter().map(delta_log::entry).collect();
    let named = named_in(table, &entries, delta_paths).await?;
    let mut done = sweep(table, &objects, &kept, named, options).await?;
    if !options.dry_run {
        let mut rows = 0;
        for part in &newest {
            rows += without_tombstones(table, part).await?;
        }
        hint(table, until, rows).await?;
    }
    done.log_entries += old.len() as u64;
    remove(table, old, options).await?;
    done.log_entries += rewrite(table, &entries, &kept, options, delta_commit).await?;
    Ok(done)
}

pub(super) async fn parquet(format: &ParquetFormat, table: &Location, options: Purge) -> Result<Purged> {
    let objects = listed(table).await?;
    let Some(snapshot) = format.snapshot().await? else { return Ok(Purged::default()) };
    let current = parquet::entry(snapshot.version);
    let json = fetch(table, &current).await?.ok_or_else(|| damaged(table, &current, "it is gone"))?;
    let mut manifest: Value = serde_json::from_slice(&json).map_err(|e| damaged(table, &current, e))?;
    let attempt = manifest.get("attempt").and_then(Value::as_u64);
    let sidecar = match (manifest.pointer("/checkpoint/sidecar/sequence").and_then(Value::as_u64), attempt) {
        (Some(sequence), Some(id)) => Some(checkpoint::sidecar(sequence, id)),
        _ => None,
    };
    let kept = Kept::new(&snapshot.files, &snapshot.checkpoint, sidecar);
    let before = |relative: &str| {
        let name = relative.strip_prefix(parquet::VERSIONS)?.strip_prefix('/')?.strip_suffix(".json")?;
        name.parse::<u64>().ok().filter(|v| *v < snapshot.version)
    };
    let older: BTreeSet<u64> = objects.iter().filter_map(|(relative, _)| before(relative)).collect();
    let older: Vec<String> = older.into_iter().map(parquet::entry).collect();

    let removes = manifest.get("remove").and_then(Value::as_array).is_some_and(|r| !r.is_empty());
    let stands_alone = manifest.get("full").and_then(Value::as_u64) == Some(snapshot.version) && !removes;
    let mut named = named_in(table, &older, manifest_paths).await?;
    named.extend(manifest_paths(&manifest));
    if !stands_alone && !options.dry_run {
        manifest["add"] = serde_json::to_value(snapshot.files.as_ref()).map_err(|e| Error::bug(e.to_string()))?;
        manifest["remove"] = json!([]);
        manifest["full"] = json!(snapshot.version);
        table.store.put(&table.path(&current)?, manifest.to_string().into()).await?;
    }
    let mut done = sweep(table, &objects, &kept, named, options).await?;
    done.log_entries += u64::from(!stands_alone) + rewrite(table, &older, &kept, options, manifest_of).await?;
    Ok(done)
}

/// Every object of the table, by its path below the root.
async fn listed(table: &Location) -> Result<Vec<(String, ObjectMeta)>> {
    let root = table.path("")?;
    let below = |object: &ObjectMeta| {
        let relative = object.location.as_ref().strip_prefix(root.as_ref())?;
        Some(relative.trim_start_matches('/').to_owned())
    };
    let objects = table.store.list(Some(&root)).try_filter_map(|o| std::future::ready(Ok(below(&o).map(|r| (r, o)))));
    Ok(objects.try_collect().await?)
}

/// The version and kind of an entry that lies directly in a Delta log.
fn log_name(relative: &str) -> Option<(u64, &str)> {
    let name = relative.strip_prefix(delta_log::FOLDER)?.strip_prefix('/')?;
    let (version, rest) = name.split_at_checked(20)?;
    Some((version.parse().ok()?, rest.strip_prefix('.').filter(|kind| !kind.contains('/'))?))
}

/// Folders that hold no data files, as Delta's vacuum sees it.
fn is_hidden(relative: &str) -> bool {
    let first = relative.split('/').next().unwrap_or_default();
    first.starts_with(['_', '.']) && !first.contains('=')
}

/// Removes the data files, state files and sidecars that are not kept.
async fn sweep(
    table: &Location,
    objects: &[(String, ObjectMeta)],
    kept: &Kept,
    mut named: HashSet<String>,
    options: Purge,
) -> Result<Purged> {
    let mut done = Purged::default();
    let (mut dead, mut sidecars) = (vec![], vec![]);
    let is_old = |object: &ObjectMeta| object.last_modified.timestamp_millis() < options.unnamed_before;
    for (relative, object) in objects {
        let Some(name) = relative.strip_prefix(checkpoint::FOLDER).and_then(|r| r.strip_prefix('/')) else { continue };
        let Some(sequence) = name.get(..20).and_then(|n| n.parse::<u64>().ok()) else { continue };
        if kept.sidecar.as_ref() == Some(relative) {
            continue;
        }
        // a commit counts on: what is not of the newest version, and not after it, no commit will name
        if sequence <= kept.sequence || is_old(object) {
            named.extend(state_in(table, relative).await?);
            sidecars.push(object.location.clone());
        } else {
            done.left += 1;
        }
    }
    for (relative, object) in objects {
        let state = relative.starts_with(STATE);
        if !relative.ends_with(".parquet") || (is_hidden(relative) && !state) {
            continue;
        }
        if kept.files.contains(relative) || kept.state.contains(relative) {
            continue;
        }
        let name = relative.rsplit('/').next().unwrap_or(relative);
        if !kept.names.contains(name) && (named.contains(relative) || is_old(object)) {
            done.files += 1;
            done.bytes += object.size;
            dead.push(object.location.clone());
        } else {
            done.left += 1;
        }
    }
    done.log_entries = sidecars.len() as u64;
    // data first: the sidecars say which state files there were
    remove(table, dead, options).await?;
    remove(table, sidecars, options).await?;
    Ok(done)
}

/// State files that an old sidecar names. One that cannot be read names none.
async fn state_in(table: &Location, sidecar: &str) -> Result<Vec<String>> {
    let Some(packed) = fetch(table, sidecar).await? else { return Ok(vec![]) };
    let json = zstd::stream::decode_all(packed.as_ref()).unwrap_or_default();
    let value: Value = serde_json::from_slice(&json).unwrap_or_default();
    Ok(value.get("checkpoint").map(state_paths).unwrap_or_default())
}

async fn remove(table: &Location, paths: Vec<Path>, options: Purge) -> Result<()> {
    if options.dry_run || paths.is_empty() {
        return Ok(());
    }
    let mut deleted = table.store.delete_stream(stream::iter(paths.clone().into_iter().map(Ok)).boxed());
    while let Some(outcome) = deleted.next().await {
        match outcome {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    tidy(table, &paths);
    Ok(())
}

/// Stores have no folders, disks do: an empty one would keep the partition value in its name.
pub(super) fn tidy(table: &Location, paths: &[Path]) {
    if table.url.scheme() != "file" {
        return;
    }
    let root = std::path::Path::new("/").join(table.prefix.as_ref());
    for path in paths {
        let file = std::path::Path::new("/").join(path.as_ref());
        let inside = |folder: &&std::path::Path| folder.starts_with(&root) && *folder != root;
        for folder in file.ancestors().skip(1).take_while(inside) {
            // fails where there is something in it
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// The files that entries of the log name.
async fn named_in(table: &Location, entries: &[String], paths: fn(&Value) -> Vec<String>) -> Result<HashSet<String>> {
    let read = stream::iter(entries.iter().cloned())
        .map(|entry| async move {
            let Some(json) = fetch(table, &entry).await? else { return Ok(vec![]) };
            let lines = lines(&json).map_err(|e| damaged(table, &entry, e))?;
            Ok::<_, Error>(lines.iter().flat_map(paths).collect())
        })
        .buffer_unordered(16)
        .try_collect::<Vec<Vec<String>>>()
        .await?;
    Ok(read.into_iter().flatten().collect())
}

/// Rewrites the entries in which something is said about a file that is not kept; gives how many.
async fn rewrite(table: &Location, entries: &[String], kept: &Kept, options: Purge, scrub: fn(&mut Value, &Kept)) -> Result<u64> {
    let changed = stream::iter(entries.iter().cloned())
        .map(|entry| async move {
            let Some(json) = fetch(table, &entry).await? else { return Ok(0) };
            let before = lines(&json).map_err(|e| damaged(table, &entry, e))?;
            let mut after = before.clone();
            after.iter_mut().for_each(|line| scrub(line, kept));
            if after == before {
                return Ok(0);
            }
            if !options.dry_run {
                let text: String = after.iter().map(|line| format!("{line}\n")).collect();
                table.store.put(&table.path(&entry)?, text.into()).await?;
            }
            Ok::<_, Error>(1)
        })
        .buffered(16)
        .try_fold(0, |sum, n| std::future::ready(Ok(sum + n)));
    changed.await
}

fn lines(json: &Bytes) -> Result<Vec<Value>, serde_json::Error> {
    json.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()).map(serde_json::from_slice).collect()
}

/// A path that says nothing. Two versions that speak of one file still do.
fn anonymous(path: &str) -> String {
    if path.starts_with(GONE) {
        return path.to_owned();
    }
    format!("{GONE}{}.parquet", hex(&Hmac::new(b"smelt.purge").digest(path.as_bytes())[..16]))
}

fn delta_paths(line: &Value) -> Vec<String> {
    let path = |action: &str| line.get(action)?.get("path")?.as_str().map(decode);
    ["add", "remove"].iter().filter_map(|action| path(action)).collect()
}

fn delta_commit(line: &mut Value, kept: &Kept) {
    for action in ["add", "remove", "cdc"] {
        let Some(action) = line.get_mut(action).and_then(Value::as_object_mut) else { continue };
        let Some(path) = action.get("path").and_then(Value::as_str).map(decode).filter(|p| !kept.files.contains(p)) else { continue };
        action.insert("path".into(), json!(encode(&anonymous(&path))));
        action.remove("stats");
        action.remove("tags");
        if let Some(values) = action.get_mut("partitionValues").and_then(Value::as_object_mut) {
            values.values_mut().for_each(|v| *v = Value::Null);
        }
    }
    // other writers keep the predicate of a DELETE or MERGE there
    if let Some(parameters) = line.pointer_mut("/commitInfo/operationParameters").and_then(Value::as_object_mut) {
        parameters.retain(|name, _| !name.to_ascii_lowercase().contains("predicate"));
    }
}

fn manifest_paths(manifest: &Value) -> Vec<String> {
    let list = |key: &str| manifest.get(key).and_then(Value::as_array).into_iter().flatten();
    let added = list("add").filter_map(|f| f.get("path")?.as_str());
    let inline = manifest.pointer("/checkpoint/inline").map(state_paths).unwrap_or_default();
    added.chain(list("remove").filter_map(Value::as_str)).map(str::to_owned).chain(inline).collect()
}

fn manifest_of(manifest: &mut Value, kept: &Kept) {
    for file in manifest.get_mut("add").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(path) = file.get("path").and_then(Value::as_str).filter(|p| !kept.files.contains(*p)).map(anonymous) else { continue };
        file["path"] = json!(path);
        file["stats"] = Value::Null;
        for pair in file.get_mut("partition").and_then(Value::as_array_mut).into_iter().flatten() {
            pair[1] = Value::Null;
        }
    }
    for path in manifest.get_mut("remove").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(gone) = path.as_str().filter(|p| !kept.files.contains(*p)).map(anonymous) {
            *path = json!(gone);
        }
    }
    if let Some(taken) = manifest.pointer_mut("/checkpoint/inline").and_then(Value::as_object_mut) {
        // their statistics, too, hold values; only the newest version's are ever read
        if taken.contains_key("quarantine") {
            taken.insert("quarantine".into(), json!([]));
        }
        if let Some(files) = taken.get_mut("state").and_then(|s| s.get_mut("files")) {
            *files = json!([]);
        }
    }
}

/// Takes the removed files out of a log checkpoint; gives its number of actions.
async fn without_tombstones(table: &Location, part: &str) -> Result<usize> {
    let bad = |e: &dyn std::fmt::Display| damaged(table, part, e);
    let bytes = fetch(table, part).await?.ok_or_else(|| bad(&"it is gone"))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| bad(&e))?;
    let schema = builder.schema().clone();
    let (mut batches, mut rows, mut dropped) = (vec![], 0, 0);
    for batch in builder.build().map_err(|e| bad(&e))? {
        let batch: RecordBatch = batch.map_err(|e| bad(&e))?;
        let live: BooleanArray = match batch.column_by_name("remove") {
            Some(remove) => (0..batch.num_rows()).map(|i| Some(remove.is_null(i))).collect(),
            None => vec![true; batch.num_rows()].into(),
        };
        let left = filter_record_batch(&batch, &live)?;
        dropped += batch.num_rows() - left.num_rows();
        rows += left.num_rows();
        batches.push(left);
    }
    if dropped > 0 {
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut writer = ArrowWriter::try_new(vec![], schema, Some(properties))?;
        for batch in &batches {
            writer.write(batch)?;
        }
        table.store.put(&table.path(part)?, writer.into_inner()?.into()).await?;
    }
    Ok(rows)
}

/// `_last_checkpoint` counts the actions of the checkpoint.
async fn hint(table: &Location, version: u64, rows: usize) -> Result<()> {
    let name = format!("{}/_last_checkpoint", delta_log::FOLDER);
    let now = fetch(table, &name).await?.and_then(|json| serde_json::from_slice::<Value>(&json).ok()).unwrap_or_default();
    let is = |key: &str| now.get(key).and_then(Value::as_u64);
    // another writer's newer one stands
    if is("version").is_some_and(|v| v > version) || (is("version") == Some(version) && is("size") == Some(rows as u64)) {
        return Ok(());
    }
    let json = json!({"version": version, "size": rows}).to_string();
    table.store.put(&table.path(&name)?, json.into()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::publish::Log;
    use super::super::suite;
    use super::*;
    use smelt_engine::table::{BatchId, Change, Reads, Remove, Snapshot};

    const NOTHING: Purge = Purge { unnamed_before: 0, dry_run: false };

    /// A change that leaves out one file of the table and puts nothing in its place.
    async fn drop_first(format: &dyn TableFormat) -> DataFile {
        let base = format.snapshot().await.unwrap();
        let now = base.as_ref().unwrap();
        let gone = now.files[0].clone();
        let mut checkpoint = now.checkpoint.clone();
        checkpoint.sequence += 1;
        checkpoint.batches.push(BatchId("drop".into()));
        let change = Change {
            add: vec![],
            remove: Remove::Files(vec![gone.clone()]),
            batch: BatchId("drop".into()),
            checkpoint,
            schema: now.schema.clone(),
            partition_columns: now.partition_columns.clone(),
            descriptions: Default::default(),
            operation: "forget".into(),
            data_change: true,
            reads: Reads::Everything,
            // lately, so that the log keeps the removed file in its checkpoint
            now: chrono::Utc::now().timestamp_millis(),
        };
        format.commit(&base, change).await.unwrap();
        gone
    }

    async fn holds(table: &Location, needle: &str) -> Vec<String> {
        let mut found = vec![];
        for (relative, _) in listed(table).await.unwrap() {
            let bytes = fetch(table, &relative).await.unwrap().unwrap();
            if relative.contains(needle) || bytes.windows(needle.len()).any(|w| w == needle.as_bytes()) {
                found.push(relative);
            }
        }
        found
    }

    async fn purges<F: TableFormat + Log>(format: &F) {
        let (location, kind) = (format.location().clone(), format.name());
        for i in 1..=4 {
            suite::append(format, i).await;
        }
        let gone = drop_first(format).await;
        let name = gone.path.rsplit('/').next().unwrap().to_owned();
        assert!(!holds(&location, &name).await.is_empty());
        let before = format.snapshot().await.unwrap().unwrap();

        let would = format.purge(Purge { dry_run: true, ..NOTHING }).await.unwrap();
        assert_eq!(would.files, 1, "{kind}");
        assert!(!holds(&location, &name).await.is_empty(), "a dry run changes nothing");
        let done = format.purge(NOTHING).await.unwrap();
        assert_eq!((done.files, done.bytes, done.left), (1, would.bytes, 0), "{kind}");
        assert_eq!(holds(&location, &name).await, Vec::<String>::new(), "{kind}");

        let after = format.snapshot().await.unwrap().unwrap();
        assert_eq!((after.version, &after.checkpoint), (before.version, &before.checkpoint));
        let paths = |s: &Snapshot| s.files.iter().map(|f| f.path.clone()).collect::<BTreeSet<_>>();
        assert_eq!(paths(&after), paths(&before), "{kind}");
        assert_eq!(format.purge(NOTHING).await.unwrap(), Purged::default(), "the second time there is nothing to do: {kind}");
        // a writer that began before the purge builds on what it knew
        let change = suite::append_at(&location, &Some(before.clone()), 9).await;
        let added = change.add.len();
        format.commit(&Some(before), change).await.unwrap();
        assert_eq!(format.snapshot().await.unwrap().unwrap().files.len(), after.files.len() + added, "{kind}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_left_of_a_removed_file_and_all_of_the_others() {
        for place in suite::places() {
            let format = DeltaFormat::new(place.location.clone());
            purges(&format).await;
            // others read what we read, also where the log starts with the checkpoint that we have rewritten
            let ours = format.snapshot().await.unwrap().unwrap();
            let mut theirs = format.delta_rs().unwrap();
            theirs.load().await.unwrap();
            let mut paths: Vec<String> = theirs.snapshot().unwrap().log_data().into_iter().map(|f| f.path().to_string()).collect();
            let mut own: Vec<String> = ours.files.iter().map(|f| f.path.clone()).collect();
            paths.sort();
            own.sort();
            assert_eq!((theirs.version(), paths), (Some(ours.version), own));
        }
        for place in suite::places() {
            purges(&ParquetFormat::new(place.location.clone())).await;
        }
    }

    #[test]
    fn a_path_of_a_file_that_is_gone_says_nothing_and_stays_one_path() {
        let a = anonymous("customer=ann/part-1.parquet");
        assert!(!a.contains("ann") && a == anonymous(&a) && a != anonymous("customer=bob/part-1.parquet"));
    }
}
