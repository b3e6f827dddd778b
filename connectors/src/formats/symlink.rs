//! Hive symlink manifests, which let Athena, Presto and Redshift Spectrum read a table of many epochs: per partition, the
//! list of its files, one URI a line. They describe one version, are rewritten after its commit, and decide nothing.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use smelt_engine::error::Result;
use smelt_engine::table::DataFile;

use crate::stores::Location;

const FOLDER: &str = "_symlink_format_manifest";

/// The partition folders of a data file's path, `city=SP/month=2024-01`; "" where the table has none.
pub(super) fn folder(path: &str) -> String {
    let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    folders.split('/').filter(|part| part.contains('=')).collect::<Vec<_>>().join("/")
}

/// Brings the manifests to `files`. `touched`: only these partition folders changed; all when absent.
pub(super) async fn write(table: &Location, files: &[DataFile], partitioned: bool, touched: Option<&BTreeSet<String>>) -> Result<()> {
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    if !partitioned {
        // A table without rows is an empty list, not a missing one.
        wanted.insert(String::new(), String::new());
    }
    for file in files {
        let folder = folder(&file.path);
        if touched.is_none_or(|t| t.contains(&folder)) {
            let list = wanted.entry(folder).or_default();
            list.push_str(&table.uri(&file.path));
            list.push('\n');
        }
    }
    let keep: BTreeSet<String> = wanted.keys().map(|folder| object(folder)).collect();
    futures::stream::iter(wanted)
        .map(|(folder, list)| async move { Ok::<_, smelt_engine::Error>(table.store.put(&table.path(&object(&folder))?, list.into()).await?) })
        .buffer_unordered(16)
        .try_for_each(|_| async { Ok(()) })
        .await?;

    let stale: Vec<_> = match touched {
        Some(touched) => touched.iter().map(|f| object(f)).filter(|o| !keep.contains(o)).map(|o| table.path(&o)).collect::<Result<_>>()?,
        None => {
            let keep: BTreeSet<_> = keep.iter().map(|o| table.path(o)).collect::<Result<_>>()?;
            let found = table.store.list(Some(&table.path(FOLDER)?)).map_ok(|o| o.location);
            found.try_filter(|path| std::future::ready(!keep.contains(path))).try_collect().await?
        }
    };
    for path in &stale {
        match table.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    super::purge::tidy(table, &stale);
    Ok(())
}

fn object(folder: &str) -> String {
    if folder.is_empty() { format!("{FOLDER}/manifest") } else { format!("{FOLDER}/{folder}/manifest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_what_hive_partitioning_made() {
        assert_eq!(folder("data/00000001-ab/city=S%C3%A3o/m=1/part.parquet"), "city=S%C3%A3o/m=1");
        assert_eq!(folder("data/00000001-ab/part-a=b.parquet"), "");
        assert_eq!(folder("part.parquet"), "");
    }
}
