//! Which commits of others a change can step over, and what the table has then taken in.
//!
//! A change is made from a base version. Where others have published since, it is judged by what lies between its base and
//! the newest version: the files that came and went, whoever wrote them, and the checkpoints. No order of commits is
//! looked at, so that the answer is the same for Smelt, delta-rs and Spark. The rules are those of [`Reads`].

use std::collections::HashSet;
use std::fmt;

use smelt_engine::change::ChangeState;
use smelt_engine::consumed::Rebased;
use smelt_engine::table::{BatchId, Change, Checkpoint, DataFile, Reads, Remove, Snapshot};

/// Why a change cannot step over what others have published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Clash {
    /// Schema, partitioning, protocol or table properties are not those of the base.
    Rules,
    /// The table is not a successor of the base: it was made anew.
    Recreated,
    /// The change read the whole table, which is not the same.
    Content,
    /// The change read a partition that this file was added to or removed from.
    Partition(String),
    /// This file, which the change removes, is gone.
    Removed(String),
    /// Both consumed this input file.
    Consumed(String),
    /// What the table remembers beside its rows is not what the change was judged by.
    Remembered,
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clash::Rules => f.write_str("the table's schema, partitioning or properties changed"),
            Clash::Recreated => f.write_str("the table was made anew"),
            Clash::Content => f.write_str("the table changed, and all of it was read"),
            Clash::Partition(file) => write!(f, "{file} was added to or removed from a partition that was read"),
            Clash::Removed(file) => write!(f, "{file}, which would be removed, is gone"),
            Clash::Consumed(input) => write!(f, "the input file {input} was taken in"),
            Clash::Remembered => f.write_str("what the table remembers beside its rows changed"),
        }
    }
}

/// The checkpoint with which `change`, made from `base`, can be published on top of `now`. `ours`: its checkpoint on
/// top of `base`. `same_rules`: whether the table's rules are those that the change was made under.
pub(super) fn rebase(
    base: Option<&Snapshot>,
    now: &Snapshot,
    change: &Change,
    ours: &Checkpoint,
    same_rules: bool,
) -> Result<Checkpoint, Clash> {
    let nothing = Checkpoint::default();
    let (before, files): (&Checkpoint, &[DataFile]) = base.map_or((&nothing, &[]), |b| (&b.checkpoint, &b.files));
    let descends = before.batches.last().is_none_or(|last| now.checkpoint.batches.contains(last));
    if !descends || base.is_some_and(|b| b.version > now.version) {
        return Err(Clash::Recreated);
    }
    if !same_rules {
        return Err(Clash::Rules);
    }
    let (old, new) = (paths(files), paths(&now.files));
    if let Remove::Files(gone) = &change.remove
        && let Some(file) = gone.iter().find(|f| !new.contains(f.path.as_str()))
    {
        return Err(Clash::Removed(file.path.clone()));
    }
    let mut moved =
        files.iter().filter(|f| !new.contains(f.path.as_str())).chain(now.files.iter().filter(|f| !old.contains(f.path.as_str())));
    match (&change.reads, &change.remove) {
        (Reads::Everything, _) | (_, Remove::Everything) => {
            if moved.next().is_some() || *before != now.checkpoint {
                return Err(Clash::Content);
            }
        }
        (Reads::Partitions(read), _) => {
            if let Some(file) = moved.find(|f| read.contains(&f.partition)) {
                return Err(Clash::Partition(file.path.clone()));
            }
            // an event that is only remembered touches no file of its partition
            if now.checkpoint.state != before.state {
                return Err(Clash::Remembered);
            }
        }
        (Reads::Files | Reads::Nothing, _) => {}
    }
    merge(before, ours, &now.checkpoint)
}

fn paths(files: &[DataFile]) -> HashSet<&str> {
    files.iter().map(|f| f.path.as_str()).collect()
}

/// What the table has taken in after `theirs` and then `ours`, both of which were built on `base`.
fn merge(base: &Checkpoint, ours: &Checkpoint, theirs: &Checkpoint) -> Result<Checkpoint, Clash> {
    if theirs == base {
        return Ok(ours.clone());
    }
    let files = match ours.files.rebased(&base.files, &theirs.files) {
        Ok(Rebased::Both(files)) => files,
        Ok(Rebased::Twice(path)) => return Err(Clash::Consumed(path)),
        Ok(Rebased::Forgot) => return Err(Clash::Content),
        // not fetched: to plan anew is always right
        Err(e) => {
            tracing::warn!("the lists of consumed files cannot be compared: {e}");
            return Err(Clash::Content);
        }
    };
    let mut batches = theirs.batches.clone();
    ours.batches.added(&base.batches).into_iter().for_each(|batch| batches.push(batch));
    let state = match (&base.state, &ours.state, &theirs.state) {
        // rows that nothing is remembered of, beside rows that something is: the other is of another mode
        (_, ours, theirs) if ours.is_some() != theirs.is_some() => return Err(Clash::Remembered),
        (base, ours, theirs) if theirs == base => ours.clone(),
        (base, ours, theirs) if ours == base => theirs.clone(),
        (Some(base), Some(ours), Some(theirs)) => Some(ChangeState::merged(base, ours, theirs).ok_or(Clash::Remembered)?),
        _ => return Err(Clash::Remembered),
    };
    // Both moved on only where both made the table, with the same columns: then theirs did.
    let mut schemas = latest(&base.schemas, &theirs.schemas, &ours.schemas);
    let unpublished = schemas.iter_mut().filter(|change| change.sequence == ours.sequence && !theirs.batches.contains(&change.batch));
    unpublished.for_each(|change| change.sequence = theirs.sequence + 1);
    Ok(Checkpoint {
        state,
        schemas,
        sequence: theirs.sequence + 1,
        batches,
        files,
        // Where both moved on, ours is what the newest rows come from. If theirs was newer, the next run sees a difference
        // and makes the rows again.
        upstream: latest(&base.upstream, &ours.upstream, &theirs.upstream),
        definition: latest(&base.definition, &ours.definition, &theirs.definition),
        // Those that ours dropped had been settled; theirs may not be yet.
        quarantine: carried(&base.quarantine, &ours.quarantine, &theirs.quarantine, |u| &u.batch),
    })
}

fn latest<T: Clone + PartialEq>(base: &T, ours: &T, theirs: &T) -> T {
    if ours == base { theirs.clone() } else { ours.clone() }
}

/// `theirs` without what ours dropped from `base`, and then what ours added to it.
fn carried<T: Clone>(base: &[T], ours: &[T], theirs: &[T], key: impl Fn(&T) -> &BatchId) -> Vec<T> {
    let (was, is): (HashSet<_>, HashSet<_>) = (base.iter().map(&key).collect(), ours.iter().map(&key).collect());
    let kept = theirs.iter().filter(|item| !was.contains(key(item)) || is.contains(key(item)));
    kept.chain(ours.iter().filter(|item| !was.contains(key(item)))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use smelt_engine::consumed::Seen;
    use smelt_engine::table::{FileMark, Unsettled};
    use std::collections::BTreeMap;

    fn file(path: &str) -> DataFile {
        let city = path.split('/').next().map(str::to_owned);
        DataFile { path: path.into(), partition: vec![("city".into(), city)], rows: 1, bytes: 1, stats: None, modified: 0 }
    }

    /// `batches` are what the table took in, each of them one input file of its name.
    fn taken(batches: &[&str]) -> Checkpoint {
        let mut checkpoint = Checkpoint { sequence: batches.len() as u64, ..Checkpoint::default() };
        for batch in batches {
            checkpoint.batches.push(BatchId((*batch).into()));
            checkpoint.files.insert(format!("{batch}.csv"), &MARK);
        }
        checkpoint
    }

    const MARK: FileMark = FileMark { size: 1, modified: 1, etag: None };

    fn inputs(checkpoint: &Checkpoint) -> Vec<String> {
        checkpoint.files.paths().unwrap().collect()
    }

    fn table(version: u64, files: &[&str], checkpoint: Checkpoint) -> Snapshot {
        Snapshot {
            version,
            rewrites: 0,
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            partition_columns: vec!["city".into()],
            files: Arc::new(files.iter().map(|f| file(f)).collect()),
            checkpoint,
            state: Arc::new(()),
        }
    }

    fn change(reads: Reads, remove: Remove, checkpoint: Checkpoint) -> Change {
        Change {
            add: vec![file("sp/new")],
            remove,
            reads,
            batch: BatchId("ours".into()),
            checkpoint,
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            partition_columns: vec!["city".into()],
            descriptions: BTreeMap::new(),
            operation: "append".into(),
            data_change: true,
            now: 0,
        }
    }

    fn partitions(cities: &[&str]) -> Reads {
        Reads::Partitions(cities.iter().map(|c| vec![("city".to_owned(), Some((*c).to_owned()))]).collect())
    }

    fn gone(path: &str) -> Remove {
        Remove::Files(vec![file(path)])
    }

    /// Every kind of change against everything that can have happened since its base (sp/1, rj/1).
    #[test]
    fn every_pair_of_rules() {
        let base = table(3, &["sp/1", "rj/1"], taken(&["a"]));
        let theirs = |files: &[&str]| table(4, files, taken(&["a", "b"]));
        let foreign = |files: &[&str]| table(4, files, taken(&["a"]));
        let others = [
            ("nothing but a checkpoint", theirs(&["sp/1", "rj/1"])),
            ("an append to rj", theirs(&["sp/1", "rj/1", "rj/2"])),
            ("an append to sp", theirs(&["sp/1", "rj/1", "sp/2"])),
            ("a rewrite of rj/1", theirs(&["sp/1", "rj/2"])),
            ("a rewrite of sp/1", theirs(&["sp/2", "rj/1"])),
            ("a deletion of sp/1", theirs(&["rj/1"])),
            ("a replacement of all", theirs(&["mg/9"])),
            ("a foreign commit without files", foreign(&["sp/1", "rj/1"])),
            ("a foreign append to rj", foreign(&["sp/1", "rj/1", "rj/2"])),
            ("a foreign rewrite of sp/1", foreign(&["sp/2", "rj/1"])),
        ];
        // which of the others each change can step over, in their order
        let rules = [
            ("append", Reads::Nothing, Remove::Nothing, [true; 10]),
            ("compaction of sp/1", Reads::Files, gone("sp/1"), [true, true, true, true, false, false, false, true, true, false]),
            ("partition sp", partitions(&["sp"]), gone("sp/1"), [true, true, false, true, false, false, false, true, true, false]),
            (
                "partition mg, empty so far",
                partitions(&["mg"]),
                Remove::Nothing,
                [true, true, true, true, true, true, false, true, true, true],
            ),
            ("merge", Reads::Everything, gone("sp/1"), [false, false, false, false, false, false, false, true, false, false]),
            (
                "merge without removal",
                Reads::Everything,
                Remove::Nothing,
                [false, false, false, false, false, false, false, true, false, false],
            ),
            ("replace", Reads::Everything, Remove::Everything, [false, false, false, false, false, false, false, true, false, false]),
            (
                "replace, said wrongly",
                Reads::Nothing,
                Remove::Everything,
                [false, false, false, false, false, false, false, true, false, false],
            ),
        ];
        for (ours, reads, remove, expected) in rules {
            for ((what, now), steps_over) in others.iter().zip(expected) {
                let change = change(reads.clone(), remove.clone(), taken(&["a", "ours"]));
                let outcome = rebase(Some(&base), now, &change, &change.checkpoint, true);
                assert_eq!(outcome.is_ok(), steps_over, "{ours} over {what}: {outcome:?}");
                assert_eq!(rebase(Some(&base), now, &change, &change.checkpoint, false), Err(Clash::Rules), "{ours} over {what}");
            }
        }
    }

    #[test]
    fn a_table_made_anew_is_not_stepped_over() {
        let base = table(3, &["sp/1"], taken(&["a"]));
        let ours = change(Reads::Nothing, Remove::Nothing, taken(&["a", "ours"]));
        for now in [table(5, &["sp/1"], taken(&["x", "y"])), table(1, &["sp/1"], taken(&["a"]))] {
            assert_eq!(rebase(Some(&base), &now, &ours, &ours.checkpoint, true), Err(Clash::Recreated));
        }
    }

    #[test]
    fn two_that_create_the_table_at_once() {
        let now = table(0, &["sp/1"], taken(&["b"]));
        let of = |reads: Reads| change(reads, Remove::Nothing, taken(&["ours"]));
        let outcome = |change: Change| rebase(None, &now, &change, &change.checkpoint, true);
        assert_eq!(outcome(of(Reads::Nothing)).map(|c| c.batches.len()), Ok(2));
        assert_eq!(outcome(of(partitions(&["rj"]))).map(|c| c.batches.len()), Ok(2));
        assert_eq!(outcome(of(partitions(&["sp"]))), Err(Clash::Partition("sp/1".into())));
        assert_eq!(outcome(of(Reads::Everything)), Err(Clash::Content));
    }

    #[test]
    fn both_have_taken_in_what_either_has() {
        let base = taken(&["a"]);
        let merged = merge(&base, &taken(&["a", "ours"]), &taken(&["a", "b", "c"])).unwrap();
        let names: Vec<&str> = merged.batches.iter().map(|b| b.0.as_str()).collect();
        assert_eq!((merged.sequence, names), (4, vec!["a", "b", "c", "ours"]));
        assert_eq!(inputs(&merged), ["a.csv", "b.csv", "c.csv", "ours.csv"]);
        // theirs is the base: the checkpoint is ours as it stands
        let ours = taken(&["a", "ours"]);
        assert_eq!(merge(&base, &ours, &base), Ok(ours));
    }

    #[test]
    fn an_input_file_is_consumed_once() {
        let base = taken(&["a"]);
        let mut ours = taken(&["a", "x"]);
        let mut theirs = taken(&["a", "b"]);
        theirs.files.insert("x.csv", &MARK);
        assert_eq!(merge(&base, &ours, &theirs), Err(Clash::Consumed("x.csv".into())));
        // in another state it is still the same file
        let changed = FileMark { size: 9, modified: 9, etag: None };
        theirs.files.insert("x.csv", &changed);
        assert_eq!(merge(&base, &ours, &theirs), Err(Clash::Consumed("x.csv".into())));
        // a file that both read again since it changed, and one that only ours did
        let (mut again, mut other) = (taken(&["a"]), taken(&["a", "b"]));
        again.files.insert("a.csv", &changed);
        let merged = merge(&base, &again, &other).unwrap();
        assert_eq!(merged.files.seen("a.csv", &changed).unwrap(), Seen::Same);
        other.files.insert("a.csv", &changed);
        assert_eq!(merge(&base, &again, &other), Err(Clash::Consumed("a.csv".into())));
        // what ours forgot stays forgotten
        ours.files.remove("a.csv");
        assert_eq!(inputs(&merge(&base, &ours, &taken(&["a", "b"])).unwrap()), ["b.csv", "x.csv"]);
    }

    #[test]
    fn unsettled_quarantine_files_of_both_are_kept_and_settled_ones_go() {
        let unsettled = |batch: &str, sequence| Unsettled { batch: BatchId(batch.into()), sequence, files: vec![file("q")] };
        let (mut base, mut ours, mut theirs) = (taken(&["a"]), taken(&["a", "ours"]), taken(&["a", "b"]));
        base.quarantine = vec![unsettled("a", 1)];
        ours.quarantine = vec![unsettled("ours", 2)];
        theirs.quarantine = vec![unsettled("a", 1), unsettled("b", 2)];
        let merged = merge(&base, &ours, &theirs).unwrap();
        // under the name that it was given first, though it is commit 3 now
        assert_eq!((merged.sequence, merged.quarantine), (3, vec![unsettled("b", 2), unsettled("ours", 2)]));
        // one that carries all of its base's along, as a compaction does
        ours.quarantine = base.quarantine.clone();
        assert_eq!(merge(&base, &ours, &theirs).unwrap().quarantine, theirs.quarantine);
    }

    /// A deleted key leaves no file in its partition, and a row of it would come back.
    #[test]
    fn a_change_of_some_partitions_conflicts_where_something_is_remembered_anew() {
        let with = |batches: &[&str], memory: &str| Checkpoint {
            state: Some(ChangeState { identity: memory.into(), ..ChangeState::default() }),
            ..taken(batches)
        };
        let base = table(3, &["sp/1", "rj/1"], with(&["a"], "m"));
        let ours = change(partitions(&["sp"]), gone("sp/1"), with(&["a", "ours"], "m"));
        let outcome =
            |memory: &str| rebase(Some(&base), &table(4, &["sp/1", "rj/2"], with(&["a", "b"], memory)), &ours, &ours.checkpoint, true);
        assert!(outcome("m").is_ok());
        assert_eq!(outcome("n"), Err(Clash::Remembered));
        // what rewrites files and no rows does not mind
        let compaction = change(Reads::Files, gone("sp/1"), with(&["a", "ours"], "m"));
        let now = table(4, &["sp/1", "rj/2"], with(&["a", "b"], "n"));
        let merged = rebase(Some(&base), &now, &compaction, &compaction.checkpoint, true);
        assert_eq!(merged.map(|c| c.state), Ok(now.checkpoint.state.clone()));
        // and rows of which nothing is remembered do not go beside some of which something is
        let append = change(Reads::Nothing, Remove::Nothing, taken(&["ours"]));
        assert_eq!(rebase(None, &now, &append, &append.checkpoint, true), Err(Clash::Remembered));
    }

    #[test]
    fn what_was_read_upstream_is_ours_unless_ours_read_nothing() {
        let of = |batches: &[&str], version, definition: &str| Checkpoint {
            upstream: [("silver.x".to_owned(), version)].into(),
            definition: definition.into(),
            ..taken(batches)
        };
        let base = of(&["a"], 1, "d1");
        let merged = merge(&base, &of(&["a", "ours"], 2, "d2"), &of(&["a", "b"], 3, "d3")).unwrap();
        assert_eq!((merged.upstream["silver.x"], merged.definition.as_str()), (2, "d2"));
        let merged = merge(&base, &of(&["a", "ours"], 1, "d1"), &of(&["a", "b"], 3, "d3")).unwrap();
        assert_eq!((merged.upstream["silver.x"], merged.definition.as_str()), (3, "d3"));
    }
}
