//! `projector verify-aggregates`: proves the snapshots and claims of commands, and repairs those that are wrong.

use std::fmt::Write as _;

use clap::Args;
use projection_vocabulary::AggregateId;
use serde_json::json;

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    format::Format,
    segments::Segments,
    stores::Named,
    terminal,
    text::{Lines, count, printable, shortened},
    verify::{NAME_COLUMNS, SHOW_DEFAULT},
};
use crate::{
    operations::aggregates::{self, Finding, Verified},
    retry::Deadline,
};

/// Whether to repair what is found.
#[derive(Args)]
pub struct Options {
    /// Make wrong snapshots anew, give up claims that are left over, and take those that nobody holds
    ///
    /// It refuses if it would give up more than a tenth of the claims, for a program with other deciders may hold them.
    #[arg(long)]
    repair: bool,
    /// Only say what --repair would do
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// Give claims up even if they are many
    #[arg(long, requires = "repair")]
    repair_all_claims: bool,
    #[command(flatten)]
    segments: Segments,
    /// Show the first N findings [default: 20; JSON: all]
    #[arg(long, value_name = "N")]
    show: Option<usize>,
    #[command(flatten)]
    format: Format,
}

impl Options {
    fn is_refused(&self, verified: &Verified) -> bool {
        self.repair && !self.repair_all_claims && verified.is_doubtful()
    }
}

/// `verify-aggregates`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    if cx.deciders.all().is_empty() {
        anyhow::bail!("this program has no deciders, so it knows no aggregates");
    }
    let store = cx.open_existing_store().await?;
    let named = Named::of(&cx.store, store.names(), &[]);
    let progress = terminal::spinner("reading the event store");
    let segments = options.segments.number(&cx.store);
    let mut verified = aggregates::verify_all(&store, cx.deciders, segments, Deadline::NONE).await?;
    let is_refused = options.is_refused(&verified);
    if options.repair && !options.dry_run && !is_refused {
        aggregates::repair(&store, cx.deciders, &mut verified, Deadline::NONE).await?;
    }
    progress.finish_and_clear();
    if is_refused {
        terminal::error(format_args!(
            "nothing is repaired: {} of {} belong to no state of their holders; if this program has the deciders of all holders, add \
             --repair-all-claims",
            verified.left_over(),
            count(verified.claims, "claim")
        ));
    }
    cx.out.text(&if options.format.is_json() { json(&verified, options, &named) } else { named.text() + &lines(&verified, options) });
    Ok(if verified.is_clean() { EXIT_OK } else { EXIT_FINDINGS })
}

fn lines(verified: &Verified, options: &Options) -> String {
    let Verified { aggregates, snapshots, claims, unknown, moving, findings, repaired } = verified;
    let mut lines = Lines::default();
    lines.add(format_args!(
        "{}, {} and {} compared with their events",
        count(*aggregates, "aggregate"),
        count(*snapshots, "snapshot"),
        count(*claims, "claim")
    ));
    if *unknown > 0 {
        lines.add(format_args!("{} of no kind that this program has", count(*unknown, "aggregate")));
    }
    if *moving > 0 {
        lines.add(format_args!("{moving} changed too often to be compared; verify again when there is less traffic"));
    }
    let show = options.show.unwrap_or(SHOW_DEFAULT);
    let found = verified.each().count();
    for (aggregate, finding) in verified.each().take(show) {
        lines.add(format_args!("  {}: {}", shortened(aggregate.as_str(), NAME_COLUMNS), text(finding)));
    }
    if found > show {
        lines.add(format_args!("  and {} more; to see all: --show {found}", found - show));
    }
    let wrong = count(findings.len() as u64, "aggregate");
    lines.add(match (findings.len(), options.repair && !options.dry_run) {
        (0, _) if *moving > 0 => "not clean: some were not compared".to_owned(),
        (0, _) => "clean: every snapshot and every claim is what the events say".to_owned(),
        (_, true) if verified.is_clean() => format!("repaired: {repaired} of {wrong}"),
        (_, true) => format!("not clean: {repaired} of {wrong} repaired"),
        (_, false) if options.dry_run => "dry run: nothing was changed".to_owned(),
        (_, false) => "differences found; run again with --repair to fix what can be fixed".to_owned(),
    });
    lines.into_text()
}

/// A finding. The value of a claim is event data, and stays out of it.
fn text(finding: &Finding) -> String {
    let name = |id: &AggregateId| shortened(id.as_str(), NAME_COLUMNS);
    match finding {
        Finding::Unreadable { version, reason } => {
            format!("cannot be loaded: event {version}: {}; see `projector events correct`", printable(reason))
        }
        Finding::Snapshot(version) => format!("the snapshot of version {version} is not what the events make"),
        Finding::NotHeld(claim) => format!("nobody holds its claim: {}", printable(&claim.kind)),
        Finding::HeldBy(other, claim) => format!("another aggregate holds its claim: {}: {}", printable(&claim.kind), name(other)),
        Finding::LeftOver(claim) => format!("holds a claim that is left over: {}", printable(&claim.kind)),
    }
}

fn json(verified: &Verified, options: &Options, named: &Named) -> String {
    let show = options.show.unwrap_or(usize::MAX);
    let findings = verified.each().take(show).map(|(aggregate, finding)| {
        let aggregate = aggregate.as_str();
        match finding {
            Finding::Unreadable { version, reason } => {
                json!({"aggregateId": aggregate, "finding": "unreadable", "version": version.0, "reason": reason})
            }
            Finding::Snapshot(version) => json!({"aggregateId": aggregate, "finding": "snapshot", "version": version.0}),
            Finding::NotHeld(claim) => json!({"aggregateId": aggregate, "finding": "notHeld", "claim": claim.kind}),
            Finding::HeldBy(other, claim) => {
                json!({"aggregateId": aggregate, "finding": "heldByAnother", "claim": claim.kind, "holder": other.as_str()})
            }
            Finding::LeftOver(claim) => json!({"aggregateId": aggregate, "finding": "leftOver", "claim": claim.kind}),
        }
    });
    let Verified { aggregates, snapshots, claims, unknown, moving, repaired, .. } = verified;
    let total = json!({ "total": {
        "aggregates": aggregates, "snapshots": snapshots, "claims": claims, "unknown": unknown, "moving": moving,
        "findings": verified.findings.len(), "repaired": repaired, "clean": verified.is_clean(), "dryRun": options.dry_run,
        "refused": options.is_refused(verified), "in": named,
    } });
    let mut text = String::new();
    for line in findings.chain([total]) {
        writeln!(text, "{line}").expect("writing to a String cannot fail");
    }
    text
}
