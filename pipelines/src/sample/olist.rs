//! The Olist e-commerce shop: eight files with the names, headers, proportions and quirks of the published data set, all keys
//! of which join. How its rows are written is `sheet`; what they say is here.

mod people;
mod sheet;
mod trade;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use chrono::{Days, NaiveDate};

pub(super) use self::people::mail;
use self::sheet::{BAD, Rates, Sheet};
use self::trade::Shop;
use super::text::Calendar;
use super::{Summary, in_order, per_billion, publish};

/// What `smelt sample olist` takes.
#[derive(Debug, Clone, PartialEq)]
pub struct OlistOptions {
    /// Orders; all other files follow from them (the published files hold 99,441).
    pub orders: u64,
    /// Days over which the orders are spread, the last of them 2018-08-31.
    pub days: u32,
    /// Share of bad rows, 0 to 1, planted in addition to the good ones.
    pub bad: f64,
    /// Share of duplicates, 0 to 1, planted in addition.
    pub duplicates: f64,
    /// Another seed, other rows.
    pub seed: u64,
}

impl Default for OlistOptions {
    fn default() -> Self {
        OlistOptions { orders: 100_000, days: 730, bad: 0.001, duplicates: 0.01, seed: 42 }
    }
}

/// The files, in the order in which [`Summary::files`] names them.
pub const FILES: [&str; 8] = [
    "olist_orders_dataset.csv",
    "olist_customers_dataset.csv",
    "olist_order_items_dataset.csv",
    "olist_order_payments_dataset.csv",
    "olist_order_reviews_dataset.csv",
    "olist_products_dataset.csv",
    "olist_sellers_dataset.csv",
    "product_category_name_translation.csv",
];

const HEADERS: [&str; 8] = [
    r#""order_id","customer_id","order_status","order_purchase_timestamp","order_approved_at","order_delivered_carrier_date","order_delivered_customer_date","order_estimated_delivery_date""#,
    r#""customer_id","customer_unique_id","customer_zip_code_prefix","customer_city","customer_state""#,
    r#""order_id","order_item_id","product_id","seller_id","shipping_limit_date","price","freight_value""#,
    r#""order_id","payment_sequential","payment_type","payment_installments","payment_value""#,
    r#""review_id","order_id","review_score","review_comment_title","review_comment_message","review_creation_date","review_answer_timestamp""#,
    r#""product_id","product_category_name","product_name_lenght","product_description_lenght","product_photos_qty","product_weight_g","product_length_cm","product_height_cm","product_width_cm""#,
    r#""seller_id","seller_zip_code_prefix","seller_city","seller_state""#,
    "\u{feff}product_category_name,product_category_name_english",
];

/// Orders, products or sellers that are made at a time. Changing it changes every sample.
const CHUNK: u64 = 8192;
/// The last day of orders.
const LAST_DAY: Option<NaiveDate> = NaiveDate::from_ymd_opt(2018, 8, 31);
/// Days that deliveries, reviews and promises may lie past the last order.
const AFTER: u64 = 200;

/// Writes the eight files into the folder `out`, which appears when all are whole; an older sample there is replaced.
/// `progress` is told the rows written so far. About 6 rows an order.
///
/// # Errors
/// Where a share or the days make no sense, where `out` holds other files, and where a file cannot be written.
pub fn olist(out: &Path, options: &OlistOptions, progress: &dyn Fn(u64)) -> io::Result<Summary> {
    let shop = shop(options)?;
    publish(out, &|name| FILES.contains(&name), |folder| write(folder, &shop, progress))
}

fn shop(options: &OlistOptions) -> io::Result<Shop> {
    let rates = Rates { bad: per_billion("bad", options.bad)?, duplicates: per_billion("duplicates", options.duplicates)? };
    let first = LAST_DAY.and_then(|last| last.checked_sub_days(Days::new(u64::from(options.days).saturating_sub(1))));
    let (Some(first), 1..=36_500) = (first, options.days) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("days is a number between 1 and 36500, not {}", options.days)));
    };
    Ok(Shop {
        seed: options.seed,
        orders: options.orders,
        days: u64::from(options.days),
        products: (options.orders * 33 / 100).max(1),
        sellers: (options.orders * 31 / 1000).max(1),
        calendar: Calendar::new(first, u64::from(options.days) + AFTER),
        rates,
    })
}

fn write(folder: &Path, shop: &Shop, progress: &dyn Fn(u64)) -> io::Result<Summary> {
    let mut summary = Summary::default();
    let mut files = vec![];
    for (file, (name, header)) in FILES.iter().zip(HEADERS).enumerate() {
        let mut to = BufWriter::with_capacity(1 << 16, File::create(folder.join(name))?);
        let line = [header.as_bytes(), sheet::newline(file)].concat();
        to.write_all(&line)?;
        summary.files.push(((*name).to_owned(), 0, line.len() as u64));
        files.push(to);
    }
    let chunks = |rows: u64| rows.div_ceil(CHUNK);
    let (orders, products, sellers) = (chunks(shop.orders), chunks(shop.products), chunks(shop.sellers));
    let make = |job: u64| -> Vec<Sheet> {
        let range = |chunk: u64, rows: u64| chunk * CHUNK..(chunk * CHUNK + CHUNK).min(rows);
        if job < orders {
            shop.order_sheets(job, range(job, shop.orders))
        } else if job < orders + products {
            vec![shop.product_sheet(job, range(job - orders, shop.products))]
        } else if job < orders + products + sellers {
            vec![shop.seller_sheet(job, range(job - orders - products, shop.sellers))]
        } else {
            vec![sheet::translation()]
        }
    };
    let mut rows = 0;
    in_order(orders + products + sellers + 1, make, |sheets| {
        for sheet in sheets {
            let (name, written, bytes) = &mut summary.files[sheet.file];
            for part in [&sheet.body, &sheet.late] {
                files[sheet.file].write_all(part)?;
                *bytes += part.len() as u64;
            }
            *written += sheet.rows;
            rows += sheet.rows;
            for (bad, count) in BAD.iter().zip(sheet.bad) {
                Summary::count(&mut summary.planted, name, bad.name(), count);
            }
            Summary::count(&mut summary.duplicates, name, "exact", sheet.exact);
            Summary::count(&mut summary.duplicates, name, "older_version", sheet.older);
        }
        progress(rows);
        Ok(())
    })?;
    for file in &mut files {
        file.flush()?;
    }
    Ok(summary)
}

#[cfg(test)]
mod tests;
