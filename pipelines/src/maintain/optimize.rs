//! `smelt optimize`: few large files in the place of many small ones, in an order that lets queries skip files.
//!
//! The new files are written first, under names that no version mentions; one commit then puts them in the place of the old ones. It
//! changes no rows, so that it goes on top of whatever was published in between. Where a file that it rewrote was taken away, the work is
//! done again on the new version.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{DataFrame, SessionContext};
use serde::Serialize;
use smelt_connectors::stores::Stores;
use smelt_engine::ledger::Ledger;
use smelt_engine::session::Resources;
use smelt_engine::steps::expression::{self, Allow};
use smelt_engine::table::{Change, Commit, DataFile, Reads, Remove, Snapshot};
use smelt_engine::write::rewrite::{self, Group};
use smelt_engine::write::{WriteSpec, zorder};
use smelt_engine::{Error, Result};

use super::args::OptimizeArgs;
use super::{batch, chosen, columns, discard, open, resources, usage};
use crate::bound::BoundTable;
use crate::cli::LogFormat;
use crate::console::Console;
use crate::units;

/// How often the work is done anew because another writer took a file away.
const ATTEMPTS: u32 = 5;

/// How rows lie in the new files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// As they come.
    Any,
    By(Vec<String>),
    ZOrder(Vec<String>),
}

/// What is to be done to a table.
#[derive(Debug, Clone)]
pub struct Wish<'a> {
    /// A predicate over partition columns.
    pub partitions: Option<&'a str>,
    pub order: Order,
    /// All files of a partition, not only the small ones.
    pub all: bool,
    /// Bytes of a file. Those below half of it are small.
    pub target: u64,
    /// Partitions with fewer small files are left alone.
    pub least: u64,
    pub dry_run: bool,
}

impl Wish<'_> {
    /// What the table's own settings ask for.
    pub fn of(table: &BoundTable) -> Self {
        let order = if table.sort_by.is_empty() { Order::Any } else { Order::By(table.sort_by.clone()) };
        Wish { partitions: None, order, all: false, target: table.target_file_size, least: 2, dry_run: false }
    }
}

/// What was done, or would be.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Optimized {
    pub table: String,
    /// The version made; `None` where there was nothing to do, and in a dry run.
    pub version: Option<u64>,
    pub partitions: u64,
    pub files_before: u64,
    pub bytes_before: u64,
    pub files_after: u64,
    pub bytes_after: u64,
    pub rows: u64,
    pub seconds: f64,
}

/// The command.
pub fn main(args: &OptimizeArgs, log: LogFormat) -> u8 {
    let console = Console::new(log);
    let threads = args.threads.unwrap_or_else(crate::machine::cores).max(1);
    let done = console.block_on(threads, async {
        let bound = open(&args.pipeline, &console).await?;
        let work = async {
            let resources = resources(args.memory.as_deref(), args.threads)?;
            let target = args.target_size.as_deref().map(units::parse_size).transpose();
            let target = target.map_err(|why| usage(format!("--target-size: {why}"), "write for example 128MB"))?;
            if target == Some(0) {
                return Err(usage("--target-size: files cannot be empty", "write for example 128MB"));
            }
            let mut out = vec![];
            for table in chosen(&bound, &args.tables)? {
                let mut wish = Wish { partitions: args.predicate.as_deref(), dry_run: args.dry_run, ..Wish::of(table) };
                wish.target = target.unwrap_or(wish.target);
                if !args.sort_by.is_empty() {
                    (wish.order, wish.all) = (Order::By(args.sort_by.clone()), true);
                } else if !args.zorder.is_empty() {
                    (wish.order, wish.all) = (Order::ZOrder(args.zorder.clone()), true);
                }
                out.push(optimize(table, &wish, &resources, &bound.stores, Utc::now()).await?);
            }
            Ok(out)
        };
        work.await.map_err(|e: Error| console.error(&e))
    });
    match done {
        Ok(done) if log == LogFormat::Json => {
            done.iter().filter_map(|o| serde_json::to_string(o).ok()).for_each(|line| println!("{line}"));
            0
        }
        Ok(done) => {
            print!("{}", text(&done, args.dry_run));
            0
        }
        Err(code) => code,
    }
}

fn text(done: &[Optimized], dry_run: bool) -> String {
    let (work, idle): (Vec<&Optimized>, Vec<&Optimized>) = done.iter().partition(|o| o.files_before > 0);
    if work.is_empty() {
        return "Nothing to do: no partition has two small files.\n".to_owned();
    }
    let arrow = |before: String, after: String| if dry_run { before } else { format!("{before} -> {after}") };
    let rows: Vec<Vec<String>> = work
        .iter()
        .map(|o| {
            vec![
                o.table.clone(),
                units::count(o.partitions),
                arrow(units::count(o.files_before), units::count(o.files_after)),
                arrow(units::bytes(o.bytes_before), units::bytes(o.bytes_after)),
                units::count(o.rows),
                format!("{:.2}", o.seconds),
                o.version.map_or_else(|| "dry run".into(), |v| format!("version {v}")),
            ]
        })
        .collect();
    let mut out = columns(&["table", "partitions", "files", "bytes", "rows", "seconds", ""], &rows, &[6]);
    if !idle.is_empty() {
        out.push_str(&format!("{} with nothing to do.\n", units::plural(idle.len() as u64, "table")));
    }
    out
}

/// Does it. Files are compacted within their partition.
///
/// # Errors
/// `Error::Pipeline` for a column or a predicate that the table does not have; `Error::Retry` where other writers were faster each time.
pub async fn optimize(
    table: &BoundTable,
    wish: &Wish<'_>,
    resources: &Resources,
    stores: &Stores,
    now: DateTime<Utc>,
) -> Result<Optimized> {
    let started = Instant::now();
    stores.register(&resources.runtime, &table.location);
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            // Not in step with the writer that was faster.
            let jitter = u64::from(uuid::Uuid::new_v4().as_bytes()[0]);
            tokio::time::sleep(Duration::from_millis((50 << attempt) + jitter)).await;
        }
        let mut done = Optimized { table: table.name.to_string(), ..Default::default() };
        let Some(base) = table.format.snapshot().await? else { return Ok(done) };
        let session = resources.session(Arc::new(Ledger::default()));
        let order = order(&wish.order, &base)?;
        let groups = groups(&base, wish, &session).await?;
        let old: Vec<DataFile> = groups.iter().flat_map(|g| g.files.iter().cloned()).collect();
        done.partitions = groups.len() as u64;
        done.files_before = old.len() as u64;
        done.bytes_before = old.iter().map(|f| f.bytes).sum();
        done.rows = old.iter().map(|f| f.rows).sum();
        if old.is_empty() || wish.dry_run {
            done.seconds = started.elapsed().as_secs_f64();
            return Ok(done);
        }
        let id = batch("optimize", now);
        let spec = WriteSpec {
            prefix: table.format.data_prefix(&Some(base.clone()), &id),
            partition_columns: base.partition_columns.clone(),
            target_file_size: wish.target,
            ..WriteSpec::new(Arc::clone(&table.location.store), table.location.prefix.clone(), now.timestamp_millis())
        };
        let written = match &order {
            Order::Any => rewrite::rewrite(spec, &base.schema, groups, session.task_ctx()).await,
            order => ordered(table, &base, &spec, groups, order, &session).await,
        };
        let new = match written {
            Ok(new) => new,
            // A file that went away was replaced, and then vacuumed.
            Err(Error::Data { .. }) if moved_on(table, &base).await => continue,
            Err(e) => return Err(e),
        };
        done.files_after = new.len() as u64;
        done.bytes_after = new.iter().map(|f| f.bytes).sum();
        let change = Change {
            add: new.clone(),
            remove: Remove::Files(old),
            reads: Reads::Files,
            batch: id,
            checkpoint: base.checkpoint.clone(),
            schema: Arc::clone(&base.schema),
            partition_columns: base.partition_columns.clone(),
            descriptions: BTreeMap::new(),
            operation: "optimize".into(),
            data_change: false,
            now: now.timestamp_millis(),
        };
        match table.format.commit(&Some(base), change).await {
            Ok(Commit::Published { version }) => {
                done.version = Some(version);
                done.seconds = started.elapsed().as_secs_f64();
                return Ok(done);
            }
            Ok(Commit::AlreadyPublished) => return Err(Error::bug("a new batch id was published before")),
            Ok(Commit::Conflict { with, .. }) => {
                tracing::info!(table = %table.name, with, "another writer took away files that were compacted; once more");
                discard(table, &new).await;
            }
            // Whether it was published may not be known: the files stay, and a vacuum sorts it out.
            Err(e) => return Err(e),
        }
    }
    Err(Error::retry(
        format!("other writers replaced files of {} each time before they were compacted", table.name),
        "run again when they are done, or leave out the partitions that they write, with --where",
    ))
}

async fn moved_on(table: &BoundTable, base: &Snapshot) -> bool {
    table.format.snapshot().await.is_ok_and(|now| now.is_some_and(|now| now.version != base.version))
}

/// The order within the files; partition columns are the same for all rows of a file.
fn order(wished: &Order, base: &Snapshot) -> Result<Order> {
    let (Order::By(names) | Order::ZOrder(names)) = wished else { return Ok(Order::Any) };
    let mut within = vec![];
    for name in names.iter().map(|n| n.trim()) {
        let Ok(field) = base.schema.field_with_name(name) else {
            return Err(usage(
                format!("there is no column `{name}` to order by"),
                format!("the columns are {}", crate::diagnostic::listing(base.schema.fields().iter().map(|f| f.name().as_str()))),
            ));
        };
        if !zorder::sortable(field.data_type()) {
            return Err(usage(format!("column `{name}` is {}, which has no order", field.data_type()), "order by another column"));
        }
        if !base.partition_columns.iter().any(|p| p == name) {
            within.push(name.to_owned());
        }
    }
    Ok(match wished {
        _ if within.is_empty() => Order::Any,
        Order::ZOrder(_) if within.len() > 1 => Order::ZOrder(within),
        _ => Order::By(within),
    })
}

/// The files to rewrite, by partition.
async fn groups(base: &Snapshot, wish: &Wish<'_>, session: &SessionContext) -> Result<Vec<Group>> {
    let mut partitions: BTreeMap<&Vec<(String, Option<String>)>, Vec<&DataFile>> = BTreeMap::new();
    for file in base.files.iter() {
        partitions.entry(&file.partition).or_default().push(file);
    }
    if let Some(predicate) = wish.partitions {
        let all: Vec<&Vec<(String, Option<String>)>> = partitions.keys().copied().collect();
        let wanted = matching(base, &all, predicate, session).await?;
        partitions.retain(|partition, _| wanted.contains(*partition));
    }
    let small = |f: &&DataFile| f.bytes < wish.target / 2;
    Ok(partitions
        .into_iter()
        .filter_map(|(partition, files)| {
            let chosen: Vec<DataFile> = files.into_iter().filter(|f| wish.all || small(f)).cloned().collect();
            let enough = wish.all || chosen.len() as u64 >= wish.least.max(2);
            enough.then(|| Group { partition: partition.iter().map(|(_, value)| value.clone()).collect(), files: chosen })
        })
        .collect())
}

/// The partitions for which `predicate` is true.
async fn matching(
    base: &Snapshot,
    partitions: &[&Vec<(String, Option<String>)>],
    predicate: &str,
    session: &SessionContext,
) -> Result<HashSet<Vec<(String, Option<String>)>>> {
    const NUMBER: &str = "__smelt_partition";
    if base.partition_columns.is_empty() {
        return Err(usage("--where: the table has no partitions", "leave --where out, or name tables that are partitioned"));
    }
    let mut fields = vec![];
    let mut arrays: Vec<ArrayRef> = vec![];
    for (i, name) in base.partition_columns.iter().enumerate() {
        let field = base.schema.field_with_name(name)?;
        let values = partitions.iter().map(|partition| match partition.get(i) {
            Some((_, Some(text))) => ScalarValue::try_from_string(text.clone(), field.data_type()),
            _ => ScalarValue::try_from(field.data_type()),
        });
        let values = values.collect::<Result<Vec<_>, _>>()?;
        arrays.push(if values.is_empty() { arrow::array::new_empty_array(field.data_type()) } else { ScalarValue::iter_to_array(values)? });
        fields.push(Field::new(name, field.data_type().clone(), true));
    }
    let visible = datafusion::common::DFSchema::try_from(Schema::new(fields.clone()))?;
    let filter = expression::predicate(session, predicate, &visible, Allow::Scalar, &["--where"]).map_err(|complaints| {
        let only = format!("only the partition columns can be named: {}", base.partition_columns.join(", "));
        Error::Pipeline(complaints.into_iter().map(|c| if c.help.is_some() { c } else { c.help(&only) }).collect())
    })?;
    fields.push(Field::new(NUMBER, DataType::Int64, false));
    arrays.push(Arc::new(Int64Array::from_iter_values(0..partitions.len() as i64)));
    let schema = Arc::new(Schema::new(fields));
    let table = MemTable::try_new(Arc::clone(&schema), vec![vec![RecordBatch::try_new(schema, arrays)?]])?;
    let plan = LogicalPlanBuilder::scan("partitions", provider_as_source(Arc::new(table)), None)?.filter(filter)?.build()?;
    let mut wanted = HashSet::new();
    for rows in DataFrame::new(session.state(), plan).collect().await? {
        let numbers = rows.column_by_name(NUMBER).ok_or_else(|| Error::bug("the numbers of the partitions are lost"))?;
        for n in numbers.as_primitive::<Int64Type>().values() {
            wanted.extend(usize::try_from(*n).ok().and_then(|n| partitions.get(n)).map(|p| (*p).clone()));
        }
    }
    Ok(wanted)
}

/// One partition after the other: its rows sorted, by spilling where need be, and written as one run of files.
async fn ordered(
    table: &BoundTable,
    base: &Snapshot,
    spec: &WriteSpec,
    groups: Vec<Group>,
    order: &Order,
    session: &SessionContext,
) -> Result<Vec<DataFile>> {
    let mut out = vec![];
    for group in groups {
        match sorted(table, base, spec, &group, order, session).await {
            Ok(files) => out.extend(files),
            Err(e) => {
                discard(table, &out).await;
                return Err(e);
            }
        }
    }
    Ok(out)
}

async fn sorted(
    table: &BoundTable,
    base: &Snapshot,
    spec: &WriteSpec,
    group: &Group,
    order: &Order,
    session: &SessionContext,
) -> Result<Vec<DataFile>> {
    let part = Snapshot { files: Arc::new(group.files.clone()), ..base.clone() };
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));
    let stored = base.schema.fields().iter().filter(|f| !base.partition_columns.contains(f.name()));
    let provider = table.format.provider(&part).await?;
    let rows = LogicalPlanBuilder::scan("rows", provider_as_source(provider), None)?.project(stored.map(|f| column(f.name())))?.build()?;
    let by = match order {
        Order::ZOrder(names) => vec![zorder::key(session, &rows, names).await?.sort(true, true)],
        Order::By(names) => names.iter().map(|name| column(name).sort(true, true)).collect(),
        Order::Any => vec![],
    };
    let plan = LogicalPlanBuilder::from(rows).sort(by)?.build()?;
    let exec = session.state().create_physical_plan(&plan).await?;
    let task = session.task_ctx();
    let files = rewrite::write_ordered(spec.clone(), group.partition.clone(), execute_stream(exec, Arc::clone(&task))?, task).await?;
    let (known, written) = (group.files.iter().all(|f| f.rows > 0), files.iter().map(|f| f.rows).sum::<u64>());
    let before: u64 = group.files.iter().map(|f| f.rows).sum();
    if known && before != written {
        discard(table, &files).await;
        return Err(Error::bug(format!("{before} rows of {} were sorted, and {written} written", table.name)));
    }
    Ok(files)
}
