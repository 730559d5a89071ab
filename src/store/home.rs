//! Home rows as items: the attributes of the watermark and of the contributions, and the condition that guards every write.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{
    AggregateId, Attributes, Base, Cell, Change, ChildOp, Contribution, DynProjection, HOME_SORT, HomeRow, Kind, Mark, OwnOp, RESERVED,
    RecordedEvent, Resolved, RowKey, Value, Version, Watermark,
};
use serde::{Deserialize, Serialize};

use super::{
    StoreError,
    expression::{Conditions, Expression},
};
use crate::store::item::{SdkItem, attributes, from_value};

/// `contributed#<attribute>#<shared row>`: what a home row has added to a shared row. A top-level attribute, because ADD works on
/// nothing else.
const CONTRIBUTED: &str = "contributed#";
/// `raised#<attribute>#<shared row>`: the highest value that a home row has offered to a maximum.
const RAISED: &str = "raised#";
/// `inserted#<attribute>#<shared row>`: the members that a home row has inserted into a set.
const INSERTED: &str = "inserted#";
/// The set of `<attribute>#<shared row>` that a home row makes visible without contributing to it any longer.
const LEFT: &str = "left";
/// The revision whose re-projection of the row has begun and is not finished.
const UNFINISHED: &str = "unfinished";
/// `shared#<attribute>`: how an attribute of a shared row is combined, and the last revision that wrote to it: `sum@1`.
const SHARED: &str = "shared#";
/// `unsettled#<attribute>`: a maximum or a set may be too high, or an attribute may be left over, since a contribution to it was taken
/// back; the id of the write that did so.
const UNSETTLED: &str = "unsettled#";
/// The id of the last correction of a shared row's sums, so that no correction is made twice.
pub(super) const CORRECTED: &str = "corrected";

/// Clauses that one write may have, with a margin: DynamoDB limits an expression to 4 KB and to 300 operators.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
pub const CLAUSES_MAX: usize = 200;
/// Conditions on single attributes that one write may have besides. They are three times as long.
pub const CONDITIONS_MAX: usize = 50;

/// What is written to child rows of an aggregate, by their sort keys.
pub type ChildWrites = BTreeMap<Arc<str>, ChildOp>;

/// A write of one home row, from one exact watermark to another, and of its child rows in the same transaction. Child rows have no
/// conditions of their own: whoever writes one also moves their home row, which takes the write only if nobody else has.
#[derive(Clone)]
pub struct HomeWrite {
    /// The aggregate of the row.
    pub aggregate: AggregateId,
    /// The watermark that the row must have.
    pub after: Watermark,
    /// The watermark that the row gets.
    pub to: Watermark,
    /// The id of the event at `to`; `None` if the row gets no version.
    event_id: Option<Arc<str>>,
    sets: Attributes,
    adds: BTreeMap<String, Value>,
    removes: BTreeSet<String>,
    /// Values that are set on condition that the present ones are not higher.
    raises: Attributes,
    /// Attributes that the aggregate may not have owned before. No other aggregate may have written to them, except as this mark says:
    /// then an older revision did, and what it wrote is replaced.
    takes: BTreeMap<String, Option<Mark>>,
    /// If this write was computed from a row, the row must still be the same one. Another write may have changed the row without
    /// changing its version and revision.
    read: Option<Read>,
    /// If this write re-projects the row: identifies the write.
    rewritten: Option<Arc<str>>,
    /// Whether a parked row takes the write.
    though_parked: bool,
    /// The child rows.
    pub(super) children: ChildWrites,
}

impl HomeWrite {
    /// The write of a merged change whose last event is `last`, to a row at version `after` of the same revision; `row` is that row, if
    /// it was read.
    #[must_use]
    pub fn of(after: Version, revision: u32, last: &RecordedEvent, change: &Change, resolved: &Resolved, row: Option<&HomeRow>) -> Self {
        let mut write = Self {
            aggregate: last.aggregate.clone(),
            after: Watermark { version: after, revision },
            to: Watermark { version: last.version, revision },
            event_id: Some(last.event_id.clone()),
            sets: Attributes::new(),
            adds: BTreeMap::new(),
            removes: resolved.removes.iter().map(|cell| contribution_name(Kind::Sum, cell)).collect(),
            raises: BTreeMap::new(),
            takes: BTreeMap::new(),
            read: row.map(Read::of),
            rewritten: None,
            though_parked: false,
            children: change.children().clone(),
        };
        if after == Version::NONE {
            // The aggregate has none yet. A home row that was lost may have left some behind: their attributes must not stay.
            for op in write.children.values_mut() {
                if let ChildOp::Set(attributes) = op {
                    *op = ChildOp::Replace(std::mem::take(attributes));
                }
            }
        }
        for (cell, contribution) in resolved.contributions() {
            let (name, value) = (contribution_name(contribution.kind(), &cell), contribution.value());
            match contribution {
                Contribution::Sum(_) | Contribution::Set(_) => _ = write.adds.insert(name, value),
                // It is the highest: `resolve` has compared it with the row.
                Contribution::Max(_) if row.is_some() => _ = write.sets.insert(name, value),
                Contribution::Max(_) => _ = write.raises.insert(name, value),
            }
        }
        write.make_visible(resolved.left.iter());
        for (name, op) in change.own() {
            let owned = row.is_some_and(|row| row.owned.contains(name));
            if !owned {
                write.takes.insert(name.clone(), row.and_then(|row| row.shared.get(name).copied()));
            }
            write.own(name, op);
        }
        let owned: BTreeSet<_> = change.own().keys().map(|name| Arc::from(name.as_str())).collect();
        if !owned.is_empty() {
            write.adds.insert("owned".to_owned(), Value::TextSet(owned));
        }
        write
    }

    fn own(&mut self, name: &str, op: &OwnOp) {
        let replaces = matches!(self.takes.get(name), Some(Some(_)));
        match (&op.base, &op.add) {
            // What is there counts for nothing.
            (Base::Keep, Some(amount)) if replaces => _ = self.sets.insert(name.to_owned(), amount.into()),
            (Base::Set(value), None) => _ = self.sets.insert(name.to_owned(), value.clone()),
            (Base::Remove, None) => _ = self.removes.insert(name.to_owned()),
            (Base::Keep, Some(amount)) => _ = self.adds.insert(name.to_owned(), amount.into()),
            // An amount added to a string: DynamoDB refuses this expression, just as it would refuse the ADD after the SET.
            (Base::Set(value), Some(amount)) => {
                self.sets.insert(name.to_owned(), value.clone());
                self.adds.insert(name.to_owned(), amount.into());
            }
            (Base::Remove, Some(_)) => unreachable!("merging turns an amount after a removal into a value"),
            (Base::Keep, None) => unreachable!("a change names only attributes that it changes"),
        }
    }

    fn make_visible<'a>(&mut self, left: impl Iterator<Item = &'a Cell>) {
        let left: BTreeSet<_> = left.map(|cell| Arc::from(cell_text(cell))).collect();
        if !left.is_empty() {
            self.adds.insert(LEFT.to_owned(), Value::TextSet(left));
        }
    }

    /// The write that makes `next` of `stale` and writes only what differs. `next` must have a new `rewritten`.
    #[must_use]
    pub fn between(aggregate: AggregateId, stale: &HomeRow, next: &HomeRow) -> Self {
        let mut write = Self {
            aggregate,
            after: stale.watermark(),
            to: next.watermark(),
            event_id: next.last_event_id.clone(),
            sets: Attributes::new(),
            adds: BTreeMap::new(),
            removes: BTreeSet::new(),
            raises: BTreeMap::new(),
            takes: BTreeMap::new(),
            read: Some(Read::of(stale)),
            rewritten: Some(next.rewritten.clone()),
            though_parked: false,
            children: ChildWrites::new(),
        };
        write.changes(&stale.own, &next.own);
        for name in next.owned.difference(&stale.owned) {
            let mark = stale.shared.get(name).copied();
            write.takes.insert(name.clone(), mark);
            if mark.is_some() && !next.own.contains_key(name) {
                write.removes.insert(name.clone());
            }
        }
        write.changes(&bookkeeping(stale), &bookkeeping(next));
        // The item may still name what the aggregate contributes to again.
        let left: BTreeSet<_> = next.left.iter().map(|cell| Arc::from(cell_text(cell))).collect();
        if left.is_empty() {
            write.removes.insert(LEFT.to_owned());
        } else {
            write.sets.insert(LEFT.to_owned(), Value::TextSet(left));
        }
        write
    }

    /// The same write, which a parked row takes as well, and stays parked.
    #[must_use]
    pub fn though_parked(self) -> Self {
        Self { though_parked: true, ..self }
    }

    /// The same write, with these child rows.
    #[must_use]
    pub fn with_children(self, children: ChildWrites) -> Self {
        Self { children, ..self }
    }

    /// What it writes to child rows.
    #[must_use]
    pub fn children(&self) -> &ChildWrites {
        &self.children
    }

    fn changes(&mut self, before: &Attributes, after: &Attributes) {
        let differs = |(name, value): &(&String, &Value)| before.get(*name) != Some(*value);
        self.sets.extend(after.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone())));
        self.removes.extend(before.keys().filter(|name| !after.contains_key(*name)).cloned());
    }

    /// Whether this write made the row what it is.
    #[must_use]
    pub fn made(&self, row: &HomeRow) -> bool {
        match &self.rewritten {
            Some(id) => *id == row.rewritten,
            None => self.to.version == row.version && self.event_id == row.last_event_id,
        }
    }

    /// Whether DynamoDB may refuse the write for the length of its conditions, unless it is computed from the row.
    #[must_use]
    pub fn is_blind_and_wide(&self) -> bool {
        self.read.is_none() && self.raises.len() + self.takes.len() > CONDITIONS_MAX
    }

    /// The amount that it adds to an attribute.
    #[cfg(test)]
    #[must_use]
    pub fn added(&self, name: &str) -> Option<Value> {
        self.adds.get(name).cloned()
    }

    /// The id of the re-projection, if it is one.
    #[cfg(test)]
    #[must_use]
    pub fn rewritten(&self) -> Option<&str> {
        self.rewritten.as_deref()
    }

    /// The id of the event that it brings the row to.
    #[cfg(test)]
    #[must_use]
    pub fn event_id(&self) -> Option<&str> {
        self.event_id.as_deref()
    }

    pub(super) fn expression(&self) -> (Expression, String) {
        let mut expression = Expression::default();
        match &self.event_id {
            Some(id) => {
                expression.set("version", number(self.to.version));
                expression.set("lastEventId", AttributeValue::S(id.to_string()));
                expression.set("revision", AttributeValue::N(self.to.revision.to_string()));
            }
            // The current rule handles none of the events, so the row must look as if it had never had one.
            None => ["version", "lastEventId", "revision"].into_iter().for_each(|name| expression.remove(name)),
        }
        for (name, value) in self.sets.iter().chain(&self.raises) {
            expression.set(name, from_value(value));
        }
        for (name, value) in &self.adds {
            expression.add(name, from_value(value));
        }
        for name in &self.removes {
            expression.remove(name);
        }
        let mut conditions = Conditions::default();
        conditions.and(at(&mut expression, self.after));
        if !self.though_parked {
            conditions.and(expression.unchanged("parkedAt", ""));
        }
        for (name, mark) in &self.takes {
            conditions.and(expression.unchanged(shared_name(name), &mark.map(mark_text).unwrap_or_default()));
            if mark.is_some() {
                expression.remove(shared_name(name));
                expression.remove(unsettled_name(name));
            }
        }
        for (name, value) in &self.raises {
            let (name, value) = (expression.name(name), expression.value(from_value(value)));
            conditions.and(format_args!("(attribute_not_exists({name}) OR {name} <= {value})"));
        }
        match &self.read {
            Some(Read { rewritten, last_event_id }) => {
                for (name, mark) in [("rewritten", rewritten), ("lastEventId", last_event_id)] {
                    conditions.and(expression.unchanged(name, mark));
                }
            }
            None if self.after.version == Version::NONE => conditions.and(expression.unchanged(UNFINISHED, "")),
            // An unfinished row has no revision.
            None => {}
        }
        if let Some(id) = &self.rewritten {
            expression.set("rewritten", AttributeValue::S(id.to_string()));
        }
        (expression, conditions.into_text())
    }
}

/// What a home row holds besides its own attributes and its watermark.
fn bookkeeping(row: &HomeRow) -> Attributes {
    let mut all: Attributes =
        row.contributions.iter().map(|(cell, value)| (contribution_name(value.kind(), cell), value.value())).collect();
    let owned: BTreeSet<Arc<str>> = row.owned.iter().map(|name| name.as_str().into()).collect();
    if !owned.is_empty() {
        all.insert("owned".to_owned(), Value::TextSet(owned));
    }
    all.extend(row.unfinished.map(|revision| (UNFINISHED.to_owned(), Value::Number(u64::from(revision).into()))));
    all
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
    format!("{} AND {}", at(expression, after), expression.unchanged("parkedAt", ""))
}

fn at(expression: &mut Expression, after: Watermark) -> String {
    let version = expression.name("version");
    if after.version == Version::NONE {
        return format!("attribute_not_exists({version})");
    }
    let Watermark { version: after, revision } = after;
    let after = expression.value(number(after));
    let written_by = (expression.name("revision"), expression.value(AttributeValue::N(revision.to_string())));
    format!("{version} = {after} AND {} = {}", written_by.0, written_by.1)
}

fn number(version: Version) -> AttributeValue {
    AttributeValue::N(version.to_string())
}

fn prefix(kind: Kind) -> &'static str {
    match kind {
        Kind::Sum => CONTRIBUTED,
        Kind::Max => RAISED,
        Kind::Set => INSERTED,
    }
}

fn contribution_name(kind: Kind, cell: &Cell) -> String {
    [prefix(kind), &cell_text(cell)].concat()
}

/// `<attribute>#<shared row>`. An attribute's name contains no `#`.
fn cell_text((row, attribute): &Cell) -> String {
    format!("{attribute}#{row}")
}

fn cell_of(text: &str) -> Option<Cell> {
    text.split_once('#').map(|(attribute, row)| (row.into(), attribute.to_owned()))
}

pub(super) fn shared_name(attribute: &str) -> String {
    [SHARED, attribute].concat()
}

pub(super) fn unsettled_name(attribute: &str) -> String {
    [UNSETTLED, attribute].concat()
}

pub(super) fn kind_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Sum => "sum@",
        Kind::Max => "max@",
        Kind::Set => "set@",
    }
}

pub(super) fn mark_text(mark: Mark) -> String {
    kind_text(mark.kind).to_owned() + &mark.revision.to_string()
}

fn mark_of(text: &str) -> Option<Mark> {
    let kind = [Kind::Sum, Kind::Max, Kind::Set].into_iter().find(|kind| text.starts_with(kind_text(*kind)))?;
    Some(Mark { kind, revision: text[kind_text(kind).len()..].parse().ok()? })
}

/// The error for an item that the worker cannot have written.
#[must_use]
pub fn foreign_row(why: &str) -> StoreError {
    StoreError::Permanent { operation: "reading a row", class: format!("something other than the worker wrote it: {why}") }
}

/// An item of a read model: a home row, a shared row, or both.
#[derive(Debug)]
pub struct Row {
    /// The key.
    pub key: RowKey,
    /// The part that its aggregate owns. It has no version if only other aggregates have written to the row.
    pub home: HomeRow,
    /// The part that the aggregates sharing the row have written, by attribute.
    pub shared: BTreeMap<String, SharedCell>,
    /// The id of the last correction of its sums; empty if there was none.
    pub corrected: Arc<str>,
}

/// An attribute of a shared row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SharedCell {
    /// Its value; `None` if it has none.
    #[serde(with = "crate::store::item::typed")]
    pub value: Option<Value>,
    /// How it is combined; `None` if no rule has written it.
    pub mark: Option<Mark>,
    /// Whether it may be too high or left over: the id of the write since which it may. Empty if it is settled.
    pub unsettled: Arc<str>,
}

/// The key of a home row or a shared row, for requests.
pub fn row_key(rule: &dyn DynProjection, key: &str) -> SdkItem {
    item_key(rule, key, HOME_SORT)
}

/// The key of an item, for requests. Only a table of child rows has sort keys.
pub(crate) fn item_key(rule: &dyn DynProjection, key: &str, sort: &str) -> SdkItem {
    let sort = rule.children().map(|name| (name.to_owned(), AttributeValue::S(sort.to_owned())));
    std::iter::once((rule.key().to_owned(), AttributeValue::S(key.to_owned()))).chain(sort).collect()
}

/// The sort key of an item that is a child row; `None` for home rows and shared rows.
pub(super) fn child_sort(rule: &dyn DynProjection, item: &SdkItem) -> Option<Arc<str>> {
    item.get(rule.children()?)?.as_s().ok().filter(|sort| *sort != HOME_SORT).map(|sort| sort.as_str().into())
}

/// Reads an item of a read model: the parts that its aggregate and others own.
///
/// # Errors
/// [`StoreError`] if something else has written to the table.
pub fn row_of(rule: &dyn DynProjection, item: SdkItem) -> Result<Row, StoreError> {
    let mut all = attributes(item).map_err(|_| foreign_row("it contains a value that no rule writes"))?;
    let Some(Value::Text(key)) = all.remove(rule.key()) else { return Err(foreign_row("its key is not a string")) };
    rule.children().and_then(|sort| all.remove(sort));
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
    let mut set = |name: &str| if let Some(Value::TextSet(members)) = all.remove(name) { members } else { BTreeSet::new() };
    home.owned = set("owned").iter().map(ToString::to_string).collect();
    home.left = set(LEFT).iter().filter_map(|text| cell_of(text)).collect();
    if let Some(revision) = all.remove(UNFINISHED) {
        let revision = whole(Some(revision), "`unfinished` is not a whole number")?;
        home.unfinished = Some(u32::try_from(revision).map_err(|_| foreign_row("`unfinished` is too large"))?);
    }
    let mut shared = BTreeMap::<String, SharedCell>::new();
    for (name, value) in all {
        if let Some(cell) = name.strip_prefix(CONTRIBUTED).and_then(cell_of) {
            let amount = value.as_number().cloned().ok_or_else(|| foreign_row("a contribution is not a number"))?;
            home.contributions.insert(cell, Contribution::Sum(amount));
        } else if let Some(cell) = name.strip_prefix(RAISED).and_then(cell_of) {
            home.contributions.insert(cell, Contribution::Max(value));
        } else if let Some(cell) = name.strip_prefix(INSERTED).and_then(cell_of) {
            let Value::TextSet(members) = value else { return Err(foreign_row("an inserted contribution is not a set of strings")) };
            home.contributions.insert(cell, Contribution::Set(members));
        } else if let Some(attribute) = name.strip_prefix(SHARED) {
            let mark = value.as_text().and_then(mark_of).ok_or_else(|| foreign_row("`shared#` is not a kind and a revision"))?;
            home.shared.insert(attribute.to_owned(), mark);
            shared.entry(attribute.to_owned()).or_default().mark = Some(mark);
        } else if let Some(attribute) = name.strip_prefix(UNSETTLED) {
            shared.entry(attribute.to_owned()).or_default().unsettled = value.as_text().unwrap_or_default().into();
        } else if home.owned.contains(&name) {
            home.own.insert(name, value);
        } else {
            shared.entry(name).or_default().value = Some(value);
        }
    }
    home.left.retain(|cell| !home.contributions.contains_key(cell));
    Ok(Row { key: RowKey::from(&*key), home, shared, corrected })
}

/// Whether an attribute is for the worker alone, so that readers of the row do not see it.
pub(super) fn is_bookkeeping(name: &str) -> bool {
    let prefixes = [CONTRIBUTED, RAISED, INSERTED, SHARED, UNSETTLED];
    name != "version" && (RESERVED.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{nothing, own, shared};

    use super::*;

    /// The names of the attributes that the write's condition checks.
    fn conditions(write: &HomeWrite) -> Vec<String> {
        let (expression, condition) = write.expression();
        let names = condition.split(" AND ").map(|term| term.trim_start_matches('(').trim_start_matches("attribute_not_exists("));
        let names = names.map(|term| term.split([' ', ')']).next());
        let by_placeholder = expression.names().expect("it has names");
        names.map(|name| by_placeholder[name.expect("a term has a name")].clone()).collect()
    }

    fn event() -> RecordedEvent {
        let fact = projection_vocabulary::sample::Fact { aggregate: "a".into(), event_type: "Happened", data: Value::Null };
        projection_vocabulary::sample::record([fact]).next().expect("one event")
    }

    /// It has no version, or revision 0, which no rule has; so every write that does not continue the re-projection is refused.
    #[test]
    fn an_unfinished_row_takes_no_write_that_was_not_computed_from_it() {
        let of = |after| HomeWrite::of(Version(after), 2, &event(), &Change::default(), &Resolved::default(), None);
        assert_eq!(conditions(&of(0)), ["version", "parkedAt", "unfinished"]);
        assert_eq!(conditions(&of(1)), ["version", "revision", "parkedAt"]);
        let unfinished = HomeRow { unfinished: Some(2), rewritten: "step".into(), ..HomeRow::default() };
        let next = HomeRow { rewritten: "next".into(), ..unfinished.clone() };
        assert_eq!(conditions(&HomeWrite::between("a".into(), &unfinished, &next)), ["version", "parkedAt", "rewritten", "lastEventId"]);
    }

    #[test]
    fn a_write_computed_from_a_row_is_conditional_on_that_row() {
        let event = |id: &str| Some(Arc::from(id));
        let stale = HomeRow { version: Version(2), revision: 1, last_event_id: event("of a lost history"), ..HomeRow::default() };
        let fresh = HomeRow { last_event_id: event("of another history"), rewritten: "now".into(), ..stale.clone() };
        let write = HomeWrite::between("a".into(), &stale, &fresh);
        // Between the read and this write, the row may be lost and created again at the same version.
        assert_eq!(conditions(&write), ["version", "revision", "parkedAt", "rewritten", "lastEventId"]);
        let absent = HomeWrite::between("a".into(), &HomeRow::default(), &fresh);
        assert_eq!(conditions(&absent), ["version", "parkedAt", "rewritten", "lastEventId"]);
    }

    #[test]
    fn a_write_made_the_row_that_stands_on_its_event_at_its_version() {
        let write = HomeWrite::of(Version::NONE, 2, &event(), &Change::default(), &Resolved::default(), None);
        let made =
            |version, id: &str| write.made(&HomeRow { version: Version(version), last_event_id: Some(id.into()), ..HomeRow::default() });
        assert_eq!([made(1, "a-1"), made(1, "another"), made(2, "a-1")], [true, false, false]);
    }

    /// A change that raises the maxima of this many shared rows.
    fn raising(rows: usize) -> Change {
        (0..rows).fold(nothing(), |all, row| all.and(shared(format!("row-{row}")).max("highest", 1)))
    }

    /// So that a row of which more is read than a blind write can check takes the write after all.
    #[test]
    fn a_maximum_that_was_compared_with_the_row_that_was_read_needs_no_condition() {
        let change = raising(1);
        let of = |row: Option<&HomeRow>| {
            let write = HomeWrite::of(Version(1), 2, &event(), &change, &change.resolve(row.map(|row| &row.contributions)), row);
            conditions(&write)
        };
        assert_eq!(of(None).last().map(String::as_str), Some("raised#highest#row-0"));
        assert_eq!(of(Some(&HomeRow::default())), ["version", "revision", "parkedAt", "rewritten", "lastEventId"]);
    }

    #[test]
    fn a_blind_write_has_at_most_fifty_conditions_on_single_attributes() {
        let wide = |raised: usize, taken: usize, row: Option<&HomeRow>| {
            let change = (0..taken).fold(raising(raised), |all, name| all.and(own().set(format!("own-{name}").as_str(), 1)));
            let resolved = change.resolve(row.map(|row| &row.contributions));
            HomeWrite::of(Version(1), 2, &event(), &change, &resolved, row).is_blind_and_wide()
        };
        assert_eq!([wide(50, 0, None), wide(0, 50, None), wide(20, 30, None)], [false; 3]);
        assert_eq!([wide(51, 0, None), wide(0, 51, None), wide(21, 30, None), wide(52, 0, None)], [true; 4]);
        assert!(!wide(51, 51, Some(&HomeRow::default())), "what was read needs no conditions");
    }

    #[test]
    fn a_row_that_no_event_concerns_any_more_looks_as_if_it_had_never_had_one() {
        let stale = HomeRow { version: Version(2), revision: 1, last_event_id: Some("a-2".into()), ..HomeRow::default() };
        let (expression, _) =
            HomeWrite::between("a".into(), &stale, &HomeRow { rewritten: "now".into(), ..HomeRow::default() }).expression();
        let (update, by_placeholder) = (expression.update(), expression.names().expect("it has names"));
        let (set, removed) = update.split_once(" REMOVE ").expect("it removes something");
        let removed: Vec<_> = removed.trim().split(", ").map(|name| by_placeholder[name].as_str()).collect();
        assert_eq!(removed, ["version", "lastEventId", "revision", "left"]);
        assert_eq!(
            by_placeholder[set.trim_start_matches("SET ").split(' ').next().expect("a name")],
            "rewritten",
            "and nothing else: {set}"
        );
    }

    /// A row to which other aggregates have written these attributes, by an older revision of the rule.
    fn shared_before(names: &[&str]) -> HomeRow {
        let mark = Mark { kind: Kind::Sum, revision: 1 };
        HomeRow {
            version: Version(1),
            revision: 2,
            shared: names.iter().map(|name| ((*name).to_owned(), mark)).collect(),
            ..HomeRow::default()
        }
    }

    #[test]
    fn an_amount_replaces_what_others_have_written_and_is_added_to_what_the_aggregate_has() {
        let change = own().add("n", 3).into();
        for (row, sets, adds) in [(shared_before(&["n"]), Some(3), None), (shared_before(&["m"]), None, Some(3))] {
            let write = HomeWrite::of(Version(1), 2, &event(), &change, &Resolved::default(), Some(&row));
            let (sets, adds) = (sets.map(Value::from), adds.map(Value::from));
            assert_eq!((write.sets.get("n"), write.adds.get("n")), (sets.as_ref(), adds.as_ref()), "{row:?}");
        }
    }

    #[test]
    fn what_others_have_written_goes_if_the_aggregate_owns_the_attribute_and_has_no_value_for_it() {
        let stale = shared_before(&["absent", "present"]);
        let owned = ["absent", "present", "new"].map(str::to_owned).into();
        let next = HomeRow { owned, own: [("present".to_owned(), 1.into())].into(), shared: BTreeMap::new(), ..stale.clone() };
        let write = HomeWrite::between("a".into(), &stale, &next);
        assert_eq!(write.removes, ["absent", LEFT].map(str::to_owned).into());
        assert_eq!(write.sets.get("present"), Some(&1.into()));
    }

    #[test]
    fn readers_see_the_version_and_what_rules_write() {
        let hidden = ["revision", "lastEventId", "owned", "left", "rewritten", "corrected", "parkedAt", "unfinished", "contributed#n#a"];
        let hidden = hidden.into_iter().chain(["raised#n#a", "inserted#n#a", "shared#n", "unsettled#n"]);
        assert_eq!(hidden.filter(|name| !is_bookkeeping(name)).collect::<Vec<_>>(), [""; 0]);
        assert_eq!(["version", "balance", "sharedName"].into_iter().filter(|name| is_bookkeeping(name)).collect::<Vec<_>>(), [""; 0]);
    }
}
