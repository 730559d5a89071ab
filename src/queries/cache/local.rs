//! The cache in this process.

use std::time::Duration;

use futures::future::BoxFuture;
use projection_vocabulary::Version;
use quick_cache::sync::{Cache, EntryAction, EntryResult};
use tokio::time::Instant;

use super::{CacheKey, CachedRow, Read, RowCache};
use crate::queries::error::QueryError;

/// A cache in the memory of this process, of a number of rows. What is used least makes room.
///
/// However many readers miss a row at the same time, it is read once.
pub struct LocalCache {
    rows: Cache<CacheKey, Held>,
    time_to_live: Duration,
}

#[derive(Clone)]
struct Held {
    row: CachedRow,
    /// When its read began: it has everything that was written before.
    read_at: Instant,
}

impl LocalCache {
    /// A cache of so many rows, each of which is read again after this time. Also that a row does not exist is kept.
    #[must_use]
    pub fn new(rows: usize, time_to_live: Duration) -> Self {
        Self { rows: Cache::new(rows), time_to_live }
    }

    /// How many rows it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl RowCache for LocalCache {
    fn get<'a>(&'a self, key: &'a CacheKey, at_least: Version, read: Read<'a>) -> BoxFuture<'a, Result<CachedRow, QueryError>> {
        Box::pin(async move {
            let asked_at = Instant::now();
            // A row that was read since this reader asked is as recent as a read of its own: many that wait for one version do not read
            // it one after the other.
            let serves =
                |held: &Held| held.read_at.elapsed() < self.time_to_live && (held.row.version() >= at_least || held.read_at > asked_at);
            let decide = |_: &CacheKey, held: &mut Held| {
                if serves(held) { EntryAction::Retain(held.row.clone()) } else { EntryAction::ReplaceWithGuard }
            };
            // If the read fails or is given up, dropping the guard lets the next reader try.
            let guard = match self.rows.entry_async(key, decide).await {
                EntryResult::Retained(row) => return Ok(row),
                EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => guard,
                EntryResult::Removed(..) | EntryResult::Timeout => return read.await,
            };
            let read_at = Instant::now();
            let row = read.await?;
            // It fails if somebody has changed the entry meanwhile, which nobody does.
            let _ = guard.insert(Held { row: row.clone(), read_at });
            Ok(row)
        })
    }
}
