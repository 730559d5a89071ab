//! One category whose topics are in the batches of several workers at once: all add to the same row, or to shards of it.

use std::time::Duration;

use futures::future::join_all;
use projection_vocabulary::DynProjection;
use projection_worker::Usage;

use crate::{
    Options,
    histories::{payloads, rounds_of_topics},
    measure::{a_second, measure_async, runtime, usage_each},
    rules::{FORUM, Sharded},
    table,
    world::{World, try_process},
};

type Rules = &'static [&'static dyn DynProjection];

const ROUNDS: usize = 10;
/// Events of each topic in a batch.
const EACH: usize = 5;
const WORKERS: usize = 8;
const SHARDS: [(u32, Rules); 5] =
    [(1, FORUM), (4, &[&Sharded::<4>]), (16, &[&Sharded::<16>]), (64, &[&Sharded::<64>]), (99, &[&Sharded::<99>])];

pub fn run(_: &Options) {
    table::print(
        "20 topics of the same category in each worker's batches of 100, 5 ms a request. Transactions of one row conflict.",
        ["workers", "events/s", "conflicts a batch", "requests an event", "write units an event"],
        [1, 2, 4, 8].map(|workers| measured(workers.to_string(), FORUM, workers, 20)),
    );
    for topics in [20, 1] {
        table::print(
            &format!("The category's row in shards: {WORKERS} workers with {topics} of its topics in each batch of {}.", topics * EACH),
            ["shards", "events/s", "conflicts a batch", "requests an event", "write units an event"],
            SHARDS.map(|(shards, rules)| measured(shards.to_string(), rules, WORKERS, topics)),
        );
    }
}

fn measured(name: String, rules: Rules, workers: usize, topics_each: usize) -> [String; 5] {
    let runtime = runtime();
    let world = runtime.block_on(World::new(rules, Duration::from_millis(5)));
    // Each worker has topics of its own, as each shard of the stream has.
    let rounds = rounds_of_topics(ROUNDS, workers * topics_each, EACH);
    let events: usize = rounds.iter().map(Vec::len).sum();
    let in_batch = topics_each * EACH;
    let streams: Vec<_> = (0..workers)
        .map(|worker| {
            let of_worker = rounds.iter().map(|round| &round[worker * in_batch..][..in_batch]);
            (world.another_worker(rules), payloads(of_worker))
        })
        .collect();
    let ((), cost) = measure_async(&runtime, async {
        join_all(streams.iter().map(|(worker, payloads)| async move {
            for payload in payloads {
                // As Lambda does, until all of it is counted: a worker may lose every race for half a minute.
                while try_process(worker, payload).await.total.failed > 0 {}
            }
        }))
        .await;
    });
    let mut all = Usage::default();
    for (worker, _) in streams {
        all += worker.store().usage();
    }
    let [requests, write_units, _] = usage_each(all, events);
    let batches = f64::from(u32::try_from(workers * ROUNDS).expect("few batches"));
    let conflicts = all.conflicts as f64 / batches;
    [name, format!("{:.0}", a_second(cost.wall, events)), format!("{conflicts:.2}"), requests, write_units]
}
