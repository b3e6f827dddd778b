//! Takes the rows of persons out of one table: finds the files that hold them, writes these anew without them, and commits the exchange.
//! The sort order within a file stays. Knows a condition on rows; knows no subject.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use datafusion::physical_plan::collect;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::metadata::ParquetMetaDataReader;
use smelt_connectors::stores::Location;
use smelt_engine::contract::hidden;
use smelt_engine::ledger::Ledger;
use smelt_engine::session::Resources;
use smelt_engine::steps::expression::{column, unqualified};
use smelt_engine::table::{Change, Checkpoint, Commit, DataFile, Reads, Remove, Snapshot, TableFormat};
use smelt_engine::write::{self, WriteSpec, stored_schema};
use smelt_engine::{Error, Result};

use crate::bound::BoundTable;
use crate::run::context::{RunContext, provider};
use crate::run::load::{scan, settle_quarantine};

/// How often the work starts anew because another writer published first.
const ATTEMPTS: u32 = 10;
/// State files of the change modes, below the table's root.
const STATE: &str = "_smelt/state";

/// One table to go through.
#[allow(missing_debug_implementations)] // holds a function
pub struct Job<'a> {
    pub name: String,
    pub format: &'a dyn TableFormat,
    pub location: &'a Location,
    /// The table of the pipeline; `None` for a quarantine table.
    pub owner: Option<&'a BoundTable>,
    /// The condition on rows with this schema.
    pub predicate: &'a (dyn Fn(&Schema) -> Result<Option<Expr>> + Send + Sync),
}

/// What was found, and done.
#[derive(Debug, Default)]
pub struct Outcome {
    pub version_before: Option<u64>,
    pub version_after: Option<u64>,
    /// In data and state files.
    pub rows: u64,
    pub files: u64,
    /// Of the files before.
    pub bytes: u64,
    /// Input files that the rows came from.
    pub inputs: BTreeSet<String>,
}

/// The files of one version that hold such rows.
struct Found {
    files: Vec<(DataFile, u64)>,
    inputs: BTreeSet<String>,
}

/// Looks without touching anything.
pub async fn look(cx: &RunContext, job: &Job<'_>) -> Result<Outcome> {
    let Some(base) = job.format.snapshot().await? else { return Ok(Outcome::default()) };
    let found = find(cx, job, &base, &base.schema, &base.files).await?;
    let mut out = Outcome { version_before: Some(base.version), version_after: Some(base.version), ..Outcome::default() };
    out.count(&found);
    for file in state_of(&base.checkpoint) {
        out.count(&find_state(cx, job, &base, &file).await?.0);
    }
    Ok(out)
}

/// Removes the rows. `fence`: commits even where there are none, so that the checkpoint forgets its quarantine files.
pub async fn rewrite(cx: &RunContext, job: &Job<'_>, fence: bool) -> Result<Outcome> {
    for attempt in 0..ATTEMPTS {
        let Some(base) = job.format.snapshot().await? else { return Ok(Outcome::default()) };
        if let Some(table) = job.owner {
            // the commit names no quarantine files, so those of the last batch must be in their table
            settle_quarantine(table, &base.checkpoint.quarantine, cx).await?;
        }
        let mut out = Outcome { version_before: Some(base.version), version_after: Some(base.version), ..Outcome::default() };
        let found = find(cx, job, &base, &base.schema, &base.files).await?;
        out.count(&found);
        let mut written = vec![];
        match prepare(cx, job, &base, &found, &mut out, &mut written, fence).await {
            Ok(None) => return Ok(out),
            Ok(Some(change)) => match job.format.commit(&Some(base), change).await? {
                Commit::Published { version } => {
                    out.version_after = Some(version);
                    return Ok(out);
                }
                Commit::AlreadyPublished => return Ok(out),
                Commit::Conflict { .. } => discard(job, &written).await,
            },
            Err(e) => {
                discard(job, &written).await;
                return Err(e);
            }
        }
        // apart from other writers by chance
        let jitter = uuid::Uuid::new_v4().as_u128() as u64 % 200;
        tokio::time::sleep(Duration::from_millis((50 << attempt.min(5)) + jitter)).await;
    }
    Err(Error::retry(
        format!("{} is busy: other writers published first {ATTEMPTS} times", job.name),
        "run the same command again when they are done; what was removed so far stays removed",
    ))
}

/// Writes the files without the rows, and gives the commit; `None` where there is nothing to commit.
async fn prepare(
    cx: &RunContext,
    job: &Job<'_>,
    base: &Snapshot,
    found: &Found,
    out: &mut Outcome,
    written: &mut Vec<DataFile>,
    fence: bool,
) -> Result<Option<Change>> {
    let prefix = job.format.data_prefix(&Some(base.clone()), &cx.batch);
    let mut add = vec![];
    let mut rewriting = stream::iter(found.files.iter().cloned())
        .map(|(file, rows)| without(cx, job, base, Arc::clone(&base.schema), file, rows, prefix.clone(), &base.partition_columns))
        .buffer_unordered(cx.resources.threads.max(1));
    while let Some(files) = rewriting.next().await {
        let files = files?;
        written.extend(files.iter().cloned());
        add.extend(files);
    }
    drop(rewriting);
    let (state, state_rows) = replace_state(cx, job, base, &state_of(&base.checkpoint), out, written).await?;
    let clears = fence && !base.checkpoint.quarantine.is_empty();
    if found.files.is_empty() && state_rows == 0 && !clears {
        return Ok(None);
    }
    let mut checkpoint = with_state(base.checkpoint.clone(), state)?;
    checkpoint.advance(&cx.batch, vec![]);
    Ok(Some(Change {
        add,
        remove: Remove::Files(found.files.iter().map(|(f, _)| f.clone()).collect()),
        // rows that came in between have not been looked at
        reads: Reads::Everything,
        batch: cx.batch.clone(),
        checkpoint,
        schema: Arc::clone(&base.schema),
        partition_columns: base.partition_columns.clone(),
        descriptions: job.owner.map(|t| t.descriptions.clone()).unwrap_or_default(),
        operation: "forget".into(),
        data_change: true,
        now: cx.now.timestamp_millis(),
    }))
}

impl Outcome {
    fn count(&mut self, found: &Found) {
        self.rows += found.files.iter().map(|(_, rows)| rows).sum::<u64>();
        self.files += found.files.len() as u64;
        self.bytes += found.files.iter().map(|(f, _)| f.bytes).sum::<u64>();
        self.inputs.extend(found.inputs.iter().cloned());
    }
}

/// A version that has only this file.
fn only(base: &Snapshot, schema: SchemaRef, file: DataFile, partition_columns: &[String]) -> Snapshot {
    Snapshot { schema, files: Arc::new(vec![file]), partition_columns: partition_columns.to_vec(), ..base.clone() }
}

/// The files that hold such rows, with their number. A file whose statistics rule them out is not opened.
async fn find(cx: &RunContext, job: &Job<'_>, base: &Snapshot, schema: &SchemaRef, files: &[DataFile]) -> Result<Found> {
    let mut found = Found { files: vec![], inputs: BTreeSet::new() };
    let Some(predicate) = (job.predicate)(schema)? else { return Ok(found) };
    let mut counts = stream::iter(files.to_vec())
        .map(|file| {
            let (predicate, base) = (predicate.clone(), only(base, Arc::clone(schema), file.clone(), &base.partition_columns));
            async move { count_in(cx, job, &base, predicate).await.map(|(rows, inputs)| (file, rows, inputs)) }
        })
        .buffered((cx.resources.threads * 2).max(2));
    while let Some((file, rows, inputs)) = counts.try_next().await? {
        if rows > 0 {
            found.files.push((file, rows));
            found.inputs.extend(inputs);
        }
    }
    Ok(found)
}

async fn count_in(cx: &RunContext, job: &Job<'_>, one: &Snapshot, predicate: Expr) -> Result<(u64, Vec<String>)> {
    let session = cx.session(Arc::new(Ledger::default()));
    let table = provider(job.format, one, &cx.resources, &cx.bound, job.location).await?;
    let from = one.schema.field_with_name(hidden::FILE).is_ok();
    let group = if from { column(hidden::FILE) } else { lit("") };
    let rows = session
        .read_table(table)?
        .filter(predicate)?
        .aggregate(vec![group.alias("input")], vec![count(lit(1_i64)).alias("rows")])?
        .collect()
        .await?;
    let (mut sum, mut inputs) = (0, vec![]);
    for batch in &rows {
        let names = cast(batch.column(0), &DataType::Utf8View)?;
        let names = names.as_string_view();
        inputs.extend(names.iter().flatten().filter(|n| !n.is_empty()).map(str::to_owned));
        sum += batch.column(1).as_primitive::<Int64Type>().iter().flatten().map(|n| n as u64).sum::<u64>();
    }
    Ok((sum, inputs))
}

/// Writes `file` without the rows, of which it has `rows`. No file where no row is left.
#[allow(clippy::too_many_arguments)]
async fn without(
    cx: &RunContext,
    job: &Job<'_>,
    base: &Snapshot,
    schema: SchemaRef,
    file: DataFile,
    rows: u64,
    prefix: String,
    partition_columns: &[String],
) -> Result<Vec<DataFile>> {
    let Some(predicate) = (job.predicate)(&schema)? else { return Err(Error::bug("rows were found without a condition")) };
    let (before, bytes, path) = (file.rows, file.bytes, file.path.clone());
    // one partition, so that the rows stay in their order; files go side by side
    let session = Resources { threads: 1, ..cx.resources.clone() }.session(Arc::new(Ledger::default()));
    let table = provider(job.format, &only(base, schema, file, partition_columns), &cx.resources, &cx.bound, job.location).await?;
    let kept = LogicalPlanBuilder::from(unqualified(scan(table)?)?).filter(Expr::IsNotTrue(Box::new(predicate)))?.build()?;
    let spec = WriteSpec {
        prefix,
        partition_columns: partition_columns.to_vec(),
        // one file for one
        target_file_size: bytes.saturating_mul(4).max(write::TARGET_FILE_SIZE),
        ..WriteSpec::new(Arc::clone(&job.location.store), job.location.prefix.clone(), cx.now.timestamp_millis())
    };
    let exec = session.state().create_physical_plan(&write::write(kept, spec)?).await?;
    let files = write::files(&collect(exec, session.task_ctx()).await?)?;
    let after: u64 = files.iter().map(|f| f.rows).sum();
    // other writers' files may not say how many rows they have
    if before > 0 && after + rows != before {
        discard(job, &files).await;
        return Err(Error::bug(format!("{}: {path} has {before} rows, but {after} stay and {rows} go; nothing was published", job.name)));
    }
    Ok(files)
}

/// The state files that the table's checkpoint names, where its mode keeps such.
fn state_of(checkpoint: &Checkpoint) -> Vec<DataFile> {
    let value = serde_json::to_value(checkpoint).unwrap_or_default();
    value.pointer("/state/files").and_then(|files| serde_json::from_value(files.clone()).ok()).unwrap_or_default()
}

fn with_state(checkpoint: Checkpoint, files: Option<Vec<DataFile>>) -> Result<Checkpoint> {
    let Some(files) = files else { return Ok(checkpoint) };
    let bug = |e: serde_json::Error| Error::bug(format!("the checkpoint's state: {e}"));
    let mut value = serde_json::to_value(checkpoint).map_err(bug)?;
    if let Some(place) = value.pointer_mut("/state/files") {
        *place = serde_json::to_value(files).map_err(bug)?;
    }
    serde_json::from_value::<Checkpoint>(value).map_err(bug)
}

/// Takes the rows out of state files: the files that the checkpoint names from now on (`None`: as before), and the number of rows.
async fn replace_state(
    cx: &RunContext,
    job: &Job<'_>,
    base: &Snapshot,
    files: &[DataFile],
    out: &mut Outcome,
    written: &mut Vec<DataFile>,
) -> Result<(Option<Vec<DataFile>>, u64)> {
    let (mut kept, mut gone) = (vec![], 0);
    for file in files {
        let (found, schema) = find_state(cx, job, base, file).await?;
        let Some((_, rows)) = found.files.first() else {
            kept.push(file.clone());
            continue;
        };
        let new = without(cx, job, base, schema, file.clone(), *rows, STATE.to_owned(), &[]).await?;
        out.count(&found);
        gone += rows;
        written.extend(new.iter().cloned());
        kept.extend(new);
    }
    Ok(((gone > 0).then_some(kept), gone))
}

/// Looks into one state file, whose columns are its own.
async fn find_state(cx: &RunContext, job: &Job<'_>, base: &Snapshot, file: &DataFile) -> Result<(Found, SchemaRef)> {
    let schema = Arc::new(stored_schema(&schema_in(job, file).await?)?);
    let unpartitioned = Snapshot { partition_columns: vec![], ..base.clone() };
    let found = find(cx, job, &unpartitioned, &schema, std::slice::from_ref(file)).await?;
    Ok((found, schema))
}

/// The schema in a file's footer, which ends in the footer's length and four letters.
async fn schema_in(job: &Job<'_>, file: &DataFile) -> Result<Schema> {
    let path = job.location.path(&file.path)?;
    let damaged = || Error::data(format!("{} of {} is no Parquet file", file.path, job.name), "restore it from a backup or versioning");
    let end = file.bytes.checked_sub(8).ok_or_else(damaged)?;
    let tail = job.location.store.get_range(&path, end..file.bytes).await?;
    let length = tail.first_chunk::<4>().map(|bytes| u64::from(u32::from_le_bytes(*bytes))).ok_or_else(damaged)?;
    let start = end.checked_sub(length).ok_or_else(damaged)?;
    let footer = job.location.store.get_range(&path, start..end).await?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer).map_err(|_| damaged())?;
    let of = metadata.file_metadata();
    Ok(parquet_to_arrow_schema(of.schema_descr(), of.key_value_metadata())?)
}

/// Deletes files that no version will name. Failing at it leaves garbage that the next purge takes.
async fn discard(job: &Job<'_>, files: &[DataFile]) {
    for file in files {
        let Ok(path) = job.location.path(&file.path) else { continue };
        if let Err(e) = job.location.store.delete(&path).await {
            tracing::warn!(table = job.name, error = %e, "could not delete an unpublished file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checkpoints without state files stay as they are.
    #[test]
    fn checkpoints_without_state_are_left_alone() {
        let checkpoint = Checkpoint { sequence: 3, ..Checkpoint::default() };
        assert!(state_of(&checkpoint).is_empty());
        assert_eq!(with_state(checkpoint.clone(), None).unwrap(), checkpoint);
        assert_eq!(with_state(checkpoint.clone(), Some(vec![])).unwrap(), checkpoint);
    }
}
