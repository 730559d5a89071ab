//! The event source mapping: what Lambda hands to the worker, and what becomes of what fails
//! (<https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-params.html>).

use std::collections::BTreeMap;

use projection_vocabulary::{RecordedEvent, Timestamp, Value, Version};
use quamina::Quamina;
use serde_json::{Value as Json, json};

use super::{Check, Deployment, Examination, Setting, Severity, is};
use crate::{sources::stream_json::inserted, store::item::VERSION_SK};

/// An event source mapping.
#[derive(Debug)]
pub struct Mapping {
    /// Its logical id in a template, or its UUID.
    pub name: String,
    /// The ARN of the stream.
    pub stream: Setting<String>,
    /// Whether it is switched on; when deployed, its state.
    pub state: Setting<String>,
    /// How Lambda fared last, when deployed.
    pub last_result: Setting<String>,
    /// Where it began to read.
    pub starting_position: Setting<String>,
    /// The most records of a batch.
    pub batch_size: Setting<i64>,
    /// How long records are gathered for a batch, in seconds.
    pub batching_window_s: Setting<i64>,
    /// How long a window of aggregation is, in seconds.
    pub tumbling_window_s: Setting<i64>,
    /// How many batches of a shard are under way at once.
    pub parallelization: Setting<i64>,
    /// How often a batch that fails comes again; -1 without an end.
    pub retries_max: Setting<i64>,
    /// How old a record may become, in seconds; -1 as old as the stream lets it.
    pub record_age_max_s: Setting<i64>,
    /// Whether a batch that fails is cut in two.
    pub bisect: Setting<bool>,
    /// What answers Lambda understands.
    pub response_types: Setting<Vec<String>>,
    /// The patterns of which a record must match one.
    pub filters: Setting<Vec<String>>,
    /// The service that gets what is given up, as ARNs name it.
    pub on_failure: Setting<String>,
}

/// What a stream keeps (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Streams.html>), less an hour to get away with it.
const RECORD_AGE_MAX_S: i64 = 23 * 60 * 60;
/// Who is called at night needs as long.
const RECORD_AGE_MIN_S: i64 = 60 * 60;
/// Fewer tries are over in less time than DynamoDB may be out of reach.
const RETRIES_MIN: i64 = 10;
/// What Lambda takes where nothing is said.
const BATCH_SIZE_DEFAULT: i64 = 100;
/// Up to here a batch need not be waited for.
const BATCH_SIZE_WITHOUT_WINDOW: i64 = 10;
/// The states of one that works, or is about to.
const ON: [&str; 4] = ["Creating", "Enabling", "Updating", "Enabled"];

static MAPPING: Check = Check {
    name: "mapping",
    severity: Severity::Error,
    why: "Nothing hands events to the worker.",
    fix: "an AWS::Lambda::EventSourceMapping from the event store's stream to the worker, and only one",
};
static STATE: Check = Check {
    name: "state",
    severity: Severity::Error,
    why: "As long as the mapping is off no event is counted, and what is older than 24 hours has left the stream.",
    fix: "Enabled: true; after more than 24 hours, projector catch-up as well",
};
static LAST_RESULT: Check = Check {
    name: "last-result",
    severity: Severity::Error,
    why: "Lambda cannot read the stream or invoke the worker.",
    fix: "look at the function's role, at its concurrency and at its log",
};
static RESPONSE_TYPE: Check = Check {
    name: "response-type",
    severity: Severity::Error,
    why: "Lambda takes each answer of the worker for full success: what failed is never delivered again.",
    fix: "FunctionResponseTypes: [ReportBatchItemFailures]",
};
static PARALLELIZATION: Check = Check {
    name: "parallelization",
    severity: Severity::Warning,
    why: "Above 1 Lambda keeps the order of an item alone, and each event is an item of its own: an aggregate's events come in any order, \
          look like gaps and are read from the event store once more.",
    fix: "ParallelizationFactor: 1",
};
static ON_FAILURE: Check = Check {
    name: "on-failure",
    severity: Severity::Error,
    why: "What is given up, after its retries or by its age, is forgotten, and nothing tells what is missing.",
    fix: "DestinationConfig.OnFailure.Destination: the ARN of an S3 bucket",
};
static ON_FAILURE_KIND: Check = Check {
    name: "on-failure-kind",
    severity: Severity::Error,
    why: "S3 alone keeps the records. All others get their place in the stream, which forgets them within 24 hours.",
    fix: "DestinationConfig.OnFailure.Destination: the ARN of an S3 bucket",
};
static STARTING_POSITION: Check = Check {
    name: "starting-position",
    severity: Severity::Error,
    why: "Other positions pass over events that come while the mapping is made. What comes twice from TRIM_HORIZON counts once.",
    fix: "StartingPosition: TRIM_HORIZON; then projector catch-up",
};
static FILTER: Check = Check {
    name: "filter",
    severity: Severity::Error,
    why: "An event that is kept back is a hole in its aggregate's history: it is read from the event store if another follows, and missing \
          from the rows until then. Event types that no projection names cost nothing: never filter by them.",
    fix: r#"FilterCriteria.Filters: one, with the Pattern {"eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#,
};
static FILTER_WIDE: Check = Check {
    name: "filter-wide",
    severity: Severity::Warning,
    why: "Each append changes an item that is no event. The worker ignores it; the invocation is paid all the same.",
    fix: FILTER.fix,
};
static RETRIES: Check = Check {
    name: "retries",
    severity: Severity::Warning,
    why: "What fails is an outage or a bad deployment, for a bad event is parked. After so few tries it is given up before anybody can look.",
    fix: "MaximumRetryAttempts: 1000, so that the age decides",
};
static RECORD_AGE: Check = Check {
    name: "record-age",
    severity: Severity::Error,
    why: "The stream forgets records after 24 hours. What has not been given up by then never reaches the destination: it is lost.",
    fix: "MaximumRecordAgeInSeconds: 43200, and 82800 at most",
};
static RECORD_AGE_SHORT: Check = Check {
    name: "record-age-short",
    severity: Severity::Warning,
    why: "An outage or a bad deployment of an hour sends all events to the destination, and somebody has to replay them.",
    fix: "MaximumRecordAgeInSeconds: 43200",
};
static BISECT: Check = Check {
    name: "bisect",
    severity: Severity::Warning,
    why: "A batch that ends the process, for want of memory or time, comes again whole each time, and its shard stands until it is too old.",
    fix: "BisectBatchOnFunctionError: true",
};
static BATCH_WINDOW: Check = Check {
    name: "batch-window",
    severity: Severity::Warning,
    why: "Without a window a batch is what one look at the shard finds, so that ten events of an aggregate are up to ten writes in place of \
          one. Lambda's reference asks for a second at least with batches of more than 10.",
    fix: "MaximumBatchingWindowInSeconds: 1",
};
static TUMBLING_WINDOW: Check = Check {
    name: "tumbling-window",
    severity: Severity::Error,
    why: "Lambda then passes a state from answer to answer. The worker keeps none, and gives none back.",
    fix: "no TumblingWindowInSeconds",
};

/// All that is judged here.
pub(super) static CHECKS: &[&Check] = &[
    &MAPPING,
    &STATE,
    &LAST_RESULT,
    &RESPONSE_TYPE,
    &PARALLELIZATION,
    &ON_FAILURE,
    &ON_FAILURE_KIND,
    &STARTING_POSITION,
    &FILTER,
    &FILTER_WIDE,
    &RETRIES,
    &RECORD_AGE,
    &RECORD_AGE_SHORT,
    &BISECT,
    &BATCH_WINDOW,
    &TUMBLING_WINDOW,
];

pub(super) fn examine(deployment: &Deployment, examination: &mut Examination) {
    let function = &deployment.function.name;
    let count = Setting::Value(deployment.mappings.len());
    examination.judge(&MAPPING, format!("event source mappings of {function}:"), &count, |count| match count {
        Some(1) => None,
        Some(0) => Some("no stream of DynamoDB invokes it".to_owned()),
        // A shard has room for two readers, and each event is delivered by each mapping.
        count => Some(format!("there {}", is(count).replace("is", "are"))),
    });
    for mapping in &deployment.mappings {
        of(mapping, examination);
    }
}

fn of(mapping: &Mapping, examination: &mut Examination) {
    let at = |property: &str| format!("{}.{property}", mapping.name);
    examination.refuse(&STATE, at("Enabled"), &mapping.state, |state| !ON.contains(&state.as_str()));
    examination.refuse(&LAST_RESULT, at("LastProcessingResult"), &mapping.last_result, |result| result.starts_with("PROBLEM"));
    examination.judge(&RESPONSE_TYPE, at("FunctionResponseTypes"), &mapping.response_types, |types| {
        let reports = types.is_some_and(|types| types.iter().any(|kind| kind == "ReportBatchItemFailures"));
        (!reports).then(|| "does not have ReportBatchItemFailures".to_owned())
    });
    examination.demand(&PARALLELIZATION, at("ParallelizationFactor"), &mapping.parallelization.or(1), &1);
    let destination = at("DestinationConfig.OnFailure");
    examination.judge(&ON_FAILURE, destination.clone(), &mapping.on_failure, |service| service.is_none().then(|| is(service)));
    examination.refuse(&ON_FAILURE_KIND, destination, &mapping.on_failure, |service| service != "s3");
    examination.demand(&STARTING_POSITION, at("StartingPosition"), &mapping.starting_position, &"TRIM_HORIZON".to_owned());
    let matcher = mapping.filters.as_ref().some(|patterns| !patterns.is_empty()).then(|patterns| matcher(patterns));
    examination.judge(&FILTER, at("FilterCriteria"), &matcher, |matcher| kept_back(matcher?));
    examination.judge(&FILTER_WIDE, at("FilterCriteria"), &matcher, let_through);
    examination.refuse(&RETRIES, at("MaximumRetryAttempts"), &mapping.retries_max, |retries| (0..RETRIES_MIN).contains(retries));
    examination.judge(&RECORD_AGE, at("MaximumRecordAgeInSeconds"), &mapping.record_age_max_s, |age| {
        (!age.is_some_and(|age| (0..=RECORD_AGE_MAX_S).contains(age))).then(|| is(age))
    });
    examination
        .refuse(&RECORD_AGE_SHORT, at("MaximumRecordAgeInSeconds"), &mapping.record_age_max_s, |age| (0..RECORD_AGE_MIN_S).contains(age));
    examination.demand(&BISECT, at("BisectBatchOnFunctionError"), &mapping.bisect.or(false), &true);
    let batch = mapping.batch_size.or(BATCH_SIZE_DEFAULT).and(&mapping.batching_window_s.or(0));
    examination.judge(&BATCH_WINDOW, at("MaximumBatchingWindowInSeconds"), &batch, |batch| {
        batch
            .filter(|(size, window)| *size > BATCH_SIZE_WITHOUT_WINDOW && *window < 1)
            .map(|(size, window)| format!("is {window}, for batches of {size}"))
    });
    examination.demand(&TUMBLING_WINDOW, at("TumblingWindowInSeconds"), &mapping.tumbling_window_s.or(0), &0);
}

impl Mapping {
    /// Whether it takes from a stream of DynamoDB, as far as it can be told.
    pub(super) fn is_of_dynamodb(&self) -> bool {
        match &self.stream {
            Setting::Value(arn) => arn.ends_with(".StreamArn}") || (arn.contains(":dynamodb:") && arn.contains("/stream/")),
            Setting::Unset => false,
            // A queue has no position to start from.
            Setting::Unseen(_) => self.starting_position != Setting::Unset,
        }
    }

    /// The most records of a batch, as far as it can be told.
    pub(super) fn records_max(&self) -> Setting<i64> {
        self.batch_size.or(BATCH_SIZE_DEFAULT)
    }
}

/// What matches records as Lambda does (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html>).
fn matcher(patterns: &[String]) -> Result<Quamina<usize>, String> {
    let mut matcher = Quamina::new();
    for (at, pattern) in patterns.iter().enumerate() {
        matcher.add_pattern(at, pattern).map_err(|error| format!("pattern {} cannot be tried here: {error}", at + 1))?;
    }
    Ok(matcher)
}

fn passes(matcher: &Quamina<usize>, record: &Json) -> bool {
    matcher.has_matches(record.to_string().as_bytes()).expect("a record is JSON")
}

/// Which events are kept back: tried on records as DynamoDB writes them, of types and ids that no template can know.
fn kept_back(matcher: &Quamina<usize>) -> Option<String> {
    let samples = [("a", 1, "Opened"), ("b#2", 2, "Closed"), ("VERSION", 9_999_999_999, "EVENT#")];
    let kept = samples.into_iter().find(|(aggregate, version, event_type)| {
        let event = RecordedEvent {
            aggregate: (*aggregate).into(),
            version: Version(*version),
            event_id: format!("{aggregate}-{version}").into(),
            event_type: (*event_type).into(),
            data: Value::Map(BTreeMap::new()),
            timestamp: Timestamp::from_epoch_ms(0).expect("the beginning of 1970"),
            metadata: None,
        };
        !passes(matcher, &inserted(&event, *version))
    });
    kept.map(|(_, version, event_type)| format!("keeps back events: one of version {version} and type `{event_type}`, for example"))
}

/// What is let through that is no event's insertion; without a pattern all is.
fn let_through(matcher: Option<&Quamina<usize>>) -> Option<String> {
    let record = |name: &str, sort_key: &str| {
        let keys = json!({ "PK": { "S": "AGGREGATE#a" }, "SK": { "S": sort_key } });
        json!({ "eventName": name, "dynamodb": { "Keys": keys, "NewImage": keys } })
    };
    let others = [("INSERT", VERSION_SK), ("MODIFY", VERSION_SK), ("MODIFY", "EVENT#0000000001"), ("REMOVE", "EVENT#0000000001")];
    let passing = others.into_iter().find(|(name, key)| matcher.is_none_or(|matcher| passes(matcher, &record(name, key))));
    passing.map(|(name, key)| {
        let item = if key == VERSION_SK { "an aggregate's VERSION item" } else { "an event" };
        format!("lets through {name} records of {item}")
    })
}
