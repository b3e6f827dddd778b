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
    /// Names that a contract may not use.
    pub const RESERVED: [&str; 7] = [FILE, LINE, OFFSET, MALFORMED, RAW, ERRORS, RESCUED];
}

/// One column of a contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub ty: ContractType,
    /// NULL breaks the rule `required` and rejects the row.
    pub required: bool,
    /// strftime-style formats tried in order for date, time and timestamp; `hex` or `base64` for binary. Empty: ISO 8601 (hex for binary).
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
