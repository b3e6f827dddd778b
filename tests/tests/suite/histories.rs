//! Law 6, order of arrival: a random history, cut into random batches in random order, gives the table that a naive model
//! (`smelt_tests::model`) gives for the whole of it. For merge, scd2 and bitemporal; `extracts.rs` has snapshot.
//!
//! Every case is a pipeline of its own that runs as users' pipelines do, from YAML and CSV to a published table, over a lake in
//! memory. The cases are the same in every run; another seed: `PROPTEST_RNG_SEED=7`, more of them: `PROPTEST_CASES=5000`.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use smelt_tests::memory::{Memory, Rows, instant};
use smelt_tests::model::{Event, Given, Op, Rules, VALUES, Version, ambiguity, tables};

use crate::property::{
    BITEMPORAL, COMPOSITE, Clock, MERGE, MERGE_INHERITING, Partition, SCD2, SCD2_INHERITING, Track, clock, grid, judge, partition, prove,
    publish, surrogate, time_of, track, value_text,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Merge,
    Scd2,
    Bitemporal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ignore {
    Nothing,
    All,
    /// `ignore_null_updates: [a]`.
    First,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Except {
    Nothing,
    Op,
    OpAndSequence,
}

/// One pipeline.
#[derive(Debug, Clone)]
struct Setting {
    mode: Mode,
    composite: bool,
    clock: Clock,
    /// The key is two columns.
    wide: bool,
    deletes: bool,
    truncates: bool,
    ignore: Ignore,
    track: Track,
    except: Except,
    partition: Partition,
    parquet: bool,
    surrogate: Option<&'static str>,
    /// Whether different upserts may tie.
    ties: bool,
    /// Whether a second cutting is run and compared.
    twice: bool,
    /// Whether a batch comes in two files.
    halves: bool,
    /// Which columns the files of each batch lack.
    absent: [[bool; 3]; BATCHES],
}

/// At most so many batches.
const BATCHES: usize = 4;

/// An event, the batch that brings it, and the batch that brings it again.
#[derive(Debug, Clone)]
struct Placed {
    event: Event,
    batch: usize,
    again: Option<usize>,
}

/// One test case. Its `Debug` is for people: see [`Case::show`].
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

impl Setting {
    fn op_column(&self) -> bool {
        self.deletes || self.truncates
    }

    /// Columns of the input in order, less those of `without`.
    fn input(&self, without: [bool; 3]) -> Vec<&'static str> {
        let mut columns = vec!["k"];
        columns.extend(self.wide.then_some("r"));
        columns.push("s");
        columns.extend(self.composite.then_some("t"));
        columns.extend(self.op_column().then_some("op"));
        columns.extend((0..3).filter(|i| !without[*i]).map(|i| VALUES[i]));
        columns
    }

    fn excepted(&self) -> Vec<&'static str> {
        let mut columns = vec![];
        if self.except != Except::Nothing {
            columns.extend(self.op_column().then_some("op"));
        }
        // merge compares the sequence of its rows, so it stores it
        if self.except == Except::OpAndSequence && self.mode != Mode::Merge {
            columns.push("s");
            columns.extend(self.composite.then_some("t"));
        }
        columns
    }

    /// Columns of the table that come from the input.
    fn own(&self) -> Vec<String> {
        let excepted = self.excepted();
        self.input([false; 3]).into_iter().filter(|c| !excepted.contains(c)).map(str::to_owned).collect()
    }

    /// All columns of the table, in order but for that of a bucket.
    fn columns(&self) -> Vec<String> {
        let mut columns = self.own();
        columns.extend((self.partition == Partition::Bucket).then(|| "k_bucket".to_owned()));
        columns.extend(self.surrogate.map(|_| "sk".to_owned()));
        if self.mode != Mode::Merge {
            columns.extend(["valid_from", "valid_to", "is_current", "row_hash"].map(str::to_owned));
            columns.extend(self.composite.then(|| "_sequence".to_owned()));
        }
        if self.mode == Mode::Bitemporal {
            columns.extend(["system_from", "system_to"].map(str::to_owned));
        }
        columns
    }

    /// The columns that the model knows the values of.
    fn modelled(&self) -> Vec<String> {
        let unknown = ["k_bucket", "sk", "row_hash", "system_from", "system_to"];
        self.columns().into_iter().filter(|c| !unknown.contains(&c.as_str())).collect()
    }

    fn rules(&self) -> Rules {
        let ignore_nulls = match self.ignore {
            Ignore::Nothing => [false; 3],
            Ignore::All => [true; 3],
            Ignore::First => [true, false, false],
        };
        Rules { history: self.mode != Mode::Merge, ignore_nulls, track: self.track.columns() }
    }

    fn yaml(&self) -> String {
        let mut text = String::from(
            "name: histories\nlake: lake\nsources:\n  changes: {csv: {path: \"data/*.csv\"}}\ntables:\n  silver.items:\n    from: changes\n    columns:\n",
        );
        for column in self.input([false; 3]) {
            let ty = match column {
                "k" | "t" | "b" => "int64",
                "s" => self.clock.ty(),
                _ => "string",
            };
            let _ = writeln!(text, "      {column}: {ty}");
        }
        if self.absent.iter().flatten().any(|a| *a) {
            text.push_str("    schema: {on_missing_column: ignore}\n");
        }
        if self.parquet {
            text.push_str("    format: parquet\n");
        }
        text.push_str(self.partition.yaml());
        let mode = match self.mode {
            Mode::Merge => "merge",
            Mode::Scd2 => "scd2",
            Mode::Bitemporal => "bitemporal",
        };
        let _ = writeln!(text, "    write:\n      {mode}:");
        let mut key = |name: &str, value: &str| {
            let _ = writeln!(text, "        {name}: {value}");
        };
        key("keys", if self.wide { "[k, r]" } else { "[k]" });
        key("sequence_by", if self.composite { "[s, t]" } else { "s" });
        if self.deletes {
            key("deletes", "\"op = 'D'\"");
        }
        if self.truncates {
            key("truncates", "\"op = 'T'\"");
        }
        match self.ignore {
            Ignore::Nothing => {}
            Ignore::All => key("ignore_null_updates", "true"),
            Ignore::First => key("ignore_null_updates", "[a]"),
        }
        if let Some(track) = self.track.yaml().filter(|_| self.mode != Mode::Merge) {
            key("track", track);
        }
        if !self.excepted().is_empty() {
            key("except", &format!("[{}]", self.excepted().join(", ")));
        }
        if let Some(ty) = self.surrogate {
            key("surrogate_key", &format!("{{name: sk, type: {ty}}}"));
        }
        text
    }

    /// One cell of the input; NULL is no text.
    fn cell(&self, event: &Event, column: &str) -> String {
        let text = match column {
            "k" => event.key.map(|key| if self.wide { key / 2 } else { key }.to_string()),
            "r" => event.key.map(|key| ["n", "s"][usize::from(key % 2)].to_owned()),
            "s" => event.sequence[0].map(|s| self.clock.text(s)),
            "t" => event.sequence[1].map(|t| t.to_string()),
            "op" => op(event.op),
            value => match event.values[VALUES.iter().position(|v| *v == value).unwrap()] {
                Given::Value(v) => Some(value_text(value, v)),
                Given::Null | Given::Absent => None,
            },
        };
        text.unwrap_or_default()
    }

    fn csv(&self, rows: &[Event], without: [bool; 3]) -> String {
        let columns = self.input(without);
        let mut text = columns.join(",") + "\n";
        for row in rows {
            text.push_str(&columns.iter().map(|c| self.cell(row, c)).collect::<Vec<_>>().join(","));
            text.push('\n');
        }
        text
    }

    /// A row of the table as the query shows it.
    fn expected(&self, version: &Version) -> Vec<Option<String>> {
        let of_column = |column: &String| match column.as_str() {
            "k" => Some(if self.wide { version.key / 2 } else { version.key }.to_string()),
            "r" => Some(["n", "s"][usize::from(version.key % 2)].to_owned()),
            "s" => Some(self.clock.text(version.last.0)),
            "t" => Some(version.last.1.to_string()),
            "op" => op(version.op),
            "valid_from" => Some(self.clock.text(version.from.0)),
            "valid_to" => version.to.map(|to| self.clock.text(to.0)),
            "is_current" => Some(version.to.is_none().to_string()),
            "_sequence" => Some(format!("({}, {})", self.clock.text(version.from.0), version.from.1)),
            value => version.values[VALUES.iter().position(|v| *v == value).unwrap()].map(|v| value_text(value, v)),
        };
        self.modelled().iter().map(of_column).collect()
    }

    /// The tables that the model allows for `events`, each sorted, less the columns of `without`.
    fn allowed(&self, events: &[Event], without: &[&str]) -> Vec<Vec<Vec<Option<String>>>> {
        let keep: Vec<bool> = self.modelled().iter().map(|c| !without.contains(&c.as_str())).collect();
        let pick = |row: Vec<Option<String>>| row.into_iter().zip(&keep).filter(|(_, keep)| **keep).map(|(cell, _)| cell).collect();
        let show = |table: Vec<Version>| {
            let mut rows: Vec<Vec<Option<String>>> = table.iter().map(|v| pick(self.expected(v))).collect();
            rows.sort();
            rows
        };
        tables(events, &self.rules()).into_iter().map(show).collect()
    }
}

fn op(op: Op) -> Option<String> {
    match op {
        Op::Insert => Some("I".into()),
        Op::Update => Some("U".into()),
        Op::Null => None,
        Op::Delete => Some("D".into()),
        Op::Truncate => Some("T".into()),
    }
}

impl Case {
    /// Makes a case of what was drawn: what the setting cannot have becomes what it can, and ties of different upserts are left
    /// out beyond what the model can try all ways of.
    fn new(setting: Setting, drawn: Vec<Placed>) -> Self {
        let mut case = Case { setting, placed: vec![] };
        let setting = &case.setting;
        let mut events: Vec<Event> = vec![];
        for mut placed in drawn {
            let event = &mut placed.event;
            event.op = match event.op {
                Op::Truncate if !setting.truncates => Op::Update,
                Op::Delete if !setting.deletes => Op::Update,
                Op::Null if setting.except == Except::Nothing => Op::Update,
                op => op,
            };
            if !setting.op_column() {
                event.op = Op::Update;
            }
            if !setting.composite {
                event.sequence[1] = Some(0);
            }
            for i in 0..3 {
                if setting.absent[placed.batch][i] {
                    event.values[i] = Given::Absent;
                }
            }
            // the same row in a file that lacks other columns would be another row
            placed.again = placed.again.filter(|again| setting.absent[*again] == setting.absent[placed.batch]);
            events.push(placed.event.clone());
            if ambiguity(&events) > if setting.ties { 4 } else { 1 } {
                events.pop();
            } else {
                case.placed.push(placed);
            }
        }
        case
    }

    /// The batches as they were drawn, with the columns that their files lack.
    fn batches(&self) -> Vec<(Vec<Event>, [bool; 3])> {
        let rows = |batch: usize| -> Vec<Event> {
            let here = |p: &Placed| usize::from(p.batch == batch) + usize::from(p.again == Some(batch));
            self.placed.iter().flat_map(|p| std::iter::repeat_n(p.event.clone(), here(p))).collect()
        };
        (0..BATCHES).map(|b| (rows(b), self.setting.absent[b])).filter(|(rows, _)| !rows.is_empty()).collect()
    }

    /// Another cutting of the same rows: all in one batch, in order; backwards, where files lack columns.
    fn other_cutting(&self) -> Vec<(Vec<Event>, [bool; 3])> {
        let mut batches = self.batches();
        if batches.iter().any(|(_, absent)| absent.contains(&true)) {
            batches.reverse();
            return batches;
        }
        let mut rows: Vec<Event> = batches.into_iter().flat_map(|(rows, _)| rows).collect();
        rows.sort_by_key(|e| e.sequence);
        vec![(rows, [false; 3])]
    }

    fn show(&self, batches: &[(Vec<Event>, [bool; 3])]) -> String {
        let mut text = format!("{}\n", self.setting.yaml());
        for (n, (rows, absent)) in batches.iter().enumerate() {
            let _ = writeln!(text, "batch {n}:\n{}", self.setting.csv(rows, *absent));
        }
        text
    }
}

/// Runs the pipeline once for every batch and reads the table.
async fn play(case: &Case, batches: &[(Vec<Event>, [bool; 3])]) -> Result<Rows, String> {
    let memory = Memory::new(&case.setting.yaml()).await;
    for (n, (rows, absent)) in batches.iter().enumerate() {
        let middle = if case.setting.halves && !absent.contains(&true) { rows.len() / 2 } else { 0 };
        for (part, half) in [&rows[..middle], &rows[middle..]].into_iter().enumerate().filter(|(_, half)| !half.is_empty()) {
            memory.put(&format!("data/{n}-{part}.csv"), &case.setting.csv(half, *absent)).await;
        }
        let rejected = rows.iter().filter(|e| e.place().is_none()).count();
        publish(&memory, n, rejected).await?;
    }
    let table = memory.query("select * from silver.items").await?;
    let wanted = case.setting.columns();
    let same = |a: &[String], b: &[String]| {
        let (mut a, mut b) = (a.to_vec(), b.to_vec());
        if case.setting.partition == Partition::Bucket {
            a.sort();
            b.sort();
        }
        a == b
    };
    if !table.names.is_empty() && !same(&table.names, &wanted) {
        return Err(format!("the table's columns are {:?}, and should be {wanted:?}", table.names));
    }
    Ok(table)
}

async fn check(case: &Case) -> Result<(), String> {
    let batches = case.batches();
    if batches.is_empty() {
        return Ok(());
    }
    let wrong = |what: &str| format!("{what}\n\n{}", case.show(&batches));
    let got = play(case, &batches).await.map_err(|e| wrong(&e))?;
    let setting = &case.setting;
    let events: Vec<Event> = batches.iter().flat_map(|(rows, _)| rows.clone()).collect();

    let allowed = setting.allowed(&events, &[]);
    let current = known_at(&got, None);
    judge("the table", &setting.modelled(), &allowed, &current).map_err(|e| wrong(&e))?;

    if setting.mode == Mode::Bitemporal {
        let columns: Vec<String> = setting.modelled().into_iter().filter(|c| c != "is_current").collect();
        let mut so_far = vec![];
        for (n, (rows, _)) in batches.iter().enumerate() {
            so_far.extend(rows.iter().cloned());
            let allowed = setting.allowed(&so_far, &["is_current"]);
            let then = known_at(&got, Some(time_of(n)));
            judge(&format!("the table as it was known after batch {n}"), &columns, &allowed, &then).map_err(|e| wrong(&e))?;
        }
    }

    if setting.twice || allowed.len() > 1 {
        let other = case.other_cutting();
        let cutting = |e: String| format!("{e}\n\nthe other cutting:\n{}", case.show(&other));
        let again = play(case, &other).await.map_err(|e| cutting(wrong(&e)))?;
        // all columns: keys and hashes must not depend on the cutting either
        let columns: Vec<String> = setting.columns().into_iter().filter(|c| !c.starts_with("system_")).collect();
        let (first, second) = (current.sorted(&columns), known_at(&again, None).sorted(&columns));
        if first != second {
            let tables = format!("one cutting gives\n{}\nthe other gives\n{}", grid(&columns, &first), grid(&columns, &second));
            return Err(cutting(wrong(&tables)));
        }
        if let Some(at) = columns.iter().position(|c| c == "sk")
            && first.iter().any(|row| row[at].is_none())
        {
            return Err(wrong("a surrogate key is NULL"));
        }
    }
    Ok(())
}

/// What was known at a time, or now; everything, where the table has no system time.
fn known_at(rows: &Rows, at: Option<DateTime<Utc>>) -> Rows {
    let mut out = rows.clone();
    if rows.names.iter().any(|n| n == "system_from") {
        let (from, to) = (rows.position("system_from"), rows.position("system_to"));
        out.rows.retain(|row| match at {
            None => row[to].is_none(),
            // the spelling sorts as the instants do
            Some(at) => row[from].as_ref().is_some_and(|f| *f <= instant(at)) && row[to].as_ref().is_none_or(|t| *t > instant(at)),
        });
    }
    out
}

fn setting(mode: Mode, composite: bool, inheriting: bool) -> impl Strategy<Value = Setting> {
    let likely = prop::bool::weighted(0.7);
    let seldom = || prop::bool::weighted(0.15);
    let ignore = if inheriting {
        prop_oneof![1 => Just(Ignore::Nothing), 2 => Just(Ignore::All), 1 => Just(Ignore::First)].boxed()
    } else {
        Just(Ignore::Nothing).boxed()
    };
    let absent = prop::array::uniform4(prop::array::uniform3(prop::bool::weighted(if inheriting { 0.25 } else { 0.0 })));
    // half of the cases that inherit have all columns in every file
    let absent = (absent, any::<bool>()).prop_map(|(absent, some)| if some { absent } else { [[false; 3]; BATCHES] });
    let except = prop_oneof![1 => Just(Except::Op), 1 => Just(Except::Nothing), 1 => Just(Except::OpAndSequence)];
    let rows = (clock(), seldom(), likely, prop::bool::weighted(0.3), ignore, track(), except);
    let files = (partition(), seldom(), surrogate(), seldom(), seldom(), seldom(), absent);
    (rows, files).prop_map(move |(rows, files)| {
        let (clock, wide, deletes, truncates, ignore, track, except) = rows;
        let (partition, parquet, surrogate, ties, twice, halves, absent) = files;
        Setting {
            mode,
            composite,
            clock,
            wide,
            deletes,
            truncates,
            ignore,
            track,
            except,
            partition,
            parquet,
            surrogate,
            ties,
            twice,
            halves,
            absent,
        }
    })
}

fn event(composite: bool, inheriting: bool) -> impl Strategy<Value = Event> {
    let or_null = |max: u8, nulls: u32| prop_oneof![20 => (0..max).prop_map(Some), nulls => Just(None)];
    // few enough places that rows tie and follow each other closely
    let sequence = if composite { (or_null(5, 1), or_null(4, 1)) } else { (or_null(16, 1), or_null(1, 1)) };
    let ops = prop_oneof![
        6 => Just(Op::Update),
        6 => Just(Op::Insert),
        2 => Just(Op::Null),
        4 => Just(Op::Delete),
        1 => Just(Op::Truncate),
    ];
    let nulls = if inheriting { 4 } else { 1 };
    let given = prop_oneof![4 => (0..3u8).prop_map(Given::Value), nulls => Just(Given::Null)];
    (or_null(4, 1), sequence, ops, prop::array::uniform3(given)).prop_map(|(key, (s, t), op, values)| Event {
        key,
        sequence: [s, t],
        op,
        values,
    })
}

fn cases(mode: Mode, composite: bool, inheriting: bool) -> impl Strategy<Value = Case> {
    let batches = prop_oneof![1 => Just(1usize), 4 => Just(2usize), 3 => Just(3usize), 1 => Just(BATCHES)];
    let placed = (event(composite, inheriting), 0..BATCHES, prop::option::weighted(0.15, 0..BATCHES))
        .prop_map(|(event, batch, again)| Placed { event, batch, again });
    (setting(mode, composite, inheriting), batches, prop::collection::vec(placed, 1..15)).prop_map(|(setting, batches, mut placed)| {
        for p in &mut placed {
            p.batch %= batches;
            p.again = p.again.map(|again| again % batches);
        }
        Case::new(setting, placed)
    })
}

#[test]
fn merge_is_the_same_in_any_cutting() {
    prove("merge", MERGE, cases(Mode::Merge, false, false), check);
}

#[test]
fn merge_that_inherits_is_the_same_in_any_cutting() {
    prove("merge, inheriting", MERGE_INHERITING, cases(Mode::Merge, false, true), check);
}

#[test]
fn scd2_is_the_same_in_any_cutting() {
    prove("scd2", SCD2, cases(Mode::Scd2, false, false), check);
}

#[test]
fn scd2_that_inherits_is_the_same_in_any_cutting() {
    prove("scd2, inheriting", SCD2_INHERITING, cases(Mode::Scd2, false, true), check);
}

#[test]
fn composite_sequences_are_the_same_in_any_cutting() {
    let mode = prop_oneof![3 => cases(Mode::Scd2, true, true), 1 => cases(Mode::Merge, true, true)];
    prove("composite sequences", COMPOSITE, mode, check);
}

#[test]
fn bitemporal_remembers_what_was_known_after_every_batch() {
    let mode = prop_oneof![2 => cases(Mode::Bitemporal, false, false), 1 => cases(Mode::Bitemporal, false, true), 1 => cases(Mode::Bitemporal, true, false)];
    prove("bitemporal", BITEMPORAL, mode, check);
}
