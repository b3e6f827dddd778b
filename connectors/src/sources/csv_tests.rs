//! CSV from files to rows: every kind of bad input, and a naive reader that the splitter and the decoder must agree with.

use super::super::bytes::Fill;
use super::super::bytes::tests::{file, gz};
use super::*;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use proptest::prelude::*;
use smelt_engine::session::Resources;

/// Runs a whole scan.
pub(crate) async fn collect(table: Arc<dyn TableProvider>, threads: usize) -> Result<(RecordBatch, Arc<Ledger>)> {
    let ledger = Arc::new(Ledger::default());
    let session = Resources::new(1 << 30, threads, None)?.session(Arc::clone(&ledger));
    let schema = table.schema();
    let batches = session.read_table(table)?.collect().await?;
    Ok((concat_batches(&schema, &batches)?, ledger))
}

/// One text value.
pub(crate) fn text(batch: &RecordBatch, column: &str, row: usize) -> Option<String> {
    let array = batch[column].as_string_view();
    array.is_valid(row).then(|| array.value(row).to_owned())
}

fn spec(options: &str) -> CsvSpec {
    serde_json::from_str(&format!(r#"{{"path": "x"{}{options}}}"#, if options.is_empty() { "" } else { ", " })).unwrap()
}

fn contract(names: &str) -> Contract {
    Contract { columns: names.split(' ').map(|n| Column::new(n, ContractType::String)).collect(), ..Contract::default() }
}

async fn read(options: &str, contract: &Contract, files: Vec<SourceFile>) -> Result<(Vec<String>, Arc<Ledger>)> {
    let (batch, ledger) = collect(open(&spec(options), files, contract, 2)?, 2).await?;
    assert_eq!(Ledger::get(&ledger.read), batch.num_rows() as u64);
    Ok((shown(&batch, contract), ledger))
}

/// `line: a|b` in order, NULL as `~`; malformed rows as `line! reason <raw>`.
fn shown(batch: &RecordBatch, contract: &Contract) -> Vec<String> {
    let lines = batch["_line"].as_primitive::<Int64Type>();
    let mut rows: Vec<(String, i64, String)> = (0..batch.num_rows())
        .map(|row| {
            let values: Vec<String> = contract.columns.iter().map(|c| text(batch, &c.name, row).unwrap_or_else(|| "~".into())).collect();
            let line = lines.value(row);
            let shown = match text(batch, "_malformed", row) {
                None => format!("{line}: {}", values.join("|")),
                Some(reason) => {
                    assert!(values.iter().all(|v| v == "~"), "{values:?}");
                    format!("{line}! {reason} <{}>", text(batch, "_raw", row).unwrap())
                }
            };
            (text(batch, "_file", row).unwrap(), line, shown)
        })
        .collect();
    rows.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    rows.into_iter().map(|r| r.2).collect()
}

async fn ok(options: &str, names: &str, content: impl Into<Vec<u8>>) -> Vec<String> {
    read(options, &contract(names), vec![file("a.csv", content).await]).await.unwrap().0
}

#[tokio::test]
async fn headers_in_any_order_and_case_after_a_mark() {
    assert_eq!(ok("", "a b", "\u{FEFF}b, A ,c\n1,2,3\r\n,5,6").await, ["2: 2|1", "3: 5|~"]);
}

#[tokio::test]
async fn nothing_to_read() {
    for content in ["", "\u{FEFF}", "a,b", "a,b\n", "a,b\r\n\r\n\n", "\n\n"] {
        assert!(ok("", "a b", content).await.is_empty(), "{content:?}");
    }
    let (batch, _) = collect(open(&spec(""), vec![], &contract("a"), 2).unwrap(), 2).await.unwrap();
    assert_eq!(batch.num_rows(), 0);
}

#[tokio::test]
async fn blank_and_comment_lines_and_lines_to_skip() {
    let content = "made by x\n\n# \"names\na,b\n\n# it's 5\" wide\n1,2\n\r\n#3,4\n \n5,6\n#end";
    let rows = ok(r##""comment": "#", "skip_lines": 1"##, "a b", content).await;
    assert_eq!(rows, ["7: 1|2", "10! 1 field where the header has 2 < >", "11: 5|6"]);
}

#[tokio::test]
async fn ragged_rows_are_malformed() {
    let rows = ok("", "a b c", "a,b,c\n1,2\n1,2,3\n1,2,3,4\n\"x\",,\n").await;
    assert_eq!(rows, ["2! 2 fields where the header has 3 <1,2>", "3: 1|2|3", "4! 4 fields where the header has 3 <1,2,3,4>", "5: x|~|~"]);
}

#[tokio::test]
async fn quotes() {
    let rows = ok("", "a b", "a,b\n\"x,\n\"\"y\"\"\",5\" wide\n\"\"\"\",\"a rather long \"\"quoted\"\" text\"\n\"\",\"\"\"\"\"\"").await;
    assert_eq!(rows, ["2: x,\n\"y\"|5\" wide", "4: \"|a rather long \"quoted\" text", "5: ~|\"\""]);
    let rows = ok(r#""escape": "\\""#, "a b", "a,b\n\"x\\\"y\",\"\\\\\"\n\"\\n \\\\ a rather long one \\\"\",\\\n").await;
    assert_eq!(rows, ["2: x\"y|\\", "3: \\n \\ a rather long one \"|\\"]);
    let rows = ok(r#""quote": """#, "a b", "a,b\n\"x,y\"\n").await;
    assert_eq!(rows, ["2: \"x|y\""]);
    let rows = ok(r#""quote": "'""#, "a b", "a,b\n'x,y',\"\n").await;
    assert_eq!(rows, ["2: x,y|\""]);
}

#[tokio::test]
async fn text_after_a_quote_costs_one_line() {
    let rows = ok("", "a b", "a,b\n1,\"x\"y\n\"p\nq\"r,2\n3,4\n").await;
    assert_eq!(
        rows,
        [
            "2! text follows the closing quote of field 2 <1,\"x\"y>",
            "3! a quoted field that begins in this record is not closed properly <\"p>",
            "4: q\"r|2",
            "5: 3|4"
        ]
    );
}

#[tokio::test]
async fn a_quote_never_closed_costs_one_line() {
    let mut content = String::from("a,b\n1,2\n3,\"x\n");
    for i in 0..100_000 {
        content.push_str(&format!("{i},{i} and some more text to fill blocks\r\n"));
    }
    let rows = ok("", "a b", content).await;
    assert_eq!(rows.len(), 100_002);
    assert_eq!(rows[1], "3! a quoted field that begins in this record is not closed properly <3,\"x>");
    assert_eq!(rows[100_001], "100003: 99999|99999 and some more text to fill blocks");
}

#[tokio::test]
async fn large_and_odd_values() {
    let large = "x\n,".repeat(5 << 20 >> 1);
    let rows = ok("", "a b", format!("a,b\n1,\"{large}\"\n\0,nul\0\n{},3\n", "y".repeat(5 << 20))).await;
    assert_eq!(rows[0], format!("2: 1|{large}"));
    assert_eq!(rows[1], format!("{}: \0|nul\0", 3 + (5 << 20 >> 1)));
    assert_eq!(rows[2].len(), (5 << 20) + 11);
}

#[tokio::test]
async fn bytes_that_are_no_text() {
    let rows = ok("", "a b", b"a,b\n1,caf\xE9\n2,\xC3\xA9 ok\n3,\"\xFF\n\"\n".to_vec()).await;
    assert_eq!(
        rows,
        [
            "2! not valid utf-8 at byte 6 of the record <1,caf\u{FFFD}>",
            "3: 2|é ok",
            "4! not valid utf-8 at byte 4 of the record <3,\"\u{FFFD}\n\">"
        ]
    );
    let utf16: Vec<u8> = "a,b\n1,".encode_utf16().chain([0xD800, 10]).chain("2,é".encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let rows = ok(r#""encoding": "utf-16le""#, "a b", utf16).await;
    assert_eq!(rows, ["2! not valid utf-16le at byte 3 of the record <1,\u{FFFD}>", "3: 2|é"]);
    assert_eq!(ok(r#""encoding": "latin1""#, "a", b"a\n\xE9\n".to_vec()).await, ["2: é"]);
}

#[tokio::test]
async fn delimiters_and_nulls() {
    assert_eq!(ok(r#""delimiter": "\t""#, "a b", "a\tb\n1\t2\n").await, ["2: 1|2"]);
    assert_eq!(ok(r#""delimiter": "\\t""#, "a b", "a\tb\n1\t2\n").await, ["2: 1|2"]);
    let rows = ok(r#""delimiter": "||""#, "a b", "a||b\n|x||\"||\"\n\"y\"||z|\n1|||2\n\"p\"|q||r\n").await;
    assert_eq!(rows, ["2: |x|||", "3: y|z|", "4: 1||2", "5! text follows the closing quote of field 1 <\"p\"|q||r>"]);
    let rows =
        ok(r#""null_values": ["NULL", "a text longer than a view"]"#, "a b", "a,b\nNULL,\n\"NULL\",a text longer than a view\n").await;
    assert_eq!(rows, ["2: ~|", "3: ~|~"]);
    assert_eq!(ok(r#""null_values": []"#, "a b", "a,b\n,\nx\n").await, ["2: |", "3! 1 field where the header has 2 <x>"]);
}

#[tokio::test]
async fn carriage_returns_alone() {
    assert_eq!(ok("", "a b", "a,b\r1,\"x\ry\"\r3,4").await, ["2: 1|x\ry", "4: 3|4"]);
    assert_eq!(ok("", "a b", "a,b\n1,x\ry\n").await, ["2: 1|x\ry"]);
}

#[tokio::test]
async fn without_a_header_columns_are_by_position() {
    assert_eq!(ok(r#""header": false"#, "a b", "1,2\n3\n").await, ["1: 1|2", "2! 1 field where the contract has 2 <3>"]);
}

#[tokio::test]
async fn a_column_gone() {
    let files = || async { vec![file("a.csv", "a,b\n1,2\n").await, file("b.csv", "b\n3\n").await] };
    let e = read("", &contract("a b"), files().await).await.unwrap_err();
    assert_eq!(e.to_string(), "`b.csv` lacks the column `a`");
    assert!(matches!(e, Error::Data { .. }));
    let ignore = Contract { on_missing_column: OnMissingColumn::Ignore, ..contract("a b") };
    let (rows, ledger) = read("", &ignore, files().await).await.unwrap();
    assert_eq!(rows, ["2: 1|2", "2: ~|3"]);
    assert!(ledger.warnings().keys().any(|w| w.contains("`a`")));
    let e = read("", &contract("a b"), vec![file("a.csv", "a;b\n1;2\n").await]).await.unwrap_err();
    assert!(e.help().unwrap().contains("`;`"), "{e:?}");
}

#[tokio::test]
async fn a_column_new() {
    let files = || async { vec![file("a.csv", "a,new,b,other\n1,\"x\"\"y\",2,\n5,,6,\n7\n").await, file("b.csv", "b,a\n3,4\n").await] };
    let (rows, ledger) = read("", &contract("a b"), files().await).await.unwrap();
    assert_eq!(rows, ["2: 1|2", "3: 5|6", "4! 1 field where the header has 4 <7>", "2: 4|3"]);
    assert_eq!(ledger.warnings().len(), 2);
    let fail = Contract { on_new_column: OnNewColumn::Fail, ..contract("a b") };
    let e = read("", &fail, files().await).await.unwrap_err();
    assert!(e.to_string().contains("`a.csv` has the column `new` (field 2)"), "{e}");
    let rescue = Contract { on_new_column: OnNewColumn::Rescue, ..contract("a b") };
    let (batch, _) = collect(open(&spec(""), files().await, &rescue, 1).unwrap(), 1).await.unwrap();
    let rescued: Vec<_> = (0..4).map(|row| text(&batch, "_rescued", row)).collect();
    assert_eq!(rescued, [Some("{\"new\":\"x\\\"y\"}".into()), None, None, None]);
}

#[tokio::test]
async fn names_twice() {
    let e = read("", &contract("a"), vec![file("a.csv", "a,b,a\n1,2,3\n").await]).await.unwrap_err();
    assert_eq!(e.to_string(), "`a.csv`: the header names the column `a` twice, as field 1 and field 3");
    let e = read("", &contract("a"), vec![file("a.csv", "A,Á,\u{e1},A \n").await]).await.unwrap_err();
    assert!(e.to_string().contains("field 1 and field 4"), "{e}");
    let e = read("", &contract("id"), vec![file("a.csv", "Id,ID\n1,2\n").await]).await.unwrap_err();
    assert!(e.to_string().contains("differ in case only"), "{e}");
    assert_eq!(ok("", "a", "a,,\n1,2,3\n").await, ["2: 1"]);
}

#[tokio::test]
async fn a_header_that_is_none() {
    let e = read("", &contract("a"), vec![file("a.csv", "a,\"b\n1,2\n").await]).await.unwrap_err();
    assert!(e.to_string().contains("the header is not one"), "{e}");
}

#[tokio::test]
async fn partitions_of_the_path() {
    let mut one = file("day=2024-01-01/a.csv", "a\n1\n2\n").await;
    one.partitions = vec![("day".into(), Some("a rather long day".into())), ("hour".into(), None)];
    let (rows, _) = read("", &contract("day a hour"), vec![one.clone()]).await.unwrap();
    assert_eq!(rows, ["2: a rather long day|1|~", "3: a rather long day|2|~"]);
    let (rows, _) = read(r#""header": false"#, &contract("day a"), vec![one]).await.unwrap();
    assert_eq!(rows, ["1: a rather long day|a", "2: a rather long day|1", "3: a rather long day|2"]);
}

#[tokio::test]
async fn a_gz_that_ends_early_gives_its_rows_and_one_malformed() {
    let content: String = (0..50_000).map(|i: u64| format!("{i},{}\n", i.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    let packed = gz(format!("a,b\n{content}").as_bytes());
    let cut = packed.len() / 2;
    let (rows, ledger) = read("", &contract("a b"), vec![file("a.csv.gz", &packed[..cut]).await]).await.unwrap();
    assert!(rows.len() > 10_000 && rows.len() < 50_000, "{}", rows.len());
    let (last, good) = rows.split_last().unwrap();
    assert!(good.iter().enumerate().all(|(i, row)| row.starts_with(&format!("{}: {i}|", i + 2))));
    let expected = format!("{}! the gzip stream ends early at byte {cut}; rows after it are lost, fetch the file again", good.len() + 2);
    assert!(last.starts_with(&expected), "{last}");
    assert_eq!(Ledger::get(&ledger.bytes_read), cut as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_large_file_is_shared_and_read_once() {
    let mut content = String::from("a,b\n");
    for i in 0..200_000 {
        content.push_str(&if i % 7 == 0 { format!("{i},\"line\nbreak, {i}\"\n") } else { format!("{i},some text of row {i}\n") });
    }
    let packed = gz(content.as_bytes());
    let contract = contract("a b");
    let table = open(&spec(""), vec![file("a.csv.gz", packed.clone()).await], &contract, 2).unwrap();
    for _ in 0..2 {
        let (batch, ledger) = collect(Arc::clone(&table), 2).await.unwrap();
        assert_eq!(batch.num_rows(), 200_000);
        assert_eq!(Ledger::get(&ledger.bytes_read), packed.len() as u64);
        let mut seen = vec![false; 200_000];
        let (lines, offsets) = (batch["_line"].as_primitive::<Int64Type>(), batch["_offset"].as_primitive::<Int64Type>());
        for row in 0..200_000 {
            let i: usize = text(&batch, "a", row).unwrap().parse().unwrap();
            assert!(!std::mem::replace(&mut seen[i], true));
            assert_eq!(lines.value(row) as usize, i + 2 + i.div_ceil(7));
            assert!(content[offsets.value(row) as usize..].starts_with(&format!("{i},")));
        }
    }
    // Both partitions of one execution, each polled for itself.
    let session = Resources::new(1 << 30, 2, None).unwrap().session(Arc::default());
    let plan = session.read_table(table).unwrap().create_physical_plan().await.unwrap();
    let count = |partition| {
        let stream = plan.execute(partition, session.task_ctx()).unwrap();
        stream.fold(0, |sum, batch| async move { sum + batch.unwrap().num_rows() })
    };
    assert_eq!(plan.properties().partitioning.partition_count(), 2);
    let (one, two) = (count(0), count(1));
    assert_eq!(one.await + two.await, 200_000);
}

#[tokio::test]
async fn a_projection_reads_no_more_than_asked() {
    let table = open(&spec(""), vec![file("a.csv", "a,b\n1,2\n3\n5,6\n").await], &contract("a b"), 1).unwrap();
    let session = Resources::new(1 << 30, 1, None).unwrap().session(Arc::default());
    session.register_table("t", table).unwrap();
    let sql = |text: &'static str| async { session.sql(text).await.unwrap().collect().await.unwrap() };
    let count = sql("select count(*) from t").await;
    assert_eq!(count[0].column(0).as_primitive::<Int64Type>().value(0), 3);
    let b = sql("select b, _line from t where _malformed is null order by 1").await;
    assert_eq!((text(&b[0], "b", 0).unwrap(), text(&b[0], "b", 1).unwrap()), ("2".into(), "6".into()));
}

#[tokio::test]
async fn header_and_sample() {
    let files = [file("a.csv", "a,\" b\n\"\n1,2\n3\n4,5\n6,7\n").await, file("e.csv", "").await, file("b.csv", "a,c\nx,y\n").await];
    assert_eq!(header(&spec(""), &files[0]).await.unwrap().unwrap(), ["a", "b"]);
    assert_eq!(header(&spec(""), &files[1]).await.unwrap(), None);
    assert_eq!(header(&spec(r#""header": false"#), &files[0]).await.unwrap(), None);
    let batch = sample(&spec(""), &files, 6, None).await.unwrap();
    let names: Vec<String> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let rows: Vec<_> = (0..batch.num_rows()).map(|r| ["a", "b", "c"].map(|c| text(&batch, c, r).unwrap_or_default()).join("|")).collect();
    assert_eq!(rows, ["1|2|", "4|5|", "x||y"]);
    let batch = sample(&spec(r#""header": false"#), &[file("h.csv", "1,2\n3,4\n").await], 10, None).await.unwrap();
    assert_eq!((batch.num_rows(), text(&batch, "column_2", 1).unwrap()), (2, "4".into()));
}

#[test]
fn options_that_contradict() {
    let places = |options: &str| spec(options).validate().into_iter().map(|c| c.place.path.join(".")).collect::<Vec<_>>();
    assert!(places("").is_empty() && places(r#""delimiter": "\\t", "escape": "\\""#).is_empty());
    assert_eq!(places(r#""quote": ",""#), ["quote"]);
    assert_eq!(places(r#""delimiter": "", "quote": "''""#), ["quote", "delimiter"]);
    assert_eq!(places(r#""comment": "\"""#), ["comment"]);
    assert!(matches!(open(&spec(r#""quote": ",""#), vec![], &contract("a"), 1), Err(Error::Pipeline(_))));
}

/// A row as any reader should see it.
#[derive(Debug, PartialEq)]
struct Row {
    line: i64,
    offset: i64,
    /// Values, or reason and raw text.
    content: std::result::Result<Vec<Option<String>>, (String, String)>,
}

/// Reads byte by byte, all at once: the rules of `csv` and nothing else.
fn naive(text: &[u8], dialect: &Dialect, from: usize, fields: usize) -> Vec<Row> {
    let mut rows = vec![];
    let mut at = from;
    while at < text.len() {
        let line = 1 + text[..at].iter().filter(|b| **b == b'\n').count() as i64;
        let line_end = (at..text.len()).find(|i| text[*i] == b'\n').unwrap_or(text.len());
        let trimmed = |end: usize| if end > at && text[end - 1] == b'\r' { end - 1 } else { end };
        let first = &text[at..trimmed(line_end)];
        if first.is_empty() || dialect.comment == Some(first[0]) {
            at = line_end + 1;
            continue;
        }
        let raw = |end: usize| String::from_utf8_lossy(&text[at..trimmed(end)]).into_owned();
        let (content, end) = match naive_record(text, dialect, at) {
            Err((bad, field)) => {
                let reason = match bad {
                    Some(place) if place <= line_end => format!("text follows the closing quote of field {field}"),
                    _ => "a quoted field that begins in this record is not closed properly".into(),
                };
                (Err((reason, raw(line_end))), line_end)
            }
            Ok((values, end)) => match std::str::from_utf8(&text[at..end]) {
                Err(e) => (Err((format!("not valid utf-8 at byte {} of the record", e.valid_up_to() + 1), raw(end))), end),
                Ok(_) if values.len() != fields => {
                    let s = if values.len() == 1 { "" } else { "s" };
                    (Err((format!("{} field{s} where the header has {fields}", values.len()), raw(end))), end)
                }
                Ok(_) => {
                    let value = |v: Vec<u8>| (!v.is_empty()).then(|| String::from_utf8(v).unwrap());
                    (Ok(values.into_iter().map(value).collect()), end)
                }
            },
        };
        rows.push(Row { line, offset: at as i64, content });
        at = end + 1;
    }
    rows
}

/// Values and the place of the record's end; or where text follows a quote, if that is why it is none, and in which field.
#[allow(clippy::type_complexity)]
fn naive_record(text: &[u8], dialect: &Dialect, start: usize) -> std::result::Result<(Vec<Vec<u8>>, usize), (Option<usize>, usize)> {
    let mut values = vec![];
    let mut at = start;
    loop {
        let mut value = vec![];
        if text.get(at).copied() == dialect.quote {
            at += 1;
            loop {
                let (this, next) = (text.get(at).copied(), text.get(at + 1).copied());
                let protected = next == dialect.quote || dialect.escape.is_some() && next == dialect.escape;
                match this {
                    None => return Err((None, values.len() + 1)),
                    Some(b) if dialect.escape == Some(b) && next.is_some() && protected => {
                        value.extend(next);
                        at += 2;
                    }
                    Some(b) if dialect.quote == Some(b) && next == Some(b) => {
                        value.push(b);
                        at += 2;
                    }
                    Some(b) if dialect.quote == Some(b) => break,
                    Some(b) => {
                        value.push(b);
                        at += 1;
                    }
                }
            }
            if at - start > dialect.limit && text[start..at].contains(&b'\n') {
                return Err((None, values.len() + 1));
            }
            at += 1;
            let rest = &text[at..];
            let cr = if rest.starts_with(b"\r\n") || rest == b"\r" { 1 } else { 0 };
            let line_ends = rest.get(cr).is_none_or(|b| *b == b'\n');
            if !line_ends && !rest.starts_with(&dialect.delimiter) {
                return Err((Some(at - 1), values.len() + 1));
            }
            at += if line_ends { cr } else { 0 };
        } else {
            while at < text.len() && text[at] != b'\n' && !text[at..].starts_with(&dialect.delimiter) {
                value.push(text[at]);
                at += 1;
            }
            if (at >= text.len() || text[at] == b'\n') && value.last() == Some(&b'\r') {
                value.pop();
            }
        }
        values.push(value);
        if at >= text.len() || text[at] == b'\n' {
            return Ok((values, at));
        }
        at += dialect.delimiter.len();
    }
}

/// The real thing, cut into blocks of about `block` bytes.
fn real(text: &[u8], spec: &CsvSpec, contract: &Contract, block: usize, limit: usize) -> Vec<Row> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let file = file("a.csv", text).await;
        let mut records = spec.records(Arc::new(vec![file.clone()]), contract);
        let inner = Arc::get_mut(&mut records).unwrap();
        (inner.dialect.block, inner.dialect.limit) = (block, limit);
        let all: Vec<usize> = (0..raw_schema(contract).fields().len()).collect();
        let decoder = CsvDecoder::new(Arc::clone(&records), &all);
        let reader = TextReader::open(&file, Compression::None, Encoding::Utf8, None).await.unwrap();
        let mut chunker = Chunker::new(0, "a.csv", reader, Box::new(CsvSplitter::new(records, 0, None)), block);
        let mut rows = vec![];
        let mut last = false;
        while let Some(piece) = chunker.next().await.unwrap() {
            let Piece::Block(block) = piece else { panic!("broken") };
            assert!(!last, "a block after the last");
            last = block.last;
            for batch in decoder.decode(block).unwrap() {
                for row in 0..batch.num_rows() {
                    let content = match self::text(&batch, "_malformed", row) {
                        Some(reason) => Err((reason, self::text(&batch, "_raw", row).unwrap())),
                        None => Ok(contract.columns.iter().map(|c| self::text(&batch, &c.name, row)).collect()),
                    };
                    let number = |name: &str| batch[name].as_primitive::<Int64Type>().value(row);
                    rows.push(Row { line: number("_line"), offset: number("_offset"), content });
                }
            }
        }
        assert!(last);
        rows
    })
}

fn random_text() -> impl Strategy<Value = Vec<u8>> {
    let weighted: [(usize, &[u8]); 19] = [
        (5, b","),
        (3, b"||"),
        (5, b"\n"),
        (1, b"\r\n"),
        (6, b"\""),
        (1, b"\"\""),
        (2, b"\",\""),
        (2, b"\"||\""),
        (2, b"\\"),
        (1, b"\r"),
        (1, b"#"),
        (1, b"|"),
        (4, b"a"),
        (1, "é".as_bytes()),
        (1, b"\xFF"),
        (1, b"quite a long text without anything"),
        (2, b"x,y\n1,2\n"),
        (2, b"x||y\n1||2\n"),
        (1, b"\0"),
    ];
    let pieces: Vec<&[u8]> = weighted.into_iter().flat_map(|(n, piece)| std::iter::repeat_n(piece, n)).collect();
    let piece = prop::sample::select(pieces);
    prop::collection::vec(piece, 0..120).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_cut_as_the_naive_reader_reads(
        body in random_text(), block in 1usize..200, limit in prop_oneof![Just(64usize << 20), 3usize..60],
        escape in any::<bool>(), comment in any::<bool>(), long in any::<bool>(),
    ) {
        let delimiter = if long { "||" } else { "," };
        let escape = if escape { r#", "escape": "\\""# } else { "" };
        let comment = if comment { r##", "comment": "#""## } else { "" };
        let spec = spec(&format!(r#""delimiter": "{delimiter}"{escape}{comment}"#));
        let header = format!("k{delimiter}v\n");
        let text = [header.as_bytes(), &body].concat();
        let dialect = Dialect { limit, ..spec.dialect() };
        let expected = naive(&text, &dialect, header.len(), 2);
        prop_assert_eq!(real(&text, &spec, &contract("k v"), block, limit), expected);
    }
}

#[tokio::test]
async fn what_an_end_looks_like() {
    let one = file("a.csv", "a\n1").await;
    let mut reader = TextReader::open(&one, Compression::Auto, Encoding::Utf8, None).await.unwrap();
    let mut out = vec![];
    while reader.fill(&mut out, 1).await.unwrap() != Fill::End {}
    assert_eq!(out, b"a\n1");
}
