//! `projector preview`: what this program's rule would make of the rows that are there, without writing.

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::DynProjection;
use serde_json::json;

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    explain::{changed, changes_json},
    format::Format,
    pretty_json,
    segments::Segments,
    stores::Named,
    terminal,
    text::{Lines, count, count_of, printable, shortened},
};
use crate::{
    operations::{
        preview::{Example, Preview, SegmentPreview},
        processes::refuse_process,
    },
    retry::Deadline,
};

/// Columns of an aggregate's id in a line.
const NAME_COLUMNS: usize = 72;
/// Shared attributes that are named.
const SHARED_MAX: usize = 20;

/// Which rows.
#[derive(Args)]
pub struct Options {
    /// The projection
    projection: String,
    /// Show at most so many of the rows that would change
    #[arg(long, value_name = "N", default_value_t = 5)]
    examples: usize,
    #[command(flatten)]
    segments: Segments,
    #[command(flatten)]
    format: Format,
}

/// `preview`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let rule = cx.rule(&options.projection)?;
    refuse_process(rule)?;
    let store = cx.open_existing_store().await?;
    let progress = terminal::progress_of_items(store.event_store_items().await, 0);
    let segments = options.segments.all(&cx.store).map(|segment| {
        let (store, progress) = (&store, &progress);
        async move {
            let mut part = SegmentPreview::new(store, rule, segment, options.examples);
            let mut read = 0;
            while part.step(Deadline::NONE).await? {
                progress.inc(part.preview.events - read);
                read = part.preview.events;
            }
            Ok::<_, anyhow::Error>(part.preview)
        }
    });
    let add = async |mut all: Preview, part| {
        all.add(part, options.examples);
        Ok(all)
    };
    let all =
        stream::iter(segments).buffer_unordered(options.segments.number(&cx.store) as usize).try_fold(Preview::default(), add).await?;
    progress.finish_and_clear();
    if options.format.is_json() {
        cx.out.line(pretty_json::line(&document(rule, &all))?);
    } else {
        cx.out.text(&(Named::of(&cx.store, store.names(), &[rule]).text() + &lines(rule, &all)));
    }
    Ok(if all.changed() + all.stopped_total() == 0 { EXIT_OK } else { EXIT_FINDINGS })
}

fn lines(rule: &dyn DynProjection, preview: &Preview) -> String {
    let Preview { events, rows, same, outdated, unexplained, newer, stopped, attributes, children, shared, examples } = preview;
    let (mut lines, columns, revision) = (Lines::default(), terminal::columns(), rule.revision());
    lines.add(format_args!("{} at revision {revision}: {} and {} compared", rule.name(), count(*rows, "row"), count(*events, "event")));
    lines.add(format_args!("  {} as they are", count(*same, "row")));
    if *outdated > 0 {
        lines.add(format_args!(
            "  {} of an older revision would change: `projector rebuild-projection {}`",
            count(*outdated, "row"),
            rule.name()
        ));
    }
    if *unexplained > 0 {
        let warning = format!(
            "{} of revision {revision} itself would change. If the rule has changed, raise its REVISION: rows are replaced only if it is higher. If not, \
             they are wrong: `projector verify {}`",
            count(*unexplained, "row"),
            rule.name()
        );
        lines.paragraph("  ", &warning, "    ", columns);
    }
    if *newer > 0 {
        lines.add(format_args!("  {} of a newer revision, which this program leaves alone", count(*newer, "row")));
    }
    for (reason, rows) in stopped {
        lines.paragraph("  ", &format!("{} would be parked: {}", count(*rows, "aggregate"), printable(reason)), "    ", columns);
    }
    let named = attributes.iter().map(|(name, rows)| format!("{} in {}", printable(name), count(*rows, "row")));
    let children = (*children > 0).then(|| format!("child rows of {}", count(*children, "row")));
    let by_attribute: Vec<_> = named.chain(children).collect();
    if !by_attribute.is_empty() {
        lines.paragraph("changes: ", &by_attribute.join(", "), "  ", columns);
    }
    if !shared.is_empty() {
        let named: Vec<_> =
            shared.iter().take(SHARED_MAX).map(|(row, name)| format!("{} of {}", printable(name), printable(row.as_str()))).collect();
        let more = if shared.len() > SHARED_MAX { format!(" and {} more", shared.len() - SHARED_MAX) } else { String::new() };
        let what = format!("{}: {}{more}", count_of(shared.len(), "shared attribute"), named.join(", "));
        lines.paragraph("", &what, "  ", columns);
    }
    for Example { aggregate, revision, changes, children } in examples {
        let mut what: Vec<_> = changes.iter().map(changed).collect();
        if *children > 0 {
            what.push(count_of(*children, "child row"));
        }
        let first = format!("  {} (revision {revision}): ", shortened(aggregate.as_str(), NAME_COLUMNS));
        lines.paragraph(&first, &what.join(", "), "    ", columns);
    }
    lines.into_text()
}

fn document(rule: &dyn DynProjection, preview: &Preview) -> serde_json::Value {
    let Preview { events, rows, same, outdated, unexplained, newer, stopped, attributes, children, shared, examples } = preview;
    let examples: Vec<_> = examples
        .iter()
        .map(|Example { aggregate, revision, changes, children }| {
            json!({ "aggregate": aggregate.as_str(), "revision": revision, "changes": changes_json(changes), "children": children })
        })
        .collect();
    json!({
        "projection": rule.name(), "revision": rule.revision(), "events": events, "rows": rows, "same": same, "outdated": outdated,
        "unexplained": unexplained, "newer": newer, "stopped": stopped, "attributes": attributes, "children": children,
        "sharedAttributes": shared.len(), "examples": examples,
    })
}
