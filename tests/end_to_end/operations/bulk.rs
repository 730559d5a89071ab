//! Many events appended and imported: in few requests, in order, and each once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use projection_vocabulary::{AggregateId, RecordedEvent, Version};
use projection_worker::{
    Store,
    internals::{
        operations::{
            append::{Appended, Line, Run, append},
            import::BulkImport,
        },
        retry::Deadline,
        store::{append::AppendError, events::Stored, import::Imported},
    },
};
use tokio::sync::Barrier;

use crate::support::world::{Call, Fault, Tapped, World, account, captured, impostor, long_note, recorded};

/// The most bytes that DynamoDB takes in a transaction.
const FOUR_MB: usize = 4 << 20;

fn account_id(number: usize) -> String {
    format!("account-{number:03}")
}

/// The events of some accounts, one account after the other.
fn histories(accounts: usize, events: usize) -> Vec<RecordedEvent> {
    (0..accounts).flat_map(|number| account(&account_id(number), &vec!["1"; events])).collect()
}

/// The same events in the order of their versions, as they come in a stream.
fn interleaved(mut events: Vec<RecordedEvent>) -> Vec<RecordedEvent> {
    events.sort_by_key(|event| event.version);
    events
}

/// Imports events, and returns what came of each, by aggregate and version; or the error of the store after it has seen to the others.
async fn import(store: &Store, events: &[RecordedEvent]) -> (BTreeMap<(AggregateId, Version), Imported>, bool) {
    let (mut bulk, mut came_of_it, mut failed) = (BulkImport::new(store), BTreeMap::new(), false);
    let mut see_to = |outcomes: Result<Vec<_>, _>| {
        failed |= outcomes.is_err();
        for outcome in outcomes.into_iter().flatten() {
            let projection_worker::internals::operations::import::Outcome { aggregate, version, origin, imported } = outcome;
            assert_eq!(origin, (aggregate.clone(), version), "an outcome belongs to its item");
            came_of_it.insert(origin, imported);
        }
        !failed
    };
    for event in events {
        if !see_to(bulk.add(captured(event, (event.aggregate.clone(), event.version))).await) {
            break;
        }
    }
    while let Some(outcomes) = bulk.next().await {
        see_to(outcomes);
    }
    (came_of_it, failed)
}

/// Runs as `projector events append` makes them of lines in which `expected` states the versions that some of them expect.
fn runs(events: &[RecordedEvent], expected: impl Fn(usize) -> Option<u64>) -> Vec<Run> {
    let mut runs = Vec::<Run>::new();
    for (at, event) in events.iter().enumerate() {
        let expected = expected(at).map(Version);
        let line = Line { number: at as u64 + 1, event: RecordedEvent { version: Version::NONE, ..event.clone() } };
        match runs.last_mut() {
            Some(run) if expected.is_none() && run.lines[0].event.aggregate == event.aggregate => run.lines.push(line),
            _ => runs.push(Run { expected, lines: vec![line] }),
        }
    }
    runs
}

fn counts(appended: &Appended) -> (usize, usize, usize) {
    (appended.new, appended.known, appended.left)
}

/// The ids of an aggregate's events, in the order of versions 1, 2, 3, ...
async fn stored(world: &World, aggregate: &str) -> Vec<String> {
    let all = Version(1)..=Version(u64::MAX);
    let page = world.worker.store().load_page(&aggregate.into(), all, 100_000, Deadline::NONE).await.expect("loaded");
    let id = |(stored, version): (&Stored, u64)| match stored {
        Stored::Event(event) if event.version == Version(version) => event.event_id.to_string(),
        _ => format!("no event {version}"),
    };
    page.iter().zip(1..).map(id).collect()
}

/// Whether the event store has exactly these events, and the VERSION items say so.
async fn assert_stored(world: &World, events: &[RecordedEvent]) {
    let mut by_aggregate = BTreeMap::<_, Vec<_>>::new();
    for event in events {
        by_aggregate.entry(event.aggregate.clone()).or_default().push(event);
    }
    for (aggregate, mut events) in by_aggregate {
        events.sort_by_key(|event| event.version);
        let expected: Vec<_> = events.iter().map(|event| event.event_id.to_string()).collect();
        assert_eq!(stored(world, aggregate.as_str()).await, expected, "{aggregate}");
        let version = world.worker.store().current_version(&aggregate).await.expect("read");
        assert_eq!(version, events[events.len() - 1].version, "{aggregate}");
    }
}

fn how_many(calls: &[String], operation: &str) -> usize {
    calls.iter().filter(|call| *call == operation).count()
}

#[tokio::test]
async fn a_thousand_events_of_ten_aggregates_are_imported_by_eleven_requests() {
    // 99 events and the VERSION item of one aggregate fill a transaction; what is left of all ten goes into one more.
    for events in [histories(10, 100), interleaved(histories(10, 100))] {
        let world = World::new().await;
        let tapped = world.tapped(|_| Fault::None);
        let (came_of_it, failed) = import(tapped.worker.store(), &events).await;
        assert!(!failed && came_of_it.len() == 1_000 && came_of_it.values().all(|imported| *imported == Imported::New));
        assert_eq!(tapped.calls(), ["TransactWriteItems"; 11]);
        assert_stored(&world, &events).await;
        // Once more: each request says of all its events that they are there.
        let (came_of_it, failed) = import(tapped.worker.store(), &events).await;
        assert!(!failed && came_of_it.len() == 1_000 && came_of_it.values().all(|imported| *imported == Imported::Known));
        assert_eq!(tapped.calls(), ["TransactWriteItems"; 22]);
    }
}

#[tokio::test]
async fn a_thousand_events_of_ten_aggregates_are_appended_by_eleven_requests_and_one_for_each_history() {
    for events in [histories(10, 100), interleaved(histories(10, 100))] {
        let world = World::new().await;
        let tapped = world.tapped(|_| Fault::None);
        assert_eq!(counts(&append(tapped.worker.store(), runs(&events, |_| None)).await), (1_000, 0, 0));
        let calls = tapped.calls();
        assert_eq!((how_many(&calls, "Query"), how_many(&calls, "TransactWriteItems"), calls.len()), (10, 11, 21));
        assert_stored(&world, &events).await;
        assert_eq!(counts(&append(tapped.worker.store(), runs(&events, |_| None)).await), (0, 1_000, 0));
        assert_eq!(tapped.calls()[21..], ["Query"; 10]);
    }
}

#[tokio::test]
async fn fifty_aggregates_of_one_event_share_a_transaction() {
    let world = World::new().await;
    let events = histories(120, 1);
    let tapped = world.tapped(|_| Fault::None);
    import(tapped.worker.store(), &events).await;
    assert_eq!(tapped.calls(), ["TransactWriteItems"; 3]);
    assert_stored(&world, &events).await;
    let more: Vec<_> = (0..120).map(|number| account(&account_id(number), &["1"; 2]).remove(1)).collect();
    assert_eq!(counts(&append(tapped.worker.store(), runs(&more, |_| None)).await), (120, 0, 0));
    assert_eq!(how_many(&tapped.calls(), "TransactWriteItems"), 6);
    assert_stored(&world, &[events, more].concat()).await;
}

#[tokio::test]
async fn events_of_one_aggregate_go_one_transaction_after_the_other() {
    let events = histories(1, 250);
    for at_fault in 1..=3 {
        // The store fails for good at one of the three requests: only what came before it is there.
        let world = World::new().await;
        let tapped = world.tapped(move |call| {
            let writes = call.operation == "TransactWriteItems"
                && call.body.contains(["1", "100", "199"].map(|n| format!("EVENT#{n:0>10}"))[at_fault - 1].as_str());
            if writes { Fault::error(400, "AccessDeniedException") } else { Fault::None }
        });
        let before = 99 * (at_fault - 1);
        let (came_of_it, failed) = import(tapped.worker.store(), &events).await;
        assert!(failed && came_of_it.len() == before);
        assert_eq!(stored(&world, "account-000").await.len(), before);
        let appended = append(tapped.worker.store(), runs(&events[before..], |_| None)).await;
        assert_eq!(counts(&appended), (0, 0, 250 - before));
        assert!(matches!(appended.failures[..], [(1, AppendError::Store(_))]), "{appended:?}");
        // Then it works again.
        let appended = append(world.worker.store(), runs(&events, |_| None)).await;
        assert_eq!(counts(&appended), (250 - before, before, 0));
        assert_stored(&world, &events).await;
    }
}

/// A mebibyte is more than two of these.
fn large(aggregate: &'static str, count: usize) -> Vec<RecordedEvent> {
    recorded((0..count).map(|_| (aggregate, "MoneyDeposited", long_note(395_000))))
}

#[tokio::test]
async fn transactions_of_large_events_are_cut_by_their_bytes() {
    for events in [large("a", 20), [large("a", 7), large("b", 7), large("c", 6)].concat()] {
        for appends in [false, true] {
            let world = World::new().await;
            let largest = Arc::<Mutex<usize>>::default();
            let seen = largest.clone();
            let tapped = world.tapped(move |call| {
                let mut seen = seen.lock().expect("no test panics while it holds this");
                *seen = call.body.len().max(*seen);
                Fault::None
            });
            if appends {
                assert_eq!(counts(&append(tapped.worker.store(), runs(&events, |_| None)).await), (20, 0, 0));
            } else {
                assert!(import(tapped.worker.store(), &events).await.0.values().all(|imported| *imported == Imported::New));
            }
            assert_eq!(how_many(&tapped.calls(), "TransactWriteItems"), 3);
            let largest = *largest.lock().expect("no test panics while it holds this");
            assert!((FOUR_MB / 2..FOUR_MB).contains(&largest), "{largest}");
            assert_stored(&world, &events).await;
        }
    }
}

/// The first 32 transactions wait until all of them are there.
fn first_thirty_two_wait(world: &World) -> Tapped {
    let (barrier, transactions) = (Arc::new(Barrier::new(32)), AtomicUsize::new(0));
    world.tapped(move |call| {
        if call.operation != "TransactWriteItems" || transactions.fetch_add(1, Relaxed) >= 32 {
            return Fault::None;
        }
        let barrier = barrier.clone();
        Fault::Meanwhile(Box::pin(async move {
            barrier.wait().await;
        }))
    })
}

#[tokio::test]
async fn thirty_two_transactions_are_under_way_at_once() {
    let (world, events) = (World::new().await, histories(64, 99));
    let tapped = first_thirty_two_wait(&world);
    let imported = tokio::time::timeout(Duration::from_mins(1), import(tapped.worker.store(), &events)).await;
    assert_eq!(imported.expect("they do not wait for each other").0.len(), 64 * 99);
    assert_eq!(tapped.calls().len(), 64);
    let more: Vec<_> = (0..64).flat_map(|number| account(&account_id(number), &["1"; 198]).split_off(99)).collect();
    let tapped = first_thirty_two_wait(&world);
    let appended = tokio::time::timeout(Duration::from_mins(1), append(tapped.worker.store(), runs(&more, |_| None))).await;
    assert_eq!(counts(&appended.expect("they do not wait for each other")), (64 * 99, 0, 0));
    assert_stored(&world, &[events, more].concat()).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_slowly_gets_less_at_once() {
    let (world, events) = (World::new().await, histories(200, 99));
    let under_way = Arc::new(Mutex::new((0_usize, Vec::new())));
    let counted = under_way.clone();
    let tapped = world.tapped(move |_| {
        let under_way = counted.clone();
        let (now, seen) = &mut *counted.lock().expect("no test panics while it holds this");
        *now += 1;
        seen.push(*now);
        Fault::Meanwhile(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            under_way.lock().expect("no test panics while it holds this").0 -= 1;
        }))
    });
    let (came_of_it, failed) = import(tapped.worker.store(), &events).await;
    assert!(!failed && came_of_it.len() == 200 * 99);
    let seen = &under_way.lock().expect("no test panics while it holds this").1;
    assert_eq!((seen.len(), seen.iter().max()), (200, Some(&32)));
    let last = &seen[100..];
    assert!(last.iter().all(|under_way| *under_way <= 2), "{seen:?}");
}

/// Loses the answer to each third transaction.
fn losing(call: &Call<'_>) -> Fault {
    if call.operation == "TransactWriteItems" && call.number.is_multiple_of(3) { Fault::Lost } else { Fault::None }
}

#[tokio::test(start_paused = true)]
async fn lost_answers_make_nothing_appended_or_imported_twice() {
    let events = interleaved(histories(30, 40));
    let world = World::new().await;
    let tapped = world.tapped(losing);
    let (came_of_it, failed) = import(tapped.worker.store(), &events).await;
    assert!(!failed && came_of_it.len() == 1_200 && !came_of_it.values().any(|imported| matches!(imported, Imported::Conflict)));
    assert_stored(&world, &events).await;
    let more: Vec<_> = (0..30).flat_map(|number| account(&account_id(number), &["1"; 60]).split_off(40)).collect();
    assert_eq!(counts(&append(tapped.worker.store(), runs(&interleaved(more.clone()), |_| None)).await), (600, 0, 0));
    assert_stored(&world, &[events, more].concat()).await;
}

#[tokio::test]
async fn a_conflict_ends_the_appends_to_its_aggregate_only() {
    let world = World::new().await;
    let events = interleaved(histories(4, 30));
    let taken = impostor(&account("account-001", &["1"]).remove(0));
    world.worker.store().append(Version::NONE, std::slice::from_ref(&taken)).await.expect("another writer");
    // The second account's second event expects a version; its first one goes anywhere.
    let expected = |at: usize| (events[at].aggregate == "account-001".into() && events[at].version == Version(2)).then_some(1);
    let appended = append(world.worker.store(), runs(&events, expected)).await;
    let conflict = AppendError::Conflict { aggregate: "account-001".into(), expected: Version(1), actual: Version(2) };
    let line = 1 + (0..events.len()).find(|at| expected(*at).is_some()).expect("one line expects a version") as u64;
    assert_eq!((counts(&appended), &appended.failures), ((91, 0, 29), &vec![(line, conflict)]));
    assert_eq!(stored(&world, "account-001").await, [taken.event_id.to_string(), events[1].event_id.to_string()]);
    let others: Vec<_> = events.into_iter().filter(|event| event.aggregate != "account-001".into()).collect();
    assert_stored(&world, &others).await;
}

#[tokio::test]
async fn events_that_expect_no_version_follow_those_of_another_writer() {
    let world = World::new().await;
    let events = histories(3, 120);
    let client = world.worker_of(crate::support::world::ONE_EACH);
    let client = Arc::new(client);
    // After the histories were read, and again after the first of the account's transactions.
    let tapped = world.tapped(move |call| {
        let append = |expected: u64| {
            let (client, event) =
                (client.clone(), impostor(&account("account-001", &vec!["1"; 200])[usize::try_from(expected).expect("small")]));
            Fault::Meanwhile(Box::pin(async move {
                client.store().append(Version(expected), &[event]).await.expect("the other writer is first");
            }))
        };
        let of_account = call.operation == "TransactWriteItems" && call.body.contains("AGGREGATE#account-001");
        match () {
            () if of_account && call.body.contains("EVENT#0000000001\"") => append(0),
            () if of_account && call.body.contains("EVENT#0000000101\"") && !call.body.contains("EVENT#0000000100\"") => append(100),
            () => Fault::None,
        }
    });
    let appended = append(tapped.worker.store(), runs(&events, |_| None)).await;
    assert_eq!((counts(&appended), appended.failures.len()), ((360, 0, 0), 0), "{appended:?}");
    let there = stored(&world, "account-001").await;
    let ours: Vec<_> = there.iter().filter(|id| !id.ends_with("-other")).collect();
    let expected: Vec<_> = account("account-001", &vec!["1"; 120]).iter().map(|event| event.event_id.to_string()).collect();
    assert_eq!((there.len(), ours), (122, expected.iter().collect()), "in order, and each once");
    assert!(there[0].ends_with("-other") && there[100].ends_with("-other"), "{there:?}");
}

#[tokio::test]
async fn an_event_that_dynamodb_refuses_ends_the_appends_to_its_aggregate_only() {
    let world = World::new().await;
    let mut events = interleaved(histories(3, 10));
    events[13].data = long_note(500_000);
    let (refused, version) = (events[13].aggregate.clone(), events[13].version.0);
    let appended = append(world.worker.store(), runs(&events, |_| None)).await;
    let reason = "the item would exceed DynamoDB's limit of 400 KB";
    assert_eq!(appended.failures, [(14, AppendError::Invalid { aggregate: refused.clone(), reason })]);
    let left = usize::try_from(11 - version).expect("small");
    assert_eq!(counts(&appended), (30 - left, 0, left));
    let there: Vec<_> = events.into_iter().filter(|event| event.aggregate != refused || event.version.0 < version).collect();
    assert_stored(&world, &there).await;
}

#[tokio::test]
async fn an_import_keeps_an_order_for_events_that_come_twice_and_says_which_differ() {
    let world = World::new().await;
    let events = histories(3, 20);
    // Twice the same, in one file; and one of them a third time, as another event.
    let all = [&events[..], &events[10..], &[impostor(&events[15])]].concat();
    let tapped = world.tapped(|_| Fault::None);
    let mut bulk = BulkImport::new(tapped.worker.store());
    let mut came_of_it = Vec::new();
    for (at, event) in all.iter().enumerate() {
        came_of_it.extend(bulk.add(captured(event, at)).await.expect("imported"));
    }
    while let Some(outcomes) = bulk.next().await {
        came_of_it.extend(outcomes.expect("imported"));
    }
    came_of_it.sort_by_key(|outcome| outcome.origin);
    let imported: Vec<_> = came_of_it.iter().map(|outcome| outcome.imported).collect();
    assert_eq!(imported, [vec![Imported::New; 60], vec![Imported::Known; 50], vec![Imported::Conflict]].concat());
    // No transaction has an item twice: the third has what comes a third time. The query is for corrections of what differs.
    assert_eq!(tapped.calls(), ["TransactWriteItems", "TransactWriteItems", "TransactWriteItems", "Query"]);
    assert_eq!((came_of_it[110].aggregate.as_str(), came_of_it[110].version), ("account-000", Version(16)));
    assert_stored(&world, &events).await;
}
