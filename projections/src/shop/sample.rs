//! Made-up, valid histories of a shop.

use projection_vocabulary::{
    Decider as _, Decimal, Value,
    sample::{Fact, Pick},
};

use super::{
    Item, Status,
    order::{Command, Order, State},
};
use crate::samples::{below, fields};

/// A history of about this many users and orders: `facts` facts in the order in which they happen.
pub(crate) fn history(pick: &mut Pick<'_>, facts: usize, aggregates: usize) -> Vec<Fact> {
    let users = (aggregates / 4).max(1);
    let user_id = |at: usize| format!("user-{:06}", at + 1);
    let mut registered = vec![0_u64; users];
    let mut orders: Vec<(String, State)> = Vec::new();
    let orders_max = aggregates.saturating_sub(users).max(1);
    let mut placed = 0;
    let mut history = Vec::with_capacity(facts);
    while history.len() < facts {
        let user = below(pick, users);
        if registered[user] == 0 || pick(100) < 5 {
            let changes = registered[user];
            registered[user] += 1;
            let email = Value::from(format!("{}.{changes}@example.org", user_id(user)));
            let (event_type, data) = match changes {
                0 => ("UserRegistered", fields([("email", email), ("name", format!("User {}", user + 1).into())])),
                _ => ("EmailChanged", fields([("email", email)])),
            };
            history.push(Fact { aggregate: user_id(user).as_str().into(), event_type, data });
            continue;
        }
        let at = below(pick, orders_max);
        if at >= orders.len() {
            placed += 1;
            let id = format!("order-{placed:06}");
            let items = (0..=below(pick, 3)).map(|_| Item {
                product_id: format!("product-{}", 1 + pick(20)),
                quantity: 1 + u32::try_from(pick(5)).expect("small"),
                price: cents(1 + pick(10_000)),
            });
            let command = Command::Place { user_id: user_id(user), items: items.collect(), account_id: None };
            decide(&mut history, &mut orders, orders_max, (id, State::default()), &command);
            continue;
        }
        let (id, state) = orders.swap_remove(at);
        let next = [Status::Paid, Status::Shipped, Status::Delivered, Status::Cancelled][below(pick, 4)];
        decide(&mut history, &mut orders, orders_max, (id, state), &Command::ChangeStatus { status: next });
    }
    history
}

/// Lets the order decide, and keeps it while anything can still happen to it.
fn decide(
    history: &mut Vec<Fact>,
    orders: &mut Vec<(String, State)>,
    orders_max: usize,
    (id, mut state): (String, State),
    command: &Command,
) {
    for event in Order.decide(&state, command).unwrap_or_default() {
        Order.evolve(&mut state, &event);
        let (event_type, data) = crate::samples::written(&event);
        history.push(Fact { aggregate: id.as_str().into(), event_type, data });
    }
    if !matches!(state, State::Placed(Status::Delivered | Status::Cancelled)) && orders.len() < orders_max {
        orders.push((id, state));
    }
}

fn cents(cents: u64) -> Decimal {
    format!("{}.{:02}", cents / 100, cents % 100).parse().expect("cents make a decimal")
}
