//! Rows as values: a read model without its database.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    AggregateId, Attributes, Base, Change, Children, Contribution, Contributions, Decimal, Inapplicable, Kind, Resolved, RowId, Value,
    Version,
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
    /// The revision of the rule whose re-projection of the row has begun and is not finished: the row takes no other write until
    /// somebody finishes it. `None` otherwise.
    pub unfinished: Option<u32>,
    /// When the aggregate was parked; `None` if it is not parked.
    pub parked_at: Option<String>,
    /// The attributes that this aggregate owns. Other attributes of the same row belong to the aggregates that share it.
    pub own: Attributes,
    /// The names of all attributes that it has ever owned, including those since removed.
    pub owned: BTreeSet<String>,
    /// What it has written to each shared row so far: its contributions.
    pub contributions: Contributions,
    /// The attributes of shared rows that it makes visible without contributing to them any longer: it has moved its contribution or
    /// taken it back. They show a sum, which may be zero.
    pub left: BTreeSet<Cell>,
    /// The attributes of this same row that other aggregates write to, and how.
    pub shared: BTreeMap<String, Mark>,
}

/// How an attribute of a shared row is combined, and by which revision of the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// How.
    pub kind: Kind,
    /// The revision that last wrote to the attribute.
    pub revision: u32,
}

impl HomeRow {
    /// How far it has come.
    #[must_use]
    pub fn watermark(&self) -> Watermark {
        Watermark { version: self.version, revision: self.revision }
    }

    /// Whether it takes no write of the rule's revision before it is re-projected.
    #[must_use]
    pub fn is_outdated(&self, revision: u32) -> bool {
        self.unfinished.is_some() || (self.version > Version::NONE && self.revision < revision)
    }

    /// The newest revision that has written to it; 0 if none has.
    #[must_use]
    pub fn newest_revision(&self) -> u32 {
        self.revision.max(self.unfinished.unwrap_or_default())
    }

    /// Whether it stands on the same event as another row and holds the same.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.version == other.version
            && self.last_event_id == other.last_event_id
            && self.own == other.own
            && self.contributions == other.contributions
            && self.left == other.left
    }

    /// Applies a change to the attributes this row owns and to its contributions.
    ///
    /// # Errors
    /// [`Inapplicable`]; nothing is applied. The events of the change cannot be applied together.
    pub fn apply(&mut self, change: &Change) -> Result<Resolved, Inapplicable> {
        let applied = self.work_out(change)?;
        Ok(self.take(change, applied))
    }

    /// What the change makes of what it touches: a row may have thousands of attributes and contributions that it does not.
    fn work_out(&self, change: &Change) -> Result<Applied, Inapplicable> {
        let own = change.own().iter().map(|(name, op)| resolve(op, self.own.get(name))).collect::<Result<_, _>>()?;
        let resolved = change.resolve(Some(&self.contributions));
        resolved.check_kinds()?;
        let contributions = Combined::check(&self.contributions, resolved.contributions())?;
        Ok(Applied { own, contributions, resolved })
    }

    fn take(&mut self, change: &Change, Applied { own, contributions, resolved }: Applied) -> Resolved {
        for (name, value) in change.own().keys().zip(own) {
            match value {
                Some(value) => self.own.insert(name.clone(), value),
                None => self.own.remove(name),
            };
            if !self.owned.contains(name) {
                self.owned.insert(name.clone());
            }
        }
        for cell in &resolved.removes {
            self.contributions.remove(cell);
        }
        for (cell, _) in &contributions.0 {
            self.left.remove(cell);
        }
        contributions.take(&mut self.contributions);
        self.left.extend(resolved.left.iter().filter(|cell| !self.contributions.contains_key(*cell)).cloned());
        resolved
    }
}

/// What a change makes of a row, as far as it touches it.
struct Applied {
    /// The value of each attribute that the change names, in its order; `None` if the attribute is removed.
    own: Vec<Option<Value>>,
    contributions: Combined,
    resolved: Resolved,
}

impl Resolved {
    /// No attribute is combined in two ways.
    fn check_kinds(&self) -> Result<(), Inapplicable> {
        let summed = |cell| self.shared.contains_key(cell) || self.adds.contains_key(cell);
        let two = self.max.keys().any(|cell| summed(cell) || self.insert.contains_key(cell)) || self.insert.keys().any(summed);
        if two { Err(Inapplicable::TwoKinds) } else { Ok(()) }
    }

    /// What is combined with the contributions of the aggregate.
    pub fn contributions(&self) -> impl Iterator<Item = (Cell, Contribution)> {
        let sums = self.adds.iter().map(|(cell, amount)| (cell.clone(), Contribution::Sum(amount.clone())));
        sums.chain(self.monotone())
    }

    /// The part of it that is combined with the shared rows in the same way.
    fn monotone(&self) -> impl Iterator<Item = (Cell, Contribution)> {
        let maxima = self.max.iter().map(|(cell, value)| (cell.clone(), Contribution::Max(value.clone())));
        maxima.chain(self.insert.iter().map(|(cell, members)| (cell.clone(), Contribution::Set(members.clone()))))
    }
}

/// What is combined with contributions, checked: each sum is the new one, and each maximum and set goes with what is there.
struct Combined(Vec<(Cell, Contribution)>);

impl Combined {
    /// The present contributions stay as they are, so that a set of thousands of members is not copied for each new one.
    fn check(present: &Contributions, more: impl Iterator<Item = (Cell, Contribution)>) -> Result<Self, Inapplicable> {
        let check = |(cell, more): (Cell, Contribution)| {
            let more = match (present.get(&cell), more) {
                (Some(Contribution::Sum(before)), Contribution::Sum(mut sum)) => {
                    sum += before;
                    Contribution::Sum(sum)
                }
                (Some(before), more) if !before.combines_with(&more) => return Err(Inapplicable::TwoKinds),
                (_, more) => more,
            };
            more.sum().map_or(Ok(()), Decimal::check)?;
            Ok((cell, more))
        };
        more.map(check).collect::<Result<_, _>>().map(Self)
    }

    fn take(self, all: &mut Contributions) {
        for (cell, more) in self.0 {
            match (all.get_mut(&cell), &more) {
                (Some(before), Contribution::Max(_) | Contribution::Set(_)) => {
                    before.combine(&more).expect("it was checked");
                }
                _ => _ = all.insert(cell, more),
            }
        }
    }
}

pub(crate) fn resolve(op: &OwnOp, present: Option<&Value>) -> Result<Option<Value>, Inapplicable> {
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
    /// Child rows, by aggregate; none for an aggregate without any.
    pub children: BTreeMap<AggregateId, Children>,
    /// What all aggregates together have written to shared rows.
    pub shared: Contributions,
}

impl Rows {
    /// Applies a change of one aggregate and sets its watermark: version, revision and last event id.
    ///
    /// # Errors
    /// [`Inapplicable`]; nothing is applied.
    pub fn apply(&mut self, aggregate: &AggregateId, change: &Change, to: Watermark, event_id: Arc<str>) -> Result<(), Inapplicable> {
        let absent = HomeRow::default();
        let applied = self.home.get(aggregate).unwrap_or(&absent).work_out(change)?;
        let sums = applied.resolved.shared.iter().map(|(cell, amount)| (cell.clone(), Contribution::Sum(amount.clone())));
        Combined::check(&self.shared, sums.chain(applied.resolved.monotone()))?.take(&mut self.shared);
        let row = self.home.entry(aggregate.clone()).or_default();
        row.take(change, applied);
        (row.version, row.revision) = (to.version, to.revision);
        row.last_event_id = Some(event_id);
        if !change.children().is_empty() {
            let children = self.children.entry(aggregate.clone()).or_default();
            change.apply_to_children(children);
            if children.is_empty() {
                self.children.remove(aggregate);
            }
        }
        Ok(())
    }

    /// The rows as a reader sees them: own and shared attributes together, plus the home row's `version`; child rows after their home
    /// row.
    ///
    /// # Panics
    /// If an attribute of a row has two owners: a mistake in the rule.
    #[must_use]
    pub fn visible(&self) -> BTreeMap<RowId, Attributes> {
        let mut rows: BTreeMap<RowId, Attributes> = BTreeMap::new();
        for (aggregate, home) in &self.home {
            let row = rows.entry(aggregate.into()).or_default();
            row.extend(home.own.clone());
            row.insert("version".into(), home.version.0.into());
        }
        for ((key, attribute), value) in &self.shared {
            let before = rows.entry(key.clone().into()).or_default().insert(attribute.clone(), value.value());
            assert!(
                before.is_none(),
                "`{attribute}` of row `{key}` has two owners, its own aggregate and one that shares the row: use two attributes"
            );
        }
        for (aggregate, children) in &self.children {
            let child = |sort: &Arc<str>| RowId { key: aggregate.into(), child: Some(sort.clone()) };
            rows.extend(children.iter().map(|(sort, attributes)| (child(sort), attributes.clone())));
        }
        rows
    }
}
