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
use smelt_engine::change::ChangeState;
use smelt_engine::ledger::Ledger;
use smelt_engine::session::Resources;
use smelt_engine::table::{At, BatchId, Change, Checkpoint, Commit, DataFile, FileMark, Reads, Remove, Snapshot, TableFormat};

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

pub(super) async fn append_at(at: &Location, base: &Option<Snapshot>, n: u64) -> Change {
    let add = file(at, &format!("data/{n:08}-x"), CITIES[(n as usize - 1) % 5], n as i64 * 10).await;
    let mut checkpoint = base.as_ref().map(|s| s.checkpoint.clone()).unwrap_or_default();
    let batch = BatchId(format!("batch-{n}"));
    checkpoint.sequence += 1;
    checkpoint.batches.push(batch.clone());
    let mark = FileMark { size: n, modified: 1, etag: None };
    checkpoint.files.insert(format!("orders-{n}.csv"), &mark);
    Change {
        add: vec![add],
        remove: Remove::Nothing,
        reads: Reads::Nothing,
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
        assert_eq!(snapshot.checkpoint.files.paths().unwrap().count(), 5);
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
async fn members_of_structs_are_added_and_null_in_old_files() {
    use arrow::array::StructArray;
    for (place, format) in tables() {
        let at = &place.location;
        // a file whose only columns are a number and a struct of the given members
        let write = async |path: &str, members: Vec<(&str, ArrayRef)>| {
            let fields: Vec<Field> = members.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
            let whole: ArrayRef = Arc::new(StructArray::new(fields.into(), members.into_iter().map(|(_, a)| a).collect(), None));
            let id: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
            let batch = RecordBatch::try_from_iter_with_nullable([("id", id, true), ("u", Arc::clone(&whole), true)]).unwrap();
            let mut bytes = vec![];
            let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let file = DataFile {
                path: path.into(),
                partition: vec![],
                rows: 2,
                bytes: bytes.len() as u64,
                stats: Some(r#"{"numRecords":2}"#.into()),
                modified: 1,
            };
            at.store.put(&at.path(path).unwrap(), bytes.into()).await.unwrap();
            let schema = Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("u", whole.data_type().clone(), true)]);
            (file, Arc::new(schema))
        };
        let texts = |v: [&str; 2]| Arc::new(StringArray::from(v.to_vec())) as ArrayRef;
        let old = write("a.parquet", vec![("name", texts(["x", "y"]))]).await;
        let new = write("b.parquet", vec![("city", texts(["SP", "RJ"])), ("name", texts(["v", "w"]))]).await;
        for (n, (file, schema)) in [old, new].into_iter().enumerate() {
            let base = format.snapshot().await.unwrap();
            let mut change = change(&place, &base, n as u64 + 1).await;
            (change.add, change.schema, change.partition_columns) = (vec![file], schema, vec![]);
            format.commit(&base, change).await.unwrap();
        }
        let now = format.snapshot().await.unwrap();
        let f = format.as_ref();
        assert_eq!(values(f, &now, "select u['name'] from t order by 1").await, ["v", "w", "x", "y"]);
        assert_eq!(values(f, &now, "select count(*) from t where u['city'] is null").await, ["2"]);
        assert_eq!(values(f, &now, "select u['name'] from t where u['city'] = 'SP'").await, ["v"]);
        let log = super::schema_log(if f.name() == "delta" { FormatKind::Delta } else { FormatKind::Parquet }, at).await.unwrap();
        let seen: Vec<_> = log.iter().map(|l| (l.version, l.batch.as_deref().unwrap_or_default(), l.schema.fields().len())).collect();
        assert_eq!(seen, [(0, "batch-1", 2), (1, "batch-2", 2)]);
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
        assert_eq!(values(format.as_ref(), &format.snapshot().await.unwrap(), "select count(*) from t").await, ["5"]);
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
                (0..500).for_each(|i| change.checkpoint.files.insert(format!("f{i:05}"), &mark));
            }
            if n == 13 {
                change.remove = Remove::Files(vec![base.as_ref().unwrap().files[0].clone()]);
            }
            let expected: Checkpoint = change.checkpoint.clone();
            assert_eq!(format.commit(&base, change).await.unwrap(), Commit::Published { version: n - 1 });
            let found = format.snapshot().await.unwrap().unwrap().checkpoint;
            assert_eq!((found.sequence, &found.batches), (expected.sequence, &expected.batches));
            super::consumed::load(&place.location, &found.files, &[String::new()]).await.unwrap();
            assert_eq!(found.files.paths().unwrap().count(), 500 + n as usize);
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

#[tokio::test(flavor = "multi_thread")]
async fn appends_step_over_each_other_and_what_they_took_in_is_merged() {
    for (place, format) in tables() {
        // All see no table, or the same version of it, and a checkpoint that does not fit into a manifest.
        let mut first = change(&place, &None, 1).await;
        let mark = FileMark { size: 1, modified: 1, etag: Some("e".into()) };
        (0..500).for_each(|i| first.checkpoint.files.insert(format!("f{i:05}"), &mark));
        let (second, third) = (change(&place, &None, 2).await, change(&place, &None, 3).await);
        for (n, one) in [first, second, third].into_iter().enumerate() {
            assert_eq!(format.commit(&None, one).await.unwrap(), Commit::Published { version: n as u64 });
        }
        let base = format.snapshot().await.unwrap();
        let mut changes = vec![];
        for n in 4..=15 {
            changes.push(change(&place, &base, n).await);
        }
        let ends = futures::future::join_all(changes.into_iter().map(|change| format.commit(&base, change))).await;
        let mut versions: Vec<u64> = ends
            .into_iter()
            .map(|end| match end.unwrap() {
                Commit::Published { version } => version,
                other => panic!("{other:?}"),
            })
            .collect();
        versions.sort_unstable();
        assert_eq!(versions, (3..15).collect::<Vec<_>>());
        let now = format.snapshot().await.unwrap();
        let checkpoint = &now.as_ref().unwrap().checkpoint;
        let mut batches: Vec<&str> = checkpoint.batches.iter().map(|b| b.0.as_str()).collect();
        batches.sort_unstable();
        batches.dedup();
        assert_eq!((checkpoint.sequence, batches.len(), checkpoint.batches.len()), (15, 15, 15));
        super::consumed::load(&place.location, &checkpoint.files, &[String::new()]).await.unwrap();
        assert_eq!(checkpoint.files.paths().unwrap().count(), 515);
        assert_eq!(values(format.as_ref(), &now, "select count(*) from t").await, ["75"]);
        assert_eq!(values(format.as_ref(), &now, "select count(distinct id) from t").await, ["75"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_input_is_taken_in_by_one_of_two_and_the_other_is_told_by_whom() {
    for (place, format) in tables() {
        format.commit(&None, change(&place, &None, 1).await).await.unwrap();
        let base = format.snapshot().await.unwrap();
        let (winner, mut loser) = (change(&place, &base, 2).await, change(&place, &base, 3).await);
        loser.checkpoint.files = winner.checkpoint.files.clone();
        format.commit(&base, winner.clone()).await.unwrap();
        let expected = Commit::Conflict { with: 1, batch: Some(winner.batch) };
        assert_eq!(format.commit(&base, loser.clone()).await.unwrap(), expected);
        assert_eq!(values(format.as_ref(), &format.snapshot().await.unwrap(), "select count(*) from t").await, ["10"]);
        // The same where there was no table.
        let mut loser = change(&place, &None, 4).await;
        loser.checkpoint.files = winner.checkpoint.files;
        assert!(matches!(format.commit(&None, loser).await.unwrap(), Commit::Conflict { .. }));
    }
}

/// One change against another that was published first, in every combination of what they do.
#[tokio::test(flavor = "multi_thread")]
async fn changes_to_other_partitions_and_untouched_files_do_not_conflict() {
    // What the second does, and whether it steps over: an append to its partition, an append to another, a rewrite of its file, a
    // rewrite of another, a replacement.
    let rules = [
        ("append", [true, true, true, true, true]),
        ("compact", [true, true, false, true, false]),
        ("partition", [false, true, false, true, false]),
        ("merge", [false, false, false, false, false]),
        ("replace", [false, false, false, false, false]),
    ];
    for (ours, steps_over) in rules {
        for (theirs, expected) in steps_over.into_iter().enumerate() {
            for (place, format) in tables() {
                for n in 1..=2 {
                    let base = format.snapshot().await.unwrap();
                    format.commit(&base, change(&place, &base, n).await).await.unwrap();
                }
                let base = format.snapshot().await.unwrap();
                let files = Arc::clone(&base.as_ref().unwrap().files);
                let (mine, other) = (files[0].clone(), files[1].clone());
                // Change 6 falls into the partition of `mine`, change 7 into that of `other`.
                let mut first = change(&place, &base, if [0, 2].contains(&theirs) { 6 } else { 7 }).await;
                match theirs {
                    2 => first.remove = Remove::Files(vec![mine.clone()]),
                    3 => first.remove = Remove::Files(vec![other]),
                    4 => first.remove = Remove::Everything,
                    _ => {}
                }
                let mut second = change(&place, &base, 11).await;
                (second.reads, second.remove) = match ours {
                    "append" => (Reads::Nothing, Remove::Nothing),
                    "compact" => (Reads::Files, Remove::Files(vec![mine.clone()])),
                    "partition" => (Reads::Partitions([mine.partition.clone()].into()), Remove::Files(vec![mine.clone()])),
                    "merge" => (Reads::Everything, Remove::Files(vec![mine.clone()])),
                    _ => (Reads::Everything, Remove::Everything),
                };
                assert_eq!(format.commit(&base, first.clone()).await.unwrap(), Commit::Published { version: 2 });
                let end = format.commit(&base, second.clone()).await.unwrap();
                let wanted = if expected {
                    Commit::Published { version: 3 }
                } else {
                    Commit::Conflict { with: 2, batch: Some(first.batch.clone()) }
                };
                assert_eq!(end, wanted, "{ours} over {theirs} in {}", format.name());
                let now = format.snapshot().await.unwrap().unwrap();
                let holds = |file: &DataFile| now.files.iter().any(|f| f.path == file.path);
                assert!(holds(&first.add[0]), "{ours} over {theirs}");
                assert_eq!(holds(&second.add[0]), expected, "{ours} over {theirs}");
                assert_eq!(now.checkpoint.files.paths().unwrap().count(), if expected { 4 } else { 3 }, "{ours} over {theirs}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_schema_is_a_conflict_and_a_lost_reply_on_the_way_is_none() {
    for (place, format) in tables() {
        format.commit(&None, change(&place, &None, 1).await).await.unwrap();
        let base = format.snapshot().await.unwrap();
        let mut wider = change(&place, &base, 2).await;
        let mut fields = schema().fields().to_vec();
        fields.push(Arc::new(Field::new("extra", DataType::Utf8View, true)));
        wider.schema = Arc::new(Schema::new(fields));
        let widened = wider.batch.clone();
        format.commit(&base, wider).await.unwrap();
        let end = format.commit(&base, change(&place, &base, 3).await).await.unwrap();
        assert_eq!(end, Commit::Conflict { with: 1, batch: Some(widened) });
        let end = format.commit(&None, change(&place, &None, 4).await).await.unwrap();
        assert!(matches!(end, Commit::Conflict { with: 0, .. }), "the table is not the one that would be made: {end:?}");

        let base = format.snapshot().await.unwrap();
        let schema = Arc::clone(&base.as_ref().unwrap().schema);
        let (mut one, mut two) = (change(&place, &base, 5).await, change(&place, &base, 6).await);
        (one.schema, two.schema) = (Arc::clone(&schema), schema);
        format.commit(&base, one).await.unwrap();
        // Whatever the store says of the first put, what lies there decides: the other's version, and the next one is free.
        place.fault.lose.store(true, Ordering::SeqCst);
        assert_eq!(format.commit(&base, two).await.unwrap(), Commit::Published { version: 3 });
        assert_eq!(format.snapshot().await.unwrap().unwrap().checkpoint.batches.len(), 4);
    }
}

/// The rows of `old`, which start at `first`, in another file; otherwise nothing.
async fn compaction(place: &Place, base: &Option<Snapshot>, old: &DataFile, first: i64, n: u64) -> Change {
    let add = file(&place.location, &format!("data/{n:08}-compact"), old.partition[0].1.as_deref(), first).await;
    let mut change = change(place, base, n).await;
    change.add = vec![add];
    change.remove = Remove::Files(vec![old.clone()]);
    change.data_change = false;
    change.operation = "optimize".into();
    // Whatever stands there is not looked at.
    change.checkpoint = Checkpoint::default();
    change.schema = Arc::new(Schema::empty());
    change.partition_columns = vec![];
    change
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_layout_steps_over_other_writers_and_they_over_it() {
    for (place, format) in tables() {
        let mut base = None;
        for n in 1..=2 {
            let mut change = change(&place, &base, n).await;
            if n == 1 {
                // Too large to lie in a manifest.
                let mark = FileMark { size: 1, modified: 1, etag: None };
                (0..500).for_each(|i| change.checkpoint.files.insert(format!("f{i:05}"), &mark));
            }
            format.commit(&base, change).await.unwrap();
            base = format.snapshot().await.unwrap();
        }
        let files = base.as_ref().unwrap().files.clone();
        let appended = change(&place, &base, 3).await;
        let mut late = change(&place, &base, 4).await;
        let first = compaction(&place, &base, &files[0], 10, 5).await;
        let lost = compaction(&place, &base, &files[0], 10, 6).await;
        let second = compaction(&place, &base, &files[1], 20, 7).await;
        assert_eq!(format.commit(&base, first).await.unwrap(), Commit::Published { version: 2 });
        // An append that did not see it.
        assert_eq!(format.commit(&base, appended.clone()).await.unwrap(), Commit::Published { version: 3 });
        // Another compaction that did not see the append, and one whose file is gone.
        assert_eq!(format.commit(&base, second).await.unwrap(), Commit::Published { version: 4 });
        assert!(matches!(format.commit(&base, lost).await.unwrap(), Commit::Conflict { .. }));
        // What read the whole table did not read the one that is there now.
        late.reads = Reads::Everything;
        assert!(matches!(format.commit(&base, late).await.unwrap(), Commit::Conflict { .. }));
        let now = format.snapshot().await.unwrap();
        let snapshot = now.as_ref().unwrap();
        assert_eq!((snapshot.version, snapshot.rewrites, &snapshot.checkpoint), (4, 2, &appended.checkpoint));
        assert_eq!((&snapshot.schema, snapshot.files.len()), (&schema(), 3));
        assert_eq!(values(format.as_ref(), &now, "select count(*), sum(id) from t").await, ["15"]);
        assert_eq!(values(format.as_ref(), &now, "select sum(id) from t").await, [(12 * 5 + 22 * 5 + 32 * 5).to_string()]);

        let history = format.history(10).await.unwrap();
        let told: Vec<_> = history.iter().map(|v| (v.version, v.operation.as_str(), v.data_change)).collect();
        let expected = [(4, "optimize", false), (3, "append", true), (2, "optimize", false), (1, "append", true), (0, "append", true)];
        assert_eq!(told, expected);
        assert_eq!((history[0].files_added, history[0].files_removed, history[0].rows_added), (1, 1, Some(5)));
        assert_eq!(history[1].batch, Some(BatchId("batch-3".into())));
        assert_eq!(format.history(2).await.unwrap(), history[..2]);
        // Fewer rows than there were are refused.
        let mut wrong = compaction(&place, &now, &snapshot.files[0], 10, 8).await;
        wrong.add.clear();
        assert!(matches!(format.commit(&now, wrong).await, Err(Error::Bug(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_are_read_and_brought_back() {
    for (place, format) in tables() {
        for n in 1..=25 {
            let base = format.snapshot().await.unwrap();
            let mut change = change(&place, &base, n).await;
            if n == 13 {
                change.remove = Remove::Everything;
                let mut fields = schema().fields().to_vec();
                fields.push(Arc::new(Field::new("extra", DataType::Utf8View, true)));
                change.schema = Arc::new(Schema::new(fields));
            } else if n > 13 {
                change.schema = base.as_ref().unwrap().schema.clone();
            }
            format.commit(&base, change).await.unwrap();
        }
        for version in [0, 3, 9, 10, 11, 12, 24] {
            let old = format.snapshot_at(At::Version(version)).await.unwrap();
            let sequence = version + 1;
            assert_eq!((old.version, old.checkpoint.sequence), (version, sequence), "checkpoints of old versions stay");
            let files = if version < 12 { sequence } else { sequence - 12 };
            assert_eq!((old.files.len() as u64, old.schema.fields().len()), (files, if version < 12 { 6 } else { 7 }));
            let counted = values(format.as_ref(), &Some(old), "select count(*) from t").await;
            assert_eq!(counted, [(files * 5).to_string()]);
        }
        let e = format.snapshot_at(At::Version(25)).await.unwrap_err();
        assert!(
            matches!(&e, Error::Pipeline(c) if c[0].message.contains("does not exist yet") && c[0].help.as_deref().unwrap().contains("0 to 24")),
            "{e}"
        );
        assert!(matches!(format.snapshot_at(At::Timestamp(0)).await, Err(Error::Pipeline(c)) if c[0].message.contains("did not exist")));
        let newest = format.snapshot_at(At::Timestamp(i64::MAX)).await.unwrap();
        assert_eq!(newest.version, 24);

        // Back to a version of another schema, some of whose files are there still.
        let base = format.snapshot().await.unwrap();
        let old = format.snapshot_at(At::Version(5)).await.unwrap();
        let mut back = change(&place, &base, 26).await;
        back.add = old.files.to_vec();
        back.remove = Remove::Everything;
        back.schema = old.schema.clone();
        format.commit(&base, back).await.unwrap();
        let now = format.snapshot().await.unwrap();
        assert_eq!((&now.as_ref().unwrap().files, &now.as_ref().unwrap().schema), (&old.files, &old.schema));
        let mut again = change(&place, &now, 27).await;
        again.add = old.files[..2].to_vec();
        again.remove = Remove::Everything;
        format.commit(&now, again).await.unwrap();
        let now = format.snapshot().await.unwrap();
        assert_eq!(values(format.as_ref(), &now, "select count(*) from t").await, ["10"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cleaned_up_says_which_versions_are_left() {
    let place = memory();
    let format = open(FormatKind::Delta, place.location.clone());
    for n in 1..=14 {
        let base = format.snapshot().await.unwrap();
        format.commit(&base, change(&place, &base, n).await).await.unwrap();
    }
    for version in 0..=5 {
        let path = place.location.path(&super::delta_log::entry(version)).unwrap();
        place.location.store.delete(&path).await.unwrap();
    }
    assert_eq!(format.snapshot_at(At::Version(12)).await.unwrap().files.len(), 13);
    assert_eq!(format.snapshot_at(At::Version(10)).await.unwrap().files.len(), 11);
    for gone in [3, 8] {
        let e = format.snapshot_at(At::Version(gone)).await.unwrap_err();
        assert!(
            matches!(&e, Error::Pipeline(c) if c[0].message.contains("no longer") && c[0].help.as_deref().unwrap().contains("10 to 13")),
            "{e}"
        );
    }
    assert_eq!(format.history(20).await.unwrap().len(), 8, "versions that can be told of are told of");
}

/// Makes every object below the table's root as old as `hours`.
fn age(root: &std::path::Path, hours: u64) {
    for entry in std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()) {
        match entry.is_dir() {
            true => age(&entry, hours),
            false => touch(&entry, hours),
        }
    }
}

fn touch(path: &std::path::Path, hours: u64) {
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
    std::fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_what_no_version_within_the_retention_needs() {
    for kind in [FormatKind::Delta, FormatKind::Parquet] {
        let place = place("la ke/silver/t", Some(tempfile::tempdir().unwrap()));
        let root = std::path::PathBuf::from(format!("/{}", place.location.prefix));
        let format = open(kind, place.location.clone());
        let state = |name: &str| DataFile { path: format!("_smelt/state/{name}.parquet"), ..empty() };
        let mut added = vec![];
        for n in 1..=4 {
            let base = format.snapshot().await.unwrap();
            let mut change = change(&place, &base, n).await;
            if n > 1 {
                change.remove = Remove::Everything;
            }
            change.checkpoint.state = Some(ChangeState { files: vec![state(&format!("s{n}"))], ..ChangeState::default() });
            place.location.store.put(&place.location.path(&state(&format!("s{n}")).path).unwrap(), "x".into()).await.unwrap();
            added.push(change.add[0].path.clone());
            format.commit(&base, change).await.unwrap();
        }
        let stray = file(&place.location, "data/x", Some("RJ"), 1).await.path;
        let kept = file(&place.location, "data/x", Some("RJ"), 1).await.path;
        for other in ["notes.txt", "_smelt/other/x.parquet", ".hidden/x.parquet"] {
            place.location.store.put(&place.location.path(other).unwrap(), "x".into()).await.unwrap();
        }
        // All is ten days old, but the last version, which took the third one's file away, was published yesterday.
        age(&root, 240);
        let entry = match kind {
            FormatKind::Delta => super::delta_log::entry(3),
            FormatKind::Parquet => super::parquet::entry(3),
        };
        touch(&root.join(&entry), 24);
        let young = file(&place.location, "data/x", Some("RJ"), 1).await.path;

        let now = chrono::Utc::now().timestamp_millis();
        let keep = std::collections::BTreeSet::from([kept.clone()]);
        let garbage = format.garbage(now - 7 * 86_400_000, &keep).await.unwrap();
        let paths: Vec<&str> = garbage.iter().map(|g| g.path.as_str()).collect();
        let data: Vec<&str> = paths.iter().copied().filter(|p| !p.starts_with("_smelt/")).collect();
        let mut expected = vec![added[0].as_str(), added[1].as_str(), stray.as_str()];
        expected.sort_unstable();
        let mut sorted = data.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected, "{kind:?}: the third file is needed by those who opened the table a week ago");
        assert!(!paths.contains(&young.as_str()) && !paths.contains(&kept.as_str()));
        let states: Vec<&&str> = paths.iter().filter(|p| p.starts_with("_smelt/state/")).collect();
        assert_eq!(states.len(), 2, "{states:?}");
        match kind {
            FormatKind::Delta => assert_eq!(paths.iter().filter(|p| p.starts_with("_smelt/checkpoints/")).count(), 2),
            FormatKind::Parquet => {
                assert_eq!(paths.iter().filter(|p| p.starts_with("_smelt/versions/")).count(), 2);
                assert!(paths[0].starts_with("_smelt/versions/"), "manifests go before what they name");
            }
        }

        super::sweep(&place.location, &garbage).await.unwrap();
        super::sweep(&place.location, &garbage).await.unwrap();
        assert!(format.garbage(now - 7 * 86_400_000, &keep).await.unwrap().is_empty());
        for version in [2, 3] {
            let old = format.snapshot_at(At::Version(version)).await.unwrap();
            assert_eq!(super::missing(&place.location, old.files.iter().map(|f| f.path.as_str())).await.unwrap(), Vec::<String>::new());
            assert_eq!(values(format.as_ref(), &Some(old), "select count(*) from t").await, ["5"]);
        }
        assert!(format.snapshot_at(At::Version(0)).await.is_err());
        assert_eq!(format.snapshot_at(At::Timestamp(now - 3 * 86_400_000)).await.unwrap().version, 2);
        assert_eq!(super::missing(&place.location, [added[0].as_str(), added[3].as_str()].into_iter()).await.unwrap(), [added[0].clone()]);
    }
}

fn empty() -> DataFile {
    DataFile { path: String::new(), partition: vec![], rows: 0, bytes: 0, stats: None, modified: 0 }
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
