//! JSON as a source: joins the file scan and the JSON decoder, and samples files for inference.
//!
//! Knows neither how bytes are read nor how JSON is parsed.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use parking_lot::Mutex;
use smelt_engine::contract::{Column, Contract, OnMissingColumn, OnNewColumn};
use smelt_engine::error::{Error, Result};
use smelt_engine::ledger::Ledger;
use smelt_engine::types::ContractType;

use super::block::{Block, Decoder, Splitter};
use super::bytes::{Fill, TextReader};
use super::infer::infer_json;
use super::json::{JsonColumn, JsonDecoder, JsonKind, JsonOptions, Layout, detect};
use super::scan::{Records, text_table};
use super::{JsonSpec, MessageFeed, SourceFile, former, raw_schema};

/// Bytes of each file that inference looks at, and the number of files.
const SAMPLE: usize = 4 << 20;
const SAMPLED_FILES: usize = 16;

/// Opens `files` as a table of raw rows.
pub(super) fn open(spec: &JsonSpec, files: Vec<SourceFile>, contract: &Contract, threads: usize) -> Result<Arc<dyn TableProvider>> {
    let columns = contract
        .columns
        .iter()
        .map(|c| JsonColumn {
            name: c.name.clone(),
            path: c.path.clone(),
            was: former(contract, c).map(str::to_owned).collect(),
            kind: match c.ty {
                ContractType::Struct(_) | ContractType::List(_) | ContractType::Map(..) | ContractType::Json => JsonKind::Json,
                _ => JsonKind::Scalar,
            },
        })
        .collect();
    let shown = Arc::new(files.iter().map(|f| f.path.clone()).collect());
    let partitions = files.iter().map(|f| f.partitions.clone()).collect();
    let decoder = Arc::new(JsonDecoder::new(columns, options(spec, contract), shown, partitions)?);
    let debezium = spec.feed == Some(MessageFeed::Debezium);
    let records = JsonRecords { decoder, debezium, on_new: contract.on_new_column, told: Arc::default(), ledger: Arc::default() };
    Ok(text_table(Arc::new(files), raw_schema(contract), spec.compression, spec.encoding, Arc::new(records), threads))
}

fn options(spec: &JsonSpec, contract: &Contract) -> JsonOptions {
    JsonOptions {
        flatten: spec.flatten,
        explode: spec.explode.clone(),
        rescue: contract.on_new_column == OnNewColumn::Rescue,
        debezium: spec.feed == Some(MessageFeed::Debezium),
        absent: contract.absent,
        lacking: contract.on_missing_column == OnMissingColumn::Ignore,
    }
}

/// What the records of the files' starts look like.
pub(super) async fn infer(spec: &JsonSpec, files: &[SourceFile]) -> Result<Vec<Column>> {
    let mut sample: Vec<u8> = vec![];
    for file in files.iter().take(SAMPLED_FILES) {
        let mut reader = TextReader::open(file, spec.compression, spec.encoding, None).await?;
        let mut text = vec![];
        let mut ended = false;
        while text.len() < SAMPLE && !ended {
            let want = (text.len() * 2).clamp(64 << 10, SAMPLE);
            ended = reader.fill(&mut text, want).await? != Fill::More;
        }
        // lines of several files make one sample; an array is a sample by itself
        if detect(&text, ended) == Some(Layout::Lines) {
            if !ended {
                text.truncate(memchr::memrchr(b'\n', &text).map_or(text.len(), |end| end + 1));
            }
            sample.append(&mut text);
            sample.push(b'\n');
        } else if sample.is_empty() {
            sample = text;
            break;
        }
    }
    Ok(infer_json(&sample, &options(spec, &Contract::default())))
}

/// Fields of the sample that the contract does not reach: scalars as string, the rest as json.
pub(super) async fn new_columns(spec: &JsonSpec, files: &[SourceFile], contract: &Contract) -> Result<Vec<Column>> {
    let reached = |found: &Column| {
        let place = found.path.as_deref().unwrap_or(&found.name);
        contract.columns.iter().any(|c| {
            let taken = c.path.as_deref().unwrap_or(&c.name);
            c.name == found.name
                || c.was.iter().any(|w| w == place)
                || taken == place
                || taken.strip_prefix(place).is_some_and(|rest| rest.starts_with(['.', '[']))
        })
    };
    let mut found = infer(spec, files).await?;
    found.retain(|column| !reached(column));
    for column in &mut found {
        column.formats.clear();
        column.ty = match column.ty {
            ContractType::Struct(_) | ContractType::List(_) | ContractType::Map(..) | ContractType::Json => ContractType::Json,
            _ => ContractType::String,
        };
    }
    Ok(found)
}

/// Struct columns of the contract, or lists of structs, in which the sample has members that the contract does not name, with
/// the type that has them too: scalars as string, the rest as json.
pub(super) async fn new_members(spec: &JsonSpec, files: &[SourceFile], contract: &Contract) -> Result<Vec<(String, ContractType)>> {
    let nested = |c: &&Column| matches!(c.ty, ContractType::Struct(_) | ContractType::List(_));
    if !contract.columns.iter().any(|c| nested(&c)) {
        return Ok(vec![]);
    }
    let found = infer(spec, files).await?;
    let place = |c: &Column| c.path.clone().unwrap_or_else(|| c.name.clone());
    let grown = contract.columns.iter().filter(nested).filter_map(|column| {
        let sampled = found.iter().find(|f| place(f) == place(column))?;
        let ty = grown(&column.ty, &sampled.ty);
        (ty != column.ty).then(|| (column.name.clone(), ty))
    });
    Ok(grown.collect())
}

fn grown(known: &ContractType, sampled: &ContractType) -> ContractType {
    match (known, sampled) {
        (ContractType::Struct(fields), ContractType::Struct(found)) => {
            let of = |fields: &[(String, ContractType)], name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, ty)| ty.clone());
            let kept = fields.iter().map(|(n, ty)| (n.clone(), of(found, n).map_or_else(|| ty.clone(), |f| grown(ty, &f))));
            let new = found.iter().filter(|(n, _)| fields.iter().all(|(known, _)| !known.eq_ignore_ascii_case(n))).map(|(n, ty)| {
                let plain = match ty {
                    ContractType::Struct(_) | ContractType::List(_) | ContractType::Map(..) | ContractType::Json => ContractType::Json,
                    _ => ContractType::String,
                };
                (n.clone(), plain)
            });
            ContractType::Struct(kept.chain(new).collect())
        }
        (ContractType::List(item), ContractType::List(found)) => ContractType::List(Box::new(grown(item, found))),
        _ => known.clone(),
    }
}

#[derive(Debug)]
struct JsonRecords {
    decoder: Arc<JsonDecoder>,
    debezium: bool,
    on_new: OnNewColumn,
    /// Keys that the report names already.
    told: Arc<Mutex<BTreeSet<String>>>,
    ledger: Arc<OnceLock<Arc<Ledger>>>,
}

impl Records for JsonRecords {
    fn splitter(&self, file: usize, ledger: &Arc<Ledger>) -> Box<dyn Splitter> {
        let _ = self.ledger.set(Arc::clone(ledger));
        self.decoder.splitter(file)
    }

    fn decoder(&self, projection: &[usize]) -> Arc<dyn Decoder> {
        let all = projection.iter().copied().eq(0..self.decoder.schema().fields().len());
        Arc::new(Projected {
            decoder: Arc::clone(&self.decoder),
            projection: (!all).then(|| projection.to_vec()),
            debezium: self.debezium,
            on_new: self.on_new,
            told: Arc::clone(&self.told),
            ledger: Arc::clone(&self.ledger),
        })
    }
}

struct Projected {
    decoder: Arc<JsonDecoder>,
    projection: Option<Vec<usize>>,
    debezium: bool,
    on_new: OnNewColumn,
    told: Arc<Mutex<BTreeSet<String>>>,
    ledger: Arc<OnceLock<Arc<Ledger>>>,
}

impl Decoder for Projected {
    fn decode(&self, block: Block) -> Result<Vec<RecordBatch>> {
        let batches = self.decoder.decode(block)?;
        let tombstones = self.decoder.take_tombstones();
        if let Some(ledger) = self.ledger.get().filter(|_| tombstones > 0) {
            ledger.warn("tombstones (messages that are null) stand for no row and were left out", tombstones as usize);
        }
        if self.on_new != OnNewColumn::Rescue {
            self.unknown()?;
        }
        match &self.projection {
            None => Ok(batches),
            Some(projection) => batches.iter().map(|b| Ok(b.project(projection)?)).collect(),
        }
    }
}

impl Projected {
    /// Says, or refuses, what the contract does not name.
    fn unknown(&self) -> Result<()> {
        for key in self.decoder.unknown_keys() {
            // What a flattened row has of the envelope.
            if self.debezium && key.starts_with("__") {
                continue;
            }
            if self.told.lock().insert(key.clone()) {
                if self.on_new == OnNewColumn::Fail {
                    return Err(Error::data(
                        format!("the records have the field `{key}`, which the contract does not name"),
                        "add it to `columns`, or set `on_new_column` to add, ignore or rescue",
                    ));
                }
                if let Some(ledger) = self.ledger.get() {
                    ledger.warn(format!("the field `{key}` is not in the contract and was left out"), 0);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_gain_what_the_sample_has() {
        let ty = |text: &str| ContractType::parse(text).unwrap();
        let cases = [
            ("struct<id: int64>", "struct<id: double, city: string, at: struct<x: int64>>", "struct<id: int64, city: string, at: json>"),
            ("list<struct<a: date>>", "list<struct<a: string, n: int64>>", "list<struct<a: date, n: string>>"),
            ("struct<id: int64>", "string", "struct<id: int64>"),
            ("list<int64>", "list<struct<a: int64>>", "list<int64>"),
        ];
        for (known, sampled, wanted) in cases {
            assert_eq!(grown(&ty(known), &ty(sampled)), ty(wanted), "{known} and {sampled}");
        }
    }
}
