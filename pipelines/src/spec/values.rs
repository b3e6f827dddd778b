//! Values that users write as short text: sizes, shares, time zones, one format or several; and the column, which may be
//! just its type. Each reads itself from YAML and describes itself in the JSON Schema.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use smelt_engine::change::{HistorySpec, MergeSpec, SnapshotSpec};
use smelt_engine::types::ContractType;

use super::{ColumnSpec, WriteSpec};
use crate::diagnostic::did_you_mean;
use crate::yaml::{Ordered, SecretRef, Spanned};

/// A number of bytes: `128MB`, `1GiB`, `500000`. KB, MB and GB are powers of 1024, with or without the `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// How many rows may be rejected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxRejected {
    Rows(u64),
    /// Of the rows read, from 0 to 1.
    Share(f64),
}

/// An IANA time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone(pub chrono_tz::Tz);

/// One format, or several that are tried in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Formats(pub Vec<String>);

/// One name, or several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl std::str::FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let unit = text[digits..].trim().to_ascii_lowercase();
        let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
            "" if !unit.starts_with('i') => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err(format!("`{text}` is not a size\nhelp: write a number and a unit, such as 128MB or 1GB")),
        };
        let number: f64 =
            text[..digits].parse().map_err(|_| format!("`{text}` is not a size\nhelp: write a number and a unit, such as 128MB or 1GB"))?;
        let bytes = number * (1u64 << shift) as f64;
        if bytes < 1.0 || bytes > i64::MAX as f64 {
            return Err(format!("the size `{text}` is out of range\nhelp: write a number and a unit, such as 128MB or 1GB"));
        }
        Ok(ByteSize(bytes as u64))
    }
}

impl std::str::FromStr for MaxRejected {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{text}` is neither a share nor a number of rows\nhelp: write a share of the rows read, such as 1%, or a number of rows, such as 1000"
            )
        };
        match text.trim().strip_suffix('%') {
            Some(percent) => match percent.trim().parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(MaxRejected::Share(percent / 100.0)),
                _ => Err(bad()),
            },
            None => text.trim().parse().map(MaxRejected::Rows).map_err(|_| bad()),
        }
    }
}

impl std::str::FromStr for Zone {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Zone).map_err(|_| {
            let near = did_you_mean(text, chrono_tz::TZ_VARIANTS.iter().map(|z| z.name()));
            let help = near.map_or_else(
                || "write an IANA name, such as UTC or America/Sao_Paulo".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            format!("`{text}` is not a known time zone\nhelp: {help}")
        })
    }
}

/// From text by `FromStr`, or from a number as its text.
struct FromText<T>(std::marker::PhantomData<T>, &'static str);

impl<T: std::str::FromStr<Err = String>> Visitor<'_> for FromText<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

macro_rules! from_text {
    ($ty:ident, $expected:literal, $schema:tt) => {
        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(FromText(std::marker::PhantomData, $expected))
            }
        }
        impl JsonSchema for $ty {
            fn schema_name() -> Cow<'static, str> {
                stringify!($ty).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

from_text!(ByteSize, "a size, such as 128MB", {
    "description": "A number of bytes: `128MB`, `1GB`, `500000`. KB, MB and GB are powers of 1024.",
    "type": ["string", "integer"], "examples": ["128MB", "1GB"]
});
from_text!(MaxRejected, "a share, such as 1%, or a number of rows", {
    "description": "A share of the rows read, such as `1%`, or a number of rows, such as `1000`.",
    "type": ["string", "integer"], "minimum": 0, "examples": ["1%", 1000]
});
from_text!(Zone, "a time zone, such as America/Sao_Paulo", {
    "description": "An IANA time zone, such as `UTC` or `America/Sao_Paulo`.",
    "type": "string", "examples": ["UTC", "Europe/Berlin", "America/Sao_Paulo"]
});

impl<'de> Deserialize<'de> for Formats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Formats;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a format, or a list of formats")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Formats, E> {
                Ok(Formats(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Formats, A::Error> {
                let mut formats = vec![];
                while let Some(format) = seq.next_element()? {
                    formats.push(format);
                }
                Ok(Formats(formats))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Names;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or a list of names")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Names, E> {
                Ok(Names(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Names, A::Error> {
                let mut names = vec![];
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Names {
    fn schema_name() -> Cow<'static, str> {
        "Names".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    }
}

impl JsonSchema for Formats {
    fn schema_name() -> Cow<'static, str> {
        "Formats".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    }
}

/// One column of a contract, in full.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Column {
    /// The type: `string`, `boolean`, `int8` to `int64`, `float`, `double`, `decimal(p,s)`, `date`, `timestamp`, `time`, `binary`, `json`,
    /// `struct<name: type, …>`, `list<type>` or `map<type, type>`.
    #[serde(rename = "type")]
    ty: ContractType,
    /// A row without a value here goes to quarantine.
    #[serde(default)]
    required: bool,
    /// How dates, times and timestamps are written (strftime: `"%d/%m/%Y %H:%M"`), tried in order; `epoch_days`, `epoch_s`,
    /// `epoch_ms`, `epoch_us` or `epoch_ns` for numbers since 1970; `hex` or `base64` for binary. ISO 8601 when absent.
    #[serde(default)]
    format: Formats,
    /// Zone of timestamps that carry none.
    timezone: Option<Zone>,
    /// Where in a nested record the value lies: `user.id`, `items[0].sku`. The column's name when absent.
    path: Option<String>,
    /// The name that the column had before, or several: `was: name`. The table's column gets the new name, with its values; files that still
    /// have the old name are read by it.
    #[serde(default)]
    was: Names,
    /// What the column holds, kept with the table.
    description: Option<String>,
    /// Marks of your own, such as `pii`.
    #[serde(default)]
    tags: Vec<String>,
}

impl<'de> Deserialize<'de> for ColumnSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TypeOrMap;
        impl<'de> Visitor<'de> for TypeOrMap {
            type Value = ColumnSpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a type, such as `string`, or a map with `type`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ColumnSpec, E> {
                let ty = ContractType::deserialize(text.into_deserializer())?;
                let (formats, tags) = Default::default();
                Ok(ColumnSpec { ty, required: false, formats, timezone: None, path: None, was: Names::default(), description: None, tags })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ColumnSpec, A::Error> {
                let Column { ty, required, format, timezone, path, was, description, tags } =
                    Column::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ColumnSpec { ty, required, formats: format, timezone, path, was, description, tags })
            }
        }
        deserializer.deserialize_any(TypeOrMap)
    }
}

impl JsonSchema for ColumnSpec {
    fn schema_name() -> Cow<'static, str> {
        "Column".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<ContractType>();
        let full = <Column as JsonSchema>::json_schema(generator);
        json_schema!({"description": "A column: its type, or a map with `type` and more.", "anyOf": [short, full]})
    }
}

impl JsonSchema for WriteSpec {
    fn schema_name() -> Cow<'static, str> {
        "Write".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let modes = [
            ("append", "Adds the rows to the table."),
            ("replace", "The table becomes exactly these rows."),
            ("replace_partitions", "Replaces the partitions that the rows fall into, and leaves the others."),
        ];
        let changes = [
            ("merge", generator.subschema_for::<MergeSpec>()),
            ("scd2", generator.subschema_for::<HistorySpec>()),
            ("bitemporal", generator.subschema_for::<HistorySpec>()),
            ("snapshot", generator.subschema_for::<SnapshotSpec>()),
        ];
        let changes = changes.map(|(name, spec)| {
            json_schema!({"type": "object", "additionalProperties": false, "required": [name], "properties": {(name): spec}})
        });
        let any: Vec<_> = modes
            .iter()
            .flat_map(|(name, description)| {
                let map = json_schema!({"type": "object", "description": description, "additionalProperties": false, "required": [name],
                    "properties": {(*name): {"description": description, "type": ["object", "null"], "additionalProperties": false}}});
                [json_schema!({"const": name, "description": description}), map]
            })
            .chain(changes)
            .collect();
        json_schema!({"description": "How the rows reach the table.", "anyOf": any})
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<V: JsonSchema> JsonSchema for Ordered<V> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Map_of_{}", V::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "additionalProperties": generator.subschema_for::<V>()})
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where to find a secret: `${secret:env://NAME}` or `${secret:file://PATH}`. The secret itself never stands in the pipeline.",
            "type": "string", "pattern": "^\\s*\\$\\{secret:(env|file)://.+\\}\\s*$", "examples": ["${secret:env://PII_KEY}"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let bytes = |text: &str| text.parse::<ByteSize>().map(|b| b.0);
        assert_eq!(bytes("128MB"), Ok(128 << 20));
        assert_eq!(bytes("1.5 GiB"), Ok(3 << 29));
        assert_eq!(bytes("500000"), Ok(500_000));
        assert_eq!(bytes("64k"), Ok(64 << 10));
        for bad in ["", "MB", "-1MB", "12XB", "0", "1.2.3MB", "5i"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_and_zones() {
        assert_eq!("1%".parse(), Ok(MaxRejected::Share(0.01)));
        assert_eq!("1000".parse(), Ok(MaxRejected::Rows(1000)));
        assert!("101%".parse::<MaxRejected>().is_err() && "-5".parse::<MaxRejected>().is_err() && "0.5".parse::<MaxRejected>().is_err());
        assert!("America/Sao_Paolo".parse::<Zone>().unwrap_err().contains("did you mean `America/Sao_Paulo`?"));
    }
}
