//! An event store is append-only. What the worker does when the stream says that it was not.

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{RecordedEvent, data};
use projection_worker::internals::{
    engine::{decode::Ignored, report::Report},
    retry::Deadline,
    store::item::{encode_event, partition_key, sort_key},
};
use serde_json::{Value as Json, json, value::RawValue};

use crate::support::world::{World, account, fold, record, recorded, registry};

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
