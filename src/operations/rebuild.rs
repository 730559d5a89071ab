//! Every row of a projection by today's rule, in place, while the worker keeps running; and its cousin that only helps those behind.
//!
//! A scan of the event store, or an export of it, gives histories (`pass`); a row that an older revision wrote, or that is not
//! there, is replaced by the fold of its history in the transaction that a live worker would make (`reproject`). What a row's
//! `revision` says is done is not done again, so a rebuild may be stopped anywhere, run twice, and be run by many at once.

pub mod segment;

use std::collections::BTreeMap;

use projection_vocabulary::{AggregateId, DynProjection, HomeRow, Version};

use crate::{
    engine::{
        lane::{Lane, newer_revision},
        reproject::{Stop, fold_history},
        worker::Worker,
    },
    operations::{
        catch_up::{Failed, IfStuck, Trust, sweep_all},
        histories::{Pass, Visit},
    },
    progress::Counts,
    retry::Deadline,
    store::events::Stored,
};

/// What to do with the rows that a pass meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Bring rows to today's rule. An aggregate with an event that cannot be applied is parked in front of it.
    Rebuild,
    /// The same into an empty table of its own. Nothing is parked, for what is parked belongs to the table that is live.
    IntoTable,
    /// Only count what a rebuild would do.
    DryRun,
    /// Advance the aggregates that are behind the event store.
    CatchUp,
}

/// A pass over histories that does something about rows.
pub struct Rebuild<'a> {
    worker: &'a Worker,
    rule: &'static dyn DynProjection,
    task: Task,
    pass: Pass,
    counts: Counts,
}

impl<'a> Rebuild<'a> {
    /// A pass with this task.
    #[must_use]
    pub fn new(worker: &'a Worker, rule: &'static dyn DynProjection, task: Task) -> Self {
        let up_to = if task == Task::CatchUp { |_: &dyn DynProjection, _: &HomeRow| Version::NONE } else { up_to };
        Self { worker, rule, task, pass: Pass::new(rule, up_to), counts: Counts::default() }
    }

    /// What it came to so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes the next page of events. They may come in any order and in pieces; where most histories come whole and in order, it
    /// costs least.
    ///
    /// # Errors
    /// [`Failed`]: each row is as it was or done; begin again in front of the first aggregate that was not settled.
    pub async fn page(&mut self, page: Vec<(AggregateId, Stored)>, deadline: Deadline) -> Result<(), Failed> {
        self.counts.events += page.len() as u64;
        let ended = self.pass.page(self.worker.store(), page, deadline).await?;
        self.settle(ended, deadline).await
    }

    /// Settles what is still open, when there are no more pages.
    ///
    /// # Errors
    /// [`Failed`], as before.
    pub async fn end(&mut self, deadline: Deadline) -> Result<(), Failed> {
        let last = self.pass.end();
        self.settle(last.into_iter().collect(), deadline).await
    }

    async fn settle(&mut self, visits: Vec<Visit>, deadline: Deadline) -> Result<(), Failed> {
        let (mut replacements, mut behind) = (BTreeMap::new(), Vec::new());
        for visit in visits {
            self.counts.aggregates += 1;
            let row = &visit.row;
            if row.revision > self.rule.revision() {
                return Err(Failed(newer_revision(self.rule, row.revision)));
            }
            if row.parked_at.is_some() {
                self.counts.parked += 1;
                continue;
            }
            let stale = row.version > Version::NONE && row.revision < self.rule.revision();
            let missing = row.version == Version::NONE && visit.beyond > 0;
            // Where a history comes in pieces, one may have been counted already: what follows is for catching up.
            let again = replacements.contains_key(&visit.aggregate);
            if (stale || missing) && self.task != Task::CatchUp && !again {
                let aggregate = visit.aggregate.clone();
                if let Some(replacement) = self.replacement(visit, &mut behind, deadline).await? {
                    replacements.insert(aggregate, replacement);
                }
            } else if stale || visit.beyond > 0 {
                behind.push(visit.aggregate);
            }
        }
        let overtaken = self.replace(replacements, deadline).await?;
        behind.extend(overtaken);
        behind.sort();
        behind.dedup();
        self.catch_up(behind, deadline).await
    }

    /// What to put in the place of a row, if it is anything. What lies beyond a hole is for catching up, which parks or finds it.
    async fn replacement(
        &mut self,
        visit: Visit,
        behind: &mut Vec<AggregateId>,
        deadline: Deadline,
    ) -> Result<Option<Replacement>, Failed> {
        let Visit { aggregate, row, mut folded, first, .. } = visit;
        // What was scanned may be a piece, or end where the row does not: that was read later, and what it stands on is there by now.
        let whole = first == Version::NONE.next() && folded.stop.as_ref().is_none_or(Stop::is_poison);
        if !whole || (folded.due <= row.version && folded.stop.is_none()) {
            folded = fold_history(self.worker.store(), self.rule, &aggregate, Version(u64::MAX), deadline).await?;
        }
        let fresh = folded.row();
        let existed = row.version > Version::NONE;
        let writes = existed || fresh.version > Version::NONE;
        let changes = writes && (row.own != fresh.own || row.contributions != fresh.contributions);
        let reaches = folded.due > row.version;
        let poison = folded.stop.as_ref().filter(|stop| stop.is_poison());
        match self.task {
            Task::DryRun => {
                self.counts.stopped += u64::from(folded.stop.is_some() || !reaches);
                self.counts.replaced(existed, changes, writes && reaches);
                return Ok(None);
            }
            // What does not even reach its row is counted where its lane ends.
            Task::IntoTable => self.counts.stopped += u64::from(poison.is_some() && reaches),
            Task::Rebuild | Task::CatchUp => {}
        }
        if folded.stop.is_some() && poison.is_none() {
            behind.push(aggregate.clone());
        }
        let mut lane = Lane::new(self.rule, aggregate);
        if writes {
            lane.replace(&row, &folded, Trust::Row);
        }
        let parks = poison.filter(|_| self.task == Task::Rebuild && reaches);
        if let Some(stop) = parks {
            lane.push_stop(fresh.version, folded.due, stop.clone());
        }
        Ok((writes || parks.is_some()).then_some(Replacement { lane, existed, writes, changes }))
    }

    /// Puts rows in place, and gives the aggregates whose rows others have written meanwhile: nobody knows how far.
    async fn replace(&mut self, replacements: BTreeMap<AggregateId, Replacement>, deadline: Deadline) -> Result<Vec<AggregateId>, Failed> {
        let (mut lanes, mut planned) = (Vec::new(), BTreeMap::new());
        for (aggregate, Replacement { lane, existed, writes, changes }) in replacements {
            lanes.push(lane);
            planned.insert(aggregate, (existed, writes, changes));
        }
        let lanes = match self.task {
            Task::IntoTable => {
                let (finished, to_park) = self.worker.drive(lanes, deadline.into()).await;
                self.counts.stopped += to_park.len() as u64;
                finished
            }
            _ => self.worker.advance(lanes, deadline).await,
        };
        let (mut overtaken, mut failure) = (Vec::new(), None);
        for lane in lanes {
            let (existed, writes, changes) = planned[&lane.aggregate];
            let written = lane.tally.reprojected > 0;
            self.counts.replaced(existed, changes, written);
            self.counts.parked += u64::from(lane.waits);
            match lane.failure {
                Some(reason) => failure = Some(Failed(reason)),
                None if writes && !written && !lane.waits => overtaken.push(lane.aggregate),
                None => {}
            }
        }
        failure.map_or(Ok(overtaken), Err)
    }

    async fn catch_up(&mut self, behind: Vec<AggregateId>, deadline: Deadline) -> Result<(), Failed> {
        let if_stuck = match self.task {
            Task::DryRun => {
                self.counts.caught_up += behind.len() as u64;
                return Ok(());
            }
            Task::IntoTable => IfStuck::Leave,
            Task::Rebuild | Task::CatchUp => IfStuck::AskBreaker,
        };
        sweep_all(self.worker, self.rule, &behind, if_stuck, &mut self.counts, deadline).await
    }
}

/// A row on its way into the place of another.
struct Replacement {
    lane: Lane,
    /// Whether there was a row.
    existed: bool,
    /// Whether the lane writes it, or only parks its aggregate.
    writes: bool,
    /// Whether it is not as it was.
    changes: bool,
}

/// A row of today's revision is not folded for.
fn up_to(rule: &dyn DynProjection, row: &HomeRow) -> Version {
    let done = row.parked_at.is_some() || (row.version > Version::NONE && row.revision >= rule.revision());
    if done { Version::NONE } else { Version(u64::MAX) }
}
