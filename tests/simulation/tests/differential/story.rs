//! The worker's real requests: its own store, engine and operations, with the answers to every request compared.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use aws_sdk_dynamodb::operation::{
    batch_get_item::{BatchGetItemError, BatchGetItemOutput, builders::BatchGetItemInputBuilder},
    get_item::{GetItemError, GetItemOutput, builders::GetItemInputBuilder},
    put_item::{PutItemError, PutItemOutput, builders::PutItemInputBuilder},
    query::{QueryError, QueryOutput, builders::QueryInputBuilder},
    scan::{ScanError, ScanOutput, builders::ScanInputBuilder},
    transact_get_items::{TransactGetItemsError, TransactGetItemsOutput, builders::TransactGetItemsInputBuilder},
    transact_write_items::{TransactWriteItemsError, TransactWriteItemsOutput, builders::TransactWriteItemsInputBuilder},
    update_item::{UpdateItemError, UpdateItemOutput, builders::UpdateItemInputBuilder},
};
use fastrand::Rng;
use projection_vocabulary::{AggregateId, RecordedEvent, Registry, Timestamp, Value, Version};
use projection_worker::{
    Commands, Worker,
    internals::{
        engine::reproject::Trust,
        operations::{catch_up::catch_up, redrive::redrive},
        retry::Deadline,
        store::{Answer as DynamoAnswer, Dynamo, Store, TableNames, import::Import, item::encode_event},
    },
};
use serde_json::value::RawValue;
use simulation::{
    network::lock,
    purses::{Command, NAMES, PURSES, Purse},
    rules::{DEPLOYMENTS, PART},
    stream::{Delivered, StreamRecord},
};
use tokio::sync::Mutex as Turn;

use crate::{
    Answer, Simulated, align, answer,
    answer::{Operation, Reply, reply},
    emulators::{Emulator, Table},
    known::{Case, KNOWN},
    operations::Step,
};

const EVENTS: &str = "event-store";
const PARKED: &str = "parked";
/// The worker's tables.
pub const TABLES: [Table; 5] = [
    (EVENTS, "PK", Some("SK")),
    (PARKED, "aggregateId", Some("projection")),
    ("ledger", "id", None),
    ("shelves", "id", Some(PART)),
    ("peak", "id", None),
];

/// How often each operation had each result.
pub type Tally = BTreeMap<(&'static str, String), usize>;

/// Two databases that must give the same answers. The caller gets the simulated one's.
pub struct Both {
    simulated: Simulated,
    emulator: Emulator,
    /// One request at a time, so that requests arrive in the same order at both.
    turn: Turn<()>,
    /// Known differences and results so far.
    pub met: Mutex<(Vec<usize>, Tally)>,
}

impl Both {
    /// An empty simulated database and this emulator.
    pub fn new(emulator: Emulator) -> Arc<Self> {
        let met = Mutex::new((vec![0; KNOWN.len()], Tally::new()));
        Arc::new(Self { simulated: Simulated::new(&TABLES), emulator, turn: Turn::new(()), met })
    }

    async fn compare(&self, operation: Operation, said: Reply) {
        let then_read = written(&operation).into_iter().map(|table| (table, None)).collect();
        let step = Step { operation, then_read };
        let mut ours = Answer { reply: said, contents: Vec::new() };
        for (table, limit) in &step.then_read {
            ours.contents.push(self.simulated.contents(table, *limit).await);
        }
        let theirs = answer(&self.emulator, &step).await;
        let known = (ours != theirs).then(|| {
            let case = Case { operation: &step.operation, ours: &ours, theirs: &theirs };
            let known = KNOWN.iter().position(|known| known.of == self.emulator.kind && (known.applies)(&case));
            known.unwrap_or_else(|| {
                panic!(
                    "the worker sends {:?}\nsimulated: {}\n{:?}: {}",
                    step.operation,
                    ours.unlike(&theirs),
                    self.emulator.kind,
                    theirs.unlike(&ours)
                )
            })
        });
        if let Some(known) = known {
            self.met.lock().expect("no test continues after a panic").0[known] += 1;
            align(&self.emulator, &self.simulated, &TABLES).await;
        }
        let end = match &ours.reply {
            Reply::Refused(code, ..) => code.clone(),
            _ => "done".to_owned(),
        };
        *self.met.lock().expect("no test continues after a panic").1.entry((step.operation.name(), end)).or_default() += 1;
    }
}

/// The tables that an operation writes to.
fn written(operation: &Operation) -> Vec<&'static str> {
    let names: Vec<_> = match operation {
        Operation::UpdateItem(update) => update.get_table_name().iter().cloned().collect(),
        Operation::PutItem(put) => put.get_table_name().iter().cloned().collect(),
        Operation::TransactWriteItems(transaction) => {
            let actions = transaction.get_transact_items().iter().flatten();
            let tables = actions.filter_map(|action| {
                let update = action.update.as_ref().map(|update| &update.table_name);
                let put = action.put.as_ref().map(|put| &put.table_name);
                update.or(put).or(action.delete.as_ref().map(|delete| &delete.table_name)).cloned()
            });
            tables.collect()
        }
        _ => Vec::new(),
    };
    TABLES.into_iter().map(|(name, ..)| name).filter(|table| names.iter().any(|name| name == table)).collect()
}

/// The worker's connection to both.
struct End(Arc<Both>);

macro_rules! calls {
    ($($variant:ident $call:ident $input:ident $output:ident $error:ident;)*) => {
        impl Dynamo for End {
            $(
                fn $call(&self, input: $input) -> DynamoAnswer<'_, $output, $error> {
                    Box::pin(async move {
                        let _turn = self.0.turn.lock().await;
                        let answer = self.0.simulated.line.$call(input.clone());
                        self.0.simulated.pass();
                        let answer = answer.await;
                        self.0.compare(Operation::$variant(input), reply(&answer)).await;
                        answer
                    })
                }
            )*
        }
    };
}

calls! {
    BatchGetItem batch_get_item BatchGetItemInputBuilder BatchGetItemOutput BatchGetItemError;
    GetItem get_item GetItemInputBuilder GetItemOutput GetItemError;
    PutItem put_item PutItemInputBuilder PutItemOutput PutItemError;
    Query query QueryInputBuilder QueryOutput QueryError;
    Scan scan ScanInputBuilder ScanOutput ScanError;
    TransactGetItems transact_get_items TransactGetItemsInputBuilder TransactGetItemsOutput TransactGetItemsError;
    TransactWriteItems transact_write_items TransactWriteItemsInputBuilder TransactWriteItemsOutput TransactWriteItemsError;
    UpdateItem update_item UpdateItemInputBuilder UpdateItemOutput UpdateItemError;
}

/// Appends, commands, deliveries in any order and number, poison events and operations; the same for the same seed.
pub async fn tell(both: &Arc<Both>, seed: u64, chapters: usize) {
    // Ids of requests.
    fastrand::seed(seed);
    projection_worker::internals::store::seed_ids(seed);
    let mut story = Story { rng: Rng::with_seed(seed), both: both.clone(), records: Vec::new(), facts: 0 };
    for _ in 0..chapters {
        story.chapter().await;
    }
    story.end().await;
}

struct Story {
    rng: Rng,
    both: Arc<Both>,
    /// The records to deliver.
    records: Vec<Delivered>,
    facts: u64,
}

const AGGREGATES: [&str; 4] = ["ann", "bob", "north", "south"];

impl Story {
    fn store(&self) -> Store {
        let projections = DEPLOYMENTS[0].iter().map(|rule| (rule.name(), rule.name().to_owned())).collect();
        Store::new(End(self.both.clone()), TableNames { event_store: EVENTS.to_owned(), parked: PARKED.to_owned(), projections })
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.rng.usize(..choices.len())]
    }

    async fn chapter(&mut self) {
        let deployment = if self.rng.u8(..4) == 0 { self.rng.usize(..DEPLOYMENTS.len()) } else { 0 };
        let worker = Worker::new(self.store(), Registry::new(DEPLOYMENTS[deployment]));
        let aggregate = AggregateId::from(self.of(&AGGREGATES));
        match self.rng.u8(..12) {
            0..4 => self.append(worker.store(), &aggregate).await,
            4 => self.import(worker.store(), &aggregate).await,
            5..8 => {
                let mut batch: Vec<_> =
                    (0..self.rng.usize(1..8)).filter_map(|_| self.rng.choice(&self.records).map(|record| record.0.raw.clone())).collect();
                if self.rng.u8(..6) == 0 {
                    batch.push(RawValue::from_string(format!(r#"{{"eventID": "odd-{}"}}"#, self.rng.u8(..3))).expect("it is JSON"));
                }
                _ = worker.process(&batch, Deadline::NONE).await;
            }
            8 => {
                let trust = self.of(&[Trust::Row, Trust::Store]);
                let rule = self.of(DEPLOYMENTS[deployment]);
                _ = catch_up(&worker, rule, &aggregate, trust, Deadline::NONE).await;
                _ = worker.store().visible_rows(rule).await;
            }
            9 | 10 => self.command(worker.store()).await,
            _ => {
                for parked in worker.store().parked().await.unwrap_or_default() {
                    _ = redrive(&worker, &parked, Trust::Row, Deadline::NONE).await;
                }
            }
        }
        self.stream();
    }

    /// Turns the writes into records.
    fn stream(&mut self) {
        let changes = std::mem::take(&mut lock(&self.both.simulated.network).database.changes);
        for (table, _, before, after) in changes.into_iter().flat_map(|written| written.items) {
            let order = self.records.len() as u64;
            let record = after.filter(|_| table == EVENTS).and_then(|after| StreamRecord::of(before.as_ref(), &after, order, order));
            self.records.extend(record.map(|record| Delivered(Arc::new(record))));
        }
    }

    fn event(&mut self, aggregate: &AggregateId, version: u64) -> RecordedEvent {
        self.facts += 1;
        let amount =
            self.of(&["1", "-2", "0.25", "1.50", "12345678901234567890.12345678", "99999999999999999999999999999999999999", "1E-7"]);
        let (event_type, data) = match self.rng.u8(..17) {
            0..2 => ("Opened", format!(r#"{{"amount": {amount}}}"#)),
            2..6 => ("Added", format!(r#"{{"amount": {amount}}}"#)),
            6 => ("Flawed", "{}".to_owned()),
            7 | 8 => ("Put", format!(r#"{{"shelf": "{}", "count": {}}}"#, self.of(&["north", "south"]), self.rng.u64(..5))),
            9 => ("Moved", r#"{"from": "north", "to": "south"}"#.to_owned()),
            10 => ("Cleared", "{}".to_owned()),
            11 => ("Stamped", "{}".to_owned()),
            12 | 13 => ("Spread", format!(r#"{{"rows": {}, "count": {amount}}}"#, self.of(&[2, 98, 101]))),
            14 => ("Filed", format!(r#"{{"pages": {}}}"#, self.of(&[3, 3, 98, 101]))),
            15 => ("Shredded", "{}".to_owned()),
            _ => ("Unheard", r#"{"anything": ["", true, null]}"#.to_owned()),
        };
        self.event_of(aggregate, version, event_type, data)
    }

    fn event_of(&self, aggregate: &AggregateId, version: u64, event_type: &str, data: String) -> RecordedEvent {
        let data = RawValue::from_string(data).expect("it is JSON");
        let data = Value::from_json(&data).expect("it is a value");
        RecordedEvent {
            aggregate: aggregate.clone(),
            version: Version(version),
            event_id: format!("event-{}", self.facts).into(),
            event_type: event_type.into(),
            data,
            timestamp: Timestamp::from_epoch_ms(1_700_000_000_000 + i64::try_from(self.facts).expect("they are few"))
                .expect("it is an instant"),
            metadata: None,
        }
    }

    /// Two amounts that make no number together meet in one transaction.
    async fn end(&mut self) {
        let (worker, first) = (Worker::new(self.store(), Registry::new(DEPLOYMENTS[0])), self.records.len());
        for (id, amount) in [("cid", "99999999999999999999999999999999999999"), ("dot", "1.5")] {
            self.facts += 1;
            let event = self.event_of(&id.into(), 1, "Spread", format!(r#"{{"rows": 2, "count": {amount}}}"#));
            _ = worker.store().append(Version::NONE, &[event]).await;
            self.stream();
        }
        let batch: Vec<_> = self.records[first..].iter().map(|record| record.0.raw.clone()).collect();
        _ = worker.process(&batch, Deadline::NONE).await;
    }

    /// Sometimes based on a version that is not the current one.
    async fn append(&mut self, store: &Store, aggregate: &AggregateId) {
        let Ok(mut expected) = store.current_version(aggregate).await else { return };
        if self.rng.u8(..6) == 0 {
            expected = Version(self.rng.u64(..=expected.0 + 1));
        }
        let events: Vec<_> = (1..=self.rng.u64(1..4)).map(|at| self.event(aggregate, expected.0 + at)).collect();
        _ = store.append(expected, &events).await;
    }

    /// Sometimes with an id that another command has, and sometimes on the condition of another purse.
    async fn command(&mut self, store: &Store) {
        const PURSE: &Purse<1> = &Purse;
        let (purse, other) = (self.of(&PURSES), self.of(&PURSES));
        let command = match self.rng.u8(..4) {
            0 => Command::Gain { coins: self.rng.i64(1..9) },
            1 => Command::Spend { coins: self.rng.i64(1..9) },
            2 => Command::Name { name: self.of(&NAMES).to_owned() },
            _ => Command::Look,
        };
        let commands = Commands::new(store);
        let mut together = commands.together().id(format!("command-{}", self.rng.u8(..30))).command(PURSE, purse, &command);
        if other != purse {
            together = if self.rng.bool() {
                together.command(PURSE, other, &Command::Gain { coins: 1 })
            } else {
                together.requires(PURSE, other, |state| if Purse::<1>::coins(state) > 2 { Ok(()) } else { Err("poor".to_owned()) })
            };
        }
        _ = together.handle().await;
    }

    /// An item from a capture, which may not be a readable event or an item.
    async fn import(&mut self, store: &Store, aggregate: &AggregateId) {
        let Ok(current) = store.current_version(aggregate).await else { return };
        let version = current.0 + self.rng.u64(..3);
        let mut item = encode_event(&self.event(aggregate, version.max(1)));
        match self.rng.u8(..4) {
            0 => _ = item.remove("eventType"),
            1 => _ = item.insert("odd".to_owned(), aws_sdk_dynamodb::types::AttributeValue::Ss(Vec::new())),
            _ => {}
        }
        _ = store.import(&[Import { aggregate: aggregate.clone(), events: vec![(Version(version.max(1)), item)] }]).await;
    }
}
