//! `smelt query`: SQL over the tables of a lake, each read at its newest version when the query names it.

use std::io::Write;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use smelt_connectors::formats;
use smelt_connectors::stores::{Location, Stores};
use smelt_engine::error::Complaint;
use smelt_engine::keys::Keys;
use smelt_engine::ledger::Ledger;
use smelt_engine::session::Resources;
use smelt_engine::{Error, Result, steps};

use crate::bind;
use crate::cli::{OutputFormat, QueryArgs};
use crate::console::Console;
use crate::maintain::as_of::AsOf;
use crate::maintain::restore::complete;
use crate::{machine, units};

/// The command.
pub fn main(args: &QueryArgs, log: crate::cli::LogFormat) -> u8 {
    let console = Console::new(log);
    let memory = match args.memory.as_deref().map(units::parse_size).transpose() {
        Ok(memory) => memory.unwrap_or_else(machine::default_pool),
        Err(why) => return console.usage("--memory", &why),
    };
    let threads = args.threads.unwrap_or_else(machine::cores).max(1);
    let (place, sql) = match args.words.as_slice() {
        [place, sql] => (place.clone(), sql.clone()),
        [sql] => (".".to_owned(), sql.clone()),
        _ => return console.usage("query", "give a pipeline or folder, and one SQL text"),
    };
    let done = console.block_on(threads, async {
        let lake = lake(&place, args, &console).await?;
        let resources = Resources::new(usize::try_from(memory).unwrap_or(usize::MAX), threads, None).map_err(|e| console.error(&e))?;
        let as_of = AsOf::parse(&args.as_of).map_err(|e| console.error(&e))?;
        let stream = query_at(&lake, &resources, &sql, as_of).await.map_err(|e| console.query_error(&sql, e))?;
        write(stream, args.format).await.map_err(|e| match e {
            Written::Closed => 0,
            Written::Failed(e) => console.error(&e),
        })
    });
    match done {
        Ok(()) => 0,
        Err(code) => code,
    }
}

/// A lake to query: where it is, and the keys with which mask functions can be called.
#[derive(Debug)]
pub struct Lake {
    pub stores: Arc<Stores>,
    pub location: Location,
    pub keys: Keys,
}

/// A pipeline's lake, or the folder itself where it holds no pipeline.
async fn lake(place: &str, args: &QueryArgs, console: &Console) -> Result<Lake, u8> {
    let file = std::path::Path::new(place);
    let is_pipeline =
        place.ends_with(".yaml") || place.ends_with(".yml") || file.join("pipeline.yaml").is_file() || file.join("pipeline.yml").is_file();
    let remote = place.contains("://");
    if is_pipeline || (remote && bind::exists(place).await) {
        let arguments = crate::cli::PipelineArgs { pipeline: place.to_owned(), env: args.env.clone(), set: args.set.clone() };
        let bound = bind::open(&arguments, bind::Secrets::IfThere).await.map_err(|f| console.diagnostics(&f))?;
        return Ok(Lake { stores: bound.stores, location: bound.lake, keys: bound.keys });
    }
    if !remote && !file.is_dir() {
        return Err(console.error(&Error::Pipeline(vec![
            Complaint::at(Vec::<String>::new(), format!("{place} is neither a pipeline nor the folder of a lake"))
                .help("give a folder with pipeline.yaml, or the folder that holds silver/ and gold/"),
        ])));
    }
    let stores = Arc::new(Stores::new(None));
    let base = std::env::current_dir().unwrap_or_default();
    let location = stores.locate(place, &base).map_err(|e| console.error(&e))?;
    Ok(Lake { stores, location, keys: Keys::default() })
}

/// Plans and starts a query over the newest versions.
pub async fn query(lake: &Lake, resources: &Resources, sql: &str) -> Result<SendableRecordBatchStream, DataFusionError> {
    query_at(lake, resources, sql, AsOf::default()).await
}

/// Plans and starts a query that reads tables as they were.
pub async fn query_at(lake: &Lake, resources: &Resources, sql: &str, as_of: AsOf) -> Result<SendableRecordBatchStream, DataFusionError> {
    let session = resources.session(Arc::new(Ledger::default()));
    steps::mask::register(&session, &lake.keys);
    lake.stores.register(&resources.runtime, &lake.location);
    session.register_catalog("lake", Arc::new(LakeCatalog::open(lake, as_of).await?));
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    session.sql_with_options(sql, read_only).await?.execute_stream().await
}

/// Schemas are the folders of the lake; tables are found when they are named.
#[derive(Debug)]
struct LakeCatalog {
    schemas: Vec<(String, Arc<LakeSchema>)>,
}

impl LakeCatalog {
    async fn open(lake: &Lake, as_of: AsOf) -> Result<Self, DataFusionError> {
        let as_of = Arc::new(as_of);
        let store = &lake.location.store;
        let layers = folders(store.as_ref(), &lake.location.prefix).await?;
        let mut schemas = vec![];
        for layer in layers {
            let tables = folders(store.as_ref(), &lake.location.prefix.clone().join(layer.as_str())).await?;
            let schema = LakeSchema { lake: lake.location.clone(), layer: layer.clone(), tables, as_of: Arc::clone(&as_of) };
            schemas.push((layer, Arc::new(schema)));
        }
        let there = |name: &str| {
            let (layer, table) = name.split_once('.').unwrap_or_default();
            schemas.iter().any(|(l, schema)| l == layer && schema.table_exist(table))
        };
        if let Some(stranger) = as_of.tables.keys().find(|t| !there(t)) {
            let c = Complaint::at(Vec::<String>::new(), format!("--as-of: there is no table `{stranger}` in the lake"));
            return Err(Error::pipeline(c.help("names are layer.table; `show tables` lists them")).into());
        }
        Ok(LakeCatalog { schemas })
    }
}

async fn folders(store: &dyn ObjectStore, prefix: &Path) -> Result<Vec<String>, DataFusionError> {
    let listed = match store.list_with_delimiter(Some(prefix)).await {
        Ok(listed) => listed,
        Err(object_store::Error::NotFound { .. }) => return Ok(vec![]),
        Err(e) => return Err(e.into()),
    };
    Ok(listed.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).filter(|name| !name.starts_with(['_', '.'])).collect())
}

impl CatalogProvider for LakeCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.schemas.iter().map(|(name, _)| name.clone()).collect()
    }
    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.schemas.iter().find(|(n, _)| n == name).map(|(_, s)| Arc::clone(s) as _)
    }
}

#[derive(Debug)]
struct LakeSchema {
    lake: Location,
    layer: String,
    tables: Vec<String>,
    as_of: Arc<AsOf>,
}

#[async_trait]
impl SchemaProvider for LakeSchema {
    fn table_names(&self) -> Vec<String> {
        self.tables.clone()
    }
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        if !self.table_exist(name) {
            return Ok(None);
        }
        let mut location = self.lake.clone();
        location.prefix = self.lake.prefix.clone().join(self.layer.as_str()).join(name);
        location.display = format!("{}/{}/{name}", self.lake.display.trim_end_matches('/'), self.layer);
        let Some(kind) = formats::detect(&location).await? else { return Ok(None) };
        let format = formats::open(kind, location.clone());
        let full = format!("{}.{name}", self.layer);
        if let Some(at) = self.as_of.of(&full) {
            let snapshot = format.snapshot_at(at).await?;
            complete(&location, &full, &snapshot).await?;
            return Ok(Some(format.provider(&snapshot).await?));
        }
        match format.snapshot().await? {
            Some(snapshot) => Ok(Some(format.provider(&snapshot).await?)),
            None => Ok(None),
        }
    }
    fn table_exist(&self, name: &str) -> bool {
        self.tables.iter().any(|t| t == name)
    }
}

/// How writing the result ended early.
enum Written {
    /// The reader went away (`| head`): not an error.
    Closed,
    Failed(Error),
}

impl From<Error> for Written {
    fn from(e: Error) -> Self {
        Written::Failed(e)
    }
}

impl From<std::io::Error> for Written {
    fn from(e: std::io::Error) -> Self {
        if e.kind() == std::io::ErrorKind::BrokenPipe { Written::Closed } else { Written::Failed(e.into()) }
    }
}

impl From<arrow::error::ArrowError> for Written {
    fn from(e: arrow::error::ArrowError) -> Self {
        match e {
            arrow::error::ArrowError::IoError(_, io) => io.into(),
            other => Written::Failed(other.into()),
        }
    }
}

/// Rows that a table on the terminal shows; more is for `--format csv`.
const SHOWN: usize = 1000;

async fn write(mut stream: SendableRecordBatchStream, format: OutputFormat) -> Result<(), Written> {
    let schema = stream.schema();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match format {
        OutputFormat::Table => {
            let mut shown: Vec<RecordBatch> = vec![];
            let mut rows = 0;
            while let Some(batch) = stream.next().await {
                let batch = batch.map_err(Error::from)?;
                if rows < SHOWN {
                    shown.push(batch.slice(0, batch.num_rows().min(SHOWN - rows)));
                }
                rows += batch.num_rows();
            }
            if shown.is_empty() {
                shown.push(RecordBatch::new_empty(schema));
            }
            let options = arrow::util::display::FormatOptions::new().with_null("NULL");
            writeln!(out, "{}", arrow::util::pretty::pretty_format_batches_with_options(&shown, &options)?)?;
            let cut = if rows > SHOWN { format!(", {SHOWN} shown; --format csv or parquet gives all") } else { String::new() };
            writeln!(out, "{}{cut}", units::plural(rows as u64, "row"))?;
        }
        OutputFormat::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut out);
            let mut any = false;
            while let Some(batch) = stream.next().await {
                any = true;
                writer.write(&batch.map_err(Error::from)?)?;
            }
            if !any {
                writer.write(&RecordBatch::new_empty(schema))?;
            }
        }
        OutputFormat::Json => {
            let mut writer = arrow::json::LineDelimitedWriter::new(&mut out);
            while let Some(batch) = stream.next().await {
                writer.write(&batch.map_err(Error::from)?)?;
            }
            writer.finish()?;
        }
        OutputFormat::Parquet => {
            let properties = parquet::file::properties::WriterProperties::builder()
                .set_compression(parquet::basic::Compression::ZSTD(Default::default()))
                .build();
            let mut writer = parquet::arrow::ArrowWriter::try_new(std::io::stdout(), schema, Some(properties)).map_err(Error::from)?;
            while let Some(batch) = stream.next().await {
                writer.write(&batch.map_err(Error::from)?).map_err(Error::from)?;
            }
            writer.close().map_err(Error::from)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// All rows of a query, for tests and other commands.
pub async fn collect(lake: &Lake, resources: &Resources, sql: &str) -> Result<Vec<RecordBatch>> {
    collect_at(lake, resources, sql, AsOf::default()).await
}

/// As [`collect`], over tables as they were.
pub async fn collect_at(lake: &Lake, resources: &Resources, sql: &str, as_of: AsOf) -> Result<Vec<RecordBatch>> {
    let mut stream = query_at(lake, resources, sql, as_of).await?;
    let mut out = vec![];
    while let Some(batch) = stream.next().await {
        out.push(batch?);
    }
    Ok(out)
}
