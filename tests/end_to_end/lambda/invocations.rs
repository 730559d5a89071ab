//! The deployed program under Lambda's Runtime API, on the embedded DynamoDB behind HTTP.

use std::time::SystemTime;

use projection_vocabulary::{Attributes, RecordedEvent, Registry, Value};
use projection_worker::internals::store::parking::Parked;
use serde_json::{Value as Json, json};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use crate::support::{
    metrics::metric_lines,
    programs::panicking_worker,
    projections::Panicking,
    records::{MARKER, deposit_of, keys_only, marked, with},
    runtime_api::{Answer, Lambda, PLENTY, batch, done, environment, environment_at, log_lines, text},
    world::{World, account, fold, history, record, records, registry},
};

/// A history of bank and forum, in the order in which the event store received it.
fn events() -> Vec<RecordedEvent> {
    let mut events = history("bank", 1, 60, 6);
    events.extend(history("forum", 2, 60, 12));
    events
}

/// The events of all aggregates except one.
fn without(events: &[RecordedEvent], left_out: &RecordedEvent) -> Vec<RecordedEvent> {
    events.iter().filter(|event| event.aggregate != left_out.aggregate).cloned().collect()
}

#[tokio::test]
async fn all_invocations_of_one_process_together_yield_the_fold() {
    let (world, events) = (World::new().await, events());
    world.import(&events).await;
    let mut lambda = Lambda::start(&world).await;
    let records = records(&events);
    for records in records.chunks(17) {
        assert_eq!(lambda.invoke(batch(records)).await, done());
    }
    assert_eq!(world.rows().await, fold(registry(), &events));

    assert_eq!(lambda.invoke(batch(&records)).await, done(), "a redelivery is no failure");
    assert_eq!(lambda.invoke(batch(&[])).await, done());
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn no_log_line_commands_the_terminal_of_its_reader() {
    let id = "\u{1b}[2J\u{9b}1m\u{202e}\r\n{\"level\":\"forged\"}";
    let mut events = account(id, &["1"]);
    events[0].data = deposit_of(MARKER);
    let mut lambda = Lambda::start(&World::new().await).await;
    assert_eq!(lambda.invoke(batch(&records(&events))).await, done());
    let output = lambda.stop().await;
    let text = text(&output);
    assert!(!text.contains(|char: char| char != '\n' && (char.is_control() || char == '\u{202e}')), "{text:?}");
    assert!(log_lines(&output).iter().any(|line| line["aggregate"] == id), "it is named, and means what it is: {text}");
}

#[tokio::test]
async fn the_response_names_the_lowest_unfinished_record_and_the_others_count() {
    let (world, events) = (World::new().await, history("bank", 3, 40, 5));
    let failing = &events[0];
    let good = without(&events, failing);
    // 9 is lower than 10, but not as text; and the lowest need not come first in the batch.
    let mut records: Vec<_> = good.iter().zip(100..).map(|(event, position)| record(event, position)).collect();
    records.insert(3, keys_only(failing, 10));
    records.insert(5, keys_only(failing, 9));
    records.push(keys_only(failing, 11));

    let mut lambda = Lambda::start(&world).await;
    let expected = r#"{"batchItemFailures":[{"itemIdentifier":"9"}]}"#;
    assert_eq!(lambda.invoke(batch(&records)).await, Answer::Response(expected.to_owned()));
    assert_eq!(world.rows().await, fold(registry(), &good));
    assert_eq!(world.worker.store().parked().await.expect("parked"), [], "the stream is at fault, not the event");
}

#[tokio::test]
async fn a_failed_record_without_a_sequence_number_fails_the_whole_batch() {
    let (world, events) = (World::new().await, history("bank", 4, 10, 2));
    let nameless = with(&keys_only(&events[0], 7), "/dynamodb/SequenceNumber", Json::Null);
    let mut lambda = Lambda::start(&world).await;
    let expected = r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#;
    assert_eq!(lambda.invoke(batch(&[keys_only(&events[0], 6), nameless])).await, Answer::Response(expected.to_owned()));
}

#[tokio::test]
async fn a_poison_record_is_parked_and_delays_no_other() {
    let (world, mut events) = (World::new().await, history("bank", 5, 40, 5));
    let poison = events.iter_mut().find(|event| event.version.0 == 1).expect("a first event");
    poison.data = deposit_of("a word");
    let poison = poison.clone();

    let mut lambda = Lambda::start(&world).await;
    assert_eq!(lambda.invoke(batch(&records(&events))).await, done());
    let mut expected = fold(registry(), &without(&events, &poison));
    let waiting = Attributes::from([("parked".to_owned(), Value::Bool(true))]);
    expected.get_mut("account-summary").expect("bank").insert((&poison.aggregate).into(), waiting);
    assert_eq!(world.rows().await, expected);
    let parked = world.worker.store().parked().await.expect("parked");
    let parked: Vec<_> =
        parked.iter().map(|Parked { projection, aggregate, version, .. }| (&**projection, &**aggregate, *version)).collect();
    assert_eq!(
        parked,
        ["account-statement", "account-summary"].map(|projection| (projection, poison.aggregate.as_str(), Some(poison.version)))
    );
}

#[tokio::test]
async fn an_invocation_out_of_time_is_redelivered_from_its_lowest_sequence_number() {
    let (world, events) = (World::new().await, events());
    let records = records(&events);
    let mut lambda = Lambda::start(&world).await;
    assert_eq!(lambda.invoke(batch(&records[..30])).await, done());
    let before = world.rows().await;

    let mut late = records[20..].to_vec();
    late.reverse();
    let expected = r#"{"batchItemFailures":[{"itemIdentifier":"21"}]}"#;
    assert_eq!(lambda.invoke_until(SystemTime::now(), batch(&late)).await, Answer::Response(expected.to_owned()));
    assert_eq!(world.rows().await, before, "nothing is begun that nobody waits for");

    world.import(&events).await;
    assert_eq!(lambda.invoke(batch(&late)).await, done());
    assert_eq!(world.rows().await, fold(registry(), &events));
}

#[tokio::test]
async fn missing_environment_variables_are_reported_at_once_and_end_the_process() {
    let world = World::new().await;
    let mut environment = environment(&world).await;
    for variable in ["EVENT_STORE_TABLE", "FORUM_COUNTERS_TABLE", "AWS_REGION", "AWS_SECRET_ACCESS_KEY"] {
        environment.remove(variable);
    }
    environment.insert("PARKED_TABLE", "account-summary".to_owned());
    environment.insert("AWS_ENDPOINT_URL_DYNAMODB", "localhost:8000".to_owned());

    let output = Lambda::start_in(environment).await.ended().await;
    assert_eq!(output.status.code(), Some(1));
    let lines = log_lines(&output);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(
        (lines[0]["level"].as_str(), lines[0]["message"].as_str()),
        (
            Some("ERROR"),
            Some(
                "EVENT_STORE_TABLE is not set; FORUM_COUNTERS_TABLE is not set; \
                 PARKED_TABLE and ACCOUNT_SUMMARY_TABLE name the same table `account-summary`; \
                 AWS_REGION is not set; AWS_SECRET_ACCESS_KEY is not set; \
                 AWS_ENDPOINT_URL_DYNAMODB is not a valid http or https URL in ASCII"
            )
        )
    );
}

#[tokio::test]
async fn a_payload_that_is_not_a_batch_is_a_function_error_and_the_next_batch_counts() {
    let (world, events) = (World::new().await, history("bank", 6, 20, 3));
    let mut lambda = Lambda::start(&world).await;
    let marked = format!(r#"{{"Records":"{MARKER}"}}"#);
    for payload in ["{}", "null", r#"{"Records":null}"#, r#"{"records":[]}"#, "[[]]", r#"{"Records":{}}"#, &marked] {
        let answer = lambda.invoke(payload).await;
        let message = "the payload is neither a batch of a DynamoDB stream (a list named Records) nor a known task \
                       (rebuild, catchUp, settle, verify, tick): check what invokes the function";
        let error = format!(r#"{{"errorType":"NotABatch","errorMessage":"{message}"}}"#);
        assert_eq!(answer, Answer::Error(error), "{payload}");
    }
    for payload in ["", "{\"Records\":", MARKER] {
        let Answer::Error(error) = lambda.invoke(payload).await else { panic!("{payload} is no JSON") };
        assert!(!error.contains(MARKER), "{error}");
    }
    assert_eq!(lambda.invoke(batch(&records(&events))).await, done());
    assert_eq!(world.rows().await, fold(registry(), &events));
    assert!(!text(&lambda.stop().await).contains(MARKER));
}

#[tokio::test]
async fn log_lines_are_json_and_hold_no_event_data() {
    let world = World::new().await;
    let mut environment = environment(&world).await;
    environment.insert("AWS_LAMBDA_LOG_LEVEL", "TRACE".to_owned());
    let mut lambda = Lambda::start_in(environment).await;

    let records = marked(history("bank", 7, 30, 4));
    let expected = r#"{"batchItemFailures":[{"itemIdentifier":"502"}]}"#;
    assert_eq!(lambda.invoke(batch(&records)).await, Answer::Response(expected.to_owned()));
    let Answer::Error(_) = lambda.invoke(format!(r#"{{"Records":"{MARKER}"}}"#)).await else { panic!("it is no batch") };

    let output = lambda.stop().await;
    assert!(!text(&output).contains(MARKER), "{}", text(&output));
    let lines = log_lines(&output);
    for line in &lines {
        let timestamp = line["timestamp"].as_str().expect("a timestamp");
        projection_vocabulary::Timestamp::parse(timestamp).expect("RFC 3339");
        assert!(["INFO", "WARN", "ERROR"].contains(&line["level"].as_str().expect("a level")), "{line}");
    }
    let summary: Vec<_> = lines.iter().filter(|line| line["message"] == "batch").collect();
    assert_eq!(summary.len(), 1);
    assert_eq!((&summary[0]["records"], &summary[0]["span"]["requestId"]), (&json!(34), &json!("request-1")));
}

#[tokio::test]
async fn a_panic_is_a_function_error_and_the_process_continues() {
    let world = World::with(Registry::new(&[&Panicking])).await;
    let mut lambda = panicking_worker(environment(&world).await).await;

    let mut events = history("bank", 8, 20, 3);
    for event in &mut events {
        event.data = deposit_of(MARKER);
    }
    for _ in 0..2 {
        let Answer::Error(error) = lambda.invoke(batch(&records(&events))).await else { panic!("a panic is no success") };
        assert!(error.contains("Lambda panicked"), "{error}");
    }
    assert_eq!(lambda.invoke(batch(&[])).await, done());
    let output = lambda.stop().await;
    let told: Vec<_> = metric_lines(&output).into_iter().filter(|line| line.projection().is_none()).collect();
    let sizes: Vec<_> = told.iter().map(|line| [line.values["BatchSize"], line.values["Failed"]]).collect();
    assert_eq!(sizes, [[20.0, 20.0], [20.0, 20.0], [0.0, 0.0]], "a panic has metrics, too");
    let output = text(&output);
    assert!(output.contains("tests/end_to_end/support/projections.rs") && output.contains("a bug in the worker or in a rule"), "{output}");
    assert!(!output.contains(MARKER), "{output}");
}

#[tokio::test]
async fn the_first_connection_is_opened_before_there_is_an_invocation() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let dynamodb = format!("https://{}", listener.local_addr().expect("an address"));
    let lambda = Lambda::start_in(environment_at(&dynamodb)).await;
    let begin = async { listener.accept().await.expect("a connection").0.read_u8().await.expect("a byte") };
    let begin = tokio::time::timeout(PLENTY, begin).await.expect("it connects");
    assert_eq!(begin, 0x16, "a TLS handshake");
    lambda.stop().await;
}
