//! Batches that come through another service, from another table, or from another service altogether, in one process with real ones.

use aws_smithy_types::base64;
use projection_vocabulary::RecordedEvent;
use serde_json::{Value as Json, json, value::RawValue};

use crate::support::{
    records::{MARKER, deposit_of, keys_only},
    runtime_api::{Answer, Lambda, batch, done, environment, log_lines, text},
    world::{World, fold, history, record, records, registry},
};

/// More than the breaker needs to trip, if it remembered any of them.
const MANY: usize = 12;

fn json_of(record: &RawValue) -> Json {
    serde_json::from_str(record.get()).expect("JSON")
}

fn kinesis(content: &str, sequence: usize) -> Json {
    json!({
        "kinesis": { "kinesisSchemaVersion": "1.0", "partitionKey": "p", "sequenceNumber": sequence.to_string(), "data": base64::encode(content) },
        "eventSource": "aws:kinesis", "eventName": "aws:kinesis:record", "eventID": format!("shardId-000000000000:{sequence}"),
    })
}

fn sqs(content: &str, number: usize) -> Json {
    json!({ "messageId": format!("m{number}"), "receiptHandle": "r", "body": content, "eventSource": "aws:sqs" })
}

fn payload(records: &[Json]) -> String {
    json!({ "Records": records }).to_string()
}

/// The error of an invocation.
async fn refused(lambda: &mut Lambda, payload: &str) -> String {
    match lambda.invoke(payload).await {
        Answer::Error(error) => error,
        Answer::Response(response) => panic!("{payload} was answered with {response}"),
    }
}

/// A record of a table with other keys.
fn of_another_table(number: usize) -> Json {
    let keys = json!({ "pk": { "S": format!("AGGREGATE#{MARKER}-{number}") }, "sk": { "S": "EVENT#0000000001" } });
    json!({
        "eventID": format!("other-{number}"), "eventName": "INSERT", "eventSource": "aws:dynamodb", "awsRegion": "eu-west-1",
        "dynamodb": { "Keys": keys, "NewImage": keys, "SequenceNumber": number.to_string(), "SizeBytes": 9, "StreamViewType": "NEW_IMAGE" },
    })
}

/// What other services deliver, each with what its error names.
fn of_other_services(real: &RawValue) -> Vec<(String, &'static str)> {
    let service = |source: &str| json!({ "eventSource": source, "content": MARKER });
    vec![
        (payload(&[json!({ "eventSource": "aws:s3", "s3": { "object": { "key": MARKER } } })]), "records of aws:s3"),
        (payload(&[json!({ "EventSource": "aws:sns", "Sns": { "Message": real.get() } })]), "records of aws:sns"),
        (payload(&[service("aws:ses")]), "records of aws:ses"),
        (payload(&[service(MARKER)]), "records of another service"),
        (payload(&[json!({ "cf": { "request": MARKER } })]), "records of another service"),
        (payload(&vec![service("aws:codecommit"); MANY]), "records of aws:codecommit"),
        (payload(&[json_of(real), service("aws:s3")]), "records of aws:s3"),
        (payload(&[json_of(real), kinesis(real.get(), 1)]), "records of several services"),
        (payload(&[sqs(real.get(), 1), kinesis(real.get(), 1)]), "records of several services"),
        (payload(&[kinesis(real.get(), 1), kinesis(MARKER, 2)]), "record 2 of the payload, delivered by Kinesis, holds no record"),
        (
            payload(&[sqs(real.get(), 1), sqs(&json!({ "order": MARKER }).to_string(), 2)]),
            "record 2 of the payload, delivered by SQS, holds no",
        ),
        (
            payload(&[sqs(&json!({ "Item": { "PK": { "S": MARKER } } }).to_string(), 1)]),
            "record 1 of the payload, delivered by SQS, holds no",
        ),
        (json!({ "source": "aws.events", "detail-type": "Scheduled Event", "detail": {} }).to_string(), "an event of aws.events"),
        (json!({ "source": MARKER, "detail-type": "Event from pipe", "detail": json_of(real) }).to_string(), "neither a batch"),
        (json!({ "eventSource": "aws:kafka", "records": { "topic-0": [{ "value": MARKER }] } }).to_string(), "an event of aws:kafka"),
        (
            json!({ "invocationId": "i", "records": [{ "recordId": "1", "data": base64::encode(real.get()) }] }).to_string(),
            "neither a batch",
        ),
        (json!({ "httpMethod": "POST", "body": real.get() }).to_string(), "neither a batch"),
        (json!({ "Records": [{ "what": MARKER }, MARKER] }).to_string(), "neither a batch"),
        (json!([MARKER]).to_string(), "neither a batch"),
    ]
}

#[tokio::test]
async fn records_of_other_services_fail_the_invocation_and_leave_nothing_behind() {
    let (world, events) = (World::new().await, history("bank", 11, 120, 8));
    let mut lambda = Lambda::start(&world).await;
    let mut real = events.chunks(5).zip(1_u64..);
    let first = record(&events[0], 1);
    for (foreign, says) in of_other_services(&first) {
        for _ in 0..MANY {
            let error = refused(&mut lambda, &foreign).await;
            assert!(error.contains(r#""errorType":"NotABatch""#) && error.contains(says), "{foreign}: {error}");
        }
        if let Some((events, position)) = real.next() {
            let records: Vec<_> = events.iter().zip(position * 100..).map(|(event, position)| record(event, position)).collect();
            assert_eq!(lambda.invoke(batch(&records)).await, done(), "a real batch after {says}");
        }
    }
    for (events, _) in real {
        assert_eq!(lambda.invoke(batch(&records(events))).await, done());
    }
    assert_eq!(world.rows().await, fold(registry(), &events));
    assert_eq!(world.worker.store().parked().await.expect("parked"), []);

    // A bad record alone is still parked: the breaker has nothing to add to it.
    let stray = json!({ "eventID": "stray", "eventSource": "aws:dynamodb", "dynamodb": 5 });
    assert_eq!(lambda.invoke(payload(&[json_of(&records(&events)[0]), stray])).await, done());
    assert_eq!(world.worker.store().parked().await.expect("parked").len(), 1);

    let output = lambda.stop().await;
    assert!(!text(&output).contains(MARKER));
    let errors = log_lines(&output).into_iter().filter(|line| line["level"] == "ERROR").count();
    assert_eq!(errors, of_other_services(&first).len() * MANY, "each error is logged once");
}

#[tokio::test]
async fn records_of_another_table_fail_the_invocation_and_leave_nothing_behind() {
    let (world, events) = (World::new().await, history("bank", 12, 60, 6));
    let mut lambda = Lambda::start(&world).await;
    let says = "a record of another table: its keys are `pk` (S) and `sk` (S), and the event store's are `PK` (S) and `SK` (S)";
    let (half, rest) = events.split_at(30);
    for number in 0..MANY {
        let error = refused(&mut lambda, &payload(&[of_another_table(number)])).await;
        assert!(error.contains(r#""errorType":"WrongStream""#) && error.contains(says), "{error}");
    }
    let many: Vec<_> = (0..50).map(of_another_table).collect();
    refused(&mut lambda, &payload(&many)).await;

    // In one batch with real ones the invocation fails too, so that all are delivered again; what counted is then a duplicate.
    let mixed: Vec<_> = records(half).iter().map(|record| json_of(record)).chain(many).collect();
    refused(&mut lambda, &payload(&mixed)).await;
    assert_eq!(world.rows().await, fold(registry(), half));
    for records in records(rest).chunks(7) {
        assert_eq!(lambda.invoke(batch(records)).await, done());
    }
    assert_eq!(world.rows().await, fold(registry(), &events));
    assert_eq!(world.worker.store().parked().await.expect("parked"), []);
    let output = lambda.stop().await;
    assert!(!text(&output).contains(MARKER));
    let errors = log_lines(&output).into_iter().filter(|line| line["level"] == "ERROR").count();
    assert_eq!(errors, MANY + 2, "each error is logged once");
}

#[tokio::test]
async fn records_through_kinesis_count_and_a_failure_names_kinesis_own_sequence_number() {
    let (world, events) = (World::new().await, history("bank", 13, 40, 5));
    world.import(&events).await;
    let mut lambda = Lambda::start(&world).await;
    let wrapped = |events: &[RecordedEvent]| -> Vec<_> {
        records(events).iter().zip(4_950_000_000..).map(|(record, sequence)| kinesis(record.get(), sequence)).collect()
    };
    assert_eq!(lambda.invoke(payload(&wrapped(&events[..20]))).await, done());

    let mut failing = wrapped(&events[20..]);
    failing[3] = kinesis(keys_only(&events[23], 7).get(), 99);
    failing[5] = kinesis(keys_only(&events[25], 8).get(), 100);
    let expected = r#"{"batchItemFailures":[{"itemIdentifier":"99"}]}"#;
    assert_eq!(lambda.invoke(payload(&failing)).await, Answer::Response(expected.to_owned()));
    assert_eq!(lambda.invoke(payload(&wrapped(&events))).await, done());
    assert_eq!(world.rows().await, fold(registry(), &events));

    let mut poison = events[0].clone();
    (poison.aggregate, poison.data) = ("poison".into(), deposit_of("a word"));
    assert_eq!(lambda.invoke(payload(&[kinesis(record(&poison, 1).get(), 101)])).await, done());
    assert_eq!(world.worker.store().parked().await.expect("parked").len(), 2, "in both projections of accounts");
}

#[tokio::test]
async fn records_through_a_queue_or_a_pipe_count_and_a_failure_brings_all_of_them_back() {
    let (world, events) = (World::new().await, history("bank", 14, 40, 5));
    let mut lambda = Lambda::start(&world).await;
    let [one, two, three, four] = [0, 10, 20, 30].map(|from| &events[from..from + 10]);
    let queue = |events: &[RecordedEvent]| {
        payload(&records(events).iter().enumerate().map(|(number, record)| sqs(record.get(), number)).collect::<Vec<_>>())
    };
    let pipe = |events: &[RecordedEvent]| json!(records(events).iter().map(|record| json_of(record)).collect::<Vec<_>>()).to_string();
    let of_event =
        |record: &RawValue| json!({ "detail-type": "Event from pipe", "source": "Pipe p", "detail": json_of(record) }).to_string();
    let bus: Vec<_> = records(two).iter().enumerate().map(|(number, record)| sqs(&of_event(record), number)).collect();

    for payload in
        [queue(one), payload(&bus), pipe(three), json!({ "records": serde_json::from_str::<Json>(&pipe(four)).expect("JSON") }).to_string()]
    {
        assert_eq!(lambda.invoke(payload).await, done());
    }
    assert_eq!(world.rows().await, fold(registry(), &events));

    let failing = keys_only(&events[0], 7);
    for payload in [
        payload(&[sqs(records(one)[1].get(), 0), sqs(failing.get(), 1)]),
        json!([json_of(&records(one)[1]), json_of(&failing)]).to_string(),
    ] {
        let error = refused(&mut lambda, &payload).await;
        assert!(
            error.contains(r#""errorType":"RecordsFailed""#) && error.contains("1 of 2 records failed: the stream carries no new images"),
            "{error}"
        );
    }
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn the_name_of_a_task_in_another_spelling_is_told_the_right_one() {
    let world = World::new().await;
    let mut lambda = Lambda::start(&world).await;
    for name in ["catchup", "catch-up", "CATCH_UP"] {
        let error = refused(&mut lambda, &json!({ name: { "projection": MARKER } }).to_string()).await;
        assert!(
            error.contains("known task (rebuild, catchUp, settle, verify, tick); did you mean `catchUp`?") && !error.contains(MARKER),
            "{error}"
        );
    }
    let error = refused(&mut lambda, &json!({ "repair": {} }).to_string()).await;
    assert!(error.contains("known task (rebuild, catchUp, settle, verify, tick): check"), "{error}");
}

#[tokio::test]
async fn an_environment_with_concurrent_invocations_is_refused_at_start_up() {
    let world = World::new().await;
    let mut environment = environment(&world).await;
    environment.insert("AWS_LAMBDA_MAX_CONCURRENCY", "8".to_owned());
    let output = Lambda::start_in(environment).await.ended().await;
    assert_eq!(output.status.code(), Some(1));
    let lines = log_lines(&output);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0]["message"].as_str().expect("a message").contains("PerExecutionEnvironmentMaxConcurrency to 1"), "{lines:?}");
}
