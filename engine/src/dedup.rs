//! Dedup: keeps the best row of each key, in one streaming pass.
//!
//! The input is hash-partitioned by key; each partition remembers, per key, where its best row lies (`best`). When the
//! memory pool gives no more, the best rows so far go to spill files by another hash of the key, and each of those is
//! deduplicated alone afterwards. Which row wins never depends on the order of arrival. Knows nothing of tables: the
//! write mode covers what earlier batches left.

mod best;
mod compare;
pub(crate) mod keys;
mod ranks;
mod run;

use std::fmt;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::DFSchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Distribution, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, CardinalityEffect, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements, PlanProperties,
    SendableRecordBatchStream,
};

use crate::error::Error;

/// What happens where rows of one key are equal in order but not the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Default, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    /// Stop before anything is published: exit code 3.
    Fail,
    /// The row that comes first by file name and line is kept, and the report counts the keys.
    #[default]
    FirstInFile,
    /// The same row is kept, and the report does not mention it.
    Any,
}

/// One column of the order; the first row in this order is the best.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub struct Order {
    pub column: String,
    pub descending: bool,
    pub nulls_first: bool,
}

/// What dedup goes by. Columns are names of the input's schema.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub struct Dedup {
    pub keys: Vec<String>,
    /// Empty: the first row of the first file is the best.
    pub order: Vec<Order>,
    pub ties: Ties,
}

/// Keeps one row of `input` for each key. The schema stays. Counts go to the ledger: `deduplicated`, and `ties`, the
/// number of keys whose row only `ties` could choose.
///
/// # Errors
/// `Error::Bug` when a column is not in the input; `DedupStep` checks before.
pub fn dedup(input: LogicalPlan, by: Dedup) -> crate::Result<LogicalPlan> {
    for column in by.keys.iter().chain(by.order.iter().map(|o| &o.column)) {
        if input.schema().index_of_column_by_name(None, column).is_none() {
            return Err(Error::bug(format!("dedup by {column}, which the input does not have")));
        }
    }
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(DedupNode { by: Arc::new(by), input }) }))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
struct DedupNode {
    by: Arc<Dedup>,
    input: LogicalPlan,
}

impl UserDefinedLogicalNodeCore for DedupNode {
    fn name(&self) -> &str {
        "Dedup"
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
        write!(f, "Dedup: {}", self.by)
    }
    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        Ok(DedupNode { by: Arc::clone(&self.by), input: inputs.swap_remove(0) })
    }
    // Every column is needed, whatever is read above: exact duplicates are told from ties by all that users see.
}

impl fmt::Display for Dedup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys=[{}]", self.keys.join(", "))?;
        let order = self.order.iter().map(|o| {
            format!("{} {}{}", o.column, if o.descending { "desc" } else { "asc" }, if o.nulls_first { " nulls first" } else { "" })
        });
        write!(f, " order_by=[{}] ties={:?}", order.collect::<Vec<_>>().join(", "), self.ties)
    }
}

pub(crate) fn plan_operator(
    node: &dyn UserDefinedLogicalNode,
    inputs: &[Arc<dyn ExecutionPlan>],
    _state: &dyn Session,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(node) = node.as_any().downcast_ref::<DedupNode>() else {
        return Ok(None);
    };
    let index = |name: &String| {
        let found = node.input.schema().index_of_column_by_name(None, name);
        found.ok_or_else(|| Error::bug(format!("dedup lost column {name}")))
    };
    let keys = node.by.keys.iter().map(index).collect::<crate::Result<Vec<_>>>()?;
    let order = (node.by.order.iter())
        .map(|o| Ok((index(&o.column)?, SortOptions { descending: o.descending, nulls_first: o.nulls_first })))
        .collect::<crate::Result<Vec<_>>>()?;
    let columns = Columns { keys, order };
    Ok(Some(Arc::new(DedupExec::new(Arc::clone(&node.by), Arc::new(columns), Arc::clone(&inputs[0])))))
}

/// `Dedup` by column index.
#[derive(Debug)]
struct Columns {
    keys: Vec<usize>,
    order: Vec<(usize, SortOptions)>,
}

#[derive(Debug)]
struct DedupExec {
    by: Arc<Dedup>,
    columns: Arc<Columns>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl DedupExec {
    fn new(by: Arc<Dedup>, columns: Arc<Columns>, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            input.output_partitioning().clone(),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        DedupExec { by, columns, input, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }

    fn key_exprs(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        let schema: SchemaRef = self.input.schema();
        self.columns.keys.iter().map(|k| Arc::new(Column::new(schema.field(*k).name(), *k)) as Arc<dyn PhysicalExpr>).collect()
    }
}

impl DisplayAs for DedupExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "DedupExec: {}", self.by)
    }
}

impl ExecutionPlan for DedupExec {
    fn name(&self) -> &str {
        "DedupExec"
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }
    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::KeyPartitioned(self.key_exprs())])
    }
    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::LowerEqual
    }
    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        for key in self.key_exprs() {
            if f(&key)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }
    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(DedupExec::new(Arc::clone(&self.by), Arc::clone(&self.columns), children.swap_remove(0))))
    }
    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let run = run::Run::new(Arc::clone(&self.by), Arc::clone(&self.columns), self.schema(), partition, &context, &self.metrics)?;
        Ok(run.stream(input))
    }
}

#[cfg(test)]
mod tests;
