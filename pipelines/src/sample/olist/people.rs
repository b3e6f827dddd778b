//! Who takes part: customers and sellers, and what customers write. All of it follows from a number, nothing is stored.

use super::super::dice::{Dice, Kind, id};
use super::super::text::{field, hex, padded};
use super::super::words::{CITIES, City, FAIR, FAIR_TITLES, FIRST_NAMES, GOOD, GOOD_TITLES, LAST_NAMES, MAIL_DOMAINS, POOR, POOR_TITLES};
use super::sheet::{Bad, Row};

/// Where someone lives.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub city: &'static City,
    pub zip: u64,
}

impl Place {
    pub fn draw(dice: &mut Dice) -> Self {
        let city = dice.weighted(CITIES);
        Place { city, zip: city.zip + dice.below(city.zips) }
    }
}

/// One row per order: `customer_id` is of the order, `customer_unique_id` of the person.
#[derive(Debug)]
pub struct Customer {
    pub id: u128,
    pub unique: u128,
    pub place: Place,
}

impl Customer {
    pub fn new(seed: u64, order: u64, person: u64) -> Self {
        let place = Place::draw(&mut Dice::of(seed, Kind::Person, person));
        Customer { id: id(seed, Kind::Customer, order), unique: id(seed, Kind::Person, person), place }
    }
}

impl Row for Customer {
    fn write(&self, buf: &mut Vec<u8>, bad: Option<Bad>) {
        if bad != Some(Bad::MissingId) {
            key(buf, self.id);
        }
        buf.push(b',');
        key(buf, self.unique);
        buf.extend_from_slice(b",\"");
        padded(buf, self.place.zip, 5);
        buf.extend_from_slice(b"\",");
        field(buf, self.place.city.name);
        buf.push(b',');
        buf.extend_from_slice(self.place.city.state.as_bytes());
    }
}

#[derive(Debug)]
pub struct Seller {
    id: u128,
    pub place: Place,
    /// Some sellers write their state behind the city, in one of several ways.
    sloppy: Option<&'static str>,
}

impl Seller {
    pub fn new(seed: u64, index: u64) -> Self {
        let mut dice = Dice::of(seed, Kind::Seller, index);
        let place = Place::draw(&mut dice);
        let sloppy = dice.chance(6_000).then(|| *dice.pick(&[" - ", "/", " / "]));
        Seller { id: id(seed, Kind::Seller, index), place, sloppy }
    }
}

impl Row for Seller {
    fn write(&self, buf: &mut Vec<u8>, bad: Option<Bad>) {
        let city = self.place.city;
        if bad != Some(Bad::MissingId) {
            key(buf, self.id);
        }
        buf.extend_from_slice(b",\"");
        padded(buf, self.place.zip, 5);
        buf.extend_from_slice(b"\",");
        match self.sloppy {
            Some(between) => field(buf, &format!("{}{between}{}", city.name, city.state.to_lowercase())),
            None => field(buf, city.name),
        }
        buf.push(b',');
        buf.extend_from_slice(city.state.as_bytes());
    }
}

/// An id as the published files have it: quoted only where it starts with a digit.
pub fn key(buf: &mut Vec<u8>, id: u128) {
    let quoted = id >> 124 < 10;
    if quoted {
        buf.push(b'"');
    }
    hex(buf, id);
    if quoted {
        buf.push(b'"');
    }
}

/// Title and message of a review with this score. Most people write neither, and some write too much about themselves.
pub fn opinion(score: u64, dice: &mut Dice) -> (&'static str, String) {
    let (titles, sentences) = match score {
        4..=5 => (GOOD_TITLES, GOOD),
        3 => (FAIR_TITLES, FAIR),
        _ => (POOR_TITLES, POOR),
    };
    let title = if dice.chance(118_000) { *dice.pick(titles) } else { "" };
    let mut message = String::new();
    if dice.chance(413_000) {
        message.push_str(dice.pick::<&str>(sentences));
        for _ in 0..dice.skewed(4) {
            message.push_str(dice.pick::<&str>(&[". ", ", ", "\r\n", "\r\n\r\n", "... "]));
            message.push_str(dice.pick::<&str>(sentences));
        }
        if dice.chance(30_000) {
            message.push_str(". ");
            contact(&mut message, dice);
        }
        message.push_str(dice.pick::<&str>(&["", "", ".", ". ", "!", "\r\n"]));
    }
    (title, message)
}

fn contact(message: &mut String, dice: &mut Dice) {
    if dice.chance(500_000) {
        message.push_str("Meu e-mail: ");
        message.push_str(&mail(dice));
    } else {
        let (area, digits) = (dice.between(11, 99), dice.below(10_000));
        message.push_str(&format!("Me liguem no ({area}) 90000-{digits:04}"));
    }
}

/// An address that belongs to no one.
pub fn mail(dice: &mut Dice) -> String {
    let (first, last, number, domain) = (dice.pick(FIRST_NAMES), dice.pick(LAST_NAMES), dice.below(1000), dice.pick(MAIL_DOMAINS));
    format!("{first}.{last}{number}@{domain}")
}
