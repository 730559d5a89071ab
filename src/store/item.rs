//! Converts between items and values. Only this module knows the event store's attribute names; `projections/README.md` specifies
//! them in "What the event store must look like".

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{AggregateId, Attributes, DEPTH_MAX, Decimal, DecimalError, RecordedEvent, Timestamp, Value, Version};
use serde_dynamo::{AttributeValue as Attribute, Item};

/// An item in the SDK's type.
pub type SdkItem = HashMap<String, AttributeValue>;

const AGGREGATE: &str = "AGGREGATE#";
const EVENT: &str = "EVENT#";
/// The most bytes of a partition key. A longer one cannot have been in a table, and neither a row nor a parking entry could hold it.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
const PARTITION_KEY_BYTES_MAX: usize = 2048;
/// The sort key of the item that holds an aggregate's current version.
pub const VERSION_SK: &str = "VERSION";
/// The type of an event that was put in the place of one that could never be read. No rule handles it, and it changes no state.
pub const SKIPPED_TYPE: &str = "projector.skipped";
/// The digits of a version in a sort key, so that string order is numeric order.
const VERSION_DIGITS: usize = 10;
/// The highest version that a sort key can hold.
pub const VERSION_MAX: Version = Version(9_999_999_999);

/// What an item in the event store's table is, by its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// An event.
    Event(AggregateId, Version),
    /// Not an event: an aggregate's VERSION item, or another kind of item in the same table.
    Other,
}

/// Why an item cannot be read as an event. Its aggregate is parked; an item that does not identify one is parked by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// An attribute that every event has is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// An attribute does not have the required type.
    #[error("`{0}` has the wrong type")]
    WrongKind(&'static str),
    /// The sort key begins like an event's, but the rest is not a valid version.
    #[error("the sort key is not `EVENT#` followed by a version in 10 digits, 1 or higher")]
    SortKey,
    /// The partition key is not an aggregate's.
    #[error("the partition key of an event is not `AGGREGATE#` followed by an id, at most 2048 bytes in all")]
    PartitionKey,
    /// An attribute and the key name different aggregates or versions.
    #[error("`{0}` does not match the item's key")]
    KeyMismatch(&'static str),
    /// A number that DynamoDB cannot hold.
    #[error("`{0}`: {1}")]
    Number(&'static str, DecimalError),
    /// The timestamp is not valid.
    #[error("`timestamp` is not an RFC 3339 timestamp")]
    Timestamp,
    /// A value is nested deeper than DynamoDB allows.
    #[error("`{0}` is nested deeper than 32 levels")]
    TooDeep(&'static str),
    /// The record is not a DynamoDB stream record.
    #[error("the record is not a DynamoDB stream record: {0}")]
    Record(Cow<'static, str>),
}

/// The partition key of an aggregate's items.
#[must_use]
pub fn partition_key(aggregate: &AggregateId) -> String {
    format!("{AGGREGATE}{aggregate}")
}

/// The aggregate that this partition key belongs to; `None` if it is not an aggregate's.
#[must_use]
pub fn aggregate_of(partition_key: &str) -> Option<AggregateId> {
    partition_key
        .strip_prefix(AGGREGATE)
        .filter(|id| !id.is_empty() && partition_key.len() <= PARTITION_KEY_BYTES_MAX)
        .map(AggregateId::from)
}

/// Whether the event store has room for an aggregate of this id.
#[must_use]
pub fn is_aggregate(id: &AggregateId) -> bool {
    aggregate_of(&partition_key(id)).is_some()
}

/// The sort key of an event.
#[must_use]
pub fn sort_key(version: Version) -> String {
    format!("{EVENT}{:0VERSION_DIGITS$}", version.0)
}

/// The partition key of an event type in the index by event type.
#[must_use]
pub fn type_key(event_type: &str) -> String {
    format!("{EVENT}{event_type}")
}

/// Returns what the item with these keys is.
///
/// # Errors
/// [`Malformed`] if the sort key begins like an event's, but the keys are not an event's.
pub fn key_of(keys: &Item) -> Result<Key, Malformed> {
    match (keys.get("PK"), keys.get("SK")) {
        (Some(Attribute::S(partition)), Some(Attribute::S(sort))) => key_of_texts(partition, sort),
        (_, Some(Attribute::S(sort))) if sort.starts_with(EVENT) => Err(Malformed::PartitionKey),
        _ => Ok(Key::Other),
    }
}

/// Returns what the item with this partition key and this sort key is.
///
/// # Errors
/// As [`key_of`].
pub fn key_of_texts(partition: &str, sort: &str) -> Result<Key, Malformed> {
    let Some(digits) = sort.strip_prefix(EVENT) else { return Ok(Key::Other) };
    let aggregate = aggregate_of(partition).ok_or(Malformed::PartitionKey)?;
    let numeric = digits.len() == VERSION_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    let version = digits.parse().ok().filter(|version| numeric && *version > 0).ok_or(Malformed::SortKey)?;
    Ok(Key::Event(aggregate, Version(version)))
}

/// Reads an event's item.
///
/// # Errors
/// [`Malformed`], which names the attribute but never contains its value.
pub fn decode_event(item: &Item) -> Result<RecordedEvent, Malformed> {
    let Key::Event(aggregate, version) = key_of(item)? else { return Err(Malformed::SortKey) };
    if text(item, "aggregateId")? != aggregate.as_str() {
        return Err(Malformed::KeyMismatch("aggregateId"));
    }
    let stated = match item.get("eventVersion").ok_or(Malformed::Missing("eventVersion"))? {
        Attribute::N(number) => whole(number).ok_or(Malformed::KeyMismatch("eventVersion"))?,
        _ => return Err(Malformed::WrongKind("eventVersion")),
    };
    if stated != version.0 {
        return Err(Malformed::KeyMismatch("eventVersion"));
    }
    let data = item.get("eventData").ok_or(Malformed::Missing("eventData"))?;
    if !matches!(data, Attribute::M(_)) {
        return Err(Malformed::WrongKind("eventData"));
    }
    Ok(RecordedEvent {
        aggregate,
        version,
        event_id: text(item, "eventId")?.into(),
        event_type: text(item, "eventType")?.into(),
        data: to_value(data, "eventData", 0)?,
        timestamp: Timestamp::parse(text(item, "timestamp")?).map_err(|_| Malformed::Timestamp)?,
        metadata: item.get("metadata").map(|metadata| to_value(metadata, "metadata", 0)).transpose()?,
    })
}

/// The whole number that an attribute of type N holds; `None` if it is negative, has a fraction or exceeds 64 bits. DynamoDB writes a number
/// in one way, but emulators return the text that they were given: `1`, `1.0` and `1E+0` are one number.
#[must_use]
pub fn whole(number: &str) -> Option<u64> {
    let exact = || number.parse::<Decimal>().ok()?.to_i128();
    number.parse().ok().or_else(|| exact()?.try_into().ok())
}

fn text<'a>(item: &'a Item, name: &'static str) -> Result<&'a str, Malformed> {
    match item.get(name) {
        Some(Attribute::S(text)) if !text.is_empty() => Ok(text),
        Some(Attribute::S(_)) | None => Err(Malformed::Missing(name)),
        Some(_) => Err(Malformed::WrongKind(name)),
    }
}

/// An attribute of type S.
#[must_use]
pub fn text_of<'a>(item: &'a SdkItem, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// An attribute of type N, if it holds a whole number.
#[must_use]
pub fn number_of(item: &SdkItem, name: &str) -> Option<u64> {
    whole(item.get(name)?.as_n().ok()?)
}

/// The event type in an item; `None` if it has none.
#[must_use]
pub fn event_type_of(item: &Item) -> Option<&str> {
    text(item, "eventType").ok()
}

/// Encodes an event as an item.
#[must_use]
pub fn encode_event(event: &RecordedEvent) -> SdkItem {
    let mut item = SdkItem::from([
        ("PK".into(), AttributeValue::S(partition_key(&event.aggregate))),
        ("SK".into(), AttributeValue::S(sort_key(event.version))),
        ("GSI1PK".into(), AttributeValue::S(type_key(&event.event_type))),
        ("GSI1SK".into(), AttributeValue::S(event.timestamp.to_string())),
        ("eventId".into(), AttributeValue::S(event.event_id.to_string())),
        ("aggregateId".into(), AttributeValue::S(event.aggregate.to_string())),
        ("eventType".into(), AttributeValue::S(event.event_type.to_string())),
        ("eventData".into(), from_value(&event.data)),
        ("eventVersion".into(), AttributeValue::N(event.version.to_string())),
        ("timestamp".into(), AttributeValue::S(event.timestamp.to_string())),
    ]);
    if let Some(metadata) = &event.metadata {
        item.insert("metadata".into(), from_value(metadata));
    }
    item
}

/// A value in the SDK's type.
#[must_use]
pub fn from_value(value: &Value) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(flag) => AttributeValue::Bool(*flag),
        Value::Number(number) => AttributeValue::N(number.to_string()),
        Value::Text(text) => AttributeValue::S(text.to_string()),
        Value::Bytes(bytes) => AttributeValue::B(bytes.clone().into()),
        Value::TextSet(texts) => AttributeValue::Ss(texts.iter().map(ToString::to_string).collect()),
        Value::List(elements) => AttributeValue::L(elements.iter().map(from_value).collect()),
        Value::Map(members) => AttributeValue::M(members.iter().map(|(name, member)| (name.clone(), from_value(member))).collect()),
    }
}

fn to_value(attribute: &Attribute, within: &'static str, depth: usize) -> Result<Value, Malformed> {
    if depth > DEPTH_MAX {
        return Err(Malformed::TooDeep(within));
    }
    let number = |text: &String| text.parse().map(Value::Number).map_err(|error| Malformed::Number(within, error));
    let bytes = |bytes: &Vec<u8>| Value::Bytes(bytes.clone());
    Ok(match attribute {
        Attribute::Null(_) => Value::Null,
        Attribute::Bool(flag) => Value::Bool(*flag),
        Attribute::N(text) => number(text)?,
        Attribute::S(text) => Value::Text(text.as_str().into()),
        Attribute::B(value) => bytes(value),
        Attribute::Ss(texts) => Value::TextSet(texts.iter().map(|text| Arc::from(text.as_str())).collect()),
        Attribute::Ns(numbers) => Value::List(numbers.iter().map(number).collect::<Result<_, _>>()?),
        Attribute::Bs(values) => Value::List(values.iter().map(bytes).collect()),
        Attribute::L(elements) => Value::List(elements.iter().map(|e| to_value(e, within, depth + 1)).collect::<Result<_, _>>()?),
        Attribute::M(members) => {
            // In the order of names, so that of several faults it is always the same one that is told.
            let sorted: BTreeMap<_, _> = members.iter().collect();
            let member = |(name, member): (&String, _)| Ok((name.clone(), to_value(member, within, depth + 1)?));
            Value::Map(sorted.into_iter().map(member).collect::<Result<_, Malformed>>()?)
        }
    })
}

/// Values as JSON that keeps their types, in DynamoDB's form: for `#[serde(with)]`.
#[allow(clippy::ref_option, reason = "serde gives fields by reference")]
pub(crate) mod typed {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    use super::{Attribute, Value, from_value, to_value};

    pub(crate) fn serialize<S: Serializer>(value: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(|value| Attribute::from(from_value(value))).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
        let attribute: Option<Attribute> = Option::deserialize(deserializer)?;
        attribute.map(|attribute| to_value(&attribute, "a value", 0).map_err(D::Error::custom)).transpose()
    }
}

/// The attributes of a read model's item, as values.
///
/// # Errors
/// [`Malformed`] if the item has a value that the worker cannot have written.
pub fn attributes(item: SdkItem) -> Result<Attributes, Malformed> {
    let read = |(name, attribute): (String, AttributeValue)| Ok((name, to_value(&attribute.into(), "a row", 0)?));
    item.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::data;

    use super::*;

    fn event() -> RecordedEvent {
        RecordedEvent {
            aggregate: "a#1".into(),
            version: Version(7),
            event_id: "e7".into(),
            event_type: "Paid".into(),
            data: data! { amount: 0.10000000000000000000000000000000000001, tags: ["x", null, true] },
            timestamp: Timestamp::parse("2026-01-05T09:00:00Z").expect("valid"),
            metadata: Some(data! { user: "u" }),
        }
    }

    /// A redelivered record is parked for the same reason, and whoever compares two readings finds no difference.
    #[test]
    fn of_several_faults_always_the_same_one_is_told() {
        let faulty = |_| {
            let mut item = encode_event(&event());
            let data = [("n", "x"), ("m", "1e999"), ("a", "y"), ("b", "z")]
                .map(|(name, number)| (name.to_owned(), AttributeValue::N(number.into())));
            item.insert("eventData".into(), AttributeValue::M(data.into()));
            decode_event(&item.into()).expect_err("no numbers").to_string()
        };
        let reasons: std::collections::BTreeSet<_> = (0..50).map(faulty).collect();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
    }

    #[test]
    fn an_event_survives_encoding_and_decoding() {
        let item = encode_event(&event());
        assert_eq!(item["SK"], AttributeValue::S("EVENT#0000000007".into()));
        assert_eq!(decode_event(&item.into()), Ok(event()));
    }

    #[test]
    fn each_defect_of_an_item_is_named() {
        let broken = |name: &str, value: Option<AttributeValue>| {
            let mut item = encode_event(&event());
            item.remove(name);
            item.extend(value.map(|value| (name.to_owned(), value)));
            decode_event(&item.into()).expect_err("broken")
        };
        let s = |text: &str| Some(AttributeValue::S(text.into()));
        let n = |text: &str| Some(AttributeValue::N(text.into()));
        assert_eq!(broken("eventId", None), Malformed::Missing("eventId"));
        assert_eq!(broken("eventType", n("1")), Malformed::WrongKind("eventType"));
        assert_eq!(broken("eventVersion", n("8")), Malformed::KeyMismatch("eventVersion"));
        assert_eq!(broken("aggregateId", s("b")), Malformed::KeyMismatch("aggregateId"));
        assert_eq!(broken("timestamp", s("now")), Malformed::Timestamp);
        assert_eq!(broken("eventData", s("{}")), Malformed::WrongKind("eventData"));
        assert_eq!(broken("SK", s("EVENT#7")), Malformed::SortKey);
        assert_eq!(broken("SK", s("EVENT#0000000000")), Malformed::SortKey);
        assert_eq!(broken("PK", s("ACCOUNT#1")), Malformed::PartitionKey);
        assert_eq!(broken("PK", s(&format!("AGGREGATE#{}", "x".repeat(2039)))), Malformed::PartitionKey);
        let number = AttributeValue::M([("x".into(), AttributeValue::N("NaN".into()))].into());
        assert_eq!(broken("eventData", Some(number)), Malformed::Number("eventData", DecimalError::NotANumber));
    }

    #[test]
    fn a_version_is_compared_as_a_number() {
        let with = |version: &str| {
            let mut item = encode_event(&event());
            item.insert("eventVersion".into(), AttributeValue::N(version.into()));
            decode_event(&item.into())
        };
        for same in ["7", "07", "+7", "7.0", "7E+0", "0.7e1", "70E-1", "7.000000000000000000000000000000000000000"] {
            assert_eq!(with(same), Ok(event()), "{same}");
        }
        for other in ["8", "7.5", "-7", "7E+20", "7.0000000000000000000000001", "1E+20", "NaN", "", "0"] {
            assert_eq!(with(other), Err(Malformed::KeyMismatch("eventVersion")), "{other}");
        }
        assert_eq!((whole("18446744073709551615"), whole("18446744073709551616"), whole("1E+126")), (Some(u64::MAX), None, None));
    }

    #[test]
    fn items_that_are_not_events_are_recognised() {
        let other = |sort: &str| {
            key_of(&SdkItem::from([("PK".into(), AttributeValue::S("x".into())), ("SK".into(), AttributeValue::S(sort.into()))]).into())
        };
        assert_eq!(other(VERSION_SK), Ok(Key::Other));
        assert_eq!(other("PROFILE"), Ok(Key::Other));
        let without_partition = |sort: &str| key_of(&SdkItem::from([("SK".into(), AttributeValue::S(sort.into()))]).into());
        assert_eq!(without_partition("PROFILE"), Ok(Key::Other));
        assert_eq!(without_partition("EVENT#0000000001"), Err(Malformed::PartitionKey), "it begins like an event's");
    }

    #[test]
    fn a_value_may_be_as_deep_as_dynamodb_allows_and_no_deeper() {
        let nested = |levels: usize| (0..levels).fold(AttributeValue::Null(true), |value, _| AttributeValue::L(vec![value]));
        let read = |levels| to_value(&nested(levels).into(), "eventData", 0);
        assert!(read(DEPTH_MAX).is_ok());
        assert_eq!(read(DEPTH_MAX + 1), Err(Malformed::TooDeep("eventData")));
    }

    #[test]
    fn an_id_that_is_too_long_for_a_key_is_none() {
        assert!(is_aggregate(&"a".into()) && is_aggregate(&"x".repeat(2038).as_str().into()));
        assert!(!is_aggregate(&"x".repeat(2039).as_str().into()));
    }
}
