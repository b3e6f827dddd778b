//! Finds where CSV records end, however the text is cut. See `csv` for the rules.
//!
//! Only quotes are looked at: between quoted fields every line break ends a record.

use std::sync::Arc;

use memchr::{memchr, memmem, memrchr};
use smelt_engine::error::{Error, Result};
use smelt_engine::ledger::Ledger;

use super::block::Splitter;
use super::csv::{CsvRecords, Dialect};
use super::csv_scan::positions;

/// Within so many bytes a line feed must appear, or carriage returns end the lines.
const NEWLINE_WITHIN: usize = 1 << 20;

/// Cuts one file.
pub(crate) struct CsvSplitter {
    records: Arc<CsvRecords>,
    file: usize,
    ledger: Option<Arc<Ledger>>,
    newline: Option<u8>,
    started: bool,
    marks: Vec<u32>,
}

/// What the start of a file holds: where data begin (all of the text, if there are none), and its first record.
type First = (usize, Option<Vec<String>>);

impl Splitter for CsvSplitter {
    fn split(&mut self, buf: &[u8], eof: bool) -> Result<usize> {
        let mut from = 0;
        if !self.started {
            let Some((first, record)) = self.first(buf, eof)? else { return Ok(0) };
            from = first;
            if self.records.dialect.header && record.is_none() {
                // Neither header nor data.
                return Ok(from);
            }
            let header = record.filter(|_| self.records.dialect.header);
            let newline = self.newline.unwrap_or(b'\n');
            let fields = self.records.fields_of_change(self.file);
            let op_first = fields.is_some_and(|fields| self.op_first(newline, &buf[from..], eof, fields));
            let layout = self.records.layout(self.file, header.as_deref(), op_first, from as u64, newline, self.ledger.as_deref())?;
            // A plan that runs again finds the same.
            let _ = self.records.layouts[self.file].set(layout);
            self.started = true;
        }
        let newline = self.newline.unwrap_or(b'\n');
        Ok(body(&self.records.dialect, newline, buf, from, eof, &mut self.marks))
    }

    fn newline(&self) -> u8 {
        self.newline.unwrap_or(b'\n')
    }
}

impl CsvSplitter {
    pub(crate) fn new(records: Arc<CsvRecords>, file: usize, ledger: Option<Arc<Ledger>>) -> Self {
        CsvSplitter { records, file, ledger, newline: None, started: false, marks: vec![] }
    }

    /// Reads the lines to skip and the first record; `None`: more text is needed. Without a header the record is still data.
    pub(crate) fn first(&mut self, buf: &[u8], eof: bool) -> Result<Option<First>> {
        let dialect = &self.records.dialect;
        let Some(newline) = self.newline.or_else(|| find_newline(buf, eof)) else { return Ok(None) };
        self.newline = Some(newline);
        let more = || if eof { Ok(Some((buf.len(), None))) } else { Ok(None) };
        let mut at = 0;
        for _ in 0..dialect.skip_lines {
            match memchr(newline, &buf[at..]) {
                Some(n) => at += n + 1,
                None => return more(),
            }
        }
        loop {
            let start = at;
            let Some(first) = buf.get(at) else { return more() };
            let end = memchr(newline, &buf[at..]).map(|n| at + n);
            let line = &buf[at..end.unwrap_or(buf.len())];
            if *first == newline || line == b"\r" || Some(*first) == dialect.comment {
                match end {
                    Some(end) => at = end + 1,
                    None => return more(),
                }
                continue;
            }
            return match first_record(dialect, newline, &buf[at..], eof) {
                Head::More => Ok(None),
                Head::Bad if !dialect.header => Ok(Some((start, Some(vec![])))),
                Head::Bad => Err(Error::data(
                    format!("`{}`: the header is not one: a quoted name is not closed properly", self.path()),
                    "mend the file's first line, or set `quote` and `delimiter` as the file has them",
                )),
                Head::Record { end, fields } => {
                    if !dialect.header {
                        return Ok(Some((start, Some(fields))));
                    }
                    let fields = fields.into_iter().enumerate().map(|(i, f)| match f.trim() {
                        // Tools that write row numbers leave their column without a name.
                        "" => format!("column_{}", i + 1),
                        name => name.to_owned(),
                    });
                    Ok(Some((at + end, Some(fields.collect()))))
                }
            };
        }
    }

    /// Whether the records of a change feed have a field before the `fields` of the contract. The first few decide together, since one
    /// may be broken. Where none has as many, those that all begin with an operation do, so that nothing is shifted by a column.
    fn op_first(&self, newline: u8, buf: &[u8], eof: bool, fields: usize) -> bool {
        const LOOKED_AT: usize = 100;
        let dialect = &self.records.dialect;
        let (mut seen, mut with, mut without, mut named) = (0, 0, 0, 0);
        let mut at = 0;
        while seen < LOOKED_AT {
            let Some(rest) = buf.get(at..).filter(|rest| !rest.is_empty()) else { break };
            let line = memchr(newline, rest).map_or(rest.len(), |n| n + 1);
            let blank = matches!(&rest[..line], b"\n" | b"\r\n" | b"\r");
            if blank || dialect.comment.is_some() && rest.first().copied() == dialect.comment {
                at += line;
                continue;
            }
            match first_record(dialect, newline, rest, eof) {
                Head::More => break,
                // Costs its first physical line.
                Head::Bad => at += line,
                Head::Record { end, fields: found } => {
                    at += end;
                    with += usize::from(found.len() == fields + 1);
                    without += usize::from(found.len() == fields);
                    named += usize::from(found.first().is_some_and(|op| matches!(op.as_str(), "I" | "U" | "D")));
                }
            }
            seen += 1;
        }
        let full_load = self.path().rsplit('/').next().is_some_and(|name| name.starts_with("LOAD"));
        with > without || named == seen && seen > 0 && !full_load
    }

    fn path(&self) -> &str {
        self.records.files.get(self.file).map_or("", |f| f.path.as_str())
    }
}

/// The byte that ends lines: LF, or CR where no LF is near.
fn find_newline(buf: &[u8], eof: bool) -> Option<u8> {
    let near = &buf[..buf.len().min(NEWLINE_WITHIN)];
    if memchr(b'\n', near).is_some() {
        Some(b'\n')
    } else if near.len() == NEWLINE_WITHIN || eof {
        Some(if memchr(b'\r', near).is_some() { b'\r' } else { b'\n' })
    } else {
        None
    }
}

enum Head {
    More,
    Bad,
    /// `end` is behind the line break.
    Record {
        end: usize,
        fields: Vec<String>,
    },
}

/// Reads one record byte by byte; only for the first of a file.
fn first_record(dialect: &Dialect, newline: u8, buf: &[u8], eof: bool) -> Head {
    let mut fields = vec![];
    let mut at = 0;
    loop {
        let mut field = vec![];
        let quoted = dialect.quote.is_some() && buf.get(at).copied() == dialect.quote;
        if quoted {
            at += 1;
            loop {
                let next = buf.get(at + 1).copied();
                match buf.get(at).copied() {
                    None if eof || at > dialect.limit => return Head::Bad,
                    None => return Head::More,
                    Some(b) if Some(b) == dialect.escape && next.is_some() && (next == dialect.quote || next == dialect.escape) => {
                        field.extend(next);
                        at += 2;
                    }
                    Some(b) if Some(b) == dialect.quote && next == dialect.quote => {
                        field.push(b);
                        at += 2;
                    }
                    Some(b) if Some(b) == dialect.quote => break,
                    Some(b) => {
                        field.push(b);
                        at += 1;
                    }
                }
            }
            at += 1;
        }
        let from = at;
        let ended = loop {
            match buf.get(at) {
                None if eof => break true,
                None => return Head::More,
                Some(b) if *b == newline => break true,
                Some(_) if buf[at..].starts_with(&dialect.delimiter) => break false,
                Some(_) => at += 1,
            }
        };
        let mut rest = &buf[from..at];
        if ended && newline == b'\n' && rest.ends_with(b"\r") {
            rest = &rest[..rest.len() - 1];
        }
        if quoted && !rest.is_empty() {
            return Head::Bad;
        }
        field.extend_from_slice(rest);
        fields.push(String::from_utf8_lossy(&field).into_owned());
        if ended {
            return Head::Record { end: (at + 1).min(buf.len()), fields };
        }
        at += dialect.delimiter.len();
    }
}

/// How a quoted field ends.
enum Close {
    At(usize),
    /// Text follows the quote.
    Bad,
    /// Not in this text.
    Open,
    /// Beyond the longest record.
    TooFar,
}

/// How much of `buf` is whole records; they begin at `from`.
fn body(dialect: &Dialect, newline: u8, buf: &[u8], from: usize, eof: bool, marks: &mut Vec<u32>) -> usize {
    marks.clear();
    match (dialect.quote, dialect.escape) {
        (Some(quote), None) => positions(&buf[from..], [quote], marks),
        (Some(quote), Some(escape)) => positions(&buf[from..], [quote, escape], marks),
        (None, _) => {}
    }
    let mark = |i: usize| marks.get(i).map(|m| from + *m as usize);
    // The record under way begins at `record`; up to `settled` all quotes are dealt with, `seen` is the last place looked at
    // for line breaks, and `field` is a place where a field begins (only kept for long delimiters).
    let (mut record, mut settled, mut seen, mut field) = (from, from, from, from);
    let mut i = 0;
    while let Some(q) = mark(i) {
        if q < settled || Some(buf[q]) != dialect.quote {
            i += 1;
            continue;
        }
        if q > seen
            && let Some(n) = memrchr(newline, &buf[seen..q])
        {
            record = seen + n + 1;
        }
        seen = q;
        if record >= dialect.block {
            return record;
        }
        if dialect.comment.is_some() && record >= settled && Some(buf[record]) == dialect.comment {
            match memchr(newline, &buf[q..]) {
                Some(n) => {
                    settled = q + n + 1;
                    (record, seen) = (settled, settled);
                    i += 1;
                    continue;
                }
                None => return if eof { buf.len() } else { record },
            }
        }
        let floor = settled.max(record);
        if !opens(dialect, buf, record, floor, q, &mut field) {
            i += 1;
            continue;
        }
        let (close, next) = find_close(dialect, newline, buf, &mark, i, eof);
        let close = match close {
            // A first line is read whole, however long; the limit is for quotes that swallow further lines.
            Close::At(e) if e - record > dialect.limit && memchr(newline, &buf[record..e]).is_some() => Close::TooFar,
            Close::Open if buf.len() - record > dialect.limit => Close::TooFar,
            Close::Open if eof => Close::Bad,
            other => other,
        };
        match close {
            Close::At(e) => {
                i = next + 1;
                settled = e + 1;
                seen = settled;
            }
            Close::Open => return record,
            Close::Bad | Close::TooFar => {
                // The record's first physical line is lost, and only that.
                let Some(n) = memchr(newline, &buf[record..]) else { return if eof { buf.len() } else { record } };
                let line_end = record + n + 1;
                if matches!(close, Close::TooFar) {
                    // The decoder must not see the quote that came too late.
                    return line_end;
                }
                (record, settled, seen, field) = (line_end, line_end, line_end, line_end);
                i = marks.partition_point(|m| from + (*m as usize) < line_end);
                if record >= dialect.block {
                    return record;
                }
            }
        }
    }
    // No more quotes: every line is a record, and a long tail may be given in parts.
    let plain = settled.max(dialect.block);
    if buf.len() > plain + dialect.block
        && let Some(n) = memchr(newline, &buf[plain..])
    {
        return plain + n + 1;
    }
    if eof {
        return buf.len();
    }
    match memrchr(newline, &buf[seen..]) {
        Some(n) => seen + n + 1,
        None => record,
    }
}

/// Whether the quote at `q` stands at the start of a field. No delimiter begins before `floor`.
fn opens(dialect: &Dialect, buf: &[u8], record: usize, floor: usize, q: usize, field: &mut usize) -> bool {
    if q == record {
        return true;
    }
    if let [one] = dialect.delimiter.as_slice() {
        return q > floor && buf[q - 1] == *one;
    }
    *field = (*field).max(floor);
    while let Some(n) = memmem::find(&buf[*field..q], &dialect.delimiter) {
        *field += n + dialect.delimiter.len();
    }
    // Right behind a closing quote nothing opens.
    *field == q && q > floor
}

/// Looks for the end of the field that mark `i` opens; also returns the mark where the search ended.
fn find_close(dialect: &Dialect, newline: u8, buf: &[u8], mark: &impl Fn(usize) -> Option<usize>, i: usize, eof: bool) -> (Close, usize) {
    let mut j = i + 1;
    while let Some(e) = mark(j) {
        let doubled = mark(j + 1) == Some(e + 1);
        if Some(buf[e]) != dialect.quote {
            // An escape takes the quote or escape behind it.
            j += if doubled { 2 } else { 1 };
            continue;
        }
        let rest = &buf[e + 1..];
        let close = match rest {
            [] if eof => Close::At(e),
            [] => Close::Open,
            [b, ..] if Some(*b) == dialect.quote => {
                j += 2;
                continue;
            }
            [b, ..] if *b == newline => Close::At(e),
            [b'\r', b, ..] if newline == b'\n' && *b == b'\n' => Close::At(e),
            [b'\r'] if newline == b'\n' => {
                if eof {
                    Close::At(e)
                } else {
                    Close::Open
                }
            }
            _ if rest.starts_with(&dialect.delimiter) => Close::At(e),
            _ if !eof && dialect.delimiter.starts_with(rest) => Close::Open,
            _ => Close::Bad,
        };
        return (close, j);
    }
    (Close::Open, j)
}
