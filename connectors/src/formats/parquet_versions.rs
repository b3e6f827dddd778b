//! The past of a Parquet table: its history, and what of it nothing needs any more.

use std::collections::{BTreeSet, HashSet};

use futures::{StreamExt, TryStreamExt};
use smelt_engine::error::Result;
use smelt_engine::table::{Garbage, VersionInfo};

use super::checkpoint::{damaged, fetch};
use super::garbage::{self, Kind, Old, named};
use super::parquet::{Kept, Manifest, ParquetFormat, entry};
use super::versions::Versions;

/// The newest `limit` versions, the newest first.
pub(super) async fn history(table: &ParquetFormat, limit: usize) -> Result<Vec<VersionInfo>> {
    let Some(versions) = table.versions().await? else { return Ok(vec![]) };
    let wanted = versions.times.into_iter().rev().take(limit);
    futures::stream::iter(wanted)
        .map(|(version, timestamp)| async move {
            let manifest = read(table, version).await?;
            let did = manifest.did.as_ref();
            Ok(VersionInfo {
                version,
                timestamp,
                files_added: did.map_or(manifest.add.len() as u64, |d| d.files_added),
                files_removed: did.map_or(0, |d| d.files_removed),
                rows_added: Some(did.map_or_else(|| manifest.add.iter().map(|f| f.rows).sum(), |d| d.rows_added)),
                bytes_added: did.map_or_else(|| manifest.add.iter().map(|f| f.bytes).sum(), |d| d.bytes_added),
                data_change: did.is_none_or(|d| d.data_change),
                operation: manifest.operation,
                batch: Some(manifest.batch),
                engine: Some(manifest.engine),
            })
        })
        .buffered(16)
        .try_collect()
        .await
}

async fn read(table: &ParquetFormat, version: u64) -> Result<Manifest> {
    let gone = || damaged(table.location(), &entry(version), "it is gone");
    table.parse(version, &fetch(table.location(), &entry(version)).await?.ok_or_else(gone)?)
}

/// See `TableFormat::garbage`.
pub(super) async fn garbage(table: &ParquetFormat, versions: &Versions, before: i64, keep: &BTreeSet<String>) -> Result<Vec<Garbage>> {
    let old = garbage::old(table.location(), before).await?;
    let first = versions.current_since(before);
    let mut start = read(table, first).await?;
    let full = start.full;
    let (mut files, mut state, mut sidecars) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut note = |manifest: &Manifest| {
        sidecars.extend(manifest.sidecar());
        if let Kept::Inline(checkpoint) = &manifest.checkpoint {
            state.extend(named(checkpoint));
        }
    };
    note(&start);
    files.extend(table.files(&mut start).await?.into_iter().map(|f| f.path));
    for version in first + 1..=versions.newest {
        let manifest = read(table, version).await?;
        note(&manifest);
        files.extend(manifest.add.into_iter().map(|f| f.path));
    }
    if old.iter().any(|o| o.kind == Kind::State) {
        state.extend(garbage::state_files(table.location(), &sidecars).await?);
    }
    let needed = |o: &Old| match o.kind {
        Kind::Data => files.contains(&o.path),
        Kind::State => state.contains(&o.path),
        Kind::Sidecar(sequence, attempt) => sidecars.contains(&(sequence, attempt)),
        Kind::Manifest(version) => version >= full,
    };
    Ok(garbage::left(old, needed, keep))
}
