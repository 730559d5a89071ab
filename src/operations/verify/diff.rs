//! In what a row differs from what it must be, attribute by attribute.

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{
    AggregateId, Attributes, Cell, Children, Contribution, DynProjection, HomeRow, Kind, RowId, RowKey, Value, Version,
};

use super::{RowFinding, SharedFinding, Verified};
use crate::{
    engine::{reproject::fold_history, worker::Worker},
    operations::{contributions::contributed_to, error::OperationError},
    retry::Deadline,
};

/// One difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Differs {
    /// The attribute.
    pub attribute: String,
    /// The shared row whose attribute it is, if this is what a home row contributes to it.
    pub contributed_to: Option<Cell>,
    /// What it is; `None` if there is nothing.
    pub is: Option<Value>,
    /// What it must be; `None` if it must not be there.
    pub must_be: Option<Value>,
}

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
        let must_be = kinds.into_iter().find_map(|kind| contributed.to(cell, kind)).map(Contribution::value);
        let is = held.and_then(|held| held.value.clone());
        differences.shared.insert(cell.clone(), Differs { attribute: cell.1.clone(), contributed_to: None, is, must_be });
    }
    Ok(differences)
}

/// The attribute, if it is not what it must be.
fn own(attribute: &str, is: Option<Value>, must_be: Option<Value>) -> Option<Differs> {
    (is != must_be).then(|| Differs { attribute: attribute.to_owned(), contributed_to: None, is, must_be })
}

/// In which attributes a row differs from what it must be.
fn of_attributes(row: &Attributes, fresh: &Attributes) -> Vec<Differs> {
    let names: BTreeSet<_> = row.keys().chain(fresh.keys()).collect();
    names.into_iter().filter_map(|name| own(name, row.get(name).cloned(), fresh.get(name).cloned())).collect()
}

/// In what a home row differs from the one that it must be.
fn between(row: &HomeRow, fresh: &HomeRow) -> Vec<Differs> {
    let version = |row: &HomeRow| (row.version > Version::NONE).then(|| Value::Number(row.version.0.into()));
    let last = |row: &HomeRow| row.last_event_id.clone().map(Value::Text);
    let mut all: Vec<_> = own("version", version(row), version(fresh)).into_iter().collect();
    all.extend(own("lastEventId", last(row), last(fresh)));
    all.extend(of_attributes(&row.own, &fresh.own));
    let cells: BTreeSet<_> = [row, fresh].into_iter().flat_map(|row| row.contributions.keys().chain(&row.left)).collect();
    let contribution = |row: &HomeRow, cell: &Cell| {
        let left = row.left.contains(cell).then(|| Value::Number(0.into()));
        row.contributions.get(cell).map(Contribution::value).or(left)
    };
    all.extend(cells.into_iter().filter_map(|cell| {
        let differs = own(&cell.1, contribution(row, cell), contribution(fresh, cell))?;
        Some(Differs { contributed_to: Some(cell.clone()), ..differs })
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attribute_and_contribution_that_differs_is_named_and_no_other() {
        let cell = |attribute: &str| -> Cell { ("shelf".into(), attribute.to_owned()) };
        let row = |version: u64, n: i32, sum: i32| HomeRow {
            version: Version(version),
            last_event_id: Some("e".into()),
            own: [("same".to_owned(), 1.into()), ("n".to_owned(), n.into())].into(),
            contributions: [(cell("sum"), Contribution::Sum(sum.into())), (cell("same"), Contribution::Max(1.into()))].into(),
            ..HomeRow::default()
        };
        let named = |row: &HomeRow, fresh: &HomeRow| -> Vec<(String, bool)> {
            between(row, fresh).into_iter().map(|differs| (differs.attribute, differs.contributed_to.is_some())).collect()
        };
        assert_eq!(named(&row(2, 3, 4), &row(2, 3, 4)), []);
        assert_eq!(named(&row(2, 3, 4), &row(3, 5, 6)), [("version".into(), false), ("n".into(), false), ("sum".into(), true)]);
        let all = ["version", "lastEventId", "n", "same"].map(|name| (name.to_owned(), false));
        let contributed = ["same", "sum"].map(|name| (name.to_owned(), true));
        assert_eq!(named(&HomeRow::default(), &row(2, 3, 4)), [&all[..], &contributed].concat());
    }
}
