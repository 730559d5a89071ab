//! One run: writers, a stream, pollers, workers and operators on one simulated DynamoDB, and a scheduler that chooses, step by step,
//! who goes on and what goes wrong. Then all trouble ends, everything comes to rest, and the oracle looks.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use aws_sdk_dynamodb::types::{AttributeValue, CancellationReason};
use projection_vocabulary::{AggregateId, RecordedEvent, Registry, Timestamp, Value, Version, data};
use projection_worker::{
    Worker,
    catch_up::Trust,
    item::{encode_event, partition_key, sort_key},
    redrive::Redriven,
    report::Report,
    retry::Deadline,
    store::{Store, TableNames, events::AppendError, parking::Parked},
};

use crate::{
    choices::Choices,
    database::{ItemWritten, Refused},
    faults::{Counts, Fault},
    network::{Line, Loss, Network, Outcome, lock},
    oracle::{EVENTS, Oracle, PARKED},
    plan::{GIVERS, Plan, SHELVES},
    poller::{Answer, BatchId, Poller},
    rules::{BAD, DEPLOYMENTS, FIRST, MENDED, NEXT},
    stream::{Delivered, StreamRecord},
};

/// So many steps are never needed: a run that takes more does not come to rest.
const STEPS_MAX: usize = 60_000;
const INVOCATIONS_MAX: usize = 3;
const WRITERS_MAX: usize = 2;
const OPERATORS_MAX: usize = 2;

/// What a run came to.
pub struct Finished {
    /// What was wrong, if anything.
    pub failure: Option<String>,
    /// The faults that were injected.
    pub counts: Counts,
    /// The choices that were made.
    pub made: Vec<u32>,
    /// What happened, line by line, if it was asked for.
    pub trace: Vec<String>,
    /// Requests that reached the database.
    pub requests: u64,
}

/// Runs once.
///
/// # Panics
/// If the machine has no runtime to give.
#[must_use]
pub fn run(choices: Choices, traced: bool) -> Finished {
    // Names and pauses of the worker come from here; all else from the choices.
    fastrand::seed(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(tokio::task::unconstrained(async {
        let mut run = Run::new(choices, traced);
        let failure = run.go().await.err();
        if let Some(failure) = &failure {
            run.note(|| format!("WRONG: {failure}"));
        }
        Finished {
            failure,
            counts: run.counts,
            made: run.choices.made().to_vec(),
            trace: run.trace.unwrap_or_default(),
            requests: run.requests,
        }
    }))
}

struct Run {
    choices: Choices,
    plan: Plan,
    counts: Counts,
    trace: Option<Vec<String>>,
    network: Arc<Mutex<Network>>,
    oracle: Oracle,
    shards: Vec<Poller<Delivered>>,
    streamed: u64,
    delivered: BTreeMap<u64, u64>,
    streamed_versions: BTreeMap<String, u64>,
    given_up: Vec<Vec<Delivered>>,
    processes: Vec<Process>,
    named: u64,
    deployed: usize,
    /// Workers that wait for their next invocation, as Lambda keeps processes.
    idle: Vec<(usize, Arc<Worker>)>,
    appends_left: usize,
    facts: u64,
    parking_down: bool,
    /// Malformed events that wait to be mended.
    malformed: Vec<(String, u64)>,
    /// Whom nobody but an operator can bring to the head: the stream has lost the record, or nothing will come.
    left_behind: bool,
    requests: u64,
}

struct Process {
    name: Arc<str>,
    role: Role,
    future: Pin<Box<dyn Future<Output = Ended>>>,
    woken: Arc<Flag>,
}

enum Role {
    Invocation {
        shard: usize,
        batch: BatchId,
        records: Vec<(u64, Delivered)>,
        deployment: usize,
        worker: Arc<Worker>,
    },
    /// Records that were given up, delivered by hand.
    Replay(Vec<Delivered>),
    Writer,
    Operator,
}

enum Ended {
    Report(Box<Report>),
    Quiet,
    Redriven(Redriven),
    /// Entries to redrive.
    Parked(Vec<Parked>),
    Failed(String),
    Panicked(String),
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// What the scheduler may do next.
#[derive(Clone, Copy)]
enum Action {
    Network,
    Start(usize, usize),
    Append,
    Time,
    Kill,
    Duplicate,
    Operate,
    Deploy,
    DeployBad,
    Malform,
    Mend,
    Restore,
    LoseRow,
    Parking,
    Expire,
}

type Result<T = (), E = String> = std::result::Result<T, E>;

impl Run {
    fn new(mut choices: Choices, traced: bool) -> Self {
        let plan = Plan::choose(&mut choices);
        let mut network = Network::default();
        network.database.create_table(EVENTS, "PK", Some("SK"));
        network.database.create_table(PARKED, "aggregateId", Some("projection"));
        for rule in DEPLOYMENTS[FIRST] {
            network.database.create_table(rule.name(), rule.key(), None);
        }
        network.database.page_items_max = plan.page_items_max;
        Self {
            choices,
            counts: Counts::default(),
            trace: traced.then(Vec::new),
            network: Arc::new(Mutex::new(network)),
            oracle: Oracle::default(),
            shards: (0..plan.shards).map(|_| Poller::new(plan.settings)).collect(),
            streamed: 0,
            delivered: BTreeMap::new(),
            streamed_versions: BTreeMap::new(),
            given_up: Vec::new(),
            processes: Vec::new(),
            named: 0,
            deployed: FIRST,
            idle: Vec::new(),
            appends_left: plan.appends,
            facts: 0,
            parking_down: false,
            malformed: Vec::new(),
            left_behind: false,
            requests: 0,
            plan,
        }
    }

    async fn go(&mut self) -> Result {
        for _ in 0..self.plan.history {
            self.append();
            self.finish_all().await?;
        }
        for _ in 0..self.plan.trouble {
            self.poll_all()?;
            let action = self.choose();
            self.act(action).await?;
        }
        self.come_to_rest().await
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    fn choose(&mut self) -> Action {
        let busy = |role: fn(&Role) -> bool| self.processes.iter().filter(|process| role(&process.role)).count();
        let (invocations, writers) = (busy(|role| matches!(role, Role::Invocation { .. })), busy(|role| matches!(role, Role::Writer)));
        let operators = busy(|role| matches!(role, Role::Operator));
        let may = |fault: Fault, weight: usize| if self.plan.has(fault) { weight } else { 0 };
        let when = |possible: bool, weight: usize| if possible { weight } else { 0 };
        let requests = lock(&self.network).under_way.len();
        let mut actions = vec![(when(requests > 0, 60 + 20 * requests.min(5)), Action::Network)];
        if invocations < INVOCATIONS_MAX {
            for (at, shard) in self.shards.iter().enumerate() {
                actions.extend(shard.ready().map(|partition| (15, Action::Start(at, partition))));
            }
        }
        let succeeded = self.shards.iter().any(|shard| !shard.succeeded().is_empty());
        actions.extend([
            (when(self.appends_left > 0 && writers < WRITERS_MAX, 15), Action::Append),
            (when(!self.processes.is_empty(), 4), Action::Time),
            (when(!self.processes.is_empty(), may(Fault::Crash, 3)), Action::Kill),
            (when(invocations < INVOCATIONS_MAX && succeeded, may(Fault::DuplicateDelivery, 4)), Action::Duplicate),
            (when(operators < OPERATORS_MAX, 2), Action::Operate),
            (may(Fault::Deployed, 1) + may(Fault::PoisonMended, 1), Action::Deploy),
            (may(Fault::BadDeployment, 1), Action::DeployBad),
            (may(Fault::Malformed, 1), Action::Malform),
            (when(!self.malformed.is_empty(), 1), Action::Mend),
            (may(Fault::Restored, 1), Action::Restore),
            (may(Fault::RowLost, 1), Action::LoseRow),
            (may(Fault::ParkingDown, 1), Action::Parking),
            (may(Fault::Discarded, 1), Action::Expire),
        ]);
        if actions.iter().all(|(weight, _)| *weight == 0) {
            return Action::Time;
        }
        self.choices.weighted(&actions)
    }

    async fn act(&mut self, action: Action) -> Result {
        match action {
            Action::Network => self.network_step(true)?,
            Action::Start(shard, partition) => {
                let batch = self.shards[shard].start(partition);
                self.invoke(shard, batch.id, batch.records);
            }
            Action::Append => {
                self.appends_left -= 1;
                self.append();
            }
            Action::Time => {
                let pause = [30, 300, 3_000][self.choices.below(3)];
                self.note(|| format!("-- {pause} ms pass"));
                tokio::time::advance(Duration::from_millis(pause)).await;
            }
            Action::Kill => self.kill(),
            Action::Duplicate => {
                let able: Vec<_> = (0..self.shards.len()).filter(|at| !self.shards[*at].succeeded().is_empty()).collect();
                let shard = able[self.choices.below(able.len())];
                let which = self.choices.below(self.shards[shard].succeeded().len());
                let batch = self.shards[shard].start_duplicate(which);
                self.invoke(shard, batch.id, batch.records);
            }
            Action::Operate => self.operate(),
            Action::Deploy => {
                let choice = self.choices.below(3);
                let possible = [MENDED, self.plan.last_deployment, FIRST];
                let deployment = possible[choice];
                // What is deployed in the end is never followed by a rule that could not have been before.
                self.deploy(if deployment == MENDED && self.plan.last_deployment == FIRST { FIRST } else { deployment });
            }
            Action::DeployBad => self.deploy(BAD),
            Action::Malform => self.malform()?,
            Action::Mend => {
                let at = self.choices.below(self.malformed.len());
                self.mend(at)?;
            }
            Action::Restore => self.restore()?,
            Action::LoseRow => self.lose_row()?,
            Action::Parking => {
                self.parking_down = !self.parking_down;
                let down = self.parking_down;
                self.note(|| format!("** the parking table is {}", if down { "unavailable" } else { "there again" }));
            }
            Action::Expire => self.expire(),
        }
        Ok(())
    }

    // What becomes of requests.

    fn network_step(&mut self, trouble: bool) -> Result {
        let network = self.network.clone();
        let mut network = lock(&network);
        let at = self.choices.below(network.under_way.len());
        let request = &network.under_way[at];
        let (zombie, writes) = (request.is_zombie(), request.writes());
        if request.outcome.is_some() {
            let lost = trouble && writes && !zombie && self.plan.has(Fault::AnswerLost) && self.choices.per_mille(self.plan.request_faults);
            if lost {
                self.count(Fault::AnswerLost, || format!("{}: applied, its answer lost", request.text()));
                network.lose(at, if self.choices.per_mille(500) { Loss::Server } else { Loss::Timeout });
                return Ok(());
            }
            if !writes && request.answered_at != network.database.written() {
                let call = network.under_way[at].call.clone();
                if Some(call.apply(&mut network.database)) != network.under_way[at].outcome {
                    self.count(Fault::StaleRead, || format!("{}: answered as it was", network.under_way[at].text()));
                }
            }
            network.deliver(at);
            return Ok(());
        }
        if zombie {
            if trouble && self.choices.per_mille(300) {
                let request = &network.under_way[at];
                self.note(|| format!("{}: never arrived", request.text()));
                network.lose(at, Loss::Timeout);
                return Ok(());
            }
            if writes {
                let request = &network.under_way[at];
                self.count(Fault::Zombie, || format!("{}: arrives, though given up", request.text()));
            }
        } else if trouble {
            if self.parking_down && request.writes_to(PARKED) {
                self.count(Fault::ParkingDown, || format!("{}: refused", request.text()));
                network.lose(at, [Loss::Server, Loss::Denied][self.choices.below(2)]);
                return Ok(());
            }
            if self.choices.per_mille(self.plan.request_faults)
                && let Some((fault, loss)) = self.request_fault(writes)
            {
                if fault == Fault::Zombie {
                    self.note(|| format!("{}: given up while on its way", network.under_way[at].text()));
                    network.delay(at);
                } else {
                    self.count(fault, || format!("{}: {loss:?}, not applied", network.under_way[at].text()));
                    network.lose(at, loss);
                }
                return Ok(());
            }
        }
        self.requests += 1;
        if trouble && network.under_way[at].is_eventual() && self.choices.per_mille(500) {
            network.arrive_at_replica(at);
        } else {
            network.arrive(at);
        }
        let request = &mut network.under_way[at];
        if let Some(Refused::Canceled(reasons)) = request.outcome.as_mut().and_then(Outcome::refused)
            && trouble
            && self.plan.has(Fault::MixedCancellation)
            && reasons.iter().any(|reason| reason.code() == Some("None"))
            && self.choices.per_mille(500)
        {
            let innocent = reasons.iter_mut().find(|reason| reason.code() == Some("None")).expect("there is one");
            *innocent = CancellationReason::builder().code("TransactionConflict").build();
            self.counts.add(Fault::MixedCancellation);
        }
        if request.outcome.as_ref().is_some_and(Outcome::is_partial) {
            self.counts.add(Fault::ShortPage);
        }
        self.note(|| {
            let refused = request.outcome.as_mut().and_then(Outcome::refused).map(|refused| format!("{refused:?}"));
            format!("{}: {}", request.text(), refused.unwrap_or_else(|| "done".to_owned()))
        });
        let changes = std::mem::take(&mut network.database.changes);
        for written in changes {
            self.oracle.written(&written, false)?;
            self.stream(written.items);
        }
        // A plain network answers at once.
        if !self.choices.per_mille(400) && at < network.under_way.len() {
            network.deliver(at);
        }
        Ok(())
    }

    /// What goes wrong with a request that is not there yet, and what its caller is told.
    fn request_fault(&mut self, writes: bool) -> Option<(Fault, Loss)> {
        let mut kinds =
            vec![(Fault::Throttled, Loss::Throttled), (Fault::TimeoutBefore, Loss::Timeout), (Fault::ServerError, Loss::Server)];
        if writes {
            kinds.extend([(Fault::Conflict, Loss::Conflict), (Fault::Zombie, Loss::Timeout)]);
        }
        kinds.retain(|(fault, _)| self.plan.has(*fault));
        if kinds.is_empty() {
            return None;
        }
        Some(kinds[self.choices.below(kinds.len())])
    }

    fn count(&mut self, fault: Fault, line: impl FnOnce() -> String) {
        self.counts.add(fault);
        self.note(line);
    }

    // The event store and its stream.

    /// What one call wrote into the event store goes into the stream; records of one transaction in any order.
    fn stream(&mut self, items: Vec<ItemWritten>) {
        let mut events: Vec<_> =
            items.into_iter().filter(|(table, ..)| table == EVENTS).filter_map(|(.., before, after)| Some((before, after?))).collect();
        while !events.is_empty() {
            let at = if self.plan.has(Fault::ReorderedInside) { self.choices.below(events.len()) } else { 0 };
            let (before, after) = events.remove(at);
            let (sequence, order) = (90 + self.streamed, self.streamed);
            let Some(record) = StreamRecord::of(before.as_ref(), &after, sequence, order) else { continue };
            self.streamed += 1;
            let last = self.streamed_versions.entry(record.aggregate.clone()).or_default();
            if record.version < *last {
                self.counts.add(Fault::ReorderedInside);
            }
            *last = record.version.max(*last);
            if record.event_type.as_deref() == Some("Flawed") {
                self.counts.add(Fault::Poison);
            }
            let shard = record.aggregate.bytes().map(usize::from).sum::<usize>() % self.shards.len();
            let item = format!("{}/{}", record.aggregate, record.version);
            self.shards[shard].push(sequence, &item, Delivered(Arc::new(record)));
        }
    }

    fn fact(&mut self, aggregate: &str, first: bool) -> (&'static str, Value) {
        let amount = i64::try_from(self.choices.below(9)).expect("small") - 2;
        let number = |amount: i64| Value::Number(amount.to_string().parse().expect("a whole number"));
        let amount_of = |amount| Value::Map(BTreeMap::from([("amount".to_owned(), number(amount))]));
        let named = |which: usize| Value::from(SHELVES[which]);
        if first || SHELVES.contains(&aggregate) {
            return if first { ("Opened", amount_of(amount)) } else { ("Added", amount_of(amount)) };
        }
        let flawed = usize::from(self.plan.has(Fault::Poison));
        match self.choices.weighted(&[(4, 0), (6, 1), (2, 2), (1, 3), (2, 4), (flawed, 5)]) {
            0 => ("Added", amount_of(amount)),
            1 => {
                let which = self.choices.below(2);
                ("Put", Value::Map(BTreeMap::from([("shelf".to_owned(), named(which)), ("count".to_owned(), number(amount))])))
            }
            2 => {
                let from = self.choices.below(2);
                ("Moved", Value::Map(BTreeMap::from([("from".to_owned(), named(from)), ("to".to_owned(), named(1 - from))])))
            }
            3 => ("Cleared", data! {}),
            4 => ("Noted", data! {}),
            _ => ("Flawed", data! {}),
        }
    }

    /// Starts a writer: it appends a few events to one aggregate, and decides anew if somebody else was first.
    fn append(&mut self) {
        let aggregate = match self.choices.below(self.plan.givers + 1) {
            at if at < self.plan.givers => GIVERS[at],
            _ => SHELVES[self.choices.below(2)],
        };
        let fresh = lock(&self.network).database.item(EVENTS, &version_key(aggregate)).is_none();
        let count = 1 + self.choices.below(3);
        let mut facts = Vec::new();
        for at in 0..count {
            let (event_type, data) = self.fact(aggregate, fresh && at == 0);
            self.facts += 1;
            facts.push((self.facts, event_type, data));
        }
        let name = self.name("writer");
        let store = self.store(&name);
        self.start(&name, Role::Writer, async move {
            for _ in 0..5 {
                let id = AggregateId::from(aggregate);
                let Ok(expected) = store.current_version(&id).await else { return Ended::Quiet };
                let event = |(at, (number, event_type, data)): (u64, &(u64, &'static str, Value))| RecordedEvent {
                    aggregate: id.clone(),
                    version: Version(expected.0 + 1 + at),
                    event_id: format!("event-{number}").into(),
                    event_type: (*event_type).into(),
                    data: data.clone(),
                    timestamp: instant(*number),
                    metadata: None,
                };
                let events: Vec<_> = (0..).zip(&facts).map(event).collect();
                match store.append(expected, &events).await {
                    Err(AppendError::Conflict { .. }) => {}
                    Ok(_) | Err(AppendError::Trouble(_)) => return Ended::Quiet,
                    Err(error) => return Ended::Failed(error.to_string()),
                }
            }
            Ended::Quiet
        });
    }

    /// Somebody else writes an event that cannot be read.
    fn malform(&mut self) -> Result {
        let aggregate = GIVERS[self.choices.below(self.plan.givers)];
        let (_, data) = self.fact(SHELVES[0], false);
        self.facts += 1;
        let version = self.version_of(aggregate) + 1;
        let event = RecordedEvent {
            aggregate: aggregate.into(),
            version: Version(version),
            event_id: format!("event-{}", self.facts).into(),
            event_type: "Added".into(),
            data,
            timestamp: instant(self.facts),
            metadata: None,
        };
        let mut item = encode_event(&event);
        if self.plan.mends() && self.choices.per_mille(300) {
            item.remove("eventType");
        } else {
            item.insert("timestamp".to_owned(), AttributeValue::S("yesterday".to_owned()));
        }
        self.count(Fault::Malformed, || format!("** {aggregate}/{version} is written so that it cannot be read"));
        self.malformed.push((aggregate.to_owned(), version));
        let mut network = lock(&self.network);
        network.database.set(EVENTS, (partition_key(&aggregate.into()), sort_key(Version(version))), Some(item));
        network.database.set(EVENTS, version_key(aggregate), Some(version_item(aggregate, version)));
        drop(network);
        self.direct(false)
    }

    /// Somebody corrects it in the event store.
    fn mend(&mut self, at: usize) -> Result {
        let (aggregate, version) = self.malformed.swap_remove(at);
        let key = (partition_key(&aggregate.as_str().into()), sort_key(Version(version)));
        let mut network = lock(&self.network);
        let Some(mut item) = network.database.item(EVENTS, &key).cloned() else { return Ok(()) };
        item.insert("eventType".to_owned(), AttributeValue::S("Added".to_owned()));
        item.insert("timestamp".to_owned(), AttributeValue::S(instant(version).to_string()));
        network.database.set(EVENTS, key, Some(item));
        drop(network);
        self.note(|| format!("** {aggregate}/{version} is mended"));
        self.direct(false)
    }

    /// What was written behind everybody's back.
    fn direct(&mut self, lost: bool) -> Result {
        let changes = std::mem::take(&mut lock(&self.network).database.changes);
        for written in changes {
            self.oracle.written(&written, lost)?;
            self.stream(written.items);
        }
        Ok(())
    }

    fn version_of(&self, aggregate: &str) -> u64 {
        let network = lock(&self.network);
        let version = network.database.item(EVENTS, &version_key(aggregate)).and_then(|item| item.get("version")?.as_n().ok());
        version.map_or(0, |version| version.parse().expect("a version"))
    }

    fn restore(&mut self) -> Result {
        let aggregate = GIVERS[self.choices.below(self.plan.givers)];
        let version = self.version_of(aggregate);
        if version < 2 {
            return Ok(());
        }
        let to = version - 1 - self.choices.below(2).min(usize::try_from(version).expect("small") - 2) as u64;
        self.count(Fault::Restored, || format!("** {aggregate} is set back from version {version} to {to}"));
        self.oracle.disturbed.insert(aggregate.to_owned());
        self.oracle.restored = true;
        self.malformed.retain(|(id, version)| id != aggregate || *version <= to);
        let mut network = lock(&self.network);
        for gone in to + 1..=version {
            network.database.set(EVENTS, (partition_key(&aggregate.into()), sort_key(Version(gone))), None);
        }
        network.database.set(EVENTS, version_key(aggregate), Some(version_item(aggregate, to)));
        drop(network);
        self.direct(false)
    }

    fn lose_row(&mut self) -> Result {
        let aggregate = GIVERS[self.choices.below(self.plan.givers)];
        let table = DEPLOYMENTS[FIRST][self.choices.below(3)].name();
        let key = (aggregate.to_owned(), String::new());
        let mut network = lock(&self.network);
        if network.database.item(table, &key).is_none() {
            return Ok(());
        }
        network.database.set(table, key, None);
        drop(network);
        self.count(Fault::RowLost, || format!("** {table}/{aggregate} is deleted"));
        self.oracle.disturbed.insert(aggregate.to_owned());
        self.direct(true)
    }

    fn expire(&mut self) {
        let shard = self.choices.below(self.shards.len());
        let below = 90 + self.choices.below(usize::try_from(self.streamed).expect("few") + 1) as u64;
        self.note(|| format!("** records of shard {shard} below {below} are too old"));
        self.shards[shard].expire(below);
        self.take_discarded(shard);
    }

    fn take_discarded(&mut self, shard: usize) {
        for object in self.shards[shard].take_discarded() {
            let records: Vec<_> = object.records.into_iter().map(|(_, record)| record).collect();
            for record in &records {
                self.count(Fault::Discarded, || format!("** {} is given up", record.0.name));
            }
            self.given_up.push(records);
        }
    }

    // Processes.

    fn name(&mut self, kind: &str) -> String {
        self.named += 1;
        format!("{kind}-{}", self.named)
    }

    fn store(&self, name: &str) -> Store {
        let projections = DEPLOYMENTS[FIRST].iter().map(|rule| (rule.name(), rule.name().to_owned())).collect();
        let names = TableNames { event_store: EVENTS.to_owned(), parked: PARKED.to_owned(), projections };
        Store::new(Line::new(self.network.clone(), name), names)
    }

    fn worker(&mut self, deployment: usize) -> Arc<Worker> {
        if let Some(at) = self.idle.iter().position(|(of, _)| *of == deployment) {
            return self.idle.swap_remove(at).1;
        }
        let name = self.name("worker");
        Arc::new(Worker::new(self.store(&name), Registry::new(DEPLOYMENTS[deployment])))
    }

    fn start(&mut self, name: &str, role: Role, future: impl Future<Output = Ended> + 'static) {
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        // As many requests as it likes without giving way: the scheduler alone decides who waits.
        let future = Box::pin(tokio::task::unconstrained(future));
        self.processes.push(Process { name: name.into(), role, future, woken });
    }

    fn invoke(&mut self, shard: usize, batch: BatchId, records: Vec<(u64, Delivered)>) {
        let newest = self.delivered.keys().next_back().copied();
        if records.first().is_some_and(|(_, first)| Some(first.0.order) < newest && !self.delivered.contains_key(&first.0.order)) {
            self.counts.add(Fault::ReorderedAcross);
        }
        for (_, record) in &records {
            let times = self.delivered.entry(record.0.order).or_default();
            *times += 1;
            if *times > 1 {
                self.counts.add(Fault::DuplicateDelivery);
            }
        }
        let deployment = self.deployed;
        let worker = self.worker(deployment);
        let name = self.name("invocation");
        let names = || records.iter().map(|(_, record)| record.0.name.clone()).collect::<Vec<_>>().join(", ");
        let line = self.trace.is_some().then(|| format!("{name} of deployment {deployment} is given {}", names()));
        self.note(|| line.unwrap_or_default());
        let deadline = Deadline::at(tokio::time::Instant::now().into_std() + self.plan.working_time);
        let role = Role::Invocation { shard, batch, records: records.clone(), deployment, worker: worker.clone() };
        self.start(&name, role, async move {
            let records: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
            Ended::Report(Box::new(worker.process(&records, deadline).await))
        });
    }

    /// An operator or a schedule does something that may always be done.
    fn operate(&mut self) {
        let deployment = self.deployed;
        let worker = self.worker(deployment);
        let name = self.name("operator");
        if self.choices.per_mille(500) {
            let aggregate = AggregateId::from(GIVERS[self.choices.below(self.plan.givers)]);
            let rule = DEPLOYMENTS[deployment][self.choices.below(3)];
            let name_of_rule = rule.name();
            let line = format!("{name} lets {aggregate} catch up in {name_of_rule}");
            self.note(|| line);
            self.start(&name, Role::Operator, async move {
                _ = worker.catch_up(rule, &aggregate, Trust::Row, Deadline::NONE).await;
                Ended::Quiet
            });
            return;
        }
        self.note(|| format!("{name} redrives what is parked"));
        self.start(&name, Role::Operator, async move {
            for parked in worker.store().parked().await.unwrap_or_default() {
                _ = worker.redrive(&parked, Trust::Row, Deadline::NONE).await;
            }
            Ended::Quiet
        });
    }

    fn deploy(&mut self, deployment: usize) {
        if deployment == self.deployed {
            return;
        }
        self.note(|| format!("** deployment {deployment}"));
        if deployment == BAD {
            self.counts.add(Fault::BadDeployment);
        }
        if (deployment == NEXT) != (self.deployed == NEXT)
            && self.processes.iter().any(|process| matches!(process.role, Role::Invocation { .. }))
        {
            self.counts.add(Fault::Deployed);
        }
        self.oracle.revised |= deployment == NEXT;
        self.deployed = deployment;
        self.idle.clear();
    }

    fn kill(&mut self) {
        let at = self.choices.below(self.processes.len());
        let process = self.processes.swap_remove(at);
        self.note(|| format!("** {} is killed", process.name));
        self.counts.add(match process.role {
            Role::Invocation { .. } | Role::Replay(_) => Fault::Crash,
            Role::Operator => Fault::OperatorKilled,
            Role::Writer => Fault::WriterKilled,
        });
        if let Role::Invocation { shard, batch, .. } = process.role {
            self.shards[shard].answer(batch, &Answer::Errored);
            self.take_discarded(shard);
        }
    }

    /// Lets every process go on that can.
    fn poll_all(&mut self) -> Result {
        loop {
            let Some(at) = self.processes.iter().position(|process| process.woken.0.swap(false, Relaxed)) else { return Ok(()) };
            let process = &mut self.processes[at];
            let waker = Waker::from(process.woken.clone());
            let polled = catch_unwind(AssertUnwindSafe(|| process.future.as_mut().poll(&mut Context::from_waker(&waker))));
            let ended = match polled {
                Ok(Poll::Pending) => continue,
                Ok(Poll::Ready(ended)) => ended,
                Err(panic) => Ended::Panicked(panic_text(&*panic)),
            };
            let process = self.processes.swap_remove(at);
            self.ended(process, ended)?;
        }
    }

    fn ended(&mut self, process: Process, ended: Ended) -> Result {
        let name = process.name;
        match (process.role, ended) {
            (_, Ended::Panicked(panic)) => return Err(format!("{name} panicked: {panic}")),
            (_, Ended::Failed(error)) => return Err(format!("{name} failed: {error}")),
            (Role::Invocation { shard, batch, records, deployment, worker }, Ended::Report(report)) => {
                let answer = answer_of(&report);
                self.note(|| format!("{name} answers {answer:?}: {:?} {:?}", report.total, report.reasons));
                if report.reasons.keys().any(|reason| reason.starts_with("out of time")) {
                    self.counts.add(Fault::OutOfTime);
                }
                let Answer::Responded(failed) = &answer else { unreachable!("a report is an answer") };
                let checkpoint = failed.first().map_or(u64::MAX, |number| number.parse().unwrap_or(0));
                let acknowledged: Vec<_> =
                    records.iter().filter(|(sequence, _)| *sequence < checkpoint).map(|(_, record)| record).collect();
                self.acknowledged(deployment, &acknowledged)?;
                self.shards[shard].answer(batch, &answer);
                self.take_discarded(shard);
                if deployment == self.deployed {
                    self.idle.push((deployment, worker));
                }
            }
            (Role::Replay(records), Ended::Report(report)) => {
                self.note(|| format!("{name}: {:?} {:?}", report.total, report.reasons));
                if report.total.failed > 0 {
                    return Err(format!("nothing is wrong any more, and records fail: {:?}", report.reasons));
                }
                self.acknowledged(self.deployed, &records.iter().collect::<Vec<_>>())?;
            }
            (_, Ended::Redriven(redriven)) => {
                if matches!(redriven, Redriven::Mended { .. }) {
                    self.counts.add(Fault::PoisonMended);
                }
                self.note(|| format!("{name}: {redriven:?}"));
            }
            (_, Ended::Parked(parked)) => self.redrive_all(parked),
            (_, Ended::Quiet | Ended::Report(_)) => self.note(|| format!("{name} is done")),
        }
        Ok(())
    }

    fn acknowledged(&self, deployment: usize, records: &[&Delivered]) -> Result {
        let network = lock(&self.network);
        for record in records {
            if let Some(acknowledged) = record.0.acknowledged() {
                self.oracle.acknowledged(&network.database, DEPLOYMENTS[deployment], &acknowledged)?;
            }
        }
        Ok(())
    }

    // The end.

    async fn finish_all(&mut self) -> Result {
        for _ in 0..STEPS_MAX {
            self.poll_all()?;
            if !lock(&self.network).under_way.is_empty() {
                self.network_step(false)?;
            } else if self.processes.is_empty() {
                return Ok(());
            } else {
                tokio::time::advance(Duration::from_millis(300)).await;
            }
        }
        Err(format!("it does not come to rest: {}", self.processes.iter().map(|process| &*process.name).collect::<Vec<_>>().join(", ")))
    }

    async fn come_to_rest(&mut self) -> Result {
        self.note(|| "== all trouble ends".to_owned());
        self.parking_down = false;
        self.plan.working_time = Duration::from_mins(1);
        self.deploy(self.plan.last_deployment);
        self.finish_all().await?;
        while self.plan.mends() && !self.malformed.is_empty() {
            self.mend(self.malformed.len() - 1)?;
        }
        for _ in 0..STEPS_MAX {
            let ready = self.shards.iter().enumerate().find_map(|(at, shard)| Some((at, shard.ready().next()?)));
            let Some((shard, partition)) = ready else { break };
            let batch = self.shards[shard].start(partition);
            self.invoke(shard, batch.id, batch.records);
            self.finish_all().await?;
        }
        if let Some(shard) = self.shards.iter().find(|shard| !shard.is_idle()) {
            return Err(format!("a shard never ends: {:?}", shard.ready().collect::<Vec<_>>()));
        }
        if !self.given_up.is_empty() && self.choices.per_mille(500) {
            self.left_behind = true;
            self.given_up.clear();
        }
        for records in std::mem::take(&mut self.given_up) {
            let worker = self.worker(self.deployed);
            let name = self.name("replay");
            self.note(|| format!("{name} delivers what was given up"));
            let delivered = records.clone();
            self.start(
                &name,
                Role::Replay(records),
                async move { Ended::Report(Box::new(worker.process(&delivered, Deadline::NONE).await)) },
            );
            self.finish_all().await?;
        }
        self.list_and_redrive().await?;
        if self.left_behind || self.oracle.revised || !self.oracle.disturbed.is_empty() {
            self.catch_all_up().await?;
            self.list_and_redrive().await?;
            self.catch_all_up().await?;
        }
        let network = self.network.clone();
        let network = lock(&network);
        self.oracle.at_rest(&network.database, Registry::new(DEPLOYMENTS[self.deployed]))
    }

    async fn list_and_redrive(&mut self) -> Result {
        let worker = self.worker(self.deployed);
        let name = self.name("operator");
        self.start(&name, Role::Operator, async move {
            match worker.store().parked().await {
                Ok(parked) => Ended::Parked(parked),
                Err(trouble) => Ended::Failed(trouble.to_string()),
            }
        });
        self.finish_all().await
    }

    fn redrive_all(&mut self, parked: Vec<Parked>) {
        for parked in parked {
            let worker = self.worker(self.deployed);
            let name = self.name("operator");
            let trust = if self.oracle.disturbed.contains(&parked.aggregate) { Trust::Store } else { Trust::Row };
            self.note(|| format!("{name} redrives {}/{}", parked.projection, parked.aggregate));
            self.start(&name, Role::Operator, async move {
                match worker.redrive(&parked, trust, Deadline::NONE).await {
                    Ok(redriven) => Ended::Redriven(redriven),
                    Err(failed) => Ended::Failed(failed.to_string()),
                }
            });
        }
    }

    async fn catch_all_up(&mut self) -> Result {
        for aggregate in GIVERS.iter().take(self.plan.givers).chain(&SHELVES) {
            for rule in DEPLOYMENTS[self.deployed] {
                let worker = self.worker(self.deployed);
                let name = self.name("operator");
                let id = AggregateId::from(*aggregate);
                let trust = if self.oracle.disturbed.contains(*aggregate) { Trust::Store } else { Trust::Row };
                self.note(|| format!("{name} lets {aggregate} catch up in {}", rule.name()));
                self.start(&name, Role::Operator, async move {
                    match worker.catch_up(*rule, &id, trust, Deadline::NONE).await {
                        Ok(_) => Ended::Quiet,
                        Err(failed) => Ended::Failed(failed.to_string()),
                    }
                });
                self.finish_all().await?;
            }
        }
        Ok(())
    }
}

/// As the Lambda answers.
fn answer_of(report: &Report) -> Answer {
    let lowest = report.checkpoint.as_ref().map(|lowest| lowest.as_ref().map_or_else(String::new, |number| number.as_str().to_owned()));
    Answer::Responded(lowest.into_iter().collect())
}

fn version_key(aggregate: &str) -> (String, String) {
    (partition_key(&aggregate.into()), "VERSION".to_owned())
}

fn version_item(aggregate: &str, version: u64) -> crate::expression::Item {
    crate::expression::Item::from([
        ("PK".to_owned(), AttributeValue::S(partition_key(&aggregate.into()))),
        ("SK".to_owned(), AttributeValue::S("VERSION".to_owned())),
        ("version".to_owned(), AttributeValue::N(version.to_string())),
    ])
}

fn instant(number: u64) -> Timestamp {
    Timestamp::from_epoch_ms(1_767_225_600_000 + 1_000 * i64::try_from(number).expect("few")).expect("in range")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
