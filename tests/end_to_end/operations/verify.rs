//! What verification finds, what `--repair` repairs, and that neither touches correct rows.
//!
//! Verification looks again, seconds later, at rows that are missing or behind: tests with such rows pause the clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{DynProjection, RecordedEvent, data};
use projection_worker::internals::{
    operations::verify::{Options, Repair, RowFinding, SharedFinding, Verified, verify},
    retry::Deadline,
};

use crate::support::{
    projections::{HOUSES_1, HOUSES_2},
    projector::projector,
    world::{ONE_EACH, World, account, fold, history, recorded, records, registry},
};

type Items = BTreeMap<String, HashMap<String, AttributeValue>>;

const CHECK: Options = Options { segments: 3, sample: None, repair: Repair::Nothing };
const REPAIR: Options = Options { repair: Repair::Findings, ..CHECK };

async fn verified(world: &World, projection: &str, options: Options) -> Verified {
    let rule = world.worker.registry().get(projection).expect("a projection");
    verify(&world.worker, rule, options, Deadline::NONE).await.expect("verified")
}

/// All items of a projection's table by key, including the worker's own attributes.
async fn items(world: &World, rule: &dyn DynProjection) -> Items {
    let page = world.embedded.client().scan().table_name(rule.name()).send().await.expect("a scan");
    page.items().iter().map(|item| (item[rule.key()].as_s().expect("a text").clone(), item.clone())).collect()
}

/// Changes a row behind the worker's back.
async fn tamper(world: &World, projection: &str, key: &str, update: &str, value: Option<AttributeValue>) {
    let rule = world.worker.registry().get(projection).expect("a projection");
    let request = world.embedded.client().update_item().table_name(projection).key(rule.key(), AttributeValue::S(key.to_owned()));
    let request =
        request.update_expression(update).set_expression_attribute_values(value.map(|value| HashMap::from([(":v".into(), value)])));
    request.send().await.expect("updated");
}

fn number(number: &str) -> AttributeValue {
    AttributeValue::N(number.to_owned())
}

async fn delete(world: &World, table: &str, keys: &[(&str, &str)]) {
    let request = world.embedded.client().delete_item().table_name(table);
    let keys = keys.iter().map(|(name, value)| ((*name).to_owned(), AttributeValue::S((*value).to_owned()))).collect();
    request.set_key(Some(keys)).send().await.expect("deleted");
}

fn home(verified: &Verified) -> Vec<(&str, RowFinding)> {
    verified.home.iter().map(|(id, finding)| (id.as_str(), *finding)).collect()
}

fn shared(verified: &Verified) -> Vec<(String, SharedFinding)> {
    verified.shared.iter().map(|((row, attribute), finding)| (format!("{row}/{attribute}"), finding.clone())).collect()
}

/// A world whose rows are the fold of these events.
async fn projected(domain: &str, events: usize, aggregates: usize) -> (World, Vec<RecordedEvent>) {
    let world = World::new().await;
    let events = history(domain, 7, events, aggregates);
    world.append_all(&events).await;
    world.process(&events).await;
    assert_eq!(world.rows().await, fold(registry(), &events));
    (world, events)
}

#[tokio::test]
async fn correct_rows_are_clean_and_are_not_written() {
    let (world, events) = projected("forum", 2_000, 60).await;
    let rule = registry().get("forum-counters").expect("a projection");
    let before = items(&world, rule).await;
    let clean = verified(&world, "forum-counters", REPAIR).await;
    let aggregates = events.iter().map(|event| &event.aggregate).collect::<BTreeSet<_>>().len() as u64;
    assert!(clean.is_clean() && clean.home.is_empty() && clean.shared.is_empty());
    assert_eq!((clean.events, clean.aggregates, clean.repaired), (2_000, aggregates, 0));
    assert!(clean.rows >= aggregates && clean.sums > 0);
    assert_eq!(items(&world, rule).await, before);
}

#[tokio::test]
async fn one_tampered_row_among_a_hundred_is_found_and_repaired() {
    let (world, _) = projected("bank", 900, 300).await;
    let rule = registry().get("account-summary").expect("a projection");
    let before = items(&world, rule).await;
    // One row in a hundred, each in one of three ways.
    let chosen: Vec<_> = before.keys().step_by(100).cloned().collect();
    for (at, key) in chosen.iter().enumerate() {
        match at % 3 {
            0 => tamper(&world, rule.name(), key, "ADD balance :v", Some(number("0.01"))).await,
            1 => tamper(&world, rule.name(), key, "SET createdAt = :v", Some(AttributeValue::S("2020-01-01T00:00:00.000Z".into()))).await,
            _ => tamper(&world, rule.name(), key, "REMOVE updatedAt", None).await,
        }
    }
    assert!(chosen.len() >= 3);
    let found = verified(&world, rule.name(), CHECK).await;
    let drifted: Vec<_> = chosen.iter().map(|key| (key.as_str(), RowFinding::Drifted)).collect();
    assert_eq!((home(&found), shared(&found), found.is_clean()), (drifted, vec![], false));

    let repaired = verified(&world, rule.name(), REPAIR).await;
    assert_eq!((repaired.repaired, repaired.is_clean()), (chosen.len() as u64, true));
    let mut after = items(&world, rule).await;
    // Re-projected rows are marked, and no others.
    let rewritten: Vec<_> = after.iter_mut().filter_map(|(key, item)| item.remove("rewritten").map(|_| key.clone())).collect();
    assert_eq!((after, rewritten), (before, chosen));
    assert!(verified(&world, rule.name(), CHECK).await.home.is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_wrong_row_has_its_own_finding() {
    let world = World::new().await;
    let ids = ["ahead", "behind", "drifted", "fine", "missing", "orphaned", "parked", "version"];
    let mut events: Vec<_> = ids.iter().flat_map(|id| account(id, &["1", "2", "3"])).collect();
    events.sort_by_key(|event| (event.aggregate.clone(), event.version));
    world.append_all(&events).await;
    let seen =
        |event: &&RecordedEvent| event.aggregate.as_str() != "missing" && (event.aggregate.as_str() != "behind" || event.version.0 < 3);
    world.process(&events.iter().filter(seen).cloned().collect::<Vec<_>>()).await;
    let sort = |version: u64| format!("EVENT#{version:010}");
    delete(&world, "event-store", &[("PK", "AGGREGATE#ahead"), ("SK", &sort(3))]).await;
    for version in 1..=3 {
        delete(&world, "event-store", &[("PK", "AGGREGATE#orphaned"), ("SK", &sort(version))]).await;
    }
    tamper(&world, "account-summary", "drifted", "SET balance = :v", Some(number("7"))).await;
    tamper(&world, "account-summary", "version", "SET version = :v", Some(number("2"))).await;
    let poison = recorded([("parked", "AccountOpened", data! { initialDeposit: 1 }), ("parked", "MoneyDeposited", data! { amount: "x" })]);
    world.correct(&RecordedEvent { version: projection_vocabulary::Version(4), event_id: "p4".into(), ..poison[1].clone() }).await;
    world.process(&[RecordedEvent { version: projection_vocabulary::Version(4), event_id: "p4".into(), ..poison[1].clone() }]).await;

    let found = verified(&world, "account-summary", CHECK).await;
    let expected = [
        ("ahead", RowFinding::Ahead),
        ("behind", RowFinding::Behind),
        ("drifted", RowFinding::Drifted),
        ("missing", RowFinding::Missing),
        ("orphaned", RowFinding::Orphaned),
        ("parked", RowFinding::Parked),
        ("version", RowFinding::Drifted),
    ];
    assert_eq!(home(&found), expected);

    let repaired = verified(&world, "account-summary", Options { repair: Repair::AllOrphans, ..CHECK }).await;
    // A parked row is left to a redrive.
    assert_eq!((repaired.repaired, repaired.is_clean()), (6, false));
    assert_eq!(home(&verified(&world, "account-summary", CHECK).await), [("parked", RowFinding::Parked)]);
    assert_eq!(world.row("account-summary", "orphaned").await, "");
    assert!(world.row("account-summary", "ahead").await.starts_with("balance=3 "));
    assert!(world.row("account-summary", "missing").await.starts_with("balance=6 "));
}

#[tokio::test]
async fn a_wrong_sum_is_reported_with_its_difference_and_concurrent_repairs_fix_it_once() {
    let (world, events) = projected("forum", 600, 50).await;
    tamper(&world, "forum-counters", "category-0001", "ADD postCount :v", Some(number("5"))).await;
    tamper(&world, "forum-counters", "category-0002", "SET lastPostAt = :v", Some(AttributeValue::S("2020-01-01T00:00:00.000Z".into())))
        .await;
    let found = verified(&world, "forum-counters", CHECK).await;
    let expected = vec![
        ("category-0001/postCount".to_owned(), SharedFinding::Sum("5".parse().expect("a number"))),
        ("category-0002/lastPostAt".to_owned(), SharedFinding::Lower),
    ];
    assert_eq!((home(&found), shared(&found)), (vec![], expected));
    // Two concurrent repairs remove the difference once.
    let other = world.worker_of(ONE_EACH);
    let rule = registry().get("forum-counters").expect("a projection");
    let (one, two) = futures::join!(verified(&world, "forum-counters", REPAIR), verify(&other, rule, REPAIR, Deadline::NONE));
    assert!(one.is_clean() && two.expect("verified").is_clean());
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn a_tampered_contribution_is_a_finding_of_the_contributing_row() {
    let (world, events) = projected("forum", 600, 50).await;
    let rule = registry().get("forum-counters").expect("a projection");
    let before = items(&world, rule).await;
    let (topic, cell) = before
        .iter()
        .find_map(|(key, item)| Some((key.clone(), item.keys().find(|name| name.starts_with("contributed#postCount#"))?.clone())))
        .expect("a topic");
    let request = world.embedded.client().update_item().table_name(rule.name()).key("id", AttributeValue::S(topic.clone()));
    let request = request.update_expression("ADD #c :v").expression_attribute_names("#c", &cell);
    request.expression_attribute_values(":v", AttributeValue::N("3".into())).send().await.expect("updated");

    let found = verified(&world, rule.name(), CHECK).await;
    assert_eq!((home(&found), shared(&found)), (vec![(topic.as_str(), RowFinding::Drifted)], vec![]));
    assert!(verified(&world, rule.name(), REPAIR).await.is_clean());
    assert_eq!(world.rows().await, fold(registry(), &events));
    let mut after = items(&world, rule).await;
    for item in after.values_mut() {
        item.retain(|name, _| name != "rewritten" && name != "corrected");
    }
    assert_eq!(after, before);
}

#[tokio::test(start_paused = true)]
async fn a_parked_row_is_not_repaired_and_no_sum_is_adjusted_to_it() {
    let (world, events) = projected("forum", 600, 30).await;
    let rule = registry().get("forum-counters").expect("a projection");
    let items = items(&world, rule).await;
    let name = |item: &HashMap<String, AttributeValue>| item.keys().find(|name| name.starts_with("contributed#postCount#")).cloned();
    let (topic, cell) = items.into_iter().find_map(|(key, item)| Some((key, name(&item)?))).expect("a topic");
    let request = world.embedded.client().update_item().table_name(rule.name()).key("id", AttributeValue::S(topic.clone()));
    let request = request.update_expression("ADD #c :v SET parkedAt = :p").expression_attribute_names("#c", &cell);
    let request = request.expression_attribute_values(":v", number("3"));
    request.expression_attribute_values(":p", AttributeValue::S("2026-01-01T00:00:00.000Z".into())).send().await.expect("updated");

    let repaired = verified(&world, rule.name(), REPAIR).await;
    assert_eq!((home(&repaired), shared(&repaired), repaired.is_clean()), (vec![(topic.as_str(), RowFinding::Drifted)], vec![], false));
    tamper(&world, rule.name(), &topic, "REMOVE parkedAt", None).await;
    assert!(verified(&world, rule.name(), REPAIR).await.is_clean());
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_row_and_the_contributions_it_left_are_both_repaired() {
    let (world, events) = projected("forum", 600, 50).await;
    let rule = registry().get("forum-counters").expect("a projection");
    let topic = items(&world, rule).await.into_iter().find_map(|(key, item)| item.contains_key("title").then_some(key)).expect("a topic");
    delete(&world, rule.name(), &[("id", &topic)]).await;
    let found = verified(&world, rule.name(), CHECK).await;
    assert_eq!(home(&found), [(topic.as_str(), RowFinding::Missing)]);
    assert!(!found.shared.is_empty() && found.shared.values().all(|finding| matches!(finding, SharedFinding::Sum(_))));
    assert!(verified(&world, rule.name(), REPAIR).await.is_clean());
    assert_eq!(world.rows().await, fold(registry(), &events));
    assert!(verified(&world, rule.name(), CHECK).await.home.is_empty());
}

#[tokio::test]
async fn rows_that_change_during_verification_are_not_reported() {
    let world = World::new().await;
    let events = history("forum", 11, 1_500, 40);
    let worker = world.worker_of(ONE_EACH);
    let live = async {
        for batch in events.chunks(25) {
            world.append_all(batch).await;
            worker.process(&records(batch), Deadline::NONE).await;
        }
    };
    let watched = async {
        let mut looks = 0;
        while looks < 12 {
            let found = verified(&world, "forum-counters", CHECK).await;
            assert_eq!((home(&found), shared(&found)), (vec![], vec![]), "verification {looks}");
            looks += 1;
        }
    };
    futures::join!(live, watched);
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn a_sample_checks_some_rows_and_no_sums() {
    let (world, _) = projected("bank", 1_200, 400).await;
    let options = |percent| Options { sample: Some(percent), ..CHECK };
    let some = verified(&world, "account-summary", options(20)).await;
    let all = verified(&world, "account-summary", options(100)).await;
    assert!(some.aggregates > 0 && some.aggregates < all.aggregates && some.sums == 0);
    assert_eq!(all.events, 1_200);
}

#[tokio::test]
async fn rows_of_an_older_revision_are_outdated_and_those_of_a_newer_one_are_an_error() {
    let world = World::with(projection_vocabulary::Registry::new(HOUSES_1)).await;
    let events = recorded([("h1", "Built", data! { site: "elm", rooms: 3 })]);
    world.append_all(&events).await;
    world.process(&events).await;
    let newer = world.worker_of(HOUSES_2);
    let found = verify(&newer, HOUSES_2[0], CHECK, Deadline::NONE).await.expect("verified");
    assert_eq!(home(&found), [("h1", RowFinding::Outdated)]);
    assert!(verify(&newer, HOUSES_2[0], REPAIR, Deadline::NONE).await.expect("verified").is_clean());
    let error = verify(&world.worker, HOUSES_1[0], CHECK, Deadline::NONE).await.expect_err("an older rule").to_string();
    assert!(error.contains("written by revision 2"), "{error}");
}

#[tokio::test]
async fn an_operator_sees_the_findings_and_repairs_them() {
    let (world, events) = projected("forum", 400, 30).await;
    let url = world.serve().await;
    let run = async |arguments: &[&str]| {
        projector(&[&["--endpoint-url", &url, "verify", "forum-counters", "--segments", "2"], arguments].concat()).await
    };
    let (code, out, said) = run(&[]).await;
    assert!(code == 0 && out.ends_with("clean: every row matches the event store\n"), "{out}{said}");

    tamper(&world, "forum-counters", "category-0001", "ADD postCount :v", Some(number("5"))).await;
    tamper(&world, "forum-counters", "category-0002", "REMOVE description", None).await;
    let (code, out, _) = run(&[]).await;
    assert_eq!(code, 1);
    assert!(out.contains("1 drifted, 1 shared attribute\n  drifted: category-0002\n"), "{out}");
    assert!(
        out.contains(
            "shared: category-0001: postCount differs by 5 from the sum of its contributions\ndifferences found; run again with --repair"
        ),
        "{out}"
    );
    let (code, out, _) = run(&["--json", "--show", "1"]).await;
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((code, lines.len()), (1, 2));
    assert_eq!(lines[0], serde_json::json!({ "finding": "drifted", "aggregateId": "category-0002" }));
    assert_eq!((&lines[1]["total"]["clean"], &lines[1]["total"]["findings"]["drifted"]), (&false.into(), &1.into()));

    let (code, out, _) = run(&["--repair"]).await;
    assert!(code == 0 && out.ends_with("repaired: 2 of 2\n"), "{out}");
    assert_eq!(world.rows().await, fold(registry(), &events));
    let (code, _, said) = projector(&["--endpoint-url", &url, "verify", "nothing"]).await;
    assert!(code == 2 && said.contains("no projection `nothing`"), "{said}");
}

#[tokio::test]
async fn a_difference_is_shown_attribute_by_attribute() {
    let (world, events) = projected("forum", 400, 30).await;
    let url = world.serve().await;
    let run =
        async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "verify", "forum-counters", "--diff"], arguments].concat()).await;
    let rows = world.rows().await["forum-counters"].clone();
    let value = |row: &str, attribute: &str| rows[&row.into()][attribute].to_json().get().to_owned();
    let (posts, description) = (value("category-0001", "postCount"), value("category-0002", "description"));
    let more = posts.parse::<u64>().expect("a number") + 5;
    tamper(&world, "forum-counters", "category-0001", "ADD postCount :v", Some(number("5"))).await;
    tamper(&world, "forum-counters", "category-0002", "REMOVE description", None).await;
    let (code, out, said) = run(&[]).await;
    assert!(code == 1 && !said.contains(&description), "{said}");
    assert!(out.contains(&format!("  drifted: category-0002\n    description: is nothing, must be {description}\n")), "{out}");
    assert!(out.contains(&format!("\n    postCount: is {more}, must be {posts}\n")), "{out}");
    let (_, out, _) = run(&["--json", "--repair", "--dry-run"]).await;
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let description: serde_json::Value = serde_json::from_str(&description).expect("JSON");
    let expected = serde_json::json!([{ "attribute": "description", "is": null, "mustBe": description }]);
    assert_eq!((&lines[0]["differences"], &lines[0]["repair"]), (&expected, &"reproject".into()));
    let expected = serde_json::json!([{ "attribute": "postCount", "is": more, "mustBe": posts.parse::<u64>().expect("a number") }]);
    assert_eq!((&lines[1]["differences"], &lines[1]["repair"]), (&expected, &"correct".into()));
    let (code, _, said) = run(&["--repair"]).await;
    assert!(code == 2 && said.contains("--dry-run"), "{said}");

    // A contribution is an attribute of the row that contributes.
    let rule = registry().get("forum-counters").expect("a projection");
    let contributes = |item: &HashMap<String, AttributeValue>| item.keys().find(|name| name.starts_with("contributed#postCount#")).cloned();
    let (topic, cell) = items(&world, rule).await.into_iter().find_map(|(key, item)| Some((key, contributes(&item)?))).expect("a topic");
    let request = world.embedded.client().update_item().table_name(rule.name()).key("id", AttributeValue::S(topic.clone()));
    let request = request.update_expression("ADD #c :v").expression_attribute_names("#c", &cell);
    request.expression_attribute_values(":v", number("3")).send().await.expect("updated");
    let (_, out, _) = run(&["--aggregate", &topic]).await;
    let category = cell.rsplit('#').next().expect("a row");
    assert!(out.contains(&format!("drifted: {topic}\n    postCount, contributed to {category}: is ")), "{out}");
    assert!(verified(&world, rule.name(), REPAIR).await.is_clean());
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn chosen_aggregates_alone_are_verified_repaired_and_caught_up() {
    let world = World::new().await;
    let url = world.serve().await;
    let run = async |arguments: &[&str]| projector(&[&["--endpoint-url", &url], arguments].concat()).await;
    let events: Vec<_> = ["a", "b", "c", "d"].iter().flat_map(|id| account(id, &["1", "2", "3"])).collect();
    world.append_all(&events).await;
    let seen: Vec<_> =
        events.iter().filter(|event| !["c", "d"].contains(&event.aggregate.as_str()) || event.version.0 < 3).cloned().collect();
    world.process(&seen).await;
    for id in ["a", "b"] {
        tamper(&world, "account-summary", id, "SET balance = :v", Some(number("7"))).await;
    }
    let (code, out, _) = run(&["verify", "account-summary", "--aggregate", "a", "--diff"]).await;
    assert_eq!(code, 1);
    assert!(out.contains("1 aggregate compared") && out.contains("  drifted: a\n    balance: is 7, must be 6\n"), "{out}");
    let (code, out, said) = run(&["verify", "account-summary", "--aggregate", "a", "--repair"]).await;
    assert!(code == 0 && out.ends_with("repaired: 1 of 1\n"), "{out}{said}");
    assert!(world.row("account-summary", "b").await.starts_with("balance=7 "), "the other one is left alone");
    let (code, out, said) = run(&["verify", "account-summary", "--aggregate", "a", "--aggregate", "typo"]).await;
    assert!(code == 1 && said.contains("neither the event store nor account-summary has typo") && !out.contains("\nclean"), "{out}{said}");

    let (code, _, said) = run(&["catch-up", "account-summary", "--aggregate", "c"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(world.row("account-summary", "c").await.starts_with("balance=6 "));
    assert!(world.row("account-summary", "d").await.starts_with("balance=3 "), "the other one is left alone");
    for command in [&["catch-up", "account-summary"][..], &["rebuild-projection", "account-summary"]] {
        let (code, _, said) = run(&[command, &["--aggregate", "typo"]].concat()).await;
        assert!(code == 1 && said.contains("the event store has no aggregate typo"), "{said}");
    }
    let (code, out, said) =
        run(&["rebuild-projection", "account-summary", "--aggregate", "a", "--aggregate", "b", "--into", "beside", "--json"]).await;
    let summary: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &summary["counts"]["created"], &summary["counts"]["events"]), (0, &2.into(), &6.into()), "{said}");
    // Its event store is not another one because one of its aggregates is gone.
    delete(&world, "event-store", &[("PK", "AGGREGATE#b"), ("SK", "EVENT#0000000003")]).await;
    let (code, out, said) = run(&["verify", "account-summary", "--aggregate", "b", "--repair"]).await;
    assert!(code == 0 && out.contains("1 ahead"), "{out}{said}");
    assert!(world.row("account-summary", "b").await.starts_with("balance=3 "));
}
