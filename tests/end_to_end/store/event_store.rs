//! The event store: appending, loading, importing.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::join_all;
use projection_vocabulary::{RecordedEvent, Value, Version, data};
use projection_worker::{
    Worker,
    internals::{
        retry::Deadline,
        store::{
            append::{Append, AppendError},
            corrections::Audit,
            events::Stored,
            import::{Import, Imported},
            item::encode_event,
        },
    },
};
use serde_dynamo::Item;
use serde_json::json;

use crate::support::world::{Fault, World, account, answers_though_applied, import_item, impostor, long_note, recorded};

fn deposits(count: usize) -> Vec<RecordedEvent> {
    account("alice", &vec!["1"; count])
}

fn versions(stored: &[Stored]) -> Vec<u64> {
    stored.iter().map(|stored| stored.version().0).collect()
}

fn conflict(expected: u64, actual: u64) -> AppendError {
    AppendError::Conflict { aggregate: "alice".into(), expected: Version(expected), actual: Version(actual) }
}

impl World {
    async fn append(&self, events: &[RecordedEvent]) -> Result<Version, AppendError> {
        self.worker.store().append(events.first().map_or(Version::NONE, |event| event.version.previous()), events).await
    }

    async fn load(&self, from: u64, to: u64, limit: usize) -> Vec<Stored> {
        let versions = Version(from)..=Version(to);
        self.worker.store().load_page(&"alice".into(), versions, limit, Deadline::NONE).await.expect("loaded")
    }
}

#[tokio::test]
async fn an_append_takes_one_to_ninety_nine_events_at_once() {
    let world = World::new().await;
    let events = deposits(200);
    assert_eq!(world.append(&events[..1]).await, Ok(Version(1)));
    assert_eq!(world.append(&events[1..100]).await, Ok(Version(100)));
    for (batch, count) in [(&events[..0], 0), (&events[100..], 100)] {
        let refused = world.append(batch).await.expect_err("refused");
        assert_eq!(refused, AppendError::Count(count));
        assert_eq!(refused.to_string(), format!("an append takes 1 to 99 events, not {count}"));
    }
    let loaded = world.load(1, 200, 1_000).await;
    assert_eq!(versions(&loaded), (1..=100).collect::<Vec<_>>());
    assert!(loaded.iter().zip(&events).all(|(stored, event)| matches!(stored, Stored::Event(there) if there == event)));
}

#[tokio::test]
async fn an_append_of_non_consecutive_events_is_refused_before_anything_is_sent() {
    let world = World::new().await;
    let events = deposits(3);
    let bob = account("bob", &["1", "1"]);
    for (expected, batch) in [(1, vec![0, 1]), (0, vec![0, 2]), (0, vec![1, 0])] {
        let batch: Vec<_> = batch.into_iter().map(|at| events[at].clone()).collect();
        let refused = world.worker.store().append(Version(expected), &batch).await;
        assert_eq!(refused, Err(AppendError::NotConsecutive { expected: Version(expected) }));
    }
    let mixed = [events[0].clone(), bob[1].clone()];
    assert_eq!(world.append(&mixed).await, Err(AppendError::NotConsecutive { expected: Version::NONE }));
    assert_eq!(versions(&world.load(1, 9, 9).await), [0; 0]);
}

#[tokio::test]
async fn a_conflict_names_the_expected_and_the_actual_version() {
    let world = World::new().await;
    let events = deposits(5);
    world.append(&events[..3]).await.expect("appended");
    assert_eq!(world.append(&[impostor(&events[0])]).await, Err(conflict(0, 3)));
    assert_eq!(world.append(&[impostor(&events[1]), impostor(&events[2])]).await, Err(conflict(1, 3)));
    assert_eq!(world.append(&events[4..]).await, Err(conflict(4, 3)));
    assert_eq!(conflict(1, 3).to_string(), "conflict on aggregate alice: expected version 1, found 3");
    assert_eq!(versions(&world.load(1, 9, 9).await), [1, 2, 3]);
}

#[tokio::test]
async fn an_event_stored_without_its_version_item_is_a_conflict() {
    let world = World::new().await;
    let events = deposits(3);
    world.append(&events[..2]).await.expect("appended");
    let put = world.embedded.client().put_item().table_name("event-store");
    put.set_item(Some(encode_event(&impostor(&events[2])))).send().await.expect("put");
    assert_eq!(world.append(&events[2..]).await, Err(conflict(2, 3)));
}

#[tokio::test]
async fn of_twenty_concurrent_appends_exactly_one_wins_and_the_rest_learn_the_version() {
    let world = World::new().await;
    let events = deposits(4);
    world.append(&events[..1]).await.expect("appended");
    let rivals = (0..20).map(|at| {
        let mine = |event: &RecordedEvent| RecordedEvent { event_id: format!("{at}-{}", event.version).into(), ..event.clone() };
        let (world, mine) = (&world, events[1..3].iter().map(mine).collect::<Vec<_>>());
        async move { (at, world.append(&mine).await) }
    });
    let (won, lost): (Vec<_>, Vec<_>) = join_all(rivals).await.into_iter().partition(|(_, result)| result.is_ok());
    assert_eq!((won.len(), &won[0].1), (1, &Ok(Version(3))));
    assert!(lost.iter().all(|(_, result)| *result == Err(conflict(1, 3))), "{lost:?}");
    let ids: Vec<_> = world
        .load(2, 9, 9)
        .await
        .iter()
        .map(|stored| if let Stored::Event(event) = stored { event.event_id.to_string() } else { String::new() })
        .collect();
    assert_eq!(ids, [2, 3].map(|version| format!("{}-{version}", won[0].0)));
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_succeeds_once() {
    let world = World::new().await;
    let events = deposits(3);
    for (from, to) in [(0, 2), (2, 3)] {
        let tapped = world.tapped(|call| if call.number == 1 { Fault::Lost } else { Fault::None });
        let appended = tapped.worker.store().append(Version(from as u64), &events[from..to]).await;
        assert_eq!(appended, Ok(Version(to as u64)));
    }
    assert_eq!(versions(&world.load(1, 9, 9).await), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn an_append_that_is_answered_with_an_error_though_it_was_applied_succeeds_once() {
    for (status, body) in answers_though_applied() {
        let world = World::new().await;
        let events = deposits(2);
        let answer = body.clone();
        let tapped = world.tapped(move |call| if call.number == 1 { Fault::AppliedBut(status, answer.clone()) } else { Fault::None });
        assert_eq!(tapped.worker.store().append(Version::NONE, &events).await, Ok(Version(2)), "{status} {body}");
        assert_eq!(versions(&world.load(1, 9, 9).await), [1, 2], "{status} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_that_is_repeated_after_all_its_answers_were_lost_succeeds() {
    let world = World::new().await;
    let events = deposits(4);
    let tapped = world.tapped(|_| Fault::Lost);
    assert!(matches!(tapped.worker.store().append(Version::NONE, &events[..2]).await, Err(AppendError::Store(_))));
    assert_eq!(world.append(&events[..2]).await, Ok(Version(2)));
    world.append(&events[2..]).await.expect("appended");
    assert_eq!(world.append(&events[..2]).await, Ok(Version(2)), "also if others have appended since");
    assert_eq!(world.append(&[events[0].clone(), impostor(&events[1])]).await, Err(conflict(0, 4)));
    assert_eq!(versions(&world.load(1, 9, 9).await), [1, 2, 3, 4]);
}

#[tokio::test]
async fn an_append_that_lost_its_answer_and_the_race_is_a_conflict() {
    let world = World::new().await;
    let events = deposits(2);
    world.append(&[impostor(&events[0])]).await.expect("appended");
    let tapped = world.tapped(|call| if call.number == 1 { Fault::Lost } else { Fault::None });
    assert_eq!(tapped.worker.store().append(Version::NONE, &events).await, Err(conflict(0, 1)));
}

#[tokio::test]
async fn an_append_that_is_repeated_after_all_its_answers_were_lost_is_the_append_it_was() {
    let world = World::new().await;
    let events = deposits(4);
    world.append(&events[..2]).await.expect("applied, and let its answer be lost");
    // By a caller who has only the events.
    assert_eq!(world.append(&events[..2]).await, Ok(Version(2)));
    world.append(&events[2..]).await.expect("others append meanwhile");
    assert_eq!(world.append(&events[..2]).await, Ok(Version(2)), "even then");
    assert_eq!(world.append(&[events[0].clone(), impostor(&events[1])]).await, Err(conflict(0, 4)), "half of it is another append");
    assert_eq!(world.append(&events[1..2]).await, Ok(Version(2)));
    assert_eq!(versions(&world.load(1, 9, 9).await), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_page_holds_the_first_versions_requested() {
    let world = World::new().await;
    let events = deposits(25);
    world.import(&events).await;
    world.import(&account("alice2", &["1"; 3])).await;
    assert_eq!(versions(&world.load(4, 20, 5).await), [4, 5, 6, 7, 8]);
    assert_eq!(versions(&world.load(9, u64::MAX, 1_000).await), (9..=25).collect::<Vec<_>>());
    assert_eq!(versions(&world.load(26, 30, 5).await), [0; 0]);
    assert_eq!(versions(&world.load(7, 7, 5).await), [7]);
}

#[tokio::test]
async fn a_page_may_exceed_the_megabyte_of_one_answer() {
    let world = World::new().await;
    let long = format!("{{\"amount\":1,\"note\":\"{}\"}}", "x".repeat(200_000));
    let long = projection_vocabulary::literal(&long);
    let events = recorded((0..12).map(|_| ("alice", "MoneyDeposited", long.clone())));
    world.import(&events).await;
    assert_eq!(versions(&world.load(1, 12, 11).await), (1..=11).collect::<Vec<_>>());
    assert_eq!(world.worker.store().load_by_type("MoneyDeposited", 11).await.expect("loaded").len(), 11);
}

#[tokio::test]
async fn events_of_a_type_come_newest_first_up_to_the_limit() {
    let world = World::new().await;
    let events = recorded([
        ("alice", "AccountOpened", data! { initialDeposit: 1 }),
        ("bob", "AccountOpened", data! { initialDeposit: 1 }),
        ("bob", "MoneyDeposited", data! { amount: 1 }),
        ("cid", "AccountOpened", data! { initialDeposit: 1 }),
    ]);
    world.import(&events).await;
    let who = |stored: Vec<Stored>| -> Vec<String> {
        stored.iter().map(|stored| if let Stored::Event(event) = stored { event.aggregate.to_string() } else { String::new() }).collect()
    };
    assert_eq!(who(world.worker.store().load_by_type("AccountOpened", 2).await.expect("loaded")), ["cid", "bob"]);
    assert_eq!(who(world.worker.store().load_by_type("AccountOpened", 9).await.expect("loaded")), ["cid", "bob", "alice"]);
    assert_eq!(who(world.worker.store().load_by_type("AccountClosed", 9).await.expect("loaded")), [""; 0]);
}

#[tokio::test]
async fn of_aggregates_in_one_transaction_one_conflicts_and_the_others_are_appended() {
    let world = World::new().await;
    let (alice, bob, cid) = (deposits(3), account("bob", &["1"; 3]), account("cid", &["1"; 3]));
    world.append(&[impostor(&bob[0])]).await.expect("another writer");
    let tapped = world.tapped(|_| Fault::None);
    let appended = together(&tapped.worker, &[&alice, &bob, &cid]).await;
    let conflict = AppendError::Conflict { aggregate: "bob".into(), expected: Version::NONE, actual: Version(1) };
    assert_eq!(appended, [Ok(Version(3)), Err(conflict), Ok(Version(3))]);
    assert_eq!(tapped.calls(), ["TransactWriteItems", "Query", "TransactWriteItems"]);
    assert_eq!(stored(&world, "alice").await, ids(&alice));
    assert_eq!(stored(&world, "bob").await, ids(&[impostor(&bob[0])]));
    assert_eq!(stored(&world, "cid").await, ids(&cid));
}

#[tokio::test]
async fn appends_to_several_aggregates_whose_answer_is_lost_succeed_once() {
    let world = World::new().await;
    let (alice, bob, cid) = (deposits(2), account("bob", &["1"; 3]), account("cid", &["1"; 2]));
    world.append(&[impostor(&cid[0])]).await.expect("another writer");
    // First the answer to all three, which was a refusal, and then the one to the two that are left.
    let tapped = world.tapped(|call| if matches!(call.number, 1 | 4) { Fault::Lost } else { Fault::None });
    let appended = together(&tapped.worker, &[&alice, &bob, &cid]).await;
    assert!(matches!(appended[2], Err(AppendError::Conflict { .. })));
    assert_eq!(appended[..2], [Ok(Version(2)), Ok(Version(3))]);
    assert_eq!((stored(&world, "alice").await, stored(&world, "bob").await), (ids(&alice), ids(&bob)));
    // And so do the same ones later.
    assert_eq!(together(&world.worker, &[&alice, &bob]).await, [Ok(Version(2)), Ok(Version(3))]);
}

#[tokio::test]
async fn an_event_that_dynamodb_refuses_keeps_no_other_aggregate_from_being_appended_to() {
    let world = World::new().await;
    let note = |id: &'static str, bytes: usize| recorded([(id, "MoneyDeposited", long_note(bytes))]);
    let (alice, bob, cid) = (deposits(2), note("bob", 500_000), account("cid", &["1"; 3]));
    let appended = together(&world.worker, &[&alice, &bob, &cid]).await;
    let reason = "the item would exceed DynamoDB's limit of 400 KB";
    assert_eq!(appended, [Ok(Version(2)), Err(AppendError::Invalid { aggregate: "bob".into(), reason }), Ok(Version(3))]);
    assert_eq!((stored(&world, "alice").await, stored(&world, "cid").await), (ids(&alice), ids(&cid)));
    assert_eq!(stored(&world, "bob").await, [""; 0]);
}

#[tokio::test]
async fn an_import_may_be_repeated_in_any_order_and_appends_continue_after_it() {
    let world = World::new().await;
    let events = deposits(6);
    let store = world.worker.store();
    let mut came_of_it = Vec::new();
    for at in [2, 0, 4, 1, 3, 2, 0] {
        let event = &events[at];
        came_of_it.push(import_item(store, &event.aggregate, event.version, encode_event(event)).await);
    }
    let (new, known) = (Imported::New, Imported::Known);
    assert_eq!(came_of_it, [new, new, new, new, new, known, known]);
    assert_eq!(world.append(&[impostor(&events[2])]).await, Err(conflict(2, 5)), "the VERSION item is at the highest");
    assert_eq!(world.append(&events[5..]).await, Ok(Version(6)));
    let ids: BTreeSet<_> = versions(&world.load(1, 9, 9).await).into_iter().collect();
    assert_eq!(ids, (1..=6).collect());
}

#[tokio::test]
async fn an_import_whose_answer_is_lost_can_be_repeated() {
    let world = World::new().await;
    let events = deposits(2);
    let tapped = world.tapped(|call| if call.number % 2 == 1 { Fault::Lost } else { Fault::None });
    for event in &events {
        import_item(tapped.worker.store(), &event.aggregate, event.version, encode_event(event)).await;
    }
    assert_eq!(versions(&world.load(1, 9, 9).await), [1, 2]);
}

#[tokio::test]
async fn an_import_adds_what_is_new_and_tells_what_is_known_from_what_differs() {
    let world = World::new().await;
    let (alice, bob) = (deposits(5), account("bob", &["1"; 3]));
    world.append(&[alice[0].clone(), impostor(&alice[1])]).await.expect("appended");
    let mut odd = encode_event(&bob[1]);
    odd.remove("eventType");
    let bob_items = vec![(bob[0].version, encode_event(&bob[0])), (bob[1].version, odd.clone()), (bob[2].version, encode_event(&bob[2]))];
    let imports = [import_of(&alice), Import { aggregate: "bob".into(), events: bob_items }];
    let tapped = world.tapped(|_| Fault::None);
    let (new, known, conflict) = (Imported::New, Imported::Known, Imported::Conflict);
    let came_of_it = tapped.worker.store().import(&imports).await;
    assert_eq!(came_of_it, Ok(vec![vec![known, conflict, new, new, new], vec![new; 3]]));
    // The query is for corrections of the event that differs.
    assert_eq!(tapped.calls(), ["TransactWriteItems", "Query", "TransactWriteItems"]);
    assert_eq!(stored(&world, "alice").await, ids(&[&[alice[0].clone(), impostor(&alice[1])], &alice[2..]].concat()));
    assert_eq!(version(&world, "alice").await, Version(5));
    // What cannot be read as an event is compared, too.
    odd.insert("note".into(), AttributeValue::Null(true));
    assert_eq!(import_item(world.worker.store(), &"bob".into(), Version(2), odd).await, conflict);
    // The same event with other data is not the same.
    let other = RecordedEvent { data: data! { amount: 2 }, ..alice[3].clone() };
    assert_eq!(import_item(world.worker.store(), &"alice".into(), other.version, encode_event(&other)).await, conflict);
    let again = world.worker.store().import(&[import_of(&alice)]).await;
    assert_eq!(again, Ok(vec![vec![known, conflict, known, known, known]]));
}

#[tokio::test]
async fn an_event_as_it_was_before_its_correction_is_known() {
    let world = World::new().await;
    let events = deposits(3);
    world.import(&events).await;
    let store = world.worker.store();
    let audit = Audit { by: "us", why: "typo" };
    for amount in [2, 3] {
        let shown = store.event_item(&"alice".into(), Version(2)).await.expect("read");
        let corrected = RecordedEvent { data: deposit(amount), ..events[1].clone() };
        assert!(store.replace_event(shown.as_ref(), &corrected, audit).await.expect("written"));
    }
    let (known, conflict) = (Imported::Known, Imported::Conflict);
    assert_eq!(store.import(&[import_of(&events)]).await, Ok(vec![vec![known; 3]]));
    let of = |amount: u64, version: usize| RecordedEvent { data: deposit(amount), ..events[version - 1].clone() };
    for (event, expected) in [(of(2, 2), known), (of(3, 2), known), (of(4, 2), conflict), (of(2, 3), conflict)] {
        assert_eq!(import_item(store, &event.aggregate, event.version, encode_event(&event)).await, expected, "{event:?}");
    }
    let Stored::Event(there) = &world.load(2, 2, 1).await[0] else { panic!("an event") };
    assert_eq!(there.data, data! { amount: 3 }, "nothing was overwritten");
}

#[tokio::test]
async fn items_that_dynamodb_refuses_keep_no_others_from_being_imported() {
    let world = World::new().await;
    let mut alice = deposits(7);
    world.import(&alice[6..]).await;
    for at in [0, 3, 5] {
        alice[at].data = long_note(500_000);
    }
    let bob = recorded([("bob", "MoneyDeposited", data! { amount: 1 }), ("bob", "MoneyDeposited", long_note(500_000))]);
    let came_of_it = world.worker.store().import(&[import_of(&alice[..6]), import_of(&bob)]).await;
    let (new, refused) = (Imported::New, Imported::Refused("the item would exceed DynamoDB's limit of 400 KB"));
    assert_eq!(came_of_it, Ok(vec![vec![refused, new, new, refused, new, refused], vec![new, refused]]));
    assert_eq!(versions(&world.load(1, 9, 9).await), [2, 3, 5, 7]);
    assert_eq!((version(&world, "alice").await, version(&world, "bob").await), (Version(7), Version(1)), "of what is there");
}

#[tokio::test]
async fn a_known_event_moves_a_version_item_that_is_behind() {
    let world = World::new().await;
    let events = deposits(4);
    for event in &events[..3] {
        let put = world.embedded.client().put_item().table_name("event-store");
        put.set_item(Some(encode_event(event))).send().await.expect("put by hand, without a VERSION item");
    }
    assert_eq!(version(&world, "alice").await, Version::NONE);
    let came_of_it = world.worker.store().import(&[import_of(&events[1..3])]).await;
    assert_eq!((came_of_it, version(&world, "alice").await), (Ok(vec![vec![Imported::Known; 2]]), Version(3)));
    let mut long = events[3].clone();
    long.data = long_note(500_000);
    let tapped = world.tapped(|_| Fault::None);
    let came_of_it = tapped.worker.store().import(&[import_of(&[events[2].clone(), long])]).await.expect("imported");
    assert!(matches!(came_of_it[0][..], [Imported::Known, Imported::Refused(_)]), "{came_of_it:?}");
    assert_eq!(version(&world, "alice").await, Version(3));
}

#[tokio::test]
async fn an_event_that_turns_out_to_be_known_beside_one_that_is_refused_moves_its_version_item_all_the_same() {
    let world = World::new().await;
    let mut events = deposits(2);
    let put = world.embedded.client().put_item().table_name("event-store");
    put.set_item(Some(encode_event(&events[0]))).send().await.expect("put by hand, without a VERSION item");
    events[1].data = long_note(500_000);
    // Unlike the embedded one, a DynamoDB may see that a condition failed before it sees that an item is too large.
    let there = json!(Item::from(encode_event(&events[0])));
    let refused = json!([{ "Code": "None" }, { "Code": "ConditionalCheckFailed", "Item": there }, { "Code": "None" }]);
    let canceled = json!({ "__type": "TransactionCanceledException", "Message": "as planned", "CancellationReasons": refused }).to_string();
    let tapped = world.tapped(move |call| if call.number == 1 { Fault::Answer(400, canceled.clone()) } else { Fault::None });
    let came_of_it = tapped.worker.store().import(&[import_of(&events)]).await.expect("imported");
    assert!(matches!(came_of_it[0][..], [Imported::Known, Imported::Refused(_)]), "{came_of_it:?}");
    assert_eq!(version(&world, "alice").await, Version(1));
}

/// Appends each of these after the version before it.
async fn together(worker: &Worker, appends: &[&[RecordedEvent]]) -> Vec<Result<Version, AppendError>> {
    let append = |events: &&'_ [RecordedEvent]| (events[0].version.previous(), events.to_vec());
    let appends: Vec<_> = appends.iter().map(append).collect();
    let appends: Vec<_> =
        appends.iter().map(|(expected, events)| Append { expected: *expected, events: events.iter().collect() }).collect();
    worker.store().append_together(&appends).await
}

fn deposit(amount: u64) -> Value {
    Value::Map([("amount".to_owned(), amount.into())].into())
}

fn import_of(events: &[RecordedEvent]) -> Import {
    let aggregate = events[0].aggregate.clone();
    Import { aggregate, events: events.iter().map(|event| (event.version, encode_event(event))).collect() }
}

fn ids(events: &[RecordedEvent]) -> Vec<String> {
    events.iter().map(|event| event.event_id.to_string()).collect()
}

/// The ids of an aggregate's events.
async fn stored(world: &World, aggregate: &str) -> Vec<String> {
    let all = Version(1)..=Version(u64::MAX);
    let page = world.worker.store().load_page(&aggregate.into(), all, 1_000, Deadline::NONE).await.expect("loaded");
    page.iter().map(|stored| if let Stored::Event(event) = stored { event.event_id.to_string() } else { String::new() }).collect()
}

async fn version(world: &World, aggregate: &str) -> Version {
    world.worker.store().current_version(&aggregate.into()).await.expect("read")
}
