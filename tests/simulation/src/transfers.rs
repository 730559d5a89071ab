//! A process that moves coins between purses in several ways, in two revisions.

use std::time::Duration;

use projection_vocabulary::{
    DynDecider, Recorded, Refusal,
    process::{Input, Instance, Outputs, Process, Request, Step, Steps, call, outputs, send},
};
use serde::{Deserialize, Serialize};

use crate::{
    purses::{Command, Purse},
    rules::{BROKEN, FAULTY},
};

/// The name of the process, and of its table.
pub const NAME: &str = "transfers";
/// The aggregates whose events it receives.
pub const DESKS: [&str; 2] = ["desk-a", "desk-b"];
/// The function that pays a fee to the far side.
pub const PAY: &str = "pay";
/// The function that gives it back.
pub const REPAY: &str = "repay";

/// Moves coins. The two revisions have the same rules, but record amounts that cannot stand in for each other.
pub struct Transfers<const MODE: u8, const REVISION: u32>;

/// What is to be moved, and how. The second revision has debts in place of coins.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Order {
    /// Its name.
    pub transfer: String,
    /// The purse that pays.
    pub from: String,
    /// The purse that pays one of the coins; empty if `from` pays all of them.
    pub also: String,
    /// The purse that gets the coins.
    pub to: String,
    /// How many.
    pub coins: i64,
    /// How many more go to the far side.
    pub fee: i64,
    /// Whether somebody must confirm it.
    pub waits: bool,
    /// A purse that pays one more coin at the end; empty if none does.
    pub seal: String,
    /// Whether what undoes the last step is said only once it is done.
    pub undo_late: bool,
}

/// What the process receives.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[allow(missing_docs, reason = "the names say everything")]
pub enum Event {
    Asked { order: Order },
    Confirmed { transfer: String },
    Prolonged { transfer: String },
    Stopped { transfer: String },
    Smudged { transfer: String },
}

/// What it records.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[allow(missing_docs, reason = "the names say everything")]
pub enum Fact {
    Begun {
        order: Order,
        /// Whether the second revision recorded it. The first one does not know that it should look.
        #[serde(default)]
        second: bool,
    },
    Noted {},
}

/// The argument of a call.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Fee {
    /// The transfer.
    pub transfer: String,
    /// How many.
    pub coins: i64,
}

/// The answer to a call.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Receipt {
    /// The key that it was made with.
    pub key: String,
}

fn amount<const REVISION: u32>(recorded: i64) -> i64 {
    if REVISION == 2 { -recorded } else { recorded }
}

fn spend(purse: &str, coins: i64) -> Request {
    send(&Purse::<1>, purse, &Command::Spend { coins })
}

fn gain(purse: &str, coins: i64) -> Request {
    send(&Purse::<1>, purse, &Command::Gain { coins })
}

fn take<const REVISION: u32>(order: &Order) -> Vec<Request> {
    let coins = amount::<REVISION>(order.coins + order.fee);
    let one = |purse: &str, coins| spend(purse, coins).undo(gain(purse, coins));
    if order.also.is_empty() { vec![one(&order.from, coins)] } else { vec![one(&order.from, coins - 1), one(&order.also, 1)] }
}

fn pay<const REVISION: u32>(order: &Order) -> Vec<Request> {
    let fee = Fee { transfer: order.transfer.clone(), coins: amount::<REVISION>(order.fee) };
    if order.fee == 0 { Vec::new() } else { vec![call(PAY, &fee).undo(call(REPAY, &fee))] }
}

/// Only the second revision has this step. It changes nothing.
fn greet<const REVISION: u32>(order: &Order) -> Vec<Request> {
    if REVISION == 2 { look(order) } else { Vec::new() }
}

fn look(order: &Order) -> Vec<Request> {
    vec![send(&Purse::<1>, &order.to, &Command::Look)]
}

fn give<const REVISION: u32>(order: &Order) -> Vec<Request> {
    let coins = amount::<REVISION>(order.coins);
    let given = gain(&order.to, coins);
    vec![if order.undo_late { given } else { given.undo(spend(&order.to, coins)) }]
}

fn seal(order: &Order) -> Vec<Request> {
    if order.seal.is_empty() { Vec::new() } else { vec![spend(&order.seal, 1).undo(gain(&order.seal, 1))] }
}

fn tip(order: &Order) -> Vec<Request> {
    if order.seal.is_empty() { Vec::new() } else { vec![gain(&order.to, 1)] }
}

/// How long it waits to be confirmed.
const PATIENCE: Duration = Duration::from_mins(5);

impl<const MODE: u8, const REVISION: u32> Transfers<MODE, REVISION> {
    const AT_ONCE: Steps<Order> = Steps::new(&[
        Step::new("take", take::<REVISION>),
        Step::new("pay", pay::<REVISION>),
        Step::new("greet", greet::<REVISION>),
        Step::new("give", give::<REVISION>),
        Step::new("seal", seal),
        Step::new("tip", tip),
    ]);
    const CONFIRMED: Steps<Order> = Steps::new(&[
        Step::new("take", take::<REVISION>),
        Step::new("pay", pay::<REVISION>),
        Step::new("greet", greet::<REVISION>),
        Step::new("confirm", look).arrives_within(PATIENCE),
        Step::new("give", give::<REVISION>),
        Step::new("seal", seal),
        Step::new("tip", tip),
    ]);

    fn steps(order: &Order) -> Steps<Order> {
        if order.waits { Self::CONFIRMED } else { Self::AT_ONCE }
    }
}

impl<const MODE: u8, const REVISION: u32> Process for Transfers<MODE, REVISION> {
    type Input = Event;
    type Fact = Fact;
    type State = Order;
    const NAME: &str = NAME;
    const REVISION: u32 = REVISION;
    const COMMANDED: &[&dyn DynDecider] = &[&Purse::<1>];

    fn route(&self, event: &Recorded<'_, Event>) -> Option<String> {
        Some(transfer_of(&event.event).to_owned())
    }

    fn evolve(&self, state: &mut Order, fact: &Fact) {
        let Fact::Begun { order, second } = fact else { return };
        *state = order.clone();
        if REVISION == 2 && !second {
            (state.coins, state.fee) = (-order.coins, -order.fee);
        }
    }

    fn decide(&self, instance: &Instance<Order>, input: Input<'_, Event>) -> Result<Outputs<Fact>, Refusal> {
        assert!(MODE != BROKEN || matches!(input, Input::Event(_)), "a bad deployment");
        let order = instance.state();
        let steps = Self::steps(order);
        match &input {
            _ if MODE == BROKEN => Err(Refusal::Rule("a bad deployment")),
            Input::Event(event) => match &event.event {
                Event::Asked { order: asked } if order.transfer.is_empty() => {
                    let order = Order { coins: amount::<REVISION>(asked.coins), fee: amount::<REVISION>(asked.fee), ..asked.clone() };
                    Ok(Self::steps(&order).begin(&order).record(Fact::Begun { order, second: REVISION == 2 }))
                }
                Event::Confirmed { .. } => Ok(steps.arrived(instance, "confirm")),
                Event::Prolonged { .. } if instance.timer("confirm") => Ok(outputs().after(PATIENCE, "confirm")),
                // What undoes it late is not known while it is under way.
                // Nor can the tip be undone.
                Event::Stopped { .. } if order.undo_late && instance.waiting("give") > 0 || instance.waiting("tip") > 0 => Ok(outputs()),
                Event::Stopped { .. } if order.transfer.is_empty() => Ok(outputs()),
                Event::Stopped { .. } => Ok(outputs().fail("somebody stopped it")),
                Event::Smudged { .. } if MODE == FAULTY => Err(Refusal::Rule("smudged")),
                _ => Ok(outputs()),
            },
            Input::Accepted { name: "give", .. } if order.undo_late => {
                Ok(steps.next(instance, &input).undo_by("give", spend(&order.to, amount::<REVISION>(order.coins))))
            }
            Input::Accepted { .. } if REVISION == 2 => Ok(steps.next(instance, &input).record(Fact::Noted {})),
            _ => Ok(steps.next(instance, &input)),
        }
    }
}

/// The transfer that an event is about.
#[must_use]
pub fn transfer_of(event: &Event) -> &str {
    match event {
        Event::Asked { order } => &order.transfer,
        Event::Confirmed { transfer } | Event::Prolonged { transfer } | Event::Stopped { transfer } | Event::Smudged { transfer } => {
            transfer
        }
    }
}
