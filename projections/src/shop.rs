//! A shop: users and their orders, in one table.

pub mod order;
pub mod order_fulfilment;
pub(crate) mod sample;
pub mod shipment;
pub mod stock;
pub mod user;
pub mod users_and_orders;

use projection_vocabulary::Decimal;
use serde::{Deserialize, Serialize};

/// What happens in a shop. Each aggregate is a user or an order. [`user`] and [`order`] write it, and the projection reads it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Event {
    UserRegistered {
        email: String,
        name: String,
    },
    EmailChanged {
        email: String,
    },
    OrderPlaced {
        user_id: String,
        items: Vec<Item>,
        total: Decimal,
        /// The bank account that pays. Absent in events of earlier writers, and if the order is paid otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account_id: Option<String>,
    },
    OrderStatusChanged {
        status: Status,
    },
}

/// A line of an order.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// What is bought.
    pub product_id: String,
    /// How many.
    pub quantity: u32,
    /// The price of one.
    pub price: Decimal,
}

/// How far an order is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Status {
    Placed,
    Paid,
    Shipped,
    Delivered,
    Cancelled,
}

impl Status {
    /// The status as rows have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "PLACED",
            Self::Paid => "PAID",
            Self::Shipped => "SHIPPED",
            Self::Delivered => "DELIVERED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Whether an order may go from this status to another one.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Placed, Self::Paid | Self::Cancelled) | (Self::Paid, Self::Shipped | Self::Cancelled) | (Self::Shipped, Self::Delivered)
        )
    }
}
