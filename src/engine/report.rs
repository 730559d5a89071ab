//! What became of every record: exactly one outcome each, all counted.

use std::{collections::BTreeMap, ops::AddAssign};

use projection_vocabulary::{RecordedEvent, Timestamp};

use crate::{
    engine::decode::{Ignored, SequenceNumber},
    store::Usage,
};

/// What became of a record in one projection; of a record as a whole, the greatest of its outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Counted before: nothing was written.
    Duplicate,
    /// Counted now.
    Applied,
    /// Kept in the parking table, or behind an event that is.
    Parked,
    /// Not counted, not kept: it must be delivered again.
    Failed,
}

/// Counts of one projection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records counted now.
    pub applied: u64,
    /// Records counted before.
    pub duplicate: u64,
    /// Events that no record of the batch brought, read from the event store and counted now.
    pub healed: u64,
    /// Reads of the event store for versions that were missing before a span.
    pub gaps: u64,
    /// Records that wait.
    pub parked: u64,
    /// Records to deliver again.
    pub failed: u64,
    /// Aggregates whose rows were projected anew because the rule had changed.
    pub reprojected: u64,
    /// When the oldest event counted now happened, in milliseconds since 1970; `None` if none was counted.
    pub oldest_ms: Option<i64>,
}

impl Tally {
    pub(crate) fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Duplicate => self.duplicate += 1,
            Outcome::Applied => self.applied += 1,
            Outcome::Parked => self.parked += 1,
            Outcome::Failed => self.failed += 1,
        }
    }

    /// Notes an event that is counted now.
    pub(crate) fn counted(&mut self, event: &RecordedEvent) {
        self.note_oldest(event.timestamp.epoch_ms());
    }

    fn note_oldest(&mut self, happened_ms: i64) {
        self.oldest_ms = Some(self.oldest_ms.map_or(happened_ms, |oldest| oldest.min(happened_ms)));
    }

    /// How long ago the oldest event counted happened, in milliseconds: how far the rows were behind what they are about. `None` if
    /// none was counted, for a redelivery says nothing of that. An event from the future, by the clock of whoever wrote it, is 0 old.
    #[must_use]
    pub fn lag_ms(&self, now: &Timestamp) -> Option<u64> {
        self.oldest_ms.map(|oldest| u64::try_from(now.epoch_ms() - oldest).unwrap_or(0))
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.applied += other.applied;
        self.duplicate += other.duplicate;
        self.healed += other.healed;
        self.gaps += other.gaps;
        self.parked += other.parked;
        self.failed += other.failed;
        self.reprojected += other.reprojected;
        other.oldest_ms.into_iter().for_each(|oldest| self.note_oldest(oldest));
    }
}

/// What became of a batch of records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Records delivered: `total`'s applied, duplicate, parked and failed, and those ignored.
    pub records: u64,
    /// By record, whatever number of projections it concerns.
    pub total: Tally,
    /// Records with nothing to project, by reason.
    pub ignored: BTreeMap<Ignored, u64>,
    /// By projection: one record may count in several.
    pub projections: BTreeMap<&'static str, Tally>,
    /// Why records failed, with how many.
    pub reasons: BTreeMap<String, u64>,
    /// The lowest position of a failed record; `None` in here if a failed record has none.
    pub checkpoint: Option<Option<SequenceNumber>>,
    /// What it cost.
    pub usage: Usage,
}

impl Report {
    /// How many records had nothing to project.
    #[must_use]
    pub fn ignored_total(&self) -> u64 {
        self.ignored.values().sum()
    }

    /// Adds what became of another batch.
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.total += other.total;
        for (reason, count) in other.ignored {
            *self.ignored.entry(reason).or_default() += count;
        }
        for (projection, tally) in other.projections {
            *self.projections.entry(projection).or_default() += tally;
        }
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        self.usage += other.usage;
        if let Some(position) = other.checkpoint {
            self.failed_at(position);
        }
    }

    /// What to name as failed, if anything: the lowest position of a failed record; all behind it are delivered again with it. An
    /// empty text where it has none, by which Lambda delivers the whole batch again.
    #[must_use]
    pub fn item_failure(&self) -> Option<&str> {
        self.checkpoint.as_ref().map(|lowest| lowest.as_ref().map_or("", SequenceNumber::as_str))
    }

    /// Notes that a record failed. One without a position means that the whole batch must come again.
    pub(crate) fn failed_at(&mut self, position: Option<SequenceNumber>) {
        self.checkpoint = Some(match self.checkpoint.take() {
            None => position,
            Some(lowest) => lowest.zip(position).map(|(lowest, position)| lowest.min(position)),
        });
    }

    /// One line that says it all, written once a batch, also if everything failed.
    pub fn log(&self) {
        let Tally { applied, duplicate, healed, gaps, parked, failed, reprojected, oldest_ms: _ } = self.total;
        let Usage { requests, write_units, read_units, retries, conflicts } = self.usage;
        let (records, ignored) = (self.records, self.ignored_total());
        tracing::info!(
            records,
            applied,
            duplicate,
            healed,
            gaps,
            parked,
            ignored,
            failed,
            reprojected,
            requests,
            write_units,
            read_units,
            retries,
            conflicts,
            "batch"
        );
        for (reason, records) in &self.reasons {
            tracing::error!(records, reason, "records failed");
        }
        for kind in [Ignored::Modified, Ignored::Removed, Ignored::Expired] {
            if let Some(records) = self.ignored.get(&kind) {
                tracing::warn!(records, "{kind}");
            }
        }
    }
}
