//! A table's stream, read from the outside, as Lambda would hand its records to a function. The one user of
//! `aws-sdk-dynamodbstreams`' operations.
//!
//! A stream is cut into shards, which end and have children: a child's records come after its parent's, so it is not begun before the
//! parent's end was read. Shards that are no kin are read in turn.

use aws_sdk_dynamodbstreams::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    primitives::DateTime,
    types::{OperationType, Record, ShardIteratorType, StreamViewType},
};
use serde_dynamo::Item;
use serde_json::{Value as Json, json};

use crate::clients::class;

/// An open shard may answer with nothing although there is more: each answer is what one look found. So often in a row, it is taken
/// for the present end.
const EMPTY_PAGES_MAX: u32 = 5;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With the oldest record that the stream still has: 24 hours ago, on AWS.
    Oldest,
    /// With what comes from now on.
    Latest,
}

/// The stream cannot be read. What was read is whole up to there.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of the stream failed ({class}): check that the stream is enabled and the permissions on it")]
pub struct Unreadable {
    operation: &'static str,
    class: String,
}

/// A stream that is being read.
pub struct Capture {
    client: Client,
    arn: String,
    begin: Begin,
    shards: Vec<Shard>,
    /// Whether shards may have come that are not among them.
    outdated: bool,
    /// The shard whose turn it is.
    turn: usize,
}

struct Shard {
    id: String,
    parent: Option<String>,
    begin: Begin,
    /// Where to go on; none before the beginning, and when it is no longer valid.
    iterator: Option<String>,
    /// The position of the last record read.
    last: Option<String>,
    empty_pages: u32,
    ended: bool,
}

impl Capture {
    /// A capture of the stream with this ARN.
    #[must_use]
    pub fn new(client: Client, arn: String, begin: Begin) -> Self {
        Self { client, arn, begin, shards: Vec::new(), outdated: true, turn: 0 }
    }

    /// The next page that has records, each as Lambda hands it to a function; `None` at the present end, where another call looks again.
    ///
    /// It may be abandoned at any time: the next call reads what the abandoned one would have.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub async fn next_page(&mut self) -> Result<Option<Vec<Json>>, Unreadable> {
        loop {
            if self.outdated {
                self.discover().await?;
            }
            let Some(at) = self.in_turn() else {
                self.outdated = true;
                self.shards.iter_mut().for_each(|shard| shard.empty_pages = 0);
                return Ok(None);
            };
            if let Some(page) = self.read(at).await? {
                return Ok(Some(page));
            }
        }
    }

    /// The next shard that can be read, from the one whose turn it is.
    fn in_turn(&self) -> Option<usize> {
        let ended = |id: &String| self.shards.iter().all(|shard| shard.id != *id || shard.ended);
        let can_be_read = |shard: &Shard| !shard.ended && shard.empty_pages < EMPTY_PAGES_MAX && shard.parent.as_ref().is_none_or(ended);
        let count = self.shards.len();
        (self.turn..self.turn + count).map(|at| at % count).find(|at| can_be_read(&self.shards[*at]))
    }

    async fn discover(&mut self) -> Result<(), Unreadable> {
        // Those of the first look are the only ones whose records so far are old.
        let begin = if self.shards.is_empty() { self.begin } else { Begin::Oldest };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let request = self.client.describe_stream().stream_arn(&self.arn).set_exclusive_start_shard_id(after);
            let described = request.send().await.map_err(|error| unreadable("DescribeStream", &error))?.stream_description;
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

    /// Reads a page of a shard; none if it has no record.
    async fn read(&mut self, at: usize) -> Result<Option<Vec<Json>>, Unreadable> {
        if self.shards[at].iterator.is_none() {
            self.shards[at].iterator = Some(self.iterator(&self.shards[at]).await?);
        }
        let page = self.client.get_records().set_shard_iterator(self.shards[at].iterator.clone()).send().await;
        let shard = &mut self.shards[at];
        let page = match page {
            Ok(page) => page,
            // Its 15 minutes are over: it was long until the next page was asked for.
            Err(SdkError::ServiceError(error)) if error.err().is_expired_iterator_exception() => {
                shard.iterator = None;
                return Ok(None);
            }
            Err(error) => return Err(unreadable("GetRecords", &error)),
        };
        shard.iterator = page.next_shard_iterator;
        shard.ended = shard.iterator.is_none();
        // It may have had children since.
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

    async fn iterator(&self, shard: &Shard) -> Result<String, Unreadable> {
        let from = match (&shard.last, shard.begin) {
            (Some(_), _) => ShardIteratorType::AfterSequenceNumber,
            (None, Begin::Oldest) => ShardIteratorType::TrimHorizon,
            (None, Begin::Latest) => ShardIteratorType::Latest,
        };
        let request = self.client.get_shard_iterator().stream_arn(&self.arn).shard_id(&shard.id).shard_iterator_type(from);
        let answer = request.set_sequence_number(shard.last.clone()).send().await;
        let iterator = answer.map_err(|error| unreadable("GetShardIterator", &error))?.shard_iterator;
        iterator.ok_or_else(|| Unreadable { operation: "GetShardIterator", class: "no iterator in the answer".to_owned() })
    }
}

/// A record of the API as Lambda hands it to a function, with all digits of its numbers.
fn lambda_record(record: Record, arn: &str) -> Json {
    let change = record.dynamodb.unwrap_or_else(|| aws_sdk_dynamodbstreams::types::StreamRecord::builder().build());
    let item = |item: Option<std::collections::HashMap<_, _>>| item.map(|item| json!(Item::from(item)));
    let change = json!({
        "ApproximateCreationDateTime": change.approximate_creation_date_time.as_ref().map(DateTime::secs), "Keys": item(change.keys),
        "NewImage": item(change.new_image), "OldImage": item(change.old_image), "SequenceNumber": change.sequence_number,
        "SizeBytes": change.size_bytes, "StreamViewType": change.stream_view_type.as_ref().map(StreamViewType::as_str),
    });
    let identity = record.user_identity.map(|user| json!({ "type": user.r#type, "principalId": user.principal_id }));
    present(json!({
        "eventID": record.event_id, "eventName": record.event_name.as_ref().map(OperationType::as_str), "eventVersion": record.event_version,
        "eventSource": record.event_source, "awsRegion": record.aws_region, "userIdentity": identity, "dynamodb": present(change),
        "eventSourceARN": arn,
    }))
}

/// Without the members that are null: Lambda has none.
fn present(mut object: Json) -> Json {
    if let Json::Object(members) = &mut object {
        members.retain(|_, value| !value.is_null());
    }
    object
}

fn unreadable<E: ProvideErrorMetadata>(operation: &'static str, error: &SdkError<E>) -> Unreadable {
    Unreadable { operation, class: class(error).to_owned() }
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

    /// The answer to an operation and its request.
    type Script = dyn Fn(&str, &Json) -> Result<Json, &'static str> + Send + Sync;

    /// A stream that answers so.
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

    fn capture(begin: Begin, script: impl Fn(&str, &Json) -> Result<Json, &'static str> + Send + Sync + 'static) -> Capture {
        let connector = SharedHttpConnector::new(Scripted(Box::new(script)));
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .endpoint_url("http://scripted")
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .allow_no_auth()
            .retry_config(RetryConfig::disabled());
        Capture::new(Client::from_conf(config.build()), "arn".to_owned(), begin)
    }

    /// The sequence numbers up to the present end, page by page.
    async fn pages(capture: &mut Capture) -> Vec<Vec<String>> {
        let mut pages = Vec::new();
        while let Some(page) = capture.next_page().await.unwrap() {
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
    async fn a_child_is_read_after_its_parents_and_strangers_in_turn() {
        let mut capture = capture(Begin::Oldest, |operation, request| {
            Ok(match operation {
                // The child comes first, and the grandchild on another page.
                "DescribeStream" if request["ExclusiveStartShardId"].is_null() => json!({ "StreamDescription": {
                    "Shards": [{ "ShardId": "child", "ParentShardId": "parent" }, { "ShardId": "parent", "ParentShardId": "trimmed" }],
                    "LastEvaluatedShardId": "parent",
                } }),
                "DescribeStream" => json!({ "StreamDescription": {
                    "Shards": [{ "ShardId": "grandchild", "ParentShardId": "child" }, { "ShardId": "stranger" }],
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
                    "stranger-1" => answer(&["a"], Some("stranger-2")),
                    "stranger-2" => answer(&["b"], Some("stranger-3")),
                    open => answer(&[], Some(open)),
                },
            })
        });
        let pages = pages(&mut capture).await.concat();
        let of = |names: &[&str]| pages.iter().filter(|number| names.contains(&number.as_str())).cloned().collect::<Vec<_>>();
        assert_eq!(of(&["1", "2", "3", "4", "5"]), ["1", "2", "3", "4", "5"]);
        assert_eq!(of(&["a", "b"]), ["a", "b"]);
        assert_eq!(pages.len(), 7);
        assert!(pages.iter().position(|number| number == "a") < pages.iter().position(|number| number == "3"), "{pages:?}");
    }

    #[tokio::test]
    async fn an_iterator_that_expired_is_replaced_and_a_later_look_finds_what_came_since() {
        let asked = Arc::<Mutex<Vec<Json>>>::default();
        let told = asked.clone();
        let mut capture = capture(Begin::Latest, move |operation, request| {
            Ok(match operation {
                "DescribeStream" => json!({ "StreamDescription": { "Shards": [{ "ShardId": "s" }] } }),
                "GetShardIterator" => {
                    let mut asked = told.lock().unwrap();
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
        assert_eq!(pages(&mut capture).await, [vec!["7", "8"], vec!["9"]]);
        assert_eq!(*asked.lock().unwrap(), [json!(["LATEST", null]), json!(["AFTER_SEQUENCE_NUMBER", "8"])]);
        assert_eq!(capture.next_page().await.unwrap(), None, "it may be asked again");
    }

    #[tokio::test]
    async fn trouble_is_told_by_its_class() {
        let error = capture(Begin::Oldest, |_, _| Err("AccessDeniedException")).next_page().await.unwrap_err();
        let says =
            "DescribeStream of the stream failed (AccessDeniedException): check that the stream is enabled and the permissions on it";
        assert_eq!(error.to_string(), says);
    }
}
