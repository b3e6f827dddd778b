//! The contract of a table: which columns, in which order, of which type, and what happens when the input drifts.
//!
//! A contract is data. How raw values are brought to it is `conform`; how its types are written in text is `types`.

use crate::types::ContractType;

/// Hidden columns that a source gives and that travel with each row. They are ordinary columns to DataFusion.
pub mod hidden {
    /// Where the row came from: the file's path below the source's root. Utf8View, not null. Written to silver tables.
    pub const FILE: &str = "_file";
    /// 1-based physical line on which the record starts (row number in Parquet). Int64, not null. Written to silver tables.
    pub const LINE: &str = "_line";
    /// Byte offset of the record in the decoded text. Int64, not null. Never written to a table, only to quarantine.
    pub const OFFSET: &str = "_offset";
    /// NULL, or why the line is not a record at all ("7 fields, the header has 8"). Utf8View.
    pub const MALFORMED: &str = "_malformed";
    /// The raw text of a malformed line, else NULL. After conform: the raw record as JSON where the row has errors. Utf8View.
    pub const RAW: &str = "_raw";
    /// NULL, or the JSON list `[{"column","rule","message"}]` of what conform found wrong. Utf8View.
    pub const ERRORS: &str = "_errors";
    /// JSON object of input fields that the contract does not name, for `on_new_column: rescue`. Utf8View.
    pub const RESCUED: &str = "_rescued";
    /// NULL where the row was given every column of the contract; else a bitmap of those that it was not given (see
    /// [`is_absent`](super::is_absent)). BinaryView. There only where [`Contract::absent`](super::Contract::absent) asks for it; never written to a table.
    pub const ABSENT: &str = "_absent";
    /// Names that a contract may not use.
    pub const RESERVED: [&str; 8] = [FILE, LINE, OFFSET, MALFORMED, RAW, ERRORS, RESCUED, ABSENT];
}

/// One column of a contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub ty: ContractType,
    /// NULL breaks the rule `required` and rejects the row, unless it is a delete or a truncate of a change feed.
    pub required: bool,
    /// strftime-style formats tried in order for date, time and timestamp, `epoch_days` to `epoch_ns` for numbers since 1970; `hex` or
    /// `base64` for binary. Empty: ISO 8601 (hex for binary).
    pub formats: Vec<String>,
    /// Zone of timestamps that carry none; UTC when absent.
    pub timezone: Option<chrono_tz::Tz>,
    /// Where in a nested record the value lies (`user.id`, `items[0].sku`); the name when absent.
    pub path: Option<String>,
    /// Names that the column had before: of the table's column, and of the field in files that are older than its name.
    pub was: Vec<String>,
    pub description: Option<String>,
    pub tags: Vec<String>,
}

/// What to do when the input has a column that the contract does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNewColumn {
    /// Add it to the table, as string (nested JSON values as JSON text).
    Add,
    /// Leave it out, and say so in the report.
    #[default]
    Ignore,
    /// Keep it in `_rescued`, a JSON object per row.
    Rescue,
    /// Stop before anything is written: exit code 3.
    Fail,
}

/// What to do when a file lacks a column of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMissingColumn {
    /// Stop before anything is published: exit code 3.
    #[default]
    Fail,
    /// Fill with NULL, and say so in the report. (A required column then rejects the rows.)
    Ignore,
}

/// The whole contract.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contract {
    pub columns: Vec<Column>,
    pub on_new_column: OnNewColumn,
    pub on_missing_column: OnMissingColumn,
    /// The rows are those of a change feed.
    pub changes: Option<Changes>,
    /// Sources give `_absent`: which columns a row was not given, where `on_missing_column: ignore` fills them with NULL.
    pub absent: bool,
}

/// How the rows of a change feed say what each of them did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The column of the contract that holds the operation: a string.
    pub op: String,
    /// The operations that the feed has. NULL and any other text break the rule `op`.
    pub known: &'static [&'static str],
    /// Those of them whose rows need not be whole: deletes and truncates. `required` does not hold for these rows.
    pub partial: &'static [&'static str],
    /// What a file means that has no column for the operation.
    pub default: Option<&'static str>,
}

/// Whether a row with this `_absent` was not given the column at this place of the contract.
pub fn is_absent(bits: &[u8], column: usize) -> bool {
    bits.get(column / 8).is_some_and(|byte| byte >> (column % 8) & 1 == 1)
}

/// The `_absent` of a row that was not given these columns of the contract: bit `i % 8` of byte `i / 8` for column `i`, lowest
/// bit first. `None`: it was given all.
pub fn absent_bits(columns: impl IntoIterator<Item = usize>) -> Option<Vec<u8>> {
    let mut bits: Vec<u8> = vec![];
    for column in columns {
        if bits.len() <= column / 8 {
            bits.resize(column / 8 + 1, 0);
        }
        bits[column / 8] |= 1 << (column % 8);
    }
    (!bits.is_empty()).then_some(bits)
}

impl Column {
    /// A nullable column with default formats.
    pub fn new(name: impl Into<String>, ty: ContractType) -> Self {
        Column {
            name: name.into(),
            ty,
            required: false,
            formats: vec![],
            timezone: None,
            path: None,
            was: vec![],
            description: None,
            tags: vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_absent_columns() {
        assert_eq!(absent_bits([]), None);
        assert_eq!(absent_bits([0, 2]), Some(vec![0b101]));
        let bits = absent_bits([9, 1]).unwrap();
        assert_eq!(bits, [0b10, 0b10]);
        assert_eq!((0..20).filter(|c| is_absent(&bits, *c)).collect::<Vec<_>>(), [1, 9]);
    }
}
