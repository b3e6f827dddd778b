//! What is sold: orders with their items, payments and reviews, and the products. One pass makes all files of a chunk of orders.

use std::ops::Range;

use super::super::dice::{Dice, Kind, id};
use super::super::text::{Calendar, DAY, field, hex, money, number};
use super::super::words::CATEGORIES;
use super::people::{Customer, Seller, key, opinion};
use super::sheet::{self, Bad, Rates, Row, Sheet};

/// The whole shop, as numbers.
#[derive(Debug)]
pub struct Shop {
    pub seed: u64,
    pub orders: u64,
    pub days: u64,
    pub products: u64,
    pub sellers: u64,
    pub calendar: Calendar,
    pub rates: Rates,
}

/// Orders out of 100,000 that are in each state; the rest is delivered.
const STATES: &[(u64, &str)] = &[
    (97_022, "delivered"),
    (1_113, "shipped"),
    (629, "canceled"),
    (612, "unavailable"),
    (316, "invoiced"),
    (303, "processing"),
    (3, "created"),
    (2, "approved"),
];
/// Orders by hour of the day.
const HOURS: &[(u64, i64)] = &[
    (24, 0),
    (12, 1),
    (5, 2),
    (3, 3),
    (2, 4),
    (2, 5),
    (5, 6),
    (12, 7),
    (30, 8),
    (48, 9),
    (62, 10),
    (66, 11),
    (60, 12),
    (65, 13),
    (66, 14),
    (65, 15),
    (67, 16),
    (62, 17),
    (58, 18),
    (60, 19),
    (62, 20),
    (62, 21),
    (58, 22),
    (41, 23),
];
/// Prices in reais: weight, from, to.
const PRICES: &[(u64, (i64, i64))] =
    &[(150, (5, 20)), (300, (20, 50)), (300, (50, 100)), (150, (100, 200)), (80, (200, 500)), (19, (500, 1500)), (1, (1500, 6000))];
/// Scores of those who were served as promised, and of those who were not.
const CONTENT: &[(u64, u64)] = &[(64, 5), (20, 4), (8, 3), (2, 2), (6, 1)];
const DISAPPOINTED: &[(u64, u64)] = &[(16, 5), (12, 4), (12, 3), (10, 2), (50, 1)];
const INSTALLMENTS: &[(u64, u64)] = &[(46, 1), (12, 2), (10, 3), (7, 4), (5, 5), (4, 6), (2, 7), (4, 8), (1, 9), (7, 10), (1, 12), (1, 24)];

#[derive(Debug, Clone)]
struct Order<'a> {
    calendar: &'a Calendar,
    id: u128,
    customer: u128,
    status: &'static str,
    purchase: i64,
    approved: Option<i64>,
    carrier: Option<i64>,
    delivered: Option<i64>,
    estimated: i64,
}

#[derive(Debug, Clone)]
struct Item<'a> {
    calendar: &'a Calendar,
    order: u128,
    number: u64,
    product: u128,
    seller: u128,
    limit: i64,
    price: u64,
    freight: u64,
}

#[derive(Debug)]
struct Payment {
    order: u128,
    sequential: u64,
    kind: &'static str,
    installments: u64,
    value: u64,
}

#[derive(Debug, Clone)]
struct Review<'a> {
    calendar: &'a Calendar,
    id: u128,
    order: u128,
    score: u64,
    title: &'static str,
    message: String,
    created: i64,
    answered: i64,
}

#[derive(Debug)]
struct Product {
    id: u128,
    category: Option<&'static str>,
    name_length: u64,
    description_length: u64,
    photos: u64,
    weight: u64,
    size: [u64; 3],
    price: u64,
    seller: u64,
}

impl Shop {
    /// Orders, customers, items, payments and reviews of some orders.
    pub fn order_sheets(&self, job: u64, orders: Range<u64>) -> Vec<Sheet> {
        let mut sheets = [sheet::ORDERS, sheet::CUSTOMERS, sheet::ITEMS, sheet::PAYMENTS, sheet::REVIEWS].map(Sheet::new);
        let mut dice = Dice::of(self.seed, Kind::Chunk, job);
        let dice = &mut dice;
        let mut last_review: Option<Review<'_>> = None;
        for index in orders {
            // Three in a hundred come back, as someone who bought before.
            let person = if index > 0 && dice.chance(34_000) { dice.below(index) } else { index };
            let customer = Customer::new(self.seed, index, person);
            let order = self.order(index, &customer, dice);
            let items = self.items(&order, &customer, dice);
            let due: u64 = items.iter().map(|item| item.price + item.freight).sum();
            sheets[sheet::ORDERS].put(&order, dice, self.rates);
            sheets[sheet::CUSTOMERS].put(&customer, dice, self.rates);
            for item in &items {
                sheets[sheet::ITEMS].put(item, dice, self.rates);
            }
            for payment in payments(&order, due, dice) {
                sheets[sheet::PAYMENTS].put(&payment, dice, self.rates);
            }
            for nth in 0..reviews(dice) {
                let mut review = self.review(index, nth, &order, dice);
                // Some send one review for two orders: the id comes twice.
                if let Some(last) = last_review.take().filter(|_| nth == 0 && dice.chance(4_000)) {
                    review = Review { order: order.id, ..last };
                }
                sheets[sheet::REVIEWS].put(&review, dice, self.rates);
                last_review = Some(review);
            }
        }
        sheets.into()
    }

    pub fn product_sheet(&self, job: u64, products: Range<u64>) -> Sheet {
        let mut sheet = Sheet::new(sheet::PRODUCTS);
        let mut dice = Dice::of(self.seed, Kind::Chunk, job);
        for index in products {
            sheet.put(&self.product(index), &mut dice, self.rates);
        }
        sheet
    }

    pub fn seller_sheet(&self, job: u64, sellers: Range<u64>) -> Sheet {
        let mut sheet = Sheet::new(sheet::SELLERS);
        let mut dice = Dice::of(self.seed, Kind::Chunk, job);
        for index in sellers {
            sheet.put(&Seller::new(self.seed, index), &mut dice, self.rates);
        }
        sheet
    }

    fn order(&self, index: u64, customer: &Customer, dice: &mut Dice) -> Order<'_> {
        // The greater of two days: the shop grows.
        let day = dice.below(self.days).max(dice.below(self.days)) as i64;
        let purchase = day * DAY + dice.weighted(HOURS) * 3600 + dice.between(0, 3599);
        let approved = purchase
            + match dice.below(10) {
                0..=5 => dice.between(8 * 60, 40 * 60),
                6..=8 => dice.between(3600, DAY),
                _ => dice.between(DAY, 3 * DAY),
            };
        let carrier = approved + dice.between(6 * 3600, 3 * DAY) + dice.between(0, 3 * DAY);
        // Far from São Paulo, where most sellers are, takes longer.
        let far = if customer.place.city.state == "SP" { 0 } else { 9 };
        let slow = if dice.chance(60_000) { 28 } else { 0 };
        let delivered = carrier + DAY + dice.between(0, (6 + far) * DAY) + dice.between(0, slow * DAY);
        let estimated = (day + dice.between(11, 24) + far / 2) * DAY;
        let status = *dice.weighted(STATES);
        let (is_approved, is_sent, is_delivered) = match status {
            "delivered" => (true, true, true),
            "shipped" => (true, true, false),
            "created" => (false, false, false),
            "canceled" => (dice.chance(800_000), false, false),
            _ => (true, false, false),
        };
        Order {
            calendar: &self.calendar,
            id: id(self.seed, Kind::Order, index),
            customer: customer.id,
            status,
            purchase,
            approved: is_approved.then_some(approved),
            carrier: is_sent.then_some(carrier),
            delivered: is_delivered.then_some(delivered),
            estimated,
        }
    }

    fn items<'a>(&'a self, order: &Order<'a>, customer: &Customer, dice: &mut Dice) -> Vec<Item<'a>> {
        let none = match order.status {
            "unavailable" => dice.chance(990_000),
            "canceled" => dice.chance(262_000),
            "created" => true,
            _ => false,
        };
        let count = match dice.below(1000) {
            _ if none => 0,
            0..=900 => 1,
            901..=976 => 2,
            977..=989 => 3,
            990..=995 => 4,
            996..=998 => 5 + dice.below(2),
            _ => 6 + dice.below(15),
        };
        let limit = order.approved.unwrap_or(order.purchase) + dice.between(2 * DAY, 8 * DAY);
        let mut items: Vec<Item<'a>> = vec![];
        for number in 1..=count {
            // Most who take several take the same again.
            let again = dice.chance(700_000);
            let item = match items.last().filter(|_| again) {
                Some(last) => Item { number, ..last.clone() },
                None => {
                    let product = self.product(dice.skewed(self.products));
                    let place = Seller::new(self.seed, product.seller).place;
                    let way = if place.city.state == customer.place.city.state { 0 } else { 600 };
                    Item {
                        calendar: &self.calendar,
                        order: order.id,
                        number,
                        product: product.id,
                        seller: id(self.seed, Kind::Seller, product.seller),
                        limit,
                        price: product.price,
                        freight: if dice.chance(3_000) { 0 } else { 739 + way + product.weight / 4 + dice.below(500) },
                    }
                }
            };
            items.push(item);
        }
        items
    }

    fn review<'a>(&'a self, index: u64, nth: u64, order: &Order<'a>, dice: &mut Dice) -> Review<'a> {
        let kept = order.delivered.is_some_and(|at| at < order.estimated + DAY);
        let score = *dice.weighted(if kept { CONTENT } else { DISAPPOINTED });
        let (title, message) = opinion(score, dice);
        let asked = order.delivered.unwrap_or(order.estimated) + DAY;
        let created = asked - asked % DAY + nth as i64 * 3 * DAY;
        let answered = created + dice.between(3 * 3600, 2 * DAY) + if dice.chance(50_000) { dice.between(0, 30 * DAY) } else { 0 };
        let id = id(self.seed, Kind::Review, index * 2 + nth);
        Review { calendar: &self.calendar, id, order: order.id, score, title, message, created, answered }
    }

    fn product(&self, index: u64) -> Product {
        let mut dice = Dice::of(self.seed, Kind::Product, index);
        let (low, high) = *dice.weighted(PRICES);
        let cents = *dice.weighted(&[(6, 90u64), (2, 99), (1, 0), (1, 50)]);
        let price = dice.between(low, high - 1).unsigned_abs() * 100 + cents;
        Product {
            id: id(self.seed, Kind::Product, index),
            category: (!dice.chance(18_500)).then(|| CATEGORIES[dice.skewed(CATEGORIES.len() as u64) as usize].0),
            name_length: 20 + dice.below(24) + dice.below(24),
            description_length: 60 + dice.skewed(3900),
            photos: 1 + dice.skewed(9),
            weight: if dice.chance(200) { 0 } else { 50 + dice.skewed(24) * 50 + dice.skewed(9_000) },
            size: [16 + dice.skewed(80), 2 + dice.skewed(90), 11 + dice.skewed(80)],
            price,
            seller: dice.skewed(self.sellers),
        }
    }
}

fn reviews(dice: &mut Dice) -> u64 {
    match dice.below(1000) {
        0..=7 => 0,
        8..=13 => 2,
        _ => 1,
    }
}

fn payments(order: &Order<'_>, due: u64, dice: &mut Dice) -> Vec<Payment> {
    // What was ordered and never sold was paid all the same.
    let due = if due > 0 { due } else { 2_000 + dice.below(20_000) };
    let mut left = due;
    let mut payments = vec![];
    if dice.chance(29_000) {
        for _ in 0..=dice.skewed(6) {
            let value = left / (2 + dice.below(3));
            payments.push(("voucher", 1, value));
            left -= value;
        }
    }
    let kind = *dice.weighted(&[(752, "credit_card"), (195, "boleto"), (37, "voucher"), (16, "debit_card")]);
    let installments = if kind == "credit_card" { *dice.weighted(INSTALLMENTS) } else { 1 };
    payments.push((kind, installments, left));
    if order.status == "canceled" && dice.chance(5_000) {
        payments = vec![("not_defined", 1, 0)];
    }
    let row = |(n, (kind, installments, value))| Payment { order: order.id, sequential: n, kind, installments, value };
    (1..).zip(payments).map(row).collect()
}

impl Row for Order<'_> {
    fn write(&self, buf: &mut Vec<u8>, bad: Option<Bad>) {
        if bad != Some(Bad::MissingId) {
            key(buf, self.id);
        }
        buf.push(b',');
        key(buf, self.customer);
        buf.push(b',');
        buf.extend_from_slice(if bad == Some(Bad::UnknownStatus) { b"lost_at_sea" } else { self.status.as_bytes() });
        buf.push(b',');
        time(buf, self.calendar, self.purchase, bad);
        for at in [self.approved, self.carrier, self.delivered] {
            buf.push(b',');
            if let Some(at) = at {
                self.calendar.time(buf, at);
            }
        }
        buf.push(b',');
        self.calendar.midnight(buf, self.estimated);
    }

    fn older(&self) -> Option<Self> {
        match self.status {
            "delivered" => Some(Order { status: "shipped", delivered: None, ..self.clone() }),
            "shipped" => Some(Order { status: "invoiced", carrier: None, ..self.clone() }),
            _ => None,
        }
    }
}

impl Row for Item<'_> {
    fn write(&self, buf: &mut Vec<u8>, bad: Option<Bad>) {
        key(buf, self.order);
        buf.push(b',');
        number(buf, self.number);
        buf.push(b',');
        if bad != Some(Bad::MissingId) {
            key(buf, self.product);
        }
        buf.push(b',');
        key(buf, self.seller);
        buf.push(b',');
        time(buf, self.calendar, self.limit, bad);
        buf.push(b',');
        amount(buf, self.price, bad);
        buf.push(b',');
        money(buf, self.freight);
    }

    /// The seller was given more time.
    fn older(&self) -> Option<Self> {
        Some(Item { limit: self.limit - DAY, ..self.clone() })
    }
}

impl Row for Payment {
    fn write(&self, buf: &mut Vec<u8>, bad: Option<Bad>) {
        if bad != Some(Bad::MissingId) {
            key(buf, self.order);
        }
        buf.push(b',');
        number(buf, self.sequential);
        buf.push(b',');
        buf.extend_from_slice(self.kind.as_bytes());
        buf.push(b',');
        number(buf, self.installments);
        buf.push(b',');
        amount(buf, self.value, bad);
    }
}

impl Row for Review<'_> {
    fn write(&self, buf: &mut Vec<u8>, bad: Option<Bad>) {
        if bad != Some(Bad::MissingId) {
            buf.push(b'"');
            hex(buf, self.id);
            buf.push(b'"');
        }
        buf.extend_from_slice(b",\"");
        hex(buf, self.order);
        buf.extend_from_slice(b"\",");
        match bad {
            Some(Bad::TextInNumber) => buf.extend_from_slice(b"cinco"),
            Some(Bad::ScoreOutOfRange) => buf.push(b'7'),
            _ => number(buf, self.score),
        }
        buf.push(b',');
        field(buf, self.title);
        buf.push(b',');
        field(buf, &self.message);
        buf.push(b',');
        match bad {
            Some(Bad::NoSuchDay) => time(buf, self.calendar, self.created, bad),
            _ => self.calendar.midnight(buf, self.created),
        }
        buf.push(b',');
        self.calendar.time(buf, self.answered);
    }

    /// A first answer, without words, that was changed later.
    fn older(&self) -> Option<Self> {
        Some(Review { title: "", message: String::new(), answered: self.answered - 3600, ..self.clone() })
    }
}

impl Row for Product {
    fn write(&self, buf: &mut Vec<u8>, bad: Option<Bad>) {
        if bad != Some(Bad::MissingId) {
            key(buf, self.id);
        }
        buf.push(b',');
        match self.category {
            Some(category) => {
                buf.extend_from_slice(category.as_bytes());
                for n in [self.name_length, self.description_length, self.photos] {
                    buf.push(b',');
                    number(buf, n);
                }
            }
            None => buf.extend_from_slice(b",,,"),
        }
        buf.push(b',');
        if bad == Some(Bad::TextInNumber) {
            buf.extend_from_slice(b"leve");
        } else {
            number(buf, self.weight);
        }
        for n in self.size {
            buf.push(b',');
            number(buf, n);
        }
    }
}

/// A time, or the 31 February of its year.
fn time(buf: &mut Vec<u8>, calendar: &Calendar, at: i64, bad: Option<Bad>) {
    if bad == Some(Bad::NoSuchDay) {
        buf.extend_from_slice(&calendar.date(at)[..4]);
        buf.extend_from_slice(b"-02-31 10:00:00");
    } else {
        calendar.time(buf, at);
    }
}

/// Money, or something else where money belongs.
fn amount(buf: &mut Vec<u8>, cents: u64, bad: Option<Bad>) {
    match bad {
        Some(Bad::TextInNumber) => return buf.extend_from_slice("grátis".as_bytes()),
        Some(Bad::NegativePrice) => buf.push(b'-'),
        _ => {}
    }
    // Nothing is not negative.
    money(buf, if bad == Some(Bad::NegativePrice) { cents.max(1) } else { cents });
}
