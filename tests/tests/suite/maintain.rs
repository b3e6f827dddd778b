//! The care of tables: compaction, vacuum, looking back and going back change what they say and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{Duration, Utc};
use smelt::bind::{self, Secrets};
use smelt::bound::{Bound, BoundTable};
use smelt::cli::PipelineArgs;
use smelt::maintain::as_of::AsOf;
use smelt::maintain::optimize::{Optimized, Order, Wish, optimize};
use smelt::maintain::restore::restore;
use smelt::maintain::vacuum::vacuum;
use smelt::query::{Lake, collect_at};
use smelt_connectors::stores::Stores;
use smelt_engine::keys::Keys;
use smelt_engine::session::Resources;
use smelt_engine::table::{At, DataFile};
use smelt_tests::{options, query, run};

const PIPELINE: &str = r#"
name: shop
lake: lake
sources:
  orders: {csv: {path: "data/*.csv"}}
tables:
  silver.orders:
    from: orders
    columns: &columns
      order_id: {type: int64, required: true}
      city: {type: string}
      price: {type: "decimal(12,2)"}
    partition_by: [city]
    write: append
    OPTIMIZE
  silver.flat:
    from: orders
    columns: *columns
    format: parquet
    write: append
  gold.revenue:
    sql: select city, count(*) as orders, sum(price) as revenue from silver.orders group by city
    write: replace
"#;

fn lay_out(folder: &Path, setting: &str) {
    fs::create_dir_all(folder.join("data")).unwrap();
    fs::write(folder.join("pipeline.yaml"), PIPELINE.replace("OPTIMIZE", setting)).unwrap();
}

/// An input file with `rows` orders of each of two cities, and one that is rejected.
fn input(folder: &Path, n: usize, rows: usize) {
    let mut text = String::from("order_id,city,price\n");
    for i in n * rows..(n + 1) * rows {
        // neither column comes in order
        let id = i * 7919 % 1_000_003;
        text.push_str(&format!("{id},SP,{}.50\n{id},RJ,{}.25\n", i * 31 % 1009, i % 77));
    }
    text.push_str("x,SP,1.00\n");
    fs::write(folder.join(format!("data/{n:03}.csv")), text).unwrap();
}

async fn load(folder: &Path) -> String {
    let report = run(folder, Arc::new(Stores::new(None)), &options()).await.unwrap();
    assert_eq!(report.exit_code(), 0, "{}", report.text());
    report.text()
}

async fn open(folder: &Path) -> Arc<Bound> {
    let args = PipelineArgs { pipeline: folder.to_string_lossy().into_owned(), env: None, set: vec![] };
    Arc::new(bind::open_with(&args, Secrets::Needed, Arc::new(Stores::new(None))).await.map_err(|f| f.text()).unwrap())
}

fn table<'a>(bound: &'a Bound, name: &str) -> &'a BoundTable {
    bound.tables.iter().find(|t| t.name.to_string() == name).unwrap()
}

async fn files(table: &BoundTable) -> Vec<DataFile> {
    table.format.snapshot().await.unwrap().unwrap().files.to_vec()
}

async fn tidy(bound: &Bound, name: &str, wish: Wish<'_>) -> Optimized {
    let resources = Resources::new(64 << 20, 2, None).unwrap();
    optimize(table(bound, name), &wish, &resources, &bound.stores, Utc::now()).await.unwrap()
}

async fn contents(folder: &Path) -> Vec<Vec<String>> {
    let lake = folder.join("lake");
    let mut out = vec![];
    for name in ["silver.orders", "silver.flat"] {
        out.push(query(&lake, &format!("select order_id, city, price, _file, _line from {name}")).await);
    }
    out.push(query(&lake, "select * from gold.revenue").await);
    out.push(query(&lake, "select _file, _line, rules from quarantine.silver_orders").await);
    out
}

/// All Parquet files of a table's folder.
fn on_disk(folder: &Path) -> BTreeSet<PathBuf> {
    let mut out = BTreeSet::new();
    for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('_') {
            out.extend(on_disk(&path));
        } else if name.ends_with(".parquet") {
            out.insert(path);
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn optimize_keeps_rows_makes_fewer_files_and_rebuilds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), "");
    for n in 0..12 {
        input(folder.path(), n, 20);
        load(folder.path()).await;
    }
    let before = contents(folder.path()).await;
    assert_eq!(before[0].len(), 12 * 40);
    let bound = open(folder.path()).await;
    for (name, partitions) in [("silver.orders", 2), ("silver.flat", 1)] {
        let t = table(&bound, name);
        assert_eq!(files(t).await.len(), 12 * partitions);
        let planned = tidy(&bound, name, Wish { dry_run: true, ..Wish::of(t) }).await;
        assert_eq!((planned.version, planned.files_before), (None, 12 * partitions as u64));
        let done = tidy(&bound, name, Wish::of(t)).await;
        assert_eq!((done.partitions, done.files_after, done.rows), (partitions as u64, partitions as u64, 480));
        assert_eq!(files(t).await.len(), partitions);
        let newest = &t.format.history(1).await.unwrap()[0];
        assert_eq!((newest.version, newest.operation.as_str(), newest.data_change), (done.version.unwrap(), "optimize", false));
        assert_eq!(tidy(&bound, name, Wish::of(t)).await.version, None, "once is enough");
    }
    assert_eq!(contents(folder.path()).await, before);
    assert!(load(folder.path()).await.starts_with("Nothing new"), "a new layout is nothing new");

    // And the tables go on as before, across log checkpoints.
    for n in 12..24 {
        input(folder.path(), n, 20);
        load(folder.path()).await;
        if n % 4 == 0 {
            tidy(&bound, "silver.orders", Wish::of(table(&bound, "silver.orders"))).await;
        }
    }
    let lake = folder.path().join("lake");
    assert_eq!(query(&lake, "select count(*), count(distinct _file) from silver.orders").await, ["960|24"]);
    assert_eq!(query(&lake, "select count(*), count(distinct _file) from silver.flat").await, ["960|24"]);
    assert_eq!(query(&lake, "select sum(orders) from gold.revenue").await, ["960"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_chosen_by_a_predicate_over_partition_columns_only() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), "");
    for n in 0..3 {
        input(folder.path(), n, 5);
        load(folder.path()).await;
    }
    let bound = open(folder.path()).await;
    let t = table(&bound, "silver.orders");
    let done = tidy(&bound, "silver.orders", Wish { partitions: Some("city = 'SP'"), ..Wish::of(t) }).await;
    assert_eq!((done.partitions, done.files_before, done.files_after), (1, 3, 1));
    assert_eq!(files(t).await.iter().filter(|f| f.partition[0].1.as_deref() == Some("RJ")).count(), 3);
    let resources = Resources::new(64 << 20, 2, None).unwrap();
    let wrong = Wish { partitions: Some("price > 3"), ..Wish::of(t) };
    let e = optimize(t, &wrong, &resources, &bound.stores, Utc::now()).await.unwrap_err();
    assert!(matches!(&e, smelt_engine::Error::Pipeline(c) if c[0].message.contains("price")), "{e}");
}

/// The bounds of a column in each file, in the order of the files' names.
fn bounds(files: &[DataFile], column: &str) -> Vec<(f64, f64)> {
    let mut files = files.to_vec();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let stats = files.iter().map(|f| serde_json::from_str::<serde_json::Value>(f.stats.as_deref().unwrap()).unwrap());
    stats.map(|s| (s["minValues"][column].as_f64().unwrap(), s["maxValues"][column].as_f64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_lets_file_statistics_prune() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), "");
    for n in 0..2 {
        input(folder.path(), n, 20_000);
    }
    load(folder.path()).await;
    let before = contents(folder.path()).await;
    let bound = open(folder.path()).await;
    let t = table(&bound, "silver.flat");
    let by = |order| Wish { order, all: true, target: 4096, ..Wish::of(t) };

    tidy(&bound, "silver.flat", by(Order::By(vec!["order_id".into()]))).await;
    let sorted = bounds(&files(t).await, "order_id");
    assert!(sorted.len() >= 4, "{sorted:?}");
    assert!(sorted.windows(2).all(|w| w[0].1 <= w[1].0), "the files follow each other: {sorted:?}");

    tidy(&bound, "silver.flat", by(Order::ZOrder(vec!["order_id".into(), "price".into()]))).await;
    let now = files(t).await;
    let narrow = |column: &str| {
        let all = bounds(&now, column);
        let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(l, h), (a, b)| (l.min(*a), h.max(*b)));
        all.iter().filter(|(a, b)| (b - a) < 0.8 * (high - low)).count()
    };
    assert!(narrow("order_id") * 2 > now.len(), "{:?}", bounds(&now, "order_id"));
    assert!(narrow("price") > 0, "{:?}", bounds(&now, "price"));
    assert_eq!(contents(folder.path()).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_compacts_where_small_files_have_piled_up() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), "optimize: {when_small_files: 4, sort_by: [order_id]}");
    let mut counts = vec![];
    for n in 0..7 {
        input(folder.path(), n, 10);
        load(folder.path()).await;
        counts.push(files(table(&*open(folder.path()).await, "silver.orders")).await.len());
    }
    assert_eq!(counts, [2, 4, 6, 2, 4, 6, 2], "two partitions");
    assert!(load(folder.path()).await.starts_with("Nothing new"));
    assert_eq!(query(&folder.path().join("lake"), "select count(*), count(distinct _file) from silver.orders").await, ["140|7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_are_found_before_a_run() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), "optimize: {sort_by: [order]}");
    input(folder.path(), 0, 1);
    let e = run(folder.path(), Arc::new(Stores::new(None)), &options()).await.unwrap_err();
    assert!(e.contains("no column `order` to sort by"), "{e}");
    lay_out(folder.path(), "optimize: {when_small_files: 1}");
    let e = run(folder.path(), Arc::new(Stores::new(None)), &options()).await.unwrap_err();
    assert!(e.contains("cannot be compacted with itself"), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vacuum_removes_what_nothing_needs_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), "");
    for n in 0..3 {
        input(folder.path(), n, 10);
        load(folder.path()).await;
    }
    let before = contents(folder.path()).await;
    let bound = open(folder.path()).await;
    let week = 7 * 86_400_000;
    for name in ["silver.orders", "silver.flat"] {
        let t = table(&bound, name);
        let root = folder.path().join("lake").join(name.replace('.', "/"));
        let rejected = folder.path().join("lake/quarantine").join(name.replace('.', "_"));
        let rejected_before = on_disk(&rejected);
        tidy(&bound, name, Wish::of(t)).await;
        fs::write(root.join("stray.parquet"), "of a run that died").unwrap();
        let all = on_disk(&root);

        let kept = vacuum(t, week, false, Utc::now()).await.unwrap();
        assert!(kept.iter().all(|v| v.files == 0), "all is young: {kept:?}");
        assert_eq!(on_disk(&root), all);

        let later = Utc::now() + Duration::days(8);
        let would = vacuum(t, week, true, later).await.unwrap();
        assert_eq!(on_disk(&root), all, "a dry run removes nothing");
        let did = vacuum(t, week, false, later).await.unwrap();
        assert_eq!(would, did);
        let left: BTreeSet<PathBuf> = files(t).await.iter().map(|f| root.join(&f.path)).collect();
        assert_eq!(on_disk(&root), left);
        assert_eq!(on_disk(&rejected), rejected_before, "rejected rows stay");
        assert_eq!(vacuum(t, week, false, later).await.unwrap()[0].files, 0);

        let e = restore(&bound, t, At::Version(1), false, false, Utc::now()).await.unwrap_err();
        assert!(
            e.to_string().contains("vacuumed") || e.help().is_some_and(|h| h.contains("vacuumed")) || e.to_string().contains("no longer"),
            "{e}"
        );
    }
    assert_eq!(contents(folder.path()).await, before);
    input(folder.path(), 3, 10);
    load(folder.path()).await;
    assert_eq!(query(&folder.path().join("lake"), "select count(*) from silver.flat").await, ["80"]);
}

async fn past(folder: &Path, as_of: &[&str], sql: &str) -> Result<usize, String> {
    let stores = Arc::new(Stores::new(None));
    let location = stores.locate(&folder.join("lake").to_string_lossy(), Path::new("/")).unwrap();
    let lake = Lake { stores, location, keys: Keys::default() };
    let resources = Resources::new(64 << 20, 2, None).unwrap();
    let as_of = AsOf::parse(&as_of.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    let rows = collect_at(&lake, &resources, sql, as_of).await.map_err(|e| e.to_string())?;
    Ok(rows.iter().map(|b| b.num_rows()).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restore_goes_back_and_the_next_run_takes_in_again_what_came_since() {
    for keep_consumed in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        lay_out(folder.path(), "");
        for n in 0..3 {
            input(folder.path(), n, 10);
            load(folder.path()).await;
        }
        let before = contents(folder.path()).await;
        let bound = open(folder.path()).await;
        for name in ["silver.orders", "silver.flat"] {
            let t = table(&bound, name);
            tidy(&bound, name, Wish::of(t)).await;
            let planned = restore(&bound, t, At::Version(0), keep_consumed, true, Utc::now()).await.unwrap();
            assert_eq!((planned.version, planned.to, planned.from, planned.rows_after), (None, 0, 3, 20));
            let done = restore(&bound, t, At::Version(0), keep_consumed, false, Utc::now()).await.unwrap();
            assert_eq!((done.version, done.rows_before, done.again), (Some(4), 60, if keep_consumed { 0 } else { 2 }));
            assert_eq!(t.format.history(1).await.unwrap()[0].operation, "restore");
            assert_eq!(past(folder.path(), &[], &format!("select * from {name}")).await, Ok(20));
            for (version, rows) in [(0, 20), (1, 40), (2, 60), (3, 60), (4, 20)] {
                let at = format!("{name}={version}");
                assert_eq!(past(folder.path(), &[&at], &format!("select * from {name}")).await, Ok(rows), "{at}");
            }
        }
        let said = load(folder.path()).await;
        let now = contents(folder.path()).await;
        if keep_consumed {
            assert_eq!((now[0].len(), now[1].len()), (20, 20), "{said}");
            assert_eq!(query(&folder.path().join("lake"), "select sum(orders) from gold.revenue").await, ["20"], "what reads it follows");
        } else {
            assert_eq!(now[..3], before[..3], "{said}");
            // The rows that were rejected then are rejected again, and the first time stays on record.
            assert_eq!(now[3].len(), before[3].len() + 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_in_time_that_is_not_there_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), "");
    input(folder.path(), 0, 10);
    load(folder.path()).await;
    let sql = "select * from silver.orders";
    let now = (Utc::now() + Duration::seconds(5)).to_rfc3339();
    assert_eq!(past(folder.path(), &[&now], sql).await, Ok(20));
    assert!(past(folder.path(), &["2001-01-01"], sql).await.unwrap_err().contains("did not exist"));
    assert!(past(folder.path(), &["silver.orders=7"], sql).await.unwrap_err().contains("does not exist yet"));
    assert!(past(folder.path(), &["silver.order=0"], sql).await.unwrap_err().contains("no table `silver.order`"));
    assert!(past(folder.path(), &["0"], sql).await.unwrap_err().contains("silver.orders=0"));
}
