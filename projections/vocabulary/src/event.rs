//! Events as the event store records them.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339, macros::format_description};

use crate::{Attributes, Refusal, Value};

/// The stable, opaque id of one aggregate.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AggregateId(Arc<str>);

impl AggregateId {
    /// The id as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for AggregateId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for AggregateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AggregateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// The number of an event within its aggregate: 1, 2, 3 and so on, with no holes.
///
/// On a row it is the watermark; [`Version::NONE`] there means that nothing was applied yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version(pub u64);

impl Version {
    /// The version before the first event.
    pub const NONE: Self = Self(0);

    /// The version that follows this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The version before this one; [`Version::NONE`] before the first.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// When an event happened: RFC 3339 in UTC with milliseconds, so that strings sort in the order of time.
///
/// Rows store timestamps as strings and `max` compares strings, so every spelling of an instant is normalised to one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    text: Arc<str>,
    /// The same instant as a number, which would otherwise be worked out for each event.
    epoch_ms: i64,
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The text is not an RFC 3339 timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 timestamp")]
pub struct NotATimestamp;

impl Timestamp {
    /// Reads any RFC 3339 timestamp and truncates it to milliseconds.
    ///
    /// # Errors
    /// [`NotATimestamp`] if the text is not one.
    pub fn parse(text: &str) -> Result<Self, NotATimestamp> {
        let instant = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| NotATimestamp)?;
        if is_normal(text) {
            return Ok(Self { text: text.into(), epoch_ms: epoch_ms(instant) });
        }
        Self::of(instant).ok_or(NotATimestamp)
    }

    /// The instant `epoch_ms` milliseconds after 1970-01-01T00:00:00Z; `None` outside the years 0 to 9999.
    #[must_use]
    pub fn from_epoch_ms(epoch_ms: i64) -> Option<Self> {
        Self::of(OffsetDateTime::from_unix_timestamp_nanos(i128::from(epoch_ms) * 1_000_000).ok()?)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn epoch_ms(&self) -> i64 {
        self.epoch_ms
    }

    fn of(instant: OffsetDateTime) -> Option<Self> {
        let utc = instant.checked_to_offset(UtcOffset::UTC).filter(|utc| (0..=9999).contains(&utc.year()))?;
        let text = utc.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"));
        Some(Self { text: text.ok()?.into(), epoch_ms: epoch_ms(utc) })
    }

    /// The timestamp as a string, for example `2026-01-05T09:00:00.000Z`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn epoch_ms(instant: OffsetDateTime) -> i64 {
    i64::try_from(instant.unix_timestamp_nanos().div_euclid(1_000_000)).expect("the years 0 to 9999 fit")
}

/// Whether a valid RFC 3339 timestamp is already the one spelling of its instant. A leap second is not.
fn is_normal(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == "2026-01-05T09:00:00.000Z".len() && (bytes[10], bytes[19], bytes[23]) == (b'T', b'.', b'Z') && &bytes[17..19] != b"60"
}

/// One event as the event store holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedEvent {
    /// The aggregate that the event belongs to.
    pub aggregate: AggregateId,
    /// Its number within the aggregate, from 1.
    pub version: Version,
    /// Unique to this event. If a restored store later reuses the version, the id shows that it is another event.
    pub event_id: Arc<str>,
    /// The event type, for example `MoneyDeposited`.
    pub event_type: Arc<str>,
    /// What happened: a [`Value::Map`].
    pub data: Value,
    /// When it happened.
    pub timestamp: Timestamp,
    /// What the writer added about the event, such as a correlation id or a user.
    pub metadata: Option<Value>,
}

/// A recorded event with its data in the rule's own type: the argument of [`crate::Projection::project`].
#[derive(Clone, Debug)]
pub struct Recorded<'a, E> {
    /// The aggregate that the event belongs to.
    pub aggregate: &'a AggregateId,
    /// Its number within the aggregate, from 1.
    pub version: Version,
    /// Unique to this event.
    pub event_id: &'a str,
    /// When it happened.
    pub timestamp: &'a Timestamp,
    /// What happened.
    pub event: E,
    /// What the writer added about the event, such as a correlation id or a user; usually a [`Value::Map`].
    pub metadata: Option<&'a Value>,
    row: Option<&'a Attributes>,
}

impl<'a, E> Recorded<'a, E> {
    pub(crate) fn new(recorded: &'a RecordedEvent, event: E, row: Option<&'a Attributes>) -> Self {
        let RecordedEvent { aggregate, version, event_id, timestamp, metadata, .. } = recorded;
        Self { aggregate, version: *version, event_id, timestamp, event, metadata: metadata.as_ref(), row }
    }

    /// The present attributes of the aggregate's own row, after all earlier events.
    ///
    /// # Panics
    /// Unless the projection sets [`crate::Projection::READS_ROW`]: the event is then refused as [`Refusal::RowNotDeclared`].
    #[must_use]
    pub fn row(&self) -> &'a Attributes {
        // Unwinds with the reason, past the panic hook: nothing is written to the log.
        self.row.unwrap_or_else(|| std::panic::resume_unwind(Box::new(Refusal::RowNotDeclared)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_instant_becomes_the_same_string() {
        for text in ["2026-01-05T09:00:00Z", "2026-01-05T09:00:00.000Z", "2026-01-05T10:00:00+01:00", "2026-01-05T09:00:00.0009-00:00"] {
            assert_eq!(Timestamp::parse(text).map(|t| t.to_string()), Ok("2026-01-05T09:00:00.000Z".into()), "{text}");
        }
        for (text, instant) in [
            ("2016-12-31T23:59:60.000Z", "2016-12-31T23:59:59.999Z"),
            ("2026-01-05t09:00:00.000z", "2026-01-05T09:00:00.000Z"),
            ("2026-01-05T09:00:00.5678Z", "2026-01-05T09:00:00.567Z"),
            ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
        ] {
            let read = Timestamp::parse(text).expect(text);
            assert_eq!((read.as_str(), Timestamp::from_epoch_ms(read.epoch_ms())), (instant, Some(read.clone())));
        }
        let same = Timestamp::from_epoch_ms(1_767_603_600_000).expect("in range");
        assert_eq!((same.as_str(), same.epoch_ms()), ("2026-01-05T09:00:00.000Z", 1_767_603_600_000));
    }

    #[test]
    fn strings_sort_in_the_order_of_time() {
        let whole = Timestamp::parse("2026-01-05T09:00:00Z").expect("valid");
        let half = Timestamp::parse("2026-01-05T09:00:00.5Z").expect("valid");
        let offset = Timestamp::parse("2026-01-05T08:00:00-03:00").expect("valid");
        assert!(whole < half && half < offset);
    }

    #[test]
    fn anything_but_a_timestamp_is_refused() {
        for text in ["", "yesterday", "2026-01-05", "2026-13-05T09:00:00Z", "1767603600", "0000-01-01T00:00:00+23:59"] {
            assert_eq!(Timestamp::parse(text), Err(NotATimestamp), "{text}");
        }
    }
}
