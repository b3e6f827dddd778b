//! The date that a file's path tells, for runs that take a range of dates: `dated: "%Y/%m/%d"`, or the key of a hive folder.
//!
//! Dates in paths are UTC. Knows paths only; no I/O.

use chrono::{DateTime, Days, Months, NaiveDate, TimeDelta, Utc};

/// Which files a run looks at, by their dates: `since` and later, and before `until`. Milliseconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    pub since: Option<i64>,
    pub until: Option<i64>,
}

impl Window {
    pub fn is_open(&self) -> bool {
        self.since.is_none() && self.until.is_none()
    }

    /// Whether a file lies in the window. Its date is that of its path, the whole day where that is a day, or when it was modified.
    pub fn holds(&self, dated: Option<&Dated>, path: &str, modified: i64) -> bool {
        let (start, end) = dated.and_then(|d| d.period(path)).unwrap_or((modified, modified.saturating_add(1)));
        self.since.is_none_or(|since| end > since) && self.until.is_none_or(|until| start < until)
    }
}

/// Where a path has its date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dated {
    /// The value of this hive key.
    Key(String),
    /// Anywhere in the path, in this form.
    Form(Form),
}

/// A strftime pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Text(String),
    /// Index into year, month, day, hour, minute, second.
    Field(usize),
}

/// Letters of the fields and their digits.
const FIELDS: [(char, usize); 6] = [('Y', 4), ('m', 2), ('d', 2), ('H', 2), ('M', 2), ('S', 2)];
/// What the value of a hive key may look like.
const VALUES: [&str; 9] = ["%Y-%m-%d", "%Y%m%d", "%Y-%m-%dT%H", "%Y-%m-%d-%H", "%Y%m%d%H", "%Y-%m-%dT%H:%M:%S", "%Y-%m", "%Y%m", "%Y"];

impl Dated {
    /// Reads `dated`: a pattern, or the name of a hive key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains('%') {
            return Form::parse(text).map(Dated::Form);
        }
        if text.is_empty() || text.contains(['/', '=']) {
            return Err(format!("`{text}` is neither a pattern nor the key of a folder"));
        }
        Ok(Dated::Key(text.to_owned()))
    }

    /// Start and end (exclusive) of the time that the path of a file names, in milliseconds; `None` where it names none.
    pub fn period(&self, path: &str) -> Option<(i64, i64)> {
        match self {
            Dated::Key(key) => {
                let folders = path.rsplit_once('/')?.0;
                let value = folders.split('/').find_map(|s| s.strip_prefix(key.as_str())?.strip_prefix('='))?;
                let value = value.replace("%3A", ":").replace("%20", "T");
                VALUES.iter().filter_map(|form| Form::parse(form).ok()).find_map(|form| form.period_of(&form.at(&value, true)?))
            }
            Dated::Form(form) => {
                let starts = path.char_indices().map(|(i, _)| i);
                starts.filter(|i| !form.splits_number(path, *i)).find_map(|i| form.period_of(&form.at(&path[i..], false)?))
            }
        }
    }

    /// A path that stands before every path of the time `since` and later, where all paths of interest begin with `literal` and it
    /// can be told from these.
    pub fn floor(&self, literal: &str, since: i64) -> Option<String> {
        let since = DateTime::<Utc>::from_timestamp_millis(since)?;
        let day = |form: &str| since.format(form).to_string();
        let mut floor = match self {
            Dated::Key(key) => {
                let before = literal.strip_suffix(&format!("{key}="))?;
                if !(before.is_empty() || before.ends_with('/')) {
                    return None;
                }
                // all forms of the day, `20240501` and the folder `2024-05` of its month stand behind `2024-05-01`
                format!("{literal}{}", day("%Y-%m-%d"))
            }
            Dated::Form(Form(tokens)) => {
                let Some(Token::Text(head)) = tokens.first() else { return None };
                let before = literal.strip_suffix(head.as_str())?;
                let fields: Vec<usize> = tokens.iter().filter_map(|t| if let Token::Field(i) = t { Some(*i) } else { None }).collect();
                // the order of paths is that of their dates only where greater units stand first
                if !(before.is_empty() || before.ends_with('/')) || fields.iter().enumerate().any(|(i, field)| i != *field) {
                    return None;
                }
                let text = |token: &Token| match token {
                    Token::Text(text) => text.clone(),
                    Token::Field(i) => FIELDS.get(*i).map_or(String::new(), |(letter, _)| day(&format!("%{letter}"))),
                };
                format!("{before}{}", tokens.iter().map(text).collect::<String>())
            }
        };
        floor.pop(); // a path that is no longer than this stands behind it too
        Some(floor)
    }
}

impl Form {
    fn parse(text: &str) -> Result<Self, String> {
        let mut tokens: Vec<Token> = vec![];
        let mut letters = text.chars();
        while let Some(c) = letters.next() {
            let literal = match (c, c == '%') {
                (c, false) => c,
                (_, true) => match letters.next() {
                    Some('%') => '%',
                    Some(letter) => match FIELDS.iter().position(|(l, _)| *l == letter) {
                        Some(field) if tokens.contains(&Token::Field(field)) => return Err(format!("`{text}` has %{letter} twice")),
                        Some(field) => {
                            tokens.push(Token::Field(field));
                            continue;
                        }
                        None => return Err(format!("`{text}`: %{letter} is not known here")),
                    },
                    None => return Err(format!("`{text}` ends in %")),
                },
            };
            match tokens.last_mut() {
                Some(Token::Text(before)) => before.push(literal),
                _ => tokens.push(Token::Text(literal.into())),
            }
        }
        let has = |i| tokens.contains(&Token::Field(i));
        if let Some(gap) = (1..FIELDS.len()).find(|i| has(*i) && !has(i - 1)).or(if has(0) { None } else { Some(1) }) {
            return Err(format!("`{text}` needs %{}", FIELDS.get(gap - 1).map_or('Y', |(letter, _)| *letter)));
        }
        Ok(Form(tokens))
    }

    /// Whether a number would be cut in two by beginning at `at`.
    fn splits_number(&self, path: &str, at: usize) -> bool {
        matches!(self.0.first(), Some(Token::Field(_))) && path[..at].ends_with(|c: char| c.is_ascii_digit())
    }

    /// The fields that `text` begins with; all of it where `whole`.
    fn at(&self, text: &str, whole: bool) -> Option<[Option<u32>; 6]> {
        let mut fields = [None; 6];
        let mut rest = text;
        for (i, token) in self.0.iter().enumerate() {
            match token {
                Token::Text(literal) => rest = rest.strip_prefix(literal.as_str())?,
                Token::Field(field) => {
                    let (_, width) = FIELDS.get(*field)?;
                    let digits = rest.bytes().take(*width).take_while(u8::is_ascii_digit).count();
                    // `month=8`: a number may be short where text ends it
                    let ended = !matches!(self.0.get(i + 1), Some(Token::Field(_)));
                    if digits < *width && !(digits > 0 && *field > 0 && ended) {
                        return None;
                    }
                    *fields.get_mut(*field)? = rest[..digits].parse().ok();
                    rest = &rest[digits..];
                }
            }
        }
        let cut = matches!(self.0.last(), Some(Token::Field(_))) && rest.starts_with(|c: char| c.is_ascii_digit());
        (!cut && (!whole || rest.is_empty())).then_some(fields)
    }

    fn period_of(&self, fields: &[Option<u32>; 6]) -> Option<(i64, i64)> {
        let [year, month, day, hour, minute, second] = *fields;
        let date = NaiveDate::from_ymd_opt(i32::try_from(year?).ok()?, month.unwrap_or(1), day.unwrap_or(1))?;
        let start = date.and_hms_opt(hour.unwrap_or(0), minute.unwrap_or(0), second.unwrap_or(0))?;
        let end = match (month, day, hour, minute, second) {
            (None, ..) => start.checked_add_months(Months::new(12)),
            (_, None, ..) => start.checked_add_months(Months::new(1)),
            (_, _, None, ..) => start.checked_add_days(Days::new(1)),
            (.., None, _) => start.checked_add_signed(TimeDelta::hours(1)),
            (.., None) => start.checked_add_signed(TimeDelta::minutes(1)),
            _ => start.checked_add_signed(TimeDelta::seconds(1)),
        }?;
        Some((start.and_utc().timestamp_millis(), end.and_utc().timestamp_millis()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    fn period(dated: &str, path: &str) -> Option<(String, String)> {
        let show = |ms| DateTime::<Utc>::from_timestamp_millis(ms).unwrap().format("%Y-%m-%dT%H:%M").to_string();
        Dated::parse(dated).unwrap().period(path).map(|(a, b)| (show(a), show(b)))
    }

    #[test]
    fn dates_are_found_in_paths() {
        let day = Some(("2024-05-01T00:00".to_owned(), "2024-05-02T00:00".to_owned()));
        assert_eq!(period("%Y/%m/%d", "raw/orders/2024/05/01/part-1.csv"), day);
        assert_eq!(period("%Y-%m-%d", "raw/orders-2024-05-01.csv"), day);
        assert_eq!(period("%Y%m%d", "raw/99820240501/orders-20240501.csv"), day, "not within a longer number");
        assert_eq!(period("year=%Y/month=%m/day=%d", "t/year=2024/month=5/day=1/x.csv"), day);
        assert_eq!(period("dt", "t/dt=2024-05-01/x.csv"), day);
        assert_eq!(period("dt", "t/dt=20240501/x.csv"), day);
        assert_eq!(period("dt", "t/mydt=20240501/x.csv"), None);
        assert_eq!(period("%Y/%m", "2024/12/x.csv"), Some(("2024-12-01T00:00".into(), "2025-01-01T00:00".into())));
        assert_eq!(period("%Y-%m-%d-%H", "x-2024-02-29-23.csv"), Some(("2024-02-29T23:00".into(), "2024-03-01T00:00".into())));
        assert_eq!(period("%Y/%m/%d", "raw/2024/13/01/x.csv"), None, "no such month");
        assert_eq!(period("%Y/%m/%d", "raw/9999/latest/2024/05/01/x.csv"), day, "the first that is a date");
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        assert!(Dated::parse("%m/%d").unwrap_err().contains("%Y"));
        assert!(Dated::parse("%Y/%d").unwrap_err().contains("%m"));
        assert!(Dated::parse("%Y/%q").unwrap_err().contains("%q"));
        assert!(Dated::parse("a/b").is_err() && Dated::parse("").is_err());
    }

    #[test]
    fn a_window_takes_whole_days() {
        let window = Window { since: Some(ms("2024-05-02T12:00:00Z")), until: Some(ms("2024-05-04T00:00:00Z")) };
        let dated = Dated::parse("%Y-%m-%d").unwrap();
        let held: Vec<u32> = (1..=5).filter(|d| window.holds(Some(&dated), &format!("a/2024-05-{d:02}.csv"), 0)).collect();
        assert_eq!(held, [2, 3]);
        assert!(!window.holds(None, "a/2024-05-03.csv", ms("2024-05-02T11:59:59Z")));
        assert!(window.holds(None, "a/x.csv", ms("2024-05-02T12:00:00Z")) && !window.holds(None, "a/x.csv", ms("2024-05-04T00:00:00Z")));
        assert!(window.holds(Some(&dated), "a/undated.csv", ms("2024-05-03T00:00:00Z")), "modification time, where the path has no date");
        assert!(Window::default().is_open() && Window::default().holds(None, "x", i64::MIN));
    }

    /// Nothing of the window stands before the floor.
    #[test]
    fn floors_leave_nothing_out() {
        for (dated, literal, path) in [
            ("dt", "raw/dt=", "raw/dt=%Y-%m-%d/x.csv"),
            ("dt", "raw/dt=", "raw/dt=%Y%m%d/x.csv"),
            ("year=%Y/month=%m/day=%d", "raw/year=", "raw/year=%Y/month=%m/day=%d/x"),
            ("year=%Y/month=%m/day=%d", "raw/year=", "raw/year=%Y/month=%-m/day=%-d/x"),
            ("orders-%Y-%m-%d", "raw/orders-", "raw/orders-%Y-%m-%d.csv"),
        ] {
            let dated = Dated::parse(dated).unwrap();
            let first = NaiveDate::from_ymd_opt(2023, 12, 20).unwrap();
            let days: Vec<_> = first.iter_days().take(400).collect();
            for since in days.iter().step_by(7) {
                let start = since.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp_millis();
                let floor = dated.floor(literal, start).unwrap();
                let window = Window { since: Some(start), until: None };
                for day in &days {
                    let path = day.format(path).to_string();
                    assert!(!window.holds(Some(&dated), &path, 0) || path > floor, "{path} {floor}");
                }
            }
        }
        assert_eq!(Dated::parse("%Y/%m/%d").unwrap().floor("raw/", 0), None, "the glob may hold other folders there");
        assert_eq!(Dated::parse("dt").unwrap().floor("raw/mydt=", 0), None);
        assert_eq!(Dated::parse("x-%d-%m-%Y").unwrap().floor("raw/x-", 0), None);
    }
}
