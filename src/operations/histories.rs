//! Histories out of pages: what a scan or an export has of events, aggregate by aggregate, beside the row that each aggregate has.
//!
//! However long a history is, a pass holds a row and a fold of it.

use std::collections::BTreeSet;

use projection_vocabulary::{AggregateId, DynProjection, HomeRow, Version};

use crate::{
    engine::{content::concerns, reproject::HistoryFold},
    retry::Deadline,
    store::{Store, StoreError, events::Stored},
};

/// How far to fold a history, by the row beside it.
pub type UpTo = fn(&dyn DynProjection, &HomeRow) -> Version;

/// Goes through histories.
pub struct Pass {
    rule: &'static dyn DynProjection,
    up_to: UpTo,
    /// The aggregate whose history may go on with the next page.
    open: Option<Visit>,
}

/// One aggregate: its row, read after its first events were, and what they come to.
pub struct Visit {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// Its row when its first event was met.
    pub row: HomeRow,
    /// The fold as far as it was asked for.
    pub folded: HistoryFold,
    /// How many events follow the row that concern the rule.
    pub beyond: u64,
    /// The first version that was met: if it is not 1, this is a piece of a history.
    pub first: Version,
    up_to: Version,
}

impl Pass {
    /// A pass for a rule.
    #[must_use]
    pub fn new(rule: &'static dyn DynProjection, up_to: UpTo) -> Self {
        Self { rule, up_to, open: None }
    }

    /// Takes the next page, and gives those aggregates whose histories have ended. The last of the page stays open.
    ///
    /// # Errors
    /// [`StoreError`]: begin again behind the last one that was given.
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
                ended.extend(self.open.replace(Visit { aggregate, row, folded, beyond: 0, first: stored.version(), up_to }));
            }
            let visit = self.open.as_mut().expect("opened if it was not");
            visit.beyond += u64::from(stored.version() > visit.row.version && concerns(self.rule, &stored));
            if stored.version() <= visit.up_to {
                visit.folded.push(stored);
            }
        }
        Ok(ended)
    }

    /// The aggregate that is open.
    #[must_use]
    pub fn open(&self) -> Option<&AggregateId> {
        self.open.as_ref().map(|visit| &visit.aggregate)
    }

    /// The last aggregate, when there are no more pages.
    pub fn end(&mut self) -> Option<Visit> {
        self.open.take()
    }
}
