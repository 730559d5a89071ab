//! The invariants: after every write, at every acknowledgement, and at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use projection_vocabulary::{Attributes, DynProjection, RESERVED, Registry, RowKey, Rows, Value, Version};
use projection_worker::internals::store::{
    item::{attributes, decode_event, event_type_of, partition_key, sort_key},
    parking::NO_PROJECTION,
};
use serde_dynamo::Item as StreamItem;

use crate::{
    database::{Database, Written},
    expression::Item,
    rules::SHARED_SUMS,
    stream::StreamRecord,
};

/// The table names that the worker uses.
pub const EVENTS: &str = "events";
/// The parking table.
pub const PARKED: &str = "parked";

const CONTRIBUTED: &str = "contributed#";

/// A number on a shared row: row and attribute.
type Cell = (String, String);

/// Knowledge that the database does not show.
#[derive(Default)]
pub struct Oracle {
    /// The excess of shared rows over the contributions of existing home rows: the contributions of lost home rows.
    lost: BTreeMap<Cell, i64>,
    /// Every excess since the last correction.
    measurable: BTreeMap<Cell, BTreeSet<i64>>,
    /// Aggregates whose history was set back, or whose row was lost: their row may lag behind what was acknowledged.
    pub disturbed: BTreeSet<String>,
    /// Whether any history was set back. Sums that only the removed events wrote remain as zeros, and monotone changes remain.
    pub restored: bool,
    /// Whether an earlier revision has projected rows. Sums that only that revision wrote remain as zeros, and monotone changes remain.
    pub revised: bool,
}

impl Oracle {
    /// Shared rows equal the sum of contributions after each write by anybody. `lost` says that the write deleted a row by mistake.
    ///
    /// # Errors
    /// A description of the violation.
    pub fn written(&mut self, written: &Written, lost: bool) -> Result<(), String> {
        let (mut contributed, mut shared) = (BTreeMap::<Cell, i64>::new(), BTreeMap::<Cell, i64>::new());
        for (_, key, before, after) in written.items.iter().filter(|(table, ..)| table == "shelves") {
            for (item, sign) in [(before, -1), (after, 1)] {
                for (name, value) in item.iter().flatten() {
                    let number = || value.as_n().ok().and_then(|number| number.parse::<i64>().ok()).ok_or("a sum is not a whole number");
                    if let Some((attribute, row)) = name.strip_prefix(CONTRIBUTED).and_then(|cell| cell.split_once('#')) {
                        *contributed.entry((row.to_owned(), attribute.to_owned())).or_default() += sign * number()?;
                    } else if SHARED_SUMS.contains(&name.as_str()) {
                        *shared.entry((key.0.clone(), name.clone())).or_default() += sign * number()?;
                    }
                }
            }
        }
        for (_, key, _, after) in written.items.iter().filter(|(table, ..)| table == PARKED) {
            let reason = after.as_ref().and_then(|entry| entry.get("reason")?.as_s().ok());
            let lacking = |reason: &String| reason.contains("does not have this version") || reason.contains("ends before the row does");
            if reason.is_some_and(lacking) && !self.disturbed.contains(&key.0) {
                return Err(format!("{} is parked for a hole that does not exist", key.0));
            }
        }
        for cell in contributed.keys().chain(shared.keys()).cloned().collect::<BTreeSet<_>>() {
            let difference = shared.get(&cell).unwrap_or(&0) - contributed.get(&cell).unwrap_or(&0);
            // A repair removes the excess that it saw when it read the rows.
            let repaired = corrects(written) && self.measurable.get(&cell).is_some_and(|lost| lost.contains(&-difference));
            if lost || repaired {
                let left = self.lost.entry(cell.clone()).or_default();
                *left += difference;
                let measurable = self.measurable.entry(cell).or_default();
                if repaired {
                    measurable.clear();
                }
                measurable.insert(*left);
            } else if difference != 0 {
                return Err(format!("{}/{} moved by {difference:+} more than its contributions", cell.0, cell.1));
            }
        }
        Ok(())
    }

    /// The excess of shared rows over their contributions, by row and attribute.
    #[must_use]
    pub fn lost(&self) -> BTreeMap<(String, String), String> {
        self.lost.iter().filter(|(_, lost)| **lost != 0).map(|(cell, lost)| (cell.clone(), lost.to_string())).collect()
    }

    /// Records that sums were repaired.
    ///
    /// # Errors
    /// If an excess remains.
    pub fn corrected(&self) -> Result<(), String> {
        let lost = self.lost();
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
            let row = database.item(rule.name(), &(aggregate.clone(), String::new()));
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
                if rule.name() == "shelves" {
                    let cell = expected.entry(row.as_str().into()).or_default().entry(attribute.clone());
                    let Value::Number(sum) = cell.or_insert_with(|| 0.into()) else { unreachable!("sums are numbers") };
                    *sum += &lost.to_string().parse().expect("a whole number");
                }
            }
            if self.revised || self.restored {
                drop_zeros(&mut expected);
                drop_zeros(&mut actual);
                raised_at_least(&mut expected, &mut actual, &mut wrong);
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
        for (_, item) in database.items(EVENTS).filter(|(key, _)| key.1 != "VERSION") {
            if !ids.insert(item.get("eventId").and_then(|id| id.as_s().ok())) {
                wrong.push_str("\n  an event was appended twice");
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("at rest:{wrong}")) }
    }
}

/// The pure fold of the event store under a rule, as a reader sees it, and where it stops.
fn expected(database: &Database, rule: &dyn DynProjection) -> (BTreeMap<RowKey, Attributes>, BTreeMap<String, u64>) {
    let (mut rows, mut stops) = (Rows::default(), BTreeMap::new());
    for ((partition, sort), item) in database.items(EVENTS) {
        let aggregate = partition.strip_prefix("AGGREGATE#").expect("an event store's key").to_owned();
        let Some(version) = sort.strip_prefix("EVENT#").map(|version| version.parse::<u64>().expect("a version")) else { continue };
        if stops.contains_key(&aggregate) {
            continue;
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
    (rows.visible(), stops)
}

/// The rows of a projection as a reader sees them.
fn actual(database: &Database, rule: &dyn DynProjection) -> BTreeMap<RowKey, Attributes> {
    let row = |(key, item): (&(String, String), &Item)| {
        let mut row = attributes(item.clone()).expect("what rules write");
        row.remove(rule.key());
        let parked = row.contains_key("parkedAt");
        row.retain(|name, _| name == "version" || !(RESERVED.contains(&name.as_str()) || name.starts_with(CONTRIBUTED)));
        if parked {
            row.insert("parked".into(), true.into());
        }
        (RowKey::from(&key.0), row)
    };
    database.items(rule.name()).map(row).collect()
}

/// Whether a write corrects sums.
fn corrects(written: &Written) -> bool {
    let mark = |item: &Option<Item>| item.as_ref().and_then(|item| item.get("corrected").cloned());
    written.items.iter().any(|(.., before, after)| mark(after).is_some() && mark(before) != mark(after))
}

fn drop_zeros(rows: &mut BTreeMap<RowKey, Attributes>) {
    for row in rows.values_mut() {
        row.retain(|name, value| {
            !(SHARED_SUMS.contains(&name.as_str()) && value.as_number().is_some_and(projection_vocabulary::Decimal::is_zero))
        });
    }
}

/// Monotone changes of removed events remain, so values may be higher than the fold's, and must not be lower.
fn raised_at_least(expected: &mut BTreeMap<RowKey, Attributes>, actual: &mut BTreeMap<RowKey, Attributes>, wrong: &mut String) {
    for (key, row) in expected.iter_mut() {
        for name in ["lastAt", "givers"] {
            let Some(wanted) = row.remove(name) else { continue };
            let enough = actual.get(key).and_then(|row| row.get(name)).is_some_and(|found| match (found, &wanted) {
                (Value::TextSet(found), Value::TextSet(wanted)) => wanted.is_subset(found),
                (found, wanted) => found >= wanted,
            });
            if !enough {
                let _ = write!(wrong, "\n  {key}: {name} is lower than {wanted}");
            }
        }
    }
    for row in actual.values_mut() {
        row.retain(|name, _| !["lastAt", "givers"].contains(&name.as_str()));
    }
}

fn row_text(row: Option<&Attributes>) -> String {
    let Some(row) = row else { return "absent".to_owned() };
    row.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
