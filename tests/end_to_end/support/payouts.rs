//! A process with all that processes have: two steps with commands, a call, an answer of another aggregate that it waits for, and undoing.

use std::time::Duration;

use projection_vocabulary::{
    DynDecider, DynProjection, Recorded, Refusal,
    process::{Input, Instance, Outputs, Process, ProcessRule, ProcessStatus, Request, Step, Steps, call, outputs, send},
};
use projections::bank::{
    account::{Account, Command},
    transfer,
};
use serde::{Deserialize, Serialize};

/// Takes the money that a transfer asks for from one account, wires it by a call, waits for the receipt, and notes it on the other account.
pub struct Payouts;

/// What it reacts to: requests of transfers, and the receipts of the far bank, which somebody appends as events of their own.
#[derive(Deserialize)]
pub enum Event {
    TransferRequested { from: String, to: String, amount: projection_vocabulary::Decimal },
    ReceiptArrived { of: String },
}

#[derive(Clone, Serialize, Deserialize)]
pub enum Fact {
    PayoutBegun { payout: Payout },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Payout {
    pub from: String,
    pub to: String,
    pub amount: projection_vocabulary::Decimal,
}

/// The process and the projection of its instances.
pub const PAYOUTS: &[&dyn DynProjection] = &[&ProcessRule(Payouts), &ProcessStatus];

const STEPS: Steps<Payout> = Steps::new(&[
    Step::new("take", |payout| vec![take(payout)]),
    Step::new("wire", |payout| vec![call("wire", payout)]).arrives_within(Duration::from_hours(1)),
    Step::new("note", |payout| vec![deposit(&payout.to, payout)]),
]);

fn take(payout: &Payout) -> Request {
    send(&Account, &payout.from, &Command::Withdraw { amount: payout.amount.clone() }).undo(deposit(&payout.from, payout))
}

fn deposit(account: &str, payout: &Payout) -> Request {
    send(&Account, account, &Command::Deposit { amount: payout.amount.clone() })
}

impl Process for Payouts {
    type Input = Event;
    type Fact = Fact;
    type State = Payout;
    const NAME: &str = "payouts";
    const COMMANDED: &[&dyn DynDecider] = &[&Account];

    fn route(&self, event: &Recorded<'_, Event>) -> Option<String> {
        match &event.event {
            Event::TransferRequested { .. } => Some(event.aggregate.to_string()),
            Event::ReceiptArrived { of } => Some(of.clone()),
        }
    }

    fn evolve(&self, state: &mut Payout, Fact::PayoutBegun { payout }: &Fact) {
        *state = payout.clone();
    }

    fn decide(&self, instance: &Instance<Payout>, input: Input<'_, Event>) -> Result<Outputs<Fact>, Refusal> {
        let Input::Event(event) = &input else { return Ok(STEPS.next(instance, &input)) };
        Ok(match &event.event {
            Event::TransferRequested { amount, .. } if *amount == projection_vocabulary::Decimal::from(666) => {
                return Err(Refusal::Rule("not that amount"));
            }
            Event::TransferRequested { .. } => begun(&event.event),
            Event::ReceiptArrived { .. } if *instance.state() == Payout::default() => outputs(),
            Event::ReceiptArrived { .. } => STEPS.arrived(instance, "wire"),
        })
    }
}

/// [`PAYOUTS`] without its mistake.
pub const MENDED: &[&dyn DynProjection] = &[&ProcessRule(Mended::<1>), &ProcessStatus];
/// The same with a newer revision.
pub const NEWER: &[&dyn DynProjection] = &[&ProcessRule(Mended::<2>), &ProcessStatus];

/// The request of a transfer.
pub fn request(from: &str, to: &str, amount: &str) -> transfer::Command {
    transfer::Command::Request { from: from.to_owned(), to: to.to_owned(), amount: amount.parse().expect("a test's amount") }
}

/// The same process, which takes any amount.
pub struct Mended<const REVISION: u32>;

impl<const REVISION: u32> Process for Mended<REVISION> {
    type Input = Event;
    type Fact = Fact;
    type State = Payout;
    const NAME: &str = Payouts::NAME;
    const REVISION: u32 = REVISION;
    const COMMANDED: &[&dyn DynDecider] = Payouts::COMMANDED;

    fn route(&self, event: &Recorded<'_, Event>) -> Option<String> {
        Payouts.route(event)
    }

    fn evolve(&self, state: &mut Payout, fact: &Fact) {
        Payouts.evolve(state, fact);
    }

    fn decide(&self, instance: &Instance<Payout>, input: Input<'_, Event>) -> Result<Outputs<Fact>, Refusal> {
        match &input {
            Input::Event(event) if matches!(event.event, Event::TransferRequested { .. }) => Ok(begun(&event.event)),
            _ => Payouts.decide(instance, input),
        }
    }
}

fn begun(event: &Event) -> Outputs<Fact> {
    let Event::TransferRequested { from, to, amount } = event else { return outputs() };
    let payout = Payout { from: from.clone(), to: to.clone(), amount: amount.clone() };
    STEPS.begin(&payout).record(Fact::PayoutBegun { payout })
}
