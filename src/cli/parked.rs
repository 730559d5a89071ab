//! `projector parked`: lists, shows and redrives what could not be applied.

use clap::{Args, Subcommand};
use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, presets::UTF8_BORDERS_ONLY};
use futures::{FutureExt as _, StreamExt as _, stream};
use projection_vocabulary::AggregateId;
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{
    Context, EXIT_FINDINGS, EXIT_INTERRUPTED, EXIT_OK,
    corrections::{self, GiveUpOptions},
    format::Format,
    out::Out,
    pretty_json, readable,
    stores::Named,
    terminal,
    text::{count, count_of, printable, shortened, times, to_the_minute},
};
use crate::{
    Worker,
    engine::reproject::Trust,
    operations::{
        error::OperationError,
        redrive::{self, Redriven},
    },
    retry::Deadline,
    store::{
        Store,
        parking::{NO_PROJECTION, Parked},
    },
};

/// Entries redriven at once. Each reads a history and writes its row; an operator's command leaves the tables to the worker.
const REDRIVEN_AT_ONCE: usize = 8;
/// Columns of a table that a name gets: a UUID fits, and so does the name of a record. Longer names lose their middle, and JSON has
/// them whole.
const NAME_COLUMNS: usize = 39;
/// Columns of a name in a line.
const NAME_IN_LINE_COLUMNS: usize = 72;
/// Columns of a reason in a table: reasons quote ids, and an id may have 2 KB.
const REASON_COLUMNS: usize = 320;

/// What to do with parked aggregates and records.
#[derive(Subcommand)]
pub enum Command {
    /// List what is parked and why, without event data
    #[command(after_help = "Example: projector --data demo.db parked list --projection {projection}")]
    List(ListOptions),
    /// Show one parked aggregate or record, including its event data
    ///
    /// No other command prints the data of a parked event or record. Exit code 1 if it is not parked.
    #[command(after_help = "Example: projector --data demo.db parked show --projection {projection} --aggregate alice")]
    Show(ShowOptions),
    /// Retry what was parked, after its cause is fixed
    ///
    /// Each aggregate continues from its last good version to the head of its history in the event store. It is safe to run this
    /// while the worker runs, and again after any failure: nothing is counted twice. Exit code 0 only if nothing chosen is still
    /// parked; 1 also if the aggregate that --aggregate names is not parked.
    #[command(after_help = "Example: projector --data demo.db parked redrive --all")]
    Redrive(RedriveOptions),
    /// Replace an event that cannot be applied by one that no projection handles
    ///
    /// For an event that is wrong and should count nowhere; if it can be put right, use `events correct`. The event's item is printed,
    /// and kept in the event store with who skipped it and why. Rows of other projections that have applied the event are re-projected.
    /// A version that is missing, although there are later ones, can be skipped as well.
    #[command(after_help = "Example: projector --data demo.db parked skip --projection {projection} --aggregate alice --why typo")]
    Skip(GiveUpOptions),
    /// Delete the entry of a record that can never be applied, and print it
    ///
    /// For a record that names no event, and for an event that the event store does not have. The parking table keeps who discarded it and
    /// why. The event data is printed on the standard output, and kept nowhere else.
    #[command(after_help = "Example: projector --data demo.db parked discard --projection - --aggregate record#1234 > record.json")]
    Discard(GiveUpOptions),
}

/// What to list.
#[derive(Args)]
pub struct ListOptions {
    /// Only this projection, or - for records that name no event
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    projection: Option<String>,
    /// Only this aggregate
    #[arg(long, value_name = "A", allow_hyphen_values = true)]
    aggregate: Option<String>,
    /// Also find rows that wait although their entry is gone, by a scan of the rows; --aggregate needs none
    #[arg(long)]
    scan: bool,
    #[command(flatten)]
    format: Format,
}

/// What to show.
#[derive(Args)]
pub struct ShowOptions {
    /// The projection, or - for a record that names no event
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    projection: String,
    /// The aggregate, or record#... for a record that names no event
    #[arg(long, value_name = "A", allow_hyphen_values = true)]
    aggregate: String,
    #[command(flatten)]
    format: Format,
}

/// What to retry.
#[derive(Args)]
pub struct RedriveOptions {
    #[command(flatten)]
    chosen: Chosen,
    /// Also find rows that wait although their entry is gone, by a scan of the rows; --aggregate needs none
    #[arg(long)]
    scan: bool,
    /// Re-project each row from the event store, even if that takes it back (after a restore of the event store)
    #[arg(long)]
    trust_store: bool,
    /// Trust an event store that lacks the events of more than a tenth of the rows
    #[arg(long, requires = "trust_store")]
    repair_all_orphans: bool,
    #[command(flatten)]
    format: Format,
}

/// What to retry. Something must be named, because everything may be a lot.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct Chosen {
    /// Everything parked in this projection, or - for records that name no event
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    projection: Option<String>,
    /// This aggregate, in every projection unless one is named
    #[arg(long, value_name = "A", allow_hyphen_values = true)]
    aggregate: Option<String>,
    /// Everything that is parked
    #[arg(long, conflicts_with_all = ["projection", "aggregate"])]
    all: bool,
}

/// `parked`
pub async fn run(command: &Command, cx: &mut Context) -> anyhow::Result<u8> {
    match command {
        Command::List(options) => list(options, cx).await,
        Command::Show(options) => show(options, cx).await,
        Command::Redrive(options) => redrive(options, cx).await,
        Command::Skip(options) => corrections::skip(options, cx).await,
        Command::Discard(options) => corrections::discard(options, cx).await,
    }
}

/// The entries chosen, and those that rows stand for whose entry is gone: by the row of `aggregate`, or by a scan if asked.
async fn parked(store: &Store, cx: &Context, projection: Option<&str>, aggregate: Option<&str>, scan: bool) -> anyhow::Result<Vec<Parked>> {
    let mut parked = store.parked().await?;
    parked.retain(|entry| projection.is_none_or(|name| entry.projection == name) && aggregate.is_none_or(|id| entry.aggregate == id));
    if scan || aggregate.is_some() {
        let rules: Vec<_> =
            cx.registry.projections().iter().copied().filter(|rule| projection.is_none_or(|name| rule.name() == name)).collect();
        let id = aggregate.map(AggregateId::from);
        parked.extend(redrive::marked(store, &rules, id.as_ref(), &parked, Deadline::NONE).await?);
        parked.sort();
    }
    Ok(parked)
}

/// Refuses a misspelt projection, in which nothing could be parked.
fn check_projection(projection: Option<&str>, cx: &Context) -> anyhow::Result<()> {
    match projection {
        Some(name) if name != NO_PROJECTION => cx.rule(name).map(drop),
        _ => Ok(()),
    }
}

async fn list(options: &ListOptions, cx: &mut Context) -> anyhow::Result<u8> {
    check_projection(options.projection.as_deref(), cx)?;
    let store = cx.open_existing_store().await?;
    let parked = parked(&store, cx, options.projection.as_deref(), options.aggregate.as_deref(), options.scan).await?;
    if options.format.is_json() {
        for entry in &parked {
            cx.out.line(pretty_json::line(&Listed::of(entry))?);
        }
    } else if parked.is_empty() {
        cx.out.line("nothing is parked");
    } else {
        cx.out.text(&(table(&parked) + "\n"));
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

impl<'a> Listed<'a> {
    fn of(Parked { projection, aggregate, version, reason, count, first_seen, last_seen, .. }: &'a Parked) -> Self {
        Self {
            projection,
            aggregate_id: aggregate,
            version: version.map(|version| version.0),
            reason,
            first_seen,
            last_seen,
            count: *count,
        }
    }
}

/// The reason stands below the name it belongs to: in a column of its own, it would have no room on a terminal of 80 columns.
fn table(parked: &[Parked]) -> String {
    let mut table = terminal::table();
    table.load_style(UTF8_BORDERS_ONLY.row_separator(LineStyle::new('├', '─', '─', '┤')));
    table.set_header(terminal::header(["projection, aggregate, version: reason", "first, last (UTC)"]));
    for entry in parked {
        let short = |text: &str| shortened(text, NAME_COLUMNS);
        let version = entry.version.map_or_else(String::new, |version| format!("version {version}: "));
        let reason = shortened(&entry.reason, REASON_COLUMNS);
        table.add_row([
            format!("{}  {}\n{version}{reason}", short(&entry.projection), short(&entry.aggregate)),
            format!("{}\n{}\n{}", to_the_minute(&entry.first_seen), to_the_minute(&entry.last_seen), times(entry.count)),
        ]);
    }
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(terminal::columns()).unwrap_or(u16::MAX));
    table.column_mut(1).expect("there are two").set_constraint(ColumnConstraint::ContentWidth);
    table.to_string()
}

async fn show(options: &ShowOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let ShowOptions { projection, aggregate, format } = options;
    check_projection(Some(projection), cx)?;
    let store = cx.open_existing_store().await?;
    let Some((entry, payload)) = store.parked_entry(projection, aggregate, Deadline::NONE).await? else {
        terminal::error(format_args!("{} is not parked in {}", printable(aggregate), printable(projection)));
        return Ok(EXIT_FINDINGS);
    };
    if format.is_json() {
        #[derive(Serialize)]
        struct Shown<'a> {
            #[serde(flatten)]
            entry: Listed<'a>,
            payload: Option<Box<RawValue>>,
        }
        let payload = payload.as_deref().map(pretty_json::document).transpose()?;
        cx.out.line(pretty_json::line(&Shown { entry: Listed::of(&entry), payload })?);
        return Ok(EXIT_OK);
    }
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
        cx.out.line(format_args!("{name:<10}  {}", printable(value)));
    }
    let Some(payload) = payload else {
        cx.out.line("payload     none (no single event is the cause)");
        return Ok(EXIT_OK);
    };
    if let Some(event) = readable::item(&payload).and_then(|event| pretty_json::indented(&event)) {
        cx.out.text(&format!("event, without the types of its attributes, which --json shows:\n{event}\n"));
        return Ok(EXIT_OK);
    }
    match pretty_json::indented(&payload) {
        Some(json) => cx.out.text(&format!("payload\n{json}\n")),
        None => cx.out.text(&format!("payload (not JSON)\n{}\n", printable(&payload))),
    }
    Ok(EXIT_OK)
}

/// The outcome of a redrive, in numbers.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Total {
    recovered: usize,
    parked: usize,
    failed: usize,
    not_begun: usize,
}

async fn redrive(options: &RedriveOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let RedriveOptions { chosen: Chosen { projection, aggregate, .. }, scan, trust_store, repair_all_orphans, format } = options;
    let (trust, json) = (if *trust_store { Trust::Store } else { Trust::Row }, format.is_json());
    check_projection(projection.as_deref(), cx)?;
    let worker = cx.worker(cx.open_existing_store().await?);
    let rules: Vec<_> =
        cx.registry.projections().iter().filter(|rule| projection.as_deref().is_none_or(|name| rule.name() == name)).copied().collect();
    let store = Named::of(&cx.store, worker.store().names(), &rules);
    let chosen = parked(worker.store(), cx, projection.as_deref(), aggregate.as_deref(), *scan).await?;
    if let (true, Some(aggregate)) = (chosen.is_empty(), aggregate) {
        let place = projection.as_deref().map_or_else(String::new, |projection| format!(" in {projection}"));
        terminal::error(format_args!("{} is not parked{place}", printable(aggregate)));
        return Ok(EXIT_FINDINGS);
    }
    if !json {
        cx.out.text(&store.text());
    }
    if chosen.is_empty() && !json {
        cx.out.line("nothing is parked there: nothing to redrive");
        return Ok(EXIT_OK);
    }
    if trust == Trust::Store
        && !repair_all_orphans
        && let Some(doubt) = redrive::doubt(&worker, &chosen, Deadline::NONE).await?
    {
        terminal::error(format_args!(
            "nothing is redriven: {doubt}; if the event store is right, as after a restore, add --repair-all-orphans"
        ));
        return Ok(EXIT_FINDINGS);
    }
    let total = redrive_all(&worker, chosen, trust, json, &mut cx.out).await?;
    let Total { recovered, parked, failed, not_begun } = total;
    if json {
        cx.out.line(pretty_json::line(&json!({ "total": total, "in": store }))?);
    } else {
        let tried = recovered + parked + failed;
        cx.out.line(format_args!("{tried} redriven: {recovered} recovered, {parked} still parked, {failed} failed"));
    }
    Ok(match () {
        () if not_begun > 0 => {
            let left = count_of(not_begun, "entry");
            terminal::note(format_args!("interrupted: {left} not begun; run the same command again, nothing is counted twice"));
            EXIT_INTERRUPTED
        }
        () if parked > 0 || failed > 0 => EXIT_FINDINGS,
        () => EXIT_OK,
    })
}

/// Redrives all entries and prints a line for each, in order. After Ctrl-C no further entry is begun; those in progress are finished.
async fn redrive_all(worker: &Worker, chosen: Vec<Parked>, trust: Trust, json: bool, out: &mut Out) -> anyhow::Result<Total> {
    let mut total = Total { not_begun: chosen.len(), ..Total::default() };
    let interrupt = tokio::signal::ctrl_c().map(drop).shared();
    let mut interrupted = false;
    // Aggregates first: a record whose event has since reached the event store waits for its aggregate.
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
                    terminal::note("interrupted: finishing the entries in progress");
                    continue;
                }
                next = redriven.next() => match next {
                    Some(next) => next,
                    None => break,
                },
            };
            total.not_begun -= 1;
            match &redriven {
                Ok(Redriven::Done { .. }) => total.recovered += 1,
                Ok(Redriven::Parked(_)) => total.parked += 1,
                Err(_) => total.failed += 1,
            }
            out.line(if json { json_of(&entry, &redriven)? } else { line_of(&entry, &redriven) });
        }
    }
    Ok(total)
}

fn line_of(entry: &Parked, redriven: &Result<Redriven, OperationError>) -> String {
    let short = |text: &str| shortened(text, NAME_IN_LINE_COLUMNS);
    let name = match entry.projection.as_str() {
        NO_PROJECTION => short(&entry.aggregate),
        projection => format!("{} {}", short(projection), short(&entry.aggregate)),
    };
    match redriven {
        Ok(Redriven::Done { reprojected: true, .. }) => format!("recovered: {name}: re-projected"),
        Ok(Redriven::Done { applied, .. }) => format!("recovered: {name}: {} applied", count(*applied, "event")),
        Ok(Redriven::Parked(reason)) => format!("still parked: {name}: {}", printable(reason)),
        Err(failed) => format!("failed: {name}: {}", printable(&failed.to_string())),
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
        reason: Option<String>,
    }
    let (outcome, applied, reprojected, reason) = match redriven {
        Ok(Redriven::Done { applied, reprojected }) => ("recovered", Some(*applied), Some(*reprojected), None),
        Ok(Redriven::Parked(reason)) => ("parked", None, None, Some(reason.clone())),
        Err(failed) => ("failed", None, None, Some(failed.to_string())),
    };
    Ok(pretty_json::line(&Line { projection: &entry.projection, aggregate_id: &entry.aggregate, outcome, applied, reprojected, reason })?)
}
