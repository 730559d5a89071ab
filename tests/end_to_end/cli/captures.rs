//! Input that is wrapped, of another kind, empty, unreadable or made to exhaust memory: in `replay`, `events import` and `--event-store`.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value as Json, json};

use crate::support::projector::fixture;

fn projector(arguments: &[&str]) -> Output {
    projector_reading(arguments, b"")
}

/// Runs `projector` with this on its standard input, with a new data file unless one is named.
fn projector_reading(arguments: &[&str], input: &[u8]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("new.db").display().to_string();
    let store = if arguments.contains(&"--data") { vec!["--quiet"] } else { vec!["--quiet", "--data", &data] };
    let mut child = Command::new(env!("CARGO_BIN_EXE_projector"))
        .args(store)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("projector runs");
    // It may end without reading all.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    child.wait_with_output().expect("projector ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn code_and_errors(arguments: &[&str]) -> (Option<i32>, String) {
    let output = projector(arguments);
    (output.status.code(), text(&output.stderr))
}

/// The rows and the report of a replay, and its exit code.
fn replayed(path: &Path) -> (Option<i32>, Json) {
    let output = projector(&["replay", &path.display().to_string(), "--output", "json"]);
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("JSON"))
}

/// The files in a fixture's folder, but for its expected rows.
fn files(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(fixture(name)).expect("a fixture").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.filter(|path| !path.ends_with("expected.json")).collect();
    files.sort();
    files
}

/// The reasons why records were parked.
fn reasons(replayed: &Json) -> String {
    let parked = replayed["parked"].as_array().expect("a list");
    parked.iter().map(|entry| entry["reason"].as_str().expect("a reason")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_records_in_every_envelope_are_replayed_and_imported() {
    let files = files("wrapped-records");
    assert_eq!(files.len(), 6);
    for file in files {
        let expected = fixture("wrapped-records").join("expected.json").display().to_string();
        let path = file.display().to_string();
        let output = projector(&["replay", &path, "--expect", &expected]);
        assert_eq!(output.status.code(), Some(0), "{path}: {}{}", text(&output.stdout), text(&output.stderr));
        let imported = text(&projector(&["events", "import", &path]).stdout);
        assert_eq!(imported, "2 events imported, 0 already there, 0 refused; 0 other records skipped\n", "{path}");
    }
}

#[test]
fn a_file_of_another_kind_is_one_error_that_says_what_it_is_and_what_to_use() {
    let given_up = "gave up 3 records of shard shardId-00000001, the first of which arrived at 2026-03-01T10:00:01Z";
    for (file, says) in [
        ("full-export-data.json", ["is an item of a table, not a stream record", "rebuild-projection NAME --from-export DIR"]),
        ("scan-output.json", ["is an item of a table, not a stream record", "projector events import FILE"]),
        ("on-failure-message.json", [given_up, "projector catch-up --all --since"]),
        ("on-failure-message-in-lambda-event.json", [given_up, "projector capture"]),
        ("on-failure-message-received.json", [given_up, "projector catch-up --all --since"]),
    ] {
        let output = projector(&["replay", &fixture("no-captures").join(file).display().to_string()]);
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert_eq!((output.status.code(), out.as_str()), (Some(2), ""), "{file}: {error}");
        assert_eq!(error.lines().count(), 1, "{file}: {error}");
        assert!(says.iter().all(|says| error.contains(says)), "{file}: {error}");
    }
}

#[test]
fn a_large_file_of_another_kind_is_one_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("export.json");
    let line = fs::read_to_string(fixture("no-captures").join("full-export-data.json")).expect("read");
    fs::write(&file, line.repeat(10_000)).expect("written");
    let (code, error) = code_and_errors(&["replay", &file.display().to_string()]);
    assert_eq!((code, error.lines().count()), (Some(2), 1), "{error}");
}

#[test]
fn the_items_of_a_scan_and_of_exports_are_imported() {
    let incremental = fixture("incremental-export").join("data.json");
    let imports =
        [("full-export-data.json", "no-captures"), ("scan-output.json", "no-captures")].map(|(file, folder)| fixture(folder).join(file));
    for file in imports.iter().chain([&incremental]) {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data.db").display().to_string();
        let output = projector(&["--data", &data, "events", "import", &file.display().to_string()]);
        let events = if file.ends_with("data.json") { 2 } else { text(&fs::read(file).expect("read")).matches("AGGREGATE#acct-1").count() };
        let said =
            format!("{events} events imported, 0 already there, 0 refused; 0 other records skipped\n").replace("1 events", "1 event");
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), said), "{}", file.display());
        let rebuilt = projector(&["--data", &data, "rebuild-projection", "account-summary"]);
        assert_eq!(rebuilt.status.code(), Some(0), "{}", text(&rebuilt.stderr));
    }
}

#[test]
fn a_replay_names_the_keys_of_another_table_and_parks_nothing() {
    for (file, keys) in [
        ("lower-case-keys.json", "its keys are `pk` (S) and `sk` (S)"),
        ("aggregate-and-version-keys.json", "its keys are `aggregateId` (S) and `version` (N)"),
    ] {
        let path = fixture("other-tables").join(file);
        let output = projector(&["replay", &path.display().to_string()]);
        let (out, code) = (text(&output.stdout), output.status.code());
        let unwrapped = out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(code == Some(1) && unwrapped.contains(keys) && unwrapped.contains("are `PK` (S) and `SK` (S)"), "{out}");
        assert_eq!(replayed(&path).1["parked"], json!([]));
        let (code, error) = code_and_errors(&["events", "import", &path.display().to_string()]);
        assert!(code == Some(1) && error.contains(keys), "{error}");
    }
}

#[test]
fn the_reason_of_an_unreadable_record_names_the_member_and_never_its_value() {
    for (file, says) in [
        ("binary-as-text.json", "`dynamodb.NewImage.metadata.trace`: `B` is not base64"),
        ("dotnet-attribute-values.json", "`dynamodb.Keys.PK` is an attribute value with 10 types"),
        ("node-sdk-keys.json", "`dynamodb` has `keys` and no `Keys`, `newImage` and no `NewImage`"),
        ("sequence-number-as-number.json", "`dynamodb.SequenceNumber` is a number where a text belongs"),
    ] {
        let path = fixture("unreadable-records").join(file);
        let (code, replayed) = replayed(&path);
        assert_eq!(code, Some(1), "{replayed}");
        let reasons = reasons(&replayed);
        assert!(reasons.contains(says) && !reasons.contains("hello"), "{file}: {reasons}");

        let (code, error) = code_and_errors(&["events", "import", &path.display().to_string()]);
        assert!(code == Some(1) && error.contains(&format!("{file}:")) && error.contains(says), "{file}: {error}");
        let bank = fixture("bank").display().to_string();
        let (code, error) = code_and_errors(&["replay", &bank, "--event-store", &path.display().to_string()]);
        assert!(code == Some(1) && error.contains(says), "{file} as event store: {error}");
    }
}

#[test]
fn bytes_as_node_writes_them_are_read() {
    let path = fixture("unreadable-records").join("binary-as-node-buffer.json").display().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data.db").display().to_string();
    assert_eq!(projector(&["replay", &path]).status.code(), Some(0));
    assert_eq!(projector(&["--data", &data, "events", "import", &path]).status.code(), Some(0));
    let shown = text(&projector(&["--data", &data, "events", "show", "b2"]).stdout);
    assert!(shown.contains(r#""trace":[1,2,3]"#), "{shown}");
}

#[test]
fn versions_in_any_spelling_of_one_number_are_applied() {
    let (code, replayed) = replayed(&fixture("version-spellings"));
    assert_eq!((code, &replayed["report"]["total"]["applied"]), (Some(0), &json!(5)), "{replayed}");
}

#[test]
fn many_equal_errors_are_a_few_lines_and_a_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let bank = fs::read_to_string(fixture("json-lines").join("stream.jsonl")).expect("read");
    let file = folder.path().join("stream.jsonl");
    fs::write(&file, bank + &"{\"order\":1}\n".repeat(5_000) + &"cut\n".repeat(70)).expect("written");
    let path = file.display().to_string();
    let (code, error) = code_and_errors(&["replay", &path]);
    assert_eq!((code, error.lines().count()), (Some(1), 7), "{error}");
    assert!(error.contains(&format!("5064 errors more like these in {path}")), "{error}");

    let unreadable = fs::read_to_string(fixture("unreadable-records").join("binary-as-text.json")).expect("read");
    fs::write(&file, unreadable.replace('\n', " ").repeat(2_000)).expect("written");
    let output = projector(&["events", "import", &path]);
    assert_eq!(text(&output.stdout), "0 events imported, 0 already there, 2000 refused; 0 other records skipped\n");
    assert_eq!(text(&output.stderr).lines().count(), 4, "{}", text(&output.stderr));
}

#[test]
fn empty_input_is_an_error_and_an_empty_list_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("input.json");
    let path = file.display().to_string();
    for (content, expected, says) in [
        ("", 2, "is empty"),
        ("\n \n", 2, "is empty"),
        ("{}", 2, "no stream record at the start of"),
        ("{\"a\":1}\n{\"b\":2}\n", 2, "no stream record at the start of"),
        ("no json", 2, "can be read as JSON"),
        ("[]", 0, ""),
        ("{\"Records\":[]}", 0, ""),
    ] {
        fs::write(&file, content).expect("written");
        for arguments in [&["replay", &path][..], &["events", "import", &path]] {
            let (code, error) = code_and_errors(arguments);
            assert_eq!(code, Some(expected), "{arguments:?} of {content:?}: {error}");
            assert!(error.contains(says), "{arguments:?} of {content:?}: {error}");
        }
        let output = projector_reading(&["replay", "-"], content.as_bytes());
        assert_eq!(output.status.code(), Some(expected), "{content:?}");
        if expected == 2 {
            assert_eq!(text(&output.stdout), "", "no tables after an error");
        }
        let bank = fixture("bank").display().to_string();
        assert_eq!(code_and_errors(&["replay", &bank, "--event-store", &path]).0, Some(expected), "{content:?} as event store");
    }
}

#[test]
fn events_are_appended_from_the_standard_input() {
    let line = r#"{"aggregateId":"a","eventType":"AccountOpened","eventData":{"initialDeposit":1}}"#;
    let output = projector_reading(&["events", "append", "-"], line.as_bytes());
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "1 event appended\n".to_owned()));
    let output = projector_reading(&["events", "append", "-"], b"{\"secret\":1}");
    let error = text(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("-:1 is not a valid event") && !error.contains("secret"), "{error}");
}

#[test]
fn documents_made_to_exhaust_time_and_memory_end_with_a_clear_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bomb.json.gz");
    let lists = |element: &str, elements: usize| format!("[{}{element}]", format!("{element},").repeat(elements - 1));
    let many = "has more records than its length allows";
    for (content, says) in [
        (lists("{}", 20_000_000), many),
        (format!("{{\"Records\":{}}}", lists("{\"dynamodb\":{}}", 500_000)), many),
        (lists("{}", 10_000), "no stream record at the start of"),
    ] {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(content.as_bytes()).expect("memory takes it");
        fs::write(&file, packed.finish().expect("memory takes it")).expect("written");
        // 1 GB of address space: what exceeds it fails.
        let begun = Instant::now();
        let limited = format!("ulimit -v 1500000; exec {} replay {}", env!("CARGO_BIN_EXE_projector"), file.display());
        let output = Command::new("sh").args(["-c", &limited]).env_clear().output().expect("sh runs");
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{says}: {error}");
        assert!(error.contains(says), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(45), "{says} after {:?}", begun.elapsed());
    }
}
