//! A pipeline and its lake in memory, for tests that run thousands of them: one store that outlives the runs, that can be copied
//! as it is at a moment, and that can fail.

use std::path::Path as Folder;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Date32Type, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, Days, NaiveDate, Utc};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use smelt::bind::{self, Secrets};
use smelt::cli::PipelineArgs;
use smelt::query::Lake;
use smelt::report::RunReport;
use smelt::run::RunOptions;
use smelt_connectors::stores::Stores;
use smelt_engine::keys::Keys;
use smelt_engine::session::Resources;

use crate::faults::{FaultStore, Fuse};

/// Bytes that the operators of a run or a query may hold.
const POOL: usize = 64 << 20;

/// A folder with a pipeline, its input and its lake, in memory.
#[derive(Debug)]
pub struct Memory {
    store: Arc<InMemory>,
}

/// The rows of a query: `None` is NULL. Timestamps and dates are spelled as [`instant`] and [`day`] spell them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Empty where the query gave no batch at all.
    pub names: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    /// The position of a column.
    pub fn position(&self, name: &str) -> usize {
        self.names.iter().position(|n| n == name).unwrap_or_else(|| panic!("no column {name} in {:?}", self.names))
    }

    /// These columns only, the rows sorted.
    pub fn sorted(&self, names: &[String]) -> Vec<Vec<Option<String>>> {
        if self.rows.is_empty() {
            return vec![];
        }
        let positions: Vec<usize> = names.iter().map(|n| self.position(n)).collect();
        let mut rows: Vec<Vec<Option<String>>> = self.rows.iter().map(|row| positions.iter().map(|p| row[*p].clone()).collect()).collect();
        rows.sort();
        rows
    }
}

impl Memory {
    /// A folder that holds `pipeline` as its pipeline.yaml.
    pub async fn new(pipeline: &str) -> Self {
        let memory = Memory { store: Arc::new(InMemory::new()) };
        memory.put("pipeline.yaml", pipeline).await;
        memory
    }

    /// Writes a file of the folder.
    pub async fn put(&self, path: &str, text: &str) {
        let at = Path::parse(format!("case/{path}")).expect("a path");
        self.store.put(&at, text.to_owned().into()).await.expect("memory takes every object");
    }

    /// The folder as it is now; what happens to the copy does not happen to this one.
    pub fn copy(&self) -> Self {
        Memory { store: Arc::new(self.store.fork()) }
    }

    /// Runs the pipeline at `now`, over a store that fails as `fuse` says. `Err` is the text of the diagnostics or the error.
    pub async fn run(&self, now: DateTime<Utc>, fuse: Option<&Arc<Fuse>>) -> Result<RunReport, String> {
        let args = PipelineArgs { pipeline: "memory://case/pipeline.yaml".to_owned(), env: None, set: vec![] };
        let bound = bind::open_with(&args, Secrets::Needed, self.stores(fuse)).await.map_err(|f| f.text())?;
        let options = RunOptions { memory: POOL as u64, threads: 1, ..RunOptions::new(now) };
        smelt::run::run(Arc::new(bound), &options).await.map_err(|e| e.to_string())
    }

    /// The rows of a query over the lake.
    pub async fn query(&self, sql: &str) -> Result<Rows, String> {
        let stores = self.stores(None);
        let location = stores.locate("memory://case/lake", Folder::new("/")).map_err(|e| e.to_string())?;
        let lake = Lake { stores, location, keys: Keys::default() };
        let resources = Resources::new(POOL, 1, None).map_err(|e| e.to_string())?;
        let batches = smelt::query::collect(&lake, &resources, sql).await.map_err(|e| format!("{sql}: {e}"))?;
        let mut out = Rows::default();
        for batch in &batches {
            out.names = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
            for row in 0..batch.num_rows() {
                out.rows.push(batch.columns().iter().map(|c| cell(c, row)).collect());
            }
        }
        Ok(out)
    }

    fn stores(&self, fuse: Option<&Arc<Fuse>>) -> Arc<Stores> {
        let (store, fuse) = (Arc::clone(&self.store), fuse.cloned());
        // every store that is opened is this one: a `Stores` of its own would begin empty in every run
        let wrap = move |_: Arc<dyn ObjectStore>| -> Arc<dyn ObjectStore> {
            let store: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
            match &fuse {
                Some(fuse) => Arc::new(FaultStore::new(store, Arc::clone(fuse))),
                None => store,
            }
        };
        Arc::new(Stores::new(Some(Arc::new(wrap))))
    }
}

/// An instant as these tests spell it.
pub fn instant(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// A date as these tests spell it.
pub fn day(at: NaiveDate) -> String {
    at.format("%Y-%m-%d").to_string()
}

fn cell(column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            instant(DateTime::from_timestamp_micros(micros).expect("an instant in range"))
        }
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>().value(row);
            day(NaiveDate::from_ymd_opt(1970, 1, 1).expect("the epoch") + Days::new(u64::try_from(days).expect("after 1970")))
        }
        DataType::Struct(_) => {
            let parts = column.as_struct().columns().iter().map(|c| cell(c, row).unwrap_or_else(|| "NULL".to_owned()));
            format!("({})", parts.collect::<Vec<_>>().join(", "))
        }
        _ => ArrayFormatter::try_new(column.as_ref(), &FormatOptions::new()).expect("a printable column").value(row).to_string(),
    })
}
