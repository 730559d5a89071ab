//! Caches of single rows, behind a trait.
//!
//! A cache only saves reads. What it answers is checked against the version that the reader asked for, and a row that is older is read
//! from the table: so an outdated or faulty cache costs reads and never breaks a promise.

#[cfg(feature = "cache")]
pub mod local;

use std::{
    collections::HashMap,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::BoxFuture;
use projection_vocabulary::{DynProjection, RowKey, Version};

use super::error::QueryError;
use crate::store::{
    home::row_key,
    reads::{ReadRow, read_row},
    rows::Shown,
};

/// A cache of rows that reads through: the one in this process, or a client of a shared one.
pub trait RowCache: Send + Sync {
    /// The row with this key.
    ///
    /// It may come from the cache if it counts the version `at_least`. Otherwise it comes from `read`, a consistent read of the table. A
    /// cache that reads the table itself drops `read`. Return errors, and do not keep them.
    fn get<'a>(&'a self, key: &'a CacheKey, at_least: Version, read: Read<'a>) -> BoxFuture<'a, Result<CachedRow, QueryError>>;
}

/// A read of the table that begins when it is awaited.
pub type Read<'a> = BoxFuture<'a, Result<CachedRow, QueryError>>;

/// Which row: its table and its key.
#[derive(Clone)]
pub struct CacheKey {
    rule: &'static dyn DynProjection,
    table: Arc<str>,
    key: RowKey,
}

impl CacheKey {
    pub(super) fn new(rule: &'static dyn DynProjection, table: &str, key: RowKey) -> Self {
        Self { rule, table: table.into(), key }
    }

    /// The name of the table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The key of the row.
    #[must_use]
    pub fn row(&self) -> &RowKey {
        &self.key
    }

    /// The key of its item, as `GetItem` takes it.
    #[must_use]
    pub fn item(&self) -> HashMap<String, AttributeValue> {
        row_key(self.rule, self.key.as_str())
    }

    /// The row that `GetItem` answered with.
    ///
    /// # Errors
    /// [`QueryError`] if something other than the worker wrote it.
    pub fn read(&self, item: Option<HashMap<String, AttributeValue>>) -> Result<CachedRow, QueryError> {
        let row = item.filter(|item| !item.is_empty()).map(|item| read_row(self.rule, item, Shown::ToReaders)).transpose()?;
        Ok(CachedRow(row.filter(|row| !row.is_empty()).map(Arc::new)))
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        self.table == other.table && self.key == other.key
    }
}

impl Eq for CacheKey {}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.table.hash(state);
        self.key.hash(state);
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({} of {})", self.key, self.table)
    }
}

/// A row in a cache; also that there is none. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedRow(pub(super) Option<Arc<ReadRow>>);

impl CachedRow {
    /// The last version of its aggregate that it counts; [`Version::NONE`] if there is no row, or if aggregates only share it.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.as_ref().map_or(Version::NONE, |row| row.version)
    }
}
