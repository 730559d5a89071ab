//! Lambda's event source mapping for one function: a batch at a time, retries, halves of a batch that fails, and what is given up.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use poller::{Answer, Batch, BatchId, Poller, Settings};
use projection_vocabulary::{AggregateId, RecordedEvent};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::faults::Faults;

/// How long a failed batch waits before its first repetition, and at most.
const RETRY_AFTER: Duration = Duration::from_millis(500);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(8);
/// How long records are held back for others that are to overtake them.
const HELD_BACK_FOR: Duration = Duration::from_secs(20);
/// How many objects of records that were given up are kept.
const GIVEN_UP_MAX: usize = 50;

/// A record of the stream.
pub struct Arrived {
    /// The record.
    pub raw: Box<RawValue>,
    /// Its position in the stream.
    pub position: String,
    /// The item that it is about: its keys.
    pub item: String,
    /// The event whose insertion it is, if it can be read as one.
    pub event: Option<Arc<RecordedEvent>>,
    /// Whether it is the insertion of an event that cannot be read.
    pub is_poison: bool,
    /// When it came.
    pub at: Instant,
}

/// A delivery.
pub struct Delivery {
    /// Its number.
    pub number: u64,
    /// How often its most often delivered record has been delivered, this time included.
    pub attempt: u32,
    /// The records.
    pub records: Vec<Arc<Arrived>>,
}

/// How an invocation ended.
pub enum Ended {
    /// Everything is done, except the records from this position on.
    From(Option<String>),
    /// The function failed as a whole.
    Failed,
}

/// The function that a mapping invokes.
pub trait Function: Send + Sync {
    /// Handles a delivery. Dropped when the function dies.
    fn invoke(&self, delivery: &Delivery) -> impl Future<Output = Ended> + Send;

    /// It has died. The next invocation is of a new process.
    fn died(&self, delivery: &Delivery);
}

/// The mapping of the stream's shard to one function.
pub struct Mapping {
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    poller: Poller<Arc<Arrived>>,
    pushed: u64,
    deliveries: u64,
    failures: u64,
    /// Whether the last batch is to be delivered again.
    repeats: bool,
    /// Since when records are held back, so that newer ones overtake them; `None` if they are not.
    reorders: Option<Instant>,
    given_up: VecDeque<Arc<Vec<Arc<Arrived>>>>,
    given_up_total: u64,
    /// The last failure, until a delivery succeeds.
    failing: Option<u32>,
}

/// How a mapping stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Records to be delivered.
    pub waiting: usize,
    /// The age of the oldest of them, in milliseconds.
    pub lag_ms: u64,
    /// Invocations, and those that failed.
    pub deliveries: u64,
    /// Those that failed.
    pub failures: u64,
    /// Records that were given up.
    pub given_up: u64,
    /// How often the batch at the front was delivered, if it blocks the shard.
    pub blocked: Option<u32>,
    /// Whether records are held back to be overtaken.
    pub reorders: bool,
    /// Whether nothing is to be delivered.
    pub idle: bool,
}

enum Next {
    Batch(Batch<Arc<Arrived>>, Order),
    /// Nothing to deliver before this time passes.
    HeldBack(Duration),
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    AsTheyCame,
    /// One by one, the newest first.
    Reversed,
}

impl Mapping {
    /// A mapping with these settings.
    pub fn new(settings: Settings) -> Self {
        let state = State {
            poller: Poller::new(settings),
            pushed: 0,
            deliveries: 0,
            failures: 0,
            repeats: false,
            reorders: None,
            given_up: VecDeque::new(),
            given_up_total: 0,
            failing: None,
        };
        Self { state: Mutex::new(state), wake: Notify::new() }
    }

    /// Takes records of the stream, in their order.
    pub fn push(&self, records: impl IntoIterator<Item = Arc<Arrived>>) {
        let mut state = self.lock();
        for record in records {
            state.pushed += 1;
            let (number, item) = (state.pushed, record.item.clone());
            state.poller.push(number, &item, record);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Delivers the last batch that succeeded once more. `false` if there is none.
    pub fn repeat(&self) -> bool {
        let mut state = self.lock();
        state.repeats = !state.poller.succeeded().is_empty();
        let repeats = state.repeats;
        drop(state);
        self.wake.notify_one();
        repeats
    }

    /// Delivers the next two events of one aggregate in the reverse order.
    pub fn reorder(&self) {
        self.lock().reorders = Some(Instant::now());
        self.wake.notify_one();
    }

    /// Gives up the records that wait, as Lambda does when they are too old.
    pub fn expire(&self) {
        let mut state = self.lock();
        let newest = state.pushed;
        state.poller.expire(newest + 1);
        state.failing = None;
        state.keep_given_up();
        drop(state);
        self.wake.notify_one();
    }

    /// The records that were given up, the last objects first.
    pub fn given_up(&self) -> Vec<Arc<Vec<Arc<Arrived>>>> {
        self.lock().given_up.iter().rev().cloned().collect()
    }

    /// Delivers what was given up again, behind what waits.
    pub fn deliver_given_up(&self) -> usize {
        let objects = std::mem::take(&mut self.lock().given_up);
        let records: Vec<_> = objects.iter().flat_map(|object| object.iter().cloned()).collect();
        let number = records.len();
        self.push(records);
        number
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let state = self.lock();
        let (waiting, oldest) = state.poller.waiting().fold((0, None), |(number, oldest): (usize, Option<Instant>), record| {
            (number + 1, Some(oldest.map_or(record.at, |oldest| oldest.min(record.at))))
        });
        let lag_ms = oldest.map_or(0, |at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        Standing {
            waiting,
            lag_ms,
            deliveries: state.deliveries,
            failures: state.failures,
            given_up: state.given_up_total,
            blocked: state.failing,
            reorders: state.reorders.is_some(),
            idle: state.poller.is_idle() && !state.repeats,
        }
    }

    /// Delivers records to a function, for as long as the future is polled.
    pub async fn run(&self, function: &impl Function, faults: &Faults) {
        loop {
            match self.next() {
                Next::Batch(batch, order) => {
                    if let Some(times) = self.deliver(batch, order, function, faults).await {
                        let doubled = RETRY_AFTER * 2_u32.pow(times.saturating_sub(1).min(8));
                        tokio::time::sleep(doubled.min(RETRY_AFTER_MAX)).await;
                    }
                }
                Next::HeldBack(left) => _ = tokio::time::timeout(left, self.wake.notified()).await,
                Next::Nothing => self.wake.notified().await,
            }
        }
    }

    fn next(&self) -> Next {
        let mut state = self.lock();
        if std::mem::take(&mut state.repeats) && !state.poller.succeeded().is_empty() {
            let last = state.poller.succeeded().len() - 1;
            return Next::Batch(state.poller.start_duplicate(last), Order::AsTheyCame);
        }
        let Some(partition) = state.poller.ready().next() else { return Next::Nothing };
        if let Some(since) = state.reorders {
            let mut seen: HashSet<&AggregateId> = HashSet::new();
            let two = state.poller.waiting().filter_map(|record| record.event.as_ref()).any(|event| !seen.insert(&event.aggregate));
            if two {
                state.reorders = None;
                return Next::Batch(state.poller.start(partition), Order::Reversed);
            }
            let left = HELD_BACK_FOR.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Next::HeldBack(left);
            }
            state.reorders = None;
        }
        Next::Batch(state.poller.start(partition), Order::AsTheyCame)
    }

    /// Delivers a batch. Returns how often it has failed in a row, if it failed.
    async fn deliver(&self, batch: Batch<Arc<Arrived>>, order: Order, function: &impl Function, faults: &Faults) -> Option<u32> {
        let Batch { id, records, attempt } = batch;
        let answer = match order {
            Order::AsTheyCame => self.invoke(&records, attempt, function, faults).await,
            Order::Reversed => {
                let mut failed = Vec::new();
                for record in records.iter().rev() {
                    match self.invoke(std::slice::from_ref(record), attempt, function, faults).await {
                        Answer::Responded(identifiers) => failed.extend(identifiers),
                        Answer::Errored => failed.push(record.0.to_string()),
                    }
                }
                Answer::Responded(failed)
            }
        };
        self.answered(id, &answer, attempt)
    }

    async fn invoke(&self, records: &[(u64, Arc<Arrived>)], attempt: u32, function: &impl Function, faults: &Faults) -> Answer {
        let number = {
            let mut state = self.lock();
            state.deliveries += 1;
            state.deliveries
        };
        let delivery = Delivery { number, attempt, records: records.iter().map(|(_, record)| record.clone()).collect() };
        let ended = tokio::select! {
            biased;
            () = faults.death() => {
                function.died(&delivery);
                Ended::Failed
            }
            ended = function.invoke(&delivery) => ended,
        };
        match ended {
            Ended::From(None) => Answer::Responded(Vec::new()),
            Ended::From(Some(position)) => {
                let number = records.iter().find(|(_, record)| record.position == position).map(|(number, _)| number.to_string());
                Answer::Responded(vec![number.unwrap_or_default()])
            }
            Ended::Failed => Answer::Errored,
        }
    }

    fn answered(&self, id: BatchId, answer: &Answer, attempt: u32) -> Option<u32> {
        let mut state = self.lock();
        state.poller.answer(id, answer);
        // What holds no event would show nothing when it is delivered again.
        state.poller.remember_one(|batch| batch.iter().any(|(_, record)| record.event.is_some()));
        state.keep_given_up();
        if matches!(answer, Answer::Responded(failed) if failed.is_empty()) {
            state.failing = None;
            return None;
        }
        state.failures += 1;
        state.failing = (!state.poller.is_idle()).then_some(attempt);
        state.failing
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep_given_up(&mut self) {
        for object in self.poller.take_discarded() {
            self.given_up_total += object.records.len() as u64;
            self.given_up.push_back(Arc::new(object.records.into_iter().map(|(_, record)| record).collect()));
        }
        self.given_up.drain(..self.given_up.len().saturating_sub(GIVEN_UP_MAX));
    }
}
