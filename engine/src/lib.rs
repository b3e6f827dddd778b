//! Smelt's engine: transforms, table writing and change application on DataFusion and Arrow.
//!
//! This crate knows no YAML, no AWS SDK and no terminal, and has no clock of its own: time is passed in.
//! The way of a row is `scan -> conform -> route -> steps -> checks -> route -> dedup -> write`, one DataFusion plan;
//! `commit` then turns the finished files into one atomic publish.

pub mod change;
pub mod checks;
pub mod compact;
pub mod conform;
pub mod contract;
pub mod dedup;
pub mod error;
pub mod evolve;
pub mod keys;
pub mod ledger;
pub mod load;
pub mod planner;
pub mod pool;
pub mod route;
pub mod session;
pub mod steps;
pub mod table;
pub mod tally;
pub mod types;
pub mod write;

pub use error::{Error, Result};
