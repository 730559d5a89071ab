//! What `projector` says about itself: the help of every command, and typical errors.
//!
//! `UPDATE_EXPECT=1 cargo test --test end_to_end cli::help` accepts a change of them.

use std::process::{Command, Output, Stdio};

use expect_test::{expect, expect_file};

/// Every command, as one types it.
const COMMANDS: [&str; 42] = [
    "",
    "replay",
    "rows",
    "rows get",
    "rows list",
    "rows query",
    "rows children",
    "events",
    "events append",
    "events import",
    "events show",
    "events correct",
    "events corrections",
    "events by-type",
    "command",
    "capture",
    "parked",
    "parked list",
    "parked show",
    "parked redrive",
    "parked skip",
    "parked discard",
    "process",
    "process list",
    "process show",
    "process retry",
    "process resolve",
    "tick",
    "status",
    "doctor",
    "verify",
    "explain",
    "preview",
    "verify-aggregates",
    "rebuild-projection",
    "catch-up",
    "generate",
    "tables",
    "tables create",
    "serve",
    "dev",
    "man",
];

/// What a command prints where there are 80 columns.
fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_projector"));
    command.args(arguments).env_clear().env("COLUMNS", "80").stdin(Stdio::null()).output().expect("projector runs")
}

fn projector(arguments: &[&str]) -> String {
    String::from_utf8(run(arguments).stdout).expect("UTF-8")
}

fn error(arguments: &[&str]) -> String {
    String::from_utf8(run(arguments).stderr).expect("UTF-8")
}

fn help(command: &str, flag: &str) -> String {
    projector(&command.split_whitespace().chain([flag]).collect::<Vec<_>>())
}

#[test]
fn help_of_every_command() {
    let all = COMMANDS.map(|command| format!("$ projector {}--help\n{}", prefix(command), help(command, "--help")));
    let all = all.join("\n");
    assert!(
        all.lines().all(|line| line.chars().count() <= 80 || ["Example: ", "Usage: "].iter().any(|unwrapped| line.starts_with(unwrapped))),
        "{all}"
    );
    expect_file!["help.txt"].assert_eq(&all);
}

fn prefix(command: &str) -> String {
    if command.is_empty() { String::new() } else { format!("{command} ") }
}

#[test]
fn no_command_is_missing_from_the_list_above() {
    for parent in COMMANDS {
        let help = help(parent, "-h");
        let Some((_, commands)) = help.split_once("Commands:\n") else { continue };
        let lines = commands.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
        let names = lines.filter_map(|line| line.split_whitespace().next());
        for name in names.filter(|name| !["help", "completions"].contains(name)) {
            let command = format!("{}{name}", prefix(parent));
            assert!(COMMANDS.contains(&command.as_str()), "{command}");
        }
    }
}

#[test]
fn every_command_has_one_example_and_a_short_help() {
    for command in COMMANDS.into_iter().filter(|command| !["rows", "events", "parked", "process", "tables"].contains(command)) {
        let help = help(command, "-h");
        assert_eq!(help.matches("Example: projector").count(), 1, "{help}");
        let about = help.lines().next().expect("a line");
        assert!(about.len() <= 80 && !about.ends_with('.'), "{about}");
    }
}

#[test]
fn typical_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data.db").display().to_string();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    projector(&["--data", &data, "tables", "create"]);
    let (junk, events) = (file("junk.json", "this is not JSON"), file("events.jsonl", "{\"aggregateId\":\"a\"}"));
    let commands = [
        vec!["replay", "no-such-file.json"],
        vec!["replay", &junk],
        vec!["rows", "list", "account-summary"],
        vec!["--data", "no-such-file.db", "status"],
        vec!["--data", &data, "rows", "get", "account-sumary", "alice"],
        vec!["--data", &data, "rows", "get", "account-summary", "alice"],
        vec!["--data", &data, "events", "append", &events],
        vec!["--data", &data, "events", "show", "nobody"],
        vec!["--data", &data, "parked", "list", "--projection", "account-sumary"],
        vec!["parked", "redrive"],
        vec!["rebuild-projection", "account-summary", "--resume"],
        vec!["--aws", "serve"],
        vec!["--aws", "status"],
        vec!["--endpoint-url", "ftp://example.com", "status"],
        vec!["doctor", &junk],
        vec!["replay", "x", "--batch-size", "-1"],
        vec!["verfy"],
    ];
    let shown = commands.map(|arguments| format!("$ projector {}\n{}", arguments.join(" "), error(&arguments)));
    let shown = shown.join("\n").replace(&folder.path().display().to_string(), "FOLDER");
    expect![[r#"
        $ projector replay no-such-file.json
        error: cannot open no-such-file.json; check that it exists and that you may read it: No such file or directory (os error 2)

        $ projector replay FOLDER/junk.json
        in memory: nothing is kept when this command ends; to keep it, name a store, such as --data FILE
        error: nothing in FOLDER/junk.json can be read as JSON; give stream records as UTF-8 JSON or JSON Lines, plain or gzipped

        $ projector rows list account-summary
        error: name the store: --data FILE, --endpoint-url URL, --aws, or the variable PROJECTOR_STORE with a file, a URL or `aws`

        $ projector --data no-such-file.db status
        error: no-such-file.db does not exist: check the path; `events import`, `replay` and `tables create` make a new file

        $ projector --data FOLDER/data.db rows get account-sumary alice
        error: no projection `account-sumary` is in this program, which has account-summary, account-statement, forum-counters, topic-posts, users-and-orders, transfers, order-fulfilment, process-status

        $ projector --data FOLDER/data.db rows get account-summary alice
        error: account-summary has no row alice

        $ projector --data FOLDER/data.db events append FOLDER/events.jsonl
        error: FOLDER/events.jsonl:1 is not a valid event to append: see column 19 and `projector events append --help`

        $ projector --data FOLDER/data.db events show nobody
        error: the event store has no aggregate nobody

        $ projector --data FOLDER/data.db parked list --projection account-sumary
        error: no projection `account-sumary` is in this program, which has account-summary, account-statement, forum-counters, topic-posts, users-and-orders, transfers, order-fulfilment, process-status

        $ projector parked redrive
        error: the following required arguments were not provided:
          <--projection <P>|--aggregate <A>|--all>

        Usage: projector parked redrive <--projection <P>|--aggregate <A>|--all>

        For more information, try '--help'.

        $ projector rebuild-projection account-summary --resume
        error: name the store: --data FILE, --endpoint-url URL, --aws, or the variable PROJECTOR_STORE with a file, a URL or `aws`

        $ projector --aws serve
        error: `serve` serves a DynamoDB inside this process: omit --aws and --endpoint-url, and name a file with --data to keep the data

        $ projector --aws status
        error: with --aws the environment names the tables: EVENT_STORE_TABLE is not set; PARKED_TABLE is not set; ACCOUNT_SUMMARY_TABLE is not set; ACCOUNT_STATEMENT_TABLE is not set; FORUM_COUNTERS_TABLE is not set; TOPIC_POSTS_TABLE is not set; USERS_AND_ORDERS_TABLE is not set; TRANSFERS_TABLE is not set; ORDER_FULFILMENT_TABLE is not set; PROCESS_STATUS_TABLE is not set

        $ projector --endpoint-url ftp://example.com status
        error: `ftp://example.com` is not a valid http or https URL in ASCII

        $ projector doctor FOLDER/junk.json
        error: FOLDER/junk.json is not a CloudFormation template: it has no Resources

        $ projector replay x --batch-size -1
        error: invalid value '-1' for '--batch-size <N>': -1 is not in 1..=10000

        For more information, try '--help'.

        $ projector verfy
        error: unrecognized subcommand 'verfy'

          tip: some similar subcommands exist: 'verify-aggregates', 'verify'

        Usage: projector [OPTIONS] <COMMAND>

        For more information, try '--help'.
    "#]].assert_eq(&shown);
}

#[test]
fn completions_and_manual_pages_cover_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = projector(&["completions", shell]);
        assert!(script.contains("rebuild-projection") && script.contains("max-write-units"), "{shell}: {script}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("man1");
    let said = projector(&["man", "--out", path.to_str().expect("UTF-8")]);
    assert!(said.starts_with("manual pages written"), "{said}");
    for page in ["projector", "projector-rows-get", "projector-serve"] {
        let text = std::fs::read_to_string(path.join(format!("{page}.1"))).expect("a page");
        assert!(text.contains(".SH NAME") && text.contains("Example: projector"), "{page}: {text}");
    }
}

#[test]
fn the_version_is_the_packages() {
    let version = projector(&["--version"]);
    assert!(version.starts_with(&format!("projector {}", env!("CARGO_PKG_VERSION"))), "{version}");
}
