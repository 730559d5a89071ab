//! A rule changes: a rebuild rewrites every row by the new rule, while the worker processes the stream.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use fastrand::Rng;
use projection_vocabulary::{AggregateId, Attributes, RecordedEvent, Registry, Timestamp, Value, Version};
use projection_worker::{
    Worker,
    internals::{
        embedded::Embedded,
        engine::reproject::Trust,
        operations::{
            rebuild::{
                Rebuild, Task,
                segment::{Resume, SegmentRebuild},
            },
            recent::Recent,
            redrive::redrive,
        },
        progress::Counts,
        retry::Deadline,
        store::{
            Store,
            cursors::SavedCursor,
            events::Stored,
            segment::{Cursor, Segment},
        },
    },
};

use crate::support::{
    projections::{STAYS_1, STAYS_2, STAYS_3},
    stays::{FAT, Visible, expected, rows_in, stays, world_of_stays},
    world::{Fault, World, names, records},
};

/// Rebuilds all segments concurrently.
pub async fn rebuild(worker: &Worker, task: Task, segments: u32) -> Counts {
    let rule = worker.registry().projections()[0];
    let each = Segment::all(segments).map(async |segment| {
        let mut rebuilding = SegmentRebuild::new(worker, rule, task, segment, Resume::default());
        while rebuilding.step(Deadline::NONE).await.expect("nothing fails") {}
        rebuilding.counts()
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

/// A worker on the same database in which the rule has another table.
fn worker_into(embedded: &Embedded, table: &str) -> Worker {
    let mut names = names(Registry::new(STAYS_2));
    names.projections.insert("stays", table.to_owned());
    Worker::new(Store::new(embedded.client(), names), Registry::new(STAYS_2))
}

#[tokio::test]
async fn a_rebuild_from_pieces_of_histories_in_any_order_yields_the_fold() {
    let events = stays(1, 60, 6, 1);
    for (seed, task) in (0..16).flat_map(|seed| [(seed, Task::Rebuild), (seed, Task::IntoTable)]) {
        let (mut random, world) = (Rng::with_seed(seed), World::with(Registry::new(STAYS_1)).await);
        world.append_all(&events).await;
        // In half of the cases a third of the events have been counted already.
        if seed / 4 % 2 == 0 {
            world.process(&events[..20]).await;
        }
        let worker = world.worker_of(STAYS_2);
        // In the order of the stream, of a scan, of segments in any order, and in no order at all.
        let mut ordered = events.clone();
        match seed % 4 {
            0 => {}
            3 => random.shuffle(&mut ordered),
            _ => ordered.sort_by_key(|event| (event.aggregate.clone(), event.version)),
        }
        let mut pieces: Vec<_> = ordered.chunks(1 + random.usize(..60)).collect();
        if seed % 4 == 2 {
            random.shuffle(&mut pieces);
        }
        let rule = STAYS_2[0];
        // Two at once, like two segments that share histories.
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

#[tokio::test]
async fn a_rebuild_under_live_traffic_yields_the_new_rows_and_a_second_run_does_nothing() {
    for segments in [1, 3, 8] {
        let events = stays(2, 700, 25, FAT / 4);
        let (old, new) = events.split_at(600);
        let world = world_of_stays(old).await;
        world.append_all(&events[600..]).await;
        let worker = world.worker_of(STAYS_2);
        // Meanwhile the stream delivers the rest, and redelivers some of the old events.
        let live = async {
            let worker = world.worker_of(STAYS_2);
            for batch in new.chunks(20).chain(old.chunks(200).take(1)) {
                assert_eq!(worker.process(&records(batch), Deadline::NONE).await.total.failed, 0);
            }
        };
        let (counts, ()) = tokio::join!(rebuild(&worker, Task::Rebuild, segments), live);
        assert_eq!((rows_in(worker.store()).await, counts.parked, counts.stopped), (expected(&events), 0, 0), "{segments}");
        assert!(counts.replaced > 0 && counts.changed == counts.replaced, "{counts:?}");

        let before = world.tapped_of(STAYS_2, |_| Fault::None);
        let again = rebuild(&before.worker, Task::Rebuild, segments).await;
        assert!(again.nothing_done() && again.events >= 700 && again.aggregates == 25, "{again:?}");
        assert!(before.calls().iter().all(|call| call == "Scan" || call == "BatchGetItem"), "{:?}", before.calls());

        let report = world.process(&events[..5]).await;
        let reason = report.reasons.keys().next().expect("an old deployment fails");
        assert!(
            report.total.failed == 5 && reason.contains("were written by revision 2 of its rule and this program has revision 1"),
            "{reason}"
        );
        let old = SegmentRebuild::new(&world.worker, STAYS_1[0], Task::Rebuild, Segment::ALL, Resume::default());
        let refused = { old }.step(Deadline::NONE).await.expect_err("an older rule").to_string();
        assert!(refused.contains("were written by revision 2"), "{refused}");
        assert_eq!(rows_in(worker.store()).await, expected(&events));
    }
}

/// The rebuild of a segment as another machine would resume it.
fn resumed<'a>(worker: &'a Worker, rebuilding: &SegmentRebuild<'_>, task: Task) -> SegmentRebuild<'a> {
    let Resume { cursor, counts } = rebuilding.resume();
    let kept = serde_json::to_string(&(cursor, counts)).expect("JSON");
    let (cursor, counts) = serde_json::from_str(&kept).expect("JSON");
    let from = Resume { cursor, counts };
    SegmentRebuild::new(worker, worker.registry().projections()[0], task, rebuilding.segment(), from)
}

#[tokio::test]
async fn resuming_at_any_checkpoint_yields_the_same_rows() {
    // Histories that span two pages, and histories that end with their page.
    let (long, short) = (stays(3, 450, 12, FAT), stays(3, 16, 16, 300_000));
    for (events, guests, stop_after) in (0..4).flat_map(|stop_after| [(&long, 12, stop_after), (&short, 16, stop_after)]) {
        let world = world_of_stays(events).await;
        let worker = world.worker_of(STAYS_2);
        let rule = STAYS_2[0];
        let mut rebuilding = SegmentRebuild::new(&worker, rule, Task::Rebuild, Segment::ALL, Resume::default());
        let mut pages = 0;
        while pages < stop_after && rebuilding.step(Deadline::NONE).await.expect("nothing fails") {
            pages += 1;
        }
        assert_eq!(pages, stop_after, "pages of a megabyte");
        // The next ones fail at one of their calls, and half of them try again.
        for failing in [1, 2, 3, 5, 8] {
            let tapped =
                world.tapped_of(
                    STAYS_2,
                    move |call| {
                        if call.number == failing { Fault::error(400, "AccessDeniedException") } else { Fault::None }
                    },
                );
            let mut other = resumed(&tapped.worker, &rebuilding, Task::Rebuild);
            let stepped = other.step(Deadline::NONE).await;
            if stepped.is_err() && failing % 2 == 0 {
                _ = other.step(Deadline::NONE).await;
            }
        }
        let next = world.worker_of(STAYS_2);
        let mut rebuilding = resumed(&next, &rebuilding, Task::Rebuild);
        while rebuilding.step(Deadline::NONE).await.expect("nothing fails") {}
        assert_eq!(rows_in(worker.store()).await, expected(events), "{guests} {stop_after}");
        assert_eq!(rebuilding.counts().aggregates, guests, "each is counted once: {:?}", rebuilding.counts());
    }
}

#[tokio::test]
async fn the_completed_work_of_a_failed_step_is_counted_once() {
    // More rows than a transaction holds; the second transaction is refused.
    let events = stays(4, 600, 150, 1);
    let world = world_of_stays(&events).await;
    let transactions = AtomicUsize::new(0);
    let tapped = world.tapped_of(STAYS_2, move |call| match call.operation {
        "TransactWriteItems" if transactions.fetch_add(1, Relaxed) == 1 => Fault::error(400, "AccessDeniedException"),
        _ => Fault::None,
    });
    let mut rebuilding = SegmentRebuild::new(&tapped.worker, STAYS_2[0], Task::Rebuild, Segment::ALL, Resume::default());
    rebuilding.step(Deadline::NONE).await.expect_err("a write is refused");
    let done = rebuilding.counts();
    assert!(done.replaced > 0 && done.replaced < 150 && done.aggregates == 0, "{done:?}");
    while rebuilding.step(Deadline::NONE).await.expect("nothing fails") {}
    let Counts { events: read, aggregates, replaced, .. } = rebuilding.counts();
    assert_eq!((read, aggregates, replaced), (600, 150, 150));
    assert_eq!(rows_in(tapped.worker.store()).await, expected(&events));
}

#[tokio::test]
async fn a_history_across_many_pages_is_one_row_wherever_the_rebuild_is_closed() {
    // More versions than one query returns, and more bytes than five pages of a scan.
    let (mut events, others) = (stays(5, 1_200, 1, FAT / 2), stays(6, 40, 4, 10));
    events.extend(others.into_iter().filter(|event| event.aggregate.as_str() != "guest-000"));
    let world = World::with(Registry::new(STAYS_1)).await;
    world.append_all(&events).await;
    for (task, stale, close_at) in [
        (Task::Rebuild, true, 0),
        (Task::Rebuild, false, 3),
        (Task::Rebuild, true, 3),
        (Task::IntoTable, false, 2),
        (Task::IntoTable, false, 0),
    ] {
        let worker = worker_into(&world.embedded, &format!("stays-{task:?}-{stale}-{close_at}"));
        worker.store().create_table_of(STAYS_2[0]).await.expect("a table");
        if stale {
            let mut names = names(Registry::new(STAYS_1));
            names.projections.insert("stays", format!("stays-{task:?}-{stale}-{close_at}"));
            let old = Worker::new(Store::new(world.embedded.client(), names), Registry::new(STAYS_1));
            assert_eq!(old.process(&records(&events), Deadline::NONE).await.total.failed, 0);
        }
        let mut rebuilding = SegmentRebuild::new(&worker, STAYS_2[0], task, Segment::ALL, Resume::default());
        let mut pages = 0;
        loop {
            let more = rebuilding.step(Deadline::NONE).await.expect("nothing fails");
            pages += 1;
            if pages == close_at {
                let before = rebuilding.resume().cursor;
                rebuilding.close(Deadline::NONE).await.expect("nothing fails");
                assert_ne!(rebuilding.resume().cursor, before);
                rebuilding = resumed(&worker, &rebuilding, task);
            }
            if !more {
                break;
            }
        }
        assert!(pages > 5, "{pages}");
        assert_eq!(rows_in(worker.store()).await, expected(&events), "{task:?} {stale} {close_at}");
    }
}

/// The events, with one changed so that the second revision refuses it.
fn with_poison(events: &[RecordedEvent], at: usize) -> Vec<RecordedEvent> {
    let mut events = events.to_vec();
    let Value::Map(data) = &mut events[at].data else { panic!("data is a map") };
    data.insert("nights".to_owned(), 0_u64.into());
    events
}

#[tokio::test]
async fn a_refused_event_parks_in_the_live_table_and_only_stops_the_row_in_a_new_one() {
    let good = stays(7, 120, 10, 10);
    let at = good.iter().rposition(|event| &*event.event_type == "Stayed" && event.version.0 > 2).expect("some");
    let events = with_poison(&good, at);
    let poisoned = &events[at];
    let before = |event: &&RecordedEvent| event.aggregate != poisoned.aggregate || event.version < poisoned.version;
    let until = expected(&events.iter().filter(before).cloned().collect::<Vec<_>>());

    // Into a new table: the row stops before it, in every run, and nothing is parked.
    let world = world_of_stays(&events).await;
    let into_table = worker_into(&world.embedded, "stays-2");
    into_table.store().create_table_of(STAYS_2[0]).await.expect("a table");
    for created in [10, 0] {
        let counts = rebuild(&into_table, Task::IntoTable, 3).await;
        assert_eq!((counts.created, counts.stopped, counts.parked, counts.caught_up), (created, 1, 0, 0), "{counts:?}");
        assert_eq!((rows_in(into_table.store()).await, world.parked().await), (until.clone(), vec![]));
    }

    // In place: an existing row beyond it stays unchanged; a new row stops before it. Both are parked.
    let row = (&poisoned.aggregate).into();
    for row_exists in [true, false] {
        let world = if row_exists { world_of_stays(&events).await } else { World::with(Registry::new(STAYS_1)).await };
        if !row_exists {
            world.append_all(&events).await;
        }
        let (worker, old) = (world.worker_of(STAYS_2), rows_in(world.worker.store()).await);
        let dry = rebuild(&worker, Task::DryRun, 2).await;
        assert_eq!((dry.stopped, dry.replaced + dry.created), (1, if row_exists { 9 } else { 10 }), "{dry:?}");
        for parked in [1, 1] {
            let counts = rebuild(&worker, Task::Rebuild, 3).await;
            assert_eq!((counts.parked, counts.stopped), (parked, 0), "{counts:?}");
        }
        let mut rows = rows_in(worker.store()).await;
        let mut parked_row: Attributes = rows.remove(&row).expect("it is parked");
        assert_eq!(parked_row.remove("parked"), Some(true.into()));
        let expected_row = if row_exists { &old[&row] } else { &until[&row] };
        assert_eq!(parked_row, *expected_row, "{row_exists}");
        let others = |rows: &Visible| rows.iter().filter(|(key, _)| **key != row && key.key.as_str().starts_with("guest")).count();
        assert_eq!((others(&rows), world.parked().await.len()), (9, 1));

        // Once it is corrected, a redrive recovers it.
        world.correct(&good[at]).await;
        let parked = worker.store().parked().await.expect("parked").remove(0);
        redrive(&worker, &parked, Trust::Row, Deadline::NONE).await.expect("redriven");
        assert_eq!(rows_in(worker.store()).await, expected(&good), "{row_exists}");
        assert_eq!(world.parked().await, []);
    }
}

#[tokio::test]
async fn a_rule_that_refuses_everything_parks_nothing() {
    let events = stays(8, 100, 40, 1);
    let world = world_of_stays(&events).await;
    let before = world.rows().await;
    let worker = world.worker_of(STAYS_3);
    let mut rebuilding = SegmentRebuild::new(&worker, STAYS_3[0], Task::Rebuild, Segment::ALL, Resume::default());
    for _ in 0..3 {
        let failed = rebuilding.step(Deadline::NONE).await.expect_err("the breaker").to_string();
        assert!(failed.contains("the deployment is at fault"), "{failed}");
    }
    assert_eq!((world.rows().await, world.parked().await), (before, vec![]));
}

#[tokio::test]
async fn a_dry_run_counts_what_a_rebuild_does_and_writes_nothing() {
    let events = stays(9, 300, 20, 10);
    // Some rows are missing, most are of the old revision.
    let (missing, rest): (Vec<_>, Vec<_>) = events.iter().cloned().partition(|event| event.aggregate.as_str() < "guest-003");
    let world = World::with(Registry::new(STAYS_1)).await;
    world.append_all(&events).await;
    world.process(&rest).await;
    let dry = world.tapped_of(STAYS_2, |_| Fault::None);
    let planned = rebuild(&dry.worker, Task::DryRun, 3).await;
    assert!(dry.calls().iter().all(|call| ["Scan", "BatchGetItem", "Query"].contains(&call.as_str())), "{:?}", dry.calls());
    assert_eq!((planned.created, planned.replaced), (3, 17));
    assert!(!missing.is_empty() && planned.changed >= 17);
    assert_eq!(rebuild(&dry.worker, Task::Rebuild, 3).await, planned);
    assert_eq!(rows_in(dry.worker.store()).await, expected(&events));
}

#[tokio::test]
async fn a_rebuild_into_a_new_table_leaves_the_live_one_unchanged() {
    let events = stays(10, 400, 30, FAT / 2);
    let world = world_of_stays(&events).await;
    let before = world.rows().await;
    let into_table = worker_into(&world.embedded, "stays-2");
    assert!(into_table.store().create_table_of(STAYS_2[0]).await.expect("a table"));
    assert!(!into_table.store().create_table_of(STAYS_2[0]).await.expect("it is there"));
    let counts = rebuild(&into_table, Task::IntoTable, 4).await;
    assert_eq!((counts.created, counts.replaced, counts.changed), (30, 0, 30));
    assert_eq!((rows_in(into_table.store()).await, world.rows().await), (expected(&events), before));
    assert!(rebuild(&into_table, Task::IntoTable, 4).await.nothing_done());
}

#[tokio::test]
async fn cursors_belong_to_one_revision_and_one_table_and_do_not_count_as_parked() {
    let world = World::with(Registry::new(STAYS_2)).await;
    let (store, rule) = (world.worker.store(), STAYS_2[0]);
    let cursor = |segment: Segment, version| SavedCursor {
        cursor: Some(Cursor::after(&"guest".into(), Version(version))),
        counts: Counts { events: version, ..Counts::default() },
        done: version > 1,
        ..SavedCursor::beginning(segment)
    };
    let segments: Vec<_> = Segment::all(12).collect();
    for segment in segments.iter().rev() {
        store.save_cursor(rule, &SavedCursor::beginning(*segment), Deadline::NONE).await.expect("saved");
        store.save_cursor(rule, &cursor(*segment, u64::from(segment.number())), Deadline::NONE).await.expect("saved");
    }
    let into_table = worker_into(&world.embedded, "stays-2");
    into_table.store().save_cursor(rule, &cursor(segments[3], 99), Deadline::NONE).await.expect("saved");
    world.worker_of(STAYS_3).store().save_cursor(STAYS_3[0], &cursor(Segment::ALL, 77), Deadline::NONE).await.expect("saved");

    let mut kept = store.saved_cursors(rule, Deadline::NONE).await.expect("kept");
    assert!(kept.iter().all(|saved| Timestamp::parse(&saved.saved_at).is_ok()));
    for saved in &mut kept {
        saved.saved_at.clear();
    }
    assert_eq!(kept, segments.iter().map(|segment| cursor(*segment, u64::from(segment.number()))).collect::<Vec<_>>());
    assert_eq!(store.parked().await.expect("parked"), []);

    store.forget_cursors(rule, Deadline::NONE).await.expect("forgotten");
    store.forget_cursors(rule, Deadline::NONE).await.expect("nothing to forget");
    assert_eq!(store.saved_cursors(rule, Deadline::NONE).await.expect("kept"), []);
    assert_eq!(into_table.store().saved_cursors(rule, Deadline::NONE).await.expect("kept").len(), 1, "those of another table remain");
}

#[tokio::test]
async fn rows_behind_are_found_by_a_scan_or_by_the_index() {
    for by_index in [false, true] {
        let events = stays(11, 900, 60, FAT / 10);
        let (before, lost) = events.split_at(700);
        let world = World::with(Registry::new(STAYS_2)).await;
        world.append_all(&events).await;
        world.process(before).await;
        let behind: BTreeSet<_> = lost.iter().filter(|event| &*event.event_type != "Complained").map(|event| &event.aggregate).collect();
        let tapped = world.tapped_of(STAYS_2, |_| Fault::None);
        let catch_up = async || {
            if !by_index {
                return rebuild(&tapped.worker, Task::CatchUp, 3).await;
            }
            let mut recent = Recent::new(&tapped.worker, STAYS_2[0], lost[0].timestamp.clone());
            while recent.step(Deadline::NONE).await.expect("nothing fails") {}
            recent.counts()
        };
        let counts = catch_up().await;
        assert_eq!((counts.caught_up, counts.replaced + counts.created), (behind.len() as u64, 0), "{counts:?}");
        assert!(catch_up().await.nothing_done());
        assert_eq!(tapped.calls().contains(&"Scan".to_owned()), !by_index);
        assert_eq!(rows_in(tapped.worker.store()).await, expected(&events));
        if by_index {
            assert!(counts.events < 200, "it reads only the events since then: {counts:?}");
        }
    }
}

#[tokio::test]
async fn a_first_event_that_comes_last_retracts_nothing() {
    let events = stays(12, 12, 2, 1);
    let (one, other): (Vec<_>, Vec<_>) = events.iter().cloned().partition(|event| event.aggregate.as_str() == "guest-000");
    for task in [Task::Rebuild, Task::IntoTable] {
        let world = World::with(Registry::new(STAYS_2)).await;
        world.append_all(&events).await;
        let mut rebuilding = Rebuild::new(&world.worker, STAYS_2[0], task);
        let page = [&one[1..], &other[..1], &one[..1], &other[1..]].concat();
        rebuilding.page(stored(&page), Deadline::NONE).await.expect("nothing fails");
        rebuilding.end(Deadline::NONE).await.expect("nothing fails");
        assert_eq!(rows_in(world.worker.store()).await, expected(&events), "{task:?}");
    }
}
