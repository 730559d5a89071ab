//! [`Steps`]: the short form of a process that does one thing after another, and undoes them if one is refused.

use std::time::Duration;

use super::{Input, Instance, Outputs, Request, outputs};

/// Steps that are done one after the other. If one is refused or takes too long, those before it are undone in reverse order.
pub struct Steps<S: 'static>(&'static [Step<S>]);

/// One of several steps.
pub struct Step<S> {
    name: &'static str,
    requests: fn(&S) -> Vec<Request>,
    within: Option<Duration>,
}

impl<S> Step<S> {
    /// A step that sends these requests, all at once. It is done when all of them are accepted.
    #[must_use]
    pub const fn new(name: &'static str, requests: fn(&S) -> Vec<Request>) -> Self {
        Self { name, requests, within: None }
    }

    /// The same, and then it waits for what the process reports by [`Steps::arrived`], for this long.
    #[must_use]
    pub const fn arrives_within(self, time: Duration) -> Self {
        Self { within: Some(time), ..self }
    }
}

impl<S> Steps<S> {
    /// A list of steps, which may be empty.
    ///
    /// # Panics
    /// If two have one name: an answer could not tell which of them it is about. In a constant, this does not compile.
    #[must_use]
    pub const fn new(steps: &'static [Step<S>]) -> Self {
        let mut at = 0;
        while at < steps.len() {
            let mut before = 0;
            while before < at {
                assert!(!same(steps[before].name, steps[at].name), "two steps have the same name");
                before += 1;
            }
            at += 1;
        }
        Self(steps)
    }

    /// The first step, for an instance that will be in this state.
    pub fn begin<F>(&self, state: &S) -> Outputs<F> {
        self.from(0, state, outputs())
    }

    /// What follows an input that is not an event.
    pub fn next<F, E>(&self, instance: &Instance<S>, input: &Input<'_, E>) -> Outputs<F> {
        match input {
            Input::Event(_) => outputs(),
            Input::Accepted { name, .. } => self.after(instance, name, instance.timer(name), outputs()),
            Input::Refused { name, message, .. } => outputs().fail(format!("`{name}` was refused: {message}")),
            Input::TimedOut { name, .. } => outputs().fail(format!("`{name}` did not end in time")),
        }
    }

    /// What a step waits for has happened. Nothing follows if it does not wait.
    pub fn arrived<F>(&self, instance: &Instance<S>, name: &str) -> Outputs<F> {
        if !instance.timer(name) {
            return outputs();
        }
        self.after(instance, name, false, outputs().cancel(name))
    }

    /// The step after this one, unless this one still waits for an answer or for what arrives.
    fn after<F>(&self, instance: &Instance<S>, name: &str, arrives: bool, outputs: Outputs<F>) -> Outputs<F> {
        match self.0.iter().position(|step| step.name == name) {
            Some(at) if !arrives && instance.waiting(name) == 0 => self.from(at + 1, instance.state(), outputs),
            _ => outputs,
        }
    }

    fn from<F>(&self, at: usize, state: &S, mut outputs: Outputs<F>) -> Outputs<F> {
        for Step { name, requests, within } in &self.0[at..] {
            let requests = requests(state);
            if requests.is_empty() && within.is_none() {
                continue;
            }
            outputs = requests.into_iter().fold(outputs, |outputs, request| outputs.send(name, request));
            return within.iter().fold(outputs, |outputs, time| outputs.after(*time, name));
        }
        outputs.complete()
    }
}

/// Whether two texts are the same. `==` is not known while constants are computed.
const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}
