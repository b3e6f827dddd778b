//! Other engines read our tables and agree with `smelt query`: deltalake for Python, Polars, DuckDB.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use chrono::TimeDelta;
use smelt::run::RunOptions;
use smelt_connectors::stores::Stores;
use smelt_tests::{now, options, query, run};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn python() -> PathBuf {
    let out = Command::new(workspace().join("scripts/python-env")).output().unwrap();
    assert!(out.status.success(), "scripts/python-env failed: {}", String::from_utf8_lossy(&out.stderr));
    PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
}

fn others(table: &Path, columns: &[&str]) -> BTreeMap<String, Vec<Vec<String>>> {
    ask(table, columns, &[])
}

/// By reader; with `versions`, what deltalake reads there, by version.
fn ask(table: &Path, columns: &[&str], versions: &[u64]) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut command = Command::new(python());
    command.arg(workspace().join("tests/tests/suite/readers.py")).arg(table).arg(columns.join(","));
    let out = command.args(versions.iter().map(u64::to_string)).output().unwrap();
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
            agree(&format!("{reader} on {table}"), &mine, &theirs);
        }
    }
}

const CHANGES: &str = r#"
name: readers
lake: lake
sources:
  changes: {csv: {path: "data/*.csv"}}
  extracts: {csv: {path: extracts}}
tables:
  silver.merged:
    from: changes
    columns: {id: int64, name: string, op: string, price: "decimal(12,2)", at: timestamp}
    partition_by: [name]
    write: {merge: {keys: [id], sequence_by: at, deletes: "op = 'D'", except: [op], surrogate_key: {name: sk}}}
  silver.history:
    from: changes
    columns: {id: int64, name: string, op: string, price: "decimal(12,2)", at: timestamp}
    partition_by: ["bucket(2, id)"]
    write: {scd2: {keys: [id], sequence_by: at, deletes: "op = 'D'", except: [op]}}
  silver.known:
    from: changes
    columns: {id: int64, name: string, op: string, price: "decimal(12,2)", at: timestamp}
    write: {bitemporal: {keys: [id], sequence_by: at, deletes: "op = 'D'", except: [op], track: [name]}}
  silver.extracted:
    from: extracts
    columns: {id: int64, name: string, dt: date}
    write: {snapshot: {keys: [id], taken_at: dt, hard_deletes: new_record, except: [dt]}}
"#;

/// A version, and what we read of it while it was the newest.
type State = (u64, Vec<Vec<String>>);

/// A table, and its columns with whether they are timestamps.
type Watched = (&'static str, &'static [(&'static str, bool)]);

const WATCHED: &[Watched] = &[
    ("merged", &[("id", false), ("name", false), ("price", false), ("at", true), ("sk", false)]),
    (
        "history",
        &[
            ("id", false),
            ("name", false),
            ("price", false),
            ("at", true),
            ("valid_from", true),
            ("valid_to", true),
            ("is_current", false),
            ("row_hash", false),
        ],
    ),
    (
        "known",
        &[
            ("id", false),
            ("name", false),
            ("price", false),
            ("valid_from", true),
            ("valid_to", true),
            ("is_current", false),
            ("row_hash", false),
            ("system_from", true),
            ("system_to", true),
        ],
    ),
    (
        "extracted",
        &[
            ("id", false),
            ("name", false),
            ("valid_from", false),
            ("valid_to", false),
            ("is_current", false),
            ("row_hash", false),
            ("is_deleted", false),
        ],
    ),
];

/// Inserts; then a late row, updates and a delete; then a row that is older than the delete, and a key that returns.
const BATCHES: [(&str, &str, &str); 3] = [
    (
        "1,ana,I,1.50,2026-01-02 10:00:00\n2,bo,I,2.00,2026-01-02 10:00:00\n3,,I,,2026-01-02 10:00:00\n",
        "dt=2026-01-02",
        "1,ana\n2,bo\n3,\n",
    ),
    (
        "1,ana b,U,1.75,2026-01-05 10:00:00\n1,an,U,1.00,2026-01-01 10:00:00\n2,,D,,2026-01-05 11:00:00\n4,São Paulo/1,I,9.99,2026-01-05 10:00:00\n",
        "dt=2026-01-05",
        "1,ana b\n3,\n4,São Paulo/1\n",
    ),
    (
        "2,late,U,2.50,2026-01-03 00:00:00\n2,back,I,3.00,2026-01-09 00:00:00.123456\n4,São Paulo/1,U,10.00,2026-01-08 10:00:00\n",
        "dt=2026-01-03",
        "1,ana\n2,late\n4,São Paulo/1\n",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deltalake_travels_through_the_versions_of_tables_that_change() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pipeline.yaml"), CHANGES).unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let lake = folder.path().join("lake");
    let mut seen: BTreeMap<&str, Vec<State>> = BTreeMap::new();
    for (n, (changes, day, extract)) in BATCHES.into_iter().enumerate() {
        std::fs::write(folder.path().join(format!("data/{n}.csv")), format!("id,name,op,price,at\n{changes}")).unwrap();
        let extracts = folder.path().join("extracts").join(day);
        std::fs::create_dir_all(&extracts).unwrap();
        std::fs::write(extracts.join("all.csv"), format!("id,name\n{extract}")).unwrap();
        let options = RunOptions { now: now() + TimeDelta::minutes(n as i64), ..options() };
        let report = run(folder.path(), Arc::new(Stores::new(None)), &options).await.unwrap();
        assert_eq!(report.exit_code(), 0, "{}", report.text());
        for (table, columns) in WATCHED {
            let version = report.tables.iter().find(|t| t.table == format!("silver.{table}")).unwrap().version.unwrap();
            seen.entry(table).or_default().push((version, ours(&lake, &format!("silver.{table}"), columns).await));
        }
    }
    for (table, columns) in WATCHED {
        let names: Vec<&str> = columns.iter().map(|(c, _)| *c).collect();
        let path = lake.join("silver").join(table);
        let states = &seen[table];
        assert_eq!(states[0].0, 0, "{table}: the first run makes version 0");
        assert!(states.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 != w[1].1), "{table}: every run changes the table: {states:?}");
        let versions: Vec<u64> = states.iter().map(|(version, _)| *version).collect();
        let travelled = ask(&path, &names, &versions);
        for (version, mine) in states {
            agree(&format!("deltalake on {table} at version {version}"), mine, &travelled[&version.to_string()]);
        }
        let (_, newest) = &states[states.len() - 1];
        for (reader, theirs) in others(&path, &names) {
            agree(&format!("{reader} on {table}"), newest, &theirs);
        }
    }
}

/// The same rows, in whatever order.
fn agree(what: &str, mine: &[Vec<String>], theirs: &[Vec<String>]) {
    assert_eq!(mine.len(), theirs.len(), "{what}: smelt {mine:?}, the other {theirs:?}");
    for (a, b) in mine.iter().zip(theirs) {
        assert!(same(a, b), "{what}: smelt {a:?}, the other {b:?}");
    }
}

/// Equal as text, or as numbers (readers write 1.0 and 1 alike).
fn same(a: &[String], b: &[String]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(x, y)| x == y || matches!((x.parse::<f64>(), y.parse::<f64>()), (Ok(p), Ok(q)) if (p - q).abs() < 1e-9))
}
