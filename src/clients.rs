//! Clients of DynamoDB: where they connect, as whom, and how long they wait.
//!
//! The one user of `aws-config` and of the SDK's TLS. The Lambda does without `aws-config`: all it needs stands in its
//! environment, and a chain that looks further would only make it larger.

use std::time::Duration;

#[cfg(feature = "cli")]
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::{
    Client,
    config::{
        BehaviorVersion, Builder, Credentials, Region, SharedHttpClient, StalledStreamProtectionConfig, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

/// How long one attempt may take. DynamoDB answers the largest transaction in a small part of it, so what takes longer is
/// lost, and a retry finds out what became of it. One that begins at the last moment still ends in the fifth of an
/// invocation that is kept back for it if the function's timeout is 15 s or more.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long connecting may take, TLS included: milliseconds within a region. At one second the first lost packet would be
/// sent again (RFC 6298), and another attempt does as well.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

const REGION: &str = "AWS_REGION";
const KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";
/// Where DynamoDB is, if not at its public address; the first that is set counts, as in every AWS SDK
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>).
#[cfg(feature = "lambda")]
const ENDPOINTS: [&str; 2] = ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"];

/// A client for the Lambda, from the variables that Lambda sets
/// (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime>). They hold as
/// long as the process: Lambda ends it before its credentials expire.
///
/// # Errors
/// One message for all variables that are missing or wrong.
#[cfg(feature = "lambda")]
pub fn of_environment(var: impl Fn(&str) -> Option<String>) -> Result<Client, String> {
    let set = |name: &str| var(name).filter(|value| !value.is_empty());
    let mut wrong = Vec::new();
    let mut required = |name: &str| {
        set(name).unwrap_or_else(|| {
            wrong.push(format!("{name} is not set"));
            String::new()
        })
    };
    let region = Region::new(required(REGION));
    let credentials = Credentials::new(required(KEY_ID), required(SECRET_KEY), set(SESSION_TOKEN), None, "environment");
    let endpoint = ENDPOINTS.iter().find_map(|name| Some((name, set(name)?)));
    if let Some((name, url)) = &endpoint
        && !is_http_url(url)
    {
        wrong.push(format!("{name} is no http or https URL"));
    }
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    let endpoint = endpoint.map(|(_, url)| url);
    let http = http_client(endpoint.as_deref());
    let mut config = aws_sdk_dynamodb::Config::builder().region(region).credentials_provider(credentials);
    config.set_endpoint_url(endpoint);
    Ok(client(config, http))
}

/// A client of the DynamoDB at this address: DynamoDB Local, an emulator, a VPC endpoint. Emulators want credentials and
/// look at none, so without any in the environment it sends made-up ones.
///
/// # Errors
/// The address is no URL, or the environment has one half of a credential.
#[cfg(feature = "cli")]
pub fn of_endpoint(url: &str) -> Result<Client, String> {
    let (region, credentials) = identity_for(url)?;
    let config = aws_sdk_dynamodb::Config::builder().region(region).credentials_provider(credentials).endpoint_url(url);
    Ok(client(config, http_client(Some(url))))
}

/// The same of the streams at this address.
///
/// # Errors
/// Those of [`of_endpoint`].
#[cfg(feature = "cli")]
pub fn streams_of_endpoint(url: &str) -> Result<aws_sdk_dynamodbstreams::Client, String> {
    let (region, credentials) = identity_for(url)?;
    let config = aws_sdk_dynamodbstreams::Config::builder().region(region).credentials_provider(credentials).endpoint_url(url);
    Ok(streams_client(config, http_client(Some(url))))
}

/// The same of Lambda at this address, as emulators of all of AWS have it.
///
/// # Errors
/// Those of [`of_endpoint`].
#[cfg(feature = "cli")]
pub fn lambda_of_endpoint(url: &str) -> Result<aws_sdk_lambda::Client, String> {
    let (region, credentials) = identity_for(url)?;
    let config = aws_sdk_lambda::Config::builder().region(region).credentials_provider(credentials).endpoint_url(url);
    Ok(lambda_client(config, http_client(Some(url))))
}

/// As whom to call an address.
#[cfg(feature = "cli")]
fn identity_for(url: &str) -> Result<(Region, Credentials), String> {
    if !is_http_url(url) {
        return Err(format!("`{url}` is no http or https URL"));
    }
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let credentials = match (set(KEY_ID), set(SECRET_KEY)) {
        (Some(id), Some(secret)) => Credentials::new(id, secret, set(SESSION_TOKEN), None, "environment"),
        (None, None) => Credentials::new("none", "none", None, None, "made up"),
        (Some(_), None) => return Err(format!("{KEY_ID} is set and {SECRET_KEY} is not")),
        (None, Some(_)) => return Err(format!("{SECRET_KEY} is set and {KEY_ID} is not")),
    };
    let region = set(REGION).or_else(|| set("AWS_DEFAULT_REGION")).unwrap_or_else(|| "us-east-1".to_owned());
    Ok((Region::new(region), credentials))
}

/// A client of DynamoDB on AWS, with region, credentials and endpoint found where every AWS tool looks for them: the
/// environment, profiles (IAM Identity Center and credential processes included), a web identity, the container, the
/// instance. What is missing shows in the first call.
#[cfg(feature = "cli")]
pub async fn of_credential_chain() -> Client {
    let (found, http) = found_by_chain().await;
    client(Builder::from(&found), http)
}

/// The same of its streams.
#[cfg(feature = "cli")]
pub async fn streams_of_credential_chain() -> aws_sdk_dynamodbstreams::Client {
    let (found, http) = found_by_chain().await;
    streams_client(aws_sdk_dynamodbstreams::config::Builder::from(&found), http)
}

/// The same of Lambda.
#[cfg(feature = "cli")]
pub async fn lambda_of_credential_chain() -> aws_sdk_lambda::Client {
    let (found, http) = found_by_chain().await;
    lambda_client(aws_sdk_lambda::config::Builder::from(&found), http)
}

#[cfg(feature = "cli")]
async fn found_by_chain() -> (aws_config::SdkConfig, SharedHttpClient) {
    // The same for the chain as for the client: it speaks plain HTTP, too, where a container or an instance has its credentials.
    let http = http_client(None);
    (aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone()).load().await, http)
}

/// What all clients have in common, for either SDK crate: each generates its own types of the same names.
macro_rules! client {
    ($sdk:ident, $config:expr, $http:expr, $retries:expr) => {{
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(ATTEMPT_TIMEOUT);
        let config = $config
            .behavior_version(BehaviorVersion::latest())
            .http_client($http)
            .timeout_config(timeouts.build())
            .retry_config($retries)
            // It watches the throughput of long bodies. An answer of DynamoDB is short, and the attempt's time limits it anyway.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        $sdk::Client::from_conf(config.build())
    }};
}

fn client(config: Builder, http: SharedHttpClient) -> Client {
    // The worker has its own retries (see `retry`); a second layer would multiply attempts.
    client!(aws_sdk_dynamodb, config, http, RetryConfig::disabled())
}

/// Whoever reads a stream has none, and is slowed down by them where a shard has more readers.
#[cfg(feature = "cli")]
fn streams_client(config: aws_sdk_dynamodbstreams::config::Builder, http: SharedHttpClient) -> aws_sdk_dynamodbstreams::Client {
    client!(aws_sdk_dynamodbstreams, config, http, RetryConfig::standard())
}

#[cfg(feature = "cli")]
fn lambda_client(config: aws_sdk_lambda::config::Builder, http: SharedHttpClient) -> aws_sdk_lambda::Client {
    client!(aws_sdk_lambda, config, http, RetryConfig::standard())
}

/// What an operator needs of a call that failed: its class, and nothing of what was sent.
#[cfg(feature = "cli")]
pub(crate) fn class<E: ProvideErrorMetadata>(error: &SdkError<E>) -> &str {
    match error {
        SdkError::TimeoutError(_) => "timeout",
        SdkError::DispatchFailure(_) => "connection failed",
        _ => error.code().unwrap_or("no readable answer"),
    }
}

/// TLS only where it is spoken, so that an emulator beside the worker needs no trust store on the machine.
fn http_client(endpoint: Option<&str>) -> SharedHttpClient {
    let builder = aws_smithy_http_client::Builder::new();
    match endpoint {
        Some(url) if url.starts_with("http://") => builder.build_http(),
        _ => builder.tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https(),
    }
}

fn is_http_url(url: &str) -> bool {
    url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).is_some_and(|rest| !rest.is_empty())
}

#[cfg(all(test, feature = "lambda"))]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn of<'a>(variables: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
    }

    const LAMBDA: [(&str, &str); 4] =
        [("AWS_REGION", "eu-central-1"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_SESSION_TOKEN", "token")];

    #[test]
    fn one_message_names_all_that_is_wrong_and_no_value() {
        let error = of_environment(of(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_ENDPOINT_URL", "p4ssw0rd")]));
        assert_eq!(error.unwrap_err(), "AWS_REGION is not set; AWS_SECRET_ACCESS_KEY is not set; AWS_ENDPOINT_URL is no http or https URL");
    }

    #[tokio::test]
    async fn the_worker_alone_retries_and_every_attempt_ends() {
        let client = of_environment(of(&LAMBDA)).unwrap();
        let config = client.config();
        assert_eq!(config.retry_config().map(RetryConfig::max_attempts), Some(1));
        let timeouts = config.timeout_config().unwrap();
        assert_eq!(timeouts.operation_attempt_timeout(), Some(Duration::from_secs(3)));
        assert_eq!(timeouts.connect_timeout(), Some(Duration::from_secs(1)));
        assert_eq!(config.region().unwrap().as_ref(), "eu-central-1");
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let environment =
            [LAMBDA.as_slice(), &[("AWS_ENDPOINT_URL_DYNAMODB", url.as_str()), ("AWS_ENDPOINT_URL", "https://other")]].concat();
        let client = of_environment(of(&environment)).unwrap();
        // The kernel accepts the connection, and nobody reads from it.
        let error = client.list_tables().send().await.unwrap_err();
        assert!(matches!(error, aws_sdk_dynamodb::error::SdkError::TimeoutError(_)), "{error:?}");
    }

    #[tokio::test]
    async fn an_https_endpoint_is_spoken_to_in_tls_and_an_http_endpoint_is_not() {
        for (scheme, first) in [("https", 0x16), ("http", b'P')] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("{scheme}://{}", listener.local_addr().unwrap());
            let client = of_environment(of(&[LAMBDA.as_slice(), &[("AWS_ENDPOINT_URL", url.as_str())]].concat())).unwrap();
            let begin = async {
                let mut stream = listener.accept().await.unwrap().0;
                stream.read_u8().await.unwrap()
            };
            tokio::select! {
                // A handshake record of TLS, or the P of POST.
                begin = begin => assert_eq!(begin, first, "{scheme}"),
                done = client.list_tables().send() => panic!("nobody answered: {done:?}"),
            }
        }
    }
}
