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

use super::{ChildFinding, Suspects, Verification};
use crate::{
    engine::{reproject::HistoryFold, worker::CONCURRENCY},
    operations::{error::OperationError, histories::Visit},
    store::{events::PAGE_EVENTS, verification::ScannedRows},
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
        let is_another = now.rewritten != row.rewritten || now.unfinished.is_some() || now.version < row.version;
        if is_another || now.revision != row.revision && row.version > Version::NONE {
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

    /// Adds those of these histories to the suspects whose child rows are not those of the fold.
    pub(super) async fn suspect_children(&self, visits: Vec<Visit>, suspects: &mut Suspects) -> Result<(), OperationError> {
        if self.rule.children().is_none() {
            return Ok(());
        }
        let checks = visits.into_iter().map(|Visit { aggregate, row, folded, .. }| async move {
            let wrong = !self.check_children(&aggregate, &row, folded).await?.is_empty();
            Ok::<_, OperationError>(wrong.then_some(aggregate))
        });
        let wrong: Vec<_> = stream::iter(checks).buffer_unordered(CONCURRENCY).try_collect().await?;
        suspects.home.extend(wrong.into_iter().flatten());
        Ok(())
    }

    /// Counts aggregates that have child rows and no home row with events, and suspects them. Those without events stand on nothing.
    pub(super) async fn suspect_orphaned_children(&self, keys: BTreeSet<RowKey>, suspects: &mut Suspects) -> Result<(), OperationError> {
        let ids: Vec<_> = keys.iter().map(|key| AggregateId::from(key.as_str())).collect();
        // The home row may have been made after the scan passed it.
        let rows = self.store().read_rows(self.rule, &ids, self.deadline).await?;
        for id in ids {
            if rows.get(&id).is_some_and(|row| row.version > Version::NONE) {
                continue;
            }
            suspects.footing.rows += 1;
            suspects.footing.without_event += u64::from(!self.has_events(&id).await?);
            suspects.home.insert(id);
        }
        Ok(())
    }

    pub(super) async fn has_events(&self, id: &AggregateId) -> Result<bool, OperationError> {
        let all = Version::NONE.next()..=Version(u64::MAX);
        Ok(!self.store().load_page(id, all, 1, self.deadline).await?.is_empty())
    }
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

/// Finds keys that have child rows and no home row with events, page by page. A scan gives a home row before its child rows.
#[derive(Default)]
pub(super) struct Homes {
    last: Option<RowKey>,
}

impl Homes {
    /// The keys on a page under which there are child rows alone.
    pub(super) fn without(&mut self, page: &ScannedRows) -> BTreeSet<RowKey> {
        let homes: BTreeSet<_> = page.rows.iter().filter(|row| row.home.version > Version::NONE).map(|row| &row.key).collect();
        let has_home = |key: &&RowKey| homes.contains(key) || self.last.as_ref() == Some(*key);
        let without = page.children.keys().filter(|key| !has_home(key)).cloned().collect();
        // The next page may go on with the child rows of the key that this one ends with.
        if let Some(last) = page.last.clone() {
            self.last = (homes.contains(&last) || self.last.as_ref() == Some(&last)).then_some(last);
        }
        without
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::home::Row;

    /// A page that ends with the key `last`: the keys of home rows with their versions, and those of child rows.
    fn page(homes: &[(&str, u64)], children: &[&str], last: &str) -> ScannedRows {
        let row = |(key, version): &(&str, u64)| Row {
            key: (*key).into(),
            home: HomeRow { version: Version(*version), ..HomeRow::default() },
            shared: BTreeMap::new(),
            corrected: "".into(),
        };
        ScannedRows {
            rows: homes.iter().map(row).collect(),
            children: children.iter().map(|key| ((*key).into(), 1)).collect(),
            next: None,
            last: Some(last.into()),
        }
    }

    #[test]
    fn child_rows_without_a_home_row_are_found_wherever_the_pages_are_cut() {
        // Each page, and the keys that are found on it.
        let scans = [
            vec![(page(&[("a", 1)], &["a", "b"], "b"), vec!["b"])],
            // The home row of a stands on the page before, and on the page before that.
            vec![
                (page(&[("a", 1)], &["a"], "a"), vec![]),
                (page(&[], &["a"], "a"), vec![]),
                (page(&[("c", 1)], &["a", "b", "c"], "c"), vec!["b"]),
                (page(&[], &["a", "c"], "c"), vec!["a"]),
            ],
            // A shared row, or a row whose version is lost, is no home row with events.
            vec![(page(&[("a", 0)], &["a"], "a"), vec!["a"]), (page(&[], &["a"], "a"), vec!["a"])],
            // A page without rows, as a filter or a limit may give it.
            vec![
                (page(&[("a", 1)], &[], "a"), vec![]),
                (ScannedRows { last: None, ..page(&[], &[], "") }, vec![]),
                (page(&[], &["a"], "a"), vec![]),
            ],
        ];
        for pages in scans {
            let mut homes = Homes::default();
            for (at, (page, expected)) in pages.iter().enumerate() {
                assert_eq!(homes.without(page), expected.iter().map(|key| RowKey::from(*key)).collect(), "page {at}");
            }
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
