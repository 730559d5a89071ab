//! Topics and their category, which they share: what is written, against the fewest writes that could do it.

use std::{collections::BTreeSet, time::Duration};

use projection_vocabulary::{DynProjection, RecordedEvent, Value};

use crate::{
    Options,
    histories::{TOPICS, payloads, popular_topics, rounds_of_accounts, rounds_of_topics},
    measure::{measure_async, per, runtime, us_each, usage_each},
    rules::{ACCOUNTS, FORUM},
    table,
    world::{World, process},
};

pub fn run(_: &Options) {
    let of_a_forum = |name: String, batches: Vec<Vec<RecordedEvent>>, first: usize| {
        let floor = floor(&batches[first..]);
        row(name, FORUM, &batches, first, Some(floor))
    };
    let popular: Vec<_> = popular_topics(10_000, 1).chunks(100).map(<[_]>::to_vec).collect();
    let mut rows =
        vec![of_a_forum(format!("forum F: {TOPICS} topics a category, 500 topics, as popular as 1/n; batches of 100"), popular, 0)];
    for topics in [1, 5, 20, 95] {
        rows.push(of_a_forum(format!("{topics} topics of one category, 5 events each in a batch"), rounds_of_topics(20, topics, 5), 1));
    }
    rows.push(row("accounts: batches of 1,000 with 10 events each".to_owned(), ACCOUNTS, &rounds_of_accounts(10, 100, 10), 0, None));
    table::print(
        "Per event. The floor: two units for each row that a batch changes, in as few transactions as hold them; without indexes. Of the \
         topics of one category, the batch that creates them is left out: it also writes their index entries.",
        ["history", "requests", "write units", "floor of units", "us CPU"],
        rows,
    );
}

/// Does not count the first batches.
fn row(
    name: String,
    rules: &'static [&'static dyn DynProjection],
    batches: &[Vec<RecordedEvent>],
    first: usize,
    floor: Option<f64>,
) -> [String; 5] {
    let runtime = runtime();
    let events: usize = batches[first..].iter().map(Vec::len).sum();
    let world = runtime.block_on(World::new(rules, Duration::ZERO));
    let payloads = payloads(batches.iter().map(Vec::as_slice));
    let (first, payloads) = payloads.split_at(first);
    runtime.block_on(async {
        for payload in first {
            process(&world.worker, payload).await;
        }
    });
    let (before, beyond) = (world.worker.store().usage(), world.network.beyond());
    let ((), cost) = measure_async(&runtime, async {
        for payload in payloads {
            process(&world.worker, payload).await;
        }
    });
    let [requests, write_units, _] = usage_each(world.worker.store().usage() - before, events);
    let floor = floor.map_or_else(|| "1 a row".to_owned(), |floor| format!("{floor:.3}"));
    [name, requests, write_units, floor, us_each(cost.cpu - (world.network.beyond() - beyond), events)]
}

/// Two units for each topic and each category that a batch has events of.
fn floor(batches: &[Vec<RecordedEvent>]) -> f64 {
    let mut rows = 0;
    for batch in batches {
        let topics: BTreeSet<_> = batch.iter().map(|event| event.aggregate.clone()).collect();
        let categories: BTreeSet<_> = batch.iter().map(category).collect();
        rows += topics.len() + categories.len();
    }
    2.0 * per(f64::from(u32::try_from(rows).expect("few rows")), batches.iter().map(Vec::len).sum())
}

fn category(event: &RecordedEvent) -> Option<String> {
    let Value::Map(data) = &event.data else { return None };
    data.get("categoryId").map(ToString::to_string)
}
