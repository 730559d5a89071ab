//! The deployed program as processes that are killed, on a failing network, invoked as Lambda invokes them.
//!
//! A seed determines all choices; the timing depends on the machine. `PROCESSES_SEED=7 cargo test --test end_to_end
//! processes -- --nocapture` chooses another seed and prints what occurred.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    path::PathBuf,
    process::Output,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use fastrand::Rng;
use futures::future::join_all;
use poller::{Discarded, Poller, Settings};
use projection_vocabulary::RecordedEvent;
use projection_worker::internals::{retry::Deadline, sources::input};
use serde_json::{Value as Json, json, value::RawValue};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::size;
use crate::support::{
    proxy::{Applied, Door, Fault, Proxy},
    runtime_api::{Answer, Lambda, PLENTY, environment_at},
    world::{Call, Everything, World, fold, history, record, records, registry},
};

/// What a load balancer may answer instead of DynamoDB.
const GARBAGE: [&str; 3] = ["<html><body>Service Unavailable</body></html>", r#"{"ConsumedCapacity":{"Table"#, "\0\u{1}\u{2}"];
const THROTTLED: [&str; 3] = ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"];
const CONFLICTS: [&str; 3] = ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"];
const BROKEN: [(u16, &str); 2] = [(500, "InternalServerError"), (503, "ServiceUnavailable")];

fn error(name: &str) -> String {
    json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{name}"), "message": "as planned"}).to_string()
}

/// The answer to a call that conflicts with a concurrent transaction.
fn conflict(call: &Call<'_>, random: &mut Rng) -> Fault {
    if call.operation != "TransactWriteItems" {
        return Fault::Instead(400, error("TransactionConflictException"));
    }
    let request: Json = serde_json::from_str(call.body).expect("JSON");
    let actions = request["TransactItems"].as_array().map_or(0, Vec::len);
    let mut reasons = vec![json!({"Code": "None"}); actions];
    reasons[random.usize(..actions)] = json!({"Code": random.choice(CONFLICTS)});
    let name = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
    Fault::Instead(400, json!({"__type": name, "Message": "as planned", "CancellationReasons": reasons}).to_string())
}

/// Faults that fail an attempt but no record, because the worker retries.
const TRANSIENT: [&str; 11] = [
    "throttled",
    "conflict",
    "broken before",
    "broken after",
    "garbage before",
    "garbage after",
    "cut before",
    "answer lost",
    "answer cut",
    "late",
    "hung",
];

fn transient(name: &str, call: &Call<'_>, random: &mut Rng) -> Fault {
    let mut broken = || {
        let (status, name) = *random.choice(&BROKEN).expect("there are some");
        (status, error(name))
    };
    match name {
        "throttled" => Fault::Instead(400, error(random.choice(THROTTLED).expect("there are some"))),
        "conflict" => conflict(call, random),
        "broken before" => {
            let (status, body) = broken();
            Fault::Instead(status, body)
        }
        "broken after" => {
            let (status, body) = broken();
            Fault::AppliedBut(status, body)
        }
        "garbage before" => Fault::Instead(*random.choice(&[200, 502]).expect("there are some"), garbage(random)),
        "garbage after" => Fault::AppliedBut(*random.choice(&[200, 502]).expect("there are some"), garbage(random)),
        "cut before" => Fault::CutBefore,
        "answer lost" => Fault::Lost,
        "answer cut" => Fault::CutAmid,
        "late" => Fault::Late(1 + random.usize(..40)),
        "hung" => Fault::Hung,
        _ => unreachable!("no such fault"),
    }
}

fn garbage(random: &mut Rng) -> String {
    (*random.choice(&GARBAGE).expect("there is some")).to_owned()
}

/// Random choices for the call with this number.
fn choices(seed: u64, number: usize) -> Rng {
    Rng::with_seed(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A network on which three calls in ten fail or are delayed.
pub(super) fn storm(seed: u64, call: &Call<'_>) -> (&'static str, Fault) {
    let mut random = choices(seed, call.number);
    match random.usize(..1_000) {
        0..60 => ("delayed", Fault::Delayed(Duration::from_micros(random.u64(..20_000)))),
        60..62 => ("denied", Fault::Instead(400, error("AccessDeniedException"))),
        // The worker gives up after three seconds.
        65 => ("hung", Fault::Hung),
        choice @ 70..320 => {
            let name = TRANSIENT[(choice - 70) / 25];
            (name, transient(name, call, &mut random))
        }
        _ => ("", Fault::None),
    }
}

/// A record with its sequence number.
type Numbered = (u64, Arc<RawValue>);

fn payload<'a>(records: impl IntoIterator<Item = &'a RawValue>) -> String {
    let records: Vec<_> = records.into_iter().map(RawValue::get).collect();
    format!(r#"{{"Records":[{}]}}"#, records.join(","))
}

/// What happens to an invocation.
enum Fate {
    Lives,
    /// Killed at its call of this number.
    KilledAtCall(usize, Applied),
    /// Killed after this time.
    KilledAfter(Duration),
    /// Killed after it has answered, but before Lambda receives the answer.
    AnswerLost,
    /// Killed by Lambda at its deadline.
    Deadline(Duration),
    /// Loses its permissions at its call of this number.
    ShutOut(usize),
}

fn fate(random: &mut Rng) -> Fate {
    match random.u32(..100) {
        0..38 => {
            let applied = [Applied::Never, Applied::Before, Applied::After][random.usize(..3)];
            // Early calls are preferred, because small batches make few.
            Fate::KilledAtCall(1 + random.usize(..8).min(random.usize(..12)), applied)
        }
        38..44 => Fate::KilledAfter(Duration::from_micros(random.u64(..60_000))),
        44..47 => Fate::AnswerLost,
        47..51 => Fate::Deadline(Duration::from_millis(random.u64(..100))),
        51..57 => Fate::ShutOut(1 + random.usize(..8)),
        _ => Fate::Lives,
    }
}

/// What all workers of a test share.
pub(super) struct Run {
    pub proxy: Proxy,
    /// How often each thing happened.
    pub counts: Mutex<BTreeMap<String, u64>>,
}

impl Run {
    fn count(&self, what: &str, times: u64) {
        *lock(&self.counts).entry(what.to_owned()).or_default() += times;
    }

    /// Checks and counts what a process logged.
    fn read(&self, output: &Output) {
        assert_eq!(output.status.code(), None, "it was killed, and did not end by itself");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok()) {
            let message = line["message"].as_str().unwrap_or_default();
            assert!(!message.contains("panicked") && !message.contains("parked"), "{line}");
            if message == "batch" {
                for count in ["applied", "duplicate", "healed", "failed", "requests"] {
                    self.count(&format!("logged as {count}"), line[count].as_u64().expect("a count"));
                }
            }
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place where one process at a time serves invocations.
pub(super) struct Place<'a> {
    run: &'a Run,
    door: Door,
    lambda: Option<Lambda>,
    random: Rng,
}

impl<'a> Place<'a> {
    pub async fn new(run: &'a Run, random: Rng) -> Self {
        Self { run, door: run.proxy.door().await, lambda: None, random }
    }

    /// Invokes the function with a random fate.
    pub async fn deliver(&mut self, payload: String) -> poller::Answer {
        let run = self.run;
        run.count("invocations", 1);
        if self.lambda.is_none() {
            run.count("processes", 1);
            self.lambda = Some(Lambda::start_in(environment_at(&self.door.url)).await);
        }
        let lambda = self.lambda.as_mut().expect("one was started");
        let fate = fate(&mut self.random);
        let time = if let Fate::Deadline(time) = fate { time } else { PLENTY };
        match fate {
            Fate::KilledAtCall(nth, applied) => self.door.arm(nth, applied),
            Fate::ShutOut(nth) => self.door.shut(nth),
            _ => {}
        }
        let moment = async {
            match fate {
                Fate::KilledAtCall(..) => self.door.struck().await,
                Fate::KilledAfter(time) | Fate::Deadline(time) => tokio::time::sleep(time).await,
                Fate::Lives | Fate::AnswerLost | Fate::ShutOut(_) => pending().await,
            }
        };
        let answer = lambda.invoke_or_kill(SystemTime::now() + time, payload, moment).await;
        self.door.disarm();
        match (answer, fate) {
            (None, Fate::Deadline(_)) => self.buried("killed at the deadline").await,
            (None, Fate::KilledAtCall(_, applied)) => {
                let when = match applied {
                    Applied::Never => "killed at a call that is not applied",
                    Applied::Before => "killed at a call that is applied",
                    Applied::After => "killed at a call that is applied afterwards",
                };
                run.count("killed", 1);
                self.buried(when).await
            }
            (None, _) => {
                run.count("killed", 1);
                self.buried("killed after some time").await
            }
            (Some(_), Fate::AnswerLost) => self.buried("killed after its answer").await,
            (Some(Answer::Response(response)), _) => {
                let failures = failures(&response);
                run.count(if failures.is_empty() { "answered: all done" } else { "answered: partial" }, 1);
                poller::Answer::Responded(failures)
            }
            (Some(Answer::Error(error)), _) => panic!("nothing here is an error of the function: {error}"),
        }
    }

    async fn buried(&mut self, how: &str) -> poller::Answer {
        self.run.count(how, 1);
        self.leave().await;
        poller::Answer::Errored
    }

    /// Ends the process, if there is one.
    pub async fn leave(&mut self) {
        if let Some(lambda) = self.lambda.take() {
            self.run.read(&lambda.stop().await);
        }
    }
}

/// The identifiers of a response. AWS would take any other response for a full success.
fn failures(response: &str) -> Vec<String> {
    let response: Json = serde_json::from_str(response).expect("JSON");
    assert_eq!(response.as_object().map(serde_json::Map::len), Some(1), "{response}");
    let failures = response["batchItemFailures"].as_array().expect("a list");
    failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap_or_default().to_owned()).collect()
}

/// A delivery in addition to the shard's own batches.
enum Extra {
    /// A batch that has succeeded, by its index, again.
    Duplicate(usize),
    /// Records that were given up, from the bucket.
    Object(PathBuf),
}

/// One shard with its mapping and its on-failure bucket.
struct Shard {
    poller: Mutex<Poller<Arc<RawValue>>>,
    name: String,
    partitions: usize,
    bucket: PathBuf,
    /// The sequence numbers of records that were given up and then processed from the bucket.
    replayed: Mutex<Vec<u64>>,
}

impl Shard {
    /// Delivers the batches of one partition until none is left.
    async fn poll(&self, partition: usize, place: &mut Place<'_>, extras: UnboundedSender<Extra>) {
        loop {
            let batch = {
                let mut poller = lock(&self.poller);
                let ready = poller.ready().any(|ready| ready == partition);
                ready.then(|| poller.start(partition))
            };
            let Some(batch) = batch else { break };
            let answer = place.deliver(payload(batch.records.iter().map(|(_, record)| &**record))).await;
            if let poller::Answer::Responded(identifiers) = &answer {
                let names_one = |identifier: &String| batch.records.iter().any(|(number, _)| number.to_string() == *identifier);
                assert!(identifiers.iter().all(names_one), "{identifiers:?} are not sequence numbers of the batch");
            }
            let (discarded, succeeded) = {
                let mut poller = lock(&self.poller);
                poller.answer(batch.id, &answer);
                (poller.take_discarded(), poller.succeeded().len())
            };
            // The receiver lives until all senders are dropped.
            for discarded in discarded {
                extras.send(Extra::Object(self.put(&discarded))).expect("someone takes them");
            }
            if succeeded > 0 && place.random.u32(..8) == 0 {
                extras.send(Extra::Duplicate(place.random.usize(..succeeded))).expect("someone takes them");
            }
        }
        place.leave().await;
    }

    /// Makes the additional deliveries.
    async fn deliver_extras(&self, place: &mut Place<'_>, mut extras: UnboundedReceiver<Extra>) {
        while let Some(extra) = extras.recv().await {
            match extra {
                Extra::Duplicate(which) => {
                    place.run.count("duplicates", 1);
                    let batch = lock(&self.poller).start_duplicate(which);
                    let answer = place.deliver(payload(batch.records.iter().map(|(_, record)| &**record))).await;
                    lock(&self.poller).answer(batch.id, &answer);
                }
                Extra::Object(path) => {
                    place.run.count("objects", 1);
                    let records = read_object(&path);
                    while place.deliver(payload(records.iter().map(|record| &**record))).await != poller::Answer::Responded(vec![]) {}
                    lock(&self.replayed).extend(records.iter().map(|record| number(record)));
                }
            }
        }
        place.leave().await;
    }

    /// Writes records that were given up, as Lambda does.
    /// <https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-errors.html>
    fn put(&self, discarded: &Discarded<Arc<RawValue>>) -> PathBuf {
        let (first, last) = (discarded.records[0].0, discarded.records[discarded.records.len() - 1].0);
        let object = json!({
            "requestContext": { "condition": format!("{:?}", discarded.condition) },
            "responseContext": { "statusCode": 200, "functionError": null },
            "version": "1.0",
            "DDBStreamBatchInfo": {
                "shardId": self.name, "startSequenceNumber": first.to_string(), "endSequenceNumber": last.to_string(),
                "batchSize": discarded.records.len(),
            },
            "payload": payload(discarded.records.iter().map(|(_, record)| &**record)),
        });
        let path = self.bucket.join(format!("{}-{first}.json", self.name));
        std::fs::write(&path, object.to_string()).expect("written");
        path
    }

    /// Fails unless every record is done once: in its batch, or from the bucket.
    fn assert_accounted_for(&self, records: &[Numbered]) {
        let poller = lock(&self.poller);
        assert!(poller.is_idle());
        let done = poller.succeeded().iter().flatten().map(|(number, _)| *number);
        let mut done: Vec<_> = done.chain(lock(&self.replayed).iter().copied()).collect();
        done.sort_unstable();
        assert_eq!(done, records.iter().map(|(number, _)| *number).collect::<Vec<_>>(), "{}", self.name);
    }
}

fn read_object(path: &PathBuf) -> Vec<Box<RawValue>> {
    let sources = input::sources(std::slice::from_ref(path)).expect("an object");
    let records = sources.into_iter().flat_map(|source| source.records().expect("it opens"));
    records.map(|record| record.expect("a record").json).collect()
}

fn number(record: &RawValue) -> u64 {
    let record: Json = serde_json::from_str(record.get()).expect("JSON");
    record["dynamodb"]["SequenceNumber"].as_str().and_then(|number| number.parse().ok()).expect("a number")
}

/// The name of the item that a record belongs to.
fn item(event: &RecordedEvent) -> String {
    format!("{} {}", event.aggregate, event.version)
}

/// Bank and forum in one table: each history in its order, randomly interleaved.
fn both(seed: u64, events: usize) -> Vec<RecordedEvent> {
    let mut random = Rng::with_seed(seed);
    let mut left = [history("bank", seed, events / 2, 32), history("forum", seed, events / 2, 48)].map(Vec::into_iter);
    let mut both = Vec::with_capacity(events);
    while both.len() < events {
        both.extend(left[random.usize(..2)].next());
    }
    both
}

/// The differences between rows, one per line.
fn differences(found: &Everything, expected: &Everything) -> String {
    let mut differences = Vec::new();
    for (projection, expected) in expected {
        let found = &found[projection];
        for key in found.keys().chain(expected.keys()).collect::<BTreeSet<_>>() {
            if found.get(key) != expected.get(key) {
                differences.push(format!("\n{projection} {key}: {:?}, not {:?}", found.get(key), expected.get(key)));
            }
        }
    }
    differences.concat()
}

/// The events of a whole run.
const EVENTS: usize = 10_000;

/// How often things must occur for a whole run to prove anything: about half of how often they do.
const OCCURRED_MIN: [(&str, u64); 28] = [
    // During an invocation.
    ("killed", 200),
    ("killed at a call that is not applied", 30),
    ("killed at a call that is applied", 30),
    ("killed at a call that is applied afterwards", 30),
    ("killed after some time", 15),
    // In addition.
    ("killed at the deadline", 3),
    ("killed after its answer", 5),
    ("answered: all done", 100),
    ("answered: partial", 20),
    ("duplicates", 30),
    ("objects", 4),
    ("logged as healed", 300),
    ("Query", 300),
    ("BatchGetItem", 100),
    ("delayed", 300),
    ("denied", 5),
    ("throttled", 100),
    ("conflict", 100),
    ("broken before", 100),
    ("broken after", 100),
    ("garbage before", 100),
    ("garbage after", 100),
    ("cut before", 100),
    ("answer lost", 100),
    ("answer cut", 100),
    ("late", 100),
    ("applied late", 30),
    ("hung", 3),
];

fn at_least(counts: &BTreeMap<String, u64>, what: &str, times: u64) {
    let count = counts.get(what).copied().unwrap_or_default();
    assert!(count >= times, "{what}: {count} times, and {times} would matter");
}

/// The line that a process logged for its `nth` batch.
fn logged(output: &Output, nth: usize) -> Json {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    lines.filter(|line| line["message"] == "batch").nth(nth).unwrap_or_else(|| panic!("no such batch: {text}"))
}

pub(super) fn batch(events: &[RecordedEvent]) -> String {
    payload(records(events).iter().map(|record| &**record))
}

fn all_done() -> Answer {
    Answer::Response(r#"{"batchItemFailures":[]}"#.to_owned())
}

/// One batch, on a network where every other call meets this fault.
async fn one_batch_amid(name: &'static str) {
    let (world, events) = (World::new().await, both(2, 60));
    let proxy = Proxy::new(&world, move |call| match name {
        // The worker gives up after three seconds.
        "hung" if call.number > 1 => ("", Fault::None),
        _ if call.number % 2 == 0 => ("", Fault::None),
        _ => (name, transient(name, call, &mut choices(2, call.number))),
    })
    .await;
    let mut lambda = Lambda::start_in(environment_at(&proxy.door().await.url)).await;
    assert_eq!(lambda.invoke(batch(&events)).await, all_done(), "{name}");
    let line = logged(&lambda.stop().await, 0);
    proxy.settle().await;
    assert!(proxy.seen()[name] >= if name == "hung" { 1 } else { 5 }, "{:?}", proxy.seen());
    let differences = differences(&world.rows().await, &fold(registry(), &events));
    assert!(differences.is_empty(), "{name}: rows differ:{differences}");
    let told = ["applied", "duplicate", "healed", "failed"].map(|count| line[count].as_u64().expect("a count"));
    assert_eq!(told, [60, 0, 0, 0], "{name}: retrying after a lost answer is not a redelivery");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_single_fault_costs_retries_but_no_invocation() {
    join_all(TRANSIENT.map(one_batch_amid)).await;
}

/// Kills a process at its `nth` call, and returns the next process's log line for the batch.
async fn killed_at(nth: usize, applied: Applied, events: &[RecordedEvent], rows_left: impl AsyncFnOnce(&World)) -> Json {
    let world = World::new().await;
    let proxy = Proxy::new(&world, |_| ("", Fault::None)).await;
    let door = proxy.door().await;
    door.arm(nth, applied);
    let mut lambda = Lambda::start_in(environment_at(&door.url)).await;
    let answer = lambda.invoke_or_kill(SystemTime::now() + PLENTY, batch(events), door.struck()).await;
    assert_eq!((answer, lambda.stop().await.status.code()), (None, None), "{nth} {applied:?}");
    proxy.settle().await;
    rows_left(&world).await;

    let mut lambda = Lambda::start_in(environment_at(&door.url)).await;
    assert_eq!(lambda.invoke(batch(events)).await, all_done());
    let differences = differences(&world.rows().await, &fold(registry(), events));
    assert!(differences.is_empty(), "killed at call {nth}, applied {applied:?}: rows differ:{differences}");
    logged(&lambda.stop().await, 0)
}

#[tokio::test]
async fn the_process_after_a_killed_one_recognises_what_was_applied() {
    // A category concerns one projection.
    let events = [history("forum", 1, 1, 1).remove(0)];
    let row = "description=";
    for (applied, [row, count]) in
        [(Applied::Never, ["", "applied"]), (Applied::Before, [row, "duplicate"]), (Applied::After, [row, "duplicate"])]
    {
        let line = killed_at(1, applied, &events, async |world| {
            let left = world.row("forum-counters", events[0].aggregate.as_str()).await;
            assert!(left.starts_with(row) && left.is_empty() == row.is_empty(), "{applied:?}: {left}");
        });
        assert_eq!(line.await[count], 1, "{applied:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_between_the_writes_of_one_event_loses_and_repeats_nothing() {
    // The topics of each category go into a transaction of their own.
    let events: Vec<_> = history("forum", 2, 20, 3);
    let moments = (1..=3).flat_map(|nth| [Applied::Never, Applied::Before, Applied::After].map(|applied| (nth, applied)));
    join_all(moments.map(|(nth, applied)| killed_at(nth, applied, &events, async |_| {}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_and_a_failing_network_leave_exact_rows() {
    const MAPPINGS: [Settings; 4] = [
        Settings { batch_size: 90, parallelization: 1, retries_max: None, bisect: false },
        Settings { batch_size: 70, parallelization: 2, retries_max: Some(1), bisect: false },
        Settings { batch_size: 120, parallelization: 1, retries_max: None, bisect: true },
        Settings { batch_size: 80, parallelization: 3, retries_max: Some(1), bisect: true },
    ];
    let seed = std::env::var("PROCESSES_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    // For the output of a failed test.
    println!("PROCESSES_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let world = World::new().await;
    let events = both(seed, size(EVENTS / 10, EVENTS));
    world.append_all(&events).await;

    let bucket = tempfile::tempdir().expect("a folder");
    let shards: Vec<_> = MAPPINGS
        .iter()
        .zip(1..)
        .map(|(settings, number)| Shard {
            poller: Mutex::new(Poller::new(*settings)),
            name: format!("shardId-{number}"),
            partitions: settings.parallelization,
            bucket: bucket.path().to_owned(),
            replayed: Mutex::default(),
        })
        .collect();
    let mut homes = BTreeMap::new();
    let mut streams: Vec<Vec<Numbered>> = vec![Vec::new(); shards.len()];
    let mut stream: Vec<_> = events.iter().collect();
    // Events written in one transaction come in any order.
    for together in stream.chunks_mut(4) {
        if random.u32(..4) == 0 {
            random.shuffle(together);
        }
    }
    for (event, number) in stream.into_iter().zip(1..) {
        let home = *homes.entry(&event.aggregate).or_insert_with(|| random.usize(..shards.len()));
        let record: Arc<RawValue> = record(event, number).into();
        lock(&shards[home].poller).push(number, &item(event), record.clone());
        streams[home].push((number, record));
    }

    let run = &Run { proxy: Proxy::new(&world, move |call| storm(seed, call)).await, counts: Mutex::default() };
    let served = shards.iter().map(|shard| {
        let mut random = random.fork();
        async move {
            let (extras, received) = unbounded_channel();
            let mut beside = Place::new(run, random.fork()).await;
            let polled = (0..shard.partitions).zip(std::iter::repeat_n(extras, shard.partitions)).map(|(partition, extras)| {
                let random = random.fork();
                async move { shard.poll(partition, &mut Place::new(run, random).await, extras).await }
            });
            let polled = join_all(polled.collect::<Vec<_>>());
            tokio::join!(polled, shard.deliver_extras(&mut beside, received));
        }
    });
    join_all(served).await;
    run.proxy.settle().await;

    let counts: BTreeMap<_, _> = lock(&run.counts).clone().into_iter().chain(run.proxy.seen()).collect();
    println!("{counts:#?}");
    let differences = differences(&world.rows().await, &fold(registry(), &events));
    assert!(differences.is_empty(), "rows differ:{differences}");
    assert_eq!(world.parked().await, []);
    for (shard, records) in shards.iter().zip(&streams) {
        shard.assert_accounted_for(records);
    }
    let again = world.worker.process(&records(&events), Deadline::NONE).await;
    assert_eq!(again.total.duplicate, events.len() as u64, "each event has counted: {again:?}");
    for (what, times) in OCCURRED_MIN {
        at_least(&counts, what, times * events.len() as u64 / EVENTS as u64);
    }
}
