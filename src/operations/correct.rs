//! Brings rows in line with an event that was corrected or skipped in the event store.
//!
//! The stream reports such an event as modified, but its filter may hold that back, so a row that has applied the old event is re-projected
//! here. A row that waits before it is left to a redrive, which counts the new one.

use projection_vocabulary::{AggregateId, DynProjection, Version};

use crate::{
    engine::{reproject::Trust, shares::unsettles, worker::Worker},
    operations::{
        catch_up::{CaughtUp, Standing, catch_up},
        error::{OperationError, refuse_newer_revision},
        settle::settle,
    },
    retry::Deadline,
};

/// What a projection's row has to do with a corrected event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// It had not applied the event yet, and was advanced to the head of the history: by this number of events.
    CaughtUp(u64),
    /// It waits before the event, or had waited there: redrive it.
    Waits,
    /// It had applied the old event, and was re-projected.
    Reprojected,
    /// It has applied the old event and waits before a later one. After its redrive, verify and repair it.
    WaitsBeyond,
    /// It stands on an event that the event store does not have: verify it.
    Astray,
    /// Its re-projection stopped for this reason, and it is parked.
    Parked(String),
}

/// Brings the rows of an aggregate in line, in every projection that handles one of these event types, the old or the new one; of an event
/// without a readable type, in every projection.
///
/// # Errors
/// [`OperationError`]: some rows may still have the old event. Verifying finds them.
pub async fn bring_in_line(
    worker: &Worker,
    id: &AggregateId,
    version: Version,
    event_types: [Option<&str>; 2],
    deadline: Deadline,
) -> Result<Vec<(&'static str, Line)>, OperationError> {
    let mut lines = Vec::new();
    for rule in worker.registry().projections() {
        let concerned = event_types.iter().any(|name| name.is_none_or(|name| rule.event_types().contains(&name)));
        if concerned {
            lines.push((rule.name(), bring_one(worker, *rule, id, version, deadline).await?));
        }
    }
    Ok(lines)
}

async fn bring_one(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    id: &AggregateId,
    version: Version,
    deadline: Deadline,
) -> Result<Line, OperationError> {
    let store = worker.store();
    let row = store.home_row(rule, id, deadline).await?;
    refuse_newer_revision(rule, &row)?;
    match (row.parked_at.is_some(), row.version < version) {
        (true, true) => return Ok(Line::Waits),
        (true, false) => return Ok(Line::WaitsBeyond),
        (false, _) => {}
    }
    // The event store is trusted for the event that was corrected, and not for taking the row back.
    let applied_old = row.version >= version;
    if applied_old && store.standing_on_events([(id, &row)], deadline).await?.is_empty() {
        return Ok(Line::Astray);
    }
    let trust = if applied_old { Trust::Store } else { Trust::Row };
    let CaughtUp { standing, applied, .. } = catch_up(worker, rule, id, trust, deadline).await?;
    if let Standing::Parked(reason) = standing {
        return Ok(Line::Parked(reason.unwrap_or_else(|| "another worker parked it meanwhile".to_owned())));
    }
    if unsettles(&row, &store.home_row(rule, id, deadline).await?) {
        settle(store, rule, deadline).await?;
    }
    Ok(if applied_old { Line::Reprojected } else { Line::CaughtUp(applied) })
}
