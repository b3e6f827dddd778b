//! What the tests of the whole share: lakes in temporary folders and in memory, runs in this process, queries as sorted text,
//! stores that die, and a naive model of the change modes.

pub mod faults;
pub mod memory;
pub mod model;
pub mod server;

use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, TimeZone, Utc};
use smelt::bind::{self, Secrets};
use smelt::cli::PipelineArgs;
use smelt::query::Lake;
use smelt::report::RunReport;
use smelt::run::RunOptions;
use smelt_connectors::stores::Stores;
use smelt_engine::keys::Keys;
use smelt_engine::session::Resources;

/// A fixed time, so that nothing depends on when the tests run.
pub fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 15, 3, 0, 0).single().unwrap_or_default()
}

/// Options of a small run.
pub fn options() -> RunOptions {
    RunOptions { memory: 256 << 20, threads: 2, ..RunOptions::new(now()) }
}

/// Runs the pipeline in `folder` in this process. `Err` is the text of the diagnostics or the error.
pub async fn run(folder: &Path, stores: Arc<Stores>, options: &RunOptions) -> Result<RunReport, String> {
    let args = PipelineArgs { pipeline: folder.to_string_lossy().into_owned(), env: None, set: vec![] };
    let bound = bind::open_with(&args, Secrets::Needed, stores).await.map_err(|f| f.text())?;
    smelt::check::check(&bound, options).await.map_err(|f| format!("{f:?}"))?;
    smelt::run::run(Arc::new(bound), options).await.map_err(|e| e.to_string())
}

/// The rows of a query as sorted lines.
pub async fn query(lake: &Path, sql: &str) -> Vec<String> {
    let stores = Arc::new(Stores::new(None));
    let location = stores.locate(&lake.to_string_lossy(), Path::new("/")).expect("a local folder");
    let lake = Lake { stores, location, keys: Keys::default() };
    let resources = Resources::new(256 << 20, 2, None).expect("resources");
    let batches = smelt::query::collect(&lake, &resources, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let mut lines = vec![];
    for batch in &batches {
        let options = arrow::util::display::FormatOptions::new().with_null("NULL");
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|c| arrow::util::display::ArrayFormatter::try_new(c.as_ref(), &options).expect("a printable column"))
            .collect();
        for row in 0..batch.num_rows() {
            lines.push(columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    lines.sort();
    lines
}
