//! `smelt validate` and `smelt plan`: what is wrong with a pipeline, and what its next run would do. Both change nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use chrono::Utc;
use smelt_connectors::sources::infer::contract_yaml;
use smelt_engine::evolve::ChangeKind;
use smelt_engine::ledger::Ledger;
use smelt_engine::session::Resources;
use smelt_engine::table::BatchId;
use smelt_engine::{Error, Result};

use crate::bind;
use crate::bound::{Bound, BoundTable, Input, Mode};
use crate::check::{CheckedTable, check, check_lake};
use crate::cli::{LogFormat, PipelineArgs};
use crate::console::Console;
use crate::run::context::{RunContext, identity};
use crate::run::{RunOptions, evolve, input};
use crate::units;

/// Checks YAML, SQL, graph and references.
pub fn validate(args: &PipelineArgs, log: LogFormat) -> u8 {
    let console = Console::new(log);
    let done = console.block_on(1, async {
        let bound = bind::open(args, bind::Secrets::Optional).await.map_err(|f| console.diagnostics(&f))?;
        let tables = check(&bound, &RunOptions::new(Utc::now())).await.map_err(|f| console.failure(&bound, f))?;
        check_lake(&bound, &tables).await.map_err(|f| console.failure(&bound, f))?;
        Ok((bound.name.clone(), tables.len(), bound.sources.len()))
    });
    match done {
        Ok((name, tables, sources)) => {
            println!("{name}: {} and {} are valid", units::plural(tables as u64, "table"), units::plural(sources as u64, "source"));
            0
        }
        Err(code) => code,
    }
}

/// Shows what the next run would do.
pub fn plan(args: &PipelineArgs, log: LogFormat) -> u8 {
    let console = Console::new(log);
    let done = console.block_on(2, async {
        let bound = Arc::new(bind::open(args, bind::Secrets::Optional).await.map_err(|f| console.diagnostics(&f))?);
        let options = RunOptions::new(Utc::now());
        let checked = check(&bound, &options).await.map_err(|f| console.failure(&bound, f))?;
        check_lake(&bound, &checked).await.map_err(|f| console.failure(&bound, f))?;
        text(&bound, &checked, &options).await.map_err(|e| console.error(&e))
    });
    match done {
        Ok(text) => {
            print!("{text}");
            0
        }
        Err(code) => code,
    }
}

/// The plan as a terminal shows it.
pub async fn text(bound: &Arc<Bound>, checked: &[CheckedTable], options: &RunOptions) -> Result<String> {
    let resources = Resources::new(64 << 20, 1, None)?;
    let cx = RunContext::new(Arc::clone(bound), resources, BatchId("plan".into()), options.now);
    let mut out = String::new();
    let _ = writeln!(out, "{} ({}) into {}\n", bound.name, bound.environment, bound.lake_shown());
    let mut touched: Vec<String> = vec![];
    for table in &bound.tables {
        let Some(checked) = checked.iter().find(|c| c.name == table.name) else { continue };
        let (line, changes) = table_line(bound, table, &cx, &touched).await?;
        if changes {
            touched.push(table.name.to_string());
        }
        let _ = writeln!(out, "{} {:<28} {line}", if changes { "~" } else { " " }, table.name.to_string());
        for note in schema_notes(table, checked, &cx).await? {
            let _ = writeln!(out, "    {note}");
        }
        if let Some(contract) = &checked.inferred {
            let _ = writeln!(out, "    the columns are inferred; paste this to fix them:\n");
            for line in contract_yaml(&contract.columns).lines() {
                let _ = writeln!(out, "    {line}");
            }
            out.push('\n');
        }
    }
    let _ = match touched.len() {
        0 => writeln!(out, "\nNothing new: a run would change no table."),
        n => writeln!(out, "\nA run would publish {}.", units::plural(n as u64, "table")),
    };
    Ok(out)
}

async fn table_line(bound: &Bound, table: &BoundTable, cx: &RunContext, touched: &[String]) -> Result<(String, bool)> {
    let base = cx.snapshot(table).await?;
    let how = format!("{}, {}", table.mode.name(), table.format.name());
    let state = match &base {
        None => "new table".to_owned(),
        Some(base) => format!("version {}, {}", base.version, units::plural(base.files.len() as u64, "file")),
    };
    Ok(match &table.input {
        Input::Source(source) => {
            match input::take(table, source, &base, &upstream(bound, table, cx).await?, cx, &Ledger::default()).await {
                Ok(None) => (format!("up to date ({state})"), false),
                Ok(Some(taken)) => {
                    let what = format!("{} of {source}, {}", units::plural(taken.files.len() as u64, "file"), units::bytes(taken.bytes()));
                    (format!("reads {what}; {how} ({state})"), true)
                }
                Err(Error::Data { message, .. }) => (format!("would fail: {message}"), false),
                Err(other) => return Err(other),
            }
        }
        Input::Sql(_) => {
            let reads: Vec<String> = bound.reads(&table.name).map(|t| t.name.to_string()).collect();
            let versions = upstream(bound, table, cx).await?;
            let fresh = base.as_ref().is_some_and(|b| b.checkpoint.upstream == versions && b.checkpoint.definition == table.definition);
            if fresh && reads.iter().all(|r| !touched.contains(r)) {
                (format!("up to date ({state})"), false)
            } else {
                (format!("rebuilt from {}; {how} ({state})", reads.join(", ")), true)
            }
        }
    })
}

/// The state of each table that `table` reads.
async fn upstream(bound: &Bound, table: &BoundTable, cx: &RunContext) -> Result<BTreeMap<String, u64>> {
    let mut states = BTreeMap::new();
    for t in bound.reads(&table.name) {
        if let Some(snapshot) = cx.snapshot(t).await? {
            states.insert(t.name.to_string(), identity(&snapshot));
        }
    }
    Ok(states)
}

/// What would change in the table's columns.
async fn schema_notes(table: &BoundTable, checked: &CheckedTable, cx: &RunContext) -> Result<Vec<String>> {
    let Some(base) = cx.snapshot(table).await? else { return Ok(vec![]) };
    let rebuild = table.mode == Mode::Replace;
    let evolution = match evolve::reconcile(table, Some(&base), &checked.schema, &checked.partition_columns, rebuild) {
        Ok(evolution) => evolution,
        // only where the columns are inferred: a declared contract was compared before
        Err(Error::Pipeline(complaints)) => return Ok(complaints.iter().map(|c| format!("! {}", c.message)).collect()),
        Err(other) => return Err(other),
    };
    let mut notes: Vec<String> = evolution
        .changes
        .iter()
        .map(|change| {
            let from = change.from.as_deref().unwrap_or_default();
            let to = change.to.as_deref().unwrap_or_default();
            match change.kind {
                ChangeKind::Added | ChangeKind::Created => format!("+ column {} {to}", change.column),
                ChangeKind::Renamed => format!("> column {from} becomes {}", change.column),
                ChangeKind::Widened | ChangeKind::Retyped => format!("! column {} is {from} in the table and would be {to}", change.column),
                ChangeKind::Dropped => format!("- column {} would be gone", change.column),
            }
        })
        .collect();
    if evolution.rewrites() && !base.files.is_empty() {
        let bytes = base.files.iter().map(|f| f.bytes).sum();
        notes.push(format!(
            "! for that, {} ({}) would be written anew",
            units::plural(base.files.len() as u64, "file"),
            units::bytes(bytes)
        ));
    }
    for old in evolution.schema.fields().iter().filter(|_| !rebuild) {
        if checked.schema.field_with_name(old.name()).is_err() && !base.partition_columns.contains(old.name()) {
            notes.push(format!("- column {} would not be given any more", old.name()));
        }
    }
    Ok(notes)
}
