//! The one Parquet file writer: encodes row groups anywhere, and appends them to a file that streams to its store.
//!
//! Knows nothing of tables or partitions.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{SchemaDescriptor, TypePtr};
use tokio::io::AsyncWrite;

use crate::error::{Error, Result, chain};

/// Bytes of one uploaded part; smaller files go up in one request.
pub(crate) const PART: usize = 8 * 1024 * 1024;
/// Parts of one file on their way at the same time.
const PARTS_AT_ONCE: usize = 2;
/// Rows looked at to decide whether a dictionary pays.
const SAMPLE: usize = 8192;

/// How files of one schema are encoded. Cheap to share.
pub(crate) struct Encoder {
    schema: SchemaRef,
    root: TypePtr,
    columns: SchemaDescriptor,
    props: WriterPropertiesPtr,
    with_dictionary: ArrowRowGroupWriterFactory,
    without_dictionary: ArrowRowGroupWriterFactory,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// An encoded row group that belongs to no file yet.
pub(crate) struct RowGroup {
    chunks: Chunks,
    pub rows: usize,
}

impl std::fmt::Debug for RowGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowGroup").field("rows", &self.rows).finish_non_exhaustive()
    }
}

enum Chunks {
    Encoded(Vec<ArrowColumnChunk>),
    /// Of another file, and that file.
    Copied(Bytes, Vec<ColumnCloseResult>),
}

impl RowGroup {
    /// Row group `i` of a whole file of the encoder's schema, as it is. `meta` has the page index, where there is one.
    pub fn copied(file: &Bytes, meta: &ParquetMetaData, i: usize) -> Self {
        let group = meta.row_group(i);
        let (columns, offsets) = (meta.column_index().and_then(|c| c.get(i)), meta.offset_index().and_then(|o| o.get(i)));
        let chunk = |(c, column): (usize, &ColumnChunkMetaData)| ColumnCloseResult {
            bytes_written: column.compressed_size().unsigned_abs(),
            rows_written: group.num_rows().unsigned_abs(),
            metadata: column.clone(),
            // What the offsets of a filter would be in the new file is not known; ours have none.
            bloom_filter: None,
            column_index: columns.and_then(|all| all.get(c)).cloned(),
            offset_index: offsets.and_then(|all| all.get(c)).cloned(),
        };
        let chunks = group.columns().iter().enumerate().map(chunk).collect();
        RowGroup { chunks: Chunks::Copied(file.clone(), chunks), rows: usize::try_from(group.num_rows()).unwrap_or_default() }
    }
}

impl Encoder {
    pub fn new(schema: SchemaRef, zstd_level: i32) -> Result<Self> {
        let level = ZstdLevel::try_new(zstd_level)?;
        let props = |dictionary| {
            let props = WriterProperties::builder()
                .set_compression(Compression::ZSTD(level))
                .set_statistics_enabled(EnabledStatistics::Page)
                .set_dictionary_enabled(dictionary)
                .set_created_by(concat!("smelt ", env!("CARGO_PKG_VERSION")).to_owned())
                .build();
            Arc::new(props)
        };
        let descriptor = ArrowSchemaConverter::new().convert(&schema)?;
        let root = descriptor.root_schema_ptr();
        let factory = |props| {
            let file = SerializedFileWriter::new(Vec::new(), Arc::clone(&root), props)?;
            Ok::<_, Error>(ArrowRowGroupWriterFactory::new(&file, Arc::clone(&schema)))
        };
        Ok(Encoder {
            with_dictionary: factory(props(true))?,
            without_dictionary: factory(props(false))?,
            root: Arc::clone(&root),
            columns: descriptor,
            props: props(true),
            schema,
        })
    }

    /// Encodes batches of the encoder's schema as one row group, a column at a time, and lets go of each column on the way.
    pub fn encode(&self, batches: Vec<RecordBatch>) -> Result<RowGroup> {
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let mut columns: Vec<Vec<ArrayRef>> = vec![Vec::with_capacity(batches.len()); self.schema.fields().len()];
        for batch in batches {
            for (column, array) in columns.iter_mut().zip(batch.columns()) {
                column.push(Arc::clone(array));
            }
        }
        let mut with = self.with_dictionary.create_column_writers(0)?.into_iter();
        let mut without = self.without_dictionary.create_column_writers(0)?.into_iter();
        let mut chunks = vec![];
        for (field, arrays) in self.schema.fields().iter().zip(columns) {
            let leaves = leaf_count(field.data_type());
            let mut yes: Vec<_> = with.by_ref().take(leaves).collect();
            let mut no: Vec<_> = without.by_ref().take(leaves).collect();
            let writers = if dictionary_pays(&arrays, rows) { &mut yes } else { &mut no };
            for array in arrays {
                for (writer, leaf) in writers.iter_mut().zip(compute_leaves(field, &array)?) {
                    writer.write(&leaf)?;
                }
            }
            for writer in std::mem::take(writers) {
                chunks.push(writer.close()?);
            }
        }
        Ok(RowGroup { chunks: Chunks::Encoded(chunks), rows })
    }

    /// Whether row groups of a file of this schema can be copied as they are.
    pub fn same_schema(&self, meta: &ParquetMetaData) -> bool {
        meta.file_metadata().schema_descr().columns() == self.columns.columns()
    }
}

/// Columns of a Parquet file that a type takes.
fn leaf_count(t: &DataType) -> usize {
    match t {
        DataType::Struct(fields) => fields.iter().map(|f| leaf_count(f.data_type())).sum(),
        DataType::List(f) | DataType::LargeList(f) | DataType::ListView(f) | DataType::LargeListView(f) => leaf_count(f.data_type()),
        DataType::FixedSizeList(f, _) | DataType::Map(f, _) => leaf_count(f.data_type()),
        _ => 1,
    }
}

/// A dictionary costs a hash per value and is given up when it passes a megabyte. Where nine of ten values in an even
/// sample are different, it would be; then the plain values are smaller and much faster.
fn dictionary_pays(arrays: &[ArrayRef], rows: usize) -> bool {
    let Some(first) = arrays.first() else { return true };
    let t = first.data_type();
    if t.is_nested() || t == &DataType::Boolean || rows < 1024 {
        return true;
    }
    let step = (rows / SAMPLE).max(1);
    let mut seen = hashbrown::HashSet::with_capacity(SAMPLE);
    let mut looked = 0;
    let mut hashes = vec![];
    let mut offset = 0;
    for array in arrays {
        // Hashing is by whole arrays, so the sample is made of short runs when rows are skipped.
        let take = (array.len() / step).max(1).min(array.len());
        let at = offset % (array.len() - take + 1);
        offset += 97;
        let piece = array.slice(at, take);
        hashes.clear();
        hashes.resize(take, 0);
        if create_hashes([&piece], &RandomState::with_seed(1), &mut hashes).is_err() {
            return true;
        }
        for (row, hash) in hashes.iter().enumerate() {
            if piece.is_valid(row) {
                seen.insert(*hash);
                looked += 1;
            }
        }
    }
    seen.len() * 10 <= looked * 9
}

/// A finished file.
#[derive(Debug)]
pub(crate) struct Finished {
    pub rows: u64,
    pub bytes: u64,
    pub meta: ParquetMetaData,
}

/// A file being written. Dropped unfinished, it leaves nothing behind.
pub(crate) struct OpenFile {
    pub path: Path,
    store: Arc<dyn ObjectStore>,
    writer: SerializedFileWriter<Vec<u8>>,
    upload: Option<BufWriter>,
    rows: u64,
    bytes: u64,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFile").field("path", &self.path).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl OpenFile {
    pub fn new(encoder: &Encoder, store: Arc<dyn ObjectStore>, path: Path) -> Result<Self> {
        let writer = SerializedFileWriter::new(Vec::new(), Arc::clone(&encoder.root), Arc::clone(&encoder.props))?;
        let upload = BufWriter::with_capacity(Arc::clone(&store), path.clone(), PART).with_max_concurrency(PARTS_AT_ONCE);
        Ok(OpenFile { path, store, writer, upload: Some(upload), rows: 0, bytes: 0 })
    }

    /// Bytes so far, on their way or gone.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that may still be in memory.
    pub fn held(&self) -> usize {
        (self.bytes as usize).min(PART * (1 + PARTS_AT_ONCE))
    }

    pub async fn append(&mut self, group: RowGroup) -> Result<()> {
        let mut out = self.writer.next_row_group()?;
        match group.chunks {
            Chunks::Encoded(chunks) => chunks.into_iter().try_for_each(|chunk| chunk.append_to_row_group(&mut out))?,
            Chunks::Copied(file, chunks) => chunks.into_iter().try_for_each(|chunk| out.append_column(&file, chunk))?,
        }
        out.close()?;
        self.rows += group.rows as u64;
        self.send().await
    }

    pub async fn finish(mut self) -> Result<Finished> {
        let meta = self.writer.finish()?;
        self.send().await?;
        let Some(mut upload) = self.upload.take() else { return Err(Error::bug("a file was finished twice")) };
        // In a task of its own: what the store has begun to make whole cannot be stopped, only undone afterwards.
        let done = async move { std::future::poll_fn(|cx| Pin::new(&mut upload).poll_shutdown(cx)).await };
        let mut finishing = Finishing { task: Some(tokio::spawn(done)), store: Arc::clone(&self.store), path: self.path.clone() };
        let done = match &mut finishing.task {
            Some(task) => task.await,
            None => return Err(Error::bug("a file was finished twice")),
        };
        finishing.task = None;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(unwritable(&self.path, &e)),
            Err(e) => return Err(Error::bug(format!("finishing {}: {e}", self.path))),
        }
        Ok(Finished { rows: self.rows, bytes: self.bytes, meta })
    }

    pub async fn abort(mut self) {
        if let Some(mut upload) = self.upload.take() {
            let _ = upload.abort().await;
        }
    }

    async fn send(&mut self) -> Result<()> {
        let bytes = std::mem::take(self.writer.inner_mut());
        self.bytes += bytes.len() as u64;
        let Some(upload) = &mut self.upload else { return Err(Error::bug("a file was written after its end")) };
        upload.put(Bytes::from(bytes)).await.map_err(|e| unwritable(&self.path, &e))
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.upload.take(), tokio::runtime::Handle::try_current()) {
            drop(runtime.spawn(async move {
                let _ = upload.abort().await;
            }));
        }
    }
}

/// The last step of a file. Dropped in the middle, it waits for the end and then deletes the file.
struct Finishing {
    task: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    store: Arc<dyn ObjectStore>,
    path: Path,
}

impl Drop for Finishing {
    fn drop(&mut self) {
        if let (Some(task), Ok(runtime)) = (self.task.take(), tokio::runtime::Handle::try_current()) {
            let (store, path) = (Arc::clone(&self.store), self.path.clone());
            drop(runtime.spawn(async move {
                let _ = task.await;
                let _ = store.delete(&path).await;
            }));
        }
    }
}

/// What to say when a store does not take a file.
pub(crate) fn unwritable(path: &Path, e: &(dyn std::error::Error + 'static)) -> Error {
    Error::retry(
        format!("cannot write {path}: {}", chain(e)),
        "check that the place exists and may be written to, and that it has space left, then run again; nothing was published",
    )
}
