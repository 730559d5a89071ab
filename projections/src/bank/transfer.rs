//! `transfer`: the request to move money from one account to another. There is one aggregate for each transfer.
//!
//! A transfer knows nothing of the accounts: whether they exist and have the funds is for them to decide.

use projection_vocabulary::{Decider, Decimal};
use serde::{Deserialize, Serialize};

/// The decider.
pub struct Transfer;

/// What happens to a transfer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Event {
    TransferRequested { from: String, to: String, amount: Decimal },
}

/// What a transfer needs to know.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct State {
    /// Whether it was requested.
    pub requested: bool,
}

/// What a transfer can be told: `from` and `to` are ids of accounts, and the amount is in their currency.
#[derive(Debug, Deserialize, Serialize)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Command {
    Request { from: String, to: String, amount: Decimal },
}

/// Why a transfer refuses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize, thiserror::Error)]
#[allow(missing_docs, reason = "the messages explain them")]
pub enum Refusal {
    #[error("the transfer was requested before")]
    RequestedBefore,
    #[error("a transfer needs two accounts")]
    NoAccount,
    #[error("the money would go to the account from which it comes")]
    SameAccount,
    #[error("the amount is not positive")]
    NotPositive,
    #[error("the amount has more than 38 significant digits")]
    TooManyDigits,
}

impl Decider for Transfer {
    type State = State;
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;
    const KIND: &str = "transfer";

    fn decide(&self, transfer: &State, Command::Request { from, to, amount }: &Command) -> Result<Vec<Event>, Refusal> {
        if transfer.requested {
            return Err(Refusal::RequestedBefore);
        }
        if [from, to].iter().any(|account| account.trim().is_empty()) {
            return Err(Refusal::NoAccount);
        }
        if from == to {
            return Err(Refusal::SameAccount);
        }
        if *amount <= Decimal::zero() {
            return Err(Refusal::NotPositive);
        }
        amount.check().map_err(|_| Refusal::TooManyDigits)?;
        Ok(vec![Event::TransferRequested { from: from.clone(), to: to.clone(), amount: amount.clone() }])
    }

    fn evolve(&self, transfer: &mut State, Event::TransferRequested { .. }: &Event) {
        transfer.requested = true;
    }
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::testkit::{decider, laws};

    use super::*;

    fn amount(text: &str) -> Decimal {
        text.parse().expect("valid")
    }

    fn request(from: &str, to: &str, amount: Decimal) -> Command {
        Command::Request { from: from.to_owned(), to: to.to_owned(), amount }
    }

    fn requested(text: &str) -> Event {
        Event::TransferRequested { from: "alice".to_owned(), to: "bob".to_owned(), amount: amount(text) }
    }

    #[test]
    fn a_transfer_is_requested_once() {
        decider(&Transfer).when(&request("alice", "bob", amount("0.10"))).then([requested("0.10")]);
        for again in [request("alice", "bob", amount("0.10")), request("bob", "bob", amount("0"))] {
            decider(&Transfer).given([requested("0.10")]).when(&again).refused(Refusal::RequestedBefore);
        }
    }

    #[test]
    fn a_transfer_has_two_accounts() {
        for (from, to, refusal) in
            [("alice", "alice", Refusal::SameAccount), ("", "bob", Refusal::NoAccount), ("alice", " ", Refusal::NoAccount)]
        {
            decider(&Transfer).when(&request(from, to, amount("1"))).refused(refusal);
        }
    }

    #[test]
    fn an_amount_is_positive_and_exact() {
        for none in ["0", "-1"] {
            decider(&Transfer).when(&request("alice", "bob", amount(none))).refused(Refusal::NotPositive);
        }
        // No text holds such a number, but a sum does.
        let mut sum = amount("10000000000000000000000000000000000000");
        decider(&Transfer).when(&request("alice", "bob", sum.clone())).then([requested("10000000000000000000000000000000000000")]);
        sum += &amount("0.01");
        decider(&Transfer).when(&request("alice", "bob", sum)).refused(Refusal::TooManyDigits);
    }

    #[test]
    fn the_laws_hold() {
        laws(&Transfer, [("alice", "alice"), ("alice", "bob"), ("bob", "alice")].map(|(from, to)| request(from, to, amount("12.34"))));
    }
}
