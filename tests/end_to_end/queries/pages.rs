//! Pages of an index and of a table, and their tokens.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use projection_vocabulary::{RecordedEvent, Registry, Value, data};
use projection_worker::{PAGE_ROWS_MAX, Page, PageToken, PageTokenError, Queries, QueryError, Rows, Selection, TokenKey};
use proptest::prelude::*;
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    size,
    support::{
        projections::{ORDERS, Orders},
        world::{Fault, World, recorded},
    },
};

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Order {
    order_id: String,
}

type Fact = (String, &'static str, Value);

fn number(text: &str) -> Value {
    Value::Number(text.parse().expect("a number"))
}

fn placed(id: &str, customer: &str, shop: &str, day: &str, due: &str) -> Fact {
    let fields = [("customer", customer.into()), ("shop", shop.into()), ("day", day.into()), ("due", number(due))];
    (id.to_owned(), "Placed", Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into()))
}

fn events(facts: &[Fact]) -> Vec<RecordedEvent> {
    recorded(facts.iter().map(|(id, kind, data)| (id.as_str(), *kind, data.clone())))
}

async fn world(facts: &[Fact]) -> World {
    let world = World::with(Registry::new(ORDERS)).await;
    world.process(&events(facts)).await;
    world
}

fn ids(page: &Page<Order>) -> Vec<&str> {
    page.rows.iter().map(|row| row.data.order_id.as_str()).collect()
}

/// Ann's open orders.
fn open<'a>(orders: &Rows<'a, Orders>) -> Selection<'a> {
    orders.index(Orders::BY_CUSTOMER).of(["ann", "OPEN"])
}

/// A service answers in spawned tasks.
#[tokio::test]
async fn every_query_may_be_awaited_in_a_spawned_task() {
    let world = world(&[placed("o1", "ann", "north", "d1", "1")]).await;
    let queries = world.queries(ORDERS);
    let asked = tokio::spawn(async move {
        let orders = queries.rows(&Orders);
        let of_index = open(&orders).page::<Order>(1, None).await.expect("a page");
        let scanned = orders.scan::<Order>(1, None).await.expect("a page");
        let many = orders.many::<Order>(["o1"]).await.expect("rows");
        let one = orders.get::<Order>("o1").await.expect("a row");
        (of_index.rows.len(), scanned.rows.len(), many.len(), one.is_some())
    });
    assert_eq!(asked.await.expect("it ends"), (1, 1, 1, true));
}

#[tokio::test]
async fn rows_of_an_index_over_several_attributes_come_in_the_order_of_numbers() {
    let dues = ["10", "9", "-3", "100", "9.5", "99999999999999999999999999999999999998", "99999999999999999999999999999999999999", "9"];
    let mut facts: Vec<_> = dues.iter().enumerate().map(|(at, due)| placed(&format!("o{at}"), "ann", "north", "d1", due)).collect();
    facts.push(placed("other", "ben", "north", "d1", "1"));
    facts.push(placed("gone", "ann", "north", "d1", "1"));
    facts.push(("gone".into(), "Shipped", data! {}));
    let world = world(&facts).await;
    let reader = world.reader(ORDERS, |_| Fault::None);
    let orders = reader.queries.rows(&Orders);

    let page = open(&orders).page::<Order>(50, None).await.expect("a page");
    assert_eq!((ids(&page), &page.next), (vec!["o2", "o1", "o7", "o4", "o0", "o3", "o5", "o6"], &None));
    assert_eq!(page.rows[0].version.map(|version| version.0), Some(1), "the index includes it");
    let page = open(&orders).newest_first().page::<Order>(3, None).await.expect("a page");
    assert_eq!(ids(&page), ["o6", "o5", "o3"]);
    // The key of 38 digits is in the token.
    let page = open(&orders).newest_first().page::<Order>(1, None).await.expect("a page");
    let page = open(&orders).newest_first().page::<Order>(1, page.next.as_ref()).await.expect("the next one");
    assert_eq!(ids(&page), ["o5"]);
    reader.calls();

    let ranged = async |selection: Selection<'_>| {
        let page = selection.page::<Order>(50, None).await.expect("a page");
        ids(&page).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ranged(open(&orders).at_least(number("9.5")).at_most(100)).await, ["o4", "o0", "o3"]);
    assert_eq!(ranged(open(&orders).at_most(9)).await, ["o2", "o1", "o7"]);
    assert_eq!(ranged(open(&orders).at_least(100).newest_first()).await, ["o6", "o5", "o3"]);
    assert_eq!(ranged(open(&orders).with([9])).await, ["o1", "o7"]);
    assert_eq!(ranged(open(&orders).with([9]).begins_with("o7")).await, ["o7"]);
    assert_eq!(ranged(open(&orders).with([Value::from(9), "o1".into()])).await, ["o1"]);
    assert_eq!(ranged(open(&orders).at_least(11).at_most(12)).await, [""; 0]);
    let shop = |value: &str| orders.index(Orders::BY_SHOP).of([value.to_owned()]);
    assert_eq!(ranged(shop("north").begins_with("d").newest_first()).await.len(), 10);
    assert_eq!(ranged(shop("north").with(["d1", "SHIPPED"])).await, ["gone"]);
    assert_eq!(ranged(shop("north").with(["d1"]).at_least("P")).await, ["gone"]);
    assert_eq!(ranged(orders.index(Orders::BY_CUSTOMER).of(["nobody", "OPEN"])).await, [""; 0], "an empty partition");
    assert_eq!(reader.calls(), ["Query"; 11], "one for each page, and never a scan");
}

#[tokio::test]
async fn the_last_page_is_known_to_be_the_last_even_if_it_is_full() {
    let facts: Vec<_> = (0..6).map(|at| placed(&format!("o{at}"), "ann", "north", "d1", &at.to_string())).collect();
    let world = world(&facts).await;
    let queries = world.queries(ORDERS);
    let orders = queries.rows(&Orders);
    for (limit, pages) in [(1, 6), (2, 3), (3, 2), (4, 2), (5, 2), (6, 1), (7, 1), (PAGE_ROWS_MAX, 1), (usize::MAX, 1)] {
        let (mut token, mut seen, mut count) = (None, Vec::new(), 0);
        loop {
            let page = open(&orders).page::<Order>(limit, token.as_ref()).await.expect("a page");
            assert!(!page.rows.is_empty() && page.rows.len() <= limit);
            seen.extend(ids(&page).into_iter().map(str::to_owned));
            count += 1;
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        assert_eq!((seen, count), ((0..6).map(|at| format!("o{at}")).collect(), pages), "{limit}");
    }
    assert_eq!(open(&orders).page::<Order>(0, None).await, Err(QueryError::Limit));
    assert_eq!(orders.scan::<Order>(0, None).await, Err(QueryError::Limit));
}

#[tokio::test]
async fn a_page_is_as_long_as_asked_for_although_dynamodb_answers_in_parts() {
    let world = world(&[]).await;
    let (client, shop, day) = (world.embedded.client(), "s".repeat(2_000), "d".repeat(1_000));
    for at in 0..1_010 {
        let s = |text: &str| AttributeValue::S(text.to_owned());
        let put = client.put_item().table_name("orders").item("orderId", s(&format!("o{at:04}"))).item("shop", s(&shop));
        let put = put.item("day", s(&day)).item("status", s("OPEN")).item("due", AttributeValue::N(at.to_string()));
        put.send().await.expect("put");
    }
    let reader = world.reader(ORDERS, |_| Fault::None);
    let orders = reader.queries.rows(&Orders);
    let selection = orders.index(Orders::BY_SHOP).of([shop.as_str()]);
    let first = selection.page::<Order>(700, None).await.expect("a page");
    assert_eq!(first.rows.len(), 700);
    assert!(reader.calls().len() > 2, "a part has 1 MB at most");
    let rest = selection.page::<Order>(700, first.next.as_ref()).await.expect("a page");
    assert_eq!((rest.rows.len(), &rest.next), (310, &None));
    let all: Vec<_> = first.rows.iter().chain(&rest.rows).map(|row| row.data.order_id.clone()).collect();
    assert_eq!(all, (0..1_010).map(|at| format!("o{at:04}")).collect::<Vec<_>>());
    let most = selection.page::<Order>(usize::MAX, None).await.expect("a page");
    assert_eq!((most.rows.len(), most.next.is_some()), (PAGE_ROWS_MAX, true), "a page is bounded, and says that there is more");
}

#[tokio::test]
async fn a_scan_is_read_page_by_page() {
    let facts: Vec<_> = (0..20).map(|at| placed(&format!("o{at}"), "ann", "north", "d1", "1")).collect();
    let world = world(&facts).await;
    let queries = world.queries(ORDERS);
    let orders = queries.rows(&Orders);
    let (mut token, mut seen) = (None, Vec::new());
    loop {
        let page = orders.scan::<IgnoredAny>(4, token.as_ref()).await.expect("a page");
        seen.extend(page.rows.into_iter().map(|row| row.key.to_string()));
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (21, 21), "each order, and the shop: {seen:?}");
}

// Tokens.

async fn first(selection: &Selection<'_>) -> PageToken {
    selection.page::<Order>(1, None).await.expect("a page").next.expect("there is more")
}

#[tokio::test]
async fn a_token_is_refused_by_every_other_query() {
    let facts: Vec<_> = ["ann", "ben"]
        .into_iter()
        .flat_map(|customer| (0..4).map(move |at| placed(&format!("{customer}{at}"), customer, "north", "d1", &at.to_string())))
        .collect();
    let world = world(&facts).await;
    let queries = world.queries(ORDERS);
    let orders = queries.rows(&Orders);
    let of = |customer: &'static str, status: &'static str| orders.index(Orders::BY_CUSTOMER).of([customer, status]);
    let selections = [
        open(&orders),
        open(&orders).newest_first(),
        of("ben", "OPEN"),
        open(&orders).at_least(0),
        open(&orders).at_most(3),
        open(&orders).at_least(0).at_most(3),
        open(&orders).at_least(0).at_most(4),
        orders.index(Orders::BY_SHOP).of(["north"]),
        orders.index(Orders::BY_SHOP).of(["north"]).with(["d1"]),
        orders.index(Orders::BY_SHOP).of(["north"]).begins_with("d1"),
        orders.index(Orders::BY_SHOP).of(["north"]).at_least("d1"),
        orders.index(Orders::BY_SHOP).of(["north"]).at_most("d1"),
        orders.index(Orders::BY_DAY).of(["d1"]),
    ];
    let mut tokens = Vec::new();
    for selection in &selections {
        tokens.push(first(selection).await);
    }
    for (from, token) in tokens.iter().enumerate() {
        for (to, selection) in selections.iter().enumerate() {
            let page = selection.page::<Order>(7, Some(token)).await;
            let refused = page.as_ref().err();
            assert_eq!(refused, (from != to).then_some(&QueryError::PageToken(PageTokenError::Foreign)), "{from} to {to}");
        }
        assert_eq!(orders.scan::<Order>(7, Some(token)).await, Err(PageTokenError::Foreign.into()));
    }
    let scanned = orders.scan::<IgnoredAny>(1, None).await.expect("a page").next.expect("there is more");
    assert_eq!(open(&orders).page::<Order>(7, Some(&scanned)).await, Err(PageTokenError::Foreign.into()));
    // Values that run into each other are other values.
    let joined = orders.index(Orders::BY_CUSTOMER).of(["annO", "PEN"]).page::<Order>(7, Some(&tokens[0])).await;
    assert_eq!(joined, Err(PageTokenError::Foreign.into()));
    let said = PageTokenError::Foreign.to_string();
    assert!(said.contains("of another query") && said.ends_with("begin at the first page"), "{said}");
}

#[tokio::test]
async fn a_token_of_another_table_is_refused() {
    let facts: Vec<_> = (0..3).map(|at| placed(&format!("o{at}"), "ann", "north", "d1", "1")).collect();
    let world = world(&facts).await;
    let token = first(&open(&world.queries(ORDERS).rows(&Orders))).await;
    let names = crate::support::world::names(Registry::new(ORDERS)).with_table("orders", "orders-beside").expect("a name");
    let store = projection_worker::Store::new(world.embedded.client(), names);
    store.create_table_of(&Orders).await.expect("a table");
    let beside = Queries::new(std::sync::Arc::new(store));
    let page = open(&beside.rows(&Orders)).page::<Order>(1, Some(&token)).await;
    assert_eq!(page, Err(PageTokenError::Foreign.into()));
}

#[tokio::test]
async fn a_token_that_is_cut_changed_or_made_up_is_refused_and_nothing_is_sent() {
    let facts: Vec<_> = (0..3).map(|at| placed(&format!("o{at}"), "ann", "north", "d1", "1")).collect();
    let world = world(&facts).await;
    let reader = world.reader(ORDERS, |_| Fault::None);
    let keyed = |secret: &[u8]| reader.queries.clone().with_token_key(TokenKey::new(secret));
    for queries in [reader.queries.clone(), keyed(b"a secret of 32 bytes, or of more")] {
        let orders = queries.rows(&Orders);
        let token = first(&open(&orders)).await;
        reader.calls();
        let refused = async |text: String| match open(&orders).page::<Order>(1, Some(&PageToken::from(text.as_str()))).await {
            Err(QueryError::PageToken(error)) => error,
            other => panic!("{text}: {other:?}"),
        };
        for length in 0..token.as_str().len() {
            refused(token.as_str()[..length].to_owned()).await;
        }
        for (at, _) in token.as_str().char_indices() {
            for other in ["A", "_", "=", "+", " "] {
                let mut changed = token.as_str().to_owned();
                changed.replace_range(at..=at, other);
                if changed != token.as_str() {
                    refused(changed).await;
                }
            }
        }
        for more in ["A", "AAAA", "=", "\n"] {
            refused(format!("{token}{more}")).await;
        }
        for text in ["", "x", "null", "日本", &"A".repeat(200_000)] {
            assert_eq!(refused(text.to_owned()).await, PageTokenError::Malformed, "{text:.9}");
        }
        // The position of another row, with the seal of this one.
        let mut bytes = URL_SAFE_NO_PAD.decode(token.as_str()).expect("base64url");
        let position = String::from_utf8(bytes.split_off(25)).expect("JSON");
        bytes.extend(position.replace("o0", "o1").into_bytes());
        assert_eq!(refused(URL_SAFE_NO_PAD.encode(bytes)).await, PageTokenError::Tampered);
        assert_eq!(reader.calls(), [""; 0]);
    }
    // A seal of another key, of none, and of one where none is expected.
    let (plain, one, two) = (reader.queries.clone(), keyed(b"one"), keyed(b"two"));
    for (from, to) in [(&plain, &one), (&one, &plain), (&one, &two)] {
        let token = first(&open(&from.rows(&Orders))).await;
        assert_eq!(open(&to.rows(&Orders)).page::<Order>(1, Some(&token)).await, Err(PageTokenError::Tampered.into()));
    }
    // Another process with the same key, and a token as text.
    let token = first(&open(&one.rows(&Orders))).await.to_string();
    let again = open(&keyed(b"one").rows(&Orders)).page::<Order>(1, Some(&token.into())).await.expect("a page");
    assert_eq!(ids(&again), ["o1"]);
    assert_eq!(format!("{:?}", TokenKey::new(b"one")), "TokenKey(secret)");
}

#[tokio::test]
async fn what_no_index_can_be_asked_is_refused_by_name_and_nothing_is_sent() {
    let world = world(&[]).await;
    let reader = world.reader(ORDERS, |_| Fault::None);
    let orders = reader.queries.rows(&Orders);
    let (none, long): ([&str; 0], String) = ([], "x".repeat(2_049));
    let by = |values: &[Value]| orders.index(Orders::BY_CUSTOMER).of(values.to_vec());
    let customer = "the index `by-customer` has the partition key customer, status and the sort key due (a number), orderId: ";
    let day = "the index `by-day` has the partition key day and no sort key: ";
    for (selection, said) in [
        (by(&[]), format!("{customer}0 values are given for the partition key")),
        (by(&["ann".into()]), format!("{customer}1 value is given for the partition key")),
        (by(&["ann".into(), "OPEN".into(), 1.into()]), format!("{customer}3 values are given for the partition key")),
        (by(&["ann".into(), "".into()]), format!("{customer}the value for `status` is empty")),
        (by(&[7.into(), "OPEN".into()]), format!("{customer}the value for `customer` is not a string")),
        (by(&[Value::Null, "OPEN".into()]), format!("{customer}the value for `customer` is not a string")),
        (by(&[long.into(), "OPEN".into()]), format!("{customer}the value for `customer` is longer than the 2048 bytes of a key")),
        (open(&orders).with(["9"]), format!("{customer}the value for `due` is not a number")),
        (open(&orders).with([Value::from(9), "o1".into(), "o2".into()]), format!("{customer}3 values are given for the sort key")),
        (open(&orders).at_least("9"), format!("{customer}the value for `due` is not a number")),
        (open(&orders).at_least(2).at_most(1), format!("{customer}the range ends before it begins")),
        (open(&orders).begins_with("9"), format!("{customer}the value for `due` is not a number")),
        (open(&orders).with([9]).begins_with(""), format!("{customer}the value for `orderId` is empty")),
        (
            open(&orders).with([9]).begins_with("o").at_least("o"),
            format!("{customer}DynamoDB takes one range, and not a prefix together with bounds"),
        ),
        (
            open(&orders).with([9]).at_least("x".repeat(1_025)),
            format!("{customer}the value for `orderId` is longer than the 1024 bytes of a key"),
        ),
        (
            open(&orders).with([Value::from(9), "o1".into()]).at_least("o"),
            format!("{customer}the sort key has no attribute left for a range"),
        ),
        (orders.index(Orders::BY_DAY).of(["d1"]).at_least("o"), format!("{day}the sort key has no attribute left for a range")),
        (orders.index(Orders::BY_DAY).of(none), format!("{day}0 values are given for the partition key")),
        (orders.index(Orders::UNLISTED).of([1]), "`orders` has no index `by-due`; it has by-customer (by customer, status; sorted by due (a number), orderId), by-shop (by shop; \
             sorted by day, status, due (a number)), by-day (by day)"
                .to_owned()),
    ] {
        let error = selection.page::<Order>(1, None).await.expect_err(&said);
        assert_eq!(error.to_string(), said);
        assert!(!error.is_transient());
    }
    let sum = number("99999999999999999999999999999999999999");
    let Value::Number(mut sum) = sum else { panic!("a number") };
    sum += &"0.1".parse().expect("a number");
    let error = open(&orders).at_least(sum).page::<Order>(1, None).await.expect_err("39 digits");
    assert_eq!(error.to_string(), format!("{customer}the value for `due` is a number that DynamoDB cannot hold"));
    assert_eq!(reader.calls(), [""; 0]);
}

#[tokio::test]
async fn a_table_without_the_index_is_an_error_that_says_so() {
    let world = World::with(Registry::new(crate::support::projections::ORDERS_UNINDEXED)).await;
    let queries = world.queries(ORDERS);
    let error = open(&queries.rows(&Orders)).page::<Order>(1, None).await.expect_err("there is no index");
    assert!(error.to_string().starts_with("Query of an index cannot succeed (the table does not have the index"), "{error}");
    let world = World::new().await;
    let error = open(&world.queries(ORDERS).rows(&Orders)).page::<Order>(1, None).await.expect_err("there is no table");
    assert!(error.to_string().contains("ResourceNotFoundException"), "{error}");
}

// Any limits.

#[derive(Clone, Copy, Debug)]
enum Through {
    Customer,
    Shop,
    Day,
}

fn through<'a>(orders: &Rows<'a, Orders>, through: Through, newest_first: bool) -> Selection<'a> {
    let selection = match through {
        Through::Customer => open(orders),
        Through::Shop => orders.index(Orders::BY_SHOP).of(["north"]),
        Through::Day => orders.index(Orders::BY_DAY).of(["d1"]),
    };
    if newest_first { selection.newest_first() } else { selection }
}

/// What is written between two pages.
#[derive(Clone, Debug)]
enum Meanwhile {
    Nothing,
    Place(String),
    Pay(usize),
    Ship(usize),
    Cancel(usize),
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    prop_oneof![
        Just(Meanwhile::Nothing),
        (0..60_u32).prop_map(|due| Meanwhile::Place(due.to_string())),
        (0..30_usize).prop_map(Meanwhile::Pay),
        (0..30_usize).prop_map(Meanwhile::Ship),
        (0..30_usize).prop_map(Meanwhile::Cancel),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: u32::try_from(size(32, 1_024)).expect("a small number"), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pages_of_a_still_set_are_the_set_whatever_their_limits(
        dues in prop::collection::vec(-20..60_i32, 0..40),
        limits in prop::collection::vec(1..45_usize, 1..5),
        which in prop_oneof![Just(Through::Customer), Just(Through::Shop), Just(Through::Day)],
        newest_first: bool,
        keyed: bool,
    ) {
        run(async {
            let facts: Vec<_> = dues.iter().enumerate().map(|(at, due)| placed(&format!("o{at:02}"), "ann", "north", "d1", &due.to_string())).collect();
            let world = world(&facts).await;
            let queries = if keyed { world.queries(ORDERS).with_token_key(TokenKey::new(b"key")) } else { world.queries(ORDERS) };
            let orders = queries.rows(&Orders);
            let selection = through(&orders, which, newest_first);
            let (seen, pages) = all_pages(&selection, &limits, async |_| {}).await;
            let mut expected: Vec<_> = dues.iter().enumerate().map(|(at, due)| (*due, format!("o{at:02}"))).collect();
            expected.sort();
            if newest_first {
                expected.reverse();
            }
            let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
            match which {
                Through::Customer => assert_eq!(seen, expected),
                // Rows that the sort key does not tell apart come in some order.
                Through::Shop | Through::Day => {
                    assert_eq!(seen.iter().collect::<BTreeSet<_>>(), expected.iter().collect());
                    assert_eq!(seen.len(), expected.len());
                }
            }
            // No page but a set's only one is empty.
            let full = pages.iter().rev().skip(1).zip(limits.iter().cycle().take(pages.len() - 1).collect::<Vec<_>>().into_iter().rev());
            assert!(full.into_iter().all(|(page, limit)| page == limit), "{pages:?}");
            assert!(pages.last() > Some(&0) || dues.is_empty());
        });
    }

    #[test]
    fn a_row_that_stands_still_is_on_exactly_one_page_whatever_others_do(
        dues in prop::collection::vec(-20..60_i32, 1..30),
        limits in prop::collection::vec(1..6_usize, 1..4),
        changes in prop::collection::vec(prop::collection::vec(meanwhile(), 0..6), 1..30),
        newest_first: bool,
    ) {
        run(async {
            let mut facts: Vec<_> = dues.iter().enumerate().map(|(at, due)| placed(&format!("o{at:02}"), "ann", "north", "d1", &due.to_string())).collect();
            let world = world(&facts).await;
            let queries = world.queries(ORDERS);
            let orders = queries.rows(&Orders);
            let selection = through(&orders, Through::Customer, newest_first);
            let touched = std::cell::RefCell::new(BTreeSet::new());
            let facts = std::cell::RefCell::new(&mut facts);
            let write = async |page: usize| {
                let before = facts.borrow().len();
                for change in changes.get(page).into_iter().flatten() {
                    let id = |at: usize| format!("o{:02}", at % dues.len());
                    let fact = match change {
                        Meanwhile::Nothing => continue,
                        Meanwhile::Place(due) => placed(&format!("new{}", facts.borrow().len()), "ann", "north", "d1", due),
                        Meanwhile::Pay(at) => (id(*at), "Paid", data! { amount: 7 }),
                        Meanwhile::Ship(at) => (id(*at), "Shipped", data! {}),
                        Meanwhile::Cancel(at) => (id(*at), "Cancelled", data! {}),
                    };
                    touched.borrow_mut().insert(fact.0.clone());
                    facts.borrow_mut().push(fact);
                }
                let events = events(&facts.borrow());
                world.process(&events[before..]).await;
            };
            let (seen, _) = all_pages(&selection, &limits, write).await;
            let mut times: BTreeMap<String, usize> = BTreeMap::new();
            for id in seen {
                *times.entry(id).or_default() += 1;
            }
            for id in (0..dues.len()).map(|at| format!("o{at:02}")).filter(|id| !touched.borrow().contains(id)) {
                assert_eq!(times.get(&id), Some(&1), "{id}");
            }
        });
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

/// The rows of all pages in order, and how many each page had. Something may be written between two pages, a hundred of them at most.
async fn all_pages(selection: &Selection<'_>, limits: &[usize], between: impl AsyncFn(usize)) -> (Vec<String>, Vec<usize>) {
    let (mut token, mut seen, mut pages) = (None, Vec::new(), Vec::new());
    for (at, limit) in limits.iter().cycle().enumerate().take(200) {
        let page = selection.page::<Order>(*limit, token.as_ref()).await.expect("a page");
        assert!(page.rows.len() <= *limit);
        pages.push(page.rows.len());
        seen.extend(page.rows.into_iter().map(|row| row.data.order_id));
        token = page.next;
        if token.is_none() {
            return (seen, pages);
        }
        between(at).await;
    }
    panic!("the pages do not end");
}
