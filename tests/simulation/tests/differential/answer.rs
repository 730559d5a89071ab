//! One operation, sent to any DynamoDB, and its answer in a comparable form.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        batch_get_item::{BatchGetItemError, BatchGetItemOutput, builders::BatchGetItemInputBuilder},
        get_item::{GetItemError, GetItemOutput, builders::GetItemInputBuilder},
        put_item::{PutItemError, PutItemOutput, builders::PutItemInputBuilder},
        query::{QueryError, QueryOutput, builders::QueryInputBuilder},
        scan::{ScanError, ScanInput, ScanOutput, builders::ScanInputBuilder},
        transact_get_items::{TransactGetItemsError, TransactGetItemsOutput, builders::TransactGetItemsInputBuilder},
        transact_write_items::{TransactWriteItemsError, TransactWriteItemsOutput, builders::TransactWriteItemsInputBuilder},
        update_item::{UpdateItemError, UpdateItemOutput, builders::UpdateItemInputBuilder},
    },
    types::{
        AttributeValue, CancellationReason,
        error::{ConditionalCheckFailedException, IdempotentParameterMismatchException, TransactionCanceledException},
    },
};
use futures::future::BoxFuture;
use projection_worker::internals::store::Dynamo;
use simulation::expression;

/// An item in comparable form.
pub type Item = BTreeMap<String, Shown>;

/// A value in comparable form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// A number, unchanged.
    Number(String),
    /// A sorted set of strings.
    Set(Vec<String>),
    /// A list.
    List(Vec<Shown>),
    /// A map.
    Map(Item),
    /// Anything else.
    Other(String),
}

impl Shown {
    /// A number as DynamoDB writes it.
    pub fn normal(text: &str) -> String {
        match expression::normal(AttributeValue::N(text.to_owned())) {
            AttributeValue::N(text) => text,
            _ => unreachable!("a number stays one"),
        }
    }

    fn map(&self, number: fn(&str) -> String) -> Self {
        match self {
            Self::Number(text) => Self::Number(number(text)),
            Self::List(members) => Self::List(members.iter().map(|member| member.map(number)).collect()),
            Self::Map(members) => Self::Map(map(members, number)),
            other => other.clone(),
        }
    }
}

fn map(item: &Item, number: fn(&str) -> String) -> Item {
    item.iter().map(|(name, value)| (name.clone(), value.map(number))).collect()
}

macro_rules! operations {
    ($($variant:ident $call:ident $input:ident;)*) => {
        /// A request that the worker makes.
        #[derive(Clone, Debug)]
        pub enum Operation {
            $(#[doc = stringify!($variant)] $variant($input),)*
        }

        impl Operation {
            /// DynamoDB's name for it.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => stringify!($variant),)*
                }
            }
        }

        /// Sends a request at once; the future is its answer.
        pub fn ask<'a>(dynamo: &'a dyn Dynamo, operation: &Operation) -> BoxFuture<'a, Reply> {
            match operation.clone() {
                $(Operation::$variant(input) => {
                    let answer = dynamo.$call(input);
                    Box::pin(async { reply(&answer.await) })
                })*
            }
        }
    };
}

operations! {
    BatchGetItem batch_get_item BatchGetItemInputBuilder;
    GetItem get_item GetItemInputBuilder;
    PutItem put_item PutItemInputBuilder;
    Query query QueryInputBuilder;
    Scan scan ScanInputBuilder;
    TransactGetItems transact_get_items TransactGetItemsInputBuilder;
    TransactWriteItems transact_write_items TransactWriteItemsInputBuilder;
    UpdateItem update_item UpdateItemInputBuilder;
}

impl Operation {
    /// The token of a transaction that has one.
    pub fn token(&self) -> Option<&str> {
        match self {
            Self::TransactWriteItems(transaction) => transaction.get_client_request_token().as_deref(),
            _ => None,
        }
    }
}

/// The answer of a DynamoDB, without the texts of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Success without a result.
    Written,
    /// `GetItem`.
    Found(Option<Item>),
    /// `TransactGetItems`, in order.
    Together(Vec<Option<Item>>),
    /// `Query`, in order, and the last key evaluated.
    Page(Vec<Item>, Option<Item>),
    /// `Scan`, in no order: each implementation has its own.
    Scanned(Vec<Item>, bool),
    /// `BatchGetItem`: the items by table, in no order, and how many keys were left.
    Batch(BTreeMap<String, Vec<Item>>, usize),
    /// An error: its code, the item that came with it, and each cancellation reason's code and item.
    Refused(String, Option<Item>, Vec<(String, Option<Item>)>),
}

impl Reply {
    /// With every number replaced.
    pub fn map(&self, number: fn(&str) -> String) -> Self {
        let all = |items: &Vec<Item>| items.iter().map(|item| map(item, number)).collect::<Vec<_>>();
        let some = |item: &Option<Item>| item.as_ref().map(|item| map(item, number));
        match self {
            Self::Written => Self::Written,
            Self::Found(item) => Self::Found(some(item)),
            Self::Together(items) => Self::Together(items.iter().map(some).collect()),
            Self::Page(items, last) => Self::Page(all(items), last.clone()),
            Self::Scanned(items, more) => Self::Scanned(ordered(all(items)), *more),
            Self::Batch(tables, left) => {
                Self::Batch(tables.iter().map(|(table, items)| (table.clone(), ordered(all(items)))).collect(), *left)
            }
            Self::Refused(code, item, reasons) => {
                Self::Refused(code.clone(), some(item), reasons.iter().map(|(code, item)| (code.clone(), some(item))).collect())
            }
        }
    }
}

impl Contents {
    /// With every number replaced.
    pub fn map(&self, number: fn(&str) -> String) -> Self {
        Self {
            items: ordered(self.items.iter().map(|item| map(item, number)).collect()),
            pages: self.pages.clone(),
            broken: self.broken.clone(),
        }
    }
}

/// The contents of a table, read page by page: the items in no order, and how many each page had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// All items.
    pub items: Vec<Item>,
    /// The number of items on each page, where the limit determines it.
    pub pages: Vec<usize>,
    /// Why the rest cannot be read: an emulator has accepted an invalid value.
    pub broken: Option<Reply>,
}

/// Enough pages to test paging. One request for each item of a large table would only take time.
const LIMITED_PAGES: usize = 4;

/// Reads a whole table by scans, the first with at most `limit` items.
pub async fn contents<'a>(scan: impl Fn(ScanInputBuilder) -> BoxFuture<'a, Page>, table: &str, limit: Option<i32>) -> Contents {
    let (mut contents, mut from) = (Contents { items: Vec::new(), pages: Vec::new(), broken: None }, None);
    loop {
        let limit = limit.filter(|_| contents.pages.len() < LIMITED_PAGES);
        let request = ScanInput::builder().table_name(table).consistent_read(true).set_limit(limit).set_exclusive_start_key(from);
        let (reply, last) = scan(request).await;
        let Reply::Scanned(items, _) = reply else {
            contents.broken = Some(reply);
            return contents;
        };
        contents.pages.push(items.len());
        contents.items.extend(items);
        from = last;
        if from.is_none() {
            contents.items.sort();
            return contents;
        }
    }
}

/// The answer of a scan, and the last evaluated key in the form of a request.
pub type Page = (Reply, Option<expression::Item>);

/// Sends a scan at once; the future is its answer.
pub fn scan(dynamo: &dyn Dynamo, request: ScanInputBuilder) -> BoxFuture<'_, Page> {
    let answer = dynamo.scan(request);
    Box::pin(async {
        let answer = answer.await;
        let last = answer.as_ref().ok().and_then(|page| page.last_evaluated_key.clone());
        (reply(&answer), last.filter(|last| !last.is_empty()))
    })
}

/// The comparable form of an answer.
pub fn reply<T: Success, E: Failure + std::fmt::Debug>(answer: &Result<T, SdkError<E>>) -> Reply {
    match answer {
        Ok(output) => output.reply(),
        Err(SdkError::ServiceError(error)) => error.err().reply(),
        Err(other) => panic!("not an answer of DynamoDB: {other:?}"),
    }
}

/// A successful answer.
pub trait Success {
    /// In comparable form.
    fn reply(&self) -> Reply;
}

impl Success for PutItemOutput {
    fn reply(&self) -> Reply {
        Reply::Written
    }
}

impl Success for UpdateItemOutput {
    fn reply(&self) -> Reply {
        Reply::Written
    }
}

impl Success for TransactWriteItemsOutput {
    fn reply(&self) -> Reply {
        Reply::Written
    }
}

impl Success for GetItemOutput {
    fn reply(&self) -> Reply {
        Reply::Found(some_item(self.item.as_ref()))
    }
}

impl Success for TransactGetItemsOutput {
    fn reply(&self) -> Reply {
        Reply::Together(self.responses().iter().map(|response| some_item(response.item.as_ref())).collect())
    }
}

impl Success for QueryOutput {
    fn reply(&self) -> Reply {
        Reply::Page(self.items().iter().map(item).collect(), some_item(self.last_evaluated_key.as_ref()))
    }
}

impl Success for ScanOutput {
    fn reply(&self) -> Reply {
        Reply::Scanned(sorted(self.items()), some_item(self.last_evaluated_key.as_ref()).is_some())
    }
}

impl Success for BatchGetItemOutput {
    fn reply(&self) -> Reply {
        let tables = self.responses.iter().flatten().map(|(table, items)| (table.clone(), sorted(items)));
        Reply::Batch(tables.collect(), self.unprocessed_keys.iter().flatten().map(|(_, left)| left.keys.len()).sum())
    }
}

/// An error answer.
pub trait Failure {
    /// In comparable form.
    fn reply(&self) -> Reply;
}

macro_rules! failures {
    ($($error:ident { $($kind:ident)* })*) => {
        $(impl Failure for $error {
            fn reply(&self) -> Reply {
                match self {
                    Self::ResourceNotFoundException(_) => refused("ResourceNotFoundException"),
                    $(Self::$kind(error) => error.reply(),)*
                    other => refused(other.code().unwrap_or("no code")),
                }
            }
        })*
    };
}

failures! {
    BatchGetItemError {}
    GetItemError {}
    QueryError {}
    ScanError {}
    TransactGetItemsError { TransactionCanceledException }
    PutItemError { ConditionalCheckFailedException }
    UpdateItemError { ConditionalCheckFailedException }
    TransactWriteItemsError { TransactionCanceledException IdempotentParameterMismatchException }
}

impl Failure for ConditionalCheckFailedException {
    fn reply(&self) -> Reply {
        Reply::Refused("ConditionalCheckFailedException".to_owned(), some_item(self.item.as_ref()), Vec::new())
    }
}

impl Failure for TransactionCanceledException {
    fn reply(&self) -> Reply {
        let reason = |reason: &CancellationReason| (reason.code().unwrap_or_default().to_owned(), some_item(reason.item.as_ref()));
        Reply::Refused("TransactionCanceledException".to_owned(), None, self.cancellation_reasons().iter().map(reason).collect())
    }
}

impl Failure for IdempotentParameterMismatchException {
    fn reply(&self) -> Reply {
        refused("IdempotentParameterMismatchException")
    }
}

fn refused(code: &str) -> Reply {
    Reply::Refused(code.to_owned(), None, Vec::new())
}

/// An item without attributes means no item, because every item has its key.
fn some_item(found: Option<&expression::Item>) -> Option<Item> {
    found.filter(|found| !found.is_empty()).map(item)
}

fn sorted(items: &[expression::Item]) -> Vec<Item> {
    ordered(items.iter().map(item).collect())
}

fn ordered(mut items: Vec<Item>) -> Vec<Item> {
    items.sort();
    items
}

fn item(item: &expression::Item) -> Item {
    item.iter().map(|(name, value)| (name.clone(), shown(value))).collect()
}

fn shown(value: &AttributeValue) -> Shown {
    match value {
        AttributeValue::N(number) => Shown::Number(number.clone()),
        AttributeValue::Ss(members) => {
            let mut members = members.clone();
            members.sort();
            Shown::Set(members)
        }
        AttributeValue::L(members) => Shown::List(members.iter().map(shown).collect()),
        AttributeValue::M(members) => Shown::Map(item(members)),
        other => Shown::Other(format!("{other:?}")),
    }
}
