//! The rows of one projection.

use std::{collections::HashSet, marker::PhantomData, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use projection_vocabulary::{Attributes, ConsistencyToken, DynProjection, IndexOf, RowKey, Version};
use serde::de::DeserializeOwned;

use super::{
    cache::RowCache,
    children::ChildRows,
    error::QueryError,
    fresh::fresh,
    index::IndexRows,
    page::{Binding, Page, PageToken, Row, TokenKey},
    reader::{ReadPage, Reader, check_key},
    wait::wait,
};
use crate::{
    retry::Deadline,
    store::{
        Store,
        item::SdkItem,
        reads::{Consistency, ReadRow, table_keys},
        rows::Shown,
    },
};

/// The rows of the projection `P`.
pub struct Rows<'a, P: ?Sized> {
    reader: Reader<'a>,
    of: PhantomData<fn() -> P>,
}

impl<'a, P: ?Sized> Rows<'a, P> {
    pub(super) fn new(
        store: &'a Store,
        rule: &'static dyn DynProjection,
        table: &'a str,
        (token_key, cache, consistency): (Option<&'a TokenKey>, Option<&'a dyn RowCache>, Consistency),
    ) -> Self {
        let reader = Reader { store, rule, table, token_key, cache, consistency, shown: Shown::ToReaders, deadline: Deadline::NONE };
        Self { reader, of: PhantomData }
    }

    /// Begins no request after this deadline. Without one, each request is tried for half a minute.
    #[must_use]
    pub fn until(mut self, deadline: Deadline) -> Self {
        self.reader.deadline = deadline;
        self
    }

    /// Also shows the worker's bookkeeping. Fresh rows have none.
    #[cfg(feature = "cli")]
    pub(crate) fn showing(mut self, shown: Shown) -> Self {
        self.reader.shown = shown;
        self
    }

    /// One row; `None` if it does not exist. Await it, or first say how recent it must be.
    pub fn get<T>(&self, key: impl Into<RowKey>) -> Get<'a, T> {
        Get { reader: self.reader, key: key.into(), fresh: false, after: None, within: Duration::ZERO, of: PhantomData }
    }

    /// Many rows, in the order of their keys' first occurrence, each key once; `None` where there is no row.
    ///
    /// It asks for 100 at once, and again for those that DynamoDB leaves out. It does not use the cache.
    ///
    /// # Errors
    /// [`QueryError`]. If some rows were not read, [`QueryError::Unanswered`] names all of them.
    pub async fn many<T: DeserializeOwned>(
        &self,
        keys: impl IntoIterator<Item = impl Into<RowKey>>,
    ) -> Result<Vec<(RowKey, Option<Row<T>>)>, QueryError> {
        let rows = self.many_read(keys.into_iter().map(Into::into)).await?;
        let typed = |(key, row): (RowKey, Option<ReadRow>)| Ok((key, row.map(|row| self.reader.typed(row)).transpose()?));
        rows.into_iter().map(typed).collect()
    }

    /// Rows in the order of a scan, which is none. It reads the whole table page by page, so it is for tools and not for readers of a few
    /// rows, which an index serves. Of a projection with [shards](projection_vocabulary::Projection::SHARDS), each shard is a row of its own.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn scan<T: DeserializeOwned>(&self, limit: usize, token: Option<&PageToken>) -> Result<Page<T>, QueryError> {
        self.reader.typed_page(self.scan_read(limit, token).await?)
    }

    /// The child rows of a row.
    pub fn children(&self, key: impl Into<RowKey>) -> ChildRows<'a> {
        ChildRows::new(self.reader, key.into())
    }

    /// The rows in one of the projection's indexes.
    #[must_use]
    pub fn index(&self, index: IndexOf<P>) -> IndexRows<'a> {
        IndexRows::new(self.reader, index.index())
    }

    pub(crate) async fn many_read(&self, keys: impl IntoIterator<Item = RowKey>) -> Result<Vec<(RowKey, Option<ReadRow>)>, QueryError> {
        let mut known = HashSet::new();
        let keys: Vec<_> = keys.into_iter().filter(|key| known.insert(key.clone())).collect();
        keys.iter().try_for_each(check_key)?;
        let mut rows = self.reader.rows(&keys, self.reader.consistency).await?;
        let read = |key: RowKey| {
            let row = rows.remove(&key);
            (key, row)
        };
        Ok(keys.into_iter().map(read).collect())
    }

    pub(crate) async fn scan_read(&self, limit: usize, token: Option<&PageToken>) -> Result<ReadPage, QueryError> {
        let Reader { store, rule, table, token_key, consistency, deadline, .. } = self.reader;
        let binding = Binding::of_scan(table, table_keys(rule), token_key);
        let part = |limit, from| store.scan_shown(rule, limit, from, consistency, deadline).boxed();
        self.reader.page((limit, token), &binding, SdkItem::new(), |row| !row.is_empty(), part).await
    }
}

/// A read of one row.
#[must_use = "a read does nothing unless it is awaited"]
pub struct Get<'a, T> {
    reader: Reader<'a>,
    key: RowKey,
    fresh: bool,
    after: Option<ConsistencyToken>,
    within: Duration,
    of: PhantomData<fn() -> T>,
}

impl<T> Get<'_, T> {
    /// Counts every event that the event store has of the row's aggregate, also those that the row does not count yet, and never waits.
    ///
    /// The events after the row are folded over it, by the rule that the worker uses. That makes what the aggregate owns as recent as the
    /// event store; what other aggregates write to the row is as it is. It also serves a row that is absent, or that an older rule wrote.
    pub fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// Asks for the row once it counts this version of its aggregate, or all events up to it that its projection handles.
    pub fn at_least(self, version: Version) -> Self {
        let aggregate = self.key.as_str().into();
        self.after(&ConsistencyToken { aggregate, version })
    }

    /// Asks for the row once everything is counted that a token stands for. It may be of another aggregate, one that shares the row.
    pub fn after(mut self, token: &ConsistencyToken) -> Self {
        self.after = Some(token.clone());
        self
    }

    /// Waits so long for the version that `at_least` or `after` asks for; otherwise it looks once.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// The row with all its attributes, for a reader without a type of its own.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn untyped(self) -> Result<Option<Row<Attributes>>, QueryError> {
        let reader = self.reader;
        Ok(self.read().await?.map(|row| reader.untyped(row)))
    }

    pub(crate) async fn read(self) -> Result<Option<ReadRow>, QueryError> {
        let Self { reader, key, fresh: wants_fresh, after, within, .. } = self;
        check_key(&key)?;
        let (own, other) = match after {
            Some(token) if token.aggregate.as_str() == key.as_str() => (Some(token), None),
            token => (None, token),
        };
        if let Some(token) = &other {
            wait(&reader, token, within).await?;
        }
        if wants_fresh {
            let found = fresh(&reader, &key).await?;
            if let Some(ConsistencyToken { aggregate, version }) = own.filter(|token| found.head < token.version) {
                return Err(QueryError::NoSuchVersion { aggregate, version });
            }
            return Ok(found.row);
        }
        if other.is_some() {
            return reader.row(&key, Consistency::Strong).await;
        }
        let at_least = own.as_ref().map_or(Version::NONE, |token| token.version);
        if let Some(cache) = reader.cache {
            let cached = cache.get(&reader.cache_key(&key), at_least, Box::pin(reader.cacheable(&key))).await?;
            if cached.version() >= at_least {
                return Ok(cached.0.map(Arc::unwrap_or_clone));
            }
        }
        match own {
            Some(token) => {
                let item = wait(&reader, &token, within).await?;
                reader.row_with(&key, item).await
            }
            None => reader.row(&key, reader.consistency).await,
        }
    }
}

impl<'a, T: DeserializeOwned + 'a> IntoFuture for Get<'a, T> {
    type Output = Result<Option<Row<T>>, QueryError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let reader = self.reader;
        Box::pin(async move { self.read().await?.map(|row| reader.typed(row)).transpose() })
    }
}
