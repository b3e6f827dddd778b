//! A contract for data that has none: the narrowest type that holds every sampled value exactly, and nothing guessed.
//!
//! Knows text and JSON values; knows no file and no source. What it proposes is shown by `smelt plan`, for the user to correct.

mod evidence;
mod shape;

use arrow::array::{Array, AsArray};
use arrow::record_batch::RecordBatch;
use smelt_engine::contract::{Column, hidden};

use self::evidence::Evidence;
use self::shape::{Shape, each_record};
use super::json::envelope::{Message, locate};
use super::json::{JsonOptions, Step, parse_path};

/// A contract for columns of text: the narrowest of boolean, int64, decimal, double, date, timestamp and string that holds
/// every value of the sample. Hidden columns are passed over. Columns without values are strings.
pub fn infer_text(batch: &RecordBatch) -> Vec<Column> {
    let schema = batch.schema();
    let wanted = schema.fields().iter().zip(batch.columns()).filter(|(f, _)| !hidden::RESERVED.contains(&f.name().as_str()));
    let column = |name: &str, values: &dyn Array| {
        let mut evidence = Evidence::default();
        for value in values.as_string_view_opt().into_iter().flatten().flatten() {
            evidence.observe(value);
        }
        let (ty, formats) = evidence.decide();
        Column { formats, ..Column::new(name, ty) }
    };
    wanted.map(|(field, values)| column(field.name(), values)).collect()
}

/// A contract for JSON records, from the start of a file (which may end anywhere). Objects become structs or, with `flatten`,
/// columns with their path; arrays become lists, or with `explode` their element's fields become columns; what is
/// sometimes a scalar and sometimes not is json.
pub fn infer_json(sample: &[u8], options: &JsonOptions) -> Vec<Column> {
    let mut root = Shape::default();
    each_record(sample, |scan| {
        if !options.debezium {
            root.observe(scan);
        } else if let Ok(Message::Envelope { image: Some(image), .. } | Message::Flat { at: image, .. }) = locate(scan) {
            scan.pos = image;
            root.observe(scan);
        }
    });
    if options.debezium {
        // What a flattened row has of the envelope.
        root.fields.retain(|(name, _)| !name.starts_with("__"));
    }
    let mut columns = vec![];
    let explode = options.explode.as_deref().and_then(|path| parse_path(path).ok());
    let element = explode.as_ref().and_then(|steps| root.take_element(steps));
    for (key, shape) in &root.fields {
        shape.columns(&mut vec![Step::Key(key.clone())], options.flatten, &mut columns);
    }
    if let (Some(mut steps), Some(element)) = (explode, element) {
        if element.only_object() {
            for (key, shape) in &element.fields {
                steps.push(Step::Key(key.clone()));
                shape.columns(&mut steps, options.flatten, &mut columns);
                steps.pop();
            }
        } else {
            element.columns(&mut steps, false, &mut columns);
        }
    }
    columns
}

/// The `columns:` block of a table, ready to paste below its name.
pub fn contract_yaml(columns: &[Column]) -> String {
    let mut text = String::from("    columns:\n");
    for column in columns {
        let mut parts = vec![format!("type: {}", scalar(&column.ty.to_string()))];
        let mut part = |key: &str, value: String| parts.push(format!("{key}: {value}"));
        if column.required {
            part("required", "true".into());
        }
        match &column.formats[..] {
            [] => {}
            [format] => part("format", scalar(format)),
            several => part("format", format!("[{}]", several.iter().map(|f| scalar(f)).collect::<Vec<_>>().join(", "))),
        }
        if let Some(zone) = column.timezone {
            part("timezone", scalar(zone.name()));
        }
        if let Some(path) = &column.path {
            part("path", scalar(path));
        }
        if let Some(description) = &column.description {
            part("description", scalar(description));
        }
        if !column.tags.is_empty() {
            part("tags", format!("[{}]", column.tags.iter().map(|t| scalar(t)).collect::<Vec<_>>().join(", ")));
        }
        text.push_str(&format!("      {}: {{{}}}\n", scalar(&column.name), parts.join(", ")));
    }
    text
}

/// A YAML scalar that is read as this string, inside of `{}` too.
fn scalar(text: &str) -> String {
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/'));
    let meant = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].iter().any(|w| text.eq_ignore_ascii_case(w));
    if word && !meant {
        return text.into();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringViewArray};

    use super::*;
    use crate::sources::block::{Block, Decoder};
    use crate::sources::json::{JsonColumn, JsonDecoder, JsonKind};
    use smelt_engine::types::ContractType;

    fn shown(columns: &[Column]) -> Vec<String> {
        let yaml = contract_yaml(columns);
        yaml.lines().skip(1).map(|l| l.trim().replace("\"", "'")).collect()
    }

    /// The type of one column of text, `~` for NULL.
    fn text(values: &[&str]) -> String {
        let array: StringViewArray = values.iter().map(|v| (*v != "~").then_some(*v)).collect();
        let batch = RecordBatch::try_from_iter([("c", Arc::new(array) as ArrayRef)]).unwrap();
        let got = shown(&infer_text(&batch));
        got[0].trim_start_matches("c: {type: ").trim_end_matches('}').to_string()
    }

    #[test]
    fn text_takes_the_narrowest_type_that_is_exact() {
        for (values, want) in [
            (&["~", "~"][..], "string"),
            (&["true", "~", "FALSE"], "boolean"),
            (&["true", "yes"], "string"),
            (&["0", "-5", "9223372036854775807"], "int64"),
            (&["1", "9223372036854775808"], "string"),
            (&["01234", "12345"], "string"),
            (&["1", ""], "string"),
            (&["+1"], "string"),
            (&["12.50", "-0.5", "~"], "'decimal(18,2)'"),
            (&["123456789012345678.25"], "'decimal(20,2)'"),
            (&["12.50", "3"], "double"),
            (&["-23.545621279", "1.5"], "double"),
            (&["1e5", "2.5"], "double"),
            (&["007.50"], "string"),
            (&["1.5", "12345678901234567"], "string"),
            (&["1,234.50"], "string"),
            (&["NaN"], "string"),
            (&["1."], "string"),
        ] {
            assert_eq!(text(values), want, "{values:?}");
        }
    }

    #[test]
    fn dates_and_timestamps_take_the_format_that_fits_all() {
        for (values, want) in [
            (&["2025-03-01", "2024-02-29"][..], "date"),
            (&["2025-03-01", "2025-02-31"], "string"),
            (&["2025-3-1"], "string"),
            (&["13/02/2024", "01/02/2024"], "date, format: '%d/%m/%Y'"),
            (&["02/13/2024", "01/02/2024"], "date, format: '%m/%d/%Y'"),
            (&["01/02/2024", "03/04/2024"], "string"),
            (&["13/02/2024", "02/13/2024"], "string"),
            (&["31/12/24"], "date, format: '%d/%m/%y'"),
            (&["31.12.2024"], "date, format: '%d.%m.%Y'"),
            (&["05 Mar 2024"], "date, format: '%d %b %Y'"),
            (&["2025-03-01T10:00:00Z", "2025-03-01T10:00:00.123+02:00", "2025-03-01T10:00:00"], "timestamp"),
            (&["2025-03-01 10:00:00"], "timestamp, format: '%Y-%m-%d %H:%M:%S'"),
            (&["2025-03-01 10:00:00", "2025-03-01 10:00:00.5"], "timestamp, format: '%Y-%m-%d %H:%M:%S%.f'"),
            (&["2025-03-01 10:00"], "timestamp, format: '%Y-%m-%d %H:%M'"),
            (&["2025-03-01 10:00:00+02:00"], "timestamp, format: '%Y-%m-%d %H:%M:%S%:z'"),
            (&["25/12/2024 10:30"], "timestamp, format: '%d/%m/%Y %H:%M'"),
            (&["05/12/2024 10:30"], "string"),
            (&["12/25/2024 01:30:00 PM"], "timestamp, format: '%m/%d/%Y %I:%M:%S %p'"),
            (&["10/Oct/2000:13:55:36 -0700"], "timestamp, format: '%d/%b/%Y:%H:%M:%S %z'"),
            (&["2025-03-01", "2025-03-01T10:00:00Z"], "string"),
            (&["20250301"], "int64"),
        ] {
            assert_eq!(text(values), want, "{values:?}");
        }
    }

    #[test]
    fn hidden_columns_are_no_part_of_the_contract() {
        let array = Arc::new(StringViewArray::from(vec!["1"])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("a", Arc::clone(&array)), ("_file", array)]).unwrap();
        assert_eq!(infer_text(&batch).len(), 1);
    }

    const CLICKS: &str = r#"{"event_id":1,"user":{"id":5,"agent":"ios"},"page":"/home","ts":"2025-03-01T10:00:00Z","tags":["x"],"props":{"ms":12,"ref":null}}
{"event_id":2,"user":{"id":6,"agent":"web"},"zip":"01234","price":1.50,"odd key":{"a.b":true},"any":1,"tags":[],"mix":[1,"x"],"none":[],"big":[12345678901234567890]}
not json
{"event_id":3,"any":{"x":1},"pts":[{"x":1},{"x":2.5}],"user":null,"day":"2025-03-01","id":12345678901234567890,"mix":[true]}
{"event_id":"cut"#;

    #[test]
    fn json_gives_structs_and_lists() {
        let want = [
            "event_id: {type: int64}",
            "user: {type: 'struct<id: int64, agent: string>'}",
            "page: {type: string}",
            "ts: {type: timestamp}",
            "tags: {type: 'list<string>'}",
            "props: {type: 'struct<ms: int64, ref: string>'}",
            "zip: {type: string}",
            "price: {type: 'decimal(18,2)'}",
            "'odd key': {type: json}",
            "any: {type: json}",
            "mix: {type: json}",
            "none: {type: json}",
            "big: {type: json}",
            "pts: {type: 'list<struct<x: double>>'}",
            "day: {type: date}",
            "id: {type: string}",
        ];
        assert_eq!(shown(&infer_json(CLICKS.as_bytes(), &JsonOptions::default())), want);
    }

    #[test]
    fn every_layout_is_sampled_and_may_be_cut_off() {
        let record = r#"{"a":1,"b":{"c":"x,]"}}"#;
        for text in
            [format!("[{record},\n{record}, {{\"a\":tru}}, {{\"a\":\"cu"), format!("{{\n}}{record} {record}{{\"a\":\"cu"), record.into()]
        {
            let got = infer_json(text.as_bytes(), &JsonOptions::default());
            assert_eq!(shown(&got), ["a: {type: int64}", "b: {type: 'struct<c: string>'}"], "{text}");
        }
        assert!(infer_json(b"", &JsonOptions::default()).is_empty());
        assert!(infer_json(b"[", &JsonOptions::default()).is_empty());
    }

    #[test]
    fn flatten_joins_names_and_gives_paths() {
        let options = JsonOptions { flatten: true, ..Default::default() };
        let text = r#"{"user_id":0,"user":{"id":5,"home":{"zip":"x"}},"o.k":{"a b":true},"empty":{}}"#;
        let want = [
            "user_id: {type: int64}",
            "user_id_2: {type: int64, path: user.id}",
            "user_home_zip: {type: string, path: user.home.zip}",
            "'o.k_a b': {type: boolean, path: '\\'o.k\\'.a b'}",
            "empty: {type: json}",
        ];
        assert_eq!(shown(&infer_json(text.as_bytes(), &options)), want);
    }

    #[test]
    fn explode_gives_the_elements_fields() {
        let options = JsonOptions { explode: Some("order.items".into()), ..Default::default() };
        let text = r#"{"id":1,"order":{"items":[{"sku":"a","dim":{"w":1}},{"qty":2}],"total":5}}"#;
        let want = [
            "id: {type: int64}",
            "order: {type: 'struct<total: int64>'}",
            "order_items_sku: {type: string, path: order.items.sku}",
            "order_items_dim: {type: 'struct<w: int64>', path: order.items.dim}",
            "order_items_qty: {type: int64, path: order.items.qty}",
        ];
        assert_eq!(shown(&infer_json(text.as_bytes(), &options)), want);
        let options = JsonOptions { explode: Some("tags".into()), flatten: true, ..Default::default() };
        assert_eq!(shown(&infer_json(br#"{"tags":["a","b"]}"#, &options)), ["tags: {type: string}"]);
    }

    /// The decoder reads every sound record of the sample by the contract that was inferred from it.
    #[test]
    fn what_is_inferred_can_be_read() {
        let nested =
            |ty: &ContractType| matches!(ty, ContractType::Struct(_) | ContractType::List(_) | ContractType::Map(..) | ContractType::Json);
        for (flatten, explode) in [(false, None), (true, None), (true, Some("pts")), (false, Some("tags"))] {
            let options = JsonOptions { flatten, explode: explode.map(Into::into), rescue: true, ..Default::default() };
            let columns = infer_json(CLICKS.as_bytes(), &options);
            let kind = |c: &Column| if nested(&c.ty) { JsonKind::Json } else { JsonKind::Scalar };
            let wanted = columns.iter().map(|c| JsonColumn { path: c.path.clone(), ..JsonColumn::new(&c.name, kind(c)) }).collect();
            let decoder = JsonDecoder::new(wanted, options, Arc::new(vec!["x".into()]), vec![]).unwrap();
            let block = Block { file: 0, bytes: CLICKS.into(), first_line: 1, offset: 0, last: true };
            let batch = decoder.decode(block).unwrap().remove(0);
            let of = |name: &str| batch.column_by_name(name).unwrap().as_string_view().clone();
            assert_eq!(of("_malformed").iter().flatten().collect::<Vec<_>>(), ["expected a value at byte 1", "cut off inside a string"]);
            assert_eq!(of("_rescued").null_count(), batch.num_rows(), "nothing is left over");
            assert!(decoder.unknown_keys().is_empty());
        }
    }

    #[test]
    fn the_block_is_ready_to_paste() {
        let mut id = Column::new("order_id", ContractType::String);
        id.required = true;
        id.tags = vec!["pii".into()];
        let map = Column::new("no", ContractType::Map(Box::new(ContractType::String), Box::new(ContractType::Int64)));
        let want =
            "    columns:\n      order_id: {type: string, required: true, tags: [pii]}\n      \"no\": {type: \"map<string, int64>\"}\n";
        assert_eq!(contract_yaml(&[id, map]), want);
    }
}
