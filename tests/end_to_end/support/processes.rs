//! Requests that processes work off, the deliveries that they need, and timers that run out.

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{Decider, HOME_SORT};
use projection_worker::{Commands, Worker, internals::retry::Deadline};
use projections::{
    bank::{
        account::{self, Account},
        transfer::{self, Transfer},
    },
    shop::{
        Item,
        order::{self, Order},
        stock::{self, Stock},
    },
};
use serde_json::value::RawValue;

use super::{
    runtime_api::{Lambda, batch, done},
    stream::stream,
    world::World,
};

/// How many records a delivery holds.
const BATCH: usize = 100;

/// What has been delivered of the event store's stream.
#[derive(Default)]
pub struct Poller(usize);

impl Poller {
    /// Delivers the stream to the function until nothing new is in it: what processes send goes on as an event.
    pub async fn deliver(&mut self, world: &World, lambda: &mut Lambda) {
        while let Some(records) = self.next(world).await {
            for records in records.chunks(BATCH) {
                assert_eq!(lambda.invoke(batch(records)).await, done());
            }
        }
    }

    async fn next(&mut self, world: &World) -> Option<Vec<Box<RawValue>>> {
        let records = stream(world).await;
        let new = records.get(self.0..).filter(|new| !new.is_empty())?;
        self.0 = records.len();
        Some(new.iter().map(|record| serde_json::value::to_raw_value(record).expect("JSON")).collect())
    }
}

/// The same for a worker without a function.
pub async fn work_off(world: &World, worker: &Worker) {
    let mut poller = Poller::default();
    while let Some(records) = poller.next(world).await {
        let report = worker.process(&records, Deadline::NONE).await;
        assert_eq!((report.total.failed, report.total.parked), (0, 0), "{:?}", report.reasons);
    }
}

/// Carries out a command that is accepted.
pub async fn command<D: Decider>(world: &World, decider: &'static D, aggregate: &str, command: &D::Command) {
    let handled = Commands::new(world.worker.store()).to(decider, aggregate).handle(command).await;
    if let Err(error) = handled {
        panic!("{aggregate}: {error}");
    }
}

/// Requests that are new for each `name`: transfers of which one completes, one is refused and one is undone, and orders of which one waits
/// for its shipment and one is refused for stock.
pub async fn requests(world: &World, name: &str) {
    let [payer, receiver, product] = ["payer", "receiver", "product"].map(|what| format!("{what}-{name}"));
    let amount = |text: &str| text.parse().expect("an amount");
    for (account, initial) in [(&payer, "100"), (&receiver, "0")] {
        command(world, &Account, account, &account::Command::Open { initial_deposit: amount(initial) }).await;
    }
    command(world, &Stock, &product, &stock::Command::Receive { quantity: 10 }).await;
    for (id, to, sum) in [("good", receiver.as_str(), "10"), ("too-much", &receiver, "1000"), ("to-nobody", "nobody", "10")] {
        let request = transfer::Command::Request { from: payer.clone(), to: to.to_owned(), amount: amount(sum) };
        command(world, &Transfer, &format!("transfer-{id}-{name}"), &request).await;
    }
    for (id, quantity) in [("good", 2), ("too-many", 1_000)] {
        let items = vec![Item { product_id: product.clone(), quantity, price: amount("1") }];
        let place = order::Command::Place { user_id: "ann".to_owned(), items, account_id: Some(payer.clone()) };
        command(world, &Order, &order_of(id, name), &place).await;
    }
}

/// The order of [`requests`] with this id.
pub fn order_of(id: &str, name: &str) -> String {
    format!("order-{id}-{name}")
}

/// When everything here is long over.
const LONG_AGO: &str = "2026-01-01T00:00:00.000Z";

/// Makes each timer that runs due, as if the time had passed, and returns how many these are.
pub async fn make_timers_due(world: &World) -> usize {
    let rows = world.embedded.client();
    let timers = rows.scan().table_name("process-status").send().await.expect("rows").items.unwrap_or_default();
    let timers: Vec<_> = timers.into_iter().filter(|row| row["timer"] != AttributeValue::S(HOME_SORT.to_owned())).collect();
    for timer in &timers {
        set_long_ago(world, ["id", "timer"].map(|name| timer[name].clone()), "due").await;
    }
    timers.len()
}

/// Makes an instance old.
pub async fn begin_long_ago(world: &World, instance: &str) {
    set_long_ago(world, [instance, HOME_SORT].map(|text| AttributeValue::S(text.to_owned())), "startedAt").await;
}

async fn set_long_ago(world: &World, [id, timer]: [AttributeValue; 2], time: &str) {
    let update = world.embedded.client().update_item().table_name("process-status").key("id", id).key("timer", timer);
    let update = update.update_expression("SET #time = :time").expression_attribute_names("#time", time);
    update.expression_attribute_values(":time", AttributeValue::S(LONG_AGO.to_owned())).send().await.expect("updated");
}

/// The status of an instance, as its row has it.
pub async fn status_of(world: &World, instance: &str) -> Option<String> {
    let key = [("id", instance), ("timer", HOME_SORT)].map(|(name, text)| (name.to_owned(), AttributeValue::S(text.to_owned())));
    let row = world.embedded.client().get_item().table_name("process-status").set_key(Some(key.into())).send().await.expect("read");
    let status = row.item?.remove("status")?;
    status.as_s().ok().cloned()
}
