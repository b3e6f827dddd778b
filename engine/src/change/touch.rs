//! What a change touches: the keys that an extract shows otherwise, the files that hold a touched key, and what is remembered of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast as cast_array;
use arrow::datatypes::{Field, Int64Type, Schema};
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use datafusion::physical_plan::collect;
use futures::{StreamExt, TryStreamExt};

use super::apply::{Job, name, scan};
use super::config::{HardDeletes, SequenceText};
use super::keyset::{KeySet, touched};
use super::plan::{DELETE, Kind, extra, meta};
use super::resolve::memory_schema;
use super::row_hash::row_hash;
use super::spool::{self, Spool};
use crate::error::{Error, Result};
use crate::table::{DataFile, Snapshot};
use crate::write::Transform;

/// So many files of remembered events are merged into one.
const MEMORY_FILES: usize = 16;

impl Job<'_> {
    /// The times of the extracts of this load.
    pub(super) async fn extracts(&self, spool: &Spool) -> Result<BTreeSet<SequenceText>> {
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
    pub(super) async fn once(&self, spool: &Spool) -> Result<()> {
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
    pub(super) async fn differing(&self, spool: &Spool, listed: &[ArrayRef], fresh: &[bool]) -> Result<KeySet> {
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

    pub(super) fn with_files(&self, base: &Snapshot, files: Vec<DataFile>) -> Snapshot {
        Snapshot { schema: Arc::clone(&self.schema), files: Arc::new(files), ..base.clone() }
    }

    /// The files of the table that hold a touched key, and how many were looked into for it.
    pub(super) async fn touched_files(&self, spool: &Spool, keys: &Arc<KeySet>) -> Result<(Vec<DataFile>, usize)> {
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
    pub(super) async fn holds(&self, rows: LogicalPlanBuilder, keys: &Arc<KeySet>) -> Result<bool> {
        let columns: Vec<Expr> = self.mode.keys.iter().map(|k| name(k)).collect();
        let plan = rows.project(columns.clone())?.filter(touched(keys, columns, false))?.limit(0, Some(1))?.build()?;
        let state = self.session.state();
        let exec = state.create_physical_plan(&plan).await?;
        let found = collect(exec, self.session.task_ctx()).await?;
        Ok(found.iter().any(|b| b.num_rows() > 0))
    }

    pub(super) async fn touched_memory(&self, keys: &Arc<KeySet>, all: bool) -> Result<Vec<DataFile>> {
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
    pub(super) async fn memory_scan(&self, files: &[DataFile]) -> Result<LogicalPlanBuilder> {
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
}
