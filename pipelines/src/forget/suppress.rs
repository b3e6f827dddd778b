//! The lake's memory of whom it forgot, so that input which is read again (a full refresh, a file that comes twice) does not bring them
//! back. Kept below `_smelt/forgotten` as keyed hashes of the values that the tables' columns had, never the values. Rows that a load
//! leaves out for it count as filtered.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::logical_expr::{ColumnarValue, Expr, LogicalPlanBuilder, Volatility, create_udf};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use smelt_connectors::stores::Location;
use smelt_engine::keys::Secret;
use smelt_engine::ledger::RejectSink;
use smelt_engine::load::Assembled;
use smelt_engine::steps::expression::column;
use smelt_engine::steps::mask::{Hmac, hex};
use smelt_engine::tally::tally;
use smelt_engine::{Error, Result};

use super::targets::{Target, shown};
use crate::bound::{Bound, BoundTable, Input};
use crate::run::context::RunContext;

const FOLDER: &str = "_smelt/forgotten";
const FORMAT: u32 = 1;

/// One list: what one command left.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    format: u32,
    /// Name of the key of the hashes.
    key: String,
    /// Of the key itself: another key under this name is seen.
    check: String,
    tables: BTreeMap<String, Entry>,
}

/// What one table must not take in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Hashes by column of the finished table.
    columns: BTreeMap<String, BTreeSet<String>>,
    /// Hashes by field of a refused record.
    fields: BTreeMap<String, FieldEntry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct FieldEntry {
    hashes: BTreeSet<String>,
    whole: bool,
    fold: bool,
}

fn hasher(key: &Secret) -> Hmac {
    Hmac::new(&Hmac::new(key.reveal()).digest(b"smelt.suppress"))
}

/// Numbers hash as they count, whatever type holds them: `4711`, `4711.0` and `4711.00` are one.
fn hash(hmac: &Hmac, text: &str) -> String {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let plain = match text.split_once('.') {
        Some((whole, part)) if digits(whole.trim_start_matches('-')) && digits(part) => text.trim_end_matches('0').trim_end_matches('.'),
        _ => text,
    };
    hex(&hmac.digest(plain.as_bytes())[..16])
}

fn check(hmac: &Hmac) -> String {
    hex(&hmac.digest(b"\0check")[..8])
}

/// Remembers the targets. The same command writes the same object again.
pub async fn remember(bound: &Bound, targets: &BTreeMap<String, Target>, name: &str, key: &Secret) -> Result<()> {
    let hmac = hasher(key);
    let mut tables = BTreeMap::new();
    for (table, target) in targets {
        let mut entry = Entry::default();
        for (column, arrays) in &target.columns {
            let hashes = entry.columns.entry(column.clone()).or_default();
            for array in arrays {
                hashes.extend(shown(array)?.iter().map(|text| hash(&hmac, text)));
            }
        }
        for (field, forms) in &target.matcher.fields {
            let folded = forms.texts.iter().filter(|_| forms.fold).map(|t| t.to_lowercase());
            let hashes = forms.texts.iter().cloned().chain(folded).map(|text| hash(&hmac, &text)).collect();
            entry.fields.insert(field.clone(), FieldEntry { hashes, whole: forms.whole, fold: forms.fold });
        }
        if entry != Entry::default() {
            tables.insert(table.clone(), entry);
        }
    }
    let list = List { format: FORMAT, key: name.to_owned(), check: check(&hmac), tables };
    let json = serde_json::to_vec(&list).map_err(|e| Error::bug(e.to_string()))?;
    let id = hex(&hmac.digest(&json)[..16]);
    let path = bound.lake.path(&format!("{FOLDER}/{id}.json"))?;
    bound.lake.store.put(&path, json.into()).await?;
    Ok(())
}

/// What a table must not take in, with the hasher of each list.
#[derive(Debug, Default)]
pub struct Forgotten {
    lists: Vec<(Hmac, Entry)>,
    /// The table reads input, where a column that is gone hides who must be left out.
    strict: bool,
}

/// Reads the lake's lists for one table.
///
/// # Errors
/// `Error::Data` where the key of a list is gone or another one: loading would bring people back.
pub async fn of(table: &BoundTable, cx: &RunContext) -> Result<Forgotten> {
    let mut forgotten = read(&cx.bound.lake, &table.name.to_string(), &cx.bound).await?;
    let Some(contract) = &table.contract else { return Ok(forgotten) };
    // a column that was renamed since still holds the same people
    for (_, entry) in &mut forgotten.lists {
        for column in &contract.columns {
            for old in column.was.iter().filter(|old| contract.columns.iter().all(|c| c.name != **old)) {
                if let Some(hashes) = entry.columns.remove(old) {
                    entry.columns.entry(column.name.clone()).or_default().extend(hashes);
                }
            }
        }
    }
    forgotten.strict = matches!(table.input, Input::Source(_));
    Ok(forgotten)
}

async fn read(lake: &Location, table: &str, bound: &Bound) -> Result<Forgotten> {
    let objects: Vec<_> = lake.store.list(Some(&lake.path(FOLDER)?)).map_ok(|o| o.location).try_collect().await?;
    let mut out = Forgotten::default();
    for path in objects.iter().filter(|p| p.as_ref().ends_with(".json")) {
        let json = lake.store.get(path).await?.bytes().await?;
        let damaged = |e: &dyn std::fmt::Display| {
            let message = format!("{path}, which says who was forgotten, cannot be read: {e}");
            Error::data(message, "restore it from a backup or versioning, or update smelt")
        };
        let mut list: List = serde_json::from_slice(&json).map_err(|e| damaged(&e))?;
        if list.format > FORMAT {
            return Err(damaged(&format!("it has format {}, this smelt knows up to {FORMAT}", list.format)));
        }
        let Some(entry) = list.tables.remove(table) else { continue };
        let help = "give the pipeline the key under which they were forgotten, beside the new one";
        let hmac = match bound.keys.get(&list.key) {
            Some(key) => hasher(key),
            None => {
                return Err(Error::data(
                    format!("{table} has forgotten people under the key `{}`, which the pipeline lacks", list.key),
                    help,
                ));
            }
        };
        if check(&hmac) != list.check {
            return Err(Error::data(format!("{table} has forgotten people under another key `{}`", list.key), help));
        }
        out.lists.push((hmac, entry));
    }
    Ok(out)
}

impl Forgotten {
    /// Leaves the rows of the forgotten out of a load. They count as filtered.
    pub fn apply(&self, assembled: Assembled) -> Result<Assembled> {
        let mut any: Option<Expr> = None;
        for (hmac, entry) in &self.lists {
            for (name, hashes) in &entry.columns {
                let Ok(field) = assembled.plan.schema().field_with_unqualified_name(name) else {
                    if self.strict {
                        return Err(Error::data(
                            format!("people were forgotten by the column `{name}`, which the table does not have any more"),
                            format!("keep the column, or say which one it is now with `was: {name}`: loading would bring them back"),
                        ));
                    }
                    continue;
                };
                let one = is_forgotten(hmac.clone(), hashes.iter().cloned().collect(), field.data_type()).call(vec![column(name)]);
                any = Some(any.map_or(one.clone(), |all| all.or(one)));
            }
        }
        let Some(any) = any else { return Ok(assembled) };
        let counted = tally(assembled.plan, "forgotten:in");
        let kept = LogicalPlanBuilder::from(counted).filter(Expr::Not(Box::new(any)))?.build()?;
        Ok(Assembled { plan: tally(kept, "forgotten:out"), ..assembled })
    }

    /// Keeps their refused records out of quarantine as well.
    pub fn sink(self, inner: Arc<dyn RejectSink>) -> Arc<dyn RejectSink> {
        if self.lists.iter().all(|(_, entry)| entry.fields.is_empty()) {
            return inner;
        }
        Arc::new(Sieve { forgotten: self, inner })
    }

    fn refuses(&self, raw: &str) -> bool {
        let Ok(Value::Object(record)) = serde_json::from_str::<Value>(raw) else {
            // of a line that is no record only its pieces can be looked up
            let mut pieces = raw.split([',', ';', '\t', '|', '"']).map(str::trim).filter(|piece| !piece.is_empty());
            return pieces.any(|piece| {
                let among = |(hmac, entry): &(Hmac, Entry)| {
                    let hash = hash(hmac, piece);
                    entry.fields.values().any(|field| field.hashes.contains(&hash))
                };
                self.lists.iter().any(among)
            });
        };
        self.lists.iter().any(|(hmac, entry)| {
            entry.fields.iter().any(|(name, field)| {
                let text = match record.get(name) {
                    Some(Value::String(text)) => text.trim().to_owned(),
                    Some(Value::Number(number)) => number.to_string(),
                    _ => return false,
                };
                let as_field = super::matcher::Field { whole: field.whole, ..Default::default() };
                let mut forms = as_field.forms(&text);
                if field.fold {
                    forms.push(text.to_lowercase());
                }
                forms.iter().any(|form| field.hashes.contains(&hash(hmac, form)))
            })
        })
    }
}

/// True for a value whose hash is among `hashes`; never NULL.
fn is_forgotten(hmac: Hmac, hashes: HashSet<String>, ty: &DataType) -> datafusion::logical_expr::ScalarUDF {
    let function = move |args: &[ColumnarValue]| {
        let values: ArrayRef = args[0].to_array(1)?;
        let texts = cast(&values, &DataType::Utf8View)?;
        let found: BooleanArray =
            texts.as_string_view().iter().map(|text| Some(text.is_some_and(|t| hashes.contains(&hash(&hmac, t))))).collect();
        Ok(ColumnarValue::Array(Arc::new(found)))
    };
    create_udf("is_forgotten", vec![ty.clone()], DataType::Boolean, Volatility::Volatile, Arc::new(function))
}

#[derive(Debug)]
struct Sieve {
    forgotten: Forgotten,
    inner: Arc<dyn RejectSink>,
}

#[async_trait]
impl RejectSink for Sieve {
    async fn push(&self, rows: RecordBatch) -> Result<()> {
        let Some(raw) = rows.column_by_name("raw") else { return self.inner.push(rows).await };
        let raw = cast(raw, &DataType::Utf8View)?;
        let keep: BooleanArray = raw.as_string_view().iter().map(|t| Some(!t.is_some_and(|t| self.forgotten.refuses(t)))).collect();
        if keep.true_count() == keep.len() {
            return self.inner.push(rows).await;
        }
        self.inner.push(filter_record_batch(&rows, &keep)?).await
    }
}
