//! A projection at a glance: how many rows each revision of its rule has written, and whether they are behind the event store.
//!
//! It proves nothing, because it checks only the newest event of each event type; proof is the job of
//! [`verify`](crate::operations::verify). But it is cheap, and shows at once when the worker has stopped.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::{AggregateId, DynProjection, RecordedEvent, Timestamp, Version};

use crate::{
    engine::{content::concerns, worker::Worker},
    retry::Deadline,
    store::{
        Store, StoreError,
        cursors::SavedCursor,
        events::{PAGE_EVENTS, Stored},
        home::Row,
        segment::Segment,
    },
};

/// The state of a projection, except its parked aggregates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its rows; `None` if they were not counted.
    pub rows: Option<Rows>,
    /// The time of the newest readable event that concerns the projection; `None` if there is none.
    pub newest: Option<Timestamp>,
    /// The aggregates whose rows lack the newest event of some type. An event in flight counts as lacking, too.
    pub behind: Vec<Behind>,
    /// The cursors of an unfinished rebuild, which is running or was interrupted.
    pub rebuild: Vec<SavedCursor>,
}

/// The rows of a read model, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Rows that a reader sees, including shared ones and child rows.
    pub seen: u64,
    /// Home rows that are not parked, by the revision that wrote them last. A parked row keeps its revision until it is redriven,
    /// whatever else one does.
    pub by_revision: BTreeMap<u32, u64>,
}

/// An aggregate whose row is behind its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// The version of its row.
    pub version: Version,
    /// The version of the newest event that was checked.
    pub head: Version,
    /// The time of the first event that its row lacks.
    pub since: Timestamp,
}

impl Rows {
    /// Home rows of an older revision than the rule's: to be rebuilt.
    #[must_use]
    pub fn outdated(&self, rule: &dyn DynProjection) -> u64 {
        self.by_revision.range(..rule.revision()).map(|(_, rows)| rows).sum()
    }

    /// Home rows of a newer revision than the rule's, which this program cannot move.
    #[must_use]
    pub fn newer(&self, rule: &dyn DynProjection) -> u64 {
        self.by_revision.range(rule.revision() + 1..).map(|(_, rows)| rows).sum()
    }

    fn count(&mut self, Row { home, shared, .. }: &Row) {
        if home.version > Version::NONE && home.parked_at.is_none() {
            *self.by_revision.entry(home.revision).or_default() += 1;
        }
        // A row that was parked before its first event and then unparked has only its key.
        self.seen += u64::from(home.version > Version::NONE || home.parked_at.is_some() || !shared.is_empty());
    }
}

/// The state of a projection. Its rows are counted by a parallel scan of `segments` segments; `None` skips the count.
///
/// # Errors
/// [`StoreError`].
pub async fn status(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    segments: Option<u32>,
    deadline: Deadline,
) -> Result<Status, StoreError> {
    let store = worker.store();
    let rows = match segments {
        Some(segments) => Some(count_rows(store, rule, segments, deadline).await?),
        None => None,
    };
    let mut newest = Vec::new();
    for event_type in rule.event_types() {
        let stored = store.load_by_type(event_type, 1).await?;
        newest.extend(stored.into_iter().filter_map(|stored| if let Stored::Event(event) = stored { Some(event) } else { None }));
    }
    Ok(Status {
        rows,
        newest: newest.iter().map(|event| event.timestamp.clone()).max(),
        behind: behind(store, rule, newest, deadline).await?,
        rebuild: store.saved_cursors(rule, deadline).await?,
    })
}

async fn count_rows(store: &Store, rule: &'static dyn DynProjection, segments: u32, deadline: Deadline) -> Result<Rows, StoreError> {
    let counted = Segment::all(segments).map(|segment| async move {
        let (mut rows, mut after) = (Rows::default(), None);
        loop {
            let page = store.scan_rows(rule, segment, after, deadline).await?;
            for row in &page.rows {
                rows.count(row);
            }
            rows.seen += page.children.values().sum::<u64>();
            after = page.next;
            if after.is_none() {
                return Ok::<_, StoreError>(rows);
            }
        }
    });
    let add = async |mut all: Rows, Rows { seen, by_revision }| {
        all.seen += seen;
        for (revision, rows) in by_revision {
            *all.by_revision.entry(revision).or_default() += rows;
        }
        Ok(all)
    };
    stream::iter(counted).buffer_unordered(segments as usize).try_fold(Rows::default(), add).await
}

/// The aggregates of these events whose rows do not have them.
async fn behind(
    store: &Store,
    rule: &'static dyn DynProjection,
    events: Vec<RecordedEvent>,
    deadline: Deadline,
) -> Result<Vec<Behind>, StoreError> {
    let heads = heads(events);
    let aggregates: Vec<_> = heads.keys().cloned().collect();
    // Read after the events, so a row that advances meanwhile is not reported as behind.
    let rows = store.read_rows(rule, &aggregates, deadline).await?;
    let mut behind = Vec::new();
    for (aggregate, event) in heads {
        let version = rows.get(&aggregate).map_or(Version::NONE, |row| row.version);
        if version < event.version {
            let lacking = store.load_page(&aggregate, version.next()..=event.version, PAGE_EVENTS, deadline).await?;
            let first = lacking.into_iter().find(|stored| concerns(rule, stored));
            // An unreadable event has no time. And if a whole page of events does not concern the projection, the first one that does is
            // close to the newest.
            let since = if let Some(Stored::Event(first)) = first { first.timestamp } else { event.timestamp };
            behind.push(Behind { aggregate, version, head: event.version, since });
        }
    }
    Ok(behind)
}

/// The newest of these events of each aggregate.
fn heads(events: Vec<RecordedEvent>) -> BTreeMap<AggregateId, RecordedEvent> {
    let mut heads: BTreeMap<AggregateId, RecordedEvent> = BTreeMap::new();
    for event in events {
        if heads.get(&event.aggregate).is_none_or(|known| known.version < event.version) {
            heads.insert(event.aggregate.clone(), event);
        }
    }
    heads
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{
        HomeRow, data,
        sample::{Fact, record},
    };

    use super::*;
    use crate::{
        operations::fixture::{Guests, applied, happened, parked, rang, row, stayed, worker},
        store::home::SharedCell,
    };

    #[test]
    fn rows_count_by_revision_unless_they_are_parked_and_only_those_that_a_reader_sees() {
        let mut rows = Rows::default();
        let shared: BTreeMap<_, _> = [("nights".to_owned(), SharedCell::default())].into();
        for (home, shared) in [
            (row(1, [stayed(1)]), BTreeMap::new()),
            (row(2, [stayed(1)]), shared.clone()),
            (row(2, [stayed(1)]), BTreeMap::new()),
            (row(3, [stayed(1)]), BTreeMap::new()),
            (parked(row(2, [stayed(1)])), BTreeMap::new()),
            (parked(HomeRow::default()), BTreeMap::new()),
            (HomeRow::default(), shared),
            (HomeRow::default(), BTreeMap::new()),
            (HomeRow::default(), BTreeMap::new()),
        ] {
            rows.count(&Row { key: "ann".into(), home, shared, corrected: "".into() });
        }
        assert_eq!((rows.seen, &rows.by_revision), (7, &[(1, 1), (2, 2), (3, 1)].into()));
        assert_eq!((rows.outdated(&Guests), rows.newer(&Guests)), (1, 1));
    }

    #[test]
    fn the_head_of_an_aggregate_is_its_newest_event() {
        let facts = ["ann", "ben", "ann", "ann"].map(|id| Fact { aggregate: id.into(), event_type: "Stayed", data: data! {} });
        let [one, two, three, four]: [_; 4] = record(facts).collect::<Vec<_>>().try_into().expect("four");
        let again = RecordedEvent { event_id: "again".into(), ..four.clone() };
        let heads: Vec<_> = heads(vec![three, two.clone(), four.clone(), one, again]).into_values().collect();
        assert_eq!(heads, [four, two]);
    }

    #[tokio::test]
    async fn an_aggregate_is_behind_if_its_row_lacks_the_newest_event() {
        let worker = worker().await;
        let ann = happened(&worker, "ann", [stayed(1), rang(), stayed(1), stayed(1)]).await;
        let status = status(&worker, &Guests, None, Deadline::NONE).await.expect("the store answers");
        // The event in between does not concern the projection.
        let since = ann[2].timestamp.clone();
        assert_eq!(status.behind, [Behind { aggregate: "ann".into(), version: Version(1), head: Version(4), since }]);
        assert_eq!((status.rows, status.newest), (None, Some(ann[3].timestamp.clone())));
        applied(&worker, &ann[3]).await;
        let status = self::status(&worker, &Guests, None, Deadline::NONE).await.expect("the store answers");
        assert_eq!(status.behind, []);
    }
}
