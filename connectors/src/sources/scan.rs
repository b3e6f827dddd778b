//! The scan of raw files: reader tasks cut files into blocks, and all partitions decode whatever block is next, so that one
//! large file (even a compressed one) keeps every core busy, as do a thousand small ones.
//!
//! Readers are tasks of their own, which a partition that nobody polls cannot hold up; what they have read waits in a bounded queue.
//! This room knows no format: a [`Records`] brings splitter and decoder, Parquet brings its own `Scan`.

use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Int64Array, StringViewArray, new_null_array};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use smelt_engine::contract::hidden;
use smelt_engine::error::{Error, Result};
use smelt_engine::ledger::Ledger;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::block::{Decoder, Splitter};
use super::bytes::TextReader;
use super::chunk::{BLOCK, Broken, Chunker, Piece};
use super::{Compression, Encoding, SourceFile};

/// What a text format brings to a scan.
pub trait Records: Debug + Send + Sync {
    /// A splitter for the file with this number, from its start. It may warn in `ledger` of what it learns there.
    fn splitter(&self, file: usize, ledger: &Arc<Ledger>) -> Box<dyn Splitter>;
    /// A decoder that gives the columns of `projection` (indices into the raw schema), in that order.
    fn decoder(&self, projection: &[usize]) -> Arc<dyn Decoder>;
}

/// Opens text files as a table of raw rows in `schema` (see `sources::raw_schema`).
pub fn text_table(
    files: Arc<Vec<SourceFile>>,
    schema: SchemaRef,
    compression: Compression,
    encoding: Encoding,
    records: Arc<dyn Records>,
    threads: usize,
) -> Arc<dyn TableProvider> {
    RawTable::provider(Arc::new(TextScan { files, schema, compression, encoding, records, block: BLOCK }), threads)
}

/// Something that is read by several partitions at once.
pub(crate) trait Scan: Debug + Send + Sync {
    /// All columns that it can give.
    fn schema(&self) -> SchemaRef;
    fn describe(&self) -> String;
    /// Starts one execution; called within a tokio runtime.
    fn start(&self, ledger: &Arc<Ledger>, projection: &[usize], threads: usize) -> Result<Arc<dyn Run>>;
}

/// One execution of a scan. Dropping it ends its tasks.
pub(crate) trait Run: Send + Sync {
    /// The rows of whoever asks next, until nothing is left.
    fn rows(self: Arc<Self>) -> BoxStream<'static, Result<RecordBatch>>;
}

/// The provider of a [`Scan`].
#[derive(Debug)]
pub(crate) struct RawTable {
    scan: Arc<dyn Scan>,
    threads: usize,
}

impl RawTable {
    pub(crate) fn provider(scan: Arc<dyn Scan>, threads: usize) -> Arc<dyn TableProvider> {
        Arc::new(RawTable { scan, threads: threads.max(1) })
    }
}

#[async_trait]
impl TableProvider for RawTable {
    fn schema(&self) -> SchemaRef {
        self.scan.schema()
    }
    fn table_type(&self) -> TableType {
        TableType::Base
    }
    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.scan.schema().fields().len()).collect();
        let projection = projection.cloned().unwrap_or_else(all);
        Ok(Arc::new(RawScanExec::new(Arc::clone(&self.scan), projection, self.threads)?))
    }
}

/// Reads raw rows. Rows come in no order; each knows its file and line.
#[derive(Debug)]
pub struct RawScanExec {
    scan: Arc<dyn Scan>,
    projection: Vec<usize>,
    properties: Arc<PlanProperties>,
    current: Mutex<Execution>,
}

/// A run that the first partition to be polled starts.
type SharedRun = Arc<Mutex<Option<Arc<dyn Run>>>>;

/// The execution that partitions share, and which of them have joined it.
#[derive(Default)]
struct Execution {
    shared: Option<SharedRun>,
    joined: Vec<bool>,
}

impl Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution").field("joined", &self.joined).finish_non_exhaustive()
    }
}

impl RawScanExec {
    fn new(scan: Arc<dyn Scan>, projection: Vec<usize>, threads: usize) -> DfResult<Self> {
        let schema = Arc::new(scan.schema().project(&projection)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(threads),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(RawScanExec { scan, projection, properties: Arc::new(properties), current: Mutex::default() })
    }

    /// The execution to join. A partition that comes a second time begins a new one: the plan is run again.
    fn join(&self, partition: usize) -> SharedRun {
        let mut current = self.current.lock();
        if current.shared.is_none() || current.joined.get(partition).copied().unwrap_or(true) {
            current.shared = Some(Arc::default());
            current.joined = vec![false; self.properties.partitioning.partition_count()];
        }
        if let Some(joined) = current.joined.get_mut(partition) {
            *joined = true;
        }
        let shared = current.shared.clone().unwrap_or_default();
        if current.joined.iter().all(|j| *j) {
            // The streams hold it now; the plan must not keep the readers alive.
            *current = Execution::default();
        }
        shared
    }
}

impl DisplayAs for RawScanExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "RawScanExec: {}", self.scan.describe())
    }
}

impl ExecutionPlan for RawScanExec {
    fn name(&self) -> &str {
        "RawScanExec"
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }
    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }
    fn reset_state(self: Arc<Self>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let threads = self.properties.partitioning.partition_count();
        Ok(Arc::new(RawScanExec::new(Arc::clone(&self.scan), self.projection.clone(), threads)?))
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let ledger = Ledger::of(&context)?;
        let shared = self.join(partition);
        let (scan, projection) = (Arc::clone(&self.scan), self.projection.clone());
        let threads = self.properties.partitioning.partition_count();
        let rows = futures::stream::once(async move {
            let run = {
                let mut shared = shared.lock();
                match shared.as_ref() {
                    Some(run) => Arc::clone(run),
                    None => Arc::clone(shared.insert(scan.start(&ledger, &projection, threads)?)),
                }
            };
            Ok::<_, Error>(run.rows().inspect(move |batch| {
                if let Ok(batch) = batch {
                    Ledger::add(&ledger.read, batch.num_rows());
                }
            }))
        });
        let rows = rows.flat_map(|opened| match opened {
            Ok(rows) => rows.boxed(),
            Err(e) => futures::stream::once(async { Err(e) }).boxed(),
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows.map(|r| r.map_err(DataFusionError::from)))))
    }
}

/// A bounded queue with many producers and many consumers. One consumer that sleeps keeps at most one item waiting.
pub(crate) struct Queue<T> {
    items: Mutex<VecDeque<Result<T>>>,
    ready: Semaphore,
    room: Semaphore,
}

impl<T> Queue<T> {
    pub(crate) fn new(room: usize) -> Self {
        Queue { items: Mutex::default(), ready: Semaphore::new(0), room: Semaphore::new(room) }
    }

    /// Waits for room; false when nobody wants items any more.
    pub(crate) async fn push(&self, item: T) -> bool {
        match self.room.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return false,
        }
        self.items.lock().push_back(Ok(item));
        self.ready.add_permits(1);
        true
    }

    /// The next item; `None` after [`close`](Self::close), when all are taken.
    pub(crate) async fn pop(&self) -> Option<Result<T>> {
        if let Ok(permit) = self.ready.acquire().await {
            permit.forget();
        }
        let item = self.items.lock().pop_front();
        if item.is_some() {
            self.room.add_permits(1);
        }
        item
    }

    /// No more will be pushed.
    pub(crate) fn close(&self) {
        self.ready.close();
    }

    /// Ends everything with an error, which the next consumer gets.
    pub(crate) fn fail(&self, e: Error) {
        self.items.lock().push_front(Err(e));
        self.room.close();
        self.close();
    }
}

/// Tasks that fill a queue. The queue closes when the last is done, and fails when one fails, or panics.
pub(crate) struct Producers<T> {
    pub(crate) queue: Arc<Queue<T>>,
    _tasks: JoinSet<()>,
}

impl<T: Send + 'static> Producers<T> {
    pub(crate) fn spawn(room: usize, tasks: usize, task: impl Fn(Arc<Queue<T>>) -> BoxFuture<'static, Result<()>>) -> Self {
        struct Last<T> {
            queue: Arc<Queue<T>>,
            left: Arc<AtomicUsize>,
        }
        impl<T> Drop for Last<T> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.queue.fail(Error::bug("a reader of input files panicked"));
                } else if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.queue.close();
                }
            }
        }
        let queue = Arc::new(Queue::new(room));
        let left = Arc::new(AtomicUsize::new(tasks));
        let mut set = JoinSet::new();
        for _ in 0..tasks {
            let last = Last { queue: Arc::clone(&queue), left: Arc::clone(&left) };
            let work = task(Arc::clone(&queue));
            set.spawn(async move {
                let last = last;
                if let Err(e) = work.await {
                    last.queue.fail(e);
                }
            });
        }
        if tasks == 0 {
            queue.close();
        }
        Producers { queue, _tasks: set }
    }
}

/// Blocks of text files.
struct TextScan {
    files: Arc<Vec<SourceFile>>,
    schema: SchemaRef,
    compression: Compression,
    encoding: Encoding,
    records: Arc<dyn Records>,
    block: usize,
}

impl Debug for TextScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Scan for TextScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn describe(&self) -> String {
        let bytes: u64 = self.files.iter().map(|f| f.mark.size).sum();
        format!("files={}, bytes={bytes}", self.files.len())
    }

    fn start(&self, ledger: &Arc<Ledger>, projection: &[usize], threads: usize) -> Result<Arc<dyn Run>> {
        let next = Arc::new(AtomicUsize::new(0));
        let (files, records) = (&self.files, &self.records);
        let (compression, encoding, block) = (self.compression, self.encoding, self.block);
        let producers = Producers::spawn(threads + 2, threads.min(files.len()), |queue| {
            let (files, records, next, ledger) = (Arc::clone(files), Arc::clone(records), Arc::clone(&next), Arc::clone(ledger));
            Box::pin(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = files.get(number) else { return Ok(()) };
                    let reader = TextReader::open(file, compression, encoding, Some(Arc::clone(&ledger))).await?;
                    let mut chunker = Chunker::new(number, &file.path, reader, records.splitter(number, &ledger), block);
                    while let Some(piece) = chunker.next().await? {
                        if !queue.push(piece).await {
                            return Ok(());
                        }
                    }
                }
            })
        });
        let schema = Arc::new(self.schema.project(projection)?);
        Ok(Arc::new(TextRun { producers, files: Arc::clone(files), schema, decoder: self.records.decoder(projection) }))
    }
}

struct TextRun {
    producers: Producers<Piece>,
    files: Arc<Vec<SourceFile>>,
    schema: SchemaRef,
    decoder: Arc<dyn Decoder>,
}

impl Run for TextRun {
    fn rows(self: Arc<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let start = (self, VecDeque::new());
        let rows = futures::stream::try_unfold(start, |(run, mut decoded)| async move {
            loop {
                if let Some(batch) = decoded.pop_front() {
                    return Ok(Some((batch, (run, decoded))));
                }
                match run.producers.queue.pop().await.transpose()? {
                    None => return Ok(None),
                    Some(Piece::Block(block)) => decoded.extend(run.decoder.decode(block)?),
                    Some(Piece::Broken(broken)) => {
                        let path = run.files.get(broken.file).map_or("", |f| f.path.as_str());
                        decoded.push_back(broken_row(&run.schema, path, &broken)?);
                    }
                }
            }
        });
        rows.boxed()
    }
}

/// The malformed row that stands for the lost rest of a file.
fn broken_row(schema: &SchemaRef, path: &str, broken: &Broken) -> Result<RecordBatch> {
    let text = |value: &str| Arc::new(StringViewArray::from(vec![value])) as ArrayRef;
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        hidden::FILE => text(path),
        hidden::LINE => Arc::new(Int64Array::from(vec![broken.line as i64])) as ArrayRef,
        hidden::OFFSET => Arc::new(Int64Array::from(vec![broken.offset as i64])) as ArrayRef,
        hidden::MALFORMED => text(&broken.reason),
        hidden::RAW => text(&String::from_utf8_lossy(&broken.raw)),
        _ => new_null_array(field.data_type(), 1),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_queue_closes_after_its_last_item_and_fails_at_once() {
        let queue = Queue::new(2);
        assert!(queue.push(1).await && queue.push(2).await);
        queue.close();
        assert!(matches!((queue.pop().await, queue.pop().await, queue.pop().await), (Some(Ok(1)), Some(Ok(2)), None)));
        let queue = Queue::new(2);
        queue.push(1).await;
        queue.fail(Error::bug("no"));
        assert!(matches!(queue.pop().await, Some(Err(_))));
        assert!(!queue.push(2).await);
    }

    #[tokio::test]
    async fn a_reader_that_panics_ends_the_scan() {
        let producers: Producers<u8> = Producers::spawn(1, 2, |_| Box::pin(async { panic!("on purpose") }));
        assert!(matches!(producers.queue.pop().await, Some(Err(Error::Bug(_)))));
    }

    #[tokio::test]
    async fn a_sleeping_consumer_does_not_hold_up_the_others() {
        let producers = Producers::spawn(2, 1, |queue| {
            Box::pin(async move {
                for i in 0..100 {
                    queue.push(i).await;
                }
                Ok(())
            })
        });
        let mut asleep = Box::pin(producers.queue.pop());
        assert!(futures::poll!(&mut asleep).is_pending());
        let mut got = 0;
        while let Some(Ok(_)) = producers.queue.pop().await {
            got += 1;
        }
        assert!(got >= 99);
        assert_eq!(asleep.await.is_some() as usize + got, 100);
    }
}
