//! `projector status`: each projection at a glance.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use clap::Args;
use comfy_table::{Cell, CellAlignment};
use projection_vocabulary::{DynProjection, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    format::Format,
    pretty_json, segments,
    stores::Named,
    terminal,
    text::{Lines, count, shortened, to_the_second},
};
use crate::{
    operations::status::{self, Behind, Status},
    retry::Deadline,
    store::{cursors::SavedCursor, parking::NO_PROJECTION},
};

/// Columns that a projection's name gets in any case.
const NAME_COLUMNS_MIN: usize = 20;
/// Columns of the rest of the table, with up to ten million rows.
const OTHER_COLUMNS: usize = 60;
/// Aggregates behind that are named.
const BEHIND_SHOWN: usize = 3;
/// Columns of an id in a line.
const ID_COLUMNS: usize = 40;

/// What to check.
#[derive(Args)]
pub struct Options {
    /// The projection [default: all]
    #[arg(value_name = "NAME")]
    projection: Option<String>,
    /// Do not count rows, which scans the read model
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    format: Format,
}

/// A projection, and how many of its aggregates are parked.
struct Seen {
    rule: &'static dyn DynProjection,
    parked: u64,
    status: Status,
}

/// `status`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let rules = match &options.projection {
        Some(name) => vec![cx.rule(name)?],
        None => cx.registry.projections().to_vec(),
    };
    let segments = (!options.quick).then(|| segments::default_for(&cx.store));
    let worker = cx.worker(cx.open_existing_store().await?);
    let store = Named::of(&cx.store, worker.store().names(), &rules);
    let progress = terminal::spinner("reading rows and events");
    let mut parked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in worker.store().parked().await? {
        parked.entry(entry.projection).or_default().insert(entry.aggregate);
    }
    let mut all = Vec::new();
    for rule in rules {
        let mut status = status::status(&worker, rule, segments, Deadline::NONE).await?;
        let parked = parked.get(rule.name());
        // A parked aggregate is behind, too, but counts once: no catch-up moves it.
        status.behind.retain(|behind| parked.is_none_or(|parked| !parked.contains(behind.aggregate.as_str())));
        all.push(Seen { rule, parked: parked.map_or(0, |parked| parked.len() as u64), status });
    }
    progress.finish_and_clear();
    // A record that names no event may belong to any projection, so it is left out if one projection was asked for.
    let strays = if options.projection.is_none() { parked.get(NO_PROJECTION).map_or(0, |parked| parked.len() as u64) } else { 0 };
    let well = strays == 0 && all.iter().all(Seen::is_well);
    cx.out.text(&if options.format.is_json() { lines_of_json(&all, strays, well, &store)? } else { store.text() + &lines(&all, strays) });
    Ok(if well { EXIT_OK } else { EXIT_FINDINGS })
}

impl Seen {
    fn outdated(&self) -> Option<u64> {
        self.status.rows.as_ref().map(|rows| rows.outdated(self.rule))
    }

    fn newer(&self) -> Option<u64> {
        self.status.rows.as_ref().map(|rows| rows.newer(self.rule))
    }

    fn is_well(&self) -> bool {
        let none = |rows: Option<u64>| rows.is_none_or(|rows| rows == 0);
        self.parked == 0 && self.status.behind.is_empty() && none(self.outdated()) && none(self.newer())
    }
}

fn lines(all: &[Seen], strays: u64) -> String {
    let name_columns = terminal::columns().saturating_sub(OTHER_COLUMNS).max(NAME_COLUMNS_MIN);
    let mut table = terminal::table();
    table.set_header(terminal::header(["projection", "rows", "outdated", "parked", "behind", "newest event"]));
    for seen @ Seen { rule, parked, status } in all {
        let number = |number: Option<u64>| {
            Cell::new(number.map_or_else(|| "-".to_owned(), |number| number.to_string())).set_alignment(CellAlignment::Right)
        };
        table.add_row([
            Cell::new(shortened(rule.name(), name_columns)),
            number(status.rows.as_ref().map(|rows| rows.seen)),
            number(seen.outdated()),
            number(Some(*parked)),
            behind(&status.behind),
            Cell::new(status.newest.as_ref().map_or_else(|| "-".to_owned(), |newest| to_the_second(newest.as_str()))),
        ]);
    }
    let mut lines = Lines::default();
    lines.drawn(&terminal::drawn(table));
    for seen @ Seen { rule, status, parked } in all {
        let name = rule.name();
        for Behind { aggregate, version, head, since } in status.behind.iter().take(BEHIND_SHOWN) {
            let aggregate = shortened(aggregate.as_str(), ID_COLUMNS);
            lines.add(format_args!("{name}: {aggregate} has been behind since {}:", to_the_second(since.as_str())));
            lines.add(format_args!("  at version {version} of {head}"));
        }
        if !status.behind.is_empty() {
            lines.add(format_args!("{name}: if what is behind does not move:"));
            lines.add(format_args!("  `projector catch-up {name}`"));
        }
        if *parked > 0 {
            let waits = if *parked == 1 { "1 aggregate waits".to_owned() } else { format!("{parked} aggregates wait") };
            lines.add(format_args!("{name}: {waits} for a redrive:"));
            lines.add(format_args!("  `projector parked list --projection {name}`"));
        }
        if seen.outdated().is_some_and(|rows| rows > 0) {
            let by_revision = status.rows.iter().flat_map(|rows| &rows.by_revision);
            let counts: Vec<_> = by_revision.map(|(revision, rows)| format!("{rows} at {revision}")).collect();
            lines.add(format_args!("{name}: rows by revision: {}; the rule's revision is {}:", counts.join(", "), rule.revision()));
            lines.add(format_args!("  `projector rebuild-projection {name}`"));
        }
        if let Some(rows) = seen.newer().filter(|rows| *rows > 0) {
            let (rows, are) = (count(rows, "row"), if rows == 1 { "is" } else { "are" });
            lines.add(format_args!("{name}: {rows} {are} of a newer revision than this program's {}:", rule.revision()));
            lines.add("  use the program that wrote them; this one cannot move them");
        }
        if let Some((done, segments, saved_at)) = rebuild_of(status) {
            lines.add(format_args!("{name}: a rebuild has done {done} of {segments} segments as of {};", to_the_second(saved_at)));
            lines.add(format_args!("  if it was interrupted: `projector rebuild-projection {name} --resume`"));
        }
    }
    if strays > 0 {
        let (records, name) = (count(strays, "parked record"), if strays == 1 { "names" } else { "name" });
        lines.add(format_args!("{records} {name} no event: `projector parked list --projection {NO_PROJECTION}`"));
    }
    lines.into_text()
}

/// How many aggregates are behind. There may be more, because only the newest event of each type is checked.
fn behind(behind: &[Behind]) -> Cell {
    let text = if behind.is_empty() { "0".to_owned() } else { format!("≥ {}", behind.len()) };
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// The number of segments that are done, the number of all, and when one of them was last saved.
fn rebuild_of(status: &Status) -> Option<(usize, u32, &str)> {
    let last = status.rebuild.iter().max_by_key(|saved| &saved.saved_at)?;
    // An earlier rebuild may have left cursors of other segments.
    let of_this: Vec<&SavedCursor> = status.rebuild.iter().filter(|saved| saved.segment.count() == last.segment.count()).collect();
    Some((of_this.iter().filter(|saved| saved.done).count(), last.segment.count(), &last.saved_at))
}

fn lines_of_json(all: &[Seen], strays: u64, well: bool, store: &Named) -> anyhow::Result<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line<'a> {
        projection: &'a str,
        revision: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        rows: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rows_by_revision: Option<&'a BTreeMap<u32, u64>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        outdated: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        newer: Option<u64>,
        parked: u64,
        newest_event_at: Option<&'a str>,
        behind: Vec<serde_json::Value>,
        rebuild: Option<serde_json::Value>,
    }
    let mut text = String::new();
    for seen @ Seen { rule, parked, status } in all {
        let behind = status.behind.iter().map(|Behind { aggregate, version, head, since }| {
            json!({ "aggregateId": aggregate.as_str(), "version": version.0, "head": head.0, "since": since.as_str() })
        });
        let line = Line {
            projection: rule.name(),
            revision: rule.revision(),
            rows: status.rows.as_ref().map(|rows| rows.seen),
            rows_by_revision: status.rows.as_ref().map(|rows| &rows.by_revision),
            outdated: seen.outdated(),
            newer: seen.newer(),
            parked: *parked,
            newest_event_at: status.newest.as_ref().map(Timestamp::as_str),
            behind: behind.collect(),
            rebuild: rebuild_of(status)
                .map(|(done, segments, saved_at)| json!({ "done": done, "segments": segments, "savedAt": saved_at })),
        };
        writeln!(text, "{}", pretty_json::line(&line)?)?;
    }
    writeln!(text, "{}", pretty_json::line(&json!({ "total": { "well": well, "parkedRecords": strays, "in": store } }))?)?;
    Ok(text)
}
