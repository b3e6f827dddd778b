//! What a table is partitioned by: plain columns, or values computed from one, which become columns of their own.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::transform::{TransformFn, result_type};
use crate::error::{Complaint, Error, Place, Result};

/// How the value of a partition comes from its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transform {
    Identity,
    /// The year as Int32.
    Year,
    /// The month as text, `2024-03`.
    Month,
    /// The date.
    Day,
    /// The hour as text, `2024-03-01-17`, UTC.
    Hour,
    /// One of so many buckets, Int32 from 0: Iceberg's bucket transform (Murmur3 x86 32 bits, seed 0).
    Bucket(u32),
    /// Text: the first so many characters. Numbers: rounded down to a multiple of so much. Iceberg's truncate transform.
    Truncate(u32),
}

/// One entry of `partition_by`, e.g. `month(purchased_at)`, `bucket(16, id)`, `truncate(3, zip)` or `city`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionBy {
    pub column: String,
    pub transform: Transform,
}

const HELP: &str = "write a column, or one of year(c), month(c), day(c), hour(c), bucket(16, c), truncate(3, c)";

impl PartitionBy {
    /// Reads an entry as users write it.
    ///
    /// # Errors
    /// A complaint whose place marks the wrong part of `text`.
    pub fn parse(text: &str) -> Result<Self, Complaint> {
        let wrong = |at: usize, len: usize, message: String| {
            let column = text[..at].chars().count() + 1;
            let place = Place { path: vec![], within: Some((1, column, len)) };
            Complaint { place, message, help: Some(HELP.into()) }
        };
        let start = text.len() - text.trim_start().len();
        let body = text.trim();
        if body.is_empty() {
            return Err(wrong(0, text.chars().count(), "an entry of partition_by is empty".into()));
        }
        let Some(open) = body.find('(') else {
            if let Some(close) = body.find(')') {
                return Err(wrong(start + close, 1, "`)` without `(`".into()));
            }
            return Ok(PartitionBy { column: body.to_owned(), transform: Transform::Identity });
        };
        let name = body[..open].trim_end();
        let Some(inside) = body[open + 1..].strip_suffix(')') else {
            return Err(wrong(start + body.len(), 0, format!("`{name}(` is not closed")));
        };
        let inner = start + open + 1;
        // Arguments with where they start, trimmed.
        let mut at = inner;
        let arguments: Vec<(usize, &str)> = inside
            .split(',')
            .map(|a| {
                let here = at + a.len() - a.trim_start().len();
                at += a.len() + 1;
                (here, a.trim())
            })
            .collect();
        let lower = name.to_ascii_lowercase();
        let plain = match lower.as_str() {
            "identity" => Some(Transform::Identity),
            "year" | "years" => Some(Transform::Year),
            "month" | "months" => Some(Transform::Month),
            "day" | "days" | "date" => Some(Transform::Day),
            "hour" | "hours" => Some(Transform::Hour),
            "bucket" | "truncate" => None,
            _ => return Err(wrong(start, name.chars().count(), format!("`{name}` is not a partition transform"))),
        };
        let (transform, (at, column)) = match (plain, arguments.as_slice()) {
            (Some(transform), [column]) => (transform, *column),
            (Some(_), _) => return Err(wrong(inner, inside.chars().count(), format!("{lower} takes one column"))),
            (None, [(at, number), column]) => {
                let n = number.parse::<u32>().ok().filter(|n| *n > 0 && *n <= i32::MAX as u32);
                let Some(n) = n else {
                    return Err(wrong(*at, number.chars().count(), format!("{lower} needs a whole number above zero first")));
                };
                (if lower == "bucket" { Transform::Bucket(n) } else { Transform::Truncate(n) }, *column)
            }
            (None, _) => return Err(wrong(inner, inside.chars().count(), format!("{lower} takes a number and a column"))),
        };
        if column.is_empty() {
            return Err(wrong(at, 0, format!("{lower} needs a column")));
        }
        Ok(PartitionBy { column: column.to_owned(), transform })
    }

    /// The column that holds the partition's value: the column itself, or `<column>_<transform>`.
    pub fn name(&self) -> String {
        let suffix = match self.transform {
            Transform::Identity => return self.column.clone(),
            Transform::Year => "year",
            Transform::Month => "month",
            Transform::Day => "day",
            Transform::Hour => "hour",
            Transform::Bucket(_) => "bucket",
            Transform::Truncate(_) => "truncate",
        };
        format!("{}_{suffix}", self.column)
    }
}

impl fmt::Display for PartitionBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transform {
            Transform::Identity => f.write_str(&self.column),
            Transform::Year => write!(f, "year({})", self.column),
            Transform::Month => write!(f, "month({})", self.column),
            Transform::Day => write!(f, "day({})", self.column),
            Transform::Hour => write!(f, "hour({})", self.column),
            Transform::Bucket(n) => write!(f, "bucket({n}, {})", self.column),
            Transform::Truncate(n) => write!(f, "truncate({n}, {})", self.column),
        }
    }
}

impl<'de> serde::Deserialize<'de> for PartitionBy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        PartitionBy::parse(&text).map_err(|c| {
            let at = c.place.within.map(|(_, column, _)| format!(", at character {column} of `{text}`")).unwrap_or_default();
            serde::de::Error::custom(format!("{}{at}; {HELP}", c.message))
        })
    }
}

impl serde::Serialize for PartitionBy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for PartitionBy {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PartitionBy".into()
    }
    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A column, or a value computed from one: `year(c)`, `month(c)`, `day(c)`, `hour(c)`, `bucket(16, c)`, `truncate(3, c)`. \
                A computed value becomes a column of the table, named `<column>_<transform>`.",
            "pattern": r"^\s*([^()]+|(identity|year|month|day|hour)\s*\([^(),]+\)|(bucket|truncate)\s*\(\s*[0-9]+\s*,[^(),]+\))\s*$",
            "examples": ["city", "month(purchased_at)", "bucket(16, customer_id)"],
        })
    }
}

impl PartitionBy {
    /// The partition values of a column's values.
    pub(crate) fn values(&self, column: &arrow::array::ArrayRef) -> Result<arrow::array::ArrayRef> {
        Ok(super::transform::apply(self.transform, column)?)
    }
}

/// Adds the computed partition columns to `input` and names the partition columns in order.
///
/// # Errors
/// `Error::Pipeline` with a complaint for each entry that names no column, one of a type that the transform does not
/// take, or whose computed name is taken; the path is the entry's index.
pub fn plan_partitions(input: LogicalPlan, by: &[PartitionBy]) -> Result<(LogicalPlan, Vec<String>)> {
    let schema = Arc::clone(input.schema());
    let mut wrong = vec![];
    let mut names: Vec<String> = vec![];
    let mut computed: Vec<Expr> = vec![];
    for (i, entry) in by.iter().enumerate() {
        let name = entry.name();
        let complain = |message: String, help: &str| Complaint::at([i.to_string()], message).help(help);
        match check(entry, &name, &names, &schema) {
            Ok(()) => {}
            Err((message, help)) => {
                wrong.push(complain(message, &help));
                continue;
            }
        }
        if entry.transform != Transform::Identity {
            let function = ScalarUDF::new_from_impl(TransformFn::new(entry.transform));
            let (qualifier, field) = schema.qualified_field_with_unqualified_name(&entry.column)?;
            let column = Expr::Column(datafusion::common::Column::new(qualifier.cloned(), field.name()));
            computed.push(function.call(vec![column]).alias(&name));
        }
        names.push(name);
    }
    if !wrong.is_empty() {
        return Err(Error::Pipeline(wrong));
    }
    if names.len() == schema.fields().len() && computed.is_empty() {
        let c = Complaint::at([(by.len() - 1).to_string()], "every column is a partition column, so the files would hold none");
        return Err(Error::pipeline(c.help("leave at least one column out of partition_by")));
    }
    if computed.is_empty() {
        return Ok((input, names));
    }
    let all = schema.iter().map(|(q, f)| Expr::Column(datafusion::common::Column::new(q.cloned(), f.name()))).chain(computed);
    let all: Vec<Expr> = all.collect();
    Ok((LogicalPlanBuilder::from(input).project(all)?.build()?, names))
}

fn check(entry: &PartitionBy, name: &str, taken: &[String], schema: &DFSchema) -> Result<(), (String, String)> {
    let Ok(field) = schema.field_with_unqualified_name(&entry.column) else {
        let near = schema.fields().iter().find(|f| f.name().eq_ignore_ascii_case(&entry.column));
        let help = match near {
            Some(f) => format!("did you mean {}?", f.name()),
            None => format!("the columns are {}", schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")),
        };
        return Err((format!("there is no column {} to partition by", entry.column), help));
    };
    if taken.iter().any(|t| t == name) {
        return Err((format!("{name} is a partition column already"), "remove one of the two entries".into()));
    }
    if entry.transform == Transform::Identity {
        let t = field.data_type();
        if t.is_nested() || matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_)) {
            return Err((format!("{} is {t}, which has no text to name a folder", entry.column), "partition by another column".into()));
        }
        return Ok(());
    }
    if schema.field_with_unqualified_name(name).is_ok() {
        return Err((format!("{entry} would make a column {name}, which is there already"), "rename that column first".into()));
    }
    match result_type(entry.transform, field.data_type()) {
        Some(_) => Ok(()),
        None => Err((format!("{entry} cannot be computed from {}", field.data_type()), HELP.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str, column: &str, transform: Transform, name: &str) {
        let by = PartitionBy::parse(text).unwrap();
        assert_eq!(by, PartitionBy { column: column.into(), transform });
        assert_eq!(by.name(), name);
        assert_eq!(PartitionBy::parse(&by.to_string()).unwrap(), by);
        assert_eq!(serde_json::from_str::<PartitionBy>(&serde_json::to_string(&by).unwrap()).unwrap(), by);
    }

    #[test]
    fn entries_are_read() {
        ok("city", "city", Transform::Identity, "city");
        ok(" month( purchased_at )", "purchased_at", Transform::Month, "purchased_at_month");
        ok("YEAR(a b)", "a b", Transform::Year, "a b_year");
        ok("bucket(16, id)", "id", Transform::Bucket(16), "id_bucket");
        ok("truncate( 3 ,zip)", "zip", Transform::Truncate(3), "zip_truncate");
        ok("day(d)", "d", Transform::Day, "d_day");
        ok("hour(d)", "d", Transform::Hour, "d_hour");
    }

    #[test]
    fn a_mistake_is_marked_where_it_is() {
        let at = |text: &str| PartitionBy::parse(text).unwrap_err().place.within.unwrap();
        assert_eq!(at("mouth(d)"), (1, 1, 5));
        assert_eq!(at("  bucket(x, id)"), (1, 10, 1));
        assert_eq!(at("bucket(0, id)"), (1, 8, 1));
        assert_eq!(at("bucket(id)"), (1, 8, 2));
        assert_eq!(at("year(a, b)"), (1, 6, 4));
        assert_eq!(at("year(a"), (1, 7, 0));
        assert_eq!(at("a)"), (1, 2, 1));
        assert_eq!(at("year()"), (1, 6, 0));
        assert_eq!(at(" "), (1, 1, 1));
        let e = serde_json::from_str::<PartitionBy>("\"mouth(d)\"").unwrap_err().to_string();
        assert!(e.contains("at character 1 of `mouth(d)`"), "{e}");
    }
}
