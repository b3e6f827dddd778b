//! `smelt restore`: a new version that is an old one. Nothing is lost by it: the version before stays in the history, and can be restored
//! in turn.
//!
//! What the table has taken in goes back as well, so that the input of the versions since is taken in again by the next run; with
//! `--keep-consumed` it stays as it is.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use smelt_connectors::formats::{self, consumed};
use smelt_connectors::stores::Location;
use smelt_engine::evolve::{self, SchemaChange};
use smelt_engine::session::Resources;
use smelt_engine::table::{At, BatchId, Change, Checkpoint, Commit, DataFile, Reads, Remove, Snapshot};
use smelt_engine::{Error, Result};

use super::args::RestoreArgs;
use super::{as_of, batch, one, open};
use crate::bound::{Bound, BoundTable, Input};
use crate::cli::LogFormat;
use crate::console::Console;
use crate::run::context::RunContext;
use crate::run::load::settle_quarantine;
use crate::units;

/// How often the restore is tried anew because another writer was faster.
const ATTEMPTS: usize = 5;

/// What a restore did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The version whose rows the table has again.
    pub to: u64,
    /// The version that was the newest.
    pub from: u64,
    /// The version made; `None` where the table was at that version already, and in a dry run.
    pub version: Option<u64>,
    pub files_added: u64,
    pub files_removed: u64,
    pub rows_before: u64,
    pub rows_after: u64,
    /// Input files that count as new again.
    pub again: u64,
}

/// The command.
pub fn main(args: &RestoreArgs, log: LogFormat) -> u8 {
    let console = Console::new(log);
    let done = console.block_on(2, async {
        let bound = open(&args.pipeline, &console).await?;
        let work = async {
            let (table, at) = (one(&bound, &args.table)?, as_of::parse(&args.to)?);
            let done = restore(&bound, table, at, args.keep_consumed, args.dry_run, Utc::now()).await?;
            Ok(text(table, &done, args))
        };
        work.await.map_err(|e| console.error(&e))
    });
    match done {
        Ok(text) => {
            print!("{text}");
            0
        }
        Err(code) => code,
    }
}

fn text(table: &BoundTable, done: &Restored, args: &RestoreArgs) -> String {
    if done.from == done.to {
        return format!("{} is at version {} already; nothing done.\n", table.name, done.to);
    }
    let files = format!("+{} -{}", units::count(done.files_added), units::plural(done.files_removed, "file"));
    let rows = format!("{} -> {} rows", units::count(done.rows_before), units::count(done.rows_after));
    let made = match done.version {
        Some(version) => format!("{}: version {version} has what version {} had ({files}, {rows}).", table.name, done.to),
        None => format!("{} would get what version {} had ({files}, {rows}).", table.name, done.to),
    };
    let next = match &table.input {
        _ if args.keep_consumed => "What was taken in since counts as taken in: the next run does not read it again.".to_owned(),
        Input::Sql(_) => {
            "The next run rebuilds it if the tables that it reads have changed since; --keep-consumed keeps it as it is.".to_owned()
        }
        Input::Source(_) if done.again == 0 => "No input was taken in since.".to_owned(),
        Input::Source(_) => format!(
            "The next run takes in again what came since: {}. --keep-consumed leaves it out.",
            units::plural(done.again, "input file")
        ),
    };
    format!("{made}\n{next}\n")
}

/// Makes the newest version of `table` what it was at `at`.
///
/// # Errors
/// `Error::Pipeline` where there is no such version; `Error::Data` where files that it needs were vacuumed; `Error::Retry` where other
/// writers were faster each time.
pub async fn restore(
    bound: &Arc<Bound>,
    table: &BoundTable,
    at: At,
    keep_consumed: bool,
    dry_run: bool,
    now: DateTime<Utc>,
) -> Result<Restored> {
    for _ in 0..ATTEMPTS {
        let Some(base) = table.format.snapshot().await? else {
            return Err(Error::data(format!("{} does not exist yet", table.name), "run the pipeline first"));
        };
        let old = table.format.snapshot_at(at).await?;
        let mut done = Restored {
            to: old.version,
            from: base.version,
            version: None,
            files_added: newcomers(&old, &base),
            files_removed: newcomers(&base, &old),
            rows_before: base.files.iter().map(|f| f.rows).sum(),
            rows_after: old.files.iter().map(|f| f.rows).sum(),
            again: if keep_consumed { 0 } else { again(&table.location, &base.checkpoint, &old.checkpoint).await? },
        };
        if old.version == base.version {
            return Ok(done);
        }
        complete(&table.location, &table.name.to_string(), &old).await?;
        if dry_run {
            return Ok(done);
        }
        let id = batch("restore", now);
        // Rejected rows of the newest batch may not have reached their table yet, and the checkpoint that names them goes.
        let resources = Resources::new(64 << 20, 1, None)?;
        settle_quarantine(table, &base.checkpoint.quarantine, &RunContext::new(Arc::clone(bound), resources, id.clone(), now)).await?;
        let change = Change {
            add: old.files.to_vec(),
            remove: Remove::Everything,
            reads: Reads::Everything,
            checkpoint: checkpoint(&base, &old, keep_consumed, &id, now.timestamp_millis()),
            batch: id,
            schema: Arc::clone(&old.schema),
            partition_columns: old.partition_columns.clone(),
            descriptions: table.descriptions.clone(),
            operation: "restore".into(),
            data_change: true,
            now: now.timestamp_millis(),
        };
        match table.format.commit(&Some(base), change).await? {
            Commit::Published { version } => {
                done.version = Some(version);
                return Ok(done);
            }
            Commit::AlreadyPublished => return Err(Error::bug("a new batch id was published before")),
            Commit::Conflict { .. } => {}
        }
    }
    Err(Error::retry(format!("other writers published versions of {} each time first", table.name), "run again when they are done"))
}

/// Files that `a` has and `b` has not.
fn newcomers(a: &Snapshot, b: &Snapshot) -> u64 {
    let known: std::collections::HashSet<&str> = b.files.iter().map(|f| f.path.as_str()).collect();
    a.files.iter().filter(|f| !known.contains(f.path.as_str())).count() as u64
}

/// Input files that were consumed by `now` and not by `then`.
async fn again(table: &Location, now: &Checkpoint, then: &Checkpoint) -> Result<u64> {
    for files in [&now.files, &then.files] {
        consumed::load(table, files, &[String::new()]).await?;
    }
    let known: std::collections::HashSet<String> = then.files.paths()?.collect();
    Ok(now.files.paths()?.filter(|path| !known.contains(path)).count() as u64)
}

/// Refuses a version of which something was vacuumed.
pub async fn complete(location: &Location, table: &str, old: &Snapshot) -> Result<()> {
    let needed: Vec<&DataFile> = old.files.iter().chain(old.checkpoint.state.iter().flat_map(|state| &state.files)).collect();
    let missing = formats::missing(location, needed.iter().map(|f| f.path.as_str())).await?;
    let Some(first) = missing.first() else { return Ok(()) };
    Err(Error::data(
        format!(
            "version {} of {table} is not whole any more: {} of its {} are gone, {first} for one",
            old.version,
            units::count(missing.len() as u64),
            units::plural(needed.len() as u64, "file"),
        ),
        "they were vacuumed; choose a newer version, and vacuum with a longer --retain to keep versions for longer",
    ))
}

/// The old checkpoint under a number of its own. What the table holds is the old version's in any case; with `keep_consumed`, what it
/// has taken in is the newest one's. The history of the columns goes on.
fn checkpoint(base: &Snapshot, old: &Snapshot, keep_consumed: bool, id: &BatchId, at: i64) -> Checkpoint {
    let (now, then) = (&base.checkpoint, &old.checkpoint);
    let mut out = then.clone();
    if keep_consumed {
        out = now.clone();
        out.state = then.state.clone();
    }
    out.sequence = now.sequence + 1;
    out.batches.push(id.clone());
    out.schemas.clone_from(&now.schemas);
    let changes = evolve::diff(&base.schema, &old.schema, &[]);
    if !changes.is_empty() {
        out.schemas.push(SchemaChange { sequence: out.sequence, batch: id.clone(), at, changes });
    }
    // They are published, whichever version they belong to.
    out.quarantine.clear();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};
    use smelt_engine::table::FileMark;

    #[test]
    fn what_was_taken_in_goes_back_or_stays() {
        let mark = |size| FileMark { size, modified: 1, etag: None };
        let mut then = Checkpoint { sequence: 2, ..Default::default() };
        then.batches.push(BatchId("a".into()));
        then.files.insert("1.csv", &mark(1));
        let mut now = Checkpoint { sequence: 5, ..then.clone() };
        now.batches.push(BatchId("b".into()));
        now.files.insert("3.csv", &mark(3));
        let id = BatchId("restore".into());
        let at = |checkpoint: &Checkpoint, columns: &[&str]| Snapshot {
            version: 0,
            rewrites: 0,
            schema: Arc::new(Schema::new(columns.iter().map(|c| Field::new(*c, DataType::Int64, true)).collect::<Vec<_>>())),
            partition_columns: vec![],
            files: Arc::new(vec![]),
            checkpoint: checkpoint.clone(),
            state: Arc::new(()),
        };
        let (base, old) = (at(&now, &["a", "b"]), at(&then, &["a"]));
        let back = checkpoint(&base, &old, false, &id, 77);
        assert_eq!((back.schemas.len(), back.schemas[0].sequence, back.schemas[0].changes[0].column.as_str()), (1, 6, "b"));
        assert_eq!((back.sequence, &back.files), (6, &then.files));
        assert!(back.batches.contains(&id) && !back.batches.contains(&BatchId("b".into())), "a batch that is undone may come again");
        let kept = checkpoint(&base, &base, true, &id, 77);
        assert!(kept.batches.contains(&BatchId("b".into())) && kept.batches.contains(&id));
        assert_eq!((kept.sequence, &kept.files), (6, &now.files));
    }
}
