//! What every format must do, run over both formats, on memory and on disk.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::{ArrayRef, Date32Array, Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::*;
use parquet::arrow::ArrowWriter;
use smelt_engine::Error;
use smelt_engine::ledger::Ledger;
use smelt_engine::session::Resources;
use smelt_engine::table::{BatchId, Change, Checkpoint, Commit, DataFile, FileMark, Remove, Snapshot, TableFormat};

use super::{FormatKind, detect, open, publish::Log};
use crate::stores::{Location, Stores};

/// A table's place, and the faults of its store.
pub(super) struct Place {
    pub location: Location,
    fault: Arc<Fault>,
    _dir: Option<tempfile::TempDir>,
}

/// What happens to the next conditional put.
#[derive(Debug, Default)]
struct Fault {
    /// It happens, and the reply is an error.
    lose: AtomicBool,
    /// It does not happen.
    refuse: AtomicBool,
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    fault: Arc<Fault>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let error = || Error_::Generic { store: "faulty", source: "connection reset".into() };
        let create = matches!(opts.mode, PutMode::Create);
        if create && self.fault.refuse.swap(false, Ordering::SeqCst) {
            return Err(error());
        }
        let done = self.inner.put_opts(location, payload, opts).await;
        if create && self.fault.lose.swap(false, Ordering::SeqCst) {
            return Err(error());
        }
        done
    }
    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

use object_store::Error as Error_;

fn place(text: &str, dir: Option<tempfile::TempDir>) -> Place {
    let fault = Arc::new(Fault::default());
    let shared = Arc::clone(&fault);
    let stores = Stores::new(Some(Arc::new(move |inner| Arc::new(Faulty { inner, fault: Arc::clone(&shared) }) as Arc<dyn ObjectStore>)));
    let base = dir.as_ref().map_or(std::path::PathBuf::from("/"), |d| d.path().to_owned());
    let location = stores.locate(text, &base).unwrap();
    Place { location, fault, _dir: dir }
}

pub(super) fn memory() -> Place {
    place("memory://lake/silver/t", None)
}

pub(super) fn places() -> Vec<Place> {
    vec![memory(), place("la ke/silver/t", Some(tempfile::tempdir().unwrap()))]
}

fn tables() -> Vec<(Place, Arc<dyn TableFormat>)> {
    let kinds = [FormatKind::Delta, FormatKind::Parquet];
    kinds
        .iter()
        .flat_map(|kind| places().into_iter().map(|p| (*kind, p)))
        .map(|(kind, p)| (open(kind, p.location.clone()), p))
        .map(|(f, p)| (p, f))
        .collect()
}

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The partition column stands in the middle, where files do not have it.
pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("city", DataType::Utf8View, true),
        Field::new("name", DataType::Utf8View, true),
        Field::new("price", DataType::Decimal128(12, 2), true),
        Field::new("at", utc(), true),
        Field::new("day", DataType::Date32, true),
    ]))
}

static FILES: AtomicU64 = AtomicU64::new(0);

/// Five rows with ids from `first`, in the partition `city`.
pub(super) async fn file(at: &Location, prefix: &str, city: Option<&str>, first: i64) -> DataFile {
    let ids: Vec<i64> = (first..first + 5).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("name", Arc::new(ids.iter().map(|i| (i % 5 != 0).then(|| format!("n{i:03}"))).collect::<StringArray>())),
        (
            "price",
            Arc::new(
                Decimal128Array::from_iter_values(ids.iter().map(|i| i128::from(*i) * 100 + 25)).with_precision_and_scale(12, 2).unwrap(),
            ),
        ),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(ids.iter().map(|i| i * 3_600_000_000 + 1)).with_timezone("UTC"))),
        ("day", Arc::new(Date32Array::from_iter_values(ids.iter().map(|i| *i as i32)))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, n != "id"))).unwrap();
    let mut bytes = vec![];
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let folder = city.map_or("__HIVE_DEFAULT_PARTITION__".to_owned(), |c| {
        c.chars().map(|c| if "/%:=\"'*?#[]{}^\\".contains(c) { format!("%{:02X}", c as u32) } else { c.to_string() }).collect()
    });
    let path = format!("{prefix}/city={folder}/part-{:05}.parquet", FILES.fetch_add(1, Ordering::SeqCst));
    let path = path.trim_start_matches('/').to_owned();
    let (low, high) = (first, first + 4);
    let stats = serde_json::json!({
        "numRecords": 5, "minValues": {"id": low, "price": low as f64 + 0.25}, "maxValues": {"id": high, "price": high as f64 + 0.25}, "nullCount": {"id": 0},
    });
    let file = DataFile {
        partition: vec![("city".into(), city.map(str::to_owned))],
        rows: 5,
        bytes: bytes.len() as u64,
        stats: Some(stats.to_string()),
        modified: 1_700_000_000_000,
        path,
    };
    at.store.put(&at.path(&file.path).unwrap(), bytes.into()).await.unwrap();
    file
}

const CITIES: [Option<&str>; 5] = [Some("São Paulo"), Some("a/b=c%20d"), None, Some("x#y?z*[1]"), Some("O'Brien: \"1\"")];

async fn append_at(at: &Location, base: &Option<Snapshot>, n: u64) -> Change {
    let add = file(at, &format!("data/{n:08}-x"), CITIES[(n as usize - 1) % 5], n as i64 * 10).await;
    let mut checkpoint = base.as_ref().map(|s| s.checkpoint.clone()).unwrap_or_default();
    let batch = BatchId(format!("batch-{n}"));
    checkpoint.sequence += 1;
    checkpoint.batches.push(batch.clone());
    let mark = FileMark { size: n, modified: 1, etag: None };
    checkpoint.files.entry("orders".into()).or_default().insert(format!("orders-{n}.csv"), mark);
    Change {
        add: vec![add],
        remove: Remove::Nothing,
        batch,
        checkpoint,
        schema: schema(),
        partition_columns: vec!["city".into()],
        descriptions: Default::default(),
        operation: "append".into(),
        data_change: true,
        now: 1_700_000_000_000,
    }
}

/// An append of one file with five rows, ids from `n * 10`.
pub(super) async fn change(place: &Place, base: &Option<Snapshot>, n: u64) -> Change {
    append_at(&place.location, base, n).await
}

/// Appends batch `n` on top of what is there.
pub(super) async fn append<F: TableFormat + Log>(format: &F, n: u64) {
    let base = format.snapshot().await.unwrap();
    let change = append_at(format.location(), &base, n).await;
    assert!(matches!(format.commit(&base, change).await.unwrap(), Commit::Published { .. }));
}

async fn query(format: &dyn TableFormat, snapshot: &Option<Snapshot>, sql: &str) -> String {
    let resources = Resources::new(64 << 20, 2, None).unwrap();
    let session = resources.session(Arc::new(Ledger::default()));
    let provider = format.provider(snapshot.as_ref().unwrap()).await.unwrap();
    session.register_table("t", provider).unwrap();
    let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

/// The first column, as text.
async fn values(format: &dyn TableFormat, snapshot: &Option<Snapshot>, sql: &str) -> Vec<String> {
    let table = query(format, snapshot, sql).await;
    table.lines().skip(3).filter(|l| l.starts_with('|')).map(|l| l.split('|').nth(1).unwrap().trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn create_append_and_read() {
    for (place, format) in tables() {
        assert!(format.snapshot().await.unwrap().is_none());
        assert_eq!(detect(&place.location).await.unwrap(), None);
        let first = change(&place, &None, 1).await;
        assert_eq!(format.commit(&None, first.clone()).await.unwrap(), Commit::Published { version: 0 });
        for n in 2..=5 {
            let base = format.snapshot().await.unwrap();
            let change = change(&place, &base, n).await;
            assert_eq!(format.commit(&base, change).await.unwrap(), Commit::Published { version: n - 1 });
        }
        let now = format.snapshot().await.unwrap();
        let snapshot = now.as_ref().unwrap();
        assert_eq!(snapshot.schema, schema());
        assert_eq!(snapshot.partition_columns, ["city"]);
        assert_eq!(snapshot.files[0], first.add[0], "files come back as they were given");
        let kept: Vec<_> = snapshot.files.iter().map(|f| f.partition[0].1.as_deref()).collect();
        assert_eq!(kept, CITIES);
        assert_eq!(snapshot.checkpoint.sequence, 5);
        assert_eq!(snapshot.checkpoint.files["orders"].len(), 5);
        assert_eq!(detect(&place.location).await.unwrap().map(|k| open(k, place.location.clone()).name()), Some(format.name()));

        let f = format.as_ref();
        assert_eq!(values(f, &now, "select count(*) from t").await, ["25"]);
        assert_eq!(values(f, &now, "select city from t where id = 21").await, ["a/b=c%20d"]);
        assert_eq!(values(f, &now, "select id from t where city is null order by id").await, ["30", "31", "32", "33", "34"]);
        assert_eq!(values(f, &now, "select id from t where city = 'x#y?z*[1]' and name is null").await, ["40"]);
        assert_eq!(values(f, &now, "select id from t where price > 54 and price < 100").await, ["54"]);
        assert_eq!(values(f, &now, "select max(at) from t").await, ["1970-01-03T06:00:00.000001Z"]);
        let row = query(f, &now, "select * from t where id = 12").await;
        assert!(row.contains("| 12 | São Paulo | n012 | 12.25 | 1970-01-01T12:00:00.000001Z | 1970-01-13 |"), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_prune_files_and_counts_need_none() {
    let place = memory();
    let format = open(FormatKind::Delta, place.location.clone());
    for n in 1..=5 {
        let base = format.snapshot().await.unwrap();
        format.commit(&base, change(&place, &base, n).await).await.unwrap();
    }
    let now = format.snapshot().await.unwrap();
    let plan = async |sql: &str| query(format.as_ref(), &now, &format!("explain format indent {sql}")).await;
    let parts = |plan: &str| plan.matches(".parquet").count();
    assert_eq!(parts(&plan("select name from t").await), 5);
    assert_eq!(parts(&plan("select name from t where id between 22 and 31").await), 2);
    assert_eq!(parts(&plan("select name from t where price >= 50.5").await), 1);
    assert_eq!(parts(&plan("select name from t where city = 'São Paulo'").await), 1);
    assert_eq!(parts(&plan("select name from t where city is null").await), 1);
    assert_eq!(parts(&plan("select name from t where id > 1000").await), 0);
    let count = plan("select count(*) from t").await;
    assert!(!count.contains(".parquet"), "the count comes from the log: {count}");
    let filtered = plan("select name from t where id = 12").await;
    assert!(filtered.contains("predicate=id@0 = 12") && !filtered.contains("FilterExec"), "the reader filters rows: {filtered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replace_and_remove_files() {
    for (place, format) in tables() {
        for n in 1..=3 {
            let base = format.snapshot().await.unwrap();
            format.commit(&base, change(&place, &base, n).await).await.unwrap();
        }
        let base = format.snapshot().await.unwrap();
        let mut part = change(&place, &base, 4).await;
        part.remove = Remove::Files(vec![base.as_ref().unwrap().files[1].clone()]);
        format.commit(&base, part.clone()).await.unwrap();
        let base = format.snapshot().await.unwrap();
        assert_eq!(values(format.as_ref(), &base, "select id from t where id % 10 = 0 order by id").await, ["10", "30", "40"]);
        // A file that the version does not hold cannot be removed from it.
        let mut wrong = change(&place, &base, 5).await;
        wrong.remove = part.remove;
        assert!(matches!(format.commit(&base, wrong).await, Err(Error::Bug(_))));
        let mut all = change(&place, &base, 6).await;
        all.remove = Remove::Everything;
        all.partition_columns = vec![];
        all.add[0].partition = vec![];
        let mut fields = schema().fields().to_vec();
        fields.remove(1);
        all.schema = Arc::new(Schema::new(fields));
        format.commit(&base, all).await.unwrap();
        let now = format.snapshot().await.unwrap();
        assert_eq!(values(format.as_ref(), &now, "select id from t order by id").await, ["60", "61", "62", "63", "64"]);
        assert_eq!(now.as_ref().unwrap().schema.fields().len(), 5, "a whole replacement may change everything");
        // And down to nothing.
        let mut none = change(&place, &now, 7).await;
        none.remove = Remove::Everything;
        none.add = vec![];
        format.commit(&now, none).await.unwrap();
        let now = format.snapshot().await.unwrap();
        assert_eq!(values(format.as_ref(), &now, "select count(*) from t").await, ["0"]);
        assert!(query(format.as_ref(), &now, "select id from t").await.lines().count() < 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn added_columns_are_null_in_old_files_and_changed_ones_are_refused() {
    for (place, format) in tables() {
        format.commit(&None, change(&place, &None, 1).await).await.unwrap();
        let base = format.snapshot().await.unwrap();
        let mut wider = change(&place, &base, 2).await;
        let mut fields = schema().fields().to_vec();
        fields.push(Arc::new(Field::new("extra", DataType::Utf8View, false)));
        wider.schema = Arc::new(Schema::new(fields));
        format.commit(&base, wider).await.unwrap();
        let now = format.snapshot().await.unwrap();
        assert_eq!(values(format.as_ref(), &now, "select count(*) from t where extra is null").await, ["10"]);
        assert!(now.as_ref().unwrap().schema.field(6).is_nullable());
        let before = now.as_ref().unwrap().version;
        let mut narrow = change(&place, &now, 3).await;
        narrow.schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8View, false), schema().field(1).clone()]));
        assert!(matches!(format.commit(&now, narrow).await, Err(Error::Pipeline(c)) if c.len() == 6));
        let mut moved = change(&place, &now, 3).await;
        moved.schema = now.as_ref().unwrap().schema.clone();
        moved.partition_columns = vec!["day".into()];
        assert!(matches!(format.commit(&now, moved).await, Err(Error::Pipeline(c)) if c[0].message.contains("partitioned by")));
        assert_eq!(format.snapshot().await.unwrap().unwrap().version, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_published_once() {
    for (place, format) in tables() {
        let first = change(&place, &None, 1).await;
        format.commit(&None, first.clone()).await.unwrap();
        let base = format.snapshot().await.unwrap();
        assert_eq!(format.commit(&base, first.clone()).await.unwrap(), Commit::AlreadyPublished);
        // The same run twice at once: both saw no table.
        assert_eq!(format.commit(&None, first).await.unwrap(), Commit::AlreadyPublished);
        // Another run at once: the loser is told.
        let (a, b) = (change(&place, &base, 2).await, change(&place, &base, 3).await);
        let (x, y) = tokio::join!(format.commit(&base, a), format.commit(&base, b));
        let mut ends = [x.unwrap(), y.unwrap()];
        ends.sort_by_key(|c| matches!(c, Commit::Conflict { .. }));
        assert_eq!(ends, [Commit::Published { version: 1 }, Commit::Conflict { with: 1 }]);
        assert_eq!(values(format.as_ref(), &format.snapshot().await.unwrap(), "select count(*) from t").await, ["10"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_found_and_a_failed_put_publishes_nothing() {
    for (place, format) in tables() {
        place.fault.lose.store(true, Ordering::SeqCst);
        let change_1 = change(&place, &None, 1).await;
        assert_eq!(format.commit(&None, change_1).await.unwrap(), Commit::Published { version: 0 });
        let base = format.snapshot().await.unwrap();
        place.fault.refuse.store(true, Ordering::SeqCst);
        let next = change(&place, &base, 2).await;
        assert!(matches!(format.commit(&base, next.clone()).await, Err(Error::Retry { .. })));
        assert_eq!(format.snapshot().await.unwrap().unwrap().version, 0);
        place.fault.lose.store(true, Ordering::SeqCst);
        assert_eq!(format.commit(&base, next).await.unwrap(), Commit::Published { version: 1 });
        assert_eq!(format.snapshot().await.unwrap().unwrap().files.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commits_with_a_large_checkpoint() {
    for (place, format) in tables() {
        for n in 1..=25 {
            let base = format.snapshot().await.unwrap();
            let mut change = change(&place, &base, n).await;
            if n == 1 {
                // Too large to lie in a manifest.
                let mark = FileMark { size: 1, modified: 1, etag: Some("e".into()) };
                change.checkpoint.files.insert("big".into(), (0..500).map(|i| (format!("f{i:05}"), mark.clone())).collect());
            }
            if n == 13 {
                change.remove = Remove::Files(vec![base.as_ref().unwrap().files[0].clone()]);
            }
            let expected: Checkpoint = change.checkpoint.clone();
            assert_eq!(format.commit(&base, change).await.unwrap(), Commit::Published { version: n - 1 });
            assert_eq!(format.snapshot().await.unwrap().unwrap().checkpoint, expected);
        }
        let now = format.snapshot().await.unwrap();
        assert_eq!(now.as_ref().unwrap().checkpoint.batches.len(), 25);
        assert_eq!(values(format.as_ref(), &now, "select count(*), count(distinct id) from t").await, ["120"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_the_other_format_is_refused() {
    let (a, b) = (memory(), memory());
    for (place, ours, other) in [(a, FormatKind::Delta, FormatKind::Parquet), (b, FormatKind::Parquet, FormatKind::Delta)] {
        let format = open(ours, place.location.clone());
        format.commit(&None, change(&place, &None, 1).await).await.unwrap();
        let e = open(other, place.location.clone()).snapshot().await.unwrap_err();
        assert!(matches!(&e, Error::Pipeline(c) if c[0].help.as_deref().unwrap().contains(&format!("format: {}", format.name()))), "{e}");
    }
}

/// Writes tables for other engines: `SMELT_EXPORT=/tmp/x cargo test … export`. Prints how long a snapshot takes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "by hand"]
async fn export() {
    let root = std::env::var("SMELT_EXPORT").unwrap();
    for (kind, name) in [(FormatKind::Delta, "delta"), (FormatKind::Parquet, "parquet")] {
        let location = Stores::default().locate(name, std::path::Path::new(&root)).unwrap();
        let format = open(kind, location.clone());
        for n in 1..=14 {
            let base = format.snapshot().await.unwrap();
            format.commit(&base, append_at(&location, &base, n).await).await.unwrap();
            let start = std::time::Instant::now();
            for _ in 0..20 {
                format.snapshot().await.unwrap();
            }
            println!("{name} after {n} commits: snapshot {:?}", start.elapsed() / 20);
        }
    }
}
