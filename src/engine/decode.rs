//! Decodes one captured stream record. Only this module uses the record type of `aws_lambda_events`.
//!
//! Records are read one by one, never as a whole batch: the crate's types are strict, and one malformed record must not fail the
//! others.

use std::fmt;

use aws_lambda_events::event::dynamodb::EventRecord;
use projection_vocabulary::{AggregateId, RecordedEvent, Version};
use serde::Deserialize;
use serde_dynamo::Item;
use serde_json::{Value as Json, json, value::RawValue};

use crate::store::item::{self, Key, Malformed};

/// The position of a record in its shard. Ordered as a number of up to 40 digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceNumber(String);

impl SequenceNumber {
    /// The number, unchanged from the stream.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SequenceNumber {
    fn from(number: &str) -> Self {
        Self(number.into())
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let digits = |number: &Self| number.0.trim_start_matches('0').len();
        digits(self).cmp(&digits(other)).then_with(|| self.0.trim_start_matches('0').cmp(other.0.trim_start_matches('0')))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// One stream record, decoded.
#[derive(Debug)]
pub struct Record {
    /// Its position in the shard, which is reported if the record fails.
    pub sequence: Option<SequenceNumber>,
    /// Its meaning.
    pub body: Body,
}

/// The meaning of a stream record.
#[derive(Debug)]
pub enum Body {
    /// An event was appended.
    Event(RecordedEvent),
    /// An event was appended that cannot be read.
    Poison(Poison),
    /// The record has nothing to project.
    Ignored(Ignored),
    /// The stream is not configured as the worker needs it. The batch fails, and nothing is parked.
    Unusable(&'static str),
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// The event that it identifies, if it does.
    pub event: Option<(AggregateId, Version)>,
    /// The event type, if it can be read.
    pub event_type: Option<String>,
    /// Why the record cannot be read.
    pub reason: Malformed,
    /// The record, unchanged.
    pub payload: String,
    /// Identifies the record if it does not identify an event.
    pub record_id: String,
}

/// Why a record has nothing to project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignored {
    /// The item is not an event: an aggregate's VERSION item, for example.
    NotAnEvent,
    /// An event of a type that no projection handles.
    UnknownType,
    /// An event was changed. The event store must be append-only, so rows keep the event as it was appended.
    Modified,
    /// An event was deleted by a writer. The event store must be append-only.
    Removed,
    /// An event was deleted by DynamoDB's time to live. A rebuild would miss it.
    Expired,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnEvent => "not an event",
            Self::UnknownType => "event type that no projection handles",
            Self::Modified => "event modified: the store must be append-only",
            Self::Removed => "event removed: the store must be append-only",
            Self::Expired => "event expired by time to live",
        })
    }
}

/// Decodes one record of a stream.
#[must_use]
pub fn decode(raw: &RawValue) -> Record {
    match read(raw) {
        Ok(record) => {
            let sequence = record.change.sequence_number.as_deref().filter(|number| !number.is_empty()).map(SequenceNumber::from);
            Record { sequence, body: body(&record, raw) }
        }
        Err(remains) => {
            let image = |name| remains.pointer(name).and_then(|item| Item::deserialize(item).ok()).unwrap_or_default();
            let event = [image("/dynamodb/Keys"), image("/dynamodb/NewImage")].iter().find_map(event_key);
            let text = |name| remains.pointer(name).and_then(Json::as_str);
            let event_type = text("/dynamodb/NewImage/eventType/S").map(str::to_owned);
            let reason = if remains.is_object() {
                "fields are missing or have the wrong type"
            } else {
                "it is not a JSON object, or is nested too deeply"
            };
            let sequence = text("/dynamodb/SequenceNumber").filter(|number| !number.is_empty()).map(SequenceNumber::from);
            Record { sequence, body: poison(raw, event, event_type, Malformed::Record(reason)) }
        }
    }
}

/// The item that a record reports as appended to the event store, unchanged, with its aggregate and version.
#[must_use]
pub fn appended_item(raw: &RawValue) -> Option<(AggregateId, Version, Item)> {
    let record = read(raw).ok().filter(|record| record.event_name == "INSERT")?;
    let (aggregate, version) = event_key(&record.change.new_image)?;
    Some((aggregate, version, record.change.new_image))
}

/// Reads a record, and evens out differences between captures that carry no meaning here: `get-records` has ISO dates and capitalised
/// identities, and records written by hand lack the region.
///
/// # Errors
/// The JSON of a record that cannot be read; `null` if it is not a JSON object.
fn read(raw: &RawValue) -> Result<EventRecord, Json> {
    if !is_object(raw) {
        return Err(Json::Null);
    }
    if let Ok(record) = serde_json::from_str(raw.get()) {
        return Ok(record);
    }
    let Ok(mut remains) = serde_json::from_str::<Json>(raw.get()) else { return Err(Json::Null) };
    let record = remains.as_object_mut().expect("it is an object");
    record.entry("eventID").or_insert_with(|| json!(""));
    record.entry("awsRegion").or_insert_with(|| json!(""));
    if let Some(Json::Object(identity)) = record.get_mut("userIdentity") {
        for (capitalised, name) in [("Type", "type"), ("PrincipalId", "principalId")] {
            if let Some(value) = identity.remove(capitalised) {
                identity.insert(name.into(), value);
            }
        }
    }
    if let Some(Json::Object(change)) = record.get_mut("dynamodb") {
        change.entry("SizeBytes").or_insert_with(|| json!(0));
        change.remove("ApproximateCreationDateTime");
    }
    EventRecord::deserialize(&remains).map_err(|_| remains)
}

/// A derived `Deserialize` would also accept a list, by position.
fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

fn event_key(keys: &Item) -> Option<(AggregateId, Version)> {
    match item::key_of(keys) {
        Ok(Key::Event(aggregate, version)) => Some((aggregate, version)),
        _ => None,
    }
}

fn body(record: &EventRecord, raw: &RawValue) -> Body {
    let change = &record.change;
    let keys = if change.keys.is_empty() { &change.new_image } else { &change.keys };
    if keys.is_empty() {
        return poison(raw, None, None, Malformed::Record("it has no keys"));
    }
    let key = item::key_of(keys);
    if key == Ok(Key::Other) {
        return Body::Ignored(Ignored::NotAnEvent);
    }
    match record.event_name.as_str() {
        "INSERT" => {}
        "MODIFY" => return Body::Ignored(Ignored::Modified),
        "REMOVE" => {
            let by_ttl = record.user_identity.as_ref().is_some_and(|user| user.principal_id == "dynamodb.amazonaws.com");
            return Body::Ignored(if by_ttl { Ignored::Expired } else { Ignored::Removed });
        }
        _ => return poison(raw, event_key(keys), None, Malformed::Record("its eventName is not INSERT, MODIFY or REMOVE")),
    }
    if change.new_image.is_empty() {
        let view = change.stream_view_type.as_ref().and_then(|view| serde_json::to_value(view).ok());
        return match view.as_ref().and_then(Json::as_str) {
            Some("KEYS_ONLY" | "OLD_IMAGE") => Body::Unusable("the stream carries no new images: set its StreamViewType to NEW_IMAGE"),
            _ => poison(raw, event_key(keys), None, Malformed::Record("it is an INSERT without a NewImage")),
        };
    }
    match item::decode_event(&change.new_image) {
        Ok(event) if key.as_ref() == Ok(&Key::Event(event.aggregate.clone(), event.version)) => Body::Event(event),
        Ok(_) => poison(raw, event_key(keys), None, Malformed::KeyMismatch("NewImage")),
        Err(reason) => poison(raw, event_key(keys), item::event_type_of(&change.new_image).map(str::to_owned), reason),
    }
}

/// DynamoDB Streams' ids have 32 characters. A much longer one is not genuine, and must not exceed a key of the parking table.
const RECORD_ID_LEN_MAX: usize = 256;

fn poison(raw: &RawValue, event: Option<(AggregateId, Version)>, event_type: Option<String>, reason: Malformed) -> Body {
    #[derive(Deserialize)]
    struct Id {
        #[serde(rename = "eventID")]
        event_id: String,
    }
    let id = is_object(raw).then(|| serde_json::from_str::<Id>(raw.get()).ok()).flatten();
    let record_id = id.map(|id| id.event_id).filter(|id| (1..=RECORD_ID_LEN_MAX).contains(&id.len()));
    let record_id = record_id.unwrap_or_else(|| format!("{:016x}", fingerprint(raw.get())));
    Body::Poison(Poison { event, event_type, reason, payload: raw.get().to_owned(), record_id })
}

/// A hash by FNV-1a, which gives the same record the same id in every process and version.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &str) -> Record {
        decode(&RawValue::from_string(json.to_owned()).expect("valid JSON"))
    }

    const IMAGE: &str = r#"{"PK":{"S":"AGGREGATE#a"},"SK":{"S":"EVENT#0000000001"},"eventId":{"S":"e"},"aggregateId":{"S":"a"},"eventType":{"S":"T"},"eventData":{"M":{}},"eventVersion":{"N":"1"},"timestamp":{"S":"2026-01-01T00:00:00Z"}}"#;

    #[test]
    fn a_record_without_region_and_size_and_with_an_iso_date_is_read() {
        let bare = record(&format!(
            r#"{{"eventName":"INSERT","dynamodb":{{"ApproximateCreationDateTime":"2026-01-01T00:00:00+00:00","Keys":{{"PK":{{"S":"AGGREGATE#a"}},"SK":{{"S":"EVENT#0000000001"}}}},"NewImage":{IMAGE},"SequenceNumber":"1"}}}}"#
        ));
        assert!(matches!(bare.body, Body::Event(_)), "{bare:?}");
        assert_eq!(bare.sequence, Some("1".into()));
    }

    #[test]
    fn a_malformed_record_still_identifies_its_event_and_position() {
        let odd = record(&format!(r#"{{"eventName":7,"dynamodb":{{"SequenceNumber":"5","NewImage":{IMAGE}}}}}"#));
        assert_eq!(odd.sequence, Some("5".into()));
        let Body::Poison(poison) = odd.body else { panic!("poison") };
        assert_eq!(poison.event, Some(("a".into(), Version(1))));
        assert_eq!(poison.event_type.as_deref(), Some("T"));
    }

    #[test]
    fn json_that_is_not_a_record_is_poison_with_a_stable_id() {
        for json in ["5", "null", "[]", "{}", r#"{"dynamodb":5}"#] {
            let (Body::Poison(one), Body::Poison(two)) = (record(json).body, record(json).body) else { panic!("{json} is poison") };
            assert_eq!((one.event, one.record_id), (None, two.record_id));
        }
    }

    #[test]
    fn a_list_is_poison_and_does_not_supply_the_record_id() {
        for json in [r#"["secret"]"#, r#"["eu-west-1",{},"secret","INSERT",null,null,null,null,null]"#] {
            let Body::Poison(poison) = record(json).body else { panic!("{json} is poison") };
            assert!(!poison.record_id.contains("secret"), "{poison:?}");
            assert_eq!(poison.reason, Malformed::Record("it is not a JSON object, or is nested too deeply"));
        }
    }

    #[test]
    fn a_stream_without_new_images_is_unusable_rather_than_poison() {
        let keys = r#"{"PK":{"S":"AGGREGATE#a"},"SK":{"S":"EVENT#0000000001"}}"#;
        let keys_only = record(&format!(r#"{{"eventName":"INSERT","dynamodb":{{"Keys":{keys},"StreamViewType":"KEYS_ONLY"}}}}"#));
        assert!(matches!(keys_only.body, Body::Unusable(_)), "{keys_only:?}");
    }

    #[test]
    fn sequence_numbers_compare_as_numbers() {
        assert!(SequenceNumber::from("9") < SequenceNumber::from("10"));
        assert!(SequenceNumber::from("111000000000000000000002") > SequenceNumber::from("111000000000000000000001"));
    }
}
