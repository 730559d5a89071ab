//! A request as a trace tells it: how long it took with all its tries, how often it was sent again and why, and how it failed.
//!
//! Only the Lambda that is built with the feature `opentelemetry` listens. For everybody else the filter of the logs has switched
//! these spans off, and what is left of them is the look at a flag. None carries a key, an id or a value: the operation's name, the
//! projection's and the class of an error are all there is.

use std::error::Error;

use projection_vocabulary::DynProjection;
use tracing::{Span, field::Empty};

use super::StoreError;

/// What spans go by where events are heard or not.
pub const TARGET: &str = concat!(env!("CARGO_CRATE_NAME"), "::spans");

/// The span of a request, retries and the pauses before them included, as the conventions want it
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

/// Another try follows one that ended now, in this trouble.
pub fn on_retry(error: &StoreError) {
    tracing::trace!(target: TARGET, { error.type = error.class() }, "retry");
}

/// What a request came to.
pub fn answered<T, E: Error + 'static>(span: &Span, retries: i64, answer: &Result<Result<T, E>, StoreError>) {
    if retries > 0 {
        span.record("retries", retries);
    }
    let error = match answer {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => (error as &(dyn Error + 'static)).downcast_ref(),
        Err(error) => Some(error),
    };
    // What is no trouble is for the caller to tell, and may name an aggregate.
    span.record("error.type", error.map_or("refused", StoreError::class)).record("otel.status_code", "ERROR");
}
