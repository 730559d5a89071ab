//! A forum: categories, their topics and the posts in them.

pub mod forum_counters;
pub(crate) mod sample;
pub mod topic_posts;
