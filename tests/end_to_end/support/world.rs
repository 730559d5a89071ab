//! A database for each test, with a worker on it, and the histories and rows that tests compare.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
    },
    http::StatusCode,
};
use futures::future::BoxFuture;
use projection_vocabulary::{AggregateId, Attributes, DynProjection, RecordedEvent, Registry, RowId, Rows, Value, Version, sample::Fact};
use projection_worker::{
    Queries, Worker,
    internals::{
        embedded::Embedded,
        engine::report::Report,
        operations::import::{BulkImport, Captured},
        retry::Deadline,
        store::{
            Store, TableNames,
            append::APPEND_EVENTS_MAX,
            import::{Import, Imported},
            item::{SdkItem, encode_event},
            parking::Parked,
        },
    },
};
use serde_dynamo::Item;
use serde_json::{json, value::RawValue};
use tokio::sync::Notify;

/// A database with all tables, and a worker with one of this repository's projections for each domain.
pub struct World {
    pub embedded: Embedded,
    pub worker: Worker,
}

/// Visible rows by projection.
pub type Everything = BTreeMap<&'static str, BTreeMap<RowId, Attributes>>;

/// One projection of each domain, both without child rows: most tests count the outcomes, requests and write units of one projection each.
pub const ONE_EACH: &[&dyn DynProjection] =
    &[&projections::bank::account_summary::AccountSummary, &projections::forum::forum_counters::ForumCounters];

/// The other one of each domain, both with child rows.
pub const LISTS: &[&dyn DynProjection] =
    &[&projections::bank::account_statement::AccountStatement, &projections::forum::topic_posts::TopicPosts];

/// What the worker of a [`World`] runs.
pub fn registry() -> Registry {
    Registry::new(ONE_EACH)
}

/// What the programs of this repository run.
pub fn included() -> Registry {
    Registry::new(projections::ALL)
}

pub fn names(registry: Registry) -> TableNames {
    TableNames::from_env_or_default(registry, |_| None)
}

impl World {
    pub async fn new() -> Self {
        let world = Self::with(registry()).await;
        // The programs need all tables.
        let included = included();
        Store::new(world.embedded.client(), names(included)).create_tables(included).await.expect("tables");
        world
    }

    pub async fn with(registry: Registry) -> Self {
        let embedded = Embedded::memory().expect("an empty database");
        let worker = Worker::new(Store::new(embedded.client(), names(registry)), registry);
        worker.store().create_tables(registry).await.expect("tables");
        Self { embedded, worker }
    }

    /// Another worker on the same database, whose calls pass through `wrap`.
    pub fn worker_behind<C: HttpConnector + 'static>(&self, registry: Registry, wrap: impl FnOnce(SharedHttpConnector) -> C) -> Worker {
        Worker::new(Store::new(self.embedded.client_with(wrap), names(registry)), registry)
    }

    /// A worker with other rules on the same database; their tables must exist.
    pub fn worker_of(&self, rules: &'static [&'static dyn DynProjection]) -> Worker {
        self.worker_behind(Registry::new(rules), |connector| connector)
    }

    /// Another worker on the same database, over a network that treats each call as planned.
    pub fn tapped(&self, plan: impl Fn(&Call<'_>) -> Fault + Send + Sync + 'static) -> Tapped {
        self.tapped_of(self.worker.registry().projections(), plan)
    }

    /// Same, with other rules.
    pub fn tapped_of(
        &self,
        rules: &'static [&'static dyn DynProjection],
        plan: impl Fn(&Call<'_>) -> Fault + Send + Sync + 'static,
    ) -> Tapped {
        let (calls, hung) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Notify>::default());
        let worker = self.worker_behind(Registry::new(rules), |inner| Network {
            inner,
            plan: Box::new(plan),
            calls: calls.clone(),
            hung: hung.clone(),
        });
        Tapped { worker, hung, calls }
    }

    /// Queries on the same database.
    pub fn queries(&self, rules: &'static [&'static dyn DynProjection]) -> Queries {
        self.reader(rules, |_| Fault::None).queries
    }

    /// Queries on the same database, over a network that treats each call as planned.
    pub fn reader(
        &self,
        rules: &'static [&'static dyn DynProjection],
        plan: impl Fn(&Call<'_>) -> Fault + Send + Sync + 'static,
    ) -> Reader {
        let (calls, hung) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Notify>::default());
        let client = self.embedded.client_with(|inner| Network { inner, plan: Box::new(plan), calls: calls.clone(), hung });
        let store = Arc::new(Store::new(client, names(Registry::new(rules))));
        Reader { queries: Queries::new(store.clone()), store, calls }
    }

    /// Serves the database over HTTP, and returns its address.
    pub async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(dynoxide::server::serve_on(listener, self.embedded.database().clone()));
        url
    }

    /// Puts the events into the event store, as `projector events import` does.
    pub async fn import(&self, events: &[RecordedEvent]) {
        let mut bulk = BulkImport::new(self.worker.store());
        for event in events {
            bulk.add(captured(event, ())).await.expect("imported");
        }
        while let Some(outcomes) = bulk.next().await {
            outcomes.expect("imported");
        }
    }

    /// Overwrites the stored event of this version, as an operator does by hand.
    pub async fn correct(&self, event: &RecordedEvent) {
        let request = self.embedded.client().put_item().table_name("event-store").set_item(Some(encode_event(event)));
        request.send().await.expect("put");
    }

    /// Appends whole histories.
    pub async fn append_all(&self, events: &[RecordedEvent]) {
        let mut events = events.to_vec();
        events.sort_by_key(|event| (event.aggregate.clone(), event.version));
        for history in events.chunk_by(|one, two| one.aggregate == two.aggregate) {
            for batch in history.chunks(APPEND_EVENTS_MAX) {
                self.worker.store().append(batch[0].version.previous(), batch).await.expect("appended");
            }
        }
    }

    pub async fn process(&self, events: &[RecordedEvent]) -> Report {
        self.worker.process(&records(events), Deadline::NONE).await
    }

    /// One visible row as `name=value name=value`; empty if there is none.
    pub async fn row(&self, projection: &str, key: &str) -> String {
        let row = self.rows().await[projection].get(&RowId::from(key)).cloned().unwrap_or_default();
        row.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    /// The parking table's entries: aggregate, version and reason.
    pub async fn parked(&self) -> Vec<(String, Option<u64>, String)> {
        let parked = self.worker.store().parked().await.expect("the parking table");
        parked.into_iter().map(|Parked { aggregate, version, reason, .. }| (aggregate, version.map(|version| version.0), reason)).collect()
    }

    pub async fn rows(&self) -> Everything {
        let mut everything = Everything::new();
        for rule in self.worker.registry().read_models() {
            everything.insert(rule.name(), self.worker.store().visible_rows(rule).await.expect("rows"));
        }
        everything
    }
}

/// One call to the store.
pub struct Call<'a> {
    /// Calls count from 1.
    pub number: usize,
    pub operation: &'a str,
    pub body: &'a str,
}

/// What happens to a call.
pub enum Fault {
    None,
    /// Not applied; answered with this status and JSON instead.
    Answer(u16, String),
    /// Applied; the answer is lost.
    Lost,
    /// Applied; answered with this status and body instead.
    AppliedBut(u16, String),
    /// Applied and answered normally, after this future has completed.
    Meanwhile(BoxFuture<'static, ()>),
    /// Not applied and never answered.
    HungBefore,
    /// Applied, but never answered.
    HungAfter,
}

impl Fault {
    /// An error of DynamoDB, by its name.
    pub fn error(status: u16, name: &str) -> Self {
        Self::Answer(status, json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{name}"), "message": "as planned"}).to_string())
    }
}

/// What DynamoDB or something in between may answer although it has applied the request: statuses and bodies.
pub fn answers_though_applied() -> impl Iterator<Item = (u16, String)> {
    let errors = [
        (500, "InternalServerError"),
        (500, "InternalFailure"),
        (503, "ServiceUnavailable"),
        (400, "TransactionInProgressException"),
        (500, "OfAnotherYear"),
    ];
    let errors = errors.map(|(status, name)| (status, json!({"__type": name, "message": "as planned"}).to_string()));
    let unreadable = [(200, "<html>"), (200, r#"{"ConsumedCapacity":{"#), (502, "<html>"), (504, "")];
    errors.into_iter().chain(unreadable.map(|(status, body)| (status, body.to_owned())))
}

/// A worker, and the calls its network saw.
pub struct Tapped {
    pub worker: Worker,
    /// Notified when a call hangs.
    pub hung: Arc<Notify>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Tapped {
    /// The operations called so far.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no test panics while it holds this").clone()
    }
}

/// Queries, and the calls their network saw.
pub struct Reader {
    pub queries: Queries,
    pub store: Arc<Store>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Reader {
    /// The operations called since this was last asked.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().expect("no test panics while it holds this"))
    }
}

struct Network {
    inner: SharedHttpConnector,
    plan: Box<dyn Fn(&Call<'_>) -> Fault + Send + Sync>,
    calls: Arc<Mutex<Vec<String>>>,
    hung: Arc<Notify>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

impl HttpConnector for Network {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default();
        let body = std::str::from_utf8(request.body().bytes().unwrap_or_default()).expect("requests are JSON");
        let number = {
            let mut calls = self.calls.lock().expect("no test panics while it holds this");
            calls.push(operation.to_owned());
            calls.len()
        };
        let (fault, inner, hung) = ((self.plan)(&Call { number, operation, body }), self.inner.clone(), self.hung.clone());
        HttpConnectorFuture::new(async move {
            match fault {
                Fault::None => inner.call(request).await,
                Fault::Answer(status, json) => {
                    // Yields, so that other workers' calls can come in between, as on a real network.
                    tokio::task::yield_now().await;
                    Ok(HttpResponse::new(StatusCode::try_from(status).expect("a status"), json.into()))
                }
                Fault::AppliedBut(status, body) => {
                    inner.call(request).await?;
                    Ok(HttpResponse::new(StatusCode::try_from(status).expect("a status"), body.into()))
                }
                Fault::Lost => {
                    inner.call(request).await?;
                    Err(ConnectorError::timeout("the answer was lost".into()))
                }
                Fault::Meanwhile(happens) => {
                    happens.await;
                    inner.call(request).await
                }
                Fault::HungBefore => {
                    hung.notify_one();
                    std::future::pending().await
                }
                Fault::HungAfter => {
                    inner.call(request).await?;
                    hung.notify_one();
                    std::future::pending().await
                }
            }
        })
    }
}

/// Events from (aggregate, type, data), numbered as the event store numbers them.
pub fn recorded<'a>(facts: impl IntoIterator<Item = (&'a str, &'static str, Value)>) -> Vec<RecordedEvent> {
    let facts = facts.into_iter().map(|(aggregate, event_type, data)| Fact { aggregate: aggregate.into(), event_type, data });
    projection_vocabulary::sample::record(facts.collect::<Vec<_>>()).collect()
}

/// The events of an account that is opened with the first amount and receives the others as deposits.
pub fn account(id: &str, amounts: &[&str]) -> Vec<RecordedEvent> {
    let amount = |text: &str| Value::Number(text.parse().expect("a test's number"));
    recorded(amounts.iter().enumerate().map(|(at, text)| match at {
        0 => (id, "AccountOpened", Value::Map(BTreeMap::from([("initialDeposit".into(), amount(text))]))),
        _ => (id, "MoneyDeposited", Value::Map(BTreeMap::from([("amount".into(), amount(text))]))),
    }))
}

/// An event's data with a note of this length.
pub fn long_note(bytes: usize) -> Value {
    let note = "x".repeat(bytes);
    Value::Map(BTreeMap::from([("amount".into(), 1.into()), ("note".into(), Value::Text(note.into()))]))
}

/// An event as it is captured, from this origin.
pub fn captured<O>(event: &RecordedEvent, origin: O) -> Captured<O> {
    let (aggregate, version, item) = (event.aggregate.clone(), event.version, encode_event(event));
    let bytes = json!(Item::from(item.clone())).to_string().len();
    Captured { aggregate, version, item, bytes, origin }
}

/// Imports one item.
pub async fn import_item(store: &Store, aggregate: &AggregateId, version: Version, item: SdkItem) -> Imported {
    let import = Import { aggregate: aggregate.clone(), events: vec![(version, item)] };
    store.import(&[import]).await.expect("imported")[0][0]
}

/// A different event with the same version, as a restored event store may hold.
pub fn impostor(event: &RecordedEvent) -> RecordedEvent {
    RecordedEvent { event_id: format!("{}-other", event.event_id).into(), ..event.clone() }
}

/// The stream's record of each event, with sequence numbers in the order given.
pub fn records(events: &[RecordedEvent]) -> Vec<Box<RawValue>> {
    events.iter().zip(1..).map(|(event, position)| record(event, position)).collect()
}

pub fn record(event: &RecordedEvent, position: u64) -> Box<RawValue> {
    let image = json!(Item::from(encode_event(event)));
    let record = json!({
        "eventID": event.event_id, "eventName": "INSERT", "eventVersion": "1.1", "eventSource": "aws:dynamodb", "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_767_225_600, "Keys": { "PK": image["PK"], "SK": image["SK"] }, "NewImage": image,
            "SequenceNumber": position.to_string(), "SizeBytes": 100, "StreamViewType": "NEW_IMAGE",
        },
    });
    serde_json::value::to_raw_value(&record).expect("JSON")
}

/// The expected rows: the fold of each aggregate's events in version order.
pub fn fold(registry: Registry, events: &[RecordedEvent]) -> Everything {
    let mut events: Vec<_> = events.to_vec();
    events.sort_by_key(|event| (event.aggregate.clone(), event.version));
    events.dedup_by_key(|event| (event.aggregate.clone(), event.version));
    let fold_one = |rule: &'static dyn projection_vocabulary::DynProjection| {
        let mut rows = Rows::default();
        for event in &events {
            rows.fold(rule, event).expect("a valid event");
        }
        (rule.name(), rows.visible())
    };
    registry.read_models().map(fold_one).collect()
}

/// A random history of a sample domain, determined by the seed.
pub fn history(domain: &str, seed: u64, events: usize, aggregates: usize) -> Vec<RecordedEvent> {
    let sample = projections::samples::ALL.iter().find(|sample| sample.name == domain).expect("a sample domain");
    let mut random = fastrand::Rng::with_seed(seed);
    let facts = (sample.facts)(&mut |bound| random.u64(..bound), events, aggregates);
    projection_vocabulary::sample::record(facts).collect()
}
