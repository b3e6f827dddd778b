//! `range`: a value must lie between bounds.

use std::borrow::Cow;
use std::fmt;

use async_trait::async_trait;
use datafusion::functions::expr_fn::isnan;
use datafusion::logical_expr::{Expr, LogicalPlan};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{Finding, Plan, constant, unless};
use crate::error::{Complaint, Result};
use crate::steps::config::Ruled;
use crate::steps::expression::{column, field, in_words};
use crate::steps::{Scope, verdict};

/// The value must lie between the bounds, which belong to the range. Works on numbers, dates, timestamps and text. NULL passes; NaN does not.
///
/// ```yaml
/// - range: {score: [1, 5], price: {min: 0, exclusive_min: true}, on_fail: quarantine}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Range(pub Ruled<Bounds>);

/// `[min, max]`, or a map with one of them or both.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    pub min: Option<String>,
    pub max: Option<String>,
    /// The bound itself is outside.
    pub exclusive_min: bool,
    pub exclusive_max: bool,
}

#[async_trait]
impl Plan for Range {
    async fn plan(&self, input: LogicalPlan, _scope: &Scope<'_>) -> Result<(LogicalPlan, Vec<Finding>)> {
        let mut complaints = vec![];
        let mut findings = vec![];
        for (name, bounds) in &self.0.rules {
            let path = ["range", name];
            let f = match field(input.schema(), name, &path) {
                Ok(f) => f,
                Err(complaint) => {
                    complaints.push(complaint);
                    continue;
                }
            };
            let ty = f.data_type();
            if ty.is_nested() || matches!(ty, arrow::datatypes::DataType::Boolean) {
                let message = format!("`{name}` is of type {}, which has no order", in_words(ty));
                complaints.push(Complaint::at(path, message).help("use in_set or expect"));
                continue;
            }
            if bounds.min.is_none() && bounds.max.is_none() {
                complaints.push(Complaint::at(path, "the range has no bounds").help("write [min, max], {min: 0} or {max: 100}"));
                continue;
            }
            let mut read = |key: &str, bound: &Option<String>| {
                let bound = bound.as_deref()?;
                constant(bound, f, &["range", name, key]).map_err(|c| complaints.push(c)).ok()
            };
            let (min, max) = (read("min", &bounds.min), read("max", &bounds.max));
            if let (Some(Expr::Literal(min, _)), Some(Expr::Literal(max, _))) = (&min, &max)
                && min > max
            {
                complaints.push(Complaint::at(path, "min is above max, so no value could pass").help("exchange them"));
            }
            let low = min.map(|m| if bounds.exclusive_min { column(name).gt(m) } else { column(name).gt_eq(m) });
            let high = max.map(|m| if bounds.exclusive_max { column(name).lt(m) } else { column(name).lt_eq(m) });
            let number = ty.is_floating().then(|| Expr::Not(Box::new(isnan(column(name)))));
            let Some(holds) = [low, high, number].into_iter().flatten().reduce(Expr::and) else { continue };
            findings.push(Finding {
                column: name.clone(),
                rule: "range".into(),
                message: format!("the value is not {}", bounds.in_words()),
                on_fail: self.0.on_fail,
                broken: unless(holds),
            });
        }
        verdict(complaints)?;
        Ok((input, findings))
    }
}

impl Bounds {
    fn in_words(&self) -> String {
        let low = self.min.as_ref().map(|m| format!("{} {m}", if self.exclusive_min { "above" } else { "at least" }));
        let high = self.max.as_ref().map(|m| format!("{} {m}", if self.exclusive_max { "below" } else { "at most" }));
        [low, high].into_iter().flatten().collect::<Vec<_>>().join(" and ")
    }
}

impl<'de> Deserialize<'de> for Bounds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            min: Option<String>,
            max: Option<String>,
            #[serde(default)]
            exclusive_min: bool,
            #[serde(default)]
            exclusive_max: bool,
        }
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Bounds;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("[min, max], or a map with `min` and `max`")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Bounds, A::Error> {
                let bounds: Vec<String> = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
                match <[String; 2]>::try_from(bounds) {
                    Ok([min, max]) => Ok(Bounds { min: Some(min), max: Some(max), ..Bounds::default() }),
                    Err(other) => Err(A::Error::custom(format!("a range has two bounds, [min, max], and here are {}", other.len()))),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Bounds, A::Error> {
                let Long { min, max, exclusive_min, exclusive_max } = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Bounds { min, max, exclusive_min, exclusive_max })
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl JsonSchema for Bounds {
    fn schema_name() -> Cow<'static, str> {
        "Bounds".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let bound = json_schema!({"type": ["number", "string"]});
        json_schema!({
            "description": "`[min, max]`, or a map with `min`, `max` or both; `exclusive_min` and `exclusive_max` put a bound outside.",
            "anyOf": [{"type": "array", "items": bound, "minItems": 2, "maxItems": 2}, {
                "type": "object",
                "properties": {"min": bound, "max": bound, "exclusive_min": {"type": "boolean"}, "exclusive_max": {"type": "boolean"}},
                "additionalProperties": false,
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Date32Array, Float64Array};

    use crate::checks::testing::{complaints, flagged};
    use crate::steps::testing::ints;

    #[tokio::test]
    async fn bounds_of_each_kind() {
        let dates: ArrayRef = Arc::new(Date32Array::from(vec![Some(0), Some(20_000), None]));
        let reals: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.0), Some(f64::NAN), None]));
        let columns = [("a", ints(&[Some(0), Some(10), None])), ("d", dates), ("r", reals)];
        let json = r#"[{"range": {"a": ["0", "10"]}}, {"range": {"a": {"min": "0", "max": "10", "exclusive_min": true, "exclusive_max": true}}},
                       {"range": {"d": {"min": "2000-01-01"}, "r": {"min": "-1"}}}]"#;
        let (rows, flags) = flagged(json, &columns).await;
        assert_eq!(rows, [".xx.", ".x.x", "...."]);
        assert_eq!(flags[1].message, "the value is not above 0 and below 10");
    }

    #[tokio::test]
    async fn bounds_that_cannot_be() {
        let columns = [("a", ints(&[Some(0)]))];
        let found = complaints(r#"[{"range": {"a": {"min": "x"}}}, {"range": {"a": ["2", "1"]}}, {"range": {"a": {}}}]"#, &columns).await;
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0].place.path, ["0", "range", "a", "min"]);
        assert!(serde_json::from_str::<Vec<crate::checks::Check>>(r#"[{"range": {"a": ["1"]}}]"#).is_err());
    }
}
