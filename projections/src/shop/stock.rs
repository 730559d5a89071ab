//! `stock`: how much of a product is there, and for which orders it is set aside.
//!
//! There is one aggregate for each product, whose id no aggregate of another kind has. What is
//! available, what is reserved and what was shipped together change only when stock is received.

use std::collections::BTreeMap;

use projection_vocabulary::Decider;
use serde::{Deserialize, Serialize};

/// The decider.
pub struct Stock;

/// What happens to the stock of a product.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Event {
    StockReceived { quantity: u32 },
    StockReserved { order_id: String, quantity: u32 },
    StockReleased { order_id: String, quantity: u32 },
    StockShipped { order_id: String, quantity: u32 },
}

/// What a stock needs to know.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct State {
    /// What can be reserved.
    pub available: u64,
    /// What is set aside, by order.
    pub reservations: BTreeMap<String, u32>,
    /// What has left, in all.
    pub shipped: u64,
}

/// What a stock can be told.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Command {
    Receive { quantity: u32 },
    Reserve { order_id: String, quantity: u32 },
    Release { order_id: String },
    Ship { order_id: String },
}

/// Why a stock refuses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize, thiserror::Error)]
#[allow(missing_docs, reason = "the messages explain them")]
pub enum Refusal {
    #[error("the quantity is not positive")]
    NotPositive,
    #[error("there is not enough in stock")]
    NotEnough,
    #[error("nothing is reserved for this order")]
    NotReserved,
    #[error("stock was reserved for this order before")]
    ReservedBefore,
    #[error("a reservation needs an order")]
    NoOrder,
}

impl Decider for Stock {
    type State = State;
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;
    const KIND: &str = "stock";
    const SNAPSHOT_EVERY: Option<u64> = Some(100);

    fn decide(&self, stock: &State, command: &Command) -> Result<Vec<Event>, Refusal> {
        let event = match command {
            Command::Receive { quantity: 0 } | Command::Reserve { quantity: 0, .. } => return Err(Refusal::NotPositive),
            Command::Receive { quantity } => Event::StockReceived { quantity: *quantity },
            Command::Reserve { order_id, .. } if order_id.trim().is_empty() => return Err(Refusal::NoOrder),
            Command::Reserve { order_id, .. } if stock.reservations.contains_key(order_id) => return Err(Refusal::ReservedBefore),
            Command::Reserve { quantity, .. } if u64::from(*quantity) > stock.available => return Err(Refusal::NotEnough),
            Command::Reserve { order_id, quantity } => Event::StockReserved { order_id: order_id.clone(), quantity: *quantity },
            Command::Release { order_id } => {
                let quantity = *stock.reservations.get(order_id).ok_or(Refusal::NotReserved)?;
                Event::StockReleased { order_id: order_id.clone(), quantity }
            }
            Command::Ship { order_id } => {
                let quantity = *stock.reservations.get(order_id).ok_or(Refusal::NotReserved)?;
                Event::StockShipped { order_id: order_id.clone(), quantity }
            }
        };
        Ok(vec![event])
    }

    fn evolve(&self, stock: &mut State, event: &Event) {
        match event {
            Event::StockReceived { quantity } => stock.available += u64::from(*quantity),
            // After the correction of an event, a history may reserve more than there is: no more is set aside than that.
            Event::StockReserved { order_id, quantity } => {
                let there = u32::try_from(stock.available).unwrap_or(u32::MAX);
                let reserved = stock.reservations.entry(order_id.clone()).or_default();
                let before = *reserved;
                *reserved = before.saturating_add(there.min(*quantity));
                stock.available -= u64::from(*reserved - before);
            }
            Event::StockReleased { order_id, .. } => {
                stock.available += u64::from(stock.reservations.remove(order_id).unwrap_or_default());
            }
            Event::StockShipped { order_id, .. } => {
                stock.shipped += u64::from(stock.reservations.remove(order_id).unwrap_or_default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::testkit::{decider, laws};

    use super::*;

    fn receive(quantity: u32) -> Command {
        Command::Receive { quantity }
    }

    fn reserve(order: &str, quantity: u32) -> Command {
        Command::Reserve { order_id: order.to_owned(), quantity }
    }

    fn release(order: &str) -> Command {
        Command::Release { order_id: order.to_owned() }
    }

    fn ship(order: &str) -> Command {
        Command::Ship { order_id: order.to_owned() }
    }

    fn received(quantity: u32) -> Event {
        Event::StockReceived { quantity }
    }

    fn reserved(order: &str, quantity: u32) -> Event {
        Event::StockReserved { order_id: order.to_owned(), quantity }
    }

    fn released(order: &str, quantity: u32) -> Event {
        Event::StockReleased { order_id: order.to_owned(), quantity }
    }

    fn shipped(order: &str, quantity: u32) -> Event {
        Event::StockShipped { order_id: order.to_owned(), quantity }
    }

    fn total(stock: &State) -> u64 {
        stock.available + stock.shipped + stock.reservations.values().copied().map(u64::from).sum::<u64>()
    }

    #[test]
    fn no_more_is_reserved_than_is_available() {
        decider(&Stock).when(&reserve("o1", 1)).refused(Refusal::NotEnough);
        let stock = decider(&Stock).given([received(5), reserved("o1", 3)]);
        stock.when(&reserve("o2", 3)).refused(Refusal::NotEnough);
        stock.when(&reserve("o2", 2)).then([reserved("o2", 2)]);
        stock.when(&receive(1)).then([received(1)]);
        let most = decider(&Stock).given([received(u32::MAX), received(u32::MAX), reserved("o1", u32::MAX)]);
        most.when(&reserve("o2", u32::MAX)).then([reserved("o2", u32::MAX)]);
    }

    #[test]
    fn an_order_has_one_reservation_and_releases_all_of_it_once() {
        let stock = decider(&Stock).given([received(5), reserved("o1", 3)]);
        stock.when(&reserve("o1", 1)).refused(Refusal::ReservedBefore);
        stock.when(&release("o2")).refused(Refusal::NotReserved);
        stock.when(&release("o1")).then([released("o1", 3)]);
        let released = stock.given([released("o1", 3)]);
        released.when(&release("o1")).refused(Refusal::NotReserved);
        released.when(&reserve("o1", 5)).then([reserved("o1", 5)]);
    }

    #[test]
    fn what_is_shipped_was_reserved_and_leaves_once() {
        let stock = decider(&Stock).given([received(5), reserved("o1", 3)]);
        stock.when(&ship("o2")).refused(Refusal::NotReserved);
        stock.when(&ship("o1")).then([shipped("o1", 3)]);
        let gone = stock.given([shipped("o1", 3)]);
        for command in [ship("o1"), release("o1")] {
            gone.when(&command).refused(Refusal::NotReserved);
        }
        gone.when(&reserve("o2", 3)).refused(Refusal::NotEnough);
        gone.when(&reserve("o2", 2)).then([reserved("o2", 2)]);
        decider(&Stock).given([received(5), reserved("o1", 3), released("o1", 3)]).when(&ship("o1")).refused(Refusal::NotReserved);
    }

    #[test]
    fn a_quantity_is_positive_and_a_reservation_has_an_order() {
        let stock = decider(&Stock).given([received(5)]);
        stock.when(&receive(0)).refused(Refusal::NotPositive);
        stock.when(&reserve("o1", 0)).refused(Refusal::NotPositive);
        stock.when(&reserve(" ", 1)).refused(Refusal::NoOrder);
    }

    /// The same in any history, also in one that no commands have made: a correction may have replaced events.
    #[test]
    fn available_reserved_and_shipped_together_are_what_is_received() {
        let mut random = 7_u64;
        let mut pick = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        let (mut refused, mut short) = (0, 0);
        for run in 0..200 {
            let (mut stock, mut sum) = (State::default(), 0);
            for _ in 0..50 {
                let (order, quantity) = (format!("o{}", pick(4)), u32::try_from(pick(10)).expect("small"));
                let quantity = if pick(20) == 0 { u32::MAX - quantity } else { quantity };
                let (command, event) = match pick(4) {
                    0 => (receive(quantity), received(quantity)),
                    1 => (reserve(&order, quantity), reserved(&order, quantity)),
                    2 => (ship(&order), shipped(&order, quantity)),
                    _ => (release(&order), released(&order, quantity)),
                };
                let decided = if run % 2 == 0 { Stock.decide(&stock, &command) } else { Ok(vec![event]) };
                refused += u32::from(decided.is_err());
                for event in decided.unwrap_or_default() {
                    if let Event::StockReceived { quantity } = event {
                        sum += u64::from(quantity);
                    }
                    short += u32::from(matches!(event, Event::StockReserved { quantity, .. } if u64::from(quantity) > stock.available));
                    Stock.evolve(&mut stock, &event);
                    assert_eq!(total(&stock), sum, "after {event:?}");
                }
            }
        }
        assert!(refused > 100 && short > 100, "{refused} refused, {short} short");
    }

    #[test]
    fn the_laws_hold() {
        let orders = || ["o1", "o2"].into_iter();
        let commands = [receive(0), receive(9)].into_iter().chain(orders().map(|order| reserve(order, 5)));
        laws(
            &Stock,
            commands.chain([receive(4)]).chain(orders().map(release)).chain([reserve("o2", 13), release("o3"), ship("o2"), ship("o2")]),
        );
    }
}
