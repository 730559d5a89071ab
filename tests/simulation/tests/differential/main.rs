//! Compares the simulated database with two other implementations of DynamoDB, operation by operation.
//!
//! A simulation proves something about the worker on the simulated database only. So this test sends the same operations to that database
//! and, through the SDK, to the embedded emulator and to a moto server. Everything that a caller can observe must be the same: items, keys
//! to continue from, error codes, reasons of a cancelled transaction, and after each write the contents of the tables. [`known::KNOWN`]
//! lists the exceptions.

mod answer;
mod emulators;
mod known;
mod operations;
mod story;

use std::{
    collections::HashSet,
    fmt::Write as _,
    io::Write as _,
    sync::{Arc, Mutex},
};

use answer::{Contents, Reply, ask, contents, scan};
use emulators::{Emulator, Kind, Moto, Table};
use known::{Case, KNOWN};
use operations::{EVENTS, ROWS, Step, sequence};
use simulation::network::{Line, Network, lock};

const TABLES: [Table; 2] = [(ROWS, "id", None), (EVENTS, "PK", Some("SK"))];
const SEQUENCE_LENGTH: usize = 40;

/// What a caller can observe: the reply, and the contents of the tables afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    reply: Reply,
    contents: Vec<Contents>,
}

impl Answer {
    /// With every number replaced.
    fn map(&self, number: fn(&str) -> String) -> Self {
        Self { reply: self.reply.map(number), contents: self.contents.iter().map(|contents| contents.map(number)).collect() }
    }
}

impl Answer {
    /// The differences from the other answer, in a few lines.
    fn unlike(&self, other: &Self) -> String {
        let mut text = format!("{:?}", self.reply);
        for (ours, theirs) in self.contents.iter().zip(&other.contents).filter(|(ours, theirs)| ours != theirs) {
            _ = write!(text, "\n  pages of {:?}, and in the table:", ours.pages);
            for item in ours.items.iter().filter(|item| !theirs.items.contains(item)) {
                _ = write!(text, "\n  {item:?}");
            }
        }
        text
    }
}

/// The simulated database, on a network without delay.
struct Simulated {
    network: Arc<Mutex<Network>>,
    line: Line,
}

impl Simulated {
    fn new(tables: &[Table]) -> Self {
        let network = Arc::<Mutex<Network>>::default();
        for (name, partition, sort) in tables {
            lock(&network).database.create_table(name, partition, *sort);
        }
        Self { line: Line::new(network.clone(), "test"), network }
    }

    /// Delivers the request that was just sent, and its answer.
    fn pass(&self) {
        let mut network = lock(&self.network);
        network.arrive(0);
        network.deliver(0);
    }

    async fn answer(&self, step: &Step) -> Answer {
        let reply = ask(&self.line, &step.operation);
        self.pass();
        let mut answer = Answer { reply: reply.await, contents: Vec::new() };
        for (table, limit) in &step.then_read {
            answer.contents.push(self.contents(table, *limit).await);
        }
        answer
    }

    async fn contents(&self, table: &str, limit: Option<i32>) -> Contents {
        let scan = |request| {
            let page = scan(&self.line, request);
            self.pass();
            page
        };
        contents(scan, table, limit).await
    }
}

async fn answer(emulator: &Emulator, step: &Step) -> Answer {
    let mut answer = Answer { reply: ask(&emulator.client, &step.operation).await, contents: Vec::new() };
    for (table, limit) in &step.then_read {
        answer.contents.push(contents(|request| scan(&emulator.client, request), table, *limit).await);
    }
    answer
}

/// Copies the contents of the simulated database to the emulator, after a known difference.
async fn align(emulator: &Emulator, simulated: &Simulated, tables: &[Table]) {
    emulator.empty(tables).await;
    for (table, ..) in tables {
        let items: Vec<_> = lock(&simulated.network).database.items(table).map(|(_, item)| item.clone()).collect();
        for item in items {
            emulator.put(table, item).await;
        }
    }
}

/// Two different answers.
struct Mismatch {
    at: usize,
    ours: Answer,
    theirs: Answer,
}

/// Sends the operations to both. Counts the known differences.
async fn compare(emulator: &Emulator, steps: &[Step], met: &mut [usize]) -> Result<(), Box<Mismatch>> {
    let simulated = Simulated::new(&TABLES);
    let mut spoilt = HashSet::new();
    for (at, step) in steps.iter().enumerate() {
        // One database has executed this transaction and the other has not.
        if step.operation.token().is_some_and(|token| spoilt.contains(token)) {
            continue;
        }
        let (ours, theirs) = (simulated.answer(step).await, answer(emulator, step).await);
        if ours == theirs {
            continue;
        }
        let case = Case { operation: &step.operation, ours: &ours, theirs: &theirs };
        let Some(known) = KNOWN.iter().position(|known| known.of == emulator.kind && (known.applies)(&case)) else {
            return Err(Box::new(Mismatch { at, ours, theirs }));
        };
        met[known] += 1;
        spoilt.extend(step.operation.token());
        align(emulator, &simulated, &TABLES).await;
    }
    Ok(())
}

/// Removes the operations that the mismatch does not need.
async fn smaller(fresh: impl AsyncFn() -> Emulator, mut steps: Vec<Step>) -> (Vec<Step>, Box<Mismatch>) {
    let mut met = vec![0; KNOWN.len()];
    let mut found = compare(&fresh().await, &steps, &mut met).await.expect_err("it differed before");
    steps.truncate(found.at + 1);
    for at in (0..steps.len() - 1).rev() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        if let Err(mismatch) = compare(&fresh().await, &fewer, &mut met).await {
            fewer.truncate(mismatch.at + 1);
            (steps, found) = (fewer, mismatch);
        }
    }
    (steps, found)
}

async fn all_sequences_agree(kind: Kind, sequences: u64, fresh: impl AsyncFn() -> Emulator) {
    let mut met = vec![0; KNOWN.len()];
    for seed in 0..sequences {
        let steps = sequence(seed, SEQUENCE_LENGTH);
        if compare(&fresh().await, &steps, &mut met).await.is_err() {
            let (steps, mismatch) = smaller(fresh, steps).await;
            let mut report = format!("seed {seed}: the simulated database and {kind:?} differ in the last of these\n");
            for step in steps {
                _ = writeln!(report, "  {:?}", step.operation);
            }
            panic!("{report}simulated: {}\n{kind:?}: {}", mismatch.ours.unlike(&mismatch.theirs), mismatch.theirs.unlike(&mismatch.ours));
        }
    }
    for (known, met) in KNOWN.iter().zip(&met).filter(|(known, _)| known.of == kind) {
        println!("{met} times: {} ({})", known.what, known.source);
        // Too few seeds do not meet the rare ones.
        assert!(*met > 0 || !nightly(), "no operation meets this difference any more, remove it from the list: {}", known.what);
    }
}

#[tokio::test]
async fn the_simulated_database_answers_as_the_embedded_emulator() {
    all_sequences_agree(Kind::Embedded, size(60, 600), async || Emulator::embedded(&TABLES).await).await;
}

#[tokio::test]
async fn the_simulated_database_answers_as_moto() {
    let Some(server) = moto() else { return };
    all_sequences_agree(Kind::Moto, size(10, 200), async || Emulator::moto(&server, &TABLES).await).await;
}

#[tokio::test]
async fn what_the_worker_sends_is_answered_as_by_the_embedded_emulator() {
    let mut tally = story::Tally::new();
    for seed in 0..size(10, 100) {
        let both = story::Both::new(Emulator::embedded(&story::TABLES).await);
        story::tell(&both, seed, 40).await;
        for (end, times) in &both.met.lock().expect("no test continues after a panic").1 {
            *tally.entry(end.clone()).or_default() += times;
        }
    }
    println!("{tally:#?}");
    let ends = |operation: &str| tally.keys().filter(|(of, _)| *of == operation).map(|(_, end)| end.as_str()).collect::<Vec<_>>();
    assert_eq!(ends("UpdateItem"), ["ConditionalCheckFailedException", "ValidationException", "done"]);
    assert_eq!(ends("TransactWriteItems"), ["TransactionCanceledException", "ValidationException", "done"]);
    // By itself, the worker puts only answers that change nothing.
    assert_eq!(ends("PutItem").last(), Some(&"done"));
    for read in ["BatchGetItem", "GetItem", "Query", "Scan"] {
        assert_eq!(ends(read), ["done"], "{read}");
    }
}

#[tokio::test]
async fn what_the_worker_sends_is_answered_as_by_moto() {
    let Some(server) = moto() else { return };
    for seed in 0..size(2, 20) {
        let both = story::Both::new(Emulator::moto(&server, &story::TABLES).await);
        story::tell(&both, seed, 40).await;
    }
}

/// Whether `.ci/nightly` runs this.
fn nightly() -> bool {
    std::env::var_os("PROOF").is_some_and(|proof| proof == "nightly")
}

/// How many seeds a test takes: the first number before every change, the second under `.ci/nightly`.
fn size(gate: u64, at_night: u64) -> u64 {
    if nightly() { at_night } else { gate }
}

/// A moto server. `None` if it cannot be started here; with `CI` set, that is a failure.
fn moto() -> Option<Moto> {
    match Moto::start() {
        Ok(server) => Some(server),
        Err(why) if std::env::var_os("CI").is_none() => {
            // Not captured by the test runner.
            _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: moto cannot be started, so nothing is compared with it: {why}\n");
            None
        }
        Err(why) => panic!("moto cannot be started: {why}"),
    }
}
