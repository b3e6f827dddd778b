//! How a table's columns may change while its rows stay: which types hold all values of another, what the least type is that
//! holds the table's values and a batch's, how values are brought to it, and the record of each change.
//!
//! Knows types and arrays. When files are written anew for it, and in which commit, is the driver's to say.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::table::BatchId;
use crate::types::ContractType;

/// What one commit did to a table's columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaChange {
    /// `Checkpoint::sequence` of the commit.
    pub sequence: u64,
    pub batch: BatchId,
    /// Milliseconds since the epoch.
    pub at: i64,
    pub changes: Vec<ColumnChange>,
}

/// One change of one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnChange {
    pub kind: ChangeKind,
    /// The column's name after the change, with the path of a nested member: `user.city`, `items[].price`. Empty for `created`.
    pub column: String,
    /// The type before, or the name before of a renamed column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The type after; the number of columns of a created table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The table was made.
    Created,
    /// NULL in the rows that were there.
    Added,
    /// The same values in a type that holds more; the files were written anew.
    Widened,
    /// The same values under another name; the files were written anew.
    Renamed,
    /// Another type, in a table that was rebuilt.
    Retyped,
    /// Gone, in a table that was rebuilt.
    Dropped,
}

impl fmt::Display for ColumnChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (column, from, to) = (&self.column, self.from.as_deref().unwrap_or("?"), self.to.as_deref().unwrap_or("?"));
        match self.kind {
            ChangeKind::Created => write!(f, "created with {to} column{}", if to == "1" { "" } else { "s" }),
            ChangeKind::Added => write!(f, "added {column}: {to}"),
            ChangeKind::Widened => write!(f, "widened {column}: {from} to {to}"),
            ChangeKind::Renamed => write!(f, "renamed {from} to {column}"),
            ChangeKind::Retyped => write!(f, "rebuilt {column}: {from} to {to}"),
            ChangeKind::Dropped => write!(f, "dropped {column}: {from}"),
        }
    }
}

/// The type as users write it.
pub fn shown(ty: &DataType) -> String {
    ContractType::from_arrow(ty).map_or_else(|| ty.to_string(), |t| t.to_string())
}

/// Whether two types hold the same values: names inside lists and maps, nullability and the layout of text do not count.
pub fn same(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::Struct(x), DataType::Struct(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.name() == y.name() && same(x.data_type(), y.data_type()))
        }
        (DataType::List(x), DataType::List(y)) => same(x.data_type(), y.data_type()),
        (DataType::Map(x, _), DataType::Map(y, _)) => match (entries(x), entries(y)) {
            (Some(x), Some(y)) => same(x.0.data_type(), y.0.data_type()) && same(x.1.data_type(), y.1.data_type()),
            _ => false,
        },
        _ => a == b || (is_text(a) && is_text(b)) || (is_bytes(a) && is_bytes(b)),
    }
}

/// Whether every value of `from` is one of `to`, exactly.
pub fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::{Decimal128, Float32, Float64, Int8, Int16, Int32, Int64};
    match (from, to) {
        (Int8, Int16 | Int32 | Int64 | Float64) | (Int16, Int32 | Int64 | Float64) | (Int32, Int64 | Float64) | (Float32, Float64) => true,
        (Decimal128(p, s), Decimal128(wide, scale)) => {
            let whole = |p: &u8, s: &i8| i16::from(*p) - i16::from(*s);
            (p, s) != (wide, scale) && scale >= s && whole(wide, scale) >= whole(p, s)
        }
        (Int8 | Int16 | Int32 | Int64, Decimal128(p, s)) => {
            let digits = match from {
                Int8 => 3,
                Int16 => 5,
                Int32 => 10,
                _ => 19,
            };
            *s >= 0 && i16::from(*p) - i16::from(*s) >= digits
        }
        _ => false,
    }
}

/// What comes of a column of the table that meets rows of another type.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// Holds every value of both, in the layout that files have.
    pub ty: DataType,
    /// Whether the table's files must be written anew to be read as `ty`.
    pub rewrite: bool,
    /// Members that the table's type lacks, by their path below the column, such as `.city`.
    pub added: Vec<(String, DataType)>,
    /// Members (the column itself: path "") whose type becomes wider.
    pub widened: Vec<(String, DataType, DataType)>,
    /// Whether some value of the rows is widened to what the table has.
    pub narrower: bool,
}

/// The least type that holds the values of `table` and of `rows`; `None` where one of them would have to be changed for it.
/// A member that only one of the two has is NULL in the other.
pub fn merge(table: &DataType, rows: &DataType) -> Option<Merged> {
    let mut merged = Merged { ty: DataType::Null, rewrite: false, added: vec![], widened: vec![], narrower: false };
    merged.ty = merged.join(String::new(), table, rows, false)?;
    Some(merged)
}

impl Merged {
    /// `deep`: below a map, where readers do not fill what old files lack.
    fn join(&mut self, path: String, table: &DataType, rows: &DataType, deep: bool) -> Option<DataType> {
        Some(match (table, rows) {
            (DataType::Struct(old), DataType::Struct(new)) => {
                // structs that share nothing cannot be told from a mistake, nor be read by name
                old.iter().find(|f| new.find(f.name()).is_some())?;
                let mut fields = vec![];
                for field in old {
                    let ty = match new.find(field.name()) {
                        Some((_, other)) => self.join(format!("{path}.{}", field.name()), field.data_type(), other.data_type(), deep)?,
                        None => layout(field.data_type()),
                    };
                    fields.push(Field::new(field.name(), ty, true));
                }
                for field in new.iter().filter(|f| old.find(f.name()).is_none()) {
                    let ty = layout(field.data_type());
                    self.rewrite |= deep;
                    self.added.push((format!("{path}.{}", field.name()), ty.clone()));
                    fields.push(Field::new(field.name(), ty, true));
                }
                DataType::Struct(fields.into())
            }
            (DataType::List(old), DataType::List(new)) => list(self.join(format!("{path}[]"), old.data_type(), new.data_type(), deep)?),
            (DataType::Map(old, _), DataType::Map(new, _)) => {
                let (old, new) = (entries(old)?, entries(new)?);
                let key = self.join(format!("{path}{{key}}"), old.0.data_type(), new.0.data_type(), true)?;
                let value = self.join(format!("{path}{{}}"), old.1.data_type(), new.1.data_type(), true)?;
                map(key, value)
            }
            _ if same(table, rows) => layout(table),
            _ if widens(table, rows) => {
                self.rewrite = true;
                self.widened.push((path, table.clone(), rows.clone()));
                rows.clone()
            }
            _ if widens(rows, table) => {
                self.narrower = true;
                table.clone()
            }
            _ => return None,
        })
    }
}

/// The table's type with the members that only `rows` has.
pub fn grow(table: &DataType, rows: &DataType) -> DataType {
    match (table, rows) {
        (DataType::Struct(old), DataType::Struct(new)) => {
            let kept = old.iter().map(|f| {
                let ty = new.find(f.name()).map_or_else(|| layout(f.data_type()), |(_, n)| grow(f.data_type(), n.data_type()));
                Field::new(f.name(), ty, true)
            });
            let added = new.iter().filter(|f| old.find(f.name()).is_none()).map(|f| Field::new(f.name(), layout(f.data_type()), true));
            DataType::Struct(kept.chain(added).collect())
        }
        (DataType::List(old), DataType::List(new)) => list(grow(old.data_type(), new.data_type())),
        _ => layout(table),
    }
}

/// The type with lists and maps named as files have them.
pub fn layout(ty: &DataType) -> DataType {
    match ty {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| Field::new(f.name(), layout(f.data_type()), true)).collect()),
        DataType::List(item) => list(layout(item.data_type())),
        DataType::Map(inner, _) => match entries(inner) {
            Some((key, value)) => map(layout(key.data_type()), layout(value.data_type())),
            None => ty.clone(),
        },
        other => other.clone(),
    }
}

/// What differs between two schemas of one table that was rebuilt. `renames`: old and new names.
pub fn diff(old: &Schema, new: &Schema, renames: &[(String, String)]) -> Vec<ColumnChange> {
    let before = |name: &str| renames.iter().find(|(_, n)| n == name).map_or(name, |(o, _)| o.as_str()).to_owned();
    let mut changes = vec![];
    for field in new.fields() {
        let (was, to) = (before(field.name()), shown(field.data_type()));
        let change = |kind, from: Option<String>, to| ColumnChange { kind, column: field.name().clone(), from, to };
        match old.field_with_name(&was) {
            Err(_) => changes.push(change(ChangeKind::Added, None, Some(to))),
            Ok(known) => {
                if was != *field.name() {
                    changes.push(change(ChangeKind::Renamed, Some(was), None));
                }
                if !same(known.data_type(), field.data_type()) {
                    changes.push(change(ChangeKind::Retyped, Some(shown(known.data_type())), Some(to)));
                }
            }
        }
    }
    let kept = |name: &String| new.field_with_name(name).is_ok() || renames.iter().any(|(o, _)| o == name);
    changes.extend(old.fields().iter().filter(|f| !kept(f.name())).map(|f| ColumnChange {
        kind: ChangeKind::Dropped,
        column: f.name().clone(),
        from: Some(shown(f.data_type())),
        to: None,
    }));
    changes
}

/// Brings values to a type that [`merge`] or [`grow`] gave: members by name, those that are not there NULL.
///
/// # Errors
/// `Error::Value` where a value does not fit, which a widening never meets.
pub fn adapt(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    Ok(match (array.data_type(), to) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let whole = array.as_struct();
            let members = fields.iter().map(|f| match whole.column_by_name(f.name()) {
                Some(member) => adapt(member, f.data_type()),
                None => Ok(new_null_array(f.data_type(), whole.len())),
            });
            let members = members.collect::<Result<Vec<_>>>()?;
            Arc::new(StructArray::try_new_with_length(fields.clone(), members, whole.nulls().cloned(), whole.len())?)
        }
        (DataType::List(_), DataType::List(item)) => {
            let whole = array.as_list::<i32>();
            let values = adapt(whole.values(), item.data_type())?;
            Arc::new(ListArray::try_new(Arc::clone(item), whole.offsets().clone(), values, whole.nulls().cloned())?)
        }
        (DataType::Map(..), DataType::Map(inner, sorted)) => {
            let (whole, DataType::Struct(fields)) = (array.as_map(), inner.data_type()) else {
                return Err(Error::bug("a map without entries"));
            };
            let (Some(key), Some(value)) = (fields.first(), fields.get(1)) else { return Err(Error::bug("a map without key and value")) };
            let columns = vec![adapt(whole.keys(), key.data_type())?, adapt(whole.values(), value.data_type())?];
            let pairs = StructArray::try_new_with_length(fields.clone(), columns, None, whole.entries().len())?;
            Arc::new(MapArray::try_new(Arc::clone(inner), whole.offsets().clone(), pairs, whole.nulls().cloned(), *sorted)?)
        }
        _ => cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() })?,
    })
}

/// The expression `expr`, of type `from`, in the type `to`.
pub fn adapted(expr: Expr, from: &DataType, to: &DataType) -> Expr {
    if from == to { expr } else { ScalarUDF::new_from_impl(Adapt::new(to.clone())).call(vec![expr]) }
}

/// [`adapt`] as a DataFusion function.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Adapt {
    to: DataType,
    signature: Signature,
}

impl Adapt {
    fn new(to: DataType) -> Self {
        Adapt { to, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Adapt {
    fn name(&self) -> &str {
        "adapt"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _types: &[DataType]) -> datafusion::error::Result<DataType> {
        Ok(self.to.clone())
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion::error::Result<ColumnarValue> {
        Ok(match args.args.first() {
            Some(ColumnarValue::Array(array)) => ColumnarValue::Array(adapt(array, &self.to)?),
            // the value of a partition, or of a column that a file lacks
            Some(ColumnarValue::Scalar(value)) => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&adapt(&value.to_array()?, &self.to)?, 0)?)
            }
            None => return Err(Error::bug("adapt without an argument").into()),
        })
    }
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", item, true)))
}

fn map(key: DataType, value: DataType) -> DataType {
    let pair = DataType::Struct(vec![Field::new("key", key, false), Field::new("value", value, true)].into());
    DataType::Map(Arc::new(Field::new("key_value", pair, false)), false)
}

/// Key and value of a map's entries.
fn entries(field: &Field) -> Option<(&Field, &Field)> {
    match field.data_type() {
        DataType::Struct(fields) => Some((fields.first()?, fields.get(1)?)),
        _ => None,
    }
}

fn is_text(ty: &DataType) -> bool {
    matches!(ty, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(ty: &DataType) -> bool {
    matches!(ty, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, RecordBatch, StringViewArray};
    use arrow::util::pretty::pretty_format_batches;

    fn ty(text: &str) -> DataType {
        ContractType::parse(text).unwrap().arrow()
    }

    #[test]
    fn only_what_holds_every_value_is_wider() {
        for (from, to) in [
            ("int8", "int16"),
            ("int8", "int64"),
            ("int32", "int64"),
            ("int32", "double"),
            ("float", "double"),
            ("decimal(8,2)", "decimal(12,2)"),
            ("decimal(8,2)", "decimal(10,4)"),
            ("int64", "decimal(19,0)"),
            ("int16", "decimal(7,2)"),
        ] {
            assert!(widens(&ty(from), &ty(to)), "{from} to {to}");
            assert!(!widens(&ty(to), &ty(from)), "{to} to {from}");
            assert!(!widens(&ty(from), &ty(from)), "{from} is as wide as itself");
        }
        for (from, to) in [
            ("int64", "double"),
            ("int64", "decimal(18,0)"),
            ("int32", "float"),
            ("double", "float"),
            ("decimal(8,2)", "decimal(9,4)"),
            ("decimal(8,2)", "decimal(8,1)"),
            ("decimal(8,2)", "double"),
            ("date", "timestamp"),
            ("int32", "string"),
            ("boolean", "int8"),
        ] {
            assert!(!widens(&ty(from), &ty(to)), "{from} to {to}");
        }
    }

    #[test]
    fn names_inside_lists_and_maps_do_not_count() {
        let item = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8View, true)));
        assert!(same(&item, &ty("list<string>")));
        assert!(same(&DataType::Utf8, &DataType::Utf8View));
        assert!(!same(&ty("list<int32>"), &ty("list<int64>")));
        let pair = DataType::Struct(vec![Field::new("key", DataType::Utf8View, false), Field::new("value", DataType::Int64, true)].into());
        assert!(same(&DataType::Map(Arc::new(Field::new("entries", pair, false)), false), &ty("map<string, int64>")));
    }

    #[test]
    fn members_are_joined_by_name() {
        let merged = merge(&ty("struct<id: int32, name: string>"), &ty("struct<city: string, id: int64>")).unwrap();
        assert_eq!(merged.ty, ty("struct<id: int64, name: string, city: string>"));
        assert!(merged.rewrite && !merged.narrower);
        assert_eq!(merged.added, [(".city".to_owned(), DataType::Utf8View)]);
        assert_eq!(merged.widened, [(".id".to_owned(), DataType::Int32, DataType::Int64)]);

        let grown = merge(&ty("list<struct<a: int64>>"), &ty("list<struct<a: int64, b: date>>")).unwrap();
        assert!(!grown.rewrite, "readers fill what a struct lacks");
        assert_eq!(grown.added, [("[].b".to_owned(), DataType::Date32)]);
        assert!(merge(&ty("map<string, struct<a: int64>>"), &ty("map<string, struct<a: int64, b: date>>")).unwrap().rewrite);

        let narrow = merge(&ty("int64"), &ty("int32")).unwrap();
        assert_eq!((narrow.ty, narrow.rewrite, narrow.narrower), (DataType::Int64, false, true));
        for (a, b) in [
            ("struct<a: int64>", "struct<b: int64>"),
            ("int64", "double"),
            ("list<int64>", "int64"),
            ("struct<a: date>", "struct<a: int64>"),
        ] {
            assert!(merge(&ty(a), &ty(b)).is_none(), "{a} and {b}");
        }
        assert_eq!(grow(&ty("struct<a: int64>"), &ty("struct<a: string, b: date>")), ty("struct<a: int64, b: date>"));
    }

    #[test]
    fn values_follow_their_types() {
        let item = DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true)));
        let lists = ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
        assert_eq!(lists.data_type(), &item);
        let whole = StructArray::try_new(
            vec![Field::new("n", DataType::Int32, true), Field::new("l", item, true)].into(),
            vec![Arc::new(Int32Array::from(vec![Some(7), None, Some(9)])), Arc::new(lists)],
            Some(vec![true, true, false].into()),
        )
        .unwrap();
        let to = ty("struct<l: list<int64>, n: decimal(12,1), s: string>");
        let made = adapt(&(Arc::new(whole) as ArrayRef), &to).unwrap();
        assert_eq!(made.data_type(), &to);
        let shown = pretty_format_batches(&[RecordBatch::try_from_iter([("x", made)]).unwrap()]).unwrap().to_string();
        assert!(shown.contains("{l: [1, ], n: 7.0, s: }"), "{shown}");
        assert!(shown.contains("{l: , n: , s: }"), "{shown}");

        let pairs = ty("map<string, int32>");
        let DataType::Map(inner, _) = &pairs else { panic!("{pairs}") };
        let DataType::Struct(fields) = inner.data_type() else { panic!("{inner}") };
        let keys: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "b"]));
        let entries = StructArray::try_new(fields.clone(), vec![keys, Arc::new(Int32Array::from(vec![1, 2]))], None).unwrap();
        let offsets = arrow::buffer::OffsetBuffer::new(vec![0, 2, 2].into());
        let maps: ArrayRef = Arc::new(MapArray::try_new(Arc::clone(inner), offsets, entries, None, false).unwrap());
        let made = adapt(&maps, &ty("map<string, int64>")).unwrap();
        assert_eq!(made.data_type(), &ty("map<string, int64>"));
        assert_eq!(made.as_map().value_length(0), 2);
    }

    #[test]
    fn changes_of_a_rebuilt_table() {
        let schema = |columns: &[(&str, &str)]| Schema::new(columns.iter().map(|(n, t)| Field::new(*n, ty(t), true)).collect::<Vec<_>>());
        let old = schema(&[("id", "int64"), ("name", "string"), ("gone", "date"), ("x", "int32")]);
        let new = schema(&[("id", "int64"), ("title", "string"), ("x", "string"), ("y", "list<int64>")]);
        let text: Vec<String> = diff(&old, &new, &[("name".into(), "title".into())]).iter().map(ToString::to_string).collect();
        assert_eq!(text, ["renamed name to title", "rebuilt x: int32 to string", "added y: list<int64>", "dropped gone: date"]);
    }

    #[test]
    fn the_record_reads_itself_back() {
        let change = SchemaChange {
            sequence: 3,
            batch: BatchId("b".into()),
            at: 1,
            changes: vec![ColumnChange { kind: ChangeKind::Renamed, column: "b".into(), from: Some("a".into()), to: None }],
        };
        let json = serde_json::to_string(&change).unwrap();
        assert_eq!(json, r#"{"sequence":3,"batch":"b","at":1,"changes":[{"kind":"renamed","column":"b","from":"a"}]}"#);
        assert_eq!(serde_json::from_str::<SchemaChange>(&json).unwrap(), change);
    }
}
