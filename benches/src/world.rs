//! A worker on a database in this process, over a network that can be slow and knows how much of the time was spent beyond it.

use std::{
    collections::HashSet,
    fmt,
    net::TcpListener,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector},
        orchestrator::{HttpRequest, HttpResponse},
    },
    http::StatusCode,
};
use cpu_time::ThreadTime;
use projection_vocabulary::{DynProjection, Registry};
use projection_worker::{
    Deadline, Report, Store, TableNames, Worker,
    internals::{
        clients::of_endpoint,
        embedded::{Embedded, server},
        engine::decode::decode,
    },
};
use serde::Deserialize;
use serde_json::{Value as Json, json, value::RawValue};

use crate::measure::runtime;

/// A worker, and the database that it works on.
pub struct World {
    pub worker: Worker,
    pub network: Network,
    embedded: Embedded,
    /// Where it is served.
    url: Option<String>,
}

impl World {
    /// An empty database with the tables of these rules, each request to which takes this time on the way.
    pub async fn new(rules: &'static [&'static dyn DynProjection], latency: Duration) -> Self {
        Self::on(Embedded::memory().expect("a database"), rules, latency).await
    }

    /// The same on a database.
    pub async fn on(embedded: Embedded, rules: &'static [&'static dyn DynProjection], latency: Duration) -> Self {
        let network = Network { latency, ..Network::default() };
        let worker = worker(&embedded, rules, &network);
        worker.store().create_tables(Registry::new(rules)).await.expect("tables");
        Self { worker, network, embedded, url: None }
    }

    /// The same, served over HTTP by a thread of its own, with all that HTTP costs both sides.
    pub async fn served(rules: &'static [&'static dyn DynProjection]) -> Self {
        let embedded = Embedded::memory().expect("a database");
        let url = serve(embedded.clone());
        let registry = Registry::new(rules);
        let worker = Worker::new(Store::new(of_endpoint(&url).expect("an address"), names(registry)), registry);
        worker.store().create_tables(registry).await.expect("tables");
        Self { worker, network: Network::default(), embedded, url: Some(url) }
    }

    /// Another worker, which knows nothing of the first one. Requests to both conflict as those of two Lambdas do.
    pub fn another_worker(&self, rules: &'static [&'static dyn DynProjection]) -> Worker {
        worker(&self.embedded, rules, &self.network)
    }

    /// A client of the database over the same network.
    pub fn client(&self) -> aws_sdk_dynamodb::Client {
        if let Some(url) = &self.url {
            return of_endpoint(url).expect("an address");
        }
        self.embedded.client_with(|inner| self.network.clone().before(inner))
    }

    /// Calls the database as the SDK does, without it.
    pub fn connector(&self) -> SharedHttpConnector {
        let mut connector = None;
        drop(self.embedded.client_with(|inner| {
            connector = Some(inner.clone());
            inner
        }));
        connector.expect("it was given")
    }
}

/// Serves a database until this process ends, and returns its address.
fn serve(embedded: Embedded) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        runtime().block_on(async {
            listener.set_nonblocking(true).expect("a socket");
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            server::serve(listener, embedded, std::future::pending()).await.expect("it serves");
        });
    });
    url
}

fn worker(embedded: &Embedded, rules: &'static [&'static dyn DynProjection], network: &Network) -> Worker {
    let registry = Registry::new(rules);
    let client = embedded.client_with(|inner| network.clone().before(inner));
    Worker::new(Store::new(client, names(registry)), registry)
}

/// Tables with the names of their projections.
pub fn names(registry: Registry) -> TableNames {
    TableNames::from_env_or_default(registry, |_| None)
}

/// A batch as Lambda passes it to the function.
#[derive(Deserialize)]
pub struct Payload<'a> {
    /// The records, not decoded yet.
    #[serde(rename = "Records", borrow)]
    pub records: Vec<&'a RawValue>,
}

/// Processes a payload from its bytes on, and insists that all of it was counted.
pub async fn process(worker: &Worker, payload: &[u8]) -> Report {
    let report = try_process(worker, payload).await;
    assert_eq!((report.total.parked, report.total.failed), (0, 0), "everything is counted: {:?}", report.reasons);
    report
}

/// Processes a payload from its bytes on. What has failed is to be delivered again.
pub async fn try_process(worker: &Worker, payload: &[u8]) -> Report {
    let batch: Payload<'_> = serde_json::from_slice(payload).expect("a payload");
    let records = batch.records.iter().map(|record| decode(record)).collect();
    worker.process_decoded(records, Deadline::NONE).await
}

/// The way to the database and back.
#[derive(Clone, Default)]
pub struct Network {
    latency: Duration,
    beyond: Arc<AtomicU64>,
    under_way: Arc<Mutex<HashSet<String>>>,
}

impl Network {
    /// The CPU time that the database has taken so far.
    pub fn beyond(&self) -> Duration {
        Duration::from_nanos(self.beyond.load(Relaxed))
    }

    fn before(self, inner: SharedHttpConnector) -> Connector {
        Connector { network: self, inner }
    }
}

struct Connector {
    network: Network,
    inner: SharedHttpConnector,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (inner, Network { latency, beyond, under_way }) = (self.inner.clone(), self.network.clone());
        HttpConnectorFuture::new(async move {
            let Some(_items) = (if latency.is_zero() { Some(UnderWay::default()) } else { UnderWay::begin(&under_way, &request) }) else {
                return Ok(conflict(&request));
            };
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            Timed { inner: Box::pin(inner.call(request)), beyond }.await
        })
    }
}

/// Adds up the CPU time of a future.
struct Timed {
    inner: Pin<Box<HttpConnectorFuture>>,
    beyond: Arc<AtomicU64>,
}

impl Future for Timed {
    type Output = <HttpConnectorFuture as Future>::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let begun = ThreadTime::now();
        let polled = self.inner.as_mut().poll(cx);
        self.beyond.fetch_add(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Relaxed);
        polled
    }
}

/// The items of a transaction under way. As long as it is, another one of any of them conflicts, which the embedded database never says.
#[derive(Default)]
struct UnderWay {
    all: Arc<Mutex<HashSet<String>>>,
    items: Vec<String>,
}

impl UnderWay {
    /// `None` if one of the items is in another transaction.
    fn begin(all: &Arc<Mutex<HashSet<String>>>, request: &HttpRequest) -> Option<Self> {
        let mut under_way = all.lock().expect("nobody panics with it");
        let items = items(request);
        if items.iter().any(|item| under_way.contains(item)) {
            return None;
        }
        under_way.extend(items.iter().cloned());
        Some(Self { all: all.clone(), items })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut under_way = self.all.lock().expect("nobody panics with it");
        self.items.iter().for_each(|item| _ = under_way.remove(item));
    }
}

/// The items that a transaction writes, and none of any other request.
fn items(request: &HttpRequest) -> Vec<String> {
    let is_transaction = request.headers().get("x-amz-target").is_some_and(|target| target.ends_with("TransactWriteItems"));
    let body = request.body().bytes().filter(|_| is_transaction).unwrap_or(b"{}");
    let body: Json = serde_json::from_slice(body).expect("requests are JSON");
    let actions = body["TransactItems"].as_array().into_iter().flatten().flat_map(|action| action.as_object().into_iter().flatten());
    actions
        .filter(|(_, action)| action["Key"].is_object())
        .map(|(_, action)| format!("{} {}", action["TableName"], action["Key"]))
        .collect()
}

/// What DynamoDB answers to a transaction one of whose items is in another one.
fn conflict(request: &HttpRequest) -> HttpResponse {
    let reasons: Vec<_> =
        items(request).iter().map(|_| json!({ "Code": "TransactionConflict", "Message": "Transaction is ongoing for the item" })).collect();
    let body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException", "Message": "Transaction cancelled", "CancellationReasons": reasons,
    });
    HttpResponse::new(StatusCode::try_from(400).expect("a status"), body.to_string().into())
}
