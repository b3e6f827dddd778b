//! Turns blocks of CSV into rows of views: the text is not copied, each value is a view into its block (or, where quotes had to
//! be taken out of it, into a side buffer). See `csv` for the rules; the splitter applies the same.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryViewArray, Int64Array, StringViewArray, StringViewBuilder, new_null_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use memchr::memchr_iter;
use smelt_engine::contract::hidden;
use smelt_engine::error::{Error, Result};

use super::block::{Block, Decoder};
use super::csv::{CsvRecords, Dialect, Layout, NOWHERE, RESCUE};
use super::csv_scan::positions;
use super::raw_schema;

/// Rows of a batch, where a block has more than twice as many.
const BATCH: usize = 8192;
/// A longer value lies in a buffer, a shorter one in its view.
const INLINE: usize = 12;

/// Decodes the blocks of all files of a scan.
pub(crate) struct CsvDecoder {
    records: Arc<CsvRecords>,
    projection: Vec<usize>,
    schema: SchemaRef,
    /// Views of the short NULL texts, and the long ones.
    short_nulls: Vec<u128>,
    long_nulls: Vec<String>,
}

/// The rows of one block, before they are arrays.
struct Rows<'a> {
    text: &'a [u8],
    /// Where each field's views go; null: nowhere. They have room for `capacity` rows.
    targets: Vec<*mut u128>,
    capacity: usize,
    rows: usize,
    lines: Vec<i64>,
    /// Offsets within the block.
    offsets: Vec<i64>,
    bad: Vec<Bad>,
    /// Values whose quotes were taken out.
    side: Vec<u8>,
}

struct Bad {
    row: usize,
    raw: (usize, usize),
    reason: Reason,
}

enum Reason {
    Fields(usize),
    /// In this field, counted from 1.
    AfterQuote(usize),
    Unclosed,
    NotText(usize),
}

impl CsvDecoder {
    pub(crate) fn new(records: Arc<CsvRecords>, projection: &[usize]) -> Self {
        let full = raw_schema(&records.contract);
        let fields: Vec<_> = projection.iter().map(|i| Arc::clone(&full.fields()[*i])).collect();
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        let (short, long): (Vec<&String>, Vec<&String>) = records.null_values.iter().partition(|n| n.len() <= INLINE);
        let short_nulls = short.iter().map(|n| view(n.as_bytes(), 0, n.len())).collect();
        let long_nulls = long.into_iter().cloned().collect();
        CsvDecoder { projection: projection.to_vec(), schema, short_nulls, long_nulls, records }
    }
}

impl Decoder for CsvDecoder {
    fn decode(&self, block: Block) -> Result<Vec<RecordBatch>> {
        // No layout: the file ended before its header did.
        let Some(layout) = self.records.layouts.get(block.file).and_then(|l| l.get()) else { return Ok(vec![]) };
        let skip = layout.data.saturating_sub(block.offset).min(block.bytes.len() as u64) as usize;
        let line = block.first_line + memchr_iter(layout.newline, &block.bytes[..skip]).count() as u64;
        let bytes = block.bytes.slice(skip..);
        let offset = block.offset + skip as u64;
        if bytes.is_empty() {
            return Ok(vec![]);
        }
        let dialect = &self.records.dialect;
        let text: &[u8] = &bytes;
        let valid = simdutf8::basic::from_utf8(text).is_ok();
        let mut index = Vec::with_capacity(text.len() / 8 + 64);
        let quoted = index_of(dialect, layout.newline, text, &mut index);
        let capacity = memchr_iter(layout.newline, text).count() + 1;

        let width = raw_schema(&self.records.contract).fields().len();
        let mut texts: Vec<Option<Vec<u128>>> = vec![None; width];
        let mut rescued: Vec<Vec<u128>> = vec![];
        let rescue_wanted = self.schema.column_with_name(hidden::RESCUED).is_some();
        let mut targets = Vec::with_capacity(layout.columns.len());
        for column in &layout.columns {
            let target = match *column {
                RESCUE if rescue_wanted => {
                    rescued.push(Vec::with_capacity(capacity));
                    rescued.last_mut().map(|v| v.as_mut_ptr())
                }
                RESCUE | NOWHERE => None,
                column if self.projection.contains(&column) => {
                    let views = texts[column].insert(Vec::with_capacity(capacity));
                    Some(views.as_mut_ptr())
                }
                _ => None,
            };
            targets.push(target.unwrap_or(std::ptr::null_mut()));
        }
        let (lines, offsets) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let mut rows = Rows { text, targets, capacity, rows: 0, lines, offsets, bad: vec![], side: vec![] };
        let first = line as i64;
        match (quoted, dialect.delimiter.len() > 1) {
            (false, false) => rows.walk::<false, false>(dialect, layout.newline, &index, first, valid),
            (true, false) => rows.walk::<true, false>(dialect, layout.newline, &index, first, valid),
            (false, true) => rows.walk::<false, true>(dialect, layout.newline, &index, first, valid),
            (true, true) => rows.walk::<true, true>(dialect, layout.newline, &index, first, valid),
        }
        let Rows { rows: count, lines, mut offsets, bad, side, .. } = rows;
        if count == 0 {
            return Ok(vec![]);
        }
        for views in texts.iter_mut().flatten().chain(&mut rescued) {
            // SAFETY: the walk wrote every target at each of its rows, `count` of them, within the capacity.
            unsafe { views.set_len(count) };
        }
        for o in &mut offsets {
            *o += offset as i64;
        }
        let mut buffers = vec![Buffer::from(bytes.clone())];
        if !side.is_empty() {
            buffers.push(Buffer::from_vec(side));
        }
        let made = Made { decoder: self, layout, block: &block, text, count, bad, buffers: buffers.into(), rescued };
        let (mut lines, mut offsets) = (Some(lines), Some(offsets));
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.projection.len());
        for (column, field) in self.projection.iter().zip(self.schema.fields()) {
            columns.push(match field.name().as_str() {
                hidden::LINE => Arc::new(Int64Array::from(lines.take().unwrap_or_default())),
                hidden::OFFSET => Arc::new(Int64Array::from(offsets.take().unwrap_or_default())),
                _ => made.column(*column, field.name(), texts[*column].take())?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        if count <= 2 * BATCH {
            return Ok(vec![batch]);
        }
        Ok((0..count).step_by(BATCH).map(|at| batch.slice(at, BATCH.min(count - at))).collect())
    }
}

/// Finds delimiters (their first bytes) and line breaks, and where the text has quotes those and the escapes, too.
fn index_of(dialect: &Dialect, newline: u8, text: &[u8], index: &mut Vec<u32>) -> bool {
    let delimiter = dialect.delimiter[0];
    match (dialect.quote.filter(|q| memchr::memchr(*q, text).is_some()), dialect.escape) {
        (None, _) => positions(text, [delimiter, newline], index),
        (Some(quote), None) => positions(text, [delimiter, newline, quote], index),
        (Some(quote), Some(escape)) => positions(text, [delimiter, newline, quote, escape], index),
    }
    let quoted = dialect.quote.is_some_and(|q| memchr::memchr(q, text).is_some());
    if text.last() != Some(&newline) {
        // The end of the text ends its last line.
        index.push(text.len() as u32);
    }
    quoted
}

/// The view of `text[start..end]` in buffer 0.
#[inline(always)]
fn view(text: &[u8], start: usize, end: usize) -> u128 {
    let len = end - start;
    if len > INLINE {
        let prefix = u32::from_le_bytes([text[start], text[start + 1], text[start + 2], text[start + 3]]);
        return len as u128 | (prefix as u128) << 32 | (start as u128) << 96;
    }
    let word = match text.get(start..start + 16) {
        Some(bytes) => {
            let mut all = [0; 16];
            all.copy_from_slice(bytes);
            u128::from_le_bytes(all)
        }
        None => {
            let mut all = [0; 16];
            all[..len].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(all)
        }
    };
    // `len` bytes of the word, behind the length.
    (word & !(u128::MAX << (8 * len))) << 32 | len as u128
}

impl Rows<'_> {
    /// Reads all records. `index` has every structural byte and, if the text does not end in a line break, its end.
    fn walk<const QUOTED: bool, const LONG: bool>(&mut self, dialect: &Dialect, newline: u8, index: &[u32], first: i64, valid: bool) {
        let text = self.text;
        let fields = self.targets.len();
        let crlf = newline == b'\n';
        let ends = |p: usize| text.get(p).is_none_or(|b| *b == newline);
        let comment = dialect.comment;
        let (mut i, mut start, mut line) = (0, 0, first);
        'record: while i < index.len() {
            let (record, record_i, record_line) = (start, i, line);
            if comment.is_some() && text.get(start).copied() == comment {
                i = line_end(index, i, ends);
                start = index[i] as usize + 1;
                i += 1;
                line += 1;
                continue;
            }
            let mut field = 0;
            let end = loop {
                let mut p = index[i] as usize;
                let mut last = ends(p);
                if QUOTED && p == start && !last && text.get(p).copied() == dialect.quote {
                    match self.quoted(dialect, newline, index, &mut i, &mut line, field) {
                        Ok(end) => {
                            p = end;
                            last = ends(p);
                        }
                        Err(text_follows) => {
                            // Only the first physical line is lost; reading resumes behind it.
                            let reason = if text_follows && line == record_line { Reason::AfterQuote(field + 1) } else { Reason::Unclosed };
                            i = line_end(index, record_i, ends);
                            let end = index[i] as usize;
                            self.reject(record, trim_cr(text, record, end, crlf), record_line, reason);
                            start = end + 1;
                            i += 1;
                            line = record_line + 1;
                            continue 'record;
                        }
                    }
                } else {
                    if QUOTED || LONG {
                        // Quotes within are text, and so are the first bytes of a delimiter without the others.
                        while !last && !delimits::<LONG>(dialect, text, p) {
                            i += 1;
                            p = index[i] as usize;
                            last = ends(p);
                        }
                    }
                    let end = if last { trim_cr(text, start, p, crlf) } else { p };
                    if field == 0 && last && end == start {
                        // A blank line is no record.
                        start = p + 1;
                        i += 1;
                        line += 1;
                        continue 'record;
                    }
                    if field < fields {
                        let target = self.targets[field];
                        if !target.is_null() {
                            debug_assert!(self.rows < self.capacity);
                            // SAFETY: targets have room for `capacity` rows, one more than the text has line breaks, and each row
                            // ends at a line break of its own or at the end of the text.
                            unsafe { *target.add(self.rows) = view(text, start, end) };
                        }
                    }
                }
                field += 1;
                i += 1;
                if last {
                    start = p + 1;
                    line += 1;
                    break p;
                }
                start = p + if LONG { dialect.delimiter.len() } else { 1 };
                if LONG {
                    // More bytes of this delimiter may be in the index.
                    while index[i] < start as u32 {
                        i += 1;
                    }
                }
            };
            if !valid && let Err(e) = std::str::from_utf8(&text[record..end]) {
                self.reject(record, trim_cr(text, record, end, crlf), record_line, Reason::NotText(e.valid_up_to() + 1));
            } else if field != fields {
                self.reject(record, trim_cr(text, record, end, crlf), record_line, Reason::Fields(field));
            } else {
                self.lines.push(record_line);
                self.offsets.push(record as i64);
                self.rows += 1;
            }
        }
    }

    /// Reads the quoted field that opens at entry `i`, and moves `i` to the delimiter or line break behind it, whose place it returns.
    /// The error: whether text follows the closing quote (else there is none).
    fn quoted(
        &mut self,
        dialect: &Dialect,
        newline: u8,
        index: &[u32],
        i: &mut usize,
        line: &mut i64,
        field: usize,
    ) -> Result<usize, bool> {
        let text = self.text;
        let open = index[*i] as usize;
        let quote = text[open];
        let mut j = *i + 1;
        let mut dirty = false;
        loop {
            let e = *index.get(j).ok_or(false)? as usize;
            let byte = *text.get(e).ok_or(false)?;
            if byte == quote {
                let rest = &text[e + 1..];
                let end = match rest {
                    [b, ..] if *b == quote => {
                        dirty = true;
                        j += 2;
                        continue;
                    }
                    [] => e + 1,
                    [b, ..] if *b == newline => e + 1,
                    [b'\r'] if newline == b'\n' => e + 2,
                    [b'\r', b'\n', ..] if newline == b'\n' => e + 2,
                    _ if rest.starts_with(&dialect.delimiter) => e + 1,
                    _ => return Err(true),
                };
                *i = j + 1;
                self.put_quoted(dialect, field, open + 1, e, dirty);
                return Ok(end);
            }
            if Some(byte) == dialect.escape {
                let next = text.get(e + 1).copied();
                let takes = next.is_some() && (next == Some(quote) || next == dialect.escape);
                dirty |= takes;
                j += if takes { 2 } else { 1 };
                continue;
            }
            if byte == newline {
                *line += 1;
            }
            j += 1;
        }
    }

    fn put_quoted(&mut self, dialect: &Dialect, field: usize, start: usize, end: usize, dirty: bool) {
        let Some(target) = self.targets.get(field).copied().filter(|t| !t.is_null()) else { return };
        let value = if dirty {
            let at = self.side.len();
            let mut rest = &self.text[start..end];
            while let Some(n) = rest.iter().position(|b| Some(*b) == dialect.quote || Some(*b) == dialect.escape) {
                // A quote or an escape here stands before the byte that it protects, or (an escape) for itself.
                let next = rest.get(n + 1).copied();
                let protects = next.is_some() && (next == dialect.quote || next == dialect.escape && Some(rest[n]) == dialect.escape);
                let (keep, skip) = if protects { (n, 1) } else { (n + 1, 0) };
                self.side.extend_from_slice(&rest[..keep]);
                if protects {
                    self.side.extend(next);
                }
                rest = &rest[(keep + 2 * skip).min(rest.len())..];
            }
            self.side.extend_from_slice(rest);
            let view = view(&self.side, at, self.side.len());
            if self.side.len() - at > INLINE { view | 1 << 64 } else { view }
        } else {
            view(self.text, start, end)
        };
        debug_assert!(self.rows < self.capacity);
        // SAFETY: as in `walk`.
        unsafe { *target.add(self.rows) = value };
    }

    /// The record becomes a malformed row; what was written of it is wiped.
    fn reject(&mut self, start: usize, end: usize, line: i64, reason: Reason) {
        debug_assert!(self.rows < self.capacity);
        for target in self.targets.iter().filter(|t| !t.is_null()) {
            // SAFETY: as in `walk`.
            unsafe { *target.add(self.rows) = 0 };
        }
        self.bad.push(Bad { row: self.rows, raw: (start, end), reason });
        self.lines.push(line);
        self.offsets.push(start as i64);
        self.rows += 1;
    }
}

/// The entry that ends the line of entry `i`.
fn line_end(index: &[u32], i: usize, ends: impl Fn(usize) -> bool) -> usize {
    (i..index.len()).find(|i| ends(index[*i] as usize)).unwrap_or(index.len() - 1)
}

#[inline(always)]
fn delimits<const LONG: bool>(dialect: &Dialect, text: &[u8], p: usize) -> bool {
    if LONG { text[p..].starts_with(&dialect.delimiter) } else { text[p] == dialect.delimiter[0] }
}

#[inline(always)]
fn trim_cr(text: &[u8], start: usize, end: usize, crlf: bool) -> usize {
    if crlf && end > start && text[end - 1] == b'\r' { end - 1 } else { end }
}

/// A decoded block, on its way to arrays.
struct Made<'a> {
    decoder: &'a CsvDecoder,
    layout: &'a Layout,
    block: &'a Block,
    text: &'a [u8],
    count: usize,
    bad: Vec<Bad>,
    /// The block, and the side buffer where there is one.
    buffers: Arc<[Buffer]>,
    rescued: Vec<Vec<u128>>,
}

impl Made<'_> {
    fn column(&self, column: usize, name: &str, views: Option<Vec<u128>>) -> Result<ArrayRef> {
        let nothing = || new_null_array(&DataType::Utf8View, self.count);
        if let Some(views) = views {
            return Ok(Arc::new(self.texts(views)));
        }
        Ok(match name {
            hidden::FILE => {
                let file = self.decoder.records.files.get(self.block.file).ok_or_else(|| Error::bug("a file number out of range"))?;
                repeated(&file.path, self.count)
            }
            hidden::MALFORMED => self.of_bad(|bad| self.reason(&bad.reason)).unwrap_or_else(nothing),
            hidden::RAW => {
                self.of_bad(|bad| String::from_utf8_lossy(&self.text[bad.raw.0..bad.raw.1]).into_owned()).unwrap_or_else(nothing)
            }
            hidden::RESCUED if !self.rescued.is_empty() => self.rescue()?,
            hidden::ABSENT => Arc::new(BinaryViewArray::from_iter(std::iter::repeat_n(self.layout.absent.as_deref(), self.count))),
            _ => match self.layout.constants.iter().find(|(c, _)| *c == column) {
                Some((_, Some(value))) => repeated(value, self.count),
                _ => nothing(),
            },
        })
    }

    fn texts(&self, views: Vec<u128>) -> StringViewArray {
        let views = ScalarBuffer::from(views);
        // SAFETY: views are made of places within the buffers. Each lies between ASCII bytes of a record that was
        // found to be UTF-8 (rows that are not have empty views), so that it is UTF-8 itself.
        let array = unsafe { StringViewArray::new_unchecked(views.clone(), Arc::clone(&self.buffers), None) };
        let (short, long) = (&self.decoder.short_nulls, &self.decoder.long_nulls);
        let mut valid = match (short.as_slice(), long.is_empty()) {
            ([], true) if self.bad.is_empty() => return array,
            ([one], true) => BooleanBuffer::collect_bool(self.count, |i| views[i] != *one),
            (_, true) => BooleanBuffer::collect_bool(self.count, |i| !short.contains(&views[i])),
            _ => BooleanBuffer::collect_bool(self.count, |i| {
                !(short.contains(&views[i]) || views[i] as u32 as usize > INLINE && long.iter().any(|l| l == array.value(i)))
            }),
        };
        if !self.bad.is_empty() {
            let mut good = vec![true; self.count];
            self.bad.iter().for_each(|bad| good[bad.row] = false);
            valid = &valid & &BooleanBuffer::from(good);
        }
        let nulls = Some(NullBuffer::new(valid)).filter(|n| n.null_count() > 0);
        // SAFETY: as above; the nulls are as many as the views.
        unsafe { StringViewArray::new_unchecked(views, Arc::clone(&self.buffers), nulls) }
    }

    fn of_bad(&self, text: impl Fn(&Bad) -> String) -> Option<ArrayRef> {
        if self.bad.is_empty() {
            return None;
        }
        let mut builder = StringViewBuilder::with_capacity(self.count);
        let mut at = 0;
        for bad in &self.bad {
            (at..bad.row).for_each(|_| builder.append_null());
            builder.append_value(text(bad));
            at = bad.row + 1;
        }
        (at..self.count).for_each(|_| builder.append_null());
        Some(Arc::new(builder.finish()))
    }

    fn reason(&self, reason: &Reason) -> String {
        let records = &self.decoder.records;
        match reason {
            Reason::Fields(found) => {
                let s = if *found == 1 { "" } else { "s" };
                let of = if records.dialect.header { "header" } else { "contract" };
                format!("{found} field{s} where the {of} has {}", self.layout.columns.len())
            }
            Reason::AfterQuote(field) => format!("text follows the closing quote of field {field}"),
            Reason::Unclosed => "a quoted field that begins in this record is not closed properly".into(),
            Reason::NotText(byte) => format!("not valid {} at byte {byte} of the record", records.encoding.name()),
        }
    }

    /// One JSON object per row of the fields that the contract does not name; NULL where all are NULL.
    fn rescue(&self) -> Result<ArrayRef> {
        let arrays: Vec<StringViewArray> = self.rescued.iter().map(|views| self.texts(views.clone())).collect();
        let json = |text: &str| serde_json::to_string(text).map_err(|e| Error::bug(e.to_string()));
        let names = self.layout.rescue.iter().map(|(_, name)| json(name)).collect::<Result<Vec<_>>>()?;
        let mut builder = StringViewBuilder::with_capacity(self.count);
        let mut object = String::new();
        for row in 0..self.count {
            object.clear();
            for (array, name) in arrays.iter().zip(&names).filter(|(a, _)| a.is_valid(row)) {
                object.push(if object.is_empty() { '{' } else { ',' });
                object.push_str(name);
                object.push(':');
                object.push_str(&json(array.value(row))?);
            }
            if object.is_empty() {
                builder.append_null();
            } else {
                object.push('}');
                builder.append_value(&object);
            }
        }
        Ok(Arc::new(builder.finish()))
    }
}

/// `count` times the same text, stored once.
fn repeated(text: &str, count: usize) -> ArrayRef {
    let one = view(text.as_bytes(), 0, text.len());
    let buffers: Vec<Buffer> = if text.len() > INLINE { vec![Buffer::from(text.as_bytes())] } else { vec![] };
    // SAFETY: the view is the whole text, in the only buffer where it is long.
    Arc::new(unsafe { StringViewArray::new_unchecked(ScalarBuffer::from(vec![one; count]), buffers, None) })
}
