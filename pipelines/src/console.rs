//! What the user sees besides results: diagnostics, errors, the report. Text for people, JSON objects for log collectors.
//! Everything goes to standard error except the report and query results.

use std::future::Future;
use std::io::Write as _;

use serde_json::json;
use smelt_engine::Error;

use crate::bind::BindFailure;
use crate::bound::Bound;
use crate::check::CheckFailure;
use crate::cli::LogFormat;
use crate::diagnostic::{self, Diagnostic, Diagnostics};
use crate::report::RunReport;
use crate::run::load::exit_code;
use crate::yaml::{Sources, Span};

/// Writes in one format.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    log: LogFormat,
}

impl Console {
    /// Also starts the event log: `SMELT_LOG` sets the level (`warn` when absent).
    pub fn new(log: LogFormat) -> Self {
        let filter =
            tracing_subscriber::EnvFilter::try_from_env("SMELT_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
        // a second console in one process keeps the first one's log
        let _ = match log {
            LogFormat::Text => builder.try_init(),
            LogFormat::Json => builder.json().try_init(),
        };
        Console { log }
    }

    /// Runs `work` on a runtime of `threads` workers.
    pub fn block_on<T>(self, threads: usize, work: impl Future<Output = Result<T, u8>>) -> Result<T, u8> {
        match tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build() {
            Ok(runtime) => {
                let out = runtime.block_on(work);
                runtime.shutdown_background();
                out
            }
            Err(e) => Err(self.error(&Error::from(e))),
        }
    }

    /// A wrong argument.
    pub fn usage(self, argument: &str, why: &str) -> u8 {
        self.line("error", &format!("{argument}: {why}"), None);
        2
    }

    /// The pipeline's mistakes; gives the exit code.
    pub fn diagnostics(self, failure: &BindFailure) -> u8 {
        self.rendered(&failure.diagnostics, &failure.sources);
        failure.error.as_ref().map_or(2, |e| self.error(e))
    }

    /// Mistakes found while planning the tables.
    pub fn failure(self, bound: &Bound, failure: CheckFailure) -> u8 {
        match failure {
            CheckFailure::Pipeline(diagnostics) => {
                self.rendered(&diagnostics, &bound.loaded.sources);
                2
            }
            CheckFailure::Other(e) => self.error(&e),
        }
    }

    /// Diagnostics as they are: carets for people, objects for machines.
    pub fn rendered(self, diagnostics: &Diagnostics, sources: &Sources) {
        let mut err = std::io::stderr().lock();
        let _ = match self.log {
            LogFormat::Text => err.write_all(diagnostics.render(sources, diagnostic::use_color()).as_bytes()),
            LogFormat::Json => diagnostics.to_json(sources).iter().try_for_each(|d| writeln!(err, "{d}")),
        };
    }

    /// A mistake in the SQL of a query.
    pub fn query_error(self, sql: &str, e: datafusion::error::DataFusionError) -> u8 {
        // What a table has to say is no mistake in the SQL.
        if matches!(e.find_root(), datafusion::error::DataFusionError::External(own) if own.is::<Error>()) {
            return self.error(&Error::from(e));
        }
        match smelt_engine::steps::expression::complaints(&e, &[], &[]).into_iter().next() {
            Some(complaint) => {
                let mut sources = Sources::default();
                let id = sources.add("query", sql);
                let span = complaint.place.within.and_then(|(line, column, length)| {
                    let source = sources.get(id)?;
                    let (start, end) = source.line_range(line)?;
                    let text = source.text.get(start..end)?;
                    let from = text.char_indices().nth(column.saturating_sub(1)).map_or(end, |(i, _)| start + i);
                    let to = source.text.get(from..end)?.char_indices().nth(length.max(1)).map_or(end, |(i, _)| from + i);
                    Some(Span::new(id, from, to))
                });
                let mut diagnostics = Diagnostics::default();
                let mut diagnostic = Diagnostic::error(span, complaint.message);
                diagnostic.help = complaint.help;
                diagnostics.push(diagnostic);
                self.rendered(&diagnostics, &sources);
                2
            }
            None => self.error(&Error::from(e)),
        }
    }

    pub fn error(self, e: &Error) -> u8 {
        self.line("error", &e.to_string(), e.help());
        exit_code(e)
    }

    pub fn note(self, text: &str) {
        self.line("info", text, None);
    }

    pub fn no_such_table(self, word: &str, bound: &Bound) -> u8 {
        let near = bound.graph.keys().min_by_key(|t| strsim::damerau_levenshtein(t, word));
        let help =
            near.map(|t| format!("did you mean `{t}`? The tables are: {}", bound.graph.keys().cloned().collect::<Vec<_>>().join(", ")));
        self.line("error", &format!("--only: there is no table `{word}`"), help.as_deref());
        2
    }

    /// The end of a run.
    pub fn report(self, report: &RunReport) {
        let mut out = std::io::stdout().lock();
        let _ = match self.log {
            LogFormat::Text => out.write_all(report.text().as_bytes()),
            LogFormat::Json => serde_json::to_writer(&mut out, report).map_err(std::io::Error::other).and_then(|()| out.write_all(b"\n")),
        };
    }

    fn line(self, level: &str, message: &str, help: Option<&str>) {
        let mut err = std::io::stderr().lock();
        let _ = match self.log {
            LogFormat::Text => {
                let prefix = if level == "info" { String::new() } else { format!("{level}: ") };
                let help = help.map(|h| format!("\n  help: {h}")).unwrap_or_default();
                writeln!(err, "{prefix}{message}{help}")
            }
            LogFormat::Json => writeln!(err, "{}", json!({"level": level, "message": message, "help": help})),
        };
    }
}
