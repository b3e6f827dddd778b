//! Smelt.
