//! The binary `smelt` as a library: YAML to a bound plan, to a run, to a report. The only crate that knows YAML and the terminal.

pub mod bind;
pub mod bound;
pub mod check;
pub mod cli;
pub mod console;
pub mod diagnostic;
pub mod forget;
pub mod graph;
pub mod init;
pub mod look;
pub mod machine;
pub mod maintain;
pub mod plan;
pub mod progress;
pub mod query;
pub mod report;
pub mod run;
pub mod sample;
pub mod schema;
pub mod spec;
pub mod table_schema;
pub mod units;
pub mod when;
pub mod yaml;
