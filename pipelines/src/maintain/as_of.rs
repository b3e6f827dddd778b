//! Points in a table's past, as users write them: `3`, `2026-01-31`, `2026-01-31T06:00:00Z`; and which table is read at which of them.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use smelt_engine::Result;
use smelt_engine::table::At;

use super::usage;

/// The versions at which a query reads tables; the newest where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AsOf {
    /// By `layer.name`.
    pub tables: BTreeMap<String, At>,
    /// For all other tables.
    pub rest: Option<At>,
}

impl AsOf {
    /// Reads `TABLE=VERSION`, `TABLE=TIMESTAMP` and `TIMESTAMP`.
    ///
    /// # Errors
    /// `Error::Pipeline` for anything else, and where two say something of the same table.
    pub fn parse(words: &[String]) -> Result<Self> {
        let mut out = AsOf::default();
        for word in words {
            let twice = match word.split_once('=') {
                Some((table, at)) => out.tables.insert(table.trim().to_lowercase(), parse(at)?).is_some(),
                None => match parse(word)? {
                    At::Version(_) => {
                        return Err(usage(
                            format!("--as-of {word}: versions are counted by each table for itself"),
                            format!("say which table, --as-of silver.orders={word}, or give a time"),
                        ));
                    }
                    time => out.rest.replace(time).is_some(),
                },
            };
            if twice {
                return Err(usage(format!("--as-of {word}: that was said before"), "give one point in time for each table"));
            }
        }
        Ok(out)
    }

    /// Where to read a table; `None` for its newest version.
    pub fn of(&self, table: &str) -> Option<At> {
        self.tables.get(table).copied().or(self.rest)
    }
}

/// A version or a time. Times without a zone are in UTC; a date is its first moment.
pub fn parse(text: &str) -> Result<At> {
    let text = text.trim();
    if let Ok(version) = text.parse() {
        return Ok(At::Version(version));
    }
    let local = |format: &str| NaiveDateTime::parse_from_str(text, format).ok();
    let midnight = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    let naive = || {
        let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
        formats.iter().find_map(|f| local(f)).or_else(midnight).map(|t| t.and_utc().timestamp_millis())
    };
    let instant = || DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_millis());
    instant().or_else(naive).map(At::Timestamp).ok_or_else(|| {
        usage(
            format!("`{text}` is neither a version nor a time"),
            "write a version such as 12, or a time such as 2026-01-31, 2026-01-31T06:00:00Z or 2026-01-31T06:00:00-03:00",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_times_are_read() {
        assert_eq!(parse("12").unwrap(), At::Version(12));
        let six = At::Timestamp(1_769_839_200_000);
        for text in ["2026-01-31T06:00:00Z", "2026-01-31 06:00", "2026-01-31T03:00:00-03:00", "2026-01-31 06:00:00.000"] {
            assert_eq!(parse(text).unwrap(), six, "{text}");
        }
        assert_eq!(parse("2026-01-31").unwrap(), At::Timestamp(1_769_817_600_000));
        assert!(parse("yesterday").unwrap_err().to_string().contains("2026-01-31"));
    }

    #[test]
    fn each_table_has_one_point_in_time() {
        let words = |w: &[&str]| AsOf::parse(&w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let as_of = words(&["silver.orders=3", "2026-01-31"]).unwrap();
        assert_eq!(as_of.of("silver.orders"), Some(At::Version(3)));
        assert_eq!(as_of.of("silver.items"), Some(At::Timestamp(1_769_817_600_000)));
        assert_eq!(AsOf::default().of("silver.items"), None);
        assert!(words(&["3"]).unwrap_err().to_string().contains("silver.orders=3"));
        assert!(words(&["a.b=3", "a.b=4"]).is_err() && words(&["a.b="]).is_err());
    }
}
