//! `smelt run`: loads the tables of a pipeline, independent ones side by side within one memory pool, and reports.

pub mod change;
pub mod conflict;
pub mod context;
pub mod evolve;
pub mod input;
pub mod load;
pub mod retract;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use smelt_connectors::sources::Window;
use smelt_engine::session::Resources;
use smelt_engine::table::BatchId;
use smelt_engine::{Error, Result};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::bind;
use crate::bound::Bound;
use crate::cli::{LogFormat, RunArgs};
use crate::console::Console;
use crate::graph;
use crate::machine;
use crate::progress::{Progress, ProgressMode};
use crate::report::{RunReport, Status, TableReport};
use crate::units;

use context::RunContext;

/// What a run may be told beyond its pipeline.
#[derive(Debug, Clone)]
pub struct RunOptions {
    pub batch: Option<String>,
    pub only: Vec<String>,
    pub full_refresh: bool,
    /// Which input files are considered, by their dates.
    pub window: Window,
    pub dry_run: bool,
    /// Bytes of the memory pool.
    pub memory: u64,
    pub threads: usize,
    pub spill: Option<PathBuf>,
    pub progress: ProgressMode,
    pub now: DateTime<Utc>,
}

impl RunOptions {
    /// Defaults of the command line at `now`.
    pub fn new(now: DateTime<Utc>) -> Self {
        RunOptions {
            batch: None,
            only: vec![],
            full_refresh: false,
            window: Window::default(),
            dry_run: false,
            memory: machine::default_pool(),
            threads: machine::cores(),
            spill: None,
            progress: ProgressMode::Never,
            now,
        }
    }
}

/// The command: 0, or the exit code of what the user must do.
pub fn main(args: &RunArgs, log: LogFormat) -> u8 {
    let console = Console::new(log);
    let now = Utc::now();
    let memory = match args.memory.as_deref().map(units::parse_size).transpose() {
        Ok(memory) => memory.unwrap_or_else(machine::default_pool),
        Err(why) => return console.usage("--memory", &why),
    };
    if args.batch.as_deref().is_some_and(|b| b.trim().is_empty()) {
        return console.usage("--batch", "the id is empty, and would name every such run; is a variable not set?");
    }
    let window = match crate::when::window(args.since.as_deref(), args.until.as_deref(), now) {
        Ok(window) => window,
        Err((option, why)) => return console.usage(option, &why),
    };
    let options = RunOptions {
        window,
        batch: args.batch.clone(),
        only: args.only.clone(),
        full_refresh: args.full_refresh,
        dry_run: args.dry_run,
        memory,
        threads: args.threads.unwrap_or_else(machine::cores).max(1),
        spill: None,
        progress: if log == LogFormat::Json { ProgressMode::Never } else { args.progress },
        now,
    };
    let report = console.block_on(options.threads, async {
        let bound = bind::open(&args.pipeline, bind::Secrets::Needed).await.map_err(|f| console.diagnostics(&f))?;
        if let Some(word) = graph::select(&bound.graph, &options.only).err() {
            return Err(console.no_such_table(&word, &bound));
        }
        crate::sample::command::ensure(&bound, &console).await.map_err(|e| console.error(&e))?;
        crate::check::check(&bound, &options).await.map_err(|f| console.failure(&bound, f))?;
        run(Arc::new(bound), &options).await.map_err(|e| console.error(&e))
    });
    let report = match report {
        Ok(report) => report,
        Err(code) => return code,
    };
    console.report(&report);
    if let Some(file) = &args.report
        && let Err(e) = serde_json::to_vec_pretty(&report).map_err(std::io::Error::other).and_then(|json| std::fs::write(file, json))
    {
        return console.error(&Error::retry(
            format!("the report could not be written to {}: {e}", file.display()),
            "the tables are published; only the report is missing",
        ));
    }
    report.exit_code()
}

/// Loads the chosen tables in the order of the graph. A failed table stops those that read it and no others.
pub async fn run(bound: Arc<Bound>, options: &RunOptions) -> Result<RunReport> {
    let started = Instant::now();
    let cpu = machine::cpu_seconds();
    let chosen = graph::select(&bound.graph, &options.only).map_err(|word| Error::bug(format!("no table {word}")))?;
    let batch = BatchId(options.batch.clone().unwrap_or_else(|| new_batch(options.now)));
    // an eighth is kept back for what no operator counts: batches on their way, footers, the process itself
    let memory = options.memory - options.memory / 8;
    let resources = Resources::new(usize::try_from(memory).unwrap_or(usize::MAX), options.threads, options.spill.clone())?;
    let mut context = RunContext::new(Arc::clone(&bound), resources, batch.clone(), options.now);
    context.full_refresh = options.full_refresh;
    context.dry_run = options.dry_run;
    context.window = options.window;
    let cx = Arc::new(context);

    let progress = Progress::new(options.progress);
    let stop = Arc::new(Notify::new());
    let watcher = tokio::spawn(Arc::clone(&progress).watch(Arc::clone(&stop)));
    let reports = schedule(&cx, &chosen, &progress, options.threads).await;
    stop.notify_one();
    let _ = watcher.await;

    let tables = bound.tables.iter().filter_map(|t| reports.get(&t.name.to_string()).cloned()).collect();
    Ok(RunReport {
        pipeline: bound.shown.clone(),
        environment: bound.environment.clone(),
        batch: batch.0,
        started: options.now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds: machine::cpu_seconds() - cpu,
        peak_memory_bytes: machine::peak_memory(),
        lake: bound.lake_shown(),
        tables,
    })
}

/// A batch id that sorts by time and does not repeat.
fn new_batch(now: DateTime<Utc>) -> String {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("{}-{}", now.format("%Y%m%dT%H%M%SZ"), &unique[..8])
}

async fn schedule(
    cx: &Arc<RunContext>,
    chosen: &BTreeSet<String>,
    progress: &Arc<Progress>,
    threads: usize,
) -> BTreeMap<String, TableReport> {
    let bound = &cx.bound;
    let mut reports: BTreeMap<String, TableReport> = BTreeMap::new();
    let mut waiting: Vec<usize> = (0..bound.tables.len()).filter(|i| chosen.contains(&bound.tables[*i].name.to_string())).collect();
    let mut running = JoinSet::new();
    // enough loads side by side to keep the cores busy while some of them wait for the store
    let slots = Arc::new(Semaphore::new(threads.max(2)));
    let mut in_flight: BTreeMap<tokio::task::Id, String> = BTreeMap::new();
    loop {
        let mut still = vec![];
        for i in std::mem::take(&mut waiting) {
            let name = bound.tables[i].name.to_string();
            let reads: Vec<&String> =
                bound.graph.get(&name).map(|r| r.iter().filter(|r| chosen.contains(*r)).collect()).unwrap_or_default();
            if let Some(failed) =
                reads.iter().find(|r| reports.get(**r).is_some_and(|t| matches!(t.status, Status::Failed | Status::Skipped)))
            {
                let mut report = TableReport::new(&name, Status::Skipped);
                report.warnings.insert(format!("not run, because {failed} was not loaded"), 0);
                reports.insert(name, report);
            } else if reads.iter().all(|r| reports.contains_key(*r)) {
                let (cx, progress, slots) = (Arc::clone(cx), Arc::clone(progress), Arc::clone(&slots));
                let task = running.spawn(async move {
                    let _slot = slots.acquire_owned().await;
                    load::load(&cx.bound.tables[i], &cx, &progress).await
                });
                in_flight.insert(task.id(), name);
            } else {
                still.push(i);
            }
        }
        let progressed = still.len() < waiting.len() || !running.is_empty();
        waiting = still;
        match running.join_next_with_id().await {
            Some(Ok((id, report))) => {
                in_flight.remove(&id);
                reports.insert(report.table.clone(), report);
            }
            Some(Err(e)) => {
                // a panic in a load is ours; the table was not published
                let name = in_flight.remove(&e.id()).unwrap_or_default();
                let mut report = TableReport::new(&name, Status::Failed);
                report.exit_code = 1;
                report.error = Some("the load stopped unexpectedly; nothing was published for this table".into());
                report.help = Some("please report this with the pipeline and the message above".into());
                reports.insert(name, report);
            }
            None if waiting.is_empty() || !progressed => break,
            None => {}
        }
    }
    reports
}
