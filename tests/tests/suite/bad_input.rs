//! Input that no text file in `cases/` can hold: binary, huge, cut off, unwritable. Each costs what it must and no more.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use smelt_tests::query;

const PIPELINE: &str = r#"
name: bad
lake: LAKE
sources:
  orders: {csv: {path: "data/*"}}
tables:
  silver.orders:
    from: orders
    columns: {id: {type: int64, required: true}, text: string}
"#;

fn lay_out(folder: &Path, name: &str, bytes: &[u8]) {
    fs::create_dir_all(folder.join("data")).unwrap();
    fs::write(folder.join("pipeline.yaml"), PIPELINE.replace("LAKE", "lake")).unwrap();
    fs::write(folder.join("data").join(name), bytes).unwrap();
}

fn smelt(folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_smelt-under-test")).args(["run", "."]).current_dir(folder).output().unwrap()
}

fn printed(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Runs on one file; gives the table's and the quarantine's (line, rule) rows.
async fn load(name: &str, bytes: &[u8], sql: &str) -> (Vec<String>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), name, bytes);
    let out = smelt(folder.path());
    assert!(out.status.success(), "{}", printed(&out));
    let lake = folder.path().join("lake");
    let rows = query(&lake, sql).await;
    let rejected = if lake.join("quarantine").exists() {
        query(&lake, "select _line, rules[1]['rule'] from quarantine.silver_orders").await
    } else {
        vec![]
    };
    (rows, rejected)
}

#[tokio::test]
async fn nul_bytes_are_data() {
    let (rows, rejected) = load("a.csv", b"id,text\n1,a\0b\n2,c\n", "select id, octet_length(text) from silver.orders").await;
    assert_eq!(rows, ["1|3", "2|1"]);
    assert!(rejected.is_empty());
}

#[tokio::test]
async fn five_megabytes_in_one_field_load() {
    let mut text = String::from("id,text\n1,\"");
    text.push_str(&"long \"\" text,\n".repeat(5 << 20 >> 4));
    text.push_str("\"\n2,short\n");
    let (rows, rejected) = load("a.csv", text.as_bytes(), "select id, octet_length(text) > 4000000 from silver.orders").await;
    assert_eq!(rows, ["1|true", "2|false"]);
    assert!(rejected.is_empty());
}

#[tokio::test]
async fn invalid_utf8_costs_its_own_row() {
    let (rows, rejected) = load("a.csv", b"id,text\n1,ok\n2,\xff\xfe\n3,ok\n", "select id from silver.orders").await;
    assert_eq!(rows, ["1", "3"]);
    assert_eq!(rejected, ["3|malformed"]);
}

#[tokio::test]
async fn latin1_and_utf16_are_read_when_declared() {
    for (encoding, bytes) in [
        ("latin1", b"id,text\n1,caf\xe9\n".to_vec()),
        ("utf-16", {
            let mut out = vec![0xff, 0xfe];
            out.extend("id,text\n1,café\n".encode_utf16().flat_map(u16::to_le_bytes));
            out
        }),
    ] {
        let folder = tempfile::tempdir().unwrap();
        lay_out(folder.path(), "a.csv", &bytes);
        let pipeline =
            PIPELINE.replace("LAKE", "lake").replace("{path: \"data/*\"}", &format!("{{path: \"data/*\", encoding: {encoding}}}"));
        fs::write(folder.path().join("pipeline.yaml"), pipeline).unwrap();
        let out = smelt(folder.path());
        assert!(out.status.success(), "{}", printed(&out));
        assert_eq!(query(&folder.path().join("lake"), "select id, text from silver.orders").await, ["1|café"], "{encoding}");
    }
}

#[tokio::test]
async fn every_compression_is_read_by_its_extension() {
    let plain = b"id,text\n1,a\n2,b\n";
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    gz.write_all(plain).unwrap();
    let mut bz = bzip2::write::BzEncoder::new(vec![], bzip2::Compression::default());
    bz.write_all(plain).unwrap();
    for (name, bytes) in
        [("a.csv.gz", gz.finish().unwrap()), ("a.csv.zst", zstd::encode_all(&plain[..], 1).unwrap()), ("a.csv.bz2", bz.finish().unwrap())]
    {
        let (rows, rejected) = load(name, &bytes, "select id, text from silver.orders").await;
        assert_eq!(rows, ["1|a", "2|b"], "{name}");
        assert!(rejected.is_empty());
    }
}

#[tokio::test]
async fn a_gz_that_ends_early_gives_its_whole_rows_and_says_so() {
    let mut text = String::from("id,text\n");
    for i in 0..50_000 {
        text.push_str(&format!("{i},row number {}\n", i * 7919 % 10_007));
    }
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    gz.write_all(text.as_bytes()).unwrap();
    let bytes = gz.finish().unwrap();
    let (rows, rejected) =
        load("a.csv.gz", &bytes[..bytes.len() / 2], "select count(*) > 1000, count(*) < 50000, count(*) = max(id) + 1 from silver.orders")
            .await;
    assert_eq!(rows, ["true|true|true"]);
    assert!(rejected.iter().any(|r| r.ends_with("|malformed")), "{rejected:?}");
}

#[test]
fn a_lake_that_cannot_be_written_is_an_error_to_try_again_after() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), "a.csv", b"id,text\n1,a\n");
    // a file stands where the lake's folder should be; a permission bit would not stop root
    fs::write(folder.path().join("taken"), "").unwrap();
    fs::write(folder.path().join("pipeline.yaml"), PIPELINE.replace("LAKE", "taken/lake")).unwrap();
    let out = smelt(folder.path());
    assert_eq!(out.status.code(), Some(4), "{}", printed(&out));
    assert!(printed(&out).contains("taken/lake"), "{}", printed(&out));
}

#[test]
fn a_disk_that_fills_up_publishes_nothing_and_the_next_run_completes() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("id,text\n");
    for i in 0..40_000_u64 {
        text.push_str(&format!("{i},{:x}\n", i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
    lay_out(folder.path(), "a.csv", text.as_bytes());
    // a limit on the size of any file stands for the full disk: writes fail with an error, as they do there
    let out = Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" run .", env!("CARGO_BIN_EXE_smelt-under-test")])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(4), "{}", printed(&out));
    let lake = folder.path().join("lake");
    assert!(!lake.join("silver/orders/_delta_log/00000000000000000000.json").exists());
    assert!(smelt(folder.path()).status.success());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert_eq!(runtime.block_on(query(&lake, "select count(*) from silver.orders")), ["40000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_ten_times_the_pool_finishes() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::with_capacity(90 << 20);
    text.push_str("id,text\n");
    for i in 0..900_000_u64 {
        let h = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        text.push_str(&format!("{},{h:016x}{:016x}{:016x}{:016x}{:016x}\n", i % 800_000, h ^ 1, h ^ 2, h ^ 3, h ^ 4));
    }
    lay_out(folder.path(), "a.csv", text.as_bytes());
    let steps = "    steps: [{dedup: {keys: [id], order_by: [text desc]}}]\n";
    fs::write(folder.path().join("pipeline.yaml"), PIPELINE.replace("LAKE", "lake").trim_end().to_owned() + "\n" + steps).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test"))
        .args(["run", ".", "--memory", "8MB"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", printed(&out));
    let counted = query(&folder.path().join("lake"), "select count(*), count(distinct id) from silver.orders").await;
    assert_eq!(counted, ["800000|800000"]);
}
