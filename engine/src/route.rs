//! Route: rows that broke a rule leave for quarantine, the rest pass on; every broken rule is counted (law 2).
//!
//! Which rows are broken is said by Boolean flag columns (checks) and by `_errors` (conform). Where refused rows are written
//! is the sink's; what the rules mean is their owners'.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, StringViewArray, StringViewBuilder, StructArray, new_null_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, filter_record_batch, is_not_null, not, or, prep_null_mask_filter};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::json::EncoderOptions;
use arrow::json::writer::make_encoder;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::error::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt;

use crate::conform::{Broken, Sensitive, bounded, display, record, scrub};
use crate::contract::hidden;
use crate::error::{Error, Result};
use crate::ledger::Ledger;

/// What happens to a row that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The row leaves.
    Quarantine,
    /// The row passes on, counted in the report.
    Warn,
    /// The row passes on, counted; the driver asks [`Ledger::failures`] before it commits.
    Fail,
}

/// One rule over the rows of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, serde::Serialize, serde::Deserialize)]
pub struct Rule {
    /// The column that the rule is about; empty where it is about the row.
    pub column: String,
    /// E.g. `not_null`.
    pub rule: String,
    /// For the quarantine and the report. The same for all rows, so it holds no value.
    pub message: String,
    /// A Boolean column of the input: true is broken, NULL is not. Dropped from the output.
    pub flag: String,
    pub action: Action,
}

/// Takes the rows that broke a rule out of `input`. The output lacks the flag columns and `_errors`, `_raw`, `_offset`.
/// `sensitive` names the columns whose values are scrubbed in the quarantined record, as they are named here; `stage` says in
/// quarantine where the row was refused.
pub fn route(input: LogicalPlan, rules: Vec<Rule>, sensitive: Sensitive, stage: &str) -> LogicalPlan {
    let kept = input.schema().iter().filter(|(_, f)| stays(f.name(), &rules)).map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    // A part of a valid schema is valid; were it not, the planner would find that the operator's columns differ.
    let schema = DFSchema::new_with_metadata(kept, input.schema().metadata().clone()).map_or_else(|_| Arc::clone(input.schema()), Arc::new);
    LogicalPlan::Extension(Extension { node: Arc::new(RouteNode { rules, sensitive, stage: stage.to_owned(), input, schema }) })
}

/// Sends all of `rows` to quarantine for one rule. For operators that find out late.
pub(crate) async fn refuse(rows: RecordBatch, rule: &Rule, ledger: &Ledger) -> Result<()> {
    let n = rows.num_rows();
    let mut fields: Vec<Arc<Field>> = rows.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(&rule.flag, DataType::Boolean, false)));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(BooleanArray::from(vec![true; n])));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let router = Router::try_new(&rows.schema(), vec![rule.clone()], Sensitive::default(), "write", None)?;
    if let (_, Some(refused)) = router.split(&rows, ledger)? {
        ledger.sink()?.push(refused).await?;
        Ledger::add(&ledger.quarantined, n);
    }
    Ok(())
}

/// The columns of a quarantine table, all nullable.
pub fn quarantine_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let text = |name: &str| Field::new(name, DataType::Utf8View, true);
        let long = |name: &str| Field::new(name, DataType::Int64, true);
        let rule = Field::new("element", DataType::Struct(rule_fields()), true);
        Arc::new(Schema::new(vec![
            text("_table"),
            text("_batch"),
            text(hidden::FILE),
            long(hidden::LINE),
            long(hidden::OFFSET),
            text("stage"),
            Field::new("rules", DataType::List(Arc::new(rule)), true),
            text("raw"),
        ]))
    });
    Arc::clone(&SCHEMA)
}

fn rule_fields() -> Fields {
    ["column", "rule", "message"].iter().map(|name| Field::new(*name, DataType::Utf8View, true)).collect()
}

/// Stage of rows that the conform operator marked.
const CONFORM: &str = "conform";

fn stays(column: &str, rules: &[Rule]) -> bool {
    !matches!(column, hidden::ERRORS | hidden::RAW | hidden::OFFSET) && !rules.iter().any(|r| r.flag == column)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RouteNode {
    rules: Vec<Rule>,
    sensitive: Sensitive,
    stage: String,
    input: LogicalPlan,
    schema: DFSchemaRef,
}

impl PartialOrd for RouteNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let own = (&self.rules, &self.sensitive, &self.stage, &self.input);
        own.partial_cmp(&(&other.rules, &other.sensitive, &other.stage, &other.input))
    }
}

impl UserDefinedLogicalNodeCore for RouteNode {
    fn name(&self) -> &str {
        "Route"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Route: stage={}, rules={}", self.stage, self.rules.len())
    }
    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        Ok(RouteNode { input: inputs.swap_remove(0), ..self.clone() })
    }
    /// A refused row goes to quarantine whole, so every column is needed whatever is asked above.
    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![(0..self.input.schema().fields().len()).collect()])
    }
}

pub(crate) fn plan_operator(
    node: &dyn UserDefinedLogicalNode,
    inputs: &[Arc<dyn ExecutionPlan>],
    _state: &dyn Session,
) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
    let Some(node) = node.as_any().downcast_ref::<RouteNode>() else {
        return Ok(None);
    };
    let exec = RouteExec::try_new(Arc::clone(&inputs[0]), node.rules.clone(), node.sensitive.clone(), &node.stage, None)?;
    Ok(Some(Arc::new(exec)))
}

/// The operator. Batches without a broken rule pass on as they are, without the columns that end here.
#[derive(Debug)]
pub struct RouteExec {
    input: Arc<dyn ExecutionPlan>,
    router: Arc<Router>,
    properties: Arc<PlanProperties>,
}

impl RouteExec {
    /// `table` names the rows in quarantine; the ledger's table where it is `None`.
    pub fn try_new(
        input: Arc<dyn ExecutionPlan>,
        rules: Vec<Rule>,
        sensitive: Sensitive,
        stage: &str,
        table: Option<String>,
    ) -> Result<Self> {
        let router = Arc::new(Router::try_new(&input.schema(), rules, sensitive, stage, table)?);
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&router.schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            input.boundedness(),
        ));
        Ok(RouteExec { input, router, properties })
    }
}

impl DisplayAs for RouteExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "RouteExec: stage={}, rules={}", self.router.stage, self.router.rules.len())
    }
}

impl ExecutionPlan for RouteExec {
    fn name(&self) -> &str {
        "RouteExec"
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
        CardinalityEffect::LowerEqual
    }
    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let Router { rules, sensitive, stage, table, .. } = &*self.router;
        let exec = RouteExec::try_new(children.swap_remove(0), rules.clone(), sensitive.clone(), stage, table.clone())?;
        Ok(Arc::new(exec))
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let ledger = Ledger::of(&context)?;
        let router = Arc::clone(&self.router);
        let input = self.input.execute(partition, context)?;
        let stream = input.filter_map(move |batch| {
            let (router, ledger) = (Arc::clone(&router), Arc::clone(&ledger));
            async move {
                let routed = async {
                    let (passing, refused) = router.split(&batch?, &ledger)?;
                    if let Some(refused) = refused {
                        let rows = refused.num_rows();
                        ledger.sink()?.push(refused).await?;
                        Ledger::add(&ledger.quarantined, rows);
                    }
                    Ok(passing)
                };
                routed.await.map(|passing| (passing.num_rows() > 0).then_some(passing)).transpose()
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}

/// The rules over one input schema.
#[derive(Debug)]
struct Router {
    rules: Vec<Rule>,
    sensitive: Sensitive,
    stage: String,
    table: Option<String>,
    /// Input column of each rule's flag.
    flags: Vec<usize>,
    errors: Option<usize>,
    raw: Option<usize>,
    /// Input columns that stay.
    kept: Vec<usize>,
    schema: SchemaRef,
}

impl Router {
    fn try_new(input: &Schema, rules: Vec<Rule>, sensitive: Sensitive, stage: &str, table: Option<String>) -> Result<Self> {
        let flag = |rule: &Rule| match input.column_with_name(&rule.flag) {
            Some((at, field)) if *field.data_type() == DataType::Boolean => Ok(at),
            _ => Err(Error::bug(format!("the rule {} has no Boolean column {}", rule.rule, rule.flag))),
        };
        let flags = rules.iter().map(flag).collect::<Result<_>>()?;
        let kept: Vec<usize> = (0..input.fields().len()).filter(|i| stays(input.field(*i).name(), &rules)).collect();
        let schema = Arc::new(input.project(&kept)?);
        let (errors, raw) = (input.index_of(hidden::ERRORS).ok(), input.index_of(hidden::RAW).ok());
        Ok(Router { rules, sensitive, stage: stage.to_owned(), table, flags, errors, raw, kept, schema })
    }

    /// Rows that pass, and rows for the sink.
    fn split(&self, batch: &RecordBatch, ledger: &Ledger) -> Result<(RecordBatch, Option<RecordBatch>)> {
        let mut refused: Option<BooleanArray> = None;
        let errors = self.errors.map(|i| batch.column(i)).filter(|e| e.null_count() < e.len());
        if let Some(errors) = errors {
            refused = Some(is_not_null(errors)?);
        }
        for (rule, flag) in self.rules.iter().zip(&self.flags) {
            let flag = batch.column(*flag).as_boolean();
            let rows = flag.true_count();
            if rows == 0 {
                continue;
            }
            ledger.broke(&rule.column, &rule.rule, rows);
            match rule.action {
                Action::Warn => ledger.warn(rule_text(rule), rows),
                Action::Fail => ledger.fail(rule_text(rule), rows),
                Action::Quarantine => {
                    let flag = if flag.null_count() > 0 { prep_null_mask_filter(flag) } else { flag.clone() };
                    refused = Some(match &refused {
                        Some(others) => or(others, &flag)?,
                        None => flag,
                    });
                }
            }
        }
        let passing = batch.project(&self.kept)?;
        let Some(refused) = refused else { return Ok((passing, None)) };
        let leaving = self.quarantined(&filter_record_batch(batch, &refused)?, ledger)?;
        let passing = filter_record_batch(&passing, &not(&refused)?)?;
        Ok((
            RecordBatch::try_new_with_options(Arc::clone(&self.schema), passing.columns().to_vec(), &options(passing.num_rows()))?,
            Some(leaving),
        ))
    }

    /// Refused rows as the quarantine holds them.
    fn quarantined(&self, rows: &RecordBatch, ledger: &Ledger) -> Result<RecordBatch> {
        let n = rows.num_rows();
        let errors = self.errors.map(|i| rows.column(i).as_string_view());
        let marked = |row: usize| errors.filter(|e| e.is_valid(row));
        let flags: Vec<&BooleanArray> = self.flags.iter().map(|i| rows.column(*i).as_boolean()).collect();
        let mut list = RuleList::default();
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for row in 0..n {
            if let Some(errors) = marked(row) {
                let broken: Vec<Broken> =
                    serde_json::from_str(errors.value(row)).map_err(|e| Error::bug(format!("{}: {e}", hidden::ERRORS)))?;
                // A row counts once for a rule, however many values in it broke the rule.
                let mut once: Vec<(&str, &str)> = vec![];
                for b in &broken {
                    list.push(b.column.as_deref(), &b.rule, &b.message);
                    let key = (b.column.as_deref().unwrap_or(""), &*b.rule);
                    if !once.contains(&key) {
                        once.push(key);
                        *counts.entry((key.0.to_owned(), key.1.to_owned())).or_default() += 1;
                    }
                }
            }
            for (rule, flag) in self.rules.iter().zip(&flags) {
                if flag.is_valid(row) && flag.value(row) {
                    list.push(Some(rule.column.as_str()).filter(|c| !c.is_empty()), &rule.rule, &rule.message);
                }
            }
            list.end();
        }
        counts.iter().for_each(|((column, rule), rows)| ledger.broke(column, rule, *rows));

        let table = self.table.clone().unwrap_or_else(|| ledger.table());
        let stages = (0..n).map(|row| if marked(row).is_some() { CONFORM } else { self.stage.as_str() });
        let schema = quarantine_schema();
        let hidden_column = |name: &str| {
            let ty = schema.field_with_name(name)?.data_type();
            match rows.column_by_name(name) {
                Some(column) => cast(column, ty),
                None => Ok(new_null_array(ty, n)),
            }
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n(table.as_str(), n))),
            Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n(ledger.batch().as_str(), n))),
            hidden_column(hidden::FILE)?,
            hidden_column(hidden::LINE)?,
            hidden_column(hidden::OFFSET)?,
            Arc::new(StringViewArray::from_iter_values(stages)),
            list.finish()?,
            self.raws(rows, &marked)?,
        ];
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    /// The raw record where conform kept one, else the row as it stands here.
    fn raws<'a>(&self, rows: &RecordBatch, marked: &dyn Fn(usize) -> Option<&'a StringViewArray>) -> Result<ArrayRef> {
        let n = rows.num_rows();
        let kept = self.raw.map(|i| rows.column(i).as_string_view());
        if (0..n).all(|row| marked(row).is_some()) {
            return Ok(kept.map_or_else(|| new_null_array(&DataType::Utf8View, n), |raw| Arc::new(raw.clone())));
        }
        let visible: Vec<usize> = self
            .kept
            .iter()
            .copied()
            .filter(|i| !matches!(rows.schema_ref().field(*i).name().as_str(), hidden::FILE | hidden::LINE | hidden::ABSENT))
            .collect();
        let shapes = visible.iter().map(|i| {
            let sensitive = self.sensitive.has(rows.schema_ref().field(*i).name());
            sensitive.then(|| scrubbed(rows.column(*i))).transpose()
        });
        let shapes: Vec<Option<ArrayRef>> = shapes.collect::<Result<_>>()?;
        let fields: Vec<(Arc<Field>, &ArrayRef)> = visible
            .iter()
            .zip(&shapes)
            .map(|(i, shape)| {
                let (field, column) = (rows.schema_ref().field(*i), rows.column(*i));
                let column = shape.as_ref().unwrap_or(column);
                (Arc::new(Field::new(field.name(), column.data_type().clone(), true)), column)
            })
            .collect();
        let options = EncoderOptions::default().with_explicit_nulls(true);
        let mut encoders = vec![];
        for (field, column) in &fields {
            let mut name = serde_json::to_vec(field.name()).map_err(|e| Error::bug(e.to_string()))?;
            name.push(b':');
            encoders.push((name, make_encoder(field, column, &options)?));
        }
        let (mut out, mut bytes) = (StringViewBuilder::with_capacity(n), vec![]);
        for row in 0..n {
            if marked(row).is_some() {
                out.append_option(kept.filter(|k| k.is_valid(row)).map(|k| k.value(row)));
                continue;
            }
            bytes.clear();
            bytes.push(b'{');
            for (i, (name, encoder)) in encoders.iter_mut().enumerate() {
                if i > 0 {
                    bytes.push(b',');
                }
                bytes.extend_from_slice(name);
                if encoder.is_null(row) { bytes.extend_from_slice(b"null") } else { encoder.encode(row, &mut bytes) }
            }
            bytes.push(b'}');
            let text = std::str::from_utf8(&bytes).map_err(|_| Error::bug("JSON that is not UTF-8"))?;
            if bounded(text).len() == text.len() {
                out.append_value(text);
            } else {
                out.append_value(cut_row(&fields, row)?);
            }
        }
        Ok(Arc::new(out.finish()))
    }
}

/// A row too long for its typed form: texts, cut.
fn cut_row(fields: &[(Arc<Field>, &ArrayRef)], row: usize) -> Result<String> {
    let texts = fields.iter().map(|(field, column)| {
        let text = display(&column.slice(row, 1))?;
        let text = text.as_string_view();
        Ok((field.name().as_str(), text.is_valid(0).then(|| Cow::Owned(text.value(0).to_owned()))))
    });
    Ok(record(&texts.collect::<Result<Vec<_>>>()?))
}

fn scrubbed(column: &ArrayRef) -> Result<ArrayRef> {
    let texts = display(column)?;
    let shapes: StringViewArray = texts.as_string_view().iter().map(|text| text.map(scrub)).collect();
    Ok(Arc::new(shapes))
}

fn rule_text(rule: &Rule) -> String {
    if rule.column.is_empty() {
        format!("{}: {}", rule.rule, rule.message)
    } else {
        format!("{} {}: {}", rule.column, rule.rule, rule.message)
    }
}

fn options(rows: usize) -> RecordBatchOptions {
    RecordBatchOptions::new().with_row_count(Some(rows))
}

/// Builds the `rules` column.
#[derive(Default)]
struct RuleList {
    columns: StringViewBuilder,
    rules: StringViewBuilder,
    messages: StringViewBuilder,
    open: usize,
    lengths: Vec<usize>,
}

impl RuleList {
    fn push(&mut self, column: Option<&str>, rule: &str, message: &str) {
        self.columns.append_option(column);
        self.rules.append_value(rule);
        self.messages.append_value(message);
        self.open += 1;
    }
    fn end(&mut self) {
        self.lengths.push(std::mem::take(&mut self.open));
    }
    fn finish(mut self) -> Result<ArrayRef> {
        let parts: Vec<ArrayRef> = vec![Arc::new(self.columns.finish()), Arc::new(self.rules.finish()), Arc::new(self.messages.finish())];
        let rules = StructArray::try_new(rule_fields(), parts, None)?;
        let field = Arc::new(Field::new("element", DataType::Struct(rule_fields()), true));
        Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(self.lengths), Arc::new(rules), None)?))
    }
}

#[cfg(test)]
mod tests;
