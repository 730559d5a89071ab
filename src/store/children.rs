//! Reads of child rows: a query of the one partition that an aggregate's rows are in.

use std::sync::Arc;

use aws_sdk_dynamodb::{
    operation::query::QueryInput,
    types::{AttributeValue, ReturnConsumedCapacity},
};
use projection_vocabulary::{Attributes, DynProjection, HOME_SORT, RowKey};

use super::{
    Store, StoreError,
    home::{child_sort, foreign_row, item_key},
    limits::SCAN_ITEMS_MAX,
};
use crate::{
    retry::Deadline,
    store::item::{SdkItem, attributes},
};

/// In which order child rows are read: by sort key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the lowest sort key to the highest.
    Ascending,
    /// From the highest sort key to the lowest.
    Descending,
}

/// Child rows, in the order in which they were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChildPage {
    /// Sort keys and attributes, without the keys.
    pub children: Vec<(Arc<str>, Attributes)>,
    /// Whether there are more: they come after the last sort key of these.
    pub more: bool,
}

/// Which child rows to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildQuery<'a> {
    /// Beyond this sort key, in the order; `None` from the beginning.
    pub after: Option<&'a str>,
    /// At most so many.
    pub limit: usize,
    /// In which order.
    pub order: Order,
    /// Whether to read what was written last. Otherwise the read costs half, and may not see the last second.
    pub consistent: bool,
}

impl Store {
    /// Reads child rows under a key; none, without a request, of a rule that has no child rows.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn children(
        &self,
        rule: &dyn DynProjection,
        key: &RowKey,
        query: ChildQuery<'_>,
        deadline: Deadline,
    ) -> Result<ChildPage, StoreError> {
        let (mut page, mut from) = (ChildPage::default(), query.after.map(|sort| item_key(rule, key.as_str(), sort)));
        // One more than the limit shows whether there are more.
        let wanted = query.limit.saturating_add(1);
        while rule.children().is_some() {
            let part = ChildQuery { limit: wanted - page.children.len(), ..query };
            let (children, next) = self.query_children(rule, key, from, part, deadline).await?;
            page.children.extend(children);
            from = next;
            if from.is_none() || page.children.len() >= wanted {
                break;
            }
        }
        page.more = page.children.len() > query.limit;
        page.children.truncate(query.limit);
        Ok(page)
    }

    /// Gives each child row of a key to `take`, by sort key, by consistent reads. They are not of one instant, unless the home row was the
    /// same before and after.
    ///
    /// # Errors
    /// [`StoreError`]: some child rows were not given.
    pub async fn each_child(
        &self,
        rule: &dyn DynProjection,
        key: &RowKey,
        deadline: Deadline,
        mut take: impl FnMut(Arc<str>, Attributes),
    ) -> Result<(), StoreError> {
        let all = ChildQuery { after: None, limit: usize::MAX, order: Order::Ascending, consistent: true };
        let mut from = None;
        while rule.children().is_some() {
            deadline.check()?;
            let (children, next) = self.query_children(rule, key, from, all, deadline).await?;
            for (sort, row) in children {
                take(sort, row);
            }
            from = next;
            if from.is_none() {
                break;
            }
        }
        Ok(())
    }

    async fn query_children(
        &self,
        rule: &dyn DynProjection,
        key: &RowKey,
        from: Option<SdkItem>,
        wanted: ChildQuery<'_>,
        deadline: Deadline,
    ) -> Result<(Vec<(Arc<str>, Attributes)>, Option<SdkItem>), StoreError> {
        let query = || {
            let request = QueryInput::builder()
                .table_name(self.table_of(rule))
                .key_condition_expression("#key = :key AND #sort > :home")
                .expression_attribute_names("#key", rule.key())
                .expression_attribute_names("#sort", rule.children().unwrap_or_default())
                .expression_attribute_values(":key", AttributeValue::S(key.as_str().to_owned()))
                .expression_attribute_values(":home", AttributeValue::S(HOME_SORT.to_owned()))
                .consistent_read(wanted.consistent)
                .scan_index_forward(wanted.order == Order::Ascending)
                .limit(i32::try_from(wanted.limit).unwrap_or(i32::MAX).min(SCAN_ITEMS_MAX))
                .set_exclusive_start_key(from.clone())
                .return_consumed_capacity(ReturnConsumedCapacity::Total);
            self.dynamo.query(request)
        };
        let page = self.send("Query of child rows", deadline, query).await?;
        self.meter.read_rows(&page.consumed_capacity);
        let child = |item: SdkItem| {
            let sort = child_sort(rule, &item).ok_or_else(|| foreign_row("its sort key is not a string"))?;
            let mut row = attributes(item).map_err(|_| foreign_row("it contains a value that no rule writes"))?;
            row.retain(|name, _| name != rule.key() && Some(name.as_str()) != rule.children());
            Ok((sort, row))
        };
        let children = page.items.unwrap_or_default().into_iter().map(child).collect::<Result<_, StoreError>>()?;
        Ok((children, page.last_evaluated_key))
    }
}
