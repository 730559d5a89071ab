//! Instances of processes, and the timeline of one.

use maud::{Markup, html};
use projection_vocabulary::{
    AggregateId, Value,
    process::{DynProcess, Requested, Status, Told, told},
};
use serde::Deserialize;

use super::{Failure, ON_A_PAGE, SaidBefore, link, of_aggregate, page as whole, short, text};
use crate::{
    dev::Console,
    operations::{
        error::OperationError,
        processes::{self, LISTED, Listed, WithHistory},
    },
    retry::Deadline,
};

/// Which instances.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    status: String,
}

/// Which instance.
#[derive(Deserialize)]
pub struct One {
    instance: String,
}

/// What to do with a stuck instance.
#[derive(Deserialize)]
pub struct Operate {
    /// The instance.
    pub instance: String,
    what: String,
    why: String,
}

/// The list.
pub async fn list(console: &Console, asked: &Asked) -> Result<Markup, Failure> {
    let only = LISTED.into_iter().find(|status| status.as_str() == asked.status);
    let mut listed = Vec::new();
    for process in console.registry.processes() {
        for status in LISTED.into_iter().filter(|status| only.is_none_or(|only| only == *status)) {
            listed.extend(processes::instances(&console.store, process, status, ON_A_PAGE, Deadline::NONE).await?);
        }
    }
    let body = html! {
        h1 { "Processes" }
        @if console.registry.processes().next().is_none() { p { "This program has no processes." } } @else {
            nav.tabs aria-label="Statuses" {
                a href="/processes" aria-current=[only.is_none().then_some("page")] { "all" }
                @for status in LISTED {
                    a href=(link("/processes", &[("status", status.as_str())])) aria-current=[(only == Some(status)).then_some("page")] { (status.as_str()) }
                }
            }
            div #live data-live {
                @if listed.is_empty() { p { "No instances. An event that a process begins with makes one." } } @else { (table(&listed)) }
            }
            p.hint { "At most " (ON_A_PAGE) " of each status, the oldest first, as recent as the worker." }
        }
    };
    Ok(whole("/processes", "Processes", &SaidBefore::default(), &body))
}

fn table(listed: &[Listed]) -> Markup {
    html! {
        table {
            thead { tr { th { "instance" } th { "status" } th { "started" } th { "ended" } th { "why" } } }
            tbody {
                @for Listed { aggregate, status, started, ended, why } in listed {
                    tr {
                        td { a href=(link("/process", &[("instance", aggregate.as_str())])) { (text(aggregate.as_str())) } }
                        td { (mark(*status)) }
                        td { (text(started)) }
                        td { (text(ended.as_deref().unwrap_or_default())) }
                        td { (short(why.as_deref().unwrap_or_default())) }
                    }
                }
            }
        }
    }
}

fn mark(status: Status) -> Markup {
    let (class, sign) = match status {
        Status::Completed | Status::Resolved => ("applied", "✓"),
        Status::Stuck => ("failed", "✗"),
        Status::Undoing | Status::Undone => ("parked", "↶"),
        Status::New | Status::Open => ("duplicate", "…"),
    };
    html! { span class={ "mark " (class) } { (sign) " " (status.as_str()) } }
}

/// One instance with its timeline.
pub async fn one(console: &Console, asked: &One, said: &SaidBefore) -> Result<Markup, Failure> {
    let (process, id) = of(console, &asked.instance)?;
    let loaded = processes::show(&console.store, process, &id, Deadline::NONE).await?;
    let Some(WithHistory { instance, events }) = loaded else {
        return Err(Failure::NotFound(format!("there is no instance {}", text(&asked.instance))));
    };
    let waits = instance.requests().values().filter(|request| request.outcome == projection_vocabulary::process::Outcome::Waiting);
    let waits: Vec<_> = waits.filter(|request| request.to.is_some()).collect();
    let body = html! {
        h1 { (text(id.as_str())) }
        div #live data-live {
            p { (mark(instance.status())) @if let Some(why) = instance.why() { " " (text(why)) } }
            @if *instance.state() != Value::Null { p { "State: " code { (short(instance.state().to_json().get())) } } }
            @for (name, (_, due)) in instance.timers() { p { "Timer " (text(name)) " runs out at " time { (due.as_str()) } } }
            @for request in &waits { p { (waiting(request)) } }
            @if instance.status() == Status::Stuck { (operations(&asked.instance)) }
            h2 { "Timeline" }
            ol.timeline {
                @for event in &events {
                    li value=(event.version.0) { time { (event.timestamp.as_str()) } " " (short(&told(event, &instance))) }
                }
            }
        }
        p { (of_aggregate(id.as_str(), "")) " as an aggregate" }
    };
    Ok(whole("/processes", id.as_str(), said, &body))
}

fn waiting(Requested { name, to, tries, .. }: &Requested) -> Markup {
    html! {
        "Waits for an answer to " strong { (text(name)) }
        @if let Some(to) = to { " by " (text(&to.place())) }
        @if *tries > 0 { ", after " (tries) " tries" }
    }
}

fn operations(instance: &str) -> Markup {
    html! {
        form.line method="post" action="/process" {
            input type="hidden" name="instance" value=(instance);
            label { "Why " input name="why" required; }
            button name="what" value="retry" { "Try again" }
            button name="what" value="resolve" { "Resolve as it is" }
        }
    }
}

/// Does what an operator asks for. Returns whether it was done, and a sentence.
pub async fn operate(console: &Console, form: &Operate) -> Result<(bool, String), Failure> {
    let (process, id) = of(console, &form.instance)?;
    let note = format!("{} (development console)", form.why.trim());
    let (told, done) = match form.what.as_str() {
        "retry" => (Told::Retry { note }, "it tries again"),
        "resolve" => (Told::Resolve { note }, "it is resolved"),
        _ => return Err(Failure::Invalid("there is no such operation".to_owned())),
    };
    match processes::operate(&console.store, process, &id, &told, Deadline::NONE).await {
        Ok(()) => Ok((true, done.to_owned())),
        Err(OperationError::NotTaken(why)) => Ok((false, text(&why))),
        Err(error) => Err(error.into()),
    }
}

fn of(console: &Console, instance: &str) -> Result<(&'static dyn DynProcess, AggregateId), Failure> {
    let named = instance.split_once('/').and_then(|(name, _)| console.registry.processes().find(|process| process.name() == name));
    let process = named.ok_or_else(|| Failure::NotFound(format!("there is no process of {}", text(instance))))?;
    Ok((process, instance.into()))
}
