//! What all queries of one projection read with.

use std::{collections::HashMap, slice, sync::Arc};

use futures::future::BoxFuture;
use projection_vocabulary::{Attributes, DynProjection, RowId, RowKey, Value, Version, row};
use serde::de::DeserializeOwned;

use super::{
    cache::{CacheKey, CachedRow, RowCache},
    error::QueryError,
    page::{Binding, Page, PageToken, Row, TokenKey},
    shards::{self, WholeRow},
};
use crate::{
    retry::Deadline,
    store::{
        Store, StoreError,
        home::foreign_row,
        item::SdkItem,
        reads::{Consistency, Part, ReadRow, read_row},
        rows::Shown,
    },
};

/// The most bytes of a row's key.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
const KEY_BYTES_MAX: usize = 2_048;
/// The most rows in a page, however many are asked for: a page is held in memory.
pub const PAGE_ROWS_MAX: usize = 1_000;

#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub store: &'a Store,
    pub rule: &'static dyn DynProjection,
    pub table: &'a str,
    pub token_key: Option<&'a TokenKey>,
    pub cache: Option<&'a dyn RowCache>,
    pub consistency: Consistency,
    pub shown: Shown,
    pub deadline: Deadline,
}

impl Reader<'_> {
    /// The item of a row, by consistent read.
    pub async fn item(&self, key: &RowKey, deadline: Deadline) -> Result<Option<SdkItem>, QueryError> {
        Ok(self.store.get_row(self.rule, key, Consistency::Strong, deadline).await?)
    }

    /// The row, past the cache.
    pub async fn row(&self, key: &RowKey, consistency: Consistency) -> Result<Option<ReadRow>, QueryError> {
        if self.reads_shards() {
            return Ok(self.rows(slice::from_ref(key), consistency).await?.remove(key));
        }
        let item = self.store.get_row(self.rule, key, consistency, self.deadline).await?;
        self.seen(item)
    }

    /// The rows of these keys, which differ from each other; those that exist.
    pub async fn rows(&self, keys: &[RowKey], consistency: Consistency) -> Result<HashMap<RowKey, ReadRow>, QueryError> {
        if self.reads_shards() {
            let rows = shards::rows(self.store, self.rule, keys, consistency, self.deadline).await?.into_iter();
            let read = rows.map(|(key, WholeRow { home, shared })| (key.clone(), ReadRow::of(key, &home, &shared)));
            return Ok(read.filter(|(_, row)| !row.is_empty()).collect());
        }
        let items = self.store.get_rows(self.rule, keys, consistency, self.deadline).await?.into_iter();
        items.filter_map(|(key, item)| self.seen(Some(item)).map(|row| Some((key, row?))).transpose()).collect()
    }

    /// What the row's aggregate and others have written to it, by consistent reads; nothing if it does not exist.
    pub async fn whole(&self, key: &RowKey) -> Result<WholeRow, QueryError> {
        let Reader { store, rule, deadline, .. } = *self;
        if rule.shards() > 1 {
            let mut rows = shards::rows(store, rule, slice::from_ref(key), Consistency::Strong, deadline).await?;
            return Ok(rows.remove(key).unwrap_or_default());
        }
        let item = self.item(key, deadline).await?;
        Ok(item.map(|item| shards::whole(rule, item)).transpose()?.unwrap_or_default())
    }

    /// Whether a row is more than its item. The worker's bookkeeping is shown item by item.
    fn reads_shards(&self) -> bool {
        self.rule.shards() > 1 && self.shown == Shown::ToReaders
    }

    /// The row whose item has been read by itself.
    pub async fn row_with(&self, key: &RowKey, item: Option<SdkItem>) -> Result<Option<ReadRow>, QueryError> {
        if self.reads_shards() { self.row(key, Consistency::Strong).await } else { self.seen(item) }
    }

    /// The row that an item is to readers.
    fn seen(&self, item: Option<SdkItem>) -> Result<Option<ReadRow>, QueryError> {
        let row = item.map(|item| read_row(self.rule, item, self.shown)).transpose()?;
        Ok(row.filter(|row| !row.is_empty()))
    }

    pub fn cache_key(&self, key: &RowKey) -> CacheKey {
        CacheKey::new(self.rule, self.table, key.clone())
    }

    /// A read for the cache: consistent, because what it answers is kept.
    pub async fn cacheable(&self, key: &RowKey) -> Result<CachedRow, QueryError> {
        Ok(CachedRow(self.row(key, Consistency::Strong).await?.map(Arc::new)))
    }

    /// A row in the reader's type.
    pub fn typed<T: DeserializeOwned>(&self, read: ReadRow) -> Result<Row<T>, QueryError> {
        let Row { key, child, version, parked, data } = self.untyped(read);
        match row(data) {
            Ok(data) => Ok(Row { key, child, version, parked, data }),
            Err(misfit) => Err(QueryError::Misfit { projection: self.rule.name(), key, misfit }),
        }
    }

    /// A row with all its attributes, its key among them.
    pub fn untyped(&self, ReadRow { id: RowId { key, child }, version, parked, shown }: ReadRow) -> Row<Attributes> {
        let mut data = shown.attributes;
        data.insert(self.rule.key().to_owned(), key.as_str().into());
        if let (Some(name), Some(sort)) = (self.rule.children(), &child) {
            data.insert(name.to_owned(), Value::Text(sort.clone()));
        }
        Row { key, child, version: (version > Version::NONE).then_some(version), parked, data }
    }

    pub fn typed_page<T: DeserializeOwned>(&self, page: ReadPage) -> Result<Page<T>, QueryError> {
        Ok(Page { rows: page.rows.into_iter().map(|row| self.typed(row)).collect::<Result<_, _>>()?, next: page.next })
    }

    /// Reads parts until they hold a page: at most `limit` rows after the token. `partition` are the attributes that a position has
    /// besides those in the token; `part` asks for so many items after a position.
    ///
    /// The parts are boxed futures, and not those of an async closure: of these the compiler cannot tell whether they may be awaited in a
    /// spawned task, where services answer.
    pub async fn page<'p>(
        &self,
        (limit, token): (usize, Option<&PageToken>),
        binding: &Binding,
        partition: SdkItem,
        keep: impl Fn(&ReadRow) -> bool,
        part: impl Fn(i32, Option<SdkItem>) -> BoxFuture<'p, Result<Part, StoreError>>,
    ) -> Result<ReadPage, QueryError> {
        if limit == 0 {
            return Err(QueryError::Limit);
        }
        let limit = limit.min(PAGE_ROWS_MAX);
        let mut from = token.map(|token| binding.position(token)).transpose()?;
        if let Some(position) = &mut from {
            position.extend(partition);
        }
        let (mut rows, mut last) = (Vec::new(), None);
        loop {
            self.deadline.check()?;
            // One more than the page holds tells whether there is another page: DynamoDB continues after the last item, too.
            let wanted = i32::try_from(limit + 1 - rows.len()).expect("a page is small");
            let (items, next) = part(wanted, from).await?;
            for item in items {
                let position = (rows.len() + 1 == limit).then(|| binding.token(&item));
                let row = read_row(self.rule, item, self.shown)?;
                if keep(&row) {
                    last = position.or(last);
                    rows.push(row);
                }
            }
            from = next;
            if rows.len() > limit {
                rows.truncate(limit);
                let next = last.expect("a page has a last row").ok_or_else(|| foreign_row("it lacks a key of the index that it is in"))?;
                return Ok(ReadPage { rows, next: Some(next) });
            }
            if from.is_none() {
                return Ok(ReadPage { rows, next: None });
            }
        }
    }
}

/// A page before its rows are in the reader's type.
#[derive(Debug)]
pub struct ReadPage {
    pub rows: Vec<ReadRow>,
    pub next: Option<PageToken>,
}

/// Refuses a key that no row can have. DynamoDB would refuse all that is asked together with it.
pub fn check_key(key: &RowKey) -> Result<(), QueryError> {
    if key.as_str().is_empty() || key.as_str().len() > KEY_BYTES_MAX { Err(QueryError::Key) } else { Ok(()) }
}
