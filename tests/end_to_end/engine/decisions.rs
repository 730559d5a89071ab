//! What a batch does to the tables: requests and units, DynamoDB's own limits, and decisions that take several parts of the engine. The
//! decisions themselves are tested where they are made: `lane`, `plan`, `reproject` and `report` in `src/engine`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{RecordedEvent, Registry, Value, data};
use projection_worker::internals::{
    engine::report::Checkpoint,
    engine::report::{Report, Tally},
    retry::Deadline,
};

use crate::support::{
    projections::{HOUSES_1, HOUSES_2, UNUSUAL},
    world::{Fault, World, account, fold, history, impostor, recorded, records, registry},
};

/// applied, duplicate, healed, parked, failed
fn counts(Report { total, .. }: &Report) -> [u64; 5] {
    let Tally { applied, duplicate, healed, parked, failed, .. } = *total;
    [applied, duplicate, healed, parked, failed]
}

fn topic(category: &str, topic: &str) -> (String, &'static str, Value) {
    let text = |text: &str| Value::from(text);
    let data = [("categoryId", text(category)), ("title", text(topic)), ("authorId", text("ann"))];
    (topic.to_owned(), "TopicCreated", Value::Map(data.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
}

fn topics(category: &str, count: usize) -> Vec<RecordedEvent> {
    let facts: Vec<_> = (0..count).map(|at| topic(category, &format!("t{at}"))).collect();
    recorded(facts.iter().map(|(id, name, data)| (id.as_str(), *name, data.clone())))
}

/// An account's deposits with irrelevant events between them.
fn audited(before: usize, unnamed: usize) -> Vec<RecordedEvent> {
    let mut facts = vec![("alice", "AccountOpened", data! { initialDeposit: 1 })];
    facts.extend((1..before).map(|_| ("alice", "MoneyDeposited", data! { amount: 1 })));
    facts.extend((0..unnamed).map(|_| ("alice", "AccountAudited", data! {})));
    facts.push(("alice", "MoneyDeposited", data! { amount: 10 }));
    recorded(facts)
}

#[tokio::test]
async fn a_redelivered_batch_changes_nothing_and_costs_one_request_for_a_hundred_accounts() {
    let world = World::new().await;
    let events: Vec<_> = ["a", "b", "c"].iter().flat_map(|id| account(id, &["1", "2", "3"])).collect();
    let first = world.process(&events).await;
    assert_eq!((counts(&first), first.usage.requests, first.usage.write_units), ([9, 0, 0, 0, 0], 3, 3.0));
    let again = world.process(&events).await;
    assert_eq!((counts(&again), again.usage.requests, again.usage.write_units), ([0, 9, 0, 0, 0], 1, 0.0));
    assert_eq!(world.rows().await, fold(registry(), &events));
}

/// Another process does not know that the batch was delivered before, and finds out from the first accounts.
#[tokio::test]
async fn a_batch_that_another_process_has_applied_costs_a_request_for_the_first_accounts_alone() {
    let world = World::new().await;
    let events: Vec<_> = (0..400).flat_map(|id| account(&format!("account-{id}"), &["1"])).collect();
    world.process(&events).await;
    let another = world.tapped(|_| Fault::None);
    let again = another.worker.process(&records(&events), Deadline::NONE).await;
    assert_eq!(counts(&again), [0, 400, 0, 0, 0]);
    let writes = another.calls().iter().filter(|call| **call == "UpdateItem").count();
    assert!(writes <= 40, "{writes} of 400 were tried, 32 at once");
    assert_eq!(again.usage.requests - writes as u64, 4, "the other rows are read, a hundred at a time");
}

/// What an account has beyond what was delivered before is applied all the same.
#[tokio::test]
async fn new_events_among_redelivered_ones_are_applied() {
    let world = World::new().await;
    let ids: Vec<_> = (0..60).map(|id| format!("account-{id}")).collect();
    let events: Vec<_> = ids.iter().flat_map(|id| account(id, &["1", "2", "4"])).collect();
    let (first, all): (Vec<_>, Vec<_>) = (events.iter().filter(|event| event.version.0 < 3).cloned().collect(), events);
    world.process(&first).await;
    let mut batch = first;
    batch.extend(all.iter().filter(|event| event.version.0 == 3 && event.aggregate.as_str().ends_with('7')).cloned());
    let again = world.process(&batch).await;
    assert_eq!(counts(&again), [6, 120, 0, 0, 0]);
    assert_eq!(world.rows().await, fold(registry(), &batch));
}

#[tokio::test]
async fn a_gap_is_healed_by_one_consistent_query() {
    let world = World::new().await;
    let events = account("alice", &["1", "2", "4", "8", "16", "32"]);
    world.import(&events).await;
    world.process(&events[..1]).await;
    let tapped = world.tapped(|call| {
        assert_eq!(call.operation == "Query", call.body.contains(r#""ConsistentRead":true"#));
        Fault::None
    });
    let report = tapped.worker.process(&records(&events[4..]), Deadline::NONE).await;
    assert_eq!((counts(&report), tapped.calls()), ([2, 0, 3, 0, 0], ["UpdateItem", "Query", "UpdateItem"].map(String::from).into()));
    assert_eq!((report.total.gaps, report.projections["account-summary"].gaps), (1, 1));
    assert_eq!(report.total.oldest_ms, Some(events[1].timestamp.epoch_ms()), "what was healed counts now, too");
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn a_missing_first_version_parks_an_aggregate_without_a_row() {
    let world = World::new().await;
    let events = account("alice", &["1", "2"]);
    let report = world.process(&events[1..]).await;
    assert_eq!((counts(&report), world.parked().await[0].1), ([0, 0, 0, 1, 0], Some(1)));
    assert_eq!(world.row("account-summary", "alice").await, "parked=true");
    assert_eq!(counts(&world.process(&events).await), [0, 0, 0, 2, 0]);
}

#[tokio::test]
async fn a_parked_aggregate_costs_one_request_per_batch_and_no_read() {
    let world = World::new().await;
    let events = account("alice", &["1", "2", "4", "8", "16", "32"]);
    world.import(&events).await;
    world.process(&events[..2]).await;
    world.process(&[impostor(&events[1])]).await;
    for batch in [&events[2..4], &events[5..], &events[..]] {
        let tapped = world.tapped(|_| Fault::None);
        let report = tapped.worker.process(&records(batch), Deadline::NONE).await;
        let known = batch.iter().filter(|event| event.version.0 <= 2).count() as u64;
        assert_eq!(counts(&report), [0, known, 0, batch.len() as u64 - known, 0]);
        assert_eq!(tapped.calls(), ["UpdateItem"]);
    }
    assert_eq!(world.worker.store().parked().await.expect("read")[0].count, 1);
    assert!(world.row("account-summary", "alice").await.starts_with("balance=3 "));
}

#[tokio::test]
async fn re_projected_rows_of_an_older_revision_equal_a_fresh_fold() {
    let world = World::with(Registry::new(HOUSES_1)).await;
    let events = recorded([
        ("villa", "Built", data! { site: "hill", rooms: 9 }),
        ("villa", "Painted", data! {}),
        ("hut", "Built", data! { site: "hill", rooms: 1 }),
        ("hut", "Razed", data! {}),
        ("barn", "Built", data! { site: "vale", rooms: 2 }),
        ("barn", "Razed", data! {}),
        ("barn", "Painted", data! {}),
        ("mill", "Built", data! { site: "vale", rooms: 4 }),
        ("villa", "Built", data! { site: "vale", rooms: 12 }),
        ("mill", "Painted", data! {}),
    ]);
    world.import(&events).await;
    world.process(&events[..8]).await;
    assert_eq!(world.rows().await, fold(Registry::new(HOUSES_1), &events[..8]));
    let worker = world.worker_of(HOUSES_2);
    let report = worker.process(&records(&events), Deadline::NONE).await;
    // Event types that the second revision does not name are ignored; of the rest only the villa's move to the vale is new.
    assert_eq!((counts(&report), report.total.reprojected, report.ignored_total()), ([1, 6, 0, 0, 0], 4, 3), "{:?}", report.reasons);
    assert_eq!(world.rows().await, fold(Registry::new(HOUSES_2), &events));
    assert_eq!(world.row("houses", "villa").await, "size=12 title=vale version=3");
    let again = worker.process(&records(&events), Deadline::NONE).await;
    assert_eq!((counts(&again), again.total.reprojected), ([0, 7, 0, 0, 0], 0));
    assert_eq!(world.rows().await, fold(Registry::new(HOUSES_2), &events));
}

#[tokio::test]
async fn an_invocation_stays_within_its_re_projection_budget_and_the_next_continues() {
    let world = World::with(Registry::new(HOUSES_1)).await;
    let ids = ["barn", "hut", "villa"];
    let events = recorded(ids.iter().flat_map(|id| [(*id, "Built", data! { site: "hill", rooms: 2 }), (*id, "Razed", data! {})]));
    world.import(&events).await;
    let first: Vec<_> = events.iter().filter(|event| event.version.0 == 1).cloned().collect();
    let second: Vec<_> = events.iter().filter(|event| event.version.0 == 2).cloned().collect();
    world.process(&first).await;
    let worker = world.worker_of(HOUSES_2).with_reprojection_budget(1);
    let deadline = || Deadline::at(std::time::Instant::now() + std::time::Duration::from_mins(1));
    for (reprojected, failed) in [(1, 2), (1, 1), (1, 0)] {
        let report = worker.process(&records(&second), deadline()).await;
        assert_eq!((report.total.reprojected, report.total.failed), (reprojected, failed), "{:?}", report.reasons);
        let reasons: Vec<_> = report.reasons.keys().collect();
        assert!(reasons.iter().all(|reason| reason.ends_with("or run `projector rebuild-projection houses`")), "{reasons:?}");
    }
    assert_eq!(world.rows().await, fold(Registry::new(HOUSES_2), &events));
    assert_eq!(world.parked().await, []);
}

#[tokio::test]
async fn an_aggregate_that_the_new_revision_refuses_parks_with_its_old_row_and_blocks_no_other() {
    let world = World::with(Registry::new(HOUSES_1)).await;
    let events = recorded([
        ("tent", "Built", data! { site: "hill", rooms: 0 }),
        ("tent", "Painted", data! {}),
        ("hut", "Built", data! { site: "hill", rooms: 1 }),
        ("tent", "Razed", data! {}),
        ("hut", "Razed", data! {}),
    ]);
    world.import(&events).await;
    world.process(&events[..3]).await;
    let before = world.row("houses", "tent").await.replace("size", "parked=true size");
    let report = world.worker_of(HOUSES_2).process(&records(&events[3..]), Deadline::NONE).await;
    assert_eq!((counts(&report), report.checkpoint), ([1, 0, 0, 1, 0], Checkpoint::None), "{:?}", report.reasons);
    let [(who, Some(1), reason)] = &world.parked().await[..] else { panic!("version 1 is parked") };
    assert!(who == "tent" && reason.contains("a house has rooms"), "{reason}");
    assert_eq!(world.row("houses", "tent").await, before);
    assert_eq!(world.row("houses", "hut").await, "size=1 version=2");
    let again = world.worker_of(HOUSES_2).process(&records(&events[3..]), Deadline::NONE).await;
    assert_eq!((counts(&again), again.usage.requests), ([0, 1, 0, 1, 0], 1), "one read tells both");
}

#[tokio::test]
async fn an_aggregate_without_relevant_events_for_the_new_revision_loses_its_old_row() {
    let world = World::with(Registry::new(HOUSES_1)).await;
    let events =
        recorded([("wall", "Painted", data! {}), ("wall", "Painted", data! {}), ("wall", "Built", data! { site: "hill", rooms: 0 })]);
    world.import(&events).await;
    world.process(&events[..2]).await;
    assert_eq!(world.row("houses", "wall").await, "coats=2 version=2");
    let report = world.worker_of(HOUSES_2).process(&records(&events), Deadline::NONE).await;
    assert_eq!((counts(&report), report.total.reprojected), ([0, 0, 0, 1, 0], 1), "{:?}", report.reasons);
    assert_eq!((world.parked().await[0].1, world.row("houses", "wall").await.as_str()), (Some(3), "parked=true"));
}

#[tokio::test]
async fn rows_of_a_newer_revision_stay_untouched_and_the_error_names_both_revisions() {
    let world = World::with(Registry::new(HOUSES_2)).await;
    let events =
        recorded([("villa", "Built", data! { site: "hill", rooms: 9 }), ("villa", "Razed", data! {}), ("hut", "Painted", data! {})]);
    world.import(&events).await;
    world.process(&events[..1]).await;
    let before = world.rows().await;
    let report = world.worker_of(HOUSES_1).process(&records(&events), Deadline::NONE).await;
    assert_eq!(counts(&report), [1, 0, 0, 0, 2]);
    assert_eq!(report.checkpoint, Checkpoint::At("1".into()));
    let reason = report.reasons.keys().next().expect("a reason");
    assert!(reason.contains("written by revision 2") && reason.contains("this program has revision 1"), "{reason}");
    let mut after = world.rows().await;
    after.get_mut("houses").expect("the table").remove(&"hut".into());
    assert_eq!(after, before);
    assert_eq!(world.parked().await, []);
}

#[tokio::test]
async fn a_gap_of_thousands_of_irrelevant_events_is_healed() {
    let world = World::new().await;
    let events = audited(3, 2_500);
    world.append_all(&events).await;
    world.process(&events[..2]).await;
    let report = world.process(&events[events.len() - 1..]).await;
    assert_eq!(counts(&report), [1, 0, 1, 0, 0], "{:?}", report.reasons);
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn a_rule_that_reads_its_row_yields_the_same_rows_under_redelivery_and_any_split() {
    let points = ["3", "1", "7", "7", "2", "9", "0", "4"];
    let mut facts: Vec<_> = ["ann", "bob"]
        .iter()
        .flat_map(|id| points.iter().map(move |text| (*id, "Scored", Value::Map([("points".into(), number(text))].into()))))
        .collect();
    facts.insert(5, ("ann", "Surrendered", data! {}));
    let events = recorded(facts);
    for size in [1, 2, 3, 5, events.len()] {
        let world = World::with(Registry::new(UNUSUAL)).await;
        world.import(&events).await;
        for batch in events.chunks(size) {
            assert_eq!(counts(&world.process(batch).await)[..2], [batch.len() as u64, 0]);
            assert_eq!(counts(&world.process(batch).await)[..2], [0, batch.len() as u64]);
        }
        let report = world.process(&events).await;
        assert_eq!((report.total.duplicate, report.total.failed), (events.len() as u64, 0));
        assert_eq!(world.rows().await, fold(Registry::new(UNUSUAL), &events), "in batches of {size}");
    }
}

/// The row was lost after it was read, and written again from another history, up to the same version and by the same revision. Only the
/// id of its last event tells it from the row that was read.
#[tokio::test]
async fn a_change_computed_from_a_row_is_not_written_to_another_row_of_the_same_version() {
    let scored = |points: [&str; 3]| recorded(points.map(|text| ("ann", "Scored", Value::Map([("points".into(), number(text))].into()))));
    let (before, mut after) = (scored(["3", "5", "7"]), scored(["2", "9", "7"]));
    for (event, of_before) in after.iter_mut().zip(&before).take(2) {
        event.event_id = impostor(of_before).event_id;
    }
    let world = Arc::new(World::with(Registry::new(UNUSUAL)).await);
    world.process(&before[..2]).await;
    let seen = AtomicUsize::new(0);
    let tapped = world.tapped_of(UNUSUAL, {
        let (world, after) = (world.clone(), after.clone());
        move |call| {
            if call.operation != "UpdateItem" || seen.fetch_add(1, Relaxed) > 0 {
                return Fault::None;
            }
            let (world, others) = (world.clone(), after[..2].to_vec());
            Fault::Meanwhile(Box::pin(async move {
                let key = AttributeValue::S("ann".into());
                world.embedded.client().delete_item().table_name("records").key("playerId", key).send().await.expect("deleted");
                assert_eq!(counts(&world.process(&others).await)[..2], [2, 0]);
            }))
        }
    });
    let report = tapped.worker.process(&records(&after[2..]), Deadline::NONE).await;
    assert_eq!(counts(&report)[..2], [1, 0], "{:?}", report.reasons);
    // 7 beats the best of the row that was read, but not that of the row to which it is written.
    assert_eq!(world.rows().await, fold(Registry::new(UNUSUAL), &after));
}

fn number(text: &str) -> Value {
    Value::Number(text.parse().expect("a test's number"))
}

#[tokio::test]
async fn a_rule_that_panics_on_an_event_parks_only_that_aggregate() {
    let world = World::with(Registry::new(UNUSUAL)).await;
    let events = recorded([
        ("ann", "Came", data! { page: "home", spent: 5 }),
        ("bob", "Came", data! { page: "home", spent: 7 }),
        ("ann", "Cursed", data! {}),
        ("ann", "Came", data! { page: "home", spent: 9 }),
        ("bob", "Left", data! {}),
    ]);
    let report = world.process(&events).await;
    assert_eq!(counts(&report), [3, 0, 0, 2, 0]);
    let [(who, Some(2), reason)] = &world.parked().await[..] else { panic!("one is parked") };
    assert!(who == "ann" && reason.contains("panicked"), "{reason}");
    assert_eq!(world.row("visits", "home").await, r#"longest=7 spent=12 visitors=["ann","bob"] visits=2"#);
    assert_eq!(world.row("visits", "bob").await, "version=2");
}

#[tokio::test]
async fn a_hundred_and_fifty_topics_of_one_category_cost_two_transactions() {
    let world = World::new().await;
    let events = topics("news", 150);
    let report = world.process(&events).await;
    // 99 topics and the category, then 51 topics and the category; each item of a transaction costs two units.
    assert_eq!((counts(&report)[0], report.usage.requests), (150, 2));
    assert_eq!(world.row("forum-counters", "news").await, "postCount=0 topicCount=150");
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn an_aggregate_that_is_behind_delays_no_other_in_its_transaction() {
    let world = World::new().await;
    let mut events = topics("news", 40);
    world.process(&events[7..8]).await;
    let post = |id| (id, "PostAdded", data! { postId: "p", authorId: "ann", categoryId: "news" });
    let more: Vec<_> =
        recorded([topic("news", "late")].iter().map(|(id, name, data)| (id.as_str(), *name, data.clone())).chain([post("late")]));
    world.import(&more).await;
    events.push(more[1].clone());
    let report = world.process(&events).await;
    // One transaction refused because of the two aggregates at other versions, one query to heal, one transaction that succeeds.
    assert_eq!((counts(&report), report.usage.requests), ([40, 1, 1, 0, 0], 3));
    assert_eq!(world.rows().await, fold(registry(), &[&events[..], &more].concat()));
}

#[tokio::test]
async fn a_category_and_its_topics_in_one_batch_share_a_row_but_not_its_owned_attributes() {
    let world = World::new().await;
    let mut events = recorded([("news", "CategoryCreated", data! { name: "News", description: "What happened" })]);
    events.extend(topics("news", 5));
    let report = world.process(&events).await;
    assert_eq!((counts(&report)[0], report.usage.requests), (6, 2));
    assert_eq!(world.row("forum-counters", "news").await, "description=What happened name=News postCount=0 topicCount=5 version=1");
    assert_eq!(counts(&world.process(&events).await), [0, 6, 0, 0, 0]);
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn counts_from_earlier_batches_move_and_disappear_with_their_topic() {
    let world = World::new().await;
    let post = || ("t1", "PostAdded", data! { postId: "p", authorId: "ann", categoryId: "news" });
    let created = topic("news", "t1");
    let events = recorded([
        (created.0.as_str(), created.1, created.2.clone()),
        post(),
        post(),
        ("t1", "TopicMoved", data! { fromCategoryId: "news", toCategoryId: "old" }),
        ("t1", "PostRemoved", data! { postId: "p", categoryId: "old" }),
        ("t1", "TopicDeleted", data! { categoryId: "old" }),
    ]);
    world.process(&events[..3]).await;
    let tapped = world.tapped(|_| Fault::None);
    tapped.worker.process(&records(&events[3..5]), Deadline::NONE).await;
    assert_eq!(tapped.calls(), ["BatchGetItem", "TransactWriteItems"]);
    assert!(world.row("forum-counters", "news").await.ends_with("postCount=0 topicCount=0"));
    assert_eq!(world.row("forum-counters", "old").await, "postCount=1 topicCount=1");
    world.process(&events[5..]).await;
    assert_eq!(world.row("forum-counters", "t1").await, "version=6");
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn both_moves_of_a_topic_before_a_poison_event_count() {
    let world = World::new().await;
    let created = topic("news", "t1");
    let post = |category| ("t1", "PostAdded", Value::Map([("categoryId".into(), Value::from(category))].into()));
    let events = recorded([
        (created.0.as_str(), created.1, created.2.clone()),
        post("news"),
        ("t1", "TopicMoved", data! { fromCategoryId: "news", toCategoryId: "old" }),
        ("t1", "TopicMoved", data! { fromCategoryId: "old", toCategoryId: "gone" }),
        // DynamoDB allows no empty key, so the event is refused before it is sent.
        post(""),
    ]);
    world.process(&events[..2]).await;
    assert_eq!(counts(&world.process(&events[2..]).await), [2, 0, 0, 1, 0]);
    let [(_, Some(5), reason)] = &world.parked().await[..] else { panic!("version 5 is parked") };
    assert!(reason.contains("a shared row whose key is empty"), "{reason}");
    assert!(world.row("forum-counters", "gone").await.ends_with("postCount=1 topicCount=1"));
    assert!(world.row("forum-counters", "old").await.ends_with("postCount=0 topicCount=0"));
}

const NINES: &str = "99999999999999999999999999999999999999";

#[tokio::test]
async fn amounts_of_38_digits_are_exact_within_a_batch_and_across_batches() {
    let amounts = ["12345678901234567890123456789.012345678", "0.000000001", "-0.000000002", "0.000000003"];
    let events = account("alice", &amounts);
    for size in 1..=events.len() {
        let world = World::new().await;
        for batch in events.chunks(size) {
            world.process(batch).await;
        }
        assert!(world.row("account-summary", "alice").await.starts_with("balance=12345678901234567890123456789.01234568 "));
        assert_eq!(world.rows().await, fold(registry(), &events));
    }
}

#[tokio::test]
async fn a_sum_beyond_38_digits_parks_that_account_at_the_event_that_exceeds_it() {
    let events = account("alice", &["1", NINES, "1", "1"]);
    let bob = account("bob", &["1", "2"]);
    // One at a time, partly in the row already, and all in one batch.
    for size in 1..=events.len() {
        let world = World::new().await;
        let mut reports = [0; 5];
        for batch in events.chunks(size) {
            let report = world.process(&[batch, &bob].concat()).await;
            reports.iter_mut().zip(counts(&report)).for_each(|(all, count)| *all += count);
        }
        assert_eq!((reports[0], reports[2..].to_vec()), (4, vec![0, 2, 0]), "in batches of {size}");
        let [(who, version, reason)] = &world.parked().await[..] else { panic!("one is parked") };
        assert_eq!((who.as_str(), *version), ("alice", Some(3)), "in batches of {size}");
        assert!(reason.contains("38"), "{reason}");
        // 1 plus 38 nines is a one and 38 zeros: one significant digit.
        assert!(world.row("account-summary", "alice").await.starts_with(&format!("balance=1{} ", "0".repeat(38))));
        assert!(world.row("account-summary", "bob").await.ends_with("version=2"));
    }
}

#[tokio::test]
async fn an_overflow_that_only_the_store_can_detect_parks_at_the_first_event_that_does_not_fit() {
    let amounts: Vec<&str> = std::iter::once(NINES).chain(["-3", "1", "1", "1", "3", "1", "1", "1"]).collect();
    let events = account("alice", &amounts);
    for size in 1..events.len() {
        let world = World::new().await;
        world.process(&events[..1]).await;
        for batch in events[1..].chunks(size) {
            world.process(batch).await;
        }
        let parked = world.parked().await;
        assert_eq!((parked.len(), parked[0].1), (1, Some(6)), "in batches of {size}: {parked:?}");
        assert!(parked[0].2.contains("38"), "{parked:?}");
        let row = world.row("account-summary", "alice").await;
        assert!(row.starts_with(&format!("balance={NINES} ")) && row.ends_with("version=5"), "in batches of {size}: {row}");
    }
}

#[tokio::test]
async fn an_event_that_would_overflow_a_shared_counter_parks_its_aggregate() {
    let came = |who, spent: &str| (who, "Came", Value::Map([("page".into(), "home".into()), ("spent".into(), number(spent))].into()));
    let first = recorded([came("ann", NINES)]);
    let world = World::with(Registry::new(UNUSUAL)).await;
    world.process(&first).await;
    let rest = recorded([came("bob", "-5"), came("cid", "8"), came("dan", "0"), came("eve", "1")]);
    let report = world.process(&rest).await;
    assert_eq!(counts(&report), [3, 0, 0, 1, 0], "{:?}", report.reasons);
    let [(who, Some(1), reason)] = &world.parked().await[..] else { panic!("one is parked") };
    assert!(who == "cid" && reason.contains("38"), "{reason}");
    assert!(world.row("visits", "home").await.contains("spent=99999999999999999999999999999999999995 "));
}

#[tokio::test]
async fn a_poison_event_parks_its_aggregate_and_its_neighbours_continue() {
    let world = World::new().await;
    let events = recorded([
        ("alice", "AccountOpened", data! { initialDeposit: 1 }),
        ("bob", "AccountOpened", data! { initialDeposit: 1 }),
        ("alice", "MoneyDeposited", data! { amount: "two" }),
        ("alice", "MoneyDeposited", data! { amount: 4 }),
    ]);
    let report = world.process(&events).await;
    assert_eq!((counts(&report), report.checkpoint.clone()), ([2, 0, 0, 2, 0], Checkpoint::None));
    let parked = world.parked().await;
    assert_eq!((parked[0].0.as_str(), parked[0].1), ("alice", Some(2)));
    assert_eq!(parked[0].2, "cannot read the event's data: `amount`: expected an exact number, found a string");
    assert!(world.row("account-summary", "alice").await.starts_with("balance=1 "));
}

#[tokio::test]
async fn both_projections_of_a_mixed_history_equal_the_fold() {
    let events = [history("bank", 3, 60, 9), history("forum", 3, 120, 30)].concat();
    let world = World::new().await;
    let report = world.process(&events).await;
    assert_eq!(counts(&report), [180, 0, 0, 0, 0]);
    assert_eq!(world.rows().await, fold(registry(), &events));
}
