//! What lies below a table's root, by what it is, and how it is removed. Which of it is garbage, the formats say.
//!
//! Only objects that Smelt or a writer of Parquet files makes are ever looked at: what else lies there is somebody's, and stays.

use std::collections::{BTreeSet, HashSet};

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use smelt_engine::error::Result;
use smelt_engine::table::{Checkpoint, Garbage};

use super::{checkpoint, consumed, purge};
use crate::stores::Location;

/// An object that was last written before the time asked for.
#[derive(Debug)]
pub(super) struct Old {
    pub path: String,
    pub bytes: u64,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    /// Below `_smelt/state/` or `_smelt/consumed/`: what a checkpoint names.
    State,
    /// A checkpoint of ours: sequence and attempt.
    Sidecar(u64, u64),
    /// A manifest of a Parquet table.
    Manifest(u64),
}

/// All objects that were written before `before`, milliseconds since the epoch, and that may be garbage.
pub(super) async fn old(table: &Location, before: i64) -> Result<Vec<Old>> {
    let root = table.path("")?;
    let mut found = vec![];
    let mut objects = table.store.list(Some(&root));
    while let Some(object) = objects.try_next().await? {
        if object.last_modified.timestamp_millis() >= before {
            continue;
        }
        let Some(path) = object.location.as_ref().strip_prefix(root.as_ref()).map(|p| p.trim_start_matches('/')) else { continue };
        if let Some(kind) = kind(path) {
            found.push(Old { path: path.to_owned(), bytes: object.size, kind });
        }
    }
    Ok(found)
}

fn kind(path: &str) -> Option<Kind> {
    if let Some(name) = path.strip_prefix("_smelt/") {
        return match name.split_once('/')? {
            ("state" | "consumed", _) => Some(Kind::State),
            ("checkpoints", name) => {
                let (sequence, attempt) = name.strip_suffix(".json.zst")?.split_once('-')?;
                Some(Kind::Sidecar(sequence.parse().ok()?, u64::from_str_radix(attempt, 16).ok()?))
            }
            ("versions", name) => Some(Kind::Manifest(name.strip_suffix(".json")?.parse().ok()?)),
            _ => None,
        };
    }
    // As Delta has it: what begins with `_` or `.` is hidden, unless it is the folder of a partition.
    let hidden = path.split('/').any(|part| part.starts_with(['_', '.']) && !part.contains('='));
    (!hidden && path.ends_with(".parquet")).then_some(Kind::Data)
}

/// The state files that these sidecars name.
pub(super) async fn state_files(table: &Location, sidecars: &HashSet<(u64, u64)>) -> Result<HashSet<String>> {
    futures::stream::iter(sidecars.iter().copied())
        .map(|(sequence, id)| async move { checkpoint::find(table, sequence, id).await })
        .buffer_unordered(8)
        .try_fold(HashSet::new(), |mut all, taken| async move {
            all.extend(taken.iter().flat_map(named));
            Ok(all)
        })
        .await
}

/// Paths of the state files and the lists of consumed files that a checkpoint names.
pub(super) fn named(checkpoint: &Checkpoint) -> impl Iterator<Item = String> + '_ {
    let state = checkpoint.state.iter().flat_map(|state| &state.files).map(|f| f.path.clone());
    state.chain(checkpoint.files.segments().map(|segment| consumed::object(&segment.name)))
}

/// What is left of `old` when what is needed is taken out, in the order in which it should go: manifests first, so that a vacuum which
/// is killed leaves data without a manifest, which the next one finds, and not the reverse.
pub(super) fn left(old: Vec<Old>, needed: impl Fn(&Old) -> bool, keep: &BTreeSet<String>) -> Vec<Garbage> {
    let mut left: Vec<Old> = old.into_iter().filter(|o| !keep.contains(&o.path) && !needed(o)).collect();
    left.sort_by_key(|o| !matches!(o.kind, Kind::Manifest(_)));
    left.into_iter().map(|o| Garbage { path: o.path, bytes: o.bytes }).collect()
}

/// Removes objects below `table`. One that is gone already is no error.
pub async fn sweep(table: &Location, garbage: &[Garbage]) -> Result<()> {
    let paths = garbage.iter().map(|g| table.path(&g.path)).collect::<Result<Vec<_>>>()?;
    let mut gone = table.store.delete_stream(futures::stream::iter(paths.clone().into_iter().map(Ok)).boxed());
    while let Some(one) = gone.next().await {
        match one {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    purge::tidy(table, &paths);
    Ok(())
}

/// Which of these paths below `table` are not there any more.
pub async fn missing<'a>(table: &Location, paths: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let mut wanted: HashSet<&str> = paths.collect();
    if wanted.is_empty() {
        return Ok(vec![]);
    }
    let root = table.path("")?;
    let mut objects = table.store.list(Some(&root));
    while let Some(object) = objects.try_next().await? {
        if let Some(path) = object.location.as_ref().strip_prefix(root.as_ref()) {
            wanted.remove(path.trim_start_matches('/'));
        }
    }
    let mut missing: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
    missing.sort();
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_writers_make_is_looked_at() {
        assert_eq!(kind("part-1.zstd.parquet"), Some(Kind::Data));
        assert_eq!(kind("data/1-x/_day=2026-01-01/part.parquet"), Some(Kind::Data));
        assert_eq!(kind("_smelt/state/a.parquet"), Some(Kind::State));
        assert_eq!(kind("_smelt/consumed/a.zst"), Some(Kind::State));
        assert_eq!(kind("_smelt/checkpoints/00000000000000000007-00000000000000ff.json.zst"), Some(Kind::Sidecar(7, 255)));
        assert_eq!(kind("_smelt/versions/00000000000000000007.json"), Some(Kind::Manifest(7)));
        for other in [
            "_delta_log/00000000000000000007.checkpoint.parquet",
            "README.md",
            "_smelt/current.json",
            "a/.tmp/x.parquet",
            "_smelt/receipts/x.parquet",
        ] {
            assert_eq!(kind(other), None, "{other}");
        }
    }
}
