//! Translates DynamoDB's JSON protocol into the emulator's typed calls.

use dynoxide::actions::execute_transaction::ExecuteTransactionRequest;
use dynoxide::actions::get_records::GetRecordsRequest;
use dynoxide::actions::transact_write_items::TransactWriteItemsRequest;
use dynoxide::{Database, DynoxideError, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::failure;

/// What to do with a transaction's `ClientRequestToken`. The emulator keeps each for ten minutes and walks them all on every call, so
/// after some thousands of them transactions crawl.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tokens {
    /// Ignore them. The SDK puts one on every transaction, but they only matter to a caller who lost an answer and asks again, and in
    /// process no answer is lost. In a test that drops one on purpose, the second attempt meets its own first, as it would on AWS once
    /// the token has expired.
    Ignored,
    /// Honour them, as AWS does: over HTTP an answer can be lost.
    Honoured,
}

/// The HTTP status and the JSON that answer one request.
pub(super) fn answer(database: &Database, operation: &str, request: &[u8], tokens: Tokens) -> (u16, String) {
    match dispatch(database, operation, request, tokens) {
        Some(Ok(response)) => (200, response),
        Some(Err(error)) => match failure::name(&error) {
            // A client error, so that nobody retries it. Its message stays here: it may quote a path.
            Some(name) => (400, json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{name}") }).to_string()),
            None => (error.status_code(), error.to_json()),
        },
        None => {
            let kind = "com.amazon.coral.service#UnknownOperationException";
            let message = format!("{operation:?} is not part of the embedded database");
            (400, json!({"__type": kind, "message": message}).to_string())
        }
    }
}

/// `None` if the emulator does not support the operation.
fn dispatch(db: &Database, operation: &str, request: &[u8], tokens: Tokens) -> Option<Result<String>> {
    Some(match operation {
        "CreateTable" => call(request, |r| db.create_table(r)),
        "DeleteTable" => call(request, |r| db.delete_table(r)),
        "DescribeTable" => call(request, |r| db.describe_table(r)),
        "ListTables" => call(request, |r| db.list_tables(r)),
        "UpdateTable" => call(request, |r| db.update_table(r)),

        "DeleteItem" => call(request, |r| db.delete_item(r)),
        "GetItem" => call(request, |r| db.get_item(r)),
        "PutItem" => call(request, |r| db.put_item(r)),
        "UpdateItem" => call(request, |r| db.update_item(r)),

        "BatchGetItem" => call(request, |r| db.batch_get_item(r)),
        "BatchWriteItem" => call(request, |r| db.batch_write_item(r)),
        "Query" => call(request, |r| db.query(r)),
        "Scan" => call(request, |r| db.scan(r)),

        "TransactGetItems" => call(request, |r| db.transact_get_items(r)),
        "TransactWriteItems" => call(request, |r| transact_write_items(db, r, tokens)),

        "BatchExecuteStatement" => call(request, |r| db.batch_execute_statement(r)),
        "ExecuteStatement" => call(request, |r| db.execute_statement(r)),
        "ExecuteTransaction" => call(request, |r| execute_transaction(db, r, tokens)),

        "DescribeTimeToLive" => call(request, |r| db.describe_time_to_live(r)),
        "UpdateTimeToLive" => call(request, |r| db.update_time_to_live(r)),

        "ListTagsOfResource" => call(request, |r| db.list_tags_of_resource(r)),
        "TagResource" => call(request, |r| db.tag_resource(r)),
        "UntagResource" => call(request, |r| db.untag_resource(r)),

        "DescribeStream" => call(request, |r| db.describe_stream(r)),
        "GetRecords" => call(request, |r| get_records(db, r)),
        "GetShardIterator" => call(request, |r| db.get_shard_iterator(r)),
        "ListStreams" => call(request, |r| db.list_streams(r)),

        _ => return None,
    })
}

fn call<Q: DeserializeOwned, A: Serialize>(request: &[u8], operation: impl FnOnce(Q) -> Result<A>) -> Result<String> {
    let request = serde_json::from_slice(request).map_err(|error| refusal(&error.to_string()))?;
    let response = operation(request)?;
    serde_json::to_string(&response).map_err(not_json)
}

fn transact_write_items(db: &Database, mut request: TransactWriteItemsRequest, tokens: Tokens) -> Result<impl Serialize> {
    if tokens == Tokens::Ignored {
        request.client_request_token = None;
    }
    db.transact_write_items(request)
}

fn execute_transaction(db: &Database, mut request: ExecuteTransactionRequest, tokens: Tokens) -> Result<impl Serialize> {
    if tokens == Tokens::Ignored {
        request.client_request_token = None;
    }
    db.execute_transaction(request)
}

/// Renames the members of `userIdentity`: the emulator writes `type` and `principalId`, as Lambda does, but the Streams API
/// has `Type` and `PrincipalId`, and the SDK reads only those.
fn get_records(db: &Database, request: GetRecordsRequest) -> Result<Value> {
    let mut response = serde_json::to_value(db.get_records(request)?).map_err(not_json)?;
    let records = response["Records"].as_array_mut();
    for identity in records.into_iter().flatten().filter_map(|record| record.get_mut("userIdentity")) {
        *identity = json!({
            "Type": identity["type"].take(),
            "PrincipalId": identity["principalId"].take(),
        });
    }
    Ok(response)
}

/// DynamoDB's error for a request that cannot be decoded. The emulator names its kind in a prefix of the message. A message
/// without a prefix means a missing field or an unknown variant; both are validation errors.
fn refusal(message: &str) -> DynoxideError {
    // serde_json appends the position; the service does not send one.
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _position)| message);
    if let Some(message) = message.strip_prefix("SERIALIZATION:") {
        return DynoxideError::SerializationException(message.into());
    }
    let message = message.strip_prefix("VALIDATION_REQUEST:").or_else(|| message.strip_prefix("VALIDATION:")).unwrap_or(message);
    DynoxideError::ValidationException(message.into())
}

#[expect(clippy::needless_pass_by_value, reason = "it is a `map_err` function")]
fn not_json(error: serde_json::Error) -> DynoxideError {
    DynoxideError::InternalServerError(error.to_string())
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::Client;
    use aws_sdk_dynamodb::error::ProvideErrorMetadata;
    use aws_sdk_dynamodb::types::{ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};

    use super::super::Embedded;
    use super::super::fixture::{create_table, item, n, s};
    use super::*;

    async fn client_with_table() -> Client {
        let client = Embedded::memory().unwrap().client();
        create_table(&client, "rows", None).await;
        client
    }

    async fn put_amount(client: &Client, pk: &str, amount: &str) {
        let put = client.put_item().table_name("rows");
        let put = put.item("pk", s(pk)).item("amount", n(amount));
        put.send().await.unwrap();
    }

    /// Adds one to an item's amount if that is still `expected`.
    fn add_one_if(pk: &str, expected: &str) -> TransactWriteItem {
        let update = Update::builder()
            .table_name("rows")
            .key("pk", s(pk))
            .update_expression("ADD amount :one")
            .condition_expression("amount = :expected")
            .expression_attribute_values(":one", n("1"))
            .expression_attribute_values(":expected", n(expected))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .unwrap();
        TransactWriteItem::builder().update(update).build()
    }

    #[tokio::test]
    async fn add_is_exact_to_38_digits_and_refuses_more() {
        let client = client_with_table().await;
        put_amount(&client, "a", "12345678901234567890.123456789012345678").await;
        let add = client.update_item().table_name("rows").key("pk", s("a"));
        let add = add.update_expression("ADD amount :more");

        let exact = add.clone().expression_attribute_values(":more", n("87654321098765432109.876543210987654321"));
        exact.send().await.unwrap();
        assert_eq!(item(&client, "rows", "a").await["amount"], n("99999999999999999999.999999999999999999"));

        let too_long = add.expression_attribute_values(":more", n("0.000000000000000000000000000000000000001"));
        let refused = too_long.send().await.unwrap_err();
        assert_eq!(refused.code(), Some("ValidationException"));

        let too_many = "1".repeat(39);
        let put = client.put_item().table_name("rows").item("pk", s("b"));
        let refused = put.item("amount", n(&too_many)).send().await.unwrap_err();
        assert_eq!(refused.code(), Some("ValidationException"));
        assert!(refused.message().unwrap().contains("38 significant digits"), "{refused:?}");
        assert!(!refused.message().unwrap().contains("VALIDATION"));
    }

    #[tokio::test]
    async fn a_failed_condition_returns_the_old_item() {
        let client = client_with_table().await;
        put_amount(&client, "a", "5").await;

        let refused = client
            .put_item()
            .table_name("rows")
            .item("pk", s("a"))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await
            .unwrap_err()
            .into_service_error();
        let aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(failed) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(failed.item().unwrap()["amount"], n("5"));
    }

    #[tokio::test]
    async fn a_cancelled_transaction_gives_each_reason_in_order_with_the_old_item() {
        let client = client_with_table().await;
        put_amount(&client, "a", "1").await;
        put_amount(&client, "b", "2").await;

        let refused = client
            .transact_write_items()
            .transact_items(add_one_if("a", "1"))
            .transact_items(add_one_if("b", "7"))
            .send()
            .await
            .unwrap_err()
            .into_service_error();
        let aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError::TransactionCanceledException(cancelled) = refused
        else {
            panic!("{refused:?}");
        };
        let reasons = cancelled.cancellation_reasons();
        assert_eq!(reasons.len(), 2);
        assert_eq!(reasons[0].code(), Some("None"));
        assert!(reasons[0].item().is_none());
        assert_eq!(reasons[1].code(), Some("ConditionalCheckFailed"));
        assert_eq!(reasons[1].item().unwrap()["amount"], n("2"));
        assert_eq!(item(&client, "rows", "a").await["amount"], n("1"));
    }

    #[tokio::test]
    async fn a_client_request_token_makes_no_difference() {
        let client = client_with_table().await;
        put_amount(&client, "a", "1").await;

        for expected in ["1", "2"] {
            let transact = client.transact_write_items();
            let transact = transact.client_request_token("0123456789abcdef0123456789abcdef");
            let transact = transact.transact_items(add_one_if("a", expected));
            transact.send().await.unwrap();
        }
        assert_eq!(item(&client, "rows", "a").await["amount"], n("3"));
    }

    #[tokio::test]
    async fn an_unsupported_operation_is_named_in_the_error() {
        let client = client_with_table().await;
        let refused = client.describe_limits().send().await.unwrap_err();
        assert_eq!(refused.code(), Some("UnknownOperationException"));
        assert!(refused.message().unwrap().contains("DescribeLimits"));
    }

    #[test]
    fn a_request_that_does_not_decode_is_refused_in_dynamodbs_terms() {
        let wrong_type = refusal("SERIALIZATION:not a string at line 1 column 42");
        assert!(matches!(&wrong_type, DynoxideError::SerializationException(m) if m == "not a string"));
        for marked in ["VALIDATION:too long", "VALIDATION_REQUEST:too long", "too long"] {
            let refused = refusal(&format!("{marked} at line 1 column 42"));
            assert!(matches!(&refused, DynoxideError::ValidationException(m) if m == "too long"), "{refused:?}");
        }
    }
}
