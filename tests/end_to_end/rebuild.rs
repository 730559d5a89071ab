//! A rule changes: every row by the new one, while the worker works.

use std::collections::BTreeMap;

use fastrand::Rng;
use projection_vocabulary::{AggregateId, Attributes, RecordedEvent, Registry, RowKey, Rule, Value};
use projection_worker::{
    Worker,
    embedded::Embedded,
    rebuild::{Counts, Rebuild, SegmentRebuild, Task},
    retry::Deadline,
    store::{
        Store,
        events::{Cursor, Segment, Stored},
    },
};

use crate::{
    rules::{STAYS_1, STAYS_2},
    world::{World, fold, names, recorded, records},
};

/// A page of the store is 1 MB: a hundred events of this size.
const FAT: usize = 10_000;

/// Who stayed where, by chance: so many events of so many guests, whose notes have so many bytes.
pub fn stays(seed: u64, events: usize, guests: usize, note: usize) -> Vec<RecordedEvent> {
    let mut random = Rng::with_seed(seed);
    let note = "x".repeat(note);
    let guest = |at: usize| format!("guest-{at:03}");
    let facts: Vec<_> = (0..events)
        .map(|at| {
            let who = guest(if at < guests { at } else { random.usize(..guests) });
            let (city, hotel) = (format!("city-{}", random.u8(..3)), format!("hotel-{}", random.u8(..5)));
            let stay = [("city", city.as_str().into()), ("hotel", hotel.as_str().into()), ("nights", random.u64(1..9).into())];
            let stay = stay.into_iter().chain([("note", Value::from(note.as_str()))]);
            let data =
                |fields: &mut dyn Iterator<Item = (&str, Value)>| Value::Map(fields.map(|(name, value)| (name.into(), value)).collect());
            match random.u8(..12) {
                0 if at >= guests => (who, "Complained", data(&mut std::iter::empty())),
                1 if at >= guests => (who, "Forgotten", data(&mut std::iter::empty())),
                _ => (who, "Stayed", data(&mut stay.into_iter())),
            }
        })
        .collect();
    recorded(facts.iter().map(|(who, event_type, data)| (who.as_str(), *event_type, data.clone())))
}

/// A world whose rows the rule's first revision has written.
async fn world_of_stays(events: &[RecordedEvent]) -> World {
    let world = World::with(Registry::new(STAYS_1)).await;
    world.append_all(events).await;
    for batch in events.chunks(500) {
        assert_eq!(world.process(batch).await.total.failed, 0);
    }
    world
}

type Visible = BTreeMap<RowKey, Attributes>;

/// The rows as they are, without shared rows that nothing counts for any more.
async fn rows_in(store: &Store) -> Visible {
    let mut rows = store.visible_rows(STAYS_2[0]).await.expect("rows");
    rows.retain(|_, row| !row.values().all(|value| value.as_number().is_some_and(projection_vocabulary::Decimal::is_zero)));
    rows
}

fn expected(events: &[RecordedEvent]) -> Visible {
    fold(Registry::new(STAYS_2), events).remove("stays").expect("the rule")
}

/// One pass over all segments at once.
pub async fn rebuild(worker: &Worker, task: Task, segments: u32) -> Counts {
    let rule = worker.registry().rules()[0];
    let each = Segment::all(segments).map(async |segment| {
        let mut pass = SegmentRebuild::new(worker, rule, task, segment, (None, Counts::default()));
        while pass.step(Deadline::NONE).await.expect("nothing fails") {}
        pass.counts()
    });
    let mut total = Counts::default();
    for counts in futures::future::join_all(each).await {
        total += counts;
    }
    total
}

fn stored(events: &[RecordedEvent]) -> Vec<(AggregateId, Stored)> {
    events.iter().map(|event| (event.aggregate.clone(), Stored::Event(event.clone()))).collect()
}

/// A store of the same database in which the rule has another table.
fn beside(embedded: &Embedded, table: &str) -> Worker {
    let mut names = names(Registry::new(STAYS_2));
    names.projections.insert("stays", table.to_owned());
    Worker::new(Store::new(embedded.client(), names), Registry::new(STAYS_2))
}

#[tokio::test]
async fn however_a_history_is_cut_into_pieces_and_in_whatever_order_they_come_rows_are_whole() {
    let events = stays(1, 60, 3, 1);
    for (seed, task) in (0..12).flat_map(|seed| [(seed, Task::Rebuild), (seed, Task::Beside)]) {
        // In place half of the rows are there.
        let (mut random, world) = (Rng::with_seed(seed), World::with(Registry::new(STAYS_1)).await);
        world.append_all(&events).await;
        if seed % 2 == 0 {
            world.process(&events[..20]).await;
        }
        let worker = world.worker_of(STAYS_2);
        let mut shuffled = events.clone();
        if seed % 3 > 0 {
            shuffled.sort_by_key(|event| (event.aggregate.clone(), event.version));
        }
        let mut pieces: Vec<_> = shuffled.chunks(1 + random.usize(..20)).collect();
        if seed % 3 == 2 {
            random.shuffle(&mut pieces);
        }
        let rule = STAYS_2[0];
        // Two at once, as two segments of a table whose histories lie in both.
        let (mut one, mut other) = (Rebuild::new(&worker, rule, task), Rebuild::new(&worker, rule, task));
        for (at, piece) in pieces.iter().enumerate() {
            let empty = Vec::new();
            let (mine, yours) = if at % 2 == 0 { (stored(piece), empty) } else { (empty, stored(piece)) };
            let (one, other) = tokio::join!(one.page(mine, Deadline::NONE), other.page(yours, Deadline::NONE));
            one.and(other).expect("nothing fails");
        }
        let (one, other) = tokio::join!(one.end(Deadline::NONE), other.end(Deadline::NONE));
        one.and(other).expect("nothing fails");
        assert_eq!(rows_in(worker.store()).await, expected(&events), "{seed} {task:?}");
    }
}
