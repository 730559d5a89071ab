//! Records that are incomplete, or that no rule can read.

use projection_vocabulary::{RecordedEvent, Value};
use serde_json::{Value as Json, json, value::RawValue};

use crate::support::world::{record, records};

/// Part of event data, and must not appear anywhere else.
pub const MARKER: &str = "only-the-event-may-say-this";

/// The same record with one member replaced.
pub fn with(record: &RawValue, pointer: &str, value: Json) -> Box<RawValue> {
    let mut record: Json = serde_json::from_str(record.get()).expect("JSON");
    *record.pointer_mut(pointer).expect("a member") = value;
    serde_json::value::to_raw_value(&record).expect("JSON")
}

/// The record of an event in a stream without images.
pub fn keys_only(event: &RecordedEvent, position: u64) -> Box<RawValue> {
    let record = with(&record(event, position), "/dynamodb/NewImage", Json::Null);
    with(&record, "/dynamodb/StreamViewType", json!("KEYS_ONLY"))
}

/// The data of `AccountOpened` with a deposit that is not a number.
pub fn deposit_of(word: &str) -> Value {
    Value::Map([("initialDeposit".to_owned(), Value::from(word))].into())
}

/// Records of these events and some that cannot be applied, all with the marker in their data.
pub fn marked(mut events: Vec<RecordedEvent>) -> Vec<Box<RawValue>> {
    for event in &mut events {
        event.metadata = Some(Value::from(MARKER));
    }
    let mut refused = events.iter().find(|event| event.version.0 == 1).expect("a first event").clone();
    refused.aggregate = "refused".into();
    refused.data = deposit_of(MARKER);
    let undecodable = with(&record(&refused, 500), "/dynamodb/NewImage/timestamp", json!({ "S": MARKER }));
    let no_record = serde_json::value::to_raw_value(&json!({ "eventID": "stray", "dynamodb": MARKER })).expect("JSON");
    let mut records = records(&events);
    records.extend([record(&refused, 501), undecodable, no_record, keys_only(&refused, 502)]);
    records
}
