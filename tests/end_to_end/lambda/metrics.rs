//! The deployed program's metrics, checked against the specification of the format and against a replay of the same capture
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).

use std::{collections::BTreeMap, fs};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{RecordedEvent, Timestamp};
use serde_json::{Value as Json, json, value::RawValue};

use crate::support::{
    metrics::{MetricLine, metric_lines, now_ms},
    projector::projector,
    records::{deposit_of, with},
    runtime_api::{Answer, Lambda, batch, done, environment},
    stream::stream,
    world::{Fault, World, account, fold, history, included, record, records, registry},
};

/// The sum of each metric, for a projection or (`None`) for whole invocations.
fn sums(lines: &[MetricLine], projection: Option<&str>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in lines.iter().filter(|line| line.projection() == projection) {
        for (name, value) in &line.values {
            *sums.entry(name.clone()).or_default() += value;
        }
    }
    sums.remove("LagMs");
    sums
}

/// A world with these events in its event store and no rows.
async fn unprojected(events: &[RecordedEvent]) -> World {
    let world = World::new().await;
    world.append_all(events).await;
    world
}

/// A captured stream and everything that can go wrong with it: batches with missing, repeated, late and unreadable records.
async fn captured(events: &[RecordedEvent], poison: &RecordedEvent) -> Vec<Vec<Box<RawValue>>> {
    let world = unprojected(events).await;
    let captured = stream(&world).await;
    let raw = |record| serde_json::value::to_raw_value(record).expect("JSON");
    let mut records: Vec<_> = captured.iter().map(raw).collect();
    let lost: Vec<_> = (0..records.len()).step_by(7).collect();
    for at in lost.into_iter().rev() {
        records.remove(at);
    }
    records.insert(20, raw(&json!({ "eventID": "stray" })));
    records.insert(40, record(poison, 1));
    let mut batches: Vec<Vec<_>> = records.chunks(20).map(<[_]>::to_vec).collect();
    batches.insert(2, batches[0].clone());
    batches[3].reverse();
    batches
}

#[tokio::test]
async fn metrics_add_up_to_the_report_of_a_replay_of_the_same_capture() {
    let mut events = history("bank", 21, 80, 9);
    events.extend(history("forum", 22, 80, 12));
    let mut poison = account("spoilt", &["1"]).remove(0);
    poison.data = deposit_of("no number");
    let batches = captured(&events, &poison).await;

    let world = unprojected(&events).await;
    let mut lambda = Lambda::start(&world).await;
    for records in &batches {
        assert_eq!(lambda.invoke(batch(records)).await, done());
    }
    let lines = metric_lines(&lambda.stop().await);
    let each = included().projections().len() + 1;
    assert_eq!(lines.len(), each * batches.len(), "one line for each projection, and one for the batch");
    assert!(lines.iter().all(|line| line.dimensions["stage"] == "dev"));

    let replayed = unprojected(&events).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("capture.jsonl");
    fs::write(&path, batches.iter().map(|records| batch(records) + "\n").collect::<String>()).expect("written");
    let (url, path) = (replayed.serve().await, path.display().to_string());
    let (code, out, said) = projector(&["--endpoint-url", &url, "replay", &path, "--batch-size", "20", "--output", "json"]).await;
    assert_eq!(code, 1, "something is parked: {said}");
    let snapshot: Json = serde_json::from_str(&out).expect("JSON");
    let report = &snapshot["report"];
    assert_eq!(world.rows().await, replayed.rows().await);

    for projection in ["account-summary", "forum-counters"] {
        let told = &report["projections"][projection];
        let expected = ["applied", "duplicate", "healed", "gaps", "parked", "failed", "reprojected"].map(|name| told[name].as_f64());
        let found = sums(&lines, Some(projection));
        let found = ["Applied", "Duplicate", "Healed", "Gaps", "Parked", "Failed", "Reprojected"].map(|name| found.get(name).copied());
        assert_eq!(found, expected, "{projection}");
    }
    let told = &report["projections"]["account-summary"];
    for name in ["applied", "duplicate", "healed", "gaps", "parked"] {
        assert!(told[name].as_u64() > Some(0), "the capture includes everything that can happen: {name} in {told}");
    }
    let ignored: f64 = report["ignored"].as_object().expect("by reason").values().filter_map(Json::as_f64).sum();
    let told = |name: &str| (name.to_owned(), report[name].as_f64());
    let found = sums(&lines, None);
    assert_eq!(found.get("Ignored"), Some(&ignored));
    for (metric, (name, value)) in [
        ("BatchSize", told("records")),
        ("Requests", told("requests")),
        ("WriteUnits", told("writeUnits")),
        ("ReadUnits", told("readUnits")),
        ("Retries", told("retries")),
        ("Conflicts", told("conflicts")),
        ("Failed", ("failed".to_owned(), report["total"]["failed"].as_f64())),
    ] {
        assert_eq!(found.get(metric).copied(), value, "{name}");
    }
}

/// The same event with a timestamp of this age.
fn aged(mut event: RecordedEvent, age_ms: i64) -> RecordedEvent {
    event.timestamp = Timestamp::from_epoch_ms(now_ms() - age_ms).expect("these years");
    event
}

#[tokio::test]
async fn lag_is_the_age_of_the_oldest_event_counted_by_the_invocation() {
    let world = World::new().await;
    let mut environment = environment(&world).await;
    environment.insert("STAGE", "prod".to_owned());
    let mut lambda = Lambda::start_in(environment).await;
    let [first, second, third] = account("alice", &["1", "2", "4"]).try_into().expect("three");
    let ahead = aged(account("bob", &["1"]).remove(0), -3_600_000);
    let events = [aged(first, 90_000), aged(second, 60_000), aged(third, 1_000)];
    world.import(&events).await;
    for batch_of in [&events[..1], &events[..1], &events[2..], &[ahead]] {
        assert_eq!(lambda.invoke(batch(&records(batch_of))).await, done());
    }

    let lines = metric_lines(&lambda.stop().await);
    assert!(lines.iter().all(|line| line.dimensions["stage"] == "prod"));
    let lag = |projection| {
        let lines = lines.iter().filter(move |line| line.projection() == Some(projection));
        lines.map(|line| line.values.get("LagMs").copied()).collect::<Vec<_>>()
    };
    let [Some(applied), None, Some(healed), Some(ahead)] = lag("account-summary")[..] else { panic!("{:?}", lag("account-summary")) };
    assert!((90_000.0..100_000.0).contains(&applied), "{applied}");
    assert!((60_000.0..70_000.0).contains(&healed), "the healed event is older than the delivered one: {healed}");
    assert!(ahead < 0.5, "an event from a clock that is ahead has no lag");
    assert_eq!(lag("forum-counters"), [None; 4], "nothing of it was counted");
}

#[tokio::test]
async fn failed_invocations_have_metrics_too() {
    let world = World::new().await;
    world.append_all(&history("bank", 23, 20, 3)).await;
    let mut lambda = Lambda::start(&world).await;
    for payload in ["{}", r#"{"Records":{}}"#, r#"{"rebuild":{"projection":"none"}}"#] {
        let Answer::Error(_) = lambda.invoke(payload).await else { panic!("{payload} is no success") };
    }
    let rebuild = r#"{"rebuild":{"projection":"account-summary"}}"#;
    let Answer::Response(_) = lambda.invoke(rebuild).await else { panic!("it is a task") };
    // A record of a stream without images.
    let events = account("alice", &["1"]);
    let imageless = with(&with(&records(&events)[0], "/dynamodb/NewImage", Json::Null), "/dynamodb/StreamViewType", json!("KEYS_ONLY"));
    assert_ne!(lambda.invoke(batch(&[imageless])).await, done());

    let output = lambda.stop().await;
    let lines = metric_lines(&output);
    let told: Vec<_> = lines.iter().filter(|line| line.projection().is_none()).map(|line| &line.values).collect();
    let failed: Vec<_> = told.iter().map(|values| (values.get("BatchSize").copied(), values["Failed"] > 0.0)).collect();
    assert_eq!(failed, [(None, true), (None, true), (None, true), (None, false), (Some(1.0), true)]);
    assert!(told[3]["Requests"] > 0.0 && told[3]["WriteUnits"] > 0.0, "tasks have costs, too: {:?}", told[3]);
    let text = String::from_utf8_lossy(&output.stdout);
    let logged =
        text.lines().filter(|line| line.contains("invocation failed\"")).map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
    let types: Vec<_> = logged.map(|line| line["error_type"].clone()).collect();
    assert_eq!(types, ["NotABatch", "NotABatch", "InvalidTask"]);
}

#[tokio::test]
async fn tasks_have_metrics_by_projection() {
    let world = World::new().await;
    let events = ["alice", "bob", "carol"].map(|id| account(id, &["1", "2"])).concat();
    world.append_all(&events).await;
    let mut lambda = Lambda::start(&world).await;
    let mut work = async |task: &str| {
        let Answer::Response(_) = lambda.invoke(task).await else { panic!("{task} is a task") };
    };
    work(r#"{"rebuild":{"projection":"account-summary","counts":{"created":7}}}"#).await;
    work(r#"{"rebuild":{"projection":"account-summary"}}"#).await;
    let rows = world.embedded.client();
    for (id, lost) in [("alice", true), ("bob", false)] {
        let key = AttributeValue::S(id.to_owned());
        if lost {
            rows.delete_item().table_name("account-summary").key("accountId", key).send().await.expect("deleted");
        } else {
            let tampered = rows.update_item().table_name("account-summary").key("accountId", key).update_expression("SET balance = :wrong");
            tampered.expression_attribute_values(":wrong", AttributeValue::N("99".to_owned())).send().await.expect("tampered with");
        }
    }
    work(r#"{"verify":{"projection":"account-summary"}}"#).await;
    work(r#"{"catchUp":{"projection":"account-summary","since":"9999d"}}"#).await;
    work(r#"{"verify":{"projection":"account-summary"}}"#).await;

    let lines = metric_lines(&lambda.stop().await);
    let told = lines.iter().filter(|line| line.projection().is_some());
    let told: Vec<_> =
        told.map(|line| (line.projection(), line.values.iter().map(|(name, value)| (name.as_str(), *value)).collect())).collect();
    let of = |name, value| (Some("account-summary"), vec![(name, value)]);
    let expected = [("Reprojected", 3.0), ("Reprojected", 0.0), ("Differing", 2.0), ("CaughtUp", 1.0), ("Differing", 1.0)];
    assert_eq!(told, expected.map(|(name, value)| of(name, value)));
    assert_eq!(lines.len(), 2 * expected.len(), "and one for the invocation");
}

#[tokio::test(start_paused = true)]
async fn retries_and_conflicts_are_counted() {
    let world = World::new().await;
    let events = account("alice", &["1", "2"]);
    let tapped = world.tapped(|call| match call.number {
        1 => Fault::error(400, "ThrottlingException"),
        2 => Fault::error(400, "TransactionConflictException"),
        _ => Fault::None,
    });
    let report = tapped.worker.process(&records(&events), projection_worker::internals::retry::Deadline::NONE).await;
    assert_eq!((report.usage.requests, report.usage.retries, report.usage.conflicts), (3, 2, 1));
    assert_eq!(world.rows().await, fold(registry(), &events));
}
