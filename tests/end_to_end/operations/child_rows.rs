//! Lists of child rows: long ones under a rule that changes, rows that something else has changed, and what they cost.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{
    Change, DynProjection, HOME_SORT, Projection, Recorded, RecordedEvent, Refusal, Registry, Value, child, data, nothing, own,
    sample::Fact, sample::record,
};
use projection_worker::{
    Worker,
    internals::{
        operations::{
            rebuild::Task,
            verify::{ChildFinding, Options, Repair, RowFinding, Verified, verify, verify_chosen},
        },
        retry::Deadline,
        store::children::{ChildQuery, Order},
    },
};
use serde::Deserialize;

use super::rebuild::rebuild;
use crate::{
    size,
    support::{
        projector::projector,
        world::{Fault, LISTS, World, account, fold, included, recorded, records},
    },
};

/// The posts of a topic. The second revision lacks every third post, moves every fifth and gives all of them another attribute.
struct Posts<const REVISION: u32>;

const POSTS_1: &[&dyn DynProjection] = &[&Posts::<1>];
const POSTS_2: &[&dyn DynProjection] = &[&Posts::<2>];

#[derive(Deserialize)]
enum Event {
    Posted {
        post: u64,
    },
    /// This many posts at once.
    Imported {
        posts: u64,
    },
    Removed {
        post: u64,
    },
}

impl<const REVISION: u32> Projection for Posts<REVISION> {
    type Event = Event;
    const NAME: &str = "posts";
    const KEY: &str = "topic";
    const CHILDREN: Option<&str> = Some("post");
    const REVISION: u32 = REVISION;

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        let sort = |post: u64| format!("{}{post:08}", if REVISION == 2 && post.is_multiple_of(5) { "moved-" } else { "" });
        let posted = |post: u64| match REVISION {
            2 if post.is_multiple_of(3) => nothing(),
            2 => child(sort(post)).set("at", event.timestamp).into(),
            _ => child(sort(post)).set("postedAt", event.timestamp).into(),
        };
        Ok(match &event.event {
            Event::Posted { post } => own().add("posts", 1).and(posted(*post)),
            Event::Imported { posts } => (0..*posts).fold(own().add("posts", *posts).into(), |all: Change, post| all.and(posted(post))),
            Event::Removed { post } => own().add("posts", -1).and(child(sort(*post)).remove()),
        })
    }
}

fn posted(topic: &str, posts: impl Iterator<Item = u64>) -> Vec<RecordedEvent> {
    let fact =
        |post: u64| Fact { aggregate: topic.into(), event_type: "Posted", data: Value::Map([("post".to_owned(), post.into())].into()) };
    record(posts.map(fact)).collect()
}

/// Whoever re-projects it is killed again and again: the operator's rebuild, and the worker that a new event of the topic reaches. Each goes
/// on from what the others have written.
#[tokio::test]
async fn a_topic_of_ten_thousand_posts_is_exact_after_its_rule_changed_however_often_its_rebuild_is_killed() {
    let kills = size(4, 50);
    let world = World::with(Registry::new(POSTS_1)).await;
    let mut events = posted("long", 0..10_000);
    let later = events.split_off(10_000 - kills - 1);
    let short = posted("short", 0..3);
    world.append_all(&[&events[..], &short].concat()).await;
    world.process(&[&events[..], &short].concat()).await;
    assert_eq!(world.rows().await, fold(Registry::new(POSTS_1), &[&events[..], &short].concat()));

    let transactions = Arc::new(AtomicUsize::new(0));
    for (kill, event) in later[..kills].iter().enumerate() {
        world.append_all(std::slice::from_ref(event)).await;
        events.push(event.clone());
        let (begun, all, hang_at) = (AtomicUsize::new(0), transactions.clone(), 1 + kill % 4);
        let tapped = world.tapped_of(POSTS_2, move |call| {
            if call.operation != "TransactWriteItems" {
                return Fault::None;
            }
            all.fetch_add(1, Relaxed);
            match begun.fetch_add(1, Relaxed) + 1 {
                now if now < hang_at => Fault::None,
                _ if kill % 2 == 1 => Fault::HungBefore,
                _ => Fault::HungAfter,
            }
        });
        let batch = records(std::slice::from_ref(event));
        tokio::select! {
            biased;
            () = tapped.hung.notified() => {}
            _ = rebuild(&tapped.worker, Task::Rebuild, 1), if kill % 3 == 0 => panic!("it takes more steps"),
            _ = tapped.worker.process(&batch, Deadline::NONE), if kill % 3 != 0 => panic!("it takes more steps"),
        }
        // The deployment before does not touch what the new one has begun.
        let old = world.worker_of(POSTS_1).process(&batch, Deadline::NONE).await;
        assert_eq!((old.total.applied, old.total.parked, old.total.failed), (0, 0, 1), "{:?}", old.reasons);
    }
    let last = later.last().expect("one more").clone();
    world.append_all(std::slice::from_ref(&last)).await;
    events.push(last.clone());
    let all = transactions.clone();
    let tapped = world.tapped_of(POSTS_2, move |call| {
        all.fetch_add(usize::from(call.operation == "TransactWriteItems"), Relaxed);
        Fault::None
    });
    let report = tapped.worker.process(&records(&[last]), Deadline::NONE).await;
    assert_eq!((report.total.applied, report.total.failed), (1, 0), "{:?}", report.reasons);
    rebuild(&tapped.worker, Task::Rebuild, 2).await;
    let expected = fold(Registry::new(POSTS_2), &[&events[..], &short].concat());
    let rows = tapped.worker.store().visible_rows(POSTS_2[0]).await.expect("rows");
    assert!(rows == expected["posts"], "{} rows, and {} are expected", rows.len(), expected["posts"].len());
    let found = verify(&tapped.worker, POSTS_2[0], CHECK, Deadline::NONE).await.expect("verified");
    assert!(found.is_clean() && found.found() == 0, "{found:?}");
    // Each post is written once, or its old row is removed: 10,000 and the 1,334 that moved and are not dropped.
    let steps = 11_334_usize.div_ceil(99);
    let sent = transactions.load(Relaxed);
    assert!(sent <= steps + 2 * kills + 5, "{sent} transactions for {steps} steps");
}

#[tokio::test]
async fn one_event_may_write_more_child_rows_than_a_transaction_holds() {
    let world = World::with(Registry::new(POSTS_1)).await;
    let events = recorded([
        ("topic", "Posted", data! { post: 500 }),
        ("topic", "Imported", data! { posts: 250 }),
        ("topic", "Removed", data! { post: 7 }),
        ("topic", "Posted", data! { post: 7 }),
    ]);
    world.import(&events).await;
    for event in &events {
        assert_eq!(world.process(std::slice::from_ref(event)).await.total.applied, 1);
    }
    assert_eq!(world.rows().await, fold(Registry::new(POSTS_1), &events));
    let again = World::with(Registry::new(POSTS_1)).await;
    again.import(&events).await;
    again.process(&events).await;
    assert_eq!(again.rows().await, fold(Registry::new(POSTS_1), &events), "in one batch");
}

/// What a query layer builds on.
#[tokio::test]
async fn child_rows_are_read_in_either_order_and_from_any_place() {
    let world = World::with(Registry::new(POSTS_1)).await;
    world.process(&[posted("topic", 0..25), posted("topic-2", 0..3)].concat()).await;
    let store = world.worker.store();
    let read = async |after: Option<&str>, limit: usize, order: Order| {
        let query = ChildQuery { after, limit, order, consistent: true };
        let page = store.children(POSTS_1[0], &"topic".into(), query, Deadline::NONE).await.expect("read");
        let posts: Vec<u64> = page.children.iter().map(|(sort, _)| sort.parse().expect("a number")).collect();
        assert!(page.children.iter().all(|(_, row)| row.keys().eq(["postedAt"])), "{page:?}");
        (posts, page.more)
    };
    assert_eq!(read(None, 3, Order::Ascending).await, (vec![0, 1, 2], true));
    assert_eq!(read(Some("00000002"), 3, Order::Ascending).await, (vec![3, 4, 5], true));
    assert_eq!(read(Some("00000021"), 3, Order::Ascending).await, (vec![22, 23, 24], false));
    assert_eq!(read(None, 2, Order::Descending).await, (vec![24, 23], true));
    assert_eq!(read(Some("00000002"), 5, Order::Descending).await, (vec![1, 0], false), "without the home row");
    assert_eq!(read(Some("00000002x"), 1, Order::Descending).await, (vec![2], true), "from a place between two");
    assert_eq!(read(None, 100, Order::Ascending).await.0.len(), 25);
    let query = ChildQuery { after: None, limit: 5, order: Order::Ascending, consistent: false };
    let none = store.children(POSTS_1[0], &"nobody".into(), query, Deadline::NONE).await.expect("read");
    assert_eq!((none.children.len(), none.more), (0, false));
}

const CHECK: Options = Options { segments: 3, sample: None, repair: Repair::Nothing };
const REPAIR: Options = Options { repair: Repair::Findings, ..CHECK };

fn key(account: &str, movement: &str) -> [(String, AttributeValue); 2] {
    [("accountId", account), ("movement", movement)].map(|(name, text)| (name.to_owned(), AttributeValue::S(text.to_owned())))
}

async fn put(world: &World, account: &str, movement: &str, amount: i32) {
    let item = key(account, movement).into_iter().chain([("amount".to_owned(), AttributeValue::N(amount.to_string()))]);
    let put = world.embedded.client().put_item().table_name("account-statement").set_item(Some(item.collect()));
    put.send().await.expect("put");
}

async fn delete(world: &World, account: &str, movement: &str) {
    let delete = world.embedded.client().delete_item().table_name("account-statement").set_key(Some(key(account, movement).into()));
    delete.send().await.expect("deleted");
}

fn children(verified: &Verified) -> Vec<(String, ChildFinding)> {
    verified.children.iter().map(|(id, finding)| (id.to_string(), *finding)).collect()
}

async fn verified(worker: &Worker, options: Options) -> Verified {
    verify(worker, LISTS[0], options, Deadline::NONE).await.expect("verified")
}

/// Ten accounts of three movements each.
async fn statements() -> (World, Vec<RecordedEvent>) {
    let world = World::with(included()).await;
    let events: Vec<_> = (0..10).flat_map(|number| account(&format!("account-{number}"), &["1", "2", "3"])).collect();
    world.append_all(&events).await;
    world.process(&events).await;
    assert_eq!(world.rows().await, fold(included(), &events));
    (world, events)
}

#[tokio::test]
async fn exactly_the_child_rows_that_are_wrong_are_named_and_a_repair_mends_them() {
    let (world, events) = statements().await;
    let clean = verified(&world.worker, CHECK).await;
    assert!(clean.is_clean() && clean.found() == 0 && clean.rows == 40, "{clean:?}");
    let right = world.rows().await;
    delete(&world, "account-1", "0000000002").await;
    put(&world, "account-2", "0000000003", 7).await;
    put(&world, "account-2", "0000000004", 7).await;
    put(&world, "nobody", "0000000001", 7).await;
    let wrong = world.rows().await;
    let expected = [
        ("account-1/0000000002", ChildFinding::Missing),
        ("account-2/0000000003", ChildFinding::Different),
        ("account-2/0000000004", ChildFinding::Extra),
        ("nobody/0000000001", ChildFinding::Orphaned),
    ]
    .map(|(id, finding)| (id.to_owned(), finding));
    let found = verified(&world.worker, CHECK).await;
    assert_eq!((children(&found), found.home.clone(), found.shared.clone()), (expected.to_vec(), BTreeMap::new(), BTreeMap::new()));
    assert_eq!(world.rows().await, wrong, "nothing was asked to be repaired");

    let chosen = ["account-2".into(), "account-3".into()].into();
    let found = verify_chosen(&world.worker, LISTS[0], &chosen, Repair::Nothing, Deadline::NONE).await.expect("verified");
    assert_eq!(children(&found), expected[1..3]);
    let url = world.serve().await;
    let (code, out, said) = projector(&["--endpoint-url", &url, "verify", "account-statement", "--diff"]).await;
    assert_eq!(code, 1, "{said}");
    for line in
        ["4 child rows", "  child missing: account-1/0000000002", "    amount: is 7, must be 3", "  child orphaned: nobody/0000000001"]
    {
        assert!(out.contains(line), "{line}: {out}");
    }
    let (_, out, _) = projector(&["--endpoint-url", &url, "verify", "account-statement", "--json"]).await;
    assert!(out.contains(r#"{"finding":"extra","aggregateId":"account-2","child":"0000000004"}"#), "{out}");

    let repaired = verified(&world.worker, REPAIR).await;
    assert!(repaired.is_clean() && repaired.repaired == 4, "{repaired:?}");
    assert_eq!(world.rows().await, right);
    assert_eq!(verified(&world.worker, CHECK).await.found(), 0);
    assert_eq!(world.rows().await, fold(included(), &events));
}

#[tokio::test]
async fn a_lost_home_row_is_missing_and_its_child_rows_are_made_anew() {
    let (world, events) = statements().await;
    tokio::time::pause();
    delete(&world, "account-1", HOME_SORT).await;
    put(&world, "account-1", "0000000009", 7).await;
    let found = verified(&world.worker, CHECK).await;
    assert_eq!(found.home.iter().map(|(id, finding)| (id.as_str(), *finding)).collect::<Vec<_>>(), [("account-1", RowFinding::Missing)]);
    assert_eq!(children(&found), []);
    assert!(verified(&world.worker, REPAIR).await.is_clean());
    assert_eq!(world.rows().await, fold(included(), &events));
}

/// Child rows of many accounts that the event store does not have are likelier those of another event store.
#[tokio::test]
async fn many_orphaned_child_rows_are_not_removed_without_a_word_of_the_operator() {
    let (world, events) = statements().await;
    put(&world, "nobody", "0000000001", 7).await;
    put(&world, "nobody-else", "0000000001", 7).await;
    let before = world.rows().await;
    let refused = verified(&world.worker, REPAIR).await;
    assert!(refused.doubt.is_some() && !refused.is_clean(), "{refused:?}");
    assert_eq!((world.rows().await, refused.footing.without_event), (before, 2));
    let all = verified(&world.worker, Options { repair: Repair::AllOrphans, ..CHECK }).await;
    assert!(all.is_clean(), "{all:?}");
    assert_eq!(world.rows().await, fold(included(), &events));
}

/// While the worker moves an account, none of its movements is taken to be wrong, and one that is wrong is found all the same.
#[tokio::test]
async fn child_rows_that_move_while_they_are_compared_are_not_taken_to_be_wrong() {
    let (world, mut events) = statements().await;
    put(&world, "account-1", "0000000001", 7).await;
    let more = account("account-1", &["1", "2", "3", "4", "5", "6"]).split_off(3);
    world.append_all(&more).await;
    events.extend(more.clone());
    let left = std::sync::Mutex::new(more.into_iter());
    let worker = Arc::new(world.worker_of(included().projections()));
    let tapped = world.tapped_of(included().projections(), move |call| {
        // One more movement before each page of child rows of the account.
        let about_it = call.operation == "Query" && call.body.contains("account-statement") && call.body.contains("\"account-1\"");
        let next = about_it.then(|| left.lock().expect("no test panics while it holds this").next()).flatten();
        match next {
            Some(event) => {
                let worker = worker.clone();
                Fault::Meanwhile(Box::pin(async move { _ = worker.process(&records(&[event]), Deadline::NONE).await }))
            }
            None => Fault::None,
        }
    });
    let found = verified(&tapped.worker, CHECK).await;
    assert_eq!(children(&found), [("account-1/0000000001".to_owned(), ChildFinding::Different)]);
}

/// A transaction costs twice the units of its rows: the home row and each child row, however many events it takes. The usual handler puts
/// one item for each event, without the balance and without a guard.
#[tokio::test]
async fn a_child_row_costs_two_write_units_and_its_home_row_two_for_each_batch() {
    for (per_account, accounts) in [(1, 50), (10, 20), (99, 2), (250, 1)] {
        let world = World::with(Registry::new(&LISTS[..1])).await;
        let amounts = vec!["1"; per_account];
        let events: Vec<_> = (0..accounts).flat_map(|number| account(&format!("account-{number}"), &amounts)).collect();
        let usage = world.process(&events).await.usage;
        let transactions = u32::try_from(accounts * per_account.div_ceil(99)).expect("few");
        let children = u32::try_from(events.len()).expect("few");
        assert!((usage.write_units - f64::from(2 * (transactions + children))).abs() < 0.01, "{usage:?}");
    }
}
