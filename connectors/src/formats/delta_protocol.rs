//! What a Delta table demands of its readers and writers, and whether Smelt can give it. A feature that we do not know is
//! refused by name, with the remedy, before anything is read or written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use smelt_engine::error::{Error, Result};

use super::schema::{fields, has_ntz};

const NTZ: &str = "timestampNtz";

/// The `protocol` action.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    pub min_reader_version: u32,
    pub min_writer_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_features: Option<Vec<String>>,
}

type Configuration = BTreeMap<String, Option<String>>;

impl Protocol {
    /// The least protocol for a table of ours: every engine reads it, every engine may write it.
    pub fn fresh(schema: &Value) -> Protocol {
        let plain = Protocol { min_reader_version: 1, min_writer_version: 2, reader_features: None, writer_features: None };
        plain.upgraded(schema).unwrap_or(plain)
    }

    /// The protocol that `schema` asks for, where this one does not do.
    pub fn upgraded(&self, schema: &Value) -> Option<Protocol> {
        let has = |list: &Option<Vec<String>>| list.iter().flatten().any(|f| f == NTZ);
        if !has_ntz(schema) || (has(&self.reader_features) && has(&self.writer_features)) {
            return None;
        }
        let mut writer: Vec<String> =
            self.writer_features.clone().unwrap_or_else(|| legacy(self.min_writer_version).iter().map(|f| (*f).to_owned()).collect());
        let mut reader = self.reader_features.clone().unwrap_or_default();
        for list in [&mut writer, &mut reader] {
            if !list.iter().any(|f| f == NTZ) {
                list.push(NTZ.to_owned());
            }
        }
        Some(Protocol { min_reader_version: 3, min_writer_version: 7, reader_features: Some(reader), writer_features: Some(writer) })
    }

    /// Refuses a table that we would read wrongly.
    pub fn check_read(&self, configuration: &Configuration, table: &str) -> Result<()> {
        if self.min_reader_version > 3 {
            return Err(refused(table, "read", &format!("reader version {}", self.min_reader_version), "update smelt"));
        }
        if mapped(configuration) {
            return Err(refused(table, "read", "columnMapping", "rewrite it with delta.columnMapping.mode = none"));
        }
        for feature in self.reader_features.iter().flatten() {
            match feature.as_str() {
                NTZ | "columnMapping" | "vacuumProtocolCheck" => {}
                other => return Err(refused(table, "read", other, &remedy(other))),
            }
        }
        Ok(())
    }

    /// Refuses a table that we would write wrongly. `removes`: the change takes files away.
    pub fn check_write(&self, configuration: &Configuration, schema: &Value, removes: bool, table: &str) -> Result<()> {
        if self.min_writer_version > 7 {
            return Err(refused(table, "write", &format!("writer version {}", self.min_writer_version), "update smelt"));
        }
        let names: Vec<&str> = match self.min_writer_version {
            7 => self.writer_features.iter().flatten().map(String::as_str).collect(),
            old => legacy(old).to_vec(),
        };
        let on = |key: &str| configuration.get(key).and_then(Option::as_deref) == Some("true");
        let tagged =
            |key: &str| fields(schema).iter().any(|f| f["metadata"].as_object().is_some_and(|m| m.keys().any(|k| k.starts_with(key))));
        for name in names {
            let used = match name {
                NTZ | "domainMetadata" | "vacuumProtocolCheck" => false,
                "appendOnly" => removes && on("delta.appendOnly"),
                "invariants" => tagged("delta.invariants"),
                "checkConstraints" => configuration.keys().any(|k| k.starts_with("delta.constraints.")),
                "changeDataFeed" => removes && on("delta.enableChangeDataFeed"),
                "generatedColumns" => tagged("delta.generationExpression"),
                "columnMapping" => mapped(configuration),
                "identityColumns" => tagged("delta.identity."),
                "inCommitTimestamp" => on("delta.enableInCommitTimestamps"),
                "deletionVectors" => on("delta.enableDeletionVectors"),
                _ => true,
            };
            if used {
                return Err(refused(table, "write", name, &remedy(name)));
            }
        }
        Ok(())
    }
}

fn mapped(configuration: &Configuration) -> bool {
    configuration.get("delta.columnMapping.mode").and_then(Option::as_deref).is_some_and(|mode| mode != "none")
}

/// Features that a writer version implies.
fn legacy(version: u32) -> &'static [&'static str] {
    const ALL: [&str; 7] =
        ["appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns", "columnMapping", "identityColumns"];
    match version {
        0 | 1 => &[],
        2 => &ALL[..2],
        3 => &ALL[..3],
        4 => &ALL[..5],
        5 => &ALL[..6],
        _ => &ALL,
    }
}

fn remedy(feature: &str) -> String {
    match feature {
        "appendOnly" => "set delta.appendOnly to false, or write in append mode".into(),
        "changeDataFeed" => "set delta.enableChangeDataFeed to false, or write in append mode".into(),
        other => format!("drop the feature (ALTER TABLE … DROP FEATURE {other}), or let smelt write to another table"),
    }
}

fn refused(table: &str, doing: &str, feature: &str, remedy: &str) -> Error {
    Error::data(format!("{table} is a Delta table with {feature}, which smelt cannot {doing}"), remedy)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(reader: &[&str], writer: &[&str]) -> Protocol {
        let list = |l: &[&str]| Some(l.iter().map(|s| (*s).to_owned()).collect());
        Protocol { min_reader_version: 3, min_writer_version: 7, reader_features: list(reader), writer_features: list(writer) }
    }

    fn config(pairs: &[(&str, &str)]) -> Configuration {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), Some((*v).to_owned()))).collect()
    }

    #[test]
    fn tables_of_ours_ask_for_the_least() {
        let p = Protocol::fresh(&json!({"fields": [{"name": "a", "type": "long"}]}));
        assert_eq!((p.min_reader_version, p.min_writer_version, p.writer_features.as_ref()), (1, 2, None));
        let ntz = json!({"fields": [{"name": "a", "type": "timestamp_ntz"}]});
        let up = p.upgraded(&ntz).unwrap();
        assert_eq!(up, of(&["timestampNtz"], &["appendOnly", "invariants", "timestampNtz"]));
        assert_eq!(up.upgraded(&ntz), None);
    }

    #[test]
    fn unknown_features_are_refused_by_name() {
        let e = of(&["deletionVectors"], &[]).check_read(&config(&[]), "silver.t").unwrap_err();
        assert!(e.to_string().contains("deletionVectors") && e.help().unwrap().contains("DROP FEATURE"), "{e}");
        let e = of(&["somethingNew"], &[]).check_read(&config(&[]), "t").unwrap_err();
        assert!(e.to_string().contains("somethingNew"));
        let e = of(&[], &[]).check_read(&config(&[("delta.columnMapping.mode", "name")]), "t").unwrap_err();
        assert!(e.to_string().contains("columnMapping"));
        let schema = json!({"fields": []});
        assert!(of(&[], &["rowTracking"]).check_write(&config(&[]), &schema, false, "t").is_err());
        assert!(of(&[], &["domainMetadata", "appendOnly", "checkConstraints"]).check_write(&config(&[]), &schema, true, "t").is_ok());
    }

    #[test]
    fn known_features_are_refused_only_where_they_are_used() {
        let p = Protocol { min_reader_version: 1, min_writer_version: 4, reader_features: None, writer_features: None };
        let schema = json!({"fields": [{"name": "a", "type": "long", "metadata": {}}]});
        assert!(p.check_write(&config(&[]), &schema, true, "t").is_ok());
        let append_only = config(&[("delta.appendOnly", "true")]);
        assert!(p.check_write(&append_only, &schema, false, "t").is_ok());
        assert!(p.check_write(&append_only, &schema, true, "t").is_err());
        assert!(p.check_write(&config(&[("delta.constraints.c", "a > 0")]), &schema, false, "t").is_err());
        let generated = json!({"fields": [{"name": "a", "type": "long", "metadata": {"delta.generationExpression": "1"}}]});
        assert!(p.check_write(&config(&[]), &generated, false, "t").is_err());
    }
}
