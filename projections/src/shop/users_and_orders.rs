//! `users-and-orders`: one row for each user and one for each order, in one table.
//!
//! | attribute | user's row | order's row |
//! |---|---|---|
//! | `id` | the user's id: the key | the order's id: the key |
//! | `email`, `name`, `registeredAt` | as given | |
//! | `userId`, `items`, `total`, `placedAt` | | as placed |
//! | `status` | | `PLACED`, `PAID`, `SHIPPED`, `DELIVERED` or `CANCELLED` |
//!
//! The indexes answer what a shop asks: the user with an address, the orders of a user and the orders at a status, each by time. A row is
//! in an index if it has its keys, so that users and orders do not meet in one.

use projection_vocabulary::{Change, Decimal, Index, IndexKey, IndexOf, Own, Projection, Recorded, Refusal, Value, own};

use super::{Event, Item, Status};

/// The rule. Each row has one owner, its user or its order.
pub struct UsersAndOrders;

impl UsersAndOrders {
    /// The user with an email address, as it was given.
    pub const USERS_BY_EMAIL: IndexOf<Self> = IndexOf::new(Index {
        name: "users-by-email",
        partition: &[IndexKey::Text("email")],
        sort: &[IndexKey::Text("id")],
        include: &["name"],
    });
    /// The orders of a user, by time.
    pub const ORDERS_BY_USER: IndexOf<Self> = IndexOf::new(Index {
        name: "orders-by-user",
        partition: &[IndexKey::Text("userId")],
        sort: &[IndexKey::Text("placedAt"), IndexKey::Text("id")],
        include: &["status", "total"],
    });
    /// The orders at a status, by time.
    pub const ORDERS_BY_STATUS: IndexOf<Self> = IndexOf::new(Index {
        name: "orders-by-status",
        partition: &[IndexKey::Text("status")],
        sort: &[IndexKey::Text("placedAt"), IndexKey::Text("id")],
        include: &["userId", "total"],
    });
}

impl Projection for UsersAndOrders {
    type Event = Event;
    const NAME: &str = "users-and-orders";
    const KEY: &str = "id";
    const INDEXES: &[Index] = &[Self::USERS_BY_EMAIL.index(), Self::ORDERS_BY_USER.index(), Self::ORDERS_BY_STATUS.index()];

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        let row = match &event.event {
            Event::UserRegistered { email, name } => own().set("email", email).set("name", name).set("registeredAt", event.timestamp),
            Event::EmailChanged { email } => own().set("email", email),
            Event::OrderPlaced { user_id, items, total, account_id: _ } => {
                placed(items, total).set("userId", user_id).set("placedAt", event.timestamp)
            }
            Event::OrderStatusChanged { status } => own().set("status", status.as_str()),
        };
        Ok(row.into())
    }
}

fn placed(items: &[Item], total: &Decimal) -> Own {
    let item = |Item { product_id, quantity, price }: &Item| {
        let fields = [("productId", product_id.into()), ("quantity", u64::from(*quantity).into()), ("price", price.into())];
        Value::Map(fields.into_iter().map(|(name, value): (&str, Value)| (name.to_owned(), value)).collect())
    };
    own().set("items", Value::List(items.iter().map(item).collect())).set("total", total).set("status", Status::Placed.as_str())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use projection_vocabulary::{data, testkit::given};

    use super::UsersAndOrders;

    #[test]
    fn users_and_orders_are_rows_of_one_table() {
        let rows = given(&UsersAndOrders)
            .event("ann", "UserRegistered", data! { email: "ann@example.org", name: "Ann" })
            .event("o1", "OrderPlaced", data! { userId: "ann", items: [{"productId": "tea", "quantity": 2, "price": 0.1}], total: 0.2 })
            .event("ann", "EmailChanged", data! { email: "ann@example.com" })
            .event("o2", "OrderPlaced", data! { userId: "ann", items: [], total: 0, accountId: "alice" })
            .event("o1", "OrderStatusChanged", data! { status: "PAID" })
            .rows();
        expect![[r#"
            ann: email=ann@example.com name=Ann registeredAt=2026-01-01T00:00:01.000Z version=2
            o1: items=[{"price":0.1,"productId":"tea","quantity":2}] placedAt=2026-01-01T00:00:02.000Z status=PAID total=0.2 userId=ann version=2
            o2: items=[] placedAt=2026-01-01T00:00:04.000Z status=PLACED total=0 userId=ann version=1
        "#]]
        .assert_eq(&rows);
    }

    #[test]
    fn an_unknown_status_is_refused() {
        let refusal = given(&UsersAndOrders).event("o1", "OrderStatusChanged", data! { status: "LOST" }).refusal();
        expect!["o1 1: cannot read the event's data: `status`: expected one of PLACED, PAID, SHIPPED, DELIVERED, CANCELLED"]
            .assert_eq(&refusal);
    }
}
