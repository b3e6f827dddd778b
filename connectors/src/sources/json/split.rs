//! Where JSON records end: NDJSON, one top-level array, or objects one after the other. Knows bytes and brackets; validates nothing.
//!
//! Blocks of an array end behind the `,` of their last element, so that a decoder sees what ended it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use smelt_engine::Result;

use super::scan::{Brackets, Scanner, Stop};
use crate::sources::block::Splitter;

/// How records lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Layout {
    /// One record a line.
    Lines = 1,
    /// The elements of one top-level array.
    Array = 2,
    /// Objects one after the other, over as many lines as they like.
    Objects = 3,
}

/// Tells the layout from the start of a file; `None`: more bytes are needed. `[` first is an array. Otherwise the first
/// record decides: if it is whole at the end of its line, or is no JSON, records are lines; if it goes over the end of
/// its line, or another one follows on the same line, records are objects.
pub fn detect(first: &[u8], eof: bool) -> Option<Layout> {
    let mut scan = Scanner::new(first, first.len());
    scan.space();
    let start = scan.pos;
    match first.get(start) {
        None if eof => return Some(Layout::Lines),
        None => return None,
        Some(b'[') => return Some(Layout::Array),
        Some(_) => {}
    }
    let over_lines = |end: usize| memchr::memchr(b'\n', &first[start..end]).is_some();
    match scan.skip(0) {
        Ok(_) if over_lines(scan.pos) => Some(Layout::Objects),
        Ok(_) => {
            while let Some(b' ' | b'\t' | b'\r') = first.get(scan.pos) {
                scan.pos += 1;
            }
            match first.get(scan.pos) {
                None if !eof => None,
                Some(b'{') => Some(Layout::Objects),
                _ => Some(Layout::Lines),
            }
        }
        Err(Stop) if !scan.fault.is_some_and(|f| f.cut) => Some(Layout::Lines),
        Err(Stop) if !eof => None,
        // Cut off: a line, unless what there is of the record goes over lines and is sound as far as it goes.
        Err(Stop) if over_lines(first.trim_ascii_end().len()) => Some(Layout::Objects),
        Err(Stop) => Some(Layout::Lines),
    }
}

/// One record a line: everything up to the last newline.
#[derive(Debug, Default)]
pub struct NdjsonSplitter {
    /// Bytes at the start of the buffer that are known to hold no newline.
    seen: usize,
}

impl Splitter for NdjsonSplitter {
    fn split(&mut self, buf: &[u8], eof: bool) -> Result<usize> {
        let seen = self.seen.min(buf.len());
        self.seen = 0;
        if eof {
            return Ok(buf.len());
        }
        if let Some(at) = memchr::memrchr(b'\n', &buf[seen..]) {
            return Ok(seen + at + 1);
        }
        self.seen = buf.len();
        Ok(0)
    }
}

/// Elements of one top-level array: everything up to and with the last comma between two elements. At least one byte
/// stays for the end of the file, so the last block tells how the array ends: the closing bracket and whatever stands
/// behind it come in one block.
#[derive(Debug, Default)]
pub struct ArraySplitter {
    state: Brackets,
    /// The array is closed: no comma behind it separates elements.
    closed: bool,
    /// The last byte covered is a comma between two elements.
    comma: bool,
    /// Bytes of the buffer that `state` covers.
    seen: usize,
}

impl Splitter for ArraySplitter {
    fn split(&mut self, buf: &[u8], eof: bool) -> Result<usize> {
        if eof {
            *self = ArraySplitter::default();
            return Ok(buf.len());
        }
        let mut cut = 0;
        let closed = &mut self.closed;
        let resume = self.seen.min(buf.len());
        if self.comma && buf.len() > resume {
            cut = resume;
        }
        self.comma = self.comma && cut == 0;
        let comma = &mut self.comma;
        self.state.follow(buf, resume, |at, byte, depth| {
            match (byte, depth) {
                // The very last byte is no place to cut yet, but is one when more has come.
                (b',', 1) if !*closed && at + 1 == buf.len() => *comma = true,
                (b',', 1) if !*closed => cut = at + 1,
                (b']' | b'}', 0) => *closed = true,
                _ => {}
            }
            false
        });
        self.seen = buf.len() - cut;
        Ok(cut)
    }
}

/// Objects one after the other: everything up to the last closing bracket outside of any other.
#[derive(Debug, Default)]
pub struct ObjectSplitter {
    state: Brackets,
    seen: usize,
}

impl Splitter for ObjectSplitter {
    fn split(&mut self, buf: &[u8], eof: bool) -> Result<usize> {
        if eof {
            *self = ObjectSplitter::default();
            return Ok(buf.len());
        }
        let (mut cut, mut from) = (0, self.seen.min(buf.len()));
        while from < buf.len() {
            if self.state == Brackets::default() {
                // Between records nothing counts but an opening bracket; quotes are garbage there.
                match memchr::memchr2(b'{', b'[', &buf[from..]) {
                    Some(at) => from += at,
                    None => break,
                }
            }
            let mut ended = false;
            from = self.state.follow(buf, from, |_, _, depth| {
                ended = depth == 0;
                ended
            });
            if ended {
                cut = from;
            }
        }
        self.seen = buf.len() - cut;
        Ok(cut)
    }
}

/// Detects the layout of its file, notes it where the decoder looks for it, and splits accordingly.
#[derive(Debug)]
pub struct JsonSplitter {
    layouts: Layouts,
    file: usize,
    inner: Option<Inner>,
}

#[derive(Debug)]
enum Inner {
    Lines(NdjsonSplitter),
    Array(ArraySplitter),
    Objects(ObjectSplitter),
}

impl JsonSplitter {
    pub(super) fn new(layouts: Layouts, file: usize) -> Self {
        JsonSplitter { layouts, file, inner: None }
    }
}

impl Splitter for JsonSplitter {
    fn split(&mut self, buf: &[u8], eof: bool) -> Result<usize> {
        let inner = match &mut self.inner {
            Some(inner) => inner,
            none => {
                let Some(layout) = detect(buf, eof) else {
                    return Ok(0);
                };
                self.layouts.set(self.file, layout);
                none.insert(match layout {
                    Layout::Lines => Inner::Lines(NdjsonSplitter::default()),
                    Layout::Array => Inner::Array(ArraySplitter::default()),
                    Layout::Objects => Inner::Objects(ObjectSplitter::default()),
                })
            }
        };
        match inner {
            Inner::Lines(s) => s.split(buf, eof),
            Inner::Array(s) => s.split(buf, eof),
            Inner::Objects(s) => s.split(buf, eof),
        }
    }
}

/// The layout of each file, once its splitter has seen its first record.
#[derive(Debug, Clone)]
pub(super) struct Layouts(Arc<[AtomicU8]>);

impl Layouts {
    pub fn new(files: usize) -> Self {
        Layouts((0..files).map(|_| AtomicU8::new(0)).collect())
    }

    pub fn set(&self, file: usize, layout: Layout) {
        if let Some(slot) = self.0.get(file) {
            slot.store(layout as u8, Ordering::Release);
        }
    }

    pub fn get(&self, file: usize) -> Option<Layout> {
        match self.0.get(file)?.load(Ordering::Acquire) {
            1 => Some(Layout::Lines),
            2 => Some(Layout::Array),
            3 => Some(Layout::Objects),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in steps of `step` bytes as a reader would, and returns the blocks.
    fn cut(mut splitter: impl Splitter, text: &str, step: usize) -> Vec<String> {
        let (mut from, mut to, mut blocks) = (0, 0, vec![]);
        while from < text.len() {
            to = (to + step).min(text.len());
            let n = splitter.split(&text.as_bytes()[from..to], to == text.len()).unwrap();
            if n > 0 {
                blocks.push(text[from..from + n].to_string());
            }
            from += n;
        }
        blocks
    }

    #[test]
    fn lines_end_at_newlines() {
        assert_eq!(cut(NdjsonSplitter::default(), "{}\n{\"a\":1}\n{}", 4), ["{}\n", "{\"a\":1}\n", "{}"]);
        assert_eq!(cut(NdjsonSplitter::default(), "{\"a\":\"long line\"}\n{}", 1), ["{\"a\":\"long line\"}\n", "{}"]);
    }

    #[test]
    fn elements_end_before_commas_outside_of_strings_and_brackets() {
        let text = r#"[{"a":"x,]}\"","b":[1,2]} , {"c":{}},3]  "#;
        let want = [r#"[{"a":"x,]}\"","b":[1,2]} ,"#, r#" {"c":{}},"#, "3]  "];
        assert_eq!(cut(ArraySplitter::default(), text, 1), want);
        for step in 2..20 {
            assert_eq!(cut(ArraySplitter::default(), text, step).concat(), text, "{step}");
        }
    }

    #[test]
    fn nothing_is_cut_behind_the_closed_array() {
        assert_eq!(cut(ArraySplitter::default(), "[1,2] , [3,4]", 1), ["[1,", "2] , [3,4]"]);
    }

    #[test]
    fn objects_end_at_their_bracket() {
        let text = "{\n\"a\": \"}\"\n}\n x \" {\"b\":[{}]}{}";
        assert_eq!(cut(ObjectSplitter::default(), text, 1), ["{\n\"a\": \"}\"\n}", "\n x \" {\"b\":[{}]}", "{}"]);
    }

    #[test]
    fn the_first_record_tells_the_layout() {
        let cases = [
            ("  \n[1]", Layout::Array),
            ("{\"a\":1}\n{\"a\":2}", Layout::Lines),
            ("{\"a\":1}", Layout::Lines),
            ("{\"a\":1} {\"a\":2}\n", Layout::Objects),
            ("{\n \"a\":1\n}\n", Layout::Objects),
            ("{\n \"a\":1,\n \"b\"", Layout::Objects),
            ("{\"a\":1,\"b\":\n{\"a\":2}\n{\"a\":3}\n", Layout::Lines),
            ("{\"a\":\"cut\n{\"a\":2}\n", Layout::Lines),
            ("{\"a\":\"cut", Layout::Lines),
            ("{\"a\":1}, \n{\"a\":2}", Layout::Lines),
            ("garbage\n{}", Layout::Lines),
            ("", Layout::Lines),
        ];
        for (text, layout) in cases {
            assert_eq!(detect(text.as_bytes(), true), Some(layout), "{text}");
            // A shorter look either says the same or asks for more.
            for n in 0..text.len() {
                if let Some(early) = detect(&text.as_bytes()[..n], false) {
                    assert_eq!(early, layout, "{text} after {n}");
                }
            }
        }
    }
}
