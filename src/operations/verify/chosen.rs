//! Verifies some aggregates alone: their home rows, and no shared ones, which all aggregates together make.

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{AggregateId, DynProjection, HomeRow};

use super::{Repair, RowFinding, Verification, Verified};
use crate::{
    engine::{shares::unsettles, worker::Worker},
    operations::{error::OperationError, footing::sampled_doubt, settle::settle},
    retry::Deadline,
};

/// Compares the home rows of these aggregates with their histories, and repairs what is found if asked. If that would take a row back,
/// a sample of the projection's rows tells whether the event store is to be trusted.
///
/// # Errors
/// [`OperationError`]: nothing is known. What was repaired stays repaired.
pub async fn verify_chosen(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    chosen: &BTreeSet<AggregateId>,
    repair: Repair,
    deadline: Deadline,
) -> Result<Verified, OperationError> {
    let this = Verification { worker, rule, deadline };
    let mut verified = this.look_at(chosen).await?;
    let takes_back = |finding: &RowFinding| !matches!(finding, RowFinding::Missing | RowFinding::Behind | RowFinding::Parked);
    if verified.home.values().any(takes_back) || !verified.children.is_empty() {
        verified.doubt = sampled_doubt(worker.store(), rule, deadline).await?;
    }
    if verified.found() > 0 && repair.may(verified.doubt.as_ref()) {
        let before = this.rows_of(&verified).await?;
        this.repair_rows(&verified).await?;
        let after = this.rows_of(&verified).await?;
        let empty = HomeRow::default();
        if before.iter().any(|(id, row)| unsettles(row, after.get(id).unwrap_or(&empty))) {
            settle(worker.store(), rule, deadline).await?;
        }
        let again = this.look_at(chosen).await?;
        verified.repaired = verified.gone_in(&again);
        verified.extend(again);
    }
    Ok(verified)
}

impl Verification<'_> {
    async fn look_at(&self, chosen: &BTreeSet<AggregateId>) -> Result<Verified, OperationError> {
        let mut verified = Verified { aggregates: chosen.len() as u64, ..Verified::default() };
        for (id, checked) in self.check_until_they_move(chosen.clone()).await? {
            verified.rows += u64::from(checked.row != HomeRow::default());
            let has_children = !checked.children.is_empty();
            verified.children.extend(checked.children);
            match checked.finding {
                Some(finding) => _ = verified.home.insert(id, finding),
                None if checked.row == HomeRow::default() && !has_children && !self.has_events(&id).await? => {
                    verified.unknown.insert(id);
                }
                None => {}
            }
        }
        Ok(verified)
    }

    async fn rows_of(&self, verified: &Verified) -> Result<BTreeMap<AggregateId, HomeRow>, OperationError> {
        let ids: Vec<_> = verified.home.keys().cloned().collect();
        Ok(self.store().read_rows(self.rule, &ids, self.deadline).await?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;
    use projection_vocabulary::{HOME_SORT, RecordedEvent};

    use super::*;
    use crate::operations::{
        fixture::{Notes, applied, happened, rang, stayed, worker, worker_of},
        verify::ChildFinding,
    };

    async fn verified(worker: &Worker, chosen: &[&str], repair: Repair) -> Verified {
        let chosen = chosen.iter().map(|id| (*id).into()).collect();
        let rule = worker.registry().projections()[0];
        verify_chosen(worker, rule, &chosen, repair, Deadline::NONE).await.expect("verified")
    }

    /// Advances rows to an event that the event store does not have.
    async fn lost(worker: &Worker, ids: &[&str], event: &RecordedEvent) {
        for id in ids {
            applied(worker, &RecordedEvent { aggregate: (*id).into(), ..event.clone() }).await;
        }
    }

    /// Rows that only wait are moved whatever else the event store lacks.
    #[tokio::test(start_paused = true)]
    async fn only_a_repair_that_takes_a_row_back_is_doubted() {
        let worker = worker().await;
        let events = happened(&worker, "ann", [stayed(1), stayed(1)]).await;
        lost(&worker, &["ben", "cid"], &events[0]).await;
        let behind = verified(&worker, &["ann"], Repair::Findings).await;
        assert_eq!((behind.home.values().collect::<Vec<_>>(), behind.doubt.is_some()), (vec![&RowFinding::Behind], false));
        assert_eq!((behind.repaired, behind.is_clean()), (1, true));
        for (repair, repaired) in [(Repair::Nothing, 0), (Repair::Findings, 0), (Repair::AllOrphans, 1)] {
            let orphaned = verified(&worker, &["ben"], repair).await;
            assert_eq!((orphaned.home.values().collect::<Vec<_>>(), orphaned.doubt.is_some()), (vec![&RowFinding::Orphaned], true));
            assert_eq!(orphaned.repaired, repaired, "{repair:?}");
        }
    }

    #[tokio::test]
    async fn what_is_right_is_looked_at_once() {
        let worker = worker().await;
        happened(&worker, "ann", [stayed(1)]).await;
        let mut requests = Vec::new();
        for repair in [Repair::Nothing, Repair::Findings] {
            let before = worker.store().usage();
            assert!(verified(&worker, &["ann"], repair).await.is_clean());
            requests.push((worker.store().usage() - before).requests);
        }
        assert_eq!(requests[0], requests[1]);
    }

    #[tokio::test]
    async fn an_aggregate_is_unknown_if_it_has_neither_events_nor_rows() {
        let (worker, client) = worker_of(&[&Notes]).await;
        let events = happened(&worker, "ann", [stayed(1)]).await;
        let appended = worker.store().append(events[0].version.previous(), &[rang_by("ben", &events[0])]).await;
        assert!(appended.is_ok(), "{appended:?}");
        // Of cid there are child rows alone.
        lost(&worker, &["cid"], &events[0]).await;
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let home = client.delete_item().table_name("notes").key("id", text("cid")).key("room", text(HOME_SORT));
        home.send().await.expect("deleted");
        let seen = verified(&worker, &["ann", "ben", "cid", "eve"], Repair::Nothing).await;
        assert_eq!((seen.aggregates, seen.rows, &seen.home, &seen.unknown), (4, 1, &BTreeMap::new(), &["eve".into()].into()));
        assert_eq!(seen.children.values().collect::<Vec<_>>(), [&ChildFinding::Orphaned]);
    }

    /// An event of the same version that does not concern the projection.
    fn rang_by(id: &str, event: &RecordedEvent) -> RecordedEvent {
        let (event_type, data) = rang();
        RecordedEvent { aggregate: id.into(), event_type: event_type.into(), data, event_id: format!("rang-{id}").into(), ..event.clone() }
    }
}
