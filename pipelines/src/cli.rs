//! The command line: what `smelt` understands, and how it ends. Each command's work lies in its own module.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::maintain;
use crate::progress::ProgressMode;

const EXAMPLES: &str = "\
Examples:
  smelt init shop                       make a small pipeline to start from
  smelt validate shop                   check YAML, SQL, graph and references; touch nothing
  smelt plan shop                       show what the next run would read and write
  smelt run shop                        take in what is new, publish, report
  smelt run shop --env prod --batch 2026-11-20
  smelt query shop 'select count(*) from silver.orders'

Exit codes, by what to do next:
  0  done            1  report a bug     2  fix the pipeline
  3  fix the data    4  try again (network, disk, another writer)";

/// Raw CSV and JSON in, silver and gold tables out.
///
/// A pipeline is a folder with a pipeline.yaml: sources, tables, contracts, steps, checks. A run takes in the files that are
/// new, sends rows that break the contract to quarantine, writes Delta or Parquet tables, and ends with a report in which
/// every row is accounted for. Running it again when nothing is new does nothing; killing it at any moment loses nothing.
#[derive(Debug, Parser)]
#[command(name = "smelt", version, after_help = EXAMPLES, arg_required_else_help = true, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// How diagnostics and events are written to standard error.
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    pub log: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a folder with a small pipeline and its input, ready to run.
    Init {
        /// The folder to make.
        #[arg(value_name = "FOLDER", default_value = ".")]
        folder: PathBuf,
    },
    /// Check a pipeline: YAML, types, SQL, graph. Reads no data beyond what undeclared columns need; changes nothing.
    Validate(PipelineArgs),
    /// Show what a run would do: new files, inferred contracts ready to paste, tables to rebuild. Changes nothing.
    Plan(PipelineArgs),
    /// Take in what is new and publish it.
    #[command(
        after_help = "Examples:\n  smelt run pipelines/olist\n  smelt run pipelines/olist --only silver.orders+ --memory 2GB\n  smelt run s3://acme-etl/olist --env prod --batch 2026-11-20 --report s3-report.json --log json"
    )]
    Run(RunArgs),
    /// Read any table of the lake with SQL.
    #[command(
        after_help = "Examples:\n  smelt query pipelines/olist 'select * from gold.daily_revenue order by 1 desc limit 10'\n  smelt query ./lake 'select * from quarantine.silver_orders' --format json\n  smelt query pipelines/olist 'show tables'"
    )]
    Query(QueryArgs),
    /// Remove a person from every table, quarantine and old version of a pipeline's lake; leave a signed receipt.
    #[command(
        after_help = "Examples:\n  smelt forget pipelines/shop --subject customer_id=4711 --reason 'request 2026-118' --dry-run\n  smelt forget pipelines/shop --file requests.csv --receipt receipt.json\n  smelt forget pipelines/shop --verify receipt.json"
    )]
    Forget(ForgetArgs),
    /// Turn many small files into few large ones, or rewrite files in an order that lets queries skip them. Changes no rows.
    #[command(
        after_help = "Examples:\n  smelt optimize pipelines/olist\n  smelt optimize pipelines/olist silver.orders --zorder customer_id,purchased_at\n  smelt optimize pipelines/olist silver.orders --where \"purchased_at_month >= '2026-01'\" --target-size 256MB"
    )]
    Optimize(maintain::args::OptimizeArgs),
    /// Remove files that no version needs any more which is still to be read, and the leavings of dead runs.
    #[command(
        after_help = "Examples:\n  smelt vacuum pipelines/olist --dry-run\n  smelt vacuum pipelines/olist silver.orders --retain '30 days'"
    )]
    Vacuum(maintain::args::VacuumArgs),
    /// List the versions of a table, the newest first.
    #[command(after_help = "Example:\n  smelt history pipelines/olist silver.orders --limit 5")]
    History(maintain::args::HistoryArgs),
    /// Bring back an older version of a table, as a new version.
    #[command(
        after_help = "Examples:\n  smelt restore pipelines/olist silver.orders --to 12 --dry-run\n  smelt restore pipelines/olist silver.orders --to 2026-01-31T06:00:00Z --keep-consumed"
    )]
    Restore(maintain::args::RestoreArgs),
    /// Make sample input of a realistic shape, at any size, byte-identical for a seed.
    Sample {
        #[command(subcommand)]
        what: SampleKind,
    },
    /// Print the JSON Schema of the pipeline language, for editors; with a pipeline, the columns of its tables and their history.
    #[command(
        after_help = "Examples:\n  smelt schema > pipeline.schema.json\n  smelt schema pipelines/olist silver.orders\n  smelt schema pipelines/olist silver.orders --history"
    )]
    Schema(SchemaArgs),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  smelt completions bash > /etc/bash_completion.d/smelt")]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Clone, Args)]
pub struct PipelineArgs {
    /// A folder with pipeline.yaml, or a YAML file; local or s3://.
    #[arg(value_name = "PIPELINE")]
    pub pipeline: String,
    /// Which of the pipeline's environments to overlay; `local` when absent.
    #[arg(long, value_name = "NAME", env = "SMELT_ENV")]
    pub env: Option<String>,
    /// Override one key of the pipeline, e.g. --set lake=/tmp/lake. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Name this batch. The same id never publishes twice to one table. A new id is made when absent.
    #[arg(long, value_name = "ID")]
    pub batch: Option<String>,
    /// Only this table; with a + at its end, also all that reads it. May be repeated.
    #[arg(long, value_name = "TABLE[+]")]
    pub only: Vec<String>,
    /// Forget what was taken in before and rebuild the chosen tables from all input that is there.
    #[arg(long)]
    pub full_refresh: bool,
    /// Only files of this time and later: a date, a time (RFC 3339), or how long ago (3d, 12h). Older ones stay for a later run.
    /// A file's time is the date in its path, where its source says `dated`, or else when it was modified.
    #[arg(long, value_name = "WHEN", conflicts_with = "full_refresh")]
    pub since: Option<String>,
    /// Only files before this time; a date is the whole day.
    #[arg(long, value_name = "WHEN", conflicts_with = "full_refresh")]
    pub until: Option<String>,
    /// Read, conform and check everything, but publish nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Memory that operators may hold before they spill, e.g. 512MB. Half of the machine's or container's memory when absent.
    #[arg(long, value_name = "SIZE", env = "SMELT_MEMORY")]
    pub memory: Option<String>,
    /// Worker threads and partitions of each plan. All cores when absent.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Also write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Bars on a terminal and plain lines elsewhere, or nothing until the report.
    #[arg(long, value_enum, default_value = "auto", value_name = "MODE")]
    pub progress: ProgressMode,
}

#[derive(Debug, Clone, Args)]
pub struct ForgetArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Whom: the name of a subject and its value as the input has it, before any mask. May be repeated.
    #[arg(long = "subject", value_name = "NAME=VALUE")]
    pub subject: Vec<String>,
    /// Many at once: a file with NAME=VALUE on each line; or values alone, with the subject's name in the first line where there are several.
    #[arg(long, value_name = "LIST")]
    pub file: Option<PathBuf>,
    /// Why, for the receipt. Must not name the person.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Show which tables, files, rows and bytes it would touch; change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Also write the receipt to this file. The lake keeps it below _smelt/receipts.
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// Key of the pipeline that signs the receipt; the first by name when absent.
    #[arg(long, value_name = "KEY")]
    pub sign_key: Option<String>,
    /// Go on although a table holds the person in a form that cannot be found; the receipt says so.
    #[arg(long)]
    pub allow_unreachable: bool,
    /// No other process writes to the lake: also remove files that no version names and that are younger than a day.
    #[arg(long)]
    pub alone: bool,
    /// Check the signature of a receipt, and do nothing else.
    #[arg(long, value_name = "RECEIPT", conflicts_with_all = ["subject", "file", "reason", "dry_run", "receipt", "sign_key", "allow_unreachable", "alone"])]
    pub verify: Option<PathBuf>,
    #[arg(long, value_name = "SIZE", env = "SMELT_MEMORY")]
    pub memory: Option<String>,
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

#[derive(Debug, Clone, Args)]
pub struct QueryArgs {
    /// A pipeline, or the folder of a lake, and then the SQL. With one word only: SQL over the pipeline in this folder.
    #[arg(value_name = "[PIPELINE|FOLDER] SQL", num_args = 1..=2, required = true)]
    pub words: Vec<String>,
    #[arg(long, value_name = "NAME", env = "SMELT_ENV")]
    pub env: Option<String>,
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Read a table as it was: silver.orders=12 or silver.orders=2026-01-31T06:00:00Z; a time alone holds for all tables. May be repeated.
    #[arg(long, value_name = "[TABLE=]WHEN")]
    pub as_of: Vec<String>,
    /// How the result is written to standard output.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub format: OutputFormat,
    #[arg(long, value_name = "SIZE", env = "SMELT_MEMORY")]
    pub memory: Option<String>,
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

#[derive(Debug, Clone, Args)]
pub struct SchemaArgs {
    /// A folder with pipeline.yaml, or a YAML file. Without it: the language.
    #[arg(value_name = "PIPELINE")]
    pub pipeline: Option<String>,
    /// One table, such as silver.orders; all tables that exist when absent.
    #[arg(value_name = "TABLE", requires = "pipeline")]
    pub table: Option<String>,
    /// Show which batch added, widened or renamed which column, the newest first.
    #[arg(long, requires = "pipeline")]
    pub history: bool,
    /// Text for people, or one JSON object a table.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub format: SchemaFormat,
    #[arg(long, value_name = "NAME", env = "SMELT_ENV")]
    pub env: Option<String>,
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaFormat {
    Table,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Table,
    Csv,
    /// One JSON object a line.
    Json,
    Parquet,
}

#[derive(Debug, Subcommand)]
pub enum SampleKind {
    /// The eight files of the Olist e-commerce data set.
    Olist {
        /// Orders to make; the other files follow in proportion.
        #[arg(long, default_value_t = 20_000)]
        orders: u64,
        /// Days that the orders span.
        #[arg(long, default_value_t = 730)]
        days: u32,
        /// Share of rows that break a rule, e.g. 0.1%.
        #[arg(long, default_value = "0.1%", value_parser = share)]
        bad: f64,
        /// Share of rows that come twice, e.g. 1%.
        #[arg(long, default_value = "1%", value_parser = share)]
        duplicates: f64,
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// The folder to write to.
        #[arg(long, default_value = "data")]
        out: PathBuf,
    },
    /// Nested JSON clicks, gzipped, a file a day.
    Clickstream {
        /// Events to make.
        #[arg(long, default_value_t = 100_000)]
        events: u64,
        /// Days that the events span, a file each.
        #[arg(long, default_value_t = 7)]
        days: u32,
        /// Visitors to choose from.
        #[arg(long, default_value_t = 3_000)]
        users: u64,
        /// Share of bad lines, e.g. 0.1%.
        #[arg(long, default_value = "0.1%", value_parser = share)]
        bad: f64,
        /// Share of events that come twice, e.g. 0.5%.
        #[arg(long, default_value = "0.5%", value_parser = share)]
        duplicates: f64,
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// The folder to write to.
        #[arg(long, default_value = "data")]
        out: PathBuf,
    },
}

/// `1%` or `0.01`.
fn share(text: &str) -> Result<f64, String> {
    let (number, divisor) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    match number.trim().parse::<f64>() {
        Ok(x) if (0.0..=1.0).contains(&(x / divisor)) => Ok(x / divisor),
        _ => Err("write a share such as 0.1% or 0.001".into()),
    }
}

/// Parses the arguments, does the work and gives the exit code.
pub fn main() -> ExitCode {
    crate::machine::small_pages();
    let cli = Cli::parse();
    let code = match cli.command {
        Command::Init { folder } => crate::init::init(&folder),
        Command::Validate(args) => crate::plan::validate(&args, cli.log),
        Command::Plan(args) => crate::plan::plan(&args, cli.log),
        Command::Run(args) => crate::run::main(&args, cli.log),
        Command::Query(args) => crate::query::main(&args, cli.log),
        Command::Forget(args) => crate::forget::main(&args, cli.log),
        Command::Optimize(args) => maintain::optimize::main(&args, cli.log),
        Command::Vacuum(args) => maintain::vacuum::main(&args, cli.log),
        Command::History(args) => maintain::history::main(&args, cli.log),
        Command::Restore(args) => maintain::restore::main(&args, cli.log),
        Command::Sample { what } => crate::sample::command::main(&what),
        Command::Schema(args) => match &args.pipeline {
            Some(pipeline) => crate::table_schema::main(pipeline, &args, cli.log),
            None => crate::schema::main(),
        },
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "smelt", &mut std::io::stdout());
            0
        }
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn shares_are_read_as_percent_or_fraction() {
        assert_eq!(share("1%"), Ok(0.01));
        assert_eq!(share("0.5"), Ok(0.5));
        assert!(share("150%").is_err());
        assert!(share("many").is_err());
    }
}
