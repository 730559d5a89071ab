//! The projections of this repository: the rules that turn events into rows.
//!
//! To add one, write a file in its domain's folder and add a line to [`ALL`]. The author's guide,
//! [`projection_vocabulary::guide`], shows how.

pub mod bank;
pub mod forum;
pub mod samples;

use projection_vocabulary::DynProjection;

/// Every projection that the worker runs.
pub const ALL: &[&dyn DynProjection] = &[
    &bank::account_summary::AccountSummary, //
    &bank::account_statement::AccountStatement,
    &forum::forum_counters::ForumCounters,
    &forum::topic_posts::TopicPosts,
];
