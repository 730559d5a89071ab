//! The outcome of every record: exactly one each, all counted.

use std::{collections::BTreeMap, ops::AddAssign};

use projection_vocabulary::{RecordedEvent, Timestamp};

use crate::{
    engine::{
        decode::{Ignored, SequenceNumber},
        error::AdvanceError,
    },
    store::Usage,
};

/// The outcome of a record in one projection; for a record as a whole, the greatest of its outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Counted before: nothing was written.
    Duplicate,
    /// Counted now.
    Applied,
    /// Kept in the parking table, or waiting behind an event that is.
    Parked,
    /// Neither counted nor kept: it must be delivered again.
    Failed,
}

/// The position from which Lambda must deliver a batch again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Checkpoint {
    /// Nowhere: no record failed.
    #[default]
    None,
    /// The lowest position of a failed record. Everything from it on is delivered again.
    At(SequenceNumber),
    /// A failed record has no position, so the whole batch must be delivered again.
    WholeBatch,
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
    /// Records that wait in the parking table or behind an event that does.
    pub parked: u64,
    /// Records to deliver again.
    pub failed: u64,
    /// Aggregates whose rows were re-projected.
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

    /// The age of the oldest event counted, in milliseconds: how far the rows were behind the event store. `None` if no event was counted,
    /// because a redelivery says nothing about lag. An event from the future, by its writer's clock, has age 0.
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

/// The outcome of a batch of records.
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
    /// From where the batch must be delivered again.
    pub checkpoint: Checkpoint,
    /// What it cost.
    pub usage: Usage,
}

impl Report {
    /// How many records had nothing to project.
    #[must_use]
    pub fn ignored_total(&self) -> u64 {
        self.ignored.values().sum()
    }

    /// Adds the outcome of another batch.
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
        match other.checkpoint {
            Checkpoint::None => {}
            Checkpoint::At(position) => self.failed_at(Some(position)),
            Checkpoint::WholeBatch => self.failed_at(None),
        }
    }

    /// The identifier to report as failed, if any: Lambda delivers everything from the lowest one on again. An empty text makes Lambda
    /// deliver the whole batch again.
    #[must_use]
    pub fn item_failure(&self) -> Option<&str> {
        match &self.checkpoint {
            Checkpoint::None => None,
            Checkpoint::At(lowest) => Some(lowest.as_str()),
            Checkpoint::WholeBatch => Some(""),
        }
    }

    /// Notes that the record at a position failed.
    fn failed_at(&mut self, position: Option<SequenceNumber>) {
        self.checkpoint = match (std::mem::take(&mut self.checkpoint), position) {
            (Checkpoint::None, Some(position)) => Checkpoint::At(position),
            (Checkpoint::At(lowest), Some(position)) => Checkpoint::At(lowest.min(position)),
            (Checkpoint::WholeBatch, _) | (_, None) => Checkpoint::WholeBatch,
        };
    }

    /// Writes one summary line for the batch, also if everything failed.
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

/// Accounts for every record of a batch while it is processed: exactly one outcome each.
pub(crate) struct Ledger {
    positions: Vec<Option<SequenceNumber>>,
    outcomes: Vec<Option<Outcome>>,
    report: Report,
}

impl Ledger {
    /// No record has an outcome yet.
    pub fn new(positions: Vec<Option<SequenceNumber>>) -> Self {
        let report = Report { records: positions.len() as u64, ..Report::default() };
        Self { outcomes: vec![None; positions.len()], positions, report }
    }

    /// A record has nothing to project.
    pub fn ignore(&mut self, record: usize, reason: Ignored) {
        assert!(self.outcomes[record].is_none(), "a record that is ignored has no other outcome");
        *self.report.ignored.entry(reason).or_default() += 1;
    }

    /// A record was parked by itself.
    pub fn parked(&mut self, record: usize) {
        self.outcomes[record] = Some(Outcome::Parked);
    }

    /// A record failed by itself.
    pub fn failed(&mut self, record: usize, reason: String) {
        self.outcomes[record] = Some(Outcome::Failed);
        *self.report.reasons.entry(reason).or_default() += 1;
    }

    /// The outcomes of the records of one aggregate in one projection.
    pub fn add(&mut self, projection: &'static str, outcomes: Vec<(usize, Outcome)>, tally: Tally, failure: Option<AdvanceError>) {
        if let Some(error) = failure {
            let failed = outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Failed).count() as u64;
            *self.report.reasons.entry(error.to_string()).or_default() += failed;
        }
        for (record, outcome) in outcomes {
            self.outcomes[record] = self.outcomes[record].max(Some(outcome));
        }
        *self.report.projections.entry(projection).or_default() += tally;
        // A record counts once, whatever number of projections it concerns; what no record brought counts in each.
        let Tally { healed, gaps, reprojected, oldest_ms, .. } = tally;
        self.report.total += Tally { healed, gaps, reprojected, oldest_ms, ..Tally::default() };
    }

    /// The report, once every record has its outcome.
    pub fn into_report(self, usage: Usage) -> Report {
        let mut report = self.report;
        for (outcome, position) in self.outcomes.into_iter().zip(self.positions) {
            if let Some(outcome) = outcome {
                report.total.count(outcome);
                if outcome == Outcome::Failed {
                    report.failed_at(position);
                }
            }
        }
        let Tally { applied, duplicate, parked, failed, .. } = report.total;
        assert_eq!(applied + duplicate + parked + failed + report.ignored_total(), report.records, "every record has exactly one outcome");
        report.usage = usage;
        report
    }
}
