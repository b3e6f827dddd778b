//! The commit protocol that both formats share: create exactly the next version, or find out who did.
//!
//! A version is one object, created only if absent. Where another writer was first, `rebase` says whether the change can go on
//! top of what it published; if so, the merged checkpoint is written and the next version is tried, and if not, the caller
//! gets the conflict. A reply that got lost is found again by reading the version back.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{ObjectStore, PutMode, PutOptions};
use smelt_engine::error::{Error, Result, chain};
use smelt_engine::table::{BatchId, Change, Checkpoint, Commit, DataFile, Remove, Snapshot};

use super::checkpoint::{attempt, fetch};
use super::consumed;
use super::rebase::rebase;
use crate::stores::Location;

/// How often a change steps over other writers before it gives up. Each time, one of them got through.
const ATTEMPTS: u64 = 100;

/// One format's log.
#[async_trait]
pub(super) trait Log: Send + Sync {
    fn location(&self) -> &Location;
    /// The object, below the table, whose creation is version `version`.
    fn entry(&self, version: u64) -> String;
    /// The content of version `version`, on top of `on`. Must differ between any two attempts of any two writers.
    fn body(&self, on: Option<&Snapshot>, version: u64, change: &Change, id: u64) -> Result<Bytes>;
    /// Writes what the body of attempt `id` refers to.
    async fn keep(&self, checkpoint: &Checkpoint, id: u64) -> Result<()>;
    /// The newest version.
    async fn head(&self) -> Result<Option<Snapshot>>;
    /// Whether the table's rules (schema, partitioning, protocol, properties) are the same in both.
    fn same_rules(&self, base: &Snapshot, now: &Snapshot) -> bool;
    /// The batch that an entry says it was written by.
    fn author(&self, entry: &[u8]) -> Option<BatchId>;
}

/// Publishes `change`, made from `base`. Returns the version that it was put on top of, too; the change's checkpoint is
/// then the one that was published.
pub(super) async fn publish(log: &dyn Log, base: &Option<Snapshot>, change: &mut Change) -> Result<(Commit, Option<Snapshot>)> {
    let ours = change.checkpoint.clone();
    let mut on = base.clone();
    let (mut id, mut kept) = (attempt(), false);
    for round in 0..ATTEMPTS {
        if round > 1 {
            // many at once: those that have just lost need not all come back at the same moment
            tokio::time::sleep(Duration::from_millis(attempt() % (10 * round.min(20)))).await;
        }
        let version = on.as_ref().map_or(0, |s| s.version + 1);
        // Refuses what cannot be written before anything is.
        let body = log.body(on.as_ref(), version, change, id)?;
        if !kept && change.data_change {
            log.keep(&change.checkpoint, id).await?;
            kept = true;
        }
        let Err(refusal) = create(log, version, body.clone()).await else {
            return Ok((Commit::Published { version }, on));
        };
        // Whatever the store said: what lies there now decides.
        let winner = match fetch(log.location(), &log.entry(version)).await {
            Ok(Some(found)) if found == body => return Ok((Commit::Published { version }, on)),
            Ok(Some(found)) => found,
            Ok(None) => return Err(failed(log, version, &refusal, "nothing was published")),
            Err(_) => return Err(failed(log, version, &refusal, "whether it was published is unknown; the next run finds out")),
        };
        let Some(now) = log.head().await? else {
            return Err(Error::bug(format!("version {version} of {} exists, but no table", log.location().display)));
        };
        if now.version < version {
            // a listing that was made while the version was
            continue;
        }
        if !change.data_change {
            // Where the rows stand does not matter to anybody: such a change goes on top of all that left its files alone.
            if !holds(&now, change) {
                return Ok((conflict_with(log, version, &winner, now.version).await?, on));
            }
            on = Some(now);
            continue;
        }
        if now.checkpoint.batches.contains(&change.batch) {
            return Ok((Commit::AlreadyPublished, on));
        }
        let same_rules = match base {
            Some(base) => log.same_rules(base, &now),
            // Both made the table: the same one, or not.
            None => now.schema == change.schema && now.partition_columns == change.partition_columns,
        };
        consumed::load_for_rebase(log.location(), base.as_ref().map(|b| &b.checkpoint.files), &ours.files, &now.checkpoint.files).await?;
        match rebase(base.as_ref(), &now, change, &ours, same_rules) {
            Ok(merged) => {
                if merged != change.checkpoint {
                    change.checkpoint = merged;
                    (id, kept) = (attempt(), false);
                }
                on = Some(now);
            }
            Err(clash) => {
                tracing::info!(table = log.location().display, batch = %change.batch, "version {version} was published first: {clash}");
                return Ok((conflict_with(log, version, &winner, now.version).await?, on));
            }
        }
    }
    Err(Error::retry(
        format!("{} is busy: other writers were first {ATTEMPTS} times; nothing was published", log.location().display),
        "run again, with fewer writers at once",
    ))
}

/// The conflict with whoever published `version`, whose entry is `entry`, or else the first one up to `newest` who says a batch.
async fn conflict_with(log: &dyn Log, version: u64, entry: &[u8], newest: u64) -> Result<Commit> {
    let mut batch = log.author(entry);
    let mut with = version;
    while batch.is_none() && with < newest {
        let Some(entry) = fetch(log.location(), &log.entry(with + 1)).await? else { break };
        with += 1;
        batch = log.author(&entry);
    }
    Ok(Commit::Conflict { with: if batch.is_some() { with } else { version }, batch })
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
