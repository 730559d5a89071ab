//! The worker: takes lanes and plans, which are values, to the store.
//!
//! Every failure ends in one of three ways. An event that cannot be applied parks its aggregate. An infrastructure failure fails the
//! records it hits, and they are delivered again. If most of a projection's aggregates would have to be parked, nothing of that
//! projection is parked, because then the deployment is at fault.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream};
use projection_vocabulary::{AggregateId, DynProjection, HomeRow, RecordedEvent, Registry, RowKey, Version};
use serde_json::value::RawValue;

use crate::{
    engine::{
        act::{Act, NotActed},
        breaker::{self, Breaker},
        calls::Calls,
        decode::{Body, Ignored, Poison, Record, decode},
        error::AdvanceError,
        lane::{AfterRefusal, Lane, Park, Step, UNEXPLAINED_MAX},
        mostly_one::{append, push},
        plan::{self, Planned},
        redelivery::{Delivered, Hunch},
        report::{Ledger, Report},
        reproject::{HistoryFold, Trust, differing_children, fold_history, give_up, replaced_up_to},
        shares::{Clash, Known, shared_writes},
    },
    retry::{Deadline, DeadlineExceeded},
    store::{
        Store, StoreError,
        events::PAGE_EVENTS,
        home::{ChildWrites, HomeWrite},
        parking::{NO_PROJECTION, Parking},
        rows::{Cause, Commit},
    },
};

/// How many groups of rows are written at once. At 5 ms a write that is 6,400 writes a second, more than a new on-demand
/// table takes (4,000).
pub(crate) const CONCURRENCY: usize = 32;

/// How many lanes are planned and written at a time. A write that is planned takes some kilobytes, and the thousandth lane waits for most of
/// the writes before it anyway. Lanes that are not driven together do not share a write of a common row; a transaction has room for a tenth
/// of these.
const LANES_AT_ONCE: usize = 1_000;

/// Below this number of groups it costs no less to read rows first than to find out from a refused write that there is nothing to do.
const READ_TOGETHER_MIN: usize = 3;

/// How many events one invocation may read to re-project aggregates whose rule has changed: one to two seconds of reading. Aggregates
/// already in progress are finished; the rest fails and is delivered again. A rebuild is the fast way to do all of them.
const REPROJECTED_EVENTS_MAX: u64 = 20_000;

/// The time that a process keeps back, so that what it has done is also written: a repetition costs as much as the first time.
const KEPT_FOR_WRITING: Duration = Duration::from_millis(500);

/// The engine, over one store and one list of projections.
pub struct Worker {
    store: Store,
    registry: Registry,
    calls: Calls,
    breaker: Mutex<Breaker>,
    delivered: Delivered,
    reprojected_events_max: u64,
}

/// What happens to an aggregate whose next event cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfStuck {
    /// It is parked.
    Park,
    /// It is parked, unless the breaker finds the deployment at fault: then it fails.
    AskBreaker,
    /// It stays stuck, without a mark on its row, because the table is not the live one.
    Leave,
}

/// How long to continue.
#[derive(Clone, Copy)]
pub(crate) struct Limits<'a> {
    deadline: Deadline,
    /// How many events may still be read for re-projection; `None` for any number.
    reprojected_events: Option<&'a AtomicU64>,
}

impl From<Deadline> for Limits<'_> {
    fn from(deadline: Deadline) -> Self {
        Self { deadline, reprojected_events: None }
    }
}

/// What became of the lanes of a group.
struct Driven {
    /// Finished or stuck.
    idle: Vec<Lane>,
    /// Not begun: their rows are to be read first, with those of others.
    to_read: Vec<Lane>,
}

/// A record that cannot be read and names no event: parked by itself.
struct Stray {
    record: usize,
    poison: Poison,
}

/// A batch, by aggregate.
#[derive(Default)]
struct Sorted {
    histories: BTreeMap<AggregateId, History>,
    strays: Vec<Stray>,
    rewritten: BTreeMap<AggregateId, Rewritten>,
}

/// Events of one aggregate that were changed or deleted.
struct Rewritten {
    /// The lowest version among them.
    first: Version,
    /// The records that say so, by their index in the batch.
    records: Vec<(usize, Ignored)>,
}

/// What the records of one aggregate hold, by their index in the batch.
type History = Vec<(usize, Result<Arc<RecordedEvent>, Box<Poison>>)>;

impl Worker {
    /// A worker for these projections.
    #[must_use]
    pub fn new(store: Store, registry: Registry) -> Self {
        Self {
            store,
            registry,
            calls: Calls::new(),
            breaker: Mutex::default(),
            delivered: Delivered::default(),
            reprojected_events_max: REPROJECTED_EVENTS_MAX,
        }
    }

    /// The same worker with another limit on the events that one invocation reads to re-project aggregates whose rule has changed.
    #[must_use]
    pub fn with_reprojection_budget(mut self, events: u64) -> Self {
        self.reprojected_events_max = events;
        self
    }

    /// The same worker with the functions that its processes call.
    #[must_use]
    pub fn with_calls(mut self, calls: Calls) -> Self {
        self.calls = calls;
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
        self.process_decoded(batch.iter().map(|raw| decode(raw.as_ref())).collect(), deadline).await
    }

    /// The same for records that are decoded already. A record's sequence number is what is reported if it fails.
    pub async fn process_decoded(&self, records: Vec<Record>, deadline: Deadline) -> Report {
        self.process_observed(records, deadline, |_| {}).await
    }

    /// The same, and tells `observe` what became of each aggregate of the batch in each projection.
    pub(crate) async fn process_observed(&self, records: Vec<Record>, deadline: Deadline, mut observe: impl FnMut(&Lane)) -> Report {
        let before = self.store.usage();
        let hunch = Hunch::from(self.delivered.again(records.iter().filter_map(|record| record.sequence.as_ref())));
        let mut ledger = Ledger::new(records.iter().map(|record| record.sequence.clone()).collect());
        let Sorted { histories, strays, rewritten } = self.group_by_aggregate(records, &mut ledger);
        let lanes = self.lanes(histories);
        let budget = AtomicU64::new(self.reprojected_events_max);
        // Only where failed records are delivered again.
        let reprojected_events = deadline.is_some().then_some(&budget);
        let limits = Limits { deadline, reprojected_events };
        let (lanes, strays) = self.advance_with_strays(lanes, strays, IfStuck::AskBreaker, limits, &hunch).await;
        for (stray, result) in strays {
            match result {
                Ok(()) => ledger.parked(stray.record),
                Err(error) => ledger.failed(stray.record, error.to_string()),
            }
        }
        for lane in lanes {
            observe(&lane);
            ledger.add(lane.rule.name(), lane.outcomes, lane.tally, lane.failure);
        }
        // After the events of the batch: a row that counts them may stand on the event that was changed.
        for (aggregate, Rewritten { first, records }) in rewritten {
            let lanes = self.reproject_rewritten(&aggregate, first, deadline).await;
            let failure = match &lanes {
                Ok(lanes) => lanes.iter().find_map(|lane| lane.failure.as_ref()),
                Err(error) => Some(error),
            };
            for (record, how) in records {
                match failure {
                    None => ledger.ignore(record, how),
                    Some(error) => ledger.failed(record, error.to_string()),
                }
            }
            for lane in lanes.into_iter().flatten() {
                ledger.add(lane.rule.name(), Vec::new(), lane.tally, None);
            }
        }
        ledger.into_report(self.store.usage() - before)
    }

    /// Sorts records by aggregate. Those that concern no projection get their outcome at once.
    fn group_by_aggregate(&self, records: Vec<Record>, ledger: &mut Ledger) -> Sorted {
        let Sorted { mut histories, mut strays, mut rewritten } = Sorted::default();
        let known =
            |aggregate: &AggregateId, event_type: &str| self.registry.projections().iter().any(|rule| rule.concerns(aggregate, event_type));
        for (at, record) in records.into_iter().enumerate() {
            match record.body {
                Body::Ignored(reason) => ledger.ignore(at, reason),
                Body::Rewritten { aggregate, version, how } => {
                    let entry = rewritten.entry(aggregate).or_insert(Rewritten { first: version, records: Vec::new() });
                    entry.first = version.min(entry.first);
                    entry.records.push((at, how));
                }
                Body::Unusable(reason) => ledger.failed(at, reason.to_string()),
                Body::Event(event) => {
                    if !known(&event.aggregate, &event.event_type) {
                        ledger.ignore_type(at, &event.event_type);
                    }
                    push(histories.entry(event.aggregate.clone()).or_default(), (at, Ok(Arc::new(event))));
                }
                Body::Poison(poison) => match (&poison.event, poison.event_type.as_deref()) {
                    (Some((aggregate, _)), Some(event_type)) if !known(aggregate, event_type) => ledger.ignore_type(at, event_type),
                    (Some((aggregate, _)), Some(_)) => push(histories.entry(aggregate.clone()).or_default(), (at, Err(Box::new(poison)))),
                    // Nobody can tell which projections it concerns. Those it does concern find the hole and read the event store.
                    _ => strays.push(Stray { record: at, poison }),
                },
            }
        }
        Sorted { histories, strays, rewritten }
    }

    /// Re-projects the rows of an aggregate that count an event which was changed in the event store, if they differ from what the event
    /// store says now. A row that the new history does not reach stays as it is: nothing takes a row back by itself, and `verify` finds it.
    async fn reproject_rewritten(&self, id: &AggregateId, first: Version, deadline: Deadline) -> Result<Vec<Lane>, AdvanceError> {
        let mut lanes = Vec::new();
        for rule in self.registry.projections() {
            let row = self.store.home_row(*rule, id, deadline).await?;
            let takes_it = row.parked_at.is_none() && !row.is_outdated(rule.revision()) && row.newest_revision() <= rule.revision();
            if row.version < first || !takes_it {
                continue;
            }
            let folded = fold_history(&self.store, *rule, id, row.version, deadline).await?;
            if folded.due <= row.version {
                continue;
            }
            let children = differing_children(&self.store, *rule, id, folded.children(), deadline).await?;
            if !row.is_same_as(&folded.row()) || !children.is_empty() {
                let mut lane = Lane::new(*rule, id.clone());
                lane.replace(&row, &folded, children, Trust::Row);
                lanes.push(lane);
            }
        }
        Ok(self.advance(lanes, IfStuck::Leave, deadline).await)
    }

    /// One lane for each aggregate and projection that an event concerns. Each is made when it is asked for.
    fn lanes(&self, histories: BTreeMap<AggregateId, History>) -> impl Iterator<Item = Lane> {
        let rules = self.registry.projections();
        histories.into_iter().flat_map(move |(aggregate, history)| {
            let lane = |rule: &'static dyn DynProjection| {
                // Most rules have nothing to do with an aggregate, and a lane has an entry for each event.
                if !history.iter().any(|(_, event)| concerns(rule, &aggregate, event)) {
                    return None;
                }
                let mut lane = Lane::with_room(rule, aggregate.clone(), history.len());
                for (at, event) in &history {
                    match event {
                        Ok(read) => lane.push_event(read, *at),
                        Err(poison) if concerns(rule, &aggregate, event) => push_poison(&mut lane, poison, *at),
                        Err(_) => {}
                    }
                }
                lane.prepare().then_some(lane)
            };
            let mut lanes = Vec::new();
            rules.iter().filter_map(|rule| lane(*rule)).for_each(|lane| push(&mut lanes, lane));
            lanes
        })
    }

    /// Advances lanes until each is finished: at its last event, parked or failed; or stuck, with [`IfStuck::Leave`].
    pub(crate) async fn advance(&self, lanes: Vec<Lane>, if_stuck: IfStuck, deadline: Deadline) -> Vec<Lane> {
        self.advance_with_strays(lanes, Vec::new(), if_stuck, deadline.into(), &Hunch::default()).await.0
    }

    async fn advance_with_strays(
        &self,
        lanes: impl IntoIterator<Item = Lane>,
        strays: Vec<Stray>,
        if_stuck: IfStuck,
        limits: Limits<'_>,
        hunch: &Hunch,
    ) -> (Vec<Lane>, Vec<(Stray, Result<(), AdvanceError>)>) {
        let lanes = self.drive(lanes, limits, hunch).await;
        // Asked once for each batch: a lane that continues after its parking was refused has been counted.
        let tripped = match if_stuck {
            IfStuck::AskBreaker => self.tripped(&lanes, &strays),
            IfStuck::Park | IfStuck::Leave => BTreeSet::new(),
        };
        let strays = self.park_strays(strays, tripped.contains(NO_PROJECTION), limits.deadline).await;
        let lanes = if if_stuck == IfStuck::Leave { lanes } else { self.park_stuck(lanes, &tripped, limits).await };
        (lanes, strays)
    }

    /// The projections of which nothing may be parked.
    fn tripped(&self, lanes: &[Lane], strays: &[Stray]) -> BTreeSet<&'static str> {
        let mut seen: BTreeMap<&'static str, Vec<(&str, bool)>> = BTreeMap::new();
        for lane in lanes.iter().filter(|lane| lane.failure.is_none()) {
            if lane.stuck().is_some() {
                seen.entry(lane.rule.name()).or_default().push((lane.aggregate.as_str(), true));
                continue;
            }
            for projection in [lane.rule.name(), NO_PROJECTION] {
                seen.entry(projection).or_default().push((lane.aggregate.as_str(), false));
            }
        }
        for stray in strays {
            seen.entry(NO_PROJECTION).or_default().push((stray.poison.record_id.as_str(), true));
        }
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let trips = |(projection, aggregates)| breaker.trips(projection, aggregates).then_some(projection);
        let tripped: BTreeSet<_> = seen.into_iter().filter_map(trips).collect();
        for projection in &tripped {
            if let Some((reason, aggregates)) = breaker::commonest(reasons_of(projection, lanes, strays)) {
                tracing::error!(projection, aggregates, reason, "the deployment is at fault and nothing is parked; the commonest reason");
            }
        }
        tripped
    }

    /// Parks the lanes that are stuck, and continues with those whose rows have moved meanwhile.
    async fn park_stuck(&self, mut lanes: Vec<Lane>, tripped: &BTreeSet<&'static str>, limits: Limits<'_>) -> Vec<Lane> {
        let mut finished = Vec::new();
        loop {
            let (stuck, done): (Vec<_>, Vec<_>) = lanes.into_iter().partition(|lane| lane.stuck().is_some());
            finished.extend(done);
            if stuck.is_empty() {
                return finished;
            }
            let parked = stuck.into_iter().map(|lane| {
                let tripped = tripped.contains(lane.rule.name());
                self.park(lane, tripped, limits)
            });
            let parked: Vec<_> = stream::iter(parked).buffer_unordered(CONCURRENCY).collect().await;
            lanes = self.drive(parked, limits, &Hunch::default()).await;
        }
    }

    async fn park_strays(&self, strays: Vec<Stray>, tripped: bool, deadline: Deadline) -> Vec<(Stray, Result<(), AdvanceError>)> {
        let parked = strays.into_iter().map(|stray| async move {
            let result = match why_not_parked(tripped, deadline) {
                Some(error) => Err(error),
                None => self.park_stray(&stray.poison, deadline).await.map(drop).map_err(AdvanceError::from),
            };
            (stray, result)
        });
        stream::iter(parked).buffer_unordered(CONCURRENCY).collect().await
    }

    /// Parks a record that names no event, and returns the reason.
    pub(crate) async fn park_stray(&self, poison: &Poison, deadline: Deadline) -> Result<String, StoreError> {
        let Poison { event, reason, payload, record_id, .. } = poison;
        let reason = match event {
            Some((aggregate, version)) => format!("{reason} (aggregate {aggregate}, version {version})"),
            None => reason.to_string(),
        };
        tracing::warn!(record_id, reason, "record parked");
        let version = event.as_ref().map(|event| event.1);
        let parking = Parking { version, reason: &reason, payload: Some(payload) };
        self.store.park_record(record_id, &parking, deadline).await?;
        Ok(reason)
    }

    /// Parks the aggregate of a lane that is stuck.
    async fn park(&self, mut lane: Lane, tripped: bool, limits: Limits<'_>) -> Lane {
        if let Some(error) = why_not_parked(tripped, limits.deadline) {
            lane.fail(error);
            return lane;
        }
        let Some(Park { after, blocked }) = lane.stuck() else { return lane };
        let parking = Parking { version: Some(blocked.version), reason: &blocked.reason, payload: blocked.payload.as_deref() };
        match self.store.park(lane.rule, &lane.aggregate, *after, &parking, limits.deadline).await {
            Ok(Commit::Done) => {
                let (version, reason) = (blocked.version, &blocked.reason);
                tracing::warn!(projection = lane.rule.name(), aggregate = %lane.aggregate, %version, reason, "aggregate parked");
                lane.parked();
                lane
            }
            Ok(Commit::Refused(mut causes)) => match causes.pop() {
                Some(Cause::Condition { row, .. }) => {
                    let next = lane.refused(row.map(|row| *row), None);
                    self.follow_up(lane, next, limits).await
                }
                Some(Cause::Invalid(reason)) => failed(lane, AdvanceError::ParkingRefused(reason)),
                Some(Cause::Other) | None => failed(lane, AdvanceError::ParkingRefused("no reason is given")),
            },
            Ok(Commit::Invalid(reason)) => failed(lane, AdvanceError::ParkingRefused(reason)),
            Ok(Commit::SharedRefused { .. }) => failed(lane, AdvanceError::ParkingRefused("no reason is given")),
            Err(error) => failed(lane, error.into()),
        }
    }

    /// Advances lanes as far as possible without parking: each is then finished or stuck.
    async fn drive(&self, lanes: impl IntoIterator<Item = Lane>, limits: Limits<'_>, hunch: &Hunch) -> Vec<Lane> {
        let (mut lanes, mut to_read, mut idle) = (lanes.into_iter(), Vec::new(), Vec::new());
        loop {
            let mut some: Vec<Lane> = std::mem::take(&mut to_read);
            some.extend(lanes.by_ref().take(LANES_AT_ONCE.saturating_sub(some.len())));
            if some.is_empty() {
                return idle;
            }
            let (planned, done) = self.next_writes(some, limits).await;
            let groups = plan::group(planned);
            let many = groups.len() >= READ_TOGETHER_MIN;
            let groups = groups.into_iter().map(|group| self.drive_group(group, limits, hunch, many));
            let driven: Vec<Driven> = stream::iter(groups).buffer_unordered(CONCURRENCY).collect().await;
            idle.extend(done.into_iter().map(Lane::without_spare_room));
            for Driven { idle: done, to_read: more } in driven {
                idle.extend(done.into_iter().map(Lane::without_spare_room));
                to_read.extend(more);
            }
        }
    }

    /// Writes what is planned, and what follows from it; or, if there are `many` groups, has their rows read first where they are probably
    /// duplicates.
    async fn drive_group(&self, mut planned: Vec<Planned>, limits: Limits<'_>, hunch: &Hunch, many: bool) -> Driven {
        if many && hunch.expects_duplicates() && planned.iter().all(|planned| planned.lane.is_blind()) {
            return Driven { idle: Vec::new(), to_read: planned.into_iter().map(|planned| planned.lane.reading_first()).collect() };
        }
        let mut idle = Vec::new();
        // The transactions of a group share rows, so each shows the next what these hold.
        let mut known = Known::default();
        while !planned.is_empty() {
            let mut lanes = Vec::new();
            for pack in plan::pack(planned) {
                let blind = pack.iter().all(|planned| planned.lane.is_blind());
                let committed = self.commit(pack, &mut known, limits).await;
                if blind {
                    for lane in &committed {
                        hunch.learn(lane.was_duplicate());
                    }
                }
                append(&mut lanes, committed);
            }
            let (next, done) = self.next_writes(lanes, limits).await;
            append(&mut idle, done);
            planned = next;
        }
        Driven { idle, to_read: Vec::new() }
    }

    /// The next write of each lane, after reading the row of each lane that needs it; and the lanes that have none.
    async fn next_writes(&self, mut lanes: Vec<Lane>, limits: Limits<'_>) -> (Vec<Planned>, Vec<Lane>) {
        let (mut planned, mut idle) = (Vec::new(), Vec::new());
        while !lanes.is_empty() {
            let mut readers: BTreeMap<&'static str, Vec<Lane>> = BTreeMap::new();
            let mut wide = Vec::new();
            let mut acting = Vec::new();
            for mut lane in lanes {
                match lane.step() {
                    Step::Write(write) => push(&mut planned, Planned { lane, write }),
                    Step::Act(event) => acting.push(self.act(lane, event, limits)),
                    Step::Read => readers.entry(lane.rule.name()).or_default().push(lane),
                    Step::Steps(row, version) => wide.push(self.plan_steps(lane, row, version, limits)),
                    Step::Idle => push(&mut idle, lane),
                }
            }
            lanes = Vec::new();
            // Most lanes come by here twice and need none of these.
            if !wide.is_empty() {
                lanes.extend(stream::iter(wide).buffer_unordered(CONCURRENCY).collect::<Vec<_>>().await);
            }
            if !acting.is_empty() {
                lanes.extend(stream::iter(acting).buffer_unordered(CONCURRENCY).collect::<Vec<_>>().await);
            }
            for readers in readers.into_values() {
                lanes.extend(Box::pin(self.read(readers, limits)).await);
            }
        }
        (planned, idle)
    }

    /// Lets a process act on the events that its lane has in a row, until one of them fails.
    async fn act(&self, mut lane: Lane, mut event: Arc<RecordedEvent>, limits: Limits<'_>) -> Lane {
        let process = lane.rule.process().expect("only a process acts");
        let act = Act { store: &self.store, calls: &self.calls, process, deadline: limits.deadline.earlier_by(KEPT_FOR_WRITING) };
        loop {
            match act.on(&event).await {
                Ok(counts) => {
                    lane.tally.instances += counts;
                    lane.acted();
                }
                Err(NotActed::Poison(reason)) => lane.cannot_act(reason),
                Err(NotActed::Failed(error)) => {
                    lane.fail_to_act(error);
                    return lane;
                }
            }
            match lane.step() {
                Step::Act(next) => event = next,
                _ => return lane,
            }
        }
    }

    /// Plans the steps of an event that changes more than one transaction holds.
    async fn plan_steps(&self, mut lane: Lane, row: Box<HomeRow>, to: Version, limits: Limits<'_>) -> Lane {
        match self.fold(&lane, to, limits.deadline).await {
            Ok((folded, children)) => {
                lane.in_steps(&row, &folded, children, to);
                lane
            }
            Err(error) => failed(lane, error.into()),
        }
    }

    /// The fold of the history of a lane's aggregate, and what must be written to its child rows. The home row must have been read before.
    async fn fold(&self, lane: &Lane, up_to: Version, deadline: Deadline) -> Result<(HistoryFold, ChildWrites), StoreError> {
        let folded = fold_history(&self.store, lane.rule, &lane.aggregate, up_to, deadline).await?;
        let children = differing_children(&self.store, lane.rule, &lane.aggregate, folded.children(), deadline).await?;
        Ok((folded, children))
    }

    /// Reads the home rows of lanes of one projection.
    async fn read(&self, lanes: Vec<Lane>, limits: Limits<'_>) -> Vec<Lane> {
        if limits.deadline.passed() {
            return all_failed(lanes, &DeadlineExceeded.into());
        }
        let aggregates: Vec<_> = lanes.iter().map(|lane| lane.aggregate.clone()).collect();
        match self.store.read_rows(lanes[0].rule, &aggregates, limits.deadline).await {
            Ok(mut rows) => {
                let read = lanes.into_iter().map(|mut lane| {
                    let next = lane.read(rows.remove(&lane.aggregate));
                    (lane, next)
                });
                self.follow_up_all(read.collect(), limits).await
            }
            Err(error) => all_failed(lanes, &error.into()),
        }
    }

    /// Commits writes that go together, and reports the result to their lanes.
    async fn commit(&self, mut pack: Vec<Planned>, known: &mut Known, limits: Limits<'_>) -> Vec<Lane> {
        // Checked here and not where writes are planned: planning a batch takes a moment, writing it takes its time.
        if limits.deadline.passed() {
            return all_failed(lanes_of(pack), &DeadlineExceeded.into());
        }
        let committed = match self.commit_with_shared(&pack, known, limits).await {
            Ok(committed) => committed,
            Err(clash) => return after_clash(pack, &clash),
        };
        match committed {
            Ok(Commit::Done) => {
                for Planned { lane, write } in &mut pack {
                    lane.written(write);
                }
                lanes_of(pack)
            }
            Ok(Commit::Refused(causes)) => {
                let refused = pack.into_iter().zip(causes).map(|(Planned { mut lane, write }, cause)| {
                    let next = match cause {
                        Cause::Other => AfterRefusal::Continue,
                        Cause::Invalid(reason) => {
                            lane.invalid(&write, reason);
                            AfterRefusal::Continue
                        }
                        Cause::Condition { row, applied_maybe } => lane.refused(row.map(|row| *row), applied_maybe.then_some(&*write)),
                    };
                    (lane, next)
                });
                self.follow_up_all(refused.collect(), limits).await
            }
            Ok(Commit::Invalid(reason)) if pack.len() == 1 => {
                for Planned { lane, write } in &mut pack {
                    lane.invalid(write, reason);
                }
                lanes_of(pack)
            }
            Ok(Commit::Invalid(_)) => {
                let half = pack.split_off(pack.len() / 2);
                let mut lanes = Box::pin(self.commit(pack, known, limits)).await;
                lanes.extend(Box::pin(self.commit(half, known, limits)).await);
                lanes
            }
            Ok(Commit::SharedRefused { .. }) => all_failed(lanes_of(pack), &AdvanceError::Unexplained),
            Err(error) => all_failed(lanes_of(pack), &error),
        }
    }

    /// Commits a pack, and again as long as its shared rows show what the writes to them must be.
    async fn commit_with_shared(
        &self,
        pack: &[Planned],
        known: &mut Known,
        limits: Limits<'_>,
    ) -> Result<Result<Commit, AdvanceError>, Clash> {
        let rule = pack[0].lane.rule;
        let homes: Vec<_> = pack.iter().map(|planned| &planned.write.home).collect();
        known.forget_rows();
        let (mut maybe, mut tries) = (false, 0);
        loop {
            let shared = match shared_writes(rule.revision(), pack.iter().map(|planned| &planned.write.shares), known) {
                Ok(shared) => shared,
                Err(Clash::Owned(row)) if tries <= UNEXPLAINED_MAX => {
                    tries += 1;
                    known.forget_row(&row);
                    match Box::pin(self.let_go(rule, &row, limits)).await {
                        Ok(()) => continue,
                        Err(error) => return Ok(Err(error)),
                    }
                }
                Err(clash) => return Err(clash),
            };
            match self.store.commit(rule, &homes, &shared, maybe, limits.deadline).await {
                Ok(Commit::SharedRefused { rows, applied_maybe }) if tries <= UNEXPLAINED_MAX => {
                    tries += 1;
                    maybe = applied_maybe;
                    known.learn(rows);
                }
                Ok(Commit::Done) => {
                    known.wrote(shared);
                    return Ok(Ok(Commit::Done));
                }
                committed => return Ok(committed.map_err(AdvanceError::from)),
            }
        }
    }

    /// Lets a home row of an older revision give up the attributes that the rule's revision does not let it own. The row is unfinished
    /// afterwards.
    async fn let_go(&self, rule: &'static dyn DynProjection, row: &RowKey, limits: Limits<'_>) -> Result<(), AdvanceError> {
        let id = AggregateId::from(row.as_str());
        let stale = self.store.home_row(rule, &id, limits.deadline).await?;
        if stale.newest_revision() >= rule.revision() {
            return Ok(());
        }
        let folded = fold_history(&self.store, rule, &id, Version(u64::MAX), limits.deadline).await?;
        let step = give_up(&stale, &folded.row(), rule.revision());
        let write = HomeWrite::between(id, &stale, &step).though_parked();
        // If the row is another one by now, somebody else has made it give them up, or the next try finds it again.
        self.store.commit(rule, &[&write], &[], false, limits.deadline).await?;
        Ok(())
    }

    /// Does what each refusal calls for, for several lanes at once.
    async fn follow_up_all(&self, refused: Vec<(Lane, AfterRefusal)>, limits: Limits<'_>) -> Vec<Lane> {
        let followed = refused.into_iter().map(|(lane, next)| self.follow_up(lane, next, limits));
        stream::iter(followed).buffer_unordered(CONCURRENCY).collect().await
    }

    /// Does what a refusal calls for.
    async fn follow_up(&self, mut lane: Lane, mut next: AfterRefusal, limits: Limits<'_>) -> Lane {
        let deadline = limits.deadline;
        loop {
            next = match next {
                AfterRefusal::Continue => return lane,
                AfterRefusal::Heal(from, to) => match self.store.load_page(&lane.aggregate, from..=to, PAGE_EVENTS, deadline).await {
                    Ok(stored) => lane.heal(from, to, stored),
                    Err(error) => return failed(lane, error.into()),
                },
                AfterRefusal::Reproject(row) if !limits.reserve(row.version.0) => {
                    let projection = lane.rule.name();
                    return failed(lane, AdvanceError::ReprojectionBudgetSpent { projection });
                }
                AfterRefusal::Reproject(row) => {
                    match self.fold(&lane, replaced_up_to(lane.rule, &row), deadline).await {
                        Ok((folded, children)) => {
                            // Writing a child row takes longer than reading an event.
                            limits.spend(folded.due.previous().0.saturating_sub(row.version.0) + children.len() as u64);
                            lane.replace(&row, &folded, children, Trust::Row);
                            return lane;
                        }
                        Err(error) => return failed(lane, error.into()),
                    }
                }
            };
        }
    }
}

impl Limits<'_> {
    /// Takes this number of events from the budget before they are read, because several aggregates are re-projected at once. `false`
    /// if nothing was left.
    fn reserve(self, events: u64) -> bool {
        let Some(left) = self.reprojected_events else { return true };
        left.fetch_update(Relaxed, Relaxed, |left| (left > 0).then(|| left.saturating_sub(events))).is_ok()
    }

    /// Takes what a history held beyond the reservation.
    fn spend(self, events: u64) {
        if let Some(left) = self.reprojected_events {
            _ = left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(events)));
        }
    }
}

/// Lanes whose writes clash with shared rows fail or are stuck; the others are planned again.
fn after_clash(pack: Vec<Planned>, clash: &Clash) -> Vec<Lane> {
    let clashing = |planned: Planned| {
        let Planned { mut lane, write } = planned;
        match clash {
            Clash::Newer(cell, newer) if write.shares.contains_key(cell) => {
                let error = AdvanceError::newer_revision(lane.rule, *newer);
                lane.fail(error);
            }
            Clash::Rule(cell, reason) if write.shares.get(cell).is_some_and(|share| share.stays) => lane.invalid(&write, reason),
            Clash::Owned(row) if write.shares.keys().any(|(of, _)| of == row) => lane.fail(AdvanceError::Unexplained),
            _ => {}
        }
        lane
    };
    pack.into_iter().map(clashing).collect()
}

fn failed(mut lane: Lane, error: AdvanceError) -> Lane {
    lane.fail(error);
    lane
}

fn all_failed(lanes: Vec<Lane>, error: &AdvanceError) -> Vec<Lane> {
    lanes.into_iter().map(|lane| failed(lane, error.clone())).collect()
}

fn lanes_of(pack: Vec<Planned>) -> Vec<Lane> {
    pack.into_iter().map(|planned| planned.lane).collect()
}

/// Why something that should be parked is not, if so.
fn why_not_parked(tripped: bool, deadline: Deadline) -> Option<AdvanceError> {
    if deadline.passed() { Some(DeadlineExceeded.into()) } else { tripped.then_some(AdvanceError::BreakerTripped) }
}

fn concerns(rule: &dyn DynProjection, aggregate: &AggregateId, event: &Result<Arc<RecordedEvent>, Box<Poison>>) -> bool {
    let event_type = match event {
        Ok(event) => Some(&*event.event_type),
        Err(poison) => poison.event_type.as_deref(),
    };
    event_type.is_some_and(|name| rule.concerns(aggregate, name))
}

fn push_poison(lane: &mut Lane, poison: &Poison, record: usize) {
    if let Some((_, version)) = &poison.event {
        lane.push_poison(*version, poison.reason.to_string(), poison.payload.clone(), record);
    }
}

/// Why aggregates of a projection, or records of none, would have to be parked.
fn reasons_of(projection: &str, lanes: &[Lane], strays: &[Stray]) -> Vec<String> {
    let stuck = lanes.iter().filter(|lane| lane.rule.name() == projection).filter_map(Lane::stuck);
    let strays = strays.iter().filter(|_| projection == NO_PROJECTION);
    stuck.map(|park| park.blocked.reason.clone()).chain(strays.map(|stray| stray.poison.reason.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;
    use projection_vocabulary::{
        Change, Kind, Projection, Recorded, Refusal, data, own,
        sample::{Fact, record},
        shared,
    };
    use serde::Deserialize;

    use super::*;
    use crate::{
        embedded::Embedded,
        engine::{report::Outcome, shares::TWO_OWNERS},
        store::{TableNames, item::Malformed},
    };

    struct Stays;

    #[derive(Deserialize)]
    enum Event {
        Stayed { room: String },
    }

    impl Projection for Stays {
        type Event = Event;
        const NAME: &str = "stays";
        const KEY: &str = "id";

        fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
            let Event::Stayed { room } = &event.event;
            Ok(shared(room).add("nights", 1).into())
        }
    }

    /// The writes of two aggregates to one room each.
    fn pack() -> Vec<Planned> {
        let stays = [("ann", data! { room: "red" }), ("ben", data! { room: "blue" })];
        let events = record(stays.map(|(aggregate, data)| Fact { aggregate: aggregate.into(), event_type: "Stayed", data }));
        let planned = events.map(|event| {
            let mut lane = Lane::new(&Stays, event.aggregate.clone());
            lane.push_event(&Arc::new(event), 0);
            assert!(lane.prepare());
            let Step::Write(write) = lane.step() else { panic!("it writes") };
            Planned { lane, write }
        });
        planned.collect()
    }

    #[test]
    fn the_reasons_of_a_projection_are_those_of_its_own_lanes_and_of_records_only_if_it_is_none() {
        let fact = Fact { aggregate: "ann".into(), event_type: "Stayed", data: data! {} };
        let event = Arc::new(record([fact]).next().expect("it is recorded"));
        let mut lane = Lane::new(&Stays, "ann".into());
        lane.push_event(&event, 0);
        assert!(lane.prepare() && matches!(lane.step(), Step::Idle));
        let reason = Malformed::Timestamp;
        let poison = Poison { event: None, event_type: None, reason: reason.clone(), payload: String::new(), record_id: "r".to_owned() };
        let (lanes, strays) = ([lane], [Stray { record: 0, poison }]);
        let stuck = lanes[0].stuck().expect("it has no room").blocked.reason.clone();
        assert_eq!(reasons_of("stays", &lanes, &strays), [stuck]);
        assert_eq!(reasons_of("guests", &lanes, &strays), [""; 0]);
        assert_eq!(reasons_of(NO_PROJECTION, &lanes, &strays), [reason.to_string()]);
    }

    /// Rings at the desk.
    struct Rings;

    #[derive(Deserialize)]
    enum Ring {
        Rang {},
    }

    impl Projection for Rings {
        type Event = Ring;
        const NAME: &str = "rings";
        const KEY: &str = "id";

        fn project(&self, event: &Recorded<'_, Ring>) -> Result<Change, Refusal> {
            let Ring::Rang {} = event.event;
            Ok(own().add("rings", 1).into())
        }
    }

    fn client() -> aws_sdk_dynamodb::Client {
        Embedded::memory().expect("an empty database").client()
    }

    fn worker(client: aws_sdk_dynamodb::Client) -> Worker {
        let registry = Registry::new(&[&Stays, &Rings]);
        Worker::new(Store::new(client, TableNames::from_env_or_default(registry, |_| None)), registry)
    }

    /// An event of `ann` that cannot be read.
    fn poison(version: Option<u64>, event_type: Option<&str>) -> Poison {
        let event = version.map(|version| ("ann".into(), Version(version)));
        let (event_type, reason) = (event_type.map(Into::into), Malformed::Timestamp);
        Poison { event, event_type, reason, payload: String::new(), record_id: "r".to_owned() }
    }

    #[test]
    fn a_record_that_cannot_be_read_belongs_to_its_aggregate_or_is_ignored_or_stands_by_itself() {
        let sorted = |poison| {
            let records = vec![Record { sequence: None, body: Body::Poison(poison) }];
            let mut ledger = Ledger::new(vec![None]);
            let Sorted { histories, strays, rewritten } = worker(client()).group_by_aggregate(records, &mut ledger);
            assert!(rewritten.is_empty());
            (histories.len(), strays.len())
        };
        assert_eq!(sorted(poison(Some(1), Some("Rang"))), (1, 0));
        assert_eq!(sorted(poison(Some(1), Some("Sang"))), (0, 0));
        assert_eq!(sorted(poison(Some(1), None)), (0, 1));
        assert_eq!(sorted(poison(None, Some("Rang"))), (0, 1));
    }

    #[test]
    fn a_record_that_cannot_be_read_stops_only_the_projections_that_it_concerns() {
        let fact = Fact { aggregate: "ann".into(), event_type: "Stayed", data: data! { room: "red" } };
        let event = record([fact]).next().expect("it is recorded");
        let history = vec![(0, Ok(Arc::new(event))), (1, Err(poison(Some(2), Some("Rang")).into()))];
        let (worker, mut stuck) = (worker(client()), BTreeMap::new());
        for mut lane in worker.lanes([("ann".into(), history)].into()) {
            while let Step::Write(write) = lane.step() {
                lane.written(&write);
            }
            stuck.insert(lane.rule.name(), lane.stuck().is_some());
        }
        assert_eq!(stuck, [("rings", true), ("stays", false)].into());
    }

    /// What became of each lane: why it failed, why it must be parked, or nothing.
    fn ends(lanes: Vec<Lane>) -> Vec<Option<String>> {
        let end = |lane: Lane| match (&lane.failure, lane.stuck()) {
            (Some(error), None) => {
                assert_eq!(lane.outcomes, [(0, Outcome::Failed)]);
                Some(error.to_string())
            }
            (None, Some(park)) => Some(park.blocked.reason.clone()),
            (None, None) => None,
            (Some(_), Some(_)) => panic!("a lane ends in one way"),
        };
        lanes.into_iter().map(end).collect()
    }

    /// Those that wrote with it are innocent.
    #[test]
    fn a_clash_ends_the_lanes_that_write_to_the_attribute_and_no_other() {
        let red = || (RowKey::from("red"), "nights".to_owned());
        let newer = AdvanceError::newer_revision(&Stays, 7).to_string();
        let table = [
            (Clash::Newer(red(), 7), newer),
            (Clash::Rule(red(), TWO_OWNERS), TWO_OWNERS.to_owned()),
            (Clash::Owned(red().0), AdvanceError::Unexplained.to_string()),
        ];
        for (clash, reason) in table {
            assert_eq!(ends(after_clash(pack(), &clash)), [Some(reason), None], "{clash:?}");
        }
    }

    /// What is taken back from an attribute that has become something else is gone already: the rule of that aggregate is not at fault.
    #[test]
    fn a_clash_of_the_rule_spares_the_lane_that_only_takes_back() {
        let mut pack = pack();
        let red = (RowKey::from("red"), "nights".to_owned());
        let share = pack[0].write.shares.get_mut(&red).expect("ann stays there");
        assert_eq!(share.kind, Kind::Sum);
        share.stays = false;
        assert_eq!(ends(after_clash(pack, &Clash::Rule(red, TWO_OWNERS))), [None, None]);
    }

    /// Something else wrote it: `owned` is a text, which no worker reads as names.
    #[tokio::test]
    async fn a_shared_row_that_refuses_whatever_it_shows_is_given_up_after_a_few_tries() {
        let client = client();
        let worker = worker(client.clone());
        worker.store().create_tables(worker.registry()).await.expect("tables");
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let put = client.put_item().table_name("stays").item("id", text("red")).item("owned", text("nights"));
        put.send().await.expect("put");
        let lanes = pack().into_iter().take(1).map(|planned| planned.lane);
        let deadline = Deadline::at(std::time::Instant::now() + Duration::from_secs(10));
        let lanes = worker.advance(lanes.collect(), IfStuck::Leave, deadline).await;
        assert_eq!(ends(lanes), [Some(AdvanceError::Unexplained.to_string())]);
    }

    #[test]
    fn re_projections_end_when_the_budget_of_events_is_spent() {
        let left = AtomicU64::new(10);
        let limits = Limits { reprojected_events: Some(&left), ..Limits::from(Deadline::NONE) };
        // One that is begun is finished, however long it is.
        assert_eq!([limits.reserve(4), limits.reserve(100), limits.reserve(1), limits.reserve(0)], [true, true, false, false]);
        left.store(5, Relaxed);
        limits.spend(9);
        assert!(!limits.reserve(1));
        assert!(Limits::from(Deadline::NONE).reserve(u64::MAX), "an operator has no budget");
    }
}
