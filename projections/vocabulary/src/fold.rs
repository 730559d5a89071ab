//! Folds events into changes and rows.

use std::collections::BTreeSet;

use crate::{AggregateId, Attributes, Change, DynProjection, HomeRow, Inapplicable, RecordedEvent, Refusal, Rows, Watermark};

/// The merged change of a span's first events, and why the rest was left out.
#[derive(Debug)]
pub struct Merged {
    /// The change of the events taken.
    pub change: Change,
    /// How many events it covers, from the first.
    pub taken: usize,
    /// How many of those concern the rule.
    pub concerning: usize,
    /// Why the next event was left out; `None` if the change covers the whole span.
    pub stop: Option<MergeStop>,
}

/// Why a span was not merged to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeStop {
    /// The next event can never be applied.
    Poison(Refusal),
    /// The next event does not fit into the same write as those before it, but may fit into a write of its own.
    Full,
}

/// Whether an event concerns the rule.
#[must_use]
pub fn concerns(rule: &dyn DynProjection, event: &RecordedEvent) -> bool {
    rule.concerns(&event.aggregate, &event.event_type)
}

/// Merges the changes of contiguous events until one write can hold no more: `fits` tells whether one can hold a change whose events name
/// this number of shared rows. It is not asked about a single event.
///
/// `row` is the aggregate's row before the first event. Only a rule that sets `READS_ROW` uses it.
#[must_use]
pub fn merge<'a, E>(rule: &dyn DynProjection, events: E, row: &HomeRow, fits: &dyn Fn(&Change, usize) -> bool) -> Merged
where
    E: Iterator<Item = &'a RecordedEvent> + Clone,
{
    let Merging { merged, overfull } = merge_some(rule, events.clone(), usize::MAX, row, fits);
    if !overfull {
        return merged;
    }
    // The last event is in the change and must not be. Merging once more for each write is cheaper than a copy of the change for each event.
    Merged { stop: merged.stop, ..merge_some(rule, events, merged.concerning - 1, row, &|_, _| true).merged }
}

/// A change on the way to a [`Merged`].
struct Merging {
    merged: Merged,
    /// Whether the change has the event at which it stopped.
    overfull: bool,
}

/// Merges at most `most` events that concern the rule.
fn merge_some<'a>(
    rule: &dyn DynProjection,
    events: impl Iterator<Item = &'a RecordedEvent>,
    most: usize,
    row: &HomeRow,
    fits: &dyn Fn(&Change, usize) -> bool,
) -> Merging {
    let mut merged = Merged { change: Change::default(), taken: 0, concerning: 0, stop: None };
    let mut row = rule.reads_row().then(|| row.clone());
    // Collected as they come: those of the merged change would have to be looked through at each event.
    let mut rows = BTreeSet::new();
    for event in events {
        if !concerns(rule, event) {
            merged.taken += 1;
            continue;
        }
        if merged.concerning == most {
            break;
        }
        let first = merged.concerning == 0;
        let change = match next_change(rule, event, row.as_mut()) {
            Ok(change) => change,
            // Alone it may be possible, or is refused for what it is.
            Err(NoChange::Inapplicable(_)) if !first => return stopped(merged, MergeStop::Full),
            Err(NoChange::Inapplicable(refusal) | NoChange::Refused(refusal)) => return stopped(merged, MergeStop::Poison(refusal)),
        };
        merged.concerning += 1;
        rows.extend(change.shared_rows().into_iter().cloned());
        if first {
            merged.change = change;
        } else {
            merged.change.go_on(&change);
            if merged.change.check_after(&change, &event.aggregate).is_err() || !fits(&merged.change, rows.len()) {
                return Merging { overfull: true, ..stopped(merged, MergeStop::Full) };
            }
        }
        merged.taken += 1;
    }
    Merging { merged, overfull: false }
}

fn stopped(merged: Merged, stop: MergeStop) -> Merging {
    Merging { merged: Merged { stop: Some(stop), ..merged }, overfull: false }
}

/// Why an event has no change to merge.
enum NoChange {
    /// The rule refuses it.
    Refused(Refusal),
    /// Its change cannot be applied, by itself or to the row before it.
    Inapplicable(Refusal),
}

/// The change of the next event. `row` is the row before it, if the rule reads it, and afterwards the row after it.
fn next_change(rule: &dyn DynProjection, event: &RecordedEvent, row: Option<&mut HomeRow>) -> Result<Change, NoChange> {
    const NONE: &Attributes = &Attributes::new();
    let change = rule.change(event, row.as_ref().map_or(NONE, |row| &row.own)).map_err(NoChange::Refused)?;
    change.check(&event.aggregate).map_err(|inapplicable| {
        NoChange::Inapplicable(match inapplicable {
            Inapplicable::Sum(_) => Refusal::Rule("a number in this event exceeds DynamoDB's 38 significant digits or its range"),
            other => other.into(),
        })
    })?;
    if let Some(row) = row {
        let reason = "the event cannot be applied to the values that the row has";
        row.apply(&change).map_err(|_| NoChange::Inapplicable(Refusal::Rule(reason)))?;
    }
    Ok(change)
}

/// Why an aggregate's history could not be folded to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfolded {
    /// The rule refuses the event.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The change cannot be applied to the rows.
    #[error(transparent)]
    Inapplicable(#[from] Inapplicable),
}

impl Rows {
    /// Applies one event and returns its change. Pass each aggregate's events in the order of their versions.
    ///
    /// # Errors
    /// [`Unfolded`], with nothing applied: the worker parks the aggregate at this event.
    pub fn fold(&mut self, rule: &dyn DynProjection, event: &RecordedEvent) -> Result<Change, Unfolded> {
        if !concerns(rule, event) {
            return Ok(Change::default());
        }
        let aggregate: &AggregateId = &event.aggregate;
        let change = match self.home.get(aggregate) {
            Some(row) => rule.change(event, &row.own)?,
            None => rule.change(event, &HomeRow::default().own)?,
        };
        let to = Watermark { version: event.version, revision: rule.revision() };
        change.check(aggregate)?;
        self.apply(aggregate, &change, to, event.event_id.clone())?;
        Ok(change)
    }
}
