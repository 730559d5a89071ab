//! Waiting for a row to count what was written. The clock stands still but for waiting, so nothing here takes time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use projection_vocabulary::{Attributes, ConsistencyToken, RecordedEvent, Version, data};
use projection_worker::{Deadline, Queries, QueryError, Row};
use projections::{ALL, bank::account_summary::AccountSummary, forum::forum_counters::ForumCounters};
use tokio::time::Instant;

use crate::support::world::{Fault, Reader, World, account, recorded};

type Found = Result<Option<Row<Attributes>>, QueryError>;

const LONG: Duration = Duration::from_mins(1);

fn token(text: &str) -> ConsistencyToken {
    text.parse().expect("a token")
}

async fn account_after(queries: &Queries, text: &str, within: Duration) -> Found {
    let token = token(text);
    queries.rows(&AccountSummary).get::<()>(token.aggregate.as_str()).after(&token).within(within).untyped().await
}

fn version(found: &Found) -> Option<u64> {
    found.as_ref().expect("read").as_ref().and_then(|row| row.version).map(|version| version.0)
}

/// Queries during which a worker gets these events, just before the read with this number.
fn reader_with_worker(world: &Arc<World>, events: &[RecordedEvent], before_read: usize) -> Reader {
    let (reads, worker_of, events) = (AtomicUsize::new(0), world.clone(), events.to_vec());
    world.reader(ALL, move |call| {
        if call.operation == "GetItem" && reads.fetch_add(1, Relaxed) + 1 == before_read {
            let (world, events) = (worker_of.clone(), events.clone());
            return Fault::Meanwhile(Box::pin(async move { _ = world.process(&events).await }));
        }
        Fault::None
    })
}

#[tokio::test(start_paused = true)]
async fn a_row_that_counts_the_version_is_read_once() {
    let world = World::new().await;
    world.process(&account("alice", &["1", "2", "3"])).await;
    let reader = world.reader(ALL, |_| Fault::None);
    for asked in ["alice@1", "alice@3"] {
        assert_eq!(version(&account_after(&reader.queries, asked, LONG).await), Some(3));
        assert_eq!(reader.calls(), ["GetItem"]);
    }
    let at_least = reader.queries.rows(&AccountSummary).get::<()>("alice").at_least(Version(3)).untyped().await;
    assert_eq!((version(&at_least), reader.calls()), (Some(3), vec!["GetItem".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_reader_waits_until_the_worker_has_counted_the_version() {
    let world = Arc::new(World::new().await);
    let events = account("alice", &["1", "2", "3"]);
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let reader = reader_with_worker(&world, &events, 4);
    let begun = Instant::now();
    assert_eq!(version(&account_after(&reader.queries, "alice@3", LONG).await), Some(3));
    assert_eq!(reader.calls(), ["GetItem", "Query", "GetItem", "GetItem", "GetItem"]);
    let waited = begun.elapsed();
    assert!(waited > Duration::ZERO && waited < Duration::from_millis(200), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_comes_at_the_very_end_is_not_missed() {
    let world = Arc::new(World::new().await);
    let events = account("alice", &["1", "2"]);
    world.append_all(&events).await;
    let all = world.reader(ALL, |_| Fault::None);
    let within = Duration::from_millis(2_900);
    let begun = Instant::now();
    account_after(&all.queries, "alice@2", within).await.expect_err("nobody works");
    assert_eq!(begun.elapsed(), within, "neither longer nor shorter");
    // However the pauses fall: the worker is done shortly before the end.
    for _ in 0..20 {
        let world = Arc::new(World::new().await);
        world.append_all(&events).await;
        let worker = async {
            tokio::time::sleep(within.saturating_sub(Duration::from_millis(1))).await;
            world.process(&events).await;
        };
        let queries = world.queries(ALL);
        let (found, ()) = tokio::join!(account_after(&queries, "alice@2", within), worker);
        assert_eq!(version(&found), Some(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_stays_behind_is_an_error_that_says_how_far_it_is() {
    let world = World::new().await;
    let events = account("alice", &["1", "2", "3"]);
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let reader = world.reader(ALL, |_| Fault::None);
    let begun = Instant::now();
    let error = account_after(&reader.queries, "alice@3", Duration::ZERO).await.expect_err("it is behind");
    let said = "the row of alice in `account-summary` is at version 1 and did not reach 3 in time; ask again, or ask for a fresh row";
    assert_eq!((error.to_string().as_str(), error.is_transient()), (said, true));
    assert_eq!((reader.calls(), begun.elapsed()), (vec!["GetItem".to_owned(), "Query".to_owned()], Duration::ZERO), "it looks once");
    let error = account_after(&reader.queries, "alice@2", Duration::MAX / 2);
    let error = tokio::time::timeout(LONG, error).await;
    assert!(error.is_err(), "it waits as long as it may");
    // A deadline ends the wait, too.
    let begun = Instant::now();
    let deadline = Deadline::at((begun + Duration::from_secs(3)).into_std());
    let accounts = reader.queries.rows(&AccountSummary).until(deadline);
    let error = accounts.get::<()>("alice").at_least(Version(2)).within(LONG).untyped().await.expect_err("it is behind");
    assert!(matches!(error, QueryError::NotYet { .. }), "{error:?}");
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_events_that_the_projection_does_not_handle() {
    let world = World::new().await;
    let mut events = account("alice", &vec!["1"; 350]);
    for event in &mut events[1..] {
        event.event_type = "AddressChanged".into();
    }
    events[99].event_type = "MoneyDeposited".into();
    world.append_all(&events).await;
    world.process(&events[..100]).await;
    let reader = world.reader(ALL, |_| Fault::None);
    assert_eq!(version(&account_after(&reader.queries, "alice@101", LONG).await), Some(100));
    assert_eq!(reader.calls(), ["GetItem", "Query"]);
    assert_eq!(version(&account_after(&reader.queries, "alice@350", LONG).await), Some(100));
    assert_eq!(reader.calls(), ["GetItem", "Query", "Query", "Query"], "a hundred at once, back to the row");
    // None that concerns the projection at all: there is no row, and none will come.
    let mut others = account("bob", &["1", "1"]);
    for event in &mut others {
        event.event_type = "AddressChanged".into();
    }
    world.append_all(&others).await;
    assert_eq!(account_after(&reader.queries, "bob@2", LONG).await, Ok(None));
    // One that does, among others that do not.
    let world = World::new().await;
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let error = account_after(&world.queries(ALL), "alice@350", Duration::ZERO).await.expect_err("it is behind");
    assert!(matches!(error, QueryError::NotYet { wanted: Version(100), found: Version(1), .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_nobody_has_written_is_an_error_at_once() {
    let world = World::new().await;
    let events = account("alice", &["1", "2"]);
    world.append_all(&events).await;
    world.process(&events).await;
    let (queries, begun) = (world.queries(ALL), Instant::now());
    for (asked, wanted) in [("alice@3", 3), ("alice@200", 200), ("alice@18446744073709551615", u64::MAX), ("nobody@1", 1)] {
        let error = account_after(&queries, asked, LONG).await.expect_err("it was never written");
        assert!(matches!(&error, QueryError::NoSuchVersion { version, .. } if version.0 == wanted), "{asked}: {error:?}");
        let said = error.to_string();
        assert!(said.ends_with("is the token of another event store, or was this one restored?"), "{said}");
    }
    for aggregate in [String::new(), "x".repeat(2_039), "x".repeat(2_048)] {
        let token = ConsistencyToken { aggregate: (&*aggregate).into(), version: Version(1) };
        let error = queries.rows(&AccountSummary).get::<()>("alice").after(&token).within(LONG).untyped().await.expect_err("no aggregate");
        assert!(matches!(error, QueryError::NoSuchVersion { .. }), "{error:?}");
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_parked_aggregate() {
    let world = Arc::new(World::new().await);
    let mut events = account("alice", &["1", "1", "1"]);
    events[1].data = data! { amount: "1" };
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let beside: Vec<_> = (0..20).flat_map(|at| account(&format!("a{at}"), &["1"])).collect();
    let all = [&events[1..], &beside].concat();
    // Parked while somebody waits for it, and before.
    for before_read in [3, 1] {
        let begun = Instant::now();
        let reader = reader_with_worker(&world, &all, before_read);
        let error = account_after(&reader.queries, "alice@3", LONG).await.expect_err("it is parked");
        let said = "alice is parked in `account-summary` at version 1, so its row does not advance; fix the cause, then run `projector parked \
                    redrive`";
        assert_eq!((error.to_string().as_str(), error.is_transient()), (said, false));
        assert!(begun.elapsed() < Duration::from_secs(1), "at once");
    }
    assert_eq!(version(&account_after(&world.queries(ALL), "alice@1", LONG).await), Some(1), "what it counts, it counts");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_others_share_is_read_once_it_counts_their_event() {
    let world = Arc::new(World::new().await);
    let events = recorded([
        ("news", "CategoryCreated", data! { name: "News" }),
        ("t1", "TopicCreated", data! { categoryId: "news", title: "Hello", authorId: "ann" }),
        ("t1", "PostAdded", data! { postId: "p1", authorId: "ann", categoryId: "news" }),
    ]);
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let reader = reader_with_worker(&world, &events[1..], 3);
    let categories = reader.queries.rows(&ForumCounters);
    let news = async |fresh: bool| {
        let get = categories.get::<()>("news").after(&token("t1@2")).within(LONG);
        let get = if fresh { get.fresh() } else { get };
        get.untyped().await.expect("read").expect("a row")
    };
    for fresh in [false, true] {
        let row = news(fresh).await;
        assert_eq!((row.version, &row.data["postCount"]), (Some(Version(1)), &1.into()), "of the topic, not of the category");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_dynamodb_ends_the_wait() {
    let world = World::new().await;
    let events = account("alice", &["1", "2"]);
    world.append_all(&events).await;
    let reads = AtomicUsize::new(0);
    let reader = world.reader(ALL, move |call| match (call.operation, reads.fetch_add(1, Relaxed)) {
        ("GetItem", 3) => Fault::error(400, "AccessDeniedException"),
        _ => Fault::None,
    });
    let error = account_after(&reader.queries, "alice@2", LONG).await.expect_err("refused");
    assert!(matches!(error, QueryError::Store(_)), "{error:?}");
}
