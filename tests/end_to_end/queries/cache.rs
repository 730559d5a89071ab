//! The cache: it saves reads and breaks no promise. The clock stands still but for waiting.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use projection_vocabulary::{Version, data};
use projection_worker::{CacheKey, CachedRow, LocalCache, Queries, QueryError, Read, RowCache};
use projections::{ALL, bank::account_summary::AccountSummary, forum::forum_counters::ForumCounters};
use tokio::{sync::OnceCell, time::advance};

use crate::support::world::{Fault, World, account, recorded};

const TTL: Duration = Duration::from_secs(5);

async fn version(queries: &Queries, key: &str, at_least: u64) -> Result<Option<u64>, QueryError> {
    let get = queries.rows(&AccountSummary).get::<()>(key);
    let get = if at_least > 0 { get.at_least(Version(at_least)) } else { get };
    Ok(get.untyped().await?.and_then(|row| row.version).map(|version| version.0))
}

#[tokio::test(start_paused = true)]
async fn a_row_is_read_once_until_its_time_is_over() {
    let world = World::new().await;
    let events = account("alice", &["1", "2", "3"]);
    world.process(&events[..1]).await;
    let reader = world.reader(ALL, |_| Fault::None);
    let queries = reader.queries.clone().with_cache(LocalCache::new(100, TTL));
    for _ in 0..3 {
        assert_eq!(version(&queries, "alice", 0).await, Ok(Some(1)));
        assert_eq!(version(&queries, "alice", 1).await, Ok(Some(1)), "it is as new as asked for");
        assert_eq!(version(&queries, "nobody", 0).await, Ok(None), "that there is no row is kept, too");
    }
    assert_eq!(reader.calls(), ["GetItem", "GetItem"]);
    world.process(&events[1..]).await;
    advance(TTL.saturating_sub(Duration::from_millis(1))).await;
    assert_eq!((version(&queries, "alice", 0).await, reader.calls()), (Ok(Some(1)), vec![]));
    advance(Duration::from_millis(1)).await;
    assert_eq!((version(&queries, "alice", 0).await, reader.calls()), (Ok(Some(3)), vec!["GetItem".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_kept_row_serves_only_who_asks_for_nothing_newer() {
    let world = World::new().await;
    let events = account("alice", &["1", "2", "3"]);
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let reader = world.reader(ALL, |_| Fault::None);
    let queries = reader.queries.clone().with_cache(LocalCache::new(100, TTL));
    assert_eq!(version(&queries, "alice", 0).await, Ok(Some(1)));
    world.process(&events).await;
    reader.calls();
    assert_eq!((version(&queries, "alice", 3).await, reader.calls()), (Ok(Some(3)), vec!["GetItem".to_owned()]));
    assert_eq!((version(&queries, "alice", 0).await, reader.calls()), (Ok(Some(3)), vec![]), "the newer row is kept");
    // Absent when it was read, and there now.
    assert_eq!(version(&queries, "bob", 0).await, Ok(None));
    world.process(&account("bob", &["1"])).await;
    assert_eq!(version(&queries, "bob", 1).await, Ok(Some(1)));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_for_the_cache_goes_past_it() {
    let world = World::new().await;
    let events = account("alice", &["1", "2"]);
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let queries = world.queries(ALL).with_cache(LocalCache::new(100, TTL));
    assert_eq!(version(&queries, "alice", 0).await, Ok(Some(1)));
    let fresh = queries.rows(&AccountSummary).get::<()>("alice").fresh().untyped().await.expect("read").expect("a row");
    assert_eq!(fresh.version, Some(Version(2)));
    let many = queries.rows(&AccountSummary).many::<serde::de::IgnoredAny>(["alice"]).await.expect("read");
    assert_eq!(many[0].1.as_ref().and_then(|row| row.version), Some(Version(1)));
    // The version of a category says nothing about what its topics add to it.
    let category = queries.rows(&ForumCounters);
    assert_eq!(category.get::<()>("news").untyped().await, Ok(None));
    world.process(&recorded([("t1", "TopicCreated", data! { categoryId: "news", title: "Hello", authorId: "ann" })])).await;
    assert_eq!(category.get::<()>("news").untyped().await, Ok(None), "it is kept");
    let row = category.get::<()>("news").after(&"t1@1".parse().expect("a token")).untyped().await.expect("read").expect("a row");
    assert_eq!(row.data["topicCount"], 1.into());
}

#[tokio::test(start_paused = true)]
async fn many_that_miss_at_the_same_time_read_once() {
    let world = World::new().await;
    let events = account("alice", &["1", "2"]);
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let reader = world.reader(ALL, |_| Fault::None);
    let queries = reader.queries.clone().with_cache(LocalCache::new(100, TTL));
    let all = join_all((0..50).map(|_| version(&queries, "alice", 0))).await;
    assert_eq!((all, reader.calls()), (vec![Ok(Some(1)); 50], vec!["GetItem".to_owned()]));
    world.process(&events).await;
    let all = join_all((0..50).map(|_| version(&queries, "alice", 2))).await;
    assert_eq!((all, reader.calls()), (vec![Ok(Some(2)); 50], vec!["GetItem".to_owned()]), "one replaces what is too old for all");
    advance(TTL).await;
    let all = join_all((0..50).map(|_| version(&queries, "alice", 0))).await;
    assert_eq!((all, reader.calls()), (vec![Ok(Some(2)); 50], vec!["GetItem".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn an_error_is_not_kept_and_neither_is_a_read_that_was_given_up() {
    let world = World::new().await;
    world.process(&account("alice", &["1"])).await;
    let reads = AtomicUsize::new(0);
    let reader = world.reader(ALL, move |_| match reads.fetch_add(1, Relaxed) {
        0 => Fault::error(400, "AccessDeniedException"),
        1 => Fault::HungBefore,
        _ => Fault::None,
    });
    let queries = reader.queries.clone().with_cache(LocalCache::new(100, TTL));
    version(&queries, "alice", 0).await.expect_err("refused");
    tokio::time::timeout(Duration::from_secs(1), version(&queries, "alice", 0)).await.expect_err("it hangs");
    assert_eq!(version(&queries, "alice", 0).await, Ok(Some(1)));
    assert_eq!(reader.calls().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_makes_room() {
    let world = World::new().await;
    let cache = Arc::new(LocalCache::new(10, TTL));
    let queries = world.queries(ALL).with_cache(Shared(cache.clone()));
    assert!(cache.is_empty());
    for at in 0..200 {
        assert_eq!(version(&queries, &format!("nobody-{at}"), 0).await, Ok(None));
    }
    assert!((1..=10).contains(&cache.len()), "{}", cache.len());
    // One that has no room is none.
    let queries = world.queries(ALL).with_cache(LocalCache::new(0, TTL));
    world.process(&account("alice", &["1"])).await;
    for at_least in [0, 1] {
        assert_eq!(version(&queries, "alice", at_least).await, Ok(Some(1)));
    }
}

/// A cache of which the test keeps a handle.
struct Shared(Arc<LocalCache>);

impl RowCache for Shared {
    fn get<'a>(&'a self, key: &'a CacheKey, at_least: Version, read: Read<'a>) -> BoxFuture<'a, Result<CachedRow, QueryError>> {
        self.0.get(key, at_least, read)
    }
}

/// A faulty cache, or a distributed one that lags: it always answers with what it first read, whatever is asked for. It reads the table
/// with a client of its own, as a client of DAX would.
struct Outdated {
    client: aws_sdk_dynamodb::Client,
    row: OnceCell<CachedRow>,
}

impl RowCache for Outdated {
    fn get<'a>(&'a self, key: &'a CacheKey, _: Version, _: Read<'a>) -> BoxFuture<'a, Result<CachedRow, QueryError>> {
        Box::pin(async move {
            let read = async || {
                let answer = self.client.get_item().table_name(key.table()).set_key(Some(key.item())).send().await.expect("an answer");
                key.read(answer.item)
            };
            self.row.get_or_try_init(read).await.cloned()
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_is_too_old_costs_reads_and_breaks_no_promise() {
    let world = World::new().await;
    let events = account("alice", &["1", "2"]);
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let queries = world.queries(ALL).with_cache(Outdated { client: world.embedded.client(), row: OnceCell::new() });
    assert_eq!(version(&queries, "alice", 0).await, Ok(Some(1)));
    world.process(&events).await;
    assert_eq!(version(&queries, "alice", 0).await, Ok(Some(1)));
    assert_eq!(version(&queries, "alice", 2).await, Ok(Some(2)));
}
