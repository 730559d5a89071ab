//! `projector command`, and the stories of the domains as their README tells them.

use std::{
    path::Path,
    process::{Command, Output},
};

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value as Json, json};

use super::serve::{serve, stop};
use crate::support::projector::client;

fn projector(folder: &Path, line: &str) -> Output {
    // As a shell reads it.
    let command = format!("{} {}", env!("CARGO_BIN_EXE_projector"), line.trim_start_matches("projector "));
    let mut shell = Command::new("sh");
    shell.current_dir(folder).env_clear().env("COLUMNS", "80").env("PROJECTOR_STORE", "demo.db").args(["-c", &command]);
    shell.output().expect("a shell runs")
}

pub fn run(folder: &Path, line: &str) -> (i32, String, String) {
    let output = projector(folder, line);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

/// Every command of the README's stories does what the README says: a comment after it is in its output.
#[test]
fn the_stories_of_the_readme_run_as_they_are_told() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("projections/README.md")).expect("the README");
    let (_, stories) = readme.split_once("## Three stories").expect("the section");
    let (stories, _) = stories.split_once("\n## ").unwrap_or((stories, ""));
    let folder = tempfile::tempdir().expect("a folder");
    let mut told = 0;
    for line in stories.lines().filter(|line| line.starts_with("projector ")) {
        let (command, expected) = line.split_once(" # ").unwrap_or((line, ""));
        let (code, out, said) = run(folder.path(), command);
        let refused = expected.starts_with("refused");
        assert_eq!(code, i32::from(refused), "{command}\n{out}{said}");
        assert!(format!("{out}{said}").contains(expected), "{command}\nexpected {expected}, found\n{out}{said}");
        told += 1;
    }
    assert!(told > 20, "{told} commands");
}

#[test]
fn a_command_answers_in_json_and_by_its_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let command = |arguments: &str| {
        let (code, out, said) = run(folder.path(), &format!("command account {arguments} --json"));
        (code, serde_json::from_str::<Json>(&out).unwrap_or(Json::Null), said)
    };
    let (code, opened, _) = command(r#"alice '{"Open": {"initialDeposit": 0.1}}' --id r1"#);
    assert_eq!((code, &opened["token"], &opened["state"]["balance"]), (0, &json!("alice@1"), &json!(0.1)));
    assert_eq!((&opened["replayed"], &opened["events"][0]["eventType"]), (&json!(false), &json!("AccountOpened")));
    let (code, again, _) = command(r#"alice '{"Open": {"initialDeposit": 0.1}}' --id r1"#);
    assert_eq!((code, &again["replayed"], &again["events"]), (0, &json!(true), &opened["events"]));
    for (arguments, code, error) in [
        (r#"alice '{"Withdraw": {"amount": 4711}}'"#, 1, "refused"),
        (r#"alice '{"Withdraw": {"amount": 1}}' --id r1"#, 2, "idReused"),
        (r#"alice '{"Withdraw": {"amount": 1}}' --expect 9"#, 1, "conflict"),
        (r#"alice '{"Withdraw": {"amount": "4711"}}'"#, 2, "invalid"),
        (r#"alice '{"Steal": {}}'"#, 2, "invalid"),
        (r#"'' '"Close"'"#, 2, "invalid"),
    ] {
        let (found, answer, said) = command(arguments);
        assert_eq!((found, &answer["error"]), (code, &json!(error)), "{arguments}: {said}");
        assert!(!said.contains("4711") && said.contains("\nerror: "), "{said}");
    }
    let (code, _, said) = command("alice '{\"Open\": 4711'");
    assert!(code == 2 && said.contains("column") && !said.contains("4711"), "{said}");
    let (code, _, said) = run(folder.path(), "command accounts");
    assert!(code == 2 && said.contains("there are: account, transfer, category, topic, user, order, stock, shipment"), "{said}");
}

/// Whether or not its type has braces.
#[test]
fn a_command_without_fields_is_read_as_it_is_listed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, listed, _) = run(folder.path(), "command");
    assert_eq!(code, 0);
    let (mut kind, mut tried) = ("", Vec::new());
    for line in listed.lines() {
        match line.strip_prefix("  ") {
            None => kind = line,
            Some(shape) if shape.ends_with(": {}}") => {
                let (code, out, said) = run(folder.path(), &format!("command {kind} nobody-{} '{shape}'", tried.len()));
                assert!(code == 1 && said.contains("refused: "), "{kind} {shape}: {out}{said}");
                tried.push(shape);
            }
            Some(shape) => assert!(shape.contains('…'), "{kind} {shape}"),
        }
    }
    assert!(tried.contains(&r#"{"Dispatch": {}}"#) && tried.contains(&r#"{"Close": {}}"#), "{tried:?}");
}

#[test]
fn a_file_of_commands_is_carried_out_and_nothing_of_it_is_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    let register = |at: usize| {
        let email = format!("user-{}@example.org", at % 250);
        let command = json!({"Register": {"email": email, "name": "N"}});
        json!({"aggregateId": format!("user-{at}"), "command": command, "id": "register"}).to_string()
    };
    let lines: Vec<_> = (0..300).map(register).collect();
    std::fs::write(folder.path().join("users.jsonl"), lines.join("\n")).expect("written");
    for _ in 0..2 {
        let (code, out, said) = run(folder.path(), "command user --file users.jsonl --json");
        let answers: Vec<Json> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let of = |kind: &str| answers.iter().filter(|answer| answer["error"] == kind).count();
        assert_eq!((code, answers.len(), of("taken")), (1, 300, 50), "{said}");
        assert!(said.ends_with("250 commands carried out, 50 not\n"), "{said}");
        let in_order = answers.iter().enumerate().all(|(at, answer)| answer["aggregateId"] == json!(format!("user-{at}")));
        assert!(in_order, "the answers are in the order of the file");
    }
    std::fs::write(folder.path().join("broken.jsonl"), "{\"aggregateId\": \"u\", \"command\": \"4711\", \"other\": 1}").expect("written");
    let (code, _, said) = run(folder.path(), "command user --file broken.jsonl");
    assert!(code == 2 && said.contains("broken.jsonl:1 is not a valid command") && !said.contains("4711"), "{said}");
}

#[tokio::test]
async fn a_wrong_claim_is_named_without_its_value_and_repaired() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines: Vec<_> = (0..30)
        .map(|at| {
            let command = json!({"Register": {"email": format!("secret-{at}@example.org"), "name": "N"}});
            json!({"aggregateId": format!("user-{at}"), "command": command}).to_string()
        })
        .collect();
    std::fs::write(folder.path().join("users.jsonl"), lines.join("\n")).expect("written");
    assert_eq!(run(folder.path(), "command user --file users.jsonl").0, 0);
    let (code, out, said) = run(folder.path(), "verify-aggregates --repair");
    assert!(code == 0 && out.contains("30 aggregates, 0 snapshots and 30 claims compared"), "{out}{said}");

    let tamper = async |claim: &str, holder: Option<&str>| {
        // By another process: a lock of this one would be inherited by the programs that other tests start meanwhile.
        let (server, url) = serve(&folder.path().join("demo.db").display().to_string()).await;
        let client = client(&url);
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let put = client.put_item().table_name("event-store").item("PK", text(claim)).item("SK", text("CLAIM"));
        if let Some(holder) = holder {
            put.item("aggregateId", text(holder)).send().await.expect("written");
        } else {
            let delete = client.delete_item().table_name("event-store").key("PK", text(claim)).key("SK", text("CLAIM"));
            delete.send().await.expect("deleted");
        }
        stop(server, "-INT").await;
    };
    tamper("CLAIM#email#secret-1@example.org", None).await;
    tamper("CLAIM#email#secret-2@example.org", Some("user-3")).await;
    for (arguments, verdict) in
        [("verify-aggregates", "run again with --repair"), ("verify-aggregates --repair --dry-run", "dry run: nothing was changed")]
    {
        let (code, out, said) = run(folder.path(), arguments);
        let expected = [
            "  user-1: nobody holds its claim: email",
            "  user-2: another aggregate holds its claim: email: user-3",
            "  user-3: holds a claim that is left over: email",
        ];
        assert!(code == 1 && expected.iter().all(|line| out.contains(line)) && out.contains(verdict), "{out}{said}");
        assert!(!out.contains("secret") && !said.contains("secret"), "{out}{said}");
    }
    let (code, out, _) = run(folder.path(), "verify-aggregates --json");
    let answers: Vec<Json> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((code, answers.len(), &answers[3]["total"]["claims"], &answers[3]["total"]["clean"]), (1, 4, &json!(29), &json!(false)));
    assert_eq!(answers[1], json!({"aggregateId": "user-2", "finding": "heldByAnother", "claim": "email", "holder": "user-3"}));
    let (code, out, _) = run(folder.path(), "verify-aggregates --repair");
    assert!(code == 0 && out.contains("repaired: 3 of 3 aggregates"), "{out}");
    assert_eq!(run(folder.path(), "verify-aggregates").0, 0);

    // A program with other deciders would find most claims left over.
    for at in 0..9 {
        tamper(&format!("CLAIM#nickname#secret-{at}"), Some("user-5")).await;
    }
    let (code, out, said) = run(folder.path(), "verify-aggregates --repair");
    assert!(code == 1 && said.contains("nothing is repaired: 9 of 39 claims belong to no state of their holders"), "{out}{said}");
    let (code, out, _) = run(folder.path(), "verify-aggregates --repair --repair-all-claims");
    assert!(code == 0 && out.contains("repaired: 1 of 1 aggregate"), "{out}");
}
