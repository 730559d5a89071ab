//! Rows through an index.

use futures::FutureExt as _;
use projection_vocabulary::{DynProjection, Index, IndexKey, Value};
use serde::de::DeserializeOwned;

use super::{
    error::QueryError,
    page::{Binding, Page, PageToken},
    reader::{ReadPage, Reader},
};
use crate::store::{
    item::{SdkItem, from_value},
    reads::{IndexQuery, Range, position_keys},
};

/// The most bytes of a value of a partition key and of a sort key.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
const PARTITION_BYTES_MAX: usize = 2_048;
const SORT_BYTES_MAX: usize = 1_024;

/// The rows in an index.
#[derive(Clone, Copy)]
pub struct IndexRows<'a> {
    reader: Reader<'a>,
    index: Index,
}

impl<'a> IndexRows<'a> {
    pub(super) fn new(reader: Reader<'a>, index: Index) -> Self {
        Self { reader, index }
    }

    /// Those with these values of the partition key's attributes, in their order.
    pub fn of<V: Into<Value>>(self, values: impl IntoIterator<Item = V>) -> Selection<'a> {
        Selection {
            reader: self.reader,
            index: self.index,
            partition: values.into_iter().map(Into::into).collect(),
            sort: Vec::new(),
            low: None,
            high: None,
            prefix: None,
            newest_first: false,
        }
    }
}

/// Some rows in an index, in the order of its sort key, the lowest first unless asked otherwise.
///
/// An index follows its table by a moment, so a row may be a little older than [`Rows::get`](super::Rows::get) shows it, and not in its
/// new place yet.
#[derive(Clone)]
#[must_use = "a query does nothing unless a page is asked for"]
pub struct Selection<'a> {
    reader: Reader<'a>,
    index: Index,
    partition: Vec<Value>,
    sort: Vec<Value>,
    low: Option<Value>,
    high: Option<Value>,
    prefix: Option<Value>,
    newest_first: bool,
}

impl Selection<'_> {
    /// Only those with these values of the sort key's first attributes.
    pub fn with<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        self.sort = values.into_iter().map(Into::into).collect();
        self
    }

    /// Only those whose sort key is this value or higher. Of several attributes, the first that [`with`](Self::with) does not give.
    pub fn at_least(mut self, low: impl Into<Value>) -> Self {
        self.low = Some(low.into());
        self
    }

    /// Only those whose sort key is this value or lower.
    pub fn at_most(mut self, high: impl Into<Value>) -> Self {
        self.high = Some(high.into());
        self
    }

    /// Only those whose sort key, a string, begins with this one.
    pub fn begins_with(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// In descending order of the sort key. If it is a time, the newest come first.
    pub fn newest_first(mut self) -> Self {
        self.newest_first = true;
        self
    }

    /// In ascending order of the sort key, as is usual.
    pub fn oldest_first(mut self) -> Self {
        self.newest_first = false;
        self
    }

    /// At most `limit` rows (and at most [`PAGE_ROWS_MAX`](super::PAGE_ROWS_MAX)): the first ones, or those after the page that the token
    /// came with. The limit may differ from page to page.
    ///
    /// A row that stands still is on exactly one page. One that moves meanwhile may be on two, or on none.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn page<T: DeserializeOwned>(&self, limit: usize, token: Option<&PageToken>) -> Result<Page<T>, QueryError> {
        self.reader.typed_page(self.page_read(limit, token).await?)
    }

    pub(crate) async fn page_read(&self, limit: usize, token: Option<&PageToken>) -> Result<ReadPage, QueryError> {
        let query = self.query()?;
        let Reader { store, rule, table, token_key, deadline, .. } = self.reader;
        let binding = Binding::of_index(table, &query, position_keys(rule, &self.index), token_key);
        let attributes = self.index.partition.iter().map(|key| key.attribute().to_owned());
        let partition: SdkItem = attributes.zip(self.partition.iter().map(from_value)).collect();
        let part = |limit, from| store.query_index(rule, &query, limit, from, deadline).boxed();
        self.reader.page((limit, token), &binding, partition, |_| true, part).await
    }

    fn query(&self) -> Result<IndexQuery, QueryError> {
        let Self { index, partition, sort, low, high, prefix, newest_first, .. } = self;
        let rule = self.reader.rule;
        if !rule.indexes().contains(index) {
            return Err(unknown_index(rule, index.name));
        }
        if partition.len() != index.partition.len() {
            return Err(self.fault(format!("{} given for the partition key", values(partition.len()))));
        }
        if sort.len() > index.sort.len() {
            return Err(self.fault(format!("{} given for the sort key", values(sort.len()))));
        }
        self.check(index.partition.iter().zip(partition), PARTITION_BYTES_MAX)?;
        self.check(index.sort.iter().zip(sort), SORT_BYTES_MAX)?;
        let bounds = || low.iter().chain(high).chain(prefix);
        let ranged = index.sort.get(sort.len());
        match ranged {
            Some(key) => self.check(bounds().map(|bound| (key, bound)), SORT_BYTES_MAX)?,
            None if bounds().next().is_some() => return Err(self.fault("the sort key has no attribute left for a range".to_owned())),
            None => {}
        }
        let range = match (low.clone(), high.clone(), prefix.clone()) {
            (None, None, None) => None,
            (Some(low), None, None) => Some(Range::AtLeast(low)),
            (None, Some(high), None) => Some(Range::AtMost(high)),
            (Some(low), Some(high), None) if low > high => return Err(self.fault("the range ends before it begins".to_owned())),
            (Some(low), Some(high), None) => Some(Range::Between(low, high)),
            (None, None, Some(_)) if matches!(ranged, Some(IndexKey::Number(_))) => {
                return Err(self.fault("a number begins with nothing".to_owned()));
            }
            (None, None, Some(prefix)) => Some(Range::BeginsWith(prefix)),
            (_, _, Some(_)) => return Err(self.fault("DynamoDB takes one range, and not a prefix together with bounds".to_owned())),
        };
        Ok(IndexQuery { index: *index, partition: partition.clone(), sort: sort.clone(), range, newest_first: *newest_first })
    }

    /// Refuses values that no row can have as a key. Names attributes, never values.
    fn check<'v>(&self, values: impl IntoIterator<Item = (&'v IndexKey, &'v Value)>, bytes_max: usize) -> Result<(), QueryError> {
        for (key, value) in values {
            let name = key.attribute();
            let fault = match (key, value) {
                (IndexKey::Text(_), Value::Text(text)) if text.is_empty() => format!("the value for `{name}` is empty"),
                (IndexKey::Text(_), Value::Text(text)) if text.len() > bytes_max => {
                    format!("the value for `{name}` is longer than the {bytes_max} bytes of a key")
                }
                (IndexKey::Number(_), Value::Number(number)) if number.check().is_err() => {
                    format!("the value for `{name}` is a number that DynamoDB cannot hold")
                }
                (IndexKey::Text(_), Value::Text(_)) | (IndexKey::Number(_), Value::Number(_)) => continue,
                (IndexKey::Text(_), _) => format!("the value for `{name}` is not a string"),
                (IndexKey::Number(_), _) => format!("the value for `{name}` is not a number"),
            };
            return Err(self.fault(fault));
        }
        Ok(())
    }

    fn fault(&self, fault: String) -> QueryError {
        QueryError::IndexValues { index: self.index.name, keys: in_words(&self.index), fault }
    }
}

fn values(number: usize) -> String {
    if number == 1 { "1 value is".to_owned() } else { format!("{number} values are") }
}

/// The error for an index that the projection does not declare.
pub(crate) fn unknown_index(rule: &dyn DynProjection, name: &str) -> QueryError {
    let described = |index: &Index| match listed(index.sort) {
        sort if sort.is_empty() => format!("{} (by {})", index.name, listed(index.partition)),
        sort => format!("{} (by {}; sorted by {sort})", index.name, listed(index.partition)),
    };
    let known = rule.indexes().iter().map(described).collect();
    QueryError::UnknownIndex { projection: rule.name(), index: name.to_owned(), known }
}

/// The keys of an index: `the partition key a, b and the sort key c (a number), d`.
fn in_words(index: &Index) -> String {
    let partition = format!("the partition key {}", listed(index.partition));
    if index.sort.is_empty() {
        format!("{partition} and no sort key")
    } else {
        format!("{partition} and the sort key {}", listed(index.sort))
    }
}

fn listed(keys: &[IndexKey]) -> String {
    let keys = keys.iter().map(|key| match key {
        IndexKey::Text(name) => (*name).to_owned(),
        IndexKey::Number(name) => format!("{name} (a number)"),
    });
    keys.collect::<Vec<_>>().join(", ")
}
