//! Stand-ins for types of the engine and the connectors that are not on this branch yet; swapped by changing `use` lines.

use serde::Deserialize;

/// One step of a table.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Keeps the rows for which the SQL condition is true: `filter: "status <> 'test'"`.
    Filter(String),
    /// Removes repeated rows.
    Dedup(Dedup),
    /// Replaces what is personal, column by column.
    Mask(crate::yaml::Ordered<Mask>),
    /// New columns by SQL expressions.
    Derive(crate::yaml::Ordered<String>),
}

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dedup {
    pub keys: Vec<String>,
    #[serde(default)]
    pub order_by: Vec<String>,
    #[serde(default)]
    pub ties: Ties,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    #[default]
    Fail,
    FirstInFile,
    Any,
}

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    Null,
    Tokenize(Tokenize),
}

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    pub key: String,
    pub domain: Option<String>,
}

/// One check of a table.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Columns that must have a value.
    NotNull(Vec<String>),
    Unique(Vec<String>),
}

/// Where rows come from.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceSpec {
    Csv(Csv),
    Json(Json),
}

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Csv {
    pub path: String,
    #[serde(default)]
    pub header: Option<bool>,
    #[serde(default)]
    pub delimiter: Option<char>,
    #[serde(default)]
    pub skip_lines: u32,
    #[serde(default)]
    pub null_values: Vec<String>,
}

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Json {
    pub path: String,
}

/// A type of the contract language.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String")]
pub struct ContractType(pub String);

impl TryFrom<String> for ContractType {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.split('(').next().unwrap_or_default() {
            "string" | "boolean" | "int32" | "int64" | "double" | "decimal" | "date" | "timestamp" => Ok(ContractType(text)),
            other => Err(format!("unknown type `{other}`\nhelp: known types: `string`, `boolean`, `int32`, …")),
        }
    }
}

/// A column or a transform of one, to partition by.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct PartitionBy(pub String);

/// The table format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatKind {
    #[default]
    Delta,
    Parquet,
}
