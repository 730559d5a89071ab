//! Home rows as items: which attributes carry the watermark, which the contributions, and the condition that guards a write.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{
    AggregateId, Attributes, Base, Cell, Change, Decimal, DynProjection, HomeRow, RESERVED, RecordedEvent, Resolved, RowKey, Sums, Value,
    Version, Watermark,
};

use super::{StoreError, expression::Expression, fresh_id};
use crate::store::item::{SdkItem, attributes, from_value};

/// `contributed#<attribute>#<shared row>`: what a home row has added to a shared row, at the top level where ADD reaches it.
const CONTRIBUTED: &str = "contributed#";
/// Names the last correction of a shared row's sums, so that no correction is made twice.
pub(super) const CORRECTED: &str = "corrected";

/// A write of one home row: from exactly one watermark to another.
#[derive(Clone)]
pub struct HomeWrite {
    /// Whose row.
    pub aggregate: AggregateId,
    /// The watermark that the row must have.
    pub after: Watermark,
    /// The watermark that it gets.
    pub to: Watermark,
    /// The id of the event at `to`.
    pub event_id: Arc<str>,
    sets: Attributes,
    adds: BTreeMap<String, Decimal>,
    removes: BTreeSet<String>,
    owned_names: BTreeSet<String>,
    /// The row that it must still be, if anything in this write was reckoned from it: another may have left its version and revision
    /// as they were.
    read: Option<Read>,
    /// Whether this is a rewriting.
    rewrites: bool,
}

impl HomeWrite {
    /// The write of a merged change whose last event is `last`, over a row at version `after` of the same revision.
    #[must_use]
    pub fn of(after: Version, revision: u32, last: &RecordedEvent, change: &Change, resolved: &Resolved) -> Self {
        let mut write = Self {
            aggregate: last.aggregate.clone(),
            after: Watermark { version: after, revision },
            to: Watermark { version: last.version, revision },
            event_id: last.event_id.clone(),
            sets: Attributes::new(),
            adds: contributed(&resolved.adds),
            removes: resolved.removes.iter().map(contribution_name).collect(),
            owned_names: change.own().keys().cloned().collect(),
            read: None,
            rewrites: false,
        };
        for (name, op) in change.own() {
            match (&op.base, &op.add) {
                (Base::Set(value), None) => _ = write.sets.insert(name.clone(), value.clone()),
                (Base::Remove, None) => _ = write.removes.insert(name.clone()),
                (Base::Keep, Some(amount)) => _ = write.adds.insert(name.clone(), amount.clone()),
                (Base::Keep, None) => {}
                // A sum with a text in it: DynamoDB refuses this ADD as it would refuse it after the SET.
                (Base::Set(value), Some(amount)) => {
                    write.sets.insert(name.clone(), value.clone());
                    write.adds.insert(name.clone(), amount.clone());
                }
                (Base::Remove, Some(_)) => unreachable!("merging makes a value of an amount that follows a removal"),
            }
        }
        write
    }

    /// The same write, reckoned from this row.
    #[must_use]
    pub fn computed_from(mut self, row: &HomeRow) -> Self {
        self.read = Some(Read::of(row));
        self
    }

    /// The write that puts `fresh` in the place of all that `stale` owns.
    #[must_use]
    pub fn replacing(aggregate: AggregateId, stale: &HomeRow, fresh: &HomeRow) -> Self {
        let mut sets = fresh.own.clone();
        sets.extend(contributed(&fresh.contributions).into_iter().map(|(name, amount)| (name, Value::Number(amount))));
        let ended = stale.contributions.keys().map(contribution_name);
        let removes = stale.owned.iter().cloned().chain(ended).filter(|name| !sets.contains_key(name)).collect();
        Self {
            aggregate,
            after: stale.watermark(),
            to: fresh.watermark(),
            event_id: fresh.last_event_id.clone().unwrap_or_default(),
            sets,
            adds: BTreeMap::new(),
            removes,
            owned_names: fresh.owned.clone(),
            read: Some(Read::of(stale)),
            rewrites: true,
        }
    }

    pub(super) fn expression(&self) -> (Expression, String) {
        let mut expression = Expression::default();
        if self.to.version == Version::NONE {
            // Today's rule knows none of the events: the row is as if it had never had one.
            for name in ["version", "revision", "lastEventId"] {
                expression.remove(name);
            }
        } else {
            expression.set("version", number(self.to.version));
            expression.set("revision", AttributeValue::N(self.to.revision.to_string()));
            expression.set("lastEventId", AttributeValue::S(self.event_id.to_string()));
        }
        for (name, value) in &self.sets {
            expression.set(name, from_value(value));
        }
        for (name, amount) in &self.adds {
            expression.add(name, AttributeValue::N(amount.to_string()));
        }
        if !self.owned_names.is_empty() {
            expression.add("owned", AttributeValue::Ss(self.owned_names.iter().cloned().collect()));
        }
        for name in &self.removes {
            expression.remove(name);
        }
        let mut condition = condition(&mut expression, self.after);
        if let Some(Read { rewritten, last_event_id }) = &self.read {
            let unchanged = [("rewritten", rewritten), ("lastEventId", last_event_id)].map(|(name, mark)| expression.unchanged(name, mark));
            condition = format!("{condition} AND {}", unchanged.join(" AND "));
        }
        if self.rewrites {
            expression.set("rewritten", AttributeValue::S(fresh_id()));
        }
        (expression, condition)
    }
}

/// What tells whether a row is still the one that was read, beside its version: one that was lost and made anew from another history
/// has the same version, too.
#[derive(Clone, Debug, PartialEq)]
struct Read {
    /// The mark of the last write that took its contributions to be what they are.
    rewritten: Arc<str>,
    /// The id of its last event; empty without one.
    last_event_id: Arc<str>,
}

impl Read {
    fn of(row: &HomeRow) -> Self {
        Self { rewritten: row.rewritten.clone(), last_event_id: row.last_event_id.clone().unwrap_or_default() }
    }
}

/// The watermark is exactly `after`, written by this revision, and the aggregate is not parked.
pub(super) fn condition(expression: &mut Expression, after: Watermark) -> String {
    let (version, parked) = (expression.name("version"), expression.name("parkedAt"));
    if after.version == Version::NONE {
        return format!("attribute_not_exists({version}) AND attribute_not_exists({parked})");
    }
    let Watermark { version: after, revision } = after;
    let after = expression.value(number(after));
    let written_by = (expression.name("revision"), expression.value(AttributeValue::N(revision.to_string())));
    format!("{version} = {after} AND {} = {} AND attribute_not_exists({parked})", written_by.0, written_by.1)
}

fn number(version: Version) -> AttributeValue {
    AttributeValue::N(version.to_string())
}

fn contribution_name((row, attribute): &Cell) -> String {
    format!("{CONTRIBUTED}{attribute}#{row}")
}

fn contributed(sums: &Sums) -> BTreeMap<String, Decimal> {
    sums.iter().map(|(cell, amount)| (contribution_name(cell), amount.clone())).collect()
}

pub(super) fn foreign_row(why: &str) -> StoreError {
    StoreError::Permanent { operation: "reading a row", class: format!("something other than the worker wrote it: {why}") }
}

/// An item of a read model: a home row, what others share on it, or both.
pub struct Row {
    /// Its key.
    pub key: RowKey,
    /// What its aggregate owns; without a version if only others have written to it.
    pub home: HomeRow,
    /// What those who share it have written.
    pub shared: Attributes,
    /// Names the last correction of its sums; empty if there was none.
    pub corrected: Arc<str>,
}

/// The key of a row, as requests take it.
pub(super) fn row_key(rule: &dyn DynProjection, key: &str) -> SdkItem {
    SdkItem::from([(rule.key().to_owned(), AttributeValue::S(key.to_owned()))])
}

/// Reads an item of a read model.
pub(super) fn row_of(rule: &dyn DynProjection, item: SdkItem) -> Result<Row, StoreError> {
    let mut all = attributes(item).map_err(|_| foreign_row("it contains a value that no rule writes"))?;
    let Some(Value::Text(key)) = all.remove(rule.key()) else { return Err(foreign_row("its key is not a string")) };
    let whole = |value: Option<Value>, what: &str| -> Result<u64, StoreError> {
        value.map_or(Ok(0), |value| value.as_number().and_then(|n| u64::try_from(n.to_i128()?).ok()).ok_or_else(|| foreign_row(what)))
    };
    let mut home = HomeRow {
        version: Version(whole(all.remove("version"), "`version` is not a whole number")?),
        revision: u32::try_from(whole(all.remove("revision"), "`revision` is not a whole number")?)
            .map_err(|_| foreign_row("`revision` is too large"))?,
        ..HomeRow::default()
    };
    let mut text = |name: &str| if let Some(Value::Text(text)) = all.remove(name) { Some(text) } else { None };
    home.last_event_id = text("lastEventId");
    home.rewritten = text("rewritten").unwrap_or_default();
    let corrected = text(CORRECTED).unwrap_or_default();
    home.parked_at = all.remove("parkedAt").map(|at| at.to_string());
    if let Some(Value::TextSet(names)) = all.remove("owned") {
        home.owned = names.iter().map(ToString::to_string).collect();
    }
    let mut shared = Attributes::new();
    for (name, value) in all {
        if let Some((attribute, shared_row)) = name.strip_prefix(CONTRIBUTED).and_then(|cell| cell.split_once('#')) {
            let amount = value.as_number().cloned().ok_or_else(|| foreign_row("a contribution is not a number"))?;
            home.contributions.insert((shared_row.into(), attribute.to_owned()), amount);
        } else if home.owned.contains(&name) {
            home.own.insert(name, value);
        } else {
            shared.insert(name, value);
        }
    }
    Ok(Row { key: RowKey::from(&*key), home, shared, corrected })
}

/// Whether an attribute of a row is the worker's own and of no use to a reader of the row.
pub(super) fn is_bookkeeping(name: &str) -> bool {
    name != "version" && (RESERVED.contains(&name) || name.starts_with(CONTRIBUTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that a condition holds to a value or to their absence.
    fn conditions(write: &HomeWrite) -> Vec<String> {
        let (expression, condition) = write.expression();
        let names = condition.split(" AND ").map(|term| term.trim_start_matches("attribute_not_exists(").split([' ', ')']).next());
        names.map(|name| expression.names[name.expect("a term has a name")].clone()).collect()
    }

    #[test]
    fn what_is_computed_from_a_row_holds_for_that_row_alone() {
        let event = |id: &str| Some(Arc::from(id));
        let stale =
            HomeRow { version: Version(2), revision: 1, last_event_id: event("of a history that is no more"), ..HomeRow::default() };
        let fresh = HomeRow { last_event_id: event("of another"), ..stale.clone() };
        let write = HomeWrite::replacing("a".into(), &stale, &fresh);
        // The row may be lost, and made anew at the same version, between reading it and this.
        assert_eq!(conditions(&write), ["version", "revision", "parkedAt", "rewritten", "lastEventId"]);
        let absent = HomeWrite::replacing("a".into(), &HomeRow::default(), &fresh);
        assert_eq!(conditions(&absent), ["version", "parkedAt", "rewritten", "lastEventId"]);
    }
}
