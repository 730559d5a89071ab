//! The event store's stream, read as Lambda reads it.

use projection_worker::internals::sources::stream::{Begin, StreamReader};
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
