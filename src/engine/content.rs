//! What an item of the event store means to a projection. Pure.

use std::sync::Arc;

use projection_vocabulary::{DynProjection, RecordedEvent, fold};
use serde_dynamo::Item;

use crate::store::{events::Stored, item::encode_event};

/// What a version holds, for one rule.
pub enum Content {
    /// An event that concerns the rule.
    Event(Arc<RecordedEvent>),
    /// Events that do not concern the rule. They count as applied with the next one that does.
    Irrelevant,
    /// An event that cannot be read.
    Poison {
        /// Why, without event data.
        reason: String,
        /// The event as JSON.
        payload: String,
    },
}

/// Whether an item of the event store is anything to a rule. One that hides its type may be.
pub fn concerns(rule: &dyn DynProjection, stored: &Stored) -> bool {
    match stored {
        Stored::Event(event) => fold::concerns(rule, event),
        Stored::Malformed { event_type, .. } => event_type.as_deref().is_none_or(|name| rule.event_types().contains(&name)),
    }
}

/// What an item of the event store holds for a rule.
pub fn content(rule: &dyn DynProjection, stored: Stored) -> Content {
    match stored {
        _ if !concerns(rule, &stored) => Content::Irrelevant,
        Stored::Event(event) => Content::Event(Arc::new(event)),
        Stored::Malformed { reason, payload, .. } => Content::Poison { reason: reason.to_string(), payload },
    }
}

/// An event as the parking table keeps it.
pub fn payload_of(event: &RecordedEvent) -> String {
    serde_json::to_string(&Item::from(encode_event(event))).expect("an item has text keys and serialises")
}
