//! The origin of the fixtures `bank` and `forum`: appended through the event store, read from the table's stream.
//!
//! `cargo test --test end_to_end sources::stream -- --ignored` captures them again.

use std::{fs, path::Path};

use projection_vocabulary::{
    AggregateId, RecordedEvent, Value, Version, data,
    sample::{Fact, record},
};
use serde_json::json;

use crate::support::{
    stream::stream,
    world::{World, fold, registry},
};

/// Records in one captured batch.
const BATCH: usize = 20;

fn fact(aggregate: &str, event_type: &'static str, data: Value) -> Fact {
    Fact { aggregate: aggregate.into(), event_type, data }
}

fn bank() -> Vec<Fact> {
    vec![
        fact("account-alice", "AccountOpened", data! { initialDeposit: 100 }),
        fact("account-bob", "AccountOpened", data! { initialDeposit: 0 }),
        fact("account-alice", "MoneyDeposited", data! { amount: 49.95 }),
        fact("account-alice", "MoneyWithdrawn", data! { amount: 20.50 }),
        fact("account-carol", "AccountOpened", data! { initialDeposit: 2500.00 }),
        fact("account-bob", "MoneyDeposited", data! { amount: 12.34 }),
        fact("account-bob", "MoneyDeposited", data! { amount: 0.66 }),
        fact("account-carol", "MoneyWithdrawn", data! { amount: 2500 }),
        fact("account-carol", "AccountClosed", data! {}),
        fact("account-dave", "AccountOpened", data! { initialDeposit: 0.1 }),
        fact("account-dave", "MoneyDeposited", data! { amount: 0.2 }),
        fact("account-alice", "MoneyDeposited", data! { amount: 1000 }),
        fact("account-erin", "AccountOpened", data! { initialDeposit: 77 }),
        fact("account-erin", "MoneyWithdrawn", data! { amount: 7.7 }),
        fact("account-erin", "MoneyWithdrawn", data! { amount: 7.7 }),
        fact("account-alice", "MoneyWithdrawn", data! { amount: 129.45 }),
        fact("account-dave", "MoneyWithdrawn", data! { amount: 0.3 }),
        fact("account-dave", "AccountClosed", data! {}),
    ]
}

fn forum() -> Vec<Fact> {
    let category = |id, name: &str| {
        fact(id, "CategoryCreated", Value::Map([("name".into(), name.into()), ("description".into(), "All about it".into())].into()))
    };
    let post = |topic, category: &str, post: &str, author: &str| {
        let fields = [("postId", post), ("authorId", author), ("categoryId", category)];
        fact(topic, "PostAdded", Value::Map(fields.map(|(name, text)| (name.to_owned(), text.into())).into()))
    };
    vec![
        category("category-news", "News"),
        category("category-rust", "Rust"),
        fact("topic-1", "TopicCreated", data! { categoryId: "category-news", title: "Welcome", authorId: "ann" }),
        post("topic-1", "category-news", "post-1", "ann"),
        post("topic-1", "category-news", "post-2", "ben"),
        fact("topic-2", "TopicCreated", data! { categoryId: "category-news", title: "Borrowed for too long", authorId: "ben" }),
        post("topic-2", "category-news", "post-3", "ben"),
        post("topic-2", "category-news", "post-4", "cat"),
        fact("topic-2", "TopicMoved", data! { fromCategoryId: "category-news", toCategoryId: "category-rust" }),
        post("topic-2", "category-rust", "post-5", "ann"),
        fact("topic-3", "TopicCreated", data! { categoryId: "category-rust", title: "Buy my watches", authorId: "spammer" }),
        post("topic-3", "category-rust", "post-6", "spammer"),
        post("topic-3", "category-rust", "post-7", "spammer"),
        fact("topic-3", "TopicDeleted", data! { categoryId: "category-rust" }),
        category("category-archive", "Archive"),
        fact("topic-1", "PostRemoved", data! { postId: "post-2", categoryId: "category-news" }),
        post("topic-1", "category-news", "post-8", "cat"),
        fact("topic-4", "TopicCreated", data! { categoryId: "category-rust", title: "Größenordnungen & Ünicode ✓", authorId: "dörte" }),
    ]
}

/// Appends events as writers do: consecutive events of one aggregate in one transaction.
async fn append(world: &World, events: &[RecordedEvent]) {
    for together in events.chunk_by(|one, two| one.aggregate == two.aggregate) {
        let expected: Version = together[0].version.previous();
        world.worker.store().append(expected, together).await.expect("appended");
    }
}

#[tokio::test]
#[ignore = "writes the fixtures"]
async fn capture() {
    for (name, facts) in [("bank", bank()), ("forum", forum())] {
        let world = World::new().await;
        append(&world, &record(facts).collect::<Vec<_>>()).await;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        fs::create_dir_all(&folder).expect("a folder");
        for (batch, number) in stream(&world).await.chunks(BATCH).zip(1..) {
            let text = serde_json::to_string_pretty(&json!({ "Records": batch })).expect("JSON");
            fs::write(folder.join(format!("batch-{number}.json")), text + "\n").expect("written");
        }
    }
}

#[tokio::test]
async fn the_stream_carries_every_appended_event() {
    for (facts, projection) in [(bank(), "account-summary"), (forum(), "forum-counters")] {
        let world = World::new().await;
        let events: Vec<_> = record(facts).collect();
        append(&world, &events).await;
        let records: Vec<_> = stream(&world).await.iter().map(|record| serde_json::value::to_raw_value(record).expect("JSON")).collect();
        let report = world.worker.process(&records, projection_worker::internals::retry::Deadline::NONE).await;
        assert_eq!(report.total.applied, events.len() as u64);
        assert_eq!(report.projections[projection].applied, events.len() as u64);
        assert_eq!(world.rows().await, fold(registry(), &events));
        let aggregates: std::collections::BTreeSet<&AggregateId> = events.iter().map(|event| &event.aggregate).collect();
        assert!(report.ignored_total() >= aggregates.len() as u64, "the stream carries the VERSION items, too");
    }
}
