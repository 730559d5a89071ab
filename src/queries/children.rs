//! The child rows of a row, page by page.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{ConsistencyToken, HOME_SORT, IndexKey, RowId, RowKey};
use serde::de::DeserializeOwned;

use super::{
    error::QueryError,
    page::{Binding, Page, PageToken, PageTokenError},
    reader::{PAGE_ROWS_MAX, ReadPage, Reader, check_key},
    wait::wait,
};
use crate::store::{
    children::{ChildQuery, Order},
    item::SdkItem,
    reads::{Consistency, ReadRow},
};

/// The child rows of a row, in the order of their sort keys, the lowest first unless asked otherwise.
#[derive(Clone)]
#[must_use = "a query does nothing unless a page is asked for"]
pub struct ChildRows<'a> {
    reader: Reader<'a>,
    key: RowKey,
    newest_first: bool,
    after: Option<ConsistencyToken>,
    within: Duration,
}

impl<'a> ChildRows<'a> {
    pub(super) fn new(reader: Reader<'a>, key: RowKey) -> Self {
        Self { reader, key, newest_first: false, after: None, within: Duration::ZERO }
    }

    /// In descending order of the sort key. If it is a time or a version, the newest come first.
    pub fn newest_first(mut self) -> Self {
        self.newest_first = true;
        self
    }

    /// In ascending order of the sort key, as is usual.
    pub fn oldest_first(mut self) -> Self {
        self.newest_first = false;
        self
    }

    /// Asks for them once everything is counted that a token stands for: child rows are written together with their home row.
    pub fn after(mut self, token: &ConsistencyToken) -> Self {
        self.after = Some(token.clone());
        self
    }

    /// Waits so long for what `after` asks for; otherwise it looks once.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// At most `limit` child rows (and at most [`PAGE_ROWS_MAX`]): the first ones, or those after the page that the token came with. The
    /// limit may differ from page to page. A child row that stands still is on exactly one page.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn page<T: DeserializeOwned>(&self, limit: usize, token: Option<&PageToken>) -> Result<Page<T>, QueryError> {
        self.reader.typed_page(self.page_read(limit, token).await?)
    }

    pub(crate) async fn page_read(&self, limit: usize, token: Option<&PageToken>) -> Result<ReadPage, QueryError> {
        let Reader { store, rule, table, token_key, consistency, deadline, .. } = self.reader;
        let Some(sort) = rule.children() else { return Err(QueryError::NoChildren { projection: rule.name() }) };
        check_key(&self.key)?;
        if limit == 0 {
            return Err(QueryError::Limit);
        }
        let binding = Binding::of_children(table, &self.key, self.newest_first, vec![IndexKey::Text(sort)], token_key);
        let after = token.map(|token| binding.position(token)).transpose()?;
        let after = after.as_ref().and_then(|position| position.get(sort)?.as_s().ok()).map(String::as_str);
        // The home row is before all child rows, so no page ends there.
        if after.is_some_and(|after| after <= HOME_SORT) {
            return Err(PageTokenError::Malformed.into());
        }
        if let Some(token) = &self.after {
            wait(&self.reader, token, self.within).await?;
        }
        let consistent = self.after.is_some() || consistency == Consistency::Strong;
        let order = if self.newest_first { Order::Descending } else { Order::Ascending };
        let query = ChildQuery { after, limit: limit.min(PAGE_ROWS_MAX), order, consistent };
        let page = store.children(rule, &self.key, query, deadline).await?;
        let last = page.children.last().filter(|_| page.more).map(|(sort, _)| sort.clone());
        let next = last.and_then(|last| {
            let position: SdkItem = [(sort.to_owned(), AttributeValue::S(last.to_string()))].into();
            binding.token(&position)
        });
        let read = |(child, attributes)| ReadRow::child(RowId { key: self.key.clone(), child: Some(child) }, attributes);
        Ok(ReadPage { rows: page.children.into_iter().map(read).collect(), next })
    }
}
