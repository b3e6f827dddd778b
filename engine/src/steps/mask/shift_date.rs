//! `shift_date`: dates moved per subject.
//!
//! With `H(k, m)` = HMAC-SHA-256, `key` the key's bytes as given, and all texts UTF-8:
//!
//! ```text
//! subject key = H(key, "shift_date:" || domain)
//! n           = first 8 bytes of H(subject key, subject), big-endian, modulo 2 * days
//! offset      = n - days, and one more where that is 0 or above: one of -days..-1, 1..days
//! ```
//!
//! A day is 86 400 seconds. An integer subject is its decimal text. Where the subject is NULL, or the result leaves the calendar, the
//! result is NULL: a date never stays in clear. The offset says nothing about its key's version.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringViewArray};
use arrow::datatypes::{DataType, Date32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit};

use super::sha::Hmac;
use super::tokenize::SessionKeys;
use super::{Column, constant_int, constant_text, key, views};
use crate::error::Complaint;
use crate::keys::{Keys, Secret};
use crate::steps::expression::{column as named, field};

const DAY: i64 = 86_400_000_000;

/// Moves a date or timestamp by a number of days that depends on the subject and the key: the intervals between the dates of one
/// subject survive, also across tables. No date stays where it was. The subject's column is read as it is before this step.
///
/// ```yaml
/// birth_date: {shift_date: {key: pii, by: customer_id, days: 30}}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShiftDate {
    /// Name of a key under `keys`.
    pub key: String,
    /// The column that says whose date it is.
    pub by: String,
    /// The largest shift in either direction, 1 to 36500.
    #[schemars(range(min = 1, max = 36500))]
    pub days: u32,
    /// Separates shifts that are not to be compared. Default: one domain for all.
    #[serde(default)]
    pub domain: String,
}

impl ShiftDate {
    pub(super) fn expression(&self, column: Column<'_>, keys: &Keys) -> Result<Expr, Vec<Complaint>> {
        let mut found = vec![];
        if keys.get(&self.key).is_none() {
            found.push(column.missing_key("shift_date", &self.key, keys));
        }
        if !(1..=36_500).contains(&self.days) {
            found.push(
                column.complaint(&["shift_date", "days"], "days is between 1 and 36500").help("30 hides the day and often the month"),
            );
        }
        if !matches!(column.ty, DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _)) {
            found.extend(column.wrong_type("shift_date", "dates and timestamps"));
        }
        let path = ["mask", column.name, "shift_date", "by"];
        let subject = match field(column.schema, &self.by, &path) {
            Ok(f) => Column { name: &self.by, ty: f.data_type(), ..column }.as_text().ok_or_else(|| {
                Complaint::at(path, format!("`{}` names the subject, and must be a string or integer", self.by)).help("choose an id")
            }),
            Err(complaint) => Err(complaint),
        };
        match subject {
            Ok(subject) if found.is_empty() => {
                let args = vec![named(column.name), subject, lit(self.key.as_str()), lit(i64::from(self.days)), lit(self.domain.as_str())];
                Ok(udf(keys).call(args))
            }
            Ok(_) => Err(found),
            Err(complaint) => {
                found.push(complaint);
                Err(found)
            }
        }
    }
}

/// `shift_date(date, subject, 'key', days [, 'domain'])` over these keys.
pub fn udf(keys: &Keys) -> ScalarUDF {
    ScalarUDF::from(ShiftFunction { keys: SessionKeys(keys.clone()), signature: Signature::variadic_any(Volatility::Immutable) })
}

struct Offsets {
    hmac: Hmac,
    days: i64,
}

impl Offsets {
    fn new(key: &Secret, domain: &str, days: i64) -> Self {
        let hmac = Hmac::new(&Hmac::new(key.reveal()).digest(format!("shift_date:{domain}").as_bytes()));
        Offsets { hmac, days }
    }

    /// Days to move the dates of `subject` by.
    fn of(&self, subject: &str) -> i64 {
        let digest = self.hmac.digest(subject.as_bytes());
        let number = digest[..8].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let offset = (number % (2 * self.days as u64)) as i64 - self.days;
        if offset >= 0 { offset + 1 } else { offset }
    }

    /// Days for each row, NULL where the subject is.
    fn array(&self, subjects: &StringViewArray) -> arrow::array::Int64Array {
        subjects.iter().map(|s| s.map(|s| self.of(s))).collect()
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ShiftFunction {
    keys: SessionKeys,
    signature: Signature,
}

impl ScalarUDFImpl for ShiftFunction {
    fn name(&self) -> &str {
        "shift_date"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, args: &[DataType]) -> datafusion::error::Result<DataType> {
        match args {
            [date @ (DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _)), _, _, _]
            | [date @ (DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _)), _, _, _, _] => Ok(date.clone()),
            _ => plan_err!(
                "shift_date takes a date or a timestamp in microseconds, a subject, a key's name, a number of days, and perhaps a domain"
            ),
        }
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion::error::Result<ColumnarValue> {
        let name = constant_text(&args.args, 2, "shift_date")?.unwrap_or_default();
        let days = constant_int(&args.args, 3, "shift_date")?.unwrap_or_default();
        let domain = constant_text(&args.args, 4, "shift_date")?.unwrap_or_default();
        if !(1..=36_500).contains(&days) {
            return exec_err!("shift_date: days is between 1 and 36500");
        }
        let offsets = Offsets::new(key(&self.keys.0, &name, "shift_date")?, &domain, days);
        let by = offsets.array(&views(&args.args[1], args.number_rows)?);
        let dates = args.args[0].to_array(args.number_rows)?;
        let shifted: Arc<dyn Array> = match dates.data_type() {
            DataType::Date32 => {
                let dates = dates.as_primitive::<Date32Type>();
                let moved = dates.iter().zip(&by).map(|(d, by)| d?.checked_add(by? as i32));
                Arc::new(moved.collect::<arrow::array::Date32Array>())
            }
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                let dates = dates.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>();
                let moved: arrow::array::Int64Array = dates.iter().zip(&by).map(|(d, by)| d?.checked_add(by? * DAY)).collect();
                Arc::new(moved.reinterpret_cast::<TimestampMicrosecondType>().with_timezone_opt(zone.clone()))
            }
            other => return exec_err!("shift_date takes a date, not {other}"),
        };
        Ok(ColumnarValue::Array(shifted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::testing::*;
    use arrow::array::{ArrayRef, Date32Array, TimestampMicrosecondArray};

    #[tokio::test]
    async fn intervals_of_a_subject_survive() {
        let dates: ArrayRef = Arc::new(Date32Array::from(vec![Some(0), Some(10), Some(0), Some(0), None]));
        let times: ArrayRef =
            Arc::new(TimestampMicrosecondArray::from(vec![Some(5), Some(5 + 10 * DAY), None, Some(0), Some(7)]).with_timezone("UTC"));
        let who = text(&[Some("a"), Some("a"), Some("b"), None, Some("a")]);
        let json = r#"[{"mask": {"d": {"shift_date": {"key": "pii", "by": "who", "days": 30}},
                               "t": {"shift_date": {"key": "pii", "by": "who", "days": 30}},
                               "who": {"null": true}}},
                       {"derive": {"d": "d - date '1970-01-01'", "t": "arrow_cast(t, 'Int64')"}}]"#;
        let out = run_over(json, &[("d", dates), ("t", times), ("who", who)]).await.unwrap();
        let offset = Offsets::new(&Secret::new("key"), "", 30);
        let (a, b) = (offset.of("a"), offset.of("b"));
        let rows: Vec<&str> = out.lines().skip(1).collect();
        assert!(rows[0].contains(&format!(",{},", 5 + a * DAY)), "{out}");
        assert!(rows[1].contains(&format!(",{},", 5 + (10 + a) * DAY)), "{out}");
        assert!(rows[2].contains(&b.to_string()), "{out}");
        assert_eq!(rows[3], ",,");
        assert_eq!(rows[4], format!(",{},", 7 + a * DAY));
    }

    #[test]
    fn offsets_stay_in_bounds_and_are_never_zero() {
        let offsets = Offsets::new(&Secret::new("key"), "", 3);
        let mut seen: Vec<i64> = (0..400).map(|i| offsets.of(&i.to_string())).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen, [-3, -2, -1, 1, 2, 3]);
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_together() {
        let found = complaints(r#"[{"mask": {"price": {"shift_date": {"key": "x", "by": "nam", "days": 0}}}}]"#).await;
        assert_eq!(found.len(), 4, "{found:?}");
    }
}
