//! `projector process` and `projector tick`: instances of processes, and what an operator does with those that are stuck.

use anyhow::bail;
use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use projection_vocabulary::{
    AggregateId, DynProjection, Registry, Timestamp, Value,
    process::{DynProcess, Outcome, Requested, Status, Target, Told, told},
};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    corrections::AuditOptions,
    format::Format,
    pretty_json,
    stores::Named,
    terminal,
    text::{Lines, count, printable, to_the_second},
};
use crate::{
    operations::{
        error::OperationError,
        processes::{self, LISTED, Listed, Ticked, WithHistory},
    },
    retry::Deadline,
    store,
};

/// What to do with process instances.
#[derive(Subcommand)]
pub enum Command {
    /// List instances, the oldest first
    ///
    /// Without --status those that have not ended. It reads the projection `process-status`, which is as recent as the worker. Exit code 1 if
    /// any that is listed is stuck.
    #[command(after_help = "Example: projector --data demo.db process list --status stuck")]
    List(ListOptions),
    /// Show an instance: its state, what it received and sent, and how that was answered
    ///
    /// It prints event data. Exit code 1 if there is no such instance.
    #[command(after_help = "Example: projector --data demo.db process show order-fulfilment/o1")]
    Show(ShowOptions),
    /// Make a stuck instance try again what it is stuck at
    ///
    /// What undoes a step is sent again as a new command; a call is made again with its first idempotency key. The worker carries it out.
    #[command(after_help = "Example: projector --data demo.db process retry order-fulfilment/o1 --why reopened")]
    Retry(OperateOptions),
    /// End a stuck instance, after putting things right by hand
    ///
    /// It keeps who resolved it and why. What it is stuck at is not tried again; what it had sent before is still carried out.
    #[command(after_help = "Example: projector --data demo.db process resolve order-fulfilment/o1 --why by-hand")]
    Resolve(OperateOptions),
}

/// Which instances to list.
#[derive(Args)]
pub struct ListOptions {
    /// Only this process
    #[arg(value_name = "PROCESS", allow_hyphen_values = true)]
    process: Option<String>,
    /// Only instances at this status; may be repeated
    #[arg(long, value_name = "STATUS", value_parser = listed())]
    status: Vec<Status>,
    /// At most so many of each process and status
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    format: Format,
}

/// Which instance to show.
#[derive(Args)]
pub struct ShowOptions {
    /// The instance, as `process list` names it: PROCESS/INSTANCE
    #[arg(value_name = "INSTANCE", allow_hyphen_values = true)]
    instance: String,
    #[command(flatten)]
    format: Format,
}

/// Which instance to retry or resolve.
#[derive(Args)]
pub struct OperateOptions {
    /// The instance, as `process list` names it: PROCESS/INSTANCE
    #[arg(value_name = "INSTANCE", allow_hyphen_values = true)]
    instance: String,
    #[command(flatten)]
    audit: AuditOptions,
    #[command(flatten)]
    format: Format,
}

/// Which timers run out.
#[derive(Args)]
pub struct TickOptions {
    /// As if it were this time: 2026-01-05T09:00:00Z; for a --data file only
    #[arg(long, value_name = "TIMESTAMP")]
    at: Option<String>,
    #[command(flatten)]
    format: Format,
}

fn listed() -> impl TypedValueParser<Value = Status> {
    let names = PossibleValuesParser::new(LISTED.map(Status::as_str));
    names.map(|name| LISTED.into_iter().find(|status| status.as_str() == name).expect("it is one of these"))
}

/// `process`
pub async fn run(command: &Command, cx: &mut Context) -> anyhow::Result<u8> {
    match command {
        Command::List(options) => list(options, cx).await,
        Command::Show(options) => show(options, cx).await,
        Command::Retry(options) => {
            let done = "retried: the worker carries out what was sent";
            operate(options, ("Try again what {} is stuck at?", |note| Told::Retry { note }, done), cx).await
        }
        Command::Resolve(options) => operate(options, ("End {} as it is?", |note| Told::Resolve { note }, "resolved"), cx).await,
    }
}

async fn list(ListOptions { process, status, limit, format }: &ListOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let chosen: Vec<_> = match process {
        Some(name) => vec![named(cx.registry, name)?],
        None => cx.registry.processes().collect(),
    };
    let store = cx.open_existing_store().await?;
    let statuses: Vec<Status> = match status.as_slice() {
        [] => vec![Status::Open, Status::Undoing, Status::Stuck],
        some => some.to_vec(),
    };
    let mut listed = Vec::new();
    for process in &chosen {
        for status in &statuses {
            listed.extend(processes::instances(&store, *process, *status, *limit, Deadline::NONE).await?);
        }
    }
    let stuck = listed.iter().any(|one| one.status == Status::Stuck);
    if format.is_json() {
        for one in &listed {
            cx.out.line(pretty_json::line(&json_of(one))?);
        }
    } else {
        cx.out.text(&Named::of(&cx.store, store.names(), &[]).text());
        cx.out.text(&drawn(&listed));
    }
    Ok(if stuck { EXIT_FINDINGS } else { EXIT_OK })
}

fn json_of(Listed { aggregate, status, started, ended, why }: &Listed) -> impl Serialize {
    json!({ "instance": aggregate.as_str(), "status": status.as_str(), "startedAt": started, "endedAt": ended, "why": why })
}

fn drawn(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "no instances at that status\n".to_owned();
    }
    let mut table = terminal::table();
    table.set_header(terminal::header(["instance", "status", "started", "ended", "why"]));
    for Listed { aggregate, status, started, ended, why } in listed {
        let ended = ended.as_deref().map(to_the_second).unwrap_or_default();
        let why = why.as_deref().map(printable).unwrap_or_default();
        table.add_row([printable(aggregate.as_str()), status.to_string(), to_the_second(started), ended, why]);
    }
    terminal::drawn(table) + "\n"
}

async fn show(ShowOptions { instance: name, format }: &ShowOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let (process, aggregate) = instance_of(cx.registry, name)?;
    let store = cx.open_existing_store().await?;
    let Some(WithHistory { instance, events }) = processes::show(&store, process, &aggregate, Deadline::NONE).await? else {
        return Ok(missing(name));
    };
    if format.is_json() {
        let history: Vec<_> = events
            .iter()
            .map(|event| {
                let data: Box<RawValue> = event.data.to_json();
                json!({ "version": event.version.0, "at": event.timestamp.as_str(), "type": &*event.event_type, "data": data })
            })
            .collect();
        let timers: Vec<_> = instance.timers().iter().map(|(name, (_, due))| json!({ "name": name, "due": due.as_str() })).collect();
        let document = json!({
            "instance": aggregate.as_str(),
            "status": instance.status().as_str(),
            "why": instance.why(),
            "state": instance.state().to_json(),
            "timers": timers,
            "requests": instance.requests().iter().map(|(version, request)| request_json(*version, request)).collect::<Vec<_>>(),
            "history": history,
        });
        cx.out.line(pretty_json::line(&document)?);
        return Ok(EXIT_OK);
    }
    let mut lines = Lines::default();
    let why = instance.why().map(|why| format!(": {why}")).unwrap_or_default();
    lines.add(format_args!("{}: {}{}", printable(aggregate.as_str()), instance.status(), printable(&why)));
    if *instance.state() != Value::Null {
        lines.add(format_args!("state: {}", printable(instance.state().to_json().get())));
    }
    for (name, (_, due)) in instance.timers() {
        lines.add(format_args!("timer {} runs out at {}", printable(name), to_the_second(due.as_str())));
    }
    let columns = terminal::columns();
    for event in &events {
        let first = format!("{:>4}  {}  ", event.version.0, to_the_second(event.timestamp.as_str()));
        lines.paragraph(&first, &told(event, &instance), &" ".repeat(first.len()), columns);
    }
    cx.out.text(&lines.into_text());
    Ok(EXIT_OK)
}

fn request_json(version: u64, request: &Requested) -> impl Serialize {
    let Requested { name, to, undoes, outcome, tries, .. } = request;
    let outcome = match outcome {
        Outcome::Waiting => "waiting",
        Outcome::Accepted => "accepted",
        Outcome::Refused => "refused",
        Outcome::Undone => "undone",
        Outcome::Repeated => "repeated",
    };
    json!({ "version": version, "name": name, "to": to.as_ref().map(Target::place), "undoes": undoes, "outcome": outcome, "tries": tries })
}

/// Tells a stuck instance something, after asking.
async fn operate(
    OperateOptions { instance, audit, format }: &OperateOptions,
    (question, told, outcome): (&str, fn(String) -> Told, &str),
    cx: &mut Context,
) -> anyhow::Result<u8> {
    let (process, aggregate) = instance_of(cx.registry, instance)?;
    let store = cx.open_existing_store().await?;
    if processes::show(&store, process, &aggregate, Deadline::NONE).await?.is_none() {
        return Ok(missing(instance));
    }
    if !audit.agreed(&question.replace("{}", &printable(instance)))? {
        return Ok(EXIT_OK);
    }
    match processes::operate(&store, process, &aggregate, &told(audit.note()), Deadline::NONE).await {
        Ok(()) if format.is_json() => cx.out.line(pretty_json::line(&json!({ "instance": instance, "done": true }))?),
        Ok(()) => cx.out.line(format_args!("{} {outcome}", printable(instance))),
        Err(OperationError::NotTaken(why)) => {
            terminal::error(format_args!("{}: {}", printable(instance), printable(&why)));
            return Ok(EXIT_FINDINGS);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(EXIT_OK)
}

fn missing(instance: &str) -> u8 {
    terminal::error(format_args!("there is no instance {}: `projector process list` names them", printable(instance)));
    EXIT_FINDINGS
}

/// The process of this name.
fn named(registry: Registry, name: &str) -> anyhow::Result<&'static dyn DynProcess> {
    if let Some(process) = registry.processes().find(|process| process.name() == name) {
        return Ok(process);
    }
    let known: Vec<_> = registry.processes().map(DynProjection::name).collect();
    if known.is_empty() {
        bail!("no process is in this program");
    }
    bail!("no process {} is in this program, which has {}", printable(name), known.join(", "))
}

/// The process of an instance, and its aggregate.
fn instance_of(registry: Registry, name: &str) -> anyhow::Result<(&'static dyn DynProcess, AggregateId)> {
    let Some((process, _)) = name.split_once('/') else { bail!("an instance is named PROCESS/INSTANCE, as `projector process list` does") };
    Ok((named(registry, process)?, name.into()))
}

/// `tick`
pub async fn tick(TickOptions { at, format }: &TickOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let now = match at {
        Some(_) if cx.store.is_remote() => bail!("--at is for trying things out in a --data file: elsewhere, time passes by itself"),
        Some(at) => Timestamp::parse(at).map_err(|error| anyhow::anyhow!("--at is {error}"))?,
        None => store::now(),
    };
    let worker = cx.worker(cx.open_existing_store().await?);
    let Ticked { due, failed, processes, .. } = processes::tick(&worker, &now, Deadline::NONE).await?;
    let timed_out: u64 = processes.values().map(|instances| instances.timed_out).sum();
    if format.is_json() {
        cx.out.line(pretty_json::line(&json!({ "due": due, "timedOut": timed_out, "failed": failed }))?);
    } else {
        let failed = if failed > 0 { format!(", {} could not be told: see the log", count(failed, "instance")) } else { String::new() };
        cx.out.line(format_args!("{} due, {timed_out} ran out now{failed}", count(due, "timer")));
    }
    Ok(if failed > 0 { EXIT_FINDINGS } else { EXIT_OK })
}
