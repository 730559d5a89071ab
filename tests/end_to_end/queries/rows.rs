//! Rows by key.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use projection_vocabulary::{Decimal, RowKey, Version, data};
use projection_worker::{Deadline, Queries, QueryError, StoreError};
use projections::{ALL, bank::account_summary::AccountSummary, forum::forum_counters::ForumCounters};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::support::world::{Call, Fault, World, account, recorded};

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Account {
    #[serde(rename = "accountId")]
    id: String,
    balance: Decimal,
    status: String,
    version: u64,
    closed_by: Option<String>,
}

/// An account for each number, of which one in three has been opened.
fn opened(number: usize) -> bool {
    number.is_multiple_of(3)
}

fn id(number: usize) -> String {
    format!("account-{number:03}")
}

async fn accounts(count: usize) -> World {
    let world = World::new().await;
    let events: Vec<_> = (0..count).filter(|number| opened(*number)).flat_map(|number| account(&id(number), &["1"])).collect();
    world.process(&events).await;
    world
}

#[tokio::test]
async fn a_row_is_read_exactly_and_without_the_bookkeeping() {
    let world = World::new().await;
    world.process(&account("alice", &["1234567890123456789.0123456789012345678", "1"])).await;
    let accounts = world.queries(ALL);
    let accounts = accounts.rows(&AccountSummary);

    let row = accounts.get::<Account>("alice").await.expect("read").expect("the row");
    assert_eq!((row.key, row.version, row.parked), ("alice".into(), Some(Version(2)), false));
    let balance = "1234567890123456790.0123456789012345678".parse().expect("valid");
    assert_eq!(row.data, Account { id: "alice".into(), balance, status: "ACTIVE".into(), version: 2, closed_by: None });

    let all = accounts.get::<()>("alice").untyped().await.expect("read").expect("the row");
    let names: BTreeSet<_> = all.data.into_keys().collect();
    assert_eq!(names, ["accountId", "balance", "createdAt", "status", "updatedAt", "version"].map(str::to_owned).into());

    assert_eq!(accounts.get::<Account>("bob").await, Ok(None));
}

#[tokio::test]
async fn a_row_that_others_share_is_read_and_has_no_version() {
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Category {
        topic_count: u64,
        name: Option<String>,
    }
    let world = World::new().await;
    world.process(&recorded([("t1", "TopicCreated", data! { categoryId: "news", title: "Hello", authorId: "ann" })])).await;
    let row = world.queries(ALL).rows(&ForumCounters).get::<Category>("news").await.expect("read").expect("the row");
    assert_eq!((row.version, row.data), (None, Category { topic_count: 1, name: None }));
}

#[tokio::test]
async fn a_row_that_does_not_fit_the_readers_type_is_refused_without_its_values() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "the test expects errors")]
    struct Rounded {
        balance: f64,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "the test expects errors")]
    struct Text {
        balance: String,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "the test expects errors")]
    struct Small {
        balance: u8,
    }
    let world = World::new().await;
    world.process(&account("alice", &["4711"])).await;
    let queries = world.queries(ALL);
    let accounts = queries.rows(&AccountSummary);
    let begin = "the row alice of `account-summary` does not match the reader's type: `balance`: ";
    for (said, error) in [
        ("floats are not exact: declare the field as `Decimal`", accounts.get::<Rounded>("alice").await.expect_err("a float")),
        ("expected a string, found a number", accounts.get::<Text>("alice").await.expect_err("a string")),
        ("expected u8, found a number with an invalid value", accounts.get::<Small>("alice").await.expect_err("too small")),
    ] {
        assert_eq!(error.to_string(), format!("{begin}{said}"));
    }
}

#[tokio::test]
async fn a_parked_row_says_so() {
    let world = World::new().await;
    let mut events = account("alice", &["1", "1"]);
    events[1].data = data! { amount: "1" };
    world.process(&events[..1]).await;
    let beside: Vec<_> = (0..20).flat_map(|number| account(&id(number), &["1"])).collect();
    world.process(&[&events[1..], &beside].concat()).await;
    let row = world.queries(ALL).rows(&AccountSummary).get::<Account>("alice").await.expect("read").expect("the row");
    assert_eq!((row.version, row.parked), (Some(Version(1)), true));
}

#[tokio::test]
async fn many_rows_come_in_the_order_asked_for_each_once_and_a_hundred_per_request() {
    let world = accounts(250).await;
    let reader = world.reader(ALL, |_| Fault::None);
    let keys: Vec<_> = (0..250).rev().flat_map(|number| [id(number), id(249)]).collect();
    let many = reader.queries.rows(&AccountSummary).many::<Account>(keys.iter().map(String::as_str)).await.expect("read");
    assert_eq!(reader.calls(), ["BatchGetItem"; 3]);
    let expected: Vec<_> = (0..250).rev().map(|number| (RowKey::from(id(number)), opened(number))).collect();
    let found: Vec<_> = many.iter().map(|(key, row)| (key.clone(), row.is_some())).collect();
    assert_eq!(found, expected);
    assert!(many.iter().filter_map(|(key, row)| row.as_ref().map(|row| (key, row))).all(|(key, row)| row.key == *key));

    let none = reader.queries.rows(&AccountSummary).many::<Account>([""; 0]).await;
    assert_eq!((none, reader.calls()), (Ok(Vec::new()), vec![]), "nothing is asked for");
}

/// An answer to a `BatchGetItem` that leaves these keys out.
fn leaving_out(call: &Call<'_>, out: impl Fn(&str) -> bool) -> Fault {
    let body: Json = serde_json::from_str(call.body).expect("requests are JSON");
    let keys = body["RequestItems"]["account-summary"]["Keys"].as_array().expect("keys").clone();
    let (left, answered): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| out(key["accountId"]["S"].as_str().expect("a key")));
    let item = |key: Json| {
        let id = &key["accountId"];
        let status = json!({ "S": "ACTIVE" });
        json!({ "accountId": id, "balance": { "N": "1" }, "status": status, "version": { "N": "1" } })
    };
    let items: Vec<_> = answered.into_iter().map(item).collect();
    let mut answer = json!({ "Responses": { "account-summary": items }, "UnprocessedKeys": {} });
    if !left.is_empty() {
        answer["UnprocessedKeys"] = json!({ "account-summary": { "Keys": left } });
    }
    Fault::Answer(200, answer.to_string())
}

#[tokio::test]
async fn keys_that_dynamodb_leaves_out_are_asked_for_again() {
    let world = World::new().await;
    let calls = AtomicUsize::new(0);
    // The first answer has half of them, the second nothing, the third a quarter, and the fourth the rest.
    let reader = world.reader(ALL, move |call| match calls.fetch_add(1, Relaxed) {
        0 => leaving_out(call, |key| key > id(49).as_str()),
        1 => leaving_out(call, |_| true),
        2 => leaving_out(call, |key| key > id(74).as_str()),
        _ => leaving_out(call, |_| false),
    });
    let keys: Vec<_> = (0..100).map(id).collect();
    let many = reader.queries.rows(&AccountSummary).many::<Account>(&keys).await.expect("read");
    assert!(many.iter().all(|(_, row)| row.is_some()));
    assert_eq!((many.len(), reader.calls().len()), (100, 4));
}

#[tokio::test]
async fn each_key_that_was_not_answered_to_the_end_is_named_and_none_is_dropped() {
    let world = World::new().await;
    let lost = |key: &str| key >= id(103).as_str() && key < id(106).as_str();
    let reader = world.reader(ALL, move |call| leaving_out(call, lost));
    let deadline = Deadline::at(Instant::now() + std::time::Duration::from_millis(60));
    let keys: Vec<_> = (0..250).map(id).collect();
    let error = reader.queries.rows(&AccountSummary).until(deadline).many::<Account>(&keys).await.expect_err("keys are missing");
    let QueryError::Unanswered { keys: left, error: cause } = &error else { panic!("{error:?}") };
    // Three of the second hundred, and all of the last fifty, which were not asked for any more.
    let expected: Vec<_> = (103..106).chain(200..250).map(|number| RowKey::from(id(number))).collect();
    assert_eq!(*left, expected);
    assert!(matches!(cause, StoreError::Transient { .. }), "{cause:?}");
    let said = error.to_string();
    assert!(said.starts_with("53 of the rows asked for were not read: account-103, account-104, account-105, account-200, "), "{said}");
    assert!(error.is_transient());

    let refused = world.reader(ALL, |_| Fault::error(400, "AccessDeniedException"));
    let error = refused.queries.rows(&AccountSummary).many::<Account>(["a", "b"]).await.expect_err("refused");
    let QueryError::Unanswered { keys, .. } = &error else { panic!("{error:?}") };
    assert_eq!((keys.len(), error.is_transient()), (2, false));
}

#[tokio::test]
async fn a_key_that_no_row_can_have_is_refused_before_anything_is_sent() {
    let world = World::new().await;
    let reader = world.reader(ALL, |_| Fault::None);
    let accounts = reader.queries.rows(&AccountSummary);
    for key in [String::new(), "x".repeat(2_049)] {
        assert_eq!(accounts.get::<Account>(&key).await, Err(QueryError::Key));
        assert_eq!(accounts.get::<Account>(&key).fresh().await, Err(QueryError::Key));
        assert_eq!(accounts.many::<Account>(["alice", &key]).await, Err(QueryError::Key));
    }
    assert_eq!(reader.calls(), [""; 0]);
    assert_eq!(accounts.get::<Account>("x".repeat(2_048)).await, Ok(None));
}

#[tokio::test]
async fn reads_are_retried_and_metered_and_an_eventual_one_costs_half() {
    let world = World::new().await;
    world.process(&account("alice", &["1"])).await;
    let calls = AtomicUsize::new(0);
    let reader = world.reader(ALL, move |_| match calls.fetch_add(1, Relaxed) {
        0 => Fault::error(400, "ThrottlingException"),
        1 => Fault::error(500, "InternalServerError"),
        _ => Fault::None,
    });
    let read = async |queries: &Queries| queries.rows(&AccountSummary).get::<Account>("alice").await.expect("read").expect("the row");
    read(&reader.queries).await;
    let usage = reader.store.usage();
    assert_eq!((usage.requests, usage.retries, usage.read_units), (3, 2, 1.0));
    read(&reader.queries.clone().eventually()).await;
    let usage = reader.store.usage() - usage;
    assert_eq!((usage.requests, usage.read_units), (1, 0.5));
}
