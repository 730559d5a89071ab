//! Compares child rows with the fold of their aggregate's history.
//!
//! An aggregate's child rows are many items, read one page after the other, while the worker changes them. But each of its writes moves
//! their home row, so the home row, read again afterwards, tells which events may have come between: the child rows that these events
//! write are left out, and every other one is the fold's or it is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::{AggregateId, Children, HomeRow, RowId, RowKey, Version};

use super::{ChildFinding, Verification};
use crate::{
    engine::{reproject::HistoryFold, worker::CONCURRENCY},
    operations::{error::OperationError, footing::Footing, histories::Visit},
    store::events::PAGE_EVENTS,
};

impl Verification<'_> {
    /// What is wrong with the child rows of an aggregate, given its home row and the fold up to its version. Nothing is found if somebody
    /// re-projects the aggregate meanwhile, which makes them right.
    pub(super) async fn check_children(
        &self,
        id: &AggregateId,
        row: &HomeRow,
        mut folded: HistoryFold,
    ) -> Result<BTreeMap<RowId, ChildFinding>, OperationError> {
        if self.rule.children().is_none() || folded.due <= row.version {
            return Ok(BTreeMap::new());
        }
        let mut found = Children::new();
        self.store().each_child(self.rule, &id.into(), self.deadline, |sort, child| _ = found.insert(sort, child)).await?;
        let mut wrong = compared(&found, folded.children());
        if wrong.is_empty() {
            return Ok(BTreeMap::new());
        }
        let now = self.store().home_row(self.rule, id, self.deadline).await?;
        if is_re_projected(row, &now) {
            return Ok(BTreeMap::new());
        }
        let mut touched = BTreeSet::new();
        while folded.due <= now.version && folded.stop.is_none() {
            let page = self.store().load_page(id, folded.due..=now.version, PAGE_EVENTS, self.deadline).await?;
            if page.is_empty() {
                break;
            }
            for stored in page {
                touched.extend(folded.push(stored).children().keys().cloned());
            }
        }
        wrong.retain(|sort, _| !touched.contains(sort));
        Ok(wrong.into_iter().map(|(sort, finding)| (RowId { key: id.into(), child: Some(sort) }, finding)).collect())
    }

    /// Those of these histories whose child rows are not those of the fold.
    pub(super) async fn suspect_children(&self, visits: Vec<Visit>) -> Result<Vec<AggregateId>, OperationError> {
        if self.rule.children().is_none() {
            return Ok(Vec::new());
        }
        let checks = visits.into_iter().map(|Visit { aggregate, row, folded, .. }| async move {
            let wrong = !self.check_children(&aggregate, &row, folded).await?.is_empty();
            Ok::<_, OperationError>(wrong.then_some(aggregate))
        });
        let wrong: Vec<_> = stream::iter(checks).buffer_unordered(CONCURRENCY).try_collect().await?;
        Ok(wrong.into_iter().flatten().collect())
    }

    /// Those of these keys of child rows that have no home row with events. Those without events stand on nothing.
    pub(super) async fn without_home(
        &self,
        keys: impl Iterator<Item = RowKey>,
        footing: &mut Footing,
    ) -> Result<Vec<AggregateId>, OperationError> {
        let mut ids: Vec<_> = keys.map(|key| AggregateId::from(key.as_str())).collect();
        // The home row may be on the page before, or made after the scan passed it.
        let rows = self.store().read_rows(self.rule, &ids, self.deadline).await?;
        ids.retain(|id| rows.get(id).is_none_or(|row| row.version == Version::NONE));
        footing.rows += ids.len() as u64;
        for id in &ids {
            footing.without_event += u64::from(!self.has_events(id).await?);
        }
        Ok(ids)
    }

    pub(super) async fn has_events(&self, id: &AggregateId) -> Result<bool, OperationError> {
        let all = Version::NONE.next()..=Version(u64::MAX);
        Ok(!self.store().load_page(id, all, 1, self.deadline).await?.is_empty())
    }
}

/// Whether a home row has become another one in other ways than by its next events.
fn is_re_projected(row: &HomeRow, now: &HomeRow) -> bool {
    // One that was not there had no revision.
    let by_another = row.version > Version::NONE && now.revision != row.revision;
    by_another || now.rewritten != row.rewritten || now.unfinished.is_some() || now.version < row.version
}

/// What is wrong with child rows, by sort key.
fn compared(found: &Children, right: &Children) -> BTreeMap<Arc<str>, ChildFinding> {
    let missing = right.keys().filter(|sort| !found.contains_key(*sort)).map(|sort| (sort.clone(), ChildFinding::Missing));
    let others = found.iter().filter_map(|(sort, child)| match right.get(sort) {
        None => Some((sort.clone(), ChildFinding::Extra)),
        Some(right) => (right != child).then(|| (sort.clone(), ChildFinding::Different)),
    });
    missing.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::{Client, types::AttributeValue};
    use projection_vocabulary::{HOME_SORT, RecordedEvent, data};

    use super::*;
    use crate::{
        engine::{reproject::fold_history, worker::Worker},
        operations::fixture::{Happened, Notes, applied, happened, refused, row, stayed, unfinished, worker_of},
        retry::Deadline,
    };

    fn verification(worker: &Worker) -> Verification<'_> {
        Verification { worker, rule: &Notes, deadline: Deadline::NONE }
    }

    fn stayed_in_blue() -> Happened {
        ("Stayed", data! { room: "blue", nights: 1 })
    }

    fn text(text: &str) -> AttributeValue {
        AttributeValue::S(text.to_owned())
    }

    async fn forget_home(client: &Client, id: &str) {
        let home = client.delete_item().table_name("notes").key("id", text(id)).key("room", text(HOME_SORT));
        home.send().await.expect("deleted");
    }

    /// What is wrong with the child rows of `ann`, whose home row was at this version when it was read.
    async fn wrong(worker: &Worker, row: &HomeRow) -> Vec<(String, ChildFinding)> {
        let (id, this) = (AggregateId::from("ann"), verification(worker));
        let folded = fold_history(worker.store(), &Notes, &id, row.version, Deadline::NONE).await.expect("read");
        let wrong = this.check_children(&id, row, folded).await.expect("read");
        wrong.into_iter().map(|(id, finding)| (id.child.expect("a child row").to_string(), finding)).collect()
    }

    #[tokio::test]
    async fn child_rows_that_the_next_events_write_are_not_wrong_and_others_are() {
        let (worker, client) = worker_of(&[&Notes]).await;
        let events = happened(&worker, "ann", [stayed(1), stayed(2), stayed_in_blue()]).await;
        let id = AggregateId::from("ann");
        let first = worker.store().home_row(&Notes, &id, Deadline::NONE).await.expect("read");
        for event in &events[1..] {
            applied(&worker, event).await;
        }
        assert_eq!(wrong(&worker, &first).await, []);
        let extra = client.put_item().table_name("notes").item("id", text("ann")).item("room", text("green"));
        extra.send().await.expect("put");
        let expected = [("green".to_owned(), ChildFinding::Extra)];
        assert_eq!(wrong(&worker, &first).await, expected);
        let now = worker.store().home_row(&Notes, &id, Deadline::NONE).await.expect("read");
        assert_eq!(wrong(&worker, &now).await, expected);
        assert_eq!(wrong(&worker, &HomeRow { rewritten: "since".into(), ..now }).await, [], "it is right then");
    }

    /// The event store was changed since the home row has passed the event.
    #[tokio::test]
    async fn a_history_that_stops_says_nothing_of_what_follows() {
        let (worker, client) = worker_of(&[&Notes]).await;
        let events = happened(&worker, "ann", [stayed(1), stayed(2), stayed_in_blue()]).await;
        let first = worker.store().home_row(&Notes, &"ann".into(), Deadline::NONE).await.expect("read");
        for event in &events[1..] {
            applied(&worker, event).await;
        }
        let (event_type, data) = refused();
        let refused = RecordedEvent { event_type: event_type.into(), data, ..events[1].clone() };
        let item = crate::store::item::encode_event(&refused);
        client.put_item().table_name("event-store").set_item(Some(item)).send().await.expect("put");
        let expected = [("blue".to_owned(), ChildFinding::Extra), ("red".to_owned(), ChildFinding::Different)];
        assert_eq!(wrong(&worker, &first).await, expected);
    }

    #[tokio::test]
    async fn a_history_is_suspected_if_its_child_rows_are_not_those_of_the_fold() {
        let (worker, client) = worker_of(&[&Notes]).await;
        happened(&worker, "ann", [stayed(1)]).await;
        let suspected = async || {
            let row = worker.store().home_row(&Notes, &"ann".into(), Deadline::NONE).await.expect("read");
            let folded = fold_history(worker.store(), &Notes, &"ann".into(), row.version, Deadline::NONE).await.expect("read");
            verification(&worker).suspect_children(vec![Visit::of(row, folded, 0)]).await.expect("read")
        };
        assert_eq!(suspected().await, []);
        let red = client.delete_item().table_name("notes").key("id", text("ann")).key("room", text("red"));
        red.send().await.expect("deleted");
        assert_eq!(suspected().await, ["ann".into()]);
    }

    #[tokio::test]
    async fn child_rows_without_a_home_row_stand_on_events_or_on_nothing() {
        let (worker, client) = worker_of(&[&Notes]).await;
        let events = happened(&worker, "ann", [stayed(1)]).await;
        happened(&worker, "ben", [stayed(1)]).await;
        for id in ["cid", "dan"] {
            applied(&worker, &RecordedEvent { aggregate: id.into(), ..events[0].clone() }).await;
        }
        for id in ["ben", "cid", "dan"] {
            forget_home(&client, id).await;
        }
        let mut footing = Footing::default();
        let keys = ["ann", "ben", "cid", "dan"].map(RowKey::from);
        let without = verification(&worker).without_home(keys.into_iter(), &mut footing).await.expect("read");
        let expected = ["ben", "cid", "dan"].map(AggregateId::from).to_vec();
        assert_eq!((without, footing), (expected, Footing { rows: 3, without_event: 2 }));
    }

    #[test]
    fn a_home_row_is_re_projected_if_it_changes_otherwise_than_by_its_next_events() {
        let (one, two) = (|| row(2, [stayed(1)]), || row(2, [stayed(1), stayed(1)]));
        let none = HomeRow::default;
        let rewritten = || HomeRow { rewritten: "since".into(), ..one() };
        for (before, now, expected) in [
            (one(), one(), false),
            (one(), two(), false),
            (none(), none(), false),
            // Its first event has made it.
            (none(), one(), false),
            (two(), one(), true),
            (one(), rewritten(), true),
            (rewritten(), rewritten(), false),
            (one(), row(3, [stayed(1)]), true),
            (one(), unfinished(one(), 2), true),
            (none(), unfinished(none(), 2), true),
        ] {
            assert_eq!(is_re_projected(&before, &now), expected, "{before:?} and {now:?}");
        }
    }

    #[test]
    fn child_rows_are_missing_different_or_extra() {
        let all = |rows: &[(&str, i32)]| -> Children {
            rows.iter().map(|(sort, n)| ((*sort).into(), [("n".to_owned(), (*n).into())].into())).collect()
        };
        let found = compared(&all(&[("same", 1), ("other", 1), ("extra", 1)]), &all(&[("same", 1), ("other", 2), ("missing", 1)]));
        let expected = [("extra", ChildFinding::Extra), ("missing", ChildFinding::Missing), ("other", ChildFinding::Different)];
        assert_eq!(found, expected.map(|(sort, finding)| (sort.into(), finding)).into());
    }
}
