//! Parking and redriving.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::join_all;
use projection_vocabulary::{DynProjection, RecordedEvent, Registry, Value, Version, data};
use projection_worker::{
    Worker,
    internals::{
        engine::reproject::Trust,
        operations::{
            catch_up::catch_up,
            redrive::{self, Redriven},
        },
        retry::Deadline,
        store::parking::{NO_PROJECTION, Parked, Parking},
    },
};
use serde_json::{Value as Json, json, value::RawValue};

use crate::support::{
    projections::{HOUSES_1, HOUSES_2, LIFTED, UNCURSED, UNUSUAL},
    world::{Call, Fault, ONE_EACH, Tapped, World, account, fold, import_item, impostor, record, recorded, records, registry},
};

fn post(category: &str) -> Value {
    Value::Map([("categoryId".into(), category.into()), ("postId".into(), "p".into())].into())
}

/// A topic parked at its third event, with later events behind it; other topics share its categories. The event store has been
/// corrected since then.
async fn parked_topic() -> (World, Vec<RecordedEvent>) {
    let truth = recorded([
        ("news", "CategoryCreated", data! { name: "News" }),
        ("t1", "TopicCreated", data! { categoryId: "news", title: "One", authorId: "ann" }),
        ("t2", "TopicCreated", data! { categoryId: "news", title: "Two", authorId: "bob" }),
        ("t1", "PostAdded", post("news")),
        ("t1", "PostAdded", post("news")),
        ("t1", "TopicMoved", data! { fromCategoryId: "news", toCategoryId: "old" }),
        ("t1", "PostAdded", post("old")),
        ("t2", "PostAdded", post("news")),
    ]);
    let world = World::new().await;
    let mut events = truth.clone();
    events[4].data = data! { categoryId: 7 };
    world.import(&events).await;
    let report = world.process(&events).await;
    assert_eq!((report.total.applied, report.total.parked), (5, 3), "{:?}", report.reasons);
    world.correct(&truth[4]).await;
    (world, truth)
}

/// The next event of the parked topic.
fn next_post(truth: &[RecordedEvent]) -> RecordedEvent {
    let last = &truth[6];
    RecordedEvent { version: last.version.next(), event_id: "next".into(), ..last.clone() }
}

async fn entries(world: &World) -> Vec<Parked> {
    world.worker.store().parked().await.expect("the parking table")
}

async fn only_entry(world: &World) -> Parked {
    let [entry] = &entries(world).await[..] else { panic!("one is parked: {:?}", entries(world).await) };
    entry.clone()
}

/// Moves the only entry's sightings into the past, so that every later one has another time.
async fn backdate(world: &World) {
    let entry = only_entry(world).await;
    let request = world.embedded.client().update_item().table_name("parked");
    let request = request.key("aggregateId", AttributeValue::S(entry.aggregate)).key("projection", AttributeValue::S(entry.projection));
    let request = request.update_expression("SET firstSeen = :past, lastSeen = :past");
    request.expression_attribute_values(":past", AttributeValue::S("2020-01-01T00:00:00.000Z".into())).send().await.expect("updated");
}

async fn redrive(worker: &Worker, entry: &Parked) -> Redriven {
    redrive::redrive(worker, entry, Trust::Row, Deadline::NONE).await.expect("the store answers")
}

/// Redrives the only parked entry.
async fn redrive_only(world: &World) -> Redriven {
    redrive(&world.worker, &only_entry(world).await).await
}

fn recovered(applied: u64) -> Redriven {
    Redriven::Done { applied, reprojected: false }
}

fn still_parked(redriven: Redriven) -> String {
    let Redriven::Parked(reason) = redriven else { panic!("still parked") };
    reason
}

/// Fails unless all rows equal the fold and nothing is parked.
async fn assert_exact(world: &World, rules: &'static [&'static dyn DynProjection], truth: &[RecordedEvent], case: &str) {
    assert_eq!(world.rows().await, fold(Registry::new(rules), truth), "{case}");
    assert_eq!(entries(world).await, [], "{case}");
}

#[tokio::test]
async fn after_the_event_store_is_corrected_a_redrive_yields_the_fold_including_events_that_came_while_parked() {
    let (world, truth) = parked_topic().await;
    assert_eq!(redrive_only(&world).await, recovered(3));
    assert_exact(&world, ONE_EACH, &truth, "").await;
    assert!(world.row("forum-counters", "old").await.ends_with("postCount=3 topicCount=1"));
    // Later events continue to count.
    let next = next_post(&truth);
    assert_eq!(world.process(std::slice::from_ref(&next)).await.total.applied, 1);
    assert_exact(&world, ONE_EACH, &[truth, vec![next]].concat(), "").await;
}

#[tokio::test]
async fn redriving_a_topic_deleted_while_parked_retracts_all_its_counts() {
    let (world, mut truth) = parked_topic().await;
    let deleted = RecordedEvent { event_type: "TopicDeleted".into(), data: data! {}, ..next_post(&truth) };
    world.import(std::slice::from_ref(&deleted)).await;
    assert_eq!(world.process(std::slice::from_ref(&deleted)).await.total.parked, 1);
    truth.push(deleted);
    assert_eq!(redrive_only(&world).await, recovered(4));
    assert_exact(&world, ONE_EACH, &truth, "").await;
    assert_eq!(world.row("forum-counters", "t1").await, "version=6");
}

#[tokio::test]
async fn a_new_rule_that_accepts_the_event_recovers_what_the_old_one_parked() {
    let events = recorded([
        ("ann", "Came", data! { page: "home", spent: 5 }),
        ("bob", "Came", data! { page: "home", spent: 7 }),
        ("ann", "Cursed", data! {}),
        ("ann", "Came", data! { page: "shop", spent: 9 }),
    ]);
    let world = World::with(Registry::new(UNUSUAL)).await;
    world.import(&events).await;
    assert_eq!(world.process(&events).await.total.parked, 2);
    let reason = still_parked(redrive_only(&world).await);
    assert!(reason.contains("panicked"), "{reason}");
    assert_eq!(redrive(&world.worker_of(LIFTED), &only_entry(&world).await).await, recovered(2));
    assert_eq!(world.row("visits", "home").await, r#"longest=7 spent=7 visitors=["ann","bob"] visits=1"#);
    assert_eq!(world.row("visits", "ann").await, "curses=1 version=3");
    assert_eq!(world.rows().await["visits"], fold(Registry::new(LIFTED), &events)["visits"]);
    assert_eq!(entries(&world).await, []);
}

#[tokio::test]
async fn an_event_that_is_still_poison_is_parked_again_and_keeps_its_first_sighting() {
    let (world, truth) = parked_topic().await;
    let mut odd = truth[4].clone();
    odd.data = data! { categoryId: [] };
    world.correct(&odd).await;
    backdate(&world).await;
    let (before, first) = (world.rows().await, only_entry(&world).await);
    let reason = still_parked(redrive_only(&world).await);
    let second = only_entry(&world).await;
    assert_eq!((second.count, &second.first_seen, second.version), (2, &first.first_seen, Some(Version(3))));
    assert!(second.last_seen > first.last_seen);
    assert_eq!((&second.reason, world.rows().await), (&reason, before));
    world.correct(&truth[4]).await;
    assert_eq!(redrive_only(&world).await, recovered(3));
    assert_exact(&world, ONE_EACH, &truth, "").await;
}

#[tokio::test]
async fn a_second_poison_event_parks_at_its_own_version_and_the_events_before_it_count() {
    let (world, mut truth) = parked_topic().await;
    let mut poison = next_post(&truth);
    poison.data = data! { categoryId: 8 };
    world.import(std::slice::from_ref(&poison)).await;
    still_parked(redrive_only(&world).await);
    let entry = only_entry(&world).await;
    assert_eq!((entry.version, entry.count), (Some(Version(6)), 2));
    let (_, payload) = world.worker.store().parked_entry("forum-counters", "t1", Deadline::NONE).await.expect("read").expect("there");
    assert!(payload.as_ref().is_some_and(|payload| payload.contains(r#""N":"8""#)), "{payload:?}");
    poison.data = post("old");
    world.correct(&poison).await;
    truth.push(poison);
    assert_eq!(redrive_only(&world).await, recovered(1));
    assert_exact(&world, ONE_EACH, &truth, "").await;
}

/// Another worker receives the next event before the `k`-th call of a redrive, for every `k`: also between removing the mark and
/// reading the history.
#[tokio::test]
async fn an_event_delivered_at_any_moment_of_a_redrive_counts_once() {
    for k in 1.. {
        let (world, mut truth) = parked_topic().await;
        let next = next_post(&truth);
        let world = Arc::new(world);
        let tapped = world.tapped({
            let (world, next) = (world.clone(), next.clone());
            move |call: &Call<'_>| {
                let (world, next) = (world.clone(), next.clone());
                let delivered = async move {
                    world.import(std::slice::from_ref(&next)).await;
                    let report = world.process(&[next]).await;
                    assert_eq!(report.total.failed, 0, "{:?}", report.reasons);
                };
                if call.number == k { Fault::Meanwhile(Box::pin(delivered)) } else { Fault::None }
            }
        });
        let redriven = redrive(&tapped.worker, &only_entry(&world).await).await;
        if tapped.calls().len() < k {
            assert!(k > 6, "a redrive takes some calls");
            return;
        }
        assert!(matches!(redriven, Redriven::Done { .. }), "at call {k}: {redriven:?}");
        truth.push(next);
        assert_exact(&world, ONE_EACH, &truth, &format!("at call {k}")).await;
    }
}

/// The row is parked again between the redrive's read of it and the removal of the mark: the newer mark is not the one that was read.
#[tokio::test]
async fn a_redrive_leaves_a_mark_that_is_newer_than_the_one_it_read() {
    let (world, truth) = parked_topic().await;
    let (entry, world) = (only_entry(&world).await, Arc::new(world));
    let seen = AtomicUsize::new(0);
    let tapped = world.tapped({
        let world = world.clone();
        move |call: &Call<'_>| {
            if call.operation != "UpdateItem" || seen.fetch_add(1, Relaxed) > 0 {
                return Fault::None;
            }
            assert!(call.body.contains("parkedAt"), "the first update removes the mark: {}", call.body);
            let client = world.embedded.client();
            Fault::Meanwhile(Box::pin(async move {
                let request = client.update_item().table_name("forum-counters").key("id", AttributeValue::S("t1".into()));
                let request = request.update_expression("SET parkedAt = :newer").condition_expression("attribute_exists(parkedAt)");
                request
                    .expression_attribute_values(":newer", AttributeValue::S("2999-01-01T00:00:00.000Z".into()))
                    .send()
                    .await
                    .expect("updated");
            }))
        }
    });
    assert_eq!(still_parked(redrive(&tapped.worker, &entry).await), "another worker parked it meanwhile: redrive it again");
    let request = world.embedded.client().get_item().table_name("forum-counters").key("id", AttributeValue::S("t1".into()));
    let row = request.send().await.expect("read").item.expect("a row");
    assert_eq!(
        (&row["parkedAt"], &row["version"]),
        (&AttributeValue::S("2999-01-01T00:00:00.000Z".into()), &AttributeValue::N("2".into()))
    );
    assert_eq!(only_entry(&world).await, entry);
    assert!(matches!(redrive_only(&world).await, Redriven::Done { .. }));
    assert_exact(&world, ONE_EACH, &truth, "redriven again").await;
}

/// A network that interleaves the calls of different workers, depending on the seed.
fn jittery(world: &World, seed: u64) -> Tapped {
    let random = std::sync::Mutex::new(fastrand::Rng::with_seed(seed));
    world.tapped(move |_| {
        let turns = random.lock().expect("no test panics while it holds this").u32(0..6);
        Fault::Meanwhile(Box::pin(async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        }))
    })
}

#[tokio::test]
async fn redrives_that_race_each_other_and_the_stream_yield_the_fold() {
    for seed in 0..25 {
        let (world, mut truth) = parked_topic().await;
        let entry = only_entry(&world).await;
        let more: Vec<_> = (0_u64..4)
            .map(|at| {
                let next = next_post(&truth);
                RecordedEvent { version: Version(next.version.0 + at), event_id: format!("next-{at}").into(), ..next }
            })
            .collect();
        let tapped: Vec<_> = (0..3).map(|at| jittery(&world, 3 * seed + at)).collect();
        let live = async {
            for event in &more {
                let item = projection_worker::internals::store::item::encode_event(event);
                import_item(tapped[0].worker.store(), &event.aggregate, event.version, item).await;
                let batch = records(&[truth.as_slice(), std::slice::from_ref(event)].concat());
                let report = tapped[0].worker.process(&batch, Deadline::NONE).await;
                assert_eq!(report.total.failed, 0, "{:?}", report.reasons);
            }
        };
        tokio::join!(live, redrive(&tapped[1].worker, &entry), redrive(&tapped[2].worker, &entry));
        // The worker may have parked it again because of a record from before the correction.
        for entry in entries(&world).await {
            redrive(&world.worker, &entry).await;
        }
        truth.extend(more);
        assert_exact(&world, ONE_EACH, &truth, &format!("seed {seed}")).await;
    }
}

/// Kills a redrive at its `k`-th call, for every `k`, and then redrives the entries that are still parked.
async fn kill_at_every_call(hang: fn() -> Fault) {
    for k in 1.. {
        let (world, truth) = parked_topic().await;
        let entry = only_entry(&world).await;
        let tapped = world.tapped(move |call: &Call<'_>| if call.number == k { hang() } else { Fault::None });
        let killed = tokio::select! {
            biased;
            () = tapped.hung.notified() => true,
            _ = redrive(&tapped.worker, &entry) => false,
        };
        let left = entries(&world).await;
        assert!(!left.is_empty() || world.rows().await == fold(registry(), &truth), "killed at call {k}: deleted before its row is exact");
        for entry in left {
            assert!(matches!(redrive(&world.worker, &entry).await, Redriven::Done { .. }), "killed at call {k}");
        }
        assert_exact(&world, ONE_EACH, &truth, &format!("killed at call {k}")).await;
        if !killed {
            assert!(k > 6, "a redrive takes some calls");
            return;
        }
    }
}

#[tokio::test]
async fn a_redrive_killed_before_any_call_is_applied_is_resumed_by_the_next() {
    kill_at_every_call(|| Fault::HungBefore).await;
}

#[tokio::test]
async fn a_redrive_killed_after_any_call_is_applied_counts_nothing_twice() {
    kill_at_every_call(|| Fault::HungAfter).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_any_call_changes_neither_rows_nor_counts() {
    for k in 1.. {
        let (world, truth) = parked_topic().await;
        let lost = move |call: &Call<'_>| if call.number == k { Fault::Lost } else { Fault::None };
        let tapped = world.tapped(lost);
        assert_eq!(redrive(&tapped.worker, &only_entry(&world).await).await, recovered(3), "at call {k}");
        assert_exact(&world, ONE_EACH, &truth, &format!("at call {k}")).await;
        if tapped.calls().len() < k {
            break;
        }
    }
    for k in 1.. {
        let (world, truth) = parked_topic().await;
        let mut poison = truth[4].clone();
        poison.data = data! { categoryId: 7 };
        world.correct(&poison).await;
        let tapped = world.tapped(move |call: &Call<'_>| if call.number == k { Fault::Lost } else { Fault::None });
        still_parked(redrive(&tapped.worker, &only_entry(&world).await).await);
        assert_eq!(only_entry(&world).await.count, 2, "at call {k}");
        if tapped.calls().len() < k {
            break;
        }
    }
}

/// Redrives while a second poison event is delivered just before the call that deletes the entry. First that call's answer may be
/// lost, or another worker may redrive the entry.
async fn parked_again_before_its_entry_is_deleted(lose_first: bool, another_redrives: bool) {
    let (world, truth) = parked_topic().await;
    backdate(&world).await;
    let entry = only_entry(&world).await;
    let world = Arc::new(world);
    let mut poison = next_post(&truth);
    poison.data = data! { categoryId: 8 };
    let deletes = Arc::new(AtomicUsize::new(0));
    let tapped = world.tapped({
        let (world, entry, poison) = (world.clone(), entry.clone(), poison.clone());
        move |call: &Call<'_>| {
            let at = if call.body.contains(r#""Delete""#) { deletes.fetch_add(1, Relaxed) } else { return Fault::None };
            if lose_first && at == 0 {
                return Fault::Lost;
            }
            let (world, entry, poison) = (world.clone(), entry.clone(), poison.clone());
            let happens = async move {
                if another_redrives {
                    assert_eq!(redrive(&world.worker, &entry).await, recovered(0));
                }
                world.import(std::slice::from_ref(&poison)).await;
                assert_eq!(world.process(&[poison]).await.total.parked, 1);
            };
            if at == usize::from(lose_first) { Fault::Meanwhile(Box::pin(happens)) } else { Fault::None }
        }
    });
    let reason = still_parked(redrive(&tapped.worker, &entry).await);
    assert!(reason.contains("parked it meanwhile"), "{reason}");
    let left = only_entry(&world).await;
    assert_eq!((left.version, left.count), (Some(Version(6)), if lose_first || another_redrives { 1 } else { 2 }));
    assert!(world.row("forum-counters", "t1").await.contains("parked=true"));
    poison.data = post("old");
    world.correct(&poison).await;
    assert_eq!(redrive_only(&world).await, recovered(1));
    assert_exact(&world, ONE_EACH, &[truth, vec![poison]].concat(), "").await;
}

#[tokio::test(start_paused = true)]
async fn an_aggregate_parked_again_during_a_redrive_keeps_its_entry() {
    parked_again_before_its_entry_is_deleted(false, false).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_deleted_and_parked_again_is_not_mistaken_for_the_old_one() {
    parked_again_before_its_entry_is_deleted(false, true).await;
    // Same, if this redrive's own attempt deleted the entry and its answer was lost.
    parked_again_before_its_entry_is_deleted(true, false).await;
}

#[tokio::test]
async fn a_row_of_a_diverged_history_is_re_projected_to_the_head_of_the_event_store() {
    let (world, truth) = (World::new().await, account("alice", &["1", "2", "4"]));
    let other: Vec<_> = account("alice", &["1", "20", "40"]).iter().map(impostor).collect();
    world.process(&other).await;
    world.import(&truth).await;
    assert_eq!(world.process(&truth[2..]).await.total.parked, 1);
    let entry = only_entry(&world).await;
    assert!(entry.reason.starts_with("history diverged"), "{}", entry.reason);
    assert_eq!(redrive(&world.worker, &entry).await, Redriven::Done { applied: 0, reprojected: true });
    assert_exact(&world, ONE_EACH, &truth, "").await;
}

#[tokio::test]
async fn contributions_of_a_diverged_row_are_re_projected_with_it_and_later_events_count() {
    let (world, truth) = parked_topic().await;
    redrive_only(&world).await;
    // The store was restored to before the move and has received other events since: the row's version is the same, only its event
    // id differs.
    let mut other = truth.clone();
    for event in other.iter_mut().filter(|event| event.aggregate.as_str() == "t1" && event.version >= Version(4)) {
        *event = impostor(event);
        event.event_type = "PostAdded".into();
        event.data = post("news");
        world.correct(event).await;
    }
    let more = RecordedEvent { data: post("news"), ..next_post(&other) };
    world.import(std::slice::from_ref(&more)).await;
    assert_eq!(world.process(&[other[6].clone(), more.clone()]).await.total.parked, 2);
    assert_eq!(redrive_only(&world).await, Redriven::Done { applied: 0, reprojected: true });
    other.push(more);
    let (rows, mut expected) = (world.rows().await, fold(registry(), &other));
    // A category's counts are taken back and leave zeros; the time of its last post is never taken back.
    assert!(world.row("forum-counters", "old").await.ends_with("postCount=0 topicCount=0"));
    expected.get_mut("forum-counters").expect("there").insert("old".into(), rows["forum-counters"][&"old".into()].clone());
    assert_eq!((rows, entries(&world).await), (expected, vec![]));
}

#[tokio::test]
async fn a_row_ahead_of_the_event_store_stays_parked_until_the_store_reaches_it() {
    let events = recorded(
        (0..5).map(|at| ("villa", "Built", Value::Map([("site".into(), "hill".into()), ("rooms".into(), (at + 1_u64).into())].into()))),
    );
    let world = World::with(Registry::new(HOUSES_1)).await;
    world.process(&events).await;
    world.import(&events[..2]).await;
    let worker = world.worker_of(HOUSES_2);
    assert_eq!(worker.process(&records(&events[..1]), Deadline::NONE).await.total.parked, 1);
    let before = world.rows().await;
    let entry = only_entry(&world).await;
    assert_eq!(entry.version, Some(Version(3)));
    assert!(entry.reason.contains("the event store ends before the row does"), "{}", entry.reason);
    let reason = still_parked(redrive(&worker, &entry).await);
    assert!(reason.starts_with("the event store does not have version 3") && reason.contains("ends before the row does"), "{reason}");
    // The restored store has received other events, but fewer than the row has seen.
    let since: Vec<_> = events[2..].iter().map(impostor).collect();
    world.import(&since[..1]).await;
    let reason = still_parked(redrive(&worker, &entry).await);
    assert!(reason.contains("ends before the row does"), "{reason}");
    assert_eq!((only_entry(&world).await.version, only_entry(&world).await.count, world.rows().await), (Some(Version(4)), 2, before));
    world.import(&since[1..]).await;
    assert_eq!(redrive(&worker, &only_entry(&world).await).await, Redriven::Done { applied: 0, reprojected: true });
    assert_exact(&world, HOUSES_2, &[&events[..2], &since].concat(), "").await;
}

#[tokio::test]
async fn a_row_ahead_of_a_restored_event_store_is_taken_back_if_the_operator_trusts_the_store() {
    let events = account("alice", &["1", "2", "4"]);
    let world = World::new().await;
    world.import(&events[..2]).await;
    world.process(&events).await;
    let other = impostor(&events[2]);
    assert_eq!(world.process(std::slice::from_ref(&other)).await.total.parked, 1);
    let entry = only_entry(&world).await;
    let recovered = redrive::redrive(&world.worker, &entry, Trust::Store, Deadline::NONE).await;
    assert_eq!(recovered.expect("the store answers"), Redriven::Done { applied: 0, reprojected: true });
    assert_eq!((world.rows().await, entries(&world).await), (fold(registry(), &events[..2]), vec![]));
}

#[tokio::test]
async fn two_concurrent_re_projections_of_a_row_add_to_shared_rows_once() {
    let (world, truth) = parked_topic().await;
    redrive_only(&world).await;
    // Both re-project the whole row, although nothing about it has changed.
    let rule = registry().get("forum-counters").expect("there");
    let (id, expected) = (truth[1].aggregate.clone(), world.rows().await);
    let tapped = world.tapped(|_| Fault::None);
    let again = |worker: &'static str| {
        let worker = if worker == "one" { &world.worker } else { &tapped.worker };
        let id = id.clone();
        async move { catch_up(worker, rule, &id, Trust::Store, Deadline::NONE).await.expect("the store answers") }
    };
    let (one, other) = tokio::join!(again("one"), again("other"));
    assert!(one.reprojected && other.reprojected, "both re-projected it, one after the other");
    assert_eq!(world.rows().await, expected);
}

#[tokio::test]
async fn an_event_that_only_the_parking_table_holds_is_never_deleted() {
    let world = World::new().await;
    let mut events = account("alice", &["1", "2"]);
    events[1].data = data! { amount: "two" };
    world.import(&events[..1]).await;
    world.process(&events).await;
    let (entry, before) = (only_entry(&world).await, world.rows().await);
    let reason = still_parked(redrive(&world.worker, &entry).await);
    assert!(reason.starts_with("the event store does not have version 2") && reason.contains("`amount`"), "{reason}");
    assert_eq!((only_entry(&world).await, world.rows().await), (entry, before));
}

#[tokio::test]
async fn redriving_a_row_of_a_newer_revision_fails_and_changes_nothing() {
    let events = recorded([("tent", "Built", data! { site: "hill", rooms: 1 }), ("tent", "Built", data! { site: "hill", rooms: 0 })]);
    let world = World::with(Registry::new(HOUSES_2)).await;
    world.import(&events).await;
    world.process(&events).await;
    let (entry, before) = (only_entry(&world).await, world.rows().await);
    let failed = redrive::redrive(&world.worker_of(HOUSES_1), &entry, Trust::Row, Deadline::NONE).await.expect_err("old");
    assert!(failed.to_string().contains("written by revision 2"), "{failed}");
    let failed = redrive::redrive(&world.worker_of(UNUSUAL), &entry, Trust::Row, Deadline::NONE).await.expect_err("unknown");
    assert_eq!(failed.to_string(), "no projection `houses` is in this program, which has records, visits, spreads");
    assert_eq!((only_entry(&world).await, world.rows().await), (entry, before));
}

#[tokio::test(start_paused = true)]
async fn redriving_a_row_that_refuses_every_write_fails_in_the_end() {
    use AttributeValue::{N, S};
    let (world, events) = (World::new().await, account("alice", &["1", "2"]));
    world.import(&events).await;
    let client = world.embedded.client();
    let put = |table: &str| client.put_item().table_name(table);
    // A row with a watermark but without a revision, so that no condition can match it.
    let row = put("account-summary").item("accountId", S("alice".into())).item("version", N("1".into()));
    row.item("parkedAt", S("then".into())).send().await.expect("put");
    let entry = put("parked").item("aggregateId", S("alice".into())).item("projection", S("account-summary".into()));
    let entry = entry.item("version", N("2".into())).item("reason", S("as planned".into())).item("count", N("1".into()));
    entry.item("firstSeen", S("then".into())).item("lastSeen", S("then".into())).send().await.expect("put");
    let parked = only_entry(&world).await;
    let failed = redrive::redrive(&world.worker, &parked, Trust::Row, Deadline::NONE).await.expect_err("every write is refused");
    assert!(failed.to_string().contains("keeps refusing"), "{failed}");
    assert_eq!(only_entry(&world).await, parked);
}

/// The number of items in the parking table, including parts of payloads.
async fn items_parked(world: &World) -> usize {
    world.embedded.client().scan().table_name("parked").send().await.expect("read").items().len()
}

#[tokio::test]
async fn a_payload_in_several_parts_is_shown_and_deleted_as_a_whole() {
    let world = World::new().await;
    let truth = account("alice", &["1", "2"]);
    let poison = |note: &str| RecordedEvent {
        data: Value::Map([("amount".into(), "two".into()), ("note".into(), note.into())].into()),
        ..truth[1].clone()
    };
    // In JSON each of these line ends is escaped as two characters.
    let lines = "ä\n".repeat(120_000);
    let long = poison(&lines);
    let events = [truth[0].clone(), long.clone()];
    world.import(&events).await;
    world.process(&events).await;
    let payload = async |world: &World| {
        let entry = world.worker.store().parked_entry("account-summary", "alice", Deadline::NONE).await.expect("read");
        entry.expect("there").1
    };
    assert_eq!(items_parked(&world).await, 2);
    let whole: Json = serde_json::from_str(&payload(&world).await.expect("a payload")).expect("one JSON document");
    assert!(whole["eventData"]["M"]["note"]["S"] == lines);
    // Parked again with a payload of one part, it keeps no part of the long one.
    world.correct(&poison("short")).await;
    still_parked(redrive_only(&world).await);
    let short: Json = serde_json::from_str(&payload(&world).await.expect("a payload")).expect("one JSON document");
    assert_eq!(short["eventData"]["M"]["note"]["S"], "short");
    world.correct(&truth[1]).await;
    assert_eq!(redrive_only(&world).await, recovered(1));
    assert_exact(&world, ONE_EACH, &truth, "").await;
    assert_eq!(items_parked(&world).await, 0);
}

/// The stream's record of an event without its type, so that nobody can know which projections it concerns.
fn without_type(event: &RecordedEvent) -> Box<RawValue> {
    let mut record: Json = serde_json::from_str(record(event, 1).get()).expect("JSON");
    record["dynamodb"]["NewImage"].as_object_mut().expect("an item").remove("eventType");
    serde_json::value::to_raw_value(&record).expect("JSON")
}

#[tokio::test]
async fn a_stray_record_is_recovered_by_the_stored_event_of_its_version() {
    let (world, events) = (World::new().await, account("alice", &["1", "2", "4"]));
    world.import(&events).await;
    world.process(&events[..1]).await;
    assert_eq!(world.worker.process(&[without_type(&events[1])], Deadline::NONE).await.total.parked, 1);
    let entry = only_entry(&world).await;
    assert_eq!((entry.projection.as_str(), entry.version), (NO_PROJECTION, Some(Version(2))));
    assert_eq!(redrive(&world.worker, &entry).await, recovered(2));
    assert_exact(&world, ONE_EACH, &events, "").await;
    assert_eq!(redrive(&world.worker, &entry).await, recovered(0), "it is gone");
}

#[tokio::test]
async fn a_record_that_stays_unreadable_stays_parked_and_counts_its_sightings() {
    let (world, events) = (World::new().await, account("alice", &["1", "2"]));
    let nothing = serde_json::value::to_raw_value(&json!({"eventID": "odd", "dynamodb": {}})).expect("JSON");
    world.worker.process(&[without_type(&events[1]), nothing], Deadline::NONE).await;
    for (count, entry) in [(2, 0), (2, 1), (3, 0)] {
        let before = entries(&world).await[entry].clone();
        assert_eq!(still_parked(redrive(&world.worker, &before).await), before.reason);
        let after = entries(&world).await[entry].clone();
        assert_eq!((after.count, after.first_seen, after.version), (count, before.first_seen, before.version));
    }
    assert_eq!(world.row("account-summary", "alice").await, "", "nothing shows that it concerns this projection");
}

#[tokio::test(start_paused = true)]
async fn all_attempts_to_park_a_record_share_a_token_so_that_its_sighting_counts_once() {
    let world = World::new().await;
    let odd = serde_json::value::to_raw_value(&json!({"eventID": "odd"})).expect("JSON");
    let tokens = Arc::<std::sync::Mutex<BTreeSet<String>>>::default();
    let tapped = world.tapped({
        let tokens = tokens.clone();
        move |call| {
            let body: Json = serde_json::from_str(call.body).expect("JSON");
            let token = body["ClientRequestToken"].as_str().expect("a token").to_owned();
            tokens.lock().expect("no test panics while it holds this").insert(token);
            if call.number < 3 { Fault::error(500, "InternalServerError") } else { Fault::None }
        }
    });
    assert_eq!(tapped.worker.process(&[odd], Deadline::NONE).await.total.parked, 1);
    let tokens = tokens.lock().expect("no test panics while it holds this").len();
    assert_eq!((tapped.calls().len(), tokens), (3, 1));
}

#[tokio::test]
async fn redriving_many_unreadable_records_does_not_trip_the_breaker() {
    let world = World::new().await;
    for at in 0..12 {
        let record = serde_json::value::to_raw_value(&json!({"eventID": format!("odd-{at}")})).expect("JSON");
        // Each is delivered to a new worker, so that no breaker trips.
        assert_eq!(world.worker_of(ONE_EACH).process(&[record], Deadline::NONE).await.total.parked, 1);
    }
    for entry in entries(&world).await {
        still_parked(redrive(&world.worker, &entry).await);
    }
    assert!(entries(&world).await.iter().all(|entry| entry.count == 2));
}

#[tokio::test]
async fn a_record_stays_parked_while_its_aggregate_is_parked() {
    let (world, truth) = (World::new().await, account("alice", &["1", "2", "4"]));
    let mut events = truth.clone();
    events[2].data = data! { amount: "four" };
    world.import(&events).await;
    world.worker.process(&[without_type(&events[1])], Deadline::NONE).await;
    let record = only_entry(&world).await;
    assert_eq!(still_parked(redrive(&world.worker, &record).await), "its aggregate is parked in account-summary");
    world.correct(&truth[2]).await;
    let [stray, alice] = &entries(&world).await[..] else { panic!("both are parked") };
    assert_eq!((stray, alice.version), (&record, Some(Version(3))));
    assert_eq!(redrive(&world.worker, alice).await, recovered(1));
    assert_eq!(redrive(&world.worker, &record).await, recovered(0));
    assert_exact(&world, ONE_EACH, &truth, "").await;
}

/// Parks a record that nobody could read when it came, under the version that it names.
async fn park_record(world: &World, version: Option<Version>, record: &RawValue) {
    let parking = Parking { version, reason: "as planned", payload: Some(record.get()) };
    world.worker.store().park_record("unread", &parking, Deadline::NONE).await.expect("parked");
}

#[tokio::test]
async fn a_record_that_this_version_can_read_is_processed_like_one_from_the_stream() {
    let (world, events) = (World::new().await, account("alice", &["1"]));
    park_record(&world, Some(Version(1)), &record(&events[0], 1)).await;
    assert_eq!(redrive_only(&world).await, recovered(1));
    assert_exact(&world, ONE_EACH, &events, "").await;
}

#[tokio::test]
async fn of_a_record_and_an_event_of_its_version_in_the_event_store_the_event_counts() {
    let (world, events) = (World::new().await, account("alice", &["1", "2"]));
    world.import(&events).await;
    park_record(&world, Some(Version(1)), &record(&impostor(&events[0]), 1)).await;
    assert_eq!(redrive_only(&world).await, recovered(2));
    assert_exact(&world, ONE_EACH, &events, "").await;
}

#[tokio::test]
async fn a_record_of_an_aggregate_that_is_parked_waits_with_it() {
    let (world, truth) = parked_topic().await;
    park_record(&world, None, &record(&next_post(&truth), 1)).await;
    let before = entries(&world).await;
    let stray = before.iter().find(|entry| entry.projection == NO_PROJECTION).expect("it is parked");
    assert_eq!(still_parked(redrive(&world.worker, stray).await), "its aggregate is parked");
    assert!(entries(&world).await.contains(stray));
}

/// An account with this number of irrelevant events between its opening and a deposit.
fn audited(unnamed: usize) -> Vec<RecordedEvent> {
    let mut facts = vec![("alice", "AccountOpened", data! { initialDeposit: 1 })];
    facts.extend((0..unnamed).map(|_| ("alice", "AccountAudited", data! {})));
    facts.extend([("alice", "MoneyDeposited", data! { amount: 10 }), ("alice", "AccountAudited", data! {})]);
    recorded(facts)
}

/// Appends the history without these versions.
async fn append_with_holes(world: &World, events: &[RecordedEvent], holes: &[u64]) {
    world.append_all(events).await;
    for hole in holes {
        let event = &events[usize::try_from(hole - 1).expect("small")];
        let item = projection_worker::internals::store::item::encode_event(event);
        let request = world.embedded.client().delete_item().table_name("event-store").key("PK", item["PK"].clone());
        request.key("SK", item["SK"].clone()).send().await.expect("deleted");
    }
}

#[tokio::test]
async fn a_gap_in_the_event_store_parks_until_it_is_filled_and_then_the_next_gap_parks() {
    for (unnamed, holes) in
        [(0, [2, 3]), (4, [2, 3]), (4, [3, 5]), (1_200, [2, 500]), (1_200, [2, 1_100]), (1_200, [1_000, 1_001]), (1_200, [700, 1_202])]
    {
        let (world, mut events) = (World::new().await, audited(unnamed));
        if unnamed == 0 {
            events = account("alice", &["1", "2", "4", "8"]);
        }
        append_with_holes(&world, &events, &holes).await;
        world.process(&events[..1]).await;
        let last = events.iter().rev().find(|event| &*event.event_type == "MoneyDeposited").expect("a deposit").clone();
        assert_eq!(world.process(std::slice::from_ref(&last)).await.total.parked, 1);
        let entry = only_entry(&world).await;
        assert_eq!(entry.version, Some(Version(holes[0])), "{holes:?}");
        let reason = still_parked(redrive(&world.worker, &entry).await);
        assert!(reason.starts_with(&format!("the event store does not have version {}", holes[0])), "{reason}");
        assert_eq!(only_entry(&world).await, entry, "without the event there is nothing to try");
        world.correct(&events[usize::try_from(holes[0] - 1).expect("small")]).await;
        if holes[1] < last.version.0 {
            let reason = still_parked(redrive_only(&world).await);
            assert!(reason.contains("does not have this version"), "{reason}");
            assert_eq!(only_entry(&world).await.version, Some(Version(holes[1])), "{holes:?}");
            world.correct(&events[usize::try_from(holes[1] - 1).expect("small")]).await;
        } else {
            world.correct(&last).await;
        }
        assert!(matches!(redrive_only(&world).await, Redriven::Done { reprojected: false, .. }), "{holes:?}");
        assert_exact(&world, ONE_EACH, &events, &format!("{holes:?}")).await;
    }
}

#[tokio::test]
async fn an_event_after_thousands_of_irrelevant_ones_is_found() {
    for unnamed in [998, 999, 1_000, 2_001] {
        let (world, truth) = (World::new().await, audited(unnamed));
        let mut events = truth.clone();
        let deposit = unnamed + 1;
        events[deposit].data = data! { amount: "ten" };
        world.append_all(&events).await;
        world.process(&[&events[..1], &events[deposit..=deposit]].concat()).await;
        assert_eq!(only_entry(&world).await.version, Some(Version(deposit as u64 + 1)));
        world.correct(&truth[deposit]).await;
        assert_eq!(redrive_only(&world).await, recovered(1), "{unnamed}");
        assert_exact(&world, ONE_EACH, &truth, &format!("{unnamed}")).await;
    }
}

#[tokio::test]
async fn redriving_an_aggregate_without_relevant_events_leaves_no_row() {
    let events = recorded([("ann", "Cursed", data! {}), ("ann", "Cursed", data! {})]);
    let world = World::with(Registry::new(UNUSUAL)).await;
    world.import(&events).await;
    world.process(&events).await;
    assert_eq!(world.row("visits", "ann").await, "parked=true");
    let uncursed = world.worker_of(UNCURSED);
    assert_eq!(redrive(&uncursed, &only_entry(&world).await).await, recovered(0));
    assert_eq!((world.rows().await["visits"].len(), entries(&world).await), (0, vec![]));
    // The remains of the row do not block later events.
    let left = RecordedEvent { version: Version(3), event_id: "left".into(), event_type: "Left".into(), ..events[1].clone() };
    world.import(std::slice::from_ref(&left)).await;
    assert_eq!(uncursed.process(&records(&[left]), Deadline::NONE).await.total.applied, 1);
    assert_eq!(world.row("visits", "ann").await, "version=3");
}

#[tokio::test]
async fn aggregates_of_one_shared_row_can_be_redriven_concurrently() {
    let world = World::new().await;
    let truth = recorded((0..12).flat_map(|at| {
        let id = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"][at];
        [(id, "TopicCreated", data! { categoryId: "news", title: "t", authorId: "ann" }), (id, "PostAdded", post("news"))]
    }));
    let mut events = truth.clone();
    events.iter_mut().filter(|event| &*event.event_type == "PostAdded").for_each(|event| event.data = data! { categoryId: 7 });
    world.import(&events).await;
    for event in &events {
        world.worker_of(ONE_EACH).process(&records(std::slice::from_ref(event)), Deadline::NONE).await;
    }
    for event in &truth {
        world.correct(event).await;
    }
    let (parked, tapped) = (entries(&world).await, jittery(&world, 1));
    assert_eq!(parked.len(), 12);
    let redriven: BTreeSet<_> =
        join_all(parked.iter().map(|entry| redrive(&tapped.worker, entry))).await.iter().map(|redriven| format!("{redriven:?}")).collect();
    assert_eq!(redriven.len(), 1, "{redriven:?}");
    assert_exact(&world, ONE_EACH, &truth, "").await;
}
