//! Reads of rows for those who query them: by key, by the keys of an index, and page by page.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws_sdk_dynamodb::{
    operation::{get_item::GetItemInput, query::QueryInput, query::builders::QueryInputBuilder, scan::ScanInput},
    types::{AttributeValue, KeysAndAttributes, ReturnConsumedCapacity},
};
use projection_vocabulary::{Attributes, Decimal, DynProjection, HomeRow, Index, IndexKey, RowId, RowKey, Value, Version};

use super::{
    Store, StoreError,
    expression::Expression,
    home::{SharedCell, child_sort, foreign_row, row_key},
    item::{SdkItem, from_value},
    limits::BATCH_GET_KEYS_MAX,
    rows::{Shown, ShownRow, shown_row},
};
use crate::retry::Deadline;

/// How recent an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// All writes that were answered before the read count.
    #[default]
    Strong,
    /// The last moments may be missing, at half the price.
    Eventual,
}

/// What is asked of an index.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexQuery {
    /// The index.
    pub index: Index,
    /// One value for each attribute of its partition key.
    pub partition: Vec<Value>,
    /// Values that the first attributes of its sort key must have.
    pub sort: Vec<Value>,
    /// What the next attribute of its sort key must be.
    pub range: Option<Range>,
    /// Whether the rows come in descending order of the sort key.
    pub newest_first: bool,
}

/// A condition on an attribute of a sort key. Strings are compared byte by byte.
#[derive(Clone, Debug, PartialEq)]
pub enum Range {
    /// This value or a higher one.
    AtLeast(Value),
    /// This value or a lower one.
    AtMost(Value),
    /// From the first value to the second one; both are included.
    Between(Value, Value),
    /// A string that begins with this one.
    BeginsWith(Value),
}

/// Some rows of an index or of a table, as readers see them, and the key after which DynamoDB continues.
pub type Part = (Vec<SdkItem>, Option<SdkItem>);

/// The keys whose rows no request answered, and why the last request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// The keys.
    pub keys: Vec<RowKey>,
    /// The error of the last attempt.
    pub error: StoreError,
}

/// The keys of a projection's table.
#[must_use]
pub fn table_keys(rule: &dyn DynProjection) -> Vec<IndexKey> {
    [Some(rule.key()), rule.children()].into_iter().flatten().map(IndexKey::Text).collect()
}

/// The attributes that identify the position of a row in an index, besides the partition key: those of the sort key, then the table's.
#[must_use]
pub fn position_keys(rule: &dyn DynProjection, index: &Index) -> Vec<IndexKey> {
    let mut keys = index.sort.to_vec();
    let known = |keys: &[IndexKey], key: &IndexKey| keys.iter().chain(index.partition).any(|other| other.attribute() == key.attribute());
    for key in table_keys(rule) {
        if !known(&keys, &key) {
            keys.push(key);
        }
    }
    keys
}

/// A row as readers see it, or with the worker's bookkeeping.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadRow {
    /// Its key, and the sort key of a child row.
    pub id: RowId,
    /// The last version of its aggregate that it counts; [`Version::NONE`] if it has none, or if an index does not include it.
    pub version: Version,
    /// Whether its aggregate is parked.
    pub parked: bool,
    /// Its attributes, without the key.
    pub shown: ShownRow,
}

/// An item of a table or an index as readers see it. One that has only its key is an empty row.
///
/// # Errors
/// [`StoreError`] if something else has written to the table.
pub fn read_row(rule: &dyn DynProjection, item: SdkItem, shown: Shown) -> Result<ReadRow, StoreError> {
    let id = RowId { key: key_of(rule, &item)?, child: child_sort(rule, &item) };
    let parked = item.contains_key("parkedAt");
    let empty = || ShownRow { attributes: Attributes::new(), owned: BTreeSet::new() };
    let shown = shown_row(rule, item, shown)?.map_or_else(empty, |(_, row)| row);
    Ok(ReadRow { id, version: version_of(&shown.attributes), parked, shown })
}

fn version_of(attributes: &Attributes) -> Version {
    let version = attributes.get("version").and_then(Value::as_number).and_then(Decimal::to_i128);
    version.and_then(|version| u64::try_from(version).ok()).map_or(Version::NONE, Version)
}

impl ReadRow {
    /// A row put together from what its aggregate owns and from what the aggregates that share it have written.
    #[must_use]
    pub fn of(key: RowKey, home: &HomeRow, shared: &BTreeMap<String, SharedCell>) -> Self {
        let shared = shared.iter().filter_map(|(name, cell)| Some((name.clone(), cell.value.clone()?)));
        let mut attributes: Attributes = shared.collect();
        attributes.extend(home.own.clone());
        let parked = home.parked_at.is_some();
        if home.version > Version::NONE {
            attributes.insert("version".into(), home.version.0.into());
        }
        if parked {
            attributes.insert("parked".into(), true.into());
        }
        Self { id: key.into(), version: home.version, parked, shown: ShownRow { attributes, owned: home.owned.clone() } }
    }

    /// A child row, which has only attributes.
    #[must_use]
    pub fn child(id: RowId, attributes: Attributes) -> Self {
        Self { id, version: Version::NONE, parked: false, shown: ShownRow { attributes, owned: BTreeSet::new() } }
    }

    /// Whether readers see nothing of it: it was parked before its first event, and then unparked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shown.attributes.is_empty()
    }
}

impl Store {
    /// The item of one row; `None` if it does not exist.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get_row(
        &self,
        rule: &dyn DynProjection,
        key: &RowKey,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Option<SdkItem>, StoreError> {
        let get = || {
            let request = GetItemInput::builder().table_name(self.table_of(rule)).set_key(Some(row_key(rule, key.as_str())));
            let request = request.consistent_read(consistency == Consistency::Strong);
            self.dynamo.get_item(request.return_consumed_capacity(ReturnConsumedCapacity::Total))
        };
        let done = self.send_about(("GetItem of a row", Some(rule)), deadline, get).await?;
        self.meter.read_rows(&done.consumed_capacity);
        Ok(done.item.filter(|item| !item.is_empty()))
    }

    /// The items of the rows with these keys, which must differ from each other. Absent rows are left out.
    ///
    /// # Errors
    /// [`Unanswered`] names all keys of which nothing is known, also those that were not asked for any more.
    pub async fn get_rows(
        &self,
        rule: &dyn DynProjection,
        keys: &[RowKey],
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<HashMap<RowKey, SdkItem>, Unanswered> {
        let mut found = HashMap::new();
        let mut batches = keys.chunks(BATCH_GET_KEYS_MAX);
        while let Some(batch) = batches.next() {
            let mut left = batch.to_vec();
            while !left.is_empty() {
                match self.get_batch(rule, &left, consistency, deadline).await {
                    Ok((items, unprocessed)) => {
                        found.extend(items);
                        left = unprocessed;
                    }
                    Err(error) => {
                        left.extend(batches.flatten().cloned());
                        return Err(Unanswered { keys: left, error });
                    }
                }
            }
        }
        Ok(found)
    }

    /// Those items of a batch that DynamoDB answered with, and the keys that it left out.
    async fn get_batch(
        &self,
        rule: &dyn DynProjection,
        keys: &[RowKey],
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<(HashMap<RowKey, SdkItem>, Vec<RowKey>), StoreError> {
        let items = keys.iter().map(|key| row_key(rule, key.as_str())).collect();
        let asked = KeysAndAttributes::builder().set_keys(Some(items)).consistent_read(consistency == Consistency::Strong);
        let (items, left) = self.batch_get(Some(rule), asked.build().expect("keys are given"), deadline).await?;
        let items = items.into_iter().map(|item| key_of(rule, &item).map(|key| (key, item))).collect::<Result<_, _>>()?;
        let left = left.iter().flat_map(|left| &left.keys).map(|key| key_of(rule, key)).collect::<Result<_, _>>()?;
        Ok((items, left))
    }

    /// At most `limit` items of an index, after a position; its attributes are those of [`position_keys`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn query_index(
        &self,
        rule: &dyn DynProjection,
        query: &IndexQuery,
        limit: i32,
        after: Option<SdkItem>,
        deadline: Deadline,
    ) -> Result<Part, StoreError> {
        let send = || {
            let request = query.condition(QueryInput::builder().table_name(self.table_of(rule)));
            let request = request.limit(limit).set_exclusive_start_key(after.clone());
            self.dynamo.query(request.return_consumed_capacity(ReturnConsumedCapacity::Total))
        };
        let done = self.send_about(("Query of an index", Some(rule)), deadline, send).await?;
        self.meter.read_rows(&done.consumed_capacity);
        Ok((done.items.unwrap_or_default(), done.last_evaluated_key))
    }

    /// At most `limit` items of a read model in the order of a scan, after a key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn scan_shown(
        &self,
        rule: &dyn DynProjection,
        limit: i32,
        after: Option<SdkItem>,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Part, StoreError> {
        let scan = || {
            let request = ScanInput::builder().table_name(self.table_of(rule)).limit(limit).set_exclusive_start_key(after.clone());
            let request = request.consistent_read(consistency == Consistency::Strong);
            self.dynamo.scan(request.return_consumed_capacity(ReturnConsumedCapacity::Total))
        };
        let done = self.send_about(("Scan of a read model", Some(rule)), deadline, scan).await?;
        self.meter.read_rows(&done.consumed_capacity);
        Ok((done.items.unwrap_or_default(), done.last_evaluated_key))
    }
}

impl IndexQuery {
    fn condition(&self, request: QueryInputBuilder) -> QueryInputBuilder {
        let mut expression = Expression::default();
        let equal = self.index.partition.iter().zip(&self.partition).chain(self.index.sort.iter().zip(&self.sort));
        let mut terms: Vec<_> =
            equal.map(|(key, value)| format!("{} = {}", expression.name(key.attribute()), expression.value(from_value(value)))).collect();
        if let (Some(key), Some(range)) = (self.index.sort.get(self.sort.len()), &self.range) {
            let name = expression.name(key.attribute());
            let mut value = |value| expression.value(from_value(value));
            terms.push(match range {
                Range::AtLeast(low) => format!("{name} >= {}", value(low)),
                Range::AtMost(high) => format!("{name} <= {}", value(high)),
                Range::Between(low, high) => format!("{name} BETWEEN {} AND {}", value(low), value(high)),
                Range::BeginsWith(prefix) => format!("begins_with({name}, {})", value(prefix)),
            });
        }
        request
            .index_name(self.index.name)
            .key_condition_expression(terms.join(" AND "))
            .set_expression_attribute_names(expression.names())
            .set_expression_attribute_values(expression.values())
            .scan_index_forward(!self.newest_first)
    }
}

/// The key of an item.
///
/// # Errors
/// [`StoreError`] if something else has written to the table.
pub fn key_of(rule: &dyn DynProjection, item: &SdkItem) -> Result<RowKey, StoreError> {
    match item.get(rule.key()) {
        Some(AttributeValue::S(key)) => Ok(RowKey::from(key)),
        _ => Err(foreign_row("its key is not a string")),
    }
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{Change, Projection, Recorded, Refusal, nothing};
    use serde::Deserialize;

    use super::*;

    /// Tasks, each a child row of its list.
    struct Tasks;

    #[derive(Deserialize)]
    enum Event {}

    impl Projection for Tasks {
        type Event = Event;
        const NAME: &str = "tasks";
        const KEY: &str = "list";
        const CHILDREN: Option<&str> = Some("task");

        fn project(&self, _: &Recorded<'_, Event>) -> Result<Change, Refusal> {
            Ok(nothing())
        }
    }

    const OWNER: IndexKey = IndexKey::Text("owner");
    const DUE: IndexKey = IndexKey::Text("due");
    const LIST: IndexKey = IndexKey::Text("list");
    const TASK: IndexKey = IndexKey::Text("task");

    #[test]
    fn the_position_in_an_index_has_each_key_once() {
        let keys = |partition, sort| position_keys(&Tasks, &Index { name: "any", partition, sort, include: &[] });
        assert_eq!(keys(&[OWNER], &[DUE]), [DUE, LIST, TASK]);
        assert_eq!(keys(&[OWNER], &[TASK]), [TASK, LIST]);
        assert_eq!(keys(&[LIST], &[DUE]), [DUE, TASK]);
        assert_eq!(keys(&[OWNER], &[]), [LIST, TASK]);
    }

    #[test]
    fn a_row_without_a_version_and_without_attributes_is_empty() {
        let row = |version| ReadRow::of("a".into(), &HomeRow { version: Version(version), ..HomeRow::default() }, &BTreeMap::new());
        assert!(row(0).is_empty() && !row(1).is_empty());
        assert_eq!(row(1).shown.attributes, [("version".to_owned(), 1_u64.into())].into());
    }

    #[test]
    fn an_index_is_read_forwards_unless_the_newest_come_first() {
        let forward = |newest_first| {
            let index = Index { name: "any", partition: &[OWNER], sort: &[DUE], include: &[] };
            let query = IndexQuery { index, partition: vec!["ann".into()], sort: Vec::new(), range: None, newest_first };
            *query.condition(QueryInput::builder()).get_scan_index_forward()
        };
        assert_eq!([forward(false), forward(true)], [Some(true), Some(false)]);
    }

    #[test]
    fn a_key_is_a_text() {
        let item = |key| SdkItem::from([("list".to_owned(), key)]);
        assert_eq!(key_of(&Tasks, &item(AttributeValue::S("a".to_owned()))), Ok("a".into()));
        assert!(key_of(&Tasks, &item(AttributeValue::N("1".to_owned()))).is_err() && key_of(&Tasks, &SdkItem::new()).is_err());
    }
}
