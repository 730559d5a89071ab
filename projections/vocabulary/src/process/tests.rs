//! What the tests of processes share: a process whose events say what it decides, and a lamp that it commands.

mod every_order;
mod protocol;
mod registry;
mod status;
mod steps;
mod written;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Input, Instance, Outputs, Process, Request, Told, call, outputs, send};
use crate::{
    Decider, DynDecider, Recorded, RecordedEvent, Refusal, Timestamp, Value, Version,
    testkit::{Run, process},
    write_event,
};

/// What the process reacts to.
#[derive(Serialize, Deserialize)]
enum Event {
    /// Decides this.
    Do {
        what: Vec<Out>,
    },
    Unrouted {},
    Unnamed {},
    Lost {},
}

/// One thing that it decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Out {
    /// Records what follows an input, such as `accepted a`.
    When(String, Vec<Out>),
    /// Sends a request without undo.
    Send(String),
    /// Sends one with undo.
    Undoable(String),
    /// Makes a call, with undo.
    Call(String),
    UndoBy(String),
    After(String, u64),
    Cancel(String),
    Complete,
    Fail,
    /// Commands a kind that it does not name; if this is true, as an undo.
    Stray(bool),
    /// Sends a list within lists.
    Deep(usize),
    Refuse,
    Panic,
    /// Records what makes `evolve` panic.
    PanicLater,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Fact {
    Planned { input: String, what: Vec<Out> },
    Broken {},
}

/// What follows each input.
type Plan = BTreeMap<String, Vec<Out>>;

struct Script;

impl Process for Script {
    type Input = Event;
    type Fact = Fact;
    type State = Plan;
    const NAME: &str = "script";
    const COMMANDED: &[&dyn DynDecider] = &[&Lamp];

    fn route(&self, event: &Recorded<'_, Event>) -> Option<String> {
        match event.event {
            Event::Do { .. } => Some("i".to_owned()),
            Event::Unrouted {} => None,
            Event::Unnamed {} => Some(String::new()),
            Event::Lost {} => panic!("lost"),
        }
    }

    fn evolve(&self, plan: &mut Plan, fact: &Fact) {
        match fact {
            Fact::Planned { input, what } => plan.insert(input.clone(), what.clone()),
            Fact::Broken {} => panic!("broken"),
        };
    }

    fn decide(&self, instance: &Instance<Plan>, input: Input<'_, Event>) -> Result<Outputs<Fact>, Refusal> {
        let key = match &input {
            Input::Event(Recorded { event: Event::Do { what }, .. }) => return decided(what),
            Input::Event(_) => return Ok(outputs()),
            Input::Accepted { name, .. } => format!("accepted {name}"),
            Input::Refused { name, .. } => format!("refused {name}"),
            Input::TimedOut { name, .. } => format!("timed out {name}"),
        };
        decided(instance.state().get(&key).map_or(&[], Vec::as_slice))
    }
}

fn decided(what: &[Out]) -> Result<Outputs<Fact>, Refusal> {
    let command = |name: &String, on| send(&Lamp, "l", &Switch::Turn { name: name.clone(), on });
    what.iter().try_fold(outputs(), |all, out| {
        Ok(match out {
            Out::When(input, what) => all.record(Fact::Planned { input: input.clone(), what: what.clone() }),
            Out::Send(name) => all.send(name, command(name, true)),
            Out::Undoable(name) => all.send(name, command(name, true).undo(command(name, false))),
            Out::Call(name) => all.send(name, call("bell", name).undo(command(name, false))),
            Out::UndoBy(name) => all.undo_by(name, command(name, false)),
            Out::After(name, seconds) => all.after(Duration::from_secs(*seconds), name),
            Out::Cancel(name) => all.cancel(name),
            Out::Complete => all.complete(),
            Out::Fail => all.fail("asked to"),
            Out::Stray(undo) => {
                let stray = send(&Stray, "l", &Switch::Turn { name: String::new(), on: true });
                all.send("stray", if *undo { command(&String::new(), true).undo(stray) } else { stray })
            }
            Out::Deep(levels) => all.send("deep", call("bell", &lists(*levels))),
            Out::Refuse => return Err(Refusal::Rule("no")),
            Out::Panic => panic!("asked to"),
            Out::PanicLater => all.record(Fact::Broken {}),
        })
    })
}

/// Lists within each other.
fn lists(levels: usize) -> Value {
    (0..levels).fold(Value::Null, |inner, _| Value::List(vec![inner]))
}

/// What is commanded.
struct Lamp;

/// What is not.
struct Stray;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Switch {
    Turn { name: String, on: bool },
}

#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("never")]
struct Never;

macro_rules! deciders {
    ($($decider:ident $kind:literal;)*) => {
        $(impl Decider for $decider {
            type State = ();
            type Command = Switch;
            type Event = Switch;
            type Refusal = Never;
            const KIND: &str = $kind;

            fn decide(&self, (): &(), command: &Switch) -> Result<Vec<Switch>, Never> {
                Ok(vec![command.clone()])
            }

            fn evolve(&self, (): &mut (), _: &Switch) {}
        })*
    };
}

deciders! {
    Lamp "lamp";
    Stray "stray";
}

fn when(input: &str, what: impl Into<Vec<Out>>) -> Out {
    Out::When(input.to_owned(), what.into())
}

fn send_to_lamp(name: &str) -> Out {
    Out::Send(name.to_owned())
}

fn undoable(name: &str) -> Out {
    Out::Undoable(name.to_owned())
}

fn call_bell(name: &str) -> Out {
    Out::Call(name.to_owned())
}

fn after(name: &str, seconds: u64) -> Out {
    Out::After(name.to_owned(), seconds)
}

fn cancel(name: &str) -> Out {
    Out::Cancel(name.to_owned())
}

fn data_of(what: impl Into<Vec<Out>>) -> Value {
    write_event(&Event::Do { what: what.into() }).expect("written").1
}

/// A run that has received this.
fn run(what: impl Into<Vec<Out>>) -> Run<Script> {
    then(process(Script), what)
}

fn then(run: Run<Script>, what: impl Into<Vec<Out>>) -> Run<Script> {
    run.event("s", "Do", data_of(what))
}

/// An event of an aggregate that is delivered.
fn delivery(aggregate: &str, version: u64, what: impl Into<Vec<Out>>) -> Told {
    let timestamp = Timestamp::parse("2026-01-01T00:00:00Z").expect("valid");
    let event = RecordedEvent {
        aggregate: aggregate.into(),
        version: Version(version),
        event_id: format!("{aggregate}-{version}").into(),
        event_type: "Do".into(),
        data: data_of(what),
        timestamp,
        metadata: None,
    };
    Told::Deliver { event }
}

/// What has happened, without what requests carry.
fn story(run: &Run<Script>) -> String {
    let timeline = run.timeline();
    let lines = timeline.lines().filter(|line| !line.starts_with("recorded "));
    let short = lines.map(|line| match line.split_once(" to ") {
        Some((sent, _)) if sent.starts_with("sent ") => sent,
        _ => line.split_once(" by ").map_or(line, |(line, _)| line),
    });
    short.filter(|line| !line.starts_with("received ")).collect::<Vec<_>>().join(", ")
}

/// Asserts that nothing follows.
#[track_caller]
fn ignored(run: &Run<Script>, told: &Told) {
    let before = run.timeline();
    assert_eq!(run.clone().tell(told).timeline(), before, "nothing was to follow {told:?}");
}

fn panic_of<T>(test: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(test)).err().expect("it panics");
    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).expect("a message")
}

fn turn(name: &str) -> Request {
    send(&Lamp, "l", &Switch::Turn { name: name.to_owned(), on: true })
}
