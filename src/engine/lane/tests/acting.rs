//! A process acts on each event before its row moves past it.

use projection_vocabulary::{
    DynDecider,
    process::{Input, Instance, Outputs, Process, ProcessRule, outputs},
};
use serde::Serialize;

use super::*;

/// A process whose inputs are the events of [`Cards`].
struct Letters;

#[derive(Deserialize)]
enum Letter {
    Earned {},
}

#[derive(Clone, Serialize, Deserialize)]
enum Fact {
    Written {},
}

impl Process for Letters {
    type Input = Letter;
    type Fact = Fact;
    type State = ();
    const NAME: &str = "letters";
    const COMMANDED: &[&dyn DynDecider] = &[];

    fn route(&self, event: &Recorded<'_, Letter>) -> Option<String> {
        Some(event.aggregate.to_string())
    }

    fn evolve(&self, (): &mut (), _: &Fact) {}

    fn decide(&self, _: &Instance<()>, _: Input<'_, Letter>) -> Result<Outputs<Fact>, Refusal> {
        Ok(outputs())
    }
}

fn letters(events: &[Arc<RecordedEvent>]) -> Lane {
    let mut lane = Lane::new(&ProcessRule(Letters), "ann".into());
    events.iter().enumerate().for_each(|(at, event)| lane.push_event(event, at));
    lane.prepare();
    lane
}

/// A row of the process: its revision is always 1.
fn stands_at(version: u64) -> HomeRow {
    let last_event_id = (version > 0).then(|| format!("ann-{version}").into());
    HomeRow { version: Version(version), revision: u32::from(version > 0), last_event_id, ..HomeRow::default() }
}

#[test]
fn the_row_is_read_then_each_event_is_acted_on_and_then_the_row_moves_once() {
    let mut lane = letters(&history([earned(1), viewed(), earned(2)]));
    assert_eq!(state(&mut lane), State::Reads, "also before the first event");
    assert_eq!(lane.read(None), AfterRefusal::Continue);
    assert_eq!(state(&mut lane), State::Acts(1));
    assert_eq!(state(&mut lane), State::Acts(1), "until it has");
    lane.acted();
    assert_eq!(state(&mut lane), State::Acts(3));
    lane.acted();
    assert_eq!(commit(&mut lane), (0, 3));
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Applied; 2], State::Finished));
}

#[test]
fn what_was_acted_on_before_is_not_acted_on_again() {
    let mut lane = letters(&earnings(3));
    assert_eq!((state(&mut lane), lane.read(Some(stands_at(2)))), (State::Reads, AfterRefusal::Continue));
    assert_eq!(outcomes(&lane), [Duplicate; 2]);
    // Where the lane stands is read again, because the row has told it that others move it.
    assert_eq!((state(&mut lane), lane.read(Some(stands_at(2)))), (State::Reads, AfterRefusal::Continue));
    assert_eq!(state(&mut lane), State::Acts(3));
}

#[test]
fn a_gap_is_healed_before_anything_is_acted_on() {
    let events = earnings(4);
    let mut lane = letters(&events[3..]);
    assert_eq!((state(&mut lane), lane.read(Some(stands_at(1)))), (State::Reads, AfterRefusal::Heal(Version(2), Version(3))));
    let stored = events[1..3].iter().map(|event| Stored::Event((**event).clone())).collect();
    assert_eq!(lane.heal(Version(2), Version(3), stored), AfterRefusal::Continue);
    assert_eq!((state(&mut lane), lane.read(Some(stands_at(1)))), (State::Reads, AfterRefusal::Continue));
    for version in 2..=4 {
        assert_eq!(state(&mut lane), State::Acts(version));
        lane.acted();
    }
    assert_eq!((commit(&mut lane), lane.tally.healed), ((1, 4), 2));
}

#[test]
fn a_parked_row_is_not_acted_for() {
    let mut lane = letters(&earnings(1));
    let parked = HomeRow { parked_at: Some("now".to_owned()), ..HomeRow::default() };
    assert_eq!((state(&mut lane), lane.read(Some(parked))), (State::Reads, AfterRefusal::Continue));
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Parked], State::Parked(ParkedBy::Another)));
}

#[test]
fn an_event_that_it_can_never_act_on_is_parked_after_what_it_has_acted_on() {
    let mut lane = letters(&earnings(3));
    assert_eq!((state(&mut lane), lane.read(None)), (State::Reads, AfterRefusal::Continue));
    lane.acted();
    assert_eq!(state(&mut lane), State::Acts(2));
    lane.cannot_act("refused".to_owned());
    assert_eq!(commit(&mut lane), (0, 1));
    assert_eq!((state(&mut lane), lane.read(Some(stands_at(1)))), (State::Reads, AfterRefusal::Continue));
    assert_eq!((state(&mut lane), kept_event(&lane)), (stuck(1, 2, "refused"), "ann-2".to_owned()));
}

#[test]
fn what_it_has_acted_on_is_written_although_the_next_fails() {
    let mut lane = letters(&earnings(3));
    assert_eq!((state(&mut lane), lane.read(None)), (State::Reads, AfterRefusal::Continue));
    lane.acted();
    assert_eq!(state(&mut lane), State::Acts(2));
    lane.fail_to_act(AdvanceError::Unexplained);
    assert_eq!(commit(&mut lane), (0, 1));
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Applied, Failed, Failed], State::Failed(AdvanceError::Unexplained)));
}
