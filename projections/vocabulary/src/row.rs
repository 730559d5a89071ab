//! Rows as values: a read model without its database.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    AggregateId, Attributes, Base, Change, Resolved, RowKey, Sums, Value, Version,
    change::{Cell, OwnOp},
};

/// How far a row has come, and by which revision of the rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watermark {
    /// The last version applied; [`Version::NONE`] if there is no row.
    pub version: Version,
    /// The revision of the rule that wrote the row; 0 if no rule did.
    pub revision: u32,
}

/// The row of one aggregate in one projection, with its watermark.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HomeRow {
    /// The last version applied.
    pub version: Version,
    /// The revision of the rule that wrote it; 0 if it was never written.
    pub revision: u32,
    /// The id of the event with the last version applied.
    pub last_event_id: Option<Arc<str>>,
    /// Identifies the latest re-projection of the row; empty if there was none. A re-projection may leave version and revision
    /// unchanged, so they cannot identify it.
    pub rewritten: Arc<str>,
    /// When the aggregate was parked; `None` if it is not parked.
    pub parked_at: Option<String>,
    /// The attributes that this aggregate owns. Other attributes of the same row belong to the aggregates that share it.
    pub own: Attributes,
    /// The names of all attributes that it has ever owned, including those since removed.
    pub owned: BTreeSet<String>,
    /// What it has added to each shared row so far: its contributions.
    pub contributions: Sums,
}

/// The row's values do not allow the change. The worker parks the aggregate at the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Inapplicable {
    /// An amount was added to an attribute that is not a number.
    #[error("an amount was added to an attribute that is not a number")]
    AddToNonNumber,
    /// DynamoDB cannot hold the sum.
    #[error("the sum is {0}")]
    Sum(#[from] crate::DecimalError),
}

impl HomeRow {
    /// How far it has come.
    #[must_use]
    pub fn watermark(&self) -> Watermark {
        Watermark { version: self.version, revision: self.revision }
    }

    /// Applies a change to the attributes this row owns and to its contributions.
    ///
    /// # Errors
    /// [`Inapplicable`]; nothing is applied. The events of the change cannot be applied together.
    pub fn apply(&mut self, change: &Change) -> Result<Resolved, Inapplicable> {
        let mut own = self.own.clone();
        for (name, op) in change.own() {
            match resolve(op, own.get(name))? {
                Some(value) => own.insert(name.clone(), value),
                None => own.remove(name),
            };
        }
        let resolved = change.resolve(&self.contributions);
        let mut contributions = self.contributions.clone();
        contributions.retain(|cell, _| !resolved.removes.contains(cell));
        for (cell, amount) in &resolved.adds {
            let sum = contributions.entry(cell.clone()).or_default();
            *sum += amount;
            sum.check()?;
        }
        self.own = own;
        self.owned.extend(change.own().keys().cloned());
        self.contributions = contributions;
        Ok(resolved)
    }
}

fn resolve(op: &OwnOp, present: Option<&Value>) -> Result<Option<Value>, Inapplicable> {
    let base = match &op.base {
        Base::Keep => present,
        Base::Set(value) => Some(value),
        Base::Remove => None,
    };
    let Some(add) = &op.add else { return Ok(base.cloned()) };
    let mut sum = match base {
        None => add.clone(),
        Some(Value::Number(number)) => number.clone(),
        Some(_) => return Err(Inapplicable::AddToNonNumber),
    };
    if base.is_some() {
        sum += add;
    }
    sum.check()?;
    Ok(Some(Value::Number(sum)))
}

/// All rows of one projection, computed by a pure fold. The rows that the worker writes must equal them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Home rows, by aggregate.
    pub home: BTreeMap<AggregateId, HomeRow>,
    /// What aggregates have written to shared rows, by row and attribute.
    pub shared: BTreeMap<Cell, Value>,
}

impl Rows {
    /// Applies a change of one aggregate and sets its watermark: version, revision and last event id.
    ///
    /// # Errors
    /// [`Inapplicable`]; nothing is applied.
    pub fn apply(&mut self, aggregate: &AggregateId, change: &Change, to: Watermark, event_id: Arc<str>) -> Result<(), Inapplicable> {
        let mut row = self.home.get(aggregate).cloned().unwrap_or_default();
        let resolved = row.apply(change)?;
        let mut shared = BTreeMap::new();
        for (cell, amount) in &resolved.shared {
            let op = OwnOp { base: Base::Keep, add: Some(amount.clone()) };
            shared.insert(cell.clone(), resolve(&op, self.shared.get(cell))?.expect("a sum is a value"));
        }
        for (cell, value) in change.max() {
            if self.shared.get(cell).is_none_or(|present| present < value) {
                shared.insert(cell.clone(), value.clone());
            }
        }
        for (cell, texts) in change.insert() {
            let mut members = texts.clone();
            if let Some(Value::TextSet(present)) = self.shared.get(cell) {
                members.extend(present.iter().cloned());
            }
            shared.insert(cell.clone(), Value::TextSet(members));
        }
        self.shared.extend(shared);
        (row.version, row.revision) = (to.version, to.revision);
        row.last_event_id = Some(event_id);
        self.home.insert(aggregate.clone(), row);
        Ok(())
    }

    /// The rows as a reader sees them, by key: own and shared attributes together, plus the home row's `version`.
    ///
    /// # Panics
    /// If an attribute of a row has two owners: a mistake in the rule.
    #[must_use]
    pub fn visible(&self) -> BTreeMap<RowKey, Attributes> {
        let mut rows: BTreeMap<RowKey, Attributes> = BTreeMap::new();
        for (aggregate, home) in &self.home {
            let row = rows.entry(aggregate.into()).or_default();
            row.extend(home.own.clone());
            row.insert("version".into(), home.version.0.into());
        }
        for ((key, attribute), value) in &self.shared {
            let before = rows.entry(key.clone()).or_default().insert(attribute.clone(), value.clone());
            assert!(
                before.is_none(),
                "`{attribute}` of row `{key}` has two owners, its own aggregate and one that shares the row: use two attributes"
            );
        }
        rows
    }
}
