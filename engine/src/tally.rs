//! Tally: counts the rows that pass a named point of the plan, and changes nothing else.
//!
//! A filter step stands between two tallies; what it removed is their difference (law 2). The node also keeps the
//! optimizer from moving predicates across the point, which would make the count wrong.

use std::fmt;
use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::DFSchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};
use futures::StreamExt;

use crate::ledger::Ledger;

/// Counts rows under `point` in the load's ledger.
pub fn tally(input: LogicalPlan, point: impl Into<String>) -> LogicalPlan {
    LogicalPlan::Extension(Extension { node: Arc::new(TallyNode { point: point.into(), input }) })
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
struct TallyNode {
    point: String,
    input: LogicalPlan,
}

impl UserDefinedLogicalNodeCore for TallyNode {
    fn name(&self) -> &str {
        "Tally"
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
        write!(f, "Tally: {}", self.point)
    }
    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        Ok(TallyNode { point: self.point.clone(), input: inputs.swap_remove(0) })
    }
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

pub(crate) fn plan_operator(
    node: &dyn UserDefinedLogicalNode,
    inputs: &[Arc<dyn ExecutionPlan>],
    _state: &dyn Session,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(node) = node.as_any().downcast_ref::<TallyNode>() else {
        return Ok(None);
    };
    Ok(Some(Arc::new(TallyExec::new(node.point.clone(), Arc::clone(&inputs[0])))))
}

#[derive(Debug)]
struct TallyExec {
    point: String,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl TallyExec {
    fn new(point: String, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = Arc::clone(input.properties());
        TallyExec { point, input, properties }
    }
}

impl DisplayAs for TallyExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TallyExec: {}", self.point)
    }
}

impl ExecutionPlan for TallyExec {
    fn name(&self) -> &str {
        "TallyExec"
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
        Ok(Arc::new(TallyExec::new(self.point.clone(), children.swap_remove(0))))
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let ledger = Ledger::of(&context)?;
        let point = self.point.clone();
        let stream = self.input.execute(partition, context)?.inspect(move |batch| {
            if let Ok(batch) = batch {
                ledger.tally(&point, batch.num_rows());
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}
