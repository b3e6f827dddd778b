//! Everything that must hold for the whole of Smelt, in one binary: building and linking it once is most of the cost.

mod bad_input;
mod cases;
mod faults;
mod leaks;
mod maintain;
mod olist;
mod readers;
mod schema;
