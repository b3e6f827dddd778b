//! Several processes write one table at once, in a local folder and on an S3 server: nothing is lost, nothing comes twice, and
//! who has to plan anew does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult,
};
use smelt::report::Status;
use smelt::run::RunOptions;
use smelt_connectors::stores::Stores;
use smelt_tests::server::server;
use smelt_tests::{options, query, run};

const WRITERS: usize = 8;
const FORMATS: [&str; 2] = ["delta", "parquet"];

/// Where a lake lies. Pipelines and their input are in a local folder either way.
struct Place {
    name: &'static str,
    folder: tempfile::TempDir,
    lake: String,
    environment: Vec<(String, String)>,
}

/// A local lake, and one on the server below `test`.
fn places(test: &str) -> Vec<Place> {
    let local = tempfile::tempdir().unwrap();
    let lake = local.path().join("lake").to_string_lossy().into_owned();
    let server = server();
    vec![
        Place { name: "local", folder: local, lake, environment: vec![] },
        Place {
            name: "s3",
            folder: tempfile::tempdir().unwrap(),
            lake: format!("{}/{test}", server.bucket),
            environment: server.environment.clone(),
        },
    ]
}

impl Place {
    /// A folder with a pipeline of one source, `data/*.csv`, and one table. `rest`: the table's other keys, indented by four.
    fn pipeline(&self, name: &str, table: &str, rest: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(folder.join("data")).unwrap();
        let text = format!(
            "name: {name}\nlake: \"{}\"\nsources:\n  rows: {{csv: {{path: \"data/*.csv\"}}}}\ntables:\n  {table}:\n    from: rows\n{rest}",
            self.lake
        );
        fs::write(folder.join("pipeline.yaml"), text).unwrap();
        folder
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smelt-under-test"));
        command.args(arguments).env_remove("AWS_SESSION_TOKEN").envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Runs the pipeline in `folder` in a process of its own; the output of a run that went well.
    fn run(&self, folder: &Path) -> String {
        let arguments = ["run", ".", "--memory", "128MB", "--threads", "1"];
        text(self.name, &self.command(&arguments).current_dir(folder).output().unwrap())
    }

    /// The rows of a query as lines of CSV.
    fn query(&self, sql: &str) -> Vec<String> {
        let out = self.command(&["query", &self.lake, sql, "--format", "csv"]).current_dir(self.folder.path()).output().unwrap();
        text(self.name, &out).lines().skip(1).map(str::to_owned).collect()
    }
}

/// The standard output of a process that ended well.
fn text(place: &str, out: &Output) -> String {
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{place}: exit {:?}\n{text}{errors}", out.status.code());
    text.into_owned()
}

/// Runs `one` for each writer, all at once; what they return, in order.
fn at_once<T: Send>(writers: usize, one: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..writers).map(|w| scope.spawn(move || one(w))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn input(folder: &Path, name: &str, lines: impl IntoIterator<Item = String>) {
    let lines: Vec<String> = lines.into_iter().collect();
    fs::write(folder.join("data").join(name), lines.join("\n") + "\n").unwrap();
}

/// (a) Each has its own files and takes them in, in three rounds.
#[test]
fn appends_of_many_processes_never_conflict() {
    const ROUNDS: usize = 3;
    let columns =
        "    columns:\n      id: {type: int64, required: true}\n      city: {type: string}\n    partition_by: [city]\n    write: append\n";
    for place in places("appends") {
        for format in FORMATS {
            let table = format!("silver.{format}");
            let rest = format!("{columns}    format: {format}\n");
            let write = |folder: &Path, writer: usize, round: usize| {
                let first = writer * 1000 + round * 100;
                let good = (first..first + 20).map(|id| format!("{id},{}", ["SP", "RJ"][id % 2]));
                let header = ["id,city".to_owned(), "no number,SP".to_owned()];
                input(folder, &format!("w{writer}-r{round}.csv"), header.into_iter().chain(good));
            };
            let seed = place.pipeline(&format!("{format}-seed"), &table, &rest);
            write(&seed, 99, 0);
            place.run(&seed);
            let outputs = at_once(WRITERS, |w| {
                let folder = place.pipeline(&format!("{format}-{w}"), &table, &rest);
                (0..ROUNDS).map(|round| (write(&folder, w, round), place.run(&folder)).1).collect::<Vec<_>>()
            });
            for output in outputs.iter().flatten() {
                assert!(!output.contains("planned anew"), "an append had a conflict: {output}");
            }
            let batches = WRITERS * ROUNDS + 1;
            let counts = |table: &str, what: &str| place.query(&format!("select count(*), count(distinct {what}) from {table}"));
            assert_eq!(counts(&table, "id"), [format!("{0},{0}", batches * 20)], "{} {format}", place.name);
            assert_eq!(
                counts(&format!("quarantine.silver_{format}"), "_file"),
                [format!("{batches},{batches}")],
                "{} {format}",
                place.name
            );
            // and all of them are remembered
            let idle = at_once(WRITERS, |w| place.run(&place.folder.path().join(format!("{format}-{w}"))));
            assert!(idle.iter().all(|output| output.contains("Nothing new")), "{idle:?}");
        }
    }
}

/// (b) The same pipeline, started eight times.
#[test]
fn the_same_input_is_taken_in_once_by_whoever_comes_first() {
    for place in places("same") {
        let rest = r#"    columns:
      id: {type: int64, required: true}
      city: {type: string}
    partition_by: [city]
    write: append
  silver.flat:
    from: rows
    columns:
      id: {type: int64, required: true}
      city: {type: string}
    format: parquet
    write: append
  gold.cities:
    sql: select city, count(*) as orders from silver.orders group by city
    write: replace
  gold.flat:
    sql: select city, count(*) as orders from silver.flat group by city
    format: parquet
    write: replace
"#;
        let folder = place.pipeline("shop", "silver.orders", rest);
        for round in 0..2 {
            for file in 0..3 {
                let first = round * 1000 + file * 100;
                let good = (first..first + 50).map(|id| format!("{id},{}", ["SP", "RJ"][id % 2]));
                input(&folder, &format!("r{round}-{file}.csv"), ["id,city".to_owned(), "x,SP".to_owned()].into_iter().chain(good));
            }
            at_once(WRITERS, |_| place.run(&folder));
            let files = (round + 1) * 3;
            for table in ["orders", "flat"] {
                let counted = place.query(&format!("select count(*), count(distinct id) from silver.{table}"));
                assert_eq!(counted, [format!("{0},{0}", files * 50)], "{} {table}", place.name);
                let bad = place.query(&format!("select count(*), count(distinct _file) from quarantine.silver_{table}"));
                assert_eq!(bad, [format!("{files},{files}")], "{} {table}", place.name);
            }
            for gold in ["cities", "flat"] {
                let rows = place.query(&format!("select city, orders from gold.{gold} order by city"));
                assert_eq!(rows, [format!("RJ,{}", files * 25), format!("SP,{}", files * 25)], "{} {gold}", place.name);
            }
        }
        assert!(place.run(&folder).contains("Nothing new"));
    }
}

/// (c) Everyone replaces a partition.
#[test]
fn replaced_partitions_are_whole() {
    const ROUNDS: usize = 2;
    let columns = "    columns:\n      city: {type: string}\n      writer: {type: int64}\n      turn: {type: int64}\n    partition_by: [city]\n    write: replace_partitions\n";
    for place in places("partitions") {
        for format in FORMATS {
            let rest = format!("{columns}    format: {format}\n");
            let write = |folder: &Path, city: &str, writer: usize, round: usize| {
                let rows = (0..5).map(|_| format!("{city},{writer},{round}"));
                input(folder, &format!("{city}-{writer}-{round}.csv"), ["city,writer,turn".to_owned()].into_iter().chain(rows));
            };
            // each its own
            let table = format!("silver.own_{format}");
            at_once(WRITERS, |w| {
                let folder = place.pipeline(&format!("own-{format}-{w}"), &table, &rest);
                for round in 0..ROUNDS {
                    write(&folder, &format!("c{w}"), w, round);
                    place.run(&folder);
                }
            });
            let rows = place.query(&format!("select city, writer, turn, count(*) from {table} group by 1, 2, 3 order by 1"));
            let expected: Vec<String> = (0..WRITERS).map(|w| format!("c{w},{w},{},5", ROUNDS - 1)).collect();
            assert_eq!(rows, expected, "{} {format}", place.name);
            // all the same one
            let table = format!("silver.same_{format}");
            at_once(WRITERS, |w| {
                let folder = place.pipeline(&format!("same-{format}-{w}"), &table, &rest);
                write(&folder, "SP", w, 0);
                place.run(&folder);
            });
            let rows = place.query(&format!("select city, count(*), count(distinct writer) from {table} group by city"));
            assert_eq!(rows, ["SP,5,1"], "{} {format}: one batch, whole", place.name);
        }
    }
}

/// (d) delta-rs appends to the table while we do.
#[test]
fn rows_that_delta_rs_appends_meanwhile_are_kept() {
    const FOREIGN: usize = 12;
    let rest = "    columns:\n      id: {type: int64}\n      city: {type: string}\n    provenance: false\n    write: append\n";
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = Command::new(workspace.join("scripts/python-env")).output().unwrap();
    assert!(python.status.success(), "scripts/python-env failed: {}", String::from_utf8_lossy(&python.stderr));
    let python = String::from_utf8(python.stdout).unwrap().trim().to_owned();
    for place in places("foreign") {
        let write = |folder: &Path, writer: usize, round: usize| {
            let first = writer * 1000 + round * 100;
            let rows = (first..first + 10).map(|id| format!("{id},ours"));
            input(folder, &format!("w{writer}-r{round}.csv"), ["id,city".to_owned()].into_iter().chain(rows));
        };
        let seed = place.pipeline("seed", "silver.orders", rest);
        write(&seed, 99, 0);
        place.run(&seed);
        at_once(5, |w| {
            if w == 0 {
                let mut foreign = Command::new(&python);
                foreign.arg(workspace.join("tests/tests/suite/foreign.py")).arg(format!("{}/silver/orders", place.lake));
                foreign.arg(FOREIGN.to_string()).env_remove("AWS_SESSION_TOKEN").envs(place.environment.iter().map(|(k, v)| (k, v)));
                let out = foreign.output().unwrap();
                assert!(out.status.success(), "{}: {}", place.name, String::from_utf8_lossy(&out.stderr));
            } else {
                let folder = place.pipeline(&format!("w{w}"), "silver.orders", rest);
                for round in 0..4 {
                    write(&folder, w, round);
                    place.run(&folder);
                }
            }
        });
        let rows = place.query("select city, count(*), count(distinct id) from silver.orders group by city order by city");
        assert_eq!(rows, [format!("foreign,{FOREIGN},{FOREIGN}"), "ours,170,170".to_owned()], "{}", place.name);
    }
}

/// Each has a file with changes to the same keys, and is started once. Whoever loses a race merges into what the winner left.
#[test]
fn merges_of_the_same_keys_keep_the_latest_of_each() {
    const KEYS: usize = 60;
    let columns =
        "    columns:\n      id: {type: int64, required: true}\n      seq: {type: int64, required: true}\n      writer: {type: int64}\n";
    let merge = "    write:\n      merge:\n        keys: [id]\n        sequence_by: seq\n";
    // every writer changes two of three keys, and no two of them under the same sequence
    let sequence = |key: usize, writer: usize| (key * 7 + writer * 5) % WRITERS * 100 + writer;
    let changes = |key: usize, writer: usize| !(key + writer).is_multiple_of(3);
    let expected: Vec<String> = (0..KEYS)
        .map(|key| {
            let writer = (0..WRITERS).filter(|w| changes(key, *w)).max_by_key(|w| sequence(key, *w)).unwrap();
            format!("{key},{},{writer}", sequence(key, writer))
        })
        .collect();
    for place in places("merges") {
        for format in FORMATS {
            let table = format!("silver.{format}");
            let rest = format!("{columns}{merge}    format: {format}\n");
            at_once(WRITERS, |w| {
                let folder = place.pipeline(&format!("{format}-{w}"), &table, &rest);
                let rows = (0..KEYS).filter(|key| changes(*key, w)).map(|key| format!("{key},{},{w}", sequence(key, w)));
                input(&folder, &format!("w{w}.csv"), ["id,seq,writer".to_owned()].into_iter().chain(rows));
                place.run(&folder);
            });
            let rows = place.query(&format!("select id, seq, writer from {table} order by id"));
            assert_eq!(rows, expected, "{} {format}", place.name);
            let idle = place.run(&place.folder.path().join(format!("{format}-0")));
            assert!(idle.contains("Nothing new"), "{idle}");
        }
    }
}

/// Lets somebody else go first: before each conditional put of a version of silver.t, `meddle` runs, with its number from 1.
struct Meddler {
    inner: Arc<dyn ObjectStore>,
    count: Arc<AtomicU32>,
    meddle: Arc<Mutex<dyn FnMut(u32) + Send>>,
}

impl std::fmt::Debug for Meddler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddler")
    }
}

impl std::fmt::Display for Meddler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddler")
    }
}

#[async_trait]
impl ObjectStore for Meddler {
    async fn put_opts(&self, location: &Key, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        if matches!(opts.mode, PutMode::Create) && location.as_ref().contains("/silver/t/_delta_log/") {
            let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
            (self.meddle.lock().unwrap())(number);
        }
        self.inner.put_opts(location, payload, opts).await
    }
    async fn put_multipart_opts(&self, location: &Key, opts: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }
    async fn get_opts(&self, location: &Key, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Key>>) -> BoxStream<'static, object_store::Result<Key>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn meddled(meddle: impl FnMut(u32) + Send + 'static) -> Arc<Stores> {
    let (count, meddle) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(meddle)));
    Arc::new(Stores::new(Some(Arc::new(move |inner| {
        let (count, meddle) = (Arc::clone(&count), Arc::clone(&meddle));
        Arc::new(Meddler { inner, count, meddle: meddle as _ }) as _
    }))))
}

fn local() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake").to_string_lossy().into_owned();
    Place { name: "local", folder, lake, environment: vec![] }
}

fn data_files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .map(|e| e.unwrap().path())
        .map(|path| match path.is_dir() {
            true if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('_')) => 0,
            true => data_files(&path),
            false => usize::from(path.extension().is_some_and(|e| e == "parquet")),
        })
        .sum()
}

const APPEND: &str = "    columns:\n      id: {type: int64, required: true}\n    write: append\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loser_takes_what_is_left_and_leaves_no_files_behind() {
    let place = local();
    let folder = place.pipeline("p", "silver.t", APPEND);
    input(&folder, "a.csv", ["id", "1", "x"].map(str::to_owned));
    input(&folder, "b.csv", ["id", "2", "y"].map(str::to_owned));
    let lake = PathBuf::from(&place.lake);
    let (other, hidden) = (folder.clone(), place.folder.path().join("b.csv"));
    // the other process sees only a.csv
    let stores = meddled(move |number| {
        if number == 1 {
            fs::rename(other.join("data/b.csv"), &hidden).unwrap();
            let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test")).args(["run", "."]).current_dir(&other).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            fs::rename(&hidden, other.join("data/b.csv")).unwrap();
        }
    });
    let report = run(&folder, stores, &options()).await.unwrap();
    let table = &report.tables[0];
    assert_eq!((table.status, table.files_read, table.read, table.written), (Status::Published, 1, 2, 1), "{}", report.text());
    assert!(report.text().contains("planned anew"), "{}", report.text());
    assert_eq!(query(&lake, "select id, _file from silver.t").await, ["1|data/a.csv", "2|data/b.csv"]);
    assert_eq!(query(&lake, "select _file from quarantine.silver_t").await, ["data/a.csv", "data/b.csv"]);
    assert_eq!((data_files(&lake.join("silver/t")), data_files(&lake.join("quarantine/silver_t"))), (2, 2));

    // and where nothing is left, it is up to date
    input(&folder, "c.csv", ["id", "3"].map(str::to_owned));
    let other = folder.clone();
    let stores = meddled(move |number| {
        if number == 1 {
            let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test")).args(["run", "."]).current_dir(&other).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        }
    });
    let report = run(&folder, stores, &options()).await.unwrap();
    assert_eq!((report.exit_code(), report.tables[0].status), (0, Status::UpToDate), "{}", report.text());
    assert_eq!(query(&lake, "select count(*), count(distinct id) from silver.t").await, ["3|3"]);
    assert_eq!(data_files(&lake.join("silver/t")), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_never_first_gives_up_and_names_both_batches() {
    let place = local();
    let rest =
        "    columns:\n      city: {type: string}\n      n: {type: int64}\n    partition_by: [city]\n    write: replace_partitions\n";
    let (folder, other) = (place.pipeline("p", "silver.t", rest), place.pipeline("other", "silver.t", rest));
    input(&folder, "mine.csv", ["city,n", "SP,0"].map(str::to_owned));
    let stores = meddled(move |number| {
        input(&other, &format!("{number}.csv"), ["city,n".to_owned(), format!("SP,{number}")]);
        let batch = format!("theirs-{number}");
        let run = ["run", ".", "--batch", &batch];
        let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test")).args(run).current_dir(&other).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    });
    let report = run(&folder, stores, &RunOptions { batch: Some("mine".into()), ..options() }).await.unwrap();
    let text = report.text();
    assert_eq!(report.exit_code(), 4, "{text}");
    assert!(text.contains("batch mine could not be published to silver.t") && text.contains("batch theirs-8 was"), "{text}");
    assert!(text.contains("run again"), "{text}");
    // nothing of it is left, and running again does it
    let lake = PathBuf::from(&place.lake);
    assert_eq!(query(&lake, "select city, n from silver.t").await, ["SP|8"]);
    assert_eq!(data_files(&lake.join("silver/t")), 8);
    let report = run(&folder, Arc::new(Stores::new(None)), &options()).await.unwrap();
    assert_eq!(report.exit_code(), 0, "{}", report.text());
    assert_eq!(query(&lake, "select city, n from silver.t").await, ["SP|0"]);
}

/// A commit that steps over another one keeps the other's quarantine files in sight, so that they are published by whoever runs next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsettled_quarantine_files_survive_being_stepped_over() {
    let place = local();
    let (folder, other) = (place.pipeline("p", "silver.t", APPEND), place.pipeline("other", "silver.t", APPEND));
    input(&folder, "seed.csv", ["id", "0"].map(str::to_owned));
    run(&folder, Arc::new(Stores::new(None)), &options()).await.unwrap();
    input(&folder, "mine.csv", ["id", "1", "x"].map(str::to_owned));
    input(&other, "theirs.csv", ["id", "2", "y"].map(str::to_owned));
    let lake = PathBuf::from(&place.lake);
    let blocked = lake.join("quarantine/silver_t/_delta_log");
    let stores = meddled(move |number| {
        if number == 1 {
            // the other run dies between its two commits: its quarantine table cannot be written
            fs::create_dir_all(blocked.parent().unwrap()).unwrap();
            fs::write(&blocked, "in the way").unwrap();
            let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test")).args(["run", "."]).current_dir(&other).output().unwrap();
            assert!(!out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
            fs::remove_file(&blocked).unwrap();
        }
    });
    let report = run(&folder, stores, &options()).await.unwrap();
    assert_eq!(report.exit_code(), 0, "{}", report.text());
    assert_eq!(query(&lake, "select id from silver.t").await, ["0", "1", "2"]);
    assert_eq!(query(&lake, "select _file from quarantine.silver_t").await, ["data/mine.csv"]);
    for _ in 0..2 {
        let idle = run(&folder, Arc::new(Stores::new(None)), &options()).await.unwrap();
        assert!(idle.text().starts_with("Nothing new"), "{}", idle.text());
        assert_eq!(query(&lake, "select _file from quarantine.silver_t").await, ["data/mine.csv", "data/theirs.csv"]);
    }
}
