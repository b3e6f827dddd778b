//! The commit protocol that both formats share: create exactly the next version, or find out who did.
//!
//! A version is one object, created only if absent. Nothing is rebased silently: an append goes on top of another writer's
//! version only where that writer touched neither our checkpoint nor the table's rules. A reply that got lost is found
//! again by reading the version back.

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{ObjectStore, PutMode, PutOptions};
use smelt_engine::error::{Error, Result, chain};
use smelt_engine::table::{Change, Commit, DataFile, Remove, Snapshot};

use super::checkpoint::fetch;
use crate::stores::Location;

/// How often an append steps on top of other writers before it gives the conflict to the driver.
const ATTEMPTS: usize = 20;

/// One format's log.
#[async_trait]
pub(super) trait Log: Send + Sync {
    fn location(&self) -> &Location;
    /// The object, below the table, whose creation is version `version`.
    fn entry(&self, version: u64) -> String;
    /// The content of version `version`, on top of `on`. Must differ between any two attempts of any two writers.
    fn body(&self, on: Option<&Snapshot>, version: u64, change: &Change, id: u64) -> Result<Bytes>;
    /// The newest version.
    async fn head(&self) -> Result<Option<Snapshot>>;
    /// Whether the table's rules (schema, partitioning, protocol) and our checkpoint are the same in both.
    fn undisturbed(&self, base: &Snapshot, now: &Snapshot) -> bool;
}

/// Publishes `change` on top of `base`. The checkpoint of attempt `id` must have been written.
pub(super) async fn publish(log: &dyn Log, base: &Option<Snapshot>, change: &Change, id: u64) -> Result<Commit> {
    let mut on = base.clone();
    for _ in 0..ATTEMPTS {
        let version = on.as_ref().map_or(0, |s| s.version + 1);
        let body = log.body(on.as_ref(), version, change, id)?;
        let Err(refusal) = create(log, version, body.clone()).await else {
            return Ok(Commit::Published { version });
        };
        // Whatever the store said: what lies there now decides.
        match fetch(log.location(), &log.entry(version)).await {
            Ok(Some(found)) if found == body => return Ok(Commit::Published { version }),
            Ok(Some(_)) => {}
            Ok(None) => return Err(failed(log, version, &refusal, "nothing was published")),
            Err(_) => return Err(failed(log, version, &refusal, "whether it was published is unknown; the next run finds out")),
        }
        let Some(now) = log.head().await? else {
            return Err(Error::bug(format!("version {version} of {} exists, but no table", log.location().display)));
        };
        if now.checkpoint.batches.contains(&change.batch) {
            return Ok(Commit::AlreadyPublished);
        }
        match base {
            // Where the rows stand does not matter to anybody: such a change goes on top of all that left its files alone.
            Some(_) if !change.data_change && holds(&now, change) => on = Some(now),
            Some(base) if change.data_change && matches!(change.remove, Remove::Nothing) && log.undisturbed(base, &now) => on = Some(now),
            _ => return Ok(Commit::Conflict { with: version }),
        }
    }
    Ok(Commit::Conflict { with: on.map_or(0, |s| s.version) })
}

/// Whether `now` still has all files that the change removes.
fn holds(now: &Snapshot, change: &Change) -> bool {
    let Remove::Files(files) = &change.remove else { return false };
    let there: std::collections::HashSet<&str> = now.files.iter().map(|f| f.path.as_str()).collect();
    files.iter().all(|f| there.contains(f.path.as_str()))
}

async fn create(log: &dyn Log, version: u64, body: Bytes) -> Result<(), object_store::Error> {
    let location = log.location();
    let path = location.path(&log.entry(version)).map_err(|e| object_store::Error::Generic { store: "smelt", source: Box::new(e) })?;
    let options = PutOptions { mode: PutMode::Create, ..Default::default() };
    location.store.put_opts(&path, body.into(), options).await.map(|_| ())
}

fn failed(log: &dyn Log, version: u64, e: &object_store::Error, state: &str) -> Error {
    Error::retry(
        format!("version {version} of {} could not be written ({state}): {}", log.location().display, chain(e)),
        "check permissions, free space and network, then run again: a run that repeats publishes once",
    )
}

/// What must hold before anything is written. `Some` ends the commit early.
pub(super) fn precheck(base: &Option<Snapshot>, change: &Change) -> Result<Option<Commit>> {
    if !change.data_change {
        let rows = |files: &[DataFile]| files.iter().map(|f| f.rows).sum::<u64>();
        let Remove::Files(gone) = &change.remove else {
            return Err(Error::bug("a change of no rows must name the files that it rewrites"));
        };
        // Other writers may leave the count out.
        if gone.iter().all(|f| f.rows > 0) && rows(gone) != rows(&change.add) {
            return Err(Error::bug(format!("{} rows were rewritten as {}", rows(gone), rows(&change.add))));
        }
    }
    let Some(base) = base else {
        return match &change.remove {
            Remove::Files(files) if !files.is_empty() => Err(Error::bug("a change removes files from a table that does not exist")),
            _ => Ok(None),
        };
    };
    if base.checkpoint.batches.contains(&change.batch) {
        return Ok(Some(Commit::AlreadyPublished));
    }
    if let Remove::Files(files) = &change.remove {
        let known: std::collections::HashSet<&str> = base.files.iter().map(|f| f.path.as_str()).collect();
        if let Some(stranger) = files.iter().find(|f| !known.contains(f.path.as_str())) {
            return Err(Error::bug(format!("a change removes {}, which version {} does not hold", stranger.path, base.version)));
        }
    }
    Ok(None)
}

/// Whether files of `on` stay in the table after `change`.
pub(super) fn keeps_files(on: Option<&Snapshot>, change: &Change) -> bool {
    match (&change.remove, on) {
        (_, None) | (Remove::Everything, _) => false,
        (Remove::Nothing, Some(on)) => !on.files.is_empty(),
        (Remove::Files(files), Some(on)) => files.len() < on.files.len(),
    }
}
