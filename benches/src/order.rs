//! An order through its process: what is placed, reserved, paid, shipped and told, one event after the other.

use std::{collections::BTreeSet, time::Duration};

use projection_vocabulary::{
    DynProjection, RecordedEvent,
    process::{ProcessRule, ProcessStatus},
};
use projection_worker::{
    Commands, Deadline, Store, Usage,
    internals::store::{events::Stored, segment::Segment},
};
use projections::{
    bank::account::{Account, Command},
    shop::{
        Item,
        order::{self, Order},
        order_fulfilment::OrderFulfilment,
        shipment::{self, Shipment},
        stock::{self, Stock},
    },
};

use crate::{
    Options,
    histories::payload,
    measure::{measure_async, runtime},
    table,
    world::{World, process},
};

const RULES: &[&dyn DynProjection] = &[&ProcessRule(OrderFulfilment), &ProcessStatus];

pub fn run(_: &Options) {
    let rows = [("shipped", "100"), ("undone, for lack of funds", "1")].map(|(name, funds)| {
        let runtime = runtime();
        let world = runtime.block_on(placed(funds));
        let mut usage = Usage::default();
        let mut cpu = Duration::ZERO;
        let (mut seen, mut batches, mut dispatched, mut position) = (BTreeSet::new(), 0, funds == "1", 1);
        loop {
            let events = runtime.block_on(next(world.worker.store(), &mut seen));
            if events.is_empty() && dispatched {
                break;
            }
            if events.is_empty() {
                let dispatch = Commands::new(world.worker.store()).to(&Shipment, "shipment-o1").handle(&shipment::Command::Dispatch {});
                assert!(runtime.block_on(dispatch).is_ok(), "it can be dispatched");
                dispatched = true;
                continue;
            }
            let (before, beyond) = (world.worker.store().usage(), world.network.beyond());
            let payload = payload(&events, position);
            let (_, cost) = measure_async(&runtime, process(&world.worker, &payload));
            usage += world.worker.store().usage() - before;
            cpu += cost.cpu - (world.network.beyond() - beyond);
            batches += 1;
            position += events.len() as u64;
        }
        let ms = format!("{:.1}", cpu.as_secs_f64() * 1e3);
        [name.to_owned(), batches.to_string(), usage.requests.to_string(), usage.write_units.to_string(), usage.read_units.to_string(), ms]
    });
    table::print("One order of one product", ["order", "batches", "requests", "write units", "read units", "ms CPU"], rows);
}

/// An order that waits for the worker, of somebody with these funds.
async fn placed(funds: &str) -> World {
    let world = World::new(RULES, Duration::ZERO).await;
    let commands = Commands::new(world.worker.store());
    let initial_deposit = funds.parse().expect("an amount");
    commands.to(&Account, "ann").handle(&Command::Open { initial_deposit }).await.expect("opened");
    commands.to(&Stock, "tea").handle(&stock::Command::Receive { quantity: 10 }).await.expect("received");
    let items = vec![Item { product_id: "tea".to_owned(), quantity: 1, price: "5".parse().expect("a price") }];
    let place = order::Command::Place { user_id: "u1".to_owned(), items, account_id: Some("ann".to_owned()) };
    commands.to(&Order, "o1").handle(&place).await.expect("placed");
    world
}

/// The events that the stream has not brought yet.
async fn next(store: &Store, seen: &mut BTreeSet<(String, u64)>) -> Vec<RecordedEvent> {
    let (page, _) = store.scan_events(Segment::ALL, None, Deadline::NONE).await.expect("readable");
    let events = page.into_iter().filter_map(|(_, stored)| if let Stored::Event(event) = stored { Some(event) } else { None });
    events.filter(|event| seen.insert((event.aggregate.to_string(), event.version.0))).collect()
}
