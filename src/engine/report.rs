//! The outcome of every record: exactly one each, all counted.

use std::{collections::BTreeMap, fmt, ops::AddAssign};

use projection_vocabulary::{RecordedEvent, Timestamp};

use crate::{
    engine::{
        act::InstanceCounts,
        decode::{Ignored, SequenceNumber},
        error::AdvanceError,
    },
    store::Usage,
};

/// The outcome of a record in one projection; for a record as a whole, the greatest of its outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Counted before. Nothing was written.
    Duplicate,
    /// Counted now.
    Applied,
    /// Kept in the parking table, or waiting behind an event that is kept there.
    Parked,
    /// Neither counted nor kept, so it must be delivered again.
    Failed,
}

/// The position from which Lambda must deliver a batch again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Checkpoint {
    /// No record failed, so nothing is delivered again.
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
    /// Events counted now that were not in the batch, but were read from the event store.
    pub healed: u64,
    /// Reads of the event store for versions that were missing before a span.
    pub gaps: u64,
    /// Records kept in the parking table, or waiting behind an event that is kept there.
    pub parked: u64,
    /// Records to deliver again.
    pub failed: u64,
    /// Aggregates whose rows were re-projected.
    pub reprojected: u64,
    /// What became of the instances of a process.
    pub instances: InstanceCounts,
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

    /// Records the time of an event that is counted now.
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
        self.instances += other.instances;
        other.oldest_ms.into_iter().for_each(|oldest| self.note_oldest(oldest));
    }
}

/// Records by which an event was changed or deleted.
const REWRITTEN: [Ignored; 3] = [Ignored::Modified, Ignored::Removed, Ignored::Expired];

/// How many event types a report names that no projection handles: enough to see a typing error, and a bound for a stream of them.
pub const UNHANDLED_TYPES_MAX: usize = 20;

/// How many records have each event type that no projection handles: of the first [`UNHANDLED_TYPES_MAX`] types that were met.
///
/// They are for an operator's terminal. Whoever writes events chooses them, so they are no more fit for a log than event data, and
/// `Debug` hides them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UnhandledTypes(BTreeMap<String, u64>);

impl UnhandledTypes {
    /// By event type.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.0
    }

    fn add(&mut self, event_type: String, count: u64) {
        if self.0.len() < UNHANDLED_TYPES_MAX || self.0.contains_key(&event_type) {
            *self.0.entry(event_type).or_default() += count;
        }
    }
}

impl FromIterator<(String, u64)> for UnhandledTypes {
    fn from_iter<I: IntoIterator<Item = (String, u64)>>(counts: I) -> Self {
        let mut all = Self::default();
        counts.into_iter().for_each(|(event_type, count)| all.add(event_type, count));
        all
    }
}

impl fmt::Debug for UnhandledTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} event types", self.0.len())
    }
}

/// The outcome of a batch of records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Records delivered: the sum of `total`'s applied, duplicate, parked and failed records, and of the ignored ones.
    pub records: u64,
    /// Counts by record, regardless of how many projections each concerns.
    pub total: Tally,
    /// Records with nothing to project, by reason.
    pub ignored: BTreeMap<Ignored, u64>,
    /// The event types that no projection handles.
    pub unhandled: UnhandledTypes,
    /// By projection: one record may count in several.
    pub projections: BTreeMap<&'static str, Tally>,
    /// Why records failed, and how many for each reason.
    pub reasons: BTreeMap<String, u64>,
    /// How often a record failed in a projection because a request to the store did: no record and no rule is at fault.
    pub store_failures: u64,
    /// The position from which the batch must be delivered again.
    pub checkpoint: Checkpoint,
    /// The requests and capacity units used.
    pub usage: Usage,
}

impl Report {
    /// How many records had nothing to project.
    #[must_use]
    pub fn ignored_total(&self) -> u64 {
        self.ignored.values().sum()
    }

    /// By how many records an event was changed or deleted in the event store, which must be append-only.
    #[must_use]
    pub fn rewritten(&self) -> u64 {
        REWRITTEN.iter().filter_map(|kind| self.ignored.get(kind)).sum()
    }

    /// Adds the outcome of another batch.
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.total += other.total;
        for (reason, count) in other.ignored {
            *self.ignored.entry(reason).or_default() += count;
        }
        other.unhandled.0.into_iter().for_each(|(event_type, count)| self.unhandled.add(event_type, count));
        for (projection, tally) in other.projections {
            *self.projections.entry(projection).or_default() += tally;
        }
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        self.store_failures += other.store_failures;
        self.usage += other.usage;
        match other.checkpoint {
            Checkpoint::None => {}
            Checkpoint::At(position) => self.failed_at(Some(position)),
            Checkpoint::WholeBatch => self.failed_at(None),
        }
    }

    /// Whether the store failed every event, so that it would fail the next batch, too. A record that is at fault itself never has this
    /// effect.
    #[must_use]
    pub fn store_failed_all(&self) -> bool {
        let Tally { applied, duplicate, parked, failed, .. } = self.total;
        applied + duplicate + parked == 0 && failed > 0 && self.store_failures >= failed
    }

    /// The sequence number to report as failed, if any. Lambda delivers everything from it on again. An empty string makes Lambda
    /// deliver the whole batch again.
    #[must_use]
    pub fn item_failure(&self) -> Option<&str> {
        match &self.checkpoint {
            Checkpoint::None => None,
            Checkpoint::At(lowest) => Some(lowest.as_str()),
            Checkpoint::WholeBatch => Some(""),
        }
    }

    /// Lowers the checkpoint to a failed record's position; `None` means the whole batch.
    fn failed_at(&mut self, position: Option<SequenceNumber>) {
        self.checkpoint = match (std::mem::take(&mut self.checkpoint), position) {
            (Checkpoint::None, Some(position)) => Checkpoint::At(position),
            (Checkpoint::At(lowest), Some(position)) => Checkpoint::At(lowest.min(position)),
            (Checkpoint::WholeBatch, _) | (_, None) => Checkpoint::WholeBatch,
        };
    }

    /// Logs one summary line for the batch, even if everything failed.
    pub fn log(&self) {
        let Tally { applied, duplicate, healed, gaps, parked, failed, reprojected, instances: _, oldest_ms: _ } = self.total;
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
        for kind in REWRITTEN {
            if let Some(records) = self.ignored.get(&kind) {
                tracing::warn!(records, "{kind}");
            }
        }
    }
}

/// Accounts for the records of a batch while they are processed: each gets exactly one outcome.
pub(crate) struct Ledger {
    positions: Vec<Option<SequenceNumber>>,
    outcomes: Vec<Option<Outcome>>,
    report: Report,
}

impl Ledger {
    /// A ledger in which no record has an outcome yet.
    pub fn new(positions: Vec<Option<SequenceNumber>>) -> Self {
        let report = Report { records: positions.len() as u64, ..Report::default() };
        Self { outcomes: vec![None; positions.len()], positions, report }
    }

    /// Counts a record that has nothing to project.
    pub fn ignore(&mut self, record: usize, reason: Ignored) {
        assert!(self.outcomes[record].is_none(), "a record that is ignored has no other outcome");
        *self.report.ignored.entry(reason).or_default() += 1;
    }

    /// Counts an event of a type that no projection handles.
    pub fn ignore_type(&mut self, record: usize, event_type: &str) {
        self.ignore(record, Ignored::UnknownType);
        self.report.unhandled.add(event_type.to_owned(), 1);
    }

    /// Notes that a record was parked by itself.
    pub fn parked(&mut self, record: usize) {
        self.outcomes[record] = Some(Outcome::Parked);
    }

    /// Notes that a record failed by itself.
    pub fn failed(&mut self, record: usize, reason: String) {
        self.outcomes[record] = Some(Outcome::Failed);
        *self.report.reasons.entry(reason).or_default() += 1;
    }

    /// Adds the outcomes of the records of one aggregate in one projection.
    pub fn add(&mut self, projection: &'static str, outcomes: Vec<(usize, Outcome)>, tally: Tally, failure: Option<AdvanceError>) {
        if let Some(error) = failure {
            let failed = outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Failed).count() as u64;
            *self.report.reasons.entry(error.to_string()).or_default() += failed;
            self.report.store_failures += if matches!(error, AdvanceError::Store(_)) { failed } else { 0 };
        }
        for (record, outcome) in outcomes {
            self.outcomes[record] = self.outcomes[record].max(Some(outcome));
        }
        *self.report.projections.entry(projection).or_default() += tally;
        // A record counts once, regardless of how many projections it concerns. Events read from the event store count in each.
        let Tally { healed, gaps, reprojected, instances, oldest_ms, .. } = tally;
        self.report.total += Tally { healed, gaps, reprojected, instances, oldest_ms, ..Tally::default() };
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

#[cfg(test)]
mod tests {
    use super::{
        Outcome::{Applied, Duplicate, Failed, Parked},
        *,
    };

    /// A ledger of records at these positions; the empty text is none.
    fn ledger(positions: &[&str]) -> Ledger {
        Ledger::new(positions.iter().map(|position| (!position.is_empty()).then(|| SequenceNumber::from(*position))).collect())
    }

    /// Adds the outcomes of one aggregate in one projection, as its lane counts them.
    fn add(ledger: &mut Ledger, projection: &'static str, outcomes: &[(usize, Outcome)]) {
        let mut tally = Tally::default();
        for (_, outcome) in outcomes {
            tally.count(*outcome);
        }
        let failure = (tally.failed > 0).then_some(AdvanceError::Unexplained);
        ledger.add(projection, outcomes.to_vec(), tally, failure);
    }

    /// The checkpoint of a batch whose records at these positions failed, among others that did not.
    fn checkpoint_of(failed: &[&str]) -> Checkpoint {
        let mut ledger = ledger(&[&["1"], failed, &["2"]].concat());
        add(&mut ledger, "p", &[(0, Applied), (failed.len() + 1, Duplicate)]);
        (1..=failed.len()).for_each(|record| ledger.failed(record, "a reason".to_owned()));
        ledger.into_report(Usage::default()).checkpoint
    }

    fn at(position: &str) -> Checkpoint {
        Checkpoint::At(position.into())
    }

    /// applied, duplicate, parked, failed
    fn counts(tally: Tally) -> [u64; 4] {
        [tally.applied, tally.duplicate, tally.parked, tally.failed]
    }

    #[test]
    fn a_batch_is_delivered_again_from_the_lowest_failed_record() {
        assert_eq!(checkpoint_of(&[]), Checkpoint::None);
        assert_eq!(checkpoint_of(&["7"]), at("7"));
        for order in [["9", "10", "100"], ["100", "10", "9"], ["10", "9", "100"]] {
            assert_eq!(checkpoint_of(&order), at("9"), "positions are numbers");
        }
    }

    #[test]
    fn a_failed_record_without_a_position_makes_the_whole_batch_come_again() {
        for order in [&[""][..], &["", "9"], &["9", ""], &["9", "", "8"]] {
            assert_eq!(checkpoint_of(order), Checkpoint::WholeBatch, "{order:?}");
        }
    }

    #[test]
    fn the_failure_reported_to_lambda_is_the_checkpoint() {
        let reported = |checkpoint| Report { checkpoint, ..Report::default() }.item_failure().map(str::to_owned);
        assert_eq!(reported(Checkpoint::None), None);
        assert_eq!(reported(at("9")).as_deref(), Some("9"));
        assert_eq!(reported(Checkpoint::WholeBatch).as_deref(), Some(""));
    }

    #[test]
    fn of_two_batches_the_lower_checkpoint_counts() {
        let table = [
            (Checkpoint::None, Checkpoint::None, Checkpoint::None),
            (Checkpoint::None, at("9"), at("9")),
            (at("9"), Checkpoint::None, at("9")),
            (at("9"), at("10"), at("9")),
            (at("10"), at("9"), at("9")),
            (at("9"), Checkpoint::WholeBatch, Checkpoint::WholeBatch),
            (Checkpoint::WholeBatch, at("9"), Checkpoint::WholeBatch),
        ];
        for (one, two, both) in table {
            let mut report = Report { checkpoint: one, ..Report::default() };
            report.add(Report { checkpoint: two, ..Report::default() });
            assert_eq!(report.checkpoint, both);
        }
    }

    #[test]
    fn a_record_counts_once_whatever_number_of_projections_it_concerns() {
        let mut ledger = ledger(&["1", "2", "3"]);
        add(&mut ledger, "one", &[(0, Applied), (1, Applied), (2, Duplicate)]);
        add(&mut ledger, "two", &[(0, Applied)]);
        add(&mut ledger, "two", &[(1, Duplicate), (2, Duplicate)]);
        let report = ledger.into_report(Usage::default());
        assert_eq!((report.records, counts(report.total)), (3, [2, 1, 0, 0]));
        assert_eq!(counts(report.projections["one"]), [2, 1, 0, 0]);
        assert_eq!(counts(report.projections["two"]), [1, 2, 0, 0]);
    }

    #[test]
    fn the_worst_outcome_of_a_record_in_any_projection_is_its_own() {
        let from_best = [Duplicate, Applied, Parked, Failed];
        for (at, worst) in from_best.into_iter().enumerate() {
            for other in &from_best[..=at] {
                for (one, two) in [(*other, worst), (worst, *other)] {
                    let mut ledger = ledger(&["1"]);
                    add(&mut ledger, "one", &[(0, one)]);
                    add(&mut ledger, "two", &[(0, two)]);
                    let mut expected = Tally::default();
                    expected.count(worst);
                    assert_eq!(ledger.into_report(Usage::default()).total, expected, "{one:?} and {two:?}");
                }
            }
        }
    }

    #[test]
    fn what_no_record_brought_counts_in_each_projection() {
        let mut ledger = ledger(&["1"]);
        let tally = |oldest_ms| Tally { applied: 1, healed: 3, gaps: 1, reprojected: 1, oldest_ms, ..Tally::default() };
        ledger.add("one", vec![(0, Applied)], tally(Some(2_000)), None);
        ledger.add("two", vec![(0, Applied)], tally(Some(1_000)), None);
        let expected = Tally { applied: 1, healed: 6, gaps: 2, reprojected: 2, oldest_ms: Some(1_000), ..Tally::default() };
        assert_eq!(ledger.into_report(Usage::default()).total, expected);
    }

    #[test]
    fn records_that_are_ignored_parked_or_failed_by_themselves_count_in_no_projection() {
        let mut ledger = ledger(&["1", "2", "3", "4"]);
        ledger.ignore(0, Ignored::NotAnEvent);
        ledger.ignore(1, Ignored::NotAnEvent);
        ledger.parked(2);
        ledger.failed(3, "a reason".to_owned());
        let report = ledger.into_report(Usage::default());
        assert_eq!((report.ignored_total(), counts(report.total)), (2, [0, 0, 1, 1]));
        assert_eq!((report.projections, report.checkpoint), (BTreeMap::new(), at("4")));
        assert_eq!(report.reasons, [("a reason".to_owned(), 1)].into());
    }

    #[test]
    fn a_reason_counts_the_records_that_failed_for_it() {
        let mut ledger = ledger(&["1", "2", "3", "4"]);
        add(&mut ledger, "one", &[(0, Applied), (1, Failed), (2, Failed)]);
        add(&mut ledger, "one", &[(3, Failed)]);
        let report = ledger.into_report(Usage::default());
        assert_eq!(report.reasons, [(AdvanceError::Unexplained.to_string(), 3)].into());
    }

    #[test]
    #[should_panic(expected = "every record has exactly one outcome")]
    fn a_record_without_an_outcome_is_a_broken_invariant() {
        let mut ledger = ledger(&["1", "2"]);
        add(&mut ledger, "p", &[(0, Applied)]);
        drop(ledger.into_report(Usage::default()));
    }

    #[test]
    fn event_types_that_no_projection_handles_are_named_up_to_a_bound() {
        let mut ledger = Ledger::new(vec![None; 30]);
        for record in 0..30 {
            ledger.ignore_type(record, &format!("Type{:02}", record.min(24)));
        }
        let mut report = ledger.into_report(Usage::default());
        assert_eq!((report.ignored[&Ignored::UnknownType], report.unhandled.counts().len()), (30, UNHANDLED_TYPES_MAX));
        assert_eq!(format!("{:?}", report.unhandled), "20 event types");
        let mut again = Ledger::new(vec![None; 2]);
        again.ignore_type(0, "Type00");
        again.ignore_type(1, "Type24");
        report.add(again.into_report(Usage::default()));
        assert_eq!((report.unhandled.counts()["Type00"], report.unhandled.counts().get("Type24")), (2, None));
    }

    #[test]
    #[should_panic(expected = "a record that is ignored has no other outcome")]
    fn a_record_that_is_ignored_and_counted_is_a_broken_invariant() {
        let mut ledger = ledger(&["1"]);
        add(&mut ledger, "p", &[(0, Applied)]);
        ledger.ignore(0, Ignored::UnknownType);
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_event_counted() {
        let now = Timestamp::from_epoch_ms(10_000).expect("a time");
        let lag_ms = |oldest_ms| Tally { oldest_ms, ..Tally::default() }.lag_ms(&now);
        assert_eq!([lag_ms(None), lag_ms(Some(7_000)), lag_ms(Some(11_000))], [None, Some(3_000), Some(0)]);
    }

    #[test]
    fn the_store_is_down_only_if_every_event_failed_because_of_it() {
        let failed_all = |[applied, duplicate, parked, failed]: [u64; 4], store_failures| {
            let total = Tally { applied, duplicate, parked, failed, ..Tally::default() };
            Report { total, store_failures, ..Report::default() }.store_failed_all()
        };
        assert!(failed_all([0, 0, 0, 2], 2));
        assert!(failed_all([0, 0, 0, 2], 3), "one record failed in two projections");
        assert!(!failed_all([0, 0, 0, 2], 1), "one of them is at fault itself");
        for one_went_well in [[1, 0, 0, 2], [0, 1, 0, 2], [0, 0, 1, 2]] {
            assert!(!failed_all(one_went_well, 2));
        }
        assert!(!failed_all([0; 4], 0), "there was nothing to do");
    }
}
