//! A change mode bound to a table: which columns are keys, sequence and values, and which columns the table gets beside its own.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use sha2::{Digest, Sha256};

use super::config::{ChangeTies, HardDeletes, HistorySpec, MergeSpec, NullUpdates, Retention, SnapshotSpec, SurrogateKey, SurrogateType};
use super::fold::{OnDelete, Shape};
use crate::error::{Complaint, Error, Result};

/// Columns that a mode adds to its table.
pub mod extra {
    pub const VALID_FROM: &str = "valid_from";
    pub const VALID_TO: &str = "valid_to";
    pub const IS_CURRENT: &str = "is_current";
    pub const ROW_HASH: &str = "row_hash";
    pub const SEQUENCE: &str = "_sequence";
    pub const IS_DELETED: &str = "is_deleted";
    pub const SYSTEM_FROM: &str = "system_from";
    pub const SYSTEM_TO: &str = "system_to";
}

/// Which of the modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Merge,
    Scd2,
    Bitemporal,
    Snapshot,
}

/// How the rows of a load change the table.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangeMode {
    pub kind: Kind,
    pub keys: Vec<String>,
    /// Empty for a snapshot that is taken at the batch's time.
    pub sequence: Vec<String>,
    pub deletes: Option<String>,
    pub truncates: Option<String>,
    pub null_updates: NullUpdates,
    pub ties: ChangeTies,
    pub tombstones: Retention,
    pub except: Vec<String>,
    pub surrogate_key: Option<SurrogateKey>,
    pub track: Option<Vec<String>>,
    pub hard_deletes: HardDeletes,
    pub allow_empty: bool,
}

impl From<&MergeSpec> for ChangeMode {
    fn from(s: &MergeSpec) -> Self {
        ChangeMode {
            kind: Kind::Merge,
            keys: s.keys.clone(),
            sequence: s.sequence_by.0.clone(),
            deletes: s.deletes.clone(),
            truncates: s.truncates.clone(),
            null_updates: s.ignore_null_updates.clone(),
            ties: s.ties,
            tombstones: s.tombstones,
            except: s.except.clone(),
            surrogate_key: s.surrogate_key.clone(),
            track: None,
            hard_deletes: HardDeletes::Close,
            allow_empty: true,
        }
    }
}

impl ChangeMode {
    /// Of `scd2` and `bitemporal`.
    pub fn history(s: &HistorySpec, kind: Kind) -> Self {
        ChangeMode {
            kind,
            keys: s.keys.clone(),
            sequence: s.sequence_by.0.clone(),
            deletes: s.deletes.clone(),
            truncates: s.truncates.clone(),
            null_updates: s.ignore_null_updates.clone(),
            ties: s.ties,
            tombstones: s.tombstones,
            except: s.except.clone(),
            surrogate_key: s.surrogate_key.clone(),
            track: s.track.clone(),
            hard_deletes: HardDeletes::Close,
            allow_empty: true,
        }
    }

    pub fn snapshot(s: &SnapshotSpec) -> Self {
        ChangeMode {
            kind: Kind::Snapshot,
            keys: s.keys.clone(),
            sequence: s.taken_at.iter().cloned().collect(),
            deletes: None,
            truncates: None,
            null_updates: NullUpdates::default(),
            ties: ChangeTies::Fail,
            tombstones: Retention::default(),
            except: s.except.clone(),
            surrogate_key: s.surrogate_key.clone(),
            track: s.track.clone(),
            hard_deletes: s.hard_deletes,
            allow_empty: s.allow_empty,
        }
    }

    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Merge => "merge",
            Kind::Scd2 => "scd2",
            Kind::Bitemporal => "bitemporal",
            Kind::Snapshot => "snapshot",
        }
    }

    /// Text that is the same where a table with rows of this schema may go on under this mode.
    pub fn identity(&self, rows: &Schema) -> String {
        let surrogate = self.surrogate_key.as_ref().map(|s| (&s.name, s.ty == SurrogateType::Int64));
        // where the sequence stands, and what makes no version
        let unstored = self.kind == Kind::Merge && self.sequence.iter().any(|s| self.except.contains(s));
        let mut operation = if self.is_history() { self.operation_columns() } else { vec![] };
        operation.retain(|o| rows.field_with_name(o).is_ok() && !self.except.contains(o));
        operation.sort();
        operation.dedup();
        let text =
            format!("{:?}", (self.name(), &self.keys, &self.sequence, &self.track, self.hard_deletes, surrogate, unstored, operation));
        let hash = Sha256::digest(text.as_bytes());
        format!("{} by {} #{}", self.name(), self.keys.join(", "), hex::encode(&hash[..4]))
    }

    pub(super) fn is_history(&self) -> bool {
        self.kind != Kind::Merge
    }

    pub(super) fn shape(&self) -> Shape {
        if self.kind == Kind::Merge {
            return Shape::Latest;
        }
        let on_delete = match self.hard_deletes {
            HardDeletes::Ignore => OnDelete::Ignore,
            HardDeletes::Close => OnDelete::Close,
            HardDeletes::NewRecord => OnDelete::Record,
        };
        Shape::History { on_delete, extracts: self.kind == Kind::Snapshot, composite: self.sequence.len() > 1 }
    }

    /// Divides the columns that the rows have after the steps.
    ///
    /// # Errors
    /// `Error::Pipeline` with a complaint for each name that is wrong; paths are relative to `write.<mode>`.
    pub fn layout(&self, rows: &Schema) -> Result<Layout> {
        let mut wrong = vec![];
        let known = |name: &str| rows.fields().iter().any(|f| f.name() == name);
        let mut check = |key: &str, names: &[String]| {
            for (i, name) in names.iter().enumerate() {
                if !known(name) {
                    let near = rows.fields().iter().map(|f| f.name().as_str()).min_by_key(|f| strsim::damerau_levenshtein(f, name));
                    let help = match near {
                        Some(near) if strsim::damerau_levenshtein(near, name) <= 2 => format!("did you mean `{near}`?"),
                        _ => format!("the columns are {}", rows.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")),
                    };
                    wrong.push(Complaint::at([key.to_owned(), i.to_string()], format!("there is no column `{name}`")).help(help));
                }
            }
        };
        check("keys", &self.keys);
        check(if self.kind == Kind::Snapshot { "taken_at" } else { "sequence_by" }, &self.sequence);
        check("except", &self.except);
        check("track", self.track.as_deref().unwrap_or_default());
        if let NullUpdates::Columns(columns) = &self.null_updates {
            check("ignore_null_updates", columns);
        }
        if self.keys.is_empty() {
            wrong.push(Complaint::at(["keys"], "a change needs at least one key column").help("write `keys: [...]`"));
        }
        if self.sequence.is_empty() && self.kind != Kind::Snapshot {
            wrong.push(
                Complaint::at(["sequence_by"], "the order of changes needs at least one column").help("write `sequence_by: updated_at`"),
            );
        }
        for key in self.keys.iter().filter(|k| self.except.contains(k)) {
            wrong.push(Complaint::at(["except"], format!("the key `{key}` must be stored")).help("remove it from `except`"));
        }
        for member in self.sequence.iter().filter(|s| self.keys.contains(s)) {
            wrong.push(Complaint::at(["sequence_by"], format!("`{member}` is a key")).help("order the changes of a key by another column"));
        }
        let own: Vec<&str> =
            self.extras(&DataType::Int64, &[]).iter().map(|f| EXTRAS.iter().copied().find(|e| e == f.name()).unwrap_or("")).collect();
        for clash in rows.fields().iter().filter(|f| own.contains(&f.name().as_str()) && !self.except.contains(f.name())) {
            wrong.push(
                Complaint::at(Vec::<String>::new(), format!("`{}` is a column that {} adds itself", clash.name(), self.name()))
                    .help("rename the column in a step"),
            );
        }
        if let Some(s) = self.surrogate_key.as_ref().filter(|s| known(&s.name)) {
            wrong.push(Complaint::at(["surrogate_key"], format!("there is a column `{}` already", s.name)).help("choose another name"));
        }
        if !wrong.is_empty() {
            return Err(Error::Pipeline(wrong));
        }
        let left_out =
            |name: &str| self.except.iter().any(|e| e == name) || (self.kind == Kind::Snapshot && self.sequence.iter().any(|s| s == name));
        let stored: Vec<Field> = rows.fields().iter().filter(|f| !left_out(f.name())).map(|f| f.as_ref().clone()).collect();
        let at = |name: &String| stored.iter().position(|f| f.name() == name);
        let keys: Vec<usize> = self.keys.iter().filter_map(at).collect();
        let sequence: Vec<Option<usize>> = self.sequence.iter().map(at).collect();
        let values: Vec<usize> = (0..stored.len()).filter(|i| !keys.contains(i) && !sequence.contains(&Some(*i))).collect();
        let operation = self.operation_columns();
        let tracked = values
            .iter()
            .map(|i| {
                let name = stored[*i].name();
                match &self.track {
                    Some(track) => track.contains(name),
                    None => !operation.iter().any(|o| o == name),
                }
            })
            .collect();
        let mut sequence_types: Vec<DataType> =
            self.sequence.iter().filter_map(|s| rows.field_with_name(s).ok()).map(|f| f.data_type().clone()).collect();
        if sequence_types.is_empty() {
            sequence_types.push(instant());
        }
        Ok(Layout { stored: stored.into(), keys, sequence, values, tracked, sequence_types, sequence_names: self.sequence.clone() })
    }

    /// Names in `deletes` and `truncates`, among them the columns that only say what a row does.
    fn operation_columns(&self) -> Vec<String> {
        self.deletes.iter().chain(&self.truncates).flat_map(|text| names(text)).collect()
    }

    /// The columns that this mode adds, but for the surrogate key.
    pub(super) fn extras(&self, first: &DataType, members: &[Field]) -> Vec<Field> {
        let sequence = Field::new(extra::SEQUENCE, DataType::Struct(Fields::from(members.to_vec())), true);
        if !self.is_history() {
            // a later change is compared with the sequence of the row
            return if self.sequence.iter().any(|s| self.except.contains(s)) { vec![sequence] } else { vec![] };
        }
        let mut extras = vec![
            Field::new(extra::VALID_FROM, first.clone(), true),
            Field::new(extra::VALID_TO, first.clone(), true),
            Field::new(extra::IS_CURRENT, DataType::Boolean, true),
            Field::new(extra::ROW_HASH, DataType::Int64, true),
        ];
        if self.sequence.len() > 1 {
            extras.push(sequence);
        }
        if self.kind == Kind::Snapshot && self.hard_deletes == HardDeletes::NewRecord {
            extras.push(Field::new(extra::IS_DELETED, DataType::Boolean, true));
        }
        if self.kind == Kind::Bitemporal {
            extras.push(Field::new(extra::SYSTEM_FROM, instant(), true));
            extras.push(Field::new(extra::SYSTEM_TO, instant(), true));
        }
        extras
    }

    /// The columns of the table, but for computed partition columns.
    pub fn table_schema(&self, layout: &Layout) -> SchemaRef {
        let mut fields: Vec<Field> = layout.stored.iter().map(|f| f.as_ref().clone()).collect();
        if let Some(key) = &self.surrogate_key {
            let ty = if key.ty == SurrogateType::Int64 { DataType::Int64 } else { DataType::Utf8View };
            fields.push(Field::new(&key.name, ty, true));
        }
        fields.extend(self.extras(&layout.sequence_types[0], &layout.members()));
        Arc::new(Schema::new(fields))
    }
}

/// The identifiers of an SQL expression, quoted ones too; no text constants.
fn names(sql: &str) -> Vec<String> {
    let (mut names, mut word) = (vec![], String::new());
    let mut quote: Option<char> = None;
    for c in sql.chars().chain([' ']) {
        match quote {
            Some(q) if c == q => {
                if q == '"' {
                    names.push(std::mem::take(&mut word));
                }
                word.clear();
                quote = None;
            }
            Some('"') => word.push(c),
            Some(_) => {}
            None if c.is_alphanumeric() || c == '_' => word.push(c),
            None => {
                if !word.is_empty() {
                    names.push(std::mem::take(&mut word));
                }
                quote = matches!(c, '"' | '\'').then_some(c);
            }
        }
    }
    names
}

const EXTRAS: [&str; 8] = [
    extra::VALID_FROM,
    extra::VALID_TO,
    extra::IS_CURRENT,
    extra::ROW_HASH,
    extra::SEQUENCE,
    extra::IS_DELETED,
    extra::SYSTEM_FROM,
    extra::SYSTEM_TO,
];

pub(super) fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The columns of a table by their part in a change. Indices are into `stored`.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The table's own columns in order.
    pub stored: Fields,
    pub keys: Vec<usize>,
    /// `None`: the table does not store it.
    pub sequence: Vec<Option<usize>>,
    /// Neither key nor sequence.
    pub values: Vec<usize>,
    /// Of `values`.
    pub tracked: Vec<bool>,
    pub sequence_types: Vec<DataType>,
    pub sequence_names: Vec<String>,
}

impl Layout {
    /// The members of a sequence as fields.
    pub(super) fn members(&self) -> Vec<Field> {
        self.sequence_names.iter().zip(&self.sequence_types).map(|(n, t)| Field::new(n, t.clone(), true)).collect()
    }
}

/// Columns of an event beside the stored ones, on its way to the operator.
pub(super) mod meta {
    pub const OP: &str = "__op";
    pub const ORIGIN: &str = "__origin";
    pub const GIVEN: &str = "__given";
    pub const TO: &str = "__to";
    pub const RECORDED: &str = "__recorded";
    pub const SYSTEM: &str = "__system_from";
    /// The i-th member of the sequence.
    pub fn sequence(i: usize) -> String {
        format!("__seq{i}")
    }
}

/// Values of `__op`.
pub(super) const UPSERT: i8 = 0;
pub(super) const DELETE: i8 = 1;
pub(super) const TRUNCATE: i8 = 2;
/// Values of `__origin`.
pub(super) const VISIBLE: i8 = 0;
pub(super) const REMEMBERED: i8 = 1;
pub(super) const NEW: i8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_not_constants() {
        assert_eq!(names("op = 'status deleted' and \"Op Code\"='D' or x1 in ('a','b')"), ["op", "and", "Op Code", "or", "x1", "in"]);
    }
}
