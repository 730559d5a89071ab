//! Read models: conditional commits of home rows, together with their child rows and the amounts they add to shared rows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use aws_sdk_dynamodb::{
    operation::{
        batch_get_item::BatchGetItemInput,
        scan::ScanInput,
        transact_write_items::{TransactWriteItemsError, TransactWriteItemsInput},
        update_item::{UpdateItemError, UpdateItemInput, builders::UpdateItemInputBuilder},
    },
    types::{
        AttributeValue, CancellationReason, Delete, KeysAndAttributes, Put, ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure,
        TransactWriteItem, Update,
    },
};
use projection_vocabulary::{AggregateId, Attributes, ChildOp, DynProjection, HomeRow, RowId, RowKey, Value, Watermark};

use super::{
    Store, StoreError,
    error::{Failure, classify, invalid_reason, retry_or_fail},
    expression::Expression,
    fresh_id,
    home::{HomeWrite, Row, child_sort, condition, foreign_row, is_bookkeeping, item_key, row_key, row_of},
    limits::{BATCH_GET_KEYS_MAX, SCAN_ITEMS_MAX},
    now,
    parking::Parking,
    segment::Segment,
    shared::SharedWrite,
};
use crate::{
    retry::{Attempt, Deadline},
    store::item::{SdkItem, attributes, from_value},
};

/// The outcome of a commit.
#[derive(Debug)]
pub enum Commit {
    /// Written.
    Done,
    /// Nothing was written. One cause for each home row, in the order given.
    Refused(Vec<Cause>),
    /// Nothing was written, because these shared rows are not as expected.
    SharedRefused {
        /// The rows as DynamoDB has them; `None` if one is absent.
        rows: BTreeMap<RowKey, Option<Row>>,
        /// Whether an earlier attempt of this same write may have been applied.
        applied_maybe: bool,
    },
    /// Nothing was written, because DynamoDB refuses the content and does not name a home row. Try fewer at once.
    Invalid(&'static str),
}

/// How one home row contributed to the refusal of a commit.
#[derive(Debug)]
pub enum Cause {
    /// Not at all.
    Other,
    /// The row is not as expected.
    Condition {
        /// The row as DynamoDB has it; `None` if it is absent.
        row: Option<Box<HomeRow>>,
        /// Whether an earlier attempt of this same write may be the reason.
        applied_maybe: bool,
    },
    /// DynamoDB refuses the content of the row's write.
    Invalid(&'static str),
}

/// Which attributes of a row to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Those that the rule wrote, `version` on home rows, and `parked` on parked ones.
    ToReaders,
    /// All of them, including the worker's bookkeeping.
    All,
}

/// The attributes of a row to show.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownRow {
    /// Its attributes, without the key.
    pub attributes: Attributes,
    /// The names of the attributes that its aggregate owns or has owned; empty for a row that aggregates only share.
    pub owned: BTreeSet<String>,
}

impl Store {
    /// Writes home rows and shared rows, all or nothing: a single home row by UpdateItem, otherwise in a transaction. `applied_maybe` says
    /// whether an earlier try, with other conditions on shared rows, may have been applied.
    ///
    /// # Errors
    /// [`StoreError`]: everything or nothing was written. Deliver the records again.
    pub async fn commit(
        &self,
        rule: &dyn DynProjection,
        writes: &[&HomeWrite],
        shared: &[SharedWrite],
        applied_maybe: bool,
        deadline: Deadline,
    ) -> Result<Commit, StoreError> {
        if let ([write], []) = (writes, shared)
            && write.children.is_empty()
        {
            return self.commit_one(rule, write, applied_maybe, deadline).await;
        }
        let homes = writes.iter().map(|write| {
            let (expression, condition) = write.expression();
            self.update(rule, write.aggregate.as_str(), expression, Some(condition))
        });
        let updates = shared.iter().map(|write| {
            let (expression, condition) = write.expression();
            self.update(rule, write.row.as_str(), expression, Some(condition))
        });
        let children = writes.iter().flat_map(|write| write.children.iter().map(|(sort, op)| self.child_action(rule, write, sort, op)));
        let actions: Vec<_> = homes.chain(updates).chain(children).collect();
        let transaction = Transaction {
            operation: "TransactWriteItems on home and shared rows",
            homes: writes.len(),
            actions,
            shared,
            children: writes.iter().map(|write| write.children.len()).collect(),
        };
        self.transact(rule, &transaction, applied_maybe, deadline).await
    }

    async fn commit_one(
        &self,
        rule: &dyn DynProjection,
        write: &HomeWrite,
        applied_maybe: bool,
        deadline: Deadline,
    ) -> Result<Commit, StoreError> {
        const OPERATION: &str = "UpdateItem on a home row";
        let applied_maybe = AtomicBool::new(applied_maybe);
        self.send_with_retries((OPERATION, Some(rule)), deadline, || async {
            // Made again for another attempt, which is rarer than a copy for each first one would be.
            let (expression, condition) = write.expression();
            let request = self.update_item(rule, write.aggregate.as_str(), expression).condition_expression(condition);
            let request = request.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            match self.dynamo.update_item(request).await.map_err(classify) {
                Ok(done) => {
                    self.meter.wrote(&done.consumed_capacity);
                    Attempt::Decided(Ok(Commit::Done))
                }
                Err(Failure::Other(UpdateItemError::ConditionalCheckFailedException(failed))) => {
                    self.meter.wasted(1);
                    Attempt::Decided(row_at_refusal(rule, failed.item).map(|row| {
                        let row = row.map(|row| Box::new(row.home));
                        Commit::Refused(vec![Cause::Condition { row, applied_maybe: applied_maybe.load(Relaxed) }])
                    }))
                }
                Err(Failure::Invalid(reason)) => Attempt::Decided(Ok(Commit::Refused(vec![Cause::Invalid(reason)]))),
                Err(failure) => {
                    applied_maybe.fetch_or(failure.applied_maybe(), Relaxed);
                    retry_or_fail(OPERATION, failure)
                }
            }
        })
        .await?
    }

    /// Parks an aggregate: writes the parking entry and the mark on its home row, both or neither.
    ///
    /// # Errors
    /// [`StoreError`]: the record must be reported as failed.
    pub async fn park(
        &self,
        rule: &dyn DynProjection,
        aggregate: &AggregateId,
        after: Watermark,
        parking: &Parking<'_>,
        deadline: Deadline,
    ) -> Result<Commit, StoreError> {
        let mut expression = Expression::default();
        expression.set("parkedAt", AttributeValue::S(now().to_string()));
        let condition = condition(&mut expression, after);
        let home = self.update(rule, aggregate.as_str(), expression, Some(condition));
        let actions = std::iter::once(home).chain(self.parking_actions(aggregate.as_str(), rule.name(), parking)).collect();
        let transaction =
            Transaction { operation: "TransactWriteItems on the parking table", homes: 1, actions, shared: &[], children: Vec::new() };
        self.transact(rule, &transaction, false, deadline).await
    }

    fn update_item(&self, rule: &dyn DynProjection, key: &str, expression: Expression) -> UpdateItemInputBuilder {
        let update = expression.update();
        let (names, values) = expression.into_names_and_values();
        UpdateItemInput::builder()
            .table_name(self.table_of(rule))
            .set_key(Some(row_key(rule, key)))
            .update_expression(update)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(values)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
    }

    /// The same update as an action of a transaction.
    fn update(&self, rule: &dyn DynProjection, key: &str, expression: Expression, condition: Option<String>) -> TransactWriteItem {
        let update = expression.update();
        let (names, values) = expression.into_names_and_values();
        let update = Update::builder()
            .table_name(self.table_of(rule))
            .set_key(Some(row_key(rule, key)))
            .update_expression(update)
            .set_condition_expression(condition)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(values)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .expect("table, key and expression are given");
        TransactWriteItem::builder().update(update).build()
    }

    /// The write of a child row as an action of the transaction that writes its home row.
    fn child_action(&self, rule: &dyn DynProjection, home: &HomeWrite, sort: &str, op: &ChildOp) -> TransactWriteItem {
        const GIVEN: &str = "table and key are given";
        let (table, key) = (self.table_of(rule), item_key(rule, home.aggregate.as_str(), sort));
        let action = TransactWriteItem::builder();
        match op {
            ChildOp::Set(attributes) => {
                let mut expression = Expression::default();
                for (name, value) in attributes {
                    expression.set(name, from_value(value));
                }
                let update = Update::builder().table_name(table).set_key(Some(key)).update_expression(expression.update());
                let (names, values) = expression.into_names_and_values();
                let update = update.set_expression_attribute_names(names).set_expression_attribute_values(values);
                action.update(update.build().expect(GIVEN))
            }
            ChildOp::Replace(attributes) => {
                let item = key.into_iter().chain(attributes.iter().map(|(name, value)| (name.clone(), from_value(value))));
                action.put(Put::builder().table_name(table).set_item(Some(item.collect())).build().expect(GIVEN))
            }
            ChildOp::Remove => action.delete(Delete::builder().table_name(table).set_key(Some(key)).build().expect(GIVEN)),
        }
        .build()
    }

    async fn transact(
        &self,
        rule: &dyn DynProjection,
        transaction: &Transaction<'_>,
        applied_maybe: bool,
        deadline: Deadline,
    ) -> Result<Commit, StoreError> {
        let Transaction { operation, actions, .. } = transaction;
        // One token for all attempts, so that an attempt whose answer was lost is not applied twice.
        let token = fresh_id();
        let applied_maybe = AtomicBool::new(applied_maybe);
        self.send_with_retries((operation, Some(rule)), deadline, || async {
            let request = TransactWriteItemsInput::builder().set_transact_items(Some(actions.clone())).client_request_token(&token);
            let request = request.return_consumed_capacity(ReturnConsumedCapacity::Total);
            match self.dynamo.transact_write_items(request).await.map_err(classify) {
                Ok(done) => {
                    self.meter.wrote(done.consumed_capacity());
                    Attempt::Decided(Ok(Commit::Done))
                }
                Err(Failure::Other(TransactWriteItemsError::TransactionCanceledException(canceled))) => {
                    self.meter.wasted(2 * actions.len() as u64);
                    let reasons = canceled.cancellation_reasons.unwrap_or_default();
                    transaction.after_cancellation(rule, reasons, applied_maybe.load(Relaxed))
                }
                Err(Failure::Invalid(reason)) => Attempt::Decided(Ok(Commit::Invalid(reason))),
                Err(failure) => {
                    applied_maybe.fetch_or(failure.applied_maybe(), Relaxed);
                    retry_or_fail(operation, failure)
                }
            }
        })
        .await?
    }

    /// Updates a row. If the condition does not hold, there is nothing to do, and the row stays unchanged.
    pub(super) async fn update_if(
        &self,
        operation: &'static str,
        rule: &dyn DynProjection,
        key: &str,
        expression: &Expression,
        condition: Option<String>,
        deadline: Deadline,
    ) -> Result<Result<(), &'static str>, StoreError> {
        self.send_with_retries((operation, Some(rule)), deadline, || async {
            let request = self.update_item(rule, key, expression.clone()).set_condition_expression(condition.clone());
            match self.dynamo.update_item(request).await.map_err(classify) {
                Ok(done) => {
                    self.meter.wrote(&done.consumed_capacity);
                    Attempt::Decided(Ok(Ok(())))
                }
                Err(Failure::Other(UpdateItemError::ConditionalCheckFailedException(_))) => {
                    self.meter.wasted(1);
                    Attempt::Decided(Ok(Ok(())))
                }
                Err(Failure::Invalid(reason)) => Attempt::Decided(Ok(Err(reason))),
                Err(failure) => retry_or_fail(operation, failure),
            }
        })
        .await?
    }

    /// Reads one home row by consistent read. An absent row is returned as a default one, without a version.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn home_row(&self, rule: &dyn DynProjection, aggregate: &AggregateId, deadline: Deadline) -> Result<HomeRow, StoreError> {
        let mut rows = self.read_rows(rule, std::slice::from_ref(aggregate), deadline).await?;
        Ok(rows.remove(aggregate).unwrap_or_default())
    }

    /// Reads home rows by consistent read. The result does not contain absent rows.
    ///
    /// # Errors
    /// [`StoreError`]: deliver the records again.
    pub async fn read_rows(
        &self,
        rule: &dyn DynProjection,
        aggregates: &[AggregateId],
        deadline: Deadline,
    ) -> Result<HashMap<AggregateId, HomeRow>, StoreError> {
        let keys = aggregates.iter().map(|id| row_key(rule, id.as_str())).collect();
        let mut rows = HashMap::new();
        for item in self.get_all(Some(rule), keys, deadline).await? {
            let Row { key, home, .. } = row_of(rule, item)?;
            rows.insert(AggregateId::from(key.as_str()), home);
        }
        Ok(rows)
    }

    /// The items with these keys, by consistent read, in this projection's table or in the event store. Absent items are left out.
    pub(super) async fn get_all(
        &self,
        rule: Option<&dyn DynProjection>,
        keys: Vec<SdkItem>,
        deadline: Deadline,
    ) -> Result<Vec<SdkItem>, StoreError> {
        let mut found = Vec::new();
        for batch in keys.chunks(BATCH_GET_KEYS_MAX) {
            let keys = KeysAndAttributes::builder().set_keys(Some(batch.to_vec())).consistent_read(true);
            let mut left = Some(keys.build().expect("keys are given"));
            while let Some(keys) = left.take() {
                let (items, unprocessed) = self.batch_get(rule, keys, deadline).await?;
                found.extend(items);
                left = unprocessed;
            }
        }
        Ok(found)
    }

    /// Those items that one request answers with, and the keys that it leaves out, if any.
    pub(super) async fn batch_get(
        &self,
        rule: Option<&dyn DynProjection>,
        keys: KeysAndAttributes,
        deadline: Deadline,
    ) -> Result<(Vec<SdkItem>, Option<KeysAndAttributes>), StoreError> {
        let table = rule.map_or(self.names.event_store.as_str(), |rule| self.table_of(rule));
        self.send_with_retries(("BatchGetItem", rule), deadline, || async {
            let request = BatchGetItemInput::builder().request_items(table, keys.clone());
            let request = request.return_consumed_capacity(ReturnConsumedCapacity::Total);
            match self.dynamo.batch_get_item(request).await.map_err(classify) {
                Ok(done) => {
                    self.meter.read_rows(done.consumed_capacity());
                    let items = done.responses.and_then(|mut tables| tables.remove(table)).unwrap_or_default();
                    let unprocessed = done.unprocessed_keys.and_then(|mut tables| tables.remove(table));
                    // The number of items does not show progress: absent ones are processed, too. Asking again at once, without a
                    // pause, is right only as long as there is progress.
                    if unprocessed.as_ref().is_some_and(|left| left.keys.len() >= keys.keys.len()) {
                        return Attempt::Again(StoreError::Transient { operation: "BatchGetItem", class: "all keys unprocessed".into() });
                    }
                    Attempt::Decided(Ok((items, unprocessed)))
                }
                Err(failure) => retry_or_fail("BatchGetItem", failure),
            }
        })
        .await?
    }

    /// Every row of a projection as a reader sees it. Home rows have `version`, and parked ones have `parked`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn visible_rows(&self, rule: &dyn DynProjection) -> Result<BTreeMap<RowId, Attributes>, StoreError> {
        let mut rows = BTreeMap::new();
        self.each_visible_row(rule, |id, row| _ = rows.insert(id, row.attributes)).await?;
        Ok(rows)
    }

    /// Gives every row of a projection as a reader sees it, in the order of a scan, so that nobody needs to hold them all.
    ///
    /// # Errors
    /// [`StoreError`]. Some rows were given then.
    pub async fn each_visible_row(&self, rule: &dyn DynProjection, mut each: impl FnMut(RowId, ShownRow)) -> Result<(), StoreError> {
        let mut from = None;
        loop {
            let (items, next) = self.scan_items(rule, Segment::ALL, from, Deadline::NONE).await?;
            for item in items {
                if let Some((id, row)) = shown_row(rule, item, Shown::ToReaders)? {
                    each(id, row);
                }
            }
            from = next;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    /// The first rows of a projection in the order of a scan, at most `limit`, and whether there are more. It reads only as many pages
    /// as it needs.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read_model(
        &self,
        rule: &dyn DynProjection,
        limit: usize,
        shown: Shown,
    ) -> Result<(BTreeMap<RowId, ShownRow>, bool), StoreError> {
        let mut rows = BTreeMap::new();
        let mut from = None;
        loop {
            // Reading one row more than the limit shows whether there are more.
            let wanted = i32::try_from(limit.saturating_sub(rows.len()).saturating_add(1)).unwrap_or(i32::MAX).min(SCAN_ITEMS_MAX);
            let (items, next) = self.scan_page(rule, Segment::ALL, from, wanted, Deadline::NONE).await?;
            for item in items {
                if let Some((id, row)) = shown_row(rule, item, shown)? {
                    if rows.len() == limit {
                        return Ok((rows, true));
                    }
                    rows.insert(id, row);
                }
            }
            from = next;
            if from.is_none() {
                return Ok((rows, false));
            }
        }
    }

    /// One page of a scan of a segment of a read model, by consistent read, and the key after which to continue.
    pub(super) async fn scan_items(
        &self,
        rule: &dyn DynProjection,
        segment: Segment,
        from: Option<SdkItem>,
        deadline: Deadline,
    ) -> Result<(Vec<SdkItem>, Option<SdkItem>), StoreError> {
        self.scan_page(rule, segment, from, SCAN_ITEMS_MAX, deadline).await
    }

    async fn scan_page(
        &self,
        rule: &dyn DynProjection,
        segment: Segment,
        from: Option<SdkItem>,
        items_max: i32,
        deadline: Deadline,
    ) -> Result<(Vec<SdkItem>, Option<SdkItem>), StoreError> {
        let scan = || {
            let request = segment.of(ScanInput::builder().table_name(self.table_of(rule)).consistent_read(true).limit(items_max));
            self.dynamo.scan(request.set_exclusive_start_key(from.clone()).return_consumed_capacity(ReturnConsumedCapacity::Total))
        };
        let page = self.send("Scan of a read model", deadline, scan).await?;
        self.meter.read_rows(&page.consumed_capacity);
        Ok((page.items.unwrap_or_default(), page.last_evaluated_key))
    }
}

/// A transaction: actions on home rows, then on shared rows, then on child rows, then others.
struct Transaction<'a> {
    operation: &'static str,
    actions: Vec<TransactWriteItem>,
    homes: usize,
    shared: &'a [SharedWrite],
    /// How many child rows each home row has in it.
    children: Vec<usize>,
}

impl Transaction<'_> {
    /// The number of the home row whose child row an action writes; `None` if it writes none.
    fn home_of_child(&self, action: usize) -> Option<usize> {
        let mut child = action.checked_sub(self.homes + self.shared.len())?;
        self.children.iter().position(|children| match child.checked_sub(*children) {
            Some(beyond) => {
                child = beyond;
                false
            }
            None => true,
        })
    }

    fn after_cancellation(
        &self,
        rule: &dyn DynProjection,
        reasons: Vec<CancellationReason>,
        applied_maybe: bool,
    ) -> Attempt<Result<Commit, StoreError>, StoreError> {
        let Self { operation, homes, shared, .. } = *self;
        let mut causes = Vec::with_capacity(homes);
        let mut rows = BTreeMap::new();
        let mut busy = None;
        let mut unattributed = None;
        for (at, reason) in reasons.into_iter().enumerate() {
            let code = reason.code.unwrap_or_default();
            let cause = match code.as_str() {
                "None" | "" => Cause::Other,
                "ConditionalCheckFailed" => match row_at_refusal(rule, reason.item) {
                    Ok(row) => {
                        if let Some(write) = at.checked_sub(homes).and_then(|at| shared.get(at)) {
                            rows.insert(write.row.clone(), row);
                            continue;
                        }
                        Cause::Condition { row: row.map(|row| Box::new(row.home)), applied_maybe }
                    }
                    Err(error) => return Attempt::Decided(Err(error)),
                },
                "ValidationError" | "ItemCollectionSizeLimitExceeded" => Cause::Invalid(invalid_reason(reason.message.as_deref())),
                "TransactionConflict" | "ProvisionedThroughputExceeded" | "ThrottlingError" => {
                    busy = Some(code);
                    Cause::Other
                }
                _ => return Attempt::Decided(Err(StoreError::Permanent { operation, class: code })),
            };
            if at < homes {
                causes.push(cause);
            } else if let Cause::Invalid(reason) = cause {
                match self.home_of_child(at) {
                    Some(home) => causes[home] = Cause::Invalid(reason),
                    None => unattributed = Some(reason),
                }
            }
        }
        // If a home row has a cause of its own, its lane plans again at once, because waiting would not help.
        if causes.iter().any(|cause| !matches!(cause, Cause::Other)) {
            return Attempt::Decided(Ok(Commit::Refused(causes)));
        }
        if !rows.is_empty() {
            return Attempt::Decided(Ok(Commit::SharedRefused { rows, applied_maybe }));
        }
        match (unattributed, busy) {
            (Some(reason), _) => Attempt::Decided(Ok(Commit::Invalid(reason))),
            (None, busy) => {
                Attempt::Again(StoreError::Transient { operation, class: busy.unwrap_or_else(|| "canceled without a reason".into()) })
            }
        }
    }
}

/// A row with the attributes to show. `None` if it has only its key, because it was parked before its first event and then unparked.
pub(super) fn shown_row(rule: &dyn DynProjection, item: SdkItem, shown: Shown) -> Result<Option<(RowId, ShownRow)>, StoreError> {
    let child = child_sort(rule, &item);
    let mut row = attributes(item).map_err(|_| foreign_row("it contains a value that no rule writes"))?;
    let Some(Value::Text(key)) = row.remove(rule.key()) else { return Err(foreign_row("its key is not a string")) };
    rule.children().and_then(|sort| row.remove(sort));
    let owned = match row.get("owned") {
        Some(Value::TextSet(names)) => names.iter().map(ToString::to_string).collect(),
        _ => BTreeSet::new(),
    };
    if shown == Shown::ToReaders {
        let parked = row.contains_key("parkedAt");
        row.retain(|name, _| !is_bookkeeping(name));
        if parked {
            row.insert("parked".into(), true.into());
        }
    }
    let id = RowId { key: RowKey::from(&*key), child };
    Ok((!row.is_empty()).then_some((id, ShownRow { attributes: row, owned })))
}

/// The row that DynamoDB returned with a failed condition.
fn row_at_refusal(rule: &dyn DynProjection, item: Option<SdkItem>) -> Result<Option<Row>, StoreError> {
    item.filter(|item| !item.is_empty()).map(|item| row_of(rule, item)).transpose()
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue::{N, S, Ss};
    use projection_vocabulary::{Change, Projection, Recorded, Refusal, own};
    use serde::Deserialize;

    use super::*;

    struct Counts;

    #[derive(Deserialize)]
    enum Event {
        Counted {},
    }

    impl Projection for Counts {
        type Event = Event;
        const NAME: &str = "counts";
        const KEY: &str = "id";

        fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
            let Event::Counted {} = event.event;
            Ok(own().add("n", 1).into())
        }
    }

    /// What follows from a transaction of two home rows, one shared row and a child row of the second home row, canceled for these reasons.
    fn after(reasons: [&str; 4]) -> String {
        let shared = [SharedWrite { row: "shared".into(), cells: BTreeMap::new() }];
        let transaction = Transaction { operation: "it", actions: Vec::new(), homes: 2, shared: &shared, children: vec![0, 1] };
        let reason = |code: &str| CancellationReason::builder().code(code).build();
        match transaction.after_cancellation(&Counts, reasons.map(reason).into(), true) {
            Attempt::Decided(Ok(Commit::Refused(causes))) => {
                let cause = |cause: &Cause| match cause {
                    Cause::Other => "other",
                    Cause::Condition { .. } => "condition",
                    Cause::Invalid(_) => "invalid",
                };
                format!("refused: {}", causes.iter().map(cause).collect::<Vec<_>>().join(", "))
            }
            Attempt::Decided(Ok(Commit::SharedRefused { rows, .. })) => format!("shared: {}", rows.into_keys().next().expect("a row")),
            Attempt::Decided(Ok(Commit::Invalid(_))) => "invalid".to_owned(),
            Attempt::Decided(Ok(Commit::Done)) => "done".to_owned(),
            Attempt::Decided(Err(StoreError::Permanent { class, .. })) => format!("permanent: {class}"),
            Attempt::Again(StoreError::Transient { class, .. }) => format!("again: {class}"),
            Attempt::Decided(Err(error)) | Attempt::Again(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn each_reason_of_a_canceled_transaction_has_one_meaning() {
        let (none, condition, invalid, busy) = ("None", "ConditionalCheckFailed", "ValidationError", "TransactionConflict");
        let table = [
            ([condition, none, none, none], "refused: condition, other"),
            ([none, condition, none, none], "refused: other, condition"),
            ([none, invalid, none, none], "refused: other, invalid"),
            ([none, "ItemCollectionSizeLimitExceeded", none, none], "refused: other, invalid"),
            ([none, none, condition, none], "shared: shared"),
            // A child row is its home row's. Nobody knows whose a shared row is.
            ([none, none, none, invalid], "refused: other, invalid"),
            ([none, none, invalid, none], "invalid"),
            ([none, none, invalid, busy], "invalid"),
            ([none, busy, none, none], "again: TransactionConflict"),
            ([none, none, "ThrottlingError", none], "again: ThrottlingError"),
            ([none, none, none, "ProvisionedThroughputExceeded"], "again: ProvisionedThroughputExceeded"),
            ([none, "", none, ""], "again: canceled without a reason"),
            ([none, none, "ANewReason", none], "permanent: ANewReason"),
            // Waiting would not help a home row that has a cause of its own, nor a shared row.
            ([condition, busy, condition, busy], "refused: condition, other"),
            ([none, busy, condition, none], "shared: shared"),
        ];
        for (reasons, expected) in table {
            assert_eq!(after(reasons), expected, "{reasons:?}");
        }
    }

    #[test]
    fn a_reader_sees_no_bookkeeping_and_whether_the_row_is_parked() {
        let item = |attributes: &[(&str, AttributeValue)]| -> SdkItem {
            let key = ("id".to_owned(), S("a".to_owned()));
            attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).chain([key]).collect()
        };
        let shown = |item: SdkItem, to| {
            let row = shown_row(&Counts, item, to).expect("it can be read");
            row.map(|(id, row)| {
                assert_eq!(id, RowId { key: "a".into(), child: None });
                (row.attributes.into_keys().collect::<Vec<_>>(), row.owned.into_iter().collect::<Vec<_>>())
            })
        };
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let row = item(&[("version", N("1".to_owned())), ("n", N("1".to_owned())), ("owned", Ss(vec!["n".to_owned()]))]);
        assert_eq!(shown(row.clone(), Shown::ToReaders), Some((names(&["n", "version"]), names(&["n"]))));
        assert_eq!(shown(row.clone(), Shown::All), Some((names(&["n", "owned", "version"]), names(&["n"]))));
        let parked: SdkItem = row.into_iter().chain([("parkedAt".to_owned(), S("2026-01-01T00:00:00.000Z".to_owned()))]).collect();
        assert_eq!(shown(parked, Shown::ToReaders), Some((names(&["n", "parked", "version"]), names(&["n"]))));
        assert_eq!(shown(item(&[]), Shown::ToReaders), None, "it has only its key");
    }
}
