//! A test kit for rules: given these events, expect these rows.
//!
//! [`Given::rows`] also checks that the rows do not depend on how events are split into batches.
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

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    AggregateId, DynProjection, RecordedEvent, Rows, Value, Watermark, fold,
    sample::{Fact, record},
};

/// Events to project, in the order in which they happened. Made by [`given`].
pub struct Given<'a> {
    rule: &'a dyn DynProjection,
    facts: Vec<Fact>,
}

/// Starts a test of a rule.
pub fn given(rule: &dyn DynProjection) -> Given<'_> {
    Given { rule, facts: Vec::new() }
}

impl Given<'_> {
    /// Adds an event. Versions count up within each aggregate. The first event happens at 2026-01-01T00:00:01Z, and each of the
    /// others one second after the one before it.
    #[must_use]
    pub fn event(mut self, aggregate: &str, event_type: &'static str, data: Value) -> Self {
        self.facts.push(Fact { aggregate: aggregate.into(), event_type, data });
        self
    }

    /// Returns the rows, one per line: `key: attribute=value ...`.
    ///
    /// It also checks what the worker relies on: the rows are the same whether the events are applied one by one, all at once,
    /// or in two batches with any split between them, and whatever the order of the aggregates within a batch.
    ///
    /// # Panics
    /// If the rule refuses an event, if the rows depend on the batches, or if an attribute of a row has two owners.
    #[must_use]
    pub fn rows(self) -> String {
        let events: Vec<_> = record(self.facts).collect();
        let one_by_one = one_by_one(self.rule, &events).unwrap_or_else(|refusal| panic!("{refusal}"));
        for split in 0..=events.len() {
            assert_eq!(
                in_spans(self.rule, &events, split),
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
    pub fn refusal(self) -> String {
        one_by_one(self.rule, &record(self.facts).collect::<Vec<_>>()).expect_err("expected a refusal, but every event was applied")
    }
}

fn one_by_one(rule: &dyn DynProjection, events: &[RecordedEvent]) -> Result<Rows, String> {
    let mut rows = Rows::default();
    for event in events {
        rows.fold(rule, event).map(drop).map_err(|refusal| format!("{} {}: {refusal}", event.aggregate, event.version))?;
    }
    Ok(rows)
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
            let last = events[events.len() - 1];
            let row = rows.home.get(aggregate).cloned().unwrap_or_default();
            let merged = fold::merge(rule, events.iter().copied(), &row);
            assert_eq!((merged.taken, &merged.stop), (events.len(), &None), "a span of applicable events merges");
            let to = Watermark { version: last.version, revision: rule.revision() };
            rows.apply(aggregate, &merged.change, to, last.event_id.clone()).expect("a merged span applies");
        }
    }
    rows
}
