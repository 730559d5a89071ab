//! Why an aggregate was not advanced, divided by what to do next.

use projection_vocabulary::DynProjection;

use crate::{retry::DeadlineExceeded, store::StoreError};

/// Why an aggregate was not advanced. Nothing is known to be wrong with its events, so nothing is parked: its records fail and are
/// delivered again, and an operation is run again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvanceError {
    /// A request failed. See the variants of [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This program has an older revision of the rule than the row. Deploy the newer one.
    #[error(
        "rows of `{projection}` were written by revision {row} of its rule and this program has revision {rule}: deploy the newer \
         program again, or give the rule a higher revision and rebuild"
    )]
    NewerRevision {
        /// The projection.
        projection: &'static str,
        /// The revision that wrote the row.
        row: u32,
        /// The revision of this program's rule.
        rule: u32,
    },
    /// The row refused writes that its own content says it takes. Other workers may be moving it: try again.
    #[error("a row keeps refusing writes that it should take")]
    Unexplained,
    /// Most of the projection's aggregates would be parked. Fix the deployment or roll it back.
    #[error(
        "more than half of the projection's aggregates would be parked, so the deployment is at fault and nothing is parked: fix it or roll it back"
    )]
    BreakerTripped,
    /// The invocation has re-projected as many events as it may. Delivered again, the record continues there.
    #[error(
        "the row was written by an older revision of the rule and this invocation's re-projection budget is spent; redelivery continues, \
         or run `projector rebuild-projection {projection}`"
    )]
    ReprojectionBudgetSpent {
        /// The projection.
        projection: &'static str,
    },
    /// DynamoDB refuses the parking entry. Check the parking table's key schema.
    #[error("the parking table refuses the entry ({0}): check its key schema")]
    ParkingRefused(&'static str),
}

impl AdvanceError {
    /// The row was written by a newer revision of the rule than this program has.
    #[must_use]
    pub fn newer_revision(projection: &dyn DynProjection, row: u32) -> Self {
        Self::NewerRevision { projection: projection.name(), row, rule: projection.revision() }
    }

    /// Whether the same attempt may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(StoreError::Transient { .. } | StoreError::DeadlineExceeded) | Self::Unexplained)
    }
}

impl From<DeadlineExceeded> for AdvanceError {
    fn from(exceeded: DeadlineExceeded) -> Self {
        Self::Store(exceeded.into())
    }
}
