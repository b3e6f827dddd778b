//! Writing: what comes back from the files, partition by partition and type by type.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::*;
use arrow::datatypes::*;
use bytes::Bytes;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::*;
use crate::ledger::{Ledger, RejectSink};
use crate::session::Resources;

async fn run(input: Vec<Vec<RecordBatch>>, spec: WriteSpec, memory: usize) -> Result<(Vec<DataFile>, Arc<Ledger>)> {
    let ledger = Arc::new(Ledger::default());
    let ctx = Resources::new(memory, 2, None)?.session(Arc::clone(&ledger));
    let table = MemTable::try_new(input[0][0].schema(), input)?;
    let plan = ctx.read_table(Arc::new(table))?.into_unoptimized_plan();
    let batches = DataFrame::new(ctx.state(), write(plan, spec)?).collect().await?;
    assert_eq!(ctx.runtime_env().memory_pool.reserved(), 0, "all memory is given back");
    Ok((files(&batches)?, ledger))
}

fn spec(store: Arc<dyn ObjectStore>, by: &[&str]) -> WriteSpec {
    WriteSpec {
        prefix: "e1".into(),
        partition_columns: by.iter().map(|c| c.to_string()).collect(),
        ..WriteSpec::new(store, Path::from("silver/t"), 77)
    }
}

async fn bytes_of(store: &Arc<dyn ObjectStore>, file: &DataFile) -> Bytes {
    let path = Path::parse(format!("silver/t/{}", file.path)).unwrap();
    store.get(&path).await.unwrap().bytes().await.unwrap()
}

async fn read(store: &Arc<dyn ObjectStore>, file: &DataFile) -> RecordBatch {
    let bytes = bytes_of(store, file).await;
    assert_eq!(bytes.len() as u64, file.bytes);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().with_batch_size(1 << 20).build().unwrap();
    let schema = reader.schema();
    let batches: Vec<_> = reader.map(|b| b.unwrap()).collect();
    let batch = arrow::compute::concat_batches(&schema, &batches).unwrap();
    assert_eq!(batch.num_rows() as u64, file.rows);
    batch
}

async fn objects(store: &dyn ObjectStore) -> Vec<String> {
    let mut all: Vec<String> = store.list(None).map_ok(|o| o.location.to_string()).try_collect().await.unwrap();
    all.sort();
    all
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

fn cities(names: Vec<Option<&str>>) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..names.len() as i64));
    batch(vec![("id", id), ("city", Arc::new(StringViewArray::from(names)))])
}

fn every_type() -> RecordBatch {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
    let mut map = MapBuilder::new(
        Some(MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() }),
        StringViewBuilder::new(),
        Int64Builder::new(),
    );
    map.keys().append_value("k");
    map.values().append_value(9);
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.append(true).unwrap();
    let inner = StructArray::from(vec![
        (Arc::new(Field::new("n", DataType::Int32, true)), Arc::new(Int32Array::from(vec![Some(3), None, Some(-3)])) as ArrayRef),
        (Arc::new(Field::new("s", DataType::Utf8View, true)), Arc::new(StringViewArray::from(vec![Some("x"), None, Some("y")]))),
    ]);
    batch(vec![
        ("string", Arc::new(StringViewArray::from(vec![Some("São Paulo, a long text"), None, Some("")]))),
        ("boolean", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("int8", Arc::new(Int8Array::from(vec![Some(-8), None, Some(8)]))),
        ("int16", Arc::new(Int16Array::from(vec![Some(-8), None, Some(8)]))),
        ("int32", Arc::new(Int32Array::from(vec![Some(-8), None, Some(8)]))),
        ("int64", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]))),
        ("float", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(f32::NAN)]))),
        ("double", Arc::new(Float64Array::from(vec![Some(-0.1), None, Some(1e300)]))),
        ("dec9", Arc::new(Decimal128Array::from(vec![Some(-105), None, Some(99)]).with_precision_and_scale(9, 2).unwrap())),
        ("dec18", Arc::new(Decimal128Array::from(vec![Some(-105), None, Some(99)]).with_precision_and_scale(18, 2).unwrap())),
        (
            "dec38",
            Arc::new(
                Decimal128Array::from(vec![Some(-(10i128.pow(37))), None, Some(10i128.pow(37) + 1)])
                    .with_precision_and_scale(38, 10)
                    .unwrap(),
            ),
        ),
        ("date", Arc::new(Date32Array::from(vec![Some(-1), None, Some(19783)]))),
        ("timestamp", Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None, Some(1_709_312_400_000_001)]).with_timezone("UTC"))),
        ("binary", Arc::new(BinaryViewArray::from(vec![Some(&b"\xff\x00"[..]), None, Some(b"")]))),
        ("list", Arc::new(list)),
        ("map", Arc::new(map.finish())),
        ("struct", Arc::new(inner)),
    ])
}

#[tokio::test]
async fn every_contract_type_comes_back() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let input = every_type();
    let (files, ledger) = run(vec![vec![input.clone()]], spec(Arc::clone(&store), &[]), 1 << 30).await.unwrap();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    assert!(file.path.starts_with("e1/part-00000-") && file.path.ends_with(".zstd.parquet"), "{}", file.path);
    assert_eq!((file.modified, file.rows, file.partition.len()), (77, 3, 0));
    assert_eq!((Ledger::get(&ledger.written), Ledger::get(&ledger.bytes_written)), (3, file.bytes));
    let got = read(&store, file).await;
    for (i, field) in input.schema().fields().iter().enumerate() {
        // Without the Arrow schema in the footer the reader gives plain strings for views.
        let got = arrow::compute::cast(got.column(i), field.data_type()).unwrap();
        assert_eq!(&got, input.column(i), "{}", field.name());
    }
    let timestamp = got.schema().field(12).data_type().clone();
    assert_eq!(timestamp, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));

    let stats: Value = serde_json::from_str(file.stats.as_ref().unwrap()).unwrap();
    assert_eq!(stats["numRecords"], 3);
    let (min, max, nulls) = (&stats["minValues"], &stats["maxValues"], &stats["nullCount"]);
    assert_eq!((&min["string"], &max["string"], &nulls["string"]), (&"".into(), &"São Paulo, a long text".into(), &1.into()));
    assert_eq!((&min["boolean"], &nulls["boolean"]), (&Value::Null, &1.into()));
    assert_eq!((&min["int8"], &max["int64"]), (&(-8).into(), &i64::MAX.into()));
    assert_eq!((&min["double"], &max["double"]), (&(-0.1).into(), &1e300.into()));
    assert_eq!((&min["date"], &max["date"]), (&"1969-12-31".into(), &"2024-03-01".into()));
    assert_eq!((&min["timestamp"], &max["timestamp"]), (&"1969-12-31T23:59:59.999Z".into(), &"2024-03-01T17:00:00.001Z".into()));
    assert_eq!((&min["binary"], &nulls["binary"]), (&Value::Null, &1.into()));
    assert_eq!((&min["struct"]["n"], &max["struct"]["s"], &nulls["struct"]["n"]), (&(-3).into(), &"y".into(), &1.into()));
    assert_eq!((&min["list"], &nulls["map"]), (&Value::Null, &Value::Null));
    let text = file.stats.as_ref().unwrap();
    assert!(
        text.contains("\"dec9\":-1.05")
            && text.contains("\"dec18\":0.99")
            && text.contains("\"dec38\":1000000000000000000000000000.0000000001"),
        "{text}"
    );
}

#[tokio::test]
async fn floats_without_a_number_have_no_bounds_and_long_texts_short_ones() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let long = "ä".repeat(200);
    let input = batch(vec![
        ("f", Arc::new(Float64Array::from(vec![f64::NAN, f64::NAN]))),
        ("s", Arc::new(StringViewArray::from(vec![long.as_str(), "b"]))),
        ("inf", Arc::new(Float64Array::from(vec![f64::INFINITY, 1.0]))),
    ]);
    let (files, _) = run(vec![vec![input]], spec(store, &[]), 1 << 30).await.unwrap();
    let stats: Value = serde_json::from_str(files[0].stats.as_ref().unwrap()).unwrap();
    assert_eq!((&stats["minValues"]["f"], &stats["maxValues"]["f"]), (&Value::Null, &Value::Null));
    assert_eq!((&stats["minValues"]["inf"], &stats["maxValues"]["inf"]), (&1.0.into(), &Value::Null));
    let max = stats["maxValues"]["s"].as_str().unwrap();
    assert!(max.chars().count() <= 32 && max > long.as_str(), "{max}");
}

#[tokio::test]
async fn partition_values_name_folders_and_leave_the_files() {
    for local in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn ObjectStore> =
            if local { Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap()) } else { Arc::new(InMemory::new()) };
        let names = vec![Some("São Paulo"), None, Some("a/b=c%"), Some("São Paulo"), Some(""), Some("10:30"), Some("東京")];
        let input = cities(names);
        let (files, ledger) =
            run(vec![vec![input.slice(0, 4)], vec![input.slice(4, 3)]], spec(Arc::clone(&store), &["city"]), 1 << 30).await.unwrap();
        let mut found = BTreeMap::new();
        for file in &files {
            let folder = file.path.split('/').nth(1).unwrap().to_owned();
            let rows = read(&store, file).await;
            assert_eq!(rows.schema().fields().len(), 1, "the partition column is not in the file");
            let mut ids = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
            ids.sort();
            assert_eq!(file.partition[0].0, "city");
            found.insert(folder, (file.partition[0].1.clone(), ids));
        }
        let expect = [
            ("city=10%3A30", Some("10:30"), vec![5]),
            ("city=São Paulo", Some("São Paulo"), vec![0, 3]),
            ("city=__HIVE_DEFAULT_PARTITION__", None, vec![1, 4]),
            ("city=a%2Fb%3Dc%25", Some("a/b=c%"), vec![2]),
            ("city=東京", Some("東京"), vec![6]),
        ];
        let expect: BTreeMap<_, _> = expect.into_iter().map(|(f, v, i)| (f.to_owned(), (v.map(str::to_owned), i))).collect();
        assert_eq!(found, expect);
        assert_eq!(files.len(), 5, "one file for each folder, shared by both streams");
        assert_eq!(Ledger::get(&ledger.written), 7);
        if local {
            assert!(dir.path().join("silver/t/e1/city=a%2Fb%3Dc%25").is_dir(), "the folder's name on disk is that of the path");
        }
    }
}

#[tokio::test]
async fn transforms_make_columns_and_folders() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let at: ArrayRef = Arc::new(
        TimestampMicrosecondArray::from(vec![Some(1_709_312_400_000_000), Some(1_711_990_800_000_000), None]).with_timezone("UTC"),
    );
    let input = batch(vec![("id", Arc::new(Int64Array::from(vec![1, 2, 3]))), ("at", at)]);
    let ctx = Resources::new(1 << 30, 2, None).unwrap().session(Arc::new(Ledger::default()));
    let plan = ctx.read_batch(input).unwrap().into_unoptimized_plan();
    let by: Vec<_> = ["month(at)", "bucket(4, id)"].iter().map(|t| PartitionBy::parse(t).unwrap()).collect();
    let (plan, names) = plan_partitions(plan, &by).unwrap();
    assert_eq!(names, ["at_month", "id_bucket"]);
    let spec = WriteSpec { partition_columns: names, ..spec(Arc::clone(&store), &[]) };
    let files = files(&DataFrame::new(ctx.state(), write(plan, spec).unwrap()).collect().await.unwrap()).unwrap();
    let months: Vec<_> = files.iter().map(|f| f.partition[0].1.as_deref()).collect();
    assert_eq!(months, [None, Some("2024-03"), Some("2024-04")]);
    assert!(files[1].path.starts_with("e1/at_month=2024-03/id_bucket="), "{}", files[1].path);
    assert_eq!(read(&store, &files[1]).await.schema().fields().len(), 2, "id and at stay");
}

#[test]
fn wrong_partition_entries_are_told_at_once() {
    let ctx = Resources::new(1 << 30, 2, None).unwrap().session(Arc::new(Ledger::default()));
    let plan = ctx.read_batch(cities(vec![Some("x")])).unwrap().into_unoptimized_plan();
    let by: Vec<_> = ["City", "month(city)", "city", "city"].iter().map(|t| PartitionBy::parse(t).unwrap()).collect();
    let Err(Error::Pipeline(wrong)) = plan_partitions(plan.clone(), &by) else { panic!() };
    assert_eq!(wrong.iter().map(|c| c.place.path[0].as_str()).collect::<Vec<_>>(), ["0", "1", "3"]);
    assert_eq!(wrong[0].help.as_deref(), Some("did you mean city?"));
    let all: Vec<_> = ["id", "city"].iter().map(|t| PartitionBy::parse(t).unwrap()).collect();
    assert!(plan_partitions(plan, &all).is_err());
}

fn many(rows: i64, cities: i64) -> Vec<RecordBatch> {
    let make = |from: i64| {
        let id: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 5000));
        let text: ArrayRef = Arc::new(StringViewArray::from_iter_values(
            (from..from + 5000).map(|i| format!("{:x}{:x}", i.wrapping_mul(0x9e3779b97f4a7c15u64 as i64), i * 7919)),
        ));
        let city: ArrayRef = Arc::new(Int64Array::from_iter_values((from..from + 5000).map(|i| i * 31 % cities)));
        batch(vec![("id", id), ("text", text), ("city", city)])
    };
    (0..rows / 5000).map(|i| make(i * 5000)).collect()
}

async fn ids(store: &Arc<dyn ObjectStore>, files: &[DataFile]) -> Vec<i64> {
    let mut ids = vec![];
    for file in files {
        ids.extend_from_slice(read(store, file).await.column(0).as_primitive::<Int64Type>().values());
    }
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_large_enough_is_followed_by_another() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let spec = WriteSpec { target_file_size: 200_000, ..spec(Arc::clone(&store), &[]) };
    let (files, ledger) = run(vec![many(100_000, 3)], spec, 1 << 30).await.unwrap();
    assert!(files.len() > 3, "{} files", files.len());
    assert!(files.iter().all(|f| f.bytes < 800_000));
    assert_eq!(ids(&store, &files).await, (0..100_000).collect::<Vec<_>>());
    assert_eq!(Ledger::get(&ledger.bytes_written), files.iter().map(|f| f.bytes).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_in_little_memory() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (files, _) =
        run(vec![many(100_000, 300), vec![many(5000, 1)[0].slice(0, 0)]], spec(Arc::clone(&store), &["city"]), 600_000).await.unwrap();
    assert_eq!(ids(&store, &files).await, (0..100_000).collect::<Vec<_>>());
    assert!(files.len() >= 300);
    let (files, _) = run(vec![many(100_000, 300)], spec(Arc::clone(&store), &["city"]), 1 << 30).await.unwrap();
    assert_eq!(files.len(), 300, "with memory enough, one file for each");
}

#[tokio::test]
async fn no_rows_no_file() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let empty = cities(vec![]);
    let (files, _) = run(vec![vec![empty]], spec(Arc::clone(&store), &["city"]), 1 << 30).await.unwrap();
    assert!(files.is_empty());
    assert!(objects(store.as_ref()).await.is_empty());
}

#[tokio::test]
async fn types_that_tables_do_not_hold_are_cast_or_refused() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let input = batch(vec![
        ("ns", Arc::new(TimestampNanosecondArray::from(vec![1_709_312_400_000_000_001]).with_timezone("-03:00"))),
        ("naive", Arc::new(TimestampSecondArray::from(vec![60]))),
        ("u", Arc::new(UInt64Array::from(vec![7]))),
        ("null", Arc::new(NullArray::new(1))),
    ]);
    let (files, _) = run(vec![vec![input]], spec(Arc::clone(&store), &[]), 1 << 30).await.unwrap();
    let got = read(&store, &files[0]).await;
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(
        got.schema().fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>(),
        [utc.clone(), utc, DataType::Int64, DataType::Utf8]
    );
    assert_eq!(got.column(0).as_primitive::<TimestampMicrosecondType>().value(0), 1_709_312_400_000_000);
    assert_eq!(got.column(1).as_primitive::<TimestampMicrosecondType>().value(0), 60_000_000);
    let odd = batch(vec![("d", Arc::new(DurationSecondArray::from(vec![1])))]);
    assert!(matches!(run(vec![vec![odd]], spec(store, &[]), 1 << 30).await, Err(Error::Pipeline(_))));
}

/// A plan whose input fails, or never ends, after some batches.
fn broken(ctx: &datafusion::prelude::SessionContext, then: Option<&'static str>) -> LogicalPlan {
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use datafusion::physical_plan::streaming::PartitionStream;
    #[derive(Debug)]
    struct Broken(SchemaRef, Option<&'static str>);
    impl PartitionStream for Broken {
        fn schema(&self) -> &SchemaRef {
            &self.0
        }
        fn execute(&self, _: Arc<datafusion::execution::TaskContext>) -> datafusion::execution::SendableRecordBatchStream {
            let end = match self.1 {
                Some(text) => futures::stream::once(async move { Err(Error::data(text, "").into()) }).boxed(),
                None => futures::stream::pending().boxed(),
            };
            let stream = futures::stream::iter(many(200_000, 3).into_iter().map(Ok)).chain(end);
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.0), stream))
        }
    }
    let schema = many(5000, 1)[0].schema();
    let table = datafusion::catalog::streaming::StreamingTable::try_new(Arc::clone(&schema), vec![Arc::new(Broken(schema, then))]).unwrap();
    ctx.read_table(Arc::new(table)).unwrap().into_unoptimized_plan()
}

fn on_disk(dir: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.map(|e| e.unwrap().path()).map(|p| if p.is_dir() { on_disk(&p) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_or_dropped_write_leaves_no_file() {
    for fail in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
        let ledger = Arc::new(Ledger::default());
        let ctx = Resources::new(1 << 30, 2, None).unwrap().session(Arc::clone(&ledger));
        // Small files finish early; the last one is open when the end comes.
        let spec = WriteSpec { target_file_size: 300_000, ..spec(store, &["city"]) };
        let plan = write(broken(&ctx, fail.then_some("broken input")), spec).unwrap();
        let frame = DataFrame::new(ctx.state(), plan);
        if fail {
            let e = Error::from(frame.collect().await.unwrap_err());
            assert!(matches!(&e, Error::Data { message, .. } if message == "broken input"), "{e:?}");
        } else {
            let mut stream = frame.execute_stream().await.unwrap();
            let wait = tokio::time::timeout(Duration::from_millis(20), stream.next());
            assert!(wait.await.is_err());
            while Ledger::get(&ledger.bytes_written) == 0 {
                let _ = tokio::time::timeout(Duration::from_millis(20), stream.next()).await;
            }
            drop(stream);
        }
        for _ in 0..500 {
            if on_disk(dir.path()) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(Ledger::get(&ledger.bytes_written) > 0, "some file was finished before");
        assert_eq!(on_disk(dir.path()), 0, "fail: {fail}");
    }
}

#[tokio::test]
async fn a_place_that_takes_no_file_can_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("silver"), "a file where the folder should be").unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
    let e = run(vec![vec![cities(vec![Some("x")])]], spec(store, &[]), 1 << 30).await.unwrap_err();
    assert!(matches!(&e, Error::Retry { message, .. } if message.starts_with("cannot write silver/t/e1/part-")), "{e:?}");
}

#[tokio::test]
async fn rejected_rows_go_to_a_file_of_their_own() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let sink = QuarantineSink::new(WriteSpec { prefix: "q/batch=1".into(), ..spec(Arc::clone(&store), &["city"]) });
    assert!(objects(store.as_ref()).await.is_empty(), "nothing is opened before the first row");
    for rows in many(20_000, 2) {
        sink.push(rows).await.unwrap();
    }
    let files = sink.finish().await.unwrap();
    assert_eq!(files.len(), 1);
    assert!(files[0].path.starts_with("q/batch=1/part-") && files[0].partition.is_empty());
    assert_eq!(ids(&store, &files).await, (0..20_000).collect::<Vec<_>>());
    assert!(sink.push(many(5000, 2).remove(0)).await.is_err(), "it is closed");

    let idle = QuarantineSink::new(spec(Arc::clone(&store), &[]));
    assert!(idle.finish().await.unwrap().is_empty());
    let dropped = QuarantineSink::new(WriteSpec { target_file_size: 1000, ..spec(Arc::clone(&store), &[]) });
    for rows in many(400_000, 2) {
        dropped.push(rows).await.unwrap();
    }
    assert!(objects(store.as_ref()).await.len() > 1, "a file was finished before the end");
    dropped.abort().await;
    assert_eq!(objects(store.as_ref()).await.len(), 1, "only the first sink's file stays");
}

fn rewriting() -> (Arc<dyn ObjectStore>, Arc<datafusion::execution::TaskContext>, datafusion::prelude::SessionContext) {
    let session = Resources::new(64 << 20, 2, None).unwrap().session(Arc::new(Ledger::default()));
    (Arc::new(InMemory::new()), session.task_ctx(), session)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_of_several_schemas_become_one_of_the_tables() {
    let (store, task, _session) = rewriting();
    let number = |v: std::ops::Range<i64>| Arc::new(Int64Array::from_iter_values(v)) as ArrayRef;
    let text =
        |v: std::ops::Range<i64>| Arc::new(StringViewArray::from_iter_values(v.map(|i| format!("a name of some length {i}")))) as ArrayRef;
    let mut small = vec![];
    for i in 0..40_i64 {
        let (from, to) = (i * 10, i * 10 + 10);
        let batch = match i % 4 {
            0 => RecordBatch::try_from_iter([("id", number(from..to)), ("name", text(from..to))]),
            // Before the column was widened, in another order, and before there was a name.
            1 => RecordBatch::try_from_iter([
                ("name", text(from..to)),
                ("id", Arc::new(Int32Array::from_iter_values(from as i32..to as i32)) as _),
            ]),
            2 => RecordBatch::try_from_iter([("id", number(from..to)), ("gone", number(0..10)), ("name", text(from..to))]),
            _ => RecordBatch::try_from_iter([("id", number(from..to))]),
        };
        small.extend(run(vec![vec![batch.unwrap()]], spec(Arc::clone(&store), &[]), 64 << 20).await.unwrap().0);
    }
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("city", DataType::Utf8View, true),
        Field::new("name", DataType::Utf8View, true),
    ]);
    let mut to = spec(Arc::clone(&store), &["city"]);
    to.prefix = "e2".into();
    let groups = [("SP", 0..30), ("RJ", 30..40)]
        .map(|(city, files)| rewrite::Group { partition: vec![Some(city.to_owned())], files: small[files].to_vec() });
    let written = rewrite::rewrite(to, &schema, groups.to_vec(), task).await.unwrap();
    let places: Vec<_> = written.iter().map(|f| (f.partition[0].1.as_deref(), f.rows)).collect();
    assert_eq!(places, [(Some("RJ"), 100), (Some("SP"), 300)]);
    assert!(written[1].path.starts_with("e2/city=SP/part-"), "{}", written[1].path);
    let rows = read(&store, &written[1]).await;
    assert_eq!(rows.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["id", "name"]);
    let ids = rows.column(0).as_primitive::<Int64Type>();
    assert_eq!((ids.values().iter().sum::<i64>(), rows.column(1).null_count()), ((0..300).sum(), 70));
    let stats: Value = serde_json::from_str(written[0].stats.as_deref().unwrap()).unwrap();
    assert_eq!((&stats["minValues"]["id"], &stats["maxValues"]["id"]), (&300.into(), &399.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_row_groups_are_copied_and_a_failure_leaves_nothing() {
    let (store, task, _session) = rewriting();
    let mut large = vec![];
    for i in 0..3_i64 {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(i * 200_000..(i + 1) * 200_000));
        let names: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..200_000).map(|n| format!("name {}", n % 1000))));
        let batch = RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap();
        let encoder = super::file::Encoder::new(batch.schema(), 1).unwrap();
        let path = format!("e1/large-{i}.parquet");
        let mut file = super::file::OpenFile::new(&encoder, Arc::clone(&store), Path::from(format!("silver/t/{path}"))).unwrap();
        file.append(encoder.encode(vec![batch]).unwrap()).await.unwrap();
        let done = file.finish().await.unwrap();
        large.push(DataFile { path, partition: vec![], rows: done.rows, bytes: done.bytes, stats: None, modified: 77 });
    }
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8View, false)]);
    let groups = vec![rewrite::Group { partition: vec![], files: large.clone() }];
    let to = || WriteSpec { prefix: "e2".into(), ..spec(Arc::clone(&store), &[]) };
    let written = rewrite::rewrite(to(), &schema, groups.clone(), Arc::clone(&task)).await.unwrap();
    assert_eq!(written.iter().map(|f| f.rows).collect::<Vec<_>>(), [600_000]);
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes_of(&store, &written[0]).await).unwrap();
    assert_eq!(builder.metadata().num_row_groups(), 3, "row groups stay as they were");
    let rows = read(&store, &written[0]).await;
    let mut ids = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..600_000));
    let stats: Value = serde_json::from_str(written[0].stats.as_deref().unwrap()).unwrap();
    assert_eq!((&stats["numRecords"], &stats["minValues"]["id"], &stats["maxValues"]["id"]), (&600_000.into(), &0.into(), &599_999.into()));

    let before = objects(store.as_ref()).await;
    store.delete(&Path::parse(format!("silver/t/{}", large[2].path)).unwrap()).await.unwrap();
    let e = rewrite::rewrite(to(), &schema, groups, task).await.unwrap_err();
    assert!(matches!(&e, Error::Data { message, .. } if message.contains("does not exist")), "{e}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(objects(store.as_ref()).await.len(), before.len() - 1);
}
