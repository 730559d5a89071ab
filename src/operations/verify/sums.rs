//! Shared rows against what was contributed to them.
//!
//! A shared row and the contributions to it are many items, and never stand still. But each transaction adds the same to both, so their
//! difference does: it is 0, or what somebody else did to the row. It is reckoned where it can be known: from a scan of all contributors
//! before and after an instant at which the row and those contributors that move are read in one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use projection_vocabulary::{AggregateId, Cell, Change, Decimal, DynProjection, RowKey, Sums, Value, Version};

use crate::{
    engine::worker::Worker,
    operations::catch_up::Failed,
    retry::Deadline,
    store::{StoreError, home::Row, limits::TRANSACT_GET_MAX, segment::Segment},
};

/// How often the contributors of a row are read before it is given up to prove its sums.
const ROUNDS_MAX: usize = 20;

/// How much more a cell holds than was contributed to it.
pub(super) struct Difference {
    pub(super) amount: Decimal,
    /// The last correction of its row.
    pub(super) corrected: Arc<str>,
}

/// What names a state of a home row: nothing changes its contributions without it.
type Mark = (Version, u32, Arc<str>);
/// Home rows that contribute to a cell, with how much.
type Contributors = BTreeMap<AggregateId, (Mark, Decimal)>;

/// A cell at one instant.
struct Instant {
    held: Decimal,
    corrected: Arc<str>,
    /// What those contributors that move had contributed.
    moving: BTreeMap<AggregateId, Decimal>,
}

impl Worker {
    /// How much more these cells hold than was contributed to them, and of which it cannot be told.
    pub(super) async fn differences(
        &self,
        rule: &'static dyn DynProjection,
        mut open: BTreeSet<Cell>,
        deadline: Deadline,
    ) -> Result<(BTreeMap<Cell, Difference>, BTreeSet<Cell>), Failed> {
        let mut found: BTreeMap<Cell, Difference> = BTreeMap::new();
        let mut once: Sums = Sums::new();
        if open.is_empty() {
            return Ok((found, open));
        }
        let mut before = self.contributors(rule, &open, deadline).await?;
        let mut movers: BTreeMap<Cell, BTreeSet<AggregateId>> = BTreeMap::new();
        for _ in 0..ROUNDS_MAX {
            let mut instants = BTreeMap::new();
            for cell in &open {
                if let Some(instant) = self.at_one_instant(rule, cell, movers.get(cell), deadline).await? {
                    instants.insert(cell.clone(), instant);
                }
            }
            let after = self.contributors(rule, &open, deadline).await?;
            for cell in open.clone() {
                let moved = moved(before.get(&cell), after.get(&cell));
                if let Some(Instant { held, corrected, moving }) = instants.remove(&cell)
                    && moved.iter().all(|id| moving.contains_key(id))
                {
                    let still = before.get(&cell).into_iter().flatten().filter(|(id, _)| !moving.contains_key(*id));
                    let mut amount = held;
                    still.map(|(_, (_, amount))| amount).chain(moving.values()).for_each(|contributed| amount -= contributed);
                    // A difference never changes; one that does was none: a contributor came and went unseen.
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
    async fn at_one_instant(
        &self,
        rule: &'static dyn DynProjection,
        cell: &Cell,
        movers: Option<&BTreeSet<AggregateId>>,
        deadline: Deadline,
    ) -> Result<Option<Instant>, Failed> {
        let movers: Vec<_> = movers.into_iter().flatten().map(RowKey::from).collect();
        let keys: BTreeSet<_> = movers.iter().chain([&cell.0]).cloned().collect();
        if keys.len() > TRANSACT_GET_MAX {
            return Ok(None);
        }
        let rows = self.store().rows_at_once(rule, &keys.into_iter().collect::<Vec<_>>(), deadline).await?;
        let contributed = |key: &RowKey| rows.get(key).and_then(|row| row.home.contributions.get(cell)).cloned().unwrap_or_default();
        let row = rows.get(&cell.0);
        Ok(Some(Instant {
            held: row.and_then(|row| row.shared.get(&cell.1)?.as_number()).cloned().unwrap_or_default(),
            corrected: row.map(|row| row.corrected.clone()).unwrap_or_default(),
            moving: movers.iter().map(|key| (AggregateId::from(key.as_str()), contributed(key))).collect(),
        }))
    }

    /// Who contributes to these cells.
    async fn contributors(
        &self,
        rule: &'static dyn DynProjection,
        cells: &BTreeSet<Cell>,
        deadline: Deadline,
    ) -> Result<BTreeMap<Cell, Contributors>, Failed> {
        let (mut contributors, mut next) = (BTreeMap::<Cell, Contributors>::new(), None);
        loop {
            if deadline.passed() {
                return Err(StoreError::DeadlineExceeded.into());
            }
            let (rows, after) = self.store().scan_rows(rule, Segment::ALL, next, deadline).await?;
            for Row { key, home, .. } in rows {
                let mark = (home.version, home.revision, home.rewritten.clone());
                for (cell, amount) in home.contributions.into_iter().filter(|(cell, _)| cells.contains(cell)) {
                    contributors.entry(cell).or_default().insert(AggregateId::from(key.as_str()), (mark.clone(), amount));
                }
            }
            next = after;
            if next.is_none() {
                return Ok(contributors);
            }
        }
    }

    /// Those of these operations that shared rows lack.
    pub(super) async fn lower(&self, rule: &'static dyn DynProjection, monotone: &Change, deadline: Deadline) -> Result<Change, Failed> {
        let keys: BTreeSet<_> = monotone.max().keys().chain(monotone.insert().keys()).map(|(row, _)| row.clone()).collect();
        let rows = self.store().shared_rows(rule, keys, deadline).await?;
        let held = |(row, attribute): &Cell| rows.get(row).and_then(|row| row.get(attribute));
        Ok(monotone.monotone_where(
            |cell, value| held(cell).is_none_or(|held| held < value),
            |cell, texts| !matches!(held(cell), Some(Value::TextSet(held)) if texts.is_subset(held)),
        ))
    }
}

/// Whose state is not the same in both.
fn moved(before: Option<&Contributors>, after: Option<&Contributors>) -> BTreeSet<AggregateId> {
    let ids = before.into_iter().chain(after).flat_map(BTreeMap::keys);
    ids.filter(|id| before.and_then(|rows| rows.get(id)) != after.and_then(|rows| rows.get(id))).cloned().collect()
}
