//! Routing by flags: what leaves, what passes, what is counted, and what a quarantined record shows.

use arrow::array::{Int64Array, StringViewArray};
use arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use datafusion::prelude::{DataFrame, SessionContext, col, lit};
use parking_lot::Mutex;

use super::*;
use crate::ledger::RejectSink;
use crate::session::Resources;

#[derive(Debug, Default)]
struct Rejects(Mutex<Vec<RecordBatch>>);

#[async_trait::async_trait]
impl RejectSink for Rejects {
    async fn push(&self, rows: RecordBatch) -> Result<()> {
        self.0.lock().push(rows);
        Ok(())
    }
}

fn rule(column: &str, flag: &str, action: Action) -> Rule {
    Rule { column: column.into(), rule: "test".into(), message: format!("{column} is off"), flag: flag.into(), action }
}

fn session() -> (SessionContext, Arc<Ledger>, Arc<Rejects>) {
    let (ledger, rejects) = (Arc::new(Ledger::default()), Arc::new(Rejects::default()));
    ledger.set_sink(Arc::clone(&rejects) as _);
    ledger.set_batch("b7");
    ledger.set_table("silver.t");
    let ctx = Resources::new(64 << 20, 1, None).unwrap().session(Arc::clone(&ledger));
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8View, true),
        Field::new("_file", DataType::Utf8View, true),
        Field::new("_line", DataType::Int64, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(4)])),
        Arc::new(StringViewArray::from(vec![Some("Ana"), None, Some("Carla \"C\""), Some("Diego")])),
        Arc::new(StringViewArray::from(vec!["a.csv"; 4])),
        Arc::new(Int64Array::from(vec![2, 3, 4, 5])),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    ctx.register_table("t", Arc::new(MemTable::try_new(schema, vec![vec![batch]]).unwrap())).unwrap();
    (ctx, ledger, rejects)
}

/// The table `t`, flagged and routed.
async fn routed(ctx: &SessionContext, flags: Vec<Expr>, rules: Vec<Rule>, sensitive: Sensitive) -> DataFrame {
    let mut columns: Vec<Expr> = ["id", "name", "_file", "_line"].map(col).to_vec();
    columns.extend(flags);
    let plan = ctx.table("t").await.unwrap().select(columns).unwrap().into_unoptimized_plan();
    DataFrame::new(ctx.state(), route(plan, rules, sensitive, "checks"))
}

fn cells(batches: &[RecordBatch]) -> Vec<String> {
    let row = |b: &RecordBatch, r: usize| b.columns().iter().map(|c| array_value_to_string(c, r).unwrap()).collect::<Vec<_>>().join("|");
    batches.iter().flat_map(|b| (0..b.num_rows()).map(move |r| row(b, r))).collect()
}

#[tokio::test]
async fn broken_rows_leave_with_their_record_and_null_flags_do_not_count() {
    let (ctx, ledger, rejects) = session();
    let flags = vec![col("id").gt(lit(3)).alias("_f1"), col("name").is_null().alias("_f2"), col("id").eq(lit(4)).alias("_f3")];
    let rules = vec![rule("id", "_f1", Action::Quarantine), rule("name", "_f2", Action::Quarantine), rule("id", "_f3", Action::Warn)];
    let frame = routed(&ctx, flags, rules, Sensitive::default()).await;
    assert_eq!(frame.schema().field_names(), ["t.id", "t.name", "t._file", "t._line"]);
    // Only `name` is asked for; the quarantined record is whole.
    let out = frame.select_columns(&["name"]).unwrap().collect().await.unwrap();
    assert_eq!(cells(&out), ["Ana", "Carla \"C\""]);
    assert_eq!(
        cells(&rejects.0.lock()),
        [
            "silver.t|b7|a.csv|3||checks|[{column: name, rule: test, message: name is off}]|{\"id\":2,\"name\":null}",
            "silver.t|b7|a.csv|5||checks|[{column: id, rule: test, message: id is off}, {column: id, rule: test, message: id is off}]|\
             {\"id\":4,\"name\":\"Diego\"}",
        ]
    );
    assert_eq!(Ledger::get(&ledger.quarantined), 2);
    assert_eq!(ledger.rules().get(&("name".into(), "test".into())), Some(&1));
    assert_eq!(ledger.warnings().get("id test: id is off"), Some(&1));
    assert!(ledger.failures().is_empty());
}

#[tokio::test]
async fn failing_rules_are_counted_and_rows_pass() {
    let (ctx, ledger, rejects) = session();
    let flags = vec![col("id").lt_eq(lit(2)).alias("_f1")];
    let frame = routed(&ctx, flags, vec![rule("", "_f1", Action::Fail)], Sensitive::default()).await;
    assert_eq!(frame.collect().await.unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(), 4);
    assert_eq!(ledger.failures().get("test:  is off"), Some(&2));
    assert!(rejects.0.lock().is_empty());
}

#[tokio::test]
async fn sensitive_columns_are_scrubbed_in_the_record() {
    let (ctx, _, rejects) = session();
    let flags = vec![lit(true).alias("_f1")];
    let sensitive = Sensitive { columns: [("name".to_owned(), None)].into() };
    let frame = routed(&ctx, flags, vec![rule("id", "_f1", Action::Quarantine)], sensitive).await;
    assert!(cells(&frame.collect().await.unwrap()).is_empty());
    let text = cells(&rejects.0.lock()).join("\n");
    for name in ["Ana", "Carla", "Diego"] {
        assert!(!text.contains(name), "{text}");
    }
    assert!(text.contains("{\"id\":null,\"name\":\"xxxxx \\\"x\\\"\"}"), "{text}");
}

#[tokio::test]
async fn predicates_do_not_move_below_and_limits_do_not_either() {
    let (ctx, ledger, _) = session();
    let flags = vec![col("name").is_null().alias("_f1")];
    let frame = routed(&ctx, flags, vec![rule("name", "_f1", Action::Quarantine)], Sensitive::default()).await;
    let out = frame.filter(col("id").eq(lit(1))).unwrap().limit(0, Some(1)).unwrap().collect().await.unwrap();
    assert_eq!(cells(&out), ["1|Ana|a.csv|2"]);
    assert_eq!(Ledger::get(&ledger.quarantined), 1);
}

#[test]
fn a_rule_without_its_flag_is_our_mistake() {
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, true)]);
    let e = Router::try_new(&schema, vec![rule("id", "_f1", Action::Warn)], Sensitive::default(), "checks", None).unwrap_err();
    assert!(matches!(e, Error::Bug(_)));
}
