//! JSON records to raw rows: NDJSON, one top-level array, or objects one after the other. Strict, on demand, zero-copy.
//!
//! Knows blocks and text columns; knows no object store, no compression and no types: what a text means is for conform.

mod decode;
pub(crate) mod envelope;
mod keys;
mod path;
mod plan;
pub(crate) mod scan;
mod split;
#[cfg(test)]
mod tests;
mod views;
mod walk;

pub use decode::JsonDecoder;
pub use path::{Step, parse as parse_path, show as show_path};
pub use split::{ArraySplitter, JsonSplitter, Layout, NdjsonSplitter, ObjectSplitter, detect};

/// How a column takes its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JsonKind {
    /// The content of a string; the exact source text of a number or boolean; an object or array as its JSON text.
    #[default]
    Scalar,
    /// The JSON text of any value, strings with their quotes: for struct, list, map and json columns.
    Json,
}

/// A column to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonColumn {
    pub name: String,
    /// `user.id`, `items[0].sku`, `$.a.b`, `a."odd.key"`. Absent: the key that is the name (see [`JsonOptions::flatten`]).
    pub path: Option<String>,
    /// Keys that the column had before, tried where its own is absent. Not within exploded arrays.
    pub was: Vec<String>,
    pub kind: JsonKind,
}

impl JsonColumn {
    pub fn new(name: impl Into<String>, kind: JsonKind) -> Self {
        JsonColumn { name: name.into(), path: None, was: vec![], kind }
    }

    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }
}

/// How records become rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JsonOptions {
    /// A column `user_id` without a path is also found at `user.id`; the exact key is preferred where it is not null.
    pub flatten: bool,
    /// Path of an array: one row per element.
    pub explode: Option<String>,
    /// Give `_rescued`: a JSON object of the fields that no column names.
    pub rescue: bool,
    /// Records are Debezium's messages: columns are those of the row's image, paths that begin with `$.` are of the envelope.
    pub debezium: bool,
    /// Give `_absent`: the columns that a record did not give.
    pub absent: bool,
    /// With `absent`: a field that a record does not have was not given, where else it is NULL.
    pub lacking: bool,
}
