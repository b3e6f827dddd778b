//! Which input a load takes: the files that are new, the contract that they come under, the versions of upstream tables.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::DataType;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use smelt_connectors::sources::{self, SourceFile, SourceSpec};
use smelt_engine::contract::{Column, Contract, OnNewColumn};
use smelt_engine::evolve::{grow, merge};
use smelt_engine::ledger::Ledger;
use smelt_engine::steps::Step;
use smelt_engine::table::{FileMark, Snapshot};
use smelt_engine::types::ContractType;
use smelt_engine::{Error, Result};

use crate::bound::{Bound, BoundTable, Mode, OnChangedFile, OnTypeChange};
use crate::units;

use super::context::RunContext;

/// The input files of one load.
#[derive(Debug)]
pub struct Taken {
    pub files: Vec<SourceFile>,
    /// What the checkpoint records after the load, for this source.
    pub consumed: BTreeMap<String, FileMark>,
    /// Keys of `key=value` folders in the paths.
    pub partition_keys: Vec<String>,
    /// Whether files that are in the table already are read anew.
    pub rebuild: bool,
}

impl Taken {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.mark.size).sum()
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
    let listing = cx.bound.listing(source, cx.now).await?;
    if listing.too_young > 0 {
        ledger.warn(format!("{} younger than min_age left for the next run", units::plural(listing.too_young as u64, "file")), 0);
    }
    if base.is_some() && listing.too_young > 0 && cx.full_refresh {
        return Err(Error::retry(
            format!("{} younger than min_age: rebuilding now would lose their rows", units::plural(listing.too_young as u64, "file")),
            "run again when they have settled",
        ));
    }
    // under any name: a source that was renamed does not give its files twice
    let seen: BTreeMap<String, FileMark> = match base {
        Some(base) if !cx.full_refresh => base.checkpoint.files.values().flatten().map(|(p, m)| (p.clone(), m.clone())).collect(),
        _ => BTreeMap::new(),
    };
    let changed: Vec<&SourceFile> = listing.files.iter().filter(|f| seen.get(&f.path).is_some_and(|mark| !same(mark, &f.mark))).collect();
    let new: Vec<&SourceFile> = listing.files.iter().filter(|f| !seen.contains_key(&f.path)).collect();
    let marks = |files: &[SourceFile]| files.iter().map(|f| (f.path.clone(), f.mark.clone())).collect::<BTreeMap<_, _>>();

    // A table that its source replaces is a function of all files that are there now.
    if table.mode == Mode::Replace {
        let present: BTreeSet<&str> = listing.files.iter().map(|f| f.path.as_str()).collect();
        let gone = seen.keys().any(|path| !present.contains(path.as_str()));
        let redefined = base.as_ref().is_some_and(|b| b.checkpoint.definition != table.definition || b.checkpoint.upstream != *upstream);
        if base.is_some() && new.is_empty() && changed.is_empty() && !gone && !redefined && !cx.full_refresh {
            return Ok(None);
        }
        // a file that is still being written would be missing from the new table
        if base.is_some() && listing.too_young > 0 {
            return Ok(None);
        }
        let consumed = marks(&listing.files);
        return Ok(Some(Taken { files: listing.files.clone(), consumed, partition_keys: listing.partition_keys.clone(), rebuild: true }));
    }

    if !changed.is_empty() {
        let names = changed.iter().take(3).map(|f| f.path.as_str()).collect::<Vec<_>>().join(", ");
        let more = if changed.len() > 3 { ", …" } else { "" };
        match table.on_changed_file {
            OnChangedFile::Fail => {
                return Err(Error::data(
                    format!("{} changed after being taken in: {names}{more}", units::plural(changed.len() as u64, "file")),
                    "put corrections into new files, or set `on_changed_file: ignore` to keep what was taken in, or rebuild the table with --full-refresh",
                ));
            }
            OnChangedFile::Ignore => ledger.warn(format!("changed after being taken in, and ignored: {names}{more}"), changed.len()),
        }
    }
    let new: Vec<SourceFile> = new.into_iter().cloned().collect();
    if new.is_empty() && base.is_some() && !cx.full_refresh {
        return Ok(None);
    }
    let mut consumed = seen;
    consumed.extend(marks(&new));
    Ok(Some(Taken { files: new, consumed, partition_keys: listing.partition_keys.clone(), rebuild: cx.full_refresh }))
}

/// Equal marks mean equal bytes. An etag decides where both have one; a copy in place can keep size and time.
fn same(a: &FileMark, b: &FileMark) -> bool {
    match (&a.etag, &b.etag) {
        (Some(x), Some(y)) => x == y && a.size == b.size,
        _ => a.size == b.size && a.modified == b.modified,
    }
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
pub async fn inferred(bound: &Bound, source: &str, now: DateTime<Utc>) -> Result<Contract> {
    let listing = bound.listing(source, now).await?;
    let columns = if listing.files.is_empty() { vec![] } else { sources::infer(bound.source(source)?, &listing.files, INFER_ROWS).await? };
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
