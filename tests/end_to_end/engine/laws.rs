//! The laws: however events are delivered, rows equal the pure fold.

use projection_vocabulary::{DynProjection, RecordedEvent, Registry};
use projection_worker::internals::engine::report::Checkpoint;
use proptest::prelude::*;

use crate::{
    size,
    support::world::{LISTS, ONE_EACH, World, fold, history},
};

/// A history delivered in any batches and order, partly more than once and partly not at all.
#[derive(Debug, Clone)]
struct Delivery {
    domain: &'static str,
    seed: u64,
    events: usize,
    aggregates: usize,
    batch: usize,
    shuffle: u64,
    again: usize,
    drop_every: usize,
}

fn deliveries(domain: &'static str) -> impl Strategy<Value = Delivery> {
    (Just(domain), any::<u64>(), 1..120_usize, 1..25_usize, 1..40_usize, any::<u64>(), 0..30_usize, 0..8_usize).prop_map(
        |(domain, seed, events, aggregates, batch, shuffle, again, drop_every)| Delivery {
            domain,
            seed,
            events,
            aggregates,
            batch,
            shuffle,
            again,
            drop_every,
        },
    )
}

// Any split into batches, any order within and across them, redeliveries, and lost records.
proptest! {
    #![proptest_config(ProptestConfig { cases: u32::try_from(size(32, 512)).expect("a small number"), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_delivery_of_a_bank_history_yields_the_fold(delivery in deliveries("bank")) {
        run(deliver(ONE_EACH, delivery));
    }

    #[test]
    fn any_delivery_of_a_forum_history_yields_the_fold(delivery in deliveries("forum")) {
        run(deliver(ONE_EACH, delivery));
    }

    #[test]
    fn any_delivery_of_a_bank_history_yields_the_child_rows_of_the_fold(delivery in deliveries("bank")) {
        run(deliver(LISTS, delivery));
    }

    #[test]
    fn any_delivery_of_a_forum_history_yields_the_child_rows_of_the_fold(delivery in deliveries("forum")) {
        run(deliver(LISTS, delivery));
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

async fn deliver(rules: &'static [&'static dyn DynProjection], delivery: Delivery) {
    let registry = Registry::new(rules);
    let concerned = |events: &[RecordedEvent]| {
        let concerns = |event: &&RecordedEvent| rules.iter().any(|rule| rule.event_types().contains(&&*event.event_type));
        events.iter().filter(concerns).count() as u64
    };
    let Delivery { domain, seed, events, aggregates, batch, shuffle, again, drop_every } = delivery;
    let events = history(domain, seed, events, aggregates);
    let world = World::with(registry).await;
    world.append_all(&events).await;
    let mut random = fastrand::Rng::with_seed(shuffle);
    let mut stream = events.clone();
    stream.extend((0..again).map(|_| events[random.usize(..events.len())].clone()));
    random.shuffle(&mut stream);
    if drop_every > 1 {
        // Any record may be lost except an aggregate's last: no later event would reveal that gap.
        let is_last = |at: usize| !events[at + 1..].iter().any(|later| later.aggregate == events[at].aggregate);
        let lost: Vec<_> = (0..events.len()).step_by(drop_every).filter(|at| !is_last(*at)).map(|at| events[at].event_id.clone()).collect();
        stream.retain(|event| !lost.contains(&event.event_id));
    }
    let (mut applied, mut healed) = (0, 0);
    for batch in stream.chunks(batch) {
        let report = world.process(batch).await;
        assert_eq!((report.total.failed, report.total.parked, report.checkpoint), (0, 0, Checkpoint::None), "{:?}", report.reasons);
        applied += report.total.applied;
        healed += report.total.healed;
    }
    assert_eq!(world.rows().await, fold(registry, &events));
    assert_eq!(applied + healed, concerned(&events), "each event counts once");
    let report = world.process(&stream).await;
    assert_eq!(
        (report.total.applied, report.total.healed, report.total.duplicate),
        (0, 0, concerned(&stream)),
        "a second delivery changes nothing"
    );
    assert_eq!(world.rows().await, fold(registry, &events));
}
