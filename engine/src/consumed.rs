//! Which input files a table has taken in, for tables that have seen millions of them.
//!
//! A small head (`recent`) lies in the table's checkpoint; the bulk lies in immutable, sorted segments that the checkpoint names,
//! each an object of its own. A commit that adds few files rewrites the head only; when that grows too long it becomes a segment, and
//! segments of like size are merged, so that there are few of them and each file is rewritten a few times in its life. The head wins
//! over segments, newer segments over older ones. This room knows no store: the formats fetch segments and write them.
//!
//! Only a digest of a file's mark is kept, 8 bytes: enough to tell whether the file is the one that was taken in.

mod segment;

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::table::FileMark;

use segment::{Encoder, Entries, Rows};

/// Files that the head may hold before it becomes a segment.
const HEAD: usize = 256;
/// A segment is merged with the newer ones as long as it is at most this many times their size.
const RATIO: u64 = 4;
/// Files of the largest segment; it is not merged any more. Bounds what one commit rewrites, to some 20 MB.
const LARGEST: u64 = 1 << 20;

/// What is known about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    New,
    /// Taken in, in this state.
    Same,
    /// Taken in, in another state.
    Changed,
}

/// How the lists of two loads go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebased {
    /// The files of both.
    Both(Consumed),
    /// Both took this file, or forgot it.
    Twice(String),
    /// The list was made anew.
    Forgot,
}

/// A file's mark in 8 bytes: a flag for an etag, 31 bits of size and etag, 32 bits of size and time. Stored; never change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(u64);

/// Which files were consumed, and in which state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Consumed {
    /// Oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    segments: Vec<Segment>,
    recent: BTreeMap<String, Digest>,
    /// Segments that are no longer part of the list, and the checkpoint's sequence since which; readers of old versions may want them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    retired: BTreeMap<String, u64>,
}

/// One immutable part of the list. Its rows are there once they were fetched; clones share them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Segment {
    /// Of the object: the sequence that made it and a hash of its content.
    pub name: String,
    pub files: u64,
    /// The smallest and the largest path.
    first: String,
    last: String,
    #[serde(skip)]
    rows: Arc<OnceLock<Arc<Rows>>>,
}

impl Digest {
    const GONE: Digest = Digest(0);
    const ETAG: u64 = 1 << 63;
    const TIME: u64 = 0xffff_ffff;

    /// The digest of a mark.
    pub fn of(mark: &FileMark) -> Self {
        let size = mark.size.to_le_bytes();
        let time = hash(&[&size, &mark.modified.to_le_bytes()]) & Self::TIME;
        let digest = match &mark.etag {
            Some(etag) => Self::ETAG | (hash(&[&size, etag.as_bytes()]) >> 33 << 32) | time,
            None => time,
        };
        Digest(digest.max(1))
    }

    /// Equal marks mean equal bytes. An etag decides where both have one; a copy in place can keep size and time.
    fn same(self, other: Digest) -> bool {
        let differs = self.0 ^ other.0;
        if self.0 & other.0 & Self::ETAG != 0 { differs & !Self::TIME == 0 } else { differs & Self::TIME == 0 }
    }

    fn present(self) -> Option<Digest> {
        (self != Self::GONE).then_some(self)
    }
}

/// FNV-1a with a finalizer: even and fixed for all time; nobody gains from a collision.
fn hash(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|p| p.iter());
    let mut h = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3));
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

impl Segment {
    /// Takes what was fetched for this segment.
    ///
    /// # Errors
    /// What is wrong, where the bytes are not what was written.
    pub fn fill(&self, bytes: Vec<u8>) -> Result<(), &'static str> {
        if self.name.rsplit('-').next() != Some(content(&bytes).as_str()) {
            return Err("its content is not what its name says");
        }
        let rows = Rows::decode(bytes).ok_or("it is not a list of files")?;
        let _ = self.rows.set(Arc::new(rows)); // another clone was faster: the same bytes
        Ok(())
    }

    /// Whether its rows are there.
    pub fn is_loaded(&self) -> bool {
        self.rows.get().is_some()
    }

    fn rows(&self) -> Result<&Arc<Rows>> {
        self.rows.get().ok_or_else(|| Error::bug(format!("the list of consumed files {} was not fetched", self.name)))
    }

    fn overlaps(&self, prefix: &str) -> bool {
        self.last.as_str() >= prefix && (self.first.as_str() <= prefix || self.first.starts_with(prefix))
    }
}

impl PartialEq for Segment {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Segment {}

fn content(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..8])
}

impl Consumed {
    /// Nothing was ever taken in.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.recent.is_empty()
    }

    /// About how many files; those that are both in the head and in segments count twice.
    pub fn len_hint(&self) -> u64 {
        self.segments.iter().map(|s| s.files).sum::<u64>() + self.recent.len() as u64
    }

    pub fn insert(&mut self, path: impl Into<String>, mark: &FileMark) {
        self.recent.insert(path.into(), Digest::of(mark));
    }

    pub fn remove(&mut self, path: &str) {
        // not just left out: segments may have it, and so may the list of a load side by side
        self.recent.insert(path.to_owned(), Digest::GONE);
    }

    /// Forgets all files.
    pub fn clear(&mut self) {
        self.recent.clear();
        // stamped with the sequence of the commit when that is written
        self.retired.extend(self.segments.drain(..).map(|s| (s.name, u64::MAX)));
    }

    /// Whether `path` was taken in, in this state. The segments that may hold the path must have been fetched: see [`missing`](Self::missing).
    pub fn seen(&self, path: &str, mark: &FileMark) -> Result<Seen> {
        Ok(match self.get(path)? {
            None => Seen::New,
            Some(known) if known.same(Digest::of(mark)) => Seen::Same,
            Some(_) => Seen::Changed,
        })
    }

    fn get(&self, path: &str) -> Result<Option<Digest>> {
        if let Some(digest) = self.recent.get(path) {
            return Ok(digest.present());
        }
        for segment in self.segments.iter().rev().filter(|s| s.first.as_str() <= path && path <= s.last.as_str()) {
            if let Some(digest) = segment.rows()?.find(path) {
                return Ok(digest.present());
            }
        }
        Ok(None)
    }

    /// All paths in order. Every segment must have been fetched.
    pub fn paths(&self) -> Result<impl Iterator<Item = String> + '_> {
        Ok(merged(&self.segments, &self.recent)?.filter(|(_, digest)| digest.present().is_some()).map(|(path, _)| path))
    }

    /// Segments that may hold paths below any of `prefixes` (`""`: any path) and were not fetched yet.
    pub fn missing<'a>(&'a self, prefixes: &'a [String]) -> impl Iterator<Item = &'a Segment> {
        self.segments.iter().filter(move |s| !s.is_loaded() && prefixes.iter().any(|p| s.overlaps(p)))
    }

    /// Segments of this list, by name.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    /// Whether the object of a segment may still be wanted by a reader of a version since sequence `since`.
    pub fn wants(&self, name: &str, since: u64) -> bool {
        self.segments.iter().any(|s| s.name == name) || self.retired.get(name).is_some_and(|at| *at >= since)
    }

    /// This list, which a load made from `base`, on top of `theirs`, which another load made from it and published first. What `base`
    /// and `theirs` know of the [`added`](Self::added) files must have been fetched; this list must not have been settled.
    pub fn rebased(&self, base: &Consumed, theirs: &Consumed) -> Result<Rebased> {
        let Some(added) = self.added(base) else { return Ok(Rebased::Forgot) };
        for (path, _) in &added {
            if theirs.get(path)? != base.get(path)? {
                return Ok(Rebased::Twice(path.clone()));
            }
        }
        let mut both = theirs.clone();
        both.recent.extend(added);
        Ok(Rebased::Both(both))
    }

    /// What this list has more than `base`, from which it was made by `insert` and `remove` alone; `None` where more was done to it.
    /// Before it is settled, these are the files of one load.
    pub fn added(&self, base: &Consumed) -> Option<Vec<(String, Digest)>> {
        if self.segments != base.segments || base.recent.keys().any(|path| !self.recent.contains_key(path)) {
            return None;
        }
        let news = self.recent.iter().filter(|(path, digest)| base.recent.get(*path) != Some(digest));
        Some(news.map(|(path, digest)| (path.clone(), *digest)).collect())
    }

    /// Whether a commit has to write segments; then those in `merging` must be fetched before [`settle`](Self::settle).
    pub fn merging(&self) -> &[Segment] {
        &self.segments[self.kept(HEAD).unwrap_or(self.segments.len())..]
    }

    /// Moves a head that has grown too long into segments, for the commit of `sequence`. Gives the objects to write before the commit:
    /// name and bytes.
    pub fn settle(&mut self, sequence: u64) -> Result<Vec<(String, Vec<u8>)>> {
        self.settle_above(HEAD, sequence)
    }

    /// Segments, from the oldest, that stay as they are; `None` where the head is short.
    fn kept(&self, head: usize) -> Option<usize> {
        let mut size = self.recent.len() as u64;
        if size <= head as u64 {
            return None;
        }
        let mut kept = self.segments.len();
        while let Some(older) = kept.checked_sub(1).and_then(|i| self.segments.get(i))
            && older.files <= size * RATIO
            && older.files + size <= LARGEST
        {
            size += older.files;
            kept -= 1;
        }
        Some(kept)
    }

    fn settle_above(&mut self, head: usize, sequence: u64) -> Result<Vec<(String, Vec<u8>)>> {
        for at in self.retired.values_mut().filter(|at| **at == u64::MAX) {
            *at = sequence;
        }
        let Some(kept) = self.kept(head) else { return Ok(vec![]) };
        let mut made = vec![];
        let mut objects = vec![];
        {
            let mut entries = merged(&self.segments[kept..], &self.recent)?.filter(|(_, d)| kept > 0 || d.present().is_some()).peekable();
            while entries.peek().is_some() {
                let mut encoder = Encoder::new();
                while !encoder.is_full(LARGEST)
                    && let Some((path, digest)) = entries.next()
                {
                    encoder.push(path, digest);
                }
                let (files, first, last) = (encoder.entries, encoder.first.clone(), encoder.last.clone());
                let bytes = encoder.finish();
                let name = format!("{sequence:020}-{}", content(&bytes));
                made.push(Segment { name: name.clone(), files, first, last, rows: Arc::default() });
                objects.push((name, bytes));
            }
        }
        self.retired.extend(self.segments.drain(kept..).map(|s| (s.name, sequence)));
        self.retired.retain(|_, at| *at + RETIRED >= sequence);
        self.segments.append(&mut made);
        self.recent.clear();
        Ok(objects)
    }
}

/// For how many commits a segment that is not needed any more is remembered.
const RETIRED: u64 = 1000;

type Boxed<'a> = Box<dyn Iterator<Item = (String, Digest)> + 'a>;

/// The entries of segments and a head in order of their paths, each path once, as the newest has it.
fn merged<'a>(segments: &[Segment], recent: &'a BTreeMap<String, Digest>) -> Result<Boxed<'a>> {
    let mut all: Boxed<'a> = Box::new(std::iter::empty());
    for segment in segments {
        all =
            Box::new(Merge { older: all.peekable(), newer: (Box::new(Entries::new(Arc::clone(segment.rows()?))) as Boxed<'a>).peekable() });
    }
    let head: Boxed<'a> = Box::new(recent.iter().map(|(path, digest)| (path.clone(), *digest)));
    Ok(Box::new(Merge { older: all.peekable(), newer: head.peekable() }))
}

struct Merge<'a> {
    older: Peekable<Boxed<'a>>,
    newer: Peekable<Boxed<'a>>,
}

impl Iterator for Merge<'_> {
    type Item = (String, Digest);

    fn next(&mut self) -> Option<(String, Digest)> {
        match (self.older.peek(), self.newer.peek()) {
            (Some((older, _)), Some((newer, _))) if older < newer => self.older.next(),
            (Some((older, _)), Some((newer, _))) if older == newer => {
                self.older.next();
                self.newer.next()
            }
            (_, Some(_)) => self.newer.next(),
            (_, None) => self.older.next(),
        }
    }
}

/// Reads both forms: ours, and the maps from source and path to the whole mark that the first version wrote.
impl<'de> Deserialize<'de> for Consumed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Now {
            #[serde(default)]
            segments: Vec<Segment>,
            #[serde(default)]
            recent: BTreeMap<String, Digest>,
            #[serde(default)]
            retired: BTreeMap<String, u64>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            Now(Now),
            Old(BTreeMap<String, BTreeMap<String, FileMark>>),
        }
        Ok(match Stored::deserialize(deserializer)? {
            Stored::Now(Now { segments, recent, retired }) => Consumed { segments, recent, retired },
            Stored::Old(sources) => {
                let mut consumed = Consumed::default();
                for (path, mark) in sources.into_values().flatten() {
                    consumed.insert(path, &mark);
                }
                consumed
            }
        })
    }
}

#[cfg(test)]
mod tests;
