//! `transfers`: moves the money of a transfer, first from one account and then to the other.
//!
//! | step | does | undone by |
//! |---|---|---|
//! | `withdraw` | withdraws the amount from the account that gives | depositing it there |
//! | `deposit` | deposits it to the account that gets | |
//!
//! The instance has the name of the transfer. Between the steps the money is under way, on neither account; a refused deposit sends it
//! back. If the account that gave is closed meanwhile, the instance is stuck, and an operator must decide.
//!
//! The command side can do the same at once: `together` decides both accounts in one transaction, so that money is never under way and
//! nothing is undone. Take it wherever it can be had: both aggregates are in one event store, a hundred of them at most, and whoever asks
//! waits for the answer. A process is for what one transaction cannot hold: aggregates that are too many or too busy to be written together,
//! steps that wait for people or time, calls to others. It costs an instance with some ten events, and others see the steps in between.

use projection_vocabulary::{
    Decimal, DynDecider, Recorded, Refusal,
    process::{Input, Instance, Outputs, Process, Status, Step, Steps, outputs, send},
};
use serde::{Deserialize, Serialize};

use super::{
    account::{Account, Command},
    transfer::Event,
};

/// The process.
pub struct Transfers;

/// What it records.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Fact {
    TransferBegun { transfer: Transfer },
}

/// What is moved. The amount is in the currency of both accounts.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub struct Transfer {
    pub from: String,
    pub to: String,
    pub amount: Decimal,
}

const STEPS: Steps<Transfer> = Steps::new(&[
    Step::new("withdraw", |Transfer { from, amount, .. }| {
        let back = send(&Account, from, &Command::Deposit { amount: amount.clone() });
        vec![send(&Account, from, &Command::Withdraw { amount: amount.clone() }).undo(back)]
    }),
    Step::new("deposit", |Transfer { to, amount, .. }| vec![send(&Account, to, &Command::Deposit { amount: amount.clone() })]),
]);

impl Process for Transfers {
    type Input = Event;
    type Fact = Fact;
    type State = Transfer;
    const NAME: &str = "transfers";
    const COMMANDED: &[&dyn DynDecider] = &[&Account];

    fn route(&self, event: &Recorded<'_, Event>) -> Option<String> {
        Some(event.aggregate.to_string())
    }

    fn evolve(&self, transfer: &mut Transfer, Fact::TransferBegun { transfer: begun }: &Fact) {
        *transfer = begun.clone();
    }

    fn decide(&self, instance: &Instance<Transfer>, input: Input<'_, Event>) -> Result<Outputs<Fact>, Refusal> {
        Ok(match &input {
            Input::Event(Recorded { event: Event::TransferRequested { from, to, amount }, .. }) if instance.status() == Status::New => {
                let transfer = Transfer { from: from.clone(), to: to.clone(), amount: amount.clone() };
                STEPS.begin(&transfer).record(Fact::TransferBegun { transfer })
            }
            // A transfer is requested once.
            Input::Event(_) => outputs(),
            answer => STEPS.next(instance, answer),
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use projection_vocabulary::{
        Value, data,
        testkit::{Arrival, Run, process},
    };

    use super::*;

    fn requested() -> Value {
        data! { from: "alice", to: "bob", amount: 0.10 }
    }

    fn transfer() -> Run<Transfers> {
        process(Transfers).event("transfer-1", "TransferRequested", requested())
    }

    #[test]
    fn money_goes_from_one_account_to_the_other() {
        let run = transfer().accepted("withdraw").accepted("deposit");
        expect![[r#"
            received TransferRequested of transfer-1
            recorded TransferBegun {"transfer":{"amount":0.1,"from":"alice","to":"bob"}}
            sent withdraw to account alice: {"Withdraw":{"amount":0.1}}
            accepted withdraw
            sent deposit to account bob: {"Deposit":{"amount":0.1}}
            accepted deposit
            completed
        "#]]
        .assert_eq(&run.timeline());
    }

    #[test]
    fn without_funds_there_is_nothing_to_undo() {
        let run = transfer().refused("withdraw", "the funds are insufficient");
        assert_eq!((run.status(), run.instance().why()), ("undone", Some("`withdraw` was refused: the funds are insufficient")));
        assert!(run.timeline().ends_with("insufficient\nundone\n"), "{}", run.timeline());
    }

    #[test]
    fn money_that_its_receiver_refuses_goes_back() {
        let run = transfer().accepted("withdraw").refused("deposit", "the account is not active").accepted("withdraw");
        expect![[r#"
            received TransferRequested of transfer-1
            recorded TransferBegun {"transfer":{"amount":0.1,"from":"alice","to":"bob"}}
            sent withdraw to account alice: {"Withdraw":{"amount":0.1}}
            accepted withdraw
            sent deposit to account bob: {"Deposit":{"amount":0.1}}
            refused deposit: the account is not active
            failed: `deposit` was refused: the account is not active
            sent the undo of withdraw to account alice: {"Deposit":{"amount":0.1}}
            accepted the undo of withdraw
            undone
        "#]]
        .assert_eq(&run.timeline());
    }

    #[test]
    fn money_that_cannot_go_back_waits_for_an_operator() {
        let inactive = "the account is not active";
        let run = transfer().accepted("withdraw").refused("deposit", inactive).refused("withdraw", inactive);
        assert_eq!(run.status(), "stuck");
        assert!(run.timeline().ends_with("stuck: the undo of `withdraw` was refused: the account is not active\n"), "{}", run.timeline());
        assert_eq!(run.clone().retried().accepted("withdraw").status(), "undone");
        assert_eq!(run.resolved().status(), "resolved");
    }

    #[test]
    fn a_second_request_moves_nothing() {
        let once = transfer().accepted("withdraw");
        let twice = once.clone().event("transfer-1", "TransferRequested", requested());
        assert_eq!(twice.timeline(), format!("{}received TransferRequested of transfer-1\n", once.timeline()));
    }

    #[test]
    fn a_transfer_ends_whatever_is_refused() {
        let arrivals = [Arrival { aggregate: "transfer-1", event_type: "TransferRequested", data: requested() }];
        let ends = |refused: &[(&str, bool)]| -> Vec<Status> {
            let answer = |name: &str, undo| if refused.contains(&(name, undo)) { Err("no".to_owned()) } else { Ok(Value::Null) };
            process(Transfers).every_order(&arrivals, |request| answer(&request.name, request.undoes.is_some())).into_iter().collect()
        };
        assert_eq!(ends(&[]), [Status::Completed]);
        assert_eq!(ends(&[("withdraw", false)]), [Status::Undone]);
        assert_eq!(ends(&[("deposit", false)]), [Status::Undone]);
        assert_eq!(ends(&[("deposit", false), ("withdraw", true)]), [Status::Stuck]);
    }
}
