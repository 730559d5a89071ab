//! A command id has one effect and one answer, whatever happens to the calls.

use projection_vocabulary::{Decimal, Version};
use projection_worker::{CommandError, Commands, internals::store::Store};
use projections::bank::account::{Account, Command, Refusal};

use super::{amount, balance, deposit, open, withdraw};
use crate::support::world::{Call, Fault, World, answers_though_applied};

async fn versions(world: &World, aggregate: &str) -> u64 {
    world.worker.store().current_version(&aggregate.into()).await.expect("read").0
}

fn to(store: &Store) -> Commands<'_> {
    Commands::new(store)
}

#[tokio::test]
async fn an_accepted_command_is_answered_once_more_with_what_it_did_then() {
    let world = World::new().await;
    let commands = to(world.worker.store());
    let first = commands.to(&Account, "alice").id("r1").handle(&open("100")).await.expect("accepted");
    let second = commands.to(&Account, "alice").id("r2").handle(&withdraw("30")).await.expect("accepted");
    assert_eq!((first.token().to_string(), second.token().to_string(), second.replayed), ("alice@1".into(), "alice@2".into(), false));
    for _ in 0..2 {
        let again = commands.to(&Account, "alice").id("r1").handle(&open("100.00")).await.expect("answered before");
        assert_eq!((again.version, &again.events, &again.state, again.replayed), (Version(1), &first.events, &first.state, true));
    }
    assert_eq!(versions(&world, "alice").await, 2);
}

#[tokio::test]
async fn a_refusal_is_answered_once_more_though_it_would_be_accepted_by_now() {
    let world = World::new().await;
    let commands = to(world.worker.store());
    commands.to(&Account, "alice").handle(&open("1")).await.expect("accepted");
    for replayed in [false, true, true] {
        match commands.to(&Account, "alice").id("r1").handle(&withdraw("5")).await {
            Err(CommandError::Refused { refusal: Refusal::InsufficientFunds, replayed: told }) => assert_eq!(told, replayed),
            other => panic!("{other:?}"),
        }
        commands.to(&Account, "alice").handle(&deposit("10")).await.expect("accepted");
    }
    let retried = commands.to(&Account, "alice").id("r2").handle(&withdraw("5")).await.expect("another id is another command");
    assert_eq!(retried.state.balance, amount("26"));
}

#[tokio::test]
async fn an_id_belongs_to_one_command_of_one_aggregate() {
    let world = World::new().await;
    let commands = to(world.worker.store());
    commands.to(&Account, "alice").id("r1").handle(&open("1")).await.expect("accepted");
    for other in [open("2"), deposit("1"), Command::Close] {
        assert!(matches!(commands.to(&Account, "alice").id("r1").handle(&other).await, Err(CommandError::IdReused)), "{other:?}");
    }
    commands.to(&Account, "bob").id("r1").handle(&open("2")).await.expect("another aggregate's ids are others");
    for (id, why) in [(String::new(), "empty"), ("x".repeat(2_000), "2000 bytes")] {
        match commands.to(&Account, "alice").id(id).handle(&deposit("1")).await {
            Err(CommandError::Invalid(message)) => assert!(message.contains(why), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((versions(&world, "alice").await, versions(&world, "bob").await), (1, 1));
}

#[tokio::test]
async fn a_command_for_a_version_is_carried_out_at_that_version_only() {
    let world = World::new().await;
    let commands = to(world.worker.store());
    commands.to(&Account, "alice").expecting(Version::NONE).handle(&open("9")).await.expect("accepted");
    let at_one = || commands.to(&Account, "alice").expecting(Version(1)).id("r1");
    at_one().handle(&withdraw("4")).await.expect("accepted");
    assert!(at_one().handle(&withdraw("4")).await.expect("the answer comes before the conflict").replayed);
    match commands.to(&Account, "alice").expecting(Version(1)).handle(&withdraw("4")).await {
        Err(CommandError::Conflict { expected, actual, .. }) => assert_eq!((expected, actual), (Version(1), Version(2))),
        other => panic!("{other:?}"),
    }
    assert_eq!(balance(&world, "alice").await, amount("5"));
}

/// Every call of a command, one after the other, is applied and its answer is lost or looks like an error.
#[tokio::test(start_paused = true)]
async fn lost_answers_change_nothing() {
    for with_id in [true, false] {
        for at in 1..=4 {
            for (status, body) in answers_though_applied().map(Some).chain([None]).map(Option::unzip) {
                let world = World::new().await;
                to(world.worker.store()).to(&Account, "alice").handle(&open("100")).await.expect("accepted");
                let plan = move |call: &Call<'_>| match (call.number == at, status, &body) {
                    (true, Some(status), Some(body)) => Fault::AppliedBut(status, body.clone()),
                    (true, ..) => Fault::Lost,
                    _ => Fault::None,
                };
                let tapped = world.tapped(plan);
                let command = to(tapped.worker.store()).to(&Account, "alice");
                let command = if with_id { command.id("r1") } else { command };
                let handled = command.handle(&withdraw("30")).await.expect("accepted");
                assert_eq!((handled.version, handled.replayed), (Version(2), false), "call {at} of {:?}", tapped.calls());
                assert_eq!(balance(&world, "alice").await, amount("70"));
            }
        }
    }
}

/// A caller that has no answer sends the command again, while another process may be sending it as well.
#[tokio::test]
async fn of_many_senders_of_one_id_one_has_the_effect_and_all_have_the_answer() {
    let world = World::new().await;
    to(world.worker.store()).to(&Account, "alice").handle(&open("100")).await.expect("accepted");
    let senders = (0..20).map(|_| to(world.worker.store()).to(&Account, "alice").id("r1").handle(const { &Command::Close }));
    let answers = futures::future::join_all(senders).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("accepted")).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.version == Version(2) && answer.events == answers[0].events));
    assert_eq!(versions(&world, "alice").await, 2);
}

#[tokio::test]
async fn a_command_that_changes_nothing_of_the_version_is_refused_without_writing_to_the_history() {
    let world = World::new().await;
    let commands = to(world.worker.store());
    let before = world.worker.store().usage();
    assert!(commands.to(&Account, "alice").handle(&withdraw("1")).await.is_err());
    let without = world.worker.store().usage() - before;
    assert_eq!((without.requests, without.write_units), (1, 0.0));
    let before = world.worker.store().usage();
    assert!(commands.to(&Account, "alice").id("r1").handle(&withdraw("1")).await.is_err());
    let with = world.worker.store().usage() - before;
    assert_eq!((with.requests, with.write_units), (2, 1.0), "the answer is one item");
    assert_eq!(versions(&world, "alice").await, 0);
    assert_eq!(Decimal::zero(), balance(&world, "alice").await);
}
