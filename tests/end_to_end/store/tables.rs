//! The worker's tables: which are missing, their creation, and how recent what is read of them is.

use std::sync::{Arc, Mutex};

use projection_worker::internals::{
    embedded::Embedded,
    retry::Deadline,
    store::{Store, reads::Consistency},
};

use crate::support::world::{Fault, ONE_EACH, World, account, names, registry};

fn names_of(tables: &[&str]) -> Vec<String> {
    tables.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn tables_that_are_missing_are_named_and_created_and_no_others() {
    let store = Store::new(Embedded::memory().expect("an empty database").client(), names(registry()));
    let all = names_of(&["event-store", "parked", "account-summary", "forum-counters"]);
    assert_eq!(store.missing_tables(registry()).await, Ok(all.clone()));
    let rule = registry().get("account-summary").expect("a projection");
    assert_eq!([store.create_table_of(rule).await, store.create_table_of(rule).await], [Ok(true), Ok(false)]);
    let missing = names_of(&["event-store", "parked", "forum-counters"]);
    assert_eq!(store.missing_tables(registry()).await, Ok(missing.clone()));
    assert_eq!(store.create_tables(registry()).await, Ok(missing));
    assert_eq!((store.missing_tables(registry()).await, store.create_tables(registry()).await), (Ok(vec![]), Ok(vec![])));
}

/// Nothing is known of a table that must not be looked at.
#[tokio::test]
async fn a_table_that_must_not_be_read_or_created_is_an_error() {
    let world = World::new().await;
    let tapped = world.tapped(|call| match call.operation {
        "DescribeTable" | "CreateTable" => Fault::error(400, "AccessDeniedException"),
        _ => Fault::None,
    });
    let store = tapped.worker.store();
    assert!(store.missing_tables(registry()).await.is_err());
    assert!(store.create_tables(registry()).await.is_err());
    assert_eq!(store.event_store_items().await, None);
    assert_eq!(tapped.calls(), ["DescribeTable", "CreateTable", "DescribeTable"]);
}

#[tokio::test]
async fn an_event_store_without_items_has_no_events() {
    let world = World::new().await;
    let store = world.worker.store();
    assert_eq!((store.has_events(Deadline::NONE).await, store.event_store_items().await), (Ok(false), None));
    world.append_all(&account("alice", &["1", "2"])).await;
    // The VERSION item counts as well.
    assert_eq!((store.has_events(Deadline::NONE).await, store.event_store_items().await), (Ok(true), Some(3)));
}

/// The embedded DynamoDB always answers with the latest.
#[tokio::test]
async fn rows_are_read_as_recent_as_was_asked_for() {
    let world = World::new().await;
    let asked = Arc::<Mutex<Vec<bool>>>::default();
    let noted = asked.clone();
    let store = world.reader(ONE_EACH, move |call| {
        noted.lock().expect("no test panics while it holds this").push(call.body.contains(r#""ConsistentRead":true"#));
        Fault::None
    });
    let (store, rule) = (store.store, registry().get("account-summary").expect("a projection"));
    for (consistency, expected) in [(Consistency::Strong, true), (Consistency::Eventual, false)] {
        store.get_row(rule, &"alice".into(), consistency, Deadline::NONE).await.expect("read");
        store.get_rows(rule, &["alice".into()], consistency, Deadline::NONE).await.expect("read");
        store.scan_shown(rule, 10, None, consistency, Deadline::NONE).await.expect("read");
        let asked = std::mem::take(&mut *asked.lock().expect("no test panics while it holds this"));
        assert_eq!(asked, [expected; 3], "{consistency:?}");
    }
}
