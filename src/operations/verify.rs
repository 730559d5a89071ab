//! Proving a read model: every home row against the fold of its history, every shared row against what was contributed to it; and
//! mending what is found.
//!
//! It works while the worker does. A home row is one item and a history is only added to, so the two can be compared at any time: the
//! fold is taken at the version that the row says. What depends on the time between two reads (a row behind, missing, or ahead of what
//! was scanned) is looked at again before it is reported.

mod sums;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::{AggregateId, Cell, Change, Decimal, DynProjection, HomeRow, RowKey, Sums, Value, Version};

use sums::Difference;

use crate::{
    engine::{
        lane::newer_revision,
        reproject::{HistoryFold, Stop, fold_history},
        worker::{CONCURRENCY, Worker},
    },
    operations::{
        catch_up::{Failed, Standing, Trust},
        histories::{Pass, Visit},
    },
    retry::Deadline,
    store::{StoreError, home::Row, segment::Segment},
};

/// When rows that are behind are looked at again: a worker that is at work moves them within that time.
const LOOK_AGAIN_AFTER: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_millis(1_500)];
/// Parts of a table that a sample is taken from.
const SAMPLED_SEGMENTS: u32 = 100;

/// What is wrong with an aggregate's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// There are events for it, and it is not there.
    Missing,
    /// It is not the fold of its history.
    Drifted,
    /// It stands on events that the event store does not have.
    Ahead,
    /// Events follow that it does not count, and it does not move.
    Behind,
    /// An older revision of the rule wrote it.
    Outdated,
    /// It waits in front of an event that cannot be applied.
    Parked,
    /// The event store has no event of its aggregate.
    Orphaned,
}

impl Finding {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Missing, Self::Drifted, Self::Ahead, Self::Behind, Self::Outdated, Self::Parked, Self::Orphaned];

    /// In a word.
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

/// What is wrong with an attribute of a shared row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedFinding {
    /// It is so much more than what was contributed to it.
    Sum(Decimal),
    /// It lacks what `max` or `insert` operations put into it.
    Lower,
    /// Its contributors never stood still long enough to tell. Look again when less is going on.
    Unsettled,
}

/// How to verify.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many parts of the event store are read at once.
    pub segments: u32,
    /// Of 100 rows, look at about so many; sums are not looked at then. `None`: at all.
    pub sample: Option<u32>,
    /// Mend what is found.
    pub repair: bool,
}

/// What verifying came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Events read.
    pub events: u64,
    /// Aggregates whose events were read.
    pub aggregates: u64,
    /// Rows of the read model read, shared ones included.
    pub rows: u64,
    /// Sums that were compared with what was contributed to them.
    pub sums: u64,
    /// What is wrong with home rows.
    pub home: BTreeMap<AggregateId, Finding>,
    /// What is wrong with shared rows.
    pub shared: BTreeMap<Cell, SharedFinding>,
    /// How many of the findings were mended.
    pub repaired: u64,
}

impl Verified {
    /// Whether every row that was looked at is as it must be, now.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.repaired == self.home.len() as u64 + self.shared.len() as u64
    }

    /// How many rows have this finding.
    #[must_use]
    pub fn count(&self, finding: Finding) -> u64 {
        self.home.values().filter(|found| **found == finding).count() as u64
    }
}

/// What a pass over histories or rows brings up.
#[derive(Default)]
struct Suspects {
    events: u64,
    aggregates: u64,
    rows: u64,
    home: BTreeSet<AggregateId>,
    /// What shared rows must have been raised to.
    monotone: Change,
    /// What shared rows hold less what was contributed to them, as far as a scan can tell.
    balances: Sums,
}

impl AddAssign for Suspects {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.aggregates += other.aggregates;
        self.rows += other.rows;
        self.home.extend(other.home);
        self.monotone = std::mem::take(&mut self.monotone).then(other.monotone);
        for (cell, amount) in other.balances {
            *self.balances.entry(cell).or_default() += &amount;
        }
    }
}

/// One look at an aggregate.
struct Look {
    finding: Option<Finding>,
    row: HomeRow,
    /// The contributions that the row must have at its version, where they are others than it has.
    contributions: Option<Sums>,
}

impl Worker {
    /// Compares every row of a projection with the event store, and mends what is found if that is asked for.
    ///
    /// A row that an older revision wrote is outdated, whatever it holds; a parked one is compared at the version where it waits, and
    /// mended by a redrive alone.
    ///
    /// # Errors
    /// [`Failed`]: nothing is known. What was mended is mended.
    pub async fn verify(&self, rule: &'static dyn DynProjection, options: Options, deadline: Deadline) -> Result<Verified, Failed> {
        let segments: Vec<_> = match options.sample {
            None => Segment::all(options.segments).collect(),
            Some(percent) => sampled(percent),
        };
        let mut suspects = Suspects::default();
        let passes = segments.iter().map(|segment| self.suspect_histories(rule, *segment, deadline));
        let passes: Vec<_> = stream::iter(passes).buffer_unordered(options.segments.max(1) as usize).try_collect().await?;
        for pass in passes {
            suspects += pass;
        }
        let row_segments = if options.sample.is_some() { segments } else { vec![Segment::ALL] };
        for segment in row_segments {
            suspects += self.suspect_rows(rule, segment, &suspects.monotone, deadline).await?;
        }
        let Suspects { events, aggregates, rows, home, monotone, balances } = suspects;
        let mut verified = Verified { events, aggregates, rows, ..Verified::default() };

        let looks = self.look_until_they_move(rule, home, deadline).await?;
        // Where contributions themselves have drifted, it is not the sum that is wrong.
        let mut drifts = BTreeMap::new();
        for (id, Look { finding, row, contributions }) in looks {
            let Some(finding) = finding else { continue };
            verified.home.insert(id.clone(), finding);
            if finding == Finding::Drifted {
                drifts.insert(id.clone(), drift(row.contributions, &contributions.unwrap_or_default()));
            }
        }
        let mut differences = BTreeMap::new();
        if options.sample.is_none() {
            verified.sums = balances.len() as u64;
            let doubtful = balances.into_iter().filter(|(_, amount)| !amount.is_zero()).map(|(cell, _)| cell);
            let (known, unsettled) = self.differences(rule, doubtful.collect(), deadline).await?;
            differences = known;
            verified.shared.extend(unsettled.into_iter().map(|cell| (cell, SharedFinding::Unsettled)));
        }
        for (cell, amount) in surplus(&differences, &drifts) {
            verified.shared.insert(cell, SharedFinding::Sum(amount));
        }
        let lower = self.lower(rule, &monotone, deadline).await?;
        for cell in lower.max().keys().chain(lower.insert().keys()) {
            verified.shared.insert(cell.clone(), SharedFinding::Lower);
        }
        if options.repair {
            self.repair(rule, &mut verified, (differences, drifts), &lower, deadline).await?;
        }
        Ok(verified)
    }

    /// Reads the histories of a segment.
    async fn suspect_histories(&self, rule: &'static dyn DynProjection, segment: Segment, deadline: Deadline) -> Result<Suspects, Failed> {
        let (mut suspects, mut next) = (Suspects::default(), None);
        let mut pass = Pass::new(rule, up_to);
        loop {
            if deadline.passed() {
                return Err(StoreError::DeadlineExceeded.into());
            }
            let (page, after) = self.store().scan_events(segment, next.as_ref(), deadline).await?;
            suspects.events += page.len() as u64;
            let ended = pass.page(self.store(), page, deadline).await?;
            for visit in ended {
                suspects.visit(rule, visit)?;
            }
            next = after;
            if next.is_none() {
                break;
            }
        }
        if let Some(visit) = pass.end() {
            suspects.visit(rule, visit)?;
        }
        Ok(suspects)
    }

    /// Reads the rows of a segment: do they stand on events, and do sums and contributions match?
    async fn suspect_rows(
        &self,
        rule: &'static dyn DynProjection,
        segment: Segment,
        monotone: &Change,
        deadline: Deadline,
    ) -> Result<Suspects, Failed> {
        let (mut suspects, mut next) = (Suspects::default(), None);
        loop {
            if deadline.passed() {
                return Err(StoreError::DeadlineExceeded.into());
            }
            let (rows, after) = self.store().scan_rows(rule, segment, next, deadline).await?;
            suspects.rows += rows.len() as u64;
            let standing: Vec<_> = rows
                .iter()
                .filter(|row| row.home.version > Version::NONE)
                .map(|row| (AggregateId::from(row.key.as_str()), &row.home))
                .collect();
            let on_events = self.store().standing_on_events(standing.iter().map(|(id, row)| (id, *row)), deadline).await?;
            suspects.home.extend(standing.into_iter().map(|(id, _)| id).filter(|id| !on_events.contains(id)));
            for Row { key, home, shared, .. } in rows {
                for (cell, amount) in home.contributions {
                    *suspects.balances.entry(cell).or_default() -= &amount;
                }
                for (attribute, value) in shared {
                    let cell = (key.clone(), attribute);
                    if let Value::Number(amount) = value
                        && !monotone.max().contains_key(&cell)
                    {
                        *suspects.balances.entry(cell).or_default() += &amount;
                    }
                }
            }
            next = after;
            if next.is_none() {
                return Ok(suspects);
            }
        }
    }

    /// Looks at aggregates by consistent reads; at those that are behind again and again, until they move or have had their time.
    async fn look_until_they_move(
        &self,
        rule: &'static dyn DynProjection,
        ids: BTreeSet<AggregateId>,
        deadline: Deadline,
    ) -> Result<BTreeMap<AggregateId, Look>, Failed> {
        let mut looks = self.look_at_all(rule, ids, deadline).await?;
        for pause in LOOK_AGAIN_AFTER {
            let waits = |look: &Look| matches!(look.finding, Some(Finding::Behind | Finding::Missing));
            let waiting: BTreeSet<_> = looks.iter().filter(|(_, look)| waits(look)).map(|(id, _)| id.clone()).collect();
            if waiting.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            for (id, mut look) in self.look_at_all(rule, waiting, deadline).await? {
                if waits(&look) && look.row.version != looks[&id].row.version {
                    look.finding = None;
                }
                looks.insert(id, look);
            }
        }
        Ok(looks)
    }

    async fn look_at_all(
        &self,
        rule: &'static dyn DynProjection,
        ids: BTreeSet<AggregateId>,
        deadline: Deadline,
    ) -> Result<BTreeMap<AggregateId, Look>, Failed> {
        let looks = ids.into_iter().map(|id| async {
            let look = self.look(rule, &id, deadline).await?;
            Ok((id, look))
        });
        stream::iter(looks).buffer_unordered(CONCURRENCY).try_collect().await
    }

    async fn look(&self, rule: &'static dyn DynProjection, id: &AggregateId, deadline: Deadline) -> Result<Look, Failed> {
        let row = self.store().read_rows(rule, std::slice::from_ref(id), deadline).await?.remove(id).unwrap_or_default();
        if row.revision > rule.revision() {
            return Err(Failed(newer_revision(rule, row.revision)));
        }
        if row.version > Version::NONE && row.revision < rule.revision() {
            let parked = row.parked_at.is_some();
            return Ok(Look { finding: Some(if parked { Finding::Parked } else { Finding::Outdated }), row, contributions: None });
        }
        let folded = fold_history(self.store(), rule, id, row.version, deadline).await?;
        let mut look = Look { finding: compared(&row, &folded), contributions: Some(folded.row().contributions), row };
        if look.finding == Some(Finding::Ahead) && folded.due == Version::NONE.next() {
            let any = self.store().load_page(id, folded.due..=Version(u64::MAX), 1, deadline).await?;
            look.finding = Some(if any.is_empty() { Finding::Orphaned } else { Finding::Ahead });
        }
        if look.finding.is_none() && look.row.parked_at.is_some() {
            look.finding = Some(Finding::Parked);
        }
        if look.finding.is_none() && self.is_behind(rule, id, &look.row, deadline).await? {
            look.finding = Some(if look.row.version == Version::NONE { Finding::Missing } else { Finding::Behind });
        }
        Ok(look)
    }

    async fn repair(
        &self,
        rule: &'static dyn DynProjection,
        verified: &mut Verified,
        (differences, mut drifts): (BTreeMap<Cell, Difference>, BTreeMap<AggregateId, Sums>),
        lower: &Change,
        deadline: Deadline,
    ) -> Result<(), Failed> {
        let mended = verified.home.iter().map(|(id, finding)| async move {
            let trust = if *finding == Finding::Behind { Trust::Row } else { Trust::Store };
            let caught_up = self.catch_up(rule, id, trust, deadline).await?;
            Ok::<_, Failed>((caught_up.standing == Standing::Head).then_some(id))
        });
        let mended: Vec<_> = stream::iter(mended).buffer_unordered(CONCURRENCY).try_collect().await?;
        for id in mended.into_iter().flatten() {
            verified.repaired += 1;
            drifts.remove(id);
        }
        // A row that was projected anew moves its sums along, as far as they were from what it had contributed. One that waits will do
        // so when it is mended: until then its sums are left as they are.
        let mut rows: BTreeMap<&RowKey, (BTreeMap<String, Decimal>, &str)> = BTreeMap::new();
        for (cell, Difference { amount, corrected }) in differences.iter().filter(|(_, difference)| !difference.amount.is_zero()) {
            if drifts.values().any(|drift| drift.contains_key(cell)) {
                continue;
            }
            rows.entry(&cell.0).or_insert_with(|| (BTreeMap::new(), corrected)).0.insert(cell.1.clone(), -amount);
            verified.repaired += u64::from(matches!(verified.shared.get(cell), Some(SharedFinding::Sum(_))));
        }
        for (row, (by, corrected)) in rows {
            self.store().correct_sums(rule, row, &by, corrected, deadline).await?;
        }
        let raised = self.store().apply_monotone(rule, lower, deadline).await?;
        raised.map_err(|reason| Failed(format!("a shared row cannot be raised: {reason}")))?;
        verified.repaired += verified.shared.values().filter(|finding| **finding == SharedFinding::Lower).count() as u64;
        Ok(())
    }
}

impl Suspects {
    fn visit(&mut self, rule: &'static dyn DynProjection, visit: Visit) -> Result<(), Failed> {
        self.aggregates += 1;
        let Visit { aggregate, row, folded, beyond, first, .. } = visit;
        if row.revision > rule.revision() {
            return Err(Failed(newer_revision(rule, row.revision)));
        }
        let outdated = row.version > Version::NONE && row.revision < rule.revision();
        let suspect =
            outdated || first != Version::NONE.next() || row.parked_at.is_some() || beyond > 0 || compared(&row, &folded).is_some();
        self.monotone = std::mem::take(&mut self.monotone).then(folded.total.monotone());
        if suspect {
            self.home.insert(aggregate);
        }
        Ok(())
    }
}

/// A row of today's revision is compared at the version that it has.
fn up_to(rule: &dyn DynProjection, row: &HomeRow) -> Version {
    if row.revision == rule.revision() { row.version } else { Version::NONE }
}

/// What is wrong with a row of today's revision, by the fold of what the event store has up to its version.
fn compared(row: &HomeRow, folded: &HistoryFold) -> Option<Finding> {
    if folded.due <= row.version {
        let poison = folded.stop.as_ref().is_some_and(Stop::is_poison);
        return Some(if poison { Finding::Drifted } else { Finding::Ahead });
    }
    let fresh = folded.row();
    let same = row.version == fresh.version
        && row.last_event_id == fresh.last_event_id
        && row.own == fresh.own
        && row.contributions == fresh.contributions;
    (!same).then_some(Finding::Drifted)
}

/// What contributions are beyond what they must be.
fn drift(mut contributions: Sums, right: &Sums) -> Sums {
    for (cell, amount) in right {
        *contributions.entry(cell.clone()).or_default() -= amount;
    }
    contributions.retain(|_, amount| !amount.is_zero());
    contributions
}

/// What cells hold beyond what was contributed to them, where that is not what contributions have drifted by.
fn surplus(differences: &BTreeMap<Cell, Difference>, drifts: &BTreeMap<AggregateId, Sums>) -> Sums {
    let of = |(cell, Difference { amount, .. }): (&Cell, &Difference)| {
        let mut amount = amount.clone();
        drifts.values().filter_map(|drift| drift.get(cell)).for_each(|drift| amount += drift);
        (cell.clone(), amount)
    };
    let differ = differences.iter().filter(|(_, difference)| !difference.amount.is_zero());
    differ.map(of).filter(|(_, amount)| !amount.is_zero()).collect()
}

/// About so many of 100 parts of a table, at random.
fn sampled(percent: u32) -> Vec<Segment> {
    let mut segments: Vec<_> = Segment::all(SAMPLED_SEGMENTS).collect();
    fastrand::shuffle(&mut segments);
    segments.truncate(percent.clamp(1, SAMPLED_SEGMENTS) as usize);
    segments
}
