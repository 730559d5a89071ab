//! A store of a test's own, and what a test says about it.

use std::collections::BTreeMap;

use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use projection_vocabulary::{Attributes, RecordedEvent, Registry, RowKey, Rows};
use projection_worker::{
    Worker,
    embedded::Embedded,
    item::encode_event,
    report::Report,
    retry::Deadline,
    store::{Store, TableNames},
};
use serde_dynamo::Item;
use serde_json::{json, value::RawValue};

/// An empty database with all tables, and the worker of this repository's projections on it.
pub struct World {
    pub embedded: Embedded,
    pub worker: Worker,
}

/// Rows by projection, as a reader sees them.
pub type Everything = BTreeMap<&'static str, BTreeMap<RowKey, Attributes>>;

pub fn registry() -> Registry {
    Registry::new(projections::ALL)
}

pub fn names(registry: Registry) -> TableNames {
    TableNames::from_env_or_default(registry, |_| None)
}

impl World {
    pub async fn new() -> Self {
        Self::with(registry()).await
    }

    pub async fn with(registry: Registry) -> Self {
        let embedded = Embedded::memory().expect("an empty database");
        let worker = Worker::new(Store::new(embedded.client(), names(registry)), registry);
        worker.store().create_tables(registry).await.expect("tables");
        Self { embedded, worker }
    }

    /// Another worker on the same database, whose calls pass through `wrap`.
    pub fn worker_behind<C: HttpConnector + 'static>(&self, wrap: impl FnOnce(SharedHttpConnector) -> C) -> Worker {
        let registry = self.worker.registry();
        Worker::new(Store::new(self.embedded.client_with(wrap), names(registry)), registry)
    }

    /// Puts the events into the event store, as `projector events import` does.
    pub async fn import(&self, events: &[RecordedEvent]) {
        for event in events {
            self.worker.store().import(&event.aggregate, event.version, encode_event(event)).await.expect("imported");
        }
    }

    pub async fn process(&self, events: &[RecordedEvent]) -> Report {
        self.worker.process(&records(events), Deadline::NONE).await
    }

    pub async fn rows(&self) -> Everything {
        let mut everything = Everything::new();
        for rule in self.worker.registry().rules() {
            everything.insert(rule.name(), self.worker.store().visible_rows(*rule).await.expect("rows"));
        }
        everything
    }
}

/// The stream's record of each event, positioned in the order given.
pub fn records(events: &[RecordedEvent]) -> Vec<Box<RawValue>> {
    events.iter().zip(1..).map(|(event, position)| record(event, position)).collect()
}

pub fn record(event: &RecordedEvent, position: u64) -> Box<RawValue> {
    let image = json!(Item::from(encode_event(event)));
    let record = json!({
        "eventID": event.event_id, "eventName": "INSERT", "eventVersion": "1.1", "eventSource": "aws:dynamodb", "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_767_225_600, "Keys": { "PK": image["PK"], "SK": image["SK"] }, "NewImage": image,
            "SequenceNumber": position.to_string(), "SizeBytes": 100, "StreamViewType": "NEW_IMAGE",
        },
    });
    serde_json::value::to_raw_value(&record).expect("JSON")
}

/// What the rows must be: the fold of each aggregate's events in order of version.
pub fn fold(registry: Registry, events: &[RecordedEvent]) -> Everything {
    let mut events: Vec<_> = events.to_vec();
    events.sort_by_key(|event| (event.aggregate.clone(), event.version));
    events.dedup_by_key(|event| (event.aggregate.clone(), event.version));
    let fold_one = |rule: &&'static dyn projection_vocabulary::Rule| {
        let mut rows = Rows::default();
        for event in &events {
            rows.fold(*rule, event).expect("a valid event");
        }
        (rule.name(), rows.visible())
    };
    registry.rules().iter().map(fold_one).collect()
}

/// The history of a sample domain, with its choices made by a seed.
pub fn history(domain: &str, seed: u64, events: usize, aggregates: usize) -> Vec<RecordedEvent> {
    let sample = projections::samples::ALL.iter().find(|sample| sample.name == domain).expect("a sample domain");
    let mut random = fastrand::Rng::with_seed(seed);
    let facts = (sample.facts)(&mut |bound| random.u64(..bound), events, aggregates);
    projection_vocabulary::sample::record(facts).collect()
}
