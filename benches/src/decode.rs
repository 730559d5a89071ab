//! What it takes to make requests of records, against one parse of the same bytes into the type that everybody uses.

use aws_lambda_events::event::dynamodb::Event;
use projection_vocabulary::Registry;
use projection_worker::{Store, Worker, internals::engine::decode::decode};

use crate::{
    Options,
    histories::{accounts, payload},
    measure::{Cost, best, mb, runtime, times, us_each},
    rules::ACCOUNTS,
    table,
    takes_all::TakesAll,
    world::{Payload, names, process},
};

const RECORDS: usize = 10_000;

pub fn run(_: &Options) {
    let runtime = runtime();
    for each in [1, 3, 10] {
        let bytes = payload(&accounts(RECORDS / each, each), 1);
        let records = RECORDS / each * each;
        let parse = best(5, || (), |()| serde_json::from_slice::<Event>(&bytes).expect("an event"));
        let split = best(5, || (), |()| serde_json::from_slice::<Payload<'_>>(&bytes).expect("a payload").records.len());
        let decoded = best(
            5,
            || (),
            |()| {
                let batch: Payload<'_> = serde_json::from_slice(&bytes).expect("a payload");
                batch.records.iter().map(|record| decode(record)).collect::<Vec<_>>()
            },
        );
        let registry = Registry::new(ACCOUNTS);
        let worker = || Worker::new(Store::new(TakesAll, names(registry)), registry);
        let planned = best(5, worker, |worker| runtime.block_on(process(&worker, &bytes)));
        let row = |name: &str, cost: Cost| {
            [
                name.to_owned(),
                us_each(cost.cpu, records),
                times(cost.cpu, parse.cpu),
                (cost.allocations / records as u64).to_string(),
                mb(cost.peak_bytes),
                format!("{:.1}", cost.peak_bytes as f64 / bytes.len() as f64),
            ]
        };
        table::print(
            &format!("{records} records, {} MB, {each} events an aggregate", mb(bytes.len() as u64)),
            ["step", "us a record", "x parse", "allocations", "peak MB", "x payload"],
            [
                row("one parse into aws_lambda_events", parse),
                row("split into records", split),
                row("and decode", decoded),
                row("and plan, and build the requests", planned),
            ],
        );
    }
}
