//! Transactions that write all or nothing, outside the rows of read models.

use aws_sdk_dynamodb::{
    operation::transact_write_items::{TransactWriteItemsError, TransactWriteItemsInput},
    types::{CancellationReason, ReturnConsumedCapacity, TransactWriteItem},
};

use super::{
    Store, StoreError,
    error::{Failure, cancellation_class, classify, invalid_reason, retry_or_fail},
    fresh_id,
};
use crate::retry::{Attempt, Deadline};

/// The answer to a transaction.
#[derive(Debug)]
pub(super) enum Transacted {
    /// All of it was written.
    Done,
    /// Nothing was written, because conditions failed. The reasons are in the order of the actions.
    Refused(Vec<CancellationReason>),
    /// Nothing was written, because DynamoDB refuses the content of an action.
    Invalid(&'static str),
}

impl Store {
    /// Writes all or nothing what `actions` returns, which is the same each time: it is asked again for another attempt, which is rarer
    /// than a copy for each first one would be. Conflicts and throttling are retried.
    ///
    /// If an earlier attempt's answer was lost, its token recognises it; but DynamoDB forgets tokens after ten minutes, and the caller may
    /// have tried before with another one. So a refusal can mean that the write was made already.
    pub(super) async fn transact_all(
        &self,
        operation: &'static str,
        actions: impl Fn() -> Vec<TransactWriteItem>,
        deadline: Deadline,
    ) -> Result<Transacted, StoreError> {
        // One token for all attempts, so that an attempt whose answer was lost is not applied twice.
        let token = fresh_id();
        self.send_with_retries((operation, None), deadline, || async {
            let actions = actions();
            let count = actions.len() as u64;
            let request = TransactWriteItemsInput::builder().set_transact_items(Some(actions)).client_request_token(&token);
            let request = request.return_consumed_capacity(ReturnConsumedCapacity::Total);
            let canceled = match self.dynamo.transact_write_items(request).await.map_err(classify) {
                Ok(done) => {
                    self.meter.wrote(done.consumed_capacity());
                    return Attempt::Decided(Ok(Transacted::Done));
                }
                Err(Failure::Other(TransactWriteItemsError::TransactionCanceledException(canceled))) => canceled,
                Err(Failure::Invalid(reason)) => return Attempt::Decided(Ok(Transacted::Invalid(reason))),
                Err(failure) => return retry_or_fail(operation, failure),
            };
            self.meter.wasted(2 * count);
            let reasons = canceled.cancellation_reasons.unwrap_or_default();
            let of = |code| reasons.iter().find(|reason| reason.code() == Some(code));
            if of("ConditionalCheckFailed").is_some() {
                return Attempt::Decided(Ok(Transacted::Refused(reasons)));
            }
            if let Some(invalid) = of("ValidationError").or_else(|| of("ItemCollectionSizeLimitExceeded")) {
                return Attempt::Decided(Ok(Transacted::Invalid(invalid_reason(invalid.message()))));
            }
            // It conflicted with another write, or was throttled.
            Attempt::Again(StoreError::Transient { operation, class: cancellation_class(&reasons) })
        })
        .await?
    }

    /// Writes all or nothing, without touching rows. Returns `false` if a condition failed and nothing was written.
    pub(super) async fn write_all(
        &self,
        operation: &'static str,
        actions: Vec<TransactWriteItem>,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        match self.transact_all(operation, || actions.clone(), deadline).await? {
            Transacted::Done => Ok(true),
            Transacted::Refused(_) => Ok(false),
            Transacted::Invalid(reason) => Err(StoreError::Permanent { operation, class: reason.to_owned() }),
        }
    }
}
