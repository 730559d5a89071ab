//! What a lane decides, as a specification. The aggregate is always `ann`, and the records of a batch are numbered in the order in which
//! they brought its events.

use std::collections::BTreeMap;

use projection_vocabulary::{
    Change, Contribution, Contributions, Decimal, Kind, Mark, Projection, Recorded, Refusal, Value, child, nothing, own,
    sample::{Fact, record},
    shared, transfer,
};
use serde::Deserialize;

use super::{
    Outcome::{Applied, Duplicate, Failed, Parked},
    *,
};
use crate::{
    engine::shares::Share,
    store::{item::Malformed, shared::CellOp},
};

mod acting;
mod children;
mod endings;
mod healing;
mod preparing;
mod refusals;
mod replacing;
mod steps;

/// A projection with one event type for each kind of change. Its revision is 2, so that a row may be of an older or a newer one.
struct Cards;

#[derive(Deserialize)]
enum Event {
    /// Adds to the home row.
    Earned { points: Decimal },
    /// Adds to a shared row.
    Joined { club: String },
    /// Moves contributions from one shared row to another.
    Moved { from: String, to: String },
    /// Adds to two attributes of this number of shared rows.
    Spread { first: u32, rows: u32 },
    /// The rule refuses it.
    Refused {},
}

impl Projection for Cards {
    type Event = Event;
    const NAME: &str = "cards";
    const KEY: &str = "id";
    const REVISION: u32 = 2;

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Event::Earned { points } => own().add("points", points).into(),
            Event::Joined { club } => shared(club).add("members", 1).into(),
            Event::Moved { from, to } => transfer(from, to),
            Event::Spread { first, rows } => (*first..first + rows)
                .fold(nothing(), |change, row| change.and(shared(format!("row-{row}").as_str()).add("hits", 1).add("points", 2))),
            Event::Refused {} => return Err(Refusal::Rule("refused by the rule")),
        })
    }
}

/// A projection whose rule reads its row: the most points earned at once.
struct Best;

#[derive(Deserialize)]
enum Scored {
    Earned { points: Decimal },
}

impl Projection for Best {
    type Event = Scored;
    const NAME: &str = "best";
    const KEY: &str = "id";
    const REVISION: u32 = 2;
    const READS_ROW: bool = true;

    fn project(&self, event: &Recorded<'_, Scored>) -> Result<Change, Refusal> {
        let Scored::Earned { points } = &event.event;
        let best = event.row().get("best").and_then(Value::as_number);
        Ok(if best.is_none_or(|best| best < points) { own().set("best", points).into() } else { nothing() })
    }
}

/// A projection with child rows: each event puts a number of them, from a first one on, and may write to shared rows as well.
struct Pages;

#[derive(Deserialize)]
enum Written {
    Wrote { first: u32, pages: u32, shared: u32 },
    Tore { page: u32 },
}

impl Projection for Pages {
    type Event = Written;
    const NAME: &str = "pages";
    const KEY: &str = "id";
    const CHILDREN: Option<&str> = Some("page");
    const REVISION: u32 = 2;

    fn project(&self, event: &Recorded<'_, Written>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Written::Wrote { first, pages, shared: rows } => {
                let pages = (*first..first + pages).map(|page| child(format!("{page:05}")).set("text", "x".repeat(100)).into());
                let shared = (0..*rows).map(|row| shared(format!("row-{row}")).add("hits", 1).into());
                pages.chain(shared).fold(nothing(), |all, change: Change| all.and(change))
            }
            Written::Tore { page } => child(format!("{page:05}")).remove(),
        })
    }
}

fn wrote(first: u64, pages: u64, shared: u64) -> Happened {
    ("Wrote", data([("first", first.into()), ("pages", pages.into()), ("shared", shared.into())]))
}

fn tore(page: u64) -> Happened {
    ("Tore", data([("page", page.into())]))
}

/// An event's type and data.
type Happened = (&'static str, Value);

fn earned(points: u64) -> Happened {
    ("Earned", data([("points", points.into())]))
}

/// An event of a type that the projection does not handle.
fn viewed() -> Happened {
    ("Viewed", data([]))
}

fn joined(club: &str) -> Happened {
    ("Joined", data([("club", club.into())]))
}

fn moved(from: &str, to: &str) -> Happened {
    ("Moved", data([("from", from.into()), ("to", to.into())]))
}

fn spread(first: u64, rows: u64) -> Happened {
    ("Spread", data([("first", first.into()), ("rows", rows.into())]))
}

fn refused() -> Happened {
    ("Refused", data([]))
}

fn data<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

/// The history of `ann`, from version 1.
fn history(happened: impl IntoIterator<Item = Happened>) -> Vec<Arc<RecordedEvent>> {
    record(happened.into_iter().map(|(event_type, data)| Fact { aggregate: "ann".into(), event_type, data })).map(Arc::new).collect()
}

/// A history of 1, 2, 4, ... points: a sum shows which events are in it.
fn earnings(count: usize) -> Vec<Arc<RecordedEvent>> {
    history((0..count).map(|at| earned(1 << at)))
}

/// An event of the same version with another id.
fn impostor(event: &RecordedEvent) -> Arc<RecordedEvent> {
    Arc::new(RecordedEvent { event_id: "another".into(), ..event.clone() })
}

fn lane_of(rule: &'static dyn DynProjection, events: &[Arc<RecordedEvent>]) -> Lane {
    let mut lane = Lane::new(rule, "ann".into());
    events.iter().enumerate().for_each(|(record, event)| lane.push_event(event, record));
    assert!(lane.prepare(), "an event concerns the projection");
    lane
}

fn lane(events: &[Arc<RecordedEvent>]) -> Lane {
    lane_of(&Cards, events)
}

/// The row as this program writes it with the event of this version.
fn row_at(version: u64) -> HomeRow {
    HomeRow { version: Version(version), revision: 2, last_event_id: Some(format!("ann-{version}").into()), ..HomeRow::default() }
}

fn of_revision(revision: u32, row: HomeRow) -> HomeRow {
    HomeRow { revision, ..row }
}

fn parked(row: HomeRow) -> HomeRow {
    HomeRow { parked_at: Some("2026-01-01T00:00:00.000Z".into()), ..row }
}

fn stored(events: &[Arc<RecordedEvent>]) -> Vec<Stored> {
    events.iter().map(|event| Stored::Event(RecordedEvent::clone(event))).collect()
}

fn malformed(version: u64) -> Stored {
    Stored::Malformed { version: Version(version), event_type: None, reason: Malformed::Timestamp, payload: "as stored".into() }
}

/// What a lane is at.
#[derive(Clone, Debug, PartialEq)]
enum State {
    /// It writes the row from this version to that one.
    Writes(u64, u64),
    /// It reads its row.
    Reads,
    /// It folds its history up to this version.
    Folds(u64),
    /// It must be parked.
    Stuck {
        /// The version that the row must have.
        after: u64,
        version: u64,
        reason: String,
    },
    Parked(ParkedBy),
    Failed(AdvanceError),
    Acts(u64),
    Finished,
}

fn stuck(after: u64, version: u64, reason: &str) -> State {
    State::Stuck { after, version, reason: reason.to_owned() }
}

fn state(lane: &mut Lane) -> State {
    match lane.step() {
        Step::Write(write) => State::Writes(write.home.after.version.0, write.home.to.version.0),
        Step::Read => State::Reads,
        Step::Steps(_, to) => State::Folds(to.0),
        Step::Act(event) => State::Acts(event.version.0),
        Step::Idle => match (lane.stuck(), &lane.failure, &lane.parked) {
            (Some(park), None, None) => stuck(park.after.version.0, park.blocked.version.0, &park.blocked.reason),
            (None, Some(error), None) => State::Failed(error.clone()),
            (None, None, Some(by)) => State::Parked(by.clone()),
            (None, None, None) => State::Finished,
            _ => panic!("a lane ends in one way"),
        },
    }
}

/// The id of the event that is kept when the lane is parked.
fn kept_event(lane: &Lane) -> String {
    let payload = lane.stuck().and_then(|park| park.blocked.payload.as_deref()).expect("an event is kept");
    let item: serde_json::Value = serde_json::from_str(payload).expect("it is kept as JSON");
    item["eventId"]["S"].as_str().expect("an event has an id").to_owned()
}

fn next_write(lane: &mut Lane) -> Box<Write> {
    match lane.step() {
        Step::Write(write) => write,
        Step::Read | Step::Steps(..) | Step::Act(_) | Step::Idle => panic!("the lane has a write"),
    }
}

/// Commits the lane's next write.
fn commit(lane: &mut Lane) -> (u64, u64) {
    let write = next_write(lane);
    lane.written(&write);
    (write.home.after.version.0, write.home.to.version.0)
}

/// The points that a write adds.
fn points(write: &Write) -> Decimal {
    let points = write.home.added("points").expect("points are added");
    points.as_number().cloned().expect("points are a number")
}

/// The outcomes of all records that have one, in the order of the records.
fn outcomes(lane: &Lane) -> Vec<Outcome> {
    let by_record: BTreeMap<usize, Outcome> = lane.outcomes.iter().copied().collect();
    assert_eq!(by_record.len(), lane.outcomes.len(), "a record has one outcome");
    by_record.into_values().collect()
}

fn sums<'a>(amounts: impl IntoIterator<Item = (&'a str, &'a str, i32)>) -> Contributions {
    amounts.into_iter().map(|(row, attribute, amount)| ((row.into(), attribute.to_owned()), Contribution::Sum(amount.into()))).collect()
}

/// What a write adds to shared rows.
fn added<const N: usize>(amounts: [(&str, &str, i32); N]) -> Shares {
    let share = |amount: i32| Share { kind: Kind::Sum, op: CellOp::Add(amount.into()), unsettles: false, stays: true };
    amounts.map(|(row, attribute, amount)| ((row.into(), attribute.to_owned()), share(amount))).into()
}

fn reproject(row: HomeRow) -> AfterRefusal {
    AfterRefusal::Reproject(Box::new(row))
}
