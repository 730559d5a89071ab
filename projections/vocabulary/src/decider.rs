//! The [`Decider`] trait: an aggregate that decides commands.

use std::{any::Any, collections::BTreeSet, error::Error, fmt};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Misfit, RecordedEvent, Unwritable, Value, de, projection::is_kebab_case, ser};

/// An aggregate that decides commands: from its state and a command to events, or to a refusal.
///
/// It is pure: no clock, no I/O, no randomness. The engine loads the events, folds them into the state, lets the decider decide, and
/// appends what it decided on condition that nobody appended anything meanwhile; otherwise it decides again. An event's time and id are
/// given when it is appended.
///
/// ```
/// use projection_vocabulary::{Decider, Decimal, testkit::decider};
/// use serde::{Deserialize, Serialize};
///
/// /// What happened: one variant per event type, shared with the projections.
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
/// enum Event {
///     Charged { amount: Decimal },
///     Paid { amount: Decimal },
/// }
///
/// #[derive(Serialize, Deserialize)]
/// enum Command {
///     Charge { amount: Decimal },
///     Pay { amount: Decimal },
/// }
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
/// enum Refusal {
///     #[error("the card does not have that much on it")]
///     TooMuch,
/// }
///
/// #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Card {
///     charge: Decimal,
/// }
///
/// struct PrepaidCard;
///
/// impl Decider for PrepaidCard {
///     type State = Card;
///     type Command = Command;
///     type Event = Event;
///     type Refusal = Refusal;
///     const KIND: &str = "prepaid-card";
///
///     fn decide(&self, card: &Card, command: &Command) -> Result<Vec<Event>, Refusal> {
///         match command {
///             Command::Charge { amount } => Ok(vec![Event::Charged { amount: amount.clone() }]),
///             Command::Pay { amount } if *amount > card.charge => Err(Refusal::TooMuch),
///             Command::Pay { amount } => Ok(vec![Event::Paid { amount: amount.clone() }]),
///         }
///     }
///
///     fn evolve(&self, card: &mut Card, event: &Event) {
///         match event {
///             Event::Charged { amount } => card.charge += amount,
///             Event::Paid { amount } => card.charge -= amount,
///         }
///     }
/// }
///
/// let amount = |cents: u64| Decimal::from(cents);
/// decider(&PrepaidCard).given([Event::Charged { amount: amount(5) }]).when(&Command::Pay { amount: amount(6) }).refused(Refusal::TooMuch);
/// ```
pub trait Decider: Send + Sync + 'static {
    /// What the aggregate needs to know to decide. The default is the state before the first event.
    type State: Clone + fmt::Debug + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What it can be told to do: an `enum` with one variant for each command.
    type Command: Serialize + DeserializeOwned + Send + Sync;
    /// What can happen to it: an `enum` with one variant of named fields for each event type. It is written to the event store and read
    /// from there, so it must cover every event that an aggregate of this kind ever had.
    type Event: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync;
    /// Why a command is refused. Its message goes to whoever sent the command.
    type Refusal: Error + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The name of this kind of aggregate, in `kebab-case`.
    const KIND: &'static str;

    /// Raise this when [`Decider::evolve`] gives another state for the same events, or the type of the state changes. Snapshots of another
    /// revision are ignored.
    const REVISION: u32 = 1;

    /// After how many events the engine keeps a snapshot of the state; `None` for never. Worth it for histories of hundreds of events.
    const SNAPSHOT_EVERY: Option<u64> = None;

    /// Returns what happens, in order; nothing happens if the list is empty.
    ///
    /// # Errors
    /// The refusal, if the command goes against a rule of the domain.
    fn decide(&self, state: &Self::State, command: &Self::Command) -> Result<Vec<Self::Event>, Self::Refusal>;

    /// Brings the state up to date with one event. It never fails: what happened has happened.
    fn evolve(&self, state: &mut Self::State, event: &Self::Event);

    /// The values that an aggregate in this state holds alone, such as the email address of a user. The engine takes and releases them in
    /// the transaction that appends the events.
    fn claims(&self, _: &Self::State) -> Vec<Claim> {
        Vec::new()
    }
}

/// A value that at most one aggregate of the event store holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// What kind of value it is, in `kebab-case`: `email`.
    pub kind: &'static str,
    /// The value, in the form in which it is compared.
    pub value: String,
}

impl Claim {
    /// A claim to a value. Two spellings of one value are two values: bring it into one form first.
    #[must_use]
    pub fn new(kind: &'static str, value: impl Into<String>) -> Self {
        Self { kind, value: value.into() }
    }
}

/// A [`Decider`] behind `dyn`, for the engine. Every decider implements it; authors only name it in their list.
pub trait DynDecider: Send + Sync {
    /// See [`Decider::KIND`].
    fn kind(&self) -> &'static str;
    /// See [`Decider::REVISION`].
    fn revision(&self) -> u32;
    /// See [`Decider::SNAPSHOT_EVERY`].
    fn snapshot_every(&self) -> Option<u64>;
    /// The commands that it takes, each with the names of its fields.
    fn commands(&self) -> Vec<(&'static str, &'static [&'static str])>;
    /// The event types that it has.
    fn event_types(&self) -> &'static [&'static str];
    /// An aggregate before its first event.
    fn start(&'static self) -> Box<dyn Aggregate>;
    /// An aggregate in the state of a snapshot.
    ///
    /// # Errors
    /// [`Misfit`] if it is not the state's type.
    fn resume(&'static self, snapshot: &Value) -> Result<Box<dyn Aggregate>, Misfit>;
}

/// An aggregate with its state, for the engine.
pub trait Aggregate: Send + Sync {
    /// Applies one event.
    ///
    /// # Errors
    /// [`Misfit`] if the event's type or data is not one of the decider's.
    fn evolve(&mut self, event: &RecordedEvent) -> Result<(), Misfit>;
    /// Decides a command.
    ///
    /// # Errors
    /// [`Undecided`].
    fn decide(&self, command: &Value) -> Result<Vec<Decided>, Undecided>;
    /// The claims in this state.
    fn claims(&self) -> BTreeSet<Claim>;
    /// The state, for a snapshot.
    ///
    /// # Errors
    /// [`Unwritable`]: a mistake in the state's type.
    fn snapshot(&self) -> Result<Value, Unwritable>;
    /// The state, which is the decider's [`Decider::State`].
    fn state(&self) -> &dyn Any;
    /// A copy.
    fn copy(&self) -> Box<dyn Aggregate>;
}

/// An event that was decided and not yet appended.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// The event type.
    pub event_type: String,
    /// The event's data: a [`Value::Map`].
    pub data: Value,
}

/// Why a command decides nothing.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// The decider refuses it.
    #[error("{message}")]
    Refused {
        /// The refusal.
        refusal: Value,
        /// What it says.
        message: String,
    },
    /// It is not a command of the decider's.
    #[error("cannot read the command: {0}")]
    Misfit(#[from] Misfit),
    /// A newer revision has written to the aggregate, and this one cannot know what its events mean.
    #[error("revision {revision} has written to it, which is newer than this deployment's")]
    Outdated {
        /// The newer revision.
        revision: u32,
    },
    /// An event or a refusal cannot be written: a mistake in its type.
    #[error("cannot write what was decided: {0}")]
    Unwritable(#[from] Unwritable),
}

struct Of<D: Decider> {
    decider: &'static D,
    state: D::State,
}

impl<D: Decider> DynDecider for D {
    fn kind(&self) -> &'static str {
        D::KIND
    }

    fn revision(&self) -> u32 {
        D::REVISION
    }

    fn snapshot_every(&self) -> Option<u64> {
        D::SNAPSHOT_EVERY
    }

    fn commands(&self) -> Vec<(&'static str, &'static [&'static str])> {
        de::variants_of::<D::Command>().iter().map(|name| (*name, de::fields_of::<D::Command>(name))).collect()
    }

    fn event_types(&self) -> &'static [&'static str] {
        de::variants_of::<D::Event>()
    }

    fn start(&'static self) -> Box<dyn Aggregate> {
        Box::new(Of { decider: self, state: D::State::default() })
    }

    fn resume(&'static self, snapshot: &Value) -> Result<Box<dyn Aggregate>, Misfit> {
        Ok(Box::new(Of { decider: self, state: de::value(snapshot)? }))
    }
}

impl<D: Decider> Aggregate for Of<D> {
    fn evolve(&mut self, event: &RecordedEvent) -> Result<(), Misfit> {
        let event = de::event(&event.event_type, &event.data)?;
        self.decider.evolve(&mut self.state, &event);
        Ok(())
    }

    fn decide(&self, command: &Value) -> Result<Vec<Decided>, Undecided> {
        let told = de::value(command)?;
        refuse_unknown_fields::<D::Command>(command)?;
        let events = match self.decider.decide(&self.state, &told) {
            Ok(events) => events,
            Err(refusal) => return Err(Undecided::Refused { message: refusal.to_string(), refusal: ser::to_value(&refusal)? }),
        };
        let written = events.iter().map(|event| ser::event(event).map(|(event_type, data)| Decided { event_type, data }));
        Ok(written.collect::<Result<_, _>>()?)
    }

    fn claims(&self) -> BTreeSet<Claim> {
        self.decider.claims(&self.state).into_iter().collect()
    }

    fn snapshot(&self) -> Result<Value, Unwritable> {
        ser::to_value(&self.state)
    }

    fn state(&self) -> &dyn Any {
        &self.state
    }

    fn copy(&self) -> Box<dyn Aggregate> {
        Box::new(Self { decider: self.decider, state: self.state.clone() })
    }
}

/// A field that a command does not have may be another one misspelt, and is in no event: nothing that was meant is dropped in silence.
fn refuse_unknown_fields<C: DeserializeOwned>(command: &Value) -> Result<(), Misfit> {
    let Value::Map(members) = command else { return Ok(()) };
    let Some((name, Value::Map(fields))) = members.first_key_value() else { return Ok(()) };
    let Some(variant) = de::variants_of::<C>().iter().find(|variant| **variant == *name) else { return Ok(()) };
    let known = de::fields_of::<C>(variant);
    if known.is_empty() || fields.keys().all(|field| known.contains(&&**field)) {
        return Ok(());
    }
    Err(serde::de::Error::custom(format_args!("`{variant}` has no other fields than {}", known.join(", "))))
}

/// The kinds of aggregates that commands are for.
#[derive(Clone, Copy)]
pub struct Deciders(&'static [&'static dyn DynDecider]);

impl Deciders {
    /// None.
    pub const NONE: Self = Self(&[]);

    /// Makes a list of deciders.
    ///
    /// # Panics
    /// If the list is wrong: two deciders of the same kind, an invalid kind or revision, or types of commands or events that are not enums
    /// with variants.
    #[must_use]
    pub fn new(deciders: &'static [&'static dyn DynDecider]) -> Self {
        for (at, decider) in deciders.iter().enumerate() {
            let kind = decider.kind();
            assert!(is_kebab_case(kind) && !kind.is_empty(), "`{kind}` is not a valid kind of aggregate: use kebab-case");
            assert!(decider.revision() > 0, "the revision of `{kind}` is 0: revisions start at 1");
            assert!(decider.snapshot_every() != Some(0), "`{kind}` cannot have a snapshot every 0 events: use `None` for none");
            assert!(!decider.commands().is_empty(), "`{kind}` takes no command: its `Command` must be an enum with variants");
            assert!(
                !decider.event_types().is_empty(),
                "`{kind}` has no event: its `Event` must be an enum with one variant per event type"
            );
            assert!(deciders[..at].iter().all(|other| other.kind() != kind), "two deciders are of the kind `{kind}`");
        }
        Self(deciders)
    }

    /// The deciders.
    #[must_use]
    pub fn all(&self) -> &'static [&'static dyn DynDecider] {
        self.0
    }

    /// The decider of this kind.
    #[must_use]
    pub fn get(&self, kind: &str) -> Option<&'static dyn DynDecider> {
        self.0.iter().copied().find(|decider| decider.kind() == kind)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::data;

    struct Lamp;

    #[derive(Serialize, Deserialize)]
    enum Command {
        Dim { to: u8, why: Option<String> },
        Off {},
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Event {
        Dimmed { to: u8 },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
    #[error("no")]
    struct No;

    impl Decider for Lamp {
        type State = u8;
        type Command = Command;
        type Event = Event;
        type Refusal = No;
        const KIND: &str = "lamp";

        fn decide(&self, _: &u8, command: &Command) -> Result<Vec<Event>, No> {
            match command {
                Command::Dim { to, why: _ } => Ok(vec![Event::Dimmed { to: *to }]),
                Command::Off {} => Ok(vec![Event::Dimmed { to: 0 }]),
            }
        }

        fn evolve(&self, state: &mut u8, Event::Dimmed { to }: &Event) {
            *state = *to;
        }
    }

    #[test]
    fn a_command_as_data_is_decided_or_its_mistake_is_named_without_what_it_holds() {
        let lamp = (&Lamp as &'static dyn DynDecider).start();
        let told = |command: Value| match lamp.decide(&command) {
            Ok(events) => format!("{} events", events.len()),
            Err(error) => error.to_string(),
        };
        for (command, expected) in [
            (data! { Dim: { "to": 3 } }, "1 events"),
            (data! { Dim: { "to": 3, "why": "night" } }, "1 events"),
            (data! { Off: {} }, "1 events"),
            (data! { Dim: { "to": 3, "4711": 1 } }, "cannot read the command: `Dim` has no other fields than to, why"),
            (data! { Dim: { "to": 4711 } }, "cannot read the command: `to`: expected u8, found a number with an invalid value"),
            (
                data! { Dim: { "to": 0.4711 } },
                "cannot read the command: `to`: not a whole number of at most 64 bits: only a `Decimal` field holds it",
            ),
            (data! { Dim: { "to": 3 }, Off: {} }, "cannot read the command: expected one of Dim, Off"),
            (data! {}, "cannot read the command: expected one of Dim, Off"),
            ("4711".into(), "cannot read the command: expected one of Dim, Off"),
            (Value::Null, "cannot read the command: expected one of Dim, Off"),
        ] {
            assert_eq!(told(command.clone()), expected, "{command:?}");
        }
    }
}
