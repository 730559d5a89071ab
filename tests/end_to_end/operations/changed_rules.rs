//! Whatever two revisions of a rule have in common, a rebuild in place ends with the rows of the second, and a repair never ends with
//! others.

use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{
    Cell, Change, Contribution, Decimal, DynProjection, Mark, Projection, Recorded, RecordedEvent, Refusal, Registry, RowKey, Value,
    Version, data, own, retract, shared,
};
use projection_worker::{
    Worker,
    internals::{
        operations::{
            rebuild::Task,
            settle::settle,
            verify::{Options, Repair, RowFinding, Verified, verify},
        },
        retry::Deadline,
        store::Store,
    },
};
use serde::Deserialize;

use super::rebuild::rebuild;
use crate::support::{
    projections::{GUESTS, GUESTS_IN_FOUR, GUESTS_IN_TWO},
    world::{Fault, World, fold, names, recorded, records},
};

type Rules = &'static [&'static dyn DynProjection];

/// Defines a projection in one or more revisions: the arguments of the closure are the event and the revision.
macro_rules! revisions {
    ($projection:literal, $event:ident, |$of:ident, $aggregate:ident, $revision:ident| $change:expr, $($name:ident = $number:literal as $list:ident),+) => {
        $(
            struct $name;

            impl Projection for $name {
                type Event = $event;
                const NAME: &str = $projection;
                const KEY: &str = "id";
                const REVISION: u32 = $number;

                fn project(&self, event: &Recorded<'_, $event>) -> Result<Change, Refusal> {
                    let ($of, $aggregate, $revision) = (&event.event, event.aggregate.as_str(), $number);
                    let _ = ($aggregate, $revision);
                    Ok($change)
                }
            }

            const $list: Rules = &[&$name];
        )+
    };
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

async fn check(worker: &Worker, repair: bool) -> Verified {
    let options = Options { segments: 2, sample: None, repair: if repair { Repair::Findings } else { Repair::Nothing } };
    verify(worker, worker.registry().projections()[0], options, Deadline::NONE).await.expect("nothing fails")
}

/// What `rebuild-projection` does.
async fn rebuild_and_settle(worker: &Worker) {
    rebuild(worker, Task::Rebuild, 2).await;
    settle(worker.store(), worker.registry().projections()[0], Deadline::NONE).await.expect("nothing fails");
}

async fn world_of(rules: Rules, events: &[RecordedEvent]) -> World {
    let world = World::with(Registry::new(rules)).await;
    world.append_all(events).await;
    for batch in events.chunks(50) {
        world.process(batch).await;
    }
    world
}

/// Projects the events by one revision, rebuilds the rows by another, and verifies that they are the fold. Then the same by
/// `verify --repair` in place of the rebuild, and by the stream in place of both, as far as it brings events.
async fn every_way_from(from: Rules, to: Rules, events: &[RecordedEvent]) {
    for by_repair in [false, true] {
        let world = world_of(from, events).await;
        assert_eq!(world.rows().await, fold(Registry::new(from), events));
        let next = world.worker_of(to);
        if by_repair {
            check(&next, true).await;
        } else {
            rebuild_and_settle(&next).await;
        }
        assert_eq!(world.parked().await, [], "by repair: {by_repair}");
        assert_eq!(world.rows().await, fold(Registry::new(to), events), "by repair: {by_repair}");
        let verified = check(&next, false).await;
        assert!(verified.home.is_empty() && verified.shared.is_empty(), "by repair: {by_repair}: {verified:?}");
    }
    // Half of the events by the first revision, the other half by the second.
    let world = World::with(Registry::new(from)).await;
    world.append_all(events).await;
    let (first, second) = events.split_at(events.len() / 2);
    world.process(first).await;
    let next = world.worker_of(to);
    next.process(&records(second), Deadline::NONE).await;
    rebuild_and_settle(&next).await;
    assert_eq!((world.parked().await, world.rows().await), (vec![], fold(Registry::new(to), events)), "live");
}

/// Contributions move from the row to its shards, and to the shards that remain.
#[tokio::test]
async fn the_number_of_shards_may_change() {
    let names: Vec<_> = (0..30).map(|number| format!("guest-{number}")).collect();
    let came = names.iter().enumerate().map(|(number, name)| {
        let place = if number % 3 == 0 { "inn" } else { "bar" };
        (name.as_str(), "Came", fields([("place", place.into()), ("spent", i64::try_from(number).expect("few guests").into())]))
    });
    let moved = names.iter().step_by(4).map(|name| (name.as_str(), "Moved", fields([("from", "inn".into()), ("to", "bar".into())])));
    let left = names.iter().step_by(7).map(|name| (name.as_str(), "Left", fields([])));
    let events = recorded(came.chain(moved).chain(left));
    every_way_from(GUESTS, GUESTS_IN_FOUR, &events).await;
    every_way_from(GUESTS_IN_FOUR, GUESTS_IN_TWO, &events).await;
}

#[derive(Deserialize)]
enum Giving {
    Born { at: Decimal },
    Gave { to: String, n: Decimal },
}

revisions!(
    "giving",
    Giving,
    |event, _aggregate, revision| match event {
        // The second revision shares the attribute, the third owns it again.
        Giving::Born { at } if revision == 2 => own().set("born", at).into(),
        Giving::Born { at } => own().set("total", at).into(),
        Giving::Gave { to, n } if revision == 2 => own().add("gave", n).and(shared(to).add("total", n)),
        Giving::Gave { n, .. } => own().add("gave", n).into(),
    },
    OwnedFirst = 1 as OWNED_FIRST,
    SharedThen = 2 as SHARED_THEN,
    OwnedAgain = 3 as OWNED_AGAIN
);

#[tokio::test]
async fn an_attribute_changes_hands_between_a_row_and_those_that_share_it() {
    let events = recorded([
        ("a", "Born", data! { at: 100 }),
        ("b", "Born", data! { at: 200 }),
        ("a", "Gave", data! { to: "b", n: 5 }),
        ("b", "Gave", data! { to: "a", n: 7 }),
        ("a", "Gave", data! { to: "c", n: 1 }),
    ]);
    every_way_from(OWNED_FIRST, SHARED_THEN, &events).await;
    every_way_from(SHARED_THEN, OWNED_AGAIN, &events).await;
}

#[derive(Deserialize)]
enum Bidding {
    Bid { item: String, amount: Decimal, test: bool },
}

revisions!(
    "bids",
    Bidding,
    |event, bidder, revision| {
        let Bidding::Bid { item, amount, test } = event;
        match revision {
            1 => own().add("bids", 1).and(shared(item).add("bids", 1).add("tests", 0).max("highest", amount).insert("bidders", bidder)),
            2 if *test => own().add("tests", 1).into(),
            2 => own().add("bids", 1).and(shared(item).add("bids", 1).max("highest", amount).insert("bidders", bidder)),
            // Each attribute is combined in another way than before.
            _ => shared(item).max("bids", 1).insert("highest", bidder).add("bidders", 1).into(),
        }
    },
    Bids1 = 1 as BIDS_1,
    Bids2 = 2 as BIDS_2,
    Bids3 = 3 as BIDS_3
);

#[tokio::test]
async fn maxima_and_sets_come_down_and_what_no_event_writes_goes() {
    let bid = |who, item: &str, amount: u64, test: bool| {
        (who, "Bid", fields([("item", item.into()), ("amount", amount.into()), ("test", test.into())]))
    };
    let events = recorded([
        bid("ann", "vase", 10, false),
        bid("bot", "vase", 999_999, true),
        bid("ben", "vase", 7, false),
        bid("bot", "cup", 3, true),
    ]);
    every_way_from(BIDS_1, BIDS_2, &events).await;
    every_way_from(BIDS_2, BIDS_3, &events).await;
    every_way_from(BIDS_1, BIDS_3, &events).await;
}

/// A bid that found the old maximum high enough, after the bids were scanned and before the maximum came down.
#[tokio::test]
async fn a_maximum_that_comes_down_stays_above_what_is_offered_meanwhile() {
    let bid =
        |who, amount: u64, test: bool| (who, "Bid", fields([("item", "vase".into()), ("amount", amount.into()), ("test", test.into())]));
    let events = recorded([bid("ann", 10, false), bid("bot", 999_999, true), bid("cid", 500, false)]);
    let world = world_of(BIDS_1, &events[..2]).await;
    let other = Arc::new(world.worker_of(BIDS_2));
    rebuild(&other, Task::Rebuild, 1).await;
    let third = Mutex::new(Some(events[2].clone()));
    let tapped = world.tapped_of(BIDS_2, move |call| {
        let lowers = call.operation == "UpdateItem" && call.body.contains(r#""highest""#);
        let Some(event) = third.lock().expect("no test panics while it holds this").take_if(|_| lowers) else { return Fault::None };
        let other = other.clone();
        Fault::Meanwhile(Box::pin(async move {
            other.store().append(Version(0), std::slice::from_ref(&event)).await.expect("it is appended");
            other.process(&records(&[event]), Deadline::NONE).await;
        }))
    });
    settle(tapped.worker.store(), BIDS_2[0], Deadline::NONE).await.expect("nothing fails");
    assert_eq!(world.rows().await, fold(Registry::new(BIDS_2), &events));
}

#[derive(Deserialize)]
enum Trade {
    Bought { shop: String, price: Decimal },
    Closed {},
    Reopened {},
}

revisions!(
    "trades",
    Trade,
    |event, _aggregate, revision| match event {
        Trade::Bought { shop, price } => {
            let change = own().add("spent", price);
            let change = if revision == 2 { change.add("times", 1) } else { change };
            let shop = shared(shop).add("taken", price).max("dearest", price);
            change.and(if revision == 3 { shop.add("sales", 1) } else { shop })
        }
        Trade::Closed {} => own().set("closed", true).and(retract()),
        Trade::Reopened {} => own().remove("closed").into(),
    },
    Trades1 = 1 as TRADES_1,
    Trades2 = 2 as TRADES_2,
    Trades3 = 3 as TRADES_3
);

fn purchases(shops: usize) -> Vec<(&'static str, &'static str, Value)> {
    let shop = |at: usize| {
        let shop = format!("shop-{at:03}");
        ("ann", "Bought", fields([("shop", shop.into()), ("price", 2.into())]))
    };
    (0..shops).map(shop).collect()
}

#[tokio::test]
async fn a_customer_of_250_shops_is_rebuilt_in_place() {
    let events = recorded(purchases(250));
    every_way_from(TRADES_1, TRADES_3, &events).await;
}

#[tokio::test]
async fn a_customer_of_450_shops_is_rebuilt_though_only_own_attributes_change() {
    let events = recorded(purchases(450));
    let world = world_of(TRADES_1, &events).await;
    let longest = Arc::<Mutex<usize>>::default();
    let seen = longest.clone();
    let tapped = world.tapped_of(TRADES_2, move |call| {
        for (at, _) in call.body.match_indices(r#""UpdateExpression":""#) {
            let expression = &call.body[at + 20..];
            let length = expression.find('"').unwrap_or_default();
            let mut longest = seen.lock().expect("no test panics while it holds this");
            *longest = length.max(*longest);
        }
        Fault::None
    });
    rebuild_and_settle(&tapped.worker).await;
    assert_eq!((world.parked().await, world.rows().await), (vec![], fold(Registry::new(TRADES_2), &events)));
    let longest = *longest.lock().expect("no test panics while it holds this");
    assert!(longest < 1_000, "{longest} bytes, of which DynamoDB takes 4,096: it writes what differs and nothing else");
}

#[tokio::test]
async fn a_customer_of_250_shops_takes_back_everything_and_goes_on() {
    let mut facts = purchases(250);
    facts.extend([("ann", "Closed", data! {}), ("ann", "Reopened", data! {})]);
    facts.extend(purchases(1));
    let events = recorded(facts);
    let world = world_of(TRADES_1, &events).await;
    assert_eq!((world.parked().await, world.rows().await), (vec![], fold(Registry::new(TRADES_1), &events)));
    // Without the event store, only the event stream is there: the steps need more.
    let alone = World::with(Registry::new(TRADES_1)).await;
    for batch in events.chunks(50) {
        alone.process(batch).await;
    }
    let [(_, version, reason)] = &*alone.parked().await else { panic!("one aggregate is parked") };
    assert_eq!(*version, Some(251));
    assert!(reason.contains("applied in steps, which need it and all before it in the event store"), "{reason}");
}

#[tokio::test]
async fn a_lost_row_of_a_customer_of_120_shops_is_built_again_and_beside() {
    let events = recorded(purchases(120));
    let world = World::with(Registry::new(TRADES_1)).await;
    world.append_all(&events).await;
    rebuild_and_settle(&world.worker).await;
    let expected = fold(Registry::new(TRADES_1), &events);
    assert_eq!((world.parked().await, world.rows().await), (vec![], expected.clone()));
    // Into a table of its own.
    let mut names = names(Registry::new(TRADES_1));
    names.projections.insert("trades", "trades-beside".to_owned());
    let beside = Worker::new(Store::new(world.embedded.client(), names), Registry::new(TRADES_1));
    beside.store().create_tables(Registry::new(TRADES_1)).await.expect("the table is created");
    let counts = rebuild(&beside, Task::IntoTable, 1).await;
    assert_eq!((counts.created, counts.stopped), (1, 0));
    assert_eq!(beside.store().visible_rows(TRADES_1[0]).await.expect("rows"), expected["trades"]);
    // The row is lost, and what it has contributed is still there.
    lose(&world, "trades", "ann").await;
    let verified = check(&world.worker, true).await;
    assert!(verified.is_clean(), "{verified:?}");
    assert_eq!((world.parked().await, world.rows().await), (vec![], expected));
}

async fn lose(world: &World, table: &str, key: &str) {
    let delete = world.embedded.client().delete_item().table_name(table).key("id", AttributeValue::S(key.to_owned()));
    delete.send().await.expect("it is deleted");
}

#[derive(Deserialize)]
enum Selling {
    Sold { shop: String, n: Decimal },
}

revisions!(
    "sales",
    Selling,
    |event, _aggregate, revision| {
        let Selling::Sold { shop, n } = event;
        let change = own().add("sold", n);
        let change = if revision == 2 { change.add("times", 1) } else { change };
        change.and(shared(shop).add("sum", n).max("biggest", n))
    },
    Sales1 = 1 as SALES_1,
    Sales2 = 2 as SALES_2
);

fn sale(who: &'static str, shop: &str, n: u64) -> (&'static str, &'static str, Value) {
    (who, "Sold", fields([("shop", shop.into()), ("n", n.into())]))
}

#[tokio::test]
async fn a_numeric_maximum_survives_the_repair_of_outdated_rows_and_of_a_lost_row() {
    let events = recorded([sale("a", "x", 3), sale("b", "x", 5), sale("c", "y", 5)]);
    every_way_from(SALES_1, SALES_2, &events).await;
    let world = world_of(SALES_1, &events).await;
    lose(&world, "sales", "c").await;
    let found = check(&world.worker, false).await;
    assert_eq!(found.count(RowFinding::Missing), 1);
    assert!(check(&world.worker, true).await.is_clean());
    assert_eq!(world.rows().await, fold(Registry::new(SALES_1), &events));
}

#[tokio::test]
async fn a_numeric_maximum_that_is_first_raised_during_a_repair_stays() {
    let world = World::with(Registry::new(SALES_1)).await;
    let events = recorded([sale("a", "x", 1), sale("b", "y", 5)]);
    world.append_all(&events[..1]).await;
    world.process(&events[..1]).await;
    let other = Arc::new(world.worker_of(SALES_1));
    let second = Mutex::new(Some(events[1].clone()));
    let tapped = world.tapped_of(SALES_1, move |call| {
        let scans_rows = call.operation == "Scan" && call.body.contains(r#""sales""#);
        let Some(event) = second.lock().expect("no test panics while it holds this").take_if(|_| scans_rows) else { return Fault::None };
        let other = other.clone();
        Fault::Meanwhile(Box::pin(async move {
            other.store().append(Version(0), std::slice::from_ref(&event)).await.expect("it is appended");
            other.process(&records(&[event]), Deadline::NONE).await;
        }))
    });
    let verified = check(&tapped.worker, true).await;
    assert!(verified.is_clean() && verified.shared.is_empty(), "{verified:?}");
    assert_eq!(world.rows().await, fold(Registry::new(SALES_1), &events));
}

#[tokio::test]
async fn a_maximum_is_not_raised_by_an_event_that_is_parked() {
    let wide = "99999999999999999999999999999999999999";
    let events = recorded([
        ("a", "Sold", data! { shop: "x", n: 0.1 }),
        // The sum with this one has 39 digits.
        ("b", "Sold", Value::Map([("shop".to_owned(), "x".into()), ("n".to_owned(), Value::Number(wide.parse().expect("valid")))].into())),
    ]);
    let world = World::with(Registry::new(SALES_1)).await;
    world.append_all(&events).await;
    for event in &events {
        world.process(std::slice::from_ref(event)).await;
    }
    assert_eq!(world.parked().await.len(), 1);
    assert_eq!(world.row("sales", "x").await, "biggest=0.1 sum=0.1");
    let verified = check(&world.worker, true).await;
    assert_eq!((verified.count(RowFinding::Parked), verified.shared.len()), (1, 0), "{verified:?}");
    assert_eq!(world.row("sales", "x").await, "biggest=0.1 sum=0.1");
}

#[derive(Deserialize)]
enum Faulty {
    Named { n: Decimal },
    Joined { to: String },
    Added { n: Decimal },
    Raised { n: Decimal },
}

revisions!(
    "faulty",
    Faulty,
    |event, _aggregate, _revision| match event {
        Faulty::Named { n } => own().set("members", n).into(),
        Faulty::Joined { to } => shared(to).add("members", 1).into(),
        Faulty::Added { n } => shared("s").add("x", n).into(),
        Faulty::Raised { n } => shared("s").max("x", n).into(),
    },
    FaultyRule = 1 as FAULTY
);

/// Whichever event comes first, the rows are right, and what cannot be applied is parked with a reason that names the rule's mistake.
#[tokio::test]
async fn a_rule_whose_changes_meet_in_one_attribute_parks_and_never_drifts() {
    let both = [
        [("c", "Named", data! { n: 0 }), ("a", "Joined", data! { to: "c" })],
        [("a", "Joined", data! { to: "c" }), ("c", "Named", data! { n: 0 })],
        [("a", "Added", data! { n: 3 }), ("b", "Raised", data! { n: 5 })],
        [("b", "Raised", data! { n: 5 }), ("a", "Added", data! { n: 3 })],
        // A page that links to itself.
        [("a", "Added", data! { n: 3 }), ("c", "Joined", data! { to: "c" })],
    ];
    for facts in both {
        let told = format!("{facts:?}");
        let events = recorded(facts);
        let world = World::with(Registry::new(FAULTY)).await;
        world.append_all(&events).await;
        for event in &events {
            world.process(std::slice::from_ref(event)).await;
        }
        let [(aggregate, Some(1), reason)] = &*world.parked().await else { panic!("{told}: the second is parked") };
        assert_eq!(*aggregate, events[1].aggregate.to_string(), "{told}");
        assert!(reason.contains("use two attributes") || reason.contains("use `own()`"), "{told}: {reason}");
        let verified = check(&world.worker, true).await;
        assert_eq!((verified.home.len(), verified.count(RowFinding::Parked), verified.shared.len()), (1, 1, 0), "{told}: {verified:?}");
    }
}

revisions! {
    "becoming-own", Giving, |event, aggregate, revision| match event {
        Giving::Born { at } if revision == 1 => own().set("at", at).into(),
        Giving::Born { at } => own().set("at", at).add("n", at).into(),
        Giving::Gave { to, n } if revision == 1 => shared(to.as_str()).add("n", n).into(),
        Giving::Gave { to: _, n } => own().add("given", n).into(),
    },
    SharedN = 1 as SHARED_N, OwnN = 2 as OWN_N
}

/// A settlement by the new revision, while the old one still contributes, leaves the attribute to those who contribute: the aggregate whose
/// own it becomes can take it.
#[tokio::test]
async fn an_attribute_that_was_settled_in_between_can_still_become_an_aggregates_own() {
    let gave = |n: i32| ("Gave", fields([("to", "c".into()), ("n", n.into())]));
    let events = recorded([("c", "Born", fields([("at", 7.into())])), ("a", gave(3).0, gave(3).1), ("b", gave(4).0, gave(4).1)]);
    let world = world_of(SHARED_N, &events).await;
    let next = world.worker_of(OWN_N);
    let rule = next.registry().projections()[0];
    for of in ["a", "c", "b"] {
        let events: Vec<_> = events.iter().filter(|event| event.aggregate.as_str() == of).cloned().collect();
        next.process(&records(&events), Deadline::NONE).await;
        settle(next.store(), rule, Deadline::NONE).await.expect("nothing fails");
    }
    assert_eq!((world.parked().await, world.rows().await), (vec![], fold(Registry::new(OWN_N), &events)));
}

revisions! {
    "taken-back", Gift, |event, aggregate, revision| match event {
        Gift::Gave { to, n } if revision == 1 => shared(to.as_str()).insert("givers", aggregate).max("most", n).add("gifts", 0).into(),
        Gift::Gave { to: _, n } => own().add("given", n).into(),
    },
    SharedGift = 1 as SHARED_GIFT, OwnGift = 2 as OWN_GIFT
}

#[derive(Deserialize)]
enum Gift {
    Gave { to: String, n: Decimal },
}

/// The attributes of row `c` to which `a` contributes, each removed by a process that settles it. Returns also what is contributed.
async fn removed_while_settled(world: &World) -> [(Cell, Contribution, Mark); 3] {
    let (store, rule, row) = (world.worker.store(), SHARED_GIFT[0], RowKey::from("c"));
    let held = async || store.rows(rule, [row.clone()], Deadline::NONE).await.expect("read").remove(&row).expect("a row").shared;
    let contributed = [
        ("givers", Contribution::Set(["a".into()].into())),
        ("most", Contribution::Max(3.into())),
        ("gifts", Contribution::Sum(Decimal::zero())),
    ];
    let cells = contributed.map(|(name, contribution)| {
        let mark = Mark { kind: contribution.kind(), revision: 1 };
        ((row.clone(), name.to_owned()), contribution, mark)
    });
    for (cell, _, mark) in &cells {
        store.unsettle(rule, cell, *mark, Deadline::NONE).await.expect("marked");
        store.lower(rule, cell, &held().await[&cell.1], None, "mine", Deadline::NONE).await.expect("removed");
        assert_eq!(held().await[&cell.1].value, None);
    }
    cells
}

fn gifts() -> Vec<RecordedEvent> {
    recorded([("a", "Gave", fields([("to", "c".into()), ("n", 3.into())]))])
}

/// Which a process has removed that may have been killed, or whose findings are void now.
#[tokio::test]
async fn an_attribute_that_another_process_has_removed_is_settled() {
    let world = world_of(SHARED_GIFT, &gifts()).await;
    let (store, rule) = (world.worker.store(), SHARED_GIFT[0]);
    let cells = removed_while_settled(&world).await;
    settle(store, rule, Deadline::NONE).await.expect("nothing fails");
    for (cell, contribution, mark) in &cells {
        store.settle(rule, cell, Some((contribution, *mark)), "mine", Deadline::NONE).await.expect("void");
    }
    assert_eq!(world.rows().await, fold(Registry::new(SHARED_GIFT), &gifts()));
    assert!(check(&world.worker, false).await.is_clean());
}

/// Who settles an attribute removes it if the first scan finds no contribution, and raises it to what the second scan finds. What is taken
/// back between the two finds nothing to take back, and must not come back.
#[tokio::test]
async fn what_is_taken_back_while_its_attribute_is_settled_stays_away() {
    let events = gifts();
    let world = world_of(SHARED_GIFT, &events).await;
    let (store, rule) = (world.worker.store(), SHARED_GIFT[0]);
    let cells = removed_while_settled(&world).await;
    let next = world.worker_of(OWN_GIFT);
    next.process(&records(&events), Deadline::NONE).await;
    for (cell, contribution, mark) in &cells {
        store.settle(rule, cell, Some((contribution, *mark)), "mine", Deadline::NONE).await.expect("raised, or void");
    }
    settle(next.store(), OWN_GIFT[0], Deadline::NONE).await.expect("nothing fails");
    assert_eq!((world.parked().await, world.rows().await), (vec![], fold(Registry::new(OWN_GIFT), &events)));
}
