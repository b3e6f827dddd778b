//! What the property tests of the change modes share: parts of pipelines to draw from, running a batch, judging a table, and the runner.

use std::fmt::Write as _;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestError, TestRunner};
use smelt_tests::memory::{Memory, Rows, day, instant};

/// Cases of each test: 10,000 together.
pub const MERGE: u32 = 1500;
pub const MERGE_INHERITING: u32 = 1500;
pub const SCD2: u32 = 1500;
pub const SCD2_INHERITING: u32 = 1500;
pub const COMPOSITE: u32 = 1000;
pub const BITEMPORAL: u32 = 1000;
pub const SNAPSHOT: u32 = 2000;

/// The type of the (first) sequence column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Integer,
    Timestamp,
    Date,
}

impl Clock {
    pub fn ty(self) -> &'static str {
        match self {
            Clock::Integer => "int64",
            Clock::Timestamp => "timestamp",
            Clock::Date => "date",
        }
    }

    /// Place `n`, in CSV and as `Rows` spells it.
    pub fn text(self, n: u8) -> String {
        match self {
            Clock::Integer => n.to_string(),
            Clock::Timestamp => instant(smelt_tests::now() - TimeDelta::days(10) + TimeDelta::hours(n.into())),
            Clock::Date => day(NaiveDate::from_ymd_opt(2025, 12, 20).unwrap() + Days::new(n.into())),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    /// No `track` key: all value columns.
    Default,
    /// `track: []`.
    Nothing,
    First,
    FirstTwo,
}

impl Track {
    pub fn columns(self) -> [bool; 3] {
        match self {
            Track::Default => [true; 3],
            Track::Nothing => [false; 3],
            Track::First => [true, false, false],
            Track::FirstTwo => [true, true, false],
        }
    }

    pub fn yaml(self) -> Option<&'static str> {
        match self {
            Track::Default => None,
            Track::Nothing => Some("[]"),
            Track::First => Some("[a]"),
            Track::FirstTwo => Some("[a, b]"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    Nothing,
    /// By the value column c: rows move between partitions.
    Value,
    Bucket,
}

impl Partition {
    pub fn yaml(self) -> &'static str {
        match self {
            Partition::Nothing => "",
            Partition::Value => "    partition_by: [c]\n",
            Partition::Bucket => "    partition_by: [\"bucket(2, k)\"]\n",
        }
    }
}

/// The text of a value: strings in a and c, numbers in b.
pub fn value_text(column: &str, value: u8) -> String {
    match column {
        "a" => ["x", "y", "z"][usize::from(value % 3)].to_owned(),
        "b" => value.to_string(),
        _ => ["p", "q", "São Paulo/1"][usize::from(value % 3)].to_owned(),
    }
}

/// The time of batch `n`.
pub fn time_of(n: usize) -> DateTime<Utc> {
    smelt_tests::now() + TimeDelta::minutes(i64::try_from(n).unwrap())
}

/// Runs batch `n`, which must be published, with `rejected` rows in quarantine.
pub async fn publish(memory: &Memory, n: usize, rejected: usize) -> Result<(), String> {
    let report = memory.run(time_of(n), None).await.map_err(|e| format!("batch {n}: {e}"))?;
    let table = &report.tables[0];
    if report.exit_code() != 0 {
        return Err(format!("batch {n}: exit code {}: {:?}\n{}", report.exit_code(), table.error, report.text()));
    }
    if table.quarantined != rejected as u64 {
        return Err(format!("batch {n}: {} rows in quarantine, should be {rejected}: {:?}", table.quarantined, table.rules));
    }
    Ok(())
}

/// Whether `got` is one of the allowed tables.
pub fn judge(what: &str, columns: &[String], allowed: &[Vec<Vec<Option<String>>>], got: &Rows) -> Result<(), String> {
    let got = got.sorted(columns);
    if allowed.contains(&got) {
        return Ok(());
    }
    let mut text = format!("{what} is wrong\n");
    for table in allowed {
        let _ = writeln!(text, "expected\n{}", grid(columns, table));
    }
    let _ = writeln!(text, "got\n{}", grid(columns, &got));
    Err(text)
}

/// A table for people.
pub fn grid(columns: &[String], rows: &[Vec<Option<String>>]) -> String {
    let mut lines: Vec<Vec<String>> = vec![columns.to_vec()];
    lines.extend(rows.iter().map(|row| row.iter().map(|c| c.clone().unwrap_or_else(|| "NULL".into())).collect()));
    let widths: Vec<usize> =
        (0..columns.len()).map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or_default()).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c:w$}", w = *w));
        format!("  {}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

/// Runs `cases` cases of `strategy`, and shows the smallest that fails.
pub fn prove<S: Strategy>(name: &str, cases: u32, strategy: S, check: impl AsyncFn(&S::Value) -> Result<(), String>) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    let config =
        ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 3000, max_shrink_time: 120_000, ..Default::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let started = std::time::Instant::now();
    let outcome = TestRunner::new(config).run(&strategy, |case| runtime.block_on(check(&case)).map_err(TestCaseError::fail));
    match outcome {
        Ok(()) => println!("{name}: {cases} cases in {:.1} s", started.elapsed().as_secs_f64()),
        Err(TestError::Fail(why, _)) => panic!("{name}: {why}"),
        Err(other) => panic!("{name}: {other}"),
    }
}

/// Mostly nothing, for a few cases one of the others.
pub fn partition() -> impl Strategy<Value = Partition> {
    prop_oneof![3 => Just(Partition::Nothing), 1 => Just(Partition::Value), 1 => Just(Partition::Bucket)]
}

pub fn clock() -> impl Strategy<Value = Clock> {
    prop_oneof![2 => Just(Clock::Integer), 1 => Just(Clock::Timestamp), 1 => Just(Clock::Date)]
}

pub fn track() -> impl Strategy<Value = Track> {
    prop_oneof![2 => Just(Track::Default), 1 => Just(Track::Nothing), 1 => Just(Track::First), 1 => Just(Track::FirstTwo)]
}

pub fn surrogate() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![4 => Just(None), 1 => Just(Some("string")), 1 => Just(Some("int64"))]
}
