//! The receipt of a forgetting: what was removed where, signed, without the personal data. What names a person in it is a keyed hash,
//! which whoever has the key and the value can check.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use smelt_engine::keys::{Keys, Secret};
use smelt_engine::steps::mask::{Hmac, hex};
use smelt_engine::{Error, Result};
use std::fmt::Write as _;

use super::subjects::People;
use crate::units;

/// Version of the receipt's form.
pub const FORMAT: u32 = 1;
const ALGORITHM: &str = "HMAC-SHA-256";

/// What was done. Counts, names and hashes; no value.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Receipt {
    pub format: u32,
    pub id: String,
    /// RFC 3339, UTC.
    pub time: String,
    pub smelt: String,
    pub pipeline: String,
    pub environment: String,
    pub lake: String,
    pub dry_run: bool,
    pub reason: Option<String>,
    pub subjects: Vec<Subject>,
    pub tables: Vec<Table>,
    /// Input files whose rows were removed: they still hold the person, and are not Smelt's to change.
    pub input_files: Vec<String>,
    pub notes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// One person under one name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subject {
    pub name: String,
    /// `hex(HMAC(HMAC(key, "smelt.subject"), name || 0 || value))`.
    pub hash: String,
}

/// What was done to one table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Table {
    pub table: String,
    pub status: Status,
    /// Those by which the rows are found.
    pub columns: Vec<String>,
    pub version_before: Option<u64>,
    pub version_after: Option<u64>,
    pub rows_removed: u64,
    pub files_rewritten: u64,
    pub bytes_rewritten: u64,
    /// Old files, of this and of earlier changes.
    pub files_deleted: u64,
    pub bytes_deleted: u64,
    /// Entries of the table's log that were removed or rewritten.
    pub log_entries_cleaned: u64,
    /// Files that no version names and that are too young to be sure that no writer needs them.
    pub files_left: u64,
    pub note: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Rows were removed.
    Forgotten,
    /// It holds the subject's columns, and no row of the person; old versions were removed all the same.
    #[default]
    NoRows,
    /// It holds the person in a form that cannot be found.
    Unreachable,
    NoSubjectColumn,
    NoTable,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Signature {
    pub algorithm: String,
    /// Name of the pipeline's key.
    pub key: String,
    /// Over the receipt without its signature, as JSON with sorted keys and no spaces.
    pub value: String,
}

/// The persons as hashes.
pub fn hashed(people: &People, key: &Secret) -> Vec<Subject> {
    let hmac = Hmac::new(&Hmac::new(key.reveal()).digest(b"smelt.subject"));
    let all = people.0.iter().flat_map(|(name, values)| values.iter().map(move |v| (name, v)));
    all.map(|(name, value)| Subject { name: name.clone(), hash: hex(&hmac.digest(format!("{name}\0{value}").as_bytes())) }).collect()
}

/// Signs the receipt with a key of the pipeline.
pub fn sign(receipt: &mut Receipt, name: &str, key: &Secret) -> Result<()> {
    receipt.signature = None;
    let body = serde_json::to_value(&*receipt).map_err(|e| Error::bug(e.to_string()))?;
    let value = signed(&body, key);
    receipt.signature = Some(Signature { algorithm: ALGORITHM.into(), key: name.to_owned(), value });
    Ok(())
}

/// The receipt, where its signature is that of the pipeline's key.
pub fn verify(json: &[u8], keys: &Keys) -> Result<Receipt> {
    let bad = |why: &str| {
        Error::data(format!("the receipt is not valid: {why}"), "ask for the receipt as the lake keeps it, below _smelt/receipts")
    };
    let mut body: Value = serde_json::from_slice(json).map_err(|_| bad("it is not JSON"))?;
    let receipt: Receipt = serde_json::from_value(body.clone()).map_err(|_| bad("it is not a receipt of smelt"))?;
    let Some(signature) = receipt.signature.as_ref().filter(|s| s.algorithm == ALGORITHM) else { return Err(bad("it is not signed")) };
    let Some(key) = keys.get(&signature.key) else {
        let message = format!("the receipt was signed with the key `{}`, which the pipeline does not have", signature.key);
        return Err(Error::data(message, "add the key under `keys`"));
    };
    body.as_object_mut().and_then(|b| b.remove("signature"));
    let (wanted, found) = (signed(&body, key), signature.value.as_bytes());
    let differing = wanted.bytes().zip(found).fold(wanted.len() ^ found.len(), |all, (a, b)| all | usize::from(a ^ b));
    if differing != 0 {
        return Err(bad("it was changed after it was signed, or signed with another key of that name"));
    }
    Ok(receipt)
}

fn signed(body: &Value, key: &Secret) -> String {
    let hmac = Hmac::new(&Hmac::new(key.reveal()).digest(b"smelt.receipt"));
    let mut text = String::new();
    canonical(body, &mut text);
    hex(&hmac.digest(text.as_bytes()))
}

/// JSON with sorted keys and no spaces.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                let _ = write!(out, "{}:", Value::from(key.as_str()));
                canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                canonical(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

impl Receipt {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let did = |past: &str, would: &str| if self.dry_run { format!("would {would}") } else { past.to_owned() };
        for t in &self.tables {
            let what = match t.status {
                Status::NoTable => "does not exist yet".to_owned(),
                Status::NoSubjectColumn => "not touched: holds no subject column".to_owned(),
                Status::Unreachable => format!("cannot be found in it: {}", t.note.as_deref().unwrap_or_default()),
                Status::NoRows => "no rows of theirs".to_owned(),
                Status::Forgotten => format!(
                    "{} {} by {}, {} of {}",
                    did("removed", "remove"),
                    units::plural(t.rows_removed, "row"),
                    t.columns.join(", "),
                    units::plural(t.files_rewritten, "file"),
                    units::bytes(t.bytes_rewritten),
                ),
            };
            let _ = writeln!(out, "{:<30} {what}", t.table);
            if t.files_deleted + t.log_entries_cleaned > 0 {
                let verb = did("deleted", "delete");
                let (files, bytes) = (units::plural(t.files_deleted, "old file"), units::bytes(t.bytes_deleted));
                let _ =
                    writeln!(out, "{:<30}   {verb} {files} of {bytes}; {} of the log cleaned", "", plural_entries(t.log_entries_cleaned));
            }
            if t.files_left > 0 {
                let files = units::plural(t.files_left, "file");
                let _ = writeln!(out, "{:<30}   {files} that no version names left: younger than a day (--alone removes them)", "");
            }
            if let Some(note) = t.note.as_ref().filter(|_| t.status != Status::Unreachable) {
                let _ = writeln!(out, "{:<30}   {note}", "");
            }
        }
        if !self.input_files.is_empty() {
            let _ = writeln!(out, "\nthese input files still hold them:");
            for file in &self.input_files {
                let _ = writeln!(out, "  {file}");
            }
        }
        for note in &self.notes {
            let _ = writeln!(out, "\nnote: {note}");
        }
        if self.dry_run {
            let _ = writeln!(out, "\nA dry run: nothing was changed.");
        }
        out
    }
}

fn plural_entries(n: u64) -> String {
    if n == 1 { "1 entry".into() } else { format!("{} entries", units::count(n)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys([("pii".to_owned(), Secret::new("k"))].into())
    }

    #[test]
    fn signatures_hold_for_the_same_content_in_any_layout_and_for_nothing_else() {
        let keys = keys();
        let mut receipt = Receipt { id: "forget-1".into(), notes: vec!["a \"b\"".into()], ..Receipt::default() };
        sign(&mut receipt, "pii", keys.get("pii").unwrap()).unwrap();
        let pretty = serde_json::to_string_pretty(&receipt).unwrap();
        assert_eq!(verify(pretty.as_bytes(), &keys).unwrap().id, "forget-1");
        assert!(verify(serde_json::to_vec(&receipt).unwrap().as_slice(), &keys).is_ok());
        for (from, to) in
            [("forget-1", "forget-2"), ("\"dry_run\": false", "\"dry_run\": true"), ("\"format\": 0,", "\"format\": 0, \"more\": 1,")]
        {
            let tampered = pretty.replace(from, to);
            assert_ne!(tampered, pretty);
            assert!(verify(tampered.as_bytes(), &keys).unwrap_err().to_string().contains("changed"), "{from}");
        }
        assert!(verify(pretty.as_bytes(), &Keys::default()).unwrap_err().to_string().contains("`pii`"));
        assert!(verify(b"{}", &keys).is_err());
    }

    #[test]
    fn people_are_hashes() {
        let people = People([("id".to_owned(), ["4711".to_owned()].into())].into());
        let subjects = hashed(&people, keys().get("pii").unwrap());
        assert_eq!((subjects.len(), subjects[0].hash.len()), (1, 64));
        assert!(!serde_json::to_string(&subjects).unwrap().contains("4711"));
    }
}
