//! `projector preview`: what this program's rule would make of the rows that are there, without writing.

use std::{cmp::Reverse, collections::BTreeMap};

use anyhow::bail;
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::{Cell, Decimal, DynProjection, Value};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    explain::{ChangeJson, changed, changes_json, short},
    format::Format,
    pretty_json,
    segments::Segments,
    stores::Named,
    terminal,
    text::{Lines, count, count_of, printable, shortened},
};
use crate::{
    operations::preview::{Example, Preview, SegmentPreview, SharedChange, sample},
    retry::Deadline,
    store::{Store, segment::Segment},
};

/// Columns of an aggregate's id, of a row's key or of an attribute's name in a line.
const NAME_COLUMNS: usize = 72;
/// Attributes that are named, of rows of their own and of shared rows. JSON has all of the former.
const NAMED_MAX: usize = 20;

/// Which rows.
#[derive(Args)]
pub struct Options {
    /// The projection
    #[arg(value_name = "NAME")]
    projection: String,
    /// Show at most so many of the rows that would change
    #[arg(long, value_name = "N", default_value_t = 5)]
    examples: usize,
    /// Read about P percent of the histories; of shared rows nothing can be said then
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..=100))]
    sample: Option<u32>,
    #[command(flatten)]
    segments: Segments,
    #[command(flatten)]
    format: Format,
}

/// `preview`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let rule = cx.rule(&options.projection)?;
    if rule.process().is_some() {
        bail!("{} is a process, which makes no rows: a new revision of it reads its instances anew by itself", rule.name());
    }
    let store = cx.open_existing_store().await?;
    let at_once = options.segments.number(&cx.store) as usize;
    let segments = options.sample.map_or_else(|| options.segments.all(&cx.store).collect(), sample);
    let preview = read(&store, rule, (segments, at_once), options).await?;
    let shared = if options.sample.is_some() { Vec::new() } else { shared_changes(&store, rule, &preview).await? };
    if options.format.is_json() {
        cx.out.line(pretty_json::line(&Document::of(rule, &preview, &shared, options.sample))?);
    } else {
        cx.out.text(&(Named::of(&cx.store, store.names(), &[rule]).text() + &lines(rule, &preview, &shared, options.sample)));
    }
    Ok(if preview.changes_nothing() { EXIT_OK } else { EXIT_FINDINGS })
}

/// Reads the segments, so many at once.
async fn read(
    store: &Store,
    rule: &'static dyn DynProjection,
    (segments, at_once): (Vec<Segment>, usize),
    options: &Options,
) -> anyhow::Result<Preview> {
    let items = store.event_store_items().await.map(|items| options.sample.map_or(items, |percent| items * u64::from(percent) / 100));
    let progress = terminal::progress_of_items(items, 0);
    let parts = stream::iter(segments).map(|segment| {
        let progress = &progress;
        async move {
            let mut part = SegmentPreview::new(store, rule, segment, options.examples);
            let mut read = 0;
            while part.step(Deadline::NONE).await? {
                progress.inc(part.preview.events - read);
                read = part.preview.events;
            }
            progress.inc(part.preview.events - read);
            anyhow::Ok(part.preview)
        }
    });
    let add = async |mut all: Preview, part| {
        all.add(part, options.examples);
        Ok(all)
    };
    parts.buffer_unordered(at_once).try_fold(Preview::default(), add).await
}

/// An attribute of a shared row that would change, what it shows, and what it would show, if that can be told.
struct SharedAttribute {
    cell: Cell,
    shows: Option<Value>,
    would: Option<Decimal>,
}

/// The first attributes of shared rows that would change.
async fn shared_changes(store: &Store, rule: &'static dyn DynProjection, preview: &Preview) -> anyhow::Result<Vec<SharedAttribute>> {
    let first: BTreeMap<_, _> = preview.shared.iter().take(NAMED_MAX).collect();
    if first.is_empty() {
        return Ok(Vec::new());
    }
    let rows =
        store.rows(rule, first.keys().map(|(row, _)| row.clone()).collect::<std::collections::BTreeSet<_>>(), Deadline::NONE).await?;
    let attribute = |(cell, change): (&Cell, &SharedChange)| {
        let shows = rows.get(&cell.0).and_then(|row| row.shared.get(&cell.1)?.value.clone());
        let before = shows.as_ref().map_or_else(|| Some(Decimal::zero()), |value| value.as_number().cloned());
        let would = match (change, before) {
            (SharedChange::By(amount), Some(mut sum)) => {
                sum += amount;
                Some(sum)
            }
            _ => None,
        };
        SharedAttribute { cell: cell.clone(), shows, would }
    };
    Ok(first.into_iter().map(attribute).collect())
}

fn lines(rule: &dyn DynProjection, preview: &Preview, shared: &[SharedAttribute], sample: Option<u32>) -> String {
    let (mut lines, columns, revision, name) = (Lines::default(), terminal::columns(), rule.revision(), rule.name());
    let extent = sample.map_or_else(String::new, |percent| format!(", a sample of about {percent} %"));
    let (rows, events) = (count(preview.rows, "row"), count(preview.events, "event"));
    lines.paragraph("", &format!("{name} at revision {revision}: {rows} compared with {events}{extent}"), "  ", columns);
    let mut say = |number: u64, text: String| {
        if number > 0 {
            lines.paragraph("  ", &text, "    ", columns);
        }
    };
    say(preview.same, format!("{} would be the same", count(preview.same, "row")));
    say(
        preview.outdated,
        format!(
            "{} of {} of an older revision would change: `projector rebuild-projection {name}`",
            preview.outdated,
            count(preview.older, "row")
        ),
    );
    say(
        preview.unexplained,
        format!(
            "{} of {} of revision {revision} itself would change. If the rule has changed, raise its REVISION: only then are rows replaced. If it \
             has not, they are wrong: `projector verify {name}`",
            preview.unexplained,
            count(preview.current(), "row")
        ),
    );
    say(preview.emptied, format!("{} of those would be empty", preview.emptied));
    say(preview.appear, format!("{} would appear", count(preview.appear, "row")));
    for (reason, stopped) in commonest(preview) {
        let example = format!("such as version {} of {}", stopped.version, shortened(stopped.example.as_str(), NAME_COLUMNS));
        say(
            stopped.aggregates,
            format!("{} cannot be worked out, {example}: {}", count(stopped.aggregates, "aggregate"), printable(reason)),
        );
    }
    say(
        preview.parked,
        format!(
            "{} parked, and not compared; this rule could apply {} to the end: `projector parked redrive`",
            are(preview.parked),
            preview.freed
        ),
    );
    say(
        preview.behind,
        format!(
            "{} of revision {revision} behind: the worker or `projector catch-up {name}` will count what is left, unless the rule handles event types \
             that it did not before",
            are(preview.behind)
        ),
    );
    say(preview.newer, format!("{} of a newer revision, which this program leaves alone", count(preview.newer, "row")));
    let named = preview.attributes.iter().map(|(name, rows)| format!("{} in {}", shortened(name, NAME_COLUMNS), count(*rows, "row")));
    let children = (preview.children > 0).then(|| format!("child rows of {}", count(preview.children, "row")));
    let attributes: Vec<_> = children.into_iter().chain(named).collect();
    if !attributes.is_empty() {
        let more = attributes.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let first: Vec<_> = attributes.into_iter().take(NAMED_MAX).collect();
        lines.paragraph("what changes: ", &format!("{}{more}", first.join(", ")), "  ", columns);
    }
    shared_lines(&mut lines, preview, shared, columns);
    for Example { aggregate, revision, changes, children } in &preview.examples {
        let mut what: Vec<_> = changes.iter().take(NAMED_MAX).map(changed).collect();
        if changes.len() > NAMED_MAX {
            what.push(format!("and {} more", changes.len() - NAMED_MAX));
        }
        if *children > 0 {
            what.push(count_of(*children, "child row"));
        }
        let first = format!("for example {}, of revision {revision}: ", shortened(aggregate.as_str(), NAME_COLUMNS));
        lines.paragraph("", &(first + &what.join(", ")), "  ", columns);
    }
    lines.into_text()
}

fn shared_lines(lines: &mut Lines, preview: &Preview, shared: &[SharedAttribute], columns: usize) {
    let all = preview.shared.iter().count();
    if shared.is_empty() {
        return;
    }
    let named = shared.iter().map(|SharedAttribute { cell: (row, name), shows, would }| {
        let of = format!("{} of {}", shortened(name, NAME_COLUMNS), shortened(row.as_str(), NAME_COLUMNS));
        match would {
            Some(would) => format!("{of} {} → {would}", shows.as_ref().map_or_else(|| "nothing".to_owned(), short)),
            None => format!("{of}, to which others are contributed"),
        }
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let more = if all > shared.len() || preview.shared.more > 0 { ", and more" } else { "" };
    let beyond = if preview.shared.more > 0 { " and more" } else { "" };
    lines.paragraph("", &format!("{}{beyond} of shared rows would change: {named}{more}", count_of(all, "attribute")), "  ", columns);
}

fn are(rows: u64) -> String {
    format!("{} {}", count(rows, "row"), if rows == 1 { "is" } else { "are" })
}

/// Why histories cannot be worked out, the commonest reason first.
fn commonest(preview: &Preview) -> Vec<(&str, &crate::operations::preview::Stopped)> {
    let mut all: Vec<_> = preview.stopped.iter().map(|(reason, stopped)| (reason.as_str(), stopped)).collect();
    all.sort_by_key(|(_, stopped)| Reverse(stopped.aggregates));
    all
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    projection: &'a str,
    revision: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<u32>,
    events: u64,
    rows: u64,
    same: u64,
    older: u64,
    /// Of an older revision, and would change.
    outdated: u64,
    /// Of the rule's own revision, and would change.
    unexplained: u64,
    emptied: u64,
    appear: u64,
    parked: u64,
    freed: u64,
    behind: u64,
    newer: u64,
    stopped: Vec<StoppedJson<'a>>,
    attributes: &'a BTreeMap<String, u64>,
    children: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_attributes: Option<usize>,
    shared: Vec<SharedJson<'a>>,
    examples: Vec<ExampleJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StoppedJson<'a> {
    reason: &'a str,
    aggregates: u64,
    example: &'a str,
    version: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SharedJson<'a> {
    row: &'a str,
    attribute: &'a str,
    from: Option<Box<RawValue>>,
    /// Absent if it cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExampleJson<'a> {
    aggregate_id: &'a str,
    revision: u32,
    changes: Vec<ChangeJson<'a>>,
    children: usize,
}

impl<'a> Document<'a> {
    fn of(rule: &'a dyn DynProjection, preview: &'a Preview, shared: &'a [SharedAttribute], sample: Option<u32>) -> Self {
        let Preview { events, rows, older, newer, parked, freed, same, outdated, unexplained, emptied, .. } = *preview;
        let stopped = commonest(preview).into_iter().map(|(reason, stopped)| StoppedJson {
            reason,
            aggregates: stopped.aggregates,
            example: stopped.example.as_str(),
            version: stopped.version.0,
        });
        let shared = shared.iter().map(|SharedAttribute { cell: (row, attribute), shows, would }| SharedJson {
            row: row.as_str(),
            attribute,
            from: shows.as_ref().map(Value::to_json),
            to: would.clone().map(|would| Value::Number(would).to_json()),
        });
        let examples = preview.examples.iter().map(|Example { aggregate, revision, changes, children }| ExampleJson {
            aggregate_id: aggregate.as_str(),
            revision: *revision,
            changes: changes_json(changes),
            children: *children,
        });
        Self {
            projection: rule.name(),
            revision: rule.revision(),
            sample,
            events,
            rows,
            same,
            older,
            outdated,
            unexplained,
            emptied,
            appear: preview.appear,
            parked,
            freed,
            behind: preview.behind,
            newer,
            stopped: stopped.collect(),
            attributes: &preview.attributes,
            children: preview.children,
            shared_attributes: sample.is_none().then(|| preview.shared.iter().count()),
            shared: shared.collect(),
            examples: examples.collect(),
        }
    }
}
