//! `smelt vacuum`: removes what no version that is still to be read needs, the leavings of dead runs included.
//!
//! What is kept: the files of every version that was the newest one within the retention, what was removed within it, and whatever was
//! written within it, for that may be a run in flight.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use smelt_connectors::formats;
use smelt_connectors::stores::Location;
use smelt_engine::Result;
use smelt_engine::table::{Garbage, TableFormat};

use super::args::VacuumArgs;
use super::{chosen, columns, duration, open, usage};
use crate::bound::BoundTable;
use crate::cli::LogFormat;
use crate::console::Console;
use crate::units;

/// Below this, only by force.
const WEEK: i64 = 168 * 3_600_000;

/// What was removed of one table, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vacuumed {
    pub table: String,
    pub files: u64,
    pub bytes: u64,
}

/// The command.
pub fn main(args: &VacuumArgs, log: LogFormat) -> u8 {
    let console = Console::new(log);
    let done = console.block_on(crate::machine::cores(), async {
        let retain = retention(&args.retain, args.force).map_err(|e| console.error(&e))?;
        let bound = open(&args.pipeline, &console).await?;
        let work = async {
            let mut out = vec![];
            for table in chosen(&bound, &args.tables)? {
                out.extend(vacuum(table, retain, args.dry_run, Utc::now()).await?);
            }
            Ok(out)
        };
        work.await.map_err(|e| console.error(&e))
    });
    match done {
        Ok(done) if log == LogFormat::Json => {
            done.iter().filter_map(|o| serde_json::to_string(o).ok()).for_each(|line| println!("{line}"));
            0
        }
        Ok(done) => {
            print!("{}", text(&done, args.dry_run));
            0
        }
        Err(code) => code,
    }
}

fn text(done: &[Vacuumed], dry_run: bool) -> String {
    let rows: Vec<Vec<String>> =
        done.iter().filter(|v| v.files > 0).map(|v| vec![v.table.clone(), units::count(v.files), units::bytes(v.bytes)]).collect();
    if rows.is_empty() {
        return "Nothing to remove.\n".to_owned();
    }
    let mut out = columns(&["table", if dry_run { "would remove" } else { "removed" }, "bytes"], &rows, &[]);
    let (files, bytes) = (done.iter().map(|v| v.files).sum(), done.iter().map(|v| v.bytes).sum());
    let verb = if dry_run { "would be removed" } else { "removed" };
    out.push_str(&format!("{}, {} {verb}.\n", units::plural(files, "file"), units::bytes(bytes)));
    out
}

/// Reads `--retain`, in milliseconds.
///
/// # Errors
/// `Error::Pipeline` for what is no span of time, and for less than a week without `force`.
pub fn retention(text: &str, force: bool) -> Result<i64> {
    let retain = duration(text).map_err(|why| usage(format!("--retain: {why}"), "168h, a week, is the default"))?;
    if retain < WEEK && !force {
        return Err(usage(
            format!("--retain {text} is less than a week (168h)"),
            "queries, runs and restores that began before may still need the files of older versions; keep a week, or say --force when you \
             know that nothing reads or writes these tables",
        ));
    }
    Ok(retain)
}

/// Vacuums a table and its quarantine table. `retain` in milliseconds.
pub async fn vacuum(table: &BoundTable, retain: i64, dry_run: bool, now: DateTime<Utc>) -> Result<Vec<Vacuumed>> {
    let before = now.timestamp_millis().saturating_sub(retain);
    let mut out = vec![];
    let files = clean(table.format.as_ref(), &table.location, before, &BTreeSet::new(), dry_run).await?;
    out.push(counted(table.name.to_string(), &files));
    // Rejected rows of a run that died before they were published are known to the table alone.
    let pending = table.format.snapshot().await?.map(|s| s.checkpoint.quarantine).unwrap_or_default();
    let keep = pending.into_iter().flat_map(|unsettled| unsettled.files).map(|f| f.path).collect();
    let files = clean(table.quarantine.as_ref(), &table.quarantine_location, before, &keep, dry_run).await?;
    out.push(counted(format!("quarantine.{}_{}", table.name.layer, table.name.name), &files));
    Ok(out)
}

async fn clean(format: &dyn TableFormat, location: &Location, before: i64, keep: &BTreeSet<String>, dry_run: bool) -> Result<Vec<Garbage>> {
    let version = async || format.snapshot().await.map(|s| s.map(|s| s.version));
    let mut seen = version().await?;
    let mut garbage = format.garbage(before, keep).await?;
    // A restore that was published meanwhile has made old files new again.
    loop {
        let now = version().await?;
        if now == seen {
            break;
        }
        seen = now;
        garbage = format.garbage(before, keep).await?;
    }
    if !dry_run {
        formats::sweep(location, &garbage).await?;
    }
    Ok(garbage)
}

fn counted(table: String, garbage: &[Garbage]) -> Vacuumed {
    Vacuumed { table, files: garbage.len() as u64, bytes: garbage.iter().map(|g| g.bytes).sum() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_a_week_needs_force() {
        assert_eq!(retention("168h", false).unwrap(), WEEK);
        assert_eq!(retention("1h", true).unwrap(), 3_600_000);
        let e = retention("6 days", false).unwrap_err().to_string();
        assert!(e.contains("--force") && e.contains("queries"), "{e}");
    }

    #[test]
    fn what_was_removed_is_shown_by_table() {
        let one = |table: &str, files| Vacuumed { table: table.into(), files, bytes: files * 1024 };
        assert_eq!(text(&[one("a.b", 0)], false), "Nothing to remove.\n");
        let shown = text(&[one("a.b", 0), one("silver.orders", 3)], true);
        assert!(shown.contains("would remove") && shown.contains("silver.orders") && !shown.contains("a.b"), "{shown}");
        assert!(shown.ends_with("3 files, 3.0 KB would be removed.\n"), "{shown}");
    }
}
