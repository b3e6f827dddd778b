//! Input of the peer jobs: a customer feed as CSV and a click feed as NDJSON, four files each, the same bytes for a seed.
//!
//! The shapes (columns, cardinalities, share of duplicates, quoting) are those with which the peers were measured.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// SplitMix64: enough randomness for a benchmark, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn of<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len() as u64) as usize]
    }
}

const FIRST: [&str; 20] = [
    "Ana", "Bruno", "Carla", "Diego", "Elena", "Fábio", "Gabriela", "Hugo", "Inês", "João", "Karla", "Luís", "Marta", "Nuno", "Olga",
    "Pedro", "Rita", "Sílvia", "Tiago", "Vera",
];
const LAST: [&str; 12] =
    ["Silva", "Santos", "Oliveira", "Souza", "Lima", "Pereira", "Ferreira", "Almeida", "Costa", "Gomes", "O'Neil", "\"\"\"Zé\"\",Neto\""];
const STATE: [&str; 12] = ["SP", "RJ", "MG", "RS", "PR", "SC", "BA", "DF", "GO", "ES", "PE", "CE"];
const STATUS: [&str; 6] = ["active", "inactive", "blocked", "  Active ", "ACTIVE", "\"\""];

/// Writes `customers_0.csv` … `customers_3.csv`: `rows` rows, about 30 % of them older versions of a customer.
pub fn customers(folder: &Path, rows: u64, seed: u64) -> io::Result<()> {
    let mut r = Random(seed);
    parts(folder, "customers", "csv", rows, |out, first, _| {
        if first {
            writeln!(out, "customer_id,first_name,last_name,email,phone,ssn,birth_date,city,status,balance,score,updated_at")?;
        }
        let id = 1 + r.below((rows * 7 / 10).max(1));
        let name = r.of(&FIRST);
        let (year, month, day) = (1950 + r.below(54), 1 + r.below(12), 1 + r.below(28));
        let (d, s) = (r.below(90), r.below(86_400));
        let (updated_month, updated_day) = (1 + d / 30, 1 + d % 28);
        writeln!(
            out,
            "{id},{name},{},{}.{id}@example.com,+55 11 9{:08},{}-{:07},{year}-{month:02}-{day:02},{},{},{}.{:02},{},2025-{updated_month:02}-{updated_day:02} {:02}:{:02}:{:02}",
            r.of(&LAST),
            name.to_lowercase(),
            r.below(100_000_000),
            100 + r.below(899),
            r.below(10_000_000),
            r.of(&STATE),
            r.of(&STATUS),
            r.below(2400),
            r.below(100),
            r.below(1000),
            s / 3600,
            s / 60 % 60,
            s % 60
        )
    })
}

/// Writes `clicks_0.ndjson` … `clicks_3.ndjson`: `rows` nested events of one month.
pub fn clicks(folder: &Path, rows: u64, seed: u64) -> io::Result<()> {
    let mut r = Random(seed);
    parts(folder, "clicks", "ndjson", rows, |out, _, n| {
        let s = r.below(30 * 86_400);
        writeln!(
            out,
            "{{\"event_id\":{n},\"user\":{{\"id\":{},\"agent\":\"{}\"}},\"page\":\"{}\",\"ts\":\"2025-03-{:02}T{:02}:{:02}:{:02}Z\",\"props\":{{\"ms\":{},\"ref\":{}}}}}",
            1 + r.below(rows),
            r.of(&["ios", "android", "web"]),
            r.of(&["/home", "/cart", "/product/1", "/product/2"]),
            1 + s / 86_400,
            s / 3600 % 24,
            s / 60 % 60,
            s % 60,
            r.below(5000),
            r.of(&["\"ads\"", "\"mail\"", "null"])
        )
    })
}

fn parts(
    folder: &Path,
    name: &str,
    extension: &str,
    rows: u64,
    mut row: impl FnMut(&mut BufWriter<File>, bool, u64) -> io::Result<()>,
) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let each = rows.div_ceil(4).max(1);
    let mut n = 0;
    for part in 0..4 {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(folder.join(format!("{name}_{part}.{extension}")))?);
        let start = n;
        while n < rows.min(start + each) {
            row(&mut out, n == start, n)?;
            n += 1;
        }
        out.flush()?;
    }
    Ok(())
}
