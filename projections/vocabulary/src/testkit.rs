//! A test kit for rules: given these events, expect these rows.
//!
//! [`Given::rows`] also checks that the rows do not depend on how events are split into batches. The kit refuses what the worker
//! or DynamoDB would refuse in production, and names the attribute and the row, which the worker cannot do: its messages never
//! contain event data.
//!
//! ```
//! # use projection_vocabulary::{Change, Decimal, Projection, Recorded, Refusal, data, own, testkit::given};
//! # #[derive(serde::Deserialize)] enum Event { Paid { amount: Decimal } }
//! # struct Payments;
//! # impl Projection for Payments {
//! #     type Event = Event;
//! #     const NAME: &str = "payments";
//! #     const KEY: &str = "payerId";
//! #     fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
//! #         let Event::Paid { amount } = &event.event;
//! #         Ok(own().add("paid", amount).into())
//! #     }
//! # }
//! let rows = given(&Payments).event("alice", "Paid", data! { amount: 30.50 }).event("alice", "Paid", data! { amount: 1 }).rows();
//! assert_eq!(rows, "alice: paid=31.5 version=2\n");
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    mem::discriminant,
};

use crate::{
    AggregateId, Attributes, Cell, Change, Contribution, DynProjection, HomeRow, Inapplicable, Kind, RecordedEvent, Rows, Value, Watermark,
    WithChange,
    change::is_child_sort,
    fold,
    fold::{MergeStop, Unfolded},
    projection::assert_valid,
    row,
    sample::{Fact, record},
};

mod deciders;
mod processes;

pub use deciders::{Decision, Told, decider, laws};
pub use processes::{Arrival, Run, process};

/// Histories of at most this many events are split everywhere.
const SPLIT_EVERYWHERE_MAX: usize = 64;
/// How many of the last splits of a longer history are tried.
const LAST_SPLITS: usize = 8;

/// Events to project, in the order in which they happened. Made by [`given`].
pub struct Given<'a> {
    rule: &'a dyn DynProjection,
    facts: Vec<Fact>,
    /// By position in `facts`.
    metadata: BTreeMap<usize, Value>,
}

/// Starts a test of a rule.
///
/// # Panics
/// If a constant of the projection is invalid, as [`crate::Registry::new`] does.
#[track_caller]
pub fn given(rule: &dyn DynProjection) -> Given<'_> {
    assert_valid(rule);
    Given { rule, facts: Vec::new(), metadata: BTreeMap::new() }
}

impl Given<'_> {
    /// Adds an event. Versions count up within each aggregate. The first event happens at 2026-01-01T00:00:01Z, and each of the
    /// others one second after the one before it. Its event id is `<aggregate>-<version>`.
    ///
    /// # Panics
    /// If the rule does not handle the event type: see [`Given::skipped_event`].
    #[must_use]
    #[track_caller]
    pub fn event(mut self, aggregate: &str, event_type: &'static str, data: Value) -> Self {
        if let Some(message) = unknown(self.rule, event_type) {
            panic!("{message}");
        }
        self.facts.push(Fact { aggregate: aggregate.into(), event_type, data });
        self
    }

    /// Adds an event of a type that the rule does not handle. It takes a version of its aggregate and changes no row.
    ///
    /// # Panics
    /// If the rule handles the event type.
    #[must_use]
    #[track_caller]
    pub fn skipped_event(mut self, aggregate: &str, event_type: &'static str) -> Self {
        let handled = self.rule.event_types().contains(&event_type);
        assert!(!handled, "`{}` handles `{event_type}`: give the test its data with `event`", self.rule.name());
        self.facts.push(Fact { aggregate: aggregate.into(), event_type, data: Value::Map(BTreeMap::new()) });
        self
    }

    /// Gives the last event its metadata, for rules that read [`crate::Recorded::metadata`].
    ///
    /// # Panics
    /// If there is no event yet.
    #[must_use]
    #[track_caller]
    pub fn metadata(mut self, metadata: Value) -> Self {
        let last = self.facts.len().checked_sub(1).expect("metadata follows the event to which it belongs");
        self.metadata.insert(last, metadata);
        self
    }

    /// Returns the rows, one per line: `key: attribute=value ...`, and child rows as `key/sort key: attribute=value ...`. A shared row is
    /// one row, as for readers, however many shards it has.
    ///
    /// It also checks what the worker relies on: the rows are the same whether the events are applied one by one, all at once,
    /// or in two batches with any split between them, and whatever the order of the aggregates within a batch. Of more than 64
    /// events, not every split is tried, but those at powers of two from either end and the last eight.
    ///
    /// # Panics
    /// If the rule refuses an event, if the rows depend on the batches, or if an attribute of a row has two owners.
    #[must_use]
    #[track_caller]
    pub fn rows(self) -> String {
        let (rule, events) = (&unsharded(self.rule), self.recorded());
        let one_by_one = one_by_one(rule, &events).unwrap_or_else(|refusal| panic!("{refusal}"));
        for split in splits(events.len()) {
            assert_eq!(
                in_spans(rule, &events, split),
                one_by_one,
                "the rows depend on how the events are split into batches (split after event {split})"
            );
        }
        let mut text = String::new();
        for (key, attributes) in one_by_one.visible() {
            write!(text, "{key}:").expect("writing to a String cannot fail");
            for (name, value) in attributes {
                write!(text, " {name}={value}").expect("writing to a String cannot fail");
            }
            text.push('\n');
        }
        text
    }

    /// Returns why an event cannot be applied: `aggregate version: reason`.
    ///
    /// # Panics
    /// If every event is applied.
    #[must_use]
    #[track_caller]
    pub fn refusal(self) -> String {
        one_by_one(&unsharded(self.rule), &self.recorded()).expect_err("expected a refusal, but every event was applied")
    }

    fn recorded(&self) -> Vec<RecordedEvent> {
        let mut events: Vec<_> = record(self.facts.clone()).collect();
        for (at, metadata) in &self.metadata {
            events[*at].metadata = Some(metadata.clone());
        }
        events
    }
}

/// A rule whose shared rows are not spread over shards, so that what is said of them names the rows that the rule names.
fn unsharded(rule: &dyn DynProjection) -> impl DynProjection {
    let change = move |event: &RecordedEvent, row: &Attributes| {
        let change = rule.change(event, row)?;
        Ok(if rule.shards() == 1 { change } else { change.out_of_shards() })
    };
    WithChange { rule, change }
}

/// Why an event type is probably a mistake; `None` if the rule handles it.
fn unknown(rule: &dyn DynProjection, event_type: &str) -> Option<String> {
    let (name, handled) = (rule.name(), rule.event_types());
    if handled.contains(&event_type) {
        return None;
    }
    let distance = |known: &&&str| strsim::damerau_levenshtein(&known.to_lowercase(), &event_type.to_lowercase());
    // Of more errors than one in three letters, a name is hardly the one that was meant.
    let closest = handled.iter().min_by_key(distance).filter(|known| 3 * distance(known) <= known.chars().count());
    let guess = closest.map(|known| format!("did you mean `{known}`? ")).unwrap_or_default();
    let handled = handled.join(", ");
    Some(format!("`{name}` does not handle `{event_type}`: {guess}It handles {handled}. If it is to skip the event, use `skipped_event`"))
}

/// After how many events a history is cut in two.
fn splits(events: usize) -> BTreeSet<usize> {
    if events <= SPLIT_EVERYWHERE_MAX {
        return (0..=events).collect();
    }
    let powers = (0..usize::BITS).map(|exponent| 1 << exponent).take_while(|power| *power <= events);
    powers.flat_map(|power| [power, events - power]).chain([0]).chain(events - LAST_SPLITS..=events).collect()
}

/// Applies the events one by one, as the worker does with a batch for each.
fn one_by_one(rule: &dyn DynProjection, events: &[RecordedEvent]) -> Result<Rows, String> {
    let mut rows = Rows::default();
    for event in events {
        let at = |reason: String| format!("{} {}: {reason}", event.aggregate, event.version);
        match rows.fold(rule, event) {
            Ok(change) => two_owners(&rows, event, &change).map_or(Ok(()), |found| Err(at(found)))?,
            Err(Unfolded::Refused(refusal)) => return Err(at(refusal.to_string())),
            Err(Unfolded::Inapplicable(reason)) => return Err(at(format!("{reason}{}", place(&rows, rule, event, reason)))),
        }
    }
    Ok(rows)
}

/// The attribute that the row's own aggregate and others write to, if the event has made one of it.
fn two_owners(rows: &Rows, event: &RecordedEvent, change: &Change) -> Option<String> {
    let id = &event.aggregate;
    let home = rows.home.get(id)?;
    let owned = change.own().keys().map(|name| (id.into(), name.clone()));
    let owned = owned.filter(|cell: &Cell| rows.shared.contains_key(cell));
    let shares = home.contributions.keys().chain(&home.left).filter(|(row, attribute)| {
        let of_row = rows.home.get(&AggregateId::from(row.as_str()));
        of_row.is_some_and(|home| home.owned.contains(attribute))
    });
    let (row, attribute) = owned.chain(shares.cloned()).next()?;
    Some(format!("`{attribute}` of row `{row}` has two owners, its own aggregate and one that shares the row: use two attributes"))
}

/// Where in the rows an event cannot be applied, as the end of a message; empty if that is not known.
fn place(rows: &Rows, rule: &dyn DynProjection, event: &RecordedEvent, reason: Inapplicable) -> String {
    let before = rows.home.get(&event.aggregate).cloned().unwrap_or_default();
    let Ok(change) = rule.change(event, &before.own) else { return String::new() };
    if reason == Inapplicable::ChildSort {
        let wrong = change.children().keys().find(|sort| !is_child_sort(sort));
        return wrong.map(|sort| format!(" (child row `{sort}`)")).unwrap_or_default();
    }
    let cell = match reason {
        Inapplicable::SharesItself => change.cells().find(|(row, _)| row.as_str() == event.aggregate.as_str()).cloned(),
        Inapplicable::TwoKinds => of_two_kinds(rows, &before, &change),
        Inapplicable::AddToNonNumber | Inapplicable::Sum(_) => refused_add(&before, &change).map(|name| ((&event.aggregate).into(), name)),
        _ => None,
    };
    match cell {
        Some((row, attribute)) => format!(" (attribute `{attribute}` of row `{row}`)"),
        None if reason == Inapplicable::SharesItself => format!(" (row `{}`)", event.aggregate),
        None => String::new(),
    }
}

fn of_two_kinds(rows: &Rows, before: &HomeRow, change: &Change) -> Option<Cell> {
    let resolved = change.resolve(Some(&before.contributions));
    let sums = change.cells().filter(|cell| !change.max().contains_key(cell) && !change.insert().contains_key(cell));
    let sums = sums.chain(resolved.shared.keys()).map(|cell| (cell, Kind::Sum));
    let maxima = change.max().keys().map(|cell| (cell, Kind::Max));
    let sets = change.insert().keys().map(|cell| (cell, Kind::Set));
    let mixed = |(cell, value): &(&Cell, &Value)| matches!(rows.shared.get(cell), Some(Contribution::Max(highest)) if discriminant(highest) != discriminant(*value));
    if let Some((cell, _)) = change.max().iter().find(mixed) {
        return Some(cell.clone());
    }
    let mut kinds: BTreeMap<&Cell, Kind> = rows.shared.iter().map(|(cell, contribution)| (cell, contribution.kind())).collect();
    sums.chain(maxima).chain(sets).find(|(cell, kind)| *kinds.entry(*cell).or_insert(*kind) != *kind).map(|(cell, _)| cell.clone())
}

fn refused_add(before: &HomeRow, change: &Change) -> Option<String> {
    change.own().iter().find(|(name, op)| row::resolve(op, before.own.get(*name)).is_err()).map(|(name, _)| name.clone())
}

/// Applies the events as two batches. Within a batch each aggregate's events are one span; the last aggregate goes first.
fn in_spans(rule: &dyn DynProjection, events: &[RecordedEvent], split: usize) -> Rows {
    let mut rows = Rows::default();
    for part in [&events[..split], &events[split..]] {
        let mut spans: BTreeMap<&AggregateId, Vec<&RecordedEvent>> = BTreeMap::new();
        for event in part.iter().filter(|event| fold::concerns(rule, event)) {
            spans.entry(&event.aggregate).or_default().push(event);
        }
        for (aggregate, events) in spans.into_iter().rev() {
            let mut rest = &events[..];
            while !rest.is_empty() {
                let row = rows.home.get(aggregate).cloned().unwrap_or_default();
                let merged = fold::merge(rule, rest.iter().copied(), &row, &|_, _| true);
                let applies = merged.taken > 0 && !matches!(merged.stop, Some(MergeStop::Poison(_)));
                assert!(applies, "a span of applicable events merges: {:?}", merged.stop);
                let last = rest[merged.taken - 1];
                let to = Watermark { version: last.version, revision: rule.revision() };
                rows.apply(aggregate, &merged.change, to, last.event_id.clone()).expect("a merged span applies");
                rest = &rest[merged.taken..];
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests;
