//! The function that runs the worker: whether it knows its tables, and has time and memory for a batch.

use std::collections::BTreeMap;

use projection_vocabulary::Registry;

use super::{Check, Deployment, Examination, Role, Setting, Severity, is};
use crate::{clients::ATTEMPT_TIMEOUT, engine::worker::CONCURRENCY, retry::WORKING_PERCENT};

/// A function.
#[derive(Debug)]
pub struct Function {
    /// Its logical id in a template, or its name.
    pub name: String,
    /// The most time of an invocation, in seconds.
    pub timeout_s: Setting<i64>,
    /// Its memory, in MB. Processors come with it.
    pub memory_mb: Setting<i64>,
    /// Its environment.
    pub variables: Setting<BTreeMap<String, Setting<String>>>,
    /// The least level of log lines that Lambda keeps, if it reads them as JSON.
    pub log_level: Setting<String>,
}

/// What Lambda takes where nothing is said
/// (<https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-function.html>).
const TIMEOUT_DEFAULT_S: i64 = 3;
const MEMORY_DEFAULT_MB: i64 = 128;
/// The memory that comes with a whole processor (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>).
const MEMORY_OF_A_PROCESSOR_MB: f64 = 1_769.0;
/// What a record costs at most, measured with batches of 1,000 and of 10,000 events of nearly as many aggregates, without TLS: 0.45 ms of
/// a processor and 10 kB, above 10 MB, at the peak. With something to spare.
const PROCESSOR_OF_A_RECORD_S: f64 = 0.000_6;
const MEMORY_OF_A_RECORD_MB: f64 = 0.012_5;
const MEMORY_ALWAYS_MB: f64 = 20.0;
/// A transaction, measured from a Lambda in the region: a small one's median is 25 ms.
const TRANSACTION_S: f64 = 0.025;

/// Levels above that of metrics.
const TOO_HIGH: [&str; 3] = ["WARN", "ERROR", "FATAL"];

static ENVIRONMENT: Check = Check {
    name: "environment",
    severity: Severity::Error,
    why: "The worker does not start without the names of its tables.",
    fix: "Environment.Variables: one for the event store, one for what is parked, one for each projection",
};
static TIMEOUT: Check = Check {
    name: "timeout",
    severity: Severity::Error,
    why: "The worker begins nothing in the last fifth of its time, so that attempts under way, of 3 s, still end. A shorter invocation may \
          be cut off in each batch, and all of it is delivered again.",
    fix: "Timeout: 60",
};
static BATCH_TIME: Check = Check {
    name: "batch-time",
    severity: Severity::Warning,
    why: "What a full batch does not get done in time fails and is delivered again, which counts against its retries and its age.",
    fix: "a longer Timeout, more MemorySize (processors come with it) or a smaller BatchSize",
};
static MEMORY: Check = Check {
    name: "memory",
    severity: Severity::Error,
    why: "A full batch may end the process, and is delivered again whole.",
    fix: "MemorySize: 512, or a smaller BatchSize",
};
static LOG_LEVEL: Check = Check {
    name: "log-level",
    severity: Severity::Error,
    why: "Lambda takes the lines that carry metrics for INFO, and drops them above it: alarms see nothing.",
    fix: "LoggingConfig.ApplicationLogLevel: INFO",
};

/// All that is judged here.
pub(super) static CHECKS: &[&Check] = &[&ENVIRONMENT, &TIMEOUT, &BATCH_TIME, &MEMORY, &LOG_LEVEL];

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
        examination.judge(&BATCH_TIME, at("Timeout"), &timeout.and(&memory.and(&batch)), |of| {
            let (timeout, (memory, batch)) = *of?;
            let working = timeout * i64::from(WORKING_PERCENT) / 100;
            let needed = batch_s(batch, memory);
            // What is too short for any batch is another finding.
            (timeout >= shortest_timeout_s() && needed > working)
                .then(|| format!("leaves {working} s to work; {batch} events of as many aggregates take about {needed} s with {memory} MB"))
        });
        examination.judge(&MEMORY, at("MemorySize"), &memory.and(&batch), |of| {
            let (memory, batch) = *of?;
            let needed = batch_mb(batch);
            (needed > memory).then(|| format!("is {memory} MB; a batch of {batch} takes up to {needed} MB"))
        });
    }
    examination
        .refuse(&LOG_LEVEL, at("LoggingConfig.ApplicationLogLevel"), &function.log_level, |level| TOO_HIGH.contains(&level.as_str()));
}

impl Function {
    /// The value of a variable, as far as it can be told.
    #[must_use]
    pub fn variable(&self, name: &str) -> Setting<String> {
        match &self.variables {
            Setting::Value(variables) => variables.get(name).cloned().unwrap_or(Setting::Unset),
            Setting::Unset => Setting::Unset,
            Setting::Unseen(why) => Setting::Unseen(why.clone()),
        }
    }

    /// The tables that it is to work on, by their variables: those that are set.
    pub(super) fn tables(&self, registry: Registry) -> Vec<(Role, Setting<String>)> {
        let named = Role::all(registry).map(|role| (role, self.variable(&role.variable())));
        named.filter(|(_, name)| *name != Setting::Unset).collect()
    }
}

/// Attempts under way when no new one begins any more must end within what is left.
fn shortest_timeout_s() -> i64 {
    let seconds = ATTEMPT_TIMEOUT.as_secs() * 100 / u64::from(100 - WORKING_PERCENT);
    i64::try_from(seconds).expect("seconds")
}

/// How long a batch may take whose events are each of an aggregate of their own, with a transaction for each.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "an estimate, of numbers that people write into templates"
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
    reason = "an estimate, of numbers that people write into templates"
)]
fn batch_mb(records: i64) -> i64 {
    (MEMORY_ALWAYS_MB + records as f64 * MEMORY_OF_A_RECORD_MB).ceil() as i64
}
