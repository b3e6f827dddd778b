//! `cast`: columns to other types, by the contract's own rules: a value that does not fit marks its row, and never becomes NULL.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, StructArray, new_empty_array};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::util::bit_util;
use async_trait::async_trait;
use datafusion::common::{ScalarValue, internal_err, plan_datafusion_err};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::checks::{Flag, OnFail};
use crate::conform::cast_column;
use crate::contract::Column;
use crate::error::{Complaint, Error, Result};
use crate::steps::config::{Entries, Texts};
use crate::steps::expression::{column, field, in_words, is_hidden};
use crate::steps::{Scope, Transform, verdict};
use crate::types::ContractType;

/// Changes types of columns, as the contract's `columns` would read them: text is parsed, typed values are cast without loss. A row with a
/// value that does not fit goes to quarantine with the rule `type`.
///
/// ```yaml
/// - cast:
///     price: decimal(12,2)
///     born: {type: date, format: "%d/%m/%Y"}
///     seen_at: {type: timestamp, timezone: America/Sao_Paulo}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Cast(pub Entries<To>);

/// The type to cast to: its name alone, or with a format and a time zone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct To {
    pub ty: String,
    /// Formats tried in order.
    pub format: Texts,
    /// Zone of timestamps that carry none; UTC when absent.
    pub timezone: Option<String>,
}

#[async_trait]
impl Transform for Cast {
    async fn plan(&self, input: LogicalPlan, scope: &Scope<'_>) -> Result<LogicalPlan> {
        let schema = input.schema();
        let mut complaints = vec![];
        let mut casts: Vec<(&str, String, Expr)> = vec![];
        for (i, (name, to)) in self.0.iter().enumerate() {
            let path = ["cast", name];
            let f = match field(schema, name, &path) {
                Ok(_) if is_hidden(name) => {
                    complaints.push(Complaint::at(path, format!("`{name}` is Smelt's own column and cannot be cast")));
                    continue;
                }
                Ok(f) => f,
                Err(complaint) => {
                    complaints.push(complaint);
                    continue;
                }
            };
            match to.column(name) {
                Err(complaint) => complaints.push(complaint.under(path)),
                // No row is needed to see whether there is a way from one type to the other, and whether the formats are any.
                Ok(target) => match cast_column(&new_empty_array(f.data_type()), &target) {
                    Ok(_) => casts.push((name, flag(scope.step, i), to.call(column(name)))),
                    Err(Error::Pipeline(found)) => complaints.extend(found.into_iter().map(|c| c.under(path))),
                    Err(Error::Data { .. }) => {
                        let message = format!("`{name}` is of type {}, which cannot become {}", in_words(f.data_type()), target.ty);
                        complaints.push(Complaint::at(path, message).help("compute the value with derive"));
                    }
                    Err(other) => return Err(other),
                },
            }
        }
        verdict(complaints)?;
        let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        // Value and verdict of one pass over the column; taken apart in a second projection. The pair has a name of its own:
        // the optimizer moves get_field below a projection by name, and would reach the column from before the cast.
        let pair = |flag: &str| format!("{flag}_pair");
        let both = names.iter().map(|n| match casts.iter().find(|(name, _, _)| name == n) {
            Some((_, flag, cast)) => cast.clone().alias(pair(flag)),
            None => column(n),
        });
        let plan = LogicalPlanBuilder::from(input).project(both.collect::<Vec<_>>())?;
        let values = names.iter().map(|n| match casts.iter().find(|(name, _, _)| name == n) {
            Some((_, flag, _)) => get_field(column(&pair(flag)), "value").alias(n),
            None => column(n),
        });
        let flags = casts.iter().map(|(_, flag, _)| get_field(column(&pair(flag)), "bad").alias(flag));
        Ok(plan.project(values.chain(flags).collect::<Vec<_>>())?.build()?)
    }

    fn flags(&self, step: usize) -> Vec<Flag> {
        let flags = self.0.iter().enumerate().map(|(i, (name, to))| Flag {
            name: flag(step, i),
            column: name.to_owned(),
            rule: "type".into(),
            message: format!("the value is not of type {}", to.ty.trim()),
            on_fail: OnFail::Quarantine,
        });
        flags.collect()
    }
}

fn flag(step: usize, i: usize) -> String {
    format!("__cast_{step}_{i}")
}

impl To {
    /// The contract's column of this type. Paths of complaints begin below the column.
    fn column(&self, name: &str) -> Result<Column, Complaint> {
        let ty = ContractType::parse(&self.ty).map_err(|e| {
            let complaint = Complaint::at(Vec::<String>::new(), e.message);
            match e.help {
                Some(help) => complaint.help(help),
                None => complaint,
            }
        })?;
        let timezone = match &self.timezone {
            None => None,
            Some(zone) => Some(zone.parse::<chrono_tz::Tz>().map_err(|_| {
                let near = crate::steps::expression::nearest(zone, chrono_tz::TZ_VARIANTS.iter().map(|tz| tz.name()));
                let complaint = Complaint::at(["timezone"], format!("there is no time zone `{zone}`"));
                complaint
                    .help(near.map_or("write a name of the IANA list, as in Europe/Rome".to_owned(), |n| format!("did you mean `{n}`?")))
            })?),
        };
        Ok(Column { formats: self.format.0.clone(), timezone, ..Column::new(name, ty) })
    }

    fn call(&self, value: Expr) -> Expr {
        let mut args = vec![value, lit(self.ty.as_str()), lit(self.timezone.as_deref().unwrap_or_default())];
        args.extend(self.format.0.iter().map(|f| lit(f.as_str())));
        ScalarUDF::from(CastFunction { signature: Signature::variadic_any(Volatility::Immutable) }).call(args)
    }

    /// The constants that `call` has put behind the value.
    fn from_constants<'a>(constants: impl IntoIterator<Item = Option<&'a ScalarValue>>) -> datafusion::error::Result<To> {
        let mut texts = constants.into_iter().map(|c| match c {
            Some(ScalarValue::Utf8(Some(t)) | ScalarValue::Utf8View(Some(t)) | ScalarValue::LargeUtf8(Some(t))) => Ok(t.clone()),
            _ => Err(plan_datafusion_err!("cast_value takes its type, time zone and formats as constants")),
        });
        let ty = texts.next().transpose()?.unwrap_or_default();
        let timezone = texts.next().transpose()?.filter(|z| !z.is_empty());
        Ok(To { ty, timezone, format: Texts(texts.collect::<Result<_, _>>()?) })
    }
}

/// `cast_value(value, 'type', 'timezone', 'format'...)`: a struct of `value`, and `bad`, which is true where there was a value that does not fit.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CastFunction {
    signature: Signature,
}

fn parts(ty: &ContractType) -> Fields {
    Fields::from(vec![Field::new("value", ty.arrow(), true), Field::new("bad", DataType::Boolean, false)])
}

impl ScalarUDFImpl for CastFunction {
    fn name(&self) -> &str {
        "cast_value"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _args: &[DataType]) -> datafusion::error::Result<DataType> {
        internal_err!("the type of cast_value depends on its constants")
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> datafusion::error::Result<FieldRef> {
        let to = To::from_constants(args.scalar_arguments.iter().skip(1).copied())?;
        let ty = ContractType::parse(&to.ty).map_err(|e| plan_datafusion_err!("{e}"))?;
        Ok(Arc::new(Field::new(self.name(), DataType::Struct(parts(&ty)), false)))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion::error::Result<ColumnarValue> {
        let constants = args.args[1..].iter().map(|a| match a {
            ColumnarValue::Scalar(value) => Some(value),
            ColumnarValue::Array(_) => None,
        });
        let to = To::from_constants(constants)?;
        let target = to.column("value").map_err(|c| plan_datafusion_err!("{c}"))?;
        let array = args.args[0].to_array(args.number_rows)?;
        let (typed, faults) = cast_column(&array, &target)?;
        let mut bad = MutableBuffer::from_len_zeroed(bit_util::ceil(array.len(), 8));
        for (row, _) in faults {
            bit_util::set_bit(bad.as_slice_mut(), row);
        }
        let bad: ArrayRef = Arc::new(BooleanArray::new(BooleanBuffer::new(Buffer::from(bad), 0, array.len()), None));
        Ok(ColumnarValue::Array(Arc::new(StructArray::try_new(parts(&target.ty), vec![typed, bad], None)?)))
    }
}

impl<'de> Deserialize<'de> for To {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            r#type: String,
            #[serde(default)]
            format: Texts,
            timezone: Option<String>,
        }
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = To;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a type, or a map with `type`, `format` and `timezone`")
            }
            fn visit_str<E: serde::de::Error>(self, ty: &str) -> Result<To, E> {
                Ok(To { ty: ty.to_owned(), ..To::default() })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<To, A::Error> {
                let Long { r#type, format, timezone } = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(To { ty: r#type, format, timezone })
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl JsonSchema for To {
    fn schema_name() -> Cow<'static, str> {
        "CastTo".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let format = generator.subschema_for::<Texts>();
        json_schema!({
            "description": "A type, or a map with `type`, `format` (one or several, tried in order) and `timezone`.",
            "anyOf": [{"type": "string"}, {
                "type": "object",
                "properties": {"type": {"type": "string"}, "format": format, "timezone": {"type": "string"}},
                "required": ["type"],
                "additionalProperties": false,
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::checks::Planned;
    use crate::error::Error;
    use crate::steps::testing::*;
    use crate::steps::{Scope, plan_steps};

    const DATES: [Option<&str>; 4] = [Some("31/12/2017"), Some("31/02/2017"), None, Some("")];

    #[tokio::test]
    async fn bad_values_are_flagged_and_not_lost() {
        let columns = [("n", text(&[Some("1.50"), Some("1e999"), None, Some("x")])), ("d", text(&DATES)), ("_line", ints(&[Some(1); 4]))];
        let json = r#"[{"select": ["n", "d"]}, {"cast": {"n": "decimal(9,2)", "d": {"type": "date", "format": "%d/%m/%Y"}}}, {"rename": {"d": "day"}}]"#;
        let session = session();
        let Planned { plan, flags } = plan_steps(&steps(json), rows(&session, &columns), &scope(&session)).await.unwrap();
        let out = csv(&session, plan).await.unwrap();
        assert_eq!(
            out,
            "n,day,_line,__cast_1_0,__cast_1_1\n1.50,2017-12-31,1,false,false\n,,1,true,true\n,,1,false,false\n,,1,true,true\n"
        );
        let told: Vec<_> = flags.iter().map(|f| (f.name.as_str(), f.column.as_str(), f.rule.as_str())).collect();
        assert_eq!(told, [("__cast_1_0", "n", "type"), ("__cast_1_1", "d", "type")]);
    }

    #[tokio::test]
    async fn all_that_is_wrong_is_told() {
        let json = r#"[{"cast": {"name": "decimel(9,2)", "price": {"type": "int32", "format": "x"}, "_line": "string", "nam": "date"}},
                       {"cast": {"name": {"type": "timestamp", "timezone": "America/Sao_Paul"}}}]"#;
        let found = complaints(json).await;
        let paths: Vec<String> = found.iter().map(|c| c.place.path.join(".")).collect();
        assert_eq!(paths, ["0.cast.name", "0.cast.price.format", "0.cast._line", "0.cast.nam"], "{found:?}");
        let found = complaints(r#"[{"cast": {"name": {"type": "timestamp", "timezone": "America/Sao_Paul"}}}]"#).await;
        assert_eq!(found[0].help.as_deref(), Some("did you mean `America/Sao_Paulo`?"));
    }

    #[tokio::test]
    async fn before_a_query_flagged_rows_are_routed_away() {
        let json = r#"[{"cast": {"price": "int8"}}, {"sql": "select count(*) as n from input"}]"#;
        assert!(complaints(json).await[0].message.contains("after a cast"));
        let session = session();
        let route = |plan, flags: Vec<crate::checks::Flag>, next: usize| -> Result<_, Error> {
            assert_eq!(next, 1);
            let keep = flags.iter().map(|f| crate::steps::expression::column(&f.name).is_false()).reduce(|a, b| a.and(b));
            Ok(datafusion::logical_expr::LogicalPlanBuilder::from(plan).filter(keep.unwrap())?.build()?)
        };
        let scope = Scope { route: Some(&route), ..scope(&session) };
        let columns = [("price", ints(&[Some(1), Some(1000), None]))];
        let Planned { plan, flags } = plan_steps(&steps(json), rows(&session, &columns), &scope).await.unwrap();
        assert!(flags.is_empty());
        assert_eq!(csv(&session, plan).await.unwrap(), "n\n2\n");
    }
}
