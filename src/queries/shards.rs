//! Rows whose shared attributes are spread over shards, put together again.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    iter,
};

use projection_vocabulary::{Contribution, DynProjection, HomeRow, Kind, RowKey, Value, shards_of};

use super::error::QueryError;
use crate::{
    retry::Deadline,
    store::{
        Store, StoreError,
        home::{Row, SharedCell, foreign_row, row_of},
        item::SdkItem,
        reads::Consistency,
    },
};

/// A row of which nothing is missing: what its aggregate owns, and what all shards have of what others contribute.
#[derive(Debug, Default)]
pub struct WholeRow {
    pub home: HomeRow,
    pub shared: BTreeMap<String, SharedCell>,
}

/// The row that an item is by itself.
pub fn whole(rule: &dyn DynProjection, item: SdkItem) -> Result<WholeRow, StoreError> {
    row_of(rule, item).map(|Row { home, shared, .. }| WholeRow { home, shared })
}

/// The rows of these keys, which differ from each other; those that exist, or of which a shard does. For projections with shards.
///
/// An aggregate contributes to one shard. So each of them is in the answer as it was at one instant, though a request that reads several
/// rows does not read them at the same one. The row itself has what was contributed before there were shards.
pub async fn rows(
    store: &Store,
    rule: &dyn DynProjection,
    keys: &[RowKey],
    consistency: Consistency,
    deadline: Deadline,
) -> Result<HashMap<RowKey, WholeRow>, QueryError> {
    let shards = |row| shards_of(row, rule.shards());
    let asked: Vec<_> = keys.iter().flat_map(|row| iter::once(row.clone()).chain(shards(row))).collect();
    let mut items = store.get_rows(rule, &asked, consistency, deadline).await?;
    let mut found = HashMap::new();
    for key in keys {
        let home = items.remove(key);
        let of_shards: Vec<_> = shards(key).filter_map(|shard| items.remove(&shard)).collect();
        if home.is_none() && of_shards.is_empty() {
            continue;
        }
        let mut row = home.map(|item| whole(rule, item)).transpose()?.unwrap_or_default();
        for item in of_shards {
            for (attribute, cell) in row_of(rule, item)?.shared {
                match row.shared.entry(attribute) {
                    Entry::Vacant(entry) => _ = entry.insert(cell),
                    Entry::Occupied(entry) => combine(entry.into_mut(), cell)?,
                }
            }
        }
        found.insert(key.clone(), row);
    }
    Ok(found)
}

/// Combines what two shards have of an attribute, as their aggregates' contributions are combined. While rows are rebuilt, shards may have
/// it from two revisions that combine it in two ways: the newer one counts.
fn combine(cell: &mut SharedCell, other: SharedCell) -> Result<(), StoreError> {
    let (Some(mark), Some(of_other)) = (cell.mark, other.mark) else {
        // Without a mark it is taken back, and about to be settled.
        if cell.mark.is_none() {
            *cell = other;
        }
        return Ok(());
    };
    if mark.kind != of_other.kind {
        if mark.revision < of_other.revision {
            *cell = other;
        }
        return Ok(());
    }
    let foreign = || foreign_row("a shared attribute is not what its mark says");
    cell.value = match (cell.value.take(), other.value) {
        (Some(value), Some(more)) => {
            let mut combined = contribution(mark.kind, value).ok_or_else(foreign)?;
            combined.combine(&contribution(mark.kind, more).ok_or_else(foreign)?).map_err(|_| foreign())?;
            Some(combined.value())
        }
        (value, more) => value.or(more),
    };
    cell.mark = Some(mark.max(of_other));
    Ok(())
}

fn contribution(kind: Kind, value: Value) -> Option<Contribution> {
    match (kind, value) {
        (Kind::Sum, Value::Number(sum)) => Some(Contribution::Sum(sum)),
        (Kind::Max, value) => Some(Contribution::Max(value)),
        (Kind::Set, Value::TextSet(members)) => Some(Contribution::Set(members)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use projection_vocabulary::Mark;

    use super::*;

    fn cell(mark: Option<(Kind, u32)>, value: Option<Value>) -> SharedCell {
        SharedCell { value, mark: mark.map(|(kind, revision)| Mark { kind, revision }), ..SharedCell::default() }
    }

    fn set(members: &[&str]) -> Value {
        Value::TextSet(members.iter().map(|member| (*member).into()).collect::<BTreeSet<_>>())
    }

    /// Asserts what two cells are together, whichever comes first.
    fn assert_together(one: &SharedCell, other: &SharedCell, together: &SharedCell) {
        for [first, second] in [[one, other], [other, one]] {
            let mut found = first.clone();
            combine(&mut found, second.clone()).expect("the rule wrote both");
            assert_eq!(found, *together);
        }
    }

    #[test]
    fn what_shards_have_of_an_attribute_is_combined_by_its_kind() {
        for (kind, one, other, together) in [
            (Kind::Sum, 3.into(), (-5).into(), (-2).into()),
            (Kind::Max, 3.into(), 5.into(), 5.into()),
            (Kind::Max, "b".into(), "a".into(), "b".into()),
            (Kind::Set, set(&["a", "b"]), set(&["b", "c"]), set(&["a", "b", "c"])),
        ] {
            let of = |value| cell(Some((kind, 1)), Some(value));
            assert_together(&of(one), &of(other), &of(together));
        }
    }

    #[test]
    fn the_newer_revision_decides_how_an_attribute_is_combined() {
        let [older, newer] = [cell(Some((Kind::Sum, 1)), Some(3.into())), cell(Some((Kind::Max, 2)), Some(2.into()))];
        assert_together(&older, &newer, &newer);
        let raised = cell(Some((Kind::Sum, 2)), Some(4.into()));
        assert_together(&older, &raised, &cell(Some((Kind::Sum, 2)), Some(7.into())));
    }

    #[test]
    fn what_is_taken_back_adds_nothing() {
        let written = cell(Some((Kind::Max, 1)), Some(2.into()));
        assert_together(&written, &SharedCell { unsettled: "since".into(), ..cell(None, None) }, &written);
        assert_together(&written, &cell(Some((Kind::Max, 1)), None), &written);
    }

    #[test]
    fn a_value_that_is_not_of_its_kind_is_an_error() {
        for (kind, value) in [(Kind::Sum, "x".into()), (Kind::Set, 1.into()), (Kind::Max, set(&["x"]))] {
            let mut one = cell(Some((kind, 1)), Some(if kind == Kind::Set { set(&["a"]) } else { 1.into() }));
            assert!(combine(&mut one, cell(Some((kind, 1)), Some(value))).is_err(), "{kind:?}");
        }
    }
}
