//! `projector status`: each projection at a glance.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
};

use clap::Args;
use comfy_table::{Cell, CellAlignment};
use projection_vocabulary::{DynProjection, Registry, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::{EXIT_FINDINGS, EXIT_OK, StoreOptions, pretty_json, rebuild, terminal};
use crate::{
    Worker,
    operations::status::{self, Behind, Status},
    retry::Deadline,
    store::{Store, cursors::SavedCursor, parking::NO_PROJECTION},
};

/// Columns of the table that a projection's name gets: with the others 80, up to ten million rows.
const NAME_COLUMNS: usize = 15;
/// Columns of an id in a line.
const ID_COLUMNS: usize = 40;

/// What to look at.
#[derive(Args)]
pub struct Options {
    /// The projection; all unless given
    #[arg(value_name = "NAME")]
    projection: Option<String>,
    /// Count no rows, which takes a scan of the read model
    #[arg(long)]
    quick: bool,
    /// One JSON object a projection, the total last
    #[arg(long)]
    json: bool,
}

/// A projection, and how many of its aggregates are parked.
struct Seen {
    rule: &'static dyn DynProjection,
    parked: u64,
    status: Status,
}

/// `status`
pub async fn run(options: &Options, store_options: &StoreOptions, store: Store, registry: Registry) -> anyhow::Result<u8> {
    let rules = match &options.projection {
        Some(name) => vec![rebuild::rule(registry, name)?],
        None => registry.projections().to_vec(),
    };
    let segments = (!options.quick).then(|| store_options.segments());
    let progress = terminal::spinner("looking at rows and events");
    let worker = Worker::new(store, registry);
    let mut parked: BTreeMap<String, u64> = BTreeMap::new();
    for entry in worker.store().parked().await? {
        *parked.entry(entry.projection).or_default() += 1;
    }
    let mut all = Vec::new();
    for rule in rules {
        let status = status::status(&worker, rule, segments, Deadline::NONE).await?;
        all.push(Seen { rule, parked: parked.get(rule.name()).copied().unwrap_or_default(), status });
    }
    progress.finish_and_clear();
    // They may be of any projection, so they are nobody's if one was asked for.
    let strays = if options.projection.is_none() { parked.get(NO_PROJECTION).copied().unwrap_or_default() } else { 0 };
    let well = strays == 0 && all.iter().all(Seen::is_well);
    let text = if options.json { lines_of_json(&all, strays, well)? } else { lines(&all, strays) };
    io::stdout().write_all(text.as_bytes())?;
    Ok(if well { EXIT_OK } else { EXIT_FINDINGS })
}

impl Seen {
    fn outdated(&self) -> Option<u64> {
        self.status.rows.as_ref().map(|rows| rows.outdated(self.rule))
    }

    fn is_well(&self) -> bool {
        self.parked == 0 && self.status.behind.is_empty() && self.outdated().is_none_or(|rows| rows == 0)
    }
}

fn lines(all: &[Seen], strays: u64) -> String {
    let mut table = terminal::table();
    table.set_header(terminal::header(["projection", "rows", "outdated", "parked", "behind", "newest event"]));
    for seen @ Seen { rule, parked, status } in all {
        let number = |number: Option<u64>| {
            Cell::new(number.map_or_else(|| "-".to_owned(), |number| number.to_string())).set_alignment(CellAlignment::Right)
        };
        table.add_row([
            Cell::new(terminal::shortened(rule.name(), NAME_COLUMNS)),
            number(status.rows.as_ref().map(|rows| rows.seen)),
            number(seen.outdated()),
            number(Some(*parked)),
            number(Some(status.behind.len() as u64)),
            Cell::new(status.newest.as_ref().map_or_else(|| "-".to_owned(), |newest| to_the_second(newest.as_str()))),
        ]);
    }
    let mut text = format!("{table}\n");
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes all");
    for seen @ Seen { rule, status, .. } in all {
        let name = rule.name();
        for Behind { aggregate, version, head, since } in &status.behind {
            let aggregate = terminal::shortened(aggregate.as_str(), ID_COLUMNS);
            line(format!("{name}: {aggregate} is behind since {}:", to_the_second(since.as_str())));
            line(format!("  at version {version} of {head}; if it does not move: `projector catch-up {name}`"));
        }
        if seen.outdated().is_some_and(|rows| rows > 0) {
            let by_revision = status.rows.iter().flat_map(|rows| &rows.by_revision);
            let counts: Vec<_> = by_revision.map(|(revision, rows)| format!("{rows} of {revision}")).collect();
            line(format!("{name}: rows by revision: {}; today's is {}:", counts.join(", "), rule.revision()));
            line(format!("  `projector rebuild-projection {name}`"));
        }
        if let Some((done, segments, saved_at)) = rebuild_of(status) {
            line(format!("{name}: a rebuild has done {done} of {segments} segments at {};", to_the_second(saved_at)));
            line(format!("  if it was interrupted: `projector rebuild-projection {name} --resume`"));
        }
    }
    if strays > 0 {
        line(format!("{strays} parked records name no event: `projector parked list --projection {NO_PROJECTION}`"));
    }
    text
}

/// As `2026-01-05 09:00:00`, which is UTC.
fn to_the_second(time: &str) -> String {
    time.chars().take("2026-01-05T09:00:00".len()).map(|char| if char == 'T' { ' ' } else { char }).collect()
}

/// Segments that are done, all segments, and when one of them was last saved.
fn rebuild_of(status: &Status) -> Option<(usize, u32, &str)> {
    let last = status.rebuild.iter().max_by_key(|saved| &saved.saved_at)?;
    // It may have been begun before, in other segments.
    let of_this: Vec<&SavedCursor> = status.rebuild.iter().filter(|saved| saved.segment.count() == last.segment.count()).collect();
    Some((of_this.iter().filter(|saved| saved.done).count(), last.segment.count(), &last.saved_at))
}

fn lines_of_json(all: &[Seen], strays: u64, well: bool) -> anyhow::Result<String> {
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
            parked: *parked,
            newest_event_at: status.newest.as_ref().map(Timestamp::as_str),
            behind: behind.collect(),
            rebuild: rebuild_of(status)
                .map(|(done, segments, saved_at)| json!({ "done": done, "segments": segments, "savedAt": saved_at })),
        };
        writeln!(text, "{}", pretty_json::line(&line)?)?;
    }
    writeln!(text, "{}", pretty_json::line(&json!({ "total": { "well": well, "parkedRecords": strays } }))?)?;
    Ok(text)
}
