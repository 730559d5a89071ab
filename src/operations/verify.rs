//! Proves a read model: every home row and its child rows against the fold of its history, every shared row against what was
//! contributed to it. Repairs what it finds, if asked.
//!
//! It runs while the worker runs. A home row is one item and a history only grows, so the two can be compared at any time: the fold is
//! taken at the row's version. Findings that depend on the time between two reads (a row that is behind or missing) are checked again
//! before they are reported.
//!
//! It works in steps ([`parts`]), all in one process here. The Lambda does them in as many invocations as it needs.

mod attributes;
mod children;
#[cfg(feature = "cli")]
mod chosen;
#[cfg(feature = "cli")]
pub mod diff;
#[cfg(feature = "cli")]
pub mod instances;
pub mod parts;
mod sums;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::{
    AggregateId, Cell, Contribution, Contributions, Decimal, DynProjection, HomeRow, Kind, Mark, RowId, RowKey, Sums, Version,
};
use serde::{Deserialize, Serialize};

#[cfg(feature = "cli")]
pub use chosen::verify_chosen;
use parts::{Finding, Part, Progress, Totals, WrongCell};
use sums::Difference;

use crate::{
    engine::{
        reproject::{FoldStop, HistoryFold, Trust, fold_history},
        worker::{CONCURRENCY, Worker},
    },
    operations::{
        catch_up::{Standing, catch_up, is_behind},
        error::{OperationError, refuse_newer_revision},
        footing::{Doubt, Footing},
        histories::Visit,
        settle::settle,
    },
    retry::Deadline,
    store::Store,
};

/// When rows that are behind are checked again: a running worker moves them within that time.
const CHECK_AGAIN_AFTER: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_millis(1_500)];

/// What is wrong with an aggregate's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RowFinding {
    /// The aggregate has events and no row.
    Missing,
    /// The row is not the fold of its history.
    Drifted,
    /// The row stands on events that the event store does not have.
    Ahead,
    /// Events that the row does not count follow, and the row does not move.
    Behind,
    /// An older revision of the rule wrote the row.
    Outdated,
    /// The row waits before an event that cannot be applied.
    Parked,
    /// The event store has no event of the row's aggregate.
    Orphaned,
}

impl RowFinding {
    /// All findings.
    pub const ALL: [Self; 7] = [Self::Missing, Self::Drifted, Self::Ahead, Self::Behind, Self::Outdated, Self::Parked, Self::Orphaned];

    /// The finding in one word.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Drifted => "drifted",
            Self::Ahead => "ahead",
            Self::Behind => "behind",
            Self::Outdated => "outdated",
            Self::Parked => "parked",
            Self::Orphaned => "orphaned",
        }
    }
}

/// What is wrong with a child row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChildFinding {
    /// The fold of its aggregate's history has it, and the table does not.
    Missing,
    /// It is not what the fold has.
    Different,
    /// The fold does not have it.
    Extra,
    /// The event store has no event of its aggregate.
    Orphaned,
}

impl ChildFinding {
    /// The finding in one word.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Different => "different",
            Self::Extra => "extra",
            Self::Orphaned => "orphaned",
        }
    }
}

/// What is wrong with an attribute of a shared row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedFinding {
    /// It is higher by this amount than what was contributed to it.
    Sum(Decimal),
    /// It lacks a value that `max` or `insert` operations contribute to it.
    Lower,
    /// It holds a value that no `max` or `insert` operation contributes to it.
    Higher,
    /// No aggregate has anything to do with it, and it is zero or empty.
    LeftOver,
    /// A contribution to it was taken back, so it may be too high.
    TakenBack,
    /// Its contributors never stood still long enough to tell. Check again when there is less traffic.
    Unsettled,
}

impl SharedFinding {
    /// The finding in one word.
    #[must_use]
    pub fn text(&self) -> &'static str {
        match self {
            Self::Sum(_) => "sum",
            Self::Lower => "lower",
            Self::Higher => "higher",
            Self::LeftOver => "leftOver",
            Self::TakenBack => "takenBack",
            Self::Unsettled => "unsettled",
        }
    }
}

/// How to verify.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many segments of the event store are read at once.
    pub segments: u32,
    /// Check about this percentage of rows and skip sums; `None` checks everything.
    pub sample: Option<u32>,
    /// What to repair.
    pub repair: Repair,
}

/// What to do about findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing: only report them.
    Nothing,
    /// Repair them, unless the event store lacks the events of so many rows that it may be the wrong one: see [`Footing::doubt`].
    Findings,
    /// Repair them, however many rows that takes back. For use after a restore of the event store.
    AllOrphans,
}

impl Repair {
    /// Whether to repair what was found, given what speaks against it.
    fn may(self, doubt: Option<&Doubt>) -> bool {
        match self {
            Self::Nothing => false,
            Self::Findings => doubt.is_none(),
            Self::AllOrphans => true,
        }
    }
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Events read.
    pub events: u64,
    /// Aggregates whose events were read.
    pub aggregates: u64,
    /// Rows of the read model read, shared ones and child rows included.
    pub rows: u64,
    /// Sums that were compared with the contributions to them.
    pub sums: u64,
    /// What is wrong with home rows.
    pub home: BTreeMap<AggregateId, RowFinding>,
    /// What is wrong with shared rows.
    pub shared: BTreeMap<Cell, SharedFinding>,
    /// What is wrong with child rows, where their home row is at a version that the event store has.
    pub children: BTreeMap<RowId, ChildFinding>,
    /// How many of the findings were repaired.
    pub repaired: u64,
    /// Chosen aggregates of which there is neither an event nor a row.
    pub unknown: BTreeSet<AggregateId>,
    /// How many rows stand on events that the event store has.
    pub footing: Footing,
    /// Why the event store may be the wrong one; [`Repair::Findings`] then repairs nothing.
    pub doubt: Option<Doubt>,
}

impl Verified {
    /// Whether every checked row is right, now.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unknown.is_empty() && self.repaired == self.found()
    }

    /// How many findings there are.
    #[must_use]
    pub fn found(&self) -> u64 {
        (self.home.len() + self.shared.len() + self.children.len()) as u64
    }

    /// How many of these findings another look does not have.
    fn gone_in(&self, again: &Self) -> u64 {
        let home = self.home.keys().filter(|id| !again.home.contains_key(*id)).count();
        let shared = self.shared.keys().filter(|cell| !again.shared.contains_key(*cell)).count();
        (home + shared + self.children.keys().filter(|id| !again.children.contains_key(*id)).count()) as u64
    }

    fn add(&mut self, finding: Finding, amounts: &mut Amounts) {
        match finding {
            Finding::Home { id, finding, drift } => {
                self.home.insert(id.clone(), finding);
                if !drift.is_empty() {
                    amounts.drifts.insert(id, drift);
                }
            }
            Finding::Child(id, finding) => _ = self.children.insert(id, finding),
            Finding::Shared(WrongCell { cell, finding, difference, unsettled }) => {
                self.shared.extend(finding.map(|finding| (cell.clone(), finding)));
                amounts.differences.extend(difference.map(|difference| (cell.clone(), difference)));
                amounts.unsettled.extend(unsettled.map(|kind| (cell, kind)));
            }
        }
    }

    /// Takes what another look has found besides.
    fn extend(&mut self, again: Self) {
        self.home.extend(again.home);
        self.shared.extend(again.shared);
        self.children.extend(again.children);
    }

    /// How many rows have this finding.
    #[must_use]
    pub fn count(&self, finding: RowFinding) -> u64 {
        self.home.values().filter(|found| **found == finding).count() as u64
    }
}

/// The result of checking one aggregate.
struct Checked {
    finding: Option<RowFinding>,
    children: BTreeMap<RowId, ChildFinding>,
    row: HomeRow,
    /// The contributions that the row must have at its version.
    contributions: Option<Contributions>,
}

impl Checked {
    /// Whether a running worker may be about to mend it.
    fn waits(&self) -> bool {
        matches!(self.finding, Some(RowFinding::Behind | RowFinding::Missing))
    }
}

/// What is wrong, in the amounts that a repair needs.
#[derive(Default)]
struct Amounts {
    /// How much more shared rows hold than was contributed to them.
    differences: BTreeMap<Cell, Difference>,
    /// How much more home rows say they have contributed than their histories do.
    drifts: BTreeMap<AggregateId, Sums>,
    /// The attributes of shared rows that are to be settled, and how they are combined.
    unsettled: BTreeMap<Cell, Kind>,
}

/// Compares every row of a projection with the event store, and repairs what is found if asked and if nothing speaks against it
/// ([`Verified::doubt`]).
///
/// A row that an older revision wrote is outdated, whatever it holds. A parked row is compared at the version where it waits, and only a
/// redrive repairs it.
///
/// # Errors
/// [`OperationError`]: nothing is known. What was repaired stays repaired.
pub async fn verify(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    options: Options,
    deadline: Deadline,
) -> Result<Verified, OperationError> {
    Verification { worker, rule, deadline }.run(options).await
}

/// A verification of one projection.
#[derive(Clone, Copy)]
struct Verification<'a> {
    worker: &'a Worker,
    rule: &'static dyn DynProjection,
    deadline: Deadline,
}

impl Verification<'_> {
    fn store(&self) -> &Store {
        self.worker.store()
    }

    async fn run(&self, options: Options) -> Result<Verified, OperationError> {
        let start = Progress::start(options.segments, options.sample);
        let (mut verified, amounts) = self.look(start.clone()).await?;
        if verified.found() > 0 && options.repair.may(verified.doubt.as_ref()) {
            self.repair(&verified, amounts).await?;
            // What is repaired is what a second look no longer finds.
            let (again, _) = self.look(start).await?;
            verified.repaired = verified.gone_in(&again);
            verified.extend(again);
        }
        Ok(verified)
    }

    async fn look(&self, start: Progress) -> Result<(Verified, Amounts), OperationError> {
        let (mut verified, mut amounts) = (Verified::default(), Amounts::default());
        let mut part = Part::new(self.worker, self.rule, start, self.deadline);
        while !part.progress().is_done() {
            for finding in part.step().await? {
                verified.add(finding, &mut amounts);
            }
        }
        let Totals { events, aggregates, rows, sums, footing, .. } = part.progress().totals;
        let doubt = footing.doubt(self.store(), self.rule);
        Ok((Verified { events, aggregates, rows, sums, footing, doubt, ..verified }, amounts))
    }

    /// The aggregates of these histories that give reason to be checked.
    async fn suspects(&self, visits: Vec<Visit>) -> Result<BTreeSet<AggregateId>, OperationError> {
        let mut suspects = BTreeSet::new();
        for Visit { aggregate, row, folded, beyond, first, .. } in &visits {
            refuse_newer_revision(self.rule, row)?;
            let outdated = row.is_outdated(self.rule.revision());
            // A history without its first event may be a part of it.
            if outdated || *first != Version::NONE.next() || row.parked_at.is_some() || *beyond > 0 || compared(row, folded).is_some() {
                suspects.insert(aggregate.clone());
            }
        }
        suspects.extend(self.suspect_children(visits).await?);
        Ok(suspects)
    }

    /// Checks aggregates by consistent reads. Those that are behind are checked again, until they move or their time is up.
    async fn check_until_they_move(&self, ids: BTreeSet<AggregateId>) -> Result<BTreeMap<AggregateId, Checked>, OperationError> {
        let mut all = self.check_all(ids).await?;
        for pause in CHECK_AGAIN_AFTER {
            let waiting: BTreeSet<_> = all.iter().filter(|(_, checked)| checked.waits()).map(|(id, _)| id.clone()).collect();
            if waiting.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            for (id, mut checked) in self.check_all(waiting).await? {
                if checked.waits() && checked.row.version != all[&id].row.version {
                    checked.finding = None;
                }
                all.insert(id, checked);
            }
        }
        Ok(all)
    }

    async fn check_all(&self, ids: BTreeSet<AggregateId>) -> Result<BTreeMap<AggregateId, Checked>, OperationError> {
        let checks = ids.into_iter().map(|id| async {
            let checked = self.check(&id).await?;
            Ok((id, checked))
        });
        stream::iter(checks).buffer_unordered(CONCURRENCY).try_collect().await
    }

    async fn check(&self, id: &AggregateId) -> Result<Checked, OperationError> {
        let Self { worker, rule, deadline } = *self;
        let row = self.store().home_row(rule, id, deadline).await?;
        refuse_newer_revision(rule, &row)?;
        if row.is_outdated(rule.revision()) {
            let finding = if row.parked_at.is_some() { RowFinding::Parked } else { RowFinding::Outdated };
            return Ok(Checked { finding: Some(finding), row, contributions: None, children: BTreeMap::new() });
        }
        let folded = fold_history(self.store(), rule, id, row.version, deadline).await?;
        let mut checked =
            Checked { finding: compared(&row, &folded), contributions: Some(folded.row().contributions), children: BTreeMap::new(), row };
        if checked.finding == Some(RowFinding::Ahead) && folded.due == Version::NONE.next() && !self.has_events(id).await? {
            checked.finding = Some(RowFinding::Orphaned);
        }
        checked.children = self.check_children(id, &checked.row, folded).await?;
        if checked.finding.is_none() && checked.row.parked_at.is_some() {
            checked.finding = Some(RowFinding::Parked);
        }
        if checked.finding.is_none() && is_behind(worker, rule, id, &checked.row, deadline).await? {
            checked.finding = Some(if checked.row.version == Version::NONE { RowFinding::Missing } else { RowFinding::Behind });
        }
        match checked.finding {
            // They are what they were when their home row was lost.
            Some(RowFinding::Missing) => checked.children.clear(),
            None if checked.row.version == Version::NONE && !checked.children.is_empty() && !self.has_events(id).await? => {
                checked.children.values_mut().for_each(|finding| *finding = ChildFinding::Orphaned);
            }
            _ => {}
        }
        Ok(checked)
    }

    /// Brings home rows in line with their histories, and returns those that are.
    async fn repair_rows(&self, verified: &Verified) -> Result<Vec<AggregateId>, OperationError> {
        let Self { worker, rule, deadline } = *self;
        let mut ways: BTreeMap<_, _> =
            verified.children.keys().map(|child| (AggregateId::from(child.key.as_str()), Trust::Store)).collect();
        for (id, finding) in &verified.home {
            ways.entry(id.clone()).or_insert(if *finding == RowFinding::Behind { Trust::Row } else { Trust::Store });
        }
        let repaired = ways.into_iter().map(|(id, trust)| async move {
            let caught_up = catch_up(worker, rule, &id, trust, deadline).await?;
            Ok::<_, OperationError>((caught_up.standing == Standing::Head).then_some(id))
        });
        let repaired: Vec<_> = stream::iter(repaired).buffer_unordered(CONCURRENCY).try_collect().await?;
        Ok(repaired.into_iter().flatten().collect())
    }

    async fn repair(&self, verified: &Verified, amounts: Amounts) -> Result<(), OperationError> {
        let Self { rule, deadline, .. } = *self;
        let Amounts { differences, mut drifts, unsettled } = amounts;
        for id in self.repair_rows(verified).await? {
            drifts.remove(&id);
        }
        // A row that was re-projected corrects its sums by as much as its contributions had drifted. A parked row will do so when it is
        // redriven: until then its sums are left alone.
        let mut rows: BTreeMap<&RowKey, (BTreeMap<String, Decimal>, &str)> = BTreeMap::new();
        for (cell, Difference { amount, corrected }) in &differences {
            if drifts.values().any(|drift| drift.contains_key(cell)) {
                continue;
            }
            rows.entry(&cell.0).or_insert_with(|| (BTreeMap::new(), corrected)).0.insert(cell.1.clone(), -amount);
        }
        for (row, (by, corrected)) in rows {
            self.store().correct_sums(rule, row, &by, corrected, deadline).await?;
        }
        // Nobody may have contributed to what is corrected to zero.
        let zero = differences.keys().map(|cell| (cell, Kind::Sum));
        for (cell, kind) in unsettled.iter().map(|(cell, kind)| (cell, *kind)).chain(zero) {
            self.store().unsettle(rule, cell, Mark { kind, revision: rule.revision() }, deadline).await?;
        }
        settle(self.store(), rule, deadline).await?;
        Ok(())
    }
}

/// A row of the current revision is compared at the version that it has.
fn up_to(rule: &dyn DynProjection, row: &HomeRow) -> Version {
    if row.revision == rule.revision() { row.version } else { Version::NONE }
}

/// What is wrong with a row of the current revision, by the fold of the event store's history up to its version.
fn compared(row: &HomeRow, folded: &HistoryFold) -> Option<RowFinding> {
    if folded.due <= row.version {
        let poison = folded.stop.as_ref().is_some_and(FoldStop::is_poison);
        return Some(if poison { RowFinding::Drifted } else { RowFinding::Ahead });
    }
    (!row.is_same_as(&folded.row())).then_some(RowFinding::Drifted)
}

/// By how much the sums among contributions exceed the right ones.
fn drift(contributions: &Contributions, right: &Contributions) -> Sums {
    let mut drift = Sums::new();
    let sum = |contribution: &Contribution| if let Contribution::Sum(amount) = contribution { Some(amount.clone()) } else { None };
    for (cell, contribution) in contributions {
        drift.extend(sum(contribution).map(|amount| (cell.clone(), amount)));
    }
    for (cell, contribution) in right {
        if let Some(amount) = sum(contribution) {
            *drift.entry(cell.clone()).or_default() -= &amount;
        }
    }
    drift.retain(|_, amount| !amount.is_zero());
    drift
}

#[cfg(test)]
mod tests;
