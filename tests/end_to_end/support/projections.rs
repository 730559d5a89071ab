//! Projections that only the tests use.

use projection_vocabulary::{
    Attributes, Change, Decimal, DynProjection, Index, IndexKey, IndexOf, Projection, Recorded, RecordedEvent, Refusal, Value, child,
    nothing, own, retract, shared, transfer,
};
use serde::Deserialize;

/// `guests`, first revision, with one row for each place.
pub const GUESTS: &[&dyn DynProjection] = &[&Guests::<1, 1>];
/// The second revision, with four shards.
pub const GUESTS_IN_FOUR: &[&dyn DynProjection] = &[&Guests::<2, 4>];
/// The third revision, with two shards.
pub const GUESTS_IN_TWO: &[&dyn DynProjection] = &[&Guests::<3, 2>];

/// One rule for each unusual thing that a rule may do.
pub const UNUSUAL: &[&dyn DynProjection] = &[&Records, &Visits, &Spreads];
/// `visits` with a rule that handles `Cursed`.
pub const LIFTED: &[&dyn DynProjection] = &[&Lifted];
/// `visits` with a rule for which `Cursed` is irrelevant.
pub const UNCURSED: &[&dyn DynProjection] = &[&Uncursed];
/// `houses`, first revision.
pub const HOUSES_1: &[&dyn DynProjection] = &[&one::Houses];
/// `houses`, second revision.
pub const HOUSES_2: &[&dyn DynProjection] = &[&two::Houses];

/// `stays`, first revision.
pub const STAYS_1: &[&dyn DynProjection] = &[&one::Stays];
/// `stays`, second revision.
pub const STAYS_2: &[&dyn DynProjection] = &[&two::Stays];
/// `stays`, third revision, which refuses every event.
pub const STAYS_3: &[&dyn DynProjection] = &[&three::Stays];

/// The best score of each player: a rule that reads its row.
pub struct Records;

#[derive(Deserialize)]
pub enum Played {
    Scored { points: Decimal },
    Surrendered {},
}

impl Projection for Records {
    type Event = Played;
    const NAME: &str = "records";
    const KEY: &str = "playerId";
    const READS_ROW: bool = true;

    fn project(&self, event: &Recorded<'_, Played>) -> Result<Change, Refusal> {
        let Played::Scored { points } = &event.event else { return Ok(own().remove("best").into()) };
        let best = event.row().get("best").and_then(Value::as_number);
        let row = own().add("games", 1);
        Ok(if best.is_none_or(|best| best < points) { row.set("best", points).add("improved", 1) } else { row }.into())
    }
}

/// Guests of places: each operation on shared rows, with a number of shards.
pub struct Guests<const REVISION: u32, const SHARDS: u32>;

#[derive(Deserialize)]
pub enum Stayed {
    Came { place: String, spent: Decimal },
    Moved { from: String, to: String },
    Left {},
}

impl<const REVISION: u32, const SHARDS: u32> Projection for Guests<REVISION, SHARDS> {
    type Event = Stayed;
    const NAME: &str = "guests";
    const KEY: &str = "id";
    const REVISION: u32 = REVISION;
    const SHARDS: u32 = SHARDS;

    fn project(&self, event: &Recorded<'_, Stayed>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Stayed::Came { place, spent } => {
                let to_place = shared(place).add("spent", spent).max("largest", spent).insert("guests", event.aggregate.as_str());
                own().set("place", place).and(to_place)
            }
            Stayed::Moved { from, to } => own().set("place", to).and(transfer(from, to)),
            Stayed::Left {} => own().remove("place").and(retract()),
        })
    }
}

/// Visits by page: uses every operation on shared rows, and panics on `Cursed`.
pub struct Visits;

#[derive(Deserialize)]
pub enum Visited {
    Came { page: String, spent: Decimal },
    Cursed {},
    Left {},
}

impl Projection for Visits {
    type Event = Visited;
    const NAME: &str = "visits";
    const KEY: &str = "id";

    fn project(&self, event: &Recorded<'_, Visited>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Visited::Came { page, spent } => {
                let who = event.aggregate.as_str();
                shared(page).add("visits", 1).add("spent", spent).insert("visitors", who).max("longest", spent).into()
            }
            Visited::Cursed {} => panic!("a bug in a rule"),
            Visited::Left {} => nothing(),
        })
    }
}

/// [`Visits`] without its bug: `Cursed` retracts all visits of the visitor.
pub struct Lifted;

impl Projection for Lifted {
    type Event = Visited;
    const NAME: &str = Visits::NAME;
    const KEY: &str = Visits::KEY;

    fn project(&self, event: &Recorded<'_, Visited>) -> Result<Change, Refusal> {
        match &event.event {
            Visited::Cursed {} => Ok(own().add("curses", 1).and(retract())),
            _ => Visits.project(event),
        }
    }
}

/// [`Visits`] without `Cursed` among its events.
pub struct Uncursed;

#[derive(Deserialize)]
pub enum Uncursing {
    Left {},
}

impl Projection for Uncursed {
    type Event = Uncursing;
    const NAME: &str = Visits::NAME;
    const KEY: &str = Visits::KEY;

    fn project(&self, event: &Recorded<'_, Uncursing>) -> Result<Change, Refusal> {
        let Uncursing::Left {} = event.event;
        Ok(nothing())
    }
}

/// One event that changes as many shared rows as its data states.
pub struct Spreads;

#[derive(Deserialize)]
pub enum Spread {
    Spread { rows: u32 },
}

impl Projection for Spreads {
    type Event = Spread;
    const NAME: &str = "spreads";
    const KEY: &str = "id";

    fn project(&self, event: &Recorded<'_, Spread>) -> Result<Change, Refusal> {
        let Spread::Spread { rows } = event.event;
        Ok((0..rows).fold(nothing(), |change, row| change.and(shared(format!("row-{row}").as_str()).add("hits", 1))))
    }
}

pub mod three {
    use super::*;

    /// A faulty deployment: refuses every event.
    pub struct Stays;

    impl Projection for Stays {
        type Event = Stay;
        const NAME: &str = two::Stays::NAME;
        const KEY: &str = two::Stays::KEY;
        const REVISION: u32 = 3;

        fn project(&self, _: &Recorded<'_, Stay>) -> Result<Change, Refusal> {
            Err(Refusal::Rule("nobody has stayed anywhere"))
        }
    }
}

pub mod one {
    use super::*;

    /// Nights by guest, and by city.
    pub struct Stays;

    impl Projection for Stays {
        type Event = Stay;
        const NAME: &str = "stays";
        const KEY: &str = "guest";

        fn project(&self, event: &Recorded<'_, Stay>) -> Result<Change, Refusal> {
            Ok(match &event.event {
                Stay::Stayed { city, nights, .. } => own().add("nights", nights).set("in", city).and(shared(city).add("nights", nights)),
                Stay::Forgotten {} => own().remove("in").and(retract()),
            })
        }
    }

    /// Houses, and their number by site.
    pub struct Houses;

    #[derive(Deserialize)]
    pub enum Event {
        Built { site: String, rooms: Decimal },
        Painted {},
        Razed {},
    }

    impl Projection for Houses {
        type Event = Event;
        const NAME: &str = "houses";
        const KEY: &str = "id";

        fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
            Ok(match &event.event {
                Event::Built { site, rooms } => own().set("size", rooms).set("label", site).and(shared(site).add("houses", 1)),
                Event::Painted {} => own().add("coats", 1).into(),
                Event::Razed {} => own().remove("label").and(retract()),
            })
        }
    }
}

#[derive(Deserialize)]
pub enum Stay {
    Stayed { city: String, hotel: String, nights: Decimal },
    Forgotten {},
}

pub mod two {
    use super::*;

    /// Nights by guest: `in` is now `city`, stays are counted, and nights count for the hotel instead of the city.
    pub struct Stays;

    impl Projection for Stays {
        type Event = Stay;
        const NAME: &str = "stays";
        const KEY: &str = "guest";
        const REVISION: u32 = 2;

        fn project(&self, event: &Recorded<'_, Stay>) -> Result<Change, Refusal> {
            Ok(match &event.event {
                Stay::Stayed { nights, .. } if nights.is_zero() => return Err(Refusal::Rule("a stay has nights")),
                Stay::Stayed { city, hotel, nights } => {
                    let counts = shared(hotel).add("nights", nights).max("lastStayAt", event.timestamp);
                    own().add("nights", nights).add("stays", 1).set("city", city).and(counts)
                }
                Stay::Forgotten {} => own().remove("city").and(retract()),
            })
        }
    }

    /// Houses: `label` is now `title`, a site counts rooms and has the time of its latest house, and `Painted` is irrelevant.
    pub struct Houses;

    #[derive(Deserialize)]
    pub enum Event {
        Built { site: String, rooms: Decimal },
        Razed {},
    }

    impl Projection for Houses {
        type Event = Event;
        const NAME: &str = "houses";
        const KEY: &str = "id";
        const REVISION: u32 = 2;

        fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
            Ok(match &event.event {
                Event::Built { rooms, .. } if rooms.is_zero() => return Err(Refusal::Rule("a house has rooms")),
                Event::Built { site, rooms } => {
                    let counts = shared(site).add("houses", 1).add("rooms", rooms).max("builtAt", event.timestamp);
                    own().set("size", rooms).set("title", site).and(counts)
                }
                Event::Razed {} => own().remove("title").and(retract()),
            })
        }
    }
}

/// A rule with a bug that a [`Projection`] cannot have: it panics where nothing catches it.
pub struct Panicking;

impl DynProjection for Panicking {
    fn name(&self) -> &'static str {
        "panicking"
    }

    fn key(&self) -> &'static str {
        "id"
    }

    fn revision(&self) -> u32 {
        1
    }

    fn indexes(&self) -> &'static [Index] {
        &[]
    }

    fn reads_row(&self) -> bool {
        false
    }

    fn event_types(&self) -> &'static [&'static str] {
        &["AccountOpened"]
    }

    fn change(&self, event: &RecordedEvent, _: &Attributes) -> Result<Change, Refusal> {
        panic!("the data is {:?}", event.data)
    }
}

/// Orders in one table: by customer and status, sorted by what is due; and by shop and day. The shop's row counts them.
pub struct Orders;

/// The rules of [`Orders`].
pub const ORDERS: &[&dyn DynProjection] = &[&Orders];

#[derive(Deserialize)]
pub enum Ordered {
    Placed { customer: String, shop: String, day: String, due: Decimal },
    Paid { amount: Decimal },
    Shipped {},
    Cancelled {},
}

impl Orders {
    pub const BY_CUSTOMER: IndexOf<Self> = IndexOf::new(Index {
        name: "by-customer",
        partition: &[IndexKey::Text("customer"), IndexKey::Text("status")],
        sort: &[IndexKey::Number("due"), IndexKey::Text("orderId")],
        include: &["shop", "version"],
    });
    pub const BY_SHOP: IndexOf<Self> = IndexOf::new(Index {
        name: "by-shop",
        partition: &[IndexKey::Text("shop")],
        sort: &[IndexKey::Text("day"), IndexKey::Text("status"), IndexKey::Number("due")],
        include: &[],
    });
    /// Its sort key does not tell rows apart.
    pub const BY_DAY: IndexOf<Self> =
        IndexOf::new(Index { name: "by-day", partition: &[IndexKey::Text("day")], sort: &[], include: &["customer"] });
    /// One that is not in the list.
    pub const UNLISTED: IndexOf<Self> =
        IndexOf::new(Index { name: "by-due", partition: &[IndexKey::Number("due")], sort: &[], include: &[] });
}

impl Projection for Orders {
    type Event = Ordered;
    const NAME: &str = "orders";
    const KEY: &str = "orderId";
    const INDEXES: &[Index] = &[Self::BY_CUSTOMER.index(), Self::BY_SHOP.index(), Self::BY_DAY.index()];

    fn project(&self, event: &Recorded<'_, Ordered>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Ordered::Placed { customer, shop, day, due } => own()
                .set("customer", customer)
                .set("shop", shop)
                .set("day", day)
                .set("status", "OPEN")
                .add("due", due)
                .and(shared(shop).add("orders", 1)),
            Ordered::Paid { amount } => own().add("due", -amount).into(),
            Ordered::Shipped {} => own().set("status", "SHIPPED").into(),
            // Out of every index.
            Ordered::Cancelled {} => own().remove("status").remove("day").and(retract()),
        })
    }
}

/// [`Orders`] before it had indexes.
pub struct Unindexed;

/// `orders` in a table without indexes.
pub const ORDERS_UNINDEXED: &[&dyn DynProjection] = &[&Unindexed];

impl Projection for Unindexed {
    type Event = Ordered;
    const NAME: &str = Orders::NAME;
    const KEY: &str = Orders::KEY;

    fn project(&self, event: &Recorded<'_, Ordered>) -> Result<Change, Refusal> {
        Orders.project(event)
    }
}

/// The statement of an account: a child row for each movement. The account's row counts them.
pub struct Statement;

/// The rules of [`Statement`].
pub const STATEMENTS: &[&dyn DynProjection] = &[&Statement];

#[derive(Deserialize)]
pub enum Moved {
    Moved { at: String, amount: Decimal },
    Erased { at: String },
}

impl Statement {
    /// Movements of all accounts, by amount.
    pub const BY_KIND: IndexOf<Self> =
        IndexOf::new(Index { name: "by-kind", partition: &[IndexKey::Text("kind")], sort: &[IndexKey::Number("amount")], include: &[] });
}

impl Projection for Statement {
    type Event = Moved;
    const NAME: &str = "statement";
    const KEY: &str = "accountId";
    const CHILDREN: Option<&str> = Some("movedAt");
    const INDEXES: &[Index] = &[Self::BY_KIND.index()];

    fn project(&self, event: &Recorded<'_, Moved>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Moved::Moved { at, amount } => own().add("movements", 1).and(child(at).set("amount", amount).set("kind", "MOVED")),
            Moved::Erased { at } => own().add("movements", -1).and(child(at).remove()),
        })
    }
}
