//! Writes fields as bytes: ids, numbers, money, times, quoted text. No formatting machinery, since this is the hot loop.

use chrono::{Days, NaiveDate, TimeZone};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// 32 lower-case hexadecimal digits.
pub fn hex(buf: &mut Vec<u8>, id: u128) {
    for byte in id.to_be_bytes() {
        buf.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

/// A decimal number.
pub fn number(buf: &mut Vec<u8>, n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut n = n;
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    buf.extend_from_slice(&digits[at..]);
}

/// A number with leading zeros; its last `width` digits.
pub fn padded(buf: &mut Vec<u8>, n: u64, width: u32) {
    for place in (0..width).rev() {
        buf.push(b'0' + (n / 10u64.pow(place) % 10) as u8);
    }
}

/// `1234` cents as `12.34`.
pub fn money(buf: &mut Vec<u8>, cents: u64) {
    number(buf, cents / 100);
    buf.push(b'.');
    padded(buf, cents % 100, 2);
}

/// Text as CSV has it: quoted only where it must be.
pub fn field(buf: &mut Vec<u8>, text: &str) {
    if !text.bytes().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r')) {
        return buf.extend_from_slice(text.as_bytes());
    }
    buf.push(b'"');
    for b in text.bytes() {
        if b == b'"' {
            buf.push(b'"');
        }
        buf.push(b);
    }
    buf.push(b'"');
}

/// The days that a sample speaks of, as text. Times are seconds since the first of these days, in local time.
#[derive(Debug)]
pub struct Calendar {
    days: Vec<[u8; 10]>,
    /// Days on which the hour after midnight does not exist, since clocks are put forward.
    short: Vec<bool>,
}

impl Calendar {
    /// `days` days from `first` on, in São Paulo.
    pub fn new(first: NaiveDate, days: u64) -> Self {
        let zone = chrono_tz::America::Sao_Paulo;
        let dates = (0..days).map_while(|n| first.checked_add_days(Days::new(n)));
        let (mut texts, mut short) = (vec![], vec![]);
        for date in dates {
            let mut text = [b'0'; 10];
            for (to, from) in text.iter_mut().zip(date.format("%Y-%m-%d").to_string().bytes()) {
                *to = from;
            }
            texts.push(text);
            short.push(date.and_hms_opt(0, 0, 0).is_some_and(|midnight| zone.from_local_datetime(&midnight).earliest().is_none()));
        }
        Calendar { days: texts, short }
    }

    fn day(&self, time: i64) -> usize {
        ((time / DAY).max(0) as usize).min(self.days.len().saturating_sub(1))
    }

    /// `2018-08-31`.
    pub fn date(&self, time: i64) -> &[u8; 10] {
        &self.days[self.day(time)]
    }

    /// `2018-08-31 23:59:59`. A time that clocks skip becomes the first one that they show, so order in time is kept.
    pub fn time(&self, buf: &mut Vec<u8>, time: i64) {
        let day = self.day(time);
        let mut second = time.rem_euclid(DAY) as u64;
        if self.short[day] {
            second = second.max(3600);
        }
        buf.extend_from_slice(&self.days[day]);
        buf.push(b' ');
        clock(buf, second);
    }

    /// `2018-08-31 00:00:00`: a date that is written as a time.
    pub fn midnight(&self, buf: &mut Vec<u8>, time: i64) {
        buf.extend_from_slice(self.date(time));
        buf.extend_from_slice(b" 00:00:00");
    }
}

/// `23:59:59`.
pub fn clock(buf: &mut Vec<u8>, second: u64) {
    padded(buf, second / 3600, 2);
    buf.push(b':');
    padded(buf, second / 60 % 60, 2);
    buf.push(b':');
    padded(buf, second % 60, 2);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut buf = vec![];
        write(&mut buf);
        String::from_utf8(buf).unwrap()
    }

    #[test]
    fn fields() {
        assert_eq!(shown(|b| hex(b, 0x0a)), format!("{:032x}", 0x0a));
        assert_eq!(shown(|b| number(b, 0)), "0");
        assert_eq!(shown(|b| number(b, u64::MAX)), u64::MAX.to_string());
        assert_eq!(shown(|b| padded(b, 1234, 5)), "01234");
        assert_eq!(shown(|b| money(b, 1205)), "12.05");
        assert_eq!(shown(|b| field(b, "plain text ")), "plain text ");
        assert_eq!(shown(|b| field(b, "a \"b\", c")), "\"a \"\"b\"\", c\"");
    }

    #[test]
    fn clocks_put_forward() {
        let calendar = Calendar::new(NaiveDate::from_ymd_opt(2017, 10, 14).unwrap(), 3);
        assert_eq!(shown(|b| calendar.time(b, DAY - 1)), "2017-10-14 23:59:59");
        assert_eq!(shown(|b| calendar.time(b, DAY + 1800)), "2017-10-15 01:00:00");
        assert_eq!(shown(|b| calendar.time(b, DAY + 7261)), "2017-10-15 02:01:01");
        assert_eq!(shown(|b| calendar.midnight(b, DAY + 7261)), "2017-10-15 00:00:00");
        assert_eq!(shown(|b| calendar.time(b, 2 * DAY + 60)), "2017-10-16 00:01:00");
    }
}
