//! Carries a change out: which files can hold a touched key, what of them stays as it is, and what the events make of the rest.
//!
//! ```text
//! events -> spool (memory or disk) -> touched keys -> files that hold one
//! touched files: rows of untouched keys ------------------------------------------> write
//!                rows of touched keys, remembered events, new events -> by key -> resolve -> write
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast as cast_array;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::functions::expr_fn::{concat, md5};
use datafusion::functions::unicode::expr_fn::character_length;
use datafusion::logical_expr::{EmptyRelation, Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use futures::{StreamExt, TryStreamExt};

use super::config::{ChangeState, ChangeTies, HardDeletes, SequenceText, SurrogateType};
use super::events::{Missing, inherits, plan_events, too_late};
use super::group::{Counts, Listed, Rules};
use super::keyset::{KeySet, touched};
use super::plan::{ChangeMode, DELETE, Kind, Layout, REMEMBERED, UPSERT, VISIBLE, extra, meta};
use super::resolve::{ChangeLog, Resolve, event_schema, memory_schema, resolve};
use super::row_hash::row_hash;
use super::spool::{self, Late, Spool, spool};
use crate::contract::hidden;
use crate::error::{Error, Result};
use crate::steps::{Scope, under};
use crate::table::{DataFile, Snapshot, TableFormat};
use crate::write::{self, PartitionBy, QuarantineSink, Transform, WriteSpec, plan_partitions};

/// Below the table's root: where what the rows do not show is remembered.
pub const MEMORY_FOLDER: &str = "_smelt/state";
/// So many files of remembered events are merged into one.
const MEMORY_FILES: usize = 16;

/// The columns of a table under a change mode.
#[derive(Debug, Clone)]
pub struct Shape {
    pub layout: Layout,
    /// All columns of the table, in the order of a new one.
    pub schema: SchemaRef,
    pub partition_columns: Vec<String>,
    /// Columns of the table that the rows do not have any more.
    pub missing: Vec<String>,
}

/// Divides the columns of `rows` (what the steps give) and of the table, if there is one.
///
/// # Errors
/// `Error::Pipeline`, paths from the table: `write.merge.keys.0`, `partition_by.1`.
pub fn shape(mode: &ChangeMode, rows: &Schema, base: Option<&Schema>, partition_by: &[PartitionBy]) -> Result<Shape> {
    let computed: BTreeSet<String> = partition_by.iter().filter(|p| p.transform != Transform::Identity).map(PartitionBy::name).collect();
    let surrogate = mode.surrogate_key.as_ref().map(|s| s.name.as_str());
    let added = mode.extras(&DataType::Int64, &[]);
    let left_out = |name: &str| {
        let sequence: &[String] = if mode.kind == Kind::Snapshot { &mode.sequence } else { &[] };
        mode.except.iter().chain(sequence).any(|n| n == name)
    };
    let own = |name: &str| {
        let of_mode = surrogate == Some(name) || added.iter().any(|f| f.name() == name);
        !of_mode && !computed.contains(name)
    };
    let missing: Vec<String> = base
        .iter()
        .flat_map(|b| b.fields())
        .filter(|f| own(f.name()) && (rows.field_with_name(f.name()).is_err() || left_out(f.name())))
        .map(|f| f.name().clone())
        .collect();
    // what the table has stored stays in its place, whether it is still given or not
    let stored = |name: &String| base.is_some_and(|b| b.field_with_name(name).is_ok()) && own(name);
    let mode = &ChangeMode { except: mode.except.iter().filter(|e| !stored(e)).cloned().collect(), ..mode.clone() };
    // the order of the table, then what is new
    let mut fields: Vec<Field> = vec![];
    for field in base.iter().flat_map(|b| b.fields()).filter(|f| own(f.name())) {
        let field = rows.field_with_name(field.name()).unwrap_or(field);
        fields.push(Field::new(field.name(), field.data_type().clone(), true));
    }
    for field in rows.fields().iter().filter(|f| !hidden::RESERVED.contains(&f.name().as_str()) || f.name() == hidden::RESCUED) {
        if !fields.iter().any(|f| f.name() == field.name()) {
            fields.push(Field::new(field.name(), field.data_type().clone(), true));
        }
    }
    let layout = mode.layout(&Schema::new(fields)).map_err(|e| under(e, &["write", mode.name()]))?;
    let schema = mode.table_schema(&layout);
    let relation = EmptyRelation { produce_one_row: false, schema: Arc::new(DFSchema::try_from(schema)?) };
    let (plan, partition_columns) =
        plan_partitions(LogicalPlan::EmptyRelation(relation), partition_by).map_err(|e| under(e, &["partition_by"]))?;
    let fields: Vec<Field> = plan.schema().as_arrow().fields().iter().map(|f| Field::new(f.name(), f.data_type().clone(), true)).collect();
    Ok(Shape { layout, schema: Arc::new(Schema::new(fields)), partition_columns, missing })
}

/// Plans a change without any table or data: everything that can be wrong with its configuration is found.
pub fn check(mode: &ChangeMode, rows: LogicalPlan, schema: &Schema, partition_by: &[PartitionBy], scope: &Scope<'_>) -> Result<Shape> {
    let shape = shape(mode, schema, None, partition_by)?;
    plan_events(rows, mode, &shape.layout, &Missing::default(), scope, 0).map_err(|e| under(e, &["write", mode.name()]))?;
    Ok(shape)
}

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
    listed: Vec<ArrayRef>,
    fresh: Vec<bool>,
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
    fn cutoff(&self) -> i64 {
        if self.mode.kind == Kind::Snapshot { i64::MIN / 2 } else { self.now - self.mode.tombstones.milliseconds }
    }

    /// The times of the extracts of this load.
    async fn extracts(&self, spool: &Spool) -> Result<BTreeSet<SequenceText>> {
        if spool.rows == 0 && !self.mode.allow_empty {
            return Err(Error::data(
                "the extract has no rows, which would end every key of the table",
                "check the source; if the extract really is empty, set `allow_empty: true`; nothing was published",
            ));
        }
        if spool.rows == 0 && !self.mode.sequence.is_empty() {
            return Err(Error::data(
                format!("the extract has no rows, so nothing says when it was taken (`{}`)", self.mode.sequence.join(", ")),
                "take the empty files away, or leave `taken_at` out so that the batch's time holds; nothing was published",
            ));
        }
        let taken = if self.mode.sequence.is_empty() {
            spool::texts(&[ScalarValue::TimestampMicrosecond(Some(self.now * 1000), Some("UTC".into())).to_array()?])?
        } else {
            spool.extracts.clone()
        };
        self.once(spool).await?;
        Ok(taken)
    }

    /// No key may be twice in one extract.
    async fn once(&self, spool: &Spool) -> Result<()> {
        let by: Vec<Expr> = self.mode.keys.iter().map(|k| name(k)).chain([name(&meta::sequence(0))]).collect();
        let count = datafusion::functions_aggregate::count::count_all().alias("__rows");
        let plan = scan("extract", spool.provider()?)?.aggregate(by, [count])?.filter(name("__rows").gt(lit(1i64)))?;
        let twice = plan.aggregate(Vec::<Expr>::new(), [datafusion::functions_aggregate::count::count_all().alias("n")])?.build()?;
        let exec = self.session.state().create_physical_plan(&twice).await?;
        let found = collect(exec, self.session.task_ctx()).await?;
        let found = found.first().map_or(0, |b| b.column(0).as_primitive::<Int64Type>().value(0));
        if found > 0 {
            return Err(Error::data(
                format!("{found} keys are more than once in one extract, by {}", self.mode.keys.join(", ")),
                "correct the keys, or keep one row of each with a dedup step; nothing was published",
            ));
        }
        Ok(())
    }

    /// The keys that an extract shows otherwise than the table does.
    async fn differing(&self, spool: &Spool, listed: &[ArrayRef], fresh: &[bool]) -> Result<KeySet> {
        // a late extract, or several at once, is compared with versions that have ended too: by all keys
        let newest = fresh.last() == Some(&true) && fresh.iter().filter(|f| **f).count() == 1;
        let Some(base) = self.base.filter(|b| newest && !b.files.is_empty() && !listed.is_empty()) else { return Ok(KeySet::everything()) };
        let layout = &self.shape.layout;
        let session = self.session;
        let values: Vec<&Field> = layout.values.iter().map(|v| layout.stored[*v].as_ref()).collect();
        let keys: Vec<Expr> = self.mode.keys.iter().map(|k| name(k)).collect();
        let columns = |hash: Expr| keys.iter().cloned().chain([hash.alias("__hash")]).collect::<Vec<_>>();
        let new = scan("extract", spool.provider()?)?.project(columns(row_hash(&values)))?.build()?;
        let provider = self.format.provider(&self.with_files(base, base.files.to_vec())).await?;
        // without columns that are updated in place, the table has the hash already
        let hash = if self.mode.track.is_none() { name(extra::ROW_HASH) } else { row_hash(&values) };
        let mut current = name(extra::VALID_TO).is_null();
        if self.mode.hard_deletes == HardDeletes::NewRecord {
            current = current.and(name(extra::IS_DELETED).is_not_true());
        }
        let old = scan("current", provider)?.filter(current)?.project(columns(hash))?.build()?;
        session.register_table("__new", session.execute_logical_plan(new).await?.into_view())?;
        session.register_table("__old", session.execute_logical_plan(old).await?.into_view())?;
        let quoted: Vec<String> = self.mode.keys.iter().map(|k| format!("\"{}\"", k.replace('"', "\"\""))).collect();
        let on = quoted.iter().map(|k| format!("n.{k} = o.{k}")).collect::<Vec<_>>().join(" and ");
        let either = quoted.iter().map(|k| format!("coalesce(n.{k}, o.{k}) as {k}")).collect::<Vec<_>>().join(", ");
        let mut sql = format!("select {either} from \"__new\" n full join \"__old\" o on {on} where n.__hash is distinct from o.__hash");
        if self.mode.hard_deletes == HardDeletes::Ignore && !self.state.files.is_empty() {
            // keys that are known to be away: still away is no change, back again is one
            let memory = self.memory_scan(&self.state.files).await?.build()?;
            session.register_table("__memory", session.execute_logical_plan(memory).await?.into_view())?;
            let list = quoted.join(", ");
            let away = format!(
                "select {list} from (select {list}, \"__op\", row_number() over (partition by {list} order by \"__seq0\" desc) as __nth from \"__memory\") where __nth = 1 and \"__op\" = {DELETE}"
            );
            let on_away = |side: &str| quoted.iter().map(|k| format!("{side}.{k} = a.{k}")).collect::<Vec<_>>().join(" and ");
            let changed = quoted.iter().map(|k| format!("c.{k}")).collect::<Vec<_>>().join(", ");
            let back = quoted.iter().map(|k| format!("n.{k}")).collect::<Vec<_>>().join(", ");
            sql = format!(
                "with a as ({away}), c as ({sql}) select {changed} from c left anti join a on {} union all select {back} from \"__new\" n inner join a on {}",
                on_away("c"),
                on_away("n")
            );
        }
        let plan = session.state().create_logical_plan(&sql).await?;
        let exec = session.state().create_physical_plan(&plan).await?;
        let mut stream = datafusion::physical_plan::execute_stream(exec, session.task_ctx())?;
        let mut set = KeySet::default();
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            let keys = batch
                .columns()
                .iter()
                .zip(&layout.keys)
                .map(|(c, k)| cast_array(c, layout.stored[*k].data_type()))
                .collect::<Result<Vec<_>, _>>()?;
            set.insert(&keys)?;
        }
        drop(stream);
        for table in ["__new", "__old", "__memory"] {
            session.deregister_table(table)?;
        }
        Ok(set)
    }

    fn with_files(&self, base: &Snapshot, files: Vec<DataFile>) -> Snapshot {
        Snapshot { schema: Arc::clone(&self.schema), files: Arc::new(files), ..base.clone() }
    }

    /// The files of the table that hold a touched key, and how many were looked into for it.
    async fn touched_files(&self, spool: &Spool, keys: &Arc<KeySet>) -> Result<(Vec<DataFile>, usize)> {
        let Some(base) = self.base.filter(|b| !b.files.is_empty()) else { return Ok((vec![], 0)) };
        if keys.all {
            return Ok((base.files.to_vec(), 0));
        }
        let snapshot = self.mode.kind == Kind::Snapshot;
        let mut may = vec![true; base.files.len()];
        for key in self.shape.layout.keys.iter().filter(|_| !snapshot) {
            let Some(sorted) = spool.sorted(*key)? else { continue };
            let column = self.shape.layout.stored[*key].name();
            let prune = |may: &mut Vec<bool>, sorted: &ArrayRef, column: &str| -> Result<()> {
                let (min, max) = self.format.bounds(base, column)?;
                for (may, hit) in may.iter_mut().zip(&spool::ranges_hit(sorted, &min, &max)?) {
                    *may &= hit != Some(false);
                }
                Ok(())
            };
            prune(&mut may, &sorted, column)?;
            // a partition that is computed from a key is known for each key
            for by in self.partition_by.iter().filter(|p| p.column == *column && p.transform != Transform::Identity) {
                let values = by.values(&sorted)?;
                let converter = RowConverter::new(vec![SortField::new(values.data_type().clone())])?;
                let rows = converter.convert_columns(&[values])?;
                let distinct: BTreeSet<_> = rows.iter().collect();
                if let Some(values) = converter.convert_rows(distinct)?.first() {
                    prune(&mut may, values, &by.name())?;
                }
            }
        }
        let candidates: Vec<DataFile> = base.files.iter().zip(may).filter(|(_, may)| *may).map(|(f, _)| f.clone()).collect();
        let searched = candidates.len();
        let hits: Vec<Option<DataFile>> = futures::stream::iter(candidates)
            .map(|file| async move {
                let provider = self.format.provider(&self.with_files(base, vec![file.clone()])).await?;
                Ok::<_, Error>(self.holds(scan("t", provider)?, keys).await?.then_some(file))
            })
            .buffered(self.threads.max(1))
            .try_collect()
            .await?;
        Ok((hits.into_iter().flatten().collect(), searched))
    }

    /// Whether a touched key is among the rows.
    async fn holds(&self, rows: LogicalPlanBuilder, keys: &Arc<KeySet>) -> Result<bool> {
        let columns: Vec<Expr> = self.mode.keys.iter().map(|k| name(k)).collect();
        let plan = rows.project(columns.clone())?.filter(touched(keys, columns, false))?.limit(0, Some(1))?.build()?;
        let state = self.session.state();
        let exec = state.create_physical_plan(&plan).await?;
        let found = collect(exec, self.session.task_ctx()).await?;
        Ok(found.iter().any(|b| b.num_rows() > 0))
    }

    async fn touched_memory(&self, keys: &Arc<KeySet>, all: bool) -> Result<Vec<DataFile>> {
        let files = &self.state.files;
        if all || keys.all || files.len() > MEMORY_FILES {
            return Ok(files.clone());
        }
        let mut touched = vec![];
        for file in files {
            if self.holds(self.memory_scan(std::slice::from_ref(file)).await?, keys).await? {
                touched.push(file.clone());
            }
        }
        Ok(touched)
    }

    /// Remembered events. Files from before a column was renamed still have its old name.
    async fn memory_scan(&self, files: &[DataFile]) -> Result<LogicalPlanBuilder> {
        let schema = memory_schema(&self.shape.layout);
        let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut columns = vec![];
        for field in schema.fields() {
            let mut either = vec![name(field.name())];
            for old in self.was.get(field.name()).into_iter().flatten().filter(|old| schema.field_with_name(old).is_err()) {
                fields.push(field.as_ref().clone().with_name(old));
                either.push(name(old));
            }
            let column = if either.len() > 1 { datafusion::functions::core::expr_fn::coalesce(either) } else { name(field.name()) };
            columns.push(column.alias(field.name()));
        }
        let snapshot = Snapshot {
            version: 0,
            rewrites: 0,
            schema: Arc::new(Schema::new(fields)),
            partition_columns: vec![],
            files: Arc::new(files.to_vec()),
            checkpoint: Default::default(),
            state: Arc::new(()),
        };
        Ok(scan("memory", self.format.provider(&snapshot).await?)?.project(columns)?)
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

    fn table_columns(&self) -> Vec<Expr> {
        self.schema.fields().iter().map(|f| name(f.name()).alias(f.name())).collect()
    }

    fn rules(&self, prepared: &Prepared) -> Result<Rules> {
        let layout = &self.shape.layout;
        let whole = RowConverter::new(layout.sequence_types.iter().map(|t| SortField::new(t.clone())).collect())?;
        let first = RowConverter::new(vec![SortField::new(layout.sequence_types[0].clone())])?;
        let bytes = |members: &[ArrayRef]| -> Result<Vec<Listed>> {
            let (firsts, wholes) = (first.convert_columns(&members[..1])?, whole.convert_columns(members)?);
            Ok(firsts.iter().zip(wholes.iter()).map(|(f, w)| (f.data().into(), w.data().into())).collect())
        };
        let forgotten = match &self.state.forgotten {
            Some(text) => bytes(&spool::arrays(std::iter::once(text), layout)?)?.into_iter().next().map(|(_, whole)| whole),
            None => None,
        };
        let inherits = inherits(self.mode, &self.missing);
        Ok(Rules {
            shape: self.mode.shape(),
            bitemporal: self.mode.kind == Kind::Bitemporal,
            inherits,
            // a table that remembers partial events goes on with them when no new ones come
            partial: inherits || !self.state.files.is_empty(),
            composite: layout.sequence_types.len() > 1,
            forgotten,
            cutoff: self.cutoff(),
            listed: if prepared.listed.is_empty() { vec![] } else { bytes(&prepared.listed)? },
            fresh: prepared.fresh.clone(),
        })
    }

    /// Rows of the table as events.
    fn visible_columns(&self) -> Result<Vec<Expr>> {
        let (layout, history) = (&self.shape.layout, self.mode.is_history());
        let stored = layout.stored.len();
        let schema = event_schema(layout);
        let column = |(i, field): (usize, &Arc<Field>)| -> Result<Expr> {
            let null = || -> Result<Expr> { Ok(Expr::Literal(ScalarValue::try_from(field.data_type())?, None)) };
            let expr = match field.name().as_str() {
                text if i < stored => name(text),
                meta::OP if self.mode.kind == Kind::Snapshot && self.mode.hard_deletes == HardDeletes::NewRecord => {
                    datafusion::logical_expr::when(name(extra::IS_DELETED), lit(DELETE)).otherwise(lit(UPSERT))?
                }
                meta::OP => lit(UPSERT),
                meta::ORIGIN => lit(VISIBLE),
                meta::TO if history => name(extra::VALID_TO),
                meta::SYSTEM if self.mode.kind == Kind::Bitemporal => name(extra::SYSTEM_FROM),
                meta::GIVEN | meta::TO | meta::RECORDED | meta::SYSTEM | hidden::FILE | hidden::LINE => null()?,
                _ => match (i - stored, history) {
                    (member, false) if layout.sequence[member].is_some() => name(&layout.sequence_names[member]),
                    (member, false) => {
                        datafusion::functions::core::expr_fn::get_field(name(extra::SEQUENCE), layout.sequence_names[member].as_str())
                    }
                    (_, true) if layout.sequence_types.len() == 1 => name(extra::VALID_FROM),
                    (member, true) => {
                        datafusion::functions::core::expr_fn::get_field(name(extra::SEQUENCE), layout.sequence_names[member].as_str())
                    }
                },
            };
            Ok(expr.alias(field.name()))
        };
        schema.fields().iter().enumerate().map(column).collect()
    }

    /// Remembered events as events.
    fn remembered_columns(&self) -> Result<Vec<Expr>> {
        let layout = &self.shape.layout;
        let known = memory_schema(layout);
        let column = |field: &Arc<Field>| -> Result<Expr> {
            let expr = match field.name().as_str() {
                meta::ORIGIN => lit(REMEMBERED),
                text if known.field_with_name(text).is_ok() => name(text),
                _ => Expr::Literal(ScalarValue::try_from(field.data_type())?, None),
            };
            Ok(expr.alias(field.name()))
        };
        event_schema(layout).fields().iter().map(column).collect()
    }

    /// The operator's columns, with the surrogate key in its place.
    fn with_surrogate(&self) -> Result<Vec<Expr>> {
        let stored = self.shape.layout.stored.iter().map(|f| name(f.name()));
        let extras = self.mode.extras(&DataType::Int64, &[]);
        let mut columns: Vec<Expr> = stored.collect();
        if let Some(key) = &self.mode.surrogate_key {
            let mut parts: Vec<Expr> = self.mode.keys.iter().map(|k| name(k)).collect();
            if self.mode.is_history() {
                parts.push(name(extra::VALID_FROM));
            }
            let expr = match key.ty {
                // the length of each part keeps ("a", "bc") and ("ab", "c") apart
                SurrogateType::String => {
                    let text = parts.into_iter().flat_map(|p| {
                        let text = cast(p, DataType::Utf8);
                        [cast(character_length(text.clone()), DataType::Utf8), lit(":"), text]
                    });
                    cast(md5(concat(text.collect())), DataType::Utf8View)
                }
                SurrogateType::Int64 => {
                    let fields: Vec<Field> =
                        parts.iter().enumerate().map(|(i, _)| Field::new(i.to_string(), DataType::Null, true)).collect();
                    let hash = super::row_hash::hash_of(&fields.iter().collect::<Vec<_>>(), parts);
                    datafusion::logical_expr::binary_expr(hash, datafusion::logical_expr::Operator::BitwiseAnd, lit(i64::MAX))
                }
            };
            columns.push(expr.alias(&key.name));
        }
        columns.extend(extras.iter().map(|f| name(f.name())));
        Ok(columns)
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

fn name(column: &str) -> Expr {
    Expr::Column(Column::from_name(column))
}

fn scan(table: &str, provider: Arc<dyn datafusion::catalog::TableProvider>) -> Result<LogicalPlanBuilder> {
    Ok(LogicalPlanBuilder::scan(table, provider_as_source(provider), None)?)
}
