//! The event source mapping: which records Lambda sends to the worker, and what happens to those that fail
//! (<https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-params.html>).

use super::{
    Check, Deployment, Examination, Role, Setting, Severity,
    filter::{Filter, Stream, Unjudged, without_filter},
    is,
};

/// The settings of an event source mapping.
#[derive(Debug)]
pub struct Mapping {
    /// Its logical id in a template, or its UUID.
    pub name: String,
    /// The ARN of the stream.
    pub stream: Setting<String>,
    /// Whether it is enabled; once deployed, its state.
    pub state: Setting<String>,
    /// The result of Lambda's last poll, once deployed.
    pub last_result: Setting<String>,
    /// Where it starts to read.
    pub starting_position: Setting<String>,
    /// The maximum number of records in a batch.
    pub batch_size: Setting<i64>,
    /// How long Lambda gathers records for a batch, in seconds.
    pub batching_window_s: Setting<i64>,
    /// The length of an aggregation window, in seconds.
    pub tumbling_window_s: Setting<i64>,
    /// How many batches of a shard are in progress at once.
    pub parallelization: Setting<i64>,
    /// How often a failed batch is retried; -1 for no limit.
    pub retries_max: Setting<i64>,
    /// The maximum age of a record, in seconds; -1 for no limit other than the stream's.
    pub record_age_max_s: Setting<i64>,
    /// Whether a failed batch is split in two.
    pub bisect: Setting<bool>,
    /// The kinds of answers that Lambda reads.
    pub response_types: Setting<Vec<String>>,
    /// The filter patterns. A record must match at least one.
    pub filters: Setting<Vec<String>>,
    /// The service that receives discarded batches, as named in ARNs.
    pub on_failure: Setting<String>,
    /// The groups of metrics that Lambda publishes for it: `EventCount`.
    pub metrics: Setting<Vec<String>>,
}

/// Something other than a DynamoDB stream that invokes the worker.
#[derive(Debug)]
pub struct OtherSource {
    /// Its logical id in a template, or the UUID of its event source mapping.
    pub name: String,
    /// What it is, in words: `sqs`.
    pub kind: String,
}

/// How long a stream keeps records (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Streams.html>), less one hour in
/// which Lambda can send them to the destination.
const RECORD_AGE_MAX_S: i64 = 23 * 60 * 60;
/// Long enough for whoever is on call to respond.
const RECORD_AGE_MIN_S: i64 = 60 * 60;
/// Fewer retries are used up before an outage of DynamoDB ends.
const RETRIES_MIN: i64 = 10;
/// Lambda's default.
const BATCH_SIZE_DEFAULT: i64 = 100;
/// Up to this size, Lambda does not require a batching window.
const BATCH_SIZE_WITHOUT_WINDOW: i64 = 10;
/// The states of a mapping that works, or is about to.
const ON: [&str; 4] = ["Creating", "Enabling", "Updating", "Enabled"];

static MAPPING: Check = Check {
    name: "mapping",
    severity: Severity::Error,
    why: "Nothing sends events to the worker, or it receives each event more than once, or something that it does not understand: it \
          answers the batches of other sources with an error, and they are retried until they are discarded.",
    fix: "exactly one AWS::Lambda::EventSourceMapping from the event store's stream to the worker",
};
static STATE: Check = Check {
    name: "state",
    severity: Severity::Error,
    why: "While the mapping is disabled no event is counted, and events older than 24 hours leave the stream.",
    fix: "Enabled: true; after more than 24 hours, also run projector catch-up",
};
static LAST_RESULT: Check = Check {
    name: "last-result",
    severity: Severity::Error,
    why: "Lambda cannot read the stream or invoke the worker.",
    fix: "check the function's role, its concurrency and its log",
};
static RESPONSE_TYPE: Check = Check {
    name: "response-type",
    severity: Severity::Error,
    why: "Lambda treats every answer of the worker as full success: failed records are never redelivered.",
    fix: "FunctionResponseTypes: [ReportBatchItemFailures]",
};
static PARALLELIZATION: Check = Check {
    name: "parallelization",
    severity: Severity::Warning,
    why: "Above 1, Lambda preserves order only per item, and each event is its own item. An aggregate's events can arrive out of order, \
          which looks like gaps and costs extra event-store reads.",
    fix: "ParallelizationFactor: 1",
};
static ON_FAILURE: Check = Check {
    name: "on-failure",
    severity: Severity::Error,
    why: "When Lambda discards a batch, after its retries or because of its age, no trace is left of the missing events.",
    fix: "DestinationConfig.OnFailure.Destination: the ARN of an S3 bucket",
};
static ON_FAILURE_KIND: Check = Check {
    name: "on-failure-kind",
    severity: Severity::Error,
    why: "Only an S3 destination receives the records. The others get stream positions, which expire after 24 hours.",
    fix: "DestinationConfig.OnFailure.Destination: the ARN of an S3 bucket",
};
static STARTING_POSITION: Check = Check {
    name: "starting-position",
    severity: Severity::Error,
    why: "Other positions skip events that arrive while the mapping is being created. Events that TRIM_HORIZON delivers again count once.",
    fix: "StartingPosition: TRIM_HORIZON; then projector catch-up",
};
static FILTER: Check = Check {
    name: "filter",
    severity: Severity::Error,
    why: "A filtered event is a gap in its aggregate's history. It is missing from the rows until another event of the aggregate arrives, \
          then it is read from the event store. Event types that no projection names cost nothing, so never filter by type.",
    fix: r#"FilterCriteria.Filters: one, with the Pattern {"eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#,
};
static FILTER_PATTERN: Check = Check {
    name: "filter-pattern",
    severity: Severity::Error,
    why: "Lambda refuses the filter, so the event source mapping is not created or changed. Each field of a pattern has a list of values.",
    fix: FILTER.fix,
};
static FILTER_WIDE: Check = Check {
    name: "filter-wide",
    severity: Severity::Warning,
    why: "Each append also changes an item that is not an event. The worker ignores its record, but the invocation costs the same.",
    fix: FILTER.fix,
};
static RETRIES: Check = Check {
    name: "retries",
    severity: Severity::Warning,
    why: "Bad events are parked, so a failure is an outage or a bad deployment. After so few retries, Lambda discards the batch before \
          anybody can respond.",
    fix: "MaximumRetryAttempts: 1000, so that the age limit decides",
};
static RECORD_AGE: Check = Check {
    name: "record-age",
    severity: Severity::Error,
    why: "The stream deletes records after 24 hours. A batch not discarded by then is lost: it never reaches the destination.",
    fix: "MaximumRecordAgeInSeconds: 43200 (at most 82800)",
};
static RECORD_AGE_SHORT: Check = Check {
    name: "record-age-short",
    severity: Severity::Warning,
    why: "After an outage or a bad deployment of an hour, all events are in the destination, and somebody has to replay them.",
    fix: "MaximumRecordAgeInSeconds: 43200",
};
static BISECT: Check = Check {
    name: "bisect",
    severity: Severity::Warning,
    why: "A batch that kills the process, for lack of memory or time, is retried whole each time and blocks its shard until it is too old.",
    fix: "BisectBatchOnFunctionError: true",
};
static BATCH_WINDOW: Check = Check {
    name: "batch-window",
    severity: Severity::Warning,
    why: "Without a window, a batch holds what one poll of the shard finds, so ten events of an aggregate may cost ten writes instead of \
          one. Lambda's reference requires at least one second for batches of more than 10.",
    fix: "MaximumBatchingWindowInSeconds: 1",
};
static TUMBLING_WINDOW: Check = Check {
    name: "tumbling-window",
    severity: Severity::Error,
    why: "Lambda then expects each answer to return the state of the window. The worker's answers have none.",
    fix: "no TumblingWindowInSeconds",
};

/// All checks of this module.
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
    &FILTER_PATTERN,
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
        Some(0) => Some("no DynamoDB stream invokes it".to_owned()),
        // A shard supports two readers, and each mapping delivers every event.
        count => Some(format!("there {}", is(count).replace("is", "are"))),
    });
    for OtherSource { name, kind } in &deployment.other_sources {
        let kind = Setting::Value(kind);
        examination
            .judge(&MAPPING, format!("{name} of {function}:"), &kind, |kind| kind.map(|kind| format!("{kind} is not a DynamoDB stream")));
    }
    let event_store = deployment.tables.iter().find(|(role, _)| matches!(role, Role::EventStore));
    let view = event_store.map_or(Setting::Unset, |(_, table)| table.as_ref().and_then(|table| table.stream_view.clone()));
    for mapping in &deployment.mappings {
        examine_mapping(mapping, &view, examination);
    }
}

/// `view` is that of the event store's stream.
fn examine_mapping(mapping: &Mapping, view: &Setting<String>, examination: &mut Examination) {
    let at = |property: &str| format!("{}.{property}", mapping.name);
    examination.reject_if(&STATE, at("Enabled"), &mapping.state, |state| !ON.contains(&state.as_str()));
    examination.reject_if(&LAST_RESULT, at("LastProcessingResult"), &mapping.last_result, |result| result.starts_with("PROBLEM"));
    examination.judge(&RESPONSE_TYPE, at("FunctionResponseTypes"), &mapping.response_types, |types| {
        let reports = types.is_some_and(|types| types.iter().any(|kind| kind == "ReportBatchItemFailures"));
        (!reports).then(|| "does not have ReportBatchItemFailures".to_owned())
    });
    examination.require(&PARALLELIZATION, at("ParallelizationFactor"), &mapping.parallelization.or(1), &1);
    let destination = at("DestinationConfig.OnFailure");
    examination.judge(&ON_FAILURE, destination.clone(), &mapping.on_failure, |service| service.is_none().then(|| is(service)));
    examination.reject_if(&ON_FAILURE_KIND, destination, &mapping.on_failure, |service| service != "s3");
    examination.require(&STARTING_POSITION, at("StartingPosition"), &mapping.starting_position, &"TRIM_HORIZON".to_owned());
    examine_filter(&mapping.filters, &Stream { arn: &mapping.stream, view }, &at("FilterCriteria"), examination);
    examination.reject_if(&RETRIES, at("MaximumRetryAttempts"), &mapping.retries_max, |retries| (0..RETRIES_MIN).contains(retries));
    examination.judge(&RECORD_AGE, at("MaximumRecordAgeInSeconds"), &mapping.record_age_max_s, |age| {
        (!age.is_some_and(|age| (0..=RECORD_AGE_MAX_S).contains(age))).then(|| is(age))
    });
    examination.reject_if(&RECORD_AGE_SHORT, at("MaximumRecordAgeInSeconds"), &mapping.record_age_max_s, |age| {
        (0..RECORD_AGE_MIN_S).contains(age)
    });
    examination.require(&BISECT, at("BisectBatchOnFunctionError"), &mapping.bisect.or(false), &true);
    let batch = mapping.batch_size.or(BATCH_SIZE_DEFAULT).and(&mapping.batching_window_s.or(0));
    examination.judge(&BATCH_WINDOW, at("MaximumBatchingWindowInSeconds"), &batch, |batch| {
        batch
            .filter(|(size, window)| *size > BATCH_SIZE_WITHOUT_WINDOW && *window < 1)
            .map(|(size, window)| format!("is {window}, for batches of {size}"))
    });
    examination.require(&TUMBLING_WINDOW, at("TumblingWindowInSeconds"), &mapping.tumbling_window_s.or(0), &0);
}

fn examine_filter(filters: &Setting<Vec<String>>, stream: &Stream<'_>, at: &str, examination: &mut Examination) {
    let filter = filters.as_ref().and_then(|patterns| if patterns.is_empty() { Setting::Unset } else { Setting::Value(patterns) });
    let filter = filter.and_then(|patterns| Setting::Value(Filter::read(patterns, stream)));
    let read = match filter {
        Setting::Value(Ok(filter)) => Setting::Value(filter),
        Setting::Value(Err(Unjudged::Refused(why))) => {
            examination.judge(&FILTER_PATTERN, at.to_owned(), &Setting::Value(()), |_| Some(why));
            return;
        }
        Setting::Value(Err(Unjudged::Unknown(why))) | Setting::Unseen(why) => Setting::Unseen(why),
        Setting::Unset => Setting::Unset,
    };
    if let Setting::Value(_) = read {
        examination.judge(&FILTER_PATTERN, at.to_owned(), &read, |_| None);
    }
    let withheld = read.as_ref().try_map(Filter::withheld_event);
    examination.judge(&FILTER, at.to_owned(), &withheld, |withheld| withheld?.clone());
    // Without a filter every record passes.
    let needless = read.as_ref().try_map(Filter::needless_record).or(Some(without_filter()));
    examination.judge(&FILTER_WIDE, at.to_owned(), &needless, |needless| needless?.clone());
}

impl Mapping {
    /// Whether it reads a DynamoDB stream, as far as that can be determined.
    pub(super) fn is_of_dynamodb(&self) -> bool {
        match &self.stream {
            Setting::Value(arn) => arn.ends_with(".StreamArn}") || (arn.contains(":dynamodb:") && arn.contains("/stream/")),
            Setting::Unset => false,
            // A queue has no starting position.
            Setting::Unseen(_) => self.starting_position != Setting::Unset,
        }
    }

    /// The maximum number of records in a batch, or Lambda's default.
    pub(super) fn records_max(&self) -> Setting<i64> {
        self.batch_size.or(BATCH_SIZE_DEFAULT)
    }
}
