//! Schema evolution: what a load's rows ask of the table's columns, and the commit that brings the table there.
//!
//! New columns and new members of structs need no work: readers fill them with NULL. A wider type and a new name do, because
//! Delta's own features for both (`typeWidening`, `columnMapping`) lock out Athena, delta-rs and Polars: the table's files are written
//! anew, streaming, in one commit that holds the same rows. That commit comes before the load's own, under a batch id derived
//! from the run's, so that a run which dies between the two is simply run again.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::Column as ColumnRef;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::collect;
use smelt_engine::contract::hidden;
use smelt_engine::error::Complaint;
use smelt_engine::evolve::{ChangeKind, ColumnChange, Merged, SchemaChange, adapted, diff, layout, merge, same, shown};
use smelt_engine::ledger::Ledger;
use smelt_engine::load::Assembled;
use smelt_engine::table::{BatchId, Change, Checkpoint, Commit, DataFile, Reads, Remove, Snapshot};
use smelt_engine::write::{self, PartitionBy, Transform, WriteSpec, stored_type};
use smelt_engine::{Error, Result};

use crate::bound::{BoundTable, OnTypeChange};

use super::context::{RunContext, provider};
use super::load::{discard, scan};

/// How the table's columns change with a load.
#[derive(Debug, Clone, PartialEq)]
pub struct Evolution {
    /// The table's columns after the load.
    pub schema: SchemaRef,
    /// Old and new names of the table's columns.
    pub renames: Vec<(String, String)>,
    /// Columns, under their new names, whose files must be written anew, with the type that the files have and the one they get.
    pub rewrite: Vec<(String, DataType, DataType)>,
    /// What the history will say.
    pub changes: Vec<ColumnChange>,
    /// What the report will say.
    pub notes: Vec<String>,
}

impl Evolution {
    /// Whether files that lie in the table do not fit the schema any more.
    pub fn rewrites(&self) -> bool {
        !self.renames.is_empty() || !self.rewrite.is_empty()
    }
}

/// What decides how columns may change.
#[derive(Debug, Clone, Copy)]
struct Rules<'a> {
    on_type_change: OnTypeChange,
    /// Columns and their former names.
    was: &'a [(&'a str, &'a [String])],
    partition_by: &'a [PartitionBy],
}

/// Compares the table with the rows that a load will write: `schema` and `partition_columns` are the table's, were it new.
///
/// # Errors
/// `Error::Pipeline` with paths below the table, where the table cannot take the rows.
pub fn reconcile(
    table: &BoundTable,
    base: Option<&Snapshot>,
    schema: &SchemaRef,
    partition_columns: &[String],
    rebuild: bool,
) -> Result<Evolution> {
    let was: Vec<(&str, &[String])> =
        table.contract.iter().flat_map(|c| &c.columns).filter(|c| !c.was.is_empty()).map(|c| (c.name.as_str(), c.was.as_slice())).collect();
    let rules = Rules { on_type_change: table.on_type_change, was: &was, partition_by: &table.partition_by };
    match base {
        None => Ok(whole(schema, vec![created(schema)], vec![])),
        Some(base) if rebuild => {
            // a table that is made anew keeps nothing, but its history still knows who was who
            let renames = renames(&base.schema, schema, &rules).unwrap_or_default();
            let changes = diff(&base.schema, schema, &renames);
            Ok(whole(schema, changes, vec![]))
        }
        Some(base) => compare(&base.schema, &base.partition_columns, schema, partition_columns, &rules).map_err(Error::Pipeline),
    }
}

fn whole(schema: &SchemaRef, changes: Vec<ColumnChange>, notes: Vec<String>) -> Evolution {
    Evolution { schema: Arc::clone(schema), renames: vec![], rewrite: vec![], changes, notes }
}

fn created(schema: &Schema) -> ColumnChange {
    ColumnChange { kind: ChangeKind::Created, column: String::new(), from: None, to: Some(schema.fields().len().to_string()) }
}

fn compare(
    table: &Schema,
    table_partitions: &[String],
    rows: &Schema,
    partitions: &[String],
    rules: &Rules<'_>,
) -> Result<Evolution, Vec<Complaint>> {
    let renames = renames(table, rows, rules).map_err(|c| vec![c])?;
    let mut complaints = vec![];
    let old_partitions: Vec<String> = table_partitions.iter().map(|p| renamed(&renames, p).to_owned()).collect();
    if old_partitions != partitions {
        complaints.push(
            Complaint::at(["partition_by"], format!("the table is partitioned by [{}]", table_partitions.join(", ")))
                .help("keep that, or rebuild the table with --full-refresh"),
        );
    }
    let (mut fields, mut rewrite, mut changes, mut notes) = (vec![], vec![], vec![], vec![]);
    for (old, new) in &renames {
        changes.push(ColumnChange { kind: ChangeKind::Renamed, column: new.clone(), from: Some(old.clone()), to: None });
        notes.push(format!("column `{old}` of the table becomes `{new}`: the table's files are written anew"));
    }
    for old in table.fields() {
        let name = renamed(&renames, old.name());
        let plain = || Arc::new(old.as_ref().clone().with_name(name));
        let Ok(field) = rows.field_with_name(name) else {
            if !hidden::RESERVED.contains(&name) {
                notes.push(format!("column `{name}` of the table is not given any more; new rows have NULL there"));
            }
            fields.push(plain());
            continue;
        };
        match merged(old, field, rules) {
            Ok(None) => fields.push(plain()),
            Ok(Some(merged)) => {
                describe(name, &merged, &mut changes, &mut notes);
                if merged.rewrite {
                    rewrite.push((name.to_owned(), old.data_type().clone(), merged.ty.clone()));
                }
                fields.push(Arc::new(Field::new(name, merged.ty, true)));
            }
            Err(complaint) => complaints.push(complaint),
        }
    }
    for field in rows.fields() {
        if fields.iter().any(|f: &FieldRef| f.name() == field.name()) {
            continue;
        }
        // a type complaint has left its column out of the fields
        if table.fields().iter().any(|f| renamed(&renames, f.name()) == field.name()) {
            continue;
        }
        if let Some(alike) = table.fields().iter().find(|f| f.name().to_lowercase() == field.name().to_lowercase()) {
            let text = format!("`{}` is `{}` in the table, and many readers do not tell upper from lower case", field.name(), alike.name());
            complaints
                .push(at_column(field.name(), text).help(format!("write it as in the table, or rename it with `was: {}`", alike.name())));
            continue;
        }
        notes.push(format!("column `{}` is new and was added to the table", field.name()));
        let ty = Some(shown(field.data_type()));
        changes.push(ColumnChange { kind: ChangeKind::Added, column: field.name().clone(), from: None, to: ty });
        fields.push(Arc::clone(field));
    }
    if !complaints.is_empty() {
        return Err(complaints);
    }
    Ok(Evolution { schema: Arc::new(Schema::new(fields)), renames, rewrite, changes, notes })
}

/// The name of the table's column `old` after the renames.
fn renamed<'a>(renames: &'a [(String, String)], old: &'a str) -> &'a str {
    renames.iter().find(|(o, _)| o == old).map_or(old, |(_, new)| new)
}

/// Columns of the table that the rows have under another name, and the partition columns that are computed from them.
fn renames(table: &Schema, rows: &Schema, rules: &Rules<'_>) -> Result<Vec<(String, String)>, Complaint> {
    let has = |schema: &Schema, name: &str| schema.index_of(name).is_ok();
    let mut renames: Vec<(String, String)> = vec![];
    for (new, former) in rules.was {
        if has(table, new) || !has(rows, new) {
            continue;
        }
        let Some(old) = former.iter().find(|old| has(table, old) && renames.iter().all(|(o, _)| o != *old)) else { continue };
        if has(rows, old) {
            let text = format!("`{new}` was `{old}` in the table, but the rows still have a column `{old}` as well");
            return Err(Complaint::at(["columns", *new, "was"], text)
                .help(format!("rename the column in one run, and take in another `{old}` after it; or take `was` away to have both")));
        }
        for by in rules.partition_by.iter().filter(|by| by.column == **new && by.transform != Transform::Identity) {
            let before = PartitionBy { column: old.clone(), transform: by.transform }.name();
            if has(table, &before) && !has(table, &by.name()) {
                renames.push((before, by.name()));
            }
        }
        renames.push((old.clone(), (*new).to_owned()));
    }
    Ok(renames)
}

/// The type of one column after the load; `None` where it is the table's. `field` has the column's new name.
fn merged(old: &Field, field: &Field, rules: &Rules<'_>) -> Result<Option<Merged>, Complaint> {
    if same(old.data_type(), field.data_type()) {
        return Ok(None);
    }
    let name = field.name();
    let both = format!("`{name}` is {} in the table and {} here", shown(old.data_type()), shown(field.data_type()));
    let Some(merged) = merge(old.data_type(), field.data_type()) else {
        let help = match rules.on_type_change {
            OnTypeChange::Fail => "keep the type, or rebuild the table with --full-refresh",
            OnTypeChange::Widen => "neither holds every value of the other: keep the type, or rebuild the table with --full-refresh",
        };
        return Err(at_column(name, both).help(help));
    };
    let retyped = !merged.widened.is_empty() || merged.narrower;
    if retyped && rules.on_type_change == OnTypeChange::Fail {
        let help =
            "keep the type, take the wider of the two with `schema: {on_type_change: widen}`, or rebuild the table with --full-refresh";
        return Err(at_column(name, both).help(help));
    }
    // these transforms depend on how a number is stored
    let stored = |ty: &DataType| match ty {
        DataType::Decimal128(_, scale) => Some(*scale),
        _ => None,
    };
    let moves = |by: &&PartitionBy| by.column == *name && matches!(by.transform, Transform::Bucket(_) | Transform::Truncate(_));
    if let Some(by) = rules.partition_by.iter().find(moves)
        && stored(old.data_type()) != stored(&merged.ty)
    {
        let text = format!("{both}, and `{by}` would put its values into other partitions");
        return Err(at_column(name, text).help("keep the type, or rebuild the table with --full-refresh"));
    }
    Ok(Some(merged))
}

fn describe(name: &str, merged: &Merged, changes: &mut Vec<ColumnChange>, notes: &mut Vec<String>) {
    for (path, from, to) in &merged.widened {
        let (column, from, to) = (format!("{name}{path}"), shown(from), shown(to));
        notes.push(format!("column `{column}` widens from {from} to {to}: the table's files are written anew"));
        changes.push(ColumnChange { kind: ChangeKind::Widened, column, from: Some(from), to: Some(to) });
    }
    for (path, ty) in &merged.added {
        let column = format!("{name}{path}");
        notes.push(format!("column `{column}` is new and was added to the table"));
        changes.push(ColumnChange { kind: ChangeKind::Added, column, from: None, to: Some(shown(ty)) });
    }
}

fn at_column(name: &str, message: String) -> Complaint {
    Complaint::at(["columns", name], message)
}

/// Brings a load's rows to the types that the table will have.
pub fn fit(assembled: Assembled, evolution: &Evolution) -> Result<Assembled> {
    let target = |field: &Field| match evolution.schema.field_with_name(field.name()) {
        Ok(wanted) if !same(wanted.data_type(), field.data_type()) => layout(wanted.data_type()),
        _ => field.data_type().clone(),
    };
    if assembled.schema.fields().iter().all(|f| target(f) == *f.data_type()) {
        return Ok(assembled);
    }
    let plan = project(assembled.plan, |field| (field.name().clone(), target(field)))?;
    let fields: Vec<Field> = assembled.schema.fields().iter().map(|f| f.as_ref().clone().with_data_type(target(f))).collect();
    Ok(Assembled { plan, schema: Arc::new(Schema::new(fields)), partition_columns: assembled.partition_columns })
}

/// Brings rows that have some of the table's columns, as they were, to the names and types that they will have.
pub fn convert(plan: LogicalPlan, evolution: &Evolution) -> Result<LogicalPlan> {
    project(plan, |field| {
        let name = renamed(&evolution.renames, field.name()).to_owned();
        let ty = evolution.schema.field_with_name(&name).map_or_else(|_| field.data_type().clone(), |f| layout(f.data_type()));
        (name, ty)
    })
}

/// Renames and converts the columns of `plan` one by one.
fn project(plan: LogicalPlan, target: impl Fn(&Field) -> (String, DataType)) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = plan
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            let (name, ty) = target(field);
            adapted(Expr::Column(ColumnRef::new(qualifier.cloned(), field.name())), field.data_type(), &ty).alias(name)
        })
        .collect();
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

/// Writes the rows of `base` as `evolution` wants them into new files, which no version names yet. Streams; memory stays below the pool.
pub async fn rewrite(
    table: &BoundTable,
    cx: &RunContext,
    base: &Snapshot,
    evolution: &Evolution,
    batch: &BatchId,
) -> Result<Vec<DataFile>> {
    if let Some(foreign) = base.schema.fields().iter().find(|f| stored_type(f.data_type()).is_none_or(|ty| !same(&ty, f.data_type()))) {
        return Err(Error::data(
            format!(
                "{} has to be written anew, but its column `{}` is {}, which Smelt does not write",
                table.name,
                foreign.name(),
                foreign.data_type()
            ),
            "another tool made that column; rebuild the table with --full-refresh",
        ));
    }
    // the load's own counts must not see these rows
    let session = cx.session(Arc::new(Ledger::default()));
    let rows = provider(table.format.as_ref(), base, &cx.resources, &cx.bound, &table.location).await?;
    let plan = convert(scan(rows)?, evolution)?;
    let spec = WriteSpec {
        prefix: table.format.data_prefix(&Some(base.clone()), batch),
        partition_columns: base.partition_columns.iter().map(|p| renamed(&evolution.renames, p).to_owned()).collect(),
        target_file_size: table.target_file_size,
        ..WriteSpec::new(Arc::clone(&table.location.store), table.location.prefix.clone(), cx.now.timestamp_millis())
    };
    let exec = session.state().create_physical_plan(&write::write(plan, spec)?).await?;
    let files = write::files(&collect(exec, session.task_ctx()).await?)?;
    let counted = base.files.iter().all(|f| f.rows > 0);
    let (before, after): (u64, u64) = (base.files.iter().map(|f| f.rows).sum(), files.iter().map(|f| f.rows).sum());
    if counted && before != after {
        discard(&table.location, &files).await;
        return Err(Error::bug(format!(
            "{}: {before} rows before the schema changed and {after} after it; nothing was published",
            table.name
        )));
    }
    Ok(files)
}

/// Publishes the table under the schema of `evolution`, with the rows that it has, where its files do not fit that schema. `None`: they
/// do, and the load's own commit can carry the schema. Else the version to build on: the caller's checkpoint must take over from it.
///
/// # Errors
/// `Error::Retry` where another writer was faster.
pub async fn settle(table: &BoundTable, cx: &RunContext, base: &Option<Snapshot>, evolution: &Evolution) -> Result<Option<Snapshot>> {
    let Some(old) = base.as_ref().filter(|b| evolution.rewrites() && !b.files.is_empty()) else { return Ok(None) };
    // a run that is repeated under its id may find that the columns have to change once more
    let batch = BatchId(format!("{}#schema{}", cx.batch, old.checkpoint.sequence + 1));
    let files = rewrite(table, cx, old, evolution, &batch).await?;
    let now = cx.now.timestamp_millis();
    let mut checkpoint = old.checkpoint.clone();
    record(&mut checkpoint, evolution, None, &batch, now);
    checkpoint.sequence += 1;
    checkpoint.batches.push(batch.clone());
    // published at the start of the run; under this commit's number they would be published again
    checkpoint.quarantine = vec![];
    let change = Change {
        add: files.clone(),
        remove: Remove::Everything,
        reads: Reads::Everything,
        batch,
        checkpoint,
        schema: Arc::clone(&evolution.schema),
        partition_columns: old.partition_columns.iter().map(|p| renamed(&evolution.renames, p).to_owned()).collect(),
        descriptions: BTreeMap::clone(&table.descriptions),
        operation: "evolve".into(),
        data_change: true,
        now,
    };
    cx.forget(&table.name);
    let busy = |with: u64| {
        Error::retry(
            format!("another writer published version {with} of {} while its columns were changed", table.name),
            "run again: it builds on the new version",
        )
    };
    match table.format.commit(base, change).await? {
        Commit::Published { version } => match table.format.snapshot().await? {
            Some(now) if now.version == version => Ok(Some(now)),
            now => Err(busy(now.map_or(version, |n| n.version))),
        },
        Commit::AlreadyPublished => {
            discard(&table.location, &files).await;
            Err(busy(old.version + 1))
        }
        Commit::Conflict { with, .. } => {
            discard(&table.location, &files).await;
            Err(busy(with))
        }
    }
}

/// Notes in the checkpoint of a load's commit, before its sequence is counted up, what became of the columns; `settled` is what
/// [`settle`] gave, which has noted it already.
pub fn record(checkpoint: &mut Checkpoint, evolution: &Evolution, settled: Option<&Snapshot>, batch: &BatchId, now: i64) {
    match settled {
        Some(settled) => {
            let known = &settled.checkpoint;
            checkpoint.sequence = known.sequence;
            checkpoint.batches.clone_from(&known.batches);
            checkpoint.schemas.clone_from(&known.schemas);
        }
        None if evolution.changes.is_empty() => {}
        None => checkpoint.schemas.push(SchemaChange {
            sequence: checkpoint.sequence + 1,
            batch: batch.clone(),
            at: now,
            changes: evolution.changes.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smelt_engine::types::ContractType;

    fn schema(columns: &[(&str, &str)]) -> Schema {
        let ty = |text: &str| ContractType::parse(text).unwrap().arrow();
        Schema::new(columns.iter().map(|(n, t)| Field::new(*n, ty(t), true)).collect::<Vec<_>>())
    }

    fn try_compare(
        table: &[(&str, &str)],
        rows: &[(&str, &str)],
        on_type_change: OnTypeChange,
        was: &[(&str, &[String])],
    ) -> Result<Evolution, Vec<String>> {
        let rules = Rules { on_type_change, was, partition_by: &[] };
        compare(&schema(table), &[], &schema(rows), &[], &rules).map_err(|c| c.iter().map(ToString::to_string).collect())
    }

    fn changes(evolution: &Evolution) -> Vec<String> {
        evolution.changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn columns_are_added_kept_and_compared() {
        let e = try_compare(&[("id", "int64"), ("gone", "date")], &[("new", "string"), ("id", "int64")], OnTypeChange::Fail, &[]).unwrap();
        assert_eq!(*e.schema, schema(&[("id", "int64"), ("gone", "date"), ("new", "string")]));
        assert!(!e.rewrites());
        assert_eq!(changes(&e), ["added new: string"]);
        assert_eq!(e.notes.len(), 2);
        let e = try_compare(&[("id", "int64")], &[("id", "string")], OnTypeChange::Widen, &[]).unwrap_err();
        assert!(e[0].starts_with("columns.id: `id` is int64 in the table and string here"), "{e:?}");
        let e = try_compare(&[("name", "string")], &[("Name", "string")], OnTypeChange::Widen, &[]).unwrap_err();
        assert!(e[0].contains("was: name"), "{e:?}");
    }

    #[test]
    fn types_widen_only_when_they_may() {
        let (table, rows) = ([("a", "int32"), ("b", "int64")], [("a", "int64"), ("b", "int32")]);
        let e = try_compare(&table, &rows, OnTypeChange::Fail, &[]).unwrap_err();
        assert_eq!(e.len(), 2);
        assert!(e[0].contains("on_type_change: widen"), "{e:?}");
        let e = try_compare(&table, &rows, OnTypeChange::Widen, &[]).unwrap();
        assert_eq!(*e.schema, schema(&[("a", "int64"), ("b", "int64")]));
        assert_eq!(e.rewrite, [("a".to_owned(), DataType::Int32, DataType::Int64)], "the wider table takes the narrower rows as it is");
        assert_eq!(changes(&e), ["widened a: int32 to int64"]);
    }

    #[test]
    fn members_of_structs_are_added_without_leave() {
        let e = try_compare(&[("u", "struct<id: int64>")], &[("u", "struct<id: int64, city: string>")], OnTypeChange::Fail, &[]).unwrap();
        assert!(!e.rewrites());
        assert_eq!(changes(&e), ["added u.city: string"]);
        assert_eq!(*e.schema, schema(&[("u", "struct<id: int64, city: string>")]));
    }

    #[test]
    fn a_column_is_renamed_once() {
        let former = ["title".to_owned(), "name".to_owned()];
        let was: [(&str, &[String]); 1] = [("customer", &former)];
        let e = try_compare(&[("id", "int64"), ("name", "string")], &[("id", "int64"), ("customer", "string")], OnTypeChange::Fail, &was)
            .unwrap();
        assert_eq!(e.renames, [("name".to_owned(), "customer".to_owned())]);
        assert_eq!(*e.schema, schema(&[("id", "int64"), ("customer", "string")]));
        assert_eq!(changes(&e), ["renamed name to customer"]);
        let again =
            try_compare(&[("id", "int64"), ("customer", "string")], &[("id", "int64"), ("customer", "string")], OnTypeChange::Fail, &was);
        assert_eq!(changes(&again.unwrap()), Vec::<String>::new());
        let both = try_compare(&[("name", "string")], &[("name", "string"), ("customer", "string")], OnTypeChange::Fail, &was).unwrap_err();
        assert!(both[0].starts_with("columns.customer.was: `customer` was `name`"), "{both:?}");
    }

    #[test]
    fn partitions_follow_the_column_that_they_are_computed_from() {
        let former = ["sold".to_owned()];
        let by = [PartitionBy { column: "sold_at".into(), transform: Transform::Month }];
        let rules = Rules { on_type_change: OnTypeChange::Fail, was: &[("sold_at", &former)], partition_by: &by };
        let table = schema(&[("sold", "date"), ("sold_month", "string")]);
        let rows = schema(&[("sold_at", "date"), ("sold_at_month", "string")]);
        let e = compare(&table, &["sold_month".into()], &rows, &["sold_at_month".into()], &rules).unwrap();
        assert_eq!(*e.schema, rows);
        let e = compare(&table, &["sold".into()], &rows, &["sold_at_month".into()], &rules).unwrap_err();
        assert_eq!(e[0].place.path, ["partition_by"]);
    }

    #[test]
    fn a_bucket_keeps_its_rows() {
        let by = [PartitionBy { column: "id".into(), transform: Transform::Bucket(4) }];
        let rules = Rules { on_type_change: OnTypeChange::Widen, was: &[], partition_by: &by };
        let of = |ty: &str| schema(&[("id", ty), ("id_bucket", "int32")]);
        let parts = ["id_bucket".to_owned()];
        assert!(compare(&of("int32"), &parts, &of("int64"), &parts, &rules).is_ok());
        let e = compare(&of("int32"), &parts, &of("decimal(12,0)"), &parts, &rules).unwrap_err();
        assert!(e[0].message.contains("other partitions"), "{e:?}");
    }

    #[test]
    fn the_history_is_kept_by_the_commit_that_made_it() {
        let e = try_compare(&[("a", "int64")], &[("a", "int64"), ("b", "date")], OnTypeChange::Fail, &[]).unwrap();
        let mut checkpoint = Checkpoint { sequence: 4, ..Checkpoint::default() };
        record(&mut checkpoint, &e, None, &BatchId("x".into()), 7);
        assert_eq!((checkpoint.sequence, checkpoint.schemas[0].sequence, checkpoint.schemas[0].at), (4, 5, 7));
        let mut next = Checkpoint { schemas: checkpoint.schemas.clone(), ..Checkpoint::default() };
        record(&mut next, &whole(&e.schema, vec![], vec![]), None, &BatchId("y".into()), 8);
        assert_eq!(next.schemas, checkpoint.schemas);
    }
}
