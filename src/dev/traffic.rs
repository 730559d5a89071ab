//! Made-up events, as many a second as somebody asks for.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use projection_vocabulary::{
    AggregateId, RecordedEvent, Value,
    sample::{Fact, Sample, record},
};
use tokio::sync::Notify;

use crate::store::{
    self, Store,
    append::{Append, AppendError},
    limits::TRANSACTION_ACTIONS_MAX,
};

/// How often events are appended.
const EVERY: Duration = Duration::from_millis(50);
/// The most events in one transaction: each takes an action of its own, and its aggregate one besides.
const TOGETHER_MAX: usize = TRANSACTION_ACTIONS_MAX / 2;
/// For how long events that were not appended in time are appended later.
const BEHIND_MAX: Duration = Duration::from_secs(1);
/// How many events are made up at once, and of how many aggregates.
const MADE_UP: usize = 2_000;
const AGGREGATES: usize = 100;
/// The most events a second.
const RATE_MAX: u32 = 2_000;

/// What is appended, and how fast.
#[derive(Clone, Copy, Default)]
pub struct Rate {
    /// The sample domain, by its place in the list.
    pub sample: usize,
    /// Events a second; 0 for none.
    pub per_second: u32,
}

/// Appends made-up events.
#[derive(Default)]
pub struct Traffic {
    rate: Mutex<Rate>,
    wake: Notify,
}

impl Traffic {
    /// How fast it goes.
    pub fn rate(&self) -> Rate {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how fast it goes.
    pub fn set(&self, rate: Rate) {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = Rate { per_second: rate.per_second.min(RATE_MAX), ..rate };
        self.wake.notify_one();
    }

    /// Appends events, for as long as the future is polled.
    pub async fn run(&self, store: &Store, samples: &[Sample]) {
        let (mut events, mut of): (VecDeque<RecordedEvent>, usize) = (VecDeque::new(), 0);
        let (mut owed, mut last) = (Duration::ZERO, Instant::now());
        loop {
            let Rate { sample, per_second } = self.rate();
            let Some(chosen) = samples.get(sample).filter(|_| per_second > 0) else {
                self.wake.notified().await;
                (owed, last) = (Duration::ZERO, Instant::now());
                continue;
            };
            // By the clock, for appends take their time; what was missed for long is not made up for.
            owed = (owed + last.elapsed()).min(BEHIND_MAX);
            last = Instant::now();
            let one = Duration::from_secs(1) / per_second;
            while owed >= one {
                if events.is_empty() || of != sample {
                    (events, of) = (made_up(chosen).into(), sample);
                }
                let due = usize::try_from(owed.as_nanos() / one.as_nanos()).unwrap_or(usize::MAX);
                let together = due.min(TOGETHER_MAX).min(events.len());
                owed -= one * u32::try_from(together).expect("a transaction's actions are few");
                if !append(store, events.drain(..together)).await {
                    // Somebody else wrote to these aggregates: others are made up.
                    events.clear();
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// Appends events by one transaction. Whether all of them were appended.
async fn append(store: &Store, events: impl Iterator<Item = RecordedEvent>) -> bool {
    let events: Vec<_> = events.map(|event| RecordedEvent { timestamp: store::now(), ..event }).collect();
    let mut of: BTreeMap<&AggregateId, Append> = BTreeMap::new();
    for event in &events {
        let append = of.entry(&event.aggregate).or_insert_with(|| Append { expected: event.version.previous(), events: Vec::new() });
        append.events.push(event);
    }
    let mut all = true;
    for outcome in store.append_together(&of.into_values().collect::<Vec<_>>()).await {
        let Err(error) = outcome else { continue };
        all = false;
        if !matches!(error, AppendError::Conflict { .. }) {
            tracing::warn!("made-up events are not appended: {error}");
        }
    }
    all
}

/// A history of aggregates that nobody has written to.
fn made_up(sample: &Sample) -> Vec<RecordedEvent> {
    let run = format!("t{:06x}-", fastrand::u32(..0x0100_0000));
    let facts = (sample.facts)(&mut |bound| fastrand::u64(..bound), MADE_UP, AGGREGATES);
    let known: BTreeSet<String> = facts.iter().map(|fact| fact.aggregate.as_str().to_owned()).collect();
    let renamed = facts.into_iter().map(|Fact { aggregate, event_type, data }| Fact {
        aggregate: format!("{run}{aggregate}").as_str().into(),
        event_type,
        data: renamed(data, &known, &run),
    });
    record(renamed).collect()
}

/// Data whose references to aggregates go to the renamed ones.
fn renamed(data: Value, known: &BTreeSet<String>, run: &str) -> Value {
    match data {
        Value::Text(text) if known.contains(&*text) => Value::Text(format!("{run}{text}").into()),
        Value::List(elements) => Value::List(elements.into_iter().map(|element| renamed(element, known, run)).collect()),
        Value::Map(members) => Value::Map(members.into_iter().map(|(name, member)| (name, renamed(member, known, run))).collect()),
        other => other,
    }
}
