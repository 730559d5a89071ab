//! Many at once: nobody overdraws, claims have one owner, and several aggregates change together or not at all.

use futures::future::join_all;
use projection_vocabulary::{Decimal, RecordedEvent, Version};
use projection_worker::{
    CommandError, Commands,
    internals::{retry::Deadline, store::events::Stored},
};
use projections::{
    bank::account::{Account, Command, Refusal},
    shop::user::{self, User},
};

use super::{amount, balance, deposit, open, withdraw};
use crate::support::world::World;

async fn history(world: &World, aggregate: &str) -> Vec<RecordedEvent> {
    let stored = world.worker.store().load_page(&aggregate.into(), Version(1)..=Version(u64::MAX), 10_000, Deadline::NONE).await;
    let event = |stored| if let Stored::Event(event) = stored { event } else { panic!("{stored:?}") };
    stored.expect("loaded").into_iter().map(event).collect()
}

#[tokio::test(start_paused = true)]
async fn sixty_four_clients_never_overdraw_an_account() {
    let world = World::new().await;
    let commands = Commands::new(world.worker.store());
    commands.to(&Account, "alice").handle(&open("100")).await.expect("accepted");
    // Each client sends its command twice, as after a lost answer, and again as long as it is told to.
    let client = |at: usize| {
        let world = &world;
        async move {
            let mut answers = Vec::new();
            while answers.len() < 2 {
                match Commands::new(world.worker.store()).to(&Account, "alice").id(format!("c{at}")).handle(&withdraw("7")).await {
                    Err(CommandError::Contended { .. }) => {}
                    Ok(handled) => answers.push(Some(handled.version)),
                    Err(CommandError::Refused { refusal: Refusal::InsufficientFunds, .. }) => answers.push(None),
                    Err(other) => panic!("{other:?}"),
                }
            }
            assert_eq!(answers[0], answers[1], "one id has one answer");
            answers[0]
        }
    };
    let answers = join_all((0..64).map(client)).await;
    let mut accepted: Vec<_> = answers.into_iter().flatten().collect();
    accepted.sort();
    assert_eq!(accepted, (2..=15).map(Version).collect::<Vec<_>>(), "100 is 14 times 7 and 2");
    let events = history(&world, "alice").await;
    assert_eq!(events.len(), 15, "each accepted command is one event");
    let ids: std::collections::BTreeSet<_> = events.iter().map(|event| &event.event_id).collect();
    assert_eq!((ids.len(), balance(&world, "alice").await), (15, amount("2")));
}

fn register(email: &str) -> user::Command {
    user::Command::Register { email: email.to_owned(), name: "N".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_registrations_of_one_address_one_wins() {
    let world = World::new().await;
    let commands = Commands::new(world.worker.store());
    let send =
        |at: usize, email: &'static str| async move { commands.to(&User, &format!("u{at}")).id("register").handle(&register(email)).await };
    let outcomes = join_all((0..100).map(|at| send(at, "Ann@example.org"))).await;
    let won: Vec<_> = (0..100).filter(|at| outcomes[*at].is_ok()).collect();
    assert_eq!(won.len(), 1);
    for outcome in outcomes.iter().filter(|outcome| outcome.is_err()) {
        match outcome {
            Err(error @ CommandError::Taken { kind, replayed: false }) => {
                assert_eq!((kind.as_str(), error.to_string().as_str()), ("email", "this email is taken: choose another one"));
            }
            other => panic!("{other:?}"),
        }
    }
    // The address is free once its owner has another one; who was refused stays refused by the same id.
    let winner = format!("u{}", won[0]);
    let change = user::Command::ChangeEmail { email: "ann@example.com".to_owned() };
    commands.to(&User, &winner).handle(&change).await.expect("accepted");
    let loser = (won[0] + 1) % 100;
    assert!(matches!(send(loser, "Ann@example.org").await, Err(CommandError::Taken { replayed: true, .. })));
    commands.to(&User, &format!("u{loser}")).handle(&register("ANN@example.org")).await.expect("another command gets the address");
    let back = user::Command::ChangeEmail { email: "ann@example.org".to_owned() };
    assert!(matches!(commands.to(&User, &winner).handle(&back).await, Err(CommandError::Taken { .. })));
    commands.to(&User, "u999").handle(&register("ann@example.com")).await.expect_err("the winner has it");
}

#[tokio::test]
async fn a_transfer_is_one_transaction() {
    let world = World::new().await;
    let commands = Commands::new(world.worker.store());
    for (who, deposit) in [("alice", "10"), ("bob", "0")] {
        commands.to(&Account, who).handle(&open(deposit)).await.expect("accepted");
    }
    let transfer = |id: &str, sum: &str| {
        let both = commands.together().id(id).command(&Account, "alice", &withdraw(sum));
        both.command(&Account, "bob", &deposit(sum)).handle()
    };
    let before = world.worker.store().usage();
    let done = transfer("t1", "4").await.expect("accepted");
    let cost = world.worker.store().usage() - before;
    assert_eq!(
        (cost.requests, cost.write_units),
        (3, 12.0),
        "two reads; two versions, two events with their entries in the index by type, and the answer"
    );
    assert_eq!(done.of(&Account, "bob").expect("readable").state.balance, amount("4"));
    assert!(!done.replayed());
    // In either order it is the same command.
    let again = commands.together().id("t1").command(&Account, "bob", &deposit("4")).command(&Account, "alice", &withdraw("4"));
    let again = again.handle().await.expect("answered before");
    assert!(again.replayed());
    assert_eq!(again.of(&Account, "alice").expect("readable").version, Version(2));
    match transfer("t2", "7").await.map(|_| ()) {
        Err(CommandError::Refused { refusal, replayed: false }) => {
            assert_eq!((refusal.aggregate.as_str(), refusal.read::<Refusal>()), ("alice", Ok(Refusal::InsufficientFunds)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((balance(&world, "alice").await, balance(&world, "bob").await), (amount("6"), amount("4")));
}

#[tokio::test(start_paused = true)]
async fn transfers_at_the_same_time_neither_make_money_nor_lose_it() {
    let world = World::new().await;
    let commands = Commands::new(world.worker.store());
    let people = ["ann", "ben", "cid", "dot"];
    for who in people {
        commands.to(&Account, who).handle(&open("20")).await.expect("accepted");
    }
    let transfer = |at: usize| async move {
        let (from, to) = (people[at % 4], people[(at + 1 + at / 4 % 3) % 4]);
        loop {
            let both = commands.together().id(format!("t{at}")).command(&Account, from, &withdraw("3"));
            match both.command(&Account, to, &deposit("3")).handle().await {
                Err(CommandError::Contended { .. }) => {}
                Ok(_) | Err(CommandError::Refused { .. }) => return,
                Err(other) => panic!("{other:?}"),
            }
        }
    };
    join_all((0..40).map(transfer)).await;
    let mut sum = Decimal::zero();
    for who in people {
        let balance = balance(&world, who).await;
        assert!(balance >= Decimal::zero(), "{who}");
        sum += &balance;
    }
    assert_eq!(sum, amount("80"));
}

#[tokio::test]
async fn a_neighbour_is_looked_at_again_if_it_changed() {
    let world = World::new().await;
    let commands = Commands::new(world.worker.store());
    commands.to(&Account, "guarantor").handle(&open("5")).await.expect("accepted");
    let guaranteed = |id: &str| {
        let opened = commands.together().id(id).command(&Account, "alice", &open("1"));
        opened.requires(&Account, "guarantor", |guarantor| {
            if guarantor.balance >= amount("5") { Ok(()) } else { Err("the guarantor has too little".to_owned()) }
        })
    };
    commands.to(&Account, "guarantor").handle(&withdraw("1")).await.expect("accepted");
    match guaranteed("r1").handle().await.map(|_| ()) {
        Err(CommandError::Refused { refusal, .. }) => {
            assert_eq!((refusal.aggregate.as_str(), refusal.to_string().as_str()), ("guarantor", "the guarantor has too little"));
        }
        other => panic!("{other:?}"),
    }
    commands.to(&Account, "guarantor").handle(&deposit("1")).await.expect("accepted");
    guaranteed("r2").handle().await.expect("accepted");
    // It changes between the reading and the writing.
    let (interfering, changed) = (world.embedded.client(), std::sync::atomic::AtomicBool::new(false));
    let tapped = world.tapped(move |call| {
        if call.operation != "TransactWriteItems" || changed.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return crate::support::world::Fault::None;
        }
        let store = projection_worker::Store::new(interfering.clone(), crate::support::world::names(crate::support::world::registry()));
        crate::support::world::Fault::Meanwhile(Box::pin(async move {
            Commands::new(&store).to(&Account, "guarantor").handle(&Command::Close).await.expect("accepted");
        }))
    });
    let closed = |guarantor: &projections::bank::account::State| {
        let active = guarantor.status == projections::bank::account::Status::Active;
        if active { Ok(()) } else { Err("the guarantor is gone".to_owned()) }
    };
    let late = Commands::new(tapped.worker.store()).together().command(&Account, "bob", &open("1")).requires(&Account, "guarantor", closed);
    assert_eq!(late.handle().await.map(|_| ()).expect_err("refused").to_string(), "the guarantor is gone");
    assert_eq!(history(&world, "bob").await.len(), 0);
}

#[tokio::test]
async fn together_refuses_what_it_cannot_mean() {
    let world = World::new().await;
    let commands = Commands::new(world.worker.store());
    let twice = commands.together().command(&Account, "alice", &open("1")).command(&Account, "alice", &deposit("1")).handle().await;
    assert!(twice.map(|_| ()).expect_err("refused").to_string().contains("occurs twice"));
    let nothing = commands.together().handle().await;
    assert!(nothing.map(|_| ()).expect_err("refused").to_string().contains("no command"));
    let both = commands.together().command(&User, "u1", &register("a@example.org")).command(&User, "u2", &register("A@example.org"));
    assert!(both.handle().await.map(|_| ()).expect_err("refused").to_string().contains("claim the same email"));
    let nobody = commands.to(&Account, "").handle(&open("1")).await;
    assert!(matches!(nobody, Err(CommandError::Invalid(_))));
}

#[tokio::test]
async fn a_claim_passes_from_one_aggregate_to_another_in_one_transaction() {
    let world = World::new().await;
    let commands = Commands::new(world.worker.store());
    commands.to(&User, "u1").handle(&register("a@example.org")).await.expect("accepted");
    commands.to(&User, "u2").handle(&register("b@example.org")).await.expect("accepted");
    let change = |email: &str| user::Command::ChangeEmail { email: email.to_owned() };
    let swapped = commands.together().command(&User, "u1", &change("b@example.org")).command(&User, "u2", &change("a@example.org"));
    swapped.handle().await.expect("accepted");
    for (who, taken) in [("u3", "a@example.org"), ("u4", "b@example.org")] {
        assert!(matches!(commands.to(&User, who).handle(&register(taken)).await, Err(CommandError::Taken { .. })));
    }
    commands.to(&User, "u1").handle(&change("c@example.org")).await.expect("accepted");
    commands.to(&User, "u3").handle(&register("b@example.org")).await.expect("u1 gave it up");
}
