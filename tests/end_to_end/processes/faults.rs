//! Crashes, lost answers, lost rows and redelivery: each request has one effect and one answer.

use projection_worker::internals::{operations::verify::instances::verify_instances, retry::Deadline};

use super::*;
use crate::{size, support::world::Fault};

/// Money on accounts, and the number of events.
async fn standing(bank: &Bank) -> (String, String, usize) {
    (bank.balance("ann").await.to_string(), bank.balance("ben").await.to_string(), bank.events().await.len())
}

async fn payout() -> Bank {
    let bank = Bank::new().await;
    bank.open("ann", "100").await;
    bank.open("ben", "0").await;
    bank.request("t1", "ann", "ben", "30").await;
    bank
}

/// Lets it run until it waits for the receipt, and then to its end.
async fn run_to_the_end(bank: &mut Bank) {
    bank.run().await;
    bank.receipt("r1", "t1").await;
    bank.run().await;
}

/// What the stream brings next; once it is quiet for the first time, the receipt comes.
async fn brought(bank: &mut Bank, receipt: &mut bool) -> Vec<RecordedEvent> {
    let events = bank.next().await;
    if !events.is_empty() || *receipt {
        return events;
    }
    bank.receipt("r1", "t1").await;
    *receipt = true;
    bank.next().await
}

async fn assert_proven(bank: &Bank) {
    let (store, process) = (bank.world.worker.store(), PAYOUTS[0].process().expect("it is one"));
    let verified = verify_instances(store, process, 2, &projection_worker::internals::store::now(), Deadline::NONE).await;
    let verified = verified.expect("readable");
    assert_eq!((verified.findings, verified.instances), (std::collections::BTreeMap::new(), 1));
}

#[tokio::test(start_paused = true)]
async fn everything_delivered_again_in_any_order_changes_nothing() {
    let mut bank = payout().await;
    run_to_the_end(&mut bank).await;
    let before = standing(&bank).await;
    assert_eq!((before.0.as_str(), before.1.as_str()), ("70", "30"));
    let mut events = bank.events().await;
    for _ in 0..2 {
        let report = bank.world.worker.process(&records(&events), Deadline::NONE).await;
        assert_eq!((report.total.applied, report.total.failed, report.total.parked), (0, 0, 0));
        assert_eq!(standing(&bank).await, before);
        events.reverse();
    }
    assert_proven(&bank).await;
}

/// Rows of a process are only a shortcut: what was received and answered is in the event store.
#[tokio::test(start_paused = true)]
async fn lost_rows_come_back_and_nothing_is_sent_twice() {
    let mut bank = payout().await;
    run_to_the_end(&mut bank).await;
    let before = standing(&bank).await;
    let events = bank.events().await;
    let client = bank.world.embedded.client();
    for id in ["t1", "r1", "payouts/t1"] {
        let key = aws_sdk_dynamodb::types::AttributeValue::S(id.to_owned());
        client.delete_item().table_name("payouts").key("aggregateId", key).send().await.expect("deleted");
    }
    for event in events.iter().rev() {
        deliver(&bank.world.worker, event).await;
    }
    assert_eq!(standing(&bank).await, before);
    assert_proven(&bank).await;
}

/// The worker is dropped before or after each of its calls, and the records are delivered again.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_call_repeats_nothing_and_forgets_nothing() {
    let mut kills = 0;
    for crash_at in (1..).step_by(size(3, 1)) {
        let mut any = false;
        for after in [false, true] {
            let mut bank = payout().await;
            let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let counted = calls.clone();
            let tapped = bank.world.tapped_of(PAYOUTS, move |_| {
                let number = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                match (number == crash_at, after) {
                    (false, _) => Fault::None,
                    (true, false) => Fault::HungBefore,
                    (true, true) => Fault::HungAfter,
                }
            });
            let worker = tapped.worker.with_calls(wire(|_, _| Ok(json!({ "receipt": 1 }))));
            let (mut crashed, mut receipt) = (false, false);
            while !crashed {
                let events = brought(&mut bank, &mut receipt).await;
                if events.is_empty() {
                    break;
                }
                let records = records(&events);
                tokio::select! {
                    biased;
                    _ = worker.process(&records, Deadline::NONE) => {}
                    () = tapped.hung.notified() => {
                        crashed = true;
                        // What was not answered is delivered again.
                        bank.feed.again(&events);
                    }
                }
            }
            any |= crashed;
            kills += usize::from(crashed);
            bank.run().await;
            if !receipt {
                bank.receipt("r1", "t1").await;
                bank.run().await;
            }
            let (ann, ben, _) = standing(&bank).await;
            assert_eq!((ann.as_str(), ben.as_str(), bank.status("t1").await), ("70", "30", "completed"), "call {crash_at}, after: {after}");
            assert_proven(&bank).await;
        }
        if !any {
            break;
        }
    }
    assert!(kills > size(15, 50), "{kills}");
}

/// Each request is answered with an error although it was applied.
#[tokio::test(start_paused = true)]
async fn lost_answers_repeat_nothing() {
    for every in 2..5 {
        let mut bank = payout().await;
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let tapped = bank.world.tapped_of(PAYOUTS, move |_| {
            let number = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if number.is_multiple_of(every) { Fault::Lost } else { Fault::None }
        });
        bank.world.worker = tapped.worker.with_calls(wire(|_, _| Ok(json!({ "receipt": 1 }))));
        run_to_the_end(&mut bank).await;
        let (ann, ben, _) = standing(&bank).await;
        assert_eq!((ann.as_str(), ben.as_str(), bank.status("t1").await), ("70", "30", "completed"), "every {every}");
        assert_proven(&bank).await;
    }
}

/// Two workers get the same records at the same time, in opposite orders.
#[tokio::test]
async fn concurrent_workers_repeat_nothing() {
    let (mut bank, mut receipt) = (payout().await, false);
    loop {
        let mut events = brought(&mut bank, &mut receipt).await;
        if events.is_empty() {
            break;
        }
        let forwards = records(&events);
        events.reverse();
        let backwards = records(&events);
        let other = bank.world.worker_of(PAYOUTS).with_calls(wire(|_, _| Ok(json!({ "receipt": 2 }))));
        tokio::join!(bank.world.worker.process(&forwards, Deadline::NONE), other.process(&backwards, Deadline::NONE));
    }
    let (ann, ben, _) = standing(&bank).await;
    assert_eq!((ann.as_str(), ben.as_str(), bank.status("t1").await), ("70", "30", "completed"));
    assert_proven(&bank).await;
}
