//! Everything that must hold for the whole of Smelt, in one binary: building and linking it once is most of the cost.

mod bad_input;
mod cases;
mod change_faults;
mod concurrent;
mod evolve;
mod extracts;
mod faults;
mod forget;
mod histories;
mod leaks;
mod maintain;
mod olist;
mod property;
mod readers;
mod schema;
