//! Corrections of the event store: the only writes that change an event. The item as it was stays, so history keeps an audit trail.
//!
//! An event's item is replaced in one transaction with the item that keeps the old one. That has the same partition key, and
//!
//! | attribute | holds |
//! |---|---|
//! | `SK` | `CORRECTED#<version, 10 digits>#<time of the correction>`: no reader takes it for an event, and neither does the worker |
//! | `correction` | a map: `at`, `by` and `why`, and as `GSI1PK` and `GSI1SK` what the old item had, since the index lists events only |
//! | all others | what the old item had |
//!
//! The aggregate's snapshot is taken away in the same transaction, for it was folded from the event as it was.
//!
//! The stream reports the replaced item as modified, which the template's filter holds back: whoever corrects an event brings the rows in
//! line that have applied it ([`crate::operations::correct`]).

use aws_sdk_dynamodb::{
    operation::{get_item::GetItemInput, query::QueryInput},
    types::{AttributeValue, Put, TransactWriteItem, Update},
};
use projection_vocabulary::{AggregateId, RecordedEvent, Version};
use serde_dynamo::Item;

use super::{
    Store, StoreError,
    expression::{Conditions, Expression},
    fresh_id,
    item::{SdkItem, VERSION_SK, encode_event, partition_key, sort_key},
    now,
};
use crate::retry::Deadline;

const CORRECTED: &str = "CORRECTED#";
const CORRECTION: &str = "correction";
/// Keys of the index by event type. An item without them is not in the index.
const INDEX_KEYS: [&str; 2] = ["GSI1PK", "GSI1SK"];

/// An item under an event's key, as the event store has it.
#[derive(Clone, Debug, PartialEq)]
pub struct EventItem(SdkItem);

/// Who corrects an event, and why.
#[derive(Clone, Copy, Debug)]
pub struct Audit<'a> {
    /// Who.
    pub by: &'a str,
    /// Why.
    pub why: &'a str,
}

impl EventItem {
    /// The item in the type that decoders read.
    #[must_use]
    pub fn item(&self) -> Item {
        self.0.clone().into()
    }

    /// The item as DynamoDB's JSON. It has event data.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(&self.item()).expect("an item has text keys and serialises")
    }
}

impl Store {
    /// The item under an event's key, by consistent read; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn event_item(&self, aggregate: &AggregateId, version: Version) -> Result<Option<EventItem>, StoreError> {
        let read = || {
            let request = GetItemInput::builder().table_name(&self.names.event_store);
            let request = request.key("PK", AttributeValue::S(partition_key(aggregate))).key("SK", AttributeValue::S(sort_key(version)));
            self.dynamo.get_item(request.consistent_read(true))
        };
        Ok(self.send("GetItem of an event", Deadline::NONE, read).await?.item.map(EventItem))
    }

    /// Puts an event in place of an item, if it is still the one that was `shown`, or if there is still none. Returns whether it did.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn replace_event(
        &self,
        shown: Option<&EventItem>,
        event: &RecordedEvent,
        Audit { by, why }: Audit<'_>,
    ) -> Result<bool, StoreError> {
        let at = now().to_string();
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let mut kept = shown.map(|shown| shown.0.clone()).unwrap_or_default();
        let mut correction = SdkItem::from([("at".into(), text(&at)), ("by".into(), text(by)), ("why".into(), text(why))]);
        correction.extend(INDEX_KEYS.into_iter().filter_map(|name| kept.remove_entry(name)));
        kept.insert("PK".into(), text(&partition_key(&event.aggregate)));
        kept.insert("SK".into(), text(&format!("{}{at}", kept_before(event.version))));
        kept.insert(CORRECTION.into(), AttributeValue::M(correction));
        let put = |item| Put::builder().table_name(&self.names.event_store).set_item(Some(item));
        let mut expression = Expression::default();
        let mut conditions = Conditions::default();
        match shown {
            Some(EventItem(shown)) => {
                for (name, value) in shown {
                    let name = expression.name(name);
                    conditions.and(format_args!("{name} = {}", expression.value(value.clone())));
                }
            }
            None => conditions.and(expression.unchanged("PK", "")),
        }
        let replace = put(encode_event(event))
            .condition_expression(conditions.into_text())
            .set_expression_attribute_values(expression.values())
            .set_expression_attribute_names(expression.names());
        let keep = put(kept).condition_expression("attribute_not_exists(PK)");
        let puts = [replace, keep].map(|put| TransactWriteItem::builder().put(put.build().expect("table and item are given")).build());
        let snapshot = [self.forget_snapshot(&event.aggregate), self.mark_corrected(&event.aggregate)];
        self.write_all("TransactWriteItems of a correction", puts.into_iter().chain(snapshot).collect(), Deadline::NONE).await
    }

    /// Marks the aggregate, so that nobody keeps a snapshot of a state that was folded from the event as it was.
    fn mark_corrected(&self, aggregate: &AggregateId) -> TransactWriteItem {
        let mut expression = Expression::default();
        expression.set(super::append::CORRECTED, AttributeValue::S(fresh_id()));
        let update = Update::builder()
            .table_name(&self.names.event_store)
            .key("PK", AttributeValue::S(partition_key(aggregate)))
            .key("SK", AttributeValue::S(VERSION_SK.to_owned()))
            .update_expression(expression.update())
            .set_expression_attribute_values(expression.values())
            .set_expression_attribute_names(expression.names());
        TransactWriteItem::builder().update(update.build().expect("table, key and expression are given")).build()
    }

    /// The items that the corrections of an aggregate's events have kept, in the order of versions and times.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn corrections(&self, aggregate: &AggregateId) -> Result<Vec<EventItem>, StoreError> {
        Ok(self.kept_under(aggregate, CORRECTED.to_owned()).await?.into_iter().map(EventItem).collect())
    }

    /// What the store has had under an event's key before it was corrected, as it was then.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn kept_by_corrections(&self, aggregate: &AggregateId, version: Version) -> Result<Vec<SdkItem>, StoreError> {
        let mut kept = self.kept_under(aggregate, kept_before(version)).await?;
        for item in &mut kept {
            item.insert("SK".to_owned(), AttributeValue::S(sort_key(version)));
            let Some(AttributeValue::M(mut correction)) = item.remove(CORRECTION) else { continue };
            item.extend(INDEX_KEYS.into_iter().filter_map(|name| correction.remove_entry(name)));
        }
        Ok(kept)
    }

    /// The items of an aggregate whose sort keys begin like this, and go on with digits.
    async fn kept_under(&self, aggregate: &AggregateId, prefix: String) -> Result<Vec<SdkItem>, StoreError> {
        let (mut kept, mut from, end) = (Vec::new(), None, format!("{prefix}~"));
        loop {
            let query = || {
                let request = QueryInput::builder()
                    .table_name(&self.names.event_store)
                    .key_condition_expression("PK = :pk AND SK BETWEEN :first AND :last")
                    .expression_attribute_values(":pk", AttributeValue::S(partition_key(aggregate)))
                    .expression_attribute_values(":first", AttributeValue::S(prefix.clone()))
                    .expression_attribute_values(":last", AttributeValue::S(end.clone()))
                    .consistent_read(true)
                    .set_exclusive_start_key(from.clone());
                self.dynamo.query(request)
            };
            let page = self.send("Query of corrections", Deadline::NONE, query).await?;
            kept.extend(page.items.unwrap_or_default());
            from = page.last_evaluated_key;
            if from.is_none() {
                return Ok(kept);
            }
        }
    }
}

/// What the sort keys of the items kept for a version begin with.
fn kept_before(version: Version) -> String {
    format!("{CORRECTED}{}#", sort_key(version).trim_start_matches("EVENT#"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::item::{Key, key_of};

    #[test]
    fn what_a_correction_keeps_sorts_before_events_and_is_not_one() {
        let kept = format!("{}2026-01-05T09:00:00.000Z", kept_before(Version(7)));
        assert_eq!(kept, "CORRECTED#0000000007#2026-01-05T09:00:00.000Z");
        assert!(kept < sort_key(Version(1)));
        let keys = SdkItem::from([("PK".into(), AttributeValue::S("AGGREGATE#a".into())), ("SK".into(), AttributeValue::S(kept))]);
        assert_eq!(key_of(&keys.into()), Ok(Key::Other));
    }
}
