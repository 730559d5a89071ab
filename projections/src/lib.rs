//! The projections of this repository: what a row means.
//!
//! To add one: a file beside these, and a line in [`ALL`].

pub mod account_summary;
pub mod forum_counters;
pub mod samples;

use projection_vocabulary::DynProjection;

/// Every projection that the worker runs.
pub const ALL: &[&dyn DynProjection] = &[
    &account_summary::AccountSummary, //
    &forum_counters::ForumCounters,
];
