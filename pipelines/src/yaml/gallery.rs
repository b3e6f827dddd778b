//! Bad pipelines, and what their authors see. One snapshot each: read them as a user would.

use crate::spec::{LoadOptions, Loaded, load};
use crate::yaml::Unset;

fn read(yaml: &str, env: Option<&str>, set: &[String]) -> Loaded {
    let vars = |name: &str| (name == "HOME").then(|| "/raw".to_owned());
    load("pipeline.yaml", yaml, &LoadOptions { env, set, vars: &vars, unset: Unset::Complain })
}

fn shown(yaml: &str, env: Option<&str>, set: &[&str]) -> String {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let loaded = read(yaml, env, &set);
    assert!(loaded.diagnostics.has_errors(), "{yaml}");
    loaded.diagnostics.render(&loaded.sources, false)
}

macro_rules! gallery {
    ($($name:ident: $yaml:expr $(, env $env:literal)? $(, set $set:expr)?;)*) => {$(
        #[test]
        fn $name() {
            #[allow(unused_mut, unused_assignments)]
            let (mut env, mut set): (Option<&str>, &[&str]) = (None, &[]);
            $(env = Some($env);)?
            $(set = &$set;)?
            let _ = (&env, &set);
            insta::assert_snapshot!(stringify!($name), shown($yaml, env, set));
        }
    )*};
}

gallery! {
    tab_as_indentation: "name: p\ntables:\n  silver.a:\n\tfrom: x\n";
    tab_after_spaces: "name: p\nsources:\n  a:\n    csv: {path: x}\n  \tb: {csv: {path: y}}\n";
    empty_file: "# nothing here\n";
    second_document: "name: p\n---\ntables: {}\n";
    quote_not_closed: "name: p\nlake: \"s3://bucket\nsources: {}\n";
    bracket_not_closed: "name: p\nsources:\n  a:\n    csv: {path: x, null_values: [\"\", N/A}\n";
    bracket_open_to_the_end: "name: p\nsources: {a: {csv: {path: x}\n";
    colon_in_a_value: "name: p\ndescription: note: this\n";
    key_indented_too_far: "name: p\n  lake: x\n";
    key_indented_too_little: "name: p\nsources:\n    a:\n      csv: {path: x}\n  b:\n      csv: {path: y}\n";
    bad_escape: "name: p\nsources: {a: {csv: {path: \"data\\orders\"}}}\n";
    glob_taken_for_an_alias: "name: p\nsources:\n  a:\n    csv: {path: *.csv}\n";
    variable_inside_braces: "name: p\nsources:\n  a:\n    csv: {path: ${DIR}/x.csv}\n";
    variable_inside_brackets: "name: p\nsources:\n  a:\n    csv: {path: x, null_values: [NULL, ${NONE}]}\n";
    secret_inside_braces: "name: p\nkeys: {pii: ${secret:env://PII}, b: c}\n";
    duplicate_key: "name: p\nsources:\n  a: {csv: {path: x}}\ntables:\n  silver.a:\n    from: a\n    from: b\n";
    reserved_character: "name: @p\n";
    foreign_tag: "name: !Sub p\ntables:\n  silver.a: {sql: select 1}\n";
    endless_alias: "name: p\ntables: &t\n  silver.a: *t\n";

    unknown_keys_two_at_once: "name: p\nlak: x\ntables:\n  silver.a:\n    sql: select 1\n    partitions: [a]\n    checks: []\n    stpes: []\n";
    missing_space_after_colon: "name: p\nsources:\n  a: {csv: {path: x, header:true}}\ntables:\n  silver.a: {from: a}\n";
    wrong_types: "name: [p]\nsources:\n  a:\n    csv: {path: x, header: yes, skip_lines: -1, null_values: {a: b}}\n  b:\n    csv: {path: y, skip_lines: \"2\", null_values: NULL}\ntables:\n  silver.a: from\n  silver.b: {from: a, steps: {filter: x}, columns: {x: 5, y: {type: nope, required: 1}}}\n";
    unknown_steps_hide_nothing: "name: p\ntables:\n  silver.a:\n    sql: select 1\n    steps:\n      - maks: {a: null}\n      - filter: x > 1\n      - dedup: {keys: [a], ties: frist_in_file}\n      - dedup\n      - filter: x\n        dedup: {keys: [a]}\n    checks:\n      - not_null: a\n      - uniqe: [a]\n";
    missing_keys: "sources:\n  a:\n    csv:\n      header: true\n  b: {json: {}}\ntables:\n  silver.a:\n    from: a\n    columns:\n      x: {required: true}\n";
    not_a_map: "- name: p\n";
    no_tables: "name: p\ntables:\n";
    numbers_in_words: "name: p\ndefaults: {max_rejected: lots, optimize: {target_file_size: 12 parsecs}}\ntimezone: America/Sao_Paolo\ntables:\n  silver.a: {sql: select 1, max_rejected: 1_000}\n";
    not_in_this_version: "name: p\ncatalog: {glue: {database: x}}\ntables:\n  silver.a:\n    sql: select 1\n    steps:\n      - mask: {a: {encrypt: {key: k}}}\n    publish: {table: x}\n";
    modes_take_no_settings: "name: p\ntables:\n  silver.a: {sql: select 1, write: {append: {keys: [a]}}}\n";

    unset_variable: "name: p\nlake: s3://${BUCKET}/${HOME}\ntables:\n  silver.a: {sql: \"select '${DAY}'\"}\n";
    odd_references: "name: p\nlake: ${LAKE\ndescription: ${a-b}\ntables:\n  silver.a: {sql: \"select ${1}\"}\n";
    secrets_in_the_wrong_place: "name: ${secret:env://NAME}\nkeys:\n  pii: hunter2\n  vault: ${secret:vault://x/y}\n  two: a ${secret:env://B}\n  var: ${HOME}\nlake: s3://${secret:env://BUCKET}\ntables:\n  silver.a: {sql: select 1}\n";
    secret_on_a_line_with_another_error: "name: p\nkeys: {pii: hunter2, other: [hunter3]}\nlake: []\ntables: {silver.a: {sql: select 1}}\n";

    unknown_environment: "name: p\ntables:\n  silver.a: {sql: select 1}\nenvironments:\n  local: {}\n  prod: {lake: s3://x}\n", env "prd";
    no_environments_at_all: "name: p\ntables:\n  silver.a: {sql: select 1}\n", env "prod";
    error_inside_an_environment: "name: p\ntables:\n  silver.a: {sql: select 1}\nenvironments:\n  prod:\n    lake: []\n    lak: x\n  test: 5\n", env "prod";
    error_in_a_setting: "name: p\ntables:\n  silver.a: {sql: select 1}\n", set ["lak=x", "tables.silver.a.write=appendd", "timezone", "tables.silver.a.steps=[", "a..b=1"];

    table_names: "name: p\ntables:\n  orders: {sql: select 1}\n  Silver.Orders: {sql: select 1}\n  a.b.c: {sql: select 1}\n";
    inputs: "name: p\nsources:\n  orders: {csv: {path: x}}\ntables:\n  silver.a: {from: order}\n  silver.b: {from: orders, sql: select 1}\n  silver.c: {}\n  silver.d: {from: silver.d}\n  silver.e: {from: silver.a}\n";
    columns: "name: p\nsources:\n  a: {csv: {path: x}}\ntables:\n  silver.a:\n    from: a\n    columns:\n      _file: string\n      Id: string\n      id: int64\n    write: replace_partitions\n";
    mask_keys: "name: p\nkeys: {pii: \"${secret:env://PII}\"}\ntables:\n  silver.a:\n    sql: select 1\n    steps:\n      - mask: {email: {tokenize: {key: pi}}}\n";
}

const SQL: &str = "name: p\ntables:\n  gold.a:\n    sql: |\n      select o.day,\n             sum(o.prise) as revenue\n      from silver.orders o\n    steps:\n      - derive: {\n          month: \"date_trunc('month', purchased)\", year: 'it''s bad' }\n";

#[test]
fn complaints_of_components_point_into_the_file() {
    use smelt_engine::error::{Complaint, Place};
    let mut loaded = read(SQL, None, &[]);
    assert!(!loaded.diagnostics.has_errors());
    let within = |path: &[&str], line, column, length, message: &str| {
        let place = Place { path: path.iter().map(|s| (*s).to_owned()).collect(), within: Some((line, column, length)) };
        Complaint { place, message: message.to_owned(), help: Some("did you mean `o.price`?".to_owned()) }
    };
    let table = ["tables", "gold.a"];
    let step = ["tables", "gold.a", "steps", "0"];
    for (base, complaint) in [
        (&table[..], within(&["sql"], 2, 12, 7, "no column is named `o.prise`")),
        (&step[..], within(&["derive", "month"], 1, 21, 0, "no column is named `purchased`")),
        (&step[..], within(&["derive", "year"], 1, 6, 0, "not SQL")),
        (&step[..], Complaint::at(["derive", "day", "x"], "a key that is not there")),
        (&table[..], Complaint::at(["checks"], "a table without checks").help("add some")),
    ] {
        loaded.complain(base, smelt_engine::Error::pipeline(complaint)).unwrap();
    }
    insta::assert_snapshot!(loaded.diagnostics.render(&loaded.sources, false));
}

#[test]
fn keys_that_cannot_be_fetched_are_shown_where_they_are_named() {
    let mut loaded = read("name: p\nkeys:\n  pii: ${secret:file://no/such/file}\ntables:\n  silver.a: {sql: select 1}\n", None, &[]);
    assert!(!loaded.diagnostics.has_errors());
    let keys = crate::spec::resolve_keys(&mut loaded, std::path::Path::new("/nowhere"));
    assert_eq!(keys.names().count(), 0);
    insta::assert_snapshot!(loaded.diagnostics.render(&loaded.sources, false));
}

#[test]
fn a_whole_pipeline_reads_well() {
    let loaded = read(WHOLE, None, &["tables.silver.orders.provenance=false".to_owned()]);
    assert!(loaded.diagnostics.is_empty(), "{}", loaded.diagnostics.render(&loaded.sources, false));
    let pipeline = loaded.pipeline.unwrap();
    assert_eq!((pipeline.lake.as_str(), pipeline.keys.get("pii").unwrap().reference.as_str()), ("lake", "env://PII"));
    let (silver, gold) = (pipeline.tables.get("silver.orders").unwrap(), pipeline.tables.get("gold.daily").unwrap());
    assert_eq!(silver.columns.keys().collect::<Vec<_>>(), ["id", "at", "price"]);
    assert!(silver.columns.get("price").unwrap().required);
    assert_eq!(silver.columns.get("at").unwrap().formats.0.len(), 2);
    assert_eq!((silver.write_mode(), gold.write_mode()), (crate::spec::WriteSpec::ReplacePartitions, crate::spec::WriteSpec::Replace));
    assert_eq!((silver.provenance, silver.max_rejected), (Some(false), Some(crate::spec::MaxRejected::Share(0.01))));
    assert_eq!((gold.max_rejected, &gold.optimize), (Some(crate::spec::MaxRejected::Rows(10)), &silver.optimize));
    let smelt_connectors::sources::SourceSpec::Csv(csv) = pipeline.sources.get("orders").unwrap() else { panic!("not csv") };
    assert_eq!((csv.path.0[0].as_str(), csv.delimiter.as_str()), ("/raw/orders/*.csv", ";"));
}

const WHOLE: &str = r#"
x-types: &money {type: "decimal(12,2)", required: true}
name: olist
lake: ${LAKE:-lake}
timezone: America/Sao_Paulo
keys:
  pii: ${secret:env://PII}
sources:
  orders:
    csv: {path: "${HOME}/orders/*.csv", header: true, delimiter: ";", null_values: ["", NULL, 0]}
defaults: {format: parquet, max_rejected: 1%, optimize: {target_file_size: 64MB}}
tables:
  silver.orders:
    from: orders
    columns:
      id: string
      at: {type: timestamp, format: ["%Y-%m-%d", "%d/%m/%Y"], timezone: UTC}
      price: *money
    schema: {on_new_column: add}
    steps:
      - filter: status <> 'test'
      - mask: {id: {tokenize: {key: pii}}, note: {"null": true}}
    checks:
      - not_null: [id, 7]
    write: {replace_partitions: {}}
    partition_by: [month(at)]
  gold.daily:
    sql: |
      select 1
    format: delta
    max_rejected: 10
environments:
  local:
"#;

/// Whatever is typed, the reader answers with diagnostics, and can show them.
#[test]
fn no_text_makes_the_reader_panic() {
    const PIECES: [&str; 34] = [
        "\t",
        "\n",
        "  ",
        "- ",
        ": ",
        ":",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "\\",
        "|",
        ">",
        "&a ",
        "*a",
        "!",
        "!!str ",
        "#",
        "${",
        "}",
        "$${",
        "é",
        "\u{feff}",
        "---",
        "...",
        "%",
        "@",
        "?",
        ",",
        "<<: ",
        "\r",
        "${secret:env://X}",
    ];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..1500 {
        let mut chars: Vec<char> = if random(2) == 0 { WHOLE } else { SQL }.chars().collect();
        for _ in 0..=random(4) {
            let at = random(chars.len());
            let end = (at + random(6)).min(chars.len());
            chars.splice(at..end, PIECES[random(PIECES.len())].chars());
        }
        let text: String = chars.into_iter().collect();
        let loaded = read(&text, None, &[]);
        drop(loaded.diagnostics.render(&loaded.sources, false));
        drop(loaded.diagnostics.to_json(&loaded.sources));
        if let Some(root) = &loaded.root {
            let sql = ["tables", "gold.daily", "sql"].map(str::to_owned);
            let (_, node, _) = crate::yaml::deepest(root, &sql);
            (0..4).for_each(|i| drop(loaded.sources.text(crate::yaml::within(&loaded.sources, node, i, random(20), random(9))).to_owned()));
        }
    }
}
