//! The development console: the whole loop on one machine. The embedded DynamoDB, its stream delivered as Lambda would deliver it, the
//! worker with all projections and processes, a naive handler beside it, faults at the press of a button, and a page that shows it all.

mod broken;
mod checks;
mod compare;
mod faults;
mod fixture;
mod journal;
mod mapping;
mod naive;
mod pages;
mod traffic;
mod web;
mod worker;

use std::{
    panic::resume_unwind,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::TryFutureExt as _;
use poller::Settings;
use projection_vocabulary::{AggregateId, Attributes, Deciders, DynProjection, RecordedEvent, Registry, Version, data, sample::Sample};
use serde_json::Value as Json;
use tokio::{net::TcpListener, task::JoinSet};

use self::{
    checks::Checks, compare::Comparison, journal::Journal, mapping::Arrived, mapping::Mapping, naive::Naive, traffic::Traffic, worker::Ours,
};
use crate::{
    Calls, Worker,
    embedded::{Embedded, EmbeddedError},
    engine::decode::{Body, decode},
    operations::{
        preview::{Preview, SegmentPreview},
        processes,
    },
    plural::count,
    retry::Deadline,
    sources::stream::{Begin, StreamError, StreamReader},
    store::{self, Store, StoreError, TableNames, append::AppendError, events::Stored, segment::Segment},
};

pub use naive::NaiveError;
pub use web::Access;

/// How often the stream is read. Lambda reads each shard four times a second.
const READ_EVERY: Duration = Duration::from_millis(50);
/// How often timers run out. On AWS a schedule does this each minute.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// How often the naive handler's rows are compared with ours while nothing is under way, and at most while something is.
const COMPARE_EVERY: Duration = Duration::from_millis(250);
const COMPARE_AT_LEAST_EVERY: Duration = Duration::from_secs(2);
/// How many pages of events are read to compare the rows of a projection with its rule: some thousands of events.
const PREVIEWED_PAGES_MAX: usize = 20;
/// Records in a batch.
pub const BATCH_RECORDS: usize = 100;
/// The mapping of the worker, as in the template; the records that it gives up are kept.
const OURS: Settings = Settings { batch_size: BATCH_RECORDS, parallelization: 1, retries_max: Some(10), bisect: true };
/// The mapping of the naive handler, with AWS's defaults: a failed batch is repeated until its records are too old.
const NAIVE: Settings = Settings { batch_size: BATCH_RECORDS, parallelization: 1, retries_max: None, bisect: false };

/// What a console works with.
pub struct Options {
    /// The database. Its tables must exist.
    pub embedded: Embedded,
    /// The names of its tables.
    pub names: TableNames,
    /// The projections.
    pub registry: Registry,
    /// The projections as the next deployment would have them, if they are compared.
    pub next: Option<Registry>,
    /// What takes commands.
    pub deciders: Deciders,
    /// The functions that processes call.
    pub calls: Calls,
    /// The domains of which events can be made up.
    pub samples: &'static [Sample],
    /// Where fixtures are saved.
    pub fixtures: PathBuf,
    /// Where the database is served, as the page tells it.
    pub database_url: String,
}

/// The console.
pub struct Console {
    registry: Registry,
    next: Option<Registry>,
    deciders: Deciders,
    samples: &'static [Sample],
    fixtures: PathBuf,
    database_url: String,
    embedded: Embedded,
    /// For the page and its commands: its requests are not the worker's.
    store: Arc<Store>,
    /// For what an operator does from the page, and for timers.
    operator: Arc<Worker>,
    ours: Ours,
    ours_mapping: Mapping,
    naive: Naive,
    naive_mapping: Mapping,
    /// Whether the naive handler has begun: it begins with copies of our rows, once those count what was there before.
    naive_began: AtomicBool,
    comparison: Comparison,
    journal: Arc<Journal>,
    traffic: Traffic,
    checks: Checks,
    warnings: Mutex<Vec<String>>,
    began: Instant,
}

/// The console has ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The stream cannot be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The database fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The event store has no stream.
    #[error("the event store has no stream: enable one with new images")]
    NoStream,
    /// The naive handler cannot begin.
    #[error(transparent)]
    Naive(#[from] NaiveError),
    /// A second database cannot be created.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The page cannot be served.
    #[error("the page cannot be served: {0}")]
    Server(#[from] std::io::Error),
}

/// What became of a button.
enum Pressed {
    Done(&'static str),
    Refused(String),
}

impl Console {
    /// A console, not yet running.
    ///
    /// # Errors
    /// [`DevError`].
    pub async fn new(options: Options) -> Result<Arc<Self>, DevError> {
        let Options { embedded, names, registry, next, deciders, calls, samples, fixtures, database_url } = options;
        let journal = Arc::new(Journal::new());
        let store = Arc::new(Store::new(embedded.client(), names.clone()));
        let operator = Worker::new(Store::new(embedded.client(), names.clone()), registry).with_calls(calls.clone());
        let broken = broken::broken(registry);
        Ok(Arc::new(Self {
            ours: Ours::new(&embedded, names.clone(), registry, broken, calls, journal.clone()),
            naive: Naive::new(names, registry).await?,
            registry,
            next,
            deciders,
            samples,
            fixtures,
            database_url,
            embedded,
            store,
            operator: Arc::new(operator),
            ours_mapping: Mapping::new(OURS),
            naive_mapping: Mapping::new(NAIVE),
            naive_began: AtomicBool::new(false),
            comparison: Comparison::default(),
            journal,
            traffic: Traffic::default(),
            checks: Checks::default(),
            warnings: Mutex::default(),
            began: Instant::now(),
        }))
    }

    /// Runs the loop, and serves the page on a listener, until `stop` resolves.
    ///
    /// # Errors
    /// [`DevError`].
    pub async fn run(
        self: &Arc<Self>,
        listener: TcpListener,
        access: Access,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), DevError> {
        // Each part is a task of its own, so that none waits while another works. Dropping the set ends them.
        let mut parts = JoinSet::new();
        parts.spawn(web::serve(self.clone(), listener, access, stop).err_into());
        parts.spawn(self.clone().read_stream());
        parts.spawn(self.clone().deliver_to_ours());
        parts.spawn(self.clone().deliver_to_the_naive());
        parts.spawn(self.clone().make_traffic());
        parts.spawn(self.clone().tick());
        parts.spawn(self.clone().compare());
        parts.spawn(self.clone().run_checks());
        parts.spawn(self.clone().compare_rules());
        let first = parts.join_next().await.expect("there are parts");
        first.unwrap_or_else(|panicked| resume_unwind(panicked.into_panic()))
    }

    async fn deliver_to_ours(self: Arc<Self>) -> Result<(), DevError> {
        self.ours_mapping.run(&self.ours, &self.ours.faults).await;
        Ok(())
    }

    async fn deliver_to_the_naive(self: Arc<Self>) -> Result<(), DevError> {
        self.naive_mapping.run(&self.naive, &self.naive.faults).await;
        Ok(())
    }

    async fn make_traffic(self: Arc<Self>) -> Result<(), DevError> {
        self.traffic.run(&self.store, self.samples).await;
        Ok(())
    }

    /// Reads the stream from its beginning and hands its records to the mappings.
    async fn read_stream(self: Arc<Self>) -> Result<(), DevError> {
        let arn = self.store.event_store_stream().await?.ok_or(DevError::NoStream)?;
        let mut reader = StreamReader::new(self.embedded.streams_client(), arn, Begin::Oldest);
        loop {
            while let Some(page) = reader.next_page().await? {
                let records: Vec<_> = page.iter().map(|record| Arc::new(arrived(record))).collect();
                self.take(records);
            }
            if !self.naive_began.load(Relaxed) && self.ours_mapping.standing().idle {
                self.naive.begin_with(&self.store).await?;
                self.naive_began.store(true, Relaxed);
            }
            tokio::time::sleep(READ_EVERY).await;
        }
    }

    fn take(&self, records: Vec<Arc<Arrived>>) {
        let events = records.iter().filter(|record| record.event.is_some() || record.is_poison).count() as u64;
        if self.naive_began.load(Relaxed) {
            for event in records.iter().filter_map(|record| record.event.as_ref()) {
                for rule in self.registry.read_models().filter(|rule| rule.concerns(&event.aggregate, &event.event_type)) {
                    self.comparison.touch(rule.name(), &event.aggregate);
                }
            }
            self.naive_mapping.push(records.clone());
        }
        self.ours_mapping.push(records);
        self.journal.note(Vec::new(), |totals| totals.events += events);
    }

    async fn tick(self: Arc<Self>) -> Result<(), DevError> {
        loop {
            tokio::time::sleep(TICK_EVERY).await;
            if self.registry.processes().next().is_some()
                && let Err(error) = processes::tick(&self.operator, &store::now(), Deadline::NONE).await
            {
                tracing::warn!("timers were not looked at: {error}");
            }
        }
    }

    async fn compare(self: Arc<Self>) -> Result<(), DevError> {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(COMPARE_EVERY).await;
            let idle = self.ours_mapping.standing().idle && self.naive_mapping.standing().idle;
            if !self.naive_began.load(Relaxed) || (!idle && last.elapsed() < COMPARE_AT_LEAST_EVERY) {
                continue;
            }
            last = Instant::now();
            let written = self.naive.take_written();
            match self.comparison.look(self.registry, &self.store, &self.naive.rows, written).await {
                Ok(true) => self.journal.touch(),
                Ok(false) => {}
                Err(error) => tracing::warn!("rows were not compared: {error}"),
            }
        }
    }

    /// Appends an event that no projection that it concerns can apply.
    async fn append_poison(&self, aggregate: &str) -> Result<Pressed, StoreError> {
        let aggregate = AggregateId::from(aggregate);
        let version = self.store.current_version(&aggregate).await?.next();
        let event = |event_type: &str| RecordedEvent {
            aggregate: aggregate.clone(),
            version,
            event_id: format!("poison-{}", fastrand::u64(..)).into(),
            event_type: event_type.into(),
            data: data! { poison: true },
            timestamp: store::now(),
            metadata: None,
        };
        // Of the types that a projection has which knows the aggregate: another one has nothing to do with it.
        let first = self.store.load_page(&aggregate, Version::NONE.next()..=version, 1, Deadline::NONE).await?.pop();
        let first = if let Some(Stored::Event(first)) = first { Some(first.event_type) } else { None };
        let knows = |rule: &&'static dyn DynProjection| first.as_ref().is_none_or(|first| rule.event_types().contains(&&**first));
        let refused = |rule: &&'static dyn DynProjection, name: &&&str| rule.change(&event(name), &Attributes::new()).is_err();
        let chosen = self.registry.read_models().filter(knows).find_map(|rule| rule.event_types().iter().find(|name| refused(&rule, name)));
        let Some(event_type) = chosen else {
            return Ok(Pressed::Refused("no rule here refuses an event with wrong data".to_owned()));
        };
        match self.store.append(version.previous(), &[event(event_type)]).await {
            Ok(_) => Ok(Pressed::Done("a poison event was appended")),
            Err(AppendError::Store(error)) => Err(error),
            Err(error) => Ok(Pressed::Refused(error.to_string())),
        }
    }

    /// Compares rows that were there before with what the rules make of their histories now, as far as a moment allows.
    async fn compare_rules(self: Arc<Self>) -> Result<(), DevError> {
        while !self.naive_began.load(Relaxed) {
            tokio::time::sleep(COMPARE_EVERY).await;
        }
        let mut warnings = Vec::new();
        for rule in self.registry.read_models() {
            let mut part = SegmentPreview::new(&self.store, rule, Segment::ALL, 1);
            for _ in 0..PREVIEWED_PAGES_MAX {
                match part.step(Deadline::NONE).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!("the rows of {} were not compared with its rule: {error}", rule.name());
                        break;
                    }
                }
            }
            warnings.extend(warning(rule, &part.preview));
        }
        *self.warnings.lock().unwrap_or_else(PoisonError::into_inner) = warnings;
        // Once, when the console starts: a rule changes when its program does.
        std::future::pending().await
    }

    /// What speaks against the rules as they are.
    fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn uptime(&self) -> Duration {
        self.began.elapsed()
    }
}

fn warning(rule: &dyn DynProjection, preview: &Preview) -> Option<String> {
    let (name, rows) = (rule.name(), count(preview.unexplained, "row"));
    (preview.unexplained > 0).then(|| {
        format!(
            "{rows} of {name} would be others under its rule, and its own revision wrote them: if the rule has changed, raise its REVISION; if \
             not, verify"
        )
    })
}

fn arrived(record: &Json) -> Arrived {
    let raw = serde_json::value::to_raw_value(record).expect("JSON is JSON");
    let position = record["dynamodb"]["SequenceNumber"].as_str().unwrap_or_default().to_owned();
    let item = record["dynamodb"]["Keys"].to_string();
    let (event, is_poison) = match decode(&raw).body {
        Body::Event(event) => (Some(Arc::new(event)), false),
        Body::Poison(_) => (None, true),
        Body::Ignored(_) | Body::Rewritten { .. } | Body::Unusable(_) => (None, false),
    };
    Arrived { raw, position, item, event, is_poison, at: Instant::now() }
}
