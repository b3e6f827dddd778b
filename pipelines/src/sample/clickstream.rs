//! Clicks of a web shop as nested JSON: one gzipped file of lines a day, in order of time, made of sessions that make sense.
//!
//! The text is the same on every platform; the bytes of the gzip file are those of the compressor that is built in.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use chrono::{Days, NaiveDate};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::dice::{Dice, Kind, id};
use super::olist::mail;
use super::text::{clock, hex, number, padded};
use super::words::CATEGORIES;
use super::{Summary, in_order, per_billion, publish};

/// What `smelt sample clickstream` takes.
#[derive(Debug, Clone, PartialEq)]
pub struct ClickstreamOptions {
    /// Good events, spread evenly over the days.
    pub events: u64,
    /// Days, the last of them 2018-08-31; one file each.
    pub days: u32,
    /// Visitors to choose from, some far more busy than others.
    pub users: u64,
    /// Share of bad lines, 0 to 1, planted in addition to the good ones.
    pub bad: f64,
    /// Share of events that are sent twice, 0 to 1, planted in addition.
    pub duplicates: f64,
    /// Another seed, other rows.
    pub seed: u64,
}

impl Default for ClickstreamOptions {
    fn default() -> Self {
        ClickstreamOptions { events: 100_000, days: 7, users: 3_000, bad: 0.001, duplicates: 0.005, seed: 42 }
    }
}

/// The kinds of bad line: cut off, text in a number, no event id, a number where an object belongs.
const BAD: [&str; 4] = ["cut_off", "text_in_number", "missing_id", "number_for_object"];
const AGENTS: [&str; 5] = [
    "Forno/4.2 (Windows; pt-BR)",
    "Forno/4.1 (Android 8; pt-BR)",
    "Bigorna/11.0 (iPhone; pt-BR)",
    "Bigorna/11.3 (Mac; en-US)",
    "CrawlerOfTests/1.0 (+https://crawler.example.org/about)",
];
const REFERRERS: [&str; 4] = ["https://search.example.com/?q=loja", "https://social.example.net/p/123", "https://mail.example.org/", ""];
const CAMPAIGNS: [&str; 3] = ["newsletter", "ads", "partner"];
const LAST_DAY: Option<NaiveDate> = NaiveDate::from_ymd_opt(2018, 8, 31);
const MILLIS: u64 = 86_400_000;

/// Writes `clicks-YYYY-MM-DD.ndjson.gz` files into the folder `out`, which appears when all are whole; an older sample there
/// is replaced. `progress` is told the rows written so far.
///
/// # Errors
/// Where an option makes no sense, where `out` holds other files, and where a file cannot be written.
pub fn clickstream(out: &Path, options: &ClickstreamOptions, progress: &dyn Fn(u64)) -> io::Result<Summary> {
    let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let (bad, duplicates) = (per_billion("bad", options.bad)?, per_billion("duplicates", options.duplicates)?);
    let days = u64::from(options.days);
    let first = LAST_DAY.and_then(|last| last.checked_sub_days(Days::new(days.saturating_sub(1))));
    let (Some(first), 1..=36_500) = (first, options.days) else {
        return Err(wrong(format!("days is a number between 1 and 36500, not {days}")));
    };
    if options.users == 0 {
        return Err(wrong("users is at least 1".to_owned()));
    }
    let ours = |name: &str| name.starts_with("clicks-") && name.ends_with(".ndjson.gz");
    publish(out, &ours, |folder| {
        let make = |day: u64| -> io::Result<Day> {
            let date = first.checked_add_days(Days::new(day)).unwrap_or(first).format("%Y-%m-%d").to_string();
            // The first days take what does not divide evenly.
            let events = options.events / days + u64::from(day < options.events % days);
            let mut writer = Writer { seed: options.seed, users: options.users, bad, duplicates, date: &date, out: Day::new(&date) };
            writer.day(folder, day, events)?;
            Ok(writer.out)
        };
        let mut summary = Summary::default();
        let mut rows = 0;
        in_order(days, make, |day| {
            let day = day?;
            for (kind, count) in BAD.iter().zip(day.bad) {
                Summary::count(&mut summary.planted, &day.name, kind, count);
            }
            Summary::count(&mut summary.duplicates, &day.name, "exact", day.exact);
            rows += day.rows;
            summary.files.push((day.name, day.rows, day.bytes));
            progress(rows);
            Ok(())
        })?;
        Ok(summary)
    })
}

/// What became of one day.
struct Day {
    name: String,
    rows: u64,
    bytes: u64,
    bad: [u64; BAD.len()],
    exact: u64,
}

impl Day {
    fn new(date: &str) -> Self {
        Day { name: format!("clicks-{date}.ndjson.gz"), rows: 0, bytes: 0, bad: [0; BAD.len()], exact: 0 }
    }
}

/// A visit under way. Ordered by the time of its next event, then by number.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Session {
    next: u64,
    number: u64,
    user: u64,
    pages: u64,
    at: Page,
    from: Option<Page>,
    campaign: usize,
}

/// A page of the shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Page {
    Home,
    Category(usize),
    Product(u64),
    Cart(u64),
    Thanks(u64),
}

struct Writer<'a> {
    seed: u64,
    users: u64,
    bad: u64,
    duplicates: u64,
    date: &'a str,
    out: Day,
}

impl Writer<'_> {
    fn day(&mut self, folder: &Path, day: u64, events: u64) -> io::Result<()> {
        let path = folder.join(&self.out.name);
        let mut gz = GzEncoder::new(BufWriter::new(File::create(&path)?), Compression::new(3));
        let mut dice = Dice::of(self.seed, Kind::Day, day);
        // Sessions begin evenly over the day; those under way wait for their next event in a heap.
        let starts = (events / 6).max(1);
        let mut under_way: BinaryHeap<Reverse<Session>> = BinaryHeap::new();
        let (mut number, mut line, mut late) = (0, vec![], vec![]);
        for event in 0..events {
            let start = |number: u64| (MILLIS - 7_200_000) / starts * number.min(starts);
            while under_way.is_empty() || (number < starts && under_way.peek().is_some_and(|Reverse(s)| s.next > start(number))) {
                under_way.push(Reverse(self.session(start(number), number, &mut dice)));
                number += 1;
            }
            let Some(Reverse(mut session)) = under_way.pop() else { continue };
            let key = id(self.seed, Kind::Event, (day << 40) | event);
            line.clear();
            self.event(&mut line, key, &session, &mut dice);
            gz.write_all(&line)?;
            self.out.rows += 1;
            if !late.is_empty() && dice.chance(100_000) {
                gz.write_all(&late)?;
                late.clear();
            }
            if dice.rare(self.duplicates) {
                late.extend_from_slice(&line);
                self.out.rows += 1;
                self.out.exact += 1;
            }
            if dice.rare(self.bad) {
                self.damage(&mut line, &mut dice);
                gz.write_all(&line)?;
            }
            session.pages -= 1;
            session.next += 2_000 + dice.skewed(240_000);
            if session.pages > 0 && session.next < MILLIS {
                session.from = Some(session.at);
                session.at = self.follow(session.at, &mut dice);
                under_way.push(Reverse(session));
            }
        }
        gz.write_all(&late)?;
        gz.finish()?.flush()?;
        self.out.bytes = path.metadata()?.len();
        Ok(())
    }

    fn session(&self, next: u64, number: u64, dice: &mut Dice) -> Session {
        let user = dice.skewed(self.users);
        let pages = 1 + dice.skewed(24);
        let at = if dice.chance(600_000) { Page::Home } else { Page::Product(self.sku(dice)) };
        Session { next: next + dice.below(20_000), number, user, pages, at, from: None, campaign: dice.below(8) as usize }
    }

    fn sku(&self, dice: &mut Dice) -> u64 {
        1_000 + dice.skewed(2_000)
    }

    /// Where people go from here.
    fn follow(&self, from: Page, dice: &mut Dice) -> Page {
        match (from, dice.below(10)) {
            (Page::Product(sku), 0..=1) => Page::Cart(sku),
            (Page::Cart(sku), 0..=3) => Page::Thanks(sku),
            (Page::Home | Page::Thanks(_), 0..=6) => Page::Category(dice.skewed(CATEGORIES.len() as u64) as usize),
            (_, 9) => Page::Home,
            _ => Page::Product(self.sku(dice)),
        }
    }

    fn event(&self, buf: &mut Vec<u8>, key: u128, session: &Session, dice: &mut Dice) {
        let mut who = Dice::of(self.seed, Kind::Visitor, session.user);
        let (agent, subnet, host) = (*who.weighted(&[(45, 0), (30, 1), (15, 2), (9, 3), (1, 4)]), who.below(256), 1 + who.below(254));
        let mail = if who.chance(300_000) { Some(mail(&mut who)) } else { None };
        let text = |buf: &mut Vec<u8>, text: &str| buf.extend_from_slice(text.as_bytes());

        text(buf, "{\"event_id\":\"");
        hex(buf, key);
        text(buf, "\",\"ts\":\"");
        text(buf, self.date);
        buf.push(b'T');
        clock(buf, session.next / 1000);
        buf.push(b'.');
        padded(buf, session.next % 1000, 3);
        text(buf, "Z\",\"type\":\"");
        text(
            buf,
            match session.at {
                Page::Cart(_) => "add_to_cart",
                Page::Thanks(_) => "purchase",
                _ => "page_view",
            },
        );
        text(buf, "\",\"user\":{\"id\":\"u");
        padded(buf, session.user, 7);
        text(buf, "\",\"agent\":\"");
        text(buf, AGENTS[agent]);
        text(buf, "\",\"ip\":\"10.");
        number(buf, subnet);
        text(buf, ".7.");
        number(buf, host);
        buf.push(b'"');
        if let Some(mail) = mail {
            text(buf, ",\"email\":\"");
            text(buf, &mail);
            buf.push(b'"');
        }
        text(buf, "},\"page\":{\"url\":\"");
        url(buf, session.at);
        text(buf, "\",\"referrer\":");
        match session.from {
            Some(from) => {
                buf.push(b'"');
                url(buf, from);
                buf.push(b'"');
            }
            None if session.campaign % REFERRERS.len() == 3 => text(buf, "null"),
            None => {
                buf.push(b'"');
                text(buf, REFERRERS[session.campaign % REFERRERS.len()]);
                buf.push(b'"');
            }
        }
        text(buf, "},\"props\":{\"ms\":");
        number(buf, 20 + dice.skewed(3_000));
        if let Some(campaign) = CAMPAIGNS.get(session.campaign) {
            text(buf, ",\"ref\":\"");
            text(buf, campaign);
            buf.push(b'"');
        }
        text(buf, "},\"items\":[");
        if let Page::Cart(sku) | Page::Thanks(sku) = session.at {
            text(buf, "{\"sku\":\"SKU-");
            number(buf, sku);
            text(buf, "\",\"qty\":");
            number(buf, 1 + sku % 3);
            buf.push(b'}');
        }
        text(buf, "]}\n");
    }

    /// Makes a bad line of a good one, and counts it.
    fn damage(&mut self, line: &mut Vec<u8>, dice: &mut Dice) {
        let kind = dice.below(BAD.len() as u64) as usize;
        self.out.rows += 1;
        self.out.bad[kind] += 1;
        let (from, to): (&[u8], &[u8]) = match kind {
            0 => {
                // Within the user, so that what is left is never a whole record.
                line.truncate(100 + dice.below(30) as usize);
                return line.push(b'\n');
            }
            1 => (b"\"ms\":", b"\"ms\":\"slow\",\"was\":"),
            2 => (b"{\"event_id\":", b"{\"event_was\":"),
            _ => (b"\"user\":{", b"\"user\":17,\"user_was\":{"),
        };
        if let Some(at) = line.windows(from.len()).position(|part| part == from) {
            line.splice(at..at + from.len(), to.iter().copied());
        }
    }
}

fn url(buf: &mut Vec<u8>, page: Page) {
    buf.extend_from_slice(b"https://shop.example.com/");
    match page {
        Page::Home => {}
        Page::Category(n) => {
            buf.extend_from_slice(b"c/");
            buf.extend_from_slice(CATEGORIES[n % CATEGORIES.len()].0.as_bytes());
        }
        Page::Product(sku) => {
            buf.extend_from_slice(b"p/");
            number(buf, sku);
        }
        Page::Cart(sku) => {
            buf.extend_from_slice(b"cart?add=");
            number(buf, sku);
        }
        Page::Thanks(_) => buf.extend_from_slice(b"thanks"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io::Read;

    use super::*;

    fn sample(options: &ClickstreamOptions) -> (Summary, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("clicks");
        let summary = clickstream(&out, options, &|_| {}).unwrap();
        let texts = summary.files.iter().map(|(name, _, bytes)| {
            let raw = std::fs::read(out.join(name)).unwrap();
            assert_eq!(raw.len() as u64, *bytes);
            let mut text = String::new();
            flate2::read::GzDecoder::new(&raw[..]).read_to_string(&mut text).unwrap();
            text
        });
        let texts = texts.collect();
        (summary, texts)
    }

    #[test]
    fn every_line_is_accounted_for() {
        let options = ClickstreamOptions { events: 20_003, days: 3, users: 200, bad: 0.01, duplicates: 0.02, seed: 7 };
        let (summary, texts) = sample(&options);
        assert_eq!(summary.files.len(), 3);
        assert_eq!(summary.files[0].0, "clicks-2018-08-29.ndjson.gz");
        let (mut ids, mut repeated, mut bad) = (BTreeSet::new(), 0, BTreeMap::<&str, u64>::new());
        for ((_, rows, _), text) in summary.files.iter().zip(&texts) {
            assert_eq!(text.lines().count() as u64, *rows);
            for line in text.lines() {
                let kind = match serde_json::from_str::<serde_json::Value>(line) {
                    Err(_) => "cut_off",
                    Ok(v) if v["props"]["ms"].is_string() => "text_in_number",
                    Ok(v) if v["event_id"].is_null() => "missing_id",
                    Ok(v) if v["user"].is_number() => "number_for_object",
                    Ok(v) => {
                        repeated += u64::from(!ids.insert(v["event_id"].as_str().unwrap().to_owned()));
                        continue;
                    }
                };
                *bad.entry(kind).or_default() += 1;
            }
        }
        assert_eq!(ids.len(), 20_003);
        let total = |of: &BTreeMap<String, BTreeMap<String, u64>>, kind: &str| of.values().filter_map(|k| k.get(kind)).sum::<u64>();
        assert_eq!(repeated, total(&summary.duplicates, "exact"));
        assert!(repeated > 300);
        for kind in BAD {
            assert_eq!(bad[kind], total(&summary.planted, kind), "{kind}");
        }
        assert_eq!(summary.rows(), 20_003 + repeated + bad.values().sum::<u64>());
    }

    #[test]
    fn sessions_make_sense() {
        let options = ClickstreamOptions { events: 5_000, days: 1, users: 100, bad: 0.0, duplicates: 0.0, seed: 42 };
        let (_, texts) = sample(&options);
        let mut last = String::new();
        let mut follows = 0;
        let mut agents: BTreeMap<String, String> = BTreeMap::new();
        for line in texts[0].lines() {
            let v: serde_json::Value = serde_json::from_str(line).unwrap();
            let ts = v["ts"].as_str().unwrap().to_owned();
            assert!(ts >= last, "{ts} after {last}");
            last = ts;
            follows += u64::from(v["page"]["referrer"].as_str().is_some_and(|r| r.starts_with("https://shop.example.com/")));
            let user = v["user"]["id"].as_str().unwrap().to_owned();
            let agent = v["user"]["agent"].as_str().unwrap().to_owned();
            assert_eq!(agents.entry(user).or_insert_with(|| agent.clone()), &agent);
            assert_eq!(v["items"].as_array().unwrap().is_empty(), v["type"] == "page_view");
        }
        assert!(follows > 3_000, "{follows}");
    }

    #[test]
    fn the_same_seed_gives_the_same_text() {
        let options = ClickstreamOptions { events: 3_000, users: 50, ..ClickstreamOptions::default() };
        assert_eq!(sample(&options), sample(&options));
        assert_ne!(sample(&options).1, sample(&ClickstreamOptions { seed: 43, ..options }).1);
    }
}
