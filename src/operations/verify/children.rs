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
    use super::*;

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
