//! The event store's stream, read as Lambda reads it, and its events as they are appended.

use std::collections::BTreeSet;

use projection_vocabulary::{AggregateId, RecordedEvent, Version};
use projection_worker::{
    Store,
    internals::{
        retry::Deadline,
        sources::stream::{Begin, StreamReader},
        store::{events::Stored, segment::Segment},
    },
};
use serde_json::Value as Json;

use crate::support::world::World;

/// Reads the event store's stream from its beginning, each record in the form in which Lambda passes it to a function.
pub async fn stream(world: &World) -> Vec<Json> {
    let arn = world.worker.store().event_store_stream().await.expect("a table").expect("a stream");
    let mut reader = StreamReader::new(world.embedded.streams_client(), arn, Begin::Oldest);
    let mut records = Vec::new();
    while let Some(page) = reader.next_page().await.expect("a page") {
        records.extend(page);
    }
    records
}

/// The events of an event store that a stream has not brought yet, in the order of versions within each aggregate.
#[derive(Default)]
pub struct Feed(BTreeSet<(AggregateId, Version)>);

impl Feed {
    /// What was appended since this was last asked.
    pub async fn next(&mut self, store: &Store) -> Vec<RecordedEvent> {
        let mut events = all_events(store).await;
        events.retain(|event| self.0.insert((event.aggregate.clone(), event.version)));
        events
    }

    /// Brings these again.
    pub fn again(&mut self, events: &[RecordedEvent]) {
        for event in events {
            self.0.remove(&(event.aggregate.clone(), event.version));
        }
    }
}

/// All events of an event store.
pub async fn all_events(store: &Store) -> Vec<RecordedEvent> {
    let (mut events, mut next) = (Vec::new(), None);
    loop {
        let (page, after) = store.scan_events(Segment::ALL, next.as_ref(), Deadline::NONE).await.expect("readable");
        events.extend(page.into_iter().filter_map(|(_, stored)| if let Stored::Event(event) = stored { Some(event) } else { None }));
        next = after;
        if next.is_none() {
            return events;
        }
    }
}
