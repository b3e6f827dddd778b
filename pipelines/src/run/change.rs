//! The part of a load that is special to `merge`, `scd2`, `bitemporal` and `snapshot`: the rows are events that change rows of the table.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::prelude::SessionContext;
use smelt_engine::change::{self, ChangeMode, ChangeState, Counts, Job, Kind, Missing, Prepared, Way};
use smelt_engine::ledger::Ledger;
use smelt_engine::load::Assembled;
use smelt_engine::steps::Scope;
use smelt_engine::table::{Reads, Remove, Snapshot};
use smelt_engine::write::WriteSpec;
use smelt_engine::{Error, Result, error::Complaint};

use crate::bound::BoundTable;
use crate::report::ChangeReport;
use crate::units;

use super::context::RunContext;
use super::load::Written;

/// The columns of the table, were it new, and those that it is partitioned by: those of the rows, and what a change mode adds.
///
/// # Errors
/// `Error::Pipeline` where the table was made in another mode or by other keys.
pub fn columns(table: &BoundTable, assembled: &Assembled, base: Option<&Snapshot>) -> Result<(SchemaRef, Vec<String>)> {
    let Some(mode) = table.mode.change() else {
        return match base.and_then(|b| b.checkpoint.state.as_ref()) {
            Some(state) => Err(other_mode(table, &state.identity, table.mode.name())),
            None => Ok((Arc::clone(&assembled.schema), assembled.partition_columns.clone())),
        };
    };
    if let Some(base) = base {
        let identity = mode.identity(&assembled.schema);
        match &base.checkpoint.state {
            Some(state) if state.identity != identity => return Err(other_mode(table, &state.identity, &identity)),
            None if base.checkpoint.sequence > 0 => return Err(other_mode(table, "another mode", &identity)),
            None => return Err(other_mode(table, "another tool", &identity)),
            Some(_) => {}
        }
    }
    let shape = change::shape(mode, &assembled.schema, None, &table.partition_by)?;
    Ok((shape.schema, shape.partition_columns))
}

fn other_mode(table: &BoundTable, old: &str, new: &str) -> Error {
    let plain = |text: &str| text.split(" #").next().unwrap_or_default().to_owned();
    let (old, new) = (plain(old), plain(new));
    let message = if old == new {
        format!("{} was written as `{old}` with other settings of sequence, tracked columns, hard_deletes or surrogate_key", table.name)
    } else {
        format!("{} was written as `{old}`, and the pipeline asks for `{new}`", table.name)
    };
    Error::pipeline(
        Complaint::at(["write"], message).help("keep the mode and its keys, or rebuild the table from all input with --full-refresh"),
    )
}

/// One load that changes rows.
#[allow(missing_debug_implementations, reason = "a session has none")]
pub struct Changing<'a> {
    table: &'a BoundTable,
    mode: &'a ChangeMode,
    identity: String,
    job: Job<'a>,
    /// The table is made anew.
    replaces: bool,
}

impl<'a> Changing<'a> {
    /// `base`: the version that the change builds on; `None` where the table is new or rebuilt. `schema`: the table's after the change.
    /// `None` in other modes.
    pub fn new(
        table: &'a BoundTable,
        cx: &'a RunContext,
        session: &'a SessionContext,
        base: Option<&'a Snapshot>,
        rows: &Assembled,
        schema: &SchemaRef,
    ) -> Result<Option<Self>> {
        let Some(mode) = table.mode.change() else { return Ok(None) };
        let shape = change::shape(mode, &rows.schema, base.map(|b| b.schema.as_ref()), &table.partition_by)?;
        let contract = table.contract.as_ref().filter(|c| table.mode.needs_absent(c));
        let missing =
            Missing { columns: shape.missing.clone(), contract: contract.map(|c| c.columns.iter().map(|c| c.name.clone()).collect()) };
        let known = base.cloned();
        let now = cx.now.timestamp_millis();
        let write = WriteSpec {
            prefix: table.format.data_prefix(&known, &cx.batch),
            partition_columns: shape.partition_columns.clone(),
            target_file_size: table.target_file_size,
            ..WriteSpec::new(Arc::clone(&table.location.store), table.location.prefix.clone(), now)
        };
        let job = Job {
            mode,
            shape,
            schema: Arc::clone(schema),
            missing,
            partition_by: &table.partition_by,
            base,
            state: base.and_then(|b| b.checkpoint.state.clone()).unwrap_or_default(),
            was: table.contract.iter().flat_map(|c| &c.columns).map(|c| (c.name.clone(), c.was.clone())).collect(),
            format: table.format.as_ref(),
            write,
            session,
            threads: cx.resources.threads,
            now,
        };
        let identity = mode.identity(&rows.schema);
        Ok(Some(Changing { table, mode, identity, job, replaces: base.is_none() }))
    }

    /// Reads the rows of the load.
    async fn prepare(&self, assembled: &Assembled, scope: &Scope<'_>) -> Result<Prepared> {
        let prepared = self.job.prepare(assembled.plan.clone(), scope).await?;
        if self.mode.kind == Kind::Snapshot && self.table.max_rejected.is_none() {
            // rows without key or sequence end no key; any other that is refused leaves its key out of the extract
            let ledger = ledger(scope)?;
            let harmless: u64 = ledger.rules().iter().filter(|((_, rule), _)| rule == "key" || rule == "sequence").map(|(_, n)| n).sum();
            let refused = Ledger::get(&ledger.quarantined).saturating_sub(harmless);
            if refused > 0 {
                return Err(Error::data(
                    format!("{} of the extract were refused, and their keys would count as deleted", units::plural(refused, "row")),
                    "correct them or the contract, or set `max_rejected` to take the extract without them; nothing was published",
                ));
            }
        }
        Ok(prepared)
    }

    /// Rows that were read, and what they would change.
    pub async fn preview(&self, assembled: &Assembled, scope: &Scope<'_>) -> Result<(u64, ChangeReport)> {
        let prepared = self.prepare(assembled, scope).await?;
        let counts = self.job.preview(&prepared).await?;
        if counts.ties > 0 {
            warn_ties(scope, counts.ties)?;
        }
        Ok((self.judged(prepared.events(), &counts, prepared.truncates()), report(&counts, &prepared.way)))
    }

    /// Writes the files of the change.
    pub async fn execute(&self, assembled: &Assembled, scope: &Scope<'_>) -> Result<Written> {
        let prepared = self.prepare(assembled, scope).await?;
        let mut applied = self.job.execute(&prepared).await?;
        let counts = applied.counts;
        let idle = counts.inserted + counts.updated + counts.deleted + counts.opened + counts.closed == 0;
        if idle && !self.replaces {
            // the same rows again: the files that are there may stay
            smelt_engine::write::discard(&self.job.write, &applied.add).await;
            applied.add.clear();
            applied.remove.clear();
            applied.way.rewritten = 0;
            applied.way.bytes = 0;
        }
        if counts.ties > 0 {
            warn_ties(scope, counts.ties)?;
        }
        Ok(Written {
            rows: self.judged(prepared.events(), &counts, prepared.truncates()),
            batch: prepared.batch()?,
            removes: Some(match self.replaces {
                true => (Remove::Everything, Reads::Everything),
                false => (Remove::Files(applied.remove), self.job.reads(&prepared)?),
            }),
            files: applied.add,
            state: Some(ChangeState { identity: self.identity.clone(), ..applied.state }),
            remembered: applied.remembered,
            change: Some(report(&counts, &applied.way)),
        })
    }

    /// Rows that came to the change and were not refused by it. In a snapshot, rows that show nothing new are not looked at again.
    fn judged(&self, events: u64, counts: &Counts, truncates: u64) -> u64 {
        if self.mode.kind == Kind::Snapshot { events } else { counts.events + truncates }
    }
}

fn ledger(scope: &Scope<'_>) -> Result<Arc<Ledger>> {
    let ledger = scope.session.state_ref().read().config().get_extension::<Ledger>();
    ledger.ok_or_else(|| Error::bug("no ledger in the session"))
}

fn warn_ties(scope: &Scope<'_>, ties: u64) -> Result<()> {
    ledger(scope)?.warn("different rows of one key with the same sequence; the greater row hash was kept", ties as usize);
    Ok(())
}

fn report(counts: &Counts, way: &Way) -> ChangeReport {
    ChangeReport {
        inserted: counts.inserted,
        updated: counts.updated,
        deleted: counts.deleted,
        unchanged: counts.unchanged,
        versions_opened: counts.opened,
        versions_closed: counts.closed,
        late: counts.late,
        way: way.to_string(),
        files_rewritten: way.rewritten as u64,
        bytes_rewritten: way.bytes,
    }
}
