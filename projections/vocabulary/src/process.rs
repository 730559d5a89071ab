//! Processes: what reacts to the events of many aggregates with commands to others, and undoes what was done if a later step is refused.
//!
//! A process instance is an aggregate of its own. Its events are what it received, what it sent and how that was answered, so that its
//! history is its audit. Each input decides once: what is recorded is never decided again, whatever a later revision would decide.
//!
//! ```
//! use std::time::Duration;
//!
//! use projection_vocabulary::{
//!     Decider, DynDecider, Recorded, Refusal, data,
//!     process::{Input, Instance, Outputs, Process, Request, Step, Steps, send},
//!     testkit::process,
//! };
//! use serde::{Deserialize, Serialize};
//!
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
//! # enum RoomEvent { Booked { guest: String }, Freed { guest: String } }
//! # #[derive(Serialize, Deserialize)]
//! # enum RoomCommand { Book { guest: String }, Free { guest: String } }
//! # #[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
//! # #[error("the room is taken")]
//! # struct Taken;
//! # struct Room;
//! # impl Decider for Room {
//! #     type State = Option<String>;
//! #     type Command = RoomCommand;
//! #     type Event = RoomEvent;
//! #     type Refusal = Taken;
//! #     const KIND: &str = "room";
//! #     fn decide(&self, by: &Option<String>, command: &RoomCommand) -> Result<Vec<RoomEvent>, Taken> {
//! #         match command {
//! #             RoomCommand::Book { .. } if by.is_some() => Err(Taken),
//! #             RoomCommand::Book { guest } => Ok(vec![RoomEvent::Booked { guest: guest.clone() }]),
//! #             RoomCommand::Free { guest } => Ok(vec![RoomEvent::Freed { guest: guest.clone() }]),
//! #         }
//! #     }
//! #     fn evolve(&self, by: &mut Option<String>, event: &RoomEvent) {
//! #         *by = match event { RoomEvent::Booked { guest } => Some(guest.clone()), RoomEvent::Freed { .. } => None };
//! #     }
//! # }
//! /// What starts a trip.
//! #[derive(Deserialize)]
//! enum Event {
//!     TripAsked { guest: String, first: String, second: String },
//! }
//!
//! /// What the process itself records.
//! #[derive(Clone, Serialize, Deserialize)]
//! enum Fact {
//!     TripBegun { trip: Trip },
//! }
//!
//! #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
//! struct Trip {
//!     guest: String,
//!     first: String,
//!     second: String,
//! }
//!
//! struct Trips;
//!
//! const STEPS: Steps<Trip> = Steps::new(&[
//!     Step::new("first-night", |trip| vec![book(trip, &trip.first)]),
//!     Step::new("second-night", |trip| vec![book(trip, &trip.second)]),
//! ]);
//!
//! fn book(Trip { guest, .. }: &Trip, room: &str) -> Request {
//!     let free = send(&Room, room, &RoomCommand::Free { guest: guest.clone() });
//!     send(&Room, room, &RoomCommand::Book { guest: guest.clone() }).undo(free)
//! }
//!
//! impl Process for Trips {
//!     type Input = Event;
//!     type Fact = Fact;
//!     type State = Trip;
//!     const NAME: &str = "trips";
//!     const COMMANDED: &[&dyn DynDecider] = &[&Room];
//!
//!     fn route(&self, event: &Recorded<'_, Event>) -> Option<String> {
//!         Some(event.aggregate.to_string())
//!     }
//!
//!     fn evolve(&self, trip: &mut Trip, fact: &Fact) {
//!         let Fact::TripBegun { trip: begun } = fact;
//!         *trip = begun.clone();
//!     }
//!
//!     fn decide(&self, instance: &Instance<Trip>, input: Input<'_, Event>) -> Result<Outputs<Fact>, Refusal> {
//!         let Input::Event(event) = input else { return Ok(STEPS.next(instance, &input)) };
//!         let Event::TripAsked { guest, first, second } = &event.event;
//!         let trip = Trip { guest: guest.clone(), first: first.clone(), second: second.clone() };
//!         Ok(STEPS.begin(&trip).record(Fact::TripBegun { trip }))
//!     }
//! }
//!
//! let asked = process(Trips).event("trip-1", "TripAsked", data! { guest: "ann", first: "12", second: "7" });
//! assert_eq!(asked.accepted("first-night").accepted("second-night").status(), "completed");
//! ```

mod event;
mod instance;
mod output;
mod rule;
mod status;
mod steps;
#[cfg(test)]
mod tests;
mod timeline;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{DynDecider, Recorded, Refusal, Timestamp, Value};

pub(crate) use instance::{decide, evolve};

pub use event::{ProcessEvent, Target};
pub use instance::{Answer, Instance, Outcome, Requested, Status, Told};
pub use output::{Outputs, Request, call, outputs, send};
pub use rule::{DynProcess, ProcessRule, SENT};
pub use status::ProcessStatus;
pub use steps::{Step, Steps};
pub use timeline::told;

/// The member of an event's metadata that names the revision of the process that wrote it.
pub const REVISION_MEMBER: &str = "processRevision";

/// A rule that reacts to events with commands. It is pure: no clock, no I/O, no randomness.
///
/// The [module](crate::process) has an example. Most processes are a list of [`Steps`].
pub trait Process: Send + Sync + 'static {
    /// An `enum` with one variant for each event type of other aggregates that it reacts to, as of a projection.
    type Input: DeserializeOwned;
    /// An `enum` of what it records for itself, one variant of named fields for each event type. No name begins with `Process`.
    type Fact: Clone + Serialize + DeserializeOwned + Send + Sync;
    /// What it needs to know to decide. The default is the state before the first fact.
    type State: Clone + fmt::Debug + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync;

    /// The name, in `kebab-case`. Its table is named by an environment variable as that of a projection is, and the aggregate of each
    /// instance is `<name>/<instance>`. It cannot change while an instance is open.
    const NAME: &'static str;

    /// Raise this when the type or meaning of facts changes. A deployment of an older revision then fails where a newer one has written,
    /// in place of misreading it.
    const REVISION: u32 = 1;

    /// The kinds of aggregates that it sends commands to.
    const COMMANDED: &'static [&'static dyn DynDecider];

    /// How often one thing may lead to the next, without time passing or anybody else acting, before the process is taken to feed itself
    /// and the aggregate is parked.
    const HOPS_MAX: u32 = 100;

    /// Names the instance that an event is for; `None` if it is for none.
    fn route(&self, event: &Recorded<'_, Self::Input>) -> Option<String>;

    /// Brings the state up to date with one fact.
    fn evolve(&self, state: &mut Self::State, fact: &Self::Fact);

    /// Decides what follows from an input. It is asked while the instance is open: not after it has ended, nor while it undoes.
    ///
    /// # Errors
    /// [`Refusal`] for an event that must not be taken. Its aggregate is parked in this process; all others continue.
    fn decide(&self, instance: &Instance<Self::State>, input: Input<'_, Self::Input>) -> Result<Outputs<Self::Fact>, Refusal>;
}

/// What a process decides about.
#[derive(Debug)]
pub enum Input<'a, E> {
    /// An event of another aggregate.
    Event(Recorded<'a, E>),
    /// A request with this name was accepted; `answer` is what the far side of a call returned.
    Accepted {
        /// The name.
        name: &'a str,
        /// The answer to a call; [`Value::Null`] for a command.
        answer: &'a Value,
    },
    /// A request with this name was refused by a rule of the domain, or by the far side of a call.
    Refused {
        /// The name.
        name: &'a str,
        /// What the refusal says.
        message: &'a str,
        /// The refusal: see [`crate::read_value`].
        refusal: &'a Value,
    },
    /// A timer ran out.
    TimedOut {
        /// Its name.
        name: &'a str,
        /// When it was due.
        due: &'a Timestamp,
    },
}

/// Runs code of an author; `None` if it panics, which must not fail anything else.
fn guarded<T>(code: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(code)).ok()
}
