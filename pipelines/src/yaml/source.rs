//! The texts that a pipeline is read from (its file, each `--set`), and places in them.
//!
//! Spans are byte ranges; lines and columns are found when somebody asks. Knows nothing of YAML.

/// A byte range in one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// Index into [`Sources`].
    pub source: usize,
    pub start: usize,
    /// Exclusive.
    pub end: usize,
}

impl Span {
    pub fn new(source: usize, start: usize, end: usize) -> Self {
        Span { source, start, end: end.max(start) }
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// One text with the name that diagnostics show.
#[derive(Debug, Clone)]
pub struct Source {
    pub name: String,
    pub text: String,
    /// Byte offset at which each line starts.
    lines: Vec<usize>,
}

impl Source {
    /// 0-based line that holds the byte.
    pub fn line_of(&self, byte: usize) -> usize {
        self.lines.partition_point(|start| *start <= byte).saturating_sub(1)
    }

    pub fn line_count(&self) -> usize {
        self.lines.len()
    }

    /// Start and end of a 0-based line, without its line break.
    pub fn line_range(&self, line: usize) -> Option<(usize, usize)> {
        let start = *self.lines.get(line)?;
        let end = self.lines.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let text = &self.text[start..end];
        Some((start, start + text.strip_suffix('\r').unwrap_or(text).len()))
    }

    /// The text of a 0-based line.
    pub fn line(&self, line: usize) -> &str {
        self.line_range(line).map_or("", |(start, end)| &self.text[start..end])
    }

    /// 1-based line and column (in characters) of a byte.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        let line = self.line_of(byte);
        let start = self.lines.get(line).copied().unwrap_or(0);
        let before = self.text.get(start..byte.min(self.text.len())).unwrap_or("");
        (line + 1, before.chars().filter(|c| *c != '\u{feff}').count() + 1)
    }
}

/// All texts of one pipeline.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Adds a text and returns its index.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> usize {
        let text = text.into();
        let lines = std::iter::once(0).chain(memchr_newlines(&text)).collect();
        self.0.push(Source { name: name.into(), text, lines });
        self.0.len() - 1
    }

    pub fn get(&self, source: usize) -> Option<&Source> {
        self.0.get(source)
    }

    /// File name, 1-based line and 1-based column (in characters) at which `span` starts.
    pub fn position(&self, span: Span) -> (&str, usize, usize) {
        match self.get(span.source) {
            Some(source) => {
                let (line, column) = source.position(span.start);
                (&source.name, line, column)
            }
            None => ("", 1, 1),
        }
    }

    /// The text that `span` covers.
    pub fn text(&self, span: Span) -> &str {
        self.get(span.source).and_then(|s| s.text.get(span.start..span.end)).unwrap_or("")
    }
}

fn memchr_newlines(text: &str) -> impl Iterator<Item = usize> + '_ {
    text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_skip_the_byte_order_mark() {
        let mut sources = Sources::default();
        let id = sources.add("p.yaml", "\u{feff}é: x\r\nb: y");
        let at = |byte| sources.position(Span::new(id, byte, byte));
        assert_eq!(at(3), ("p.yaml", 1, 1));
        assert_eq!(at(7), ("p.yaml", 1, 4));
        assert_eq!(at(13), ("p.yaml", 2, 4));
        assert_eq!(sources.get(id).unwrap().line(0), "\u{feff}é: x");
    }
}
