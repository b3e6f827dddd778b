//! Progress while a run works: one bar per running table on a terminal, plain lines elsewhere. Never on standard output.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use smelt_engine::ledger::Ledger;

use crate::report::{Status, TableReport};
use crate::units;

/// `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressMode {
    /// Bars on a terminal, plain lines elsewhere.
    Auto,
    /// Nothing until the report.
    Never,
}

/// Shows the loads of one run. Cheap to share.
#[derive(Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
    lines: bool,
    running: Mutex<BTreeMap<String, Running>>,
}

#[derive(Debug)]
struct Running {
    bar: Option<ProgressBar>,
    ledger: Arc<Ledger>,
    total: u64,
}

impl Progress {
    pub fn new(mode: ProgressMode) -> Arc<Self> {
        let terminal = std::io::stderr().is_terminal();
        let show = mode == ProgressMode::Auto;
        let bars = (show && terminal).then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Arc::new(Progress { bars, lines: show && !terminal, running: Mutex::default() })
    }

    /// A load begins: `total` bytes of input are to be read (0: not known beforehand).
    pub fn start(&self, table: &str, ledger: Arc<Ledger>, total: u64) {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(total));
            let template = if total > 0 {
                "{prefix:28} [{bar:24}] {bytes}/{total_bytes} {msg} eta {eta}"
            } else {
                "{prefix:28} {spinner} {msg} {elapsed}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━━╌"));
            }
            bar.set_prefix(table.to_owned());
            bar
        });
        self.running.lock().insert(table.to_owned(), Running { bar, ledger, total });
    }

    /// A load ended.
    pub fn finish(&self, report: &TableReport) {
        if let Some(Running { bar: Some(bar), .. }) = self.running.lock().remove(&report.table) {
            bar.finish_and_clear();
        }
        let line = match report.status {
            Status::Published => format!(
                "{}  {} read, {} written, {} quarantined  {:.2} s",
                report.table,
                units::plural(report.read, "row"),
                units::count(report.written),
                units::count(report.quarantined),
                report.seconds
            ),
            Status::Failed => format!("{}  failed", report.table),
            _ => return,
        };
        match &self.bars {
            Some(bars) => {
                let _ = bars.println(line);
            }
            None if self.lines => eprintln!("{line}"),
            None => {}
        }
    }

    /// Brings the bars up to date until `stop` resolves; where there is no terminal, a line per table every ten seconds.
    pub async fn watch(self: Arc<Self>, stop: Arc<tokio::sync::Notify>) {
        let mut last_line = Instant::now();
        loop {
            tokio::select! {
                () = stop.notified() => break,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
            let say = self.lines && last_line.elapsed() >= Duration::from_secs(10);
            if say {
                last_line = Instant::now();
            }
            for (table, r) in self.running.lock().iter() {
                let rows = Ledger::get(&r.ledger.read);
                let bytes = Ledger::get(&r.ledger.bytes_read);
                let written = Ledger::get(&r.ledger.written);
                if let Some(bar) = &r.bar {
                    if r.total > 0 {
                        bar.set_position(bytes.min(r.total));
                    } else {
                        bar.tick();
                    }
                    bar.set_message(format!("{} read, {} written", units::count(rows), units::count(written)));
                } else if say {
                    eprintln!(
                        "{table}  {} of {}  {} rows read, {} written",
                        units::bytes(bytes),
                        units::bytes(r.total),
                        units::count(rows),
                        units::count(written)
                    );
                }
            }
        }
        if let Some(bars) = &self.bars {
            let _ = bars.clear();
        }
    }
}
