//! What reads all events: import, rebuild, verify, catch-up, and a rebuild from an export.

#[path = "../../tests/end_to_end/support/export.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod export;

use std::time::Duration;

use futures::future::join_all;
use projection_vocabulary::{DynProjection, RecordedEvent, sample::record};
use projection_worker::{
    Deadline, Usage,
    internals::{
        embedded::Embedded,
        operations::{
            import::{BulkImport, Captured},
            rebuild::{
                Rebuild, Task,
                segment::{Resume, SegmentRebuild},
            },
            verify::{Options as HowToVerify, Repair, verify},
        },
        sources::export::Export,
        store::{item::encode_event, segment::Segment},
    },
};
use tokio::runtime::Runtime;

use crate::{
    Options,
    measure::{Cost, a_second, mb, measure_async, runtime, times, us_each, usage_each},
    rules::{ACCOUNTS, FORUM},
    table,
    world::World,
};

/// The events of an aggregate, on average.
const EACH: usize = 13;
/// What is read at once.
const SEGMENTS: u32 = 8;
/// Events of an export at a time, as the command line takes them.
const PAGE_EVENTS: usize = 2_000;

pub fn run(options: &Options) {
    for (domain, rules) in [("bank", ACCOUNTS), ("forum", FORUM)] {
        let rows = of_domain(domain, rules, options.events);
        table::print(
            &format!("{}: {} events, {EACH} of an aggregate on average; in a file", rules[0].name(), options.events),
            ["operation", "events/s", "x rebuild", "us CPU an event", "requests", "write units", "peak MB"],
            rows,
        );
    }
}

fn of_domain(domain: &str, rules: &'static [&'static dyn DynProjection], count: usize) -> Vec<[String; 7]> {
    let runtime = runtime();
    let folder = tempfile::tempdir().expect("a folder");
    let open = |name: &str| Embedded::file(&folder.path().join(name)).expect("a database");
    let events = made_up(domain, count);
    let world = runtime.block_on(World::on(open("events.db"), rules, Duration::ZERO));
    let import = measured(&runtime, &world, import(&world, &events));
    let items: Vec<_> = events.iter().map(encode_event).collect();
    let exported = export::write_export(&folder.path().join("bucket"), 4, &items);
    drop((items, events));

    let rebuild = measured(&runtime, &world, each_segment(&world, rules[0], Task::Rebuild));
    let verified = measured(&runtime, &world, async {
        let how = HowToVerify { segments: SEGMENTS, sample: None, repair: Repair::Nothing };
        let verified = verify(&world.worker, rules[0], how, Deadline::NONE).await.expect("verified");
        assert!(verified.is_clean() && verified.events > 0, "{verified:?}");
    });
    let catch_up = measured(&runtime, &world, each_segment(&world, rules[0], Task::CatchUp));
    let empty = runtime.block_on(World::on(open("rows.db"), rules, Duration::ZERO));
    let from_export = measured(&runtime, &empty, async {
        let export = Export::open(&exported).expect("an export");
        let mut sorted = export.sort(Some(folder.path()), |_| {}).expect("sorted");
        let mut rebuild = Rebuild::new(&empty.worker, rules[0], Task::Rebuild);
        loop {
            let page = sorted.page(PAGE_EVENTS).expect("a page");
            if page.is_empty() {
                break;
            }
            rebuild.page(page, Deadline::NONE).await.expect("rebuilt");
        }
        rebuild.end(Deadline::NONE).await.expect("rebuilt");
        assert_eq!(rebuild.counts().events, export.items(), "all of it");
    });
    let row = |name: &str, measured: &Measured| {
        let [requests, write_units, _] = usage_each(measured.usage, count);
        [
            name.to_owned(),
            format!("{:.0}", a_second(measured.cost.wall, count)),
            times(measured.cost.wall, rebuild.cost.wall),
            us_each(measured.own, count),
            requests,
            write_units,
            mb(measured.cost.peak_bytes),
        ]
    };
    vec![
        row("import", &import),
        row("rebuild", &rebuild),
        row("verify", &verified),
        row("catch-up, nothing due", &catch_up),
        row("rebuild from an export", &from_export),
    ]
}

/// What an operation has cost.
struct Measured {
    cost: Cost,
    /// The CPU time without the database's.
    own: Duration,
    usage: Usage,
}

fn measured(runtime: &Runtime, world: &World, work: impl Future<Output = ()>) -> Measured {
    let (before, beyond) = (world.worker.store().usage(), world.network.beyond());
    let ((), cost) = measure_async(runtime, work);
    Measured { cost, own: cost.cpu - (world.network.beyond() - beyond), usage: world.worker.store().usage() - before }
}

fn made_up(domain: &str, count: usize) -> Vec<RecordedEvent> {
    let sample = projections::samples::ALL.iter().find(|sample| sample.name == domain).expect("a sample");
    let mut random = fastrand::Rng::with_seed(1);
    record((sample.facts)(&mut |bound| random.u64(..bound), count, count / EACH)).collect()
}

async fn import(world: &World, events: &[RecordedEvent]) {
    let mut bulk = BulkImport::new(world.worker.store());
    for event in events {
        let item = encode_event(event);
        // As long as the line of a capture, about: it only decides how many go together.
        let captured = Captured { aggregate: event.aggregate.clone(), version: event.version, item, bytes: 400, origin: () };
        bulk.add(captured).await.expect("imported");
    }
    while let Some(outcomes) = bulk.next().await {
        outcomes.expect("imported");
    }
}

async fn each_segment(world: &World, rule: &'static dyn DynProjection, task: Task) {
    let segments = Segment::all(SEGMENTS).map(|segment| async move {
        let mut rebuild = SegmentRebuild::new(&world.worker, rule, task, segment, Resume::default());
        while rebuild.step(Deadline::NONE).await.expect("rebuilt") {}
        assert_eq!(rebuild.counts().parked, 0, "all can be applied");
    });
    join_all(segments).await;
}
