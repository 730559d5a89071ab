//! `stock-levels`: the stock of each article, and the stock in each warehouse.

use projection_vocabulary::{Change, Decimal, Projection, Recorded, Refusal, own, shared};
use serde::Deserialize;

/// The rule: `onHand` counts the units of an article, `stored` the units in a warehouse.
pub struct StockLevels;

/// The events of an article.
#[derive(Deserialize)]
pub enum Event {
    /// Goods arrived.
    GoodsReceived {
        /// The warehouse they arrived at.
        warehouse: String,
        /// Units.
        quantity: Decimal,
    },
    /// Goods were shipped.
    GoodsShipped {
        /// The warehouse they left.
        warehouse: String,
        /// Units.
        quantity: Decimal,
    },
}

impl Projection for StockLevels {
    type Event = Event;
    const NAME: &str = "stock-levels";
    const KEY: &str = "id";

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        let (warehouse, quantity) = match &event.event {
            Event::GoodsReceived { warehouse, quantity } => (warehouse, quantity.clone()),
            Event::GoodsShipped { warehouse, quantity } => (warehouse, -quantity),
        };
        if event.version.0 == 1 && quantity < Decimal::zero() {
            return Err(Refusal::Rule("goods were shipped before any arrived"));
        }
        Ok(own()
            .add("onHand", &quantity)
            .set("movedAt", event.timestamp)
            .and(shared(warehouse).add("stored", &quantity).max("movedAt", event.timestamp)))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use projection_vocabulary::{data, testkit::given};

    use super::StockLevels;

    #[test]
    fn goods_count_for_their_article_and_their_warehouse() {
        let rows = given(&StockLevels)
            .event("bolts", "GoodsReceived", data! { warehouse: "north", quantity: 100 })
            .event("nuts", "GoodsReceived", data! { warehouse: "north", quantity: 50 })
            .event("bolts", "GoodsShipped", data! { warehouse: "north", quantity: 30 })
            .rows();
        expect![[r#"
            bolts: movedAt=2026-01-01T00:00:03.000Z onHand=70 version=2
            north: movedAt=2026-01-01T00:00:03.000Z stored=120
            nuts: movedAt=2026-01-01T00:00:02.000Z onHand=50 version=1
        "#]]
        .assert_eq(&rows);
    }

    #[test]
    fn goods_that_never_arrived_cannot_be_shipped() {
        let refusal = given(&StockLevels).event("bolts", "GoodsShipped", data! { warehouse: "north", quantity: 1 }).refusal();
        expect!["bolts 1: goods were shipped before any arrived"].assert_eq(&refusal);
    }
}
