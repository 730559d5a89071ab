//! Turns pages of events, from a scan or an export, into histories: aggregate by aggregate, each with its row.
//!
//! Only the row and the fold of a history are in memory, however long it is.

use std::collections::BTreeSet;

use projection_vocabulary::{AggregateId, DynProjection, HomeRow, Version};

use crate::{
    engine::{content::concerns, reproject::HistoryFold},
    retry::Deadline,
    store::{Store, StoreError, events::Stored},
};

/// Up to which version to fold a history, given its row.
pub type UpTo = fn(&dyn DynProjection, &HomeRow) -> Version;

/// Collects histories, in the order of the pages.
pub struct Histories {
    rule: &'static dyn DynProjection,
    up_to: UpTo,
    /// The aggregate whose history may continue on the next page.
    open: Option<Visit>,
}

/// One aggregate's history: its row, which is read after its first events, and the fold of its events.
pub struct Visit {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// Its row, read when its first event was met.
    pub row: HomeRow,
    /// The fold of its events, up to the version that [`UpTo`] gave.
    pub folded: HistoryFold,
    /// The number of its events.
    pub events: u64,
    /// The number of events beyond the row's version that concern the projection.
    pub beyond: u64,
    /// The first version found. If it is not 1, this is only a part of the history.
    pub first: Version,
    up_to: Version,
}

impl Histories {
    /// Histories before the first page.
    #[must_use]
    pub fn new(rule: &'static dyn DynProjection, up_to: UpTo) -> Self {
        Self { rule, up_to, open: None }
    }

    /// Takes the next page, and returns the histories that have ended. The last one on the page stays open.
    ///
    /// # Errors
    /// [`StoreError`]. Start again after the last history that was returned.
    pub async fn page(&mut self, store: &Store, page: Vec<(AggregateId, Stored)>, deadline: Deadline) -> Result<Vec<Visit>, StoreError> {
        let opened = |open: &Option<Visit>, id: &AggregateId| open.as_ref().is_some_and(|visit| visit.aggregate == *id);
        let begin: BTreeSet<_> = page.iter().map(|(id, _)| id).filter(|id| !opened(&self.open, id)).cloned().collect();
        let rows = store.read_rows(self.rule, &begin.into_iter().collect::<Vec<_>>(), deadline).await?;
        let mut ended = Vec::new();
        for (aggregate, stored) in page {
            if !opened(&self.open, &aggregate) {
                let row = rows.get(&aggregate).cloned().unwrap_or_default();
                let up_to = (self.up_to)(self.rule, &row);
                let folded = HistoryFold::new(self.rule, aggregate.clone());
                ended.extend(self.open.replace(Visit { aggregate, row, folded, events: 0, beyond: 0, first: stored.version(), up_to }));
            }
            let visit = self.open.as_mut().expect("opened above");
            visit.events += 1;
            visit.beyond += u64::from(stored.version() > visit.row.version && concerns(self.rule, &stored));
            if stored.version() <= visit.up_to {
                visit.folded.push(stored);
            }
        }
        Ok(ended)
    }

    /// The aggregate whose history may continue.
    #[must_use]
    pub fn open(&self) -> Option<&AggregateId> {
        self.open.as_ref().map(|visit| &visit.aggregate)
    }

    /// The last aggregate, once there are no more pages.
    pub fn end(&mut self) -> Option<Visit> {
        self.open.take()
    }
}
