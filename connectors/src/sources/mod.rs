//! Sources: raw files of one format behind one path, opened as a `TableProvider` of raw text columns.

pub mod block;
pub mod infer;
pub mod json;
