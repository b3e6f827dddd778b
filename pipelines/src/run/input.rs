//! Which input a load takes: the files that are new, the contract that they come under, the versions of upstream tables.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::DataType;
use chrono_tz::Tz;
use smelt_connectors::formats::consumed;
use smelt_connectors::sources::{self, SourceFile, SourceSpec};
use smelt_engine::consumed::{Consumed, Seen};
use smelt_engine::contract::{Column, Contract, OnNewColumn};
use smelt_engine::evolve::{grow, merge};
use smelt_engine::ledger::Ledger;
use smelt_engine::steps::Step;
use smelt_engine::table::Snapshot;
use smelt_engine::types::ContractType;
use smelt_engine::{Error, Result};

use crate::bound::{Bound, BoundTable, Mode, OnChangedFile, OnTypeChange};
use crate::look::Look;
use crate::units;

use super::context::RunContext;
use super::retract;

/// The input files of one load.
#[derive(Debug)]
pub struct Taken {
    pub files: Vec<SourceFile>,
    /// Those of them that are in the table in an older state, whose rows have to leave it: paths as in `_file`.
    pub changed: Vec<String>,
    /// Keys of `key=value` folders in the paths.
    pub partition_keys: Vec<String>,
    /// Whether files that are in the table already are read anew.
    pub rebuild: bool,
}

impl Taken {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.mark.size).sum()
    }

    /// Writes down that these files are in the table.
    pub fn record(&self, consumed: &mut Consumed) {
        if self.rebuild {
            consumed.clear();
        }
        for file in &self.files {
            consumed.insert(file.path.as_str(), &file.mark);
        }
    }
}

/// The files that this load has to read; `None` when there is nothing new.
pub async fn take(
    table: &BoundTable,
    source: &str,
    base: &Option<Snapshot>,
    upstream: &BTreeMap<String, u64>,
    cx: &RunContext,
    ledger: &Ledger,
) -> Result<Option<Taken>> {
    let listing = cx.bound.listing(source, cx.look()).await?;
    if listing.too_young > 0 {
        ledger.warn(format!("{} younger than min_age left for the next run", units::plural(listing.too_young as u64, "file")), 0);
    }
    if base.is_some() && listing.too_young > 0 && cx.full_refresh {
        return Err(Error::retry(
            format!("{} younger than min_age: rebuilding now would lose their rows", units::plural(listing.too_young as u64, "file")),
            "run again when they have settled",
        ));
    }
    let replace = table.mode == Mode::Replace;
    let spec = cx.bound.source(source)?;
    // under any name: a source that was renamed does not give its files twice
    let nothing = Consumed::default();
    let seen = match base {
        Some(base) if !cx.full_refresh => &base.checkpoint.files,
        _ => &nothing,
    };
    let prefixes = if replace { vec![String::new()] } else { sources::prefixes(spec, cx.bound.as_ref())? };
    consumed::load(&table.location, seen, &prefixes).await?;
    let dated = spec.dated();
    let in_window = |f: &SourceFile| replace || cx.window.holds(dated.as_ref(), &f.path, f.mark.modified);
    let (mut new, mut changed): (Vec<&SourceFile>, Vec<&SourceFile>) = (vec![], vec![]);
    for file in listing.files.iter().filter(|f| in_window(f)) {
        match seen.seen(&file.path, &file.mark)? {
            Seen::New => new.push(file),
            Seen::Changed => changed.push(file),
            Seen::Same => {}
        }
    }

    // A table that its source replaces is a function of all files that are there now.
    if replace {
        if !cx.window.is_open() {
            ledger.warn("--since and --until do not narrow a table that is replaced: it is made of all its files", 0);
        }
        let redefined = base.as_ref().is_some_and(|b| b.checkpoint.definition != table.definition || b.checkpoint.upstream != *upstream);
        let same = base.is_some() && new.is_empty() && changed.is_empty() && !redefined && !cx.full_refresh;
        if same && !is_gone(seen, &listing.files)? {
            return Ok(None);
        }
        // a file that is still being written would be missing from the new table
        if base.is_some() && listing.too_young > 0 {
            return Ok(None);
        }
        let partition_keys = listing.partition_keys.clone();
        return Ok(Some(Taken { files: listing.files.clone(), changed: vec![], partition_keys, rebuild: true }));
    }

    let mut files: Vec<SourceFile> = new.into_iter().cloned().collect();
    let mut reloaded = vec![];
    if !changed.is_empty() {
        let names = changed.iter().take(3).map(|f| f.path.as_str()).collect::<Vec<_>>().join(", ");
        let more = if changed.len() > 3 { ", …" } else { "" };
        match table.on_changed_file {
            OnChangedFile::Fail => {
                return Err(Error::data(
                    format!("{} changed after being taken in: {names}{more}", units::plural(changed.len() as u64, "file")),
                    if table.mode.change().is_some() {
                        "put corrections into new files with a greater sequence, or set `on_changed_file: ignore` to keep what was taken in, or rebuild the table with --full-refresh"
                    } else {
                        "put corrections into new files, or set `on_changed_file: reload` to take the rows of these files out and load them again, or `ignore` to keep what was taken in, or rebuild the table with --full-refresh"
                    },
                ));
            }
            OnChangedFile::Ignore => ledger.warn(format!("changed after being taken in, and ignored: {names}{more}"), changed.len()),
            OnChangedFile::Reload => {
                if let Some(base) = base {
                    retract::possible(base)?;
                }
                ledger.warn(format!("changed after being taken in, and loaded again: {names}{more}"), changed.len());
                reloaded.extend(changed.iter().map(|f| f.path.clone()));
                files.extend(changed.into_iter().cloned());
                files.sort_by(|a, b| a.path.cmp(&b.path));
            }
        }
    }
    if files.is_empty() && !cx.full_refresh && (base.is_some() || !cx.window.is_open()) {
        return Ok(None);
    }
    Ok(Some(Taken { files, changed: reloaded, partition_keys: listing.partition_keys.clone(), rebuild: cx.full_refresh }))
}

/// Whether a file that was taken in is not there any more.
fn is_gone(seen: &Consumed, present: &[SourceFile]) -> Result<bool> {
    // both are in order
    let mut present = present.iter().map(|f| f.path.as_str()).peekable();
    for path in seen.paths()? {
        while present.next_if(|p| *p < path.as_str()).is_some() {}
        if present.next_if(|p| *p == path).is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The contract for these files: the declared one or the inferred one, widened by folders and by new columns that it may take.
pub async fn contract(
    table: &BoundTable,
    spec: &SourceSpec,
    taken: &Taken,
    base: &Option<Snapshot>,
    timezone: Option<Tz>,
) -> Result<Contract> {
    let mut contract = match &table.contract {
        Some(declared) => declared.clone(),
        None => {
            let columns = if taken.files.is_empty() { vec![] } else { sources::infer(spec, &taken.files, INFER_ROWS).await? };
            let mut inferred = Contract { columns, ..Contract::default() };
            spec.feed_columns(&mut inferred)?;
            zoned(&mut inferred, timezone);
            // steps that change columns in place make the table's types no guide to the input's
            let in_place = |s: &Step| !matches!(s, Step::Clean(_) | Step::Filter(_) | Step::Dedup(_));
            if !taken.rebuild && !table.steps.iter().any(in_place) {
                pin(&mut inferred, base, table.on_type_change);
            }
            inferred
        }
    };
    let mut names: BTreeSet<String> = contract.columns.iter().map(|c| c.name.clone()).collect();
    if contract.on_new_column == OnNewColumn::Add && table.contract.is_some() {
        for (name, ty) in sources::new_members(spec, &taken.files, &contract).await? {
            contract.columns.iter_mut().filter(|c| c.name == name).for_each(|c| c.ty = ty.clone());
        }
        for column in sources::new_columns(spec, &taken.files, &contract).await? {
            if names.insert(column.name.clone()) {
                contract.columns.push(column);
            }
        }
    }
    for key in &taken.partition_keys {
        if names.insert(key.clone()) {
            contract.columns.push(Column::new(key, ContractType::String));
        }
    }
    contract.absent = table.mode.needs_absent(&contract);
    Ok(contract)
}

/// What the files of a source look like, for a table that declares no columns.
pub async fn inferred(bound: &Bound, source: &str, look: impl Into<Look>) -> Result<Contract> {
    let listing = bound.listing(source, look).await?;
    let mut files: Vec<SourceFile> = listing.files.iter().chain(&listing.others).cloned().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let columns = if files.is_empty() { vec![] } else { sources::infer(bound.source(source)?, &files, INFER_ROWS).await? };
    let mut contract = Contract { columns, ..Contract::default() };
    bound.source(source)?.feed_columns(&mut contract)?;
    zoned(&mut contract, bound.timezone);
    for key in &listing.partition_keys {
        if contract.columns.iter().all(|c| &c.name != key) {
            contract.columns.push(Column::new(key, ContractType::String));
        }
    }
    Ok(contract)
}

/// Rows that inference reads from each file.
pub const INFER_ROWS: usize = 10_000;

/// The pipeline's time zone holds for timestamps that carry none.
fn zoned(contract: &mut Contract, timezone: Option<Tz>) {
    for column in contract.columns.iter_mut().filter(|c| c.ty == ContractType::Timestamp && c.timezone.is_none()) {
        column.timezone = timezone;
    }
}

/// An inferred column keeps the type that it has in the table, so that tonight's sample does not change yesterday's types; but it gains
/// members that are new, as the table gains columns, and where types may widen it takes the one that holds both.
fn pin(contract: &mut Contract, base: &Option<Snapshot>, on_type_change: OnTypeChange) {
    let Some(base) = base else { return };
    for column in &mut contract.columns {
        if let Ok(field) = base.schema.field_with_name(&column.name)
            && let Some(ty) = ContractType::from_arrow(&pinned(field.data_type(), &column.ty.arrow(), on_type_change))
            && ty.arrow() != column.ty.arrow()
        {
            column.ty = ty;
        }
    }
}

fn pinned(table: &DataType, inferred: &DataType, on_type_change: OnTypeChange) -> DataType {
    match merge(table, inferred) {
        Some(merged) if on_type_change == OnTypeChange::Widen => merged.ty,
        _ => grow(table, inferred),
    }
}
