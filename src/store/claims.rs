//! Claims: items of the event store that make a value unique across aggregates.
//!
//! A claim changes hands only in a transaction that moves the version of each aggregate whose state changes by it. So while an aggregate's
//! version stands still, what it holds is what its state says.

use aws_sdk_dynamodb::types::{AttributeValue, Delete, Put, TransactWriteItem};
#[cfg(feature = "cli")]
use aws_sdk_dynamodb::{
    operation::{get_item::GetItemInput, scan::ScanInput},
    types::ReturnConsumedCapacity,
};
use projection_vocabulary::{AggregateId, Claim};

use super::{Store, expression::Expression, item::SdkItem};
#[cfg(feature = "cli")]
use super::{
    StoreError,
    item::{aggregate_of, text_of},
    limits::SCAN_ITEMS_MAX,
    segment::{Cursor, Segment},
};
#[cfg(feature = "cli")]
use crate::retry::Deadline;

pub(super) const CLAIM: &str = "CLAIM";

/// A value that at most one aggregate holds, as its item names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimKey {
    /// The kind of claim.
    pub kind: String,
    /// The value, which is event data.
    pub value: String,
}

/// A claim that changes hands.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimMove {
    /// The claim.
    pub claim: ClaimKey,
    /// The aggregate that gives it up.
    pub from: Option<AggregateId>,
    /// The aggregate that takes it.
    pub to: Option<AggregateId>,
}

/// What a page of the event store has besides events.
#[cfg(feature = "cli")]
#[derive(Debug, Default)]
pub struct Kept {
    /// Its aggregates, each once, in the order of the page.
    pub aggregates: Vec<AggregateId>,
    /// Its claims, each with the aggregate that holds it.
    pub claims: Vec<(AggregateId, ClaimKey)>,
}

impl std::fmt::Debug for ClaimKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClaimKey").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl From<&Claim> for ClaimKey {
    fn from(Claim { kind, value }: &Claim) -> Self {
        Self { kind: (*kind).to_owned(), value: value.clone() }
    }
}

impl ClaimKey {
    fn partition(&self) -> AttributeValue {
        AttributeValue::S(format!("{CLAIM}#{}#{}", self.kind, self.value))
    }

    fn sort() -> AttributeValue {
        AttributeValue::S(CLAIM.to_owned())
    }

    /// The claim with this partition key. A kind has no `#`.
    #[cfg(feature = "cli")]
    fn of_partition(key: &str) -> Option<Self> {
        let (kind, value) = key.strip_prefix(CLAIM)?.strip_prefix('#')?.split_once('#')?;
        Some(Self { kind: kind.to_owned(), value: value.to_owned() })
    }
}

impl Store {
    /// A claim passes from the aggregate that has it to one that has not, on condition that it is as the states of both say. One whose
    /// holder already has it, or that nobody has when it is given up, is as it shall be.
    pub(super) fn move_claim(&self, ClaimMove { claim, from, to }: &ClaimMove) -> TransactWriteItem {
        let held = [from, to].into_iter().flatten();
        let mut expression = Expression::default();
        let mut conditions = vec![expression.unchanged("PK", "").to_string()];
        conditions.extend(held.map(|holder| expression.unchanged("aggregateId", holder.as_str()).to_string()));
        let condition = conditions.join(" OR ");
        let action = TransactWriteItem::builder();
        if let Some(holder) = to {
            let item = SdkItem::from([
                ("PK".to_owned(), claim.partition()),
                ("SK".to_owned(), ClaimKey::sort()),
                ("aggregateId".to_owned(), AttributeValue::S(holder.to_string())),
            ]);
            let put = Put::builder()
                .table_name(&self.names.event_store)
                .set_item(Some(item))
                .condition_expression(condition)
                .set_expression_attribute_values(expression.values())
                .set_expression_attribute_names(expression.names());
            return action.put(put.build().expect("table and item are given")).build();
        }
        let delete = Delete::builder()
            .table_name(&self.names.event_store)
            .key("PK", claim.partition())
            .key("SK", ClaimKey::sort())
            .condition_expression(condition)
            .set_expression_attribute_values(expression.values())
            .set_expression_attribute_names(expression.names());
        action.delete(delete.build().expect("table and key are given")).build()
    }

    /// The aggregate that holds a claim, by consistent read.
    ///
    /// # Errors
    /// [`StoreError`].
    #[cfg(feature = "cli")]
    pub async fn holder_of(&self, claim: &ClaimKey, deadline: Deadline) -> Result<Option<AggregateId>, StoreError> {
        let read = || {
            let request = GetItemInput::builder().table_name(&self.names.event_store);
            let request = request.key("PK", claim.partition()).key("SK", ClaimKey::sort()).consistent_read(true);
            self.dynamo.get_item(request.return_consumed_capacity(ReturnConsumedCapacity::Total))
        };
        let found = self.send("GetItem of a claim", deadline, read).await?;
        self.meter.read_rows(&found.consumed_capacity);
        Ok(found.item.as_ref().and_then(|item| text_of(item, "aggregateId")).map(AggregateId::from))
    }

    /// One page of a scan of a segment of the event store, by consistent read: its aggregates and claims, and where to continue.
    ///
    /// # Errors
    /// [`StoreError`].
    #[cfg(feature = "cli")]
    pub async fn scan_kept(
        &self,
        segment: Segment,
        after: Option<&Cursor>,
        deadline: Deadline,
    ) -> Result<(Kept, Option<Cursor>), StoreError> {
        let scan = || {
            let request = segment.of(ScanInput::builder().table_name(&self.names.event_store).consistent_read(true).limit(SCAN_ITEMS_MAX));
            let request = request.projection_expression("PK, SK, aggregateId").set_exclusive_start_key(after.map(Cursor::key));
            self.dynamo.scan(request.return_consumed_capacity(ReturnConsumedCapacity::Total))
        };
        let page = self.send("Scan of the event store", deadline, scan).await?;
        self.meter.read_rows(&page.consumed_capacity);
        let mut kept = Kept::default();
        for item in page.items.unwrap_or_default() {
            let Some(partition) = text_of(&item, "PK") else { continue };
            if let Some(aggregate) = aggregate_of(partition) {
                if kept.aggregates.last() != Some(&aggregate) {
                    kept.aggregates.push(aggregate);
                }
            } else if let (Some(claim), Some(holder)) = (ClaimKey::of_partition(partition), text_of(&item, "aggregateId")) {
                kept.claims.push((holder.into(), claim));
            }
        }
        Ok((kept, page.last_evaluated_key.as_ref().map(Cursor::of)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_found_again_by_its_key_and_shows_no_value() {
        for value in ["ann@example.com", "a#b", "", "#"] {
            let claim = ClaimKey { kind: "email".into(), value: value.into() };
            let partition = claim.partition();
            assert_eq!(ClaimKey::of_partition(partition.as_s().expect("a text")), Some(claim));
        }
        assert_eq!(ClaimKey::of_partition("AGGREGATE#a"), None);
        let claim = ClaimKey { kind: "email".into(), value: "secret".into() };
        assert!(!format!("{claim:?}").contains("secret"));
    }
}
