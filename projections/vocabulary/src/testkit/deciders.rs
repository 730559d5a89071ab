//! The test kit for deciders: given these events, when told this, then these events or this refusal.

use std::fmt::Debug;

use crate::{Decider, de, ser};

/// A test of a decider. Made by [`decider`].
pub struct Told<'a, D: Decider> {
    decider: &'a D,
    state: D::State,
}

/// What a decider decided.
#[must_use = "say what is expected: `then` or `refused`"]
pub struct Decision<D: Decider>(Result<Vec<D::Event>, D::Refusal>);

/// Starts a test of a decider, before the aggregate's first event.
#[must_use]
pub fn decider<D: Decider>(decider: &D) -> Told<'_, D> {
    Told { decider, state: D::State::default() }
}

impl<D: Decider> Told<'_, D> {
    /// What has happened, in order.
    #[must_use]
    pub fn given(mut self, events: impl IntoIterator<Item = D::Event>) -> Self {
        events.into_iter().for_each(|event| self.decider.evolve(&mut self.state, &event));
        self
    }

    /// Tells the aggregate to do something.
    pub fn when(&self, command: &D::Command) -> Decision<D> {
        Decision(self.decider.decide(&self.state, command))
    }

    /// The state after the events.
    #[must_use]
    pub fn state(&self) -> &D::State {
        &self.state
    }
}

impl<D: Decider> Decision<D> {
    /// Expects these events.
    ///
    /// # Panics
    /// If there are others, or the command was refused.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = D::Event>) {
        let expected: Vec<_> = expected.into_iter().collect();
        match self.0 {
            Ok(events) => assert_eq!(events, expected),
            Err(refusal) => panic!("expected {expected:?}, but the command was refused: {refusal}"),
        }
    }

    /// Expects this refusal.
    ///
    /// # Panics
    /// If it is another, or the command was accepted.
    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "it reads as the value that is expected")]
    pub fn refused(self, expected: D::Refusal) {
        match self.0 {
            Ok(events) => panic!("expected a refusal ({expected}), but the command was accepted: {events:?}"),
            Err(refusal) => assert!(refusal == expected, "expected a refusal ({expected}), but it was another one: {refusal}"),
        }
    }
}

/// Checks what the engine relies on, along a history: the commands are given in order, and those that are accepted make it.
///
/// - What is written is read again, exactly: commands, events, refusals and states.
/// - Deciding the same twice gives the same decision.
/// - A snapshot of any version, with the rest of the history folded onto it, gives the state of the whole history.
/// - Each claim has a kind and a value.
///
/// # Panics
/// If a law does not hold, or no command is accepted, for such a test tests nothing.
#[track_caller]
pub fn laws<D: Decider>(decider: &D, commands: impl IntoIterator<Item = D::Command>) {
    let (mut state, mut history, mut states) = (D::State::default(), Vec::new(), vec![D::State::default()]);
    for command in commands {
        let written = ser::to_value(&command).unwrap_or_else(|error| panic!("a command cannot be written: {error}"));
        let read: D::Command = de::value(&written).unwrap_or_else(|misfit| panic!("a command is not read as it was written: {misfit}"));
        assert_eq!(ser::to_value(&read).ok(), Some(written), "a command is written differently after it was read");
        let events = match (decider.decide(&state, &command), decider.decide(&state, &read)) {
            (Ok(events), Ok(again)) if events == again => events,
            (Err(refusal), Err(again)) if refusal == again => {
                survives("refusal", &refusal);
                continue;
            }
            _ => panic!("deciding the same command twice gives two decisions: use nothing but the state and the command"),
        };
        for event in events {
            let (event_type, data) = ser::event(&event).unwrap_or_else(|error| panic!("{event:?} cannot be written: {error}"));
            let read: D::Event = de::event(&event_type, &data).unwrap_or_else(|misfit| panic!("{event:?} cannot be read again: {misfit}"));
            assert_eq!(read, event, "an event is not read as it was written");
            decider.evolve(&mut state, &event);
            history.push(event);
            states.push(state.clone());
        }
    }
    assert!(!history.is_empty(), "no command was accepted: give commands that make a history");
    for (version, snapshot) in states.iter().enumerate() {
        survives("state", snapshot);
        let mut resumed: D::State = de::value(&ser::to_value(snapshot).expect("it was just written")).expect("it was just read");
        history[version..].iter().for_each(|event| decider.evolve(&mut resumed, event));
        assert_eq!(resumed, state, "a snapshot of version {version} and the events after it do not give the state of all events");
        for claim in decider.claims(snapshot) {
            assert!(!claim.kind.is_empty() && !claim.value.is_empty(), "{claim:?} has no kind or no value");
        }
    }
}

fn survives<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(what: &str, value: &T) {
    let written = ser::to_value(value).unwrap_or_else(|error| panic!("a {what} cannot be written: {error}"));
    let read: T = de::value(&written).unwrap_or_else(|misfit| panic!("a {what} is not read as it was written: {misfit}"));
    assert_eq!(read, *value, "a {what} is not read as it was written");
}
