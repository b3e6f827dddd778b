//! The operator behind statistics in `fill`: it takes in the whole batch, which it keeps in memory or on disk, and then gives
//! it out with the NULLs filled. A join with an aggregate would read the source twice and count every row twice; a window function
//! would hold the batch in memory.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, Scalar};
use arrow::compute::{is_not_null, kernels::zip::zip};
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchemaRef, ScalarValue};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet, SpillMetrics};
use datafusion::physical_plan::spill::get_record_batch_memory_size;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements, PlanProperties,
    SendableRecordBatchStream, SpillManager,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::statistics::{Gatherer, Statistic};

/// Fills the NULLs of columns with statistics of the batch.
pub fn fill(input: LogicalPlan, columns: Vec<(String, Statistic)>) -> LogicalPlan {
    LogicalPlan::Extension(Extension { node: Arc::new(FillNode { columns, input }) })
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
struct FillNode {
    /// By name: the optimizer may take columns away, and with one its statistic.
    columns: Vec<(String, Statistic)>,
    input: LogicalPlan,
}

impl UserDefinedLogicalNodeCore for FillNode {
    fn name(&self) -> &str {
        "Fill"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }
    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Fill: {}", described(&self.columns))
    }
    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        Ok(FillNode { columns: self.columns.clone(), input: inputs.swap_remove(0) })
    }
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

fn described(columns: &[(String, Statistic)]) -> String {
    let all: Vec<String> = columns.iter().map(|(name, s)| format!("{name}={}", format!("{s:?}").to_lowercase())).collect();
    all.join(", ")
}

pub(crate) fn plan_operator(
    node: &dyn UserDefinedLogicalNode,
    inputs: &[Arc<dyn ExecutionPlan>],
    _state: &dyn Session,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(node) = node.as_any().downcast_ref::<FillNode>() else {
        return Ok(None);
    };
    Ok(Some(Arc::new(FillExec::new(node.columns.clone(), Arc::clone(&inputs[0])))))
}

#[derive(Debug)]
struct FillExec {
    columns: Vec<(String, Statistic)>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl FillExec {
    fn new(columns: Vec<(String, Statistic)>, input: Arc<dyn ExecutionPlan>) -> Self {
        // Filled columns keep no order, and constants found in the input may be none any more.
        let properties = PlanProperties::new(
            datafusion::physical_expr::EquivalenceProperties::new(input.schema()),
            datafusion::physical_plan::Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            input.boundedness(),
        );
        FillExec { columns, input, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl DisplayAs for FillExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "FillExec: {}", described(&self.columns))
    }
}

impl ExecutionPlan for FillExec {
    fn name(&self) -> &str {
        "FillExec"
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }
    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }
    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }
    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(FillExec::new(self.columns.clone(), children.swap_remove(0))))
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let schema = self.schema();
        let wanted: Vec<(usize, Statistic)> = self.columns.iter().filter_map(|(name, s)| Some((schema.index_of(name).ok()?, *s))).collect();
        let spills = SpillManager::new(context.runtime_env(), SpillMetrics::new(&self.metrics, partition), Arc::clone(&schema));
        let filled = stream::once(take_in(input, wanted, spills, context)).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, filled)))
    }
}

/// Reads all of the input, then gives it back filled, in the order it came.
async fn take_in(
    mut input: SendableRecordBatchStream,
    wanted: Vec<(usize, Statistic)>,
    spills: SpillManager,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let schema = input.schema();
    let pool = context.memory_pool();
    let rows = MemoryConsumer::new("FillExec rows").with_can_spill(true).register(pool);
    let statistics = MemoryConsumer::new("FillExec statistics").register(pool);
    let mut gatherers = vec![];
    for (i, statistic) in &wanted {
        gatherers.push((*i, Gatherer::new(*statistic, schema.field(*i).data_type())?));
    }
    let mut kept: Vec<RecordBatch> = vec![];
    // Whatever is on disk came before what is in memory.
    let mut file = None;
    while let Some(batch) = input.next().await {
        let batch = batch?;
        for (i, gatherer) in &mut gatherers {
            gatherer.take(batch.column(*i))?;
        }
        statistics.try_resize(gatherers.iter().map(|(_, g)| g.size()).sum())?;
        let size = get_record_batch_memory_size(&batch);
        kept.push(batch);
        if rows.try_grow(size).is_err() {
            let open = match &mut file {
                Some(open) => open,
                None => file.insert(spills.create_in_progress_file("fill")?),
            };
            for batch in kept.drain(..) {
                open.append_batch(&batch)?;
            }
            rows.free();
        }
    }
    let mut values: Vec<(usize, ScalarValue)> = vec![];
    for (i, gatherer) in gatherers {
        values.push((i, gatherer.finish()?));
    }
    statistics.free();
    let spilled = match file.as_mut().map(|open| open.finish()).transpose()?.flatten() {
        Some(file) => spills.read_spill_as_stream(file, None)?,
        None => Box::pin(datafusion::physical_plan::EmptyRecordBatchStream::new(Arc::clone(&schema))),
    };
    // The reservation goes with the last batch.
    let memory = stream::iter(kept.into_iter().map(Ok)).map(move |batch| {
        let _ = &rows;
        batch
    });
    let out = spilled.chain(memory).map(move |batch: Result<RecordBatch>| filled(batch?, &values));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, out)))
}

fn filled(batch: RecordBatch, values: &[(usize, ScalarValue)]) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    for (i, value) in values {
        let column = &columns[*i];
        if column.null_count() > 0 && !value.is_null() {
            columns[*i] = zip(&is_not_null(column)?, column, &Scalar::new(value.to_array()?))?;
        }
    }
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use crate::session::Resources;
    use crate::steps::testing::{ints, text};
    use datafusion::datasource::MemTable;
    use datafusion::prelude::DataFrame;

    #[tokio::test]
    async fn an_input_larger_than_memory_goes_by_disk_and_comes_back_whole() {
        let session = Resources::new(300_000, 2, None).unwrap().session(Arc::new(Ledger::default()));
        let long = "x".repeat(200);
        let batch = |n: i64| {
            let n = n * 100;
            let numbers = ints(&(n..n + 100).map(|i| if i % 7 == 0 { None } else { Some(i) }).collect::<Vec<_>>());
            RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", text(&vec![Some(long.as_str()); 100]), true)]).unwrap()
        };
        let batches: Vec<RecordBatch> = (0..100).map(batch).collect();
        let table = MemTable::try_new(batches[0].schema(), vec![batches]).unwrap();
        let plan = session.read_table(Arc::new(table)).unwrap().into_unoptimized_plan();
        let plan = fill(plan, vec![("n".into(), Statistic::Median), ("t".into(), Statistic::Mode)]);
        let frame = DataFrame::new(session.state(), plan);
        let physical = frame.clone().create_physical_plan().await.unwrap();
        let out = datafusion::physical_plan::collect(Arc::clone(&physical), session.task_ctx()).await.unwrap();
        let mut metrics = vec![];
        let mut node = physical;
        while node.name() != "FillExec" {
            let next = Arc::clone(node.children()[0]);
            node = next;
        }
        metrics.extend(node.metrics().and_then(|m| m.spilled_rows()));
        assert!(metrics[0] > 1000, "{metrics:?}");
        let mut numbers: Vec<i64> = out
            .iter()
            .flat_map(|b| arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(b.column(0)).values().to_vec())
            .collect();
        assert_eq!(numbers.len(), 10_000);
        // The median of the numbers from 0 to 9999 without multiples of 7.
        let mut expected: Vec<i64> = (0..10_000).map(|i| if i % 7 == 0 { 5000 } else { i }).collect();
        expected.sort_unstable();
        numbers.sort_unstable();
        assert_eq!(numbers, expected);
    }
}
