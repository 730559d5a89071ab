//! What the verification of a read model needs: all rows of a table, rows at the same instant, and the correction of sums.

use std::collections::{BTreeMap, HashMap, HashSet};

use aws_sdk_dynamodb::{
    operation::transact_get_items::{TransactGetItemsError, TransactGetItemsInput},
    types::{AttributeValue, Get, ReturnConsumedCapacity, TransactGetItem},
};
use projection_vocabulary::{AggregateId, Attributes, Decimal, DynProjection, HomeRow, RowKey, Version};

use super::{
    Store, StoreError,
    error::{Failure, cancellation_class, classify, retry_or_fail},
    expression::Expression,
    fresh_id,
    home::{CORRECTED, Row, row_key, row_of},
    segment::Segment,
};
use crate::{
    retry::{Attempt, Deadline},
    store::item::{SdkItem, partition_key, sort_key},
};

impl Store {
    /// One page of a scan of a segment of a read model, by consistent read, and the key after which to continue.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn scan_rows(
        &self,
        rule: &dyn DynProjection,
        segment: Segment,
        after: Option<RowKey>,
        deadline: Deadline,
    ) -> Result<(Vec<Row>, Option<RowKey>), StoreError> {
        let (items, next) = self.scan_items(rule, segment, after.map(|key| row_key(rule, key.as_str())), deadline).await?;
        let next = next.and_then(|key| Some(RowKey::from(key.get(rule.key())?.as_s().ok()?)));
        let rows = items.into_iter().map(|item| row_of(rule, item));
        Ok((rows.collect::<Result<_, _>>()?, next))
    }

    /// Those of these rows whose last event, by version and id, is in the event store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn standing_on_events<'a>(
        &self,
        rows: impl IntoIterator<Item = (&'a AggregateId, &'a HomeRow)>,
        deadline: Deadline,
    ) -> Result<HashSet<AggregateId>, StoreError> {
        let key = |aggregate: &AggregateId, version: Version| (partition_key(aggregate), sort_key(version));
        let rows: HashMap<_, _> = rows.into_iter().map(|(aggregate, row)| (key(aggregate, row.version), (aggregate, row))).collect();
        let keys = rows.keys().map(|(partition, sort)| {
            SdkItem::from([("PK".to_owned(), AttributeValue::S(partition.clone())), ("SK".to_owned(), AttributeValue::S(sort.clone()))])
        });
        let found = self.get_all(None, keys.collect(), deadline).await?;
        let text = |item: &SdkItem, name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default();
        let stands = |item: SdkItem| {
            let (aggregate, row) = rows.get(&(text(&item, "PK"), text(&item, "SK")))?;
            (row.last_event_id.as_deref() == Some(&text(&item, "eventId"))).then(|| (*aggregate).clone())
        };
        Ok(found.into_iter().filter_map(stands).collect())
    }

    /// The shared part of these rows. They are read one by one, not at the same instant.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn shared_rows(
        &self,
        rule: &dyn DynProjection,
        keys: impl IntoIterator<Item = RowKey>,
        deadline: Deadline,
    ) -> Result<HashMap<RowKey, Attributes>, StoreError> {
        let keys = keys.into_iter().map(|key| row_key(rule, key.as_str()));
        let items = self.get_all(Some(rule), keys.collect(), deadline).await?;
        items.into_iter().map(|item| row_of(rule, item).map(|row| (row.key, row.shared))).collect()
    }

    /// At most [`super::limits::TRANSACT_GET_MAX`] rows as of one instant. The result does not contain absent rows.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rows_at_once(
        &self,
        rule: &dyn DynProjection,
        keys: &[RowKey],
        deadline: Deadline,
    ) -> Result<HashMap<RowKey, Row>, StoreError> {
        const OPERATION: &str = "TransactGetItems of rows";
        let gets: Vec<_> = keys
            .iter()
            .map(|key| {
                let get = Get::builder().table_name(self.table_of(rule)).set_key(Some(row_key(rule, key.as_str())));
                TransactGetItem::builder().get(get.build().expect("table and key are given")).build()
            })
            .collect();
        let found = self
            .send_with_retries((OPERATION, Some(rule)), deadline, || async {
                let request = TransactGetItemsInput::builder().set_transact_items(Some(gets.clone()));
                match self
                    .dynamo
                    .transact_get_items(request.return_consumed_capacity(ReturnConsumedCapacity::Total))
                    .await
                    .map_err(classify)
                {
                    Ok(done) => {
                        self.meter.read_rows(done.consumed_capacity());
                        Attempt::Decided(Ok(done.responses.unwrap_or_default()))
                    }
                    // It conflicted with a write.
                    Err(Failure::Other(TransactGetItemsError::TransactionCanceledException(canceled))) => {
                        Attempt::Again(StoreError::Transient {
                            operation: OPERATION,
                            class: cancellation_class(canceled.cancellation_reasons()),
                        })
                    }
                    Err(failure) => retry_or_fail(OPERATION, failure),
                }
            })
            .await??;
        let rows = found.into_iter().filter_map(|found| found.item).filter(|item| !item.is_empty()).map(|item| row_of(rule, item));
        rows.map(|row| row.map(|row| (row.key.clone(), row))).collect()
    }

    /// Adds these amounts to the sums of a shared row, unless the sums were corrected since `corrected` was read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn correct_sums(
        &self,
        rule: &dyn DynProjection,
        row: &RowKey,
        by: &BTreeMap<String, Decimal>,
        corrected: &str,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        const OPERATION: &str = "UpdateItem of a shared row's sums";
        let mut expression = Expression::default();
        for (attribute, amount) in by {
            expression.add(attribute, AttributeValue::N(amount.to_string()));
        }
        expression.set(CORRECTED, AttributeValue::S(fresh_id()));
        let condition = expression.unchanged(CORRECTED, corrected);
        // If the condition does not hold, another run corrected the sums, or an earlier attempt of this request did.
        let updated = self.update_if(OPERATION, rule, row.as_str(), &expression, Some(condition), deadline).await?;
        updated.map_err(|reason| StoreError::Permanent { operation: OPERATION, class: reason.to_owned() })
    }
}
