//! `mask`: hides personal values. Each mask is one file: its configuration, its definition byte for byte, its kernel and its tests.
//!
//! The masks that need a key are SQL functions too (`register`): a plan names keys and never holds them, so that a printed plan shows none.

pub mod generalize;
pub mod hash;
pub mod redact;
mod sha;
pub mod shift_date;
pub mod tokenize;

use std::sync::Arc;

use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::prelude::SessionContext;

use crate::conform::Sensitive;
pub use crate::conform::TextMask;
use crate::error::{Complaint, Result};
use crate::keys::{Keys, Secret};
use crate::steps::config::Entries;
use crate::steps::expression::{column, field, in_words, is_hidden, nearest};
use crate::steps::{Scope, Step, Transform, sql, verdict};
pub use sha::{Hmac, hex};

/// Masks columns, one mask each. NULL stays NULL.
///
/// ```yaml
/// - mask:
///     customer_email: {tokenize: {key: pii, domain: email}}
///     phone: {redact: {keep_last: 4}}
///     birth_date: {shift_date: {key: pii, by: customer_email, days: 30}}
///     salary: {generalize: {bucket: 1000}}
///     note: {null: true}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Masks(pub Entries<Mask>);

/// How one column is masked.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// A keyed pseudonym: the same value gives the same token, so joins survive.
    Tokenize(tokenize::Tokenize),
    /// A salted SHA-256 digest.
    Hash(hash::Hash),
    /// `true`: the column is all NULL.
    Null(bool),
    /// Characters replaced, or the whole text.
    Redact(redact::Redact),
    /// A date moved by a number of days that is the same for all rows of one subject.
    ShiftDate(shift_date::ShiftDate),
    /// A coarser value: the month of a date, the first characters of a text, the bucket of a number.
    Generalize(generalize::Generalize),
}

impl Mask {
    /// The mask as a function on raw text, for records in quarantine. `None` where there is none (a raw date cannot be shifted without its
    /// subject, a key is missing): such a value must be left out altogether.
    pub fn text(&self, keys: &Keys) -> Option<TextMask> {
        match self {
            Mask::Tokenize(mask) => mask.text(keys),
            Mask::Hash(mask) => mask.text(keys),
            Mask::Null(_) => Some(Arc::new(|_| None)),
            Mask::Redact(mask) => Some(mask.text()),
            Mask::ShiftDate(_) => None,
            Mask::Generalize(mask) => mask.text(),
        }
    }

    fn expression(&self, column: Column<'_>, keys: &Keys) -> Result<Expr, Vec<Complaint>> {
        match self {
            Mask::Tokenize(mask) => mask.expression(column, keys),
            Mask::Hash(mask) => mask.expression(column, keys),
            Mask::Null(true) => Ok(cast(Expr::Literal(datafusion::common::ScalarValue::Null, None), column.ty.clone())),
            Mask::Null(false) => {
                Err(vec![column.complaint(&["null"], "`null: false` masks nothing").help("write `null: true`, or remove the column here")])
            }
            Mask::Redact(mask) => mask.expression(column),
            Mask::ShiftDate(mask) => mask.expression(column, keys),
            Mask::Generalize(mask) => mask.expression(column),
        }
    }
}

/// The column under a mask, as the masks' planning sees it.
#[derive(Debug, Clone, Copy)]
struct Column<'a> {
    name: &'a str,
    ty: &'a DataType,
    schema: &'a datafusion::common::DFSchema,
}

impl Column<'_> {
    fn complaint(&self, below: &[&str], message: impl Into<String>) -> Complaint {
        Complaint::at(["mask", self.name].iter().chain(below).copied(), message)
    }

    fn wrong_type(&self, mask: &str, wants: &str) -> Vec<Complaint> {
        let message = format!("`{}` is of type {}, and {mask} takes {wants}", self.name, in_words(self.ty));
        vec![self.complaint(&[mask], message).help("choose a mask for that type (generalize, shift_date), or `null: true`")]
    }

    /// The value as text, where the type has one form of text only: string and integers.
    fn as_text(&self) -> Option<Expr> {
        match self.ty {
            DataType::Utf8View => Some(column(self.name)),
            DataType::Utf8 | DataType::LargeUtf8 => Some(cast(column(self.name), DataType::Utf8View)),
            ty if ty.is_integer() => Some(cast(column(self.name), DataType::Utf8View)),
            _ => None,
        }
    }

    /// The complaint that there is no such key.
    fn missing_key(&self, mask: &str, key: &str, keys: &Keys) -> Complaint {
        let names: Vec<&str> = keys.names().collect();
        let help = match (nearest(key, names.iter().copied()), names.is_empty()) {
            (_, true) => "the pipeline has no keys yet: write `keys: {pii: ${secret:env://PII_KEY}}`".to_owned(),
            (Some(near), _) => format!("did you mean `{near}`? The keys are {}", names.join(", ")),
            (None, _) => format!("the keys are {}", names.join(", ")),
        };
        self.complaint(&[mask, "key"], format!("there is no key `{key}`")).help(help)
    }
}

#[async_trait]
impl Transform for Masks {
    async fn plan(&self, input: LogicalPlan, scope: &Scope<'_>) -> Result<LogicalPlan> {
        let schema = Arc::clone(input.schema());
        let mut complaints = vec![];
        let mut masked: Vec<(&str, Expr)> = vec![];
        for (name, mask) in self.0.iter() {
            let path = ["mask", name];
            match field(&schema, name, &path) {
                _ if is_hidden(name) => {
                    complaints.push(Complaint::at(path, format!("`{name}` is Smelt's own column and cannot be masked")))
                }
                Err(complaint) => complaints.push(complaint),
                Ok(f) => match mask.expression(Column { name, ty: f.data_type(), schema: &schema }, scope.keys) {
                    Ok(expr) => masked.push((name, expr)),
                    Err(found) => complaints.extend(found),
                },
            }
        }
        verdict(complaints)?;
        let out = schema.fields().iter().map(|f| match masked.iter().find(|(name, _)| name == f.name()) {
            Some((name, expr)) => expr.clone().alias(*name),
            None => column(f.name()),
        });
        Ok(LogicalPlanBuilder::from(input).project(out.collect::<Vec<_>>())?.build()?)
    }
}

/// Makes the masks callable in SQL: `tokenize(value, 'key' [, 'domain' [, 'prefix' [, bytes]]])`, `hash(value, 'salt')`,
/// `redact(value, keep_first, keep_last [, 'char'])`, `shift_date(date, subject, 'key', days [, 'domain'])`; and `clean_text`.
pub fn register(session: &SessionContext, keys: &Keys) {
    session.register_udf(tokenize::udf(keys));
    session.register_udf(hash::udf(None));
    session.register_udf(redact::udf());
    session.register_udf(shift_date::udf(keys));
    session.register_udf(super::clean::udf());
}

/// The contract's columns whose raw values the steps mask, each with its mask, so that quarantined raw records can be masked
/// alike (law 3). Names are those before any rename. A mask on a derived column covers the columns that it was derived from; a column
/// may therefore come more than once, and the first mask counts. What a sql step does to names is not followed: after one, a
/// masked column is taken to be the contract's column of the same name.
pub fn masked_columns(steps: &[Step]) -> Vec<(String, &Mask)> {
    let mut found: Vec<(String, &Mask)> = vec![];
    for (i, step) in steps.iter().enumerate() {
        let Step::Mask(masks) = step else { continue };
        for (name, mask) in masks.0.iter() {
            let mut names = vec![name.to_owned()];
            // Back through the steps before, to where the names came from.
            for step in steps[..i].iter().rev() {
                match step {
                    Step::Rename(rename) => {
                        for n in &mut names {
                            *n = rename.old_name(n).to_owned();
                        }
                    }
                    Step::Derive(derive) => {
                        for (derived, text) in derive.0.iter().collect::<Vec<_>>().into_iter().rev() {
                            if names.iter().any(|n| n == derived) {
                                let more = sql::names_in(text).into_iter().filter(|n| !names.contains(n)).collect::<Vec<_>>();
                                names.extend(more);
                            }
                        }
                    }
                    _ => {}
                }
            }
            found.extend(names.into_iter().map(|n| (n, mask)));
        }
    }
    found
}

/// What `conform` and `route` must not show of rows that stand before `steps[0]`: the columns that these steps mask, each with its mask
/// over text where there is one.
pub fn sensitive(steps: &[Step], keys: &Keys) -> Sensitive {
    let mut sensitive = Sensitive::default();
    for (column, mask) in masked_columns(steps) {
        sensitive.columns.entry(column).or_insert_with(|| mask.text(keys));
    }
    sensitive
}

/// The key under its name, or why there is none, for functions called from SQL.
fn key<'a>(keys: &'a Keys, name: &str, function: &str) -> datafusion::error::Result<&'a Secret> {
    keys.get(name).ok_or_else(|| {
        let known = keys.names().collect::<Vec<_>>().join(", ");
        datafusion::error::DataFusionError::Execution(format!("{function}: there is no key `{name}` (the keys are {known})"))
    })
}

/// A constant text among a function's arguments.
fn constant_text(args: &[datafusion::logical_expr::ColumnarValue], i: usize, function: &str) -> datafusion::error::Result<Option<String>> {
    use datafusion::common::ScalarValue as S;
    use datafusion::logical_expr::ColumnarValue as C;
    match args.get(i) {
        None => Ok(None),
        Some(C::Scalar(S::Utf8(Some(t)) | S::Utf8View(Some(t)) | S::LargeUtf8(Some(t)))) => Ok(Some(t.clone())),
        Some(_) => datafusion::common::exec_err!("{function}: argument {} must be a constant text", i + 1),
    }
}

/// A constant whole number among a function's arguments.
fn constant_int(args: &[datafusion::logical_expr::ColumnarValue], i: usize, function: &str) -> datafusion::error::Result<Option<i64>> {
    use datafusion::logical_expr::ColumnarValue as C;
    match args.get(i) {
        None => Ok(None),
        Some(C::Scalar(value)) if value.data_type().is_integer() && !value.is_null() => match value.cast_to(&DataType::Int64)? {
            datafusion::common::ScalarValue::Int64(n) => Ok(n),
            _ => Ok(None),
        },
        Some(_) => datafusion::common::exec_err!("{function}: argument {} must be a constant whole number", i + 1),
    }
}

/// The first argument as string views, whatever kind of string or integer it is.
fn views(value: &datafusion::logical_expr::ColumnarValue, rows: usize) -> datafusion::error::Result<arrow::array::StringViewArray> {
    use arrow::array::AsArray;
    let array = value.to_array(rows)?;
    let array = if *array.data_type() == DataType::Utf8View { array } else { arrow::compute::cast(&array, &DataType::Utf8View)? };
    Ok(array.as_string_view().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::testing::*;

    #[tokio::test]
    async fn all_that_is_wrong_is_told() {
        let json = r#"[{"mask": {"nme": {"null": true}, "name": {"tokenize": {"key": "pi"}}, "price": {"redact": {"keep_last": 1}}}}]"#;
        let found = complaints(json).await;
        let paths: Vec<String> = found.iter().map(|c| c.place.path.join(".")).collect();
        assert_eq!(paths, ["0.mask.nme", "0.mask.name.tokenize.key", "0.mask.price.redact"]);
        assert_eq!(found[1].help.as_deref(), Some("did you mean `pii`? The keys are other, pii"));
    }

    #[tokio::test]
    async fn null_takes_the_columns_type() {
        let out = run(r#"[{"mask": {"price": {"null": true}}}, {"derive": {"price": "price + 1"}}]"#).await.unwrap();
        assert!(out.contains("ann,,f,1"), "{out}");
    }

    #[test]
    fn masked_columns_go_back_to_the_contracts_names() {
        let steps = steps(
            r#"[{"rename": {"mail": "email"}}, {"derive": {"full": "first || ' ' || \"Last\""}},
                {"mask": {"email": {"tokenize": {"key": "pii"}}, "full": {"null": true}}}, {"rename": {"email": "e"}}]"#,
        );
        let names: Vec<String> = masked_columns(&steps).into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["mail", "full", "first", "Last"]);
        let sensitive = sensitive(&steps, keys());
        assert!(sensitive.columns["mail"].as_ref().and_then(|mask| mask("a@b")).is_some_and(|t| t.starts_with('k')));
        assert_eq!(sensitive.columns["first"].as_ref().and_then(|mask| mask("ann")), None);
    }

    #[tokio::test]
    async fn masks_are_functions_of_sql_and_plans_show_no_key() {
        let session = session();
        register(&session, keys());
        let step = run(r#"[{"mask": {"name": {"tokenize": {"key": "pii", "domain": "email"}}}}, {"filter": "price = 1"}]"#).await.unwrap();
        let plan = session.sql("select tokenize('ann', 'pii', 'email') as t, hash('ann', 's') as h").await.unwrap();
        let out = csv(&session, plan.into_unoptimized_plan()).await.unwrap();
        let token = out.lines().nth(1).unwrap().split(',').next().unwrap().to_owned();
        assert!(step.contains(&token), "{step} {out}");
        let steps = steps(r#"[{"mask": {"name": {"hash": {"salt": "pepper"}}}}]"#);
        let planned = crate::steps::plan_steps(&steps, source(&session), &scope(&session)).await.unwrap();
        let shown = format!("{:?} {}", planned.plan, planned.plan.display_indent_schema());
        assert!(!shown.contains("pepper"), "{shown}");
    }
}
