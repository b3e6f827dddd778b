//! Finds the files of a source: globs, folders and single files on any store, with what identifies each file's state.
//!
//! This room lists; it opens nothing. Which of the files were read before is the driver's to know.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use globset::{GlobBuilder, GlobMatcher};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use smelt_engine::error::{Complaint, Error, Result};
use smelt_engine::table::FileMark;

use super::{Common, SourceSpec, min_age};

/// Finds the store of a path as the user wrote it.
pub trait Locate: Send + Sync {
    /// The store, the path within it (which may hold glob characters, and may name a folder), and the folder within the store
    /// that paths are shown relative to (`""`: the store's root).
    fn locate(&self, text: &str) -> Result<(Arc<dyn ObjectStore>, Path, String)>;
}

/// What relative paths are relative to.
pub type Base = dyn Locate;

/// One file of a source, in the state in which it was listed.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Where it is in `store`.
    pub location: Path,
    /// As shown in `_file` and kept in the checkpoint; the same in every run.
    pub path: String,
    pub mark: FileMark,
    /// `key=value` folders of the path, in order; `None` is Hive's null.
    pub partitions: Vec<(String, Option<String>)>,
    pub store: Arc<dyn ObjectStore>,
}

/// What a source holds now.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Sorted by path.
    pub files: Vec<SourceFile>,
    /// Hive keys that any of the files has, in order of appearance.
    pub partition_keys: Vec<String>,
    /// Files left alone since they are younger than `min_age`.
    pub too_young: usize,
}

/// Lists the files of `spec` that are at least `min_age` old at `now`.
///
/// # Errors
/// [`Error::Data`] where a path or glob finds nothing (unless `allow_empty`), saying what is near.
pub async fn list(spec: &SourceSpec, base: &Base, now: DateTime<Utc>) -> Result<Listing> {
    let common = spec.common();
    let age = min_age(common.min_age).map_err(|m| Error::pipeline(Complaint::at([common.kind, "min_age"], m)))?;
    let youngest = now.timestamp_millis().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let mut found: BTreeMap<String, SourceFile> = BTreeMap::new();
    let mut listing = Listing::default();
    for text in &common.path.0 {
        let (store, path, root) = base.locate(text)?;
        let metas = find(&store, &pattern_text(&path), text, common).await?;
        for meta in metas {
            let path = shown(meta.location.as_ref(), &root);
            let mark = FileMark { size: meta.size, modified: meta.last_modified.timestamp_millis(), etag: meta.e_tag };
            if let Some(other) = found.get(&path) {
                if other.mark != mark {
                    return Err(Error::data(
                        format!("two different files show as `{path}`"),
                        "split the source: one source per store, so that every row's `_file` names one file",
                    ));
                }
                continue;
            }
            let partitions = if common.hive_partitions { partitions(&path) } else { vec![] };
            found.insert(path.clone(), SourceFile { location: meta.location, path, mark, partitions, store: Arc::clone(&store) });
        }
    }
    for file in found.into_values() {
        if !age.is_zero() && file.mark.modified > youngest {
            listing.too_young += 1;
            continue;
        }
        for (key, _) in &file.partitions {
            if !listing.partition_keys.contains(key) {
                listing.partition_keys.push(key.clone());
            }
        }
        listing.files.push(file);
    }
    Ok(listing)
}

/// Whether `text` is a glob that can be understood.
pub(crate) fn check_pattern(text: &str) -> Result<(), String> {
    if is_glob(text) { matcher(text).map(|_| ()).map_err(|e| format!("`{text}` is not a glob: {}", e.kind())) } else { Ok(()) }
}

async fn find(store: &Arc<dyn ObjectStore>, pattern: &str, text: &str, common: Common<'_>) -> Result<Vec<ObjectMeta>> {
    if is_glob(pattern) {
        let glob = matcher(pattern)
            .map_err(|e| Error::pipeline(Complaint::at([common.kind, "path"], format!("`{text}` is not a glob: {}", e.kind()))))?;
        let folder = literal_folder(pattern);
        let hidden_wanted = pattern[folder.len()..].split('/').any(|s| s.starts_with(['_', '.']));
        let all = list_below(store, folder).await?;
        let matched: Vec<ObjectMeta> = all
            .iter()
            .filter(|m| glob.is_match(m.location.as_ref()) && (hidden_wanted || !is_hidden(m.location.as_ref(), folder)))
            .cloned()
            .collect();
        if matched.is_empty() && !common.allow_empty {
            let near: Vec<&str> = all.iter().map(|m| below(m.location.as_ref(), folder)).collect();
            let folder = if folder.is_empty() { "the folder" } else { folder };
            return Err(nothing(format!("`{text}` matches no file"), folder, &near, pattern.rsplit('/').next().unwrap_or_default()));
        }
        return Ok(matched);
    }
    if !pattern.is_empty() {
        match store.head(&literal(pattern)?).await {
            Ok(meta) => return Ok(vec![meta]),
            Err(object_store::Error::NotFound { .. }) => {}
            // A store may refuse the head of a folder in its own words (a local folder is no file); the listing decides.
            Err(e) => {
                if list_below(store, pattern).await.map_or(true, |all| all.is_empty()) {
                    return Err(e.into());
                }
            }
        }
    }
    let all = list_below(store, pattern).await?;
    let files: Vec<ObjectMeta> = all.iter().filter(|m| !is_hidden(m.location.as_ref(), pattern)).cloned().collect();
    if files.is_empty() && !common.allow_empty {
        if !all.is_empty() {
            let near: Vec<&str> = all.iter().map(|m| below(m.location.as_ref(), pattern)).collect();
            return Err(nothing(
                format!("the folder `{text}` holds no file to read (names that start with `_` or `.` are left out)"),
                pattern,
                &near,
                "",
            ));
        }
        let (parent, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
        let prefix = if parent.is_empty() { None } else { Some(literal(parent)?) };
        let beside = store.list_with_delimiter(prefix.as_ref()).await?;
        let names: Vec<&str> =
            beside.objects.iter().map(|m| &m.location).chain(&beside.common_prefixes).map(|p| below(p.as_ref(), parent)).collect();
        let folder = if parent.is_empty() { "the folder" } else { parent };
        return Err(nothing(format!("`{text}` does not exist"), folder, &names, name));
    }
    Ok(files)
}

/// Everything below a folder, without the empty objects that some tools make to stand for folders.
async fn list_below(store: &Arc<dyn ObjectStore>, folder: &str) -> Result<Vec<ObjectMeta>> {
    let prefix = if folder.is_empty() { None } else { Some(literal(folder)?) };
    let mut all: Vec<ObjectMeta> = match store.list(prefix.as_ref()).try_collect().await {
        Ok(all) => all,
        Err(object_store::Error::NotFound { .. }) => vec![],
        Err(e) => return Err(e.into()),
    };
    all.retain(|m| !(m.size == 0 && m.location.as_ref() == folder));
    all.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(all)
}

fn nothing(message: String, folder: &str, names: &[&str], wanted: &str) -> Error {
    let mut names = names.to_vec();
    names.sort_by_key(|n| std::cmp::Reverse(likeness(n.rsplit('/').next().unwrap_or(n), wanted)));
    let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
    let shown = names.iter().take(3).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    let help = if names.is_empty() {
        format!("there is nothing in `{folder}`; correct the path, or set `allow_empty: true` where having no file is fine")
    } else {
        format!("`{folder}` has {shown}{more}; correct the path, or set `allow_empty: true` where having no file is fine")
    };
    Error::data(message, help.replace("`the folder`", "the folder"))
}

/// How many letters two names share at their starts and ends, whatever the case.
fn likeness(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let start = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let end = a.bytes().rev().zip(b.bytes().rev()).take_while(|(x, y)| x == y).count();
    start + end
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

fn matcher(pattern: &str) -> Result<GlobMatcher, globset::Error> {
    Ok(GlobBuilder::new(pattern).literal_separator(true).backslash_escape(false).build()?.compile_matcher())
}

/// The folders of a pattern before its first glob character.
fn literal_folder(pattern: &str) -> &str {
    let first = pattern.find(['*', '?', '[', '{']).unwrap_or(pattern.len());
    pattern[..first].rfind('/').map_or("", |end| &pattern[..end])
}

/// `Path::from` percent-encodes glob characters; the pattern wants them plain.
fn pattern_text(path: &Path) -> String {
    let mut text = path.as_ref().to_owned();
    for (code, plain) in [("%2A", "*"), ("%3F", "?"), ("%5B", "["), ("%5D", "]"), ("%7B", "{"), ("%7D", "}")] {
        if text.contains(code) {
            text = text.replace(code, plain);
        }
    }
    text
}

fn literal(path: &str) -> Result<Path> {
    Path::parse(path).map_err(|e| Error::pipeline(Complaint::at(["path"], format!("`{path}` is not a path: {e}"))))
}

fn below<'a>(path: &'a str, folder: &str) -> &'a str {
    path.strip_prefix(folder).map_or(path, |p| p.trim_start_matches('/'))
}

fn is_hidden(path: &str, folder: &str) -> bool {
    below(path, folder).split('/').any(|segment| segment.starts_with(['_', '.']))
}

fn shown(location: &str, root: &str) -> String {
    let root = root.strip_prefix("file://").unwrap_or(root).trim_matches('/');
    match location.strip_prefix(root) {
        Some(rest) if root.is_empty() || rest.starts_with('/') => rest.trim_start_matches('/').to_owned(),
        _ => location.to_owned(),
    }
}

fn partitions(path: &str) -> Vec<(String, Option<String>)> {
    let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    let pairs = folders.split('/').filter_map(|segment| segment.split_once('='));
    pairs
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| {
            let value = unescape(value);
            (unescape(key), (value != "__HIVE_DEFAULT_PARTITION__").then_some(value))
        })
        .collect()
}

/// Undoes the percent-encoding of hive folder names.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten().and_then(|h| u8::from_str_radix(h, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use object_store::memory::InMemory;

    /// One store, paths relative to its root.
    #[derive(Debug)]
    pub(crate) struct Here(pub Arc<dyn ObjectStore>);

    impl Locate for Here {
        fn locate(&self, text: &str) -> Result<(Arc<dyn ObjectStore>, Path, String)> {
            Ok((Arc::clone(&self.0), Path::from(text), String::new()))
        }
    }

    async fn store(files: &[&str]) -> Here {
        let store = InMemory::new();
        for file in files {
            store.put(&Path::parse(file).unwrap(), "x\n1\n".into()).await.unwrap();
        }
        Here(Arc::new(store))
    }

    async fn paths(here: &Here, json: &str) -> Result<Vec<String>> {
        let spec: SourceSpec = serde_json::from_str(json).unwrap();
        Ok(list(&spec, here, Utc::now()).await?.files.into_iter().map(|f| f.path).collect())
    }

    #[tokio::test]
    async fn globs_folders_and_lists() {
        let here = store(&["d/b.csv", "d/a.csv", "d/a.csv.bak", "d/_tmp/c.csv", "d/e/f.csv", "d/.x.csv", "g.csv"]).await;
        assert_eq!(paths(&here, r#"{"csv": {"path": "d/*.csv"}}"#).await.unwrap(), ["d/a.csv", "d/b.csv"]);
        assert_eq!(paths(&here, r#"{"csv": {"path": "d/**/*.csv"}}"#).await.unwrap(), ["d/a.csv", "d/b.csv", "d/e/f.csv"]);
        assert_eq!(paths(&here, r#"{"csv": {"path": "d/{a,e/f}.csv"}}"#).await.unwrap(), ["d/a.csv", "d/e/f.csv"]);
        assert_eq!(paths(&here, r#"{"csv": {"path": "d/[ab].csv"}}"#).await.unwrap(), ["d/a.csv", "d/b.csv"]);
        assert_eq!(paths(&here, r#"{"csv": {"path": "d/_tmp/*.csv"}}"#).await.unwrap(), ["d/_tmp/c.csv"]);
        assert_eq!(paths(&here, r#"{"csv": {"path": "d"}}"#).await.unwrap(), ["d/a.csv", "d/a.csv.bak", "d/b.csv", "d/e/f.csv"]);
        assert_eq!(paths(&here, r#"{"csv": {"path": ["g.csv", "d/?.csv", "d/a.csv"]}}"#).await.unwrap(), ["d/a.csv", "d/b.csv", "g.csv"]);
    }

    #[tokio::test]
    async fn nothing_found_says_what_is_near() {
        let here = store(&["data/orders.csv.bak", "data/other.txt"]).await;
        let e = paths(&here, r#"{"csv": {"path": "data/*.csv"}}"#).await.unwrap_err();
        assert!(matches!(e, Error::Data { .. }));
        assert_eq!(e.to_string(), "`data/*.csv` matches no file");
        assert!(e.help().unwrap().contains("`orders.csv.bak`"), "{e:?}");
        let e = paths(&here, r#"{"csv": {"path": "data/orders.csv"}}"#).await.unwrap_err();
        assert_eq!(e.to_string(), "`data/orders.csv` does not exist");
        assert!(e.help().unwrap().contains("`data` has `orders.csv.bak`"), "{e:?}");
        assert!(paths(&here, r#"{"csv": {"path": "data/*.csv", "allow_empty": true}}"#).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_local_folder_and_a_local_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/a b [1].csv"), "x\n1\n").unwrap();
        let local = object_store::local::LocalFileSystem::new_with_prefix(dir.path()).unwrap();
        let here = Here(Arc::new(local));
        assert_eq!(paths(&here, r#"{"csv": {"path": "in"}}"#).await.unwrap(), ["in/a b [1].csv"]);
        assert_eq!(paths(&here, r#"{"csv": {"path": "in/*.csv"}}"#).await.unwrap(), ["in/a b [1].csv"]);
        let e = paths(&here, r#"{"csv": {"path": "out/x.csv"}}"#).await.unwrap_err();
        assert!(matches!(e, Error::Data { .. }), "{e:?}");
    }

    #[tokio::test]
    async fn young_files_wait() {
        let here = store(&["a.csv"]).await;
        let spec: SourceSpec = serde_json::from_str(r#"{"csv": {"path": "a.csv", "min_age": "1h"}}"#).unwrap();
        let now = list(&spec, &here, Utc::now()).await.unwrap();
        assert_eq!((now.files.len(), now.too_young), (0, 1));
        let later = list(&spec, &here, Utc::now() + chrono::Duration::hours(2)).await.unwrap();
        assert_eq!((later.files.len(), later.too_young), (1, 0));
    }

    #[tokio::test]
    async fn hive_folders() {
        let here = store(&["t/year=2024/city=S%C3%A3o/a.csv", "t/year=__HIVE_DEFAULT_PARTITION__/b.csv"]).await;
        let spec: SourceSpec = serde_json::from_str(r#"{"csv": {"path": "t"}}"#).unwrap();
        let found = list(&spec, &here, Utc::now()).await.unwrap();
        assert_eq!(found.partition_keys, ["year", "city"]);
        assert_eq!(found.files[0].partitions, [("year".into(), Some("2024".into())), ("city".into(), Some("São".into()))]);
        assert_eq!(found.files[1].partitions, [("year".into(), None)]);
    }

    #[test]
    fn paths_are_shown_below_the_root() {
        assert_eq!(shown("work/data/a.csv", "/work"), "data/a.csv");
        assert_eq!(shown("work/data/a.csv", "/wo"), "work/data/a.csv");
        assert_eq!(shown("a.csv", ""), "a.csv");
    }
}
