//! Dates and timestamps as numbers since 1970-01-01 00:00 UTC.

use super::number::int;
use super::time::{MICROS_PER_DAY, MICROS_PER_SECOND};

/// A whole number of units since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epoch {
    Days,
    /// So many of these make a second.
    PerSecond(i64),
}

impl Epoch {
    /// `None`: the format is another.
    pub fn new(format: &str) -> Option<Epoch> {
        match format {
            "epoch_days" => Some(Epoch::Days),
            "epoch_s" => Some(Epoch::PerSecond(1)),
            "epoch_ms" => Some(Epoch::PerSecond(1_000)),
            "epoch_us" => Some(Epoch::PerSecond(MICROS_PER_SECOND)),
            "epoch_ns" => Some(Epoch::PerSecond(1_000_000_000)),
            _ => None,
        }
    }

    /// Microseconds since the epoch, in years 1 to 9999; what is finer is cut.
    pub fn micros(self, text: &[u8]) -> Option<i64> {
        let number = int(text)?;
        let micros = match self {
            Epoch::Days => number.checked_mul(MICROS_PER_DAY)?,
            Epoch::PerSecond(units) if units > MICROS_PER_SECOND => number.div_euclid(units / MICROS_PER_SECOND),
            Epoch::PerSecond(units) => number.checked_mul(MICROS_PER_SECOND / units)?,
        };
        (FIRST_DAY..=LAST_DAY).contains(&micros.div_euclid(MICROS_PER_DAY)).then_some(micros)
    }
}

/// 0001-01-01 and 9999-12-31, in days since 1970-01-01.
const FIRST_DAY: i64 = -719_162;
const LAST_DAY: i64 = 2_932_896;

#[cfg(test)]
mod tests {
    use super::super::time::{Format, Zone, date, iso_date, time, timestamp};
    use super::*;

    #[test]
    fn numbers_since_the_epoch() {
        let f = |t: &str| Format::new(t).unwrap();
        let zone = Zone::new(Some(chrono_tz::Asia::Tokyo));
        let instant = 1_740_831_296_123_456;
        // An instant has no need of a zone.
        for (format, text) in [
            ("epoch_us", "1740831296123456"),
            ("epoch_ns", "1740831296123456789"),
            ("epoch_ms", "1740831296123"),
            ("epoch_s", "1740831296"),
        ] {
            let lost = instant - timestamp(text.as_bytes(), &f(format), &zone).unwrap();
            assert!((0..MICROS_PER_SECOND).contains(&lost), "{format}");
            assert_eq!(date(text.as_bytes(), &f(format)), iso_date(b"2025-03-01"), "{format}");
            assert_eq!(time(text.as_bytes(), &f(format)), None);
        }
        assert_eq!(timestamp(b"1740831296123456", &f("epoch_us"), &zone), Ok(instant));
        assert_eq!(timestamp(b"-1", &f("epoch_ms"), &zone), Ok(-1000));
        assert_eq!(date(b"-1", &f("epoch_ms")), Some(-1));
        assert_eq!(date(b"20148", &f("epoch_days")), iso_date(b"2025-03-01"));
        assert_eq!(date(b"2932896", &f("epoch_days")), iso_date(b"9999-12-31"));
        for bad in ["2932897", "1.5", "", "2025-03-01", "9223372036854775807"] {
            assert_eq!(date(bad.as_bytes(), &f("epoch_days")), None, "{bad}");
            assert!(bad.len() < 10 || timestamp(bad.as_bytes(), &f("epoch_s"), &zone).is_err(), "{bad}");
        }
    }
}
