//! The function that runs the worker: does it know its tables, and does it have time and memory for a batch?

use std::collections::BTreeMap;

use projection_vocabulary::Registry;

use super::{Check, Deployment, Examination, Mapping, Role, Setting, Severity, is};
use crate::{clients::ATTEMPT_TIMEOUT, engine::worker::CONCURRENCY, retry::WORKING_PERCENT};

/// The settings of a function.
#[derive(Debug)]
pub struct Function {
    /// Its logical id in a template, or its name.
    pub name: String,
    /// The longest time of an invocation, in seconds.
    pub timeout_s: Setting<i64>,
    /// Its memory, in MB. Its share of processors grows with it.
    pub memory_mb: Setting<i64>,
    /// Its environment variables.
    pub variables: Setting<BTreeMap<String, Setting<String>>>,
    /// The lowest level of log lines that Lambda keeps, if the log format is JSON.
    pub log_level: Setting<String>,
    /// How many invocations may run at once, if that is reserved for the function; zero stops it.
    pub reserved_concurrency: Setting<i64>,
}

/// Lambda's defaults
/// (<https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-function.html>).
const TIMEOUT_DEFAULT_S: i64 = 3;
const MEMORY_DEFAULT_MB: i64 = 128;
/// The memory with which a function gets one full processor (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>).
const MEMORY_OF_A_PROCESSOR_MB: f64 = 1_769.0;
/// The peak cost of a record, with a margin. Measured with batches of 1,000 and of 10,000 events of nearly as many aggregates, without
/// TLS: 0.45 ms of processor time, and 10 kB on top of 10 MB.
const PROCESSOR_OF_A_RECORD_S: f64 = 0.000_6;
const MEMORY_OF_A_RECORD_MB: f64 = 0.012_5;
const MEMORY_ALWAYS_MB: f64 = 20.0;
/// The time of a transaction. The median of a small one, measured from a Lambda in the same region, is 25 ms.
const TRANSACTION_S: f64 = 0.025;

/// Levels that drop the metrics.
const TOO_STRICT: [&str; 3] = ["WARN", "ERROR", "FATAL"];

static ENVIRONMENT: Check = Check {
    name: "environment",
    severity: Severity::Error,
    why: "The worker does not start without the names of its tables.",
    fix: "Environment.Variables: one for the event store, one for the parking table, one for each projection",
};
static TIMEOUT: Check = Check {
    name: "timeout",
    severity: Severity::Error,
    why: "The worker starts nothing in the last fifth of its time, so that requests in progress, which take up to 3 s, can finish. With a \
          shorter timeout every invocation may be cut off, and its whole batch is redelivered.",
    fix: "Timeout: 60",
};
static BATCH_TIME: Check = Check {
    name: "batch-time",
    severity: Severity::Warning,
    why: "Records of a full batch that are not finished in time fail and are redelivered, which uses up their retries and their age.",
    fix: "a longer Timeout, more MemorySize (which adds processor time) or a smaller BatchSize",
};
static MEMORY: Check = Check {
    name: "memory",
    severity: Severity::Error,
    why: "A full batch may kill the process, and the whole batch is redelivered.",
    fix: "MemorySize: 512, or a smaller BatchSize",
};
static RESERVED: Check = Check {
    name: "concurrency",
    severity: Severity::Error,
    why: "Lambda throttles every invocation, so no event is counted, and events older than 24 hours leave the stream.",
    fix: "no ReservedConcurrentExecutions, or at least one for each shard of the stream",
};
static LOG_LEVEL: Check = Check {
    name: "log-level",
    severity: Severity::Error,
    why: "Lambda treats metric lines as INFO, so a stricter level drops them, and the alarms see nothing.",
    fix: "LoggingConfig.ApplicationLogLevel: INFO",
};

/// All checks of this module.
pub(super) static CHECKS: &[&Check] = &[&ENVIRONMENT, &TIMEOUT, &BATCH_TIME, &MEMORY, &RESERVED, &LOG_LEVEL];

pub(super) fn examine(deployment: &Deployment, registry: Registry, examination: &mut Examination) {
    let function = &deployment.function;
    let at = |property: &str| format!("{}.{property}", function.name);
    for variable in Role::all(registry).map(Role::variable) {
        examination.judge(&ENVIRONMENT, at(&format!("Environment.{variable}")), &function.variable(&variable), |value| {
            value.is_none_or(String::is_empty).then(|| is::<String>(None))
        });
    }
    let timeout = function.timeout_s.or(TIMEOUT_DEFAULT_S);
    examination.judge(&TIMEOUT, at("Timeout"), &timeout, |timeout| {
        timeout
            .filter(|timeout| **timeout < shortest_timeout_s())
            .map(|timeout| format!("is {timeout} s; {} s are needed", shortest_timeout_s()))
    });
    let memory = function.memory_mb.or(MEMORY_DEFAULT_MB);
    for mapping in &deployment.mappings {
        let batch = mapping.records_max();
        examination.judge(&BATCH_TIME, at("Timeout"), &timeout.and(&memory.and(&batch)), |values| {
            let (timeout, (memory, batch)) = *values?;
            let working = timeout * i64::from(WORKING_PERCENT) / 100;
            let needed = batch_s(batch, memory);
            // A timeout that is too short for any batch is another finding.
            (timeout >= shortest_timeout_s() && needed > working).then(|| {
                format!("leaves {working} s of working time; {batch} events of different aggregates take about {needed} s with {memory} MB")
            })
        });
        examination.judge(&MEMORY, at("MemorySize"), &memory.and(&batch), |values| {
            let (memory, batch) = *values?;
            let needed = batch_mb(batch);
            (needed > memory).then(|| format!("is {memory} MB; a batch of {batch} takes up to {needed} MB"))
        });
    }
    examination.reject_if(&RESERVED, at("ReservedConcurrentExecutions"), &function.reserved_concurrency, |reserved| *reserved < 1);
    examination
        .reject_if(&LOG_LEVEL, at("LoggingConfig.ApplicationLogLevel"), &function.log_level, |level| TOO_STRICT.contains(&level.as_str()));
}

impl Function {
    /// An environment variable.
    #[must_use]
    pub fn variable(&self, name: &str) -> Setting<String> {
        self.variables.as_ref().and_then(|variables| variables.get(name).cloned().unwrap_or_default())
    }

    /// The names of its tables. Without a variable for the event store, it is the table whose stream a mapping reads; `of_stream` names the
    /// table of a stream.
    pub(super) fn tables(
        &self,
        registry: Registry,
        mappings: &[Mapping],
        of_stream: impl Fn(&str) -> Option<String>,
    ) -> Vec<(Role, Setting<String>)> {
        let read = mappings.iter().find_map(|mapping| if let Setting::Value(stream) = &mapping.stream { of_stream(stream) } else { None });
        let named = |role: Role| match (role, self.variable(&role.variable()), &read) {
            (_, Setting::Value(name), _) if !name.is_empty() => Setting::Value(name),
            (Role::EventStore, _, Some(name)) => Setting::Value(name.clone()),
            (_, Setting::Unseen(why), _) => Setting::Unseen(why),
            _ => Setting::Unseen("the variable is not set, so its table is not checked".to_owned()),
        };
        Role::all(registry).map(|role| (role, named(role))).collect()
    }
}

/// When the worker stops starting requests, those in progress must be able to finish in the time left.
fn shortest_timeout_s() -> i64 {
    let seconds = ATTEMPT_TIMEOUT.as_secs() * 100 / u64::from(100 - WORKING_PERCENT);
    i64::try_from(seconds).expect("seconds")
}

/// How long a batch may take if each event belongs to a different aggregate and needs a transaction of its own.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "an estimate from numbers that people write into templates"
)]
fn batch_s(records: i64, memory_mb: i64) -> i64 {
    let processor = (memory_mb as f64 / MEMORY_OF_A_PROCESSOR_MB).clamp(f64::MIN_POSITIVE, 1.0);
    let each = PROCESSOR_OF_A_RECORD_S / processor + TRANSACTION_S / CONCURRENCY as f64;
    (records as f64 * each).ceil() as i64
}

/// How much memory a batch may take.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "an estimate from numbers that people write into templates"
)]
fn batch_mb(records: i64) -> i64 {
    (MEMORY_ALWAYS_MB + records as f64 * MEMORY_OF_A_RECORD_MB).ceil() as i64
}
