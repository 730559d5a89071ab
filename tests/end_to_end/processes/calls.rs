//! Calls of functions outside the event store.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::*;

/// A call that fails is made again with the same key, and its tries are in the history.
#[tokio::test(start_paused = true)]
async fn a_call_that_fails_is_made_again_with_the_same_key() {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let noted = keys.clone();
    let mut bank = Bank::with(wire(move |key, _| {
        let mut keys = noted.lock().expect("no test panics while it holds this");
        keys.push(key.to_owned());
        if keys.len() < 4 { Err(CallError::failed("no route")) } else { Ok(json!(null)) }
    }))
    .await;
    bank.open("ann", "100").await;
    bank.request("t1", "ann", "ben", "1").await;
    bank.run().await;
    let keys = keys.lock().expect("no test panics while it holds this").clone();
    assert_eq!(keys, ["payouts/t1/5"; 4]);
    let timeline = bank.timeline("t1").await;
    assert!(timeline.contains("no answer to wire, try 3: no route\naccepted wire"), "{timeline}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_undoes() {
    let mut bank = Bank::with(wire(|_, _| Err(CallError::refused("unknown account")))).await;
    bank.open("ann", "100").await;
    bank.request("t1", "ann", "ben", "1").await;
    bank.run().await;
    assert_eq!((bank.status("t1").await, bank.balance("ann").await), ("undone", Decimal::from(100)));
}

/// What may have happened is never undone.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_stuck_and_undoes_nothing() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let calls = wire(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        Err(CallError::failed("no route"))
    });
    let mut bank = Bank::with(calls.within("wire", std::time::Duration::from_secs(1), 3)).await;
    bank.open("ann", "100").await;
    bank.request("t1", "ann", "ben", "1").await;
    let begun = tokio::time::Instant::now();
    let report = bank.run().await;
    // A tenth of a second after the first try, twice that after the second, and nothing after the last.
    assert_eq!(begun.elapsed().as_millis(), 300);
    assert_eq!((bank.status("t1").await, bank.balance("ann").await), ("stuck", Decimal::from(99)));
    assert_eq!((tries.load(Ordering::Relaxed), report.total.parked, report.total.failed), (3, 0, 0));
    // The redelivered event makes no further call.
    let events = bank.events().await;
    bank.world.worker.process(&records(&events), Deadline::NONE).await;
    assert_eq!(tries.load(Ordering::Relaxed), 3);
}

/// Its time counts as a try without an answer.
#[tokio::test(start_paused = true)]
async fn a_call_that_never_ends_is_given_up() {
    let calls = Calls::new().on("wire", async |_: String, _: projection_vocabulary::Value| {
        std::future::pending::<()>().await;
        Ok(())
    });
    let mut bank = Bank::with(calls.within("wire", std::time::Duration::from_secs(7), 2)).await;
    bank.open("ann", "100").await;
    bank.request("t1", "ann", "ben", "1").await;
    bank.run().await;
    assert_eq!(bank.status("t1").await, "stuck");
    assert!(bank.timeline("t1").await.contains("no answer to wire, try 2: no answer in time"));
}

/// A program without the function is the wrong one: nothing is parked.
#[tokio::test(start_paused = true)]
async fn a_program_without_the_function_fails_and_parks_nothing() {
    let mut bank = Bank::with(Calls::new()).await;
    bank.open("ann", "100").await;
    bank.request("t1", "ann", "ben", "1").await;
    let report = bank.run().await;
    assert_eq!((report.total.failed, report.total.parked), (1, 0));
    let reasons: Vec<_> = report.reasons.into_keys().collect();
    assert_eq!(
        reasons,
        [
            "`payouts` sent a request to the function `wire`, which this program does not have: deploy one that has it, or add it to this one"
        ]
    );
}

/// What the instance has recorded since means nothing to it, also not that the call was sent.
#[tokio::test(start_paused = true)]
async fn an_older_program_makes_no_call_for_an_instance_of_a_newer_one_and_parks_nothing() {
    let mut bank = Bank::of(NEWER, Calls::new()).await;
    bank.open("ann", "100").await;
    bank.request("t1", "ann", "ben", "1").await;
    bank.run().await;
    let older = bank.world.worker_of(PAYOUTS).with_calls(wire(|_, _| panic!("it is called")));
    let report = older.process(&records(&bank.events().await), Deadline::NONE).await;
    assert_eq!((report.total.failed, report.total.parked), (1, 0), "{:?}", report.reasons);
    let reasons: Vec<_> = report.reasons.into_keys().collect();
    assert_eq!(
        reasons,
        ["instances of `payouts` were written by revision 2 and this program has revision 1: deploy the newer program again"]
    );
}
