//! `projector verify`: proves that rows are the fold of their events, and repairs those that are not.

use std::fmt::Write as _;

use clap::Args;
use projection_vocabulary::{Cell, RowId, Value};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    format::Format,
    pretty_json,
    segments::Segments,
    stores::Named,
    terminal,
    text::{Lines, count, count_of, printable, shortened},
};
use crate::{
    operations::{
        differs::Differs,
        verify::{
            self, ChildFinding, Repair, RowFinding, SharedFinding, Verified,
            diff::{self, Differences},
            instances::{VerifiedInstances, verify_instances},
        },
    },
    retry::Deadline,
    store,
};

/// Findings that are shown unless told otherwise.
pub const SHOW_DEFAULT: usize = 20;
/// Columns of a name in a line.
pub const NAME_COLUMNS: usize = 60;
/// Columns of a value in a line.
const VALUE_COLUMNS: usize = 60;

/// What to verify, and whether to repair it.
#[derive(Args)]
pub struct Options {
    /// The projection
    #[arg(value_name = "NAME")]
    projection: String,
    #[command(flatten)]
    repair: RepairOptions,
    /// Check about P percent of the rows, and no sums
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..=100))]
    sample: Option<u32>,
    /// Check only this aggregate's own row, and no sums; may be repeated
    #[arg(long, value_name = "A", conflicts_with_all = ["sample", "segments"], allow_hyphen_values = true)]
    aggregate: Vec<String>,
    /// Show in what each row differs: what its attributes are, and what they must be; these are data of events
    #[arg(long)]
    diff: bool,
    #[command(flatten)]
    segments: Segments,
    /// Show the first N findings [default: 20; JSON: all]
    #[arg(long, value_name = "N")]
    show: Option<usize>,
    #[command(flatten)]
    format: Format,
}

/// Whether to repair what is found.
#[derive(Args)]
struct RepairOptions {
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
}

impl RepairOptions {
    fn how(&self) -> Repair {
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
    if options.diff && options.repair.repair && !options.repair.dry_run {
        anyhow::bail!("--diff shows what a repair would change: use it without --repair, or with --dry-run");
    }
    let worker = cx.worker(cx.open_existing_store().await?);
    let named = Named::of(&cx.store, worker.store().names(), &[rule]);
    let sample = options.sample;
    let segments = options.segments.number(&cx.store);
    let progress = terminal::spinner("reading the event store and the rows");
    let verified = if options.aggregate.is_empty() {
        let how = verify::Options { segments, sample, repair: options.repair.how() };
        Box::pin(verify::verify(&worker, rule, how, Deadline::NONE)).await
    } else {
        let chosen = options.aggregate.iter().map(|id| id.as_str().into()).collect();
        verify::verify_chosen(&worker, rule, &chosen, options.repair.how(), Deadline::NONE).await
    };
    let verified = verified?;
    let instances = match rule.process() {
        Some(process) if options.aggregate.is_empty() && sample.is_none() => {
            Some(verify_instances(worker.store(), process, segments, &store::now(), Deadline::NONE).await?)
        }
        _ => None,
    };
    let show = options.show.unwrap_or(if options.format.is_json() { usize::MAX } else { SHOW_DEFAULT });
    let diff = if options.diff { diff::differences(&worker, rule, &verified, show, Deadline::NONE).await? } else { Differences::default() };
    progress.finish_and_clear();
    for id in &verified.unknown {
        terminal::error(format_args!("neither the event store nor {} has {}", rule.name(), printable(id.as_str())));
    }
    if let Some(doubt) = verified.doubt.as_ref().filter(|_| options.repair.is_refused(&verified)) {
        terminal::error(format_args!(
            "nothing is repaired: {doubt}; if the event store is right, as after a restore, add --repair-all-orphans"
        ));
    }
    cx.out.text(&if options.format.is_json() {
        json(&verified, &diff, options, &named)? + &instances.as_ref().map(instances_json).transpose()?.unwrap_or_default()
    } else {
        named.text()
            + &lines(&verified, &diff, options)
            + &instances.as_ref().map(|instances| instance_lines(instances, show)).unwrap_or_default()
    });
    let clean = verified.is_clean() && instances.is_none_or(|instances| instances.findings.is_empty());
    Ok(if clean { EXIT_OK } else { EXIT_FINDINGS })
}

/// What a process has sent, compared with what came of it.
fn instance_lines(verified: &VerifiedInstances, show: usize) -> String {
    let mut lines = Lines::default();
    let VerifiedInstances { instances, requests, by_status, .. } = verified;
    let statuses: Vec<_> = by_status.iter().map(|(status, number)| format!("{number} {status}")).collect();
    let statuses = if statuses.is_empty() { String::new() } else { format!(": {}", statuses.join(", ")) };
    lines.add(format_args!("{} with {}{statuses}", count(*instances, "instance"), count(*requests, "request")));
    for (instance, finding) in verified.each().take(show) {
        lines.add(format_args!("  {}: {}", shortened(instance.as_str(), NAME_COLUMNS), printable(&finding.to_string())));
    }
    let found = verified.each().count();
    if found > show {
        lines.add(format_args!("  and {} more; to see all: --show {found}", found - show));
    }
    lines.add(match found {
        0 => "clean: every request has one answer, and no timer is overdue",
        _ => "not clean: no command repairs these; `projector process show` has the history of an instance",
    });
    lines.into_text()
}

fn instances_json(verified: &VerifiedInstances) -> anyhow::Result<String> {
    let VerifiedInstances { instances, requests, by_status, .. } = verified;
    let mut text = String::new();
    for (instance, finding) in verified.each() {
        let line = serde_json::json!({ "finding": finding.text(), "instance": instance.as_str(), "what": finding.to_string() });
        writeln!(text, "{}", pretty_json::line(&line)?)?;
    }
    let by_status: serde_json::Map<_, _> = by_status.iter().map(|(status, count)| (status.to_string(), (*count).into())).collect();
    let total = serde_json::json!({ "instances": {
        "read": instances, "requests": requests, "byStatus": by_status, "findings": verified.each().count(),
    } });
    writeln!(text, "{}", pretty_json::line(&total)?)?;
    Ok(text)
}

fn lines(verified: &Verified, diff: &Differences, options: &Options) -> String {
    let mut lines = Lines::default();
    let Verified { events, aggregates, rows, sums, home, children, shared, .. } = verified;
    let extent = options.sample.map_or_else(String::new, |percent| format!(" in a sample of about {percent} %"));
    if options.aggregate.is_empty() {
        lines.add(format_args!(
            "{}: {} of {}, {} and {} compared{extent}",
            options.projection,
            count(*events, "event"),
            count(*aggregates, "aggregate"),
            count(*rows, "row"),
            count(*sums, "sum"),
        ));
    } else {
        lines.add(format_args!("{}: {} compared, no shared rows", options.projection, count(*aggregates, "aggregate")));
    }
    let counts = RowFinding::ALL.map(|finding| (verified.count(finding), format!("{} {}", verified.count(finding), finding.text())));
    let others = [(children.len(), "child row"), (shared.len(), "shared attribute")];
    let others = others.map(|(found, what)| (found as u64, count_of(found, what)));
    let counts: Vec<_> = counts.into_iter().chain(others).filter(|(count, _)| *count > 0).map(|(_, text)| text).collect();
    if !counts.is_empty() {
        lines.add(counts.join(", "));
    }
    let would = |repair: Action| if options.repair.dry_run { format!("; --repair would {}", repair.text()) } else { String::new() };
    let each = home.iter().map(|(id, finding)| {
        let line = format!("{}: {}{}", finding.text(), shortened(id.as_str(), NAME_COLUMNS), would(Action::on_row(*finding)));
        (line, diff.home.get(id).into_iter().flatten().map(differs_line).collect::<Vec<_>>())
    });
    let each = each.chain(children.iter().map(|(id, finding)| {
        let line = format!("child {}: {}{}", finding.text(), child_name(id), would(Action::on_child(*finding)));
        (line, diff.children.get(id).into_iter().flatten().map(differs_line).collect())
    }));
    let each = each.chain(shared.iter().map(|(cell, finding)| {
        let line = shared_line(cell, finding) + &would(Action::on_shared(finding));
        (line, diff.shared.get(cell).map(differs_line).into_iter().collect())
    }));
    let show = options.show.unwrap_or(SHOW_DEFAULT);
    for (finding, differences) in each.take(show) {
        lines.add(format_args!("  {finding}"));
        for difference in differences {
            lines.add(format_args!("    {difference}"));
        }
    }
    let found = home.len() + children.len() + shared.len();
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
    let found = verified.found();
    let home = verified.home.values().map(|finding| Action::on_row(*finding));
    let children = verified.children.values().map(|finding| Action::on_child(*finding));
    let repairable = home.chain(children).chain(verified.shared.values().map(Action::on_shared));
    let repairable = repairable.filter(|action| *action != Action::Nothing).count();
    let repaired = verified.repaired;
    match (found, options.repair.repair) {
        (0, _) if !verified.unknown.is_empty() => "not clean: some of these aggregates do not exist".to_owned(),
        (0, _) if !options.aggregate.is_empty() => "clean: the rows of these aggregates match the event store".to_owned(),
        (0, _) if options.sample.is_some() => "clean: every row of the sample matches the event store".to_owned(),
        (0, _) => "clean: every row matches the event store".to_owned(),
        (_, true) if options.repair.dry_run && options.repair.is_refused(verified) => "dry run: --repair would refuse".to_owned(),
        (_, true) if options.repair.dry_run => {
            format!("dry run: nothing was changed; --repair would try to repair {repairable} of {found}")
        }
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

    fn on_child(finding: ChildFinding) -> Self {
        match finding {
            ChildFinding::Missing | ChildFinding::Different | ChildFinding::Extra => Self::Reproject,
            ChildFinding::Orphaned => Self::TakeBack,
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

/// A further line of a finding.
fn differs_line(Differs { attribute, contributed_to, from, to }: &Differs) -> String {
    let value = |value: &Option<Value>| {
        value.as_ref().map_or_else(|| "nothing".to_owned(), |value| shortened(value.to_json().get(), VALUE_COLUMNS))
    };
    let of =
        contributed_to.as_ref().map_or_else(String::new, |(row, _)| format!(", contributed to {}", shortened(row.as_str(), NAME_COLUMNS)));
    format!("{}{of}: is {}, must be {}", printable(attribute), value(from), value(to))
}

/// A child row by its key and its sort key.
fn child_name(id: &RowId) -> String {
    let sort = id.child.as_deref().unwrap_or_default();
    format!("{}/{}", shortened(id.key.as_str(), NAME_COLUMNS), shortened(sort, NAME_COLUMNS))
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

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiffersJson<'a> {
    attribute: &'a str,
    /// The key of the shared row.
    #[serde(skip_serializing_if = "Option::is_none")]
    contributed_to: Option<&'a str>,
    is: Option<Box<RawValue>>,
    must_be: Option<Box<RawValue>>,
}

impl<'a> DiffersJson<'a> {
    fn of(Differs { attribute, contributed_to, from, to }: &'a Differs) -> Self {
        let json = |value: &Option<Value>| value.as_ref().map(Value::to_json);
        Self { attribute, contributed_to: contributed_to.as_ref().map(|(row, _)| row.as_str()), is: json(from), must_be: json(to) }
    }
}

fn json(verified: &Verified, diff: &Differences, options: &Options, store: &Named) -> anyhow::Result<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line<'a> {
        finding: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        aggregate_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        row: Option<&'a str>,
        /// The sort key of a child row.
        #[serde(skip_serializing_if = "Option::is_none")]
        child: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        attribute: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        difference: Option<String>,
        /// What a repair would do.
        #[serde(skip_serializing_if = "Option::is_none")]
        repair: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        differences: Option<Vec<DiffersJson<'a>>>,
    }
    let would = |repair: Action| options.repair.dry_run.then(|| repair.name());
    let home = verified.home.iter().map(|(id, finding)| Line {
        finding: finding.text(),
        aggregate_id: Some(id.as_str()),
        row: None,
        child: None,
        attribute: None,
        difference: None,
        repair: would(Action::on_row(*finding)),
        differences: options.diff.then(|| diff.home.get(id).into_iter().flatten().map(DiffersJson::of).collect()),
    });
    let shared = verified.shared.iter().map(|(cell @ (row, attribute), finding)| {
        let differences = options.diff.then(|| diff.shared.get(cell).into_iter().map(DiffersJson::of).collect());
        let repair = would(Action::on_shared(finding));
        let difference = if let SharedFinding::Sum(amount) = finding { Some(amount.to_string()) } else { None };
        Line {
            finding: finding.text(),
            aggregate_id: None,
            row: Some(row.as_str()),
            child: None,
            attribute: Some(attribute),
            difference,
            repair,
            differences,
        }
    });
    let children = verified.children.iter().map(|(id, finding)| Line {
        finding: finding.text(),
        aggregate_id: Some(id.key.as_str()),
        row: None,
        child: id.child.as_deref(),
        attribute: None,
        difference: None,
        repair: would(Action::on_child(*finding)),
        differences: options.diff.then(|| diff.children.get(id).into_iter().flatten().map(DiffersJson::of).collect()),
    });
    let mut text = String::new();
    for finding in home.chain(children).chain(shared).take(options.show.unwrap_or(usize::MAX)) {
        writeln!(text, "{}", pretty_json::line(&finding)?)?;
    }
    let Verified { events, aggregates, rows, sums, repaired, shared, .. } = verified;
    let counts: serde_json::Map<_, _> =
        RowFinding::ALL.iter().map(|finding| (finding.text().to_owned(), verified.count(*finding).into())).collect();
    let total = serde_json::json!({ "total": {
        "projection": options.projection, "events": events, "aggregates": aggregates, "rows": rows, "sums": sums, "findings": counts,
        "children": verified.children.len(), "shared": shared.len(), "repaired": repaired, "clean": verified.is_clean(), "dryRun": options.repair.dry_run, "unknown": verified.unknown.len(),
        "refused": options.repair.is_refused(verified), "rowsWithoutEvent": verified.footing.without_event,
        "in": store,
    } });
    writeln!(text, "{}", pretty_json::line(&total)?)?;
    Ok(text)
}
