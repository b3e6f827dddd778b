//! The rows of one chunk of one file, with what is planted among them: damaged copies and duplicates, both counted.

use super::super::dice::Dice;
use super::super::words::CATEGORIES;

pub const ORDERS: usize = 0;
pub const CUSTOMERS: usize = 1;
pub const ITEMS: usize = 2;
pub const PAYMENTS: usize = 3;
pub const REVIEWS: usize = 4;
pub const PRODUCTS: usize = 5;
pub const SELLERS: usize = 6;
pub const TRANSLATION: usize = 7;

/// How a row can be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// One field too few, or one too many.
    RaggedLine,
    /// Words where a number belongs.
    TextInNumber,
    /// 31 February.
    NoSuchDay,
    /// A required id is empty.
    MissingId,
    UnknownStatus,
    NegativePrice,
    ScoreOutOfRange,
}

pub const BAD: [Bad; 7] =
    [Bad::RaggedLine, Bad::TextInNumber, Bad::NoSuchDay, Bad::MissingId, Bad::UnknownStatus, Bad::NegativePrice, Bad::ScoreOutOfRange];

impl Bad {
    pub fn name(self) -> &'static str {
        match self {
            Bad::RaggedLine => "ragged_line",
            Bad::TextInNumber => "text_in_number",
            Bad::NoSuchDay => "no_such_day",
            Bad::MissingId => "missing_id",
            Bad::UnknownStatus => "unknown_status",
            Bad::NegativePrice => "negative_price",
            Bad::ScoreOutOfRange => "score_out_of_range",
        }
    }

    /// The damage that rows of a file can take.
    fn of(file: usize) -> &'static [Bad] {
        match file {
            ORDERS => &[Bad::RaggedLine, Bad::NoSuchDay, Bad::MissingId, Bad::UnknownStatus],
            ITEMS => &[Bad::RaggedLine, Bad::TextInNumber, Bad::NoSuchDay, Bad::MissingId, Bad::NegativePrice],
            PAYMENTS => &[Bad::RaggedLine, Bad::TextInNumber, Bad::MissingId, Bad::NegativePrice],
            REVIEWS => &[Bad::RaggedLine, Bad::TextInNumber, Bad::NoSuchDay, Bad::MissingId, Bad::ScoreOutOfRange],
            PRODUCTS => &[Bad::RaggedLine, Bad::TextInNumber, Bad::MissingId],
            _ => &[Bad::RaggedLine, Bad::MissingId],
        }
    }
}

/// Shares out of 10^9.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    pub bad: u64,
    pub duplicates: u64,
}

/// A row that can write itself, well or damaged, and perhaps as it was before its last change.
pub trait Row {
    /// Writes all fields, without the end of the line. `RaggedLine` is not asked for here.
    fn write(&self, buf: &mut Vec<u8>, bad: Option<Bad>);

    /// The same key with an earlier state, where there is one.
    fn older(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
}

/// Rows of one file.
#[derive(Debug)]
pub struct Sheet {
    pub file: usize,
    /// Lines in order, and after them those that come late.
    pub body: Vec<u8>,
    pub late: Vec<u8>,
    pub rows: u64,
    pub bad: [u64; BAD.len()],
    pub exact: u64,
    pub older: u64,
}

impl Sheet {
    pub fn new(file: usize) -> Self {
        Sheet { file, body: vec![], late: vec![], rows: 0, bad: [0; BAD.len()], exact: 0, older: 0 }
    }

    /// Writes a row, and what the dice plant beside it.
    pub fn put<R: Row>(&mut self, row: &R, dice: &mut Dice, rates: Rates) {
        let newline = newline(self.file);
        let line = |buf: &mut Vec<u8>, row: &R| {
            row.write(buf, None);
            buf.extend_from_slice(newline);
        };
        let start = self.body.len();
        line(&mut self.body, row);
        self.rows += 1;
        if dice.rare(rates.duplicates) {
            self.rows += 1;
            match row.older().filter(|_| dice.chance(500_000)) {
                Some(older) => {
                    self.older += 1;
                    // Either may come first: what is newer is for the values to say, not for the order of arrival.
                    if dice.chance(500_000) {
                        line(&mut self.late, &older);
                    } else {
                        self.late.extend_from_slice(&self.body[start..]);
                        self.body.truncate(start);
                        line(&mut self.body, &older);
                    }
                }
                None => {
                    self.exact += 1;
                    self.late.extend_from_slice(&self.body[start..]);
                }
            }
        }
        if dice.rare(rates.bad) {
            let bad = *dice.pick(Bad::of(self.file));
            self.rows += 1;
            self.bad[bad as usize] += 1;
            let start = self.body.len();
            if bad != Bad::RaggedLine {
                row.write(&mut self.body, Some(bad));
            } else {
                row.write(&mut self.body, None);
                // The last field is never quoted text, so the last comma is the one before it.
                match self.body[start..].iter().rposition(|&b| b == b',').filter(|_| dice.chance(500_000)) {
                    Some(comma) => self.body.truncate(start + comma),
                    None => self.body.extend_from_slice(b",x"),
                }
            }
            self.body.extend_from_slice(newline);
        }
    }
}

/// How lines of a file end: reviews and the translation come from Windows.
pub fn newline(file: usize) -> &'static [u8] {
    if matches!(file, REVIEWS | TRANSLATION) { b"\r\n" } else { b"\n" }
}

/// Categories in English.
pub fn translation() -> Sheet {
    let mut sheet = Sheet::new(TRANSLATION);
    for (name, english) in CATEGORIES {
        if let Some(english) = english {
            sheet.body.extend_from_slice(format!("{name},{english}\r\n").as_bytes());
            sheet.rows += 1;
        }
    }
    sheet
}
