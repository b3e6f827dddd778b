//! The operator behind `write`: N input partitions, one output partition with a row per finished file.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::runtime::JoinSet;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, internal_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt;

use super::WriteSpec;
use super::file::Encoder;
use super::files::Files;
use super::stream::{Layout, StreamWriter};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::table::DataFile;

#[derive(Debug, Clone)]
pub(crate) struct WriteNode {
    spec: Arc<WriteSpec>,
    input: LogicalPlan,
    schema: DFSchemaRef,
}

impl WriteNode {
    pub fn new(spec: Arc<WriteSpec>, input: LogicalPlan) -> crate::Result<Self> {
        if Layout::new(input.schema().as_arrow(), &spec.partition_columns).is_none() {
            return Err(Error::bug(format!(
                "write partitioned by {:?}, input has {:?}",
                spec.partition_columns,
                input.schema().field_names()
            )));
        }
        let schema = Arc::new(DFSchema::try_from(result_schema().as_ref().clone())?);
        Ok(WriteNode { spec, input, schema })
    }
}

/// What `files` reads.
fn result_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("path", DataType::Utf8, false),
        // JSON: [[column, value or null], …]
        Field::new("partition", DataType::Utf8, false),
        Field::new("rows", DataType::UInt64, false),
        Field::new("bytes", DataType::UInt64, false),
        Field::new("stats", DataType::Utf8, true),
        Field::new("modified", DataType::Int64, false),
    ]))
}

fn result_batch(files: &[DataFile]) -> crate::Result<RecordBatch> {
    let partition = files.iter().map(|f| serde_json::to_string(&f.partition)).collect::<Result<Vec<_>, _>>();
    Ok(RecordBatch::try_new(
        result_schema(),
        vec![
            Arc::new(StringArray::from_iter_values(files.iter().map(|f| &f.path))),
            Arc::new(StringArray::from(partition.map_err(|e| Error::bug(e.to_string()))?)),
            Arc::new(UInt64Array::from_iter_values(files.iter().map(|f| f.rows))),
            Arc::new(UInt64Array::from_iter_values(files.iter().map(|f| f.bytes))),
            Arc::new(StringArray::from_iter(files.iter().map(|f| f.stats.as_deref()))),
            Arc::new(Int64Array::from_iter_values(files.iter().map(|f| f.modified))),
        ],
    )?)
}

// Two writes are the same only when they are one: a spec is never compared by value.
impl PartialEq for WriteNode {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.spec, &other.spec) && self.input == other.input
    }
}
impl Eq for WriteNode {}
impl Hash for WriteNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.spec).hash(state);
        self.input.hash(state);
    }
}
impl PartialOrd for WriteNode {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (self == other).then_some(std::cmp::Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for WriteNode {
    fn name(&self) -> &str {
        "Write"
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
        write!(f, "Write: {} partition_by=[{}]", self.spec.root, self.spec.partition_columns.join(", "))
    }
    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        Ok(WriteNode { spec: Arc::clone(&self.spec), input: inputs.swap_remove(0), schema: Arc::clone(&self.schema) })
    }
}

pub(crate) fn plan_operator(
    node: &dyn UserDefinedLogicalNode,
    inputs: &[Arc<dyn ExecutionPlan>],
    _state: &dyn Session,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(node) = node.as_any().downcast_ref::<WriteNode>() else {
        return Ok(None);
    };
    Ok(Some(Arc::new(WriteExec::new(Arc::clone(&node.spec), Arc::clone(&inputs[0])))))
}

#[derive(Debug)]
struct WriteExec {
    spec: Arc<WriteSpec>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl WriteExec {
    fn new(spec: Arc<WriteSpec>, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(result_schema()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        WriteExec { spec, input, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl DisplayAs for WriteExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "WriteExec: {} partition_by=[{}]", self.spec.root, self.spec.partition_columns.join(", "))
    }
}

impl ExecutionPlan for WriteExec {
    fn name(&self) -> &str {
        "WriteExec"
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }
    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(WriteExec::new(Arc::clone(&self.spec), children.swap_remove(0))))
    }
    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("WriteExec has one partition, {partition} was asked for");
        }
        let run = run(Arc::clone(&self.spec), Arc::clone(&self.input), context, self.metrics.clone());
        let stream = futures::stream::once(async move { Ok(run.await?) });
        Ok(Box::pin(RecordBatchStreamAdapter::new(result_schema(), stream)))
    }
}

async fn run(
    spec: Arc<WriteSpec>,
    input: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    metrics: ExecutionPlanMetricsSet,
) -> crate::Result<RecordBatch> {
    let schema = input.schema();
    let layout = Layout::new(&schema, &spec.partition_columns).ok_or_else(|| Error::bug("the write lost a partition column"))?;
    let encoder = Arc::new(Encoder::new(layout.file_schema(&schema)?, spec.zstd_level)?);
    let reserve = |name: String| MemoryConsumer::new(name).with_can_spill(true).register(context.memory_pool());
    let files = Arc::new(Files::new(spec, encoder, Some(Ledger::of(&context)?), Some(reserve("Write files".into()))));
    // Dropped, the set stops its tasks; the files then take back what they wrote.
    let mut tasks = JoinSet::new();
    for i in 0..input.output_partitioning().partition_count() {
        let mut batches = input.execute(i, Arc::clone(&context))?;
        let mut writer = StreamWriter::new(Arc::clone(&files), &schema, layout.clone(), reserve(format!("Write[{i}]")))?;
        let metrics = BaselineMetrics::new(&metrics, i);
        tasks.spawn(async move {
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                metrics.record_output(batch.num_rows());
                writer.push(&batch).await?;
            }
            drop(batches);
            writer.finish().await
        });
    }
    result_batch(&settle(tasks, &files).await?)
}

/// Waits for the tasks that write to `files` and closes them; when one fails, stops the others and takes everything back.
pub(super) async fn settle(mut tasks: JoinSet<crate::Result<()>>, files: &Files) -> crate::Result<Vec<DataFile>> {
    let mut result = Ok(());
    while let Some(done) = tasks.join_next().await {
        result = match done {
            Ok(done) => done,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(e) => Err(Error::bug(format!("a write task was stopped: {e}"))),
        };
        if result.is_err() {
            break;
        }
    }
    let finished = match result {
        Ok(()) => files.finish().await,
        Err(e) => Err(e),
    };
    if finished.is_err() {
        tasks.shutdown().await;
        files.abort().await;
    }
    finished
}
