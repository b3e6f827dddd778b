//! Law 6 for `snapshot`: full extracts, taken in in any order and cutting, give the table that the naive model gives for them in order.

use std::fmt::Write as _;

use proptest::prelude::*;
use smelt_tests::memory::{Memory, Rows, instant};
use smelt_tests::model::{Extract, HardDeletes, VALUES, Version, snapshots};

use crate::property::{
    Clock, Partition, SNAPSHOT, Track, clock, grid, judge, partition, prove, publish, surrogate, time_of, track, value_text,
};

/// Where an extract says when it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// `taken_at: dt`, a column of the file.
    Column,
    /// `taken_at: dt`, a folder `dt=…`.
    Folder,
    /// No `taken_at`: the time of the batch.
    Batch,
}

#[derive(Debug, Clone)]
struct Setting {
    taken: Taken,
    clock: Clock,
    wide: bool,
    track: Track,
    hard_deletes: Option<HardDeletes>,
    partition: Partition,
    parquet: bool,
    surrogate: Option<&'static str>,
    /// Whether extracts come in two files each.
    halves: bool,
    /// Whether a second cutting is run and compared.
    twice: bool,
}

/// An extract, the batch that brings it, the batch that brings it again, and whether a row without a key is in its file.
#[derive(Debug, Clone)]
struct Placed {
    extract: Extract,
    batch: usize,
    again: Option<usize>,
    keyless: bool,
}

#[derive(Clone)]
struct Case {
    setting: Setting,
    placed: Vec<Placed>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show(&self.batches()))
    }
}

const BATCHES: usize = 4;

impl Setting {
    fn input(&self) -> Vec<&'static str> {
        let mut columns = vec!["k"];
        columns.extend(self.wide.then_some("r"));
        columns.extend((self.taken == Taken::Column).then_some("dt"));
        columns.extend(VALUES);
        columns
    }

    fn columns(&self) -> Vec<String> {
        let mut columns: Vec<&str> = self.input().into_iter().filter(|c| *c != "dt").collect();
        columns.extend((self.partition == Partition::Bucket).then_some("k_bucket"));
        columns.extend(self.surrogate.map(|_| "sk"));
        columns.extend(["valid_from", "valid_to", "is_current", "row_hash"]);
        columns.extend((self.hard_deletes() == HardDeletes::NewRecord).then_some("is_deleted"));
        columns.into_iter().map(str::to_owned).collect()
    }

    fn modelled(&self) -> Vec<String> {
        self.columns().into_iter().filter(|c| !["k_bucket", "sk", "row_hash"].contains(&c.as_str())).collect()
    }

    fn hard_deletes(&self) -> HardDeletes {
        self.hard_deletes.unwrap_or(HardDeletes::Close)
    }

    fn yaml(&self) -> String {
        let mut text = String::from(
            "name: extracts\nlake: lake\nsources:\n  extracts: {csv: {path: data}}\ntables:\n  silver.items:\n    from: extracts\n    columns:\n      k: int64\n",
        );
        if self.wide {
            text.push_str("      r: string\n");
        }
        if self.taken != Taken::Batch {
            let _ = writeln!(text, "      dt: {}", self.clock.ty());
        }
        text.push_str("      a: string\n      b: int64\n      c: string\n");
        if self.parquet {
            text.push_str("    format: parquet\n");
        }
        text.push_str(self.partition.yaml());
        text.push_str("    write:\n      snapshot:\n");
        let mut key = |name: &str, value: &str| {
            let _ = writeln!(text, "        {name}: {value}");
        };
        key("keys", if self.wide { "[k, r]" } else { "[k]" });
        if self.taken != Taken::Batch {
            key("taken_at", "dt");
            key("except", "[dt]");
        }
        if let Some(track) = self.track.yaml() {
            key("track", track);
        }
        if let Some(hard_deletes) = self.hard_deletes {
            key(
                "hard_deletes",
                match hard_deletes {
                    HardDeletes::Ignore => "ignore",
                    HardDeletes::Close => "close",
                    HardDeletes::NewRecord => "new_record",
                },
            );
        }
        if let Some(ty) = self.surrogate {
            key("surrogate_key", &format!("{{name: sk, type: {ty}}}"));
        }
        text
    }

    fn time(&self, at: u8) -> String {
        if self.taken == Taken::Batch { instant(time_of(at.into())) } else { self.clock.text(at) }
    }

    fn key(&self, column: &str, key: u8) -> String {
        match column {
            "k" => if self.wide { key / 2 } else { key }.to_string(),
            _ => ["n", "s"][usize::from(key % 2)].to_owned(),
        }
    }

    /// The files of an extract: paths below a folder of their own, and texts.
    fn files(&self, placed: &Placed) -> Vec<(String, String)> {
        let columns = self.input();
        let mut lines = vec![];
        for (key, values) in &placed.extract.rows {
            let cell = |column: &&str| match *column {
                "k" | "r" => self.key(column, *key),
                "dt" => self.time(placed.extract.at),
                value => values[VALUES.iter().position(|v| *v == value).unwrap()].map(|v| value_text(value, v)).unwrap_or_default(),
            };
            lines.push(columns.iter().map(cell).collect::<Vec<_>>().join(","));
        }
        if placed.keyless {
            let cell = |column: &&str| if *column == "dt" { self.time(placed.extract.at) } else { String::new() };
            let mut cells: Vec<String> = columns.iter().map(cell).collect();
            if let Some(last) = cells.last_mut() {
                *last = value_text("c", 0);
            }
            lines.push(cells.join(","));
        }
        let folder = if self.taken == Taken::Folder { format!("dt={}/", self.time(placed.extract.at)) } else { String::new() };
        let middle = if self.halves { lines.len() / 2 } else { 0 };
        [&lines[..middle], &lines[middle..]]
            .into_iter()
            .enumerate()
            .filter(|(_, lines)| !lines.is_empty())
            .map(|(part, lines)| (format!("{folder}{part}.csv"), format!("{}\n{}\n", columns.join(","), lines.join("\n"))))
            .collect()
    }

    fn expected(&self, version: &Version) -> Vec<Option<String>> {
        let cell = |column: &String| match column.as_str() {
            "k" | "r" => Some(self.key(column, version.key)),
            "valid_from" => Some(self.time(version.from.0)),
            "valid_to" => version.to.map(|to| self.time(to.0)),
            "is_current" => Some(version.to.is_none().to_string()),
            "is_deleted" => Some(version.deleted.to_string()),
            value => version.values[VALUES.iter().position(|v| *v == value).unwrap()].map(|v| value_text(value, v)),
        };
        self.modelled().iter().map(cell).collect()
    }
}

impl Case {
    /// Makes a case of what was drawn: one extract per time, none empty, and the order of time where the batch gives the time.
    fn new(setting: Setting, drawn: Vec<Placed>) -> Self {
        let mut case = Case { setting, placed: vec![] };
        for mut placed in drawn {
            placed.extract.rows.sort_by_key(|(key, _)| *key);
            placed.extract.rows.dedup_by_key(|(key, _)| *key);
            if case.setting.taken == Taken::Batch {
                let n = case.placed.len();
                if n == BATCHES {
                    break;
                }
                placed.batch = n;
                placed.extract.at = u8::try_from(n).unwrap();
                placed.again = None;
            }
            // the same extract twice in one batch would have every key twice
            placed.again = placed.again.filter(|again| *again != placed.batch);
            if case.placed.iter().all(|p| p.extract.at != placed.extract.at) {
                case.placed.push(placed);
            }
        }
        case
    }

    fn batches(&self) -> Vec<Vec<&Placed>> {
        let of = |batch: usize| self.placed.iter().filter(|p| p.batch == batch || p.again == Some(batch)).collect::<Vec<_>>();
        (0..BATCHES).map(of).filter(|batch| !batch.is_empty()).collect()
    }

    fn show(&self, batches: &[Vec<&Placed>]) -> String {
        let mut text = format!("{}\n", self.setting.yaml());
        for (n, batch) in batches.iter().enumerate() {
            for (i, placed) in batch.iter().enumerate() {
                for (path, lines) in self.setting.files(placed) {
                    let _ = writeln!(text, "batch {n}, data/{n}-{i}/{path}:\n{lines}");
                }
            }
        }
        text
    }
}

async fn play(case: &Case, batches: &[Vec<&Placed>]) -> Result<Rows, String> {
    let memory = Memory::new(&case.setting.yaml()).await;
    for (n, batch) in batches.iter().enumerate() {
        for (i, placed) in batch.iter().enumerate() {
            for (path, text) in case.setting.files(placed) {
                memory.put(&format!("data/{n}-{i}/{path}"), &text).await;
            }
        }
        publish(&memory, n, batch.iter().filter(|p| p.keyless).count()).await?;
    }
    let table = memory.query("select * from silver.items").await?;
    let (mut got, mut wanted) = (table.names.clone(), case.setting.columns());
    if case.setting.partition == Partition::Bucket {
        got.sort();
        wanted.sort();
    }
    if !got.is_empty() && got != wanted {
        return Err(format!("the table's columns are {got:?}, and should be {wanted:?}"));
    }
    Ok(table)
}

async fn check(case: &Case) -> Result<(), String> {
    let batches = case.batches();
    let wrong = |what: &str| format!("{what}\n\n{}", case.show(&batches));
    let got = play(case, &batches).await.map_err(|e| wrong(&e))?;
    let setting = &case.setting;
    let extracts: Vec<Extract> = case.placed.iter().map(|p| p.extract.clone()).collect();
    let model = snapshots(&extracts, setting.track.columns(), setting.hard_deletes());
    let mut expected: Vec<Vec<Option<String>>> = model.iter().map(|v| setting.expected(v)).collect();
    expected.sort();
    judge("the table", &setting.modelled(), &[expected], &got).map_err(|e| wrong(&e))?;

    if setting.twice && setting.taken != Taken::Batch {
        let mut other = case.batches();
        other.reverse();
        let cutting = |e: String| format!("{e}\n\nthe other order:\n{}", case.show(&other));
        let again = play(case, &other).await.map_err(|e| cutting(wrong(&e)))?;
        let columns = setting.columns();
        let (first, second) = (got.sorted(&columns), again.sorted(&columns));
        if first != second {
            let tables = format!("one order gives\n{}\nthe other gives\n{}", grid(&columns, &first), grid(&columns, &second));
            return Err(cutting(wrong(&tables)));
        }
    }
    Ok(())
}

fn cases() -> impl Strategy<Value = Case> {
    let seldom = || prop::bool::weighted(0.15);
    let taken = prop_oneof![2 => Just(Taken::Column), 2 => Just(Taken::Folder), 1 => Just(Taken::Batch)];
    let hard_deletes = prop_oneof![
        1 => Just(None),
        1 => Just(Some(HardDeletes::Ignore)),
        1 => Just(Some(HardDeletes::Close)),
        2 => Just(Some(HardDeletes::NewRecord)),
    ];
    let setting = (taken, clock(), seldom(), track(), hard_deletes, partition(), seldom(), surrogate(), seldom(), seldom()).prop_map(
        |(taken, clock, wide, track, hard_deletes, partition, parquet, surrogate, halves, twice)| {
            // days and instants; a folder's name is a day
            let clock = match (clock, taken) {
                (_, Taken::Folder) | (Clock::Integer, _) => Clock::Date,
                (clock, _) => clock,
            };
            Setting { taken, clock, wide, track, hard_deletes, partition, parquet, surrogate, halves, twice }
        },
    );
    let value = || prop::option::weighted(0.8, 0..2u8);
    let row = (0..4u8, prop::array::uniform3(value()));
    let placed =
        (0..8u8, prop::collection::vec(row, 1..5), 0..BATCHES, prop::option::weighted(0.1, 0..BATCHES), prop::bool::weighted(0.05))
            .prop_map(|(at, rows, batch, again, keyless)| Placed { extract: Extract { at, rows }, batch, again, keyless });
    (setting, prop::collection::vec(placed, 1..6)).prop_map(|(setting, placed)| Case::new(setting, placed))
}

#[test]
fn extracts_give_the_same_table_in_any_order() {
    prove("snapshot", SNAPSHOT, cases(), check);
}
