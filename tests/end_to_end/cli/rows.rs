//! `projector rows`, as an operator runs it.

use projection_worker::internals::store::rows::Shown;
use serde_json::Value as Json;

use crate::support::{
    projector::projector,
    world::{Fault, World, account, history, registry},
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
    assert!(code == 2 && said.contains("account-summary, account-statement, forum-counters, topic-posts"), "{said}");
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
    assert_eq!((code, lines(&out).len()), (0, 7), "{said}");
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
