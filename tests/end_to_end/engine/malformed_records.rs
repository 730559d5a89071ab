//! Thousands of malformed records among valid ones: each has exactly one outcome, and no valid record suffers.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use projection_vocabulary::{AggregateId, Attributes, RecordedEvent, Rows, Value, Version};
use projection_worker::internals::{
    engine::decode::{Body, decode, decode_any},
    engine::report::Checkpoint,
    retry::Deadline,
};
use serde_json::value::RawValue;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _};

use crate::support::{
    malformed_records::{Claim, MARKERS, Malformed, malformed_records},
    world::{World, account, fold, record, registry},
};

/// Malformed records in a batch, and more valid ones: if half or more were to be parked, the whole batch would fail.
const MALFORMED: usize = 40;
const VALID: usize = 50;
/// A batch takes a fraction of a second; one that takes this long hangs.
const BATCH_TIME_MAX: Duration = Duration::from_mins(1);

/// The expected outcome of a record, given how it decodes.
#[derive(Debug)]
enum Expected {
    Applied(RecordedEvent),
    Ignored,
    /// Its aggregate is parked in the projection.
    Parked(AggregateId),
    /// The record is parked as a stray.
    Stray(String),
    /// The record fails: the stream is misconfigured.
    Failed,
}

fn expected(malformed: &Malformed) -> Expected {
    let known = |event_type: &str| registry().projections().iter().any(|rule| rule.event_types().contains(&event_type));
    match decode(&malformed.record).body {
        Body::Event(event) if !known(&event.event_type) => Expected::Ignored,
        Body::Event(event) => {
            let fits = registry().projections().iter().all(|rule| Rows::default().fold(*rule, &event).is_ok());
            if event.version == Version(1) && fits { Expected::Applied(event) } else { Expected::Parked(event.aggregate) }
        }
        Body::Poison(poison) => match (poison.event, poison.event_type) {
            (Some(_), Some(event_type)) if !known(&event_type) => Expected::Ignored,
            (Some((aggregate, _)), Some(_)) => Expected::Parked(aggregate),
            _ => Expected::Stray(poison.record_id),
        },
        Body::Ignored(_) | Body::Rewritten { .. } => Expected::Ignored,
        Body::Unusable(_) => Expected::Failed,
    }
}

/// Whether a record's expected outcome agrees with its claim.
fn holds(Malformed { event, claim, .. }: &Malformed, expected: &Expected) -> bool {
    let deposit = |event: &RecordedEvent| if let Value::Map(data) = &event.data { data.get("initialDeposit").cloned() } else { None };
    match (claim, expected) {
        (Claim::Event(event), Expected::Applied(applied)) => applied == event,
        (Claim::Event(_), _) => false,
        (Claim::Refused, expected) => !matches!(expected, Expected::Applied(_)),
        (Claim::Meaningless, Expected::Applied(applied)) => {
            let same = (&applied.aggregate, applied.version, &applied.event_type, &applied.timestamp, deposit(applied));
            same == (&event.aggregate, event.version, &event.event_type, &event.timestamp, deposit(event))
        }
        (Claim::Meaningless, _) => true,
    }
}

/// Ordinary inserts have a way of their own, which must not take a defect for ordinary.
#[test]
fn malformed_records_decode_alike_on_the_short_way_and_on_the_long_one() {
    for Malformed { what, record, .. } in malformed_records() {
        assert_eq!(decode(&record), decode_any(&record), "{what}");
    }
}

#[test]
fn malformed_records_decode_as_claimed() {
    let malformed = malformed_records();
    let wrong =
        malformed.iter().map(|malformed| (malformed, expected(malformed))).filter(|(malformed, expected)| !holds(malformed, expected));
    let wrong: Vec<_> = wrong.map(|(malformed, expected)| format!("{}: {:?}, not {expected:?}", malformed.what, malformed.claim)).collect();
    assert!(wrong.is_empty(), "of {} records these disagree with their claim:\n{}", malformed.len(), wrong.join("\n"));
}

#[tokio::test]
async fn every_malformed_record_has_one_outcome_and_no_valid_record_suffers() {
    let log = Log::default();
    let _heard = log.listen();
    let world = World::new().await;
    let malformed = malformed_records();
    assert!(malformed.len() >= 2_000, "{} are too few", malformed.len());
    let batches = malformed.chunks(MALFORMED);
    let amounts: Vec<String> = (1..=batches.len()).map(|amount| format!("{amount}.25")).collect();
    let amounts: Vec<&str> = amounts.iter().map(String::as_str).collect();
    let valid: Vec<_> = (0..VALID).map(|at| account(&format!("valid-{at:02}"), &amounts)).collect();
    let (mut applied, mut parked_aggregates, mut strays) = (valid.concat(), BTreeSet::new(), BTreeMap::<String, u64>::new());
    for (turn, malformed) in batches.enumerate() {
        let mut records: Vec<_> = valid.iter().zip(1..).map(|(events, position)| record(&events[turn], position)).collect();
        let (mut parked, mut ignored, mut failed, mut events) = (0, 0, 0, 0);
        for (at, malformed) in malformed.iter().enumerate() {
            records.insert(2 * at, malformed.record.clone());
            let expected = expected(malformed);
            match expected {
                Expected::Applied(event) => {
                    events += 1;
                    applied.push(event);
                }
                Expected::Ignored => ignored += 1,
                Expected::Failed => failed += 1,
                Expected::Parked(aggregate) => {
                    parked += 1;
                    assert!(parked_aggregates.insert(aggregate), "{} has an aggregate of its own", malformed.what);
                }
                Expected::Stray(id) => {
                    parked += 1;
                    *strays.entry(format!("record#{id}")).or_default() += 1;
                }
            }
        }
        let report = tokio::time::timeout(BATCH_TIME_MAX, world.worker.process(&records, Deadline::NONE)).await.expect("no batch hangs");
        assert_eq!(report.records, records.len() as u64);
        let total = report.total;
        let outcomes = (total.applied, total.duplicate, total.parked, report.ignored_total(), total.failed);
        let these = || malformed.iter().map(|malformed| malformed.what.as_str()).collect::<Vec<_>>().join("\n");
        assert_eq!(outcomes, (VALID as u64 + events, 0, parked, ignored, failed), "{:?} for\n{}", report.reasons, these());
        assert!(is_free_of_data(&format!("{report:?}")));
    }
    let mut rows = fold(registry(), &applied);
    let wait = Attributes::from([("parked".into(), Value::Bool(true))]);
    rows.get_mut("account-summary").expect("the projection").extend(parked_aggregates.iter().map(|id| (id.as_str().into(), wait.clone())));
    assert_eq!(world.rows().await, rows);

    let parked = world.worker.store().parked().await.expect("the parking table");
    assert!(parked.iter().all(|parked| is_free_of_data(&parked.reason)), "no reason contains event data");
    let (alone, together): (Vec<_>, Vec<_>) = parked.into_iter().partition(|parked| parked.projection == "-");
    assert_eq!(alone.into_iter().map(|parked| (parked.aggregate, parked.count)).collect::<BTreeMap<_, _>>(), strays);
    let together: BTreeSet<_> = together.iter().map(|parked| AggregateId::from(parked.aggregate.as_str())).collect();
    assert_eq!(together, parked_aggregates);
    assert!(strays.len() >= 200 && parked_aggregates.len() >= 200, "there are {} and {}", strays.len(), parked_aggregates.len());

    let log = log.text();
    assert!(log.contains("record parked") && log.contains("aggregate parked"), "the log is captured");
    let telling: Vec<_> = log.lines().filter(|line| !is_free_of_data(line)).collect();
    assert!(telling.is_empty(), "{telling:#?} contain event data");
}

#[tokio::test]
async fn a_batch_of_mostly_unreadable_records_fails_and_is_not_parked() {
    let world = World::new().await;
    let valid = account("good", &["1", "2"]);
    let junk = (0..20).map(|at| RawValue::from_string(format!(r#"{{"swordfish":{at}}}"#)).expect("JSON"));
    let records: Vec<_> = junk.chain(valid.iter().zip(1..).map(|(event, position)| record(event, position))).collect();
    let report = world.worker.process(&records, Deadline::NONE).await;
    assert_eq!((report.total.applied, report.total.parked, report.total.failed), (2, 0, 20), "{:?}", report.reasons);
    // They have no sequence number, so the whole batch is redelivered.
    assert_eq!((report.checkpoint, world.parked().await), (Checkpoint::WholeBatch, vec![]));
    assert_eq!(world.rows().await, fold(registry(), &valid));
}

/// Whether a text contains none of the event data.
fn is_free_of_data(text: &str) -> bool {
    !MARKERS.iter().any(|word| text.contains(word))
}

/// The worker's log at the Lambda's most verbose level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Listens on this thread while both results live.
    fn listen(&self) -> (tracing::subscriber::DefaultGuard, tracing::Dispatch) {
        let log = self.clone();
        let heard = Targets::new().with_target("projection_worker", LevelFilter::TRACE).with_default(LevelFilter::INFO);
        let lines = fmt::layer().with_ansi(false).with_writer(move || log.clone());
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines).with(heard));
        // As long as there is only one subscriber, `tracing` asks that of the thread on which an event occurs first whether anybody wants
        // it. A test on another thread has none, and the event would be silent here, too.
        (guard, tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default()))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no test panics while it holds this").clone()).expect("a log is text")
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no test panics while it holds this").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
