//! In what wrong rows differ from what they must be.

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{AggregateId, Cell, Children, Contribution, DynProjection, Kind, RowId, RowKey, Version};

use super::{RowFinding, SharedFinding, Verified};
use crate::{
    engine::{reproject::fold_history, worker::Worker},
    operations::{
        contributions::contributed_to,
        differs::{Differs, between, of_attributes},
        error::OperationError,
    },
    retry::Deadline,
};

/// In what the rows with a finding differ. They are read again, so a row that has moved since may not differ any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Differences {
    /// By aggregate: its own attributes, its version, and what it contributes to shared rows.
    pub home: BTreeMap<AggregateId, Vec<Differs>>,
    /// By child row: its attributes.
    pub children: BTreeMap<RowId, Vec<Differs>>,
    /// By attribute of a shared row: what it holds, and what home rows contribute to it.
    pub shared: BTreeMap<Cell, Differs>,
}

/// In what the first `limit` rows with a finding differ.
///
/// # Errors
/// [`OperationError`].
pub async fn differences(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    verified: &Verified,
    limit: usize,
    deadline: Deadline,
) -> Result<Differences, OperationError> {
    let (store, mut differences) = (worker.store(), Differences::default());
    for (id, finding) in verified.home.iter().take(limit) {
        let row = store.home_row(rule, id, deadline).await?;
        // A drifted row is wrong at its own version; the others are at the wrong one.
        let at_its_version = matches!(finding, RowFinding::Drifted | RowFinding::Parked) && !row.is_outdated(rule.revision());
        let up_to = if at_its_version { row.version } else { Version(u64::MAX) };
        let fresh = fold_history(store, rule, id, up_to, deadline).await?.row();
        differences.home.insert(id.clone(), between(&row, &fresh));
    }
    let limit = limit.saturating_sub(verified.home.len());
    let mut by_aggregate: BTreeMap<AggregateId, Vec<&RowId>> = BTreeMap::new();
    for child in verified.children.keys().take(limit) {
        by_aggregate.entry(AggregateId::from(child.key.as_str())).or_default().push(child);
    }
    for (id, children) in by_aggregate {
        let row = store.home_row(rule, &id, deadline).await?;
        let folded = fold_history(store, rule, &id, row.version, deadline).await?;
        let mut found = Children::new();
        store.each_child(rule, &RowKey::from(&id), deadline, |sort, child| _ = found.insert(sort, child)).await?;
        for child in children {
            let of = |all: &Children| child.child.as_ref().and_then(|sort| all.get(sort)).cloned().unwrap_or_default();
            differences.children.insert(child.clone(), of_attributes(&of(&found), &of(folded.children())));
        }
    }
    let limit = limit.saturating_sub(verified.children.len());
    let cells: BTreeSet<_> = verified.shared.iter().take(limit).map(|(cell, _)| cell).collect();
    if cells.is_empty() {
        return Ok(differences);
    }
    let keys: BTreeSet<_> = cells.iter().map(|(row, _)| row.clone()).collect();
    let rows = store.rows(rule, keys, deadline).await?;
    let contributed = contributed_to(store, rule, &cells, deadline).await?;
    for cell in cells {
        let held = rows.get(&cell.0).and_then(|row| row.shared.get(&cell.1));
        let is_sum = matches!(verified.shared.get(cell), Some(SharedFinding::Sum(_) | SharedFinding::Unsettled));
        let kinds = match held.and_then(|held| held.mark) {
            _ if is_sum => vec![Kind::Sum],
            Some(mark) => vec![mark.kind],
            None => vec![Kind::Max, Kind::Set],
        };
        let to = kinds.into_iter().find_map(|kind| contributed.to(cell, kind)).map(Contribution::value);
        let from = held.and_then(|held| held.value.clone());
        differences.shared.insert(cell.clone(), Differs { attribute: cell.1.clone(), contributed_to: None, from, to });
    }
    Ok(differences)
}
