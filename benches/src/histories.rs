//! Made-up events of known shapes, and the stream records of them.

use projection_vocabulary::{
    AggregateId, Decimal, RecordedEvent, Value,
    sample::{Fact, record},
};
use projection_worker::internals::store::item::encode_event;
use serde_dynamo::Item;
use serde_json::{Value as Json, json};

/// The topics of a category, in [`popular_topics`].
pub const TOPICS: usize = 20;

/// So many events of each account, one account after the other: the same of each in every batch of `aggregates * each` events.
pub fn accounts(aggregates: usize, each: usize) -> Vec<RecordedEvent> {
    numbered((0..aggregates).flat_map(|account| (0..each).map(move |at| deposit(account, at == 0))))
}

/// Rounds of events of the same accounts: each round has the next `each` events of every account.
pub fn rounds_of_accounts(rounds: usize, aggregates: usize, each: usize) -> Vec<Vec<RecordedEvent>> {
    let round = |round: usize| (0..aggregates).flat_map(move |account| (0..each).map(move |at| deposit(account, round + at == 0)));
    let events = numbered((0..rounds).flat_map(round));
    events.chunks(aggregates * each).map(<[_]>::to_vec).collect()
}

fn deposit(account: usize, first: bool) -> Fact {
    let amount: Decimal = "12.34".parse().expect("an amount");
    let (event_type, name) = if first { ("AccountOpened", "initialDeposit") } else { ("MoneyDeposited", "amount") };
    Fact { aggregate: format!("account-{account:06}").as_str().into(), event_type, data: fields([(name, amount.into())]) }
}

/// Rounds of events of the same topics of one category: each round has the next `each` events of every topic.
pub fn rounds_of_topics(rounds: usize, topics: usize, each: usize) -> Vec<Vec<RecordedEvent>> {
    let one = |topic, at| if at == 0 { topic_created(topic, 0) } else { post_added(topic, 0) };
    let round = |round: usize| (0..topics).flat_map(move |topic| (0..each).map(move |at| one(topic, round + at)));
    let events = numbered((0..rounds).flat_map(round));
    events.chunks(topics * each).map(<[_]>::to_vec).collect()
}

/// A forum of 25 categories with 20 topics each. People write where others write: the n-th topic is as popular as 1/n (Zipf's law). Each
/// topic begins with the first event that falls on it.
pub fn popular_topics(events: usize, seed: u64) -> Vec<RecordedEvent> {
    const ALL: usize = 25 * TOPICS;
    #[allow(clippy::cast_precision_loss, reason = "numbers of topics are small")]
    let popularity: Vec<f64> = (1..=ALL).map(|rank| 1.0 / rank as f64).collect();
    let total: f64 = popularity.iter().sum();
    let (mut random, mut created) = (fastrand::Rng::with_seed(seed), [false; ALL]);
    numbered((0..events).map(move |_| {
        let mut left = random.f64() * total;
        let topic = popularity.iter().position(|share| {
            left -= share;
            left <= 0.0
        });
        let topic = topic.unwrap_or(ALL - 1);
        if std::mem::replace(&mut created[topic], true) { post_added(topic, topic / TOPICS) } else { topic_created(topic, topic / TOPICS) }
    }))
}

fn topic_created(topic: usize, category: usize) -> Fact {
    let title = format!("About {topic}");
    let data = fields([("categoryId", category_id(category).into()), ("title", title.into()), ("authorId", "ann".into())]);
    Fact { aggregate: topic_id(topic), event_type: "TopicCreated", data }
}

fn post_added(topic: usize, category: usize) -> Fact {
    let post = format!("post-{topic}");
    let data = fields([("postId", post.into()), ("authorId", "ann".into()), ("categoryId", category_id(category).into())]);
    Fact { aggregate: topic_id(topic), event_type: "PostAdded", data }
}

fn topic_id(topic: usize) -> AggregateId {
    format!("topic-{topic:06}").as_str().into()
}

fn category_id(category: usize) -> String {
    format!("category-{category:04}")
}

/// One traveller, who is at another place with each event: visits add to each place, moves carry all along.
pub fn journey(events: usize, event_type: &'static str) -> Vec<RecordedEvent> {
    numbered((0..events).map(|at| {
        let (from, to) = (format!("place-{at:06}"), format!("place-{:06}", at + 1));
        if at == 0 || event_type == "Visited" {
            Fact { aggregate: "traveller".into(), event_type: "Visited", data: fields([("place", to.into())]) }
        } else {
            Fact { aggregate: "traveller".into(), event_type, data: fields([("from", from.into()), ("to", to.into())]) }
        }
    }))
}

fn numbered(facts: impl IntoIterator<Item = Fact>) -> Vec<RecordedEvent> {
    // What a writer adds, of the size that writers add.
    let metadata = fields([("correlationId", "0b54a1f6-0e3f-4f0b-9b0a-2f6d1c0f7b11".into()), ("userId", "user-4711".into())]);
    record(facts).map(|event| RecordedEvent { metadata: Some(metadata.clone()), ..event }).collect()
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

/// The bytes of the Lambda event that brings these events, the first of them at this position in the stream.
pub fn payload(events: &[RecordedEvent], first: u64) -> Vec<u8> {
    let records: Vec<_> = events.iter().zip(first..).map(|(event, position)| stream_record(event, position)).collect();
    json!({ "Records": records }).to_string().into_bytes()
}

/// The same of several batches, one after the other.
pub fn payloads<'a>(batches: impl IntoIterator<Item = &'a [RecordedEvent]>) -> Vec<Vec<u8>> {
    let mut first = 1;
    let one = |events: &[RecordedEvent]| {
        let payload = payload(events, first);
        first += events.len() as u64;
        payload
    };
    batches.into_iter().map(one).collect()
}

/// An insertion as the stream brings it.
fn stream_record(event: &RecordedEvent, position: u64) -> Json {
    let image = json!(Item::from(encode_event(event)));
    json!({
        "eventID": format!("{position:032x}"), "eventName": "INSERT", "eventVersion": "1.1", "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_767_225_600, "Keys": { "PK": image["PK"], "SK": image["SK"] }, "NewImage": image,
            "SequenceNumber": format!("{}", 100_000_000_000_000_000_000_u128 + u128::from(position)), "SizeBytes": 400,
            "StreamViewType": "NEW_IMAGE",
        },
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/event-store/stream/2026-01-01T00:00:00.000",
    })
}
