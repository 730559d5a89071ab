//! Why a query has no answer. No message contains event data; keys of rows and names of attributes may occur.

use projection_vocabulary::{AggregateId, Misfit, RowKey, Version};

use super::page::PageTokenError;
use crate::{
    retry::DeadlineExceeded,
    store::{StoreError, reads::Unanswered},
};

/// How many keys a message names at most.
const KEYS_SHOWN: usize = 100;

/// Why a query has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// DynamoDB did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Some rows of many were not read. All of them are in `keys`; nothing is known of any other cause.
    #[error("{} of the rows asked for were not read: {}: {error}", keys.len(), some_of(keys))]
    Unanswered {
        /// The keys of the rows.
        keys: Vec<RowKey>,
        /// The error of the last attempt.
        error: StoreError,
    },
    /// A row does not have what the reader's type asks for.
    #[error("the row {key} of `{projection}` does not match the reader's type: {misfit}")]
    Misfit {
        /// The projection.
        projection: &'static str,
        /// The row.
        key: RowKey,
        /// What does not match.
        misfit: Misfit,
    },
    /// No row can have the key.
    #[error("a key is empty or longer than DynamoDB's 2,048 bytes: no row can have it")]
    Key,
    /// A page of no rows was asked for.
    #[error("a page of 0 rows was asked for: ask for 1 or more")]
    Limit,
    /// The token is not one of this query's pages.
    #[error(transparent)]
    PageToken(#[from] PageTokenError),
    /// The projection does not declare the index.
    #[error("`{projection}` has no index `{index}`; it has {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    UnknownIndex {
        /// The projection.
        projection: &'static str,
        /// The index asked for.
        index: String,
        /// The indexes that it has, each with its keys.
        known: Vec<String>,
    },
    /// The projection has no child rows.
    #[error("`{projection}` has no child rows")]
    NoChildren {
        /// The projection.
        projection: &'static str,
    },
    /// The values of a query do not match the keys of the index.
    #[error("the index `{index}` has {keys}: {fault}")]
    IndexValues {
        /// The index.
        index: &'static str,
        /// Its keys, in words.
        keys: String,
        /// What is wrong with the values.
        fault: String,
    },
    /// The row has not reached the version within the time given. It may soon.
    #[error(
        "the row of {aggregate} in `{projection}` is at version {found} and did not reach {wanted} in time; ask again, or ask for a fresh row"
    )]
    NotYet {
        /// The projection.
        projection: &'static str,
        /// The aggregate.
        aggregate: AggregateId,
        /// The version to wait for.
        wanted: Version,
        /// The version of the row.
        found: Version,
    },
    /// The event store does not have the version that the token names.
    #[error("the event store has no version {version} of {aggregate}: is the token of another event store, or was this one restored?")]
    NoSuchVersion {
        /// The aggregate.
        aggregate: AggregateId,
        /// The version.
        version: Version,
    },
    /// The aggregate is parked in the projection, so its row does not advance.
    #[error(
        "{aggregate} is parked in `{projection}` at version {version}, so its row does not advance; fix the cause, then run `projector parked redrive`"
    )]
    Parked {
        /// The projection.
        projection: &'static str,
        /// The aggregate.
        aggregate: AggregateId,
        /// The version of its row.
        version: Version,
    },
    /// The next event cannot be applied by the rule, so there is no row that counts it.
    #[error("version {version} of {aggregate} cannot be applied by `{projection}`: {reason}")]
    Blocked {
        /// The projection.
        projection: &'static str,
        /// The aggregate.
        aggregate: AggregateId,
        /// The version of the event.
        version: Version,
        /// Why.
        reason: String,
    },
    /// A newer program wrote the row.
    #[error(
        "the row {key} of `{projection}` was written by revision {found} of its rule, and this program has revision {own}: deploy the newer program"
    )]
    NewerRevision {
        /// The projection.
        projection: &'static str,
        /// The row.
        key: RowKey,
        /// The revision that wrote it.
        found: u32,
        /// This program's.
        own: u32,
    },
    /// The row counts events that the event store does not have.
    #[error(
        "the row {key} of `{projection}` is at version {row}, but the event store ends before it: was it restored? `projector verify` shows such rows"
    )]
    Ahead {
        /// The projection.
        projection: &'static str,
        /// The row.
        key: RowKey,
        /// The version of the row.
        row: Version,
    },
}

impl QueryError {
    /// Whether the same query may have an answer a little later, without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let transient = |error: &StoreError| matches!(error, StoreError::Transient { .. } | StoreError::DeadlineExceeded);
        match self {
            Self::Store(error) | Self::Unanswered { error, .. } => transient(error),
            Self::NotYet { .. } => true,
            _ => false,
        }
    }
}

impl From<Unanswered> for QueryError {
    fn from(Unanswered { keys, error }: Unanswered) -> Self {
        Self::Unanswered { keys, error }
    }
}

impl From<DeadlineExceeded> for QueryError {
    fn from(exceeded: DeadlineExceeded) -> Self {
        Self::Store(exceeded.into())
    }
}

fn some_of(keys: &[RowKey]) -> String {
    let mut named: Vec<_> = keys.iter().take(KEYS_SHOWN).map(ToString::to_string).collect();
    if keys.len() > named.len() {
        named.push(format!("{} more", keys.len() - named.len()));
    }
    named.join(", ")
}
