//! Compact: lets go of the buffers that text columns only seem to need.
//!
//! The rows of a join are views into the whole build side, and those of a scan into whole pages. A sort above them counts all that
//! for every batch, asks for gigabytes and fails where megabytes are there. So batches are copied out after joins and before sorts,
//! where they hold on to far more than they use; elsewhere they pass untouched.

use std::fmt;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};
use futures::StreamExt;

use crate::write::views;

/// Puts the operator where it is needed.
#[derive(Debug)]
pub struct CompactViews;

impl PhysicalOptimizerRule for CompactViews {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            Ok(match node.name() {
                "HashJoinExec" | "SortMergeJoinExec" | "NestedLoopJoinExec" | "CrossJoinExec" => {
                    Transformed::yes(Arc::new(CompactExec::new(node)) as _)
                }
                "SortExec" => {
                    let children = node.children().into_iter().map(|c| compacted(Arc::clone(c))).collect();
                    Transformed::yes(node.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))?)
                }
                _ => Transformed::no(node),
            })
        })
        .data()
    }
    fn name(&self) -> &str {
        "compact_views"
    }
    fn schema_check(&self) -> bool {
        true
    }
}

fn compacted(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if plan.name() == CompactExec::NAME { plan } else { Arc::new(CompactExec::new(plan)) }
}

#[derive(Debug)]
struct CompactExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl CompactExec {
    const NAME: &str = "CompactExec";

    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        CompactExec { properties: Arc::clone(input.properties()), input }
    }
}

impl DisplayAs for CompactExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(Self::NAME)
    }
}

impl ExecutionPlan for CompactExec {
    fn name(&self) -> &str {
        Self::NAME
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }
    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }
    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }
    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(CompactExec::new(children.swap_remove(0))))
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let stream = self.input.execute(partition, context)?.map(|batch| batch.map(|b| views::compact(&b)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}

#[cfg(test)]
mod tests {
    use crate::ledger::Ledger;
    use crate::session::Resources;
    use std::sync::Arc;

    /// The build side is some megabytes of text that every batch of the join refers to; with a pool of little more than that the
    /// sort above it must go by disk and not fail.
    #[tokio::test]
    async fn a_sort_above_a_join_counts_what_its_rows_use() {
        let session = Resources::new(96 << 20, 2, None).unwrap().session(Arc::new(Ledger::default()));
        let sql = "
            with big as (select value as id, arrow_cast(repeat('some text of a customer ', 3) || cast(value as varchar), 'Utf8View') as t from range(100000)),
            facts as (select value as n, value % 100000 as id from range(400000))
            select count(*) as n, max(r) as r from (
              select f.n, b.t, row_number() over (partition by f.n % 7 order by b.t, f.n) as r from facts f join big b on f.id = b.id)";
        let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
        let count = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(rows[0].column(0)).value(0);
        assert_eq!(count, 400_000);
    }
}
