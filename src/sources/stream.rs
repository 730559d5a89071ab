//! Reads a table's stream directly and returns its records in the form that Lambda passes to a function. The one user of the
//! operations of `aws-sdk-dynamodbstreams`.
//!
//! A stream consists of shards. A shard ends and has child shards, whose records follow its own, so a child is read only after the end of
//! its parent. Unrelated shards are read in turn.

use aws_sdk_dynamodbstreams::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    primitives::DateTime,
    types::{OperationType, Record, ShardIteratorType, StreamViewType},
};
use serde_dynamo::Item;
use serde_json::{Value as Json, json};

use crate::clients::class;

/// An open shard may return an empty page although more records follow. After this many empty pages in a row, the reader treats it as
/// the current end.
const EMPTY_PAGES_MAX: u32 = 5;

/// Where to begin reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the oldest record that the stream still has: on AWS, up to 24 hours old.
    Oldest,
    /// At the first record after the start.
    Latest,
}

/// The stream cannot be read. The records read so far are complete.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of the stream failed ({class}): check that the stream is enabled and that you may read it")]
pub struct StreamError {
    operation: &'static str,
    class: String,
}

/// Reads a stream page by page.
pub struct StreamReader {
    client: Client,
    arn: String,
    begin: Begin,
    shards: Vec<Shard>,
    /// Whether the stream may have new shards.
    outdated: bool,
    /// The shard to read next.
    turn: usize,
}

struct Shard {
    id: String,
    parent: Option<String>,
    begin: Begin,
    /// Where to continue; `None` before the first page and once it has expired.
    iterator: Option<String>,
    /// The position of the last record read.
    last: Option<String>,
    empty_pages: u32,
    ended: bool,
}

impl StreamReader {
    /// A reader of the stream with this ARN.
    #[must_use]
    pub fn new(client: Client, arn: String, begin: Begin) -> Self {
        Self { client, arn, begin, shards: Vec::new(), outdated: true, turn: 0 }
    }

    /// The next non-empty page of records, in the form that Lambda passes to a function. `None` at the current end; another call checks
    /// for new records.
    ///
    /// Cancel-safe: if this future is dropped, the next call reads the same page.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn next_page(&mut self) -> Result<Option<Vec<Json>>, StreamError> {
        loop {
            if self.outdated {
                self.discover().await?;
            }
            let Some(at) = self.in_turn() else {
                // A new shard follows one that has ended.
                self.outdated = self.shards.is_empty() || self.shards.iter().any(|shard| shard.ended);
                self.shards.iter_mut().for_each(|shard| shard.empty_pages = 0);
                return Ok(None);
            };
            if let Some(page) = self.read(at).await? {
                return Ok(Some(page));
            }
        }
    }

    /// The next readable shard, in turn.
    fn in_turn(&self) -> Option<usize> {
        let ended = |id: &String| self.shards.iter().all(|shard| shard.id != *id || shard.ended);
        let can_be_read = |shard: &Shard| !shard.ended && shard.empty_pages < EMPTY_PAGES_MAX && shard.parent.as_ref().is_none_or(ended);
        let count = self.shards.len();
        (self.turn..self.turn + count).map(|at| at % count).find(|at| can_be_read(&self.shards[*at]))
    }

    async fn discover(&mut self) -> Result<(), StreamError> {
        // Only the shards that are there at the start can hold records older than the start.
        let begin = if self.shards.is_empty() { self.begin } else { Begin::Oldest };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let request = self.client.describe_stream().stream_arn(&self.arn).set_exclusive_start_shard_id(after);
            let described = request.send().await.map_err(|error| stream_error("DescribeStream", &error))?.stream_description;
            let Some(described) = described else { break };
            found.extend(described.shards.unwrap_or_default());
            after = described.last_evaluated_shard_id;
            if after.is_none() {
                break;
            }
        }
        for shard in found {
            let Some(id) = shard.shard_id else { continue };
            if self.shards.iter().all(|known| known.id != id) {
                let parent = shard.parent_shard_id;
                self.shards.push(Shard { id, parent, begin, iterator: None, last: None, empty_pages: 0, ended: false });
            }
        }
        self.outdated = false;
        Ok(())
    }

    /// Reads a page of a shard; `None` if it is empty.
    async fn read(&mut self, at: usize) -> Result<Option<Vec<Json>>, StreamError> {
        if self.shards[at].iterator.is_none() {
            self.shards[at].iterator = Some(self.iterator(&self.shards[at]).await?);
        }
        let page = self.client.get_records().set_shard_iterator(self.shards[at].iterator.clone()).send().await;
        let shard = &mut self.shards[at];
        let page = match page {
            Ok(page) => page,
            // Iterators expire after 15 minutes; the caller took longer between two pages.
            Err(SdkError::ServiceError(error)) if error.err().is_expired_iterator_exception() => {
                shard.iterator = None;
                return Ok(None);
            }
            Err(error) => return Err(stream_error("GetRecords", &error)),
        };
        shard.iterator = page.next_shard_iterator;
        shard.ended = shard.iterator.is_none();
        // Its children may be new.
        self.outdated |= shard.ended;
        let records = page.records.unwrap_or_default();
        self.turn = at + 1;
        if records.is_empty() {
            shard.empty_pages += 1;
            return Ok(None);
        }
        shard.empty_pages = 0;
        shard.last = records.iter().rev().find_map(|record| record.dynamodb()?.sequence_number.clone()).or(shard.last.take());
        Ok(Some(records.into_iter().map(|record| lambda_record(record, &self.arn)).collect()))
    }

    async fn iterator(&self, shard: &Shard) -> Result<String, StreamError> {
        let from = match (&shard.last, shard.begin) {
            (Some(_), _) => ShardIteratorType::AfterSequenceNumber,
            (None, Begin::Oldest) => ShardIteratorType::TrimHorizon,
            (None, Begin::Latest) => ShardIteratorType::Latest,
        };
        let request = self.client.get_shard_iterator().stream_arn(&self.arn).shard_id(&shard.id).shard_iterator_type(from);
        let answer = request.set_sequence_number(shard.last.clone()).send().await;
        let iterator = answer.map_err(|error| stream_error("GetShardIterator", &error))?.shard_iterator;
        iterator.ok_or_else(|| StreamError { operation: "GetShardIterator", class: "no iterator in the answer".to_owned() })
    }
}

/// A record of the API, in the form that Lambda passes to a function, with all digits of its numbers.
fn lambda_record(record: Record, arn: &str) -> Json {
    let change = record.dynamodb.unwrap_or_else(|| aws_sdk_dynamodbstreams::types::StreamRecord::builder().build());
    let item = |item: Option<std::collections::HashMap<_, _>>| item.map(|item| json!(Item::from(item)));
    let change = json!({
        "ApproximateCreationDateTime": change.approximate_creation_date_time.as_ref().map(DateTime::secs), "Keys": item(change.keys),
        "NewImage": item(change.new_image), "OldImage": item(change.old_image), "SequenceNumber": change.sequence_number,
        "SizeBytes": change.size_bytes, "StreamViewType": change.stream_view_type.as_ref().map(StreamViewType::as_str),
    });
    let identity = record.user_identity.map(|user| json!({ "type": user.r#type, "principalId": user.principal_id }));
    without_nulls(json!({
        "eventID": record.event_id, "eventName": record.event_name.as_ref().map(OperationType::as_str), "eventVersion": record.event_version,
        "eventSource": record.event_source, "awsRegion": record.aws_region, "userIdentity": identity, "dynamodb": without_nulls(change),
        "eventSourceARN": arn,
    }))
}

/// Removes null members: Lambda's records have none.
fn without_nulls(mut object: Json) -> Json {
    if let Json::Object(members) = &mut object {
        members.retain(|_, value| !value.is_null());
    }
    object
}

fn stream_error<E: ProvideErrorMetadata>(operation: &'static str, error: &SdkError<E>) -> StreamError {
    StreamError { operation, class: class(error).to_owned() }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt,
        sync::{Arc, Mutex},
    };

    use aws_sdk_dynamodbstreams::config::{BehaviorVersion, Config, Region, retry::RetryConfig};
    use aws_smithy_runtime_api::{
        client::{
            http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
            orchestrator::{HttpRequest, HttpResponse},
        },
        http::StatusCode,
    };

    use super::*;

    /// Answers an operation and its request.
    type Script = dyn Fn(&str, &Json) -> Result<Json, &'static str> + Send + Sync;

    /// A stream that answers by a script.
    struct Scripted(Box<Script>);

    impl fmt::Debug for Scripted {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Scripted")
        }
    }

    impl HttpConnector for Scripted {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let operation = request.headers().get("x-amz-target").unwrap().rsplit('.').next().unwrap().to_owned();
            let body: Json = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
            let (status, body) = match self.0(&operation, &body) {
                Ok(body) => (200, body),
                Err(error) => (400, json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{error}") })),
            };
            HttpConnectorFuture::ready(Ok(HttpResponse::new(StatusCode::try_from(status).unwrap(), body.to_string().into())))
        }
    }

    fn reader(begin: Begin, script: impl Fn(&str, &Json) -> Result<Json, &'static str> + Send + Sync + 'static) -> StreamReader {
        let connector = SharedHttpConnector::new(Scripted(Box::new(script)));
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .endpoint_url("http://scripted")
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .allow_no_auth()
            .retry_config(RetryConfig::disabled());
        StreamReader::new(Client::from_conf(config.build()), "arn".to_owned(), begin)
    }

    /// The sequence numbers up to the current end, page by page.
    async fn pages(reader: &mut StreamReader) -> Vec<Vec<String>> {
        let mut pages = Vec::new();
        while let Some(page) = reader.next_page().await.unwrap() {
            let number = |record: &Json| record["dynamodb"]["SequenceNumber"].as_str().unwrap().to_owned();
            pages.push(page.iter().map(number).collect());
        }
        pages
    }

    fn answer(numbers: &[&str], next: Option<&str>) -> Json {
        let records: Vec<_> = numbers.iter().map(|number| json!({ "dynamodb": { "SequenceNumber": number } })).collect();
        json!({ "Records": records, "NextShardIterator": next })
    }

    #[tokio::test]
    async fn a_child_shard_is_read_after_its_parent_and_unrelated_shards_in_turn() {
        let mut reader = reader(Begin::Oldest, |operation, request| {
            Ok(match operation {
                // The child comes first, and the grandchild on another page.
                "DescribeStream" if request["ExclusiveStartShardId"].is_null() => json!({ "StreamDescription": {
                    "Shards": [{ "ShardId": "child", "ParentShardId": "parent" }, { "ShardId": "parent", "ParentShardId": "trimmed" }],
                    "LastEvaluatedShardId": "parent",
                } }),
                "DescribeStream" => json!({ "StreamDescription": {
                    "Shards": [{ "ShardId": "grandchild", "ParentShardId": "child" }, { "ShardId": "unrelated" }],
                } }),
                "GetShardIterator" => {
                    assert_eq!(request["ShardIteratorType"], "TRIM_HORIZON");
                    json!({ "ShardIterator": format!("{}-1", request["ShardId"].as_str().unwrap()) })
                }
                _ => match request["ShardIterator"].as_str().unwrap() {
                    "parent-1" => answer(&["1"], Some("parent-2")),
                    "parent-2" => answer(&[], Some("parent-3")),
                    "parent-3" => answer(&["2"], None),
                    "child-1" => answer(&["3", "4"], None),
                    "grandchild-1" => answer(&["5"], Some("grandchild-2")),
                    "unrelated-1" => answer(&["a"], Some("unrelated-2")),
                    "unrelated-2" => answer(&["b"], Some("unrelated-3")),
                    open => answer(&[], Some(open)),
                },
            })
        });
        let pages = pages(&mut reader).await.concat();
        let of = |names: &[&str]| pages.iter().filter(|number| names.contains(&number.as_str())).cloned().collect::<Vec<_>>();
        assert_eq!(of(&["1", "2", "3", "4", "5"]), ["1", "2", "3", "4", "5"]);
        assert_eq!(of(&["a", "b"]), ["a", "b"]);
        assert_eq!(pages.len(), 7);
        assert!(pages.iter().position(|number| number == "a") < pages.iter().position(|number| number == "3"), "{pages:?}");
    }

    #[tokio::test]
    async fn an_expired_iterator_is_replaced_and_a_later_call_finds_new_records() {
        let asked = Arc::<Mutex<Vec<Json>>>::default();
        let asked_by_reader = asked.clone();
        let mut reader = reader(Begin::Latest, move |operation, request| {
            Ok(match operation {
                "DescribeStream" => json!({ "StreamDescription": { "Shards": [{ "ShardId": "s" }] } }),
                "GetShardIterator" => {
                    let mut asked = asked_by_reader.lock().unwrap();
                    asked.push(json!([request["ShardIteratorType"], request["SequenceNumber"]]));
                    json!({ "ShardIterator": asked.len().to_string() })
                }
                _ => match request["ShardIterator"].as_str().unwrap() {
                    "1" => answer(&["7", "8"], Some("old")),
                    "old" => return Err("ExpiredIteratorException"),
                    "2" => answer(&["9"], Some("3")),
                    open => answer(&[], Some(open)),
                },
            })
        });
        assert_eq!(pages(&mut reader).await, [vec!["7", "8"], vec!["9"]]);
        assert_eq!(*asked.lock().unwrap(), [json!(["LATEST", null]), json!(["AFTER_SEQUENCE_NUMBER", "8"])]);
        assert_eq!(reader.next_page().await.unwrap(), None, "the end may be read again");
    }

    #[tokio::test]
    async fn an_error_names_its_class() {
        let error = reader(Begin::Oldest, |_, _| Err("AccessDeniedException")).next_page().await.unwrap_err();
        let expected =
            "DescribeStream of the stream failed (AccessDeniedException): check that the stream is enabled and that you may read it";
        assert_eq!(error.to_string(), expected);
    }
}
