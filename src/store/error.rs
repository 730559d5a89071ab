//! Errors of requests to DynamoDB, divided by what to do next.

use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    types::CancellationReason,
};

use crate::retry::{Attempt, DeadlineExceeded};

/// An infrastructure error: no event is the cause. The record is reported as failed, so Lambda delivers it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Still failed when the time for retries was over: throttling, a conflict, a timeout or a server error. It may succeed later.
    #[error(
        "{operation} still failed after retries ({class}); if this persists, check the network, table throttling and DynamoDB's health"
    )]
    Transient {
        /// The operation.
        operation: &'static str,
        /// The kind of error.
        class: String,
    },
    /// A retry cannot help: a missing table or permission, or expired credentials, for example. Fix the deployment.
    #[error("{operation} cannot succeed ({class}): {}", advice(class))]
    Permanent {
        /// The operation.
        operation: &'static str,
        /// The kind of error.
        class: String,
    },
    /// The invocation's time is used up. The rest is delivered again.
    #[error("out of time: the rest is delivered again; if this persists, raise the timeout or lower the batch size")]
    DeadlineExceeded,
}

impl From<DeadlineExceeded> for StoreError {
    fn from(DeadlineExceeded: DeadlineExceeded) -> Self {
        Self::DeadlineExceeded
    }
}

impl StoreError {
    /// The kind of error: DynamoDB's error code, or a few words of our own.
    pub(super) fn class(&self) -> &str {
        match self {
            Self::Transient { class, .. } | Self::Permanent { class, .. } => class,
            Self::DeadlineExceeded => "out of time",
        }
    }

    /// Whether the request conflicted with another write of the same items.
    pub(super) fn is_conflict(&self) -> bool {
        let Self::Transient { class, .. } = self else { return false };
        matches!(class.as_str(), CONFLICT | "TransactionConflictException" | "ReplicatedWriteConflictException")
    }
}

/// What to do about an error that a retry cannot help.
fn advice(class: &str) -> &'static str {
    #[cfg(feature = "cli")]
    if let Some(advice) = crate::embedded::advice(class) {
        return advice;
    }
    match class {
        "ResourceNotFoundException" => "a table is missing: check the table names, the region, and that `projector tables create` has run",
        _ => "check the table names, key schemas, credentials and permissions",
    }
}

/// The code of an item in a cancelled transaction that another request was writing.
const CONFLICT: &str = "TransactionConflict";

/// The class of a cancelled transaction whose conditions all held: a conflict, if there was one.
pub fn cancellation_class(reasons: &[CancellationReason]) -> String {
    let codes = || reasons.iter().filter_map(CancellationReason::code).filter(|code| *code != "None");
    codes().find(|code| *code == CONFLICT).or_else(|| codes().next()).unwrap_or("canceled without a reason").to_owned()
}

/// One failed call.
pub enum Failure<E> {
    /// Worth retrying. `applied_maybe`: the request may have been applied although its answer was lost.
    Transient { class: String, applied_maybe: bool },
    /// DynamoDB refuses the content of the request.
    Invalid(&'static str),
    /// Anything else. A retry cannot help, unless the caller handles this error.
    Other(E),
}

/// Classifies an error of the SDK.
pub fn classify<E: ProvideErrorMetadata>(error: SdkError<E>) -> Failure<E> {
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            let error = context.into_err();
            let code = error.code().unwrap_or("no readable answer").to_owned();
            match code.as_str() {
                "ValidationException" | "ItemCollectionSizeLimitExceededException" => Failure::Invalid(invalid_reason(error.message())),
                "ProvisionedThroughputExceededException"
                | "ThrottlingException"
                | "RequestLimitExceeded"
                | "ThrottledException"
                | "TransactionConflictException"
                | "ReplicatedWriteConflictException"
                | "LimitExceededException" => Failure::Transient { class: code, applied_maybe: false },
                "TransactionInProgressException" | "InternalServerError" | "InternalFailure" | "ServiceUnavailable" => {
                    Failure::Transient { class: code, applied_maybe: true }
                }
                // Below 400 the request was applied, but the body of the answer cannot be read.
                _ if !(400..500).contains(&status) => Failure::Transient { class: code, applied_maybe: true },
                _ => Failure::Other(error),
            }
        }
        SdkError::ConstructionFailure(_) => Failure::Transient { class: "request could not be built".into(), applied_maybe: false },
        SdkError::TimeoutError(_) => Failure::Transient { class: "timeout".into(), applied_maybe: true },
        SdkError::DispatchFailure(_) => Failure::Transient { class: "connection failed".into(), applied_maybe: true },
        _ => Failure::Transient { class: "no readable answer".into(), applied_maybe: true },
    }
}

/// A fixed reason in place of DynamoDB's message, which may quote event data.
pub fn invalid_reason(message: Option<&str>) -> &'static str {
    let message = message.unwrap_or_default().to_ascii_lowercase();
    let says = |part: &str| message.contains(part);
    if says("38 digits") || says("significant digits") || says("number overflow") || says("number underflow") || says("supported range") {
        "a sum would exceed DynamoDB's 38 significant digits or its range"
    } else if says("operand type") || says("type mismatch") || says("incorrect operand") {
        "an amount was added to an attribute that is not a number"
    } else if says("item size") || says("400 kb") || says("maximum allowed size") {
        "the item would exceed DynamoDB's limit of 400 KB"
    } else if says("specified index") {
        "the table does not have the index: `projector doctor` names what differs"
    } else if says("key") || says("empty") {
        "DynamoDB refuses the key: it is empty, too long, or not of the type that the table or an index needs"
    } else {
        "DynamoDB refuses the request (ValidationException)"
    }
}

/// An error that a retry cannot help, by its code.
pub fn permanent<E: ProvideErrorMetadata>(operation: &'static str, error: &E) -> StoreError {
    StoreError::Permanent { operation, class: error.code().unwrap_or("unknown error").to_owned() }
}

impl<E> Failure<E> {
    /// Whether the request may have been applied although it failed.
    pub fn applied_maybe(&self) -> bool {
        matches!(self, Self::Transient { applied_maybe: true, .. })
    }
}

/// Decides whether to retry after a failure that the caller does not handle itself.
pub fn retry_or_fail<T, E: ProvideErrorMetadata>(
    operation: &'static str,
    failure: Failure<E>,
) -> Attempt<Result<T, StoreError>, StoreError> {
    match failure {
        Failure::Transient { class, .. } => {
            tracing::debug!(operation, class, "retrying");
            Attempt::Again(StoreError::Transient { operation, class })
        }
        Failure::Invalid(reason) => Attempt::Decided(Err(StoreError::Permanent { operation, class: reason.to_owned() })),
        Failure::Other(error) => Attempt::Decided(Err(permanent(operation, &error))),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::{
        error::{ErrorMetadata, SdkError},
        operation::update_item::UpdateItemError,
    };
    use aws_smithy_runtime_api::{
        client::{orchestrator::HttpResponse, result::ConnectorError},
        http::StatusCode,
    };

    use super::{CONFLICT, CancellationReason, Failure, StoreError, advice, cancellation_class, classify, invalid_reason};

    fn answered(status: u16) -> HttpResponse {
        HttpResponse::new(StatusCode::try_from(status).expect("a status"), "".into())
    }

    fn service(status: u16, code: &str) -> SdkError<UpdateItemError> {
        SdkError::service_error(UpdateItemError::generic(ErrorMetadata::builder().code(code).build()), answered(status))
    }

    #[test]
    fn only_a_request_that_was_certainly_refused_cannot_have_been_applied() {
        let connector =
            |of: fn(Box<dyn std::error::Error + Send + Sync>) -> ConnectorError| SdkError::dispatch_failure(of("planned".into()));
        let cases = [
            (service(400, "ProvisionedThroughputExceededException"), Some(false)),
            (service(400, "ThrottlingException"), Some(false)),
            (service(400, "RequestLimitExceeded"), Some(false)),
            (service(400, "TransactionConflictException"), Some(false)),
            (service(400, "ReplicatedWriteConflictException"), Some(false)),
            (service(400, "TransactionInProgressException"), Some(true)),
            (service(500, "InternalServerError"), Some(true)),
            (service(500, "InternalFailure"), Some(true)),
            (service(503, "ServiceUnavailable"), Some(true)),
            (service(500, "OfAnotherYear"), Some(true)),
            (service(200, "OfAnotherYear"), Some(true)),
            (service(400, "OfAnotherYear"), None),
            (service(400, "AccessDeniedException"), None),
            (service(400, "ValidationException"), None),
            (SdkError::construction_failure("planned"), Some(false)),
            (SdkError::timeout_error("planned"), Some(true)),
            (connector(ConnectorError::timeout), Some(true)),
            (connector(ConnectorError::io), Some(true)),
            (SdkError::response_error("planned", answered(200)), Some(true)),
        ];
        for (error, expected) in cases {
            let text = format!("{error:?}");
            let applied_maybe = match classify(error) {
                Failure::Transient { applied_maybe, .. } => Some(applied_maybe),
                Failure::Invalid(_) | Failure::Other(_) => None,
            };
            assert_eq!(applied_maybe, expected, "{text}");
        }
    }

    #[test]
    fn a_failure_is_named_by_what_went_wrong() {
        let class = |error| match classify(error) {
            Failure::Transient { class, .. } => class,
            Failure::Invalid(reason) => format!("invalid: {reason}"),
            Failure::Other(_) => "other".to_owned(),
        };
        let refused = "invalid: DynamoDB refuses the request (ValidationException)";
        let refused_item = |code| class(service(400, code));
        assert_eq!(refused_item("ValidationException"), refused);
        assert_eq!(refused_item("ItemCollectionSizeLimitExceededException"), refused);
        assert_eq!(class(service(400, "AccessDeniedException")), "other");
        assert_eq!(class(service(400, "ThrottlingException")), "ThrottlingException");
        assert_eq!(class(SdkError::construction_failure("planned")), "request could not be built");
        assert_eq!(class(SdkError::timeout_error("planned")), "timeout");
        assert_eq!(class(SdkError::dispatch_failure(ConnectorError::io("planned".into()))), "connection failed");
        assert_eq!(class(SdkError::response_error("planned", answered(200))), "no readable answer");
    }

    /// Each message alone tells, whatever the others say.
    #[test]
    fn a_refusal_is_explained_by_any_of_the_words_that_dynamodb_uses_for_it() {
        let number = "a sum would exceed DynamoDB's 38 significant digits or its range";
        let operand = "an amount was added to an attribute that is not a number";
        let size = "the item would exceed DynamoDB's limit of 400 KB";
        let index = "the table does not have the index: `projector doctor` names what differs";
        let key = "DynamoDB refuses the key: it is empty, too long, or not of the type that the table or an index needs";
        for (message, reason) in [
            ("Attempting to store more than 38 digits", number),
            ("too many SIGNIFICANT DIGITS", number),
            ("Number overflow", number),
            ("Number underflow", number),
            ("magnitude is outside of the supported range", number),
            ("invalid operand type", operand),
            ("Type mismatch for attribute", operand),
            ("An operand has an incorrect operand", operand),
            ("Item size has exceeded", size),
            ("more than 400 KB", size),
            ("the maximum allowed size", size),
            ("does not have the specified index", index),
            ("one or more parameter values: a key", key),
            ("the value is empty", key),
            ("anything else", "DynamoDB refuses the request (ValidationException)"),
        ] {
            assert_eq!(invalid_reason(Some(message)), reason, "{message}");
        }
        assert_eq!(invalid_reason(None), "DynamoDB refuses the request (ValidationException)");
    }

    #[test]
    fn a_missing_table_has_advice_of_its_own() {
        assert!(advice("ResourceNotFoundException").starts_with("a table is missing"));
        assert!(advice("AccessDeniedException").starts_with("check the table names"));
    }

    #[test]
    fn a_conflict_is_told_from_other_failures() {
        let class = |code: &str| StoreError::Transient { operation: "put", class: code.to_owned() }.is_conflict();
        assert!([CONFLICT, "TransactionConflictException", "ReplicatedWriteConflictException"].into_iter().all(class));
        assert!(!class("ThrottlingException") && !StoreError::DeadlineExceeded.is_conflict());
        let reasons = |codes: &[&str]| codes.iter().map(|code| CancellationReason::builder().code(*code).build()).collect::<Vec<_>>();
        assert_eq!(cancellation_class(&reasons(&["None", "ThrottlingError", CONFLICT])), CONFLICT);
        assert_eq!(cancellation_class(&reasons(&["None", "ThrottlingError"])), "ThrottlingError");
        assert_eq!(cancellation_class(&reasons(&["None"])), "canceled without a reason");
    }

    #[test]
    fn a_request_may_have_been_applied_unless_it_was_refused() {
        let transient = |applied_maybe| Failure::<()>::Transient { class: "planned".to_owned(), applied_maybe };
        assert!(transient(true).applied_maybe());
        assert!(
            !transient(false).applied_maybe() && !Failure::<()>::Invalid("planned").applied_maybe() && !Failure::Other(()).applied_maybe()
        );
    }
}
