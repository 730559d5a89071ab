//! The network between the worker and the simulated DynamoDB: every request waits here until the scheduler decides its fate.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_dynamodb::{
    error::{ErrorMetadata, SdkError},
    operation::{
        batch_get_item::{BatchGetItemError, BatchGetItemInput, BatchGetItemOutput, builders::BatchGetItemInputBuilder},
        get_item::{GetItemError, GetItemInput, GetItemOutput, builders::GetItemInputBuilder},
        put_item::{PutItemError, PutItemInput, PutItemOutput, builders::PutItemInputBuilder},
        query::{QueryError, QueryInput, QueryOutput, builders::QueryInputBuilder},
        scan::{ScanError, ScanInput, ScanOutput, builders::ScanInputBuilder},
        transact_get_items::{
            TransactGetItemsError, TransactGetItemsInput, TransactGetItemsOutput, builders::TransactGetItemsInputBuilder,
        },
        transact_write_items::{
            TransactWriteItemsError, TransactWriteItemsInput, TransactWriteItemsOutput, builders::TransactWriteItemsInputBuilder,
        },
        update_item::{UpdateItemError, UpdateItemInput, UpdateItemOutput, builders::UpdateItemInputBuilder},
    },
    types::{
        AttributeValue, CancellationReason,
        error::{
            ConditionalCheckFailedException, IdempotentParameterMismatchException, ResourceNotFoundException, TransactionCanceledException,
        },
    },
};
use aws_smithy_runtime_api::{
    client::{orchestrator::HttpResponse, result::ConnectorError},
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use futures::channel::oneshot;
use projection_worker::internals::store::{Answer, Dynamo};

use crate::{
    database::{Database, Refused},
    expression::Invalid,
    rules::PART,
};

/// The database, and the requests on their way to and from it.
#[derive(Default)]
pub struct Network {
    /// The database.
    pub database: Database,
    /// Requests whose callers have no answer yet, oldest first.
    pub under_way: Vec<Request>,
    sent: u64,
}

/// One request.
pub struct Request {
    /// Requests count from 1.
    pub number: u64,
    /// The caller.
    pub from: Arc<str>,
    /// The request itself.
    pub call: Call,
    /// The database's answer, once the request has arrived.
    pub outcome: Option<Outcome>,
    /// The changes that the database had seen when it answered.
    pub answered_at: usize,
    reply: Option<oneshot::Sender<Reply>>,
}

/// Why a caller gets no answer from the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// No answer in time.
    Timeout,
    /// `ProvisionedThroughputExceededException`.
    Throttled,
    /// `InternalServerError`.
    Server,
    /// `TransactionConflictException`.
    Conflict,
    /// `AccessDeniedException`, which is permanent.
    Denied,
}

enum Reply {
    Answer(Box<Outcome>),
    Lost(Loss),
}

macro_rules! calls {
    ($($variant:ident $call:ident $builder:ident $input:ident $output:ident $error:ident;)*) => {
        /// The content of a request.
        #[derive(Clone, Debug)]
        pub enum Call {
            $(#[doc = stringify!($variant)] $variant($input),)*
        }

        /// The database's answer to a request.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Outcome {
            $(#[doc = stringify!($variant)] $variant(Result<$output, Refused>),)*
        }

        impl Call {
            /// The operation's name.
            #[must_use]
            pub fn operation(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => stringify!($variant),)*
                }
            }

            /// Carries it out.
            pub fn apply(&self, database: &mut Database) -> Outcome {
                match self {
                    $(Self::$variant(input) => Outcome::$variant(database.$call(input)),)*
                }
            }
        }

        impl Outcome {
            /// Why it was refused, if it was.
            pub fn refused(&mut self) -> Option<&mut Refused> {
                match self {
                    $(Self::$variant(answer) => answer.as_mut().err(),)*
                }
            }
        }

        impl Outcome {
            /// Whether there are more pages.
            #[must_use]
            pub fn is_partial(&self) -> bool {
                match self {
                    Self::Query(Ok(page)) => page.last_evaluated_key.is_some(),
                    Self::Scan(Ok(page)) => page.last_evaluated_key.is_some(),
                    Self::BatchGetItem(Ok(answer)) => answer.unprocessed_keys.as_ref().is_some_and(|keys| !keys.is_empty()),
                    _ => false,
                }
            }
        }

        impl Dynamo for Line {
            $(
                fn $call(&self, input: $builder) -> Answer<'_, $output, $error> {
                    let answer = self.send(Call::$variant(input.build().expect("the worker gives what is required")));
                    Box::pin(async {
                        match answer.await {
                            Ok(Reply::Answer(outcome)) => match *outcome {
                                Outcome::$variant(answer) => answer.map_err(|refused| refusal(refused)),
                                _ => unreachable!("each request gets its own answer"),
                            },
                            Ok(Reply::Lost(loss)) => Err(lost(loss)),
                            // The run is over.
                            Err(oneshot::Canceled) => std::future::pending().await,
                        }
                    })
                }
            )*
        }
    };
}

calls! {
    BatchGetItem batch_get_item BatchGetItemInputBuilder BatchGetItemInput BatchGetItemOutput BatchGetItemError;
    GetItem get_item GetItemInputBuilder GetItemInput GetItemOutput GetItemError;
    PutItem put_item PutItemInputBuilder PutItemInput PutItemOutput PutItemError;
    Query query QueryInputBuilder QueryInput QueryOutput QueryError;
    Scan scan ScanInputBuilder ScanInput ScanOutput ScanError;
    TransactGetItems transact_get_items TransactGetItemsInputBuilder TransactGetItemsInput TransactGetItemsOutput TransactGetItemsError;
    TransactWriteItems transact_write_items TransactWriteItemsInputBuilder TransactWriteItemsInput TransactWriteItemsOutput
        TransactWriteItemsError;
    UpdateItem update_item UpdateItemInputBuilder UpdateItemInput UpdateItemOutput UpdateItemError;
}

/// One caller's end of the network.
#[derive(Clone)]
pub struct Line {
    network: Arc<Mutex<Network>>,
    name: Arc<str>,
}

impl Line {
    /// The end of the caller of this name.
    #[must_use]
    pub fn new(network: Arc<Mutex<Network>>, name: &str) -> Self {
        Self { network, name: name.into() }
    }

    fn send(&self, call: Call) -> oneshot::Receiver<Reply> {
        let (reply, answer) = oneshot::channel();
        let mut network = lock(&self.network);
        network.sent += 1;
        let (number, from) = (network.sent, self.name.clone());
        network.under_way.push(Request { number, from, call, outcome: None, answered_at: 0, reply: Some(reply) });
        answer
    }
}

/// Locks the network. No process holds the lock while another one runs.
pub fn lock(network: &Mutex<Network>) -> MutexGuard<'_, Network> {
    network.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Delivers a request to the database.
    pub fn arrive(&mut self, at: usize) {
        let request = &mut self.under_way[at];
        request.outcome = Some(request.call.apply(&mut self.database));
        request.answered_at = self.database.written();
    }

    /// Lets a request be answered by a replica that has not seen the last write.
    pub fn arrive_at_replica(&mut self, at: usize) {
        let request = &mut self.under_way[at];
        request.outcome = Some(self.database.before_last(|database| request.call.apply(database)));
        request.answered_at = self.database.written();
    }

    /// Delivers the database's answer to the caller.
    pub fn deliver(&mut self, at: usize) {
        let request = self.under_way.remove(at);
        if let (Some(reply), Some(outcome)) = (request.reply, request.outcome) {
            // The caller may be gone.
            _ = reply.send(Reply::Answer(Box::new(outcome)));
        }
    }

    /// Fails the request for its caller, without the database's answer. The request is no longer under way.
    pub fn lose(&mut self, at: usize, loss: Loss) {
        if let Some(reply) = self.under_way.remove(at).reply {
            _ = reply.send(Reply::Lost(loss));
        }
    }

    /// Cancels a transaction because another one holds one of its items. A single write is refused for that.
    pub fn conflict(&mut self, at: usize, item: usize) {
        let Call::TransactWriteItems(transaction) = &self.under_way[at].call else { return self.lose(at, Loss::Conflict) };
        let actions = transaction.transact_items().len();
        let code = |action| if action == item % actions { "TransactionConflict" } else { "None" };
        let reasons = (0..actions).map(|action| CancellationReason::builder().code(code(action)).build()).collect();
        self.under_way[at].outcome = Some(Outcome::TransactWriteItems(Err(Refused::Canceled(reasons))));
        self.deliver(at);
    }

    /// Lets the caller time out, while the request is still on its way.
    pub fn delay(&mut self, at: usize) {
        if let Some(reply) = self.under_way[at].reply.take() {
            _ = reply.send(Reply::Lost(Loss::Timeout));
        }
    }
}

impl Request {
    /// Whether the caller no longer waits for the answer.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_canceled)
    }

    /// Whether it changes anything.
    #[must_use]
    pub fn writes(&self) -> bool {
        matches!(self.call, Call::PutItem(_) | Call::TransactWriteItems(_) | Call::UpdateItem(_))
    }

    /// Whether it relies on an attribute still being as high as the caller has seen it.
    #[must_use]
    pub fn relies_on_a_maximum(&self) -> bool {
        let Call::TransactWriteItems(transaction) = &self.call else { return false };
        let mut updates = transaction.transact_items().iter().filter_map(|action| action.update.as_ref());
        updates.any(|update| update.condition_expression().is_some_and(|condition| condition.contains(" >= ")))
    }

    /// Whether it deletes items of this table.
    #[must_use]
    pub fn deletes_from(&self, table: &str) -> bool {
        let Call::TransactWriteItems(transaction) = &self.call else { return false };
        transaction.transact_items().iter().any(|action| action.delete.as_ref().is_some_and(|delete| delete.table_name == table))
    }

    /// Whether it corrects sums of a shared row.
    #[must_use]
    pub fn corrects_sums(&self) -> bool {
        let Call::UpdateItem(update) = &self.call else { return false };
        update.expression_attribute_names.iter().flatten().any(|(_, name)| name == "corrected")
    }

    /// Whether a replica may answer it.
    #[must_use]
    pub fn is_eventual(&self) -> bool {
        match &self.call {
            Call::Query(query) => query.consistent_read != Some(true),
            Call::GetItem(get) => get.consistent_read != Some(true),
            Call::Scan(scan) => scan.consistent_read != Some(true),
            Call::BatchGetItem(get) => get.request_items.iter().flatten().any(|(_, keys)| keys.consistent_read != Some(true)),
            _ => false,
        }
    }

    /// Whether it writes to this table.
    #[must_use]
    pub fn writes_to(&self, table: &str) -> bool {
        match &self.call {
            Call::TransactWriteItems(transaction) => transaction.transact_items().iter().any(|action| {
                let tables = [
                    action.update.as_ref().map(|update| &update.table_name),
                    action.put.as_ref().map(|put| &put.table_name),
                    action.delete.as_ref().map(|delete| &delete.table_name),
                    action.condition_check.as_ref().map(|check| &check.table_name),
                ];
                tables.into_iter().flatten().any(|name| name == table)
            }),
            _ => false,
        }
    }

    /// A description of it in one line.
    #[must_use]
    pub fn text(&self) -> String {
        let detail = match &self.call {
            Call::UpdateItem(update) => {
                let (names, values) = (update.expression_attribute_names.as_ref(), update.expression_attribute_values.as_ref());
                let expression = plain(update.update_expression.as_deref().unwrap_or_default(), names, values);
                let condition = update.condition_expression.as_deref().map(|condition| format!("IF {}", plain(condition, names, values)));
                format!(
                    "{}/{} {expression}{}",
                    text(update.table_name.as_deref()),
                    keys(update.key.as_ref()),
                    condition.unwrap_or_default()
                )
            }
            Call::TransactWriteItems(transaction) => transaction
                .transact_items()
                .iter()
                .map(|action| match (&action.update, &action.put, &action.delete) {
                    (Some(update), ..) => {
                        let (names, values) = (update.expression_attribute_names.as_ref(), update.expression_attribute_values.as_ref());
                        let expression = plain(&update.update_expression, names, values);
                        let condition = update.condition_expression.as_deref();
                        let condition = condition.map(|condition| format!("IF {}", plain(condition, names, values))).unwrap_or_default();
                        format!("[{}/{} {expression}{condition}]", update.table_name, keys(Some(&update.key)))
                    }
                    (_, Some(put), _) => {
                        let keys: Vec<_> = ["id", "SK", PART].into_iter().filter_map(|name| put.item.get(name)).map(shown).collect();
                        format!("[put {}/{}]", put.table_name, keys.join("/"))
                    }
                    (.., Some(delete)) => format!("[delete {}/{}]", delete.table_name, keys(Some(&delete.key))),
                    _ => String::new(),
                })
                .collect::<Vec<_>>()
                .join(" "),
            Call::Query(query) => {
                let condition = query.key_condition_expression.as_deref().unwrap_or_default();
                format!(
                    "{} {}",
                    text(query.table_name.as_deref()),
                    plain(condition, query.expression_attribute_names.as_ref(), query.expression_attribute_values.as_ref())
                )
            }
            Call::BatchGetItem(get) => {
                let keys_of = |(table, wanted): (&String, &aws_sdk_dynamodb::types::KeysAndAttributes)| {
                    format!("{table}/{}", wanted.keys.iter().map(|key| keys(Some(key))).collect::<Vec<_>>().join(","))
                };
                get.request_items.iter().flatten().map(keys_of).collect()
            }
            Call::TransactGetItems(transaction) => {
                let gets = transaction.transact_items().iter().filter_map(|item| item.get.as_ref());
                gets.map(|get| format!("[{}/{}]", get.table_name, keys(Some(&get.key)))).collect::<Vec<_>>().join(" ")
            }
            Call::GetItem(get) => format!("{}/{}", text(get.table_name.as_deref()), keys(get.key.as_ref())),
            Call::PutItem(put) => text(put.table_name.as_deref()).to_owned(),
            Call::Scan(scan) => text(scan.table_name.as_deref()).to_owned(),
        };
        format!("{} #{} {} {detail}", self.from, self.number, self.call.operation())
    }
}

fn text(text: Option<&str>) -> &str {
    text.unwrap_or_default()
}

fn keys(key: Option<&crate::expression::Item>) -> String {
    let mut values: Vec<_> = key.into_iter().flatten().map(|(name, value)| (name, shown(value))).collect();
    values.sort();
    values.into_iter().map(|(_, value)| value).collect::<Vec<_>>().join("/")
}

/// A value as a trace shows it.
#[must_use]
pub fn shown(value: &AttributeValue) -> String {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text.clone(),
        AttributeValue::Ss(texts) => format!("{texts:?}"),
        other => format!("{other:?}"),
    }
}

/// An expression with its placeholders filled in.
fn plain(expression: &str, names: Option<&crate::expression::Names>, values: Option<&crate::expression::Values>) -> String {
    let fill = |word: &str| {
        let bare = word.trim_matches(|c| "(),".contains(c));
        let filled = names.and_then(|names| names.get(bare).cloned()).or_else(|| values.and_then(|values| values.get(bare).map(shown)));
        filled.map_or_else(|| word.to_owned(), |filled| word.replace(bare, &filled))
    };
    expression.split(' ').map(fill).collect::<Vec<_>>().join(" ")
}

/// The error of an operation for an answer of the database.
trait OfRefusal: Sized {
    fn condition(_: ConditionalCheckFailedException) -> Self {
        unreachable!("this operation has no condition")
    }
    fn canceled(_: TransactionCanceledException) -> Self {
        unreachable!("this operation is not a transaction")
    }
    fn other_parameters(_: IdempotentParameterMismatchException) -> Self {
        unreachable!("this operation has no token")
    }
    fn no_table(error: ResourceNotFoundException) -> Self;
    fn other(metadata: ErrorMetadata) -> Self;
}

macro_rules! of_refusal {
    ($($error:ident { $($method:ident $variant:ident $type:ident),* })*) => {
        $(impl OfRefusal for $error {
            $(fn $method(error: $type) -> Self {
                Self::$variant(error)
            })*

            fn no_table(error: ResourceNotFoundException) -> Self {
                Self::ResourceNotFoundException(error)
            }

            fn other(metadata: ErrorMetadata) -> Self {
                Self::generic(metadata)
            }
        })*
    };
}

of_refusal! {
    BatchGetItemError {}
    GetItemError {}
    QueryError {}
    ScanError {}
    TransactGetItemsError {}
    PutItemError { condition ConditionalCheckFailedException ConditionalCheckFailedException }
    UpdateItemError { condition ConditionalCheckFailedException ConditionalCheckFailedException }
    TransactWriteItemsError {
        canceled TransactionCanceledException TransactionCanceledException,
        other_parameters IdempotentParameterMismatchException IdempotentParameterMismatchException
    }
}

fn refusal<E: OfRefusal>(refused: Refused) -> SdkError<E> {
    let message = "as simulated";
    service_error(
        400,
        match refused {
            Refused::Condition(item) => E::condition(ConditionalCheckFailedException::builder().message(message).set_item(item).build()),
            Refused::Canceled(reasons) => {
                E::canceled(TransactionCanceledException::builder().message(message).set_cancellation_reasons(Some(reasons)).build())
            }
            Refused::OtherParameters => E::other_parameters(IdempotentParameterMismatchException::builder().message(message).build()),
            Refused::NoTable => E::no_table(ResourceNotFoundException::builder().message(message).build()),
            Refused::Invalid(Invalid(why)) => E::other(ErrorMetadata::builder().code("ValidationException").message(why).build()),
        },
    )
}

fn lost<E: OfRefusal>(loss: Loss) -> SdkError<E> {
    let (status, code) = match loss {
        Loss::Timeout => return SdkError::dispatch_failure(ConnectorError::timeout("no answer in time".into())),
        Loss::Throttled => (400, "ProvisionedThroughputExceededException"),
        Loss::Server => (500, "InternalServerError"),
        Loss::Conflict => (400, "TransactionConflictException"),
        Loss::Denied => (400, "AccessDeniedException"),
    };
    service_error(status, E::other(ErrorMetadata::builder().code(code).build()))
}

fn service_error<E>(status: u16, error: E) -> SdkError<E> {
    let response = HttpResponse::new(StatusCode::try_from(status).expect("a status"), SdkBody::empty());
    SdkError::service_error(error, response)
}
