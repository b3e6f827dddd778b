//! Other engines read our tables and agree with `smelt query`: deltalake for Python, Polars, DuckDB.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use smelt_connectors::stores::Stores;
use smelt_tests::{options, query, run};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn python() -> PathBuf {
    let out = Command::new(workspace().join("scripts/python-env")).output().unwrap();
    assert!(out.status.success(), "scripts/python-env failed: {}", String::from_utf8_lossy(&out.stderr));
    PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
}

fn others(table: &Path, columns: &[&str]) -> BTreeMap<String, Vec<Vec<String>>> {
    let out =
        Command::new(python()).arg(workspace().join("tests/tests/suite/readers.py")).arg(table).arg(columns.join(",")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// What `smelt query` gives, in the same spelling: timestamps with microseconds.
async fn ours(lake: &Path, table: &str, columns: &[(&str, bool)]) -> Vec<Vec<String>> {
    let list = columns
        .iter()
        .map(|(c, is_time)| if *is_time { format!("to_char({c}, '%Y-%m-%dT%H:%M:%S%.6f')") } else { format!("cast({c} as varchar)") })
        .collect::<Vec<_>>()
        .join(", ");
    let mut rows: Vec<Vec<String>> = query(lake, &format!("select {list} from {table}"))
        .await
        .into_iter()
        .map(|line| line.split('|').map(str::to_owned).collect())
        .collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deltalake_polars_and_duckdb_agree_with_smelt_query() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(
        folder.path().join("pipeline.yaml"),
        r#"
name: readers
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
      weight: {type: double}
      paid: {type: boolean}
      ordered_at: {type: timestamp, timezone: America/Sao_Paulo}
      due: {type: date}
    partition_by: [city, month(ordered_at)]
    write: append
  gold.by_city:
    sql: select city, count(*) as orders, sum(price) as revenue, max(ordered_at) as newest from silver.orders group by city
    write: replace
"#,
    )
    .unwrap();
    let mut text = String::from("order_id,city,price,weight,paid,ordered_at,due\n");
    for i in 0..500 {
        let city = ["São Paulo", "Rio/Niterói", "a b=c%", ""][i % 4];
        text.push_str(&format!(
            "{i},{city},{}.{:02},{},{},2025-0{}-11 1{}:0{}:07,2025-02-1{}\n",
            i * 3,
            i % 100,
            i as f64 / 8.0,
            i % 2 == 0,
            1 + i % 9,
            i % 10,
            i % 10,
            i % 10
        ));
    }
    text.push_str("9999,,,,,,\n");
    std::fs::write(folder.path().join("data/a.csv"), text).unwrap();
    let report = run(folder.path(), Arc::new(Stores::new(None)), &options()).await.unwrap();
    assert_eq!(report.exit_code(), 0, "{}", report.text());

    let lake = folder.path().join("lake");
    let silver = [
        ("order_id", false),
        ("city", false),
        ("price", false),
        ("weight", false),
        ("ordered_at", true),
        ("due", false),
        ("_file", false),
        ("_line", false),
    ];
    let gold = [("city", false), ("orders", false), ("revenue", false), ("newest", true)];
    for (table, path, columns) in [("silver.orders", "silver/orders", &silver[..]), ("gold.by_city", "gold/by_city", &gold[..])] {
        let mine = ours(&lake, table, columns).await;
        assert!(!mine.is_empty());
        let names: Vec<&str> = columns.iter().map(|(c, _)| *c).collect();
        for (reader, theirs) in others(&lake.join(path), &names) {
            assert_eq!(mine.len(), theirs.len(), "{reader} on {table}");
            for (a, b) in mine.iter().zip(&theirs) {
                assert!(same(a, b), "{reader} on {table}: smelt {a:?}, {reader} {b:?}");
            }
        }
    }
}

/// Equal as text, or as numbers (readers write 1.0 and 1 alike).
fn same(a: &[String], b: &[String]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(x, y)| x == y || matches!((x.parse::<f64>(), y.parse::<f64>()), (Ok(p), Ok(q)) if (p - q).abs() < 1e-9))
}
