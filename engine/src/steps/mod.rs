//! Stub.
pub mod dedup;
