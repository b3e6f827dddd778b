//! The right to be forgotten: nothing of a person is left in the lake, everything of everybody else is, and input that is read again does
//! not bring the person back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use smelt::bind::{self, Secrets};
use smelt::cli::PipelineArgs;
use smelt::forget::receipt::{self, Receipt, Status};
use smelt::forget::subjects::People;
use smelt::forget::{ForgetOptions, forget};
use smelt::run::RunOptions;
use smelt_connectors::stores::Stores;
use smelt_tests::faults::{FaultStore, Fuse};
use smelt_tests::{now, options, query, run};

const PERSON: &str = "ann-4711";

const PIPELINE: &str = r#"
name: shop
lake: lake
keys: {pii: "${secret:file://pii.key}"}
sources:
  people: {csv: {path: "data/people*.csv"}}
  orders: {csv: {path: "data/orders*.csv"}}
  visits: {csv: {path: "data/visits*.csv"}}
tables:
  silver.people:
    from: people
    columns:
      customer_id: {type: string, required: true, subject: true}
      email: {type: string}
      age: {type: int32}
    steps:
      - clean: {trim: all, lower: [email]}
      - mask:
          customer_id: {tokenize: {key: pii, domain: customer}}
          email: {tokenize: {key: pii, domain: email}}
    checks:
      - range: {age: {min: 0}}
  silver.orders:
    from: orders
    columns:
      order_id: {type: int64, required: true}
      buyer: {type: string, subject: customer_id}
      price: {type: int32}
    steps:
      - rename: {buyer: customer_id}
      - mask: {customer_id: {tokenize: {key: pii, domain: customer}}}
    format: parquet
  silver.visits:
    from: visits
    columns:
      visitor: {type: string, subject: customer_id}
      page: {type: string}
      n: {type: int32}
    partition_by: [visitor]
  gold.customer_orders:
    sql: |
      select p.customer_id as who, upper(p.customer_id) as loud, p.age, o.order_id, o.price
      from silver.people p join silver.orders o on p.customer_id = o.customer_id
  gold.visitors:
    sql: select visitor, count(*) as pages, max(n) as n from silver.visits group by visitor
    format: parquet
  gold.prices:
    sql: select price, count(*) as orders, count(distinct customer_id) as customers from silver.orders group by price
"#;

/// Eleven loads: enough for the log to be checkpointed on the way.
const LOADS: usize = 11;

fn lay_out(folder: &Path) {
    fs::create_dir_all(folder.join("data")).unwrap();
    fs::write(folder.join("pipeline.yaml"), PIPELINE).unwrap();
    fs::write(folder.join("pii.key"), "a key\n").unwrap();
    let mut people = String::from("customer_id,email,age\n");
    (0..6).for_each(|i| people.push_str(&format!("p-{i},p{i}@x.org,{}\n", 40 + i)));
    people.push_str(&format!("{PERSON},Ann.Example@x.org,31\n {PERSON} ,ANN.example@x.org,32\n"));
    // refused by the contract and by a check; and lines that are no record, hers and another's
    people.push_str(&format!("{PERSON},Ann.Example@x.org,old\n{PERSON},Ann.Example@x.org,-5\np-1,p1@x.org,old\n{PERSON},cut\np-2,cut\n"));
    fs::write(folder.join("data/people.csv"), people).unwrap();
    let visits = format!(
        "visitor,page,n\n{PERSON},/home,1\np-1,/home,2\n{PERSON},/basket,3\n{PERSON},/b,none\np-3,/b,none\n{PERSON},/cut\np-4,/cut\n"
    );
    fs::write(folder.join("data/visits.csv"), visits).unwrap();
}

async fn load(folder: &Path, loads: usize) {
    lay_out(folder);
    for i in 0..loads {
        let mut orders = String::from("order_id,buyer,price\n");
        orders.push_str(&format!("{},p-{},{}\n", 100 + i, i % 6, 10 + i));
        if i % 3 == 0 {
            orders.push_str(&format!("{},{PERSON},{}\n", 200 + i, 10 + i));
        }
        fs::write(folder.join(format!("data/orders{i:02}.csv")), orders).unwrap();
        let report = run(folder, Arc::new(Stores::new(None)), &options()).await.unwrap();
        assert_eq!(report.exit_code(), 0, "{}", report.text());
    }
}

fn asking(subjects: &[&str]) -> ForgetOptions {
    let mut people = People::default();
    for text in subjects {
        let (name, value) = text.split_once('=').unwrap();
        people.0.entry(name.to_owned()).or_default().insert(value.to_owned());
    }
    ForgetOptions {
        people,
        reason: Some("request 2026-118".into()),
        dry_run: false,
        sign_key: None,
        allow_unreachable: false,
        alone: false,
        memory: 256 << 20,
        threads: 2,
        now: now(),
    }
}

async fn ask(folder: &Path, stores: Arc<Stores>, options: &ForgetOptions) -> Result<Receipt, String> {
    let args = PipelineArgs { pipeline: folder.to_string_lossy().into_owned(), env: None, set: vec![] };
    let bound = bind::open_with(&args, Secrets::Needed, stores).await.map_err(|f| f.text())?;
    let checked = smelt::check::check(&bound, &RunOptions::new(options.now)).await.map_err(|f| format!("{f:?}"))?;
    forget(&Arc::new(bound), &checked, options).await.map_err(|e| e.to_string())
}

/// Every file below `folder` with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(at: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else {
                out.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(folder, &mut out);
    out
}

/// The files that hold one of the needles: in their path, in their bytes, in any value of a Parquet file, in what is compressed.
fn holding(folder: &Path, needles: &[String]) -> Vec<String> {
    let mut found = vec![];
    for (path, bytes) in files(folder) {
        let mut texts = vec![path.to_string_lossy().into_owned(), String::from_utf8_lossy(&bytes).into_owned()];
        match path.extension().and_then(|e| e.to_str()) {
            Some("parquet") => {
                let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(fs::File::open(&path).unwrap(), 1024).unwrap();
                for batch in reader {
                    let batch = batch.unwrap();
                    let options = FormatOptions::default();
                    for column in batch.columns() {
                        let text = ArrayFormatter::try_new(column.as_ref(), &options).unwrap();
                        texts.extend((0..batch.num_rows()).map(|row| text.value(row).to_string()));
                    }
                }
            }
            Some("zst") => texts.push(String::from_utf8_lossy(&zstd::decode_all(&bytes[..]).unwrap()).into_owned()),
            _ => {}
        }
        let lower: Vec<String> = texts.iter().map(|t| t.to_lowercase()).collect();
        for needle in needles {
            if lower.iter().any(|t| t.contains(&needle.to_lowercase())) {
                found.push(format!("{}: {needle}", path.display()));
            }
        }
    }
    found
}

/// All rows that are not the person's, as they should stay.
async fn others(lake: &Path, token: &str) -> Vec<Vec<String>> {
    let queries = [
        format!("select customer_id, email, age, _file, _line from silver.people where customer_id <> '{token}'"),
        format!("select order_id, customer_id, price, _file, _line from silver.orders where customer_id <> '{token}'"),
        format!("select visitor, page, n, _line from silver.visits where visitor <> '{PERSON}'"),
        format!("select who, loud, age, order_id, price from gold.customer_orders where who <> '{token}'"),
        format!("select visitor, pages, n from gold.visitors where visitor <> '{PERSON}'"),
        format!("select _line, raw, rules from quarantine.silver_people where raw not like '%{token}%'"),
        format!("select _line, raw, rules from quarantine.silver_visits where raw not like '%{PERSON}%'"),
    ];
    let mut out = vec![];
    for sql in &queries {
        out.push(query(lake, sql).await);
    }
    out
}

/// What must not be found any more: the value, its token, the token of her address.
async fn needles(lake: &Path) -> (String, Vec<String>) {
    let row = query(lake, "select customer_id, email from silver.people where age = 31").await;
    let (token, email) = row[0].split_once('|').unwrap();
    (token.to_owned(), vec![PERSON.to_owned(), token.to_owned(), email.to_owned()])
}

fn line<'a>(receipt: &'a Receipt, table: &str) -> &'a receipt::Table {
    receipt.tables.iter().find(|t| t.table == table).unwrap_or_else(|| panic!("{table}: {}", receipt.text()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_found_nowhere_and_nobody_else_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    load(folder.path(), LOADS).await;
    let lake = folder.path().join("lake");
    let (token, needles) = needles(&lake).await;
    let before = others(&lake, &token).await;
    assert!(before.iter().all(|rows| !rows.is_empty()), "{before:?}");
    let prices = query(&lake, "select * from gold.prices").await;
    assert!(holding(&lake, &needles).len() > 20);

    // a dry run says what would be, and changes nothing
    let bytes = files(&lake);
    let dry = ForgetOptions { dry_run: true, ..asking(&[&format!("customer_id={PERSON}")]) };
    let would = ask(folder.path(), Arc::new(Stores::new(None)), &dry).await.unwrap();
    assert_eq!(files(&lake), bytes, "a dry run changes nothing");

    let receipt = ask(folder.path(), Arc::new(Stores::new(None)), &asking(&[&format!("customer_id={PERSON}")])).await.unwrap();
    assert_eq!(holding(&lake, &needles), Vec::<String>::new());
    assert_eq!(others(&lake, &token).await, before);
    assert_eq!(query(&lake, "select * from gold.prices").await, prices);

    for (table, rows) in [("silver.people", 2), ("silver.orders", 4), ("silver.visits", 2), ("gold.visitors", 1)] {
        let (done, planned) = (line(&receipt, table), line(&would, table));
        assert_eq!((done.status, done.rows_removed), (Status::Forgotten, rows), "{table}: {}", receipt.text());
        assert_eq!((planned.rows_removed, planned.files_rewritten), (done.rows_removed, done.files_rewritten), "{table}");
        assert_eq!(done.version_after, done.version_before.map(|v| v + 1), "{table}");
        assert!(done.files_deleted > 0 && done.log_entries_cleaned > 0, "{table}: {}", receipt.text());
    }
    // the join has two rows of hers for each of her orders
    assert_eq!(line(&receipt, "gold.customer_orders").rows_removed, 8);
    assert_eq!(line(&receipt, "gold.customer_orders").columns, ["loud", "who"]);
    assert_eq!(line(&receipt, "quarantine.silver_people").rows_removed, 2);
    assert_eq!(line(&receipt, "quarantine.silver_visits").rows_removed, 2);
    assert_eq!(line(&receipt, "gold.prices").status, Status::NoSubjectColumn);
    assert!(receipt.input_files.iter().any(|f| f.ends_with("people.csv")), "{:?}", receipt.input_files);

    // again: nothing is left to do
    let again = ask(folder.path(), Arc::new(Stores::new(None)), &asking(&[&format!("customer_id={PERSON}")])).await.unwrap();
    assert!(again.tables.iter().all(|t| t.rows_removed == 0 && t.files_deleted == 0), "{}", again.text());
    assert_eq!(line(&again, "silver.people").status, Status::NoRows);

    // the next run rebuilds what is computed from these tables, and a full refresh reads her files once more
    for full_refresh in [false, true] {
        let report = run(folder.path(), Arc::new(Stores::new(None)), &RunOptions { full_refresh, ..options() }).await.unwrap();
        assert_eq!(report.exit_code(), 0, "{}", report.text());
        assert_eq!(holding(&lake, &needles), Vec::<String>::new(), "full refresh: {full_refresh}");
        let now: Vec<_> = others(&lake, &token).await.into_iter().take(5).collect();
        assert_eq!(now, before[..5], "full refresh: {full_refresh}");
    }
    let counted = query(&lake, "select sum(customers) from gold.prices").await;
    assert_eq!(counted, [LOADS.to_string()], "aggregates count without her");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_and_run_again_it_is_complete() {
    let reference = tempfile::tempdir().unwrap();
    load(reference.path(), 2).await;
    let (token, needles) = needles(&reference.path().join("lake")).await;
    let before = others(&reference.path().join("lake"), &token).await;
    let person = asking(&[&format!("customer_id={PERSON}")]);
    let fuse = Fuse::counting();
    ask(reference.path(), stores(&fuse), &person).await.unwrap();
    assert!(fuse.used() > 50, "the fuse must see the operations");
    for at in (1..=fuse.used()).step_by(11) {
        let folder = tempfile::tempdir().unwrap();
        load(folder.path(), 2).await;
        let lake = folder.path().join("lake");
        let lost_reply = at % 2 == 0;
        // a task of its own: whatever gives way in it, the process would have been dead
        let (place, options, dying) = (folder.path().to_owned(), person.clone(), stores(&Fuse::new(at, lost_reply)));
        let _killed = tokio::spawn(async move { ask(&place, dying, &options).await }).await;
        ask(folder.path(), Arc::new(Stores::new(None)), &person).await.unwrap();
        assert_eq!(holding(&lake, &needles), Vec::<String>::new(), "killed at {at}, lost reply {lost_reply}");
        let others: Vec<Vec<String>> = others(&lake, &token).await;
        assert_eq!(others, before, "killed at {at}, lost reply {lost_reply}");
    }
}

fn stores(fuse: &Arc<Fuse>) -> Arc<Stores> {
    let fuse = Arc::clone(fuse);
    Arc::new(Stores::new(Some(Arc::new(move |inner| Arc::new(FaultStore::new(inner, Arc::clone(&fuse))) as _))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_cannot_be_searched_stops_it_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let text = r#"
name: shop
lake: lake
keys: {pii: "${secret:file://pii.key}"}
subjects: {mail: [silver.people.email]}
sources: {people: {csv: {path: "data/people*.csv"}}}
tables:
  silver.people:
    from: people
    columns: {customer_id: {type: string, subject: true}, email: {type: string}, age: {type: int32}}
    steps:
      - mask: {customer_id: {redact: {keep_last: 2}}, email: {tokenize: {key: pii}}}
"#;
    fs::write(folder.path().join("pipeline.yaml"), text).unwrap();
    run(folder.path(), Arc::new(Stores::new(None)), &options()).await.unwrap();
    let lake = folder.path().join("lake");
    let bytes = files(&lake);
    let by_id = asking(&[&format!("customer_id={PERSON}")]);
    let refused = ask(folder.path(), Arc::new(Stores::new(None)), &by_id).await.unwrap_err();
    assert!(refused.contains("silver.people") && refused.contains("masked by redact") && !refused.contains(PERSON), "{refused}");
    assert_eq!(files(&lake), bytes);
    let allowed = ForgetOptions { allow_unreachable: true, ..by_id };
    let receipt = ask(folder.path(), Arc::new(Stores::new(None)), &allowed).await.unwrap();
    assert_eq!(line(&receipt, "silver.people").status, Status::Unreachable);
    // by her address she is found
    let both = asking(&[&format!("customer_id={PERSON}"), "mail=Ann.Example@x.org"]);
    let receipt = ask(folder.path(), Arc::new(Stores::new(None)), &both).await.unwrap();
    assert_eq!((line(&receipt, "silver.people").status, line(&receipt, "silver.people").rows_removed), (Status::Forgotten, 2));
}

#[test]
fn the_receipt_names_nobody_and_is_signed() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(load(folder.path(), 1));
    let smelt = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_smelt-under-test")).args(args).current_dir(folder.path()).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out.status.code(), text)
    };
    let person = format!("customer_id={PERSON}");
    let (code, text) = smelt(&["forget", ".", "--subject", &person, "--dry-run"]);
    assert!(code == Some(0) && text.contains("would remove") && !text.contains(PERSON), "{text}");
    let (code, text) = smelt(&["forget", ".", "--subject", &person, "--reason", &format!("asked by {PERSON}")]);
    assert!(code == Some(2) && !text.contains(PERSON), "{text}");
    let (code, text) = smelt(&["forget", ".", "--subject", "custmer_id=x"]);
    assert!(code == Some(2) && text.contains("its subjects are"), "{text}");
    assert_eq!(smelt(&["forget", "."]).0, Some(2));

    fs::write(folder.path().join("list.csv"), format!("customer_id\n\"{PERSON}\"\np-5\n")).unwrap();
    let (code, text) = smelt(&["forget", ".", "--file", "list.csv", "--reason", "request 7", "--receipt", "receipt.json"]);
    assert!(code == Some(0) && text.contains("removed") && !text.contains(PERSON), "{text}");
    let receipt = fs::read_to_string(folder.path().join("receipt.json")).unwrap();
    assert!(!receipt.contains(PERSON) && !receipt.contains("p-5") && receipt.contains("request 7"), "{receipt}");
    let parsed: Receipt = serde_json::from_str(&receipt).unwrap();
    assert_eq!(parsed.subjects.len(), 2);
    assert_eq!(fs::read_dir(folder.path().join("lake/_smelt/receipts")).unwrap().count(), 1);

    let (code, text) = smelt(&["forget", ".", "--verify", "receipt.json"]);
    assert!(code == Some(0) && text.contains("is valid"), "{text}");
    let tampered = receipt.replace("request 7", "request 8");
    assert_ne!(tampered, receipt);
    fs::write(folder.path().join("receipt.json"), tampered).unwrap();
    let (code, text) = smelt(&["forget", ".", "--verify", "receipt.json"]);
    assert!(code == Some(3) && text.contains("changed after it was signed"), "{text}");

    // without a key there is nothing to sign with
    let text = fs::read_to_string(folder.path().join("pipeline.yaml")).unwrap();
    let keyless = "name: shop\nsources: {visits: {csv: {path: \"data/visits*.csv\"}}}\ntables:\n  silver.visits:\n    from: visits\n    \
                   columns: {visitor: {type: string, subject: true}, page: string, n: int32}\n";
    assert_ne!(text, keyless);
    fs::write(folder.path().join("pipeline.yaml"), keyless).unwrap();
    let (code, text) = smelt(&["forget", ".", "--subject", "visitor=p-1"]);
    assert!(code == Some(2) && text.contains("signed with a key"), "{text}");
}
