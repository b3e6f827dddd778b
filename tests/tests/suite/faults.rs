//! Law 1, exactly once: a run killed at any operation of the store, then run again, leaves the tables of one undisturbed run.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smelt_connectors::stores::Stores;
use smelt_tests::faults::{FaultStore, Fuse};
use smelt_tests::{options, query, run};

const PIPELINE: &str = r#"
name: shop
lake: lake
sources:
  orders: {csv: {path: "data/*.csv"}}
tables:
  silver.orders:
    from: orders
    columns:
      order_id: {type: int64, required: true}
      city: {type: string}
      price: {type: "decimal(12,2)"}
    checks:
      - range: {price: {min: 0}}
    partition_by: [city]
    write: append
  silver.orders_flat:
    from: orders
    columns:
      order_id: {type: int64, required: true}
      city: {type: string}
      price: {type: "decimal(12,2)"}
    format: parquet
    write: append
  gold.revenue:
    sql: select city, count(*) as orders, sum(price) as revenue from silver.orders group by city
    format: parquet
    write: replace
"#;

fn lay_out(folder: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(folder.join("data")).unwrap();
    fs::write(folder.join("pipeline.yaml"), PIPELINE).unwrap();
    for (name, text) in files {
        fs::write(folder.join("data").join(name), text).unwrap();
    }
}

const FIRST: &[(&str, &str)] = &[
    ("a.csv", "order_id,city,price\n1,SP,10.00\n2,RJ,20.50\n3,SP,abc\n4,RJ,-1.00\n"),
    ("b.csv", "order_id,city,price\n5,SP,7.25\n6,MG,1.00,extra\n"),
];
const SECOND: &[(&str, &str)] = &[("c.csv", "order_id,city,price\n7,SP,1.75\n,RJ,3.00\n")];

async fn contents(folder: &Path) -> Vec<Vec<String>> {
    let lake = folder.join("lake");
    vec![
        query(&lake, "select order_id, city, price, _file, _line from silver.orders").await,
        query(&lake, "select order_id, city, price, _file, _line from silver.orders_flat").await,
        query(&lake, "select * from gold.revenue").await,
        query(&lake, "select _table, _file, _line, rules from quarantine.silver_orders").await,
        query(&lake, "select _table, _file, _line, rules from quarantine.silver_orders_flat").await,
    ]
}

fn stores(fuse: &Arc<Fuse>) -> Arc<Stores> {
    let fuse = Arc::clone(fuse);
    Arc::new(Stores::new(Some(Arc::new(move |inner| Arc::new(FaultStore::new(inner, Arc::clone(&fuse))) as _))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_killed_at_any_operation_and_run_again_is_as_if_it_had_run_once() {
    let reference = tempfile::tempdir().unwrap();
    lay_out(reference.path(), FIRST);
    let first_fuse = Fuse::counting();
    run(reference.path(), stores(&first_fuse), &options()).await.unwrap();
    lay_out(reference.path(), SECOND);
    let second_fuse = Fuse::counting();
    run(reference.path(), stores(&second_fuse), &options()).await.unwrap();
    let expected = contents(reference.path()).await;
    assert_eq!(expected[0].len(), 4, "{expected:?}");
    assert_eq!(expected[3].len(), 4, "{expected:?}");
    assert!(second_fuse.used() > 20, "the fuse must see the run's operations");

    // some operations run side by side, so that a run may need a few more than the reference
    for (round, operations) in [(1, first_fuse.used() + 3), (2, second_fuse.used() + 3)] {
        for at in 1..=operations {
            for lost_reply in [false, true] {
                let folder = tempfile::tempdir().unwrap();
                lay_out(folder.path(), FIRST);
                if round == 2 {
                    run(folder.path(), Arc::new(Stores::new(None)), &options()).await.unwrap();
                    lay_out(folder.path(), SECOND);
                }
                let _killed = run(folder.path(), stores(&Fuse::new(at, lost_reply)), &options()).await;
                let again = run(folder.path(), Arc::new(Stores::new(None)), &options()).await.unwrap();
                assert_eq!(again.exit_code(), 0, "round {round}, killed at {at}, lost reply {lost_reply}: {}", again.text());
                if round == 1 {
                    lay_out(folder.path(), SECOND);
                    run(folder.path(), Arc::new(Stores::new(None)), &options()).await.unwrap();
                }
                assert_eq!(contents(folder.path()).await, expected, "round {round}, killed at {at}, lost reply {lost_reply}");
                let idle = run(folder.path(), Arc::new(Stores::new(None)), &options()).await.unwrap();
                assert!(idle.text().starts_with("Nothing new"), "{}", idle.text());
            }
        }
    }
}

#[test]
fn a_real_kill_at_random_moments_loses_and_doubles_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("order_id,city,price\n");
    for i in 0..60_000 {
        text.push_str(&format!(
            "{i},{},{}.50\n",
            ["SP", "RJ", "MG"][i % 3],
            if i % 1000 == 7 { "x".to_owned() } else { (i % 90).to_string() }
        ));
    }
    lay_out(folder.path(), &[("a.csv", &text)]);
    let binary = env!("CARGO_BIN_EXE_smelt-under-test");
    let start = || {
        Command::new(binary).args(["run", &folder.path().to_string_lossy()]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    // killed ever later, until one attempt is through before its kill
    let mut delay = Duration::from_millis(5);
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let mut child = start();
        std::thread::sleep(delay);
        let through = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        if through || Instant::now() > deadline {
            break;
        }
        delay += Duration::from_millis(7);
    }
    assert!(start().wait().unwrap().success());
    let lake = folder.path().join("lake");
    let count = |sql: &str| runtime.block_on(query(&lake, sql));
    assert_eq!(count("select count(*), count(distinct order_id) from silver.orders"), ["59940|59940"]);
    assert_eq!(count("select count(*), count(distinct _line) from quarantine.silver_orders"), ["60|60"]);
    assert_eq!(count("select sum(orders) from gold.revenue"), ["59940"]);
}
