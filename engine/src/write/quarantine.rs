//! Where rejected rows go: Parquet files at a prefix, begun when the first row arrives.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use tokio::sync::Mutex;

use super::file::Encoder;
use super::files::{Files, Folder};
use super::{WriteSpec, stored_schema, views};
use crate::error::{Error, Result};
use crate::ledger::RejectSink;
use crate::table::DataFile;

/// Bytes of rejected rows that are buffered before they are encoded.
const BUFFER: usize = 16 << 20;

/// Writes rejected rows. All batches of one sink must have one schema; the first one's is taken.
#[derive(Debug)]
pub struct QuarantineSink {
    spec: Arc<WriteSpec>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
    over: bool,
}

#[derive(Debug)]
struct Open {
    files: Files,
    folder: Arc<Folder>,
    schema: arrow::datatypes::SchemaRef,
    batches: Vec<RecordBatch>,
    bytes: usize,
}

impl QuarantineSink {
    /// `spec` says where; its partition columns are not used.
    pub fn new(spec: WriteSpec) -> Self {
        QuarantineSink { spec: Arc::new(WriteSpec { partition_columns: vec![], ..spec }), state: Mutex::default() }
    }

    /// Closes the files and gives them; none when nothing was rejected. Later pushes fail.
    pub async fn finish(&self) -> Result<Vec<DataFile>> {
        let mut state = self.state.lock().await;
        state.over = true;
        let Some(mut open) = state.open.take() else { return Ok(vec![]) };
        let done = match open.flush().await {
            Ok(()) => open.files.finish().await,
            Err(e) => Err(e),
        };
        if done.is_err() {
            open.files.abort().await;
        }
        done
    }

    /// Takes back everything that was written.
    pub async fn abort(&self) {
        let mut state = self.state.lock().await;
        state.over = true;
        if let Some(open) = state.open.take() {
            open.files.abort().await;
        }
    }
}

#[async_trait]
impl RejectSink for QuarantineSink {
    async fn push(&self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let mut state = self.state.lock().await;
        if state.over {
            return Err(Error::bug("a row was rejected after the quarantine was closed"));
        }
        let open = match &mut state.open {
            Some(open) => open,
            none => none.insert(Open::new(Arc::clone(&self.spec), &rows)?),
        };
        open.push(&rows).await
    }
}

impl Open {
    fn new(spec: Arc<WriteSpec>, rows: &RecordBatch) -> Result<Self> {
        let schema = Arc::new(stored_schema(rows.schema_ref())?);
        let encoder = Arc::new(Encoder::new(Arc::clone(&schema), spec.zstd_level)?);
        let files = Files::new(spec, encoder, None, None);
        let folder = files.folder(vec![]);
        Ok(Open { files, folder, schema, batches: vec![], bytes: 0 })
    }

    async fn push(&mut self, rows: &RecordBatch) -> Result<()> {
        if rows.num_columns() != self.schema.fields().len() {
            return Err(Error::bug("rejected rows of two schemas in one quarantine"));
        }
        let stored = |(a, f): (&arrow::array::ArrayRef, &arrow::datatypes::FieldRef)| {
            if a.data_type() == f.data_type() { Ok(Arc::clone(a)) } else { arrow::compute::cast(a, f.data_type()) }
        };
        let columns = rows.columns().iter().zip(self.schema.fields()).map(stored).collect::<Result<_, _>>()?;
        let rows = views::own(&RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        self.bytes += views::bytes(&rows);
        self.batches.push(rows);
        if self.bytes >= BUFFER { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        if self.batches.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let group = self.files.encoder().encode(std::mem::take(&mut self.batches))?;
        self.files.append(&self.folder, group).await
    }
}
