//! Table schemas as JSON: Delta's schema language, which the Parquet manifests share (and extend by the types that Delta
//! lacks). Here too: what a schema may become while files of the old one stay in the table.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde_json::{Value, json};
use smelt_engine::error::{Complaint, Error, Result};

/// Which types may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Delta,
    Parquet,
}

/// The schema as a JSON struct type. Comments are kept from `old` and taken from `descriptions`.
pub(super) fn to_json(
    schema: &Schema,
    dialect: Dialect,
    descriptions: &BTreeMap<String, String>,
    old: Option<&Value>,
    table: &str,
) -> Result<Value> {
    let mut wrong = vec![];
    let fields: Vec<Value> = schema
        .fields()
        .iter()
        .map(|field| {
            let mut metadata = old
                .and_then(|old| find(old, field.name()))
                .and_then(|f| f.get("metadata"))
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default();
            if let Some(text) = descriptions.get(field.name()) {
                metadata.insert("comment".into(), text.as_str().into());
            }
            let ty = type_json(field.data_type(), dialect).unwrap_or_else(|ty| {
                wrong.push(
                    Complaint::at(Vec::<String>::new(), format!("column {} of {table} has the type {ty}, which {dialect:?} tables do not have", field.name()))
                        .help("cast it: timestamps to timestamp(6) or `timestamp with time zone`, unsigned numbers to bigint, typeless NULLs to a type"),
                );
                Value::Null
            });
            json!({"name": field.name(), "type": ty, "nullable": field.is_nullable(), "metadata": metadata})
        })
        .collect();
    if !wrong.is_empty() {
        return Err(Error::Pipeline(wrong));
    }
    Ok(json!({"type": "struct", "fields": fields}))
}

/// The schema that plans see: strings as Utf8View, bytes as BinaryView. `Err` holds the type that is not known.
pub(super) fn from_json(json: &Value) -> Result<SchemaRef, String> {
    match arrow_type(json)? {
        DataType::Struct(fields) => Ok(Arc::new(Schema::new(fields))),
        other => Err(other.to_string()),
    }
}

/// What the table's schema becomes when `new` is written while files of `old` stay. Added columns become nullable, since the old
/// files have no values for them; so do added members of structs, which readers fill by name as they fill columns, but below a map.
/// A column that is gone or has another type is [`Error::Pipeline`].
pub(super) fn evolve(old: &Value, mut new: Value, table: &str) -> Result<Value> {
    let mut wrong = vec![];
    let rebuild = "rebuild the table with --full-refresh, or keep the column as it was";
    for field in fields(old) {
        let name = field["name"].as_str().unwrap_or_default();
        match find_mut(&mut new, name) {
            None => wrong.push(Complaint::at(Vec::<String>::new(), format!("column {name} of {table} would be gone")).help(rebuild)),
            Some(now) => {
                if !grows(&field["type"], &mut now["type"]) {
                    wrong.push(
                        Complaint::at(
                            Vec::<String>::new(),
                            format!("column {name} of {table} is {} and would become {}", show(&field["type"]), show(&now["type"])),
                        )
                        .help(rebuild),
                    );
                }
            }
        }
    }
    if !wrong.is_empty() {
        return Err(Error::Pipeline(wrong));
    }
    if let Some(list) = new.get_mut("fields").and_then(Value::as_array_mut) {
        for field in list {
            let before = find(old, field["name"].as_str().unwrap_or_default());
            if before.is_none_or(|b| b["nullable"] != json!(false)) {
                field["nullable"] = json!(true);
            }
        }
    }
    Ok(new)
}

/// Whether a timestamp without time zone occurs anywhere: Delta asks for a table feature then.
pub(super) fn has_ntz(json: &Value) -> bool {
    match json {
        Value::String(s) => s == "timestamp_ntz",
        Value::Array(list) => list.iter().any(has_ntz),
        Value::Object(map) => map.iter().any(|(key, v)| key != "name" && key != "metadata" && has_ntz(v)),
        _ => false,
    }
}

pub(super) fn fields(schema: &Value) -> &[Value] {
    schema.get("fields").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn find<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    fields(schema).iter().find(|f| f["name"] == name)
}

fn find_mut<'a>(schema: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    schema.get_mut("fields")?.as_array_mut()?.iter_mut().find(|f| f["name"] == name)
}

/// Whether a file of the type `old` can be read as `new`: they are equal, or structs in `new` have more members. Those become nullable.
fn grows(old: &Value, new: &mut Value) -> bool {
    match (old["type"].as_str(), new["type"].as_str()) {
        (Some("struct"), Some("struct")) => {
            let kept = fields(old).iter().all(|field| {
                let name = field["name"].as_str().unwrap_or_default();
                find_mut(new, name).is_some_and(|now| grows(&field["type"], &mut now["type"]))
            });
            for field in new.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                if find(old, field["name"].as_str().unwrap_or_default()).is_none() {
                    field["nullable"] = json!(true);
                }
            }
            // by name is how readers find members, and one that has none in common with the file is taken for a mistake
            kept && !fields(old).is_empty()
        }
        (Some("array"), Some("array")) => grows(&old["elementType"], &mut new["elementType"]),
        _ => same_type(old, new),
    }
}

/// Types are equal where a file of one can be read as the other: inner nullability does not count.
fn same_type(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => x
            .keys()
            .chain(y.keys())
            .filter(|k| !matches!(k.as_str(), "nullable" | "containsNull" | "valueContainsNull" | "metadata"))
            .all(|k| same_type(&a[k], &b[k])),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same_type(x, y)),
        _ => a == b,
    }
}

fn show(ty: &Value) -> String {
    ty.as_str().map_or_else(|| ty["type"].as_str().unwrap_or("?").to_owned(), str::to_owned)
}

/// `Err` is the Arrow type that the dialect lacks.
fn type_json(ty: &DataType, dialect: Dialect) -> Result<Value, DataType> {
    let nested = |field: &Field| type_json(field.data_type(), dialect);
    let name = match ty {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 => "byte".to_owned(),
        DataType::Int16 => "short".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Int64 => "long".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) if *s >= 0 => format!("decimal({p},{s})"),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp_ntz".to_owned(),
        DataType::Dictionary(_, values) => return type_json(values, dialect),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::FixedSizeList(item, _) => {
            return Ok(json!({"type": "array", "elementType": nested(item)?, "containsNull": item.is_nullable()}));
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(kv) if kv.len() == 2 => {
                return Ok(json!({
                    "type": "map", "keyType": nested(&kv[0])?, "valueType": nested(&kv[1])?, "valueContainsNull": kv[1].is_nullable(),
                }));
            }
            _ => return Err(ty.clone()),
        },
        DataType::Struct(fields) => {
            let fields = fields
                .iter()
                .map(|f| Ok(json!({"name": f.name(), "type": nested(f)?, "nullable": f.is_nullable(), "metadata": {}})))
                .collect::<Result<Vec<_>, DataType>>()?;
            return Ok(json!({"type": "struct", "fields": fields}));
        }
        other if dialect == Dialect::Parquet => {
            EXTRA.iter().find(|(_, ty)| ty == other).map(|(name, _)| (*name).to_owned()).ok_or_else(|| other.clone())?
        }
        other => return Err(other.clone()),
    };
    Ok(name.into())
}

/// Types that Parquet tables have and Delta tables do not.
const EXTRA: &[(&str, DataType)] = &[
    ("uint8", DataType::UInt8),
    ("uint16", DataType::UInt16),
    ("uint32", DataType::UInt32),
    ("uint64", DataType::UInt64),
    ("time_us", DataType::Time64(TimeUnit::Microsecond)),
    ("timestamp_ntz_ns", DataType::Timestamp(TimeUnit::Nanosecond, None)),
    ("timestamp_ntz_ms", DataType::Timestamp(TimeUnit::Millisecond, None)),
];

fn arrow_type(json: &Value) -> Result<DataType, String> {
    if let Some(name) = json.as_str() {
        return primitive(name).ok_or_else(|| name.to_owned());
    }
    let truth = |key: &str| json[key].as_bool().unwrap_or(true);
    match json["type"].as_str().unwrap_or_default() {
        "struct" => {
            let fields: Vec<Field> = fields(json)
                .iter()
                .map(|f| {
                    let name = f["name"].as_str().unwrap_or_default();
                    Ok(Field::new(name, arrow_type(&f["type"])?, f["nullable"].as_bool().unwrap_or(true)))
                })
                .collect::<Result<_, String>>()?;
            Ok(DataType::Struct(fields.into()))
        }
        "array" => Ok(DataType::List(Arc::new(Field::new_list_field(arrow_type(&json["elementType"])?, truth("containsNull"))))),
        "map" => {
            let entries: Fields = vec![
                Field::new("key", arrow_type(&json["keyType"])?, false),
                Field::new("value", arrow_type(&json["valueType"])?, truth("valueContainsNull")),
            ]
            .into();
            Ok(DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false))
        }
        other => Err(if other.is_empty() { json.to_string() } else { other.to_owned() }),
    }
}

fn primitive(name: &str) -> Option<DataType> {
    Some(match name {
        "string" => DataType::Utf8View,
        "binary" => DataType::BinaryView,
        "boolean" => DataType::Boolean,
        "byte" => DataType::Int8,
        "short" => DataType::Int16,
        "integer" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "timestamp_ntz" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "decimal" => DataType::Decimal128(10, 0),
        other => match other.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')).and_then(|args| args.split_once(',')) {
            Some((p, s)) => DataType::Decimal128(p.trim().parse().ok()?, s.trim().parse().ok()?),
            None => EXTRA.iter().find(|(n, _)| *n == other).map(|(_, ty)| ty.clone())?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_type() -> Schema {
        let s = || DataType::Utf8View;
        Schema::new(vec![
            Field::new("s", s(), false),
            Field::new("b", DataType::BinaryView, true),
            Field::new("d", DataType::Decimal128(12, 2), true),
            Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
            Field::new("n", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            Field::new("day", DataType::Date32, true),
            Field::new("i", DataType::Int8, true),
            Field::new(
                "l",
                DataType::List(Arc::new(Field::new_list_field(DataType::Struct(vec![Field::new("x", s(), true)].into()), true))),
                true,
            ),
            Field::new(
                "m",
                DataType::Map(
                    Arc::new(Field::new(
                        "entries",
                        DataType::Struct(vec![Field::new("key", s(), false), Field::new("value", DataType::Float64, true)].into()),
                        false,
                    )),
                    false,
                ),
                true,
            ),
        ])
    }

    #[test]
    fn types_survive_the_round_trip() {
        let schema = every_type();
        let json = to_json(&schema, Dialect::Delta, &BTreeMap::new(), None, "t").unwrap();
        assert_eq!(*from_json(&json).unwrap(), schema);
        assert!(has_ntz(&json));
        assert!(!has_ntz(&json!({"fields": [{"name": "timestamp_ntz", "type": "string"}]})));
    }

    #[test]
    fn types_that_a_format_lacks_are_named() {
        let schema = Schema::new(vec![Field::new("n", DataType::UInt64, true), Field::new("z", DataType::Null, true)]);
        let e = to_json(&schema, Dialect::Delta, &BTreeMap::new(), None, "gold.t").unwrap_err();
        assert!(matches!(&e, Error::Pipeline(c) if c.len() == 2 && c[0].message.contains("column n of gold.t")), "{e}");
        let json = to_json(&Schema::new(vec![schema.field(0).clone()]), Dialect::Parquet, &BTreeMap::new(), None, "t").unwrap();
        assert_eq!(from_json(&json).unwrap().field(0).data_type(), &DataType::UInt64);
    }

    #[test]
    fn added_columns_become_nullable_and_lost_ones_are_refused() {
        let ty = |n: &str, ty: DataType, null: bool| Field::new(n, ty, null);
        let json = |fields: Vec<Field>, old: Option<&Value>| {
            to_json(&Schema::new(fields), Dialect::Delta, &BTreeMap::from([("a".into(), "the a".into())]), old, "t").unwrap()
        };
        let old = json(vec![ty("a", DataType::Int64, false)], None);
        let new = evolve(&old, json(vec![ty("a", DataType::Int64, false), ty("b", DataType::Int64, false)], Some(&old)), "t").unwrap();
        assert_eq!(new["fields"][0]["nullable"], json!(false));
        assert_eq!(new["fields"][0]["metadata"]["comment"], json!("the a"));
        assert_eq!(new["fields"][1]["nullable"], json!(true));
        let of = |text: &str| Field::new("s", smelt_engine::types::ContractType::parse(text).unwrap().arrow(), true);
        let nested = |text: &str| json(vec![of(text)], None);
        let grown = evolve(&nested("list<struct<a: int64>>"), nested("list<struct<b: string, a: int64>>"), "t").unwrap();
        assert_eq!(grown["fields"][0]["type"]["elementType"]["fields"][0]["name"], json!("b"));
        for (old, new) in [
            ("struct<a: int64, b: string>", "struct<a: int64>"),
            ("struct<a: int64>", "struct<a: string, b: string>"),
            ("map<string, struct<a: int64>>", "map<string, struct<a: int64, b: string>>"),
        ] {
            assert!(evolve(&nested(old), nested(new), "t").is_err(), "{old} to {new}");
        }
        let e = evolve(&old, json(vec![ty("b", DataType::Int64, false)], None), "t").unwrap_err().to_string();
        assert!(e.contains("column a of t would be gone"), "{e}");
        let e = evolve(&old, json(vec![ty("a", DataType::Utf8View, false)], None), "t").unwrap_err().to_string();
        assert!(e.contains("is long and would become string"), "{e}");
    }
}
