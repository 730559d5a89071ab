//! The event store's stream: turns its writes into records for the worker.

use std::sync::Arc;

use projection_worker::internals::store::item::{Key, event_type_of, key_of};
use serde_dynamo::Item as StreamItem;
use serde_json::{json, value::RawValue};

use crate::expression::Item;

/// A delivered record.
#[derive(Clone, Debug)]
pub struct Delivered(pub Arc<StreamRecord>);

/// One record of the stream.
#[derive(Debug)]
pub struct StreamRecord {
    /// Its JSON, as Lambda delivers it.
    pub raw: Box<RawValue>,
    /// Its place among all records of all shards.
    pub order: u64,
    /// Its aggregate.
    pub aggregate: String,
    /// Its version.
    pub version: u64,
    /// Its event type. `None` if it has none, or if nothing was inserted.
    pub event_type: Option<String>,
    /// Whether it is an insertion.
    pub inserted: bool,
    /// Its name in a trace.
    pub name: String,
}

impl AsRef<RawValue> for Delivered {
    fn as_ref(&self) -> &RawValue {
        &self.0.raw
    }
}

impl StreamRecord {
    /// The record of an item that was put into the event store. `None` if the item is not an event.
    ///
    /// # Panics
    /// If the item cannot be written as JSON.
    #[must_use]
    pub fn of(before: Option<&Item>, after: &Item, sequence: u64, order: u64) -> Option<Self> {
        let image = StreamItem::from(after.clone());
        let Ok(Key::Event(aggregate, version)) = key_of(&image) else { return None };
        let inserted = before.is_none();
        let event_type = event_type_of(&image).filter(|_| inserted).map(str::to_owned);
        let json = json!(image);
        let raw = json!({
            "eventID": record_id(order), "eventName": if inserted { "INSERT" } else { "MODIFY" },
            "dynamodb": { "Keys": { "PK": json["PK"], "SK": json["SK"] }, "NewImage": json, "SequenceNumber": sequence.to_string() },
        });
        let raw = serde_json::value::to_raw_value(&raw).expect("JSON");
        let name = format!("{aggregate}/{version} {}", event_type.as_deref().unwrap_or("?"));
        Some(Self { raw, order, aggregate: aggregate.to_string(), version: version.0, event_type, inserted, name })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> String {
        record_id(self.order)
    }
}

fn record_id(order: u64) -> String {
    format!("record-{order}")
}
