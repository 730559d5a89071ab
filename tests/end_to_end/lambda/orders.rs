//! Orders through their process, by deployed programs that are killed, on a failing network: nothing is paid twice, nothing is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use futures::{StreamExt as _, future::join_all, stream};
use projection_vocabulary::{Decimal, RecordedEvent, Timestamp, process::Status};
use projection_worker::{
    Commands, Handled,
    internals::{
        operations::{processes::tick, verify::instances::verify_instances},
        retry::Deadline,
        store::{Store, now},
    },
};
use projections::{
    bank::account::{self, Account},
    shop::{
        Item,
        order::{self, Order},
        shipment::{self, Shipment},
        stock::{self, Stock},
    },
};

use super::processes::{Place, Run, batch, lock, storm};
use crate::{
    size,
    support::{
        proxy::Proxy,
        stream::{Feed, all_events},
        world::{World, included},
    },
};

const PRODUCTS: usize = 8;
const ACCOUNTS: usize = 10;
/// What each account has at first. Orders ask for more than that, so that some are refused.
const DEPOSIT: u64 = 400;
/// How many pieces of each product there are at first.
const PIECES: u32 = 30;

fn product(at: usize) -> String {
    format!("product-{at}")
}

fn account(at: usize) -> String {
    format!("account-{at}")
}

async fn told<D: projection_vocabulary::Decider>(store: &Store, decider: &'static D, aggregate: &str, command: &D::Command) -> Handled<D> {
    let handled = Commands::new(store).to(decider, aggregate).handle(command).await;
    handled.unwrap_or_else(|error| panic!("{aggregate}: {error:?}"))
}

/// The shop before its first order. Stock and funds are enough for about two orders in three.
async fn open_shop(store: &Store, orders: usize) {
    let times = u32::try_from(orders.div_ceil(60)).expect("few");
    for at in 0..PRODUCTS {
        told(store, &Stock, &product(at), &stock::Command::Receive { quantity: PIECES * times }).await;
    }
    for at in 0..ACCOUNTS {
        let initial_deposit = Decimal::from(DEPOSIT * u64::from(times));
        told(store, &Account, &account(at), &account::Command::Open { initial_deposit }).await;
    }
}

async fn place_order(store: &Store, id: &str, random: &mut Rng) {
    let account_id = Some(account(random.usize(..ACCOUNTS)));
    let items = (0..=random.usize(..2)).map(|_| Item {
        product_id: product(random.usize(..PRODUCTS)),
        quantity: random.u32(1..6),
        price: Decimal::from(random.u64(1..20)),
    });
    let command = order::Command::Place { user_id: "ann".to_owned(), items: items.collect(), account_id };
    told(store, &Order, id, &command).await;
}

/// Delivers batches until each has succeeded, some of them twice.
async fn deliver_all(events: &[RecordedEvent], place: &mut Place<'_>, random: &mut Rng) {
    for events in events.chunks(60) {
        while place.deliver(batch(events)).await != poller::Answer::Responded(Vec::new()) {}
        if random.u32(..8) == 0 {
            place.deliver(batch(events)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_amid_kills_and_a_failing_network_are_fulfilled_once_or_undone() {
    let seed = std::env::var("PROCESSES_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("PROCESSES_SEED={seed}");
    let orders = size(30, 2_000);
    let mut random = Rng::with_seed(seed);
    let world = World::with(included()).await;
    let store = world.worker.store();
    open_shop(store, orders).await;
    for at in 0..orders {
        place_order(store, &format!("order-{at}"), &mut random).await;
    }
    let run = &Run { proxy: Proxy::new(&world, move |call| storm(seed, call)).await, counts: std::sync::Mutex::default() };
    let mut places = Vec::new();
    for _ in 0..2 {
        places.push(Place::new(run, random.fork()).await);
    }
    let (mut feed, mut dispatched, mut late) = (Feed::default(), BTreeSet::new(), false);
    let long_after = Timestamp::parse("2999-01-01T00:00:00Z").expect("valid");
    loop {
        let events = feed.next(store).await;
        if events.is_empty() {
            // What was not dispatched until now never will be.
            if late {
                break;
            }
            late = true;
            tick(&world.worker, &long_after, Deadline::NONE).await.expect("readable");
            continue;
        }
        late = false;
        // The warehouse dispatches four shipments in five.
        let created = events.iter().filter(|event| &*event.event_type == "ShipmentCreated").map(|event| event.aggregate.to_string());
        let created: Vec<_> = created.filter(|id| dispatched.insert(id.clone())).filter(|_| random.u32(..5) > 0).collect();
        // Each aggregate is on one shard.
        let (one, two): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| event.aggregate.as_str().len() % 2 == 0);
        let mut randoms = [random.fork(), random.fork()];
        let [place_one, place_two] = places.as_mut_slice() else { unreachable!("there are two") };
        let [random_one, random_two] = &mut randoms;
        tokio::join!(deliver_all(&one, place_one, random_one), deliver_all(&two, place_two, random_two));
        stream::iter(created).for_each(async |id| drop(told(store, &Shipment, &id, &shipment::Command::Dispatch {}).await)).await;
    }
    join_all(places.iter_mut().map(Place::leave)).await;
    run.proxy.settle().await;

    let counts = lock(&run.counts).clone();
    println!("{counts:#?}");
    assert_eq!(world.parked().await, []);
    let process = included().processes().find(|process| process.name() == "order-fulfilment").expect("it is included");
    let verified = verify_instances(store, process, 4, &now(), Deadline::NONE).await.expect("readable");
    println!("{:?}", verified.by_status);
    assert_eq!(verified.findings, BTreeMap::new());
    assert_eq!(verified.instances, orders as u64);
    let ended: u64 = [Status::Completed, Status::Undone].iter().filter_map(|status| verified.by_status.get(status)).sum();
    assert_eq!(ended, orders as u64, "nothing is open: {:?}", verified.by_status);
    for status in [Status::Completed, Status::Undone] {
        assert!(verified.by_status[&status] >= orders as u64 / 10, "{:?}", verified.by_status);
    }
    assert_exact(&world, orders).await;
    let killed = counts.get("killed").copied().unwrap_or_default();
    assert!(killed >= size(5, 100) as u64, "killed {killed} times");
}

/// Each account has what it had, less what its completed orders cost; each stock likewise.
async fn assert_exact(world: &World, orders: usize) {
    let store = world.worker.store();
    let mut accounts: BTreeMap<String, Decimal> = BTreeMap::new();
    let mut shipped: BTreeMap<String, u64> = BTreeMap::new();
    for event in all_events(store).await {
        if &*event.event_type != "OrderPlaced" {
            continue;
        }
        let state = Commands::new(store).load(&Order, event.aggregate.as_str()).await.expect("readable").state;
        match state {
            order::State::Placed(projections::shop::Status::Shipped) => {}
            order::State::Placed(projections::shop::Status::Cancelled) => continue,
            other => panic!("{}: {other:?}", event.aggregate),
        }
        let projections::shop::Event::OrderPlaced { items, total, account_id, .. } =
            projection_vocabulary::read_event(&event.event_type, &event.data).expect("an order")
        else {
            unreachable!("by its type")
        };
        *accounts.entry(account_id.expect("each has one")).or_default() += &total;
        for Item { product_id, quantity, .. } in items {
            *shipped.entry(product_id).or_default() += u64::from(quantity);
        }
    }
    let times = u32::try_from(orders.div_ceil(60)).expect("few");
    for at in 0..ACCOUNTS {
        let balance = Commands::new(store).load(&Account, &account(at)).await.expect("readable").state.balance;
        let mut left = Decimal::from(DEPOSIT * u64::from(times));
        left -= &accounts.remove(&account(at)).unwrap_or_default();
        assert_eq!(balance, left, "account {at}");
    }
    for at in 0..PRODUCTS {
        let state = Commands::new(store).load(&Stock, &product(at)).await.expect("readable").state;
        let gone = shipped.remove(&product(at)).unwrap_or_default();
        assert!(state.reservations.is_empty(), "product {at}: {state:?}");
        assert_eq!(state.available, u64::from(PIECES * times) - gone, "product {at}");
    }
}
