//! The JSON Schema of the pipeline language, made from the types, so that editors complete and check pipelines.
//!
//! Beyond what the types say: variables may stand where numbers do, `x-` keys are free, and an environment is a pipeline
//! in which nothing is required.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::spec::Pipeline;

/// The schema, draft 2020-12.
pub fn json_schema() -> Value {
    let mut root = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Pipeline>().to_value();
    walk(&mut root, &mut |schema| {
        allow_variables(schema);
        if let Some(description) = schema.get("description").cloned() {
            schema.insert("markdownDescription".to_owned(), description);
        }
    });
    let overlay = overlay(&mut root);
    root["$id"] = json!("https://smelt.dev/schema/pipeline.json");
    root["title"] = json!("Smelt pipeline");
    root["patternProperties"] = json!({"^x-": {"description": "Yours: a place for YAML anchors."}});
    root["properties"]["tables"]["propertyNames"] = json!({"pattern": "^[a-z_][a-z0-9_]*\\.[a-z_][a-z0-9_]*$"});
    root["properties"]["tables"]["minProperties"] = json!(1);
    let text = "What differs by environment: `--env NAME` lays the map of that name over the pipeline. `local` holds when none is named.";
    root["properties"]["environments"] = json!({
        "description": text, "markdownDescription": text, "type": "object", "additionalProperties": overlay,
    });
    root
}

/// Adds, for every definition, one in which nothing is required, and returns a reference to that of the pipeline.
fn overlay(root: &mut Value) -> Value {
    let mut partial = Map::new();
    let mut relax = |name: &str, schema: &Value| {
        let mut schema = schema.clone();
        walk(&mut schema, &mut |schema| {
            schema.remove("required");
            // Without required keys, several alternatives may hold at once.
            if let Some(one) = schema.remove("oneOf") {
                schema.insert("anyOf".to_owned(), one);
            }
            if let Some(Value::String(reference)) = schema.get_mut("$ref") {
                reference.push_str("Overlay");
            }
        });
        partial.insert(format!("{name}Overlay"), schema);
    };
    if let Some(definitions) = root.get("$defs").and_then(Value::as_object) {
        definitions.iter().for_each(|(name, schema)| relax(name, schema));
    }
    let mut pipeline = root.clone();
    for key in ["$defs", "$schema", "title"] {
        pipeline.as_object_mut().map(|p| p.remove(key));
    }
    relax("Pipeline", &pipeline);
    if let Some(definitions) = root.get_mut("$defs").and_then(Value::as_object_mut) {
        definitions.append(&mut partial);
    }
    json!({"anyOf": [{"$ref": "#/$defs/PipelineOverlay"}, {"type": "null"}]})
}

/// `${VAR}` may stand for any scalar.
fn allow_variables(schema: &mut Map<String, Value>) {
    let Some(types) = schema.get("type") else { return };
    let all: Vec<Value> = types.as_array().cloned().unwrap_or_else(|| vec![types.clone()]);
    let number = |t: &Value| ["integer", "number", "boolean"].iter().any(|n| t == n);
    if !all.iter().any(number) || all.iter().any(|t| t == "string") {
        return;
    }
    let kept = ["type", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
    let mut narrow = Map::new();
    for key in kept {
        if let Some(value) = schema.remove(key) {
            narrow.insert(key.to_owned(), value);
        }
    }
    schema.insert("anyOf".to_owned(), json!([narrow, {"type": "string", "pattern": "\\$\\{.+\\}"}]));
}

/// Visits every schema in a schema, the inner ones first.
fn walk(value: &mut Value, visit: &mut dyn FnMut(&mut Map<String, Value>)) {
    let Value::Object(schema) = value else { return };
    for (key, inner) in schema.iter_mut() {
        match (key.as_str(), inner) {
            ("properties" | "$defs" | "patternProperties", Value::Object(schemas)) => schemas.values_mut().for_each(|s| walk(s, visit)),
            ("items" | "additionalProperties" | "not" | "contains" | "propertyNames", inner) => walk(inner, visit),
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(schemas)) => schemas.iter_mut().for_each(|s| walk(s, visit)),
            _ => {}
        }
    }
    visit(schema);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_every_key_of_a_table_and_resolves_its_references() {
        let schema = json_schema();
        let table = &schema["$defs"]["Table"]["properties"];
        for key in ["from", "sql", "columns", "steps", "checks", "write", "partition_by", "max_rejected"] {
            assert!(table[key]["markdownDescription"].is_string(), "{key}");
        }
        assert_eq!(schema["additionalProperties"], false);
        assert!(schema["required"].as_array().unwrap().contains(&json!("tables")));
        assert!(schema["$defs"]["PipelineOverlay"]["required"].is_null());
        let text = schema.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(schema.pointer(reference).is_some(), "{reference}");
        }
    }

    #[test]
    fn variables_may_stand_for_numbers_and_environments_are_pipelines() {
        let schema = json_schema();
        assert!(schema["$defs"]["Table"]["properties"]["provenance"]["anyOf"][1]["pattern"].is_string());
        let overlay = &schema["properties"]["environments"]["additionalProperties"]["anyOf"][0]["$ref"];
        assert_eq!(overlay, "#/$defs/PipelineOverlay");
    }
}
