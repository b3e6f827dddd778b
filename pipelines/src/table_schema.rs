//! `smelt schema PIPELINE TABLE`: the columns of a table as it lies in the lake, and how they became what they are.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};
use smelt_connectors::formats::{LoggedSchema, schema_log};
use smelt_engine::error::Complaint;
use smelt_engine::evolve::{ChangeKind, ColumnChange, SchemaChange, diff, shown};
use smelt_engine::table::Snapshot;
use smelt_engine::{Error, Result};

use crate::bind;
use crate::bound::{Bound, BoundTable};
use crate::cli::{LogFormat, PipelineArgs, SchemaArgs, SchemaFormat};
use crate::console::Console;
use crate::diagnostic::did_you_mean;

/// The command, for a pipeline: prints one table, or all that exist.
pub fn main(pipeline: &str, args: &SchemaArgs, log: LogFormat) -> u8 {
    let console = Console::new(log);
    let done = console.block_on(2, async {
        let arguments = PipelineArgs { pipeline: pipeline.to_owned(), env: args.env.clone(), set: args.set.clone() };
        let bound = bind::open(&arguments, bind::Secrets::Optional).await.map_err(|f| console.diagnostics(&f))?;
        text(&bound, args).await.map_err(|e| console.error(&e))
    });
    match done {
        Ok(text) => {
            print!("{text}");
            0
        }
        Err(code) => code,
    }
}

async fn text(bound: &Bound, args: &SchemaArgs) -> Result<String> {
    let chosen: Vec<&BoundTable> =
        bound.tables.iter().filter(|t| args.table.as_ref().is_none_or(|name| *name == t.name.to_string())).collect();
    if let (Some(name), []) = (&args.table, chosen.as_slice()) {
        let names: Vec<String> = bound.tables.iter().map(|t| t.name.to_string()).collect();
        let help = match did_you_mean(name, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the tables are: {}", names.join(", ")),
        };
        return Err(Error::pipeline(Complaint::at(Vec::<String>::new(), format!("there is no table `{name}`")).help(help)));
    }
    let mut out = String::new();
    for table in chosen {
        let Some(snapshot) = table.format.snapshot().await? else {
            if args.table.is_some() {
                return Err(Error::data(format!("{} does not exist yet", table.name), format!("run it first: --only {}", table.name)));
            }
            continue;
        };
        let shown = match args.history {
            true => {
                let history = history(&snapshot.checkpoint.schemas, &schema_log(table.kind, &table.location).await?);
                match args.format {
                    SchemaFormat::Table => history_text(table, &history),
                    SchemaFormat::Json => format!("{}\n", json!({"table": table.name.to_string(), "history": history_json(&history)})),
                }
            }
            false => match args.format {
                SchemaFormat::Table => columns_text(table, &snapshot),
                SchemaFormat::Json => format!("{}\n", columns_json(table, &snapshot)),
            },
        };
        if !out.is_empty() && args.format == SchemaFormat::Table {
            out.push('\n');
        }
        out.push_str(&shown);
    }
    Ok(out)
}

/// One line of the history.
#[derive(Debug, PartialEq)]
struct Entry {
    /// Where the log still has it.
    version: Option<u64>,
    at: Option<i64>,
    /// `None`: another tool.
    batch: Option<String>,
    changes: Vec<ColumnChange>,
}

/// What our checkpoint knows, and what only the log knows: changes by others, and by us before we kept them. The newest first.
fn history(ours: &[SchemaChange], log: &[LoggedSchema]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = ours
        .iter()
        .map(|change| Entry {
            version: log.iter().find(|l| l.batch.as_deref() == Some(change.batch.0.as_str())).map(|l| l.version),
            at: Some(change.at),
            batch: Some(change.batch.0.clone()),
            changes: change.changes.clone(),
        })
        .collect();
    for (i, logged) in log.iter().enumerate() {
        if logged.batch.as_ref().is_some_and(|b| ours.iter().any(|o| o.batch.0 == *b)) {
            continue;
        }
        let changes = match i.checked_sub(1).and_then(|before| log.get(before)) {
            Some(before) => diff(&before.schema, &logged.schema, &[]),
            None if logged.version == 0 => {
                let columns = logged.schema.fields().len().to_string();
                vec![ColumnChange { kind: ChangeKind::Created, column: String::new(), from: None, to: Some(columns) }]
            }
            // the log begins here; what it changed is forgotten
            None => continue,
        };
        if !changes.is_empty() {
            entries.push(Entry { version: Some(logged.version), at: logged.at, batch: logged.batch.clone(), changes });
        }
    }
    entries.sort_by_key(|e| std::cmp::Reverse((e.at, e.version)));
    entries
}

fn time(at: Option<i64>) -> String {
    at.and_then(DateTime::from_timestamp_millis).map_or_else(|| "?".to_owned(), |t| t.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn history_text(table: &BoundTable, history: &[Entry]) -> String {
    let mut out = format!("{}\n", table.name);
    for entry in history {
        let version = entry.version.map(|v| format!("  version {v}")).unwrap_or_default();
        let by = entry.batch.as_ref().map_or_else(|| "by another tool".to_owned(), |b| format!("batch {b}"));
        let _ = writeln!(out, "  {}{version}  {by}", time(entry.at));
        for change in &entry.changes {
            let _ = writeln!(out, "    {change}");
        }
    }
    if history.is_empty() {
        out.push_str("  no change is known: the table is older than its history\n");
    }
    out
}

fn history_json(history: &[Entry]) -> Value {
    let entry = |e: &Entry| json!({"version": e.version, "at": e.at.map(|at| time(Some(at))), "batch": e.batch, "changes": e.changes});
    history.iter().map(entry).collect()
}

fn columns_text(table: &BoundTable, snapshot: &Snapshot) -> String {
    let mut out = format!("{} ({}, version {})\n", table.name, table.format.name(), snapshot.version);
    let width = snapshot.schema.fields().iter().map(|f| f.name().chars().count()).max().unwrap_or_default();
    for field in snapshot.schema.fields() {
        let ty = shown(field.data_type());
        let mark = if snapshot.partition_columns.contains(field.name()) { "  partition" } else { "" };
        let _ = writeln!(out, "  {:<width$}  {ty}{mark}", field.name());
    }
    out
}

fn columns_json(table: &BoundTable, snapshot: &Snapshot) -> Value {
    let columns: Vec<Value> = snapshot
        .schema
        .fields()
        .iter()
        .map(|f| {
            json!({
                "name": f.name(), "type": shown(f.data_type()), "nullable": f.is_nullable(),
                "partition": snapshot.partition_columns.contains(f.name()),
            })
        })
        .collect();
    json!({"table": table.name.to_string(), "format": table.format.name(), "version": snapshot.version, "columns": columns})
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};
    use smelt_engine::table::BatchId;
    use std::sync::Arc;

    #[test]
    fn the_log_adds_what_the_checkpoint_does_not_know() {
        let schema =
            |names: &[&str]| Arc::new(Schema::new(names.iter().map(|n| Field::new(*n, DataType::Int64, true)).collect::<Vec<_>>()));
        let logged = |version, batch: Option<&str>, names: &[&str]| LoggedSchema {
            version,
            at: Some(version as i64 * 1000),
            batch: batch.map(str::to_owned),
            schema: schema(names),
        };
        let log = [
            logged(0, Some("a"), &["x"]),
            logged(3, None, &["x", "foreign"]),
            logged(5, Some("b"), &["x", "foreign", "y"]),
            logged(6, Some("c"), &["x", "foreign", "y"]),
        ];
        let added = |name: &str| ColumnChange { kind: ChangeKind::Added, column: name.into(), from: None, to: Some("int64".into()) };
        let ours = [SchemaChange { sequence: 4, batch: BatchId("b".into()), at: 5000, changes: vec![added("y")] }];
        let seen: Vec<(Option<u64>, Option<String>, Vec<String>)> =
            history(&ours, &log).into_iter().map(|e| (e.version, e.batch, e.changes.iter().map(ToString::to_string).collect())).collect();
        assert_eq!(
            seen,
            [
                (Some(5), Some("b".to_owned()), vec!["added y: int64".to_owned()]),
                (Some(3), None, vec!["added foreign: int64".to_owned()]),
                (Some(0), Some("a".to_owned()), vec!["created with 1 column".to_owned()]),
            ]
        );
        assert_eq!(history(&ours, &[])[0].version, None, "the log has been cleaned");
    }
}
