//! The binary `smelt`: YAML to a bound plan to a run to a report. The only crate that knows YAML and the terminal.

pub mod diagnostic;
pub mod schema;
pub mod spec;
mod spec_standins;
pub mod yaml;
