//! `projector events correct`, `parked skip` and `parked discard`: ways out for what can never be applied. Each takes one thing at a time,
//! prints it, asks, and keeps who did it and why.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use projection_vocabulary::{AggregateId, RecordedEvent, Timestamp, Value, Version};
use serde::Deserialize;
use serde_dynamo::{AttributeValue as Attribute, Item};
use serde_json::value::RawValue;

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    out::Out,
    pretty_json, terminal,
    text::{count, printable},
};
use crate::{
    Worker,
    operations::{
        correct::{Line, bring_in_line},
        error::refuse_newer_revision,
    },
    retry::Deadline,
    store::{
        Store,
        corrections::{Audit, EventItem},
        fresh_id,
        item::{SKIPPED_TYPE, VERSION_MAX, decode_event, event_type_of},
        now,
        parking::NO_PROJECTION,
    },
};

/// Who does this, and why.
#[derive(Args)]
pub struct AuditOptions {
    /// Why, for those who look at it later
    #[arg(long, value_name = "TEXT", default_value = "no reason given", hide_default_value = true, visible_alias = "reason")]
    why: String,
    /// Who does it [default: the user's name]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Which event to replace, and by what.
#[derive(Args)]
pub struct CorrectOptions {
    /// The aggregate's id
    aggregate: String,
    /// The event's version
    version: u64,
    /// A JSON object with what changes: eventData, eventType, timestamp or metadata; - for the standard input
    #[arg(long, value_name = "FILE")]
    with: PathBuf,
    #[command(flatten)]
    audit: AuditOptions,
}

/// What to give up: one entry at a time.
#[derive(Args)]
pub struct GiveUpOptions {
    /// The projection, or - for a record that names no event
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub projection: String,
    /// The aggregate, or record#... for a record that names no event
    #[arg(long, value_name = "A", allow_hyphen_values = true)]
    pub aggregate: String,
    #[command(flatten)]
    pub audit: AuditOptions,
}

impl AuditOptions {
    fn by(&self) -> String {
        let user = || ["USER", "USERNAME", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
        self.by.clone().or_else(user).unwrap_or_else(|| "unknown".to_owned())
    }

    /// Why, and who says so.
    pub fn note(&self) -> String {
        format!("{} ({})", self.why, self.by())
    }

    /// Whether to go on.
    pub fn agreed(&self, question: &str) -> anyhow::Result<bool> {
        let agreed = self.yes || terminal::confirm(question)?;
        if !agreed {
            terminal::note("nothing was changed");
        }
        Ok(agreed)
    }
}

/// What may change of an event. The others may be given as they are, so that an event that `events show` prints can be edited.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Replacement {
    aggregate_id: Option<String>,
    event_version: Option<u64>,
    event_id: Option<String>,
    event_type: Option<String>,
    event_data: Option<Box<RawValue>>,
    timestamp: Option<String>,
    metadata: Option<Box<RawValue>>,
}

impl Replacement {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = if path == Path::new("-") {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            fs::read_to_string(path)
        };
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        // The parser's message may quote event data, so only the place is reported.
        serde_json::from_str(&text).map_err(|error| {
            anyhow::anyhow!(
                "{}: line {}, column {}: not an object with eventData, eventType, timestamp or metadata",
                path.display(),
                error.line(),
                error.column()
            )
        })
    }

    /// The event in place of an old one.
    fn event(&self, old: &Item, aggregate: &AggregateId, version: Version) -> anyhow::Result<RecordedEvent> {
        if self.aggregate_id.as_deref().is_some_and(|id| id != aggregate.as_str()) || self.event_version.is_some_and(|of| of != version.0) {
            bail!("aggregateId or eventVersion names another event than the command");
        }
        let id = text_of(old, "eventId");
        if let (Some(given), Some(id)) = (&self.event_id, id)
            && given != id
        {
            bail!("an event keeps its eventId, by which redelivered copies are recognised");
        }
        // Of the old event what is not given, and the item's keys, so that only what is missing is reported.
        let mut item = old.clone().into_inner();
        let text = |text: &str| Attribute::S(text.to_owned());
        item.insert("aggregateId".into(), text(aggregate.as_str()));
        item.insert("eventVersion".into(), Attribute::N(version.to_string()));
        item.insert("eventId".into(), text(&id.map(str::to_owned).or_else(|| self.event_id.clone()).unwrap_or_else(fresh_id)));
        if self.event_data.is_some() {
            item.insert("eventData".into(), Attribute::M([].into()));
        }
        if self.metadata.is_some() {
            item.remove("metadata");
        }
        for (name, given) in [("eventType", &self.event_type), ("timestamp", &self.timestamp)] {
            item.extend(given.as_deref().map(|given| (name.to_owned(), text(given))));
        }
        let mut event = decode_event(&item.into()).context("the new event is not readable; name this in the JSON object, too")?;
        let value = |json: &RawValue| Value::from_json(json);
        if let Some(data) = &self.event_data {
            event.data = value(data).context("eventData")?;
        }
        if !matches!(event.data, Value::Map(_)) {
            bail!("eventData is not an object");
        }
        if let Some(metadata) = self.metadata.as_deref() {
            event.metadata = Some(value(metadata).context("metadata")?).filter(|metadata| *metadata != Value::Null);
        }
        Ok(event)
    }
}

fn text_of<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    match item.get(name) {
        Some(Attribute::S(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// `events correct`
pub async fn correct(options: &CorrectOptions, store: Store, cx: &mut Context) -> anyhow::Result<u8> {
    let CorrectOptions { aggregate, version, with, audit } = options;
    let (id, version) = (AggregateId::from(aggregate.as_str()), Version(*version));
    if with == Path::new("-") && !audit.yes {
        bail!("the standard input has the event, so it cannot have the answer: add --yes");
    }
    let replacement = Replacement::read(with)?;
    let item = if (Version(1)..=VERSION_MAX).contains(&version) { store.event_item(&id, version).await? } else { None };
    let Some(item) = item else {
        terminal::error(format_args!("the event store has no version {version} of {}", printable(aggregate)));
        return Ok(EXIT_FINDINGS);
    };
    let event = replacement.event(&item.item(), &id, version)?;
    let worker = cx.worker(store);
    replace(&worker, Some(&item), &event, audit, &mut cx.out).await
}

/// `parked skip`
pub async fn skip(options: &GiveUpOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let GiveUpOptions { projection, aggregate, audit } = options;
    if projection == NO_PROJECTION {
        bail!("a record that names no event cannot be skipped; it can be discarded: `projector parked discard`");
    }
    let rule = cx.rule(projection)?;
    if cx.registry.projections().iter().any(|rule| rule.event_types().contains(&SKIPPED_TYPE)) {
        bail!("a projection of this program handles events of the type {SKIPPED_TYPE}, which is for skipped events");
    }
    let worker = cx.worker(cx.open_existing_store().await?);
    let store = worker.store();
    let id = AggregateId::from(aggregate.as_str());
    let Some((entry, _)) = store.parked_entry(projection, aggregate, Deadline::NONE).await? else { return Ok(not_parked(options)) };
    let Some(version) = entry.version else {
        bail!("the entry names no event: `projector parked redrive` parks the aggregate again if one cannot be applied");
    };
    refuse_newer_revision(rule, &store.home_row(rule, &id, Deadline::NONE).await?)?;
    let item = store.event_item(&id, version).await?;
    if item.is_none() && store.load_page(&id, version.next()..=VERSION_MAX, 1, Deadline::NONE).await?.is_empty() {
        terminal::error(format_args!(
            "the event store of {} ends before version {version}, so there is nothing to skip: restore the event and redrive, or discard the \
             entry with `projector parked discard`",
            printable(aggregate)
        ));
        return Ok(EXIT_FINDINGS);
    }
    let old = item.as_ref().map(EventItem::item).unwrap_or_default();
    let timestamp = text_of(&old, "timestamp").and_then(|text| Timestamp::parse(text).ok()).unwrap_or_else(now);
    let event = RecordedEvent {
        aggregate: id,
        version,
        event_id: text_of(&old, "eventId").map_or_else(|| fresh_id().into(), Into::into),
        event_type: SKIPPED_TYPE.into(),
        data: Value::Map([].into()),
        timestamp,
        metadata: None,
    };
    replace(&worker, item.as_ref(), &event, audit, &mut cx.out).await
}

/// Replaces an event, if it is still the one that is shown here, and brings rows in line.
async fn replace(
    worker: &Worker,
    shown: Option<&EventItem>,
    event: &RecordedEvent,
    audit: &AuditOptions,
    out: &mut Out,
) -> anyhow::Result<u8> {
    let RecordedEvent { aggregate, version, .. } = event;
    let name = format!("version {version} of {}", printable(aggregate.as_str()));
    match shown {
        Some(item) => out.line(item.json()),
        None => terminal::note(format_args!("the event store does not have {name}, and has later ones")),
    }
    if !audit.agreed(&format!("Replace {name}, for every projection?"))? {
        return Ok(EXIT_FINDINGS);
    }
    let by = audit.by();
    if !worker.store().replace_event(shown, event, Audit { by: &by, why: &audit.why }).await? {
        terminal::error(format_args!("{name} was changed meanwhile, and is left as it is: look again"));
        return Ok(EXIT_FINDINGS);
    }
    terminal::note(format_args!("replaced {name}; the old item stays in the event store: projector events corrections"));
    let old = shown.map(EventItem::item);
    let types = [old.as_ref().and_then(event_type_of), Some(&*event.event_type)];
    let lines = bring_in_line(worker, aggregate, *version, types, Deadline::NONE).await;
    let lines = lines.with_context(|| format!("the event is replaced, and rows may still have the old one: projector verify NAME --repair, for each projection, looks at {name}"))?;
    let (mut exit, aggregate) = (EXIT_OK, printable(aggregate.as_str()));
    for (projection, line) in lines {
        let redrive = format!("projector parked redrive --projection {projection} --aggregate '{aggregate}'");
        let verify = format!("projector verify {projection} --repair");
        match line {
            Line::CaughtUp(0) => {}
            Line::CaughtUp(applied) => terminal::note(format_args!("{projection}: {} applied", count(applied, "event"))),
            Line::Reprojected => terminal::note(format_args!("{projection}: re-projected with the new event")),
            Line::Waits => terminal::note(format_args!("{projection}: waits before the event; next: {redrive}")),
            Line::WaitsBeyond => {
                exit = EXIT_FINDINGS;
                terminal::note(format_args!("{projection}: has applied the old event and is parked; next: {redrive}, then {verify}"));
            }
            Line::Astray => {
                exit = EXIT_FINDINGS;
                terminal::note(format_args!("{projection}: its row stands on an event that the event store does not have; next: {verify}"));
            }
            Line::Parked(reason) => {
                exit = EXIT_FINDINGS;
                terminal::note(format_args!("{projection}: cannot apply the new event, and is parked: {}", printable(&reason)));
            }
        }
    }
    Ok(exit)
}

/// `parked discard`
pub async fn discard(options: &GiveUpOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let GiveUpOptions { projection, aggregate, audit } = options;
    let rule = if projection == NO_PROJECTION { None } else { Some(cx.rule(projection)?) };
    let store = cx.open_existing_store().await?;
    let Some((entry, payload)) = store.parked_entry(projection, aggregate, Deadline::NONE).await? else { return Ok(not_parked(options)) };
    let id = AggregateId::from(aggregate.as_str());
    if let Some(rule) = rule {
        let Some(version) = entry.version else {
            bail!("the entry names no event, so it is not known whether it can be applied: `projector parked redrive` tells");
        };
        let row = store.home_row(rule, &id, Deadline::NONE).await?;
        refuse_newer_revision(rule, &row)?;
        let ways_out = if !store.load_page(&id, version..=VERSION_MAX, 1, Deadline::NONE).await?.is_empty() {
            "the event store has it, or later versions: correct it with `projector events correct`, or skip it with `projector parked skip`"
        } else if row.version >= version {
            "the row has applied it, and the event store does not have it: restore the event, or `projector parked redrive --trust-store`"
        } else {
            ""
        };
        if !ways_out.is_empty() {
            terminal::error(format_args!("version {version} of {} is not discarded: {ways_out}", printable(aggregate)));
            return Ok(EXIT_FINDINGS);
        }
    }
    if let Some(payload) = &payload {
        cx.out.line(pretty_json::document(payload)?.get());
    }
    let name = format!("{} in {}", printable(aggregate), printable(projection));
    if !cx.out.is_open() || !audit.agreed(&format!("Discard {name} for good?"))? {
        return Ok(EXIT_FINDINGS);
    }
    if let Some(rule) = rule
        && let Some(parked_at) = store.home_row(rule, &id, Deadline::NONE).await?.parked_at
    {
        store.unpark(rule, &id, &parked_at, Deadline::NONE).await?;
    }
    if !store.discard_parked(&entry, &audit.by(), &audit.why, Deadline::NONE).await? {
        terminal::error(format_args!("{name} was parked again meanwhile, and is left as it is: look again"));
        return Ok(EXIT_FINDINGS);
    }
    terminal::note(format_args!("discarded {name}; its data is on the standard output and nowhere else"));
    Ok(EXIT_OK)
}

fn not_parked(GiveUpOptions { projection, aggregate, .. }: &GiveUpOptions) -> u8 {
    terminal::error(format_args!("{} is not parked in {}", printable(aggregate), printable(projection)));
    EXIT_FINDINGS
}

/// `events corrections`
pub async fn list(store: &Store, aggregate: &str, out: &mut Out) -> anyhow::Result<u8> {
    let kept = store.corrections(&aggregate.into()).await?;
    if kept.is_empty() {
        terminal::note(format_args!("no event of {} was corrected", printable(aggregate)));
    }
    for item in kept {
        out.line(item.json());
    }
    Ok(EXIT_OK)
}
