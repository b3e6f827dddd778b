//! Numbers and truth values from text: exact, without floats in between, without allocation.
//!
//! Knows bytes only; trimming, messages and columns are `parser`'s.

/// A whole number with an optional sign.
#[inline]
pub fn int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = signed(text)?;
    let value = whole(digits)?;
    if negative {
        // The magnitude of the smallest i64 is one more than that of the greatest.
        (value <= 1 << 63).then(|| (value as i64).wrapping_neg())
    } else {
        i64::try_from(value).ok()
    }
}

/// A decimal as its unscaled value, exactly: digits after the point beyond `scale` must be zeros, and the value must fit
/// `precision`. An exponent is taken (`1.5e3`), since JSON numbers may have one.
#[inline]
pub fn decimal(text: &[u8], precision: u8, scale: i8) -> Option<i128> {
    decimal_or_why(text, precision, scale).ok()
}

/// Why a text is not such a decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoDecimal {
    NotANumber,
    /// More digits after the point than the scale has, and not all zeros.
    TooFine,
    /// Does not fit the precision.
    TooGreat,
}

/// [`decimal`], with the reason where there is none.
#[inline]
pub fn decimal_or_why(text: &[u8], precision: u8, scale: i8) -> Result<i128, NoDecimal> {
    let (negative, digits) = signed(text).ok_or(NoDecimal::NotANumber)?;
    let magnitude = match short_decimal(digits, scale) {
        Some(value) => value,
        None => long_decimal(digits, scale)?,
    };
    if magnitude >= POWERS_OF_TEN[usize::from(precision)] {
        return Err(NoDecimal::TooGreat);
    }
    Ok(if negative { -magnitude } else { magnitude })
}

/// The nearest double. `NaN`, `Infinity` and `-Infinity` are taken as just those words; a number too great for a double is not.
#[inline]
pub fn double(text: &[u8]) -> Option<f64> {
    let (negative, digits) = signed(text)?;
    if let Some(value) = short_double(digits) {
        return Some(if negative { -value } else { value });
    }
    if let Some(word) = word(digits) {
        return Some(if negative { -word } else { word });
    }
    std::str::from_utf8(numeric(text)?).ok()?.parse::<f64>().ok().filter(|v| v.is_finite())
}

/// The nearest float; as [`double`].
#[inline]
pub fn float(text: &[u8]) -> Option<f32> {
    let (negative, digits) = signed(text)?;
    if let Some(word) = word(digits) {
        return Some(if negative { -word as f32 } else { word as f32 });
    }
    std::str::from_utf8(numeric(text)?).ok()?.parse::<f32>().ok().filter(|v| v.is_finite())
}

/// true/false, t/f, yes/no, 1/0 in any case.
#[inline]
pub fn boolean(text: &[u8]) -> Option<bool> {
    match text.len() {
        1 => match text[0] {
            b'1' | b't' | b'T' => Some(true),
            b'0' | b'f' | b'F' => Some(false),
            _ => None,
        },
        2 if text.eq_ignore_ascii_case(b"no") => Some(false),
        3 if text.eq_ignore_ascii_case(b"yes") => Some(true),
        4 if text.eq_ignore_ascii_case(b"true") => Some(true),
        5 if text.eq_ignore_ascii_case(b"false") => Some(false),
        _ => None,
    }
}

/// 10^0 ..= 10^38.
const POWERS_OF_TEN: [i128; 39] = {
    let mut powers = [1; 39];
    let mut i = 1;
    while i < 39 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

const DOUBLE_POWERS_OF_TEN: [f64; 23] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22];

const ZEROS: u64 = 0x3030_3030_3030_3030;

#[inline]
fn signed(text: &[u8]) -> Option<(bool, &[u8])> {
    match text.first()? {
        b'-' => Some((true, &text[1..])),
        b'+' => Some((false, &text[1..])),
        _ => Some((false, text)),
    }
}

/// Digits of any number, if their value fits.
#[inline]
fn whole(text: &[u8]) -> Option<u64> {
    if text.len() <= 19 {
        return digits(text);
    }
    let zeros = text.iter().take_while(|b| **b == b'0').count();
    let rest = &text[zeros..];
    match rest.len() {
        0 => Some(0),
        1..=19 => digits(rest),
        20 => digits(&rest[..19])?.checked_mul(10)?.checked_add(u64::from(digit(rest[19])?)),
        _ => None,
    }
}

/// 1 to 19 digits. Eight at a time, as one word: the tail is padded with zeros in front by a shift, not by a copy.
#[inline]
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    let n = text.len();
    match n {
        1..=3 => text.iter().try_fold(0, |value, b| Some(value * 10 + u64::from(digit(*b)?))),
        4..=7 => {
            let (first, last) = (u32::from_le_bytes(*text.first_chunk()?), u32::from_le_bytes(*text.last_chunk()?));
            let word = u64::from(first) | (u64::from(last) << ((n - 4) * 8));
            let shift = (8 - n) * 8;
            eight((word << shift) | (ZEROS >> (64 - shift)))
        }
        8 => eight(u64::from_le_bytes(*text.first_chunk()?)),
        9..=15 => {
            let high = eight(u64::from_le_bytes(*text.first_chunk()?))?;
            let shift = (16 - n) * 8;
            let low = eight((u64::from_le_bytes(*text.last_chunk()?) & (u64::MAX << shift)) | (ZEROS >> (64 - shift)))?;
            Some(high * U64_POWERS_OF_TEN[n - 8] + low)
        }
        16 => {
            let high = eight(u64::from_le_bytes(*text.first_chunk()?))?;
            Some(high * 100_000_000 + eight(u64::from_le_bytes(*text.last_chunk()?))?)
        }
        17..=19 => Some(digits(&text[..16])? * U64_POWERS_OF_TEN[n - 16] + digits(&text[16..])?),
        _ => None,
    }
}

const U64_POWERS_OF_TEN: [u64; 20] = {
    let mut powers = [1; 20];
    let mut i = 1;
    while i < 20 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

#[inline]
fn digit(b: u8) -> Option<u8> {
    let d = b.wrapping_sub(b'0');
    (d <= 9).then_some(d)
}

/// Eight ASCII digits, the first in the lowest byte: pairs, then fours, then all, by multiplication.
#[inline]
fn eight(word: u64) -> Option<u64> {
    const HIGH: u64 = 0xF0F0_F0F0_F0F0_F0F0;
    if (word & HIGH) != ZEROS || (word.wrapping_add(0x0606_0606_0606_0606) & HIGH) != ZEROS {
        return None;
    }
    let value = word & 0x0F0F_0F0F_0F0F_0F0F;
    let pairs = (value * 10).wrapping_add(value >> 8);
    let low = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    Some(low.wrapping_add(high) >> 32)
}

/// `digits[.digits]` as the digits before and after the point; 18 digits at most.
#[inline]
fn short(text: &[u8]) -> Option<(u64, usize)> {
    if text.len() > 19 {
        return None;
    }
    match text.iter().position(|b| *b == b'.') {
        None if text.len() <= 18 => Some((digits(text)?, 0)),
        None => None,
        Some(point) => {
            let (before, after) = (&text[..point], &text[point + 1..]);
            let high = if before.is_empty() { 0 } else { digits(before)? };
            let low = if after.is_empty() { 0 } else { digits(after)? };
            (text.len() > 1).then(|| (high * U64_POWERS_OF_TEN[after.len()] + low, after.len()))
        }
    }
}

#[inline]
fn short_decimal(text: &[u8], scale: i8) -> Option<i128> {
    let (value, after) = short(text)?;
    let missing = usize::try_from(scale).ok()?.checked_sub(after)?;
    i128::from(value).checked_mul(POWERS_OF_TEN[missing])
}

/// Any number of digits, an exponent, zeros beyond the scale.
#[cold]
fn long_decimal(text: &[u8], scale: i8) -> Result<i128, NoDecimal> {
    let (mantissa, exponent) = match text.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&text[..at], exponent(&text[at + 1..]).ok_or(NoDecimal::NotANumber)?),
        None => (text, 0),
    };
    // Significant digits without the zeros around them; zeros wait until a digit follows.
    let (mut value, mut waiting, mut after, mut seen, mut point, mut overflow) = (0i128, 0i64, 0i64, false, false, false);
    for b in mantissa {
        if *b == b'.' && !point {
            point = true;
            continue;
        }
        let d = digit(*b).ok_or(NoDecimal::NotANumber)?;
        seen = true;
        after += i64::from(point);
        if d == 0 {
            waiting += i64::from(value != 0);
            continue;
        }
        let grown = usize::try_from(waiting + 1).ok().and_then(|n| POWERS_OF_TEN.get(n)).and_then(|p| value.checked_mul(*p));
        match grown.and_then(|v| v.checked_add(i128::from(d))) {
            Some(v) => value = v,
            // No type holds it; the rest is still checked to be a number.
            None => overflow = true,
        }
        waiting = 0;
    }
    if !seen {
        return Err(NoDecimal::NotANumber);
    }
    if value == 0 {
        return Ok(0);
    }
    let shift = i64::from(scale) + exponent - after + waiting;
    if shift < 0 {
        return Err(NoDecimal::TooFine);
    }
    let power = usize::try_from(shift).ok().and_then(|s| POWERS_OF_TEN.get(s)).filter(|_| !overflow);
    power.and_then(|p| value.checked_mul(*p)).ok_or(NoDecimal::TooGreat)
}

/// Bounded: beyond ±100,000 the outcome no longer changes.
fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = signed(text)?;
    if digits.is_empty() {
        return None;
    }
    let value = digits.iter().try_fold(0i64, |v, b| Some((v * 10 + i64::from(digit(*b)?)).min(100_000)))?;
    Some(if negative { -value } else { value })
}

/// Where the digits fit the mantissa and the power of ten is exact, one division is correctly rounded (Clinger).
#[inline]
fn short_double(text: &[u8]) -> Option<f64> {
    let (value, after) = short(text)?;
    (value <= 1 << 53).then(|| value as f64 / DOUBLE_POWERS_OF_TEN[after])
}

fn word(text: &[u8]) -> Option<f64> {
    match text {
        b"NaN" => Some(f64::NAN),
        b"Infinity" => Some(f64::INFINITY),
        _ => None,
    }
}

/// The standard parser also takes words; ours takes digits, signs, point and exponent.
fn numeric(text: &[u8]) -> Option<&[u8]> {
    text.iter().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Slow and independent: digit strings, shifted by text, compared as i128.
    fn slow_decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
        let (sign, rest) = match text.strip_prefix('-') {
            Some(rest) => ("-", rest),
            None => ("", text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((m, e)) => (m, e.parse::<i32>().ok().filter(|_| !e.is_empty())?),
            None => (rest, 0),
        };
        let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if (before.is_empty() && after.is_empty()) || !before.bytes().chain(after.bytes()).all(|b| b.is_ascii_digit()) {
            return None;
        }
        let all = format!("{before}{after}");
        let places = after.len() as i32 - exponent;
        let shift = i32::from(scale) - places;
        let all = if shift >= 0 {
            format!("{all}{}", "0".repeat(shift as usize))
        } else {
            let all = format!("{}{all}", "0".repeat((-shift) as usize));
            let (kept, lost) = all.split_at(all.len() - (-shift) as usize);
            if lost.bytes().any(|b| b != b'0') {
                return None;
            }
            kept.to_owned()
        };
        let all = all.trim_start_matches('0');
        if all.len() > usize::from(precision) {
            return None;
        }
        if all.is_empty() { Some(0) } else { format!("{sign}{all}").parse().ok() }
    }

    #[test]
    fn ints_at_every_length() {
        let mut text = String::new();
        for i in 0..19 {
            text.push(char::from(b'1' + (i % 9) as u8));
            assert_eq!(int(text.as_bytes()), text.parse().ok(), "{text}");
            for at in 0..text.len() {
                let mut bad = text.clone().into_bytes();
                for b in [b'/', b':', b' ', b'a', 0, 0xB1] {
                    bad[at] = b;
                    assert_eq!(int(&bad), None, "{bad:?}");
                }
            }
        }
        assert_eq!(int(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(int(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(int(b"9223372036854775808"), None);
        assert_eq!(int(b"-9223372036854775809"), None);
        assert_eq!(int(b"18446744073709551616"), None);
        assert_eq!(int(b"0000000000000000000000000000012"), Some(12));
        assert_eq!(int(b"+7"), Some(7));
        for bad in ["", "-", "+", "--1", "1-", "1 2", "1.0", "1e3", "1,000", "0x10", "١"] {
            assert_eq!(int(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let d = |t: &str| decimal_or_why(t.as_bytes(), 12, 2);
        assert_eq!(d("1234567890.12"), Ok(123_456_789_012));
        assert_eq!(d("-0.5"), Ok(-50));
        assert_eq!(d(".5"), Ok(50));
        assert_eq!(d("5."), Ok(500));
        assert_eq!(d("1.2300000000000000000000000000000000000000000000"), Ok(123));
        assert_eq!(d("0000000000000000000000000000000000000000000001.5"), Ok(150));
        assert_eq!(d("1.5e3"), Ok(150_000));
        assert_eq!(d("150E-1"), Ok(1500));
        assert_eq!(d("1.234"), Err(NoDecimal::TooFine));
        assert_eq!(d("10000000000"), Err(NoDecimal::TooGreat));
        assert_eq!(d("9999999999.99"), Ok(999_999_999_999));
        assert_eq!(d("1e99999999999999999999"), Err(NoDecimal::TooGreat));
        assert_eq!(d("0e99999999999999999999"), Ok(0));
        assert_eq!(d(&"9".repeat(500)), Err(NoDecimal::TooGreat));
        for bad in ["", ".", "-", "1,000.00", "1.2.3", "1 000", "NaN", "1e", "e5", "1_0"] {
            assert_eq!(d(bad), Err(NoDecimal::NotANumber), "{bad}");
        }
        assert_eq!(decimal(b"99999999999999999999999999999999999999", 38, 0), Some(10i128.pow(38) - 1));
        assert_eq!(decimal(b"0.99999999999999999999999999999999999999", 38, 38), Some(10i128.pow(38) - 1));
        assert_eq!(decimal(b"1", 38, 38), None);
    }

    #[test]
    fn doubles_and_their_words() {
        for text in ["0", "-0", "1.5", ".5", "5.", "1e5", "-1.25E-3", "123456789012345678", "0.1", "9007199254740993", "4.35", "1e-400"] {
            assert_eq!(double(text.as_bytes()).map(f64::to_bits), text.parse::<f64>().ok().map(f64::to_bits), "{text}");
            assert_eq!(float(text.as_bytes()).map(f32::to_bits), text.parse::<f32>().ok().map(f32::to_bits), "{text}");
        }
        assert!(double(b"NaN").is_some_and(f64::is_nan));
        assert_eq!(double(b"-Infinity"), Some(f64::NEG_INFINITY));
        assert_eq!(float(b"Infinity"), Some(f32::INFINITY));
        for bad in ["inf", "nan", "", ".", "-", "1e999", "1,5", "0x1p3", "1 2", "infinity"] {
            assert_eq!(double(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(float(b"1e39"), None);
    }

    #[test]
    fn booleans_are_the_listed_words() {
        for (words, value) in [(["true", "T", "yes", "1", "YES"], Some(true)), (["False", "f", "no", "0", "NO"], Some(false))] {
            words.iter().for_each(|w| assert_eq!(boolean(w.as_bytes()), value, "{w}"));
        }
        for bad in ["", "2", "on", "tru", "truee", "-1", "nope"] {
            assert_eq!(boolean(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn ints_agree_with_the_standard(text in "[-+]?[0-9]{0,22}[0-9 .,a]?") {
            prop_assert_eq!(int(text.as_bytes()), text.parse::<i64>().ok());
        }
        #[test]
        fn decimals_agree_with_text_arithmetic(text in "[-+]?0{0,3}[0-9]{0,30}\\.?[0-9]{0,12}0{0,12}([eE][-+]?[0-9]{1,2})?[ ,.x]?", precision in 1u8..=38, scale in 0i8..=38) {
            let scale = scale.min(precision as i8);
            prop_assert_eq!(decimal(text.as_bytes(), precision, scale), slow_decimal(&text, precision, scale));
        }
        #[test]
        fn doubles_agree_with_the_standard(text in "[-+]?[0-9]{0,20}\\.?[0-9]{0,20}([eE][-+]?[0-9]{1,2})?") {
            prop_assert_eq!(double(text.as_bytes()).map(f64::to_bits), text.parse::<f64>().ok().filter(|v| v.is_finite()).map(f64::to_bits));
        }
    }
}
