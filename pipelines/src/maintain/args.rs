//! The arguments of the maintenance commands.

use clap::{Args, ValueEnum};

use crate::cli::PipelineArgs;

#[derive(Debug, Clone, Args)]
pub struct OptimizeArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Tables to optimize; all of the pipeline when absent.
    #[arg(value_name = "TABLE")]
    pub tables: Vec<String>,
    /// Only partitions for which this SQL predicate over partition columns is true.
    #[arg(long = "where", value_name = "PREDICATE")]
    pub predicate: Option<String>,
    /// Rewrite all files of each partition in the order of these columns.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', conflicts_with = "zorder")]
    pub sort_by: Vec<String>,
    /// Rewrite all files of each partition so that queries on any of these columns skip files.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub zorder: Vec<String>,
    /// About how large a file should become, e.g. 128MB. The table's `optimize.target_file_size` when absent.
    #[arg(long, value_name = "SIZE")]
    pub target_size: Option<String>,
    /// Show what would be rewritten, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Memory that sorting may hold before it spills, e.g. 512MB. Half of the machine's or container's memory when absent.
    #[arg(long, value_name = "SIZE", env = "SMELT_MEMORY")]
    pub memory: Option<String>,
    /// Worker threads. All cores when absent.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

#[derive(Debug, Clone, Args)]
pub struct VacuumArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Tables to vacuum, each with its quarantine table; all of the pipeline when absent.
    #[arg(value_name = "TABLE")]
    pub tables: Vec<String>,
    /// How long versions stay readable after a newer one replaced them: 168h, 30 days.
    #[arg(long, value_name = "SPAN", default_value = "168h")]
    pub retain: String,
    /// Show what would be removed, and remove nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Allow a --retain below 168h.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Clone, Args)]
pub struct HistoryArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The table, such as silver.orders.
    #[arg(value_name = "TABLE")]
    pub table: String,
    /// Versions to show, the newest first.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub format: HistoryFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HistoryFormat {
    Table,
    /// One JSON object a version and line.
    Json,
}

#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The table, such as silver.orders.
    #[arg(value_name = "TABLE")]
    pub table: String,
    /// A version's number, or a time such as 2026-01-31 or 2026-01-31T06:00:00Z.
    #[arg(long, value_name = "VERSION|TIMESTAMP")]
    pub to: String,
    /// Keep today's list of what was taken in: the next run does not take the input of the versions since again.
    #[arg(long)]
    pub keep_consumed: bool,
    /// Show what would change, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}
