//! What a run is made of. Each has some of the faults and not others, so that rare ones are not drowned by common ones.

use std::time::Duration;

use poller::Settings;

use crate::{
    choices::Choices,
    faults::Fault,
    rules::{FIRST, MENDED, NEXT},
};

/// The aggregates that put things on shelves.
pub const GIVERS: [&str; 4] = ["ann", "ben", "cid", "dot"];
/// The aggregates whose rows are shared, too.
pub const SHELVES: [&str; 2] = ["north", "south"];

/// One run's size and faults.
pub struct Plan {
    enabled: Vec<bool>,
    /// Of 1,000 requests, so many meet a fault.
    pub request_faults: usize,
    /// How many shards the stream has.
    pub shards: usize,
    /// How each is polled.
    pub settings: Settings,
    /// How many of [`GIVERS`] there are.
    pub givers: usize,
    /// Appends to the event store before the worker is there.
    pub history: usize,
    /// Appends meanwhile.
    pub appends: usize,
    /// At most so many items in an answer.
    pub page_items_max: usize,
    /// Whether a parallel scan finds an aggregate in several segments.
    pub segments_split: bool,
    /// How many events an invocation may read to project anew.
    pub reprojected_events_max: u64,
    /// How long an invocation may work.
    pub working_time: Duration,
    /// Steps of the scheduler before all faults end.
    pub error: usize,
    /// What is deployed in the end.
    pub last_deployment: usize,
}

impl Plan {
    /// Chooses one.
    pub fn choose(choices: &mut Choices) -> Self {
        let enabled: Vec<_> = Fault::ALL.iter().map(|_| choices.per_mille(350)).collect();
        let on = |fault: Fault| enabled[fault as usize];
        let settings = Settings {
            batch_size: 1 + choices.below(8),
            parallelization: [1, 1, 2, 4][choices.below(4)],
            retries_max: if on(Fault::Discarded) { Some(u32::from(choices.per_mille(500))) } else { None },
            bisect: choices.per_mille(500),
        };
        let last_deployment = if on(Fault::Deployed) {
            NEXT
        } else if on(Fault::PoisonMended) || on(Fault::BadDeployment) || on(Fault::Restored) {
            MENDED
        } else {
            FIRST
        };
        let short_pages = on(Fault::ShortPage);
        Self {
            request_faults: [0, 20, 100, 300][choices.below(4)],
            shards: 1 + choices.below(2),
            settings,
            givers: 1 + choices.below(GIVERS.len()),
            history: choices.below(4),
            appends: 1 + choices.below(6),
            page_items_max: if short_pages { 1 + choices.below(3) } else { usize::MAX },
            segments_split: choices.per_mille(300),
            reprojected_events_max: [20_000, 20_000, 3][choices.below(3)],
            working_time: if on(Fault::OutOfTime) {
                Duration::from_millis(50 + 100 * choices.below(5) as u64)
            } else {
                Duration::from_mins(1)
            },
            error: 20 + choices.below(100),
            last_deployment,
            enabled,
        }
    }

    /// Whether all poison is mended before the end. Where a history was set back it must be: a row stays on the old one as long as
    /// the new one cannot be folded.
    #[must_use]
    pub fn mends(&self) -> bool {
        self.last_deployment != FIRST
    }

    /// Whether this fault may occur.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.enabled[fault as usize]
    }
}
