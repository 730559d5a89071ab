//! `projector explain` and `projector preview`, as an author or an operator runs them.

use expect_test::expect;
use projection_vocabulary::{Registry, Value, Version, data};
use projection_worker::internals::{
    operations::preview::{Preview, SegmentPreview},
    retry::Deadline,
    store::segment::Segment,
};
use serde_json::Value as Json;

use crate::support::{
    projections::{HOUSES_1, HOUSES_2},
    projector::projector,
    world::{World, account, recorded},
};

/// A world whose event store and rows have these events, and its address.
async fn served(events: &[projection_vocabulary::RecordedEvent]) -> (World, String) {
    let world = World::new().await;
    world.import(events).await;
    world.process(events).await;
    let url = world.serve().await;
    (world, url)
}

async fn explain(url: &str, arguments: &[&str]) -> (i32, String, String) {
    projector(&[&["--endpoint-url", url, "explain"], arguments].concat()).await
}

/// Without line ends: where a line is wrapped is not what these tests are about.
fn flat(out: &str) -> String {
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Without the first lines, which name the store.
fn story(out: &str) -> &str {
    &out[out.find("\n\n").expect("a story")..]
}

#[tokio::test]
async fn each_event_its_change_and_the_row_then() {
    let (_world, url) = served(&account("alice", &["3.50", "2", "-1"])).await;
    let (code, out, said) = explain(&url, &["alice"]).await;
    assert_eq!(code, 0, "{said}");
    expect![[r#"


        account-summary:
             1  2026-01-01 00:00:01  AccountOpened: balance = 3.5, createdAt =
                "2026-01-01T00:00:01.000Z", status = "ACTIVE", updatedAt =
                "2026-01-01T00:00:01.000Z"
             2  2026-01-01 00:00:02  MoneyDeposited: balance 3.5 → 5.5, updatedAt
                "2026-01-01T00:00:01.000Z" → "2026-01-01T00:00:02.000Z"
             3  2026-01-01 00:00:03  MoneyDeposited: balance 5.5 → 4.5, updatedAt
                "2026-01-01T00:00:02.000Z" → "2026-01-01T00:00:03.000Z"
          the row at version 3: balance=4.5 createdAt="2026-01-01T00:00:01.000Z"
            status="ACTIVE" updatedAt="2026-01-01T00:00:03.000Z"
          the stored row is the same

        account-statement:
             1  2026-01-01 00:00:01  AccountOpened: balance = 3.5, child row 0000000001:
                amount = 3.5, at = "2026-01-01T00:00:01.000Z", balance = 3.5
             2  2026-01-01 00:00:02  MoneyDeposited: balance 3.5 → 5.5, child row
                0000000002: amount = 2, at = "2026-01-01T00:00:02.000Z", balance = 5.5
             3  2026-01-01 00:00:03  MoneyDeposited: balance 5.5 → 4.5, child row
                0000000003: amount = -1, at = "2026-01-01T00:00:03.000Z", balance = 4.5
          the row at version 3: balance=4.5 3 child rows
          no row is stored yet
    "#]]
    .assert_eq(story(&out));

    let (_, out, _) = explain(&url, &["alice", "--projection", "account-summary", "--at", "2"]).await;
    let out = flat(&out);
    assert!(out.contains("the row at version 2: balance=5.5") && out.contains("the stored row is at version 3, and right"), "{out}");
    let (_, out, _) = explain(&url, &["alice", "--projection", "account-summary", "--at", "2026-01-01T00:00:02Z"]).await;
    assert!(out.contains("the row at version 2: balance=5.5") && !out.contains("version 3:"), "{out}");
    let (_, out, _) = explain(&url, &["alice", "--projection", "account-summary", "--from", "3", "--json"]).await;
    let lines: Vec<Json> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((lines.len(), &lines[0]["version"], &lines[0]["did"]), (2, &3.into(), &"applied".into()), "{out}");
    assert_eq!(lines[0]["changes"][0], serde_json::json!({ "attribute": "balance", "from": 5.5, "to": 4.5 }), "{out}");
    assert_eq!((&lines[1]["row"]["attributes"]["balance"], &lines[1]["row"]["stored"]["is"]), (&4.5.into(), &"same".into()), "{out}");
}

#[tokio::test]
async fn what_cannot_be_applied_ends_the_story_and_what_follows_waits() {
    let mut events = account("alice", &["5", "6", "7"]);
    events[1].data = Value::Map([("wrong".to_owned(), "\u{1b}[31m".into())].into());
    let (_world, url) = served(&events).await;
    let (code, out, said) = explain(&url, &["alice", "--projection", "account-summary"]).await;
    assert_eq!(code, 0, "{said}");
    let out = flat(&out);
    assert!(out.contains("MoneyDeposited: cannot be applied: cannot read the event's data: missing field `amount`"), "{out}");
    assert!(out.contains("MoneyDeposited: waits") && !out.contains('\u{1b}'), "{out}");
    assert!(out.contains("version 2 of 3 cannot be applied") && out.contains("the stored row is the same"), "{out}");
}

#[tokio::test]
async fn a_row_that_is_not_what_its_history_makes_is_a_finding() {
    let (world, url) = served(&account("alice", &["5"])).await;
    let update = world.embedded.client().update_item().table_name("account-summary");
    let update = update.key("accountId", aws_sdk_dynamodb::types::AttributeValue::S("alice".into())).update_expression("SET balance = :b");
    let update = update.expression_attribute_values(":b", aws_sdk_dynamodb::types::AttributeValue::N("4711".into()));
    update.send().await.expect("tampered");
    let (code, out, _) = explain(&url, &["alice", "--projection", "account-summary"]).await;
    assert!(code == 1 && flat(&out).contains("from what it is to what it must be: balance 4711 → 5"), "{out}");
}

#[tokio::test]
async fn who_made_an_attribute_of_a_shared_row() {
    let topics = |topic: &'static str| {
        let shared = || data! { categoryId: "news", authorId: "ann", title: "t", postId: "p" };
        [(topic, "TopicCreated", shared()), (topic, "PostAdded", shared())]
    };
    let (_world, url) = served(&recorded(topics("t1").into_iter().chain(topics("t2")))).await;
    let of = async |more: &[&str]| {
        explain(&url, &[&["news", "--projection", "forum-counters", "--attribute", "postCount"], more].concat()).await
    };
    let (code, out, said) = of(&[]).await;
    assert_eq!(code, 0, "{said}");
    expect![[r#"
        postCount of news shows 2, made by:
          t1: 1
          t2: 1
        together 2
    "#]]
    .assert_eq(&out);
    let (_, out, _) = of(&["--limit", "1"]).await;
    assert!(out.contains("and 1 more aggregate; to see more: --limit N"), "{out}");
    let (_, out, _) = of(&["--json"]).await;
    assert!(out.ends_with("{\"others\":0,\"shows\":2,\"together\":2}\n"), "{out}");
    let (code, _, said) = explain(&url, &["news", "--projection", "forum-counters", "--attribute", "nothing"]).await;
    assert!(code == 2 && said.contains("no aggregate contributes to nothing of news in forum-counters"), "{said}");
}

#[tokio::test]
async fn what_cannot_be_explained_is_said() {
    let (_world, url) = served(&account("alice", &["5"])).await;
    let (code, _, said) = explain(&url, &["bob"]).await;
    assert!(code == 1 && said.contains("the event store has no events of bob"), "{said}");
    let (code, _, said) = explain(&url, &["alice", "--projection", "order-fulfilment"]).await;
    assert!(code == 2 && said.contains("`projector process show` tells what an instance did"), "{said}");
    let (code, _, said) = explain(&url, &["alice", "--at", "soon"]).await;
    assert!(code == 2 && said.contains("--at is no version, and as a time it is"), "{said}");
    let (code, _, said) = explain(&url, &["alice", "--attribute", "balance"]).await;
    assert!(code == 2 && said.contains("--projection"), "{said}");
    // A projection that its events do not concern tells nothing by itself, and something if asked.
    let (code, out, _) = explain(&url, &["alice", "--projection", "forum-counters"]).await;
    assert!(code == 0 && out.contains("AccountOpened: does not concern it"), "{out}");
}

async fn previewed(world: &World, rules: &'static [&'static dyn projection_vocabulary::DynProjection]) -> Preview {
    let worker = world.worker_of(rules);
    let mut part = SegmentPreview::new(worker.store(), rules[0], Segment::ALL, 1);
    while part.step(Deadline::NONE).await.expect("read") {}
    part.preview
}

#[tokio::test]
async fn a_preview_tells_rows_of_another_revision_from_those_of_the_same() {
    let built = |id: &'static str, rooms: i32| {
        (id, "Built", Value::Map([("site".to_owned(), "hill".into()), ("rooms".to_owned(), rooms.into())].into()))
    };
    let events = recorded([built("h1", 3), built("h2", 4), ("h2", "Painted", data! {}), ("h3", "Painted", data! {})]);
    let world = World::with(Registry::new(HOUSES_1)).await;
    world.import(&events).await;
    world.process(&events).await;

    let same = previewed(&world, HOUSES_1).await;
    assert_eq!((same.rows, same.same, same.changed(), same.events), (3, 3, 0, 4));
    let next = previewed(&world, HOUSES_2).await;
    assert_eq!((next.rows, next.unexplained, next.newer), (3, 0, 0), "{next:?}");
    assert!(next.outdated > 0 && next.examples.len() == 1 && !next.attributes.is_empty(), "{next:?}");

    // The rule changes without its revision: the row says that it is of the second one.
    let table = world.worker.store().names().projections["houses"].clone();
    for id in ["h1", "h2", "h3"] {
        let update = world.embedded.client().update_item().table_name(&table);
        let update = update.key("id", aws_sdk_dynamodb::types::AttributeValue::S(id.into())).update_expression("SET revision = :two");
        let update = update.expression_attribute_values(":two", aws_sdk_dynamodb::types::AttributeValue::N("2".into()));
        update.send().await.expect("set");
    }
    let unraised = previewed(&world, HOUSES_2).await;
    assert_eq!((unraised.outdated, unraised.unexplained), (0, next.outdated), "{unraised:?}");
    let older = previewed(&world, HOUSES_1).await;
    assert_eq!((older.newer, older.changed()), (3, 0), "{older:?}");
}

#[tokio::test]
async fn a_preview_counts_what_would_be_parked_and_ignores_what_is_behind() {
    let mut events = account("alice", &["5", "6", "7"]);
    let (world, url) = served(&events).await;
    let preview = async |more: &[&str]| projector(&[&["--endpoint-url", &url, "preview", "account-summary"], more].concat()).await;
    let (code, out, said) = preview(&[]).await;
    assert!(code == 0 && out.contains("account-summary at revision 1: 1 row and 3 events compared\n  1 row as they are\n"), "{out}{said}");

    // A row that is behind is compared at its version.
    let later = account("alice", &["5", "6", "7", "8"]);
    world.import(&later[3..]).await;
    let (code, out, _) = preview(&["--json"]).await;
    let document: Json = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &document["same"], &document["unexplained"]), (0, &1.into(), &0.into()), "{out}");

    events[1].data = data! { wrong: 1 };
    events[1].event_id = "other".into();
    world.correct(&events[1]).await;
    let (code, out, _) = preview(&[]).await;
    let out = flat(&out);
    assert!(code == 1 && out.contains("1 aggregate would be parked: cannot read the event's data: missing field `amount`"), "{out}");
    let (code, _, said) = projector(&["--endpoint-url", &url, "preview", "order-fulfilment"]).await;
    assert!(code == 2 && said.contains("order-fulfilment"), "{said}");
    assert_eq!(world.worker.store().current_version(&"alice".into()).await.expect("read"), Version(4));
}
