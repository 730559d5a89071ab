//! The test kit finds what is wrong with a process in one order of arrival only.

use super::*;
use crate::{
    data,
    process::{Requested, Status},
    testkit::Arrival,
};

fn arrival(aggregate: &'static str, what: impl Into<Vec<Out>>) -> Arrival {
    Arrival { aggregate, event_type: "Do", data: data_of(what) }
}

/// How instances of a process end if these requests are refused, and all others accepted.
fn ends_of<P: Process>(of: P, arrivals: &[Arrival], refused: impl Fn(&Requested) -> bool) -> Vec<Status> {
    let answer = |request: &Requested| if refused(request) { Err("no".to_owned()) } else { Ok(Value::Null) };
    process(of).every_order(arrivals, answer).into_iter().collect()
}

fn ends(arrivals: &[Arrival], refused: impl Fn(&Requested) -> bool) -> Vec<Status> {
    ends_of(Script, arrivals, refused)
}

#[test]
fn every_end_is_found() {
    let both = || [undoable("a"), when("accepted a", [Out::Complete]), when("refused a", [Out::Fail])];
    assert_eq!(ends(&[arrival("s", both())], |_| false), [Status::Completed]);
    assert_eq!(ends(&[arrival("s", both())], |_| true), [Status::Undone]);
    // A refused undo: whether it comes to that depends on what is first.
    let race = [arrival("s", both()), arrival("t", [Out::Fail])];
    assert_eq!(ends(&race, |_| false), [Status::Completed, Status::Undone]);
    assert_eq!(ends(&race, |request| request.undoes.is_some()), [Status::Stuck, Status::Completed, Status::Undone]);
    let timer = [arrival("s", both().into_iter().chain([after("t", 1), when("timed out t", [Out::Fail])]).collect::<Vec<_>>())];
    assert_eq!(ends(&timer, |_| false), [Status::Completed, Status::Undone]);
    assert_eq!(ends(&[arrival("s", [])], |_| false), [Status::New]);
}

#[test]
fn a_process_that_waits_for_ever_in_one_order_is_found() {
    // The first event only plans; if it comes late, its plan is of no use.
    let plan = || arrival("s", [when("accepted a", [Out::Complete])]);
    let message = panic_of(|| ends(&[plan(), arrival("t", [undoable("a")])], |_| false));
    assert!(message.starts_with("the instance `i` does not end:\n") && message.contains("accepted a"), "{message}");
    assert_eq!(ends(&[plan(), arrival("s", [undoable("a")])], |_| false), [Status::Completed], "events of one aggregate come in order");
}

#[test]
fn an_event_that_is_refused_in_one_order_is_found() {
    /// Takes only what it knows of.
    struct Strict;

    #[derive(Clone, Serialize, Deserialize)]
    enum Noted {
        Opened {},
    }

    #[derive(Deserialize)]
    enum Event {
        Open {},
        Use {},
    }

    impl Process for Strict {
        type Input = Event;
        type Fact = Noted;
        type State = bool;
        const NAME: &str = "strict";
        const COMMANDED: &[&dyn DynDecider] = &[];

        fn route(&self, _: &Recorded<'_, Event>) -> Option<String> {
            Some("i".to_owned())
        }

        fn evolve(&self, open: &mut bool, Noted::Opened {}: &Noted) {
            *open = true;
        }

        fn decide(&self, instance: &Instance<bool>, input: Input<'_, Event>) -> Result<Outputs<Noted>, Refusal> {
            match input {
                Input::Event(Recorded { event: Event::Open {}, .. }) => Ok(outputs().record(Noted::Opened {})),
                Input::Event(_) if !instance.state() => Err(Refusal::Rule("it is not open")),
                _ => Ok(outputs().complete()),
            }
        }
    }

    let arrivals = |of_use| {
        let event = |aggregate, event_type| Arrival { aggregate, event_type, data: data! {} };
        [event("s", "Open"), event(of_use, "Use")]
    };
    let message = panic_of(|| ends_of(Strict, &arrivals("t"), |_| false));
    assert_eq!(message, "it is not open");
    assert_eq!(ends_of(Strict, &arrivals("s"), |_| false), [Status::Completed]);
}

#[test]
fn more_orders_than_can_be_tried_are_refused() {
    let sources = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let message = panic_of(|| ends(&sources.map(|source| arrival(source, [])), |_| false));
    assert_eq!(message, "there are more than 50000 states: give fewer events");
}
