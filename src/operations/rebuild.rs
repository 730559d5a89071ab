//! Rebuilds every row with the current rule, in place, while the worker runs; also drives catch-up scans.
//!
//! A scan of the event store, or an export of it, gives [`histories`](super::histories). A row that an older revision wrote, or that is
//! missing, is replaced by the fold of its history in the same transaction that a live worker would make
//! ([`reproject`](crate::engine::reproject)). A row of the current revision is left alone, so a rebuild may be stopped anywhere,
//! run twice, and be run by many processes at once.

pub mod segment;

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::{AggregateId, DynProjection, HomeRow, Version};

use crate::{
    engine::{
        lane::Lane,
        reproject::{FoldStop, Trust, differing_children, fold_history},
        worker::{CONCURRENCY, IfStuck, Worker},
    },
    operations::{
        catch_up::catch_up_all,
        error::{OperationError, refuse_newer_revision},
        histories::{Histories, Visit},
    },
    progress::Counts,
    retry::Deadline,
    store::{events::Stored, home::ChildWrites},
};

/// What to do with the rows of the histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Bring rows to the current rule. An aggregate with an event that cannot be applied is parked just before that event.
    Rebuild,
    /// Build the rows in an empty table of their own. Nothing is parked, because parking entries belong to the live table.
    IntoTable,
    /// Only count what a rebuild would do.
    DryRun,
    /// Advance the aggregates that are behind the event store.
    CatchUp,
}

impl Task {
    fn if_stuck(self) -> IfStuck {
        if self == Self::IntoTable { IfStuck::Leave } else { IfStuck::AskBreaker }
    }
}

/// Brings the rows of histories up to date.
pub struct Rebuild<'a> {
    worker: &'a Worker,
    rule: &'static dyn DynProjection,
    task: Task,
    histories: Histories,
    counts: Counts,
}

impl<'a> Rebuild<'a> {
    /// A rebuild that has read nothing yet.
    #[must_use]
    pub fn new(worker: &'a Worker, rule: &'static dyn DynProjection, task: Task) -> Self {
        let up_to = if task == Task::CatchUp { |_: &dyn DynProjection, _: &HomeRow| Version::NONE } else { up_to };
        Self { worker, rule, task, histories: Histories::new(rule, up_to), counts: Counts::default() }
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes the next page of events. They may come in any order and in parts, but it costs least if most histories come whole and in
    /// order.
    ///
    /// # Errors
    /// [`OperationError`]: each row is unchanged or done; start again before the first aggregate that was not applied.
    pub async fn page(&mut self, page: Vec<(AggregateId, Stored)>, deadline: Deadline) -> Result<(), OperationError> {
        self.counts.events += page.len() as u64;
        let ended = self.histories.page(self.worker.store(), page, deadline).await?;
        self.apply(ended, deadline).await
    }

    /// Applies the last history, once there are no more pages.
    ///
    /// # Errors
    /// [`OperationError`], as for a page.
    pub async fn end(&mut self, deadline: Deadline) -> Result<(), OperationError> {
        let last = self.histories.end();
        self.apply(last.into_iter().collect(), deadline).await
    }

    async fn apply(&mut self, visits: Vec<Visit>, deadline: Deadline) -> Result<(), OperationError> {
        let (mut stale, mut behind) = (BTreeMap::new(), Vec::new());
        for visit in visits {
            self.counts.aggregates += 1;
            let row = &visit.row;
            refuse_newer_revision(self.rule, row)?;
            if row.parked_at.is_some() {
                self.counts.parked += 1;
                continue;
            }
            let outdated = row.is_outdated(self.rule.revision());
            let missing = row.version == Version::NONE && visit.beyond > 0;
            // If a history comes in parts, an earlier part may be among these already. The rest is caught up.
            let again = stale.contains_key(&visit.aggregate);
            if (outdated || missing) && self.task != Task::CatchUp && !again {
                stale.insert(visit.aggregate.clone(), visit);
            } else if outdated || visit.beyond > 0 {
                behind.push(visit.aggregate);
            }
        }
        let folded = stale.into_values().map(|visit| self.fold(visit, deadline));
        let folded: Vec<_> = stream::iter(folded).buffer_unordered(CONCURRENCY).try_collect().await?;
        let mut replacements = BTreeMap::new();
        for (visit, children) in folded {
            let aggregate = visit.aggregate.clone();
            if let Some(replacement) = self.replacement(visit, children, &mut behind) {
                replacements.insert(aggregate, replacement);
            }
        }
        let overtaken = self.replace(replacements, deadline).await?;
        behind.extend(overtaken);
        behind.sort();
        behind.dedup();
        self.catch_up(behind, deadline).await
    }

    /// Completes the fold of a history, and compares it with the child rows.
    async fn fold(&self, mut visit: Visit, deadline: Deadline) -> Result<(Visit, ChildWrites), OperationError> {
        let store = self.worker.store();
        if visit.is_partial() {
            visit.folded = fold_history(store, self.rule, &visit.aggregate, Version(u64::MAX), deadline).await?;
        }
        let children = differing_children(store, self.rule, &visit.aggregate, visit.folded.children(), deadline).await?;
        Ok((visit, children))
    }

    /// Plans the replacement of a row, if it needs one. An aggregate whose history has a hole is also added to `behind`: catching up
    /// finds the missing event or parks the aggregate.
    fn replacement(&mut self, visit: Visit, children: ChildWrites, behind: &mut Vec<AggregateId>) -> Option<Planned> {
        let Visit { aggregate, row, folded, .. } = visit;
        let fresh = folded.row();
        let existed = row.version > Version::NONE || row.unfinished.is_some();
        let writes = existed || fresh.version > Version::NONE;
        let differs = row.own != fresh.own || row.contributions != fresh.contributions || row.left != fresh.left;
        let changes = differs || !children.is_empty();
        let reaches = folded.due > row.version;
        let poison = match &folded.stop {
            Some(FoldStop::Poison { reason, payload }) => Some((reason.clone(), payload.clone())),
            Some(FoldStop::Hole) | None => None,
        };
        match self.task {
            Task::DryRun => {
                self.counts.stopped += u64::from(folded.stop.is_some() || !reaches);
                self.counts.replaced(existed, changes, writes && reaches);
                return None;
            }
            // A fold that does not reach its row is counted when its lane ends.
            Task::IntoTable => self.counts.stopped += u64::from(poison.is_some() && reaches),
            Task::Rebuild | Task::CatchUp => {}
        }
        if folded.stop == Some(FoldStop::Hole) {
            behind.push(aggregate.clone());
        }
        let mut lane = Lane::new(self.rule, aggregate);
        if writes {
            lane.replace(&row, &folded, children, Trust::Row);
        }
        let parks = poison.filter(|_| self.task == Task::Rebuild && reaches);
        let needed = writes || parks.is_some();
        if let Some((reason, payload)) = parks {
            lane.push_poison_after(fresh.version, folded.due, reason, payload);
        }
        needed.then_some(Planned { lane, existed, writes, changes })
    }

    /// Replaces rows, and returns the aggregates whose rows another writer has changed meanwhile, to an unknown version.
    async fn replace(
        &mut self,
        replacements: BTreeMap<AggregateId, Planned>,
        deadline: Deadline,
    ) -> Result<Vec<AggregateId>, OperationError> {
        let (mut lanes, mut planned) = (Vec::new(), BTreeMap::new());
        for (aggregate, Planned { lane, existed, writes, changes }) in replacements {
            lanes.push(lane);
            planned.insert(aggregate, (existed, writes, changes));
        }
        let lanes = self.worker.advance(lanes, self.task.if_stuck(), deadline).await;
        let (mut overtaken, mut failure) = (Vec::new(), None);
        for lane in lanes {
            if lane.stuck().is_some() {
                self.counts.stopped += 1;
                continue;
            }
            let (existed, writes, changes) = planned[&lane.aggregate];
            let written = lane.tally.reprojected > 0;
            self.counts.replaced(existed, changes, written);
            self.counts.parked += u64::from(lane.parked.is_some());
            match lane.failure {
                Some(error) => failure = Some(error),
                None if writes && !written && lane.parked.is_none() => overtaken.push(lane.aggregate),
                None => {}
            }
        }
        failure.map_or(Ok(overtaken), |error| Err(error.into()))
    }

    async fn catch_up(&mut self, behind: Vec<AggregateId>, deadline: Deadline) -> Result<(), OperationError> {
        if self.task == Task::DryRun {
            self.counts.caught_up += behind.len() as u64;
            return Ok(());
        }
        catch_up_all(self.worker, self.rule, &behind, self.task.if_stuck(), &mut self.counts, deadline).await
    }
}

/// A row about to be replaced.
struct Planned {
    lane: Lane,
    /// Whether there was a row.
    existed: bool,
    /// Whether the lane writes the row, or only parks the aggregate.
    writes: bool,
    /// Whether the new row differs from the old one.
    changes: bool,
}

/// Up to which version to fold: nothing for a parked row or one of the current revision, otherwise the whole history.
fn up_to(rule: &dyn DynProjection, row: &HomeRow) -> Version {
    let current = row.version > Version::NONE && !row.is_outdated(rule.revision());
    let done = row.parked_at.is_some() || current;
    if done { Version::NONE } else { Version(u64::MAX) }
}

#[cfg(test)]
mod tests;
