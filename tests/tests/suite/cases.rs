//! A folder is a test case: `cases/<name>/` holds a pipeline, its input, and what must come of it.
//!
//! - `expect.txt`: one run after the other, separated by lines `run ARGS…` (short for `smelt run . ARGS…`) or `smelt ARGS…`: the
//!   first line of each block is `exit N`, every other line must occur in what was printed (standard output and error).
//! - `then/<n>/`: files that are copied over the case before the n-th block, from the second on: what changes between runs.
//! - `expect.slt`: queries over the lake after the last run, in sqllogictest's form.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use smelt_connectors::stores::Stores;
use smelt_engine::keys::Keys;
use smelt_engine::session::Resources;
use sqllogictest::{DBOutput, DefaultColumnType};

#[test]
fn every_case_comes_out_as_expected() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut names: Vec<PathBuf> = fs::read_dir(cases).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    names.sort();
    let only = std::env::var("SMELT_CASE").ok();
    let mut failures = vec![];
    for case in names.iter().filter(|c| only.as_ref().is_none_or(|o| c.ends_with(o))) {
        if let Err(why) = run_case(case) {
            failures.push(format!("== {}\n{why}", case.file_name().unwrap().to_string_lossy()));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

fn run_case(case: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    copy(case, folder.path());
    let expect = fs::read_to_string(case.join("expect.txt")).unwrap_or_else(|_| "run\nexit 0\n".into());
    for (n, (command, wanted)) in blocks(&expect).iter().enumerate() {
        let changes = case.join("then").join((n + 1).to_string());
        if changes.is_dir() {
            copy(&changes, folder.path());
        }
        let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test"))
            .args(command.split_whitespace())
            .current_dir(folder.path())
            .env("SMELT_TEST_KEY", "correct horse battery staple")
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        for want in wanted.iter().copied() {
            let met = match want.strip_prefix("exit ") {
                Some(code) => out.status.code().map(|c| c.to_string()).as_deref() == Some(code.trim()),
                None => match want.strip_prefix("not: ") {
                    Some(unwanted) => !text.contains(unwanted),
                    None => text.contains(want),
                },
            };
            if !met {
                return Err(format!("smelt {command}: expected `{want}`, exit was {:?}, output:\n{text}", out.status.code()));
            }
        }
    }
    let slt = case.join("expect.slt");
    if slt.exists() {
        let lake = folder.path().join("lake");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut runner = sqllogictest::Runner::new(|| async { Ok(Lake::open(&lake)) });
            runner.run_file_async(&slt).await.map_err(|e| e.to_string())
        })?;
    }
    Ok(())
}

/// The commands, without the word `smelt`, each with what is expected of it.
fn blocks(expect: &str) -> Vec<(String, Vec<&str>)> {
    let mut blocks: Vec<(String, Vec<&str>)> = vec![];
    for line in expect.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, blocks.last_mut()) {
            ("run", _) => blocks.push((format!("run . {rest}"), vec![])),
            ("smelt", _) => blocks.push((rest.to_owned(), vec![])),
            (_, Some((_, wanted))) => wanted.push(line),
            (_, None) => blocks.push(("run .".to_owned(), vec![line])),
        }
    }
    blocks
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &target) } else { fs::copy(entry.path(), target).map(|_| ()).unwrap() }
    }
}

struct Lake(smelt::query::Lake, Resources);

impl Lake {
    fn open(folder: &Path) -> Self {
        let stores = Arc::new(Stores::new(None));
        let location = stores.locate(&folder.to_string_lossy(), Path::new("/")).unwrap();
        Lake(smelt::query::Lake { stores, location, keys: Keys::default() }, Resources::new(256 << 20, 2, None).unwrap())
    }
}

#[derive(Debug)]
struct Failed(String);
impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Failed {}

#[async_trait]
impl sqllogictest::AsyncDB for Lake {
    type Error = Failed;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failed> {
        let batches = smelt::query::collect(&self.0, &self.1, sql).await.map_err(|e| Failed(e.to_string()))?;
        let options = arrow::util::display::FormatOptions::new().with_null("NULL");
        let mut rows = vec![];
        let mut width = 0;
        for batch in &batches {
            width = batch.num_columns();
            for row in 0..batch.num_rows() {
                let cells = batch.columns().iter().map(|c| {
                    let value = arrow::util::display::ArrayFormatter::try_new(c.as_ref(), &options).unwrap().value(row).to_string();
                    if value.is_empty() { "(empty)".to_owned() } else { value }
                });
                rows.push(cells.collect());
            }
        }
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; width], rows })
    }

    async fn shutdown(&mut self) {}
}
