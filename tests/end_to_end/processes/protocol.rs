//! How an instance begins, goes on and ends.

use expect_test::expect;
use projection_worker::internals::{operations::processes::tick, retry::Deadline};

use super::*;

#[tokio::test]
async fn a_process_goes_through_its_steps_and_completes() {
    let mut bank = Bank::new().await;
    bank.open("ann", "100").await;
    bank.open("ben", "0").await;
    bank.request("t1", "ann", "ben", "30.50").await;
    let report = bank.run().await;
    assert_eq!((report.total.failed, report.total.parked), (0, 0), "{:?}", report.reasons);
    assert_eq!(bank.status("t1").await, "open", "it waits for the receipt");
    bank.receipt("r1", "t1").await;
    let report = bank.run().await;
    let counts = report.projections["payouts"].instances;
    assert_eq!((counts.sent, counts.accepted, counts.completed), (1, 1, 1));
    assert_eq!((bank.balance("ann").await.to_string(), bank.balance("ben").await.to_string()), ("69.5".into(), "30.5".into()));
    expect![[r#"
        received TransferRequested of t1
        recorded PayoutBegun {"payout":{"amount":30.5,"from":"ann","to":"ben"}}
        sent take to account ann: {"Withdraw":{"amount":30.5}}
        accepted take
        sent wire to call wire: {"amount":30.5,"from":"ann","to":"ben"}
        timer wire runs out after 3600 s
        accepted wire: {"receipt":1}
        received ReceiptArrived of r1
        timer wire stopped
        sent note to account ben: {"Deposit":{"amount":30.5}}
        accepted note
        completed
    "#]]
    .assert_eq(&bank.timeline("t1").await);
    let row = bank.world.row("process-status", "payouts/t1").await;
    assert!(row.contains("status=completed") && row.contains("sent=3") && row.contains("accepted=3"), "{row}");
}

#[tokio::test]
async fn a_refused_step_has_nothing_to_undo_if_it_is_the_first() {
    let mut bank = Bank::new().await;
    bank.open("ann", "1").await;
    bank.request("t1", "ann", "ben", "30.50").await;
    bank.run().await;
    expect![[r#"
        received TransferRequested of t1
        recorded PayoutBegun {"payout":{"amount":30.5,"from":"ann","to":"ben"}}
        sent take to account ann: {"Withdraw":{"amount":30.5}}
        refused take: the funds are insufficient
        failed: `take` was refused: the funds are insufficient
        undone
    "#]]
    .assert_eq(&bank.timeline("t1").await);
    assert_eq!(bank.balance("ann").await, Decimal::from(1));
}

#[tokio::test]
async fn a_time_out_undoes_what_was_done_and_late_and_double_ticks_do_nothing() {
    let mut bank = Bank::new().await;
    bank.open("ann", "100").await;
    bank.request("t1", "ann", "ben", "30").await;
    bank.run().await;
    let now = projection_vocabulary::Timestamp::parse("2999-01-01T00:00:00Z").expect("valid");
    let early = projection_vocabulary::Timestamp::parse("2000-01-01T00:00:00Z").expect("valid");
    let worker = &bank.world.worker;
    assert_eq!(tick(worker, &early, Deadline::NONE).await.expect("readable").due, 0);
    let (one, two) = tokio::join!(tick(worker, &now, Deadline::NONE), tick(worker, &now, Deadline::NONE));
    let timed_out = |ticked: Result<projection_worker::internals::operations::processes::Ticked, _>| {
        let ticked = ticked.expect("readable");
        assert_eq!((ticked.done, ticked.failed), (true, 0));
        ticked.processes["payouts"].timed_out
    };
    assert_eq!(timed_out(one) + timed_out(two), 1);
    assert_eq!(timed_out(tick(worker, &now, Deadline::NONE).await), 0, "the row has not seen it yet");
    bank.receipt("r1", "t1").await;
    bank.run().await;
    assert_eq!(tick(&bank.world.worker, &now, Deadline::NONE).await.expect("readable").due, 0);
    assert_eq!((bank.status("t1").await, bank.balance("ann").await), ("undone", Decimal::from(100)));
    let timeline = bank.timeline("t1").await;
    let end: Vec<_> = timeline.lines().skip_while(|line| !line.starts_with("timer wire ran out")).collect();
    assert_eq!(
        end,
        [
            "timer wire ran out",
            "failed: `wire` did not end in time",
            r#"sent the undo of take to account ann: {"Deposit":{"amount":30}}"#,
            "received ReceiptArrived of r1",
            "accepted the undo of take",
            "undone",
        ]
    );
}

#[tokio::test]
async fn a_refused_undo_is_stuck_until_an_operator_retries_or_resolves_it() {
    use process::Told::{Resolve, Retry};
    use projection_worker::internals::operations::processes::operate;
    let mut bank = Bank::with(wire(|_, _| Err(CallError::refused("unknown account")))).await;
    for transfer in ["t1", "t2"] {
        let account = format!("{transfer}-account");
        bank.open(&account, "10").await;
        bank.request(transfer, &account, "ben", "10").await;
    }
    // The accounts are closed between the withdrawal and its undoing.
    for _ in 0..2 {
        let events = bank.next().await;
        bank.world.worker.process(&records(&events), Deadline::NONE).await;
    }
    for transfer in ["t1", "t2"] {
        bank.close(&format!("{transfer}-account")).await;
    }
    let report = bank.run().await;
    assert_eq!((bank.status("t1").await, bank.status("t2").await), ("stuck", "stuck"));
    assert_eq!((report.total.parked, report.projections["payouts"].instances.stuck), (0, 2), "stuck is not parked");
    let process = PAYOUTS[0].process().expect("it is one");
    let instance = |transfer: &str| format!("payouts/{transfer}").as_str().into();
    let store = bank.world.worker.store();
    let by_hand = Resolve { note: "by hand".to_owned() };
    operate(store, process, &instance("t1"), &Retry { note: "again".to_owned() }, Deadline::NONE).await.expect("it is stuck");
    operate(store, process, &instance("t2"), &by_hand, Deadline::NONE).await.expect("it is stuck");
    let twice = operate(store, process, &instance("t2"), &by_hand, Deadline::NONE).await.expect_err("it has ended");
    assert_eq!(twice.to_string(), "the instance is not stuck but resolved");
    bank.run().await;
    assert_eq!((bank.status("t1").await, bank.status("t2").await), ("stuck", "resolved"), "the account is still closed");
    let timeline = bank.timeline("t1").await;
    assert_eq!(timeline.matches("stuck: the undo of `take` was refused: the account is not active").count(), 2, "{timeline}");
}

#[tokio::test]
async fn an_event_that_the_process_refuses_parks_its_aggregate_and_is_redriven() {
    let mut bank = Bank::new().await;
    bank.open("ann", "1000").await;
    bank.request("t1", "ann", "ben", "666").await;
    bank.request("t2", "ann", "ben", "1").await;
    bank.run().await;
    assert_eq!(bank.world.parked().await, [("t1".to_owned(), Some(1), "not that amount".to_owned())]);
    assert_eq!(bank.status("t2").await, "open", "the others go on");
}

/// A lane of the process waits until it has what came before.
#[tokio::test]
async fn an_instance_receives_the_events_of_an_aggregate_in_their_order_whatever_the_stream_brings() {
    let bank = Bank::new().await;
    bank.open("ann", "100").await;
    bank.request("t1", "ann", "ben", "1").await;
    let receipts = (1..=4).map(|_| {
        let data = projection_vocabulary::Value::Map([("of".to_owned(), "t1".into())].into());
        Fact { aggregate: "r".into(), event_type: "ReceiptArrived", data }
    });
    let receipts: Vec<_> = record(receipts).collect();
    bank.world.append_all(&receipts).await;
    // The last one comes first, and the first one last.
    for event in [&receipts[3], &receipts[1], &receipts[0]] {
        deliver(&bank.world.worker, event).await;
    }
    let received: Vec<_> = bank.instance("t1").await.events.iter().map(|event| event.data.to_json().get().to_owned()).collect();
    let expected = (1..=4).map(|version| format!(r#"{{"eventType":"ReceiptArrived","from":"r","version":{version}}}"#));
    assert_eq!(received, expected.collect::<Vec<_>>());
}
