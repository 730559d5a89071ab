//! `projector events`: append to the event store, import into it, and show events.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
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
    out::Out,
    terminal,
    text::{count, count_of, printable, shortened, to_the_second},
};
use crate::{
    engine::decode::appended_item,
    retry::Deadline,
    sources::input,
    store::{
        Store,
        append::{APPEND_EVENTS_MAX, AppendError, Imported},
        events::{PAGE_EVENTS, Stored},
        fresh_id, now,
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
    /// Consecutive lines of one aggregate are appended together, at most 99 at once.
    #[command(after_help = "Example: projector --data demo.db events append events.jsonl")]
    Append {
        /// A file of JSON Lines, or - for the standard input
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
    let store = match command {
        Command::Append { .. } | Command::Import { .. } => cx.open_store_to_fill().await?,
        Command::Show { .. } | Command::ByType { .. } => cx.open_existing_store().await?,
    };
    match command {
        Command::Append { file } => append(&store, file, &mut cx.out).await,
        Command::Import { paths } => import(&store, paths, &mut cx.out).await,
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

async fn append(store: &Store, path: &Path, out: &mut Out) -> anyhow::Result<u8> {
    let content: Box<dyn Read> = if path.as_os_str() == "-" {
        terminal::note_waiting(true);
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?)
    };
    let mut lines = Vec::new();
    for (line, number) in BufReader::new(content).lines().zip(1_u64..) {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if !line.trim().is_empty() {
            // The parser's message may quote event data, so only the place is reported.
            let parsed: Line = serde_json::from_str(&line).map_err(|error| {
                anyhow::anyhow!(
                    "{}:{number} is not a valid event to append: see column {} and `projector events append --help`",
                    path.display(),
                    error.column()
                )
            })?;
            lines.push((number, parsed));
        }
    }
    let mut appended = 0;
    for lines in lines.chunk_by(|(_, one), (_, two)| one.aggregate_id == two.aggregate_id && two.expected_version.is_none()) {
        let mut expected = lines[0].1.expected_version.map(Version);
        for lines in lines.chunks(APPEND_EVENTS_MAX) {
            let aggregate = AggregateId::from(lines[0].1.aggregate_id.as_str());
            let after = match expected {
                Some(version) => version,
                None => store.current_version(&aggregate).await?,
            };
            let events = lines.iter().zip(after.0 + 1..).map(|((number, line), version)| {
                event(&aggregate, Version(version), line).with_context(|| format!("{}:{number}", path.display()))
            });
            match store.append(after, &events.collect::<anyhow::Result<Vec<_>>>()?).await {
                Ok(version) => expected = Some(version),
                Err(error @ AppendError::Conflict { .. }) => {
                    let before = count_of(appended, "event");
                    terminal::error(format_args!("{}:{}: {error}; {before} appended before", path.display(), lines[0].0));
                    return Ok(EXIT_FINDINGS);
                }
                Err(error) => return Err(error).with_context(|| format!("{}:{}", path.display(), lines[0].0)),
            }
            appended += lines.len();
        }
    }
    out.line(format_args!("{} appended", count_of(appended, "event")));
    Ok(EXIT_OK)
}

fn event(aggregate: &AggregateId, version: Version, line: &Line) -> anyhow::Result<RecordedEvent> {
    let data = Value::from_json(&line.event_data).context("eventData")?;
    if !matches!(data, Value::Map(_)) {
        bail!("eventData is not an object");
    }
    if line.aggregate_id.is_empty() || line.event_type.is_empty() {
        bail!("aggregateId or eventType is empty");
    }
    let event_id = line.event_id.clone().unwrap_or_else(fresh_id);
    Ok(RecordedEvent {
        aggregate: aggregate.clone(),
        version,
        event_id: event_id.into(),
        event_type: line.event_type.as_str().into(),
        data,
        timestamp: line.timestamp.as_deref().map_or_else(|| Ok(now()), Timestamp::parse)?,
        metadata: line.metadata.as_deref().map(Value::from_json).transpose().context("metadata")?,
    })
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
    for source in input::sources(paths)? {
        terminal::note_waiting(source.is_standard_input());
        let file = source.file().to_owned();
        for record in source.records_and_items()? {
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
    }
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
            self.out.line(terminal::drawn(table));
        }
        if self.malformed { EXIT_FINDINGS } else { EXIT_OK }
    }
}

fn json(event: RecordedEvent) -> impl std::fmt::Display {
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
