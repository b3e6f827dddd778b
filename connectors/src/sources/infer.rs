//! A contract for data that has none: the narrowest type that holds every sampled value exactly, and nothing guessed.
//!
//! Knows text and JSON values; knows no file and no source. What it proposes is shown by `smelt plan`, for the user to correct.

use arrow::array::{Array, AsArray};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use smelt_engine::contract::{Column, hidden};
use smelt_engine::types::ContractType;

use super::json::scan::{Brackets, Scanner, Stop, Token, unescape};
use super::json::{JsonOptions, Layout, Step, detect, parse_path, show_path};

/// Records of a JSON sample that are looked at.
const MAX_RECORDS: usize = 20_000;
/// An object with more keys than this is a map in disguise.
const MAX_FIELDS: usize = 200;
/// Decimals with more places than this are measurements, and doubles.
const MAX_SCALE: usize = 6;
/// Digits that an inferred decimal has at least: prices grow.
const MIN_PRECISION: usize = 18;

/// Date formats tried after ISO 8601. Neighbours marked as twins read the same text as different days.
const DATES: &[(&str, bool)] = &[
    ("%Y/%m/%d", false),
    ("%d/%m/%Y", true),
    ("%m/%d/%Y", true),
    ("%d-%m-%Y", true),
    ("%m-%d-%Y", true),
    ("%d/%m/%y", true),
    ("%m/%d/%y", true),
    ("%d.%m.%Y", false),
    ("%d.%m.%y", false),
    ("%d %b %Y", false),
    ("%d-%b-%Y", false),
    ("%b %d, %Y", false),
];

/// Timestamp formats tried after ISO 8601, likewise.
const TIMESTAMPS: &[(&str, bool)] = &[
    ("%Y-%m-%d %H:%M:%S", false),
    ("%Y-%m-%d %H:%M:%S%.f", false),
    ("%Y-%m-%d %H:%M", false),
    ("%Y-%m-%dT%H:%M", false),
    ("%Y-%m-%d %H:%M:%S%:z", false),
    ("%Y-%m-%d %H:%M:%S%.f%:z", false),
    ("%Y-%m-%d %H:%M:%S %z", false),
    ("%Y-%m-%d %H:%M:%S%.f %z", false),
    ("%Y-%m-%dT%H:%M:%S%z", false),
    ("%Y-%m-%dT%H:%M:%S%.f%z", false),
    ("%Y-%m-%d %H:%M:%S UTC", false),
    ("%Y-%m-%d %H:%M:%S%.f UTC", false),
    ("%Y/%m/%d %H:%M", false),
    ("%Y/%m/%d %H:%M:%S", false),
    ("%d/%m/%Y %H:%M", true),
    ("%m/%d/%Y %H:%M", true),
    ("%d/%m/%Y %H:%M:%S", true),
    ("%m/%d/%Y %H:%M:%S", true),
    ("%d-%m-%Y %H:%M", true),
    ("%m-%d-%Y %H:%M", true),
    ("%d-%m-%Y %H:%M:%S", true),
    ("%m-%d-%Y %H:%M:%S", true),
    ("%d/%m/%Y %I:%M %p", true),
    ("%m/%d/%Y %I:%M %p", true),
    ("%d/%m/%Y %I:%M:%S %p", true),
    ("%m/%d/%Y %I:%M:%S %p", true),
    ("%d.%m.%Y %H:%M", false),
    ("%d.%m.%Y %H:%M:%S", false),
    ("%d/%b/%Y:%H:%M:%S %z", false),
];

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
    each_record(sample, |scan| root.observe(scan));
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

/// What the values of one column allow.
#[derive(Debug, Clone)]
struct Evidence {
    any: bool,
    boolean: bool,
    integer: bool,
    /// Most digits before and behind the point, while all values have one.
    decimal: Option<(usize, usize)>,
    double: bool,
    iso_date: bool,
    dates: Vec<(&'static str, bool)>,
    iso_timestamp: bool,
    timestamps: Vec<(&'static str, bool)>,
}

impl Default for Evidence {
    fn default() -> Self {
        Evidence {
            any: false,
            boolean: true,
            integer: true,
            decimal: Some((0, 0)),
            double: true,
            iso_date: true,
            dates: DATES.to_vec(),
            iso_timestamp: true,
            timestamps: TIMESTAMPS.to_vec(),
        }
    }
}

impl Evidence {
    fn observe(&mut self, text: &str) {
        self.any = true;
        self.boolean &= text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false");
        if self.integer || self.double || self.decimal.is_some() {
            self.observe_number(text);
        }
        // Nothing that is no date is looked at as one 40 times.
        let time = text.len() <= 40 && text.bytes().any(|b| b.is_ascii_digit());
        self.iso_date &= time && iso_date(text);
        self.iso_timestamp &= time && iso_timestamp(text);
        self.dates.retain(|(format, _)| time && is_date(text, format));
        self.timestamps.retain(|(format, _)| time && is_timestamp(text, format));
    }

    fn observe_number(&mut self, text: &str) {
        let number = Number::read(text);
        self.integer &= number.as_ref().is_some_and(|n| n.places.is_none() && !n.exponent && text.parse::<i64>().is_ok());
        self.decimal = match (&number, self.decimal) {
            (Some(Number { whole, places: Some(places), exponent: false, .. }), Some((w, p))) if *places <= MAX_SCALE => {
                Some((w.max(*whole), p.max(*places))).filter(|(w, p)| w + p <= 38)
            }
            _ => None,
        };
        // An id among doubles would lose digits.
        self.double &= number.is_some_and(|n| n.exponent || n.whole + n.places.unwrap_or(0) <= if n.places.is_some() { 17 } else { 15 });
    }

    fn decide(&self) -> (ContractType, Vec<String>) {
        let plain = |ty| (ty, vec![]);
        if !self.any {
            return plain(ContractType::String);
        }
        if self.boolean {
            return plain(ContractType::Boolean);
        }
        if let Some(number) = self.number() {
            return plain(number);
        }
        self.time().unwrap_or(plain(ContractType::String))
    }

    fn number(&self) -> Option<ContractType> {
        if self.integer {
            return Some(ContractType::Int64);
        }
        if let Some((whole, places)) = self.decimal {
            let precision = (whole + places).max(MIN_PRECISION);
            return Some(ContractType::Decimal(precision as u8, places as i8));
        }
        self.double.then_some(ContractType::Double)
    }

    fn time(&self) -> Option<(ContractType, Vec<String>)> {
        if self.iso_date {
            return Some((ContractType::Date, vec![]));
        }
        if self.iso_timestamp {
            return Some((ContractType::Timestamp, vec![]));
        }
        let chosen = |ty, formats: &[(&str, bool)]| match formats {
            // Day and month could be either way round: nothing is guessed.
            [(_, true), (_, true), ..] => None,
            [(format, _), ..] => Some((ty, vec![(*format).to_string()])),
            [] => None,
        };
        chosen(ContractType::Date, &self.dates).or_else(|| chosen(ContractType::Timestamp, &self.timestamps))
    }
}

/// How a number is written.
#[derive(Debug, PartialEq)]
struct Number {
    /// Digits before the point; a lone zero counts as none.
    whole: usize,
    places: Option<usize>,
    exponent: bool,
}

impl Number {
    /// `None`: no number, or one with leading zeros, which is a code.
    fn read(text: &str) -> Option<Number> {
        let text = text.strip_prefix('-').unwrap_or(text);
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
            None => (text, None),
        };
        let (whole, places) = mantissa.split_once('.').map_or((mantissa, None), |(w, p)| (w, Some(p)));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let sound =
            digits(whole) && places.is_none_or(digits) && exponent.is_none_or(digits) && (whole.len() == 1 || !whole.starts_with('0'));
        let whole = if whole == "0" { 0 } else { whole.len() };
        sound.then(|| Number { whole, places: places.map(str::len), exponent: exponent.is_some() })
    }
}

fn iso_date(text: &str) -> bool {
    is_date(text, "%Y-%m-%d")
}

/// `2025-03-01T10:00:00`, with or without fraction and zone (`Z`, `+02:00`).
fn iso_timestamp(text: &str) -> bool {
    let local = text.strip_suffix('Z').unwrap_or(text);
    is_timestamp(local, "%Y-%m-%dT%H:%M:%S%.f") || (local.len() == text.len() && is_timestamp(text, "%Y-%m-%dT%H:%M:%S%.f%:z"))
}

/// Parsing is lenient (padding, digits of a year), so the date must print as it was written.
fn is_date(text: &str, format: &str) -> bool {
    NaiveDate::parse_from_str(text, format).is_ok_and(|date| date.format(format).to_string().eq_ignore_ascii_case(text))
}

fn is_timestamp(text: &str, format: &str) -> bool {
    if let Some((before, after)) = format.split_once("%.f") {
        let format = format!("{before}{after}");
        let Some((head, rest)) = text.split_once('.') else {
            return is_timestamp(text, &format);
        };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        return (1..=9).contains(&digits) && is_timestamp(&format!("{head}{}", &rest[digits..]), &format);
    }
    let printed = if format.ends_with('z') {
        DateTime::parse_from_str(text, format).map(|t| t.format(format).to_string())
    } else {
        NaiveDateTime::parse_from_str(text, format).map(|t| t.format(format).to_string())
    };
    printed.is_ok_and(|printed| printed.eq_ignore_ascii_case(text))
}

/// Calls `see` on a scanner at each whole, sound record.
fn each_record(sample: &[u8], mut see: impl FnMut(&mut Scanner<'_>)) {
    let layout = detect(sample, true).unwrap_or(Layout::Lines);
    let mut pos = 0;
    let mut records = 0;
    if layout == Layout::Array {
        pos = sample.iter().position(|b| *b == b'[').map_or(sample.len(), |at| at + 1);
    }
    while pos < sample.len() && records < MAX_RECORDS {
        let end = match layout {
            Layout::Lines => memchr::memchr(b'\n', &sample[pos..]).map_or(sample.len(), |at| pos + at),
            _ => sample.len(),
        };
        let mut scan = Scanner::new(sample, end);
        scan.pos = pos;
        scan.space();
        let start = scan.pos;
        let sound = scan.peek() == b'{' && scan.skip(0).is_ok() && std::str::from_utf8(&sample[start..scan.pos]).is_ok();
        let behind = scan.pos;
        scan.space();
        if sound && (layout != Layout::Lines || scan.pos == end) {
            scan.pos = start;
            see(&mut scan);
            records += 1;
        }
        pos = match layout {
            Layout::Lines => end + 1,
            Layout::Objects if sound => behind,
            Layout::Objects => Brackets::default().follow(sample, start, |_, _, depth| depth == 0).max(pos + 1),
            Layout::Array => Brackets::in_array().follow(sample, start, |_, b, depth| depth == 0 || (b == b',' && depth == 1)),
        };
    }
}

/// What was seen at one place of the records.
#[derive(Debug, Default)]
struct Shape {
    text: Option<Evidence>,
    number: Option<Evidence>,
    boolean: bool,
    object: bool,
    array: bool,
    fields: Vec<(String, Shape)>,
    /// Has more fields than are kept.
    wide: bool,
    element: Option<Box<Shape>>,
}

impl Shape {
    /// Takes in the value at the cursor, which is known to be sound.
    fn observe(&mut self, scan: &mut Scanner<'_>) {
        // Sound: no Stop comes, and depth is bounded.
        let _ = self.try_observe(scan);
    }

    fn try_observe(&mut self, scan: &mut Scanner<'_>) -> Result<(), Stop> {
        match scan.peek() {
            b'{' => {
                self.object = true;
                scan.pos += 1;
                scan.space();
                let mut next = 0;
                while scan.peek() != b'}' {
                    let (start, end) = scan.key()?;
                    let name = content(&scan.block[start..end]);
                    match self.field(name, next) {
                        Some(i) => {
                            next = i + 1;
                            self.fields[i].1.try_observe(scan)?;
                        }
                        None => drop(scan.skip(0)?),
                    }
                    separator(scan);
                }
                scan.pos += 1;
            }
            b'[' => {
                self.array = true;
                scan.pos += 1;
                scan.space();
                while scan.peek() != b']' {
                    self.element.get_or_insert_default().try_observe(scan)?;
                    separator(scan);
                }
                scan.pos += 1;
            }
            _ => {
                let start = scan.pos;
                let token = scan.skip(0)?;
                let raw = &scan.block[start..scan.pos];
                match token {
                    Token::String { .. } => self.text.get_or_insert_default().observe(&content(raw)),
                    Token::Number => self.number.get_or_insert_default().observe(&String::from_utf8_lossy(raw)),
                    Token::Bool => self.boolean = true,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Index of the field, which is probably `next`.
    fn field(&mut self, name: String, next: usize) -> Option<usize> {
        if self.fields.get(next).is_some_and(|(n, _)| *n == name) {
            return Some(next);
        }
        if let Some(i) = self.fields.iter().position(|(n, _)| *n == name) {
            return Some(i);
        }
        if self.fields.len() >= MAX_FIELDS {
            self.wide = true;
            return None;
        }
        self.fields.push((name, Shape::default()));
        Some(self.fields.len() - 1)
    }

    fn has_scalars(&self) -> bool {
        self.text.is_some() || self.number.is_some() || self.boolean
    }

    /// An object each time, with a bounded set of fields.
    fn only_object(&self) -> bool {
        self.object && !self.array && !self.has_scalars() && !self.wide && !self.fields.is_empty()
    }

    /// The type, and its formats.
    fn ty(&self) -> (ContractType, Vec<String>) {
        let plain = |ty| (ty, vec![]);
        match (self.has_scalars(), self.object, self.array) {
            (true, false, false) => match (&self.text, &self.number, self.boolean) {
                // A string in quotes was meant as one, unless it is a date.
                (Some(text), None, false) => text.time().unwrap_or(plain(ContractType::String)),
                (None, Some(number), false) => plain(number.number().unwrap_or(ContractType::String)),
                (None, None, true) => plain(ContractType::Boolean),
                _ => plain(ContractType::String),
            },
            (false, false, false) => plain(ContractType::String),
            (false, true, false) if self.only_object() && self.names_fit() => {
                plain(ContractType::Struct(self.fields.iter().map(|(name, shape)| (name.clone(), shape.inner())).collect()))
            }
            (false, false, true) => match self.element.as_ref().map(|e| e.inner()) {
                None | Some(ContractType::Json) => plain(ContractType::Json),
                Some(element) => plain(ContractType::List(Box::new(element))),
            },
            _ => plain(ContractType::Json),
        }
    }

    /// The type inside of another one, where there is no place for formats, and where a string must be one.
    fn inner(&self) -> ContractType {
        match self.ty() {
            (ContractType::String, _) if self.number.is_some() || self.boolean => ContractType::Json,
            (ty, formats) if formats.is_empty() => ty,
            _ => ContractType::String,
        }
    }

    /// The names can be written in a struct type, and are told apart in any case.
    fn names_fit(&self) -> bool {
        let fits = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.as_bytes()[0].is_ascii_digit()
        };
        let mut lower: Vec<String> = self.fields.iter().map(|(n, _)| n.to_lowercase()).collect();
        lower.sort_unstable();
        self.fields.iter().all(|(name, _)| fits(name)) && lower.windows(2).all(|w| w[0] != w[1])
    }

    /// Adds the column or, flattened, the columns of this place.
    fn columns(&self, steps: &mut Vec<Step>, flatten: bool, out: &mut Vec<Column>) {
        if flatten && self.only_object() {
            for (key, shape) in &self.fields {
                steps.push(Step::Key(key.clone()));
                shape.columns(steps, flatten, out);
                steps.pop();
            }
            return;
        }
        let keys: Vec<&str> = steps.iter().filter_map(|s| if let Step::Key(k) = s { Some(k.as_str()) } else { None }).collect();
        let wanted = keys.join("_");
        let taken = |name: &str| out.iter().any(|c| c.name.eq_ignore_ascii_case(name)) || hidden::RESERVED.contains(&name);
        let mut name = wanted.clone();
        let mut n = 2;
        while taken(&name) {
            name = format!("{wanted}_{n}");
            n += 1;
        }
        let path = (steps[..] != [Step::Key(name.clone())]).then(|| show_path(steps));
        let (ty, formats) = self.ty();
        out.push(Column { formats, path, ..Column::new(name, ty) });
    }

    /// Takes the element out of the array at `steps`, and the array out of its object.
    fn take_element(&mut self, steps: &[Step]) -> Option<Shape> {
        let (Step::Key(key), rest) = steps.split_first()? else {
            return None;
        };
        let at = self.fields.iter().position(|(n, _)| n == key)?;
        if rest.is_empty() {
            return self.fields.remove(at).1.element.map(|e| *e);
        }
        let element = self.fields[at].1.take_element(rest);
        if element.is_some() && self.fields[at].1.fields.is_empty() {
            self.fields.remove(at);
        }
        element
    }
}

fn separator(scan: &mut Scanner<'_>) {
    scan.space();
    if scan.peek() == b',' {
        scan.pos += 1;
        scan.space();
    }
}

/// The content of a string given with its quotes.
fn content(raw: &[u8]) -> String {
    let mut out = Vec::with_capacity(raw.len());
    unescape(&raw[1..raw.len() - 1], &mut out);
    String::from_utf8_lossy(&out).into_owned()
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
