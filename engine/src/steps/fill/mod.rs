//! `fill`: imputation, values where there are none.

mod operator;
mod statistics;

use std::borrow::Cow;
use std::fmt;

use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use datafusion::common::ScalarValue;
use datafusion::functions::expr_fn::coalesce;
use datafusion::functions_window::nth_value::last_value_udwf;
use datafusion::logical_expr::expr::{NullTreatment, Sort, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::checks::constant;
use crate::error::{Complaint, Result};
use crate::steps::config::Entries;
use crate::steps::expression::{column, field, in_words, is_hidden};
use crate::steps::{Scope, Transform, verdict};

pub(crate) use operator::plan_operator;
use statistics::Statistic;

/// Fills NULLs, column by column: with a constant, with a statistic of the batch's values, or with the value of the row before.
/// A constant must fit the column's type. All columns are filled from the values as they were before the step.
///
/// ```yaml
/// - fill:
///     score: 0
///     city: {mode: true}                # the most frequent value; of several, the smallest
///     price: {mean: true}               # rounded to the column's type
///     weight: {median: true}
///     reading: {previous: {order_by: [read_at], partition_by: [sensor]}}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Fill(pub Entries<With>);

/// What fills a column.
#[derive(Debug, Clone, PartialEq)]
pub enum With {
    Constant(String),
    Statistic(Statistic),
    Previous(Previous),
}

/// The last value that is not NULL, in the order given, among the rows of the same partition.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    /// Columns, each with `asc` (the default) or `desc` behind it.
    pub order_by: Vec<String>,
    /// Rows with other values here are not looked at.
    #[serde(default)]
    pub partition_by: Vec<String>,
}

#[async_trait]
impl Transform for Fill {
    async fn plan(&self, input: LogicalPlan, _scope: &Scope<'_>) -> Result<LogicalPlan> {
        let schema = input.schema();
        let mut complaints = vec![];
        let mut replaced: Vec<(&str, Expr)> = vec![];
        let mut windows: Vec<Expr> = vec![];
        let mut statistics: Vec<(String, Statistic)> = vec![];
        for (name, with) in self.0.iter() {
            let path = ["fill", name];
            let f = match field(schema, name, &path) {
                Ok(_) if is_hidden(name) => {
                    complaints.push(Complaint::at(path, format!("`{name}` is Smelt's own column and cannot be filled")));
                    continue;
                }
                Ok(f) => f,
                Err(complaint) => {
                    complaints.push(complaint);
                    continue;
                }
            };
            match with {
                With::Constant(text) => match constant(text, f, &path) {
                    Ok(value) => replaced.push((name, coalesce(vec![column(name), value]))),
                    Err(complaint) => complaints.push(complaint),
                },
                With::Statistic(statistic) if statistic.fits(f.data_type()) => statistics.push((name.to_owned(), *statistic)),
                With::Statistic(statistic) => complaints.push(wrong_type(f, *statistic)),
                With::Previous(previous) => {
                    let (window, found) = previous.window(name, schema);
                    complaints.extend(found);
                    replaced.push((name, column(&window.schema_name().to_string())));
                    windows.push(window);
                }
            }
        }
        verdict(complaints)?;
        let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let mut plan = input;
        if !statistics.is_empty() {
            plan = operator::fill(plan, statistics);
        }
        if replaced.is_empty() {
            return Ok(plan);
        }
        if !windows.is_empty() {
            plan = LogicalPlanBuilder::window_plan(plan, windows)?;
        }
        let out = names.iter().map(|name| match replaced.iter().find(|(n, _)| n == name) {
            Some((_, expr)) => expr.clone().alias(name),
            None => column(name),
        });
        Ok(LogicalPlanBuilder::from(plan).project(out.collect::<Vec<_>>())?.build()?)
    }
}

fn wrong_type(f: &Field, statistic: Statistic) -> Complaint {
    let (key, wants) = match statistic {
        Statistic::Mean => ("mean", "numbers, dates and timestamps"),
        Statistic::Median => ("median", "numbers, dates and timestamps"),
        Statistic::Mode => ("mode", "values that are not nested"),
    };
    let message = format!("`{}` is of type {}, and {key} takes {wants}", f.name(), in_words(f.data_type()));
    Complaint::at(["fill", f.name(), key], message).help("fill it with a constant, or with {mode: true}")
}

impl Previous {
    /// The last value not NULL up to this row, and what is wrong with the columns named.
    fn window(&self, name: &str, schema: &datafusion::common::DFSchema) -> (Expr, Vec<Complaint>) {
        let mut found = vec![];
        if self.order_by.is_empty() {
            let complaint = Complaint::at(["fill", name, "previous", "order_by"], "without an order there is no previous row");
            found.push(complaint.help("name the columns that order the rows"));
        }
        let mut order_by = vec![];
        for (i, text) in self.order_by.iter().enumerate() {
            let i = i.to_string();
            let path = ["fill", name, "previous", "order_by", &i];
            let (by, descending) = match text.trim().rsplit_once(char::is_whitespace) {
                Some((by, way)) if way.eq_ignore_ascii_case("desc") => (by.trim_end(), true),
                Some((by, way)) if way.eq_ignore_ascii_case("asc") => (by.trim_end(), false),
                _ => (text.trim(), false),
            };
            found.extend(field(schema, by, &path).err());
            order_by.push(Sort::new(column(by), !descending, false));
        }
        for (i, by) in self.partition_by.iter().enumerate() {
            found.extend(field(schema, by, &["fill", name, "previous", "partition_by", &i.to_string()]).err());
        }
        let so_far = WindowFrame::new_bounds(
            WindowFrameUnits::Rows,
            WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
            WindowFrameBound::CurrentRow,
        );
        let window = Expr::from(WindowFunction {
            fun: WindowFunctionDefinition::WindowUDF(last_value_udwf()),
            params: WindowFunctionParams {
                args: vec![column(name)],
                partition_by: self.partition_by.iter().map(|n| column(n)).collect(),
                order_by,
                window_frame: so_far,
                filter: None,
                null_treatment: Some(NullTreatment::IgnoreNulls),
                distinct: false,
            },
        });
        (window, found)
    }
}

impl<'de> Deserialize<'de> for With {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            #[serde(default)]
            mode: bool,
            #[serde(default)]
            mean: bool,
            #[serde(default)]
            median: bool,
            previous: Option<Previous>,
        }
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = With;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a constant, or one of `mode: true`, `mean: true`, `median: true`, `previous`")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<With, E> {
                Ok(With::Constant(text.to_owned()))
            }
            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<With, E> {
                Ok(With::Constant(value.to_string()))
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<With, E> {
                Ok(With::Constant(value.to_string()))
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<With, E> {
                Ok(With::Constant(value.to_string()))
            }
            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<With, E> {
                Ok(With::Constant(value.to_string()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<With, A::Error> {
                let long = Long::deserialize(MapAccessDeserializer::new(map))?;
                match (long.mode, long.mean, long.median, long.previous) {
                    (true, false, false, None) => Ok(With::Statistic(Statistic::Mode)),
                    (false, true, false, None) => Ok(With::Statistic(Statistic::Mean)),
                    (false, false, true, None) => Ok(With::Statistic(Statistic::Median)),
                    (false, false, false, Some(previous)) => Ok(With::Previous(previous)),
                    _ => Err(A::Error::custom("give one of `mode: true`, `mean: true`, `median: true`, `previous`")),
                }
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl JsonSchema for With {
    fn schema_name() -> Cow<'static, str> {
        "FillWith".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let previous = generator.subschema_for::<Previous>();
        json_schema!({
            "description": "A constant; or the most frequent value, the mean or the median of the batch; or the value of the row before.",
            "anyOf": [{"type": ["string", "number", "boolean"]}, {
                "type": "object",
                "properties": {"mode": {"const": true}, "mean": {"const": true}, "median": {"const": true}, "previous": previous},
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": false,
            }],
        })
    }
}

impl Statistic {
    fn fits(self, ty: &DataType) -> bool {
        match self {
            Statistic::Mode => !ty.is_nested(),
            _ => statistics::is_number(ty),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal128Array};

    use crate::steps::testing::*;

    #[tokio::test]
    async fn constants_of_the_columns_type() {
        let out = run(r#"[{"fill": {"name": "nobody", "price": -1}}]"#).await.unwrap();
        assert_eq!(out, "name,price,_file,_line\nann,1,f,1\n Bob ,2,f,2\nnobody,-1,f,3\ncy,4,f,4\n");
        let found = complaints(r#"[{"fill": {"price": "none", "nme": 1, "_line": 1}}]"#).await;
        let paths: Vec<String> = found.iter().map(|c| c.place.path.join(".")).collect();
        assert_eq!(paths, ["0.fill.price", "0.fill.nme", "0.fill._line"]);
    }

    #[tokio::test]
    async fn statistics_of_the_batch() {
        let money: ArrayRef =
            Arc::new(Decimal128Array::from(vec![Some(100), Some(201), None, Some(100)]).with_precision_and_scale(9, 2).unwrap());
        let columns = [
            ("city", text(&[Some("b"), None, Some("a"), Some("b")])),
            ("tie", text(&[Some("z"), None, Some("y"), None])),
            ("mean", ints(&[Some(1), Some(2), None, Some(5)])),
            ("median", ints(&[Some(1), None, Some(100), Some(2)])),
            ("money", money),
            ("none", ints(&[None; 4])),
        ];
        let json = r#"[{"fill": {"city": {"mode": true}, "tie": {"mode": true}, "mean": {"mean": true}, "median": {"median": true}, "money": {"mean": true},
                      "none": {"mean": true}}}]"#;
        let out = run_over(json, &columns).await.unwrap();
        assert_eq!(out, "city,tie,mean,median,money,none\nb,z,1,1,1.00,\nb,y,2,2,2.01,\na,y,3,100,1.34,\nb,y,5,2,1.00,\n");
        assert!(complaints(r#"[{"fill": {"name": {"mean": true}}}]"#).await[0].message.contains("mean takes"));
        assert!(serde_json::from_str::<Vec<crate::steps::Step>>(r#"[{"fill": {"a": {"mean": true, "mode": true}}}]"#).is_err());
    }

    #[tokio::test]
    async fn the_row_before_within_its_partition() {
        let columns = [
            ("k", text(&[Some("a"), Some("a"), Some("a"), Some("b")])),
            ("t", ints(&[Some(1), Some(2), Some(3), Some(4)])),
            ("v", text(&[None, Some("x"), None, None])),
        ];
        let sort = r#"{"sql": "select * from input order by t"}"#;
        let up =
            run_over(&format!(r#"[{{"fill": {{"v": {{"previous": {{"order_by": ["t"], "partition_by": ["k"]}}}}}}}}, {sort}]"#), &columns)
                .await
                .unwrap();
        assert_eq!(up, "k,t,v\na,1,\na,2,x\na,3,x\nb,4,\n");
        let down =
            run_over(&format!(r#"[{{"fill": {{"v": {{"previous": {{"order_by": ["t desc"]}}}}}}}}, {sort}]"#), &columns).await.unwrap();
        assert_eq!(down, "k,t,v\na,1,x\na,2,x\na,3,\nb,4,\n");
        let found = complaints(r#"[{"fill": {"name": {"previous": {"order_by": ["prce desc"], "partition_by": ["x"]}}}}]"#).await;
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
