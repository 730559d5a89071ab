//! The command side: loads an aggregate, lets its decider decide, and appends what was decided, exactly once.
//!
//! - A conflict means deciding again on what is new, never appending the old decision.
//! - A command with an id has one effect and one answer, however often it is sent, refusals included.
//! - Snapshots, claims and the answer are written in the transaction of the events.

pub mod error;
pub mod history;
mod run;

use std::{fmt, future::Future};

use futures::{StreamExt as _, stream};
use projection_vocabulary::{
    Aggregate, AggregateId, ConsistencyToken, Decider, DynDecider, RecordedEvent, Value, Version, read_event, to_value,
};

pub use error::{AnyRefusal, CommandError, Unhandled};

use crate::{retry::Deadline, store::Store};
use history::History;
use run::{Answer, HandledOne, Order, Request, Requirement, run};

/// Carries out commands against an event store.
///
/// In an HTTP handler of one's own Lambda, which gives the request's id to the command, and answers each error as what it is:
///
/// ```no_run
/// use projection_vocabulary::Decider;
/// use projection_worker::{CommandError, Commands, Store};
///
/// /// Returns a status and a body.
/// async fn post<D: Decider>(store: &Store, decider: &'static D, aggregate: &str, request_id: &str, command: &D::Command) -> (u16, String) {
///     match Commands::new(store).to(decider, aggregate).id(request_id).handle(command).await {
///         // The client reads its own write with this token.
///         Ok(handled) => (200, handled.token().to_string()),
///         Err(error @ (CommandError::Refused { .. } | CommandError::Taken { .. })) => (422, error.to_string()),
///         Err(error @ CommandError::Conflict { .. }) => (409, error.to_string()),
///         Err(error @ (CommandError::Invalid(_) | CommandError::IdReused)) => (400, error.to_string()),
///         // The client sends the same request again: with its id it has one effect.
///         Err(error @ (CommandError::Contended { .. } | CommandError::Store(_))) => (503, error.to_string()),
///         Err(error @ (CommandError::Unreadable { .. } | CommandError::Outdated { .. })) => (500, error.to_string()),
///     }
/// }
/// ```
#[derive(Clone, Copy)]
pub struct Commands<'a> {
    store: &'a Store,
    deadline: Deadline,
}

/// A command to one aggregate, before it is carried out.
pub struct To<'a, D: Decider> {
    commands: Commands<'a>,
    decider: &'static D,
    aggregate: AggregateId,
    id: Option<String>,
    expected: Option<Version>,
    metadata: Option<Value>,
}

/// Commands to several aggregates, before they are carried out: all of them or none.
pub struct Together<'a> {
    commands: Commands<'a>,
    request: Request,
    unwritable: Option<Unhandled>,
}

/// A command that was carried out.
pub struct Handled<D: Decider> {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// Its version after the command.
    pub version: Version,
    /// What happened; empty if nothing did.
    pub events: Vec<D::Event>,
    /// Its state after the command.
    pub state: D::State,
    /// Whether an earlier command with this id did it, and this is its answer again.
    pub replayed: bool,
}

/// Commands that were carried out together.
pub struct HandledTogether {
    answer: Answer,
}

/// The outcome of one of many commands.
pub type Result<D> = std::result::Result<Handled<D>, CommandError<<D as Decider>::Refusal>>;

/// An aggregate as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<S> {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// Its version; [`Version::NONE`] if it has no events.
    pub version: Version,
    /// Its state.
    pub state: S,
}

/// A command to a decider whose types are not known.
#[derive(Clone, Debug, Default)]
pub struct AnyCommand {
    /// The command: a map from its name to its fields, or its name alone.
    pub command: Value,
    /// See [`To::id`].
    pub id: Option<String>,
    /// See [`To::expecting`].
    pub expected: Option<Version>,
    /// See [`To::metadata`].
    pub metadata: Option<Value>,
}

/// A command that was carried out, by a decider whose types are not known.
#[derive(Debug)]
pub struct AnyHandled {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// Its version after the command.
    pub version: Version,
    /// What happened.
    pub events: Vec<RecordedEvent>,
    /// Its state after the command.
    pub state: Value,
    /// Whether an earlier command with this id did it.
    pub replayed: bool,
}

impl<'a> Commands<'a> {
    /// Commands to the aggregates of this store.
    #[must_use]
    pub fn new(store: &'a Store) -> Self {
        Self { store, deadline: Deadline::NONE }
    }

    /// The same, with a deadline. Without one, each command tries for half a minute.
    #[must_use]
    pub fn until(self, deadline: Deadline) -> Self {
        Self { deadline, ..self }
    }

    /// A command to an aggregate.
    #[must_use]
    pub fn to<D: Decider>(self, decider: &'static D, aggregate: &str) -> To<'a, D> {
        To { commands: self, decider, aggregate: aggregate.into(), id: None, expected: None, metadata: None }
    }

    /// Commands to several aggregates in one transaction.
    #[must_use]
    pub fn together(self) -> Together<'a> {
        Together { commands: self, request: Request::default(), unwritable: None }
    }

    /// An aggregate as it is now.
    ///
    /// # Errors
    /// [`CommandError::Unreadable`] or [`CommandError::Store`].
    pub async fn load<D: Decider>(
        self,
        decider: &'static D,
        aggregate: &str,
    ) -> std::result::Result<Loaded<D::State>, CommandError<D::Refusal>> {
        let history = History::load(self.store, decider, &aggregate.into(), self.deadline).await.map_err(Unhandled::typed)?;
        let state = state_of::<D>(history.state.state());
        Ok(Loaded { aggregate: history.aggregate, version: history.version, state })
    }

    /// Many commands, at most `at_once` at the same time. The outcomes are in the order of the commands; none is left out.
    pub async fn many<D: Decider, F: Future<Output = Result<D>>>(commands: impl IntoIterator<Item = F>, at_once: usize) -> Vec<Result<D>> {
        stream::iter(commands).buffered(at_once.max(1)).collect().await
    }

    /// A command whose types are not known, as the command line and processes have it.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn handle_any(
        self,
        decider: &'static dyn DynDecider,
        aggregate: &str,
        command: AnyCommand,
    ) -> std::result::Result<AnyHandled, Unhandled> {
        let AnyCommand { command, id, expected, metadata } = command;
        let order = Order { decider, aggregate: aggregate.into(), command, expected };
        let (HandledOne { aggregate, version, events, state }, replayed) = self.run_one(id, order, metadata).await?;
        let state = state.snapshot().map_err(|unwritable| Unhandled::of_type(&unwritable))?;
        Ok(AnyHandled { aggregate, version, events, state, replayed })
    }

    /// An aggregate as it is now, by a decider whose types are not known.
    pub(crate) async fn load_any(
        self,
        decider: &'static dyn DynDecider,
        aggregate: &AggregateId,
    ) -> std::result::Result<Box<dyn Aggregate>, Unhandled> {
        Ok(History::load(self.store, decider, aggregate, self.deadline).await?.state)
    }

    /// Carries out one command, and tells whether it was answered before.
    async fn run_one(
        self,
        id: Option<String>,
        order: Order,
        metadata: Option<Value>,
    ) -> std::result::Result<(HandledOne, bool), Unhandled> {
        let request = Request { id, orders: vec![order], metadata, ..Request::default() };
        let Answer { mut handled, replayed } = run(self.store, &request, self.deadline).await?;
        Ok((handled.pop().expect("one for each order"), replayed))
    }
}

impl<D: Decider> To<'_, D> {
    /// Gives the command an id: it then has one effect and one answer, however often it is sent. Ids are told apart by aggregate.
    #[must_use]
    pub fn id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// Carries the command out only if the aggregate is at this version, which whoever sent it has seen.
    #[must_use]
    pub fn expecting(self, version: Version) -> Self {
        Self { expected: Some(version), ..self }
    }

    /// Adds this to the metadata of each event: a map.
    #[must_use]
    pub fn metadata(self, metadata: Value) -> Self {
        Self { metadata: Some(metadata), ..self }
    }

    /// Carries the command out.
    ///
    /// # Errors
    /// [`CommandError`], by what to do next.
    pub async fn handle(self, command: &D::Command) -> Result<D> {
        let Self { commands, decider, aggregate, id, expected, metadata } = self;
        let command = to_value(command).map_err(|unwritable| Unhandled::of_type(&unwritable).typed())?;
        let order = Order { decider, aggregate, command, expected };
        let (handled, replayed) = commands.run_one(id, order, metadata).await.map_err(Unhandled::typed)?;
        typed(handled, replayed)
    }
}

impl Together<'_> {
    /// Gives the commands one id. The answer is kept with the first of the aggregates in the order of their ids.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.request.id = Some(id.into());
        self
    }

    /// Adds this to the metadata of each event: a map.
    #[must_use]
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.request.metadata = Some(metadata);
        self
    }

    /// Adds a command.
    #[must_use]
    pub fn command<D: Decider>(mut self, decider: &'static D, aggregate: &str, command: &D::Command) -> Self {
        match to_value(command) {
            Ok(command) => self.request.orders.push(Order { decider, aggregate: aggregate.into(), command, expected: None }),
            Err(unwritable) => self.unwritable = Some(Unhandled::of_type(&unwritable)),
        }
        self
    }

    /// Requires something of another aggregate, which gets no command. If it changes meanwhile, it is looked at again.
    #[must_use]
    pub fn requires<D: Decider>(
        mut self,
        decider: &'static D,
        aggregate: &str,
        rule: impl Fn(&D::State) -> std::result::Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let rule: run::Rule = Box::new(move |state| rule(&state_of::<D>(state)));
        self.request.required.push(Requirement { decider, aggregate: aggregate.into(), rule });
        self
    }

    /// Carries the commands out, all of them or none.
    ///
    /// # Errors
    /// [`CommandError`], by what to do next.
    pub async fn handle(self) -> std::result::Result<HandledTogether, Unhandled> {
        let Self { commands, request, unwritable } = self;
        unwritable.map_or(Ok(()), Err)?;
        let answer = run(commands.store, &request, commands.deadline).await?;
        Ok(HandledTogether { answer })
    }
}

impl<D: Decider> fmt::Debug for Handled<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { aggregate, version, events, state, replayed } = self;
        let mut handled = f.debug_struct("Handled");
        handled.field("aggregate", aggregate).field("version", version).field("events", events);
        handled.field("state", state).field("replayed", replayed).finish()
    }
}

impl<D: Decider> Handled<D> {
    /// The consistency token of what was done, `alice@8`. A read that takes it shows at least this.
    #[must_use]
    pub fn token(&self) -> ConsistencyToken {
        ConsistencyToken { aggregate: self.aggregate.clone(), version: self.version }
    }
}

impl HandledTogether {
    /// Whether earlier commands with this id did it, and this is their answer again.
    #[must_use]
    pub fn replayed(&self) -> bool {
        self.answer.replayed
    }

    /// What was done by one of the aggregates.
    ///
    /// # Panics
    /// If it got no command, or its decider is another one.
    ///
    /// # Errors
    /// [`CommandError::Invalid`] if an event cannot be read as the decider's.
    pub fn of<D: Decider>(&self, _: &'static D, aggregate: &str) -> Result<D> {
        let one = self.answer.handled.iter().find(|one| one.aggregate.as_str() == aggregate);
        let HandledOne { aggregate, version, events, state } = one.expect("it got a command");
        let one = HandledOne { aggregate: aggregate.clone(), version: *version, events: events.clone(), state: state.copy() };
        typed(one, self.answer.replayed)
    }
}

fn typed<D: Decider>(one: HandledOne, replayed: bool) -> Result<D> {
    let events = one.events.iter().map(|event| read_event(&event.event_type, &event.data)).collect::<std::result::Result<_, _>>();
    let events = events.map_err(|misfit| CommandError::Invalid(format!("cannot read an event as it was written: {misfit}")))?;
    let state = state_of::<D>(one.state.state());
    Ok(Handled { aggregate: one.aggregate, version: one.version, events, state, replayed })
}

fn state_of<D: Decider>(state: &dyn std::any::Any) -> D::State {
    state.downcast_ref::<D::State>().expect("the state is of the decider that made it").clone()
}
