//! An object store that dies: from one operation on, nothing works any more, as if the process had been killed there. Or it
//! fails once and works again, or never answers again. The fatal operation itself either did not happen, or happened and its
//! reply was lost.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};

/// When a store dies.
#[derive(Debug)]
pub struct Fuse {
    /// Operations that still work; below zero all is dead.
    left: AtomicI64,
    /// Whether the operation at which it dies takes effect.
    lost_reply: bool,
    manner: Manner,
}

/// What the fatal operation and those after it do.
#[derive(Debug)]
enum Manner {
    /// All fail.
    Dies,
    /// The fatal one fails, the others work.
    Fails,
    /// None of them ever answers; the first one says so.
    Hangs(Mutex<Option<oneshot::Sender<()>>>),
}

impl Fuse {
    /// Dies at operation number `at`, from 1.
    pub fn new(at: i64, lost_reply: bool) -> Arc<Self> {
        Self::of(at, lost_reply, Manner::Dies)
    }

    /// Operation number `at` fails, and no other.
    pub fn once(at: i64, lost_reply: bool) -> Arc<Self> {
        Self::of(at, lost_reply, Manner::Fails)
    }

    /// From operation number `at` on there is no answer any more. The receiver hears of it: whoever waits for the store may then
    /// be dropped, which is how a process looks from outside that was killed there.
    pub fn hanging(at: i64, lost_reply: bool) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (reached, hears) = oneshot::channel();
        (Self::of(at, lost_reply, Manner::Hangs(Mutex::new(Some(reached)))), hears)
    }

    fn of(at: i64, lost_reply: bool, manner: Manner) -> Arc<Self> {
        Arc::new(Fuse { left: AtomicI64::new(at - 1), lost_reply, manner })
    }

    /// Never dies, but counts.
    pub fn counting() -> Arc<Self> {
        Self::new(i64::MAX, false)
    }

    /// Operations so far, for a fuse made by `counting`.
    pub fn used(&self) -> i64 {
        i64::MAX - 1 - self.left.load(Ordering::SeqCst)
    }

    fn step(&self) -> Step {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            left if left > 0 => Step::Works,
            0 if self.lost_reply => Step::LastBreath,
            0 => Step::Dead,
            _ if matches!(self.manner, Manner::Fails) => Step::Works,
            _ => Step::Dead,
        }
    }

    /// The answer of an operation that does not work.
    async fn die<T>(&self) -> Result<T> {
        if let Manner::Hangs(reached) = &self.manner {
            let reached = reached.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(reached) = reached {
                let _ = reached.send(());
            }
            return std::future::pending().await;
        }
        Err(object_store::Error::Generic { store: "faults", source: "the store died".into() })
    }
}

enum Step {
    Works,
    /// Takes effect, and the reply is lost.
    LastBreath,
    Dead,
}

/// Wraps a store with a fuse.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    fuse: Arc<Fuse>,
}

impl FaultStore {
    pub fn new(inner: Arc<dyn ObjectStore>, fuse: Arc<Fuse>) -> Self {
        FaultStore { inner, fuse }
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faults over {}", self.inner)
    }
}

macro_rules! with_fuse {
    ($self:ident, $work:expr) => {
        match $self.fuse.step() {
            Step::Works => $work,
            Step::LastBreath => {
                let _ = $work;
                $self.fuse.die().await
            }
            Step::Dead => $self.fuse.die().await,
        }
    };
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        with_fuse!(self, self.inner.put_opts(location, payload.clone(), opts.clone()).await)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        match self.fuse.step() {
            Step::Works => {
                let inner = self.inner.put_multipart_opts(location, opts).await?;
                Ok(Box::new(FaultUpload { inner, fuse: Arc::clone(&self.fuse) }))
            }
            _ => self.fuse.die().await,
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        with_fuse!(self, self.inner.get_opts(location, options.clone()).await)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        with_fuse!(self, self.inner.get_ranges(location, ranges).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.fuse.step() {
            Step::Works => self.inner.delete_stream(locations),
            _ => {
                let fuse = Arc::clone(&self.fuse);
                locations
                    .then(move |_| {
                        let fuse = Arc::clone(&fuse);
                        async move { fuse.die().await }
                    })
                    .boxed()
            }
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.fuse.step() {
            Step::Works => self.inner.list(prefix),
            _ => {
                let fuse = Arc::clone(&self.fuse);
                futures::stream::once(async move { fuse.die().await }).boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        with_fuse!(self, self.inner.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        with_fuse!(self, self.inner.copy_opts(from, to, options.clone()).await)
    }
}

#[derive(Debug)]
struct FaultUpload {
    inner: Box<dyn MultipartUpload>,
    fuse: Arc<Fuse>,
}

#[async_trait]
impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.fuse.step() {
            Step::Works => self.inner.put_part(data),
            _ => {
                let fuse = Arc::clone(&self.fuse);
                async move { fuse.die().await }.boxed()
            }
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        with_fuse!(self, self.inner.complete().await)
    }

    async fn abort(&mut self) -> Result<()> {
        with_fuse!(self, self.inner.abort().await)
    }
}
