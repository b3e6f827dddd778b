//! Mean, median and mode of a column, computed batch by batch. Exact: whole numbers, decimals, dates and instants never pass through floats.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, TimeUnit};
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use hashbrown::HashMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd)]
pub enum Statistic {
    Mean,
    Median,
    Mode,
}

pub fn is_number(ty: &DataType) -> bool {
    ty.is_signed_integer()
        || matches!(
            ty,
            DataType::Float32
                | DataType::Float64
                | DataType::Decimal128(..)
                | DataType::Date32
                | DataType::Timestamp(TimeUnit::Microsecond, _)
        )
}

/// Takes in a column and gives its statistic.
#[derive(Debug)]
pub struct Gatherer {
    ty: DataType,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Sum in whole units (or units of the last decimal) or as a float, and count.
    Mean {
        whole: i128,
        real: f64,
        count: u64,
    },
    MedianWhole(Vec<i128>),
    MedianReal(Vec<f64>),
    Mode {
        converter: RowConverter,
        counts: HashMap<Box<[u8]>, u64>,
        bytes: usize,
    },
}

impl Gatherer {
    pub fn new(statistic: Statistic, ty: &DataType) -> Result<Self> {
        let state = match statistic {
            Statistic::Mean => State::Mean { whole: 0, real: 0.0, count: 0 },
            Statistic::Median if ty.is_floating() => State::MedianReal(vec![]),
            Statistic::Median => State::MedianWhole(vec![]),
            Statistic::Mode => {
                State::Mode { converter: RowConverter::new(vec![SortField::new(ty.clone())])?, counts: HashMap::new(), bytes: 0 }
            }
        };
        Ok(Gatherer { ty: ty.clone(), state })
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        match &self.state {
            State::Mean { .. } => 0,
            State::MedianWhole(values) => values.capacity() * 16,
            State::MedianReal(values) => values.capacity() * 8,
            State::Mode { bytes, .. } => *bytes,
        }
    }

    pub fn take(&mut self, column: &ArrayRef) -> Result<()> {
        match &mut self.state {
            State::Mean { real, count, .. } if self.ty.is_floating() => {
                let values = arrow::compute::cast(column, &DataType::Float64)?;
                for value in values.as_primitive::<Float64Type>().iter().flatten().filter(|v| !v.is_nan()) {
                    *real += value;
                    *count += 1;
                }
            }
            State::Mean { whole, count, .. } => {
                for value in wholes(column)? {
                    let Some(sum) = whole.checked_add(value) else {
                        return datafusion::common::exec_err!("the sum of a column is too large for its mean; fill it with the median");
                    };
                    *whole = sum;
                    *count += 1;
                }
            }
            State::MedianWhole(all) => all.extend(wholes(column)?),
            State::MedianReal(all) => {
                let values = arrow::compute::cast(column, &DataType::Float64)?;
                all.extend(values.as_primitive::<Float64Type>().iter().flatten().filter(|v| !v.is_nan()));
            }
            State::Mode { converter, counts, bytes } => {
                let rows = converter.convert_columns(std::slice::from_ref(column))?;
                for (i, row) in rows.iter().enumerate() {
                    if column.is_null(i) {
                        continue;
                    }
                    match counts.get_mut(row.as_ref()) {
                        Some(count) => *count += 1,
                        None => {
                            *bytes += row.as_ref().len() + 48;
                            counts.insert(row.as_ref().into(), 1);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The statistic as a value of the column's type; NULL where there were no values.
    pub fn finish(self) -> Result<ScalarValue> {
        match self.state {
            State::Mean { count: 0, .. } => ScalarValue::try_from(&self.ty),
            State::Mean { real, count, .. } if self.ty.is_floating() => ScalarValue::Float64(Some(real / count as f64)).cast_to(&self.ty),
            State::Mean { whole, count, .. } => value(divided(whole, i128::from(count)), &self.ty),
            State::MedianWhole(mut all) => match middle(&mut all, i128::cmp) {
                None => ScalarValue::try_from(&self.ty),
                // The half of each, and of what both halvings lose: their sum may not fit.
                Some((a, b)) => value(a / 2 + b / 2 + divided(a % 2 + b % 2, 2), &self.ty),
            },
            State::MedianReal(mut all) => match middle(&mut all, f64::total_cmp) {
                None => ScalarValue::try_from(&self.ty),
                Some((a, b)) => ScalarValue::Float64(Some(a / 2.0 + b / 2.0)).cast_to(&self.ty),
            },
            State::Mode { converter, counts, .. } => {
                // Encoded rows sort as their values do.
                let most = counts.iter().max_by(|(a, n), (b, m)| n.cmp(m).then_with(|| b.cmp(a)));
                let Some((row, _)) = most else { return ScalarValue::try_from(&self.ty) };
                let parser = converter.parser();
                let columns = converter.convert_rows([parser.parse(row)])?;
                ScalarValue::try_from_array(&columns[0], 0)
            }
        }
    }
}

/// The two values in the middle; the same one twice for an odd number.
fn middle<T: Copy>(all: &mut [T], order: impl Fn(&T, &T) -> std::cmp::Ordering + Copy) -> Option<(T, T)> {
    if all.is_empty() {
        return None;
    }
    let half = all.len() / 2;
    let odd = all.len() % 2 == 1;
    let (below, upper, _) = all.select_nth_unstable_by(half, order);
    let upper = *upper;
    let lower = if odd { upper } else { below.iter().copied().max_by(order).unwrap_or(upper) };
    Some((lower, upper))
}

/// Division that rounds half away from zero.
fn divided(value: i128, by: i128) -> i128 {
    let (quotient, rest) = (value / by, value % by);
    if rest.abs() * 2 >= by { quotient + rest.signum() } else { quotient }
}

/// The values of a column as whole numbers of its smallest unit.
fn wholes(column: &ArrayRef) -> Result<Vec<i128>> {
    Ok(match column.data_type() {
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().iter().flatten().collect(),
        DataType::Date32 => {
            let days = arrow::compute::cast(column, &DataType::Int32)?;
            days.as_primitive::<arrow::datatypes::Int32Type>().iter().flatten().map(i128::from).collect()
        }
        _ => arrow::compute::cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().iter().flatten().map(i128::from).collect(),
    })
}

/// A whole number of the smallest unit, as a value of the type. It lies between two values of the column, so it fits.
fn value(whole: i128, ty: &DataType) -> Result<ScalarValue> {
    match ty {
        DataType::Decimal128(precision, scale) => Ok(ScalarValue::Decimal128(Some(whole), *precision, *scale)),
        DataType::Date32 => Ok(ScalarValue::Date32(i32::try_from(whole).ok())),
        DataType::Timestamp(_, zone) => Ok(ScalarValue::TimestampMicrosecond(i64::try_from(whole).ok(), zone.clone())),
        _ => ScalarValue::Int64(i64::try_from(whole).ok()).cast_to(ty),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow::array::{Float64Array, Int64Array};

    fn of(statistic: Statistic, column: ArrayRef) -> ScalarValue {
        let mut gatherer = Gatherer::new(statistic, column.data_type()).unwrap();
        gatherer.take(&column.slice(0, 1)).unwrap();
        gatherer.take(&column.slice(1, column.len() - 1)).unwrap();
        gatherer.finish().unwrap()
    }

    #[test]
    fn rounding_and_extremes() {
        let ints = |v: Vec<i64>| Arc::new(Int64Array::from(v)) as ArrayRef;
        assert_eq!(of(Statistic::Mean, ints(vec![-1, -2])), ScalarValue::Int64(Some(-2)));
        assert_eq!(of(Statistic::Median, ints(vec![3, 2])), ScalarValue::Int64(Some(3)));
        assert_eq!(of(Statistic::Median, ints(vec![i64::MAX, i64::MAX])), ScalarValue::Int64(Some(i64::MAX)));
        assert_eq!(of(Statistic::Mode, ints(vec![5, -7, -7, 5])), ScalarValue::Int64(Some(-7)));
        let reals = Arc::new(Float64Array::from(vec![1.0, f64::NAN, 2.0, 4.0]));
        assert_eq!(of(Statistic::Median, reals), ScalarValue::Float64(Some(2.0)));
    }
}
