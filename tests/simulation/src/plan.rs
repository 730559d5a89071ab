//! The parameters of a run. Each run enables only some of the faults, so that common ones do not hide rare ones.

use std::time::Duration;

use poller::Settings;

use crate::{
    choices::Choices,
    faults::Fault,
    rules::{FIRST, NEXT, REPAIRED},
};

/// The aggregates that put things on shelves.
pub const GIVERS: [&str; 4] = ["ann", "ben", "cid", "dot"];
/// The aggregates whose home rows are shared rows as well.
pub const SHELVES: [&str; 2] = ["north", "south"];

/// What a run is about, so that rare situations are met often enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Everything.
    All,
    /// Many clients spend from one purse at once.
    Rush,
    /// Events write to more shared rows than a transaction holds. Such a run takes long.
    ManyRows,
    /// All aggregates raise one maximum. A new rule and a rebuild lower it, while requests that rely on it are slow.
    OneMaximum,
    /// One aggregate is parked and redriven again and again, while requests that delete its entry are slow.
    OneEntry,
    /// Home rows are lost, and operators repair the sums that they leave, while their corrections are slow.
    OneSum,
    /// A process moves coins between purses, step by step.
    Transfers,
}

/// One run's size and faults.
pub struct Plan {
    enabled: Vec<bool>,
    /// How many of 1,000 requests meet a fault.
    pub request_faults: usize,
    /// The number of shards.
    pub shards: usize,
    /// The event source mapping of each shard.
    pub settings: Settings,
    /// The number of [`GIVERS`].
    pub givers: usize,
    /// Appends to the event store before the worker starts.
    pub history: usize,
    /// Commands while it runs.
    pub commands: usize,
    /// How often clients of the process append while it runs.
    pub asks: usize,
    /// Appends while it runs.
    pub appends: usize,
    /// The most items in an answer.
    pub page_items_max: usize,
    /// Whether a parallel scan finds an aggregate in several segments.
    pub segments_split: bool,
    subject: Subject,
    /// How many events an invocation may read to re-project.
    pub reprojected_events_max: u64,
    /// How long an invocation may work.
    pub working_time: Duration,
    /// Steps of the scheduler before all faults end.
    pub error: usize,
    /// The final deployment.
    pub last_deployment: usize,
}

impl Plan {
    /// Chooses a plan.
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
        } else if [Fault::PoisonFixed, Fault::BadDeployment, Fault::Restored, Fault::Overwritten].into_iter().any(on) {
            REPAIRED
        } else {
            FIRST
        };
        let short_pages = on(Fault::ShortPage);
        let mut plan = Self {
            request_faults: [0, 20, 100, 300][choices.below(4)],
            shards: 1 + choices.below(2),
            settings,
            givers: 1 + choices.below(GIVERS.len()),
            history: choices.below(4),
            appends: 1 + choices.below(6),
            asks: 0,
            commands: if choices.per_mille(300) { 2 + choices.below(10) } else { 0 },
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
            subject: choices.weighted(&[
                (917, Subject::All),
                (2, Subject::Rush),
                (20, Subject::ManyRows),
                (15, Subject::OneMaximum),
                (8, Subject::OneEntry),
                (8, Subject::OneSum),
                (30, Subject::Transfers),
            ]),
            enabled,
        };
        let befalls: &[Fault] = match plan.subject {
            Subject::OneMaximum => &[Fault::Deployed],
            Subject::OneEntry => &[Fault::Poison, Fault::PoisonFixed],
            Subject::OneSum => &[Fault::RowLost],
            Subject::All | Subject::Rush | Subject::ManyRows | Subject::Transfers => &[],
        };
        if !befalls.is_empty() {
            // Few enough other things happen that an operation ends while a request is under way.
            plan.enabled = Fault::ALL.iter().map(|fault| befalls.contains(fault)).collect();
            (plan.givers, plan.history, plan.appends, plan.error) = (3, 3, 14, 200);
            (plan.settings.parallelization, plan.settings.batch_size) = (4, 1);
            (plan.request_faults, plan.page_items_max) = (0, usize::MAX);
            plan.working_time = Duration::from_mins(1);
            plan.last_deployment = if plan.subject == Subject::OneMaximum { NEXT } else { REPAIRED };
        }
        if plan.is_about(Subject::OneEntry) {
            (plan.givers, plan.history) = (1, 1);
        }
        if plan.is_about(Subject::Transfers) {
            // What befalls givers and their rows is for the other subjects.
            for fault in [Fault::Malformed, Fault::Restored, Fault::Overwritten, Fault::Rebuilt, Fault::Verified] {
                plan.enabled[fault as usize] = false;
            }
            (plan.givers, plan.history, plan.appends) = (1, 0, 0);
            plan.page_items_max = plan.page_items_max.saturating_mul(4);
            plan.enabled[Fault::CallLost as usize] |= choices.per_mille(500);
            (plan.asks, plan.commands, plan.error) = (1 + choices.below(4), choices.below(5), 100 + choices.below(200));
            if plan.has(Fault::OutOfTime) {
                // What a process keeps for writing comes on top.
                plan.working_time = Duration::from_millis(550 + 100 * choices.below(5) as u64);
            }
        }
        plan
    }

    /// Whether all poison events are fixed before the end. A history that was set back or overwritten requires it: its row stays on the old history as long
    /// as the new one cannot be folded.
    #[must_use]
    pub fn fixes_all(&self) -> bool {
        self.last_deployment != FIRST
    }

    /// Whether this is its subject.
    #[must_use]
    pub fn is_about(&self, subject: Subject) -> bool {
        self.subject == subject
    }

    /// Whether this fault may occur.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.enabled[fault as usize]
    }
}
