//! The Lambda: configuration and wiring, then `handle`. The one user of `lambda_runtime`.
//!
//! A team's own binary is one call of [`run`] with its own registry.

mod logs;
mod metrics;
mod tasks;
#[cfg(feature = "opentelemetry")]
mod traces;
#[cfg(not(feature = "opentelemetry"))]
mod untraced;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use aws_lambda_events::event::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use projection_vocabulary::Registry;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[cfg(not(feature = "opentelemetry"))]
use self::untraced as traces;
use self::{
    metrics::{Done, Invocation, Stage},
    traces::Traces,
};
use crate::{
    Worker, clients,
    engine::report::{Report, Tally},
    retry::{Deadline, WORKING_PERCENT},
    store::{self, Store, TableNames, Usage},
};

/// Answers invocations until Lambda ends the process.
///
/// It ends by itself, with a code other than 0 and the reason in the log, if environment variables are missing or wrong (all
/// of them in one message), or if Lambda's Runtime API is out of reach.
///
/// # Panics
/// If variables that Lambda itself sets are missing: this is no Lambda.
#[must_use]
pub fn run(registry: Registry) -> ExitCode {
    let var = |name: &str| std::env::var(name).ok();
    let traces = traces::start(var);
    // One thread: the work is waiting for DynamoDB, and below 1,769 MB of memory a function has less than one processor
    // (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(serve(configured(registry, var)?, &traces)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve((worker, stage): (Worker, Stage), traces: &Traces) -> Result<(), Error> {
    lambda_runtime::run(service_fn(|event| traces.follow(event, |event| handle(&worker, &stage, event)))).await
}

fn configured(registry: Registry, var: impl Fn(&str) -> Option<String>) -> Result<(Worker, Stage), String> {
    match (TableNames::from_env(registry, &var), clients::of_environment(&var), Stage::from_env(&var)) {
        (Ok(names), Ok(client), Ok(stage)) => Ok((Worker::new(Store::new(client, names), registry), stage)),
        (names, client, stage) => Err([names.err(), client.err(), stage.err()].into_iter().flatten().collect::<Vec<_>>().join("; ")),
    }
}

/// One invocation: a batch of records in, the first one to deliver again out. Or a task, and how far it came.
///
/// An error or a panic in here is answered as an error of the function, so that Lambda delivers the whole batch again.
async fn handle(worker: &Worker, stage: &Stage, event: LambdaEvent<Box<RawValue>>) -> Result<Answer, Diagnostic> {
    let mut account = Account { worker, stage, before: worker.store().usage(), batch: None, task: None };
    let answered = answer(event, &mut account).await;
    if let Err(Diagnostic { error_type, .. }) = &answered {
        tracing::error!(error_type, "invocation failed");
    }
    answered
}

async fn answer(event: LambdaEvent<Box<RawValue>>, account: &mut Account<'_>) -> Result<Answer, Diagnostic> {
    let worker = account.worker;
    let mut members = members(&event.payload)?;
    let time = working_time(time_left(event.context.deadline()));
    // In boxes, or the types of the futures nest deeper than the compiler follows.
    if let Some(records) = members.remove("Records") {
        let batch: Vec<Record<'_>> = serde_json::from_str(records.get()).map_err(|_| not_a_batch())?;
        account.batch = Some(unfinished(&batch));
        let report = Box::pin(worker.process(&batch, Deadline::at(Instant::now() + time))).await;
        let response = response(&report);
        account.batch = Some(report);
        return Ok(Answer::Batch(response));
    }
    let (answer, told) = if let Some(task) = members.remove("rebuild") {
        let (answer, told) = Box::pin(tasks::rebuild(worker, tasks::read(task)?, time)).await?;
        (Answer::Rebuild(answer), told)
    } else if let Some(task) = members.remove("catchUp") {
        let (answer, told) = Box::pin(tasks::catch_up(worker, tasks::read(task)?, time)).await?;
        (Answer::CatchUp(answer), told)
    } else if let Some(task) = members.remove("verify") {
        let (answer, told) = Box::pin(tasks::verify(worker, tasks::read(task)?, time)).await?;
        (Answer::Verified(answer), told)
    } else {
        return Err(not_a_batch());
    };
    account.task = Some(told);
    Ok(answer)
}

/// What is told of an invocation when it ends, however it ends: by an answer, an error or a panic.
struct Account<'a> {
    worker: &'a Worker,
    stage: &'a Stage,
    before: Usage,
    /// What became of its records, from when it is known that they are some. Failed, until something else became of them.
    batch: Option<Report>,
    /// The projection of a task, and what it came to, if it did what its time was enough for.
    task: Option<(&'static str, Done)>,
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let (now, usage) = (store::now(), self.worker.store().usage() - self.before);
        let mut lines = Vec::new();
        let mut invocation = Invocation { batch: None, parked: 0, failed: u64::from(self.task.is_none()), usage };
        if let Some(report) = &mut self.batch {
            report.usage = usage;
            report.log();
            lines = metrics::of_projections(self.stage, self.worker.registry(), report, &now);
            invocation.batch = Some((report.records, report.ignored_total()));
            invocation.parked = report.total.parked;
            invocation.failed = report.total.failed;
        }
        if let Some((projection, done)) = self.task {
            lines.push(metrics::of_task(self.stage, projection, done, &now));
        }
        traces::note(self.batch.as_ref(), usage, &now);
        lines.push(metrics::of_invocation(self.stage, &invocation, &now));
        let mut out = io::stdout().lock();
        for line in lines {
            // The records count all the same, and nobody is left to be told.
            let _ = writeln!(out, "{line}");
        }
    }
}

/// What became of a batch as long as nothing did.
fn unfinished(batch: &[Record<'_>]) -> Report {
    let records = batch.len() as u64;
    let reasons = [("the invocation failed as a whole".to_owned(), records)];
    Report { records, total: Tally { failed: records, ..Tally::default() }, reasons: reasons.into(), ..Report::default() }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Batch(DynamoDbEventResponse),
    Rebuild(tasks::Rebuild),
    CatchUp(tasks::CaughtUp),
    Verified(tasks::Verified),
}

/// A record as it came. Each is decoded by itself, so that a malformed one does not fail the others.
#[derive(Deserialize)]
struct Record<'a>(#[serde(borrow)] &'a RawValue);

impl AsRef<RawValue> for Record<'_> {
    fn as_ref(&self) -> &RawValue {
        self.0
    }
}

/// The members of an event. What is no batch at all is a mistake in the wiring: nothing of it may count as processed.
fn members(event: &RawValue) -> Result<BTreeMap<Cow<'_, str>, &RawValue>, Diagnostic> {
    // A map and no struct, for a derived reader would also take a list. The parser's own words may quote the data.
    serde_json::from_str(event.get()).map_err(|_| not_a_batch())
}

fn not_a_batch() -> Diagnostic {
    Diagnostic {
        error_type: "NotABatch".to_owned(),
        error_message: "the event has no list of Records: only a stream of DynamoDB may invoke this function".to_owned(),
    }
}

fn time_left(invocation_ends: SystemTime) -> Duration {
    invocation_ends.duration_since(SystemTime::now()).unwrap_or_default()
}

fn working_time(left: Duration) -> Duration {
    left * WORKING_PERCENT / 100
}

/// Names what failed, and those behind it that counted are duplicates when they come again. Lambda takes an unknown member for
/// full success, so the tests hold this against the literal JSON
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
    fn a_fifth_of_the_time_is_kept_back() {
        assert_eq!(working_time(Duration::from_mins(1)), Duration::from_secs(48));
        assert_eq!(working_time(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn an_invocation_that_is_over_has_no_time_left() {
        assert_eq!(time_left(SystemTime::now() - Duration::from_secs(1)), Duration::ZERO);
        assert!(time_left(SystemTime::now() + Duration::from_mins(1)) > Duration::from_secs(59));
    }

    #[test]
    fn tables_and_credentials_are_missed_in_one_message() {
        let error = configured(Registry::new(&[]), |name| (name == "PARKED_TABLE").then(|| "x".to_owned())).err().unwrap();
        assert_eq!(
            error,
            "EVENT_STORE_TABLE is not set; PARKED_TABLE is no table name (3 to 255 of a-z A-Z 0-9 _ - .) and no table ARN; \
             AWS_REGION is not set; AWS_ACCESS_KEY_ID is not set; AWS_SECRET_ACCESS_KEY is not set"
        );
    }
}
