//! A run that has to rewrite the table for a wider type and a new name, killed at any operation of the store and run again, gives the
//! table of one undisturbed run.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use smelt_connectors::stores::Stores;
use smelt_tests::faults::{FaultStore, Fuse};
use smelt_tests::{options, query, run};

fn pipeline(columns: &str, partition: &str) -> String {
    format!(
        r#"
name: shop
lake: lake
sources:
  orders: {{csv: {{path: "data/*.csv"}}}}
defaults: {{schema: {{on_type_change: widen}}}}
tables:
  silver.orders:
    from: orders
    columns: {columns}
    partition_by: [{partition}]
  silver.orders_flat:
    from: orders
    columns: {columns}
    format: parquet
"#
    )
}

fn first(folder: &Path) {
    fs::create_dir_all(folder.join("data")).unwrap();
    fs::write(folder.join("pipeline.yaml"), pipeline("{id: int32, city: string, price: int16}", "city")).unwrap();
    fs::write(folder.join("data/a.csv"), "id,city,price\n1,SP,10\n2,RJ,20\n3,SP,abc\n").unwrap();
}

fn second(folder: &Path) {
    fs::write(folder.join("pipeline.yaml"), pipeline(r#"{id: int64, town: {type: string, was: city}, price: "decimal(8,2)"}"#, "town"))
        .unwrap();
    fs::write(folder.join("data/b.csv"), "id,city,price\n4,MG,1.75\n5,SP,x\n").unwrap();
}

async fn contents(folder: &Path) -> Vec<Vec<String>> {
    let lake = folder.join("lake");
    vec![
        query(&lake, "select id, town, price, _file, _line, arrow_typeof(id), arrow_typeof(price) from silver.orders").await,
        query(&lake, "select id, town, price, _file, _line, arrow_typeof(id), arrow_typeof(price) from silver.orders_flat").await,
        query(&lake, "select _table, _file, _line from quarantine.silver_orders").await,
        query(&lake, "select _table, _file, _line from quarantine.silver_orders_flat").await,
    ]
}

fn stores(fuse: &Arc<Fuse>) -> Arc<Stores> {
    let fuse = Arc::clone(fuse);
    Arc::new(Stores::new(Some(Arc::new(move |inner| Arc::new(FaultStore::new(inner, Arc::clone(&fuse))) as _))))
}

fn sound() -> Arc<Stores> {
    Arc::new(Stores::new(None))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_columns_killed_at_any_operation_and_run_again_is_as_if_it_had_run_once() {
    let reference = tempfile::tempdir().unwrap();
    first(reference.path());
    run(reference.path(), sound(), &options()).await.unwrap();
    second(reference.path());
    let fuse = Fuse::counting();
    let report = run(reference.path(), stores(&fuse), &options()).await.unwrap();
    assert_eq!(report.exit_code(), 0, "{}", report.text());
    let expected = contents(reference.path()).await;
    assert_eq!(expected[0][0], "1|SP|10.00|data/a.csv|2|Int64|Decimal128(8, 2)");
    assert_eq!((expected[0].len(), expected[1].len(), expected[2].len(), expected[3].len()), (3, 3, 2, 2), "{expected:?}");

    // some operations run side by side, so that a run may need a few more than the reference
    for at in 1..=fuse.used() + 3 {
        for lost_reply in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            first(folder.path());
            run(folder.path(), sound(), &options()).await.unwrap();
            second(folder.path());
            let _killed = run(folder.path(), stores(&Fuse::new(at, lost_reply)), &options()).await;
            let again = run(folder.path(), sound(), &options()).await.unwrap();
            assert_eq!(again.exit_code(), 0, "killed at {at}, lost reply {lost_reply}: {}", again.text());
            assert_eq!(contents(folder.path()).await, expected, "killed at {at}, lost reply {lost_reply}");
            let idle = run(folder.path(), sound(), &options()).await.unwrap();
            assert!(idle.text().starts_with("Nothing new"), "{}", idle.text());
        }
    }
}

/// A run whose rows may not be published changes no column either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_fails_leaves_the_columns_alone() {
    let folder = tempfile::tempdir().unwrap();
    first(folder.path());
    run(folder.path(), sound(), &options()).await.unwrap();
    second(folder.path());
    let strict = fs::read_to_string(folder.path().join("pipeline.yaml")).unwrap();
    fs::write(folder.path().join("pipeline.yaml"), format!("{strict}\n    max_rejected: 0\n")).unwrap();
    let report = run(folder.path(), sound(), &options()).await.unwrap();
    assert_eq!(report.exit_code(), 3, "{}", report.text());
    let lake = folder.path().join("lake");
    assert_eq!(query(&lake, "select id, city, price from silver.orders_flat").await, ["1|SP|10", "2|RJ|20"]);
    assert_eq!(query(&lake, "select id, town from silver.orders").await, ["1|SP", "2|RJ", "4|MG"]);
}
