//! Parquet as a source: columns in their own types, row groups shared among partitions, `_line` the row's number in its file.
//!
//! There is no text here, so nothing is malformed: a damaged file is an error.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryViewArray, Int64Array, StringViewArray, StringViewBuilder, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::LineDelimitedWriter;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, OBJECT_STORE_COALESCE_DEFAULT, coalesce_ranges};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use schemars::JsonSchema;
use serde::Deserialize;
use smelt_engine::contract::{Column, Contract, OnMissingColumn, OnNewColumn, absent_bits, hidden};
use smelt_engine::error::{Error, Result};
use smelt_engine::ledger::Ledger;

use super::bytes::changed;
use super::feed::RowFeed;
use super::scan::{Producers, RawTable, Run, Scan};
use super::{Paths, SourceFile, former, hidden_fields, yes};

/// Rows of a batch.
const BATCH: usize = 8192;
/// Most footers are smaller than this, and come in one request.
const FOOTER: usize = 64 << 10;

/// Parquet files. Columns are matched to the contract by name and keep their own types until they are cast to it.
///
/// ```yaml
/// parquet: {path: "s3://landing/events/year=*/"}
/// ```
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetSpec {
    /// A file, a folder, a glob (`data/**/*.parquet`), or a list of them.
    pub path: Paths,
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

/// The schema of one file, from its footer; text and bytes as views.
pub async fn schema(file: &SourceFile) -> Result<SchemaRef> {
    let metadata = metadata(file).await?;
    Ok(Arc::new(Schema::new(metadata.schema().fields().iter().map(|f| viewed(f)).collect::<Vec<_>>())))
}

pub(super) async fn open(files: Vec<SourceFile>, contract: &Contract, threads: usize) -> Result<Arc<dyn TableProvider>> {
    let mut types: Vec<Option<DataType>> = vec![None; contract.columns.len()];
    // The first file decides on types; more are asked only for columns that it lacks.
    for file in &files {
        let schema = schema(file).await?;
        for (column, ty) in contract.columns.iter().zip(&mut types).filter(|(_, t)| t.is_none()) {
            let constant = file.partitions.iter().any(|(key, _)| *key == column.name);
            *ty = if constant {
                Some(DataType::Utf8View)
            } else {
                found(&schema, contract, column).map(|i| schema.field(i).data_type().clone())
            };
        }
        if types.iter().all(Option::is_some) || contract.on_missing_column == OnMissingColumn::Fail {
            break;
        }
    }
    let columns = contract.columns.iter().zip(types);
    let mut fields: Vec<Field> = columns.map(|(c, ty)| Field::new(&c.name, ty.unwrap_or(DataType::Utf8View), true)).collect();
    fields.extend(hidden_fields(contract));
    let schema = Arc::new(Schema::new(fields));
    Ok(RawTable::provider(Arc::new(ParquetScan { files: Arc::new(files), schema, contract: contract.clone() }), threads))
}

#[derive(Debug)]
struct ParquetScan {
    files: Arc<Vec<SourceFile>>,
    schema: SchemaRef,
    contract: Contract,
}

/// One row group, and how its columns become those of the scan.
struct Group {
    file: usize,
    metadata: ArrowReaderMetadata,
    group: usize,
    first_row: i64,
    plan: Arc<Plan>,
}

/// Of one file: which of its columns feed which of the scan's.
struct Plan {
    /// For each projected column: the file's column, a constant, or neither.
    columns: Vec<From>,
    rescue: Vec<usize>,
    /// Columns of the file that are read, ascending.
    read: Vec<usize>,
}

enum From {
    Column(usize),
    Constant(Option<String>),
    File,
    Line,
    Offset,
    Rescued,
    /// `_absent` of the file's rows.
    Absent(Option<Vec<u8>>),
    Nothing,
}

impl Scan for ParquetScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn describe(&self) -> String {
        let bytes: u64 = self.files.iter().map(|f| f.mark.size).sum();
        format!("parquet files={}, bytes={bytes}", self.files.len())
    }

    fn start(&self, ledger: &Arc<Ledger>, projection: &[usize], threads: usize) -> Result<Arc<dyn Run>> {
        let schema = Arc::new(self.schema.project(projection)?);
        let (files, contract, wanted) = (Arc::clone(&self.files), Arc::new(self.contract.clone()), Arc::clone(&schema));
        let counts = Arc::clone(ledger);
        let producers = Producers::spawn(threads * 2, 1, move |queue| {
            let (files, contract, wanted, ledger) = (Arc::clone(&files), Arc::clone(&contract), Arc::clone(&wanted), Arc::clone(&counts));
            Box::pin(async move {
                for (number, file) in files.iter().enumerate() {
                    let metadata = metadata(file).await?;
                    let plan = Arc::new(plan(file, metadata.schema(), &contract, &wanted, &ledger)?);
                    let mut first_row = 0;
                    for group in 0..metadata.metadata().num_row_groups() {
                        let rows = metadata.metadata().row_group(group).num_rows();
                        let work = Group { file: number, metadata: metadata.clone(), group, first_row, plan: Arc::clone(&plan) };
                        if !queue.push(work).await {
                            return Ok(());
                        }
                        first_row += rows;
                    }
                    // What the footer and the columns that are not asked for weigh is read or passed over by now.
                    let groups: i64 = metadata.metadata().row_groups().iter().map(|g| g.compressed_size()).sum();
                    Ledger::add(&ledger.bytes_read, file.mark.size.saturating_sub(groups.max(0) as u64) as usize);
                }
                Ok(())
            })
        });
        Ok(Arc::new(ParquetRun { producers, files: Arc::clone(&self.files), schema, ledger: Arc::clone(ledger) }))
    }
}

struct ParquetRun {
    producers: Producers<Group>,
    files: Arc<Vec<SourceFile>>,
    schema: SchemaRef,
    ledger: Arc<Ledger>,
}

impl Run for ParquetRun {
    fn rows(self: Arc<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let groups = futures::stream::unfold(self, |run| async move {
            let group = run.producers.queue.pop().await?;
            let rows = group.and_then(|group| run.group(group));
            Some((rows, run))
        });
        groups.try_flatten().boxed()
    }
}

impl ParquetRun {
    fn group(&self, work: Group) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let Group { file, metadata, group, first_row, plan } = work;
        let Some(file) = self.files.get(file).cloned() else { return Err(Error::bug("a file number out of range")) };
        let mask = ProjectionMask::roots(metadata.parquet_schema(), plan.read.iter().copied());
        let stored = metadata.metadata().row_group(group).compressed_size().max(0) as usize;
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader(&file), metadata);
        let stream = builder.with_row_groups(vec![group]).with_projection(mask).with_batch_size(BATCH).build()?;
        let (schema, ledger) = (Arc::clone(&self.schema), Arc::clone(&self.ledger));
        let mut row = first_row;
        let rows = stream.map(move |batch| {
            let batch = batch.map_err(|e| damaged(&file, e))?;
            let made = plan.apply(&file, &schema, &batch, row)?;
            row += batch.num_rows() as i64;
            Ok(made)
        });
        let counted = futures::stream::once(async move {
            Ledger::add(&ledger.bytes_read, stored);
            Ok(None)
        });
        Ok(rows.map_ok(Some).chain(counted).try_filter_map(|batch| async move { Ok(batch) }).boxed())
    }
}

impl Plan {
    fn apply(&self, file: &SourceFile, schema: &SchemaRef, batch: &RecordBatch, first_row: i64) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let read = |column: usize| -> Result<&ArrayRef> {
            let at = self.read.iter().position(|c| *c == column).ok_or_else(|| Error::bug("a Parquet column was not read"))?;
            Ok(batch.column(at))
        };
        let columns = self.columns.iter().zip(schema.fields()).map(|(from, field)| {
            Ok(match from {
                From::Column(column) => cast(read(*column)?, field.data_type(), field.name(), file)?,
                From::Constant(Some(value)) => {
                    let text: ArrayRef = Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n(value.as_str(), rows)));
                    cast(&text, field.data_type(), field.name(), file)?
                }
                From::File => Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n(file.path.as_str(), rows))),
                From::Line => Arc::new(Int64Array::from_iter_values((0..rows as i64).map(|i| first_row + i + 1))),
                From::Offset => Arc::new(Int64Array::from_value(0, rows)),
                From::Rescued if !self.rescue.is_empty() => {
                    let columns = self.rescue.iter().map(|c| read(*c).cloned()).collect::<Result<Vec<_>>>()?;
                    let fields: Vec<Field> = self
                        .rescue
                        .iter()
                        .zip(&columns)
                        .map(|(c, a)| {
                            let name = self.read.iter().position(|r| r == c).map(|at| batch.schema().field(at).name().clone());
                            Field::new(name.unwrap_or_default(), a.data_type().clone(), true)
                        })
                        .collect();
                    objects(&RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)?
                }
                From::Absent(Some(bits)) => Arc::new(BinaryViewArray::from_iter_values(std::iter::repeat_n(bits.as_slice(), rows))),
                From::Absent(None) | From::Rescued | From::Nothing | From::Constant(None) => new_null_array(field.data_type(), rows),
            })
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect::<Result<_>>()?, &options)?)
    }
}

fn plan(file: &SourceFile, schema: &Schema, contract: &Contract, wanted: &Schema, ledger: &Ledger) -> Result<Plan> {
    let mut taken = vec![false; schema.fields().len()];
    let (mut sources, mut absent) = (vec![], vec![]);
    for (at, column) in contract.columns.iter().enumerate() {
        let default = contract.changes.as_ref().filter(|c| c.op == column.name).and_then(|c| c.default);
        let found = found(schema, contract, column);
        if let Some(i) = found {
            taken[i] = true;
        }
        // A partition's folder has the say over a column of that name.
        sources.push(match (file.partitions.iter().find(|(key, _)| *key == column.name), found) {
            (Some((_, value)), _) => From::Constant(value.clone()),
            (None, Some(i)) => From::Column(i),
            (None, None) if default.is_some() => From::Constant(default.map(Into::into)),
            (None, None) if contract.on_missing_column == OnMissingColumn::Fail => {
                return Err(Error::data(
                    format!("`{}` lacks the column `{}`", file.path, column.name),
                    "take it out of the contract, or set `schema.on_missing_column: ignore` to fill it with NULL",
                ));
            }
            (None, None) => {
                ledger.warn(format!("files without the column `{}`: it was filled with NULL (on_missing_column: ignore)", column.name), 1);
                absent.push(at);
                From::Nothing
            }
        });
    }
    let mut rescue = vec![];
    for (i, field) in schema.fields().iter().enumerate().filter(|(i, _)| !taken[*i]) {
        match contract.on_new_column {
            OnNewColumn::Fail => {
                return Err(Error::data(
                    format!("`{}` has the column `{}`, which the contract does not name", file.path, field.name()),
                    "add it to `columns`, or set `schema.on_new_column` to `add`, `ignore` or `rescue`",
                ));
            }
            OnNewColumn::Rescue => rescue.push(i),
            OnNewColumn::Ignore | OnNewColumn::Add => {
                ledger.warn(format!("files with the column `{}`, which the contract does not name: it was left out", field.name()), 1);
            }
        }
    }
    let columns: Vec<From> = wanted
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            hidden::FILE => From::File,
            hidden::LINE => From::Line,
            hidden::OFFSET => From::Offset,
            hidden::RESCUED => From::Rescued,
            hidden::ABSENT => From::Absent(absent_bits(absent.iter().copied())),
            name => {
                let at = contract.columns.iter().position(|c| c.name == name);
                at.map_or(From::Nothing, |at| std::mem::replace(&mut sources[at], From::Nothing))
            }
        })
        .collect();
    if !columns.iter().any(|c| matches!(c, From::Rescued)) {
        rescue.clear();
    }
    let mut read = rescue.clone();
    read.extend(columns.iter().filter_map(|c| if let From::Column(i) = c { Some(*i) } else { None }));
    read.sort_unstable();
    read.dedup();
    Ok(Plan { columns, rescue, read })
}

/// The file's column for one of the contract, under its name or a former one.
fn found(schema: &Schema, contract: &Contract, column: &Column) -> Option<usize> {
    position(schema, column.path.as_deref().unwrap_or(&column.name))
        .or_else(|| former(contract, column).find_map(|old| position(schema, old)))
}

/// The column of that name: exactly, else whatever its case.
fn position(schema: &Schema, name: &str) -> Option<usize> {
    let fields = schema.fields();
    let exact = fields.iter().position(|f| f.name() == name);
    exact.or_else(|| fields.iter().position(|f| f.name().to_lowercase() == name.to_lowercase()))
}

/// Reads ranges of a file in the very state in which it was listed.
struct Ranges(SourceFile);

impl Ranges {
    async fn get(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        let options = GetOptions { if_match: self.0.mark.etag.clone(), range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let external = |e| ParquetError::External(Box::new(changed(&self.0, e)));
        let got = self.0.store.get_opts(&self.0.location, options).await.map_err(external)?;
        got.bytes().await.map_err(external)
    }
}

impl AsyncFileReader for Ranges {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.get(range).boxed()
    }
    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { coalesce_ranges(&ranges, |range| self.get(range), OBJECT_STORE_COALESCE_DEFAULT).await }.boxed()
    }
    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let size = self.0.mark.size;
        let metadata = ParquetMetaDataReader::new().with_arrow_reader_options(options).with_prefetch_hint(Some(FOOTER));
        async move { Ok(Arc::new(metadata.load_and_finish(self, size).await?)) }.boxed()
    }
}

fn reader(file: &SourceFile) -> Ranges {
    Ranges(file.clone())
}

/// The footer of a file, its text and bytes to be read as views.
async fn metadata(file: &SourceFile) -> Result<ArrowReaderMetadata> {
    if file.mark.size == 0 {
        return Err(Error::data(
            format!("`{}` is empty, which no Parquet file is", file.path),
            "it may still be written (see `min_age`); fetch it again or take it away",
        ));
    }
    let options = ArrowReaderOptions::new();
    let metadata = ArrowReaderMetadata::load_async(&mut reader(file), options).await.map_err(|e| damaged(file, e))?;
    let views = Arc::new(Schema::new(metadata.schema().fields().iter().map(|f| viewed(f)).collect::<Vec<_>>()));
    let options = ArrowReaderOptions::new().with_schema(views);
    ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options).map_err(|e| damaged(file, e))
}

fn damaged(file: &SourceFile, e: parquet::errors::ParquetError) -> Error {
    match Error::from(e) {
        Error::Data { message, .. } => Error::data(
            format!("`{}` cannot be read as Parquet: {message}", file.path),
            "fetch the file again or take it away; CSV and JSON files have sources of their own",
        ),
        other => other,
    }
}

fn viewed(field: &Field) -> Field {
    let ty = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        other => other.clone(),
    };
    Field::new(field.name(), ty, field.is_nullable())
}

fn cast(array: &ArrayRef, to: &DataType, column: &str, file: &SourceFile) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    // A value that does not fit must not become NULL.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options).map_err(|_| {
        Error::data(
            format!(
                "`{}` has the column `{column}` as {}, other files have it as {to}, and not every value fits",
                file.path,
                array.data_type()
            ),
            "read files of different types by sources of their own",
        )
    })
}

/// Each row as a JSON object without its NULLs; NULL where nothing is left.
fn objects(batch: &RecordBatch) -> Result<ArrayRef> {
    let mut text = vec![];
    let mut writer = LineDelimitedWriter::new(&mut text);
    writer.write(batch)?;
    writer.finish()?;
    let text = String::from_utf8(text).map_err(|e| Error::bug(e.to_string()))?;
    let mut builder = StringViewBuilder::with_capacity(batch.num_rows());
    for line in text.lines() {
        builder.append_option((line != "{}").then_some(line));
    }
    Ok(Arc::new(builder.finish()))
}

#[cfg(test)]
mod tests {
    use super::super::bytes::tests::file;
    use super::super::csv::tests::{collect, text};
    use super::*;
    use arrow::array::{AsArray, Float64Array};
    use arrow::datatypes::Int64Type;
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;
    use smelt_engine::contract::Column;
    use smelt_engine::types::ContractType;

    async fn parquet_file(path: &str, rows: i64, extra: bool) -> SourceFile {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        let names: ArrayRef = Arc::new(arrow::array::StringArray::from_iter_values((0..rows).map(|i| format!("name number {i}"))));
        let mut columns = vec![("Name", names), ("id", ids)];
        if extra {
            columns
                .push(("extra", Arc::new(Float64Array::from_iter((0..rows).map(|i| (i % 2 == 0).then_some(i as f64 / 2.0)))) as ArrayRef));
        }
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(100)).build();
        let mut writer = ArrowWriter::try_new(vec![], batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        file(path, writer.into_inner().unwrap()).await
    }

    fn contract(names: &[&str]) -> Contract {
        Contract { columns: names.iter().map(|n| Column::new(*n, ContractType::String)).collect(), ..Contract::default() }
    }

    #[tokio::test]
    async fn one_file_is_shared_and_its_rows_are_numbered() {
        let file = parquet_file("a.parquet", 1050, true).await;
        let contract = Contract { on_new_column: OnNewColumn::Rescue, ..contract(&["id", "name"]) };
        let table = open(vec![file.clone()], &contract, 2).await.unwrap();
        let (batch, ledger) = collect(table, 2).await.unwrap();
        assert_eq!(batch.num_rows(), 1050);
        assert_eq!(Ledger::get(&ledger.read), 1050);
        assert_eq!(Ledger::get(&ledger.bytes_read), file.mark.size);
        let (ids, lines) = (batch.column(0).as_primitive::<Int64Type>(), batch["_line"].as_primitive::<Int64Type>());
        let mut all: Vec<i64> = lines.values().to_vec();
        all.sort_unstable();
        assert_eq!(all, (1..=1050).collect::<Vec<_>>());
        for row in 0..1050 {
            assert_eq!(lines.value(row), ids.value(row) + 1);
            assert_eq!(text(&batch, "name", row).unwrap(), format!("name number {}", ids.value(row)));
            let rescued = (ids.value(row) % 2 == 0).then(|| format!("{{\"extra\":{:?}}}", ids.value(row) as f64 / 2.0));
            assert_eq!(text(&batch, "_rescued", row), rescued);
        }
    }

    #[tokio::test]
    async fn columns_missing_and_new() {
        let files = || async { vec![parquet_file("a.parquet", 3, false).await, parquet_file("b.parquet", 3, true).await] };
        let e = collect(open(files().await, &contract(&["id", "extra"]), 1).await.unwrap(), 1).await.unwrap_err();
        assert_eq!(e.to_string(), "`a.parquet` lacks the column `extra`");
        let ignore = Contract { on_missing_column: OnMissingColumn::Ignore, ..contract(&["extra"]) };
        let (batch, ledger) = collect(open(files().await, &ignore, 1).await.unwrap(), 1).await.unwrap();
        assert_eq!((batch.num_rows(), batch.column(0).null_count()), (6, 4));
        assert_eq!(batch.column(0).data_type(), &DataType::Float64);
        assert_eq!(ledger.warnings().len(), 3);
        let fail = Contract { on_new_column: OnNewColumn::Fail, ..contract(&["id", "name"]) };
        let e = collect(open(files().await, &fail, 1).await.unwrap(), 1).await.unwrap_err();
        assert!(e.to_string().contains("`b.parquet` has the column `extra`"), "{e}");
    }

    #[tokio::test]
    async fn partitions_and_damage() {
        let mut file = parquet_file("day=2024-01-01/a.parquet", 3, false).await;
        file.partitions = vec![("day".into(), Some("2024-01-01".into()))];
        let (batch, _) = collect(open(vec![file], &contract(&["day"]), 1).await.unwrap(), 1).await.unwrap();
        assert_eq!(text(&batch, "day", 2).unwrap(), "2024-01-01");
        let cut = super::super::bytes::tests::file("c.parquet", "id,name\n1,this is no Parquet\n").await;
        let e = open(vec![cut], &contract(&["id"]), 1).await.unwrap_err();
        assert!(matches!(&e, Error::Data { message, .. } if message.contains("`c.parquet` cannot be read as Parquet")), "{e:?}");
    }
}
