//! `projector command`: tells an aggregate to do something.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use futures::{StreamExt as _, stream};
use projection_vocabulary::{Deciders, DynDecider, Value, Version};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    Context, EXIT_FINDINGS, EXIT_OK, EXIT_USAGE,
    format::Format,
    json_lines, terminal,
    text::{Lines, count_of, printable},
};
use crate::commands::{AnyCommand, AnyHandled, Commands, Unhandled};

/// How many commands of a file are under way at the same time.
const AT_ONCE: usize = 16;

/// Which command.
#[derive(Args)]
pub struct Options {
    /// The kind of aggregate; without it, lists the kinds and their commands
    kind: Option<String>,
    /// The aggregate's id
    #[arg(requires = "command")]
    aggregate: Option<String>,
    /// The command as JSON
    command: Option<String>,
    /// The command's id: sent again with it, the command has one effect and the same answer
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Carry it out only if the aggregate is at this version
    #[arg(long, value_name = "VERSION")]
    expect: Option<u64>,
    /// Carry out the commands of a file: JSON Lines of "aggregateId", "command" and, if you like, "id" and "expectedVersion"
    #[arg(long, value_name = "FILE", conflicts_with_all = ["aggregate", "id", "expect"], requires = "kind")]
    file: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

/// One command of a file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    aggregate_id: String,
    command: Box<RawValue>,
    id: Option<String>,
    expected_version: Option<u64>,
}

struct Parsed {
    aggregate: String,
    command: Value,
    id: Option<String>,
    expected: Option<Version>,
}

/// `command`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let Some(kind) = &options.kind else {
        let kinds = kinds(cx.deciders.all());
        if kinds.is_empty() {
            bail!("this program has no aggregates that take commands");
        }
        cx.out.text(&kinds);
        return Ok(EXIT_OK);
    };
    let decider = cx.deciders.get(kind).with_context(|| unknown(cx.deciders, kind))?;
    if let Some(file) = &options.file {
        return run_file(decider, read(file)?, options.format, cx).await;
    }
    let (Some(aggregate), Some(command)) = (&options.aggregate, &options.command) else {
        cx.out.text(&kinds(&[decider]));
        return Ok(EXIT_OK);
    };
    let command =
        parsed(command).map_err(|error| anyhow::anyhow!("{error:#}; `projector command {}` lists its commands", printable(kind)))?;
    let parsed = Parsed { aggregate: aggregate.clone(), command, id: options.id.clone(), expected: options.expect.map(Version) };
    let store = cx.open_store_to_fill().await?;
    let outcome = carry_out(Commands::new(&store), decider, parsed).await;
    Ok(report(aggregate, outcome, options.format, cx))
}

async fn carry_out(commands: Commands<'_>, decider: &'static dyn DynDecider, parsed: Parsed) -> Result<AnyHandled, Unhandled> {
    let Parsed { aggregate, command, id, expected } = parsed;
    commands.handle_any(decider, &aggregate, AnyCommand { command, id, expected, metadata: None }).await
}

async fn run_file(decider: &'static dyn DynDecider, lines: Vec<Parsed>, format: Format, cx: &mut Context) -> anyhow::Result<u8> {
    let store = cx.open_store_to_fill().await?;
    let commands = Commands::new(&store);
    let outcomes = lines.into_iter().map(|parsed| async {
        let aggregate = parsed.aggregate.clone();
        (aggregate, carry_out(commands, decider, parsed).await)
    });
    let (mut exit, mut accepted, mut others) = (EXIT_OK, 0, 0);
    let mut outcomes = stream::iter(outcomes).buffered(AT_ONCE);
    while let Some((aggregate, outcome)) = outcomes.next().await {
        if outcome.is_ok() {
            accepted += 1;
        } else {
            others += 1;
        }
        exit = exit.max(report(&aggregate, outcome, format, cx));
    }
    terminal::note(format_args!("{} carried out, {others} not", count_of(accepted, "command")));
    Ok(exit)
}

/// Prints what came of a command. Returns the exit code.
fn report(aggregate: &str, outcome: Result<AnyHandled, Unhandled>, format: Format, cx: &mut Context) -> u8 {
    match outcome {
        Ok(handled) if format.is_json() => {
            cx.out.line(accepted(&handled));
            EXIT_OK
        }
        Ok(handled) => {
            cx.out.text(&lines_of(&handled));
            EXIT_OK
        }
        Err(error) => {
            let code = match error {
                Unhandled::Refused { .. } | Unhandled::Taken { .. } | Unhandled::Conflict { .. } | Unhandled::Contended { .. } => {
                    EXIT_FINDINGS
                }
                Unhandled::IdReused
                | Unhandled::Invalid(_)
                | Unhandled::Unreadable { .. }
                | Unhandled::Outdated { .. }
                | Unhandled::Store(_) => EXIT_USAGE,
            };
            if format.is_json() {
                cx.out.line(not_accepted(aggregate, &error));
            }
            let before = match &error {
                Unhandled::Refused { replayed: true, .. } | Unhandled::Taken { replayed: true, .. } => "refused before, and so again: ",
                Unhandled::Refused { .. } | Unhandled::Taken { .. } => "refused: ",
                _ => "",
            };
            // These name it themselves.
            let named = matches!(
                error,
                Unhandled::Conflict { .. } | Unhandled::Contended { .. } | Unhandled::Unreadable { .. } | Unhandled::Outdated { .. }
            );
            let name = if named || aggregate.is_empty() { String::new() } else { format!("{}: ", printable(aggregate)) };
            terminal::error(format_args!("{name}{before}{}", printable(&error.to_string())));
            code
        }
    }
}

fn lines_of(handled: &AnyHandled) -> String {
    let AnyHandled { aggregate, version, events, replayed, .. } = handled;
    let mut lines = Lines::default();
    let before = if *replayed { ", as answered before" } else { "" };
    let done = if events.is_empty() { "nothing happened".to_owned() } else { format!("{} appended", count_of(events.len(), "event")) };
    lines.add(format_args!("{}@{version}: {done}{before}", printable(aggregate.as_str())));
    for event in events {
        lines.add(format_args!("  {}  {} {}", event.version, printable(&event.event_type), printable(event.data.to_json().get())));
    }
    lines.into_text()
}

fn accepted(handled: &AnyHandled) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Accepted<'a> {
        aggregate_id: &'a str,
        version: u64,
        token: String,
        replayed: bool,
        events: Vec<Event<'a>>,
        state: Box<RawValue>,
    }

    // The names of the event store's attributes.
    #[derive(Serialize)]
    struct Event<'a> {
        #[serde(rename = "eventVersion")]
        version: u64,
        #[serde(rename = "eventId")]
        id: &'a str,
        #[serde(rename = "eventType")]
        of_type: &'a str,
        #[serde(rename = "eventData")]
        data: Box<RawValue>,
    }

    let AnyHandled { aggregate, version, events, state, replayed } = handled;
    let events = events.iter().map(|event| Event {
        version: event.version.0,
        id: &event.event_id,
        of_type: &event.event_type,
        data: event.data.to_json(),
    });
    let token = format!("{aggregate}@{version}");
    let accepted = Accepted {
        aggregate_id: aggregate.as_str(),
        version: version.0,
        token,
        replayed: *replayed,
        events: events.collect(),
        state: state.to_json(),
    };
    serde_json::to_string(&accepted).expect("texts and JSON serialise")
}

fn not_accepted(aggregate: &str, error: &Unhandled) -> String {
    let (kind, replayed) = match error {
        Unhandled::Refused { replayed, .. } => ("refused", *replayed),
        Unhandled::Taken { replayed, .. } => ("taken", *replayed),
        Unhandled::Conflict { .. } => ("conflict", false),
        Unhandled::Contended { .. } => ("contended", false),
        Unhandled::IdReused => ("idReused", false),
        Unhandled::Invalid(_) => ("invalid", false),
        Unhandled::Unreadable { .. } => ("unreadable", false),
        Unhandled::Outdated { .. } => ("outdated", false),
        Unhandled::Store(_) => ("unknown", false),
    };
    json!({"aggregateId": aggregate, "error": kind, "message": error.to_string(), "replayed": replayed}).to_string()
}

/// The first command of a decider, as JSON.
pub fn first_of(decider: &dyn DynDecider) -> String {
    decider.commands().first().map(|(name, fields)| shape(name, fields)).unwrap_or_default()
}

/// Of a command without fields, the form that suits it with and without braces in its type.
fn shape(name: &str, fields: &[&str]) -> String {
    let fields: Vec<_> = fields.iter().map(|field| format!("\"{field}\": …")).collect();
    format!("{{\"{name}\": {{{}}}}}", fields.join(", "))
}

/// The kinds of aggregates, with their commands as JSON.
fn kinds(deciders: &[&dyn DynDecider]) -> String {
    let mut text = String::new();
    for decider in deciders {
        writeln!(text, "{}", decider.kind()).expect("writing to a String cannot fail");
        for (name, fields) in decider.commands() {
            writeln!(text, "  {}", shape(name, fields)).expect("writing to a String cannot fail");
        }
    }
    text
}

fn unknown(deciders: Deciders, kind: &str) -> String {
    let known: Vec<_> = deciders.all().iter().map(|decider| decider.kind()).collect();
    format!("there is no kind of aggregate named {}; there are: {}", printable(kind), known.join(", "))
}

fn parsed(command: &str) -> anyhow::Result<Value> {
    // The parser's message may quote the command, so only the place is reported.
    let json: Box<RawValue> =
        serde_json::from_str(command).map_err(|error| anyhow::anyhow!("the command is not valid JSON at column {}", error.column()))?;
    Value::from_json(&json).context("the command")
}

/// Reads and checks all lines, before any is carried out.
fn read(path: &Path) -> anyhow::Result<Vec<Parsed>> {
    let mut commands = Vec::new();
    for line in json_lines::lines(path)? {
        let (number, line) = line?;
        let place = || format!("{}:{number}", path.display());
        let Line { aggregate_id, command, id, expected_version } = serde_json::from_str(&line).map_err(|error| {
            anyhow::anyhow!("{} is not a valid command: see column {} and `projector command --help`", place(), error.column())
        })?;
        let command = Value::from_json(&command).with_context(place)?;
        commands.push(Parsed { aggregate: aggregate_id, command, id, expected: expected_version.map(Version) });
    }
    Ok(commands)
}
