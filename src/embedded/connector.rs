//! Takes the place of the network below the SDK: one HTTP request in, one HTTP response out.

use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use tokio::task::yield_now;

use super::{
    Embedded,
    operations::{self, Tokens},
};

/// Answers each request from the database it holds.
#[derive(Debug)]
pub(super) struct Connector {
    // The whole handle, not the database alone, so that a file stays locked while a client can still write to it.
    embedded: Embedded,
}

impl Connector {
    pub(super) fn new(embedded: Embedded) -> Self {
        Self { embedded }
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let embedded = self.embedded.clone();
        HttpConnectorFuture::new(async move {
            // A network suspends its caller on the way there and back. A future that is ready at once never does, so
            // concurrent tasks would run one after the other and never conflict. Each yield lets other calls run in between,
            // and lets the caller drop the call: at the first yield nothing has been applied, at the second everything has.
            yield_now().await;
            // It blocks, but only for tens of microseconds: moving it to another thread would take longer.
            let response = respond(&embedded, &request);
            yield_now().await;
            response
        })
    }
}

fn respond(embedded: &Embedded, request: &HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let body = request.body().bytes().ok_or_else(|| ConnectorError::user("DynamoDB takes no streaming requests".into()))?;
    // `DynamoDB_20120810.PutItem`, or `DynamoDBStreams_20120810.GetRecords`.
    let operation = request.headers().get("x-amz-target").and_then(|target| target.rsplit('.').next()).unwrap_or_default();

    let (status, json) = operations::answer(embedded.database(), operation, body, Tokens::Ignored);
    let status = StatusCode::try_from(status).map_err(|error| ConnectorError::other(Box::new(error), None))?;
    let mut response = HttpResponse::new(status, SdkBody::from(json));
    response.headers_mut().insert("content-type", "application/x-amz-json-1.0");
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_sdk_dynamodb::Client;
    use aws_sdk_dynamodb::error::SdkError;
    use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
    use aws_smithy_runtime_api::client::http::SharedHttpConnector;
    use futures::poll;

    use super::super::fixture::{create_table, item, n, s};
    use super::*;

    type Update = Result<UpdateItemOutput, SdkError<UpdateItemError, HttpResponse>>;

    async fn increment(client: &Client) -> Update {
        let update = client.update_item().table_name("rows").key("pk", s("a"));
        let update = update.update_expression("ADD amount :one");
        update.expression_attribute_values(":one", n("1")).send().await
    }

    /// Reads the amount and writes the next one, unless it has changed since. Returns whether it wrote.
    async fn read_then_increment(client: &Client) -> bool {
        let read: u64 = item(client, "rows", "a").await["amount"].as_n().unwrap().parse().unwrap();
        let put = client.put_item().table_name("rows").item("pk", s("a"));
        let put = put.item("amount", n(&(read + 1).to_string()));
        let put = put.condition_expression("amount = :read");
        let put = put.expression_attribute_values(":read", n(&read.to_string()));
        match put.send().await {
            Ok(_) => true,
            Err(error) => {
                let error = error.into_service_error();
                assert!(error.is_conditional_check_failed_exception(), "{error:?}");
                false
            }
        }
    }

    #[tokio::test]
    async fn two_tasks_that_read_before_either_writes_conflict() {
        let client = Embedded::memory().unwrap().client();
        create_table(&client, "rows", None).await;
        increment(&client).await.unwrap();

        let (one, other) = tokio::join!(read_then_increment(&client), read_then_increment(&client));
        assert!(one ^ other, "exactly one of the two may write");
    }

    #[tokio::test]
    async fn many_tasks_that_retry_their_conflicts_lose_no_increment() {
        const TASKS: usize = 8;
        const INCREMENTS: usize = 10;
        let client = Embedded::memory().unwrap().client();
        create_table(&client, "rows", None).await;
        increment(&client).await.unwrap();

        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut conflicts = 0;
                    for _ in 0..INCREMENTS {
                        while !read_then_increment(&client).await {
                            conflicts += 1;
                        }
                    }
                    conflicts
                })
            })
            .collect();
        let mut conflicts = 0;
        for task in tasks {
            conflicts += task.await.unwrap();
        }

        assert!(conflicts > 0);
        let total = (1 + TASKS * INCREMENTS).to_string();
        assert_eq!(item(&client, "rows", "a").await["amount"], n(&total));
    }

    #[tokio::test]
    async fn a_call_can_be_dropped_before_and_after_it_is_applied() {
        let embedded = Embedded::memory().unwrap();
        let client = embedded.client();
        create_table(&client, "rows", None).await;
        let applied = || {
            let described = embedded.database().table_stats().unwrap();
            described[0].item_count > 0
        };

        {
            let mut dropped_before = pin!(increment(&client));
            assert!(poll!(&mut dropped_before).is_pending());
        }
        assert!(!applied());

        {
            let mut dropped_after = pin!(increment(&client));
            while !applied() {
                assert!(poll!(&mut dropped_after).is_pending());
            }
        }
        assert_eq!(item(&client, "rows", "a").await["amount"], n("1"));
    }

    /// Throttles the first call, loses the answer of the second, passes all others, and counts every call.
    #[derive(Debug)]
    struct Faulty {
        inner: SharedHttpConnector,
        calls: Arc<AtomicUsize>,
    }

    impl HttpConnector for Faulty {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let inner = self.inner.clone();
            match self.calls.fetch_add(1, Ordering::Relaxed) {
                0 => {
                    let throttle = r#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}"#;
                    let status = StatusCode::try_from(400).unwrap();
                    HttpConnectorFuture::ready(Ok(HttpResponse::new(status, throttle.into())))
                }
                1 => HttpConnectorFuture::new(async move {
                    inner.call(request).await?;
                    Err(ConnectorError::timeout("the answer was lost".into()))
                }),
                _ => inner.call(request),
            }
        }
    }

    #[tokio::test]
    async fn a_wrapped_connector_fails_calls_before_and_after_they_apply() {
        let embedded = Embedded::memory().unwrap();
        create_table(&embedded.client(), "rows", None).await;
        let calls = Arc::new(AtomicUsize::new(0));
        let client = embedded.client_with(|inner| Faulty { inner, calls: Arc::clone(&calls) });

        let throttled = increment(&client).await.unwrap_err().into_service_error();
        assert!(throttled.is_provisioned_throughput_exceeded_exception());
        let lost = increment(&client).await.unwrap_err();
        assert!(matches!(lost, SdkError::DispatchFailure(failure) if failure.is_timeout()));

        assert_eq!(item(&client, "rows", "a").await["amount"], n("1"));
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }
}
