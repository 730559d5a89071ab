//! Everything that the author of a projection needs: events, changes, the [`Projection`] trait and a test kit.
//!
//! A projection turns events into the rows of a read model. The worker feeds it events from DynamoDB Streams and makes each
//! event count exactly once; the author writes a pure function. This crate knows no DynamoDB, no clock and no I/O: events,
//! changes and rows are all plain values.
//!
//! ```
//! use projection_vocabulary::{Change, Decimal, Projection, Recorded, Refusal, data, own, testkit::given};
//!
//! /// One variant per event type; the fields are the event's data.
//! #[derive(serde::Deserialize)]
//! enum Event {
//!     Deposited { amount: Decimal },
//!     Withdrawn { amount: Decimal },
//! }
//!
//! struct Balances;
//!
//! impl Projection for Balances {
//!     type Event = Event;
//!     const NAME: &str = "balances";
//!     const KEY: &str = "accountId";
//!
//!     fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
//!         Ok(match &event.event {
//!             Event::Deposited { amount } => own().add("balance", amount).into(),
//!             Event::Withdrawn { amount } => own().add("balance", -amount).into(),
//!         })
//!     }
//! }
//!
//! let rows = given(&Balances)
//!     .event("alice", "Deposited", data! { amount: 100 })
//!     .event("alice", "Withdrawn", data! { amount: 30.55 })
//!     .rows();
//! assert_eq!(rows, "alice: balance=69.45 version=2\n");
//! ```
//!
//! Start with the [`guide`]: a larger example, when to raise [`Projection::REVISION`], and a glossary.
//!
//! # What authors use
//!
//! | to | use |
//! |---|---|
//! | define a projection | [`Projection`], [`Recorded`] (its argument), [`Refusal`], [`Index`], [`IndexOf`] |
//! | change the aggregate's own row | [`own`] with [`add`](Own::add), [`set`](Own::set), [`remove`](Own::remove) |
//! | change a row that aggregates share | [`shared`] with [`add`](Shared::add), [`max`](Shared::max), [`insert`](Shared::insert) |
//! | change child rows, a list under the aggregate's row | [`child`] with [`set`](Child::set), [`remove`](Child::remove) |
//! | move or take back contributions | [`transfer`], [`retract`] |
//! | move only the watermark | [`nothing`] |
//! | hold amounts and values | [`Decimal`], [`Value`], [`Timestamp`] |
//! | test | [`testkit::given`], [`data!`] |
//! | react to events with commands to other aggregates | [`process::Process`], [`process::Steps`] |
//! | make up histories for `projector generate` | [`sample`] |
//! | list the projections of a worker | [`Registry`] |
//! | read a row into a type of your own | [`row`](fn@row) |
//!
//! # What the worker uses
//!
//! [`Change::then`] merges the changes of many events into one write, and [`fold`] applies them. [`Rows`] is the pure fold of
//! a history: the rows that the worker writes must equal it, and tests compare the two.

mod absent;
mod change;
mod de;
mod decider;
mod decimal;
mod event;
pub mod fold;
pub mod process;
mod projection;
mod row;
pub mod sample;
mod ser;
mod shards;
pub mod testkit;
mod token;
mod value;

// Compiled here, so that the guide's example is a test.
#[doc = include_str!("../../README.md")]
pub mod guide {}

pub use change::{
    Attributes, Base, Cell, Change, Child, ChildOp, ChildRow, Children, Contribution, Contributions, HOME_SORT, Inapplicable, Kind, Own,
    OwnOp, RESERVED, Resolved, RowId, RowKey, Shared, Sums, child, nothing, own, retract, shared, transfer,
};
pub use de::{Misfit, event as read_event, row, value as read_value, variants_of};
pub use decider::{Aggregate, Claim, Decided, Decider, Deciders, DynDecider, Undecided};
pub use decimal::{Decimal, DecimalError};
pub use event::{AggregateId, NotATimestamp, Recorded, RecordedEvent, Timestamp, Version};
pub use projection::{DynProjection, Index, IndexKey, IndexOf, Projection, Refusal, Registry, WithChange};
pub use row::{HomeRow, Mark, Rows, Watermark};
pub use ser::{Unwritable, event as write_event, to_value};
pub use shards::{SHARDS_MAX, sharded_row, shards_of};
pub use token::{ConsistencyToken, NotAToken};
pub use value::{DEPTH_MAX, NotAValue, Value, literal};
