//! `projector events`: the event store by hand.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use projection_vocabulary::{AggregateId, RecordedEvent, Timestamp, Value, Version};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{EXIT_FINDINGS, EXIT_OK};
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

/// What to do with the event store.
#[derive(Subcommand)]
pub enum Command {
    /// Append events from JSON Lines: `{"aggregateId", "eventType", "eventData"}` and, if you like, `"expectedVersion"`,
    /// `"eventId"`, `"timestamp"`, `"metadata"`. Consecutive lines of one aggregate are appended together, 99 at most
    Append {
        /// JSON Lines
        file: PathBuf,
    },
    /// Put the events that captured stream files saw inserted into the event store. Repeatable
    Import {
        /// Files, folders, or - for the standard input
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Show an aggregate's history as JSON Lines
    Show {
        /// The aggregate's id
        aggregate: String,
    },
    /// Show the newest events of a type as JSON Lines, newest first
    ByType {
        /// The event type
        event_type: String,
        /// How many at most
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
}

/// `events`
pub async fn run(command: Command, store: &Store) -> anyhow::Result<u8> {
    match command {
        Command::Append { file } => append(store, &file).await,
        Command::Import { paths } => import(store, &paths).await,
        Command::Show { aggregate } => show(store, &aggregate.as_str().into()).await,
        Command::ByType { event_type, limit } => print(store.load_by_type(&event_type, limit).await?),
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

async fn append(store: &Store, path: &Path) -> anyhow::Result<u8> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut lines = Vec::new();
    for (line, number) in BufReader::new(file).lines().zip(1_u64..) {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if !line.trim().is_empty() {
            // Its own words may quote the data, so only the place is passed on.
            let parsed: Line = serde_json::from_str(&line).map_err(|error| {
                anyhow::anyhow!(
                    "{}:{number} is no event to append: see column {} and `projector events append --help`",
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
                    eprintln!("error: {}:{}: {error}; {appended} events were appended before", path.display(), lines[0].0);
                    return Ok(EXIT_FINDINGS);
                }
                Err(error) => return Err(error).with_context(|| format!("{}:{}", path.display(), lines[0].0)),
            }
            appended += lines.len();
        }
    }
    println!("{appended} events appended");
    Ok(EXIT_OK)
}

fn event(aggregate: &AggregateId, version: Version, line: &Line) -> anyhow::Result<RecordedEvent> {
    let data = Value::from_json(&line.event_data).context("eventData")?;
    if !matches!(data, Value::Map(_)) {
        bail!("eventData is no object");
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

/// What came of an import, in numbers.
#[derive(Default)]
struct Imports {
    new: u64,
    known: u64,
    refused: u64,
    other: u64,
}

async fn import(store: &Store, paths: &[PathBuf]) -> anyhow::Result<u8> {
    let Imports { new, known, refused, other } = import_all(store, paths).await?;
    println!("{new} events imported, {known} already there, {refused} refused, {other} records passed over");
    Ok(if refused > 0 { EXIT_FINDINGS } else { EXIT_OK })
}

/// Puts the events that captured files saw inserted into the event store. What it refuses is named on the error output.
pub async fn import_quietly(store: &Store, paths: &[PathBuf]) -> anyhow::Result<()> {
    import_all(store, paths).await.map(drop)
}

async fn import_all(store: &Store, paths: &[PathBuf]) -> anyhow::Result<Imports> {
    let mut imports = Imports::default();
    for source in input::sources(paths)? {
        for record in source.records()? {
            let record = match record {
                Err(error) if !error.is_fatal() => {
                    eprintln!("error: {error}");
                    imports.refused += 1;
                    continue;
                }
                record => record?,
            };
            let Some((aggregate, version, item)) = appended_item(&record.json) else {
                imports.other += 1;
                continue;
            };
            match store.import(&aggregate, version, item.into()).await? {
                Imported::New => imports.new += 1,
                Imported::Known => imports.known += 1,
                Imported::Refused(reason) => {
                    eprintln!("error: {}: {reason}", record.origin);
                    imports.refused += 1;
                }
            }
        }
    }
    Ok(imports)
}

async fn show(store: &Store, aggregate: &AggregateId) -> anyhow::Result<u8> {
    let mut from = Version::NONE.next();
    loop {
        let page = store.load_page(aggregate, from..=Version(u64::MAX), PAGE_EVENTS, Deadline::NONE).await?;
        let Some(last) = page.last().map(Stored::version) else {
            if from == Version::NONE.next() {
                eprintln!("error: the event store has no aggregate {aggregate}");
                return Ok(EXIT_FINDINGS);
            }
            return Ok(EXIT_OK);
        };
        from = last.next();
        print(page)?;
    }
}

fn print(events: Vec<Stored>) -> anyhow::Result<u8> {
    let mut out = std::io::stdout().lock();
    let mut malformed = false;
    for stored in events {
        match stored {
            Stored::Event(event) => {
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
                writeln!(out, "{}", Value::Map(members).to_json())?;
            }
            Stored::Malformed { version, reason, .. } => {
                malformed = true;
                eprintln!("version {version} cannot be read: {reason}");
            }
        }
    }
    Ok(if malformed { EXIT_FINDINGS } else { EXIT_OK })
}
