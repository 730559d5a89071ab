//! What a command reads: short and long histories, snapshots, and histories that cannot be read.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{Decider, RecordedEvent, Version, data};
use projection_worker::{CommandError, Commands, internals::store::corrections::Audit};
use projections::bank::{
    Event,
    account::{Account, Command, Refusal, State},
};
use serde::{Deserialize, Serialize};

use super::{amount, balance, deposit, open, withdraw};
use crate::support::world::{World, account, impostor};

async fn deposits(world: &World, count: usize) -> Vec<RecordedEvent> {
    let events = account("alice", &vec!["1"; count]);
    world.append_all(&events).await;
    events
}

fn key(sort: &str) -> HashMap<String, AttributeValue> {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    HashMap::from([("PK".to_owned(), text("AGGREGATE#alice")), ("SK".to_owned(), text(sort))])
}

async fn item(world: &World, sort: &str) -> Option<HashMap<String, AttributeValue>> {
    let get = world.embedded.client().get_item().table_name("event-store").set_key(Some(key(sort)));
    get.send().await.expect("read").item
}

async fn snapshot_version(world: &World) -> Option<String> {
    item(world, "SNAPSHOT").await.map(|item| item["version"].as_n().expect("a number").clone())
}

/// The same account by another revision, or with snapshots after another number of events; never for 0.
struct Variant<const REVISION: u32, const EVERY: u64>;

impl<const REVISION: u32, const EVERY: u64> Decider for Variant<REVISION, EVERY> {
    type State = State;
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;
    const KIND: &str = "account";
    const REVISION: u32 = REVISION;
    const SNAPSHOT_EVERY: Option<u64> = if EVERY == 0 { None } else { Some(EVERY) };

    fn decide(&self, state: &State, command: &Command) -> Result<Vec<Event>, Refusal> {
        Account.decide(state, command)
    }

    fn evolve(&self, state: &mut State, event: &Event) {
        Account.evolve(state, event);
    }
}

/// Its snapshots are of no use to the account.
type NextAccount = Variant<2, 10>;
/// It keeps no snapshots.
type PlainAccount = Variant<1, 0>;

#[tokio::test]
async fn a_snapshot_is_kept_every_hundred_events_and_gives_the_same_state() {
    let world = World::new().await;
    let commands = Commands::new(world.worker.store());
    deposits(&world, 99).await;
    assert_eq!(snapshot_version(&world).await, None);
    commands.to(&Account, "alice").handle(&deposit("1")).await.expect("accepted");
    assert_eq!(snapshot_version(&world).await, Some("100".to_owned()));
    for left in (0..=99).rev() {
        let handled = commands.to(&Account, "alice").handle(&withdraw("1")).await.expect("accepted");
        assert_eq!(handled.state.balance, amount(&left.to_string()));
    }
    assert!(commands.to(&Account, "alice").handle(&withdraw("1")).await.is_err());
    assert_eq!(snapshot_version(&world).await, Some("200".to_owned()));
}

#[tokio::test]
async fn a_snapshot_that_is_of_no_use_is_ignored_and_replaced() {
    let world = World::new().await;
    let commands = Commands::new(world.worker.store());
    deposits(&world, 150).await;
    let next = commands.to(&NextAccount {}, "alice").handle(&deposit("1")).await.expect("accepted");
    assert_eq!((next.state.balance, snapshot_version(&world).await), (amount("151"), Some("151".to_owned())));
    let handled = commands.to(&Account, "alice").handle(&deposit("1")).await.expect("accepted");
    assert_eq!((handled.state.balance, snapshot_version(&world).await), (amount("152"), Some("152".to_owned())));
    let text = |text: &str| AttributeValue::S(text.to_owned());
    for (name, value) in [("state", text("spoilt")), ("kind", text("other")), ("version", text("x"))] {
        let mut spoilt = item(&world, "SNAPSHOT").await.expect("kept");
        spoilt.insert(name.to_owned(), value);
        world.embedded.client().put_item().table_name("event-store").set_item(Some(spoilt)).send().await.expect("put");
        let expected = balance(&world, "alice").await;
        let mut next = expected.clone();
        next += &amount("1");
        let handled = commands.to(&Account, "alice").handle(&deposit("1")).await.expect("accepted");
        assert_eq!(handled.state.balance, next, "{name}");
    }
}

#[tokio::test]
async fn a_corrected_event_takes_the_snapshot_away_even_from_a_command_under_way() {
    let world = World::new().await;
    let events = deposits(&world, 120).await;
    let store = world.worker.store();
    Commands::new(store).to(&Account, "alice").handle(&deposit("1")).await.expect("accepted");
    assert_eq!(snapshot_version(&world).await, Some("121".to_owned()));
    let correct = |to: &'static str| {
        let (event, client) = (events[4].clone(), world.embedded.client());
        async move {
            let store = projection_worker::Store::new(client, crate::support::world::names(crate::support::world::registry()));
            let shown = store.event_item(&event.aggregate, event.version).await.expect("read");
            let amount = projection_vocabulary::Value::Number(amount(to));
            let data = projection_vocabulary::Value::Map([("amount".to_owned(), amount)].into());
            let corrected = RecordedEvent { data, ..event };
            let audit = Audit { by: "ann", why: "a slip" };
            assert!(store.replace_event(shown.as_ref(), &corrected, audit).await.expect("written"));
        }
    };
    correct("1000").await;
    assert_eq!(snapshot_version(&world).await, None);
    assert_eq!(balance(&world, "alice").await, amount("1120"));
    // The second correction comes between the reading and the writing of a command that keeps a snapshot.
    let mut meanwhile = Some(correct("2"));
    let meanwhile = std::sync::Mutex::new(meanwhile.take());
    let tapped = world.tapped(move |call| match call.operation {
        "TransactWriteItems" => meanwhile
            .lock()
            .expect("held by one")
            .take()
            .map_or(crate::support::world::Fault::None, |correct| crate::support::world::Fault::Meanwhile(Box::pin(correct))),
        _ => crate::support::world::Fault::None,
    });
    let handled = Commands::new(tapped.worker.store()).to(&Account, "alice").handle(&deposit("1")).await.expect("accepted");
    assert_eq!(handled.state.balance, amount("123"), "it was decided again");
    assert_eq!(balance(&world, "alice").await, amount("123"));
}

#[tokio::test]
async fn a_history_that_cannot_be_read_is_named_with_its_version_and_without_its_data() {
    let world = World::new().await;
    let events = deposits(&world, 5).await;
    let commands = Commands::new(world.worker.store());
    let unreadable = || async {
        match commands.to(&Account, "alice").handle(&deposit("4711")).await {
            Err(error @ CommandError::Unreadable { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    world.correct(&RecordedEvent { data: data! { amount: "4711" }, ..events[2].clone() }).await;
    assert_eq!(
        unreadable().await,
        "aggregate alice cannot be read at version 3: `amount`: expected an exact number, found a string (read by the decider `account`)"
    );
    world.correct(&RecordedEvent { event_type: "Renamed".into(), ..events[2].clone() }).await;
    assert!(unreadable().await.starts_with("aggregate alice cannot be read at version 3: expected one of AccountOpened"));
    let delete = world.embedded.client().delete_item().table_name("event-store").set_key(Some(key("EVENT#0000000003")));
    delete.send().await.expect("deleted");
    assert!(unreadable().await.starts_with("aggregate alice cannot be read at version 3: the event is not in the event store"));
    world.correct(&events[2]).await;
    assert_eq!(balance(&world, "alice").await, amount("5"));
    // The newest event is lost, or was put beside the VERSION item.
    let delete = world.embedded.client().delete_item().table_name("event-store").set_key(Some(key("EVENT#0000000005")));
    delete.send().await.expect("deleted");
    assert!(unreadable().await.contains("its VERSION item says 5, and its events end at 4"));
    world.correct(&impostor(&events[4])).await;
    let sixth = RecordedEvent { version: Version(6), event_id: "e6".into(), ..events[4].clone() };
    world.correct(&sixth).await;
    assert!(unreadable().await.contains("its VERSION item says 5, and its events end at 6"));
}

/// Makes more events than a transaction holds, or events that are larger than an item.
struct Flood;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
enum Drop {
    Fell { text: String },
}

#[derive(Deserialize, Serialize)]
enum Rain {
    Fall { drops: u64, bytes: u64 },
}

#[derive(Debug, Deserialize, PartialEq, Serialize, thiserror::Error)]
#[error("never")]
struct Never;

impl Decider for Flood {
    type State = Vec<String>;
    type Command = Rain;
    type Event = Drop;
    type Refusal = Never;
    const KIND: &str = "flood";
    const SNAPSHOT_EVERY: Option<u64> = Some(1);

    fn decide(&self, _: &Vec<String>, Rain::Fall { drops, bytes }: &Rain) -> Result<Vec<Drop>, Never> {
        let text = "x".repeat(usize::try_from(*bytes).expect("small"));
        Ok(vec![Drop::Fell { text }; usize::try_from(*drops).expect("small")])
    }

    fn evolve(&self, state: &mut Vec<String>, Drop::Fell { text }: &Drop) {
        state.push(text.clone());
    }
}

#[tokio::test]
async fn what_no_transaction_holds_is_refused_and_a_snapshot_that_does_not_fit_is_left_out() {
    let world = World::new().await;
    let commands = Commands::new(world.worker.store());
    let fall = |drops, bytes| async move {
        commands.to(&Flood, "alice").id(format!("{drops}/{bytes}")).handle(&Rain::Fall { drops, bytes }).await
    };
    assert_eq!(fall(0, 0).await.expect("accepted").version, Version::NONE);
    assert!(fall(0, 0).await.expect("accepted").replayed);
    assert_eq!(fall(97, 1).await.expect("accepted").version, Version(97));
    assert_eq!(snapshot_version(&world).await, Some("97".to_owned()));
    assert_eq!(fall(98, 1).await.expect("accepted").version, Version(195), "the snapshot would be one action too many");
    assert_eq!(snapshot_version(&world).await, Some("97".to_owned()));
    match fall(99, 1).await {
        Err(CommandError::Invalid(why)) => assert!(why.contains("101 writes") && why.contains("split it"), "{why}"),
        other => panic!("{other:?}"),
    }
    match fall(1, 500_000).await {
        Err(CommandError::Invalid(why)) => assert!(why.contains("400 KB"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(fall(1, 299_000).await.expect("accepted").version, Version(196));
    assert_eq!(fall(1, 299_001).await.expect("accepted").version, Version(197), "its state is larger than an item");
    assert_eq!(commands.load(&Flood, "alice").await.expect("readable").state.len(), 197);
}

/// Requests, write units and read units of one command, by the length of the history before it, with snapshots and without.
#[tokio::test]
async fn with_snapshots_a_command_costs_one_read_and_one_write_whatever_the_history() {
    for events in [0, 10, 1_000, crate::size(2_000, 100_000)] {
        let world = World::new().await;
        let commands = Commands::new(world.worker.store());
        deposits(&world, events).await;
        let command = |amount| if events == 0 { open(amount) } else { deposit(amount) };
        let before = world.worker.store().usage();
        commands.to(&PlainAccount {}, "alice").id("plain").handle(&command("1")).await.expect("accepted");
        let plain = world.worker.store().usage() - before;
        // Makes the snapshot, for the history was appended without commands.
        commands.to(&Account, "alice").handle(&deposit("1")).await.expect("accepted");
        let before = world.worker.store().usage();
        commands.to(&Account, "alice").id("kept").handle(&deposit("1")).await.expect("accepted");
        let kept = world.worker.store().usage() - before;
        println!("{events} events: without snapshots {plain:?}, with {kept:?}");
        // The version, the event with its entry in the index by type, and the answer; a plain append is all that but the answer.
        assert_eq!((plain.write_units, kept.write_units), (7.0, 7.0), "{events} events");
        assert_eq!((plain.requests, kept.requests), (events as u64 / 1_000 + 2, 2), "{events} events: a page has 1,000");
        assert!(kept.read_units <= 12.0, "{events} events: {} read units", kept.read_units);
    }
}
