//! `projector parked`: what could not be applied, looked at and taken up again.

use std::io::Write as _;

use clap::{Args, Subcommand};
use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, presets::UTF8_BORDERS_ONLY};
use futures::{FutureExt as _, StreamExt as _, stream};
use projection_vocabulary::Registry;
use serde::Serialize;

use super::{EXIT_FINDINGS, EXIT_INTERRUPTED, EXIT_OK, pretty_json, terminal};
use crate::{
    Worker,
    engine::reproject::Trust,
    operations::{
        error::{OperationError, find_projection},
        redrive::{self, Redriven},
    },
    retry::Deadline,
    store::{
        Store,
        parking::{NO_PROJECTION, Parked},
    },
};

/// How many are redriven at once. Each reads a history and writes its row; an operator's command leaves the tables to the
/// worker.
const REDRIVEN_AT_ONCE: usize = 8;
/// Columns of a table that a name gets: a UUID fits, and so does the name of a record. Longer ones lose their middle, and
/// `--json` has them whole.
const NAME_COLUMNS: usize = 39;
/// Columns of a name in a line.
const NAME_IN_LINE_COLUMNS: usize = 72;
/// Columns of a reason in a table: reasons quote ids, and an id may have 2 KB.
const REASON_COLUMNS: usize = 320;
/// Columns of a table where no terminal says how many it has.
const TABLE_COLUMNS: u16 = 80;

/// What to do with what is parked.
#[derive(Subcommand)]
pub enum Command {
    /// Show what is parked and why, without event data
    List(ListOptions),
    /// Show all that is kept of one parked aggregate or record. This, and no other command on what is parked, prints event data:
    /// the record or event as it came
    ///
    /// Exit code 1 if it is not parked.
    #[command(verbatim_doc_comment)]
    Show {
        /// The projection, or - for a record that names no event
        #[arg(long, value_name = "P", allow_hyphen_values = true)]
        projection: String,
        /// The aggregate, or record#... for a record that names no event
        #[arg(long, value_name = "A", allow_hyphen_values = true)]
        aggregate: String,
    },
    /// Take up again what was parked, once its cause is mended: each aggregate goes on from where it waits to the head of its
    /// history in the event store
    ///
    /// It may run while the worker runs, and again after any failure: nothing counts twice. Exit code 0 only if all that was
    /// chosen is mended; 1 also if the aggregate that --aggregate names is not parked. Where nothing is parked, --all and
    /// --projection have nothing to do, which is 0.
    #[command(verbatim_doc_comment)]
    Redrive(RedriveOptions),
}

/// What to list.
#[derive(Args)]
pub struct ListOptions {
    /// Only of this projection, or - for records that name no event
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    projection: Option<String>,
    /// Only this aggregate
    #[arg(long, value_name = "A", allow_hyphen_values = true)]
    aggregate: Option<String>,
    /// One JSON object a line, with whole ids
    #[arg(long)]
    json: bool,
}

/// What to take up again.
#[derive(Args)]
pub struct RedriveOptions {
    #[command(flatten)]
    chosen: Chosen,
    /// Go by the event store alone: project each row anew, also if that takes it back. For after a restore of the event store
    #[arg(long)]
    trust_store: bool,
    /// One JSON object a line, the total last
    #[arg(long)]
    json: bool,
}

/// What to take up again: something must be said, for everything is a lot.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct Chosen {
    /// All of this projection, or - for records that name no event
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    projection: Option<String>,
    /// This aggregate, in every projection unless one is given
    #[arg(long, value_name = "A", allow_hyphen_values = true)]
    aggregate: Option<String>,
    /// All that is parked
    #[arg(long, conflicts_with_all = ["projection", "aggregate"])]
    all: bool,
}

/// `parked`
pub async fn run(command: Command, store: Store, registry: Registry) -> anyhow::Result<u8> {
    match command {
        Command::List(options) => list(&options, &store).await,
        Command::Show { projection, aggregate } => show(&store, &projection, &aggregate).await,
        Command::Redrive(options) => redrive(&options, &Worker::new(store, registry)).await,
    }
}

async fn parked(store: &Store, projection: Option<&str>, aggregate: Option<&str>) -> anyhow::Result<Vec<Parked>> {
    let mut parked = store.parked().await?;
    parked.retain(|entry| projection.is_none_or(|name| entry.projection == name) && aggregate.is_none_or(|id| entry.aggregate == id));
    Ok(parked)
}

async fn list(options: &ListOptions, store: &Store) -> anyhow::Result<u8> {
    let parked = parked(store, options.projection.as_deref(), options.aggregate.as_deref()).await?;
    let mut out = std::io::stdout().lock();
    if options.json {
        for Parked { projection, aggregate, version, reason, count, first_seen, last_seen, .. } in &parked {
            let line = Listed {
                projection,
                aggregate_id: aggregate,
                version: version.map(|version| version.0),
                reason,
                first_seen,
                last_seen,
                count: *count,
            };
            writeln!(out, "{}", pretty_json::line(&line)?)?;
        }
    } else if parked.is_empty() {
        writeln!(out, "no aggregate is parked")?;
    } else {
        writeln!(out, "{}", table(&parked))?;
    }
    Ok(EXIT_OK)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    projection: &'a str,
    aggregate_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    reason: &'a str,
    first_seen: &'a str,
    last_seen: &'a str,
    count: u64,
}

/// The reason stands below what it is about: in seven columns, the ids of aggregates among them, a terminal of 80 would leave it
/// no room.
fn table(parked: &[Parked]) -> String {
    let mut table = terminal::table();
    table.load_style(UTF8_BORDERS_ONLY.row_separator(LineStyle::new('├', '─', '─', '┤')));
    table.set_header(terminal::header(["projection, aggregate, version: reason", "first, last (UTC)"]));
    for entry in parked {
        let short = |text: &str| terminal::shortened(text, NAME_COLUMNS);
        let version = entry.version.map_or_else(String::new, |version| format!("version {version}: "));
        let reason = terminal::shortened(&entry.reason, REASON_COLUMNS);
        let times = if entry.count == 1 { "once".to_owned() } else { format!("{} times", entry.count) };
        table.add_row([
            format!("{}  {}\n{version}{reason}", short(&entry.projection), short(&entry.aggregate)),
            format!("{}\n{}\n{times}", minute(&entry.first_seen), minute(&entry.last_seen)),
        ]);
    }
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none() {
        table.set_width(TABLE_COLUMNS);
    }
    table.column_mut(1).expect("there are two").set_constraint(ColumnConstraint::ContentWidth);
    table.to_string()
}

/// `2026-01-05T09:00:00.000Z` as `2026-01-05 09:00`.
fn minute(timestamp: &str) -> String {
    timestamp.get(..16).map_or_else(|| terminal::printable(timestamp), |minute| terminal::printable(minute).replacen('T', " ", 1))
}

async fn show(store: &Store, projection: &str, aggregate: &str) -> anyhow::Result<u8> {
    let Some((entry, payload)) = store.parked_entry(projection, aggregate, Deadline::NONE).await? else {
        eprintln!("error: {} is not parked in {}", terminal::printable(aggregate), terminal::printable(projection));
        return Ok(EXIT_FINDINGS);
    };
    let mut out = std::io::stdout().lock();
    let version = entry.version.map_or_else(|| "unknown".to_owned(), |version| version.to_string());
    for (name, value) in [
        ("projection", &entry.projection),
        ("aggregate", &entry.aggregate),
        ("version", &version),
        ("reason", &entry.reason),
        ("first seen", &entry.first_seen),
        ("last seen", &entry.last_seen),
        ("count", &entry.count.to_string()),
    ] {
        writeln!(out, "{name:<10}  {}", terminal::printable(value))?;
    }
    let Some(payload) = payload else {
        writeln!(out, "payload     none (no single event is the cause)")?;
        return Ok(EXIT_OK);
    };
    match pretty_json::indented(&payload) {
        Some(json) => writeln!(out, "payload\n{json}")?,
        None => writeln!(out, "payload, which is not JSON\n{}", terminal::printable(&payload))?,
    }
    Ok(EXIT_OK)
}

/// What came of a redrive, in numbers.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Total {
    mended: usize,
    parked: usize,
    failed: usize,
    not_begun: usize,
}

async fn redrive(options: &RedriveOptions, worker: &Worker) -> anyhow::Result<u8> {
    let RedriveOptions { chosen: Chosen { projection, aggregate, .. }, trust_store, json } = options;
    let trust = if *trust_store { Trust::Store } else { Trust::Row };
    if let Some(name) = projection.as_deref().filter(|name| *name != NO_PROJECTION) {
        find_projection(worker.registry(), name)?;
    }
    let chosen = parked(worker.store(), projection.as_deref(), aggregate.as_deref()).await?;
    if let (true, Some(aggregate)) = (chosen.is_empty(), aggregate) {
        let place = projection.as_deref().map_or_else(String::new, |projection| format!(" in {projection}"));
        eprintln!("error: {} is not parked{place}", terminal::printable(aggregate));
        return Ok(EXIT_FINDINGS);
    }
    if chosen.is_empty() && !json {
        writeln!(std::io::stdout(), "nothing is parked there: nothing to redrive")?;
        return Ok(EXIT_OK);
    }
    let total = redrive_all(worker, chosen, trust, *json).await?;
    let Total { mended, parked, failed, not_begun } = total;
    if *json {
        writeln!(std::io::stdout(), "{}", pretty_json::line(&serde_json::json!({ "total": total }))?)?;
    } else {
        let tried = mended + parked + failed;
        writeln!(std::io::stdout(), "{tried} redriven: {mended} mended, {parked} still parked, {failed} failed")?;
    }
    Ok(match () {
        () if not_begun > 0 => {
            eprintln!("interrupted: {not_begun} not begun; run the same command again, nothing counts twice");
            EXIT_INTERRUPTED
        }
        () if parked > 0 || failed > 0 => EXIT_FINDINGS,
        () => EXIT_OK,
    })
}

/// Redrives all and prints a line for each, in order. After Ctrl-C none is begun, and those that are come to their end.
async fn redrive_all(worker: &Worker, chosen: Vec<Parked>, trust: Trust, json: bool) -> anyhow::Result<Total> {
    let mut total = Total { not_begun: chosen.len(), ..Total::default() };
    let interrupt = tokio::signal::ctrl_c().map(drop).shared();
    let mut interrupted = false;
    // A record whose event the store has by now waits for its aggregate: aggregates first.
    let (records, aggregates): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|entry| entry.projection == NO_PROJECTION);
    for chosen in [aggregates, records] {
        let redriven = stream::iter(chosen).take_until(interrupt.clone()).map(async |entry| {
            let redriven = redrive::redrive(worker, &entry, trust, Deadline::NONE).await;
            (entry, redriven)
        });
        let mut redriven = std::pin::pin!(redriven.buffered(REDRIVEN_AT_ONCE));
        loop {
            let (entry, redriven) = tokio::select! {
                biased;
                () = interrupt.clone(), if !interrupted => {
                    interrupted = true;
                    eprintln!("interrupted: what has begun is brought to its end");
                    continue;
                }
                next = redriven.next() => match next {
                    Some(next) => next,
                    None => break,
                },
            };
            total.not_begun -= 1;
            match &redriven {
                Ok(Redriven::Done { .. }) => total.mended += 1,
                Ok(Redriven::Parked(_)) => total.parked += 1,
                Err(_) => total.failed += 1,
            }
            let line = if json { json_of(&entry, &redriven)? } else { line_of(&entry, &redriven) };
            writeln!(std::io::stdout(), "{line}")?;
        }
    }
    Ok(total)
}

fn line_of(entry: &Parked, redriven: &Result<Redriven, OperationError>) -> String {
    let short = |text: &str| terminal::shortened(text, NAME_IN_LINE_COLUMNS);
    let name = match entry.projection.as_str() {
        NO_PROJECTION => short(&entry.aggregate),
        projection => format!("{} {}", short(projection), short(&entry.aggregate)),
    };
    match redriven {
        Ok(Redriven::Done { applied, reprojected }) => {
            let events = if *applied == 1 { "event" } else { "events" };
            let anew = if *reprojected { ", projected anew" } else { "" };
            format!("mended: {name}: {applied} {events} applied{anew}")
        }
        Ok(Redriven::Parked(reason)) => format!("still parked: {name}: {}", terminal::printable(reason)),
        Err(error) => format!("failed: {name}: {}", terminal::printable(&error.to_string())),
    }
}

fn json_of(entry: &Parked, redriven: &Result<Redriven, OperationError>) -> anyhow::Result<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line<'a> {
        projection: &'a str,
        aggregate_id: &'a str,
        outcome: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        applied: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reprojected: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    }
    let failure = redriven.as_ref().err().map(ToString::to_string);
    let (outcome, applied, reprojected, reason) = match redriven {
        Ok(Redriven::Done { applied, reprojected }) => ("mended", Some(*applied), Some(*reprojected), None),
        Ok(Redriven::Parked(reason)) => ("parked", None, None, Some(reason.as_str())),
        Err(_) => ("failed", None, None, failure.as_deref()),
    };
    Ok(pretty_json::line(&Line { projection: &entry.projection, aggregate_id: &entry.aggregate, outcome, applied, reprojected, reason })?)
}
