//! Takes the rows of changed input files out of a table: the data files that hold such rows are written anew without them. The commit of
//! the load that reads the changed files again removes the old data files and adds the new ones, so that no reader sees a file twice or not
//! at all.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::logical_expr::{Expr, ident, lit};
use datafusion::physical_plan::collect;
use datafusion::prelude::{DataFrame, SessionContext};
use futures::{StreamExt, TryStreamExt};
use smelt_engine::contract::hidden;
use smelt_engine::ledger::Ledger;
use smelt_engine::table::{DataFile, Reads, Remove, Snapshot};
use smelt_engine::write::{self, WriteSpec};
use smelt_engine::{Error, Result};

use crate::bound::BoundTable;

use super::context::RunContext;
use super::load::{Written, discard, removal};

/// Whether rows of the table know their file at all.
///
/// # Errors
/// [`Error::Data`] where the table has no `_file`.
pub fn possible(base: &Snapshot) -> Result<()> {
    if base.schema.field_with_name(hidden::FILE).is_ok() { Ok(()) } else { Err(unattributed("it has no column `_file`")) }
}

fn unattributed(why: &str) -> Error {
    Error::data(
        format!("the rows of changed files cannot be taken out of the table: {why}"),
        "rebuild the table with --full-refresh (and `provenance: true`); from then on changed files are reloaded",
    )
}

/// Adds to what the load removes from `newest` the data files that hold rows of the input files `changed`, and to what it wrote the
/// files that take their places. The rows taken out are counted as a warning.
pub async fn retract(
    table: &BoundTable,
    cx: &RunContext,
    newest: &Option<Snapshot>,
    changed: &[String],
    rebuild: bool,
    written: &mut Written,
    ledger: &Ledger,
) -> Result<()> {
    let Some(base) = newest else { return Ok(()) };
    let (remove, reads) = written.removes.clone().unwrap_or_else(|| removal(table, newest, rebuild, &written.files));
    let mut removed = match remove {
        Remove::Everything => return Ok(()),
        Remove::Nothing => vec![],
        Remove::Files(files) => files,
    };
    possible(base)?;
    let gone: HashSet<&str> = removed.iter().map(|f| f.path.as_str()).collect();
    let left: Vec<&DataFile> = base.files.iter().filter(|f| !gone.contains(f.path.as_str())).collect();
    // of its own: what is read and written here is no part of the load's sum
    let session = cx.session(Arc::new(Ledger::default()));

    let unknown: Vec<DataFile> = left.iter().filter(|f| nulls(f) != Some(0)).map(|f| (*f).clone()).collect();
    if !unknown.is_empty() && count(table, cx, base, &session, unknown, ident(hidden::FILE).is_null()).await? > 0 {
        return Err(unattributed("some of its rows have no `_file`"));
    }
    let of_changed = ident(hidden::FILE).in_list(changed.iter().map(|path| lit(path.as_str())).collect(), false);
    let candidates: Vec<&DataFile> = left.into_iter().filter(|f| changed.iter().any(|path| may_hold(f, path))).collect();
    let counts: Vec<_> = candidates
        .iter()
        .map(|file| {
            let file: DataFile = (*file).clone();
            let counted = count(table, cx, base, &session, vec![file.clone()], of_changed.clone());
            async move { Ok::<_, Error>((file, counted.await?)) }
        })
        .collect();
    let counts: Vec<(DataFile, u64)> = futures::stream::iter(counts)
        .buffered(cx.resources.threads.max(1))
        .try_filter(|(_, rows)| futures::future::ready(*rows > 0))
        .try_collect()
        .await?;
    let retracted: u64 = counts.iter().map(|(_, rows)| rows).sum();
    ledger.warn("rows retracted, of files that changed and were loaded again", usize::try_from(retracted).unwrap_or(usize::MAX));
    if counts.is_empty() {
        return Ok(());
    }

    let holding: Vec<DataFile> = counts.into_iter().map(|(file, _)| file).collect();
    let before: u64 = holding.iter().map(|f| f.rows).sum();
    let kept = rows(table, cx, base, &session, holding.clone()).await?.filter(!of_changed)?;
    let spec = WriteSpec {
        prefix: table.format.data_prefix(&Some(base.clone()), &cx.batch),
        partition_columns: base.partition_columns.clone(),
        target_file_size: table.target_file_size,
        ..WriteSpec::new(Arc::clone(&table.location.store), table.location.prefix.clone(), cx.now.timestamp_millis())
    };
    let plan = write::write(kept.logical_plan().clone(), spec)?;
    let exec = session.state().create_physical_plan(&plan).await?;
    let rewritten = write::files(&collect(exec, session.task_ctx()).await?)?;
    let after: u64 = rewritten.iter().map(|f| f.rows).sum();
    if before != after + retracted {
        discard(&table.location, &rewritten).await;
        return Err(Error::bug(format!(
            "{}: {before} rows in the files to be written anew, but {after} written + {retracted} retracted; nothing was published",
            table.name
        )));
    }
    removed.extend(holding);
    // what it looked at beyond the mode's own are the files that it writes anew
    written.removes = Some((Remove::Files(removed), if reads == Reads::Nothing { Reads::Files } else { reads }));
    written.files.extend(rewritten);
    Ok(())
}

/// The rows of some of the table's files.
async fn rows(table: &BoundTable, cx: &RunContext, base: &Snapshot, session: &SessionContext, files: Vec<DataFile>) -> Result<DataFrame> {
    let some = Snapshot { files: Arc::new(files), ..base.clone() };
    let provider = super::context::provider(table.format.as_ref(), &some, &cx.resources, &cx.bound, &table.location).await?;
    Ok(session.read_table(provider)?)
}

async fn count(
    table: &BoundTable,
    cx: &RunContext,
    base: &Snapshot,
    session: &SessionContext,
    files: Vec<DataFile>,
    filter: Expr,
) -> Result<u64> {
    Ok(rows(table, cx, base, session, files).await?.filter(filter)?.count().await? as u64)
}

fn statistics(file: &DataFile) -> Option<serde_json::Value> {
    serde_json::from_str(file.stats.as_deref()?).ok()
}

/// Rows without `_file`, where the statistics know.
fn nulls(file: &DataFile) -> Option<u64> {
    statistics(file)?.get("nullCount")?.get(hidden::FILE)?.as_u64()
}

/// Whether the file's bounds of `_file` allow for `path`.
fn may_hold(file: &DataFile, path: &str) -> bool {
    let statistics = statistics(file);
    let bound = |kind: &str| statistics.as_ref()?.get(kind)?.get(hidden::FILE)?.as_str();
    bound("minValues").is_none_or(|min| min <= path) && bound("maxValues").is_none_or(|max| path <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(stats: Option<&str>) -> DataFile {
        DataFile { path: "x".into(), partition: vec![], rows: 1, bytes: 1, stats: stats.map(str::to_owned), modified: 0 }
    }

    #[test]
    fn bounds_leave_out_files_that_cannot_hold_a_path() {
        let bounded = file(Some(r#"{"minValues": {"_file": "data/b"}, "maxValues": {"_file": "data/d"}, "nullCount": {"_file": 0}}"#));
        let held: Vec<&str> =
            ["data/a", "data/b", "data/c.csv", "data/d", "data/e"].into_iter().filter(|p| may_hold(&bounded, p)).collect();
        assert_eq!(held, ["data/b", "data/c.csv", "data/d"]);
        assert!(may_hold(&file(None), "data/z") && may_hold(&file(Some("{}")), "data/z"), "nothing is known");
        assert_eq!((nulls(&bounded), nulls(&file(Some("{}")))), (Some(0), None));
    }
}
