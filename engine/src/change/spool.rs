//! The events of a load, read once from the input and kept for as long as the change is planned and carried out: in memory while the pool
//! gives it, else on local disk. On the way it learns which keys are touched and what holds for every key.

use std::collections::BTreeSet;
use std::io::{BufReader, BufWriter};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::{eq, neq};
use arrow::compute::{cast, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Int8Type, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::row::{RowConverter, SortField};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::error::Result as DfResult;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SpillFile, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::SessionContext;
use futures::StreamExt;

use super::config::SequenceText;
use super::keyset::{BYTES_A_KEY, KeySet};
use super::plan::{Layout, TRUNCATE, meta};
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::route::{self, Rule};
use crate::write::views;

/// The part of the pool that events may take before they go to disk, and that their keys may take before all of the table is compared.
const SHARE: usize = 5;
/// Distinct values of one column that are kept to choose files by; more than this, and only the range is.
const VALUES: usize = 2_000_000;

/// The events of a load.
pub(super) struct Spool {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    file: Option<Arc<dyn SpillFile>>,
    pub rows: u64,
    pub keys: KeySet,
    /// Values of each key column, by the column's index in `stored`.
    pub values: Vec<(usize, Vec<ArrayRef>)>,
    /// Sequences of rows that empty the table.
    pub truncates: BTreeSet<SequenceText>,
    /// Distinct sequences of all rows, for snapshots only.
    pub extracts: BTreeSet<SequenceText>,
    /// Rows of truncates; they are no events of a key.
    pub truncating: u64,
    partitions: usize,
    _memory: MemoryReservation,
    /// The keys live as long as the change.
    _key_memory: Option<MemoryReservation>,
}

/// Which rows that empty the table come too late to be judged.
#[derive(Debug)]
pub(super) struct Late<'a> {
    /// Events up to this may have been forgotten.
    pub forgotten: Option<&'a SequenceText>,
    /// Those that the table knows already.
    pub known: &'a [SequenceText],
    pub rule: Rule,
}

/// Runs `plan` and keeps its rows.
pub(super) async fn spool(plan: LogicalPlan, layout: &Layout, session: &SessionContext, extracts: bool, late: &Late<'_>) -> Result<Spool> {
    let exec = session.state().create_physical_plan(&plan).await?;
    let task = session.task_ctx();
    let mut stream = datafusion::physical_plan::execute_stream(exec, Arc::clone(&task))?;
    let memory = MemoryConsumer::new("change events").register(task.memory_pool());
    let key_memory = MemoryConsumer::new("changed keys").register(task.memory_pool());
    let mut spool = Spool {
        schema: stream.schema(),
        batches: vec![],
        file: None,
        rows: 0,
        keys: KeySet::default(),
        values: layout.keys.iter().map(|k| (*k, vec![])).collect(),
        truncates: BTreeSet::new(),
        extracts: BTreeSet::new(),
        truncating: 0,
        partitions: session.state_ref().read().config().target_partitions(),
        _memory: memory,
        _key_memory: None,
    };
    let mut writer = None;
    // a part of the pool: the sorts that come after need the rest
    let share = match task.memory_pool().memory_limit() {
        MemoryLimit::Finite(limit) => limit / SHARE,
        _ => usize::MAX,
    };
    while let Some(batch) = stream.next().await {
        let batch = spool.take_truncates(batch?, layout, late, &task).await?;
        if batch.num_rows() == 0 {
            continue;
        }
        spool.rows += batch.num_rows() as u64;
        spool.learn(&batch, layout, extracts, &key_memory, share)?;
        let batch = views::own(&batch);
        let bytes = views::bytes(&batch);
        if writer.is_none() && (spool._memory.size() + bytes > share || spool._memory.try_grow(bytes).is_err()) {
            let file = task.runtime_env().disk_manager.create_tmp_file("change events")?;
            let mut ipc = StreamWriter::try_new(BufWriter::with_capacity(1 << 20, file.open_writer()?), &spool.schema)?;
            for kept in spool.batches.drain(..) {
                ipc.write(&kept)?;
            }
            spool._memory.free();
            spool.file = Some(file);
            // the arrays keep whole batches alive
            spool.values.clear();
            writer = Some(ipc);
        }
        match &mut writer {
            Some(ipc) => ipc.write(&batch)?,
            None => spool.batches.push(batch),
        }
    }
    if let Some(ipc) = writer {
        let mut file = ipc.into_inner()?.into_inner().map_err(|e| e.into_error())?;
        file.finish()?;
    }
    spool._key_memory = Some(key_memory);
    Ok(spool)
}

impl Spool {
    async fn take_truncates(&mut self, batch: RecordBatch, layout: &Layout, late: &Late<'_>, task: &TaskContext) -> Result<RecordBatch> {
        let op = column(&batch, meta::OP)?.as_primitive::<Int8Type>().clone();
        let op = &op;
        if !op.iter().any(|o| o == Some(TRUNCATE)) {
            return Ok(batch);
        }
        let scalar = arrow::array::Int8Array::new_scalar(TRUNCATE);
        let truncates = filter_record_batch(&batch, &eq(op, &scalar)?)?;
        let mut refused = vec![];
        for row in 0..truncates.num_rows() {
            let sequence = sequences(&truncates.slice(row, 1), layout)?.into_iter().next().unwrap_or_default();
            let old = match late.forgotten {
                // the lesser of two comes first
                Some(forgotten) if sequence != *forgotten && !late.known.contains(&sequence) => {
                    let both = arrays([&sequence, forgotten].into_iter(), layout)?;
                    let first: Vec<ArrayRef> = both.iter().map(|m| m.slice(0, 1)).collect();
                    texts(&first)?.contains(&sequence)
                }
                Some(_) => !late.known.contains(&sequence),
                None => false,
            };
            if old {
                refused.push(row as u32);
            } else {
                self.truncating += 1;
                self.truncates.insert(sequence);
            }
        }
        if !refused.is_empty() {
            let rows = take_record_batch(&truncates, &UInt32Array::from(refused))?;
            let shown: Vec<usize> = (0..rows.num_columns()).filter(|i| !rows.schema_ref().field(*i).name().starts_with("__")).collect();
            route::refuse(rows.project(&shown)?, &late.rule, Ledger::of(task)?.as_ref()).await?;
        }
        Ok(filter_record_batch(&batch, &neq(op, &scalar)?)?)
    }

    fn learn(&mut self, batch: &RecordBatch, layout: &Layout, extracts: bool, memory: &MemoryReservation, share: usize) -> Result<()> {
        if extracts {
            self.extracts.extend(sequences(batch, layout)?);
        }
        if self.keys.all {
            return Ok(());
        }
        let keys: Vec<ArrayRef> = layout.keys.iter().map(|k| Arc::clone(batch.column(*k))).collect();
        self.keys.insert(&keys)?;
        let bytes = self.keys.len() * BYTES_A_KEY;
        if bytes > share || memory.try_resize(bytes).is_err() {
            self.keys = KeySet::everything();
            memory.free();
            self.values.clear();
        }
        // once on disk, the arrays would keep whole batches alive
        for (index, arrays) in self.values.iter_mut().filter(|_| self.file.is_none()) {
            arrays.push(Arc::clone(batch.column(*index)));
        }
        Ok(())
    }

    /// The events as a table.
    pub fn provider(&self) -> Result<Arc<dyn TableProvider>> {
        let Some(file) = &self.file else {
            // a slice for each partition, so that all cores work on them
            let mut partitions: Vec<Vec<RecordBatch>> = vec![vec![]; self.partitions.max(1)];
            for (i, batch) in self.batches.iter().enumerate() {
                partitions[i % self.partitions.max(1)].push(batch.clone());
            }
            return Ok(Arc::new(MemTable::try_new(Arc::clone(&self.schema), partitions)?));
        };
        let part = Arc::new(OnDisk { schema: Arc::clone(&self.schema), file: Arc::clone(file) });
        Ok(Arc::new(StreamingTable::try_new(Arc::clone(&self.schema), vec![part])?))
    }

    /// The distinct values of a key column, sorted; `None` where they are too many or unknown.
    pub fn sorted(&self, index: usize) -> Result<Option<ArrayRef>> {
        if self.keys.all || self.keys.len() > VALUES {
            return Ok(None);
        }
        let Some((_, arrays)) = self.values.iter().find(|(i, _)| *i == index) else { return Ok(None) };
        let Some(first) = arrays.first() else { return Ok(None) };
        let converter = RowConverter::new(vec![SortField::new(first.data_type().clone())])?;
        let mut rows = converter.empty_rows(0, 0);
        for array in arrays {
            converter.append(&mut rows, std::slice::from_ref(array))?;
        }
        let mut order: Vec<_> = rows.iter().collect();
        order.sort_unstable();
        order.dedup();
        Ok(converter.convert_rows(order)?.into_iter().next())
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| Error::bug(format!("an event has no column {name}")))
}

/// The distinct sequences of a batch, as text.
pub(super) fn sequences(batch: &RecordBatch, layout: &Layout) -> Result<BTreeSet<SequenceText>> {
    let members = (0..layout.sequence_types.len()).map(|i| column(batch, &meta::sequence(i)).cloned()).collect::<Result<Vec<_>>>()?;
    let converter = RowConverter::new(layout.sequence_types.iter().map(|t| SortField::new(t.clone())).collect())?;
    let rows = converter.convert_columns(&members)?;
    let distinct: BTreeSet<_> = rows.iter().collect();
    texts(&converter.convert_rows(distinct)?)
}

/// Sequences as text, from an array for each member.
pub(super) fn texts(members: &[ArrayRef]) -> Result<BTreeSet<SequenceText>> {
    let members: Vec<ArrayRef> = members.iter().map(|m| cast(m, &DataType::Utf8View)).collect::<Result<_, _>>()?;
    let rows = members.first().map_or(0, |m| m.len());
    let text = |m: &ArrayRef, row: usize| m.is_valid(row).then(|| m.as_string_view().value(row).to_owned());
    Ok((0..rows).map(|row| members.iter().map(|m| text(m, row)).collect()).collect())
}

/// The arrays of sequences that were written as text, ascending; their bytes compare as those of `RowConverter`.
pub(super) fn arrays<'a>(texts: impl Iterator<Item = &'a SequenceText> + Clone, layout: &Layout) -> Result<Vec<ArrayRef>> {
    let mut members = vec![];
    for (i, ty) in layout.sequence_types.iter().enumerate() {
        let member: arrow::array::StringArray = texts.clone().map(|t| t.get(i).and_then(Option::as_deref)).collect();
        members.push(cast(&member, ty)?);
    }
    let converter = RowConverter::new(layout.sequence_types.iter().map(|t| SortField::new(t.clone())).collect())?;
    let rows = converter.convert_columns(&members)?;
    let ordered: BTreeSet<_> = rows.iter().collect();
    Ok(converter.convert_rows(ordered)?)
}

struct OnDisk {
    schema: SchemaRef,
    file: Arc<dyn SpillFile>,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for OnDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnDisk")
    }
}

impl PartitionStream for OnDisk {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }
    fn execute(&self, _ctx: Arc<TaskContext>) -> SendableRecordBatchStream {
        let open = || -> DfResult<_> {
            let path = self.file.path().ok_or_else(|| Error::bug("spilled events have no file"))?;
            let file = std::fs::File::open(path)?;
            Ok(StreamReader::try_new(BufReader::with_capacity(1 << 20, file), None)?)
        };
        let schema = Arc::clone(&self.schema);
        // the file lives as long as its reader
        let held = Arc::clone(&self.file);
        match open() {
            Ok(reader) => {
                let rows = futures::stream::iter(reader.map(move |batch| {
                    let _held = &held;
                    batch.map_err(Into::into)
                }));
                Box::pin(RecordBatchStreamAdapter::new(schema, rows))
            }
            Err(e) => Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter([Err(e)]))),
        }
    }
}

/// Which of many ranges hold one of `sorted`; a range without bounds may.
pub(super) fn ranges_hit(sorted: &ArrayRef, min: &ArrayRef, max: &ArrayRef) -> Result<BooleanArray> {
    let converter = RowConverter::new(vec![SortField::new(sorted.data_type().clone())])?;
    let keys = converter.convert_columns(std::slice::from_ref(sorted))?;
    let (low, high) = (cast(min, sorted.data_type())?, cast(max, sorted.data_type())?);
    let lows = converter.convert_columns(std::slice::from_ref(&low))?;
    let highs = converter.convert_columns(std::slice::from_ref(&high))?;
    let count = keys.num_rows();
    let hit = |i: usize| {
        if low.is_null(i) || high.is_null(i) {
            return true;
        }
        let (mut a, mut b) = (0, count);
        while a < b {
            let middle = (a + b) / 2;
            if keys.row(middle) < lows.row(i) { a = middle + 1 } else { b = middle }
        }
        a < count && keys.row(a) <= highs.row(i)
    };
    Ok((0..low.len()).map(|i| Some(hit(i))).collect())
}
