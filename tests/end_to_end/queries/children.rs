//! Child rows: page by page, and through an index.

use projection_vocabulary::{ConsistencyToken, Decimal, RecordedEvent, Registry, Value};
use projection_worker::{ChildRows, PageToken, PageTokenError, QueryError, TokenKey};
use projections::{ALL, bank::account_summary::AccountSummary};
use proptest::prelude::*;
use serde::Deserialize;

use crate::{
    size,
    support::{
        projections::{STATEMENTS, Statement},
        world::{Fault, World, recorded},
    },
};

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Movement {
    account_id: String,
    moved_at: String,
    amount: Decimal,
}

fn movements(accounts: &[&str], count: usize) -> Vec<RecordedEvent> {
    let at = |number: usize| -> Value {
        Value::Map([("at".to_owned(), format!("{number:03}").into()), ("amount".to_owned(), (number as u64).into())].into())
    };
    recorded(accounts.iter().flat_map(|account| (0..count).map(move |number| (*account, "Moved", at(number)))))
}

async fn world(events: &[RecordedEvent]) -> World {
    let world = World::with(Registry::new(STATEMENTS)).await;
    world.append_all(events).await;
    world.process(events).await;
    world
}

async fn all_pages(children: &ChildRows<'_>, limits: &[usize], between: impl AsyncFn(usize)) -> Vec<String> {
    let (mut token, mut seen) = (None, Vec::new());
    for (at, limit) in limits.iter().cycle().enumerate() {
        let page = children.page::<Movement>(*limit, token.as_ref()).await.expect("a page");
        assert!(page.rows.len() <= *limit);
        seen.extend(page.rows.into_iter().map(|row| row.data.moved_at));
        token = page.next;
        if token.is_none() {
            break;
        }
        between(at).await;
    }
    seen
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

fn numbers(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|number| format!("{number:03}")).collect()
}

#[tokio::test]
async fn child_rows_are_read_exactly_in_either_order_and_their_home_row_is_none_of_them() {
    let world = world(&movements(&["alice", "bob"], 5)).await;
    let reader = world.reader(STATEMENTS, |_| Fault::None);
    let statement = reader.queries.rows(&Statement);
    let page = statement.children("alice").page::<Movement>(2, None).await.expect("a page");
    let row = &page.rows[1];
    assert_eq!(row.data, Movement { account_id: "alice".into(), moved_at: "001".into(), amount: 1.into() });
    assert_eq!((row.key.as_str(), row.child.as_deref(), row.version), ("alice", Some("001"), None));
    assert_eq!(reader.calls(), ["Query"]);
    for limit in 1..7 {
        assert_eq!(all_pages(&statement.children("alice"), &[limit], async |_| {}).await, numbers(0..5));
        assert_eq!(all_pages(&statement.children("alice").newest_first(), &[limit], async |_| {}).await, numbers((0..5).rev()));
    }
    reader.calls();
    // A last page that is full is known to be the last.
    assert_eq!(all_pages(&statement.children("alice"), &[5], async |_| {}).await.len(), 5);
    assert_eq!(reader.calls(), ["Query"]);
    assert_eq!(all_pages(&statement.children("nobody"), &[5], async |_| {}).await, [""; 0]);
    let home = statement.get::<()>("alice").untyped().await.expect("read").expect("the row");
    assert_eq!((home.child, &home.data["movements"]), (None, &5.into()));
    let many = statement.many::<serde::de::IgnoredAny>(["bob", "alice"]).await.expect("read");
    assert!(many.iter().all(|(_, row)| row.as_ref().is_some_and(|row| row.child.is_none())));
    let fresh = statement.get::<()>("alice").fresh().untyped().await.expect("read").expect("the row");
    assert_eq!(fresh.data, home.data);
}

#[tokio::test]
async fn a_token_continues_only_the_child_rows_that_it_came_from() {
    let world = world(&movements(&["alice", "bob"], 5)).await;
    let queries = world.queries(STATEMENTS);
    let sealed = queries.clone().with_token_key(TokenKey::new(b"key"));
    let statement = queries.rows(&Statement);
    let token = statement.children("alice").page::<Movement>(2, None).await.expect("a page").next.expect("more");
    let scan = statement.scan::<serde::de::IgnoredAny>(1, None).await.expect("a page").next.expect("more");
    let index = statement.index(Statement::BY_KIND).of(["MOVED"]);
    let indexed = index.page::<Movement>(1, None).await.expect("a page").next.expect("more");
    for (children, token) in [
        (statement.children("bob"), &token),
        (statement.children("alice").newest_first(), &token),
        (statement.children("alice"), &scan),
        (statement.children("alice"), &indexed),
    ] {
        assert_eq!(children.page::<Movement>(2, Some(token)).await, Err(PageTokenError::Foreign.into()));
    }
    let children = sealed.rows(&Statement).children("alice");
    assert_eq!(children.page::<Movement>(2, Some(&token)).await, Err(PageTokenError::Tampered.into()));
    let junk = PageToken::from("junk");
    assert_eq!(children.page::<Movement>(2, Some(&junk)).await, Err(PageTokenError::Malformed.into()));
    assert_eq!(children.page::<Movement>(0, None).await, Err(QueryError::Limit));
    assert_eq!(statement.children("").page::<Movement>(1, None).await, Err(QueryError::Key));
    let world = World::new().await;
    let error = world.queries(ALL).rows(&AccountSummary).children("alice").page::<Movement>(1, None).await.expect_err("it has none");
    assert_eq!(error.to_string(), "`account-summary` has no child rows");
}

#[tokio::test]
async fn child_rows_are_found_through_an_index_of_all_rows_page_by_page() {
    let world = world(&movements(&["alice", "bob", "carol"], 7)).await;
    let queries = world.queries(STATEMENTS);
    let selection = queries.rows(&Statement).index(Statement::BY_KIND).of(["MOVED"]);
    for limit in [1, 2, 3, 20, 21] {
        let (mut token, mut seen) = (None, Vec::new());
        loop {
            let page = selection.page::<Movement>(limit, token.as_ref()).await.expect("a page");
            seen.extend(page.rows.into_iter().map(|row| {
                assert_eq!(row.child.as_deref(), Some(row.data.moved_at.as_str()));
                (row.data.moved_at, row.data.account_id)
            }));
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        // Rows of one amount in any order, each once.
        let amounts: Vec<_> = seen.iter().map(|(at, _)| at.clone()).collect();
        assert!(amounts.is_sorted(), "{amounts:?}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 21);
    }
}

#[tokio::test(start_paused = true)]
async fn child_rows_are_read_once_their_home_row_counts_the_version() {
    let events = movements(&["alice"], 3);
    let world = world(&events[..1]).await;
    world.import(&events).await;
    let queries = world.queries(STATEMENTS);
    let token: ConsistencyToken = "alice@3".parse().expect("a token");
    let after = queries.rows(&Statement).children("alice").after(&token).within(std::time::Duration::from_secs(9));
    let error = after.page::<Movement>(9, None).await.expect_err("nobody works");
    assert!(matches!(error, QueryError::NotYet { .. }), "{error:?}");
    let worker = async {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        world.process(&events).await;
    };
    let (page, ()) = tokio::join!(after.page::<Movement>(9, None), worker);
    assert_eq!(page.expect("a page").rows.len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: u32::try_from(size(16, 512)).expect("a small number"), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_child_row_that_stands_still_is_on_exactly_one_page_whatever_others_do(
        count in 1..30_usize,
        limits in prop::collection::vec(1..6_usize, 1..4),
        changes in prop::collection::vec(prop::collection::vec((0..60_usize, any::<bool>()), 0..4), 0..20),
        newest_first: bool,
    ) {
        run(async {
            let mut facts: Vec<_> = (0..count).map(|number| ("Moved", format!("{:03}", 2 * number))).collect();
            let happened = |facts: &[(&'static str, String)]| {
                recorded(facts.iter().map(|(kind, at)| {
                    let mut data = vec![("at".to_owned(), at.as_str().into())];
                    data.extend((*kind == "Moved").then(|| ("amount".to_owned(), 1.into())));
                    ("alice", *kind, Value::Map(data.into_iter().collect()))
                }))
            };
            let world = world(&happened(&facts)).await;
            let queries = world.queries(STATEMENTS);
            let children = queries.rows(&Statement).children("alice");
            let children = if newest_first { children.newest_first() } else { children };
            let touched = std::cell::RefCell::new(std::collections::BTreeSet::new());
            let facts = std::cell::RefCell::new(&mut facts);
            let write = async |page: usize| {
                let before = facts.borrow().len();
                for (at, erased) in changes.get(page).into_iter().flatten() {
                    touched.borrow_mut().insert(format!("{at:03}"));
                    facts.borrow_mut().push((if *erased { "Erased" } else { "Moved" }, format!("{at:03}")));
                }
                let events = happened(&facts.borrow());
                world.process(&events[before..]).await;
            };
            let seen = all_pages(&children, &limits, write).await;
            for at in numbers((0..count).map(|number| 2 * number)) {
                let times = seen.iter().filter(|seen| **seen == at).count();
                assert!(times == 1 || touched.borrow().contains(&at), "{at}: {times}");
            }
        });
    }
}

#[tokio::test]
async fn a_scan_has_home_rows_and_child_rows_each_once() {
    let world = world(&movements(&["alice", "bob"], 4)).await;
    let queries = world.queries(STATEMENTS);
    let statement = queries.rows(&Statement);
    for limit in [1, 3, 10] {
        let (mut token, mut seen) = (None, Vec::new());
        loop {
            let page = statement.scan::<serde::de::IgnoredAny>(limit, token.as_ref()).await.expect("a page");
            seen.extend(page.rows.into_iter().map(|row| (row.key.to_string(), row.child.map(|child| child.to_string()))));
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 10, "{seen:?}");
    }
}
