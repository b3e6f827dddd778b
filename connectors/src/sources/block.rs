//! The seam between reading bytes and decoding records: a file is cut into blocks of whole records under the file's
//! lock, and blocks are decoded on any partition, without the lock.

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use smelt_engine::Result;

/// Whole records of one file, as UTF-8 as the source's encoding allows (validity is the decoder's to check, record by record).
#[derive(Debug, Clone)]
pub struct Block {
    /// Index into the scan's file list.
    pub file: usize,
    /// Decompressed, transcoded to UTF-8, without BOM.
    pub bytes: Bytes,
    /// 1-based physical line of the first byte.
    pub first_line: u64,
    /// Offset of the first byte in the decoded text of the file.
    pub offset: u64,
    /// The last block of its file.
    pub last: bool,
}

/// Finds record ends. One per open file; called under the file's lock, so it must be fast.
pub trait Splitter: Send {
    /// How many bytes at the start of `buf` are whole records; `buf` starts at a record. 0: more bytes are needed.
    /// At `eof` it must consume everything (in several calls, if it likes). The same bytes must give the same records however they are cut.
    fn split(&mut self, buf: &[u8], eof: bool) -> Result<usize>;

    /// The byte that ends a physical line, for line numbers.
    fn newline(&self) -> u8 {
        b'\n'
    }
}

/// Turns blocks into raw rows: one Utf8View column per contract column, then the hidden columns `_file`, `_line`, `_offset`,
/// `_malformed`, `_raw` and, where asked for, `_rescued`. Pure: no I/O, no order between blocks.
pub trait Decoder: Send + Sync {
    fn decode(&self, block: Block) -> Result<Vec<RecordBatch>>;
}
