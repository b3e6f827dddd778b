//! The files that one write has open: one for each hive partition, shared by all input streams, until its size rolls it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use datafusion::execution::memory_pool::MemoryReservation;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parking_lot::Mutex;
use uuid::Uuid;

use super::WriteSpec;
use super::file::{Encoder, OpenFile, RowGroup};
use super::hive::folder;
use super::stats::delta_stats;
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::table::DataFile;

/// Files closed at the same time, at the end.
const CLOSE_AT_ONCE: usize = 8;

/// One hive partition and its open file, if any.
#[derive(Debug)]
pub(crate) struct Folder {
    partition: Vec<(String, Option<String>)>,
    /// Below the table's root, without the file's name; empty or ending in `/`.
    path: String,
    file: tokio::sync::Mutex<Option<OpenFile>>,
    /// What `file` may hold in memory; 0 when there is none.
    held: AtomicUsize,
}

#[derive(Debug)]
pub(crate) struct Files {
    spec: Arc<WriteSpec>,
    encoder: Arc<Encoder>,
    ledger: Option<Arc<Ledger>>,
    memory: Option<MemoryReservation>,
    folders: Mutex<HashMap<String, Arc<Folder>>>,
    finished: Mutex<Vec<DataFile>>,
    count: AtomicUsize,
    kept: AtomicBool,
}

impl Files {
    /// `ledger` counts rows and bytes; `memory` is asked for what uploads hold.
    pub fn new(spec: Arc<WriteSpec>, encoder: Arc<Encoder>, ledger: Option<Arc<Ledger>>, memory: Option<MemoryReservation>) -> Self {
        Files {
            spec,
            encoder,
            ledger,
            memory,
            folders: Mutex::default(),
            finished: Mutex::default(),
            count: AtomicUsize::new(0),
            kept: AtomicBool::new(false),
        }
    }

    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The folder of the partition with these values, in the order of the partition columns.
    pub fn folder(&self, values: Vec<Option<String>>) -> Arc<Folder> {
        let partition: Vec<_> = self.spec.partition_columns.iter().cloned().zip(values).collect();
        let mut path = String::new();
        let prefix = self.spec.prefix.trim_matches('/');
        let names = partition.iter().map(|(column, value)| folder(column, value.as_deref()));
        for part in Some(prefix.to_owned()).filter(|p| !p.is_empty()).into_iter().chain(names) {
            path.push_str(&part);
            path.push('/');
        }
        let mut folders = self.folders.lock();
        let new = |path: &String| Folder { partition, path: path.clone(), file: Default::default(), held: AtomicUsize::new(0) };
        Arc::clone(folders.entry(path).or_insert_with_key(|path| Arc::new(new(path))))
    }

    /// Appends to the folder's file, and closes the file when it is large enough or memory is short.
    pub async fn append(&self, folder: &Arc<Folder>, group: RowGroup) -> Result<()> {
        let rows = group.rows;
        let mut file = folder.file.lock().await;
        let open = match &mut *file {
            Some(open) => open,
            none => none.insert(self.open(folder)?),
        };
        open.append(group).await?;
        let (bytes, held) = (open.bytes(), open.held());
        folder.held.store(held, Ordering::Relaxed);
        if let Some(ledger) = &self.ledger {
            Ledger::add(&ledger.written, rows);
        }
        if bytes >= self.spec.target_file_size {
            self.close(folder, &mut file).await?;
        }
        drop(file);
        self.relieve().await
    }

    /// Ends the file that the folder has open, if any: no more rows of its partition will come.
    pub async fn close_folder(&self, folder: &Arc<Folder>) -> Result<()> {
        let mut file = folder.file.lock().await;
        self.close(folder, &mut file).await
    }

    /// Bytes at which a file ends.
    pub fn target(&self) -> u64 {
        self.spec.target_file_size
    }

    /// Closes everything and gives the files, by path of their partition.
    pub async fn finish(&self) -> Result<Vec<DataFile>> {
        let folders: Vec<_> = self.folders.lock().drain().map(|(_, f)| f).collect();
        let close = |folder: Arc<Folder>| async move {
            let mut file = folder.file.lock().await;
            self.close(&folder, &mut file).await
        };
        futures::stream::iter(folders.into_iter().map(close)).buffer_unordered(CLOSE_AT_ONCE).try_collect::<Vec<()>>().await?;
        let mut finished = std::mem::take(&mut *self.finished.lock());
        finished.sort_by(|a, b| (&a.partition, &a.path).cmp(&(&b.partition, &b.path)));
        self.kept.store(true, Ordering::Relaxed);
        Ok(finished)
    }

    /// Takes back everything, finished files included.
    pub async fn abort(&self) {
        self.kept.store(true, Ordering::Relaxed);
        let folders: Vec<_> = self.folders.lock().drain().map(|(_, f)| f).collect();
        for folder in folders {
            if let Some(file) = folder.file.lock().await.take() {
                file.abort().await;
            }
        }
        let finished = std::mem::take(&mut *self.finished.lock());
        remove(&self.spec, finished).await;
    }

    fn open(&self, folder: &Folder) -> Result<OpenFile> {
        let name = format!("{}part-{:05}-{}.zstd.parquet", folder.path, self.count.fetch_add(1, Ordering::Relaxed), Uuid::new_v4());
        let path = full(&self.spec, &name)?;
        OpenFile::new(&self.encoder, Arc::clone(&self.spec.store), path)
    }

    async fn close(&self, folder: &Folder, file: &mut Option<OpenFile>) -> Result<()> {
        let Some(file) = file.take() else { return Ok(()) };
        let path = file.path.clone();
        let done = file.finish().await?;
        folder.held.store(0, Ordering::Relaxed);
        if let Some(ledger) = &self.ledger {
            Ledger::add(&ledger.bytes_written, done.bytes as usize);
        }
        let name = path.filename().unwrap_or_default();
        self.finished.lock().push(DataFile {
            path: format!("{}{name}", folder.path),
            partition: folder.partition.clone(),
            rows: done.rows,
            bytes: done.bytes,
            stats: Some(delta_stats(&done.meta)),
            modified: self.spec.now_ms,
        });
        Ok(())
    }

    /// Closes the largest files until the pool grants what the open ones hold.
    async fn relieve(&self) -> Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        loop {
            let open: Vec<_> = self.folders.lock().values().map(|f| (f.held.load(Ordering::Relaxed), Arc::clone(f))).collect();
            if memory.try_resize(open.iter().map(|(held, _)| held).sum()).is_ok() {
                return Ok(());
            }
            let Some((_, largest)) = open.into_iter().filter(|(held, _)| *held > 0).max_by_key(|(held, _)| *held) else {
                return Ok(());
            };
            let mut file = largest.file.lock().await;
            self.close(&largest, &mut file).await?;
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let finished = std::mem::take(self.finished.get_mut());
        // Open files take themselves back.
        if !*self.kept.get_mut()
            && !finished.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let spec = Arc::clone(&self.spec);
            drop(runtime.spawn(async move { remove(&spec, finished).await }));
        }
    }
}

async fn remove(spec: &WriteSpec, files: Vec<DataFile>) {
    for file in files {
        if let Ok(path) = full(spec, &file.path) {
            let _ = spec.store.delete(&path).await;
        }
    }
}

/// The path in the store of a path below the table's root.
fn full(spec: &WriteSpec, below: &str) -> Result<Path> {
    let root = spec.root.as_ref();
    let text = if root.is_empty() { below.to_owned() } else { format!("{root}/{below}") };
    Path::parse(&text)
        .map_err(|e| Error::data(format!("a partition value makes no path: {e}"), "partition by a column with plainer values"))
}
