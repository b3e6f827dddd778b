//! What is wrong with a pipeline, where, and what to write instead; and how that is shown: as rustc does, or as JSON.
//!
//! Knows places in texts, no YAML and no pipelines. Texts that were marked secret are never shown.

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

use crate::yaml::{Sources, Span};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// One sentence without a final period.
    pub message: String,
    /// What the carets mark.
    pub span: Option<Span>,
    /// Text beside the carets.
    pub label: Option<String>,
    /// Other places that matter, each with its label.
    pub related: Vec<(Span, String)>,
    /// The remedy.
    pub help: Option<String>,
    pub notes: Vec<String>,
}

impl Diagnostic {
    pub fn error(span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        let (severity, span, message) = (Severity::Error, span.into(), message.into());
        Diagnostic { severity, message, span, label: None, related: vec![], help: None, notes: vec![] }
    }

    pub fn warning(span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(span, message) }
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }
}

/// Collects diagnostics, so that the user sees all of them at once. Equal ones are kept once.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    secret: Vec<Span>,
}

impl Diagnostics {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if !self.list.contains(&diagnostic) {
            self.list.push(diagnostic);
        }
    }

    pub fn extend(&mut self, other: Diagnostics) {
        other.list.into_iter().for_each(|d| self.push(d));
        self.secret.extend(other.secret);
    }

    /// Leaves out what lies within an error of `earlier`, or around it.
    pub fn without(mut self, earlier: &Diagnostics) -> Self {
        let inside = |a: Span, b: Span| a.source == b.source && a.start >= b.start && a.end <= b.end;
        self.list.retain(|d| {
            let errors = earlier.list.iter().filter(|e| e.severity == Severity::Error);
            !errors.filter_map(|e| e.span).any(|e| d.span.is_some_and(|d| inside(d, e) || inside(e, d)))
        });
        self
    }

    /// The text at `span` is shown as asterisks from now on.
    pub fn conceal(&mut self, span: Span) {
        self.secret.push(span);
    }

    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    pub fn errors(&self) -> usize {
        self.list.iter().filter(|d| d.severity == Severity::Error).count()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// In the order of their places; those without a place come last.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut list: Vec<&Diagnostic> = self.list.iter().collect();
        list.sort_by_key(|d| (d.span.is_none(), d.span));
        list
    }

    /// The text for people, one block per diagnostic with an empty line between, ending in a line break.
    pub fn render(&self, sources: &Sources, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for diagnostic in self.sorted() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&self.render_one(diagnostic, sources, &renderer));
            text.push('\n');
        }
        text
    }

    /// One JSON object per diagnostic: `level`, `message`, and where known `file`, `line`, `column`, `end_line`, `end_column`
    /// (1-based, columns in characters, the end exclusive), `label`, `help`, `notes`, `related`.
    pub fn to_json(&self, sources: &Sources) -> Vec<Value> {
        self.sorted().into_iter().map(|d| json_of(d, sources)).collect()
    }

    fn render_one(&self, diagnostic: &Diagnostic, sources: &Sources, renderer: &Renderer) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(&diagnostic.message));
        // One snippet per source: the one with the carets first.
        let mut places: Vec<(usize, Vec<Annotation<'_>>)> = vec![];
        let marks = diagnostic
            .span
            .iter()
            .map(|s| (AnnotationKind::Primary, *s, diagnostic.label.as_deref()))
            .chain(diagnostic.related.iter().map(|(s, label)| (AnnotationKind::Context, *s, Some(label.as_str()))));
        for (kind, span, label) in marks {
            let annotation = kind.span(span.start..span.end).label(label);
            match places.iter_mut().find(|(source, _)| *source == span.source) {
                Some((_, annotations)) => annotations.push(annotation),
                None => places.push((span.source, vec![annotation])),
            }
        }
        for (id, annotations) in places {
            if let Some(source) = sources.get(id) {
                let text = self.concealed(id, &source.text);
                group = group.element(Snippet::source(text).path(source.name.as_str()).annotations(annotations));
            }
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help));
        }
        for note in &diagnostic.notes {
            group = group.element(Level::NOTE.message(note));
        }
        renderer.render(&[group])
    }

    /// Asterisks keep the length, so spans stay true.
    fn concealed(&self, source: usize, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for span in self.secret.iter().filter(|s| s.source == source) {
            for byte in bytes.iter_mut().take(span.end).skip(span.start) {
                if *byte != b'\n' && *byte != b'\r' {
                    *byte = b'*';
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Whether diagnostics on standard error should have colour: a terminal, and neither `NO_COLOR` nor `TERM=dumb`.
pub fn use_color() -> bool {
    use std::io::IsTerminal;
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    std::io::stderr().is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// The candidate that `word` was most likely meant to be.
pub fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let normal = |s: &str| s.to_lowercase().replace(['-', ' '], "_");
    let word = normal(word);
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&word, &normal(c)), c))
        .filter(|(distance, c)| *distance <= allowed && *distance < c.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// `a`, `b` and `c`, each in backquotes.
pub fn listing<'c>(names: impl IntoIterator<Item = &'c str>) -> String {
    let names: Vec<String> = names.into_iter().map(|n| format!("`{n}`")).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

fn json_of(diagnostic: &Diagnostic, sources: &Sources) -> Value {
    let level = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut object = json!({"level": level, "message": diagnostic.message});
    let place = |span: Span, object: &mut Value| {
        let (file, line, column) = sources.position(span);
        let (_, end_line, end_column) = sources.position(Span { start: span.end, ..span });
        object["file"] = json!(file);
        for (key, number) in [("line", line), ("column", column), ("end_line", end_line), ("end_column", end_column)] {
            object[key] = json!(number);
        }
    };
    if let Some(span) = diagnostic.span {
        place(span, &mut object);
    }
    for (key, text) in [("label", &diagnostic.label), ("help", &diagnostic.help)] {
        if let Some(text) = text {
            object[key] = json!(text);
        }
    }
    if !diagnostic.notes.is_empty() {
        object["notes"] = json!(diagnostic.notes);
    }
    if !diagnostic.related.is_empty() {
        let related = diagnostic.related.iter().map(|(span, label)| {
            let mut one = json!({"label": label});
            place(*span, &mut one);
            one
        });
        object["related"] = related.collect();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> (Sources, Diagnostics) {
        let mut sources = Sources::default();
        let id = sources.add("pipeline.yaml", "name: olist\nkeys: {pii: hunter2, x: 1}\n");
        let mut diagnostics = Diagnostics::default();
        diagnostics.push(
            Diagnostic::error(Span::new(id, 33, 34), "unknown key `x`")
                .label("not known here")
                .related(Span::new(id, 0, 4), "the pipeline")
                .help("remove it")
                .note("keys are read at the start"),
        );
        diagnostics.conceal(Span::new(id, 24, 31));
        (sources, diagnostics)
    }

    #[test]
    fn rendered_like_rustc_and_without_secrets() {
        let (sources, diagnostics) = one();
        insta::assert_snapshot!(diagnostics.render(&sources, false));
        assert!(diagnostics.render(&sources, true).contains("\u{1b}["));
    }

    #[test]
    fn json_has_the_place_and_the_remedy() {
        let (sources, diagnostics) = one();
        let json = &diagnostics.to_json(&sources)[0];
        assert_eq!((&json["file"], &json["line"], &json["column"]), (&json!("pipeline.yaml"), &json!(2), &json!(22)));
        assert_eq!((&json["end_column"], &json["help"]), (&json!(23), &json!("remove it")));
        assert_eq!(json["related"][0]["line"], 1);
    }

    #[test]
    fn suggestions_are_near_or_none() {
        assert_eq!(did_you_mean("maks", ["mask", "match"]), Some("mask"));
        assert_eq!(did_you_mean("Partition-By", ["partition_by", "optimize"]), Some("partition_by"));
        assert_eq!(did_you_mean("xyz", ["mask", "dedup"]), None);
        assert_eq!(listing(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
