//! An event store is append-only. What the worker does when the stream says that it was not.

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{RecordedEvent, Registry, data};
use projection_worker::internals::{
    engine::{decode::Ignored, report::Report},
    retry::Deadline,
    store::item::{encode_event, partition_key, sort_key},
};
use serde_json::{Value as Json, json, value::RawValue};

use crate::support::world::{LISTS, World, account, fold, record, recorded, registry};

/// The stream's record of what was done to an event, with these images.
fn rewritten(event: &RecordedEvent, what: &str, images: &[(&str, &RecordedEvent)], replicated: bool) -> Box<RawValue> {
    let mut json: Json = serde_json::from_str(record(event, 9).get()).expect("JSON");
    json["eventName"] = what.into();
    let change = json["dynamodb"].as_object_mut().expect("an object");
    change.remove("NewImage");
    for (name, event) in images {
        let mut image = json!(serde_dynamo::Item::from(encode_event(event)));
        if replicated && *name == "NewImage" {
            image["aws:rep:updatetime"] = json!({ "N": "1767225600.5" });
            image["aws:rep:deleting"] = json!({ "BOOL": false });
        }
        change.insert((*name).to_owned(), image);
    }
    RawValue::from_string(json.to_string()).expect("JSON")
}

async fn told(world: &World, record: Box<RawValue>) -> Report {
    let report = world.worker.process(&[record], Deadline::NONE).await;
    assert_eq!((report.records, report.ignored_total(), report.total.failed, world.parked().await.len()), (1, 1, 0, 0));
    report
}

#[tokio::test]
async fn rows_that_count_a_changed_event_are_re_projected() {
    let world = World::new().await;
    let mut events = account("alice", &["100", "5"]);
    let post = |topic| (topic, "PostAdded", data! { postId: "p", authorId: "ann", categoryId: "news" });
    events.extend(recorded([("t1", "TopicCreated", data! { categoryId: "news", title: "t", authorId: "ann" }), post("t1"), post("t1")]));
    world.append_all(&events).await;
    world.process(&events).await;
    for (at, data) in [(0, data! { initialDeposit: 1000 }), (3, data! { postId: "p", authorId: "ann", categoryId: "old" })] {
        let before = events[at].clone();
        events[at].data = data;
        world.correct(&events[at]).await;
        // The stream may carry new images only.
        for images in [vec![("NewImage", &events[at])], vec![("OldImage", &before), ("NewImage", &events[at])]] {
            let report = told(&world, rewritten(&before, "MODIFY", &images, false)).await;
            assert_eq!((report.ignored[&Ignored::Modified], report.rewritten()), (1, 1));
            assert_eq!(world.rows().await, fold(registry(), &events));
        }
    }
}

#[tokio::test]
async fn an_event_that_is_replicated_is_not_changed() {
    let world = World::new().await;
    let events = account("alice", &["100"]);
    world.append_all(&events).await;
    world.process(&events).await;
    let images = [("OldImage", &events[0]), ("NewImage", &events[0])];
    let report = told(&world, rewritten(&events[0], "MODIFY", &images, true)).await;
    assert_eq!((report.ignored[&Ignored::Unchanged], report.rewritten(), report.usage.requests), (1, 0, 0));
}

#[tokio::test]
async fn a_row_that_its_history_no_longer_reaches_stays_and_is_counted() {
    let world = World::new().await;
    let events = account("alice", &["100", "5"]);
    world.append_all(&events).await;
    world.process(&events).await;
    let [partition, sort] = [partition_key(&events[0].aggregate), sort_key(events[0].version)].map(AttributeValue::S);
    let delete = world.embedded.client().delete_item().table_name("event-store").key("PK", partition).key("SK", sort);
    delete.send().await.expect("it is deleted");
    let report = told(&world, rewritten(&events[0], "REMOVE", &[("OldImage", &events[0])], false)).await;
    assert_eq!((report.ignored[&Ignored::Removed], report.rewritten(), report.total.reprojected), (1, 1, 0));
    assert_eq!(world.rows().await, fold(registry(), &events));
    // An event that no row counts yet is read when its turn comes.
    let new = account("bob", &["7"]);
    told(&world, rewritten(&new[0], "MODIFY", &[("NewImage", &new[0])], false)).await;
    assert_eq!(world.row("account-summary", "bob").await, "");
}

/// The home row of a topic says nothing of who wrote its posts.
#[tokio::test]
async fn child_rows_that_show_a_changed_event_are_re_projected_though_their_home_row_stays() {
    let registry = Registry::new(LISTS);
    let world = World::with(registry).await;
    let topic = ("t1", "TopicCreated", data! { categoryId: "news", title: "t", authorId: "ann" });
    let before = recorded([topic.clone(), ("t1", "PostAdded", data! { postId: "p", authorId: "ann", categoryId: "news" })]);
    world.append_all(&before).await;
    world.process(&before).await;
    let events = recorded([topic, ("t1", "PostAdded", data! { postId: "p", authorId: "ben", categoryId: "news" })]);
    world.correct(&events[1]).await;
    for reprojected in [1, 0] {
        let report = told(&world, rewritten(&before[1], "MODIFY", &[("NewImage", &events[1])], false)).await;
        assert_eq!(report.total.reprojected, reprojected);
        assert_eq!(world.rows().await, fold(registry, &events));
    }
}

#[tokio::test]
async fn a_row_that_takes_no_write_of_this_revision_is_left_as_it_is() {
    let mut requests = Vec::new();
    let parked = AttributeValue::S("2026-01-01T00:00:00.000Z".to_owned());
    let [zero, high] = ["0", "99"].map(|number| AttributeValue::N(number.to_owned()));
    for (name, value) in [("parkedAt", parked), ("revision", zero), ("revision", high.clone()), ("unfinished", high)] {
        let world = World::new().await;
        let mut events = account("alice", &["100", "5"]);
        world.append_all(&events).await;
        world.process(&events).await;
        let key = AttributeValue::S("alice".to_owned());
        let update = world.embedded.client().update_item().table_name("account-summary").key("accountId", key);
        let update = update.update_expression("SET #name = :value").expression_attribute_names("#name", name);
        update.expression_attribute_values(":value", value).send().await.expect("it is marked");
        let row = world.row("account-summary", "alice").await;
        let before = events[0].clone();
        events[0].data = data! { initialDeposit: 1000 };
        world.correct(&events[0]).await;
        let report = told(&world, rewritten(&before, "MODIFY", &[("NewImage", &events[0])], false)).await;
        assert_eq!((report.total.reprojected, world.row("account-summary", "alice").await), (0, row), "{name}");
        requests.push(report.usage.requests);
    }
    assert_eq!(requests, [2; 4], "the two projections' rows are read, and nothing else");
}
