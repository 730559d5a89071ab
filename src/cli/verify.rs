//! `projector verify`: proves that rows are the fold of their events, and repairs those that are not.

use std::fmt::Write as _;

use clap::Args;
use projection_vocabulary::Cell;
use serde::Serialize;

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    format::Format,
    pretty_json,
    segments::Segments,
    stores::Named,
    terminal,
    text::{Lines, count, count_of, shortened},
};
use crate::{
    Worker,
    operations::verify::{self, RowFinding, SharedFinding, Verified},
    retry::Deadline,
};

/// Findings that are shown unless told otherwise.
const SHOW_DEFAULT: usize = 20;
/// Columns of a name in a line.
const NAME_COLUMNS: usize = 60;

/// What to verify, and whether to repair it.
#[derive(Args)]
pub struct Options {
    /// The projection
    #[arg(value_name = "NAME")]
    projection: String,
    /// Re-project the rows with a finding from the event store, and correct sums; parked rows stay for `parked redrive`
    #[arg(long)]
    repair: bool,
    /// Check about P percent of the rows, and no sums
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..=100))]
    sample: Option<u32>,
    #[command(flatten)]
    segments: Segments,
    /// Show the first N findings [default: 20; JSON: all]
    #[arg(long, value_name = "N")]
    show: Option<usize>,
    #[command(flatten)]
    format: Format,
}

/// `verify`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let rule = cx.rule(&options.projection)?;
    let worker = Worker::new(cx.open_existing_store().await?, cx.registry);
    let store = Named::of(&cx.store, worker.store().names(), &[rule]);
    let Options { repair, sample, .. } = *options;
    let segments = options.segments.number(&cx.store);
    let progress = terminal::spinner("reading the event store and the rows");
    let verified = Box::pin(verify::verify(&worker, rule, verify::Options { segments, sample, repair }, Deadline::NONE)).await;
    progress.finish_and_clear();
    let verified = verified?;
    cx.out.text(&if options.format.is_json() { json(&verified, options, &store)? } else { store.text() + &lines(&verified, options) });
    Ok(if verified.is_clean() { EXIT_OK } else { EXIT_FINDINGS })
}

fn lines(verified: &Verified, options: &Options) -> String {
    let mut lines = Lines::default();
    let Verified { events, aggregates, rows, sums, home, shared, .. } = verified;
    let extent = options.sample.map_or_else(String::new, |percent| format!(" in a sample of about {percent} %"));
    lines.add(format_args!(
        "{}: {} of {}, {} and {} compared{extent}",
        options.projection,
        count(*events, "event"),
        count(*aggregates, "aggregate"),
        count(*rows, "row"),
        count(*sums, "sum"),
    ));
    let counts = RowFinding::ALL.map(|finding| (verified.count(finding), format!("{} {}", verified.count(finding), finding.text())));
    let shared_count = (shared.len() as u64, count_of(shared.len(), "shared attribute"));
    let counts: Vec<_> = counts.into_iter().chain([shared_count]).filter(|(count, _)| *count > 0).map(|(_, text)| text).collect();
    if !counts.is_empty() {
        lines.add(counts.join(", "));
    }
    let each = home.iter().map(|(id, finding)| format!("{}: {}", finding.text(), shortened(id.as_str(), NAME_COLUMNS)));
    let each = each.chain(shared.iter().map(|(cell, finding)| shared_line(cell, finding)));
    let show = options.show.unwrap_or(SHOW_DEFAULT);
    each.take(show).for_each(|finding| lines.add(format_args!("  {finding}")));
    let found = home.len() + shared.len();
    if found > show {
        lines.add(format_args!("  and {} more; to see all: --show {found}", found - show));
    }
    lines.add(verdict(verified, options));
    let parked = verified.count(RowFinding::Parked);
    if parked > 0 {
        lines.add(format_args!("parked rows wait for `projector parked redrive`: repairing leaves them alone"));
    }
    lines.into_text()
}

fn verdict(verified: &Verified, options: &Options) -> String {
    let found = (verified.home.len() + verified.shared.len()) as u64;
    let repairable = found - verified.count(RowFinding::Parked);
    let repaired = verified.repaired;
    match (found, options.repair) {
        (0, _) if options.sample.is_some() => "clean: every row of the sample matches the event store".to_owned(),
        (0, _) => "clean: every row matches the event store".to_owned(),
        (_, true) if verified.is_clean() => format!("repaired: {repaired} of {found}"),
        (_, true) => format!("not clean: {repaired} of {found} repaired"),
        (_, false) if repairable > 0 => "differences found; run again with --repair to fix them".to_owned(),
        (_, false) => "not clean".to_owned(),
    }
}

fn shared_line((row, attribute): &Cell, finding: &SharedFinding) -> String {
    let row = shortened(row.as_str(), NAME_COLUMNS);
    match finding {
        SharedFinding::Sum(amount) => format!("shared: {row}: {attribute} differs by {amount} from the sum of its contributions"),
        SharedFinding::Lower => format!("shared: {row}: {attribute} lacks a value that an event put into it"),
        SharedFinding::Higher => format!("shared: {row}: {attribute} holds a value that no event put into it"),
        SharedFinding::LeftOver => format!("shared: {row}: {attribute} is left over: no event writes to it any more"),
        SharedFinding::TakenBack => {
            format!("shared: {row}: {attribute} may be too high, since something was taken back that events had put into it")
        }
        SharedFinding::Unsettled => {
            format!("shared: {row}: {attribute} changes too often to be compared; verify again when there is less traffic")
        }
    }
}

fn json(verified: &Verified, options: &Options, store: &Named) -> anyhow::Result<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line<'a> {
        finding: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        aggregate_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        row: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        attribute: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        difference: Option<String>,
    }
    let home = verified.home.iter().map(|(id, finding)| Line {
        finding: finding.text(),
        aggregate_id: Some(id.as_str()),
        row: None,
        attribute: None,
        difference: None,
    });
    let shared = verified.shared.iter().map(|((row, attribute), finding)| {
        let (finding, difference) = match finding {
            SharedFinding::Sum(amount) => ("sum", Some(amount.to_string())),
            SharedFinding::Lower => ("lower", None),
            SharedFinding::Higher => ("higher", None),
            SharedFinding::LeftOver => ("leftOver", None),
            SharedFinding::TakenBack => ("takenBack", None),
            SharedFinding::Unsettled => ("unsettled", None),
        };
        Line { finding, aggregate_id: None, row: Some(row.as_str()), attribute: Some(attribute), difference }
    });
    let mut text = String::new();
    for finding in home.chain(shared).take(options.show.unwrap_or(usize::MAX)) {
        writeln!(text, "{}", pretty_json::line(&finding)?)?;
    }
    let Verified { events, aggregates, rows, sums, repaired, shared, .. } = verified;
    let counts: serde_json::Map<_, _> =
        RowFinding::ALL.iter().map(|finding| (finding.text().to_owned(), verified.count(*finding).into())).collect();
    let total = serde_json::json!({ "total": {
        "projection": options.projection, "events": events, "aggregates": aggregates, "rows": rows, "sums": sums, "findings": counts,
        "shared": shared.len(), "repaired": repaired, "clean": verified.is_clean(),
        "in": store,
    } });
    writeln!(text, "{}", pretty_json::line(&total)?)?;
    Ok(text)
}
