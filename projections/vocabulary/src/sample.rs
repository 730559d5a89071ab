//! Made-up histories, for random tests and for `projector generate`.

use std::collections::HashMap;

use crate::{AggregateId, RecordedEvent, Timestamp, Value, Version};

/// Returns a whole number below its argument, which is at least 1. The caller supplies the randomness.
pub type Pick<'a> = dyn FnMut(u64) -> u64 + 'a;

/// An event before the event store numbers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// The aggregate that it belongs to.
    pub aggregate: AggregateId,
    /// The event type.
    pub event_type: &'static str,
    /// The event's data: a [`Value::Map`].
    pub data: Value,
}

/// A generator of valid histories of one domain.
#[derive(Clone, Copy)]
pub struct Sample {
    /// The domain, in `kebab-case`.
    pub name: &'static str,
    /// Returns `facts` facts about roughly `aggregates` aggregates, in the order in which they happen.
    pub facts: fn(pick: &mut Pick<'_>, facts: usize, aggregates: usize) -> Vec<Fact>,
}

/// 2026-01-01T00:00:00Z. The first fact happens one second later.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// Numbers facts as the event store would: versions count up within each aggregate, and facts happen one second apart. The
/// same facts always make the same events.
///
/// # Panics
/// If there are more facts than seconds until the year 9999.
pub fn record(facts: impl IntoIterator<Item = Fact>) -> impl Iterator<Item = RecordedEvent> {
    let mut versions: HashMap<AggregateId, Version> = HashMap::new();
    facts.into_iter().zip(1_i64..).map(move |(Fact { aggregate, event_type, data }, second)| {
        let version = versions.entry(aggregate.clone()).or_default();
        *version = version.next();
        RecordedEvent {
            version: *version,
            event_id: format!("{aggregate}-{version}").into(),
            aggregate,
            event_type: event_type.into(),
            data,
            timestamp: Timestamp::from_epoch_ms(EPOCH_MS + 1_000 * second).expect("a sample ends before the year 9999"),
            metadata: None,
        }
    })
}
