//! Processes: timers that are due, instances by status, one instance with its history, and what an operator does with a stuck one.

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};
use projection_vocabulary::{
    AggregateId, DynProjection, Timestamp, Value,
    process::{DynProcess, ProcessStatus, Status, Told},
};
#[cfg(feature = "cli")]
use projection_vocabulary::{RecordedEvent, process::Instance};

#[cfg(feature = "cli")]
use crate::commands::{error::Unhandled, history::History};
use crate::{
    engine::{
        act::{InstanceCounts, tell},
        worker::{CONCURRENCY, Worker},
    },
    operations::error::OperationError,
    retry::Deadline,
    store::{
        Store,
        item::SdkItem,
        reads::{IndexQuery, Range, ReadRow, read_row},
        rows::Shown,
    },
};

/// How many timers or instances one query of an index returns.
const PAGE: i32 = 100;
/// The statuses of instances that have not ended.
const OPEN: [Status; 3] = [Status::Open, Status::Undoing, Status::Stuck];

/// The statuses that rows have: an instance that only received events has none.
#[cfg(feature = "cli")]
pub const LISTED: [Status; 6] = [Status::Open, Status::Undoing, Status::Stuck, Status::Completed, Status::Undone, Status::Resolved];

/// What a tick has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ticked {
    /// Whether every timer that was due was looked at. Otherwise the next tick goes on.
    pub done: bool,
    /// How many timers were due. A timer is found again until `process-status` has seen that it ran out.
    pub due: u64,
    /// How many instances could not be told, each of which was logged.
    pub failed: u64,
    /// What became of instances, by process.
    pub processes: BTreeMap<&'static str, InstanceCounts>,
}

/// Tells the instances whose timers are due that these ran out. Ticks may be late, double or side by side: an instance takes a time-out
/// only from a timer that runs, and only once.
///
/// # Errors
/// [`OperationError`] if the timers cannot be read. What cannot be told to one instance does not stop the others.
pub async fn tick(worker: &Worker, now: &Timestamp, deadline: Deadline) -> Result<Ticked, OperationError> {
    let mut ticked = Ticked { done: true, ..Ticked::default() };
    for process in worker.registry().processes() {
        ticked.processes.insert(process.name(), InstanceCounts::default());
        let mut after = None;
        loop {
            if deadline.passed() {
                ticked.done = false;
                return Ok(ticked);
            }
            let (timers, next) = due_timers(worker.store(), process, now, after, deadline).await?;
            let told = timers.into_iter().map(|timer| async move {
                let Timer { instance, name, of } = timer;
                let told = tell(worker.store(), process, &instance, &Told::TimeOut { name, of }, None, deadline).await;
                (instance, told)
            });
            let mut told = stream::iter(told).buffer_unordered(CONCURRENCY);
            while let Some((instance, told)) = told.next().await {
                ticked.due += 1;
                match told {
                    Ok(handled) => *ticked.processes.entry(process.name()).or_default() += InstanceCounts::of(&handled.events),
                    Err(error) => {
                        ticked.failed += 1;
                        tracing::error!(process = process.name(), %instance, %error, "a time-out could not be told");
                    }
                }
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(ticked)
}

struct Timer {
    instance: AggregateId,
    name: String,
    of: u64,
}

/// Timers of a process that have run out by now, the oldest first.
async fn due_timers(
    store: &Store,
    process: &dyn DynProcess,
    now: &Timestamp,
    after: Option<SdkItem>,
    deadline: Deadline,
) -> Result<(Vec<Timer>, Option<SdkItem>), OperationError> {
    let (partition, sort, range) = (vec![process.name().into()], Vec::new(), Some(Range::AtMost(now.into())));
    let query = IndexQuery { index: ProcessStatus::TIMERS.index(), partition, sort, range, newest_first: false };
    let (items, next) = store.query_index(&ProcessStatus, &query, PAGE, after, deadline).await?;
    let timer = |item| {
        let row = read_row(&ProcessStatus, item, Shown::ToReaders)?;
        let of = row.shown.attributes.get("startedBy").and_then(|version| projection_vocabulary::read_value(version).ok());
        let name = row.id.child.as_deref().map(str::to_owned);
        Ok::<_, OperationError>(name.zip(of).map(|(name, of)| Timer { instance: row.id.key.as_str().into(), name, of }))
    };
    Ok((items.into_iter().filter_map(|item| timer(item).transpose()).collect::<Result<_, _>>()?, next))
}

/// An instance in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its aggregate.
    pub aggregate: AggregateId,
    /// Its status.
    pub status: Status,
    /// When it began.
    pub started: String,
    /// When it ended, if it has.
    pub ended: Option<String>,
    /// Why it failed or is stuck.
    pub why: Option<String>,
}

/// Instances of a process at a status, the oldest first: at most `limit`, and the rest after the last of these.
///
/// # Errors
/// [`OperationError`].
pub async fn instances(
    store: &Store,
    process: &dyn DynProcess,
    status: Status,
    limit: usize,
    deadline: Deadline,
) -> Result<Vec<Listed>, OperationError> {
    let (partition, sort) = (vec![process.name().into(), status.as_str().into()], Vec::new());
    let query = IndexQuery { index: ProcessStatus::BY_STATUS.index(), partition, sort, range: None, newest_first: false };
    let (mut listed, mut after) = (Vec::new(), None);
    while listed.len() < limit {
        let page = i32::try_from(limit - listed.len()).unwrap_or(i32::MAX).min(PAGE);
        let (items, next) = store.query_index(&ProcessStatus, &query, page, after, deadline).await?;
        for item in items {
            listed.push(listed_of(&read_row(&ProcessStatus, item, Shown::ToReaders)?, status));
        }
        after = next;
        if after.is_none() {
            break;
        }
    }
    Ok(listed)
}

fn listed_of(row: &ReadRow, status: Status) -> Listed {
    let text = |name: &str| row.shown.attributes.get(name).and_then(Value::as_text).map(str::to_owned);
    let why = if status == Status::Stuck { text("stuckBecause") } else { text("why") };
    Listed { aggregate: row.id.key.as_str().into(), status, started: text("startedAt").unwrap_or_default(), ended: text("endedAt"), why }
}

/// When the oldest instance of a process that has not ended began; `None` if all have ended.
///
/// # Errors
/// [`OperationError`].
pub async fn oldest_open(store: &Store, process: &dyn DynProcess, deadline: Deadline) -> Result<Option<Timestamp>, OperationError> {
    let mut oldest: Option<Timestamp> = None;
    for status in OPEN {
        let first = instances(store, process, status, 1, deadline).await?.pop().and_then(|first| Timestamp::parse(&first.started).ok());
        oldest = [oldest, first].into_iter().flatten().min();
    }
    Ok(oldest)
}

/// An instance with its history.
#[cfg(feature = "cli")]
#[derive(Clone, Debug)]
pub struct WithHistory {
    /// The instance.
    pub instance: Instance<Value>,
    /// Its events.
    pub events: Vec<RecordedEvent>,
}

/// An instance; `None` if nothing was ever delivered to it.
///
/// # Errors
/// [`OperationError`].
#[cfg(feature = "cli")]
pub async fn show(
    store: &Store,
    process: &'static dyn DynProcess,
    instance: &AggregateId,
    deadline: Deadline,
) -> Result<Option<WithHistory>, OperationError> {
    load(store, process, instance, deadline).await.map_err(failed)
}

#[cfg(feature = "cli")]
pub(super) async fn load(
    store: &Store,
    process: &'static dyn DynProcess,
    instance: &AggregateId,
    deadline: Deadline,
) -> Result<Option<WithHistory>, Unhandled> {
    let (history, events) = History::load_with_events(store, process.instances(), instance, deadline).await?;
    let loaded = process.instance(history.state.state()).filter(|_| !events.is_empty());
    Ok(loaded.map(|instance| WithHistory { instance, events }))
}

/// Tells a stuck instance to try again ([`Told::Retry`]; the worker carries it out), or ends it ([`Told::Resolve`]).
///
/// # Errors
/// [`OperationError::NotTaken`] if it is not stuck.
#[cfg(feature = "cli")]
pub async fn operate(
    store: &Store,
    process: &'static dyn DynProcess,
    instance: &AggregateId,
    told: &Told,
    deadline: Deadline,
) -> Result<(), OperationError> {
    tell(store, process, instance, told, None, deadline).await.map(drop).map_err(failed)
}

#[cfg(feature = "cli")]
fn failed(unhandled: Unhandled) -> OperationError {
    match unhandled {
        Unhandled::Store(error) => error.into(),
        other => OperationError::NotTaken(other.to_string()),
    }
}

/// Fails if a projection is a process: it has no rows to write anew, and what it did is not done again.
///
/// # Errors
/// [`OperationError::Process`].
pub fn refuse_process(rule: &'static dyn DynProjection) -> Result<(), OperationError> {
    rule.process().map_or(Ok(()), |process| Err(OperationError::Process { process: process.name() }))
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{Attributes, RowKey};

    use super::*;

    #[test]
    fn an_instance_that_is_stuck_says_why_it_is_and_another_one_why_it_ended() {
        let attributes: Attributes =
            [("stuckBecause", "no route"), ("why", "refused")].map(|(name, why)| (name.to_owned(), why.into())).into();
        let row = ReadRow::child(RowKey::from("a").into(), attributes);
        let why = |status| listed_of(&row, status).why;
        assert_eq!(why(Status::Stuck).as_deref(), Some("no route"));
        assert_eq!(why(Status::Undone).as_deref(), Some("refused"));
    }
}
