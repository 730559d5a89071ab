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

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;
    use projection_vocabulary::RecordedEvent;

    use super::*;
    use crate::{
        operations::fixture::{Guests, append, applied, happened, stayed, worker_of},
        store::item::encode_event,
    };

    /// What becomes of the row of `ann`, which has applied the first of three events, if the event of a version is corrected.
    async fn line(version: u64, parked: bool) -> Line {
        let (worker, client) = worker_of(&[&Guests]).await;
        let events = happened(&worker, "ann", [stayed(1), stayed(1), stayed(1)]).await;
        if parked {
            let update = client.update_item().table_name("guests").key("id", AttributeValue::S("ann".to_owned()));
            let update = update.update_expression("SET parkedAt = :at");
            update
                .expression_attribute_values(":at", AttributeValue::S("2026-01-01T00:00:00.000Z".to_owned()))
                .send()
                .await
                .expect("updated");
        }
        let corrected = RecordedEvent { data: stayed(5).1, ..events[0].clone() };
        if version == 1 {
            client.put_item().table_name("event-store").set_item(Some(encode_event(&corrected))).send().await.expect("put");
        }
        let line = bring_one(&worker, &Guests, &"ann".into(), Version(version), Deadline::NONE).await.expect("the store answers");
        let row = worker.store().home_row(&Guests, &"ann".into(), Deadline::NONE).await.expect("read");
        let nights = if parked { 1 } else { 2 + if version == 1 { 5 } else { 1 } };
        assert_eq!(row.own["nights"], nights.into());
        line
    }

    #[tokio::test]
    async fn a_row_that_has_applied_the_event_is_re_projected_and_one_before_it_is_caught_up() {
        assert_eq!(line(1, false).await, Line::Reprojected);
        assert_eq!(line(2, false).await, Line::CaughtUp(2));
    }

    #[tokio::test]
    async fn a_parked_row_waits_before_the_event_or_beyond_it() {
        assert_eq!(line(1, true).await, Line::WaitsBeyond);
        assert_eq!((line(2, true).await, line(3, true).await), (Line::Waits, Line::Waits));
    }

    #[tokio::test]
    async fn a_row_that_stands_on_another_event_is_astray() {
        let (worker, _) = worker_of(&[&Guests]).await;
        let event = append(&worker, "ann", [stayed(1)]).await.remove(0);
        applied(&worker, &RecordedEvent { event_id: "another".into(), ..event }).await;
        let line = bring_one(&worker, &Guests, &"ann".into(), Version(1), Deadline::NONE).await;
        assert_eq!(line, Ok(Line::Astray));
    }
}
