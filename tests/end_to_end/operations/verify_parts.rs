//! A verification that stops as often as it can, is saved, is killed, and goes on elsewhere finds each wrong row and each wrong attribute
//! once, and nothing else.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use fastrand::Rng;
use projection_vocabulary::{HOME_SORT, RecordedEvent, Registry, Value};
use projection_worker::{
    Worker,
    internals::{
        operations::verify::{
            Options, Repair,
            parts::{Finding, Part, Progress, Totals, WrongCell},
            verify,
        },
        retry::Deadline,
        store::verifications::SavedVerification,
    },
};

use crate::{
    size,
    support::{
        large_rows::{number, tamper, world_of_large_rows},
        projections::{STAYS_1, STAYS_2, UNUSUAL},
        stays::{FAT, stays},
        world::{World, account, history, included, recorded, records},
    },
};

/// What an item holds, less some for the other attributes of the item.
const SAVED_BYTES_MAX: usize = 390_000;

/// A verification in parts.
struct Verified {
    totals: Totals,
    /// Each finding, in order: `account-1: drifted`.
    found: Vec<String>,
    parts: usize,
}

/// Verifies in parts that are as short as possible. One in so many is killed before it is saved.
async fn verified_with(worker: &Worker, projection: &str, sample: Option<u32>, killed_one_in: Option<u32>) -> Verified {
    let rule = worker.registry().get(projection).expect("a projection");
    let mut saved = serde_json::to_string(&Progress::start(4, sample)).expect("JSON");
    let (mut found, mut random) = (Vec::new(), Rng::with_seed(7));
    for parts in 0..5_000 {
        let progress: Progress = serde_json::from_str(&saved).expect("what was saved");
        if progress.is_done() {
            found.sort();
            return Verified { totals: progress.totals, found, parts };
        }
        let mut part = Part::new(worker, rule, progress.clone(), Deadline::NONE);
        let mut of_part = Vec::new();
        while *part.progress() == progress {
            of_part.extend(part.step().await.expect("a step").iter().filter_map(text));
        }
        if killed_one_in.is_none_or(|one| random.u32(..one) > 0) {
            saved = serde_json::to_string(&part.end()).expect("JSON");
            assert!(saved.len() < SAVED_BYTES_MAX, "{} bytes", saved.len());
            found.append(&mut of_part);
        }
    }
    panic!("it does not end");
}

async fn verified(worker: &Worker, projection: &str) -> Verified {
    verified_with(worker, projection, None, None).await
}

fn text(finding: &Finding) -> Option<String> {
    match finding {
        Finding::Home { id, finding, .. } => Some(format!("{id}: {}", finding.text())),
        Finding::Child(child, finding) => Some(format!("{child}: {}", finding.text())),
        Finding::Shared(WrongCell { cell: (row, attribute), finding, .. }) => {
            finding.as_ref().map(|finding| format!("{row}.{attribute}: {}", finding.text()))
        }
    }
}

/// Verifies with and without being killed, compares the findings with `expected`, then repairs them and finds nothing.
async fn finds(world: &World, projection: &str, expected: &[&str], repair: Repair, left: &[&str]) -> Verified {
    let worker = &world.worker;
    let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
    expected.sort();
    for killed_one_in in [None, Some(3)] {
        let Verified { found, totals, parts } = verified_with(worker, projection, None, killed_one_in).await;
        assert_eq!((&found, totals.found()), (&expected, expected.len() as u64), "{parts} parts, killed: {killed_one_in:?}");
    }
    let rule = worker.registry().get(projection).expect("a projection");
    let options = Options { segments: 3, sample: None, repair };
    let whole = verify(worker, rule, options, Deadline::NONE).await.expect("verified");
    assert_eq!((whole.found(), whole.repaired), (expected.len() as u64, (expected.len() - left.len()) as u64), "{whole:?}");
    let after = verified(worker, projection).await;
    assert_eq!(after.found, left);
    after
}

async fn delete_event(world: &World, id: &str, version: u64) {
    let request = world.embedded.client().delete_item().table_name("event-store");
    let request = request.key("PK", AttributeValue::S(format!("AGGREGATE#{id}")));
    request.key("SK", AttributeValue::S(format!("EVENT#{version:010}"))).send().await.expect("deleted");
}

async fn delete_row(world: &World, table: &str, keys: &[(&str, &str)]) {
    let keys = keys.iter().map(|(name, value)| ((*name).to_owned(), AttributeValue::S((*value).to_owned())));
    world.embedded.client().delete_item().table_name(table).set_key(Some(keys.collect())).send().await.expect("deleted");
}

async fn put_child(world: &World, account: &str, movement: &str) {
    let put = world.embedded.client().put_item().table_name("account-statement");
    let put = put.item("accountId", AttributeValue::S(account.to_owned())).item("movement", AttributeValue::S(movement.to_owned()));
    put.item("amount", number("7")).send().await.expect("put");
}

/// Accounts of three events each.
fn accounts(count: usize) -> Vec<RecordedEvent> {
    (0..count).flat_map(|at| account(&format!("account-{at:02}"), &["1", "2", "3"])).collect()
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_wrong_home_row_is_found_once() {
    let world = World::new().await;
    let events = accounts(40);
    world.append_all(&events).await;
    let behind = |event: &RecordedEvent| matches!(event.aggregate.as_str(), "account-01" | "account-11") && event.version.0 == 3;
    let missing = |event: &RecordedEvent| matches!(event.aggregate.as_str(), "account-02" | "account-12");
    world.process(&events.iter().filter(|event| !behind(event) && !missing(event)).cloned().collect::<Vec<_>>()).await;
    let key = |id| ("accountId", id);
    for id in ["account-03", "account-13"] {
        tamper(&world, "account-summary", key(id), "SET #n = :v", "balance", Some(number("7"))).await;
    }
    delete_event(&world, "account-04", 3).await;
    for version in 1..=3 {
        delete_event(&world, "account-05", version).await;
    }
    tamper(&world, "account-summary", key("account-08"), "SET #n = :v", "revision", Some(number("0"))).await;
    let parked_at = AttributeValue::S("2026-01-01T00:00:00.000Z".into());
    tamper(&world, "account-summary", key("account-09"), "SET #n = :v", "parkedAt", Some(parked_at)).await;
    // Unfinished, and of an aggregate without events: only its row leads to it.
    tamper(&world, "account-summary", key("account-50"), "SET #n = :v", "unfinished", Some(number("1"))).await;
    let expected = [
        "account-01: behind",
        "account-02: missing",
        "account-03: drifted",
        "account-04: ahead",
        "account-05: orphaned",
        "account-08: outdated",
        "account-09: parked",
        "account-11: behind",
        "account-12: missing",
        "account-13: drifted",
        "account-50: outdated",
    ];
    let after = finds(&world, "account-summary", &expected, Repair::AllOrphans, &["account-09: parked"]).await;
    // The segments of events and of rows.
    assert!(after.parts >= 8, "{} parts", after.parts);
}

/// More than are saved.
#[tokio::test(start_paused = true)]
async fn rows_of_very_many_aggregates_that_are_missing_are_found_once() {
    let world = World::new().await;
    let id = |at: u32| format!("{at:01500}");
    let events: Vec<_> = (0..200).flat_map(|at| account(&id(at), &["1"])).collect();
    world.append_all(&events).await;
    let Verified { found, .. } = verified_with(&world.worker, "account-summary", None, Some(3)).await;
    assert_eq!(found, (0..200).map(|at| format!("{}: missing", id(at))).collect::<Vec<_>>());
}

/// Among them more of one key than a page of a scan has.
#[tokio::test(start_paused = true)]
async fn every_kind_of_wrong_child_row_is_found_once() {
    let world = World::with(included()).await;
    let events = accounts(10);
    world.append_all(&events).await;
    world.process(&events).await;
    assert_eq!(verified(&world.worker, "account-statement").await.totals.rows, 40);
    let child = |account: &'static str, movement: &'static str| [("accountId", account), ("movement", movement)];
    delete_row(&world, "account-statement", &child("account-01", "0000000002")).await;
    put_child(&world, "account-02", "0000000003").await;
    put_child(&world, "account-02", "0000000004").await;
    delete_row(&world, "account-statement", &child("account-03", HOME_SORT)).await;
    let mut expected: Vec<String> =
        ["account-01/0000000002: missing", "account-02/0000000003: different", "account-02/0000000004: extra", "account-03: missing"]
            .map(str::to_owned)
            .into();
    // A page of a scan has 1 MB.
    for movement in 0..1_200 {
        put_child(&world, "nobody", &format!("{movement:0900}")).await;
        expected.push(format!("nobody/{movement:0900}: orphaned"));
    }
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    finds(&world, "account-statement", &expected, Repair::AllOrphans, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_wrong_attribute_is_found_once_in_rows_of_many_pages() {
    let world = world_of_large_rows().await;
    let clean = verified(&world.worker, "forum-counters").await;
    // 2 or 5 MB of rows are read twice, and as many events once.
    assert!(clean.found.is_empty() && clean.parts > size(8, 20), "{:?} {}", clean.found, clean.parts);
    assert_eq!((clean.totals.events, clean.totals.aggregates, clean.totals.sums), (246, 126, 12));

    let (table, key) = ("forum-counters", |id| ("id", id));
    let text = |text: &str| Some(AttributeValue::S(text.to_owned()));
    tamper(&world, table, key("category-0"), "ADD #n :v", "postCount", Some(number("5"))).await;
    tamper(&world, table, key("category-0"), "ADD #n :v", "topicCount", Some(number("-1"))).await;
    tamper(&world, table, key("category-1"), "SET #n = :v", "lastPostAt", text("2020-01-01T00:00:00.000Z")).await;
    tamper(&world, table, key("category-2"), "SET #n = :v", "lastPostAt", text("2120-01-01T00:00:00.000Z")).await;
    tamper(&world, table, key("category-3"), "REMOVE #n", "lastPostAt", None).await;
    // Contributions that have drifted, of three rows to two sums: the sums are not wrong.
    tamper(&world, table, key("topic-004"), "ADD #n :v", "contributed#postCount#category-4", Some(number("3"))).await;
    tamper(&world, table, key("topic-010"), "REMOVE #n", "contributed#postCount#category-4", None).await;
    tamper(&world, table, key("topic-005"), "ADD #n :v", "contributed#topicCount#category-5", Some(number("-3"))).await;
    // Left over, taken back, and what a lost row had contributed.
    tamper(&world, table, key("nowhere"), "SET #n = :v", "postCount", Some(number("0"))).await;
    tamper(&world, table, key("nowhere"), "SET #n = :v", "shared#postCount", text("sum@1")).await;
    tamper(&world, table, key("category-5"), "SET #n = :v", "unsettled#lastPostAt", text("x")).await;
    delete_row(&world, table, &[("id", "topic-117")]).await;
    let expected = [
        "category-0.postCount: sum",
        "category-0.topicCount: sum",
        "category-1.lastPostAt: lower",
        "category-2.lastPostAt: higher",
        "category-3.lastPostAt: lower",
        "topic-004: drifted",
        "topic-010: drifted",
        "topic-005: drifted",
        "nowhere.postCount: leftOver",
        "category-5.lastPostAt: takenBack",
        "topic-117: missing",
        "category-3.postCount: sum",
        "category-3.topicCount: sum",
    ];
    finds(&world, table, &expected, Repair::Findings, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn rules_with_every_operation_on_shared_rows_are_verified_in_parts() {
    let world = World::with(Registry::new(UNUSUAL)).await;
    let mut random = Rng::with_seed(5);
    let facts: Vec<_> = (0..300)
        .map(|_| {
            let visit = [("page", Value::from(format!("page-{}", random.u8(..9)))), ("spent", random.u64(..20).into())];
            (format!("who-{}", random.u8(..40)), Value::Map(visit.map(|(name, value)| (name.into(), value)).into()))
        })
        .collect();
    let events = recorded(facts.iter().map(|(who, data)| (who.as_str(), "Came", data.clone())));
    world.append_all(&events).await;
    world.process(&events).await;
    let key = |id| ("id", id);
    let nobody = AttributeValue::Ss(vec!["nobody".into()]);
    tamper(&world, "visits", key("page-1"), "ADD #n :v", "visitors", Some(nobody)).await;
    tamper(&world, "visits", key("page-2"), "REMOVE #n", "visitors", None).await;
    tamper(&world, "visits", key("page-3"), "SET #n = :v", "longest", Some(number("0"))).await;
    tamper(&world, "visits", key("page-4"), "ADD #n :v", "spent", Some(number("0.5"))).await;
    tamper(&world, "visits", key("page-5"), "REMOVE #n", "visits", None).await;
    let expected =
        ["page-1.visitors: higher", "page-2.visitors: lower", "page-3.longest: lower", "page-4.spent: sum", "page-5.visits: sum"];
    finds(&world, "visits", &expected, Repair::Findings, &[]).await;
}

#[tokio::test]
async fn a_history_of_many_pages_is_compared_whole() {
    let world = World::with(Registry::new(STAYS_1)).await;
    let mut events = stays(3, 400, 1, FAT);
    events.extend(stays(4, 300, 9, FAT).into_iter().filter(|event| event.aggregate.as_str() != "guest-000"));
    world.append_all(&events).await;
    for batch in events.chunks(200) {
        world.process(batch).await;
    }
    // An open history is read again by the next part, and its events count once.
    let clean = verified(&world.worker, "stays").await;
    assert_eq!((clean.found, clean.totals.aggregates, clean.totals.events), (vec![], 9, events.len() as u64));
    tamper(&world, "stays", ("guest", "guest-000"), "ADD #n :v", "nights", Some(number("1"))).await;
    assert_eq!(verified(&world.worker, "stays").await.found, ["guest-000: drifted"]);
}

#[tokio::test]
async fn rows_that_change_between_parts_are_not_reported_and_a_wrong_one_is() {
    let world = World::new().await;
    let events = history("forum", 11, 2_000, 40);
    world.append_all(&events[..200]).await;
    world.process(&events[..200]).await;
    tamper(&world, "forum-counters", ("id", "category-0001"), "ADD #n :v", "postCount", Some(number("1"))).await;
    let worker = world.worker_of(projections::ALL);
    let live = async {
        for batch in events[200..].chunks(10) {
            world.append_all(batch).await;
            worker.process(&records(batch), Deadline::NONE).await;
        }
    };
    let watched = async {
        for look in 0..6 {
            let found = verified(&world.worker, "forum-counters").await.found;
            assert_eq!(found, ["category-0001.postCount: sum"], "verification {look}");
        }
    };
    futures::join!(live, watched);
}

#[tokio::test]
async fn a_sample_checks_some_home_rows_and_no_shared_ones() {
    let world = World::new().await;
    let events = history("forum", 7, 1_200, 200);
    world.append_all(&events).await;
    world.process(&events).await;
    tamper(&world, "forum-counters", ("id", "category-0001"), "ADD #n :v", "postCount", Some(number("5"))).await;
    let some = verified_with(&world.worker, "forum-counters", Some(20), None).await.totals;
    let all = verified_with(&world.worker, "forum-counters", Some(100), None).await.totals;
    assert!(some.aggregates > 0 && some.aggregates < all.aggregates, "{some:?}");
    assert_eq!((all.events, all.sums, all.home, all.shared), (1_200, 0, BTreeMap::new(), 0));
}

#[tokio::test]
async fn what_is_saved_belongs_to_one_run_of_one_revision_and_is_not_parked() {
    let world = World::with(Registry::new(STAYS_1)).await;
    let store = world.worker.store();
    let run = store.save_verification(STAYS_1[0], None, "{}", Deadline::NONE).await.expect("saved");
    let saved = async |rule, run: &str| store.saved_verification(rule, run, Deadline::NONE).await.expect("read");
    assert_eq!(saved(STAYS_1[0], &run).await, SavedVerification::Progress("{}".to_owned()));
    assert_eq!((saved(STAYS_1[0], "another").await, saved(STAYS_2[0], &run).await), (SavedVerification::Replaced, SavedVerification::Lost));
    let later = store.save_verification(STAYS_1[0], None, "[]", Deadline::NONE).await.expect("saved");
    assert_eq!(saved(STAYS_1[0], &run).await, SavedVerification::Replaced);
    assert_eq!(saved(STAYS_1[0], &later).await, SavedVerification::Progress("[]".to_owned()));
    assert_eq!(world.parked().await, []);
    assert_eq!(store.saved_cursors(STAYS_1[0], Deadline::NONE).await.expect("cursors"), []);
}
