//! A whole batch that is delivered again: to the worker that did it, and to one that knows nothing of it.

use std::time::Duration;

use crate::{
    Options,
    histories::{accounts, payload},
    measure::{measure_async, runtime, us_each, usage_each},
    rules::ACCOUNTS,
    table,
    world::{World, process},
};

const RECORDS: usize = 1_000;

pub fn run(_: &Options) {
    let runtime = runtime();
    let mut rows = Vec::new();
    for each in [1, 3, 10] {
        let events = RECORDS / each * each;
        let payload = payload(&accounts(RECORDS / each, each), 1);
        let world = runtime.block_on(World::new(ACCOUNTS, Duration::ZERO));
        let another = world.another_worker(ACCOUNTS);
        for (delivery, worker) in
            [("first", &world.worker), ("again, to the same worker", &world.worker), ("again, to another worker", &another)]
        {
            let (before, beyond) = (worker.store().usage(), world.network.beyond());
            let (report, cost) = measure_async(&runtime, process(worker, &payload));
            assert_eq!(report.total.duplicate == report.records, delivery != "first", "each event counts once");
            let [requests, write_units, read_units] = usage_each(worker.store().usage() - before, events);
            let cpu = us_each(cost.cpu - (world.network.beyond() - beyond), events);
            rows.push([each.to_string(), delivery.to_owned(), requests, write_units, read_units, cpu]);
        }
    }
    table::print(
        &format!("A batch of {RECORDS} records, per event"),
        ["events an aggregate", "delivery", "requests", "write units", "read units", "us CPU"],
        rows,
    );
}
