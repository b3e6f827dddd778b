//! Conform: raw text to the contract's types. A value that does not fit marks its row, with column, rule and what is wrong;
//! it never becomes NULL, and the row never gets lost.
//!
//! Knows Arrow and the contract. It must not know where rows come from, nor what becomes of the marked ones (`route`).

mod epoch;
mod exec;
mod json;
mod native;
mod nested;
mod number;
mod parser;
mod record;
mod sensitive;
mod source;
mod time;

use arrow::array::ArrayRef;

pub use exec::ConformExec;
pub(crate) use native::display;
pub(crate) use record::{Broken, bounded, record};
pub use sensitive::{Sensitive, TextMask, scrub};
pub use source::ConformedSource;

use crate::contract::Column;
use crate::error::{Error, Result};

/// Converts one column to the type that `column` declares, with its formats and zone: text is parsed, typed values are cast
/// without loss. Values that fail are NULL in the result and listed by row, each with a message. Messages show the shape of a
/// value (`99/99/9999`), not the value: the caller knows what is sensitive, this function does not.
///
/// # Errors
/// `Error::Pipeline` for a format that cannot be; `Error::Data` where no cast between the two types makes sense.
pub fn cast_column(array: &ArrayRef, column: &Column) -> Result<(ArrayRef, Vec<(usize, String)>)> {
    let parser = parser::Parser::new(column).map_err(Error::pipeline)?;
    let (typed, faults) = parser.bring(array)?;
    Ok((typed, faults.into_iter().map(|f| (f.row, f.message(&column.name, true))).collect()))
}

/// What is wrong with a contract's columns on their own: formats that cannot be. Paths start at the column's name.
pub fn complaints(columns: &[Column]) -> Vec<crate::error::Complaint> {
    columns.iter().filter_map(|c| parser::Parser::new(c).err().map(|e| e.under([c.name.clone()]))).collect()
}

#[cfg(test)]
mod tests;
