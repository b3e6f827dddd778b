//! What lies over the file: the environment that was chosen, and `--set key.path=value`.
//!
//! Maps are merged, everything else is replaced; values keep the place they were written at.

use super::node::{Kind, Node};
use super::parse;
use super::source::{Sources, Span};
use crate::diagnostic::{Diagnostic, Diagnostics, did_you_mean, listing};

/// The environment that holds when none is named; it need not be in the file.
pub const DEFAULT_ENVIRONMENT: &str = "local";

/// Takes `environments:` out of the root and returns its key and value.
pub fn take_environments(root: &mut Node) -> Option<(Node, Node)> {
    let Kind::Map(entries) = &mut root.kind else { return None };
    let at = entries.iter().position(|(key, _)| key.text() == Some("environments"))?;
    Some(entries.remove(at))
}

/// Lays the environment `name` (or the default one) over the root. `environments` is what `take_environments` returned.
pub fn apply_environment(root: &mut Node, environments: Option<&(Node, Node)>, name: Option<&str>, diagnostics: &mut Diagnostics) {
    let known: Vec<&str> = environments.map(|(_, e)| e.entries().iter().filter_map(|(key, _)| key.text()).collect()).unwrap_or_default();
    if let Some((key, value)) = environments {
        check(key, value, diagnostics);
    }
    let wanted = name.unwrap_or(DEFAULT_ENVIRONMENT);
    match environments.and_then(|(_, e)| e.get(wanted)) {
        Some(overlay) if matches!(overlay.kind, Kind::Map(_)) => merge(root, overlay),
        Some(_) => {}
        None if wanted == DEFAULT_ENVIRONMENT => {}
        None => {
            let span = environments.map(|(key, _)| key.span);
            let mut diagnostic = Diagnostic::error(span, format!("the pipeline has no environment `{wanted}`"));
            if span.is_some() {
                diagnostic = diagnostic.label(match did_you_mean(wanted, known.iter().copied()) {
                    Some(near) => format!("did you mean `--env {near}`?"),
                    None => format!("`{wanted}` is not here"),
                });
            }
            diagnostics.push(diagnostic.help(match known.as_slice() {
                [] => format!("add `environments: {{{wanted}: {{…}}}}` to the pipeline, or leave out `--env`"),
                _ => format!("known environments: {}", listing(known.iter().copied())),
            }));
        }
    }
}

/// Lays one `--set key.path=value` over the root. Adds the text as a source of its own, named `--set`.
pub fn apply_set(root: &mut Node, setting: &str, sources: &mut Sources, diagnostics: &mut Diagnostics) {
    let id = sources.add("--set", setting);
    let Some(equals) = setting.find('=') else {
        let span = Span::new(id, 0, setting.len());
        diagnostics.push(Diagnostic::error(span, "`--set` needs a value").label("no `=` here").help("write `--set key.path=value`"));
        return;
    };
    // The value is read in place, so that its spans point into the setting.
    let mut scratch = Sources::default();
    for _ in 0..id {
        scratch.add("", "");
    }
    scratch.add("--set", format!("{}{}", " ".repeat(equals + 1), &setting[equals + 1..]));
    let value = if setting[equals + 1..].trim().is_empty() {
        let span = Span::new(id, equals + 1, equals + 1);
        let scalar = super::node::Scalar { text: String::new(), style: super::node::Style::Single, replaced: None };
        Some(Node { span, head: span, kind: Kind::Scalar(scalar) })
    } else {
        parse(&scratch, id, diagnostics)
    };
    let Some(value) = value else { return };
    let segments = segments(&setting[..equals], id);
    if segments.iter().any(|key| key.text() == Some("")) {
        let span = Span::new(id, 0, equals);
        diagnostics.push(Diagnostic::error(span, "this is not a path of keys").help("write `--set key.path=value`, without empty parts"));
        return;
    }
    put(root, &segments, value, &[], diagnostics);
}

/// Lays `over` on `base`.
fn merge(base: &mut Node, over: &Node) {
    match (&mut base.kind, &over.kind) {
        (Kind::Map(entries), Kind::Map(overs)) => {
            for (key, value) in overs {
                match entries.iter_mut().find(|(k, _)| k.text() == key.text()) {
                    Some((_, old)) if matches!((&old.kind, &value.kind), (Kind::Map(_), Kind::Map(_))) => merge(old, value),
                    Some(entry) => *entry = (key.clone(), value.clone()),
                    None => entries.push((key.clone(), value.clone())),
                }
            }
        }
        _ => *base = over.clone(),
    }
}

fn check(key: &Node, environments: &Node, diagnostics: &mut Diagnostics) {
    let wrong = |key: &Node, what: &str| {
        Diagnostic::error(key.span, format!("{what} must be a map"))
            .label("not a map")
            .help("write `environments: {prod: {lake: s3://bucket}}`")
    };
    if !matches!(environments.kind, Kind::Map(_)) && !environments.is_null() {
        diagnostics.push(wrong(key, "`environments`"));
    }
    for (name, overlay) in environments.entries() {
        if !matches!(overlay.kind, Kind::Map(_)) && !overlay.is_null() {
            diagnostics.push(wrong(name, "an environment"));
        }
        if let Some((inner, _)) = overlay.entry("environments") {
            diagnostics.push(
                Diagnostic::error(inner.span, "an environment cannot hold environments")
                    .help("keep all environments at the top of the file"),
            );
        }
    }
}

/// The dotted path as key nodes; parts in double quotes may hold dots.
fn segments(path: &str, id: usize) -> Vec<Node> {
    let mut parts = vec![];
    let (mut start, mut quoted) = (0, false);
    for (at, c) in path.char_indices().chain([(path.len(), '.')]) {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted || at == path.len() => {
                let span = Span::new(id, start, at);
                let text = path[start..at].trim_matches('"').to_owned();
                let scalar = super::node::Scalar { text, style: super::node::Style::Single, replaced: None };
                parts.push(Node { span, head: span, kind: Kind::Scalar(scalar) });
                start = at + 1;
            }
            _ => {}
        }
    }
    parts
}

/// `above` holds the keys already walked: a table's name has a dot of its own.
fn put(node: &mut Node, path: &[Node], value: Node, above: &[&str], diagnostics: &mut Diagnostics) {
    let Some(first) = path.first() else {
        *node = value;
        return;
    };
    match &mut node.kind {
        Kind::List(items) => {
            let len = items.len();
            match first.text().and_then(|t| t.parse::<usize>().ok()).and_then(|i| items.get_mut(i)) {
                Some(item) => put(item, &path[1..], value, &["", ""], diagnostics),
                None => diagnostics.push(
                    Diagnostic::error(first.span, "the list has no such item")
                        .label(format!("expected a number below {len}"))
                        .related(node.head, "this list"),
                ),
            }
        }
        kind => {
            if !matches!(kind, Kind::Map(_)) {
                *kind = Kind::Map(vec![]);
                (node.span, node.head) = (first.span, first.span);
            }
            let Kind::Map(entries) = kind else { return };
            // The longest run of parts that is a key here: `silver.orders` is one key.
            let known = (1..=path.len()).rev().find(|n| entries.iter().any(|(k, _)| k.text() == Some(&join(&path[..*n]))));
            let taken = known.unwrap_or(if above == ["tables"] { 2.min(path.len()) } else { 1 });
            let name = join(&path[..taken]);
            let span = Span { end: path[taken - 1].span.end, ..first.span };
            let at = match entries.iter().position(|(k, _)| k.text() == Some(&name)) {
                Some(at) => at,
                None => {
                    let scalar = super::node::Scalar { text: name.clone(), style: super::node::Style::Single, replaced: None };
                    let key = Node { span, head: span, kind: Kind::Scalar(scalar) };
                    entries.push((key, Node { span, head: span, kind: Kind::Map(vec![]) }));
                    entries.len() - 1
                }
            };
            let mut walked = above.to_vec();
            walked.push(&name);
            put(&mut entries[at].1, &path[taken..], value, &walked, diagnostics);
        }
    }
}

fn join(path: &[Node]) -> String {
    path.iter().filter_map(Node::text).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Sources, Node, Diagnostics) {
        let mut sources = Sources::default();
        let id = sources.add("p.yaml", text);
        let mut diagnostics = Diagnostics::default();
        let root = parse(&sources, id, &mut diagnostics).unwrap();
        (sources, root, diagnostics)
    }

    const PIPELINE: &str = "lake: a\noptimize: {size: 1, sort: [x, y]}\ntables: {silver.orders: {write: append}}\nenvironments:\n  local:\n  prod:\n    lake: b\n    optimize: {sort: [z], deep: {k: v}}\n";

    #[test]
    fn maps_merge_and_lists_are_replaced() {
        let (sources, mut root, mut diagnostics) = read(PIPELINE);
        let environments = take_environments(&mut root);
        apply_environment(&mut root, environments.as_ref(), Some("prod"), &mut diagnostics);
        assert!(diagnostics.is_empty() && root.get("environments").is_none());
        let lake = root.get("lake").unwrap();
        assert_eq!((lake.text(), sources.position(lake.span).1), (Some("b"), 7));
        let optimize = root.get("optimize").unwrap();
        assert_eq!(optimize.get("size").unwrap().text(), Some("1"));
        assert_eq!(optimize.get("sort").unwrap().items().len(), 1);
        assert_eq!(optimize.get("deep").unwrap().get("k").unwrap().text(), Some("v"));
    }

    #[test]
    fn local_may_be_empty_or_absent() {
        for text in [PIPELINE, "lake: a\n"] {
            let (_, mut root, mut diagnostics) = read(text);
            let environments = take_environments(&mut root);
            apply_environment(&mut root, environments.as_ref(), None, &mut diagnostics);
            apply_environment(&mut root, environments.as_ref(), Some("local"), &mut diagnostics);
            assert!(diagnostics.is_empty());
            assert_eq!(root.get("lake").unwrap().text(), Some("a"));
        }
    }

    #[test]
    fn settings_reach_any_depth() {
        let (mut sources, mut root, mut diagnostics) = read(PIPELINE);
        for setting in [
            "lake=s3://x",
            "optimize.sort.1=q",
            "tables.silver.orders.write=replace",
            "tables.silver.new.sql=select 1",
            "a.b={c: [1]}",
            "e=",
        ] {
            apply_set(&mut root, setting, &mut sources, &mut diagnostics);
        }
        assert!(diagnostics.is_empty(), "{}", diagnostics.render(&sources, false));
        let tables = root.get("tables").unwrap();
        assert_eq!(tables.get("silver.orders").unwrap().get("write").unwrap().text(), Some("replace"));
        assert_eq!(tables.get("silver.new").unwrap().get("sql").unwrap().text(), Some("select 1"));
        assert_eq!(root.get("optimize").unwrap().get("sort").unwrap().items()[1].text(), Some("q"));
        assert_eq!(root.get("a").unwrap().get("b").unwrap().get("c").unwrap().items().len(), 1);
        let lake = root.get("lake").unwrap();
        assert_eq!((sources.position(lake.span), sources.text(lake.span)), (("--set", 1, 6), "s3://x"));
        apply_set(&mut root, "nonsense", &mut sources, &mut diagnostics);
        apply_set(&mut root, "optimize.sort.9=q", &mut sources, &mut diagnostics);
        assert_eq!(diagnostics.errors(), 2);
    }
}
