//! The trace span of a request: how long it took with all its attempts, how often and why it was retried, and how it failed.
//!
//! Only a Lambda built with the feature `opentelemetry` exports these spans. Everywhere else, the log filter switches them off, and
//! each costs one check of a flag. A span carries no key, id or value: only the names of the operation and of the projection, and the
//! class of an error.

use std::error::Error;

use projection_vocabulary::DynProjection;
use tracing::{Span, field::Empty};

use super::StoreError;

/// The target by which spans and their events are switched on or off.
pub const TARGET: &str = concat!(env!("CARGO_CRATE_NAME"), "::spans");

/// The span of a request, including its retries and the pauses before them, by the semantic conventions
/// (<https://opentelemetry.io/docs/specs/semconv/db/dynamodb/>). The first word of an operation is DynamoDB's own name for it.
pub fn request(operation: &'static str, rule: Option<&dyn DynProjection>) -> Span {
    tracing::trace_span!(
        target: TARGET,
        "request",
        otel.name = operation,
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "aws.dynamodb",
        db.operation.name = operation.split(' ').next(),
        projection = rule.map(DynProjection::name),
        retries = Empty,
        error.type = Empty,
    )
}

/// The span of what a process does with one event: its requests are below it.
pub fn act(name: &'static str, process: &'static str) -> Span {
    tracing::trace_span!(target: TARGET, "act", otel.name = name, otel.kind = "internal", projection = process)
}

/// Records that an attempt has just failed with this error, and that another one follows.
pub fn on_retry(error: &StoreError) {
    tracing::trace!(target: TARGET, { error.type = error.class() }, "retry");
}

/// Records the result of a request.
pub fn answered<T, E: Error + 'static>(span: &Span, retries: i64, answer: &Result<Result<T, E>, StoreError>) {
    if retries > 0 {
        span.record("retries", retries);
    }
    let error = match answer {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => (error as &(dyn Error + 'static)).downcast_ref(),
        Err(error) => Some(error),
    };
    // An error that is not a `StoreError` is the caller's to report. It may name an aggregate, so its text stays out of the span.
    span.record("error.type", error.map_or("refused", StoreError::class)).record("otel.status_code", "ERROR");
}
