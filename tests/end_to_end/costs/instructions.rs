//! Work whose instructions `.ci/instructions.py` counts. Here it only must be done.
//!
//! Each function is counted by its name. The parse is the measure for the others: how many instructions it takes changes with the
//! compiler and with `serde_json`, and theirs with it.

use std::fmt;

use aws_lambda_events::event::dynamodb::Event;
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture},
    orchestrator::{HttpRequest, HttpResponse},
};
use projection_vocabulary::{DynProjection, Registry};
use projection_worker::{
    Deadline, Report, Store, Worker,
    internals::{
        embedded::Embedded,
        engine::decode::{Record, decode},
        store::Dynamo,
    },
};
use projections::bank::account_summary::AccountSummary;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::support::{
    histories::{accounts, payload},
    takes_all::TakesAll,
    world::names,
};

const ACCOUNTS: &[&dyn DynProjection] = &[&AccountSummary];
const RECORDS: usize = 100;

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(rename = "Records", borrow)]
    records: Vec<&'a RawValue>,
}

/// The parse that every handler does.
#[inline(never)]
fn counted_parse(payload: &[u8]) -> Event {
    serde_json::from_slice(payload).expect("an event")
}

#[inline(never)]
fn counted_decode(payload: &[u8]) -> Vec<Record> {
    let payload: Payload<'_> = serde_json::from_slice(payload).expect("a payload");
    payload.records.iter().map(|record| decode(record)).collect()
}

/// Decoded records into requests, which nobody sends.
#[inline(never)]
fn counted_plan(runtime: &tokio::runtime::Runtime, worker: &Worker, records: Vec<Record>) -> Report {
    runtime.block_on(worker.process_decoded(records, Deadline::NONE))
}

/// The whole way of a batch, through the SDK, up to a network that answers at once.
#[inline(never)]
fn counted_batch(runtime: &tokio::runtime::Runtime, worker: &Worker, payload: &[u8]) -> Report {
    let payload: Payload<'_> = serde_json::from_slice(payload).expect("a payload");
    let records = payload.records.iter().map(|record| decode(record)).collect();
    runtime.block_on(worker.process_decoded(records, Deadline::NONE))
}

fn worker(dynamo: impl Dynamo + 'static) -> Worker {
    Worker::new(Store::new(dynamo, names(Registry::new(ACCOUNTS))), Registry::new(ACCOUNTS))
}

/// Answers each request without looking at it.
struct AnswersAll;

impl fmt::Debug for AnswersAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnswersAll")
    }
}

impl HttpConnector for AnswersAll {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let status = aws_smithy_runtime_api::http::StatusCode::try_from(200).expect("a status");
        let body = r#"{"ConsumedCapacity":{"TableName":"account-summary","CapacityUnits":1.0}}"#;
        HttpConnectorFuture::ready(Ok(HttpResponse::new(status, body.into())))
    }
}

/// Everything is done twice, because the first time is different: what is counted is the second one.
#[test]
fn work_that_is_counted() {
    let payload = payload(&accounts(RECORDS / 10, 10), 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    for _ in 0..2 {
        assert_eq!(counted_parse(&payload).records.len(), RECORDS);
        let records = counted_decode(&payload);
        assert_eq!(records.len(), RECORDS);
        let planned = counted_plan(&runtime, &worker(TakesAll), records);
        assert_eq!((planned.total.applied, planned.usage.requests), (100, 10), "{:?}", planned.reasons);
        let client = Embedded::memory().expect("a database").client_with(|_| AnswersAll);
        let batch = counted_batch(&runtime, &worker(client), &payload);
        assert_eq!((batch.total.applied, batch.usage.write_units), (100, 10.0), "{:?}", batch.reasons);
    }
}
