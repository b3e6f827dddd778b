//! Reads one version of a table of either format: DataFusion's own Parquet scan over the snapshot's file list.
//!
//! Files are pruned by partition values and by the statistics that their log keeps, before any of them is opened; what the filter is
//! then, row group by row group and row by row, is the Parquet reader's work. Columns that a file lacks are NULL.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, DFSchema, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use object_store::ObjectMeta;
use serde_json::Value;
use smelt_engine::error::Error;
use smelt_engine::table::{DataFile, Snapshot};

use crate::stores::{Location, register};

/// Footers of our files fit in this; one request then reads footer and length.
const FOOTER: usize = 64 * 1024;

/// The files of one version as a table.
#[derive(Debug)]
pub(super) struct Files {
    location: Location,
    schema: SchemaRef,
    partition_columns: Vec<FieldRef>,
    files: Arc<Vec<DataFile>>,
}

impl Files {
    pub fn new(location: Location, snapshot: &Snapshot) -> Self {
        let field = |name: &String| snapshot.schema.fields().find(name).map(|(_, field)| Arc::clone(field));
        let partition_columns = snapshot.partition_columns.iter().filter_map(field).collect();
        Files { location, schema: Arc::clone(&snapshot.schema), partition_columns, files: Arc::clone(&snapshot.files) }
    }

    fn partition_index(&self, name: &str) -> Option<usize> {
        self.partition_columns.iter().position(|f| f.name() == name)
    }

    /// The files that may hold rows for which all filters are true.
    fn matching(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<&DataFile>> {
        let all = || self.files.iter().collect();
        let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(all()) };
        let schema = DFSchema::try_from(Arc::clone(&self.schema))?;
        let filter = state.create_physical_expr(filter, &schema)?;
        // A predicate that cannot prune is no error: every file matches.
        let Ok(predicate) = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&self.schema)).try_build(Arc::clone(&filter)) else {
            return Ok(all());
        };
        if predicate.always_true() {
            return Ok(all());
        }
        let statistics = self.statistics_of(collect_columns(&filter).iter().map(|c| c.name()))?;
        let keep = predicate.prune(&statistics)?;
        Ok(self.files.iter().zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect())
    }

    fn statistics_of<'a>(&self, columns: impl Iterator<Item = &'a str>) -> Result<FileStatistics> {
        let parsed: Vec<Option<Value>> = self.files.iter().map(|f| serde_json::from_str(f.stats.as_deref()?).ok()).collect();
        let mut by_column = HashMap::new();
        for name in columns {
            let Ok(field) = self.schema.field_with_name(name) else { continue };
            let ty = field.data_type();
            let null = ScalarValue::try_from(ty)?;
            let mut bounds = Bounds::default();
            let (mut mins, mut maxs) = (Vec::with_capacity(self.files.len()), Vec::with_capacity(self.files.len()));
            for (file, stats) in self.files.iter().zip(&parsed) {
                let (min, max, nulls) = match self.partition_index(name) {
                    Some(i) => {
                        let value = partition_value(file, i, ty)?;
                        let nulls = rows(file).map(|rows| if value.is_null() { rows } else { 0 });
                        (Some(value.clone()), Some(value), nulls)
                    }
                    None => {
                        let of = |kind: &str| stats.as_ref().and_then(|s| s.get(kind)?.get(name));
                        let min = of("minValues").and_then(|v| bound(v, ty, false));
                        let max = of("maxValues").and_then(|v| bound(v, ty, true));
                        (min, max, of("nullCount").and_then(Value::as_u64))
                    }
                };
                mins.push(min.unwrap_or_else(|| null.clone()));
                maxs.push(max.unwrap_or_else(|| null.clone()));
                bounds.nulls.push(nulls);
            }
            bounds.min = Some(ScalarValue::iter_to_array(mins)?);
            bounds.max = Some(ScalarValue::iter_to_array(maxs)?);
            by_column.insert(name.to_owned(), bounds);
        }
        Ok(FileStatistics { rows: self.files.iter().map(rows).collect(), by_column })
    }

    /// The least and the greatest value of a column in each file; NULL where they are not known.
    pub fn bounds(&self, column: &str) -> Result<(ArrayRef, ArrayRef)> {
        let field = self.schema.field_with_name(column)?;
        let mut statistics = self.statistics_of(std::iter::once(column))?;
        match statistics.by_column.remove(column) {
            Some(Bounds { min: Some(min), max: Some(max), .. }) => Ok((min, max)),
            _ => {
                let unknown = arrow::array::new_null_array(field.data_type(), self.files.len());
                Ok((Arc::clone(&unknown), unknown))
            }
        }
    }

    fn partitioned_file(&self, file: &DataFile, table: &TableSchema) -> Result<PartitionedFile> {
        let meta = ObjectMeta {
            location: self.location.path(&file.path)?,
            last_modified: DateTime::<Utc>::from_timestamp_millis(file.modified).unwrap_or_default(),
            size: file.bytes,
            e_tag: None,
            version: None,
        };
        let values: Vec<ScalarValue> =
            self.partition_columns.iter().enumerate().map(|(i, f)| partition_value(file, i, f.data_type())).collect::<Result<_>>()?;
        let mut scanned = PartitionedFile::new_from_meta(meta).with_partition_values(values);
        let mut statistics = Statistics::new_unknown(table.table_schema());
        statistics.num_rows = rows(file).map_or(Precision::Absent, |rows| Precision::Exact(rows as usize));
        scanned.statistics = Some(Arc::new(statistics));
        Ok(scanned)
    }
}

#[async_trait]
impl TableProvider for Files {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Inexact: files are pruned here; the filter itself goes on to the Parquet reader by DataFusion's physical pushdown.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn statistics(&self) -> Option<Statistics> {
        let files: Vec<&DataFile> = self.files.iter().collect();
        Some(totals(&files, &self.schema))
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        register(state.runtime_env(), &self.location);
        let files = self.matching(state, filters)?;
        if files.is_empty() {
            let schema = match projection {
                Some(projection) => Arc::new(self.schema.project(projection)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }

        // Files hold the other columns; the scan appends the partition values, the projection restores the table's order.
        let stored: Vec<FieldRef> = self.schema.fields().iter().filter(|f| self.partition_index(f.name()).is_none()).cloned().collect();
        let table = TableSchema::builder(Arc::new(Schema::new(stored))).with_table_partition_cols(self.partition_columns.clone()).build();
        let indices = match projection {
            Some(projection) => projection.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let indices: Vec<usize> =
            indices.iter().map(|i| table.table_schema().index_of(self.schema.field(*i).name())).collect::<Result<_, _>>()?;

        let options = TableParquetOptions { global: state.config_options().execution.parquet.clone(), ..Default::default() };
        let cache = state.runtime_env().cache_manager.get_file_metadata_cache();
        let reader = Arc::new(CachedParquetFileReaderFactory::new(Arc::clone(&self.location.store), cache));
        let source = ParquetSource::new(table.clone())
            .with_table_parquet_options(options)
            .with_metadata_size_hint(FOOTER)
            .with_parquet_file_reader_factory(reader);
        let groups = balanced(&files, state.config().target_partitions())
            .into_iter()
            .map(|group| group.into_iter().map(|f| self.partitioned_file(f, &table)).collect::<Result<Vec<_>>>().map(FileGroup::new))
            .collect::<Result<Vec<_>>>()?;
        let config = FileScanConfigBuilder::new(self.location.root.clone(), Arc::new(source))
            .with_projection_indices(Some(indices))?
            .with_file_groups(groups)
            .with_statistics(totals(&files, table.table_schema()))
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// At most `count` groups of about the same size: the largest file goes to the smallest group.
fn balanced<'a>(files: &[&'a DataFile], count: usize) -> Vec<Vec<&'a DataFile>> {
    let mut order: Vec<&DataFile> = files.to_vec();
    order.sort_by_key(|f| Reverse(f.bytes));
    let mut groups: Vec<(u64, Vec<&DataFile>)> = vec![(0, vec![]); count.clamp(1, files.len().max(1))];
    for file in order {
        if let Some(smallest) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            smallest.0 += file.bytes.max(1);
            smallest.1.push(file);
        }
    }
    groups.into_iter().map(|(_, group)| group).filter(|g| !g.is_empty()).collect()
}

fn totals(files: &[&DataFile], schema: &SchemaRef) -> Statistics {
    let mut statistics = Statistics::new_unknown(schema);
    let count = files.iter().map(|f| rows(f)).sum::<Option<u64>>();
    statistics.num_rows = count.map_or(Precision::Absent, |rows| Precision::Exact(rows as usize));
    statistics.total_byte_size = Precision::Inexact(files.iter().map(|f| f.bytes as usize).sum());
    statistics
}

/// Other writers may leave the count out; a file of ours always has it.
fn rows(file: &DataFile) -> Option<u64> {
    (file.rows > 0 || file.stats.as_deref().is_some_and(|s| s.contains("numRecords"))).then_some(file.rows)
}

fn partition_value(file: &DataFile, index: usize, ty: &DataType) -> Result<ScalarValue> {
    match file.partition.get(index) {
        Some((name, Some(text))) => ScalarValue::try_from_string(text.clone(), ty).map_err(|e| {
            let message = format!("the partition column {name} of {} does not hold a {ty}: {e}", file.path);
            Error::data(message, "the table's log is damaged; rebuild the table with --full-refresh").into()
        }),
        _ => ScalarValue::try_from(ty),
    }
}

/// One bound of Delta's statistics. `None` where it is not known well enough to leave a file out.
fn bound(value: &Value, ty: &DataType, upper: bool) -> Option<ScalarValue> {
    let text = |text: &str| ScalarValue::try_from_string(text.to_owned(), ty).ok().filter(|v| !v.is_null());
    match ty {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => ScalarValue::Int64(Some(value.as_i64()?)).cast_to(ty).ok(),
        DataType::Float32 | DataType::Float64 => ScalarValue::Float64(Some(value.as_f64()?)).cast_to(ty).ok(),
        DataType::Utf8 | DataType::Utf8View | DataType::Date32 => text(value.as_str()?),
        DataType::Timestamp(..) => match text(value.as_str()?)? {
            // The statistics hold milliseconds, cut off; the rows may lie up to one later.
            ScalarValue::TimestampMicrosecond(Some(us), zone) => {
                Some(ScalarValue::TimestampMicrosecond(Some(if upper && us % 1000 == 0 { us + 999 } else { us }), zone))
            }
            other => Some(other),
        },
        // A JSON number goes through a double: 15 digits survive that.
        DataType::Decimal128(..) => {
            let number = value.as_f64()?.to_string();
            (number.bytes().filter(u8::is_ascii_digit).count() <= 15).then(|| text(&number)).flatten()
        }
        _ => None,
    }
}

#[derive(Default)]
struct Bounds {
    min: Option<ArrayRef>,
    max: Option<ArrayRef>,
    nulls: Vec<Option<u64>>,
}

struct FileStatistics {
    rows: Vec<Option<u64>>,
    by_column: HashMap<String, Bounds>,
}

impl PruningStatistics for FileStatistics {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.by_column.get(column.name())?.min.clone()
    }
    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.by_column.get(column.name())?.max.clone()
    }
    fn num_containers(&self) -> usize {
        self.rows.len()
    }
    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from(self.by_column.get(column.name())?.nulls.clone())))
    }
    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from(self.rows.clone())))
    }
    fn contained(&self, _column: &Column, _values: &std::collections::HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::TimeUnit;
    use serde_json::json;

    #[test]
    fn bounds_never_leave_out_what_may_be_there() {
        let us = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let at = |upper| match bound(&json!("2024-01-01T00:00:00.123Z"), &us, upper) {
            Some(ScalarValue::TimestampMicrosecond(Some(v), _)) => v % 1_000_000,
            other => panic!("{other:?}"),
        };
        assert_eq!((at(false), at(true)), (123_000, 123_999));
        let decimal = |v: Value, p, s| bound(&v, &DataType::Decimal128(p, s), true);
        assert_eq!(decimal(json!(10.25), 12, 2), Some(ScalarValue::Decimal128(Some(1025), 12, 2)));
        assert_eq!(decimal(json!(12_345_678_901_234_567.0_f64), 20, 2), None);
        assert_eq!(bound(&json!("x"), &DataType::Int64, true), None);
        assert_eq!(bound(&json!(null), &DataType::Utf8View, true), None);
    }

    #[test]
    fn groups_are_balanced_by_size() {
        let file = |bytes| DataFile { path: String::new(), partition: vec![], rows: 1, bytes, stats: None, modified: 0 };
        let files: Vec<DataFile> = [9, 1, 1, 1, 5, 1].map(file).into();
        let groups = balanced(&files.iter().collect::<Vec<_>>(), 2);
        let sizes: Vec<u64> = groups.iter().map(|g| g.iter().map(|f| f.bytes).sum()).collect();
        assert_eq!(sizes, [9, 9]);
        assert_eq!(balanced(&files.iter().take(1).collect::<Vec<_>>(), 8).len(), 1);
    }
}
