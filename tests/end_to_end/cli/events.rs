//! `projector events append` and `import` of many events, as an operator runs them.

use std::{fs, path::Path};

use projection_vocabulary::{RecordedEvent, Version};
use projection_worker::internals::{retry::Deadline, store::events::Stored};
use serde_json::json;

use crate::support::{
    projector::{projector, start_projector},
    proxy::{Applied, Fault, Proxy},
    world::{Call, World, account, impostor, records},
};

/// The events of 40 accounts with 50 each, as they come in a stream.
fn events() -> Vec<RecordedEvent> {
    let mut events: Vec<_> = (0..40).flat_map(|number| account(&format!("account-{number:02}"), &["1"; 50])).collect();
    events.sort_by_key(|event| event.version);
    events
}

fn capture(path: &Path, events: &[RecordedEvent]) -> String {
    let lines: Vec<_> = records(events).iter().map(|record| record.get().to_owned()).collect();
    fs::write(path, lines.join("\n")).expect("written");
    path.display().to_string()
}

/// Lines without ids and versions.
fn lines(path: &Path, events: &[RecordedEvent]) -> String {
    let line = |event: &RecordedEvent| {
        json!({"aggregateId": event.aggregate.as_str(), "eventType": &*event.event_type, "eventData": event.data.to_json()}).to_string()
    };
    fs::write(path, events.iter().map(line).collect::<Vec<_>>().join("\n")).expect("written");
    path.display().to_string()
}

async fn history(world: &World, aggregate: &str) -> Vec<RecordedEvent> {
    let all = Version(1)..=Version(u64::MAX);
    let page = world.worker.store().load_page(&aggregate.into(), all, 1_000, Deadline::NONE).await.expect("loaded");
    page.into_iter().filter_map(|stored| if let Stored::Event(event) = stored { Some(event) } else { None }).collect()
}

/// Whether the store has these events, but for their ids and times, and nothing else of their aggregates.
async fn assert_stored(world: &World, events: &[RecordedEvent]) {
    for number in 0..40 {
        let id = format!("account-{number:02}");
        let facts = |events: Vec<RecordedEvent>| -> Vec<_> {
            events.into_iter().map(|event| (event.version, event.event_type.to_string(), event.data)).collect()
        };
        let expected = events.iter().filter(|event| event.aggregate.as_str() == id).cloned().collect();
        assert_eq!(facts(history(world, &id).await), facts(expected), "{id}");
    }
}

/// The number before some words of an output.
fn number(said: &str, words: &str) -> usize {
    let mut before = said.split(words).next().expect("a part").split([' ', ',', '\n']).filter(|part| !part.is_empty());
    before.next_back().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number before {words}: {said}"))
}

#[tokio::test]
async fn a_conflict_in_the_middle_of_a_file_is_named_and_the_rest_is_imported() {
    let (world, folder, events) = (World::new().await, tempfile::tempdir().expect("a folder"), events());
    let url = world.serve().await;
    let taken = impostor(&events[5]);
    world.import(&[events[0].clone(), taken.clone()]).await;
    let file = capture(&folder.path().join("stream.jsonl"), &events);
    for (imported, known) in [(1_998, 1), (0, 1_999)] {
        let (code, out, said) = projector(&["--endpoint-url", &url, "events", "import", &file]).await;
        let summary = format!("{imported} events imported, {known} already there, 0 refused, 1 in conflict; 0 other records skipped\n");
        assert_eq!((code, out), (1, summary), "{said}");
        let conflict = format!("error: {file}:6: conflict on aggregate account-05: the store has another event of version 1\n");
        assert!(said.contains(&conflict) && !said.contains("initialDeposit"), "{said}");
        assert!(said.contains("2000 events in ") && said.contains("requests"), "how fast it was: {said}");
    }
    let kept: Vec<_> = history(&world, "account-05").await.iter().map(|event| event.event_id.clone()).collect();
    assert_eq!((kept.len(), &kept[0]), (50, &taken.event_id));
    // An event whose data was changed in the file is another one, although it has the same id.
    let changed = RecordedEvent { data: events[41].data.clone(), ..events[1].clone() };
    let file = capture(&folder.path().join("changed.jsonl"), &[changed, events[2].clone()]);
    let (code, out, said) = projector(&["--endpoint-url", &url, "events", "import", &file]).await;
    assert_eq!(
        (code, out.as_str()),
        (1, "0 events imported, 1 already there, 0 refused, 1 in conflict; 0 other records skipped\n"),
        "{said}"
    );
    assert!(said.contains("changed.jsonl:1: conflict on aggregate account-01"), "{said}");
    // So it does as the source of a replay's gaps.
    let (code, _, said) = projector(&["--endpoint-url", &url, "replay", &file, "--event-store", &file]).await;
    assert!(code == 1 && said.contains("changed.jsonl:1: conflict on aggregate account-01"), "{code} {said}");
}

#[tokio::test]
async fn many_conflicts_are_a_few_lines_and_a_number() {
    let (world, folder, events) = (World::new().await, tempfile::tempdir().expect("a folder"), events());
    let url = world.serve().await;
    world.import(&events.iter().map(impostor).collect::<Vec<_>>()).await;
    let file = capture(&folder.path().join("stream.jsonl"), &events);
    let (code, out, said) = projector(&["--endpoint-url", &url, "-q", "events", "import", &file]).await;
    assert_eq!((code, out.as_str()), (1, "0 events imported, 0 already there, 0 refused, 2000 in conflict; 0 other records skipped\n"));
    assert!(said.lines().count() == 4 && said.contains("1997 errors more like these"), "{said}");
    let file = folder.path().join("events.jsonl");
    let expecting = |event: &RecordedEvent| json!({"aggregateId": event.aggregate.as_str(), "expectedVersion": 7, "eventType": "MoneyDeposited", "eventData": {"amount": 1}});
    fs::write(&file, events[..40].iter().map(|event| expecting(event).to_string()).collect::<Vec<_>>().join("\n")).expect("written");
    let (code, out, said) = projector(&["--endpoint-url", &url, "-q", "events", "append", &file.display().to_string()]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(said.contains("events.jsonl:1: conflict on aggregate account-00: expected version 7, found 50"), "{said}");
    assert!(said.lines().count() == 5 && said.contains("37 errors more like these"), "{said}");
    assert!(said.contains("0 events appended, 40 not appended; run the same command again"), "{said}");
}

#[tokio::test]
async fn a_command_that_is_killed_in_the_middle_is_completed_by_the_next() {
    let (folder, events) = (tempfile::tempdir().expect("a folder"), events());
    let captured = capture(&folder.path().join("stream.jsonl"), &events);
    let lines = lines(&folder.path().join("events.jsonl"), &events);
    // An append begins with 40 queries.
    for (command, file, fatal) in [("import", captured, [3, 8, 14]), ("append", lines, [17, 48, 54])] {
        let (mut asked, mut in_the_middle) = (None, 0);
        for (at, applied) in [None, Some(Applied::Never), Some(Applied::Before), Some(Applied::After)].into_iter().enumerate() {
            let world = World::new().await;
            let proxy = Proxy::new(&world, |_| ("", Fault::None)).await;
            let door = proxy.door().await;
            let arguments = ["--endpoint-url", &door.url, "events", command, &file];
            let Some(applied) = applied else {
                // How many requests it makes before it comes to events.
                let (code, out, said) = projector(&arguments).await;
                assert_eq!(code, 0, "{out}{said}");
                let calls = proxy.seen();
                let of_tables = calls.iter().filter(|(name, _)| !["Query", "TransactWriteItems"].contains(&name.as_str()));
                asked = Some(of_tables.map(|(_, count)| usize::try_from(*count).expect("few")).sum::<usize>());
                continue;
            };
            door.arm(asked.expect("it ran once") + fatal[at - 1], applied);
            let mut child = start_projector(&arguments);
            tokio::select! {
                biased;
                () = door.struck() => child.kill().await.expect("it is killed"),
                ended = child.wait() => panic!("it ends without being killed: {ended:?}"),
            }
            proxy.settle().await;
            let (code, out, said) = projector(&arguments).await;
            assert_eq!(code, 0, "{out}{said}");
            assert_stored(&world, &events).await;
            let known = if out.contains("already there") { number(&out, " already there") } else { 0 };
            let new = number(&out, " event");
            assert_eq!(new + known, 2_000, "{out}");
            in_the_middle += usize::from(new > 0 && known > 0);
        }
        assert!(in_the_middle >= 2, "{command}: killed in the middle {in_the_middle} times");
    }
}

/// A network that loses, refuses, cuts and postpones.
fn bad(call: &Call<'_>) -> (&'static str, Fault) {
    let error = |name: &str| json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{name}"), "message": "as planned"}).to_string();
    if call.operation == "DescribeTable" {
        return ("", Fault::None);
    }
    match call.number % 11 {
        0 => ("lost", Fault::Lost),
        2 => ("throttled", Fault::Instead(400, error("ProvisionedThroughputExceededException"))),
        4 => ("applied, but", Fault::AppliedBut(500, error("InternalServerError"))),
        6 => ("cut", Fault::CutAmid),
        8 => ("late", Fault::Late(3)),
        _ => ("", Fault::None),
    }
}

#[tokio::test]
async fn a_bad_network_makes_nothing_appended_or_imported_twice() {
    let (folder, events) = (tempfile::tempdir().expect("a folder"), events());
    for command in ["import", "append"] {
        let world = World::new().await;
        let proxy = Proxy::new(&world, bad).await;
        let door = proxy.door().await;
        let file = match command {
            "import" => capture(&folder.path().join("stream.jsonl"), &events),
            _ => lines(&folder.path().join("events.jsonl"), &events),
        };
        let (code, out, said) = projector(&["--endpoint-url", &door.url, "events", command, &file]).await;
        proxy.settle().await;
        assert_eq!(code, 0, "{command}: {out}{said}");
        let known = if out.contains("already there") { number(&out, " already there") } else { 0 };
        assert_eq!(number(&out, " event") + known, 2_000, "{command}: {out}");
        assert_stored(&world, &events).await;
        let seen = proxy.seen();
        for fault in ["lost", "throttled", "applied, but", "cut", "late"] {
            assert!(seen.contains_key(fault), "{command}: {fault} never happened: {seen:?}");
        }
    }
}
