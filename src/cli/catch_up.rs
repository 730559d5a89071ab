//! `projector catch-up`: advances the rows that are behind the event store.

use clap::Args;
use projection_vocabulary::{AggregateId, DynProjection};

use super::{
    Context, EXIT_FINDINGS, EXIT_INTERRUPTED, EXIT_OK,
    format::Format,
    rate_limit::Budget,
    runner::{self, ChosenSource, End, RunSummary, Source},
    segments::Segments,
    stores::Named,
    summary::Summary,
};
use crate::{
    Worker,
    age::Age,
    operations::{
        rebuild::{
            Rebuild, Task,
            segment::{Resume, SegmentRebuild},
        },
        recent::Recent,
    },
    progress::Counts,
};

const RUN_AGAIN: &str = "run the same command again; nothing is counted twice";

/// Which rows to check.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    chosen: Chosen,
    /// Check only aggregates with events of the last 45m, 26h, 7d ..., found by the index GSI1 without a scan
    #[arg(long, value_name = "DURATION", conflicts_with = "segments")]
    since: Option<Age>,
    /// Only this aggregate; may be repeated
    #[arg(long, value_name = "A", conflicts_with_all = ["segments", "since"], allow_hyphen_values = true)]
    aggregate: Vec<String>,
    #[command(flatten)]
    segments: Segments,
    #[command(flatten)]
    budget: Budget,
    #[command(flatten)]
    format: Format,
}

/// One projection or all of them.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Chosen {
    /// The projection
    #[arg(value_name = "NAME")]
    projection: Option<String>,
    /// Every projection, one after the other
    #[arg(long)]
    all: bool,
}

/// `catch-up`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let rules = match &options.chosen.projection {
        Some(name) => vec![cx.rule(name)?],
        None => cx.registry.projections().to_vec(),
    };
    let worker = cx.worker(cx.open_existing_store().await?);
    let chosen: Vec<_> = options.aggregate.iter().map(|id| AggregateId::from(id.as_str())).collect();
    if !runner::all_exist(worker.store(), &chosen).await? {
        return Ok(EXIT_FINDINGS);
    }
    let mut exit = EXIT_OK;
    // What processes receive and send is appended to the event store, for other rules and for themselves.
    let again = rules.iter().any(|rule| rule.process().is_some());
    for pass in 1.. {
        let mut moved = false;
        for rule in &rules {
            let (segments, run) = once(options, &worker, *rule, &chosen, cx).await?;
            moved |= run.counts.caught_up > 0;
            if pass == 1 || run.counts.caught_up > 0 || !matches!(run.end, End::Done) {
                let store = Named::of(&cx.store, worker.store().names(), &[*rule]);
                let summary = Summary::new(*rule, Task::CatchUp, segments, &run, None, &store);
                exit = exit.max(summary.print(options.format.is_json(), &run, RUN_AGAIN, &mut cx.out)?);
            }
            if matches!(run.end, End::Interrupted) {
                return Ok(EXIT_INTERRUPTED);
            }
        }
        if !again || !moved {
            break;
        }
    }
    Ok(exit)
}

/// Catches up with one projection. Returns how many segments were read side by side.
async fn once(
    options: &Options,
    worker: &Worker,
    rule: &'static dyn DynProjection,
    chosen: &[AggregateId],
    cx: &Context,
) -> anyhow::Result<(usize, RunSummary)> {
    let (sources, items) = if !chosen.is_empty() {
        (vec![Source::Chosen(Box::new(ChosenSource::new(Rebuild::new(worker, rule, Task::CatchUp), chosen)))], None)
    } else if let Some(since) = options.since {
        (vec![Source::Recent(Recent::new(worker, rule, since.before_now()))], None)
    } else {
        let catch_up = |segment| SegmentRebuild::new(worker, rule, Task::CatchUp, segment, Resume::default());
        let segments = options.segments.all(&cx.store);
        (segments.map(|segment| Source::Segment(Box::new(catch_up(segment)))).collect(), runner::items(worker, None).await)
    };
    let segments = sources.len();
    Ok((segments, runner::run(worker, rule, (sources, Counts::default()), options.budget, items, false).await))
}
