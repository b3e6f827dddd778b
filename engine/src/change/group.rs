//! One key: its rows become events, the events fold, and what comes of it is written down as rows to be built.

use std::collections::HashMap;

use super::fold::{At, Event, Folded, Given, Op, Origin, Shape, Source, Time, Version, fold, hash_of, settle};
use super::plan::{DELETE, NEW, VISIBLE};
use super::window::{Page, Window};

/// A sequence that holds for every key, as bytes: its first member and the whole.
pub(super) type Listed = (Box<[u8]>, Box<[u8]>);
/// An event that was known before the load: sequence, operation, row, given values, hash, origin.
type Known<'a> = (&'a [u8], Op, At, Given, u64, Origin);

/// What holds for every key of a load.
#[derive(Debug)]
pub(super) struct Rules {
    pub shape: Shape,
    pub bitemporal: bool,
    /// New events may leave values out.
    pub inherits: bool,
    /// Some events, new or remembered, may leave values out: the hash of each value is needed.
    pub partial: bool,
    pub composite: bool,
    /// Events up to this sequence may have been forgotten.
    pub forgotten: Option<Box<[u8]>>,
    /// Remembered events first seen before this are forgotten; milliseconds since the epoch.
    pub cutoff: i64,
    /// Of sequences that hold for every key, ascending: first member and whole, as bytes.
    pub listed: Vec<Listed>,
    /// For a snapshot: which of `listed` are extracts of this load. Empty: `listed` are truncates.
    pub fresh: Vec<bool>,
}

/// A row of the table to be built.
#[derive(Debug)]
pub(super) struct OutRow {
    /// Where key and sequence columns stand, and all others where `each` is `None`.
    pub at: At,
    pub each: Option<Box<[Option<At>]>>,
    /// Where the sequence columns stand, if not at `at`.
    pub sequence: Option<Time>,
    pub from: Option<Time>,
    pub to: Option<Time>,
    pub row_hash: u64,
    pub deleted: bool,
    /// Keeps the `system_from` of the row at `at`; else it is now.
    pub known: Option<At>,
    /// What we knew until now.
    pub superseded: bool,
}

/// An event to be remembered.
#[derive(Debug)]
pub(super) struct Kept {
    pub at: At,
    pub time: Time,
    pub delete: bool,
    pub given: Option<Box<[u8]>>,
    /// `None`: now.
    pub recorded: Option<i64>,
}

/// What came of the keys so far.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub rows: Vec<OutRow>,
    pub kept: Vec<Kept>,
    /// New events that are older than what was forgotten.
    pub refused: Vec<At>,
    /// The greatest sequence that was forgotten now.
    pub forgotten: Option<Box<[u8]>>,
    pub forgotten_at: Option<At>,
    pub counts: Counts,
}

/// Counts of one load.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// New events that were judged.
    pub events: u64,
    /// Keys that came, changed, went, or stayed as they were.
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    pub unchanged: u64,
    /// Versions that began and that ended.
    pub opened: u64,
    pub closed: u64,
    /// Ties that only the greater row hash could decide.
    pub ties: u64,
    /// New events older than one that was known for their key.
    pub late: u64,
    /// Keys that are twice in one extract.
    pub twice: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.events += other.events;
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.unchanged += other.unchanged;
        self.opened += other.opened;
        self.closed += other.closed;
        self.ties += other.ties;
        self.late += other.late;
        self.twice += other.twice;
    }
}

/// An event before its sequence has a rank.
struct Raw<'a> {
    first: &'a [u8],
    /// Empty for the end of a row whose whole sequence is not known: before all others of the same first member.
    whole: &'a [u8],
    event: Event,
}

/// A row of the table before the load.
struct Old<'a> {
    at: At,
    from: &'a [u8],
    to: Option<&'a [u8]>,
    hash: u64,
}

impl Rules {
    /// Judges one key, whose rows in the window are `rows`.
    pub fn judge(&self, rows: &[At], window: &Window, out: &mut Outcome) {
        if let [at] = rows
            && self.listed.is_empty()
            && self.forgotten.is_none()
            && self.lone(*at, window, out)
        {
            return;
        }
        let (mut raws, old) = self.events(rows, window, out);
        let due = self.forget(&mut raws, out);
        // what is forgotten with this very load cannot judge its rows any more, either
        let forgotten = self.forgotten.as_deref().max(due);
        self.refuse(&mut raws, forgotten, out);
        self.list(rows[0], &mut raws);
        let raws = ranked(raws);
        let bytes: HashMap<u32, &[u8]> = raws.iter().map(|r| (r.event.first, r.first)).collect();
        let (events, ties) = settle(raws.into_iter().map(|r| r.event).collect());
        out.counts.ties += ties as u64;
        let folded = fold(&events, self.shape, window);
        self.keep(&events, &folded, rows[0], out);
        self.show(&events, folded.versions, &bytes, &old, window, out);
    }

    /// The first event of a key that nobody knows: the most common case by far.
    fn lone(&self, at: At, window: &Window, out: &mut Outcome) -> bool {
        let (page, row) = window.page(at);
        if page.origin.value(row) != NEW || page.op.value(row) == DELETE || page.given(row).is_some() {
            return false;
        }
        out.counts.events += 1;
        out.counts.inserted += 1;
        out.counts.opened += u64::from(self.shape != Shape::Latest);
        out.rows.push(OutRow {
            at,
            each: None,
            sequence: None,
            from: Some(Time::Seq(at)),
            to: None,
            row_hash: super::fold::Values::tracked(window, at),
            deleted: false,
            known: None,
            superseded: false,
        });
        true
    }

    /// Rows to events.
    fn events<'a>(&self, rows: &[At], window: &'a Window, out: &mut Outcome) -> (Vec<Raw<'a>>, Vec<Old<'a>>) {
        let mut raws: Vec<Raw<'a>> = Vec::with_capacity(rows.len() + 2);
        let mut old = vec![];
        let mut newest: Option<&[u8]> = None;
        for at in rows {
            let (page, row) = window.page(*at);
            let (first, whole) = (page.first(row), page.sequence.row(row).data());
            let origin = match page.origin.value(row) {
                VISIBLE => Origin::Visible,
                NEW => Origin::New,
                _ => Origin::Remembered,
            };
            let op = if page.op.value(row) == DELETE { Op::Delete } else { Op::Upsert };
            let given = page.given(row);
            raws.push(Raw { first, whole, event: event(op, origin, *at, Time::Seq(*at), given, window, page.recorded(row)) });
            match origin {
                Origin::Visible => {
                    let to = page.ended(row);
                    newest = newest.max(Some(whole)).max(to);
                    let hash = full_hash(page, row, super::fold::Values::all(window, *at));
                    old.push(Old { at: *at, from: whole, to, hash });
                    if let Some(to) = to {
                        let whole: &[u8] = if self.composite { &[] } else { to };
                        raws.push(Raw {
                            first: to,
                            whole,
                            event: event(Op::Close, Origin::Visible, *at, Time::To(*at), None, window, None),
                        });
                    }
                }
                Origin::New => out.counts.events += 1,
                _ => newest = newest.max(Some(whole)),
            }
        }
        if let Some(newest) = newest {
            out.counts.late += raws.iter().filter(|r| r.event.origin == Origin::New && r.whole < newest).count() as u64;
        }
        (raws, old)
    }

    /// Lets go of what was remembered for long enough: of a key, everything up to the last such event.
    fn forget<'a>(&self, raws: &mut Vec<Raw<'a>>, out: &mut Outcome) -> Option<&'a [u8]> {
        let over = |r: &&Raw<'_>| r.event.origin == Origin::Remembered && r.event.recorded < self.cutoff;
        let (whole, at) = raws.iter().filter(over).map(|r| (r.whole, r.event.at)).max_by_key(|(whole, _)| *whole)?;
        raws.retain(|r| r.event.origin != Origin::Remembered || r.whole > whole);
        if out.forgotten.as_deref().is_none_or(|f| f < whole) {
            out.forgotten = Some(whole.into());
            out.forgotten_at = Some(at);
        }
        Some(whole)
    }

    /// Takes out new events that cannot be judged any more.
    fn refuse(&self, raws: &mut Vec<Raw<'_>>, forgotten: Option<&[u8]>, out: &mut Outcome) {
        let Some(forgotten) = forgotten else { return };
        let judged = |new: &Raw<'_>| {
            if new.whole > forgotten {
                return true;
            }
            let known = raws.iter().filter(|r| r.event.origin != Origin::New);
            if self.shape == Shape::Latest && !self.inherits {
                // whatever was forgotten is older than the row that the table shows
                return known.clone().any(|r| r.event.origin == Origin::Visible || r.whole >= new.whole);
            }
            known.clone().any(|r| {
                let same = r.event.op == Op::Upsert && new.event.op == Op::Upsert && r.event.hash == new.event.hash;
                let gone = r.event.op != Op::Upsert && new.event.op != Op::Upsert;
                (r.whole == new.whole || (r.event.op == Op::Close && r.first == new.first)) && (same || gone)
            })
        };
        let refused: Vec<At> = raws.iter().filter(|r| r.event.origin == Origin::New && !judged(r)).map(|r| r.event.at).collect();
        if !refused.is_empty() {
            raws.retain(|r| r.event.origin != Origin::New || !refused.contains(&r.event.at));
            out.counts.events -= refused.len() as u64;
            out.refused.extend(refused);
        }
    }

    /// Adds the events that hold for every key: truncates, or the extracts that the key is not in.
    fn list<'a>(&'a self, any: At, raws: &mut Vec<Raw<'a>>) {
        let listed = |op, at, i: usize, given, hash| Event {
            seq: 0,
            first: 0,
            op,
            origin: Origin::Listed,
            at,
            time: Time::Listed(i as u32),
            given,
            hash,
            recorded: 0,
        };
        let Some(first_fresh) = self.fresh.iter().position(|f| *f) else {
            for (i, (first, whole)) in self.listed.iter().enumerate() {
                raws.push(Raw { first, whole, event: listed(Op::Delete, any, i, None, 0) });
            }
            return;
        };
        // what was known before, in order: a late extract must not speak for those after it
        let mut known: Vec<Known<'_>> = raws
            .iter()
            .filter(|r| r.event.origin != Origin::New)
            .map(|r| (r.whole, r.event.op, r.event.at, r.event.given.clone(), r.event.hash, r.event.origin))
            .collect();
        // where one row ends and another begins, the beginning holds; what is remembered, before what is shown
        known.sort_by_key(|k| (k.0, k.1 != Op::Close, k.5));
        for i in first_fresh..self.listed.len() {
            let (first, whole) = (&*self.listed[i].0, &*self.listed[i].1);
            if self.fresh[i] {
                if !raws.iter().any(|r| r.event.origin == Origin::New && r.whole == whole) {
                    raws.push(Raw { first, whole, event: listed(Op::Delete, any, i, None, 0) });
                }
            } else if self.fresh[i - 1] && !known.iter().any(|k| k.0 == whole) {
                let before = known.iter().rfind(|k| k.0 < whole);
                let event = match before {
                    Some((_, Op::Upsert, at, given, hash, _)) => listed(Op::Upsert, *at, i, given.clone(), *hash),
                    _ => listed(Op::Delete, any, i, None, 0),
                };
                raws.push(Raw { first, whole, event });
            }
        }
    }

    fn keep(&self, events: &[Event], folded: &Folded, any: At, out: &mut Outcome) {
        for i in &folded.hidden {
            let e = &events[*i];
            let delete = e.op != Op::Upsert;
            out.kept.push(Kept {
                at: if e.origin == Origin::Listed && delete { any } else { e.at },
                time: e.time,
                delete,
                given: e.given.clone(),
                recorded: (e.origin == Origin::Remembered).then_some(e.recorded),
            });
        }
    }

    fn show(
        &self,
        events: &[Event],
        versions: Vec<Version>,
        bytes: &HashMap<u32, &[u8]>,
        old: &[Old<'_>],
        window: &Window,
        out: &mut Outcome,
    ) {
        let mut left: Vec<bool> = vec![true; old.len()];
        let mut current: Vec<bool> = vec![false; old.len()];
        let (mut opened, mut changed) = (0, false);
        let count = versions.len();
        for version in versions {
            let (begins, last) = (&events[version.opened], &events[version.last]);
            let from = window_bytes(begins, window, self);
            let to = version.closed.and_then(|c| bytes.get(&events[c].first).copied());
            let at = if version.deleted { source_row(&version.values, last.at) } else { last.at };
            // a row that stands for several events shows the sequence of the last; once it ends before that, only its own is known
            let moved = last.origin == Origin::Visible && {
                let (page, row) = window.page(last.at);
                page.ended(row) != to && to.is_some_and(|to| page.shown(row).is_none_or(|shown| to <= shown))
            };
            let sequence = match last.time {
                Time::Seq(_) if last.origin != Origin::Visible || moved => Some(last.time),
                _ => None,
            };
            let hash = {
                let values = hash_of(&version.values, window, false);
                match sequence {
                    Some(Time::Seq(own)) => {
                        let (page, row) = window.page(own);
                        values.wrapping_add(page.own_sequence[row])
                    }
                    _ => {
                        let (page, row) = window.page(at);
                        full_hash(page, row, values)
                    }
                }
            };
            let before = old.iter().position(|o| match self.shape {
                Shape::Latest => true,
                Shape::History { .. } => Some(o.from) == from,
            });
            match before {
                None => opened += 1,
                Some(o) if to.is_none() => current[o] = true,
                Some(_) => {}
            }
            let same = old.iter().position(|o| (self.shape == Shape::Latest || Some(o.from) == from) && o.to == to && o.hash == hash);
            if let Some(o) = same {
                left[o] = false;
            } else {
                changed = true;
            }
            out.rows.push(OutRow {
                at,
                each: match version.values {
                    Source::One(_) => None,
                    Source::Each(each) => Some(each),
                },
                sequence,
                // the one row of a key shows its latest event
                from: Some(if self.shape == Shape::Latest { last.time } else { begins.time }),
                to: version.closed.map(|c| events[c].time),
                row_hash: version.tracked,
                deleted: version.deleted,
                known: same.map(|o| old[o].at),
                superseded: false,
            });
        }
        let closed = old.iter().zip(&current).filter(|(o, current)| o.to.is_none() && !**current).count() as u64;
        let gone = left.iter().any(|l| *l);
        if self.shape != Shape::Latest {
            out.counts.opened += opened;
            out.counts.closed += closed;
        }
        match (old.is_empty(), count) {
            (true, 0) => out.counts.unchanged += 1,
            (true, _) => out.counts.inserted += 1,
            (false, 0) => out.counts.deleted += 1,
            (false, _) if changed || gone => out.counts.updated += 1,
            _ => out.counts.unchanged += 1,
        }
        if self.bitemporal {
            for (o, _) in old.iter().zip(left).filter(|(_, left)| *left) {
                let (page, row) = window.page(o.at);
                out.rows.push(OutRow {
                    at: o.at,
                    each: None,
                    sequence: None,
                    from: Some(Time::Seq(o.at)),
                    to: page.ended(row).map(|_| Time::To(o.at)),
                    row_hash: super::fold::Values::tracked(window, o.at),
                    deleted: false,
                    known: Some(o.at),
                    superseded: true,
                });
            }
        }
    }
}

/// The whole sequence at which a version begins.
fn window_bytes<'a>(event: &Event, window: &'a Window, rules: &'a Rules) -> Option<&'a [u8]> {
    match event.time {
        Time::Seq(at) => {
            let (page, row) = window.page(at);
            Some(page.sequence.row(row).data())
        }
        Time::Listed(i) => Some(&rules.listed[i as usize].1),
        Time::To(_) => None,
    }
}

/// Any row that the values stand in, for the key.
fn source_row(source: &Source, otherwise: At) -> At {
    match source {
        Source::One(at) => *at,
        Source::Each(each) => each.iter().flatten().next().copied().unwrap_or(otherwise),
    }
}

fn full_hash(page: &Page, row: usize, values: u64) -> u64 {
    values.wrapping_add(page.stored_sequence[row])
}

fn event(op: Op, origin: Origin, at: At, time: Time, given: Option<Box<[u8]>>, window: &Window, recorded: Option<i64>) -> Event {
    let mut hash = if op == Op::Upsert { super::fold::Values::all(window, at) } else { 0 };
    for byte in given.iter().flatten() {
        hash = hash.rotate_left(8) ^ u64::from(*byte);
    }
    Event { seq: 0, first: 0, op, origin, at, time, given, hash, recorded: recorded.unwrap_or(i64::MAX) }
}

/// Sorts by sequence and gives ranks.
fn ranked(mut raws: Vec<Raw<'_>>) -> Vec<Raw<'_>> {
    raws.sort_by(|a, b| (a.first, a.whole).cmp(&(b.first, b.whole)));
    let (mut seq, mut first) = (0, 0);
    for i in 1..raws.len() {
        if raws[i].first != raws[i - 1].first {
            first += 1;
            seq += 1;
        } else if raws[i].whole != raws[i - 1].whole {
            seq += 1;
        }
        raws[i].event.seq = seq;
        raws[i].event.first = first;
    }
    raws
}

impl Rules {
    /// Judges nothing, forgets what is due; `rows` are remembered events of one key.
    pub fn only_forget(&self, rows: &[At], window: &Window, out: &mut Outcome) {
        let (mut raws, _) = self.events(rows, window, out);
        self.forget(&mut raws, out);
        out.kept.extend(raws.into_iter().map(|r| Kept {
            at: r.event.at,
            time: r.event.time,
            delete: r.event.op != Op::Upsert,
            given: r.event.given,
            recorded: Some(r.event.recorded),
        }));
    }
}
