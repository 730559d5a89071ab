//! Fresh rows: what the event store has, whatever the worker has done so far.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{
    AggregateId, Attributes, ConsistencyToken, DynProjection, RecordedEvent, Registry, Rows, Value, Version, data,
};
use projection_worker::{Deadline, Queries, QueryError, internals::store::item::encode_event};
use projections::{ALL, bank::account_summary::AccountSummary};
use proptest::prelude::*;
use serde_dynamo::Item;
use serde_json::json;

use crate::{
    size,
    support::{
        projections::{HOUSES_1, HOUSES_2, LIFTED, UNUSUAL},
        world::{Fault, World, account, history, impostor, recorded, records},
    },
};

fn rule(rules: &'static [&'static dyn DynProjection], name: &str) -> &'static dyn DynProjection {
    Registry::new(rules).get(name).expect("a projection")
}

type Texts = BTreeMap<String, String>;

fn texts(attributes: &Attributes) -> Texts {
    attributes.iter().map(|(name, value)| (name.clone(), value.to_string())).collect()
}

/// The attributes of a fresh row without the key; `None` if there is no row.
async fn fresh(queries: &Queries, rule: &'static dyn DynProjection, key: &str) -> Result<Option<Texts>, QueryError> {
    let row = queries.rows_of(rule).get::<()>(key).fresh().untyped().await?;
    Ok(row.map(|row| {
        let mut all = texts(&row.data);
        assert_eq!(all.remove(rule.key()), Some(key.to_owned()));
        all
    }))
}

async fn fresh_or_error(queries: &Queries, rule: &'static dyn DynProjection, key: &str) -> String {
    match fresh(queries, rule, key).await {
        Ok(row) => format!("{row:?}"),
        Err(error) => error.to_string(),
    }
}

/// What an aggregate owns after these events, and its version.
fn folded(rule: &'static dyn DynProjection, events: &[RecordedEvent], key: &str) -> Option<Texts> {
    let mut rows = Rows::default();
    for event in events.iter().filter(|event| event.aggregate.as_str() == key) {
        rows.fold(rule, event).expect("a valid event");
    }
    rows.home.get(&AggregateId::from(key)).map(|home| {
        let mut all = texts(&home.own);
        all.insert("version".into(), home.version.to_string());
        all
    })
}

async fn assert_fresh(queries: &Queries, rule: &'static dyn DynProjection, events: &[RecordedEvent], key: &str) {
    assert_eq!(fresh(queries, rule, key).await, Ok(folded(rule, events, key)), "{key}");
}

// At every moment.

#[derive(Clone, Debug)]
enum Step {
    /// Appends so many events.
    Append(usize),
    /// The worker gets a batch of so many of the records, from this one on; records may be lost and come again.
    Process(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step =
        prop_oneof![(1..12_usize).prop_map(Step::Append), (0..100_usize, 1..20_usize).prop_map(|(from, count)| Step::Process(from, count))];
    prop::collection::vec(step, 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: u32::try_from(size(12, 512)).expect("a small number"), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_fresh_row_is_the_fold_of_the_event_store_at_every_moment(seed: u64, aggregates in 1..8_usize, steps in steps()) {
        run(async {
            for (domain, name) in [("bank", "account-summary"), ("forum", "forum-counters")] {
                let (world, all) = (World::new().await, history(domain, seed, 120, aggregates));
                let (queries, rule) = (world.queries(ALL), rule(ALL, name));
                let ids: BTreeSet<_> = all.iter().map(|event| event.aggregate.to_string()).collect();
                let mut appended = 0;
                for step in &steps {
                    match step {
                        Step::Append(count) => {
                            let end = all.len().min(appended + count);
                            world.import(&all[appended..end]).await;
                            appended = end;
                        }
                        Step::Process(from, count) if appended > 0 => {
                            let from = from % appended;
                            world.process(&all[from..appended.min(from + count)]).await;
                        }
                        Step::Process(..) => {}
                    }
                    let expected = |key: &str| folded(rule, &all[..appended], key);
                    for key in &ids {
                        let found = fresh(&queries, rule, key).await.expect("a row");
                        let (found, expected) = (found.unwrap_or_default(), expected(key).unwrap_or_default());
                        // Of what others write to a row, only what they have written is known; it has names of its own.
                        let own: Texts = found.clone().into_iter().filter(|(name, _)| expected.contains_key(name)).collect();
                        assert_eq!(own, expected, "{key}");
                        let others: BTreeSet<_> = found.keys().filter(|name| !expected.contains_key(*name)).map(String::as_str).collect();
                        assert!(others.is_subset(&["topicCount", "postCount", "lastPostAt"].into()), "{others:?}");
                    }
                }
            }
        });
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

#[tokio::test]
async fn writes_are_read_at_once_without_a_worker_and_together_with_what_others_have_written() {
    let world = World::new().await;
    let events = recorded([
        ("news", "CategoryCreated", data! { name: "News" }),
        ("t1", "TopicCreated", data! { categoryId: "news", title: "Hello", authorId: "ann" }),
    ]);
    world.append_all(&events).await;
    let (queries, rule) = (world.queries(ALL), rule(ALL, "forum-counters"));
    assert_fresh(&queries, rule, &events, "news").await;
    world.process(&events[1..]).await;
    let row = fresh(&queries, rule, "news").await.expect("read").expect("a row");
    assert_eq!(
        row,
        [("name", "News"), ("version", "1"), ("topicCount", "1"), ("postCount", "0")].map(|(a, b)| (a.into(), b.into())).into()
    );
    assert_eq!(fresh(&queries, rule, "nothing").await, Ok(None));
}

#[tokio::test]
async fn a_fresh_row_costs_two_requests_and_one_more_for_a_thousand_events() {
    let world = World::new().await;
    let events = account("alice", &vec!["1"; 2_500]);
    world.append_all(&events).await;
    let reader = world.reader(ALL, |_| Fault::None);
    let rule = rule(ALL, "account-summary");
    let cost = async |key: &str| {
        fresh(&reader.queries, rule, key).await.expect("read");
        reader.calls()
    };
    assert_eq!(cost("nobody").await, ["GetItem", "Query"]);
    assert_eq!(cost("alice").await, ["GetItem", "Query", "Query", "Query"], "nothing is projected yet");
    world.process(&events[..100]).await;
    assert_fresh(&reader.queries, rule, &events, "alice").await;
    assert_eq!(reader.calls(), ["GetItem", "Query", "Query", "Query"], "2,400 follow, and the last one of the row is read again");
    world.process(&events[100..2_400]).await;
    assert_eq!(cost("alice").await, ["GetItem", "Query"], "a hundred follow");
    let before = reader.store.usage();
    assert_fresh(&reader.queries, rule, &events, "alice").await;
    let tail = reader.store.usage() - before;
    assert!(tail.read_units < 20.0, "101 events of about 400 bytes, and a row: {tail:?}");
    world.process(&events).await;
    reader.calls();
    assert_eq!(cost("alice").await, ["GetItem", "Query"], "at the head");
    // A page that is exactly full does not say whether it is the last.
    let exact = account("bob", &vec!["1"; 1_000]);
    world.append_all(&exact).await;
    assert_eq!(cost("bob").await, ["GetItem", "Query", "Query"]);
    assert_fresh(&reader.queries, rule, &exact, "bob").await;
}

/// Of 2,048 bytes that a key may have, the event store needs ten for itself.
#[tokio::test]
async fn a_row_whose_key_is_too_long_for_an_aggregate_is_as_others_have_written_it() {
    let world = World::new().await;
    let long = "x".repeat(2_048);
    let created = Value::Map([("categoryId", &*long), ("title", "Hello"), ("authorId", "ann")].map(|(a, b)| (a.into(), b.into())).into());
    world.process(&recorded([("t1", "TopicCreated", created)])).await;
    let row = fresh(&world.queries(ALL), rule(ALL, "forum-counters"), &long).await.expect("read").expect("a row");
    assert_eq!(row["topicCount"], "1");
}

// What the row may be.

#[tokio::test]
async fn a_parked_row_is_folded_once_the_rule_is_fixed_and_says_until_then_what_stops_it() {
    let world = World::with(Registry::new(UNUSUAL)).await;
    let events = recorded([
        ("ann", "Came", data! { page: "home", spent: 5 }),
        ("ann", "Cursed", data! {}),
        ("ann", "Came", data! { page: "home", spent: 5 }),
    ]);
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let visits = rule(UNUSUAL, "visits");
    let said = "version 2 of ann cannot be applied by `visits`: the rule panicked on this event type: fix the rule, then redrive";
    assert_eq!(fresh_or_error(&world.queries(UNUSUAL), visits, "ann").await, said, "before it is parked");
    let beside: Vec<_> = (0..9).map(|at| format!("v{at}")).collect();
    let beside = recorded(beside.iter().map(|id| (id.as_str(), "Left", data! {})));
    world.process(&[&events[1..], &beside].concat()).await;
    assert_eq!(world.parked().await.len(), 1);
    assert_eq!(fresh_or_error(&world.queries(UNUSUAL), visits, "ann").await, said);
    let queries = world.queries(LIFTED);
    let row = queries.rows_of(rule(LIFTED, "visits")).get::<()>("ann").fresh().untyped().await.expect("read").expect("a row");
    assert_eq!((row.version, row.parked, &row.data["curses"]), (Some(Version(3)), true, &Value::from(1)));
}

#[tokio::test]
async fn an_event_that_cannot_be_read_stops_the_fold_by_name() {
    let world = World::new().await;
    let mut events = account("alice", &["1", "4711"]);
    events[1].data = data! { amount: "4711" };
    world.append_all(&events).await;
    let said = fresh_or_error(&world.queries(ALL), rule(ALL, "account-summary"), "alice").await;
    let expected = "version 2 of alice cannot be applied by `account-summary`: cannot read the event's data: `amount`: expected an exact \
                    number, found a string";
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_row_of_an_older_rule_is_folded_anew_and_one_of_a_newer_rule_is_refused() {
    let world = World::with(Registry::new(HOUSES_1)).await;
    let events = recorded([
        ("h1", "Built", data! { site: "hill", rooms: 3 }),
        ("h1", "Painted", data! {}),
        ("hill", "Built", data! { site: "valley", rooms: 8 }),
        ("h1", "Painted", data! {}),
    ]);
    world.append_all(&events).await;
    world.process(&events[..3]).await;
    let (one, two) = (rule(HOUSES_1, "houses"), rule(HOUSES_2, "houses"));
    assert_fresh(&world.queries(HOUSES_1), one, &events, "h1").await;
    assert_fresh(&world.queries(HOUSES_2), two, &events, "h1").await;
    let row = fresh(&world.queries(HOUSES_2), two, "h1").await.expect("read").expect("a row");
    assert!(row.contains_key("title") && !row.contains_key("label") && !row.contains_key("coats"), "{row:?}");
    // Its own by the new rule, and what others have written by the old one.
    let row = fresh(&world.queries(HOUSES_2), two, "hill").await.expect("read").expect("a row");
    assert_eq!((row["title"].as_str(), row["size"].as_str(), row["houses"].as_str()), ("valley", "8", "1"));

    let newer = world.worker_of(HOUSES_2);
    newer.process(&records(&events), Deadline::NONE).await;
    let said = "the row h1 of `houses` was written by revision 2 of its rule, and this program has revision 1: deploy the newer program";
    assert_eq!(fresh_or_error(&world.queries(HOUSES_1), one, "h1").await, said);
    assert_fresh(&world.queries(HOUSES_2), two, &events, "h1").await;
}

#[tokio::test]
async fn a_row_whose_replacement_is_unfinished_is_folded_anew() {
    let world = World::with(Registry::new(HOUSES_1)).await;
    let events = recorded([("h1", "Built", data! { site: "hill", rooms: 3 }), ("h1", "Painted", data! {})]);
    world.append_all(&events).await;
    world.process(&events).await;
    let (one, two) = (rule(HOUSES_1, "houses"), rule(HOUSES_2, "houses"));
    // As a step of a replacement leaves it.
    let update = world.embedded.client().update_item().table_name("houses").key("id", AttributeValue::S("h1".into()));
    let update = update.update_expression("SET unfinished = :two REMOVE revision, label, coats");
    update.expression_attribute_values(":two", AttributeValue::N("2".into())).send().await.expect("updated");
    assert_fresh(&world.queries(HOUSES_2), two, &events, "h1").await;
    let said = fresh_or_error(&world.queries(HOUSES_1), one, "h1").await;
    assert!(said.contains("written by revision 2"), "{said}");
}

#[tokio::test]
async fn a_row_of_another_history_is_folded_anew_and_one_ahead_of_the_event_store_is_refused() {
    let world = World::new().await;
    let events = account("alice", &["1", "10", "100"]);
    let (queries, rule) = (world.queries(ALL), rule(ALL, "account-summary"));
    world.process(&events).await;
    // The store was restored to a time before it, and others wrote on.
    let mut others = vec![events[0].clone(), events[1].clone(), impostor(&events[2])];
    others[2].data = data! { amount: 5 };
    let ahead = "the row alice of `account-summary` is at version 3, but the event store ends before it: was it restored? `projector verify` \
                 shows such rows";
    assert_eq!(fresh_or_error(&queries, rule, "alice").await, ahead, "an empty one");
    world.import(&others[..2]).await;
    assert_eq!(fresh_or_error(&queries, rule, "alice").await, ahead);
    world.import(&others[2..]).await;
    assert_fresh(&queries, rule, &others, "alice").await;
    // An older rule's row that is ahead.
    let (one, two) = (rule_of_houses(HOUSES_1), rule_of_houses(HOUSES_2));
    let world = World::with(Registry::new(HOUSES_1)).await;
    let built = recorded([("h1", "Built", data! { site: "hill", rooms: 3 }), ("h1", "Razed", data! {})]);
    world.process(&built).await;
    world.import(&built[..1]).await;
    for (rules, rule) in [(HOUSES_1, one), (HOUSES_2, two)] {
        let said = fresh_or_error(&world.queries(rules), rule, "h1").await;
        assert!(said.contains("is at version 2, but the event store ends before it"), "{said}");
    }
}

fn rule_of_houses(rules: &'static [&'static dyn DynProjection]) -> &'static dyn DynProjection {
    rule(rules, "houses")
}

#[tokio::test]
async fn a_version_that_a_query_did_not_see_is_looked_for_and_a_hole_is_an_error() {
    let world = World::new().await;
    let events = account("alice", &["1", "10", "100", "1000"]);
    let rule = rule(ALL, "account-summary");
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    // An append in progress: its last event is there, its first ones are not yet.
    let item = |event: &RecordedEvent| json!(Item::from(encode_event(event)));
    let partial = json!({ "Items": [item(&events[0]), item(&events[3])], "Count": 2, "ScannedCount": 2 }).to_string();
    let (queries, partial_again) = (AtomicUsize::new(0), partial.clone());
    let reader =
        world.reader(ALL, move |call| match (call.operation, queries.fetch_add(usize::from(call.operation == "Query"), Relaxed)) {
            ("Query", 0) => Fault::Answer(200, partial_again.clone()),
            _ => Fault::None,
        });
    assert_fresh(&reader.queries, rule, &events, "alice").await;
    assert_eq!(reader.calls(), ["GetItem", "Query", "Query"]);

    let delete = world.embedded.client().delete_item().table_name("event-store");
    let key = encode_event(&events[2]);
    delete.key("PK", key["PK"].clone()).key("SK", key["SK"].clone()).send().await.expect("deleted");
    let said = fresh_or_error(&world.queries(ALL), rule, "alice").await;
    let expected = "version 3 of alice cannot be applied by `account-summary`: the event store does not have this version, although it has a \
                    later one";
    assert_eq!(said, expected);
    // Without its first event no row begins.
    let world = World::new().await;
    world.import(&events[1..]).await;
    let said = fresh_or_error(&world.queries(ALL), rule, "alice").await;
    assert!(said.starts_with("version 1 of alice cannot be applied"), "{said}");
}

#[tokio::test]
async fn irrelevant_events_neither_stop_nor_move_a_fresh_row() {
    let world = World::new().await;
    let mut events = account("alice", &["1", "10"]);
    let mut noted = account("alice", &["1", "1", "1", "1"]).split_off(2);
    for event in &mut noted {
        event.event_type = "AddressChanged".into();
    }
    events.extend(noted);
    world.append_all(&events).await;
    let (queries, rule) = (world.queries(ALL), rule(ALL, "account-summary"));
    assert_fresh(&queries, rule, &events, "alice").await;
    world.process(&events).await;
    let row = fresh(&queries, rule, "alice").await.expect("read").expect("a row");
    assert_eq!(row["version"], "2");
}

#[tokio::test]
async fn a_token_of_a_version_that_the_event_store_does_not_have_is_refused() {
    let world = World::new().await;
    world.append_all(&account("alice", &["1", "10"])).await;
    let queries = world.queries(ALL);
    let accounts = queries.rows(&AccountSummary);
    let token = |text: &str| text.parse::<ConsistencyToken>().expect("a token");
    let row = accounts.get::<()>("alice").after(&token("alice@2")).fresh().untyped().await.expect("read");
    assert_eq!(row.and_then(|row| row.version), Some(Version(2)), "no worker is needed");
    let error = accounts.get::<()>("alice").after(&token("alice@3")).fresh().untyped().await.expect_err("there is no such version");
    assert_eq!(error, QueryError::NoSuchVersion { aggregate: "alice".into(), version: Version(3) });
}
