//! `projector preview`, as an operator runs it.

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{Change, Decimal, DynProjection, Projection, Recorded, RecordedEvent, Refusal, own};
use projection_worker::internals::retry::Deadline;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::support::{
    projector::projector,
    world::{World, account, history, included, recorded, records},
};

/// `account-summary` as somebody may have written it before: a deposit counts twice. Its revision is the same.
struct Doubled;

const DOUBLED: &[&dyn DynProjection] = &[&Doubled];

#[derive(Deserialize)]
#[serde(rename_all_fields = "camelCase")]
enum Banked {
    AccountOpened { initial_deposit: Decimal },
    MoneyDeposited { amount: Decimal },
}

impl Projection for Doubled {
    type Event = Banked;
    const NAME: &str = "account-summary";
    const KEY: &str = "accountId";

    fn project(&self, event: &Recorded<'_, Banked>) -> Result<Change, Refusal> {
        let at = event.timestamp;
        Ok(match &event.event {
            Banked::AccountOpened { initial_deposit } => {
                own().add("balance", initial_deposit).set("status", "ACTIVE").set("createdAt", at).set("updatedAt", at).into()
            }
            Banked::MoneyDeposited { amount } => own().add("balance", amount).add("balance", amount).set("updatedAt", at).into(),
        })
    }
}

/// A world whose rows of `account-summary` another rule has written.
async fn doubled(events: &[RecordedEvent]) -> World {
    let world = World::with(included()).await;
    world.append_all(events).await;
    world.worker_of(DOUBLED).process(&records(events), Deadline::NONE).await;
    world
}

async fn preview(url: &str, arguments: &[&str]) -> (i32, String, String) {
    projector(&[&["--endpoint-url", url, "preview"], arguments].concat()).await
}

/// The output as one line: long ones are wrapped.
fn flat(out: &str) -> String {
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn set_revision(world: &World, account: &str, revision: u32) {
    let update = world.embedded.client().update_item().table_name("account-summary");
    let update = update.key("accountId", AttributeValue::S(account.to_owned())).update_expression("SET revision = :r");
    update.expression_attribute_values(":r", AttributeValue::N(revision.to_string())).send().await.expect("updated");
}

#[tokio::test]
async fn a_rule_that_makes_what_is_there_changes_nothing() {
    let world = World::new().await;
    let events = [history("bank", 51, 120, 20), history("forum", 52, 120, 20)].concat();
    world.append_all(&events).await;
    world.process(&events).await;
    let url = world.serve().await;
    for (projection, segments) in [("account-summary", "1"), ("forum-counters", "3")] {
        let rows = world.rows().await[projection].len();
        let (code, out, said) = preview(&url, &[projection, "--segments", segments, "--json"]).await;
        let shown: Json = serde_json::from_str(&out).expect("one line of JSON");
        assert_eq!((code, &shown["events"], &shown["shared"], &shown["examples"]), (0, &json!(240), &json!([]), &json!([])), "{said}");
        assert!(shown["same"] == shown["rows"] && shown["rows"].as_u64() <= Some(rows as u64) && shown["rows"] != 0, "{out}");
    }
    let (code, out, _) = preview(&url, &["account-summary"]).await;
    assert!(code == 0 && out.ends_with(" rows would be the same\n") && out.starts_with("store http://"), "{out}");
}

#[tokio::test]
async fn a_rule_that_changed_without_its_revision_is_warned_of() {
    let events = [account("ann", &["5", "1"]), account("ben", &["7"]), account("cid", &["1", "2", "4"])].concat();
    let world = doubled(&events).await;
    let (url, before) = (world.serve().await, world.rows().await);
    let (code, out, said) = preview(&url, &["account-summary"]).await;
    assert_eq!((code, said.as_str()), (1, ""));
    let told = out.split_once("\naccount-summary at").map(|(_, told)| format!("account-summary at{told}")).expect("the summary");
    expect_test::expect![[r#"
        account-summary at revision 1: 3 rows compared with 6 events
          1 row would be the same
          2 of 3 rows of revision 1 itself would change. If the rule has changed, raise
            its REVISION: only then are rows replaced. If it has not, they are wrong:
            `projector verify account-summary`
        what changes: balance in 2 rows
        for example ann, of revision 1: balance 7 → 6
        for example cid, of revision 1: balance 13 → 7
    "#]]
    .assert_eq(&told);
    let (_, out, _) = preview(&url, &["account-summary", "--json", "--examples", "1"]).await;
    let shown: Json = serde_json::from_str(&out).expect("one line of JSON");
    let example =
        json!({ "aggregateId": "ann", "revision": 1, "children": 0, "changes": [{ "attribute": "balance", "from": 7, "to": 6 }] });
    assert_eq!((&shown["unexplained"], &shown["attributes"], &shown["examples"]), (&json!(2), &json!({ "balance": 2 }), &json!([example])));

    // Had its revision been raised, the same rows would be of an older one.
    for id in ["ann", "ben", "cid"] {
        set_revision(&world, id, 0).await;
    }
    let (code, out, _) = preview(&url, &["account-summary"]).await;
    let says = "1 row would be the same 2 of 3 rows of an older revision would change: `projector rebuild-projection account-summary` what changes";
    assert!(code == 1 && flat(&out).contains(says), "{out}");
    set_revision(&world, "ann", 2).await;
    let (_, out, _) = preview(&url, &["account-summary"]).await;
    assert!(out.contains("\n  1 row of a newer revision, which this program leaves alone\n"), "{out}");
    assert_eq!(world.rows().await, before, "nothing is written");
    assert!(world.parked().await.is_empty());
}

#[tokio::test]
async fn shared_rows_are_shown_with_what_they_would_be() {
    let topic = |id| (id, "TopicCreated", projection_vocabulary::data! { categoryId: "news", title: "Hello", authorId: "ann" });
    let events = recorded(["t1", "t2", "t3"].map(topic));
    let world = World::new().await;
    world.append_all(&events).await;
    world.process(&events[..2]).await;
    let url = world.serve().await;
    let (code, out, _) = preview(&url, &["forum-counters"]).await;
    assert!(code == 1 && out.contains("  1 row would appear\n"), "{out}");
    assert!(out.ends_with("1 attribute of shared rows would change: topicCount of news 2 → 3\n"), "{out}");
    let (_, out, _) = preview(&url, &["forum-counters", "--json"]).await;
    let shown: Json = serde_json::from_str(&out).expect("one line of JSON");
    assert_eq!(shown["shared"], json!([{ "row": "news", "attribute": "topicCount", "from": 2, "to": 3 }]));
    let (code, out, _) = preview(&url, &["forum-counters", "--sample", "100", "--json"]).await;
    let shown: Json = serde_json::from_str(&out).expect("one line of JSON");
    assert_eq!((code, &shown["sample"], &shown["appear"], &shown["shared"]), (1, &json!(100), &json!(1), &json!([])));
    assert!(shown.get("sharedAttributes").is_none(), "{out}");
    let (_, out, _) = preview(&url, &["forum-counters", "--sample", "100"]).await;
    assert!(flat(&out).contains("compared with 3 events, a sample of about 100 %") && !out.contains("shared rows"), "{out}");
}

#[tokio::test]
async fn aggregates_that_would_be_parked_are_counted_by_reason_and_their_data_stays_hidden() {
    let mut events = [account("ann", &["5"]), account("ben", &["4711"]), account("cid", &["4712"]), account("dan", &["4713"])].concat();
    let of = |name: &str| projection_vocabulary::Value::Map([(name.to_owned(), "4711".into())].into());
    (events[1].data, events[2].data, events[3].data) = (of("initialDeposit"), of("other"), of("other"));
    let world = World::new().await;
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let url = world.serve().await;
    let (code, out, said) = preview(&url, &["account-summary"]).await;
    let missing = "cannot read the event's data: missing field `initialDeposit`";
    let text = "cannot read the event's data: `initialDeposit`: expected an exact number, found a string";
    let says = format!(
        "2 aggregates cannot be worked out, such as version 1 of cid: {missing} 1 aggregate cannot be worked out, such as version 1 of ben: {text}"
    );
    assert!(flat(&out).ends_with(&says), "the commonest reason first: {out}");
    assert!(code == 1 && !out.contains("4711") && !said.contains("4711"), "{out}{said}");
    let (_, out, _) = preview(&url, &["account-summary", "--json"]).await;
    let shown: Json = serde_json::from_str(&out).expect("one line of JSON");
    let stopped = |reason, aggregates, example| json!({ "reason": reason, "aggregates": aggregates, "example": example, "version": 1 });
    assert_eq!(shown["stopped"], json!([stopped(missing, 2, "cid"), stopped(text, 1, "ben")]));
    // One of them is parked, and then its event is corrected.
    world.worker_of(crate::support::world::ONE_EACH).process(&records(&events[1..2]), Deadline::NONE).await;
    world.correct(&account("ben", &["7"])[0]).await;
    let (_, out, _) = preview(&url, &["account-summary"]).await;
    let says = "1 row is parked, and not compared; this rule could apply 1 to the end: `projector parked redrive`";
    assert!(flat(&out).contains(says), "{out}");
}

#[tokio::test]
async fn what_cannot_be_previewed_is_refused() {
    let url = World::new().await.serve().await;
    for (arguments, says) in [
        (&["accounts"][..], "no projection `accounts` is in this program, which has account-summary, "),
        (&["transfers"], "error: transfers is a process, which makes no rows: "),
        (&["account-summary", "--sample", "0"], "0 is not in 1..=100"),
        (&["account-summary", "--segments", "0"], "0 is not in 1..=128"),
        (&[], "<NAME>"),
    ] {
        let (code, out, said) = preview(&url, arguments).await;
        assert!(code == 2 && out.is_empty() && said.contains(says), "{arguments:?}: {said}");
    }
    let (code, out, _) = preview(&url, &["account-summary"]).await;
    assert!(code == 0 && out.ends_with("account-summary at revision 1: 0 rows compared with 0 events\n"), "{out}");
}
