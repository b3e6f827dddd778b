//! Finds the files of a source: globs, folders and single files on any store, with what identifies each file's state.
//!
//! This room lists; it opens nothing. Which of the files were read before is the driver's to know. Listings are streamed: what is
//! held is what the driver asks for.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use globset::{GlobBuilder, GlobMatcher};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use smelt_engine::error::{Complaint, Error, Result};
use smelt_engine::table::FileMark;

use super::{Common, Dated, SourceSpec, min_age};

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
    /// Sorted by path: all files, or those that were asked for.
    pub files: Vec<SourceFile>,
    /// A few of those that were not asked for, sorted by path: for what the input looks like.
    pub others: Vec<SourceFile>,
    /// Hive keys that any of the files has, in order of appearance.
    pub partition_keys: Vec<String>,
    /// Files left alone since they are younger than `min_age`.
    pub too_young: usize,
    /// Files that were found and not asked for.
    pub left: u64,
}

/// Whether a file of this path, as shown, and this mark is asked for.
pub type Keep<'a> = dyn Fn(&str, &FileMark) -> Result<bool> + Send + Sync + 'a;

/// How many files that are not asked for are kept as `others`.
const OTHERS: usize = 100;
/// How many names of other files are remembered, to say what is near.
const NAMES: usize = 1000;

/// Lists the files of `spec` that are at least `min_age` old at `now`.
///
/// # Errors
/// [`Error::Data`] where a path or glob finds nothing (unless `allow_empty`), saying what is near.
pub async fn list(spec: &SourceSpec, base: &Base, now: DateTime<Utc>) -> Result<Listing> {
    list_some(spec, base, now, None, &|_, _| Ok(true)).await
}

/// As [`list`], but holds only the files that are asked for: a folder of millions, seen before, costs no memory. Files before `since`
/// (milliseconds since the epoch) may be left out of the listing altogether, where the order of paths tells which they are.
pub async fn list_some(spec: &SourceSpec, base: &Base, now: DateTime<Utc>, since: Option<i64>, keep: &Keep<'_>) -> Result<Listing> {
    let common = spec.common();
    let age = min_age(common.min_age).map_err(|m| Error::pipeline(Complaint::at([common.kind, "min_age"], m)))?;
    let youngest = now.timestamp_millis().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let mut found: BTreeMap<String, SourceFile> = BTreeMap::new();
    let mut others: BTreeMap<String, SourceFile> = BTreeMap::new();
    let mut listing = Listing::default();
    let mut keys = Keys::default();
    let mut twice = Twice::default();
    for text in &common.path.0 {
        let (store, path, root) = base.locate(text)?;
        let pattern = pattern_text(&path);
        let mut each = |meta: ObjectMeta| -> Result<()> {
            let path = shown(meta.location.as_ref(), &root);
            let mark = FileMark { size: meta.size, modified: meta.last_modified.timestamp_millis(), etag: meta.e_tag };
            if common.path.0.len() > 1 && twice.is_known(&path, &mark)? {
                return Ok(());
            }
            if !age.is_zero() && mark.modified > youngest {
                listing.too_young += 1;
                return Ok(());
            }
            let partitions = if common.hive_partitions { partitions(&path) } else { vec![] };
            keys.see(&partitions, &path);
            let asked = keep(&path, &mark)?;
            listing.left += u64::from(!asked);
            if asked || others.len() < OTHERS {
                let into = if asked { &mut found } else { &mut others };
                into.insert(path.clone(), SourceFile { location: meta.location, path, mark, partitions, store: Arc::clone(&store) });
            }
            Ok(())
        };
        find(&store, &pattern, text, common, since, &mut each).await?;
    }
    listing.files = found.into_values().collect();
    listing.others = others.into_values().collect();
    listing.partition_keys = keys.in_order();
    Ok(listing)
}

/// What every path of each pattern of `spec` begins with, as shown: what a list of consumed files has to be asked about.
pub fn prefixes(spec: &SourceSpec, base: &Base) -> Result<Vec<String>> {
    let paths = spec.common().path.0.iter();
    paths
        .map(|text| {
            let (_, path, root) = base.locate(text)?;
            let pattern = pattern_text(&path);
            let start = literal_start(&pattern);
            // a pattern that begins above the root finds files that are shown below it
            Ok(if root.trim_matches('/').starts_with(start) { String::new() } else { shown(start, &root) })
        })
        .collect()
}

/// The hive keys of the files, by the first path, in order, that has them in this order.
#[derive(Default)]
struct Keys(BTreeMap<Vec<String>, String>);

impl Keys {
    fn see(&mut self, partitions: &[(String, Option<String>)], path: &str) {
        if partitions.is_empty() {
            return;
        }
        let keys: Vec<String> = partitions.iter().map(|(key, _)| key.clone()).collect();
        match self.0.get_mut(&keys) {
            Some(first) if path < first.as_str() => path.clone_into(first),
            Some(_) => {}
            None => drop(self.0.insert(keys, path.to_owned())),
        }
    }

    fn in_order(self) -> Vec<String> {
        let mut lists: Vec<(String, Vec<String>)> = self.0.into_iter().map(|(keys, first)| (first, keys)).collect();
        lists.sort();
        let mut keys: Vec<String> = vec![];
        for key in lists.into_iter().flat_map(|(_, keys)| keys) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }
}

/// Files that several paths of one source find, by hashes.
#[derive(Default)]
struct Twice {
    hasher: (RandomState, RandomState),
    marks: HashMap<(u64, u64), u64>,
}

impl Twice {
    fn is_known(&mut self, path: &str, mark: &FileMark) -> Result<bool> {
        let state = self.hasher.0.hash_one(mark);
        match self.marks.insert((self.hasher.0.hash_one(path), self.hasher.1.hash_one(path)), state) {
            None => Ok(false),
            Some(other) if other == state => Ok(true),
            Some(_) => Err(Error::data(
                format!("two different files show as `{path}`"),
                "split the source: one source per store, so that every row's `_file` names one file",
            )),
        }
    }
}

/// Whether `text` is a glob that can be understood.
pub(crate) fn check_pattern(text: &str) -> Result<(), String> {
    if is_glob(text) { matcher(text).map(|_| ()).map_err(|e| format!("`{text}` is not a glob: {}", e.kind())) } else { Ok(()) }
}

/// Gives each file of a pattern to `each`, as the store lists them.
async fn find(
    store: &Arc<dyn ObjectStore>,
    pattern: &str,
    text: &str,
    common: Common<'_>,
    since: Option<i64>,
    each: &mut (dyn FnMut(ObjectMeta) -> Result<()> + Send),
) -> Result<()> {
    let mut names = Names::default();
    let mut matched = 0_u64;
    if is_glob(pattern) {
        let glob = matcher(pattern)
            .map_err(|e| Error::pipeline(Complaint::at([common.kind, "path"], format!("`{text}` is not a glob: {}", e.kind()))))?;
        let folder = literal_folder(pattern);
        let hidden_wanted = pattern[folder.len()..].split('/').any(|s| s.starts_with(['_', '.']));
        let start = literal_start(pattern);
        let floor = since.and_then(|since| common.dated.and_then(|text| Dated::parse(text).ok())?.floor(start, since));
        let after = floor.clone().or_else(|| before(start)).filter(|after| after.len() > folder.len() + 1);
        let mut all = below_stream(store, folder, after.as_deref())?;
        while let Some(meta) = next(&mut all).await? {
            let path = meta.location.as_ref();
            if glob.is_match(path) && (hidden_wanted || !is_hidden(path, folder)) {
                matched += 1;
                each(meta)?;
            } else if !is_marker(&meta, folder) {
                names.push(below(path, folder));
            }
        }
        if matched == 0 && !common.allow_empty && floor.is_none() {
            if after.is_some() {
                // what is near may stand before the start of the listing
                names = Names::default();
                let mut all = below_stream(store, folder, None)?;
                while let Some(meta) = next(&mut all).await? {
                    if !is_marker(&meta, folder) {
                        names.push(below(meta.location.as_ref(), folder));
                    }
                }
            }
            let folder = if folder.is_empty() { "the folder" } else { folder };
            return Err(nothing(format!("`{text}` matches no file"), folder, &names, pattern.rsplit('/').next().unwrap_or_default()));
        }
        return Ok(());
    }
    if !pattern.is_empty() {
        match store.head(&literal(pattern)?).await {
            Ok(meta) => return each(meta),
            Err(object_store::Error::NotFound { .. }) => {}
            // A store may refuse the head of a folder in its own words (a local folder is no file); the listing decides.
            Err(e) => {
                if !matches!(next(&mut below_stream(store, pattern, None)?).await, Ok(Some(_))) {
                    return Err(e.into());
                }
            }
        }
    }
    let mut all = below_stream(store, pattern, None)?;
    while let Some(meta) = next(&mut all).await? {
        if is_marker(&meta, pattern) {
            continue;
        }
        if is_hidden(meta.location.as_ref(), pattern) {
            names.push(below(meta.location.as_ref(), pattern));
        } else {
            matched += 1;
            each(meta)?;
        }
    }
    if matched > 0 || common.allow_empty {
        return Ok(());
    }
    if names.total > 0 {
        return Err(nothing(
            format!("the folder `{text}` holds no file to read (names that start with `_` or `.` are left out)"),
            pattern,
            &names,
            "",
        ));
    }
    let (parent, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let prefix = if parent.is_empty() { None } else { Some(literal(parent)?) };
    let beside = store.list_with_delimiter(prefix.as_ref()).await?;
    for path in beside.objects.iter().map(|m| &m.location).chain(&beside.common_prefixes) {
        names.push(below(path.as_ref(), parent));
    }
    let folder = if parent.is_empty() { "the folder" } else { parent };
    Err(nothing(format!("`{text}` does not exist"), folder, &names, name))
}

/// Everything below a folder, page by page; what stands before `after` may be left out by the store.
fn below_stream(
    store: &Arc<dyn ObjectStore>,
    folder: &str,
    after: Option<&str>,
) -> Result<BoxStream<'static, object_store::Result<ObjectMeta>>> {
    let prefix = if folder.is_empty() { None } else { Some(literal(folder)?) };
    Ok(match after.and_then(|after| Path::parse(after).ok()) {
        Some(after) => store.list_with_offset(prefix.as_ref(), &after),
        None => store.list(prefix.as_ref()),
    })
}

async fn next(all: &mut BoxStream<'static, object_store::Result<ObjectMeta>>) -> Result<Option<ObjectMeta>> {
    match all.try_next().await {
        Ok(meta) => Ok(meta),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// An empty object that some tools make to stand for a folder.
fn is_marker(meta: &ObjectMeta, folder: &str) -> bool {
    meta.size == 0 && meta.location.as_ref() == folder
}

/// What a pattern begins with, up to its first glob character.
fn literal_start(pattern: &str) -> &str {
    &pattern[..pattern.find(['*', '?', '[', '{']).unwrap_or(pattern.len())]
}

/// A path that stands before all that begin with `start`.
fn before(start: &str) -> Option<String> {
    let mut before = start.to_owned();
    before.pop()?;
    (!before.is_empty() && !before.ends_with('/')).then_some(before)
}

/// Names that were found and not wanted: some of them, and how many there are.
#[derive(Default)]
struct Names {
    some: Vec<String>,
    total: usize,
}

impl Names {
    fn push(&mut self, name: &str) {
        self.total += 1;
        if self.some.len() < NAMES {
            self.some.push(name.to_owned());
        }
    }
}

fn nothing(message: String, folder: &str, found: &Names, wanted: &str) -> Error {
    let mut names: Vec<&str> = found.some.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.sort_by_key(|n| std::cmp::Reverse(likeness(n.rsplit('/').next().unwrap_or(n), wanted)));
    let more = if found.total > 3 { format!(" and {} more", found.total - 3) } else { String::new() };
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
    literal_start(pattern).rfind('/').map_or("", |end| &pattern[..end])
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
    use futures::StreamExt;
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    };

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

    #[tokio::test]
    async fn the_listing_starts_where_the_pattern_does() {
        let here = store(&["d/a-1.csv", "d/b-1.csv", "d/b-2.csv", "d/b", "d/c-1.csv", "d/b-x/y.csv"]).await;
        assert_eq!(paths(&here, r#"{"csv": {"path": "d/b-*.csv"}}"#).await.unwrap(), ["d/b-1.csv", "d/b-2.csv"]);
        assert_eq!(paths(&here, r#"{"csv": {"path": "d/b*"}}"#).await.unwrap(), ["d/b", "d/b-1.csv", "d/b-2.csv"]);
        let e = paths(&here, r#"{"csv": {"path": "d/c-9*.csv"}}"#).await.unwrap_err();
        assert!(e.help().unwrap().contains("`c-1.csv`") && e.help().unwrap().contains("and 3 more"), "{e:?}");
    }

    #[tokio::test]
    async fn paths_that_meet_give_a_file_once() {
        let here = store(&["d/a.csv", "d/b.csv"]).await;
        assert_eq!(paths(&here, r#"{"csv": {"path": ["d", "d/*.csv", "d/a.csv"]}}"#).await.unwrap(), ["d/a.csv", "d/b.csv"]);
        let spec: SourceSpec = serde_json::from_str(r#"{"csv": {"path": ["d/x=*/b*", "d", "e.csv"]}}"#).unwrap();
        assert_eq!(prefixes(&spec, &here).unwrap(), ["d/x=", "d", "e.csv"]);
    }

    /// 200,000 files of which three are new: what is held is these and a few others.
    #[tokio::test]
    async fn a_listing_holds_what_was_asked_for() {
        let meta = |i: u64| ObjectMeta {
            location: Path::parse(format!("raw/day={:03}/part-{i:06}.csv", i / 1000)).unwrap(),
            last_modified: DateTime::UNIX_EPOCH,
            size: i,
            e_tag: None,
            version: None,
        };
        let here = Here(Arc::new(Many((0..200_000).map(meta).collect())));
        let mut consumed = smelt_engine::consumed::Consumed::default();
        for i in (0..200_000).filter(|i| i % 70_000 != 5) {
            let meta = meta(i);
            consumed.insert(meta.location.as_ref(), &FileMark { size: i + u64::from(i == 77), modified: 0, etag: None });
        }
        let spec: SourceSpec = serde_json::from_str(r#"{"csv": {"path": "raw/day=*/*.csv", "dated": "day=%Y"}}"#).unwrap();
        let keep = |path: &str, mark: &FileMark| Ok(consumed.seen(path, mark)? != smelt_engine::consumed::Seen::Same);
        let listing = list_some(&spec, &here, Utc::now(), None, &keep).await.unwrap();
        let sizes: Vec<u64> = listing.files.iter().map(|f| f.mark.size).collect();
        assert_eq!(sizes, [5, 77, 70_005, 140_005]);
        assert_eq!((listing.left, listing.others.len(), listing.partition_keys), (199_996, 100, vec!["day".to_owned()]));
    }

    /// A store that lists and does nothing else.
    #[derive(Debug)]
    struct Many(Vec<ObjectMeta>);

    impl std::fmt::Display for Many {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Many")
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for Many {
        fn list(&self, _prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
            futures::stream::iter(self.0.clone()).map(Ok).boxed()
        }
        async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
            Err(object_store::Error::NotImplemented { operation: "put".into(), implementer: "Many".into() })
        }
        async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
            Err(object_store::Error::NotImplemented { operation: "put".into(), implementer: "Many".into() })
        }
        async fn get_opts(&self, _: &Path, _: GetOptions) -> object_store::Result<GetResult> {
            Err(object_store::Error::NotImplemented { operation: "get".into(), implementer: "Many".into() })
        }
        fn delete_stream(
            &self,
            locations: BoxStream<'static, object_store::Result<Path>>,
        ) -> BoxStream<'static, object_store::Result<Path>> {
            locations
        }
        async fn list_with_delimiter(&self, _: Option<&Path>) -> object_store::Result<ListResult> {
            Err(object_store::Error::NotImplemented { operation: "list".into(), implementer: "Many".into() })
        }
        async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
            Err(object_store::Error::NotImplemented { operation: "copy".into(), implementer: "Many".into() })
        }
    }

    #[test]
    fn paths_are_shown_below_the_root() {
        assert_eq!(shown("work/data/a.csv", "/work"), "data/a.csv");
        assert_eq!(shown("work/data/a.csv", "/wo"), "work/data/a.csv");
        assert_eq!(shown("a.csv", ""), "a.csv");
    }
}
