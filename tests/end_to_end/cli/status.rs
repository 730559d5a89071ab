//! `projector status`, as an operator runs it.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{RecordedEvent, Timestamp, Version};
use projection_worker::internals::{
    operations::status::{self, Behind, Rows, Status},
    retry::Deadline,
    store::{cursors::SavedCursor, segment::Segment},
};
use serde_json::{Value as Json, json, value::RawValue};

use crate::support::{
    projector::projector,
    records::deposit_of,
    world::{Fault, World, account, history, included},
};

/// Part of event data, and must not appear anywhere else.
const MARKER: &str = "only-the-event-may-say-this";

/// An account whose events are newer than all others and one second apart.
fn newest(id: &str, amounts: &[&str]) -> Vec<RecordedEvent> {
    let mut events = account(id, amounts);
    for event in &mut events {
        event.timestamp = Timestamp::parse(&format!("2026-06-01T00:00:{:02}Z", event.version.0)).expect("a time");
    }
    events
}

/// Bank and forum events, all applied.
async fn applied() -> World {
    let world = World::with(included()).await;
    let mut events = history("bank", 31, 60, 7);
    events.extend(history("forum", 32, 60, 9));
    world.append_all(&events).await;
    assert_eq!(world.process(&events).await.total.failed, 0);
    world
}

/// Exit code and table of the command, and the lines of the same command with `--json`.
async fn status(url: &str, arguments: &[&str]) -> (i32, String, Vec<Json>) {
    let arguments = [&["--endpoint-url", url, "status"], arguments].concat();
    let (code, table, said) = projector(&arguments).await;
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let (code_of_json, lines, said_of_json) = projector(&[arguments.as_slice(), &["--json"]].concat()).await;
    assert_eq!(code, code_of_json);
    assert!(!format!("{table}{lines}{said}{said_of_json}").contains(MARKER), "{table}{lines}{said}{said_of_json}");
    (code, table, lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
}

#[tokio::test]
async fn healthy_projections_are_reported_in_a_table_and_in_json() {
    let world = applied().await;
    let url = world.serve().await;
    let (code, table, lines) = status(&url, &[]).await;
    assert_eq!(code, 0, "{table}");
    assert_eq!(table.lines().count(), 16, "the store, a head, a row for each projection, the border, and nothing to tell: {table}");
    let rows = world.rows().await;
    // No event is of the shop, nor of a process.
    for (line, rule) in lines.iter().zip(included().projections()).take(4) {
        let rows = &rows[rule.name()];
        let home = rows.values().filter(|row| row.contains_key("version")).count();
        let newest = line["newestEventAt"].as_str().expect("a time");
        let expected = json!({
            "projection": rule.name(), "revision": 1, "rows": rows.len(), "rowsByRevision": { "1": home }, "outdated": 0, "newer": 0, "parked": 0,
            "newestEventAt": newest, "behind": [], "rebuild": null,
        });
        assert_eq!(line, &expected);
        let shown = table.lines().find(|line| line.starts_with('│') && line.contains(rule.name())).expect("a line of the table");
        let newest = newest.replace('T', " ");
        assert!(shown.contains(&rows.len().to_string()) && shown.contains(newest.split_once('.').expect("ms").0), "{shown}");
    }
    assert_eq!((lines.len(), &lines[8]["total"]["well"], &lines[8]["total"]["parkedRecords"]), (9, &json!(true), &json!(0)));

    let (code, _, lines) = status(&url, &["account-summary"]).await;
    assert_eq!((code, lines.len()), (0, 2), "one projection");
    let (code, _, said) = projector(&["--endpoint-url", &url, "status", "nobody"]).await;
    assert!(code == 2 && said.contains("nobody"), "{said}");
}

#[tokio::test]
async fn a_row_behind_its_newest_event_is_reported_with_its_distance_and_since_when() {
    let world = applied().await;
    let url = world.serve().await;
    let late = newest("late", &["1", "2", "4", "8"]);
    world.append_all(&late).await;
    world.process(&late[..2]).await;
    let (code, table, lines) = status(&url, &["--quick"]).await;
    assert_eq!(code, 1, "{table}");
    let behind = json!([{ "aggregateId": "late", "version": 2, "head": 4, "since": "2026-06-01T00:00:03.000Z" }]);
    assert_eq!((&lines[0]["behind"], &lines[0]["newestEventAt"]), (&behind, &json!("2026-06-01T00:00:04.000Z")));
    assert_eq!((&lines[2]["behind"], &lines[8]["total"]["well"]), (&json!([]), &json!(false)));
    assert!(table.contains("account-summary: late has been behind since 2026-06-01 00:00:03:\n  at version 2 of 4\n"), "{table}");
    assert!(table.contains("≥ 1") && table.matches("projector").count() == 2, "one suggestion for each: {table}");
    assert!(table.contains("`projector catch-up account-summary`"), "{table}");
    let (code, ..) = status(&url, &["forum-counters"]).await;
    assert_eq!(code, 0, "it is not the forum's");

    world.process(&late).await;
    let (code, table, _) = status(&url, &[]).await;
    assert_eq!(code, 0, "{table}");
}

#[tokio::test]
async fn parked_aggregates_are_counted_by_projection() {
    let world = applied().await;
    let url = world.serve().await;
    let mut spoilt = account("spoilt", &["1"]);
    spoilt[0].data = deposit_of(MARKER);
    world.append_all(&spoilt).await;
    world.process(&spoilt).await;
    let (code, table, lines) = status(&url, &[]).await;
    assert_eq!((code, &lines[0]["parked"], &lines[1]["parked"]), (1, &json!(1), &json!(1)), "{table}");

    assert_eq!(lines[0]["behind"], json!([]), "it is parked, and no catch-up moves it: {table}");
    assert!(table.contains("1 aggregate waits for a redrive:\n  `projector parked list --projection account-summary`"), "{table}");
    assert!(!table.contains("catch-up") && !table.contains("rebuild-projection"), "{table}");

    let stray: Box<RawValue> = serde_json::value::to_raw_value(&json!({ "eventID": "stray", "dynamodb": MARKER })).expect("JSON");
    let other = applied().await;
    other.worker.process(&[stray], Deadline::NONE).await;
    let url = other.serve().await;
    let (code, table, lines) = status(&url, &[]).await;
    assert_eq!((code, &lines[8]["total"]["well"], &lines[8]["total"]["parkedRecords"]), (1, &json!(false), &json!(1)), "{table}");
    assert!(table.contains("1 parked record names no event"), "{table}");
    assert_eq!(status(&url, &["account-summary"]).await.0, 0, "a stray belongs to no projection");
}

#[tokio::test]
async fn rows_of_another_revision_count_as_outdated_and_an_unfinished_rebuild_shows_its_progress() {
    let world = applied().await;
    let url = world.serve().await;
    let rule = included().get("account-summary").expect("the bank");
    let rows = world.rows().await["account-summary"].clone();
    let (aged, _) = rows.first_key_value().expect("a row");
    let request = world.embedded.client().update_item().table_name("account-summary");
    let request = request.key("accountId", AttributeValue::S(aged.to_string())).update_expression("SET revision = :old");
    request.expression_attribute_values(":old", AttributeValue::N("0".into())).send().await.expect("updated");
    for segment in Segment::all(3) {
        let saved = SavedCursor { done: segment.number() == 1, ..SavedCursor::beginning(segment) };
        world.worker.store().save_cursor(rule, &saved, Deadline::NONE).await.expect("saved");
    }

    let (code, table, lines) = status(&url, &["account-summary"]).await;
    assert_eq!((code, &lines[0]["outdated"]), (1, &json!(1)), "{table}");
    assert_eq!(lines[0]["rowsByRevision"], json!({ "0": 1, "1": rows.len() - 1 }));
    let kept = format!("account-summary: rows by revision: 1 at 0, {} at 1; the rule's revision is 1:\n", rows.len() - 1);
    assert!(table.contains(&kept) && table.contains("  `projector rebuild-projection account-summary`\n"), "{table}");
    assert_eq!((&lines[0]["rebuild"]["done"], &lines[0]["rebuild"]["segments"]), (&json!(1), &json!(3)));
    assert!(table.contains("a rebuild has done 1 of 3 segments as of 20"), "{table}");
    let (code, table, lines) = status(&url, &["account-summary", "--quick"]).await;
    assert_eq!((code, lines[0].get("rows"), lines[0].get("outdated")), (0, None, None), "without counting rows it cannot know: {table}");
}

#[tokio::test]
async fn a_quick_status_scans_nothing_and_the_number_of_segments_makes_no_difference() {
    let world = applied().await;
    let late = newest("late", &["1", "2"]);
    world.append_all(&late).await;
    let rule = included().get("account-summary").expect("the bank");
    let tapped = world.tapped(|call| {
        assert_ne!(call.operation, "Scan");
        Fault::None
    });
    let quick = status::status(&tapped.worker, rule, None, Deadline::NONE).await.expect("a look");
    let (newest, since) = (Some(late[1].timestamp.clone()), late[0].timestamp.clone());
    let behind = vec![Behind { aggregate: "late".into(), version: Version::NONE, head: Version(2), since }];
    assert_eq!(quick, Status { rows: None, newest, behind, rebuild: Vec::new() });

    let rows = world.rows().await["account-summary"].len() as u64;
    for segments in [1, 5] {
        let counted = status::status(&world.worker, rule, Some(segments), Deadline::NONE).await.expect("a look").rows;
        assert_eq!(counted, Some(Rows { seen: rows, by_revision: BTreeMap::from([(1, rows)]) }));
    }
}

#[tokio::test]
async fn rows_of_a_newer_program_are_for_that_program() {
    let world = applied().await;
    let url = world.serve().await;
    let key = world.rows().await["account-summary"].keys().next().expect("a row").key.as_str().to_owned();
    let set = world.embedded.client().update_item().table_name("account-summary").key("accountId", AttributeValue::S(key));
    let set = set.update_expression("SET revision = :two").expression_attribute_values(":two", AttributeValue::N("2".into()));
    set.send().await.expect("updated");
    let (code, table, lines) = status(&url, &["account-summary"]).await;
    assert_eq!((code, &lines[0]["newer"], &lines[0]["outdated"]), (1, &json!(1), &json!(0)), "{table}");
    assert!(table.contains("1 row is of a newer revision than this program's 1:\n  use the program that wrote them"), "{table}");
    assert!(!table.contains("rebuild-projection"), "that would be refused: {table}");
}
