//! Events and commands of instances as values.

use std::{collections::BTreeSet, fmt::Debug};

use serde::de::DeserializeOwned;

use super::*;
use crate::{
    data, literal,
    process::{Answer, ProcessEvent, Target},
    read_value, to_value, variants_of,
};

/// With numbers that no float holds.
fn exact() -> Value {
    data! { amount: 0.10000000000000000000000000000000000001, list: [1, {"big": 99999999999999999999999999999999999999}], none: null, text: "7" }
}

fn events() -> Vec<ProcessEvent> {
    let command = || Target::Command { kind: "lamp".to_owned(), aggregate: "l".to_owned(), command: exact() };
    let call = || Target::Call { function: "bell".to_owned(), argument: exact() };
    let (name, note, why) = (|| "a".to_owned(), || "note".to_owned(), || "why".to_owned());
    vec![
        ProcessEvent::ProcessReceived { from: "s".to_owned(), version: 7, event_type: "Do".to_owned(), begins: false },
        ProcessEvent::ProcessReceived { from: "s".to_owned(), version: u64::MAX, event_type: "Do".to_owned(), begins: true },
        ProcessEvent::ProcessSent { name: name(), to: command(), undo: None, undoes: None, again: None },
        ProcessEvent::ProcessSent { name: name(), to: call(), undo: Some(command()), undoes: None, again: Some(3) },
        ProcessEvent::ProcessSent { name: name(), to: command(), undo: None, undoes: Some(2), again: None },
        ProcessEvent::ProcessUndoAdded { name: name(), undo: command() },
        ProcessEvent::ProcessAccepted { of: 2, version: Some(9), answer: Value::Null },
        ProcessEvent::ProcessAccepted { of: 2, version: None, answer: exact() },
        ProcessEvent::ProcessRefused { of: 2, message: "no".to_owned(), refusal: exact() },
        ProcessEvent::ProcessTried { of: 2, tries: 1, error: "no answer".to_owned() },
        ProcessEvent::ProcessScheduled { name: name(), after_ms: u64::MAX },
        ProcessEvent::ProcessCancelled { name: name() },
        ProcessEvent::ProcessTimedOut { name: name(), due: Timestamp::parse("2026-01-01T00:00:00Z").expect("valid") },
        ProcessEvent::ProcessFailed { why: why() },
        ProcessEvent::ProcessStuck { of: 2, why: why() },
        ProcessEvent::ProcessRetried { note: note() },
        ProcessEvent::ProcessResumed { undoing: true },
        ProcessEvent::ProcessResumed { undoing: false },
        ProcessEvent::ProcessResolved { note: note() },
        ProcessEvent::ProcessCompleted {},
        ProcessEvent::ProcessUndone {},
    ]
}

#[test]
fn every_event_is_read_as_it_was_written() {
    let mut types = BTreeSet::new();
    for event in events() {
        let (event_type, data) = write_event(&event).expect("written");
        assert_eq!(ProcessEvent::read(&event_type, &data), Ok(Some(event)), "{data}");
        types.insert(event_type);
    }
    assert_eq!(types, variants_of::<ProcessEvent>().iter().map(|name| (*name).to_owned()).collect(), "none is left out");
}

/// Histories are kept for ever.
#[test]
fn events_are_written_with_these_names() {
    let written = |event| write_event(&event).expect("written").1;
    let [received, begun, sent, called] = events().into_iter().take(4).map(written).collect::<Vec<_>>().try_into().expect("four");
    assert_eq!(received, data! { from: "s", version: 7, eventType: "Do" });
    assert_eq!(begun, data! { from: "s", version: 18446744073709551615, eventType: "Do", begins: true });
    let named = |fields: [(&str, Value); 3]| Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into());
    let one = |name: &str, value| Value::Map(BTreeMap::from([(name.to_owned(), value)]));
    let command = one("Command", named([("kind", "lamp".into()), ("aggregate", "l".into()), ("command", exact())]));
    assert_eq!(sent, Value::Map(BTreeMap::from([("name".to_owned(), "a".into()), ("to".to_owned(), command)])));
    let Value::Map(called) = called else { panic!("fields") };
    assert_eq!(called.keys().collect::<Vec<_>>(), ["again", "name", "to", "undo"]);
    let scheduled = write_event(&ProcessEvent::ProcessScheduled { name: "a".to_owned(), after_ms: 5 }).expect("written");
    assert_eq!(scheduled, ("ProcessScheduled".to_owned(), data! { name: "a", afterMs: 5 }));
}

#[test]
fn another_type_is_none_and_other_data_an_error_without_the_data() {
    assert_eq!(ProcessEvent::read("Planned", &data! {}), Ok(None));
    let misfit = ProcessEvent::read("ProcessFailed", &data! { why: 4711 }).expect_err("a number");
    assert!(!misfit.to_string().contains("4711"), "{misfit}");
    assert!(ProcessEvent::read("ProcessSent", &data! { name: "a", to: {"Elsewhere": {}} }).is_err());
}

fn again<T: Serialize + DeserializeOwned + Debug>(value: &T) -> T {
    let written = to_value(value).expect("written");
    let read: T = read_value(&written).expect("read");
    assert_eq!(to_value(&read), Ok(written), "{read:?}");
    read
}

#[test]
fn every_command_of_an_instance_is_read_as_it_was_written() {
    let mut delivered = delivery("s", 7, [call_bell("a")]);
    let Told::Deliver { event } = &mut delivered else { panic!("a delivery") };
    (event.data, event.metadata) = (exact(), Some(exact()));
    let note = || "note".to_owned();
    let answers = [
        Answer::Accepted { version: Some(3), answer: Value::Null },
        Answer::Accepted { version: None, answer: exact() },
        Answer::Refused { message: note(), refusal: exact() },
    ];
    let told = answers.map(|answer| Told::Answer { of: 2, answer });
    let others = [
        delivered,
        Told::Tried { of: 2, number: 1, error: note(), most: 3 },
        Told::TimeOut { name: note(), of: 2 },
        Told::Retry { note: note() },
        Told::Resolve { note: note() },
    ];
    let mut names = BTreeSet::new();
    for told in told.iter().chain(&others) {
        let Value::Map(written) = to_value(told).expect("written") else { panic!("a variant") };
        names.extend(written.into_keys());
        // `Told` cannot be compared; its text can.
        assert_eq!(format!("{:?}", again(told)), format!("{told:?}"));
    }
    assert_eq!(names.len(), variants_of::<Told>().len(), "none is left out");
}

#[test]
fn a_value_within_a_type_is_written_whole_and_exactly() {
    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Holder {
        value: Value,
        maybe: Option<Value>,
        list: Vec<Value>,
        named: BTreeMap<String, Value>,
        kind: Kind,
    }

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    enum Kind {
        One(Value),
        Two(Value, Value),
        Named { value: Value },
    }

    for value in [exact(), Value::Null, true.into(), "text \"7\"".into(), literal("-1E-130"), lists(5), data! {}, Value::List(vec![])] {
        // What is absent and what is null are the same to DynamoDB's readers here.
        let maybe = Some(value.clone()).filter(|value| *value != Value::Null);
        for kind in [Kind::One(value.clone()), Kind::Two(value.clone(), exact()), Kind::Named { value: value.clone() }] {
            let named = BTreeMap::from([("a".to_owned(), value.clone())]);
            let holder = Holder { value: value.clone(), maybe: maybe.clone(), list: vec![value.clone(), exact()], named, kind };
            let written = to_value(&holder).expect("written");
            let Value::Map(members) = &written else { panic!("a struct") };
            assert_eq!((&members["value"], &members["list"]), (&value, &Value::List(vec![value.clone(), exact()])), "as it is");
            assert_eq!(again(&holder), holder);
        }
    }
    // What JSON does not have becomes what it has.
    let set = Value::TextSet(["b", "a"].map(Into::into).into());
    assert_eq!(to_value(&set), Ok(literal(r#"["a", "b"]"#)));
    assert_eq!(to_value(&Value::Bytes(vec![7])), Ok(literal("[7]")));
}
