//! Processes in the deployed program: the stream delivers to them and carries out what they send, and a task lets their timers run out.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde_json::{Value as Json, json};

use crate::support::{
    metrics::{MetricLine, metric_lines},
    processes::{Poller, begin_long_ago, command, make_timers_due, order_of, requests, status_of},
    runtime_api::{Answer, Lambda, log_lines},
    world::World,
};

const TICK: &str = r#"{"tick":{}}"#;

async fn tick(lambda: &mut Lambda) -> Json {
    let Answer::Response(answer) = lambda.invoke(TICK).await else { panic!("a tick is a task") };
    serde_json::from_str(&answer).expect("JSON")
}

fn ticked(due: u64, timed_out: u64) -> Json {
    json!({ "done": true, "due": due, "timedOut": timed_out, "failed": 0 })
}

async fn statuses(world: &World) -> Vec<(String, Option<String>)> {
    let instances = ["good", "too-much", "to-nobody"].map(|id| format!("transfers/transfer-{id}-x"));
    let orders = ["good", "too-many"].map(|id| format!("order-fulfilment/{}", order_of(id, "x")));
    let mut statuses = Vec::new();
    for instance in instances.into_iter().chain(orders) {
        let status = status_of(world, &instance).await;
        statuses.push((instance, status));
    }
    statuses
}

fn expected(order: &str) -> Vec<(String, Option<String>)> {
    [
        ("transfers/transfer-good-x", "completed"),
        ("transfers/transfer-too-much-x", "undone"),
        ("transfers/transfer-to-nobody-x", "undone"),
        ("order-fulfilment/order-good-x", order),
        ("order-fulfilment/order-too-many-x", "undone"),
    ]
    .map(|(instance, status)| (instance.to_owned(), Some(status.to_owned())))
    .into()
}

#[tokio::test]
async fn a_timer_runs_out_once_when_it_is_due_however_often_it_ticks() {
    let world = World::new().await;
    let (mut lambda, mut other, mut poller) = (Lambda::start(&world).await, Lambda::start(&world).await, Poller::default());
    assert_eq!(tick(&mut lambda).await, ticked(0, 0), "there is nothing yet");
    requests(&world, "x").await;
    poller.deliver(&world, &mut lambda).await;
    assert_eq!(statuses(&world).await, expected("open"));

    assert_eq!(tick(&mut lambda).await, ticked(0, 0), "it is early");
    // Months late, and twice at once.
    assert_eq!(make_timers_due(&world).await, 1);
    let (one, two) = tokio::join!(tick(&mut lambda), tick(&mut other));
    let timed_out = |answer: &Json| answer["timedOut"].as_u64().expect("a count");
    assert_eq!(timed_out(&one) + timed_out(&two), 1, "{one} {two}");
    // The row shows the timer until the stream has told it.
    assert_eq!(tick(&mut lambda).await, ticked(1, 0), "it ran out before");
    poller.deliver(&world, &mut lambda).await;
    assert_eq!(statuses(&world).await, expected("undone"));
    assert_eq!(tick(&mut lambda).await, ticked(0, 0));
    assert_eq!(world.parked().await, []);

    let lines = log_lines(&lambda.stop().await);
    let logged: Vec<_> = lines.iter().filter(|line| line["message"] == "tick").collect();
    assert_eq!(logged.len(), 5, "{logged:?}");
    assert!(logged.iter().all(|line| line["done"] == true && line["failed"] == 0 && line["due"].is_u64()), "{logged:?}");
    other.stop().await;
}

#[tokio::test]
async fn what_arrives_in_time_stops_the_timer() {
    use projections::shop::shipment::{Command, Shipment};
    let world = World::new().await;
    let (mut lambda, mut poller) = (Lambda::start(&world).await, Poller::default());
    requests(&world, "x").await;
    poller.deliver(&world, &mut lambda).await;
    command(&world, &Shipment, &format!("shipment-{}", order_of("good", "x")), &Command::Dispatch {}).await;
    poller.deliver(&world, &mut lambda).await;
    assert_eq!(statuses(&world).await, expected("completed"));
    assert_eq!((make_timers_due(&world).await, tick(&mut lambda).await), (0, ticked(0, 0)));
    lambda.stop().await;
}

#[tokio::test]
async fn what_a_tick_leaves_undone_the_next_one_does() {
    let world = World::new().await;
    let (mut lambda, mut poller) = (Lambda::start(&world).await, Poller::default());
    requests(&world, "x").await;
    poller.deliver(&world, &mut lambda).await;
    make_timers_due(&world).await;
    let Answer::Response(answer) = lambda.invoke_until(SystemTime::now(), TICK).await else { panic!("it had nothing to fail at") };
    assert_eq!(answer, r#"{"done":false,"due":0,"timedOut":0,"failed":0}"#);
    let killed = lambda.invoke_or_kill(SystemTime::now() + Duration::from_mins(1), TICK, async {}).await;
    let mut lambda = if killed.is_none() { Lambda::start(&world).await } else { lambda };
    let answer = tick(&mut lambda).await;
    assert_eq!(answer["due"], 1, "{answer}");
    poller.deliver(&world, &mut lambda).await;
    assert_eq!(statuses(&world).await, expected("undone"), "whether or not the tick that was killed did it");
    lambda.stop().await;
}

/// The sums of the metrics of a process.
fn sums(lines: &[MetricLine], process: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in lines.iter().filter(|line| line.projection() == Some(process)) {
        for (name, value) in line.values.iter().filter(|(_, value)| **value > 0.0) {
            *sums.entry(name.clone()).or_default() += value;
        }
    }
    sums.remove("LagMs");
    sums
}

#[tokio::test]
async fn metrics_count_what_becomes_of_instances() {
    let world = World::new().await;
    let (mut lambda, mut poller) = (Lambda::start(&world).await, Poller::default());
    requests(&world, "x").await;
    poller.deliver(&world, &mut lambda).await;
    let batches = metric_lines(&lambda.stop().await);
    let of = |counts: &[(&str, f64)]| counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<BTreeMap<_, _>>();
    // Two steps; one that is refused; two of which the second is refused, and the undo of the first.
    let mut transfers = sums(&batches, "transfers");
    let applied = transfers.remove("Applied");
    let counts =
        of(&[("Started", 3.0), ("Sent", 6.0), ("Accepted", 4.0), ("Refused", 2.0), ("Undoing", 2.0), ("Completed", 1.0), ("Undone", 2.0)]);
    assert_eq!((transfers, applied), (counts, Some(9.0)), "three requests, and what was sent");
    let orders = sums(&batches, "order-fulfilment");
    let named = ["Started", "Refused", "Undoing", "Undone", "Completed", "TimedOut"].map(|name| orders.get(name).copied());
    assert_eq!(named, [Some(2.0), Some(1.0), Some(1.0), Some(1.0), None, None], "{orders:?}");
    // Each batch reports every count of every process, for a zero ends an alarm; the others report none.
    let lines = |process: &'static str| batches.iter().filter(move |line| line.projection() == Some(process));
    assert!(
        lines("transfers")
            .chain(lines("order-fulfilment"))
            .all(|line| line.values.contains_key("Stuck") && !line.values.contains_key("OldestOpenAge"))
    );
    assert!(lines("process-status").chain(lines("account-summary")).all(|line| !line.values.contains_key("Stuck")));

    // A tick reports the age of the oldest open instance, and 0 if none is open.
    let mut lambda = Lambda::start(&world).await;
    begin_long_ago(&world, "order-fulfilment/order-good-x").await;
    make_timers_due(&world).await;
    tick(&mut lambda).await;
    poller.deliver(&world, &mut lambda).await;
    tick(&mut lambda).await;
    let lines = metric_lines(&lambda.stop().await);
    let ages = |process: &str| {
        let lines = lines.iter().filter(|line| line.projection() == Some(process));
        lines.filter_map(|line| line.values.get("OldestOpenAge").copied()).collect::<Vec<_>>()
    };
    assert_eq!(ages("transfers"), [0.0, 0.0]);
    let [open, ended] = ages("order-fulfilment")[..] else { panic!("{:?}", ages("order-fulfilment")) };
    assert!(open > 86_400.0 && ended < 0.5, "{open} {ended}");
    let orders = sums(&lines, "order-fulfilment");
    assert_eq!(["TimedOut", "Undoing", "Undone"].map(|name| orders.get(name).copied()), [Some(1.0); 3], "{orders:?}");
    let ticks: Vec<_> = lines.iter().filter(|line| line.projection().is_none() && !line.values.contains_key("BatchSize")).collect();
    assert!(ticks.len() == 2 && ticks.iter().all(|line| line.values["Failed"] < 0.5 && line.values["Requests"] > 0.0), "the invocations");
}
