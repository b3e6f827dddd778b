//! The one place where a `SessionContext` is built: memory pool, spill folder, functions, planner, options.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::compact::CompactViews;
use crate::error::Result;
use crate::ledger::Ledger;
use crate::planner::SmeltPlanner;
use crate::pool::RunPool;

/// What one run may use. All tables of the run share it.
#[derive(Debug, Clone)]
pub struct Resources {
    pub runtime: Arc<RuntimeEnv>,
    /// Partitions of each plan.
    pub threads: usize,
    /// Bytes of the pool.
    pub memory: usize,
}

impl Resources {
    /// `memory` in bytes bounds what operators may hold; they spill to `spill` (the system's temporary folder when absent).
    pub fn new(memory: usize, threads: usize, spill: Option<PathBuf>) -> Result<Self> {
        let mode = match spill {
            Some(dir) => DiskManagerMode::Directories(vec![dir]),
            None => DiskManagerMode::OsTmpDirectory,
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(RunPool::new(memory)))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode))
            .build_arc()?;
        Ok(Resources { runtime, threads, memory })
    }

    /// A session of its own for one load or query: shared memory pool and stores, its own tables and ledger.
    pub fn session(&self, ledger: Arc<Ledger>) -> SessionContext {
        let share = self.memory / self.threads.max(1);
        let mut config = SessionConfig::new()
            .with_target_partitions(self.threads)
            // a merge of spilled runs holds two batches of each: in a small pool they are smaller
            .with_batch_size((share >> 14).clamp(256, 8192))
            .with_information_schema(true)
            .with_default_catalog_and_schema("lake", "default")
            .with_extension(ledger);
        let options = config.options_mut();
        options.sql_parser.collect_spans = true;
        // DataFusion 55.2 moves get_field below projections by name, and then finds that names are ambiguous
        options.optimizer.enable_leaf_expression_pushdown = false;
        // DataFusion 55.2 prunes by `min(column)` rows that another aggregate over an expression still needs: wrong results
        options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        options.execution.parquet.pushdown_filters = true;
        options.execution.parquet.reorder_filters = true;
        // what a sort keeps back for its merge, in each partition: 10 MB by default, which a small pool does not have
        options.execution.sort_spill_reservation_bytes = (share / 8).clamp(256 << 10, 10 << 20);
        options.execution.time_zone = Some("UTC".into());
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::clone(&self.runtime))
            .with_default_features()
            .with_query_planner(Arc::new(SmeltPlanner))
            .with_physical_optimizer_rule(Arc::new(CompactViews))
            .build();
        SessionContext::new_with_state(state)
    }
}
