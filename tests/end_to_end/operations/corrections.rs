//! Ways out for what can never be applied: a redrive by a row's mark, corrected and skipped events, discarded entries.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{RecordedEvent, Timestamp, Value, Version, data};
use projection_worker::internals::{
    operations::verify::{Options, Repair, verify},
    retry::Deadline,
    store::{corrections::Audit, item::encode_event},
};
use serde_dynamo::Item;
use serde_json::{Value as Json, json, value::RawValue};

use crate::support::{
    projector::projector,
    world::{World, account, fold, recorded, registry},
};

/// It is in the data of events, so it must not be in any message.
const MARKER: &str = "secret-4711";

fn amount(amount: &str) -> Value {
    Value::Map([("amount".to_owned(), amount.into())].into())
}

/// An account whose third event cannot be applied, and that received a fourth.
async fn parked_account() -> (World, String, Vec<RecordedEvent>) {
    let world = World::new().await;
    let mut events = account("alice", &["1", "2", "4", "8"]);
    events[2].data = amount(MARKER);
    world.append_all(&events).await;
    world.process(&events).await;
    assert_eq!(world.parked().await.len(), 1);
    let url = world.serve().await;
    (world, url, events)
}

async fn run(url: &str, arguments: &[&str]) -> (i32, String, String) {
    let (code, out, said) = projector(&[&["--endpoint-url", url], arguments].concat()).await;
    assert!(!said.contains(MARKER), "{said}");
    (code, out, said)
}

fn file(content: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("event.json");
    std::fs::write(&path, content).expect("written");
    let path = path.display().to_string();
    (folder, path)
}

fn keys(item: &[(&str, &str)]) -> HashMap<String, AttributeValue> {
    item.iter().map(|(name, value)| ((*name).to_owned(), AttributeValue::S((*value).to_owned()))).collect()
}

async fn delete_entry(world: &World) {
    let key = keys(&[("aggregateId", "alice"), ("projection", "account-summary")]);
    world.embedded.client().delete_item().table_name("parked").set_key(Some(key)).send().await.expect("deleted");
}

/// All items of an aggregate in the event store.
async fn items(world: &World, aggregate: &str) -> Vec<HashMap<String, AttributeValue>> {
    let page = world.embedded.client().scan().table_name("event-store").send().await.expect("a scan");
    let mine = AttributeValue::S(format!("AGGREGATE#{aggregate}"));
    page.items().iter().filter(|item| item["PK"] == mine).cloned().collect()
}

/// The rows are the fold of these events, and verification agrees.
async fn assert_exact(world: &World, truth: &[RecordedEvent]) {
    assert_eq!((world.rows().await, world.parked().await), (fold(registry(), truth), vec![]));
    for rule in registry().projections() {
        let options = Options { segments: 2, sample: None, repair: Repair::Nothing };
        let verified = verify(&world.worker, *rule, options, Deadline::NONE).await.expect("verified");
        assert!(verified.is_clean(), "{}: {verified:?}", rule.name());
    }
}

#[tokio::test]
async fn a_row_whose_entry_is_gone_is_redriven_by_its_mark() {
    let chosen = [
        &["--projection", "account-summary", "--aggregate", "alice"][..],
        &["--aggregate", "alice"],
        &["--projection", "account-summary", "--scan"],
        &["--all", "--scan"],
    ];
    for chosen in chosen {
        let (world, url, _) = parked_account().await;
        delete_entry(&world).await;
        let (code, listed, _) = run(&url, &["parked", "list", "--scan"]).await;
        assert!(code == 0 && listed.contains("account-summary  alice") && listed.contains("its row is marked as parked"), "{listed}");
        // The event still cannot be applied: now there is an entry again.
        let (code, redriven, said) = run(&url, &[&["parked", "redrive"], chosen].concat()).await;
        assert!(code == 1 && redriven.contains("still parked: account-summary alice: cannot read"), "{redriven}{said}");
        assert_eq!(world.parked().await.len(), 1);
        delete_entry(&world).await;
        let truth = account("alice", &["1", "2", "4", "8"]);
        world.correct(&truth[2]).await;
        let (code, redriven, said) = run(&url, &[&["parked", "redrive"], chosen].concat()).await;
        assert!(code == 0 && redriven.contains("recovered: account-summary alice: 2 events applied"), "{redriven}{said}");
        assert_exact(&world, &truth).await;
    }
}

#[tokio::test]
async fn a_corrected_event_counts_instead_of_the_old_one_which_is_kept() {
    let (world, url, events) = parked_account().await;
    let (_folder, with) = file(&json!({ "eventData": { "amount": 4 } }).to_string());
    let correct = ["events", "correct", "alice", "3", "--with", &with];
    let (code, _, said) = run(&url, &correct).await;
    assert!(code == 2 && said.contains("add --yes"), "{said}");
    let (code, out, said) = run(&url, &[&correct[..], &["--yes", "--by", "ops", "--why", "a typo"]].concat()).await;
    assert_eq!(code, 0, "{said}");
    assert!(out.contains(MARKER) && out.lines().count() == 1, "the old item is printed: {out}");
    assert!(said.contains("next: projector parked redrive --projection account-summary --aggregate 'alice'"), "{said}");
    let (code, _, _) = run(&url, &["parked", "redrive", "--projection", "account-summary", "--aggregate", "alice"]).await;
    assert_eq!(code, 0);
    let truth = account("alice", &["1", "2", "4", "8"]);
    assert_exact(&world, &truth).await;

    let (code, kept, _) = run(&url, &["events", "corrections", "alice"]).await;
    let kept: Json = serde_json::from_str(&kept).expect("one line");
    assert_eq!((code, &kept["eventData"]["M"]["amount"]["S"]), (0, &json!(MARKER)));
    assert_eq!((&kept["correction"]["M"]["by"]["S"], &kept["correction"]["M"]["why"]["S"]), (&json!("ops"), &json!("a typo")));
    assert!(kept["SK"]["S"].as_str().is_some_and(|key| key.starts_with("CORRECTED#0000000003#")), "{kept}");
    // What is kept is no event: not in the index, not in the history, and not in the stream.
    assert!(kept.get("GSI1PK").is_none());
    let (_, shown, _) = run(&url, &["events", "show", "alice"]).await;
    assert!(shown.lines().count() == 4 && !shown.contains(MARKER), "{shown}");
    let insert = json!({ "eventID": "k", "eventName": "INSERT", "dynamodb": { "Keys": { "PK": kept["PK"], "SK": kept["SK"] }, "NewImage": kept, "SequenceNumber": "9" } });
    let image = json!(Item::from(encode_event(&truth[2])));
    let modify = json!({ "eventID": "m", "eventName": "MODIFY", "dynamodb": { "Keys": { "PK": image["PK"], "SK": image["SK"] }, "NewImage": image, "SequenceNumber": "10" } });
    let records: Vec<_> = [insert, modify].iter().map(|record| RawValue::from_string(record.to_string()).expect("JSON")).collect();
    let report = world.worker.process(&records, Deadline::NONE).await;
    assert_eq!((report.total.parked, report.reasons.len()), (0, 0));
    // The stream's old copy, delivered again, changes nothing either.
    world.process(&events).await;
    assert_exact(&world, &truth).await;
}

#[tokio::test]
async fn rows_that_have_applied_the_old_event_are_brought_in_line() {
    let world = World::new().await;
    let url = world.serve().await;
    let post = || data! { postId: "p", authorId: "ann", categoryId: "news" };
    let mut truth = recorded([
        ("news", "CategoryCreated", data! { name: "News", description: "All" }),
        ("topic", "TopicCreated", data! { categoryId: "news", title: "Hello", authorId: "ann" }),
        ("topic", "PostAdded", post()),
        ("topic", "PostAdded", post()),
    ]);
    truth.extend(account("alice", &["1", "2", "4"]));
    world.append_all(&truth).await;
    world.process(&truth).await;
    // An earlier time lowers a maximum that the category shows.
    let earlier = "2026-01-01T00:00:00.500Z";
    let (_one, time) = file(&json!({ "timestamp": earlier }).to_string());
    let (code, _, said) = run(&url, &["events", "correct", "topic", "3", "--with", &time, "--yes"]).await;
    assert!(code == 0 && said.contains("forum-counters: re-projected") && !said.contains("account-summary"), "{said}");
    let (_two, twenty) = file(&json!({ "eventData": { "amount": 20 } }).to_string());
    let (code, _, said) = run(&url, &["events", "correct", "alice", "2", "--with", &twenty, "--yes"]).await;
    assert!(code == 0 && said.contains("account-summary: re-projected"), "{said}");
    for event in &mut truth {
        match (event.aggregate.as_str(), event.version.0) {
            ("topic", 3) => event.timestamp = Timestamp::parse(earlier).expect("a time"),
            ("alice", 2) => event.data = data! { amount: 20 },
            _ => {}
        }
    }
    assert_exact(&world, &truth).await;
}

#[tokio::test]
async fn a_skipped_event_counts_nowhere_and_the_history_stays_dense() {
    let (world, url, events) = parked_account().await;
    let give_up = ["--projection", "account-summary", "--aggregate", "alice"];
    let (code, out, said) = run(&url, &[&["parked", "skip"], &give_up[..], &["--yes", "--why", "a test"]].concat()).await;
    assert!(code == 0 && out.contains(MARKER) && said.contains("next: projector parked redrive"), "{said}");
    let (code, redriven, _) = run(&url, &[&["parked", "redrive"], &give_up[..]].concat()).await;
    assert!(code == 0 && redriven.contains("1 event applied"), "{redriven}");
    let mut truth = account("alice", &["1", "2", "4", "8"]);
    truth[2] = RecordedEvent { event_type: "projector.skipped".into(), data: data! {}, ..truth[2].clone() };
    assert_exact(&world, &truth).await;
    assert_eq!(items(&world, "alice").await.len(), 4 + 2, "events, VERSION and what is kept");
    world.process(&events).await;
    assert_exact(&world, &truth).await;
    // One that was applied already is taken out of the row, and its skipping can be undone by a correction.
    let (_folder, with) = file(&json!({ "eventType": "projector.skipped", "eventData": {} }).to_string());
    let (code, _, said) = run(&url, &["events", "correct", "alice", "4", "--with", &with, "--yes"]).await;
    assert!(code == 0 && said.contains("account-summary: re-projected"), "{said}");
    let whole = truth[3].clone();
    truth[3] = RecordedEvent { event_type: "projector.skipped".into(), data: data! {}, ..whole.clone() };
    assert_exact(&world, &truth).await;
    let (_folder, with) = file(&json!({ "eventType": "MoneyDeposited", "eventData": { "amount": 8 } }).to_string());
    let (code, _, said) = run(&url, &["events", "correct", "alice", "4", "--with", &with, "--yes"]).await;
    assert!(code == 0 && said.contains("account-summary: 1 event applied"), "{said}");
    truth[3] = whole;
    assert_exact(&world, &truth).await;
}

#[tokio::test]
async fn an_unreadable_item_is_corrected_or_skipped_like_any_event() {
    for (attribute, value) in [
        ("eventData", json!("text")),
        ("timestamp", json!("soon")),
        ("eventId", json!("")),
        ("aggregateId", json!("b")),
        ("metadata", json!({ "n": 1 })),
    ] {
        for skips in [false, true] {
            let world = World::new().await;
            let url = world.serve().await;
            let truth = account("alice", &["1", "2"]);
            world.append_all(&truth).await;
            let mut item = encode_event(&truth[1]);
            match attribute {
                "metadata" => _ = item.insert("eventVersion".into(), AttributeValue::N("7".into())),
                "eventId" => _ = item.remove("eventId"),
                _ => _ = item.insert(attribute.into(), AttributeValue::S(value.as_str().expect("a text").into())),
            }
            world.embedded.client().put_item().table_name("event-store").set_item(Some(item)).send().await.expect("put");
            run(&url, &["catch-up", "account-summary"]).await;
            assert_eq!(world.parked().await.len(), 1, "{attribute}");
            let (_folder, with) = file(&json!({ "eventData": { "amount": 2 }, "timestamp": truth[1].timestamp.to_string() }).to_string());
            let (code, _, said) = if skips {
                run(&url, &["parked", "skip", "--projection", "account-summary", "--aggregate", "alice", "--yes"]).await
            } else {
                run(&url, &["events", "correct", "alice", "2", "--with", &with, "--yes"]).await
            };
            assert_eq!(code, 0, "{attribute}: {said}");
            assert_eq!(run(&url, &["parked", "redrive", "--all"]).await.0, 0, "{attribute}");
            assert_exact(&world, if skips { &truth[..1] } else { &truth }).await;
        }
    }
}

#[tokio::test]
async fn an_event_that_changed_since_it_was_shown_is_not_replaced() {
    let (world, _, events) = parked_account().await;
    let store = world.worker.store();
    let audit = Audit { by: "ops", why: "a test" };
    let shown = store.event_item(&"alice".into(), Version(3)).await.expect("read").expect("there");
    world.correct(&RecordedEvent { data: data! { amount: 5 }, ..events[2].clone() }).await;
    assert!(!store.replace_event(Some(&shown), &events[2], audit).await.expect("answered"));
    assert!(!store.replace_event(None, &events[2], audit).await.expect("answered"));
    assert_eq!(items(&world, "alice").await.len(), 4 + 1);
}

#[tokio::test]
async fn incomplete_and_contradictory_corrections_are_refused_without_event_data() {
    let (world, url, _) = parked_account().await;
    let before = items(&world, "alice").await;
    for (with, says) in [
        (json!({ "eventData": MARKER }), "eventData is not an object"),
        (json!({ "eventdata": { "amount": MARKER } }), "not an object with eventData"),
        (json!([MARKER]), "not an object with eventData"),
        (json!({ "eventId": MARKER }), "keeps its eventId"),
        (json!({ "aggregateId": "bob", "eventData": {} }), "names another event"),
        (json!({ "eventVersion": 4, "eventData": {} }), "names another event"),
        (json!({ "timestamp": "soon" }), "`timestamp` is not"),
    ] {
        let (_folder, path) = file(&with.to_string());
        let (code, _, said) = run(&url, &["events", "correct", "alice", "3", "--with", &path, "--yes"]).await;
        assert!(code == 2 && said.contains(says), "{with}: {said}");
    }
    let (_folder, path) = file("{}");
    for version in ["0", "5", "10000000000"] {
        let (code, _, said) = run(&url, &["events", "correct", "alice", version, "--with", &path, "--yes"]).await;
        assert!(code == 1 && said.contains("has no version"), "{said}");
    }
    assert_eq!(items(&world, "alice").await, before);
}

#[tokio::test]
async fn a_missing_version_is_skipped_if_later_ones_are_there_and_else_discarded() {
    let events = account("alice", &["1", "2", "4"]);
    let poison = RecordedEvent { data: amount(MARKER), ..events[1].clone() };
    let give_up = ["--projection", "account-summary", "--aggregate", "alice", "--yes"];

    let world = World::new().await;
    let url = world.serve().await;
    world.import(&[events[0].clone(), events[2].clone()]).await;
    world.process(&events[2..]).await;
    assert_eq!(world.parked().await[0].1, Some(2));
    let (code, _, said) = run(&url, &[&["parked", "discard"], &give_up[..]].concat()).await;
    assert!(code == 1 && said.contains("parked skip"), "{said}");
    let (code, _, said) = run(&url, &[&["parked", "skip"], &give_up[..]].concat()).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(run(&url, &["parked", "redrive", "--all"]).await.0, 0);
    assert_exact(&world, &[events[0].clone(), events[2].clone()]).await;

    let world = World::new().await;
    let url = world.serve().await;
    world.import(&events[..1]).await;
    world.process(&[events[0].clone(), poison]).await;
    let (code, _, said) = run(&url, &[&["parked", "skip"], &give_up[..]].concat()).await;
    assert!(code == 1 && said.contains("parked discard"), "{said}");
    let (code, out, said) = run(&url, &[&["parked", "discard"], &give_up[..]].concat()).await;
    assert!(code == 0 && out.contains(MARKER), "{said}");
    // The history goes on where it had stopped.
    world.append_all(&events[1..]).await;
    world.process(&events[1..]).await;
    assert_exact(&world, &events).await;
}

#[tokio::test]
async fn a_record_that_names_no_event_is_discarded_and_printed() {
    let world = World::new().await;
    let url = world.serve().await;
    let record = json!({ "EventSource": "aws:sns", "Sns": { "Message": MARKER } });
    let records: Vec<_> = [record].iter().map(|record| RawValue::from_string(record.to_string()).expect("JSON")).collect();
    world.worker.process(&records, Deadline::NONE).await;
    let id = world.parked().await[0].0.clone();
    let discard = ["parked", "discard", "--projection", "-", "--aggregate", &id];
    let (code, _, said) = run(&url, &discard).await;
    assert!(code == 2 && said.contains("add --yes"), "{said}");
    assert_eq!(world.parked().await.len(), 1);
    let (code, out, said) = run(&url, &[&discard[..], &["--yes", "--by", "ops", "--why", "a test"]].concat()).await;
    assert_eq!((code, serde_json::from_str::<Json>(&out).expect("JSON")["Sns"]["Message"].clone()), (0, json!(MARKER)), "{said}");
    assert_eq!(world.parked().await, vec![]);
    let kept = world.embedded.client().scan().table_name("parked").send().await.expect("a scan");
    assert_eq!((kept.items().len(), &kept.items()[0]["discardedWhy"]), (1, &AttributeValue::S("a test".into())));
    assert_eq!(run(&url, &["status"]).await.0, 0);
    assert_eq!(run(&url, &[&discard[..], &["--yes"]].concat()).await.0, 1, "it is not parked any more");
}
