//! What a rule would make of the rows is what a rebuild makes of them.

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{Cell, Decimal, DynProjection, HomeRow, RecordedEvent, Registry, Value, data};
use projection_worker::{
    Worker,
    internals::{
        operations::{
            preview::{Preview, SegmentPreview, SharedChange, sample},
            rebuild::Task,
            settle::settle,
        },
        retry::Deadline,
        store::segment::Segment,
    },
};

use super::rebuild::rebuild;
use crate::support::{
    projections::{HOUSES_1, HOUSES_2, LIFTED, STATEMENTS, STAYS_1, STAYS_2, STAYS_3, UNCURSED},
    stays::{stays, world_of_stays},
    world::{Fault, World, recorded, records},
};

/// A preview of everything by this worker's first rule.
async fn preview(worker: &Worker, segments: impl IntoIterator<Item = Segment>, examples: usize) -> Preview {
    let rule = worker.registry().projections()[0];
    let mut all = Preview::default();
    for segment in segments {
        let mut part = SegmentPreview::new(worker.store(), rule, segment, examples);
        while part.step(Deadline::NONE).await.expect("nothing fails") {}
        all.add(part.preview, examples);
    }
    all
}

async fn world_of(rules: &'static [&'static dyn DynProjection], events: &[RecordedEvent]) -> World {
    let world = World::with(Registry::new(rules)).await;
    world.append_all(events).await;
    for batch in events.chunks(100) {
        assert_eq!(world.process(batch).await.total.failed, 0);
    }
    world
}

/// All home rows, and what shared rows show.
async fn everything(worker: &Worker) -> (BTreeMap<String, HomeRow>, BTreeMap<Cell, Value>) {
    let rule = worker.registry().projections()[0];
    let (mut home, mut shared) = (BTreeMap::new(), BTreeMap::new());
    let scan = worker.store().each_row(rule, Deadline::NONE, |row| {
        for (attribute, held) in row.shared {
            shared.extend(held.value.map(|value| ((row.key.clone(), attribute), value)));
        }
        home.insert(row.key.to_string(), row.home);
    });
    scan.await.expect("nothing fails");
    (home, shared)
}

/// For random histories, in one segment and in several: rows that would change, appear or stay, attribute by attribute, and sums.
#[tokio::test]
async fn what_is_previewed_is_what_a_rebuild_does() {
    for (seed, segments) in [(41, 1), (42, 3)] {
        let mut events = stays(seed, 300, 40, 1);
        let late = events.split_off(280);
        let world = world_of_stays(&events).await;
        world.append_all(&late).await;
        world.append_all(&recorded([("new", "Stayed", data! { city: "city-1", hotel: "hotel-1", nights: 2 })])).await;
        let next = world.worker_of(STAYS_2);
        let before = everything(&next).await;
        let shown = preview(&next, Segment::all(segments), 1_000).await;
        assert_eq!(everything(&next).await, before, "nothing is written");

        rebuild(&next, Task::Rebuild, 2).await;
        settle(next.store(), STAYS_2[0], Deadline::NONE).await.expect("nothing fails");
        let after = everything(&next).await;
        let events = events.len() as u64 + late.len() as u64 + 1;
        assert_eq!((shown.events, shown.rows, shown.appear, shown.older), (events, 40, 1, 40));
        let differs = |id: &&String| {
            let (one, other) = (&before.0[*id], &after.0[*id]);
            one.own != other.own || one.contributions != other.contributions || one.left != other.left
        };
        let guests: Vec<_> = before.0.keys().filter(|id| id.starts_with("guest-")).collect();
        let changed: Vec<_> = guests.iter().copied().filter(differs).collect();
        assert_eq!((shown.outdated, shown.same), (changed.len() as u64, (guests.len() - changed.len()) as u64));
        assert_eq!((shown.unexplained, shown.newer, shown.parked, shown.stopped_total()), (0, 0, 0, 0));
        assert!(!shown.changes_nothing());
        let examples: Vec<_> = shown.examples.iter().map(|example| example.aggregate.to_string()).collect();
        assert_eq!(examples.iter().collect::<Vec<_>>(), changed);
        for example in &shown.examples {
            let (one, other) = (&before.0[example.aggregate.as_str()], &after.0[example.aggregate.as_str()]);
            assert_eq!(example.revision, 1);
            for differs in example.changes.iter().filter(|differs| differs.contributed_to.is_none()) {
                let of = |row: &HomeRow| row.own.get(&differs.attribute).cloned();
                assert_eq!((&differs.from, &differs.to), (&of(one), &of(other)));
            }
        }
        let mut attributes: BTreeMap<&str, u64> = BTreeMap::new();
        for id in &guests {
            let (one, other) = (&before.0[*id].own, &after.0[*id].own);
            let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for name in names.into_iter().filter(|name| one.get(*name) != other.get(*name)) {
                *attributes.entry(name).or_default() += 1;
            }
        }
        assert_eq!(shown.attributes.iter().map(|(name, rows)| (name.as_str(), *rows)).collect::<BTreeMap<_, _>>(), attributes);
        // Every sum moves by what was said, and none besides.
        let number =
            |all: &BTreeMap<Cell, Value>, cell: &Cell| all.get(cell).and_then(Value::as_number).cloned().unwrap_or_else(Decimal::zero);
        let cells: BTreeSet<_> = before.1.keys().chain(after.1.keys()).filter(|(_, name)| name == "nights").collect();
        let mut moved = BTreeMap::new();
        for cell in cells {
            let mut by = number(&after.1, cell);
            by -= &number(&before.1, cell);
            if !by.is_zero() {
                moved.insert(cell.clone(), SharedChange::By(by));
            }
        }
        let said: BTreeMap<_, _> = shown.shared.iter().map(|(cell, change)| (cell.clone(), change.clone())).collect();
        let sums = said.iter().filter(|((_, name), _)| name == "nights").map(|(cell, change)| (cell.clone(), change.clone())).collect();
        assert_eq!(moved, sums);
        assert!(said.iter().any(|((_, name), change)| name == "lastStayAt" && *change == SharedChange::Other), "{said:?}");

        let again = preview(&next, Segment::all(segments), 1_000).await;
        assert!(again.changes_nothing() && again.same == 41 && again.shared.iter().next().is_none(), "{again:?}");
    }
}

/// A rule that was changed without its revision, which no rebuild puts right.
#[tokio::test]
async fn rows_of_the_same_revision_that_the_rule_would_make_otherwise_are_counted_apart() {
    let events = recorded([
        ("ann", "Came", data! { page: "home", spent: 3 }),
        ("ann", "Cursed", data! {}),
        ("ben", "Came", data! { page: "home", spent: 4 }),
    ]);
    let world = world_of(LIFTED, &events).await;
    assert!(preview(&world.worker, [Segment::ALL], 9).await.changes_nothing());
    // The same projection, the same revision, and a rule that handles `Left` alone.
    let changed = preview(&world.worker_of(UNCURSED), [Segment::ALL], 9).await;
    let counts = (changed.rows, changed.current(), changed.unexplained, changed.outdated, changed.same, changed.emptied);
    assert_eq!(counts, (2, 2, 2, 0, 0, 2));
    let of_ann = &changed.examples[0];
    assert_eq!((of_ann.aggregate.as_str(), of_ann.revision), ("ann", 1));
    let version = of_ann.changes.iter().find(|differs| differs.attribute == "version").expect("it would stand on no event");
    assert_eq!((&version.from, &version.to), (&Some(2.into()), &None));
    assert_eq!(changed.attributes["curses"], 1);
    // Ann has taken hers back.
    let visits = changed.shared.iter().find(|((_, name), _)| name == "visits").expect("the page's counter");
    assert_eq!(visits.1, &SharedChange::By((-1).into()));
}

#[tokio::test]
async fn what_cannot_be_worked_out_is_counted_by_reason() {
    let stay = |id, nights: u64| {
        let data = [("city", "rome".into()), ("hotel", "inn".into()), ("nights", Value::from(nights))];
        (id, "Stayed", Value::Map(data.map(|(name, value)| (name.to_owned(), value)).into()))
    };
    let mut events = recorded([stay("ann", 1), stay("ben", 0), stay("cid", 2), stay("cid", 0), stay("dan", 0), stay("ann", 4)]);
    let world = world_of_stays(&events).await;
    let next = world.worker_of(STAYS_2);
    let shown = preview(&next, [Segment::ALL], 9).await;
    let stopped = &shown.stopped["a stay has nights"];
    assert_eq!((stopped.aggregates, stopped.example.as_str(), stopped.version.0, shown.stopped_total()), (3, "ben", 1, 3));
    assert_eq!((shown.rows, shown.older, shown.outdated), (4, 4, 1), "only Ann's row would be written");

    // What a rebuild parks is not compared, and what the next rule could do with it is said.
    rebuild(&next, Task::Rebuild, 1).await;
    let parked = preview(&next, [Segment::ALL], 9).await;
    assert_eq!((parked.rows, parked.parked, parked.freed, parked.same), (4, 3, 0, 1));
    let live = recorded([stay("eve", 0), stay("fay", 1), stay("fay", 0)]);
    world.append_all(&live).await;
    world.worker_of(STAYS_2).process(&records(&live), Deadline::NONE).await;
    let parked = preview(&next, [Segment::ALL], 9).await;
    assert_eq!((parked.rows, parked.parked, parked.freed, parked.same, parked.current()), (6, 5, 0, 1, 1), "one has no version");
    events.extend(live);
    let older = preview(&world.worker_of(STAYS_1), [Segment::ALL], 9).await;
    assert_eq!((older.newer, older.changes_nothing()), (2, true), "a row of a newer revision is left alone: {older:?}");
    for event in &mut events {
        if let Value::Map(fields) = &mut event.data {
            fields.insert("nights".to_owned(), 7.into());
        }
        world.correct(event).await;
    }
    let freed = preview(&next, [Segment::ALL], 9).await;
    assert_eq!((freed.parked, freed.freed, freed.unexplained), (5, 5, 1), "and Ann's nights are others");

    let nobody = preview(&world.worker_of(STAYS_3), [Segment::ALL], 9).await;
    assert_eq!((nobody.stopped["nobody has stayed anywhere"].aggregates, nobody.parked, nobody.outdated), (1, 5, 0));
}

#[tokio::test]
async fn rows_that_would_be_empty_or_come_to_be_are_counted() {
    let built = ("two", "Built", data! { site: "north", rooms: 3 });
    let events = recorded([("one", "Painted", data! {}), built, ("two", "Painted", data! {})]);
    let world = world_of(HOUSES_1, &events).await;
    let shown = preview(&world.worker_of(HOUSES_2), [Segment::ALL], 9).await;
    assert_eq!((shown.rows, shown.outdated, shown.emptied, shown.appear), (2, 2, 1, 0));
    assert_eq!(shown.attributes["coats"], 2);
    // Without rows, all would come to be.
    let fresh = World::with(Registry::new(HOUSES_2)).await;
    fresh.append_all(&events).await;
    let shown = preview(&fresh.worker, [Segment::ALL], 9).await;
    assert_eq!((shown.rows, shown.appear, shown.changes_nothing(), shown.examples.len()), (0, 1, false, 0));
    let rooms = shown.shared.iter().find(|((_, name), _)| name == "rooms").expect("the site's rooms");
    assert_eq!(rooms.1, &SharedChange::By(3.into()));
}

/// Rows that the worker has not moved yet are no findings.
#[tokio::test]
async fn rows_that_are_behind_are_compared_at_their_version() {
    let moved = |at: &str| ("acc", "Moved", Value::Map([("at".to_owned(), at.into()), ("amount".to_owned(), 1.into())].into()));
    let events = recorded([moved("a"), moved("b"), moved("c")]);
    let world = World::with(Registry::new(STATEMENTS)).await;
    world.append_all(&events).await;
    world.process(&events[..2]).await;
    let shown = preview(&world.worker, [Segment::ALL], 9).await;
    assert_eq!((shown.rows, shown.same, shown.behind, shown.changes_nothing()), (1, 1, 1, true));
    // A child row that something else has changed.
    let key = [("accountId", "acc"), ("movedAt", "b")];
    let key = key.map(|(name, value)| (name.to_owned(), aws_sdk_dynamodb::types::AttributeValue::S(value.to_owned())));
    let delete = world.embedded.client().delete_item().table_name("statement");
    delete.set_key(Some(key.into())).send().await.expect("deleted");
    let shown = preview(&world.worker, [Segment::ALL], 9).await;
    assert_eq!((shown.unexplained, shown.children, shown.attributes.len(), shown.examples[0].children), (1, 1, 0, 1));
}

/// The worker writes between the scan of the events and the read of the rows.
#[tokio::test]
async fn a_row_that_is_ahead_of_the_page_is_folded_again() {
    let events = stays(43, 30, 3, 1);
    let world = World::with(Registry::new(STAYS_1)).await;
    world.append_all(&events[..20]).await;
    world.process(&events[..20]).await;
    let shared = std::sync::Arc::new((world.worker_of(STAYS_1), events));
    let tapped = world.tapped_of(STAYS_1, move |call| {
        if call.operation != "BatchGetItem" || call.number > 2 {
            return Fault::None;
        }
        let shared = shared.clone();
        Fault::Meanwhile(Box::pin(async move {
            let (worker, events) = &*shared;
            for event in &events[20..] {
                worker.store().append(event.version.previous(), std::slice::from_ref(event)).await.expect("appended");
            }
            worker.process(&records(&events[20..]), Deadline::NONE).await;
        }))
    });
    let shown = preview(&tapped.worker, [Segment::ALL], 9).await;
    assert!(shown.changes_nothing() && shown.same == 3, "{shown:?}");
    let reads = ["Scan", "BatchGetItem", "Query"];
    assert!(
        tapped.calls().iter().all(|call| reads.contains(&&**call)) && tapped.calls().contains(&"Query".to_owned()),
        "{:?}",
        tapped.calls()
    );
}

#[tokio::test]
async fn a_sample_reads_a_part_and_all_of_it_everything() {
    let events = stays(44, 400, 100, 1);
    let world = world_of_stays(&events).await;
    let next = world.worker_of(STAYS_2);
    let (all, some) = (preview(&next, sample(100), 5).await, preview(&next, sample(30), 5).await);
    assert_eq!((all.rows, all.examples.len(), sample(30).len(), sample(1).len()), (100, 5, 30, 1));
    assert!((5..=60).contains(&some.rows), "{}", some.rows);
}
