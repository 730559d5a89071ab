//! One category whose topics are in the batches of several workers at once: all add to the same row.

use std::time::Duration;

use futures::future::join_all;
use projection_worker::Usage;

use crate::{
    Options,
    histories::{payloads, rounds_of_topics},
    measure::{a_second, measure_async, runtime, usage_each},
    rules::FORUM,
    table,
    world::{World, try_process},
};

const TOPICS_EACH: usize = 20;
const ROUNDS: usize = 10;

pub fn run(_: &Options) {
    let rows = [1, 2, 4, 8].map(|workers| {
        let runtime = runtime();
        let world = runtime.block_on(World::new(FORUM, Duration::from_millis(5)));
        // Each worker has topics of its own, as each shard has.
        let rounds = rounds_of_topics(ROUNDS, workers * TOPICS_EACH, 5);
        let events: usize = rounds.iter().map(Vec::len).sum();
        let shards: Vec<_> = (0..workers)
            .map(|worker| {
                let of_worker = rounds.iter().map(|round| &round[worker * TOPICS_EACH * 5..][..TOPICS_EACH * 5]);
                (world.another_worker(FORUM), payloads(of_worker))
            })
            .collect();
        let ((), cost) = measure_async(&runtime, async {
            join_all(shards.iter().map(|(worker, payloads)| async move {
                for payload in payloads {
                    // As Lambda does, until all of it is counted: a worker may lose every race for half a minute.
                    while try_process(worker, payload).await.total.failed > 0 {}
                }
            }))
            .await;
        });
        let mut all = Usage::default();
        for (worker, _) in shards {
            all += worker.store().usage();
        }
        let [requests, write_units, _] = usage_each(all, events);
        let batches = f64::from(u32::try_from(workers * ROUNDS).expect("few batches"));
        let conflicts = all.conflicts as f64 / batches;
        [workers.to_string(), format!("{:.0}", a_second(cost.wall, events)), format!("{conflicts:.2}"), requests, write_units]
    });
    table::print(
        &format!(
            "{TOPICS_EACH} topics of the same category in each worker's batches of {}, 5 ms a request. Transactions of one row conflict.",
            TOPICS_EACH * 5
        ),
        ["workers", "events/s", "conflicts a batch", "requests an event", "write units an event"],
        rows,
    );
}
