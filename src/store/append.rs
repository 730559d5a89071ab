//! Appends to the event store, under optimistic concurrency.

use aws_sdk_dynamodb::{
    operation::get_item::GetItemInput,
    types::{AttributeValue, CancellationReason, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update},
};
use projection_vocabulary::{AggregateId, RecordedEvent, Version};

use super::{
    Store,
    error::StoreError,
    events::Stored,
    expression::Expression,
    item::{SdkItem, VERSION_MAX, VERSION_SK, encode_event, number_of, partition_key, text_of},
    limits::TRANSACTION_ACTIONS_MAX,
    transaction::Transacted,
};
use crate::retry::Deadline;

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

/// Events to append to one aggregate.
#[derive(Debug)]
pub struct Append<'a> {
    /// The version that the aggregate must have.
    pub expected: Version,
    /// Its next events.
    pub events: Vec<&'a RecordedEvent>,
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
        let appended = self.append_together(&[Append { expected, events: events.iter().collect() }]).await;
        appended.into_iter().next().expect("one append has one outcome")
    }

    /// Appends to several aggregates, each once, by one transaction if possible: one request instead of one for each. Whether they can be
    /// appended is decided for each of them by itself, as by [`append`](Self::append), and so are the outcomes, in the order given: those
    /// that cannot be are left out, and the others go on. What a transaction holds is the caller's concern.
    pub async fn append_together(&self, appends: &[Append<'_>]) -> Vec<Result<Version, AppendError>> {
        let mut outcomes: Vec<Result<Version, AppendError>> = appends.iter().map(Append::check).collect();
        let mut groups = vec![(0..appends.len()).filter(|at| outcomes[*at].is_ok()).collect::<Vec<_>>()];
        while let Some(mut group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            let actions = || group.iter().flat_map(|at| self.actions_of_append(&appends[*at])).collect();
            match self.transact_all("TransactWriteItems of an append", actions, Deadline::NONE).await {
                Ok(Transacted::Done) => {}
                Ok(Transacted::Refused(reasons)) => {
                    let (mut reasons, mut left) = (reasons.as_slice(), Vec::new());
                    for at in group {
                        let (own, others) = reasons.split_at(reasons.len().min(1 + appends[at].events.len()));
                        reasons = others;
                        if own.iter().any(|reason| reason.code() == Some("ConditionalCheckFailed")) {
                            outcomes[at] = self.after_refusal(&appends[at], &own[0]).await;
                        } else {
                            left.push(at);
                        }
                    }
                    groups.push(left);
                }
                // Which of them it is, DynamoDB does not always say.
                Ok(Transacted::Invalid(reason)) => {
                    if let [only] = *group {
                        outcomes[only] = Err(AppendError::Invalid { aggregate: appends[only].aggregate().clone(), reason });
                    } else {
                        let half = group.split_off(group.len() / 2);
                        groups.extend([half, group]);
                    }
                }
                Err(error) => group.iter().for_each(|at| outcomes[*at] = Err(error.clone().into())),
            }
        }
        outcomes
    }

    fn actions_of_append(&self, append: &Append<'_>) -> impl Iterator<Item = TransactWriteItem> {
        let version = self.move_version(append.aggregate(), append.expected, None, append.last());
        std::iter::once(version).chain(append.events.iter().map(|event| self.put_new(encode_event(event))))
    }

    /// What a refused append means, of which the reason is that of its VERSION item.
    async fn after_refusal(&self, append: &Append<'_>, version: &CancellationReason) -> Result<Version, AppendError> {
        let Append { expected, events } = append;
        let (aggregate, last) = (append.aggregate(), append.last());
        // If another action's condition failed, the VERSION item is at the expected version.
        let actual = moved_to(version).unwrap_or(*expected);
        // An attempt of this call or of an earlier one may have succeeded although its answer was lost; and an event may exist without
        // the VERSION item.
        let present = self.load_page(aggregate, expected.next()..=last, events.len(), Deadline::NONE).await?;
        let ours =
            present.iter().zip(events).all(|(stored, event)| matches!(stored, Stored::Event(there) if there.event_id == event.event_id));
        if present.len() == events.len() && ours {
            return Ok(last);
        }
        let actual = actual.max(present.last().map_or(actual, Stored::version));
        Err(AppendError::Conflict { aggregate: aggregate.clone(), expected: *expected, actual })
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
            .set_expression_attribute_names(expression.names())
            .set_expression_attribute_values(expression.values())
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

impl Append<'_> {
    /// Returns the version after it, if the events are as many as can be appended at once, and consecutive.
    fn check(&self) -> Result<Version, AppendError> {
        let Self { expected, events } = self;
        if events.is_empty() || events.len() > APPEND_EVENTS_MAX {
            return Err(AppendError::Count(events.len()));
        }
        let consecutive =
            events.iter().zip(expected.0 + 1..).all(|(event, version)| event.version.0 == version && event.aggregate == *self.aggregate());
        if !consecutive || self.last() > VERSION_MAX {
            return Err(AppendError::NotConsecutive { expected: *expected });
        }
        Ok(self.last())
    }

    fn aggregate(&self) -> &AggregateId {
        &self.events[0].aggregate
    }

    fn last(&self) -> Version {
        self.events[self.events.len() - 1].version
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

#[cfg(test)]
mod tests {
    use projection_vocabulary::{
        data,
        sample::{Fact, record},
    };

    use super::*;

    /// Events of `ann` with these versions.
    fn events(versions: impl IntoIterator<Item = u64>) -> Vec<RecordedEvent> {
        let event = record([Fact { aggregate: "ann".into(), event_type: "Stayed", data: data! {} }]).next().expect("it is recorded");
        versions.into_iter().map(|version| RecordedEvent { version: Version(version), ..event.clone() }).collect()
    }

    fn checked(expected: u64, events: &[RecordedEvent]) -> Result<Version, AppendError> {
        Append { expected: Version(expected), events: events.iter().collect() }.check()
    }

    #[test]
    fn an_append_takes_as_many_events_as_a_transaction_holds_and_at_least_one() {
        let most = APPEND_EVENTS_MAX as u64;
        assert_eq!(checked(0, &[]), Err(AppendError::Count(0)));
        assert_eq!(checked(0, &events(1..=1)), Ok(Version(1)));
        assert_eq!(checked(0, &events(1..=most)), Ok(Version(most)));
        assert_eq!(checked(0, &events(1..=most + 1)), Err(AppendError::Count(APPEND_EVENTS_MAX + 1)));
    }

    #[test]
    fn its_events_are_the_next_ones_of_one_aggregate() {
        let not_consecutive = |expected| Err(AppendError::NotConsecutive { expected: Version(expected) });
        assert_eq!(checked(3, &events([4, 5])), Ok(Version(5)));
        for versions in [[3, 4], [5, 6], [4, 6], [4, 4]] {
            assert_eq!(checked(3, &events(versions)), not_consecutive(3), "{versions:?}");
        }
        let mut of_two = events([4, 5]);
        of_two[1].aggregate = "ben".into();
        assert_eq!(checked(3, &of_two), not_consecutive(3));
        let Version(last) = VERSION_MAX;
        assert_eq!(checked(last - 1, &events([last])), Ok(VERSION_MAX));
        assert_eq!(checked(last, &events([last + 1])), not_consecutive(last));
    }
}
