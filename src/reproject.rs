//! Projecting an aggregate anew: because its rule has changed, or because its row stands on another history than the event store's.

use projection_vocabulary::{AggregateId, Change, HomeRow, Rows, Rule, Sums, Version};

use crate::{
    lane::{Content, HOLE_REASON, content, payload_of},
    plan::by_row,
    retry::Deadline,
    store::{
        Store, Trouble,
        events::PAGE_EVENTS,
        home::HomeWrite,
        rows::{Cause, Commit, TRANSACTION_ACTIONS_MAX},
    },
};

/// What became of projecting an aggregate anew.
pub enum Anew {
    /// Its row is today's, with this watermark.
    Done(Version),
    /// Nothing, for the row is no longer the one that was to be replaced.
    Moved,
    /// It cannot be done: at which version, why, and the event as JSON if it is an event's fault.
    Stuck(Version, String, String),
}

/// What to go by where a row and the event store may disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The row, as long as its last event is the event store's. One that is ahead of the event store is left alone: nothing takes
    /// a row back by itself.
    Row,
    /// The event store alone: the row is projected anew, also if that takes it back. For after a restore.
    Store,
}

/// Puts today's fold of an aggregate's history in the place of its row as it is, and adds what it contributes now less what it
/// contributed then to shared rows.
///
/// # Errors
/// [`Trouble`], with all of that done or nothing: deliver the records again.
pub async fn reproject(
    store: &Store,
    rule: &dyn Rule,
    aggregate: &AggregateId,
    stale: &HomeRow,
    trust: Trust,
    deadline: Deadline,
) -> Result<Anew, Trouble> {
    let Folded { fresh, total, due, stop } = fold_history(store, rule, aggregate, deadline).await?;
    // What lies beyond the row is for the lane to find; what lies before it keeps the row as it is.
    if due <= stale.version && (stop.is_some() || trust == Trust::Row) {
        let (reason, payload) = stop.unwrap_or_else(|| (AHEAD_REASON.to_owned(), String::new()));
        return Ok(Anew::Stuck(due, format!("the aggregate is projected anew: {reason}"), payload));
    }
    // What all its events come to for an aggregate that had contributed nothing: zeros too, where a row must show one.
    let mut difference = total.settle(&Sums::new()).shared;
    for (cell, amount) in &stale.contributions {
        *difference.entry(cell.clone()).or_default() -= amount;
    }
    difference.retain(|cell, amount| !amount.is_zero() || !stale.contributions.contains_key(cell));
    let shared = by_row(&difference);
    let refused = |reason: &str| {
        Ok(Anew::Stuck(stale.version, format!("the aggregate is projected anew and its new rows are refused: {reason}"), String::new()))
    };
    if shared.len() >= TRANSACTION_ACTIONS_MAX {
        return refused("they change more shared rows than a transaction holds");
    }
    let write = HomeWrite::replacing(aggregate.clone(), stale, &fresh);
    let committed = match store.raise(rule, &total, deadline).await? {
        Err(reason) => Commit::Invalid(reason),
        Ok(()) => store.commit(rule, &[&write], &shared, deadline).await?,
    };
    match committed {
        Commit::Done => Ok(Anew::Done(fresh.version)),
        Commit::Invalid(reason) => refused(reason),
        Commit::Refused(causes) => match causes.into_iter().next() {
            Some(Cause::Invalid(reason)) => refused(reason),
            _ => Ok(Anew::Moved),
        },
    }
}

const AHEAD_REASON: &str = "the event store ends before the row does; was the event store restored?";

/// An aggregate's history under today's rule, as far as it can be folded.
struct Folded {
    fresh: HomeRow,
    /// The change of all its events.
    total: Change,
    /// The version at which the fold ended.
    due: Version,
    /// Why there, with the event as JSON, if not because the history ends.
    stop: Option<(String, String)>,
}

async fn fold_history(store: &Store, rule: &dyn Rule, aggregate: &AggregateId, deadline: Deadline) -> Result<Folded, Trouble> {
    let (mut rows, mut total, mut due, mut stop) = (Rows::default(), Change::default(), Version::NONE.next(), None);
    'history: loop {
        if deadline.passed() {
            return Err(Trouble::OutOfTime);
        }
        let page = store.load_page(aggregate, due..=Version(u64::MAX), PAGE_EVENTS, deadline).await?;
        let full = page.len() == PAGE_EVENTS;
        for stored in page {
            if stored.version() != due {
                stop = Some((HOLE_REASON.to_owned(), String::new()));
                break 'history;
            }
            match content(rule, stored) {
                Content::Passed => {}
                Content::Poison { reason, payload } => {
                    stop = Some((reason, payload));
                    break 'history;
                }
                Content::Event(event) => match rows.fold(rule, &event) {
                    Ok(change) => total = total.then(change),
                    Err(unfolded) => {
                        stop = Some((unfolded.to_string(), payload_of(&event)));
                        break 'history;
                    }
                },
            }
            due = due.next();
        }
        if !full {
            break;
        }
    }
    Ok(Folded { fresh: rows.home.remove(aggregate).unwrap_or_default(), total, due, stop })
}
