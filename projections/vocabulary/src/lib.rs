//! The words of projections.
//!
//! An author of a projection needs this crate and nothing else. It knows no DynamoDB, no clock and no I/O: events come in
//! as values, changes go out as values, and rows are values too, so what the worker must end with can be computed beside it.
//!
//! - [`RecordedEvent`], [`AggregateId`], [`Version`], [`Timestamp`], [`Value`], [`Decimal`]: facts and their parts.
//! - [`own`], [`shared`], [`transfer`], [`retract`], [`nothing`]: what an event may do, as a [`Change`].
//! - [`Projection`]: what an author writes; [`Registry`]: the list of them.
//! - [`Rows`]: the pure fold. [`sample`]: made-up histories. [`testkit`]: tests that read "given these events, expect these rows".

mod change;
mod de;
mod decimal;
mod event;
pub mod fold;
mod projection;
mod row;
pub mod sample;
pub mod testkit;
mod value;

pub use change::{
    Attributes, Base, Cell, Change, Own, OwnOp, RESERVED, Resolved, RowKey, Shared, Sums, nothing, own, retract, shared, transfer,
};
pub use de::Misfit;
pub use decimal::{Decimal, DecimalError};
pub use event::{AggregateId, NotATimestamp, Recorded, RecordedEvent, Timestamp, Version};
pub use projection::{DynProjection, Index, Projection, Refusal, Registry};
pub use row::{HomeRow, Inapplicable, Rows};
pub use value::{DEPTH_MAX, NotAValue, Value, literal};
