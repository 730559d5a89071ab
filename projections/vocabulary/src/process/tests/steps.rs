//! [`Steps`]: one after the other, and back.

use super::*;
use crate::{
    data,
    process::{Step, Steps},
};

/// What a trip needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Trip {
    nights: Vec<String>,
    pickup: bool,
}

#[derive(Deserialize)]
enum Event {
    Asked { nights: Vec<String>, pickup: bool },
    PickedUp {},
}

#[derive(Clone, Serialize, Deserialize)]
enum Fact {
    Begun { trip: Trip },
}

struct Trips;

const STEPS: Steps<Trip> = Steps::new(&[
    Step::new("hotel", |trip| trip.nights.iter().map(|night| turn(night).undo(turn("undo"))).collect()),
    Step::new("pickup", |trip: &Trip| if trip.pickup { vec![turn("pickup").undo(turn("undo"))] } else { vec![] })
        .arrives_within(Duration::from_mins(1)),
    Step::new("never", |_| vec![]),
    Step::new("thanks", |_| vec![turn("thanks")]),
]);

impl Process for Trips {
    type Input = Event;
    type Fact = Fact;
    type State = Trip;
    const NAME: &str = "trips";
    const COMMANDED: &[&dyn DynDecider] = &[&Lamp];

    fn route(&self, _: &Recorded<'_, Event>) -> Option<String> {
        Some("i".to_owned())
    }

    fn evolve(&self, trip: &mut Trip, Fact::Begun { trip: begun }: &Fact) {
        *trip = begun.clone();
    }

    fn decide(&self, instance: &Instance<Trip>, input: Input<'_, Event>) -> Result<Outputs<Fact>, Refusal> {
        Ok(match &input {
            Input::Event(Recorded { event: Event::Asked { nights, pickup }, .. }) => {
                let trip = Trip { nights: nights.clone(), pickup: *pickup };
                STEPS.begin(&trip).record(Fact::Begun { trip })
            }
            Input::Event(_) => STEPS.arrived(instance, "pickup"),
            other => STEPS.next(instance, other),
        })
    }
}

fn asked(data: Value) -> Run<Trips> {
    process(Trips).event("s", "Asked", data)
}

fn picked_up(run: Run<Trips>) -> Run<Trips> {
    run.event("s", "PickedUp", data! {})
}

/// Steps with nothing to do.
fn named(names: &[&'static str]) -> &'static [Step<Trip>] {
    names.iter().map(|name| Step::new(name, |_| vec![])).collect::<Vec<_>>().leak()
}

/// The last of what has happened, without what requests carry.
#[track_caller]
fn ends_with(run: &Run<Trips>, last: &[&str]) {
    let timeline = run.timeline();
    let lines: Vec<_> = timeline.lines().map(|line| line.split_once(" to lamp").map_or(line, |(sent, _)| sent)).collect();
    assert!(lines.ends_with(last), "{timeline}");
}

#[test]
fn a_step_follows_once_every_request_of_the_one_before_is_accepted() {
    let run = asked(data! { nights: ["1", "2"], pickup: true });
    ends_with(&run, &["sent hotel", "sent hotel"]);
    let run = run.accepted("hotel");
    ends_with(&run, &["sent hotel", "sent hotel", "accepted hotel"]);
    let run = run.accepted("hotel");
    ends_with(&run, &["accepted hotel", "sent pickup", "timer pickup runs out after 60 s"]);
    assert_eq!(run.status(), "open");
}

#[test]
fn what_arrives_may_come_before_or_after_the_answer() {
    let waiting = asked(data! { nights: ["1"], pickup: true }).accepted("hotel");
    let before = picked_up(waiting.clone());
    ends_with(&before, &["received PickedUp of s", "timer pickup stopped"]);
    ends_with(&before.accepted("pickup"), &["timer pickup stopped", "accepted pickup", "sent thanks"]);
    let after = waiting.accepted("pickup");
    ends_with(&after, &["timer pickup runs out after 60 s", "accepted pickup"]);
    let after = picked_up(after);
    ends_with(&after, &["accepted pickup", "received PickedUp of s", "timer pickup stopped", "sent thanks"]);
    // Nothing waits for it any more.
    let again = picked_up(after);
    ends_with(&again, &["sent thanks", "received PickedUp of s"]);
    ends_with(&again.accepted("thanks"), &["accepted thanks", "completed"]);
}

#[test]
fn what_arrives_too_early_is_not_what_a_step_waits_for() {
    let early = picked_up(asked(data! { nights: ["1"], pickup: true })).accepted("hotel");
    ends_with(&early, &["sent pickup", "timer pickup runs out after 60 s"]);
    assert_eq!(early.accepted("pickup").status(), "open");
}

#[test]
fn a_step_without_requests_is_skipped_unless_something_must_arrive() {
    let waiting = asked(data! { nights: [], pickup: false });
    ends_with(&waiting, &["recorded Begun {\"trip\":{\"nights\":[],\"pickup\":false}}", "timer pickup runs out after 60 s"]);
    let run = picked_up(waiting);
    ends_with(&run, &["timer pickup stopped", "sent thanks"]);
    assert_eq!(run.accepted("thanks").status(), "completed");
}

#[test]
fn without_anything_to_do_it_is_complete() {
    let none: Outputs<Fact> = Steps::new(&[]).begin(&Trip::default());
    let skipped = Steps::new(named(&["a", "b"])).begin(&Trip::default());
    for Outputs { requests, end, .. } in [none, skipped] {
        assert!(requests.is_empty() && end == Some(super::super::output::End::Complete));
    }
}

#[test]
fn a_refused_request_undoes_its_own_step_as_well() {
    let run = asked(data! { nights: ["1", "2", "3"], pickup: true }).accepted("hotel").refused("hotel", "full");
    ends_with(&run, &["refused hotel: full", "failed: `hotel` was refused: full"]);
    let run = run.accepted("hotel");
    ends_with(&run, &["accepted hotel", "sent the undo of hotel"]);
    let run = run.accepted("hotel");
    ends_with(&run, &["accepted the undo of hotel", "sent the undo of hotel"]);
    assert_eq!(run.accepted("hotel").status(), "undone");
}

#[test]
fn what_does_not_arrive_in_time_fails_before_and_after_the_answer() {
    let waiting = asked(data! { nights: ["1"], pickup: true }).accepted("hotel");
    let out = waiting.clone().timed_out("pickup");
    ends_with(&out, &["timer pickup ran out", "failed: `pickup` did not end in time"]);
    let out = out.accepted("pickup");
    ends_with(&out, &["accepted pickup", "sent the undo of pickup"]);
    assert_eq!(out.accepted("pickup").accepted("hotel").status(), "undone");
    // Too late for what arrives now.
    let late = picked_up(waiting.accepted("pickup").timed_out("pickup"));
    ends_with(&late, &["sent the undo of pickup", "received PickedUp of s"]);
    // The last step has nothing that undoes it, and those before it have.
    let last = picked_up(asked(data! { nights: ["1"], pickup: true }).accepted("hotel").accepted("pickup")).refused("thanks", "no");
    ends_with(&last, &["failed: `thanks` was refused: no", "sent the undo of pickup"]);
}

#[test]
fn two_steps_have_two_names() {
    for twice in [&["a", "a"][..], &["ab", "b", "ab"], &["x", "", ""]] {
        assert_eq!(panic_of(|| Steps::new(named(twice))), "two steps have the same name");
    }
    for other in [&["a", "b"][..], &["a", "ab"], &["ab", "aa", "", "a"]] {
        _ = Steps::new(named(other));
    }
}
