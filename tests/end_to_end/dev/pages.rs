//! What the pages show, beside the live one.

use std::{collections::BTreeSet, path::PathBuf};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{Deciders, Registry, Value};
use projection_worker::{
    Calls, Store,
    internals::{
        dev::{self, Access},
        embedded::Embedded,
    },
};
use tokio::net::TcpListener;

use crate::support::{
    console::Console,
    projections::{HOUSES_1, HOUSES_2},
    projector::{client, projector},
    world::{names, recorded},
};

async fn with_topics() -> Console {
    let console = Console::start().await;
    console.command("category", "news", "Create", &[("name", "News")]).await;
    for topic in ["t1", "t2"] {
        console.command("topic", topic, "Create", &[("categoryId", "news"), ("authorId", "ann"), ("title", "Hello")]).await;
    }
    console.command("topic", "t1", "Post", &[("postId", "p1"), ("authorId", "ben"), ("text", "Hi")]).await;
    console.until("/row?projection=forum-counters&key=news", "the post", |page| page.contains("postCount</th><td>1</td>")).await;
    console.until_idle().await;
    console
}

#[tokio::test]
async fn a_shared_row_tells_who_made_it_and_an_aggregate_what_it_contributes() {
    let console = with_topics().await;
    let page = console.page("/row?projection=forum-counters&key=news&why=topicCount").await;
    assert!(page.contains("Why topicCount?") && page.contains(">t1</a>") && page.contains(">t2</a>"), "{page}");
    let page = console.page("/row?projection=forum-counters&key=t1").await;
    assert!(page.contains("What it contributes to shared rows") && page.contains("postCount"), "{page}");
    let page = console.page("/row?projection=forum-counters&key=nobody").await;
    assert!(page.contains("There is no such row."), "{page}");
}

#[tokio::test]
async fn the_stepper_shows_each_event_and_the_row_around_it() {
    let console = with_topics().await;
    let first = console.page("/aggregate?id=t1&projection=forum-counters&at=1").await;
    assert!(first.contains("version 1 of 2") && first.contains("TopicCreated") && !first.contains("PostAdded"), "{first}");
    let last = console.page("/aggregate?id=t1").await;
    assert!(last.contains("version 2 of 2") && last.contains("✓ The stored row is the same."), "{last}");
    assert!(last.contains("contributed to <a href=\"/row?projection=forum-counters&amp;key=news\">news</a>"), "{last}");
    for (path, status) in
        [("/aggregate?id=nobody", 404), ("/aggregate?id=t1&at=99", 200), ("/aggregate?id=t1&at=x", 400), ("/aggregate", 400)]
    {
        assert_eq!(console.get(path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn each_change_of_a_row_and_of_its_child_rows_stands_beside_its_record() {
    let console = Console::start().await;
    console.command("account", "ann", "Open", &[("initialDeposit", "100")]).await;
    console.until("/", "the first event", |page| page.contains("AccountOpened")).await;
    console.command("account", "ann", "Deposit", &[("amount", "25.5")]).await;
    console.until("/", "the deposit", |page| page.contains("MoneyDeposited")).await;
    let page = console.until_idle().await;
    let (_, deposit) = page.split_once("<strong>MoneyDeposited</strong>").expect("it is there");
    let (deposit, open) = deposit.split_once("<strong>AccountOpened</strong>").expect("it is older");
    assert!(deposit.contains("<b>balance</b> 100 → 125.5"), "{deposit}");
    assert!(deposit.contains("child row 0000000002:") && deposit.contains("<b>amount</b> 25.5"), "{deposit}");
    assert_eq!(deposit.matches("child row").count(), 1, "the older line is not this event's: {deposit}");
    assert!(open.contains("child row 0000000001:"), "{open}");

    console.press("again").await;
    let page = console.until("/", "a duplicate", |page| page.contains("= duplicate")).await;
    let (_, lane) = page.split_once("<ol id=\"lane\"").expect("a lane");
    assert_eq!(lane.matches("child row").count(), 2, "a duplicate writes nothing: {lane}");
}

#[tokio::test]
async fn a_row_that_somebody_has_changed_by_hand_is_shown_as_wrong() {
    let console = with_topics().await;
    let client = client(&console.database);
    let update = client.update_item().table_name("forum-counters").key("id", AttributeValue::S("t1".to_owned()));
    let update = update.update_expression("SET postCount = :n").expression_attribute_values(":n", AttributeValue::N("7".to_owned()));
    update.send().await.expect("updated");
    let page = console.page("/aggregate?id=t1&projection=forum-counters").await;
    let difference = "postCount</th><td>7</td><td>1</td>";
    assert!(page.contains("✗ The stored row differs") && page.contains(difference), "{page}");
}

#[tokio::test]
async fn rows_are_paged_found_by_a_part_of_their_key_and_read_through_an_index() {
    let console = Console::start().await;
    for account in 0..120 {
        console.command("account", &format!("acc-{account:03}"), "Open", &[("initialDeposit", "1")]).await;
    }
    console.until("/rows?projection=account-summary&find=acc-119", "the last account", |page| page.contains(">acc-119</a>")).await;
    let (mut path, mut seen, mut pages) = ("/rows?projection=account-summary".to_owned(), BTreeSet::new(), 0);
    loop {
        let page = console.page(&path).await;
        pages += 1;
        let before = seen.len();
        seen.extend(page.split("&amp;key=acc-").skip(1).map(|rest| rest[..3].to_owned()));
        assert!(seen.len() - before <= 50, "a page has at most 50 rows");
        let Some((_, next)) = page.split_once("<a rel=\"next\" href=\"") else { break };
        path = next.split('"').next().expect("an address").replace("&amp;", "&");
    }
    assert_eq!((seen.len(), pages), (120, 3));
    let page = console.page("/rows?projection=account-summary&find=c-11").await;
    assert_eq!(page.matches("&amp;key=acc-11").count(), 10, "{page}");
    assert!(console.page("/rows?projection=account-summary&find=nobody").await.contains("No rows."));
    assert_eq!(console.get("/rows?projection=account-summary&after=nonsense").await.status, 400);

    console.command("user", "u1", "Register", &[("name", "Ann"), ("email", "ann@example.com")]).await;
    let items = r#"[{"productId":"tea","name":"tea","price":1,"quantity":1}]"#;
    console.command("order", "o1", "Place", &[("userId", "u1"), ("items", items)]).await;
    let path = "/rows?projection=users-and-orders&index=orders-by-user&values=u1";
    console.until(path, "the order", |page| page.contains(">o1</a>")).await;
    assert_eq!(console.get("/rows?projection=users-and-orders&index=nothing&values=u1").await.status, 404);
}

#[tokio::test]
async fn a_process_is_followed_and_a_stuck_instance_cannot_be_told_nonsense() {
    let console = Console::start().await;
    console.command("account", "ann", "Open", &[("initialDeposit", "5")]).await;
    console.command("stock", "tea", "Receive", &[("quantity", "5")]).await;
    console.command("user", "u1", "Register", &[("name", "Ann"), ("email", "ann@example.com")]).await;
    let items = r#"[{"productId":"tea","name":"tea","price":10,"quantity":1}]"#;
    console.command("order", "o1", "Place", &[("userId", "u1"), ("items", items), ("accountId", "ann")]).await;
    console.until("/processes?status=undone", "the end of the order", |page| page.contains("order-fulfilment/o1")).await;
    let page = console.page("/process?instance=order-fulfilment/o1").await;
    assert!(page.contains("refused pay") && page.contains("sent the undo of reserve"), "{page}");
    let (status, said) = console.send("/process", &[("instance", "order-fulfilment/o1"), ("what", "retry"), ("why", "test")]).await;
    assert!(status == 409 && said.contains("not stuck"), "{said}");
    assert_eq!(console.get("/process?instance=order-fulfilment/o9").await.status, 404);
}

#[tokio::test]
async fn a_fixture_replays_and_is_refused_under_a_name_that_leads_elsewhere() {
    let console = with_topics().await;
    for name in ["../x", "", "a/b", "A", &"a".repeat(65)] {
        let (status, said) = console.send("/fixture", &[("name", name)]).await;
        assert!(status == 409 && said.contains("a fixture is named with a to z"), "{name}: {said}");
    }
    let (status, said) = console.send("/fixture", &[("name", "topics")]).await;
    assert_eq!(status, 200, "{said}");
    let folder = console.fixtures.path().join("topics");
    let (folder, expected) = (folder.display().to_string(), folder.join("expected.json").display().to_string());
    let (code, out, said) = projector(&["replay", &folder, "--expect", &expected]).await;
    assert_eq!(code, 0, "{out}{said}");
    let (status, said) = console.send("/fixture", &[("name", "topics")]).await;
    assert!(status == 409 && said.contains("exists: choose another name"), "{said}");
}

#[tokio::test]
async fn what_a_file_holds_is_counted_again_by_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data.db").display().to_string();
    {
        let mut console = Console::start_with(&["--data", &data]).await;
        console.command("account", "ann", "Open", &[("initialDeposit", "5")]).await;
        console.until("/rows?projection=account-summary", "the account", |page| page.contains(">ann</a>")).await;
        console.child.kill().await.expect("killed");
    }
    let (code, _, said) = projector(&["--data", &data, "command", "account", "ann", r#"{"Deposit": {"amount": 2}}"#]).await;
    assert_eq!(code, 0, "{said}");
    let console = Console::start_with(&["--data", &data]).await;
    console.until("/row?projection=account-summary&key=ann", "the deposit", |page| page.contains("<td>7</td>")).await;
    let page = console.until_idle().await;
    // The naive handler begins with copies of our rows.
    assert!(page.contains("none differs"), "{page}");
    console.command("account", "ann", "Deposit", &[("amount", "1")]).await;
    console.until("/row?projection=account-summary&key=ann", "another deposit", |page| page.contains("<td>8</td>")).await;
    assert!(console.until_idle().await.contains("none differs"));
}

/// A team's own binary with the rules of its next deployment.
#[tokio::test]
async fn the_next_deployments_rule_is_shown_beside_todays() {
    let registry = Registry::new(HOUSES_1);
    let embedded = Embedded::memory().expect("a database");
    let store = Store::new(embedded.client(), names(registry));
    store.create_tables(registry).await.expect("tables");
    let built = Value::Map([("site".to_owned(), "hill".into()), ("rooms".to_owned(), 3.into())].into());
    for event in recorded([("h1", "Built", built)]) {
        store.append(event.version.previous(), std::slice::from_ref(&event)).await.expect("appended");
    }
    let console = dev::Console::new(dev::Options {
        embedded,
        names: names(registry),
        registry,
        next: Some(Registry::new(HOUSES_2)),
        deciders: Deciders::NONE,
        calls: Calls::new(),
        samples: &[],
        fixtures: PathBuf::new(),
        database_url: String::new(),
    });
    let console = console.await.expect("a console");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let page = listener.local_addr().expect("an address").to_string();
    let asked = async {
        let console = Console {
            child: crate::support::projector::start_projector(&["--version"]),
            page,
            database: String::new(),
            fixtures: tempfile::tempdir().expect("a folder"),
        };
        console.page("/aggregate?id=h1&projection=houses").await
    };
    let run = console.run(listener, Access::Loopback, std::future::pending());
    let page = tokio::select! {
        ended = run => panic!("{ended:?}"),
        page = asked => page,
    };
    assert!(page.contains("revision 1") && page.contains("revision 2"), "{page}");
    assert!(
        page.contains("The next deployment&#39;s rule makes another row.")
            || page.contains("The next deployment's rule makes another row."),
        "{page}"
    );
}
