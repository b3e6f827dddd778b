//! Object stores by URL: local folders, `s3://`, `gs://`, `az://`, `abfss://`, `memory://`.
//!
//! A [`Location`] is a place in a store; everything that reads or writes goes through one. This room knows buckets,
//! credentials and paths, and nothing of what is stored. Credentials, region and endpoint come from the environment
//! (`AWS_*`, `GOOGLE_*`, `AZURE_*`); they are never part of a `Location`.

use std::collections::HashMap;
use std::fmt;
use std::path::{Component, PathBuf};
use std::sync::Arc;

use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use parking_lot::Mutex;
use smelt_engine::error::{Complaint, Error, Result, chain};
use url::Url;

/// Wraps every store that is opened: tests inject faults here.
pub type Wrap = Arc<dyn Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync>;

/// A place in an object store: a folder, an object, or a glob.
#[derive(Clone)]
pub struct Location {
    /// The whole place as a URL, for display and for tools that want one. Characters that URLs forbid are encoded.
    pub url: Url,
    /// The bucket, container or filesystem root; `prefix` is a path in it.
    pub store: Arc<dyn ObjectStore>,
    /// The key below the store's root, exactly as stored: `*`, `?`, `[` and `%` stand as they are.
    pub prefix: Path,
    /// As the user wrote it.
    pub display: String,
    /// Names the store in DataFusion's registry.
    pub root: ObjectStoreUrl,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({})", self.uri(""))
    }
}

impl Location {
    /// The path in the store of `relative`, which is `/`-separated and taken literally ("" is the place itself).
    pub fn path(&self, relative: &str) -> Result<Path> {
        let whole = self.below(relative);
        Path::parse(&whole).map_err(|e| Error::bug(format!("{whole} is not a path: {e}")))
    }

    fn below(&self, relative: &str) -> String {
        match (self.prefix.as_ref(), relative) {
            (prefix, "") => prefix.to_owned(),
            ("", relative) => relative.to_owned(),
            (prefix, relative) => format!("{prefix}/{relative}"),
        }
    }

    /// A place below this one.
    pub fn join(&self, relative: &str) -> Result<Location> {
        let prefix = self.path(relative)?;
        let display = format!("{}/{}", self.display.trim_end_matches('/'), relative.trim_matches('/'));
        let mut url = self.url.clone();
        url.set_path("");
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(prefix.parts().map(|p| p.as_ref().to_owned()));
        }
        Ok(Location { url, store: Arc::clone(&self.store), prefix, display, root: self.root.clone() })
    }

    /// The URI of `relative` with nothing encoded, as Hive and Spark write it in manifests.
    pub fn uri(&self, relative: &str) -> String {
        let base = match self.url.scheme() {
            "file" => "file://".to_owned(),
            "memory" => "memory://".to_owned(),
            scheme => {
                let user = match self.url.username() {
                    "" => String::new(),
                    user => format!("{user}@"),
                };
                format!("{scheme}://{user}{}", self.url.host_str().unwrap_or_default())
            }
        };
        format!("{base}/{}", self.below(relative))
    }
}

/// The stores of one process. Cheap to share; each bucket is opened once.
pub struct Stores {
    wrap: Option<Wrap>,
    open: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("open", &self.open.lock().keys().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl Default for Stores {
    fn default() -> Self {
        Stores::new(None)
    }
}

impl Stores {
    /// `wrap` is put around every store that is opened.
    pub fn new(wrap: Option<Wrap>) -> Self {
        Stores { wrap, open: Mutex::default() }
    }

    /// Finds the store of `text`: a URL, or a local path relative to `base`. Opens no connection.
    /// An unknown scheme or a bad URL is [`Error::Pipeline`].
    pub fn locate(&self, text: &str, base: &std::path::Path) -> Result<Location> {
        // a pipeline that was read from a store has its relative paths there
        let remote = base.to_string_lossy();
        if remote.contains("://") && !text.contains("://") && !text.starts_with('/') {
            return self.locate(&format!("{}/{text}", remote.trim_end_matches('/')), std::path::Path::new("/"));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return self.local(text, base.join(text));
        };
        let (host, key) = rest.split_once('/').unwrap_or((rest, ""));
        match scheme.to_ascii_lowercase().as_str() {
            "file" if host.is_empty() || host == "localhost" => self.local(text, PathBuf::from(format!("/{}", decode(key)))),
            "file" => {
                Err(bad(format!("{text} names the host {host}")).help("a local file URL has three slashes: file:///data/lake").into())
            }
            "memory" => self.place(text, "memory", "memory:///".into(), rest, || Ok(Arc::new(InMemory::new()))),
            "s3" | "s3a" => {
                let bucket = bucket(text, host)?;
                self.place(text, "s3", format!("s3://{bucket}/"), key, || {
                    Ok(Arc::new(AmazonS3Builder::from_env().with_bucket_name(bucket).build()?))
                })
            }
            "gs" => {
                let bucket = bucket(text, host)?;
                self.place(text, "gs", format!("gs://{bucket}/"), key, || {
                    Ok(Arc::new(GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).build()?))
                })
            }
            scheme @ ("az" | "abfs" | "abfss") => {
                let container = bucket(text, host)?;
                let root = format!("{scheme}://{container}/");
                self.place(text, scheme, root.clone(), key, || {
                    Ok(Arc::new(MicrosoftAzureBuilder::from_env().with_url(root.trim_end_matches('/')).build()?))
                })
            }
            other => Err(bad(format!("the scheme {other}:// is not known"))
                .help("write a local path, or a URL with s3://, gs://, az://, abfss://, file:// or memory://")
                .into()),
        }
    }

    /// Lets plans of `runtime` read from the store of `location`.
    pub fn register(&self, runtime: &RuntimeEnv, location: &Location) {
        register(runtime, location);
    }

    fn local(&self, text: &str, path: PathBuf) -> Result<Location> {
        if text.is_empty() {
            return Err(bad("an empty path".into()).help("write a path or a URL; `.` is the pipeline's folder").into());
        }
        let path = std::path::absolute(&path).map_err(|e| bad(format!("{text}: {e}")))?;
        let mut parts: Vec<&str> = vec![];
        for component in path.components() {
            match component {
                Component::Normal(part) => parts.push(part.to_str().ok_or_else(|| bad(format!("{text} is not UTF-8")))?),
                Component::ParentDir => drop(parts.pop()),
                _ => {}
            }
        }
        let key = parts.join("/");
        self.place(text, "file", "file:///".into(), &key, || Ok(Arc::new(LocalFileSystem::new())))
    }

    /// `root` names the store: `scheme://authority/`.
    fn place(
        &self,
        text: &str,
        scheme: &str,
        root: String,
        key: &str,
        open: impl FnOnce() -> object_store::Result<Arc<dyn ObjectStore>>,
    ) -> Result<Location> {
        let prefix = Path::parse(key).map_err(|e| bad(format!("{text} is not a path in a store: {e}")))?;
        let mut url = Url::parse(&root).map_err(|e| bad(format!("{text} is not a URL: {e}")))?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(prefix.parts().map(|p| p.as_ref().to_owned()));
        }
        let mut stores = self.open.lock();
        let store = match stores.get(&root) {
            Some(store) => Arc::clone(store),
            None => {
                let store = open().map_err(|e| {
                    bad(format!("{text} cannot be opened: {}", chain(&e))).help(match scheme {
                        "s3" => "set AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
                        "gs" => "set GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account",
                        "file" | "memory" => "check the path",
                        _ => "set AZURE_STORAGE_ACCOUNT_NAME and a key or an identity",
                    })
                })?;
                let store = self.wrap.as_ref().map_or_else(|| Arc::clone(&store), |wrap| wrap(Arc::clone(&store)));
                stores.insert(root.clone(), Arc::clone(&store));
                store
            }
        };
        let registry = registry_name(&url, scheme);
        let root = ObjectStoreUrl::parse(&registry).map_err(|e| bad(format!("{text} is not a URL: {e}")))?;
        Ok(Location { url, store, prefix, display: text.to_owned(), root })
    }
}

/// Lets plans of `runtime` read from the store of `location`; doing it twice changes nothing.
pub(crate) fn register(runtime: &RuntimeEnv, location: &Location) {
    runtime.register_object_store(location.root.as_ref(), Arc::clone(&location.store));
}

/// DataFusion leaves the user part of a URL out of its key, and Azure keeps the container there.
fn registry_name(url: &Url, scheme: &str) -> String {
    match (url.host_str(), url.username()) {
        (Some(host), "") => format!("{scheme}://{host}/"),
        (Some(host), container) => format!("{scheme}://{container}.{host}/"),
        (None, _) => format!("{scheme}:///"),
    }
}

fn bucket<'a>(text: &str, host: &'a str) -> Result<&'a str> {
    if host.is_empty() {
        return Err(bad(format!("{text} names no bucket")).help("write scheme://bucket/folder").into());
    }
    Ok(host)
}

/// A complaint about one location; becomes `Error::Pipeline`.
struct Bad(Complaint);

fn bad(message: String) -> Bad {
    Bad(Complaint::at(Vec::<String>::new(), message))
}

impl Bad {
    fn help(self, help: &str) -> Self {
        Bad(self.0.help(help))
    }
}

impl From<Bad> for Error {
    fn from(bad: Bad) -> Self {
        Error::pipeline(bad.0)
    }
}

/// Undoes percent-encoding. What is not a valid escape, or not UTF-8 afterwards, stays as it is.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escaped = (bytes[i] == b'%')
            .then(|| bytes.get(i + 1..i + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escaped.unwrap_or(bytes[i]));
        i += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use std::path::Path as FsPath;

    use super::*;

    fn message(text: &str) -> String {
        match Stores::default().locate(text, FsPath::new("/base")) {
            Err(Error::Pipeline(c)) => c[0].to_string(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn local_paths_are_relative_to_the_base_and_keep_globs() {
        let stores = Stores::default();
        let at = |text: &str| stores.locate(text, FsPath::new("/base/x")).unwrap();
        assert_eq!(at("data/orders/*.csv").prefix.as_ref(), "base/x/data/orders/*.csv");
        assert_eq!(at("../y/./a?[bc].csv").prefix.as_ref(), "base/y/a?[bc].csv");
        assert_eq!(at("/abs/100%/é").prefix.as_ref(), "abs/100%/é");
        assert_eq!(at("file:///a%20b/c").prefix.as_ref(), "a b/c");
        assert_eq!(at("file:///a%20b/c").uri("t/p=a%2Fb"), "file:///a b/c/t/p=a%2Fb");
        assert_eq!(at("~/x").prefix.as_ref(), "base/x/~/x");
        assert_eq!(at("a").url.as_str(), "file:///base/x/a");
    }

    #[test]
    fn buckets_are_opened_once_and_wrapped() {
        let count = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&count);
        let stores = Stores::new(Some(Arc::new(move |store| {
            *seen.lock() += 1;
            store
        })));
        let base = FsPath::new("/");
        let a = stores.locate("s3://bucket/a/*.csv", base).unwrap();
        let b = stores.locate("s3a://bucket/b/", base).unwrap();
        assert!(Arc::ptr_eq(&a.store, &b.store));
        assert_eq!((a.prefix.as_ref(), b.prefix.as_ref()), ("a/*.csv", "b"));
        assert_eq!(a.root.as_str(), "s3://bucket/");
        assert_eq!(b.join("t").unwrap().uri("x"), "s3://bucket/b/t/x");
        let root = stores.locate("s3://other", base).unwrap();
        assert_eq!(root.uri("x"), "s3://other/x");
        assert_eq!(*count.lock(), 2);
    }

    #[tokio::test]
    async fn memory_is_one_store_and_local_writes_make_folders() {
        let stores = Stores::default();
        let base = FsPath::new("/");
        let a = stores.locate("memory://lake/silver", base).unwrap();
        a.store.put(&a.path("t/x").unwrap(), "1".into()).await.unwrap();
        let b = stores.locate("memory:///lake/silver/t", base).unwrap();
        assert_eq!(b.store.get(&b.path("x").unwrap()).await.unwrap().bytes().await.unwrap().as_ref(), b"1");

        let dir = tempfile::tempdir().unwrap();
        let local = stores.locate("lake", dir.path()).unwrap().join("silver/t").unwrap();
        local.store.put(&local.path("k=a%2Fb/x").unwrap(), "1".into()).await.unwrap();
        assert!(dir.path().join("lake/silver/t/k=a%2Fb/x").exists());
    }

    #[test]
    fn azure_containers_of_one_account_stay_apart() {
        let stores = Stores::default();
        let at = |text: &str| stores.locate(text, FsPath::new("/")).unwrap();
        let a = at("abfss://one@acme.dfs.core.windows.net/x");
        let b = at("abfss://two@acme.dfs.core.windows.net/x");
        assert_ne!(a.root, b.root);
        assert!(!Arc::ptr_eq(&a.store, &b.store));
        assert_eq!(a.uri("f"), "abfss://one@acme.dfs.core.windows.net/x/f");
    }

    #[test]
    fn bad_urls_say_what_to_write() {
        assert!(message("https://x/y").contains("https:// is not known"));
        assert!(message("https://x/y").contains("s3://"));
        assert!(message("s3:///x").contains("names no bucket"));
        assert!(message("file://host/x").contains("three slashes"));
        assert!(message("s3://b/a/../c").contains("not a path"));
        assert!(message("").contains("empty"));
    }

    #[test]
    fn decode_leaves_what_is_no_escape() {
        assert_eq!(decode("a%20b%zz%2"), "a b%zz%2");
        assert_eq!(decode("S%C3%A3o%"), "São%");
        assert_eq!(decode("%FF"), "%FF");
    }
}
