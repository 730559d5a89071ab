//! `projector events`: append to the event store, import into it, and show events.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use comfy_table::Cell;
use projection_vocabulary::{AggregateId, RecordedEvent, Timestamp, Value, Version};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{
    Context, EXIT_FINDINGS, EXIT_OK, EXIT_USAGE,
    complaints::Complaints,
    corrections::{self, CorrectOptions},
    json_lines,
    out::Out,
    terminal,
    text::{count, count_of, printable, shortened, to_the_second},
};
use crate::{
    engine::decode::appended_item,
    operations::{
        append::{self, Appended, Line, Run},
        import::{BulkImport, Captured, Outcome, Outcomes},
    },
    retry::Deadline,
    sources::input::{self, InputError, Origin, RawRecord, Source},
    store::{
        Store, Usage,
        append::AppendError,
        digest,
        events::{PAGE_EVENTS, Stored},
        import::Imported,
        now,
    },
};

/// Columns that a table of events needs for versions, times and borders.
const OTHER_COLUMNS: usize = 36;
/// Columns that the name and the data of an event get at least.
const CELL_COLUMNS_MIN: usize = 12;

/// How much of an import's input is handed on at once. Two such pieces are in memory at the same time.
const PIECE_ENTRIES: usize = 1_000;
const PIECE_BYTES: usize = 1 << 20;
/// How many events must be written at least to say how fast that was.
const RATE_EVENTS_MIN: u64 = 1_000;

/// What to do with the event store.
#[derive(Subcommand)]
pub enum Command {
    /// Append events from JSON Lines
    ///
    /// Each line is {"aggregateId", "eventType", "eventData"} and optionally "expectedVersion", "eventId", "timestamp", "metadata".
    /// Consecutive lines of one aggregate are appended together, at most 99 at once; lines of several aggregates side by side. All lines
    /// are checked before the first is appended. A line without an eventId gets one that is derived from it, so that running the command
    /// again appends nothing twice. A conflict ends the appends to its aggregate; those to others go on.
    #[command(after_help = "Example: projector --data demo.db events append events.jsonl")]
    Append {
        /// JSON Lines, or - for the standard input
        file: PathBuf,
    },
    /// Import events from captured stream files, scans and exports; repeating it changes nothing
    ///
    /// From stream records: the events that they saw inserted. From the output of `aws dynamodb scan` or `query`, or the data files of an
    /// export in DynamoDB JSON: the items that are events. Nothing is overwritten: an event that differs from the stored one of its version
    /// is a conflict, and the others are imported.
    #[command(after_help = "Example: projector --data demo.db events import captured/")]
    Import {
        /// Files, folders, or - for the standard input
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Show an aggregate's history
    #[command(after_help = "Example: projector --data demo.db events show alice")]
    Show {
        /// The aggregate's id
        aggregate: String,
        /// Print JSON Lines, or a table for people
        #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Output::Json)]
        output: Output,
    },
    /// Replace an event that is wrong, and keep the old one with who replaced it and why
    ///
    /// The event store is append-only but for this. The new event has the id and the version of the old one, and whatever else the JSON
    /// object does not name: eventData, eventType, timestamp, metadata. The old item is printed, and stays in the event store under another
    /// sort key. Rows that have applied the old event are re-projected; parked ones are for `parked redrive`.
    #[command(after_help = "Example: projector --data demo.db events correct alice 3 --with event.json --why typo")]
    Correct(CorrectOptions),
    /// Show what corrections of an aggregate's events have replaced, by whom and why
    #[command(after_help = "Example: projector --data demo.db events corrections alice")]
    Corrections {
        /// The aggregate's id
        aggregate: String,
    },
    /// Show the newest events of a type, newest first
    #[command(after_help = "Example: projector --data demo.db events by-type {event-type} --limit 5")]
    ByType {
        /// The event type
        event_type: String,
        /// The number of events at most
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Print JSON Lines, or a table for people
        #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Output::Json)]
        output: Output,
    },
}

/// How to print events. Unlike other commands', their default is JSON: events are documents.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

/// `events`
pub async fn run(command: &Command, cx: &mut Context) -> anyhow::Result<u8> {
    let lines = if let Command::Append { file } = command { read(file)? } else { Vec::new() };
    let store = match command {
        Command::Append { .. } | Command::Import { .. } => cx.open_store_to_fill().await?,
        _ => cx.open_existing_store().await?,
    };
    match command {
        Command::Append { file } => append(&store, file, lines, &mut cx.out).await,
        Command::Import { paths } => import(&store, paths, &mut cx.out).await,
        Command::Correct(options) => corrections::correct(options, store, cx).await,
        Command::Corrections { aggregate } => corrections::list(&store, aggregate, &mut cx.out).await,
        Command::Show { aggregate, output } => show(&store, &aggregate.as_str().into(), *output, &mut cx.out).await,
        Command::ByType { event_type, limit, output } => {
            let mut printer = Printer::new(*output, Name::Aggregate, &mut cx.out);
            printer.print(store.load_by_type(event_type, *limit).await?);
            Ok(printer.finish())
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JsonLine {
    aggregate_id: String,
    event_type: String,
    event_data: Box<RawValue>,
    expected_version: Option<u64>,
    event_id: Option<String>,
    timestamp: Option<String>,
    metadata: Option<Box<RawValue>>,
}

/// A line of the input that can be appended.
struct Checked {
    /// For messages.
    number: u64,
    expected: Option<Version>,
    /// Its version is not yet known.
    event: RecordedEvent,
}

/// Reads and checks all lines, before anything is written.
fn read(path: &Path) -> anyhow::Result<Vec<Checked>> {
    let (mut checked, mut equal, mut ids) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for line in json_lines::lines(path)? {
        let (number, line) = line?;
        let place = || format!("{}:{number}", path.display());
        // The parser's message may quote event data, so only the place is reported.
        let line: JsonLine = serde_json::from_str(&line).map_err(|error| {
            anyhow::anyhow!(
                "{} is not a valid event to append: see column {} and `projector events append --help`",
                place(),
                error.column()
            )
        })?;
        let expected = line.expected_version.map(Version);
        let event = event(line, &mut equal).with_context(place)?;
        if let Some(before) = ids.insert((event.aggregate.clone(), event.event_id.clone()), number) {
            bail!("{}: line {before} has the same eventId", place());
        }
        checked.push(Checked { number, expected, event });
    }
    Ok(checked)
}

async fn append(store: &Store, path: &Path, lines: Vec<Checked>, out: &mut Out) -> anyhow::Result<u8> {
    let rate = Rate::new(store);
    let appended = append::append(store, runs(lines)).await;
    let Appended { new, known, left, failures } = appended;
    let already = if known > 0 { format!(", {known} already there") } else { String::new() };
    let said = format!("{} appended{already}", count_of(new, "event"));
    if failures.is_empty() {
        out.line(said);
        rate.note(new as u64);
        if known > 0 {
            terminal::note(
                "already there: appended by an earlier run; to append an equal event once more, give it another eventId or timestamp",
            );
        }
        return Ok(EXIT_OK);
    }
    let mut complaints = Complaints::default();
    for (number, error) in &failures {
        let kind = match error {
            AppendError::Conflict { .. } => "conflict".to_owned(),
            AppendError::Invalid { reason, .. } => (*reason).to_owned(),
            error => error.to_string(),
        };
        complaints.of_record(path, &kind, format_args!("{}:{number}: {error}", path.display()));
    }
    complaints.sum_up();
    terminal::error(format_args!("{said}, {left} not appended; run the same command again, nothing is appended twice"));
    let conflicts_only = failures.iter().all(|(_, error)| matches!(error, AppendError::Conflict { .. }));
    Ok(if conflicts_only { EXIT_FINDINGS } else { EXIT_USAGE })
}

/// The lines that are appended together: consecutive ones of one aggregate, until one expects a version.
fn runs(lines: Vec<Checked>) -> Vec<Run> {
    let mut runs = Vec::<Run>::new();
    for Checked { number, expected, event } in lines {
        let line = Line { number, event };
        match runs.last_mut() {
            Some(run) if expected.is_none() && run.lines[0].event.aggregate == line.event.aggregate => run.lines.push(line),
            _ => runs.push(Run { expected, lines: vec![line] }),
        }
    }
    runs
}

/// How fast many events are written.
struct Rate<'a> {
    store: &'a Store,
    begun: Instant,
    before: Usage,
}

impl<'a> Rate<'a> {
    fn new(store: &'a Store) -> Self {
        Self { store, begun: Instant::now(), before: store.usage() }
    }

    /// Says how fast it was, if there were enough events to tell.
    fn note(&self, events: u64) {
        if events < RATE_EVENTS_MIN {
            return;
        }
        let (took, requests) = (self.begun.elapsed().as_secs_f64(), (self.store.usage() - self.before).requests);
        #[allow(clippy::cast_precision_loss, reason = "a rate, shown without digits")]
        let rate = events as f64 / took;
        terminal::note(format_args!("{} in {took:.1} s: {rate:.0} a second, by {}", count(events, "event"), count(requests, "request")));
    }
}

/// The event of a line, without its version. `equal` counts equal lines.
fn event(line: JsonLine, equal: &mut BTreeMap<String, u64>) -> anyhow::Result<RecordedEvent> {
    let JsonLine { aggregate_id, event_type, event_data, expected_version: _, event_id, timestamp, metadata } = line;
    let data = Value::from_json(&event_data).context("eventData")?;
    if !matches!(data, Value::Map(_)) {
        bail!("eventData is not an object");
    }
    if aggregate_id.is_empty() || event_type.is_empty() || event_id.as_deref() == Some("") {
        bail!("aggregateId, eventType or eventId is empty");
    }
    let timestamp = timestamp.as_deref().map(Timestamp::parse).transpose()?;
    let metadata = metadata.as_deref().map(Value::from_json).transpose().context("metadata")?;
    let event_id = event_id.unwrap_or_else(|| {
        let told = timestamp.as_ref().map(Timestamp::as_str);
        let metadata = metadata.as_ref().map(Value::to_json);
        derived_id(&serde_json::json!([aggregate_id, event_type, data.to_json(), told, metadata]).to_string(), equal)
    });
    Ok(RecordedEvent {
        aggregate: aggregate_id.as_str().into(),
        version: Version::NONE,
        event_id: event_id.into(),
        event_type: event_type.as_str().into(),
        data,
        timestamp: timestamp.unwrap_or_else(now),
        metadata,
    })
}

/// An event id that is the same each time the same input is appended: from all that a line says, and from how many equal lines came
/// before it. An append that was broken off can so be repeated.
fn derived_id(line: &str, equal: &mut BTreeMap<String, u64>) -> String {
    let before = equal.entry(line.to_owned()).or_default();
    *before += 1;
    digest(&format!("{before}:{line}"))
}

/// The outcome of an import, in numbers.
#[derive(Default)]
struct Imports {
    new: u64,
    known: u64,
    refused: u64,
    conflicts: u64,
    not_events: u64,
    /// A file could not be read to its end.
    broken_off: bool,
    complaints: Complaints,
}

async fn import(store: &Store, paths: &[PathBuf], out: &mut Out) -> anyhow::Result<u8> {
    let rate = Rate::new(store);
    let imports = import_all(store, paths).await?;
    let Imports { new, known, refused, conflicts, not_events, .. } = imports;
    let in_conflict = if conflicts > 0 { format!(", {conflicts} in conflict") } else { String::new() };
    let (events, others) = (count(new, "event"), count(not_events, "other record"));
    out.line(format_args!("{events} imported, {known} already there, {refused} refused{in_conflict}; {others} skipped"));
    rate.note(new + known + conflicts);
    Ok(imports.exit_code())
}

/// Imports the events of captured files, without a summary. What cannot be imported is named on the error output. Returns the exit code:
/// it is not 0 if anything was refused or a file could not be read.
pub async fn import_quietly(store: &Store, paths: &[PathBuf]) -> anyhow::Result<u8> {
    Ok(import_all(store, paths).await?.exit_code())
}

impl Imports {
    fn exit_code(&self) -> u8 {
        match (self.broken_off, self.refused + self.conflicts) {
            (true, _) => EXIT_USAGE,
            (false, 0) => EXIT_OK,
            (false, _) => EXIT_FINDINGS,
        }
    }

    fn so_far(&self) -> String {
        format!("{} events", self.new + self.known)
    }

    fn cannot_read(&mut self, file: &Path, error: &InputError) {
        self.broken_off |= error.is_fatal();
        self.refused += 1;
        self.complaints.of_input(file, error);
    }

    fn refuse(&mut self, origin: &Origin, reason: &str) {
        self.refused += 1;
        self.complaints.of_record(&origin.file, reason, format_args!("{origin}: {reason}"));
    }

    fn count(&mut self, outcomes: Outcomes<Origin>) {
        for Outcome { aggregate, version, origin, imported } in outcomes {
            match imported {
                Imported::New => self.new += 1,
                Imported::Known => self.known += 1,
                Imported::Refused(reason) => self.refuse(&origin, reason),
                Imported::Conflict => {
                    self.conflicts += 1;
                    let aggregate = printable(aggregate.as_str());
                    let conflict =
                        format_args!("{origin}: conflict on aggregate {aggregate}: the store has another event of version {version}");
                    self.complaints.of_record(&origin.file, "conflict", conflict);
                }
            }
        }
    }
}

async fn import_all(store: &Store, paths: &[PathBuf]) -> anyhow::Result<Imports> {
    let mut imports = Imports::default();
    let mut bulk = BulkImport::new(store);
    let sources = input::sources(paths)?;
    let progress = terminal::progress_of_bytes(sources.iter().map(Source::bytes_total).sum());
    let (sender, mut pieces) = mpsc::channel(1);
    // A separate thread, so that requests are under way while it reads; and none of the runtime's, for the reason that `replay` gives.
    let reader = std::thread::spawn(move || read_captures(sources, &sender));
    let mut failed = None;
    'pieces: while let Some(Piece { entries, bytes_read }) = pieces.recv().await {
        for entry in entries {
            match entry {
                Entry::NotAnEvent => imports.not_events += 1,
                Entry::Refused(origin, reason) => imports.refuse(&origin, &reason),
                Entry::Unreadable(file, error) => imports.cannot_read(&file, &error),
                Entry::Event(captured) => match bulk.add(*captured).await {
                    Ok(outcomes) => imports.count(outcomes),
                    Err(error) => {
                        failed = Some(error);
                        break 'pieces;
                    }
                },
            }
        }
        progress.set_position(bytes_read);
        progress.set_message(imports.so_far());
    }
    // Also after a failure, what is under way is counted. The reader then ends with its next piece, which nobody takes.
    drop(pieces);
    while let Some(outcomes) = bulk.next().await {
        match outcomes {
            Ok(outcomes) => imports.count(outcomes),
            Err(error) => failed = failed.or(Some(error)),
        }
        progress.set_message(imports.so_far());
    }
    progress.finish_and_clear();
    std::mem::take(&mut imports.complaints).sum_up();
    let Some(error) = failed else {
        reader.join().expect("a panic of the reader must not look like the end of the input");
        return Ok(imports);
    };
    let (new, known) = (count(imports.new, "event"), imports.known);
    Err(anyhow::Error::from(error).context(format!("stopped after {new} imported and {known} already there; run the same command again")))
}

/// A part of the input, and how many bytes have been read so far.
struct Piece {
    entries: Vec<Entry>,
    bytes_read: u64,
}

/// What the input has at one place.
enum Entry {
    Event(Box<Captured<Origin>>),
    NotAnEvent,
    /// A record that cannot be imported, and why.
    Refused(Origin, String),
    Unreadable(PathBuf, InputError),
}

/// Reads all sources, piece by piece. It waits until a piece is received, and stops when the receiver is gone.
fn read_captures(sources: Vec<Source>, pieces: &mpsc::Sender<Piece>) {
    let (mut entries, mut bytes_of_entries, mut bytes_before) = (Vec::new(), 0, 0);
    for source in sources {
        terminal::note_waiting(source.is_standard_input());
        let file = source.file().to_owned();
        let bytes_read = source.bytes_read();
        let (records, unopened) = match source.records_and_items() {
            Ok(records) => (Some(records), None),
            Err(error) => (None, Some(Err(error))),
        };
        for record in records.into_iter().flatten().chain(unopened) {
            let entry = match record {
                Ok(record) => {
                    bytes_of_entries += record.json.get().len();
                    entry(record)
                }
                Err(error) => Entry::Unreadable(file.clone(), error),
            };
            entries.push(entry);
            if entries.len() == PIECE_ENTRIES || bytes_of_entries >= PIECE_BYTES {
                bytes_of_entries = 0;
                let piece = Piece { entries: std::mem::take(&mut entries), bytes_read: bytes_before + bytes_read.load(Relaxed) };
                if pieces.blocking_send(piece).is_err() {
                    return;
                }
            }
        }
        bytes_before += bytes_read.load(Relaxed);
    }
    // If the import has failed, nothing receives it any more.
    let _ = pieces.blocking_send(Piece { entries, bytes_read: bytes_before });
}

fn entry(RawRecord { json, origin }: RawRecord) -> Entry {
    match appended_item(&json) {
        Ok(None) => Entry::NotAnEvent,
        // JSON that names the types takes more than the item does.
        Ok(Some((aggregate, version, item))) => {
            Entry::Event(Box::new(Captured { aggregate, version, item: item.into(), bytes: json.get().len(), origin }))
        }
        Err(reason) => Entry::Refused(origin, reason),
    }
}

async fn show(store: &Store, aggregate: &AggregateId, output: Output, out: &mut Out) -> anyhow::Result<u8> {
    let mut from = Version::NONE.next();
    let mut printer = Printer::new(output, Name::Type, out);
    while printer.out.is_open() {
        let page = store.load_page(aggregate, from..=Version(u64::MAX), PAGE_EVENTS, Deadline::NONE).await?;
        let Some(last) = page.last().map(Stored::version) else { break };
        from = last.next();
        printer.print(page);
    }
    if from == Version::NONE.next() && printer.out.is_open() {
        terminal::error(format_args!("the event store has no aggregate {}", printable(aggregate.as_str())));
        return Ok(EXIT_FINDINGS);
    }
    Ok(printer.finish())
}

/// The column that tells the listed events apart; they have the other one in common.
#[derive(Clone, Copy)]
enum Name {
    Aggregate,
    Type,
}

/// Prints events, page by page as JSON, or all at the end as a table.
struct Printer<'a> {
    out: &'a mut Out,
    name: Name,
    table: Option<comfy_table::Table>,
    malformed: bool,
}

impl<'a> Printer<'a> {
    fn new(output: Output, name: Name, out: &'a mut Out) -> Self {
        let table = (output == Output::Table).then(|| {
            let mut table = terminal::table();
            table.set_header(terminal::header([name.head(), "version", "time (UTC)", "data"]));
            table
        });
        Self { out, name, table, malformed: false }
    }

    fn print(&mut self, events: Vec<Stored>) {
        for stored in events {
            match (stored, &mut self.table) {
                (Stored::Event(event), None) => self.out.line(json(event)),
                (Stored::Event(event), Some(table)) => {
                    table.add_row(row(&event, self.name));
                }
                (Stored::Malformed { version, reason, .. }, _) => {
                    self.malformed = true;
                    terminal::error(format_args!("version {version} cannot be read: {reason}"));
                }
            }
        }
    }

    /// Returns the exit code.
    fn finish(self) -> u8 {
        if let Some(table) = self.table {
            self.out.text(&(terminal::drawn(table) + "\n"));
        }
        if self.malformed { EXIT_FINDINGS } else { EXIT_OK }
    }
}

fn json(event: RecordedEvent) -> impl fmt::Display {
    let text = |text: &Arc<str>| Value::Text(text.clone());
    let mut members = BTreeMap::from([
        ("aggregateId".to_owned(), (&event.aggregate).into()),
        ("eventVersion".to_owned(), event.version.0.into()),
        ("eventId".to_owned(), text(&event.event_id)),
        ("eventType".to_owned(), text(&event.event_type)),
        ("timestamp".to_owned(), (&event.timestamp).into()),
        ("eventData".to_owned(), event.data),
    ]);
    members.extend(event.metadata.map(|metadata| ("metadata".to_owned(), metadata)));
    Value::Map(members).to_json()
}

impl Name {
    fn head(self) -> &'static str {
        match self {
            Self::Aggregate => "aggregate",
            Self::Type => "type",
        }
    }

    fn of(self, event: &RecordedEvent) -> &str {
        match self {
            Self::Aggregate => event.aggregate.as_str(),
            Self::Type => &event.event_type,
        }
    }
}

fn row(event: &RecordedEvent, name: Name) -> [Cell; 4] {
    let columns = (terminal::columns().saturating_sub(OTHER_COLUMNS) / 2).max(CELL_COLUMNS_MIN);
    let (name, data) = (shortened(name.of(event), columns), shortened(event.data.to_json().get(), columns));
    [name, event.version.to_string(), to_the_second(event.timestamp.as_str()), data].map(Cell::new)
}
