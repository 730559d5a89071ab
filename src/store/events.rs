//! The event store: append with optimistic concurrency, load by aggregate and by type.

use std::{
    ops::RangeInclusive,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use aws_sdk_dynamodb::{
    operation::{
        get_item::GetItemInput,
        put_item::PutItemInput,
        query::QueryInput,
        scan::{ScanInput, builders::ScanInputBuilder},
        transact_write_items::{TransactWriteItemsError, TransactWriteItemsInput},
        update_item::UpdateItemInput,
    },
    types::{AttributeValue, Put, ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update},
};
use projection_vocabulary::{AggregateId, RecordedEvent, Timestamp, Version};
use serde::{Deserialize, Serialize};
use serde_dynamo::{AttributeValue as Attribute, Item};

use super::{
    Store, Trouble,
    expression::Expression,
    fresh_id,
    rows::TRANSACTION_ACTIONS_MAX,
    trouble::{Failure, canceled_for, sort, undecided},
};
use crate::{
    item::{
        Malformed, SdkItem, VERSION_MAX, VERSION_SK, aggregate_of, decode_event, encode_event, event_type_of, partition_key, sort_key,
        type_key,
    },
    retry::{Attempt, Deadline},
};

/// The most events in one append: a transaction's actions less the VERSION item's.
pub const APPEND_EVENTS_MAX: usize = TRANSACTION_ACTIONS_MAX - 1;

/// Why an append did not happen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Someone else appended first. Load the aggregate, decide anew, append again.
    #[error("conflict on aggregate {aggregate}: expected version {expected}, found {actual}")]
    Conflict {
        /// The aggregate.
        aggregate: AggregateId,
        /// The version that the caller decided upon.
        expected: Version,
        /// The version that the store holds.
        actual: Version,
    },
    /// More than one transaction holds. Split what need not happen together.
    #[error("an append takes 1 to {APPEND_EVENTS_MAX} events, not {0}")]
    Count(usize),
    /// The events are not the next of one aggregate: a mistake of the caller's.
    #[error("the events of an append are of one aggregate and their versions follow version {expected}")]
    NotConsecutive {
        /// The version that the caller decided upon.
        expected: Version,
    },
    /// DynamoDB refuses an event, for its size for example.
    #[error("DynamoDB refuses the events of aggregate {aggregate}: {reason}")]
    Invalid {
        /// The aggregate.
        aggregate: AggregateId,
        /// Why.
        reason: &'static str,
    },
    /// Nothing is known; appending the same events again is safe.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// How many events are read at once where many may be needed: a page of DynamoDB's 1 MB holds about as many.
pub const PAGE_EVENTS: usize = 1_000;

/// What became of an imported item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It is in the store now.
    New,
    /// Its version was in the store before.
    Known,
    /// `DynamoDB` refuses it: no real stream can have carried it.
    Refused(&'static str),
}

/// One item of an aggregate's history.
#[derive(Debug)]
pub enum Stored {
    /// An event.
    Event(RecordedEvent),
    /// An item under an event's key that cannot be read.
    Malformed {
        /// Its version, by its key.
        version: Version,
        /// Its type, if that can be told.
        event_type: Option<String>,
        /// What is wrong with it.
        reason: Malformed,
        /// The item as JSON.
        payload: String,
    },
}

/// Where a scan of the event store goes on: behind the item with these keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Its partition key.
    #[serde(rename = "PK")]
    partition: String,
    /// Its sort key.
    #[serde(rename = "SK")]
    sort: String,
}

impl Cursor {
    /// Behind an event.
    #[must_use]
    pub fn behind(aggregate: &AggregateId, version: Version) -> Self {
        Self { partition: partition_key(aggregate), sort: sort_key(version) }
    }
}

/// Where a query of the index by event type goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexCursor(SdkItem);

/// One of the parts into which a table is cut for a parallel scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    number: u32,
    of: u32,
}

/// There is no such segment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no segment {number} of {of}: the first is 0, and a table has at most {SEGMENTS_MAX}")]
pub struct NoSegment {
    number: u32,
    of: u32,
}

/// As many items as a page of 1 MB may hold, and more: DynamoDB ends a page by its size. The embedded one reads what it is not told to
/// leave, and throws it away.
pub(super) const SCAN_ITEMS_MAX: i32 = 5_000;

/// The most segments of a parallel scan.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_Scan.html>
pub const SEGMENTS_MAX: u32 = 1_000_000;

impl Segment {
    /// The whole table.
    pub const ALL: Self = Self { number: 0, of: 1 };

    /// The segment of this number, from 0, of so many.
    ///
    /// # Errors
    /// [`NoSegment`].
    pub fn new(number: u32, of: u32) -> Result<Self, NoSegment> {
        if number < of && of <= SEGMENTS_MAX { Ok(Self { number, of }) } else { Err(NoSegment { number, of }) }
    }

    /// All segments of a table that is cut into so many.
    pub fn all(of: u32) -> impl Iterator<Item = Self> {
        (0..of).map(move |number| Self { number, of })
    }

    /// Its number, from 0.
    #[must_use]
    pub fn number(self) -> u32 {
        self.number
    }

    /// Of how many it is one.
    #[must_use]
    pub fn count(self) -> u32 {
        self.of
    }

    pub(super) fn of(self, request: ScanInputBuilder) -> ScanInputBuilder {
        if self.of == 1 {
            return request;
        }
        let whole = |number| i32::try_from(number).expect("at most a million");
        request.segment(whole(self.number)).total_segments(whole(self.of))
    }
}

impl Stored {
    /// The version, by the item's key.
    #[must_use]
    pub fn version(&self) -> Version {
        match self {
            Self::Event(event) => event.version,
            Self::Malformed { version, .. } => *version,
        }
    }
}

impl Store {
    /// Appends the events that follow version `expected` of their aggregate: all of them, or none.
    ///
    /// # Errors
    /// [`AppendError`]; after [`AppendError::Trouble`] the same append may be tried again, it will not count twice.
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
        let actions: Vec<_> = std::iter::once(self.move_version(aggregate, expected, last))
            .chain(events.iter().map(|event| self.put_new(encode_event(event))))
            .collect();
        let token = fresh_id();
        let applied_maybe = AtomicBool::new(false);
        let refused = self
            .try_until(("TransactWriteItems of an append", None), Deadline::NONE, || async {
                let request = TransactWriteItemsInput::builder().set_transact_items(Some(actions.clone())).client_request_token(&token);
                let request = request.return_consumed_capacity(ReturnConsumedCapacity::Total);
                match self.dynamo.transact_write_items(request).await.map_err(sort) {
                    Ok(done) => {
                        self.meter.wrote(done.consumed_capacity());
                        Attempt::Decided(Ok(None))
                    }
                    Err(Failure::Other(TransactWriteItemsError::TransactionCanceledException(canceled))) => {
                        self.meter.wasted(2 * actions.len() as u64);
                        let codes: Vec<_> = canceled.cancellation_reasons().iter().filter_map(|reason| reason.code()).collect();
                        if codes.contains(&"ConditionalCheckFailed") {
                            // If it is not the VERSION item that refuses, it is as expected.
                            let of_version = &canceled.cancellation_reasons()[0];
                            let moved = of_version.code() == Some("ConditionalCheckFailed");
                            let actual = if moved { of_version.item().map_or(Version::NONE, version_of) } else { expected };
                            Attempt::Decided(Ok(Some(actual)))
                        } else if codes.contains(&"ValidationError") {
                            Attempt::Decided(Err(AppendError::Invalid {
                                aggregate: aggregate.clone(),
                                reason: "an event is no valid item",
                            }))
                        } else {
                            Attempt::Again(Trouble::Passing { operation: "append", class: canceled_for(canceled.cancellation_reasons()) })
                        }
                    }
                    Err(Failure::Invalid(reason)) => Attempt::Decided(Err(AppendError::Invalid { aggregate: aggregate.clone(), reason })),
                    Err(failure) => {
                        applied_maybe.fetch_or(failure.applied_maybe(), Relaxed);
                        match undecided::<(), _>("append", failure) {
                            Attempt::Again(trouble) => Attempt::Again(trouble),
                            Attempt::Decided(decided) => Attempt::Decided(decided.map(|()| None).map_err(AppendError::Trouble)),
                        }
                    }
                }
            })
            .await??;
        let Some(mut actual) = refused else { return Ok(last) };
        if actual == expected || applied_maybe.load(Relaxed) {
            // The VERSION item says nothing of the conflict: an event is there without it, or our own lost try succeeded.
            let present = self.load_page(aggregate, expected.next()..=last, events.len(), Deadline::NONE).await?;
            let ours = present
                .iter()
                .zip(events)
                .all(|(stored, event)| matches!(stored, Stored::Event(there) if there.event_id == event.event_id));
            if present.len() == events.len() && ours {
                return Ok(last);
            }
            actual = actual.max(present.last().map_or(actual, Stored::version));
        }
        Err(AppendError::Conflict { aggregate: aggregate.clone(), expected, actual })
    }

    fn move_version(&self, aggregate: &AggregateId, expected: Version, to: Version) -> TransactWriteItem {
        let mut expression = Expression::default();
        expression.set("version", AttributeValue::N(to.to_string()));
        let version = expression.name("version");
        let condition = if expected == Version::NONE {
            format!("attribute_not_exists({version})")
        } else {
            format!("{version} = {}", expression.value(AttributeValue::N(expected.to_string())))
        };
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

    fn put_new(&self, item: SdkItem) -> TransactWriteItem {
        let put = Put::builder()
            .table_name(&self.names.event_store)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(PK)")
            .build();
        TransactWriteItem::builder().put(put.expect("table and item are given")).build()
    }

    /// The version that the next append to an aggregate follows.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn current_version(&self, aggregate: &AggregateId) -> Result<Version, Trouble> {
        let read = || {
            let request = GetItemInput::builder().table_name(&self.names.event_store);
            let request = request.key("PK", AttributeValue::S(partition_key(aggregate))).key("SK", AttributeValue::S(VERSION_SK.into()));
            self.dynamo.get_item(request.consistent_read(true))
        };
        let found = self.ask("GetItem of a VERSION item", Deadline::NONE, read).await?;
        Ok(found.item.as_ref().map_or(Version::NONE, version_of))
    }

    /// Loads events of an aggregate by consistent read: the first `limit` of the versions asked for.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn load_page(
        &self,
        aggregate: &AggregateId,
        versions: RangeInclusive<Version>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Vec<Stored>, Trouble> {
        let mut stored = Vec::new();
        let mut from = None;
        loop {
            let query = || {
                let request = QueryInput::builder()
                    .table_name(&self.names.event_store)
                    .key_condition_expression("PK = :pk AND SK BETWEEN :first AND :last")
                    .expression_attribute_values(":pk", AttributeValue::S(partition_key(aggregate)))
                    .expression_attribute_values(":first", AttributeValue::S(sort_key(*versions.start())))
                    .expression_attribute_values(":last", AttributeValue::S(sort_key((*versions.end()).min(VERSION_MAX))))
                    .consistent_read(true)
                    .limit(i32::try_from(limit - stored.len()).unwrap_or(i32::MAX))
                    .set_exclusive_start_key(from.clone())
                    .return_consumed_capacity(ReturnConsumedCapacity::Total);
                self.dynamo.query(request)
            };
            let page = self.ask("Query of the event store", deadline, query).await?;
            self.meter.read_rows(&page.consumed_capacity);
            stored.extend(page.items.unwrap_or_default().into_iter().filter_map(|item| stored_of(&item.into())));
            from = page.last_evaluated_key;
            if from.is_none() || stored.len() >= limit {
                return Ok(stored);
            }
        }
    }

    /// One page of a scan of a segment of the event store, by consistent read: what it has of events, and where to go on.
    ///
    /// An aggregate's events come in order and next to each other. Nothing relies on it, and the page is no snapshot: of events that
    /// one transaction appended the later may be there and the earlier not.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn scan_events(
        &self,
        segment: Segment,
        after: Option<&Cursor>,
        deadline: Deadline,
    ) -> Result<(Vec<(AggregateId, Stored)>, Option<Cursor>), Trouble> {
        let scan = || {
            let start = after.map(|Cursor { partition, sort }| {
                SdkItem::from([("PK".into(), AttributeValue::S(partition.clone())), ("SK".into(), AttributeValue::S(sort.clone()))])
            });
            let request = segment.of(ScanInput::builder().table_name(&self.names.event_store).consistent_read(true).limit(SCAN_ITEMS_MAX));
            self.dynamo.scan(request.set_exclusive_start_key(start).return_consumed_capacity(ReturnConsumedCapacity::Total))
        };
        let page = self.ask("Scan of the event store", deadline, scan).await?;
        self.meter.read_rows(&page.consumed_capacity);
        let text = |key: &SdkItem, name: &str| key.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default();
        let next = page.last_evaluated_key.map(|key| Cursor { partition: text(&key, "PK"), sort: text(&key, "SK") });
        let located = |item: SdkItem| Some((aggregate_of(item.get("PK")?.as_s().ok()?)?, stored_of(&item.into())?));
        Ok((page.items.unwrap_or_default().into_iter().filter_map(located).collect(), next))
    }

    /// One page of the keys of the events of a type since a time, oldest first, and where to go on. From an index, so the very newest
    /// may be missing for a moment.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn keys_since(
        &self,
        event_type: &str,
        since: &Timestamp,
        after: Option<&IndexCursor>,
        deadline: Deadline,
    ) -> Result<(Vec<(AggregateId, Version)>, Option<IndexCursor>), Trouble> {
        let query = || {
            let request = QueryInput::builder()
                .table_name(&self.names.event_store)
                .index_name(super::tables::BY_TYPE_INDEX)
                .key_condition_expression("GSI1PK = :type AND GSI1SK >= :since")
                .expression_attribute_values(":type", AttributeValue::S(type_key(event_type)))
                .expression_attribute_values(":since", AttributeValue::S(since.to_string()))
                .projection_expression("PK, SK")
                .set_exclusive_start_key(after.map(|IndexCursor(key)| key.clone()))
                .return_consumed_capacity(ReturnConsumedCapacity::Total);
            self.dynamo.query(request)
        };
        let page = self.ask("Query by event type", deadline, query).await?;
        self.meter.read_rows(&page.consumed_capacity);
        let key = |item: SdkItem| {
            let version = item.get("SK")?.as_s().ok()?.strip_prefix("EVENT#")?.parse().ok()?;
            Some((aggregate_of(item.get("PK")?.as_s().ok()?)?, Version(version)))
        };
        Ok((page.items.unwrap_or_default().into_iter().filter_map(key).collect(), page.last_evaluated_key.map(IndexCursor)))
    }

    /// The newest events of a type, newest first. From an index, so the very newest may be missing for a moment.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn load_by_type(&self, event_type: &str, limit: usize) -> Result<Vec<Stored>, Trouble> {
        let mut stored = Vec::new();
        let mut from = None;
        while stored.len() < limit {
            let query = || {
                let request = QueryInput::builder()
                    .table_name(&self.names.event_store)
                    .index_name(super::tables::BY_TYPE_INDEX)
                    .key_condition_expression("GSI1PK = :type")
                    .expression_attribute_values(":type", AttributeValue::S(type_key(event_type)))
                    .scan_index_forward(false)
                    .limit(i32::try_from(limit - stored.len()).unwrap_or(i32::MAX))
                    .set_exclusive_start_key(from.clone());
                self.dynamo.query(request)
            };
            let page = self.ask("Query by event type", Deadline::NONE, query).await?;
            stored.extend(page.items.unwrap_or_default().into_iter().filter_map(|item| stored_of(&item.into())));
            from = page.last_evaluated_key;
            if from.is_none() {
                break;
            }
        }
        Ok(stored)
    }

    /// Puts an event's item into the store as it was captured. Repeatable.
    ///
    /// The VERSION item follows the highest version imported, so that appends go on from there.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn import(&self, aggregate: &AggregateId, version: Version, item: SdkItem) -> Result<Imported, Trouble> {
        const PUT: &str = "PutItem into the event store";
        const UPDATE: &str = "UpdateItem of a VERSION item";
        let mut expression = Expression::default();
        expression.set("version", AttributeValue::N(version.to_string()));
        let (name, value) = (expression.name("version"), expression.value(AttributeValue::N(version.to_string())));
        let imported = self
            .try_until((PUT, None), Deadline::NONE, || async {
                let request = PutItemInput::builder()
                    .table_name(&self.names.event_store)
                    .set_item(Some(item.clone()))
                    .condition_expression("attribute_not_exists(PK)");
                match self.dynamo.put_item(request).await.map_err(sort) {
                    Ok(_) => Attempt::Decided(Ok(Imported::New)),
                    Err(Failure::Other(error)) if error.is_conditional_check_failed_exception() => Attempt::Decided(Ok(Imported::Known)),
                    Err(Failure::Invalid(reason)) => Attempt::Decided(Ok(Imported::Refused(reason))),
                    Err(failure) => undecided(PUT, failure),
                }
            })
            .await??;
        self.try_until((UPDATE, None), Deadline::NONE, || async {
            let request = UpdateItemInput::builder()
                .table_name(&self.names.event_store)
                .key("PK", AttributeValue::S(partition_key(aggregate)))
                .key("SK", AttributeValue::S(VERSION_SK.into()))
                .update_expression(expression.update())
                .condition_expression(format!("attribute_not_exists({name}) OR {name} < {value}"))
                .set_expression_attribute_names(Some(expression.names.clone()))
                .set_expression_attribute_values(expression.some_values());
            match self.dynamo.update_item(request).await.map_err(sort) {
                Ok(_) => Attempt::Decided(Ok(())),
                Err(Failure::Other(error)) if error.is_conditional_check_failed_exception() => Attempt::Decided(Ok(())),
                Err(failure) => undecided(UPDATE, failure),
            }
        })
        .await??;
        Ok(imported)
    }
}

fn version_of(item: &SdkItem) -> Version {
    Version(item.get("version").and_then(|value| value.as_n().ok()).and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// Reads an item of the event store; none if it lies under no event's sort key.
pub(crate) fn stored_of(item: &Item) -> Option<Stored> {
    match decode_event(item) {
        Ok(event) => Some(Stored::Event(event)),
        Err(reason) => {
            let Attribute::S(sort) = item.get("SK")? else { return None };
            Some(Stored::Malformed {
                // A sort key between two events' that is no event's belongs to no version: nothing waits for it.
                version: Version(sort.strip_prefix("EVENT#")?.parse().ok().filter(|_| reason != Malformed::SortKey)?),
                event_type: event_type_of(item).map(str::to_owned),
                reason,
                payload: serde_json::to_string(item).unwrap_or_default(),
            })
        }
    }
}
