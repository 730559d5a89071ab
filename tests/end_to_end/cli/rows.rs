//! `projector rows`, as an operator runs it.

use projection_vocabulary::data;
use projection_worker::internals::store::rows::Shown;
use serde_json::Value as Json;

use crate::support::{
    projector::projector,
    world::{Fault, World, account, history, recorded, registry},
};

fn lines(out: &str) -> Vec<Json> {
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn a_row_is_shown_as_its_readers_see_it_and_on_request_with_the_bookkeeping() {
    let world = World::new().await;
    world.process(&account("alice", &["5.50", "1"])).await;
    let url = world.serve().await;
    let get = async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "rows", "get"], arguments].concat()).await;

    let (code, out, said) = get(&["account-summary", "alice"]).await;
    assert_eq!(code, 0, "{said}");
    for part in ["accountId  alice\n", "balance    6.5\n", "status     ACTIVE\n", "version    2\n"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains("revision"), "{out}");
    let (_, out, _) = get(&["account-summary", "alice", "--all", "--output", "json"]).await;
    let row = &lines(&out)[0];
    assert_eq!((&row["accountId"], &row["balance"], &row["revision"]), (&"alice".into(), &6.5.into(), &1.into()), "{out}");

    let (code, out, said) = get(&["account-summary", "bob"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(said.ends_with("error: account-summary has no row bob\n"), "{said}");
    let (code, _, said) = get(&["accounts", "alice"]).await;
    assert!(code == 2 && said.contains("account-summary, account-statement, forum-counters, topic-posts, users-and-orders"), "{said}");
}

#[tokio::test]
async fn a_list_reads_no_more_than_its_limit_needs() {
    let world = World::new().await;
    world.process(&history("bank", 5, 200, 40)).await;
    let rows = world.rows().await["account-summary"].len();
    let url = world.serve().await;
    let list =
        async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "rows", "list", "account-summary"], arguments].concat()).await;

    let (code, out, said) = list(&["--limit", "7", "--json"]).await;
    assert_eq!((code, lines(&out).len(), lines(&out)[7]["more"]["after"].is_string()), (0, 8, true), "{said}");
    let (_, out, _) = list(&["--limit", "7"]).await;
    assert!(out.starts_with("account-summary: 7 rows, and more; to see them: --limit N\n"), "{out}");
    let (_, out, _) = list(&["--json", "--limit", "1000"]).await;
    assert_eq!(lines(&out).len(), rows);
    let (_, out, _) = list(&["--limit", &rows.to_string()]).await;
    assert!(out.starts_with(&format!("account-summary: {rows} rows\n")), "{out}");

    let rule = registry().get("account-summary").expect("the bank");
    for (limit, units) in [(7, 0.0..=1.0), (usize::MAX, 2.0..=9.0)] {
        let tapped = world.tapped(|_| Fault::None);
        let (found, more) = tapped.worker.store().read_model(rule, limit, Shown::ToReaders).await.expect("rows");
        assert_eq!((found.len(), more, tapped.calls().len()), (limit.min(rows), limit < rows, 1));
        let read = tapped.worker.store().usage().read_units;
        assert!(units.contains(&read), "{read} units for {} rows", found.len());
    }
}

#[tokio::test]
async fn several_rows_are_shown_in_the_order_asked_for_and_each_that_is_missing_is_named() {
    let world = World::new().await;
    world.process(&[account("alice", &["5"]), account("bob", &["6"])].concat()).await;
    let url = world.serve().await;
    let get =
        async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "rows", "get", "account-summary"], arguments].concat()).await;

    let (code, out, said) = get(&["bob", "nobody", "alice", "bob", "none", "--json"]).await;
    let ids: Vec<_> = lines(&out).into_iter().map(|row| row["accountId"].clone()).collect();
    assert_eq!((code, ids), (1, vec!["bob".into(), "alice".into()]), "{said}");
    assert!(said.contains("error: account-summary has no row nobody\n") && said.contains("has no row none\n"), "{said}");
    let (code, out, _) = get(&["bob", "alice"]).await;
    let blocks: Vec<_> = out.split("\n\n").collect();
    assert_eq!(code, 0);
    assert!(blocks.len() == 2 && blocks[0].starts_with("accountId  bob\n") && blocks[1].starts_with("accountId  alice\n"), "{out}");
    let (_, out, _) = get(&["bob", "alice", "--all", "--json"]).await;
    assert!(lines(&out).iter().all(|row| row["revision"] == 1), "{out}");
    let (code, _, said) = get(&[""]).await;
    assert!(code == 2 && said.contains("a key is empty"), "{said}");
}

#[tokio::test]
async fn a_fresh_row_counts_what_no_worker_has_counted() {
    let world = World::new().await;
    let mut events = account("alice", &["5", "1", "1"]);
    world.append_all(&events).await;
    world.process(&events[..1]).await;
    let url = world.serve().await;
    let get =
        async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "rows", "get", "account-summary"], arguments].concat()).await;
    let (code, out, said) = get(&["alice", "alice", "--fresh"]).await;
    assert!(code == 0 && out.contains("balance    7\n") && out.contains("version    3\n"), "{out}{said}");
    assert_eq!(out.matches("accountId").count(), 1);
    let (_, out, _) = get(&["alice"]).await;
    assert!(out.contains("version    1\n"), "{out}");
    let (code, _, said) = get(&["nobody", "--fresh"]).await;
    assert!(code == 1 && said.ends_with("error: account-summary has no row nobody\n"), "{said}");
    let (code, _, said) = get(&["alice", "--fresh", "--all"]).await;
    assert!(code == 2 && said.contains("cannot be used with"), "{said}");

    events = account("poor", &["4711"]);
    events[0].data = data! { initialDeposit: "4711" };
    world.append_all(&events).await;
    let (code, _, said) = get(&["poor", "--fresh"]).await;
    assert!(code == 2 && said.contains("version 1 of poor cannot be applied by `account-summary`"), "{said}");
    assert!(!said.contains("4711"), "{said}");
}

/// The token that a command names, if there are more rows.
fn token_of(said: &str) -> Option<String> {
    said.lines().find_map(|line| line.strip_prefix("the rows after these: --after ")).map(str::to_owned)
}

#[tokio::test]
async fn a_list_and_an_index_are_shown_page_by_page() {
    let world = World::new().await;
    let topics: Vec<_> = (0..7).map(|at| format!("t{at}")).collect();
    let topic = |id| (id, "TopicCreated", data! { categoryId: "news", title: "Hello", authorId: "ann" });
    world.process(&recorded(topics.iter().map(|id| topic(id.as_str())))).await;
    let url = world.serve().await;
    let rows = async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "rows"], arguments].concat()).await;
    let all_pages = async |arguments: &[&str]| {
        let (mut seen, mut token) = (Vec::new(), None::<String>);
        loop {
            let after = token.iter().flat_map(|token| ["--after", token]).collect::<Vec<_>>();
            let (code, out, said) = rows(&[arguments, &["--json"], &after].concat()).await;
            assert_eq!(code, 0, "{said}");
            let mut rows = lines(&out);
            token = rows.last().and_then(|last| Some(last["more"]["after"].as_str()?.to_owned()));
            rows.truncate(rows.len() - usize::from(token.is_some()));
            seen.push(rows.iter().map(|row| row["id"].as_str().expect("a key").to_owned()).collect::<Vec<_>>());
            if token.is_none() {
                return seen;
            }
        }
    };
    let query = ["query", "forum-counters", "topics-by-category", "news", "--limit", "3"];
    assert_eq!(all_pages(&query).await, [vec!["t0", "t1", "t2"], vec!["t3", "t4", "t5"], vec!["t6"]]);
    assert_eq!(all_pages(&[&query[..], &["--newest"]].concat()).await, [vec!["t6", "t5", "t4"], vec!["t3", "t2", "t1"], vec!["t0"]]);
    assert_eq!(all_pages(&["query", "forum-counters", "topics-by-category", "news", "t5"]).await, [["t5"]]);
    assert_eq!(all_pages(&["query", "forum-counters", "topics-by-category", "nothing"]).await, [[""; 0]]);
    let listed = all_pages(&["list", "forum-counters", "--limit", "3"]).await;
    let mut all = listed.concat();
    all.sort();
    assert_eq!((all.len(), &*all[0], &*all[7]), (8, "news", "t6"), "{listed:?}");

    let (_, out, said) = rows(&["query", "forum-counters", "topics-by-category", "news", "--limit", "2", "--newest"]).await;
    assert!(out.starts_with("forum-counters: 2 rows, and more; to see them: --limit N\n"), "{out}");
    assert!(out.find("t6") < out.find("t5") && out.contains("title") && !out.contains("postCount"), "{out}");
    let token = token_of(&said).expect("there is more");
    let (code, _, said) = rows(&["query", "forum-counters", "topics-by-category", "news", "--after", &token]).await;
    assert!(code == 2 && said.contains("the page token is of another query"), "{said}");
    let (code, _, said) = rows(&["list", "forum-counters", "--after", "junk\u{1b}[2J"]).await;
    assert!(code == 2 && said.contains("not a page token"), "{said}");
    let (code, _, said) = rows(&["list", "forum-counters", "--limit", "0"]).await;
    assert!(code == 2 && said.contains("a page of 0 rows was asked for"), "{said}");
}

#[tokio::test]
async fn an_index_that_is_not_there_is_answered_with_those_that_are() {
    let world = World::new().await;
    let url = world.serve().await;
    let query = async |arguments: &[&str]| {
        let (code, out, said) = projector(&[&["--endpoint-url", &url, "rows", "query"], arguments].concat()).await;
        assert_eq!((code, out.as_str()), (2, ""), "{said}");
        said
    };
    let said = query(&["forum-counters", "by-title\u{1b}[2J", "news"]).await;
    let known = "has no index `by-title\\u001b[2J`; it has topics-by-category (by categoryId; sorted by id), topics-by-author (by authorId; sorted by id)\n";
    assert!(said.ends_with(known), "{said}");
    let said = query(&["account-summary", "by-status", "ACTIVE"]).await;
    assert!(said.ends_with("error: `account-summary` has no index `by-status`; it has none\n"), "{said}");
    let said = query(&["forum-counters", "topics-by-category", "news", "t1", "t2"]).await;
    let keys =
        "error: the index `topics-by-category` has the partition key categoryId and the sort key id: 2 values are given for the sort key\n";
    assert!(said.ends_with(keys), "{said}");
    let said = query(&["forum-counters", "topics-by-category", ""]).await;
    assert!(said.contains("the value for `categoryId` is empty"), "{said}");
    let (code, _, said) = projector(&["--endpoint-url", &url, "rows", "children", "account-summary", "alice"]).await;
    assert!(code == 2 && said.ends_with("error: `account-summary` has no child rows\n"), "{said}");
    let said = query(&["forum", "topics-by-category", "news"]).await;
    assert!(said.contains("which has account-summary, account-statement"), "{said}");
}
