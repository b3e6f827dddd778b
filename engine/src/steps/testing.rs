//! Small sessions and tables for the tests of steps and checks.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionContext};

use super::*;
use crate::keys::Secret;
use crate::ledger::Ledger;
use crate::session::Resources;

/// A session with `silver.cities(name, city)` in its lake.
pub fn session() -> SessionContext {
    let session = Resources::new(64 << 20, 1, None).unwrap().session(Arc::new(Ledger::default()));
    let silver = MemorySchemaProvider::new();
    let cities = table(&[("name", text(&[Some("ann"), Some("ann2")])), ("city", text(&[Some("Rome"), Some("Oslo")]))]);
    silver.register_table("cities".into(), cities).unwrap();
    session.catalog("lake").unwrap().register_schema("silver", Arc::new(silver)).unwrap();
    session
}

pub fn text(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringViewArray::from_iter(values.iter().copied()))
}

pub fn ints(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

pub fn table(columns: &[(&str, ArrayRef)]) -> Arc<MemTable> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(n, a)| (*n, Arc::clone(a), true))).unwrap();
    Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap())
}

/// A plan over columns given.
pub fn rows(session: &SessionContext, columns: &[(&str, ArrayRef)]) -> LogicalPlan {
    session.read_table(table(columns)).unwrap().into_unoptimized_plan()
}

/// A plan over one text column.
pub fn frame(session: &SessionContext, name: &str, values: &[Option<&str>]) -> LogicalPlan {
    expression::unqualified(rows(session, &[(name, text(values))])).unwrap()
}

/// name, price, _file, _line: four rows, the third NULL in both values.
pub fn source(session: &SessionContext) -> LogicalPlan {
    let columns = [
        ("name", text(&[Some("ann"), Some(" Bob "), None, Some("cy")])),
        ("price", ints(&[Some(1), Some(2), None, Some(4)])),
        ("_file", text(&[Some("f"); 4])),
        ("_line", ints(&[Some(1), Some(2), Some(3), Some(4)])),
    ];
    expression::unqualified(rows(session, &columns)).unwrap()
}

pub fn keys() -> &'static Keys {
    static KEYS: std::sync::LazyLock<Keys> = std::sync::LazyLock::new(|| {
        Keys(BTreeMap::from([("pii".to_owned(), Secret::new("key")), ("other".to_owned(), Secret::new("yek"))]))
    });
    &KEYS
}

pub fn scope(session: &SessionContext) -> Scope<'_> {
    Scope { session, keys: keys(), now: DateTime::from_timestamp(1_700_000_000, 0).unwrap(), step: 0, route: None }
}

pub fn steps(json: &str) -> Vec<Step> {
    serde_json::from_str(json).unwrap()
}

/// Header and rows, as CSV without quoting; NULL is empty.
pub async fn csv(session: &SessionContext, plan: LogicalPlan) -> Result<String> {
    let batches = DataFrame::new(session.state(), plan.clone()).collect().await?;
    let mut out = plan.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(",");
    out.push('\n');
    let options = FormatOptions::default();
    for batch in batches {
        let columns: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = columns.iter().map(|c| c.value(row).to_string()).collect();
            out.push_str(&cells.join(","));
            out.push('\n');
        }
    }
    Ok(out)
}

pub async fn plan(json: &str) -> Result<Planned> {
    let session = session();
    plan_steps(&steps(json), source(&session), &scope(&session)).await
}

/// The steps over `source`, with the ledger's tallies.
pub async fn run_counted(json: &str) -> Result<(String, BTreeMap<String, u64>)> {
    let session = session();
    let planned = plan_steps(&steps(json), source(&session), &scope(&session)).await?;
    let out = csv(&session, planned.plan).await?;
    let ledger = session.copied_config().get_extension::<Ledger>().unwrap();
    Ok((out, ledger.tallies()))
}

pub async fn run(json: &str) -> Result<String> {
    Ok(run_counted(json).await?.0)
}

/// The steps over columns of one's own.
pub async fn run_over(json: &str, columns: &[(&str, ArrayRef)]) -> Result<String> {
    let session = session();
    let planned = plan_steps(&steps(json), rows(&session, columns), &scope(&session)).await?;
    csv(&session, planned.plan).await
}

pub async fn complaints(json: &str) -> Vec<Complaint> {
    match plan(json).await {
        Err(Error::Pipeline(found)) => found,
        other => panic!("no complaints but {other:?}"),
    }
}
