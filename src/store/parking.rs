//! The parking table: events and records that could not be applied, kept until the cause is fixed.
//!
//! | attribute | holds |
//! |---|---|
//! | `aggregateId` | the aggregate, or `record#` and the record's id: partition key |
//! | `projection` | the projection, or `-` for a record that names no event: sort key |
//! | `version` | the version that cannot be applied; the row waits at the version before it |
//! | `reason` | why, without event data |
//! | `payload` | the record or event, unchanged, as JSON; further parts of a long payload are separate items, `part#<n>#<projection>` |
//! | `parts` | the number of items that hold the payload; any further ones are left from a longer payload parked earlier |
//! | `firstSeen`, `lastSeen`, `count` | when it was first and last parked, and how often |
//! | `parkingId` | the id of the last time it was parked, so that a redrive does not delete a later entry |
//!
//! What is kept of a discarded entry has no `reason`, so lists skip it: `aggregateId` is `discarded#` and the entry's, `projection` the time
//! and the entry's, and `discardedAt`, `discardedBy`, `discardedWhy`, `parkedFor`, `parkedSince` and `version` say what became of it.
//!
//! The cursors of rebuilds ([`super::cursors`]) and verifications that are not finished ([`super::verifications`]) live in the same table.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::{
    operation::{query::QueryInput, scan::ScanInput},
    types::{AttributeValue, Delete, Put, TransactWriteItem, Update},
};
use projection_vocabulary::{AggregateId, DynProjection, Version};

use super::{Store, StoreError, expression::Expression, fresh_id, now};
use crate::{
    retry::Deadline,
    store::item::{SdkItem, number_of, text_of},
};

/// The most bytes of a payload in one item. DynamoDB's items hold 400 KB, and a payload as JSON may be longer than the item that it
/// describes.
const PAYLOAD_PART_BYTES: usize = 300 * 1024;
/// The `projection` of a stray: a record that cannot be read and does not identify an event.
pub const NO_PROJECTION: &str = "-";

pub(super) const WRITE: &str = "TransactWriteItems on the parking table";

/// `discarded#<aggregate>`: the partition key of what is kept of a discarded entry.
#[cfg(feature = "cli")]
const DISCARDED: &str = "discarded#";

/// What to keep of an aggregate or a record that is parked.
pub struct Parking<'a> {
    /// The version that cannot be applied; `None` if the record does not name it.
    pub version: Option<Version>,
    /// Why, without event data.
    pub reason: &'a str,
    /// The record or event, as JSON; `None` if the event is missing or no single event is the cause.
    pub payload: Option<&'a str>,
}

/// An entry of the parking table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parked {
    /// The projection, or [`NO_PROJECTION`].
    pub projection: String,
    /// The aggregate, or `record#` and the record's id.
    pub aggregate: String,
    /// The version that cannot be applied.
    pub version: Option<Version>,
    /// Why.
    pub reason: String,
    /// How often it was parked.
    pub count: u64,
    /// When it was parked first.
    pub first_seen: String,
    /// When it was parked last.
    pub last_seen: String,
    /// The id of the last time it was parked. The count cannot identify it: after a deletion, it starts at 1 again.
    pub id: String,
}

impl Store {
    /// Parks a record by itself, because it does not identify an aggregate whose row could wait.
    ///
    /// # Errors
    /// [`StoreError`]: the record must be reported as failed.
    pub async fn park_record(&self, record_id: &str, parking: &Parking<'_>, deadline: Deadline) -> Result<(), StoreError> {
        let actions = self.parking_actions(&format!("record#{record_id}"), NO_PROJECTION, parking);
        self.write_all(WRITE, actions.collect(), deadline).await.map(drop)
    }

    /// The writes that park an aggregate or a record. A repetition increments the count and keeps `firstSeen`.
    pub(super) fn parking_actions(
        &self,
        key: &str,
        projection: &str,
        parking: &Parking<'_>,
    ) -> impl Iterator<Item = TransactWriteItem> + use<> {
        let aggregate = AttributeValue::S(key.to_owned());
        let mut parts = split(parking.payload.unwrap_or_default(), PAYLOAD_PART_BYTES).into_iter();
        let mut expression = Expression::default();
        if let Some(version) = parking.version {
            expression.set("version", AttributeValue::N(version.to_string()));
        }
        expression.set("reason", AttributeValue::S(parking.reason.to_owned()));
        expression.set("payload", AttributeValue::S(parts.next().unwrap_or_default().to_owned()));
        expression.set("parts", AttributeValue::N((parts.len() + 1).to_string()));
        let seen = AttributeValue::S(now().to_string());
        expression.set("lastSeen", seen.clone());
        expression.set_once("firstSeen", seen);
        expression.set("parkingId", AttributeValue::S(fresh_id()));
        expression.add("count", AttributeValue::N("1".into()));
        let table = self.names.parked.clone();
        let update = Update::builder()
            .table_name(&table)
            .key("aggregateId", aggregate.clone())
            .key("projection", AttributeValue::S(projection.to_owned()))
            .update_expression(expression.update())
            .set_expression_attribute_values(expression.values())
            .set_expression_attribute_names(expression.names())
            .build()
            .expect("table, key and expression are given");
        let more = parts.enumerate().map(|(at, part)| {
            let item = SdkItem::from([
                ("aggregateId".into(), aggregate.clone()),
                ("projection".into(), AttributeValue::S(format!("part#{}#{projection}", at + 2))),
                ("payload".into(), AttributeValue::S(part.to_owned())),
            ]);
            let put = Put::builder().table_name(&table).set_item(Some(item)).build().expect("table and item are given");
            TransactWriteItem::builder().put(put).build()
        });
        std::iter::once(TransactWriteItem::builder().update(update).build()).chain(more.collect::<Vec<_>>())
    }

    /// All entries, in the order of projections and aggregates.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn parked(&self) -> Result<Vec<Parked>, StoreError> {
        let mut parked = Vec::new();
        let mut from = None;
        loop {
            let scan = || {
                let request = ScanInput::builder().table_name(&self.names.parked).consistent_read(true);
                self.dynamo.scan(request.set_exclusive_start_key(from.clone()))
            };
            let page = self.send("Scan of the parking table", Deadline::NONE, scan).await?;
            parked.extend(page.items.unwrap_or_default().iter().filter_map(parked_of));
            from = page.last_evaluated_key;
            if from.is_none() {
                parked.sort();
                return Ok(parked);
            }
        }
    }

    /// One entry and its payload, unchanged. `None` if it is no longer parked.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn parked_entry(
        &self,
        projection: &str,
        aggregate: &str,
        deadline: Deadline,
    ) -> Result<Option<(Parked, Option<String>)>, StoreError> {
        let Some(Items { entry, parts }) = self.parking_items(aggregate, projection, deadline).await? else { return Ok(None) };
        let text = |item: &SdkItem| text_of(item, "payload").unwrap_or_default().to_owned();
        let further = number_of(&entry, "parts").unwrap_or(1).saturating_sub(1);
        let payload = text(&entry) + &parts.values().take(usize::try_from(further).unwrap_or(usize::MAX)).map(text).collect::<String>();
        Ok(parked_of(&entry).map(|parked| (parked, Some(payload).filter(|payload| !payload.is_empty()))))
    }

    /// Removes the mark from a parked row, if it is still the mark set at this time.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unpark(
        &self,
        rule: &dyn DynProjection,
        aggregate: &AggregateId,
        parked_at: &str,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        const OPERATION: &str = "UpdateItem on a parked row";
        let mut expression = Expression::default();
        expression.remove("parkedAt");
        let condition = format!("{} = {}", expression.name("parkedAt"), expression.value(AttributeValue::S(parked_at.to_owned())));
        // If the mark is gone, another redrive removed it. If the row was parked again meanwhile, the next read of the row shows that.
        let updated = self.update_if(OPERATION, rule, aggregate.as_str(), &expression, Some(condition), deadline).await?;
        updated.map_err(|reason| StoreError::Permanent { operation: OPERATION, class: reason.to_owned() })
    }

    /// Deletes an entry and all parts of its payload, unless it was parked again since. Returns whether the entry is gone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_parked(&self, parked: &Parked, deadline: Deadline) -> Result<bool, StoreError> {
        self.delete_parked(parked, None, deadline).await
    }

    /// Deletes an entry for good, unless it was parked again since, and keeps who did so and why. Returns whether the entry is gone.
    ///
    /// # Errors
    /// [`StoreError`].
    #[cfg(feature = "cli")]
    pub async fn discard_parked(&self, parked: &Parked, by: &str, why: &str, deadline: Deadline) -> Result<bool, StoreError> {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let at = now().to_string();
        let mut kept = SdkItem::from([
            ("aggregateId".into(), text(&format!("{DISCARDED}{}", parked.aggregate))),
            ("projection".into(), text(&format!("{at}#{}", parked.projection))),
            ("discardedAt".into(), text(&at)),
            ("discardedBy".into(), text(by)),
            ("discardedWhy".into(), text(why)),
            ("parkedFor".into(), text(&parked.reason)),
            ("parkedSince".into(), text(&parked.first_seen)),
        ]);
        kept.extend(parked.version.map(|version| ("version".into(), AttributeValue::N(version.to_string()))));
        let put = Put::builder().table_name(&self.names.parked).set_item(Some(kept)).build().expect("table and item are given");
        self.delete_parked(parked, Some(TransactWriteItem::builder().put(put).build()), deadline).await
    }

    async fn delete_parked(&self, parked: &Parked, also: Option<TransactWriteItem>, deadline: Deadline) -> Result<bool, StoreError> {
        let Some(Items { parts, .. }) = self.parking_items(&parked.aggregate, &parked.projection, deadline).await? else {
            return Ok(true);
        };
        let delete = |projection: AttributeValue| {
            Delete::builder()
                .table_name(&self.names.parked)
                .key("aggregateId", AttributeValue::S(parked.aggregate.clone()))
                .key("projection", projection)
        };
        let entry = delete(AttributeValue::S(parked.projection.clone()))
            .condition_expression("attribute_not_exists(aggregateId) OR parkingId = :id")
            .expression_attribute_values(":id", AttributeValue::S(parked.id.clone()));
        let parts = parts.into_values().filter_map(|part| part.get("projection").cloned()).map(delete);
        let actions = std::iter::once(entry)
            .chain(parts)
            .map(|delete| TransactWriteItem::builder().delete(delete.build().expect("table and key are given")).build())
            .chain(also);
        self.write_all(WRITE, actions.collect(), deadline).await
    }

    async fn parking_items(&self, aggregate: &str, projection: &str, deadline: Deadline) -> Result<Option<Items>, StoreError> {
        let (mut entry, mut parts, mut from) = (None, BTreeMap::new(), None);
        loop {
            let query = || {
                let request = QueryInput::builder()
                    .table_name(&self.names.parked)
                    .key_condition_expression("aggregateId = :aggregate")
                    .expression_attribute_values(":aggregate", AttributeValue::S(aggregate.to_owned()))
                    .consistent_read(true)
                    .set_exclusive_start_key(from.clone());
                self.dynamo.query(request)
            };
            let page = self.send("Query of the parking table", deadline, query).await?;
            for item in page.items.unwrap_or_default() {
                let Some(of) = item.get("projection").and_then(|value| value.as_s().ok()) else { continue };
                if of == projection {
                    entry = Some(item);
                } else if let Some(part) = part_number(of, projection) {
                    parts.insert(part, item);
                }
            }
            from = page.last_evaluated_key;
            if from.is_none() {
                return Ok(entry.map(|entry| Items { entry, parts }));
            }
        }
    }
}

/// An entry, and all further parts in the table by number, which may be more than its payload has.
struct Items {
    entry: SdkItem,
    parts: BTreeMap<usize, SdkItem>,
}

/// The number in `part#<n>#<projection>`.
fn part_number(sort_key: &str, projection: &str) -> Option<usize> {
    let (number, of) = sort_key.strip_prefix("part#")?.split_once('#')?;
    number.parse().ok().filter(|_| of == projection)
}

/// Reads one entry; `None` for a further part of a payload.
fn parked_of(item: &SdkItem) -> Option<Parked> {
    let text = |name: &str| text_of(item, name).map(str::to_owned);
    Some(Parked {
        projection: text("projection")?,
        aggregate: text("aggregateId")?,
        version: number_of(item, "version").map(Version),
        reason: text("reason")?,
        count: number_of(item, "count")?,
        first_seen: text("firstSeen")?,
        last_seen: text("lastSeen")?,
        id: text("parkingId").unwrap_or_default(),
    })
}

/// Splits a string into parts of at most `bytes`, between characters.
fn split(mut text: &str, bytes: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    while text.len() > bytes {
        let (part, rest) = text.split_at(text.floor_char_boundary(bytes));
        parts.push(part);
        text = rest;
    }
    parts.push(text);
    parts
}

#[cfg(test)]
mod tests {
    use super::{part_number, split};

    #[test]
    fn a_long_payload_is_split_between_characters_without_loss() {
        let text = "äöü€".repeat(50);
        let parts = split(&text, 7);
        assert!(parts.iter().all(|part| part.len() <= 7));
        assert_eq!(parts.concat(), text);
        assert_eq!(split("", 7), [""]);
        assert_eq!(split("1234567", 7), ["1234567"]);
    }

    #[test]
    fn a_further_part_is_one_of_the_same_projection() {
        assert_eq!(part_number("part#12#stays", "stays"), Some(12));
        for other in ["part#12#guests", "stays", "part#x#stays"] {
            assert_eq!(part_number(other, "stays"), None, "{other}");
        }
    }
}
