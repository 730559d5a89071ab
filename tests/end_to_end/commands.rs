//! The command side: aggregates decide, and what they decide is appended exactly once.

mod answers;
mod competition;
mod histories;

use projection_vocabulary::Decimal;
use projection_worker::Commands;
use projections::bank::account::{Account, Command};

use crate::support::world::World;

fn amount(text: &str) -> Decimal {
    text.parse().expect("a test's amount")
}

fn open(initial_deposit: &str) -> Command {
    Command::Open { initial_deposit: amount(initial_deposit) }
}

fn deposit(text: &str) -> Command {
    Command::Deposit { amount: amount(text) }
}

fn withdraw(text: &str) -> Command {
    Command::Withdraw { amount: amount(text) }
}

async fn balance(world: &World, account: &str) -> Decimal {
    Commands::new(world.worker.store()).load(&Account, account).await.expect("readable").state.balance
}
