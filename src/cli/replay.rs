//! `projector replay`: captured stream JSON through the engine that the Lambda runs.

use std::{path::PathBuf, sync::atomic::Ordering::Relaxed, time::Instant};

use clap::{Args, ValueEnum};
use projection_vocabulary::Registry;
use serde::Serialize;
use serde_json::{json, value::RawValue};
use tokio::sync::mpsc;

use super::{EXIT_FINDINGS, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, events, snapshot::Snapshot, terminal};
use crate::{
    Worker,
    engine::report::{Report, Tally},
    retry::Deadline,
    sources::input::{self, InputError, Source},
    store::Store,
};

/// Rows of each projection that a table shows.
const SHOW_DEFAULT: usize = 10;

/// What to replay, and what to show of it.
#[derive(Args)]
pub struct Options {
    /// Files, folders, or - for the standard input: Lambda events, their JSON Lines or bare records, the output of
    /// `aws dynamodbstreams get-records`, on-failure objects from S3; each may be gzipped
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// First put the events that these captured files saw inserted into the event store, where gaps are healed from
    #[arg(long, value_name = "PATH")]
    event_store: Vec<PathBuf>,
    /// Records in one batch
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch_size: u32,
    /// Show the first N rows of each projection; JSON shows all unless told
    #[arg(long, value_name = "N")]
    show: Option<usize>,
    /// How to print
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Compare rows and what is parked with this file
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// One document: rows, parked, report
    Json,
    /// One line for each row, and the report last
    Jsonl,
}

/// What came of reading and projecting the input.
#[derive(Default)]
struct Replayed {
    report: Report,
    unreadable: u64,
    broken_off: bool,
    interrupted: bool,
}

/// `replay`
pub async fn run(options: &Options, store: Store, registry: Registry) -> anyhow::Result<u8> {
    let expected = options.expect.as_deref().map(Snapshot::read).transpose()?;
    let sources = input::sources(&options.paths)?;
    if !options.event_store.is_empty() {
        events::import_quietly(&store, &options.event_store).await?;
    }
    let worker = Worker::new(store, registry);
    let begun = Instant::now();
    let replayed = Box::pin(replay(&worker, sources, options.batch_size as usize)).await;
    let took = begun.elapsed();

    let mut rows = Vec::new();
    for rule in registry.projections() {
        rows.push((*rule, worker.store().visible_rows(*rule).await?));
    }
    let parked = worker.store().parked().await?;
    let mut snapshot = Snapshot::of(rows.iter().map(|(rule, rows)| (*rule as _, rows)), parked.clone());
    let difference = expected.as_ref().map(|expected| snapshot.difference(expected)).transpose()?.flatten();
    match options.output {
        Output::Table => {
            print!("{}", terminal::summary(&replayed.report, replayed.unreadable, took));
            for (rule, rows) in &rows {
                print!("\n{}", terminal::rows(*rule, rows, options.show.unwrap_or(SHOW_DEFAULT)));
            }
            for entry in parked {
                let version = entry.version.map_or_else(String::new, |version| format!(" at version {version}"));
                let times = if entry.count == 1 { "once".to_owned() } else { format!("{} times", entry.count) };
                println!("parked in {}: {}{version}, {times}: {}", entry.projection, entry.aggregate, entry.reason);
            }
        }
        Output::Json | Output::Jsonl => {
            if let Some(show) = options.show {
                snapshot.rows.values_mut().for_each(|rows| rows.truncate(show));
            }
            snapshot.report = Some(report_json(&replayed, took.as_secs_f64()));
            if options.output == Output::Json { print!("{}", snapshot.to_json()?) } else { print_lines(&snapshot, registry)? }
        }
    }
    if let Some(difference) = &difference {
        println!("\nrows are not as expected:\n{difference}");
    } else if expected.is_some() && options.output == Output::Table {
        println!("\nrows are as expected");
    }
    let Tally { parked, failed, .. } = replayed.report.total;
    // What is parked and expected to be is as it should be.
    let amiss = difference.is_some() || failed > 0 || replayed.unreadable > 0 || (parked > 0 && expected.is_none());
    Ok(match () {
        () if replayed.interrupted => EXIT_INTERRUPTED,
        () if replayed.broken_off => EXIT_USAGE,
        () if amiss => EXIT_FINDINGS,
        () => EXIT_OK,
    })
}

/// What was read of the input since the last time.
struct Piece {
    records: Vec<Box<RawValue>>,
    unreadable: Vec<InputError>,
    bytes_read: u64,
}

/// Reads all sources, batch by batch. It waits for whoever takes the batches, and stops when nobody does any more.
fn read(sources: Vec<Source>, batch_size: usize, pieces: &mpsc::Sender<Piece>) {
    let empty = || Piece { records: Vec::with_capacity(batch_size), unreadable: Vec::new(), bytes_read: 0 };
    let (mut piece, mut bytes_before) = (empty(), 0);
    for source in sources {
        let bytes_read = source.bytes_read();
        let (records, unopened) = match source.records() {
            Ok(records) => (Some(records), None),
            Err(error) => (None, Some(Err(error))),
        };
        for record in records.into_iter().flatten().chain(unopened) {
            match record {
                Ok(record) => piece.records.push(record.json),
                Err(error) => piece.unreadable.push(error),
            }
            if piece.records.len() == batch_size {
                piece.bytes_read = bytes_before + bytes_read.load(Relaxed);
                if pieces.blocking_send(std::mem::replace(&mut piece, empty())).is_err() {
                    return;
                }
            }
        }
        bytes_before += bytes_read.load(Relaxed);
    }
    piece.bytes_read = bytes_before;
    // Nobody takes it if the replay was interrupted; then it was not asked for.
    let _ = pieces.blocking_send(piece);
}

/// Takes the records of all sources through the worker; a few batches are in memory, however long the input.
async fn replay(worker: &Worker, sources: Vec<Source>, batch_size: usize) -> Replayed {
    let progress = terminal::progress(sources.iter().map(Source::bytes_total).sum());
    let (sender, mut pieces) = mpsc::channel(1);
    // A thread of its own and not one of the runtime's, which would wait at the end for a read of a terminal or a pipe.
    let reader = std::thread::spawn(move || read(sources, batch_size, &sender));
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut replayed = Replayed::default();
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
        progress.suspend(|| unreadable.iter().for_each(|error| replayed.unreadable(error)));
        if !records.is_empty() {
            replayed.report.add(worker.process(&records, Deadline::NONE).await);
        }
        progress.set_position(bytes_read);
        progress.set_message(format!("{} records", replayed.report.records));
    }
    progress.finish_and_clear();
    if replayed.interrupted {
        eprintln!("interrupted: what is not in the counts was not applied; replay again, nothing counts twice");
    } else {
        reader.join().expect("the reader ends with the input: a panic of it must not look like that");
    }
    replayed
}

impl Replayed {
    fn unreadable(&mut self, error: &InputError) {
        eprintln!("error: {error}");
        self.unreadable += 1;
        self.broken_off |= error.is_fatal();
    }
}

fn report_json(replayed: &Replayed, seconds: f64) -> Box<RawValue> {
    let Report { records, total, ignored, projections, reasons, usage, checkpoint: _ } = &replayed.report;
    let projections: serde_json::Map<_, _> = projections.iter().map(|(name, tally)| ((*name).to_owned(), tally_json(tally))).collect();
    let ignored: serde_json::Map<_, _> = ignored.iter().map(|(reason, count)| (reason.to_string(), json!(count))).collect();
    let report = json!({
        "records": records, "total": tally_json(total), "ignored": ignored, "unreadable": replayed.unreadable, "projections": projections,
        "failures": reasons, "requests": usage.requests, "writeUnits": usage.write_units, "readUnits": usage.read_units,
        "retries": usage.retries, "conflicts": usage.conflicts, "seconds": seconds,
    });
    serde_json::value::to_raw_value(&report).expect("JSON serialises")
}

fn tally_json(tally: &Tally) -> serde_json::Value {
    // How old a captured event is says nothing of the worker.
    let Tally { applied, duplicate, healed, gaps, parked, failed, reprojected, oldest_ms: _ } = tally;
    json!({
        "applied": applied, "duplicate": duplicate, "healed": healed, "gaps": gaps, "parked": parked, "failed": failed,
        "reprojected": reprojected,
    })
}

fn print_lines(snapshot: &Snapshot, registry: Registry) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Row<'a> {
        projection: &'a str,
        row: &'a RawValue,
    }
    for projection in registry.projections().iter().map(|rule| rule.name()) {
        for row in &snapshot.rows[projection] {
            println!("{}", serde_json::to_string(&Row { projection, row })?);
        }
    }
    for parked in &snapshot.parked {
        println!("{}", serde_json::to_string(&json!({ "parked": parked }))?);
    }
    println!("{}", serde_json::to_string(&json!({ "report": snapshot.report }))?);
    Ok(())
}
