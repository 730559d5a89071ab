//! What operators do with processes: verify, catch up, rebuild.

use std::time::Duration;

use projection_worker::internals::{
    operations::{
        processes::{instances, oldest_open},
        rebuild::{Rebuild, Task},
        redrive::{Redriven, redrive},
        verify::instances::{Finding, verify_instances},
    },
    retry::Deadline,
    store::now,
};

use super::*;

async fn findings(bank: &Bank, at: &str) -> Vec<(String, Finding)> {
    let (store, process) = (bank.world.worker.store(), PAYOUTS[0].process().expect("it is one"));
    let at = projection_vocabulary::Timestamp::parse(at).unwrap_or_else(|_| now());
    let verified = verify_instances(store, process, 1, &at, Deadline::NONE).await.expect("readable");
    verified.each().map(|(instance, finding)| (instance.to_string(), finding.clone())).collect()
}

async fn delete(bank: &Bank, aggregate: &str, sort: &str) {
    let text = |text: String| aws_sdk_dynamodb::types::AttributeValue::S(text);
    let request = bank.world.embedded.client().delete_item().table_name("event-store");
    request.key("PK", text(format!("AGGREGATE#{aggregate}"))).key("SK", text(sort.to_owned())).send().await.expect("deleted");
}

/// The version of the request with this name.
fn sent(events: &[RecordedEvent], name: &str) -> u64 {
    let of_name = |event: &&RecordedEvent| &*event.event_type == "ProcessSent" && event.data.to_json().get().contains(name);
    events.iter().find(of_name).expect("it was sent").version.0
}

/// Everything that is wrong in a tampered store, and nothing else.
#[tokio::test(start_paused = true)]
async fn verify_finds_exactly_what_was_tampered_with() {
    let mut bank = Bank::new().await;
    bank.open("ann", "100").await;
    bank.open("ben", "0").await;
    for transfer in ["t1", "t2", "t3", "t4"] {
        bank.request(transfer, "ann", "ben", "1").await;
    }
    bank.run().await;
    for (receipt, transfer) in [("r1", "t1"), ("r2", "t2"), ("r3", "t3")] {
        bank.receipt(receipt, transfer).await;
    }
    bank.run().await;
    assert_eq!(findings(&bank, "").await, [], "t4 waits for its receipt, in time");
    let instance = |transfer: &str| format!("payouts/{transfer}");
    // The last answer and what followed it are gone.
    let t1 = bank.instance("t1").await.events;
    for event in &t1[t1.len() - 2..] {
        delete(&bank, "payouts/t1", &format!("EVENT#{:010}", event.version.0)).await;
    }
    // The account has lost the answer that it gave.
    let of = sent(&bank.instance("t2").await.events, "take");
    delete(&bank, "ann", &format!("COMMAND#payouts/t2/{of}")).await;
    // A request whose effects are there was never sent: its instance is gone as a whole.
    let t3 = bank.instance("t3").await.events;
    for event in &t3 {
        delete(&bank, "payouts/t3", &format!("EVENT#{:010}", event.version.0)).await;
    }
    let mut expected = vec![
        (instance("t1"), Finding::Unanswered(sent(&t1, "note"))),
        (instance("t2"), Finding::NeverGiven(of)),
        (instance("t3"), Finding::CausedByNone { aggregate: "ann".into(), of: sent(&t3, "take") }),
        (instance("t3"), Finding::CausedByNone { aggregate: "ben".into(), of: sent(&t3, "note") }),
    ];
    assert_eq!(findings(&bank, "").await, expected);
    expected.push((instance("t4"), Finding::Overdue("wire".into())));
    assert_eq!(findings(&bank, "2999-01-01T00:00:00Z").await, expected, "long after it was due");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_must_have_been_given_like_any_answer() {
    let mut bank = Bank::new().await;
    bank.open("ann", "1").await;
    bank.request("t1", "ann", "ben", "30").await;
    bank.run().await;
    assert_eq!(findings(&bank, "").await, []);
    let of = sent(&bank.instance("t1").await.events, "take");
    delete(&bank, "ann", &format!("COMMAND#payouts/t1/{of}")).await;
    assert_eq!(findings(&bank, "").await, [("payouts/t1".to_owned(), Finding::NeverGiven(of))]);
}

/// An operator decides about it.
#[tokio::test(start_paused = true)]
async fn what_an_instance_is_stuck_at_is_no_finding() {
    let calls = wire(|_, _| Err(CallError::failed("no route")));
    let mut bank = Bank::with(calls.within("wire", Duration::from_secs(1), 1)).await;
    bank.open("ann", "100").await;
    bank.request("t1", "ann", "ben", "1").await;
    bank.run().await;
    assert_eq!((bank.status("t1").await, findings(&bank, "").await), ("stuck", vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_answered_within_seconds_was_only_under_way() {
    let bank = Bank::new().await;
    bank.open("ann", "100").await;
    bank.request("t1", "ann", "ben", "1").await;
    // The instance has sent its request, which nobody has carried out.
    bank.world.worker.process(&records(&bank.events().await), Deadline::NONE).await;
    let soon = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        bank.world.worker.process(&records(&bank.events().await), Deadline::NONE).await
    };
    let (found, report) = tokio::join!(findings(&bank, ""), soon);
    assert_eq!((found, report.total.failed), (vec![], 0));
    let of = sent(&bank.instance("t1").await.events, "wire");
    let found = findings(&bank, "").await;
    assert_eq!(found, [("payouts/t1".to_owned(), Finding::Unanswered(of))], "this one is not carried out");
}

#[tokio::test(start_paused = true)]
async fn a_timer_is_overdue_after_five_minutes() {
    let mut bank = Bank::new().await;
    bank.open("ann", "100").await;
    bank.request("t1", "ann", "ben", "1").await;
    bank.run().await;
    let due = bank.instance("t1").await.instance.timers()["wire"].1.epoch_ms();
    let at = |ms: i64| projection_vocabulary::Timestamp::from_epoch_ms(due + ms).expect("a time").as_str().to_owned();
    assert_eq!(findings(&bank, &at(300_000)).await, []);
    assert_eq!(findings(&bank, &at(300_001)).await, [("payouts/t1".to_owned(), Finding::Overdue("wire".into()))]);
}

/// What the stream lost is received by catching up.
#[tokio::test(start_paused = true)]
async fn catching_up_receives_and_sends_what_the_stream_has_lost() {
    let bank = Bank::new().await;
    bank.open("ann", "100").await;
    bank.open("ben", "0").await;
    bank.request("t1", "ann", "ben", "30").await;
    for pass in 0..9 {
        if pass == 5 {
            bank.receipt("r1", "t1").await;
        }
        let mut catch_up = Rebuild::new(&bank.world.worker, PAYOUTS[0], Task::CatchUp);
        let mut events: Vec<_> = bank.events().await;
        events.sort_by_key(|event| (event.aggregate.clone(), event.version));
        let page = events.into_iter().map(|event| (event.aggregate.clone(), Stored::Event(event))).collect();
        catch_up.page(page, Deadline::NONE).await.expect("caught up");
        catch_up.end(Deadline::NONE).await.expect("caught up");
    }
    assert_eq!((bank.status("t1").await, bank.balance("ben").await), ("completed", Decimal::from(30)));
    assert_eq!(findings(&bank, "").await, []);
}

#[tokio::test]
async fn a_rebuild_of_a_process_is_refused() {
    use projection_worker::internals::operations::processes::refuse_process;
    assert!(refuse_process(PAYOUTS[1]).is_ok(), "the status of instances is a projection like any other");
    let refused = refuse_process(PAYOUTS[0]).expect_err("it is a process").to_string();
    assert!(refused.starts_with("`payouts` is a process, of which nothing is rebuilt"), "{refused}");
}

#[tokio::test]
async fn what_was_parked_is_redriven_and_the_instance_begins_then() {
    let mut bank = Bank::with(Calls::new()).await;
    bank.open("ann", "100").await;
    // The aggregate is parked for another deployment's mistake.
    bank.request("t1", "ann", "ben", "666").await;
    bank.run().await;
    let entries = bank.world.worker.store().parked().await.expect("readable");
    let again = redrive(&bank.world.worker, &entries[0], projection_worker::internals::engine::reproject::Trust::Row, Deadline::NONE).await;
    assert_eq!(again, Ok(Redriven::Parked("not that amount".to_owned())));
    let entries = bank.world.worker.store().parked().await.expect("readable");
    let mended = bank.world.worker_of(MENDED);
    let again = redrive(&mended, &entries[0], projection_worker::internals::engine::reproject::Trust::Row, Deadline::NONE).await;
    assert_eq!(again, Ok(Redriven::Done { applied: 1, reprojected: false }));
    assert_eq!(bank.status("t1").await, "open");
}

#[tokio::test]
async fn instances_are_listed_by_status_the_oldest_first() {
    let mut bank = Bank::new().await;
    bank.open("ann", "2").await;
    for transfer in ["t1", "t2", "t3"] {
        bank.request(transfer, "ann", "ben", "1").await;
        bank.run().await;
    }
    let (store, process) = (bank.world.worker.store(), PAYOUTS[0].process().expect("it is one"));
    let listed = async |status, limit| {
        let listed = instances(store, process, status, limit, Deadline::NONE).await.expect("readable");
        listed.into_iter().map(|one| one.aggregate.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed(process::Status::Open, 100).await, ["payouts/t1", "payouts/t2"]);
    assert_eq!(listed(process::Status::Open, 1).await, ["payouts/t1"]);
    assert_eq!(listed(process::Status::Undone, 100).await, ["payouts/t3"]);
    let began = bank.instance("t1").await.events[0].timestamp.clone();
    assert_eq!(oldest_open(store, process, Deadline::NONE).await, Ok(Some(began)));
    let nobody = show(store, process, &"payouts/nobody".into(), Deadline::NONE).await.expect("readable");
    assert!(nobody.is_none(), "nothing was ever delivered to it");
}
