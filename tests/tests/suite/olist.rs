//! The shipped Olist pipeline: every row of generated and of real input is accounted for, and counts equal an independent count.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use smelt_tests::query;

fn pipeline() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("pipelines/olist")
}

/// Records of a CSV file, counted by a reader of its own: quotes toggle, a line end outside quotes ends a record.
fn records(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let (mut quoted, mut records, mut any) = (false, 0, false);
    for b in bytes {
        match b {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => {
                records += u64::from(any);
                any = false;
                continue;
            }
            _ => {}
        }
        any |= b != b'\r';
    }
    records + u64::from(any) - 1
}

fn run_olist(input: &Path, lake: &Path) -> BTreeMap<String, serde_json::Value> {
    let report = lake.join("report.json");
    fs::create_dir_all(lake).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test"))
        .args(["run", &pipeline().to_string_lossy(), "--report", &report.to_string_lossy()])
        .env("OLIST", input)
        .env("LAKE", lake.join("lake"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    report["tables"].as_array().unwrap().iter().map(|t| (t["table"].as_str().unwrap().to_owned(), t.clone())).collect()
}

const FILES: [(&str, &str); 8] = [
    ("olist_orders_dataset.csv", "silver.orders"),
    ("olist_order_items_dataset.csv", "silver.order_items"),
    ("olist_order_payments_dataset.csv", "silver.order_payments"),
    ("olist_order_reviews_dataset.csv", "silver.order_reviews"),
    ("olist_customers_dataset.csv", "silver.customers"),
    ("olist_sellers_dataset.csv", "silver.sellers"),
    ("olist_products_dataset.csv", "silver.products"),
    ("product_category_name_translation.csv", "silver.categories"),
];

async fn accounted(input: &Path, lake: &Path) {
    let tables = run_olist(input, lake);
    for (file, table) in FILES {
        let t = &tables[table];
        let n = |key: &str| t[key].as_i64().unwrap();
        let independent = records(&input.join(file)) as i64;
        // a quote that is never closed swallows lines for the naive counter; the generated files have none
        assert_eq!(n("read"), independent, "{table}: rows read");
        assert_eq!(n("read"), n("written") + n("quarantined") + n("deduplicated") + n("filtered"), "{table}: the sum closes");
        assert_eq!(query(&lake.join("lake"), &format!("select count(*) from {table}")).await, [n("written").to_string()], "{table}");
    }
    for gold in [
        "dim_customer",
        "dim_product",
        "dim_seller",
        "dim_date",
        "fact_order_items",
        "daily_revenue",
        "delivery_performance",
        "seller_scorecard",
        "customer_cohorts",
    ] {
        assert_eq!(tables[&format!("gold.{gold}")]["status"], "published", "gold.{gold}");
    }
    // the fact table has the items whose order is known, and no item twice
    let twice = query(
        &lake.join("lake"),
        "select count(*) - count(distinct order_id || '/' || cast(order_item_id as varchar)) from gold.fact_order_items",
    )
    .await;
    assert_eq!(twice, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_olist_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test"))
        .args(["sample", "olist", "--orders", "3000", "--bad", "1%", "--duplicates", "2%", "--out", &input.to_string_lossy()])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    accounted(&input, &folder.path().join("out")).await;
}

/// The published files, or heads of them, in the folder that SMELT_OLIST_DATA names; nothing to do where it names none.
#[tokio::test(flavor = "multi_thread")]
async fn real_olist_is_accounted_for() {
    let Some(input) = std::env::var_os("SMELT_OLIST_DATA") else { return };
    let folder = tempfile::tempdir().unwrap();
    accounted(Path::new(&input), folder.path()).await;
}

/// The other shipped pipeline, as a user would run it first: it makes its own sample, and its sum closes with filtered rows in it.
#[tokio::test(flavor = "multi_thread")]
async fn clickstream_makes_its_sample_and_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = pipeline().parent().unwrap().join("clickstream");
    for file in ["pipeline.yaml", "sample.key"] {
        fs::copy(shipped.join(file), folder.path().join(file)).unwrap();
    }
    let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test"))
        .args(["run", ".", "--report", "report.json"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path().join("report.json")).unwrap()).unwrap();
    let clicks = &report["tables"].as_array().unwrap().iter().find(|t| t["table"] == "silver.clicks").unwrap();
    let n = |key: &str| clicks[key].as_i64().unwrap();
    assert!(n("filtered") > 0 && n("quarantined") > 0 && n("deduplicated") > 0, "{clicks}");
    assert_eq!(n("read"), n("written") + n("quarantined") + n("deduplicated") + n("filtered"));
    let lake = folder.path().join("lake");
    assert_eq!(query(&lake, "select sum(events) from gold.sessions").await.len(), 1);
    assert_eq!(query(&lake, "select count(*) from silver.clicks").await, [n("written").to_string()]);
}

#[test]
fn a_sample_is_byte_identical_for_a_seed() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        let seed = if name == "c" { "7" } else { "42" };
        let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test"))
            .args(["sample", "olist", "--orders", "500", "--seed", seed, "--out", &folder.path().join(name).to_string_lossy()])
            .output()
            .unwrap();
        assert!(out.status.success());
    }
    let read = |name: &str| FILES.map(|(file, _)| fs::read(folder.path().join(name).join(file)).unwrap());
    assert_eq!(read("a"), read("b"));
    assert_ne!(read("a"), read("c"));
}
