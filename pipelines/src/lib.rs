//! Smelt.

pub mod sample;
