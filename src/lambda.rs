//! The Lambda: configuration and wiring, then `handle`. The one user of `lambda_runtime`.
//!
//! A team's own binary is one call of [`run`] with its own registry.

mod batch;
mod logs;
mod metrics;
mod tasks;
#[cfg(feature = "opentelemetry")]
mod traces;
#[cfg(not(feature = "opentelemetry"))]
mod untraced;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use aws_lambda_events::event::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use projection_vocabulary::Registry;
use serde::Serialize;
use serde_json::value::RawValue;

#[cfg(not(feature = "opentelemetry"))]
use self::untraced as traces;
use self::{
    batch::{Batch, IfFailed, unknown_payload},
    metrics::{Invocation, Stage, TaskCount},
    tasks::{Task, TaskResult},
    traces::Traces,
};
use crate::{
    Calls, Worker,
    clients::{self, FirstConnection},
    config::{ConfigError, ConfigProblem},
    engine::report::{Report, Tally},
    retry::{Deadline, WORKING_PERCENT},
    store::{self, Store, TableNames, Usage},
};

/// Answers invocations until Lambda ends the process.
///
/// It ends by itself, with a code other than 0 and the reason in the log, if environment variables are missing or wrong (one
/// message names them all), or if Lambda's Runtime API is unreachable.
///
/// # Panics
/// If variables that Lambda itself sets are missing: this process does not run in Lambda.
#[must_use]
pub fn run(registry: Registry) -> ExitCode {
    run_with_calls(registry, Calls::new())
}

/// The same as [`run`] with the functions that the processes of this program call.
///
/// # Panics
/// As [`run`].
#[must_use]
pub fn run_with_calls(registry: Registry, calls: Calls) -> ExitCode {
    let var = |name: &str| std::env::var(name).ok();
    let traces = traces::start(var);
    // One thread: the worker mostly waits for DynamoDB, and with less than 1,769 MB of memory a function has less than one processor
    // (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served =
        runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(serve(Function::from_env(registry, calls, var)?, &traces)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve((function, first): (Function, FirstConnection), traces: &Traces) -> Result<(), Error> {
    tokio::spawn(first.open());
    lambda_runtime::run(service_fn(|event| traces.follow(event, |event| handle(&function, event)))).await
}

/// Reads every variable that the program reads when it starts.
///
/// # Errors
/// One error for all variables that are missing or wrong.
pub(crate) fn read_environment(registry: Registry, var: impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    logs::level(&var);
    Function::from_env(registry, Calls::new(), var).map(drop)
}

/// What all invocations of the process share.
struct Function {
    worker: Worker,
    stage: Stage,
}

impl Function {
    /// # Errors
    /// One error for all variables that are missing or wrong.
    fn from_env(registry: Registry, calls: Calls, var: impl Fn(&str) -> Option<String>) -> Result<(Self, FirstConnection), ConfigError> {
        let sequential = one_invocation_at_a_time(&var);
        match (TableNames::from_env(registry, &var), clients::of_environment(&var), Stage::from_env(&var), sequential) {
            (Ok(names), Ok((client, first)), Ok(stage), Ok(())) => {
                Ok((Self { worker: Worker::new(Store::new(client, names), registry).with_calls(calls), stage }, first))
            }
            (names, client, stage, sequential) => {
                let errors = [names.err(), client.err(), stage.err(), sequential.err()].into_iter().flatten();
                Err(ConfigError(errors.flat_map(|error| error.0).collect()))
            }
        }
    }
}

/// What Lambda's managed instances set to the invocations that they give a process at once.
const MAX_CONCURRENCY_VAR: &str = "AWS_LAMBDA_MAX_CONCURRENCY";

/// Usage is counted for the process, so invocations side by side would each report the other's. Nor would they gain anything: a shard
/// delivers one batch at a time, and each batch is written with many requests at once.
fn one_invocation_at_a_time(var: impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    let expected = "1: this program takes one invocation at a time; set PerExecutionEnvironmentMaxConcurrency to 1";
    match var(MAX_CONCURRENCY_VAR).as_deref() {
        None | Some("" | "0" | "1") => Ok(()),
        Some(_) => Err(ConfigProblem::invalid(MAX_CONCURRENCY_VAR, expected).into()),
    }
}

/// One invocation. Takes a batch of records and answers the first one to redeliver, or takes a task and answers its progress.
///
/// An error or a panic in here is answered as a function error, so that Lambda redelivers the whole batch.
async fn handle(function: &Function, event: LambdaEvent<Box<RawValue>>) -> Result<Answer, Diagnostic> {
    let mut log = InvocationLog { function, before: function.worker.store().usage(), batch: None, task: None };
    let answered = answer(event, &mut log).await;
    // The reasons why records failed are in the report, which is logged, too.
    if let (Err(Diagnostic { error_type, error_message }), None) = (&answered, &log.batch) {
        tracing::error!(error_type, error_message, "invocation failed");
    }
    answered
}

async fn answer(event: LambdaEvent<Box<RawValue>>, log: &mut InvocationLog<'_>) -> Result<Answer, Diagnostic> {
    let worker = &log.function.worker;
    let time = working_time(time_left(event.context.deadline()));
    // The futures are boxed: unboxed, their types nest deeper than the compiler follows.
    if let Some(batch) = Batch::read(&event.payload)? {
        log.batch = Some(unfinished(batch.records.len()));
        let (of_another_table, if_failed) = (batch.of_another_table(), batch.if_failed);
        let report = Box::pin(worker.process_decoded(batch.records, Deadline::at(Instant::now() + time))).await;
        let answered = match (of_another_table, if_failed) {
            (Some(other), _) => Err(Diagnostic { error_type: "WrongStream".to_owned(), error_message: other }),
            (None, IfFailed::Fail) if report.total.failed > 0 => Err(whole_batch_again(&report)),
            (None, _) => Ok(Answer::Batch(response(&report))),
        };
        log.batch = Some(report);
        return answered;
    }
    let task = Task::read(&event.payload)?.ok_or_else(|| unknown_payload(&event.payload))?;
    let TaskResult { answer, counts, failed } = Box::pin(task.run(worker, time)).await?;
    log.task = Some((counts, failed));
    Ok(Answer::Task(answer))
}

/// The error that makes a queue or a pipe deliver all of a batch again. What already counts is then a duplicate.
fn whole_batch_again(report: &Report) -> Diagnostic {
    let reasons: Vec<_> = report.reasons.keys().map(String::as_str).collect();
    let error_message = format!("{} of {} records failed: {}", report.total.failed, report.records, reasons.join("; "));
    Diagnostic { error_type: "RecordsFailed".to_owned(), error_message }
}

/// Writes the log lines and the metrics of an invocation when it is dropped. A destructor, because the invocation may end by a panic,
/// and its records must be counted then, too.
struct InvocationLog<'a> {
    function: &'a Function,
    /// The store's usage when the invocation began.
    before: Usage,
    /// The outcome of its records, once the payload is known to be a batch. All count as failed until the worker reports otherwise.
    batch: Option<Report>,
    /// The projections and the counts of a task that completed, or progressed as far as its time allowed, and how much of it failed.
    task: Option<(Vec<(&'static str, TaskCount)>, u64)>,
}

impl Drop for InvocationLog<'_> {
    fn drop(&mut self) {
        let Function { worker, stage } = self.function;
        let (now, usage) = (store::now(), worker.store().usage() - self.before);
        let mut lines = Vec::new();
        let mut invocation = Invocation { batch: None, parked: 0, failed: self.task.as_ref().map_or(1, |(_, failed)| *failed), usage };
        if let Some(report) = &mut self.batch {
            report.usage = usage;
            report.log();
            lines = metrics::of_projections(stage, worker.registry(), report, &now);
            invocation.batch = Some((report.records, report.ignored_total(), report.rewritten()));
            invocation.parked = report.total.parked;
            invocation.failed = report.total.failed;
        }
        for (projection, count) in self.task.iter().flat_map(|(counts, _)| counts) {
            lines.push(metrics::of_task(stage, projection, *count, &now));
        }
        traces::record(self.batch.as_ref(), usage, &now);
        lines.push(metrics::of_invocation(stage, &invocation, &now));
        let mut out = io::stdout().lock();
        for line in lines {
            // The records are counted even if the metrics cannot be written, and there is no other place to report that.
            let _ = writeln!(out, "{line}");
        }
    }
}

/// The report of a batch before the worker has finished: every record failed.
fn unfinished(records: usize) -> Report {
    let records = records as u64;
    let reasons = [("the invocation failed as a whole".to_owned(), records)];
    Report { records, total: Tally { failed: records, ..Tally::default() }, reasons: reasons.into(), ..Report::default() }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Batch(DynamoDbEventResponse),
    Task(tasks::Answer),
}

fn time_left(invocation_ends: SystemTime) -> Duration {
    invocation_ends.duration_since(SystemTime::now()).unwrap_or_default()
}

fn working_time(left: Duration) -> Duration {
    left * WORKING_PERCENT / 100
}

/// Names the lowest failed record. Lambda redelivers all records from there on; those that already counted are then duplicates. Lambda
/// takes a response with an unknown member for full success, so the tests compare it with the literal JSON
/// (<https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-batchfailurereporting.html>).
fn response(report: &Report) -> DynamoDbEventResponse {
    let mut response = DynamoDbEventResponse::default();
    if let Some(lowest) = report.item_failure() {
        let mut failure = DynamoDbBatchItemFailure::default();
        failure.item_identifier = Some(lowest.to_owned());
        response.batch_item_failures.push(failure);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_time_is_reserved() {
        assert_eq!(working_time(Duration::from_mins(1)), Duration::from_secs(48));
        assert_eq!(working_time(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn an_invocation_past_its_deadline_has_no_time_left() {
        assert_eq!(time_left(SystemTime::now() - Duration::from_secs(1)), Duration::ZERO);
        assert!(time_left(SystemTime::now() + Duration::from_mins(1)) > Duration::from_secs(59));
    }

    #[test]
    fn more_than_one_invocation_at_a_time_is_refused() {
        let with = |value: Option<&str>| one_invocation_at_a_time(|name| value.filter(|_| name == MAX_CONCURRENCY_VAR).map(str::to_owned));
        for one in [None, Some(""), Some("1"), Some("0")] {
            assert_eq!(with(one), Ok(()), "{one:?}");
        }
        for several in ["2", "64", "secret"] {
            let error = with(Some(several)).unwrap_err().to_string();
            assert!(error.starts_with("AWS_LAMBDA_MAX_CONCURRENCY is not 1: this program takes one invocation at a time"), "{error}");
            assert!(!error.contains(several), "{error}");
        }
    }

    #[test]
    fn one_message_names_every_missing_table_and_credential() {
        let var = |name: &str| (name == "PARKED_TABLE").then(|| "x".to_owned());
        let error = Function::from_env(Registry::new(&[]), Calls::new(), var).err().unwrap();
        assert_eq!(
            error.to_string(),
            "EVENT_STORE_TABLE is not set; PARKED_TABLE is not a valid table name (3 to 255 of a-z A-Z 0-9 _ - .) or table ARN; \
             AWS_REGION is not set; AWS_ACCESS_KEY_ID is not set; AWS_SECRET_ACCESS_KEY is not set"
        );
    }
}
