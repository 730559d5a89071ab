//! Imports captured events in bulk.

use futures::FutureExt as _;
use projection_vocabulary::{AggregateId, Version};

use super::bulk::{Bulk, Piece, Transaction};
use crate::store::{
    Store, StoreError,
    import::{Import, Imported},
    item::SdkItem,
};

/// A captured item of an event, and what its origin is called by whoever imports it.
#[derive(Debug)]
pub struct Captured<O> {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// The version.
    pub version: Version,
    /// The item under the event's key.
    pub item: SdkItem,
    /// At least as many bytes as the item has in DynamoDB.
    pub bytes: usize,
    /// Where it comes from.
    pub origin: O,
}

/// What came of an item.
pub struct Outcome<O> {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// The version.
    pub version: Version,
    /// Where it comes from.
    pub origin: O,
    /// What came of it.
    pub imported: Imported,
}

/// What came of some items.
pub type Outcomes<O> = Vec<Outcome<O>>;

/// An import in progress.
pub struct BulkImport<'a, O> {
    bulk: Bulk<'a, Captured<O>, Result<Outcomes<O>, StoreError>>,
}

impl<'a, O: Send + 'a> BulkImport<'a, O> {
    /// An import into this store, of which nothing has been done yet.
    #[must_use]
    pub fn new(store: &'a Store) -> Self {
        Self { bulk: Bulk::new(|transaction| import(store, transaction).boxed()) }
    }

    /// Imports an item, sooner or later, in order with others of its aggregate. Returns what came of earlier ones, as far as it has become
    /// known.
    ///
    /// # Errors
    /// [`StoreError`]. Nothing more is sent; [`next`](Self::next) returns what came of the items that were under way.
    pub async fn add(&mut self, item: Captured<O>) -> Result<Outcomes<O>, StoreError> {
        let mut outcomes = Vec::new();
        while let Some(answer) = self.bulk.make_room().await {
            outcomes.extend(self.checked(answer)?);
        }
        self.bulk.push(item);
        Ok(outcomes)
    }

    /// Sends what waits, and returns what came of the next items; `None` if that is known of all.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub async fn next(&mut self) -> Option<Result<Outcomes<O>, StoreError>> {
        let answer = self.bulk.next().await?;
        Some(self.checked(answer))
    }

    fn checked(&mut self, answer: Result<Outcomes<O>, StoreError>) -> Result<Outcomes<O>, StoreError> {
        answer.inspect_err(|_| drop(self.bulk.stop()))
    }
}

impl<O> Piece for Captured<O> {
    fn aggregate(&self) -> &AggregateId {
        &self.aggregate
    }

    fn actions(&self) -> usize {
        1
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn joins<'a>(&'a self, mut before: impl Iterator<Item = &'a Self>) -> bool {
        before.all(|other| other.version != self.version)
    }
}

async fn import<O: Send>(store: &Store, transaction: Transaction<Captured<O>>) -> Result<Outcomes<O>, StoreError> {
    let mut origins = Vec::new();
    let mut imports = Vec::with_capacity(transaction.len());
    for captured in transaction {
        let aggregate = captured[0].aggregate.clone();
        let mut events = Vec::with_capacity(captured.len());
        for Captured { aggregate, version, item, bytes: _, origin } in captured {
            events.push((version, item));
            origins.push((aggregate, version, origin));
        }
        imports.push(Import { aggregate, events });
    }
    let imported = store.import(&imports).await?.into_iter().flatten();
    let outcome = |((aggregate, version, origin), imported)| Outcome { aggregate, version, origin, imported };
    Ok(origins.into_iter().zip(imported).map(outcome).collect())
}
