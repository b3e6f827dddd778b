//! Text to tree. Duplicate keys, odd keys, foreign tags, second documents and endless aliases are diagnostics here, so that
//! the rest of the crate may rely on the invariants of `Node`.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};

use super::node::{Kind, Node, Scalar, Style};
use super::scan_error::{self, Open};
use super::source::{Source, Sources, Span};
use crate::diagnostic::{Diagnostic, Diagnostics};

/// More nodes than any pipeline has; aliases of aliases reach it quickly.
const MAX_NODES: usize = 200_000;
const MAX_DEPTH: usize = 100;

/// Reads the one document of `source`. `None` where it cannot be read at all; then there is at least one error.
pub fn parse(sources: &Sources, source: usize, diagnostics: &mut Diagnostics) -> Option<Node> {
    let text = sources.get(source)?;
    let mut builder = Builder {
        id: source,
        source: text,
        bytes: char_offsets(&text.text),
        parser: Parser::new_from_str(&text.text),
        anchors: HashMap::new(),
        names: vec![],
        open: vec![],
        closed: vec![],
        last: None,
        nodes: 0,
        diagnostics,
    };
    builder.document().ok()
}

/// An error that ends reading; its diagnostic was pushed.
struct Stop;

struct Builder<'s, 'd> {
    id: usize,
    source: &'s Source,
    /// Byte offset of each character, or `None` where the text is ASCII.
    bytes: Option<Vec<usize>>,
    parser: Parser<'s, StrInput<'s>>,
    /// Finished anchored nodes, by the parser's id.
    anchors: HashMap<usize, Node>,
    /// Anchored nodes that are still open: an alias of one would be endless.
    names: Vec<usize>,
    /// Collections that are open, for messages.
    open: Vec<Open>,
    /// Collections that ended since the last scalar.
    closed: Vec<Open>,
    /// The last scalar, for messages.
    last: Option<Span>,
    nodes: usize,
    diagnostics: &'d mut Diagnostics,
}

impl Builder<'_, '_> {
    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(_) if root.is_some() => {
                    let line = self.source.line_of(span.start);
                    let (start, end) = self.source.line_range(line).unwrap_or((span.start, span.end));
                    self.diagnostics.push(
                        Diagnostic::error(Span::new(self.id, start, end), "a second document starts here")
                            .label("everything from here on would be ignored")
                            .help("a pipeline is one YAML document: remove this line, or move what follows to a file of its own"),
                    );
                    return Err(Stop);
                }
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        match root {
            Some(root) => Ok(root),
            None => {
                let end = self.source.text.len();
                let help = "start with `name: my_pipeline`, or let `smelt init` write a first pipeline";
                self.diagnostics.push(Diagnostic::error(Span::new(self.id, end, end), "the file holds no YAML").help(help));
                Err(Stop)
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'static>, Span), Stop> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, Span::new(self.id, self.source.text.len(), self.source.text.len()))),
            Some(Ok((event, span))) => {
                let span = Span::new(self.id, self.byte(span.start.index()), self.byte(span.end.index()));
                Ok((owned(event), span))
            }
            Some(Err(error)) => {
                let at = self.byte(error.marker().index());
                let context =
                    scan_error::Context { id: self.id, source: self.source, open: &self.open, closed: &self.closed, last: self.last };
                self.diagnostics.push(scan_error::explain(error.info(), at, &context));
                Err(Stop)
            }
        }
    }

    fn node(&mut self, event: Event<'static>, span: Span, depth: usize) -> Result<Node, Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            let what = if depth > MAX_DEPTH { "nested too deeply" } else { "too large once its aliases are expanded" };
            self.diagnostics.push(Diagnostic::error(span, format!("the document is {what}")).help("split the pipeline"));
            return Err(Stop);
        }
        match event {
            Event::Alias(id) => self.alias(id, span),
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(text.into_owned(), style, span, tag.as_deref());
                self.remember(anchor, &node);
                Ok(node)
            }
            Event::SequenceStart(anchor, tag) => {
                let open = self.open(span, tag.as_deref(), false);
                self.names.push(anchor);
                let mut items = vec![];
                let end = loop {
                    match self.next()? {
                        (Event::SequenceEnd, span) => break span,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                };
                let span = self.close(open, end, items.last());
                self.names.pop();
                let node = self.build(span, Kind::List(items));
                self.remember(anchor, &node);
                Ok(node)
            }
            Event::MappingStart(anchor, tag) => {
                let open = self.open(span, tag.as_deref(), true);
                self.names.push(anchor);
                let mut entries = vec![];
                let end = loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, span) => break span,
                        (event, span) => self.node(event, span, depth + 1)?,
                    };
                    let (event, span) = self.next()?;
                    let value = self.node(event, span, depth + 1)?;
                    entries.push((key, value));
                };
                let span = self.close(open, end, entries.last().map(|(key, value)| if value.span.is_empty() { key } else { value }));
                self.names.pop();
                let entries = self.checked(entries);
                let node = self.build(span, Kind::Map(entries));
                self.remember(anchor, &node);
                Ok(node)
            }
            _ => {
                self.diagnostics.push(Diagnostic::error(span, "the YAML is not well formed here"));
                Err(Stop)
            }
        }
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<Node, Stop> {
        if let Some(node) = self.anchors.get(&id) {
            let node = node.clone();
            self.nodes += size(&node);
            return Ok(node);
        }
        debug_assert!(self.names.contains(&id));
        self.diagnostics.push(Diagnostic::error(span, "this alias stands inside the value it names, which would never end"));
        Err(Stop)
    }

    fn remember(&mut self, anchor: usize, node: &Node) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, span: Span, tag: Option<&Tag>) -> Node {
        let mut style = match style {
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::SingleQuoted => Style::Single,
            ScalarStyle::DoubleQuoted => Style::Double,
            ScalarStyle::Literal => Style::Literal,
            ScalarStyle::Folded => Style::Folded,
        };
        let start = if matches!(style, Style::Literal | Style::Folded) { span.start } else { self.skip_properties(span) };
        let raw = &self.source.text[start..];
        let end = match style {
            Style::Single => start + quoted_len(raw, '\''),
            Style::Double => start + quoted_len(raw, '"'),
            // An empty value has no text of its own: the parser points at whatever follows.
            Style::Plain if text.is_empty() => start,
            _ => start + self.source.text[start..span.end.max(start)].trim_end().len(),
        };
        if self.tag(tag, span) && style == Style::Plain {
            style = Style::Single;
        }
        let node = self.build(Span::new(self.id, start, end), Kind::Scalar(Scalar { text, style, replaced: None }));
        self.last = Some(node.span);
        self.closed.clear();
        node
    }

    /// Checks a tag; true where it makes the scalar text (`!!str`).
    fn tag(&mut self, tag: Option<&Tag>, span: Span) -> bool {
        match tag {
            None => false,
            Some(tag) if tag.is_yaml_core_schema() || tag.handle == "!!" => tag.suffix == "str",
            Some(_) => {
                let word = self.source.text[span.start..].split_whitespace().next().unwrap_or("!");
                let span = Span::new(self.id, span.start, span.start + word.len());
                let mut diagnostic = Diagnostic::error(span, format!("the tag `{word}` has no meaning here")).label("remove it");
                if word.len() > 1 {
                    diagnostic = diagnostic.help(format!("for text that starts with `!`, put it in quotes: \"{word} …\""));
                }
                self.diagnostics.push(diagnostic);
                false
            }
        }
    }

    fn open(&mut self, span: Span, tag: Option<&Tag>, map: bool) -> Open {
        self.tag(tag, span);
        let start = self.skip_properties(span);
        let flow = self.source.text[start..].starts_with(if map { '{' } else { '[' }) && span.end > span.start;
        let open = Open { span: Span::new(self.id, start, start + usize::from(flow)), flow, map };
        self.open.push(open);
        open
    }

    fn close(&mut self, open: Open, end: Span, last: Option<&Node>) -> Span {
        self.open.pop();
        self.closed.push(open);
        let end = if open.flow { end.end } else { last.map_or(open.span.start, |node| node.span.end) };
        // A merged or aliased last value lies elsewhere in the file.
        Span::new(self.id, open.span.start, end.max(open.span.end))
    }

    /// `span.start` after anchors and tags.
    fn skip_properties(&self, span: Span) -> usize {
        let mut start = span.start;
        loop {
            let rest = &self.source.text[start..];
            if !rest.starts_with(['&', '!']) || start >= span.end {
                return start;
            }
            let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let after = &rest[word..];
            let gap = after.len() - after.trim_start().len();
            start += word + gap;
        }
    }

    fn build(&self, span: Span, kind: Kind) -> Node {
        let text = &self.source.text[span.start..span.end];
        let line = text.split('\n').next().unwrap_or("").trim_end();
        Node { span, head: Span::new(self.id, span.start, span.start + line.len()), kind }
    }

    /// Keys are scalars and occur once; `<<` is merged in: keys of the map itself win, then earlier maps of a list.
    fn checked(&mut self, entries: Vec<(Node, Node)>) -> Vec<(Node, Node)> {
        let mut own: Vec<(Node, Node)> = Vec::with_capacity(entries.len());
        let mut merged: Vec<(Node, Node)> = vec![];
        for (key, value) in entries {
            match &key.kind {
                Kind::Scalar(Scalar { text, style: Style::Plain, .. }) if text == "<<" => self.merge(&key, value, &mut merged),
                Kind::Scalar(Scalar { text, .. }) => match own.iter().find(|(k, _)| k.text() == Some(text)) {
                    Some((first, _)) => self.diagnostics.push(
                        Diagnostic::error(key.span, format!("the key `{text}` is here twice"))
                            .label("again here")
                            .related(first.span, "first here")
                            .help("keep one of the two, or merge what is below them"),
                    ),
                    None => own.push((key, value)),
                },
                _ => self.diagnostics.push(
                    Diagnostic::error(key.head, "a key must be text")
                        .label("found a map or a list")
                        .help("put text that holds `{` or `[` in quotes"),
                ),
            }
        }
        merged.retain(|(key, _)| !own.iter().any(|(k, _)| k.text() == key.text()));
        merged.append(&mut own);
        merged
    }

    fn merge(&mut self, key: &Node, value: Node, merged: &mut Vec<(Node, Node)>) {
        let maps = match value.kind {
            Kind::List(items) => items,
            _ => vec![value],
        };
        for map in maps {
            match map.kind {
                Kind::Map(entries) => {
                    for (key, value) in entries {
                        if !merged.iter().any(|(k, _)| k.text() == key.text()) {
                            merged.push((key, value));
                        }
                    }
                }
                _ => self.diagnostics.push(
                    Diagnostic::error(key.span, "`<<` merges maps only")
                        .related(map.head, "this is not a map")
                        .help("name a map with `&name`, then write `<<: *name` or `<<: [*one, *two]`"),
                ),
            }
        }
    }

    fn byte(&self, character: usize) -> usize {
        let len = self.source.text.len();
        match &self.bytes {
            None => character.min(len),
            Some(bytes) => bytes.get(character).copied().unwrap_or(len),
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::List(items) => items.iter().map(size).sum(),
        Kind::Map(entries) => entries.iter().map(|(key, value)| size(key) + size(value)).sum(),
        Kind::Scalar(_) | Kind::Secret(_) => 0,
    }
}

fn owned(event: Event<'_>) -> Event<'static> {
    use std::borrow::Cow::Owned;
    match event {
        Event::Nothing => Event::Nothing,
        Event::StreamStart => Event::StreamStart,
        Event::StreamEnd => Event::StreamEnd,
        Event::DocumentStart(explicit) => Event::DocumentStart(explicit),
        Event::DocumentEnd => Event::DocumentEnd,
        Event::Alias(id) => Event::Alias(id),
        Event::Scalar(text, style, id, tag) => Event::Scalar(Owned(text.into_owned()), style, id, tag.map(|t| Owned(t.into_owned()))),
        Event::SequenceStart(id, tag) => Event::SequenceStart(id, tag.map(|t| Owned(t.into_owned()))),
        Event::SequenceEnd => Event::SequenceEnd,
        Event::MappingStart(id, tag) => Event::MappingStart(id, tag.map(|t| Owned(t.into_owned()))),
        Event::MappingEnd => Event::MappingEnd,
    }
}

fn char_offsets(text: &str) -> Option<Vec<usize>> {
    (!text.is_ascii()).then(|| text.char_indices().map(|(byte, _)| byte).collect())
}

/// Bytes of a quoted scalar with its quotes; the parser's own end may take in what follows.
fn quoted_len(raw: &str, quote: char) -> usize {
    let mut chars = raw.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && quote == '"' {
            chars.next();
        } else if c == quote {
            match chars.peek() {
                Some((_, '\'')) if quote == '\'' => {
                    chars.next();
                }
                _ => return at + 1,
            }
        }
    }
    raw.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Sources, Node) {
        let mut sources = Sources::default();
        let id = sources.add("p.yaml", text);
        let mut diagnostics = Diagnostics::default();
        let node = parse(&sources, id, &mut diagnostics);
        assert!(diagnostics.is_empty(), "{}", diagnostics.render(&sources, false));
        (sources, node.unwrap())
    }

    fn path(p: &str) -> Vec<String> {
        p.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn spans_cover_the_values_and_nothing_else() {
        let (s, root) =
            read("a: \"x\\ty\"   # c\nb: &n !!str  é # c\nc: {k: [1, 'it''s'], e: }\nd:\n  - x: 1\n    y: plain\n      more\n\nf:\n");
        let text = |p: &str| s.text(super::super::deepest(&root, &path(p)).1.span).to_owned();
        assert_eq!(text("a"), "\"x\\ty\"");
        assert_eq!(text("b"), "é");
        assert_eq!(text("c"), "{k: [1, 'it''s'], e: }");
        assert_eq!(text("c/k/1"), "'it''s'");
        assert_eq!(text("c/e"), "");
        assert_eq!(text("d"), "- x: 1\n    y: plain\n      more");
        assert_eq!(text("d/0/y"), "plain\n      more");
        assert_eq!(s.text(super::super::locate(&root, &path("d"))), "d");
        assert_eq!(s.text(super::super::locate(&root, &path("d/0/nope/deeper"))), "x: 1");
        assert_eq!(s.text(super::super::locate(&root, &path("f"))), "f");
        assert_eq!(s.text(super::super::locate_key(&root, &path("d/0/y"))), "y");
        assert_eq!(s.text(super::super::locate(&root, &path("d/0/y"))), "plain");
    }

    #[test]
    fn aliases_and_merge_keys() {
        let (_, root) = read("one: &one {a: 1, b: 1}\ntwo: &two {b: 2, c: 2}\nall:\n  c: 3\n  <<: [*one, *two]\n  d: *one\n");
        let all = root.get("all").unwrap();
        let keys: Vec<_> = all.entries().iter().map(|(k, v)| (k.text().unwrap(), v.text().unwrap_or("-"))).collect();
        assert_eq!(keys, [("a", "1"), ("b", "1"), ("c", "3"), ("d", "-")]);
    }

    #[test]
    fn alias_bombs_end_early() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 9].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        let mut sources = Sources::default();
        let id = sources.add("p.yaml", text);
        let mut diagnostics = Diagnostics::default();
        assert!(parse(&sources, id, &mut diagnostics).is_none());
        assert!(diagnostics.render(&sources, false).contains("too large once its aliases are expanded"));
    }
}
