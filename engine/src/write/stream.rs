//! One input stream of a write: buffers rows by hive partition, encodes whole row groups, hands them to the shared files.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::execution::memory_pool::MemoryReservation;

use super::file::RowGroup;
use super::files::{Files, Folder};
use super::split::{Groups, groups, split};
use super::{hive, views};
use crate::error::Result;

/// Rows of a row group, at most.
const GROUP_ROWS: usize = 1 << 20;
/// Bytes of a row group before encoding, at most.
const GROUP_BYTES: usize = 128 << 20;
/// Bytes that one stream buffers over all partitions before it encodes the largest, however much the pool would give:
/// row groups gain nothing from more.
const STREAM_BYTES: usize = 256 << 20;
/// Pieces below this many rows are joined before they pile up.
const SMALL: usize = 1024;

/// How columns of the input divide into partition columns and columns of the files.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub partition: Vec<usize>,
    pub data: Vec<usize>,
}

impl Layout {
    /// `None` when a partition column is missing or no column would be left for the files.
    pub fn new(schema: &Schema, partition_columns: &[String]) -> Option<Self> {
        let partition = partition_columns.iter().map(|c| schema.index_of(c).ok()).collect::<Option<Vec<_>>>()?;
        let data: Vec<usize> = (0..schema.fields().len()).filter(|i| !partition.contains(i)).collect();
        (!data.is_empty()).then_some(Layout { partition, data })
    }

    /// The schema of the files.
    pub fn file_schema(&self, schema: &Schema) -> Result<SchemaRef> {
        // Without metadata: what the input's schema carries is of no use to a reader of the files.
        Ok(Arc::new(Schema::new(schema.project(&self.data)?.fields().clone())))
    }
}

pub(crate) struct StreamWriter {
    files: Arc<Files>,
    layout: Layout,
    memory: MemoryReservation,
    group_bytes: usize,
    groups: Box<dyn Groups>,
    ids: Vec<u32>,
    parts: Vec<Part>,
    held: usize,
}

/// The buffered rows of one partition.
struct Part {
    folder: Arc<Folder>,
    batches: Vec<RecordBatch>,
    /// How many at the end of `batches` are small, and their rows.
    small: (usize, usize),
    rows: usize,
    bytes: usize,
}

impl StreamWriter {
    pub fn new(files: Arc<Files>, schema: &Schema, layout: Layout, memory: MemoryReservation) -> Result<Self> {
        let types: Vec<_> = layout.partition.iter().map(|i| schema.field(*i).data_type().clone()).collect();
        // Encoding halves the bytes at the least, in practice.
        let group_bytes = GROUP_BYTES.min(usize::try_from(files.target()).unwrap_or(usize::MAX).saturating_mul(2)).max(1);
        let mut writer = StreamWriter { files, layout, memory, group_bytes, groups: groups(&types)?, ids: vec![], parts: vec![], held: 0 };
        if writer.layout.partition.is_empty() {
            writer.add_part(vec![]);
        }
        Ok(writer)
    }

    /// For rows of one partition only. `schema`: that of the files, without partition columns; `group_bytes`: of a row group before
    /// encoding, at most.
    pub fn of_partition(
        files: Arc<Files>,
        schema: &Schema,
        values: Vec<Option<String>>,
        group_bytes: usize,
        memory: MemoryReservation,
    ) -> Result<Self> {
        let layout = Layout { partition: vec![], data: (0..schema.fields().len()).collect() };
        let group_bytes = group_bytes.min(usize::try_from(files.target()).unwrap_or(usize::MAX).saturating_mul(2)).max(1);
        let mut writer = StreamWriter { files, layout, memory, group_bytes, groups: groups(&[])?, ids: vec![], parts: vec![], held: 0 };
        writer.add_part(values);
        Ok(writer)
    }

    /// Takes a row group that is encoded already.
    pub async fn append(&mut self, group: RowGroup) -> Result<()> {
        self.files.append(&self.parts[0].folder, group).await
    }

    pub async fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let data = batch.project(&self.layout.data)?;
        if self.layout.partition.is_empty() {
            self.add(0, views::compact(&data))?;
        } else {
            let columns: Vec<ArrayRef> = self.layout.partition.iter().map(|i| Arc::clone(batch.column(*i))).collect();
            let count = self.groups.number(&columns, &mut self.ids)?;
            if count > self.parts.len() {
                for row in 0..batch.num_rows() {
                    if self.ids[row] as usize == self.parts.len() {
                        let values = columns.iter().map(|c| hive::value(c, row)).collect::<Result<_>>()?;
                        self.add_part(values);
                    }
                }
            }
            let pieces = split(&data, &self.ids, count)?;
            if let [(part, all)] = pieces.as_slice() {
                self.add(*part, views::compact(all))?;
            } else {
                for (part, piece) in pieces {
                    self.add(part, views::own(&piece))?;
                }
            }
        }
        for part in 0..self.parts.len() {
            if self.parts[part].rows >= GROUP_ROWS || self.parts[part].bytes >= self.group_bytes {
                self.flush(part).await?;
            }
        }
        while self.held > STREAM_BYTES || self.memory.try_resize(self.held).is_err() {
            let largest = (0..self.parts.len()).max_by_key(|p| self.parts[*p].bytes);
            match largest.filter(|p| self.parts[*p].rows > 0) {
                Some(largest) => self.flush(largest).await?,
                None => break,
            }
        }
        Ok(())
    }

    pub async fn finish(mut self) -> Result<()> {
        for part in 0..self.parts.len() {
            self.flush(part).await?;
            self.memory.resize(self.held);
        }
        Ok(())
    }

    fn add_part(&mut self, values: Vec<Option<String>>) {
        let folder = self.files.folder(values);
        self.parts.push(Part { folder, batches: vec![], small: (0, 0), rows: 0, bytes: 0 });
    }

    fn add(&mut self, part: u32, rows: RecordBatch) -> Result<()> {
        let part = &mut self.parts[part as usize];
        let bytes = views::bytes(&rows);
        part.rows += rows.num_rows();
        part.bytes += bytes;
        self.held += bytes;
        part.small = if rows.num_rows() < SMALL { (part.small.0 + 1, part.small.1 + rows.num_rows()) } else { (0, 0) };
        part.batches.push(rows);
        let (count, small) = part.small;
        if count >= 32 || small >= 8 * SMALL {
            let pieces = part.batches.split_off(part.batches.len() - count);
            part.batches.push(concat_batches(pieces[0].schema_ref(), &pieces)?);
            part.small = if small < SMALL { (1, small) } else { (0, 0) };
        }
        Ok(())
    }

    async fn flush(&mut self, part: usize) -> Result<()> {
        let part = &mut self.parts[part];
        if part.rows == 0 {
            return Ok(());
        }
        let batches = std::mem::take(&mut part.batches);
        self.held -= part.bytes;
        (part.rows, part.bytes, part.small) = (0, 0, (0, 0));
        let group = self.files.encoder().encode(batches)?;
        self.files.append(&part.folder, group).await
    }
}
