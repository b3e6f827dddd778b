//! The types of a contract, as users write them, and the Arrow types that carry them.
//!
//! Knows how a type is spelled and how it is stored. How a value's text is read is `conform`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

/// A type of the contract language.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ContractType {
    String,
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    Float,
    Double,
    /// Precision 1..=38 and scale 0..=precision.
    Decimal(u8, i8),
    Date,
    /// An instant: microseconds, UTC.
    Timestamp,
    /// Time of day; carried and stored as the string `HH:MM:SS[.ffffff]`, since Delta has no such type.
    Time,
    Binary,
    /// Any JSON value, kept as its text.
    Json,
    Struct(Vec<(String, ContractType)>),
    List(Box<ContractType>),
    Map(Box<ContractType>, Box<ContractType>),
}

/// What is wrong with the text of a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", .help.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
pub struct TypeError {
    /// 0-based position in the text, in characters.
    pub position: usize,
    /// What is wrong, in one sentence without a final period.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl ContractType {
    /// Reads a type as users write it: `decimal(12,2)`, `list<struct<sku: string, qty: int32>>`. Case does not matter,
    /// and the names of other systems are understood (`varchar`, `bigint`, `numeric(p,s)`, `array<..>`, `struct<a:int>`).
    pub fn parse(text: &str) -> Result<ContractType, TypeError> {
        let mut reader = Reader { text, at: 0 };
        let ty = reader.ty(0)?;
        reader.space();
        if reader.at < text.len() {
            let rest = &text[reader.at..];
            return Err(reader.error(reader.at, format!("'{rest}' is left over after the type {ty}"), None));
        }
        Ok(ty)
    }

    /// The Arrow type in plans: Utf8View for text, BinaryView for bytes, Timestamp(us, "UTC"), maps and lists in Spark's layout.
    pub fn arrow(&self) -> DataType {
        match self {
            ContractType::String | ContractType::Json | ContractType::Time => DataType::Utf8View,
            ContractType::Boolean => DataType::Boolean,
            ContractType::Int8 => DataType::Int8,
            ContractType::Int16 => DataType::Int16,
            ContractType::Int32 => DataType::Int32,
            ContractType::Int64 => DataType::Int64,
            ContractType::Float => DataType::Float32,
            ContractType::Double => DataType::Float64,
            ContractType::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale),
            ContractType::Date => DataType::Date32,
            ContractType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ContractType::Binary => DataType::BinaryView,
            ContractType::Struct(fields) => DataType::Struct(fields.iter().map(|(name, ty)| Field::new(name, ty.arrow(), true)).collect()),
            ContractType::List(item) => DataType::List(Arc::new(Field::new("element", item.arrow(), true))),
            ContractType::Map(key, value) => {
                let entries = Fields::from(vec![Field::new("key", key.arrow(), false), Field::new("value", value.arrow(), true)]);
                DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
            }
        }
    }

    /// The type of the language that holds every value of an Arrow type; `None` where there is none (intervals, unions).
    pub fn from_arrow(ty: &DataType) -> Option<ContractType> {
        Some(match ty {
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ContractType::String,
            DataType::Boolean => ContractType::Boolean,
            DataType::Int8 => ContractType::Int8,
            DataType::Int16 | DataType::UInt8 => ContractType::Int16,
            DataType::Int32 | DataType::UInt16 => ContractType::Int32,
            DataType::Int64 | DataType::UInt32 => ContractType::Int64,
            DataType::UInt64 => ContractType::Decimal(20, 0),
            DataType::Float16 | DataType::Float32 => ContractType::Float,
            DataType::Float64 => ContractType::Double,
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => {
                // A negative scale is more digits before the point; scale above precision is zeros after it.
                let precision = if *s < 0 { i16::from(*p) - i16::from(*s) } else { i16::from(*p).max(i16::from(*s)) };
                ContractType::Decimal(u8::try_from(precision).ok().filter(|p| *p <= 38)?, (*s).max(0))
            }
            DataType::Date32 | DataType::Date64 => ContractType::Date,
            DataType::Timestamp(..) => ContractType::Timestamp,
            DataType::Time32(_) | DataType::Time64(_) => ContractType::Time,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => ContractType::Binary,
            DataType::Dictionary(_, value) => ContractType::from_arrow(value)?,
            DataType::RunEndEncoded(_, value) => ContractType::from_arrow(value.data_type())?,
            DataType::Struct(fields) => ContractType::Struct(
                fields.iter().map(|f| Some((f.name().clone(), ContractType::from_arrow(f.data_type())?))).collect::<Option<_>>()?,
            ),
            DataType::List(item)
            | DataType::LargeList(item)
            | DataType::FixedSizeList(item, _)
            | DataType::ListView(item)
            | DataType::LargeListView(item) => ContractType::List(Box::new(ContractType::from_arrow(item.data_type())?)),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => ContractType::Map(
                    Box::new(ContractType::from_arrow(fields[0].data_type())?),
                    Box::new(ContractType::from_arrow(fields[1].data_type())?),
                ),
                _ => return None,
            },
            _ => return None,
        })
    }
}

impl fmt::Display for ContractType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContractType::String => f.write_str("string"),
            ContractType::Boolean => f.write_str("boolean"),
            ContractType::Int8 => f.write_str("int8"),
            ContractType::Int16 => f.write_str("int16"),
            ContractType::Int32 => f.write_str("int32"),
            ContractType::Int64 => f.write_str("int64"),
            ContractType::Float => f.write_str("float"),
            ContractType::Double => f.write_str("double"),
            ContractType::Decimal(p, s) => write!(f, "decimal({p},{s})"),
            ContractType::Date => f.write_str("date"),
            ContractType::Timestamp => f.write_str("timestamp"),
            ContractType::Time => f.write_str("time"),
            ContractType::Binary => f.write_str("binary"),
            ContractType::Json => f.write_str("json"),
            ContractType::Struct(fields) => {
                f.write_str("struct<")?;
                for (i, (name, ty)) in fields.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{}: {ty}", quoted(name))?;
                }
                f.write_str(">")
            }
            ContractType::List(item) => write!(f, "list<{item}>"),
            ContractType::Map(key, value) => write!(f, "map<{key}, {value}>"),
        }
    }
}

impl std::str::FromStr for ContractType {
    type Err = TypeError;
    fn from_str(text: &str) -> Result<Self, TypeError> {
        ContractType::parse(text)
    }
}

impl serde::Serialize for ContractType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ContractType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        ContractType::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for ContractType {
    fn inline_schema() -> bool {
        false
    }
    fn schema_name() -> Cow<'static, str> {
        "ContractType".into()
    }
    fn schema_id() -> Cow<'static, str> {
        concat!(module_path!(), "::ContractType").into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A type: string, boolean, int8, int16, int32, int64, float, double, decimal(precision,scale), date, timestamp, \
                time, binary, json, struct<name: type, ...>, list<type> or map<type, type>. Names of other systems are understood: \
                varchar, text, int, bigint, numeric(p,s), datetime, array<type>.",
            "pattern": pattern(),
            "examples": ["string", "int64", "decimal(12,2)", "timestamp", "list<string>", "struct<sku: string, qty: int32>", "map<string, int64>"],
        })
    }
}

/// Names of types without arguments, the canonical one of each first.
const PLAIN: &[(&str, ContractType)] = &[
    ("string", ContractType::String),
    ("varchar", ContractType::String),
    ("text", ContractType::String),
    ("boolean", ContractType::Boolean),
    ("bool", ContractType::Boolean),
    ("int8", ContractType::Int8),
    ("tinyint", ContractType::Int8),
    ("byte", ContractType::Int8),
    ("int16", ContractType::Int16),
    ("smallint", ContractType::Int16),
    ("short", ContractType::Int16),
    ("int32", ContractType::Int32),
    ("int", ContractType::Int32),
    ("integer", ContractType::Int32),
    ("int64", ContractType::Int64),
    ("bigint", ContractType::Int64),
    ("long", ContractType::Int64),
    ("float", ContractType::Float),
    ("real", ContractType::Float),
    ("float32", ContractType::Float),
    ("double", ContractType::Double),
    ("float64", ContractType::Double),
    ("date", ContractType::Date),
    ("timestamp", ContractType::Timestamp),
    ("datetime", ContractType::Timestamp),
    ("time", ContractType::Time),
    ("binary", ContractType::Binary),
    ("json", ContractType::Json),
];

/// Names that take arguments.
const WITH_ARGUMENTS: [&str; 7] = ["decimal", "numeric", "number", "struct", "list", "array", "map"];

/// Deeper than any table; keeps hostile text from exhausting the stack.
const MAX_DEPTH: usize = 32;

fn pattern() -> String {
    let both = |names: &mut dyn Iterator<Item = &str>| names.map(|n| format!("{n}|{}", n.to_uppercase())).collect::<Vec<_>>().join("|");
    let plain = both(&mut PLAIN.iter().map(|(n, _)| *n));
    let decimals = both(&mut WITH_ARGUMENTS[..3].iter().copied());
    let nested = both(&mut WITH_ARGUMENTS[3..].iter().copied());
    format!(r"^\s*(({plain})|({decimals})\s*\(\s*\d+\s*(,\s*\d+\s*)?\)|({nested})\s*<.+>)\s*$")
}

fn quoted(name: &str) -> Cow<'_, str> {
    let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.is_empty();
    if plain { Cow::Borrowed(name) } else { Cow::Owned(format!("`{}`", name.replace('`', "``"))) }
}

struct Reader<'a> {
    text: &'a str,
    /// Byte position.
    at: usize,
}

impl Reader<'_> {
    fn ty(&mut self, depth: usize) -> Result<ContractType, TypeError> {
        self.space();
        let start = self.at;
        if depth > MAX_DEPTH {
            return Err(self.error(start, format!("types nest more than {MAX_DEPTH} deep"), None));
        }
        let word = self.word().to_lowercase();
        match word.as_str() {
            "" => {
                let found = self.text[start..].chars().next().map_or("the end".to_owned(), |c| format!("'{c}'"));
                Err(self.error(start, format!("a type should stand here, not {found}"), Some("write for example string or int64".into())))
            }
            "decimal" | "numeric" | "number" => self.decimal(start, &word),
            "struct" => {
                self.expect('<', "struct<a: int64, b: string>")?;
                let mut fields: Vec<(String, ContractType)> = vec![];
                loop {
                    self.space();
                    let at = self.at;
                    let name = self.field_name()?;
                    if fields.iter().any(|(n, _)| *n == name) {
                        return Err(self.error(at, format!("the struct has two fields '{name}'"), Some("rename one of them".into())));
                    }
                    self.expect(':', "struct<a: int64, b: string>")?;
                    fields.push((name, self.ty(depth + 1)?));
                    if !self.more(',', '>', "struct<a: int64, b: string>")? {
                        return Ok(ContractType::Struct(fields));
                    }
                }
            }
            "list" | "array" => {
                self.expect('<', "list<string>")?;
                let item = self.ty(depth + 1)?;
                self.expect('>', "list<string>")?;
                Ok(ContractType::List(Box::new(item)))
            }
            "map" => {
                self.expect('<', "map<string, int64>")?;
                self.space();
                let at = self.at;
                let key = self.ty(depth + 1)?;
                if matches!(key, ContractType::Struct(_) | ContractType::List(_) | ContractType::Map(..) | ContractType::Json) {
                    return Err(self.error(at, format!("{key} cannot be the key of a map"), Some("use string, a number or a date".into())));
                }
                self.expect(',', "map<string, int64>")?;
                let value = self.ty(depth + 1)?;
                self.expect('>', "map<string, int64>")?;
                Ok(ContractType::Map(Box::new(key), Box::new(value)))
            }
            _ => match PLAIN.iter().find(|(name, _)| *name == word) {
                Some((_, ty)) => {
                    self.space();
                    if self.text[self.at..].starts_with(['(', '<']) {
                        let help = match ty {
                            ContractType::String => "write string, and bound the length with a check",
                            _ => "leave out what follows the name",
                        };
                        return Err(self.error(self.at, format!("{ty} takes no arguments"), Some(help.into())));
                    }
                    Ok(ty.clone())
                }
                None => Err(self.error(start, format!("'{word}' is not a type"), Some(suggestion(&word)))),
            },
        }
    }

    fn decimal(&mut self, start: usize, word: &str) -> Result<ContractType, TypeError> {
        self.space();
        if !self.text[self.at..].starts_with('(') {
            let help = format!("write for example {word}(12,2): digits in all, and of them after the point");
            return Err(self.error(start, format!("{word} needs a precision and a scale"), Some(help)));
        }
        self.expect('(', "decimal(12,2)")?;
        let (at, precision) = self.number()?;
        if !(1..=38).contains(&precision) {
            return Err(self.error(at, format!("a precision of {precision} is not possible"), Some("use 1 to 38".into())));
        }
        let mut scale = 0;
        if self.more(',', ')', "decimal(12,2)")? {
            let (at, given) = self.number()?;
            if given > precision {
                let help = format!("use 0 to {precision}");
                return Err(self.error(at, format!("the scale {given} is more than the precision {precision}"), Some(help)));
            }
            scale = given;
            self.expect(')', "decimal(12,2)")?;
        }
        Ok(ContractType::Decimal(precision as u8, scale as i8))
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.text[self.at..].trim_start().len();
    }

    fn word(&mut self) -> &str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn field_name(&mut self) -> Result<String, TypeError> {
        let start = self.at;
        let rest = &self.text[start..];
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '`' | '"')) else {
            let name = self.word().to_owned();
            if name.is_empty() {
                let help = "write struct<name: type>; quote unusual names with backticks";
                return Err(self.error(start, "a field's name should stand here".into(), Some(help.into())));
            }
            return Ok(name);
        };
        let (mut name, mut from) = (String::new(), 1);
        while let Some(end) = rest[from..].find(quote) {
            name.push_str(&rest[from..from + end]);
            from += end + 1;
            if !rest[from..].starts_with(quote) {
                self.at = start + from;
                return Ok(name);
            }
            name.push(quote);
            from += 1;
        }
        Err(self.error(start, "the quoted name does not end".into(), Some(format!("close it with {quote}"))))
    }

    fn number(&mut self) -> Result<(usize, u32), TypeError> {
        self.space();
        let start = self.at;
        match self.word().parse::<u32>() {
            Ok(n) => Ok((start, n)),
            Err(_) => Err(self.error(start, "a whole number should stand here".into(), Some("write for example decimal(12,2)".into()))),
        }
    }

    /// True at `separator`, false at `end`; both are consumed.
    fn more(&mut self, separator: char, end: char, example: &str) -> Result<bool, TypeError> {
        self.space();
        if self.text[self.at..].starts_with(separator) {
            self.at += separator.len_utf8();
            return Ok(true);
        }
        self.expect(end, example)?;
        Ok(false)
    }

    fn expect(&mut self, wanted: char, example: &str) -> Result<(), TypeError> {
        self.space();
        match self.text[self.at..].chars().next() {
            Some(c) if c == wanted => {
                self.at += c.len_utf8();
                Ok(())
            }
            found => {
                let found = found.map_or("the end".to_owned(), |c| format!("'{c}'"));
                Err(self.error(self.at, format!("'{wanted}' should stand here, not {found}"), Some(format!("write for example {example}"))))
            }
        }
    }

    fn error(&self, at: usize, message: String, help: Option<String>) -> TypeError {
        TypeError { position: self.text[..at].chars().count(), message, help }
    }
}

fn suggestion(word: &str) -> String {
    let names = PLAIN.iter().map(|(n, _)| *n).chain(WITH_ARGUMENTS);
    let best = names.map(|n| (strsim::jaro_winkler(word, n), n)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, name)) if score > 0.75 => format!("did you mean {name}?"),
        _ => "the types are string, boolean, int8, int16, int32, int64, float, double, decimal(p,s), date, timestamp, time, binary, json, \
              struct<..>, list<..> and map<..>"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ContractType {
        ContractType::parse(text).unwrap()
    }

    fn fails(text: &str) -> TypeError {
        ContractType::parse(text).unwrap_err()
    }

    #[test]
    fn every_type_round_trips_through_its_text() {
        for text in [
            "string",
            "boolean",
            "int8",
            "int16",
            "int32",
            "int64",
            "float",
            "double",
            "decimal(12,2)",
            "decimal(38,38)",
            "date",
            "timestamp",
            "time",
            "binary",
            "json",
            "struct<a: int64, b: string>",
            "struct<`a b`: int64, `q``x`: list<struct<é: date>>>",
            "list<map<string, decimal(5,0)>>",
            "map<string, int64>",
        ] {
            assert_eq!(parse(text).to_string(), text);
            assert_eq!(parse(&text.to_uppercase().replace("`A B`", "`a b`")).arrow().is_nested(), parse(text).arrow().is_nested());
        }
    }

    #[test]
    fn names_of_other_systems_are_understood() {
        for (text, canonical) in [
            ("VARCHAR", "string"),
            ("text", "string"),
            ("bool", "boolean"),
            ("tinyint", "int8"),
            ("smallint", "int16"),
            ("int", "int32"),
            ("integer", "int32"),
            ("BigInt", "int64"),
            ("long", "int64"),
            ("real", "float"),
            ("float64", "double"),
            ("numeric(10)", "decimal(10,0)"),
            ("Number( 9 , 2 )", "decimal(9,2)"),
            ("datetime", "timestamp"),
            ("array<int>", "list<int32>"),
            ("struct<a:int,b:array<string>>", "struct<a: int32, b: list<string>>"),
            ("struct<\"x.y\":int>", "struct<`x.y`: int32>"),
        ] {
            assert_eq!(parse(text).to_string(), canonical);
        }
    }

    #[test]
    fn mistakes_name_their_place_and_the_remedy() {
        let e = fails("strng");
        assert_eq!((e.position, e.help.as_deref()), (0, Some("did you mean string?")));
        let e = fails("struct<é: int64, b: bigit>");
        assert_eq!((e.position, e.help.as_deref()), (20, Some("did you mean bigint?")));
        assert!(fails("decimal").help.unwrap().contains("decimal(12,2)"));
        assert_eq!(fails("decimal(39,2)").message, "a precision of 39 is not possible");
        assert_eq!(fails("decimal(4,5)").position, 10);
        assert!(fails("varchar(20)").help.unwrap().contains("check"));
        assert!(fails("list<string").message.contains("not the end"));
        assert!(fails("int64 x").message.contains("left over"));
        assert!(fails("map<list<int>, int>").message.contains("key of a map"));
        assert!(fails("struct<a: int, a: int>").message.contains("two fields"));
        assert!(fails("").message.contains("a type should stand here"));
        assert!(fails(&"list<".repeat(100_000)).message.contains("deep"));
    }

    #[test]
    fn arrow_types_follow_sparks_layout_and_come_back() {
        let DataType::Map(entries, false) = parse("map<string, int64>").arrow() else { panic!() };
        assert_eq!(entries.name(), "key_value");
        assert_eq!(parse("timestamp").arrow(), DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
        for text in ["struct<a: int64, b: list<map<string, double>>>", "decimal(12,2)", "timestamp", "binary", "boolean", "date"] {
            assert_eq!(ContractType::from_arrow(&parse(text).arrow()), Some(parse(text)));
        }
        assert_eq!(ContractType::from_arrow(&DataType::UInt64), Some(ContractType::Decimal(20, 0)));
        assert_eq!(ContractType::from_arrow(&DataType::Decimal128(5, -2)), Some(ContractType::Decimal(7, 0)));
        assert_eq!(ContractType::from_arrow(&DataType::Duration(TimeUnit::Second)), None);
    }

    #[test]
    fn serde_and_schema_speak_text() {
        let ty: ContractType = serde_json::from_str("\"list<int>\"").unwrap();
        assert_eq!(serde_json::to_string(&ty).unwrap(), "\"list<int32>\"");
        let e = serde_json::from_str::<ContractType>("\"intt\"").unwrap_err().to_string();
        assert!(e.contains("did you mean int?"), "{e}");
        let schema = serde_json::to_value(schemars::schema_for!(ContractType)).unwrap();
        let pattern = regex::Regex::new(schema["pattern"].as_str().unwrap()).unwrap();
        for text in ["string", "BIGINT", "decimal(12, 2)", "struct<a: int>", "numeric(5)"] {
            assert!(pattern.is_match(text), "{text}");
        }
        for text in ["strin", "decimal", "list", "string<int>"] {
            assert!(!pattern.is_match(text), "{text}");
        }
    }
}
