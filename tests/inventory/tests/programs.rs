//! Another team's two programs do for its domain what this repository's do for its own.

use std::process::Command;

#[test]
fn its_projector_generates_and_replays_its_own_domain() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().display().to_string();
    let projector = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_inventory-projector")).args(arguments).output().expect("it runs");
    assert!(projector(&["generate", "--events", "500", "--aggregates", "20", "--out", &out]).status.success());
    let replayed = projector(&["replay", &out, "--output", "json", "--expect", &format!("{out}/expected.json")]);
    assert_eq!(replayed.status.code(), Some(0), "{}", String::from_utf8_lossy(&replayed.stdout));
    let printed: serde_json::Value = serde_json::from_slice(&replayed.stdout).expect("JSON");
    assert_eq!(printed["report"]["projections"]["stock-levels"]["applied"], 500);
    assert_eq!(printed["rows"].as_object().map(serde_json::Map::len), Some(1), "it knows no other projection");
}

#[test]
fn its_lambda_requires_the_table_of_its_own_projection() {
    let started = Command::new(env!("CARGO_BIN_EXE_inventory-lambda")).env_clear().output().expect("it runs");
    let said = String::from_utf8_lossy(&started.stdout).into_owned() + &String::from_utf8_lossy(&started.stderr);
    assert!(!started.status.success());
    assert!(said.contains("STOCK_LEVELS_TABLE is not set"), "{said}");
    assert!(!said.contains("ACCOUNT_SUMMARY"), "{said}");
}
