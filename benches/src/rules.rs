//! The projections that are measured, and one whose events each touch another shared row.

use projection_vocabulary::{Change, DynProjection, Index, Projection, Recorded, Refusal, own, shared, transfer};
use projections::{bank::account_summary::AccountSummary, forum::forum_counters::ForumCounters};
use serde::Deserialize;

/// Rows of their own.
pub const ACCOUNTS: &[&dyn DynProjection] = &[&AccountSummary];
/// Rows that share a row: topics and their category.
pub const FORUM: &[&dyn DynProjection] = &[&ForumCounters];
/// A row that shares as many rows as it has events.
pub const JOURNEYS: &[&dyn DynProjection] = &[&Journeys];

/// `forum-counters` with the rows of categories spread over shards.
pub struct Sharded<const SHARDS: u32>;

impl<const SHARDS: u32> Projection for Sharded<SHARDS> {
    type Event = <ForumCounters as Projection>::Event;
    const NAME: &str = ForumCounters::NAME;
    const KEY: &str = ForumCounters::KEY;
    const INDEXES: &[Index] = ForumCounters::INDEXES;
    const SHARDS: u32 = SHARDS;

    fn project(&self, event: &Recorded<'_, Self::Event>) -> Result<Change, Refusal> {
        ForumCounters.project(event)
    }
}

/// Travellers, and how often each place was visited or is where somebody is.
pub struct Journeys;

/// What happens to a traveller.
#[derive(Deserialize)]
pub enum Event {
    /// Counts for this place for ever.
    Visited { place: String },
    /// What counted for one place counts for another one now.
    Moved { from: String, to: String },
}

impl Projection for Journeys {
    type Event = Event;
    const NAME: &str = "journeys";
    const KEY: &str = "id";

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Event::Visited { place } => own().add("visits", 1).and(shared(place).add("visits", 1)),
            Event::Moved { from, to } => own().set("at", to).and(transfer(from, to)),
        })
    }
}
