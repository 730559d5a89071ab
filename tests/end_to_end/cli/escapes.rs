//! Nothing that an event says commands the terminal of the one who reads it, in any command's output, errors or log.

use projection_vocabulary::{RecordedEvent, Value};
use serde_json::{Value as Json, json};

use crate::support::{
    projector::projector,
    world::{World, account, recorded},
};

/// Clears the screen, colours, sets the title, rings, turns the text round, and forges a line.
const HOSTILE: &str = "\u{1b}[2J\u{1b}[31m..\u{1b}]0;title\u{7}\u{9b}2J\u{202e}\u{2066}\u{200f}\r\nerror: forged\tend";

/// Account ids, types and data that are hostile, and one account that cannot be applied.
fn events() -> Vec<RecordedEvent> {
    let mut events = account(HOSTILE, &["5"]);
    events[0].metadata = Some(Value::from(HOSTILE));
    let forum = recorded([(
        "category",
        "CategoryCreated",
        Value::Map([("name".to_owned(), HOSTILE.into()), ("description".to_owned(), HOSTILE.into())].into()),
    )]);
    let poison =
        recorded([(&*format!("poison {HOSTILE}"), "AccountOpened", Value::Map([("initialDeposit".to_owned(), HOSTILE.into())].into()))]);
    [events, forum, poison].concat()
}

fn check(arguments: &[&str], out: &str, said: &str) {
    let shown = format!("{arguments:?}: {out:?} {said:?}");
    let controls = |char: char| char != '\n' && (char.is_control() || "\u{202e}\u{2066}\u{200f}".contains(char));
    assert!(!out.contains(controls) && !said.contains(controls), "{shown}");
    assert!(!out.lines().chain(said.lines()).any(|line| line.starts_with("error: forged")), "{shown}");
}

#[tokio::test]
async fn no_command_lets_an_event_command_the_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (world, events) = (World::new().await, events());
    let (url, poison) = (world.serve().await, format!("poison {HOSTILE}"));
    world.import(&events[..2]).await;
    let mut records: Vec<Json> =
        crate::support::world::records(&events).iter().map(|record| serde_json::from_str(record.get()).expect("JSON")).collect();
    records.push(json!({ "eventID": HOSTILE, "eventName": HOSTILE, "dynamodb": HOSTILE }));
    std::fs::write(path("stream.json"), json!({ "Records": records }).to_string()).expect("written");
    std::fs::write(path("junk.json"), format!("{{\"{}\": ", HOSTILE.escape_default())).expect("written");
    std::fs::write(path("expected.json"), json!({ "rows": { HOSTILE: [{ "id": HOSTILE }] } }).to_string()).expect("written");
    let line = |expected: u64| {
        json!({ "aggregateId": HOSTILE, "eventType": HOSTILE, "eventData": { HOSTILE: HOSTILE }, "expectedVersion": expected }).to_string()
    };
    std::fs::write(path("conflict.jsonl"), line(7)).expect("written");
    let (stream, junk, expected, conflict) = (path("stream.json"), path("junk.json"), path("expected.json"), path("conflict.jsonl"));
    let commands: Vec<Vec<&str>> = vec![
        vec!["replay", &stream],
        vec!["replay", &stream, "--expect", &expected],
        vec!["replay", &stream, "--output", "json"],
        vec!["replay", &stream, "--output", "jsonl"],
        vec!["replay", &junk],
        vec!["events", "import", &stream],
        vec!["events", "append", &conflict],
        vec!["events", "show", HOSTILE],
        vec!["events", "show", HOSTILE, "--output", "table"],
        vec!["events", "show", "nobody \u{1b}[2J"],
        vec!["events", "by-type", "AccountOpened", "--output", "table"],
        vec!["events", "by-type", "AccountOpened"],
        vec!["rows", "list", "account-summary"],
        vec!["rows", "list", "account-summary", "--all", "--json"],
        vec!["rows", "list", "forum-counters"],
        vec!["rows", "get", "account-summary", HOSTILE],
        vec!["rows", "get", "forum-counters", "category", "--json"],
        vec!["rows", "get", "account-summary", "nobody \u{1b}[2J"],
        vec!["rows", "get", "account-summary", HOSTILE, "nobody \u{1b}[2J", "--fresh"],
        vec!["rows", "get", "account-summary", &poison, "--fresh"],
        vec!["rows", "list", "account-summary", "--limit", "1", "--after", HOSTILE],
        vec!["rows", "query", "forum-counters", HOSTILE, HOSTILE],
        vec!["rows", "query", "forum-counters", "topics-by-category", HOSTILE],
        vec!["rows", "query", "forum-counters", "topics-by-category", HOSTILE, HOSTILE, HOSTILE],
        vec!["parked", "list"],
        vec!["parked", "list", "--json"],
        vec!["parked", "show", "--projection", "account-summary", "--aggregate", &poison],
        vec!["parked", "show", "--projection", "account-summary", "--aggregate", &poison, "--json"],
        vec!["parked", "show", "--projection", "-", "--aggregate", "nobody \u{1b}[2J"],
        vec!["parked", "redrive", "--all"],
        vec!["parked", "redrive", "--all", "--json"],
        vec!["parked", "redrive", "--aggregate", "nobody \u{1b}[2J"],
        vec!["status"],
        vec!["status", "--json"],
        vec!["verify", "account-summary"],
        vec!["verify", "account-summary", "--json"],
        vec!["verify", "account-summary", "--repair"],
        vec!["explain", HOSTILE],
        vec!["explain", HOSTILE, "--event-data"],
        vec!["explain", HOSTILE, "--json", "--event-data"],
        vec!["explain", "category", "--projection", "forum-counters"],
        vec!["explain", &poison],
        vec!["explain", &poison, "--json"],
        vec!["explain", "nobody \u{1b}[2J"],
        vec!["explain", HOSTILE, "--projection", HOSTILE],
        vec!["explain", HOSTILE, "--at", HOSTILE],
        vec!["explain", HOSTILE, "--projection", "account-summary", "--attribute", HOSTILE],
        vec!["preview", "account-summary"],
        vec!["preview", "account-summary", "--json"],
        vec!["preview", HOSTILE],
        vec!["verify-aggregates"],
        vec!["verify-aggregates", "--json"],
        vec!["verify-aggregates", "--repair"],
        vec!["catch-up", "--all"],
        vec!["rebuild-projection", "account-summary"],
        vec!["rebuild-projection", "account-summary", "--into", "aside"],
        vec!["rebuild-projection", HOSTILE],
        vec![HOSTILE],
        vec!["status", "--option", HOSTILE],
        vec!["replay", HOSTILE],
    ];
    let mut seen = String::new();
    for arguments in commands {
        let arguments = [&["--endpoint-url", &url][..], &arguments].concat();
        let (_, out, said) = projector(&arguments).await;
        check(&arguments, &out, &said);
        for line in out.lines().filter(|line| line.starts_with("{\"")) {
            serde_json::from_str::<Json>(line).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {line}"));
        }
        seen += &(out + &said);
    }
    assert!(seen.matches(r"\u001b[2J").count() > 30, "the id is shown, escaped: {seen}");
    assert!(seen.contains(r"\u202e") && seen.contains("WARN"), "{seen}");
    let (_, out, _) = projector(&["--endpoint-url", &url, "events", "show", HOSTILE]).await;
    let first: Json = serde_json::from_str(out.lines().next().expect("an event")).expect("JSON");
    assert_eq!(first["aggregateId"], HOSTILE, "and means what it is");
}
