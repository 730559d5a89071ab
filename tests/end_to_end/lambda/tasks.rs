//! The Lambda's tasks: rebuilding a segment, catching up and verifying, while others process the stream.

use std::time::{Duration, SystemTime};

use projection_vocabulary::{RecordedEvent, Registry};
use projection_worker::internals::{progress::Counts, retry::Deadline};
use serde_json::{Value as Json, json};

use crate::support::{
    programs::worker_of_the_new_rule,
    projections::{STAYS_1, STAYS_2},
    runtime_api::{Answer, Lambda, log_lines},
    stays::{FAT, expected, rows_in, stays, world_of_stays},
    world::{World, fold, history, records, registry},
};

/// Invokes it as a state machine does, until it is done. Returns the last answer, the number of invocations, and how many of them made
/// no progress.
async fn drive(lambda: &mut Lambda, mut task: Json, time: Duration) -> (Json, u32, u32) {
    let (mut invoked, mut failed) = (0, 0);
    loop {
        invoked += 1;
        assert!(invoked < 2_000, "it finishes: {task}");
        match lambda.invoke_until(SystemTime::now() + time, json!({ "rebuild": task }).to_string()).await {
            Answer::Response(answer) => {
                let answer: Json = serde_json::from_str(&answer).expect("JSON");
                if answer["done"] == true {
                    assert!(answer["cursor"].is_null(), "{answer}");
                    return (answer, invoked, failed);
                }
                assert_ne!(answer["cursor"], task["cursor"], "each invocation that answers has made progress");
                task = answer;
                // A state machine adds fields of its own.
                task["executionName"] = json!("x");
            }
            Answer::Error(error) => {
                assert!(error.contains(r#""errorType":"Unfinished""#) && error.contains("time is too short"), "{error}");
                failed += 1;
            }
        }
    }
}

#[tokio::test]
async fn many_processes_rebuild_all_segments_while_another_processes_the_stream() {
    const SEGMENTS: u32 = 4;
    let events = stays(31, 900, 40, FAT);
    let (old, new) = events.split_at(700);
    let world = world_of_stays(old).await;
    world.append_all(&events[700..]).await;
    let segment = async |segment: u32| {
        let mut lambda = worker_of_the_new_rule(&world).await;
        let task = json!({ "projection": "stays", "segment": segment, "segments": SEGMENTS, "cursor": null });
        let (answer, invoked, _) = drive(&mut lambda, task, Duration::from_millis(1_500)).await;
        let Answer::Response(again) = lambda.invoke(json!({ "rebuild": answer }).to_string()).await else { panic!("an error") };
        assert_eq!(serde_json::from_str::<Json>(&again).expect("JSON"), answer, "a finished task does not start again");
        lambda.stop().await;
        (serde_json::from_value::<Counts>(answer["counts"].clone()).expect("counts"), invoked)
    };
    let stream = async {
        let mut lambda = worker_of_the_new_rule(&world).await;
        for batch in new.chunks(25).chain(old.chunks(100).take(2)) {
            let payload = json!({ "Records": records(batch) }).to_string();
            while lambda.invoke(payload.clone()).await != Answer::Response(r#"{"batchItemFailures":[]}"#.to_owned()) {}
        }
        lambda.stop().await;
    };
    let (segments, ()) = tokio::join!(futures::future::join_all((0..SEGMENTS).map(segment)), stream);
    let mut total = Counts::default();
    for (counts, _) in &segments {
        total += *counts;
    }
    assert!(total.events >= 900 && total.aggregates >= 40 && total.parked == 0 && total.replaced > 0, "{total:?}");
    let rows = rows_in(world.worker_of(STAYS_2).store()).await;
    assert_eq!((rows, world.parked().await), (expected(&events), vec![]));
}

#[tokio::test]
async fn every_invocation_with_time_for_a_page_makes_progress() {
    // One guest's history fills six pages; its row is missing, or of the old revision.
    for stale in [false, true] {
        let mut events = stays(32, 600, 1, FAT);
        let others = |event: &RecordedEvent| event.aggregate.as_str() != "guest-000";
        events.extend(stays(33, 120, 5, FAT).into_iter().filter(others));
        let world = if stale { world_of_stays(&events).await } else { World::with(Registry::new(STAYS_1)).await };
        if !stale {
            world.append_all(&events).await;
        }
        let mut lambda = worker_of_the_new_rule(&world).await;
        // The shortest sufficient time depends on the machine: it grows until the task finishes.
        let mut time = Duration::from_millis(40);
        let mut task = json!({ "projection": "stays" });
        let (mut amid, mut done) = (false, false);
        while !done {
            match lambda.invoke_until(SystemTime::now() + time, json!({ "rebuild": task }).to_string()).await {
                Answer::Response(answer) => {
                    let answer: Json = serde_json::from_str(&answer).expect("JSON");
                    done = answer["done"] == true;
                    assert!(done || answer["cursor"] != task["cursor"], "{answer}");
                    let cursor = &answer["cursor"];
                    amid |= cursor["PK"] == "AGGREGATE#guest-000" && cursor["SK"] != "EVENT#0000000600";
                    task = answer;
                }
                Answer::Error(error) => {
                    assert!(error.contains("raise its timeout") && time < Duration::from_secs(30), "{error}");
                    time = time * 5 / 4;
                }
            }
        }
        let rows = rows_in(world.worker_of(STAYS_2).store()).await;
        assert_eq!((rows, &task["counts"]["parked"]), (expected(&events), &json!(0)), "{stale}");
        // A new row is written piece by piece. A row is only replaced after its whole history has been read, and the time that this
        // takes may be enough for the rest of the table, too.
        assert!(amid || stale, "in the time of a page or two it stopped in the middle of that history");
        lambda.stop().await;
    }
}

#[tokio::test]
async fn a_scheduled_catch_up_applies_what_the_stream_lost() {
    let (world, events) = (World::new().await, history("bank", 34, 200, 20));
    world.append_all(&events).await;
    world.process(&events[..100]).await;
    let mut lambda = Lambda::start(&world).await;
    let mut invoke = async |payload: Json| {
        let Answer::Response(answer) = lambda.invoke(payload.to_string()).await else { panic!("an error") };
        serde_json::from_str::<Json>(&answer).expect("JSON")
    };
    let late = invoke(json!({ "catchUp": { "projection": "account-summary", "since": "0s" } })).await;
    assert_eq!((&late["done"], &late["counts"]["events"]), (&json!(true), &json!(0)), "there are no recent events");
    let answer = invoke(json!({ "catchUp": { "projection": "account-summary", "since": "36500d" } })).await;
    assert_eq!((&answer["done"], &answer["projection"]), (&json!(true), &json!("account-summary")));
    assert!(answer["counts"]["caughtUp"].as_u64() > Some(0), "{answer}");
    assert_eq!(world.rows().await, fold(registry(), &events));
    let clean = invoke(json!({ "verify": { "projection": "account-summary" } })).await;
    assert_eq!((&clean["clean"], &clean["events"], &clean["findings"]["missing"]), (&json!(true), &json!(200), &json!(0)), "{clean}");
    let lost = world.embedded.client().delete_item().table_name("account-summary");
    let lost = lost.key("accountId", aws_sdk_dynamodb::types::AttributeValue::S(events[0].aggregate.to_string()));
    lost.send().await.expect("deleted");
    let found = invoke(json!({ "verify": { "projection": "account-summary", "sample": 100 } })).await;
    assert_eq!((&found["clean"], &found["findings"]["missing"]), (&json!(false), &json!(1)), "{found}");
    let Answer::Response(out_of_time) = lambda
        .invoke_until(SystemTime::now(), json!({ "catchUp": { "projection": "account-summary", "since": "36500d" } }).to_string())
        .await
    else {
        panic!("an error")
    };
    assert!(out_of_time.contains(r#""done":false"#), "{out_of_time}");

    // Counts are fields of their own in the log, so that they can be queried.
    let lines = log_lines(&lambda.stop().await);
    let logged = |message: &str, field: &str| {
        lines.iter().filter(|line| line["message"] == message).map(|line| line[field].clone()).collect::<Vec<_>>()
    };
    assert_eq!(logged("catch-up", "caught_up"), [json!(0), answer["counts"]["caughtUp"].clone(), json!(0)]);
    assert_eq!(logged("verification", "missing"), [json!(0), json!(1)]);
}

#[tokio::test]
async fn an_invalid_task_is_a_function_error() {
    const MARKER: &str = "only-the-event-may-say-this";
    let world = World::new().await;
    let mut lambda = Lambda::start(&world).await;
    let mut failed = 0;
    for (payload, says) in [
        (json!({ "rebuild": { "projection": "accounts" } }), "no projection `accounts` is in this program, which has account-summary"),
        (json!({ "catchUp": { "projection": "accounts", "since": "1h" } }), "no projection `accounts`"),
        (json!({ "rebuild": { "projection": "account-summary", "segment": 4, "segments": 4 } }), "there is no segment 4 of 4"),
        (json!({ "rebuild": { "projection": "account-summary", "segments": 0 } }), "there is no segment 0 of 0"),
        (json!({ "rebuild": { "projection": "account-summary", "cursor": MARKER } }), "the task `rebuild` is malformed: send {"),
        (json!({ "rebuild": { "segment": 0 } }), "the task `rebuild` is malformed"),
        (json!({ "rebuild": [MARKER] }), "the task `rebuild` is malformed"),
        (json!({ "catchUp": { "projection": "account-summary" } }), "the task `catchUp` is malformed"),
        (json!({ "catchup": { "projection": "account-summary", "since": "1h" } }), "nor a known task (rebuild, catchUp, settle, verify)"),
        (json!({ "verify": 5 }), "the task `verify` is malformed"),
        (json!({ "catchUp": { "projection": "account-summary", "since": MARKER } }), "`since` is not a whole number of seconds"),
        (json!({ "verify": { "projection": "account-summary", "sample": 0 } }), "`sample` is not a percentage"),
        (json!({ "task": {} }), "nor a known task (rebuild, catchUp, settle, verify)"),
    ] {
        let Answer::Error(error) = lambda.invoke(payload.to_string()).await else { panic!("{payload} is no task") };
        assert!(error.contains(says) && !error.contains(MARKER), "{payload}: {error}");
        failed += 1;
    }
    let done = lambda.invoke(json!({ "rebuild": { "projection": "account-summary" } }).to_string()).await;
    let Answer::Response(answer) = done else { panic!("{done:?}") };
    let answer: Json = serde_json::from_str(&answer).expect("JSON");
    assert_eq!((&answer["segment"], &answer["segments"], &answer["done"]), (&json!(0), &json!(1), &json!(true)));
    assert_eq!(world.worker.store().saved_cursors(registry().projections()[0], Deadline::NONE).await.expect("cursors"), []);
    let lines = log_lines(&lambda.stop().await);
    let errors: Vec<_> = lines.iter().filter(|line| line["level"] == "ERROR").collect();
    assert_eq!(errors.len(), failed, "each error is logged once: {errors:?}");
    assert!(errors.iter().all(|line| line["error_type"].is_string() && line["error_message"].is_string()), "{errors:?}");
}
