//! Writes to the event store: appends under optimistic concurrency, and imports of captured items.

use aws_sdk_dynamodb::{
    operation::{get_item::GetItemInput, put_item::PutItemInput, update_item::UpdateItemInput},
    types::{AttributeValue, CancellationReason, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update},
};
use projection_vocabulary::{AggregateId, RecordedEvent, Version};

use super::{
    Store,
    error::{Failure, StoreError, classify, retry_or_fail},
    events::Stored,
    expression::Expression,
    item::{SdkItem, VERSION_MAX, VERSION_SK, encode_event, number_of, partition_key, text_of},
    limits::TRANSACTION_ACTIONS_MAX,
    transaction::Transacted,
};
use crate::retry::{Attempt, Deadline};

/// The most events in one append: a transaction's actions, less the one on the VERSION item.
pub const APPEND_EVENTS_MAX: usize = TRANSACTION_ACTIONS_MAX - 1;

/// On a VERSION item: names the last correction of the aggregate's events, so that no snapshot outlives one.
pub(super) const CORRECTED: &str = "corrected";

/// Why an append did not happen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another writer appended other events first. Load the aggregate, decide again, then append events with new ids.
    #[error("conflict on aggregate {aggregate}: expected version {expected}, found {actual}")]
    Conflict {
        /// The aggregate.
        aggregate: AggregateId,
        /// The version that the caller expected.
        expected: Version,
        /// The version in the store.
        actual: Version,
    },
    /// No events, or more than fit in one transaction. Split events that need not be appended together.
    #[error("an append takes 1 to {APPEND_EVENTS_MAX} events, not {0}")]
    Count(usize),
    /// The events do not continue one aggregate: a bug in the caller.
    #[error("the events of an append must belong to one aggregate and continue from version {expected} without a gap")]
    NotConsecutive {
        /// The version that the caller expected.
        expected: Version,
    },
    /// DynamoDB refuses an event, because of its size, for example.
    #[error("DynamoDB refuses the events of aggregate {aggregate}: {reason}")]
    Invalid {
        /// The aggregate.
        aggregate: AggregateId,
        /// Why.
        reason: &'static str,
    },
    /// Whether the events were appended is unknown. Appending the same events again is safe.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The outcome of importing an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// The item was added.
    New,
    /// The store already had this version.
    Known,
    /// DynamoDB refuses the item, so no real stream can have carried it.
    Refused(&'static str),
}

impl Store {
    /// Appends all of the events, or none. They must follow version `expected` of their aggregate.
    ///
    /// The event ids make it idempotent: if the store has these very events as the next versions after `expected`, they were appended
    /// before, and the answer is the same as then. So a caller keeps the ids until it has an answer.
    ///
    /// # Errors
    /// [`AppendError`]. After [`AppendError::Store`], the same append may be repeated, at any time; it will not count twice.
    pub async fn append(&self, expected: Version, events: &[RecordedEvent]) -> Result<Version, AppendError> {
        if events.is_empty() || events.len() > APPEND_EVENTS_MAX {
            return Err(AppendError::Count(events.len()));
        }
        let aggregate = &events[0].aggregate;
        let consecutive =
            events.iter().zip(expected.0 + 1..).all(|(event, version)| event.version.0 == version && event.aggregate == *aggregate);
        let last = events[events.len() - 1].version;
        if !consecutive || last > VERSION_MAX {
            return Err(AppendError::NotConsecutive { expected });
        }
        let actions: Vec<_> = std::iter::once(self.move_version(aggregate, expected, None, last))
            .chain(events.iter().map(|event| self.put_new(encode_event(event))))
            .collect();
        let refused = match self.transact_all("TransactWriteItems of an append", actions, Deadline::NONE).await? {
            Transacted::Done => return Ok(last),
            Transacted::Refused(reasons) => reasons,
            Transacted::Invalid(reason) => return Err(AppendError::Invalid { aggregate: aggregate.clone(), reason }),
        };
        // If another action's condition failed, the VERSION item is at the expected version.
        let actual = moved_to(&refused[0]).unwrap_or(expected);
        // An attempt of this call or of an earlier one may have succeeded although its answer was lost; and an event may exist without
        // the VERSION item.
        let present = self.load_page(aggregate, expected.next()..=last, events.len(), Deadline::NONE).await?;
        let ours =
            present.iter().zip(events).all(|(stored, event)| matches!(stored, Stored::Event(there) if there.event_id == event.event_id));
        if present.len() == events.len() && ours {
            return Ok(last);
        }
        let actual = actual.max(present.last().map_or(actual, Stored::version));
        Err(AppendError::Conflict { aggregate: aggregate.clone(), expected, actual })
    }

    /// Puts a captured item of an event into the store unchanged. Idempotent.
    ///
    /// Moves the VERSION item up to the highest version imported, so that appends continue from there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn import(&self, aggregate: &AggregateId, version: Version, item: SdkItem) -> Result<Imported, StoreError> {
        const PUT: &str = "PutItem into the event store";
        const UPDATE: &str = "UpdateItem of a VERSION item";
        let mut expression = Expression::default();
        expression.set("version", AttributeValue::N(version.to_string()));
        let (name, value) = (expression.name("version"), expression.value(AttributeValue::N(version.to_string())));
        let imported = self
            .send_with_retries((PUT, None), Deadline::NONE, || async {
                let request = PutItemInput::builder()
                    .table_name(&self.names.event_store)
                    .set_item(Some(item.clone()))
                    .condition_expression("attribute_not_exists(PK)");
                match self.dynamo.put_item(request).await.map_err(classify) {
                    Ok(_) => Attempt::Decided(Ok(Imported::New)),
                    Err(Failure::Other(error)) if error.is_conditional_check_failed_exception() => Attempt::Decided(Ok(Imported::Known)),
                    Err(Failure::Invalid(reason)) => Attempt::Decided(Ok(Imported::Refused(reason))),
                    Err(failure) => retry_or_fail(PUT, failure),
                }
            })
            .await??;
        self.send_with_retries((UPDATE, None), Deadline::NONE, || async {
            let request = UpdateItemInput::builder()
                .table_name(&self.names.event_store)
                .key("PK", AttributeValue::S(partition_key(aggregate)))
                .key("SK", AttributeValue::S(VERSION_SK.into()))
                .update_expression(expression.update())
                .condition_expression(format!("attribute_not_exists({name}) OR {name} < {value}"))
                .set_expression_attribute_names(Some(expression.names.clone()))
                .set_expression_attribute_values(expression.some_values());
            match self.dynamo.update_item(request).await.map_err(classify) {
                Ok(_) => Attempt::Decided(Ok(())),
                Err(Failure::Other(error)) if error.is_conditional_check_failed_exception() => Attempt::Decided(Ok(())),
                Err(failure) => retry_or_fail(UPDATE, failure),
            }
        })
        .await??;
        Ok(imported)
    }

    /// The current version of an aggregate, which its next append must expect.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn current_version(&self, aggregate: &AggregateId) -> Result<Version, StoreError> {
        self.version_and_mark(aggregate, Deadline::NONE).await.map(|(version, _)| version)
    }

    /// The current version of an aggregate, and the mark that a correction of its events changes; empty if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn version_and_mark(&self, aggregate: &AggregateId, deadline: Deadline) -> Result<(Version, String), StoreError> {
        let read = || {
            let request = GetItemInput::builder().table_name(&self.names.event_store);
            let request = request.key("PK", AttributeValue::S(partition_key(aggregate))).key("SK", AttributeValue::S(VERSION_SK.into()));
            self.dynamo.get_item(request.consistent_read(true))
        };
        let found = self.send("GetItem of a VERSION item", deadline, read).await?;
        let item = found.item.unwrap_or_default();
        Ok((version_of(&item), text_of(&item, CORRECTED).unwrap_or_default().to_owned()))
    }

    /// The action that moves an aggregate's VERSION item; `mark` is what it must have, if that is to be checked.
    pub(super) fn move_version(&self, aggregate: &AggregateId, expected: Version, mark: Option<&str>, to: Version) -> TransactWriteItem {
        let mut expression = Expression::default();
        expression.set("version", AttributeValue::N(to.to_string()));
        let condition = at_version(&mut expression, expected, mark);
        let update = Update::builder()
            .table_name(&self.names.event_store)
            .key("PK", AttributeValue::S(partition_key(aggregate)))
            .key("SK", AttributeValue::S(VERSION_SK.into()))
            .update_expression(expression.update())
            .condition_expression(condition)
            .set_expression_attribute_names(Some(expression.names))
            .set_expression_attribute_values(Some(expression.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .expect("table, key and expression are given");
        TransactWriteItem::builder().update(update).build()
    }

    /// The action that puts an item whose key must be new. If it is not, the answer has the item that is there.
    pub(super) fn put_new(&self, item: SdkItem) -> TransactWriteItem {
        let put = Put::builder()
            .table_name(&self.names.event_store)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(PK)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build();
        TransactWriteItem::builder().put(put.expect("table and item are given")).build()
    }
}

/// The condition that an aggregate is at this version, and that its events are still those that were read: a correction changes the mark.
pub(super) fn at_version(expression: &mut Expression, version: Version, mark: Option<&str>) -> String {
    let name = expression.name("version");
    let at = if version == Version::NONE {
        format!("attribute_not_exists({name})")
    } else {
        format!("{name} = {}", expression.value(AttributeValue::N(version.to_string())))
    };
    match mark {
        Some(mark) => format!("{at} AND {}", expression.unchanged(CORRECTED, mark)),
        None => at,
    }
}

/// The version that a VERSION item has instead of the expected one; `None` if its condition held.
pub(super) fn moved_to(reason: &CancellationReason) -> Option<Version> {
    let moved = reason.code() == Some("ConditionalCheckFailed");
    moved.then(|| reason.item().map_or(Version::NONE, version_of))
}

pub(super) fn version_of(item: &SdkItem) -> Version {
    Version(number_of(item, "version").unwrap_or(0))
}
