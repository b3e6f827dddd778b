//! The report of a run: what happened to every row of every table, for people (text) and for machines (JSON).
//!
//! It holds names, counts and messages, never a row's value.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::units;

/// How a table's load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// A new version was published.
    Published,
    /// Nothing new to take in.
    UpToDate,
    /// `--dry-run`: would have been published.
    DryRun,
    /// Nothing was published; see `error`.
    Failed,
    /// Not tried, because a table that it reads failed.
    Skipped,
}

/// What a load of `merge`, `scd2`, `bitemporal` or `snapshot` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ChangeReport {
    /// Keys that came, changed, went, or stayed as they were.
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    pub unchanged: u64,
    /// Versions that began and that ended.
    pub versions_opened: u64,
    pub versions_closed: u64,
    /// Rows older than what was known of their key.
    pub late: u64,
    /// How it was done: by which keys, and how many files were rewritten.
    pub way: String,
    pub files_rewritten: u64,
    pub bytes_rewritten: u64,
}

/// One table's load. Rows close: `read = written + quarantined + deduplicated + filtered` for tables made from a source.
#[derive(Debug, Clone, Serialize)]
pub struct TableReport {
    pub table: String,
    pub status: Status,
    /// Version after the load.
    pub version: Option<u64>,
    pub mode: String,
    pub files_read: u64,
    pub bytes_read: u64,
    pub read: u64,
    pub written: u64,
    pub quarantined: u64,
    pub deduplicated: u64,
    /// Removed by filter steps, and the net change by sql steps (negative: rows added).
    pub filtered: i64,
    pub files: u64,
    pub bytes: u64,
    pub seconds: f64,
    /// What changed, for the modes by key and sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeReport>,
    /// Rows that broke each rule, as `column rule`.
    pub rules: BTreeMap<String, u64>,
    /// What the user should know, and how often it happened (0: not a count of rows).
    pub warnings: BTreeMap<String, u64>,
    pub error: Option<String>,
    pub help: Option<String>,
    /// The exit code that this table alone would give.
    pub exit_code: u8,
}

impl ChangeReport {
    /// `inserted 3 · updated 2 · …`, and how.
    pub fn text(&self) -> String {
        let counts = [
            ("inserted", self.inserted),
            ("updated", self.updated),
            ("deleted", self.deleted),
            ("unchanged", self.unchanged),
            ("versions opened", self.versions_opened),
            ("closed", self.versions_closed),
            ("late rows", self.late),
        ];
        let counts = counts.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{what} {}", units::count(*n)));
        let counts: Vec<String> = counts.collect();
        let counts = if counts.is_empty() { "nothing changed".to_owned() } else { counts.join(" · ") };
        format!("{counts} ({})", self.way)
    }
}

impl TableReport {
    pub fn new(table: impl Into<String>, status: Status) -> Self {
        TableReport {
            table: table.into(),
            status,
            version: None,
            mode: String::new(),
            files_read: 0,
            bytes_read: 0,
            read: 0,
            written: 0,
            quarantined: 0,
            deduplicated: 0,
            filtered: 0,
            files: 0,
            bytes: 0,
            seconds: 0.0,
            change: None,
            rules: BTreeMap::new(),
            warnings: BTreeMap::new(),
            error: None,
            help: None,
            exit_code: 0,
        }
    }
}

/// The whole run.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    pub pipeline: String,
    pub environment: String,
    pub batch: String,
    pub started: String,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub peak_memory_bytes: u64,
    pub lake: String,
    pub tables: Vec<TableReport>,
}

impl RunReport {
    /// By what the user must do: a bug first, then the pipeline, the data, and trying again.
    pub fn exit_code(&self) -> u8 {
        [1u8, 2, 3, 4].into_iter().find(|code| self.tables.iter().any(|t| t.exit_code == *code)).unwrap_or(0)
    }

    /// The report as a terminal shows it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let work = self.tables.iter().filter(|t| t.status != Status::UpToDate).count();
        if work == 0 {
            let _ = writeln!(
                out,
                "Nothing new: {} up to date ({:.2} s).",
                if self.tables.len() == 1 { "1 table is".to_owned() } else { format!("{} tables are", self.tables.len()) },
                self.seconds
            );
            for t in &self.tables {
                for warning in t.warnings.keys() {
                    let _ = writeln!(out, "warning: {}: {warning}", t.table);
                }
            }
            return out;
        }
        let header = ["table", "read", "written", "quarantined", "deduplicated", "filtered", "files", "bytes", "seconds", ""];
        let mut rows: Vec<[String; 10]> = vec![header.map(str::to_owned)];
        for t in &self.tables {
            let outcome = match t.status {
                Status::Published => String::new(),
                Status::UpToDate => "up to date".into(),
                Status::DryRun => "dry run".into(),
                Status::Failed => "FAILED".into(),
                Status::Skipped => "skipped".into(),
            };
            if matches!(t.status, Status::UpToDate | Status::Skipped) {
                rows.push([
                    t.table.clone(),
                    "".into(),
                    "".into(),
                    "".into(),
                    "".into(),
                    "".into(),
                    "".into(),
                    "".into(),
                    "".into(),
                    outcome,
                ]);
                continue;
            }
            let filtered =
                if t.filtered < 0 { format!("+{}", units::count(t.filtered.unsigned_abs())) } else { units::count(t.filtered as u64) };
            rows.push([
                t.table.clone(),
                units::count(t.read),
                units::count(t.written),
                units::count(t.quarantined),
                units::count(t.deduplicated),
                filtered,
                units::count(t.files),
                units::bytes(t.bytes),
                format!("{:.2}", t.seconds),
                outcome,
            ]);
        }
        let sum = |f: fn(&TableReport) -> u64| self.tables.iter().map(f).sum::<u64>();
        rows.push([
            "total".into(),
            units::count(sum(|t| t.read)),
            units::count(sum(|t| t.written)),
            units::count(sum(|t| t.quarantined)),
            units::count(sum(|t| t.deduplicated)),
            String::new(),
            units::count(sum(|t| t.files)),
            units::bytes(sum(|t| t.bytes)),
            format!("{:.2}", self.seconds),
            String::new(),
        ]);
        let widths: Vec<usize> = (0..10).map(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0)).collect();
        let rule: String = "─".repeat(widths.iter().sum::<usize>() + 2 * 8);
        for (n, row) in rows.iter().enumerate() {
            if n == 1 || n + 1 == rows.len() {
                let _ = writeln!(out, "{rule}");
            }
            let mut line = format!("{:<w$}", row[0], w = widths[0]);
            for i in 1..9 {
                let _ = write!(line, "  {:>w$}", row[i], w = widths[i]);
            }
            if !row[9].is_empty() {
                let _ = write!(line, "  {}", row[9]);
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        if self.tables.iter().any(|t| t.change.is_some()) {
            let _ = writeln!(out, "\nchanges, in keys:");
        }
        for t in &self.tables {
            if let Some(change) = &t.change {
                let _ = writeln!(out, "  {:<w$}  {}", t.table, change.text(), w = widths[0]);
            }
        }
        let broken: Vec<&TableReport> = self.tables.iter().filter(|t| !t.rules.is_empty()).collect();
        if !broken.is_empty() {
            let _ = writeln!(out, "\nrules broken, in rows:");
        }
        for t in broken {
            let mut rules: Vec<(&String, &u64)> = t.rules.iter().collect();
            rules.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
            let rules = rules.iter().map(|(rule, rows)| format!("{rule} {}", units::count(**rows))).collect::<Vec<_>>().join(" · ");
            let _ = writeln!(out, "  {:<w$}  {rules}", t.table, w = widths[0]);
        }
        for t in &self.tables {
            for (warning, rows) in &t.warnings {
                let times = if *rows > 1 { format!(" (×{})", units::count(*rows)) } else { String::new() };
                let _ = writeln!(out, "warning: {}: {warning}{times}", t.table);
            }
        }
        for t in &self.tables {
            if let Some(error) = &t.error {
                let _ = writeln!(out, "error: {}: {error}", t.table);
                if let Some(help) = &t.help {
                    let _ = writeln!(out, "  help: {help}");
                }
            }
        }
        let _ = writeln!(
            out,
            "\nbatch {} · lake {} · {:.2} s, {:.2} s CPU, {} peak memory",
            self.batch,
            self.lake,
            self.seconds,
            self.cpu_seconds,
            units::bytes(self.peak_memory_bytes)
        );
        let quarantined: Vec<&TableReport> = self.tables.iter().filter(|t| t.quarantined > 0 && t.status == Status::Published).collect();
        if let Some(first) = quarantined.first() {
            let _ = writeln!(
                out,
                "quarantine: smelt query {} 'select _file, _line, rules from quarantine.{} limit 10'",
                self.pipeline,
                first.table.replace('.', "_")
            );
        }
        out
    }
}
