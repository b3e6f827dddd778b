//! From a pipeline's text to a bound pipeline: the file is found and read, names are resolved, each component gets its part.
//! All mistakes are collected, each with its place. Reads the pipeline's file and secrets; reads no data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};
use smelt_connectors::formats::{self, FormatKind};
use smelt_connectors::secrets::resolve;
use smelt_connectors::stores::{Location, Stores};
use smelt_engine::change::{ChangeMode, Kind, Retention};
use smelt_engine::contract::{Column, Contract};
use smelt_engine::error::Complaint;
use smelt_engine::keys::{Keys, Secret};
use smelt_engine::table::TableName;
use smelt_engine::{Error, checks, steps};

use crate::bound::{Bound, BoundTable, Input, Mode};
use crate::cli::PipelineArgs;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::forget::{self, subjects::Declared};
use crate::graph::{self, Graph};
use crate::look::Listings;
use crate::spec::{self, ColumnSpec, Loaded, OnChangedFile, Subject, Table, WriteSpec};
use crate::yaml::{Sources, Unset};

/// Whether a secret that cannot be fetched is a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// A run needs them.
    Needed,
    /// `validate` and `plan` do without: masks are planned with a placeholder, and nothing is masked.
    Optional,
    /// `query` uses those that can be fetched; a mask function that names another one says so.
    IfThere,
}

/// Why a pipeline could not be bound.
#[derive(Debug)]
pub struct BindFailure {
    pub sources: Sources,
    pub diagnostics: Diagnostics,
    /// Where the file itself could not be read.
    pub error: Option<Error>,
}

impl BindFailure {
    fn other(error: Error) -> Self {
        BindFailure { sources: Sources::default(), diagnostics: Diagnostics::default(), error: Some(error) }
    }

    /// Everything that is wrong, as text.
    pub fn text(&self) -> String {
        let mut text = self.diagnostics.render(&self.sources, false);
        if let Some(error) = &self.error {
            text.push_str(&error.to_string());
        }
        text
    }
}

/// Binds the pipeline that the command line names.
pub async fn open(args: &PipelineArgs, secrets: Secrets) -> Result<Bound, BindFailure> {
    open_with(args, secrets, Arc::new(Stores::new(None))).await
}

/// As [`open`], over stores of the caller.
pub async fn open_with(args: &PipelineArgs, secrets: Secrets, stores: Arc<Stores>) -> Result<Bound, BindFailure> {
    let (name, text, base) = read(&args.pipeline, &stores).await.map_err(BindFailure::other)?;
    let unset = if secrets == Secrets::Needed { Unset::Complain } else { Unset::Keep };
    let mut loaded = spec::load_os(&name, &text, args.env.as_deref(), &args.set, unset);
    let keys = keys(&mut loaded, secrets, &base);
    if loaded.diagnostics.has_errors() {
        return Err(BindFailure { sources: loaded.sources, diagnostics: loaded.diagnostics, error: None });
    }
    let environment = args.env.clone().unwrap_or_else(|| "local".into());
    match bind(&mut loaded, keys, &base, &stores) {
        Some((lake, tables, graph)) if !loaded.diagnostics.has_errors() => {
            let Some(pipeline) = loaded.pipeline.take() else {
                return Err(BindFailure::other(Error::bug("a pipeline without errors is missing")));
            };
            Ok(Bound {
                name: pipeline.name,
                shown: args.pipeline.clone(),
                environment,
                base,
                stores,
                lake,
                keys: tables.keys,
                sources: pipeline.sources.0.into_iter().map(|(name, source)| (name.value, source)).collect(),
                tables: tables.tables,
                subjects: tables.subjects,
                graph,
                timezone: pipeline.timezone.map(|z| z.0),
                sample: pipeline.sample,
                loaded,
                listings: Listings::default(),
            })
        }
        _ => Err(BindFailure { sources: loaded.sources, diagnostics: loaded.diagnostics, error: None }),
    }
}

/// Whether there is a pipeline at a remote place.
pub async fn exists(place: &str) -> bool {
    read(place, &Stores::new(None)).await.is_ok()
}

/// The file's shown name, its text, and the folder at which relative paths start.
async fn read(place: &str, stores: &Stores) -> Result<(String, String, PathBuf), Error> {
    let missing = |what: &str| {
        Error::pipeline(
            Complaint::at(Vec::<String>::new(), format!("{what} does not exist"))
                .help("name a folder with pipeline.yaml, or a YAML file; `smelt init FOLDER` makes one"),
        )
    };
    if place.contains("://") {
        let file = if place.ends_with(".yaml") || place.ends_with(".yml") {
            place.to_owned()
        } else {
            format!("{}/pipeline.yaml", place.trim_end_matches('/'))
        };
        let location = stores.locate(&file, Path::new("/"))?;
        let bytes = match location.store.get(&location.prefix).await {
            Ok(got) => got.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Err(missing(&file)),
            Err(e) => return Err(e.into()),
        };
        let text = String::from_utf8(bytes.to_vec()).map_err(|_| not_utf8(&file))?;
        let base = file.rsplit_once('/').map(|(folder, _)| PathBuf::from(folder)).unwrap_or_default();
        return Ok((file, text, base));
    }
    let path = PathBuf::from(place);
    let file = if path.is_dir() {
        let candidates = [path.join("pipeline.yaml"), path.join("pipeline.yml")];
        match candidates.iter().find(|c| c.is_file()) {
            Some(file) => file.clone(),
            None => return Err(missing(&candidates[0].to_string_lossy())),
        }
    } else {
        path
    };
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing(&file.to_string_lossy())),
        Err(e) => return Err(Error::retry(format!("{}: {e}", file.display()), "check that the file can be read")),
    };
    let text = String::from_utf8(bytes).map_err(|_| not_utf8(&file.to_string_lossy()))?;
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // one folder, one name: files are remembered by their path below it
    let base = std::fs::canonicalize(folder)?;
    let shown = file.strip_prefix("./").unwrap_or(&file).to_string_lossy().into_owned();
    Ok((shown, text, base))
}

fn not_utf8(file: &str) -> Error {
    Error::pipeline(Complaint::at(Vec::<String>::new(), format!("{file} is not UTF-8 text")).help("save it as UTF-8"))
}

fn keys(loaded: &mut Loaded, secrets: Secrets, base: &Path) -> Keys {
    if secrets == Secrets::Needed {
        return spec::resolve_keys(loaded, base);
    }
    if secrets == Secrets::IfThere {
        let references = loaded.pipeline.iter().flat_map(|p| p.keys.iter());
        return Keys(references.filter_map(|(name, r)| Some((name.to_owned(), resolve(&r.reference, base).ok()?))).collect());
    }
    let names = loaded.pipeline.iter().flat_map(|p| p.keys.keys().map(str::to_owned)).collect::<Vec<_>>();
    // a placeholder: enough to plan masks with; the commands that ask for it write nothing
    Keys(names.into_iter().map(|name| (name, Secret::new("placeholder"))).collect())
}

struct Tables {
    tables: Vec<BoundTable>,
    keys: Keys,
    subjects: Declared,
}

fn bind(loaded: &mut Loaded, keys: Keys, base: &Path, stores: &Stores) -> Option<(Location, Tables, Graph)> {
    let pipeline = loaded.pipeline.clone()?;
    let lake = match stores.locate(&pipeline.lake, base) {
        Ok(lake) => lake,
        Err(e) => {
            complain(loaded, &["lake"], e);
            return None;
        }
    };
    for (name, source) in pipeline.sources.iter() {
        let complaints = source.validate();
        if !complaints.is_empty() {
            complain(loaded, &["sources", name], Error::Pipeline(complaints));
        }
    }
    let names: BTreeSet<String> = pipeline.tables.keys().map(str::to_owned).collect();
    let mut graph = Graph::new();
    let mut tables = BTreeMap::new();
    for (name, table) in pipeline.tables.iter() {
        match bind_table(name, table, &names, &pipeline, &lake) {
            Ok((bound, reads)) => {
                graph.insert(name.to_owned(), reads);
                tables.insert(name.to_owned(), bound);
            }
            Err(e) => complain(loaded, &["tables", name], e),
        }
    }
    let mut order = match graph::order(&graph) {
        Ok(order) => order,
        Err(cycle) => {
            let first = cycle.first().cloned().unwrap_or_default();
            let complaint = Complaint::at(Vec::<String>::new(), format!("the tables read each other in a cycle: {}", cycle.join(" -> ")))
                .help("let one of them read a source or another table instead");
            let diagnostic = loaded.diagnose(&["tables", &first], &complaint);
            loaded.diagnostics.push(diagnostic);
            return None;
        }
    };
    // layer by layer, and in a layer as the user wrote them
    let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
    for name in &order {
        let depth = graph.get(name).into_iter().flatten().filter_map(|r| depths.get(r.as_str())).max().map_or(0, |d| d + 1);
        depths.insert(name, depth);
    }
    let depths: BTreeMap<String, usize> = depths.into_iter().map(|(n, d)| (n.to_owned(), d)).collect();
    let written: Vec<&str> = pipeline.tables.keys().collect();
    order.sort_by_key(|name| (depths.get(name).copied(), written.iter().position(|w| w == name)));
    let tables = order.iter().filter_map(|name| tables.remove(name)).collect();
    let subjects = match forget::subjects::declared(&pipeline) {
        Ok(subjects) => subjects,
        Err(e) => {
            complain(loaded, &[], e);
            return None;
        }
    };
    Some((lake, Tables { tables, keys, subjects }, graph))
}

fn complain(loaded: &mut Loaded, base: &[&str], e: Error) {
    if let Err(other) = loaded.complain(base, e) {
        loaded.diagnostics.push(Diagnostic::error(None, other.to_string()));
    }
}

/// One table, and the tables that it reads.
fn bind_table(
    name: &str,
    table: &Table,
    names: &BTreeSet<String>,
    pipeline: &spec::Pipeline,
    lake: &Location,
) -> Result<(BoundTable, BTreeSet<String>), Error> {
    let (layer, short) = name.split_once('.').ok_or_else(|| Error::bug(format!("{name} has no layer")))?;
    let table_name = TableName { layer: layer.to_owned(), name: short.to_owned() };
    let mut complaints = vec![];
    let mut reads: BTreeSet<String> = BTreeSet::new();
    let input = match (&table.from, &table.sql) {
        (Some(from), _) if names.contains(&from.value) && !pipeline.sources.keys().any(|s| s == from.value) => {
            reads.insert(from.value.clone());
            Input::Sql(format!("select * from {}", from.value))
        }
        (Some(from), _) => Input::Source(from.value.clone()),
        (None, Some(sql)) => {
            for t in steps::sql::tables_in(&sql.value) {
                if names.contains(&t) {
                    reads.insert(t);
                } else {
                    complaints.push(Complaint { place: place_of(&sql.value, &t), ..no_table(&t, names) });
                }
            }
            Input::Sql(sql.value.clone())
        }
        (None, None) => return Err(Error::bug(format!("{name} has no input"))),
    };
    let steps: Vec<_> = table.steps.iter().map(|s| s.value.clone()).collect();
    let table_checks: Vec<_> = table.checks.iter().map(|c| c.value.clone()).collect();
    for (found, key) in [(steps::referenced_tables(&steps), "steps"), (checks::referenced_tables(&table_checks), "checks")] {
        for t in found {
            if !names.contains(&t) {
                complaints.push(no_table(&t, names).under([key]));
            } else if t != name {
                reads.insert(t);
            }
        }
    }
    if matches!(input, Input::Sql(_)) && !table.columns.is_empty() {
        complaints.push(
            Complaint::at(["columns"], "a contract belongs to a table that reads a source; this one reads tables")
                .help("cast in the query or with a cast step, and check with `checks`"),
        );
    }
    if layer == "quarantine" {
        complaints.push(
            Complaint::at(Vec::<String>::new(), "the layer `quarantine` is where smelt puts rejected rows")
                .help("choose another layer, such as `silver`"),
        );
    }
    let reads_tables = matches!(input, Input::Sql(_));
    let mode = match &table.write {
        None if reads_tables => Mode::Replace,
        None | Some(WriteSpec::Append) => Mode::Append,
        Some(WriteSpec::Replace) => Mode::Replace,
        Some(WriteSpec::ReplacePartitions) => Mode::ReplacePartitions,
        Some(WriteSpec::Merge(merge)) => Mode::Change(Box::new(merge.into())),
        Some(WriteSpec::Scd2(history)) => Mode::Change(Box::new(ChangeMode::history(history, Kind::Scd2))),
        Some(WriteSpec::Bitemporal(history)) => Mode::Change(Box::new(ChangeMode::history(history, Kind::Bitemporal))),
        Some(WriteSpec::Snapshot(snapshot)) => Mode::Change(Box::new(ChangeMode::snapshot(snapshot))),
    };
    let mut mode = mode;
    if let (true, Mode::Change(mode)) = (reads_tables, &mut mode) {
        // all rows come again each time: nothing that they say may be forgotten
        mode.tombstones = Retention { milliseconds: i64::MAX / 4 };
    }
    let changes = mode.change().is_some();
    if changes && table.provenance == Some(true) {
        complaints.push(
            Complaint::at(
                ["provenance"],
                format!("a row of a table in the mode {} comes from many records, so it has no one place", mode.name()),
            )
            .help("remove `provenance`; rows that are refused keep their place in quarantine"),
        );
    }
    if mode == Mode::Append && matches!(input, Input::Sql(_)) {
        complaints.push(
            Complaint::at(["write"], "a table that reads tables cannot append: it gets all rows again whenever one of them changes")
                .help("use `write: replace`, `replace_partitions` with partition_by, or `merge` by a key"),
        );
    }
    if table.on_changed_file == Some(OnChangedFile::Reload) && !reads_tables {
        let cannot = if !reloads(&mode) {
            Some((
                "a table whose order is its sequence cannot take back the rows of a changed file",
                "put corrections into a new file with a later sequence, and write `on_changed_file: fail` or `ignore`",
            ))
        } else if table.provenance == Some(false) && mode != Mode::Replace {
            Some((
                "`reload` takes the rows of a changed file out of the table, and without `_file` no row knows its file",
                "set `provenance: true`, or write `on_changed_file: fail` or `ignore`",
            ))
        } else {
            None
        };
        complaints.extend(cannot.map(|(message, help)| Complaint::at(["on_changed_file"], message).help(help)));
    }
    if mode == Mode::ReplacePartitions && table.partition_by.is_empty() {
        complaints.push(Complaint::at(["write"], "`replace_partitions` needs partitions").help("add `partition_by: [...]`"));
    }
    if table.optimize.as_ref().and_then(|o| o.when_small_files).is_some_and(|n| n < 2) {
        complaints.push(
            Complaint::at(["optimize", "when_small_files"], "one file cannot be compacted with itself")
                .help("write 2 or more, such as 50, or leave the key out"),
        );
    }
    if !complaints.is_empty() {
        return Err(Error::Pipeline(complaints));
    }

    let mut contract = contract(table, pipeline);
    if let (Input::Source(source), Some(contract)) = (&input, &mut contract)
        && let Some(source) = pipeline.sources.get(source)
    {
        source.feed_columns(contract)?;
    }
    let kind = table.format.unwrap_or_default();
    let location = lake.join(&format!("{layer}/{short}"))?;
    let quarantine_location = lake.join(&format!("quarantine/{layer}_{short}"))?;
    let descriptions = table.columns.iter().filter_map(|(n, c)| Some((n.to_owned(), c.description.clone()?))).collect();
    Ok((
        BoundTable {
            name: table_name,
            definition: definition(table),
            input,
            contract,
            steps,
            checks: table_checks,
            mode,
            kind,
            format: formats::open(kind, location.clone()),
            location,
            quarantine: formats::open(FormatKind::Delta, quarantine_location.clone()),
            quarantine_location,
            partition_by: table.partition_by.iter().map(|p| p.value.clone()).collect(),
            target_file_size: table.optimize.as_ref().and_then(|o| o.target_file_size).map_or(128 << 20, |s| s.0),
            sort_by: table.optimize.as_ref().map(|o| o.sort_by.clone()).unwrap_or_default(),
            when_small_files: table.optimize.as_ref().and_then(|o| o.when_small_files),
            max_rejected: table.max_rejected,
            provenance: table.provenance.unwrap_or(true) && !changes,
            on_changed_file: table.on_changed_file.unwrap_or(OnChangedFile::Fail),
            on_type_change: table.schema.unwrap_or_default().on_type_change,
            descriptions,
        },
        reads,
    ))
}

/// Whether rows of a changed file can be taken out of a table of this mode: each of its rows came from one file, and nothing else
/// was made of it.
fn reloads(mode: &Mode) -> bool {
    match mode {
        Mode::Append | Mode::Replace | Mode::ReplacePartitions => true,
        Mode::Change(_) => false,
    }
}

fn contract(table: &Table, pipeline: &spec::Pipeline) -> Option<Contract> {
    let rules = table.schema.unwrap_or_default();
    let columns: Vec<Column> = table
        .columns
        .iter()
        .map(|(name, c)| Column {
            name: name.to_owned(),
            ty: c.ty.clone(),
            required: c.required,
            formats: c.formats.0.clone(),
            timezone: c.timezone.or(pipeline.timezone).map(|z| z.0),
            path: c.path.clone(),
            was: c.was.0.clone(),
            description: c.description.clone(),
            tags: c.tags.clone(),
        })
        .collect();
    let (on_new_column, on_missing_column) = (rules.on_new_column, rules.on_missing_column);
    (!columns.is_empty()).then_some(Contract { columns, on_new_column, on_missing_column, ..Contract::default() })
}

fn no_table(table: &str, names: &BTreeSet<String>) -> Complaint {
    let help = match crate::diagnostic::did_you_mean(table, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the tables are: {}", crate::diagnostic::listing(names.iter().map(String::as_str))),
    };
    Complaint::at(Vec::<String>::new(), format!("there is no table `{table}`")).help(help)
}

/// A hash of what decides the rows of a table made by SQL.
fn definition(table: &Table) -> String {
    // values only: a comment in the pipeline moves every place, and changes no row
    // nor does it matter to a row who its subject is
    let columns: Vec<_> = table.columns.iter().map(|(name, c)| (name, ColumnSpec { subject: Subject::None, ..c.clone() })).collect();
    let steps: Vec<_> = table.steps.iter().map(|s| &s.value).collect();
    let checks: Vec<_> = table.checks.iter().map(|c| &c.value).collect();
    let partitions: Vec<_> = table.partition_by.iter().map(|p| &p.value).collect();
    let input = (table.sql.as_ref().map(|s| &s.value), table.from.as_ref().map(|s| &s.value));
    let text = format!("{:?}", (input, columns, steps, checks, partitions, &table.write, &table.schema));
    hex::encode(&Sha256::digest(text.as_bytes())[..8])
}

/// Where `table` stands in `sql`, for the caret.
fn place_of(sql: &str, table: &str) -> smelt_engine::error::Place {
    let path = vec!["sql".to_owned()];
    let Some(at) = sql.to_lowercase().find(&table.to_lowercase()) else { return smelt_engine::error::Place { path, within: None } };
    let before = &sql[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    smelt_engine::error::Place { path, within: Some((line, column, table.chars().count())) }
}
