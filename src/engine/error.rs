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
    /// This program has an older revision of a process than what has written to an instance of it. Deploy the newer one.
    #[error(
        "instances of `{process}` were written by revision {instance} and this program has revision {program}: deploy the newer program again"
    )]
    NewerProcess {
        /// The process.
        process: &'static str,
        /// The revision that wrote to the instance.
        instance: u32,
        /// The revision of this program.
        program: u32,
    },
    /// A request of a process is for something that this program does not have. Deploy one that has it.
    #[error("`{process}` sent a request to {place}, which this program does not have: deploy one that has it, or add it to this one")]
    NotHere {
        /// The process.
        process: &'static str,
        /// What is missing: the kind of aggregate or the function.
        place: String,
    },
    /// Others kept writing to an aggregate that a process commands. Delivered again, it is tried again.
    #[error("others keep writing to an aggregate that `{process}` commands")]
    Contended {
        /// The process.
        process: &'static str,
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
        matches!(
            self,
            Self::Store(StoreError::Transient { .. } | StoreError::DeadlineExceeded) | Self::Unexplained | Self::Contended { .. }
        )
    }
}

impl From<DeadlineExceeded> for AdvanceError {
    fn from(exceeded: DeadlineExceeded) -> Self {
        Self::Store(exceeded.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_transient_and_nothing_else() {
        let class = || "planned".to_owned();
        for (error, expected) in [
            (StoreError::Transient { operation: "put", class: class() }.into(), true),
            (StoreError::DeadlineExceeded.into(), true),
            (AdvanceError::Unexplained, true),
            (AdvanceError::Contended { process: "orders" }, true),
            (StoreError::Permanent { operation: "put", class: class() }.into(), false),
            (AdvanceError::ParkingRefused("planned"), false),
        ] {
            assert_eq!(AdvanceError::is_transient(&error), expected, "{error:?}");
        }
    }
}
