//! The operator that applies events to rows: takes both, sorted by key and sequence, gives the rows that the table shall show.
//!
//! What must be remembered goes to a sink, what came too late to be judged to quarantine, counts to [`ChangeLog`]; all of them are
//! found through the session. Holds the rows of one key at a time; the sort below it spills.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewBuilder, BooleanArray, Int8Array, Int64Array, RecordBatch, StructArray, TimestampMicrosecondArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::error::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, LexRequirement, OrderingRequirements, PhysicalExpr, PhysicalSortRequirement};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements, Partitioning,
    PlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt;
use parking_lot::Mutex;

use super::fold::{At, Time};
use super::group::{Counts, Kept, OutRow, Outcome, Rules};
use super::plan::{ChangeMode, DELETE, Layout, UPSERT, extra, instant, meta};
use super::window::{Converters, Page, Window};
use crate::contract::hidden;
use crate::error::{Error, Result};
use crate::ledger::{Ledger, RejectSink};
use crate::route;

/// A sequence: its bytes and its members, one row each.
pub(super) type Forgotten = (Box<[u8]>, Vec<ArrayRef>);

/// What the operators of one change report, and where they send what must be remembered. A session extension.
#[derive(Debug)]
pub(super) struct ChangeLog {
    pub counts: Mutex<Counts>,
    /// The greatest sequence that was forgotten.
    pub forgotten: Mutex<Option<Forgotten>>,
    /// When the oldest remembered event was first seen.
    pub oldest: Mutex<Option<i64>>,
    pub memory: Arc<dyn RejectSink>,
}

impl ChangeLog {
    pub fn new(memory: Arc<dyn RejectSink>) -> Self {
        ChangeLog { counts: Mutex::default(), forgotten: Mutex::default(), oldest: Mutex::default(), memory }
    }

    fn of(task: &TaskContext) -> Result<Arc<ChangeLog>> {
        task.session_config().get_extension::<ChangeLog>().ok_or_else(|| Error::bug("no change log in the session"))
    }

    /// Remembers rows as they are.
    pub async fn remember(&self, rows: RecordBatch) -> Result<()> {
        if let Some(recorded) = rows.column_by_name(meta::RECORDED) {
            use arrow::array::AsArray;
            let min = arrow::compute::min(recorded.as_primitive::<arrow::datatypes::Int64Type>());
            let mut oldest = self.oldest.lock();
            *oldest = match (*oldest, min) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        self.memory.push(rows).await
    }
}

/// Everything that the operator needs to know.
#[derive(Debug)]
pub(super) struct Resolve {
    pub mode: ChangeMode,
    pub layout: Layout,
    pub rules: Rules,
    /// A member each: sequences that hold for every key, ascending.
    pub listed: Vec<ArrayRef>,
    /// Milliseconds since the epoch.
    pub now: i64,
    /// Only forget: the input is what was remembered, and the output has no rows.
    pub only_forget: bool,
}

impl Resolve {
    /// Stored columns and those that the mode adds.
    fn output_schema(&self) -> SchemaRef {
        let mut fields: Vec<Field> = self.layout.stored.iter().map(|f| Field::new(f.name(), f.data_type().clone(), true)).collect();
        fields.extend(self.mode.extras(&self.layout.sequence_types[0], &self.layout.members()));
        Arc::new(Schema::new(fields))
    }
}

/// The columns of events that are remembered: the stored ones, and what orders and explains them.
pub(super) fn memory_schema(layout: &Layout) -> SchemaRef {
    let mut fields: Vec<Field> = layout.stored.iter().map(|f| Field::new(f.name(), f.data_type().clone(), true)).collect();
    fields.extend(layout.sequence_types.iter().enumerate().map(|(i, t)| Field::new(meta::sequence(i), t.clone(), true)));
    fields.push(Field::new(meta::OP, DataType::Int8, true));
    fields.push(Field::new(meta::GIVEN, DataType::BinaryView, true));
    fields.push(Field::new(meta::RECORDED, DataType::Int64, true));
    Arc::new(Schema::new(fields))
}

/// The columns of the operator's input.
pub(super) fn event_schema(layout: &Layout) -> SchemaRef {
    let mut fields: Vec<Field> = layout.stored.iter().map(|f| Field::new(f.name(), f.data_type().clone(), true)).collect();
    fields.extend(layout.sequence_types.iter().enumerate().map(|(i, t)| Field::new(meta::sequence(i), t.clone(), true)));
    fields.push(Field::new(meta::OP, DataType::Int8, true));
    fields.push(Field::new(meta::ORIGIN, DataType::Int8, true));
    fields.push(Field::new(meta::GIVEN, DataType::BinaryView, true));
    fields.push(Field::new(meta::TO, layout.sequence_types[0].clone(), true));
    fields.push(Field::new(meta::RECORDED, DataType::Int64, true));
    fields.push(Field::new(meta::SYSTEM, instant(), true));
    fields.push(Field::new(hidden::FILE, DataType::Utf8View, true));
    fields.push(Field::new(hidden::LINE, DataType::Int64, true));
    Arc::new(Schema::new(fields))
}

/// Applies the events of `input`, which has the columns of [`event_schema`].
pub(super) fn resolve(input: LogicalPlan, what: Arc<Resolve>) -> Result<LogicalPlan> {
    let schema = DFSchema::try_from(what.output_schema())?;
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(ResolveNode { what, input, schema: Arc::new(schema) }) }))
}

#[derive(Debug, Clone)]
struct ResolveNode {
    what: Arc<Resolve>,
    input: LogicalPlan,
    schema: DFSchemaRef,
}

impl PartialEq for ResolveNode {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.what, &other.what) && self.input == other.input
    }
}
impl Eq for ResolveNode {}
impl std::hash::Hash for ResolveNode {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.input.hash(state);
    }
}
impl PartialOrd for ResolveNode {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.input.partial_cmp(&other.input)
    }
}

impl UserDefinedLogicalNodeCore for ResolveNode {
    fn name(&self) -> &str {
        "Resolve"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Resolve: {}", self.what.mode.name())
    }
    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        Ok(ResolveNode { input: inputs.swap_remove(0), ..self.clone() })
    }
    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![(0..self.input.schema().fields().len()).collect()])
    }
}

pub(crate) fn plan_operator(
    node: &dyn UserDefinedLogicalNode,
    inputs: &[Arc<dyn ExecutionPlan>],
    _state: &dyn Session,
) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
    let Some(node) = node.as_any().downcast_ref::<ResolveNode>() else {
        return Ok(None);
    };
    Ok(Some(Arc::new(ResolveExec::new(Arc::clone(&node.what), Arc::clone(&inputs[0])))))
}

#[derive(Debug)]
struct ResolveExec {
    what: Arc<Resolve>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl ResolveExec {
    fn new(what: Arc<Resolve>, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(what.output_schema()),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        ResolveExec { what, input, properties }
    }

    fn keys(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        let layout = &self.what.layout;
        layout.keys.iter().map(|k| Arc::new(Column::new(layout.stored[*k].name(), *k)) as Arc<dyn PhysicalExpr>).collect()
    }
}

impl DisplayAs for ResolveExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "ResolveExec: {}", self.what.mode.name())
    }
}

impl ExecutionPlan for ResolveExec {
    fn name(&self) -> &str {
        "ResolveExec"
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }
    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::KeyPartitioned(self.keys())])
    }
    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let options = SortOptions { descending: false, nulls_first: true };
        let by = self.keys().into_iter().map(|k| PhysicalSortRequirement::new(k, Some(options)));
        vec![LexRequirement::new(by).map(OrderingRequirements::from)]
    }
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![true]
    }
    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>) -> DfResult<TreeNodeRecursion> {
        for key in self.keys() {
            if f(&key)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }
    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(ResolveExec::new(Arc::clone(&self.what), children.swap_remove(0))))
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let reservation = MemoryConsumer::new(format!("Resolve[{partition}]")).register(context.memory_pool());
        let run = Run {
            converters: Converters::new(&self.what.layout)?,
            window: Window::new(&self.what.layout),
            pending: vec![],
            what: Arc::clone(&self.what),
            schema: self.schema(),
            log: ChangeLog::of(&context)?,
            ledger: Ledger::of(&context)?,
            reservation,
        };
        let stream = futures::stream::try_unfold((run, input, false), |(mut run, mut input, over)| async move {
            if over {
                return Ok(None);
            }
            loop {
                match input.next().await {
                    Some(batch) => {
                        let rows = run.push(batch?).await?;
                        if rows.num_rows() > 0 {
                            return Ok(Some((rows, (run, input, false))));
                        }
                    }
                    None => {
                        let rows = run.finish().await?;
                        return Ok(Some((rows, (run, input, true))));
                    }
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}

/// Batches that are held in any case, whatever the pool says: the operator cannot do with less.
const PAGES: usize = 3;

/// One partition at work.
struct Run {
    what: Arc<Resolve>,
    schema: SchemaRef,
    converters: Converters,
    window: Window,
    /// The rows of the key that may go on in the next batch.
    pending: Vec<At>,
    log: Arc<ChangeLog>,
    ledger: Arc<Ledger>,
    reservation: MemoryReservation,
}

impl Run {
    async fn push(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        if batch.num_rows() == 0 {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let rules = &self.what.rules;
        let page = Page::new(batch, &self.what.layout, &self.converters, !self.what.mode.is_history(), rules.partial)?;
        let number = self.window.pages.len() as u32;
        let rows = page.batch.num_rows();
        self.window.pages.push(page);
        let mut out = Outcome::default();
        for row in 0..rows {
            let at = At { batch: number, row: row as u32 };
            if let Some(last) = self.pending.last() {
                let (before, row_before) = self.window.page(*last);
                let (page, row) = self.window.page(at);
                if before.keys.row(row_before) != page.keys.row(row) {
                    self.judge(&mut out);
                }
            }
            self.pending.push(at);
        }
        let rows = self.flush(out).await?;
        self.shrink()?;
        Ok(rows)
    }

    async fn finish(&mut self) -> Result<RecordBatch> {
        let mut out = Outcome::default();
        if !self.pending.is_empty() {
            self.judge(&mut out);
        }
        let rows = self.flush(out).await?;
        self.window.pages.clear();
        self.reservation.free();
        Ok(rows)
    }

    fn judge(&mut self, out: &mut Outcome) {
        let rows = std::mem::take(&mut self.pending);
        if self.what.only_forget {
            self.what.rules.only_forget(&rows, &self.window, out);
        } else {
            self.what.rules.judge(&rows, &self.window, out);
        }
    }

    /// Lets go of batches that no row of the pending key stands in.
    fn shrink(&mut self) -> Result<()> {
        let first = self.pending.iter().map(|at| at.batch).min().unwrap_or(0);
        self.window.pages.drain(..first as usize);
        self.pending.iter_mut().for_each(|at| at.batch -= first);
        let bytes = self.window.bytes();
        if self.window.pages.len() > PAGES {
            // one key with very many rows
            self.reservation.try_resize(bytes)?;
        } else {
            self.reservation.resize(bytes);
        }
        Ok(())
    }

    async fn flush(&self, out: Outcome) -> Result<RecordBatch> {
        self.log.counts.lock().add(&out.counts);
        if let (Some(bytes), Some(at)) = (&out.forgotten, out.forgotten_at) {
            let members = self.members(&[Some(Time::Seq(at))])?;
            let mut forgotten = self.log.forgotten.lock();
            if forgotten.as_ref().is_none_or(|(known, _)| known < bytes) {
                *forgotten = Some((bytes.clone(), members));
            }
        }
        if !out.kept.is_empty() {
            self.log.remember(self.memory(&out.kept)?).await?;
        }
        if !out.refused.is_empty() {
            let rows: Vec<Option<At>> = out.refused.into_iter().map(Some).collect();
            route::refuse(self.refused(&rows)?, &super::events::too_late(&self.what.mode), &self.ledger).await?;
        }
        self.rows(&out.rows)
    }

    fn members(&self, times: &[Option<Time>]) -> Result<Vec<ArrayRef>> {
        let types = self.what.layout.sequence_types.iter().enumerate();
        types.map(|(i, ty)| self.window.times(i, ty, times, self.what.listed.get(i))).collect()
    }

    fn refused(&self, rows: &[Option<At>]) -> Result<RecordBatch> {
        let (mut fields, mut columns) = (vec![], vec![]);
        let schema = self.window.pages[0].batch.schema();
        for (i, field) in schema.fields().iter().enumerate() {
            if i < self.what.layout.stored.len() || field.name() == hidden::FILE || field.name() == hidden::LINE {
                columns.push(self.window.gather(i, field.data_type(), rows)?);
                fields.push(Arc::clone(field));
            }
        }
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    fn memory(&self, kept: &[Kept]) -> Result<RecordBatch> {
        let layout = &self.what.layout;
        let all: Vec<Option<At>> = kept.iter().map(|k| Some(k.at)).collect();
        let upserts: Vec<Option<At>> = kept.iter().map(|k| (!k.delete).then_some(k.at)).collect();
        let times: Vec<Option<Time>> = kept.iter().map(|k| Some(k.time)).collect();
        let mut columns = vec![];
        for (i, field) in layout.stored.iter().enumerate() {
            // a delete has a key and no values
            let rows = if layout.keys.contains(&i) { &all } else { &upserts };
            columns.push(self.window.gather(i, field.data_type(), rows)?);
        }
        columns.extend(self.members(&times)?);
        columns.push(Arc::new(Int8Array::from_iter_values(kept.iter().map(|k| if k.delete { DELETE } else { UPSERT }))));
        let mut given = BinaryViewBuilder::new();
        kept.iter().for_each(|k| given.append_option(k.given.as_deref()));
        columns.push(Arc::new(given.finish()));
        columns.push(Arc::new(Int64Array::from_iter_values(kept.iter().map(|k| k.recorded.unwrap_or(self.what.now)))));
        Ok(RecordBatch::try_new(memory_schema(layout), columns)?)
    }

    fn rows(&self, rows: &[OutRow]) -> Result<RecordBatch> {
        if rows.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let layout = &self.what.layout;
        let plain: Vec<Option<At>> = rows.iter().map(|r| Some(r.at)).collect();
        let inherited = rows.iter().any(|r| r.each.is_some());
        let mut columns: Vec<ArrayRef> = vec![];
        for (i, field) in layout.stored.iter().enumerate() {
            let value = layout.values.iter().position(|v| *v == i).filter(|_| inherited);
            let member = layout.sequence.iter().position(|s| *s == Some(i)).filter(|_| self.what.mode.is_history());
            if let Some(member) = member {
                let own: Vec<bool> = rows.iter().map(|r| r.sequence.is_some()).collect();
                let times: Vec<Option<Time>> = rows.iter().map(|r| r.sequence).collect();
                let times = self.window.times(member, field.data_type(), &times, self.what.listed.get(member))?;
                let stored = self.window.gather(i, field.data_type(), &plain)?;
                columns.push(arrow::compute::kernels::zip::zip(&BooleanArray::from(own), &times, &stored)?);
                continue;
            }
            columns.push(match value {
                Some(value) => {
                    let from: Vec<Option<At>> = rows.iter().map(|r| r.each.as_ref().map_or(Some(r.at), |each| each[value])).collect();
                    self.window.gather(i, field.data_type(), &from)?
                }
                None => self.window.gather(i, field.data_type(), &plain)?,
            });
        }
        for field in &self.schema.fields()[columns.len()..] {
            columns.push(self.extra(field, rows)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    fn extra(&self, field: &Field, rows: &[OutRow]) -> Result<ArrayRef> {
        let from: Vec<Option<Time>> = rows.iter().map(|r| r.from).collect();
        Ok(match field.name().as_str() {
            extra::VALID_FROM => self.window.times(0, field.data_type(), &from, self.what.listed.first())?,
            extra::VALID_TO => {
                let to: Vec<Option<Time>> = rows.iter().map(|r| r.to).collect();
                self.window.times(0, field.data_type(), &to, self.what.listed.first())?
            }
            extra::IS_CURRENT => Arc::new(BooleanArray::from_iter(rows.iter().map(|r| Some(r.to.is_none() && !r.superseded)))),
            extra::ROW_HASH => Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.row_hash as i64))),
            extra::SEQUENCE => {
                let fields: Fields = self.what.layout.members().into();
                Arc::new(StructArray::try_new(fields, self.members(&from)?, None)?)
            }
            extra::IS_DELETED => Arc::new(BooleanArray::from_iter(rows.iter().map(|r| Some(r.deleted)))),
            extra::SYSTEM_FROM => {
                let now = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|_| self.what.now * 1000)).with_timezone("UTC");
                let known: Vec<Option<At>> = rows.iter().map(|r| r.known).collect();
                let index = self.window.pages[0].batch.schema_ref().index_of(meta::SYSTEM)?;
                let before = self.window.gather(index, field.data_type(), &known)?;
                arrow::compute::kernels::zip::zip(&arrow::compute::is_not_null(&before)?, &before, &now)?
            }
            extra::SYSTEM_TO => {
                let now = rows.iter().map(|r| r.superseded.then_some(self.what.now * 1000));
                Arc::new(TimestampMicrosecondArray::from_iter(now).with_timezone("UTC"))
            }
            other => return Err(Error::bug(format!("{} has no column {other}", self.what.mode.name()))),
        })
    }
}
