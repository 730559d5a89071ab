//! Every row of a projection by today's rule, in place, while the worker keeps running; and its cousin that only helps those behind.
//!
//! A scan of the event store, or an export of it, gives histories ([`crate::pass`]); a row that an older revision wrote, or that is not
//! there, is replaced by the fold of its history in the transaction that a live worker would make ([`crate::reproject`]). What a row's
//! `revision` says is done is not done again, so a rebuild may be stopped anywhere, run twice, and be run by many at once.

use std::ops::AddAssign;

use futures::{StreamExt as _, stream};
use projection_vocabulary::{AggregateId, HomeRow, Rule, Version};
use serde::{Deserialize, Serialize};

use crate::{
    catch_up::{CaughtUp, Failed, Standing, Trust},
    lane::{Lane, newer_revision},
    pass::{Pass, Visit},
    reproject::{Stop, fold_history},
    retry::Deadline,
    store::events::{Cursor, Segment, Stored},
    worker::{CONCURRENCY, Worker},
};

/// What to do with the rows that a pass meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Bring rows to today's rule. An aggregate with an event that cannot be applied is parked in front of it.
    Rebuild,
    /// The same into an empty table of its own. Nothing is parked, for what is parked belongs to the table that is live.
    Beside,
    /// Only count what a rebuild would do.
    DryRun,
    /// Advance the aggregates that are behind the event store.
    CatchUp,
}

/// What a pass came to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Events read.
    pub events: u64,
    /// Aggregates looked at.
    pub aggregates: u64,
    /// Rows of an older revision that were replaced.
    pub replaced: u64,
    /// Rows made for aggregates that had none.
    pub created: u64,
    /// Of the replaced and made, those that are not as they were.
    pub changed: u64,
    /// Aggregates that were behind and are no more.
    pub caught_up: u64,
    /// Aggregates that wait, found so or now.
    pub parked: u64,
    /// Aggregates whose rows end before an event that cannot be applied, without being parked.
    pub stopped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.aggregates += other.aggregates;
        self.replaced += other.replaced;
        self.created += other.created;
        self.changed += other.changed;
        self.caught_up += other.caught_up;
        self.parked += other.parked;
        self.stopped += other.stopped;
    }
}

impl Counts {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn nothing_done(&self) -> bool {
        self.replaced + self.created + self.caught_up == 0
    }
}

/// A pass over histories that does something about rows.
pub struct Rebuild<'a> {
    worker: &'a Worker,
    rule: &'static dyn Rule,
    task: Task,
    pass: Pass,
    counts: Counts,
}

impl<'a> Rebuild<'a> {
    /// A pass with this task.
    #[must_use]
    pub fn new(worker: &'a Worker, rule: &'static dyn Rule, task: Task) -> Self {
        let up_to = if task == Task::CatchUp { |_: &dyn Rule, _: &HomeRow| Version::NONE } else { up_to };
        Self { worker, rule, task, pass: Pass::new(rule, up_to), counts: Counts::default() }
    }

    /// What it came to so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes the next page of events, which may come in any order as long as most aggregates' come in theirs.
    ///
    /// # Errors
    /// [`Failed`]: of what was not finished nothing or all is done; begin again in front of it.
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
        let (mut lanes, mut behind) = (Vec::new(), Vec::new());
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
            match self.task {
                Task::CatchUp if stale || visit.beyond > 0 => behind.push(visit.aggregate),
                Task::Rebuild | Task::Beside | Task::DryRun if stale || missing => lanes.extend(self.replace(visit, deadline).await?),
                _ => {}
            }
        }
        self.advance(lanes, deadline).await?;
        self.catch_up(behind, deadline).await
    }

    /// A lane that replaces the row, unless there is nothing to replace it by.
    async fn replace(&mut self, visit: Visit, deadline: Deadline) -> Result<Option<Lane>, Failed> {
        let Visit { aggregate, row, mut folding, first, .. } = visit;
        // What was scanned may be a piece, or end where the row does not: that was read later, and what it stands on is there by now.
        let whole = first == Version::NONE.next() && folding.stop.as_ref().is_none_or(Stop::is_poison);
        if !whole || (folding.due <= row.version && folding.stop.is_none()) {
            folding = fold_history(self.worker.store(), self.rule, &aggregate, Version(u64::MAX), deadline).await?;
        }
        let fresh = folding.row();
        let poison = folding.stop.as_ref().filter(|stop| stop.is_poison());
        let replaceable = row.version > Version::NONE || fresh.version > Version::NONE;
        let counted = if row.version > Version::NONE { &mut self.counts.replaced } else { &mut self.counts.created };
        *counted += u64::from(replaceable);
        self.counts.changed += u64::from(replaceable && (row.own != fresh.own || row.contributions != fresh.contributions));
        self.counts.stopped += u64::from(poison.is_some() && self.task != Task::Rebuild);
        if self.task == Task::DryRun {
            return Ok(None);
        }
        let mut lane = Lane::new(self.rule, aggregate);
        if replaceable {
            lane.replace(&row, &folding, Trust::Row);
        }
        if let Some(stop) = poison.filter(|_| self.task == Task::Rebuild && folding.due > row.version) {
            lane.push_stop(fresh.version, folding.due, stop.clone());
        }
        Ok((replaceable || poison.is_some()).then_some(lane))
    }

    async fn advance(&mut self, lanes: Vec<Lane>, deadline: Deadline) -> Result<(), Failed> {
        let lanes = match self.task {
            Task::Beside => {
                let (finished, to_park) = self.worker.drive(lanes, deadline.into()).await;
                self.counts.stopped += to_park.len() as u64;
                finished
            }
            _ => self.worker.advance(lanes, deadline).await,
        };
        self.counts.parked += lanes.iter().filter(|lane| lane.waits).count() as u64;
        lanes.into_iter().find_map(|lane| lane.failure).map_or(Ok(()), |failure| Err(Failed(failure)))
    }

    async fn catch_up(&mut self, behind: Vec<AggregateId>, deadline: Deadline) -> Result<(), Failed> {
        let each = behind.iter().map(|id| self.worker.sweep(self.rule, id, deadline));
        let caught_up: Vec<Result<CaughtUp, Failed>> = stream::iter(each).buffer_unordered(CONCURRENCY).collect().await;
        for caught_up in caught_up {
            match caught_up?.standing {
                Standing::Head => self.counts.caught_up += 1,
                Standing::Parked(_) => self.counts.parked += 1,
            }
        }
        Ok(())
    }
}

/// A row of today's revision is not folded for.
fn up_to(rule: &dyn Rule, row: &HomeRow) -> Version {
    let done = row.parked_at.is_some() || (row.version > Version::NONE && row.revision >= rule.revision());
    if done { Version::NONE } else { Version(u64::MAX) }
}

/// A pass over one segment of the event store, page by page.
pub struct SegmentRebuild<'a> {
    rebuild: Rebuild<'a>,
    segment: Segment,
    /// Where the scan goes on.
    next: Option<Cursor>,
    /// Where another would have to go on: in front of the aggregate that is open.
    settled: Option<Cursor>,
}

impl<'a> SegmentRebuild<'a> {
    /// A pass that begins behind a cursor.
    #[must_use]
    pub fn new(worker: &'a Worker, rule: &'static dyn Rule, task: Task, segment: Segment, from: Option<Cursor>) -> Self {
        let rebuild = Rebuild::new(worker, rule, task);
        Self { rebuild, segment, next: from.clone(), settled: from }
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> Segment {
        self.segment
    }

    /// What it came to so far. What lies between the cursor and the last page is counted again by whoever goes on.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.rebuild.counts()
    }

    /// Where to go on if it ends here; `None` if nothing is done yet.
    #[must_use]
    pub fn cursor(&self) -> Option<&Cursor> {
        self.settled.as_ref()
    }

    /// Does the next page. Returns whether there is another.
    ///
    /// # Errors
    /// [`Failed`]: begin again at the cursor.
    pub async fn step(&mut self, deadline: Deadline) -> Result<bool, Failed> {
        let store = self.rebuild.worker.store();
        let (page, next) = store.scan_events(self.segment, self.next.as_ref(), deadline).await?;
        let was_open = self.rebuild.pass.open().cloned();
        let keys: Vec<_> = page.iter().map(|(id, stored)| (id.clone(), stored.version())).collect();
        self.rebuild.page(page, deadline).await?;
        let Some(next) = next else {
            self.rebuild.end(deadline).await?;
            return Ok(false);
        };
        let open = self.rebuild.pass.open();
        let others = keys.iter().rposition(|(id, _)| Some(id) != open);
        self.settled = match others {
            Some(at) => Some(Cursor::behind(&keys[at].0, keys[at].1)),
            None if open.is_none() => Some(next.clone()),
            None if was_open.as_ref() == open => self.settled.take(),
            None => self.next.take(),
        };
        self.next = Some(next);
        Ok(true)
    }
}
