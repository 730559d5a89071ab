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
