//! Exact decimals as DynamoDB stores them: 38 significant digits, and never a float.

use std::{fmt, ops, str::FromStr};

use bigdecimal::{BigDecimal, ToPrimitive as _, Zero as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The most significant digits that a DynamoDB number holds.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html>
pub const SIGNIFICANT_DIGITS_MAX: u64 = 38;
/// The decimal exponent of the leading digit lies within these bounds (same source).
const EXPONENT_MAX: i64 = 125;
const EXPONENT_MIN: i64 = -130;
/// DynamoDB prints no number with more than 171 characters. Refusing a much longer text early stops a hostile record from
/// costing seconds of parsing.
const TEXT_LEN_MAX: usize = 256;

/// A number of at most 64 bits with a decimal point no further than this from its digits is within DynamoDB's range.
const SMALL_SCALE_MAX: u8 = 64;

/// Marks a `Decimal` among other newtypes when it is deserialised from a [`crate::Value`].
pub(crate) const NEWTYPE: &str = "projection_vocabulary::Decimal";

/// An exact decimal number.
///
/// DynamoDB can hold every parsed `Decimal`. A sum is exact and may exceed DynamoDB's limits; call [`Decimal::check`] before
/// writing one, so that it is refused and never rounded.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Decimal(BigDecimal);

/// Why a text or a sum is not a number that DynamoDB can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// The text is not a decimal number.
    #[error("not a decimal number")]
    NotANumber,
    /// The number has more digits than DynamoDB can hold.
    #[error("a number of {0} significant digits; DynamoDB holds at most 38")]
    TooManyDigits(u64),
    /// The magnitude lies outside 1E-130 to 9.99E+125.
    #[error("a number outside DynamoDB's range of 1E-130 to 9.99E+125")]
    OutOfRange,
}

impl Decimal {
    /// Zero.
    #[must_use]
    pub fn zero() -> Self {
        Self(BigDecimal::zero())
    }

    /// Whether this is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }

    /// Whether DynamoDB can hold this number exactly.
    ///
    /// # Errors
    /// [`DecimalError::TooManyDigits`] or [`DecimalError::OutOfRange`]: refuse the change that would write it.
    pub fn check(&self) -> Result<(), DecimalError> {
        if self.0.is_zero() || self.is_small() {
            return Ok(());
        }
        let normal = self.0.normalized();
        let digits = normal.digits();
        if digits > SIGNIFICANT_DIGITS_MAX {
            return Err(DecimalError::TooManyDigits(digits));
        }
        let leading = i64::try_from(digits).unwrap_or(i64::MAX) - 1 - normal.fractional_digit_count();
        if (EXPONENT_MIN..=EXPONENT_MAX).contains(&leading) { Ok(()) } else { Err(DecimalError::OutOfRange) }
    }

    /// Whether it is far from DynamoDB's limits, which is quicker to tell than its digits: at most 20 of them, not far from the point.
    fn is_small(&self) -> bool {
        let (digits, scale) = self.0.as_bigint_and_scale();
        digits.bits() <= u64::from(u64::BITS) && scale.abs() <= i64::from(SMALL_SCALE_MAX)
    }

    /// The number as an `i128`, if it is whole and fits.
    #[must_use]
    pub fn to_i128(&self) -> Option<i128> {
        self.0.is_integer().then(|| self.0.to_plain_string().split('.').next()?.parse().ok()).flatten()
    }

    /// The absolute value.
    #[must_use]
    pub fn abs(&self) -> Self {
        Self(self.0.abs())
    }
}

/// A number of at most 64 bits without zeros at its end. Nearly all amounts are such, and `BigDecimal` takes several allocations to read
/// or write one.
#[derive(Clone, Copy)]
struct Small {
    digits: i64,
    /// How many of the digits are behind the point; negative if zeros follow them.
    scale: i64,
}

impl Small {
    /// As many digits surely fit into 64 bits.
    const DIGITS_MAX: usize = 18;
    /// A sign, a zero and a point, or the digits of 64 bits; and what the greatest scale adds.
    const TEXT_LEN_MAX: usize = 21 + SMALL_SCALE_MAX as usize;

    fn new(mut digits: i64, mut scale: i64) -> Self {
        if digits == 0 {
            return Self { digits, scale: 0 };
        }
        while digits % 10 == 0 {
            digits /= 10;
            scale -= 1;
        }
        Self { digits, scale }
    }

    fn of(number: &BigDecimal) -> Option<Self> {
        let (digits, scale) = number.as_bigint_and_scale();
        digits.to_i64().map(|digits| Self::new(digits, scale))
    }

    /// Reads digits that may have a minus before them and a point among them. Whatever else is a number, `BigDecimal` reads.
    fn parse(text: &str) -> Option<Self> {
        let (sign, unsigned) = text.strip_prefix('-').map_or((1, text), |unsigned| (-1, unsigned));
        let (whole, fraction) = match unsigned.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (unsigned, ""),
        };
        if whole.is_empty() || whole.len() + fraction.len() > Self::DIGITS_MAX {
            return None;
        }
        let add = |digits: i64, byte: u8| byte.is_ascii_digit().then(|| digits * 10 + i64::from(byte - b'0'));
        let digits = whole.bytes().chain(fraction.bytes()).try_fold(0, add)?;
        Some(Self::new(sign * digits, i64::try_from(fraction.len()).ok()?))
    }

    /// Writes it without an exponent. Its scale must be small.
    fn write(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Filled from the end.
        let (mut text, mut begin) = ([b'0'; Self::TEXT_LEN_MAX], Self::TEXT_LEN_MAX);
        let mut put = |byte| {
            begin -= 1;
            text[begin] = byte;
        };
        (self.scale..0).for_each(|_| put(b'0'));
        let (mut left, mut behind) = (self.digits.unsigned_abs(), 0);
        while left > 0 || behind <= self.scale {
            if behind == self.scale && behind > 0 {
                put(b'.');
            }
            put(b'0' + (left % 10) as u8);
            left /= 10;
            behind += 1;
        }
        if self.digits < 0 {
            put(b'-');
        }
        f.write_str(std::str::from_utf8(&text[begin..]).map_err(|_| fmt::Error)?)
    }
}

impl From<Small> for BigDecimal {
    fn from(Small { digits, scale }: Small) -> Self {
        Self::new(digits.into(), scale)
    }
}

/// The same number without zeros at its end. `BigDecimal::normalized` writes out all digits to find them.
fn normal(number: &BigDecimal) -> BigDecimal {
    Small::of(number).map_or_else(|| number.normalized(), BigDecimal::from)
}

impl FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        if let Some(small) = Small::parse(text) {
            return Ok(Self(small.into()));
        }
        let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
        if text.is_empty() || text.len() > TEXT_LEN_MAX || !text.bytes().all(plain) {
            return Err(DecimalError::NotANumber);
        }
        // With more than four digits in the exponent the number is out of range whatever its digits; do not let the parser compute it.
        if let Some((_, exponent)) = text.split_once(['e', 'E'])
            && exponent.trim_start_matches(['+', '-']).trim_start_matches('0').len() > 4
        {
            return Err(DecimalError::OutOfRange);
        }
        let parsed = Self(normal(&BigDecimal::from_str(text).map_err(|_| DecimalError::NotANumber)?));
        parsed.check()?;
        Ok(parsed)
    }
}

impl From<u64> for Decimal {
    fn from(whole: u64) -> Self {
        Self(BigDecimal::from(whole))
    }
}

impl From<i32> for Decimal {
    fn from(whole: i32) -> Self {
        Self(BigDecimal::from(whole))
    }
}

impl From<i64> for Decimal {
    fn from(whole: i64) -> Self {
        Self(BigDecimal::from(whole))
    }
}

impl From<&Decimal> for Decimal {
    fn from(other: &Decimal) -> Self {
        other.clone()
    }
}

impl ops::AddAssign<&Decimal> for Decimal {
    fn add_assign(&mut self, other: &Decimal) {
        self.0 += &other.0;
    }
}

impl ops::SubAssign<&Decimal> for Decimal {
    fn sub_assign(&mut self, other: &Decimal) {
        self.0 -= &other.0;
    }
}

impl ops::Mul<u64> for &Decimal {
    type Output = Decimal;

    fn mul(self, times: u64) -> Decimal {
        Decimal(&self.0 * BigDecimal::from(times))
    }
}

impl ops::Neg for &Decimal {
    type Output = Decimal;

    fn neg(self) -> Decimal {
        Decimal(-&self.0)
    }
}

/// As DynamoDB prints it: without an exponent and without trailing zeros.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Small::of(&self.0).filter(|small| small.scale.abs() <= i64::from(SMALL_SCALE_MAX)) {
            Some(small) => small.write(f),
            None => self.0.normalized().write_plain_string(f),
        }
    }
}

impl fmt::Debug for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A string, except for a [`crate::Value`], which has exact numbers.
        serializer.serialize_newtype_struct(NEWTYPE, &self.to_string())
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Exact;

        impl<'de> de::Visitor<'de> for Exact {
            type Value = Decimal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an exact number")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Decimal, D::Error> {
                inner.deserialize_any(self)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Decimal, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, whole: u64) -> Result<Decimal, E> {
                Ok(whole.into())
            }

            fn visit_i64<E: de::Error>(self, whole: i64) -> Result<Decimal, E> {
                Ok(whole.into())
            }
        }

        deserializer.deserialize_newtype_struct(NEWTYPE, Exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().expect("a test's number parses")
    }

    #[test]
    fn sums_are_exact_to_the_last_of_38_digits() {
        let mut sum = decimal("1234567890123456789.0123456789012345678");
        sum += &decimal("0.0000000000000000001");
        assert_eq!(sum.to_string(), "1234567890123456789.0123456789012345679");
        assert_eq!(sum.check(), Ok(()));
    }

    #[test]
    fn a_sum_beyond_38_digits_is_refused_not_rounded() {
        let mut sum = decimal("99999999999999999999999999999999999999");
        sum += &1.into();
        assert_eq!(sum.check(), Ok(()), "1E+38 has one significant digit");
        sum += &1.into();
        assert_eq!(sum.check(), Err(DecimalError::TooManyDigits(39)));
    }

    #[test]
    fn numbers_print_in_the_form_dynamodb_prints() {
        for (text, printed) in [("1.00", "1"), ("1E+2", "100"), ("-0.50", "-0.5"), ("0", "0"), ("-0", "0"), ("007", "7"), ("1e-3", "0.001")]
        {
            assert_eq!(decimal(text).to_string(), printed, "{text}");
        }
    }

    #[test]
    fn the_edges_of_the_range_are_accepted_and_numbers_beyond_are_refused() {
        for text in ["1E-130", "9.9999999999999999999999999999999999999E+125", "-9.9999999999999999999999999999999999999E+125"] {
            assert!(text.parse::<Decimal>().is_ok(), "{text}");
        }
        for text in ["1E-131", "1E+126", "1E+999999999", "1e-99999999999999999999"] {
            assert_eq!(text.parse::<Decimal>(), Err(DecimalError::OutOfRange), "{text}");
        }
        assert_eq!("123456789012345678901234567890123456789".parse::<Decimal>(), Err(DecimalError::TooManyDigits(39)));
    }

    #[test]
    fn anything_but_a_number_is_refused() {
        for text in ["", " 1", "NaN", "inf", "1_000", "0x10", "--1", "1e", "e5", ".", "1.2.3", &"9".repeat(300)] {
            assert_eq!(text.parse::<Decimal>(), Err(DecimalError::NotANumber), "{text}");
        }
    }

    #[test]
    fn small_numbers_take_a_short_way_to_the_same_form() {
        let texts =
            ["1.50", "-1.50", "1000", "-9223372036854775808", "9223372036854775807", "9223372036854775800", "0.00", "1E-70", "1E+70"];
        for number in texts.map(|text| BigDecimal::from_str(text).expect("a number")) {
            assert_eq!(normal(&number).as_bigint_and_scale(), number.normalized().as_bigint_and_scale(), "{number}");
        }
    }

    #[test]
    fn small_numbers_are_read_and_written_as_bigdecimal_does() {
        for digits in [0, 1, -1, 5, 10, -120, 12_345, 999_999_999_999_999_999, i64::MAX, i64::MIN, i64::MIN + 8] {
            for scale in -70..=70 {
                let number = BigDecimal::new(digits.into(), scale);
                let plain = number.normalized().to_plain_string();
                assert_eq!(Decimal(number.clone()).to_string(), plain, "{number:?}");
                let texts = [plain, number.to_plain_string(), number.to_string()];
                for (text, small) in texts.iter().filter_map(|text| Some((text, Small::parse(text)?))) {
                    assert_eq!(BigDecimal::from(small).as_bigint_and_scale(), number.normalized().as_bigint_and_scale(), "{text}");
                }
            }
        }
        assert_eq!(["-12.50", "007", "0.0", "-0"].map(|text| Small::parse(text).is_some()), [true; 4]);
        let others = ["", "-", ".", "1.", ".5", "+5", "--5", "-.5", "1e3", "1.2.3", "1 ", "1_0", "\u{661}", "1234567890123456789"];
        assert_eq!(others.map(|text| Small::parse(text).is_some()), [false; 14]);
    }

    #[test]
    fn whole_numbers_are_recognised() {
        assert_eq!(decimal("1E+2").to_i128(), Some(100));
        assert_eq!(decimal("-7.0").to_i128(), Some(-7));
        assert_eq!(decimal("0.5").to_i128(), None);
    }
}
