//! The checkpoint of a table as bytes: what it has taken in so far. Each one is an immutable object below
//! `_smelt/checkpoints`, written before the commit that refers to it; one that no commit refers to means nothing. What makes it long, the
//! consumed files, lies in objects of its own (see `consumed`).

use bytes::Bytes;
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};
use smelt_engine::error::{Error, Result};
use smelt_engine::table::Checkpoint;

use super::consumed;
use crate::stores::Location;

/// Version of everything that Smelt writes beside the data. A higher one is refused, never guessed.
/// 2: the checkpoint names the unsettled quarantine files of several batches and the segments of long lists of consumed files, which
/// readers of 1 would lose.
pub(super) const FORMAT: u32 = 2;
/// Checkpoints up to this many bytes of JSON may lie in the commit itself, where the format has a place for them.
pub(super) const INLINE: usize = 4096;
pub(super) const FOLDER: &str = "_smelt/checkpoints";

#[derive(Serialize)]
struct Storing<'a> {
    format: u32,
    checkpoint: &'a Checkpoint,
}

#[derive(Deserialize)]
struct Stored {
    checkpoint: Checkpoint,
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// A number that names one attempt to commit: two attempts never share one.
pub(super) fn attempt() -> u64 {
    // Delta keeps it as a signed long.
    (uuid::Uuid::new_v4().as_u128() as u64) >> 1
}

/// The path below the table of the sidecar that attempt `id` wrote.
pub(super) fn sidecar(sequence: u64, id: u64) -> String {
    format!("{FOLDER}/{sequence:020}-{id:016x}.json.zst")
}

/// Writes the sidecar of attempt `id`.
pub(super) async fn write(table: &Location, checkpoint: &Checkpoint, id: u64) -> Result<()> {
    let checkpoint = &Checkpoint { files: consumed::settle(table, checkpoint).await?, ..checkpoint.clone() };
    let json = serde_json::to_vec(&Storing { format: FORMAT, checkpoint })
        .map_err(|e| Error::bug(format!("checkpoint of {}: {e}", table.display)))?;
    let packed = zstd::bulk::compress(&json, 1)?;
    let path = table.path(&sidecar(checkpoint.sequence, id))?;
    table.store.put(&path, packed.into()).await?;
    Ok(())
}

/// Reads a sidecar that the newest commit refers to.
pub(super) async fn read(table: &Location, sequence: u64, id: u64) -> Result<Checkpoint> {
    find(table, sequence, id).await?.ok_or_else(|| {
        Error::data(
            format!("{} says that its checkpoint is {}, which is gone", table.display, sidecar(sequence, id)),
            "restore the object from a backup or versioning; without it, what was consumed is unknown and only --full-refresh is safe",
        )
    })
}

/// Reads a sidecar that a commit refers to; `None` where it is gone, as those of old versions may be.
pub(super) async fn find(table: &Location, sequence: u64, id: u64) -> Result<Option<Checkpoint>> {
    let relative = sidecar(sequence, id);
    let Some(packed) = fetch(table, &relative).await? else { return Ok(None) };
    let json = zstd::stream::decode_all(packed.as_ref()).map_err(|e| damaged(table, &relative, e))?;
    supported(table, &relative, &json)?;
    let stored: Stored = serde_json::from_slice(&json).map_err(|e| damaged(table, &relative, e))?;
    Ok(Some(stored.checkpoint))
}

/// Refuses what a newer Smelt wrote.
pub(super) fn supported(table: &Location, object: &str, json: &[u8]) -> Result<()> {
    let head: Head = serde_json::from_slice(json).map_err(|e| damaged(table, object, e))?;
    if head.format > FORMAT {
        return Err(Error::data(
            format!("{} was written by a newer Smelt: {object} has format {}, this one knows up to {FORMAT}", table.display, head.format),
            "update smelt; nothing was changed",
        ));
    }
    Ok(())
}

/// An object of ours that is not what we wrote.
pub(super) fn damaged(table: &Location, object: &str, e: impl std::fmt::Display) -> Error {
    Error::data(format!("{object} of {} cannot be read: {e}", table.display), "restore the object from a backup or versioning")
}

/// The bytes of an object, or `None` where there is none.
pub(super) async fn fetch(table: &Location, relative: &str) -> Result<Option<Bytes>> {
    match table.store.get(&table.path(relative)?).await {
        Ok(found) => Ok(Some(found.bytes().await?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
