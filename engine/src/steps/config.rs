//! Shapes of configuration that several steps and checks share: ordered maps, "all or some columns", rules per column
//! with `on_fail` beside them. They read themselves from any serde source; they know no YAML and no plan.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::checks::OnFail;

/// A map whose order is that of the text.
#[derive(Debug, Clone, PartialEq)]
pub struct Entries<T>(pub Vec<(String, T)>);

/// `all`, or a list of column names.
#[derive(Debug, Clone, PartialEq)]
pub enum Columns {
    /// Every column of a fitting type.
    All,
    Some(Vec<String>),
}

/// `{column: rule, ..., on_fail: ...}`: one rule per column, in the order of the text.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruled<T> {
    pub rules: Vec<(String, T)>,
    pub on_fail: OnFail,
}

/// `[columns]`, or `{columns: [...], on_fail: ...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnList {
    pub columns: Vec<String>,
    pub on_fail: OnFail,
}

/// One text, or a list of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Texts(pub Vec<String>);

impl<T> Entries<T> {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Walk<T> {
            type Value = Entries<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map with a key per column")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Vec<(String, T)> = vec![];
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if entries.iter().any(|(n, _)| *n == name) {
                        return Err(A::Error::custom(format!("`{name}` is given twice")));
                    }
                    entries.push((name, value));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Walk(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Columns;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("`all` or a list of columns")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                match text {
                    "all" => Ok(Columns::All),
                    other => Err(E::custom(format!("expected `all` or a list of columns; for one column write [{other}]"))),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Columns::Some)
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ruled<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Walk<T> {
            type Value = Ruled<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map with a key per column, and `on_fail`")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut ruled = Ruled { rules: vec![], on_fail: OnFail::default() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "on_fail" {
                        ruled.on_fail = map.next_value()?;
                    } else if ruled.rules.iter().any(|(n, _)| *n == name) {
                        return Err(A::Error::custom(format!("`{name}` is given twice")));
                    } else {
                        ruled.rules.push((name, map.next_value()?));
                    }
                }
                Ok(ruled)
            }
        }
        deserializer.deserialize_map(Walk(PhantomData))
    }
}

impl<'de> Deserialize<'de> for ColumnList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            columns: Vec<String>,
            #[serde(default)]
            on_fail: OnFail,
        }
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = ColumnList;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of columns, or `columns` and `on_fail`")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                let columns = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
                Ok(ColumnList { columns, on_fail: OnFail::default() })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let Long { columns, on_fail } = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ColumnList { columns, on_fail })
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Texts;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Texts, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Texts)
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl JsonSchema for Texts {
    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Entries_of_{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({"type": "object", "additionalProperties": value})
    }
}

impl JsonSchema for Columns {
    fn schema_name() -> Cow<'static, str> {
        "Columns".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`all` for every text column, or a list of columns.",
            "anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "string"}}],
        })
    }
}

impl<T: JsonSchema> JsonSchema for Ruled<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Ruled_by_{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rule = generator.subschema_for::<T>();
        let on_fail = generator.subschema_for::<OnFail>();
        json_schema!({"type": "object", "properties": {"on_fail": on_fail}, "additionalProperties": rule})
    }
}

impl JsonSchema for ColumnList {
    fn schema_name() -> Cow<'static, str> {
        "ColumnList".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let on_fail = generator.subschema_for::<OnFail>();
        let names = json_schema!({"type": "array", "items": {"type": "string"}});
        json_schema!({
            "description": "A list of columns, or `{columns: [...], on_fail: ...}`.",
            "anyOf": [names, {
                "type": "object",
                "properties": {"columns": names, "on_fail": on_fail},
                "required": ["columns"],
                "additionalProperties": false,
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_keep_their_order_and_on_fail_stands_beside_them() {
        let ruled: Ruled<String> = serde_json::from_str(r#"{"z": "1", "on_fail": "warn", "a": "2"}"#).unwrap();
        assert_eq!(ruled, Ruled { rules: vec![("z".into(), "1".into()), ("a".into(), "2".into())], on_fail: OnFail::Warn });
        assert!(serde_json::from_str::<Ruled<String>>(r#"{"z": "1", "z": "2"}"#).is_err());
    }

    #[test]
    fn a_column_list_is_short_or_long() {
        let short: ColumnList = serde_json::from_str(r#"["a"]"#).unwrap();
        let long: ColumnList = serde_json::from_str(r#"{"columns": ["a"], "on_fail": "quarantine"}"#).unwrap();
        assert_eq!(short, long);
        assert!(serde_json::from_str::<ColumnList>(r#"{"column": ["a"]}"#).is_err());
    }
}
