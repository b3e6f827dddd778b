//! The meaning of a history: the events of one key, in the order of their sequence, folded into what the table shows and what
//! must be remembered beside it. Pure: no arrays, no I/O; events name their values by position.
//!
//! The table and the remembered events together give the events back, whatever order they arrived in. That is what makes
//! every cutting and every order of arrival end in the same table (law 6):
//!
//! - a visible version stands for the event that opened it, and its end for the delete (or the next version) that closed it;
//! - an event that the rows do not show so (a repeat, a second delete, an inherited value) is remembered;
//! - a remembered event stands in place of the visible row of the same sequence.

/// A value's row: batch of the window, row of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct At {
    pub batch: u32,
    pub row: u32,
}

/// Where the sequence of an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    /// In the sequence columns of a row.
    Seq(At),
    /// In the column that says when the visible row ended.
    To(At),
    /// In the list of sequences that hold for every key (truncates, extracts).
    Listed(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Upsert,
    Delete,
    /// A visible version ended here. A delete, unless a visible version begins at the same time.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// A row of the table.
    Visible,
    /// An event remembered beside it.
    Remembered,
    New,
    /// From a list that holds for every key.
    Listed,
}

/// Bits of the value columns that an event gives; `None`: all of them.
pub(super) type Given = Option<Box<[u8]>>;

/// One event of one key.
#[derive(Debug, Clone)]
pub(super) struct Event {
    /// Rank of the whole sequence among the key's events; equal ranks are ties.
    pub seq: u32,
    /// Rank of the first member of the sequence.
    pub first: u32,
    pub op: Op,
    pub origin: Origin,
    pub at: At,
    pub time: Time,
    pub given: Given,
    /// Hash of all values but key and sequence: equal means identical.
    pub hash: u64,
    /// Milliseconds since the epoch at which a remembered event was first seen.
    pub recorded: i64,
}

/// What a delete does to the version that is current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDelete {
    Close,
    Ignore,
    /// Opens a version that says that the key is deleted.
    Record,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One row a key: the latest.
    Latest,
    /// A row for each version.
    History {
        on_delete: OnDelete,
        /// The list of extracts is kept, so that repeats between two changes need not be remembered.
        extracts: bool,
        /// The sequence has several members, of which a row's end shows only the first.
        composite: bool,
    },
}

/// Hashes of single values, where the fold must look into rows.
pub(super) trait Values {
    fn columns(&self) -> usize;
    /// Of one value column; 0 for NULL.
    fn hash(&self, at: At, column: usize) -> u64;
    /// Sum of `hash` over all value columns.
    fn all(&self, at: At) -> u64;
    /// Sum of `hash` over the tracked columns.
    fn tracked(&self, at: At) -> u64;
    fn is_tracked(&self, column: usize) -> bool;
}

/// Where the values of a row come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    One(At),
    /// For each value column; `None`: nobody ever gave it.
    Each(Box<[Option<At>]>),
}

/// One row that the table shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Version {
    /// Index of the event that opened it.
    pub opened: usize,
    /// Index of the last event that says the same.
    pub last: usize,
    /// Index of the event that ended it.
    pub closed: Option<usize>,
    pub values: Source,
    /// Of the tracked values.
    pub tracked: u64,
    /// It says that the key is deleted.
    pub deleted: bool,
}

/// The outcome for one key.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Folded {
    pub versions: Vec<Version>,
    /// Indices of events that must be remembered.
    pub hidden: Vec<usize>,
}

/// One event for each sequence: what the ties of a key come to. `events` are sorted by `seq`; ties that only the greater hash could
/// decide, and that a new event took part in, are counted.
pub(super) fn settle(events: Vec<Event>) -> (Vec<Event>, usize) {
    // a visible version goes on where another visible one begins, and where its delete is known there is no need to guess it from its end
    let told = |e: &&Event| match e.origin {
        Origin::Visible => e.op != Op::Close,
        Origin::Remembered | Origin::Listed => e.op == Op::Delete,
        Origin::New => false,
    };
    let told: Vec<u32> = events.iter().filter(told).map(|e| e.first).collect();
    let mut out: Vec<Event> = Vec::with_capacity(events.len());
    let mut ties = 0;
    let mut rest = events.into_iter().peekable();
    while let Some(first) = rest.next() {
        let seq = first.seq;
        let mut tied = vec![first];
        while let Some(next) = rest.next_if(|e| e.seq == seq) {
            tied.push(next);
        }
        tied.retain(|e| e.op != Op::Close || !told.contains(&e.first));
        // what is remembered says more than what is shown
        if tied.iter().any(|e| e.origin == Origin::Remembered) {
            tied.retain(|e| e.origin != Origin::Visible || e.op == Op::Close);
        }
        if tied.len() > 1 {
            let deletes = tied.iter().any(|e| e.op != Op::Upsert);
            if deletes {
                tied.retain(|e| e.op != Op::Upsert);
            } else if tied.iter().any(|e| e.hash != tied[0].hash) && tied.iter().any(|e| e.origin == Origin::New) {
                ties += 1;
            }
        }
        // an event that gives all values comes before one that inherits some: what it covers has been let go. Of equals, the one known longest
        let rank = |e: &Event| (e.given.is_none(), e.hash, std::cmp::Reverse(e.origin));
        let best = tied.into_iter().reduce(|a, b| if b.op == Op::Upsert && rank(&b) > rank(&a) { b } else { a });
        out.extend(best);
    }
    (out, ties)
}

/// Folds the settled events of one key.
pub(super) fn fold(events: &[Event], shape: Shape, values: &dyn Values) -> Folded {
    match shape {
        Shape::Latest => latest(events, values),
        Shape::History { on_delete, extracts, composite } => history(events, on_delete, extracts, composite, values),
    }
}

/// The values of an event on top of those before it.
fn inherit(event: &Event, before: Option<&Source>, columns: usize) -> Source {
    let Some(given) = &event.given else { return Source::One(event.at) };
    let each = (0..columns).map(|c| {
        if given.get(c / 8).is_some_and(|bits| bits >> (c % 8) & 1 == 1) {
            return Some(event.at);
        }
        match before {
            Some(Source::One(at)) => Some(*at),
            Some(Source::Each(each)) => each[c],
            None => None,
        }
    });
    Source::Each(each.collect())
}

pub(super) fn hash_of(source: &Source, values: &dyn Values, tracked: bool) -> u64 {
    match source {
        Source::One(at) if tracked => values.tracked(*at),
        Source::One(at) => values.all(*at),
        Source::Each(each) => each.iter().enumerate().fold(0u64, |h, (c, at)| match at {
            Some(at) if !tracked || values.is_tracked(c) => h.wrapping_add(values.hash(*at, c)),
            _ => h,
        }),
    }
}

fn latest(events: &[Event], values: &dyn Values) -> Folded {
    let mut live: Option<(usize, usize, Source)> = None;
    // nothing before it can matter any more
    let mut barrier = None;
    for (i, event) in events.iter().enumerate() {
        if event.op == Op::Upsert {
            let source = inherit(event, live.as_ref().map(|(_, _, s)| s), values.columns());
            let opened = live.as_ref().map_or(i, |(opened, _, _)| *opened);
            if event.given.is_none() {
                barrier = Some(i);
            }
            live = Some((opened, i, source));
        } else {
            live = None;
            barrier = Some(i);
        }
    }
    let from = barrier.unwrap_or(0);
    let only = from + 1 == events.len();
    let shown = only && live.is_some();
    let hidden =
        if shown && barrier.is_some() { vec![] } else { (from..events.len()).filter(|i| events[*i].origin != Origin::Listed).collect() };
    let versions = live
        .map(|(opened, last, source)| Version {
            opened,
            last,
            closed: None,
            tracked: hash_of(&source, values, true),
            values: source,
            deleted: false,
        })
        .into_iter()
        .collect();
    Folded { versions, hidden }
}

/// A version that is being read.
struct Run {
    members: Vec<usize>,
    values: Source,
    tracked: u64,
    deleted: bool,
    /// Members after which deletes were ignored.
    absences: bool,
}

fn history(events: &[Event], on_delete: OnDelete, extracts: bool, composite: bool, values: &dyn Values) -> Folded {
    let mut out = Folded::default();
    let mut run: Option<Run> = None;
    for (i, event) in events.iter().enumerate() {
        if event.op == Op::Upsert {
            let before = run.as_ref().filter(|r| !r.deleted).map(|r| &r.values);
            let source = inherit(event, before, values.columns());
            let tracked = hash_of(&source, values, true);
            match &mut run {
                Some(run) if !run.deleted && run.tracked == tracked => {
                    run.members.push(i);
                    run.values = source;
                }
                _ => {
                    close(events, run.take(), Some(i), extracts, values, &mut out);
                    run = Some(Run { members: vec![i], values: source, tracked, deleted: false, absences: false });
                }
            }
            continue;
        }
        match (on_delete, &mut run) {
            (OnDelete::Ignore, Some(run)) => {
                // the values stay; that the key was away matters only to what arrives late
                if events[i - 1].op == Op::Upsert {
                    out.hidden.push(i);
                }
                run.absences = true;
            }
            (OnDelete::Record, Some(live)) if !live.deleted => {
                let (values_then, tracked) = (live.values.clone(), live.tracked);
                close(events, run.take(), Some(i), extracts, values, &mut out);
                run = Some(Run { members: vec![i], values: values_then, tracked, deleted: true, absences: false });
            }
            (OnDelete::Close, Some(_)) => {
                let shown = close(events, run.take(), Some(i), extracts, values, &mut out);
                if !shown || (composite && event.op == Op::Delete) {
                    remember_delete(events, i, extracts, &mut out);
                }
            }
            _ => remember_delete(events, i, extracts, &mut out),
        }
    }
    close(events, run, None, extracts, values, &mut out);
    out.hidden.sort_unstable();
    out.hidden.dedup();
    out
}

fn remember_delete(events: &[Event], i: usize, extracts: bool, out: &mut Folded) {
    // a list of extracts says it again for every key
    if !extracts && events[i].origin != Origin::Listed {
        out.hidden.push(i);
    }
}

/// Ends a version; true where it has a length and is shown.
fn close(events: &[Event], run: Option<Run>, by: Option<usize>, extracts: bool, values: &dyn Values, out: &mut Folded) -> bool {
    let Some(run) = run else { return false };
    let (opened, last) = (run.members[0], *run.members.last().unwrap_or(&run.members[0]));
    let shown = by.is_none_or(|by| events[by].first != events[opened].first);
    let own = |i: usize| events[i].origin != Origin::Listed || events[i].op == Op::Upsert;
    if !shown {
        out.hidden.extend(run.members.iter().copied().filter(|i| own(*i)));
        return false;
    }
    if !run.deleted {
        let all = hash_of(&run.values, values, false);
        let told = events[opened].given.is_none() && all == values.all(events[opened].at);
        if !told {
            out.hidden.push(opened);
        }
        let mut before = values.all(events[opened].at);
        for i in &run.members[1..] {
            let now = values.all(events[*i].at);
            // in a list of extracts an equal repeat is told by the list
            if !(extracts && now == before && told && !run.absences) {
                out.hidden.push(*i);
            }
            before = now;
        }
    }
    out.versions.push(Version { opened, last, closed: by, values: run.values, tracked: run.tracked, deleted: run.deleted });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values are their row's number; the last of two columns is untracked where `track` says so.
    struct Numbers {
        track: bool,
        rows: Vec<[u64; 2]>,
    }

    impl Values for Numbers {
        fn columns(&self) -> usize {
            2
        }
        fn hash(&self, at: At, column: usize) -> u64 {
            self.rows[at.row as usize][column] << (32 * column)
        }
        fn all(&self, at: At) -> u64 {
            self.hash(at, 0).wrapping_add(self.hash(at, 1))
        }
        fn tracked(&self, at: At) -> u64 {
            if self.track { self.hash(at, 0) } else { self.all(at) }
        }
        fn is_tracked(&self, column: usize) -> bool {
            column == 0 || !self.track
        }
    }

    fn event(seq: u32, op: Op, row: u32, values: &Numbers) -> Event {
        let at = At { batch: 0, row };
        let hash = if op == Op::Upsert { values.all(at) } else { 0 };
        Event { seq, first: seq, op, origin: Origin::New, at, time: Time::Seq(at), given: None, hash, recorded: 0 }
    }

    const CLOSE: Shape = Shape::History { on_delete: OnDelete::Close, extracts: false, composite: false };

    #[test]
    fn repeats_coalesce_and_are_remembered() {
        let values = Numbers { track: false, rows: vec![[1, 0], [1, 0], [2, 0]] };
        let events = vec![event(0, Op::Upsert, 0, &values), event(1, Op::Upsert, 1, &values), event(2, Op::Upsert, 2, &values)];
        let folded = fold(&events, CLOSE, &values);
        let shown: Vec<_> = folded.versions.iter().map(|v| (v.opened, v.last, v.closed)).collect();
        assert_eq!(shown, [(0, 1, Some(2)), (2, 2, None)]);
        assert_eq!(folded.hidden, [1]);
    }

    #[test]
    fn only_the_delete_that_ends_a_version_is_shown() {
        let values = Numbers { track: false, rows: vec![[1, 0], [0, 0], [0, 0], [0, 0]] };
        let mut events: Vec<Event> = (0..4).map(|i| event(i, Op::Delete, i, &values)).collect();
        events[1] = event(1, Op::Upsert, 0, &values);
        let folded = fold(&events, CLOSE, &values);
        assert_eq!(folded.versions.len(), 1);
        assert_eq!(folded.hidden, [0, 3]);
    }

    #[test]
    fn untracked_values_are_those_of_the_last_event_and_the_first_is_remembered() {
        let values = Numbers { track: true, rows: vec![[1, 1], [1, 2]] };
        let events = vec![event(0, Op::Upsert, 0, &values), event(1, Op::Upsert, 1, &values)];
        let folded = fold(&events, CLOSE, &values);
        assert_eq!(folded.versions[0].values, Source::One(events[1].at));
        assert_eq!(folded.hidden, [0, 1]);
    }

    #[test]
    fn merge_remembers_what_the_row_does_not_show() {
        let values = Numbers { track: false, rows: vec![[1, 1], [0, 2]] };
        let full = event(0, Op::Upsert, 0, &values);
        let partial = Event { given: Some([0b10].into()), ..event(1, Op::Upsert, 1, &values) };
        let folded = fold(&[full.clone(), partial.clone()], Shape::Latest, &values);
        assert_eq!(folded.versions[0].values, Source::Each([Some(full.at), Some(partial.at)].into()));
        assert_eq!(folded.hidden, [0, 1]);
        // a delete resets what is inherited, and alone is a tombstone
        let gone = event(2, Op::Delete, 0, &values);
        let folded = fold(&[full, partial, gone], Shape::Latest, &values);
        assert_eq!((folded.versions.len(), folded.hidden), (0, vec![2]));
    }

    #[test]
    fn a_delete_wins_a_tie_and_the_greater_hash_the_others() {
        let values = Numbers { track: false, rows: vec![[1, 0], [2, 0]] };
        let (a, b) = (event(0, Op::Upsert, 0, &values), event(0, Op::Upsert, 1, &values));
        let (settled, ties) = settle(vec![b.clone(), a.clone()]);
        assert_eq!((settled.len(), settled[0].hash, ties), (1, b.hash, 1));
        let (settled, ties) = settle(vec![a.clone(), a.clone()]);
        assert_eq!((settled.len(), ties), (1, 0), "identical rows are one");
        let (settled, _) = settle(vec![a, event(0, Op::Delete, 0, &values), b]);
        assert_eq!(settled[0].op, Op::Delete);
    }

    #[test]
    fn a_remembered_event_stands_in_place_of_the_row() {
        let values = Numbers { track: false, rows: vec![[1, 0], [2, 0]] };
        let shown = Event { origin: Origin::Visible, ..event(0, Op::Upsert, 1, &values) };
        let remembered = Event { origin: Origin::Remembered, ..event(0, Op::Upsert, 0, &values) };
        let (settled, ties) = settle(vec![shown, remembered]);
        assert_eq!((settled[0].at.row, ties), (0, 0));
    }
}
