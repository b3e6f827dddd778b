//! The operator: raw batches in, typed batches out, with `_errors` and `_raw` for the rows that do not conform.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray, StringViewBuilder, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt;

use super::display;
use super::parser::Parser;
use super::record::{Broken, bounded, record};
use super::sensitive::{Sensitive, scrub};
use crate::contract::{Contract, OnMissingColumn, hidden};
use crate::error::{Error, Result};

/// Brings raw rows to a contract. Output: the contract's columns, `_file`, `_line`, `_offset`, `_rescued` where the input has it,
/// `_errors` (NULL, or a JSON list of `{column, rule, message}`) and `_raw` (NULL, or the raw record as a JSON object).
/// Rules: `malformed`, `required`, `type`.
#[derive(Debug)]
pub struct ConformExec {
    contract: Contract,
    sensitive: Sensitive,
    input: Arc<dyn ExecutionPlan>,
    conformer: Arc<Conformer>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ConformExec {
    /// `input` has the contract's columns by name, raw text or typed, and the hidden columns of a source.
    pub fn try_new(input: Arc<dyn ExecutionPlan>, contract: Contract, sensitive: Sensitive) -> Result<Self> {
        let conformer = Arc::new(Conformer::try_new(&input.schema(), &contract, &sensitive)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&conformer.schema)),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            input.boundedness(),
        );
        let properties = Arc::new(with_unknown_keys(properties));
        Ok(ConformExec { contract, sensitive, input, conformer, properties, metrics: ExecutionPlanMetricsSet::new() })
    }
}

/// Expressions of the input's partitioning name columns that change here; only the count stays.
fn with_unknown_keys(properties: PlanProperties) -> PlanProperties {
    let count = properties.partitioning.partition_count();
    properties.with_partitioning(datafusion::physical_plan::Partitioning::UnknownPartitioning(count))
}

impl DisplayAs for ConformExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "ConformExec: columns={}", self.contract.columns.len())
    }
}

impl ExecutionPlan for ConformExec {
    fn name(&self) -> &str {
        "ConformExec"
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }
    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }
    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }
    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(ConformExec::try_new(children.swap_remove(0), self.contract.clone(), self.sensitive.clone())?))
    }
    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let conformer = Arc::clone(&self.conformer);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let stream = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            let timer = metrics.elapsed_compute().timer();
            let conformed = conformer.conform(&batch)?;
            timer.done();
            metrics.record_output(conformed.num_rows());
            Ok(conformed)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}

/// The compiled contract over one input schema; shared by the partitions.
#[derive(Debug)]
pub(crate) struct Conformer {
    targets: Vec<Target>,
    /// Input columns that make up the raw record.
    fields: Vec<(String, usize)>,
    /// Input columns that pass on: `_file`, `_line`, `_offset`, `_rescued`. `None`: not in the input, NULL.
    passed: Vec<Option<usize>>,
    malformed: Option<usize>,
    raw: Option<usize>,
    sensitive: Sensitive,
    /// Of the output, with `_errors` and `_raw` at its end.
    pub schema: SchemaRef,
    /// Sliced for `_errors` and `_raw` of clean batches.
    nothing: StringViewArray,
}

#[derive(Debug)]
struct Target {
    name: String,
    parser: Parser,
    required: bool,
    sensitive: bool,
    input: Option<usize>,
}

/// One rule broken by one row, while a batch is worked on.
struct Found {
    row: usize,
    /// Index of the target; `None` is the whole line.
    target: Option<usize>,
    rule: &'static str,
    message: String,
}

impl Conformer {
    pub fn try_new(input: &Schema, contract: &Contract, sensitive: &Sensitive) -> Result<Self> {
        let complaints = super::complaints(&contract.columns);
        if !complaints.is_empty() {
            return Err(Error::Pipeline(complaints.into_iter().map(|c| c.under(["columns"])).collect()));
        }
        let at = |name: &str| input.index_of(name).ok();
        let mut targets = vec![];
        for column in &contract.columns {
            let found = at(&column.name);
            if found.is_none() && contract.on_missing_column == OnMissingColumn::Fail {
                return Err(Error::data(
                    format!("the source has no column '{}'", column.name),
                    "correct the contract, or set schema: {on_missing_column: ignore} to fill it with NULL",
                ));
            }
            targets.push(Target {
                name: column.name.clone(),
                parser: Parser::new(column).map_err(Error::pipeline)?,
                required: column.required,
                sensitive: sensitive.has(&column.name),
                input: found,
            });
        }
        let record = |name: &str| name == hidden::RESCUED || !hidden::RESERVED.contains(&name);
        let fields = input.fields().iter().enumerate().filter(|(_, f)| record(f.name())).map(|(i, f)| (f.name().clone(), i)).collect();
        let mut out: Vec<Field> = targets.iter().map(|t| Field::new(&t.name, t.parser.arrow.clone(), true)).collect();
        let mut passed = vec![];
        for (name, ty, always) in [
            (hidden::FILE, DataType::Utf8View, true),
            (hidden::LINE, DataType::Int64, true),
            (hidden::OFFSET, DataType::Int64, true),
            (hidden::RESCUED, DataType::Utf8View, false),
        ] {
            let found = at(name);
            if let Some(wrong) = found.map(|i| input.field(i).data_type()).filter(|found| **found != ty) {
                return Err(Error::bug(format!("{name} is {wrong}, not {ty}")));
            }
            if found.is_some() || always {
                out.push(Field::new(name, ty, true));
                passed.push(found);
            }
        }
        for name in [hidden::MALFORMED, hidden::RAW] {
            if at(name).is_some_and(|i| *input.field(i).data_type() != DataType::Utf8View) {
                return Err(Error::bug(format!("{name} is not Utf8View")));
            }
        }
        out.extend([hidden::ERRORS, hidden::RAW].map(|name| Field::new(name, DataType::Utf8View, true)));
        Ok(Conformer {
            targets,
            fields,
            passed,
            malformed: at(hidden::MALFORMED),
            raw: at(hidden::RAW),
            sensitive: sensitive.clone(),
            schema: Arc::new(Schema::new(out)),
            nothing: StringViewArray::new_null(8192),
        })
    }

    pub fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let n = batch.num_rows();
        let malformed = self.malformed.map(|i| batch.column(i).as_string_view()).filter(|m| m.null_count() < n);
        let whole = |row: usize| malformed.is_none_or(|m| m.is_null(row));
        let mut found: Vec<Found> = vec![];
        if let Some(malformed) = malformed {
            let lines = (0..n).filter(|row| malformed.is_valid(*row));
            found.extend(lines.map(|row| Found { row, target: None, rule: "malformed", message: malformed.value(row).to_owned() }));
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for (at, target) in self.targets.iter().enumerate() {
            let (typed, faults) = match target.input {
                Some(i) => target.parser.bring(batch.column(i)).map_err(|e| in_column(e, &target.name))?,
                None => (new_null_array(&target.parser.arrow, n), vec![]),
            };
            if target.required && typed.null_count() > 0 {
                let failed: HashSet<usize> = faults.iter().map(|f| f.row).collect();
                let missing = (0..n).filter(|row| typed.is_null(*row) && whole(*row) && !failed.contains(row));
                let message = "is required, and is NULL";
                found.extend(missing.map(|row| Found { row, target: Some(at), rule: "required", message: message.into() }));
            }
            for fault in faults.into_iter().filter(|f| whole(f.row)) {
                let message = fault.message(&target.name, target.sensitive);
                found.push(Found { row: fault.row, target: Some(at), rule: "type", message });
            }
            columns.push(typed);
        }
        for (i, passed) in self.passed.iter().enumerate() {
            columns.push(match passed {
                Some(at) => Arc::clone(batch.column(*at)),
                None => new_null_array(self.schema.field(self.targets.len() + i).data_type(), n),
            });
        }
        if found.is_empty() {
            let nothing: ArrayRef =
                if n <= self.nothing.len() { Arc::new(self.nothing.slice(0, n)) } else { Arc::new(StringViewArray::new_null(n)) };
            columns.push(Arc::clone(&nothing));
            columns.push(nothing);
        } else {
            found.sort_by_key(|f| (f.row, f.target));
            columns.push(Arc::new(self.errors(&found, n)?));
            columns.push(Arc::new(self.records(&found, batch)?));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// `found` is in the order of rows.
    fn errors(&self, found: &[Found], rows: usize) -> Result<StringViewArray> {
        let mut out = StringViewBuilder::with_capacity(rows);
        let mut next = 0;
        for of_row in found.chunk_by(|a, b| a.row == b.row) {
            (next..of_row[0].row).for_each(|_| out.append_null());
            let broken = of_row.iter().map(|f| Broken {
                column: f.target.map(|t| Cow::Borrowed(self.targets[t].name.as_str())),
                rule: Cow::Borrowed(f.rule),
                message: Cow::Borrowed(f.message.as_str()),
            });
            let text = serde_json::to_string(&broken.collect::<Vec<_>>()).map_err(|e| Error::bug(e.to_string()))?;
            out.append_value(text);
            next = of_row[0].row + 1;
        }
        (next..rows).for_each(|_| out.append_null());
        Ok(out.finish())
    }

    fn records(&self, found: &[Found], batch: &RecordBatch) -> Result<StringViewArray> {
        let rows: Vec<&[Found]> = found.chunk_by(|a, b| a.row == b.row).collect();
        let indices = UInt32Array::from_iter_values(rows.iter().map(|f| f[0].row as u32));
        let fields = self.fields.iter().map(|(name, i)| {
            let texts = display(&take(batch.column(*i), &indices, None)?)?;
            Ok((name.as_str(), texts))
        });
        let fields: Vec<(&str, ArrayRef)> = fields.collect::<Result<_>>()?;
        let lines = self.raw.map(|i| batch.column(i).as_string_view());
        let mut out = StringViewBuilder::with_capacity(batch.num_rows());
        let mut next = 0;
        for (k, of_row) in rows.iter().enumerate() {
            let row = of_row[0].row;
            (next..row).for_each(|_| out.append_null());
            next = row + 1;
            if of_row[0].target.is_none() {
                let line = lines.filter(|l| l.is_valid(row)).map(|l| l.value(row));
                // Which part of a malformed line is the sensitive one cannot be known.
                out.append_option(line.map(|l| if self.sensitive.is_empty() { bounded(l) } else { Cow::Owned(scrub(l)) }));
                continue;
            }
            let values: Vec<(&str, Option<Cow<str>>)> = fields
                .iter()
                .map(|(name, texts)| {
                    let texts = texts.as_string_view();
                    let failed = || of_row.iter().any(|f| f.rule == "type" && f.target.is_some_and(|t| self.targets[t].name == *name));
                    let text = texts.is_valid(k).then(|| texts.value(k));
                    (*name, text.and_then(|text| self.sensitive.record_text(name, text, failed())))
                })
                .collect();
            out.append_value(record(&values));
        }
        (next..batch.num_rows()).for_each(|_| out.append_null());
        Ok(out.finish())
    }
}

/// Says which column could not be cast.
fn in_column(e: Error, column: &str) -> Error {
    match e {
        Error::Data { message, help } => Error::Data { message: format!("column '{column}': {message}"), help },
        other => other,
    }
}
