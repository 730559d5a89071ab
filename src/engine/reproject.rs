//! Re-projecting an aggregate: because its rule has changed, or because its row stands on another history than the event store's.
//! Pure, except for reading a history.

use projection_vocabulary::{AggregateId, Change, DynProjection, HomeRow, Rows, Sums, Version};

use crate::{
    engine::content::{Blocked, Content, content, payload_of},
    retry::Deadline,
    store::{
        Store, StoreError,
        events::{PAGE_EVENTS, Stored},
        home::HomeWrite,
        limits::TRANSACTION_ACTIONS_MAX,
    },
};

/// Which of the two to trust where a row and the event store disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The row, as long as its last event is the event store's. A row that is ahead of the event store is left alone: nothing takes
    /// a row back by itself.
    Row,
    /// The event store alone: the row is re-projected even if that takes it back. For use after a restore.
    Store,
}

/// The fold of an aggregate's history from its first event on, with the current rule, event by event: however long the history is, this
/// holds one row and one change.
pub struct HistoryFold {
    rule: &'static dyn DynProjection,
    aggregate: AggregateId,
    rows: Rows,
    /// The merged change of all events so far.
    pub total: Change,
    /// The next version.
    pub due: Version,
    /// Why it cannot continue, if it cannot.
    pub stop: Option<FoldStop>,
}

/// Why a fold ends before its history does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoldStop {
    /// The event store lacks the version and has a later one.
    Hole,
    /// The event cannot be read, or the rule refuses it.
    Poison {
        /// Why, without event data.
        reason: String,
        /// The event as JSON.
        payload: String,
    },
}

impl HistoryFold {
    /// The fold of no events.
    #[must_use]
    pub fn new(rule: &'static dyn DynProjection, aggregate: AggregateId) -> Self {
        Self { rule, aggregate, rows: Rows::default(), total: Change::default(), due: Version::NONE.next(), stop: None }
    }

    /// Adds the next item of the event store, unless the fold has stopped.
    pub fn push(&mut self, stored: Stored) {
        if self.stop.is_some() {
            return;
        }
        self.stop = if stored.version() == self.due { self.fold(stored).err() } else { Some(FoldStop::Hole) };
        if self.stop.is_none() {
            self.due = self.due.next();
        }
    }

    fn fold(&mut self, stored: Stored) -> Result<(), FoldStop> {
        match content(self.rule, stored) {
            Content::Irrelevant => Ok(()),
            Content::Poison { reason, payload } => Err(FoldStop::Poison { reason, payload }),
            Content::Event(event) => {
                let change = self.rows.fold(self.rule, &event);
                let change = change.map_err(|unfolded| FoldStop::Poison { reason: unfolded.to_string(), payload: payload_of(&event) })?;
                self.total = std::mem::take(&mut self.total).then(change);
                Ok(())
            }
        }
    }

    /// The resulting home row; one without a version if no event concerned the projection.
    #[must_use]
    pub fn row(&self) -> HomeRow {
        self.rows.home.get(&self.aggregate).cloned().unwrap_or_default()
    }

    /// The write that replaces a row by this fold, and adds the new contributions less the old ones to shared rows.
    ///
    /// # Errors
    /// Why the aggregate must be parked instead.
    pub fn in_place_of(&self, stale: &HomeRow, trust: Trust) -> Result<Replacement, Blocked> {
        // What lies beyond the row is for the lane to find; what lies before it keeps the row unchanged.
        if self.due <= stale.version && (self.stop.is_some() || trust == Trust::Row) {
            let (reason, payload) = match &self.stop {
                Some(FoldStop::Poison { reason, payload }) => (reason.as_str(), Some(payload.clone())),
                Some(FoldStop::Hole) => (HOLE_REASON, None),
                None => (AHEAD_REASON, None),
            };
            return Err(Blocked { version: self.due, reason: format!("re-projection stopped: {reason}"), payload });
        }
        // As for an aggregate that had contributed nothing: with zeros, too, where a row must show one.
        let mut shared = self.total.resolve(&Sums::new()).shared;
        for (cell, amount) in &stale.contributions {
            *shared.entry(cell.clone()).or_default() -= amount;
        }
        shared.retain(|cell, amount| !amount.is_zero() || !stale.contributions.contains_key(cell));
        let mut rows: Vec<_> = shared.keys().map(|(row, _)| row).collect();
        rows.dedup();
        if rows.len() >= TRANSACTION_ACTIONS_MAX {
            return Err(replacement_refused(stale.version, "it changes more shared rows than a transaction holds"));
        }
        let home = HomeWrite::replacing(self.aggregate.clone(), stale, &self.row());
        Ok(Replacement { home, monotone: self.total.monotone(), shared })
    }
}

/// A row that replaces another.
pub struct Replacement {
    /// The home row.
    pub home: HomeWrite,
    /// The `max` and `insert` operations of the whole history.
    pub monotone: Change,
    /// What to add to shared rows.
    pub shared: Sums,
}

impl FoldStop {
    /// Whether the event exists and cannot be folded, rather than being missing.
    #[must_use]
    pub fn is_poison(&self) -> bool {
        matches!(self, Self::Poison { .. })
    }
}

/// DynamoDB or a limit of it refuses the write that replaces a row at this version.
pub fn replacement_refused(version: Version, reason: &str) -> Blocked {
    Blocked { version, reason: format!("re-projection is refused: {reason}"), payload: None }
}

/// Why an aggregate whose history has a hole is parked.
pub const HOLE_REASON: &str = "the event store does not have this version, although it has a later one";

const AHEAD_REASON: &str = "the event store ends before the row does; was the event store restored?";

/// Folds the event store's history of an aggregate up to a version, page by page.
///
/// # Errors
/// [`StoreError`].
pub async fn fold_history(
    store: &Store,
    rule: &'static dyn DynProjection,
    aggregate: &AggregateId,
    up_to: Version,
    deadline: Deadline,
) -> Result<HistoryFold, StoreError> {
    let mut folded = HistoryFold::new(rule, aggregate.clone());
    while folded.due <= up_to {
        deadline.check()?;
        let page = store.load_page(aggregate, folded.due..=up_to, PAGE_EVENTS, deadline).await?;
        let full = page.len() == PAGE_EVENTS;
        for stored in page {
            folded.push(stored);
        }
        if !full || folded.stop.is_some() {
            break;
        }
    }
    Ok(folded)
}
