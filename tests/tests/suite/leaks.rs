//! Law 3: no clear personal data anywhere it was masked: not in tables, quarantine, statistics, logs, reports, messages.

use std::fs;
use std::path::Path;
use std::process::Command;

use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Stands in every masked column, in rows that load and in rows that fail in every way.
const MARKER: &str = "Zqxmarker";

#[test]
fn a_marker_in_masked_columns_is_found_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(
        folder.path().join("pipeline.yaml"),
        r#"
name: leaks
lake: lake
keys: {pii: "${secret:env://SMELT_TEST_KEY}"}
sources:
  people: {csv: {path: "data/*.csv"}}
  events: {json: {path: "data/*.ndjson"}}
tables:
  silver.people:
    from: people
    columns:
      id: {type: int64, required: true}
      email: {type: string}
      phone: {type: string}
      note: {type: string}
      ssn: {type: int64, tags: [pii]}
      nick: {type: string}
      city: {type: string}
    steps:
      - rename: {nick: alias}
      - mask:
          email: {tokenize: {key: pii, domain: email}}
          phone: {redact: {keep_last: 2}}
          note: {redact: {text: "[removed]"}}
          ssn: {hash: {salt: s}}
          alias: {null: true}
    checks:
      - in_set: {city: [SP, RJ]}
      - matches: {email: "^[0-9a-f_v]+$", on_fail: warn}
  silver.events:
    from: events
    columns:
      id: {type: int64}
      who: {type: string, path: user.email}
      age: {type: int32, path: user.age, tags: [pii]}
    steps:
      - mask: {who: {hash: {salt: s}}, age: {generalize: {bucket: 10}}}
  gold.people:
    sql: select city, email, count(*) as n from silver.people group by 1, 2
"#,
    )
    .unwrap();
    let m = MARKER;
    fs::write(
        folder.path().join("data/people.csv"),
        format!(
            "id,email,phone,note,ssn,nick,city\n\
             1,{m}@x.org,{m}12,{m} note,123,{m},SP\n\
             two,{m}@x.org,{m}12,{m},123,{m},SP\n\
             3,{m}@x.org,{m}12,{m},{m},{m},SP\n\
             4,{m}@x.org,{m}12,{m},5,{m},Paris\n\
             5,{m}@x.org,{m},{m}\n\
             6,\"{m}@x.org,{m},{m},1,{m},SP\n\
             7,\"{m}\" {m},{m},{m},1,{m},SP\n\
             ,{m},{m},{m},1,{m},SP\n"
        ),
    )
    .unwrap();
    fs::write(
        folder.path().join("data/events.ndjson"),
        format!(
            "{{\"id\":1,\"user\":{{\"email\":\"{m}\",\"age\":31}}}}\n{{\"id\":\"x\",\"user\":{{\"email\":\"{m}\",\"age\":\"{m}\"}}}}\n{{\"id\":2,\"user\":{{\"email\":\"{m}\n"
        ),
    )
    .unwrap();

    let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test"))
        .args(["run", ".", "--report", "report.json"])
        .current_dir(folder.path())
        .env("SMELT_TEST_KEY", "a key")
        .env("SMELT_LOG", "debug")
        .output()
        .unwrap();
    let printed = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{printed}");
    assert!(!printed.contains(MARKER), "printed:\n{printed}");
    let mut files = 0;
    search(&folder.path().join("lake"), &mut files);
    assert!(files > 8, "the lake must have files to search, found {files}");
    search(&folder.path().join("report.json"), &mut files);
    // the rejected rows are there, only without the marker
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lake = folder.path().join("lake");
    let rejected = runtime.block_on(smelt_tests::query(&lake, "select _line, raw from quarantine.silver_people"));
    assert!(rejected.len() >= 6, "{rejected:?}");
}

/// Looks into every byte of every file, and into every value of every Parquet file (their pages are compressed).
fn search(path: &Path, files: &mut usize) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            search(&entry.unwrap().path(), files);
        }
        return;
    }
    *files += 1;
    let bytes = fs::read(path).unwrap();
    assert!(!bytes.windows(MARKER.len()).any(|w| w == MARKER.as_bytes()), "{} holds the marker", path.display());
    if path.extension().is_some_and(|e| e == "parquet") {
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(fs::File::open(path).unwrap(), 1024).unwrap();
        for batch in reader {
            let batch = batch.unwrap();
            let options = FormatOptions::default();
            for (column, field) in batch.columns().iter().zip(batch.schema().fields()) {
                let text = ArrayFormatter::try_new(column.as_ref(), &options).unwrap();
                for row in 0..batch.num_rows() {
                    assert!(!text.value(row).to_string().contains(MARKER), "{}: column {} holds the marker", path.display(), field.name());
                }
            }
        }
    }
    if path.extension().is_some_and(|e| e == "zst") {
        let text = zstd::decode_all(&bytes[..]).unwrap();
        assert!(!text.windows(MARKER.len()).any(|w| w == MARKER.as_bytes()), "{} holds the marker", path.display());
    }
}
