//! The decoder as a whole: bytes in, rows out, however the bytes are cut.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::scan::Scanner;
use super::*;
use crate::sources::block::{Block, Decoder};

/// One row: the columns, then line, offset, malformed, raw and, where asked for, rescued.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    cells: Vec<Option<String>>,
    line: i64,
    offset: i64,
    malformed: Option<String>,
    raw: Option<String>,
    rescued: Option<String>,
}

/// Reads `text` as a stream would that gives `step` bytes at a time.
fn rows_in_steps(decoder: &JsonDecoder, text: &[u8], step: usize) -> Vec<Row> {
    let mut splitter = decoder.splitter(0);
    let (mut from, mut to, mut line) = (0, 0, 1);
    let mut rows = vec![];
    while from < text.len() {
        to = (to + step).min(text.len());
        let eof = to == text.len();
        let n = splitter.split(&text[from..to], eof).unwrap();
        if n == 0 {
            continue;
        }
        let bytes = Bytes::copy_from_slice(&text[from..from + n]);
        let last = from + n == text.len();
        let newlines = bytes.iter().filter(|b| **b == b'\n').count() as u64;
        for batch in decoder.decode(Block { file: 0, bytes, first_line: line, offset: from as u64, last }).unwrap() {
            for column in batch.columns() {
                column.to_data().validate_full().unwrap();
            }
            let cell = |c: usize, row: usize| {
                let column = batch.column(c).as_string_view();
                column.is_valid(row).then(|| column.value(row).to_string())
            };
            let n = batch.schema().index_of("_file").unwrap();
            for row in 0..batch.num_rows() {
                rows.push(Row {
                    cells: (0..n).map(|c| cell(c, row)).collect(),
                    line: batch.column(n + 1).as_primitive::<Int64Type>().value(row),
                    offset: batch.column(n + 2).as_primitive::<Int64Type>().value(row),
                    malformed: cell(n + 3, row),
                    raw: cell(n + 4, row),
                    rescued: (batch.num_columns() > n + 5).then(|| cell(n + 5, row)).flatten(),
                });
                assert_eq!(cell(n, row).as_deref(), Some("clicks/part one.json"));
            }
        }
        line += newlines;
        from += n;
    }
    rows
}

fn decoder(columns: &[JsonColumn], options: &JsonOptions) -> JsonDecoder {
    JsonDecoder::new(columns.to_vec(), options.clone(), Arc::new(vec!["clicks/part one.json".into()]), vec![]).unwrap()
}

fn read(columns: &[JsonColumn], options: &JsonOptions, text: impl AsRef<[u8]>) -> Vec<Row> {
    rows_in_steps(&decoder(columns, options), text.as_ref(), usize::MAX / 2)
}

fn columns(names: &[&str]) -> Vec<JsonColumn> {
    names.iter().map(|n| JsonColumn::new(*n, JsonKind::Scalar)).collect()
}

/// Cells joined for comparison: NULL is `~`, a malformed row is `!` and its reason.
fn shown(rows: &[Row]) -> Vec<String> {
    let cell = |c: &Option<String>| c.clone().unwrap_or("~".into());
    let row = |r: &Row| match &r.malformed {
        Some(why) => {
            assert!(r.cells.iter().all(Option::is_none), "a malformed row has no cells: {r:?}");
            format!("!{why}")
        }
        None => r.cells.iter().map(cell).collect::<Vec<_>>().join("|"),
    };
    rows.iter().map(row).collect()
}

fn table(names: &[&str], text: &str) -> Vec<String> {
    shown(&read(&columns(names), &JsonOptions::default(), text))
}

#[test]
fn scalars_are_text_and_null_is_absence() {
    let text = r#"{"a":"x\ty","b":12.50,"c":true,"d":null,"f":{"x": [1]},"g":[]}
{"g":"","f":"a string of more than twelve bytes","a":"\u00e9\u0000"}"#;
    let want = ["x\ty|12.50|true|~|~|{\"x\": [1]}|[]", "é\0|~|~|~|~|a string of more than twelve bytes|"];
    assert_eq!(table(&["a", "b", "c", "d", "e", "f", "g"], text), want);
}

#[test]
fn json_columns_keep_their_source_text() {
    let cols: Vec<_> = ["a", "b"].iter().map(|n| JsonColumn::new(*n, JsonKind::Json)).collect();
    let got = read(&cols, &JsonOptions::default(), r#"{"a":"x\u00e9","b":{"k" : [1, 2.0]}} "#);
    assert_eq!(shown(&got), [r#""x\u00e9"|{"k" : [1, 2.0]}"#]);
}

#[test]
fn numbers_are_exact_beyond_what_doubles_hold() {
    let numbers = ["9007199254740993", "123456789012345678901234567890.123456789", "-0.0", "1e400", "1E+2"];
    for n in numbers {
        assert_eq!(table(&["n"], &format!("{{\"n\":{n}}}")), [n]);
    }
}

#[test]
fn the_three_layouts_give_the_same_records() {
    let want = ["1", "2", "3"];
    assert_eq!(table(&["a"], "{\"a\":1}\n{\"a\":2}\r\n\n  \n{\"a\":3}"), want);
    assert_eq!(table(&["a"], " [{\"a\":1},\n{\"a\":2} , {\"a\":3}\n]\n"), want);
    assert_eq!(table(&["a"], "{\"a\":1}{\"a\":2}\n{\"a\":\n3}\n"), want);
    assert_eq!(table(&["a"], "{\n\"a\":1\n}\n{\n\"a\":2\n}\n{\"a\":3}\n"), want);
    assert_eq!(table(&["a"], "[ ]"), [""; 0]);
    assert_eq!(table(&["a"], " \n\n "), [""; 0]);
}

#[test]
fn lines_and_offsets_point_at_the_record() {
    let at = |text: &str| read(&columns(&["a"]), &JsonOptions::default(), text).iter().map(|r| (r.line, r.offset)).collect::<Vec<_>>();
    assert_eq!(at("\n{\"a\":1}\n\r\n  {\"a\":2}\nx\n{}"), [(2, 1), (4, 13), (5, 21), (6, 23)]);
    assert_eq!(at("[\n{\"a\":\n1},\n\n{\"a\":2}, 7 ]"), [(2, 2), (5, 13), (5, 22)]);
    assert_eq!(at("{\n\"a\":1}\n\n{}"), [(1, 0), (4, 10)]);
}

#[test]
fn a_broken_line_is_one_row_with_reason_and_text() {
    let text =
        "{\"a\":1}\n {\"a\" 2}\n{\"a\":[1,\n{\"a\":3} x\n5\n[{}]\n{\"a\":\"x\u{1}\"}\n{\"b\":{\"c\":01}}\n{\"a\":\"\\ud800\"}\n{\"a\":6}\n";
    let rows = read(&columns(&["a"]), &JsonOptions::default(), text);
    let want = [
        "1",
        "!expected ':' at byte 6",
        "!cut off inside an array",
        "!expected the end of the record at byte 9",
        "!a number where a record should be, which is an object, at byte 1",
        "!an array where a record should be, which is an object, at byte 1",
        "!control character in a string at byte 8",
        "!number with a leading zero at byte 11",
        "!half of a surrogate pair at byte 7",
        "6",
    ];
    assert_eq!(shown(&rows), want);
    assert_eq!(rows[1].raw.as_deref(), Some("{\"a\" 2}"));
    assert_eq!(rows[2].raw.as_deref(), Some("{\"a\":[1,"));
    assert_eq!(rows[9].raw, None);
}

#[test]
fn json_cut_off_in_the_middle_costs_its_record_only() {
    let whole = r#"{"a":"xy","b":{"c":[1,true]}}"#;
    for n in 1..whole.len() {
        let rows = read(&columns(&["a"]), &JsonOptions::default(), format!("{whole}\n{}\n{whole}", &whole[..n]));
        assert_eq!(rows.len(), 3, "{n}");
        assert!(rows[1].malformed.as_ref().unwrap().starts_with("cut off "), "{n}: {rows:?}");
        assert_eq!(rows[1].raw.as_deref(), Some(&whole[..n]));
        // The end of a file that lost its tail.
        let rows = read(&columns(&["a"]), &JsonOptions::default(), format!("[{whole},{}", &whole[..n]));
        assert_eq!(shown(&rows)[0], "xy");
        assert_eq!(rows.len(), 2, "{n}: {rows:?}");
    }
}

#[test]
fn broken_elements_are_passed_over_where_brackets_and_strings_close() {
    let text = r#"[{"a":1}, {"a" 2, "b":"],"}, {"a":3} {"a":4}, nope, {"a":5}, , {"a":6}]"#;
    let rows = read(&columns(&["a"]), &JsonOptions::default(), text);
    let want = [
        "1",
        "!expected ':' at byte 6",
        "!expected ',' or ']' at byte 9",
        "!expected a value at byte 1",
        "5",
        "!expected a value at byte 1",
        "6",
    ];
    assert_eq!(shown(&rows), want);
    assert_eq!(rows[1].raw.as_deref(), Some(r#"{"a" 2, "b":"],"}"#));
    assert_eq!(rows[2].raw.as_deref(), Some(r#"{"a":3} {"a":4}"#));
    assert_eq!(table(&["a"], r#"[{"a":1},]"#), ["1", "!expected a value at byte 1"]);
    assert_eq!(table(&["a"], r#"[{"a":1}"#), ["1", "!cut off inside the array: its ']' is missing"]);
    assert_eq!(table(&["a"], r#"[{"a":1},"#), ["1", "!cut off inside the array: its ']' is missing"]);
    assert_eq!(table(&["a"], "["), ["!cut off inside the array: its ']' is missing"]);
    assert_eq!(table(&["a"], r#"[{"a":1}] {"a":2}"#), ["1", "!text behind the end of the array at byte 1"]);
    let rest = read(&columns(&["a"]), &JsonOptions::default(), "[{\"a\":1},\n{\"a\":\"x},\n{\"a\":3}]");
    let reason = "!control character in a string at byte 10; no later element can be told apart from it";
    assert_eq!(shown(&rest), ["1", reason]);
    assert_eq!((rest[1].line, rest[1].raw.as_deref()), (2, Some("{\"a\":\"x},\n{\"a\":3}]")));
}

#[test]
fn objects_go_on_behind_garbage() {
    let text = r#"{"a":1}{"a":2} gar"bage {"a" 3}{"a":4}{"a":5"#;
    let want = [
        "1",
        "2",
        "!expected '{' at byte 1",
        "!expected ':' at byte 6",
        "4",
        "!cut off inside an object; no later record can be told apart from it",
    ];
    assert_eq!(table(&["a"], text), want);
}

#[test]
fn what_stands_between_records_is_the_same_however_cut() {
    let texts = [
        "{\"a\":1} \"x {\"a\":2} tru{\"a\":3} -1 {\"a\":4}",
        "[{\"a\":1},tru,-,\"x\", ,{\"a\":2},]",
        "[{\"a\":1}, ",
        "[,]",
        "[]]",
        "{\"a\":1}\n\"x\n-\n{\"a\":2}",
    ];
    for text in texts {
        let whole = read(&columns(&["a"]), &JsonOptions::default(), text);
        for step in 1..text.len() {
            let cut = rows_in_steps(&decoder(&columns(&["a"]), &JsonOptions::default()), text.as_bytes(), step);
            assert_eq!(cut, whole, "{text} in steps of {step}");
        }
    }
}

#[test]
fn paths_reach_into_objects_and_arrays() {
    let cols = [
        columns(&["id"])[0].clone().at("user.id"),
        columns(&["sku"])[0].clone().at("$.items[1].sku"),
        columns(&["odd"])[0].clone().at(r#"user."a.b""#),
        JsonColumn::new("user", JsonKind::Json),
        columns(&["again"])[0].clone().at("user.id"),
    ];
    let text = r#"{"user":{"id":7,"a.b":"o"},"items":[{"sku":"x"},{"sku":"y"},3]}
{"items":[],"user":null}
{"items":null,"user":{"\u0069d":8}}
{"items":{"sku":1}}"#;
    let want =
        [r#"7|y|o|{"id":7,"a.b":"o"}|7"#, "~|~|~|~|~", r#"8|~|~|{"\u0069d":8}|8"#, "!'items' is an object, not an array, at byte 10"];
    assert_eq!(shown(&read(&cols, &JsonOptions::default(), text)), want);
}

#[test]
fn a_number_where_an_object_was_is_not_lost_in_silence() {
    let cols = [columns(&["id"])[0].clone().at("user.id")];
    let text = "{\"user\":{\"id\":1}}\n{\"user\":5}\n{\"user\":null}\n{\"user\":[1]}";
    let want = ["1", "!'user' is a number, not an object, at byte 9", "~", "!'user' is an array, not an object, at byte 9"];
    assert_eq!(shown(&read(&cols, &JsonOptions::default(), text)), want);
    // With rescue it is kept instead.
    let rows = read(&cols, &JsonOptions { rescue: true, ..Default::default() }, text);
    assert_eq!(shown(&rows), ["1", "~", "~", "~"]);
    assert_eq!(rows[1].rescued.as_deref(), Some(r#"{"user":5}"#));
}

#[test]
fn flatten_finds_nested_values_and_prefers_the_exact_key() {
    let options = JsonOptions { flatten: true, ..Default::default() };
    let text = r#"{"user_id":1,"user":{"id":2}}
{"user":{"id":3}}
{"user":{"id":4},"user_id":5}
{"user":{"id":6},"user_id":null}
{"user":"bob","user_id":7}
{"user":"bob"}
{"user":"bob","user_id":null}
{"user":{"home":{"zip_code":"x"}}}
{"user_home":{"zip":{"code":"y"}}}"#;
    let rows = read(&columns(&["user_id", "user_home_zip_code"]), &options, text);
    let flat = "'user' is a string, not an object, at byte 9";
    // "bob" hides a place of user_home_zip_code too, which is found nowhere else.
    let want = ["1|~", "3|~", "5|~", "6|~", &format!("!{flat}"), &format!("!{flat}"), &format!("!{flat}"), "~|x", "~|y"];
    assert_eq!(shown(&rows), want);
    let rows = read(&columns(&["user_id"]), &options, text);
    assert_eq!(shown(&rows)[4..7], ["7", &format!("!{flat}"), "~"]);
}

#[test]
fn explode_gives_a_row_per_element_and_loses_no_record() {
    let options = JsonOptions { explode: Some("items".into()), ..Default::default() };
    let cols = [columns(&["id"])[0].clone(), columns(&["sku"])[0].clone().at("items.sku"), columns(&["t"])[0].clone().at("items.tags[0]")];
    let text = r#"{"id":1,"items":[{"sku":"a"},{"tags":["x"],"sku":"b"},null]}
{"items":[{"sku":"a long sku of many bytes"},{"sku":"d"}],"id":"an id of more than twelve bytes"}
{"id":3,"items":[]}
{"id":4}
{"id":5,"items":null}
{"id":6,"items":{"sku":"x"}}
{"id":7,"items":[{"sku":"e"},{"sku":"f"},{"sku" "g"}]}
{"id":8,"items":[{"sku":"h"},5]}
{"id":9,"items":[{"sku":"i"}]}"#;
    let rows = read(&cols, &options, text);
    let want = [
        "1|a|~",
        "1|b|x",
        "1|~|~",
        "an id of more than twelve bytes|a long sku of many bytes|~",
        "an id of more than twelve bytes|d|~",
        "3|~|~",
        "4|~|~",
        "5|~|~",
        "!'items' is an object, not an array, at byte 17",
        "!expected ':' at byte 49",
        "!'items[]' is a number, not an object, at byte 30",
        "9|i|~",
    ];
    assert_eq!(shown(&rows), want);
    assert_eq!(rows.iter().map(|r| r.line).collect::<Vec<_>>(), [1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn scalar_elements_and_flattened_names_explode_too() {
    let options = JsonOptions { explode: Some("o.tags".into()), flatten: true, ..Default::default() };
    let cols = [columns(&["id"])[0].clone(), columns(&["tag"])[0].clone().at("o.tags")];
    assert_eq!(shown(&read(&cols, &options, r#"{"o":{"tags":["x",2,{"y":1}]},"id":1}"#)), ["1|x", "1|2", "1|{\"y\":1}"]);
    let cols = columns(&["o_id", "o_tags_k_v"]);
    assert_eq!(shown(&read(&cols, &options, r#"{"o":{"tags":[{"k":{"v":1}},{"k_v":2}],"id":7}}"#)), ["7|1", "7|2"]);
    // A bad record in between leaves nothing behind, and more rows than a batch holds come in several.
    let many = format!("{{\"o\":{{\"tags\":[{}],\"id\":7}}}}\n", vec!["{\"k_v\":1}"; 20_000].join(","));
    let batches =
        decoder(&cols, &options).decode(Block { file: 0, bytes: Bytes::from(many), first_line: 1, offset: 0, last: true }).unwrap();
    assert_eq!(batches.iter().map(|b| b.num_rows()).collect::<Vec<_>>(), [8192, 8192, 3616]);
}

#[test]
fn rescue_keeps_leftovers_with_their_nesting() {
    let options = JsonOptions { rescue: true, ..Default::default() };
    let cols = [columns(&["a"])[0].clone(), columns(&["id"])[0].clone().at("user.id"), columns(&["s"])[0].clone().at("items[1].sku")];
    let text = r#"{"a":1,"x":[1, 2],"user":{"id":2,"ag\"ent":"ios"},"items":[5,{"sku":1},{"q":2}]}
{"a":1,"user":{"id":2},"items":[]}
{"items":[null,{"sku":1,"n":{}}],"z":"é"}
{}
{"a":1,"x" 1}"#;
    let got: Vec<_> = read(&cols, &options, text).into_iter().map(|r| r.rescued).collect();
    let want = [
        Some(r#"{"x":[1, 2],"user":{"ag\"ent":"ios"},"items":[5,null,{"q":2}]}"#.to_string()),
        None,
        Some(r#"{"items":[null,{"n":{}}],"z":"é"}"#.to_string()),
        None,
        None,
    ];
    assert_eq!(got, want);
    let options = JsonOptions { explode: Some("o.i".into()), ..options };
    let cols = [columns(&["a"])[0].clone(), columns(&["s"])[0].clone().at("o.i.s")];
    let text = r#"{"x":1,"o":{"n":2,"i":[{"s":1,"t":2},{"s":3}],"m":3},"a":1}
{"o":{"i":[{"s":1},{"s":2}]},"y":0}
{"o":{"i":[{"s":1},{"s":2}]}}"#;
    let got: Vec<_> = read(&cols, &options, text).into_iter().map(|r| r.rescued.unwrap_or_default()).collect();
    let want = [r#"{"x":1,"o":{"n":2,"i":{"t":2},"m":3}}"#, r#"{"x":1,"o":{"n":2,"i":null,"m":3}}"#, r#"{"y":0}"#, r#"{"y":0}"#, "", ""];
    assert_eq!(got, want);
}

#[test]
fn what_a_column_takes_whole_is_not_left_over() {
    let options = JsonOptions { rescue: true, explode: Some("o.i".into()), ..Default::default() };
    let cols = [JsonColumn::new("o", JsonKind::Json), columns(&["s"])[0].clone().at("o.i.s")];
    let rows = read(&cols, &options, r#"{"o":{"n":1,"i":[{"s":1,"t":2}],"m":3},"x":4}"#);
    assert_eq!(shown(&rows), [r#"{"n":1,"i":[{"s":1,"t":2}],"m":3}|1"#]);
    assert_eq!(rows[0].rescued.as_deref(), Some(r#"{"x":4}"#));
}

#[test]
fn duplicate_keys_matter_only_where_a_column_reads() {
    let cols = [columns(&["a"])[0].clone(), columns(&["id"])[0].clone().at("user.id")];
    let text = "{\"a\":1,\"a\":2}\n{\"x\":1,\"x\":2,\"a\":3}\n{\"user\":{},\"user\":{\"id\":1}}\n{\"user\":{\"id\":null,\"id\":1}}\n{\"\\u0061\":1,\"a\":null}";
    let want = [
        "!duplicate key 'a' at byte 8",
        "3|~",
        "!duplicate key 'user' at byte 12",
        "!duplicate key 'user.id' at byte 20",
        "!duplicate key 'a' at byte 13",
    ];
    assert_eq!(shown(&read(&cols, &JsonOptions::default(), text)), want);
}

#[test]
fn invalid_utf8_costs_its_record_only() {
    let options = JsonOptions { rescue: true, ..Default::default() };
    for text in [
        &b"{\"a\":1}\n{\"a\":\"x\xff\"}\n{\"a\":3}"[..],
        b"[{\"a\":1},\n{\"a\":\"x\xff\"}\n,{\"a\":3}]",
        b"{\"a\":1}{\"a\":\"x\xff\"}{\"a\":3}",
    ] {
        let rows = read(&columns(&["a"]), &options, text);
        assert_eq!(shown(&rows), ["1", "!invalid UTF-8 at byte 8", "3"]);
        assert_eq!(rows[1].raw.as_deref(), Some("{\"a\":\"x\u{fffd}\"}"));
    }
    // The record before was exploded: its rows are not the broken one's.
    let options = JsonOptions { explode: Some("i".into()), ..Default::default() };
    let rows = read(&columns(&["i"]), &options, b"{\"i\":[1,2,3]}\n{\"i\":[\"\xff\"]}\n{\"i\":[4]}");
    assert_eq!(shown(&rows), ["1", "2", "3", "!invalid UTF-8 at byte 8", "4"]);
}

#[test]
fn unknown_keys_of_whole_records_are_named() {
    let d = decoder(&columns(&["a"]), &JsonOptions::default());
    rows_in_steps(&d, b"{\"a\":1,\"x\":1,\"n\":{\"deep\":1}}\n{\"bad\":1,\n{\"y\\u0041\":2}\n{\"a\":1,\"x\":2}", 7);
    assert_eq!(d.unknown_keys(), ["n", "x", "yA"]);
    let many: String = (0..1000).map(|i| format!("{{\"k{i}\":1}}\n")).collect();
    rows_in_steps(&d, many.as_bytes(), 100_000);
    assert_eq!(d.unknown_keys().len(), 256);
}

#[test]
fn partitions_of_the_path_fill_their_columns() {
    let cols = [columns(&["day"])[0].clone(), columns(&["a"])[0].clone(), columns(&["h"])[0].clone(), columns(&["z"])[0].clone().at("a")];
    let given = vec![("day".to_string(), Some("2025-03-01".to_string())), ("h".into(), None), ("z".into(), Some("no".into()))];
    let d = JsonDecoder::new(cols.to_vec(), JsonOptions::default(), Arc::new(vec!["clicks/part one.json".into()]), vec![given]).unwrap();
    let rows = rows_in_steps(&d, b"{\"a\":1,\"h\":5}", 100);
    assert_eq!(shown(&rows), ["2025-03-01|1|~|1"]);
    assert!(d.unknown_keys().is_empty());
}

#[test]
fn large_strings_and_nesting_bombs() {
    let long = "x".repeat(5_000_000);
    let rows = read(&columns(&["a", "b"]), &JsonOptions::default(), format!("{{\"a\":\"{long}\",\"b\":\"\\n{long}\"}}\n{{}}"));
    assert_eq!(rows[0].cells[0].as_ref().map(String::len), Some(5_000_000));
    assert_eq!(rows[0].cells[1].as_ref().map(String::len), Some(5_000_001));
    assert_eq!(rows.len(), 2);
    let bomb = format!("{{\"a\":{}\n{{\"a\":1}}", "[".repeat(1_000_000));
    assert_eq!(table(&["a"], &bomb), ["!nested deeper than 128 at byte 133", "1"]);
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(127), "]".repeat(127));
    assert_eq!(table(&["a"], &deep).len(), 1);
    assert!(!table(&["a"], &deep)[0].starts_with('!'));
}

#[test]
fn paths_that_cannot_be_read_are_the_pipelines_mistakes() {
    let cols = [columns(&["a"])[0].clone().at("x..y"), columns(&["b"])[0].clone().at("i[0].s")];
    let options = JsonOptions { explode: Some("i".into()), ..Default::default() };
    let Err(smelt_engine::Error::Pipeline(complaints)) = JsonDecoder::new(cols.to_vec(), options, Arc::default(), vec![]) else {
        panic!("accepted");
    };
    assert_eq!(complaints[0].place.path, ["columns", "a", "path"]);
    assert!(complaints[1].message.contains("explode turns into rows"));
}

#[test]
fn keys_in_any_order_spacing_and_number_are_found() {
    let mut want = vec![];
    let mut text = String::new();
    for i in 0..200 {
        let mut keys: Vec<usize> = (0..100).filter(|k| (k * 7 + i) % 3 > 0).collect();
        keys.rotate_left(i % 60);
        if i % 2 == 0 {
            keys.reverse();
        }
        let fields = keys.iter().map(|k| format!("\"a key of some length {k}\"{}:{}{}", [" ", ""][k % 2], ["", " "][i % 2], k * i));
        text += &format!("{{ {} }}\n", fields.collect::<Vec<_>>().join(", "));
        let cell = |k: usize| if keys.contains(&k) { (k * i).to_string() } else { "~".into() };
        want.push(format!("{}|{}", cell(42), cell(99)));
    }
    assert_eq!(table(&["a key of some length 42", "a key of some length 99"], &text), want);
}

/// Any JSON document, with a few keys so that columns meet them.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-c]{1,2}|\\PC{0,3}", inner, 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn record() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-c]{1,2}|\\PC{0,3}", json(), 0..8).prop_map(|m| Value::Object(m.into_iter().collect()))
}

/// What a scalar column must show of a value.
fn scalar(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(s) => Some(s.clone()),
        other => Some(other.to_string()),
    }
}

fn all_columns() -> Vec<JsonColumn> {
    let mut cols = columns(&["a", "b", "ab", "c"]);
    cols.extend([columns(&["cb"])[0].clone().at("ca[1]"), JsonColumn::new("ba", JsonKind::Json).at("b")]);
    cols
}

fn expected(record: &Value) -> Option<Vec<Option<String>>> {
    let ca = record.get("ca");
    if matches!(ca, Some(v) if !v.is_null() && !v.is_array()) {
        return None;
    }
    let mut cells: Vec<_> = ["a", "b", "ab", "c"].iter().map(|k| scalar(record.get(k))).collect();
    cells.push(scalar(ca.and_then(|v| v.get(1))));
    cells.push(record.get("b").filter(|v| !v.is_null()).map(Value::to_string));
    Some(cells)
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn records_read_as_serde_json_reads_them(records in prop::collection::vec(record(), 0..12), array: bool) {
        let parts: Vec<String> = records.iter().map(Value::to_string).collect();
        let text = if array { format!("[{}]", parts.join(",")) } else { parts.join("\n") };
        let rows = read(&all_columns(), &JsonOptions::default(), &text);
        prop_assert_eq!(rows.len(), records.len());
        for (row, record) in rows.iter().zip(&records) {
            match expected(record) {
                Some(cells) => prop_assert_eq!(&row.cells, &cells),
                None => prop_assert!(row.malformed.is_some()),
            }
        }
    }

    #[test]
    fn the_same_bytes_give_the_same_rows_however_cut(
        records in prop::collection::vec(record(), 0..6), glue in 0..4usize, edits in edits(), step in 1..40usize, variant in 0..4usize,
    ) {
        let parts: Vec<String> = records.iter().map(|r| if glue == 3 { format!("{r:#}") } else { r.to_string() }).collect();
        let text = match glue {
            0 => parts.join("\n"),
            1 => format!("[{}]", parts.join(",\n ")),
            _ => parts.join(" "),
        };
        let bytes = mutate(text.into_bytes(), &edits);
        let options = JsonOptions {
            flatten: variant == 1, rescue: variant >= 2, explode: (variant == 3).then(|| "a".to_string()), ..Default::default()
        };
        let d = decoder(&all_columns(), &options);
        let whole = rows_in_steps(&d, &bytes, usize::MAX / 2);
        prop_assert_eq!(&rows_in_steps(&decoder(&all_columns(), &options), &bytes, step), &whole);
        prop_assert_eq!(&rows_in_steps(&decoder(&all_columns(), &options), &bytes, 1), &whole);
        for row in &whole {
            if let Some(rescued) = &row.rescued {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(rescued).is_ok(), "{}", rescued);
            }
        }
    }

    /// Reading by columns is as strict as passing over.
    #[test]
    fn wanted_and_unwanted_fields_are_judged_alike(record in record(), edits in edits(), variant in 0..4usize) {
        let mut text = mutate(record.to_string().into_bytes(), &edits);
        text.retain(|b| *b != b'\n');
        let explode = (variant == 3).then(|| "a".to_string());
        let options = JsonOptions { flatten: variant == 1, rescue: variant >= 2, explode, ..Default::default() };
        let by_columns = read(&all_columns(), &options, &text);
        let passed_over = read(&[], &JsonOptions::default(), &text);
        if let ([one, ..], [other]) = (&by_columns[..], &passed_over[..]) {
            let why = one.malformed.clone().unwrap_or_default();
            let of_columns = why.starts_with("duplicate key") || why.contains(", not an ");
            // Where it was cut off is said in different words.
            let word = |row: &Row| row.malformed.as_ref().map(|m| if m.starts_with("cut off") { "cut off".into() } else { m.clone() });
            prop_assert!(word(one) == word(other) || of_columns, "{:?} {:?}", one, other);
        } else {
            prop_assert_eq!(by_columns.len(), passed_over.len());
        }
    }

    /// Documented differences: serde_json takes no number beyond a double's range and one level of nesting less.
    #[test]
    fn accepts_exactly_what_serde_json_accepts(value in json(), pretty: bool, edits in edits()) {
        let text = if pretty { format!("{value:#}") } else { value.to_string() };
        let bytes = mutate(text.into_bytes(), &edits);
        let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(()) };
        let mut scan = Scanner::new(&bytes, bytes.len());
        scan.space();
        let mut ours = scan.skip(0).is_ok();
        scan.space();
        ours &= scan.pos == bytes.len();
        let theirs = match serde_json::from_str::<Value>(text) {
            Ok(_) => true,
            Err(e) => e.to_string().starts_with("number out of range")
                && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() && ours,
        };
        prop_assert_eq!(ours, theirs, "{:?}", text);
    }
}

fn edits() -> impl Strategy<Value = Vec<(usize, u8, u8)>> {
    let byte = prop_oneof![
        Just(b'"'),
        Just(b'\\'),
        Just(b'{'),
        Just(b'}'),
        Just(b'['),
        Just(b']'),
        Just(b','),
        Just(b':'),
        Just(b'\n'),
        Just(b' '),
        Just(b'u'),
        Just(b'0'),
        Just(b'-'),
        Just(b'.'),
        Just(b'e'),
        Just(0xff),
        any::<u8>(),
    ];
    prop::collection::vec((any::<usize>(), 0..4u8, byte), 0..4)
}

/// Overwrites, inserts, deletes or cuts off.
fn mutate(mut bytes: Vec<u8>, edits: &[(usize, u8, u8)]) -> Vec<u8> {
    for (at, kind, byte) in edits {
        if bytes.is_empty() {
            break;
        }
        let at = at % bytes.len();
        match kind {
            0 => bytes[at] = *byte,
            1 => bytes.insert(at, *byte),
            2 => drop(bytes.remove(at)),
            _ if at > bytes.len() / 2 => bytes.truncate(at),
            _ => {}
        }
    }
    bytes
}

/// `cargo test --release sources::json::tests::figures -- --ignored --nocapture` with full opt-level: MB/s of one core.
#[test]
#[ignore = "prints throughput; nothing to assert"]
fn figures() {
    let agents = ["ios", "android", "web"];
    let line = |i: usize| {
        format!(
            "{{\"event_id\":{i},\"user\":{{\"id\":{},\"agent\":\"{}\"}},\"page\":\"/home\",\"ts\":\"2025-03-01T10:{:02}:{:02}Z\",\"props\":{{\"ms\":{},\"ref\":null}}}}",
            i * 7919 % 50_000,
            agents[i % 3],
            i / 60 % 60,
            i % 60,
            i % 900,
        )
    };
    let lines: Vec<String> = (0..80_000).map(line).collect();
    let wide = columns(&["event_id", "user_id", "user_agent", "page", "ts", "props_ms", "props_ref"]);
    let few = columns(&["event_id", "ts"]);
    let few_of_many = columns(&["column_number_7", "column_number_93"]);
    let many = |i: usize| (0..100).map(|c| format!("\"column_number_{c}\":{}", c * i % 1000)).collect::<Vec<_>>().join(", ");
    let many: Vec<String> = (0..80_000).map(|i| format!("{{{}}}", many(i))).collect();
    for (name, text, cols, flatten) in [
        ("lines of 100 keys, 2 columns", many.join("\n"), &few_of_many, false),
        ("lines, 7 columns flattened", lines.join("\n"), &wide, true),
        ("lines, 2 columns", lines.join("\n"), &few, false),
        ("array, 7 columns flattened", format!("[{}]", lines.join(",\n")), &wide, true),
    ] {
        let bytes = Bytes::from(text);
        let mut best = f64::MAX;
        let mut split = f64::MAX;
        for _ in 0..15 {
            let d = decoder(cols, &JsonOptions { flatten, ..Default::default() });
            let start = std::time::Instant::now();
            let mut splitter = d.splitter(0);
            // As a reader does: a megabyte at a time.
            let mut blocks = vec![];
            let (mut from, mut to) = (0, 0);
            while from < bytes.len() {
                to = (to + (1 << 20)).min(bytes.len());
                let n = splitter.split(&bytes[from..to], to == bytes.len()).unwrap();
                blocks.push(Block {
                    file: 0,
                    bytes: bytes.slice(from..from + n),
                    first_line: 1,
                    offset: from as u64,
                    last: to == bytes.len(),
                });
                from += n;
            }
            split = split.min(start.elapsed().as_secs_f64());
            let start = std::time::Instant::now();
            let rows: usize = blocks.into_iter().flat_map(|b| d.decode(b).unwrap()).map(|b| b.num_rows()).sum();
            best = best.min(start.elapsed().as_secs_f64());
            assert_eq!(rows, lines.len());
        }
        let mb = bytes.len() as f64 / 1e6;
        println!("{name}: decode {:.0} MB/s, {:.1} ns a record; split {:.0} MB/s", mb / best, best * 1e9 / 80_000.0, mb / split);
    }
}
