//! Change feeds: what the columns of a feed are called, and which operations it has.
//!
//! Knows names only. How a file's records become rows is the formats' affair, and what becomes of changes the table's.

use schemars::JsonSchema;
use serde::Deserialize;
use smelt_engine::contract::{Changes, Column, Contract};
use smelt_engine::error::{Complaint, Error, Result};
use smelt_engine::types::ContractType;

use super::SourceSpec;
use super::json::{Step, parse_path};

/// A feed in files of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowFeed {
    /// AWS DMS: full loads, and changes with their operation (`I`, `U`, `D`) in the first column.
    Dms,
}

/// A feed of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageFeed {
    /// Debezium: `before`, `after`, `op`, `source`, with or without the schema envelope, or flattened with `__op`, `__deleted`.
    Debezium,
}

/// What DMS calls the operation.
const DMS_OP: &str = "Op";
const DMS_OPS: &[&str] = &["I", "U", "D"];
pub(crate) const DEBEZIUM_OPS: &[&str] = &["c", "r", "u", "d", "t"];

impl SourceSpec {
    /// Gives `contract` the columns that the source's change feed adds, where it does not name them itself, and says in it which
    /// of its columns holds the operation. Without a feed nothing happens.
    ///
    /// # Errors
    /// `Error::Pipeline` at `columns.NAME.type` where the operation is no string.
    pub fn feed_columns(&self, contract: &mut Contract) -> Result<()> {
        let changes = match self {
            SourceSpec::Csv(s) if s.feed == Some(RowFeed::Dms) => dms(contract),
            SourceSpec::Parquet(s) if s.feed == Some(RowFeed::Dms) => dms(contract),
            SourceSpec::Json(s) if s.feed == Some(MessageFeed::Debezium) => debezium(contract),
            _ => return Ok(()),
        };
        let op = contract.columns.iter().find(|c| c.name == changes.op);
        if let Some(op) = op.filter(|c| c.ty != ContractType::String) {
            let complaint =
                Complaint::at(["columns", &op.name, "type"], format!("`{}` is the operation of the feed, not {}", op.name, op.ty));
            return Err(Error::pipeline(complaint.help(format!("write `{}: string`, or leave it out: the feed adds it", op.name))));
        }
        contract.changes = Some(changes);
        Ok(())
    }
}

/// The column that holds the operation, by its path or name.
pub(crate) fn is_dms_op(column: &Column) -> bool {
    column.path.as_deref().unwrap_or(&column.name).eq_ignore_ascii_case(DMS_OP)
}

fn dms(contract: &mut Contract) -> Changes {
    let op = match contract.columns.iter().find(|c| is_dms_op(c)) {
        Some(column) => column.name.clone(),
        None => {
            let name = free(contract, "op");
            contract.columns.push(Column { path: Some(DMS_OP.into()), ..Column::new(&name, ContractType::String) });
            name
        }
    };
    Changes { op, known: DMS_OPS, partial: &["D"], default: Some("I") }
}

fn debezium(contract: &mut Contract) -> Changes {
    let op = envelope_column(contract, "op", ContractType::String);
    envelope_column(contract, "ts_ms", ContractType::Int64);
    Changes { op, known: DEBEZIUM_OPS, partial: &["d", "t"], default: None }
}

/// The column of that field of the envelope: one with its path, else one of its name without a path, else a new one.
fn envelope_column(contract: &mut Contract, field: &str, ty: ContractType) -> String {
    let is_field = |c: &Column| c.path.as_deref().and_then(envelope_path).is_some_and(|steps| steps == [Step::Key(field.into())]);
    if let Some(column) = contract.columns.iter().find(|c| is_field(c)) {
        return column.name.clone();
    }
    let path = Some(format!("$.{field}"));
    if let Some(column) = contract.columns.iter_mut().find(|c| c.name == field && c.path.is_none()) {
        column.path = path;
        return column.name.clone();
    }
    let name = free(contract, field);
    contract.columns.push(Column { path, ..Column::new(&name, ty) });
    name
}

/// The steps of a path that begins at the envelope: `$.source.lsn`.
pub(crate) fn envelope_path(path: &str) -> Option<Vec<Step>> {
    if path.starts_with("$.") || path.starts_with("$[") { parse_path(path).ok() } else { None }
}

/// `name`, or `feed_name` where the contract has another column of that name.
fn free(contract: &Contract, name: &str) -> String {
    let taken = |name: &str| contract.columns.iter().any(|c| c.name.eq_ignore_ascii_case(name));
    let mut free = name.to_owned();
    while taken(&free) {
        free = format!("feed_{free}");
    }
    free
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod scans;

#[cfg(test)]
mod tests {
    use super::*;

    fn widened(source: &str, columns: Vec<Column>) -> (Vec<String>, Changes) {
        let spec: SourceSpec = serde_json::from_str(source).unwrap();
        let mut contract = Contract { columns, ..Contract::default() };
        spec.feed_columns(&mut contract).unwrap();
        // A contract that is widened already stays as it is.
        let before = contract.clone();
        spec.feed_columns(&mut contract).unwrap();
        assert_eq!(contract, before);
        let shown = contract.columns.iter().map(|c| match &c.path {
            Some(path) => format!("{}:{}@{path}", c.name, c.ty),
            None => format!("{}:{}", c.name, c.ty),
        });
        (shown.collect(), contract.changes.unwrap())
    }

    fn text(name: &str, path: Option<&str>) -> Column {
        Column { path: path.map(Into::into), ..Column::new(name, ContractType::String) }
    }

    #[test]
    fn dms_adds_the_operation_unless_it_is_declared() {
        let csv = r#"{"csv": {"path": "a", "feed": "dms"}}"#;
        let (columns, changes) = widened(csv, vec![text("id", None)]);
        assert_eq!((columns, changes.op.as_str()), (vec!["id:string".into(), "op:string@Op".into()], "op"));
        let (columns, changes) =
            widened(r#"{"parquet": {"path": "a", "feed": "dms"}}"#, vec![text("change", Some("Op")), text("op2", None)]);
        assert_eq!((columns.len(), changes.op.as_str()), (2, "change"));
        let (columns, changes) = widened(csv, vec![text("op", Some("kind"))]);
        assert_eq!((columns[1].as_str(), changes.op.as_str()), ("feed_op:string@Op", "feed_op"));
    }

    #[test]
    fn debezium_adds_operation_and_time_unless_they_are_declared() {
        let json = r#"{"json": {"path": "a", "feed": "debezium"}}"#;
        let (columns, changes) = widened(json, vec![text("id", None)]);
        assert_eq!(columns, ["id:string", "op:string@$.op", "ts_ms:int64@$.ts_ms"]);
        assert_eq!(changes.partial, ["d", "t"]);
        // A column of that name means the envelope's, unless another column is the envelope's already, or it has a path.
        let (columns, _) = widened(json, vec![text("op", None), text("at", Some("$.ts_ms"))]);
        assert_eq!(columns, ["op:string@$.op", "at:string@$.ts_ms"]);
        let (columns, changes) = widened(json, vec![text("op", None), text("change", Some("$.op")), text("ts_ms", Some("ts_ms"))]);
        assert_eq!(columns, ["op:string", "change:string@$.op", "ts_ms:string@ts_ms", "feed_ts_ms:int64@$.ts_ms"]);
        assert_eq!(changes.op, "change");
    }

    #[test]
    fn the_operation_is_a_string_and_other_sources_are_left_alone() {
        let spec = |json: &str| serde_json::from_str::<SourceSpec>(json).unwrap();
        let mut contract = Contract { columns: vec![Column::new("Op", ContractType::Int64)], ..Contract::default() };
        let before = contract.clone();
        spec(r#"{"csv": {"path": "a"}}"#).feed_columns(&mut contract).unwrap();
        assert_eq!(contract, before);
        let e = spec(r#"{"csv": {"path": "a", "feed": "dms"}}"#).feed_columns(&mut contract).unwrap_err();
        let Error::Pipeline(complaints) = e else { panic!("{e}") };
        assert_eq!(complaints[0].place.path, ["columns", "Op", "type"]);
    }
}
