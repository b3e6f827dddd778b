//! `select`: which columns stay, and in which order.

use std::borrow::Cow;
use std::fmt;

use async_trait::async_trait;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Complaint, Result};
use crate::steps::expression::{column, field, is_hidden};
use crate::steps::{Scope, Transform, verdict};

/// Keeps columns: a list names them in their new order; `except` names those that go.
///
/// ```yaml
/// - select: [order_id, price]
/// - select: {except: [internal_note]}
/// ```
#[derive(Debug, Clone)]
pub enum Select {
    Only(Vec<String>),
    Except(Vec<String>),
}

#[async_trait]
impl Transform for Select {
    async fn plan(&self, input: LogicalPlan, _scope: &Scope<'_>) -> Result<LogicalPlan> {
        let schema = input.schema();
        let mut complaints = vec![];
        let (names, path): (_, &[&str]) = match self {
            Select::Only(names) => (names, &["select"]),
            Select::Except(names) => (names, &["select", "except"]),
        };
        for (i, name) in names.iter().enumerate() {
            let i = i.to_string();
            let path: Vec<&str> = path.iter().copied().chain([i.as_str()]).collect();
            complaints.extend(field(schema, name, &path).err());
            if names.iter().filter(|n| *n == name).count() > 1 {
                complaints.push(Complaint::at(path, format!("`{name}` is listed twice")).help("name each column once"));
            }
        }
        verdict(complaints)?;
        let fields = schema.fields().iter().map(|f| f.name().as_str());
        let kept: Vec<&str> = match self {
            Select::Only(names) => {
                let own = names.iter().map(String::as_str).filter(|n| !is_hidden(n));
                own.chain(fields.filter(|n| is_hidden(n))).collect()
            }
            Select::Except(names) => fields.filter(|n| is_hidden(n) || !names.iter().any(|x| x == n)).collect(),
        };
        let kept: Vec<_> = kept.into_iter().map(column).collect();
        Ok(LogicalPlanBuilder::from(input).project(kept)?.build()?)
    }
}

impl<'de> Deserialize<'de> for Select {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            except: Vec<String>,
        }
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Select;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of columns, or `except` with one")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Select, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Select::Only)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Select, A::Error> {
                Long::deserialize(MapAccessDeserializer::new(map)).map(|l| Select::Except(l.except))
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl JsonSchema for Select {
    fn schema_name() -> Cow<'static, str> {
        "Select".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = json_schema!({"type": "array", "items": {"type": "string"}});
        json_schema!({
            "description": "Columns to keep, in their new order; or `{except: [...]}`, those to leave out.",
            "anyOf": [names, {"type": "object", "properties": {"except": names}, "required": ["except"], "additionalProperties": false}],
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::steps::testing::*;

    #[tokio::test]
    async fn a_list_orders_and_hidden_columns_survive() {
        let out = run(r#"[{"select": ["price", "name"]}]"#).await.unwrap();
        assert!(out.starts_with("price,name,_file,_line\n1,ann,f,1\n"), "{out}");
        let out = run(r#"[{"select": {"except": ["name"]}}]"#).await.unwrap();
        assert!(out.starts_with("price,_file,_line\n"), "{out}");
    }

    #[tokio::test]
    async fn unknown_and_double_names_are_told_together() {
        let found = complaints(r#"[{"select": ["nam", "price", "price"]}]"#).await;
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].place.path, ["0", "select", "0"]);
        assert_eq!(found[0].help.as_deref(), Some("did you mean `name`?"));
    }
}
