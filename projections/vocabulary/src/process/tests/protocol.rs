//! What follows what.

use super::*;
use crate::{
    DynProjection as _, RecordedEvent, Undecided, Version, data,
    process::{Answer, DynProcess as _, Outcome, ProcessRule, Status, decide, evolve},
};

fn accepted(of: u64) -> Told {
    Told::Answer { of, answer: Answer::Accepted { version: None, answer: Value::Null } }
}

fn refused(of: u64) -> Told {
    Told::Answer { of, answer: Answer::Refused { message: "no".to_owned(), refusal: Value::Null } }
}

fn tried(of: u64, number: u32, most: u32) -> Told {
    Told::Tried { of, number, error: "no answer".to_owned(), most }
}

/// The version of the newest request with this name.
fn newest(run: &Run<Script>, name: &str) -> u64 {
    *run.instance().requests().iter().rfind(|(_, request)| request.name == name).expect("it was sent").0
}

#[test]
fn an_event_is_received_once_and_none_after_a_newer_one() {
    let run = run([undoable("a")]).tell(&delivery("other", 7, [undoable("b")]));
    assert_eq!(story(&run), "sent a, sent b");
    for (aggregate, version) in [("s", 1), ("other", 7), ("other", 6), ("other", 1)] {
        ignored(&run, &delivery(aggregate, version, [undoable("again")]));
    }
    assert_eq!(story(&run.tell(&delivery("other", 8, [undoable("c")]))), "sent a, sent b, sent c");
}

#[test]
fn an_answer_counts_once_and_only_if_its_request_waits() {
    let run = run([when("accepted a", [undoable("b")]), Out::UndoBy("u".to_owned()), undoable("a")]);
    let (a, u) = (newest(&run, "a"), newest(&run, "u"));
    for nobody_sent in [0, 1, u, 99] {
        ignored(&run, &accepted(nobody_sent));
        ignored(&run, &refused(nobody_sent));
        ignored(&run, &tried(nobody_sent, 1, 1));
    }
    let run = run.tell(&accepted(a));
    assert_eq!(story(&run), "would undo u, sent a, accepted a, sent b");
    for again in [accepted(a), refused(a), tried(a, 1, 1)] {
        ignored(&run, &again);
    }
    let run = run.refused("b", "no");
    ignored(&run, &accepted(newest(&run, "b")));
}

#[test]
fn what_was_done_is_undone_in_reverse_one_at_a_time_once_all_is_answered() {
    let sent = [undoable("a"), undoable("b"), send_to_lamp("kept"), undoable("c"), undoable("refused")];
    let run = run([when("refused refused", [Out::Fail])].into_iter().chain(sent).collect::<Vec<_>>());
    let run = run.accepted("kept").accepted("a").refused("refused", "no");
    let before = "sent a, sent b, sent kept, sent c, sent refused, accepted kept, accepted a, refused refused: no, failed: asked to";
    assert_eq!((story(&run).as_str(), run.status()), (before, "undoing"));
    // What is accepted only now is undone, too, and in its place: the order is that of sending.
    let run = run.accepted("c");
    assert_eq!(story(&run), format!("{before}, accepted c"));
    let run = run.accepted("b");
    assert_eq!(story(&run), format!("{before}, accepted c, accepted b, sent the undo of c"));
    let run = run.accepted("c").accepted("b");
    assert!(
        story(&run).ends_with("sent the undo of c, accepted the undo of c, sent the undo of b, accepted the undo of b, sent the undo of a")
    );
    assert_eq!(run.status(), "undoing");
    let run = run.accepted("a");
    assert!(story(&run).ends_with("accepted the undo of a, undone"), "{}", story(&run));
    assert_eq!((run.status(), run.instance().why()), ("undone", Some("asked to")));
    let outcomes: Vec<_> = run.instance().requests().values().filter(|of| of.undoes.is_none()).map(|of| of.outcome).collect();
    assert_eq!(outcomes, [Outcome::Undone, Outcome::Undone, Outcome::Accepted, Outcome::Undone, Outcome::Refused]);
}

#[test]
fn a_request_without_undo_stays() {
    let run = run([send_to_lamp("a"), when("accepted a", [Out::Fail])]).accepted("a");
    assert_eq!((story(&run).as_str(), run.status()), ("sent a, accepted a, failed: asked to, undone", "undone"));
}

#[test]
fn what_was_only_to_be_undone_is_undone_in_its_turn() {
    let undo_by = |name: &str| Out::UndoBy(name.to_owned());
    let run = then(run([undoable("a"), undo_by("first")]), [undo_by("last"), undoable("sent with it and dropped"), Out::Fail]);
    assert_eq!(story(&run), "would undo first, sent a, would undo last, failed: asked to");
    let run = run.accepted("a").accepted("last").accepted("a").accepted("first");
    assert!(
        story(&run).ends_with(
            "accepted a, sent the undo of last, accepted the undo of last, sent the undo of a, accepted the undo of a, \
             sent the undo of first, accepted the undo of first, undone"
        ),
        "{}",
        story(&run)
    );
}

#[test]
fn a_refused_undo_is_stuck_until_it_is_retried_or_resolved() {
    let stuck = then(run([undoable("a"), undoable("b")]), [Out::Fail]).accepted("a").accepted("b").refused("b", "closed");
    assert_eq!(stuck.status(), "stuck");
    assert!(story(&stuck).ends_with("refused the undo of b: closed, stuck: the undo of `b` was refused: closed"), "{}", story(&stuck));

    let first = newest(&stuck, "b");
    let retried = stuck.clone().retried();
    assert_eq!(retried.status(), "undoing");
    assert!(story(&retried).ends_with("retried: retried, sent the undo of b again, no longer stuck"), "{}", story(&retried));
    let requests = retried.instance().requests();
    assert_eq!((requests[&first].outcome, &requests[&first].to), (Outcome::Repeated, &requests[&newest(&retried, "b")].to));
    ignored(&retried, &accepted(first));
    let twice = retried.clone().refused("b", "closed").retried().accepted("b").accepted("a");
    assert_eq!(twice.status(), "undone");
    assert_eq!(retried.accepted("b").accepted("a").status(), "undone");

    let resolved = stuck.resolved();
    assert_eq!(resolved.status(), "resolved");
    assert!(story(&resolved).ends_with("resolved: resolved"));
}

#[test]
fn only_what_is_stuck_is_retried_or_resolved() {
    let all = [
        (run([]), "new"),
        (run([undoable("a")]), "open"),
        (then(run([undoable("a")]), [Out::Fail]), "undoing"),
        (run([Out::Complete]), "completed"),
        (run([Out::Fail]), "undone"),
        (run([call_bell("a")]).unanswered("a").resolved(), "resolved"),
    ];
    for (mut run, status) in all {
        assert_eq!(run.status(), status);
        for told in [Told::Retry { note: String::new() }, Told::Resolve { note: String::new() }] {
            let refusal = run.try_tell(&told).expect_err("it is not stuck").to_string();
            assert_eq!(refusal, format!("the instance is not stuck but {status}"));
        }
    }
}

#[test]
fn a_call_that_fails_too_often_is_stuck_and_repeated_with_the_same_key() {
    let run = run([call_bell("a"), when("accepted a", [Out::Complete])]);
    let a = newest(&run, "a");
    let run = run.tell(&tried(a, 1, 3)).tell(&tried(a, 2, 3));
    assert_eq!((run.status(), run.instance().requests()[&a].tries), ("open", 2));
    ignored(&run, &tried(a, 1, 3));
    ignored(&run, &tried(a, 2, 3));
    let run = run.tell(&tried(a, 3, 3));
    assert_eq!(run.status(), "stuck");
    assert!(story(&run).ends_with("stuck: what became of `a` is unknown after 3 tries: no answer"), "{}", story(&run));
    ignored(&run, &tried(a, 4, 3));

    let again = run.clone().retried();
    let second = &again.instance().requests()[&newest(&again, "a")];
    assert_eq!((second.key, second.tries, again.status()), (a, 0, "open"));
    let third = again.clone().unanswered("a").retried();
    assert_eq!(third.instance().requests()[&newest(&third, "a")].key, a);
    assert_eq!(third.answered("a", "done".into()).status(), "completed");

    // An answer may still come from a try that was given up.
    let late = run.tell(&accepted(a));
    assert_eq!(late.status(), "completed");
}

#[test]
fn an_answer_after_all_ends_being_stuck() {
    let run = run([call_bell("a"), call_bell("b")]).unanswered("a").unanswered("b").tell(&accepted(2));
    assert_eq!(run.status(), "stuck");
    let run = run.tell(&refused(3));
    assert_eq!(run.status(), "open");
    assert!(story(&run).ends_with("accepted a, refused b: no, no longer stuck"), "{}", story(&run));
    let undoing = then(super::run([call_bell("a")]).unanswered("a"), [Out::Fail]).tell(&accepted(2));
    assert!(story(&undoing).ends_with("accepted a, no longer stuck, sent the undo of a"), "{}", story(&undoing));
    assert_eq!(undoing.status(), "undoing");
}

#[test]
fn what_is_unknown_is_never_undone() {
    let run = then(run([undoable("a"), call_bell("b")]).accepted("a").unanswered("b"), [Out::Fail]);
    assert!(
        story(&run).ends_with("failed: asked to, stuck: what was sent before it failed has no answer yet"),
        "the last that rows are told is that it is stuck: {}",
        story(&run)
    );
    assert_eq!(run.status(), "stuck");
    let run = run.retried();
    assert!(story(&run).ends_with("retried: retried, sent b again, no longer stuck"), "{}", story(&run));
    // What failed before it was stuck waits as well.
    let refused = run.clone().refused("b", "no");
    assert!(story(&refused).ends_with("refused b: no, sent the undo of a"), "{}", story(&refused));
    assert_eq!(refused.accepted("a").status(), "undone");
    let accepted = run.accepted("b");
    assert!(story(&accepted).ends_with("accepted b, sent the undo of b"), "{}", story(&accepted));
    assert_eq!(accepted.accepted("b").accepted("a").status(), "undone");
}

#[test]
fn what_has_ended_is_not_stuck_any_more() {
    let calls = || [call_bell("a"), call_bell("b")];
    let resolved = run(calls()).unanswered("a").resolved().unanswered("b");
    assert_eq!(resolved.status(), "resolved");
    assert!(story(&resolved).ends_with("resolved: resolved, no answer to b, try 1: no answer"), "{}", story(&resolved));
    let completed = then(run(calls()), [Out::Complete]).unanswered("a").refused("b", "no");
    assert!(story(&completed).ends_with("completed, no answer to a, try 1: no answer, refused b: no"), "{}", story(&completed));
    let undo = then(run([undoable("a")]), [Out::Fail]).accepted("a");
    let of = newest(&undo, "a");
    let undo = undo.tell(&tried(of, 1, 1));
    assert!(story(&undo).ends_with("stuck: what became of the undo of `a` is unknown after 1 try: no answer"), "{}", story(&undo));
    let undo = undo.resolved().tell(&refused(of));
    assert!(story(&undo).ends_with("resolved: resolved, refused the undo of a: no"), "{}", story(&undo));
}

#[test]
fn a_timer_runs_out_once_unless_it_was_stopped_or_replaced() {
    let out = |of| Told::TimeOut { name: "t".to_owned(), of };
    let run = run([when("timed out t", [send_to_lamp("a")]), after("t", 60)]);
    assert_eq!(run.instance().timers()["t"].1.as_str(), "2026-01-01T00:01:02.000Z", "a minute after the event was received");
    let (first, _) = run.instance().timers()["t"];
    for wrong in [out(first + 1), out(0), Told::TimeOut { name: "other".to_owned(), of: first }] {
        ignored(&run, &wrong);
    }
    let ran_out = run.clone().tell(&out(first));
    assert_eq!(story(&ran_out), "timer t runs out after 60 s, timer t ran out, sent a");
    ignored(&ran_out, &out(first));

    let stopped = then(run.clone(), [cancel("t"), cancel("never started")]);
    assert_eq!(story(&stopped), "timer t runs out after 60 s, timer t stopped");
    ignored(&stopped, &out(first));

    for replacing in [vec![after("t", 5)], vec![after("t", 5), cancel("t")]] {
        let replaced = then(run.clone(), replacing);
        ignored(&replaced, &out(first));
        assert!(story(&replaced.timed_out("t")).ends_with("timer t runs out after 5 s, timer t ran out, sent a"));
    }
}

#[test]
fn an_end_stops_all_timers_and_starts_none() {
    for (end, tail) in [(Out::Complete, "completed"), (Out::Fail, "failed: asked to, undone")] {
        let ended = then(run([after("t", 60), after("u", 60)]), [after("late", 5), end]);
        let starts = "timer t runs out after 60 s, timer u runs out after 60 s";
        assert_eq!(story(&ended), format!("{starts}, timer t stopped, timer u stopped, {tail}"));
        ignored(&ended, &Told::TimeOut { name: "t".to_owned(), of: 2 });
    }
    let stuck = run([call_bell("a"), after("t", 60)]).unanswered("a").resolved();
    assert!(story(&stuck).ends_with("timer t stopped, resolved: resolved"));
}

#[test]
fn a_timer_that_could_have_no_row_is_refused() {
    for name in ["", " t", "!", &"t".repeat(1_025)] {
        let refusal = process(Script).refusal("s", "Do", data_of([after(name, 1)]));
        assert_eq!(refusal, "the name of a timer has 1 to 1,024 bytes and does not begin with a space or `!`");
    }
    assert_eq!(run([after(&"t".repeat(1_024), u64::MAX)]).instance().timers().len(), 1, "a timer may run out never");
}

#[test]
fn what_arrives_after_a_failure_or_an_end_is_received_and_not_decided_about() {
    let fail = || then(run([undoable("a")]), [Out::Fail]);
    for ended in [run([Out::Complete]), run([Out::Fail]), fail(), fail().accepted("a").refused("a", "no").resolved()] {
        let (before, status) = (story(&ended), ended.status());
        let later = then(ended.clone(), [send_to_lamp("late"), Out::Panic]);
        assert_eq!((story(&later), later.status()), (before, status));
        assert_eq!(later.events().len(), ended.events().len() + 1, "it is received");
        assert_eq!(later.instance().received()["s"], ended.instance().received()["s"] + 1);
    }
    // Requests of the outputs that complete are sent, and their answers recorded.
    let run = run([when("accepted a", [send_to_lamp("late")]), send_to_lamp("a"), Out::Complete]).accepted("a");
    assert_eq!(story(&run), "sent a, completed, accepted a");
}

#[test]
fn facts_come_first_in_their_order() {
    let run = run([send_to_lamp("a"), when("x", [Out::Complete]), after("t", 1), when("y", []), when("x", [])]);
    let types: Vec<_> = run.events().iter().map(|event| &*event.event_type).collect();
    assert_eq!(types, ["ProcessReceived", "Planned", "Planned", "Planned", "ProcessSent", "ProcessScheduled"]);
    assert_eq!(*run.instance().state(), Plan::from([("x".to_owned(), vec![]), ("y".to_owned(), vec![])]), "the last one counts");
    assert_eq!(newest(&run, "a"), 5);
}

#[test]
fn a_command_must_be_of_a_kind_that_the_process_names() {
    for undo in [false, true] {
        let refusal = process(Script).refusal("s", "Do", data_of([Out::Stray(undo)]));
        assert_eq!(refusal, "the process commands the kind `stray`, which its COMMANDED does not name");
    }
}

#[test]
fn a_request_that_is_too_deep_to_be_an_event_is_refused() {
    // The event, its `to` and the target stand around it.
    assert_eq!(story(&run([Out::Deep(29)])), "sent deep");
    let refusal = process(Script).refusal("s", "Do", data_of([Out::Deep(30)]));
    assert_eq!(refusal, "a request or an answer is nested too deep: with what is around it, more than 32 levels");
    // What is delivered is not written.
    let mut told = delivery("s", 1, []);
    let Told::Deliver { event } = &mut told else { panic!("a delivery") };
    let Value::Map(fields) = &mut event.data else { panic!("fields") };
    fields.insert("ignored".to_owned(), lists(31));
    crate::to_value(&told).expect("any event can be delivered");
}

#[test]
fn a_refusal_or_a_panic_takes_nothing() {
    let panicked = Refusal::Panicked.to_string();
    let run = run([undoable("a")]);
    for (out, message) in [(Out::Refuse, "no"), (Out::Panic, &panicked), (Out::PanicLater, &panicked)] {
        let mut after = run.clone();
        let refused = after.try_tell(&delivery("s", 2, [undoable("b"), out]));
        let Err(Undecided::Refused { message: found, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!((found.as_str(), after.timeline()), (message, run.timeline()));
    }
    assert_eq!(then(run, [undoable("c")]).instance().waiting("c"), 1, "all else goes on");
}

fn event(version: u64, event_type: &str, data: Value, metadata: Option<Value>) -> RecordedEvent {
    let timestamp = Timestamp::parse("2026-01-01T00:00:00Z").expect("valid");
    let (aggregate, event_id) = ("script/i".into(), format!("i-{version}").as_str().into());
    RecordedEvent { aggregate, version: Version(version), event_id, event_type: event_type.into(), data, timestamp, metadata }
}

#[test]
fn a_route_names_an_instance_or_none() {
    let rule: &'static ProcessRule<Script> = &ProcessRule(Script);
    let route = |event_type, data| rule.route(&event(1, event_type, data, None));
    let panicked = Err(Refusal::Panicked);
    assert_eq!(route("Do", data_of([])).map(|instance| instance.map(|id| id.to_string())), Ok(Some("script/i".to_owned())));
    assert_eq!(route("Unrouted", data! {}), Ok(None));
    assert_eq!((route("Lost", data! {}), route("Do", data! { what: "x" }).is_err()), (panicked, true));
    let unnamed = route("Unnamed", data! {}).expect_err("refused").to_string();
    assert_eq!(unnamed, "the process routes this event to an instance with an empty name");
    for (aggregate, event_type, concerned) in [
        ("s", "Do", true),
        ("s", "ProcessSent", false),
        ("script/i", "ProcessSent", true),
        ("scripted/i", "ProcessSent", false),
        ("script", "ProcessSent", false),
        ("script/i", "ProcessAccepted", false),
    ] {
        assert_eq!(rule.concerns(&aggregate.into(), event_type), concerned, "{event_type} of {aggregate}");
    }
}

#[test]
fn an_older_revision_decides_nothing_after_a_newer_one() {
    let mut instance = Instance::default();
    let revision = |revision: &str| Some(Value::Map(BTreeMap::from([("processRevision".to_owned(), crate::literal(revision))])));
    let received = || data! { from: "s", version: 1, eventType: "Do", begins: true };
    // Metadata may be anything: other writers have theirs.
    for (version, metadata) in [None, revision("1"), revision("\"9\""), revision("9.5"), Some("9".into())].into_iter().enumerate() {
        evolve(&Script, &mut instance, &event(version as u64 + 1, "ProcessReceived", received(), metadata)).expect("read");
        assert!(decide(&Script, &instance, &delivery("t", 1, [])).is_ok());
    }
    // Also if it has event types that are unknown here, and if older ones have written since.
    evolve(&Script, &mut instance, &event(6, "Unheard", data! {}, revision("3"))).expect("not read");
    evolve(&Script, &mut instance, &event(7, "ProcessReceived", received(), revision("2"))).expect("not read");
    for told in [delivery("t", 1, []), accepted(2), Told::Retry { note: String::new() }] {
        let outdated = decide(&Script, &instance, &told);
        assert!(matches!(outdated, Err(Undecided::Outdated { revision: 3 })), "{outdated:?}");
    }
    let message = decide(&Script, &instance, &accepted(2)).expect_err("outdated").to_string();
    assert_eq!(message, "revision 3 has written to it, which is newer than this deployment's");
}

#[test]
fn an_event_type_that_no_revision_has_is_no_history() {
    let unknown = evolve(&Script, &mut Instance::default(), &event(1, "Unheard", data! {}, None));
    assert_eq!(unknown.expect_err("unknown").to_string(), "expected one of Planned, Broken");
    let broken = evolve(&Script, &mut Instance::default(), &event(1, "Broken", data! {}, None));
    assert_eq!(broken.expect_err("it panics").to_string(), "the process panicked on this event type");
}

#[test]
fn an_instance_begins_with_the_event_that_it_first_acts_on() {
    let run = then(then(then(run([]), [cancel("t")]), [when("x", [])]), [when("y", [])]);
    let begins = |event: &RecordedEvent| matches!(&event.data, Value::Map(fields) if fields.contains_key("begins"));
    let received: Vec<_> = run.events().iter().filter(|event| &*event.event_type == "ProcessReceived").map(begins).collect();
    assert_eq!(received, [false, false, true, false]);
    for begun in [after("t", 1), send_to_lamp("a"), Out::UndoBy("u".to_owned()), Out::Complete, Out::Fail] {
        let run = super::run([begun.clone()]);
        assert!(begins(&run.events()[0]), "{begun:?}");
        assert_ne!(run.instance().status(), Status::New);
    }
}
