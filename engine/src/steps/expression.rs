//! SQL text of the pipeline to DataFusion expressions, and what is wrong with it to complaints that point into the text.
//!
//! Steps and checks share this; it knows neither.

use datafusion::common::{DFSchema, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::Alias;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::{find_aggregate_exprs, find_window_exprs};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::parser::ParserError;

use arrow::datatypes::{DataType, Field, TimeUnit};

use crate::contract::hidden;
use crate::error::{Complaint, Result};

/// What an expression may hold beyond columns, constants and scalar functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allow {
    Scalar,
    Windows,
    /// One value for many rows: every column inside an aggregate.
    Aggregates,
}

/// Parses one SQL expression over `schema` and checks its names and types. All that is wrong comes back as complaints at `path`.
pub fn parse(session: &SessionContext, sql: &str, schema: &DFSchema, allow: Allow, path: &[&str]) -> Result<Expr, Vec<Complaint>> {
    let columns: Vec<&str> = visible(schema).collect();
    let complain = |e: DataFusionError| {
        let mut found = complaints(&e, path, &columns);
        found.iter_mut().filter(|c| c.place.within.is_none()).for_each(|c| c.place.within = named_in(&c.message, sql));
        found
    };
    let expr = session.state_ref().read().create_logical_expr(sql, schema).map_err(complain)?;
    let expr = match expr {
        Expr::Alias(Alias { expr, .. }) => *expr,
        other => other,
    };
    let expr = ExprSimplifier::new(SimplifyContext::default()).coerce(expr, schema).map_err(complain)?;
    expr.get_type(schema).map_err(complain)?;
    if allow != Allow::Aggregates && !find_aggregate_exprs([&expr]).is_empty() {
        let help = "write it over a window, `sum(x) over (partition by y)`, or use a sql step";
        return Err(vec![Complaint::at(path.to_vec(), "an aggregate function stands where each row needs its own value").help(help)]);
    }
    if allow != Allow::Windows && !find_window_exprs([&expr]).is_empty() {
        let help = "compute it in a derive step before this, then use that column here";
        return Err(vec![Complaint::at(path.to_vec(), "a window function cannot stand here").help(help)]);
    }
    Ok(expr)
}

/// Parses a predicate: an expression of type boolean.
pub fn predicate(session: &SessionContext, sql: &str, schema: &DFSchema, allow: Allow, path: &[&str]) -> Result<Expr, Vec<Complaint>> {
    let expr = parse(session, sql, schema, allow, path)?;
    match expr.get_type(schema) {
        Ok(DataType::Boolean) => Ok(expr),
        Ok(other) => Err(vec![
            Complaint::at(path.to_vec(), format!("the expression gives {}, not true or false", in_words(&other)))
                .help("compare it with something, as in `status <> 'test'`"),
        ]),
        Err(e) => Err(complaints(&e, path, &[])),
    }
}

/// What DataFusion has to say about SQL text at `path`, for the user. `columns` are those that the text may use; the error names
/// its own where it knows them.
pub fn complaints(e: &DataFusionError, path: &[&str], columns: &[&str]) -> Vec<Complaint> {
    if let DataFusionError::Collection(errors) = e {
        return errors.iter().flat_map(|e| complaints(e, path, columns)).collect();
    }
    let mut complaint = match e.find_root() {
        DataFusionError::SchemaError(inner, _) => schema_complaint(inner, path, columns),
        DataFusionError::SQL(inner, _) => syntax_complaint(inner, path),
        root => {
            let text = match e.diagnostic() {
                Some(d) => d.message.clone(),
                None => root.strip_backtrace(),
            };
            if text.contains("require unique expression names") {
                let complaint = Complaint::at(path.to_vec(), "two columns of the query have the same name");
                return vec![complaint.help("give one of them another name with `as`, or select fewer columns than `*`")];
            }
            let mut lines = text.lines();
            let mut complaint = Complaint::at(path.to_vec(), sentence(lines.next().unwrap_or_default()));
            let rest: Vec<&str> = lines.map(str::trim).filter(|l| !l.is_empty()).collect();
            if !rest.is_empty() {
                complaint = complaint.help(sentence(&rest.join(" ")));
            }
            complaint
        }
    };
    if let Some(diagnostic) = e.diagnostic() {
        if let Some(span) = diagnostic.span {
            let same_line = span.start.line == span.end.line;
            let length = if same_line { span.end.column.saturating_sub(span.start.column) } else { 0 };
            complaint.place.within = Some((span.start.line as usize, span.start.column as usize, length as usize));
        }
        if complaint.help.is_none() {
            let help = diagnostic.helps.first().map(|h| &h.message).or(diagnostic.notes.first().map(|n| &n.message));
            complaint.help = help.map(|h| sentence(h));
        }
    }
    vec![complaint]
}

/// Where the first name that `message` has in backticks stands in `sql` as a word: DataFusion gives expressions no places.
fn named_in(message: &str, sql: &str) -> Option<(usize, usize, usize)> {
    let name = message.split('`').nth(1).filter(|n| !n.is_empty())?;
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let at = sql
        .match_indices(name)
        .map(|(at, _)| at)
        .find(|at| !sql[..*at].chars().next_back().is_some_and(part) && !sql[at + name.len()..].chars().next().is_some_and(part))?;
    let line = sql[..at].matches('\n').count() + 1;
    let column = sql[..at].rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Some((line, column, name.chars().count()))
}

/// "There is no column `x`", with the nearest one.
pub fn unknown_column<'a>(name: &str, columns: impl IntoIterator<Item = &'a str>, path: &[&str]) -> Complaint {
    let columns: Vec<&str> = columns.into_iter().collect();
    let complaint = Complaint::at(path.to_vec(), format!("there is no column `{name}`"));
    match nearest(name, columns.iter().copied()) {
        Some(near) => complaint.help(format!("did you mean `{near}`?")),
        None if columns.is_empty() => complaint,
        None => complaint.help(format!("the columns here are {}", columns.join(", "))),
    }
}

/// The candidate that a typing error away from `name` would give.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&lower, &c.to_lowercase()), c))
        .filter(|(distance, c)| *distance <= (name.chars().count().max(c.chars().count()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// Columns that travel with the row but are not the user's: a source's hidden ones, and flags.
pub fn is_hidden(name: &str) -> bool {
    hidden::RESERVED.contains(&name) || name.starts_with("__")
}

/// Names of the user's columns.
pub fn visible(schema: &DFSchema) -> impl Iterator<Item = &str> {
    schema.fields().iter().map(|f| f.name().as_str()).filter(|n| !is_hidden(n))
}

/// The field called `name`, or the complaint that there is none.
pub fn field<'a>(schema: &'a DFSchema, name: &str, path: &[&str]) -> Result<&'a Field, Complaint> {
    let found = schema.fields().iter().find(|f| f.name() == name);
    found.map(|f| f.as_ref()).ok_or_else(|| unknown_column(name, visible(schema), path))
}

/// A column by its exact name: no parsing, no folding to lower case.
pub fn column(name: &str) -> Expr {
    Expr::Column(datafusion::common::Column::new_unqualified(name))
}

/// The same rows and columns with no table in front of the columns' names.
pub fn unqualified(plan: LogicalPlan) -> Result<LogicalPlan> {
    if plan.schema().iter().all(|(qualifier, _)| qualifier.is_none()) {
        return Ok(plan);
    }
    let columns: Vec<Expr> = plan
        .schema()
        .iter()
        .map(|(qualifier, field)| Expr::Column(datafusion::common::Column::from((qualifier, field.as_ref()))).alias(field.name()))
        .collect();
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

/// The type in which a value of type `ty` travels and is stored: text as views, instants in microseconds UTC, no unsigned integers.
pub fn travelling(ty: &DataType) -> DataType {
    match ty {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Null => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::BinaryView,
        DataType::Timestamp(_, _) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Date64 => DataType::Date32,
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Dictionary(_, value) => travelling(value),
        other => other.clone(),
    }
}

/// `expr` cast to the type in which it travels, where it is of another.
pub fn as_travelling(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let ty = expr.get_type(schema)?;
    let want = travelling(&ty);
    Ok(if ty == want { expr } else { datafusion::logical_expr::cast(expr, want) })
}

/// A type as the user knows it.
pub fn in_words(ty: &DataType) -> String {
    match ty {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".into(),
        DataType::Boolean => "boolean".into(),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Date32 | DataType::Date64 => "date".into(),
        DataType::Timestamp(_, _) => "timestamp".into(),
        DataType::Decimal128(p, s) => format!("decimal({p},{s})"),
        DataType::List(_) | DataType::LargeList(_) | DataType::ListView(_) => "list".into(),
        DataType::Struct(_) => "struct".into(),
        DataType::Map(_, _) => "map".into(),
        DataType::Null => "null".into(),
        other => other.to_string().to_lowercase(),
    }
}

pub fn is_text(ty: &DataType) -> bool {
    matches!(ty, DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8)
}

fn schema_complaint(e: &SchemaError, path: &[&str], columns: &[&str]) -> Complaint {
    match e {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let own: Vec<&str> = valid_fields.iter().map(|c| c.name.as_str()).filter(|n| !is_hidden(n)).collect();
            let columns = if own.is_empty() { columns } else { &own };
            match columns.iter().find(|c| **c != field.name && c.to_lowercase() == field.name.to_lowercase()) {
                Some(same) => Complaint::at(path.to_vec(), format!("there is no column `{}`", field.flat_name()))
                    .help(format!("a name with capitals needs double quotes in SQL: \"{same}\"")),
                None => {
                    let mut complaint = unknown_column(&field.name, columns.iter().copied(), path);
                    complaint.message = format!("there is no column `{}`", field.flat_name());
                    complaint
                }
            }
        }
        SchemaError::AmbiguousReference { field } => {
            Complaint::at(path.to_vec(), format!("the name `{}` is ambiguous: more than one column has it", field.flat_name()))
                .help("put the table's name before it, as in `o.id`, or rename a column of the result with `as`")
        }
        SchemaError::DuplicateUnqualifiedField { name } | SchemaError::DuplicateQualifiedField { name, .. } => {
            Complaint::at(path.to_vec(), format!("two columns of the query are named `{name}`"))
                .help("give one of them another name with `as`, or select fewer columns than `*`")
        }
    }
}

/// The parser writes the place at the end of its message.
fn syntax_complaint(e: &ParserError, path: &[&str]) -> Complaint {
    let text = match e {
        ParserError::TokenizerError(m) | ParserError::ParserError(m) => m.as_str(),
        ParserError::RecursionLimitExceeded => "the expression is nested too deeply",
    };
    let Some((message, place)) = text.rsplit_once(" at Line: ") else {
        return Complaint::at(path.to_vec(), sentence(text));
    };
    let mut complaint = Complaint::at(path.to_vec(), sentence(message));
    let mut numbers = place.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<usize>().ok());
    if let (Some(line), Some(column)) = (numbers.next(), numbers.next()) {
        let length = message.rsplit_once("found: ").map_or(0, |(_, token)| if token == "EOF" { 0 } else { token.chars().count() });
        complaint.place.within = Some((line.max(1), column.max(1), length));
    }
    complaint
}

/// One sentence, beginning small, without a final period.
fn sentence(text: &str) -> String {
    let text = text.trim().trim_start_matches("Error during planning: ").trim_end_matches('.');
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), second) if first.is_uppercase() && !second.is_some_and(|c| c.is_uppercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::testing::{frame, session};

    fn place(sql: &str) -> Complaint {
        let session = session();
        let plan = frame(&session, "a", &[Some("x")]);
        let mut found = parse(&session, sql, plan.schema(), Allow::Scalar, &["derive", "y"]).unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn an_unknown_column_has_a_place_and_a_remedy() {
        let c = place("upper(a) ||\n  custmer");
        assert_eq!(c.place.within, Some((2, 3, 7)));
        assert_eq!(c.message, "there is no column `custmer`");
        let near = unknown_column("custmer", ["id", "customer"], &["x"]);
        assert_eq!(near.help.as_deref(), Some("did you mean `customer`?"));
    }

    #[test]
    fn a_syntax_error_points_at_its_token() {
        let c = place("a + + )");
        assert_eq!(c.place.within, Some((1, 7, 1)));
        assert_eq!(c.place.path, ["derive", "y"]);
        assert!(c.message.starts_with("expected"), "{}", c.message);
        assert_eq!(place("a a a").place.within.map(|w| (w.0, w.1)), Some((1, 3)));
    }

    #[test]
    fn functions_and_types_are_checked_while_planning() {
        let c = place("uper(a)");
        assert_eq!(c.place.within.map(|w| (w.0, w.1)), Some((1, 1)));
        assert!(c.help.unwrap_or_default().contains("upper"));
        assert!(place("count(a)").message.contains("aggregate"));
        assert!(place("row_number() over ()").message.contains("window"));
        assert!(!place("a + interval '1 day' * true").message.is_empty());
    }

    #[test]
    fn capitals_need_quotes() {
        let session = session();
        let plan = frame(&session, "Price", &[Some("x")]);
        let found = parse(&session, "Price", plan.schema(), Allow::Scalar, &["filter"]).unwrap_err();
        assert!(found[0].help.as_deref().unwrap_or_default().contains("\"Price\""), "{found:?}");
        assert!(parse(&session, "\"Price\"", plan.schema(), Allow::Scalar, &["filter"]).is_ok());
    }
}
