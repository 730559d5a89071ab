//! Histories for `stays`, and their rows by the second revision of its rule.

use std::collections::BTreeMap;

use fastrand::Rng;
use projection_vocabulary::{Attributes, RecordedEvent, Registry, RowId, Value};
use projection_worker::internals::store::Store;

use crate::support::{
    projections::{STAYS_1, STAYS_2},
    world::{World, fold, recorded},
};

/// Bytes of a note. A page of a scan is 1 MB, a hundred events of this size.
pub const FAT: usize = 10_000;

/// Random stays: this number of events of this number of guests, each with a note of this number of bytes.
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

/// A world whose rows were written by the rule's first revision.
pub async fn world_of_stays(events: &[RecordedEvent]) -> World {
    let world = World::with(Registry::new(STAYS_1)).await;
    world.append_all(events).await;
    for batch in events.chunks(500) {
        assert_eq!(world.process(batch).await.total.failed, 0);
    }
    world
}

pub type Visible = BTreeMap<RowId, Attributes>;

/// The visible rows, without shared rows in which every counter is zero.
pub async fn rows_in(store: &Store) -> Visible {
    let mut rows = store.visible_rows(STAYS_2[0]).await.expect("rows");
    rows.retain(|_, row| !row.values().all(|value| value.as_number().is_some_and(projection_vocabulary::Decimal::is_zero)));
    rows
}

pub fn expected(events: &[RecordedEvent]) -> Visible {
    fold(Registry::new(STAYS_2), events).remove("stays").expect("the rule")
}
