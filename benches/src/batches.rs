//! Whole batches through the worker, against the loop that everybody writes: one `ADD` for each record.

use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_sdk_dynamodb::{
    Client,
    types::{AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType},
};
use aws_smithy_runtime_api::client::{http::HttpConnector as _, orchestrator::HttpRequest};
use futures::{StreamExt as _, stream};
use serde::Deserialize;

use crate::{
    Options,
    histories::{payloads, rounds_of_accounts},
    measure::{a_second, measure_async, runtime, us_each, usage_each},
    rules::ACCOUNTS,
    table,
    world::{World, process},
};

/// The events of an account in each batch.
const EACH: usize = 10;
/// What a batch of the loop has under way at once: as much as the worker.
const AT_ONCE: usize = 32;
const BALANCES: &str = "balances";

pub fn run(_: &Options) {
    println!("The database alone takes {:.0} updates a second.\n", raw_rate(10_000));
    let ways = [
        (Way::Http, 10_000, "over HTTP, from a thread of its own"),
        (Way::Here(Duration::ZERO), 10_000, "in this process"),
        (Way::Here(Duration::from_millis(5)), 2_000, "in this process, 5 ms a request"),
    ];
    for (way, events, told) in ways {
        let one = one_after_another(way, events.min(1_000));
        let rows = [100, 1_000, 10_000].map(|batch| row(batch, way, events, one));
        table::print(
            &format!(
                "Batches with {EACH} events of each account; the database {told}. The loop, one after another: {one:.0} events a second."
            ),
            ["batch", "events/s", "x loop", "x one by one", "us CPU an event", "of the loop", "requests", "write units"],
            rows,
        );
    }
}

/// The way to the database.
#[derive(Clone, Copy)]
enum Way {
    /// In this process and on the same thread, each request to which takes this time.
    Here(Duration),
    /// Over HTTP.
    Http,
}

impl Way {
    async fn world(self) -> World {
        match self {
            Self::Here(latency) => World::new(ACCOUNTS, latency).await,
            Self::Http => World::served(ACCOUNTS).await,
        }
    }
}

fn row(batch: usize, way: Way, events: usize, one_by_one: f64) -> [String; 8] {
    let runtime = runtime();
    let rounds = (events / batch).max(2);
    let payloads = payloads(rounds_of_accounts(rounds, batch / EACH, EACH).iter().map(Vec::as_slice));
    let events = rounds * batch;
    let world = runtime.block_on(way.world());
    let (before, beyond) = (world.worker.store().usage(), world.network.beyond());
    let ((), ours) = measure_async(&runtime, async {
        for payload in &payloads {
            process(&world.worker, payload).await;
        }
    });
    let (usage, beyond) = (world.worker.store().usage() - before, world.network.beyond() - beyond);
    let (loops, loop_cpu) = the_loop(way, &payloads, AT_ONCE, events);
    let rate = a_second(ours.wall, events);
    let [requests, write_units, _] = usage_each(usage, events);
    [
        batch.to_string(),
        format!("{rate:.0}"),
        format!("{:.1}", rate / loops),
        format!("{:.1}", rate / one_by_one),
        us_each(ours.cpu - beyond, events),
        us_each(loop_cpu, events),
        requests,
        write_units,
    ]
}

fn one_after_another(way: Way, events: usize) -> f64 {
    let payloads = payloads(rounds_of_accounts(1, events / EACH, EACH).iter().map(Vec::as_slice));
    the_loop(way, &payloads, 1, events).0
}

/// The events a second of the loop, and its CPU time without the database's.
fn the_loop(way: Way, payloads: &[Vec<u8>], at_once: usize, events: usize) -> (f64, Duration) {
    let runtime = runtime();
    let world = runtime.block_on(way.world());
    let client = world.client();
    runtime.block_on(create_table(&client));
    let beyond = world.network.beyond();
    let ((), cost) = measure_async(&runtime, async {
        for payload in payloads {
            let batch: Event = serde_json::from_slice(payload).expect("an event");
            stream::iter(batch.records).map(|record| add(&client, record)).buffer_unordered(at_once).collect::<()>().await;
        }
    });
    (a_second(cost.wall, events), cost.cpu - (world.network.beyond() - beyond))
}

/// What the loop reads of an event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    aggregate_id: String,
    event_data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(alias = "initialDeposit")]
    amount: f64,
}

/// The loop's body: nothing tells it whether the record was counted before.
async fn add(client: &Client, record: EventRecord) {
    let stored: Stored = serde_dynamo::from_item(record.change.new_image).expect("an account's event");
    let update = client.update_item().table_name(BALANCES).key("accountId", AttributeValue::S(stored.aggregate_id));
    let update = update
        .update_expression("ADD balance :amount")
        .expression_attribute_values(":amount", AttributeValue::N(stored.event_data.amount.to_string()));
    update.send().await.expect("added");
}

async fn create_table(client: &Client) {
    let key =
        AttributeDefinition::builder().attribute_name("accountId").attribute_type(ScalarAttributeType::S).build().expect("an attribute");
    let schema = KeySchemaElement::builder().attribute_name("accountId").key_type(KeyType::Hash).build().expect("a key");
    let create = client.create_table().table_name(BALANCES).attribute_definitions(key).key_schema(schema);
    create.billing_mode(BillingMode::PayPerRequest).send().await.expect("created");
}

/// Updates a second without the SDK: the requests are made beforehand.
fn raw_rate(updates: usize) -> f64 {
    let runtime = runtime();
    let world = runtime.block_on(World::new(ACCOUNTS, Duration::ZERO));
    runtime.block_on(create_table(&world.client()));
    let connector = world.connector();
    let requests: Vec<_> = (0..updates).map(|at| raw_update(at % 1_000)).collect();
    let ((), cost) = measure_async(&runtime, async {
        for request in requests {
            let answer = connector.call(request).await.expect("an answer");
            assert!(answer.status().is_success(), "{answer:?}");
        }
    });
    a_second(cost.wall, updates)
}

fn raw_update(account: usize) -> HttpRequest {
    let body = serde_json::json!({
        "TableName": BALANCES, "Key": { "accountId": { "S": format!("account-{account}") } }, "UpdateExpression": "ADD balance :amount",
        "ExpressionAttributeValues": { ":amount": { "N": "1" } },
    });
    let mut request = HttpRequest::new(body.to_string().into());
    request.set_method("POST").expect("a method");
    request.headers_mut().insert("x-amz-target", "DynamoDB_20120810.UpdateItem");
    request
}
