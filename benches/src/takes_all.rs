//! A DynamoDB that takes every update at once, without the SDK: what is left is the worker's own work.

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::{self, update_item::UpdateItemOutput},
};
use projection_worker::internals::store::{Answer, Dynamo};

/// The DynamoDB. Only blind updates are sent to it: those of rows without shared ones.
pub struct TakesAll;

/// The calls that are never made.
macro_rules! never {
    ($($call:ident($input:ident) -> $output:ident | $error:ident;)*) => {
        $(
            fn $call(&self, _: operation::$call::builders::$input)
                -> Answer<'_, operation::$call::$output, operation::$call::$error> {
                unreachable!("blind updates are all that this batch needs")
            }
        )*
    };
}

impl Dynamo for TakesAll {
    fn update_item(
        &self,
        input: operation::update_item::builders::UpdateItemInputBuilder,
    ) -> Answer<'_, UpdateItemOutput, operation::update_item::UpdateItemError> {
        let built = input.build().map_err(SdkError::construction_failure);
        Box::pin(async { built.map(|_| UpdateItemOutput::builder().build()) })
    }

    never! {
        batch_get_item(BatchGetItemInputBuilder) -> BatchGetItemOutput | BatchGetItemError;
        get_item(GetItemInputBuilder) -> GetItemOutput | GetItemError;
        put_item(PutItemInputBuilder) -> PutItemOutput | PutItemError;
        query(QueryInputBuilder) -> QueryOutput | QueryError;
        scan(ScanInputBuilder) -> ScanOutput | ScanError;
        transact_get_items(TransactGetItemsInputBuilder) -> TransactGetItemsOutput | TransactGetItemsError;
        transact_write_items(TransactWriteItemsInputBuilder) -> TransactWriteItemsOutput | TransactWriteItemsError;
    }
}
