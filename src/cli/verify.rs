//! `projector verify`: proof that rows are what they must be, and repair of those that are not.

use std::{fmt::Write as _, io::Write as _};

use clap::Args;
use projection_vocabulary::{Cell, Registry};
use serde::Serialize;

use super::{EXIT_FINDINGS, EXIT_OK, StoreOptions, pretty_json, rebuild::SEGMENTS_AT_ONCE_MAX, terminal};
use crate::{
    Worker,
    operations::error::find_projection,
    operations::verify::{self, RowFinding, SharedFinding, Verified},
    retry::Deadline,
    store::Store,
};

/// Findings that are shown unless told otherwise.
const SHOW_DEFAULT: usize = 20;
/// Columns of a name in a line.
const NAME_COLUMNS: usize = 60;

/// What to verify, and what to do about what is found.
#[derive(Args)]
pub struct Options {
    /// The projection
    #[arg(value_name = "NAME")]
    projection: String,
    /// Mend what is found: project those rows anew from the event store, and correct sums. Parked rows are for `parked redrive`
    #[arg(long)]
    repair: bool,
    /// Look at about P of 100 rows, and at no sums
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..=100))]
    sample: Option<u32>,
    /// Scan the event store in N segments at once [default: 1 inside this process, else 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=SEGMENTS_AT_ONCE_MAX))]
    segments: Option<u32>,
    /// Show the first N findings; JSON shows all unless told
    #[arg(long, value_name = "N")]
    show: Option<usize>,
    /// One JSON object a finding, the total last
    #[arg(long)]
    json: bool,
}

/// `verify`
pub async fn run(options: &Options, store_options: &StoreOptions, store: Store, registry: Registry) -> anyhow::Result<u8> {
    let worker = Worker::new(store, registry);
    let rule = find_projection(registry, &options.projection)?;
    let Options { repair, sample, .. } = *options;
    let segments = options.segments.unwrap_or_else(|| store_options.segments());
    let progress = terminal::spinner("reading the event store and the rows");
    let verified = Box::pin(verify::verify(&worker, rule, verify::Options { segments, sample, repair }, Deadline::NONE)).await;
    progress.finish_and_clear();
    let verified = verified?;
    let text = if options.json { json(&verified, options)? } else { lines(&verified, options) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if verified.is_clean() { EXIT_OK } else { EXIT_FINDINGS })
}

fn lines(verified: &Verified, options: &Options) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes all");
    let Verified { events, aggregates, rows, sums, home, shared, repaired } = verified;
    let extent = options.sample.map_or_else(String::new, |percent| format!(" in a sample of about {percent} %"));
    line(format!("{}: {events} events of {aggregates} aggregates, {rows} rows and {sums} sums compared{extent}", options.projection));
    let counts = RowFinding::ALL.map(|finding| (verified.count(finding), finding.text()));
    let counts = counts.into_iter().chain([(shared.len() as u64, "attributes of shared rows")]).filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    if !counts.is_empty() {
        line(counts.join(", "));
    }
    let each = home.iter().map(|(id, finding)| format!("{}: {}", finding.text(), terminal::shortened(id.as_str(), NAME_COLUMNS)));
    let each = each.chain(shared.iter().map(|(cell, finding)| shared_line(cell, finding)));
    let show = options.show.unwrap_or(SHOW_DEFAULT);
    each.take(show).for_each(|finding| line(format!("  {finding}")));
    let found = home.len() + shared.len();
    if found > show {
        line(format!("  and {} more: --show {found}", found - show));
    }
    line(match (options.repair, verified.is_clean()) {
        (_, true) if found == 0 => "clean: every row is as it must be".to_owned(),
        (true, true) => format!("repaired: {repaired} of {found}"),
        (true, false) => format!("not clean: {repaired} of {found} repaired; parked rows are for `projector parked redrive`"),
        (false, _) => "not clean: --repair mends these and no others; what is parked is for `projector parked redrive`".to_owned(),
    });
    text
}

fn shared_line((row, attribute): &Cell, finding: &SharedFinding) -> String {
    let row = terminal::shortened(row.as_str(), NAME_COLUMNS);
    match finding {
        SharedFinding::Sum(amount) => format!("shared: {row}: {attribute} differs by {amount} from what was contributed to it"),
        SharedFinding::Lower => format!("shared: {row}: {attribute} lacks what was put into it"),
        SharedFinding::Unsettled => format!("shared: {row}: {attribute} moves too much to tell; verify again when less is going on"),
    }
}

fn json(verified: &Verified, options: &Options) -> anyhow::Result<String> {
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
    } });
    writeln!(text, "{}", pretty_json::line(&total)?)?;
    Ok(text)
}
