//! Change feeds from files to rows, and which columns a row was not given.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use smelt_engine::contract::{Contract, OnMissingColumn, OnNewColumn, is_absent};
use smelt_engine::ledger::Ledger;

use super::super::bytes::tests::file;
use super::super::csv::tests::{collect, text};
use super::super::{SourceFile, infer, open};
use super::*;

const CSV: &str = r#"{"csv": {"path": "x", "feed": "dms", "null_values": ["NULL"]}}"#;
const JSON: &str = r#"{"json": {"path": "x", "feed": "debezium"}}"#;

fn spec(json: &str) -> SourceSpec {
    serde_json::from_str(json).unwrap()
}

/// Columns of text; `name@path` where they have one.
fn contract(names: &str) -> Contract {
    let column = |text: &str| match text.split_once('@') {
        Some((name, path)) => Column { path: Some(path.into()), ..Column::new(name, ContractType::String) },
        None => Column::new(text, ContractType::String),
    };
    Contract { columns: names.split(' ').map(column).collect(), ..Contract::default() }
}

async fn scan(source: &str, mut contract: Contract, files: Vec<SourceFile>) -> (RecordBatch, Arc<Ledger>) {
    let spec = spec(source);
    spec.feed_columns(&mut contract).unwrap();
    collect(open(&spec, files, &contract, 2).await.unwrap(), 2).await.unwrap()
}

/// The text columns that are not hidden, `|` between them, in order of file and line, NULL as `~`; then the absent columns, or why
/// the row is malformed.
async fn rows(source: &str, contract: Contract, files: Vec<SourceFile>) -> Vec<String> {
    shown(&scan(source, contract, files).await.0)
}

fn shown(batch: &RecordBatch) -> Vec<String> {
    let schema = batch.schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).filter(|n| !n.starts_with('_')).collect();
    let line = |row: usize| batch["_line"].as_primitive::<Int64Type>().value(row);
    let mut order: Vec<usize> = (0..batch.num_rows()).collect();
    order.sort_by_key(|row| (text(batch, "_file", *row), line(*row)));
    let one = |row: usize| {
        if let Some(why) = text(batch, "_malformed", row) {
            return format!("{}! {why}", line(row));
        }
        let cell = |name: &str| text(batch, name, row).unwrap_or_else(|| "~".into());
        let mut shown = names.iter().map(|n| cell(n)).collect::<Vec<_>>().join("|");
        if let Some(absent) = batch.column_by_name("_absent").map(|a| a.as_binary_view()).filter(|a| a.is_valid(row)) {
            let absent = (0..names.len()).filter(|c| is_absent(absent.value(row), *c)).map(|c| names[c]);
            shown.push_str(&format!(" -{}", absent.collect::<Vec<_>>().join(",")));
        }
        shown
    };
    order.into_iter().map(one).collect()
}

#[tokio::test]
async fn dms_csv_without_a_header() {
    let files = vec![
        file("20240101-000000000.csv", "I,3,Cleo\nU,1,\"Ana, B.\"\nD,2,NULL\nX,4,Dora\nU,5\n").await,
        file("LOAD00000001.csv", "1,Ana\n2,Bob\n").await,
        file("LOAD00000002.csv", "I,7,Gil\n").await,
    ];
    let got = rows(CSV, contract("id name"), files).await;
    let want = ["3|Cleo|I", "1|Ana, B.|U", "2|~|D", "4|Dora|X", "5! 2 fields where the contract has 3", "1|Ana|I", "2|Bob|I", "7|Gil|I"];
    assert_eq!(got, want);
}

#[tokio::test]
async fn one_broken_record_does_not_decide_what_the_first_field_is() {
    let got = rows(CSV, contract("id name"), vec![file("a.csv", "U,1\nI,2,Bob\nI,3,Cleo\n").await]).await;
    assert_eq!(got, ["1! 2 fields where the contract has 3", "2|Bob|I", "3|Cleo|I"]);
    let got = rows(CSV, contract("id name"), vec![file("a.csv", "1,2,3\n2,Bob\n3,Cleo\n").await]).await;
    assert_eq!(got, ["1! 3 fields where the contract has 2", "2|Bob|I", "3|Cleo|I"]);
    // Files from before the table got its last column: they are not taken for a full load, whose columns they would shift.
    let got = rows(CSV, contract("id name"), vec![file("a.csv", "I,1\nD,2\n").await]).await;
    assert_eq!(got, ["1! 2 fields where the contract has 3", "2! 2 fields where the contract has 3"]);
    let got = rows(CSV, contract("id name"), vec![file("in/LOAD00000001.csv", "I,1\nD,2\n").await]).await;
    assert_eq!(got, ["I|1|I", "D|2|I"]);
    assert!(rows(CSV, contract("id name"), vec![file("a.csv", "").await]).await.is_empty());
}

#[tokio::test]
async fn dms_csv_with_declared_operation_and_folders() {
    let mut with = file("day=1/a.csv", "D,1\n").await;
    with.partitions = vec![("day".into(), Some("1".into()))];
    let mut load = file("day=2/LOAD1.csv", "2\n").await;
    load.partitions = vec![("day".into(), Some("2".into()))];
    assert_eq!(rows(CSV, contract("id kind@Op day"), vec![with, load]).await, ["1|D|1", "2|I|2"]);
}

#[tokio::test]
async fn dms_csv_with_a_header_and_missing_columns() {
    let source = r#"{"csv": {"path": "x", "feed": "dms", "header": true}}"#;
    let files = || async { vec![file("LOAD1.csv", "id,name\n1,Ana\n").await, file("c.csv", "Op,id\nU,1\n").await] };
    let lenient = Contract { on_missing_column: OnMissingColumn::Ignore, absent: true, ..contract("id name") };
    assert_eq!(rows(source, lenient.clone(), files().await).await, ["1|Ana|I", "1|~|U -name"]);
    // Nobody asks: nothing is told.
    let (batch, _) = scan(source, Contract { absent: false, ..lenient }, files().await).await;
    assert!(batch.column_by_name("_absent").is_none());
    let inferred = infer(&spec(source), &files().await, 100).await.unwrap();
    assert_eq!(inferred.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["id", "name"]);
    assert!(infer(&spec(CSV), &files().await, 100).await.is_err());
}

async fn parquet_file(path: &str, columns: &[(&str, ArrayRef)]) -> SourceFile {
    let batch = RecordBatch::try_from_iter(columns.iter().map(|(n, a)| (*n, Arc::clone(a)))).unwrap();
    let mut writer = ArrowWriter::try_new(vec![], batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    file(path, writer.into_inner().unwrap()).await
}

#[tokio::test]
async fn dms_parquet() {
    let texts = |values: &[&str]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let files = vec![
        parquet_file("LOAD1.parquet", &[("id", texts(&["1", "2"])), ("name", texts(&["Ana", "Bob"]))]).await,
        parquet_file("c.parquet", &[("Op", texts(&["U", "D"])), ("id", texts(&["1", "2"]))]).await,
    ];
    let source = r#"{"parquet": {"path": "x", "feed": "dms"}}"#;
    let lenient = Contract { on_missing_column: OnMissingColumn::Ignore, absent: true, ..contract("id name") };
    let inferred = infer(&spec(source), &files, 100).await.unwrap();
    assert_eq!(inferred.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["id", "name"]);
    assert_eq!(rows(source, lenient, files).await, ["1|Ana|I", "2|Bob|I", "1|~|U -name", "2|~|D -name"]);
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let load = parquet_file("LOAD2.parquet", &[("id", numbers)]).await;
    let (batch, _) = scan(source, contract("id"), vec![load]).await;
    assert_eq!(text(&batch, "op", 0).as_deref(), Some("I"));
}

const MESSAGES: &str = r#"{"before":null,"after":{"id":1,"name":"Ana"},"source":{"lsn":10,"db":"shop"},"op":"r","ts_ms":100,"transaction":null}
{"schema":{"type":"struct","fields":[]},"payload":{"op":"u","ts_ms":101,"source":{"lsn":11},"before":{"id":1,"name":"Ana"},"after":{"name":null,"id":1}}}
{"before":{"id":1},"after":null,"source":{"lsn":12},"op":"d","ts_ms":102}
null
{"source":{"lsn":13},"op":"t","ts_ms":103}
{"op":"c","after":null}
{"op":"m","message":{"prefix":"p"}}
{"id":1,"name":"x"}
{"op":"d","before":null,"ts_ms":104}
"#;

#[tokio::test]
async fn debezium_envelopes() {
    let columns = || contract("id name lsn@$.source.lsn was@$.before.name");
    let (batch, ledger) = scan(JSON, columns(), vec![file("a.json", MESSAGES).await]).await;
    assert_eq!(
        shown(&batch),
        [
            "1|Ana|10|~|r|100",
            "1|~|11|Ana|u|101",
            "1|~|12|~|d|102",
            "~|~|13|~|t|103",
            "6! 'after' is null, not an object, at byte 19",
            "7! 'op' is none of c, r, u, d, t at byte 7",
            "8! no Debezium message: it has neither 'op' nor '__op' at byte 1",
            "~|~|~|~|d|104",
        ]
    );
    assert_eq!(Ledger::get(&ledger.read), 8);
    let warnings: Vec<_> = ledger.warnings().into_iter().collect();
    assert_eq!(warnings, [("tombstones (messages that are null) stand for no row and were left out".into(), 1)]);
    // One array of messages is the same.
    let array = format!("[{}]", MESSAGES.trim_end().replace('\n', ","));
    let got = rows(JSON, columns(), vec![file("a.json", array).await]).await;
    assert_eq!(got.len(), 8);
    assert!(got.contains(&"1|~|11|Ana|u|101".to_owned()) && got.contains(&"~|~|13|~|t|103".to_owned()), "{got:?}");
}

#[tokio::test]
async fn debezium_rows_that_were_flattened() {
    let messages = r#"{"id":1,"name":"Ana","__op":"c","__source_lsn":10,"__ts_ms":5}
{"id":1,"name":"Eva","__deleted":"false"}
{"payload":{"id":1,"name":null,"__deleted":"true"}}
{"id":1,"__op":"z"}
"#;
    let fail = Contract { on_new_column: OnNewColumn::Fail, ..contract("id name lsn@$.source.lsn") };
    let got = rows(JSON, fail, vec![file("a.json", messages).await]).await;
    assert_eq!(got, ["1|Ana|10|c|5", "1|Eva|~|u|~", "1|~|~|d|~", "4! '__op' is none of c, r, u, d, t at byte 16"]);
}

#[tokio::test]
async fn debezium_fields_that_were_not_given() {
    let messages = r#"{"op":"u","ts_ms":1,"after":{"id":1,"name":null,"note":"__debezium_unavailable_value"}}
{"op":"u","ts_ms":2,"after":{"id":1,"note":"a note of some length, in clear"}}
{"op":"c","ts_ms":3,"after":{"id":2,"name":"Bob","note":null}}
"#;
    let absent = Contract { absent: true, ..contract("id name note") };
    let lenient = Contract { on_missing_column: OnMissingColumn::Ignore, ..absent.clone() };
    let one = || async { vec![file("a.json", messages).await] };
    assert_eq!(rows(JSON, lenient, one().await).await, ["1|~|~|u|1 -note", "1|~|a note of some length, in clear|u|2 -name", "2|Bob|~|c|3"]);
    // Without `on_missing_column: ignore` a field that is not there is NULL; the placeholder never is a value.
    assert_eq!(rows(JSON, absent, one().await).await[..2], ["1|~|~|u|1 -note", "1|~|a note of some length, in clear|u|2"]);
}

#[tokio::test]
async fn json_fields_that_were_not_given() {
    let source = r#"{"json": {"path": "x", "flatten": true}}"#;
    let records = "{\"id\":1,\"user\":{\"name\":null}}\n{\"user\":null,\"id\":2}\n{\"id\":null}\n{\"id\":4,\"user\":{}}\n{\"id\":\n";
    let lenient = Contract { on_missing_column: OnMissingColumn::Ignore, absent: true, ..contract("id user_name") };
    let mut given = file("id=9/a.json", records).await;
    let got = rows(source, lenient.clone(), vec![given.clone()]).await;
    assert_eq!(got, ["1|~", "2|~", "~|~ -user_name", "4|~ -user_name", "5! cut off before a value"]);
    // What the folder says is given, even where it says NULL.
    given.partitions = vec![("id".into(), None)];
    assert_eq!(rows(source, lenient, vec![given]).await[0], "~|~");
}

#[tokio::test]
async fn debezium_columns_are_inferred_from_the_images() {
    let columns = infer(&spec(JSON), &[file("a.json", MESSAGES).await], 100).await.unwrap();
    let mut contract = Contract { columns, ..Contract::default() };
    spec(JSON).feed_columns(&mut contract).unwrap();
    let shown: Vec<String> = contract.columns.iter().map(|c| format!("{} {}", c.name, c.ty)).collect();
    assert_eq!(shown, ["id int64", "name string", "op string", "ts_ms int64"]);
}

#[test]
fn a_message_is_one_row() {
    let complaints = spec(r#"{"json": {"path": "x", "feed": "debezium", "explode": "items"}}"#).validate();
    assert_eq!(complaints[0].place.path, ["json", "explode"]);
}
