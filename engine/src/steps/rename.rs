//! `rename`: other names for columns; their place and values stay.

use async_trait::async_trait;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};

use crate::error::{Complaint, Result};
use crate::steps::config::Entries;
use crate::steps::expression::{column, field, is_hidden};
use crate::steps::{Scope, Transform, verdict};

/// Renames columns, `old: new`. All at once, so two columns may swap their names.
///
/// ```yaml
/// - rename: {customer_mail: customer_email, ts: purchased_at}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Rename(pub Entries<String>);

impl Rename {
    /// The name of `old` afterwards.
    pub fn new_name<'a>(&'a self, old: &'a str) -> &'a str {
        self.0.iter().find(|(o, _)| *o == old).map_or(old, |(_, new)| new)
    }
    /// The name that `new` had before.
    pub fn old_name<'a>(&'a self, new: &'a str) -> &'a str {
        self.0.iter().find(|(_, n)| n.as_str() == new).map_or(new, |(old, _)| old)
    }
}

#[async_trait]
impl Transform for Rename {
    async fn plan(&self, input: LogicalPlan, _scope: &Scope<'_>) -> Result<LogicalPlan> {
        let schema = input.schema();
        let mut complaints = vec![];
        let after: Vec<&str> = schema.fields().iter().map(|f| self.new_name(f.name())).collect();
        for (old, new) in self.0.iter() {
            let path = ["rename", old];
            complaints.extend(field(schema, old, &path).err());
            if is_hidden(old) || is_hidden(new) {
                let name = if is_hidden(old) { old } else { new };
                complaints
                    .push(Complaint::at(path, format!("`{name}` is a name that Smelt keeps for itself")).help("choose another column"));
            } else if after.iter().filter(|n| **n == new).count() > 1 {
                let help = format!("choose another name, or drop the other `{new}` first with select");
                complaints.push(Complaint::at(path, format!("there would be two columns `{new}`")).help(help));
            }
        }
        verdict(complaints)?;
        let renamed: Vec<_> = schema.fields().iter().map(|f| column(f.name()).alias(self.new_name(f.name()))).collect();
        Ok(LogicalPlanBuilder::from(input).project(renamed)?.build()?)
    }
}

#[cfg(test)]
mod tests {
    use crate::steps::testing::*;

    #[tokio::test]
    async fn names_change_and_may_swap() {
        let out = run(r#"[{"rename": {"name": "price", "price": "name"}}]"#).await.unwrap();
        assert!(out.starts_with("price,name,_file,_line\nann,1,f,1\n"), "{out}");
    }

    #[tokio::test]
    async fn clashes_and_unknown_names_are_complaints() {
        let found = complaints(r#"[{"rename": {"name": "price", "nme": "x", "price": "_line"}}]"#).await;
        let paths: Vec<_> = found.iter().map(|c| c.place.path[2].as_str()).collect();
        assert_eq!(paths, ["nme", "price"]);
        let found = complaints(r#"[{"rename": {"name": "price"}}]"#).await;
        assert!(found[0].message.contains("two columns `price`"), "{found:?}");
    }
}
