//! `sql`: a query over the table's own rows, `input`, and the tables of the lake.

use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider, SchemaProvider,
    TableProvider,
};
use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::ViewTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast;

use crate::error::{Complaint, Error, Result};
use crate::steps::expression::{self, nearest};
use crate::steps::{Scope, Transform, points};
use crate::tally::tally;

/// What a sql step calls the rows that reach it.
pub const INPUT: &str = "input";

/// Replaces the rows by the result of a query over `input`, the rows so far, and tables of the lake. `input` must be read exactly once.
/// Hidden columns (`_file`, `_line`) are columns of `input` and stay only where the query selects them.
///
/// ```yaml
/// - sql: |
///     select i.*, c.segment
///     from input i left join silver.customers c on c.customer_id = i.customer_id
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Sql(pub String);

#[async_trait]
impl Transform for Sql {
    async fn plan(&self, input: LogicalPlan, scope: &Scope<'_>) -> Result<LogicalPlan> {
        let path = ["sql"];
        let points = points("sql", scope.step);
        let counted = tally(input, points.input.clone());
        let view: Arc<dyn TableProvider> = Arc::new(ViewTable::new(counted, None));
        let session = with_table(scope.session, INPUT, view).await?;
        let plan = plan_query(&session, &self.0, &path).await?;
        match reads_of(&plan, &points.input)? {
            1 => Ok(tally(plan, points.output)),
            0 => Err(Error::pipeline(
                Complaint::at(path, "the query does not read `input`, so all rows would be lost")
                    .help("select from `input`; a table of its own belongs under `tables`"),
            )),
            n => Err(Error::pipeline(
                Complaint::at(path, format!("the query reads `input` {n} times; the rows stream past only once"))
                    .help("use window functions instead of joining input with itself, or make a gold table of the query"),
            )),
        }
    }
}

/// Plans one SELECT over the tables of `session`, checks its types, and gives it plain column names and travelling types. Complaints point into `sql`.
pub async fn plan_query(session: &SessionContext, sql: &str, path: &[&str]) -> Result<LogicalPlan> {
    let state = session.state();
    let complain = |e| Error::Pipeline(expression::complaints(&e, path, &[]));
    let dialect = state.config().options().sql_parser.dialect;
    let statement = state.sql_to_statement(sql, &dialect).map_err(complain)?;
    if !is_query(&statement) {
        let complaint = Complaint::at(path.to_vec(), "only a query can stand here, and this is another statement");
        return Err(Error::pipeline(complaint.help("begin with `select` or `with`")));
    }
    let plan = state.statement_to_plan(statement).await.map_err(|e| {
        let mut found = expression::complaints(&e, path, &[]);
        for c in &mut found {
            if let Some(table) = c.message.strip_prefix("table '").and_then(|m| m.strip_suffix("' not found")) {
                let table = table.trim_start_matches("lake.").trim_start_matches("default.").to_owned();
                let known = known_tables(session);
                c.help = Some(match nearest(&table, known.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the tables here are {}", known.join(", ")),
                });
                c.message = format!("there is no table `{table}`");
            }
        }
        Error::Pipeline(found)
    })?;
    // Types are checked when the plan is analyzed; here the user still has a place to look at.
    state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {}).map_err(complain)?;
    let mut seen: Vec<&str> = vec![];
    for field in plan.schema().fields() {
        if seen.contains(&field.name().as_str()) {
            let complaint = Complaint::at(path.to_vec(), format!("the query gives two columns named `{}`", field.name()));
            return Err(Error::pipeline(complaint.help("name one of them otherwise with `as`, or select fewer columns than `*`")));
        }
        seen.push(field.name());
    }
    let plan = expression::unqualified(plan)?;
    let schema = Arc::clone(plan.schema());
    if schema.fields().iter().all(|f| expression::travelling(f.data_type()) == *f.data_type()) {
        return Ok(plan);
    }
    let columns = schema.fields().iter().map(|f| {
        let expr = expression::as_travelling(expression::column(f.name()), &schema)?;
        Ok(if matches!(expr, Expr::Column(_)) { expr } else { expr.alias(f.name()) })
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

/// The tables that a query names, as `silver.orders` (or `input`). CTEs are not tables. Empty where the text does not parse.
pub fn tables_in(sql: &str) -> Vec<String> {
    let Ok(statements) = DFParser::parse_sql(sql) else { return vec![] };
    let mut tables = vec![];
    for statement in &statements {
        let Ok((references, _)) = resolve_table_references(statement, true) else { continue };
        for reference in references {
            let name = match &reference {
                TableReference::Bare { table } => table.to_string(),
                TableReference::Partial { schema, table } | TableReference::Full { schema, table, .. } => format!("{schema}.{table}"),
            };
            if !tables.contains(&name) {
                tables.push(name);
            }
        }
    }
    tables
}

/// Whether an SQL expression calls one of `functions` other than over a window. False where the text does not parse.
pub fn calls(sql: &str, functions: &dyn Fn(&str) -> bool) -> bool {
    let Ok(statements) = DFParser::parse_sql(&format!("select {sql}\n")) else { return false };
    let mut found = false;
    for statement in &statements {
        if let Statement::Statement(statement) = statement {
            let _ = ast::visit_expressions(statement.as_ref(), |e| {
                if let ast::Expr::Function(f) = e {
                    found |= f.over.is_none() && functions(&f.name.to_string().to_lowercase());
                }
                ControlFlow::<()>::Continue(())
            });
        }
    }
    found
}

/// The names of columns that an SQL expression may mean. Empty where the text does not parse.
pub fn names_in(sql: &str) -> Vec<String> {
    let Ok(statements) = DFParser::parse_sql(&format!("select {sql}\n")) else { return vec![] };
    let mut names = vec![];
    let mut note = |ident: &ast::Ident| {
        let name = if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() };
        if !names.contains(&name) {
            names.push(name);
        }
    };
    for statement in &statements {
        if let Statement::Statement(statement) = statement {
            let _ = ast::visit_expressions(statement.as_ref(), |e| {
                match e {
                    ast::Expr::Identifier(ident) => note(ident),
                    ast::Expr::CompoundIdentifier(idents) => idents.iter().for_each(&mut note),
                    _ => {}
                }
                ControlFlow::<()>::Continue(())
            });
        }
    }
    names
}

fn is_query(statement: &Statement) -> bool {
    matches!(statement, Statement::Statement(s) if matches!(s.as_ref(), ast::Statement::Query(_)))
}

/// A session with one more table in its default schema; the given session does not see it.
async fn with_table(session: &SessionContext, name: &str, table: Arc<dyn TableProvider>) -> Result<SessionContext> {
    let state = session.state();
    let options = &state.config().options().catalog;
    let (home_catalog, home_schema) = (options.default_catalog.clone(), options.default_schema.clone());
    let all = state.catalog_list();
    let copy = MemoryCatalogProviderList::new();
    for catalog_name in all.catalog_names() {
        let Some(catalog) = all.catalog(&catalog_name) else { continue };
        if catalog_name != home_catalog {
            copy.register_catalog(catalog_name, catalog);
            continue;
        }
        let home = MemoryCatalogProvider::new();
        for schema_name in catalog.schema_names() {
            let Some(schema) = catalog.schema(&schema_name) else { continue };
            if schema_name != home_schema {
                home.register_schema(&schema_name, schema)?;
                continue;
            }
            let own = MemorySchemaProvider::new();
            for table_name in schema.table_names() {
                if table_name != name
                    && let Some(t) = schema.table(&table_name).await?
                {
                    own.register_table(table_name, t)?;
                }
            }
            own.register_table(name.to_owned(), Arc::clone(&table))?;
            home.register_schema(&schema_name, Arc::new(own))?;
        }
        copy.register_catalog(catalog_name, Arc::new(home));
    }
    let state = SessionStateBuilder::new_from_existing(state).with_catalog_list(Arc::new(copy)).build();
    Ok(SessionContext::new_with_state(state))
}

/// How often the tally at `point` stands in the plan.
fn reads_of(plan: &LogicalPlan, point: &str) -> Result<usize> {
    let mark = format!("Tally: {point}");
    let mut count = 0;
    plan.apply_with_subqueries(|node| {
        if matches!(node, LogicalPlan::Extension(_)) && node.display().to_string() == mark {
            count += 1;
            // What lies below is the input itself, with tallies of its own.
            return Ok(TreeNodeRecursion::Jump);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(count)
}

fn known_tables(session: &SessionContext) -> Vec<String> {
    let mut names = vec![];
    for catalog in session.catalog_names().iter().filter_map(|n| session.catalog(n)) {
        for schema_name in catalog.schema_names().into_iter().filter(|n| n != "information_schema") {
            for table in catalog.schema(&schema_name).map(|s| s.table_names()).unwrap_or_default() {
                names.push(if schema_name == "default" { table } else { format!("{schema_name}.{table}") });
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::testing::*;

    #[tokio::test]
    async fn a_query_reads_input_and_the_lake_and_is_counted() {
        let yaml = r#"[{"sql": "select i.name, c.city, i._line from input i join silver.cities c on c.name = i.name"}]"#;
        let (out, tallies) = run_counted(yaml).await.unwrap();
        assert_eq!(out, "name,city,_line\nann,Rome,1\n");
        assert_eq!((tallies["sql:0:in"], tallies["sql:0:out"]), (4, 1));
        assert_eq!(crate::steps::referenced_tables(&steps(yaml)), ["silver.cities"]);
        assert_eq!(tables_in("with x as (select * from gold.a) select * from x join silver.b using (id)"), ["gold.a", "silver.b"]);
    }

    #[tokio::test]
    async fn input_is_gone_afterwards_and_star_keeps_hidden_columns() {
        let session = session();
        let input = source(&session);
        let scope = scope(&session);
        let step = Sql("select * from input where price = 1".into());
        let plan = step.plan(input, &scope).await.unwrap();
        assert!(plan.schema().fields().iter().any(|f| f.name() == "_file"));
        assert!(session.table(INPUT).await.is_err());
    }

    #[tokio::test]
    async fn errors_point_into_the_text() {
        let found = complaints("[{\"sql\": \"select\\n  nme from input\"}]").await;
        assert_eq!(found[0].place.within, Some((2, 3, 3)));
        assert_eq!(found[0].help.as_deref(), Some("did you mean `name`?"));
        let found = complaints(r#"[{"sql": "select * from silver.citys"}]"#).await;
        assert_eq!(found[0].message, "there is no table `silver.citys`");
        assert_eq!(found[0].help.as_deref(), Some("did you mean `silver.cities`?"));
        assert!(complaints(r#"[{"sql": "drop table input"}]"#).await[0].message.contains("only a query"));
        assert!(complaints(r#"[{"sql": "select 1 as x"}]"#).await[0].message.contains("does not read"));
        assert!(complaints(r#"[{"sql": "select a.* from input a join input b on a.name = b.name"}]"#).await[0].message.contains("2 times"));
        assert!(complaints(r#"[{"sql": "select name, price as name from input"}]"#).await[0].message.contains("ambiguous"));
        assert!(complaints(r#"[{"sql": "select 1 as x, 2 as x from input"}]"#).await[0].message.contains("two columns"));
    }

    #[test]
    fn names_and_calls_are_found_in_text() {
        assert_eq!(names_in("upper(Name) || \"X\" + t.y"), ["name", "X", "t", "y"]);
        let is_count = |f: &str| f == "count";
        assert!(calls("count(*) > 0", &is_count));
        assert!(!calls("count(*) over () > 0", &is_count));
    }
}
