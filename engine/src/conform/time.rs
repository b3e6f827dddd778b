//! Dates, timestamps and times of day from text.
//!
//! ISO 8601 and fixed-width formats (`%d/%m/%Y %H:%M:%S`) are read by position; every other format is chrono's. Years are
//! 0001 to 9999. Fractions are kept to the microsecond, what is finer is cut. A local time that a zone skipped is refused;
//! one that a zone had twice is the earlier instant.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::format::{Item, Parsed, StrftimeItems};
use chrono::{NaiveDate, NaiveTime, Offset, TimeZone, Timelike};
use chrono_tz::Tz;

use super::epoch::Epoch;

pub const MICROS_PER_SECOND: i64 = 1_000_000;
pub const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// One way of writing a date, a timestamp or a time.
#[derive(Debug, Clone)]
pub struct Format {
    pub text: String,
    fixed: Option<Fixed>,
    epoch: Option<Epoch>,
    items: Vec<Item<'static>>,
    /// Without an hour a timestamp is midnight.
    has_time: bool,
}

/// Why there is no timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoTime {
    /// The text is not of the format, or names a day or time that does not exist.
    Text,
    /// The zone's clocks skipped this local time.
    Gap,
}

impl Format {
    /// `None` when chrono does not know a specifier.
    pub fn new(text: &str) -> Option<Self> {
        if let Some(epoch) = Epoch::new(text) {
            return Some(Format { text: text.to_owned(), fixed: None, epoch: Some(epoch), items: vec![], has_time: true });
        }
        let items = StrftimeItems::new(text).parse_to_owned().ok()?;
        let has_time = items.iter().any(|item| match item {
            Item::Numeric(n, _) => matches!(n, chrono::format::Numeric::Hour | chrono::format::Numeric::Hour12),
            Item::Fixed(f) => matches!(f, chrono::format::Fixed::RFC2822 | chrono::format::Fixed::RFC3339),
            _ => false,
        });
        Some(Format { text: text.to_owned(), fixed: Fixed::new(text), epoch: None, items, has_time })
    }

    /// Reads whole numbers, such as `epoch_ms`.
    pub fn is_epoch(&self) -> bool {
        self.epoch.is_some()
    }

    fn parse(&self, text: &[u8]) -> Option<Parsed> {
        let mut parsed = Parsed::new();
        chrono::format::parse(&mut parsed, std::str::from_utf8(text).ok()?, self.items.iter()).ok()?;
        Some(parsed)
    }
}

/// Days since 1970-01-01 of an ISO date.
#[inline]
pub fn iso_date(text: &[u8]) -> Option<i32> {
    if text.len() != 10 {
        return None;
    }
    date_part(text)
}

/// Days since 1970-01-01 in the given format.
pub fn date(text: &[u8], format: &Format) -> Option<i32> {
    if let Some(local) = format.fixed.as_ref().and_then(|f| f.read(text)) {
        return local.days;
    }
    if let Some(epoch) = format.epoch {
        return i32::try_from(epoch.micros(text)?.div_euclid(MICROS_PER_DAY)).ok();
    }
    days(format.parse(text)?.to_naive_date().ok()?)
}

/// Microseconds since the epoch of an ISO timestamp: a date, or a date, `T` or a space, and `HH:MM[:SS[.fraction]]`; then
/// nothing, `Z`, `UTC` or an offset. Without an offset the time is local to `zone`.
#[inline]
pub fn iso_timestamp(text: &[u8], zone: &Zone) -> Result<i64, NoTime> {
    let days = text.get(..10).and_then(date_part).ok_or(NoTime::Text)?;
    let midnight = i64::from(days) * MICROS_PER_DAY;
    let Some(separator) = text.get(10) else {
        return zone.instant(midnight);
    };
    if !matches!(separator, b'T' | b' ' | b't') {
        return Err(NoTime::Text);
    }
    let (micros, used) = time_part(&text[11..]).ok_or(NoTime::Text)?;
    let rest = &text[11 + used..];
    if rest.is_empty() {
        return zone.instant(midnight + micros);
    }
    let offset = offset(rest).ok_or(NoTime::Text)?;
    Ok(midnight + micros - i64::from(offset) * MICROS_PER_SECOND)
}

/// Microseconds since the epoch in the given format; without an offset (`%z`) or an epoch (`%s`) in it, local to `zone`.
pub fn timestamp(text: &[u8], format: &Format, zone: &Zone) -> Result<i64, NoTime> {
    if let Some(Local { days: Some(days), micros: Some(micros) }) = format.fixed.as_ref().and_then(|f| f.read(text)) {
        return zone.instant(i64::from(days) * MICROS_PER_DAY + micros);
    }
    if let Some(epoch) = format.epoch {
        return epoch.micros(text).ok_or(NoTime::Text);
    }
    let parsed = format.parse(text).ok_or(NoTime::Text)?;
    let offset = parsed.offset().or(parsed.timestamp().map(|_| 0));
    let local = if format.has_time || parsed.timestamp().is_some() {
        parsed.to_naive_datetime_with_offset(offset.unwrap_or(0)).map_err(|_| NoTime::Text)?
    } else {
        parsed.to_naive_date().map_err(|_| NoTime::Text)?.and_time(NaiveTime::MIN)
    };
    let days = days(local.date()).ok_or(NoTime::Text)?;
    let micros = i64::from(days) * MICROS_PER_DAY + micros_of(local.time()).ok_or(NoTime::Text)?;
    match offset {
        Some(offset) => Ok(micros - i64::from(offset) * MICROS_PER_SECOND),
        None => zone.instant(micros),
    }
}

/// Microseconds since midnight of `HH:MM[:SS[.fraction]]`.
pub fn iso_time(text: &[u8]) -> Option<i64> {
    let (micros, used) = time_part(text)?;
    (used == text.len()).then_some(micros)
}

/// Microseconds since midnight in the given format.
pub fn time(text: &[u8], format: &Format) -> Option<i64> {
    if let Some(local) = format.fixed.as_ref().filter(|f| f.hour.is_some()).and_then(|f| f.read(text)) {
        return local.micros;
    }
    if format.is_epoch() {
        return None;
    }
    micros_of(format.parse(text)?.to_naive_time().ok()?)
}

/// The stored form of a time of day: `HH:MM:SS`, and six digits of fraction where there is one. Sorts as time does.
pub struct TimeText(pub i64);

impl fmt::Display for TimeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, fraction) = (self.0 / MICROS_PER_SECOND, self.0 % MICROS_PER_SECOND);
        write!(f, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
        if fraction != 0 {
            write!(f, ".{fraction:06}")?;
        }
        Ok(())
    }
}

/// A time zone that remembers the offset of the days it has met. A day within which the zone's clocks do not change has one
/// offset; only the days on which they do are looked up value by value.
#[derive(Debug)]
pub struct Zone {
    tz: Option<Tz>,
    /// Direct-mapped by day. Day and offset share a word, so that threads need no lock.
    days: Box<[AtomicU64]>,
}

/// Slots of `Zone::days`: over five years of days.
const SLOTS: usize = 2048;
/// Offset of a slot's day when it has more than one.
const CHANGES: i32 = i32::MAX;

impl Zone {
    /// UTC when there is none.
    pub fn new(tz: Option<Tz>) -> Self {
        let tz = tz.filter(|tz| *tz != Tz::UTC);
        // A day that no date has marks an empty slot.
        let slots = if tz.is_some() { SLOTS } else { 0 };
        Zone { tz, days: (0..slots).map(|_| AtomicU64::new(pack(i32::MIN, 0))).collect() }
    }

    pub fn name(&self) -> &'static str {
        self.tz.map_or("UTC", |tz| tz.name())
    }

    /// The instant of local microseconds since 1970-01-01 00:00.
    #[inline]
    pub fn instant(&self, local: i64) -> Result<i64, NoTime> {
        let Some(tz) = self.tz else { return Ok(local) };
        // Years 0001 to 9999: the day fits.
        let day = local.div_euclid(MICROS_PER_DAY) as i32;
        let slot = &self.days[day.rem_euclid(SLOTS as i32) as usize];
        let packed = slot.load(Ordering::Relaxed);
        let mut offset = packed as u32 as i32;
        if (packed >> 32) as u32 as i32 != day {
            offset = offset_of_day(tz, day).unwrap_or(CHANGES);
            slot.store(pack(day, offset), Ordering::Relaxed);
        }
        if offset == CHANGES {
            offset = offset_at(tz, local).ok_or(NoTime::Gap)?;
        }
        Ok(local.saturating_sub(i64::from(offset) * MICROS_PER_SECOND))
    }
}

fn pack(day: i32, offset: i32) -> u64 {
    (u64::from(day as u32) << 32) | u64::from(offset as u32)
}

/// The one offset of a local day, if it has just one.
#[cold]
fn offset_of_day(tz: Tz, day: i32) -> Option<i32> {
    let start = i64::from(day) * MICROS_PER_DAY;
    let naive = |micros: i64| chrono::DateTime::from_timestamp_micros(micros).map(|t| t.naive_utc());
    let first = tz.offset_from_local_datetime(&naive(start)?).single()?.fix().local_minus_utc();
    let last = tz.offset_from_local_datetime(&naive(start + MICROS_PER_DAY - 1)?).single()?.fix().local_minus_utc();
    (first == last).then_some(first)
}

/// `None` in a gap; the earlier instant of two.
fn offset_at(tz: Tz, local: i64) -> Option<i32> {
    let naive = chrono::DateTime::from_timestamp_micros(local)?.naive_utc();
    Some(tz.offset_from_local_datetime(&naive).earliest()?.fix().local_minus_utc())
}

/// `YYYY-MM-DD` at the start; checks the calendar.
#[inline]
fn date_part(text: &[u8]) -> Option<i32> {
    let b: &[u8; 10] = text.first_chunk()?;
    if b[4] != b'-' || b[7] != b'-' {
        return None;
    }
    let d = |i: usize| u32::from(b[i].wrapping_sub(b'0'));
    let digits = [d(0), d(1), d(2), d(3), d(5), d(6), d(8), d(9)];
    if digits.iter().fold(false, |bad, d| bad | (*d > 9)) {
        return None;
    }
    civil(d(0) * 1000 + d(1) * 100 + d(2) * 10 + d(3), d(5) * 10 + d(6), d(8) * 10 + d(9))
}

/// `HH:MM[:SS[.fraction]]` at the start: microseconds of the day, and how many bytes it took.
#[inline]
fn time_part(text: &[u8]) -> Option<(i64, usize)> {
    let hour = two(text, 0)?;
    if text.get(2) != Some(&b':') {
        return None;
    }
    let minute = two(text, 3)?;
    if text.get(5) != Some(&b':') {
        return Some((clock(hour, minute, 0)?, 5));
    }
    let micros = clock(hour, minute, two(text, 6)?)?;
    if !matches!(text.get(8), Some(b'.' | b',')) {
        return Some((micros, 8));
    }
    let digits = text[9..].iter().take_while(|b| b.is_ascii_digit()).count();
    if !(1..=9).contains(&digits) {
        return None;
    }
    let fraction = (0..6).fold(0, |value, i| value * 10 + if i < digits { i64::from(text[9 + i] - b'0') } else { 0 });
    Some((micros + fraction, 9 + digits))
}

/// Seconds east of UTC: `Z`, `UTC`, `+HH`, `+HHMM`, `+HH:MM`, after a space or none.
fn offset(text: &[u8]) -> Option<i32> {
    let text = text.strip_prefix(b" ").unwrap_or(text);
    if matches!(text, b"Z" | b"z" | b"UTC" | b"utc") {
        return Some(0);
    }
    let sign = match text.first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let minutes = match (text.len(), text.get(3)) {
        (3, None) => 0,
        (5, _) => two(text, 3)?,
        (6, Some(b':')) => two(text, 4)?,
        _ => return None,
    };
    let hours = two(text, 1)?;
    (hours <= 18 && minutes < 60).then(|| sign * (hours * 3600 + minutes * 60) as i32)
}

#[inline]
fn two(text: &[u8], at: usize) -> Option<u32> {
    let (a, b) = (text.get(at)?.wrapping_sub(b'0'), text.get(at + 1)?.wrapping_sub(b'0'));
    (a <= 9 && b <= 9).then(|| u32::from(a) * 10 + u32::from(b))
}

#[inline]
fn clock(hour: u32, minute: u32, second: u32) -> Option<i64> {
    (hour < 24 && minute < 60 && second < 60).then(|| i64::from(hour * 3600 + minute * 60 + second) * MICROS_PER_SECOND)
}

/// Days since 1970-01-01 of a date of the calendar, years 1 to 9999.
#[inline]
fn civil(year: u32, month: u32, day: u32) -> Option<i32> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => return None,
    };
    if day == 0 || day > length || year == 0 || year > 9999 {
        return None;
    }
    // Years that begin in March put the leap day last (Hinnant, days_from_civil).
    let shifted = month <= 2;
    let y = (year - u32::from(shifted)) as i32;
    let m = if shifted { month + 9 } else { month - 3 } as i32;
    Some(365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day as i32 - 1 - 719_468)
}

fn days(date: NaiveDate) -> Option<i32> {
    use chrono::Datelike;
    civil(u32::try_from(date.year()).ok()?, date.month(), date.day())
}

/// Leap seconds have no place in a day of 86,400.
fn micros_of(time: NaiveTime) -> Option<i64> {
    let nanos = time.nanosecond();
    (nanos < 1_000_000_000).then(|| i64::from(time.num_seconds_from_midnight()) * MICROS_PER_SECOND + i64::from(nanos / 1000))
}

/// What a format gives: a day, a time of day, or both.
struct Local {
    days: Option<i32>,
    micros: Option<i64>,
}

/// A format of four-digit years, two-digit fields and ASCII text between them: every field has its place.
#[derive(Debug, Clone)]
struct Fixed {
    length: usize,
    year: Option<usize>,
    month: Option<usize>,
    day: Option<usize>,
    hour: Option<usize>,
    minute: Option<usize>,
    second: Option<usize>,
    literals: Vec<(usize, u8)>,
}

impl Fixed {
    fn new(format: &str) -> Option<Fixed> {
        let format = format.replace("%F", "%Y-%m-%d").replace("%T", "%H:%M:%S").replace("%R", "%H:%M");
        let mut fixed = Fixed { length: 0, year: None, month: None, day: None, hour: None, minute: None, second: None, literals: vec![] };
        let mut bytes = format.bytes();
        while let Some(b) = bytes.next() {
            let at = fixed.length;
            let (field, width) = match (b, (b == b'%').then(|| bytes.next()).flatten()) {
                (b'%', Some(b'Y')) => (&mut fixed.year, 4),
                (b'%', Some(b'm')) => (&mut fixed.month, 2),
                (b'%', Some(b'd')) => (&mut fixed.day, 2),
                (b'%', Some(b'H')) => (&mut fixed.hour, 2),
                (b'%', Some(b'M')) => (&mut fixed.minute, 2),
                (b'%', Some(b'S')) => (&mut fixed.second, 2),
                (b, None) if b != b'%' && b.is_ascii() => {
                    fixed.literals.push((at, b));
                    fixed.length += 1;
                    continue;
                }
                _ => return None,
            };
            // A field given twice must agree with itself: chrono's to check.
            if field.replace(at).is_some() {
                return None;
            }
            fixed.length += width;
        }
        let dated = fixed.year.is_some() && fixed.month.is_some() && fixed.day.is_some();
        let no_date = fixed.year.is_none() && fixed.month.is_none() && fixed.day.is_none();
        let whole_clock = fixed.hour.is_some() == fixed.minute.is_some() && (fixed.second.is_none() || fixed.hour.is_some());
        (whole_clock && (dated || (no_date && fixed.hour.is_some()))).then_some(fixed)
    }

    /// `None`: not for this reader; chrono decides.
    #[inline]
    fn read(&self, text: &[u8]) -> Option<Local> {
        if text.len() != self.length || self.literals.iter().any(|(at, b)| text[*at] != *b) {
            return None;
        }
        let days = match (self.year, self.month, self.day) {
            (Some(y), Some(m), Some(d)) => Some(civil(two(text, y)? * 100 + two(text, y + 2)?, two(text, m)?, two(text, d)?)?),
            _ => None,
        };
        let micros = match (self.hour, self.minute) {
            (Some(h), Some(m)) => Some(clock(two(text, h)?, two(text, m)?, self.second.map_or(Some(0), |s| two(text, s))?)?),
            // A date alone is its midnight.
            _ => Some(0),
        };
        Some(Local { days, micros })
    }
}

#[cfg(test)]
mod tests {
    use chrono::{Datelike, NaiveDateTime};
    use proptest::prelude::*;

    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::new(Some(name.parse().unwrap()))
    }

    fn utc(text: &str) -> i64 {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap().and_utc().timestamp_micros()
    }

    #[test]
    fn the_calendar_is_checked_on_every_day() {
        for day in -719_162..=2_932_896 {
            let date = NaiveDate::from_epoch_days(day).unwrap();
            if day % 17 == 0 || date.day() > 27 {
                assert_eq!(iso_date(date.to_string().as_bytes()), Some(day), "{date}");
            }
        }
        for bad in
            ["2025-02-31", "2023-02-29", "1900-02-29", "2024-13-01", "2024-00-10", "2024-01-00", "0000-01-01", "2024-1-01", "2024/01/01"]
        {
            assert_eq!(iso_date(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(iso_date(b"2024-02-29"), Some(19782));
    }

    #[test]
    fn iso_timestamps() {
        let none = Zone::new(None);
        let good = |t: &str| iso_timestamp(t.as_bytes(), &none).unwrap_or_else(|_| panic!("{t}"));
        assert_eq!(good("2025-03-01"), utc("2025-03-01 00:00:00"));
        assert_eq!(good("2025-03-01 12:34"), utc("2025-03-01 12:34:00"));
        assert_eq!(good("2025-03-01T12:34:56Z"), utc("2025-03-01 12:34:56"));
        assert_eq!(good("2025-03-01 12:34:56.5"), utc("2025-03-01 12:34:56.5"));
        assert_eq!(good("2025-03-01 12:34:56.123456789"), utc("2025-03-01 12:34:56.123456"));
        assert_eq!(good("2025-03-01T12:34:56-03:00"), utc("2025-03-01 15:34:56"));
        assert_eq!(good("2025-03-01T12:34:56+0530"), utc("2025-03-01 07:04:56"));
        assert_eq!(good("2025-03-01 12:34:56 UTC"), utc("2025-03-01 12:34:56"));
        assert_eq!(good("2025-03-01 12:34:56+00"), utc("2025-03-01 12:34:56"));
        for bad in [
            "2025-02-31 00:00:00",
            "2025-03-01 24:00:00",
            "2025-03-01 12:60:00",
            "2025-03-01 23:59:60",
            "2025-03-01 12:34:5",
            "2025-03-01 12:34:56.",
            "2025-03-01 12:34:56.1234567890",
            "2025-03-01 12:34:56+3",
            "2025-03-01 12:34:56+19:00",
            "2025-03-01x12:34:56",
            "2025-03-01 ",
            "",
        ] {
            assert_eq!(iso_timestamp(bad.as_bytes(), &none), Err(NoTime::Text), "{bad}");
        }
    }

    #[test]
    fn zones_gaps_and_doubled_hours() {
        let sao_paulo = zone("America/Sao_Paulo");
        let at = |t: &str| iso_timestamp(t.as_bytes(), &sao_paulo);
        assert_eq!(at("2025-03-01 12:00:00"), Ok(utc("2025-03-01 15:00:00")));
        // On 2018-11-04 midnight did not exist; on 2018-02-18 the hour before midnight came twice.
        assert_eq!(at("2018-11-04 00:30:00"), Err(NoTime::Gap));
        assert_eq!(at("2018-11-04 01:00:00"), Ok(utc("2018-11-04 03:00:00")));
        assert_eq!(at("2018-02-17 23:30:00"), Ok(utc("2018-02-18 01:30:00")));
        assert_eq!(at("2018-02-18 00:00:00"), Ok(utc("2018-02-18 03:00:00")));
        // An offset in the text wins over the zone.
        assert_eq!(at("2018-11-04T00:30:00Z"), Ok(utc("2018-11-04 00:30:00")));
        let format = Format::new("%d/%m/%Y %H:%M").unwrap();
        assert_eq!(timestamp(b"04/11/2018 00:30", &format, &sao_paulo), Err(NoTime::Gap));
    }

    #[test]
    fn zones_agree_with_chrono_at_every_quarter_of_an_hour() {
        for name in ["Europe/Lisbon", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"] {
            let (zone, tz) = (zone(name), name.parse::<Tz>().unwrap());
            let start = utc("2023-12-31 00:00:00");
            for quarter in 0..(3 * 366 * 96) {
                let local = start + quarter * 900 * MICROS_PER_SECOND;
                let naive = chrono::DateTime::from_timestamp_micros(local).unwrap().naive_utc();
                let expected = tz.from_local_datetime(&naive).earliest().map(|t| t.timestamp_micros());
                assert_eq!(zone.instant(local).ok(), expected, "{name} {naive}");
            }
        }
    }

    #[test]
    fn formats_by_position_and_by_chrono() {
        let f = |t: &str| Format::new(t).unwrap();
        let none = Zone::new(None);
        assert!(f("%d/%m/%Y").fixed.is_some() && f("%Y%m%d").fixed.is_some() && f("%F %T").fixed.is_some());
        assert!(f("%d/%m/%y").fixed.is_none() && f("%e %b %Y").fixed.is_none() && f("%d %d %m %Y").fixed.is_none());
        assert_eq!(date(b"28/02/2025", &f("%d/%m/%Y")), iso_date(b"2025-02-28"));
        assert_eq!(date(b"8/2/2025", &f("%d/%m/%Y")), iso_date(b"2025-02-08"));
        assert_eq!(date(b"31/02/2025", &f("%d/%m/%Y")), None);
        assert_eq!(date(b"3 Feb 2025", &f("%e %b %Y")), iso_date(b"2025-02-03"));
        assert_eq!(date(b"03/02/2025x", &f("%d/%m/%Y")), None);
        assert_eq!(timestamp(b"20250301", &f("%Y%m%d"), &none), Ok(utc("2025-03-01 00:00:00")));
        assert_eq!(timestamp(b"1 Mar 2025", &f("%d %b %Y"), &none), Ok(utc("2025-03-01 00:00:00")));
        assert_eq!(timestamp(b"1740831296", &f("%s"), &zone("Asia/Tokyo")), Ok(utc("2025-03-01 12:14:56")));
        assert_eq!(timestamp(b"2025-03-01 12:00:00 +0200", &f("%Y-%m-%d %H:%M:%S %z"), &none), Ok(utc("2025-03-01 10:00:00")));
        assert_eq!(timestamp(b"03/01/2025 01:05 PM", &f("%m/%d/%Y %I:%M %p"), &none), Ok(utc("2025-03-01 13:05:00")));
        assert!(Format::new("%Q").is_none());
    }

    #[test]
    fn times_have_one_stored_form() {
        let stored = |t: &str| iso_time(t.as_bytes()).map(|m| TimeText(m).to_string());
        assert_eq!(stored("09:05").as_deref(), Some("09:05:00"));
        assert_eq!(stored("23:59:59.5").as_deref(), Some("23:59:59.500000"));
        assert_eq!(stored("24:00"), None);
        assert_eq!(stored("9:05"), None);
        assert_eq!(time(b"9:05 PM", &Format::new("%I:%M %p").unwrap()).map(|m| TimeText(m).to_string()).as_deref(), Some("21:05:00"));
        assert_eq!(time(b"0905", &Format::new("%H%M").unwrap()).map(|m| TimeText(m).to_string()).as_deref(), Some("09:05:00"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn dates_agree_with_chrono(text in "[0-9]{4}-[0-3][0-9]-[0-4][0-9]", slash in "[0-4][0-9]/[01][0-9]/[0-9]{4}") {
            let slow = |t: &str, f: &str| NaiveDate::parse_from_str(t, f).ok().map(|d| d.to_epoch_days());
            let known = |t: &str| t != "0000";
            if known(&text[..4]) {
                prop_assert_eq!(iso_date(text.as_bytes()), slow(&text, "%Y-%m-%d"));
            }
            if known(&slash[6..]) {
                prop_assert_eq!(date(slash.as_bytes(), &Format::new("%d/%m/%Y").unwrap()), slow(&slash, "%d/%m/%Y"));
            }
        }
        #[test]
        fn timestamps_agree_with_chrono(
            text in "(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-5][0-9](\\.[0-9]{1,9})?",
            offset in "(Z|[-+](0[0-9]|1[0-4]):[0-5][0-9])?",
        ) {
            let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"].iter().find_map(|f| NaiveDateTime::parse_from_str(&text, f).ok());
            let east: i64 = match offset.as_str() {
                "" | "Z" => 0,
                o => {
                    let minutes: i64 = o[1..3].parse::<i64>().unwrap() * 60 + o[4..6].parse::<i64>().unwrap();
                    if o.starts_with('-') { -minutes } else { minutes }
                }
            };
            let slow = naive.map(|n| n.and_utc().timestamp_micros() - east * 60 * MICROS_PER_SECOND);
            let text = format!("{text}{offset}");
            prop_assert_eq!(iso_timestamp(text.as_bytes(), &Zone::new(None)).ok(), slow);
        }
    }
}
