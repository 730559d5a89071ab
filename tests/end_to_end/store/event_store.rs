//! The event store: appending, loading, importing.

use std::collections::BTreeSet;

use futures::future::join_all;
use projection_vocabulary::{RecordedEvent, Version, data};
use projection_worker::internals::{
    retry::Deadline,
    store::{
        append::{AppendError, Imported},
        events::Stored,
        item::encode_event,
    },
};

use crate::support::world::{Fault, World, account, answers_though_applied, impostor, recorded};

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
async fn an_import_may_be_repeated_in_any_order_and_appends_continue_after_it() {
    let world = World::new().await;
    let events = deposits(6);
    let store = world.worker.store();
    let mut came_of_it = Vec::new();
    for at in [2, 0, 4, 1, 3, 2, 0] {
        let event = &events[at];
        came_of_it.push(store.import(&event.aggregate, event.version, encode_event(event)).await.expect("imported"));
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
        tapped.worker.store().import(&event.aggregate, event.version, encode_event(event)).await.expect("imported");
    }
    assert_eq!(versions(&world.load(1, 9, 9).await), [1, 2]);
}
