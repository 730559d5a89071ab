//! A repair trusts the event store. If that may be the wrong one, it needs an operator's word.

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{RecordedEvent, data};
use projection_worker::internals::{
    operations::{
        footing::sampled_doubt,
        verify::{Options, Repair, RowFinding, Verified, verify},
    },
    retry::Deadline,
};
use serde_json::Value as Json;

use crate::support::{
    projector::projector,
    world::{World, account, fold, impostor, registry},
};

async fn repaired(world: &World, repair: Repair) -> Verified {
    let rule = registry().get("account-summary").expect("a projection");
    verify(&world.worker, rule, Options { segments: 2, sample: None, repair }, Deadline::NONE).await.expect("verified")
}

fn accounts(number: usize) -> Vec<RecordedEvent> {
    (0..number).flat_map(|at| account(&format!("account-{at:02}"), &["1", "2", "3"])).collect()
}

/// Rows that stand on these events, and an event store that has others.
async fn projected(events: &[RecordedEvent], stored: &[RecordedEvent]) -> World {
    let world = World::new().await;
    world.process(events).await;
    world.append_all(stored).await;
    world
}

#[tokio::test(start_paused = true)]
async fn an_event_store_without_the_rows_events_takes_back_nothing_unless_told() {
    let events = accounts(20);
    let strangers: Vec<_> = account("stranger", &["5"]);
    let impostors: Vec<_> = events.iter().map(impostor).collect();
    let older: Vec<_> = events.iter().filter(|event| event.version.0 < 3).cloned().collect();
    let stores = [
        ("empty", vec![], 20),
        ("of others", strangers, 20),
        ("with other events of the same aggregates", impostors, 20),
        ("older", older, 20),
    ];
    for (name, stored, without_event) in stores {
        let world = projected(&events, &stored).await;
        let before = world.rows().await;
        for repair in [Repair::Nothing, Repair::Findings] {
            let found = repaired(&world, repair).await;
            let doubt = found.doubt.as_ref().expect(name);
            assert_eq!((doubt.footing.rows, doubt.footing.without_event), (20, without_event), "{name}");
            assert_eq!((found.repaired, found.is_clean()), (0, false), "{name}");
            assert_eq!(world.rows().await, before, "{name}");
        }
        assert!(repaired(&world, Repair::AllOrphans).await.is_clean(), "{name}");
        assert_eq!(world.rows().await, fold(registry(), &stored), "{name}");
    }
}

#[tokio::test]
async fn a_few_rows_without_events_are_taken_back_as_ever() {
    let events = accounts(20);
    let stored: Vec<_> = events.iter().filter(|event| event.aggregate.as_str() != "account-07").cloned().collect();
    let world = projected(&events, &stored).await;
    let found = repaired(&world, Repair::Findings).await;
    assert_eq!((found.doubt.as_ref(), found.is_clean(), found.count(RowFinding::Orphaned)), (None, true, 1));
    assert_eq!(world.rows().await, fold(registry(), &stored));
}

#[tokio::test]
async fn an_operator_is_told_that_it_may_be_the_wrong_event_store() {
    let events = accounts(12);
    let world = projected(&events, &[]).await;
    let (url, before) = (world.serve().await, world.rows().await);
    let run = async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "verify", "account-summary"], arguments].concat()).await;
    let doubt =
        "the event store `event-store` does not have the last event of 12 of 12 rows of account-summary: check that EVENT_STORE_TABLE";
    let (code, out, _) = run(&[]).await;
    assert!(code == 1 && out.contains(doubt) && !out.contains("--repair"), "{out}");
    let (code, out, said) = run(&["--repair"]).await;
    assert!(code == 1 && said.contains(&format!("nothing is repaired: {doubt}")) && said.contains("--repair-all-orphans"), "{out}{said}");
    let (code, out, _) = run(&["--repair", "--json"]).await;
    let total: Json = serde_json::from_str(out.lines().last().expect("a total")).expect("JSON");
    let total = &total["total"];
    assert_eq!((code, &total["refused"], &total["rowsWithoutEvent"], &total["clean"]), (1, &true.into(), &12.into(), &false.into()));
    let (code, out, _) = run(&["--repair", "--dry-run"]).await;
    assert!(code == 1 && out.ends_with("dry run: --repair would refuse\n"), "{out}");
    let (code, out, _) = run(&["--repair", "--repair-all-orphans", "--dry-run"]).await;
    assert!(code == 1 && out.contains("  orphaned: account-00; --repair would take it back to the events that there are\n"), "{out}");
    assert!(out.ends_with("dry run: nothing was changed; --repair would try to repair 12 of 12\n"), "{out}");
    for flag in ["--dry-run", "--repair-all-orphans"] {
        let (code, _, said) = run(&[flag]).await;
        assert!(code == 2 && said.contains("--repair"), "{said}");
    }
    assert_eq!(world.rows().await, before);
    let (code, out, _) = run(&["--repair", "--repair-all-orphans"]).await;
    assert!(code == 0 && out.ends_with("repaired: 12 of 12\n"), "{out}");
}

#[tokio::test]
async fn a_redrive_does_not_trust_an_event_store_that_lacks_the_rows_events() {
    let mut events = accounts(12);
    let fourth = account("account-00", &["1", "2", "3", "4"]).pop().expect("there are four");
    events.push(RecordedEvent { data: data! { amount: "four" }, ..fourth });
    let world = projected(&events, &[]).await;
    assert_eq!(world.parked().await.len(), 1);
    let (url, before) = (world.serve().await, world.rows().await);
    let run = async |arguments: &[&str]| projector(&[&["--endpoint-url", &url, "parked", "redrive"], arguments].concat()).await;
    for chosen in [&["--all"][..], &["--aggregate", "account-00"], &["--projection", "account-summary"]] {
        let (code, _, said) = run(&[chosen, &["--trust-store"]].concat()).await;
        assert!(
            code == 1 && said.contains("nothing is redriven: the event store `event-store` does not have the last event of 12 of 12"),
            "{said}"
        );
    }
    assert_eq!((world.rows().await, world.parked().await.len()), (before, 1));
    let (code, out, said) = run(&["--all", "--trust-store", "--repair-all-orphans"]).await;
    assert!(code == 0 && out.contains("recovered: account-summary account-00: re-projected"), "{out}{said}");
}

#[tokio::test]
async fn a_sample_is_of_many_rows_however_few_of_them_a_page_holds() {
    let world = World::new().await;
    let rule = registry().get("account-summary").expect("a projection");
    // Three of these fill a page.
    for number in 0..5 {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let row = world.embedded.client().put_item().table_name(rule.name()).item(rule.key(), text(&format!("account-{number}")));
        let row = row.item("version", AttributeValue::N("1".to_owned())).item("note", text(&"x".repeat(380_000)));
        row.send().await.expect("put");
    }
    let doubt = sampled_doubt(world.worker.store(), rule, Deadline::NONE).await.expect("read").expect("no row stands on an event");
    assert_eq!((doubt.footing.rows, doubt.footing.without_event), (5, 5));
}
