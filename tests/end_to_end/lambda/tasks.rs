//! The Lambda's tasks: rebuilding a segment, catching up and verifying, while others process the stream.

use std::time::{Duration, SystemTime};

use projection_vocabulary::{RecordedEvent, Registry};
use projection_worker::internals::{operations::verify::parts::Progress, progress::Counts, retry::Deadline};
use serde_json::{Value as Json, json};

use crate::support::{
    large_rows::{number, tamper, world_of_large_rows},
    programs::worker_of_the_new_rule,
    projections::{STAYS_1, STAYS_2},
    projector::projector,
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

/// Verifies by invocations that have just enough time for a piece of work. Returns the last answer, the findings that the log names, and
/// the number of invocations that answered. With `kills`, two of three are killed somewhere.
async fn verify_shortly(world: &World, kills: bool) -> (Json, Vec<String>, u32) {
    let (mut lambda, mut time, mut run, mut answered) = (Lambda::start(world).await, Duration::from_millis(50), Json::Null, 0);
    let (mut named, mut random) = (Vec::new(), fastrand::Rng::with_seed(9));
    let mut read = |output: &std::process::Output| {
        for line in log_lines(output).into_iter().filter(|line| line["message"] == "a row differs") {
            let who = line["aggregate"].as_str().or(line["attribute"].as_str());
            named.push(format!("{}: {}", who.expect("an aggregate or an attribute"), line["finding"].as_str().expect("a finding")));
        }
    };
    for invoked in 0.. {
        assert!(invoked < 500, "it ends");
        let payload = json!({ "verify": { "projection": "forum-counters", "sample": null, "run": run } }).to_string();
        let deadline = SystemTime::now() + time;
        let answer = if kills && invoked % 3 > 0 {
            lambda.invoke_or_kill(deadline, payload, tokio::time::sleep(time.mul_f64(random.f64()))).await
        } else {
            Some(lambda.invoke_until(deadline, payload).await)
        };
        match answer {
            None => {
                read(&lambda.ended().await);
                lambda = Lambda::start(world).await;
            }
            Some(Answer::Error(error)) => {
                assert!(error.contains(r#""errorType":"Unfinished""#) && time < Duration::from_secs(30), "{error}");
                time = time * 5 / 4;
            }
            Some(Answer::Response(answer)) => {
                answered += 1;
                let answer: Json = serde_json::from_str(&answer).expect("JSON");
                run = answer["run"].clone();
                if answer["done"] == true {
                    read(&lambda.stop().await);
                    named.sort();
                    return (answer, named, answered);
                }
                assert_eq!((answer["clean"].clone(), run.is_string()), (json!(false), true), "{answer}");
            }
        }
    }
    unreachable!("it returns")
}

#[tokio::test]
async fn a_verification_goes_on_in_the_next_invocation_and_counts_each_wrong_row_once() {
    let world = world_of_large_rows().await;
    let (table, key) = ("forum-counters", |id| ("id", id));
    let text = |text: &str| Some(aws_sdk_dynamodb::types::AttributeValue::S(text.to_owned()));
    tamper(&world, table, key("topic-001"), "SET #n = :v", "title", text("t")).await;
    tamper(&world, table, key("topic-002"), "ADD #n :v", "contributed#postCount#category-2", Some(number("2"))).await;
    tamper(&world, table, key("nobody"), "SET #n = :v", "unfinished", Some(number("1"))).await;
    tamper(&world, table, key("category-3"), "ADD #n :v", "postCount", Some(number("1"))).await;
    tamper(&world, table, key("category-4"), "SET #n = :v", "lastPostAt", text("2020-01-01T00:00:00.000Z")).await;
    let expected = ["lastPostAt: lower", "nobody: outdated", "postCount: sum", "topic-001: drifted", "topic-002: drifted"];
    let counts = |answer: &Json| {
        let Json::Object(findings) = &answer["findings"] else { panic!("{answer}") };
        let mut found: Vec<_> = findings.iter().filter(|(_, count)| **count != 0).map(|(name, count)| format!("{name} {count}")).collect();
        found.push(format!("shared {}", answer["shared"]));
        found.sort();
        (found, answer["events"].clone(), answer["aggregates"].clone(), answer["clean"].clone())
    };
    let found = (["drifted 2", "outdated 1", "shared 2"].map(str::to_owned).to_vec(), json!(246), json!(126), json!(false));
    let (answer, named, answered) = verify_shortly(&world, false).await;
    assert_eq!((counts(&answer), named), (found.clone(), expected.map(str::to_owned).to_vec()));
    assert!(answered > 3, "{answered} invocations");
    let (answer, mut named, _) = verify_shortly(&world, true).await;
    assert_eq!(counts(&answer), found);
    // An invocation that is killed may have named some already.
    named.dedup();
    assert_eq!(named, expected);
    assert_eq!(world.parked().await, []);

    let url = world.serve().await;
    let (code, out, said) = projector(&["--endpoint-url", &url, "verify", table, "--repair"]).await;
    assert_eq!(code, 0, "{out}{said}");
    let (answer, named, _) = verify_shortly(&world, false).await;
    assert_eq!((&answer["clean"], named.len()), (&json!(true), 0), "{answer}");
}

#[tokio::test]
async fn a_verification_that_is_lost_begins_anew_and_one_that_another_replaced_ends() {
    let world = World::new().await;
    let (store, events) = (world.worker.store(), history("bank", 34, 20, 4));
    world.append_all(&events).await;
    world.process(&events).await;
    let rule = registry().get("account-summary").expect("a projection");
    let begin = serde_json::to_string(&Progress::start(8, None)).expect("JSON");
    let save = async |progress: &str| store.save_verification(rule, None, progress, Deadline::NONE).await.expect("saved");
    let (one, two) = (save(&begin).await, save(&begin).await);
    let mut lambda = Lambda::start(&world).await;
    let task = |run: &str| json!({ "verify": { "projection": "account-summary", "run": run } }).to_string();
    let mut verified = async |run: &str| {
        let Answer::Response(answer) = lambda.invoke(task(run)).await else { panic!("it goes on") };
        let answer: Json = serde_json::from_str(&answer).expect("JSON");
        assert_eq!((&answer["done"], &answer["clean"], &answer["run"]), (&json!(true), &json!(true), &json!(run)), "{answer}");
        assert_eq!(answer["events"], 20, "all of it: {answer}");
    };
    // The answer to the last part may have been lost: the same task has the same answer.
    verified(&two).await;
    verified(&two).await;
    let lost = world.embedded.client().delete_item().table_name("parked");
    let [partition, sort] =
        ["verify#account-summary", "verification#account-summary"].map(|key| aws_sdk_dynamodb::types::AttributeValue::S(key.to_owned()));
    lost.key("aggregateId", partition).key("projection", sort).send().await.expect("deleted");
    verified(&two).await;
    // What another deployment saved cannot be read.
    let three = save(r#"{"at":7}"#).await;
    verified(&three).await;
    let Answer::Error(error) = lambda.invoke(task(&one)).await else { panic!("another has begun") };
    assert!(error.contains("InvalidTask") && error.contains("another one that has begun since"), "{error}");
    let lines = log_lines(&lambda.stop().await);
    let anew = lines.iter().filter(|line| line["message"].as_str().is_some_and(|message| message.contains("begins anew"))).count();
    assert_eq!(anew, 2);
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
        (
            json!({ "catchup": { "projection": "account-summary", "since": "1h" } }),
            "nor a known task (rebuild, catchUp, settle, verify, tick)",
        ),
        (json!({ "verify": 5 }), "the task `verify` is malformed"),
        (json!({ "catchUp": { "projection": "account-summary", "since": MARKER } }), "`since` is not a whole number of seconds"),
        (json!({ "verify": { "projection": "account-summary", "sample": 0 } }), "`sample` is not a percentage"),
        (json!({ "verify": { "projection": "account-summary", "run": MARKER } }), "`run` is not that of an answer: send null to begin"),
        (json!({ "verify": { "projection": "account-summary", "run": 5 } }), "the task `verify` is malformed"),
        // A process has no rows that could be written anew.
        (json!({ "rebuild": { "projection": "transfers" } }), "transfers"),
        (json!({ "tick": 1 }), r#"the task `tick` is malformed: send {\"tick\": {}}"#),
        (json!({ "tick": null }), "the task `tick` is malformed"),
        (json!({ "tick": [] }), "the task `tick` is malformed"),
        (json!({ "tick": [MARKER] }), "the task `tick` is malformed"),
        (json!({ "tick": { MARKER: {} } }), "the task `tick` is malformed"),
        (json!({ "tick": { "projection": "transfers" } }), "the task `tick` is malformed"),
        (json!({ "Tick": {} }), "nor a known task (rebuild, catchUp, settle, verify, tick); did you mean `tick`?"),
        (json!({ "task": {} }), "nor a known task (rebuild, catchUp, settle, verify, tick)"),
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
