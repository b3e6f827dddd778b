//! One table's load: take input, plan, execute, close the sum, publish. Killed anywhere, it can be started again.
//!
//! Order of publishing: data files and quarantine files are written under names that no reader knows; one commit of the table
//! publishes the data and names the consumed input, the batch and the quarantine files; then the quarantine table takes its
//! files. A run that dies between the two commits is completed by the next one, which finds the names in the table's checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use datafusion::catalog::TableProvider;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use smelt_connectors::sources::{self, Window};
use smelt_connectors::stores::Location;
use smelt_engine::change::ChangeState;
use smelt_engine::checks::{self, OnFail};
use smelt_engine::conform::{ConformedSource, Sensitive};
use smelt_engine::contract::{Contract, hidden};
use smelt_engine::ledger::Ledger;
use smelt_engine::load::{Assembled, LoadSpec, assemble};
use smelt_engine::route::quarantine_schema;
use smelt_engine::steps::{self, Scope, Step};
use smelt_engine::table::{BatchId, Change, Checkpoint, Commit, DataFile, Partition, Reads, Remove, Snapshot, Unsettled};
use smelt_engine::tally::tally;
use smelt_engine::write::{self, QuarantineSink, WriteSpec};
use smelt_engine::{Error, Result, error::Complaint};

use crate::bound::{BoundTable, Input, MaxRejected, Mode};
use crate::forget::suppress;
use crate::progress::Progress;
use crate::report::{ChangeReport, Status, TableReport};
use crate::units;

use super::change;
use super::conflict::{self, Conflict};
use super::context::RunContext;
use super::evolve;
use super::input::{self, Taken};
use super::retract;

/// Loads one table and says how it went; never panics, never leaves half a table.
pub async fn load(table: &BoundTable, cx: &RunContext, progress: &Progress) -> TableReport {
    let started = Instant::now();
    let mut attempt = 1;
    let (ledger, mut report, outcome) = loop {
        let ledger = Arc::new(Ledger::default());
        let mut report = TableReport::new(table.name.to_string(), Status::Failed);
        report.mode = table.mode.name().into();
        let outcome = match try_load(table, cx, progress, &ledger, &mut report).await {
            Ok(Loaded::Done(status)) => Ok(status),
            Ok(Loaded::Conflict(_)) if attempt < conflict::ATTEMPTS => {
                cx.forget(&table.name);
                tokio::time::sleep(conflict::pause(attempt)).await;
                attempt += 1;
                continue;
            }
            // files that went away under the load: another command made the table, or one that it reads, anew
            Err(e) if attempt < conflict::ATTEMPTS && !matches!(e, Error::Pipeline(_)) && moved(table, cx).await => {
                tracing::debug!(table = %table.name, error = %e, "planned anew");
                cx.forget(&table.name);
                cx.bound.reads(&table.name).for_each(|t| cx.forget(&t.name));
                tokio::time::sleep(conflict::pause(attempt)).await;
                attempt += 1;
                continue;
            }
            Ok(Loaded::Conflict(last)) => Err(conflict::gave_up(&cx.batch, &table.name, &last, attempt)),
            Err(e) => Err(e),
        };
        break (ledger, report, outcome);
    };
    if attempt > 1 {
        report.warnings.insert("planned anew, because another writer published first".into(), u64::from(attempt - 1));
    }
    report.seconds = started.elapsed().as_secs_f64();
    report.read = rows_read(table, &ledger);
    report.bytes_read = Ledger::get(&ledger.bytes_read);
    report.quarantined = Ledger::get(&ledger.quarantined);
    report.deduplicated = Ledger::get(&ledger.deduplicated);
    report.filtered = filtered(&ledger);
    let ties = Ledger::get(&ledger.ties);
    if ties > 0 {
        report.warnings.insert("dedup: keys whose rows tie in the order; the first in the files was kept".into(), ties);
    }
    report.rules = ledger
        .rules()
        .into_iter()
        .map(|((column, rule), rows)| (if column.is_empty() { rule } else { format!("{column} {rule}") }, rows))
        .collect();
    report.warnings.extend(ledger.warnings());
    match outcome {
        Ok(status) => report.status = status,
        Err(error) => {
            let error = if personal(table, cx) { without_values(error) } else { error };
            report.exit_code = exit_code(&error);
            report.help = error.help().map(str::to_owned);
            report.error = Some(match &error {
                Error::Pipeline(complaints) => cx.bound.located(&table.name, complaints),
                other => other.to_string(),
            });
        }
    }
    progress.finish(&report);
    report
}

/// Whether the table, or one that it reads, has a newer version than the load has seen.
async fn moved(table: &BoundTable, cx: &RunContext) -> bool {
    for t in cx.bound.reads(&table.name).chain([table]) {
        let (Ok(seen), Ok(now)) = (cx.snapshot(t).await, t.format.snapshot().await) else { return false };
        if seen.map(|s| s.version) != now.map(|s| s.version) {
            return true;
        }
    }
    false
}

/// The exit code that an error alone would give.
pub fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Pipeline(_) => 2,
        Error::Data { .. } | Error::Value(_) => 3,
        Error::Retry { .. } => 4,
        Error::Bug(_) => 1,
    }
}

/// How one attempt ended.
enum Loaded {
    Done(Status),
    /// Nothing was published and nothing is left of the attempt.
    Conflict(Conflict),
}

async fn try_load(
    table: &BoundTable,
    cx: &RunContext,
    progress: &Progress,
    ledger: &Arc<Ledger>,
    report: &mut TableReport,
) -> Result<Loaded> {
    let mut base = cx.snapshot(table).await?;
    if let Some(base) = &base {
        report.version = Some(base.version);
        settle_quarantine(table, &base.checkpoint.quarantine, cx).await?;
        if base.checkpoint.batches.contains(&cx.batch) {
            report.warnings.insert(format!("batch {} was published before; nothing done", cx.batch), 0);
            return Ok(Loaded::Done(Status::UpToDate));
        }
    }
    let session = cx.session(Arc::clone(ledger));
    let upstream = cx.register_reads(&session, table).await?;
    if cx.dry_run && cx.bound.reads(&table.name).any(|t| !upstream.contains_key(&t.name.to_string())) {
        report.warnings.insert("not tried: it reads tables that do not exist yet".into(), 0);
        return Ok(Loaded::Done(Status::Skipped));
    }
    let mut checkpoint = base.as_ref().map(|b| b.checkpoint.clone()).unwrap_or_default();

    let mut changed = vec![];
    let (plan, rebuild, sensitive) = match &table.input {
        Input::Source(source) => {
            let Some(taken) = input::take(table, source, &base, &upstream, cx, ledger).await? else {
                return Ok(Loaded::Done(Status::UpToDate));
            };
            report.files_read = taken.files.len() as u64;
            progress.start(&report.table, Arc::clone(ledger), taken.bytes());
            let (plan, sensitive) = source_plan(table, source, &taken, &base, cx).await?;
            taken.record(&mut checkpoint.files);
            changed = taken.changed;
            (plan, taken.rebuild, sensitive)
        }
        Input::Sql(sql) => {
            for read in cx.bound.reads(&table.name) {
                if !upstream.contains_key(&read.name.to_string()) {
                    if cx.window != Window::default() {
                        report.warnings.insert(format!("not made: {} has no rows in this range of dates yet", read.name), 0);
                        return Ok(Loaded::Done(Status::Skipped));
                    }
                    return Err(Error::data(format!("{} does not exist yet", read.name), format!("run it first: --only {}", read.name)));
                }
            }
            let unchanged = base.as_ref().is_some_and(|b| b.checkpoint.upstream == upstream && b.checkpoint.definition == table.definition);
            if unchanged && !cx.full_refresh {
                return Ok(Loaded::Done(Status::UpToDate));
            }
            progress.start(&report.table, Arc::clone(ledger), 0);
            let rebuild = cx.full_refresh || table.mode == Mode::Replace;
            let sensitive = steps::mask::sensitive(&table.steps, &cx.bound.keys);
            (tally(steps::sql::plan_query(&session, sql, &["sql"]).await?, "input"), rebuild, sensitive)
        }
    };
    let scope = Scope { session: &session, keys: &cx.bound.keys, now: cx.now, step: 0, route: None };
    let forgotten = suppress::of(table, cx).await?;
    let assembled = forgotten.apply(assemble(plan, &spec(table, &sensitive), &scope).await?)?;
    let (schema, partitions) = change::columns(table, &assembled, base.as_ref().filter(|_| !rebuild))?;
    let evolution = evolve::reconcile(table, base.as_ref(), &schema, &partitions, rebuild)?;
    evolution.notes.iter().for_each(|note| ledger.warn(note, 0));
    let assembled = evolve::fit(assembled, &evolution)?;
    // rows that change rows meet the table as it will be
    let mut settled = None;
    if table.mode.change().is_some() && evolution.rewrites() {
        if cx.dry_run {
            report.warnings.insert("not tried: the table's columns have to be changed first".into(), 0);
            return Ok(Loaded::Done(Status::DryRun));
        }
        settled = evolve::settle(table, cx, &base, &evolution).await?;
        base = settled.clone().or(base);
    }

    let now = cx.now.timestamp_millis();
    let sink = Arc::new(QuarantineSink::new(WriteSpec {
        prefix: table.quarantine.data_prefix(&None, &cx.batch),
        ..WriteSpec::new(Arc::clone(&table.quarantine_location.store), table.quarantine_location.prefix.clone(), now)
    }));
    ledger.set_sink(forgotten.sink(Arc::clone(&sink) as _));
    ledger.set_batch(cx.batch.0.clone());
    ledger.set_table(table.name.to_string());
    let known = base.clone().filter(|_| !rebuild);
    let changing = change::Changing::new(table, cx, &session, known.as_ref(), &assembled, &evolution.schema)?;
    if let (true, Some(changing)) = (cx.dry_run, &changing) {
        let outcome = changing.preview(&assembled, &scope).await;
        sink.abort().await;
        let (read, change) = outcome?;
        report.written = read;
        report.change = Some(change);
        closes(table, ledger, read)?;
        verdict(table, ledger, rows_read(table, ledger))?;
        return Ok(Loaded::Done(Status::DryRun));
    }
    if cx.dry_run {
        drain(&session, assembled.plan, ledger).await?;
        sink.abort().await;
        report.written = Ledger::get(&ledger.written);
        closes(table, ledger, report.written)?;
        verdict(table, ledger, rows_read(table, ledger))?;
        if !checks::batch_expectations(&table.checks).is_empty() {
            report.warnings.insert("expectations over the whole batch are not evaluated in a dry run".into(), 0);
        }
        return Ok(Loaded::Done(Status::DryRun));
    }

    let written = match &changing {
        Some(changing) => changing.execute(&assembled, &scope).await,
        None => match execute(table, cx, &session, &base, &assembled).await {
            Ok(files) => Written::appended(table, files, &assembled).await,
            Err(e) => Err(e),
        },
    };
    let judged = match written {
        // a load that fails changes no column either
        Ok(written) => match judge(table, ledger, &session, &written).await {
            Ok(()) if table.mode.change().is_none() => match evolve::settle(table, cx, &base, &evolution).await {
                Ok(now) => {
                    settled = now;
                    Ok(written)
                }
                Err(e) => {
                    written.discard(table).await;
                    Err(e)
                }
            },
            Ok(()) => Ok(written),
            Err(e) => {
                written.discard(table).await;
                Err(e)
            }
        },
        Err(e) => Err(e),
    };
    let mut written = match judged {
        Ok(written) => written,
        Err(e) => {
            sink.abort().await;
            return Err(e);
        }
    };
    if !changed.is_empty()
        && let Err(e) =
            retract::retract(table, cx, &settled.clone().or_else(|| base.clone()), &changed, rebuild, &mut written, ledger).await
    {
        written.discard(table).await;
        sink.abort().await;
        return Err(e);
    }
    let rejected = sink.finish().await?;

    evolve::record(&mut checkpoint, &evolution, settled.as_ref(), &cx.batch, cx.now.timestamp_millis());
    let base = settled.or(base);
    checkpoint.advance(&cx.batch, rejected.clone());
    checkpoint.upstream = upstream;
    checkpoint.definition = table.definition.clone();
    checkpoint.state.clone_from(&written.state);
    let (remove, reads) = written.removes.clone().unwrap_or_else(|| removal(table, &base, rebuild, &written.files));
    let change = Change {
        remove,
        reads,
        batch: cx.batch.clone(),
        checkpoint: checkpoint.clone(),
        schema: evolution.schema,
        partition_columns: partitions,
        descriptions: table.descriptions.clone(),
        operation: table.mode.name().into(),
        data_change: true,
        now,
        add: written.files.clone(),
    };
    report.written = written.rows;
    report.files = written.files.len() as u64;
    report.bytes = written.files.iter().map(|f| f.bytes).sum();
    report.change.clone_from(&written.change);
    cx.forget(&table.name);
    match table.format.commit(&base, change).await? {
        Commit::Published { version } => report.version = Some(version),
        Commit::AlreadyPublished => {
            report.warnings.insert(format!("batch {} was published by another run; nothing done", cx.batch), 0);
            return Ok(Loaded::Done(Status::UpToDate));
        }
        Commit::Conflict { with, batch } => {
            written.discard(table).await;
            discard(&table.quarantine_location, &rejected).await;
            return Ok(Loaded::Conflict(Conflict { version: with, batch }));
        }
    }
    settle_quarantine(table, &checkpoint.quarantine, cx).await?;
    crate::maintain::after_load(table, cx, report).await;
    Ok(Loaded::Done(Status::Published))
}

/// What a load wrote, and what it means for the table.
#[derive(Debug)]
pub struct Written {
    pub files: Vec<DataFile>,
    /// What goes, and what decided that; `None`: what the mode says.
    pub removes: Option<(Remove, Reads)>,
    /// Rows of the load that are in the table now, or were taken into account.
    pub rows: u64,
    /// Rows of the load, for expectations over all of them.
    pub batch: Arc<dyn TableProvider>,
    /// What the table remembers beside its rows.
    pub state: Option<ChangeState>,
    pub remembered: Vec<DataFile>,
    pub change: Option<ChangeReport>,
}

impl Written {
    /// Of modes whose rows are those of the load.
    async fn appended(table: &BoundTable, files: Vec<DataFile>, assembled: &Assembled) -> Result<Self> {
        let snapshot = Snapshot {
            version: 0,
            rewrites: 0,
            schema: Arc::clone(&assembled.schema),
            partition_columns: assembled.partition_columns.clone(),
            files: Arc::new(files.clone()),
            checkpoint: Checkpoint::default(),
            state: Arc::new(()),
        };
        Ok(Written {
            removes: None,
            rows: files.iter().map(|f| f.rows).sum(),
            batch: table.format.provider(&snapshot).await?,
            files,
            state: None,
            remembered: vec![],
            change: None,
        })
    }

    async fn discard(&self, table: &BoundTable) {
        discard(&table.location, &self.files).await;
        discard(&table.location, &self.remembered).await;
    }
}

/// What a table does to its rows before they are written.
pub fn spec<'a>(table: &'a BoundTable, sensitive: &'a Sensitive) -> LoadSpec<'a> {
    // rows that change rows keep their place until it is known that they can be judged, and are partitioned afterwards
    let changes = table.mode.change().is_some();
    LoadSpec {
        steps: &table.steps,
        checks: &table.checks,
        partition_by: if changes { &[] } else { &table.partition_by },
        sensitive,
        provenance: table.provenance,
        hidden: if changes { &[hidden::FILE, hidden::LINE, hidden::ABSENT] } else { &[] },
    }
}

/// The plan of a source's rows under the table's contract.
async fn source_plan(
    table: &BoundTable,
    source: &str,
    taken: &Taken,
    base: &Option<Snapshot>,
    cx: &RunContext,
) -> Result<(LogicalPlan, Sensitive)> {
    let spec = cx.bound.source(source)?;
    let contract = input::contract(table, spec, taken, base, cx.bound.timezone).await?;
    if contract.columns.is_empty() {
        return Err(Error::pipeline(
            Complaint::at(["columns"], "the columns are not declared, and there is no input to infer them from").help("declare `columns:`"),
        ));
    }
    let raw = sources::open(spec, taken.files.clone(), &contract, cx.resources.threads).await?;
    let sensitive = sensitive(table, &contract, cx);
    let provider = ConformedSource::new(raw, contract, sensitive.clone(), table.name.clone())?;
    Ok((scan(Arc::new(provider))?, sensitive))
}

/// A scan under the name `input`.
pub fn scan(provider: Arc<dyn TableProvider>) -> Result<LogicalPlan> {
    Ok(LogicalPlanBuilder::scan("input", provider_as_source(provider), None)?.build()?)
}

/// The input columns whose values may not be shown: those that the steps mask, and those tagged `pii`. Where there are any,
/// neither are fields that the contract does not name: nobody has said what is in them.
fn sensitive(table: &BoundTable, contract: &Contract, cx: &RunContext) -> Sensitive {
    let mut out = steps::mask::sensitive(&table.steps, &cx.bound.keys);
    for column in contract.columns.iter().filter(|c| c.tags.iter().any(|t| t == "pii")) {
        out.columns.entry(column.name.clone()).or_insert(None);
    }
    // a query before the last mask may have made the masked column of any of these
    let masks_after_sql = table.steps.iter().rposition(|s| matches!(s, Step::Mask(_)))
        > table.steps.iter().position(|s| matches!(s, Step::Sql(_)))
        && table.steps.iter().any(|s| matches!(s, Step::Sql(_)));
    if masks_after_sql {
        for column in &contract.columns {
            out.columns.entry(column.name.clone()).or_insert(None);
        }
    }
    if !out.is_empty() {
        out.columns.insert(hidden::RESCUED.to_owned(), None);
    }
    out
}

/// Whether anything of this table, or of a table that it reads, is masked or tagged: then no message may hold a value.
fn personal(table: &BoundTable, cx: &RunContext) -> bool {
    let tagged = |c: &Contract| c.columns.iter().any(|c| c.tags.iter().any(|t| t == "pii"));
    table.steps.iter().any(|s| matches!(s, Step::Mask(_)))
        || table.contract.as_ref().is_some_and(tagged)
        || cx.bound.reads(&table.name).any(|t| personal(t, cx))
}

/// Withholds messages that others wrote and that may quote a value.
fn without_values(error: Error) -> Error {
    const WITHHELD: &str = "the message is withheld, since it may hold a value and this table has personal columns";
    match error {
        Error::Value(_) => Error::Value(format!("an expression met a value that it cannot take ({WITHHELD})")),
        Error::Bug(_) => Error::Bug(format!("the load failed unexpectedly ({WITHHELD})")),
        other => other,
    }
}

/// Runs the plan to finished files.
async fn execute(
    table: &BoundTable,
    cx: &RunContext,
    session: &SessionContext,
    base: &Option<Snapshot>,
    assembled: &Assembled,
) -> Result<Vec<DataFile>> {
    let spec = WriteSpec {
        prefix: table.format.data_prefix(base, &cx.batch),
        partition_columns: assembled.partition_columns.clone(),
        target_file_size: table.target_file_size,
        ..WriteSpec::new(Arc::clone(&table.location.store), table.location.prefix.clone(), cx.now.timestamp_millis())
    };
    let plan = write::write(assembled.plan.clone(), spec)?;
    let exec = session.state().create_physical_plan(&plan).await?;
    tracing::debug!(table = %table.name, plan = %datafusion::physical_plan::displayable(exec.as_ref()).indent(false), "planned");
    write::files(&collect(exec, session.task_ctx()).await?)
}

/// Runs the plan and throws the rows away.
async fn drain(session: &SessionContext, plan: LogicalPlan, ledger: &Ledger) -> Result<()> {
    let exec = session.state().create_physical_plan(&plan).await?;
    let mut stream = datafusion::physical_plan::execute_stream(exec, session.task_ctx())?;
    while let Some(batch) = stream.next().await {
        Ledger::add(&ledger.written, batch?.num_rows());
    }
    Ok(())
}

/// Rows that entered the load: from the files, or out of the query.
fn rows_read(table: &BoundTable, ledger: &Ledger) -> u64 {
    match table.input {
        Input::Source(_) => Ledger::get(&ledger.read),
        Input::Sql(_) => ledger.tallies().get("input").copied().unwrap_or(0),
    }
}

/// Whether what was written may be published: the sum closes, limits hold, nothing that must not fail has failed.
async fn judge(table: &BoundTable, ledger: &Ledger, session: &SessionContext, written: &Written) -> Result<()> {
    closes(table, ledger, written.rows)?;
    verdict(table, ledger, rows_read(table, ledger))?;
    expectations(table, ledger, session, written).await
}

/// Law 2: every row that was read is accounted for.
fn closes(table: &BoundTable, ledger: &Ledger, written: u64) -> Result<()> {
    let read = rows_read(table, ledger);
    let filtered = filtered(ledger);
    let (quarantined, deduplicated) = (Ledger::get(&ledger.quarantined), Ledger::get(&ledger.deduplicated));
    if read as i64 != written as i64 + quarantined as i64 + deduplicated as i64 + filtered {
        return Err(Error::bug(format!(
            "{}: {read} rows read, but {written} written + {quarantined} quarantined + {deduplicated} deduplicated + {filtered} filtered; nothing was published",
            table.name
        )));
    }
    Ok(())
}

/// Rows that filter and sql steps took away, less those that sql steps added.
pub fn filtered(ledger: &Ledger) -> i64 {
    let tallies = ledger.tallies();
    tallies
        .iter()
        .filter_map(|(point, rows)| {
            let step = point.strip_suffix(":in")?;
            Some(*rows as i64 - tallies.get(&format!("{step}:out")).copied().unwrap_or(0) as i64)
        })
        .sum()
}

/// Limits on rejected rows, and checks with `on_fail: fail`.
fn verdict(table: &BoundTable, ledger: &Ledger, read: u64) -> Result<()> {
    let failures = ledger.failures();
    if !failures.is_empty() {
        let list = failures.iter().map(|(rule, rows)| format!("{rule} ({})", units::plural(*rows, "row"))).collect::<Vec<_>>().join("; ");
        return Err(Error::data(
            format!("checks that may not fail have failed: {list}"),
            "correct the data, or change the check's on_fail; nothing was published",
        ));
    }
    let quarantined = Ledger::get(&ledger.quarantined);
    let exceeded = match table.max_rejected {
        Some(MaxRejected::Rows(limit)) => quarantined > limit,
        Some(MaxRejected::Share(limit)) => quarantined as f64 > limit * read as f64,
        None => false,
    };
    if exceeded {
        let limit = match table.max_rejected {
            Some(MaxRejected::Rows(n)) => n.to_string(),
            Some(MaxRejected::Share(s)) => format!("{}%", s * 100.0),
            None => String::new(),
        };
        let worst = ledger
            .rules()
            .into_iter()
            .max_by_key(|(_, rows)| *rows)
            .map(|((c, r), n)| format!("; most often {c}: {r} ({n})"))
            .unwrap_or_default();
        return Err(Error::data(
            format!("{quarantined} of {read} rows were rejected, more than max_rejected: {limit}{worst}"),
            "correct the data or the contract; `smelt run --dry-run` shows the rules without publishing",
        ));
    }
    Ok(())
}

/// Expectations over the whole batch, asked of the files that are about to be published.
async fn expectations(table: &BoundTable, ledger: &Ledger, session: &SessionContext, written: &Written) -> Result<()> {
    let expectations = checks::batch_expectations(&table.checks);
    if expectations.is_empty() {
        return Ok(());
    }
    session.register_table("batch", Arc::clone(&written.batch))?;
    for (_, sql, on_fail) in expectations {
        let rows = session.sql(&format!("select ({sql}) is not false from batch")).await?.collect().await?;
        let holds = rows.first().is_some_and(|b| {
            use arrow::array::AsArray;
            b.num_rows() == 1 && b.column(0).as_boolean().value(0)
        });
        if !holds {
            match on_fail {
                OnFail::Warn => ledger.warn(format!("expectation does not hold: {sql}"), 0),
                OnFail::Fail | OnFail::Quarantine => {
                    return Err(Error::data(
                        format!("expectation does not hold: {sql}"),
                        "correct the data or the expectation; nothing was published",
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Which files of the base version the change takes away, and what of that version decided its outcome.
pub(super) fn removal(table: &BoundTable, base: &Option<Snapshot>, rebuild: bool, files: &[DataFile]) -> (Remove, Reads) {
    if rebuild || table.mode == Mode::Replace {
        return (if base.is_some() { Remove::Everything } else { Remove::Nothing }, Reads::Everything);
    }
    match &table.mode {
        Mode::Append | Mode::Replace | Mode::Change(_) => (Remove::Nothing, Reads::Nothing),
        Mode::ReplacePartitions => {
            let touched: BTreeSet<Partition> = files.iter().map(|f| f.partition.clone()).collect();
            let remove = match base {
                None => Remove::Nothing,
                Some(base) => Remove::Files(base.files.iter().filter(|f| touched.contains(&f.partition)).cloned().collect()),
            };
            (remove, Reads::Partitions(touched))
        }
    }
}

/// Deletes files that no version will name. Failing at it leaves garbage, not wrong data.
pub async fn discard(at: &Location, files: &[DataFile]) {
    for file in files {
        if let Ok(path) = at.path(&file.path)
            && let Err(e) = object_store::ObjectStoreExt::delete(at.store.as_ref(), &path).await
        {
            tracing::warn!(place = at.display, file = file.path, error = %e, "could not delete an unpublished file");
        }
    }
}

/// Publishes the quarantine files that the table's checkpoint names, each batch's once, unless that has been done.
pub(crate) async fn settle_quarantine(table: &BoundTable, unsettled: &[Unsettled], cx: &RunContext) -> Result<()> {
    if cx.dry_run {
        return Ok(());
    }
    for Unsettled { batch, sequence, files } in unsettled {
        // the run's own batch too: a table that was made anew counts its commits from 1 again
        settle(table, BatchId(format!("{}#{sequence}#{batch}", table.name)), files, cx).await?;
    }
    Ok(())
}

async fn settle(table: &BoundTable, batch: BatchId, files: &[DataFile], cx: &RunContext) -> Result<()> {
    for attempt in 1..=conflict::ATTEMPTS {
        let base = table.quarantine.snapshot().await?;
        let mut own = base.as_ref().map(|b| b.checkpoint.clone()).unwrap_or_default();
        if own.batches.contains(&batch) {
            return Ok(());
        }
        own.advance(&batch, vec![]);
        let change = Change {
            add: files.to_vec(),
            remove: Remove::Nothing,
            reads: Reads::Nothing,
            batch: batch.clone(),
            checkpoint: own,
            schema: quarantine_schema(),
            partition_columns: vec![],
            descriptions: BTreeMap::new(),
            operation: "append".into(),
            data_change: true,
            now: cx.now.timestamp_millis(),
        };
        match table.quarantine.commit(&base, change).await? {
            Commit::Published { .. } | Commit::AlreadyPublished => return Ok(()),
            // an append has one only where the table's rules changed
            Commit::Conflict { .. } => tokio::time::sleep(conflict::pause(attempt)).await,
        }
    }
    Err(Error::retry(format!("the quarantine table of {} is busy", table.name), "run again: its rows are kept and will be published then"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_messages_are_withheld_where_columns_are_personal() {
        let e = without_values(Error::Value("Cannot cast string 'O'Brien 123' to Int64".into()));
        assert!(!e.to_string().contains("Brien") && exit_code(&e) == 3, "{e}");
        assert!(!without_values(Error::Bug("factorial(123456789)".into())).to_string().contains("123456789"));
        assert_eq!(without_values(Error::data("ours", "help")).to_string(), "ours");
    }

    #[test]
    fn filtered_rows_are_what_steps_took_away() {
        let ledger = Ledger::default();
        ledger.tally("filter:1:in", 10);
        ledger.tally("filter:1:out", 7);
        ledger.tally("sql:2:in", 7);
        ledger.tally("sql:2:out", 9);
        ledger.tally("input", 10);
        assert_eq!(filtered(&ledger), 1);
    }
}
