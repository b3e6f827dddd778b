//! Cuts the text of one file into blocks of whole records. One task per open file does this; decoding is elsewhere.

use bytes::Bytes;
use memchr::memchr_iter;
use smelt_engine::error::{Error, Result};

use super::block::{Block, Splitter};
use super::bytes::{Fill, TextReader};

/// Text of an ordinary block: about 8,000 rows of 128 bytes.
pub const BLOCK: usize = 1 << 20;
/// A record longer than this stops the load, since it must be held whole.
const LONGEST: usize = 256 << 20;

/// What a file gives, in order.
#[derive(Debug)]
pub enum Piece {
    Block(Block),
    /// The file cannot be read on from here: one malformed record stands for what is lost.
    Broken(Broken),
}

/// Where and why a file breaks off.
#[derive(Debug)]
pub struct Broken {
    pub file: usize,
    pub line: u64,
    pub offset: u64,
    pub reason: String,
    /// The text after the last whole record, up to 64 KB of it.
    pub raw: Vec<u8>,
}

/// Reads one file as blocks.
pub struct Chunker {
    file: usize,
    path: String,
    reader: TextReader,
    splitter: Box<dyn Splitter>,
    block: usize,
    /// Text that was read and not yet given.
    rest: Bytes,
    /// `rest` may begin with whole records.
    ready: bool,
    end: Option<Fill>,
    line: u64,
    offset: u64,
}

impl std::fmt::Debug for Chunker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunker").field("path", &self.path).field("line", &self.line).finish_non_exhaustive()
    }
}

impl Chunker {
    /// Blocks of about `block` bytes of the text of `reader`, which is the file numbered `file`.
    pub fn new(file: usize, path: impl Into<String>, reader: TextReader, splitter: Box<dyn Splitter>, block: usize) -> Self {
        let (path, rest) = (path.into(), Bytes::new());
        Chunker { file, path, reader, splitter, block, rest, ready: false, end: None, line: 1, offset: 0 }
    }

    /// The next piece; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if self.ready && !self.rest.is_empty() {
                let n = self.splitter.split(&self.rest, self.end == Some(Fill::End))?;
                if n > 0 {
                    let bytes = self.rest.split_to(n);
                    if self.rest.is_empty() && self.end.is_none() {
                        // Only so is it known whether this block is the last.
                        self.read().await?;
                    }
                    self.ready = self.end.is_some() || self.rest.len() >= self.block;
                    return Ok(Some(Piece::Block(self.block_of(bytes))));
                }
                self.ready = false;
                if self.rest.len() > LONGEST {
                    return Err(Error::data(
                        format!("`{}` has a record of more than {} MB at line {}", self.path, LONGEST >> 20, self.line),
                        "check the source's kind, `encoding`, `compression` and `quote`, or take the file away",
                    ));
                }
            }
            match self.end.take() {
                None => self.read().await?,
                Some(Fill::Broken(reason)) => {
                    self.end = Some(Fill::End);
                    let raw = std::mem::take(&mut self.rest);
                    let raw = raw[..raw.len().min(64 << 10)].to_vec();
                    return Ok(Some(Piece::Broken(Broken { file: self.file, line: self.line, offset: self.offset, reason, raw })));
                }
                Some(end) if self.rest.is_empty() => {
                    self.end = Some(end);
                    return Ok(None);
                }
                Some(_) => return Err(Error::bug(format!("`{}`: a splitter left {} bytes at the end", self.path, self.rest.len()))),
            }
        }
    }

    fn block_of(&mut self, bytes: Bytes) -> Block {
        let block = Block {
            file: self.file,
            first_line: self.line,
            offset: self.offset,
            last: self.end == Some(Fill::End) && self.rest.is_empty(),
            bytes,
        };
        self.line += memchr_iter(self.splitter.newline(), &block.bytes).count() as u64;
        self.offset += block.bytes.len() as u64;
        block
    }

    /// Puts more text behind `rest`: a block, or as much again where a long record is under way.
    async fn read(&mut self) -> Result<()> {
        let goal = self.rest.len() + self.block.max(self.rest.len());
        let mut buf = Vec::with_capacity(goal + 8192);
        buf.extend_from_slice(&self.rest);
        self.rest = Bytes::new();
        while buf.len() < goal && self.end.is_none() {
            let want = goal - buf.len();
            let end = self.reader.fill(&mut buf, want).await?;
            if end != Fill::More {
                self.end = Some(end);
            }
        }
        self.rest = Bytes::from(buf);
        self.ready = true;
        Ok(())
    }
}
