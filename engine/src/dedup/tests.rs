//! Dedup against a naive model: random rows, cuts, partitions and pools.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::{ExecutionPlan, collect};
use proptest::prelude::*;

use super::*;
use crate::ledger::Ledger;
use crate::session::Resources;

/// (number, text, time, other order, value, file, line)
type Row = (Option<i64>, Option<String>, Option<i64>, Option<String>, String, String, i64);

fn batch(rows: &[Row]) -> RecordBatch {
    let texts = |f: &dyn Fn(&Row) -> Option<String>| Arc::new(StringViewArray::from_iter(rows.iter().map(f))) as ArrayRef;
    let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter(rows.iter().map(|r| r.2)).with_timezone("UTC"));
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.0))) as ArrayRef, true),
        ("name", texts(&|r| r.1.clone()), true),
        ("at", time, true),
        ("rank", texts(&|r| r.3.clone()), true),
        ("value", texts(&|r| Some(r.4.clone())), true),
        ("_file", texts(&|r| Some(r.5.clone())), true),
        ("_line", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.6))), true),
    ])
    .unwrap()
}

fn by(keys: &[&str], order: &[(&str, bool, bool)], ties: Ties) -> Dedup {
    let order = order.iter().map(|(c, descending, nulls_first)| Order {
        column: c.to_string(),
        descending: *descending,
        nulls_first: *nulls_first,
    });
    Dedup { keys: keys.iter().map(|k| k.to_string()).collect(), order: order.collect(), ties }
}

struct Outcome {
    rows: Vec<RecordBatch>,
    removed: u64,
    ties: u64,
    spills: usize,
}

async fn run(partitions: Vec<Vec<RecordBatch>>, by: Dedup, memory: usize) -> crate::Result<Outcome> {
    let ledger = Arc::new(Ledger::default());
    let ctx = Resources::new(memory, 2, None)?.session(Arc::clone(&ledger));
    let table = MemTable::try_new(partitions[0][0].schema(), partitions)?;
    let input = ctx.read_table(Arc::new(table))?.into_unoptimized_plan();
    let plan = DataFrame::new(ctx.state(), dedup(input, by)?).create_physical_plan().await?;
    let rows = collect(Arc::clone(&plan), ctx.task_ctx()).await?;
    let mut spills = 0;
    visit(&plan, &mut |p| {
        if p.name() == "DedupExec" {
            spills += p.metrics().and_then(|m| m.spill_count()).unwrap_or(0);
        }
    });
    assert_eq!(ctx.runtime_env().memory_pool.reserved(), 0, "all memory is given back");
    Ok(Outcome { rows, removed: Ledger::get(&ledger.deduplicated), ties: Ledger::get(&ledger.ties), spills })
}

fn visit(plan: &Arc<dyn ExecutionPlan>, f: &mut impl FnMut(&Arc<dyn ExecutionPlan>)) {
    f(plan);
    plan.children().into_iter().for_each(|c| visit(c, f));
}

fn rows(batches: &[RecordBatch]) -> Vec<Row> {
    let mut out = vec![];
    for b in batches {
        let text = |c: usize, i: usize| b.column(c).is_valid(i).then(|| b.column(c).as_string_view().value(i).to_owned());
        let time = b.column(2).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
        let number = |c: usize, i: usize| b.column(c).is_valid(i).then(|| b.column(c).as_primitive::<Int64Type>().value(i));
        for i in 0..b.num_rows() {
            let at = time.is_valid(i).then(|| time.value(i));
            out.push((number(0, i), text(1, i), at, text(3, i), text(4, i).unwrap(), text(5, i).unwrap(), number(6, i).unwrap()));
        }
    }
    out.sort();
    out
}

/// What dedup must give, by brute force: kept rows, and keys that a tie decided.
fn model(all: &[Row], by: &Dedup) -> (Vec<Row>, u64) {
    fn cell(row: &Row, column: &str) -> Option<String> {
        match column {
            "id" => row.0.map(|v| format!("{:020}", v + 1_000_000)),
            "name" => row.1.clone(),
            "at" => row.2.map(|v| format!("{:020}", v + 1_000_000)),
            _ => row.3.clone(),
        }
    }
    let order = |a: &Row, b: &Row| {
        by.order.iter().fold(std::cmp::Ordering::Equal, |so_far, o| {
            so_far.then_with(|| match (cell(a, &o.column), cell(b, &o.column)) {
                (None, None) => std::cmp::Ordering::Equal,
                (None, _) => {
                    if o.nulls_first {
                        std::cmp::Ordering::Less
                    } else {
                        std::cmp::Ordering::Greater
                    }
                }
                (_, None) => {
                    if o.nulls_first {
                        std::cmp::Ordering::Greater
                    } else {
                        std::cmp::Ordering::Less
                    }
                }
                (Some(a), Some(b)) => {
                    if o.descending {
                        b.cmp(&a)
                    } else {
                        a.cmp(&b)
                    }
                }
            })
        })
    };
    let mut keys: BTreeMap<Vec<Option<String>>, Vec<&Row>> = BTreeMap::new();
    for row in all {
        keys.entry(by.keys.iter().map(|k| cell(row, k)).collect()).or_default().push(row);
    }
    let mut ties = 0;
    let mut kept = vec![];
    for rows in keys.values() {
        let best = rows.iter().copied().min_by(|a, b| order(a, b).then_with(|| (&a.5, a.6).cmp(&(&b.5, b.6)))).unwrap();
        let seen = |r: &Row| (r.0, r.1.clone(), r.2, r.3.clone(), r.4.clone());
        ties += u64::from(rows.iter().any(|r| order(r, best).is_eq() && seen(r) != seen(best)));
        kept.push(best.clone());
    }
    kept.sort();
    (kept, if by.ties == Ties::FirstInFile && !by.order.is_empty() { ties } else { 0 })
}

fn a_row() -> impl Strategy<Value = Row> {
    let text = prop_oneof![Just(None), "[ab]{0,2}".prop_map(Some), "[ab]a text longer than twelve bytes".prop_map(Some)];
    let id = prop_oneof![1 => Just(None), 9 => (-4i64..12).prop_map(Some)];
    let at = prop_oneof![1 => Just(None), 4 => (-2i64..3).prop_map(Some)];
    (id, text.clone(), at, text, "[xy] a value that lies outside the view", "[fg]")
        .prop_map(|(id, name, at, rank, value, file)| (id, name, at, rank, value, file, 0))
}

fn cases() -> Vec<Dedup> {
    vec![
        by(&["id"], &[("at", true, false)], Ties::FirstInFile),
        by(&["id"], &[("at", false, true)], Ties::Any),
        by(&["name"], &[("at", true, true)], Ties::FirstInFile),
        by(&["name"], &[("rank", true, false), ("at", false, false)], Ties::FirstInFile),
        by(&["id", "name"], &[("rank", false, true)], Ties::FirstInFile),
        by(&["id"], &[], Ties::FirstInFile),
        by(&["at", "rank"], &[("id", true, false)], Ties::Any),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..Default::default() })]
    #[test]
    fn agrees_with_the_model(
        mut all in prop::collection::vec(a_row(), 1..120),
        cuts in prop::collection::vec(1usize..40, 1..12),
        case in 0usize..7,
        partitions in 1usize..4,
        memory in prop_oneof![Just(50_000_000usize), Just(6_000), Just(1)],
    ) {
        for (i, row) in all.iter_mut().enumerate() {
            row.6 = i as i64;
        }
        let by = cases().swap_remove(case);
        let (kept, ties) = model(&all, &by);
        let mut input = vec![vec![]; partitions];
        let mut rest = all.as_slice();
        for i in 0.. {
            let (now, later) = rest.split_at(cuts[i % cuts.len()].min(rest.len()));
            input[i % partitions].push(batch(now));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        for p in &mut input {
            if p.is_empty() {
                p.push(batch(&[]));
            }
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let got = runtime.block_on(run(input, by, memory)).unwrap();
        prop_assert_eq!(rows(&got.rows), kept.clone());
        prop_assert_eq!(got.removed as usize, all.len() - kept.len());
        prop_assert_eq!(got.ties, ties);
    }
}

fn plain(id: i64, at: i64, value: &str, line: i64) -> Row {
    (Some(id), None, Some(at), None, value.into(), "f".into(), line)
}

#[tokio::test]
async fn ties_can_fail_without_a_value_in_the_message() {
    let input = [plain(1, 5, "secret a", 1), plain(1, 5, "secret b", 2), plain(2, 1, "x", 3)];
    let e = run(vec![vec![batch(&input)]], by(&["id"], &[("at", true, false)], Ties::Fail), 1 << 20).await.err().unwrap();
    assert!(matches!(e, Error::Data { .. }), "{e:?}");
    assert_eq!(e.to_string(), "dedup: at least 1 keys have different rows that are equal in (id) and order (at)");
}

#[tokio::test]
async fn a_tie_among_beaten_rows_and_exact_duplicates_do_not_fail() {
    let input =
        [plain(1, 5, "a", 1), plain(1, 5, "b", 2), plain(1, 6, "c", 3), plain(1, 6, "c", 4), plain(2, 0, "d", 5), plain(2, 0, "d", 6)];
    let got = run(vec![vec![batch(&input)]], by(&["id"], &[("at", true, false)], Ties::Fail), 1 << 20).await.unwrap();
    assert_eq!(rows(&got.rows), [plain(1, 6, "c", 3), plain(2, 0, "d", 5)]);
    assert_eq!((got.removed, got.ties), (4, 0));
}

#[tokio::test]
async fn an_input_ten_times_the_pool_finishes() {
    let (n, keys) = (120_000i64, 90_000);
    let make = |from: i64| {
        let rows: Vec<Row> = (from..from + 4000).map(|i| plain(i * 7919 % keys, i, &format!("{i:0>300}"), i)).collect();
        batch(&rows)
    };
    let partition = |p: i64| (0..n / 8000).map(|i| make((i * 2 + p) * 4000)).collect::<Vec<_>>();
    let input = vec![partition(0), partition(1)];
    let bytes: usize = input.iter().flatten().map(|b| b.get_array_memory_size()).sum();
    let memory = bytes / 10;
    let got = run(input, by(&["id"], &[("at", true, false)], Ties::Fail), memory).await.unwrap();
    assert!(got.spills > 0, "a pool of {memory} for {bytes} bytes must spill");
    let rows = rows(&got.rows);
    assert_eq!(rows.len() as i64, keys);
    assert_eq!(got.removed as i64, n - keys);
    // The newest row of key k is the last i with i * 7919 = k modulo the number of keys.
    let mut newest = vec![0; keys as usize];
    (0..n).for_each(|i| newest[(i * 7919 % keys) as usize] = i);
    assert!(rows.iter().all(|r| newest[r.0.unwrap() as usize] == r.2.unwrap()));
}

#[tokio::test]
async fn beaten_rows_do_not_pile_up() {
    // One million rows of ten keys in a pool that holds a few thousand, without a spill.
    let make = |from: i64| batch(&(from..from + 5000).map(|i| plain(i % 10, i, &format!("{i:0>300}"), i)).collect::<Vec<_>>());
    let input = (0..200).map(|i| make(i * 5000)).collect();
    let got = run(vec![input], by(&["id"], &[("at", true, false)], Ties::Fail), 40 << 20).await.unwrap();
    assert_eq!((got.spills, got.removed), (0, 999_990));
    assert_eq!(rows(&got.rows).iter().map(|r| r.2.unwrap()).collect::<Vec<_>>(), (999_990..1_000_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn output_comes_in_batches_of_the_session() {
    let make = |from: i64| batch(&(from..from + 1000).map(|i| plain(i, i, "v", i)).collect::<Vec<_>>());
    // in a small pool the session's batches are smaller
    let got = run(vec![(0..40).map(|i| make(i * 1000)).collect()], by(&["id"], &[], Ties::Any), 1 << 30).await.unwrap();
    assert!(got.rows.iter().all(|b| b.num_rows() <= 8192));
    assert!(got.rows.len() <= 12, "{} batches for 40,000 rows", got.rows.len());
}
