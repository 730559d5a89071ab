//! The worker as a function of the mapping, and what it does to rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::join_all;
use projection_vocabulary::{AggregateId, ChildOp, DynProjection, HomeRow, Registry, fold::merge};

use super::{
    faults::Faults,
    journal::{Entry, Fate, Journal, What},
    mapping::{Delivery, Ended, Function},
};
use crate::{
    Calls,
    embedded::Embedded,
    engine::{
        decode::{Body, Record, decode},
        report::{Checkpoint, Outcome, Report},
        worker::Worker,
    },
    operations::differs::of_content,
    retry::{Deadline, WORKING_PERCENT},
    store::{self, Store, StoreError, TableNames},
};

/// The time of an invocation, as in the template.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Of how many aggregates of a delivery the rows are compared. Looking at all of a thousand would take longer than writing them.
const COMPARED_MAX: usize = 25;

/// The worker, behind faults, with the rules of a deployment.
pub struct Ours {
    embedded: Embedded,
    names: TableNames,
    calls: Calls,
    /// Reads rows beside the worker: its requests are not the worker's.
    observer: Store,
    /// The projections as they should be, and as they are deployed.
    registry: Registry,
    broken: Registry,
    deployed: Mutex<Deployed>,
    pub faults: Arc<Faults>,
    journal: Arc<Journal>,
}

struct Deployed {
    worker: Arc<Worker>,
    is_broken: bool,
}

type Homes = BTreeMap<(&'static str, AggregateId), HomeRow>;

impl Ours {
    /// The worker of these projections on the tables of a database.
    pub fn new(embedded: &Embedded, names: TableNames, registry: Registry, broken: Registry, calls: Calls, journal: Arc<Journal>) -> Self {
        let faults = Arc::new(Faults::default());
        let worker = new_process(&faults, embedded, &names, registry, &calls);
        Self {
            observer: Store::new(embedded.client(), names.clone()),
            embedded: embedded.clone(),
            deployed: Mutex::new(Deployed { worker: Arc::new(worker), is_broken: false }),
            names,
            calls,
            registry,
            broken,
            faults,
            journal,
        }
    }

    /// Whether the broken rule is deployed.
    pub fn is_broken(&self) -> bool {
        self.deployed.lock().unwrap_or_else(PoisonError::into_inner).is_broken
    }

    /// Deploys the rules, one of them broken or all as they should be.
    pub fn deploy(&self, is_broken: bool) {
        let registry = if is_broken { self.broken } else { self.registry };
        let worker = Arc::new(new_process(&self.faults, &self.embedded, &self.names, registry, &self.calls));
        *self.deployed.lock().unwrap_or_else(PoisonError::into_inner) = Deployed { worker, is_broken };
    }

    fn worker(&self) -> Arc<Worker> {
        self.deployed.lock().unwrap_or_else(PoisonError::into_inner).worker.clone()
    }

    /// The home rows of these aggregates in the projections that they concern; an empty one where there is none.
    async fn homes(&self, concerned: &BTreeMap<&'static str, Vec<AggregateId>>) -> Result<Homes, StoreError> {
        let read = concerned.iter().map(|(name, aggregates)| async {
            let rule = self.registry.get(name).expect("it is the name of one of them");
            let mut rows = self.observer.read_rows(rule, aggregates, Deadline::NONE).await?;
            let row_of = |id: &AggregateId| ((rule.name(), id.clone()), rows.remove(id).unwrap_or_default());
            Ok::<_, StoreError>(aggregates.iter().map(row_of).collect::<Vec<_>>())
        });
        let mut homes = Homes::new();
        for rows in join_all(read).await {
            homes.extend(rows?);
        }
        Ok(homes)
    }

    /// Which rows to compare before and after these records.
    fn concerned(&self, records: &[Record]) -> BTreeMap<&'static str, Vec<AggregateId>> {
        let mut aggregates = BTreeMap::new();
        for record in records.iter().rev() {
            if let Body::Event(event) = &record.body
                && aggregates.len() < COMPARED_MAX
            {
                aggregates.entry(event.aggregate.clone()).or_insert_with(BTreeSet::new).insert(event.event_type.clone());
            }
        }
        let of = |rule: &'static dyn DynProjection| {
            let concerned = aggregates.iter().filter(|(id, types)| types.iter().any(|event_type| rule.concerns(id, event_type)));
            let concerned: Vec<_> = concerned.map(|(id, _)| id.clone()).collect();
            (!concerned.is_empty()).then(|| (rule.name(), concerned))
        };
        self.registry.read_models().filter_map(of).collect()
    }
}

fn new_process(faults: &Arc<Faults>, embedded: &Embedded, names: &TableNames, registry: Registry, calls: &Calls) -> Worker {
    Worker::new(Store::new(faults.client(embedded), names.clone()), registry).with_calls(calls.clone())
}

impl Function for Ours {
    async fn invoke(&self, delivery: &Delivery) -> Ended {
        let records: Vec<_> = delivery.records.iter().map(|record| decode(&record.raw)).collect();
        let concerned = self.concerned(&records);
        // What cannot be read is not shown; the worker's own reads are what counts.
        let before = self.homes(&concerned).await.unwrap_or_default();
        let mut entries: Vec<_> = records.iter().map(|record| entry(delivery, what(record))).collect();
        let aggregates: Vec<_> = records.iter().map(aggregate_of).collect();
        let worker = self.worker();
        let deadline = Deadline::at(Instant::now() + TIMEOUT * WORKING_PERCENT / 100);
        let mut fates: Vec<Vec<Fate>> = vec![Vec::new(); records.len()];
        let mut shown = BTreeMap::new();
        let report = Box::pin(worker.process_observed(records, deadline, |lane| {
            let why = lane.failure.as_ref().map(ToString::to_string).or_else(|| lane.stuck().map(|park| park.blocked.reason.clone()));
            for (record, outcome) in &lane.outcomes {
                // The change of the row is that of the whole batch, so it stands beside the last of the aggregate's records.
                let last = shown.entry((lane.rule.name(), lane.aggregate.clone())).or_insert(*record);
                *last = (*last).max(*record);
                let why = why.clone().filter(|_| matches!(outcome, Outcome::Failed | Outcome::Parked));
                fates[*record].push(Fate::new(lane.rule.name(), Some(*outcome), why));
            }
            if let Some((record, _)) = lane.outcomes.first()
                && let Some(fate) = fates[*record].iter_mut().find(|fate| fate.projection == lane.rule.name())
            {
                fate.healed = lane.tally.healed;
            }
        }))
        .await;
        let after = self.homes(&concerned).await.unwrap_or_default();
        for (key, record) in shown {
            let (Some(before), Some(after)) = (before.get(&key), after.get(&key)) else { continue };
            let (changes, children) = (of_content(before, after), self.written_to_children(&key, before, delivery, &fates));
            if let Some(fate) = fates[record].iter_mut().find(|fate| fate.projection == key.0) {
                (fate.changes, fate.children) = (changes, children);
            }
        }
        let parked = self.reasons(&fates, &aggregates).await;
        for ((entry, mut fates), aggregate) in entries.iter_mut().zip(fates).zip(aggregates) {
            for fate in &mut fates {
                if fate.outcome == Some(Outcome::Parked) && fate.why.is_none() {
                    fate.why = aggregate.as_ref().and_then(|id| parked.get(&(fate.projection, id.clone())).cloned());
                }
            }
            fates.sort_by_key(|fate| self.registry.projections().iter().position(|rule| rule.name() == fate.projection));
            entry.fates = fates;
        }
        let ended = ended(&report);
        self.count(entries, report);
        ended
    }

    fn died(&self, delivery: &Delivery) {
        let records = delivery.records.iter().map(|record| decode(&record.raw));
        let entries = records.map(|record| {
            let fates = self.died_at(&record);
            Entry { fates, ..entry(delivery, what(&record)) }
        });
        let entries: Vec<_> = entries.collect();
        let records = entries.len() as u64;
        self.journal.note(without_repetition(entries), |totals| totals.records += records);
        // Another process takes over, which remembers nothing.
        self.deploy(self.is_broken());
    }
}

impl Ours {
    fn died_at(&self, record: &Record) -> Vec<Fate> {
        let Body::Event(event) = &record.body else { return Vec::new() };
        let concerned = self.registry.projections().iter().filter(|rule| rule.concerns(&event.aggregate, &event.event_type));
        concerned.map(|rule| Fate::new(rule.name(), None, Some("the function died".to_owned()))).collect()
    }

    /// What the events of a delivery that were applied have written to the child rows of their aggregate, as its rule tells.
    fn written_to_children(
        &self,
        (projection, aggregate): &(&'static str, AggregateId),
        before: &HomeRow,
        delivery: &Delivery,
        fates: &[Vec<Fate>],
    ) -> BTreeMap<Arc<str>, ChildOp> {
        let Some(rule) = self.registry.get(projection).filter(|rule| rule.children().is_some()) else { return BTreeMap::new() };
        let applied = |fates: &[Fate]| fates.iter().any(|fate| fate.projection == *projection && fate.outcome == Some(Outcome::Applied));
        let events =
            delivery.records.iter().zip(fates).filter(|(_, fates)| applied(fates)).filter_map(|(record, _)| record.event.as_deref());
        let mut events: Vec<_> = events.filter(|event| event.aggregate == *aggregate).collect();
        events.sort_by_key(|event| event.version);
        merge(rule, events.into_iter(), before, &|_, _| true).change.children().clone()
    }

    /// Why the aggregates of these records are parked.
    async fn reasons(&self, fates: &[Vec<Fate>], aggregates: &[Option<AggregateId>]) -> BTreeMap<(&'static str, AggregateId), String> {
        let mut reasons = BTreeMap::new();
        for (fates, aggregate) in fates.iter().zip(aggregates) {
            let Some(aggregate) = aggregate else { continue };
            for fate in fates.iter().filter(|fate| fate.outcome == Some(Outcome::Parked)) {
                let key = (fate.projection, aggregate.clone());
                if reasons.len() >= COMPARED_MAX || reasons.contains_key(&key) {
                    continue;
                }
                if let Ok(Some((entry, _))) = self.observer.parked_entry(fate.projection, aggregate.as_str(), Deadline::NONE).await {
                    reasons.insert(key, entry.reason);
                }
            }
        }
        reasons
    }

    fn count(&self, entries: Vec<Entry>, report: Report) {
        let now = store::now();
        self.journal.note(without_repetition(entries), |totals| {
            totals.records += report.records;
            totals.ignored += report.ignored_total();
            totals.usage += report.usage;
            totals.lag_ms = report.total.lag_ms(&now).or(totals.lag_ms);
            for (projection, tally) in report.projections {
                let counts = totals.projections.entry(projection).or_default();
                for (count, more) in counts.iter_mut().zip([tally.applied, tally.duplicate, tally.healed, tally.parked, tally.failed]) {
                    *count += more;
                }
            }
        });
    }
}

/// Each append brings items along that are no events. One line for all of them is enough.
fn without_repetition(entries: Vec<Entry>) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        let What::Ignored(why, records) = entry.what else {
            kept.push(entry);
            continue;
        };
        let known = kept.iter_mut().find_map(|kept| match &mut kept.what {
            What::Ignored(of, known) if *of == why => Some(known),
            _ => None,
        });
        match known {
            Some(known) => *known += records,
            None => kept.push(entry),
        }
    }
    kept
}

fn ended(report: &Report) -> Ended {
    match &report.checkpoint {
        Checkpoint::None => Ended::From(None),
        Checkpoint::At(lowest) => Ended::From(Some(lowest.as_str().to_owned())),
        Checkpoint::WholeBatch => Ended::Failed,
    }
}

fn entry(delivery: &Delivery, what: What) -> Entry {
    Entry { number: 0, at: store::now(), delivery: delivery.number, attempt: delivery.attempt, what, fates: Vec::new() }
}

fn what(record: &Record) -> What {
    match &record.body {
        Body::Event(event) => {
            What::Event { aggregate: event.aggregate.clone(), version: event.version, event_type: event.event_type.to_string() }
        }
        Body::Poison(poison) => What::Poison(match &poison.event {
            Some((aggregate, version)) => format!("{aggregate} version {version}: {}", poison.reason),
            None => poison.reason.to_string(),
        }),
        Body::Ignored(reason) | Body::Rewritten { how: reason, .. } => What::Ignored(*reason, 1),
        Body::Unusable(reason) => What::Unusable(reason.to_string()),
    }
}

fn aggregate_of(record: &Record) -> Option<AggregateId> {
    match &record.body {
        Body::Event(event) => Some(event.aggregate.clone()),
        Body::Poison(poison) => poison.event.as_ref().map(|(aggregate, _)| aggregate.clone()),
        Body::Rewritten { aggregate, .. } => Some(aggregate.clone()),
        Body::Ignored(_) | Body::Unusable(_) => None,
    }
}
