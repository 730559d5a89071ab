//! `order`: an order of a user.

use projection_vocabulary::{Decider, Decimal};
use serde::{Deserialize, Serialize};

use super::{Event, Item, Status};

/// The decider.
pub struct Order;

/// What an order needs to know.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub enum State {
    /// It was never placed.
    #[default]
    Unplaced,
    /// It is at this status.
    Placed(Status),
    /// The id belongs to a user.
    User,
}

/// What an order can be told.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Command {
    Place {
        user_id: String,
        items: Vec<Item>,
        /// The bank account that pays; `None` if the order is paid otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account_id: Option<String>,
    },
    ChangeStatus {
        status: Status,
    },
}

/// Why an order refuses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize, thiserror::Error)]
#[allow(missing_docs, reason = "the messages explain them")]
pub enum Refusal {
    #[error("this id is in use")]
    InUse,
    #[error("there is no such order")]
    Unplaced,
    #[error("an order needs a user and at least one item")]
    Empty,
    #[error("an item needs a product, a quantity of 1 or more, and a price that is not negative")]
    InvalidItem,
    #[error("the account that pays needs an id")]
    NoAccount,
    #[error("the total would have more than 38 significant digits")]
    TooManyDigits,
    #[error("an order at this status cannot become that")]
    Status,
}

impl Decider for Order {
    type State = State;
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;
    const KIND: &str = "order";

    fn decide(&self, order: &State, command: &Command) -> Result<Vec<Event>, Refusal> {
        match (order, command) {
            (State::Unplaced, Command::Place { account_id: Some(account), .. }) if account.trim().is_empty() => Err(Refusal::NoAccount),
            (State::Unplaced, Command::Place { user_id, items, account_id }) => {
                let (user_id, items, total) = (user_id.clone(), items.clone(), total(user_id, items)?);
                Ok(vec![Event::OrderPlaced { user_id, items, total, account_id: account_id.clone() }])
            }
            (_, Command::Place { .. }) => Err(Refusal::InUse),
            (State::Placed(present), Command::ChangeStatus { status }) if present.may_become(*status) => {
                Ok(vec![Event::OrderStatusChanged { status: *status }])
            }
            // Whoever else cancels an order does not stop what undoes it.
            (State::Placed(Status::Cancelled), Command::ChangeStatus { status: Status::Cancelled }) => Ok(vec![]),
            (State::Placed(_), Command::ChangeStatus { .. }) => Err(Refusal::Status),
            (State::Unplaced | State::User, Command::ChangeStatus { .. }) => Err(Refusal::Unplaced),
        }
    }

    fn evolve(&self, order: &mut State, event: &Event) {
        *order = match event {
            Event::OrderPlaced { .. } => State::Placed(Status::Placed),
            Event::OrderStatusChanged { status } => State::Placed(*status),
            Event::UserRegistered { .. } | Event::EmailChanged { .. } => State::User,
        };
    }
}

fn total(user_id: &str, items: &[Item]) -> Result<Decimal, Refusal> {
    if user_id.trim().is_empty() || items.is_empty() {
        return Err(Refusal::Empty);
    }
    let mut total = Decimal::zero();
    for Item { product_id, quantity, price } in items {
        if product_id.trim().is_empty() || *quantity == 0 || *price < Decimal::zero() {
            return Err(Refusal::InvalidItem);
        }
        total += &(price * u64::from(*quantity));
    }
    total.check().map_err(|_| Refusal::TooManyDigits)?;
    Ok(total)
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{
        DynDecider, data,
        testkit::{decider, laws},
        to_value, write_event,
    };

    use super::*;

    fn item(quantity: u32, price: &str) -> Item {
        Item { product_id: "tea".to_owned(), quantity, price: price.parse().expect("valid") }
    }

    fn place(items: Vec<Item>) -> Command {
        Command::Place { user_id: "ann".to_owned(), items, account_id: None }
    }

    fn placed(items: Vec<Item>, total: &str) -> Event {
        Event::OrderPlaced { user_id: "ann".to_owned(), items, total: total.parse().expect("valid"), account_id: None }
    }

    #[test]
    fn the_total_is_exact() {
        let items = || vec![item(3, "0.10"), item(1, "1234567890123456789.0123456789012345678")];
        decider(&Order).when(&place(items())).then([placed(items(), "1234567890123456789.3123456789012345678")]);
        decider(&Order).when(&place(vec![])).refused(Refusal::Empty);
        decider(&Order).when(&place(vec![item(0, "1")])).refused(Refusal::InvalidItem);
        decider(&Order).when(&place(vec![item(1, "-1")])).refused(Refusal::InvalidItem);
        let digits = vec![item(1, "10000000000000000000000000000000000000"), item(1, "0.01")];
        decider(&Order).when(&place(digits)).refused(Refusal::TooManyDigits);
    }

    #[test]
    fn an_order_names_the_account_that_pays_or_none() {
        let place = |account: &str| {
            let account_id = Some(account.to_owned());
            Command::Place { user_id: "ann".to_owned(), items: vec![item(1, "5")], account_id }
        };
        let (items, total) = (vec![item(1, "5")], 5.into());
        let paid = Event::OrderPlaced { user_id: "ann".to_owned(), items, total, account_id: Some("alice".to_owned()) };
        decider(&Order).when(&place("alice")).then([paid]);
        decider(&Order).when(&place(" ")).refused(Refusal::NoAccount);
        laws(&Order, [place(""), place("alice")]);
    }

    /// Events and answers to commands that are there stay what they are.
    #[test]
    fn an_order_without_an_account_is_written_as_before() {
        let (_, data) = write_event(&placed(vec![item(1, "5")], "5")).expect("written");
        assert_eq!(data, data! { userId: "ann", items: [{"productId": "tea", "quantity": 1, "price": 5}], total: 5 });
        let order = (&Order as &'static dyn DynDecider).start();
        let before = data! { Place: { "userId": "ann", "items": [{"productId": "tea", "quantity": 1, "price": 5}] } };
        assert_eq!(to_value(&place(vec![item(1, "5")])).expect("written"), before);
        let decided = order.decide(&before).expect("accepted");
        assert_eq!(decided.iter().map(|event| &event.data).collect::<Vec<_>>(), [&data]);
    }

    #[test]
    fn an_order_goes_forward_and_is_cancelled_until_it_is_shipped() {
        use Status::{Cancelled, Delivered, Paid, Placed, Shipped};
        let all = [Placed, Paid, Shipped, Delivered, Cancelled];
        let allowed = [(Placed, Paid), (Placed, Cancelled), (Paid, Shipped), (Paid, Cancelled), (Shipped, Delivered)];
        for (from, to) in all.iter().flat_map(|from| all.map(|to| (*from, to))) {
            let order = decider(&Order).given([placed(vec![item(1, "1")], "1"), Event::OrderStatusChanged { status: from }]);
            let decision = order.when(&Command::ChangeStatus { status: to });
            if allowed.contains(&(from, to)) {
                decision.then([Event::OrderStatusChanged { status: to }]);
            } else if (from, to) == (Cancelled, Cancelled) {
                decision.then([]);
            } else {
                decision.refused(Refusal::Status);
            }
        }
        decider(&Order).when(&Command::ChangeStatus { status: Paid }).refused(Refusal::Unplaced);
        decider(&Order).given([placed(vec![item(1, "1")], "1")]).when(&place(vec![item(1, "1")])).refused(Refusal::InUse);
    }

    #[test]
    fn the_laws_hold() {
        let to = |status| Command::ChangeStatus { status };
        laws(&Order, [place(vec![item(2, "0.1")]), to(Status::Paid), to(Status::Placed), to(Status::Shipped), to(Status::Delivered)]);
    }
}
