//! `projector events`: append to the event store, import into it, and show events.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use comfy_table::Cell;
use projection_vocabulary::{AggregateId, RecordedEvent, Timestamp, Value, Version};
use serde::Deserialize;
use serde_json::value::RawValue;

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
    retry::Deadline,
    sources::input::{self, Source},
    store::{
        Store, StoreError,
        append::{APPEND_EVENTS_MAX, AppendError, Imported},
        digest,
        events::{PAGE_EVENTS, Stored},
        now,
    },
};

/// Columns that a table of events needs for versions, times and borders.
const OTHER_COLUMNS: usize = 36;
/// Columns that the name and the data of an event get at least.
const CELL_COLUMNS_MIN: usize = 12;

/// What to do with the event store.
#[derive(Subcommand)]
pub enum Command {
    /// Append events from JSON Lines
    ///
    /// Each line is {"aggregateId", "eventType", "eventData"} and optionally "expectedVersion", "eventId", "timestamp", "metadata".
    /// Consecutive lines of one aggregate are appended together, at most 99 at once. All lines are checked before the first is
    /// appended. A line without an eventId gets one that is derived from it, so that running the command again appends nothing twice.
    #[command(after_help = "Example: projector --data demo.db events append events.jsonl")]
    Append {
        /// JSON Lines, or - for the standard input
        file: PathBuf,
    },
    /// Import events from captured stream files, scans and exports; repeating it changes nothing
    ///
    /// From stream records: the events that they saw inserted. From the output of `aws dynamodb scan` or `query`, or the data files of an
    /// export in DynamoDB JSON: the items that are events.
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
struct Line {
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
        let line: Line = serde_json::from_str(&line).map_err(|error| {
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

/// The outcome of an append, in numbers.
#[derive(Default)]
struct Appended {
    new: usize,
    known: usize,
}

impl fmt::Display for Appended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} appended", count_of(self.new, "event"))?;
        if self.known > 0 {
            write!(f, ", {} already there", self.known)?;
        }
        Ok(())
    }
}

async fn append(store: &Store, path: &Path, lines: Vec<Checked>, out: &mut Out) -> anyhow::Result<u8> {
    let mut appended = Appended::default();
    let mut ids = BTreeMap::new();
    for lines in lines.chunk_by(|one, two| one.event.aggregate == two.event.aggregate && two.expected.is_none()) {
        match append_to_one(store, lines, &mut ids, &mut appended).await {
            Ok(()) => {}
            Err((number, error)) => {
                let conflict = matches!(error, AppendError::Conflict { .. });
                let error = anyhow::Error::from(error).context(format!("{}:{number}", path.display()));
                terminal::error(format_args!("{error:#}; before that, {appended}; run the same command again, nothing is appended twice"));
                return Ok(if conflict { EXIT_FINDINGS } else { EXIT_USAGE });
            }
        }
    }
    out.line(&appended);
    if appended.known > 0 {
        terminal::note(
            "already there: appended by an earlier run; to append an equal event once more, give it another eventId or timestamp",
        );
    }
    Ok(EXIT_OK)
}

/// The ids of the events that the store has, by aggregate.
type Ids = BTreeMap<AggregateId, BTreeSet<Arc<str>>>;

/// Appends consecutive lines of one aggregate, except those that are in its history already. On failure, says at which line.
async fn append_to_one(store: &Store, lines: &[Checked], ids: &mut Ids, appended: &mut Appended) -> Result<(), (u64, AppendError)> {
    let first = &lines[0];
    let aggregate = &first.event.aggregate;
    if !ids.contains_key(aggregate) {
        ids.insert(aggregate.clone(), ids_of(store, aggregate).await.map_err(|error| (first.number, error.into()))?);
    }
    let ids = ids.get_mut(aggregate).expect("inserted above");
    let (known, new): (Vec<_>, Vec<_>) = lines.iter().partition(|line| ids.contains(&line.event.event_id));
    appended.known += known.len();
    let mut expected = first.expected.map(|expected| Version(expected.0 + known.len() as u64));
    for lines in new.chunks(APPEND_EVENTS_MAX) {
        let at = |error: AppendError| (lines[0].number, error);
        let after = match expected {
            Some(version) => version,
            None => store.current_version(aggregate).await.map_err(|error| at(error.into()))?,
        };
        let events: Vec<_> = lines
            .iter()
            .zip(after.0 + 1..)
            .map(|(line, version)| RecordedEvent { version: Version(version), ..line.event.clone() })
            .collect();
        expected = Some(store.append(after, &events).await.map_err(at)?);
        ids.extend(events.into_iter().map(|event| event.event_id));
        appended.new += lines.len();
    }
    Ok(())
}

/// The ids of the events in an aggregate's history.
async fn ids_of(store: &Store, aggregate: &AggregateId) -> Result<BTreeSet<Arc<str>>, StoreError> {
    let (mut ids, mut from) = (BTreeSet::new(), Version::NONE.next());
    loop {
        let page = store.load_page(aggregate, from..=Version(u64::MAX), PAGE_EVENTS, Deadline::NONE).await?;
        let Some(last) = page.last().map(Stored::version) else { return Ok(ids) };
        from = last.next();
        ids.extend(page.into_iter().filter_map(|stored| if let Stored::Event(event) = stored { Some(event.event_id) } else { None }));
    }
}

/// The event of a line, without its version. `equal` counts equal lines.
fn event(line: Line, equal: &mut BTreeMap<String, u64>) -> anyhow::Result<RecordedEvent> {
    let Line { aggregate_id, event_type, event_data, expected_version: _, event_id, timestamp, metadata } = line;
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
    not_events: u64,
    /// A file could not be read to its end.
    broken_off: bool,
}

async fn import(store: &Store, paths: &[PathBuf], out: &mut Out) -> anyhow::Result<u8> {
    let imports = import_all(store, paths).await?;
    let Imports { new, known, refused, not_events, broken_off: _ } = imports;
    let (events, others) = (count(new, "event"), count(not_events, "other record"));
    out.line(format_args!("{events} imported, {known} already there, {refused} refused; {others} skipped"));
    Ok(imports.exit_code())
}

/// Imports the events of captured files, without a summary. What cannot be imported is named on the error output. Returns the exit code:
/// it is not 0 if anything was refused or a file could not be read.
pub async fn import_quietly(store: &Store, paths: &[PathBuf]) -> anyhow::Result<u8> {
    Ok(import_all(store, paths).await?.exit_code())
}

impl Imports {
    fn exit_code(&self) -> u8 {
        match (self.broken_off, self.refused) {
            (true, _) => EXIT_USAGE,
            (false, 0) => EXIT_OK,
            (false, _) => EXIT_FINDINGS,
        }
    }
}

async fn import_all(store: &Store, paths: &[PathBuf]) -> anyhow::Result<Imports> {
    let mut imports = Imports::default();
    let mut complaints = Complaints::default();
    let sources = input::sources(paths)?;
    let progress = terminal::progress_of_bytes(sources.iter().map(Source::bytes_total).sum());
    let mut bytes_before = 0;
    for source in sources {
        terminal::note_waiting(source.is_standard_input());
        let file = source.file().to_owned();
        let bytes_read = source.bytes_read();
        for record in source.records_and_items()? {
            progress.set_position(bytes_before + bytes_read.load(Relaxed));
            progress.set_message(format!("{} events", imports.new + imports.known));
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    imports.broken_off |= error.is_fatal();
                    imports.refused += 1;
                    complaints.of_input(&file, &error);
                    continue;
                }
            };
            let refused = match appended_item(&record.json) {
                Ok(None) => {
                    imports.not_events += 1;
                    continue;
                }
                Ok(Some((aggregate, version, item))) => match store.import(&aggregate, version, item.into()).await? {
                    Imported::New => {
                        imports.new += 1;
                        continue;
                    }
                    Imported::Known => {
                        imports.known += 1;
                        continue;
                    }
                    Imported::Refused(reason) => reason.to_owned(),
                },
                Err(reason) => reason,
            };
            complaints.of_record(&file, &refused, format_args!("{}: {refused}", record.origin));
            imports.refused += 1;
        }
        bytes_before += bytes_read.load(Relaxed);
    }
    progress.finish_and_clear();
    complaints.sum_up();
    Ok(imports)
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
