//! Lays rows of a table out anew: many small files become few large ones, or a partition's rows are put in order.
//!
//! Small files are read whole, a few ahead, decoded and encoded into large row groups, on all cores; row groups that are large already
//! are copied as they are. No plan is made: for files of some kilobytes, opening them through one takes longer than their rows do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::Bytes;
use datafusion::common::runtime::{JoinSet, SpawnedTask};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::StreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parking_lot::Mutex;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::WriteSpec;
use super::exec::settle;
use super::file::{Encoder, RowGroup};
use super::files::Files;
use super::stream::{Layout, StreamWriter};
use crate::error::{Error, Result};
use crate::evolve::adapt;
use crate::ledger::Ledger;
use crate::table::DataFile;

/// Bytes of a row group before encoding: enough to compress well, and few enough for every core to hold one.
const GROUP_BYTES: usize = 32 << 20;
/// Bytes of input that one task fetches ahead, and files.
const AHEAD: u64 = 8 << 20;
const FILES_AHEAD: u64 = 8;
/// Bytes of input beyond which several tasks share a partition.
const SHARED: u64 = 8 << 20;
/// A row group that has as many rows or bytes is copied, not encoded anew.
const LARGE_ROWS: i64 = 128 << 10;
const LARGE_BYTES: i64 = 4 << 20;
const BATCH: usize = 8192;

/// Files of one partition whose rows are to be together.
#[derive(Debug, Clone)]
pub struct Group {
    /// Values of the partition columns, in their order.
    pub partition: Vec<Option<String>>,
    pub files: Vec<DataFile>,
}

/// Writes the rows of each group to as few files as `spec.target_file_size` lets, in any order. `schema` is the table's, partition
/// columns included; columns that a file lacks become NULL, columns of a narrower type are widened.
///
/// When it fails or is dropped, what it wrote is removed, as far as the store lets us.
///
/// # Errors
/// `Error::Data` where a file went away or is damaged.
pub async fn rewrite(spec: WriteSpec, schema: &Schema, groups: Vec<Group>, task: Arc<TaskContext>) -> Result<Vec<DataFile>> {
    let spec = Arc::new(spec);
    let file_schema = file_schema(schema, &spec)?;
    let encoder = Arc::new(Encoder::new(Arc::clone(&file_schema), spec.zstd_level)?);
    let reserve = |name: String| MemoryConsumer::new(name).with_can_spill(true).register(task.memory_pool());
    let files =
        Arc::new(Files::new(Arc::clone(&spec), Arc::clone(&encoder), Some(Ledger::of(&task)?), Some(reserve("Rewrite files".into()))));
    let threads = task.session_config().target_partitions().max(1);
    let read = Arc::new(AtomicU64::new(0));
    let work = Arc::new(Work::new(groups, threads));
    let mut tasks = JoinSet::new();
    for i in 0..threads {
        let (work, files, encoder) = (Arc::clone(&work), Arc::clone(&files), Arc::clone(&encoder));
        let (spec, file_schema, read, task) = (Arc::clone(&spec), Arc::clone(&file_schema), Arc::clone(&read), Arc::clone(&task));
        tasks.spawn(async move {
            while let Some((group, inputs)) = work.next() {
                let memory = MemoryConsumer::new(format!("Rewrite[{i}]")).with_can_spill(true).register(task.memory_pool());
                let values = work.groups[group].clone();
                let mut writer = StreamWriter::of_partition(Arc::clone(&files), &file_schema, values.clone(), GROUP_BYTES, memory)?;
                let largest = inputs.iter().map(|f| f.bytes).max().unwrap_or_default().max(1);
                let ahead = usize::try_from((AHEAD / largest).clamp(1, FILES_AHEAD)).unwrap_or(1);
                // Tasks of their own: a request goes on while rows are decoded here.
                let mut fetched =
                    futures::stream::iter(inputs).map(|file| SpawnedTask::spawn(fetch(Arc::clone(&spec), file))).buffered(ahead);
                while let Some(done) = fetched.next().await {
                    let (path, bytes) = done.map_err(|e| Error::bug(format!("fetching a file: {e}")))??;
                    let rows = one(bytes, &file_schema, &encoder, &mut writer).await.map_err(|e| named(&path, e))?;
                    read.fetch_add(rows, Ordering::Relaxed);
                }
                drop(fetched);
                writer.finish().await?;
                if work.done(group) {
                    files.close_folder(&files.folder(values)).await?;
                }
            }
            Ok(())
        });
    }
    let finished = settle(tasks, &files).await?;
    let (read, written) = (read.load(Ordering::Relaxed), finished.iter().map(|f| f.rows).sum::<u64>());
    if read != written {
        return Err(Error::bug(format!("{read} rows were read to be laid out anew, and {written} written")));
    }
    Ok(finished)
}

/// Writes the rows of one partition in the order in which they come, so that the files, in the order of their names, follow each other.
/// `rows` has the columns of the files, without partition columns.
pub async fn write_ordered(
    spec: WriteSpec,
    partition: Vec<Option<String>>,
    mut rows: SendableRecordBatchStream,
    task: Arc<TaskContext>,
) -> Result<Vec<DataFile>> {
    let schema = Arc::new(Schema::new(rows.schema().fields().clone()));
    let encoder = Arc::new(Encoder::new(Arc::clone(&schema), spec.zstd_level)?);
    let reserve = |name: &str| MemoryConsumer::new(name).with_can_spill(true).register(task.memory_pool());
    let files = Arc::new(Files::new(Arc::new(spec), encoder, Some(Ledger::of(&task)?), Some(reserve("Rewrite files"))));
    let mut writer = StreamWriter::of_partition(Arc::clone(&files), &schema, partition, GROUP_BYTES, reserve("Rewrite"))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(batch) = rows.next().await {
            writer.push(&batch?).await?;
        }
        writer.finish().await
    });
    settle(tasks, &files).await
}

/// The schema of the files of a table.
fn file_schema(schema: &Schema, spec: &WriteSpec) -> Result<SchemaRef> {
    let layout = Layout::new(schema, &spec.partition_columns).ok_or_else(|| Error::bug("a partition column is not in the table"))?;
    layout.file_schema(schema)
}

/// What is to be read, in pieces that one task takes at a time.
struct Work {
    groups: Vec<Vec<Option<String>>>,
    /// Pieces of each group that are not done.
    left: Vec<AtomicUsize>,
    queue: Mutex<VecDeque<(usize, Vec<DataFile>)>>,
}

impl Work {
    fn new(groups: Vec<Group>, threads: usize) -> Self {
        let alone = groups.len() < threads;
        let (mut queue, mut left, mut partitions) = (VecDeque::new(), vec![], vec![]);
        for (i, group) in groups.into_iter().enumerate() {
            let bytes: u64 = group.files.iter().map(|f| f.bytes).sum();
            let pieces = if alone { threads } else { usize::try_from(bytes / SHARED).unwrap_or(threads).clamp(1, threads) };
            let pieces = split(group.files, pieces);
            left.push(AtomicUsize::new(pieces.len()));
            queue.extend(pieces.into_iter().map(|files| (i, files)));
            partitions.push(group.partition);
        }
        Work { groups: partitions, left, queue: Mutex::new(queue) }
    }

    fn next(&self) -> Option<(usize, Vec<DataFile>)> {
        self.queue.lock().pop_front()
    }

    /// One piece of a group is done; whether it was the last.
    fn done(&self, group: usize) -> bool {
        self.left[group].fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// At most `pieces` runs of files of about the same bytes.
fn split(files: Vec<DataFile>, pieces: usize) -> Vec<Vec<DataFile>> {
    let total: u64 = files.iter().map(|f| f.bytes.max(1)).sum();
    let each = total.div_ceil(pieces.max(1) as u64).max(1);
    let mut out: Vec<Vec<DataFile>> = vec![];
    let mut before = 0;
    for file in files {
        let piece = usize::try_from(before / each).unwrap_or_default();
        before += file.bytes.max(1);
        if piece >= out.len() {
            out.push(vec![]);
        }
        if let Some(last) = out.last_mut() {
            last.push(file);
        }
    }
    out
}

async fn fetch(spec: Arc<WriteSpec>, file: DataFile) -> Result<(String, Bytes)> {
    let root = spec.root.as_ref();
    let path = if root.is_empty() { file.path } else { format!("{root}/{}", file.path) };
    let parsed = Path::parse(&path).map_err(|e| Error::bug(format!("{path} is not a path: {e}")))?;
    let bytes = spec.store.get(&parsed).await?.bytes().await?;
    Ok((path, bytes))
}

/// Says which file is damaged.
fn named(path: &str, e: Error) -> Error {
    match e {
        Error::Data { message, help } => Error::Data { message: format!("{path}: {message}"), help },
        other => other,
    }
}

/// Hands the rows of one file to `writer`; how many they are.
async fn one(file: Bytes, schema: &SchemaRef, encoder: &Encoder, writer: &mut StreamWriter) -> Result<u64> {
    let mut meta = ParquetMetaDataReader::new().parse_and_finish(&file)?;
    let large = |meta: &ParquetMetaData| meta.row_groups().iter().all(|g| g.num_rows() >= LARGE_ROWS || g.compressed_size() >= LARGE_BYTES);
    if encoder.same_schema(&meta) && meta.num_row_groups() > 0 && large(&meta) {
        meta = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional).parse_and_finish(&file)?;
        let mut rows = 0;
        for i in 0..meta.num_row_groups() {
            let group = RowGroup::copied(&file, &meta, i);
            rows += group.rows as u64;
            writer.append(group).await?;
        }
        return Ok(rows);
    }
    let (reader, columns) = open(file, Arc::new(meta), schema)?;
    let mut rows = 0;
    for batch in reader {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        writer.push(&conform(&batch, &columns, schema)?).await?;
    }
    Ok(rows)
}

/// A reader of the columns that the table has, of the table's types where the file's can be read so, and where each column of the
/// table is in its batches.
fn open(file: Bytes, meta: Arc<ParquetMetaData>, schema: &SchemaRef) -> Result<(ParquetRecordBatchReader, Vec<Option<usize>>)> {
    let plain = ArrowReaderMetadata::try_new(Arc::clone(&meta), ArrowReaderOptions::new().with_skip_arrow_metadata(true))?;
    let hint = |field: &Field| match schema.field_with_name(field.name()) {
        Ok(wanted) => field.clone().with_data_type(wanted.data_type().clone()),
        Err(_) => field.clone(),
    };
    let hints: Vec<Field> = plain.schema().fields().iter().map(|f| hint(f)).collect();
    let hinted = ArrowReaderMetadata::try_new(meta, ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(hints))));
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, hinted.unwrap_or(plain));
    let roots: Vec<usize> =
        builder.schema().fields().iter().enumerate().filter(|(_, f)| schema.index_of(f.name()).is_ok()).map(|(i, _)| i).collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let reader = builder.with_projection(mask).with_batch_size(BATCH).build()?;
    let found = arrow::array::RecordBatchReader::schema(&reader);
    let columns = schema.fields().iter().map(|f| found.index_of(f.name()).ok()).collect();
    Ok((reader, columns))
}

/// The batch in the schema of the new files.
fn conform(batch: &RecordBatch, columns: &[Option<usize>], schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let arrays = columns.iter().zip(schema.fields()).map(|(column, field)| {
        Ok(match column {
            None => new_null_array(field.data_type(), rows),
            Some(i) => adapt(batch.column(*i), field.data_type())?,
        })
    });
    let arrays: Vec<ArrayRef> = arrays.collect::<Result<_>>()?;
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &RecordBatchOptions::new().with_row_count(Some(rows)))?)
}
