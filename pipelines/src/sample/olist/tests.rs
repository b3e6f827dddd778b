//! The Olist sample: what it promises about rows, keys and bytes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;

use super::*;

type Records = Vec<Vec<String>>;

/// RFC 4180, as slow and plain as can be: the test must not lean on a reader that it helps to test.
fn parse(text: &str) -> Records {
    let (mut records, mut record, mut field, mut quoted) = (vec![], vec![], String::new(), false);
    let mut chars = text.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.push(chars.next().unwrap()),
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            c => field.push(c),
        }
    }
    assert!(record.is_empty() && !quoted, "the file ends within a record");
    records
}

fn sample(options: &OlistOptions) -> (Summary, BTreeMap<String, String>) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    let summary = olist(&out, options, &|_| {}).unwrap();
    let texts = FILES.iter().map(|name| ((*name).to_owned(), fs::read_to_string(out.join(name)).unwrap())).collect();
    (summary, texts)
}

fn column(records: &Records, name: &str) -> Vec<String> {
    let at = records[0].iter().position(|n| n == name).unwrap();
    records[1..].iter().map(|record| record[at].clone()).collect()
}

#[test]
fn keys_join_and_proportions_are_those_of_the_published_files() {
    let options = OlistOptions { orders: 20_000, bad: 0.0, duplicates: 0.0, ..OlistOptions::default() };
    let (summary, texts) = sample(&options);
    let files: BTreeMap<&str, Records> = texts.iter().map(|(name, text)| (name.as_str(), parse(text))).collect();
    for (name, rows, bytes) in &summary.files {
        assert_eq!(files[name.as_str()].len() as u64 - 1, *rows, "{name}");
        assert_eq!(texts[name].len() as u64, *bytes, "{name}");
    }
    assert!(summary.planted.is_empty() && summary.duplicates.is_empty());

    let of = |file: usize, name: &str| column(&files[FILES[file]], name);
    let set = |file: usize, name: &str| of(file, name).into_iter().collect::<HashSet<_>>();
    let orders = set(0, "order_id");
    assert_eq!(orders.len(), 20_000);
    assert_eq!(set(0, "customer_id"), set(1, "customer_id"));
    for file in [2, 3, 4] {
        assert!(set(file, "order_id").is_subset(&orders), "{}", FILES[file]);
    }
    assert!(set(2, "product_id").is_subset(&set(5, "product_id")));
    assert!(set(2, "seller_id").is_subset(&set(6, "seller_id")));

    let near = |file: usize, share: f64| {
        let rows = summary.files[file].1 as f64 / 20_000.0;
        assert!((rows - share).abs() < 0.03 * share, "{}: {rows} rows an order, not {share}", FILES[file]);
    };
    near(1, 1.0);
    near(2, 1.13);
    near(3, 1.04);
    near(4, 1.0);
    near(5, 0.33);
    near(6, 0.031);
    let people = set(1, "customer_unique_id").len();
    assert!((19_100..19_600).contains(&people), "{people}");

    // What was paid is what was ordered.
    let cents = |text: &str| text.replace('.', "").parse::<u64>().unwrap();
    let mut due: BTreeMap<String, u64> = BTreeMap::new();
    for ((order, price), freight) in of(2, "order_id").into_iter().zip(of(2, "price")).zip(of(2, "freight_value")) {
        *due.entry(order).or_default() += cents(&price) + cents(&freight);
    }
    let mut paid: BTreeMap<String, u64> = BTreeMap::new();
    let mut void = HashSet::new();
    for ((order, value), kind) in of(3, "order_id").into_iter().zip(of(3, "payment_value")).zip(of(3, "payment_type")) {
        if kind == "not_defined" {
            void.insert(order.clone());
        }
        *paid.entry(order).or_default() += cents(&value);
    }
    assert!(due.iter().all(|(order, due)| void.contains(order) || paid[order] == *due));
}

#[test]
fn times_are_in_order_and_fit_the_status() {
    let (_, texts) = sample(&OlistOptions { orders: 5_000, days: 400, bad: 0.0, duplicates: 0.0, seed: 3 });
    let mut statuses = BTreeSet::new();
    for row in &parse(&texts[FILES[0]])[1..] {
        let [_, _, status, times @ ..] = &row[..] else { panic!("{row:?}") };
        statuses.insert(status.clone());
        let known: Vec<&String> = times[..4].iter().filter(|t| !t.is_empty()).collect();
        assert!(known.is_sorted(), "{row:?}");
        assert!(times[0].as_str() >= "2017-07-28" && times[0].as_str() < "2018-09-01", "{row:?}");
        assert!(times[4].ends_with(" 00:00:00"), "{row:?}");
        assert_eq!(!times[3].is_empty(), status == "delivered", "{row:?}");
    }
    assert!(statuses.len() >= 6, "{statuses:?}");
}

#[test]
fn what_is_planted_is_counted() {
    let options = OlistOptions { orders: 20_000, bad: 0.01, duplicates: 0.02, ..OlistOptions::default() };
    let (summary, texts) = sample(&options);
    let (clean, _) = sample(&OlistOptions { bad: 0.0, duplicates: 0.0, ..options });
    for (name, text) in &texts {
        let records = parse(text);
        let width = records[0].len();
        let ragged = records.iter().filter(|r| r.len() != width).count() as u64;
        assert_eq!(ragged, summary.planted.get(name).and_then(|k| k.get("ragged_line")).copied().unwrap_or(0), "{name}");
    }
    let kind = |file: usize, kind: &str| summary.planted[FILES[file]][kind];
    let rows = |file: usize| parse(&texts[FILES[file]]).into_iter().skip(1);
    let count = |file: usize, test: &dyn Fn(&[String]) -> bool| rows(file).filter(|r| test(r)).count() as u64;
    assert_eq!(count(0, &|r| r[2] == "lost_at_sea"), kind(0, "unknown_status"));
    assert_eq!(count(0, &|r| r.get(3).is_some_and(|t| t.contains("-02-31"))), kind(0, "no_such_day"));
    assert_eq!(count(2, &|r| r[2].is_empty()), kind(2, "missing_id"));
    assert_eq!(count(2, &|r| r[5].starts_with('-')), kind(2, "negative_price"));
    assert_eq!(count(3, &|r| r.get(4).is_some_and(|v| v == "grátis")), kind(3, "text_in_number"));
    assert_eq!(count(4, &|r| r[2] == "7"), kind(4, "score_out_of_range"));
    assert_eq!(count(6, &|r| r[0].is_empty()), summary.planted[FILES[6]].get("missing_id").copied().unwrap_or(0));

    // Without the damaged rows and one of each double, the keys are as many as in a clean sample of any dice.
    let bad = summary.bad(FILES[0]);
    assert_eq!(summary.files[0].1, 20_000 + bad + summary.repeated(FILES[0]));
    assert_eq!(clean.files[0].1, 20_000);
    assert!((140..260).contains(&bad), "{bad}");
    let doubles = &summary.duplicates[FILES[0]];
    assert!(doubles["exact"] > 100 && doubles["older_version"] > 100, "{doubles:?}");
    for (file, key) in [(2, [0, 1]), (3, [0, 1]), (4, [0, 1]), (1, [0, 0])] {
        let name = FILES[file];
        let keys: HashSet<_> = rows(file).map(|r| (r[key[0]].clone(), r[key[1]].clone())).filter(|k| !k.0.is_empty()).collect();
        assert_eq!(keys.len() as u64, summary.files[file].1 - summary.bad(name) - summary.repeated(name), "{name}");
    }
}

#[test]
fn the_quirks_of_the_published_files_are_there() {
    let (_, texts) = sample(&OlistOptions { orders: 3_000, ..OlistOptions::default() });
    let reviews = &texts["olist_order_reviews_dataset.csv"];
    assert!(reviews.starts_with("\"review_id\",") && reviews.contains("\r\n\""));
    assert!(parse(reviews)[1..].iter().any(|r| r.len() == 7 && r[4].contains('\n')), "newlines in quotes");
    assert!(texts["product_category_name_translation.csv"].starts_with("\u{feff}product_category_name,"));
    assert!(texts["olist_products_dataset.csv"].contains("\"product_name_lenght\""));
    assert!(texts["olist_orders_dataset.csv"].contains(",,,"), "empty timestamps");
    for line in texts["olist_sellers_dataset.csv"].lines().skip(1).filter(|l| l.len() > 32) {
        assert_eq!(line.starts_with('"'), line.trim_start_matches('"').starts_with(|c: char| c.is_ascii_digit()), "{line}");
    }
}

/// The bytes of a small sample. A change here is a change of every sample that anyone has made: it must be meant.
#[test]
fn the_same_bytes_everywhere() {
    let options = OlistOptions { orders: 10_000, ..OlistOptions::default() };
    let (first, texts) = sample(&options);
    assert_eq!(sample(&options), (first, texts.clone()));
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for name in FILES {
        for byte in texts[name].bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    assert_eq!(format!("{hash:016x}"), "9060d0ee39e6281f");
    assert_ne!(texts, sample(&OlistOptions { seed: 43, ..options }).1);
}

#[test]
fn options_are_checked_and_few_orders_are_fine() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    let wrong = [OlistOptions { days: 0, ..OlistOptions::default() }, OlistOptions { bad: 2.0, ..OlistOptions::default() }];
    for options in wrong {
        assert_eq!(olist(&out, &options, &|_| {}).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    for orders in [0, 1] {
        let summary = olist(&out, &OlistOptions { orders, bad: 0.0, duplicates: 0.0, ..OlistOptions::default() }, &|_| {}).unwrap();
        assert_eq!(summary.files[0].1, orders);
        assert_eq!(summary.files[5].1, 1);
    }
}
