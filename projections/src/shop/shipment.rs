//! `shipment`: what is sent to the user for an order.
//!
//! There is one aggregate for each order. Its id is another one than the order's, whose events are not a shipment's.

use projection_vocabulary::Decider;
use serde::{Deserialize, Serialize};

use super::Item;

/// The decider.
pub struct Shipment;

/// What happens to a shipment.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Event {
    ShipmentCreated { order_id: String, items: Vec<Item> },
    ShipmentDispatched { order_id: String },
    ShipmentCancelled { order_id: String },
}

/// What a shipment needs to know.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub enum State {
    /// It was never created.
    #[default]
    Absent,
    /// It can be dispatched or cancelled.
    Created {
        /// Its order.
        order: String,
    },
    /// It is on its way.
    Dispatched,
    /// It will never be dispatched.
    Cancelled,
}

/// What a shipment can be told.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Command {
    Create { order_id: String, items: Vec<Item> },
    Dispatch {},
    Cancel {},
}

/// Why a shipment refuses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize, thiserror::Error)]
#[allow(missing_docs, reason = "the messages explain them")]
pub enum Refusal {
    #[error("the shipment exists already")]
    ExistsAlready,
    #[error("there is no such shipment")]
    Absent,
    #[error("the shipment was dispatched already")]
    AlreadyDispatched,
    #[error("the shipment was cancelled")]
    Cancelled,
    #[error("a shipment needs an order and at least one item")]
    Empty,
}

impl Decider for Shipment {
    type State = State;
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;
    const KIND: &str = "shipment";

    fn decide(&self, shipment: &State, command: &Command) -> Result<Vec<Event>, Refusal> {
        match (shipment, command) {
            (State::Absent, Command::Create { order_id, items }) if order_id.trim().is_empty() || items.is_empty() => Err(Refusal::Empty),
            (State::Absent, Command::Create { order_id, items }) => {
                Ok(vec![Event::ShipmentCreated { order_id: order_id.clone(), items: items.clone() }])
            }
            (_, Command::Create { .. }) => Err(Refusal::ExistsAlready),
            (State::Created { order }, Command::Dispatch {}) => Ok(vec![Event::ShipmentDispatched { order_id: order.clone() }]),
            (State::Created { order }, Command::Cancel {}) => Ok(vec![Event::ShipmentCancelled { order_id: order.clone() }]),
            (State::Absent, Command::Dispatch {} | Command::Cancel {}) => Err(Refusal::Absent),
            (State::Dispatched, Command::Dispatch {} | Command::Cancel {}) => Err(Refusal::AlreadyDispatched),
            (State::Cancelled, Command::Dispatch {} | Command::Cancel {}) => Err(Refusal::Cancelled),
        }
    }

    fn evolve(&self, shipment: &mut State, event: &Event) {
        *shipment = match event {
            Event::ShipmentCreated { order_id, .. } => State::Created { order: order_id.clone() },
            Event::ShipmentDispatched { .. } => State::Dispatched,
            Event::ShipmentCancelled { .. } => State::Cancelled,
        };
    }
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::testkit::{decider, laws};

    use super::*;

    fn items() -> Vec<Item> {
        vec![Item { product_id: "tea".to_owned(), quantity: 3, price: "0.10".parse().expect("valid") }]
    }

    fn create(order: &str, items: Vec<Item>) -> Command {
        Command::Create { order_id: order.to_owned(), items }
    }

    fn created() -> Event {
        Event::ShipmentCreated { order_id: "o1".to_owned(), items: items() }
    }

    fn dispatched() -> Event {
        Event::ShipmentDispatched { order_id: "o1".to_owned() }
    }

    fn cancelled() -> Event {
        Event::ShipmentCancelled { order_id: "o1".to_owned() }
    }

    #[test]
    fn a_shipment_is_created_once_for_an_order_with_items() {
        decider(&Shipment).when(&create("o1", items())).then([created()]);
        decider(&Shipment).when(&create(" ", items())).refused(Refusal::Empty);
        decider(&Shipment).when(&create("o1", vec![])).refused(Refusal::Empty);
        for more in [vec![], vec![dispatched()], vec![cancelled()]] {
            decider(&Shipment).given([created()]).given(more).when(&create("o1", items())).refused(Refusal::ExistsAlready);
        }
    }

    #[test]
    fn a_shipment_is_either_dispatched_or_cancelled() {
        let (dispatch, cancel) = (Command::Dispatch {}, Command::Cancel {});
        let shipment = decider(&Shipment).given([created()]);
        shipment.when(&dispatch).then([dispatched()]);
        shipment.when(&cancel).then([cancelled()]);
        for command in [dispatch, cancel] {
            decider(&Shipment).when(&command).refused(Refusal::Absent);
            decider(&Shipment).given([created(), dispatched()]).when(&command).refused(Refusal::AlreadyDispatched);
            decider(&Shipment).given([created(), cancelled()]).when(&command).refused(Refusal::Cancelled);
        }
    }

    #[test]
    fn the_laws_hold() {
        laws(&Shipment, [create("", vec![]), create("o1", items()), Command::Dispatch {}, Command::Cancel {}]);
        laws(&Shipment, [Command::Dispatch {}, create("o1", items()), Command::Cancel {}, Command::Dispatch {}, create("o1", items())]);
    }
}
