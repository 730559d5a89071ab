//! `projector catch-up`: those that are behind the event store, to its head.

use clap::Args;
use projection_vocabulary::Registry;

use super::{
    EXIT_INTERRUPTED, EXIT_OK, StoreOptions,
    rate_limit::Budget,
    rebuild::{self, Outcome, SEGMENTS_AT_ONCE_MAX},
    runner::{self, End, Pass},
};
use crate::{
    Worker,
    age::Age,
    operations::{
        rebuild::{
            Task,
            segment::{Resume, SegmentRebuild},
        },
        recent::Recent,
    },
    progress::Counts,
    store::{Store, segment::Segment},
};

/// What to catch up with.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    chosen: Chosen,
    /// Look only at the aggregates that have events since so long ago, by the index GSI1 and not by a scan: 45m, 26h, 7d
    #[arg(long, value_name = "DURATION", conflicts_with = "segments")]
    since: Option<Age>,
    /// Scan the event store in N segments at once [default: 1 inside this process, else 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=SEGMENTS_AT_ONCE_MAX))]
    segments: Option<u32>,
    #[command(flatten)]
    budget: Budget,
    /// Print the result as one JSON object, one a line with --all
    #[arg(long)]
    json: bool,
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
pub async fn run(options: &Options, store_options: &StoreOptions, store: Store, registry: Registry) -> anyhow::Result<u8> {
    let rules = match &options.chosen.projection {
        Some(name) => vec![rebuild::rule(registry, name)?],
        None => registry.projections().to_vec(),
    };
    let worker = Worker::new(store, registry);
    let mut exit = EXIT_OK;
    for rule in rules {
        let (passes, items) = if let Some(since) = options.since {
            (vec![Pass::Recent(Recent::new(&worker, rule, since.before_now()))], None)
        } else {
            let beginning = |segment| SegmentRebuild::new(&worker, rule, Task::CatchUp, segment, Resume::default());
            let segments = Segment::all(options.segments.unwrap_or_else(|| store_options.segments()));
            (segments.map(|segment| Pass::Segment(Box::new(beginning(segment)))).collect(), rebuild::items(&worker, None).await)
        };
        let segments = passes.len();
        let ended = runner::run(&worker, rule, (passes, Counts::default()), options.budget, items, false).await;
        let again = "run the same command again: nothing counts twice";
        exit = exit.max(Outcome::new(rule, Task::CatchUp, segments, &ended, None).tell(options.json, &ended, again)?);
        if matches!(ended.end, End::Interrupted) {
            return Ok(EXIT_INTERRUPTED);
        }
    }
    Ok(exit)
}
