//! The operator: raw batches in, typed batches out, with `_errors` and `_raw` for the rows that do not conform.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, StringViewArray, StringViewBuilder, UInt32Array, new_null_array};
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
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt;

use super::display;
use super::parser::Parser;
use super::record::{Broken, bounded, record};
use super::sensitive::{Sensitive, scrub};
use crate::contract::{Changes, Contract, OnMissingColumn, absent_bits, hidden};
use crate::error::{Error, Result};

/// Brings raw rows to a contract. Output: the contract's columns, `_file`, `_line`, `_offset`, `_rescued` where the input has it,
/// `_absent` where the contract asks for it, `_errors` (NULL, or a JSON list of `{column, rule, message}`) and `_raw` (NULL, or the
/// raw record as a JSON object). Rules: `malformed`, `required`, `type`, and of change feeds `op`.
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
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&conformer.schema)),
            // Keys of the input's partitioning name columns that change here; only the count stays.
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            input.boundedness(),
        ));
        Ok(ConformExec { contract, sensitive, input, conformer, properties, metrics: ExecutionPlanMetricsSet::new() })
    }
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
    /// Input columns that pass on: `_file`, `_line`, `_offset`, `_rescued`, `_absent`. `None`: not in the input, NULL.
    passed: Vec<Option<usize>>,
    malformed: Option<usize>,
    raw: Option<usize>,
    /// `_absent` of all rows, where the input has none of its own.
    absent: Option<Vec<u8>>,
    /// Of a change feed: the target that holds the operation, and what is known of it.
    changes: Option<(usize, Changes)>,
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
            (hidden::ABSENT, DataType::BinaryView, contract.absent),
        ] {
            let found = at(name).filter(|_| name != hidden::ABSENT || contract.absent);
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
        let missing = targets.iter().enumerate().filter(|(_, t)| t.input.is_none()).map(|(i, _)| i);
        let absent = if contract.absent && at(hidden::ABSENT).is_none() { absent_bits(missing) } else { None };
        let changes = match &contract.changes {
            None => None,
            Some(changes) => match targets.iter().position(|t| t.name == changes.op && t.parser.arrow == DataType::Utf8View) {
                Some(op) => Some((op, changes.clone())),
                None => return Err(Error::bug(format!("the operation of a change feed, {}, is no text column", changes.op))),
            },
        };
        out.extend([hidden::ERRORS, hidden::RAW].map(|name| Field::new(name, DataType::Utf8View, true)));
        Ok(Conformer {
            targets,
            fields,
            passed,
            malformed: at(hidden::MALFORMED),
            raw: at(hidden::RAW),
            absent,
            changes,
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
        let bring = |target: &Target| match target.input {
            Some(i) => target.parser.bring(batch.column(i)).map_err(|e| in_column(e, &target.name)),
            None => Ok((new_null_array(&target.parser.arrow, n), vec![])),
        };
        let mut partial: Vec<bool> = vec![];
        if let Some((at, changes)) = &self.changes {
            let ops = bring(&self.targets[*at])?.0;
            let ops = ops.as_string_view();
            let op = |row: usize| ops.is_valid(row).then(|| ops.value(row));
            partial = (0..n).map(|row| op(row).is_some_and(|op| changes.partial.contains(&op))).collect();
            let unknown = (0..n).filter(|row| whole(*row) && !op(*row).is_some_and(|op| changes.known.contains(&op)));
            let message = format!("is none of {}", changes.known.join(", "));
            found.extend(unknown.map(|row| Found { row, target: Some(*at), rule: "op", message: message.clone() }));
        }
        let partial = |row: usize| partial.get(row).copied().unwrap_or(false);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for (at, target) in self.targets.iter().enumerate() {
            let (typed, faults) = bring(target)?;
            let is_op = self.changes.as_ref().is_some_and(|(op, _)| *op == at);
            if target.required && typed.null_count() > 0 && !is_op {
                let failed: HashSet<usize> = faults.iter().map(|f| f.row).collect();
                let missing = (0..n).filter(|row| typed.is_null(*row) && whole(*row) && !failed.contains(row) && !partial(*row));
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
                None if self.schema.field(self.targets.len() + i).name() == hidden::ABSENT && self.absent.is_some() => {
                    Arc::new(BinaryViewArray::from_iter(std::iter::repeat_n(self.absent.as_deref(), n)))
                }
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
