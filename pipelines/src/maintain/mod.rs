//! The care of tables between loads: small files become large ones, what nothing needs is removed, and older versions are listed, read
//! and brought back. Each command has its file; how a format keeps its versions, and which file is garbage, the connectors know.

pub mod args;
pub mod as_of;
pub mod history;
pub mod optimize;
pub mod restore;
pub mod vacuum;

use std::fmt::Write as _;
use std::sync::Arc;

use smelt_connectors::formats;
use smelt_engine::error::Complaint;
use smelt_engine::session::Resources;
use smelt_engine::table::{BatchId, DataFile, Garbage};
use smelt_engine::{Error, Result};

use crate::bind;
use crate::bound::{Bound, BoundTable};
use crate::cli::PipelineArgs;
use crate::console::Console;
use crate::report::TableReport;
use crate::run::context::RunContext;
use crate::{machine, units};

use optimize::Wish;

/// At the end of a load that was published: compacts the partitions in which `optimize.when_small_files` is reached. Failing at it is
/// a warning: the load stands, and the next one tries again.
pub async fn after_load(table: &BoundTable, cx: &RunContext, report: &mut TableReport) {
    let Some(least) = table.when_small_files else { return };
    let wish = Wish { least, ..Wish::of(table) };
    match optimize::optimize(table, &wish, &cx.resources, &cx.bound.stores, cx.now).await {
        Ok(done) if done.version.is_some() => {
            cx.forget(&table.name);
            report.version = done.version;
            tracing::info!(table = %table.name, before = done.files_before, after = done.files_after, "small files were compacted");
        }
        Ok(_) => {}
        Err(e) => drop(report.warnings.insert(format!("its small files could not be compacted: {e}"), 0)),
    }
}

/// The pipeline of a command that reads no input: secrets that cannot be fetched are no mistake, for nothing is masked.
async fn open(args: &PipelineArgs, console: &Console) -> Result<Arc<Bound>, u8> {
    bind::open(args, bind::Secrets::IfThere).await.map(Arc::new).map_err(|f| console.diagnostics(&f))
}

/// The tables that the command line names; all where it names none.
fn chosen<'a>(bound: &'a Bound, names: &[String]) -> Result<Vec<&'a BoundTable>> {
    if names.is_empty() {
        return Ok(bound.tables.iter().collect());
    }
    names.iter().map(|name| one(bound, name)).collect()
}

fn one<'a>(bound: &'a Bound, name: &str) -> Result<&'a BoundTable> {
    bound.tables.iter().find(|t| t.name.to_string() == name).ok_or_else(|| {
        let names: Vec<String> = bound.tables.iter().map(|t| t.name.to_string()).collect();
        let help = match crate::diagnostic::did_you_mean(name, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the tables are {}", crate::diagnostic::listing(names.iter().map(String::as_str))),
        };
        usage(format!("there is no table `{name}`"), help)
    })
}

/// A mistake on the command line.
fn usage(message: impl Into<String>, help: impl Into<String>) -> Error {
    Error::pipeline(Complaint::at(Vec::<String>::new(), message).help(help))
}

fn resources(memory: Option<&str>, threads: Option<usize>) -> Result<Resources> {
    let memory = memory.map(units::parse_size).transpose().map_err(|why| usage(format!("--memory: {why}"), "write for example 512MB"))?;
    let memory = memory.unwrap_or_else(machine::default_pool);
    Resources::new(usize::try_from(memory).unwrap_or(usize::MAX), threads.unwrap_or_else(machine::cores).max(1), None)
}

/// An id for a commit of ours, `optimize-20260115T030000Z-1a2b3c4d`.
fn batch(what: &str, now: chrono::DateTime<chrono::Utc>) -> BatchId {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    BatchId(format!("{what}-{}-{}", now.format("%Y%m%dT%H%M%SZ"), &unique[..8]))
}

/// Deletes files that no version will name. Failing at it leaves garbage, which a vacuum finds.
async fn discard(table: &BoundTable, files: &[DataFile]) {
    let garbage: Vec<Garbage> = files.iter().map(|f| Garbage { path: f.path.clone(), bytes: f.bytes }).collect();
    if let Err(e) = formats::sweep(&table.location, &garbage).await {
        tracing::warn!(table = %table.name, error = %e, "unpublished files could not be deleted");
    }
}

/// Reads `168h`, `7d`, `7 days`, `90 minutes`, `0h`: milliseconds.
fn duration(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: i64 = match unit.trim() {
        "m" | "min" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        "w" | "week" | "weeks" => 7 * 86_400_000,
        _ => return Err(format!("`{text}` is not a span of time; write for example 168h or 30 days")),
    };
    let number: i64 = number.parse().map_err(|_| format!("`{text}` is not a span of time; write for example 168h or 30 days"))?;
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too long"))
}

/// Text in columns, the first and those in `left` to the left, numbers to the right.
fn columns(header: &[&str], rows: &[Vec<String>], left: &[usize]) -> String {
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).chain([header[i].chars().count()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (i, cell) in cells.into_iter().enumerate() {
            let gap = if i == 0 { "" } else { "  " };
            let _ = match i == 0 || left.contains(&i) {
                true => write!(text, "{gap}{cell:<w$}", w = widths[i]),
                false => write!(text, "{gap}{cell:>w$}", w = widths[i]),
            };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(header.to_vec());
    rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_are_read() {
        assert_eq!(duration("168h"), Ok(7 * 86_400_000));
        assert_eq!(duration(" 30 days "), Ok(30 * 86_400_000));
        assert_eq!(duration("0h"), Ok(0));
        assert!(duration("7").is_err() && duration("week").is_err() && duration("99999999999999999 days").is_err());
    }

    #[test]
    fn columns_line_up() {
        let text = columns(&["table", "files"], &[vec!["silver.a".into(), "1,200".into()], vec!["b".into(), "7".into()]], &[]);
        assert_eq!(text, "table     files\nsilver.a  1,200\nb             7\n");
    }
}
