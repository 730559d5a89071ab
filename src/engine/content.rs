//! What an item of the event store means to a projection. Pure.

use std::sync::Arc;

use projection_vocabulary::{DynProjection, RecordedEvent, Version, fold};
use serde_dynamo::Item;

use crate::store::{events::Stored, item::encode_event};

/// What a version holds, for one projection.
#[derive(Debug)]
pub enum Content {
    /// An event that concerns the projection.
    Event(Arc<RecordedEvent>),
    /// Events that do not concern the projection. They count as applied with the next one that does.
    Irrelevant,
    /// An event that cannot be read.
    Poison {
        /// Why, without event data.
        reason: String,
        /// The event as JSON.
        payload: String,
    },
}

/// The version that an aggregate cannot move past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The version that cannot be applied.
    pub version: Version,
    /// Why, without event data.
    pub reason: String,
    /// The event as JSON; `None` if it is missing or no single event is the cause.
    pub payload: Option<String>,
}

/// The event type of an item of the event store, if it can be read.
#[cfg(feature = "cli")]
#[must_use]
pub fn event_type(stored: &Stored) -> Option<&str> {
    match stored {
        Stored::Event(event) => Some(&event.event_type),
        Stored::Malformed { event_type, .. } => event_type.as_deref(),
    }
}

/// Whether an item of the event store concerns a projection. An item whose event type cannot be read may.
pub fn concerns(rule: &dyn DynProjection, stored: &Stored) -> bool {
    match stored {
        Stored::Event(event) => fold::concerns(rule, event),
        Stored::Malformed { event_type, .. } => event_type.as_deref().is_none_or(|name| rule.event_types().contains(&name)),
    }
}

/// What an item of the event store holds for a projection.
pub fn content(rule: &dyn DynProjection, stored: Stored) -> Content {
    match stored {
        _ if !concerns(rule, &stored) => Content::Irrelevant,
        Stored::Event(event) => Content::Event(Arc::new(event)),
        Stored::Malformed { reason, payload, .. } => Content::Poison { reason: reason.to_string(), payload },
    }
}

/// An event as the parking table keeps it: its item as JSON.
#[must_use]
pub fn payload_of(event: &RecordedEvent) -> String {
    serde_json::to_string(&Item::from(encode_event(event))).expect("an item has text keys and serialises")
}
