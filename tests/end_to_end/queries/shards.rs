//! Rows whose shared attributes are spread over shards: readers see one row.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use projection_vocabulary::{
    Attributes, ConsistencyToken, Decimal, DynProjection, RecordedEvent, Registry, RowId, RowKey, Value, data, row, sharded_row,
};
use projection_worker::{Deadline, LocalCache, Queries};
use serde::Deserialize;

use crate::support::{
    projections::{GUESTS, GUESTS_IN_FOUR, Guests},
    world::{Fault, World, fold, recorded, records},
};

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Found {
    spent: Decimal,
    largest: Decimal,
    guests: BTreeSet<String>,
    #[serde(default)]
    place: Option<String>,
}

const PLACES: [&str; 3] = ["inn", "bar", "guest-1"];

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

/// Forty guests, some of whom move and some of whom leave. One of the places is a guest, too.
fn guests() -> Vec<RecordedEvent> {
    let names: Vec<_> = (0..40).map(|number| format!("guest-{number}")).collect();
    let came = names.iter().enumerate().filter(|(_, name)| *name != "guest-1").map(|(number, name)| {
        let spent = i64::try_from(number).expect("few guests");
        (name.as_str(), "Came", fields([("place", PLACES[number % 3].into()), ("spent", spent.into())]))
    });
    let moved = names.iter().step_by(5).map(|name| (name.as_str(), "Moved", data! { from: "inn", to: "bar" }));
    let left = names.iter().step_by(7).map(|name| (name.as_str(), "Left", data! {}));
    recorded(came.chain([("guest-1", "Came", data! { place: "inn", spent: 7 })]).chain(moved).chain(left))
}

/// The rows that one shard would give, without the guests who are no place.
fn expected() -> BTreeMap<RowKey, Found> {
    let mut all = fold(Registry::new(GUESTS), &guests()).remove("guests").expect("the projection");
    let place = |key: &str| row(all.remove(&RowId::from(key)).expect("a place")).expect("a place's attributes");
    PLACES.map(RowKey::from).into_iter().zip(PLACES.map(place)).collect()
}

async fn world_of(rules: &'static [&'static dyn DynProjection]) -> World {
    let world = World::with(Registry::new(rules)).await;
    world.append_all(&guests()).await;
    for batch in guests().chunks(30) {
        world.process(batch).await;
    }
    world
}

static IN_FOUR: Guests<2, 4> = Guests;

async fn get(queries: &Queries, key: &RowKey) -> Found {
    queries.rows(&IN_FOUR).get(key.clone()).await.expect("read").expect("a row").data
}

#[tokio::test]
async fn every_read_by_key_combines_the_shards() {
    let world = world_of(GUESTS_IN_FOUR).await;
    let stored = world.rows().await;
    assert_eq!(stored, fold(Registry::new(GUESTS_IN_FOUR), &guests()));
    let shards = stored["guests"].keys().filter(|row| sharded_row(row.key.as_str()) == Some("inn")).count();
    assert_eq!(shards, 4, "the guests are spread over all shards");

    let reader = world.reader(GUESTS_IN_FOUR, |_| Fault::None);
    let (queries, expected) = (&reader.queries, expected());
    for (key, place) in &expected {
        assert_eq!(get(queries, key).await, *place);
        assert_eq!(reader.calls(), ["BatchGetItem"], "one request, however many shards");
        let rows = queries.rows(&IN_FOUR);
        assert_eq!(rows.get::<Found>(key.clone()).fresh().await.expect("read").expect("a row").data, *place);
        let last = guests().pop().expect("events");
        let token = ConsistencyToken { aggregate: last.aggregate, version: last.version };
        assert_eq!(rows.get::<Found>(key.clone()).after(&token).await.expect("read").expect("a row").data, *place);
        reader.calls();
        let cached = queries.clone().with_cache(LocalCache::new(10, Duration::from_mins(1)));
        assert_eq!((get(&cached, key).await, get(&cached, key).await), (expected[key].clone(), expected[key].clone()));
        assert_eq!(reader.calls(), ["BatchGetItem"]);
    }
    let many = queries.rows(&IN_FOUR).many::<Found>(expected.keys().cloned().chain(["nowhere".into()])).await.expect("read");
    let (found, absent): (Vec<_>, Vec<_>) = many.into_iter().partition(|(_, row)| row.is_some());
    assert_eq!(found.into_iter().map(|(key, row)| (key, row.expect("found").data)).collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(absent.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["nowhere"]);
    assert_eq!(queries.rows(&IN_FOUR).get::<()>("nowhere").untyped().await, Ok(None));
}

/// An aggregate that also is a shared row: what it owns, its version and its token are those of its own row.
#[tokio::test]
async fn a_home_row_keeps_its_version_and_gains_what_the_shards_have() {
    let world = world_of(GUESTS_IN_FOUR).await;
    let queries = world.queries(GUESTS_IN_FOUR);
    let head = guests().iter().filter(|event| event.aggregate.as_str() == "guest-1").map(|event| event.version).max();
    let row = queries.rows(&IN_FOUR).get::<Found>("guest-1").at_least(head.expect("events")).await.expect("read").expect("a row");
    assert_eq!((row.version, row.data), (head, expected().remove(&"guest-1".into()).expect("a place")));
}

/// Between the deployment and the end of the rebuild, a row has contributions of both revisions: those of the first on the row itself.
#[tokio::test]
async fn what_was_contributed_before_there_were_shards_counts() {
    let (first, second): (Vec<_>, Vec<_>) = guests().into_iter().partition(|event| event.version.0 == 1);
    let world = World::with(Registry::new(GUESTS)).await;
    world.append_all(&first).await;
    world.process(&first).await;
    let next = world.worker_of(GUESTS_IN_FOUR);
    // Half of the guests are at the second revision.
    world.append_all(&second).await;
    let report = next.process(&records(&second), Deadline::NONE).await;
    assert_eq!((report.total.failed, report.total.parked), (0, 0));
    let stored = &world.rows().await["guests"];
    let on_the_row: Option<&Attributes> = stored.get(&RowId::from("inn"));
    assert!(on_the_row.is_some_and(|row| row.contains_key("spent")), "{stored:?}");
    for (key, place) in expected() {
        assert_eq!(get(&world.queries(GUESTS_IN_FOUR), &key).await, place);
    }
}
