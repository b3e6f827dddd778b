//! Carries a change out: which files can hold a touched key, what of them stays as it is, and what the events make of the rest.
//!
//! ```text
//! events -> spool (memory or disk) -> touched keys -> files that hold one
//! touched files: rows of untouched keys ------------------------------------------> write
//!                rows of touched keys, remembered events, new events -> by key -> resolve -> write
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Field, SchemaRef};
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use futures::StreamExt;

use super::config::{ChangeState, ChangeTies, SequenceText};
use super::events::{Missing, plan_events, too_late};
use super::group::Counts;
use super::keyset::{KeySet, touched};
use super::plan::{ChangeMode, Kind, extra};
use super::resolve::{ChangeLog, Resolve, event_schema, resolve};
use super::shape::Shape;
use super::spool::{self, Late, Spool, spool};
use crate::error::{Error, Result};
use crate::steps::{Scope, under};
use crate::table::{DataFile, Snapshot, TableFormat};
use crate::write::{self, PartitionBy, QuarantineSink, WriteSpec, plan_partitions};

/// Below the table's root: where what the rows do not show is remembered.
pub const MEMORY_FOLDER: &str = "_smelt/state";

/// One change of one table.
#[allow(missing_debug_implementations, reason = "a session has none")]
pub struct Job<'a> {
    pub mode: &'a ChangeMode,
    pub shape: Shape,
    /// All columns of the table after the change, in its order.
    pub schema: SchemaRef,
    pub missing: Missing,
    pub partition_by: &'a [PartitionBy],
    pub base: Option<&'a Snapshot>,
    pub state: ChangeState,
    /// Former names of columns.
    pub was: BTreeMap<String, Vec<String>>,
    pub format: &'a dyn TableFormat,
    /// Where data files go.
    pub write: WriteSpec,
    pub session: &'a SessionContext,
    /// Files looked into at the same time.
    pub threads: usize,
    /// Milliseconds since the epoch.
    pub now: i64,
}

/// Which files a change touches, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// Files of the table.
    pub files: usize,
    /// Those that their statistics or partition let hold a touched key, and that were looked into.
    pub searched: usize,
    /// Those that hold one, and are rewritten.
    pub rewritten: usize,
    pub bytes: u64,
    /// Keys in memory; `None`: all keys of the table are compared, sorted on disk where they must be.
    pub keys: Option<usize>,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.keys {
            Some(n) => {
                write!(f, "{n} keys held in memory, {} of {} files searched, {} rewritten", self.searched, self.files, self.rewritten)
            }
            None => write!(f, "all keys, sorted on disk where memory is short, {} of {} files rewritten", self.rewritten, self.files),
        }
    }
}

/// A change that is read and planned, and not yet carried out.
#[derive(Debug)]
pub struct Prepared {
    spool: Spool,
    keys: Arc<KeySet>,
    files: Vec<DataFile>,
    memory: Vec<DataFile>,
    /// All remembered events are gone through, because some are due.
    forget: bool,
    pub(super) listed: Vec<ArrayRef>,
    pub(super) fresh: Vec<bool>,
    truncates: Vec<SequenceText>,
    extracts: Vec<SequenceText>,
    pub way: Way,
}

/// What a change made.
#[derive(Debug)]
pub struct Applied {
    pub add: Vec<DataFile>,
    pub remove: Vec<DataFile>,
    pub state: ChangeState,
    /// New files of remembered events, for those who must take them back.
    pub remembered: Vec<DataFile>,
    pub counts: Counts,
    pub way: Way,
}

impl Prepared {
    /// Events that were read.
    pub fn events(&self) -> u64 {
        self.spool.rows + self.spool.truncating
    }

    /// Of those, the ones that empty the table.
    pub fn truncates(&self) -> u64 {
        self.spool.truncating
    }

    /// The distinct values of a key column, sorted; `None` where they are too many or unknown.
    pub(super) fn key_values(&self, index: usize) -> Result<Option<ArrayRef>> {
        if self.keys.all { Ok(None) } else { self.spool.sorted(index) }
    }

    /// The rows of the load, as the change takes them in.
    pub fn batch(&self) -> Result<Arc<dyn datafusion::catalog::TableProvider>> {
        self.spool.provider()
    }
}

impl Job<'_> {
    /// Reads the events of `rows` and finds out what they touch. Changes nothing.
    pub async fn prepare(&self, rows: LogicalPlan, scope: &Scope<'_>) -> Result<Prepared> {
        let layout = &self.shape.layout;
        let events =
            plan_events(rows, self.mode, layout, &self.missing, scope, self.now).map_err(|e| under(e, &["write", self.mode.name()]))?;
        let snapshot = self.mode.kind == Kind::Snapshot;
        let late = Late { forgotten: self.state.forgotten.as_ref(), known: &self.state.truncates, rule: too_late(self.mode) };
        let mut spool = spool(events, layout, self.session, snapshot && !self.mode.sequence.is_empty(), &late).await?;
        let (mut truncates, mut extracts) = (self.state.truncates.clone(), self.state.extracts.clone());
        let (listed, fresh) = if snapshot {
            let taken = self.extracts(&spool).await?;
            extracts.extend(taken.iter().cloned());
            extracts.sort();
            extracts.dedup();
            let listed = spool::arrays(extracts.iter(), layout)?;
            let texts: Vec<SequenceText> = ordered(&listed)?;
            (listed, texts.iter().map(|t| taken.contains(t)).collect())
        } else {
            let new: Vec<SequenceText> = spool.truncates.iter().filter(|t| !truncates.contains(t)).cloned().collect();
            if !new.is_empty() {
                spool.keys = KeySet::everything();
            }
            truncates.extend(new);
            (if truncates.is_empty() { vec![] } else { spool::arrays(truncates.iter(), layout)? }, vec![])
        };
        let keys = if snapshot { self.differing(&spool, &listed, &fresh).await? } else { std::mem::take(&mut spool.keys) };
        let keys = Arc::new(keys);
        let (files, searched) = self.touched_files(&spool, &keys).await?;
        let due = self.state.oldest.is_some_and(|oldest| oldest < self.cutoff() - self.mode.tombstones.milliseconds / 10);
        let memory = self.touched_memory(&keys, due).await?;
        let all = self.base.map_or(0, |b| b.files.len());
        let way = Way {
            files: all,
            searched,
            rewritten: files.len(),
            bytes: files.iter().map(|f| f.bytes).sum(),
            keys: (!keys.all).then(|| keys.len()),
        };
        Ok(Prepared { spool, keys, files, memory, forget: due, listed, fresh, truncates, extracts, way })
    }

    /// Remembered events first seen before this may be forgotten.
    pub(super) fn cutoff(&self) -> i64 {
        if self.mode.kind == Kind::Snapshot { i64::MIN / 2 } else { self.now - self.mode.tombstones.milliseconds }
    }

    /// Writes the files of the change. Publishes nothing.
    pub async fn execute(&self, prepared: &Prepared) -> Result<Applied> {
        let memory = Arc::new(QuarantineSink::new(WriteSpec { prefix: MEMORY_FOLDER.into(), ..self.write.clone() }));
        let done = self.run(prepared, &memory, true).await;
        match done {
            Ok((add, log)) => {
                let remembered = match memory.finish().await {
                    Ok(files) => files,
                    Err(e) => {
                        write::discard(&self.write, &add).await;
                        return Err(e);
                    }
                };
                let counts = *log.counts.lock();
                if let Err(e) = self.judge_ties(&counts) {
                    write::discard(&self.write, &add).await;
                    write::discard(&self.write, &remembered).await;
                    return Err(e);
                }
                let state = self.state_after(prepared, &log, &remembered)?;
                Ok(Applied { add, remove: prepared.files.clone(), state, remembered, counts, way: prepared.way.clone() })
            }
            Err(e) => {
                memory.abort().await;
                Err(e)
            }
        }
    }

    fn judge_ties(&self, counts: &Counts) -> Result<()> {
        if counts.ties == 0 || self.mode.ties != ChangeTies::Fail {
            return Ok(());
        }
        Err(Error::data(
            format!("{} times two different rows of one key have the same {}", counts.ties, self.mode.sequence.join(", ")),
            "make the sequence unique for each key, or let `ties: greater` decide; nothing was published",
        ))
    }

    /// What a change would do to rows and versions, without writing any.
    pub async fn preview(&self, prepared: &Prepared) -> Result<Counts> {
        let memory = Arc::new(Nowhere);
        let (_, log) = self.run(prepared, &memory, false).await?;
        let counts = *log.counts.lock();
        self.judge_ties(&counts)?;
        Ok(counts)
    }

    async fn run<S: crate::ledger::RejectSink + 'static>(
        &self,
        prepared: &Prepared,
        memory: &Arc<S>,
        writes: bool,
    ) -> Result<(Vec<DataFile>, Arc<ChangeLog>)> {
        let log = Arc::new(ChangeLog::new(Arc::clone(memory) as _));
        self.session.state_ref().write().config_mut().set_extension(Arc::clone(&log));
        let plan = self.plan(prepared).await?;
        let state = self.session.state();
        let files = if writes {
            let exec = state.create_physical_plan(&write::write(plan, self.write.clone())?).await?;
            tracing::debug!(plan = %datafusion::physical_plan::displayable(exec.as_ref()).indent(false), "change planned");
            write::files(&collect(exec, self.session.task_ctx()).await?)?
        } else {
            let exec = state.create_physical_plan(&plan).await?;
            let mut stream = datafusion::physical_plan::execute_stream(exec, self.session.task_ctx())?;
            while let Some(batch) = stream.next().await {
                batch?;
            }
            vec![]
        };
        match self.untouched_memory(prepared, &log).await {
            Ok(()) => Ok((files, log)),
            Err(e) => {
                write::discard(&self.write, &files).await;
                Err(e)
            }
        }
    }

    /// All rows of the files to be written.
    async fn plan(&self, prepared: &Prepared) -> Result<LogicalPlan> {
        let layout = &self.shape.layout;
        let keys: Vec<Expr> = self.mode.keys.iter().map(|k| name(k)).collect();
        let mut events = scan("events", prepared.spool.provider()?)?;
        if self.mode.kind == Kind::Snapshot && !prepared.keys.all {
            events = events.filter(touched(&prepared.keys, keys.clone(), false))?;
        }
        let mut events =
            events.project(event_schema(layout).fields().iter().map(|f| name(f.name()).alias(f.name())).collect::<Vec<_>>())?;
        if !prepared.memory.is_empty() {
            let mut rows = self.memory_scan(&prepared.memory).await?;
            if !prepared.keys.all {
                rows = rows.filter(touched(&prepared.keys, keys.clone(), false))?;
            }
            events = events.union(rows.project(self.remembered_columns()?)?.build()?)?;
        }
        let mut kept = None;
        if let Some(base) = self.base.filter(|_| !prepared.files.is_empty()) {
            let snapshot = self.with_files(base, prepared.files.clone());
            let bitemporal = self.mode.kind == Kind::Bitemporal;
            let mut rows = scan("t", self.format.provider(&snapshot).await?)?;
            if !prepared.keys.all {
                rows = rows.filter(touched(&prepared.keys, keys.clone(), false))?;
            }
            if bitemporal {
                rows = rows.filter(name(extra::SYSTEM_TO).is_null())?;
            }
            events = events.union(rows.project(self.visible_columns()?)?.build()?)?;
            // rows of untouched keys, and what was known once
            let stays = match (prepared.keys.all, bitemporal) {
                (true, false) => None,
                (true, true) => Some(name(extra::SYSTEM_TO).is_not_null()),
                (false, false) => Some(touched(&prepared.keys, keys, true)),
                (false, true) => Some(touched(&prepared.keys, keys, true).or(name(extra::SYSTEM_TO).is_not_null())),
            };
            if let Some(stays) = stays {
                let rows = scan("t", self.format.provider(&snapshot).await?)?.filter(stays)?;
                kept = Some(rows.project(self.table_columns())?.build()?);
            }
        }
        let what = Resolve {
            mode: self.mode.clone(),
            layout: layout.clone(),
            rules: self.rules(prepared)?,
            listed: prepared.listed.clone(),
            now: self.now,
            only_forget: false,
        };
        let resolved = resolve(events.build()?, Arc::new(what))?;
        let resolved = LogicalPlanBuilder::from(resolved).project(self.with_surrogate()?)?.build()?;
        let (resolved, _) = plan_partitions(resolved, self.partition_by).map_err(|e| under(e, &["partition_by"]))?;
        // columns of the table that the rows do not store any more
        let has = |field: &Field| resolved.schema().index_of_column_by_name(None, field.name()).is_some();
        let column = |field: &Arc<Field>| -> Result<Expr> {
            let expr = if has(field) { name(field.name()) } else { Expr::Literal(ScalarValue::try_from(field.data_type())?, None) };
            Ok(expr.alias(field.name()))
        };
        let columns = self.schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        let resolved = LogicalPlanBuilder::from(resolved).project(columns)?;
        match kept {
            Some(kept) => Ok(LogicalPlanBuilder::from(kept).union(resolved.build()?)?.build()?),
            None => Ok(resolved.build()?),
        }
    }

    /// Remembered events of untouched keys, in files that are written anew.
    async fn untouched_memory(&self, prepared: &Prepared, log: &Arc<ChangeLog>) -> Result<()> {
        if prepared.memory.is_empty() || prepared.keys.all {
            return Ok(());
        }
        let keys: Vec<Expr> = self.mode.keys.iter().map(|k| name(k)).collect();
        let rows = self.memory_scan(&prepared.memory).await?.filter(touched(&prepared.keys, keys, true))?;
        let state = self.session.state();
        let plan = if prepared.forget {
            let what = Resolve {
                mode: self.mode.clone(),
                layout: self.shape.layout.clone(),
                rules: self.rules(prepared)?,
                listed: vec![],
                now: self.now,
                only_forget: true,
            };
            resolve(rows.project(self.remembered_columns()?)?.build()?, Arc::new(what))?
        } else {
            rows.build()?
        };
        let exec = state.create_physical_plan(&plan).await?;
        let mut stream = datafusion::physical_plan::execute_stream(exec, self.session.task_ctx())?;
        while let Some(batch) = stream.next().await {
            let batch: RecordBatch = batch?;
            if !prepared.forget {
                log.remember(batch).await?;
            }
        }
        Ok(())
    }

    fn state_after(&self, prepared: &Prepared, log: &ChangeLog, remembered: &[DataFile]) -> Result<ChangeState> {
        let stays: Vec<DataFile> = self.state.files.iter().filter(|f| !prepared.memory.iter().any(|m| m.path == f.path)).cloned().collect();
        let mut oldest = *log.oldest.lock();
        if !stays.is_empty() {
            oldest = [oldest, self.state.oldest].into_iter().flatten().min();
        }
        let mut forgotten = self.state.forgotten.clone();
        if let Some((_, members)) = &*log.forgotten.lock() {
            // the greater of what was forgotten before and now
            let now: Vec<SequenceText> = spool::texts(members)?.into_iter().collect();
            let all = spool::arrays(now.iter().chain(&forgotten), &self.shape.layout)?;
            forgotten = ordered(&all)?.pop();
        }
        Ok(ChangeState {
            // the caller names it
            identity: self.state.identity.clone(),
            files: stays.into_iter().chain(remembered.iter().cloned()).collect(),
            oldest,
            forgotten,
            truncates: prepared.truncates.clone(),
            extracts: prepared.extracts.clone(),
        })
    }
}

/// Sequences as text in the order of the arrays.
fn ordered(members: &[ArrayRef]) -> Result<Vec<SequenceText>> {
    let rows = members.first().map_or(0, |m| m.len());
    let mut out = vec![];
    for row in 0..rows {
        let one: Vec<ArrayRef> = members.iter().map(|m| m.slice(row, 1)).collect();
        out.extend(spool::texts(&one)?);
    }
    Ok(out)
}

#[derive(Debug)]
struct Nowhere;

#[async_trait::async_trait]
impl crate::ledger::RejectSink for Nowhere {
    async fn push(&self, _rows: RecordBatch) -> Result<()> {
        Ok(())
    }
}

pub(super) fn name(column: &str) -> Expr {
    Expr::Column(Column::from_name(column))
}

pub(super) fn scan(table: &str, provider: Arc<dyn datafusion::catalog::TableProvider>) -> Result<LogicalPlanBuilder> {
    Ok(LogicalPlanBuilder::scan(table, provider_as_source(provider), None)?)
}
