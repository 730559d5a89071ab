//! `projector replay`: projects captured stream JSON with the same engine as the Lambda.

use std::{collections::BTreeMap, path::PathBuf, sync::atomic::Ordering::Relaxed, time::Instant};

use clap::{Args, ValueEnum};
use projection_vocabulary::{DynProjection, Registry, RowId};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use tokio::sync::mpsc;

use super::{
    Context, EXIT_FINDINGS, EXIT_INTERRUPTED, EXIT_OK, EXIT_REWRITTEN, EXIT_USAGE,
    complaints::Complaints,
    events,
    out::Out,
    report, row_tables, terminal,
    text::{Lines, count, printable, times},
};
use crate::{
    Worker,
    engine::report::{Report, Tally},
    retry::Deadline,
    snapshot::{self, Snapshot},
    sources::input::{self, InputError, Source},
    store::{Store, StoreError, parking::Parked, rows::ShownRow},
};

/// Rows of each projection that a table shows.
const SHOW_DEFAULT: usize = 10;
/// What to try after a replay in memory.
const NEXT: &str = "\
next: projector --data demo.db replay PATH...      keep the rows in a file; then
      projector --data demo.db status              and rows list, events show, serve
      projector generate --events 10000 --out DIR  make up a longer history
";

/// What to replay, and what to show.
#[derive(Args)]
pub struct Options {
    /// Files, folders, or - for the standard input
    ///
    /// Lambda events, JSON Lines of them or of bare records, the output of `aws dynamodbstreams get-records`, on-failure objects from
    /// S3, incremental exports, and any of them in records of Kinesis or Firehose, messages of SQS or SNS, events of EventBridge or log
    /// events of CloudWatch; each may be gzipped.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// First import the events in these captured files into the event store, from which gaps are healed
    #[arg(long, value_name = "PATH")]
    event_store: Vec<PathBuf>,
    /// Records in one batch
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch_size: u32,
    /// Show the first N rows of each projection [default: 10; JSON: all]
    #[arg(long, value_name = "N")]
    show: Option<usize>,
    /// Print for people, as one JSON document, or as JSON Lines with the report last
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Compare the rows and the parked aggregates with this file, in the projections that it names
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Jsonl,
}

/// The result of reading and projecting the input.
#[derive(Default)]
struct Replayed {
    report: Report,
    unreadable: u64,
    broken_off: bool,
    interrupted: bool,
    /// The store failed every event of a batch: it would fail the others, too.
    stopped: bool,
}

/// `replay`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let expected = options.expect.as_deref().map(Snapshot::read).transpose()?;
    let sources = input::sources(&options.paths)?;
    let store = cx.open_store().await?;
    let imported = if options.event_store.is_empty() { EXIT_OK } else { events::import_quietly(&store, &options.event_store).await? };
    let worker = if acts(&store, cx.registry).await? { cx.worker(store) } else { Worker::new(store, without_processes(cx.registry)) };
    let begun = Instant::now();
    let replayed = Box::pin(replay(&worker, sources, options.batch_size as usize)).await;
    let took = begun.elapsed();
    if replayed.broken_off && replayed.report.records == 0 && !replayed.interrupted && options.output == Output::Table {
        // Tables would only hide the error.
        return Ok(EXIT_USAGE);
    }

    let shown = if options.output == Output::Table { options.show.unwrap_or(SHOW_DEFAULT) } else { 0 };
    let as_json = expected.is_some() || options.output != Output::Table;
    let (mut rows, parked) = match state_of(&worker, shown, as_json).await {
        Ok(state) => state,
        Err(error) => {
            // What happened to the records is known all the same.
            match options.output {
                Output::Table => cx.out.text(&report::text(&replayed.report, replayed.unreadable, took)),
                Output::Json | Output::Jsonl => cx.out.line(json!({ "report": report_json(&replayed, took.as_secs_f64()) })),
            }
            return Err(anyhow::Error::from(error).context("the records were replayed as reported, and then the rows could not be read"));
        }
    };
    let json = rows.iter_mut().map(|rows| (rows.rule, std::mem::take(&mut rows.json).into_values()));
    let mut snapshot = Snapshot::of(json, parked.clone());
    let difference = expected.as_ref().map(|expected| snapshot.difference(expected)).transpose()?.flatten();
    let out = &mut cx.out;
    match options.output {
        Output::Table => {
            out.text(&report::text(&replayed.report, replayed.unreadable, took));
            for Rows { rule, all, first, .. } in &rows {
                let more = if *all > first.len() { format!(" of {all}; to see more: --show N") } else { String::new() };
                out.line("");
                out.text(&row_tables::draw(*rule, first, &more, terminal::columns()));
            }
            let mut lines = Lines::default();
            for entry in &parked {
                lines.paragraph("", &parked_line(entry), "  ", terminal::columns());
            }
            out.text(&lines.into_text());
        }
        Output::Json | Output::Jsonl => {
            if let Some(show) = options.show {
                snapshot.rows.values_mut().for_each(|rows| rows.truncate(show));
            }
            snapshot.report = Some(report_json(&replayed, took.as_secs_f64()));
            if options.output == Output::Json {
                out.text(&snapshot.to_json()?);
            } else {
                print_lines(&snapshot, cx.registry, out)?;
            }
        }
    }
    if let Some(difference) = &difference {
        out.text(&format!("\nrows are not as expected:\n{difference}\n"));
    } else if options.output == Output::Table && expected.is_some() {
        out.text("\nrows are as expected\n");
    }
    if let Some(not_compared) = expected.as_ref().map(|expected| snapshot.not_expected(expected)).filter(|names| !names.is_empty()) {
        terminal::note(format_args!("not compared, because the file of expected rows does not name it: {}", not_compared.join(", ")));
    }
    let Tally { parked, failed, .. } = replayed.report.total;
    // Parked aggregates that were expected are not findings.
    let amiss = imported != EXIT_OK || difference.is_some() || failed > 0 || replayed.unreadable > 0 || (parked > 0 && expected.is_none());
    if options.output == Output::Table && expected.is_none() && !amiss && !replayed.interrupted && cx.store.is_in_memory() {
        out.text(&format!("\n{NEXT}"));
    }
    Ok(match () {
        () if replayed.interrupted => EXIT_INTERRUPTED,
        () if replayed.broken_off || imported == EXIT_USAGE => EXIT_USAGE,
        () if amiss => EXIT_FINDINGS,
        // With expected rows, somebody has looked at them.
        () if replayed.report.rewritten() > 0 && expected.is_none() => {
            terminal::note(format_args!(
                "{} say that events were changed or deleted after they were appended: run `projector verify` for each projection",
                count(replayed.report.rewritten(), "record")
            ));
            EXIT_REWRITTEN
        }
        () => EXIT_OK,
    })
}

/// Whether processes take part. They command aggregates of the event store, which must be there; those of a captured stream are not, unless
/// they were imported.
async fn acts(store: &Store, registry: Registry) -> Result<bool, StoreError> {
    let acts = registry.processes().next().is_none() || store.has_events(Deadline::NONE).await?;
    if !acts {
        tracing::info!("processes take no part, because the event store is empty");
    }
    Ok(acts)
}

fn without_processes(registry: Registry) -> Registry {
    // Once in a process that ends soon.
    Registry::new(registry.read_models().collect::<Vec<_>>().leak())
}

/// The rows of a projection, as far as they are wanted: it may have more than fit into memory.
struct Rows {
    rule: &'static dyn DynProjection,
    /// How many there are.
    all: usize,
    /// The first ones, for a table.
    first: BTreeMap<RowId, ShownRow>,
    /// All of them, if they are compared or printed as JSON.
    json: BTreeMap<RowId, Box<RawValue>>,
}

impl Rows {
    async fn read(store: &Store, rule: &'static dyn DynProjection, shown: usize, as_json: bool) -> Result<Self, StoreError> {
        let mut rows = Self { rule, all: 0, first: BTreeMap::new(), json: BTreeMap::new() };
        let each = |id: RowId, row: ShownRow| {
            rows.all += 1;
            if as_json {
                rows.json.insert(id.clone(), snapshot::row(rule, &id, &row.attributes));
            }
            rows.first.insert(id, row);
            if rows.first.len() > shown {
                rows.first.pop_last();
            }
        };
        store.each_visible_row(rule, each).await?;
        Ok(rows)
    }
}

/// The rows of each projection, and what is parked. A process has no rows to show.
async fn state_of(worker: &Worker, shown: usize, as_json: bool) -> Result<(Vec<Rows>, Vec<Parked>), StoreError> {
    let mut rows = Vec::new();
    for rule in worker.registry().read_models() {
        rows.push(Rows::read(worker.store(), rule, shown, as_json).await?);
    }
    Ok((rows, worker.store().parked().await?))
}

fn parked_line(entry: &Parked) -> String {
    let version = entry.version.map_or_else(String::new, |version| format!(" at version {version}"));
    let (projection, aggregate, reason) = (printable(&entry.projection), printable(&entry.aggregate), printable(&entry.reason));
    format!("parked in {projection}: {aggregate}{version}, {}: {reason}", times(entry.count))
}

/// A part of the input.
struct Piece {
    records: Vec<Box<RawValue>>,
    unreadable: Vec<(PathBuf, InputError)>,
    bytes_read: u64,
}

/// Reads all sources, batch by batch. It waits until a batch is received, and stops when the receiver is gone.
fn read(sources: Vec<Source>, batch_size: usize, pieces: &mpsc::Sender<Piece>) {
    let empty = || Piece { records: Vec::with_capacity(batch_size), unreadable: Vec::new(), bytes_read: 0 };
    let (mut piece, mut bytes_before) = (empty(), 0);
    for source in sources {
        terminal::note_waiting(source.is_standard_input());
        let file = source.file().to_owned();
        let bytes_read = source.bytes_read();
        let (records, unopened) = match source.records() {
            Ok(records) => (Some(records), None),
            Err(error) => (None, Some(Err(error))),
        };
        for record in records.into_iter().flatten().chain(unopened) {
            match record {
                Ok(record) => piece.records.push(record.json),
                Err(error) => piece.unreadable.push((file.clone(), error)),
            }
            if piece.records.len() + piece.unreadable.len() >= batch_size {
                piece.bytes_read = bytes_before + bytes_read.load(Relaxed);
                if pieces.blocking_send(std::mem::replace(&mut piece, empty())).is_err() {
                    return;
                }
            }
        }
        bytes_before += bytes_read.load(Relaxed);
    }
    piece.bytes_read = bytes_before;
    // If the replay was interrupted, nothing receives it any more.
    let _ = pieces.blocking_send(piece);
}

/// Projects the records of all sources. A few batches are in memory at once, however long the input is.
async fn replay(worker: &Worker, sources: Vec<Source>, batch_size: usize) -> Replayed {
    let progress = terminal::progress_of_bytes(sources.iter().map(Source::bytes_total).sum());
    let (sender, mut pieces) = mpsc::channel(1);
    // A separate thread instead of one of the runtime's: at the end the runtime would wait for a pending read of a terminal or a pipe.
    let reader = std::thread::spawn(move || read(sources, batch_size, &sender));
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut replayed = Replayed::default();
    let mut complaints = Complaints::default();
    loop {
        let piece = tokio::select! {
            biased;
            _ = &mut interrupt => {
                replayed.interrupted = true;
                break;
            }
            piece = pieces.recv() => piece,
        };
        let Some(Piece { records, unreadable, bytes_read }) = piece else { break };
        for (file, error) in &unreadable {
            complaints.of_input(file, error);
            replayed.unreadable += 1;
            replayed.broken_off |= error.is_fatal();
        }
        if !records.is_empty() {
            let report = worker.process(&records, Deadline::NONE).await;
            let Tally { applied, duplicate, parked, failed, .. } = report.total;
            tracing::info!(records = report.records, applied, duplicate, parked, failed, "batch");
            replayed.stopped = report.store_failed_all();
            replayed.report.add(report);
            if replayed.stopped {
                break;
            }
        }
        progress.set_position(bytes_read);
        progress.set_message(format!("{} records", replayed.report.records));
    }
    progress.finish_and_clear();
    complaints.sum_up();
    if replayed.stopped {
        // The reader ends with its next batch, which nobody takes.
        terminal::note("stopped after a batch that failed as a whole: fix the cause, then replay again; nothing is counted twice");
    } else if replayed.interrupted {
        terminal::note("interrupted: only the counted records were applied; replay again, nothing is counted twice");
    } else {
        reader.join().expect("a panic of the reader must not look like the end of the input");
    }
    replayed
}

fn report_json(replayed: &Replayed, seconds: f64) -> Box<RawValue> {
    let Report { records, total, ignored, unhandled, projections, reasons, usage, store_failures: _, checkpoint: _ } = &replayed.report;
    let projections: serde_json::Map<_, _> = projections.iter().map(|(name, tally)| ((*name).to_owned(), tally_json(tally))).collect();
    let ignored: serde_json::Map<_, _> = ignored.iter().map(|(reason, count)| (reason.to_string(), json!(count))).collect();
    let report = json!({
        "records": records, "total": tally_json(total), "ignored": ignored, "unhandledTypes": unhandled.counts(), "unreadable": replayed.unreadable, "projections": projections,
        "failures": reasons, "requests": usage.requests, "writeUnits": usage.write_units, "readUnits": usage.read_units,
        "retries": usage.retries, "conflicts": usage.conflicts, "seconds": seconds,
    });
    serde_json::value::to_raw_value(&report).expect("JSON serialises")
}

fn tally_json(tally: &Tally) -> serde_json::Value {
    // The age of a captured event says nothing about the worker.
    let Tally { applied, duplicate, healed, gaps, parked, failed, reprojected, instances: _, oldest_ms: _ } = tally;
    json!({
        "applied": applied, "duplicate": duplicate, "healed": healed, "gaps": gaps, "parked": parked, "failed": failed,
        "reprojected": reprojected,
    })
}

fn print_lines(snapshot: &Snapshot, registry: Registry, out: &mut Out) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Row<'a> {
        projection: &'a str,
        row: &'a RawValue,
    }
    for projection in registry.read_models().map(DynProjection::name) {
        for row in &snapshot.rows[projection] {
            out.line(serde_json::to_string(&Row { projection, row })?);
        }
    }
    for parked in &snapshot.parked {
        out.line(serde_json::to_string(&json!({ "parked": parked }))?);
    }
    out.line(serde_json::to_string(&json!({ "report": snapshot.report }))?);
    Ok(())
}
