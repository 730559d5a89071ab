//! Compares shared rows with what was contributed to them.
//!
//! A shared row and the contributions to it are many items and never stand still. But each transaction adds the same to both, so their
//! difference does stand still: it is 0, or what somebody else did to the row. It is computed where it can be known: from a scan of all
//! contributors before and after an instant at which the row and the contributors that move are read in one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use projection_vocabulary::{AggregateId, Cell, Contribution, Decimal, RowKey, Sums, Value, Watermark};

use super::Verification;
use crate::{
    operations::error::OperationError,
    store::{home::Row, limits::TRANSACT_GET_MAX},
};

/// How often the contributors of a row are read before its sums are reported as unsettled.
const ROUNDS_MAX: usize = 20;

/// How much more a cell holds than was contributed to it.
pub(super) struct Difference {
    pub(super) amount: Decimal,
    /// The id of the last correction of its row.
    pub(super) corrected: Arc<str>,
}

/// The state of a home row: its contributions never change without it. The text names its last re-projection.
type State = (Watermark, Arc<str>);
/// The home rows that contribute to a cell, with the amounts.
type Contributors = BTreeMap<AggregateId, (State, Decimal)>;

/// A cell at one instant.
struct Instant {
    held: Decimal,
    corrected: Arc<str>,
    /// What the contributors that move had contributed.
    moving: BTreeMap<AggregateId, Decimal>,
}

impl Verification<'_> {
    /// How much more these cells hold than was contributed to them, and the cells for which this cannot be told.
    pub(super) async fn differences(
        &self,
        mut open: BTreeSet<Cell>,
    ) -> Result<(BTreeMap<Cell, Difference>, BTreeSet<Cell>), OperationError> {
        let mut found: BTreeMap<Cell, Difference> = BTreeMap::new();
        let mut once: Sums = Sums::new();
        if open.is_empty() {
            return Ok((found, open));
        }
        let mut before = self.contributors(&open).await?;
        let mut movers: BTreeMap<Cell, BTreeSet<AggregateId>> = BTreeMap::new();
        for _ in 0..ROUNDS_MAX {
            let mut instants = BTreeMap::new();
            self.remove_owned(&mut open).await?;
            for cell in &open {
                if let Some(instant) = self.at_one_instant(cell, movers.get(cell)).await? {
                    instants.insert(cell.clone(), instant);
                }
            }
            let after = self.contributors(&open).await?;
            for cell in open.clone() {
                let moved = moved(before.get(&cell), after.get(&cell));
                if let Some(Instant { held, corrected, moving }) = instants.remove(&cell)
                    && moved.iter().all(|id| moving.contains_key(id))
                {
                    let still = before.get(&cell).into_iter().flatten().filter(|(id, _)| !moving.contains_key(*id));
                    let mut amount = held;
                    still.map(|(_, (_, amount))| amount).chain(moving.values()).for_each(|contributed| amount -= contributed);
                    // A difference never changes. If this one did, a contributor came and went unseen.
                    if amount.is_zero() || once.insert(cell.clone(), amount.clone()).as_ref() == Some(&amount) {
                        open.remove(&cell);
                        found.insert(cell.clone(), Difference { amount, corrected });
                    }
                }
                movers.insert(cell, moved);
            }
            if open.is_empty() {
                break;
            }
            before = after;
        }
        Ok((found, open))
    }

    /// A cell with those of its contributors that move; `None` if they are too many to be read at once.
    async fn at_one_instant(&self, cell: &Cell, movers: Option<&BTreeSet<AggregateId>>) -> Result<Option<Instant>, OperationError> {
        let movers: Vec<_> = movers.into_iter().flatten().map(RowKey::from).collect();
        let keys: BTreeSet<_> = movers.iter().chain([&cell.0]).cloned().collect();
        if keys.len() > TRANSACT_GET_MAX {
            return Ok(None);
        }
        let rows = self.store().rows_at_once(self.rule, &keys.into_iter().collect::<Vec<_>>(), self.deadline).await?;
        let contributed = |key: &RowKey| match rows.get(key).and_then(|row| row.home.contributions.get(cell)) {
            Some(Contribution::Sum(amount)) => amount.clone(),
            _ => Decimal::zero(),
        };
        let row = rows.get(&cell.0);
        let held = row.and_then(|row| row.shared.get(&cell.1)?.value.as_ref());
        Ok(Some(Instant {
            held: held.and_then(Value::as_number).cloned().unwrap_or_default(),
            corrected: row.map(|row| row.corrected.clone()).unwrap_or_default(),
            moving: movers.iter().map(|key| (AggregateId::from(key.as_str()), contributed(key))).collect(),
        }))
    }

    /// Removes the cells that their row's own aggregate owns: they are no sums, and contributions of an older revision to them are void.
    async fn remove_owned(&self, cells: &mut BTreeSet<Cell>) -> Result<(), OperationError> {
        let keys: BTreeSet<_> = cells.iter().map(|(row, _)| row.clone()).collect();
        let rows = self.store().rows(self.rule, keys, self.deadline).await?;
        cells.retain(|(row, attribute)| rows.get(row).is_none_or(|row| !row.home.owned.contains(attribute)));
        Ok(())
    }

    /// The contributors to these cells.
    async fn contributors(&self, cells: &BTreeSet<Cell>) -> Result<BTreeMap<Cell, Contributors>, OperationError> {
        let mut contributors = BTreeMap::<Cell, Contributors>::new();
        let scan = self.store().each_row(self.rule, self.deadline, |Row { key, home, .. }| {
            let state = (home.watermark(), home.rewritten.clone());
            for (cell, contribution) in home.contributions.into_iter().filter(|(cell, _)| cells.contains(cell)) {
                let Contribution::Sum(amount) = contribution else { continue };
                contributors.entry(cell).or_default().insert(AggregateId::from(key.as_str()), (state.clone(), amount));
            }
        });
        scan.await?;
        Ok(contributors)
    }
}

/// Those whose state differs between the two.
fn moved(before: Option<&Contributors>, after: Option<&Contributors>) -> BTreeSet<AggregateId> {
    let ids = before.into_iter().chain(after).flat_map(BTreeMap::keys);
    ids.filter(|id| before.and_then(|rows| rows.get(id)) != after.and_then(|rows| rows.get(id))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;
    use projection_vocabulary::Version;

    use super::*;
    use crate::{
        engine::worker::Worker,
        operations::fixture::{Guests, happened, stayed, worker, worker_of},
        retry::Deadline,
    };

    fn verification(worker: &Worker) -> Verification<'_> {
        Verification { worker, rule: &Guests, deadline: Deadline::NONE }
    }

    fn nights(row: &str) -> Cell {
        (row.into(), "nights".to_owned())
    }

    /// A right sum is seen at the first look, a wrong one must be seen twice.
    #[tokio::test]
    async fn a_difference_is_what_a_sum_is_higher_than_its_contributions_twice() {
        let (worker, client) = worker_of(&[&Guests]).await;
        happened(&worker, "ann", [stayed(3)]).await;
        happened(&worker, "ben", [stayed(4)]).await;
        let found = async |cells: &[Cell]| {
            let before = worker.store().usage().requests;
            let (found, open) = verification(&worker).differences(cells.iter().cloned().collect()).await.expect("read");
            assert_eq!(open, BTreeSet::new());
            let amounts: Vec<_> = found.into_iter().map(|(cell, difference)| (cell, difference.amount.to_string())).collect();
            (amounts, worker.store().usage().requests - before)
        };
        // All contributors before and after, and in between the row with its owned attributes, and with its sums.
        let (before, round) = (1, 3);
        assert_eq!(found(&[nights("red")]).await, (vec![(nights("red"), "0".to_owned())], before + round));
        // What the row's own aggregate owns is no sum.
        assert_eq!(found(&[nights("red"), nights("ann")]).await, (vec![(nights("red"), "0".to_owned())], before + round));
        let update = client.update_item().table_name("guests").key("id", AttributeValue::S("red".to_owned()));
        let update = update.update_expression("ADD nights :more").expression_attribute_values(":more", AttributeValue::N("2".to_owned()));
        update.send().await.expect("updated");
        assert_eq!(found(&[nights("red")]).await, (vec![(nights("red"), "2".to_owned())], before + 2 * round));
        assert_eq!(found(&[]).await, (vec![], 0));
    }

    #[tokio::test]
    async fn at_one_instant_there_are_as_many_rows_as_can_be_read_at_once() {
        let worker = worker().await;
        happened(&worker, "ann", [stayed(3)]).await;
        let others = |count: usize| (0..count).map(|at| AggregateId::from(format!("other-{at}").as_str()));
        let at_once = async |others_count| {
            let movers: BTreeSet<_> = others(others_count).chain(["ann".into()]).collect();
            let instant = verification(&worker).at_one_instant(&nights("red"), Some(&movers)).await.expect("read")?;
            Some((instant.held, instant.moving.len(), instant.moving[&AggregateId::from("ann")].clone()))
        };
        assert_eq!(at_once(1).await, Some((3.into(), 2, 3.into())));
        // The row itself is one of them.
        assert_eq!(at_once(TRANSACT_GET_MAX - 2).await, Some((3.into(), TRANSACT_GET_MAX - 1, 3.into())));
        assert_eq!(at_once(TRANSACT_GET_MAX - 1).await, None);
    }

    #[test]
    fn those_that_moved_have_another_state_or_were_not_there() {
        let contributors = |all: &[(&str, u64)]| -> Contributors {
            let state = |version| (Watermark { version: Version(version), ..Watermark::default() }, Arc::from(""));
            all.iter().map(|(id, version)| ((*id).into(), (state(*version), Decimal::from(1)))).collect()
        };
        let moved = |before: Option<&[(&str, u64)]>, after: Option<&[(&str, u64)]>| {
            let moved = moved(before.map(contributors).as_ref(), after.map(contributors).as_ref());
            moved.into_iter().map(|id| id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(moved(Some(&[("ann", 1), ("ben", 1), ("cid", 1)]), Some(&[("ann", 1), ("ben", 2), ("dan", 1)])), ["ben", "cid", "dan"]);
        assert_eq!(moved(None, Some(&[("ann", 1)])), ["ann"]);
        assert_eq!(moved(None, None), [""; 0]);
    }
}
