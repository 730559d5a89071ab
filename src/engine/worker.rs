//! The engine: a batch of stream records in, exact rows out, and an account of every record.
//!
//! Decoding, lanes and plans are values; this module takes them to the store. What goes wrong on the way ends in one of three places:
//! an event that cannot be applied parks its aggregate, trouble with the infrastructure fails the records it hits (they are
//! delivered again), and if most of what a projection looks at would have to be parked nothing of it is, for then it is the deployment
//! that is at fault.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures::{StreamExt as _, stream};
use projection_vocabulary::{AggregateId, Change, DynProjection, RecordedEvent, Registry, Version};
use serde_json::value::RawValue;

use crate::{
    engine::{
        breaker::Breaker,
        decode::{Body, Ignored, Poison, Record, decode},
        lane::{AfterRefusal, Lane, Park, Step, Write},
        plan,
        report::{Outcome, Report, Tally},
        reproject::{Trust, fold_history},
    },
    retry::Deadline,
    store::{
        Store, StoreError,
        events::PAGE_EVENTS,
        parking::{NO_PROJECTION, Parking},
        rows::{Cause, Commit},
    },
};

/// How many groups of rows are written at once. At 5 ms a write that is 6,400 writes a second, more than a new on-demand
/// table takes (4,000).
pub(crate) const CONCURRENCY: usize = 32;

/// How many events one invocation may read to project aggregates anew whose rule has changed: a second or two of reading. What is
/// under way by then is finished; what is left fails and is delivered again, and a rebuild makes short work of it.
const REPROJECTED_EVENTS_MAX: u64 = 20_000;

/// The engine, over one store and one list of projections.
pub struct Worker {
    store: Store,
    registry: Registry,
    breaker: Mutex<Breaker>,
    reprojected_events_max: u64,
}

/// How far to go.
#[derive(Clone, Copy)]
pub(crate) struct Limits<'a> {
    deadline: Deadline,
    /// Events that may still be read to project anew; without it, as many as there are.
    reprojected_events: Option<&'a AtomicU64>,
}

impl From<Deadline> for Limits<'_> {
    fn from(deadline: Deadline) -> Self {
        Self { deadline, reprojected_events: None }
    }
}

/// A record that cannot be read and names no event: parked by itself.
pub(crate) struct Stray {
    record: usize,
    poison: Poison,
}

/// What the records of one aggregate hold, by their index in the batch.
type History = Vec<(usize, Result<Arc<RecordedEvent>, Poison>)>;

/// What a batch comes to before anything is written.
struct Intake {
    lanes: Vec<Lane>,
    strays: Vec<Stray>,
    ignored: Vec<(usize, Ignored)>,
    unusable: Vec<(usize, &'static str)>,
}

impl Worker {
    /// A worker for these projections.
    #[must_use]
    pub fn new(store: Store, registry: Registry) -> Self {
        Self { store, registry, breaker: Mutex::default(), reprojected_events_max: REPROJECTED_EVENTS_MAX }
    }

    /// The same worker with another bound on the events that an invocation reads to project aggregates anew whose rule has changed.
    #[must_use]
    pub fn with_reprojection_budget(mut self, events: u64) -> Self {
        self.reprojected_events_max = events;
        self
    }

    /// The store it works on.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The projections it runs.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.registry
    }

    /// Advances every aggregate that the records name, and accounts for every record.
    pub async fn process<R: AsRef<RawValue>>(&self, batch: &[R], deadline: Deadline) -> Report {
        let before = self.store.usage();
        let records: Vec<Record> = batch.iter().map(|raw| decode(raw.as_ref())).collect();
        let positions: Vec<_> = records.iter().map(|record| record.sequence.clone()).collect();
        let Intake { lanes, strays, ignored, unusable } = self.group_by_aggregate(records);

        let mut report = Report { records: batch.len() as u64, ..Report::default() };
        let mut outcomes: Vec<Option<Outcome>> = vec![None; batch.len()];
        let fail = |report: &mut Report, outcomes: &mut [Option<Outcome>], record: usize, reason: String| {
            outcomes[record] = Some(Outcome::Failed);
            *report.reasons.entry(reason).or_default() += 1;
        };
        for (record, reason) in unusable {
            fail(&mut report, &mut outcomes, record, reason.to_owned());
        }
        let left = AtomicU64::new(self.reprojected_events_max);
        // Only where what fails is delivered again.
        let reprojected_events = deadline.is_some().then_some(&left);
        let (lanes, strays) = self.advance_all(lanes, strays, Limits { deadline, reprojected_events }).await;
        for (stray, result) in strays {
            match result {
                Ok(()) => outcomes[stray.record] = Some(Outcome::Parked),
                Err(reason) => fail(&mut report, &mut outcomes, stray.record, reason),
            }
        }
        for lane in lanes {
            let failed = lane.outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Failed).count() as u64;
            if let Some(reason) = lane.failure {
                *report.reasons.entry(reason).or_default() += failed;
            }
            for (record, outcome) in lane.outcomes {
                outcomes[record] = outcomes[record].max(Some(outcome));
            }
            *report.projections.entry(lane.rule.name()).or_default() += lane.tally;
            // A record counts once, whatever number of projections it concerns; what no record brought counts in each.
            let Tally { healed, gaps, reprojected, oldest_ms, .. } = lane.tally;
            report.total += Tally { healed, gaps, reprojected, oldest_ms, ..Tally::default() };
        }
        for (record, reason) in ignored {
            assert!(outcomes[record].is_none(), "a record that is ignored has no other outcome");
            *report.ignored.entry(reason).or_default() += 1;
        }
        for (outcome, position) in outcomes.into_iter().zip(positions) {
            if let Some(outcome) = outcome {
                report.total.count(outcome);
                if outcome == Outcome::Failed {
                    report.failed_at(position);
                }
            }
        }
        let counted = report.total.applied + report.total.duplicate + report.total.parked + report.total.failed + report.ignored_total();
        assert_eq!(counted, report.records, "every record has exactly one outcome");
        report.usage = self.store.usage() - before;
        report
    }

    /// Sorts records into lanes: one for each aggregate and projection that an event concerns.
    fn group_by_aggregate(&self, records: Vec<Record>) -> Intake {
        let mut intake = Intake { lanes: Vec::new(), strays: Vec::new(), ignored: Vec::new(), unusable: Vec::new() };
        let mut histories: BTreeMap<AggregateId, History> = BTreeMap::new();
        let known = |event_type: &str| self.registry.projections().iter().any(|rule| rule.event_types().contains(&event_type));
        for (at, record) in records.into_iter().enumerate() {
            match record.body {
                Body::Ignored(reason) => intake.ignored.push((at, reason)),
                Body::Unusable(reason) => intake.unusable.push((at, reason)),
                Body::Event(event) => {
                    if !known(&event.event_type) {
                        intake.ignored.push((at, Ignored::UnknownType));
                    }
                    histories.entry(event.aggregate.clone()).or_default().push((at, Ok(Arc::new(event))));
                }
                Body::Poison(poison) => match (&poison.event, poison.event_type.as_deref()) {
                    (Some(_), Some(event_type)) if !known(event_type) => intake.ignored.push((at, Ignored::UnknownType)),
                    (Some((aggregate, _)), Some(_)) => histories.entry(aggregate.clone()).or_default().push((at, Err(poison))),
                    // Nobody can tell which projections it concerns. Those it does find the hole and look into the store.
                    _ => intake.strays.push(Stray { record: at, poison }),
                },
            }
        }
        for (aggregate, history) in histories {
            for rule in self.registry.projections() {
                let mut lane = Lane::new(*rule, aggregate.clone());
                for (at, event) in &history {
                    match event {
                        Ok(event) => lane.push_event(event, *at),
                        Err(poison) => push_poison(&mut lane, poison, *at),
                    }
                }
                if lane.prepare() {
                    intake.lanes.push(lane);
                }
            }
        }
        intake
    }

    /// Advances lanes that no record brought.
    pub(crate) async fn advance(&self, lanes: Vec<Lane>, deadline: Deadline) -> Vec<Lane> {
        self.advance_all(lanes, Vec::new(), deadline.into()).await.0
    }

    /// Advances lanes until each is done, parked or failed.
    async fn advance_all(&self, lanes: Vec<Lane>, strays: Vec<Stray>, limits: Limits<'_>) -> (Vec<Lane>, Vec<(Stray, Result<(), String>)>) {
        let (mut finished, to_park) = self.drive(lanes, limits).await;
        // Once a batch: a lane that comes back from being parked has been looked at.
        let tripped = self.tripped(&finished, &to_park, &strays);
        let strays = self.park_strays(strays, tripped.contains(NO_PROJECTION), limits.deadline).await;
        finished.extend(self.park_all(to_park, &tripped, limits).await);
        (finished, strays)
    }

    /// The projections of which nothing may be parked.
    pub(crate) fn tripped(&self, finished: &[Lane], to_park: &[(Lane, Park)], strays: &[Stray]) -> BTreeSet<&'static str> {
        let mut looked_at: BTreeMap<&'static str, Vec<(&str, bool)>> = BTreeMap::new();
        for lane in finished.iter().filter(|lane| lane.failure.is_none()) {
            for projection in [lane.rule.name(), NO_PROJECTION] {
                looked_at.entry(projection).or_default().push((lane.aggregate.as_str(), false));
            }
        }
        let bad = to_park.iter().map(|(lane, _)| (lane.rule.name(), lane.aggregate.as_str()));
        for (projection, id) in bad.chain(strays.iter().map(|stray| (NO_PROJECTION, stray.poison.record_id.as_str()))) {
            looked_at.entry(projection).or_default().push((id, true));
        }
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        looked_at.into_iter().filter_map(|(projection, aggregates)| breaker.trips(projection, aggregates).then_some(projection)).collect()
    }

    /// Parks lanes, and takes on those that moved on meanwhile.
    pub(crate) async fn park_all(&self, mut to_park: Vec<(Lane, Park)>, tripped: &BTreeSet<&'static str>, limits: Limits<'_>) -> Vec<Lane> {
        let mut finished = Vec::new();
        while !to_park.is_empty() {
            let parked = to_park.into_iter().map(|(lane, park)| {
                let tripped = tripped.contains(lane.rule.name());
                self.park(lane, park, tripped, limits)
            });
            let lanes = stream::iter(parked).buffer_unordered(CONCURRENCY).collect().await;
            let (done, again) = self.drive(lanes, limits).await;
            finished.extend(done);
            to_park = again;
        }
        finished
    }

    async fn park_strays(&self, strays: Vec<Stray>, tripped: bool, deadline: Deadline) -> Vec<(Stray, Result<(), String>)> {
        let parked = strays.into_iter().map(|stray| async move {
            if let Some(reason) = why_not_parked(tripped, deadline) {
                return (stray, Err(reason));
            }
            let result = self.park_stray(&stray.poison, deadline).await.map(drop).map_err(|error| error.to_string());
            (stray, result)
        });
        stream::iter(parked).buffer_unordered(CONCURRENCY).collect().await
    }

    /// Parks a record that nobody can tell whom it concerns, and returns the reason.
    pub(crate) async fn park_stray(&self, poison: &Poison, deadline: Deadline) -> Result<String, StoreError> {
        let Poison { event, reason, payload, record_id, .. } = poison;
        let reason = match event {
            Some((aggregate, version)) => format!("{reason} (aggregate {aggregate}, version {version})"),
            None => reason.to_string(),
        };
        tracing::warn!(record_id, reason, "record parked");
        let version = event.as_ref().map(|event| event.1);
        let parking = Parking { projection: None, aggregate: None, record_id, version, reason: &reason, payload };
        self.store.park_record(&parking, deadline).await?;
        Ok(reason)
    }

    async fn park(&self, mut lane: Lane, park: Park, tripped: bool, limits: Limits<'_>) -> Lane {
        if let Some(reason) = why_not_parked(tripped, limits.deadline) {
            lane.fail(reason);
            return lane;
        }
        let Park { after, after_revision, version, reason, payload } = &park;
        let parking = Parking {
            projection: Some(lane.rule.name()),
            aggregate: Some(&lane.aggregate),
            record_id: "",
            version: Some(*version),
            reason,
            payload,
        };
        match self.store.park(lane.rule, (*after, *after_revision), &parking, limits.deadline).await {
            Ok(Commit::Done) => {
                tracing::warn!(projection = lane.rule.name(), aggregate = %lane.aggregate, %version, reason, "aggregate parked");
                lane.parked();
            }
            Ok(Commit::Refused(mut causes)) => match causes.pop() {
                Some(Cause::Condition { row, .. }) => {
                    let next = lane.refused(row.map(|row| *row), None);
                    self.follow(&mut lane, next, limits).await;
                }
                Some(Cause::Invalid(reason)) => lane.fail(format!("parking is refused: {reason}")),
                Some(Cause::Other) | None => lane.fail("parking is refused: look at the parking table's key schema".to_owned()),
            },
            Ok(Commit::Invalid(reason)) => lane.fail(format!("parking is refused: {reason}")),
            Err(error) => lane.fail(error.to_string()),
        }
        lane
    }

    /// Takes lanes as far as they go without being parked: those that are finished, and those to park.
    pub(crate) async fn drive(&self, lanes: Vec<Lane>, limits: Limits<'_>) -> (Vec<Lane>, Vec<(Lane, Park)>) {
        let (writes, mut idle) = self.next_writes(lanes, limits).await;
        let groups = plan::group(writes).into_iter().map(|group| self.drive_group(group, limits));
        let driven: Vec<Vec<Lane>> = stream::iter(groups).buffer_unordered(CONCURRENCY).collect().await;
        idle.extend(driven.into_iter().flatten());
        let (mut finished, mut to_park) = (Vec::new(), Vec::new());
        for mut lane in idle {
            match lane.step() {
                Step::Park(park) => to_park.push((lane, park)),
                _ => finished.push(lane),
            }
        }
        (finished, to_park)
    }

    async fn drive_group(&self, mut writes: Vec<(Lane, Box<Write>)>, limits: Limits<'_>) -> Vec<Lane> {
        let mut idle = Vec::new();
        while !writes.is_empty() {
            let mut lanes = Vec::new();
            for pack in plan::pack(writes) {
                lanes.extend(self.commit(pack, limits).await);
            }
            let (next, done) = self.next_writes(lanes, limits).await;
            idle.extend(done);
            writes = next;
        }
        idle
    }

    /// The next write of each lane, reading rows where a lane needs its own; and the lanes that have none.
    async fn next_writes(&self, lanes: Vec<Lane>, limits: Limits<'_>) -> (Vec<(Lane, Box<Write>)>, Vec<Lane>) {
        let (mut writes, mut idle) = (Vec::new(), Vec::new());
        let mut lanes = lanes;
        while !lanes.is_empty() {
            let mut readers: BTreeMap<&'static str, Vec<Lane>> = BTreeMap::new();
            for mut lane in lanes {
                match lane.step() {
                    Step::Read if limits.deadline.passed() => {
                        lane.fail(StoreError::DeadlineExceeded.to_string());
                        idle.push(lane);
                    }
                    Step::Write(write) => writes.push((lane, write)),
                    Step::Read => readers.entry(lane.rule.name()).or_default().push(lane),
                    Step::Done | Step::Park(_) => idle.push(lane),
                }
            }
            lanes = Vec::new();
            for readers in readers.into_values() {
                lanes.extend(self.read(readers, limits).await);
            }
        }
        (writes, idle)
    }

    /// Reads the home rows of lanes of one projection.
    async fn read(&self, mut lanes: Vec<Lane>, limits: Limits<'_>) -> Vec<Lane> {
        let aggregates: Vec<_> = lanes.iter().map(|lane| lane.aggregate.clone()).collect();
        match self.store.read_rows(lanes[0].rule, &aggregates, limits.deadline).await {
            Ok(mut rows) => {
                for lane in &mut lanes {
                    let next = lane.read(rows.remove(&lane.aggregate));
                    self.follow(lane, next, limits).await;
                }
            }
            Err(error) => lanes.iter_mut().for_each(|lane| lane.fail(error.to_string())),
        }
        lanes
    }

    /// Commits writes that go together, and tells the lanes what came of it.
    async fn commit(&self, mut pack: Vec<(Lane, Box<Write>)>, limits: Limits<'_>) -> Vec<Lane> {
        // Asked here and not where writes are planned: a batch is planned in a moment, and written for as long as it takes.
        if limits.deadline.passed() {
            for (lane, _) in &mut pack {
                lane.fail(StoreError::DeadlineExceeded.to_string());
            }
            return pack.into_iter().map(|(lane, _)| lane).collect();
        }
        let rule = pack[0].0.rule;
        let raised = pack.iter().fold(Change::default(), |all, (_, write)| all.then(write.change.monotone()));
        let committed = match self.store.apply_monotone(rule, &raised, limits.deadline).await {
            Ok(Ok(())) => self.commit_sums(rule, &pack, limits.deadline).await,
            Ok(Err(reason)) => Ok(Commit::Invalid(reason)),
            Err(error) => Err(error),
        };
        match committed {
            Ok(Commit::Done) => pack.iter_mut().for_each(|(lane, write)| lane.written(write)),
            Ok(Commit::Refused(causes)) => {
                for ((lane, write), cause) in pack.iter_mut().zip(causes) {
                    match cause {
                        Cause::Other => {}
                        Cause::Invalid(reason) => lane.invalid(write, reason),
                        Cause::Condition { row, applied_maybe } => {
                            let next = lane.refused(row.map(|row| *row), applied_maybe.then_some(&**write));
                            self.follow(lane, next, limits).await;
                        }
                    }
                }
            }
            Ok(Commit::Invalid(reason)) if pack.len() == 1 => pack.iter_mut().for_each(|(lane, write)| lane.invalid(write, reason)),
            Ok(Commit::Invalid(_)) => {
                let half = pack.split_off(pack.len() / 2);
                let mut lanes = Box::pin(self.commit(pack, limits)).await;
                lanes.extend(Box::pin(self.commit(half, limits)).await);
                return lanes;
            }
            Err(error) => pack.iter_mut().for_each(|(lane, _)| lane.fail(error.to_string())),
        }
        pack.into_iter().map(|(lane, _)| lane).collect()
    }

    async fn commit_sums(
        &self,
        rule: &'static dyn DynProjection,
        pack: &[(Lane, Box<Write>)],
        deadline: Deadline,
    ) -> Result<Commit, StoreError> {
        let shared = plan::by_row(pack.iter().flat_map(|(_, write)| &write.shared));
        let homes: Vec<_> = pack.iter().map(|(_, write)| &write.home).collect();
        self.store.commit(rule, &homes, &shared, deadline).await
    }

    /// Does what a refusal calls for.
    async fn follow(&self, lane: &mut Lane, mut next: AfterRefusal, limits: Limits<'_>) {
        let deadline = limits.deadline;
        loop {
            next = match next {
                AfterRefusal::Continue => return,
                AfterRefusal::Heal(from, to) => match self.store.load_page(&lane.aggregate, from..=to, PAGE_EVENTS, deadline).await {
                    Ok(stored) => lane.heal(from, to, stored),
                    Err(error) => return lane.fail(error.to_string()),
                },
                AfterRefusal::Reproject(_) if limits.reprojected_events.is_some_and(|left| left.load(Relaxed) == 0) => {
                    return lane.fail(format!("{BUDGET_REASON} `rebuild-projection {}` does all of it", lane.rule.name()));
                }
                AfterRefusal::Reproject(row) => {
                    match fold_history(&self.store, lane.rule, &lane.aggregate, Version(u64::MAX), deadline).await {
                        Ok(folded) => {
                            limits.spend(folded.due.previous().0);
                            return lane.replace(&row, &folded, Trust::Row);
                        }
                        Err(error) => return lane.fail(error.to_string()),
                    }
                }
            };
        }
    }
}

impl Limits<'_> {
    fn spend(self, events: u64) {
        if let Some(left) = self.reprojected_events {
            _ = left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(events)));
        }
    }
}

const BUDGET_REASON: &str = "an older revision of the rule wrote the row, and this invocation has projected as much anew as it may: delivered \
     again, it goes on;";

/// Why what should be parked is not, if so.
fn why_not_parked(tripped: bool, deadline: Deadline) -> Option<String> {
    if deadline.passed() { Some(StoreError::DeadlineExceeded.to_string()) } else { tripped.then(|| BREAKER_REASON.to_owned()) }
}

const BREAKER_REASON: &str = "more than half of the projection's aggregates would be parked: it is the deployment that is at fault, so nothing \
     is parked; fix or roll it back";

fn push_poison(lane: &mut Lane, poison: &Poison, record: usize) {
    let concerns = poison.event_type.as_deref().is_some_and(|name| lane.rule.event_types().contains(&name));
    if let (true, Some((_, version))) = (concerns, &poison.event) {
        lane.push_poison(*version, poison.reason.to_string(), poison.payload.clone(), record);
    }
}
