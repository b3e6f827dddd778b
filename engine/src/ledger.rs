//! Counts what happens to the rows of one load. Operators find it as a session extension, so that a plan holds no
//! state of its own; the driver reads it at the end and closes the sum (law 2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::execution::TaskContext;
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Takes the rows that leave for quarantine, in the schema of `route::quarantine_schema`.
#[async_trait]
pub trait RejectSink: std::fmt::Debug + Send + Sync {
    async fn push(&self, rows: RecordBatch) -> Result<()>;
}

/// The counts of one load. Cheap to clone through `Arc`; all methods take `&self`.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Rows that the source gave, malformed ones included.
    pub read: AtomicU64,
    /// Bytes of input taken from the store, as stored (compressed); feeds the progress bar.
    pub bytes_read: AtomicU64,
    /// Rows sent to quarantine.
    pub quarantined: AtomicU64,
    /// Rows that dedup removed.
    pub deduplicated: AtomicU64,
    /// Ties that dedup met: rows that only `ties` could tell apart.
    pub ties: AtomicU64,
    /// Rows in finished and unfinished data files.
    pub written: AtomicU64,
    /// Bytes of finished data files.
    pub bytes_written: AtomicU64,
    tallies: Mutex<BTreeMap<String, u64>>,
    rules: Mutex<BTreeMap<(String, String), u64>>,
    warnings: Mutex<BTreeMap<String, u64>>,
    failures: Mutex<BTreeMap<String, u64>>,
    sink: Mutex<Option<Arc<dyn RejectSink>>>,
    table: Mutex<String>,
    batch: Mutex<String>,
}

impl Ledger {
    /// The ledger of the load that `task` belongs to.
    pub fn of(task: &TaskContext) -> Result<Arc<Ledger>> {
        task.session_config().get_extension::<Ledger>().ok_or_else(|| Error::bug("no ledger in the session"))
    }

    pub fn add(counter: &AtomicU64, rows: usize) {
        counter.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Adds to the count of a named point of the plan (see `tally`).
    pub fn tally(&self, point: &str, rows: usize) {
        *self.tallies.lock().entry(point.to_owned()).or_default() += rows as u64;
    }

    pub fn tallies(&self) -> BTreeMap<String, u64> {
        self.tallies.lock().clone()
    }

    /// Counts rows that broke a rule, by column and rule.
    pub fn broke(&self, column: &str, rule: &str, rows: usize) {
        if rows > 0 {
            *self.rules.lock().entry((column.to_owned(), rule.to_owned())).or_default() += rows as u64;
        }
    }

    pub fn rules(&self) -> BTreeMap<(String, String), u64> {
        self.rules.lock().clone()
    }

    /// Something that the user should read in the report; equal texts are counted, not repeated. Never holds a row's value.
    pub fn warn(&self, text: impl Into<String>, rows: usize) {
        *self.warnings.lock().entry(text.into()).or_default() += rows as u64;
    }

    pub fn warnings(&self) -> BTreeMap<String, u64> {
        self.warnings.lock().clone()
    }

    /// A rule with `on_fail: fail` that rows broke: the run must not commit. Never holds a row's value.
    pub fn fail(&self, rule: impl Into<String>, rows: usize) {
        *self.failures.lock().entry(rule.into()).or_default() += rows as u64;
    }

    /// Broken rules that forbid the commit, with the rows that broke each.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        self.failures.lock().clone()
    }

    /// The table that the load writes, for the rows in quarantine. Set by the driver before the plan runs.
    pub fn set_table(&self, table: impl Into<String>) {
        *self.table.lock() = table.into();
    }

    pub fn table(&self) -> String {
        self.table.lock().clone()
    }

    /// The batch of the load, for the rows in quarantine. Set by the driver before the plan runs.
    pub fn set_batch(&self, batch: impl Into<String>) {
        *self.batch.lock() = batch.into();
    }

    pub fn batch(&self) -> String {
        self.batch.lock().clone()
    }

    /// Where rejected rows go. Set by the driver before the plan runs.
    pub fn set_sink(&self, sink: Arc<dyn RejectSink>) {
        *self.sink.lock() = Some(sink);
    }

    pub fn sink(&self) -> Result<Arc<dyn RejectSink>> {
        self.sink.lock().clone().ok_or_else(|| Error::bug("no quarantine sink in the ledger"))
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
