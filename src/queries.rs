#![doc = include_str!("queries/README.md")]

mod cache;
mod children;
mod error;
mod fresh;
mod index;
mod page;
mod reader;
mod rows;
mod shards;
mod wait;

use std::sync::Arc;

use projection_vocabulary::{DynProjection, Projection};

#[cfg(feature = "cache")]
pub use cache::local::LocalCache;
pub use cache::{CacheKey, CachedRow, Read, RowCache};
pub use children::ChildRows;
pub use error::QueryError;
#[cfg(feature = "cli")]
pub(crate) use index::unknown_index;
pub use index::{IndexRows, Selection};
pub use page::{Page, PageToken, PageTokenError, Row, TokenKey};
pub use reader::PAGE_ROWS_MAX;
pub use rows::{Get, Rows};

use crate::store::{Store, reads::Consistency};

/// Reads rows. Make one when the program starts, and keep it.
#[derive(Clone)]
pub struct Queries {
    store: Arc<Store>,
    token_key: Option<TokenKey>,
    cache: Option<Arc<dyn RowCache>>,
    consistency: Consistency,
}

impl Queries {
    /// Reads from the tables of this store.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, token_key: None, cache: None, consistency: Consistency::Strong }
    }

    /// Seals page tokens with this key, and accepts no others. Without a key, whoever changes a token reads other rows of the same query.
    #[must_use]
    pub fn with_token_key(mut self, key: TokenKey) -> Self {
        self.token_key = Some(key);
        self
    }

    /// Reads single rows through this cache.
    #[must_use]
    pub fn with_cache(mut self, cache: impl RowCache + 'static) -> Self {
        self.cache = Some(Arc::new(cache));
        self
    }

    /// Takes answers that may lack the last moments, at half the price. `fresh` and `after` are as certain as ever.
    #[must_use]
    pub fn eventually(mut self) -> Self {
        self.consistency = Consistency::Eventual;
        self
    }

    /// The rows of a projection.
    ///
    /// # Panics
    /// If the store has no table for the projection, because its table names were made of a registry without it.
    #[must_use]
    pub fn rows<P: Projection>(&self, projection: &'static P) -> Rows<'_, P> {
        self.of(projection)
    }

    /// The rows of a projection that is known only when the program runs.
    ///
    /// # Panics
    /// As [`Queries::rows`].
    #[must_use]
    pub fn rows_of(&self, projection: &'static dyn DynProjection) -> Rows<'_, dyn DynProjection> {
        self.of(projection)
    }

    fn of<P: ?Sized>(&self, rule: &'static dyn DynProjection) -> Rows<'_, P> {
        let name = rule.name();
        let table = self.store.names().projections.get(name);
        let table = table.unwrap_or_else(|| panic!("the store has no table for `{name}`: make its table names of a registry with it"));
        Rows::new(&self.store, rule, table, (self.token_key.as_ref(), self.cache.as_deref(), self.consistency))
    }
}
