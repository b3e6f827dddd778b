//! One partition of a dedup: input in, best rows out, through spill files where memory is short.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::compute::{BatchCoalescer, filter, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::SortField;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SpillFile, TaskContext, TryEmitter, async_try_stream};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, RecordOutput, SpillMetrics};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{SendableRecordBatchStream, SpillManager};
use futures::StreamExt;

use super::best::{Best, Selected, Watch, Winners};
use super::compare::RowCompare;
use super::keys::{BitKeys, Form, Keys, RowKeys, TextKeys, form, is_bits, types};
use super::ranks::{BitRanks, NoRanks, RowRanks};
use super::{Columns, Dedup, Ties};
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::write::split::split;
use crate::write::views;

/// Spill files of one level; also how many times the data shrinks per level.
const BUCKETS: usize = 16;
/// 16^6 buckets hold one key each, more or less: no use in splitting further, so memory is taken without asking.
const DEEPEST: usize = 6;
/// Added to spilled rows: a tie decided for this row.
const TIED: &str = "__smelt_tied";

pub(super) struct Run {
    by: Arc<Dedup>,
    columns: Arc<Columns>,
    schema: SchemaRef,
    ledger: Arc<Ledger>,
    reservation: MemoryReservation,
    metrics: BaselineMetrics,
    spills: SpillManager,
    batch_size: usize,
    rows_in: usize,
    rows_out: usize,
    ties: u64,
}

impl Run {
    pub fn new(
        by: Arc<Dedup>,
        columns: Arc<Columns>,
        schema: SchemaRef,
        partition: usize,
        context: &TaskContext,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Self> {
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(TIED, DataType::Boolean, false)));
        let with_ties = Arc::new(Schema::new(fields));
        let consumer = MemoryConsumer::new(format!("Dedup[{partition}]")).with_can_spill(true);
        Ok(Run {
            by,
            columns,
            ledger: Ledger::of(context)?,
            reservation: consumer.register(context.memory_pool()),
            metrics: BaselineMetrics::new(metrics, partition),
            spills: SpillManager::new(context.runtime_env(), SpillMetrics::new(metrics, partition), with_ties),
            batch_size: context.session_config().batch_size(),
            schema,
            rows_in: 0,
            rows_out: 0,
            ties: 0,
        })
    }

    pub fn stream(mut self, input: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let stream = async_try_stream(|mut out| async move {
            let mut work = vec![];
            self.level(input, 0, &mut work, &mut out).await?;
            while let Some((file, depth)) = work.pop() {
                let input = self.spills.read_spill_as_stream_unbuffered(file, None)?;
                self.level(input, depth, &mut work, &mut out).await?;
            }
            Ledger::add(&self.ledger.deduplicated, self.rows_in - self.rows_out);
            if self.by.ties == Ties::FirstInFile && !self.by.order.is_empty() {
                Ledger::add(&self.ledger.ties, self.ties as usize);
            }
            Ok::<_, DataFusionError>(())
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, stream))
    }

    /// Takes in a whole stream; then emits what was kept, or leaves it in spill files in `work`.
    async fn level(&mut self, mut input: SendableRecordBatchStream, depth: usize, work: &mut Work, out: &mut Emitter) -> Result<()> {
        let mut winners = self.winners()?;
        let mut buckets: Vec<Option<Bucket>> = vec![];
        let compute = self.metrics.elapsed_compute().clone();
        while let Some(batch) = input.next().await {
            let batch = batch?;
            let _timer = compute.timer();
            if depth == 0 {
                self.rows_in += batch.num_rows();
                winners.push(batch, None)?;
            } else {
                let last = batch.num_columns() - 1;
                let tied = batch.column(last).as_boolean().clone();
                winners.push(RecordBatch::try_new(Arc::clone(&self.schema), batch.columns()[..last].to_vec())?, Some(&tied))?;
            }
            if self.reservation.try_resize(winners.size()).is_ok() {
                continue;
            }
            if winners.wasteful() {
                winners.compact()?;
                if self.reservation.try_resize(winners.size()).is_ok() {
                    continue;
                }
            }
            if depth >= DEEPEST {
                self.reservation.resize(winners.size());
                continue;
            }
            self.spill(winners.as_mut(), &mut buckets, depth)?;
        }
        drop(input);
        if !buckets.is_empty() {
            self.spill(winners.as_mut(), &mut buckets, depth)?;
            for mut append in buckets.into_iter().flatten() {
                work.extend(append(None)?.map(|file| (file, depth + 1)));
            }
            return Ok(());
        }
        let (selected, ties) = winners.drain();
        drop(winners);
        self.settle_ties(ties)?;
        self.emit(selected, out).await
    }

    /// Moves the best rows so far to the spill file of their bucket.
    fn spill(&mut self, winners: &mut dyn Winners, buckets: &mut Vec<Option<Bucket>>, depth: usize) -> Result<()> {
        buckets.resize_with(BUCKETS, || None);
        // Another hash at each level, and none of the one by which the input was partitioned.
        let state = RandomState::with_seed(0x5eed + depth as u64);
        let (selected, _) = winners.drain();
        let (mut hashes, mut ids) = (vec![], vec![]);
        for rows in selected {
            let (batch, tied) = rows.take()?;
            let tied = tied.unwrap_or_else(|| BooleanArray::from(vec![false; batch.num_rows()]));
            let keys = self.columns.keys.iter().map(|k| Arc::clone(batch.column(*k))).collect::<Vec<_>>();
            hashes.clear();
            hashes.resize(batch.num_rows(), 0);
            create_hashes(&keys, &state, &mut hashes)?;
            ids.clear();
            ids.extend(hashes.iter().map(|h| ((h >> 32) % BUCKETS as u64) as u32));
            let columns = batch.columns().iter().cloned().chain([Arc::new(tied) as ArrayRef]).collect();
            let batch = RecordBatch::try_new(Arc::clone(self.spills.schema()), columns)?;
            for (bucket, part) in split(&batch, &ids, BUCKETS)? {
                let open = &mut buckets[bucket as usize];
                if open.is_none() {
                    *open = Some(self.bucket()?);
                }
                if let Some(append) = open {
                    append(Some(&part))?;
                }
            }
        }
        self.reservation.resize(winners.size());
        Ok(())
    }

    /// A new spill file. DataFusion does not export its type, so it is a function: rows append, `None` finishes.
    fn bucket(&self) -> Result<Bucket> {
        let mut file = self.spills.create_in_progress_file("dedup")?;
        Ok(Box::new(move |batch| match batch {
            Some(batch) => {
                file.append_batch(batch)?;
                Ok(None)
            }
            None => Ok(file.finish()?),
        }))
    }

    fn settle_ties(&mut self, ties: u64) -> Result<()> {
        self.ties += ties;
        if ties == 0 || self.by.ties != Ties::Fail {
            return Ok(());
        }
        let keys = self.by.keys.join(", ");
        let order = self.by.order.iter().map(|o| o.column.as_str()).collect::<Vec<_>>().join(", ");
        let by = if order.is_empty() { String::new() } else { format!(" and order ({order})") };
        Err(Error::data(
            format!("dedup: at least {ties} keys have different rows that are equal in ({keys}){by}"),
            "add a column to order_by that tells them apart, or choose ties: first_in_file",
        ))
    }

    async fn emit(&mut self, selected: Vec<Selected>, out: &mut Emitter) -> Result<()> {
        let mut held: usize = selected.iter().map(|s| views::bytes(&s.batch)).sum();
        self.reservation.resize(held);
        let mut whole =
            BatchCoalescer::new(Arc::clone(&self.schema), self.batch_size).with_biggest_coalesce_batch_size(Some(self.batch_size / 2));
        for rows in selected {
            let timer = self.metrics.elapsed_compute().timer();
            held -= views::bytes(&rows.batch);
            whole.push_batch(rows.take()?.0)?;
            drop(timer);
            while let Some(batch) = whole.next_completed_batch() {
                self.hand_out(batch, out).await;
            }
            self.reservation.resize(held);
        }
        whole.finish_buffered_batch()?;
        while let Some(batch) = whole.next_completed_batch() {
            self.hand_out(batch, out).await;
        }
        Ok(())
    }

    async fn hand_out(&mut self, batch: RecordBatch, out: &mut Emitter) {
        self.rows_out += batch.num_rows();
        out.emit(batch.record_output(&self.metrics)).await;
    }

    fn winners(&self) -> Result<Box<dyn Winners>> {
        let key_types = types(&self.schema, &self.columns.keys);
        Ok(match form(&key_types) {
            Form::Bits => self.with_keys(BitKeys::default())?,
            Form::Text => self.with_keys(TextKeys::default())?,
            Form::Rows => self.with_keys(RowKeys::try_new(&key_types)?)?,
        })
    }

    fn with_keys<K: Keys + 'static>(&self, keys: K) -> Result<Box<dyn Winners>> {
        let watch = match self.by.ties {
            Ties::Fail => Watch::Ties,
            Ties::FirstInFile if !self.by.order.is_empty() => Watch::Ties,
            _ => Watch::Nothing,
        };
        let key_columns = self.columns.keys.clone();
        let rank_columns: Vec<usize> = self.columns.order.iter().map(|(c, _)| *c).collect();
        let rank_types = types(&self.schema, &rank_columns);
        let compare = RowCompare::new(&self.schema);
        Ok(match (self.columns.order.as_slice(), rank_types.as_slice()) {
            ([], _) => Box::new(Best::new(key_columns, rank_columns, keys, NoRanks, compare, watch)),
            ([(_, options)], [ty]) if is_bits(ty) => {
                Box::new(Best::new(key_columns, rank_columns, keys, BitRanks::new(ty, *options), compare, watch))
            }
            (order, types) => {
                let fields = order.iter().zip(types).map(|((_, o), t)| SortField::new_with_options(t.clone(), *o)).collect();
                Box::new(Best::new(key_columns, rank_columns, keys, RowRanks::try_new(fields)?, compare, watch))
            }
        })
    }
}

type Emitter = TryEmitter<RecordBatch, DataFusionError>;
type Work = Vec<(Arc<dyn SpillFile>, usize)>;
type Bucket = Box<dyn FnMut(Option<&RecordBatch>) -> Result<Option<Arc<dyn SpillFile>>> + Send>;

impl Selected {
    /// The kept rows, and their flags.
    fn take(self) -> Result<(RecordBatch, Option<BooleanArray>)> {
        let Some(live) = &self.live else { return Ok((self.batch, self.tied)) };
        let tied = match &self.tied {
            Some(tied) => Some(filter(tied, live)?.as_boolean().clone()),
            None => None,
        };
        Ok((filter_record_batch(&self.batch, live)?, tied))
    }
}
