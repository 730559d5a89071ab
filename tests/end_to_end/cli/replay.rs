//! The fixtures, and `projector replay`, `events`, `tables` and `generate` as a user runs them.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use projection_vocabulary::{RowId, Value};
use projection_worker::{
    Worker,
    internals::{
        embedded::Embedded,
        engine::{decode::appended_item, report::Report},
        retry::Deadline,
        sources::input,
        store::{Store, Usage},
    },
};
use serde_json::{Value as Json, value::RawValue};

use crate::support::world::{Everything, World, import_item, included, names};

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut all: Vec<_> = fs::read_dir(root)
        .expect("fixtures")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("expected.json").exists())
        .collect();
    all.sort();
    assert!(all.len() >= 15, "the fixtures are there");
    all
}

fn name(fixture: &Path) -> &str {
    fixture.file_name().and_then(|name| name.to_str()).expect("a name")
}

fn projector(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_projector")).args(arguments).env_clear().stdin(Stdio::null()).output().expect("projector runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Runs the command that checks a fixture.
fn check(fixture: &Path) -> Output {
    let (folder, expected, store) =
        (fixture.display().to_string(), fixture.join("expected.json").display().to_string(), fixture.join("event-store"));
    let store_path = store.display().to_string();
    let mut arguments = vec!["replay", &folder, "--expect", &expected];
    if store.exists() {
        arguments.extend(["--event-store", &store_path]);
    }
    projector(&arguments)
}

#[test]
fn a_replay_names_the_event_types_that_no_projection_handles() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/unknown-types").display().to_string();
    let output = projector(&["replay", &fixture, "--show", "0"]);
    let said = text(&output.stdout);
    assert!(said.contains(" an event type that no projection handles\n    "), "{said}");
    let json: Json = serde_json::from_slice(&projector(&["replay", &fixture, "--output", "json"]).stdout).expect("JSON");
    let report = json.get("report").unwrap_or(&json);
    for (event_type, count) in report["unhandledTypes"].as_object().expect("types by name") {
        assert!(said.contains(&format!("\n    {event_type}: {count}\n")), "{said}");
    }
    let named: u64 = report["unhandledTypes"].as_object().expect("types").values().filter_map(Json::as_u64).sum();
    assert!(named > 0 && report["ignored"]["event type that no projection handles"] == named, "{report}");
}

#[test]
fn every_fixture_replays_to_its_expected_rows() {
    for fixture in fixtures() {
        let output = check(&fixture);
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        // Without images, or from another table, nothing can be applied, and failed records are never a success.
        let expected = i32::from(["keys-only", "other-tables"].contains(&name(&fixture)));
        assert_eq!(output.status.code(), Some(expected), "{}:\n{out}{error}", fixture.display());
        assert!(out.contains("rows are as expected"), "{out}");
        assert!(!error.contains("panicked"), "{error}");
    }
}

#[test]
fn a_row_that_differs_from_the_expected_one_is_shown_and_exits_with_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let bank = fixtures().into_iter().find(|path| name(path) == "bank").expect("the bank");
    let expected = fs::read_to_string(bank.join("expected.json")).expect("expected rows").replace(r#""balance":61.6"#, r#""balance":61.7"#);
    let wrong = folder.path().join("wrong.json");
    fs::write(&wrong, expected).expect("written");
    let output = projector(&["replay", &bank.display().to_string(), "--expect", &wrong.display().to_string()]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    assert!(out.contains(r#"-account-summary {"accountId":"account-erin","balance":61.7"#), "{out}");
    assert!(out.contains(r#"+account-summary {"accountId":"account-erin","balance":61.6"#), "{out}");
}

#[test]
fn an_unreadable_input_exits_with_2_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let junk = folder.path().join("junk.json");
    fs::write(&junk, "this is no JSON").expect("written");
    for (arguments, says) in [
        (vec!["replay", "no/such/file.json"], "no/such/file.json"),
        (vec!["replay", junk.to_str().expect("UTF-8")], "junk.json"),
        (vec!["replay", folder.path().to_str().expect("UTF-8"), "--expect", junk.to_str().expect("UTF-8")], "junk.json"),
        (vec!["replay"], "PATH"),
        (vec!["replay", "--no-such-option"], "--no-such-option"),
        (
            vec!["--aws", "tables", "create"],
            "EVENT_STORE_TABLE is not set; PARKED_TABLE is not set; ACCOUNT_SUMMARY_TABLE is not set; ACCOUNT_STATEMENT_TABLE is not set; \
             FORUM_COUNTERS_TABLE is not set; TOPIC_POSTS_TABLE is not set; USERS_AND_ORDERS_TABLE is not set",
        ),
    ] {
        let output = projector(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(says), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_broken_line_fails_only_that_line() {
    let mut lines = fs::read_to_string(fixtures().iter().find(|path| name(path) == "json-lines").expect("JSON Lines").join("stream.jsonl"))
        .expect("read");
    lines.insert_str(lines.find('\n').expect("a line") + 1, "{\"cut\": \n");
    let mut child = Command::new(env!("CARGO_BIN_EXE_projector"))
        .args(["replay", "-", "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("projector runs");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let printed: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&printed["report"]["total"]["applied"], &printed["report"]["unreadable"]), (&18.into(), &1.into()));
    assert!(text(&output.stderr).contains("-:2"), "{}", text(&output.stderr));
}

#[test]
fn an_interrupted_replay_stops_at_once_and_reports_what_it_applied() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_projector"))
        .args(["replay", "-", "--batch-size", "1", "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("projector runs");
    // The warning about the second record shows that the first is applied and that it waits for more input.
    let lines = fs::read_to_string(fixtures().iter().find(|path| name(path) == "json-lines").expect("JSON Lines").join("stream.jsonl"))
        .expect("read");
    let event = lines.lines().find(|line| !line.contains("Records") && line.contains("EVENT#")).expect("a bare event");
    let mut input = child.stdin.take().expect("a pipe");
    writeln!(input, "{event}\n{{\"dynamodb\":{{}}}}").expect("written");
    let mut said = String::new();
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
    while !said.contains("record parked") {
        assert_ne!(errors.read_line(&mut said).expect("read"), 0, "{said}");
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    errors.read_to_string(&mut said).expect("read");
    let output = child.wait_with_output().expect("it ends, although its input is still open");
    drop(input);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    let printed: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(printed["report"]["records"], 2);
}

#[tokio::test]
async fn tables_are_created_at_an_endpoint_only_on_request() {
    let embedded = Embedded::memory().expect("an empty database");
    let world = World { worker: Worker::new(Store::new(embedded.client(), names(included())), included()), embedded };
    let url = world.serve().await;
    let run = async |arguments: &[&str]| {
        let arguments: Vec<String> = ["--endpoint-url", &url].iter().chain(arguments).map(ToString::to_string).collect();
        let ran = tokio::task::spawn_blocking(move || projector(&arguments.iter().map(String::as_str).collect::<Vec<_>>()));
        let output = ran.await.expect("projector runs");
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let bank = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bank");
    let [bank, expected] = [bank.display().to_string(), bank.join("expected.json").display().to_string()];
    let (code, said) = run(&["replay", &bank]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("check the table names"), "{said}");
    let (code, said) = run(&["tables", "create"]).await;
    let tables = names(included());
    let created = [&tables.event_store, &tables.parked]
        .into_iter()
        .chain(included().projections().iter().map(|rule| &tables.projections[rule.name()]));
    let created: Vec<_> = created.map(|table| format!("created {table}")).collect();
    assert_eq!((code, said), (Some(0), created.join("\n") + "\n"));
    let (code, said) = run(&["replay", &bank, "--expect", &expected]).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(world.rows().await["account-summary"].len(), 5);
}

#[test]
fn a_store_in_a_file_persists_between_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data.db").display().to_string();
    let missing = fixtures().into_iter().find(|path| name(path) == "missing-versions").expect("missing versions");
    let [replayed, store, expected] = ["", "event-store", "expected.json"].map(|part| missing.join(part).display().to_string());
    let run = |arguments: &[&str]| {
        let output = projector(&[&["--data", &data], arguments].concat());
        (output.status.code(), text(&output.stdout))
    };
    assert_eq!(
        run(&["events", "import", &store]),
        (Some(0), "17 events imported, 0 already there, 0 refused; 0 other records skipped\n".into())
    );
    assert_eq!(run(&["events", "import", &store]).1, "0 events imported, 17 already there, 0 refused; 0 other records skipped\n");
    assert_eq!(run(&["replay", &replayed, "--expect", &expected]).0, Some(0));
    let (code, again) = run(&["replay", &replayed, "--output", "json"]);
    let again: Json = serde_json::from_str(&again).expect("JSON");
    // The account with a gap in its history is parked; everything else was counted before.
    assert_eq!((code, &again["report"]["total"]["applied"], &again["report"]["total"]["duplicate"]), (Some(1), &0.into(), &13.into()));
    let (_, shown) = run(&["events", "show", "account-alice"]);
    assert_eq!(shown.lines().count(), 5);
    let (_, newest) = run(&["events", "by-type", "MoneyDeposited", "--limit", "2"]);
    assert_eq!(newest.lines().count(), 2);
    assert!(newest.lines().next().expect("a line").contains(r#""amount":1000"#), "{newest}");
    assert_eq!(run(&["tables", "create"]).1, "all tables exist\n");
}

#[test]
fn events_append_reads_json_lines_and_reports_a_conflict_clearly() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data.db").display().to_string();
    let append = |lines: &str| {
        let file = folder.path().join("events.jsonl");
        fs::write(&file, lines).expect("written");
        let output = projector(&["--data", &data, "events", "append", &file.display().to_string()]);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let opened =
        r#"{"aggregateId":"a","eventType":"AccountOpened","eventData":{"initialDeposit":0.10000000000000000000000000000000000001}}"#;
    assert_eq!(append(opened), (Some(0), format!("1 event appended\ncreated {data}\n")));
    let expecting =
        |version: u64| format!(r#"{{"aggregateId":"a","expectedVersion":{version},"eventType":"AccountClosed","eventData":{{}}}}"#);
    let (code, said) = append(&expecting(0));
    assert_eq!(code, Some(1));
    assert!(said.contains("conflict on aggregate a: expected version 0, found 1"), "{said}");
    assert_eq!(append(&expecting(1)).0, Some(0));
    let (code, said) = append("{\"aggregateId\":\"a\",\"secret\":\"4711\"}");
    assert_eq!(code, Some(2));
    assert!(said.contains("events.jsonl:1") && !said.contains("4711"), "{said}");
    let shown = projector(&["--data", &data, "events", "show", "a"]);
    assert!(text(&shown.stdout).contains(r#"{"initialDeposit":0.10000000000000000000000000000000000001}"#), "{}", text(&shown.stdout));
}

#[test]
fn a_failed_append_appends_nothing_and_a_repeated_one_nothing_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data.db").display().to_string();
    let append = |lines: &[&str]| {
        let file = folder.path().join("events.jsonl");
        fs::write(&file, lines.join("\n")).expect("written");
        let output = projector(&["--data", &data, "events", "append", &file.display().to_string()]);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let versions = |aggregate: &str| text(&projector(&["--data", &data, "events", "show", aggregate]).stdout).lines().count();
    let opened = r#"{"aggregateId":"a","eventType":"AccountOpened","eventData":{"initialDeposit":1}}"#;
    let deposit = r#"{"aggregateId":"a","eventType":"MoneyDeposited","eventData":{"amount":5}}"#;
    for bad in [
        r#"{"aggregateId":"b","eventType":"MoneyDeposited","eventData":[1]}"#,
        r#"{"aggregateId":"","eventType":"MoneyDeposited","eventData":{}}"#,
        r#"{"aggregateId":"b","eventType":"MoneyDeposited","eventData":{},"timestamp":"soon"}"#,
        r#"{"aggregateId":"b","eventType":"MoneyDeposited","eventData":{"amount":1e999}}"#,
        r#"{"aggregateId":"b","eventType":"MoneyDeposited"}"#,
        "not JSON",
    ] {
        let (code, _, said) = append(&[opened, bad]);
        assert!(code == Some(2) && said.contains("events.jsonl:2"), "{bad}: {said}");
        assert!(!Path::new(&data).exists(), "nothing is written: {bad}");
    }
    // Two equal deposits are two events, and the same two the next time.
    let lines = [opened, deposit, deposit];
    assert_eq!(append(&lines).1, "3 events appended\n");
    let (code, out, said) = append(&lines);
    assert_eq!((code, out.as_str()), (Some(0), "0 events appended, 3 already there\n"));
    assert!(said.contains("give it another eventId"), "{said}");
    assert_eq!(append(&[opened, deposit, deposit, deposit]).1, "1 event appended, 3 already there\n");
    assert_eq!(versions("a"), 4);

    // What was appended beside a conflict is said, and the next run continues after it.
    let closed =
        |expected: u64| format!(r#"{{"aggregateId":"a","eventType":"AccountClosed","eventData":{{}},"expectedVersion":{expected}}}"#);
    let other = r#"{"aggregateId":"c","eventType":"AccountOpened","eventData":{"initialDeposit":1},"eventId":"mine"}"#;
    let (code, out, said) = append(&[other, &closed(2)]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(said.contains("events.jsonl:2: conflict on aggregate a") && said.contains("1 event appended, 1 not appended"), "{said}");
    assert_eq!(append(&[other, &closed(4)]).1, "1 event appended, 1 already there\n");
    assert_eq!(append(&[other, &closed(4)]).1, "0 events appended, 2 already there\n");
    assert_eq!((versions("a"), versions("c")), (5, 1));
    let (code, _, said) = append(&[other, other]);
    assert!(code == Some(2) && said.contains("events.jsonl:2: line 1 has the same eventId"), "{said}");
}

#[test]
fn the_same_seed_generates_the_same_files_and_they_replay_to_their_expected_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = |name: &str| folder.path().join(name).display().to_string();
    for (name, more) in [("one", vec![]), ("two", vec![]), ("forum", vec!["--forum"])] {
        let folder = out(name);
        let arguments = [vec!["generate", "--events", "1500", "--aggregates", "40", "--seed", "7", "--out"], vec![&folder], more].concat();
        assert_eq!(projector(&arguments).status.code(), Some(0));
    }
    for file in ["batch-00001.json", "batch-00002.json", "expected.json"] {
        let read = |name: &str| fs::read(folder.path().join(name).join(file)).expect("generated");
        assert_eq!(read("one"), read("two"));
        assert_ne!(read("one"), read("forum"));
    }
    for name in ["one", "forum"] {
        let output = projector(&["replay", &out(name), "--expect", &format!("{}/expected.json", out(name))]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    }
}

/// The figure that the README states: one request for each account that a batch touches. A projection without child rows reads nothing.
#[tokio::test]
async fn a_batch_costs_one_request_for_each_account_it_touches() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().display().to_string();
    assert_eq!(projector(&["generate", "--events", "3000", "--aggregates", "1000", "--out", &out]).status.code(), Some(0));
    let (mut touched, mut batches) = (0_u32, Vec::new());
    for file in
        fs::read_dir(&out).expect("files").map(|entry| entry.expect("an entry").path()).filter(|path| !path.ends_with("expected.json"))
    {
        let batch: Json = serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
        let accounts: BTreeSet<_> =
            batch["Records"].as_array().expect("records").iter().map(|record| record["dynamodb"]["Keys"]["PK"].to_string()).collect();
        touched += u32::try_from(accounts.len()).expect("few");
        batches.push(file);
    }
    batches.sort();
    let world = World::new().await;
    let report = deliver(&world, &read(&batches), 1_000, None).await;
    assert_eq!(report.total.applied, 3_000);
    let Usage { requests, write_units, read_units, .. } = report.usage;
    assert!(requests * 100 <= u64::from(touched) * 101, "{requests} requests for {touched} accounts touched");
    assert!((write_units - f64::from(touched)).abs() < 0.01 && read_units < 0.01, "a unit for each: {write_units} and {read_units}");
}

struct Fixture {
    records: Vec<Box<RawValue>>,
    expected: Everything,
    has_store: bool,
    parked: BTreeSet<(String, String, Option<u64>)>,
}

fn read(paths: &[PathBuf]) -> Vec<Box<RawValue>> {
    let sources = input::sources(paths).expect("sources");
    sources.into_iter().flat_map(|source| source.records().expect("records")).map(|record| record.expect("a record").json).collect()
}

fn load(folder: &Path) -> Fixture {
    #[derive(serde::Deserialize)]
    struct Expected {
        rows: std::collections::BTreeMap<String, Vec<Box<RawValue>>>,
        parked: Vec<Json>,
    }
    let read_expected = fs::read(folder.join("expected.json")).expect("expected rows");
    let Expected { rows, parked } = serde_json::from_slice(&read_expected).expect("expected rows");
    let by_key = |rule: &'static dyn projection_vocabulary::DynProjection| {
        let keyed = rows[rule.name()].iter().map(|row| {
            let Value::Map(mut row) = Value::from_json(row).expect("a value") else { panic!("a row is an object") };
            let key = row.remove(rule.key()).and_then(|key| key.as_text().map(RowId::from)).expect("a key");
            let child = rule.children().and_then(|sort| row.remove(sort)).and_then(|sort| sort.as_text().map(Into::into));
            (RowId { child, ..key }, row)
        });
        (rule.name(), keyed.collect())
    };
    let parked = parked.iter().map(|entry| {
        let text = |name: &str| entry[name].as_str().expect("a text").to_owned();
        (text("projection"), text("aggregateId"), entry["version"].as_u64())
    });
    Fixture {
        records: read(&[folder.to_path_buf()]),
        expected: included().read_models().map(by_key).collect(),
        has_store: folder.join("event-store").exists(),
        parked: parked.collect(),
    }
}

/// Fills the event store with what it held when the fixture's stream was captured.
async fn fill(world: &World, fixture: &Fixture, folder: &Path) {
    let stored = if fixture.has_store { read(&[folder.join("event-store")]) } else { Vec::new() };
    let own = fixture.records.iter().filter(|_| !fixture.has_store);
    for record in stored.iter().chain(own) {
        if let Ok(Some((aggregate, version, item))) = appended_item(record) {
            import_item(world.worker.store(), &aggregate, version, item.into()).await;
        }
    }
}

async fn deliver(world: &World, records: &[Box<RawValue>], batch: usize, shuffle: Option<u64>) -> Report {
    let mut batches: Vec<_> = records.chunks(batch).collect();
    if let Some(seed) = shuffle {
        fastrand::Rng::with_seed(seed).shuffle(&mut batches);
    }
    let mut report = Report::default();
    for batch in batches {
        report.add(world.worker.process(batch, Deadline::NONE).await);
    }
    report
}

#[tokio::test]
async fn fixtures_yield_the_same_rows_in_any_batches_and_order_and_a_second_delivery_applies_nothing() {
    for folder in fixtures() {
        let fixture = load(&folder);
        for (batch, shuffle) in [(1, None), (7, None), (1000, None), (1, Some(1)), (7, Some(2))] {
            let case = format!("{} in batches of {batch}, shuffled {shuffle:?}", folder.display());
            let world = World::with(included()).await;
            fill(&world, &fixture, &folder).await;
            let first = deliver(&world, &fixture.records, batch, shuffle).await;
            assert_eq!(world.rows().await, fixture.expected, "{case}");
            let second = deliver(&world, &fixture.records, batch, shuffle).await;
            assert_eq!(world.rows().await, fixture.expected, "{case}, again");
            assert_eq!((second.total.applied, second.total.healed), (0, 0), "{case}, again");
            let waiting = (second.total.parked, second.total.failed, second.ignored_total());
            assert_eq!(second.total.duplicate + waiting.0 + waiting.1 + waiting.2, second.records, "{case}, again");
            assert_eq!((first.total.failed, first.ignored_total()), (waiting.1, waiting.2), "{case}");
            let parked = world.worker.store().parked().await.expect("parked");
            let parked: BTreeSet<_> =
                parked.into_iter().map(|entry| (entry.projection, entry.aggregate, entry.version.map(|version| version.0))).collect();
            assert_eq!(parked, fixture.parked, "{case}");
        }
    }
}

#[test]
fn a_tripped_breaker_names_the_commonest_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines: Vec<_> = (0..20)
        .map(|at| format!(r#"{{"aggregateId":"a{at}","eventType":"AccountOpened","eventData":{{"initialDeposit":"secret"}}}}"#))
        .collect();
    let (data, file) = (folder.path().join("data.db").display().to_string(), folder.path().join("events.jsonl"));
    fs::write(&file, lines.join("\n")).expect("written");
    let run = |arguments: &[&str]| projector(&[&["--data", &data], arguments].concat());
    assert_eq!(run(&["events", "append", &file.display().to_string()]).status.code(), Some(0));
    let captured = folder.path().join("captured").display().to_string();
    assert_eq!(run(&["capture", "--out", &captured]).status.code(), Some(0));
    let output = run(&["replay", &captured]);
    let (out, said) = (text(&output.stdout), text(&output.stderr));
    assert!(out.contains("nothing is parked"), "{out}");
    let named = "the commonest reason projection=\"account-summary\" aggregates=20 reason=\"cannot read the event's data";
    assert!(said.contains(named) && said.contains("initialDeposit") && !said.contains("secret"), "{said}");
}
