//! Lists of consumed files as objects: the segments of [`Consumed`] below `_smelt/consumed`, each immutable and written before the
//! checkpoint that names it. A snapshot does without them; who wants to know what is new fetches those that can hold it.

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use smelt_engine::consumed::{Consumed, Segment};
use smelt_engine::error::{Error, Result};
use smelt_engine::table::Checkpoint;

use super::checkpoint::{damaged, fetch};
use crate::stores::Location;

const FOLDER: &str = "_smelt/consumed";
/// Segments fetched side by side.
const FETCHES: usize = 4;

/// Fetches what `files.seen` needs for paths below any of `prefixes`, as paths are shown in `_file`; `""` is every path.
///
/// # Errors
/// [`Error::Data`] where a segment is gone or damaged.
pub async fn load(table: &Location, files: &Consumed, prefixes: &[String]) -> Result<()> {
    get(table, files.missing(prefixes)).await
}

/// Fetches what [`Consumed::rebased`] needs to put `ours`, made from `base`, on top of `theirs`.
pub(super) async fn load_for_rebase(table: &Location, base: Option<&Consumed>, ours: &Consumed, theirs: &Consumed) -> Result<()> {
    let nothing = Consumed::default();
    let base = base.unwrap_or(&nothing);
    let paths: Vec<String> = ours.added(base).unwrap_or_default().into_iter().map(|(path, _)| path).collect();
    load(table, base, &paths).await?;
    load(table, theirs, &paths).await
}

async fn get(table: &Location, segments: impl Iterator<Item = &Segment>) -> Result<()> {
    let fetches: Vec<_> = segments.map(|segment| one(table, segment)).collect();
    futures::stream::iter(fetches).buffer_unordered(FETCHES).try_collect::<Vec<()>>().await.map(|_| ())
}

async fn one(table: &Location, segment: &Segment) -> Result<()> {
    let relative = object(&segment.name);
    let Some(packed) = fetch(table, &relative).await? else {
        return Err(Error::data(
            format!("{} says that a list of the files that it took in is {relative}, which is gone", table.display),
            "restore the object from a backup or versioning; without it, what was consumed is unknown and only --full-refresh is safe",
        ));
    };
    let bytes = zstd::stream::decode_all(packed.as_ref()).map_err(|e| damaged(table, &relative, e))?;
    segment.fill(bytes).map_err(|e| damaged(table, &relative, e))
}

pub(super) fn object(name: &str) -> String {
    format!("{FOLDER}/{name}.zst")
}

/// What the sidecar of `checkpoint` holds as its files: the list itself while it is short, and otherwise one whose
/// segments have been written. Doing it again for another attempt is safe.
pub(super) async fn settle(table: &Location, checkpoint: &Checkpoint) -> Result<Consumed> {
    let mut files = checkpoint.files.clone();
    get(table, files.merging().iter().filter(|s| !s.is_loaded())).await?;
    for (name, bytes) in files.settle(checkpoint.sequence)? {
        let packed = zstd::bulk::compress(&bytes, 1)?;
        table.store.put(&table.path(&object(&name))?, packed.into()).await?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use smelt_engine::consumed::{Rebased, Seen};
    use smelt_engine::table::FileMark;

    use object_store::ObjectStore;

    use super::super::checkpoint;
    use super::super::suite;
    use super::*;

    async fn segments(table: &Location) -> usize {
        table.store.list(Some(&table.path(FOLDER).unwrap())).count().await
    }

    #[tokio::test]
    async fn long_lists_go_into_segments_and_come_back() {
        for place in suite::places() {
            let table = &place.location;
            let mut now = Checkpoint::default();
            let mark = |i: u64| FileMark { size: i, modified: 1, etag: Some("e".into()) };
            for load in 0..40_u64 {
                now.sequence += 1;
                for i in 0..100 {
                    now.files.insert(format!("raw/{load:03}/{i:03}.csv"), &mark(i));
                }
                checkpoint::write(table, &now, load).await.unwrap();
                now = checkpoint::read(table, now.sequence, load).await.unwrap();
            }
            let size = serde_json::to_vec(&now).unwrap().len();
            assert!(size < 20_000, "the head stays small: {size} bytes for 4,000 files");
            assert!(now.files.segments().count() < 8);
            load(table, &now.files, &["raw/".into()]).await.unwrap();
            for load in 0..40 {
                assert_eq!(now.files.seen(&format!("raw/{load:03}/007.csv"), &mark(7)).unwrap(), Seen::Same);
                assert_eq!(now.files.seen(&format!("raw/{load:03}/007.csv"), &mark(8)).unwrap(), Seen::Changed);
                assert_eq!(now.files.seen(&format!("raw/{load:03}/x.csv"), &mark(8)).unwrap(), Seen::New);
            }
            // those that were merged stay until a vacuum
            assert!(segments(table).await > now.files.segments().count());
        }
    }

    #[tokio::test]
    async fn loads_side_by_side_keep_both_lists() {
        let place = suite::memory();
        let table = &place.location;
        let mark = FileMark { size: 1, modified: 1, etag: None };
        let mut base = Checkpoint { sequence: 1, ..Checkpoint::default() };
        (0..300).for_each(|i| base.files.insert(format!("old/{i:03}"), &mark));
        checkpoint::write(table, &base, 1).await.unwrap();
        let base = checkpoint::read(table, 1, 1).await.unwrap();
        let mut theirs = Checkpoint { sequence: 2, ..base.clone() };
        (0..300).for_each(|i| theirs.files.insert(format!("theirs/{i:03}"), &mark));
        checkpoint::write(table, &theirs, 2).await.unwrap();
        let theirs = checkpoint::read(table, 2, 2).await.unwrap();
        let mut ours = base.files.clone();
        (0..300).for_each(|i| ours.insert(format!("ours/{i:03}"), &mark));
        load_for_rebase(table, Some(&base.files), &ours, &theirs.files).await.unwrap();
        let Rebased::Both(both) = ours.rebased(&base.files, &theirs.files).unwrap() else { panic!("they go together") };
        load(table, &both, &[String::new()]).await.unwrap();
        assert_eq!(both.paths().unwrap().count(), 900);
        ours.insert("theirs/007", &mark);
        assert_eq!(ours.rebased(&base.files, &theirs.files).unwrap(), Rebased::Twice("theirs/007".into()));
    }

    #[tokio::test]
    async fn a_lost_segment_is_said() {
        let place = suite::memory();
        let table = &place.location;
        let mut now = Checkpoint { sequence: 1, ..Checkpoint::default() };
        for i in 0..1000 {
            now.files.insert(format!("{i}"), &FileMark { size: 1, modified: 1, etag: None });
        }
        checkpoint::write(table, &now, 1).await.unwrap();
        let stored = checkpoint::read(table, 1, 1).await.unwrap();
        let name = object(&stored.files.segments().next().unwrap().name);
        table.store.delete(&table.path(&name).unwrap()).await.unwrap();
        let e = load(table, &stored.files, &[String::new()]).await.unwrap_err();
        assert!(matches!(&e, Error::Data { help: Some(help), .. } if help.contains("--full-refresh")), "{e}");
    }
}
