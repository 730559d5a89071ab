//! `projector explain`, as an operator runs it.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{RecordedEvent, Value, Version, data};
use projection_worker::internals::{
    retry::Deadline,
    store::item::{partition_key, sort_key},
};
use serde_json::{Value as Json, json};

use super::command::run;
use crate::support::{
    projector::projector,
    world::{World, account, included, recorded, records},
};

/// Part of event data; only those who ask for data or rows may see it.
const MARKER: &str = "only-data-may-say-this";

/// A world with the programs' projections, all of them up to date.
async fn world_of(events: &[RecordedEvent]) -> World {
    let world = World::with(included()).await;
    world.append_all(events).await;
    world.process(events).await;
    world
}

struct Explained {
    code: i32,
    out: String,
    said: String,
}

impl Explained {
    fn lines(&self) -> Vec<Json> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The output as one line: long ones are wrapped.
    fn flat(&self) -> String {
        self.out.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The output without the lines that name the store.
    fn told(&self) -> &str {
        self.out.split_once("\n\n").map_or("", |(_, told)| told)
    }
}

async fn explain(url: &str, arguments: &[&str]) -> Explained {
    let (code, out, said) = projector(&[&["--endpoint-url", url, "explain"], arguments].concat()).await;
    Explained { code, out, said }
}

/// The key of an event in the event store.
fn event_key(aggregate: &str, version: u64) -> HashMap<String, AttributeValue> {
    [key("PK", &partition_key(&aggregate.into())), key("SK", &sort_key(Version(version)))].into()
}

async fn delete_event(world: &World, aggregate: &str, version: u64) {
    let delete = world.embedded.client().delete_item().table_name("event-store");
    delete.set_key(Some(event_key(aggregate, version))).send().await.expect("deleted");
}

fn key(name: &str, value: &str) -> (String, AttributeValue) {
    (name.to_owned(), AttributeValue::S(value.to_owned()))
}

#[tokio::test]
async fn each_event_is_told_with_what_it_did_to_each_row() {
    let world = world_of(&account("alice", &["5.50", "1"])).await;
    let url = world.serve().await;
    let all = explain(&url, &["alice"]).await;
    assert_eq!(all.code, 0, "{}", all.said);
    assert!(all.out.starts_with("store http://127.0.0.1:"), "{}", all.out);
    expect_test::expect![[r#"
        account-summary at revision 1:
             1  2026-01-01 00:00:01  AccountOpened
                  balance = 5.5
                  createdAt = "2026-01-01T00:00:01.000Z"
                  status = "ACTIVE"
                  updatedAt = "2026-01-01T00:00:01.000Z"
             2  2026-01-01 00:00:02  MoneyDeposited
                  balance 5.5 → 6.5
                  updatedAt "2026-01-01T00:00:01.000Z" → "2026-01-01T00:00:02.000Z"
          the row then, at version 2: balance=6.5, createdAt="2026-01-01T00:00:01.000Z",
            status="ACTIVE", updatedAt="2026-01-01T00:00:02.000Z"
          the stored row is the same

        account-statement at revision 1:
             1  2026-01-01 00:00:01  AccountOpened
                  balance = 5.5
                  child row 0000000001: amount = 5.5, at = "2026-01-01T00:00:01.000Z",
                    balance = 5.5
             2  2026-01-01 00:00:02  MoneyDeposited
                  balance 5.5 → 6.5
                  child row 0000000002: amount = 1, at = "2026-01-01T00:00:02.000Z",
                    balance = 6.5
          the row then, at version 2: balance=6.5, 2 child rows
          the stored row is the same
    "#]]
    .assert_eq(all.told());

    let one = explain(&url, &["alice", "--projection", "account-summary", "--from", "2", "--json"]).await;
    assert_eq!(
        one.lines(),
        [
            json!({
                "projection": "account-summary", "version": 2, "eventType": "MoneyDeposited", "timestamp": "2026-01-01T00:00:02.000Z",
                "eventId": "alice-2", "did": "applied", "children": [], "changes": [
                    {"attribute": "balance", "from": 5.5, "to": 6.5},
                    {"attribute": "updatedAt", "from": "2026-01-01T00:00:01.000Z", "to": "2026-01-01T00:00:02.000Z"},
                ],
            }),
            json!({
                "projection": "account-summary", "revision": 1, "last": 2, "stoppedAt": null, "why": null, "waiting": 0,
                "row": { "version": 2, "contributions": [], "children": 0, "attributes": {
                    "balance": 6.5, "createdAt": "2026-01-01T00:00:01.000Z", "status": "ACTIVE", "updatedAt": "2026-01-01T00:00:02.000Z",
                } },
                "stored": {"version": 2, "revision": 1, "parkedAt": null, "is": "right"},
            }),
        ],
    );
    let with_data = explain(&url, &["alice", "--projection", "account-summary", "--event-data"]).await;
    assert!(with_data.out.contains("\n          data {\"initialDeposit\":5.5}\n"), "{}", with_data.out);
    let lines = explain(&url, &["alice", "--projection", "account-summary", "--event-data", "--json"]).await.lines();
    assert_eq!(lines[1]["data"], json!({ "amount": 1 }));
}

#[tokio::test]
async fn a_row_is_told_as_of_a_version_or_a_time() {
    let world = world_of(&account("alice", &["1", "2", "4"])).await;
    let url = world.serve().await;
    for (at, version, balance, events) in [
        ("0", 0, None, 0),
        ("1", 1, Some(1), 1),
        ("2", 2, Some(3), 2),
        ("9", 3, Some(7), 3),
        ("2026-01-01T00:00:00.999Z", 0, None, 0),
        ("2026-01-01T00:00:02Z", 2, Some(3), 2),
        ("2026-01-01T02:00:02.999+02:00", 2, Some(3), 2),
        ("2030-01-01T00:00:00Z", 3, Some(7), 3),
    ] {
        let explained = explain(&url, &["alice", "--projection", "account-summary", "--at", at, "--json"]).await;
        let lines = explained.lines();
        let (last, steps) = lines.split_last().expect("the row");
        let row = &last["row"];
        assert_eq!((explained.code, steps.len(), &row["version"]), (0, events, &json!(version)), "{at}: {}", explained.said);
        assert_eq!(row["attributes"].get("balance"), balance.map(|balance| json!(balance)).as_ref(), "{at}");
        assert_eq!((&last["stored"]["is"], &last["stored"]["version"]), (&json!("right"), &json!(3)), "{at}: whatever is asked for");
    }
    let text = explain(&url, &["alice", "--projection", "account-summary", "--at", "2"]).await;
    assert!(text.out.contains("  the row then, at version 2: balance=3, "), "{}", text.out);
    assert!(text.out.ends_with("  the stored row is at version 3, and right\n"), "{}", text.out);
    let wrong = explain(&url, &["alice", "--at", "soon\u{1b}[2J"]).await;
    assert!(wrong.code == 2 && wrong.said.contains("--at is no version, and as a time it is not an RFC 3339 timestamp"), "{}", wrong.said);
}

/// A page has a thousand events; one may end where the telling does.
#[tokio::test]
async fn a_long_history_is_told_page_by_page() {
    let amounts = vec!["1"; 2_001];
    let world = world_of(&account("alice", &amounts)).await;
    let url = world.serve().await;
    for (at, told) in [("1000", 1_000), ("2000", 2_000), ("2001", 2_001), ("5000", 2_001)] {
        let explained = explain(&url, &["alice", "--projection", "account-summary", "--at", at, "--from", "999", "--json"]).await;
        let lines = explained.lines();
        let (last, steps) = lines.split_last().expect("the row");
        assert_eq!((explained.code, steps.len()), (0, told - 998), "{}", explained.said);
        assert_eq!(steps[0]["changes"][0], json!({ "attribute": "balance", "from": 998, "to": 999 }));
        assert_eq!(last["row"]["attributes"]["balance"], json!(told));
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_applied_ends_it() {
    let mut events = account("alice", &["5", "1", "2", "4"]);
    events[1].data = Value::Map([("amount".to_owned(), MARKER.into())].into());
    let world = World::with(included()).await;
    world.append_all(&events).await;
    world.worker.process(&records(&events), Deadline::NONE).await;
    let url = world.serve().await;
    let explained = explain(&url, &["alice", "--projection", "account-summary"]).await;
    assert_eq!(explained.code, 1, "{}", explained.said);
    let told = explained.told();
    let second = "2 2026-01-01 00:00:02 MoneyDeposited: cannot be applied: cannot read the event's data: `amount`: expected an exact number, found a \
                  string it stops before version 2; 2 events wait behind it the row then, at version 1: balance=5, ";
    assert!(explained.flat().contains(second), "{told}");
    assert!(told.contains("\n  the stored row is the same\n  it is parked since 20"), "{told}");
    let after = explain(&url, &["alice", "--projection", "account-summary", "--from", "4"]).await;
    assert!(after.flat().contains("it stops before version 2: cannot read the event's data: `amount`"), "{}", after.out);
    assert!(after.flat().contains("found a string; 1 event waits behind it the row then"), "{}", after.out);
    assert!(!explained.out.contains(MARKER) && !explained.out.contains("     3  "), "nothing after it is told: {told}");

    let lines = explain(&url, &["alice", "--projection", "account-summary", "--json"]).await.lines();
    let dids: Vec<_> = lines.iter().map(|line| line["did"].clone()).collect();
    assert_eq!(dids, [json!("applied"), json!("stopped"), Json::Null]);
    assert_eq!((&lines[1]["changes"], &lines[2]["stoppedAt"], &lines[2]["waiting"]), (&json!([]), &json!(2), &json!(2)));
    assert!(lines[2]["stored"]["parkedAt"].is_string() && lines[1]["why"].is_string(), "{lines:?}");
    // As of a version before it, nothing is wrong with the event's history. The row is parked all the same.
    let before = explain(&url, &["alice", "--projection", "account-summary", "--at", "1"]).await;
    assert!(before.code == 0 && before.out.contains("parked since"), "{}", before.out);
}

#[tokio::test]
async fn a_version_that_is_missing_ends_it_and_no_other_event_is_blamed() {
    let events = account("alice", &["5", "1", "2"]);
    let world = World::with(included()).await;
    world.append_all(&events).await;
    delete_event(&world, "alice", 2).await;
    let url = world.serve().await;
    let lines = explain(&url, &["alice", "--projection", "account-summary", "--json"]).await.lines();
    assert_eq!((lines.len(), &lines[0]["version"], &lines[0]["did"]), (2, &json!(1), &json!("applied")), "{lines:?}");
    assert_eq!((&lines[1]["stoppedAt"], &lines[1]["waiting"], &lines[1]["last"]), (&json!(2), &json!(1), &json!(3)));
    let explained = explain(&url, &["alice", "--projection", "account-summary"]).await;
    let says =
        "it stops before version 2: the event store does not have this version, although it has a later one; 1 event waits behind it";
    assert!(explained.code == 1 && explained.flat().contains(says), "{}", explained.out);
    assert!(explained.out.contains("  no row is stored\n"), "{}", explained.out);
}

#[tokio::test]
async fn an_item_that_is_no_event_ends_it_where_it_may_concern_the_projection() {
    let events = account("alice", &["5", "1"]);
    let world = world_of(&events[..1]).await;
    world.append_all(&events[1..]).await;
    let update = world.embedded.client().update_item().table_name("event-store");
    let update = update.set_key(Some(event_key("alice", 2)));
    update.update_expression("REMOVE #t").expression_attribute_names("#t", "timestamp").send().await.expect("updated");
    let url = world.serve().await;
    let explained = explain(&url, &["alice", "--projection", "account-summary"]).await;
    assert!(
        explained.code == 1 && explained.out.contains("     2                       unreadable: cannot be applied: "),
        "{}",
        explained.out
    );
    // It is of a type that the forum does not know.
    let explained = explain(&url, &["alice", "--projection", "forum-counters"]).await;
    assert!(explained.code == 0 && explained.out.contains("unreadable: does not concern it\n"), "{}", explained.out);
    assert!(explained.out.ends_with("  the row then: there is none\n  no row is stored\n"), "{}", explained.out);
}

#[tokio::test]
async fn a_stored_row_that_its_events_do_not_make_is_told() {
    let world = world_of(&account("alice", &["5.50", "1"])).await;
    let url = world.serve().await;
    let of = async |projection: &str, more: &[&str]| explain(&url, &[&["alice", "--projection", projection], more].concat()).await;
    let set = async |attribute: &str, number: &str| {
        let update = world.embedded.client().update_item().table_name("account-summary").set_key(Some([key("accountId", "alice")].into()));
        let update = update.update_expression("SET #a = :n").expression_attribute_names("#a", attribute);
        update.expression_attribute_values(":n", AttributeValue::N(number.to_owned())).send().await.expect("updated");
    };
    set("balance", "7").await;
    let wrong = of("account-summary", &[]).await;
    let says = "the stored row, at version 2, differs, from what it is to what it must be: balance 7 → 6.5; see `projector verify`";
    assert!(wrong.code == 1 && wrong.flat().contains(says), "{}", wrong.out);
    // The row at version 1 is right, and the one that is stored is wrong at its own version.
    let lines = of("account-summary", &["--at", "1", "--json"]).await.lines();
    assert_eq!((&lines[1]["row"]["attributes"]["balance"], &lines[1]["stored"]["is"]), (&json!(5.5), &json!("wrong")));
    assert_eq!(lines[1]["stored"]["differences"], json!([{ "attribute": "balance", "from": 7, "to": 6.5 }]));
    set("revision", "2").await;
    let newer = of("account-summary", &[]).await;
    assert!(newer.code == 0 && newer.out.contains("  revision 2 of the rule wrote the stored row: "), "{}", newer.out);

    let delete = world.embedded.client().delete_item().table_name("account-statement");
    delete.set_key(Some([key("accountId", "alice"), key("movement", "0000000002")].into())).send().await.expect("deleted");
    let wrong = of("account-statement", &["--json"]).await;
    let stored = &wrong.lines()[2]["stored"];
    assert_eq!(
        (wrong.code, &stored["is"], &stored["differences"], &stored["childrenThatDiffer"]),
        (1, &json!("wrong"), &json!([]), &json!(1))
    );
    let wrong = of("account-statement", &[]).await;
    assert!(wrong.flat().contains("what it must be: 1 child row; see"), "{}", wrong.out);

    // The event store has lost what the row stands on, as after a restore.
    set("revision", "1").await;
    set("balance", "6.5").await;
    assert_eq!(of("account-summary", &[]).await.code, 0);
    delete_event(&world, "alice", 2).await;
    let ahead = of("account-summary", &["--json"]).await;
    let lines = ahead.lines();
    assert_eq!((ahead.code, &lines[1]["row"]["version"], &lines[1]["stored"]["version"]), (1, &json!(1), &json!(2)));
    assert_eq!(lines[1]["stored"]["differences"][0], json!({ "attribute": "version", "from": 2, "to": 1 }));
}

#[tokio::test]
async fn what_aggregates_share_is_told_by_aggregate() {
    let topics = ["t1", "t2", "t3", "t4"];
    let topic = |id| (id, "TopicCreated", data! { categoryId: "news", title: "Hello", authorId: "ann" });
    let post = |id| (id, "PostAdded", data! { categoryId: "news", authorId: "ann", postId: "p1" });
    let facts = topics.map(topic).into_iter().chain(["t2", "t2", "t4"].map(post));
    let world = world_of(&recorded(facts)).await;
    let url = world.serve().await;
    let attribute = async |name: &str, more: &[&str]| {
        explain(&url, &[&["news", "--projection", "forum-counters", "--attribute", name], more].concat()).await
    };
    let all = attribute("postCount", &[]).await;
    assert_eq!((all.code, all.said.as_str()), (0, ""));
    let made = "postCount of news in forum-counters shows 3, which these make:\n  t1: 0\n  t2: 2\n  t3: 0\n  t4: 1\nall together: 3\n";
    assert_eq!(all.out, made);
    let newest = attribute("lastPostAt", &["--json"]).await.lines();
    assert_eq!(newest[0], json!({ "aggregate": "t2", "contributes": "2026-01-01T00:00:06.000Z" }));
    let last =
        json!({ "total": { "shows": "2026-01-01T00:00:07.000Z", "together": "2026-01-01T00:00:07.000Z", "others": 0, "agree": true } });
    assert_eq!(newest[2], last);
    // Page by page.
    let first = attribute("postCount", &["--limit", "3"]).await;
    assert!(first.out.contains("  t3: 0\n  and 1 aggregate more\nall together: 3\n"), "{}", first.out);
    assert_eq!(first.said, "those after these: --after t3\n");
    let second = attribute("postCount", &["--limit", "3", "--after", "t3", "--json"]).await.lines();
    assert_eq!((second.len(), &second[0]["aggregate"], &second[1]["total"]["together"]), (2, &json!("t4"), &json!(3)));

    // The row itself has no events, so the command names what to ask.
    let news = explain(&url, &["news"]).await;
    assert_eq!((news.code, news.out.as_str()), (1, ""));
    let says = "error: the event store has no events of news\nin forum-counters it is a row that aggregates share: --projection forum-counters \
                --attribute NAME tells which made lastPostAt, postCount, topicCount\n";
    assert_eq!(news.said, says);
    let none = attribute("post\u{1b}[2JCount", &[]).await;
    assert!(none.code == 1 && none.said.contains("error: no aggregate makes post\\u001b[2JCount of news"), "{}", none.said);

    // A row that shows something else.
    let update = world.embedded.client().update_item().table_name("forum-counters").set_key(Some([key("id", "news")].into()));
    let update = update.update_expression("SET postCount = :n").expression_attribute_values(":n", AttributeValue::N("5".into()));
    update.send().await.expect("updated");
    let wrong = attribute("postCount", &[]).await;
    assert!(wrong.code == 1 && wrong.out.contains(" shows 5, ") && wrong.said.contains("see `projector verify`"), "{}", wrong.said);
}

#[tokio::test]
async fn what_there_is_not_is_said_in_words() {
    let world = world_of(&account("alice", &["5"])).await;
    let url = world.serve().await;
    for (arguments, code, says) in [
        (&["nobody"][..], 1, "error: the event store has no events of nobody\n"),
        (&["alice", "--projection", "accounts"], 2, "no projection `accounts` is in this program, which has account-summary, "),
        (&["alice", "--projection", "transfers"], 2, "transfers is a process, which makes no rows: `projector process show` tells what"),
        (&["alice", "--attribute", "balance"], 2, "--projection <P>"),
        (
            &["alice", "--projection", "account-summary", "--attribute", "balance"],
            1,
            "no aggregate makes balance of alice in account-summary",
        ),
        (&["alice", "--projection", "account-summary", "--attribute", "balance", "--at", "1"], 2, "cannot be used with"),
        (&["alice", "--projection", "forum-counters", "--limit", "1"], 2, "--attribute <NAME>"),
        (&[], 2, "<AGGREGATE>"),
    ] {
        let explained = explain(&url, arguments).await;
        assert!(explained.code == code && explained.out.is_empty() && explained.said.contains(says), "{arguments:?}: {}", explained.said);
    }
    // A projection that has nothing to do with it says so only if it is asked.
    let explained = explain(&url, &["alice", "--projection", "forum-counters"]).await;
    assert!(explained.code == 0 && explained.out.contains("AccountOpened: does not concern it\n"), "{}", explained.out);
    let odd = World::with(included()).await;
    odd.append_all(&recorded([("odd", "Unheard", Value::Map([].into()))])).await;
    let explained = explain(&odd.serve().await, &["odd"]).await;
    assert_eq!((explained.code, explained.told()), (0, ""));
    assert_eq!(explained.said, "no event concerns a projection of this program\n");
}

#[test]
fn an_instance_of_a_process_is_left_to_process_show() {
    let folder = tempfile::tempdir().expect("a folder");
    let done = |line: &str| {
        let (code, out, said) = run(folder.path(), line);
        assert_eq!(code, 0, "{line}: {out}{said}");
        (out, said)
    };
    done(
        r#"command order o1 '{"Place": {"userId": "u1", "items": [{"productId": "tea", "quantity": 1, "price": 1}], "accountId": "ann"}}'"#,
    );
    done("catch-up --all");
    let (out, said) = done("explain order-fulfilment/o1");
    assert!(out.contains("\nprocess-status at revision ") && out.contains("ProcessReceived"), "{out}");
    assert!(said.ends_with("it is an instance of a process: `projector process show order-fulfilment/o1` tells what it did\n"), "{said}");
}
