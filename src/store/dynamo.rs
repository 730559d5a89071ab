//! The DynamoDB calls that the worker makes, in the SDK's own types.
//!
//! The worker reaches DynamoDB only through this trait, and only the network lies behind it. So a simulation that answers these calls
//! runs the whole worker, including its retries and its expressions.

use aws_sdk_dynamodb::{Client, error::SdkError, operation};
use futures::future::BoxFuture;

/// The result of a call: the SDK's output or its error, unchanged.
pub type Answer<'a, T, E> = BoxFuture<'a, Result<T, SdkError<E>>>;

macro_rules! calls {
    ($($call:ident($input:ident) -> $output:ident | $error:ident;)*) => {
        /// A DynamoDB. The SDK's [`Client`] is one; its own retries must be off (the worker has its own).
        pub trait Dynamo: Send + Sync {
            $(
                #[doc = concat!("Sends one `", stringify!($call), "`.")]
                fn $call(&self, input: operation::$call::builders::$input)
                    -> Answer<'_, operation::$call::$output, operation::$call::$error>;
            )*

            /// The client, for calls that only operators make: whatever is a call of this trait is in every program, used or not.
            /// What stands in for DynamoDB has none.
            fn client(&self) -> Option<&Client> {
                None
            }
        }

        impl Dynamo for Client {
            $(
                fn $call(&self, input: operation::$call::builders::$input)
                    -> Answer<'_, operation::$call::$output, operation::$call::$error> {
                    Box::pin(input.send_with(self))
                }
            )*

            fn client(&self) -> Option<&Client> {
                Some(self)
            }
        }
    };
}

calls! {
    batch_get_item(BatchGetItemInputBuilder) -> BatchGetItemOutput | BatchGetItemError;
    get_item(GetItemInputBuilder) -> GetItemOutput | GetItemError;
    put_item(PutItemInputBuilder) -> PutItemOutput | PutItemError;
    query(QueryInputBuilder) -> QueryOutput | QueryError;
    scan(ScanInputBuilder) -> ScanOutput | ScanError;
    transact_get_items(TransactGetItemsInputBuilder) -> TransactGetItemsOutput | TransactGetItemsError;
    transact_write_items(TransactWriteItemsInputBuilder) -> TransactWriteItemsOutput | TransactWriteItemsError;
    update_item(UpdateItemInputBuilder) -> UpdateItemOutput | UpdateItemError;
}
