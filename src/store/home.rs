//! Home rows as items: the attributes of the watermark and of the contributions, and the condition that guards every write.

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

/// `contributed#<attribute>#<shared row>`: a home row's contribution to a shared row. A top-level attribute, because ADD works on
/// nothing else.
const CONTRIBUTED: &str = "contributed#";
/// The id of the last correction of a shared row's sums, so that no correction is made twice.
pub(super) const CORRECTED: &str = "corrected";

/// A write of one home row, from one exact watermark to another.
#[derive(Clone)]
pub struct HomeWrite {
    /// The aggregate of the row.
    pub aggregate: AggregateId,
    /// The watermark that the row must have.
    pub after: Watermark,
    /// The watermark that the row gets.
    pub to: Watermark,
    /// The id of the event at `to`.
    pub event_id: Arc<str>,
    sets: Attributes,
    adds: BTreeMap<String, Decimal>,
    removes: BTreeSet<String>,
    owned_names: BTreeSet<String>,
    /// If this write was computed from a row, the row must still be the same one. Another write may have changed the row without
    /// changing its version and revision.
    read: Option<Read>,
    /// Whether this write replaces the whole row.
    rewrites: bool,
}

impl HomeWrite {
    /// The write of a merged change whose last event is `last`, to a row at version `after` of the same revision.
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
                // An amount added to a string: DynamoDB refuses this expression, just as it would refuse the ADD after the SET.
                (Base::Set(value), Some(amount)) => {
                    write.sets.insert(name.clone(), value.clone());
                    write.adds.insert(name.clone(), amount.clone());
                }
                (Base::Remove, Some(_)) => unreachable!("merging turns an amount after a removal into a value"),
            }
        }
        write
    }

    /// The same write, on condition that this row is unchanged, because the write was computed from it.
    #[must_use]
    pub fn computed_from(mut self, row: &HomeRow) -> Self {
        self.read = Some(Read::of(row));
        self
    }

    /// The write that replaces everything that `stale` owns with `fresh`.
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
            // The current rule handles none of the events, so the row must look as if it had never had one.
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

/// Identifies the row that was read, in addition to its version: a row that was lost and created again from another history may have
/// the same version.
#[derive(Clone, Debug, PartialEq)]
struct Read {
    /// The mark of the last write that replaced the whole row; empty if there was none.
    rewritten: Arc<str>,
    /// The id of its last event; empty if it has none.
    last_event_id: Arc<str>,
}

impl Read {
    fn of(row: &HomeRow) -> Self {
        Self { rewritten: row.rewritten.clone(), last_event_id: row.last_event_id.clone().unwrap_or_default() }
    }
}

/// The condition that the row's version and revision are exactly those of `after`, and that the aggregate is not parked.
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

/// An item of a read model: a home row, a shared row, or both.
pub struct Row {
    /// The key.
    pub key: RowKey,
    /// The part that its aggregate owns. It has no version if only other aggregates have written to the row.
    pub home: HomeRow,
    /// The part that the aggregates sharing the row have written.
    pub shared: Attributes,
    /// The id of the last correction of its sums; empty if there was none.
    pub corrected: Arc<str>,
}

/// The key of a row, for requests.
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

/// Whether an attribute is for the worker alone, so that readers of the row do not see it.
pub(super) fn is_bookkeeping(name: &str) -> bool {
    name != "version" && (RESERVED.contains(&name) || name.starts_with(CONTRIBUTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the attributes that the write's condition checks.
    fn conditions(write: &HomeWrite) -> Vec<String> {
        let (expression, condition) = write.expression();
        let names = condition.split(" AND ").map(|term| term.trim_start_matches("attribute_not_exists(").split([' ', ')']).next());
        names.map(|name| expression.names[name.expect("a term has a name")].clone()).collect()
    }

    #[test]
    fn a_write_computed_from_a_row_is_conditional_on_that_row() {
        let event = |id: &str| Some(Arc::from(id));
        let stale = HomeRow { version: Version(2), revision: 1, last_event_id: event("of a lost history"), ..HomeRow::default() };
        let fresh = HomeRow { last_event_id: event("of another history"), ..stale.clone() };
        let write = HomeWrite::replacing("a".into(), &stale, &fresh);
        // Between the read and this write, the row may be lost and created again at the same version.
        assert_eq!(conditions(&write), ["version", "revision", "parkedAt", "rewritten", "lastEventId"]);
        let absent = HomeWrite::replacing("a".into(), &HomeRow::default(), &fresh);
        assert_eq!(conditions(&absent), ["version", "parkedAt", "rewritten", "lastEventId"]);
    }
}
