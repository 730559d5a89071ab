//! Projecting an aggregate anew: because its rule has changed, or because its row stands on another history than the event store's.
//! Pure, but for reading a history.

use projection_vocabulary::{AggregateId, Change, DynProjection, HomeRow, Rows, Sums, Version};

use crate::{
    engine::content::{Content, content, payload_of},
    retry::Deadline,
    store::{
        Store, StoreError,
        events::{PAGE_EVENTS, Stored},
        home::HomeWrite,
        limits::TRANSACTION_ACTIONS_MAX,
    },
};

/// What to go by where a row and the event store may disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The row, as long as its last event is the event store's. One that is ahead of the event store is left alone: nothing takes
    /// a row back by itself.
    Row,
    /// The event store alone: the row is projected anew, also if that takes it back. For after a restore.
    Store,
}

/// The fold of an aggregate's history from its first event on, under today's rule, event by event: however long a history is, this
/// holds a row and a change.
pub struct HistoryFold {
    rule: &'static dyn DynProjection,
    aggregate: AggregateId,
    rows: Rows,
    /// The change of all events so far.
    pub total: Change,
    /// The version that comes next.
    pub due: Version,
    /// Why it cannot go on, if so.
    pub stop: Option<Stop>,
}

/// Why a fold ends before its history does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Why, without event data.
    pub reason: String,
    /// The event as JSON; empty if it is missing.
    pub payload: String,
}

impl HistoryFold {
    /// Nothing yet.
    #[must_use]
    pub fn new(rule: &'static dyn DynProjection, aggregate: AggregateId) -> Self {
        Self { rule, aggregate, rows: Rows::default(), total: Change::default(), due: Version::NONE.next(), stop: None }
    }

    /// Goes on with what the event store has next, unless it has stopped.
    pub fn push(&mut self, stored: Stored) {
        if self.stop.is_some() {
            return;
        }
        self.stop = if stored.version() == self.due { self.fold(stored).err() } else { Some(Stop::hole()) };
        if self.stop.is_none() {
            self.due = self.due.next();
        }
    }

    fn fold(&mut self, stored: Stored) -> Result<(), Stop> {
        match content(self.rule, stored) {
            Content::Irrelevant => Ok(()),
            Content::Poison { reason, payload } => Err(Stop { reason, payload }),
            Content::Event(event) => {
                let change = self.rows.fold(self.rule, &event);
                let change = change.map_err(|unfolded| Stop { reason: unfolded.to_string(), payload: payload_of(&event) })?;
                self.total = std::mem::take(&mut self.total).then(change);
                Ok(())
            }
        }
    }

    /// The home row that this comes to; one without a version if no event concerned the rule.
    #[must_use]
    pub fn row(&self) -> HomeRow {
        self.rows.home.get(&self.aggregate).cloned().unwrap_or_default()
    }

    /// The write that puts this in the place of a row as it is, with what it contributes now less what the row contributed.
    ///
    /// # Errors
    /// The version at which the aggregate must be parked instead, and why.
    pub fn in_place_of(&self, stale: &HomeRow, trust: Trust) -> Result<Replacement, (Version, Stop)> {
        // What lies beyond the row is for the lane to find; what lies before it keeps the row as it is.
        if self.due <= stale.version && (self.stop.is_some() || trust == Trust::Row) {
            let Stop { reason, payload } = self.stop.clone().unwrap_or_else(Stop::ahead);
            return Err((self.due, Stop { reason: format!("the aggregate is projected anew: {reason}"), payload }));
        }
        // What all its events come to for an aggregate that had contributed nothing: zeros too, where a row must show one.
        let mut shared = self.total.resolve(&Sums::new()).shared;
        for (cell, amount) in &stale.contributions {
            *shared.entry(cell.clone()).or_default() -= amount;
        }
        shared.retain(|cell, amount| !amount.is_zero() || !stale.contributions.contains_key(cell));
        let mut rows: Vec<_> = shared.keys().map(|(row, _)| row).collect();
        rows.dedup();
        if rows.len() >= TRANSACTION_ACTIONS_MAX {
            return Err((stale.version, Stop::refused("they change more shared rows than a transaction holds")));
        }
        let home = HomeWrite::replacing(self.aggregate.clone(), stale, &self.row());
        Ok(Replacement { home, monotone: self.total.monotone(), shared })
    }
}

/// A row in the place of another.
pub struct Replacement {
    /// The home row.
    pub home: HomeWrite,
    /// The `max` and `insert` operations of the whole history.
    pub monotone: Change,
    /// What to add to shared rows.
    pub shared: Sums,
}

impl Stop {
    fn hole() -> Self {
        Self { reason: HOLE_REASON.to_owned(), payload: String::new() }
    }

    fn ahead() -> Self {
        Self { reason: AHEAD_REASON.to_owned(), payload: String::new() }
    }

    /// The write of a replacement cannot be made.
    #[must_use]
    pub fn refused(reason: &str) -> Self {
        Self { reason: format!("the aggregate is projected anew and its new rows are refused: {reason}"), payload: String::new() }
    }

    /// Whether an event is there that cannot be folded, rather than missing.
    #[must_use]
    pub fn is_poison(&self) -> bool {
        !self.payload.is_empty()
    }
}

/// Why an aggregate is parked whose history has a hole.
pub const HOLE_REASON: &str = "the event store does not have this version, although it has a later one";

const AHEAD_REASON: &str = "the event store ends before the row does; was the event store restored?";

/// Folds what the event store has of an aggregate up to a version, page by page.
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
        if deadline.passed() {
            return Err(StoreError::DeadlineExceeded);
        }
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
