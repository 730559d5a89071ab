//! What the rule of this program would make of the rows that are there, without writing anything.
//!
//! A row of an older revision is compared with the fold of its whole history, which is what a rebuild would write. A row of the rule's own
//! revision is compared at the version that it counts, as a verification does: it differs if the rule has changed and its revision has not.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::{AggregateId, Cell, Contribution, Decimal, DynProjection, HomeRow, Version};

use super::{
    differs::{Differs, between, of_content},
    error::OperationError,
    histories::{Histories, Visit},
    verify::parts::{SAMPLED_SEGMENTS, sampled},
};
use crate::{
    engine::{
        reproject::{AHEAD_REASON, FoldStop, HOLE_REASON, HistoryFold, differing_children, fold_history},
        worker::CONCURRENCY,
    },
    retry::Deadline,
    store::{
        Store,
        segment::{Cursor, Segment},
    },
};

/// How many different reasons are counted, and how many attributes of shared rows. What is beyond is counted together.
const REASONS_MAX: usize = 20;
const SHARED_MAX: usize = 100_000;

/// What would become of rows.
///
/// Each home row that there is counts once: as one of [`older`](Self::older), [`newer`](Self::newer) or [`parked`](Self::parked), or as one
/// of the rule's own revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preview {
    /// Events read.
    pub events: u64,
    /// Home rows that there are.
    pub rows: u64,
    /// Rows of an older revision than the rule's.
    pub older: u64,
    /// Rows of a newer revision, which this program does not touch.
    pub newer: u64,
    /// Rows that wait before an event that could not be applied. They are not compared.
    pub parked: u64,
    /// Those of them whose history the rule can apply to its end.
    pub freed: u64,
    /// Rows that would be as they are.
    pub same: u64,
    /// Rows of an older revision that would change: by a rebuild.
    pub outdated: u64,
    /// Rows of the rule's own revision that would change: the rule has changed without its revision, or they are wrong.
    pub unexplained: u64,
    /// Those of the rows that would change that would be empty: nothing in their history concerns the rule.
    pub emptied: u64,
    /// Aggregates without a row that would have one.
    pub appear: u64,
    /// Rows of the rule's own revision that do not count all events yet.
    pub behind: u64,
    /// Aggregates with an event that cannot be applied under this rule, by reason.
    pub stopped: BTreeMap<String, Stopped>,
    /// In how many of the rows that would change each attribute of their own would.
    pub attributes: BTreeMap<String, u64>,
    /// How many of the rows that would change would have other child rows.
    pub children: u64,
    /// What would change in attributes of shared rows, if all of this did.
    pub shared: SharedChanges,
    /// The first rows that would change.
    pub examples: Vec<Example>,
}

/// Aggregates that cannot be worked out to their end, for one reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopped {
    /// How many.
    pub aggregates: u64,
    /// The first of them by id.
    pub example: AggregateId,
    /// The version at which that one stops.
    pub version: Version,
}

/// A row that would change.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Its aggregate.
    pub aggregate: AggregateId,
    /// The revision that wrote it.
    pub revision: u32,
    /// From what to what.
    pub changes: Vec<Differs>,
    /// How many of its child rows would change.
    pub children: usize,
}

/// What would change in attributes of shared rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SharedChanges {
    by: BTreeMap<Cell, SharedChange>,
    /// How often another attribute would have changed that is not among them any more.
    pub more: u64,
}

/// How an attribute of a shared row would change.
#[derive(Clone, Debug, PartialEq)]
pub enum SharedChange {
    /// It would rise by this amount.
    By(Decimal),
    /// Other values would be offered to a maximum, or inserted into a set. Whether it would show something else depends on all aggregates.
    Other,
}

impl SharedChanges {
    /// The attributes that would change. Amounts that only move from one aggregate to another change nothing.
    pub fn iter(&self) -> impl Iterator<Item = (&Cell, &SharedChange)> {
        self.by.iter().filter(|(_, change)| !matches!(change, SharedChange::By(amount) if amount.is_zero()))
    }

    fn add(&mut self, cell: &Cell, change: SharedChange) {
        let full = self.by.len() >= SHARED_MAX;
        match (self.by.get_mut(cell), change) {
            (Some(SharedChange::By(sum)), SharedChange::By(amount)) => *sum += &amount,
            (Some(other), _) => *other = SharedChange::Other,
            (None, change) if !full => _ = self.by.insert(cell.clone(), change),
            (None, _) => self.more += 1,
        }
    }

    /// Adds what becomes of contributions if a home row becomes another.
    fn between(&mut self, from: &HomeRow, to: &HomeRow) {
        let cells: BTreeSet<_> = from.contributions.keys().chain(to.contributions.keys()).collect();
        for cell in cells {
            let (before, after) = (from.contributions.get(cell), to.contributions.get(cell));
            if before == after {
                continue;
            }
            let change = match (amount_of(before), amount_of(after)) {
                (Some(before), Some(mut after)) => {
                    after -= &before;
                    SharedChange::By(after)
                }
                _ => SharedChange::Other,
            };
            self.add(cell, change);
        }
    }

    fn extend(&mut self, other: Self) {
        self.more += other.more;
        other.by.into_iter().for_each(|(cell, change)| self.add(&cell, change));
    }
}

/// What is added to a sum; `None` if it is no sum.
fn amount_of(contribution: Option<&Contribution>) -> Option<Decimal> {
    match contribution {
        None => Some(Decimal::zero()),
        Some(Contribution::Sum(amount)) => Some(amount.clone()),
        Some(Contribution::Max(_) | Contribution::Set(_)) => None,
    }
}

impl Preview {
    /// How many rows would change.
    #[must_use]
    pub fn changed(&self) -> u64 {
        self.outdated + self.unexplained
    }

    /// How many rows are of the rule's own revision.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.rows - self.older - self.newer - self.parked
    }

    /// How many aggregates have an event that cannot be applied.
    #[must_use]
    pub fn stopped_total(&self) -> u64 {
        self.stopped.values().map(|stopped| stopped.aggregates).sum()
    }

    /// Whether the rule makes what is there.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        self.changed() + self.appear + self.stopped_total() == 0
    }

    /// Adds what another part of the event store has shown.
    pub fn add(&mut self, other: Self, examples_max: usize) {
        let Self { events, rows, older, newer, parked, freed, same, outdated, unexplained, emptied, appear, behind, .. } = other;
        for (sum, more) in [
            (&mut self.events, events),
            (&mut self.rows, rows),
            (&mut self.older, older),
            (&mut self.newer, newer),
            (&mut self.parked, parked),
            (&mut self.freed, freed),
            (&mut self.same, same),
            (&mut self.outdated, outdated),
            (&mut self.unexplained, unexplained),
            (&mut self.emptied, emptied),
            (&mut self.appear, appear),
            (&mut self.behind, behind),
            (&mut self.children, other.children),
        ] {
            *sum += more;
        }
        other.stopped.into_iter().for_each(|(reason, stopped)| self.stop(reason, stopped));
        other.attributes.into_iter().for_each(|(name, rows)| *self.attributes.entry(name).or_default() += rows);
        self.shared.extend(other.shared);
        self.examples.extend(other.examples);
        self.examples.sort_by(|one, two| one.aggregate.cmp(&two.aggregate));
        self.examples.truncate(examples_max);
    }

    fn stop(&mut self, reason: String, more: Stopped) {
        // A rule may make up as many reasons as it likes.
        let reason =
            if self.stopped.len() < REASONS_MAX || self.stopped.contains_key(&reason) { reason } else { "other reasons".to_owned() };
        match self.stopped.get_mut(&reason) {
            Some(stopped) => {
                let aggregates = stopped.aggregates + more.aggregates;
                // Parts are done in any order, and yet it is always the same one.
                let first = if more.example < stopped.example { more } else { stopped.clone() };
                *stopped = Stopped { aggregates, ..first };
            }
            None => _ = self.stopped.insert(reason, more),
        }
    }

    /// Adds a history, completely folded, and how many child rows are not the fold's.
    fn take(
        &mut self,
        rule: &dyn DynProjection,
        Visit { aggregate, row, folded, beyond, .. }: Visit,
        children: usize,
        examples_max: usize,
    ) {
        let revision = rule.revision();
        let existed = row.version > Version::NONE || row.unfinished.is_some() || row.parked_at.is_some();
        let outdated = row.is_outdated(revision);
        self.rows += u64::from(existed);
        if row.newest_revision() > revision {
            self.newer += 1;
            return;
        }
        if row.parked_at.is_some() {
            self.parked += 1;
            self.freed += u64::from(folded.stop.is_none() && folded.due > row.version);
            return;
        }
        self.older += u64::from(outdated);
        let ends_before = folded.due <= row.version;
        if let Some(reason) = reason(&folded, ends_before) {
            self.stop(reason.to_owned(), Stopped { aggregates: 1, example: aggregate.clone(), version: folded.due });
        }
        if ends_before {
            return;
        }
        let fresh = folded.row();
        if !existed {
            self.appear += u64::from(fresh.version > Version::NONE);
            self.shared.between(&row, &fresh);
            return;
        }
        self.behind += u64::from(!outdated && beyond > 0);
        let changes = if outdated { of_content(&row, &fresh) } else { between(&row, &fresh) };
        if changes.is_empty() && children == 0 {
            self.same += 1;
            return;
        }
        *(if outdated { &mut self.outdated } else { &mut self.unexplained }) += 1;
        self.emptied += u64::from(fresh.version == Version::NONE);
        self.children += u64::from(children > 0);
        for differs in changes.iter().filter(|differs| differs.contributed_to.is_none()) {
            *self.attributes.entry(differs.attribute.clone()).or_default() += 1;
        }
        self.shared.between(&row, &fresh);
        if self.examples.len() < examples_max {
            self.examples.push(Example { aggregate, revision: row.revision, changes, children });
        }
    }
}

/// Why a history cannot be worked out to its end, if it cannot.
fn reason(folded: &HistoryFold, ends_before_the_row: bool) -> Option<&str> {
    match &folded.stop {
        Some(FoldStop::Poison { reason, .. }) => Some(reason),
        Some(FoldStop::Hole) => Some(HOLE_REASON),
        None => ends_before_the_row.then_some(AHEAD_REASON),
    }
}

/// The segments with about this percentage of the event store, at random.
#[must_use]
pub fn sample(percent: u32) -> Vec<Segment> {
    let numbers: BTreeSet<_> = sampled(percent).into_iter().collect();
    Segment::all(SAMPLED_SEGMENTS).filter(|segment| numbers.contains(&segment.number())).collect()
}

/// A preview of the rows whose histories are in one segment of the event store, page by page.
pub struct SegmentPreview<'a> {
    store: &'a Store,
    rule: &'static dyn DynProjection,
    segment: Segment,
    next: Option<Cursor>,
    histories: Histories,
    examples_max: usize,
    /// What it has shown so far.
    pub preview: Preview,
}

impl<'a> SegmentPreview<'a> {
    /// One that has read nothing yet.
    #[must_use]
    pub fn new(store: &'a Store, rule: &'static dyn DynProjection, segment: Segment, examples_max: usize) -> Self {
        Self { store, rule, segment, next: None, histories: Histories::new(rule, up_to), examples_max, preview: Preview::default() }
    }

    /// Reads the next page. Returns whether there is another.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn step(&mut self, deadline: Deadline) -> Result<bool, OperationError> {
        let (page, next) = self.store.scan_events(self.segment, self.next.as_ref(), deadline).await?;
        self.next = next;
        self.preview.events += page.len() as u64;
        let ended = self.histories.page(self.store, page, deadline).await?;
        self.take(ended, deadline).await?;
        if self.next.is_none() {
            let last = self.histories.end();
            self.take(last.into_iter().collect(), deadline).await?;
        }
        Ok(self.next.is_some())
    }

    async fn take(&mut self, visits: Vec<Visit>, deadline: Deadline) -> Result<(), OperationError> {
        let (store, rule) = (self.store, self.rule);
        let completed = stream::iter(visits).map(|visit| complete(store, rule, visit, deadline)).buffered(CONCURRENCY);
        let completed: Vec<_> = completed.try_collect().await?;
        for (visit, children) in completed {
            self.preview.take(rule, visit, children, self.examples_max);
        }
        Ok(())
    }
}

/// Up to which version to fold: what a rebuild or a redrive would write, or, of a row of the rule's own revision, what it counts.
fn up_to(rule: &dyn DynProjection, row: &HomeRow) -> Version {
    match row {
        _ if row.newest_revision() > rule.revision() => Version::NONE,
        _ if row.version == Version::NONE || row.parked_at.is_some() || row.is_outdated(rule.revision()) => Version(u64::MAX),
        _ => row.version,
    }
}

/// Completes the fold of a history, and counts the child rows that are not the fold's.
async fn complete(
    store: &Store,
    rule: &'static dyn DynProjection,
    mut visit: Visit,
    deadline: Deadline,
) -> Result<(Visit, usize), OperationError> {
    let up_to = up_to(rule, &visit.row);
    if up_to == Version::NONE {
        return Ok((visit, 0));
    }
    if visit.is_partial() {
        visit.folded = fold_history(store, rule, &visit.aggregate, up_to, deadline).await?;
    }
    let children = differing_children(store, rule, &visit.aggregate, visit.folded.children(), deadline).await?.len();
    Ok((visit, children))
}

#[cfg(test)]
mod tests;
