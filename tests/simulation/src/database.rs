//! DynamoDB as far as the worker uses it: tables, conditional writes, transactions, consistent reads. One call at a time, without delay.
//!
//! The effects of the network and of other callers are in [`crate::network`]. A differential test compares this database with the embedded
//! emulator and a second, independent one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::LazyLock,
};

use aws_sdk_dynamodb::{
    operation::{
        batch_get_item::{BatchGetItemInput, BatchGetItemOutput},
        get_item::{GetItemInput, GetItemOutput},
        put_item::{PutItemInput, PutItemOutput},
        query::{QueryInput, QueryOutput},
        scan::{ScanInput, ScanOutput},
        transact_get_items::{TransactGetItemsInput, TransactGetItemsOutput},
        transact_write_items::{TransactWriteItemsInput, TransactWriteItemsOutput},
        update_item::{UpdateItemInput, UpdateItemOutput},
    },
    types::{
        AttributeValue, CancellationReason, ConditionCheck, Delete, ItemResponse, KeysAndAttributes, Put,
        ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
    },
};

use crate::expression::{self, Bounds, Invalid, Item, Names, Values, holds, key_range, normal, updated, valid};

/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html>
const TRANSACTION_ACTIONS_MAX: usize = 100;

/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html>
const BATCH_GET_KEYS_MAX: usize = 100;

/// The only error of a key that refuses a transaction as a whole instead of cancelling it with a reason.
const EMPTY_KEY: Invalid = Invalid("The AttributeValue for a key attribute cannot contain an empty string value");

/// The key of an item: partition and sort key.
pub type Key = (String, String);

/// All tables.
#[derive(Default)]
pub struct Database {
    tables: HashMap<String, Table>,
    /// The executed transactions, by token.
    tokens: HashMap<String, Vec<TransactWriteItem>>,
    /// The writes that nobody has taken from here yet, in order.
    pub changes: Vec<Written>,
    /// The number of writes.
    written: usize,
    /// The items that the last write replaced.
    last: Vec<(String, Key, Option<Item>)>,
    /// The most items in a page of an answer.
    pub page_items_max: usize,
    /// Whether a parallel scan finds the items of one partition key in several segments: AWS does not promise otherwise.
    pub segments_split: bool,
}

/// Items by key.
pub struct Table {
    partition: &'static str,
    sort: Option<&'static str>,
    items: BTreeMap<Key, Item>,
}

/// Table, key, the item before and after.
pub type ItemWritten = (String, Key, Option<Item>, Option<Item>);

/// Items that one call wrote.
pub struct Written {
    /// All of them.
    pub items: Vec<ItemWritten>,
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Refused {
    /// `ConditionalCheckFailedException`, with the item if it was requested.
    Condition(Option<Item>),
    /// `ValidationException`.
    Invalid(Invalid),
    /// `TransactionCanceledException`.
    Canceled(Vec<CancellationReason>),
    /// `IdempotentParameterMismatchException`.
    OtherParameters,
    /// `ResourceNotFoundException`.
    NoTable,
}

impl From<Invalid> for Refused {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

/// A write of one item, by itself or in a transaction.
struct Change {
    table: String,
    key: Key,
    after: Option<Item>,
}

impl Database {
    /// An empty table.
    pub fn create_table(&mut self, name: &str, partition: &'static str, sort: Option<&'static str>) {
        self.page_items_max = usize::MAX;
        self.tables.insert(name.to_owned(), Table { partition, sort, items: BTreeMap::new() });
    }

    /// The items of a table, in the order of their keys.
    ///
    /// # Panics
    /// If the table does not exist.
    pub fn items(&self, table: &str) -> impl Iterator<Item = (&Key, &Item)> {
        self.tables[table].items.iter()
    }

    /// One item.
    ///
    /// # Panics
    /// If the table does not exist.
    #[must_use]
    pub fn item(&self, table: &str, key: &Key) -> Option<&Item> {
        self.tables[table].items.get(key)
    }

    /// Puts or deletes an item without a request.
    ///
    /// # Panics
    /// If the table does not exist.
    pub fn set(&mut self, table: &str, key: Key, item: Option<Item>) {
        self.write(vec![Change { table: table.to_owned(), key, after: item }]);
    }

    /// Undoes the last write, or redoes it, so that a read can answer without having seen it.
    fn swap_last(&mut self) {
        for (table, key, item) in &mut self.last {
            let rows = &mut self.tables.get_mut(table).expect("the write was made to a table").items;
            let other = match item.take() {
                Some(before) => rows.insert(key.clone(), before),
                None => rows.remove(key),
            };
            *item = other;
        }
    }

    /// The answer of a read that has not seen the last write.
    pub fn before_last<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        self.swap_last();
        let answer = read(self);
        self.swap_last();
        answer
    }

    /// The number of writes.
    #[must_use]
    pub fn written(&self) -> usize {
        self.written
    }

    fn table(&self, name: Option<&str>) -> Result<&Table, Refused> {
        self.tables.get(name.unwrap_or_default()).ok_or(Refused::NoTable)
    }

    fn write(&mut self, changes: Vec<Change>) {
        let mut items = Vec::with_capacity(changes.len());
        for Change { table, key, after } in changes {
            let rows = &mut self.tables.get_mut(&table).expect("the change was made for a table").items;
            let before = match &after {
                Some(item) => rows.insert(key.clone(), item.clone()),
                None => rows.remove(&key),
            };
            items.push((table, key, before, after));
        }
        self.written += 1;
        self.last = items.iter().map(|(table, key, before, _)| (table.clone(), key.clone(), before.clone())).collect();
        self.changes.push(Written { items });
    }

    /// # Errors
    /// [`Refused`].
    pub fn update_item(&mut self, input: &UpdateItemInput) -> Result<UpdateItemOutput, Refused> {
        let update = Update::builder()
            .set_table_name(input.table_name.clone())
            .set_key(input.key.clone())
            .set_update_expression(Some(input.update_expression.clone().unwrap_or_default()))
            .set_condition_expression(input.condition_expression.clone())
            .set_expression_attribute_names(input.expression_attribute_names.clone())
            .set_expression_attribute_values(input.expression_attribute_values.clone())
            .set_return_values_on_condition_check_failure(input.return_values_on_condition_check_failure.clone())
            .build();
        let update = update.map_err(|_| Invalid("a required member is missing"))?;
        check_update(&update)?;
        let (names, values) = placeholders(input.expression_attribute_names.as_ref(), input.expression_attribute_values.as_ref());
        // In a transaction the table and the condition are checked first.
        expression::check_update(&update.update_expression, names, values)?;
        let change = self.update(&update)?;
        self.write(vec![change]);
        Ok(UpdateItemOutput::builder().build())
    }

    /// # Errors
    /// [`Refused`].
    pub fn put_item(&mut self, input: &PutItemInput) -> Result<PutItemOutput, Refused> {
        let put = Put::builder()
            .set_table_name(input.table_name.clone())
            .set_item(input.item.clone())
            .set_condition_expression(input.condition_expression.clone())
            .set_expression_attribute_names(input.expression_attribute_names.clone())
            .set_expression_attribute_values(input.expression_attribute_values.clone())
            .set_return_values_on_condition_check_failure(input.return_values_on_condition_check_failure.clone())
            .build();
        let put = put.map_err(|_| Invalid("a required member is missing"))?;
        check_put(&put)?;
        let change = self.put(&put)?;
        self.write(vec![change]);
        Ok(PutItemOutput::builder().build())
    }

    /// All of it or nothing. A token that was seen before with the same actions does nothing more.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn transact_write_items(&mut self, input: &TransactWriteItemsInput) -> Result<TransactWriteItemsOutput, Refused> {
        let done = TransactWriteItemsOutput::builder().build();
        let actions = input.transact_items();
        if actions.is_empty() || actions.len() > TRANSACTION_ACTIONS_MAX {
            return Err(Invalid("a transaction has 1 to 100 actions").into());
        }
        if let Some(token) = &input.client_request_token
            && let Some(seen) = self.tokens.get(token)
        {
            return if seen == actions { Ok(done) } else { Err(Refused::OtherParameters) };
        }
        actions.iter().try_for_each(check_action)?;
        let mut targets = HashSet::new();
        for action in actions {
            if let (table, Some(key)) = self.target(action)?
                && !targets.insert((table, key))
            {
                return Err(Invalid("Transaction request cannot include multiple operations on one item").into());
            }
        }
        let (mut changes, mut reasons, mut held) = (Vec::new(), Vec::new(), 0);
        for action in actions {
            let change = match (&action.update, &action.put, &action.delete, &action.condition_check) {
                (Some(update), None, None, None) => self.update(update).map(Some),
                (None, Some(put), None, None) => self.put(put).map(Some),
                (None, None, Some(delete), None) => self.delete(delete).map(Some),
                (None, None, None, Some(check)) => self.condition_check(check).map(|()| None),
                _ => return Err(Invalid("an action this database does not know").into()),
            };
            reasons.push(match change {
                Ok(change) => {
                    held += 1;
                    changes.extend(change);
                    CancellationReason::builder().code("None").build()
                }
                Err(Refused::Condition(item)) => CancellationReason::builder().code("ConditionalCheckFailed").set_item(item).build(),
                Err(Refused::Invalid(EMPTY_KEY)) => return Err(EMPTY_KEY.into()),
                Err(Refused::Invalid(Invalid(why))) => CancellationReason::builder().code("ValidationError").message(why).build(),
                Err(other) => return Err(other),
            });
        }
        if held < actions.len() {
            return Err(Refused::Canceled(reasons));
        }
        self.write(changes);
        if let Some(token) = &input.client_request_token {
            self.tokens.insert(token.clone(), actions.to_vec());
        }
        Ok(done)
    }

    /// The item of an action, if its key has a value of any type. A key of the wrong type is found later, as an error of the action.
    fn target<'a>(&self, action: &'a TransactWriteItem) -> Result<(&'a str, Option<[&'a str; 2]>), Refused> {
        let (name, item) = match (&action.update, &action.put, &action.delete, &action.condition_check) {
            (Some(update), ..) => (&update.table_name, &update.key),
            (_, Some(put), ..) => (&put.table_name, &put.item),
            (_, _, Some(delete), _) => (&delete.table_name, &delete.key),
            (.., Some(check)) => (&check.table_name, &check.key),
            _ => return Err(Invalid("an action this database does not know").into()),
        };
        let table = self.table(Some(name))?;
        let text = |name: &str| match item.get(name) {
            Some(AttributeValue::S(text) | AttributeValue::N(text)) => Some(text.as_str()),
            _ => None,
        };
        let sort = table.sort.map_or(Some(""), text);
        Ok((name, text(table.partition).zip(sort).map(|(partition, sort)| [partition, sort])))
    }

    fn update(&self, update: &Update) -> Result<Change, Refused> {
        let table = self.table(Some(&update.table_name))?;
        let key = table.exact_key(&update.key)?;
        let (names, values) = placeholders(update.expression_attribute_names.as_ref(), update.expression_attribute_values.as_ref());
        let before = table.items.get(&key);
        check(update.condition_expression.as_deref(), before, (names, values), update.return_values_on_condition_check_failure.as_ref())?;
        let keys = [Some(table.partition), table.sort];
        let after = updated(&update.update_expression, before.unwrap_or(&update.key), keys, names, values)?;
        let after = after.into_iter().map(|(name, value)| (name, normal(value))).collect();
        Ok(Change { table: update.table_name.clone(), key, after: Some(after) })
    }

    fn put(&self, put: &Put) -> Result<Change, Refused> {
        let table = self.table(Some(&put.table_name))?;
        let key = table.key(&put.item)?;
        let (names, values) = placeholders(put.expression_attribute_names.as_ref(), put.expression_attribute_values.as_ref());
        let before = table.items.get(&key);
        check(put.condition_expression.as_deref(), before, (names, values), put.return_values_on_condition_check_failure.as_ref())?;
        let after = put.item.clone().into_iter().map(|(name, value)| (name, normal(value))).collect();
        Ok(Change { table: put.table_name.clone(), key, after: Some(after) })
    }

    fn delete(&self, delete: &Delete) -> Result<Change, Refused> {
        let table = self.table(Some(&delete.table_name))?;
        let key = table.exact_key(&delete.key)?;
        let (names, values) = placeholders(delete.expression_attribute_names.as_ref(), delete.expression_attribute_values.as_ref());
        let before = table.items.get(&key);
        check(delete.condition_expression.as_deref(), before, (names, values), delete.return_values_on_condition_check_failure.as_ref())?;
        Ok(Change { table: delete.table_name.clone(), key, after: None })
    }

    fn condition_check(&self, of: &ConditionCheck) -> Result<(), Refused> {
        let table = self.table(Some(&of.table_name))?;
        let before = table.items.get(&table.exact_key(&of.key)?);
        let placeholders = placeholders(of.expression_attribute_names.as_ref(), of.expression_attribute_values.as_ref());
        check(Some(&of.condition_expression), before, placeholders, of.return_values_on_condition_check_failure.as_ref())
    }

    /// # Errors
    /// [`Refused`].
    pub fn get_item(&self, input: &GetItemInput) -> Result<GetItemOutput, Refused> {
        let table = self.table(input.table_name.as_deref())?;
        let key = table.exact_key(input.key.as_ref().ok_or(Invalid("the key is missing"))?)?;
        Ok(GetItemOutput::builder().set_item(table.items.get(&key).cloned()).build())
    }

    /// Reads at most [`page_items_max`](Self::page_items_max) of the keys; the others come back as unprocessed.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn batch_get_item(&self, input: &BatchGetItemInput) -> Result<BatchGetItemOutput, Refused> {
        let keys = input.request_items.iter().flatten().map(|(_, wanted)| wanted.keys.len()).sum::<usize>();
        if keys == 0 || keys > BATCH_GET_KEYS_MAX {
            return Err(Invalid("a BatchGetItem has 1 to 100 keys").into());
        }
        let twice = |keys: &[Item]| (1..keys.len()).any(|at| keys[..at].contains(&keys[at]));
        if input.request_items.iter().flatten().any(|(_, wanted)| twice(&wanted.keys)) {
            return Err(Invalid("Provided list of item keys contains duplicates").into());
        }
        let (mut responses, mut unprocessed) = (HashMap::<String, Vec<Item>>::new(), HashMap::new());
        for (name, wanted) in input.request_items.iter().flatten() {
            let table = self.table(Some(name))?;
            let items = responses.entry(name.clone()).or_default();
            let keys = wanted.keys.iter().map(|key| table.exact_key(key)).collect::<Result<Vec<_>, _>>()?;
            items.extend(keys.iter().take(self.page_items_max).filter_map(|key| table.items.get(key)).cloned());
            if let Some(left) = wanted.keys.get(self.page_items_max..).filter(|left| !left.is_empty()) {
                let left = KeysAndAttributes::builder().set_keys(Some(left.to_vec())).set_consistent_read(wanted.consistent_read);
                unprocessed.insert(name.clone(), left.build().expect("keys are given"));
            }
        }
        Ok(BatchGetItemOutput::builder().set_responses(Some(responses)).set_unprocessed_keys(Some(unprocessed)).build())
    }

    /// # Errors
    /// [`Refused`].
    pub fn transact_get_items(&self, input: &TransactGetItemsInput) -> Result<TransactGetItemsOutput, Refused> {
        let gets: Vec<_> = input.transact_items().iter().filter_map(|item| item.get.as_ref()).collect();
        if gets.is_empty() || gets.len() > TRANSACTION_ACTIONS_MAX {
            return Err(Invalid("a transaction has 1 to 100 actions").into());
        }
        let mut keys = Vec::with_capacity(gets.len());
        for get in &gets {
            keys.push((&get.table_name, self.table(Some(&get.table_name))?.exact_key(&get.key)?));
        }
        if (1..keys.len()).any(|at| keys[..at].contains(&keys[at])) {
            return Err(Invalid("a transaction cannot contain an item twice").into());
        }
        let found =
            keys.into_iter().map(|(table, key)| ItemResponse::builder().set_item(self.tables[table].items.get(&key).cloned()).build());
        Ok(TransactGetItemsOutput::builder().set_responses(Some(found.collect())).build())
    }

    /// # Errors
    /// [`Refused`].
    pub fn query(&self, input: &QueryInput) -> Result<QueryOutput, Refused> {
        if input.limit.is_some_and(|limit| limit < 1) {
            return Err(Invalid("a limit is at least 1").into());
        }
        let table = self.table(input.table_name.as_deref())?;
        let (names, values) = placeholders(input.expression_attribute_names.as_ref(), input.expression_attribute_values.as_ref());
        let condition = input.key_condition_expression.as_deref().unwrap_or_default();
        expression::check(None, Some(condition), names, values)?;
        let (partition, bounds) = key_range(condition, (table.partition, table.sort), names, values)?;
        if let Bounds::Between(low, high) = bounds
            && low > high
        {
            return Err(Invalid("The BETWEEN operator requires upper bound to be greater than or equal to lower bound").into());
        }
        let in_bounds = |sort: &str| match bounds {
            Bounds::All => true,
            Bounds::Above(low) => sort > low,
            Bounds::Between(low, high) => (low..=high).contains(&sort),
        };
        // No string sorts between a partition's key and the same key with a null character.
        let (first, beyond) = ((partition.to_owned(), String::new()), (format!("{partition}\0"), String::new()));
        let items = table.items.range(first..beyond).filter(|(key, _)| in_bounds(&key.1));
        let start = input.exclusive_start_key.as_ref();
        let (items, last) = if input.scan_index_forward == Some(false) {
            self.page(table, items.rev(), input.limit, start, |key, start| key < start)?
        } else {
            self.page(table, items, input.limit, start, |key, start| key > start)?
        };
        Ok(QueryOutput::builder().set_items(Some(items)).set_last_evaluated_key(last).build())
    }

    /// # Errors
    /// [`Refused`].
    pub fn scan(&self, input: &ScanInput) -> Result<ScanOutput, Refused> {
        let table = self.table(input.table_name.as_deref())?;
        let segment = match (input.segment, input.total_segments) {
            (None, None) => (0, 1),
            (Some(segment), Some(of)) if (0..of).contains(&segment) && of <= 1_000_000 => (segment, of),
            _ => return Err(Invalid("a segment is one of TotalSegments").into()),
        };
        let within = |(key, _): &(&Key, &Item)| {
            let hashed = key.0.bytes().chain(key.1.bytes().filter(|_| self.segments_split)).map(i32::from).sum::<i32>();
            hashed % segment.1 == segment.0
        };
        let (items, last) =
            self.page(table, table.items.iter().filter(within), input.limit, input.exclusive_start_key.as_ref(), |key, start| key > start)?;
        Ok(ScanOutput::builder().set_items(Some(items)).set_last_evaluated_key(last).build())
    }

    fn page<'a>(
        &self,
        table: &Table,
        items: impl Iterator<Item = (&'a Key, &'a Item)>,
        limit: Option<i32>,
        after: Option<&Item>,
        beyond: fn(&Key, &Key) -> bool,
    ) -> Result<(Vec<Item>, Option<Item>), Refused> {
        let after = after.map(|key| table.exact_key(key)).transpose()?;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX).min(self.page_items_max);
        let mut items = items.filter(|(key, _)| after.as_ref().is_none_or(|after| beyond(key, after)));
        let page: Vec<_> = items.by_ref().take(limit).collect();
        // DynamoDB stops at the limit without checking whether anything follows.
        let last = page.last().filter(|_| page.len() == limit).map(|(key, _)| table.key_item(key));
        Ok((page.into_iter().map(|(_, item)| item.clone()).collect(), last))
    }
}

fn check_action(action: &TransactWriteItem) -> Result<(), Invalid> {
    match (&action.update, &action.put, &action.delete, &action.condition_check) {
        (Some(update), None, None, None) => check_update(update),
        (None, Some(put), None, None) => check_put(put),
        (None, None, Some(delete), None) => check_delete(delete),
        (None, None, None, Some(check)) => check_condition(check),
        _ => Err(Invalid("an action this database does not know")),
    }
}

fn check_update(update: &Update) -> Result<(), Invalid> {
    let (names, values) = placeholders(update.expression_attribute_names.as_ref(), update.expression_attribute_values.as_ref());
    expression::check(Some(&update.update_expression), update.condition_expression.as_deref(), names, values)
}

fn check_put(put: &Put) -> Result<(), Invalid> {
    put.item.values().try_for_each(valid)?;
    let (names, values) = placeholders(put.expression_attribute_names.as_ref(), put.expression_attribute_values.as_ref());
    expression::check(None, put.condition_expression.as_deref(), names, values)
}

fn check_delete(delete: &Delete) -> Result<(), Invalid> {
    let (names, values) = placeholders(delete.expression_attribute_names.as_ref(), delete.expression_attribute_values.as_ref());
    expression::check(None, delete.condition_expression.as_deref(), names, values)
}

fn check_condition(check: &ConditionCheck) -> Result<(), Invalid> {
    let (names, values) = placeholders(check.expression_attribute_names.as_ref(), check.expression_attribute_values.as_ref());
    expression::check(None, Some(&check.condition_expression), names, values)
}

/// The values of an expression's placeholders. No map means no placeholders.
fn placeholders<'a>(names: Option<&'a Names>, values: Option<&'a Values>) -> (&'a Names, &'a Values) {
    static NO_NAMES: LazyLock<Names> = LazyLock::new(Names::new);
    static NO_VALUES: LazyLock<Values> = LazyLock::new(Values::new);
    (names.unwrap_or(&NO_NAMES), values.unwrap_or(&NO_VALUES))
}

fn check(
    condition: Option<&str>,
    item: Option<&Item>,
    (names, values): (&Names, &Values),
    returned: Option<&ReturnValuesOnConditionCheckFailure>,
) -> Result<(), Refused> {
    match condition {
        Some(condition) if !holds(condition, item, names, values)? => {
            let all_old = returned == Some(&ReturnValuesOnConditionCheckFailure::AllOld);
            Err(Refused::Condition(item.filter(|_| all_old).cloned()))
        }
        _ => Ok(()),
    }
}

impl Table {
    /// The key within an item.
    fn key(&self, item: &Item) -> Result<Key, Invalid> {
        let text = |name: &str| match item.get(name) {
            Some(AttributeValue::S(text)) if text.is_empty() => Err(EMPTY_KEY),
            Some(AttributeValue::S(text)) => Ok(text.clone()),
            _ => Err(Invalid("One or more parameter values were invalid: the key is missing or of another type")),
        };
        Ok((text(self.partition)?, self.sort.map_or_else(|| Ok(String::new()), text)?))
    }

    /// The key of an item that consists of its key alone.
    fn exact_key(&self, key: &Item) -> Result<Key, Invalid> {
        if key.len() == 1 + usize::from(self.sort.is_some()) {
            self.key(key)
        } else {
            Err(Invalid("The provided key element does not match the schema"))
        }
    }

    fn key_item(&self, (partition, sort): &Key) -> Item {
        let partition = (self.partition.to_owned(), AttributeValue::S(partition.clone()));
        let sort = self.sort.map(|name| (name.to_owned(), AttributeValue::S(sort.clone())));
        std::iter::once(partition).chain(sort).collect()
    }
}
