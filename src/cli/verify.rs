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
    operations::verify::{self, Repair, RowFinding, SharedFinding, Verified},
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
    ///
    /// It refuses if the event store lacks the events of more than a tenth of the rows, for it may be the wrong one.
    #[arg(long)]
    repair: bool,
    /// Only say what --repair would do
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// Take rows back even if the event store lacks the events of many, as after a restore
    #[arg(long, requires = "repair")]
    repair_all_orphans: bool,
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

impl Options {
    fn repair(&self) -> Repair {
        match self {
            Self { repair: false, .. } | Self { dry_run: true, .. } => Repair::Nothing,
            Self { repair_all_orphans: true, .. } => Repair::AllOrphans,
            Self { .. } => Repair::Findings,
        }
    }

    /// Whether the repair is refused.
    fn is_refused(&self, verified: &Verified) -> bool {
        self.repair && !self.repair_all_orphans && verified.doubt.is_some()
    }
}

/// `verify`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let rule = cx.rule(&options.projection)?;
    let worker = Worker::new(cx.open_existing_store().await?, cx.registry);
    let store = Named::of(&cx.store, worker.store().names(), &[rule]);
    let Options { sample, .. } = *options;
    let segments = options.segments.number(&cx.store);
    let progress = terminal::spinner("reading the event store and the rows");
    let verified =
        Box::pin(verify::verify(&worker, rule, verify::Options { segments, sample, repair: options.repair() }, Deadline::NONE)).await;
    progress.finish_and_clear();
    let verified = verified?;
    if let Some(doubt) = verified.doubt.as_ref().filter(|_| options.is_refused(&verified)) {
        terminal::error(format_args!(
            "nothing is repaired: {doubt}; if the event store is right, as after a restore, add --repair-all-orphans"
        ));
    }
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
    let would = |repair: Action| if options.dry_run { format!("; --repair would {}", repair.text()) } else { String::new() };
    let each = home
        .iter()
        .map(|(id, finding)| format!("{}: {}{}", finding.text(), shortened(id.as_str(), NAME_COLUMNS), would(Action::on_row(*finding))));
    let each = each.chain(shared.iter().map(|(cell, finding)| shared_line(cell, finding) + &would(Action::on_shared(finding))));
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
    let repairable = verified.home.values().map(|finding| Action::on_row(*finding)).chain(verified.shared.values().map(Action::on_shared));
    let repairable = repairable.filter(|action| *action != Action::Nothing).count();
    let repaired = verified.repaired;
    match (found, options.repair) {
        (0, _) if options.sample.is_some() => "clean: every row of the sample matches the event store".to_owned(),
        (0, _) => "clean: every row matches the event store".to_owned(),
        (_, true) if options.dry_run && options.is_refused(verified) => "dry run: --repair would refuse".to_owned(),
        (_, true) if options.dry_run => format!("dry run: nothing was changed; --repair would try to repair {repairable} of {found}"),
        (_, true) if verified.is_clean() => format!("repaired: {repaired} of {found}"),
        (_, true) => format!("not clean: {repaired} of {found} repaired"),
        (_, false) if verified.doubt.is_some() => format!("not clean: {}", verified.doubt.as_ref().expect("there is one")),
        (_, false) if repairable > 0 => "differences found; run again with --repair to fix them".to_owned(),
        (_, false) => "not clean".to_owned(),
    }
}

/// What a repair does about a finding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    CatchUp,
    Reproject,
    TakeBack,
    Correct,
    Settle,
    Nothing,
}

impl Action {
    fn on_row(finding: RowFinding) -> Self {
        match finding {
            RowFinding::Missing | RowFinding::Behind => Self::CatchUp,
            RowFinding::Drifted | RowFinding::Outdated => Self::Reproject,
            RowFinding::Ahead | RowFinding::Orphaned => Self::TakeBack,
            RowFinding::Parked => Self::Nothing,
        }
    }

    fn on_shared(finding: &SharedFinding) -> Self {
        match finding {
            SharedFinding::Sum(_) => Self::Correct,
            SharedFinding::Lower | SharedFinding::Higher | SharedFinding::LeftOver | SharedFinding::TakenBack => Self::Settle,
            SharedFinding::Unsettled => Self::Nothing,
        }
    }

    /// What a repair would do.
    fn text(self) -> &'static str {
        match self {
            Self::CatchUp => "bring it to the head of its history",
            Self::Reproject => "re-project it",
            Self::TakeBack => "take it back to the events that there are",
            Self::Correct => "correct it by the difference",
            Self::Settle => "work it out from all contributions",
            Self::Nothing => "leave it",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::CatchUp => "catchUp",
            Self::Reproject => "reproject",
            Self::TakeBack => "takeBack",
            Self::Correct => "correct",
            Self::Settle => "settle",
            Self::Nothing => "nothing",
        }
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
        /// What a repair would do.
        #[serde(skip_serializing_if = "Option::is_none")]
        repair: Option<&'a str>,
    }
    let would = |repair: Action| options.dry_run.then(|| repair.name());
    let home = verified.home.iter().map(|(id, finding)| Line {
        finding: finding.text(),
        aggregate_id: Some(id.as_str()),
        row: None,
        attribute: None,
        difference: None,
        repair: would(Action::on_row(*finding)),
    });
    let shared = verified.shared.iter().map(|((row, attribute), finding)| {
        let repair = would(Action::on_shared(finding));
        let (finding, difference) = match finding {
            SharedFinding::Sum(amount) => ("sum", Some(amount.to_string())),
            SharedFinding::Lower => ("lower", None),
            SharedFinding::Higher => ("higher", None),
            SharedFinding::LeftOver => ("leftOver", None),
            SharedFinding::TakenBack => ("takenBack", None),
            SharedFinding::Unsettled => ("unsettled", None),
        };
        Line { finding, aggregate_id: None, row: Some(row.as_str()), attribute: Some(attribute), difference, repair }
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
        "shared": shared.len(), "repaired": repaired, "clean": verified.is_clean(), "dryRun": options.dry_run,
        "refused": options.is_refused(verified), "rowsWithoutEvent": verified.footing.without_event,
        "in": store,
    } });
    writeln!(text, "{}", pretty_json::line(&total)?)?;
    Ok(text)
}
