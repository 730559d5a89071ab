//! A duration as people write it: `26h`.

use std::{str::FromStr, time::Duration};

use projection_vocabulary::Timestamp;

use crate::store::now;

/// A duration as people write it: a whole number of `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(Duration);

/// The text is not a valid duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a whole number of seconds, minutes, hours or days, such as 90s, 45m, 26h or 7d")]
pub struct NotAnAge;

impl FromStr for Age {
    type Err = NotAnAge;

    fn from_str(text: &str) -> Result<Self, NotAnAge> {
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(NotAnAge)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            _ => return Err(NotAnAge),
        };
        // `parse` would accept a sign. More days than fit into 32 bits are older than any event.
        let number: u32 = number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit())).ok_or(NotAnAge)?;
        Ok(Self(Duration::from_secs(u64::from(number) * seconds)))
    }
}

impl Age {
    /// The time this long ago, or the earliest possible timestamp.
    #[must_use]
    pub fn before_now(self) -> Timestamp {
        let age_ms = i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX);
        let then = Timestamp::from_epoch_ms(now().epoch_ms().saturating_sub(age_ms));
        then.unwrap_or_else(|| Timestamp::parse("0000-01-01T00:00:00Z").expect("it is a valid timestamp"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_whole_number_and_its_unit() {
        for (text, seconds) in [("90s", 90), ("45m", 2_700), ("26h", 93_600), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(text.parse(), Ok(Age(Duration::from_secs(seconds))), "{text}");
        }
        for text in ["", "h", "26", "-1h", "+1h", "1.5h", "1w", "26 h", "1ü", "99999999999d"] {
            assert_eq!(text.parse::<Age>(), Err(NotAnAge), "{text}");
        }
    }

    #[test]
    fn an_age_is_counted_back_from_now_and_stops_at_the_earliest_timestamp() {
        let hour: Age = "1h".parse().unwrap();
        let [before, then, after] = [now(), hour.before_now(), now()].map(|time| time.epoch_ms());
        assert!((before..=after).contains(&(then + 3_600_000)), "{before} {then} {after}");
        let ages: Age = "4294967295d".parse().unwrap();
        assert_eq!(ages.before_now().as_str(), "0000-01-01T00:00:00.000Z");
    }
}
