//! `projector capture`, as an operator runs it.

use std::{fs, path::Path};

use projection_vocabulary::RecordedEvent;
use serde_json::Value as Json;
use tokio::sync::watch;

use crate::support::{
    projector::{interrupt, projector, start_projector},
    proxy::{Fault, Proxy},
    world::{World, account, fold, history, registry},
};

/// The names of the files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// More than a page of the stream, and amounts of 38 digits.
fn events() -> Vec<RecordedEvent> {
    let mut events = account("exact", &["1234567890123456789.0123456789012345678", "0.0000000000000000001"]);
    events.extend(history("bank", 41, 3_000, 30));
    events.extend(history("forum", 42, 300, 20));
    events
}

#[tokio::test]
async fn replaying_a_capture_yields_the_fold() {
    let (world, events) = (World::new().await, events());
    world.append_all(&events).await;
    let (url, folder) = (world.serve().await, tempfile::tempdir().expect("a folder"));
    for (name, arguments, ending) in [("plain", &[][..], ".jsonl"), ("packed", &["--gzip"], ".jsonl.gz")] {
        let out = folder.path().join(name);
        let path = out.display().to_string();
        let capture = [&["--endpoint-url", &url, "capture", "--out", &path, "--file-mb", "1"], arguments].concat();
        let (code, told, said) = projector(&capture).await;
        assert_eq!(code, 0, "{said}");
        let files = names(&out);
        assert!(files.len() > 1 && files.iter().all(|name| name.starts_with("stream-") && name.ends_with(ending)), "{files:?}");
        let records: usize = told.split_once(' ').expect("words").0.parse().expect("a number");
        assert!(records > events.len(), "the capture includes the VERSION items: {told}");
        assert!(told.ends_with(&format!(" records in {} files in {path}\n", files.len())), "{told}");

        let replayed = World::new().await;
        let (code, out, said) = projector(&["--endpoint-url", &replayed.serve().await, "replay", &path, "--output", "json"]).await;
        assert_eq!(code, 0, "{said}");
        let snapshot: Json = serde_json::from_str(&out).expect("JSON");
        assert_eq!((&snapshot["report"]["records"], &snapshot["report"]["total"]["healed"]), (&records.into(), &0.into()));
        assert_eq!(replayed.rows().await, fold(registry(), &events));

        let (code, _, said) = projector(&capture).await;
        assert!(code == 2 && said.contains("contains a capture: choose another folder"), "{said}");
    }
}

#[tokio::test]
async fn a_store_in_a_file_can_be_captured_and_one_in_memory_cannot() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (data, events, out) = (path("bank.db"), path("events.jsonl"), path("out"));
    let line = r#"{"aggregateId": "ann", "eventType": "AccountOpened", "eventData": {"initialDeposit": 12.50}}"#;
    fs::write(&events, line).expect("written");
    let (code, _, said) = projector(&["--data", &data, "events", "append", &events]).await;
    assert_eq!(code, 0, "{said}");
    let (code, told, said) = projector(&["--data", &data, "capture", "--out", &out]).await;
    assert_eq!((code, told), (0, format!("2 records in 1 file in {out}\n")), "{said}");
    let (code, rows, said) = projector(&["replay", &out]).await;
    assert!(code == 0 && rows.contains("12.5"), "{rows}{said}");

    for (arguments, says) in [
        (&["capture", "--out", "x"][..], "name the store: --data FILE, --endpoint-url URL, --aws"),
        (&["--data", &data, "capture"], "--out"),
        (&["--data", &data, "capture", "--out", "x", "--latest"], "--follow"),
    ] {
        let (code, _, said) = projector(arguments).await;
        assert!(code == 2 && said.contains(says), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn following_continues_until_interrupted_and_loses_nothing() {
    let (world, events) = (World::new().await, history("bank", 43, 40, 4));
    let (reads, mut seen) = watch::channel(0);
    let proxy = Proxy::new(&world, move |call| {
        reads.send_modify(|reads| *reads += i32::from(call.operation == "GetRecords"));
        ("", Fault::None)
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let url = proxy.door().await.url;
    let child = start_projector(&["--endpoint-url", &url, "capture", "--out", &path, "--follow", "--latest"]);
    // It has started once it reads, so the events appended after that are new to it. By its third read after that, it has written the
    // result of the second.
    for half in events.chunks(20) {
        seen.wait_for(|reads| *reads > 0).await.expect("the proxy is there");
        world.append_all(half).await;
        let reads = *seen.borrow_and_update();
        seen.wait_for(|now| *now > reads + 2).await.expect("the proxy is there");
    }
    interrupt(&child);
    let output = child.wait_with_output().await.expect("it ends");
    let told = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(0), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.ends_with(&format!(" records in 1 file in {path}\n")), "{told}");

    let replayed = World::new().await;
    let (code, _, said) = projector(&["--endpoint-url", &replayed.serve().await, "replay", &path]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(replayed.rows().await, fold(registry(), &events));
}
