//! Turns pages of events, from a scan or an export, into histories: aggregate by aggregate, each with its row.
//!
//! Only the row and the fold of a history are in memory, however long it is.

use std::collections::BTreeSet;

use projection_vocabulary::{AggregateId, DynProjection, HomeRow, Version};

use crate::{
    engine::{
        content::concerns,
        reproject::{FoldStop, HistoryFold},
    },
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

impl Visit {
    /// A visit of `ann`.
    #[cfg(test)]
    pub(super) fn of(row: HomeRow, folded: HistoryFold, beyond: u64) -> Self {
        let first = Version::NONE.next();
        Self { aggregate: "ann".into(), row, folded, events: 0, beyond, first, up_to: Version(u64::MAX) }
    }

    /// Whether the events met so far do not lead where the event store does: a scan may return only a part of a history, or less than the
    /// row counts, because the row is read later. The event store has the rest by now.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        // A history without its first event begins with a hole.
        self.folded.stop.as_ref().map_or(self.folded.due <= self.row.version, |stop| *stop == FoldStop::Hole)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::fixture::{Guests, fold, fold_without, happened, rang, refused, stayed, worker};

    /// The row of `ann` counts her first event, and histories are folded up to their second.
    #[tokio::test]
    async fn a_history_is_given_with_its_row_once_another_begins() {
        let worker = worker().await;
        let ann = happened(&worker, "ann", [stayed(1), rang(), stayed(1)]).await;
        let ben = happened(&worker, "ben", [stayed(1), stayed(1)]).await;
        let mut histories = Histories::new(&Guests, |_, _| Version(2));
        let mut ended = Vec::new();
        for page in [&[&ann[0], &ann[1]][..], &[&ann[2], &ben[0]], &[&ben[1]]] {
            let page = page.iter().map(|event| (event.aggregate.clone(), Stored::Event((*event).clone()))).collect();
            ended.extend(histories.page(worker.store(), page, Deadline::NONE).await.expect("the store answers"));
        }
        assert_eq!(histories.open().map(AggregateId::as_str), Some("ben"));
        ended.extend(histories.end());
        let told = |Visit { aggregate, row, folded, events, beyond, first, .. }: Visit| {
            (aggregate.to_string(), [row.version.0, folded.due.0, events, beyond, first.0])
        };
        let told: Vec<_> = ended.into_iter().map(told).collect();
        assert_eq!(told, [("ann".to_owned(), [1, 3, 3, 1, 1]), ("ben".to_owned(), [1, 3, 2, 1, 1])]);
    }

    #[test]
    fn a_visit_is_partial_if_events_are_missing_or_its_row_counts_more() {
        let three = || [stayed(1), stayed(1), stayed(1)];
        for (folded, row_version, expected) in [
            (fold(three()), 3, false),
            (fold(three()), 0, false),
            (fold([stayed(1), stayed(1)]), 2, false),
            (fold([stayed(1), stayed(1)]), 3, true),
            (fold_without(2, three()), 1, true),
            (fold_without(1, three()), 0, true),
            (fold([]), 1, true),
            // The event is there, and reading it again does not help.
            (fold([stayed(1), stayed(1), refused()]), 3, false),
        ] {
            let due = folded.due;
            let row = HomeRow { version: Version(row_version), ..HomeRow::default() };
            assert_eq!(Visit::of(row, folded, 0).is_partial(), expected, "due {due}, row at {row_version}");
        }
    }
}
