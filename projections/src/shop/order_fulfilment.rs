//! `order-fulfilment`: reserves what an order needs, takes the payment from a bank account and sees to the shipment.
//!
//! | step | does | undone by |
//! |---|---|---|
//! | `reserve` | reserves each product of the order in its stock | releasing it |
//! | `pay` | withdraws the total from the account, unless it is zero | depositing it there |
//! | `ship` | creates the shipment, and says that the order is paid | cancelling the shipment |
//! | | and waits three days at most for its dispatch | |
//! | `finish` | takes the products out of the stocks, and says that the order is shipped | |
//!
//! From the beginning, a failure cancels the order, after all else is undone. The instance has the name of the order; an order without an
//! account to pay from has none. A shipment that is dispatched just when its time runs out cannot be cancelled: then the instance is
//! stuck, with the payment taken and the goods under way, and an operator decides.

use std::{collections::BTreeMap, time::Duration};

use projection_vocabulary::{
    Decimal, DynDecider, Recorded, Refusal,
    process::{Input, Instance, Outputs, Process, Request, Status as At, Step, Steps, outputs, send},
};
use serde::{Deserialize, Serialize};

use super::{
    Item, Status,
    order::{self, Order},
    shipment::{self, Shipment},
    stock::{self, Stock},
};
use crate::bank::account::{self, Account};

/// The process.
pub struct OrderFulfilment;

/// What it reacts to.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Event {
    OrderPlaced {
        items: Vec<Item>,
        total: Decimal,
        #[serde(default)]
        account_id: Option<String>,
    },
    ShipmentDispatched {
        order_id: String,
    },
}

/// What it records.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Fact {
    FulfilmentBegun { order: Fulfilment },
}

/// What it needs to know of an order.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fulfilment {
    /// The order.
    pub order_id: String,
    /// What is shipped.
    pub items: Vec<Item>,
    /// What is paid, in the currency of the account.
    pub total: Decimal,
    /// The account that pays.
    pub account_id: String,
}

/// How long a shipment may wait for its dispatch.
const DISPATCHED_WITHIN: Duration = Duration::from_hours(72);

const STEPS: Steps<Fulfilment> = Steps::new(&[
    Step::new("reserve", |order: &Fulfilment| {
        order.of_each_product(|order_id, quantity| {
            let reserve = stock::Command::Reserve { order_id: order_id.clone(), quantity };
            (reserve, Some(stock::Command::Release { order_id }))
        })
    }),
    Step::new("pay", Fulfilment::pay),
    Step::new("ship", |order: &Fulfilment| {
        let create = shipment::Command::Create { order_id: order.order_id.clone(), items: order.items.clone() };
        let shipment = order.shipment();
        let cancel = send(&Shipment, &shipment, &shipment::Command::Cancel {});
        vec![send(&Shipment, &shipment, &create).undo(cancel), order.becomes(Status::Paid)]
    })
    .arrives_within(DISPATCHED_WITHIN),
    Step::new("finish", |order: &Fulfilment| {
        let mut requests = order.of_each_product(|order_id, _| (stock::Command::Ship { order_id }, None));
        requests.push(order.becomes(Status::Shipped));
        requests
    }),
]);

impl Fulfilment {
    /// How much of each product it needs; `None` if that is more than a stock can reserve.
    fn quantities(&self) -> Option<BTreeMap<&str, u32>> {
        self.items.iter().try_fold(BTreeMap::new(), |mut quantities: BTreeMap<&str, u32>, Item { product_id, quantity, .. }| {
            let sum = quantities.entry(product_id).or_default();
            *sum = sum.checked_add(*quantity)?;
            Some(quantities)
        })
    }

    /// A command to the stock of each product, and what undoes it.
    fn of_each_product(&self, command: impl Fn(String, u32) -> (stock::Command, Option<stock::Command>)) -> Vec<Request> {
        let request = |(product, quantity): (&str, u32)| {
            let (command, undo) = command(self.order_id.clone(), quantity);
            let request = send(&Stock, product, &command);
            match undo {
                Some(undo) => request.undo(send(&Stock, product, &undo)),
                None => request,
            }
        };
        self.quantities().unwrap_or_default().into_iter().map(request).collect()
    }

    fn pay(&self) -> Vec<Request> {
        if self.total.is_zero() {
            return vec![];
        }
        let amount = || self.total.clone();
        let refund = send(&Account, &self.account_id, &account::Command::Deposit { amount: amount() });
        vec![send(&Account, &self.account_id, &account::Command::Withdraw { amount: amount() }).undo(refund)]
    }

    fn shipment(&self) -> String {
        shipment_of(&self.order_id)
    }

    fn becomes(&self, status: Status) -> Request {
        send(&Order, &self.order_id, &order::Command::ChangeStatus { status })
    }
}

/// The aggregate of an order's shipment.
fn shipment_of(order_id: &str) -> String {
    format!("shipment-{order_id}")
}

impl Process for OrderFulfilment {
    type Input = Event;
    type Fact = Fact;
    type State = Fulfilment;
    const NAME: &str = "order-fulfilment";
    const COMMANDED: &[&dyn DynDecider] = &[&Stock, &Account, &Shipment, &Order];

    fn route(&self, event: &Recorded<'_, Event>) -> Option<String> {
        match &event.event {
            Event::OrderPlaced { account_id, .. } => account_id.is_some().then(|| event.aggregate.to_string()),
            // Of the shipment that it has created, not of others that somebody sends for the order.
            Event::ShipmentDispatched { order_id } => (event.aggregate.as_str() == shipment_of(order_id)).then(|| order_id.clone()),
        }
    }

    fn evolve(&self, order: &mut Fulfilment, Fact::FulfilmentBegun { order: begun }: &Fact) {
        *order = begun.clone();
    }

    fn decide(&self, instance: &Instance<Fulfilment>, input: Input<'_, Event>) -> Result<Outputs<Fact>, Refusal> {
        let Input::Event(event) = &input else { return Ok(STEPS.next(instance, &input)) };
        Ok(match &event.event {
            Event::OrderPlaced { items, total, account_id: Some(account_id) } if instance.status() == At::New => {
                let (order_id, items, total) = (event.aggregate.to_string(), items.clone(), total.clone());
                begin(Fulfilment { order_id, items, total, account_id: account_id.clone() })
            }
            // An order is placed once.
            Event::OrderPlaced { .. } => outputs(),
            Event::ShipmentDispatched { .. } => STEPS.arrived(instance, "ship"),
        })
    }
}

fn begin(order: Fulfilment) -> Outputs<Fact> {
    let outputs = match order.quantities() {
        Some(_) => STEPS.begin(&order),
        None => outputs().fail("the order needs more of one product than a stock can reserve"),
    };
    outputs.undo_by("cancel-order", order.becomes(Status::Cancelled)).record(Fact::FulfilmentBegun { order })
}

#[cfg(test)]
mod tests;
