//! The list against a map that does the same.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

fn mark(size: u64, etag: Option<&str>) -> FileMark {
    FileMark { size, modified: size as i64 * 1000, etag: etag.map(str::to_owned) }
}

/// Where segments lie in these tests.
type Store = HashMap<String, Vec<u8>>;

fn settle(list: &mut Consumed, head: usize, sequence: u64, store: &mut Store) {
    store.extend(list.settle_above(head, sequence).unwrap());
}

/// As a later process finds it.
fn reopened(list: &Consumed, store: &Store) -> Consumed {
    let list: Consumed = serde_json::from_str(&serde_json::to_string(list).unwrap()).unwrap();
    for segment in list.missing(&[String::new()]) {
        segment.fill(store[&segment.name].clone()).unwrap();
    }
    list
}

#[test]
fn an_etag_decides_where_both_have_one() {
    let digest = |size, modified, etag: Option<&str>| Digest::of(&FileMark { size, modified, etag: etag.map(str::to_owned) });
    let a = digest(5, 1, Some("x"));
    assert!(a.same(digest(5, 2, Some("x"))), "touched, not changed");
    assert!(!a.same(digest(5, 1, Some("y"))), "changed in place");
    assert!(!a.same(digest(6, 1, Some("x"))));
    assert!(a.same(digest(5, 1, None)), "a store that gives no etag any more");
    assert!(!a.same(digest(5, 2, None)));
    assert!(!digest(5, 1, None).same(digest(6, 1, None)));
}

#[test]
fn digests_are_what_they_were() {
    // stored: a change here would load every file of every table again
    let digest = |etag: Option<&str>| Digest::of(&FileMark { size: 5, modified: 1, etag: etag.map(str::to_owned) });
    assert_eq!((digest(Some("x")), digest(None)), (Digest(0xed84ce574c7ae923), Digest(0x4c7ae923)));
    let list: Consumed = serde_json::from_str(r#"{"orders": {"a.csv": {"size": 1, "modified": 2, "etag": "e"}}, "x": {}}"#).unwrap();
    assert_eq!(list.seen("a.csv", &FileMark { size: 1, modified: 2, etag: Some("e".into()) }).unwrap(), Seen::Same);
    assert_eq!(list.seen("a.csv", &FileMark { size: 2, modified: 2, etag: Some("e".into()) }).unwrap(), Seen::Changed);
    assert_eq!(list.seen("b.csv", &mark(1, None)).unwrap(), Seen::New);
}

#[test]
fn names_of_old_sources_are_no_keys_of_ours() {
    for source in ["segments", "recent", "retired"] {
        let json = format!(r#"{{"{source}": {{"a.csv": {{"size": 1, "modified": 2}}}}}}"#);
        let list: Consumed = serde_json::from_str(&json).unwrap();
        assert_eq!(list.paths().unwrap().collect::<Vec<_>>(), ["a.csv"], "{source}");
    }
    assert!(serde_json::from_str::<Consumed>("{}").unwrap().is_empty());
}

#[test]
fn only_segments_of_the_asked_prefixes_are_missing() {
    let mut store = Store::new();
    let mut list = Consumed::default();
    for (sequence, folder) in ["2024/01", "2024/02", "2024/03"].iter().enumerate() {
        // each ten times smaller than the one before: not merged
        for i in 0..(1000 / 10_usize.pow(sequence as u32)) {
            list.insert(format!("raw/{folder}/{i:04}.csv"), &mark(1, None));
        }
        settle(&mut list, 3, sequence as u64 + 1, &mut store);
    }
    let list: Consumed = serde_json::from_str(&serde_json::to_string(&list).unwrap()).unwrap();
    let missing = |prefix: &str| list.missing(&[prefix.to_owned()]).count();
    assert_eq!((missing(""), missing("raw/"), missing("raw/2024/02"), missing("raw/2024/02/0001"), missing("raw/2025")), (3, 3, 1, 1, 0));
    assert!(list.seen("raw/2024/02/0001.csv", &mark(1, None)).is_err(), "asked before it was fetched");
    assert_eq!(list.seen("other", &mark(1, None)).unwrap(), Seen::New);
}

#[test]
fn a_segment_is_what_its_name_says() {
    let mut store = Store::new();
    let mut list = Consumed::default();
    for i in 0..50 {
        list.insert(format!("{i:03}"), &mark(i, None));
    }
    settle(&mut list, 3, 1, &mut store);
    let segment = list.segments().next().unwrap();
    let mut bytes = store[&segment.name].clone();
    let last = bytes.len() - 30;
    bytes[last] ^= 1;
    assert!(segment.fill(bytes).is_err());
    assert!(segment.fill(store[&segment.name].clone()).is_ok());
}

#[test]
fn two_loads_side_by_side_are_put_together() {
    let mut base = Consumed::default();
    base.insert("a", &mark(1, None));
    let (mut ours, mut theirs) = (base.clone(), base.clone());
    ours.insert("b", &mark(2, None));
    theirs.insert("c", &mark(3, None));
    let mut store = Store::new();
    settle(&mut theirs, 1, 2, &mut store);
    let theirs = reopened(&theirs, &store);
    let Rebased::Both(mut both) = ours.rebased(&base, &theirs).unwrap() else { panic!("they go together") };
    assert_eq!(ours.added(&base).unwrap().len(), 1);
    assert_eq!(both.paths().unwrap().collect::<Vec<_>>(), ["a", "b", "c"]);
    both.remove("a");
    assert_eq!(both.paths().unwrap().collect::<Vec<_>>(), ["b", "c"]);
    // a rebuilt list has no additions
    let mut rebuilt = base.clone();
    rebuilt.clear();
    rebuilt.insert("z", &mark(1, None));
    assert_eq!(rebuilt.added(&base), None);
    assert_eq!(rebuilt.added(&theirs), None);
    assert_eq!(rebuilt.rebased(&base, &theirs).unwrap(), Rebased::Forgot);
    // both took one file, or the same file changed
    for (path, size) in [("c", 3), ("a", 2)] {
        let (mut ours, mut theirs) = (base.clone(), theirs.clone());
        ours.insert(path, &mark(size, None));
        theirs.insert(path, &mark(size, None));
        assert_eq!(ours.rebased(&base, &theirs).unwrap(), Rebased::Twice(path.into()));
    }
}

#[test]
fn replaced_segments_stay_for_old_readers() {
    let (mut store, mut list) = (Store::new(), Consumed::default());
    for sequence in 1..=3 {
        list = reopened(&list, &store);
        for i in 0..10 {
            list.insert(format!("{sequence}-{i}"), &mark(1, None));
        }
        settle(&mut list, 3, sequence, &mut store);
    }
    assert_eq!((list.segments().count(), store.len()), (1, 3), "segments of like size are merged");
    let mut names: Vec<String> = store.keys().cloned().collect();
    names.sort();
    assert!(list.wants(&names[0], 2) && !list.wants(&names[0], 3), "replaced by the second commit");
    assert!(list.wants(&names[1], 3) && !list.wants(&names[1], 4));
    assert!(list.wants(&names[2], 100));
    list.clear();
    assert!(list.wants(&names[2], 100), "until the commit that clears it");
    settle(&mut list, 3, 5, &mut store);
    assert!(list.wants(&names[2], 5) && !list.wants(&names[2], 6));
}

#[derive(Debug, Clone)]
enum Op {
    Insert(u16, u64),
    Remove(u16),
    Settle,
    Reopen,
    Clear,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => (0..80_u16, 0..4_u64).prop_map(|(path, size)| Op::Insert(path, size)),
        3 => (0..80_u16).prop_map(Op::Remove),
        4 => Just(Op::Settle),
        2 => Just(Op::Reopen),
        1 => Just(Op::Clear),
    ];
    proptest::collection::vec(op, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_a_map_does(ops in ops(), head in 0..6_usize) {
        let path = |i: u16| format!("data/{}/{i:03}.csv", i % 3);
        let (mut list, mut store, mut sequence) = (Consumed::default(), Store::new(), 0);
        let mut model: BTreeMap<String, FileMark> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Insert(i, size) => {
                    list.insert(path(i), &mark(size, Some("e")));
                    model.insert(path(i), mark(size, Some("e")));
                }
                Op::Remove(i) => {
                    list.remove(&path(i));
                    model.remove(&path(i));
                }
                Op::Settle => {
                    sequence += 1;
                    list = reopened(&list, &store);
                    settle(&mut list, head, sequence, &mut store);
                    list = reopened(&list, &store);
                }
                Op::Reopen => list = reopened(&list, &store),
                Op::Clear => {
                    list.clear();
                    model.clear();
                }
            }
        }
        for i in 0..80 {
            for size in 0..4 {
                let now = mark(size, Some("e"));
                let wanted = match model.get(&path(i)) {
                    None => Seen::New,
                    Some(known) if *known == now => Seen::Same,
                    Some(_) => Seen::Changed,
                };
                prop_assert_eq!(list.seen(&path(i), &now).unwrap(), wanted);
            }
        }
        let mut paths: Vec<&String> = model.keys().collect();
        paths.sort();
        prop_assert!(list.paths().unwrap().eq(paths.into_iter().cloned()));
        prop_assert!(list.segments().count() <= 12);
    }
}
