//! Faults around the worker: failing calls, lost answers, concurrent workers, crashes, deadlines, bad deployments.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use projection_vocabulary::{RecordedEvent, Registry, Value, data};
use projection_worker::internals::{engine::report::Checkpoint, engine::report::Report, retry::Deadline};
use serde_json::json;

use crate::support::{
    projections::{HOUSES_1, HOUSES_2, UNUSUAL},
    world::{Call, Fault, ONE_EACH, World, account, answers_though_applied, fold, history, impostor, record, recorded, records, registry},
};

const THROTTLED: [(u16, &str); 5] = [
    (400, "ProvisionedThroughputExceededException"),
    (400, "ThrottlingException"),
    (400, "RequestLimitExceeded"),
    (400, "TransactionConflictException"),
    (500, "InternalServerError"),
];

fn applied(report: &Report) -> [u64; 4] {
    assert_eq!(report.total.parked, 0, "an infrastructure error never parks");
    [report.total.applied, report.total.duplicate, report.total.healed, report.total.failed]
}

fn posts(topic: &str, category: &str) -> Vec<RecordedEvent> {
    let text = |name: &str, text: &str| (name.to_owned(), Value::from(text));
    let data = |more: &[(&str, &str)]| {
        let shared = [("categoryId", category), ("authorId", "ann")];
        Value::Map(shared.iter().chain(more).map(|(name, value)| text(name, value)).collect::<BTreeMap<_, _>>())
    };
    let facts =
        [("TopicCreated", data(&[("title", "Hello")])), ("PostAdded", data(&[("postId", "1")])), ("PostAdded", data(&[("postId", "2")]))];
    recorded(facts.into_iter().map(|(name, data)| (topic, name, data)))
}

/// One account, and two topics of one category, whose rows go into one transaction.
fn mixed() -> Vec<RecordedEvent> {
    [account("alice", &["1", "2"]), posts("t1", "news"), posts("t2", "news")].concat()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_before_it_is_applied_is_retried_and_counts_once() {
    for (status, name) in THROTTLED {
        let world = World::new().await;
        let tapped = world.tapped(move |call| if call.number <= 5 { Fault::error(status, name) } else { Fault::None });
        let report = tapped.worker.process(&records(&mixed()), Deadline::NONE).await;
        assert_eq!(applied(&report), [8, 0, 0, 0], "{name}: {:?}", report.reasons);
        assert_eq!(world.rows().await, fold(registry(), &mixed()), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_answer_is_retried() {
    for (status, body) in [(200, "<html>"), (200, r#"{"ConsumedCapacity":{"#), (502, "<html>")] {
        let world = World::new().await;
        let tapped = world.tapped(move |call| if call.number <= 5 { Fault::Answer(status, body.to_owned()) } else { Fault::None });
        let report = tapped.worker.process(&records(&mixed()), Deadline::NONE).await;
        assert_eq!(applied(&report), [8, 0, 0, 0], "{status} {body}: {:?}", report.reasons);
        assert_eq!(world.rows().await, fold(registry(), &mixed()), "{status} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_counts_once_and_is_reported_as_applied() {
    for operation in ["UpdateItem", "TransactWriteItems"] {
        let world = World::new().await;
        let seen = AtomicU64::new(0);
        // The first call of this operation, and then every other one.
        let tapped = world.tapped(move |call| {
            if call.operation == operation && seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { Fault::Lost } else { Fault::None }
        });
        let report = tapped.worker.process(&records(&mixed()), Deadline::NONE).await;
        assert_eq!(applied(&report), [8, 0, 0, 0], "{operation}: {:?}", report.reasons);
        assert_eq!(world.rows().await, fold(registry(), &mixed()), "{operation}");
        assert_eq!(applied(&world.process(&mixed()).await), [0, 8, 0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_answered_with_an_error_though_it_was_applied_counts_as_applied() {
    for (operation, (status, body)) in
        ["UpdateItem", "TransactWriteItems"].into_iter().flat_map(|one| answers_though_applied().map(move |two| (one, two)))
    {
        let world = World::new().await;
        let (seen, answer) = (AtomicU64::new(0), body.clone());
        let tapped = world.tapped(move |call| {
            let first = call.operation == operation && seen.fetch_add(1, Ordering::Relaxed) == 0;
            if first { Fault::AppliedBut(status, answer.clone()) } else { Fault::None }
        });
        let report = tapped.worker.process(&records(&mixed()), Deadline::NONE).await;
        assert_eq!(applied(&report), [8, 0, 0, 0], "{operation} {status} {body}: {:?}", report.reasons);
        assert_eq!(world.rows().await, fold(registry(), &mixed()), "{operation} {status} {body}");
    }
}

/// The reverse: a request that was certainly not applied cannot be what moved the row.
#[tokio::test(start_paused = true)]
async fn what_another_worker_applied_before_the_retry_of_a_throttled_write_is_a_duplicate() {
    for (status, name) in THROTTLED.into_iter().filter(|(status, _)| *status == 400) {
        for events in [account("alice", &["1", "2"]), posts("t1", "news")] {
            let world = Arc::new(World::new().await);
            let (others, there) = (events.clone(), world.clone());
            let tapped = world.tapped(move |call| match call.number {
                1 => Fault::error(status, name),
                2 => {
                    let (others, there) = (others.clone(), there.clone());
                    Fault::Meanwhile(Box::pin(async move { drop(there.process(&others).await) }))
                }
                _ => Fault::None,
            });
            let report = tapped.worker.process(&records(&events), Deadline::NONE).await;
            assert_eq!(applied(&report), [0, events.len() as u64, 0, 0], "{name}: {:?}", report.reasons);
            assert_eq!(world.rows().await, fold(registry(), &events), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_parking_whose_answer_is_lost_parks_one_aggregate_once() {
    let world = World::new().await;
    let events = recorded([("alice", "AccountOpened", data! { initialDeposit: "1" })]);
    let tapped = world.tapped(|call| if call.number == 1 { Fault::Lost } else { Fault::None });
    let report = tapped.worker.process(&records(&events), Deadline::NONE).await;
    assert_eq!((report.total.parked, report.total.failed), (1, 0));
    assert_eq!((world.parked().await.len(), world.row("account-summary", "alice").await.as_str()), (1, "parked=true"));
}

/// A cancelled transaction with a reason for each action.
fn canceled(reasons: &[(&str, Option<serde_json::Value>)]) -> Fault {
    let reasons: Vec<_> = reasons
        .iter()
        .map(|(code, item)| match item {
            Some(item) => json!({"Code": code, "Message": "as planned", "Item": item}),
            None => json!({"Code": code}),
        })
        .collect();
    let name = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
    Fault::Answer(400, json!({"__type": name, "Message": "as planned", "CancellationReasons": reasons}).to_string())
}

#[tokio::test(start_paused = true)]
async fn after_a_cancelled_transaction_only_the_writes_with_a_reason_are_re_planned() {
    let world = World::new().await;
    let (one, two) = (posts("t1", "news"), posts("t2", "news"));
    world.process(&two[..1]).await;
    let batch = [&one[..1], &two[..2]].concat();
    // The first topic has a conflict; the second is already at the version that the store returns.
    let tapped = world.tapped(|call| {
        let row = json!({"id": {"S": "t2"}, "version": {"N": "1"}, "revision": {"N": "1"}, "lastEventId": {"S": "t2-1"}});
        match call.operation {
            "TransactWriteItems" if call.number == 1 => {
                canceled(&[("TransactionConflict", None), ("ConditionalCheckFailed", Some(row)), ("None", None)])
            }
            _ => Fault::None,
        }
    });
    let report = tapped.worker.process(&records(&batch), Deadline::NONE).await;
    assert_eq!(applied(&report), [2, 1, 0, 0], "{:?}", report.reasons);
    assert_eq!(tapped.calls(), ["TransactWriteItems", "TransactWriteItems"]);
    assert_eq!(world.rows().await, fold(registry(), &batch));
}

/// As if somebody changed it back before each attempt.
#[tokio::test(start_paused = true)]
async fn a_shared_row_that_refuses_again_and_again_fails_the_record() {
    let events = recorded([("ann", "Came", data! { page: "home", spent: 3 })]);
    let nothing_wrong = json!({"id": {"S": "home"}});
    let owned = json!({
        "id": {"S": "home"}, "version": {"N": "1"}, "revision": {"N": "0"}, "lastEventId": {"S": "home-1"}, "owned": {"SS": ["visits"]},
    });
    for (row, writes) in [(nothing_wrong, 10), (owned, 5)] {
        let world = World::with(Registry::new(UNUSUAL)).await;
        let tapped = world.tapped_of(UNUSUAL, move |call| match call.operation {
            "TransactWriteItems" => canceled(&[("None", None), ("ConditionalCheckFailed", Some(row.clone()))]),
            _ => Fault::None,
        });
        let report = tapped.worker.process(&records(&events), Deadline::NONE).await;
        assert_eq!(applied(&report), [0, 0, 0, 1], "{:?}", report.reasons);
        assert_eq!(tapped.calls().iter().filter(|call| *call == "TransactWriteItems").count(), writes);
    }
}

#[tokio::test(start_paused = true)]
async fn every_attempt_of_a_transaction_carries_its_token_and_a_new_plan_a_new_one() {
    let world = World::new().await;
    let events = posts("t1", "news");
    world.process(&events[..1]).await;
    let tokens = Arc::<Mutex<Vec<String>>>::default();
    let noted = tokens.clone();
    let tapped = world.tapped(move |call| {
        let Some((_, token)) = call.body.split_once(r#""ClientRequestToken":""#) else { return Fault::None };
        let mut noted = noted.lock().expect("no test panics while it holds this");
        noted.push(token.split('"').next().unwrap_or_default().to_owned());
        if noted.len() < 3 { Fault::error(400, "ThrottlingException") } else { Fault::None }
    });
    // The third attempt is refused because the first event is already applied; the rest of the batch is a new transaction.
    let report = tapped.worker.process(&records(&events), Deadline::NONE).await;
    assert_eq!(applied(&report), [2, 1, 0, 0]);
    let tokens = tokens.lock().expect("no test panics while it holds this");
    assert_eq!((tokens.len(), &tokens[0], &tokens[1]), (4, &tokens[1], &tokens[2]));
    assert!(!tokens[0].is_empty() && tokens[2] != tokens[3]);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_cancelled_only_by_conflicts_or_throttling_is_sent_again() {
    for code in ["TransactionConflict", "ProvisionedThroughputExceeded", "ThrottlingError"] {
        let world = World::new().await;
        let tapped = world.tapped(move |call| match call.operation {
            "TransactWriteItems" if call.number <= 4 => canceled(&[("None", None), ("None", None), (code, None)]),
            _ => Fault::None,
        });
        let report = tapped.worker.process(&records(&mixed()[2..]), Deadline::NONE).await;
        assert_eq!(applied(&report), [6, 0, 0, 0], "{code}: {:?}", report.reasons);
        assert_eq!(world.rows().await, fold(registry(), &mixed()[2..]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_permission_or_table_fails_the_records_with_a_clear_reason_and_parks_nothing() {
    for name in ["AccessDeniedException", "ResourceNotFoundException", "ExpiredTokenException"] {
        let world = World::new().await;
        let before = world.rows().await;
        let tapped = world.tapped(move |_| Fault::error(400, name));
        let report = tapped.worker.process(&records(&mixed()), Deadline::NONE).await;
        assert_eq!(applied(&report), [0, 0, 0, 8]);
        assert_eq!(report.checkpoint, Checkpoint::At("1".into()));
        let says = |reason: &String| reason.contains(name) && reason.contains("check the table names");
        assert!(report.reasons.keys().all(says), "{:?}", report.reasons);
        assert_eq!((world.rows().await, world.parked().await), (before, vec![]));
    }
}

#[tokio::test]
async fn a_missing_table_of_one_projection_does_not_affect_the_other() {
    let world = World::new().await;
    world.embedded.client().delete_table().table_name("forum-counters").send().await.expect("deleted");
    let report = world.process(&mixed()).await;
    assert_eq!((applied(&report), report.checkpoint), ([2, 0, 0, 6], Checkpoint::At("3".into())));
}

#[tokio::test]
async fn without_a_parking_table_poison_events_fail_and_the_others_are_applied() {
    let world = World::new().await;
    world.embedded.client().delete_table().table_name("parked").send().await.expect("deleted");
    let events = [account("bob", &["1"]), recorded([("alice", "AccountOpened", data! { initialDeposit: "1" })])].concat();
    let mut batch = records(&events);
    batch.push(serde_json::value::to_raw_value(&json!({"dynamodb": {"SequenceNumber": "3"}})).expect("JSON"));
    let report = world.worker.process(&batch, Deadline::NONE).await;
    assert_eq!((applied(&report), report.checkpoint), ([1, 0, 0, 2], Checkpoint::At("2".into())));
    assert!(report.reasons.keys().all(|reason| reason.contains("the parking table cannot succeed")), "{:?}", report.reasons);
    assert_eq!(world.row("account-summary", "alice").await, "", "the row is marked only with the record of it");
}

#[tokio::test(start_paused = true)]
async fn a_throttled_parking_table_is_retried() {
    let world = World::new().await;
    let alice = recorded([("alice", "AccountOpened", data! { initialDeposit: "1" })]);
    let mut batch = records(&alice);
    batch.push(serde_json::value::to_raw_value(&json!({"eventID": "odd", "dynamodb": {}})).expect("JSON"));
    let tapped = world.tapped(|call| match call.number {
        1..=4 => canceled(&[("ThrottlingError", None), ("TransactionConflict", None)]),
        _ => Fault::None,
    });
    let report = tapped.worker.process(&batch, Deadline::NONE).await;
    assert_eq!((report.total.parked, report.total.failed), (2, 0), "{:?}", report.reasons);
    assert_eq!((report.usage.requests, report.usage.retries, report.usage.conflicts), (6, 4, 4));
    assert_eq!(world.parked().await.len(), 2);
}

#[tokio::test]
async fn eight_concurrent_workers_on_the_same_records_yield_the_rows_of_one() {
    for domain in ["bank", "forum"] {
        let world = World::new().await;
        let events = history(domain, 11, 80, 12);
        world.import(&events).await;
        let workers: Vec<_> = (0..8).map(|_| world.tapped(|_| Fault::None)).collect();
        let runs = workers.iter().zip(0..).map(|(tapped, seed)| {
            let mut mine = events.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut mine);
            async move {
                let mut totals = [0; 4];
                for batch in mine.chunks(20) {
                    let report = tapped.worker.process(&records(batch), Deadline::NONE).await;
                    totals.iter_mut().zip(applied(&report)).for_each(|(total, count)| *total += count);
                }
                totals
            }
        });
        let totals = join_all(runs).await;
        assert_eq!(world.rows().await, fold(registry(), &events));
        let counted: u64 = totals.iter().map(|[applied, _, healed, _]| applied + healed).sum();
        assert_eq!((counted, totals.iter().map(|totals| totals[3]).sum::<u64>()), (events.len() as u64, 0), "each event counts once");
    }
}

/// Kills the worker at its `k`-th call, for every `k`, and lets another worker repeat the batch.
async fn crash_at_every_call(
    rules: &'static [&'static dyn projection_vocabulary::DynProjection],
    events: &[RecordedEvent],
    hang: fn() -> Fault,
) {
    for k in 1.. {
        let world = World::with(Registry::new(rules)).await;
        // The first fifth is never delivered, so that the rest also heals gaps.
        let (lost, batch) = events.split_at(events.len() / 5);
        world.import(lost).await;
        let tapped = world.tapped(move |call: &Call<'_>| if call.number == k { hang() } else { Fault::None });
        let batch = records(batch);
        let crashed = tokio::select! {
            biased;
            () = tapped.hung.notified() => true,
            _ = tapped.worker.process(&batch, Deadline::NONE) => false,
        };
        let report = world.worker_of(rules).process(&batch, Deadline::NONE).await;
        assert_eq!((report.total.parked, report.total.failed), (0, 0), "crash at call {k}: {:?}", report.reasons);
        let touched: Vec<_> =
            events.iter().filter(|event| events[lost.len()..].iter().any(|other| other.aggregate == event.aggregate)).cloned().collect();
        assert_eq!(world.rows().await, fold(Registry::new(rules), &touched), "crash at call {k}");
        if !crashed {
            assert!(k > 3, "a batch takes some calls");
            return;
        }
    }
}

fn forum() -> Vec<RecordedEvent> {
    let events = history("forum", 2, 110, 12);
    for kind in ["TopicMoved", "TopicDeleted", "PostAdded", "CategoryCreated"] {
        assert!(events.iter().any(|event| &*event.event_type == kind), "the history has a {kind}");
    }
    events
}

#[tokio::test]
async fn a_crash_before_any_call_is_applied_loses_nothing() {
    crash_at_every_call(ONE_EACH, &forum(), || Fault::HungBefore).await;
}

#[tokio::test]
async fn a_crash_after_any_call_is_applied_counts_nothing_twice() {
    crash_at_every_call(ONE_EACH, &forum(), || Fault::HungAfter).await;
}

#[tokio::test]
async fn a_crash_during_a_re_projection_is_repaired_by_the_next_attempt() {
    let events = recorded([
        ("villa", "Built", data! { site: "hill", rooms: 9 }),
        ("hut", "Built", data! { site: "hill", rooms: 1 }),
        ("hut", "Razed", data! {}),
        ("villa", "Built", data! { site: "vale", rooms: 12 }),
    ]);
    for k in 1.. {
        for hang in [|| Fault::HungBefore, || Fault::HungAfter] {
            let world = World::with(Registry::new(HOUSES_1)).await;
            world.import(&events).await;
            world.process(&events).await;
            let batch = records(&events);
            let tapped = world.tapped_of(HOUSES_2, move |call| if call.number == k { hang() } else { Fault::None });
            let crashed = tokio::select! {
                biased;
                () = tapped.hung.notified() => true,
                _ = tapped.worker.process(&batch, Deadline::NONE) => false,
            };
            world.worker_of(HOUSES_2).process(&batch, Deadline::NONE).await;
            assert_eq!(world.rows().await, fold(Registry::new(HOUSES_2), &events), "crash at call {k}");
            if !crashed {
                return;
            }
        }
    }
}

#[tokio::test]
async fn old_and_new_revision_running_side_by_side_yield_the_rows_of_the_new_one() {
    let events = recorded((0..6).flat_map(|at| {
        let id = ["a", "b", "c", "d", "e", "f"][at];
        [(id, "Built", data! { site: "hill", rooms: 3 }), (id, "Built", data! { site: "vale", rooms: 4 }), (id, "Razed", data! {})]
    }));
    let world = World::with(Registry::new(HOUSES_1)).await;
    world.import(&events).await;
    let (old, new) = (world.worker_of(HOUSES_1), world.worker_of(HOUSES_2));
    let batch = records(&events);
    let _ = join_all([&old, &new, &new].map(|worker| Box::pin(worker.process(&batch, Deadline::NONE)))).await;
    let report = new.process(&batch, Deadline::NONE).await;
    assert_eq!((report.total.duplicate, report.total.failed, report.total.parked), (18, 0, 0), "{:?}", report.reasons);
    assert_eq!(world.rows().await, fold(Registry::new(HOUSES_2), &events));
}

#[tokio::test]
async fn after_the_deadline_nothing_is_written_and_the_lowest_record_is_the_checkpoint() {
    let world = World::new().await;
    let mut events = mixed();
    events.extend(recorded([("poison", "AccountOpened", data! { initialDeposit: "1" })]));
    let before = world.rows().await;
    let mut batch: Vec<_> = events.iter().zip(90..).map(|(event, position)| record(event, position)).collect();
    batch.push(serde_json::value::to_raw_value(&json!({"dynamodb": {"SequenceNumber": "1000"}})).expect("JSON"));
    batch.reverse();
    let report = world.worker.process(&batch, Deadline::at(Instant::now())).await;
    assert_eq!((applied(&report), report.usage.requests), ([0, 0, 0, 10], 0));
    assert_eq!(report.checkpoint, Checkpoint::At("90".into()), "as a number, not as a text");
    assert!(report.reasons.keys().all(|reason| reason.starts_with("out of time")), "{:?}", report.reasons);
    assert_eq!((world.rows().await, world.parked().await), (before, vec![]));
}

#[tokio::test(start_paused = true)]
async fn no_write_begins_after_the_deadline_has_passed() {
    let world = World::new().await;
    let events: Vec<_> = (0..100).flat_map(|at| account(&format!("account-{at}"), &["1"])).collect();
    // All calls that begin in time together take less than an attempt may.
    let time = Duration::from_millis(50);
    let deadline = Deadline::at(tokio::time::Instant::now().into_std() + time);
    // Answers arrive only after the deadline.
    let tapped = world.tapped(move |_| Fault::Meanwhile(Box::pin(tokio::time::advance(time))));
    let report = tapped.worker.process(&records(&events), deadline).await;
    let [applied, .., failed] = applied(&report);
    assert!((1..=32).contains(&applied) && applied + failed == 100, "{applied} were begun in time");
    assert_eq!(tapped.calls().len() as u64, applied);
    assert_eq!(report.checkpoint != Checkpoint::None, failed > 0);
    assert_eq!(self::applied(&world.process(&events).await), [failed, applied, 0, 0], "redelivered, each counts once");
}

/// `all` new accounts, the first `poison` of which are poison.
fn poisoned(poison: usize, all: usize) -> Vec<RecordedEvent> {
    (0..all)
        .flat_map(|at| {
            let id = format!("account-{at:03}");
            let data = if at < poison {
                data! { initialDeposit: "1" }
            } else {
                data! { initialDeposit: 1 }
            };
            recorded([(id.as_str(), "AccountOpened", data)])
        })
        .collect()
}

fn ends(report: &Report) -> [u64; 3] {
    [report.total.applied, report.total.parked, report.total.failed]
}

#[tokio::test]
async fn the_breaker_parks_nothing_when_most_of_a_batch_is_poison() {
    let world = World::new().await;
    let events = poisoned(16, 30);
    let report = world.process(&events).await;
    assert_eq!((ends(&report), report.checkpoint), ([14, 0, 16], Checkpoint::At("1".into())));
    assert!(report.reasons.keys().all(|reason| reason.contains("nothing is parked")), "{:?}", report.reasons);
    assert_eq!((world.parked().await, world.rows().await["account-summary"].len()), (vec![], 14));
    // The breaker trips again on redelivery, although many records are duplicates by then.
    assert_eq!(ends(&world.process(&events).await), [0, 0, 16]);
}

#[tokio::test]
async fn the_breaker_lets_a_few_poison_events_park() {
    let world = World::new().await;
    assert_eq!(ends(&world.process(&poisoned(3, 30)).await), [27, 3, 0]);
    assert_eq!(world.parked().await.len(), 3);
}

#[tokio::test]
async fn the_breaker_looks_across_batches_and_counts_each_aggregate_once() {
    let world = World::new().await;
    let events = poisoned(70, 70);
    let good: Vec<_> = (0..30).flat_map(|at| account(&format!("good-{at}"), &["1"])).collect();
    // Seven of ten in each batch: the first batch is too small to judge, both together are not.
    let batch = |at: usize| [&events[7 * at..7 * (at + 1)], &good[3 * at..3 * (at + 1)]].concat();
    assert_eq!(ends(&world.process(&batch(0)).await), [3, 7, 0]);
    assert_eq!(ends(&world.process(&batch(1)).await), [3, 0, 7]);
}

#[tokio::test]
async fn poison_events_that_come_one_at_a_time_are_parked_until_there_are_ten() {
    let world = World::new().await;
    let events = poisoned(12, 12);
    let mut parked = 0;
    for event in &events {
        parked += world.process(std::slice::from_ref(event)).await.total.parked;
    }
    assert_eq!(parked, 9);
}

#[tokio::test]
async fn an_aggregate_that_advances_while_it_is_being_parked_is_examined_again() {
    let world = World::new().await;
    let events = account("alice", &["1", "2"]);
    world.import(&events).await;
    world.process(&events[..1]).await;
    // This worker receives a poison event under version 2; another worker has applied the real one.
    let mut odd = impostor(&events[1]);
    odd.data = data! { amount: "2" };
    world.process(&events[1..]).await;
    let report = world.process(&[odd]).await;
    assert_eq!(report.total.parked, 1);
    assert!(world.parked().await[0].2.starts_with("history diverged"));
    assert!(world.row("account-summary", "alice").await.starts_with("balance=3 "));
}

#[tokio::test]
async fn a_batch_may_be_processed_on_any_thread() {
    let world = std::sync::Arc::new(World::new().await);
    let events = history("bank", 3, 30, 5);
    let report = tokio::spawn({
        let (world, events) = (world.clone(), events.clone());
        async move { world.process(&events).await }
    });
    assert_eq!(report.await.expect("no panic").total.applied, 30);
}
