//! Points in time as the command line takes them: dates, times, and how long ago. No clock: `now` is passed in.

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use smelt_connectors::sources::Window;

const HELP: &str = "write a date (2024-05-01), a time (2024-05-01T06:00:00Z), or how long ago (30m, 12h, 3d, 2w)";

/// The window of `--since` and `--until`; a date for the latter is the whole day. Dates are UTC.
///
/// # Errors
/// The option that is wrong, and why.
pub fn window(since: Option<&str>, until: Option<&str>, now: DateTime<Utc>) -> Result<Window, (&'static str, String)> {
    let since = since.map(|text| point(text, now)).transpose().map_err(|e| ("--since", e))?;
    let until = until.map(|text| point(text, now)).transpose().map_err(|e| ("--until", e))?;
    let window = Window { since: since.map(|(start, _)| start), until: until.map(|(_, end)| end) };
    match (window.since, window.until) {
        (Some(a), Some(b)) if a >= b => Err(("--until", "it lies before --since, so that no file is meant".into())),
        _ => Ok(window),
    }
}

/// Start and end of what `text` names, in milliseconds: a day has a length, a time has none.
fn point(text: &str, now: DateTime<Utc>) -> Result<(i64, i64), String> {
    let text = text.trim();
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        let start = date.and_time(chrono::NaiveTime::MIN).and_utc();
        let end = start.checked_add_days(Days::new(1)).unwrap_or(start);
        return Ok((start.timestamp_millis(), end.timestamp_millis()));
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok((time.timestamp_millis(), time.timestamp_millis()));
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(format!("`{text}` is no point in time; {HELP}")),
    };
    let ago = number.parse().ok().and_then(|n: i64| n.checked_mul(seconds)).and_then(TimeDelta::try_seconds);
    let time = ago.and_then(|ago| now.checked_sub_signed(ago)).ok_or_else(|| format!("`{text}` is no point in time; {HELP}"))?;
    Ok((time.timestamp_millis(), time.timestamp_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Shown = (Option<String>, Option<String>);

    fn read(since: Option<&str>, until: Option<&str>) -> Result<Shown, (&'static str, String)> {
        let now = DateTime::parse_from_rfc3339("2024-05-10T06:00:00Z").unwrap().to_utc();
        let show = |ms: i64| DateTime::<Utc>::from_timestamp_millis(ms).unwrap().format("%Y-%m-%dT%H:%M").to_string();
        window(since, until, now).map(|w| (w.since.map(show), w.until.map(show)))
    }

    #[test]
    fn dates_times_and_how_long_ago() {
        let some = |a: &str, b: &str| Ok((Some(a.to_owned()), Some(b.to_owned())));
        assert_eq!(read(Some("2024-05-01"), Some("2024-05-01")), some("2024-05-01T00:00", "2024-05-02T00:00"));
        assert_eq!(read(Some("3d"), Some("12h")), some("2024-05-07T06:00", "2024-05-09T18:00"));
        assert_eq!(read(Some("2024-05-01T02:00:00+02:00"), None), Ok((Some("2024-05-01T00:00".into()), None)));
        assert_eq!(read(None, None), Ok((None, None)));
    }

    #[test]
    fn mistakes_name_their_option() {
        assert_eq!(read(Some("yesterday"), None).unwrap_err().0, "--since");
        assert!(read(Some("2024-13-01"), None).is_err() && read(Some("5"), None).is_err() && read(Some(""), None).is_err());
        assert_eq!(read(None, Some("99999999999999999999d")).unwrap_err().0, "--until");
        assert_eq!(read(Some("2024-05-02"), Some("2024-05-01")).unwrap_err().0, "--until");
    }
}
