//! Delta Lake tables. One batch is one commit of the log, and what the table has taken in is part of that commit:
//! two `txn` actions hold the checkpoint's sequence and the number of the attempt that wrote its sidecar.
//!
//! `txn` and not `domainMetadata`: the latter needs writer version 7 and a feature that delta-rs does not write (so that
//! neither delta-rs nor Polars could append to, compact or vacuum our tables), while `txn` is in protocol 1, and
//! every writer carries it through log checkpoints. Commits are written by us, one put-if-absent each (see `publish`);
//! delta-rs writes the log checkpoints.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::ArrayRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use deltalake::logstore::{StorageConfig, default_logstore};
use object_store::prefix::PrefixStore;
use serde_json::{Value, json};
use smelt_engine::error::{Error, Result};
use smelt_engine::table::{
    At, BatchId, Change, Checkpoint, Commit, DataFile, Garbage, Purge, Purged, Reads, Remove, Snapshot, TableFormat, VersionInfo,
};
use url::Url;

use super::delta_log::{self, LogState, Metadata, encode};
use super::delta_protocol::Protocol;
use super::publish::{Log, keeps_files, precheck, publish};
use super::schema::{Dialect, evolve, from_json, to_json};
use super::{checkpoint, delta_versions, parquet, purge, scan, versions};
use crate::stores::Location;

/// Application ids of our `txn` actions.
pub(super) const SEQUENCE: &str = "smelt.sequence";
pub(super) const ATTEMPT: &str = "smelt.attempt";
/// Counts the versions of ours that changed no rows.
const REWRITES: &str = "smelt.rewrites";
/// A log checkpoint every so many versions.
const LOG_CHECKPOINT: u64 = 10;

/// A Delta table at one place.
#[derive(Debug)]
pub struct DeltaFormat {
    location: Location,
}

/// What `Snapshot::state` holds.
struct State {
    protocol: Protocol,
    metadata: Metadata,
    schema: Value,
    /// Version of the newest log checkpoint.
    log_checkpoint: Option<u64>,
}

impl DeltaFormat {
    pub fn new(location: Location) -> Self {
        DeltaFormat { location }
    }

    fn table(&self) -> &str {
        &self.location.display
    }

    /// `old`: not the newest version, so that its checkpoint may be gone.
    async fn snapshot_of(&self, log: LogState, old: bool) -> Result<Snapshot> {
        let schema: Value =
            serde_json::from_str(&log.metadata.schema_string).map_err(|e| checkpoint::damaged(&self.location, "schemaString", e))?;
        let arrow = from_json(&schema).map_err(|ty| {
            Error::data(
                format!("{} is a Delta table with the type {ty}, which smelt cannot read", self.table()),
                "drop or convert the column",
            )
        })?;
        let number = |id: &str| log.txns.get(id).and_then(|v| u64::try_from(*v).ok());
        let taken = match (number(SEQUENCE), number(ATTEMPT)) {
            (Some(sequence), Some(id)) if old => {
                let found = checkpoint::find(&self.location, sequence, id).await?;
                found.ok_or_else(|| delta_versions::forgotten(self.table(), log.version))?
            }
            (Some(sequence), Some(id)) => checkpoint::read(&self.location, sequence, id).await?,
            _ => Checkpoint::default(),
        };
        Ok(Snapshot {
            version: log.version,
            rewrites: number(REWRITES).unwrap_or_default(),
            schema: arrow,
            partition_columns: log.metadata.partition_columns.clone(),
            files: Arc::new(log.files),
            checkpoint: taken,
            state: Arc::new(State { protocol: log.protocol, metadata: log.metadata, schema, log_checkpoint: log.checkpoint }),
        })
    }

    /// After the commit: failing costs time or space, never rows.
    async fn tend(&self, base: Option<&Snapshot>, version: u64) {
        let last = base.and_then(|s| state(s).ok()?.log_checkpoint).unwrap_or_default();
        if version < last + LOG_CHECKPOINT {
            return;
        }
        if let Err(e) = self.log_checkpoint().await {
            tracing::warn!("{}: the log checkpoint of version {version} failed, the next one will do: {e}", self.table());
        }
    }

    pub(super) async fn log_checkpoint(&self) -> Result<(), deltalake::DeltaTableError> {
        let mut table = self.delta_rs()?;
        table.load().await?;
        deltalake::checkpoints::create_checkpoint(&table, None).await?;
        if table.snapshot()?.metadata().configuration().get("delta.enableExpiredLogCleanup").is_none_or(|v| v != "false") {
            deltalake::checkpoints::cleanup_metadata(&table, None).await?;
        }
        Ok(())
    }

    /// The table as delta-rs sees it, on our store.
    pub(super) fn delta_rs(&self) -> Result<deltalake::DeltaTable, deltalake::DeltaTableError> {
        let at = &self.location;
        let generic = |e: &dyn std::fmt::Display| deltalake::DeltaTableError::Generic(e.to_string());
        let mut url = Url::parse(at.root.as_str()).map_err(|e| generic(&e))?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(at.prefix.parts().map(|p| p.as_ref().to_owned())).push("");
        }
        let prefixed = Arc::new(PrefixStore::new(Arc::clone(&at.store), at.prefix.clone()));
        Ok(deltalake::DeltaTable::new(default_logstore(prefixed, Arc::clone(&at.store), &url, &StorageConfig::default())))
    }
}

#[async_trait]
impl TableFormat for DeltaFormat {
    async fn snapshot(&self) -> Result<Option<Snapshot>> {
        match delta_log::load(&self.location).await? {
            Some(log) => self.snapshot_of(log, false).await.map(Some),
            None => {
                parquet::refuse_other(&self.location, parquet::VERSIONS, "parquet", "delta").await?;
                Ok(None)
            }
        }
    }

    async fn commit(&self, base: &Option<Snapshot>, mut change: Change) -> Result<Commit> {
        if let Some(done) = precheck(base, &change)? {
            return Ok(done);
        }
        let (outcome, on) = publish(self, base, &mut change).await?;
        if let Commit::Published { version } = outcome {
            self.tend(on.as_ref(), version).await;
        }
        Ok(outcome)
    }

    async fn snapshot_at(&self, at: At) -> Result<Snapshot> {
        let versions = delta_log::versions(&self.location).await?.ok_or_else(|| versions::none(self.table()))?;
        let log = delta_log::load_at(&self.location, versions.find(at, self.table())?).await?;
        let old = log.version < versions.newest;
        self.snapshot_of(log, old).await
    }

    async fn history(&self, limit: usize) -> Result<Vec<VersionInfo>> {
        delta_versions::history(&self.location, limit).await
    }

    async fn garbage(&self, before: i64, keep: &BTreeSet<String>) -> Result<Vec<Garbage>> {
        match self.snapshot().await? {
            Some(current) => delta_versions::garbage(&self.location, &current, before, keep).await,
            None => Ok(vec![]),
        }
    }

    async fn provider(&self, snapshot: &Snapshot) -> Result<Arc<dyn TableProvider>> {
        Ok(Arc::new(scan::Files::new(self.location.clone(), snapshot)))
    }

    fn bounds(&self, snapshot: &Snapshot, column: &str) -> Result<(ArrayRef, ArrayRef)> {
        Ok(scan::Files::new(self.location.clone(), snapshot).bounds(column)?)
    }

    fn name(&self) -> &'static str {
        "delta"
    }

    fn data_prefix(&self, _base: &Option<Snapshot>, _batch: &BatchId) -> String {
        String::new()
    }

    async fn purge(&self, options: Purge) -> Result<Purged> {
        purge::delta(self, &self.location, options).await
    }
}

#[async_trait]
impl Log for DeltaFormat {
    fn location(&self) -> &Location {
        &self.location
    }

    fn entry(&self, version: u64) -> String {
        delta_log::entry(version)
    }

    async fn head(&self) -> Result<Option<Snapshot>> {
        self.snapshot().await
    }

    async fn keep(&self, checkpoint: &Checkpoint, id: u64) -> Result<()> {
        checkpoint::write(&self.location, checkpoint, id).await
    }

    fn same_rules(&self, base: &Snapshot, now: &Snapshot) -> bool {
        match (state(base), state(now)) {
            (Ok(a), Ok(b)) => a.protocol == b.protocol && a.metadata == b.metadata,
            _ => false,
        }
    }

    fn author(&self, entry: &[u8]) -> Option<BatchId> {
        let said = |line| serde_json::from_slice::<Value>(line).ok()?.get("commitInfo")?.get("smelt.batch")?.as_str().map(str::to_owned);
        entry.split(|b| *b == b'\n').find_map(said).map(BatchId)
    }

    fn body(&self, on: Option<&Snapshot>, _version: u64, change: &Change, id: u64) -> Result<Bytes> {
        let before = on.map(state).transpose()?;
        // What a whole replacement leaves as it is (a restore may) is in neither list: a path stands in a commit once.
        let (removed, added): (Vec<&DataFile>, Vec<&DataFile>) = match (&change.remove, on) {
            (Remove::Everything, Some(on)) => {
                let paths = |files: &[DataFile]| files.iter().map(|f| f.path.clone()).collect::<HashSet<_>>();
                let (before, after) = (paths(&on.files), paths(&change.add));
                let gone = on.files.iter().filter(|f| !after.contains(&f.path)).collect();
                (gone, change.add.iter().filter(|f| !before.contains(&f.path)).collect())
            }
            (Remove::Files(files), _) => (files.iter().collect(), change.add.iter().collect()),
            _ => (vec![], change.add.iter().collect()),
        };
        if let Some(state) = before {
            let takes = !removed.is_empty() && change.data_change;
            state.protocol.check_write(&state.metadata.configuration, &state.schema, takes, self.table())?;
        }
        let mut lines = vec![commit_info(change, id)];
        let txn = |app: &str, version: u64| json!({"txn": {"appId": app, "version": version, "lastUpdated": change.now}});
        if change.data_change {
            lines.extend(self.rules(on, before, change)?);
            lines.push(txn(SEQUENCE, change.checkpoint.sequence));
            lines.push(txn(ATTEMPT, id));
        } else {
            lines.push(txn(REWRITES, on.map_or(0, |on| on.rewrites) + 1));
        }
        lines.extend(removed.iter().map(|f| {
            json!({"remove": {
                "path": encode(&f.path), "deletionTimestamp": change.now, "dataChange": change.data_change, "extendedFileMetadata": true,
                "partitionValues": partition_values(f), "size": f.bytes,
            }})
        }));
        lines.extend(added.iter().map(|f| {
            json!({"add": {
                "path": encode(&f.path), "partitionValues": partition_values(f), "size": f.bytes,
                "modificationTime": f.modified, "dataChange": change.data_change, "stats": f.stats,
            }})
        }));
        let mut body = Vec::with_capacity(lines.len() * 256);
        for line in &lines {
            serde_json::to_writer(&mut body, line).map_err(|e| Error::bug(format!("commit to {}: {e}", self.table())))?;
            body.push(b'\n');
        }
        Ok(body.into())
    }
}

impl DeltaFormat {
    /// The protocol and metaData actions that the change needs: both for a new table, none where nothing changes.
    fn rules(&self, on: Option<&Snapshot>, before: Option<&State>, change: &Change) -> Result<Vec<Value>> {
        let mut schema = to_json(&change.schema, Dialect::Delta, &change.descriptions, before.map(|s| &s.schema), self.table())?;
        if let Some(absent) = change.partition_columns.iter().find(|c| change.schema.index_of(c).is_err()) {
            return Err(Error::bug(format!("partition column {absent} of {} is not in its schema", self.table())));
        }
        if let (Some(before), true) = (before, keeps_files(on, change)) {
            schema = evolve(&before.schema, schema, self.table())?;
            if before.metadata.partition_columns != change.partition_columns {
                return Err(parquet::repartitioned(self.table(), &before.metadata.partition_columns, &change.partition_columns));
            }
        }
        let mut actions = vec![];
        let protocol = match before {
            None => Some(Protocol::fresh(&schema)),
            Some(before) => before.protocol.upgraded(&schema),
        };
        actions.extend(protocol.map(|p| json!({ "protocol": p })));
        let metadata = match before {
            None => Some(Metadata {
                id: uuid::Uuid::new_v4().to_string(),
                name: None,
                description: None,
                format: json!({"provider": "parquet", "options": {}}),
                schema_string: schema.to_string(),
                partition_columns: change.partition_columns.clone(),
                created_time: Some(change.now),
                configuration: Default::default(),
            }),
            Some(before) if before.schema != schema || before.metadata.partition_columns != change.partition_columns => {
                let mut metadata = before.metadata.clone();
                metadata.schema_string = schema.to_string();
                metadata.partition_columns.clone_from(&change.partition_columns);
                Some(metadata)
            }
            Some(_) => None,
        };
        actions.extend(metadata.map(|m| json!({ "metaData": m })));
        Ok(actions)
    }
}

/// `id` makes sure that no two writers' commits are the same bytes.
fn commit_info(change: &Change, id: u64) -> Value {
    let (operation, parameters) = match (&change.remove, change.operation.as_str()) {
        _ if !change.data_change => ("OPTIMIZE", json!({})),
        (_, "restore") => ("RESTORE", json!({})),
        (Remove::Nothing, _) => ("WRITE", json!({"mode": "Append"})),
        _ => ("WRITE", json!({"mode": "Overwrite"})),
    };
    json!({"commitInfo": {
        "timestamp": change.now, "operation": operation, "operationParameters": parameters, "smelt.attempt": format!("{id:016x}"),
        "isBlindAppend": matches!((&change.reads, &change.remove), (Reads::Nothing, Remove::Nothing)), "engineInfo": concat!("smelt/", env!("CARGO_PKG_VERSION")),
        "userMetadata": change.batch.0, "smelt.batch": change.batch.0, "smelt.operation": change.operation,
        "smelt.format": checkpoint::FORMAT,
    }})
}

fn partition_values(file: &DataFile) -> serde_json::Map<String, Value> {
    file.partition.iter().map(|(name, value)| (name.clone(), value.as_deref().map_or(Value::Null, Value::from))).collect()
}

fn state(snapshot: &Snapshot) -> Result<&State> {
    snapshot.state.downcast_ref::<State>().ok_or_else(|| Error::bug("the snapshot is of another format"))
}

#[cfg(test)]
mod tests {
    use super::super::suite;
    use super::*;
    use object_store::ObjectStoreExt;

    /// delta-rs reads the same files, versions and schema as we do, before and after log checkpoints.
    #[tokio::test(flavor = "multi_thread")]
    async fn delta_rs_agrees() {
        for place in suite::places() {
            let format = DeltaFormat::new(place.location.clone());
            for i in 1..=12 {
                suite::append(&format, i).await;
                let ours = format.snapshot().await.unwrap().unwrap();
                let mut theirs = format.delta_rs().unwrap();
                theirs.load().await.unwrap();
                assert_eq!(theirs.version(), Some(ours.version));
                let mut paths: Vec<String> = theirs.snapshot().unwrap().log_data().into_iter().map(|f| f.path().to_string()).collect();
                let mut own: Vec<String> = ours.files.iter().map(|f| f.path.clone()).collect();
                paths.sort();
                own.sort();
                assert_eq!(paths, own);
            }
            let last = place.location.path("_delta_log/_last_checkpoint").unwrap();
            assert!(place.location.store.get(&last).await.is_ok(), "a log checkpoint was written");
        }
    }

    #[tokio::test]
    async fn unknown_features_are_refused_and_nothing_is_written() {
        let place = suite::memory();
        let format = DeltaFormat::new(place.location.clone());
        suite::append(&format, 1).await;
        let base = format.snapshot().await.unwrap();
        let put = |version: u64, line: &'static str| {
            let path = place.location.path(&delta_log::entry(version)).unwrap();
            let store = Arc::clone(&place.location.store);
            async move { store.put(&path, line.into()).await.unwrap() }
        };
        put(1, r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":7,"writerFeatures":["rowTracking","domainMetadata"]}}"#).await;
        let now = format.snapshot().await.unwrap();
        let e = format.commit(&now, suite::change(&place, &now, 2).await).await.unwrap_err();
        assert!(matches!(&e, Error::Data { message, .. } if message.contains("rowTracking")), "{e}");
        // A run that did not see it conflicts, since the rules changed.
        let c = format.commit(&base, suite::change(&place, &base, 2).await).await.unwrap();
        assert_eq!(c, Commit::Conflict { with: 1, batch: None });
        put(2, r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}}"#)
            .await;
        let e = format.snapshot().await.unwrap_err();
        assert!(e.to_string().contains("deletionVectors"), "{e}");
    }

    #[tokio::test]
    async fn a_foreign_append_is_stepped_over_and_keeps_our_checkpoint() {
        let place = suite::memory();
        let format = DeltaFormat::new(place.location.clone());
        suite::append(&format, 1).await;
        let base = format.snapshot().await.unwrap();
        let line = r#"{"add":{"path":"foreign.parquet","partitionValues":{"city":"X"},"size":9,"modificationTime":1,"dataChange":true}}"#;
        place.location.store.put(&place.location.path(&delta_log::entry(1)).unwrap(), line.into()).await.unwrap();
        let change = suite::change(&place, &base, 2).await;
        assert_eq!(format.commit(&base, change.clone()).await.unwrap(), Commit::Published { version: 2 });
        let now = format.snapshot().await.unwrap().unwrap();
        assert_eq!((now.files.len(), &now.checkpoint), (3, &change.checkpoint));
        // What replaces the table does not commute with it. The foreign version says no batch; the one after it does.
        let mut replace = suite::change(&place, &base, 3).await;
        replace.remove = Remove::Everything;
        assert_eq!(format.commit(&base, replace).await.unwrap(), Commit::Conflict { with: 2, batch: Some(change.batch) });
    }

    #[tokio::test]
    async fn a_newer_checkpoint_is_refused() {
        let place = suite::memory();
        let format = DeltaFormat::new(place.location.clone());
        suite::append(&format, 1).await;
        let folder = place.location.path("_smelt/checkpoints").unwrap();
        let listing = place.location.store.list_with_delimiter(Some(&folder)).await.unwrap();
        let newer = zstd::bulk::compress(br#"{"format":99,"checkpoint":{"anything":1}}"#, 1).unwrap();
        place.location.store.put(&listing.objects[0].location, newer.into()).await.unwrap();
        let e = format.snapshot().await.unwrap_err();
        assert!(e.to_string().contains("newer Smelt"), "{e}");
    }

    #[tokio::test]
    async fn descriptions_become_comments_and_timestamps_without_zone_a_feature() {
        let place = suite::memory();
        let format = DeltaFormat::new(place.location.clone());
        let mut change = suite::change(&place, &None, 1).await;
        change.descriptions.insert("id".into(), "the key".into());
        format.commit(&None, change).await.unwrap();
        let base = format.snapshot().await.unwrap();
        let of = |snapshot: &Option<Snapshot>| {
            let state = state(snapshot.as_ref().unwrap()).unwrap();
            (state.schema.clone(), state.protocol.clone())
        };
        assert_eq!(of(&base).0["fields"][0]["metadata"]["comment"], json!("the key"));
        let mut change = suite::change(&place, &base, 2).await;
        let mut fields = change.schema.fields().to_vec();
        let ntz = arrow::datatypes::DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
        fields.push(Arc::new(arrow::datatypes::Field::new("local_at", ntz, true)));
        change.schema = Arc::new(arrow::datatypes::Schema::new(fields));
        format.commit(&base, change).await.unwrap();
        let (schema, protocol) = of(&format.snapshot().await.unwrap());
        assert_eq!(protocol.min_reader_version, 3);
        assert_eq!(schema["fields"][0]["metadata"]["comment"], json!("the key"));
    }
}
