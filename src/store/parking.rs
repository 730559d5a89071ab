//! The parking table: what could not be applied, kept until someone mends it.
//!
//! | attribute | holds |
//! |---|---|
//! | `aggregateId` | the aggregate, or `record#` and the record's id: partition key |
//! | `projection` | the projection, or `-` for a record that names no event: sort key |
//! | `version` | the version that cannot be applied; the row waits at the one before |
//! | `reason` | why, without event data |
//! | `payload` | the record or event as it came, as JSON; further parts of a long one are items of their own, `part#<n>#<projection>` |
//! | `parts` | how many items the payload has |
//! | `firstSeen`, `lastSeen`, `count` | when and how often it was parked |

use aws_sdk_dynamodb::{
    operation::{
        scan::ScanInput,
        transact_write_items::{TransactWriteItemsError, TransactWriteItemsInput},
    },
    types::{AttributeValue, Put, TransactWriteItem, Update},
};
use projection_vocabulary::{AggregateId, Version};

use super::{
    Store, Trouble,
    expression::Expression,
    now,
    trouble::{Failure, sort, undecided},
};
use crate::{
    item::SdkItem,
    retry::{Attempt, Deadline, retry},
};

/// A payload is cut into items of so many bytes: DynamoDB's items hold 400 KB, and JSON is longer than the item it stands for.
const PAYLOAD_PART_BYTES: usize = 300 * 1024;
/// The `projection` of a record that names no event.
pub const NO_PROJECTION: &str = "-";

/// What to park.
pub struct Parking<'a> {
    /// In which projection; none for a record that names no event.
    pub projection: Option<&'a str>,
    /// Which aggregate; none for a record that names none.
    pub aggregate: Option<&'a AggregateId>,
    /// Names the record if it names no aggregate.
    pub record_id: &'a str,
    /// The version that cannot be applied.
    pub version: Option<Version>,
    /// Why, without event data.
    pub reason: &'a str,
    /// The record or event, as JSON.
    pub payload: &'a str,
}

/// What is parked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parked {
    /// The projection, or [`NO_PROJECTION`].
    pub projection: String,
    /// The aggregate, or `record#` and the record's id.
    pub aggregate: String,
    /// The version that cannot be applied.
    pub version: Option<u64>,
    /// Why.
    pub reason: String,
    /// How often it was parked.
    pub count: u64,
}

impl Parking<'_> {
    fn partition_key(&self) -> String {
        self.aggregate.map_or_else(|| format!("record#{}", self.record_id), ToString::to_string)
    }
}

impl Store {
    /// Parks a record that no aggregate's row can wait for.
    ///
    /// # Errors
    /// [`Trouble`]: the record must be reported as failed.
    pub async fn park_record(&self, parking: &Parking<'_>, deadline: Deadline) -> Result<(), Trouble> {
        const OPERATION: &str = "TransactWriteItems on the parking table";
        let actions: Vec<_> = self.parking_actions(parking).collect();
        retry(deadline, || async {
            self.meter.request();
            let request = TransactWriteItemsInput::builder().set_transact_items(Some(actions.clone()));
            match self.dynamo.transact_write_items(request).await.map_err(sort) {
                Ok(_) => Attempt::Decided(Ok(())),
                // It has no condition to fail, so unless it is invalid it met another write or too many.
                Err(Failure::Other(TransactWriteItemsError::TransactionCanceledException(canceled)))
                    if canceled.cancellation_reasons().iter().all(|reason| reason.code() != Some("ValidationError")) =>
                {
                    Attempt::Again(Trouble::Passing { operation: OPERATION, class: "canceled".into() })
                }
                Err(failure) => undecided(OPERATION, failure),
            }
        })
        .await?
    }

    /// The writes that park something. Repeating them counts up and keeps the first sighting.
    pub(super) fn parking_actions(&self, parking: &Parking<'_>) -> impl Iterator<Item = TransactWriteItem> {
        let projection = parking.projection.unwrap_or(NO_PROJECTION);
        let aggregate = AttributeValue::S(parking.partition_key());
        let mut parts = split(parking.payload, PAYLOAD_PART_BYTES).into_iter();
        let mut expression = Expression::default();
        if let Some(version) = parking.version {
            expression.set("version", AttributeValue::N(version.to_string()));
        }
        expression.set("reason", AttributeValue::S(parking.reason.to_owned()));
        expression.set("payload", AttributeValue::S(parts.next().unwrap_or_default().to_owned()));
        expression.set("parts", AttributeValue::N((parts.len() + 1).to_string()));
        expression.set("lastSeen", AttributeValue::S(now().to_string()));
        expression.set_once("firstSeen", AttributeValue::S(now().to_string()));
        expression.add("count", AttributeValue::N("1".into()));
        let table = self.names.parked.clone();
        let update = Update::builder()
            .table_name(&table)
            .key("aggregateId", aggregate.clone())
            .key("projection", AttributeValue::S(projection.to_owned()))
            .update_expression(expression.update())
            .set_expression_attribute_values(expression.some_values())
            .set_expression_attribute_names(Some(expression.names))
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

    /// All that is parked, in the order of projections and aggregates.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn parked(&self) -> Result<Vec<Parked>, Trouble> {
        let mut parked = Vec::new();
        let mut from = None;
        loop {
            let scan = || {
                let request = ScanInput::builder().table_name(&self.names.parked).consistent_read(true);
                self.dynamo.scan(request.set_exclusive_start_key(from.clone()))
            };
            let page = self.ask("Scan of the parking table", Deadline::NONE, scan).await?;
            parked.extend(page.items.unwrap_or_default().iter().filter_map(parked_of));
            from = page.last_evaluated_key;
            if from.is_none() {
                parked.sort();
                return Ok(parked);
            }
        }
    }
}

/// Reads one entry; further parts of a payload are none.
fn parked_of(item: &SdkItem) -> Option<Parked> {
    let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned();
    let number = |name: &str| item.get(name).and_then(|value| value.as_n().ok()).and_then(|n| n.parse().ok());
    Some(Parked {
        projection: text("projection")?,
        aggregate: text("aggregateId")?,
        version: number("version"),
        reason: text("reason")?,
        count: number("count")?,
    })
}

/// Cuts a text into parts of at most `bytes`, between characters.
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
    use super::split;

    #[test]
    fn a_long_payload_is_cut_between_characters_and_nothing_is_lost() {
        let text = "äöü€".repeat(50);
        let parts = split(&text, 7);
        assert!(parts.iter().all(|part| part.len() <= 7));
        assert_eq!(parts.concat(), text);
        assert_eq!(split("", 7), [""]);
    }
}
