//! What users write under `write:` for the modes that change rows, and what of it must hold for a table.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::steps::config::Texts;

/// What to do where two different rows of one key have the same sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeTies {
    /// The row with the greater row hash wins; the report counts such ties.
    #[default]
    Greater,
    /// The run fails and publishes nothing.
    Fail,
}

/// Which columns keep their value where a change has NULL: all (`true`), none (`false`), or those listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NullUpdates {
    All(bool),
    Columns(Vec<String>),
}

impl Default for NullUpdates {
    fn default() -> Self {
        NullUpdates::All(false)
    }
}

/// A span of time: `30 days`, `12 hours`, `90 minutes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub milliseconds: i64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { milliseconds: 30 * 86_400_000 }
    }
}

/// The type of a surrogate key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SurrogateType {
    /// 32 hexadecimal digits, the MD5 of the key.
    #[default]
    String,
    /// A positive number of 63 bits: smaller and faster to join; among a billion rows two share one with a chance of about five in a hundred.
    Int64,
}

/// A column that names each row of the table, computed from the key (and from when a version began): the same in every rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SurrogateKey {
    /// The column's name, e.g. `customer_sk`.
    pub name: String,
    /// `string` (the default) or `int64`.
    #[serde(default, rename = "type")]
    pub ty: SurrogateType,
}

/// One row a key, the latest (SCD 1): rows are inserted, updated and deleted in the order of `sequence_by`, whenever they arrive.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeSpec {
    /// The columns that name a thing: `[customer_id]`. A row with NULL in one goes to quarantine.
    pub keys: Vec<String>,
    /// The column, or columns, that say which of two changes is later: `updated_at`. A row with NULL in one goes to quarantine.
    pub sequence_by: Texts,
    /// Which rows delete their key: `"op = 'D'"`. NULL is no delete.
    pub deletes: Option<String>,
    /// Which rows empty the whole table at their sequence: `"op = 'T'"`. Their keys may be NULL.
    pub truncates: Option<String>,
    /// Whether NULL in a change keeps the old value: `true`, `false` (the default), or a list of columns.
    #[serde(default)]
    pub ignore_null_updates: NullUpdates,
    /// Two different rows of one key and sequence: `greater` (the default: the greater row hash wins) or `fail`.
    #[serde(default)]
    pub ties: ChangeTies,
    /// For how long what the table does not show (deletes, overtaken rows) is remembered, so that late rows come out right: `30 days`.
    #[serde(default)]
    pub tombstones: Retention,
    /// Columns that serve the load only and are not stored: `[op]`.
    #[serde(default)]
    pub except: Vec<String>,
    /// A column that names each row: `{name: customer_sk}`.
    pub surrogate_key: Option<SurrogateKey>,
}

/// A row for each version of a key, with `valid_from` (inclusive), `valid_to` (exclusive, NULL: current), `is_current` and `row_hash`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistorySpec {
    /// The columns that name a thing: `[customer_id]`. A row with NULL in one goes to quarantine.
    pub keys: Vec<String>,
    /// The column, or columns, that say when a change holds: `updated_at`. The first one gives `valid_from` its type.
    pub sequence_by: Texts,
    /// Which rows delete their key: `"op = 'D'"`. NULL is no delete.
    pub deletes: Option<String>,
    /// Which rows empty the whole table at their sequence: `"op = 'T'"`. Their keys may be NULL.
    pub truncates: Option<String>,
    /// Whether NULL in a change keeps the old value: `true`, `false` (the default), or a list of columns.
    #[serde(default)]
    pub ignore_null_updates: NullUpdates,
    /// Two different rows of one key and sequence: `greater` (the default: the greater row hash wins) or `fail`.
    #[serde(default)]
    pub ties: ChangeTies,
    /// For how long what the table does not show (second deletes, repeats) is remembered, so that late rows come out right: `30 days`.
    #[serde(default)]
    pub tombstones: Retention,
    /// Columns that serve the load only and are not stored: `[op]`.
    #[serde(default)]
    pub except: Vec<String>,
    /// A column that names each version: `{name: customer_sk}`.
    pub surrogate_key: Option<SurrogateKey>,
    /// The columns whose change makes a new version; others are updated in place. All when absent; `[]`: only inserts and deletes.
    pub track: Option<Vec<String>>,
}

/// What happens to a key that is not in an extract any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HardDeletes {
    /// Nothing: its last version stays current.
    Ignore,
    /// Its version ends (dbt: invalidate).
    #[default]
    Close,
    /// Its version ends, and one begins that says `is_deleted`.
    NewRecord,
}

/// Each load is a full extract of the source: changes and deletions are found by comparison, and kept as versions.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSpec {
    /// The columns that name a thing. A key twice in one extract fails the run.
    pub keys: Vec<String>,
    /// The column that says when the extract was taken, which may be the key of a folder (`dt=2026-01-01`). The batch's time when absent.
    pub taken_at: Option<String>,
    /// The columns whose change makes a new version; others are updated in place. All when absent.
    pub track: Option<Vec<String>>,
    /// A key that is gone: `ignore`, `close` (the default) or `new_record`.
    #[serde(default)]
    pub hard_deletes: HardDeletes,
    /// Whether an extract without rows deletes every key. Otherwise it fails the run.
    #[serde(default)]
    pub allow_empty: bool,
    /// Columns that serve the load only and are not stored.
    #[serde(default)]
    pub except: Vec<String>,
    /// A column that names each version: `{name: customer_sk}`.
    pub surrogate_key: Option<SurrogateKey>,
}

/// A sequence as text, a member each; `None` is NULL.
pub type SequenceText = Vec<Option<String>>;

/// What a table of these modes remembers beside its rows. Lives in the table's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChangeState {
    /// Mode, keys and sequence under which the table was made; others need a rebuild.
    pub identity: String,
    /// Files below `_smelt/state/` with the events that the rows do not show.
    #[serde(default)]
    pub files: Vec<crate::table::DataFile>,
    /// When the oldest event in `files` was first seen, milliseconds since the epoch.
    #[serde(default)]
    pub oldest: Option<i64>,
    /// Events up to this sequence may have been forgotten: what arrives late and is older cannot be judged.
    #[serde(default)]
    pub forgotten: Option<SequenceText>,
    /// Sequences at which the whole table was emptied.
    #[serde(default)]
    pub truncates: Vec<SequenceText>,
    /// Times of the extracts taken in, for `snapshot`.
    #[serde(default)]
    pub extracts: Vec<SequenceText>,
}

impl ChangeState {
    /// What is remembered after `theirs` and then `ours`, both of which were made from `base` and touched other keys. `None` where they cannot
    /// both hold.
    pub fn merged(base: &ChangeState, ours: &ChangeState, theirs: &ChangeState) -> Option<ChangeState> {
        // these hold for every key
        let apart = |s: &ChangeState| (s.identity.clone(), s.forgotten.clone(), s.truncates.clone(), s.extracts.clone());
        if apart(base) != apart(ours) || apart(base) != apart(theirs) {
            return None;
        }
        let has = |s: &ChangeState, path: &str| s.files.iter().any(|f| f.path == path);
        // a file that both have written anew
        if base.files.iter().any(|f| !has(ours, &f.path) && !has(theirs, &f.path)) {
            return None;
        }
        let kept = theirs.files.iter().filter(|f| !has(base, &f.path) || has(ours, &f.path));
        let files = kept.chain(ours.files.iter().filter(|f| !has(base, &f.path))).cloned().collect();
        let oldest = [ours.oldest, theirs.oldest].into_iter().flatten().min();
        Some(ChangeState { files, oldest, ..base.clone() })
    }
}

impl<'de> Deserialize<'de> for NullUpdates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = NullUpdates;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("true, false, or a list of columns")
            }
            fn visit_bool<E: serde::de::Error>(self, all: bool) -> Result<NullUpdates, E> {
                Ok(NullUpdates::All(all))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<NullUpdates, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(NullUpdates::Columns)
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl JsonSchema for NullUpdates {
    fn schema_name() -> Cow<'static, str> {
        "NullUpdates".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}}]})
    }
}

impl std::str::FromStr for Retention {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a span of time\nhelp: write a number and a unit, such as 30 days or 12 hours");
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: i64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit: i64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "d" | "day" | "days" => 86_400_000,
            "h" | "hour" | "hours" => 3_600_000,
            "m" | "min" | "minute" | "minutes" => 60_000,
            "s" | "second" | "seconds" => 1000,
            "w" | "week" | "weeks" => 7 * 86_400_000,
            _ => return Err(wrong()),
        };
        number.checked_mul(unit).map(|milliseconds| Retention { milliseconds }).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl Visitor<'_> for Walk {
            type Value = Retention;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a span of time, such as 30 days")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Retention, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl JsonSchema for Retention {
    fn schema_name() -> Cow<'static, str> {
        "Retention".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^\\s*[0-9]+\\s*[A-Za-z]+\\s*$", "examples": ["30 days", "12 hours"]})
    }
}
