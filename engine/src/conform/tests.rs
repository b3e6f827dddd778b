//! Every type with its good and its bad values, and whole scans: what passes, what is refused, and what it shows.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray, StringViewArray,
    StructArray, TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use parking_lot::Mutex;

use super::parser::Parser;
use super::*;
use crate::contract::{Changes, Contract, OnMissingColumn, is_absent};
use crate::ledger::{Ledger, RejectSink};
use crate::session::Resources;
use crate::table::TableName;
use crate::types::ContractType;

fn column(name: &str, ty: &str) -> Column {
    Column::new(name, ContractType::parse(ty).unwrap())
}

fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringViewArray::from_iter(values.iter().copied()))
}

/// Values as text, and the messages of those that failed.
fn bring(column: &Column, array: &ArrayRef) -> (Vec<Option<String>>, Vec<(usize, String)>) {
    let (typed, faults) = Parser::new(column).unwrap().bring(array).unwrap();
    assert_eq!(typed.data_type(), &column.ty.arrow());
    assert_eq!(typed.len(), array.len());
    typed.to_data().validate_full().unwrap();
    let shown = (0..typed.len()).map(|row| typed.is_valid(row).then(|| array_value_to_string(&typed, row).unwrap()));
    (shown.collect(), faults.iter().map(|f| (f.row, f.message(&column.name, false))).collect())
}

/// The one text, parsed.
fn good(column: &Column, text: &str) -> String {
    let (mut values, faults) = bring(column, &texts(&[Some(text)]));
    assert_eq!(faults, vec![], "{text}");
    values.remove(0).unwrap()
}

/// The message about the one text.
fn bad(column: &Column, text: &str) -> String {
    let (values, mut faults) = bring(column, &texts(&[None, Some(text), None]));
    assert!(values[1].is_none() || column.ty.arrow().is_nested(), "{values:?}");
    assert_eq!(faults.len(), 1, "{text} {values:?}");
    assert_eq!(faults[0].0, 1);
    faults.remove(0).1
}

#[test]
fn numbers() {
    assert_eq!(good(&column("n", "int8"), " -128 "), "-128");
    assert_eq!(bad(&column("n", "int8"), "128"), "'128' is out of range for int8");
    assert_eq!(bad(&column("n", "int16"), "-32769"), "'-32769' is out of range for int16");
    assert_eq!(bad(&column("n", "int32"), "2147483648"), "'2147483648' is out of range for int32");
    assert_eq!(bad(&column("n", "int64"), "9223372036854775808"), "'9223372036854775808' is out of range for int64");
    assert_eq!(bad(&column("n", "int64"), "1.0"), "'1.0' is not an int64: it has a fraction");
    assert_eq!(
        bad(&column("n", "int64"), "1,234"),
        "'1,234' is not an int64: write it without thousands separators and with a decimal point"
    );
    assert!(bad(&column("n", "int64"), "").contains("null_values"));
    assert!(bad(&column("n", "int64"), "12a").ends_with("is not an int64"));

    let money = column("n", "decimal(12,2)");
    assert_eq!(good(&money, "1234567890.10"), "1234567890.10");
    assert_eq!(good(&money, " -0.5000 "), "-0.50");
    assert_eq!(bad(&money, "12345678901"), "'12345678901' has more than 10 digits before the point, too many for decimal(12,2)");
    assert_eq!(bad(&money, "0.125"), "'0.125' has more than 2 digits after the point, too many for decimal(12,2)");
    assert!(bad(&money, "1.234,56").ends_with("write it without thousands separators and with a decimal point"));
    assert!(bad(&money, "1 234.56").contains("thousands"));
    assert!(bad(&money, "12 EUR").ends_with("is not a decimal(12,2)"));

    assert_eq!(good(&column("n", "double"), "1e3"), "1000.0");
    assert_eq!(good(&column("n", "double"), "-Infinity"), "-inf");
    assert_eq!(bad(&column("n", "double"), "1e999"), "'1e999' is too great for double");
    assert_eq!(bad(&column("n", "float"), "1e39"), "'1e39' is too great for float");
    assert!(bad(&column("n", "double"), "nan").contains("NaN"));
    assert!(bad(&column("n", "double"), "1,5").contains("decimal point"));

    assert_eq!(good(&column("b", "boolean"), "YES"), "true");
    assert!(bad(&column("b", "boolean"), "maybe").starts_with("'maybe' is not a boolean"));
}

#[test]
fn dates_and_times() {
    assert_eq!(good(&column("d", "date"), " 2024-02-29 "), "2024-02-29");
    assert_eq!(bad(&column("d", "date"), "2025-02-31"), "'2025-02-31' is not a date of format %Y-%m-%d");
    let german = Column { formats: vec!["%d.%m.%Y".into(), "%Y%m%d".into()], ..column("d", "date") };
    assert_eq!((good(&german, "28.02.2025"), good(&german, "20250228")), ("2025-02-28".into(), "2025-02-28".into()));
    assert_eq!(bad(&german, "31.02.2025"), "'31.02.2025' is not a date of format %d.%m.%Y or %Y%m%d");

    let local = Column { timezone: Some(chrono_tz::America::Sao_Paulo), ..column("t", "timestamp") };
    assert_eq!(good(&local, "2025-03-01 12:00:00"), "2025-03-01T15:00:00Z");
    assert_eq!(
        bad(&local, "2018-11-04 00:30:00"),
        "'2018-11-04 00:30:00' does not exist in America/Sao_Paulo: the clocks went forward over it"
    );
    assert!(bad(&local, "2025-13-01 00:00:00").starts_with("'2025-13-01 00:00:00' is not a timestamp"));

    assert_eq!(good(&column("t", "time"), "09:05"), "09:05:00");
    assert!(bad(&column("t", "time"), "25:00").ends_with("is not a time of format %H:%M:%S"));
}

#[test]
fn bytes_and_json() {
    assert_eq!(good(&column("b", "binary"), "00ff"), "00ff");
    assert_eq!(bad(&column("b", "binary"), "0ff"), "'0ff' is not hex");
    let base64 = Column { formats: vec!["base64".into()], ..column("b", "binary") };
    assert_eq!((good(&base64, "AP8="), good(&base64, "AP8")), ("00ff".into(), "00ff".into()));
    assert_eq!(bad(&base64, "AP8=="), "'AP8==' is not base64");
    assert_eq!(good(&column("j", "json"), "{\"a\": [1, 2]}"), "{\"a\": [1, 2]}");
    assert_eq!(bad(&column("j", "json"), "{\"a\": [1, 2"), "'{\"a\": [1, 2' is not a JSON value");
}

#[test]
fn nested_values_name_the_path_of_what_failed() {
    let items = column("items", "list<struct<sku: string, price: decimal(9,2), at: date, extra: json>>");
    let text = r#"[{"sku":"a","price":1.10,"unknown":[1]}, null, {"price":"2","at":"2024-01-31","sku":5,"extra":{"k":"]"}}]"#;
    assert_eq!(good(&items, text), r#"[{sku: a, price: 1.10, at: , extra: }, , {sku: 5, price: 2.00, at: 2024-01-31, extra: {"k":"]"}}]"#);
    let text = r#"[{"sku":"a"},{"sku":"b"},{"price":"1,234.00"}]"#;
    assert_eq!(
        bad(&items, text),
        "items[2].price: '1,234.00' is not a decimal(9,2): write it without thousands separators and with a decimal point"
    );
    assert_eq!(
        bad(&items, "[5]"),
        "items[0]: '5' is not a JSON object for struct<sku: string, price: decimal(9,2), at: date, extra: json>"
    );
    assert_eq!(bad(&items, "{\"sku\":\"a\"}"), "'{\"sku\":\"a\"}' is not a JSON array");
    assert_eq!(bad(&items, "[{\"sku\":\"a\"}"), "'[{\"sku\":\"a\"}' is not a JSON array");
    assert_eq!(bad(&column("s", "struct<a: int32>"), "7"), "'7' is not a JSON object for struct<a: int32>");
    assert_eq!(bad(&column("s", "struct<a: struct<b: int32>>"), r#"{"a":{"b":1.5}}"#), "s.a.b: '1.5' is not an int32: it has a fraction");
    assert!(bad(&column("s", "struct<a: string>"), r#"{"a":"\ud800"}"#).starts_with("s.a: "));
    assert!(bad(&column("l", "list<string>"), r#"["", "\ud800"]"#).starts_with("l[1]: "));
    assert!(bad(&column("m", "map<string, string>"), r#"{"k":"\ud800"}"#).starts_with("m[entry 1]: "));

    let map = column("m", "map<int32, double>");
    assert_eq!(good(&map, r#"{"1":0.5,"2":null}"#), "{1: 0.5, 2: }");
    assert_eq!(bad(&map, r#"{"1":1,"x":2}"#), "m[key 2]: 'x' is not an int32");
    assert_eq!(bad(&map, r#"{"1":1,"2":"y"}"#), "m[entry 2]: 'y' is not a double");
    assert!(bad(&map, r#"{"1":1,"1":2}"#).ends_with("names a key twice"));
}

#[test]
fn nested_nulls_and_empties_keep_their_rows() {
    let array = texts(&[None, Some("[]"), Some("null"), Some("[1]"), Some("x"), Some("[2,3]")]);
    let (values, faults) = bring(&column("l", "list<int64>"), &array);
    assert_eq!(values, [None, Some("[]".into()), None, Some("[1]".into()), None, Some("[2, 3]".into())]);
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].0, 4);
}

#[test]
fn formats_that_cannot_be_are_the_pipelines_fault() {
    let of = |ty: &str, format: &str| {
        Parser::new(&Column { formats: vec![format.into()], ..column("c", ty) }).err().map(|c| c.message).unwrap_or_default()
    };
    assert_eq!(of("date", "%d/%m"), "the format '%d/%m' does not give a date");
    assert_eq!(of("time", "%d/%m/%Y"), "the format '%d/%m/%Y' does not give a time of day");
    assert_eq!(of("date", "%Q"), "'%Q' is not a format");
    assert_eq!(of("binary", "hexx"), "'hexx' is no encoding of bytes");
    assert_eq!(of("int64", "%d"), "int64 takes no format");
    for (ty, format) in [("date", "%y%j"), ("timestamp", "%s"), ("timestamp", "%d %B %Y"), ("timestamp", "%+"), ("time", "%I:%M %p")] {
        assert_eq!(of(ty, format), "", "{ty} {format}");
    }
}

#[test]
fn typed_columns_are_cast_without_loss_or_refused() {
    let int: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(300), None]));
    let (values, faults) = bring(&column("n", "int8"), &int);
    assert_eq!(values, [Some("1".into()), None, None]);
    assert_eq!(faults, [(1, "'300' does not fit int8 without loss".into())]);
    let double: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 1.5, f64::NAN, -0.0, 1e300]));
    let (_, faults) = bring(&column("n", "int64"), &double);
    assert_eq!(faults.iter().map(|f| f.0).collect::<Vec<_>>(), [1, 2, 4]);
    let (_, faults) = bring(&column("n", "float"), &double);
    assert_eq!(faults.iter().map(|f| f.0).collect::<Vec<_>>(), [4]);
    let decimal: ArrayRef = Arc::new(Decimal128Array::from(vec![1230, 1234]).with_precision_and_scale(10, 3).unwrap());
    let (values, faults) = bring(&column("n", "decimal(10,2)"), &decimal);
    assert_eq!((values[0].as_deref(), faults.len(), faults[0].0), (Some("1.23"), 1, 1));
    let wide: ArrayRef = Arc::new(Int64Array::from(vec![9_007_199_254_740_993]));
    assert_eq!(bring(&column("n", "double"), &wide).1.len(), 1);

    let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_541_291_400_000_000_001]));
    assert_eq!(bring(&column("t", "timestamp"), &nanos).0, [Some("2018-11-04T00:30:00Z".into())]);
    let local = Column { timezone: Some(chrono_tz::America::Sao_Paulo), ..column("t", "timestamp") };
    assert!(bring(&local, &nanos).1[0].1.contains("does not exist in America/Sao_Paulo"));
    assert_eq!(bring(&column("t", "date"), &nanos).1.len(), 1);
    let date: ArrayRef = Arc::new(Date32Array::from(vec![19782]));
    assert_eq!(bring(&column("t", "timestamp"), &date).0, [Some("2024-02-29T00:00:00Z".into())]);
    let far: ArrayRef = Arc::new(arrow::array::TimestampSecondArray::from(vec![i64::MAX]));
    assert_eq!(bring(&column("t", "timestamp"), &far).1.len(), 1);
    assert_eq!(bring(&column("t", "string"), &far).1.len(), 1);

    let text: ArrayRef = Arc::new(StringArray::from(vec!["7", "x"]));
    assert_eq!(bring(&column("n", "int32"), &text).1, [(1, "'x' is not an int32".into())]);
    assert_eq!(bring(&column("s", "string"), &int).0, [Some("1".into()), Some("300".into()), None]);

    let child: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 300, 4]));
    let parts: ArrayRef = Arc::new(StructArray::from(vec![(Arc::new(Field::new("a", DataType::Int64, true)), child)]));
    let lists = ListArray::new(
        Arc::new(Field::new("item", parts.data_type().clone(), true)),
        arrow::buffer::OffsetBuffer::from_lengths([1, 2, 1]),
        parts,
        None,
    );
    let lists: ArrayRef = Arc::new(lists.slice(1, 2));
    let (_, faults) = bring(&column("l", "list<struct<a: int8, b: string>>"), &lists);
    assert_eq!(faults, [(0, "l[1].a: '300' does not fit int8 without loss".into())]);
    assert_eq!(bring(&column("l", "json"), &lists).0[0].as_deref(), Some(r#"[{"a":2},{"a":300}]"#));

    let refused = Parser::new(&column("d", "date")).unwrap().bring(&int).unwrap_err();
    assert!(matches!(refused, Error::Data { .. }), "{refused}");
}

#[test]
fn cast_column_shows_shapes_only() {
    let (typed, messages) = cast_column(&texts(&[Some("1"), Some("secret-42")]), &column("n", "int32")).unwrap();
    assert_eq!(typed.as_ref(), &Int32Array::from(vec![Some(1), None]) as &dyn Array);
    assert_eq!(messages, [(1, "'xxxxxx-99' is not an int32".to_owned())]);
}

#[derive(Debug, Default)]
struct Rejects(Mutex<Vec<RecordBatch>>);

#[async_trait::async_trait]
impl RejectSink for Rejects {
    async fn push(&self, rows: RecordBatch) -> Result<()> {
        self.0.lock().push(rows);
        Ok(())
    }
}

struct Run {
    ctx: SessionContext,
    ledger: Arc<Ledger>,
    rejects: Arc<Rejects>,
}

impl Run {
    fn new() -> Run {
        let (ledger, rejects) = (Arc::new(Ledger::default()), Arc::new(Rejects::default()));
        ledger.set_sink(Arc::clone(&rejects) as _);
        ledger.set_batch("b1");
        let ctx = Resources::new(64 << 20, 1, None).unwrap().session(Arc::clone(&ledger));
        Run { ctx, ledger, rejects }
    }

    async fn sql(&self, sql: &str) -> Vec<RecordBatch> {
        self.ctx.sql(sql).await.unwrap().collect().await.unwrap()
    }

    /// One line per refused row: the columns' texts.
    fn refused(&self) -> Vec<Vec<String>> {
        let lines = |batch: &RecordBatch| {
            assert_eq!(batch.schema(), crate::route::quarantine_schema());
            let row = |r| batch.columns().iter().map(|c| array_value_to_string(c, r).unwrap()).collect();
            (0..batch.num_rows()).map(row).collect::<Vec<_>>()
        };
        self.rejects.0.lock().iter().flat_map(lines).collect()
    }
}

/// A raw source of text columns; line numbers from 2, offsets in tens. `malformed`: row, why, line.
fn raw(columns: &[(&str, &[Option<&str>])], malformed: &[(usize, &str, &str)]) -> Arc<MemTable> {
    let rows = columns[0].1.len();
    let mut fields: Vec<Field> = columns.iter().map(|(n, _)| Field::new(*n, DataType::Utf8View, true)).collect();
    let mut arrays: Vec<ArrayRef> = columns.iter().map(|(_, v)| texts(v)).collect();
    let of = |pick: &dyn Fn(&(usize, &str, &str)) -> String| {
        let values = (0..rows).map(|r| malformed.iter().find(|m| m.0 == r).map(pick));
        Arc::new(StringViewArray::from_iter(values)) as ArrayRef
    };
    let hidden: [(&str, ArrayRef); 5] = [
        ("_file", Arc::new(StringViewArray::from_iter_values((0..rows).map(|_| "in.csv")))),
        ("_line", Arc::new(Int64Array::from_iter_values((0..rows as i64).map(|r| r + 2)))),
        ("_offset", Arc::new(Int64Array::from_iter_values((0..rows as i64).map(|r| r * 10)))),
        ("_malformed", of(&|m| m.1.to_owned())),
        ("_raw", of(&|m| m.2.to_owned())),
    ];
    for (name, array) in hidden {
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    }
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
    Arc::new(MemTable::try_new(schema, vec![vec![batch]]).unwrap())
}

fn table() -> TableName {
    TableName { layer: "silver".into(), name: "people".into() }
}

fn contract(columns: Vec<Column>) -> Contract {
    Contract { columns, ..Contract::default() }
}

#[tokio::test]
async fn a_scan_gives_conforming_rows_and_sends_the_rest_to_quarantine() {
    let run = Run::new();
    let source = raw(
        &[
            ("name", &[Some(" Ana "), Some("Bruno"), None, None, Some("Elena")]),
            ("id", &[Some("1"), Some("x"), Some("3"), None, Some("5")]),
            ("born", &[Some("2001-01-01"), Some("31/02/2025"), Some("2003-01-01"), None, None]),
        ],
        &[(3, "2 fields, the header has 3", "Diego,4")],
    );
    let id = Column { required: true, ..column("id", "int64") };
    let name = Column { required: true, ..column("name", "string") };
    let source = ConformedSource::new(source, contract(vec![id, column("born", "date"), name]), Sensitive::default(), table()).unwrap();
    run.ctx.register_table("people", Arc::new(source)).unwrap();
    // The scan is asked for two columns; the others are checked all the same.
    let out = run.sql("select _line, name from people order by id").await;
    assert_eq!(out.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    assert_eq!(out[0].column(0).as_primitive::<Int64Type>().values(), &[2, 6]);
    assert_eq!(array_value_to_string(out[0].column(1), 0).unwrap(), " Ana ");

    let expected = [
        [
            "silver.people",
            "b1",
            "in.csv",
            "3",
            "10",
            "conform",
            "[{column: id, rule: type, message: 'x' is not an int64}, \
             {column: born, rule: type, message: '31/02/2025' is not a date of format %Y-%m-%d}]",
            r#"{"name":"Bruno","id":"x","born":"31/02/2025"}"#,
        ],
        [
            "silver.people",
            "b1",
            "in.csv",
            "4",
            "20",
            "conform",
            "[{column: name, rule: required, message: is required, and is NULL}]",
            r#"{"name":null,"id":"3","born":"2003-01-01"}"#,
        ],
        [
            "silver.people",
            "b1",
            "in.csv",
            "5",
            "30",
            "conform",
            "[{column: , rule: malformed, message: 2 fields, the header has 3}]",
            "Diego,4",
        ],
    ];
    assert_eq!(run.refused(), expected);
    assert_eq!(Ledger::get(&run.ledger.quarantined), 3);
    let rules: Vec<_> = run.ledger.rules().into_iter().map(|((c, r), n)| format!("{c}.{r}={n}")).collect();
    assert_eq!(rules, [".malformed=1", "born.type=1", "id.type=1", "name.required=1"]);
}

#[tokio::test]
async fn counting_alone_checks_every_column() {
    let run = Run::new();
    let source = raw(&[("id", &[Some("1"), Some("x"), Some("3")])], &[]);
    let source = ConformedSource::new(source, contract(vec![column("id", "int64")]), Sensitive::default(), table()).unwrap();
    run.ctx.register_table("people", Arc::new(source)).unwrap();
    let out = run.sql("select count(*) from people").await;
    assert_eq!(out[0].column(0).as_primitive::<Int64Type>().values(), &[2]);
    assert_eq!(Ledger::get(&run.ledger.quarantined), 1);
}

#[tokio::test]
async fn sensitive_values_never_leave_in_clear() {
    const MARK: &str = "Zuleika7731";
    let marked = |prefix: &str| format!("{prefix}{MARK}");
    let (plain, json) = (marked(""), format!("{{\"deep\":[{{\"x\":\"{MARK}\",\"n\":\"{MARK}\"}}]}}"));
    let (mail, line) = (marked("a@"), format!("1,{MARK}"));
    let mask: TextMask = Arc::new(|text| Some(format!("masked:{}", text.len())));
    for with_mask in [true, false] {
        let run = Run::new();
        let source = raw(
            &[
                ("id", &[Some("bad"), Some("1"), None, Some("4")]),
                ("ssn", &[Some("12"), Some(&plain), None, Some("5")]),
                ("mail", &[Some(&mail), Some(&mail), None, Some("m")]),
                ("profile", &[Some(&json), Some(&json), None, Some("{}")]),
            ],
            &[(2, "2 fields, the header has 4", &line)],
        );
        let columns = vec![
            column("id", "int64"),
            column("ssn", "int64"),
            column("mail", "string"),
            column("profile", "struct<deep: list<struct<x: string, n: int32>>>"),
        ];
        let sensitive = ["ssn", "mail", "profile"].map(|c| (c.to_owned(), with_mask.then(|| Arc::clone(&mask))));
        let source =
            ConformedSource::new(source, contract(columns), Sensitive { columns: sensitive.into_iter().collect() }, table()).unwrap();
        run.ctx.register_table("people", Arc::new(source)).unwrap();
        let out = run.sql("select * from people").await;
        assert_eq!(out[0].num_rows(), 1);
        let refused = run.refused();
        let all = format!("{refused:?} {:?} {:?}", run.ledger.rules(), run.ledger.warnings());
        assert!(!all.contains(MARK), "{all}");
        assert!(!all.contains("Zuleika") && !all.contains("7731"), "{all}");
        // Row 0: `mail` itself is fine, so its mask serves; `profile` failed inside and is scrubbed.
        let shown = if with_mask { r#""mail":"masked:13""# } else { r#""mail":"x@xxxxxxx9999""# };
        assert!(refused[0][7].contains(shown), "{}", refused[0][7]);
        assert!(refused[0][7].contains(r#""id":"bad""#) && refused[0][6].contains("'bad' is not an int64"));
        assert!(refused[0][6].contains("profile.deep[0].n: 'xxxxxxx9999' is not an int32"), "{}", refused[0][6]);
        assert!(refused[1][6].contains("'xxxxxxx9999' is not an int64"));
        assert_eq!(refused[2][7], "9,xxxxxxx9999");
    }
}

#[tokio::test]
async fn values_of_megabytes_are_cut_in_quarantine() {
    let run = Run::new();
    let long = "7".repeat(5 << 20);
    let source = raw(&[("id", &[Some(&long), Some("1")]), ("note", &[Some("n"), Some(&long)])], &[]);
    let columns = vec![column("id", "int64"), column("note", "string")];
    let source = ConformedSource::new(source, contract(columns), Sensitive::default(), table()).unwrap();
    run.ctx.register_table("people", Arc::new(source)).unwrap();
    let out = run.sql("select note from people").await;
    assert_eq!(array_value_to_string(out[0].column(0), 0).unwrap().len(), 5 << 20);
    let refused = run.refused();
    assert!(refused[0][7].len() < 70_000 && refused[0][7].contains("[cut, 5242880 bytes in all]"));
    assert!(refused[0][6].len() < 1000);
}

#[test]
fn clean_batches_share_their_strings_and_carry_no_errors() {
    let values: Vec<String> = (0..100).map(|i| format!("a string that is not inline {i}")).collect();
    let values: Vec<Option<&str>> = values.iter().map(|v| Some(v.as_str())).collect();
    let (schema, array) = (Schema::new(vec![Field::new("s", DataType::Utf8View, true)]), texts(&values));
    let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![Arc::clone(&array)]).unwrap();
    let conformer = exec::Conformer::try_new(&schema, &contract(vec![column("s", "string")]), &Sensitive::default()).unwrap();
    let out = conformer.conform(&batch).unwrap();
    let bytes = |a: &ArrayRef| a.as_string_view().data_buffers()[0].as_ptr();
    assert_eq!(bytes(out.column(0)), bytes(&array));
    for name in ["_errors", "_raw"] {
        assert_eq!(out.column_by_name(name).unwrap().null_count(), 100);
    }
}

#[test]
fn a_missing_column_fails_or_is_null() {
    let source = || raw(&[("id", &[Some("1")])], &[]);
    let columns = vec![column("id", "int64"), column("gone", "date")];
    let e = ConformedSource::new(source(), contract(columns.clone()), Sensitive::default(), table()).unwrap_err();
    assert!(matches!(&e, Error::Data { message, .. } if message.contains("'gone'")), "{e}");
    let lenient = Contract { columns, on_missing_column: OnMissingColumn::Ignore, ..Contract::default() };
    ConformedSource::new(source(), lenient, Sensitive::default(), table()).unwrap();
}

#[tokio::test]
async fn deletes_of_a_feed_need_not_be_whole_and_unknown_operations_leave() {
    let run = Run::new();
    let source = raw(
        &[
            ("id", &[Some("1"), Some("2"), Some("3"), None, Some("5"), Some("x")]),
            ("name", &[Some("Ana"), None, None, None, Some("Eva"), None]),
            ("op", &[Some("I"), Some("U"), Some("D"), Some("X"), None, Some("D")]),
        ],
        &[],
    );
    let name = Column { required: true, ..column("name", "string") };
    let changes = Changes { op: "op".into(), known: &["I", "U", "D"], partial: &["D"], default: Some("I") };
    let op = Column { required: true, ..column("op", "string") };
    let contract = Contract { changes: Some(changes), ..contract(vec![column("id", "int64"), name, op]) };
    let source = ConformedSource::new(source, contract, Sensitive::default(), table()).unwrap();
    run.ctx.register_table("people", Arc::new(source)).unwrap();
    let out = run.sql("select id, op from people order by id").await;
    let rows: Vec<String> =
        (0..out[0].num_rows()).map(|row| [0, 1].map(|c| array_value_to_string(out[0].column(c), row).unwrap()).join("|")).collect();
    assert_eq!(rows, ["1|I", "3|D"]);
    let rules: Vec<_> = run.ledger.rules().into_iter().map(|((c, r), n)| format!("{c}.{r}={n}")).collect();
    // The row whose operation is X also lacks its name.
    assert_eq!(rules, ["id.type=1", "name.required=2", "op.op=2"]);
}

#[tokio::test]
async fn what_a_row_was_not_given_passes_on_where_it_is_asked_for() {
    let columns = || vec![column("gone", "date"), column("id", "int64")];
    let lenient = Contract { columns: columns(), on_missing_column: OnMissingColumn::Ignore, absent: true, ..Contract::default() };
    let run = Run::new();
    let source = ConformedSource::new(raw(&[("id", &[Some("1")])], &[]), lenient.clone(), Sensitive::default(), table()).unwrap();
    run.ctx.register_table("people", Arc::new(source)).unwrap();
    let out = run.sql("select * from people").await;
    let bits = out[0].column_by_name("_absent").unwrap().as_binary_view();
    assert!(is_absent(bits.value(0), 0) && !is_absent(bits.value(0), 1));
    let source = raw(&[("id", &[Some("1")])], &[]);
    let plain = ConformedSource::new(source, Contract { absent: false, ..lenient }, Sensitive::default(), table()).unwrap();
    assert!(datafusion::catalog::TableProvider::schema(&plain).column_with_name("_absent").is_none());
}

#[test]
fn epochs_are_read_from_text_and_from_numbers() {
    let ms = Column { formats: vec!["epoch_ms".into()], ..column("t", "timestamp") };
    let day = Column { formats: vec!["epoch_days".into()], ..column("d", "date") };
    assert_eq!(good(&ms, "1740831296500"), "2025-03-01T12:14:56.500Z");
    assert_eq!(good(&day, "20148"), "2025-03-01");
    assert_eq!(bad(&day, "2025-03-01"), "'2025-03-01' is not a date of format epoch_days");
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1_740_831_296_500), None]));
    assert_eq!(bring(&ms, &numbers), (vec![Some("2025-03-01T12:14:56.500Z".into()), None], vec![]));
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![20148, i32::MAX]));
    let (values, faults) = bring(&day, &numbers);
    assert_eq!(values, [Some("2025-03-01".into()), None]);
    assert_eq!(faults, [(1, "'2147483647' is not a date of format epoch_days".into())]);
    let time = Column { formats: vec!["epoch_ms".into()], ..column("t", "time") };
    assert!(complaints(&[time])[0].message.contains("does not give a time of day"));
}

#[test]
fn a_contract_is_checked_whole() {
    let broken = |name: &str, format: &str| Column { formats: vec![format.into()], ..column(name, "date") };
    let columns = vec![broken("a", "%Q"), broken("b", "%d"), column("c", "int64")];
    let source = raw(&[("a", &[None]), ("b", &[None]), ("c", &[None])], &[]);
    let e = ConformedSource::new(source, contract(columns), Sensitive::default(), table()).unwrap_err();
    let Error::Pipeline(complaints) = e else { panic!("{e}") };
    assert_eq!(complaints.iter().map(|c| c.place.path[1].as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let source = raw(&[("_line2", &[None])], &[]);
    let e = ConformedSource::new(source, contract(vec![column("_line", "int64")]), Sensitive::default(), table()).unwrap_err();
    assert!(e.to_string().contains("Smelt's own"));
}
