//! The traces that the deployed program sends to a collector, and that a failing collector never fails an invocation.

use std::{
    collections::BTreeMap,
    future::pending,
    process::Output,
    sync::{Arc, Mutex},
    time::{Instant, SystemTime},
};

use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
    trace::v1::{Span, span::SpanKind, status::StatusCode as SpanStatus},
};
use projection_vocabulary::{RecordedEvent, Registry};
use prost::Message as _;
use serde_json::{Value as Json, json};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};

use crate::support::{
    programs::panicking_worker,
    projections::Panicking,
    proxy::{Fault, Proxy},
    records::{MARKER, deposit_of, marked},
    runtime_api::{Answer, Environment, Lambda, PLENTY, batch, done, environment, environment_at, log_lines, text},
    world::{World, account, fold, history, records, registry},
};

const TRACE: &str = "5759e988bd862e3fe1be46a994272793";
const SAMPLED: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
const UNSAMPLED: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0";

/// A collector, as an extension of the function would run it.
struct Collector {
    url: String,
    /// The bodies of the requests received.
    requests: Arc<Mutex<Vec<Bytes>>>,
    /// Served as long as this value lives.
    _serving: JoinSet<std::io::Result<()>>,
}

/// How it treats requests.
#[derive(Clone, Copy, PartialEq)]
enum Conduct {
    Answers(StatusCode),
    Hangs,
}

impl Collector {
    async fn start(conduct: Conduct) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::<Mutex<Vec<Bytes>>>::default();
        let taken = requests.clone();
        let take = post(move |body: Bytes| async move {
            taken.lock().expect("no test panics while it holds this").push(body);
            match conduct {
                Conduct::Answers(status) => status,
                Conduct::Hangs => pending().await,
            }
        });
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, Router::new().route("/v1/traces", take)).await });
        Self { url, requests, _serving: serving }
    }

    /// A collector that accepts everything.
    async fn new() -> Self {
        Self::start(Conduct::Answers(StatusCode::OK)).await
    }

    /// The environment of a worker that sends traces to it.
    async fn environment(&self, world: &World) -> Environment {
        traced(environment(world).await, &self.url)
    }

    fn requests(&self) -> Vec<Bytes> {
        self.requests.lock().expect("no test panics while it holds this").clone()
    }

    /// The requests received since the last call.
    fn take(&self) -> Vec<ExportTraceServiceRequest> {
        let requests = std::mem::take(&mut *self.requests.lock().expect("no test panics while it holds this"));
        requests.into_iter().map(|request| ExportTraceServiceRequest::decode(request).expect("OTLP")).collect()
    }

    /// The trace of the only invocation since the last call.
    fn invocation(&self) -> Invocation {
        let spans: Vec<_> = self.take().into_iter().flat_map(spans).collect();
        let (mut own, requests): (Vec<_>, Vec<_>) = spans.into_iter().partition(|span| span.kind() == SpanKind::Server);
        assert_eq!(own.len(), 1, "an invocation has one span of its own: {own:?}");
        Invocation { own: own.remove(0), requests }
    }
}

/// With a long timeout, so that a slow machine loses no trace that a test expects.
fn traced(mut environment: Environment, url: &str) -> Environment {
    environment.insert("OTEL_EXPORTER_OTLP_ENDPOINT", url.to_owned());
    environment.insert("OTEL_EXPORTER_OTLP_TIMEOUT", "30000".to_owned());
    environment
}

/// The trace of one invocation.
struct Invocation {
    own: Span,
    requests: Vec<Span>,
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<&str, Json> {
    let json = |value: &KeyValue| match value.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::IntValue(number)) => json!(number),
        Some(Any::BoolValue(flag)) => json!(flag),
        Some(other) => json!(format!("{other:?}")),
        None => Json::Null,
    };
    let named: BTreeMap<_, _> = attributes.iter().map(|attribute| (attribute.key.as_str(), json(attribute))).collect();
    assert_eq!(named.len(), attributes.len(), "each is there once: {attributes:?}");
    named
}

fn attribute(span: &Span, name: &str) -> Json {
    attributes(&span.attributes).remove(name).unwrap_or_default()
}

fn failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == SpanStatus::Error)
}

fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// The logged warnings about traces.
fn warnings(output: &Output) -> Vec<String> {
    let lines = log_lines(output).into_iter().filter(|line| line["level"] == "WARN");
    lines.filter_map(|line| line["message"].as_str().filter(|message| message.contains("trace")).map(str::to_owned)).collect()
}

fn events() -> Vec<RecordedEvent> {
    history("bank", 31, 40, 6)
}

#[tokio::test]
async fn an_invocation_is_a_child_of_the_x_ray_segment_and_its_requests_are_its_children() {
    let (world, collector, events) = (World::new().await, Collector::new().await, events());
    let mut lambda = Lambda::start_in(collector.environment(&world).await).await;
    lambda.trace = Some(SAMPLED.to_owned());
    assert_eq!(lambda.invoke(batch(&records(&events))).await, done());
    assert_eq!(world.rows().await, fold(registry(), &events));

    let Invocation { own, requests } = collector.invocation();
    assert_eq!((hex(&own.trace_id).as_str(), hex(&own.parent_span_id).as_str()), (TRACE, "53995c3f42cd8ad8"));
    assert_eq!((own.name.as_str(), failed(&own)), ("projection-worker", false));
    let about = attributes(&own.attributes);
    for (name, value) in [
        ("faas.invocation_id", json!("request-1")),
        ("faas.trigger", json!("datasource")),
        ("faas.coldstart", json!(true)),
        ("aws.lambda.invoked_arn", json!("arn:aws:lambda:eu-central-1:123456789012:function:projection-worker")),
        ("batch.records", json!(40)),
        ("batch.applied", json!(40)),
        ("batch.duplicate", json!(0)),
        ("batch.healed", json!(0)),
        ("batch.parked", json!(0)),
        ("batch.failed", json!(0)),
        ("requests", json!(requests.len())),
        ("retries", json!(0)),
    ] {
        assert_eq!(about.get(name), Some(&value), "{name} of {about:?}");
    }
    assert!(about["batch.lag_ms"].as_i64() > Some(0), "{about:?}");

    let (requests, of_statements): (Vec<_>, Vec<_>) =
        requests.into_iter().partition(|span| attribute(span, "projection") == json!("account-summary"));
    assert_eq!((requests.len(), of_statements.len()), (6, 6), "one write an account");
    for span in &requests {
        assert_eq!((&span.trace_id, &span.parent_span_id, span.kind()), (&own.trace_id, &own.span_id, SpanKind::Client));
        let expected = [
            ("db.operation.name", json!("UpdateItem")),
            ("db.system.name", json!("aws.dynamodb")),
            ("projection", json!("account-summary")),
        ];
        assert_eq!((span.name.as_str(), attributes(&span.attributes)), ("UpdateItem on a home row", expected.into()));
        assert!(own.start_time_unix_nano <= span.start_time_unix_nano && span.end_time_unix_nano <= own.end_time_unix_nano);
        assert!(span.start_time_unix_nano < span.end_time_unix_nano && span.events.is_empty() && !failed(span), "{span:?}");
    }

    assert_eq!(lambda.invoke(batch(&records(&events))).await, done());
    let Invocation { own, requests } = collector.invocation();
    let about = attributes(&own.attributes);
    assert_eq!((&about["faas.coldstart"], &about["faas.invocation_id"]), (&json!(false), &json!("request-2")));
    assert_eq!((&about["batch.applied"], &about["batch.duplicate"]), (&json!(0), &json!(40)));
    assert!(!about.contains_key("batch.lag_ms") && !requests.is_empty(), "a redelivery has no lag: {about:?}");

    let Answer::Response(_) = lambda.invoke(r#"{"verify":{"projection":"account-summary"}}"#).await else { panic!("it is a task") };
    let Invocation { own, requests } = collector.invocation();
    assert_eq!((attribute(&own, "faas.trigger"), attribute(&own, "batch.records")), (json!("other"), Json::Null));
    assert!(requests.iter().any(|span| span.name == "Scan of the event store"));

    let Answer::Error(_) = lambda.invoke("{}").await else { panic!("it is no batch") };
    let Invocation { own, requests } = collector.invocation();
    assert_eq!((attribute(&own, "error.type"), failed(&own), requests.len()), (json!("NotABatch"), true, 0));
}

/// An event that concerns one projection.
fn category(id: &str) -> [RecordedEvent; 1] {
    let event = history("forum", 1, 1, 1).remove(0);
    [RecordedEvent { aggregate: id.into(), ..event }]
}

#[tokio::test]
async fn a_request_span_records_its_retries_and_their_causes() {
    let (world, collector) = (World::new().await, Collector::new().await);
    let refused = |name: &str| Fault::Instead(400, json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{name}") }).to_string());
    let proxy = Proxy::new(&world, move |call| match call.number {
        1 => ("throttled", refused("ThrottlingException")),
        2 => ("failed", Fault::Instead(500, r#"{"__type":"InternalServerError"}"#.to_owned())),
        4 => ("denied", refused("AccessDeniedException")),
        _ => ("", Fault::None),
    })
    .await;
    let door = proxy.door().await;
    let mut lambda = Lambda::start_in(traced(environment_at(&door.url), &collector.url)).await;
    lambda.trace = Some(SAMPLED.to_owned());
    assert_eq!(lambda.invoke(batch(&records(&category("alice")))).await, done());

    let Invocation { own, requests } = collector.invocation();
    let [request] = requests.as_slice() else { panic!("one request, with all its tries: {requests:?}") };
    assert_eq!((attribute(request, "retries"), attribute(request, "error.type"), failed(request)), (json!(2), Json::Null, false));
    let tries: Vec<_> =
        request.events.iter().map(|event| (event.name.as_str(), attributes(&event.attributes)["error.type"].clone())).collect();
    assert_eq!(tries, [("retry", json!("ThrottlingException")), ("retry", json!("InternalServerError"))]);
    assert_eq!((attribute(&own, "requests"), attribute(&own, "retries"), failed(&own)), (json!(3), json!(2), false));

    assert_ne!(lambda.invoke(batch(&records(&category("bob")))).await, done(), "the worker has no permission");
    let Invocation { own, requests } = collector.invocation();
    let [request] = requests.as_slice() else { panic!("no retry helps: {requests:?}") };
    assert_eq!((attribute(request, "error.type"), failed(request)), (json!("AccessDeniedException"), true));
    assert_eq!((attribute(&own, "batch.failed"), failed(&own)), (json!(1), true));
}

#[tokio::test]
async fn no_trace_holds_event_data() {
    let (world, collector) = (World::new().await, Collector::new().await);
    let mut environment = collector.environment(&world).await;
    environment.insert("AWS_LAMBDA_LOG_LEVEL", "TRACE".to_owned());
    let mut lambda = Lambda::start_in(environment).await;
    let records = marked(events());
    assert_ne!(lambda.invoke(batch(&records)).await, done());
    let Answer::Error(_) = lambda.invoke(format!(r#"{{"Records":"{MARKER}"}}"#)).await else { panic!("it is no batch") };

    let told = collector.requests();
    assert_eq!(told.len(), 2);
    for told in &told {
        assert!(!told.windows(MARKER.len()).any(|part| part == MARKER.as_bytes()), "{}", String::from_utf8_lossy(told));
    }
    let own = spans(ExportTraceServiceRequest::decode(told[0].clone()).expect("OTLP")).pop().expect("the invocation ends last");
    let events: Vec<_> = own.events.iter().map(|event| event.name.as_str()).collect();
    assert!(events.contains(&"aggregate parked") && events.contains(&"records failed"), "as in the log: {events:?}");
}

#[tokio::test]
async fn log_lines_are_the_same_with_and_without_traces() {
    let collector = Collector::new().await;
    let mut logs = Vec::new();
    for traces in [false, true] {
        let world = World::new().await;
        let environment = if traces { collector.environment(&world).await } else { environment(&world).await };
        let mut lambda = Lambda::start_in(environment).await;
        lambda.trace = Some(SAMPLED.to_owned());
        let mut poison = category("carol");
        poison[0].data = deposit_of("a word");
        let records = [records(&account("alice", &["1", "2"])), records(&account("bob", &["1", "2"])), records(&poison)].concat();
        assert_eq!(lambda.invoke(batch(&records)).await, done());
        let Answer::Error(_) = lambda.invoke("{}").await else { panic!("it is no batch") };
        let mut lines = log_lines(&lambda.stop().await);
        for line in &mut lines {
            assert!(line["timestamp"].take().is_string() && line["span"].is_object(), "{line}");
        }
        logs.push(lines);
    }
    assert_eq!(logs[0], logs[1]);
    assert_eq!(logs[0].len(), 3, "the parked aggregate, the batch, and the payload that was not a batch: {:?}", logs[0]);
    assert_eq!(collector.take().len(), 2);
}

#[tokio::test]
async fn a_failing_collector_never_fails_an_invocation() {
    let (world, events) = (World::new().await, events());
    let refusing = Collector::start(Conduct::Answers(StatusCode::INTERNAL_SERVER_ERROR)).await;
    let hanging = Collector::start(Conduct::Hangs).await;
    // Bound to a port, but not listening.
    let absent = TcpSocket::new_v4().expect("a socket");
    absent.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let absent_url = format!("http://{}", absent.local_addr().expect("an address"));
    for url in [&refusing.url, &hanging.url, &absent_url] {
        let mut environment = traced(environment(&world).await, url);
        environment.remove("OTEL_EXPORTER_OTLP_TIMEOUT");
        let mut lambda = Lambda::start_in(environment).await;
        let begun = Instant::now();
        for chunk in records(&events).chunks(14) {
            assert_eq!(lambda.invoke(batch(chunk)).await, done(), "{url}");
        }
        assert!(begun.elapsed() < PLENTY / 2, "{:?}", begun.elapsed());
        let Answer::Error(error) = lambda.invoke("{}").await else { panic!("it is no batch") };
        assert!(error.contains("NotABatch"), "{error}");
        let output = lambda.stop().await;
        assert_eq!(warnings(&output).len(), 1, "warned once: {}", text(&output));
    }
    assert_eq!(world.rows().await, fold(registry(), &events));
    assert_eq!(refusing.requests().len(), 4, "a refused request delays nothing");
    assert_eq!(hanging.requests().len(), 1, "a hanging collector is left alone for a while");
}

#[tokio::test]
async fn an_invocation_out_of_time_does_not_wait_for_a_collector() {
    let (world, collector) = (World::new().await, Collector::start(Conduct::Hangs).await);
    let mut lambda = Lambda::start_in(collector.environment(&world).await).await;
    let expected = r#"{"batchItemFailures":[{"itemIdentifier":"1"}]}"#;
    let answer = lambda.invoke_until(SystemTime::now(), batch(&records(&account("alice", &["1"])))).await;
    assert_eq!((answer, collector.requests().len()), (Answer::Response(expected.to_owned()), 0));
    assert_eq!(warnings(&lambda.stop().await), [""; 0]);
}

#[tokio::test]
async fn unsampled_invocations_are_not_sent_unless_the_sampler_is_set() {
    let (world, collector) = (World::new().await, Collector::new().await);
    let mut environment = collector.environment(&world).await;
    let mut lambda = Lambda::start_in(environment.clone()).await;
    let records = records(&account("alice", &["1"]));
    lambda.trace = Some(UNSAMPLED.to_owned());
    assert_eq!(lambda.invoke(batch(&records)).await, done());
    assert_eq!(collector.requests().len(), 0);
    for header in [None, Some(""), Some("Root=1-5759e988;Parent=;Sampled=1")] {
        lambda.trace = header.map(str::to_owned);
        assert_eq!(lambda.invoke(batch(&records)).await, done());
        let own = collector.invocation().own;
        assert!(own.parent_span_id.is_empty() && hex(&own.trace_id) != TRACE, "it starts a new trace: {own:?}");
    }

    environment.insert("OTEL_TRACES_SAMPLER", "always_on".to_owned());
    let mut lambda = Lambda::start_in(environment.clone()).await;
    lambda.trace = Some(UNSAMPLED.to_owned());
    assert_eq!(lambda.invoke(batch(&records)).await, done());
    assert_eq!(hex(&collector.invocation().own.trace_id), TRACE);

    environment.insert("OTEL_TRACES_SAMPLER", "always_off".to_owned());
    let mut lambda = Lambda::start_in(environment).await;
    lambda.trace = Some(SAMPLED.to_owned());
    assert_eq!(lambda.invoke(batch(&records)).await, done());
    assert_eq!(collector.requests().len(), 0);
}

#[tokio::test]
async fn the_resource_is_the_function_unless_standard_variables_override_it() {
    let (world, collector) = (World::new().await, Collector::new().await);
    let resource = async |variables: &[(&'static str, &str)]| {
        let mut environment = environment(&world).await;
        environment.insert("OTEL_EXPORTER_OTLP_TIMEOUT", "30000".to_owned());
        environment.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let mut lambda = Lambda::start_in(environment).await;
        assert_eq!(lambda.invoke(batch(&[])).await, done());
        let mut told = collector.take();
        assert_eq!(told.len(), 1);
        let resource = told.remove(0).resource_spans.remove(0).resource.expect("a resource");
        let attributes = attributes(&resource.attributes).into_iter().map(|(name, value)| (name.to_owned(), value));
        attributes.collect::<BTreeMap<_, _>>()
    };
    let exact = format!("{}/v1/traces", collector.url);
    let plain = resource(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &exact)]).await;
    for (name, value) in [
        ("service.name", "projection-worker"),
        ("faas.name", "projection-worker"),
        ("faas.version", "$LATEST"),
        ("cloud.provider", "aws"),
        ("cloud.platform", "aws_lambda"),
        ("cloud.region", "eu-central-1"),
        ("telemetry.sdk.language", "rust"),
    ] {
        assert_eq!(plain.get(name), Some(&json!(value)), "{name}");
    }
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str());
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=by-attribute,deployment.environment.name=prod");
    let named = resource(&[endpoint, attributes]).await;
    assert_eq!((&named["service.name"], &named["deployment.environment.name"]), (&json!("by-attribute"), &json!("prod")));
    let named = resource(&[endpoint, attributes, ("OTEL_SERVICE_NAME", "by-name")]).await;
    assert_eq!((&named["service.name"], &named["deployment.environment.name"]), (&json!("by-name"), &json!("prod")));
}

#[tokio::test]
async fn an_unusable_collector_address_is_reported_at_startup() {
    let world = World::new().await;
    for url in ["https://collector.example", "localhost:4318", "http://", "http://a b"] {
        let mut lambda = Lambda::start_in(traced(environment(&world).await, url)).await;
        assert_eq!(lambda.invoke(batch(&[])).await, done());
        let output = lambda.stop().await;
        let told = warnings(&output);
        assert!(told.len() == 1 && told[0].starts_with("nothing is traced: "), "{url}: {}", text(&output));
        assert_eq!(log_lines(&output)[0]["level"], "WARN", "before anything else");
    }
}

#[tokio::test]
async fn a_panic_has_a_trace() {
    let (world, collector) = (World::with(Registry::new(&[&Panicking])).await, Collector::new().await);
    let mut lambda = panicking_worker(collector.environment(&world).await).await;
    let mut events = account("alice", &["1"]);
    events[0].data = deposit_of(MARKER);
    let Answer::Error(error) = lambda.invoke(batch(&records(&events))).await else { panic!("a panic is no success") };
    assert!(error.contains("Lambda panicked"), "{error}");
    let told = collector.requests();
    assert!(told.iter().all(|told| !told.windows(MARKER.len()).any(|part| part == MARKER.as_bytes())));
    let own = collector.invocation().own;
    assert_eq!((attribute(&own, "error.type"), attribute(&own, "batch.failed"), failed(&own)), (json!("panic"), json!(1), true));
    let events: Vec<_> = own.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["panicked: a bug in the worker or in a rule", "records failed"]);
}
