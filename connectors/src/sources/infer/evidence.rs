//! What the values of one column of text have in common. Knows no JSON and no columns.

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use smelt_engine::types::ContractType;

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

/// What the values of one column allow.
#[derive(Debug, Clone)]
pub(super) struct Evidence {
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
    /// Takes in one value.
    pub fn observe(&mut self, text: &str) {
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

    /// The type of a column of text, and its formats.
    pub fn decide(&self) -> (ContractType, Vec<String>) {
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

    /// The type, where all values are numbers.
    pub fn number(&self) -> Option<ContractType> {
        if self.integer {
            return Some(ContractType::Int64);
        }
        if let Some((whole, places)) = self.decimal {
            let precision = (whole + places).max(MIN_PRECISION);
            return Some(ContractType::Decimal(precision as u8, places as i8));
        }
        self.double.then_some(ContractType::Double)
    }

    /// The type and its formats, where all values are dates or timestamps.
    pub fn time(&self) -> Option<(ContractType, Vec<String>)> {
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
