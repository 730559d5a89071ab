//! Catching up with recent events, by the index by event type.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{DynProjection, RecordedEvent, Timestamp, Value};
use projection_worker::{
    Worker,
    internals::{operations::recent::Recent, retry::Deadline, store::item::encode_event},
};

use crate::support::world::{Call, Fault, World, account, fold, import_item, recorded, registry};

fn summaries() -> &'static dyn DynProjection {
    registry().get("account-summary").expect("an included projection")
}

fn recent<'a>(worker: &'a Worker, since: &str) -> Recent<'a> {
    Recent::new(worker, summaries(), Timestamp::parse(since).expect("a timestamp"))
}

async fn accounts(world: &World) -> BTreeSet<String> {
    world.rows().await["account-summary"].keys().map(ToString::to_string).collect()
}

#[tokio::test]
async fn events_are_recent_by_their_instant_however_it_is_spelt() {
    const NEW: [&str; 9] = [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.000Z",
        "2026-01-01t00:00:00z",
        "2025-12-31T16:30:00-08:00",
        "2025-12-31T12:00:00.000-12:00",
        "2026-01-01T14:00:00+14:00",
        "2025-12-31 19:00:00-05:00",
        "2026-06-01T00:00:00+14:00",
        // It cannot be told, so the row is looked at.
        "yesterday",
    ];
    const OLD: [&str; 7] = [
        "2025-12-31T23:59:59.999Z",
        // A leap second.
        "2025-12-31T23:59:60Z",
        "2025-12-31T11:59:59.999-12:00",
        "2026-01-01T13:59:59+14:00",
        "2026-01-01 05:29:59+05:30",
        "2025-12-31T18:59:59-05:00",
        "2025-01-01T00:00:00-12:00",
    ];
    let world = World::new().await;
    for (at, (spelling, name)) in NEW.iter().map(|new| (new, "new")).chain(OLD.iter().map(|old| (old, "old"))).enumerate() {
        let [event] = &account(&format!("{name}-{at:02}"), &["10"])[..] else { panic!("one event") };
        let mut item = encode_event(event);
        item.insert("GSI1SK".into(), AttributeValue::S((*spelling).to_owned()));
        import_item(world.worker.store(), &event.aggregate, event.version, item).await;
    }
    let mut recent = recent(&world.worker, "2026-01-01T00:00:00Z");
    while recent.step(Deadline::NONE).await.expect("the store answers") {}
    let new: BTreeSet<_> = (0..NEW.len()).map(|at| format!("new-{at:02}")).collect();
    assert_eq!((accounts(&world).await, recent.counts().events), (new, NEW.len() as u64));
}

/// Accounts whose events of one type fill several pages of the index.
async fn pages_of_accounts(world: &World) -> Vec<RecordedEvent> {
    let data = Value::Map([("initialDeposit".to_owned(), 1.into()), ("note".to_owned(), "x".repeat(300_000).into())].into());
    let ids: Vec<_> = (0..12).map(|at| format!("account-{at:02}")).collect();
    let events = recorded(ids.iter().map(|id| (id.as_str(), "AccountOpened", data.clone())));
    world.import(&events).await;
    events
}

#[tokio::test]
async fn every_page_of_the_index_is_read_though_one_of_them_fails() {
    let world = World::new().await;
    let events = pages_of_accounts(&world).await;
    let queries = std::sync::atomic::AtomicUsize::new(0);
    let tapped = world.tapped(move |call: &Call<'_>| {
        let by_type = call.operation == "Query" && call.body.contains("GSI1");
        let number = if by_type { 1 + queries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) } else { 0 };
        // A permission that is missing for a moment is not retried: the step ends there.
        if number == 2 { Fault::error(400, "AccessDeniedException") } else { Fault::None }
    });
    let mut recent = recent(&tapped.worker, "2026-01-01T00:00:00Z");
    let (mut steps, mut failed) = (0, 0);
    loop {
        steps += 1;
        match recent.step(Deadline::NONE).await {
            Ok(true) => assert!(steps < 50, "it goes on"),
            Ok(false) => break,
            Err(_) => failed += 1,
        }
    }
    // Four event types, and the first of them takes more than two pages.
    assert!(failed == 1 && steps > 1 + 4 + 1, "{steps} steps, {failed} failed");
    assert_eq!(recent.counts().events, 12);
    assert_eq!(world.rows().await, fold(registry(), &events));
}
