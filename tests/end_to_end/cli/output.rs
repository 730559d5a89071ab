//! Where the output goes wrong: a reader that has gone, a full disk.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::support::projector::fixture;

/// A store in a file, with the bank in it and a poisoned account.
struct Prepared {
    folder: TempDir,
}

impl Prepared {
    fn new() -> Self {
        let prepared = Self { folder: tempfile::tempdir().expect("a folder") };
        let poisoned = r#"{"aggregateId":"poisoned","eventType":"AccountOpened","eventData":{}}"#;
        fs::write(prepared.path("poisoned.jsonl"), poisoned).expect("written");
        for arguments in ["events import BANK", "replay BANK", "events append FOLDER/poisoned.jsonl", "catch-up account-summary"] {
            let code = prepared.command(arguments).output().expect("projector runs").status.code();
            assert_eq!(code, Some(i32::from(arguments.starts_with("catch-up"))), "{arguments}");
        }
        prepared
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_projector"));
        command.env_clear().stdin(Stdio::null()).args(["--data", &self.path("data.db")]);
        let bank = fixture("bank").display().to_string();
        command.args(arguments.split_whitespace().map(|word| word.replace("BANK", &bank).replace("FOLDER", &self.path(""))));
        command
    }
}

/// Runs a command whose standard output nobody reads.
fn unread(command: &mut Command) -> Output {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    command.stdout(writer).stderr(Stdio::piped()).spawn().expect("projector runs").wait_with_output().expect("it ends")
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Commands that print, with their exit codes. None of them changes the store, so that each can run again.
const COMMANDS: [(&str, i32); 31] = [
    ("--help", 0),
    ("--version", 0),
    ("replay --help", 0),
    ("replay BANK", 0),
    ("replay BANK --output json", 0),
    ("replay BANK --output jsonl", 0),
    ("rows list account-summary", 0),
    ("rows list account-summary --json", 0),
    ("rows get account-summary account-alice", 0),
    ("rows get account-summary account-alice --fresh --json", 0),
    ("rows query forum-counters topics-by-category none", 0),
    ("events import BANK", 0),
    ("events show account-alice", 0),
    ("events show account-alice --output table", 0),
    ("events by-type MoneyDeposited", 0),
    ("capture --out FOLDER/NEW", 0),
    ("parked list", 0),
    ("parked show --projection account-summary --aggregate poisoned", 0),
    ("parked redrive --all", 1),
    ("status", 1),
    ("verify account-summary", 1),
    ("explain account-alice", 0),
    ("explain account-alice --json", 0),
    ("explain poisoned", 1),
    ("preview account-summary", 0),
    ("rebuild-projection account-summary", 1),
    ("catch-up account-summary --json", 1),
    ("generate --events 10 --out FOLDER/generated", 0),
    ("tables create", 0),
    ("completions bash", 0),
    ("man --out FOLDER/man", 0),
];

#[test]
fn a_reader_that_has_gone_changes_no_exit_code_and_causes_no_error() {
    let prepared = Prepared::new();
    for (number, (arguments, code)) in COMMANDS.into_iter().enumerate() {
        let arguments = arguments.replace("NEW", &format!("captured-{number}"));
        let output = unread(&mut prepared.command(&arguments));
        assert_eq!(output.status.code(), Some(code), "{arguments}: {}", errors(&output));
        let said = errors(&output).to_lowercase();
        assert!(!said.contains("panic") && !said.contains("pipe"), "{arguments}: {said}");
    }
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_projector"));
    let output = unread(doctor.arg("doctor").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("infra/template.yaml")));
    assert_eq!((output.status.code(), errors(&output)), (Some(0), String::new()));
}

#[test]
fn the_work_is_done_although_nobody_reads_the_output() {
    let prepared = Prepared::new();
    let corrected = r#"{"aggregateId":"late","eventType":"AccountOpened","eventData":{"initialDeposit":5}}"#;
    fs::write(prepared.path("late.jsonl"), corrected).expect("written");
    for arguments in
        ["events append FOLDER/late.jsonl", "rebuild-projection account-summary", "generate --events 2000 --out FOLDER/generated"]
    {
        unread(&mut prepared.command(arguments));
    }
    let row = prepared.command("rows get account-summary late --json").output().expect("projector runs");
    assert!(String::from_utf8_lossy(&row.stdout).contains(r#""balance":5"#), "{}", errors(&row));
    assert!(Path::new(&prepared.path("generated/expected.json")).exists());
}

/// Both outputs are gone, and there are things to say on either.
#[test]
fn a_closed_error_output_is_no_panic() {
    let prepared = Prepared::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let malformed = fixture("malformed").display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_projector"));
    let command = command.env_clear().stdin(Stdio::null()).args(["-vv", "replay", &malformed]);
    let status = command.stdout(writer.try_clone().expect("another")).stderr(writer).status().expect("projector runs");
    assert_eq!(status.code(), Some(1));
    drop(prepared);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one_sentence_and_exit_code_2() {
    let prepared = Prepared::new();
    for (number, (arguments, _)) in COMMANDS.into_iter().enumerate() {
        let arguments = arguments.replace("NEW", &format!("full-{number}"));
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let output = prepared.command(&arguments).stdout(full).stderr(Stdio::piped()).spawn().expect("projector runs");
        let output = output.wait_with_output().expect("it ends");
        let said = errors(&output);
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert!(last.starts_with("error: cannot write to the standard output: No space left on device"), "{arguments}: {said}");
    }
}

#[test]
fn quiet_shows_errors_only_and_verbose_shows_the_log() {
    let replay = |flag: Option<&str>, fixture_name: &str| {
        let path = fixture(fixture_name).display().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_projector"));
        let output = command.env_clear().stdin(Stdio::null()).args(flag).args(["replay", &path]).output().expect("projector runs");
        errors(&output)
    };
    assert_eq!(replay(Some("--quiet"), "malformed"), "");
    assert!(replay(None, "malformed").contains("record parked"), "a warning");
    assert!(replay(Some("-v"), "bank").contains("batch"), "a line for each batch");
}

#[test]
fn nothing_is_coloured_where_no_terminal_is() {
    let prepared = Prepared::new();
    for arguments in ["--help", "status", "parked list", "rows list account-summary", "-v replay BANK", "no-such-command"] {
        let output = prepared.command(arguments).output().expect("projector runs");
        assert!(![output.stdout, output.stderr].concat().contains(&0x1b), "{arguments}");
    }
}
