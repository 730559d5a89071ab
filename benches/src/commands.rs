//! Commands with short and long histories, and the reads of a service.

use std::{sync::Arc, time::Duration};

use projection_vocabulary::{Decider, IndexOf, RecordedEvent};
use projection_worker::{Commands, Queries, Store, internals::store::append::APPEND_EVENTS_MAX};
use projections::{
    bank::{
        Event,
        account::{Account, Command, Refusal, State},
    },
    forum::forum_counters::ForumCounters,
};
use serde::de::IgnoredAny;
use tokio::runtime::Runtime;

use crate::{
    Options,
    histories::{accounts, payload, rounds_of_topics},
    measure::{measure_async, runtime, us_each, usage_each},
    rules::{ACCOUNTS, FORUM},
    table,
    world::{World, names, process},
};

/// How often each is done.
const TIMES: usize = 100;

/// The same account without snapshots.
struct Unabridged;

impl Decider for Unabridged {
    type State = State;
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;
    const KIND: &str = "account";

    fn decide(&self, state: &State, command: &Command) -> Result<Vec<Event>, Refusal> {
        Account.decide(state, command)
    }

    fn evolve(&self, state: &mut State, event: &Event) {
        Account.evolve(state, event);
    }
}

pub fn run(_: &Options) {
    let mut rows = Vec::new();
    for events in [10, 10_000] {
        rows.push(command(&format!("command after {events} events, with an id"), &Account, events, true));
        rows.push(command(&format!("command after {events} events, without an id"), &Account, events, false));
        rows.push(command("the same without snapshots", &Unabridged, events, false));
    }
    rows.extend(reads());
    table::print("Each", ["what", "requests", "write units", "read units", "us CPU"], rows);
}

fn command<D: Decider<Command = Command>>(name: &str, decider: &'static D, events: usize, with_id: bool) -> [String; 5] {
    let runtime = runtime();
    let world = runtime.block_on(World::new(ACCOUNTS, Duration::ZERO));
    let history = accounts(1, events);
    runtime.block_on(append(world.worker.store(), &history));
    let aggregate = history[0].aggregate.as_str();
    let deposit = Command::Deposit { amount: "1".parse().expect("an amount") };
    let handle = async |id: String| {
        let to = Commands::new(world.worker.store()).to(decider, aggregate);
        let to = if with_id { to.id(id) } else { to };
        assert!(to.handle(&deposit).await.is_ok(), "it is carried out");
    };
    // The first one finds no snapshot.
    runtime.block_on(handle("first".to_owned()));
    each(name, &runtime, &world, world.worker.store(), async {
        for at in 0..TIMES {
            handle(format!("command-{at}")).await;
        }
    })
}

async fn append(store: &Store, history: &[RecordedEvent]) {
    for batch in history.chunks(APPEND_EVENTS_MAX) {
        store.append(batch[0].version.previous(), batch).await.expect("appended");
    }
}

fn reads() -> Vec<[String; 5]> {
    let runtime = runtime();
    let world = runtime.block_on(World::new(FORUM, Duration::ZERO));
    let rounds = rounds_of_topics(2, 200, 10);
    for round in &rounds {
        let mut round = round.clone();
        round.sort_by_key(|event| event.aggregate.clone());
        for history in round.chunk_by(|one, other| one.aggregate == other.aggregate) {
            runtime.block_on(append(world.worker.store(), history));
        }
    }
    // The second round has not reached the rows.
    runtime.block_on(process(&world.worker, &payload(&rounds[0], 1)));
    let store = Arc::new(Store::new(world.client(), names(world.worker.registry())));
    let queries = Queries::new(store.clone());
    let topics: IndexOf<ForumCounters> = ForumCounters::TOPICS_BY_CATEGORY;
    let page = each("page of 100 rows of an index", &runtime, &world, &store, async {
        for _ in 0..TIMES {
            let page =
                queries.rows(&ForumCounters).index(topics).of(["category-0000"]).page::<IgnoredAny>(100, None).await.expect("a page");
            assert_eq!(page.rows.len(), 100);
        }
    });
    let get = |fresh: bool| {
        let name = if fresh { "fresh row, 10 events behind" } else { "row by its key" };
        each(name, &runtime, &world, &store, async {
            for at in 0..TIMES {
                let row = queries.rows(&ForumCounters).get::<IgnoredAny>(format!("topic-{at:06}"));
                let row = if fresh { row.fresh() } else { row };
                let row = row.await.expect("readable").expect("a row");
                assert_eq!(row.version.map(|version| version.0), Some(if fresh { 20 } else { 10 }));
            }
        })
    };
    vec![page, get(false), get(true)]
}

fn each(name: &str, runtime: &Runtime, world: &World, store: &Store, work: impl Future<Output = ()>) -> [String; 5] {
    let (before, beyond) = (store.usage(), world.network.beyond());
    let ((), cost) = measure_async(runtime, work);
    let [requests, write_units, read_units] = usage_each(store.usage() - before, TIMES);
    [name.to_owned(), requests, write_units, read_units, us_each(cost.cpu - (world.network.beyond() - beyond), TIMES)]
}
