//! What the YAML parser's errors mean to somebody who writes pipelines: the place of the mistake (not where the parser gave
//! up), in plain words, with the remedy.

use super::source::{Source, Span};
use crate::diagnostic::Diagnostic;

/// A collection that was open when reading stopped. `span` is its bracket, or where its first key stands (empty).
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    pub span: Span,
    pub flow: bool,
    pub map: bool,
}

pub(super) struct Context<'a> {
    pub id: usize,
    pub source: &'a Source,
    pub open: &'a [Open],
    /// Collections that ended since the last scalar: the line at fault may have been meant for one of them.
    pub closed: &'a [Open],
    /// The last scalar that was read.
    pub last: Option<Span>,
}

/// The diagnostic for the parser's message `info` at byte `at`.
pub(super) fn explain(info: &str, at: usize, context: &Context<'_>) -> Diagnostic {
    let source = context.source;
    let here = context.word(at);
    if let Some(tab) = context.tab(at) {
        return Diagnostic::error(tab, "a tab indents this line")
            .label("YAML takes spaces only")
            .help("replace each tab by two spaces (editors: \"convert indentation to spaces\")");
    }
    if let Some(reference) = context.bare_reference(at) {
        return Diagnostic::error(reference, "`${…}` must be in quotes inside `{ }` and `[ ]`")
            .label("YAML takes this `{` for a map")
            .help(format!("write \"{}\"", &source.text[reference.start..reference.end]));
    }
    let unclosed = context.open.iter().rev().find(|o| o.flow);
    match info {
        _ if info.contains("quoted scalar") && (info.contains("indentation") || info.contains("end of stream")) => {
            let quote = source.text[at..].chars().next().filter(|c| matches!(c, '"' | '\''));
            let line = source.line_range(source.line_of(at)).map_or(at, |(_, end)| end);
            let quote = quote.map_or_else(|| "a quote".to_owned(), |q| format!("this `{q}`"));
            Diagnostic::error(Span::new(context.id, at, line), format!("{quote} is not closed"))
                .label("starts here and never ends")
                .help("close the quotes at the end of the text; a quote inside single quotes is written twice: 'it''s'")
        }
        _ if info.contains("trailing content") => Diagnostic::error(here, "text follows the closing quote")
            .label("outside the quotes")
            .help("put the whole value in quotes; inside double quotes write \\\" for a quote, inside single quotes ''"),
        _ if info.contains("unknown escape") || info.contains("hexadecimal") || info.contains("Unicode character") => {
            let escape = bad_escape(&source.text[at..]).map(|(start, end)| Span::new(context.id, at + start, at + end));
            let text = escape.map_or("\\", |s| &source.text[s.start..s.end]);
            Diagnostic::error(escape.unwrap_or(here), format!("`{text}` is not an escape that double quotes know"))
                .label("unknown escape")
                .help("use single quotes, in which a backslash is just a backslash, or write \\\\")
        }
        "mapping values are not allowed in this context" => {
            let multiline = context.last.is_some_and(|l| source.line_of(l.start) < source.line_of(at));
            match context.last {
                Some(last) if multiline => {
                    let start = source.line_range(source.line_of(at)).map_or(at, |(start, _)| start);
                    let indent = source.text[start..].len() - source.text[start..].trim_start().len();
                    let first = last.start + source.text[last.start..at].find('\n').unwrap_or(0);
                    Diagnostic::error(Span::new(context.id, start + indent, at), "this key does not fit the lines above it")
                        .label("YAML reads this as more text of the value above")
                        .related(Span::new(context.id, last.start, first), "of this value")
                        .help("give keys of one map the same indentation, and check the line above for a missing `:`")
                }
                _ => Diagnostic::error(Span::new(context.id, at, at + 1), "a second `: ` on one line")
                    .label("an unquoted value cannot hold a colon and a space")
                    .help("put the value in quotes, or write a map on lines of its own or in { }"),
            }
        }
        "block sequence entries are not allowed in this context" => Diagnostic::error(here, "a list cannot start on the line of its key")
            .label("this `-` starts a list")
            .help("put the list on the next line, or write it as [a, b]"),
        _ if info.contains("did not find expected key") || info.contains("expected '-' indicator") => {
            let columns = context.columns();
            let fits = match columns.as_slice() {
                [] => "give the keys of one map the same indentation".to_owned(),
                [one] => format!("the lines above it that it could follow start in column {one}"),
                [rest @ .., last] => format!("the lines above it that it could follow start in columns {} and {last}", rest.join(", ")),
            };
            Diagnostic::error(here, "this line does not fit the indentation of the lines above it")
                .label(format!("starts in column {}", source.position(at).1))
                .help(fits)
        }
        _ if (info.contains("node content") && unclosed.is_some())
            || info.contains("flow mapping")
            || info.contains("flow sequence")
            || info.contains("':' indicator")
            || info.contains("flow construct") =>
        {
            let (bracket, close) = match unclosed {
                Some(open) if !open.map => ("[", "]"),
                _ => ("{", "}"),
            };
            let at_end = source.text[at.min(source.text.len())..].trim().is_empty();
            let message = if at_end { format!("this `{bracket}` is not closed") } else { format!("expected `,` or `{close}`") };
            let help =
                format!("separate entries with `,` and close the `{bracket}` with `{close}`; quote text that holds any of , [ ] {{ }}");
            match unclosed {
                Some(open) if at_end => Diagnostic::error(open.span, message).label("opened here").help(help),
                Some(open) => {
                    Diagnostic::error(here, message).label("found this").related(open.span, format!("inside this `{bracket}`")).help(help)
                }
                None => Diagnostic::error(here, message).help(help),
            }
        }
        _ if info.contains("misplaced bracket") || info.contains("only valid inside a block") => {
            Diagnostic::error(here, "a closing bracket without an opening one")
                .label("closes nothing")
                .help("remove it, or put the text in quotes")
        }
        _ if info.contains("unknown anchor") || info.contains("anchor or alias") => {
            Diagnostic::error(here, format!("`{}` refers to an anchor that is not defined above", &source.text[here.start..here.end]))
                .label("no such anchor")
                .help("define it with `&name` before it is used; text that starts with `*` or `&`, like \"*.csv\", needs quotes")
        }
        _ if info.contains("unexpected character") || info.contains("plain scalar cannot start") || info.contains("plain scalar") => {
            let c = source.text[at..].chars().next().unwrap_or(' ');
            Diagnostic::error(here, format!("unquoted text cannot start with `{c}`")).label("needs quotes").help("put the value in quotes")
        }
        "simple key expect ':'" | "simple key expected" => {
            Diagnostic::error(here, "expected `:` after this key").label("a key without a value").help("write `key: value`")
        }
        _ if info.contains("recursion limit") => Diagnostic::error(here, "the document is nested too deeply").help("split the pipeline"),
        _ if info.contains("block scalar") => Diagnostic::error(here, "this block of text is not indented as its first line")
            .label(info.to_owned())
            .help("indent every line of the text below `|` or `>` at least as far as its first line, with spaces"),
        _ if info.contains("directive") || info.contains("document start") => {
            Diagnostic::error(here, "lines that start with `%` are YAML directives")
                .label("not understood")
                .help("remove the directive, or put text that starts with `%` in quotes")
        }
        other => Diagnostic::error(here, format!("the YAML is not well formed: {other}")),
    }
}

impl Context<'_> {
    /// The word at a byte, or an empty span at the end of a line.
    fn word(&self, at: usize) -> Span {
        let rest = &self.source.text[at.min(self.source.text.len())..];
        let len = rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | ']' | '}' | ':')).unwrap_or(rest.len());
        let first = rest.chars().next().filter(|c| !c.is_whitespace()).map_or(0, char::len_utf8);
        Span::new(self.id, at, at + len.max(first))
    }

    /// Tabs that indent a line at or next to the place where the parser gave up.
    fn tab(&self, at: usize) -> Option<Span> {
        let line = self.source.line_of(at);
        (line.saturating_sub(1)..=line + 1).find_map(|l| {
            let (start, end) = self.source.line_range(l)?;
            let text = &self.source.text[start..end];
            let indent = &text[..text.len() - text.trim_start().len()];
            let first = indent.find('\t')?;
            let tabs = indent[first..].len() - indent[first..].trim_start_matches('\t').len();
            (!text.trim().is_empty()).then(|| Span::new(self.id, start + first, start + first + tabs))
        })
    }

    /// An unquoted `${…}` on this line inside brackets.
    fn bare_reference(&self, at: usize) -> Option<Span> {
        self.open.iter().rev().find(|o| o.flow)?;
        let (start, end) = self.source.line_range(self.source.line_of(at))?;
        let line = &self.source.text[start..end];
        let from = line.char_indices().map(|(i, _)| i).take_while(|i| start + i <= at).filter(|i| line[*i..].starts_with("${")).last()?;
        let close = line[from..].find('}')?;
        // The whole word, and not where it is in quotes already.
        let word = line[..from].rfind([' ', ',', '[', '{']).map_or(0, |i| i + 1);
        let tail = &line[from + close + 1..];
        let rest = tail.find([' ', ',', ']', '}']).unwrap_or(tail.len());
        let span = Span::new(self.id, start + word, start + from + close + 1 + rest);
        (!self.source.text[span.start..span.end].contains(['"', '\''])).then_some(span)
    }

    /// 1-based columns in which the open block collections start.
    fn columns(&self) -> Vec<String> {
        let mut columns: Vec<usize> =
            self.open.iter().chain(self.closed).filter(|o| !o.flow).map(|o| self.source.position(o.span.start).1).collect();
        columns.sort_unstable();
        columns.dedup();
        columns.into_iter().map(|c| c.to_string()).collect()
    }
}

/// Range of the first escape in double-quoted text that YAML does not know.
fn bad_escape(quoted: &str) -> Option<(usize, usize)> {
    let mut chars = quoted.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return None,
            '\\' => {
                let (next, escape) = chars.next()?;
                let digits = match escape {
                    'x' => 2,
                    'u' => 4,
                    'U' => 8,
                    _ => 0,
                };
                let good = quoted[next + escape.len_utf8()..].chars().take(digits).filter(char::is_ascii_hexdigit).count() == digits;
                if !"0abt\tnvfre \"/\\N_LPxuU\n".contains(escape) || !good {
                    return Some((at, next + escape.len_utf8()));
                }
            }
            _ => {}
        }
    }
    None
}
