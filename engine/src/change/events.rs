//! From the rows of a load to events: what each does (upsert, delete, truncate), its sequence, and which values it gives.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewBuilder};
use arrow::datatypes::{DataType, Int8Type};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast, lit,
    when,
};

use super::config::NullUpdates;
use super::plan::{ChangeMode, DELETE, Kind, Layout, NEW, TRUNCATE, UPSERT, instant, meta};
use super::resolve::event_schema;
use crate::conform::Sensitive;
use crate::contract::hidden;
use crate::error::{Complaint, Error, Result};
use crate::route::{Action, Rule, route};
use crate::steps::Scope;
use crate::steps::expression::{self, Allow};

/// What the rows of a load leave out.
#[derive(Debug, Clone, Default)]
pub struct Missing {
    /// Columns of the table that no row of this load gives.
    pub columns: Vec<String>,
    /// Columns of the contract in order, where rows say in `_absent` which of them their file lacked.
    pub contract: Option<Vec<String>>,
}

/// Whether events of this mode may leave values to the events before them.
pub(super) fn inherits(mode: &ChangeMode, missing: &Missing) -> bool {
    let null_updates = match &mode.null_updates {
        NullUpdates::All(all) => *all,
        NullUpdates::Columns(columns) => !columns.is_empty(),
    };
    mode.kind != Kind::Snapshot && (null_updates || !missing.columns.is_empty() || missing.contract.is_some())
}

/// Plans the events of `input`, with the columns of `resolve::event_schema`. Rows without key or sequence go to quarantine.
///
/// # Errors
/// `Error::Pipeline` with complaints about `deletes` and `truncates`, paths relative to `write.<mode>`.
pub(super) fn plan_events(
    input: LogicalPlan,
    mode: &ChangeMode,
    layout: &Layout,
    missing: &Missing,
    scope: &Scope<'_>,
    now: i64,
) -> Result<LogicalPlan> {
    let mut wrong: Vec<Complaint> = vec![];
    let mut predicate = |text: &Option<String>, key: &str| -> Option<Expr> {
        let text = text.as_ref()?;
        let expr = expression::predicate(scope.session, text, input.schema(), Allow::Scalar, &[key]).map_err(|e| wrong.extend(e)).ok()?;
        // by name alone: the columns are projected on the way
        expr.transform(|e| {
            Ok(match e {
                Expr::Column(c) => Transformed::yes(Expr::Column(Column::from_name(c.name))),
                other => Transformed::no(other),
            })
        })
        .ok()
        .map(|t| t.data)
    };
    let (deletes, truncates) = (predicate(&mode.deletes, "deletes"), predicate(&mode.truncates, "truncates"));
    if !wrong.is_empty() {
        return Err(Error::Pipeline(wrong));
    }
    let op = match (deletes, truncates) {
        (None, None) => lit(UPSERT),
        (Some(d), None) => when(d, lit(DELETE)).otherwise(lit(UPSERT))?,
        (None, Some(t)) => when(t, lit(TRUNCATE)).otherwise(lit(UPSERT))?,
        (Some(d), Some(t)) => when(t, lit(TRUNCATE)).when(d, lit(DELETE)).otherwise(lit(UPSERT))?,
    };
    let column = |name: &str| Expr::Column(Column::from_name(name));
    let has = |plan: &LogicalPlan, name: &str| plan.schema().index_of_column_by_name(None, name).is_some();
    let any_null = |names: &[String]| names.iter().map(|n| column(n).is_null()).reduce(|a, b| a.or(b)).unwrap_or_else(|| lit(false));

    // rows that cannot be placed leave as they came
    let all = input.schema().iter().map(|(q, f)| Expr::Column(Column::new(q.cloned(), f.name())).alias(f.name()));
    let plan = LogicalPlanBuilder::from(input.clone()).project(all.collect::<Vec<_>>())?.build()?;
    let key_flag = any_null(&mode.keys).and(op.clone().not_eq(lit(TRUNCATE)));
    let flagged = plan
        .schema()
        .iter()
        .map(|(_, f)| column(f.name()))
        .chain([key_flag.alias("__no_key"), any_null(&mode.sequence).alias("__no_sequence")])
        .collect::<Vec<_>>();
    let plan = LogicalPlanBuilder::from(plan).project(flagged)?.build()?;
    let rule = |columns: &[String], rule: &str, message: &str, flag: &str| Rule {
        column: columns.join(", "),
        rule: rule.into(),
        message: message.into(),
        flag: flag.into(),
        action: Action::Quarantine,
    };
    let rules = vec![
        rule(&mode.keys, "key", "a key column is NULL", "__no_key"),
        rule(&mode.sequence, "sequence", "a sequence column is NULL", "__no_sequence"),
    ];
    let plan = route(plan, rules, Sensitive::default(), "write");
    let all: Vec<Expr> = plan.schema().iter().map(|(_, f)| column(f.name())).chain([op.alias(meta::OP)]).collect();
    let plan = LogicalPlanBuilder::from(plan).project(all)?.build()?;

    let given = given(&plan, mode, layout, missing);
    let mut exprs: Vec<Expr> = vec![];
    let schema = event_schema(layout);
    for (i, field) in schema.fields().iter().enumerate() {
        let name = field.name().as_str();
        let null = || -> Result<Expr> { Ok(Expr::Literal(ScalarValue::try_from(field.data_type())?, None)) };
        let expr = match name {
            meta::OP => column(meta::OP),
            meta::ORIGIN => lit(NEW),
            meta::GIVEN => match &given {
                Some(given) => given.clone(),
                None => null()?,
            },
            meta::TO | meta::RECORDED | meta::SYSTEM => null()?,
            hidden::FILE | hidden::LINE if has(&plan, name) => cast(column(name), field.data_type().clone()),
            hidden::FILE | hidden::LINE => null()?,
            _ if i < layout.stored.len() && has(&plan, name) => column(name),
            _ if i < layout.stored.len() => null()?,
            _ => match mode.sequence.get(i - layout.stored.len()) {
                Some(member) => column(member),
                None => Expr::Literal(ScalarValue::TimestampMicrosecond(Some(now * 1000), Some("UTC".into())), None),
            },
        };
        exprs.push(expr.alias(name));
    }
    debug_assert!(mode.sequence.len() == layout.sequence_types.len() || layout.sequence_types[0] == instant());
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

/// The rule for events older than what was forgotten.
pub(super) fn too_late(mode: &ChangeMode) -> Rule {
    Rule {
        column: mode.sequence.join(", "),
        rule: "too_late".into(),
        message: "the row is older than what the table still remembers (`tombstones`), so its place in the history is not known".into(),
        flag: "__too_late".into(),
        action: Action::Quarantine,
    }
}

/// The expression of the values that an event gives; `None`: all of them always.
fn given(plan: &LogicalPlan, mode: &ChangeMode, layout: &Layout, missing: &Missing) -> Option<Expr> {
    if !inherits(mode, missing) {
        return None;
    }
    let absent = missing.contract.as_ref().filter(|_| plan.schema().index_of_column_by_name(None, hidden::ABSENT).is_some());
    let values = layout.values.iter().map(|v| {
        let name = layout.stored[*v].name();
        Value {
            never: missing.columns.contains(name),
            unless_null: match &mode.null_updates {
                NullUpdates::All(all) => *all,
                NullUpdates::Columns(columns) => columns.contains(name),
            },
            contract: absent.and_then(|contract| contract.iter().position(|c| c == name)),
        }
    });
    let values: Vec<Value> = values.collect();
    let mut args = vec![Expr::Column(Column::from_name(meta::OP))];
    args.push(match absent {
        Some(_) => cast(Expr::Column(Column::from_name(hidden::ABSENT)), DataType::BinaryView),
        None => Expr::Literal(ScalarValue::BinaryView(None), None),
    });
    for (v, value) in layout.values.iter().zip(&values) {
        if value.unless_null && !value.never {
            args.push(Expr::Column(Column::from_name(layout.stored[*v].name())));
        }
    }
    let function = Given { values, signature: Signature::any(args.len(), Volatility::Immutable) };
    Some(ScalarUDF::new_from_impl(function).call(args))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Value {
    never: bool,
    unless_null: bool,
    /// Bit of `_absent`.
    contract: Option<usize>,
}

/// Bits of the values that an event gives, NULL where it gives all.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    values: Vec<Value>,
    signature: Signature,
}

impl Hash for Given {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.values.hash(state);
    }
}

impl ScalarUDFImpl for Given {
    fn name(&self) -> &str {
        "given"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::BinaryView)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let (op, absent) = (arrays[0].as_primitive::<Int8Type>(), arrays[1].as_binary_view());
        let mut nullable = arrays[2..].iter();
        let columns: Vec<Option<&ArrayRef>> =
            self.values.iter().map(|v| if v.unless_null && !v.never { nullable.next() } else { None }).collect();
        let mut out = BinaryViewBuilder::with_capacity(op.len());
        let mut bits = vec![0u8; self.values.len().div_ceil(8)];
        for row in 0..op.len() {
            if op.value(row) != UPSERT {
                out.append_null();
                continue;
            }
            bits.fill(0);
            let mut all = true;
            let lacking = absent.is_valid(row).then(|| absent.value(row));
            for (i, (value, column)) in self.values.iter().zip(&columns).enumerate() {
                let lacks = |c: usize| lacking.is_some_and(|l| l.get(c / 8).is_some_and(|b| b >> (c % 8) & 1 == 1));
                let gives = !value.never && !column.is_some_and(|c| c.is_null(row)) && !value.contract.is_some_and(lacks);
                if gives {
                    bits[i / 8] |= 1 << (i % 8);
                } else {
                    all = false;
                }
            }
            if all { out.append_null() } else { out.append_value(&bits) }
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}
