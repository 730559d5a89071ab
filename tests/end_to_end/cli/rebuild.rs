//! `projector rebuild-projection` and `catch-up`, as an operator runs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use projection_vocabulary::{RecordedEvent, Value};
use projection_worker::{
    Worker,
    internals::{
        retry::Deadline,
        store::{Store, item::encode_event, segment::Segment},
    },
};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::support::{
    export::write_export,
    projector::{Gate, interrupt, projector, start_projector},
    proxy::{Fault, Proxy},
    world::{Everything, World, fold, history, names, recorded, registry},
};

/// Part of event data; no command here may print it.
const MARKER: &str = "nobody-may-say-this";

/// Bank and forum events that the worker has not seen.
async fn unseen(world: &World) -> Vec<RecordedEvent> {
    let mut events = history("bank", 21, 120, 20);
    events.extend(history("forum", 22, 120, 20));
    for event in &mut events {
        event.metadata = Some(Value::from(MARKER));
    }
    world.append_all(&events).await;
    events
}

fn aggregates(events: &[RecordedEvent]) -> usize {
    events.iter().map(|event| &event.aggregate).collect::<BTreeSet<_>>().len()
}

fn of(everything: &Everything, projection: &str) -> Everything {
    everything.iter().filter(|(name, _)| **name == projection).map(|(name, rows)| (*name, rows.clone())).collect()
}

#[tokio::test]
async fn a_rebuild_creates_missing_rows_and_a_second_run_has_nothing_to_do() {
    let world = World::new().await;
    let (url, events) = (world.serve().await, unseen(&world).await);
    let run = async |arguments: &[&str]| {
        let (code, out, said) = projector(&[&["--endpoint-url", &url], arguments].concat()).await;
        assert!(!format!("{out}{said}").contains(MARKER), "{out}{said}");
        (code, out, said)
    };
    let (code, out, said) = run(&["rebuild-projection", "account-summary", "--dry-run"]).await;
    assert_eq!(code, 0, "{said}");
    let (accounts, all) = (aggregates(&events[..120]), aggregates(&events));
    let says = format!("account-summary: 0 rows would be replaced and {accounts} created at revision 1, {accounts} of them changed;");
    assert!(out.contains(&says), "{out}");
    assert!(out.contains(&format!("240 events of {all} aggregates checked in ")), "{out}");
    assert!(world.rows().await.values().all(BTreeMap::is_empty));

    let (code, out, said) = run(&["rebuild-projection", "account-summary", "--segments", "3", "--json"]).await;
    assert_eq!((code, out.lines().count()), (0, 1), "{said}");
    let result: Json = serde_json::from_str(&out).expect("one JSON object");
    let expected = json!({
        "events": 240, "aggregates": all, "replaced": 0, "created": accounts, "changed": accounts, "caughtUp": 0, "parked": 0, "stopped": 0
    });
    assert_eq!(
        (&result["counts"], &result["task"], &result["end"], &result["segments"], &result["revision"]),
        (&expected, &json!("rebuild"), &json!("done"), &json!(3), &json!(1))
    );
    assert_eq!(result["writeUnits"].as_f64(), u32::try_from(accounts).ok().map(f64::from), "one for each row");
    assert_eq!(of(&world.rows().await, "account-summary"), of(&fold(registry(), &events), "account-summary"));

    // Each segment on its own, like tasks on many machines: only the last one deletes the cursors.
    for segment in ["0/3", "1/3", "2/3"] {
        let (code, _, said) = run(&["rebuild-projection", "forum-counters", "--segment", segment]).await;
        assert_eq!(code, 0, "{said}");
        let kept = world.worker.store().saved_cursors(registry().projections()[1], Deadline::NONE).await.expect("cursors");
        assert_eq!(kept.len(), if segment == "2/3" { 0 } else { segment[..1].parse::<usize>().expect("a digit") + 1 });
    }
    assert_eq!(world.rows().await, fold(registry(), &events));
    for projection in ["account-summary", "forum-counters"] {
        let (code, out, said) = run(&["rebuild-projection", projection]).await;
        assert!(code == 0 && !said.contains("interrupted"), "{said}");
        let says = format!("{projection}: every row is at revision 1 already: nothing to do\n240 events of {all} aggregates checked in ");
        assert!(out.contains(&says), "{out}");
    }

    // A lost row is restored.
    let lost = &events[0].aggregate;
    let delete = world.embedded.client().delete_item().table_name("account-summary");
    delete.key("accountId", aws_sdk_dynamodb::types::AttributeValue::S(lost.to_string())).send().await.expect("deleted");
    assert!(run(&["rebuild-projection", "account-summary"]).await.1.contains(" 1 created at"));
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn a_rebuild_into_a_new_table_creates_and_fills_it_and_refuses_tables_in_use() {
    let world = World::new().await;
    let (url, events) = (world.serve().await, unseen(&world).await);
    let run = async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "rebuild-projection"], arguments].concat()).await;
    for (table, says) in [
        ("forum-counters", "`forum-counters` is the table of `forum-counters` itself"),
        ("account-summary", "the table `account-summary` is in use for something else"),
        ("parked", "in use"),
        ("event-store", "in use"),
        ("a b", "`a b` is not a valid table name"),
    ] {
        let (code, _, said) = run(&["forum-counters", "--into", table]).await;
        assert!(code == 2 && said.contains(says), "{table}: {said}");
    }
    let (code, out, said) = run(&["forum-counters", "--into", "forum-2"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(out.contains(&format!("{} created", aggregates(&events[120..]))), "{out}");
    let (code, out, _) = run(&["forum-counters", "--into", "forum-2"]).await;
    assert!(code == 0 && out.contains("nothing to do"), "{out}");
    let beside = names(registry()).with_table("forum-counters", "forum-2").expect("a name");
    let beside = Worker::new(Store::new(world.embedded.client(), beside), registry());
    let rows = beside.store().visible_rows(registry().projections()[1]).await.expect("rows");
    assert_eq!(rows, fold(registry(), &events)["forum-counters"]);
    assert!(world.rows().await.values().all(BTreeMap::is_empty), "the live tables are unchanged");
    let described = |table| world.embedded.client().describe_table().table_name(table).send();
    let (live, made) = (described("forum-counters").await.expect("a table"), described("forum-2").await.expect("a table"));
    let shape = |described: aws_sdk_dynamodb::operation::describe_table::DescribeTableOutput| {
        let table = described.table.expect("a table");
        let indexes = table.global_secondary_indexes.unwrap_or_default().into_iter();
        let indexes: Vec<_> = indexes.map(|index| (index.index_name, index.key_schema, index.projection)).collect();
        (table.key_schema, table.attribute_definitions, indexes)
    };
    assert_eq!(shape(live), shape(made));
}

#[tokio::test]
async fn incomplete_or_contradictory_arguments_are_refused() {
    let url = World::new().await.serve().await;
    let run = async |arguments: &[&str]| projector(&[&["--endpoint-url", &url], arguments].concat()).await;
    for (arguments, says) in [
        (
            &["rebuild-projection", "accounts"][..],
            "no projection `accounts` is in this program, which has account-summary, account-statement, forum-counters, topic-posts, users-and-orders, transfers, order-fulfilment, process-status",
        ),
        (&["catch-up", "accounts"], "no projection `accounts`"),
        (&["rebuild-projection"], "<NAME>"),
        (&["catch-up"], "<NAME|--all>"),
        (&["catch-up", "account-summary", "--all"], "cannot be used with"),
        (&["catch-up", "--all", "--since", "1w"], "such as 90s, 45m, 26h or 7d"),
        (&["catch-up", "--all", "--since", "1d", "--segments", "2"], "cannot be used with"),
        (&["rebuild-projection", "account-summary", "--segments", "2", "--segment", "0/2"], "cannot be used with"),
        (&["rebuild-projection", "account-summary", "--segment", "2/2"], "there is no segment 2 of 2"),
        (&["rebuild-projection", "account-summary", "--segment", "2"], "not I/N"),
        (&["rebuild-projection", "account-summary", "--segments", "0"], "0 is not in 1..=128"),
        (&["rebuild-projection", "account-summary", "--max-read-units", "0"], "0 is not in 1.."),
        (&["rebuild-projection", "account-summary", "--dry-run", "--resume"], "cannot be used with"),
        (&["rebuild-projection", "account-summary", "--dry-run", "--into", "aside"], "cannot be used with"),
        (
            &["rebuild-projection", "account-summary", "--resume"],
            "there is no interrupted rebuild of `account-summary` at revision 1 to resume; run without --resume",
        ),
        (&["rebuild-projection", "account-summary", "--resume", "--into", "aside"], "there is nothing to resume; run without --resume"),
    ] {
        let (code, out, said) = run(arguments).await;
        assert!(code == 2 && out.is_empty() && said.contains(says), "{arguments:?}: {said}");
    }
    let (code, out, _) = run(&["rebuild-projection", "account-summary"]).await;
    assert!(code == 0 && out.contains("nothing to do"), "{out}");
}

/// Accounts whose events fill several pages of a scan.
async fn pages_of_accounts(world: &World) -> Vec<RecordedEvent> {
    let mut events = history("bank", 23, 450, 30);
    for event in &mut events {
        event.metadata = Some(Value::from("x".repeat(10_000)));
    }
    world.append_all(&events).await;
    events
}

#[tokio::test]
async fn an_interrupted_rebuild_resumes_from_its_cursors() {
    let world = World::new().await;
    let events = pages_of_accounts(&world).await;
    let accounts = aggregates(&events) as u64;
    let gate = Gate::new(world.serve().await).await;
    let arguments = ["--endpoint-url", &gate.url, "rebuild-projection", "account-summary", "--segments", "2"];
    let mut child = start_projector(&arguments);
    gate.holds(2).await;
    interrupt(&child);
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut said = String::new();
    while !said.ends_with("interrupted: finishing the pages in progress\n") {
        assert!(errors.read_line(&mut said).await.expect("read") > 0, "{said}");
    }
    gate.open();
    errors.read_to_string(&mut said).await.expect("read");
    let output = child.wait_with_output().await.expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.ends_with("interrupted: run the same command with --resume to continue from here\n"), "{said}");
    let kept = world.worker.store().saved_cursors(registry().projections()[0], Deadline::NONE).await.expect("cursors");
    assert_eq!(kept.iter().map(|saved| saved.segment).collect::<Vec<_>>(), Segment::all(2).collect::<Vec<_>>());
    assert!(kept.iter().any(|saved| saved.cursor.is_some() && !saved.done), "{kept:?}");
    let created = kept.iter().map(|saved| saved.counts.created).sum::<u64>();
    assert!(created > 0 && created < accounts, "{created}");

    let (code, _, said) = projector(&[&arguments[..4], &["--resume", "--segments", "3"]].concat()).await;
    assert!(code == 2 && said.contains("has 2 segments, not 3: omit --segments"), "{said}");
    let (code, out, said) = projector(&[&arguments[..4], &["--resume", "--json"]].concat()).await;
    assert_eq!(code, 0, "{said}");
    let result: Json = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (&result["counts"]["created"], &result["counts"]["aggregates"]),
        (&json!(accounts), &json!(accounts)),
        "both runs count: {result}"
    );
    assert_eq!(world.rows().await, fold(registry(), &events));
    assert_eq!(world.worker.store().saved_cursors(registry().projections()[0], Deadline::NONE).await.expect("cursors"), []);
}

#[tokio::test]
async fn a_denied_rebuild_stops_at_once_keeps_its_cursors_and_reports_how_to_resume() {
    let world = World::new().await;
    let events = pages_of_accounts(&world).await;
    let denied = json!({"__type": "com.amazonaws.dynamodb.v20120810#AccessDeniedException", "message": "no"}).to_string();
    // Every write after the fifth is denied; cursors are written with PutItem and are not.
    let writes = AtomicUsize::new(0);
    let proxy = Proxy::new(&world, move |call| match call.operation {
        "UpdateItem" if writes.fetch_add(1, Relaxed) >= 5 => ("denied", Fault::Instead(400, denied.clone())),
        _ => ("", Fault::None),
    });
    let proxy = proxy.await;
    let door = proxy.door().await;
    let (code, out, said) = projector(&["--endpoint-url", &door.url, "rebuild-projection", "account-summary", "--segments", "1"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(!said.contains("trying again: "), "a permission does not return by itself: {said}");
    assert!(said.contains("error: UpdateItem on a home row cannot succeed (AccessDeniedException)"), "{said}");
    assert!(said.ends_with("fix the cause; then run the same command with --resume to continue from here\n"), "{said}");
    assert!(out.contains("account-summary: 0 rows replaced and 5 created at revision 1"), "{out}");

    let url = world.serve().await;
    let (code, _, said) = projector(&["--endpoint-url", &url, "rebuild-projection", "account-summary"]).await;
    assert!(code == 0 && said.contains("could have been continued with --resume"), "{said}");
    assert_eq!(world.rows().await, fold(registry(), &events));
    let (code, _, said) = projector(&["--endpoint-url", &url, "rebuild-projection", "account-summary", "--resume"]).await;
    assert!(code == 2 && said.contains("there is no interrupted rebuild"), "{said}");
}

#[tokio::test]
async fn a_rebuild_with_a_parked_aggregate_exits_with_1() {
    let world = World::new().await;
    let url = world.serve().await;
    let poison = recorded([("bob", "AccountOpened", Value::Map([("initialDeposit".into(), MARKER.into())].into()))]);
    world.append_all(&poison).await;
    for _ in 0..2 {
        let (code, out, said) = projector(&["--endpoint-url", &url, "rebuild-projection", "account-summary"]).await;
        assert_eq!(code, 1, "{said}");
        assert!(out.contains("1 aggregate is parked; for the reasons: `projector parked list --projection account-summary`"), "{out}");
        assert!(!format!("{out}{said}").contains(MARKER), "{out}{said}");
    }
    assert_eq!(world.parked().await.len(), 1);
}

#[tokio::test]
async fn catch_up_brings_every_row_to_the_head_of_its_history() {
    for way in [&["--segments", "3"][..], &["--since", "36500d"]] {
        let world = World::new().await;
        let (url, events) = (world.serve().await, unseen(&world).await);
        world.process(&events[..60]).await;
        let (code, out, said) = projector(&[&["--endpoint-url", &url, "catch-up", "--all", "--json"], way].concat()).await;
        assert_eq!(code, 0, "{said}");
        let lines: Vec<Json> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((lines.len(), &lines[2]["projection"], &lines[2]["task"]), (8, &json!("forum-counters"), &json!("catchUp")));
        // No event is of the shop, nor of a process.
        assert!(lines[..4].iter().all(|line| line["counts"]["caughtUp"].as_u64() > Some(0)), "{out}");
        assert_eq!(world.rows().await, fold(registry(), &events));
        let (code, out, _) = projector(&[&["--endpoint-url", &url, "catch-up", "account-summary"], way].concat()).await;
        assert!(code == 0 && out.contains("\naccount-summary: no row is behind: nothing to do\n"), "{out}");
    }
}

#[tokio::test]
async fn a_read_budget_limits_the_rate_of_a_rebuild() {
    let world = World::new().await;
    let (url, events) = (world.serve().await, pages_of_accounts(&world).await);
    let run = async |arguments: &[&str]| {
        let all = [&["--endpoint-url", &url, "rebuild-projection", "account-summary", "--json", "--segments", "1"], arguments].concat();
        let (code, out, said) = projector(&all).await;
        assert_eq!(code, 0, "{said}");
        serde_json::from_str::<Json>(&out).expect("JSON")
    };
    // 4.5 MB cost 1,100 read units; the budget delays every page except the last.
    let result = run(&["--max-read-units", "400"]).await;
    let (seconds, units) = (result["seconds"].as_f64().expect("seconds"), result["readUnits"].as_f64().expect("units"));
    assert!(units > 1_000.0 && seconds > (units - 400.0 - 300.0) / 400.0, "{result}");
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn a_rebuild_from_an_export_heals_the_events_that_the_export_lacks() {
    let world = World::new().await;
    let (url, events) = (world.serve().await, unseen(&world).await);
    // In any order. Some histories lack a version in the middle, others their last one: events appended during the export.
    let mut exported: Vec<_> = events.iter().filter(|event| event.version.0 != 3).collect();
    fastrand::Rng::with_seed(5).shuffle(&mut exported);
    let bucket = tempfile::tempdir().expect("a folder");
    let folder = write_export(bucket.path(), 3, &exported.iter().map(|event| encode_event(event)).collect::<Vec<_>>());
    let export = folder.display().to_string();
    let run = async |arguments: &[&str]| {
        let (code, out, said) = projector(&[&["--endpoint-url", &url, "rebuild-projection"], arguments].concat()).await;
        assert!(!format!("{out}{said}").contains(MARKER), "{out}{said}");
        (code, out, said)
    };
    for projection in ["account-summary", "forum-counters"] {
        let (code, out, said) = run(&[projection, "--from-export", &export, "--json"]).await;
        assert_eq!(code, 0, "{said}");
        let result: Json = serde_json::from_str(&out).expect("one JSON object");
        assert_eq!(result["counts"]["events"], exported.len());
        // Nothing in the export shows that a history continues, so a catch-up applies the missing last events.
        assert_eq!(projector(&["--endpoint-url", &url, "catch-up", projection]).await.0, 0);
    }
    assert_eq!(world.rows().await, fold(registry(), &events));
    let (code, out, _) = run(&["account-summary", "--from-export", &export]).await;
    assert!(code == 0 && out.contains("nothing to do"), "{out}");

    std::fs::write(folder.join("data/1.json.gz"), "damaged").expect("written");
    let (code, _, said) = run(&["account-summary", "--from-export", &export]).await;
    assert!(code == 2 && said.contains("1.json.gz"), "{code} {said}");
    let (code, _, said) = run(&["account-summary", "--from-export", &export, "--resume"]).await;
    assert!(code == 2 && said.contains("--resume"), "{said}");
}

#[tokio::test]
async fn resuming_finishes_the_segments_that_other_tasks_left() {
    let world = World::new().await;
    let (url, events) = (world.serve().await, unseen(&world).await);
    let run = async |arguments: &[&str]| {
        let all = [&["--endpoint-url", &url, "rebuild-projection", "account-summary", "--json"], arguments].concat();
        let (code, out, said) = projector(&all).await;
        assert_eq!(code, 0, "{said}");
        serde_json::from_str::<Json>(&out).expect("JSON")["counts"].clone()
    };
    let first = run(&["--segment", "0/2"]).await;
    let both = run(&["--resume"]).await;
    assert_eq!((&both["events"], &both["aggregates"]), (&json!(240), &json!(aggregates(&events))), "completed segments are not read again");
    assert!(both["created"].as_u64() > first["created"].as_u64(), "{both}");
    assert_eq!(of(&world.rows().await, "account-summary"), of(&fold(registry(), &events), "account-summary"));
}
