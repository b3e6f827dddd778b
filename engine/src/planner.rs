//! Registry of our own plan nodes: how a logical extension node becomes the operator that runs it.
//! Adding an operator is its own file and one line in `OPERATORS`.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::error::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

/// Plans one kind of node; `None` when the node is of another kind.
pub type PlanOperator = fn(&dyn UserDefinedLogicalNode, &[Arc<dyn ExecutionPlan>], &dyn Session) -> Result<Option<Arc<dyn ExecutionPlan>>>;

const OPERATORS: &[PlanOperator] = &[
    crate::tally::plan_operator,
    crate::route::plan_operator,
    crate::steps::fill::plan_operator,
    crate::dedup::plan_operator,
    crate::change::plan_operator,
    crate::write::plan_operator,
];

#[derive(Debug)]
struct Operators;

#[async_trait]
impl ExtensionPlanner for Operators {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        state: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        for plan in OPERATORS {
            if let Some(exec) = plan(node, inputs, state)? {
                return Ok(Some(exec));
            }
        }
        Ok(None)
    }
}

/// DataFusion's planner, and ours for our nodes.
#[derive(Debug)]
pub struct SmeltPlanner;

#[async_trait]
impl QueryPlanner for SmeltPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, state: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Operators)]).create_physical_plan(plan, state).await
    }
}
