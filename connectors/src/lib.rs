//! Everything that talks to the outside: sources, table formats, object stores, secrets.
//!
//! A source only opens: DataFusion's `TableProvider` is the source trait. A format only takes a snapshot and commits.
//! This crate knows no YAML and no terminal.

pub mod formats;
pub mod secrets;
pub mod sources;
pub mod stores;
