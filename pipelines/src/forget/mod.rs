//! `smelt forget`: the right to be forgotten. Finds a person's rows in every table of the pipeline by declared subject columns and their
//! lineage, through masks; writes the files that hold them anew; removes all that older versions kept; remembers by keyed hashes not
//! to take them in again; and leaves a signed receipt.
//!
//! Killed anywhere it is run again: each table's exchange is one commit, the removal of old versions can be repeated, and the receipt comes last.

pub mod lineage;
pub mod matcher;
pub mod receipt;
pub mod rewrite;
pub mod subjects;
pub mod suppress;
pub mod targets;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::Schema;
use chrono::{DateTime, Utc};
use object_store::ObjectStoreExt;
use smelt_engine::error::Complaint;
use smelt_engine::ledger::Ledger;
use smelt_engine::session::Resources;
use smelt_engine::table::{BatchId, Purge, Purged, TableFormat};
use smelt_engine::{Error, Result};

use crate::bind;
use crate::bound::{Bound, BoundTable};
use crate::check::{CheckedTable, check};
use crate::cli::{ForgetArgs, LogFormat};
use crate::console::Console;
use crate::run::RunOptions;
use crate::run::context::RunContext;
use crate::{machine, units};

use receipt::{Receipt, Status, Table};
use rewrite::{Job, Outcome};
use subjects::People;
use targets::Target;

/// Below the lake.
const RECEIPTS: &str = "_smelt/receipts";
/// Files that no version names are left for so long: a writer may be about to name them.
const GRACE_MS: i64 = 24 * 3_600_000;

/// What a forgetting may be told.
#[derive(Debug, Clone)]
pub struct ForgetOptions {
    pub people: People,
    pub reason: Option<String>,
    pub dry_run: bool,
    /// A key's name; the first one when absent.
    pub sign_key: Option<String>,
    pub allow_unreachable: bool,
    /// Nobody else writes.
    pub alone: bool,
    /// Bytes.
    pub memory: u64,
    pub threads: usize,
    pub now: DateTime<Utc>,
}

/// The command.
pub fn main(args: &ForgetArgs, log: LogFormat) -> u8 {
    let console = Console::new(log);
    let memory = match args.memory.as_deref().map(units::parse_size).transpose() {
        Ok(memory) => memory.unwrap_or_else(machine::default_pool),
        Err(why) => return console.usage("--memory", &why),
    };
    let threads = args.threads.unwrap_or_else(machine::cores).max(1);
    let done = console.block_on(threads, async {
        let bound = bind::open(&args.pipeline, bind::Secrets::Needed).await.map_err(|f| console.diagnostics(&f))?;
        if let Some(file) = &args.verify {
            let json = std::fs::read(file).map_err(|e| console.usage("--verify", &format!("{}: {e}", file.display())))?;
            let receipt = receipt::verify(&json, &bound.keys).map_err(|e| console.error(&e))?;
            println!("{} is valid: {} of {}", file.display(), receipt.id, receipt.time);
            return Ok(());
        }
        let people =
            People::parse(&bound.subjects, &args.subject, args.file.as_deref()).map_err(|(what, why)| console.usage(&what, &why))?;
        if args.reason.as_deref().is_some_and(|reason| people.named_in(reason)) {
            return Err(console.usage("--reason", "it holds one of the values, and the receipt must not; name the request instead"));
        }
        let options = ForgetOptions {
            people,
            reason: args.reason.clone(),
            dry_run: args.dry_run,
            sign_key: args.sign_key.clone(),
            allow_unreachable: args.allow_unreachable,
            alone: args.alone,
            memory,
            threads,
            now: Utc::now(),
        };
        let checked = check(&bound, &RunOptions::new(options.now)).await.map_err(|f| console.failure(&bound, f))?;
        let receipt = forget(&Arc::new(bound), &checked, &options).await.map_err(|e| console.error(&e))?;
        let json = serde_json::to_string_pretty(&receipt).map_err(|e| console.error(&Error::bug(e.to_string())))?;
        match log {
            LogFormat::Text => print!("{}", receipt.text()),
            LogFormat::Json => println!("{}", serde_json::to_string(&receipt).unwrap_or_default()),
        }
        if let Some(file) = args.receipt.as_ref().filter(|_| !args.dry_run) {
            std::fs::write(file, json).map_err(|e| {
                let message = format!("the receipt could not be written to {}: {e}", file.display());
                console.error(&Error::retry(message, format!("it lies in the lake: {RECEIPTS}/{}", name_of(&receipt))))
            })?;
        }
        Ok(())
    });
    match done {
        Ok(()) => 0,
        Err(code) => code,
    }
}

/// Forgets the people in all tables of the pipeline, as `checked` planned them. Gives the receipt, which the lake then holds too.
pub async fn forget(bound: &Arc<Bound>, checked: &[CheckedTable], options: &ForgetOptions) -> Result<Receipt> {
    let key = match &options.sign_key {
        Some(name) => Some(name.clone()),
        None => bound.keys.names().next().map(str::to_owned),
    };
    let key = match key.and_then(|name| bound.keys.get(&name).map(|secret| (name, secret.clone()))) {
        Some(found) => Some(found),
        None if options.dry_run && options.sign_key.is_none() => None,
        None => return Err(no_key(bound, options)),
    };
    let resources = Resources::new(usize::try_from(options.memory).unwrap_or(usize::MAX), options.threads, None)?;
    let batch = BatchId(format!("forget-{}", uuid::Uuid::new_v4()));
    let mut cx = RunContext::new(Arc::clone(bound), resources, batch.clone(), options.now);
    cx.dry_run = options.dry_run;
    let session = cx.session(Arc::new(Ledger::default()));
    // an expression that fails may quote the value that it met
    let mut found = targets::find(bound, checked, &options.people, &session).map_err(withheld)?;
    let lost: Vec<String> =
        found.tables.iter().flat_map(|(t, target)| target.unreachable.iter().map(move |why| format!("{t}: {why}"))).collect();
    if !lost.is_empty() && !options.allow_unreachable && !options.dry_run {
        return Err(Error::data(
            format!("the persons cannot be found in {}; nothing was changed", lost.join("; ")),
            "name them by another subject of these tables as well (--subject), mask the column by tokenize or hash, or go on with --allow-unreachable",
        ));
    }
    if let Some((name, secret)) = key.as_ref().filter(|_| !options.dry_run) {
        suppress::remember(bound, &found.tables, name, secret).await?;
    }

    let mut receipt = Receipt {
        format: receipt::FORMAT,
        id: batch.0.clone(),
        time: options.now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        smelt: env!("CARGO_PKG_VERSION").to_owned(),
        pipeline: bound.name.clone(),
        environment: bound.environment.clone(),
        lake: bound.lake_shown(),
        dry_run: options.dry_run,
        reason: options.reason.clone(),
        subjects: key.as_ref().map(|(_, secret)| receipt::hashed(&options.people, secret)).unwrap_or_default(),
        ..Receipt::default()
    };
    let mut inputs = BTreeSet::new();
    for table in &bound.tables {
        let target = found.tables.remove(&table.name.to_string()).unwrap_or_default();
        let lines = one(&cx, table, target, options, &mut inputs).await.map_err(withheld)?;
        receipt.tables.extend(lines);
    }
    // a folder may be named after the person
    let mut named = 0;
    inputs.retain(|path| {
        !(options.people.named_in(path) && {
            named += 1;
            true
        })
    });
    receipt.input_files = inputs.into_iter().collect();
    receipt.notes = found.notes;
    if named > 0 {
        let (files, hold) = (units::plural(named, "input file"), if named == 1 { "holds" } else { "hold" });
        receipt.notes.push(format!("{files} still {hold} them, whose path names them and is left out here"));
    }
    if let Some((name, secret)) = key.as_ref().filter(|_| !options.dry_run) {
        receipt::sign(&mut receipt, name, secret)?;
        let json = serde_json::to_vec_pretty(&receipt).map_err(|e| Error::bug(e.to_string()))?;
        let path = bound.lake.path(&format!("{RECEIPTS}/{}", name_of(&receipt)))?;
        bound.lake.store.put(&path, json.into()).await?;
    }
    Ok(receipt)
}

/// One table, its quarantine, and what older versions of both kept.
async fn one(
    cx: &RunContext,
    table: &BoundTable,
    target: Target,
    options: &ForgetOptions,
    inputs: &mut BTreeSet<String>,
) -> Result<Vec<Table>> {
    let name = table.name.to_string();
    let columns: Vec<String> = target.columns.keys().cloned().collect();
    let mut line = Table { table: name.clone(), columns, ..Table::default() };
    if !target.unreachable.is_empty() {
        line.status = Status::Unreachable;
        line.note = Some(target.unreachable.join("; "));
    }
    if target.columns.is_empty() && target.matcher.is_empty() {
        if line.status != Status::Unreachable {
            line.status = Status::NoSubjectColumn;
        }
        return Ok(vec![line]);
    }
    let matcher = Arc::new(target.matcher.clone());
    let rows = |schema: &Schema| target.predicate(schema);
    let records = |schema: &Schema| Ok(schema.field_with_name("raw").is_ok().then(|| Arc::clone(&matcher).predicate()));
    let job = Job { name: name.clone(), format: table.format.as_ref(), location: &table.location, owner: Some(table), predicate: &rows };
    let refused = Job {
        name: format!("quarantine.{}_{}", table.name.layer, table.name.name),
        format: table.quarantine.as_ref(),
        location: &table.quarantine_location,
        owner: None,
        predicate: &records,
    };
    let in_quarantine = rewrite::look(cx, &refused).await?;
    let (done, quarantined) = if options.dry_run {
        (rewrite::look(cx, &job).await?, in_quarantine)
    } else {
        // first the table, whose checkpoint has statistics of the quarantine files of its last batch
        let done = rewrite::rewrite(cx, &job, in_quarantine.rows > 0).await?;
        (done, rewrite::rewrite(cx, &refused, false).await?)
    };
    if done.version_before.is_none() && line.status != Status::Unreachable {
        line.status = Status::NoTable;
    }
    fill(&mut line, done, purge(cx, table.format.as_ref(), options).await?, inputs);
    let mut lines = vec![line];
    if quarantined.version_before.is_some() {
        let mut line = Table { table: refused.name.clone(), columns: vec!["raw".into()], ..Table::default() };
        fill(&mut line, quarantined, purge(cx, refused.format, options).await?, inputs);
        if !target.shapes.is_empty() {
            let shapes = target.shapes.iter().cloned().collect::<Vec<_>>().join(", ");
            line.note = Some(format!("records that were refused before the masks hold no value of {shapes}, and are not found by it"));
        }
        lines.push(line);
    }
    Ok(lines)
}

fn fill(line: &mut Table, done: Outcome, purged: Purged, inputs: &mut BTreeSet<String>) {
    if done.rows > 0 {
        line.status = Status::Forgotten;
    }
    line.version_before = done.version_before;
    line.version_after = done.version_after;
    line.rows_removed = done.rows;
    line.files_rewritten = done.files;
    line.bytes_rewritten = done.bytes;
    line.files_deleted = purged.files;
    line.bytes_deleted = purged.bytes;
    line.log_entries_cleaned = purged.log_entries;
    line.files_left = purged.left;
    inputs.extend(done.inputs);
}

async fn purge(cx: &RunContext, format: &dyn TableFormat, options: &ForgetOptions) -> Result<Purged> {
    let unnamed_before = if options.alone { i64::MAX } else { cx.now.timestamp_millis() - GRACE_MS };
    format.purge(Purge { unnamed_before, dry_run: options.dry_run }).await
}

fn name_of(receipt: &Receipt) -> String {
    let time: String = receipt.time.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    format!("{time}-{}.json", receipt.id)
}

fn no_key(bound: &Bound, options: &ForgetOptions) -> Error {
    let known = bound.keys.names().collect::<Vec<_>>().join(", ");
    Error::pipeline(match &options.sign_key {
        Some(name) if !known.is_empty() => {
            Complaint::at(["keys"], format!("there is no key `{name}` to sign the receipt with")).help(format!("the keys are {known}"))
        }
        _ => Complaint::at(["keys"], "the receipt is signed with a key of the pipeline, and it has none")
            .help("write `keys: {receipts: \"${secret:env://RECEIPTS_KEY}\"}`"),
    })
}

/// Withholds messages that others wrote and that may quote a value.
fn withheld(e: Error) -> Error {
    const WITHHELD: &str = "the message is withheld, since it may hold a value";
    match e {
        Error::Value(_) => Error::Value(format!("an expression met a value that it cannot take ({WITHHELD})")),
        Error::Bug(m) if !m.contains("nothing was published") => Error::Bug(format!("forgetting failed unexpectedly ({WITHHELD})")),
        other => other,
    }
}
