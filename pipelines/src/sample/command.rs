//! `smelt sample`, and the sample that a run makes for itself: the terminal's side of sample input.

use std::io;
use std::path::Path;

use smelt_engine::{Error, Result};

use super::{ClickstreamOptions, OlistOptions, Summary, clickstream, olist};
use crate::bound::Bound;
use crate::cli::SampleKind;
use crate::console::Console;
use crate::spec::SampleSpec;
use crate::units;

/// The command; gives the exit code.
pub fn main(what: &SampleKind) -> u8 {
    let (out, made) = match what {
        SampleKind::Olist { orders, days, bad, duplicates, seed, out } => {
            let options = OlistOptions { orders: *orders, days: *days, bad: *bad, duplicates: *duplicates, seed: *seed };
            (out, olist(out, &options, &|_| {}))
        }
        SampleKind::Clickstream { events, days, users, bad, duplicates, seed, out } => {
            let options =
                ClickstreamOptions { events: *events, days: *days, users: *users, bad: *bad, duplicates: *duplicates, seed: *seed };
            (out, clickstream(out, &options, &|_| {}))
        }
    };
    match made {
        Ok(summary) => {
            print!("{}", text(out, &summary));
            0
        }
        Err(e) => {
            eprintln!("error: {e}\n  help: choose a folder that can be written to with --out, and options that make sense");
            if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::AlreadyExists) { 2 } else { 4 }
        }
    }
}

/// Makes the pipeline's sample where it has one, is run in its local environment, and the sample's folder is not there yet.
pub async fn ensure(bound: &Bound, console: &Console) -> Result<()> {
    let Some(sample) = &bound.sample else { return Ok(()) };
    let out = match sample {
        SampleSpec::Olist(s) => bound.base.join(&s.folder),
        SampleSpec::Clickstream(s) => bound.base.join(&s.folder),
    };
    if bound.environment != "local" || out.exists() || !bound.reads_below(&out) {
        return Ok(());
    }
    console.note(&format!("No input yet: making a sample in {}", shown(&out)));
    let target = out.clone();
    let sample = sample.clone();
    let made = tokio::task::spawn_blocking(move || match &sample {
        SampleSpec::Olist(s) => olist(&target, &OlistOptions { orders: s.orders, ..OlistOptions::default() }, &|_| {}),
        SampleSpec::Clickstream(s) => {
            clickstream(&target, &ClickstreamOptions { events: s.events, ..ClickstreamOptions::default() }, &|_| {})
        }
    })
    .await
    .map_err(|e| Error::bug(e.to_string()))?;
    let summary =
        made.map_err(|e| Error::retry(format!("the sample could not be made: {e}"), "check that the folder can be written to"))?;
    console.note(&format!(
        "{} in {}, {}\n",
        units::plural(summary.rows(), "row"),
        units::plural(summary.files.len() as u64, "file"),
        units::bytes(summary.bytes())
    ));
    Ok(())
}

fn text(out: &Path, summary: &Summary) -> String {
    let mut text = format!("{}: {}, {}\n", shown(out), units::plural(summary.rows(), "row"), units::bytes(summary.bytes()));
    let width = summary.files.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    for (name, rows, bytes) in &summary.files {
        let mut line = format!("  {name:<width$}  {:>12} rows  {:>9}", units::count(*rows), units::bytes(*bytes));
        let (bad, repeated) = (summary.bad(name), summary.repeated(name));
        if bad > 0 {
            line.push_str(&format!("  {} bad", units::count(bad)));
        }
        if repeated > 0 {
            line.push_str(&format!("  {} repeated", units::count(repeated)));
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// Relative to where the user stands, if it lies below.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
