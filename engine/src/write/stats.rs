//! A file's statistics as Delta's log has them, from the Parquet footer. Bounds may be wide, never narrow.

use std::collections::BTreeMap;
use std::fmt::Write;

use chrono::{DateTime, NaiveDate};
use parquet::basic::{LogicalType, TimeUnit, Type};
use parquet::data_type::AsBytes;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescriptor;

/// Leaf columns that get statistics, as Delta's `dataSkippingNumIndexedCols` has it by default.
const COLUMNS: usize = 32;
/// Characters of a text bound.
const CHARACTERS: usize = 32;

/// `{"numRecords":…,"minValues":{…},"maxValues":{…},"nullCount":{…}}`
///
/// Text bounds have at most 32 characters; instants are ISO 8601 with milliseconds; both are rounded so that they still
/// bound. Binary, boolean, list and map columns have no bounds, nor have float columns whose bound is not a number.
pub(crate) fn delta_stats(meta: &ParquetMetaData) -> String {
    let (mut min, mut max, mut nulls) = (Tree::default(), Tree::default(), Tree::default());
    let schema = meta.file_metadata().schema_descr();
    let groups = meta.row_groups();
    for (i, column) in schema.columns().iter().enumerate().take(COLUMNS) {
        // A null count inside a list counts elements; Delta wants rows.
        if column.max_rep_level() > 0 || groups.is_empty() {
            continue;
        }
        let path = column.path().parts();
        let Some(all) = groups.iter().map(|g| g.column(i).statistics()).collect::<Option<Vec<&Statistics>>>() else { continue };
        if let Some(count) = all.iter().map(|s| s.null_count_opt()).sum::<Option<u64>>() {
            nulls.put(path, count.to_string());
        }
        // Row groups of nothing but NULL have no bounds; any other group without one leaves the file without.
        let valued: Vec<&&Statistics> =
            (all.iter().zip(groups)).filter(|(s, g)| s.null_count_opt() != Some(g.num_rows() as u64)).map(|(s, _)| s).collect();
        if let Some(bounds) = valued.iter().map(|s| Bound::pair(s, column)).collect::<Option<Vec<_>>>() {
            let lowest = bounds.iter().map(|(low, _)| low).min_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
            let highest = bounds.iter().map(|(_, high)| high).max_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
            if let Some(text) = lowest.and_then(|b| b.low(column)) {
                min.put(path, text);
            }
            if let Some(text) = highest.and_then(|b| b.high(column)) {
                max.put(path, text);
            }
        }
    }
    let rows: i64 = groups.iter().map(|g| g.num_rows()).sum();
    let mut out = format!("{{\"numRecords\":{rows},\"minValues\":");
    min.write(&mut out);
    out.push_str(",\"maxValues\":");
    max.write(&mut out);
    out.push_str(",\"nullCount\":");
    nulls.write(&mut out);
    out.push('}');
    out
}

/// A bound in a form that orders as the column does.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Bound {
    Whole(i128),
    Float(f64),
    /// Shown as the shortest text of 32 bits.
    Single(f32),
    Text(String),
}

impl Bound {
    fn pair(stats: &Statistics, column: &ColumnDescriptor) -> Option<(Bound, Bound)> {
        let logical = column.logical_type_ref();
        Some(match stats {
            Statistics::Int32(s) => (Bound::Whole((*s.min_opt()?).into()), Bound::Whole((*s.max_opt()?).into())),
            Statistics::Int64(s) => (Bound::Whole((*s.min_opt()?).into()), Bound::Whole((*s.max_opt()?).into())),
            Statistics::Float(s) => (Bound::Single(*s.min_opt()?), Bound::Single(*s.max_opt()?)),
            Statistics::Double(s) => (Bound::Float(*s.min_opt()?), Bound::Float(*s.max_opt()?)),
            Statistics::ByteArray(s) if matches!(logical, Some(LogicalType::String)) => {
                let text = |b: &parquet::data_type::ByteArray| std::str::from_utf8(b.as_bytes()).ok().map(|t| Bound::Text(t.to_owned()));
                (text(s.min_opt()?)?, text(s.max_opt()?)?)
            }
            Statistics::FixedLenByteArray(s) if matches!(logical, Some(LogicalType::Decimal(_))) => {
                (Bound::Whole(big_endian(s.min_opt()?.as_bytes())?), Bound::Whole(big_endian(s.max_opt()?.as_bytes())?))
            }
            _ => return None,
        })
    }

    /// As a lower bound in JSON.
    fn low(&self, column: &ColumnDescriptor) -> Option<String> {
        match self {
            Bound::Text(t) => Some(quote(&t.chars().take(CHARACTERS).collect::<String>())),
            other => other.number(column, 0),
        }
    }

    /// As an upper bound in JSON.
    fn high(&self, column: &ColumnDescriptor) -> Option<String> {
        match self {
            Bound::Text(t) => ceiling(t).map(|t| quote(&t)),
            other => other.number(column, 999),
        }
    }

    /// `rounding` microseconds are added before an instant is cut to milliseconds.
    fn number(&self, column: &ColumnDescriptor, rounding: i64) -> Option<String> {
        let v = match self {
            Bound::Float(v) => return v.is_finite().then(|| serde_json::to_string(v).ok())?,
            Bound::Single(v) => return v.is_finite().then(|| serde_json::to_string(v).ok())?,
            Bound::Text(_) => return None,
            Bound::Whole(v) => *v,
        };
        match column.logical_type_ref() {
            Some(LogicalType::Date) => {
                let date = NaiveDate::from_epoch_days(i32::try_from(v).ok()?)?;
                Some(format!("\"{}\"", date.format("%Y-%m-%d")))
            }
            Some(LogicalType::Timestamp(t)) => {
                let v = i64::try_from(v).ok()?;
                let micros = match t.unit {
                    TimeUnit::MILLIS => v.checked_mul(1000)?,
                    TimeUnit::MICROS => v,
                    TimeUnit::NANOS => v.div_euclid(1000).checked_add(i64::from(rounding > 0 && v.rem_euclid(1000) > 0))?,
                };
                let at = DateTime::from_timestamp_millis(micros.checked_add(rounding)?.div_euclid(1000))?;
                Some(format!("\"{}{}\"", at.format("%Y-%m-%dT%H:%M:%S%.3f"), if t.is_adjusted_to_u_t_c { "Z" } else { "" }))
            }
            Some(LogicalType::Decimal(d)) => Some(decimal(v, d.scale)),
            Some(LogicalType::Integer(_)) | None if matches!(column.physical_type(), Type::INT32 | Type::INT64) => Some(v.to_string()),
            _ => None,
        }
    }
}

fn big_endian(bytes: &[u8]) -> Option<i128> {
    let mut wide = [if bytes.first()? & 0x80 == 0 { 0u8 } else { 0xff }; 16];
    let from = 16usize.checked_sub(bytes.len())?;
    wide[from..].copy_from_slice(bytes);
    Some(i128::from_be_bytes(wide))
}

fn decimal(v: i128, scale: i32) -> String {
    if scale <= 0 {
        return format!("{v}{}", if v == 0 { String::new() } else { "0".repeat(scale.unsigned_abs() as usize) });
    }
    let digits = format!("{:0width$}", v.unsigned_abs(), width = scale as usize + 1);
    let (whole, part) = digits.split_at(digits.len() - scale as usize);
    format!("{}{whole}.{part}", if v < 0 { "-" } else { "" })
}

/// The shortest text of at most 32 characters that is not below `text`: cut, and its last character raised.
fn ceiling(text: &str) -> Option<String> {
    let mut cut: Vec<char> = text.chars().take(CHARACTERS + 1).collect();
    if cut.len() <= CHARACTERS {
        return Some(text.to_owned());
    }
    cut.truncate(CHARACTERS);
    while let Some(last) = cut.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            c => char::from_u32(c as u32 + 1),
        };
        if let Some(next) = next {
            cut.push(next);
            return Some(cut.into_iter().collect());
        }
    }
    None
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Nested JSON objects whose leaves are JSON already: numbers keep all their digits.
#[derive(Debug, Default)]
struct Tree(BTreeMap<String, Node>);

#[derive(Debug)]
enum Node {
    Leaf(String),
    Branch(Tree),
}

impl Tree {
    fn put(&mut self, path: &[String], json: String) {
        match path {
            [] => {}
            [last] => {
                self.0.insert(last.clone(), Node::Leaf(json));
            }
            [first, rest @ ..] => {
                let node = self.0.entry(first.clone()).or_insert_with(|| Node::Branch(Tree::default()));
                if let Node::Branch(tree) = node {
                    tree.put(rest, json);
                }
            }
        }
    }

    fn write(&self, out: &mut String) {
        out.push('{');
        for (i, (name, node)) in self.0.iter().enumerate() {
            let _ = write!(out, "{}{}:", if i > 0 { "," } else { "" }, quote(name));
            match node {
                Node::Leaf(json) => out.push_str(json),
                Node::Branch(tree) => tree.write(out),
            }
        }
        out.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_bounds_of_text_stay_above() {
        assert_eq!(ceiling("short").unwrap(), "short");
        let long = "a".repeat(40);
        let up = ceiling(&long).unwrap();
        assert_eq!(up, format!("{}b", "a".repeat(31)));
        assert!(up > long);
        let edge = format!("{}{}", "é".repeat(31), "\u{10ffff}\u{10ffff}");
        assert_eq!(ceiling(&edge).unwrap(), format!("{}ê", "é".repeat(30)));
        assert_eq!(ceiling(&"\u{10ffff}".repeat(33)), None);
        let gap = format!("{}\u{d7ff}x", "a".repeat(31));
        assert_eq!(ceiling(&gap).unwrap(), format!("{}\u{e000}", "a".repeat(31)));
    }

    #[test]
    fn decimals_keep_all_digits() {
        assert_eq!(decimal(-5, 2), "-0.05");
        assert_eq!(decimal(99999999999999999999999999999999999999, 10), "9999999999999999999999999999.9999999999");
        assert_eq!(decimal(7, 0), "7");
        assert_eq!(big_endian(&[0xff, 0xfb]), Some(-5));
    }
}
