//! Folds events into changes and rows.

use std::ops::ControlFlow;

use crate::{AggregateId, Change, DynProjection, HomeRow, Inapplicable, RecordedEvent, Refusal, Rows, Watermark};

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

/// Merges the changes of contiguous events until one write can hold no more: `fits` tells whether one can hold a change. It is not asked
/// about a single event.
///
/// `row` is the aggregate's row before the first event. Only a rule that sets `READS_ROW` uses it.
#[must_use]
pub fn merge<'a>(
    rule: &dyn DynProjection,
    events: impl IntoIterator<Item = &'a RecordedEvent>,
    row: &HomeRow,
    fits: &dyn Fn(&Change) -> bool,
) -> Merged {
    let mut merged = Merged { change: Change::default(), taken: 0, concerning: 0, stop: None };
    let mut row = rule.reads_row().then(|| row.clone());
    for event in events {
        if let ControlFlow::Break(stop) = merge_one(rule, event, &mut row, fits, &mut merged) {
            merged.stop = Some(stop);
            break;
        }
        merged.taken += 1;
    }
    merged
}

fn merge_one(
    rule: &dyn DynProjection,
    event: &RecordedEvent,
    row: &mut Option<HomeRow>,
    fits: &dyn Fn(&Change) -> bool,
    merged: &mut Merged,
) -> ControlFlow<MergeStop> {
    if !concerns(rule, event) {
        return ControlFlow::Continue(());
    }
    let attributes = row.as_ref().map(|row| row.own.clone()).unwrap_or_default();
    let change = match rule.change(event, &attributes) {
        Ok(change) => change,
        Err(refusal) => return ControlFlow::Break(MergeStop::Poison(refusal)),
    };
    if let Err(inapplicable) = change.check(&event.aggregate)
        && merged.concerning == 0
    {
        return ControlFlow::Break(MergeStop::Poison(match inapplicable {
            Inapplicable::Sum(_) => Refusal::Rule("a number in this event exceeds DynamoDB's 38 significant digits or its range"),
            other => other.into(),
        }));
    }
    if let Some(row) = row
        && row.apply(&change).is_err()
    {
        return ControlFlow::Break(if merged.concerning == 0 {
            MergeStop::Poison(Refusal::Rule("the event cannot be applied to the values that the row has"))
        } else {
            MergeStop::Full
        });
    }
    let both = merged.change.clone().then(change);
    if both.check(&event.aggregate).is_err() || (merged.concerning > 0 && !fits(&both)) {
        return ControlFlow::Break(MergeStop::Full);
    }
    merged.change = both;
    merged.concerning += 1;
    ControlFlow::Continue(())
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
