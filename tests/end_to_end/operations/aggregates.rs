//! Snapshots and claims are proved against events, and repaired.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::join_all;
use projection_vocabulary::{Deciders, Version};
use projection_worker::{
    Commands, Deadline,
    internals::{
        operations::aggregates::{Finding, Verified, repair, verify_all},
        store::Store,
    },
};
use projections::{
    AGGREGATES,
    bank::account::{Account, Command as ToAccount},
    shop::user::{Command as ToUser, User},
};

use crate::support::world::{World, account, long_note, recorded};

type Item = HashMap<String, AttributeValue>;

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn key(partition: &str, sort: &str) -> Item {
    Item::from([("PK".to_owned(), s(partition)), ("SK".to_owned(), s(sort))])
}

async fn get(world: &World, key: Item) -> Option<Item> {
    let client = world.embedded.client();
    client.get_item().table_name("event-store").set_key(Some(key)).consistent_read(true).send().await.expect("read").item
}

async fn put(world: &World, item: Item) {
    world.embedded.client().put_item().table_name("event-store").set_item(Some(item)).send().await.expect("written");
}

async fn delete(world: &World, key: Item) {
    world.embedded.client().delete_item().table_name("event-store").set_key(Some(key)).send().await.expect("deleted");
}

fn email(of: &str) -> String {
    format!("{of}@example.com")
}

fn register(name: &str) -> ToUser {
    ToUser::Register { name: name.to_owned(), email: email(name) }
}

fn claim(of: &str) -> Item {
    key(&format!("CLAIM#email#{}", email(of)), "CLAIM")
}

/// Three users, and an account with a snapshot at version 100 of 120.
async fn world() -> World {
    let world = World::new().await;
    let commands = Commands::new(world.worker.store());
    for user in ["ann", "ben", "cid"] {
        commands.to(&User, user).handle(&register(user)).await.expect("accepted");
    }
    world.append_all(&account("alice", &["1"; 99])).await;
    for _ in 0..21 {
        commands.to(&Account, "alice").handle(&ToAccount::Deposit { amount: 1.into() }).await.expect("accepted");
    }
    world
}

async fn verified(store: &Store) -> Verified {
    verify_all(store, Deciders::new(AGGREGATES), 3, Deadline::NONE).await.expect("verified")
}

/// What is wrong, in words.
async fn wrong(world: &World) -> Vec<String> {
    words(&verified(world.worker.store()).await)
}

fn words(verified: &Verified) -> Vec<String> {
    let words = verified.each().map(|(aggregate, finding)| match finding {
        Finding::Unreadable { version, .. } => format!("{aggregate}: event {version}"),
        Finding::Snapshot(version) => format!("{aggregate}: snapshot {version}"),
        Finding::NotHeld(claim) => format!("{aggregate}: {} {} not held", claim.kind, claim.value),
        Finding::HeldBy(other, claim) => format!("{aggregate}: {} {} held by {other}", claim.kind, claim.value),
        Finding::LeftOver(claim) => format!("{aggregate}: {} {} left over", claim.kind, claim.value),
    });
    words.collect()
}

/// Repairs, and returns how many of how many aggregates are right then.
async fn repaired(world: &World) -> (u64, usize) {
    let store = world.worker.store();
    let mut verified = verified(store).await;
    assert!(!verified.is_doubtful(), "{verified:?}");
    repair(store, Deciders::new(AGGREGATES), &mut verified, Deadline::NONE).await.expect("repaired");
    (verified.repaired, verified.findings.len())
}

async fn balance(world: &World) -> String {
    let loaded = Commands::new(world.worker.store()).load(&Account, "alice").await.expect("loaded");
    loaded.state.balance.to_string()
}

#[tokio::test]
async fn what_commands_leave_behind_is_right() {
    let world = world().await;
    let verified = verified(world.worker.store()).await;
    assert_eq!(words(&verified), Vec::<String>::new());
    assert_eq!((verified.aggregates, verified.snapshots, verified.claims, verified.unknown), (4, 1, 3, 0));
    assert!(verified.is_clean());
}

#[tokio::test]
async fn a_snapshot_that_the_events_do_not_make_is_found_and_made_anew() {
    let world = world().await;
    let right = balance(&world).await;
    let there = get(&world, key("AGGREGATE#alice", "SNAPSHOT")).await.expect("there is one");
    // Of the same version, and of one that the account has not reached.
    for version in ["100", "121"] {
        let mut item = there.clone();
        let AttributeValue::M(state) = item.get_mut("state").expect("it has a state") else { panic!("a state is a map") };
        state.insert("balance".to_owned(), AttributeValue::N("1000000".to_owned()));
        item.insert("version".to_owned(), AttributeValue::N(version.to_owned()));
        put(&world, item).await;
        assert_ne!(balance(&world).await, right, "commands would decide on it");
        assert_eq!(wrong(&world).await, [format!("alice: snapshot {version}")]);
        assert_eq!(repaired(&world).await, (1, 1));
        assert_eq!((balance(&world).await, wrong(&world).await), (right.clone(), vec![]));
    }
    // A snapshot of another revision is of no use, and a number may be written otherwise.
    for (attribute, value) in [("revision", "7"), ("version", "100")] {
        let mut item = there.clone();
        item.insert(attribute.to_owned(), AttributeValue::N(value.to_owned()));
        put(&world, item).await;
        assert_eq!(wrong(&world).await, Vec::<String>::new(), "{attribute}");
    }
}

#[tokio::test]
async fn a_claim_that_nobody_or_the_wrong_one_holds_is_found_and_put_right() {
    let world = world().await;
    // More claims that are right, so that a repair need not doubt its deciders.
    let commands = Commands::new(world.worker.store());
    join_all((0..30).map(|at| {
        let user = format!("user-{at}");
        async move { commands.to(&User, &user).handle(&register(&user)).await.map(drop).expect("accepted") }
    }))
    .await;

    delete(&world, claim("ann")).await;
    assert_eq!(wrong(&world).await, ["ann: email ann@example.com not held"]);
    assert_eq!(repaired(&world).await, (1, 1));
    assert_eq!(get(&world, claim("ann")).await.expect("held again")["aggregateId"], s("ann"));

    let mut stolen = claim("ben");
    stolen.insert("aggregateId".to_owned(), s("cid"));
    put(&world, stolen).await;
    assert_eq!(wrong(&world).await, ["ben: email ben@example.com held by cid", "cid: email ben@example.com left over"]);
    assert_eq!(repaired(&world).await, (2, 2));
    assert_eq!(get(&world, claim("ben")).await.expect("held again")["aggregateId"], s("ben"));

    let mut of_nobody = claim("dot");
    of_nobody.insert("aggregateId".to_owned(), s("nobody"));
    put(&world, of_nobody).await;
    assert_eq!(wrong(&world).await, ["nobody: email dot@example.com left over"]);
    assert_eq!(repaired(&world).await, (1, 1));
    assert_eq!(get(&world, claim("dot")).await, None);
    assert_eq!(wrong(&world).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_repair_doubts_deciders_that_know_nothing_of_many_claims() {
    let world = world().await;
    let mut verified = verified(world.worker.store()).await;
    assert!(!verified.is_doubtful());
    for user in ["ann", "ben"] {
        let mut other = claim(&format!("other-{user}"));
        other.insert("aggregateId".to_owned(), s(user));
        put(&world, other).await;
    }
    verified = self::verified(world.worker.store()).await;
    assert_eq!((verified.left_over(), verified.claims, verified.is_doubtful()), (2, 5, true));
}

#[tokio::test]
async fn an_aggregate_that_cannot_be_loaded_is_named_and_its_claims_are_left_alone() {
    let world = world().await;
    delete(&world, key("AGGREGATE#alice", "EVENT#0000000050")).await;
    delete(&world, key("AGGREGATE#ann", "EVENT#0000000001")).await;
    let verified = verified(world.worker.store()).await;
    assert_eq!(words(&verified), ["alice: event 50"]);
    // Without events, nothing tells what the user is.
    assert_eq!(verified.unknown, 1);
    assert_eq!(repaired(&world).await, (0, 1));
    assert!(get(&world, claim("ann")).await.is_some());
}

/// A snapshot of the last version that claims to be of the next one.
#[tokio::test]
async fn a_snapshot_of_a_version_that_does_not_exist_is_wrong_whatever_it_says() {
    let world = world().await;
    world.append_all(&account("bob", &["1"; 99])).await;
    Commands::new(world.worker.store()).to(&Account, "bob").handle(&ToAccount::Deposit { amount: 1.into() }).await.expect("accepted");
    let mut snapshot = get(&world, key("AGGREGATE#bob", "SNAPSHOT")).await.expect("there is one");
    assert_eq!((wrong(&world).await, &snapshot["version"]), (vec![], &AttributeValue::N("100".to_owned())));
    snapshot.insert("version".to_owned(), AttributeValue::N("101".to_owned()));
    put(&world, snapshot).await;
    assert_eq!(wrong(&world).await, ["bob: snapshot 101"]);
}

#[tokio::test]
async fn a_first_event_that_is_skipped_does_not_tell_what_an_aggregate_is() {
    let world = world().await;
    let mut first = get(&world, key("AGGREGATE#ann", "EVENT#0000000001")).await.expect("it is there");
    first.insert("eventType".to_owned(), s("projector.skipped"));
    put(&world, first).await;
    let verified = verified(world.worker.store()).await;
    assert_eq!((verified.unknown, words(&verified)), (1, vec![]), "there is no other event");
    let mut first = get(&world, key("AGGREGATE#alice", "EVENT#0000000001")).await.expect("it is there");
    first.insert("eventType".to_owned(), s("projector.skipped"));
    put(&world, first).await;
    let verified = self::verified(world.worker.store()).await;
    assert_eq!((verified.unknown, words(&verified)), (1, vec!["alice: snapshot 100".to_owned()]));
}

#[tokio::test]
async fn an_aggregate_that_begins_on_one_page_and_ends_on_another_counts_once() {
    let world = World::new().await;
    // Three of these fill a page.
    world.append_all(&recorded((0..7).map(|_| ("alice", "MoneyDeposited", long_note(380_000))))).await;
    let verified = verify_all(world.worker.store(), Deciders::new(AGGREGATES), 1, Deadline::NONE).await.expect("verified");
    assert_eq!(verified.aggregates, 1);
}

#[tokio::test]
async fn commands_that_are_carried_out_meanwhile_are_never_taken_for_differences() {
    let world = world().await;
    let store = world.worker.store();
    let commands = Commands::new(store);
    let traffic = async {
        for round in 0..12 {
            let user = ["ann", "ben", "cid"][round % 3];
            let to = ToUser::ChangeEmail { email: email(&format!("{user}-{round}")) };
            commands.to(&User, user).handle(&to).await.expect("accepted");
            for _ in 0..10 {
                commands.to(&Account, "alice").handle(&ToAccount::Deposit { amount: 1.into() }).await.expect("accepted");
            }
        }
    };
    let mut rounds = BTreeMap::new();
    let verifying = async {
        for round in 0..12 {
            let verified = verified(store).await;
            rounds.insert(round, words(&verified));
        }
    };
    tokio::join!(traffic, verifying);
    rounds.retain(|_, words| !words.is_empty());
    assert_eq!(rounds, BTreeMap::new());
    assert_eq!(store.current_version(&"alice".into()).await, Ok(Version(120 + 120)));
}
