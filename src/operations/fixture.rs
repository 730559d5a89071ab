//! Rules, their histories and their rows, which the tests of operations share. Where none is named, the rule is [`Guests`] at revision 2 and
//! the aggregate is `ann`.

use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use projection_vocabulary::{
    Change, Decimal, DynProjection, HomeRow, Projection, Recorded, RecordedEvent, Refusal, Registry, Value, Version, child, data, own,
    sample::{Fact, record},
    shared,
};
use serde::Deserialize;

use crate::{
    embedded::Embedded,
    engine::{
        lane::Lane,
        reproject::HistoryFold,
        worker::{IfStuck, Worker},
    },
    retry::Deadline,
    store::{Store, TableNames, append::Append, events::Stored, item::Malformed},
};

/// Nights by guest and by room, and the longest stay of each room.
pub struct Guests;

#[derive(Deserialize)]
pub enum Event {
    Stayed { room: String, nights: Decimal },
    Refused {},
}

impl Projection for Guests {
    type Event = Event;
    const NAME: &str = "guests";
    const KEY: &str = "id";
    const REVISION: u32 = 2;

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        match &event.event {
            Event::Stayed { room, nights } => {
                Ok(own().add("nights", nights).and(shared(room).add("nights", nights).max("longest", nights)))
            }
            Event::Refused {} => Err(Refusal::Rule("refused by the rule")),
        }
    }
}

/// The notes of each guest: a child row for each room.
pub struct Notes;

impl Projection for Notes {
    type Event = Event;
    const NAME: &str = "notes";
    const KEY: &str = "id";
    const CHILDREN: Option<&str> = Some("room");

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        match &event.event {
            Event::Stayed { room, nights } => Ok(own().add("nights", nights).and(child(room).set("nights", nights))),
            Event::Refused {} => Err(Refusal::Rule("refused by the rule")),
        }
    }
}

/// An event's type and data.
pub type Happened = (&'static str, Value);

pub fn stayed(nights: i32) -> Happened {
    ("Stayed", Value::Map([("room".to_owned(), "red".into()), ("nights".to_owned(), nights.into())].into()))
}

pub fn refused() -> Happened {
    ("Refused", data! {})
}

/// An event of a type that the projection does not handle.
pub fn rang() -> Happened {
    ("Rang", data! {})
}

/// A history as the event store has it.
pub fn stored<const N: usize>(happened: [Happened; N]) -> impl Iterator<Item = Stored> {
    record(happened.map(|(event_type, data)| Fact { aggregate: "ann".into(), event_type, data })).map(Stored::Event)
}

/// An event of unknown type that cannot be read.
pub fn malformed(version: u64) -> Stored {
    Stored::Malformed { version: Version(version), event_type: None, reason: Malformed::Timestamp, payload: String::new() }
}

pub fn fold<const N: usize>(happened: [Happened; N]) -> HistoryFold {
    fold_without(0, happened)
}

/// The fold of a history of which the event store lacks one version.
pub fn fold_without<const N: usize>(lost: u64, happened: [Happened; N]) -> HistoryFold {
    let mut fold = HistoryFold::new(&Guests, "ann".into());
    stored(happened).filter(|stored| stored.version().0 != lost).for_each(|stored| _ = fold.push(stored));
    fold
}

/// The row that a revision of the rule has made of a history.
pub fn row<const N: usize>(revision: u32, happened: [Happened; N]) -> HomeRow {
    HomeRow { revision, ..fold(happened).row() }
}

pub fn parked(row: HomeRow) -> HomeRow {
    HomeRow { parked_at: Some("2026-01-01T00:00:00.000Z".to_owned()), ..row }
}

pub fn unfinished(row: HomeRow, by: u32) -> HomeRow {
    HomeRow { revision: 0, unfinished: Some(by), ..row }
}

/// A worker of [`Guests`] on an empty database.
pub async fn worker() -> Worker {
    worker_of(&[&Guests]).await.0
}

/// A worker of these rules on an empty database, and a client for what no worker does.
pub async fn worker_of(rules: &'static [&'static dyn DynProjection]) -> (Worker, Client) {
    let registry = Registry::new(rules);
    let client = Embedded::memory().expect("an empty database").client();
    let worker = Worker::new(Store::new(client.clone(), TableNames::from_env_or_default(registry, |_| None)), registry);
    worker.store().create_tables(registry).await.expect("tables");
    (worker, client)
}

/// Appends events to an aggregate without any, and advances its rows to the first of them.
pub async fn happened<const N: usize>(worker: &Worker, aggregate: &str, happened: [Happened; N]) -> Vec<RecordedEvent> {
    let events = append(worker, aggregate, happened).await;
    applied(worker, &events[0]).await;
    events
}

/// Appends events to an aggregate without any.
pub async fn append<const N: usize>(worker: &Worker, aggregate: &str, happened: [Happened; N]) -> Vec<RecordedEvent> {
    let facts = happened.map(|(event_type, data)| Fact { aggregate: aggregate.into(), event_type, data });
    let events: Vec<_> = record(facts).collect();
    let append = Append { expected: Version::NONE, events: events.iter().collect() };
    let appended = worker.store().append_together(&[append]).await;
    assert!(appended.iter().all(Result::is_ok), "{appended:?}");
    events
}

/// Advances the rows of its aggregate to this event.
pub async fn applied(worker: &Worker, event: &RecordedEvent) {
    let lanes = worker.registry().projections().iter().map(|rule| {
        let mut lane = Lane::new(*rule, event.aggregate.clone());
        lane.push_event(&Arc::new(event.clone()), 0);
        assert!(lane.prepare());
        lane
    });
    let lanes = worker.advance(lanes.collect(), IfStuck::Park, Deadline::NONE).await;
    assert!(lanes.iter().all(|lane| lane.failure.is_none() && lane.parked.is_none()));
}
