//! One immutable list of consumed files as bytes: sorted by path, paths without what they share with the one before, and in
//! blocks, so that one path is found without reading the rest. Knows bytes only; where they lie is the formats' affair.
//!
//! ```text
//! magic | block … | offset of each block: u32 | blocks: u32 | entries: u64        (little-endian)
//! block: up to 16 entries; entry: shared length, length, bytes of the path (varints), digest: u64
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Digest;

const MAGIC: &[u8; 8] = b"smeltcf1";
/// Entries of a block: the first holds its whole path, so that blocks can be searched.
const BLOCK: u64 = 16;
const TRAILER: usize = 12;

/// Makes the bytes of one list; paths must come in ascending order.
#[derive(Debug)]
pub(super) struct Encoder {
    bytes: Vec<u8>,
    blocks: Vec<u32>,
    pub entries: u64,
    pub first: String,
    pub last: String,
}

impl Encoder {
    pub fn new() -> Self {
        Encoder { bytes: MAGIC.to_vec(), blocks: vec![], entries: 0, first: String::new(), last: String::new() }
    }

    pub fn push(&mut self, path: String, digest: Digest) {
        let shared = if self.entries.is_multiple_of(BLOCK) {
            self.blocks.push(self.bytes.len() as u32);
            0
        } else {
            path.bytes().zip(self.last.bytes()).take_while(|(a, b)| a == b).count()
        };
        varint(&mut self.bytes, shared);
        varint(&mut self.bytes, path.len() - shared);
        self.bytes.extend_from_slice(&path.as_bytes()[shared..]);
        self.bytes.extend_from_slice(&digest.0.to_le_bytes());
        if self.entries == 0 {
            self.first.clone_from(&path);
        }
        self.last = path;
        self.entries += 1;
    }

    /// Whether offsets still fit; a list must end before they do not.
    pub fn is_full(&self, largest: u64) -> bool {
        self.entries >= largest || self.bytes.len() > (u32::MAX / 2) as usize
    }

    pub fn finish(mut self) -> Vec<u8> {
        for block in &self.blocks {
            self.bytes.extend_from_slice(&block.to_le_bytes());
        }
        self.bytes.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&self.entries.to_le_bytes());
        self.bytes
    }
}

/// One list in memory, as it is stored: some 20 bytes a file.
#[derive(Debug)]
pub(super) struct Rows {
    bytes: Vec<u8>,
    blocks: Vec<u32>,
    entries: u64,
    /// Where the entries end and the offsets begin.
    end: usize,
    /// The block of the last path asked for: listings come sorted, so the next one is mostly there.
    hint: AtomicUsize,
}

impl Rows {
    /// `None` where the bytes are not a list.
    pub fn decode(bytes: Vec<u8>) -> Option<Self> {
        let trailer = bytes.len().checked_sub(TRAILER)?;
        let count = u32::from_le_bytes(bytes.get(trailer..trailer + 4)?.try_into().ok()?) as usize;
        let entries = u64::from_le_bytes(bytes.get(trailer + 4..)?.try_into().ok()?);
        let end = trailer.checked_sub(count.checked_mul(4)?)?;
        let offsets = bytes.get(end..trailer)?;
        let blocks: Vec<u32> = offsets.chunks_exact(4).map(|c| c.try_into().map(u32::from_le_bytes)).collect::<Result<_, _>>().ok()?;
        let rows = Rows { bytes, blocks, entries, end, hint: AtomicUsize::new(0) };
        (rows.bytes.starts_with(MAGIC) && rows.is_sound()).then_some(rows)
    }

    /// Walks all entries: later reads cannot fail.
    fn is_sound(&self) -> bool {
        let (mut at, mut key, mut before) = (MAGIC.len(), vec![], vec![]);
        for i in 0..self.entries {
            let block = (i / BLOCK) as usize;
            if i.is_multiple_of(BLOCK) && self.blocks.get(block).is_none_or(|b| *b as usize != at) {
                return false;
            }
            std::mem::swap(&mut key, &mut before);
            key.clone_from(&before);
            match self.entry(at, &mut key) {
                Some((_, next)) if (i == 0 || key > before) && std::str::from_utf8(&key).is_ok() => at = next,
                _ => return false,
            }
        }
        at == self.end && self.blocks.len() as u64 == self.entries.div_ceil(BLOCK)
    }

    /// What the list holds for `path`.
    pub fn find(&self, path: &str) -> Option<Digest> {
        let path = path.as_bytes();
        let count = self.blocks.len();
        let holds = |block: usize| {
            self.key(block).is_some_and(|k| k <= path) && (block + 1 == count || self.key(block + 1).is_some_and(|k| path < k))
        };
        let hint = self.hint.load(Ordering::Relaxed);
        let block = match (hint..count.min(hint + 2)).find(|b| holds(*b)) {
            Some(block) => block,
            None => {
                let (mut low, mut high) = (0, count);
                while low < high {
                    let middle = (low + high) / 2;
                    if self.key(middle).is_some_and(|k| k <= path) { low = middle + 1 } else { high = middle }
                }
                low.checked_sub(1)?
            }
        };
        self.hint.store(block, Ordering::Relaxed);
        let mut at = *self.blocks.get(block)? as usize;
        let end = self.blocks.get(block + 1).map_or(self.end, |b| *b as usize);
        let mut key = Vec::with_capacity(path.len() + 32);
        while at < end {
            let (digest, next) = self.entry(at, &mut key)?;
            match key.as_slice().cmp(path) {
                std::cmp::Ordering::Less => at = next,
                std::cmp::Ordering::Equal => return Some(digest),
                std::cmp::Ordering::Greater => return None,
            }
        }
        None
    }

    /// The first path of a block.
    fn key(&self, block: usize) -> Option<&[u8]> {
        let at = *self.blocks.get(block)? as usize;
        let (_, at) = self.varint(at)?;
        let (length, at) = self.varint(at)?;
        self.bytes.get(at..at + length)
    }

    /// Reads the entry at `at`; `key` holds the path before it, and then its own. Gives its digest and where the next one starts.
    fn entry(&self, at: usize, key: &mut Vec<u8>) -> Option<(Digest, usize)> {
        let (shared, at) = self.varint(at)?;
        let (length, at) = self.varint(at)?;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        let end = at.checked_add(length)?;
        key.extend_from_slice(self.bytes.get(at..end)?);
        let digest = self.bytes.get(end..end + 8)?.try_into().ok()?;
        (end + 8 <= self.end).then_some((Digest(u64::from_le_bytes(digest)), end + 8))
    }

    fn varint(&self, mut at: usize) -> Option<(usize, usize)> {
        let mut value = 0_usize;
        for shift in (0..35).step_by(7) {
            let byte = *self.bytes.get(at)?;
            at += 1;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some((value, at));
            }
        }
        None
    }
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The entries of a list in order.
#[derive(Debug)]
pub(super) struct Entries {
    rows: Arc<Rows>,
    at: usize,
    key: Vec<u8>,
}

impl Entries {
    pub fn new(rows: Arc<Rows>) -> Self {
        Entries { rows, at: MAGIC.len(), key: vec![] }
    }
}

impl Iterator for Entries {
    type Item = (String, Digest);

    fn next(&mut self) -> Option<(String, Digest)> {
        if self.at >= self.rows.end {
            return None;
        }
        let (digest, next) = self.rows.entry(self.at, &mut self.key)?;
        self.at = next;
        Some((String::from_utf8_lossy(&self.key).into_owned(), digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(paths: &[String]) -> Vec<u8> {
        let mut encoder = Encoder::new();
        for (i, path) in paths.iter().enumerate() {
            encoder.push(path.clone(), Digest(i as u64 + 1));
        }
        encoder.finish()
    }

    #[test]
    fn every_path_is_found_and_no_other() {
        for count in [0, 1, 15, 16, 17, 1000] {
            let paths: Vec<String> = (0..count).map(|i| format!("raw/day={:02}/part-{i:05}.csv", i / 100)).collect();
            let rows = Arc::new(Rows::decode(encoded(&paths)).unwrap());
            assert_eq!(rows.entries, count);
            for (i, path) in paths.iter().enumerate() {
                assert_eq!(rows.find(path), Some(Digest(i as u64 + 1)), "{path}");
                assert_eq!(rows.find(&format!("{path}x")), None);
            }
            for path in ["", "a", "raw/day=99", "zzz"] {
                assert_eq!(rows.find(path), None);
            }
            // in any order: the hint only helps
            for (i, path) in paths.iter().enumerate().rev().step_by(7) {
                assert_eq!(rows.find(path), Some(Digest(i as u64 + 1)));
            }
            assert_eq!(Entries::new(rows).map(|(path, _)| path).collect::<Vec<_>>(), paths);
        }
    }

    #[test]
    fn damaged_bytes_are_no_list() {
        let paths: Vec<String> = (0..50).map(|i| format!("p/{i:03}")).collect();
        let good = encoded(&paths);
        assert!(Rows::decode(vec![]).is_none());
        for cut in [1, 8, 12, 20, good.len() - 9] {
            assert!(Rows::decode(good[..good.len() - cut].to_vec()).is_none(), "cut by {cut}");
        }
        let mut other = good.clone();
        other[0] = b'x';
        assert!(Rows::decode(other).is_none());
        let mut longer = good.clone();
        longer[9] = 0x7f; // the first path's length
        assert!(Rows::decode(longer).is_none());
    }
}
