//! The invariants: after every write, at every acknowledgement, and at the end.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use aws_sdk_dynamodb::types::AttributeValue;

use projection_vocabulary::{Attributes, Children, DynProjection, HOME_SORT, RESERVED, Registry, RowId, Rows, Value, Version};
use projection_worker::internals::store::{
    item::{attributes, decode_event, event_type_of, partition_key, sort_key},
    parking::NO_PROJECTION,
};
use serde_dynamo::Item as StreamItem;

use crate::{
    database::{Database, Key, Written},
    expression::{Item, equal, order},
    rules::{PART, Shelves},
    stream::StreamRecord,
};

/// The table names that the worker uses.
pub const EVENTS: &str = "events";
/// The parking table.
pub const PARKED: &str = "parked";
/// The projection that shares rows.
pub const SHELVES: &str = "shelves";

/// An attribute of a shared row: row and attribute.
type Cell = (String, String);

/// How attributes of shared rows are combined, as a home row names its contributions to them.
const KINDS: [(&str, &str); 3] = [("sum", "contributed#"), ("max", "raised#"), ("set", "inserted#")];

/// Knowledge that the database does not show.
#[derive(Default)]
pub struct Oracle {
    /// The rows of [`SHELVES`], and what they have contributed: by attribute, kind and home row.
    rows: BTreeMap<String, Item>,
    contributions: BTreeMap<Cell, BTreeMap<(&'static str, String), AttributeValue>>,
    /// The child rows of [`SHELVES`], by home row and sort key.
    children: BTreeMap<String, BTreeMap<String, Item>>,
    /// The events, by partition key and sort key.
    events: BTreeMap<(String, String), Item>,
    /// The excess of shared rows over the contributions of existing home rows: the contributions of lost home rows.
    lost: BTreeMap<Cell, i64>,
    /// Every excess since the last correction.
    measurable: BTreeMap<Cell, BTreeSet<i64>>,
    /// Attributes to which lost home rows have contributed. They may be too high or left over until they are repaired.
    pub tainted: BTreeSet<Cell>,
    /// Aggregates whose history was set back, or whose row was lost: their row may lag behind what was acknowledged.
    pub disturbed: BTreeSet<String>,
    /// Whether any history was set back.
    pub restored: bool,
    /// Whether an earlier revision has projected rows.
    pub revised: bool,
}

impl Oracle {
    /// Shared rows are what is contributed to them after each write by anybody. `lost` says that the write deleted a row by mistake.
    ///
    /// # Errors
    /// A description of the violation.
    pub fn written(&mut self, written: &Written, lost: bool) -> Result<(), String> {
        for (_, key, _, after) in written.items.iter().filter(|(table, ..)| table == PARKED) {
            let reason = after.as_ref().and_then(|entry| entry.get("reason")?.as_s().ok());
            let lacking = |reason: &String| reason.contains("does not have this version") || reason.contains("ends before the row does");
            if reason.is_some_and(lacking) && !self.disturbed.contains(&key.0) {
                return Err(format!("{} is parked for a hole that does not exist", key.0));
            }
        }
        for (_, key, _, after) in written.items.iter().filter(|(table, ..)| table == EVENTS) {
            match after {
                Some(after) => _ = self.events.insert(key.clone(), after.clone()),
                None => _ = self.events.remove(key),
            }
        }
        let (mut touched, mut lists) = (BTreeSet::new(), BTreeSet::new());
        for (_, (row, sort), before, after) in written.items.iter().filter(|(table, ..)| table == SHELVES) {
            lists.insert(row);
            if sort != HOME_SORT {
                let children = self.children.entry(row.clone()).or_default();
                match after {
                    Some(after) => _ = children.insert(sort.clone(), after.clone()),
                    None => _ = children.remove(sort),
                }
                continue;
            }
            for (cell, kind, _) in before.iter().flat_map(contributions_of) {
                self.contributions.entry(cell.clone()).or_default().remove(&(kind, row.clone()));
                if lost {
                    self.tainted.insert(cell.clone());
                }
                touched.insert(cell);
            }
            for (cell, kind, value) in after.iter().flat_map(contributions_of) {
                self.contributions.entry(cell.clone()).or_default().insert((kind, row.clone()), value);
                touched.insert(cell);
            }
            if lost {
                let left = before.iter().filter_map(|item| item.get("left")?.as_ss().ok()).flatten();
                self.tainted.extend(left.filter_map(|cell| cell_of(cell)));
            }
            let attributes = before.iter().chain(after).flat_map(|item| item.keys()).filter_map(|name| name.strip_prefix("shared#"));
            touched.extend(attributes.map(|attribute| (row.clone(), attribute.to_owned())));
            match after {
                Some(after) => _ = self.rows.insert(row.clone(), after.clone()),
                None => _ = self.rows.remove(row),
            }
        }
        lists.into_iter().try_for_each(|row| self.check_list(row))?;
        touched.into_iter().try_for_each(|cell| self.check(&cell, corrects(written), lost))
    }

    /// The child rows of a home row are those of the fold up to its version, unless a re-projection of it is unfinished.
    fn check_list(&self, row: &str) -> Result<(), String> {
        let home = self.rows.get(row);
        let number = |name: &str| home.and_then(|home| home.get(name)?.as_n().ok()?.parse::<u64>().ok());
        let unfinished = home.is_some_and(|home| home.contains_key("unfinished"));
        if unfinished || self.disturbed.contains(row) {
            return Ok(());
        }
        let version = number("version").unwrap_or_default();
        let rule: &dyn DynProjection = if number("revision") == Some(2) { &Shelves::<2> } else { &Shelves::<1> };
        let history = self.events.range((partition_key(&row.into()), sort_key(Version(1)))..);
        let history =
            history.take_while(|((partition, sort), _)| *partition == partition_key(&row.into()) && *sort <= sort_key(Version(version)));
        let (mut rows, mut stops) = (Rows::default(), BTreeMap::new());
        for (key, item) in history {
            fold(rule, key, item, &mut rows, &mut stops);
        }
        let expected = rows.children.remove(&row.into()).unwrap_or_default();
        let none = BTreeMap::new();
        let found = self.children.get(row).unwrap_or(&none);
        let of = |item: &Item| {
            let mut row = attributes(item.clone()).expect("what rules write");
            row.retain(|name, _| name != rule.key() && name != PART);
            row
        };
        let found: Children = found.iter().map(|(sort, item)| (sort.as_str().into(), of(item))).collect();
        if found == expected || !stops.is_empty() {
            return Ok(());
        }
        Err(format!("the child rows of {row} at version {version} are {found:?} but the fold has {expected:?}"))
    }

    fn check(&mut self, cell: &Cell, corrects: bool, lost: bool) -> Result<(), String> {
        let item = self.rows.get(&cell.0);
        let text = |name: String| item.and_then(|item| item.get(&name)?.as_s().ok());
        let owned = item.and_then(|item| item.get("owned")?.as_ss().ok()).is_some_and(|owned| owned.contains(&cell.1));
        let mark = text(format!("shared#{}", cell.1));
        let kind = mark.and_then(|mark| KINDS.iter().map(|(kind, _)| *kind).find(|kind| mark.starts_with(kind)));
        let contributed = self.contributions.get(cell).into_iter().flatten();
        let of_kind = contributed.filter(|((of, _), _)| Some(*of) == kind).map(|(_, value)| value);
        let held = item.and_then(|item| item.get(&cell.1));
        let is_settled = text(format!("unsettled#{}", cell.1)).is_none();
        let wrong =
            |combined: &dyn std::fmt::Debug| Err(format!("{}/{} is {held:?} but {combined:?} is contributed to it", cell.0, cell.1));
        match kind {
            // It has changed hands, or gone.
            None => {
                self.lost.remove(cell);
                self.tainted.remove(cell);
                if mark.is_some() || (held.is_some() && !owned) {
                    return Err(format!("{}/{} has no owner", cell.0, cell.1));
                }
            }
            Some("sum") => {
                let number = |value: &AttributeValue| value.as_n().ok().and_then(|number| number.parse::<i64>().ok());
                let sum: i64 = of_kind.filter_map(number).sum();
                let Some(held) = held.map_or(Some(0), number) else { return wrong(&sum) };
                let (excess, before) = (held - sum, self.lost.get(cell).copied().unwrap_or_default());
                // A repair removes the excess that it saw when it read the rows.
                let repaired = corrects && self.measurable.get(cell).is_some_and(|lost| lost.contains(&(before - excess)));
                if lost || repaired {
                    self.lost.insert(cell.clone(), excess);
                    let measurable = self.measurable.entry(cell.clone()).or_default();
                    if repaired {
                        measurable.clear();
                    }
                    measurable.insert(excess);
                } else if excess != before {
                    return wrong(&sum);
                }
            }
            Some("max") => {
                let highest = of_kind.reduce(|one, two| if order(one, two) == Some(Ordering::Less) { two } else { one });
                let same = matches!((held, highest), (Some(held), Some(highest)) if equal(held, highest));
                if same || !is_settled {
                    self.tainted.remove(cell);
                } else if !self.tainted.contains(cell) {
                    return wrong(&highest);
                }
            }
            Some(_) => {
                let members: BTreeSet<_> = of_kind.filter_map(|members| members.as_ss().ok()).flatten().collect();
                let held_members: BTreeSet<_> = held.and_then(|held| held.as_ss().ok()).into_iter().flatten().collect();
                if (members == held_members && !members.is_empty()) || !is_settled {
                    self.tainted.remove(cell);
                } else if !self.tainted.contains(cell) {
                    return wrong(&members);
                }
            }
        }
        Ok(())
    }

    /// The excess of shared rows over their contributions, by row and attribute.
    #[must_use]
    pub fn lost(&self) -> BTreeMap<(String, String), String> {
        self.lost.iter().filter(|(_, lost)| **lost != 0).map(|(cell, lost)| (cell.clone(), lost.to_string())).collect()
    }

    /// Records that shared rows were repaired.
    ///
    /// # Errors
    /// If something is still too high.
    pub fn corrected(&mut self) -> Result<(), String> {
        // Sums are right again; those that were left over are gone.
        self.tainted.retain(|cell| {
            let mark = self.rows.get(&cell.0).and_then(|row| row.get(&format!("shared#{}", cell.1))?.as_s().ok());
            mark.is_some_and(|mark| !mark.starts_with("sum"))
        });
        let lost = self.lost();
        if !self.tainted.is_empty() {
            return Err(format!("after a repair, shared rows may still be too high at {:?}", self.tainted));
        }
        if lost.is_empty() { Ok(()) } else { Err(format!("after a repair, shared rows still hold {lost:?} too much")) }
    }

    /// An acknowledged record is counted in each row that it concerns, or parked.
    ///
    /// # Errors
    /// A description of the violation.
    pub fn acknowledged(&self, database: &Database, rules: &[&dyn DynProjection], record: &StreamRecord) -> Result<(), String> {
        let StreamRecord { aggregate, version, event_type, inserted, .. } = record;
        if !inserted || self.disturbed.contains(aggregate) {
            return Ok(());
        }
        let Some(event_type) = event_type else {
            let kept = database.item(PARKED, &(format!("record#{}", record.id()), NO_PROJECTION.to_owned())).is_some();
            let readable = |item: &Item| decode_event(&StreamItem::from(item.clone())).is_ok();
            let key = (partition_key(&aggregate.as_str().into()), sort_key(Version(*version)));
            return if kept || database.item(EVENTS, &key).is_some_and(readable) {
                Ok(())
            } else {
                Err(format!("version {version} of {aggregate} was acknowledged, but is neither counted nor parked"))
            };
        };
        for rule in rules.iter().filter(|rule| rule.event_types().contains(&event_type.as_str())) {
            let row = database.item(rule.name(), &home_key(*rule, aggregate));
            let at = row.and_then(|row| row.get("version")?.as_n().ok()?.parse::<u64>().ok()).unwrap_or(0);
            let parked = row.is_some_and(|row| row.contains_key("parkedAt"))
                || database.item(PARKED, &(aggregate.clone(), rule.name().to_owned())).is_some();
            if at < *version && !parked {
                return Err(format!("version {version} of {aggregate} was acknowledged, but {} is at {at} and not parked", rule.name()));
            }
        }
        Ok(())
    }

    /// Rows are the pure fold of the event store, and exactly the events that the fold cannot pass are parked.
    ///
    /// # Errors
    /// A description of the violation.
    pub fn at_rest(&self, database: &Database, registry: Registry) -> Result<(), String> {
        let mut wrong = String::new();
        let mut expected_parked = BTreeMap::new();
        for rule in registry.projections() {
            let (mut expected, stops) = expected(database, *rule);
            let mut actual = actual(database, *rule);
            for ((row, attribute), lost) in self.lost.iter().filter(|(_, lost)| **lost != 0) {
                if rule.name() == SHELVES {
                    let cell = expected.entry(row.as_str().into()).or_default().entry(attribute.clone());
                    let Value::Number(sum) = cell.or_insert_with(|| 0.into()) else { unreachable!("sums are numbers") };
                    *sum += &lost.to_string().parse().expect("a whole number");
                }
            }
            for aggregate in stops.keys() {
                let row = expected.entry(aggregate.as_str().into()).or_default();
                row.insert("parked".into(), true.into());
            }
            expected.retain(|_, row| !row.is_empty());
            actual.retain(|_, row| !row.is_empty());
            let keys: BTreeSet<_> = expected.keys().chain(actual.keys()).collect();
            for key in keys {
                let (wanted, found) = (expected.get(key), actual.get(key));
                if wanted != found {
                    let _ = write!(wrong, "\n  {} {key}: is {}, must be {}", rule.name(), row_text(found), row_text(wanted));
                }
            }
            expected_parked.extend(stops.into_iter().map(|(aggregate, version)| ((aggregate, rule.name().to_owned()), version)));
        }
        let parked: BTreeMap<_, _> = database
            .items(PARKED)
            // The record of a removed event cannot be replaced by anything in the event store.
            .filter(|(key, _)| !(self.restored && key.0.starts_with("record#")))
            .map(|(key, item)| (key.clone(), item.get("version").and_then(|n| n.as_n().ok()?.parse::<u64>().ok()).unwrap_or(0)))
            .collect();
        if parked != expected_parked {
            let _ = write!(wrong, "\n  parked is {parked:?}, must be {expected_parked:?}");
        }
        let mut ids = BTreeSet::new();
        for (_, item) in database.items(EVENTS).filter(|(key, _)| key.1.starts_with("EVENT#")) {
            if !ids.insert(item.get("eventId").and_then(|id| id.as_s().ok())) {
                wrong.push_str("\n  an event was appended twice");
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("at rest:{wrong}")) }
    }
}

/// The pure fold of the event store under a rule, as a reader sees it, and where it stops.
fn expected(database: &Database, rule: &dyn DynProjection) -> (BTreeMap<RowId, Attributes>, BTreeMap<String, u64>) {
    let (mut rows, mut stops) = (Rows::default(), BTreeMap::new());
    for (key, item) in database.items(EVENTS) {
        fold(rule, key, item, &mut rows, &mut stops);
    }
    (rows.visible(), stops)
}

/// Adds an item of the event store to a fold, unless its aggregate has stopped. It may stop here.
fn fold(rule: &dyn DynProjection, (partition, sort): &Key, item: &Item, rows: &mut Rows, stops: &mut BTreeMap<String, u64>) {
    let Some(version) = sort.strip_prefix("EVENT#").map(|version| version.parse::<u64>().expect("a version")) else { return };
    let aggregate = partition.strip_prefix("AGGREGATE#").expect("an event's key").to_owned();
    if stops.contains_key(&aggregate) {
        return;
    }
    let item = StreamItem::from(item.clone());
    let folded = match decode_event(&item) {
        Ok(event) => rows.fold(rule, &event).is_ok(),
        Err(_) => event_type_of(&item).is_some_and(|event_type| !rule.event_types().contains(&event_type)),
    };
    if !folded {
        stops.insert(aggregate, version);
    }
}

/// The key of a home row or a shared row.
#[must_use]
pub fn home_key(rule: &dyn DynProjection, key: &str) -> Key {
    (key.to_owned(), rule.children().map_or_else(String::new, |_| HOME_SORT.to_owned()))
}

/// The rows of a projection as a reader sees them.
fn actual(database: &Database, rule: &dyn DynProjection) -> BTreeMap<RowId, Attributes> {
    let row = |(key, item): (&(String, String), &Item)| {
        let mut row = attributes(item.clone()).expect("what rules write");
        row.remove(rule.key());
        rule.children().and_then(|sort| row.remove(sort));
        let parked = row.contains_key("parkedAt");
        row.retain(|name, _| name == "version" || !(RESERVED.contains(&name.as_str()) || name.contains('#')));
        if parked {
            row.insert("parked".into(), true.into());
        }
        let child = rule.children().filter(|_| key.1 != HOME_SORT).map(|_| key.1.as_str().into());
        (RowId { child, ..RowId::from(key.0.as_str()) }, row)
    };
    database.items(rule.name()).map(row).collect()
}

/// Whether a write corrects sums.
fn corrects(written: &Written) -> bool {
    let mark = |item: &Option<Item>| item.as_ref().and_then(|item| item.get("corrected").cloned());
    written.items.iter().any(|(.., before, after)| mark(after).is_some() && mark(before) != mark(after))
}

/// What a home row has contributed: to which attribute, how, and what.
fn contributions_of(item: &Item) -> impl Iterator<Item = (Cell, &'static str, AttributeValue)> {
    item.iter().filter_map(|(name, value)| {
        let (kind, cell) = KINDS.iter().find_map(|(kind, prefix)| Some((*kind, name.strip_prefix(prefix)?)))?;
        Some((cell_of(cell)?, kind, value.clone()))
    })
}

fn cell_of(text: &str) -> Option<Cell> {
    text.split_once('#').map(|(attribute, row)| (row.to_owned(), attribute.to_owned()))
}

fn row_text(row: Option<&Attributes>) -> String {
    let Some(row) = row else { return "absent".to_owned() };
    row.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
