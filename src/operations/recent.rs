//! Catching up with the aggregates that have recent events, found by the index by event type.

use std::collections::BTreeMap;

use projection_vocabulary::{AggregateId, DynProjection, Timestamp, Version};

use crate::{
    engine::worker::{IfStuck, Worker},
    operations::{
        catch_up::catch_up_all,
        error::{OperationError, refuse_newer_revision},
    },
    progress::Counts,
    retry::Deadline,
    store::events::IndexCursor,
};

/// How many aggregates are collected before their rows are read: ten requests' worth.
const AGGREGATES_AT_ONCE: usize = 1_000;

/// Catches up with everything that has happened since a time. It uses the index by event type, so it finds the aggregates that are
/// behind without scanning the event store. It goes by the events' own timestamps, so it misses events imported with older ones.
/// An index is always slightly late, so it also misses the events of the last seconds.
pub struct Recent<'a> {
    worker: &'a Worker,
    rule: &'static dyn DynProjection,
    since: Timestamp,
    /// The remaining event types, the current one last.
    types: Vec<&'static str>,
    /// Where the query for the current event type continues.
    next: Option<IndexCursor>,
    /// The highest version found for each aggregate whose row has not been read yet.
    met: BTreeMap<AggregateId, Version>,
    counts: Counts,
}

impl<'a> Recent<'a> {
    /// A catch-up with a projection's events since a time.
    #[must_use]
    pub fn new(worker: &'a Worker, rule: &'static dyn DynProjection, since: Timestamp) -> Self {
        let types = rule.event_types().iter().rev().copied().collect();
        Self { worker, rule, since, types, next: None, met: BTreeMap::new(), counts: Counts::default() }
    }

    /// The counts so far. An aggregate counts each time its row is read.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Processes the next page of the index. Returns whether there is another.
    ///
    /// # Errors
    /// [`OperationError`]. The next call continues at the same place.
    pub async fn step(&mut self, deadline: Deadline) -> Result<bool, OperationError> {
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
            self.catch_up_found(deadline).await?;
        }
        Ok(!self.types.is_empty())
    }

    /// Reads the rows of the aggregates found, and advances those that are behind.
    async fn catch_up_found(&mut self, deadline: Deadline) -> Result<(), OperationError> {
        let met: Vec<_> = self.met.keys().cloned().collect();
        let rows = self.worker.store().read_rows(self.rule, &met, deadline).await?;
        let mut behind = Vec::new();
        let (mut counts, revision) = (self.counts, self.rule.revision());
        for (id, version) in &self.met {
            let row = rows.get(id).cloned().unwrap_or_default();
            refuse_newer_revision(self.rule, &row)?;
            counts.aggregates += 1;
            let stale = row.is_outdated(revision);
            if row.parked_at.is_some() {
                counts.parked += 1;
            } else if stale || row.version < *version {
                behind.push(id.clone());
            }
        }
        if let Err(error) = catch_up_all(self.worker, self.rule, &behind, IfStuck::AskBreaker, &mut counts, deadline).await {
            self.counts = self.counts.with_done_of(counts);
            return Err(error);
        }
        self.counts = counts;
        self.met.clear();
        Ok(())
    }
}
