//! What an order costs through its process, against the usual saga: one row with a step counter that is updated after each step, commands
//! without ids, and nothing that could prove what happened. Both are counted by the same meter.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnConsumedCapacity};
use projection_vocabulary::process::{ProcessRule, ProcessStatus};
use projection_worker::Usage;
use projections::shop::{
    Item, Status,
    order::{self, Order},
    order_fulfilment::OrderFulfilment,
    shipment::{self, Shipment},
    stock::{self, Stock},
};

use super::*;

const RULES: &[&dyn DynProjection] = &[&ProcessRule(OrderFulfilment), &ProcessStatus];

async fn shop(deposit: &str) -> Bank {
    let bank = Bank::of(RULES, Calls::new()).await;
    bank.open("ann", deposit).await;
    bank.commands().to(&Stock, "tea").handle(&stock::Command::Receive { quantity: 10 }).await.expect("received");
    let items = vec![Item { product_id: "tea".to_owned(), quantity: 1, price: "5".parse().expect("a price") }];
    let place = order::Command::Place { user_id: "u1".to_owned(), items, account_id: Some("ann".to_owned()) };
    bank.commands().to(&Order, "o1").handle(&place).await.expect("placed");
    bank
}

fn spent(bank: &Bank, before: Usage) -> (u64, f64, f64) {
    let usage = bank.world.worker.store().usage() - before;
    (usage.requests, usage.write_units, usage.read_units)
}

/// What the worker spends on an order, without what places it and dispatches it. The scans that bring the events are not counted.
async fn through_the_process(bank: &mut Bank, dispatched: bool) -> (u64, f64, f64) {
    let mut all = (0, 0.0, 0.0);
    let mut shipped = !dispatched;
    loop {
        let events = bank.next().await;
        if events.is_empty() && shipped {
            return all;
        }
        if events.is_empty() {
            bank.commands().to(&Shipment, "shipment-o1").handle(&shipment::Command::Dispatch {}).await.expect("dispatched");
            shipped = true;
            continue;
        }
        let before = bank.world.worker.store().usage();
        let report = bank.world.worker.process(&records(&events), Deadline::NONE).await;
        assert_eq!((report.total.failed, report.total.parked), (0, 0), "{:?}", report.reasons);
        let spent = spent(bank, before);
        all = (all.0 + spent.0, all.1 + spent.1, all.2 + spent.2);
    }
}

/// The step counter of the usual saga: written at first, and after each step.
async fn note_step(bank: &Bank, step: i32) -> f64 {
    let request = bank.world.embedded.client().update_item().table_name("process-status");
    let request = request.key("id", AttributeValue::S("saga/o1".to_owned())).key("timer", AttributeValue::S(" ".to_owned()));
    let request = request.update_expression("SET step = :step").expression_attribute_values(":step", AttributeValue::N(step.to_string()));
    let done = request.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await.expect("updated");
    done.consumed_capacity.and_then(|used| used.capacity_units).expect("asked for")
}

/// The commands of a happy order without ids, each followed by the step counter.
async fn usual_saga(bank: &Bank) -> (u64, f64, f64) {
    let before = bank.world.worker.store().usage();
    let mut counter = (1, note_step(bank, 0).await);
    let commands = bank.commands();
    let amount = "5".parse().expect("an amount");
    let order_id = || "o1".to_owned();
    commands.to(&Stock, "tea").handle(&stock::Command::Reserve { order_id: order_id(), quantity: 1 }).await.expect("reserved");
    counter = (counter.0 + 1, counter.1 + note_step(bank, 1).await);
    commands.to(&Account, "ann").handle(&Command::Withdraw { amount }).await.expect("paid");
    counter = (counter.0 + 1, counter.1 + note_step(bank, 2).await);
    let items = vec![Item { product_id: "tea".to_owned(), quantity: 1, price: "5".parse().expect("a price") }];
    commands.to(&Shipment, "shipment-o1").handle(&shipment::Command::Create { order_id: order_id(), items }).await.expect("created");
    commands.to(&Order, "o1").handle(&order::Command::ChangeStatus { status: Status::Paid }).await.expect("paid");
    counter = (counter.0 + 1, counter.1 + note_step(bank, 3).await);
    commands.to(&Stock, "tea").handle(&stock::Command::Ship { order_id: order_id() }).await.expect("shipped");
    commands.to(&Order, "o1").handle(&order::Command::ChangeStatus { status: Status::Shipped }).await.expect("shipped");
    counter = (counter.0 + 1, counter.1 + note_step(bank, 4).await);
    let (requests, write_units, read_units) = spent(bank, before);
    (requests + counter.0, write_units + counter.1, read_units)
}

#[tokio::test]
async fn an_order_costs_what_the_documentation_says() {
    let mut happy = shop("100").await;
    let happy = through_the_process(&mut happy, true).await;
    let mut refused = shop("1").await;
    let refused = through_the_process(&mut refused, false).await;
    let usual = usual_saga(&shop("100").await).await;
    // Requests, write units and read units.
    assert_eq!(happy, (50, 138.0, 28.0), "one that completes");
    assert_eq!(refused, (33, 86.0, 15.0), "one that is refused for funds, and undone");
    assert_eq!(usual, (17, 35.0, 6.0), "the usual saga");
}
