//! What the change modes must give, written down naively and apart from the engine: collect all events of a key, sort them by
//! sequence, resolve ties, fold. It knows no batches, since the order of arrival must not matter.
//!
//! A tie of two different upserts is decided by a hash that this model does not compute: it gives every table that such ties
//! allow, and the real one must be among them.

/// The value columns of the tests.
pub const VALUES: [&str; 3] = ["a", "b", "c"];

/// What an event says about one value column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Given {
    /// The event's file has no such column.
    Absent,
    Null,
    Value(u8),
}

/// What an event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Insert,
    Update,
    /// A NULL operation: an upsert like the two before.
    Null,
    Delete,
    Truncate,
}

/// One row of a change feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub key: Option<u8>,
    /// Both members of the sequence; the second is `Some(0)` where the sequence is one column.
    pub sequence: [Option<u8>; 2],
    pub op: Op,
    pub values: [Given; 3],
}

/// A place in the order of events.
pub type Sequence = (u8, u8);

impl Event {
    /// Where the event stands; `None`: it has no key or no sequence, and is quarantined.
    pub fn place(&self) -> Option<Sequence> {
        let sequence = (self.sequence[0]?, self.sequence[1]?);
        // a truncate is for all keys and needs none
        (self.key.is_some() || self.op == Op::Truncate).then_some(sequence)
    }
}

/// The settings of a mode that decide rows.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Keep closed versions (scd2); merge keeps current ones only.
    pub history: bool,
    /// Columns in which a NULL keeps the old value.
    pub ignore_nulls: [bool; 3],
    /// Columns whose change makes a new version.
    pub track: [bool; 3],
}

/// One row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub key: u8,
    pub values: [Option<u8>; 3],
    /// Of the newest event in this version: what the untracked operation and sequence columns show.
    pub op: Op,
    pub last: Sequence,
    pub from: Sequence,
    pub to: Option<Sequence>,
    /// A record of `hard_deletes: new_record`.
    pub deleted: bool,
}

/// What happens to one key at one place.
#[derive(Debug, Clone)]
enum Change {
    Gone,
    Upsert(Event),
}

/// Every table that `events` may give: one, unless different upserts tie.
pub fn tables(events: &[Event], rules: &Rules) -> Vec<Vec<Version>> {
    let mut tables: Vec<Vec<Version>> = vec![vec![]];
    for key in keys(events) {
        let histories = choices(&places(events, key));
        tables = tables
            .iter()
            .flat_map(|table| {
                histories.iter().map(|history| {
                    let mut table = table.clone();
                    table.extend(fold(key, history, rules));
                    table
                })
            })
            .collect();
    }
    tables
}

/// How many ways there are to decide the ties of `events`.
pub fn ambiguity(events: &[Event]) -> usize {
    keys(events).into_iter().map(|key| choices(&places(events, key)).len()).product()
}

fn keys(events: &[Event]) -> Vec<u8> {
    let upserts_and_deletes = events.iter().filter(|e| e.place().is_some() && e.op != Op::Truncate);
    let mut keys: Vec<u8> = upserts_and_deletes.filter_map(|e| e.key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// For each place at which something happens to `key`, in order: what may happen there.
fn places(events: &[Event], key: u8) -> Vec<(Sequence, Vec<Change>)> {
    let of_key = |e: &&Event| e.op == Op::Truncate || e.key == Some(key);
    let mut places: Vec<Sequence> = events.iter().filter(of_key).filter_map(Event::place).collect();
    places.sort_unstable();
    places.dedup();
    places
        .into_iter()
        .map(|place| {
            let tied: Vec<&Event> = events.iter().filter(of_key).filter(|e| e.place() == Some(place)).collect();
            // a delete beats an upsert, and a truncate is a delete of every key
            if tied.iter().any(|e| matches!(e.op, Op::Delete | Op::Truncate)) {
                return (place, vec![Change::Gone]);
            }
            let mut different: Vec<&Event> = vec![];
            for event in tied {
                if !different.contains(&event) {
                    different.push(event);
                }
            }
            (place, different.into_iter().cloned().map(Change::Upsert).collect())
        })
        .collect()
}

/// Every history that comes of choosing one of what may happen at each place.
fn choices(places: &[(Sequence, Vec<Change>)]) -> Vec<Vec<(Sequence, Change)>> {
    let mut histories: Vec<Vec<(Sequence, Change)>> = vec![vec![]];
    for (place, options) in places {
        histories = histories
            .iter()
            .flat_map(|history| {
                options.iter().map(|option| {
                    let mut history = history.clone();
                    history.push((*place, option.clone()));
                    history
                })
            })
            .collect();
    }
    histories
}

fn fold(key: u8, history: &[(Sequence, Change)], rules: &Rules) -> Vec<Version> {
    let mut closed = vec![];
    let mut open: Option<Version> = None;
    for (at, change) in history {
        match change {
            Change::Gone => closed.extend(close(open.take(), *at)),
            Change::Upsert(event) => {
                let old = open.as_ref().map(|v| v.values);
                let mut values = [None; 3];
                for i in 0..3 {
                    let inherited = old.and_then(|old| old[i]);
                    values[i] = match event.values[i] {
                        Given::Value(value) => Some(value),
                        Given::Null if rules.ignore_nulls[i] => inherited,
                        Given::Null => None,
                        Given::Absent => inherited,
                    };
                }
                let from = match &open {
                    Some(v) if (0..3).all(|i| !rules.track[i] || v.values[i] == values[i]) => v.from,
                    _ => {
                        closed.extend(close(open.take(), *at));
                        *at
                    }
                };
                open = Some(Version { key, values, op: event.op, last: *at, from, to: None, deleted: false });
            }
        }
    }
    closed.extend(open);
    // a version without length in the first member is not shown
    closed.retain(|v| v.to.is_none_or(|to| to.0 != v.from.0));
    closed.retain(|v| rules.history || v.to.is_none());
    closed
}

fn close(open: Option<Version>, at: Sequence) -> Option<Version> {
    open.map(|v| Version { to: Some(at), ..v })
}

/// A full extract: all rows that there were at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extract {
    pub at: u8,
    /// Key and values; no key twice.
    pub rows: Vec<(u8, [Option<u8>; 3])>,
}

/// What the absence of a key from an extract means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HardDeletes {
    Ignore,
    Close,
    NewRecord,
}

/// The table that `extracts` give in `snapshot` mode.
pub fn snapshots(extracts: &[Extract], track: [bool; 3], hard_deletes: HardDeletes) -> Vec<Version> {
    let mut extracts = extracts.to_vec();
    extracts.sort_by_key(|e| e.at);
    let mut keys: Vec<u8> = extracts.iter().flat_map(|e| e.rows.iter().map(|(key, _)| *key)).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut table = vec![];
    for key in keys {
        let mut open: Option<Version> = None;
        for extract in &extracts {
            let at = (extract.at, 0);
            let fresh = |values, deleted| Version { key, values, op: Op::Insert, last: at, from: at, to: None, deleted };
            match extract.rows.iter().find(|(k, _)| *k == key) {
                Some((_, values)) => match &mut open {
                    Some(v) if !v.deleted && (0..3).all(|i| !track[i] || v.values[i] == values[i]) => v.values = *values,
                    _ => {
                        table.extend(close(open.take(), at));
                        open = Some(fresh(*values, false));
                    }
                },
                None => match (&open, hard_deletes) {
                    (None, _) | (_, HardDeletes::Ignore) => {}
                    (Some(_), HardDeletes::Close) => table.extend(close(open.take(), at)),
                    (Some(v), HardDeletes::NewRecord) if !v.deleted => {
                        let record = fresh(v.values, true);
                        table.extend(close(open.replace(record), at));
                    }
                    (Some(_), HardDeletes::NewRecord) => {}
                },
            }
        }
        table.extend(open);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCD2: Rules = Rules { history: true, ignore_nulls: [false; 3], track: [true; 3] };

    fn upsert(sequence: u8, a: u8) -> Event {
        Event { key: Some(1), sequence: [Some(sequence), Some(0)], op: Op::Update, values: [Given::Value(a), Given::Null, Given::Null] }
    }

    fn spans(events: &[Event], rules: &Rules) -> Vec<(u8, u8, Option<u8>)> {
        let mut tables = tables(events, rules);
        assert_eq!(tables.len(), 1);
        tables.remove(0).iter().map(|v| (v.values[0].unwrap(), v.from.0, v.to.map(|t| t.0))).collect()
    }

    #[test]
    fn a_late_row_splits_what_had_coalesced() {
        assert_eq!(spans(&[upsert(1, 7), upsert(5, 7)], &SCD2), [(7, 1, None)]);
        assert_eq!(spans(&[upsert(1, 7), upsert(5, 7), upsert(3, 8)], &SCD2), [(7, 1, Some(3)), (8, 3, Some(5)), (7, 5, None)]);
    }

    #[test]
    fn a_delete_closes_and_beats_an_upsert_of_its_sequence() {
        let delete = Event { op: Op::Delete, ..upsert(3, 0) };
        assert_eq!(spans(&[upsert(1, 7), delete.clone(), upsert(3, 8)], &SCD2), [(7, 1, Some(3))]);
        assert_eq!(spans(&[upsert(4, 7), delete.clone(), upsert(1, 7)], &SCD2), [(7, 1, Some(3)), (7, 4, None)]);
        assert_eq!(spans(&[upsert(1, 7), delete], &Rules { history: false, ..SCD2 }), []);
    }

    #[test]
    fn a_null_is_filled_from_what_is_before_it_now() {
        let rules = Rules { ignore_nulls: [true; 3], ..SCD2 };
        let null = Event { values: [Given::Null, Given::Value(1), Given::Null], ..upsert(5, 0) };
        assert_eq!(spans(&[upsert(1, 7), null.clone()], &rules), [(7, 1, Some(5)), (7, 5, None)]);
        assert_eq!(spans(&[upsert(1, 7), null, upsert(3, 8)], &rules), [(7, 1, Some(3)), (8, 3, Some(5)), (8, 5, None)]);
    }

    #[test]
    fn different_upserts_of_one_sequence_give_two_tables() {
        assert_eq!(tables(&[upsert(1, 7), upsert(1, 8), upsert(1, 7)], &SCD2).len(), 2);
        assert_eq!(ambiguity(&[upsert(1, 7), upsert(1, 7)]), 1);
    }

    #[test]
    fn a_key_that_returns_leaves_a_gap_or_a_record() {
        let present = |at| Extract { at, rows: vec![(1, [Some(7), None, None])] };
        let absent = |at| Extract { at, rows: vec![] };
        let extracts = [absent(2), present(1), absent(3), present(4)];
        let spans =
            |hard| snapshots(&extracts, [true; 3], hard).iter().map(|v| (v.from.0, v.to.map(|t| t.0), v.deleted)).collect::<Vec<_>>();
        assert_eq!(spans(HardDeletes::Ignore), [(1, None, false)]);
        assert_eq!(spans(HardDeletes::Close), [(1, Some(2), false), (4, None, false)]);
        assert_eq!(spans(HardDeletes::NewRecord), [(1, Some(2), false), (2, Some(4), true), (4, None, false)]);
    }
}
