//! Blocks of JSON to batches of raw rows: finds each record, has it walked, and turns a broken one into one malformed row.
//! Knows no JSON beyond the ends of records.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, BinaryViewArray, Int64Array, new_null_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use parking_lot::Mutex;
use smelt_engine::contract::hidden;
use smelt_engine::{Error, Result};

use super::envelope::UNAVAILABLE;
use super::plan::{Plan, plan};
use super::scan::{Brackets, Stop};
use super::split::{JsonSplitter, Layout, Layouts, detect};
use super::views::{self, GIVEN_NULL, MAX_BLOCK, NULL};
use super::walk::{MAX_UNKNOWN, Walk};
use super::{JsonColumn, JsonOptions};
use crate::sources::block::{Block, Decoder, Splitter};

/// Rows per batch.
const BATCH: usize = 8192;

/// Decodes blocks of JSON. Make each file's splitter with [`JsonDecoder::splitter`]: it notes the layout of the file.
#[derive(Debug)]
pub struct JsonDecoder {
    plan: Plan,
    options: JsonOptions,
    /// Messages without a row that nobody was told of yet.
    tombstones: AtomicU64,
    files: Arc<Vec<String>>,
    /// By file: the columns that the file's path gives, with their value.
    given: Vec<Vec<(usize, Option<String>)>>,
    schema: SchemaRef,
    layouts: Layouts,
    unknown: Mutex<BTreeSet<String>>,
}

impl JsonDecoder {
    /// `files` is the shown path for each `Block::file`. `partitions` are the values that each file's path gives; they fill the
    /// columns of those names that have no path of their own.
    ///
    /// # Errors
    /// `Pipeline` at `columns.NAME.path` or `explode`: a path that cannot be read.
    pub fn new(
        columns: Vec<JsonColumn>,
        options: JsonOptions,
        files: Arc<Vec<String>>,
        partitions: Vec<Vec<(String, Option<String>)>>,
    ) -> Result<Self> {
        let given = partitions.into_iter().map(|values| {
            let column = |name: &str| columns.iter().position(|c| c.name == name && c.path.is_none());
            values.into_iter().filter_map(|(name, value)| Some((column(&name)?, value))).collect()
        });
        let text = |name: &str, nullable| Field::new(name, DataType::Utf8View, nullable);
        let mut fields: Vec<Field> = columns.iter().map(|c| text(&c.name, true)).collect();
        fields.extend([
            text(hidden::FILE, false),
            Field::new(hidden::LINE, DataType::Int64, false),
            Field::new(hidden::OFFSET, DataType::Int64, false),
            text(hidden::MALFORMED, true),
            text(hidden::RAW, true),
        ]);
        if options.rescue {
            fields.push(text(hidden::RESCUED, true));
        }
        if options.absent {
            fields.push(Field::new(hidden::ABSENT, DataType::BinaryView, true));
        }
        Ok(JsonDecoder {
            given: given.collect(),
            plan: plan(&columns, &options)?,
            options,
            tombstones: AtomicU64::new(0),
            schema: Arc::new(Schema::new(fields)),
            layouts: Layouts::new(files.len()),
            files,
            unknown: Mutex::default(),
        })
    }

    /// Of the batches: one column per contract column, then the hidden ones.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// A splitter for the file with that index, which detects how the file is laid out.
    pub fn splitter(&self, file: usize) -> Box<dyn Splitter> {
        Box::new(JsonSplitter::new(self.layouts.clone(), file))
    }

    /// Top-level keys of the records so far that no column wants; a few hundred at most.
    pub fn unknown_keys(&self) -> Vec<String> {
        self.unknown.lock().iter().cloned().collect()
    }

    /// How many messages without a row were met since the last call.
    pub fn take_tombstones(&self) -> u64 {
        if self.options.debezium { self.tombstones.swap(0, Ordering::Relaxed) } else { 0 }
    }

    /// The layout that the file's splitter noted. Without one the block must tell, which the first block of a file can.
    fn layout(&self, block: &Block) -> Layout {
        self.layouts.get(block.file).or_else(|| detect(&block.bytes, true)).unwrap_or(Layout::Lines)
    }
}

impl Decoder for JsonDecoder {
    fn decode(&self, block: Block) -> Result<Vec<RecordBatch>> {
        if block.bytes.len() > MAX_BLOCK {
            let file = self.files.get(block.file).map_or("", String::as_str);
            return Err(Error::data(
                format!("{file}: the record at line {} is longer than 2 GiB, or its end cannot be found", block.first_line),
                "split the record, or repair the file: a quote or a bracket may be missing",
            ));
        }
        let layout = self.layout(&block);
        let mut rows = Rows::new(self, &block);
        match layout {
            Layout::Lines => rows.lines()?,
            Layout::Array => rows.array(block.last)?,
            Layout::Objects => rows.objects()?,
        }
        rows.flush()?;
        if rows.walk.tombstones > 0 {
            self.tombstones.fetch_add(rows.walk.tombstones, Ordering::Relaxed);
        }
        if !rows.walk.unknown.is_empty() {
            let mut unknown = self.unknown.lock();
            for name in &rows.walk.unknown {
                if unknown.len() < MAX_UNKNOWN && !unknown.contains(name) {
                    unknown.insert(name.clone());
                }
            }
        }
        Ok(rows.batches)
    }
}

/// The rows of one block.
struct Rows<'a> {
    decoder: &'a JsonDecoder,
    block: &'a Block,
    buffer: Buffer,
    walk: Walk<'a>,
    /// The block is UTF-8; else each record is looked at.
    utf8: bool,
    lines: Vec<i64>,
    offsets: Vec<i64>,
    /// Malformed rows: row, reason, raw text.
    broken: Vec<(usize, u128, u128)>,
    batches: Vec<RecordBatch>,
}

impl<'a> Rows<'a> {
    fn new(decoder: &'a JsonDecoder, block: &'a Block) -> Self {
        let capacity = (block.bytes.len() / 2 + 2).min(BATCH);
        let mut walk = Walk::new(&decoder.plan, &block.bytes, decoder.options.rescue, capacity);
        walk.tell_nulls = decoder.options.absent;
        Rows {
            decoder,
            block,
            buffer: Buffer::from(block.bytes.clone()),
            walk,
            utf8: simdutf8::basic::from_utf8(&block.bytes).is_ok(),
            lines: vec![],
            offsets: vec![],
            broken: vec![],
            batches: vec![],
        }
    }

    fn lines(&mut self) -> Result<()> {
        let text: &'a [u8] = &self.block.bytes;
        let (mut pos, mut line) = (0, self.block.first_line);
        while pos < text.len() {
            let newline = memchr::memchr(b'\n', &text[pos..]).map_or(text.len(), |n| pos + n);
            let mut start = pos;
            while start < newline && matches!(text[start], b' ' | b'\t' | b'\r') {
                start += 1;
            }
            if start < newline {
                let end = newline - usize::from(text[newline - 1] == b'\r');
                self.walk.scan.text = &text[..end];
                self.walk.scan.pos = start;
                // The walk may not see what is no UTF-8: it would end up in views.
                let read = if self.utf8 || self.is_utf8(start..end) {
                    self.one()
                } else {
                    self.walk.begin();
                    Err(Stop)
                };
                match read {
                    Ok(()) => self.keep(start, line),
                    Err(Stop) => self.reject(start..end, start, line, ""),
                }
                if self.walk.base >= BATCH {
                    self.flush()?;
                }
            }
            pos = newline + 1;
            line += 1;
        }
        Ok(())
    }

    /// The record at the cursor, and nothing behind it.
    #[inline(always)]
    fn one(&mut self) -> Result<(), Stop> {
        self.walk.record()?;
        self.walk.scan.space();
        if self.walk.scan.pos < self.walk.scan.text.len() {
            return Err(self.walk.scan.stop("expected the end of the record", ""));
        }
        Ok(())
    }

    fn array(&mut self, last: bool) -> Result<()> {
        let text: &'a [u8] = &self.block.bytes;
        let mut line = Lines::new(self.block);
        let mut pos = past_space(text, 0);
        let mut closed = false;
        if self.block.offset == 0 {
            // Behind the '['.
            pos = past_space(text, (pos + 1).min(text.len()));
            closed = text.get(pos) == Some(&b']');
            pos += usize::from(closed);
        }
        while !closed {
            let start = pos;
            self.walk.scan.pos = start;
            let read = self.element(start);
            match read {
                Ok(()) => {
                    self.keep(start, line.at(start));
                    pos = self.walk.scan.pos;
                }
                Err(Stop) => {
                    let mut end = text.len();
                    Brackets::in_array().follow(text, start, |at, byte, depth| {
                        let ends = depth == 0 || (byte == b',' && depth == 1);
                        if ends {
                            end = at;
                        }
                        ends
                    });
                    let note = if end == text.len() && last { "; no later element can be told apart from it" } else { "" };
                    let trimmed = start + text[start..end].trim_ascii_end().len();
                    // Nothing left at all: the file ended where an element or ']' should be.
                    if start == text.len() {
                        self.cut_off(start, line.at(start));
                    } else {
                        self.reject(start..trimmed, start, line.at(start), note);
                    }
                    pos = end;
                    if end == text.len() {
                        return Ok(());
                    }
                }
            }
            if self.walk.base >= BATCH {
                self.flush()?;
            }
            match text.get(pos) {
                Some(b',') => {
                    pos = past_space(text, pos + 1);
                    if pos == text.len() && !last {
                        return Ok(());
                    }
                }
                Some(_) => {
                    pos += 1;
                    closed = true;
                }
                None if last => {
                    self.cut_off(pos, line.at(pos));
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
        let rest = past_space(text, pos);
        if rest < text.len() {
            let end = rest + text[rest..].trim_ascii_end().len();
            self.walk.begin();
            self.walk.scan.stop_at(rest, "text behind the end of the array");
            self.reject(rest..end, rest, line.at(rest), "");
        }
        Ok(())
    }

    /// The array element at the cursor; leaves the cursor on the ',' or ']' behind it, or at the end.
    fn element(&mut self, start: usize) -> Result<(), Stop> {
        self.walk.record()?;
        let end = self.walk.scan.pos;
        if !self.utf8 && !self.is_utf8(start..end) {
            return Err(Stop);
        }
        self.walk.scan.space();
        match self.walk.scan.peek() {
            b',' | b']' => Ok(()),
            _ if self.walk.scan.pos == self.walk.scan.text.len() => Ok(()),
            _ => Err(self.walk.scan.stop("expected ',' or ']'", "")),
        }
    }

    fn cut_off(&mut self, at: usize, line: u64) {
        self.walk.begin();
        self.walk.scan.pos = self.walk.scan.text.len();
        self.walk.scan.stop("", "cut off inside the array: its ']' is missing");
        self.reject(at..at, at, line, "");
    }

    fn objects(&mut self) -> Result<()> {
        let text: &'a [u8] = &self.block.bytes;
        let mut line = Lines::new(self.block);
        let mut pos = past_space(text, 0);
        while pos < text.len() {
            let start = pos;
            self.walk.scan.pos = start;
            let mut read = if matches!(text[start], b'{' | b'[') {
                self.walk.record()
            } else {
                // Not read as a string or number: that could run into the next record, which a splitter may cut off here.
                self.walk.begin();
                Err(self.walk.scan.stop_at(start, "expected '{'"))
            };
            if read.is_ok() && !self.utf8 && !self.is_utf8(start..self.walk.scan.pos) {
                read = Err(Stop);
            }
            match read {
                Ok(()) => {
                    pos = self.walk.scan.pos;
                    self.keep(start, line.at(start));
                }
                Err(Stop) => {
                    let mut end = text.len();
                    let mut note = "";
                    if matches!(text[start], b'{' | b'[') {
                        let mut balanced = false;
                        let stopped = Brackets::default().follow(text, start, |_, _, depth| {
                            balanced = depth == 0;
                            balanced
                        });
                        if balanced {
                            end = stopped;
                        } else {
                            note = "; no later record can be told apart from it";
                        }
                    } else if let Some(at) = memchr::memchr2(b'{', b'[', &text[start..]) {
                        end = start + at;
                    }
                    let trimmed = start + text[start..end].trim_ascii_end().len();
                    self.reject(start..trimmed, start, line.at(start), note);
                    pos = end;
                }
            }
            if self.walk.base >= BATCH {
                self.flush()?;
            }
            pos = past_space(text, pos);
        }
        Ok(())
    }

    #[cold]
    fn is_utf8(&mut self, range: Range<usize>) -> bool {
        match simdutf8::compat::from_utf8(&self.block.bytes[range.clone()]) {
            Ok(_) => true,
            Err(e) => {
                self.walk.scan.stop_at(range.start + e.valid_up_to(), "invalid UTF-8");
                false
            }
        }
    }

    #[inline(always)]
    fn keep(&mut self, start: usize, line: u64) {
        let rows = self.walk.keep();
        let offset = (self.block.offset + start as u64) as i64;
        if rows == 1 {
            self.lines.push(line as i64);
            self.offsets.push(offset);
        } else {
            self.lines.resize(self.lines.len() + rows, line as i64);
            self.offsets.resize(self.offsets.len() + rows, offset);
        }
    }

    /// One malformed row, for the fault that the scanner holds.
    #[cold]
    fn reject(&mut self, raw: Range<usize>, start: usize, line: u64, note: &str) {
        let text: &'a [u8] = &self.block.bytes;
        let fault = self.walk.scan.fault.take();
        let row = self.walk.base;
        self.walk.drop_record();
        let reason = match fault {
            Some(fault) if fault.cut => format!("{}{note}", fault.what),
            Some(fault) => format!("{} at byte {}{note}", fault.what, fault.at - start + 1),
            None => "not a JSON record".into(),
        };
        let reason = self.walk.side.put_str(&reason);
        let raw =
            if self.utf8 { views::slice(text, raw.start, raw.end) } else { self.walk.side.put_str(&String::from_utf8_lossy(&text[raw])) };
        self.broken.push((row, reason, raw));
        self.lines.push(line as i64);
        self.offsets.push((self.block.offset + start as u64) as i64);
    }

    /// Turns the finished rows into batches.
    fn flush(&mut self) -> Result<()> {
        let rows = self.walk.base;
        if rows == 0 {
            return Ok(());
        }
        let file = self.decoder.files.get(self.block.file).map_or("", String::as_str);
        let file = self.walk.side.put_str(file);
        let given: Vec<(usize, u128)> = match self.decoder.given.get(self.block.file) {
            Some(given) => given.iter().map(|(c, v)| (*c, v.as_deref().map_or(NULL, |v| self.walk.side.put_str(v)))).collect(),
            None => vec![],
        };
        let (mut columns, rescued) = self.walk.take();
        for (column, view) in given {
            columns[column].fill(if view == NULL && self.decoder.options.absent { GIVEN_NULL } else { view });
        }
        let absent = self.decoder.options.absent.then(|| self.absent(&mut columns, rows));
        columns.push(vec![file; rows]);
        let buffers = self.walk.buffers(&self.buffer);
        // SAFETY: all views are of the block, where it or the record is UTF-8 and cuts are at ASCII bytes, or of the side
        // buffers, into which only unescaped strings, copies of the block and our own text go.
        let text = |views| unsafe { views::array(views, &buffers) };
        let mut arrays: Vec<ArrayRef> = columns.into_iter().map(text).collect();
        arrays.push(Arc::new(Int64Array::from(std::mem::take(&mut self.lines))));
        arrays.push(Arc::new(Int64Array::from(std::mem::take(&mut self.offsets))));
        if self.broken.is_empty() {
            let none = new_null_array(&DataType::Utf8View, rows);
            arrays.extend([Arc::clone(&none), none]);
        } else {
            let (mut reasons, mut raws) = (vec![NULL; rows], vec![NULL; rows]);
            for (row, reason, raw) in self.broken.drain(..) {
                reasons[row] = reason;
                raws[row] = raw;
            }
            arrays.extend([text(reasons), text(raws)]);
        }
        if self.decoder.options.rescue {
            arrays.push(text(rescued));
        }
        arrays.extend(absent);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.decoder.schema(), arrays, &options)?;
        for from in (0..rows).step_by(BATCH) {
            self.batches.push(batch.slice(from, BATCH.min(rows - from)));
        }
        Ok(())
    }
}

impl Rows<'_> {
    /// `_absent` of the finished rows; makes every kind of null in them the one that arrays know.
    fn absent(&self, columns: &mut [Vec<u128>], rows: usize) -> ArrayRef {
        let JsonOptions { debezium, lacking, .. } = self.decoder.options;
        let width = columns.len().div_ceil(8);
        let mut bits = vec![0u8; rows * width];
        for (c, column) in columns.iter_mut().enumerate() {
            for (row, view) in column.iter_mut().enumerate() {
                let absent = match *view {
                    NULL => lacking,
                    GIVEN_NULL => {
                        *view = NULL;
                        false
                    }
                    view => debezium && self.is_unavailable(view),
                };
                if absent {
                    *view = NULL;
                    bits[row * width + c / 8] |= 1 << (c % 8);
                }
            }
        }
        let of_row = |row: usize| Some(&bits[row * width..][..width]).filter(|bits| bits.iter().any(|b| *b != 0));
        Arc::new(BinaryViewArray::from_iter((0..rows).map(of_row)))
    }

    /// The text that Debezium writes in place of a value that it does not know. Plain text lies in the block, which is buffer 0.
    /// A column of JSON has it in quotes.
    fn is_unavailable(&self, view: u128) -> bool {
        let length = view as u32 as usize;
        let quotes = length.saturating_sub(UNAVAILABLE.len());
        if !matches!(quotes, 0 | 2) || length < UNAVAILABLE.len() || (view >> 64) as u32 != 0 {
            return false;
        }
        let start = (view >> 96) as usize + quotes / 2;
        self.block.bytes.get(start..start + UNAVAILABLE.len()) == Some(UNAVAILABLE)
    }
}

fn past_space(text: &[u8], mut pos: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = text.get(pos) {
        pos += 1;
    }
    pos
}

/// Counts lines up to ever later positions.
struct Lines<'a> {
    text: &'a [u8],
    pos: usize,
    line: u64,
}

impl<'a> Lines<'a> {
    fn new(block: &'a Block) -> Self {
        Lines { text: &block.bytes, pos: 0, line: block.first_line }
    }

    fn at(&mut self, pos: usize) -> u64 {
        self.line += memchr::memchr_iter(b'\n', &self.text[self.pos..pos]).count() as u64;
        self.pos = pos;
        self.line
    }
}
