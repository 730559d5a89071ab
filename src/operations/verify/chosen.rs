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
