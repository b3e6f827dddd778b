//! CSV as a source: its options, its header, and how a file's fields become the columns of a contract.
//!
//! Cutting is `csv_split`, decoding `csv_decode`, finding bytes `csv_scan`. The rules that both cutting and decoding follow:
//! a quote opens a field only at its start; a quoted field ends at a quote that the delimiter, the line's end or the file's end follows;
//! text after that quote, or no such quote (a record with line breaks in quotes must end within 64 MB), costs
//! the record's first physical line only, and reading resumes on the next line.

use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::TableProvider;
use hashbrown::HashMap;
use schemars::JsonSchema;
use serde::Deserialize;
use smelt_engine::contract::{Column, Contract, OnMissingColumn, OnNewColumn, absent_bits, hidden};
use smelt_engine::error::{Complaint, Error, Result};
use smelt_engine::ledger::Ledger;
use smelt_engine::types::ContractType;

use super::block::{Decoder, Splitter};
use super::bytes::TextReader;
use super::chunk::{Chunker, Piece};
use super::csv_decode::CsvDecoder;
use super::csv_split::CsvSplitter;
use super::feed::RowFeed;
use super::scan::{Records, text_table};
use super::{Compression, Encoding, Paths, SourceFile, former, raw_schema, yes};

/// Delimited text files. Columns are matched to the contract by the names in each file's header, in any order.
///
/// ```yaml
/// csv: {path: "data/orders/*.csv", delimiter: ";", null_values: ["", "NULL"]}
/// ```
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvSpec {
    /// A file, a folder, a glob (`data/**/*.csv.gz`), or a list of them.
    pub path: Paths,
    /// The first line names the columns. `false`: the contract's columns, in order. True when absent, but false with `feed: dms`.
    #[serde(default)]
    pub header: Option<bool>,
    /// What separates fields: one character such as `;`, `"\t"` for a tab, or several such as `||`.
    #[serde(default = "comma")]
    pub delimiter: String,
    /// What encloses fields that hold delimiters or line breaks; `""` switches quoting off.
    #[serde(default = "quote")]
    pub quote: String,
    /// What stands before a quote inside a quoted field, e.g. `\`. A doubled quote is always understood.
    #[serde(default)]
    pub escape: Option<String>,
    /// Lines that begin with this are left out, e.g. `#`.
    #[serde(default)]
    pub comment: Option<String>,
    /// Texts that mean NULL, quoted or not, e.g. `["", "NULL"]`.
    #[serde(default = "empty_is_null")]
    pub null_values: Vec<String>,
    /// Lines to leave out at the start of each file, before the header.
    #[serde(default)]
    pub skip_lines: usize,
    /// How the files are compressed: `auto` (by extension), `none`, `gz`, `zst`, `bz2`.
    #[serde(default)]
    pub compression: Compression,
    /// The text encoding, e.g. `utf-8`, `latin1`, `windows-1252`, `utf-16`.
    #[serde(default)]
    pub encoding: Encoding,
    /// Leaves files alone that were modified more recently than this, e.g. `30s`, `5m`, `1h`.
    #[serde(default)]
    pub min_age: Option<String>,
    /// It is no error when no file is found.
    #[serde(default)]
    pub allow_empty: bool,
    /// Takes `key=value` folders as columns, where the contract names them.
    #[serde(default = "yes")]
    pub hive_partitions: bool,
    /// The files are those of a change feed: `dms`. Every row has a column `op`, which is `I` in files without one.
    #[serde(default)]
    pub feed: Option<RowFeed>,
}

/// The bytes that structure a file. `quote` and `escape` are absent where there is none.
#[derive(Debug, Clone)]
pub(crate) struct Dialect {
    pub delimiter: Vec<u8>,
    pub quote: Option<u8>,
    pub escape: Option<u8>,
    pub comment: Option<u8>,
    pub header: bool,
    pub skip_lines: usize,
    /// A quoted record longer than this is taken for one whose quote is never closed.
    pub limit: usize,
    /// Where the splitter likes to end a block.
    pub block: usize,
}

/// How the fields of one file become columns. Known once its start was read.
#[derive(Debug)]
pub(crate) struct Layout {
    /// For each field: the column of the raw schema, [`RESCUE`], or [`NOWHERE`].
    pub columns: Vec<usize>,
    /// Fields that go to `_rescued`, by position and name.
    pub rescue: Vec<(usize, String)>,
    /// Columns of the raw schema with one value for the whole file.
    pub constants: Vec<(usize, Option<String>)>,
    /// `_absent` of the file's rows.
    pub absent: Option<Vec<u8>>,
    /// Offset of the first byte after the header in the decoded text.
    pub data: u64,
    pub newline: u8,
}

pub(crate) const NOWHERE: usize = usize::MAX;
pub(crate) const RESCUE: usize = usize::MAX - 1;

/// Everything that splitters and decoders of one scan share.
#[derive(Debug)]
pub(crate) struct CsvRecords {
    pub files: Arc<Vec<SourceFile>>,
    pub dialect: Dialect,
    pub contract: Contract,
    pub null_values: Vec<String>,
    pub encoding: Encoding,
    pub layouts: Vec<OnceLock<Layout>>,
}

impl CsvSpec {
    pub(crate) fn validate(&self) -> Vec<Complaint> {
        let mut complaints = vec![];
        let mut one_byte = |key: &str, text: &str, may_be_empty: bool| {
            if (text.len() != 1 || !text.is_ascii() || text == "\n" || text == "\r") && !(may_be_empty && text.is_empty()) {
                let none = if may_be_empty { ", or `\"\"` for none" } else { "" };
                complaints.push(
                    Complaint::at([key], format!("`{text}` is not one ASCII character"))
                        .help(format!("write one such as `\"`, `'` or `#`{none}")),
                );
            }
        };
        one_byte("quote", &self.quote, true);
        if let Some(escape) = &self.escape {
            one_byte("escape", escape, true);
        }
        if let Some(comment) = &self.comment {
            one_byte("comment", comment, true);
        }
        let delimiter = self.delimiter();
        if delimiter.is_empty() || delimiter.contains(['\n', '\r']) {
            complaints.push(
                Complaint::at(["delimiter"], "a delimiter is one or more characters, and no line break")
                    .help("write `,`, `;`, `\"\\t\"` or `|`"),
            );
        }
        for (key, text) in [("quote", Some(&self.quote)), ("escape", self.escape.as_ref()), ("comment", self.comment.as_ref())] {
            if let Some(text) = text.filter(|t| !t.is_empty() && delimiter.contains(t.as_str())) {
                complaints
                    .push(Complaint::at([key], format!("the {key} `{text}` is in the delimiter `{delimiter}`")).help("they must differ"));
            }
        }
        if let Some(comment) = self.comment.as_ref().filter(|c| !c.is_empty() && **c == self.quote) {
            complaints.push(Complaint::at(["comment"], format!("the comment `{comment}` is the quote as well")).help("they must differ"));
        }
        complaints
    }

    /// YAML users write both a tab and `\t`.
    fn delimiter(&self) -> String {
        self.delimiter.replace("\\t", "\t")
    }

    pub(crate) fn dialect(&self) -> Dialect {
        let byte = |text: &str| text.bytes().next();
        let quote = byte(&self.quote);
        Dialect {
            delimiter: self.delimiter().into_bytes(),
            quote,
            escape: self.escape.as_deref().and_then(byte).filter(|e| Some(*e) != quote && quote.is_some()),
            comment: self.comment.as_deref().and_then(byte),
            header: self.header(),
            skip_lines: self.skip_lines,
            limit: 64 << 20,
            block: super::chunk::BLOCK,
        }
    }

    /// Whether files begin with the columns' names. DMS writes none unless it is told to.
    pub(crate) fn header(&self) -> bool {
        self.header.unwrap_or(self.feed.is_none())
    }

    fn records(&self, files: Arc<Vec<SourceFile>>, contract: &Contract) -> Arc<CsvRecords> {
        Arc::new(CsvRecords {
            layouts: files.iter().map(|_| OnceLock::new()).collect(),
            files,
            dialect: self.dialect(),
            contract: contract.clone(),
            null_values: self.null_values.clone(),
            encoding: self.encoding,
        })
    }
}

pub(super) fn open(spec: &CsvSpec, files: Vec<SourceFile>, contract: &Contract, threads: usize) -> Result<Arc<dyn TableProvider>> {
    let complaints = spec.validate();
    if !complaints.is_empty() {
        return Err(Error::Pipeline(complaints));
    }
    let files = Arc::new(files);
    let records = spec.records(Arc::clone(&files), contract);
    Ok(text_table(files, raw_schema(contract), spec.compression, spec.encoding, Arc::new(Shared(records)), threads))
}

/// The names in the header of `file`; `None` where there are none.
pub(super) async fn header(spec: &CsvSpec, file: &SourceFile) -> Result<Option<Vec<String>>> {
    if !spec.header() {
        return Ok(None);
    }
    first_record(spec, file).await
}

async fn first_record(spec: &CsvSpec, file: &SourceFile) -> Result<Option<Vec<String>>> {
    let mut reader = TextReader::open(file, spec.compression, spec.encoding, None).await?;
    let mut splitter = CsvSplitter::new(spec.records(Arc::new(vec![file.clone()]), &Contract::default()), 0, None);
    let mut text = vec![];
    loop {
        let want = text.len().max(64 << 10);
        let eof = reader.fill(&mut text, want).await? != super::bytes::Fill::More;
        if let Some((_, record)) = splitter.first(&text, eof)? {
            return Ok(record);
        }
    }
}

pub(super) async fn sample(spec: &CsvSpec, files: &[SourceFile], rows: usize, columns: Option<&[String]>) -> Result<RecordBatch> {
    const FILES: usize = 16;
    let chosen: Vec<&SourceFile> = files.iter().take(FILES).collect();
    let mut names: Vec<String> = columns.map(<[String]>::to_vec).unwrap_or_default();
    if columns.is_none() {
        for file in &chosen {
            let Some(record) = first_record(spec, file).await? else { continue };
            if spec.header() {
                let new: Vec<String> = record.into_iter().filter(|n| !names.iter().any(|o| o.eq_ignore_ascii_case(n))).collect();
                names.extend(new);
            } else {
                names.extend((names.len()..record.len()).map(|i| format!("column_{}", i + 1)));
            }
        }
    }
    let contract = Contract {
        columns: names.iter().map(|n| Column::new(n, ContractType::String)).collect(),
        on_missing_column: OnMissingColumn::Ignore,
        ..Contract::default()
    };
    let schema = raw_schema(&contract);
    let texts: Vec<usize> = (0..names.len()).collect();
    let malformed = schema.index_of(hidden::MALFORMED)?;
    let share = rows.div_ceil(chosen.len().max(1));
    let mut batches = vec![];
    for file in chosen {
        // Hive keys are not in the file's text, and the sample is of that.
        let file = SourceFile { partitions: vec![], ..file.clone() };
        let records = spec.records(Arc::new(vec![file.clone()]), &contract);
        let decoder = CsvDecoder::new(Arc::clone(&records), &[&texts[..], &[malformed]].concat());
        let reader = TextReader::open(&file, spec.compression, spec.encoding, None).await?;
        let splitter = Box::new(CsvSplitter::new(records, 0, None));
        let mut chunker = Chunker::new(0, &file.path, reader, splitter, 128 << 10);
        let mut got = 0;
        while got < share {
            let Some(Piece::Block(block)) = chunker.next().await? else { break };
            for batch in decoder.decode(block)? {
                let good: BooleanArray = (0..batch.num_rows()).map(|i| Some(batch.column(names.len()).is_null(i))).collect();
                let batch = filter_record_batch(&batch, &good)?.project(&texts)?;
                let batch = batch.slice(0, batch.num_rows().min(share - got));
                got += batch.num_rows();
                batches.push(batch);
            }
        }
    }
    let fields: Vec<Field> = names.iter().map(|n| Field::new(n, DataType::Utf8View, true)).collect();
    let schema = Arc::new(Schema::new(fields));
    if batches.is_empty() {
        return Ok(RecordBatch::new_empty(schema));
    }
    let one = concat_batches(&batches[0].schema(), &batches)?;
    let columns: Vec<ArrayRef> = one.columns().to_vec();
    let options = RecordBatchOptions::new().with_row_count(Some(one.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// `Records` is a trait of shared things; the splitters want the `Arc` itself.
#[derive(Debug)]
struct Shared(Arc<CsvRecords>);

impl Records for Shared {
    fn splitter(&self, file: usize, ledger: &Arc<Ledger>) -> Box<dyn Splitter> {
        Box::new(CsvSplitter::new(Arc::clone(&self.0), file, Some(Arc::clone(ledger))))
    }
    fn decoder(&self, projection: &[usize]) -> Arc<dyn Decoder> {
        Arc::new(CsvDecoder::new(Arc::clone(&self.0), projection))
    }
}

impl CsvRecords {
    /// Of a change feed: the column that holds the operation, and what a file without it means.
    fn op(&self) -> Option<(usize, Option<&'static str>)> {
        let changes = self.contract.changes.as_ref()?;
        Some((self.contract.columns.iter().position(|c| c.name == changes.op)?, changes.default))
    }

    /// Of a change feed without a header: how many fields a record of the file has besides the operation.
    pub(crate) fn fields_of_change(&self, file: usize) -> Option<usize> {
        let (op, _) = self.op().filter(|_| !self.dialect.header)?;
        let source = self.files.get(file)?;
        let given = |(i, c): &(usize, &Column)| *i == op || source.partitions.iter().any(|(key, _)| *key == c.name);
        Some(self.contract.columns.iter().enumerate().filter(|c| !given(c)).count())
    }

    /// Matches a file's header (or, without one, the contract's own columns) to the contract. `op_first`: without a header, the
    /// first field is the operation of a change feed.
    pub(crate) fn layout(
        &self,
        file: usize,
        header: Option<&[String]>,
        op_first: bool,
        data: u64,
        newline: u8,
        ledger: Option<&Ledger>,
    ) -> Result<Layout> {
        let source = self.files.get(file).ok_or_else(|| Error::bug("a file number out of range"))?;
        let columns = &self.contract.columns;
        let mut constants: Vec<(usize, Option<String>)> = vec![];
        for (i, column) in columns.iter().enumerate() {
            if let Some((_, value)) = source.partitions.iter().find(|(key, _)| *key == column.name) {
                constants.push((i, value.clone()));
            }
        }
        let is_constant = |i: usize| constants.iter().any(|(c, _)| *c == i);
        let Some(header) = header else {
            let mut fields: Vec<usize> = (0..columns.len()).filter(|i| !is_constant(*i)).collect();
            if let Some((op, default)) = self.op() {
                fields.retain(|i| *i != op);
                if op_first {
                    fields.insert(0, op);
                } else {
                    constants.push((op, default.map(Into::into)));
                }
            }
            return Ok(Layout { columns: fields, rescue: vec![], constants, absent: None, data, newline });
        };
        let mut exact: HashMap<&str, usize> = HashMap::new();
        for (position, name) in header.iter().enumerate() {
            if let Some(first) = exact.insert(name, position) {
                return Err(Error::data(
                    format!(
                        "`{}`: the header names the column `{name}` twice, as field {} and field {}",
                        source.path,
                        first + 1,
                        position + 1
                    ),
                    "rename one of them in the file, or read it with `header: false` and `skip_lines: 1`",
                ));
            }
        }
        let mut fields = vec![NOWHERE; header.len()];
        let mut taken = vec![false; header.len()];
        let (mut missing, mut absent) = (vec![], vec![]);
        let mut no_op = None;
        for (i, column) in columns.iter().enumerate() {
            let wanted = column.path.as_deref().unwrap_or(&column.name).trim();
            let position = match exact.get(wanted) {
                Some(position) => Some(*position),
                None => {
                    let alike: Vec<usize> =
                        (0..header.len()).filter(|p| !taken[*p] && header[*p].to_lowercase() == wanted.to_lowercase()).collect();
                    if alike.len() > 1 && !is_constant(i) {
                        return Err(Error::data(
                            format!(
                                "`{}`: the column `{wanted}` may be field {} or field {}, which differ in case only",
                                source.path,
                                alike[0] + 1,
                                alike[1] + 1
                            ),
                            "write the column's name in the contract exactly as in the file",
                        ));
                    }
                    alike.first().copied()
                }
            };
            // a file from before the column was renamed
            let position =
                position.or_else(|| former(&self.contract, column).find_map(|old| exact.get(old).copied().filter(|p| !taken[*p])));
            match position {
                Some(position) => {
                    taken[position] = true;
                    // A partition's folder has the say over a field of that name.
                    if !is_constant(i) {
                        fields[position] = i;
                    }
                }
                None if is_constant(i) => {}
                None => match self.op().filter(|(op, _)| *op == i) {
                    Some((_, Some(default))) => no_op = Some((i, Some(default.to_owned()))),
                    _ => {
                        missing.push(column.name.as_str());
                        absent.push(i);
                    }
                },
            }
        }
        if let Some(name) = missing.first() {
            match self.contract.on_missing_column {
                OnMissingColumn::Fail => return Err(self.lacks(source, &missing, header)),
                OnMissingColumn::Ignore => {
                    for name in &missing {
                        warn(ledger, format!("files without the column `{name}`: it was filled with NULL (on_missing_column: ignore)"));
                    }
                    if missing.len() == columns.len() {
                        warn(
                            ledger,
                            format!("files with none of the contract's columns, not even `{name}`: check `header` and `delimiter`"),
                        );
                    }
                }
            }
        }
        let mut rescue = vec![];
        for (position, name) in header.iter().enumerate().filter(|(p, _)| !taken[*p]) {
            match self.contract.on_new_column {
                OnNewColumn::Fail => {
                    return Err(Error::data(
                        format!("`{}` has the column `{name}` (field {}), which the contract does not name", source.path, position + 1),
                        "add it to `columns`, or set `schema.on_new_column` to `add`, `ignore` or `rescue`",
                    ));
                }
                OnNewColumn::Rescue => {
                    fields[position] = RESCUE;
                    rescue.push((position, name.clone()));
                }
                OnNewColumn::Ignore | OnNewColumn::Add => {
                    warn(ledger, format!("files with the column `{name}`, which the contract does not name: it was left out"));
                }
            }
        }
        constants.extend(no_op);
        let absent = if self.contract.absent { absent_bits(absent) } else { None };
        Ok(Layout { columns: fields, rescue, constants, absent, data, newline })
    }

    fn lacks(&self, file: &SourceFile, missing: &[&str], header: &[String]) -> Error {
        let names = missing.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let (column, it) = if missing.len() == 1 { ("column", "it") } else { ("columns", "them") };
        let mut help =
            format!("take {it} out of the contract, set `schema.on_missing_column: ignore` to fill {it} with NULL, or mend the file");
        if let [only] = header
            && let Some(other) = [';', '\t', '|', ','].into_iter().find(|c| only.contains(*c))
        {
            help = format!("the header is one field that holds `{}`; is that the `delimiter`?", other.escape_default());
        }
        Error::data(format!("`{}` lacks the {column} {names}", file.path), help)
    }
}

fn warn(ledger: Option<&Ledger>, text: String) {
    if let Some(ledger) = ledger {
        ledger.warn(text, 1);
    }
}

fn comma() -> String {
    ",".into()
}

fn quote() -> String {
    "\"".into()
}

fn empty_is_null() -> Vec<String> {
    vec![String::new()]
}

#[cfg(test)]
#[path = "csv_tests.rs"]
pub(crate) mod tests;
