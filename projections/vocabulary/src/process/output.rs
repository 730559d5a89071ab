//! What a process decides.

use std::time::Duration;

use serde::Serialize;

use super::Target;
use crate::{Decider, Unwritable, to_value};

/// What a process decides about one input. Made by [`outputs`], or by [`Steps`](super::Steps).
#[derive(Clone, Debug)]
#[must_use = "outputs do nothing unless they are returned"]
pub struct Outputs<F> {
    pub(super) facts: Vec<F>,
    pub(super) requests: Vec<(String, Request)>,
    pub(super) undo_only: Vec<(String, Request)>,
    pub(super) timers: Vec<(String, Duration)>,
    pub(super) cancelled: Vec<String>,
    pub(super) end: Option<End>,
}

/// How an instance ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    Complete,
    Fail(String),
}

/// A command or a call, and what undoes it. Made by [`send`] and [`call`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is in the outputs"]
pub struct Request {
    pub(super) to: Result<Target, Unwritable>,
    pub(super) undo: Option<Result<Target, Unwritable>>,
}

/// Nothing yet.
pub fn outputs<F>() -> Outputs<F> {
    let (facts, requests, undo_only, timers, cancelled) = Default::default();
    Outputs { facts, requests, undo_only, timers, cancelled, end: None }
}

/// A command to an aggregate. Its kind must be one of [`Process::COMMANDED`](super::Process::COMMANDED).
pub fn send<D: Decider>(_: &D, aggregate: &str, command: &D::Command) -> Request {
    let command = to_value(command).map(|command| Target::Command { kind: D::KIND.to_owned(), aggregate: aggregate.to_owned(), command });
    Request { to: command, undo: None }
}

/// A call of a function that is registered beside the process, such as a payment provider's. It is made at least once, each time with the
/// same idempotency key.
pub fn call<T: Serialize>(function: &str, argument: &T) -> Request {
    let call = to_value(argument).map(|argument| Target::Call { function: function.to_owned(), argument });
    Request { to: call, undo: None }
}

impl Request {
    /// Says what undoes it. If the process fails, this is sent, provided that the request was accepted.
    pub fn undo(self, undo: Self) -> Self {
        Self { undo: Some(undo.to), ..self }
    }
}

impl<F> Outputs<F> {
    /// Records a fact of the process's own. Facts come first, in their order.
    pub fn record(mut self, fact: F) -> Self {
        self.facts.push(fact);
        self
    }

    /// Sends a request. Its answer comes back as an input with this name. Several may have one name.
    pub fn send(mut self, name: &str, request: Request) -> Self {
        self.requests.push((name.to_owned(), request));
        self
    }

    /// Says what is to be sent if the process fails, without sending anything now. It is undone in its turn, as a request that was accepted
    /// now. What undoes a request is better said with it, by [`Request::undo`]: an instance that has failed meanwhile does not decide about
    /// the acceptance.
    pub fn undo_by(mut self, name: &str, undo: Request) -> Self {
        self.undo_only.push((name.to_owned(), undo));
        self
    }

    /// Starts a timer, which comes back as an input with this name after a time, to the minute. A timer of the same name is replaced.
    /// The name has 1 to 1,024 bytes and begins with neither a space nor `!`.
    pub fn after(mut self, time: Duration, name: &str) -> Self {
        self.timers.push((name.to_owned(), time));
        self
    }

    /// Stops a timer, if it runs.
    pub fn cancel(mut self, name: &str) -> Self {
        self.cancelled.push(name.to_owned());
        self
    }

    /// Ends the instance. All of its timers stop, and those of these outputs do not start. Requests of these outputs are sent. Answers to requests that are still open are recorded and no longer decided about.
    pub fn complete(mut self) -> Self {
        self.end = Some(End::Complete);
        self
    }

    /// Fails: once what was sent is answered, everything that was accepted is undone, the last first and one at a time. Requests and timers
    /// of these outputs are dropped; facts and what [`Outputs::undo_by`] says are not.
    pub fn fail(mut self, why: impl Into<String>) -> Self {
        self.end = Some(End::Fail(why.into()));
        self
    }
}
