//! Reads from the event store: by aggregate, by event type, and by scan.

use std::ops::RangeInclusive;

use aws_sdk_dynamodb::{
    operation::{query::QueryInput, scan::ScanInput},
    types::{AttributeValue, ReturnConsumedCapacity},
};
use projection_vocabulary::{AggregateId, RecordedEvent, Timestamp, Version};
use serde_dynamo::{AttributeValue as Attribute, Item};

use super::{
    Store, StoreError,
    item::{Malformed, SdkItem, VERSION_MAX, aggregate_of, decode_event, event_type_of, partition_key, sort_key, type_key},
    limits::SCAN_ITEMS_MAX,
    segment::{Cursor, Segment},
    tables::BY_TYPE_INDEX,
};
use crate::retry::Deadline;

/// How many events are read at once where many may be needed: about what DynamoDB's page of 1 MB holds.
pub const PAGE_EVENTS: usize = 1_000;

/// One item of an aggregate's history.
#[derive(Debug)]
pub enum Stored {
    /// An event.
    Event(RecordedEvent),
    /// An item with the key of an event that cannot be read as one.
    Malformed {
        /// The version in its key.
        version: Version,
        /// Its event type, if that can be read.
        event_type: Option<String>,
        /// Why it cannot be read.
        reason: Malformed,
        /// The item as JSON.
        payload: String,
    },
}

/// Where a query of the index by event type continues.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexCursor(SdkItem);

impl Stored {
    /// The version in the item's key.
    #[must_use]
    pub fn version(&self) -> Version {
        match self {
            Self::Event(event) => event.version,
            Self::Malformed { version, .. } => *version,
        }
    }
}

impl Store {
    /// Loads events of an aggregate by consistent read: at most the first `limit` in this range of versions.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_page(
        &self,
        aggregate: &AggregateId,
        versions: RangeInclusive<Version>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Vec<Stored>, StoreError> {
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
            let page = self.send("Query of the event store", deadline, query).await?;
            self.meter.read_rows(&page.consumed_capacity);
            stored.extend(page.items.unwrap_or_default().into_iter().filter_map(|item| stored_of(&item.into())));
            from = page.last_evaluated_key;
            if from.is_none() || stored.len() >= limit {
                return Ok(stored);
            }
        }
    }

    /// One page of a scan of a segment of the event store, by consistent read: its events, and where to continue.
    ///
    /// An aggregate's events come in order and next to each other, but nothing relies on that. The page is not a snapshot: of the
    /// events that one transaction appended, it may have a later one without an earlier one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn scan_events(
        &self,
        segment: Segment,
        after: Option<&Cursor>,
        deadline: Deadline,
    ) -> Result<(Vec<(AggregateId, Stored)>, Option<Cursor>), StoreError> {
        let scan = || {
            let request = segment.of(ScanInput::builder().table_name(&self.names.event_store).consistent_read(true).limit(SCAN_ITEMS_MAX));
            self.dynamo
                .scan(request.set_exclusive_start_key(after.map(Cursor::key)).return_consumed_capacity(ReturnConsumedCapacity::Total))
        };
        let page = self.send("Scan of the event store", deadline, scan).await?;
        self.meter.read_rows(&page.consumed_capacity);
        let next = page.last_evaluated_key.as_ref().map(Cursor::of);
        let located = |item: SdkItem| Some((aggregate_of(item.get("PK")?.as_s().ok()?)?, stored_of(&item.into())?));
        Ok((page.items.unwrap_or_default().into_iter().filter_map(located).collect(), next))
    }

    /// One page of the keys of events of a type since a time, and where to continue. It is read from an index, which may not have the
    /// newest events yet.
    ///
    /// The index sorts timestamps as strings, and other producers may write them with an offset or another separator than `T`. So the
    /// query begins at the earliest date that any of them can show, and each timestamp is then compared as an instant. One that cannot be
    /// read counts as recent.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keys_since(
        &self,
        event_type: &str,
        since: &Timestamp,
        after: Option<&IndexCursor>,
        deadline: Deadline,
    ) -> Result<(Vec<(AggregateId, Version)>, Option<IndexCursor>), StoreError> {
        let query = || {
            let request = QueryInput::builder()
                .table_name(&self.names.event_store)
                .index_name(BY_TYPE_INDEX)
                .key_condition_expression("GSI1PK = :type AND GSI1SK >= :date")
                .expression_attribute_values(":type", AttributeValue::S(type_key(event_type)))
                .expression_attribute_values(":date", AttributeValue::S(earliest_date(since)))
                .projection_expression("PK, SK, GSI1SK")
                .set_exclusive_start_key(after.map(|IndexCursor(key)| key.clone()))
                .return_consumed_capacity(ReturnConsumedCapacity::Total);
            self.dynamo.query(request)
        };
        let page = self.send("Query by event type", deadline, query).await?;
        self.meter.read_rows(&page.consumed_capacity);
        let key = |item: SdkItem| {
            let at = item.get("GSI1SK").and_then(|at| Timestamp::parse(at.as_s().ok()?).ok());
            if at.is_some_and(|at| at < *since) {
                return None;
            }
            let version = item.get("SK")?.as_s().ok()?.strip_prefix("EVENT#")?.parse().ok()?;
            Some((aggregate_of(item.get("PK")?.as_s().ok()?)?, Version(version)))
        };
        Ok((page.items.unwrap_or_default().into_iter().filter_map(key).collect(), page.last_evaluated_key.map(IndexCursor)))
    }

    /// Whether the event store has anything at all.
    ///
    /// # Errors
    /// [`StoreError`].
    #[cfg(feature = "cli")]
    pub async fn has_events(&self, deadline: Deadline) -> Result<bool, StoreError> {
        let scan = || {
            let request = ScanInput::builder().table_name(&self.names.event_store).consistent_read(true).limit(1);
            self.dynamo.scan(request.return_consumed_capacity(ReturnConsumedCapacity::Total))
        };
        let page = self.send("Scan of the event store", deadline, scan).await?;
        self.meter.read_rows(&page.consumed_capacity);
        Ok(page.items.is_some_and(|items| !items.is_empty()))
    }

    /// The newest events of a type, newest first. They are read from an index, which may not have the very newest yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_by_type(&self, event_type: &str, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let mut stored = Vec::new();
        let mut from = None;
        while stored.len() < limit {
            let query = || {
                let request = QueryInput::builder()
                    .table_name(&self.names.event_store)
                    .index_name(BY_TYPE_INDEX)
                    .key_condition_expression("GSI1PK = :type")
                    .expression_attribute_values(":type", AttributeValue::S(type_key(event_type)))
                    .scan_index_forward(false)
                    .limit(i32::try_from(limit - stored.len()).unwrap_or(i32::MAX))
                    .set_exclusive_start_key(from.clone());
                self.dynamo.query(request)
            };
            let page = self.send("Query by event type", Deadline::NONE, query).await?;
            stored.extend(page.items.unwrap_or_default().into_iter().filter_map(|item| stored_of(&item.into())));
            from = page.last_evaluated_key;
            if from.is_none() {
                break;
            }
        }
        Ok(stored)
    }
}

/// The furthest that a local time is behind UTC, in milliseconds: `-12:00`.
/// <https://en.wikipedia.org/wiki/List_of_UTC_offsets>
const BEHIND_UTC_MAX_MS: i64 = 12 * 60 * 60 * 1_000;

/// The earliest date, as RFC 3339 begins, at which it can be this time somewhere.
fn earliest_date(time: &Timestamp) -> String {
    let there = Timestamp::from_epoch_ms(time.epoch_ms() - BEHIND_UTC_MAX_MS);
    let text = there.as_ref().unwrap_or(time).as_str();
    text.split_once('T').map_or(text, |(date, _)| date).to_owned()
}

/// Reads an item of the event store; `None` if its sort key is not an event's.
pub(crate) fn stored_of(item: &Item) -> Option<Stored> {
    match decode_event(item) {
        Ok(event) => Some(Stored::Event(event)),
        Err(reason) => {
            let Attribute::S(sort) = item.get("SK")? else { return None };
            Some(Stored::Malformed {
                // A malformed sort key does not belong to a version, so nothing waits for the item.
                version: Version(sort.strip_prefix("EVENT#")?.parse().ok().filter(|_| reason != Malformed::SortKey)?),
                event_type: event_type_of(item).map(str::to_owned),
                reason,
                payload: serde_json::to_string(item).unwrap_or_default(),
            })
        }
    }
}
