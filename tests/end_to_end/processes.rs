//! Processes: what is delivered to instances, what they send, and what becomes of it, on the embedded DynamoDB.

mod calls;
mod costs;
mod faults;
mod operations;
mod protocol;

use projection_vocabulary::{
    Decimal, DynProjection, RecordedEvent, process,
    sample::{Fact, record},
};
use projection_worker::{
    CallError, Calls, Commands, Worker,
    internals::{
        engine::report::Report,
        operations::processes::{WithHistory, show},
        retry::Deadline,
        store::events::Stored,
    },
};
use projections::bank::{
    account::{Account, Command},
    transfer::Transfer,
};
use serde_json::{Value as Json, json};

use crate::support::{
    payouts::{MENDED, NEWER, PAYOUTS, request},
    stream::{Feed, all_events},
    world::{World, record as as_record, records},
};

/// A bank whose events reach the worker as its stream brings them.
struct Bank {
    world: World,
    feed: Feed,
}

impl Bank {
    async fn with(calls: Calls) -> Self {
        Self::of(PAYOUTS, calls).await
    }

    async fn of(rules: &'static [&'static dyn DynProjection], calls: Calls) -> Self {
        let mut world = World::with(projection_vocabulary::Registry::new(rules)).await;
        world.worker = world.worker.with_calls(calls);
        Self { world, feed: Feed::default() }
    }

    /// A bank whose wire always works.
    async fn new() -> Self {
        Self::with(wire(|_, _| Ok(json!({ "receipt": 1 })))).await
    }

    fn commands(&self) -> Commands<'_> {
        Commands::new(self.world.worker.store())
    }

    async fn open(&self, account: &str, deposit: &str) {
        let initial_deposit = deposit.parse().expect("a test's amount");
        self.commands().to(&Account, account).handle(&Command::Open { initial_deposit }).await.expect("opened");
    }

    async fn close(&self, account: &str) {
        self.commands().to(&Account, account).handle(&Command::Close).await.expect("closed");
    }

    async fn request(&self, transfer: &str, from: &str, to: &str, amount: &str) {
        self.commands().to(&Transfer, transfer).handle(&request(from, to, amount)).await.expect("requested");
    }

    /// The receipt of the far bank.
    async fn receipt(&self, id: &str, of: &str) {
        let data = projection_vocabulary::Value::Map([("of".to_owned(), of.into())].into());
        let fact = Fact { aggregate: id.into(), event_type: "ReceiptArrived", data };
        self.world.append_all(&record([fact]).collect::<Vec<_>>()).await;
    }

    async fn balance(&self, account: &str) -> Decimal {
        self.commands().load(&Account, account).await.expect("readable").state.balance
    }

    async fn events(&self) -> Vec<RecordedEvent> {
        all_events(self.world.worker.store()).await
    }

    /// What the stream has not brought yet.
    async fn next(&mut self) -> Vec<RecordedEvent> {
        self.feed.next(self.world.worker.store()).await
    }

    /// Lets the worker process what the stream brings, until it brings nothing more.
    async fn run(&mut self) -> Report {
        let mut all = Report::default();
        loop {
            let events = self.next().await;
            if events.is_empty() {
                return all;
            }
            all.add(self.world.worker.process(&records(&events), Deadline::NONE).await);
        }
    }

    async fn instance(&self, transfer: &str) -> WithHistory {
        let process = PAYOUTS[0].process().expect("it is one");
        let aggregate = format!("payouts/{transfer}").as_str().into();
        show(self.world.worker.store(), process, &aggregate, Deadline::NONE).await.expect("readable").expect("it exists")
    }

    /// What has happened to an instance, one line each.
    async fn timeline(&self, transfer: &str) -> String {
        let WithHistory { instance, events } = self.instance(transfer).await;
        events.iter().map(|event| process::told(event, &instance) + "\n").collect()
    }

    async fn status(&self, transfer: &str) -> &'static str {
        self.instance(transfer).await.instance.status().as_str()
    }
}

/// The far bank: it is told the idempotency key and the payout.
fn wire(answer: impl Fn(&str, &Json) -> Result<Json, CallError> + Send + Sync + 'static) -> Calls {
    let answer = std::sync::Arc::new(answer);
    Calls::new().on("wire", move |key: String, payout: projection_vocabulary::Value| {
        let answer = answer.clone();
        async move {
            let payout = serde_json::from_str(payout.to_json().get()).expect("JSON");
            let answered = answer(&key, &payout)?;
            let raw = serde_json::value::to_raw_value(&answered).expect("JSON");
            projection_vocabulary::Value::from_json(&raw).map_err(|error| CallError::failed(error.to_string()))
        }
    })
}

/// One event as a record of its own.
async fn deliver(worker: &Worker, event: &RecordedEvent) -> Report {
    worker.process(&[as_record(event, 1)], Deadline::NONE).await
}
