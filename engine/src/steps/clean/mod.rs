//! `clean`: brings text to one form, all of a column's rules in one pass.

mod kernel;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::common::ScalarValue;
use datafusion::common::exec_err;
use datafusion::logical_expr::{
    ColumnarValue, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast, lit,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Complaint, Result};
use crate::steps::config::{Columns, Entries};
use crate::steps::expression::{column, field, in_words, is_hidden, is_text};
use crate::steps::{Scope, Transform, verdict};
use kernel::{Case, Recipe};

/// Cleans text columns. Each key takes `all` (every text column) or a list of columns. Whatever the order of the keys, a value is
/// trimmed, its spaces are collapsed, it is compared with `null_if`, loses its accents, and then changes case.
///
/// ```yaml
/// - clean: {trim: all, null_if: ["", "N/A"], lower: [status], collapse_spaces: [name], title: [city]}
/// ```
#[derive(Debug, Clone, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Clean {
    /// Takes white space (Unicode's) from both ends.
    pub trim: Option<Columns>,
    /// Turns each run of white space within the text into one space.
    pub collapse_spaces: Option<Columns>,
    /// Texts that mean NULL: a list for all text columns, or a list per column. Compared exactly, after trimming.
    pub null_if: Option<NullIf>,
    /// Writes Latin letters without their accents: `São` becomes `Sao`.
    pub unaccent: Option<Columns>,
    /// Lower case.
    pub lower: Option<Columns>,
    /// Upper case.
    pub upper: Option<Columns>,
    /// The first letter of each word upper case, the others lower.
    pub title: Option<Columns>,
}

/// Texts that mean NULL.
#[derive(Debug, Clone)]
pub enum NullIf {
    All(Vec<String>),
    PerColumn(Entries<Vec<String>>),
}

#[async_trait]
impl Transform for Clean {
    async fn plan(&self, input: LogicalPlan, _scope: &Scope<'_>) -> Result<LogicalPlan> {
        let schema = input.schema();
        let operations: [(&str, &Option<Columns>); 6] = [
            ("trim", &self.trim),
            ("collapse_spaces", &self.collapse_spaces),
            ("unaccent", &self.unaccent),
            ("lower", &self.lower),
            ("upper", &self.upper),
            ("title", &self.title),
        ];
        let mut complaints = vec![];
        let mut check = |name: &str, path: &[&str]| match field(schema, name, path) {
            Ok(f) if is_text(f.data_type()) => {}
            Ok(f) => complaints.push(
                Complaint::at(path.to_vec(), format!("`{name}` is of type {}, and clean works on text", in_words(f.data_type())))
                    .help("leave it out of this list"),
            ),
            Err(complaint) => complaints.push(complaint),
        };
        for (key, columns) in &operations {
            if let Some(Columns::Some(names)) = columns {
                for (i, name) in names.iter().enumerate() {
                    check(name, &["clean", key, &i.to_string()]);
                }
            }
        }
        if let Some(NullIf::PerColumn(entries)) = &self.null_if {
            for (name, _) in entries.iter() {
                check(name, &["clean", "null_if", name]);
            }
        }
        let mut out = vec![];
        for f in schema.fields() {
            let name = f.name();
            let text = is_text(f.data_type()) && !is_hidden(name);
            let asked = |columns: &Option<Columns>| match columns {
                Some(Columns::All) => text,
                Some(Columns::Some(names)) => text && names.contains(name),
                None => false,
            };
            let keys: Vec<&str> = operations.iter().filter(|(_, columns)| asked(columns)).map(|(key, _)| *key).collect();
            let cases: Vec<&str> = keys.iter().copied().filter(|k| matches!(*k, "lower" | "upper" | "title")).collect();
            if let [first, second, ..] = cases[..] {
                let message = format!("`{name}` cannot be both {first} and {second} case");
                complaints.push(Complaint::at(["clean", second], message).help(format!("take it out of {first} or {second}")));
            }
            let nulls: &[String] = match &self.null_if {
                Some(NullIf::All(texts)) if text => texts,
                Some(NullIf::PerColumn(entries)) if text => entries.iter().find(|(n, _)| n == name).map_or(&[], |(_, texts)| texts),
                _ => &[],
            };
            if keys.is_empty() && nulls.is_empty() {
                out.push(column(name));
                continue;
            }
            let value = if *f.data_type() == DataType::Utf8View { column(name) } else { cast(column(name), DataType::Utf8View) };
            let mut args = vec![value, lit(keys.join(" "))];
            args.extend(nulls.iter().map(|n| lit(n.as_str())));
            out.push(udf().call(args).alias(name));
        }
        verdict(complaints)?;
        Ok(LogicalPlanBuilder::from(input).project(out)?.build()?)
    }
}

/// `clean_text(text, 'trim lower', null texts...)`.
pub fn udf() -> ScalarUDF {
    ScalarUDF::from(CleanText { signature: Signature::variadic_any(Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CleanText {
    signature: Signature,
}

impl ScalarUDFImpl for CleanText {
    fn name(&self) -> &str {
        "clean_text"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, args: &[DataType]) -> datafusion::error::Result<DataType> {
        match args {
            [DataType::Utf8View, ..] if args.len() > 1 => Ok(DataType::Utf8View),
            _ => datafusion::common::plan_err!("clean_text takes a string, the names of operations, and texts that mean NULL"),
        }
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion::error::Result<ColumnarValue> {
        let mut constants = args.args[1..].iter().map(|a| match a {
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(t)) | ScalarValue::Utf8View(Some(t)) | ScalarValue::LargeUtf8(Some(t))) => {
                Ok(t.as_str())
            }
            _ => exec_err!("clean_text takes its operations and null texts as constants"),
        });
        let mut recipe = Recipe::default();
        for key in constants.next().transpose()?.unwrap_or_default().split_ascii_whitespace() {
            match key {
                "trim" => recipe.trim = true,
                "collapse_spaces" => recipe.collapse = true,
                "unaccent" => recipe.unaccent = true,
                "lower" => recipe.case = Some(Case::Lower),
                "upper" => recipe.case = Some(Case::Upper),
                "title" => recipe.case = Some(Case::Title),
                other => return exec_err!("clean_text has no operation {other}"),
            }
        }
        for text in constants {
            recipe.null_if.push(text?.as_bytes().into());
        }
        let constant = matches!(args.args[0], ColumnarValue::Scalar(_));
        let array = args.args[0].to_array(1)?;
        let cleaned: Arc<dyn arrow::array::Array> = Arc::new(kernel::clean(array.as_string_view(), &recipe));
        Ok(match constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&cleaned, 0)?),
            false => ColumnarValue::Array(cleaned),
        })
    }
}

impl<'de> Deserialize<'de> for NullIf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = NullIf;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of texts, or a list for each column")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<NullIf, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(NullIf::All)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NullIf, A::Error> {
                Entries::deserialize(MapAccessDeserializer::new(map)).map(NullIf::PerColumn)
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl JsonSchema for NullIf {
    fn schema_name() -> Cow<'static, str> {
        "NullIf".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let texts = json_schema!({"type": "array", "items": {"type": ["string", "number", "boolean"]}});
        json_schema!({
            "description": "Texts that mean NULL: a list for all text columns, or a list for each column.",
            "anyOf": [texts, {"type": "object", "additionalProperties": texts}],
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::steps::testing::*;

    #[tokio::test]
    async fn rules_compose_in_one_pass() {
        let columns = [
            ("a", text(&[Some(" N/A "), Some("  Hello   WORLD  of text "), None, Some("")])),
            ("b", text(&[Some("São João"), Some("d'angelo MARIA"), Some("N/A"), Some("ÉLAN vital")])),
            ("_file", text(&[Some(" keep "); 4])),
        ];
        let json = r#"[{"clean": {"trim": "all", "null_if": ["", "N/A"], "lower": ["a"], "collapse_spaces": ["a"], "title": ["b"], "unaccent": ["b"]}}]"#;
        let out = run_over(json, &columns).await.unwrap();
        assert_eq!(out, "a,b,_file\n,Sao Joao, keep \nhello world of text,D'Angelo Maria, keep \n,, keep \n,Elan Vital, keep \n");
    }

    #[tokio::test]
    async fn null_texts_can_differ_by_column() {
        let columns = [("a", text(&[Some("x"), Some("y")])), ("b", text(&[Some("x"), Some("y")]))];
        let out = run_over(r#"[{"clean": {"null_if": {"a": ["x"], "b": ["y"]}}}]"#, &columns).await.unwrap();
        assert_eq!(out, "a,b\n,x\ny,\n");
    }

    #[tokio::test]
    async fn wrong_columns_and_two_cases_are_complaints() {
        let found = complaints(r#"[{"clean": {"trim": ["nane", "price"], "lower": "all", "upper": ["name"]}}]"#).await;
        let paths: Vec<String> = found.iter().map(|c| c.place.path.join(".")).collect();
        assert_eq!(paths, ["0.clean.trim.0", "0.clean.trim.1", "0.clean.upper"]);
    }
}
