//! `account`: a bank account, which is never overdrawn.

use projection_vocabulary::{Decider, Decimal};
use serde::{Deserialize, Serialize};

use super::Event;

/// The decider.
pub struct Account;

/// What an account needs to know.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct State {
    /// Whether it is in use.
    pub status: Status,
    /// Deposits less withdrawals.
    pub balance: Decimal,
}

/// Whether an account is in use.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Status {
    #[default]
    Unopened,
    Active,
    Closed,
}

/// What an account can be told. Amounts are in its currency.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Command {
    Open { initial_deposit: Decimal },
    Deposit { amount: Decimal },
    Withdraw { amount: Decimal },
    Close,
}

/// Why an account refuses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize, thiserror::Error)]
#[allow(missing_docs, reason = "the messages explain them")]
pub enum Refusal {
    #[error("the account was opened before")]
    OpenedBefore,
    #[error("the account is not active")]
    Inactive,
    #[error("the amount is not positive")]
    NotPositive,
    #[error("the initial deposit is negative")]
    NegativeDeposit,
    #[error("the funds are insufficient")]
    InsufficientFunds,
    #[error("the balance would have more than 38 significant digits")]
    TooManyDigits,
}

impl Decider for Account {
    type State = State;
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;
    const KIND: &str = "account";
    const SNAPSHOT_EVERY: Option<u64> = Some(100);

    fn decide(&self, account: &State, command: &Command) -> Result<Vec<Event>, Refusal> {
        let active = account.status == Status::Active;
        let refusal = match command {
            Command::Open { .. } if account.status != Status::Unopened => Refusal::OpenedBefore,
            Command::Open { initial_deposit } if *initial_deposit < Decimal::zero() => Refusal::NegativeDeposit,
            Command::Deposit { .. } | Command::Withdraw { .. } | Command::Close if !active => Refusal::Inactive,
            Command::Deposit { amount } | Command::Withdraw { amount } if *amount <= Decimal::zero() => Refusal::NotPositive,
            Command::Withdraw { amount } if *amount > account.balance => Refusal::InsufficientFunds,
            Command::Open { initial_deposit } => return Ok(vec![Event::AccountOpened { initial_deposit: initial_deposit.clone() }]),
            Command::Deposit { amount } => return checked(account, Event::MoneyDeposited { amount: amount.clone() }),
            Command::Withdraw { amount } => return checked(account, Event::MoneyWithdrawn { amount: amount.clone() }),
            Command::Close => return Ok(vec![Event::AccountClosed {}]),
        };
        Err(refusal)
    }

    fn evolve(&self, account: &mut State, event: &Event) {
        match event {
            Event::AccountOpened { initial_deposit } => {
                account.status = Status::Active;
                account.balance += initial_deposit;
            }
            Event::MoneyDeposited { amount } => account.balance += amount,
            Event::MoneyWithdrawn { amount } => account.balance -= amount,
            Event::AccountClosed {} => account.status = Status::Closed,
        }
    }
}

/// A row can hold the balance after the event: if it could not, the account would be parked.
fn checked(account: &State, event: Event) -> Result<Vec<Event>, Refusal> {
    let mut after = account.clone();
    Account.evolve(&mut after, &event);
    after.balance.check().map_err(|_| Refusal::TooManyDigits)?;
    Ok(vec![event])
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::testkit::{decider, laws};

    use super::*;

    fn amount(text: &str) -> Decimal {
        text.parse().expect("valid")
    }

    fn opened(deposit: &str) -> Event {
        Event::AccountOpened { initial_deposit: amount(deposit) }
    }

    #[test]
    fn money_comes_and_goes_exactly() {
        let account = decider(&Account).given([opened("0.10"), Event::MoneyDeposited { amount: amount("0.20") }]);
        account.when(&Command::Withdraw { amount: amount("0.30") }).then([Event::MoneyWithdrawn { amount: amount("0.30") }]);
        account.when(&Command::Withdraw { amount: amount("0.3000000000000000001") }).refused(Refusal::InsufficientFunds);
        account.when(&Command::Close).then([Event::AccountClosed {}]);
    }

    #[test]
    fn an_account_is_opened_once_and_used_while_it_is_active() {
        let deposit = Command::Deposit { amount: amount("1") };
        decider(&Account).when(&deposit).refused(Refusal::Inactive);
        decider(&Account).when(&Command::Open { initial_deposit: amount("0") }).then([opened("0")]);
        decider(&Account).when(&Command::Open { initial_deposit: amount("-1") }).refused(Refusal::NegativeDeposit);
        let open = decider(&Account).given([opened("5")]);
        open.when(&Command::Open { initial_deposit: amount("5") }).refused(Refusal::OpenedBefore);
        for none in ["0", "-1"] {
            open.when(&Command::Deposit { amount: amount(none) }).refused(Refusal::NotPositive);
            open.when(&Command::Withdraw { amount: amount(none) }).refused(Refusal::NotPositive);
        }
        let closed = open.given([Event::AccountClosed {}]);
        closed.when(&deposit).refused(Refusal::Inactive);
        closed.when(&Command::Close).refused(Refusal::Inactive);
        closed.when(&Command::Open { initial_deposit: amount("5") }).refused(Refusal::OpenedBefore);
    }

    #[test]
    fn a_balance_that_no_row_can_hold_is_refused() {
        let rich = decider(&Account).given([opened("10000000000000000000000000000000000000")]);
        rich.when(&Command::Deposit { amount: amount("0.1") }).refused(Refusal::TooManyDigits);
        rich.when(&Command::Withdraw { amount: amount("0.01") }).refused(Refusal::TooManyDigits);
        rich.when(&Command::Deposit { amount: amount("1") }).then([Event::MoneyDeposited { amount: amount("1") }]);
    }

    #[test]
    fn the_laws_hold() {
        let amounts = ["100", "0.01", "99.99"].map(amount);
        let uses = amounts.iter().map(|amount| Command::Deposit { amount: amount.clone() });
        let open = Command::Open { initial_deposit: amount("1") };
        let withdraw = amounts.iter().map(|amount| Command::Withdraw { amount: amount.clone() });
        laws(&Account, std::iter::once(open).chain(uses).chain(withdraw).chain([Command::Close, Command::Close]));
    }
}
