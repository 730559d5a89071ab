//! What became of each record, for the page: the last ones in detail, and totals of all.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use projection_vocabulary::{AggregateId, ChildOp, Timestamp, Version};
use tokio::sync::watch;

use crate::{
    engine::{decode::Ignored, report::Outcome},
    operations::differs::Differs,
    store::Usage,
};

/// How many deliveries of records are kept.
const ENTRIES_MAX: usize = 1_000;

/// One record of one delivery.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number in the journal, from 1.
    pub number: u64,
    /// When it was answered.
    pub at: Timestamp,
    /// The number of the delivery, and how often its records had been delivered.
    pub delivery: u64,
    /// How often it was delivered, this time included.
    pub attempt: u32,
    /// The record.
    pub what: What,
    /// What became of it in each projection that it concerns.
    pub fates: Vec<Fate>,
}

/// What a record is.
#[derive(Clone, Debug)]
pub enum What {
    /// An event.
    Event {
        /// Its aggregate.
        aggregate: AggregateId,
        /// Its version.
        version: Version,
        /// Its type.
        event_type: String,
    },
    /// An event that cannot be read.
    Poison(String),
    /// Records of one delivery that have nothing to project, for the same reason: so many.
    Ignored(Ignored, u64),
    /// It is not of the event store's stream.
    Unusable(String),
}

/// What became of an event in a projection.
#[derive(Clone, Debug)]
pub struct Fate {
    /// The projection.
    pub projection: &'static str,
    /// The outcome; `None` if the function died.
    pub outcome: Option<Outcome>,
    /// How many events were read from the event store and counted before it.
    pub healed: u64,
    /// Why it failed or was parked.
    pub why: Option<String>,
    /// How the row of its aggregate changed, and what it contributes to shared rows.
    pub changes: Vec<Differs>,
    /// What was written to its child rows.
    pub children: BTreeMap<Arc<str>, ChildOp>,
}

impl Fate {
    /// A fate that has changed nothing.
    pub fn new(projection: &'static str, outcome: Option<Outcome>, why: Option<String>) -> Self {
        Self { projection, outcome, healed: 0, why, changes: Vec::new(), children: BTreeMap::new() }
    }
}

/// Totals since the console was started.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Records delivered.
    pub records: u64,
    /// Records with nothing to project.
    pub ignored: u64,
    /// By projection: applied, duplicate, healed, parked, failed.
    pub projections: BTreeMap<&'static str, [u64; 5]>,
    /// What the worker's requests cost.
    pub usage: Usage,
    /// Events that the event store got: each once, however often delivered.
    pub events: u64,
    /// The highest lag of the last delivery, in milliseconds.
    pub lag_ms: Option<u64>,
}

/// The journal.
pub struct Journal {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    number: u64,
    totals: Totals,
}

impl Journal {
    /// An empty one.
    pub fn new() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// Notes what became of the records of a delivery, and what it cost.
    pub fn note(&self, entries: Vec<Entry>, count: impl FnOnce(&mut Totals)) {
        let mut state = self.lock();
        for mut entry in entries {
            state.number += 1;
            entry.number = state.number;
            state.entries.push_back(entry);
        }
        let surplus = state.entries.len().saturating_sub(ENTRIES_MAX);
        state.entries.drain(..surplus);
        count(&mut state.totals);
        drop(state);
        self.touch();
    }

    /// Tells those who watch that something has changed.
    pub fn touch(&self) {
        self.changed.send_modify(|number| *number += 1);
    }

    /// Resolves at each change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The newest entries after this number, the newest first, and how many were left out.
    pub fn after(&self, number: u64, most: usize) -> (Vec<Entry>, u64) {
        let state = self.lock();
        let new = state.number.saturating_sub(number);
        let entries: Vec<_> = state.entries.iter().rev().take_while(|entry| entry.number > number).take(most).cloned().collect();
        let left_out = new - entries.len() as u64;
        (entries, left_out)
    }

    /// The totals.
    pub fn totals(&self) -> Totals {
        self.lock().totals.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
