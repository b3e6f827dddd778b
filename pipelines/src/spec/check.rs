//! What the types cannot say about a pipeline: names that refer to each other, keys that exclude each other.
//!
//! Works on the tree, not on the typed form, so that a part which could not be decoded is still known by its name.

use smelt_engine::contract::hidden;

use crate::diagnostic::{Diagnostic, Diagnostics, did_you_mean, listing};
use crate::yaml::{Kind, Node};

pub(super) fn check(root: &Node, diagnostics: &mut Diagnostics) {
    let names =
        |key: &str| -> Vec<&str> { root.get(key).map(|n| n.entries().iter().filter_map(|(k, _)| k.text()).collect()).unwrap_or_default() };
    let (sources, tables, keys) = (names("sources"), names("tables"), names("keys"));
    if let Some((key, node)) = root.entry("tables")
        && tables.is_empty()
        && (node.is_null() || matches!(node.kind, Kind::Map(_)))
    {
        diagnostics
            .push(Diagnostic::error(key.span, "the pipeline has no table").label("empty").help("add one: `silver.orders: {from: orders}`"));
    }
    for (key, table) in root.get("tables").map(Node::entries).unwrap_or_default() {
        let scope = Scope { sources: &sources, tables: &tables, keys: &keys, key, table };
        scope.name(diagnostics);
        if matches!(table.kind, Kind::Map(_)) || table.is_null() {
            scope.input(diagnostics);
            scope.columns(diagnostics);
            scope.mask_keys(diagnostics);
            scope.write(diagnostics);
        }
    }
}

struct Scope<'a> {
    sources: &'a [&'a str],
    tables: &'a [&'a str],
    keys: &'a [&'a str],
    key: &'a Node,
    table: &'a Node,
}

impl Scope<'_> {
    fn name(&self, diagnostics: &mut Diagnostics) {
        let name = self.key.text().unwrap_or_default();
        let parts: Vec<&str> = name.split('.').collect();
        if parts.len() == 2 && parts.iter().all(|p| is_identifier(p)) {
            return;
        }
        let diagnostic = Diagnostic::error(self.key.span, format!("`{name}` is not a table name")).label("expected `layer.name`");
        let fixed: Vec<String> = parts.iter().map(|p| identifier(p)).collect();
        diagnostics.push(diagnostic.help(match fixed.as_slice() {
            [one] if !one.is_empty() => format!("name its layer: `silver.{one}`"),
            [layer, name] if is_identifier(layer) && is_identifier(name) => {
                format!("use lower case letters, digits and `_`: `{layer}.{name}`")
            }
            _ => "write a layer and a name in lower case letters, digits and `_`, such as `silver.orders`".to_owned(),
        }));
    }

    /// Exactly one of `from` and `sql`, and `from` names something.
    fn input(&self, diagnostics: &mut Diagnostics) {
        let name = self.key.text().unwrap_or_default();
        match (self.table.entry("from"), self.table.entry("sql")) {
            (Some((from, _)), Some((sql, _))) => diagnostics.push(
                Diagnostic::error(sql.span, format!("`{name}` has both `from` and `sql`"))
                    .label("second input")
                    .related(from.span, "first input")
                    .help("keep one: rows come from a source, or from a query over tables"),
            ),
            (None, None) => diagnostics.push(
                Diagnostic::error(self.key.span, format!("`{name}` has no input"))
                    .label("needs `from` or `sql`")
                    .help("write `from: NAME` with the name of a source, or `sql: select …`"),
            ),
            (Some((_, value)), None) => {
                let known = || self.sources.iter().chain(self.tables).copied().filter(|n| *n != name);
                let Some(text) = value.text().filter(|_| !value.is_null()) else { return };
                if text == name {
                    diagnostics.push(Diagnostic::error(value.head, format!("`{name}` cannot take its rows from itself")));
                } else if !known().any(|n| n == text) {
                    let diagnostic = Diagnostic::error(value.head, format!("no source or table is named `{text}`"));
                    let diagnostic = match did_you_mean(text, known()) {
                        Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
                        None => diagnostic.label("not known"),
                    };
                    diagnostics.push(match self.sources {
                        [] => diagnostic.help(format!("add it: `sources: {{{text}: {{csv: {{path: data/{text}.csv}}}}}}`")),
                        sources => diagnostic.help(format!("known sources: {}", listing(sources.iter().copied()))),
                    });
                }
            }
            (None, Some(_)) => {}
        }
    }

    fn columns(&self, diagnostics: &mut Diagnostics) {
        let entries = self.table.get("columns").map(Node::entries).unwrap_or_default();
        for (at, (key, _)) in entries.iter().enumerate() {
            let name = key.text().unwrap_or_default();
            if name.is_empty() {
                diagnostics.push(Diagnostic::error(key.head, "a column needs a name"));
            } else if hidden::RESERVED.contains(&name.to_lowercase().as_str()) {
                diagnostics.push(
                    Diagnostic::error(key.span, format!("the column name `{name}` is reserved"))
                        .label("used by smelt itself")
                        .help("choose another name, and give the input's name as `path`"),
                );
            } else if let Some((first, _)) =
                entries[..at].iter().find(|(k, _)| k.text().is_some_and(|k| k.to_lowercase() == name.to_lowercase()))
            {
                diagnostics.push(
                    Diagnostic::error(
                        key.span,
                        format!("the columns `{}` and `{name}` differ in case only", first.text().unwrap_or_default()),
                    )
                    .label("again here")
                    .related(first.span, "first here")
                    .help("rename one: many readers of tables do not tell upper from lower case"),
                );
            }
        }
    }

    /// Every `key:` of a mask names one of the pipeline's keys.
    fn mask_keys(&self, diagnostics: &mut Diagnostics) {
        let steps = self.table.get("steps").map(Node::items).unwrap_or_default();
        let masks = steps.iter().filter_map(|s| s.get("mask")).flat_map(Node::entries);
        for (_, settings) in masks.flat_map(|(_, mask)| mask.entries()) {
            let Some(value) = settings.get("key") else { continue };
            let Some(name) = value.text().filter(|n| !self.keys.contains(n)) else { continue };
            let diagnostic = Diagnostic::error(value.head, format!("no key is named `{name}`"));
            let diagnostic = match did_you_mean(name, self.keys.iter().copied()) {
                Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
                None => diagnostic.label("not known"),
            };
            diagnostics.push(diagnostic.help(match self.keys {
                [] => format!("add it at the top: `keys: {{{name}: \"${{secret:env://{}}}\"}}`", identifier(name).to_uppercase()),
                keys => format!("known keys: {}", listing(keys.iter().copied())),
            }));
        }
    }

    fn write(&self, diagnostics: &mut Diagnostics) {
        let Some(write) = self.table.get("write") else { return };
        let mode = write.text().or_else(|| write.entries().first().and_then(|(k, _)| k.text()));
        let partitioned = self.table.get("partition_by").is_some_and(|p| !p.is_null() && (p.scalar().is_some() || !p.items().is_empty()));
        if mode == Some("replace_partitions") && !partitioned {
            diagnostics.push(
                Diagnostic::error(write.head, "`replace_partitions` needs a partitioned table")
                    .label("the table has no partitions")
                    .help("add `partition_by: [column]`, or write `replace`"),
            );
        }
    }
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn identifier(text: &str) -> String {
    text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
