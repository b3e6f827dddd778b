//! The batches that a table has published. A repeated id must be known for ever: the newest are kept as they are, older ones as 8 bytes
//! each (a chance of one in 10^13 that a new id of a table with a million batches is taken for a repeated one).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::table::BatchId;

/// Ids that are kept whole.
const WHOLE: usize = 1000;

/// The ids of all published batches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Batches {
    /// The newest last.
    recent: Vec<BatchId>,
    /// Hashes of those before, sorted.
    older: Vec<u64>,
}

/// A plain list for most tables.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    List(Vec<BatchId>),
    Folded { recent: Vec<BatchId>, older: String },
}

impl Batches {
    /// Whether a batch of this id was published.
    pub fn contains(&self, batch: &BatchId) -> bool {
        self.recent.iter().rev().any(|b| b == batch) || (!self.older.is_empty() && self.older.binary_search(&hash(batch)).is_ok())
    }

    pub fn push(&mut self, batch: BatchId) {
        self.recent.push(batch);
        if self.recent.len() > WHOLE {
            let old = hash(&self.recent.remove(0));
            if let Err(at) = self.older.binary_search(&old) {
                self.older.insert(at, old);
            }
        }
    }

    /// The newest.
    pub fn last(&self) -> Option<&BatchId> {
        self.recent.last()
    }

    /// The newest ones, as many as are kept whole, the newest last.
    pub fn iter(&self) -> std::slice::Iter<'_, BatchId> {
        self.recent.iter()
    }

    pub fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }

    pub fn is_empty(&self) -> bool {
        self.recent.is_empty()
    }

    /// Those that this list has more than `base`, oldest first.
    pub fn added(&self, base: &Batches) -> Vec<BatchId> {
        self.recent.iter().filter(|b| !base.contains(b)).cloned().collect()
    }
}

fn hash(batch: &BatchId) -> u64 {
    Sha256::digest(batch.0.as_bytes()).iter().take(8).fold(0, |n, byte| (n << 8) | u64::from(*byte))
}

impl TryFrom<Stored> for Batches {
    type Error = base64::DecodeError;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        Ok(match stored {
            Stored::List(recent) => {
                let mut batches = Batches::default();
                recent.into_iter().for_each(|b| batches.push(b));
                batches
            }
            Stored::Folded { recent, older } => {
                let bytes = STANDARD.decode(older)?;
                let older = bytes.chunks_exact(8).filter_map(|c| c.try_into().ok()).map(u64::from_le_bytes).collect();
                Batches { recent, older }
            }
        })
    }
}

impl From<Batches> for Stored {
    fn from(batches: Batches) -> Self {
        if batches.older.is_empty() {
            return Stored::List(batches.recent);
        }
        let bytes: Vec<u8> = batches.older.iter().flat_map(|h| h.to_le_bytes()).collect();
        Stored::Folded { recent: batches.recent, older: STANDARD.encode(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_known_for_ever() {
        let id = |i: usize| BatchId(format!("batch-{i}"));
        let mut batches = Batches::default();
        for i in 0..2500 {
            assert!(!batches.contains(&id(i)));
            batches.push(id(i));
        }
        let json = serde_json::to_string(&batches).unwrap();
        let back: Batches = serde_json::from_str(&json).unwrap();
        assert_eq!(back, batches);
        assert!((0..2500).all(|i| back.contains(&id(i))) && !back.contains(&id(2500)));
        assert_eq!((back.len(), back.iter().len(), back.last()), (2500, 1000, Some(&id(2499))));
    }

    #[test]
    fn short_lists_are_plain_and_old_ones_are_read() {
        let batches: Batches = serde_json::from_str(r#"["a", "b"]"#).unwrap();
        assert_eq!(serde_json::to_string(&batches).unwrap(), r#"["a","b"]"#);
        let mut more = batches.clone();
        more.push(BatchId("c".into()));
        assert_eq!(more.added(&batches), [BatchId("c".into())]);
    }
}
