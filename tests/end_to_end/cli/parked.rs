//! `projector parked`, as an operator runs it.

use projection_vocabulary::{RecordedEvent, Value};
use projection_worker::internals::retry::Deadline;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::support::{
    projector::{Gate, interrupt, projector, start_projector},
    world::{ONE_EACH, World, account, fold, recorded, records, registry},
};

/// Part of event data; only `show` may print it.
const MARKER: &str = "only-show-may-say-this";

/// An account's opening with unreadable data that contains the marker.
fn poison(id: &str) -> Vec<RecordedEvent> {
    recorded([(id, "AccountOpened", Value::Map([("initialDeposit".into(), MARKER.into())].into()))])
}

/// Parks each of these events, each with a new worker, so that no breaker trips.
async fn park(world: &World, events: &[RecordedEvent]) {
    world.import(events).await;
    for event in events {
        let worker = world.worker_of(ONE_EACH);
        assert_eq!(worker.process(&records(std::slice::from_ref(event)), Deadline::NONE).await.total.parked, 1);
    }
}

#[tokio::test]
async fn parked_aggregates_are_listed_shown_and_redriven() {
    let world = World::new().await;
    let url = world.serve().await;
    let run = async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "parked"], arguments].concat()).await;
    let unreadable = serde_json::value::to_raw_value(&json!({"eventID": "odd", "marker": MARKER})).expect("JSON");
    park(&world, &[poison("alice"), poison("bob")].concat()).await;
    world.worker.process(&[unreadable], Deadline::NONE).await;
    // Alice's event is corrected.
    world.correct(&account("alice", &["5"])[0]).await;

    let (code, listed, said) = run(&["list"]).await;
    assert_eq!(code, 0, "{said}");
    for part in ["account-summary  alice", "version 1: cannot read the event's data", "-  record#odd", "once"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    let (_, listed, _) = run(&["list", "--projection", "account-summary", "--aggregate", "bob", "--json"]).await;
    let line: Json = serde_json::from_str(&listed).expect("one line of JSON");
    assert_eq!(
        (&line["projection"], &line["aggregateId"], &line["version"], &line["count"]),
        (&json!("account-summary"), &json!("bob"), &json!(1), &json!(1))
    );
    assert!(
        line["reason"].as_str().is_some_and(|reason| reason.contains("initialDeposit")) && line["firstSeen"] == line["lastSeen"],
        "{line}"
    );

    let (code, shown, _) = run(&["show", "--projection", "account-summary", "--aggregate", "bob"]).await;
    assert_eq!(code, 0);
    let (fields, payload) = shown.split_once("\nevent, without the types of its attributes, which --json shows:\n").expect("an event");
    assert!(
        fields.starts_with("projection  account-summary\naggregate   bob\nversion     1\nreason      cannot read the event's data"),
        "{fields}"
    );
    let payload_json: Json = serde_json::from_str(payload).expect("JSON");
    assert_eq!(payload_json["eventData"]["initialDeposit"], MARKER);
    assert!(payload.starts_with("{\n  \"eventType\": \"AccountOpened\",\n  \"eventVersion\": 1,\n"), "in lines: {payload}");
    let (_, shown, _) = run(&["show", "--projection", "account-summary", "--aggregate", "bob", "--json"]).await;
    let shown: Json = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["payload"]["eventData"]["M"]["initialDeposit"]["S"], MARKER);
    let (code, shown, _) = run(&["show", "--projection", "-", "--aggregate", "record#odd"]).await;
    assert!(code == 0 && shown.contains("version     unknown") && shown.contains(MARKER), "{shown}");
    let (code, _, said) = run(&["show", "--projection", "account-summary", "--aggregate", "record#odd"]).await;
    assert!(code == 1 && said.contains("record#odd is not parked in account-summary"), "{said}");

    let (code, redriven, said) = run(&["redrive", "--all"]).await;
    assert_eq!(code, 1);
    let lines: Vec<_> = redriven.lines().filter(|line| !line.starts_with("store ") && !line.starts_with("  ")).collect();
    assert_eq!(
        (lines[0], lines[3]),
        ("recovered: account-summary alice: 1 event applied", "3 redriven: 1 recovered, 2 still parked, 0 failed")
    );
    assert!(lines[1].starts_with("still parked: account-summary bob: cannot read the event's data"), "{redriven}");
    assert!(lines[2].starts_with("still parked: record#odd: the record is not"), "{redriven}");
    assert!(said.contains("aggregate parked"), "the log is on: {said}");
    assert!(!format!("{listed}{redriven}{said}").contains(MARKER), "{listed}{redriven}{said}");

    world.correct(&account("bob", &["7"])[0]).await;
    let (code, redriven, _) = run(&["redrive", "--projection", "account-summary", "--json"]).await;
    assert_eq!(code, 0);
    let mut lines: Vec<Json> = redriven.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines[1].as_object_mut().and_then(|total| total.remove("in")).is_some(), "the store: {redriven}");
    assert_eq!(
        lines,
        [
            json!({"projection": "account-summary", "aggregateId": "bob", "outcome": "recovered", "applied": 1, "reprojected": false}),
            json!({"total": {"recovered": 1, "parked": 0, "failed": 0, "notBegun": 0}}),
        ]
    );
    // Now there is nothing to do for the projection, which is fine. Naming an aggregate that is not parked may be a typo.
    let (code, redriven, _) = run(&["redrive", "--projection", "account-summary"]).await;
    assert!(code == 0 && redriven.ends_with("nothing is parked there: nothing to redrive\n"), "{redriven}");
    let (code, _, said) = run(&["redrive", "--aggregate", "bob"]).await;
    assert!(code == 1 && said.contains("bob is not parked"), "{said}");
    assert_eq!(world.rows().await, fold(registry(), &[account("alice", &["5"]), account("bob", &["7"])].concat()));
    assert_eq!(world.parked().await.len(), 1);
}

#[tokio::test]
async fn an_empty_parking_table_is_a_success_and_incomplete_arguments_are_refused() {
    let url = World::new().await.serve().await;
    let run = async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "parked"], arguments].concat()).await;
    assert_eq!(run(&["list"]).await.1, "nothing is parked\n");
    assert_eq!(run(&["list", "--json"]).await.1, "");
    assert_eq!(run(&["redrive", "--all"]).await.0, 0);
    let total: Json = serde_json::from_str(&run(&["redrive", "--all", "--json"]).await.1).expect("one line of JSON");
    assert_eq!(total["total"], json!({ "failed": 0, "notBegun": 0, "parked": 0, "recovered": 0 }));
    for (arguments, says) in [
        (&["parked", "redrive"][..], "--projection <P>|--aggregate <A>|--all"),
        (&["parked", "redrive", "--all", "--aggregate", "a"], "cannot be used with"),
        (
            &["parked", "redrive", "--projection", "accounts"],
            "no projection `accounts` is in this program, which has account-summary, account-statement, forum-counters, topic-posts, users-and-orders, transfers, order-fulfilment, process-status",
        ),
        (&["parked", "show", "--aggregate", "a"], "--projection"),
    ] {
        let (code, _, said) = projector(arguments).await;
        assert!(code == 2 && said.contains(says), "{arguments:?}: {said}");
    }
    assert!(projector(&["parked", "show", "--help"]).await.1.contains("including its event data"));
}

#[tokio::test]
async fn ids_of_any_length_and_script_keep_the_table_aligned_and_the_terminal_safe() {
    let world = World::new().await;
    let url = world.serve().await;
    let run = async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "parked"], arguments].concat()).await;
    let long = "x".repeat(2_000);
    let odd = "tab\there\u{1b}[2J\u{9b}1m\u{202e}\r\nend";
    let ids = ["550e8400-e29b-41d4-a716-446655440000", odd, &long, "日本語の口座番号で非常に長い名前のもの、そしてさらに長い"];
    park(&world, &ids.map(poison).concat()).await;
    let (_, listed, _) = run(&["list"]).await;
    // Letters of these scripts are two columns wide; borders and dots are one.
    let columns = |line: &str| line.chars().map(|char| if ('\u{3000}'..'\u{a000}').contains(&char) { 2 } else { 1 }).sum::<usize>();
    assert!(listed.lines().all(|line| columns(line) == 80), "{listed}");
    assert!(!listed.chars().any(|char| char != '\n' && (char.is_control() || char == '\u{202e}')), "{listed:?}");
    assert!(listed.contains(ids[0]) && listed.contains("x…x") && listed.contains(r"tab\there\u001b[2J"), "{listed}");

    let (_, lines, _) = run(&["list", "--json"]).await;
    assert!(!lines.chars().any(|char| char != '\n' && (char.is_control() || char == '\u{202e}')), "{lines:?}");
    let exact: Vec<Json> = lines.lines().map(|line| serde_json::from_str::<Json>(line).expect("JSON")["aggregateId"].clone()).collect();
    assert!(ids.iter().all(|id| exact.contains(&json!(id))), "{lines}");
    let (code, shown, _) = run(&["show", "--projection", "account-summary", "--aggregate", odd]).await;
    assert!(code == 0 && !shown.chars().any(|char| char != '\n' && (char.is_control() || char == '\u{202e}')), "{shown:?}");
    let (_, redriven, _) = run(&["redrive", "--all"]).await;
    assert!(!redriven.chars().any(|char| char != '\n' && char.is_control()) && redriven.lines().count() == 9, "{redriven:?}");
}

#[tokio::test]
async fn an_interrupted_redrive_finishes_what_it_started_and_the_next_run_does_the_rest() {
    let (world, ids) = (World::new().await, (0..12).map(|at| format!("account-{at}")).collect::<Vec<_>>());
    park(&world, &ids.iter().flat_map(|id| poison(id)).collect::<Vec<_>>()).await;
    let truth: Vec<_> = ids.iter().flat_map(|id| account(id, &["1"])).collect();
    for event in &truth {
        world.correct(event).await;
    }
    let gate = Gate::new(world.serve().await).await;
    let run = || start_projector(&["--endpoint-url", &gate.url, "parked", "redrive", "--all"]);
    let mut child = run();
    // It redrives eight at once.
    gate.holds(8).await;
    interrupt(&child);
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut said = String::new();
    errors.read_line(&mut said).await.expect("read");
    assert_eq!(said, "interrupted: finishing the entries in progress\n");
    gate.open();
    errors.read_to_string(&mut said).await.expect("read");
    let output = child.wait_with_output().await.expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.ends_with("interrupted: 4 entries not begun; run the same command again, nothing is counted twice\n"), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("8 redriven: 8 recovered, 0 still parked, 0 failed\n"));
    let output = run().wait_with_output().await.expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("4 redriven: 4 recovered, 0 still parked, 0 failed\n"));
    assert_eq!((world.rows().await, world.parked().await), (fold(registry(), &truth), vec![]));
}
