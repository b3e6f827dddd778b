//! Parquet tables with versioned manifests, for engines that know no Delta.
//!
//! Data lies below `data/<epoch>/`, one epoch per batch, and is nothing until a version names it. A version is the object
//! `_smelt/versions/<version>.json`, created only if absent (see `publish`): every tenth one, and every one that empties
//! the table, lists all files; the others list what they add and remove. `_smelt/current.json` says where to start looking and
//! is only a hint; the symlink manifests for other engines and the hint are rewritten after the commit, in that order, and by the next
//! reader where a kill came between.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::ArrayRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use smelt_engine::error::{Complaint, Error, Result};
use smelt_engine::table::{
    At, BatchId, Change, Checkpoint, Commit, DataFile, Garbage, Purge, Purged, Remove, Snapshot, TableFormat, VersionInfo,
};

use super::checkpoint::{self, damaged, fetch, supported};
use super::publish::{Log, keeps_files, precheck, publish};
use super::schema::{Dialect, evolve, from_json, to_json};
use super::versions::{self, Versions};
use super::{delta_log, delta_versions, parquet_versions, purge, scan, symlink};
use crate::stores::Location;

/// Below the table's root.
pub(super) const VERSIONS: &str = "_smelt/versions";
const HINT: &str = "_smelt/current.json";
/// A manifest that lists all files, every so many versions.
const FULL_EVERY: u64 = 10;
/// How far behind the hint may be before listing is cheaper than probing.
const PROBES: u64 = 16;

/// A Parquet table at one place.
#[derive(Debug)]
pub struct ParquetFormat {
    location: Location,
}

/// One version.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    version: u64,
    /// Of the commit; tells two writers of the same version apart.
    attempt: u64,
    pub(super) batch: BatchId,
    pub(super) operation: String,
    /// Milliseconds since the epoch.
    timestamp: i64,
    pub(super) engine: String,
    schema: Value,
    partition_columns: Vec<String>,
    pub(super) checkpoint: Kept,
    /// The version that `add` and `remove` build on through all between; its own number: `add` is the whole list.
    pub(super) full: u64,
    pub(super) add: Vec<DataFile>,
    remove: Vec<String>,
    /// What the version did, which `add` and `remove` do not tell where they are the whole list.
    #[serde(default)]
    pub(super) did: Option<Did>,
    /// Versions of this table up to this one that changed no rows.
    #[serde(default)]
    rewrites: u64,
}

/// For the history.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Did {
    pub files_added: u64,
    pub files_removed: u64,
    pub rows_added: u64,
    pub bytes_added: u64,
    pub data_change: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kept {
    Inline(Box<Checkpoint>),
    /// The sidecar that `attempt` wrote: this version's, unless it kept the checkpoint of another one.
    Sidecar {
        sequence: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<u64>,
    },
}

impl Manifest {
    /// Sequence and attempt of the sidecar that holds the checkpoint, where one does.
    pub(super) fn sidecar(&self) -> Option<(u64, u64)> {
        match self.checkpoint {
            Kept::Sidecar { sequence, attempt } => Some((sequence, attempt.unwrap_or(self.attempt))),
            Kept::Inline(_) => None,
        }
    }
}

/// What `Snapshot::state` holds.
struct State {
    schema: Value,
    full: u64,
    /// Attempt that wrote the checkpoint's sidecar, where it has one.
    sidecar: Option<u64>,
    /// Hint and symlink manifests are of this version.
    pointed: bool,
}

impl State {
    fn pointed(&self) -> State {
        State { schema: self.schema.clone(), full: self.full, sidecar: self.sidecar, pointed: true }
    }
}

#[derive(Deserialize)]
struct Hint {
    version: u64,
}

impl ParquetFormat {
    pub fn new(location: Location) -> Self {
        ParquetFormat { location }
    }

    fn table(&self) -> &str {
        &self.location.display
    }

    /// What the hint says, and the newest version.
    async fn newest(&self) -> Result<(Option<u64>, Option<(u64, Bytes)>)> {
        let hint = match fetch(&self.location, HINT).await? {
            // Whatever is wrong with it, it is only a hint; the manifests are checked.
            Some(json) => serde_json::from_slice::<Hint>(&json).ok().map(|hint| hint.version),
            None => None,
        };
        if let Some(start) = hint {
            let mut newest = None;
            // Two at a time: mostly the hint is right, and the second one does not exist.
            for version in (start..start + PROBES).step_by(2) {
                let (this, next) = (entry(version), entry(version + 1));
                match futures::try_join!(fetch(&self.location, &this), fetch(&self.location, &next))? {
                    (Some(this), None) => return Ok((hint, Some((version, this)))),
                    (Some(_), Some(next)) => newest = Some((version + 1, next)),
                    (None, _) if newest.is_some() => return Ok((hint, newest)),
                    (None, _) => break,
                }
            }
        }
        let folder = self.location.path(VERSIONS)?;
        let newest = self
            .location
            .store
            .list(Some(&folder))
            .try_fold(None, |newest: Option<u64>, object| async move {
                let version = object.location.filename().and_then(|name| name.strip_suffix(".json")).and_then(|n| n.parse().ok());
                Ok(newest.max(version))
            })
            .await?;
        let found = match newest {
            Some(version) => fetch(&self.location, &entry(version)).await?.map(|json| (version, json)),
            None => None,
        };
        Ok((hint, found))
    }

    pub(super) fn parse(&self, version: u64, json: &[u8]) -> Result<Manifest> {
        supported(&self.location, &entry(version), json)?;
        serde_json::from_slice(json).map_err(|e| damaged(&self.location, &entry(version), e))
    }

    /// `pointed`: whether hint and symlink manifests are of this version; `None` for a look back, whose checkpoint may be gone.
    async fn snapshot_of(&self, version: u64, json: &[u8], pointed: Option<bool>) -> Result<Snapshot> {
        let mut manifest = self.parse(version, json)?;
        let files = self.files(&mut manifest).await?;
        let schema = from_json(&manifest.schema).map_err(|ty| damaged(&self.location, &entry(version), format!("unknown type {ty}")))?;
        let sidecar = manifest.sidecar();
        let taken = match (manifest.checkpoint, sidecar) {
            (Kept::Inline(checkpoint), _) => *checkpoint,
            (Kept::Sidecar { .. }, Some((sequence, id))) if pointed.is_none() => {
                checkpoint::find(&self.location, sequence, id).await?.ok_or_else(|| delta_versions::forgotten(self.table(), version))?
            }
            (Kept::Sidecar { sequence, .. }, sidecar) => {
                checkpoint::read(&self.location, sequence, sidecar.map_or(manifest.attempt, |s| s.1)).await?
            }
        };
        let pointed = pointed.unwrap_or(false);
        Ok(Snapshot {
            version,
            rewrites: manifest.rewrites,
            schema,
            partition_columns: manifest.partition_columns,
            files: Arc::new(files),
            checkpoint: taken,
            state: Arc::new(State { schema: manifest.schema, full: manifest.full, sidecar: sidecar.map(|s| s.1), pointed }),
        })
    }

    /// The versions that can be read; `None` where there is none.
    pub(super) async fn versions(&self) -> Result<Option<Versions>> {
        let folder = self.location.path(VERSIONS)?;
        let mut times: BTreeMap<u64, i64> = self
            .location
            .store
            .list(Some(&folder))
            .try_filter_map(|object| async move {
                let version = object.location.filename().and_then(|name| name.strip_suffix(".json")).and_then(|n| n.parse().ok());
                Ok(version.map(|v| (v, object.last_modified.timestamp_millis())))
            })
            .try_collect()
            .await?;
        let Some(newest) = times.keys().next_back().copied() else { return Ok(None) };
        let lowest = times.keys().next().copied().unwrap_or(newest);
        let mut oldest = newest;
        // A listing that was made while others wrote may leave one out.
        while oldest > lowest && (times.contains_key(&(oldest - 1)) || fetch(&self.location, &entry(oldest - 1)).await?.is_some()) {
            let later = times.get(&oldest).copied().unwrap_or_default();
            oldest -= 1;
            times.entry(oldest).or_insert(later);
        }
        Ok(Some(Versions::new(oldest, newest, times)))
    }

    pub(super) fn location(&self) -> &Location {
        &self.location
    }

    pub(super) async fn files(&self, newest: &mut Manifest) -> Result<Vec<DataFile>> {
        let mut files = vec![];
        let earlier: Vec<Bytes> = futures::stream::iter(newest.full..newest.version)
            .map(|version| async move {
                fetch(&self.location, &entry(version))
                    .await?
                    .ok_or_else(|| damaged(&self.location, &entry(version), "it is gone, and the newest version builds on it"))
            })
            .buffered(16)
            .try_collect()
            .await?;
        for (version, json) in (newest.full..).zip(earlier) {
            let manifest = self.parse(version, &json)?;
            // a purge makes a version list all files after others have built on it
            if manifest.full == version {
                files.clear();
            }
            apply(&mut files, manifest.add, &manifest.remove);
        }
        apply(&mut files, std::mem::take(&mut newest.add), &newest.remove);
        Ok(files)
    }

    /// The newest version, or `None` where there is no table. `repair`: pointers that are behind are brought up to it.
    async fn load(&self, repair: bool) -> Result<Option<Snapshot>> {
        let (hint, newest) = self.newest().await?;
        let Some((version, json)) = newest else { return Ok(None) };
        let pointed = hint == Some(version);
        let mut snapshot = self.snapshot_of(version, &json, Some(pointed)).await?;
        if repair && !pointed && self.point(version, &snapshot.files, !snapshot.partition_columns.is_empty(), None).await {
            let now = state(&snapshot)?.pointed();
            snapshot.state = Arc::new(now);
        }
        Ok(Some(snapshot))
    }

    /// Hint and symlink manifests. `touched`: the partitions that changed since they were last written, all when absent.
    /// Failing leaves other engines at the version before, until the next run repairs it; never fewer rows for us.
    async fn point(&self, version: u64, files: &[DataFile], partitioned: bool, touched: Option<&BTreeSet<String>>) -> bool {
        match self.point_at(version, files, partitioned, touched).await {
            Ok(()) => true,
            Err(e) => {
                tracing::warn!("{}: the pointers to version {version} could not be written, the next run will: {e}", self.table());
                false
            }
        }
    }

    /// Where a writer published meanwhile, ours may have come after its pointers: then they are written again, for the newest.
    async fn point_at(&self, version: u64, files: &[DataFile], partitioned: bool, touched: Option<&BTreeSet<String>>) -> Result<()> {
        let write = async |version: u64, files: &[DataFile], partitioned: bool, touched: Option<&BTreeSet<String>>| {
            symlink::write(&self.location, files, partitioned, touched).await?;
            let hint = json!({"format": checkpoint::FORMAT, "version": version, "manifest": entry(version)});
            self.location.store.put(&self.location.path(HINT)?, hint.to_string().into()).await?;
            Ok::<_, Error>(())
        };
        write(version, files, partitioned, touched).await?;
        let mut at = version;
        while fetch(&self.location, &entry(at + 1)).await?.is_some() {
            let (_, Some((newest, json))) = self.newest().await? else { return Ok(()) };
            let mut manifest = self.parse(newest, &json)?;
            let files = self.files(&mut manifest).await?;
            write(newest, &files, !manifest.partition_columns.is_empty(), None).await?;
            at = newest;
        }
        Ok(())
    }
}

pub(super) fn apply(files: &mut Vec<DataFile>, add: Vec<DataFile>, remove: &[String]) {
    if !remove.is_empty() {
        let gone: HashSet<&str> = remove.iter().map(String::as_str).collect();
        files.retain(|f| !gone.contains(f.path.as_str()));
    }
    files.extend(add);
}

pub(super) fn entry(version: u64) -> String {
    format!("{VERSIONS}/{version:020}.json")
}

#[async_trait]
impl TableFormat for ParquetFormat {
    async fn snapshot(&self) -> Result<Option<Snapshot>> {
        let newest = self.load(true).await?;
        if newest.is_none() {
            refuse_other(&self.location, delta_log::FOLDER, "delta", "parquet").await?;
        }
        Ok(newest)
    }

    async fn snapshot_at(&self, at: At) -> Result<Snapshot> {
        let versions = self.versions().await?.ok_or_else(|| versions::none(self.table()))?;
        let version = versions.find(at, self.table())?;
        let json = fetch(&self.location, &entry(version)).await?;
        let json =
            json.ok_or_else(|| Error::retry(format!("version {version} of {} went away", self.table()), "a vacuum removed it just now"))?;
        self.snapshot_of(version, &json, None).await
    }

    async fn history(&self, limit: usize) -> Result<Vec<VersionInfo>> {
        parquet_versions::history(self, limit).await
    }

    async fn garbage(&self, before: i64, keep: &BTreeSet<String>) -> Result<Vec<Garbage>> {
        match self.versions().await? {
            Some(versions) => parquet_versions::garbage(self, &versions, before, keep).await,
            None => Ok(vec![]),
        }
    }

    async fn commit(&self, base: &Option<Snapshot>, mut change: Change) -> Result<Commit> {
        if let Some(done) = precheck(base, &change)? {
            return Ok(done);
        }
        let (outcome, on) = publish(self, base, &mut change).await?;
        if let Commit::Published { version } = outcome {
            let mut files = match (&on, &change.remove) {
                (Some(on), Remove::Nothing | Remove::Files(_)) => on.files.to_vec(),
                _ => vec![],
            };
            let gone = removed(on.as_ref(), &change);
            let touched = match on.as_ref().map(state).transpose()? {
                Some(state) if state.pointed => Some(change.add.iter().map(|f| &f.path).chain(&gone).map(|p| symlink::folder(p)).collect()),
                _ => None,
            };
            apply(&mut files, change.add, &gone);
            let columns = on.as_ref().filter(|_| !change.data_change).map_or(&change.partition_columns, |on| &on.partition_columns);
            self.point(version, &files, !columns.is_empty(), touched.as_ref()).await;
        }
        Ok(outcome)
    }

    async fn provider(&self, snapshot: &Snapshot) -> Result<Arc<dyn TableProvider>> {
        Ok(Arc::new(scan::Files::new(self.location.clone(), snapshot)))
    }

    fn bounds(&self, snapshot: &Snapshot, column: &str) -> Result<(ArrayRef, ArrayRef)> {
        Ok(scan::Files::new(self.location.clone(), snapshot).bounds(column)?)
    }

    fn name(&self) -> &'static str {
        "parquet"
    }

    /// An epoch: the commit's sequence and a short hash of the batch.
    fn data_prefix(&self, base: &Option<Snapshot>, batch: &BatchId) -> String {
        let sequence = base.as_ref().map_or(0, |s| s.checkpoint.sequence) + 1;
        let hash = batch.0.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        format!("data/{sequence:08}-{hash:08x}")
    }

    async fn purge(&self, options: Purge) -> Result<Purged> {
        purge::parquet(self, &self.location, options).await
    }
}

#[async_trait]
impl Log for ParquetFormat {
    fn location(&self) -> &Location {
        &self.location
    }

    fn entry(&self, version: u64) -> String {
        entry(version)
    }

    /// Pointers that are behind here are those of a writer that is about to write them; the commit to come writes all of them.
    async fn head(&self) -> Result<Option<Snapshot>> {
        self.load(false).await
    }

    async fn keep(&self, checkpoint: &Checkpoint, id: u64) -> Result<()> {
        if inline(checkpoint) { Ok(()) } else { checkpoint::write(&self.location, checkpoint, id).await }
    }

    fn same_rules(&self, base: &Snapshot, now: &Snapshot) -> bool {
        match (state(base), state(now)) {
            (Ok(a), Ok(b)) => a.schema == b.schema && base.partition_columns == now.partition_columns,
            _ => false,
        }
    }

    fn author(&self, entry: &[u8]) -> Option<BatchId> {
        #[derive(Deserialize)]
        struct Author {
            batch: BatchId,
        }
        serde_json::from_slice::<Author>(entry).ok().map(|a| a.batch)
    }

    fn body(&self, on: Option<&Snapshot>, version: u64, change: &Change, id: u64) -> Result<Bytes> {
        let before = on.map(state).transpose()?;
        let found = before.zip(on).filter(|_| !change.data_change);
        let mut schema = match found {
            Some((before, _)) => before.schema.clone(),
            None => to_json(&change.schema, Dialect::Parquet, &change.descriptions, before.map(|s| &s.schema), self.table())?,
        };
        if let (Some(before), Some(on), true, true) = (before, on, keeps_files(on, change), change.data_change) {
            schema = evolve(&before.schema, schema, self.table())?;
            if on.partition_columns != change.partition_columns {
                return Err(repartitioned(self.table(), &on.partition_columns, &change.partition_columns));
            }
        }
        let whole = !keeps_files(on, change);
        let full = match before {
            Some(before) if !whole && !version.is_multiple_of(FULL_EVERY) => before.full,
            _ => version,
        };
        let mut add = vec![];
        let mut remove = removed(on, change);
        if let (Some(on), true, false) = (on, full == version, whole) {
            add.extend(on.files.iter().cloned());
            apply(&mut add, vec![], &remove);
        }
        let did = Did {
            files_added: change.add.len() as u64,
            files_removed: remove.len() as u64,
            rows_added: change.add.iter().map(|f| f.rows).sum(),
            bytes_added: change.add.iter().map(|f| f.bytes).sum(),
            data_change: change.data_change,
        };
        if full == version {
            remove.clear();
        }
        add.extend(change.add.iter().cloned());
        let manifest = Manifest {
            format: checkpoint::FORMAT,
            version,
            attempt: id,
            batch: change.batch.clone(),
            operation: change.operation.clone(),
            timestamp: change.now,
            engine: concat!("smelt/", env!("CARGO_PKG_VERSION")).to_owned(),
            schema,
            partition_columns: found.map_or(&change.partition_columns, |(_, on)| &on.partition_columns).clone(),
            checkpoint: match found {
                Some((before, on)) => match before.sidecar {
                    Some(attempt) => Kept::Sidecar { sequence: on.checkpoint.sequence, attempt: Some(attempt) },
                    None => Kept::Inline(Box::new(on.checkpoint.clone())),
                },
                None if inline(&change.checkpoint) => Kept::Inline(Box::new(change.checkpoint.clone())),
                None => Kept::Sidecar { sequence: change.checkpoint.sequence, attempt: None },
            },
            full,
            add,
            remove,
            did: Some(did),
            rewrites: on.map_or(0, |on| on.rewrites) + u64::from(!change.data_change),
        };
        let json = serde_json::to_vec(&manifest).map_err(|e| Error::bug(format!("manifest of {}: {e}", self.table())))?;
        Ok(json.into())
    }
}

fn removed(on: Option<&Snapshot>, change: &Change) -> Vec<String> {
    match (&change.remove, on) {
        (Remove::Everything, Some(on)) => on.files.iter().map(|f| f.path.clone()).collect(),
        (Remove::Files(files), _) => files.iter().map(|f| f.path.clone()).collect(),
        _ => vec![],
    }
}

fn inline(checkpoint: &Checkpoint) -> bool {
    // a long list of files is not made into JSON to find out how long it is
    checkpoint.files.len_hint() < 100 && serde_json::to_vec(checkpoint).is_ok_and(|json| json.len() <= checkpoint::INLINE)
}

fn state(snapshot: &Snapshot) -> Result<&State> {
    snapshot.state.downcast_ref::<State>().ok_or_else(|| Error::bug("the snapshot is of another format"))
}

/// Where there is no table of the format `wanted`: refuses to make one inside a table of the other format.
/// Data files without any log are no table: a run that was killed before its first commit leaves such files.
pub(super) async fn refuse_other(table: &Location, folder: &str, found: &str, wanted: &str) -> Result<()> {
    match table.store.list(Some(&table.path(folder)?)).next().await {
        None => Ok(()),
        Some(Err(e)) => Err(e.into()),
        Some(Ok(_)) => Err(Error::pipeline(
            Complaint::at(["format"], format!("{} is a {found} table, and the pipeline asks for {wanted}", table.display))
                .help(format!("write `format: {found}`, give the table another name, or move the old one away")),
        )),
    }
}

pub(super) fn repartitioned(table: &str, old: &[String], new: &[String]) -> Error {
    Error::pipeline(
        Complaint::at(
            ["partition_by"],
            format!("{table} is partitioned by [{}] and would be partitioned by [{}]", old.join(", "), new.join(", ")),
        )
        .help("rebuild the table with --full-refresh, or keep partition_by as it was"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::suite;
    use super::*;

    async fn text(table: &Location, relative: &str) -> String {
        String::from_utf8(fetch(table, relative).await.unwrap().unwrap_or_default().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_lost_or_stale_hint_is_repaired_by_the_next_reader() {
        let place = suite::memory();
        let at = &place.location;
        let format = ParquetFormat::new(at.clone());
        for i in 1..=3 {
            suite::append(&format, i).await;
        }
        let first = text(at, HINT).await;
        assert!(first.contains("\"version\":2"), "{first}");
        let manifest = at.path("_symlink_format_manifest").unwrap();
        let manifests: Vec<_> = at.store.list(Some(&manifest)).try_collect().await.unwrap();
        assert_eq!(manifests.len(), 3, "one for each partition");
        for stale in [None, Some(r#"{"format":1,"version":0}"#), Some(r#"{"format":1,"version":9}"#), Some("{\"vers")] {
            match stale {
                None => at.store.delete(&at.path(HINT).unwrap()).await.unwrap(),
                Some(json) => drop(at.store.put(&at.path(HINT).unwrap(), json.into()).await.unwrap()),
            }
            for old in &manifests {
                at.store.delete(&old.location).await.unwrap();
            }
            assert_eq!(format.snapshot().await.unwrap().unwrap().version, 2);
            assert_eq!(text(at, HINT).await, first);
            let again: Vec<_> = at.store.list(Some(&manifest)).try_collect().await.unwrap();
            assert_eq!(again.len(), 3);
        }
    }

    #[tokio::test]
    async fn a_newer_manifest_is_refused() {
        let place = suite::memory();
        let format = ParquetFormat::new(place.location.clone());
        suite::append(&format, 1).await;
        let path = place.location.path(&entry(1)).unwrap();
        place.location.store.put(&path, r#"{"format":99,"all":"new"}"#.into()).await.unwrap();
        let e = format.snapshot().await.unwrap_err();
        assert!(e.to_string().contains("newer Smelt"), "{e}");
    }

    #[tokio::test]
    async fn symlink_manifests_follow_the_files() {
        let place = suite::memory();
        let at = &place.location;
        let format = ParquetFormat::new(at.clone());
        suite::append(&format, 1).await;
        suite::append(&format, 2).await;
        let base = format.snapshot().await.unwrap();
        let files = &base.as_ref().unwrap().files;
        let at_of = |i: usize| format!("_symlink_format_manifest/{}/manifest", symlink::folder(&files[i].path));
        assert_eq!(text(at, &at_of(0)).await, format!("{}\n", at.uri(&files[0].path)));
        let mut change = suite::change(&place, &base, 3).await;
        change.remove = Remove::Files(vec![files[0].clone()]);
        format.commit(&base, change).await.unwrap();
        assert_eq!(text(at, &at_of(0)).await, "", "an emptied partition has no manifest");
        assert_ne!(text(at, &at_of(1)).await, "");
    }
}
