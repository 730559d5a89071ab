//! Which store a command works on: named, there, and ours, or one clear sentence at once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::support::projector::fixture;

/// Commands that work on what is there.
const OF_EXISTING: [&str; 23] = [
    "status",
    "verify account-summary",
    "verify account-summary --repair",
    "verify-aggregates --repair",
    "parked list",
    "parked show --projection account-summary --aggregate a",
    "parked redrive --all",
    "process list",
    "process show order-fulfilment/a",
    "process retry order-fulfilment/a",
    "process resolve order-fulfilment/a",
    "tick",
    "catch-up --all",
    "catch-up --all --since 1d",
    "rebuild-projection account-summary",
    "rebuild-projection account-summary --dry-run",
    "rebuild-projection account-summary --into aside",
    "rows list account-summary",
    "rows get account-summary a",
    "rows get account-summary a --fresh",
    "rows query forum-counters topics-by-category a",
    "events show a",
    "events by-type AccountOpened",
];
/// Commands that bring data along.
const OF_FILLING: [&str; 3] = ["events import BANK", "events append FOLDER/events.jsonl", "tables create"];

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        let event = r#"{"aggregateId":"a","eventType":"AccountOpened","eventData":{"initialDeposit":1}}"#;
        fs::write(place.path("events.jsonl"), event).expect("written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_projector"));
        command.env_clear().stdin(Stdio::null()).current_dir(self.0.path());
        let (bank, folder) = (fixture("bank").display().to_string(), self.0.path().display().to_string());
        command.args(arguments.split_whitespace().map(|word| word.replace("BANK", &bank).replace("FOLDER", &folder)));
        command
    }

    fn run(&self, arguments: &str) -> (i32, String, String) {
        result(&self.command(arguments).output().expect("projector runs"))
    }
}

fn result(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().expect("it exits"), text(&output.stdout), text(&output.stderr))
}

/// The only line of an error.
fn sentence(said: &str) -> &str {
    let (line, rest) = said.split_once('\n').unwrap_or((said, ""));
    assert!(line.starts_with("error: ") && rest.is_empty(), "one sentence: {said}");
    line
}

#[test]
fn a_command_that_would_report_on_nothing_or_lose_its_work_needs_a_named_store() {
    let place = Place::new();
    for arguments in OF_EXISTING.iter().chain(&OF_FILLING).chain(&["capture --out FOLDER/captured"]) {
        let (code, out, said) = place.run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments}: {said}");
        for option in ["--data FILE", "--endpoint-url URL", "--aws", "PROJECTOR_STORE"] {
            assert!(sentence(&said).contains(option), "{arguments}: {said}");
        }
    }
    let (code, _, said) = place.run("replay BANK");
    assert_eq!(code, 0);
    assert!(said.starts_with("in memory: nothing is kept"), "{said}");
    assert_eq!(place.files(), ["events.jsonl"]);
}

#[test]
fn the_environment_names_the_store_unless_an_option_does() {
    let place = Place::new();
    let run =
        |store: &str, arguments: &str| result(&place.command(arguments).env("PROJECTOR_STORE", store).output().expect("projector runs"));
    let (code, _, said) = run("bank.db", "replay BANK");
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("store: bank.db, by PROJECTOR_STORE\n"), "{said}");
    let (_, out, said) = run("bank.db", "status --json");
    assert!(out.contains(r#""store":"bank.db""#), "{out}{said}");
    let (code, _, said) = run("bank.db", "--data other.db status");
    assert!(code == 2 && said.contains("other.db does not exist"), "{said}");
    let (code, _, said) = run("http://127.0.0.1:1", "status");
    assert!(code == 2 && said.contains("cannot connect to http://127.0.0.1:1"), "{said}");
    let (code, _, said) = run("aws", "status");
    assert!(code == 2 && said.contains("with --aws the environment names the tables"), "{said}");
    let (code, _, said) = run("", "status");
    assert!(code == 2 && said.contains("name the store"), "{said}");
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("infra/template.yaml").display().to_string();
    assert_eq!(run("aws", &format!("doctor {template}")).0, 0, "a template needs no store");
}

#[test]
fn results_name_the_store_and_its_tables() {
    let place = Place::new();
    for arguments in ["--data bank.db events import BANK", "--data bank.db replay BANK"] {
        assert_eq!(place.run(arguments).0, 0);
    }
    for arguments in
        ["status", "verify account-summary", "parked redrive --all", "catch-up account-summary", "rebuild-projection account-summary"]
    {
        let (_, out, said) = place.run(&format!("--data bank.db {arguments}"));
        let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
        let named = "store bank.db: events in `event-store`, parked in `parked`, rows in `account-s";
        assert!(words.starts_with(named) && words.contains("`account-summary`"), "{arguments}: {out}{said}");
        let (_, out, _) = place.run(&format!("--data bank.db {arguments} --json"));
        let total: Json = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
        let named = total.get("in").or_else(|| total["total"].get("in")).unwrap_or_else(|| panic!("{arguments}: {out}"));
        assert_eq!((&named["store"], &named["eventStore"]), (&"bank.db".into(), &"event-store".into()), "{arguments}");
        assert_eq!(named["rows"]["account-summary"], "account-summary", "{arguments}");
    }
}

#[test]
fn only_commands_that_bring_data_create_a_file() {
    let place = Place::new();
    for arguments in OF_EXISTING {
        let (code, out, said) = place.run(&format!("--data demo.db {arguments}"));
        assert_eq!((code, out.as_str()), (2, ""), "{arguments}: {said}");
        assert!(sentence(&said).starts_with("error: demo.db does not exist"), "{arguments}: {said}");
    }
    assert_eq!(place.files(), ["events.jsonl"], "not even a lock");
    for (number, arguments) in OF_FILLING.iter().chain(&["replay BANK"]).enumerate() {
        let (code, _, said) = place.run(&format!("--data {number}.db {arguments}"));
        assert_eq!(code, 0, "{arguments}: {said}");
        assert!(said.contains(&format!("created {number}.db\n")), "{arguments}: {said}");
        let (_, _, said) = place.run(&format!("--data {number}.db {arguments}"));
        assert!(!said.contains("created"), "{arguments}: {said}");
    }
}

#[test]
fn a_misspelt_table_is_not_an_empty_one() {
    let place = Place::new();
    for arguments in ["--data bank.db events import BANK", "--data bank.db replay BANK"] {
        assert_eq!(place.run(arguments).0, 0);
    }
    for arguments in OF_EXISTING {
        let mut command = place.command(&format!("--data bank.db {arguments}"));
        let (code, _, said) = result(&command.env("EVENT_STORE_TABLE", "typo").output().expect("projector runs"));
        assert_eq!(code, 2, "{arguments}: {said}");
        assert!(sentence(&said).contains("bank.db lacks 1 table, typo"), "{arguments}: {said}");
    }
    assert_eq!(place.run("--data bank.db verify account-summary").0, 0, "and nothing was repaired away");
}

#[test]
fn a_foreign_file_is_one_sentence_and_stays_as_it_is() {
    let place = Place::new();
    fs::write(place.path("empty.db"), "").expect("written");
    fs::write(place.path("notes.db"), "notes ".repeat(1_000)).expect("written");
    fs::create_dir(place.path("folder.db")).expect("a folder");
    let before = place.files();
    for file in ["empty.db", "notes.db", "folder.db"] {
        for arguments in OF_EXISTING.iter().chain(&OF_FILLING).chain(&["replay BANK", "serve --port 0"]) {
            let (code, out, said) = place.run(&format!("--data {file} {arguments}"));
            assert_eq!((code, out.as_str()), (2, ""), "{file}: {arguments}: {said}");
            assert!(sentence(&said).contains("not a store of this program"), "{file}: {arguments}: {said}");
        }
    }
    assert_eq!(place.files(), before);
    assert_eq!(fs::read(place.path("empty.db")).expect("read"), b"");
}

/// Overwrites the middle of a file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    let (from, to) = (bytes.len() / 8, bytes.len());
    bytes[from..to].fill(0x5a);
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_damaged_file_is_told_at_once_with_what_to_do() {
    let place = Place::new();
    for arguments in ["--data bank.db events import BANK", "--data bank.db replay BANK"] {
        assert_eq!(place.run(arguments).0, 0);
    }
    damage(&place.path("bank.db"));
    for arguments in ["status", "verify account-summary", "parked list", "events import BANK", "replay BANK"] {
        let begun = Instant::now();
        let (code, _, said) = place.run(&format!("--data bank.db {arguments}"));
        assert_eq!(code, 2, "{arguments}: {said}");
        assert!(sentence(said.trim_start_matches("reading")).contains("the --data file is damaged: restore it"), "{arguments}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{arguments}");
    }
}

/// A limit on the size of files stands in for a full disk: SQLite meets it in the same place.
#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_stops_a_replay_at_once_with_its_counts() {
    let place = Place::new();
    assert_eq!(place.run("generate --events 4000 --aggregates 50 --out FOLDER/history").0, 0);
    let script =
        format!("trap '' XFSZ; ulimit -f 2000; exec '{}' --data full.db replay history --batch-size 100", env!("CARGO_BIN_EXE_projector"));
    let begun = Instant::now();
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", &script]).env_clear().current_dir(place.0.path()).stdin(Stdio::null()).output().expect("sh runs");
    let (code, out, said) = result(&output);
    assert_eq!(code, 1, "{out}{said}");
    assert!(begun.elapsed() < Duration::from_mins(1), "no request is retried for half a minute");
    assert!(out.contains("records in ") && out.contains("account-summary"), "the counts: {out}{said}");
    assert!(out.contains("the disk with the --data file"), "the cause: {out}{said}");
    assert!(said.contains("stopped after a batch that failed as a whole"), "{said}");
    assert!(said.lines().count() < 10, "{said}");
}

#[test]
fn an_address_at_which_nothing_listens_is_told_in_seconds() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let told = |arguments: &str| {
        let begun = Instant::now();
        let (code, out, said) = place.run(&format!("--endpoint-url {url} {arguments}"));
        assert_eq!((code, out.as_str()), (2, ""), "{arguments}: {said}");
        assert!(sentence(&said).starts_with(&format!("error: cannot connect to {url}: ")), "{arguments}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{arguments}");
    };
    // Side by side: each waits a second for the address.
    std::thread::scope(|scope| {
        for arguments in OF_EXISTING.iter().chain(&OF_FILLING).chain(&["replay BANK"]) {
            scope.spawn(|| told(arguments));
        }
    });
}

#[cfg(unix)]
#[test]
fn files_with_event_data_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let place = Place::new();
    for arguments in
        ["--data bank.db events import BANK", "--data bank.db capture --out captured", "--data bank.db capture --out packed --gzip"]
    {
        assert_eq!(place.run(arguments).0, 0, "{arguments}");
    }
    for file in ["bank.db", "captured/stream-00001.jsonl", "packed/stream-00001.jsonl.gz"] {
        let mode = fs::metadata(place.path(file)).unwrap_or_else(|error| panic!("{file}: {error}")).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}
