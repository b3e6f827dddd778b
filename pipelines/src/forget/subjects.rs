//! Whose rows are: which columns a pipeline declares as telling a person, and which persons a command asks for. Reads no table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use smelt_engine::error::Complaint;
use smelt_engine::{Error, Result};

use crate::bound::Bound;
use crate::check::CheckedTable;
use crate::diagnostic::{Diagnostics, did_you_mean, listing};
use crate::spec::{self, Subject};

/// The declared columns, by the subject's name.
pub type Declared = BTreeMap<String, Vec<SubjectColumn>>;

/// A column that says whose a row is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectColumn {
    /// `layer.name`.
    pub table: String,
    pub column: String,
    /// A column of the contract, as it is before the steps; else one of the finished table.
    pub input: bool,
    /// Where the pipeline says so, from its root.
    pub place: Vec<String>,
}

/// Persons to forget: values by the name of the subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct People(pub BTreeMap<String, BTreeSet<String>>);

/// What a pipeline declares.
///
/// # Errors
/// `Error::Pipeline` for entries that name no table; whether the columns exist is seen when the tables are planned (see [`check`]).
pub fn declared(pipeline: &spec::Pipeline) -> Result<Declared> {
    let mut found = Declared::new();
    for (table, spec) in pipeline.tables.iter() {
        for (column, c) in spec.columns.iter() {
            let name = match &c.subject {
                Subject::None => continue,
                Subject::Own => column,
                Subject::Named(name) => name,
            };
            let place = ["tables", table, "columns", column, "subject"].map(str::to_owned).to_vec();
            let entry = SubjectColumn { table: table.to_owned(), column: column.to_owned(), input: true, place };
            found.entry(name.to_owned()).or_default().push(entry);
        }
    }
    let mut complaints = vec![];
    let tables: Vec<&str> = pipeline.tables.keys().collect();
    for (name, columns) in pipeline.subjects.iter() {
        for (i, text) in columns.iter().enumerate() {
            let place = vec!["subjects".to_owned(), name.to_owned(), i.to_string()];
            let parts: Vec<&str> = text.value.splitn(3, '.').collect();
            match parts.as_slice() {
                [layer, table, column] if tables.contains(&format!("{layer}.{table}").as_str()) => {
                    let entry = SubjectColumn { table: format!("{layer}.{table}"), column: (*column).to_owned(), input: false, place };
                    found.entry(name.to_owned()).or_default().push(entry);
                }
                [layer, table, _] => {
                    let asked = format!("{layer}.{table}");
                    let help = match did_you_mean(&asked, tables.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("the tables are: {}", listing(tables.iter().copied())),
                    };
                    complaints.push(Complaint::at(place, format!("there is no table `{asked}`")).help(help));
                }
                _ => complaints.push(
                    Complaint::at(place, format!("`{}` does not name a column of a table", text.value))
                        .help("write `layer.table.column`, such as `silver.orders.customer_id`"),
                ),
            }
        }
    }
    if complaints.is_empty() { Ok(found) } else { Err(Error::Pipeline(complaints)) }
}

/// Whether the columns of finished tables that `subjects` names are there.
pub fn check(bound: &Bound, tables: &[CheckedTable], diagnostics: &mut Diagnostics) {
    for column in bound.subjects.values().flatten().filter(|c| !c.input) {
        let Some(table) = tables.iter().find(|t| t.name.to_string() == column.table) else { continue };
        if table.schema.field_with_name(&column.column).is_ok() {
            continue;
        }
        let names: Vec<&str> = table.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let help = match did_you_mean(&column.column, names.iter().copied()) {
            Some(near) => format!("did you mean `{}.{near}`?", column.table),
            None => format!("its columns are: {}", listing(names)),
        };
        let complaint = Complaint::at(column.place.clone(), format!("{} has no column `{}`", column.table, column.column)).help(help);
        diagnostics.push(bound.loaded.diagnose(&[], &complaint));
    }
}

impl People {
    /// Reads `--subject NAME=VALUE` and the lines of `--file`. `Err` is the argument and what is wrong with it, without a value.
    pub fn parse(declared: &Declared, subjects: &[String], file: Option<&Path>) -> Result<People, (String, String)> {
        let mut people = People::default();
        for text in subjects {
            let wrong = |why: String| ("--subject".to_owned(), why);
            let (name, value) = text.split_once('=').ok_or_else(|| wrong("write NAME=VALUE, such as customer_id=4711".into()))?;
            people.add(declared, name.trim(), value).map_err(wrong)?;
        }
        if let Some(file) = file {
            let wrong = |why: String| (format!("--file {}", file.display()), why);
            let text = std::fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
            people.list(declared, &text).map_err(wrong)?;
        }
        if people.0.is_empty() {
            return Err(("--subject".to_owned(), "nobody is named; give --subject NAME=VALUE or --file LIST".into()));
        }
        Ok(people)
    }

    /// One person a line: `NAME=VALUE`, or a value alone, of the subject that the first line names or the only one that there is.
    fn list(&mut self, declared: &Declared, text: &str) -> Result<(), String> {
        let mut bare = match declared.keys().collect::<Vec<_>>().as_slice() {
            [only] => Some((*only).clone()),
            _ => None,
        };
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        for (position, (i, line)) in lines.enumerate() {
            let at = |why: String| format!("line {}: {why}", i + 1);
            if position == 0 && declared.contains_key(unquoted(line).as_str()) {
                bare = Some(unquoted(line));
                continue;
            }
            match (line.split_once('='), &bare) {
                (Some((name, value)), _) if declared.contains_key(name.trim()) => self.add(declared, name.trim(), &unquoted(value.trim())),
                (_, Some(name)) => self.add(declared, &name.clone(), &unquoted(line)),
                _ => Err("it is neither NAME=VALUE with a subject's name, nor does the first line name a subject".to_owned()),
            }
            .map_err(at)?;
        }
        Ok(())
    }

    fn add(&mut self, declared: &Declared, name: &str, value: &str) -> Result<(), String> {
        if declared.is_empty() {
            return Err("the pipeline declares no subject; write `subject: true` at a column, or `subjects:` at the top".to_owned());
        }
        if !declared.contains_key(name) {
            let known = listing(declared.keys().map(String::as_str));
            return Err(format!("the pipeline has no subject of that name; its subjects are: {known}"));
        }
        if value.is_empty() {
            return Err(format!("the value of {name} is empty"));
        }
        self.0.entry(name.to_owned()).or_default().insert(value.to_owned());
        Ok(())
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// Whether a text holds one of the values.
    pub fn named_in(&self, text: &str) -> bool {
        self.0.values().flatten().any(|value| super::matcher::has_word(text, value))
    }
}

/// A field as CSV quotes it.
fn unquoted(text: &str) -> String {
    match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subjects(names: &[&str]) -> Declared {
        names.iter().map(|n| ((*n).to_owned(), vec![])).collect()
    }

    fn list(names: &[&str], text: &str) -> Result<Vec<String>, String> {
        let mut people = People::default();
        people.list(&subjects(names), text)?;
        Ok(people.0.iter().flat_map(|(n, values)| values.iter().map(move |v| format!("{n}={v}"))).collect())
    }

    #[test]
    fn lists_are_read_with_and_without_names() {
        assert_eq!(list(&["id"], "4711\n\n \"a \"\"b\"\"\"\nid=5\nx=y=\n").unwrap(), ["id=4711", "id=5", "id=a \"b\"", "id=x=y="]);
        assert_eq!(list(&["email", "id"], "\u{feff}email\r\na@x\r\nid=5\r\n").unwrap(), ["email=a@x", "id=5"]);
        let e = list(&["email", "id"], "id=5\nsecret\n").unwrap_err();
        assert!(e.starts_with("line 2") && !e.contains("secret"), "{e}");
    }

    #[test]
    fn wrong_names_are_told_without_the_value() {
        let (_, why) = People::parse(&subjects(&["id"]), &["idd=secret".into()], None).unwrap_err();
        assert!(why.contains("its subjects are") && !why.contains("secret"), "{why}");
        assert!(People::parse(&subjects(&[]), &["id=1".into()], None).unwrap_err().1.contains("subject: true"));
        assert!(People::parse(&subjects(&["id"]), &[], None).is_err());
    }
}
