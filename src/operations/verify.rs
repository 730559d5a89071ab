//! Proves a read model: every home row against the fold of its history, every shared row against what was contributed to it. Repairs
//! what it finds, if asked.
//!
//! It runs while the worker runs. A home row is one item and a history only grows, so the two can be compared at any time: the
//! fold is taken at the row's version. A shared row is compared with what the home rows say they have contributed to it. Findings that depend on the time between two reads (a row behind, missing, or ahead of what
//! was scanned) are checked again before they are reported. Child rows are compared with the same fold as their home row.

mod children;
#[cfg(feature = "cli")]
mod chosen;
#[cfg(feature = "cli")]
pub mod diff;
mod monotone;
mod sums;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::{
    AggregateId, Cell, Contribution, Contributions, Decimal, DynProjection, HomeRow, Kind, Mark, RowId, RowKey, Sums, Value, Version,
};

use children::Homes;
#[cfg(feature = "cli")]
pub use chosen::verify_chosen;
use sums::Difference;

use crate::{
    engine::{
        reproject::{FoldStop, HistoryFold, Trust, fold_history},
        worker::{CONCURRENCY, Worker},
    },
    operations::{
        catch_up::{Standing, catch_up, is_behind},
        contributions::Contributed,
        error::{OperationError, refuse_newer_revision},
        footing::{Doubt, Footing},
        histories::{Histories, Visit},
        settle::settle,
    },
    retry::Deadline,
    store::{
        Store,
        home::{Row, SharedCell},
        segment::Segment,
    },
};

/// When rows that are behind are checked again: a running worker moves them within that time.
const CHECK_AGAIN_AFTER: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_millis(1_500)];
/// Into how many segments a table is cut for a sample.
const SAMPLED_SEGMENTS: u32 = 100;

/// What is wrong with an aggregate's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// What a scan of histories or rows gives reason to check.
#[derive(Default)]
struct Suspects {
    events: u64,
    aggregates: u64,
    rows: u64,
    footing: Footing,
    home: BTreeSet<AggregateId>,
    cells: Cells,
}

/// Shared rows and what is contributed to them, as far as a scan can tell.
#[derive(Default)]
struct Cells {
    contributed: Contributed,
    held: BTreeMap<Cell, SharedCell>,
}

impl Cells {
    fn add(&mut self, Row { key, home, shared, .. }: Row) {
        self.contributed.add(&home, |_| true);
        self.held.extend(shared.into_iter().map(|(attribute, cell)| ((key.clone(), attribute), cell)));
    }

    /// How many sums there are, and those that are not what is contributed to them.
    fn doubtful_sums(&self) -> (u64, BTreeSet<Cell>) {
        let mut balances = Sums::new();
        for (cell, contribution) in self.contributed.cells() {
            if let Contribution::Sum(amount) = contribution {
                *balances.entry(cell.clone()).or_default() -= amount;
            }
        }
        for (cell, SharedCell { value, mark, .. }) in &self.held {
            // An attribute without a mark is a sum only if somebody says so.
            let sum = mark.map_or_else(|| balances.contains_key(cell), |mark| mark.kind == Kind::Sum);
            if let Some(Value::Number(amount)) = value
                && sum
            {
                *balances.entry(cell.clone()).or_default() += amount;
            }
        }
        let sums = balances.len() as u64;
        balances.retain(|_, amount| !amount.is_zero());
        (sums, balances.into_keys().collect())
    }
}

impl AddAssign for Suspects {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.aggregates += other.aggregates;
        self.home.extend(other.home);
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
        let segments: Vec<_> = match options.sample {
            None => Segment::all(options.segments).collect(),
            Some(percent) => sampled(percent),
        };
        let (mut verified, amounts) = self.look(&segments, options).await?;
        let wrong = verified.found() > 0;
        let repairs = match options.repair {
            Repair::Nothing => false,
            Repair::Findings => verified.doubt.is_none(),
            Repair::AllOrphans => true,
        };
        if repairs && wrong {
            self.repair(&verified, amounts).await?;
            // What is repaired is what a second look no longer finds.
            let (again, _) = self.look(&segments, options).await?;
            verified.repaired = verified.gone_in(&again);
            verified.extend(again);
        }
        Ok(verified)
    }

    async fn look(&self, segments: &[Segment], options: Options) -> Result<(Verified, Amounts), OperationError> {
        let mut suspects = Suspects::default();
        let scans = segments.iter().map(|segment| self.suspect_histories(*segment));
        let scans: Vec<_> = stream::iter(scans).buffer_unordered(options.segments.max(1) as usize).try_collect().await?;
        for scan in scans {
            suspects += scan;
        }
        let row_segments = if options.sample.is_some() { segments } else { &[Segment::ALL] };
        for segment in row_segments {
            self.suspect_rows(*segment, &mut suspects).await?;
        }
        let Suspects { events, aggregates, rows, footing, home, cells } = suspects;
        let doubt = footing.doubt(self.store(), self.rule);
        let mut verified = Verified { events, aggregates, rows, footing, doubt, ..Verified::default() };
        let mut amounts = Amounts { drifts: self.check_home_rows(home, &mut verified).await?, ..Amounts::default() };
        // A sample of rows does not tell what is contributed.
        if options.sample.is_none() {
            let (sums, doubtful) = cells.doubtful_sums();
            verified.sums = sums;
            let (known, unsettled) = self.differences(doubtful).await?;
            amounts.differences = known;
            verified.shared.extend(unsettled.into_iter().map(|cell| (cell, SharedFinding::Unsettled)));
            for (cell, amount) in surplus(&amounts) {
                verified.shared.insert(cell, SharedFinding::Sum(amount));
            }
            for (cell, (finding, kind)) in self.check_monotone(&cells).await? {
                verified.shared.entry(cell.clone()).or_insert(finding);
                amounts.unsettled.insert(cell, kind);
            }
        }
        Ok((verified, amounts))
    }

    /// Reads the histories of a segment.
    async fn suspect_histories(&self, segment: Segment) -> Result<Suspects, OperationError> {
        let (mut suspects, mut next) = (Suspects::default(), None);
        let mut histories = Histories::new(self.rule, up_to);
        loop {
            self.deadline.check()?;
            let (page, after) = self.store().scan_events(segment, next.as_ref(), self.deadline).await?;
            suspects.events += page.len() as u64;
            let ended = histories.page(self.store(), page, self.deadline).await?;
            self.suspect(ended, &mut suspects).await?;
            next = after;
            if next.is_none() {
                break;
            }
        }
        self.suspect(histories.end().into_iter().collect(), &mut suspects).await?;
        Ok(suspects)
    }

    async fn suspect(&self, visits: Vec<Visit>, suspects: &mut Suspects) -> Result<(), OperationError> {
        for visit in &visits {
            suspects.visit(self.rule, visit)?;
        }
        self.suspect_children(visits, suspects).await
    }

    /// Reads the rows of a segment: do they stand on events, and what do they hold and contribute?
    async fn suspect_rows(&self, segment: Segment, suspects: &mut Suspects) -> Result<(), OperationError> {
        let (mut next, mut homes) = (None, Homes::default());
        loop {
            self.deadline.check()?;
            let page = self.store().scan_rows(self.rule, segment, next, self.deadline).await?;
            suspects.rows += page.rows.len() as u64 + page.children.values().sum::<u64>();
            self.suspect_orphaned_children(homes.without(&page), suspects).await?;
            suspects.home.extend(suspects.footing.count(self.store(), &page.rows, self.deadline).await?);
            for row in page.rows {
                // It contributes without having a version, if its re-projection is unfinished.
                if row.home.unfinished.is_some() {
                    suspects.home.insert(AggregateId::from(row.key.as_str()));
                }
                suspects.cells.add(row);
            }
            next = page.next;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// Checks suspect home rows, notes the findings, and returns by how much contributions have drifted: there the sum is not wrong.
    async fn check_home_rows(
        &self,
        ids: BTreeSet<AggregateId>,
        verified: &mut Verified,
    ) -> Result<BTreeMap<AggregateId, Sums>, OperationError> {
        let mut drifts = BTreeMap::new();
        for (id, Checked { finding, row, contributions, children }) in self.check_until_they_move(ids).await? {
            verified.children.extend(children);
            let Some(finding) = finding else { continue };
            verified.home.insert(id.clone(), finding);
            if finding == RowFinding::Drifted {
                drifts.insert(id, drift(&row.contributions, &contributions.unwrap_or_default()));
            }
        }
        Ok(drifts)
    }

    /// Checks aggregates by consistent reads. Those that are behind are checked again, until they move or their time is up.
    async fn check_until_they_move(&self, ids: BTreeSet<AggregateId>) -> Result<BTreeMap<AggregateId, Checked>, OperationError> {
        let mut all = self.check_all(ids).await?;
        for pause in CHECK_AGAIN_AFTER {
            let waits = |checked: &Checked| matches!(checked.finding, Some(RowFinding::Behind | RowFinding::Missing));
            let waiting: BTreeSet<_> = all.iter().filter(|(_, checked)| waits(checked)).map(|(id, _)| id.clone()).collect();
            if waiting.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            for (id, mut checked) in self.check_all(waiting).await? {
                if waits(&checked) && checked.row.version != all[&id].row.version {
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
        for (cell, Difference { amount, corrected }) in differences.iter().filter(|(_, difference)| !difference.amount.is_zero()) {
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

impl Suspects {
    fn visit(&mut self, rule: &'static dyn DynProjection, visit: &Visit) -> Result<(), OperationError> {
        self.aggregates += 1;
        let Visit { aggregate, row, folded, beyond, first, .. } = visit;
        refuse_newer_revision(rule, row)?;
        let outdated = row.is_outdated(rule.revision());
        let suspect =
            outdated || *first != Version::NONE.next() || row.parked_at.is_some() || *beyond > 0 || compared(row, folded).is_some();
        if suspect {
            self.home.insert(aggregate.clone());
        }
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

/// How much more cells hold than was contributed to them, where drifted contributions do not explain it.
fn surplus(Amounts { differences, drifts, .. }: &Amounts) -> Sums {
    let of = |(cell, Difference { amount, .. }): (&Cell, &Difference)| {
        let mut amount = amount.clone();
        drifts.values().filter_map(|drift| drift.get(cell)).for_each(|drift| amount += drift);
        (cell.clone(), amount)
    };
    let differ = differences.iter().filter(|(_, difference)| !difference.amount.is_zero());
    differ.map(of).filter(|(_, amount)| !amount.is_zero()).collect()
}

/// About this percentage of a table's segments, at random.
fn sampled(percent: u32) -> Vec<Segment> {
    let mut segments: Vec<_> = Segment::all(SAMPLED_SEGMENTS).collect();
    fastrand::shuffle(&mut segments);
    segments.truncate(percent.clamp(1, SAMPLED_SEGMENTS) as usize);
    segments
}
