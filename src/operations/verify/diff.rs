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

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::{Client, types::AttributeValue};
    use projection_vocabulary::Value;

    use super::*;
    use crate::operations::fixture::{Guests, happened, stayed, worker_of};

    fn key(id: &str) -> AttributeValue {
        AttributeValue::S(id.to_owned())
    }

    /// Makes an attribute of a row this number.
    async fn tamper(client: &Client, id: &str, attribute: &str, number: &str) {
        let update = client.update_item().table_name("guests").key("id", key(id)).update_expression("SET #name = :number");
        let update = update.expression_attribute_names("#name", attribute);
        update.expression_attribute_values(":number", AttributeValue::N(number.to_owned())).send().await.expect("updated");
    }

    fn number(number: i32) -> Value {
        number.into()
    }

    #[tokio::test]
    async fn a_drifted_row_differs_at_its_version_and_one_that_is_behind_from_the_head() {
        let (worker, client) = worker_of(&[&Guests]).await;
        for id in ["ann", "ben", "cid"] {
            happened(&worker, id, [stayed(1), stayed(2)]).await;
        }
        tamper(&client, "ann", "nights", "7").await;
        // Of an older revision, which no row of this one could be.
        tamper(&client, "cid", "revision", "1").await;
        let home = [("ann", RowFinding::Drifted), ("ben", RowFinding::Behind), ("cid", RowFinding::Parked)];
        let verified = Verified { home: home.map(|(id, finding)| (id.into(), finding)).into(), ..Verified::default() };
        let found = differences(&worker, &Guests, &verified, 9, Deadline::NONE).await.expect("read").home;
        let of = |id: &str| {
            let own = found[&AggregateId::from(id)]
                .iter()
                .filter(|differs| differs.contributed_to.is_none() && differs.attribute != "lastEventId");
            own.map(|differs| (differs.attribute.as_str(), differs.from.clone(), differs.to.clone())).collect::<Vec<_>>()
        };
        assert_eq!(of("ann"), [("nights", Some(number(7)), Some(number(1)))]);
        let head = [("version", Some(number(1)), Some(number(2))), ("nights", Some(number(1)), Some(number(3)))];
        assert_eq!([of("ben"), of("cid")], [head.to_vec(), head.to_vec()]);
    }

    #[tokio::test]
    async fn an_attribute_of_a_shared_row_differs_from_what_is_contributed_in_its_way() {
        let (worker, client) = worker_of(&[&Guests]).await;
        happened(&worker, "ann", [stayed(3)]).await;
        let cell = |attribute: &str| (RowKey::from("red"), attribute.to_owned());
        let found = async || {
            let shared = [(cell("nights"), SharedFinding::Sum(1.into())), (cell("longest"), SharedFinding::Higher)];
            let verified = Verified { shared: shared.into(), ..Verified::default() };
            let found = differences(&worker, &Guests, &verified, 9, Deadline::NONE).await.expect("read").shared;
            ["nights", "longest"].map(|attribute| (found[&cell(attribute)].from.clone(), found[&cell(attribute)].to.clone()))
        };
        tamper(&client, "red", "nights", "4").await;
        tamper(&client, "red", "longest", "9").await;
        assert_eq!(found().await, [(Some(number(4)), Some(number(3))), (Some(number(9)), Some(number(3)))]);
        // Without the row nothing says how they are combined.
        client.delete_item().table_name("guests").key("id", key("red")).send().await.expect("deleted");
        assert_eq!(found().await, [(None, Some(number(3))), (None, Some(number(3)))]);
    }
}
