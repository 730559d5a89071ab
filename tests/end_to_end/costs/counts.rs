//! Requests, write units and read units.

use projection_vocabulary::{DynProjection, RecordedEvent, Registry};
use projection_worker::{
    Commands, Usage, Worker,
    internals::{
        operations::{
            rebuild::{
                Task,
                segment::{Resume, SegmentRebuild},
            },
            verify::{Options, Repair, verify},
        },
        retry::Deadline,
        store::segment::Segment,
    },
};
use projections::{
    bank::{
        account::{Account, Command},
        account_summary::AccountSummary,
    },
    forum::forum_counters::ForumCounters,
};

use crate::support::{
    histories::{accounts, popular_topics, rounds_of_accounts, rounds_of_topics},
    world::{World, record},
};

const ACCOUNTS: &[&dyn DynProjection] = &[&AccountSummary];
const FORUM: &[&dyn DynProjection] = &[&ForumCounters];

/// Requests, write units and read units.
type Cost = (u64, f64, f64);

fn since(worker: &Worker, before: Usage) -> Cost {
    let Usage { requests, write_units, read_units, .. } = worker.store().usage() - before;
    (requests, write_units, read_units)
}

async fn processed(worker: &Worker, batches: &[Vec<RecordedEvent>]) -> Cost {
    let before = worker.store().usage();
    let mut position = 1;
    for batch in batches {
        let records: Vec<_> = batch.iter().zip(position..).map(|(event, position)| record(event, position)).collect();
        position += batch.len() as u64;
        let report = worker.process(&records, Deadline::NONE).await;
        assert_eq!(report.total.applied + report.total.duplicate, report.records, "{:?}", report.reasons);
    }
    since(worker, before)
}

async fn world(rules: &'static [&'static dyn DynProjection]) -> World {
    World::with(Registry::new(rules)).await
}

/// The least that is possible: one write for each account.
#[tokio::test]
async fn a_batch_costs_one_write_unit_for_each_account() {
    let world = world(ACCOUNTS).await;
    assert_eq!(processed(&world.worker, &rounds_of_accounts(3, 100, 10)).await, (300, 300.0, 0.0), "3,000 events");
}

#[tokio::test]
async fn a_batch_that_is_delivered_again_costs_a_read_for_a_hundred_accounts() {
    let world = world(ACCOUNTS).await;
    let batch = [accounts(1_000, 1)];
    assert_eq!(processed(&world.worker, &batch).await, (1_000, 1_000.0, 0.0));
    assert_eq!(processed(&world.worker, &batch).await, (10, 0.0, 1_000.0), "to the same worker");
    // It learns from the first ones, which are refused.
    assert_eq!(processed(&world.worker_of(ACCOUNTS), &batch).await, (42, 32.0, 968.0), "to another worker");
}

/// Twenty topics and their category are one transaction of 21 rows, at two units each.
#[tokio::test]
async fn topics_of_one_category_share_a_transaction() {
    let world = world(FORUM).await;
    // The first round has the topics' creation, and index entries.
    assert_eq!(processed(&world.worker, &rounds_of_topics(5, 20, 5)).await, (5, 250.0, 0.0), "500 events");
}

#[tokio::test]
async fn a_forum_where_some_topics_are_popular() {
    let world = world(FORUM).await;
    let batches: Vec<_> = popular_topics(2_000, 1).chunks(100).map(<[_]>::to_vec).collect();
    assert_eq!(processed(&world.worker, &batches).await, (359, 3_766.0, 0.0), "2,000 events");
}

#[tokio::test]
async fn rebuilding_reads_each_event_once_and_writes_each_row_once() {
    let world = world(ACCOUNTS).await;
    world.append_all(&accounts(100, 10)).await;
    let before = world.worker.store().usage();
    let mut rebuild = SegmentRebuild::new(&world.worker, &AccountSummary, Task::Rebuild, Segment::ALL, Resume::default());
    while rebuild.step(Deadline::NONE).await.expect("rebuilt") {}
    assert_eq!(since(&world.worker, before), (102, 100.0, 179.0), "100 rows of 1,000 events");
    let before = world.worker.store().usage();
    let how = Options { segments: 1, sample: None, repair: Repair::Nothing };
    let verified = verify(&world.worker, &AccountSummary, how, Deadline::NONE).await.expect("verified");
    assert!(verified.is_clean());
    assert_eq!(since(&world.worker, before), (4, 0.0, 285.0), "and verifying reads both");
}

#[tokio::test]
async fn a_command_costs_a_read_and_a_transaction() {
    let world = world(ACCOUNTS).await;
    let commands = Commands::new(world.worker.store());
    let open = Command::Open { initial_deposit: "5".parse().expect("an amount") };
    let before = world.worker.store().usage();
    commands.to(&Account, "ann").id("1").handle(&open).await.expect("opened");
    assert_eq!(since(&world.worker, before), (2, 7.0, 1.0), "the events and the answer");
}
