//! Catching up with many aggregates: those that a pass has found behind, or those that the index by event type has events of.

use std::collections::BTreeMap;

use projection_vocabulary::{AggregateId, DynProjection, Timestamp, Version};

use crate::{
    engine::{lane::newer_revision, worker::Worker},
    operations::catch_up::{Failed, IfStuck, sweep_all},
    progress::Counts,
    retry::Deadline,
    store::events::IndexCursor,
};

/// So many aggregates are collected before their rows are looked at: ten requests' worth.
const AGGREGATES_AT_ONCE: usize = 1_000;

/// A pass over what has happened since a time, by the index by event type: it finds the aggregates that are behind without reading the
/// event store from end to end. It goes by the events' own timestamps, so it does not see what was imported with older ones; nor, as
/// every index is a moment late, the events of the last seconds.
pub struct Recent<'a> {
    worker: &'a Worker,
    rule: &'static dyn DynProjection,
    since: Timestamp,
    /// The event types that are left, the present one last.
    types: Vec<&'static str>,
    /// Where the query of the present one goes on.
    next: Option<IndexCursor>,
    /// The highest version met of each aggregate that was not looked at yet.
    met: BTreeMap<AggregateId, Version>,
    counts: Counts,
}

impl<'a> Recent<'a> {
    /// A pass over the events of a rule since a time.
    #[must_use]
    pub fn new(worker: &'a Worker, rule: &'static dyn DynProjection, since: Timestamp) -> Self {
        let types = rule.event_types().iter().rev().copied().collect();
        Self { worker, rule, since, types, next: None, met: BTreeMap::new(), counts: Counts::default() }
    }

    /// What it came to so far. An aggregate counts as often as it was looked at.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Does the next page of the index. Returns whether there is another.
    ///
    /// # Errors
    /// [`Failed`]: another step goes on there.
    pub async fn step(&mut self, deadline: Deadline) -> Result<bool, Failed> {
        if let Some(event_type) = self.types.last() {
            let (page, next) = self.worker.store().keys_since(event_type, &self.since, self.next.as_ref(), deadline).await?;
            self.counts.events += page.len() as u64;
            for (aggregate, version) in page {
                let met = self.met.entry(aggregate).or_default();
                *met = version.max(*met);
            }
            self.next = next;
            if self.next.is_none() {
                self.types.pop();
            }
        }
        if self.types.is_empty() || self.met.len() >= AGGREGATES_AT_ONCE {
            self.look(deadline).await?;
        }
        Ok(!self.types.is_empty())
    }

    /// Reads the rows of those that were met, and advances those behind.
    async fn look(&mut self, deadline: Deadline) -> Result<(), Failed> {
        let met: Vec<_> = self.met.keys().cloned().collect();
        let rows = self.worker.store().read_rows(self.rule, &met, deadline).await?;
        let mut behind = Vec::new();
        let (mut counts, revision) = (self.counts, self.rule.revision());
        for (id, version) in &self.met {
            let row = rows.get(id).cloned().unwrap_or_default();
            if row.revision > revision {
                return Err(Failed(newer_revision(self.rule, row.revision)));
            }
            counts.aggregates += 1;
            let stale = row.version > Version::NONE && row.revision < revision;
            if row.parked_at.is_some() {
                counts.parked += 1;
            } else if stale || row.version < *version {
                behind.push(id.clone());
            }
        }
        if let Err(failed) = sweep_all(self.worker, self.rule, &behind, IfStuck::AskBreaker, &mut counts, deadline).await {
            self.counts = self.counts.with_done_of(counts);
            return Err(failed);
        }
        self.counts = counts;
        self.met.clear();
        Ok(())
    }
}
