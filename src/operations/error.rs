//! Why an operation did not finish, divided by what to do next.

use projection_vocabulary::{DynProjection, HomeRow, Registry};

use crate::{engine::error::AdvanceError, retry::DeadlineExceeded, store::StoreError};

/// Why an operation did not finish. What it has done stays done, so it can be run again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// An aggregate was not advanced. See the variants of [`AdvanceError`].
    #[error(transparent)]
    Advance(#[from] AdvanceError),
    /// The program has no projection of that name. Use one of those listed.
    #[error("no projection `{name}` is in this program, which has {}", known.join(", "))]
    UnknownProjection {
        /// The name asked for.
        name: String,
        /// The names that there are.
        known: Vec<&'static str>,
    },
    /// A parked record's payload is not JSON, so something else has written to the parking table.
    #[error("the parked record's payload is not valid JSON: something else has written to the parking table")]
    UnreadablePayload,
    /// A parked record was processed again and failed.
    #[error("{0}")]
    RecordFailed(String),
    /// What a rebuild is asked to write is a process.
    #[error(
        "`{process}` is a process, of which nothing is rebuilt: what it sent is not sent again. A new revision reads its instances anew by itself; rows that are lost come back by `projector catch-up {process}`"
    )]
    Process {
        /// The process.
        process: &'static str,
    },
    /// An instance of a process does not take what it was told.
    #[error("{0}")]
    NotTaken(String),
    /// DynamoDB refuses the repair of a shared row.
    #[error("the shared row cannot be repaired: {0}")]
    SharedRowRefused(&'static str),
}

impl OperationError {
    /// Whether the same operation may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Advance(error) if error.is_transient())
    }

    /// Whether the time ran out.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        matches!(self, Self::Advance(AdvanceError::Store(StoreError::DeadlineExceeded)))
    }
}

impl From<StoreError> for OperationError {
    fn from(error: StoreError) -> Self {
        Self::Advance(error.into())
    }
}

impl From<DeadlineExceeded> for OperationError {
    fn from(exceeded: DeadlineExceeded) -> Self {
        Self::Advance(exceeded.into())
    }
}

/// The projection of that name.
///
/// # Errors
/// [`OperationError::UnknownProjection`].
pub fn find_projection(registry: Registry, name: &str) -> Result<&'static dyn DynProjection, OperationError> {
    registry.get(name).ok_or_else(|| {
        let known = registry.projections().iter().map(|projection| projection.name()).collect();
        OperationError::UnknownProjection { name: name.to_owned(), known }
    })
}

/// Fails if a newer revision of the rule than this program's wrote a row.
///
/// # Errors
/// [`AdvanceError::NewerRevision`].
pub fn refuse_newer_revision(projection: &dyn DynProjection, row: &HomeRow) -> Result<(), AdvanceError> {
    let newest = row.newest_revision();
    if newest > projection.revision() { Err(AdvanceError::newer_revision(projection, newest)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::fixture::{Guests, row, stayed, unfinished};

    #[test]
    fn a_row_of_a_newer_revision_is_refused() {
        for (row, newer) in [
            (row(1, [stayed(1)]), None),
            (row(2, [stayed(1)]), None),
            (row(3, [stayed(1)]), Some(3)),
            (unfinished(row(1, [stayed(1)]), 3), Some(3)),
        ] {
            let expected = newer.map_or(Ok(()), |newer| Err(AdvanceError::newer_revision(&Guests, newer)));
            assert_eq!(refuse_newer_revision(&Guests, &row), expected);
        }
    }

    #[test]
    fn an_operation_may_succeed_later_if_what_stopped_it_passes() {
        let permanent = StoreError::Permanent { operation: "put", class: "planned".to_owned() };
        for (error, transient, deadline) in [
            (OperationError::from(StoreError::DeadlineExceeded), true, true),
            (AdvanceError::Unexplained.into(), true, false),
            (permanent.into(), false, false),
            (OperationError::UnreadablePayload, false, false),
        ] {
            assert_eq!((error.is_transient(), error.is_deadline()), (transient, deadline), "{error:?}");
        }
    }
}
