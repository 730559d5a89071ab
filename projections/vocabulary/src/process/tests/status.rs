//! The rows that list instances and timers.

use super::*;
use crate::{
    DynProjection as _, Rows, Value,
    process::{ProcessStatus, Status},
    testkit::given,
};

/// The rows of an instance's history, after the test kit has tried every split of it into batches.
fn rows(run: &Run<Script>) -> String {
    let known = ProcessStatus.event_types();
    let rule: &'static ProcessStatus = &ProcessStatus;
    let all = run.events().iter().fold(given(rule), |given, event| match known.iter().find(|name| **name == &*event.event_type) {
        Some(name) => given.event("script/i", name, event.data.clone()),
        None => given.skipped_event("script/i", "Planned"),
    });
    all.rows()
}

/// What the rows say after each event must not be behind what the instance knows.
#[track_caller]
fn agree(run: &Run<Script>) {
    let mut folded = Rows::default();
    for event in run.events() {
        folded.fold(&ProcessStatus, event).expect("a valid event");
    }
    let home = folded.home.values().next().expect("one instance");
    let status = home.own.get("status").and_then(Value::as_text).unwrap_or("new");
    assert_eq!(status, run.status(), "{}", run.timeline());
    let timers = folded.children.values().flatten().map(|(name, row)| (name.to_string(), row.get("due").map(ToString::to_string)));
    let expected: Vec<_> = run.instance().timers().iter().map(|(name, (_, due))| (name.clone(), Some(due.as_str().to_owned()))).collect();
    assert_eq!(timers.collect::<Vec<_>>(), expected, "{}", run.timeline());
}

#[test]
fn an_instance_is_a_row_with_its_timers_beneath_it() {
    let run = run([when("timed out t", [Out::Fail]), undoable("a"), call_bell("b"), after("t", 60), after("u", 90)]);
    assert_eq!(
        rows(&run),
        "script/i: process=script received=1 sent=2 startedAt=2026-01-01T00:00:01.000Z status=open version=6\n\
         script/i/t: due=2026-01-01T00:01:05.000Z startedBy=5 timersOf=script\n\
         script/i/u: due=2026-01-01T00:01:36.000Z startedBy=6 timersOf=script\n"
    );
    let stuck = run.accepted("a").unanswered("b").timed_out("t");
    assert_eq!(
        rows(&stuck),
        "script/i: accepted=1 process=script received=1 sent=2 startedAt=2026-01-01T00:00:01.000Z status=stuck \
         stuckAt=2026-01-01T00:00:13.000Z stuckBecause=what was sent before it failed has no answer yet timedOut=1 version=13 why=asked to\n"
    );
    let undone = stuck.retried().refused("b", "no").accepted("a");
    let undone = rows(&undone);
    assert!(undone.contains(" endedAt=2026-01-01T00:00:20.000Z ") && undone.contains(" status=undone "), "{undone}");
    assert!(undone.contains("accepted=2 ") && undone.contains(" refused=1 sent=4 "), "{undone}");
}

#[test]
fn an_instance_that_only_received_has_no_status() {
    let idle = then(run([]), [cancel("t")]);
    assert_eq!(rows(&idle), "script/i: received=2 version=2\n");
    agree(&idle);
    agree(&then(idle, [undoable("a")]));
}

/// Walks at random: the row never shows another status or other timers than the instance has.
#[test]
fn rows_and_instances_agree_whatever_happens() {
    let mut random = 7_u64;
    let mut pick = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).expect("small") % bound
    };
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let mut run = run([]);
        for _ in 0..25 {
            let name = ["a", "b", "c"][pick(3)];
            let out = match pick(40) {
                0..8 => undoable(name),
                8..16 => call_bell(name),
                16..20 => send_to_lamp(name),
                20..28 => after(name, 60),
                28..32 => cancel(name),
                32..36 => Out::UndoBy(name.to_owned()),
                36 | 37 => Out::Fail,
                38 => Out::Complete,
                _ => when("accepted a", [call_bell("b"), Out::Fail]),
            };
            let waiting = run.instance().requests().iter().filter(|(_, request)| request.outcome == crate::process::Outcome::Waiting);
            let waiting: Vec<_> = waiting.map(|(of, request)| (*of, request.tries + 1)).collect();
            let told = match (pick(10), waiting.first().map(|_| waiting[pick(waiting.len())])) {
                (0..3, Some((of, _))) => {
                    Told::Answer { of, answer: crate::process::Answer::Accepted { version: None, answer: Value::Null } }
                }
                (3, Some((of, _))) => {
                    Told::Answer { of, answer: crate::process::Answer::Refused { message: "no".to_owned(), refusal: Value::Null } }
                }
                (4 | 5, Some((of, number))) => Told::Tried { of, number, error: "no answer".to_owned(), most: 2 },
                (6, _) => match run.instance().timers().iter().next() {
                    Some((name, (of, _))) => Told::TimeOut { name: name.clone(), of: *of },
                    None => continue,
                },
                (7, _) => Told::Retry { note: String::new() },
                (8, _) if pick(4) == 0 => Told::Resolve { note: String::new() },
                _ => {
                    let version = run.instance().received().get("s").copied().unwrap_or_default() + 1;
                    delivery("s", version, [out])
                }
            };
            _ = run.try_tell(&told);
            agree(&run);
            met.insert(run.instance().status());
        }
    }
    assert_eq!(met.len(), Status::ALL.len(), "only {met:?} were met");
}

#[test]
fn statuses_have_the_names_that_rows_have() {
    assert_eq!(Status::ALL.map(|status| status.to_string()), ["new", "open", "undoing", "stuck", "completed", "undone", "resolved"]);
}
