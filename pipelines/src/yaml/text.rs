//! From a place inside a scalar's text (a line and a column of SQL, say) to the place in the file where it was written.

use super::node::{Node, Scalar, Style};
use super::source::{Source, Sources, Span};

/// The place in the file of `length` characters at a 1-based line and column of the scalar's text. `length` 0 marks the
/// word there. Exact for all styles of scalar, but for the white space that folding makes up. Text that `${…}` brought
/// in is marked as that `${…}`. Falls back to the scalar's first line.
pub fn within(sources: &Sources, node: &Node, line: usize, column: usize, length: usize) -> Span {
    let (Some(scalar), Some(source)) = (node.scalar(), sources.get(node.span.source)) else { return node.head };
    let Some(from) = offset(&scalar.text, line, column) else { return node.head };
    let length = if length == 0 { word_length(&scalar.text[from..]) } else { length };
    let to = scalar.text[from..].char_indices().nth(length).map_or(scalar.text.len(), |(i, _)| from + i);
    written_at(source, node, scalar, from..to).unwrap_or(node.head)
}

/// Where a byte range of a scalar's text was written, cut to one line.
pub(super) fn written_at(source: &Source, node: &Node, scalar: &Scalar, range: std::ops::Range<usize>) -> Option<Span> {
    let (decoded, start, end) = match &scalar.replaced {
        None => (scalar.text.as_str(), range.start, range.end),
        Some(replaced) => (replaced.original.as_str(), replaced.origin(range.start, false), replaced.origin(range.end, true)),
    };
    let map = align(source, node.span, scalar.style, decoded);
    let index = decoded.get(..start)?.chars().count();
    let count = decoded.get(start..end.max(start))?.chars().count();
    let (from, first_end) = *map.get(index).or(map.last())?;
    let to = if count == 0 { from } else { map.get(index + count - 1).map_or(first_end, |(_, end)| *end) };
    let (_, line_end) = source.line_range(source.line_of(from))?;
    Some(Span::new(node.span.source, from, to.min(line_end)))
}

impl super::node::Replaced {
    /// The byte of the original text that a byte of the new text stands for; inside a replaced piece its start or end.
    fn origin(&self, byte: usize, end: bool) -> usize {
        let (mut new, mut old) = (0, 0);
        for (text, original) in &self.pieces {
            if byte < text.start || (byte == text.start && end) {
                break;
            }
            if byte < text.end {
                return if end { original.end } else { original.start };
            }
            (new, old) = (text.end, original.end);
        }
        old + (byte - new)
    }
}

/// Byte offset of a 1-based line and column (in characters).
fn offset(text: &str, line: usize, column: usize) -> Option<usize> {
    let mut start = 0;
    for _ in 1..line {
        start += text[start..].find('\n')? + 1;
    }
    let rest = &text[start..];
    let end = rest.find('\n').unwrap_or(rest.len());
    Some(start + rest[..end].char_indices().nth(column.saturating_sub(1)).map_or(end, |(i, _)| i))
}

fn word_length(text: &str) -> usize {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').count().max(1)
}

/// For each character of the decoded text, the byte range in the source that it was written as.
fn align(source: &Source, span: Span, style: Style, decoded: &str) -> Vec<(usize, usize)> {
    match style {
        Style::Literal => literal(source, span, decoded),
        Style::Double => double(&source.text, span, decoded),
        Style::Plain | Style::Single | Style::Folded => folded(&source.text, span, style, decoded),
    }
}

/// Line for line: the span starts at the first line that is not blank, after the indentation that every line has.
fn literal(source: &Source, span: Span, decoded: &str) -> Vec<(usize, usize)> {
    let first = source.line_of(span.start);
    let indent = span.start - source.line_range(first).map_or(span.start, |(start, _)| start);
    let blank = decoded.split('\n').take_while(|l| l.is_empty()).count();
    let mut map = Vec::with_capacity(decoded.len());
    for (i, line) in decoded.split('\n').enumerate() {
        let at = (first + i).saturating_sub(blank).min(source.line_count().saturating_sub(1));
        let (start, end) = source.line_range(at).unwrap_or((span.end, span.end));
        let start = (start + indent).min(end);
        map.extend(line.char_indices().map(|(b, c)| ((start + b).min(end), (start + b + c.len_utf8()).min(end))));
        map.push((end, end));
    }
    map
}

/// Folding changes white space only: all other characters stand in the source in the same order.
fn folded(text: &str, span: Span, style: Style, decoded: &str) -> Vec<(usize, usize)> {
    let mut at = span.start + usize::from(style == Style::Single);
    let mut map = Vec::with_capacity(decoded.len() + 1);
    for c in decoded.chars() {
        if !c.is_whitespace() {
            at += text[at..].len() - text[at..].trim_start().len();
        }
        let here = text[at..].starts_with(c);
        let end = if here { at + c.len_utf8() } else { at };
        map.push((at, end));
        at = end + usize::from(style == Style::Single && here && c == '\'');
    }
    map.push((at, at));
    map
}

fn double(text: &str, span: Span, decoded: &str) -> Vec<(usize, usize)> {
    let mut at = (span.start + 1).min(text.len());
    let mut map = Vec::with_capacity(decoded.len() + 1);
    for c in decoded.chars() {
        let gap = |at: usize| text[at..].len() - text[at..].trim_start().len();
        // A backslash at the end of a line joins the lines.
        while text[at..].starts_with("\\\n") || text[at..].starts_with("\\\r\n") {
            at += 1;
            at += gap(at);
        }
        let folding = text[at..at + gap(at)].contains('\n');
        if !c.is_whitespace() && folding {
            at += gap(at);
        }
        let end = match text[at..].strip_prefix('\\') {
            Some(rest) => {
                let escape = rest.chars().next().map_or(0, |e| match e {
                    'x' => 3,
                    'u' => 5,
                    'U' => 9,
                    e => e.len_utf8(),
                });
                (at + 1 + escape).min(text.len())
            }
            None if folding && c.is_whitespace() => at,
            None => at + text[at..].chars().next().map_or(0, char::len_utf8),
        };
        map.push((at, end));
        at = end;
    }
    map.push((at, at));
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Diagnostics;

    /// Marks the word at a line and column of the value of `k`, and shows the source with the mark in brackets.
    fn mark(yaml: &str, line: usize, column: usize) -> String {
        let mut sources = Sources::default();
        let id = sources.add("p.yaml", yaml);
        let mut diagnostics = Diagnostics::default();
        let mut root = super::super::parse(&sources, id, &mut diagnostics).unwrap();
        let vars = |name: &str| (name == "T").then(|| "silver.some_long_table".to_owned());
        super::super::interpolate(&mut root, &sources, &vars, super::super::Unset::Complain, &mut diagnostics);
        assert!(diagnostics.is_empty());
        let span = within(&sources, root.get("k").unwrap(), line, column, 0);
        let (_, l, _) = sources.position(span);
        let text = &sources.get(id).unwrap().text;
        let line = text.lines().nth(l - 1).unwrap();
        let start = text[..span.start].rfind('\n').map_or(0, |i| i + 1);
        format!("{}[{}]{}", &line[..span.start - start], sources.text(span), &line[span.end - start..])
    }

    #[test]
    fn literal_blocks_are_exact() {
        let sql = "k: |\n\n    select é, foo\n      from bar\n\n    where x\nz: 1\n";
        assert_eq!(mark(sql, 2, 11), "    select é, [foo]");
        assert_eq!(mark(sql, 3, 8), "      from [bar]");
        assert_eq!(mark(sql, 5, 7), "    where [x]");
        assert_eq!(mark("k: |2\n    lead\n  x", 1, 3), "    [lead]");
        assert_eq!(mark("k: |-\r\n  a\r\n  b c\r\n", 2, 3), "  b [c]");
    }

    #[test]
    fn folded_plain_and_quoted_text() {
        assert_eq!(mark("k: >-\n  select a,\n  bcd\n\n  from t\n", 1, 11), "  [bcd]");
        assert_eq!(mark("k: >-\n  select a,\n  bcd\n\n  from t\n", 2, 6), "  from [t]");
        assert_eq!(mark("k: select a\n   from bad\n", 1, 15), "   from [bad]");
        assert_eq!(mark("k: 'it''s  bad'\n", 1, 7), "k: 'it''s  [bad]'");
        assert_eq!(mark("k: \"a\\tb \\u00e9x \\\n   bad\"\n", 1, 8), "   [bad]\"");
        assert_eq!(mark("k: \"a\n   b\"\n", 1, 3), "   [b]\"");
    }

    #[test]
    fn text_after_an_interpolation_keeps_its_place() {
        let sql = "k: |\n  select x\n  from ${T} join bad\n";
        assert_eq!(mark(sql, 2, 34), "  from ${T} join [bad]");
        assert_eq!(mark(sql, 2, 13), "  from [${T}] join bad");
        assert_eq!(mark("k: a $${x} bad", 1, 8), "k: a $${x} [bad]");
    }

    #[test]
    fn places_outside_the_text_fall_back() {
        assert_eq!(mark("k: abc\n", 7, 1), "k: [abc]");
    }
}
