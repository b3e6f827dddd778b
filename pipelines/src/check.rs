//! Plans every table before any is run: a mistake in the last gold query is found before the first silver row is read (law 8).
//!
//! Tables are planned over empty stand-ins that have the schema of the tables before them, so that no data is needed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use smelt_engine::conform::Sensitive;
use smelt_engine::contract::{Contract, OnNewColumn, hidden};
use smelt_engine::ledger::Ledger;
use smelt_engine::load::{Assembled, assemble};
use smelt_engine::session::Resources;
use smelt_engine::steps::{self, Scope};
use smelt_engine::table::TableName;
use smelt_engine::{Error, Result, error::Complaint};

use crate::bound::{Bound, BoundTable, Input, Mode};
use crate::diagnostic::Diagnostics;
use crate::run::context::register;
use crate::run::{RunOptions, evolve, input, load};

/// Why a pipeline cannot run.
#[derive(Debug)]
pub enum CheckFailure {
    /// The user's mistakes, with their places.
    Pipeline(Diagnostics),
    /// Something else, such as an unreadable source.
    Other(Error),
}

/// A table as planned.
#[derive(Debug)]
pub struct CheckedTable {
    pub name: TableName,
    pub schema: SchemaRef,
    pub partition_columns: Vec<String>,
    /// The contract, where it was inferred.
    pub inferred: Option<Contract>,
    /// Over empty stand-ins: says where its columns come from.
    pub plan: LogicalPlan,
}

/// Plans all tables in order; collects the mistakes of all of them.
pub async fn check(bound: &Bound, options: &RunOptions) -> Result<Vec<CheckedTable>, CheckFailure> {
    let resources = Resources::new(64 << 20, 1, None).map_err(CheckFailure::Other)?;
    let mut planned: BTreeMap<String, SchemaRef> = BTreeMap::new();
    let mut tables = vec![];
    let mut diagnostics = Diagnostics::default();
    for table in &bound.tables {
        // a table that reads a broken one cannot be judged
        if bound.reads(&table.name).any(|t| !planned.contains_key(&t.name.to_string())) {
            continue;
        }
        match plan(bound, table, &resources, &planned, options).await {
            Ok((assembled, inferred)) => {
                planned.insert(table.name.to_string(), Arc::clone(&assembled.schema));
                let Assembled { schema, partition_columns, plan } = assembled;
                tables.push(CheckedTable { name: table.name.clone(), schema, partition_columns, inferred, plan });
            }
            Err(Error::Pipeline(complaints)) => bound.diagnose(&table.name, complaints, &mut diagnostics),
            Err(other) => return Err(CheckFailure::Other(other)),
        }
    }
    crate::forget::subjects::check(bound, &tables, &mut diagnostics);
    if diagnostics.is_empty() { Ok(tables) } else { Err(CheckFailure::Pipeline(diagnostics)) }
}

/// How long a table's log may take to read before the lake counts as out of reach.
const PATIENCE: Duration = Duration::from_secs(5);

/// Compares the planned tables with those in the lake, so that a contract which an existing table cannot take is found before a run.
/// Where the lake cannot be read, because nobody has logged in or there is no network, nothing is found.
pub async fn check_lake(bound: &Bound, checked: &[CheckedTable]) -> Result<(), CheckFailure> {
    let mut diagnostics = Diagnostics::default();
    for table in bound.tables.iter().filter(|t| t.mode != Mode::Replace) {
        // what a sample of new files suggests is brought to the table's types by the run
        let Some(planned) = checked.iter().find(|c| c.name == table.name && c.inferred.is_none()) else { continue };
        let found = match tokio::time::timeout(PATIENCE, table.format.snapshot()).await {
            Ok(Ok(base)) => evolve::reconcile(table, base.as_ref(), &planned.schema, &planned.partition_columns, false).map(|_| ()),
            Ok(Err(e @ Error::Pipeline(_))) => Err(e),
            Ok(Err(_)) | Err(_) => break,
        };
        match found {
            Ok(()) => {}
            Err(Error::Pipeline(complaints)) => bound.diagnose(&table.name, complaints, &mut diagnostics),
            Err(other) => return Err(CheckFailure::Other(other)),
        }
    }
    if diagnostics.is_empty() { Ok(()) } else { Err(CheckFailure::Pipeline(diagnostics)) }
}

async fn plan(
    bound: &Bound,
    table: &BoundTable,
    resources: &Resources,
    planned: &BTreeMap<String, SchemaRef>,
    options: &RunOptions,
) -> Result<(Assembled, Option<Contract>)> {
    let session = resources.session(Arc::new(Ledger::default()));
    steps::mask::register(&session, &bound.keys);
    for upstream in bound.reads(&table.name) {
        if let Some(schema) = planned.get(&upstream.name.to_string()) {
            register(&session, &upstream.name, empty(Arc::clone(schema))?)?;
        }
    }
    let mut inferred = None;
    let input = match &table.input {
        Input::Sql(sql) => steps::sql::plan_query(&session, sql, &["sql"]).await?,
        Input::Source(source) => {
            let mut contract = match &table.contract {
                Some(declared) => {
                    let mut contract = declared.clone();
                    // folders named key=value give columns; where nothing can be listed yet, there are none
                    if let Ok(listing) = bound.listing(source, options).await {
                        for key in &listing.partition_keys {
                            if contract.columns.iter().all(|c| &c.name != key) {
                                contract.columns.push(smelt_engine::contract::Column::new(key, smelt_engine::types::ContractType::String));
                            }
                        }
                    }
                    contract
                }
                None => {
                    let contract = input::inferred(bound, source, options).await?;
                    inferred = Some(contract.clone());
                    contract
                }
            };
            if contract.columns.is_empty() {
                return Err(Error::pipeline(
                    Complaint::at(["columns"], "the columns are not declared, and there is no input to infer them from")
                        .help("declare `columns:`"),
                ));
            }
            contract.absent = table.mode.needs_absent(&contract);
            load::scan(empty(conformed_schema(&contract))?)?
        }
    };
    let sensitive = Sensitive::default();
    let spec = load::spec(table, &sensitive);
    let scope = Scope { session: &session, keys: &bound.keys, now: options.now, step: 0, route: None };
    let mut assembled = assemble(input, &spec, &scope).await?;
    if let Some(mode) = table.mode.change() {
        let shape = smelt_engine::change::check(mode, assembled.plan.clone(), &assembled.schema, &table.partition_by, &scope)?;
        assembled.schema = shape.schema;
        assembled.partition_columns = shape.partition_columns;
    }
    sort_order(table, &assembled.schema)?;
    Ok((assembled, inferred))
}

/// Whether the files of the table can be put in the order that it asks for.
fn sort_order(table: &BoundTable, schema: &Schema) -> Result<()> {
    let wrong = |(i, name): (usize, &String)| {
        let complaint = |message: String| Complaint::at(["optimize".to_owned(), "sort_by".to_owned(), i.to_string()], message);
        match schema.field_with_name(name) {
            Err(_) => {
                let names = schema.fields().iter().map(|f| f.name().as_str());
                Some(
                    complaint(format!("there is no column `{name}` to sort by"))
                        .help(format!("the columns are {}", crate::diagnostic::listing(names))),
                )
            }
            Ok(field) if !smelt_engine::write::zorder::sortable(field.data_type()) => {
                Some(complaint(format!("column `{name}` is {}, which has no order", field.data_type())).help("sort by another column"))
            }
            Ok(_) => None,
        }
    };
    let complaints: Vec<Complaint> = table.sort_by.iter().enumerate().filter_map(wrong).collect();
    if complaints.is_empty() { Ok(()) } else { Err(Error::Pipeline(complaints)) }
}

/// What a conformed source gives for `contract`.
fn conformed_schema(contract: &Contract) -> SchemaRef {
    let mut fields: Vec<Field> = contract.columns.iter().map(|c| Field::new(&c.name, c.ty.arrow(), true)).collect();
    fields.push(Field::new(hidden::FILE, DataType::Utf8View, false));
    fields.push(Field::new(hidden::LINE, DataType::Int64, false));
    if contract.on_new_column == OnNewColumn::Rescue {
        fields.push(Field::new(hidden::RESCUED, DataType::Utf8View, true));
    }
    if contract.absent {
        fields.push(Field::new(hidden::ABSENT, DataType::BinaryView, true));
    }
    Arc::new(Schema::new(fields))
}

fn empty(schema: SchemaRef) -> Result<Arc<dyn TableProvider>> {
    Ok(Arc::new(MemTable::try_new(schema, vec![vec![]])?))
}
