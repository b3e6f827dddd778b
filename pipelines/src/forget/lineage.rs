//! Where the columns of a table come from: traces each output column of a plan to columns of the tables it reads, through
//! projections, joins, groups and queries within queries, and keeps the expression that leads from the one to the other.
//!
//! What counts is whether the value is still the person's own: a copy, a cast, a cleaned text, a keyed token. What can be computed from the
//! value but does not give it back (a prefix, a redacted text) is traced as blocked. Knows plans; knows no rows and no subjects.

use arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::logical_expr::expr::{Alias, Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{BinaryExpr, Distinct, Expr, ExprSchemable, JoinType, LogicalPlan, Operator};

/// The name, in an origin's expression, of the column that it starts from.
pub const START: &str = "@";

/// Functions whose result is the first argument's value in another dress.
const KEEPING: [&str; 14] = [
    "tokenize",
    "hash",
    "clean_text",
    "lower",
    "upper",
    "trim",
    "btrim",
    "ltrim",
    "rtrim",
    "concat",
    "arrow_cast",
    "md5",
    "sha256",
    "reverse",
];
/// Functions, aggregates and windows whose result is one of the values given.
const CHOOSING: [&str; 15] = [
    "coalesce",
    "nvl",
    "ifnull",
    "greatest",
    "least",
    "nullif",
    "min",
    "max",
    "first_value",
    "last_value",
    "any_value",
    "nth_value",
    "lag",
    "lead",
    "mode",
];
/// Aggregates that put many values into one.
const GATHERING: [&str; 3] = ["array_agg", "string_agg", "listagg"];

/// A column that a column comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// `layer.name`; empty where it is the table's own source.
    pub table: String,
    pub column: String,
    /// Of the column where it starts.
    pub ty: DataType,
    /// From the value of the column `@`; `None` where the value does not come through.
    pub expr: Option<Expr>,
    /// Why it does not: a function's name.
    pub by: String,
}

/// The origins of a plan's columns.
#[derive(Debug, Default)]
pub struct Lineage {
    /// In the order of the output.
    pub columns: Vec<(String, Vec<Origin>)>,
    /// The columns that rows have where they leave for quarantine on the way, with their origins.
    pub refused: Vec<(String, Origin)>,
}

/// Traces all columns of `plan`.
pub fn trace(plan: &LogicalPlan) -> Lineage {
    let mut lineage = Lineage::default();
    let columns = lineage.of(plan);
    lineage.columns = plan.schema().fields().iter().map(|f| f.name().clone()).zip(columns).collect();
    lineage
}

impl Lineage {
    fn of(&mut self, plan: &LogicalPlan) -> Vec<Vec<Origin>> {
        let mut out = self.stage(plan);
        out.resize(plan.schema().fields().len(), vec![]);
        out
    }

    fn stage(&mut self, plan: &LogicalPlan) -> Vec<Vec<Origin>> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                if let Some(view) = scan.source.get_logical_plan() {
                    let all = self.of(&view);
                    let pick = |name: &str| view.schema().fields().iter().position(|f| f.name() == name).and_then(|i| all.get(i).cloned());
                    return scan.projected_schema.fields().iter().map(|f| pick(f.name()).unwrap_or_default()).collect();
                }
                let table = match &scan.table_name {
                    TableReference::Bare { .. } => String::new(),
                    TableReference::Partial { schema, table } | TableReference::Full { schema, table, .. } => format!("{schema}.{table}"),
                };
                let start = |name: &str, ty: &DataType| Origin {
                    table: table.clone(),
                    column: name.to_owned(),
                    ty: ty.clone(),
                    expr: Some(Expr::Column(Column::new_unqualified(START))),
                    by: String::new(),
                };
                scan.projected_schema.fields().iter().map(|f| vec![start(f.name(), f.data_type())]).collect()
            }
            LogicalPlan::Projection(p) => self.each(&p.expr, &p.input),
            LogicalPlan::Window(w) => {
                let mut out = self.of(&w.input);
                let windows: Vec<_> = w.window_expr.iter().map(|e| self.origins(e, w.input.schema(), &out)).collect();
                out.extend(windows);
                out
            }
            LogicalPlan::Aggregate(a) => {
                let inputs = self.of(&a.input);
                let groups: Vec<Expr> =
                    grouping_set_to_exprlist(&a.group_expr).map(|g| g.into_iter().cloned().collect()).unwrap_or_default();
                // a group by something computed from the value is a group of many people
                let open = |origins: Vec<Origin>| origins.into_iter().filter(|o| o.expr.is_some()).collect::<Vec<_>>();
                let mut out: Vec<_> = groups.iter().map(|e| open(self.origins(e, a.input.schema(), &inputs))).collect();
                // a grouping set adds its number between the groups and the aggregates
                out.resize(plan.schema().fields().len().saturating_sub(a.aggr_expr.len()), vec![]);
                let aggregates: Vec<_> = a.aggr_expr.iter().map(|e| self.origins(e, a.input.schema(), &inputs)).collect();
                out.extend(aggregates);
                out
            }
            LogicalPlan::Join(join) => {
                let (left, right) = (self.of(&join.left), self.of(&join.right));
                match join.join_type {
                    JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right,
                    JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left,
                    _ => left.into_iter().chain(right).collect(),
                }
            }
            LogicalPlan::Union(union) => {
                let mut out: Vec<Vec<Origin>> = vec![vec![]; plan.schema().fields().len()];
                for input in &union.inputs {
                    for (all, more) in out.iter_mut().zip(self.of(input)) {
                        merge(all, more);
                    }
                }
                out
            }
            LogicalPlan::RecursiveQuery(query) => {
                let mut out = self.of(&query.static_term);
                for (all, more) in out.iter_mut().zip(self.of(&query.recursive_term)) {
                    merge(all, more);
                }
                out
            }
            LogicalPlan::Distinct(Distinct::On(on)) => self.each(&on.select_expr, &on.input),
            LogicalPlan::Filter(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Repartition(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Subquery(_)
            | LogicalPlan::Distinct(Distinct::All(_)) => plan.inputs().first().map(|input| self.of(input)).unwrap_or_default(),
            // our own operators and those that change the number of rows: a column keeps its name
            other => match other.inputs().as_slice() {
                [input] => {
                    let inputs = self.of(input);
                    if matches!(other, LogicalPlan::Extension(e) if e.node.name() == "Route") {
                        for (field, origins) in input.schema().fields().iter().zip(&inputs) {
                            self.refused.extend(origins.iter().map(|o| (field.name().clone(), o.clone())));
                        }
                    }
                    let at = |name: &str| input.schema().fields().iter().position(|f| f.name() == name);
                    other.schema().fields().iter().map(|f| at(f.name()).and_then(|i| inputs.get(i).cloned()).unwrap_or_default()).collect()
                }
                _ => vec![],
            },
        }
    }

    fn each(&mut self, exprs: &[Expr], input: &LogicalPlan) -> Vec<Vec<Origin>> {
        let inputs = self.of(input);
        exprs.iter().map(|e| self.origins(e, input.schema(), &inputs)).collect()
    }

    fn origins(&mut self, e: &Expr, schema: &DFSchema, inputs: &[Vec<Origin>]) -> Vec<Origin> {
        match e {
            Expr::Alias(Alias { expr, .. }) => self.origins(expr, schema, inputs),
            Expr::Column(column) => schema.index_of_column(column).ok().and_then(|i| inputs.get(i).cloned()).unwrap_or_default(),
            Expr::Cast(cast) if keeps(cast.field.data_type()) => {
                let field = cast.field.clone();
                dressed(self.origins(&cast.expr, schema, inputs), |inner| Expr::Cast(Cast { expr: Box::new(inner), field: field.clone() }))
            }
            Expr::TryCast(cast) if keeps(cast.field.data_type()) => {
                let field = cast.field.clone();
                dressed(self.origins(&cast.expr, schema, inputs), |inner| {
                    Expr::TryCast(TryCast { expr: Box::new(inner), field: field.clone() })
                })
            }
            Expr::ScalarFunction(f) if CHOOSING.contains(&f.name()) => self.any(&f.args, schema, inputs),
            Expr::ScalarFunction(f) if KEEPING.contains(&f.name()) => match one_of(&f.args) {
                Some(at) => dressed(self.origins(&f.args[at], schema, inputs), |inner| {
                    let mut args = f.args.clone();
                    args[at] = inner;
                    Expr::ScalarFunction(ScalarFunction { func: f.func.clone(), args })
                }),
                None => self.blocked(e, f.name(), schema, inputs),
            },
            Expr::ScalarFunction(f) => self.blocked(e, f.name(), schema, inputs),
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
                let sides = [left.as_ref().clone(), right.as_ref().clone()];
                match one_of(&sides) {
                    Some(at) => dressed(self.origins(&sides[at], schema, inputs), |inner| {
                        let mut sides = sides.clone();
                        sides[at] = inner;
                        let [left, right] = sides;
                        Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op: Operator::StringConcat, right: Box::new(right) })
                    }),
                    None => self.blocked(e, "||", schema, inputs),
                }
            }
            Expr::Case(case) => {
                let branches: Vec<Expr> =
                    case.when_then_expr.iter().map(|(_, then)| then).chain(&case.else_expr).map(|b| b.as_ref().clone()).collect();
                self.any(&branches, schema, inputs)
            }
            Expr::ScalarSubquery(query) => self.of(&query.subquery).into_iter().next().unwrap_or_default(),
            Expr::AggregateFunction(f) => self.taken(e, f.func.name(), &f.params.args, schema, inputs),
            Expr::WindowFunction(f) => self.taken(e, f.fun.name(), &f.params.args, schema, inputs),
            other => self.blocked(other, "an expression", schema, inputs),
        }
    }

    /// What an aggregate or a window gives.
    fn taken(&mut self, e: &Expr, name: &str, args: &[Expr], schema: &DFSchema, inputs: &[Vec<Origin>]) -> Vec<Origin> {
        match name {
            name if CHOOSING.contains(&name) => self.any(args, schema, inputs),
            name if GATHERING.contains(&name) => self.blocked(e, name, schema, inputs),
            _ => vec![],
        }
    }

    fn any(&mut self, args: &[Expr], schema: &DFSchema, inputs: &[Vec<Origin>]) -> Vec<Origin> {
        let mut out = vec![];
        for arg in args {
            merge(&mut out, self.origins(arg, schema, inputs));
        }
        out
    }

    /// Says of every column in `e` that its value goes in and does not come out; nothing where the result cannot tell a person.
    fn blocked(&mut self, e: &Expr, by: &str, schema: &DFSchema, inputs: &[Vec<Origin>]) -> Vec<Origin> {
        if !e.get_type(schema).is_ok_and(|ty| tells(&ty)) {
            return vec![];
        }
        let mut out = vec![];
        for column in e.column_refs() {
            let found = schema.index_of_column(column).ok().and_then(|i| inputs.get(i).cloned()).unwrap_or_default();
            merge(&mut out, found.into_iter().map(|o| Origin { expr: None, by: by.to_owned(), ..o }).collect());
        }
        out
    }
}

fn merge(all: &mut Vec<Origin>, more: Vec<Origin>) {
    for origin in more {
        if !all.contains(&origin) {
            all.push(origin);
        }
    }
}

fn dressed(origins: Vec<Origin>, dress: impl Fn(Expr) -> Expr) -> Vec<Origin> {
    origins.into_iter().map(|o| Origin { expr: o.expr.clone().map(&dress), ..o }).collect()
}

/// The argument that has columns in it, where all others are constant.
fn one_of(args: &[Expr]) -> Option<usize> {
    let mut with = args.iter().enumerate().filter(|(_, a)| !a.column_refs().is_empty());
    let (at, _) = with.next()?;
    with.next().is_none().then_some(at)
}

/// Types in which an identifier stays what it is.
fn keeps(ty: &DataType) -> bool {
    ty.is_string() || ty.is_integer() || ty.is_decimal() || ty.is_binary()
}

/// Types that can hold a person's value.
fn tells(ty: &DataType) -> bool {
    ty.is_string() || ty.is_binary() || ty.is_nested()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};
    use datafusion::datasource::MemTable;
    use datafusion::prelude::SessionContext;
    use smelt_engine::keys::{Keys, Secret};
    use smelt_engine::ledger::Ledger;
    use smelt_engine::session::Resources;
    use smelt_engine::table::TableName;

    use super::*;
    use crate::run::context::register;

    fn session() -> SessionContext {
        let session = Resources::new(64 << 20, 1, None).unwrap().session(Arc::new(Ledger::default()));
        smelt_engine::steps::mask::register(&session, &Keys([("pii".to_owned(), Secret::new("k"))].into()));
        for (name, columns) in [("orders", ["id", "who", "city"]), ("people", ["who", "email", "town"])] {
            let fields: Vec<Field> = columns.iter().map(|c| Field::new(*c, DataType::Utf8View, true)).collect();
            let table = MemTable::try_new(Arc::new(Schema::new(fields)), vec![vec![]]).unwrap();
            register(&session, &TableName { layer: "silver".into(), name: name.into() }, Arc::new(table)).unwrap();
        }
        session
    }

    /// `column <- table.column`, with `!function` where the value is blocked.
    async fn traced(sql: &str) -> Vec<String> {
        let plan = smelt_engine::steps::sql::plan_query(&session(), sql, &[]).await.unwrap();
        let lineage = trace(&plan);
        let show = |o: &Origin| format!("{}.{}{}", o.table, o.column, if o.expr.is_none() { format!("!{}", o.by) } else { String::new() });
        lineage.columns.iter().map(|(name, of)| format!("{name} <- {}", of.iter().map(show).collect::<Vec<_>>().join(" "))).collect()
    }

    #[tokio::test]
    async fn columns_are_traced_through_queries() {
        assert_eq!(
            traced("select o.id as order_id, lower(trim(p.email)) as e, tokenize(o.who, 'pii') as t from silver.orders o join silver.people p using (who)").await,
            ["order_id <- silver.orders.id", "e <- silver.people.email", "t <- silver.orders.who"]
        );
        assert_eq!(
            traced("with a as (select who, count(*) as n, max(city) as c from silver.orders group by who) select * from a where n > 1")
                .await,
            ["who <- silver.orders.who", "n <- ", "c <- silver.orders.city"]
        );
        assert_eq!(
            traced("select who from silver.orders union all select email from silver.people").await,
            ["who <- silver.orders.who silver.people.email"]
        );
        assert_eq!(
            traced("select coalesce(o.who, p.who) as w, case when o.city = 'x' then p.email end as e from silver.orders o full join silver.people p on o.who = p.who").await,
            ["w <- silver.orders.who silver.people.who", "e <- silver.people.email"]
        );
    }

    #[tokio::test]
    async fn what_does_not_give_the_value_back_is_blocked_or_nothing() {
        assert_eq!(
            traced("select redact(who, 0, 2) as r, left(who, 1) as l, length(who) as n, who = 'x' as b, row_number() over (partition by who) as k from silver.orders").await,
            ["r <- silver.orders.who!redact", "l <- silver.orders.who!left", "n <- ", "b <- ", "k <- "]
        );
        assert_eq!(
            traced("select left(who, 1) as l, count(distinct who) as n, string_agg(who, ',') as a from silver.orders group by 1").await,
            ["l <- ", "n <- ", "a <- silver.orders.who!string_agg"]
        );
    }
}
