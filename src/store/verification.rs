//! What the verification of a read model needs: all rows of a table, rows at the same instant, and the correction of shared rows.

use std::collections::{BTreeMap, HashMap, HashSet};

use aws_sdk_dynamodb::{
    operation::transact_get_items::{TransactGetItemsError, TransactGetItemsInput},
    types::{AttributeValue, Get, ReturnConsumedCapacity, TransactGetItem},
};
use projection_vocabulary::{
    AggregateId, Cell, Contribution, Decimal, DynProjection, HOME_SORT, HomeRow, Kind, Mark, RowKey, Value, Version,
};
use serde::{Deserialize, Serialize};

use super::{
    Store, StoreError,
    error::{Failure, cancellation_class, classify, retry_or_fail},
    expression::{Conditions, Expression},
    fresh_id,
    home::{CORRECTED, Row, SharedCell, child_sort, foreign_row, item_key, mark_text, row_key, row_of, shared_name, unsettled_name},
    segment::Segment,
    shared::{CellOp, CellWrite, Intent, SharedWrite, takes},
};
use crate::{
    retry::{Attempt, Deadline},
    store::item::{SdkItem, from_value, partition_key, sort_key, text_of},
};

/// A page of a scan of a read model.
pub struct ScannedRows {
    /// Home rows and shared rows.
    pub rows: Vec<Row>,
    /// The keys of child rows: how many there are under each key.
    pub children: BTreeMap<RowKey, u64>,
    /// Where to continue, if there is more.
    pub next: Option<RowPosition>,
}

/// Where a scan of a read model continues: after the row with these keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowPosition {
    /// Its key.
    pub key: RowKey,
    /// Its sort key, if the table has child rows.
    sort: Option<String>,
}

impl RowPosition {
    fn of(rule: &dyn DynProjection, keys: &SdkItem) -> Result<Self, StoreError> {
        let text = |name: &str| text_of(keys, name).map(str::to_owned).ok_or_else(|| foreign_row("its key is not a string"));
        Ok(Self { key: text(rule.key())?.into(), sort: rule.children().map(text).transpose()? })
    }

    /// Whether it is among the child rows of its key, so that those that follow are not the first.
    #[must_use]
    pub fn is_child(&self) -> bool {
        self.sort.as_deref().is_some_and(|sort| sort != HOME_SORT)
    }
}

impl Store {
    /// One page of a scan of a segment of a read model, by consistent read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn scan_rows(
        &self,
        rule: &dyn DynProjection,
        segment: Segment,
        after: Option<RowPosition>,
        deadline: Deadline,
    ) -> Result<ScannedRows, StoreError> {
        let after = after.map(|RowPosition { key, sort }| item_key(rule, key.as_str(), sort.as_deref().unwrap_or(HOME_SORT)));
        let (items, next) = self.scan_items(rule, segment, after, deadline).await?;
        let next = next.map(|keys| RowPosition::of(rule, &keys)).transpose()?;
        let mut page = ScannedRows { rows: Vec::new(), children: BTreeMap::new(), next };
        for item in items {
            match (child_sort(rule, &item), item.get(rule.key())) {
                (Some(_), Some(AttributeValue::S(key))) => *page.children.entry(key.into()).or_default() += 1,
                _ => page.rows.push(row_of(rule, item)?),
            }
        }
        Ok(page)
    }

    /// Gives every home row and shared row of a read model to `take`, by consistent reads.
    ///
    /// # Errors
    /// [`StoreError`]: some rows were not given.
    pub async fn each_row(&self, rule: &dyn DynProjection, deadline: Deadline, mut take: impl FnMut(Row)) -> Result<(), StoreError> {
        let mut next = None;
        loop {
            deadline.check()?;
            let page = self.scan_rows(rule, Segment::ALL, next, deadline).await?;
            page.rows.into_iter().for_each(&mut take);
            next = page.next;
            if next.is_none() {
                return Ok(());
            }
        }
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
        let text = |item: &SdkItem, name: &str| text_of(item, name).unwrap_or_default().to_owned();
        let stands = |item: SdkItem| {
            let (aggregate, row) = rows.get(&(text(&item, "PK"), text(&item, "SK")))?;
            (row.last_event_id.as_deref() == Some(&text(&item, "eventId"))).then(|| (*aggregate).clone())
        };
        Ok(found.into_iter().filter_map(stands).collect())
    }

    /// These rows, read one by one and not at the same instant. The result does not contain absent rows.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rows(
        &self,
        rule: &dyn DynProjection,
        keys: impl IntoIterator<Item = RowKey>,
        deadline: Deadline,
    ) -> Result<HashMap<RowKey, Row>, StoreError> {
        let keys = keys.into_iter().map(|key| row_key(rule, key.as_str()));
        let items = self.get_all(Some(rule), keys.collect(), deadline).await?;
        items.into_iter().map(|item| row_of(rule, item).map(|row| (row.key.clone(), row))).collect()
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
        let mark = Mark { kind: Kind::Sum, revision: rule.revision() };
        let cell = |amount: &Decimal| CellWrite { for_others: true, ..CellWrite::contributing(mark, CellOp::Add(amount.clone())) };
        let cells = by.iter().map(|(attribute, amount)| (attribute.clone(), cell(amount))).collect();
        let (mut expression, condition) = SharedWrite { row: row.clone(), cells }.expression();
        expression.set(CORRECTED, AttributeValue::S(fresh_id()));
        let condition = format!("{condition} AND {}", expression.unchanged(CORRECTED, corrected));
        // If the condition does not hold, another run corrected the sums, or an earlier attempt of this request did.
        self.update_shared(rule, row, &expression, condition, deadline).await
    }

    /// Marks attributes of a shared row as unsettled, as far as the row has them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unsettle(&self, rule: &dyn DynProjection, cell: &Cell, mark: Mark, deadline: Deadline) -> Result<(), StoreError> {
        let write = CellWrite { intent: Intent::TakesBack, unsettles: true, ..CellWrite::contributing(mark, CellOp::Keep) };
        let (expression, condition) = SharedWrite { row: cell.0.clone(), cells: [(cell.1.clone(), write)].into() }.expression();
        self.update_shared(rule, &cell.0, &expression, condition, deadline).await
    }

    /// Makes an attribute of a shared row what it is without the contributions that were taken back: `right`, or nothing at all. Its
    /// unsettled mark becomes `mark`, so that everything that another process has found out about the attribute is void. Does nothing if
    /// the attribute is not `cell` any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lower(
        &self,
        rule: &dyn DynProjection,
        (row, attribute): &Cell,
        cell: &SharedCell,
        right: Option<&Value>,
        mark: &str,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        let mut expression = Expression::default();
        let mut conditions = Conditions::default();
        conditions.and(expression.unchanged(unsettled_name(attribute), &cell.unsettled));
        expression.set(unsettled_name(attribute), AttributeValue::S(mark.to_owned()));
        if cell.value.as_ref() != right {
            let name = expression.name(attribute);
            match &cell.value {
                Some(value) => conditions.and(format_args!("{name} = {}", expression.value(from_value(value)))),
                None => conditions.and(format_args!("attribute_not_exists({name})")),
            }
            if let Some(right) = right {
                expression.set(attribute, from_value(right));
            } else {
                expression.remove(attribute);
                expression.remove(shared_name(attribute));
            }
        }
        self.update_shared(rule, row, &expression, conditions.into_text(), deadline).await
    }

    /// Raises an attribute of a shared row to what is contributed to it, and settles it: it is no longer marked. Does nothing if its
    /// unsettled mark is not `mark` any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn settle(
        &self,
        rule: &dyn DynProjection,
        (row, attribute): &Cell,
        contributed: Option<(&Contribution, Mark)>,
        mark: &str,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        if let Some((contribution, by)) = contributed {
            let mut expression = Expression::default();
            let mut conditions = Conditions::default();
            conditions.and(expression.unchanged(unsettled_name(attribute), mark));
            // Somebody may have begun to combine it in another way since it was removed.
            conditions.and(takes(&mut expression, attribute, by.kind));
            // Not this deployment's revision: an attribute to which only an older one contributes can still become an aggregate's own.
            expression.set_once(shared_name(attribute), AttributeValue::S(mark_text(by)));
            match contribution {
                // Somebody contributes to it again. The sum is right; only its visibility is not.
                Contribution::Sum(_) => expression.add(attribute, AttributeValue::N("0".to_owned())),
                Contribution::Set(_) => expression.add(attribute, from_value(&contribution.value())),
                Contribution::Max(value) => {
                    let (name, value) = (expression.name(attribute), from_value(value));
                    conditions.and(format_args!("(attribute_not_exists({name}) OR {name} < {})", expression.value(value.clone())));
                    expression.set(attribute, value);
                }
            }
            self.update_shared(rule, row, &expression, conditions.into_text(), deadline).await?;
        }
        let mut expression = Expression::default();
        let condition = expression.unchanged(unsettled_name(attribute), mark).to_string();
        expression.remove(unsettled_name(attribute));
        self.update_shared(rule, row, &expression, condition, deadline).await
    }

    async fn update_shared(
        &self,
        rule: &dyn DynProjection,
        row: &RowKey,
        expression: &Expression,
        condition: String,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        const OPERATION: &str = "UpdateItem of a shared row";
        let updated = self.update_if(OPERATION, rule, row.as_str(), expression, Some(condition), deadline).await?;
        updated.map_err(|reason| StoreError::Permanent { operation: OPERATION, class: reason.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_stands_among_child_rows_after_any_row_but_the_home_row() {
        let is_child = |sort: Option<&str>| RowPosition { key: "a".into(), sort: sort.map(str::to_owned) }.is_child();
        assert_eq!([is_child(None), is_child(Some(HOME_SORT)), is_child(Some("1"))], [false, false, true]);
    }
}
