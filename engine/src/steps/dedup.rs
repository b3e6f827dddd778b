//! The step `dedup`: what users write, and its checks. The work is done in `crate::dedup`.

use async_trait::async_trait;
use datafusion::logical_expr::LogicalPlan;

use crate::dedup::{Dedup, Order, Ties, dedup};
use crate::error::{Complaint, Error, Result};
use crate::steps::{Scope, Transform, under};

/// Keeps one row of each key: the first in the given order. Rows that are the same in every column count as one.
///
/// ```yaml
/// - dedup: {keys: [order_id], order_by: [updated_at desc], ties: fail}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DedupStep {
    /// The columns that name a thing, e.g. `[order_id]`. NULL is a key like others.
    pub keys: Vec<String>,
    /// Which row to keep: the first in this order, e.g. `[updated_at desc, version desc]`. Each entry is a column, then
    /// `asc` (the default) or `desc`, then `nulls last` (the default, in both directions) or `nulls first`.
    /// Without it the first row of the first file is kept.
    #[serde(default)]
    pub order_by: Vec<String>,
    /// What to do where different rows are equal in the order: `fail`, `first_in_file` (the default; the report counts
    /// them) or `any` (the same, not counted).
    #[serde(default)]
    pub ties: Ties,
}

#[async_trait]
impl Transform for DedupStep {
    async fn plan(&self, input: LogicalPlan, _scope: &Scope<'_>) -> Result<LogicalPlan> {
        DedupStep::plan(self, input).map_err(|e| under(e, &["dedup"]))
    }
}

impl DedupStep {
    /// Adds the dedup on top of `input`.
    ///
    /// # Errors
    /// `Error::Pipeline` with a complaint for each wrong entry, paths relative to the step's own configuration.
    pub fn plan(&self, input: LogicalPlan) -> Result<LogicalPlan> {
        let mut wrong = vec![];
        let known: Vec<String> = input.schema().fields().iter().map(|f| f.name().clone()).collect();
        let mut check = |column: &str, place: [String; 2]| {
            if !known.iter().any(|k| k == column) {
                wrong.push(unknown(column, &known, place));
            }
        };
        for (i, key) in self.keys.iter().enumerate() {
            check(key, ["keys".into(), i.to_string()]);
        }
        let mut order = vec![];
        let mut unreadable = vec![];
        for (i, text) in self.order_by.iter().enumerate() {
            let place = ["order_by".to_owned(), i.to_string()];
            match parse_order(text, &known) {
                Ok(by) => {
                    check(&by.column, place);
                    order.push(by);
                }
                Err(message) => unreadable.push(
                    Complaint::at(place, message)
                        .help("write a column, then asc or desc, then nulls first or nulls last, e.g. `updated_at desc`"),
                ),
            }
        }
        wrong.append(&mut unreadable);
        if self.keys.is_empty() {
            wrong.push(Complaint::at(["keys"], "dedup needs at least one key column").help("e.g. `keys: [order_id]`"));
        }
        if !wrong.is_empty() {
            return Err(Error::Pipeline(wrong));
        }
        dedup(input, Dedup { keys: self.keys.clone(), order, ties: self.ties })
    }
}

fn unknown(column: &str, known: &[String], place: [String; 2]) -> Complaint {
    let complaint = Complaint::at(place, format!("there is no column {column} here"));
    match known.iter().find(|k| k.eq_ignore_ascii_case(column)) {
        Some(k) => complaint.help(format!("did you mean {k}?")),
        None => complaint
            .help(format!("the columns are {}", known.iter().filter(|k| !k.starts_with('_')).cloned().collect::<Vec<_>>().join(", "))),
    }
}

/// `column [asc|desc] [nulls first|last]`; a column whose name has spaces is taken as it is when nothing follows it.
fn parse_order(text: &str, known: &[String]) -> Result<Order, String> {
    let trimmed = text.trim();
    if known.iter().any(|k| k == trimmed) {
        return Ok(Order { column: trimmed.to_owned(), descending: false, nulls_first: false });
    }
    let mut words: Vec<&str> = trimmed.split_whitespace().collect();
    let mut nulls_first = false;
    if let [.., nulls, place] = words.as_slice()
        && nulls.eq_ignore_ascii_case("nulls")
    {
        nulls_first = match place.to_ascii_lowercase().as_str() {
            "first" => true,
            "last" => false,
            other => return Err(format!("`nulls {other}` is neither `nulls first` nor `nulls last`")),
        };
        words.truncate(words.len() - 2);
    }
    let mut descending = false;
    if words.len() > 1
        && let Some(direction) = words.last()
    {
        match direction.to_ascii_lowercase().as_str() {
            "asc" => descending = false,
            "desc" => descending = true,
            other => return Err(format!("`{other}` is neither asc nor desc")),
        }
        words.pop();
    }
    match words.as_slice() {
        [] => Err("an entry of order_by is empty".into()),
        words => Ok(Order { column: words.join(" "), descending, nulls_first }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::logical_expr::LogicalPlanBuilder;
    use datafusion::logical_expr::logical_plan::builder::LogicalTableSource;
    use std::sync::Arc;

    fn input() -> LogicalPlan {
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("at time", DataType::Int64, true)]);
        LogicalPlanBuilder::scan("t", Arc::new(LogicalTableSource::new(Arc::new(schema))), None).unwrap().build().unwrap()
    }

    fn step(keys: &[&str], order_by: &[&str]) -> DedupStep {
        let own = |v: &[&str]| v.iter().map(|s| s.to_string()).collect();
        DedupStep { keys: own(keys), order_by: own(order_by), ties: Ties::default() }
    }

    #[test]
    fn orders_are_read() {
        let known = ["at time".to_owned()];
        let order = |c: &str, descending, nulls_first| Ok(Order { column: c.into(), descending, nulls_first });
        assert_eq!(parse_order("a", &known), order("a", false, false));
        assert_eq!(parse_order(" a  DESC ", &known), order("a", true, false));
        assert_eq!(parse_order("a desc nulls first", &known), order("a", true, true));
        assert_eq!(parse_order("a nulls last", &known), order("a", false, false));
        assert_eq!(parse_order("at time", &known), order("at time", false, false));
        assert_eq!(parse_order("at time desc", &known), order("at time", true, false));
        assert!(parse_order("a down", &known).is_err());
        assert!(parse_order("a nulls middle", &known).is_err());
        assert!(parse_order("  ", &known).is_err());
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let plan = step(&["ID", "x"], &["y desc", "id down"]).plan(input());
        let Err(Error::Pipeline(wrong)) = plan else { panic!("{plan:?}") };
        let paths: Vec<String> = wrong.iter().map(|c| c.place.path.join(".")).collect();
        assert_eq!(paths, ["keys.0", "keys.1", "order_by.0", "order_by.1"]);
        assert_eq!(wrong[0].help.as_deref(), Some("did you mean id?"));
        assert!(step(&[], &[]).plan(input()).is_err());
        assert!(step(&["id"], &["at time desc nulls first"]).plan(input()).is_ok());
    }
}
