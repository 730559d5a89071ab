//! Clients of AWS services: where they connect, as whom, and how long they wait. The one user of TLS.
//!
//! The Lambda does without `aws-config`: its environment holds all that it needs, and a credential chain would only make it larger.

#[cfg(feature = "cli")]
mod chain;
#[cfg(feature = "cli")]
mod endpoint;
#[cfg(feature = "lambda")]
mod environment;
#[cfg(feature = "lambda")]
mod http1;

use std::time::Duration;

#[cfg(feature = "cli")]
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Builder, SharedHttpClient, StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig},
};
#[cfg(feature = "cli")]
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

#[cfg(feature = "cli")]
pub use self::{chain::*, endpoint::*};
#[cfg(feature = "lambda")]
pub use environment::{FirstConnection, of_environment};

/// How long one attempt may take. DynamoDB answers the largest transaction in a fraction of it, so a request that takes longer is
/// lost, and a retry discovers its outcome. An attempt that starts at the last moment still ends within the fifth of an invocation
/// that the worker reserves, if the function's timeout is at least 15 s.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long connecting may take, including TLS: it takes milliseconds within a region. TCP would resend the first lost packet after
/// one second (RFC 6298), so a new attempt is just as good.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

const REGION: &str = "AWS_REGION";
const KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";

/// What an address must be, in error messages.
const HTTP_URL: &str = "a valid http or https URL in ASCII";

/// Builds a client with the settings that all clients share. A macro, because each SDK crate generates its own types of the same
/// names.
macro_rules! client {
    ($sdk:ident, $config:expr, $http:expr, $retries:expr) => {{
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(ATTEMPT_TIMEOUT);
        let config = $config
            .behavior_version(BehaviorVersion::latest())
            .http_client($http)
            .timeout_config(timeouts.build())
            .retry_config($retries)
            // It guards the throughput of long bodies. DynamoDB's answers are short, and the attempt timeout limits them anyway.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        $sdk::Client::from_conf(config.build())
    }};
}

fn client(config: Builder, http: SharedHttpClient) -> Client {
    // The worker has its own retries (see `retry`); a second layer would multiply attempts.
    client!(aws_sdk_dynamodb, config, http, RetryConfig::disabled())
}

/// This one retries: the reader of a stream has no retries of its own, and DynamoDB throttles it when a shard has several readers.
#[cfg(feature = "cli")]
fn streams_client(config: aws_sdk_dynamodbstreams::config::Builder, http: SharedHttpClient) -> aws_sdk_dynamodbstreams::Client {
    client!(aws_sdk_dynamodbstreams, config, http, RetryConfig::standard())
}

#[cfg(feature = "cli")]
fn lambda_client(config: aws_sdk_lambda::config::Builder, http: SharedHttpClient) -> aws_sdk_lambda::Client {
    client!(aws_sdk_lambda, config, http, RetryConfig::standard())
}

/// The class of a failed call, which is all that an operator needs. It shows nothing of the request.
#[cfg(feature = "cli")]
pub(crate) fn class<E: ProvideErrorMetadata>(error: &SdkError<E>) -> &str {
    match error {
        SdkError::TimeoutError(_) => "timeout",
        SdkError::DispatchFailure(_) => "connection failed",
        _ => error.code().unwrap_or("unreadable answer"),
    }
}

/// The command line's HTTP client. It trusts the authorities that its machine trusts. It uses TLS only for https addresses, so that an
/// emulator on the same machine does not require a trust store.
#[cfg(feature = "cli")]
fn http_client(endpoint: Option<&str>) -> SharedHttpClient {
    let builder = aws_smithy_http_client::Builder::new();
    match endpoint {
        Some(url) if url.starts_with("http://") => builder.build_http(),
        _ => builder.tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https(),
    }
}

fn is_http_url(url: &str) -> bool {
    url.is_ascii() && url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).is_some_and(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::is_http_url;

    /// Nothing here knows the `xn--` form of a host name with other letters, so it would be looked up in vain.
    #[test]
    fn an_address_is_http_and_ascii() {
        assert!(is_http_url("http://localhost:8000") && is_http_url("https://xn--exmple-cua.org"));
        assert!(["", "http://", "localhost:8000", "ftp://example.org", "https://ex\u{e4}mple.org"].iter().all(|url| !is_http_url(url)));
    }
}
