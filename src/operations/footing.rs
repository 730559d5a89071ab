//! Whether the rows of a read model stand on events of the event store: the brake on repairs.
//!
//! A repair trusts the event store, and takes a row back whose events it does not have. That is right for a few rows, or after a
//! restore. If it would happen to many, the likelier cause is that this is not their event store: a variable of another stage, or one
//! into which nothing was imported. So a repair of many needs a word of the operator.

use std::{fmt, ops::AddAssign};

use projection_vocabulary::{AggregateId, DynProjection, Version};
use serde::{Deserialize, Serialize};

use crate::{
    operations::error::OperationError,
    retry::Deadline,
    store::{Store, home::Row, segment::Segment},
};

/// One part in so many of the rows may stand on events that are missing. A single row may, too, unless it is the only one.
const MISSING_PART_IN: u64 = 10;
/// How many rows tell whether an event store is the right one. A scan returns rows in the order of hashes: any of them do.
const SAMPLED_ROWS: u64 = 100;

/// The rows that have applied events, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footing {
    /// Home rows that have applied events.
    pub rows: u64,
    /// Those whose last event, by version and id, the event store does not have.
    pub without_event: u64,
}

/// Why a repair is refused: too many rows stand on events that the event store does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The projection.
    pub projection: &'static str,
    /// The name of the event store's table.
    pub event_store: String,
    /// Its rows.
    pub footing: Footing,
}

impl AddAssign for Footing {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.without_event += other.without_event;
    }
}

impl Footing {
    /// Counts rows, and returns those whose last event the event store does not have.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn count(&mut self, store: &Store, rows: &[Row], deadline: Deadline) -> Result<Vec<AggregateId>, OperationError> {
        let standing = rows.iter().filter(|row| row.home.version > Version::NONE);
        let standing: Vec<_> = standing.map(|row| (AggregateId::from(row.key.as_str()), &row.home)).collect();
        let on_events = store.standing_on_events(standing.iter().map(|(id, row)| (id, *row)), deadline).await?;
        self.rows += standing.len() as u64;
        let without: Vec<_> = standing.into_iter().map(|(id, _)| id).filter(|id| !on_events.contains(id)).collect();
        self.without_event += without.len() as u64;
        Ok(without)
    }

    /// Why not to trust the event store alone; `None` if nothing speaks against it.
    #[must_use]
    pub fn doubt(self, store: &Store, rule: &dyn DynProjection) -> Option<Doubt> {
        let event_store = store.names().event_store.clone();
        self.is_doubtful().then(|| Doubt { projection: rule.name(), event_store, footing: self })
    }

    fn is_doubtful(self) -> bool {
        are_too_many(self.without_event, self.rows)
    }
}

/// Whether a repair must not take so many of so many back without an operator's word.
#[must_use]
pub fn are_too_many(some: u64, all: u64) -> bool {
    some > 0 && (some == all || some > 1 && some * MISSING_PART_IN > all)
}

/// Why not to trust the event store alone, by a sample of a projection's rows; `None` if nothing speaks against it.
///
/// # Errors
/// [`OperationError`].
pub async fn sampled_doubt(store: &Store, rule: &dyn DynProjection, deadline: Deadline) -> Result<Option<Doubt>, OperationError> {
    let (mut footing, mut next) = (Footing::default(), None);
    loop {
        let page = store.scan_rows(rule, Segment::ALL, next, deadline).await?;
        footing.count(store, &page.rows, deadline).await?;
        next = page.next;
        if next.is_none() || footing.rows >= SAMPLED_ROWS {
            return Ok(footing.doubt(store, rule));
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { projection, event_store, footing: Footing { rows, without_event } } = self;
        write!(
            f,
            "the event store `{event_store}` does not have the last event of {without_event} of {rows} rows of {projection}: check that \
             EVENT_STORE_TABLE names their event store and that their events were imported"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use projection_vocabulary::{HomeRow, RecordedEvent};

    use super::*;
    use crate::operations::fixture::{Guests, applied, happened, row, stayed, worker};

    #[test]
    fn many_rows_without_their_events_are_doubtful_and_a_few_are_not() {
        let doubtful = |without_event, rows| Footing { rows, without_event }.is_doubtful();
        for (without_event, rows, expected) in [
            (0, 0, false),
            (0, 100, false),
            (1, 1, true),
            (1, 2, false),
            (2, 2, true),
            (1, 10, false),
            (2, 19, true),
            (2, 20, false),
            (10, 100, false),
            (11, 100, true),
            (100, 100, true),
        ] {
            assert_eq!(doubtful(without_event, rows), expected, "{without_event} of {rows}");
        }
    }

    #[tokio::test]
    async fn a_row_stands_on_the_event_that_it_counts_last() {
        let worker = worker().await;
        happened(&worker, "ann", [stayed(1)]).await;
        let row_of = |id: &str, home| Row { key: id.into(), home, shared: BTreeMap::new(), corrected: "".into() };
        // The fixture's row of ann is also what a row of ben would be; he has no event.
        let rows = [row_of("ann", row(2, [stayed(1)])), row_of("ben", row(2, [stayed(1)])), row_of("room", HomeRow::default())];
        let mut footing = Footing::default();
        let without = footing.count(worker.store(), &rows, Deadline::NONE).await.expect("the store answers");
        assert_eq!((without.as_slice(), footing), (&["ben".into()][..], Footing { rows: 2, without_event: 1 }));
    }

    #[tokio::test]
    async fn each_row_of_a_small_table_counts_once_in_the_sample() {
        let worker = worker().await;
        let event = happened(&worker, "ann", [stayed(1)]).await.remove(0);
        // One of two that is missing is no reason for doubt, half of many is.
        applied(&worker, &RecordedEvent { aggregate: "ben".into(), ..event }).await;
        assert_eq!(sampled_doubt(worker.store(), &Guests, Deadline::NONE).await, Ok(None));
    }
}
