//! The Lambda's client, from the variables that Lambda sets.

use aws_sdk_dynamodb::{
    Client, Config,
    config::{Credentials, Region},
};

use super::{HTTP_URL, KEY_ID, REGION, SECRET_KEY, SESSION_TOKEN, client, http_client, is_http_url};
use crate::config::{ConfigError, ConfigProblem};

/// The address of DynamoDB, if it is not the public one. The first variable that is set counts, as in every AWS SDK
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>).
const ENDPOINTS: [&str; 2] = ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"];

/// A client for the Lambda, from the variables that Lambda sets
/// (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime>). The credentials are
/// valid for as long as the process: Lambda ends it before they expire.
///
/// # Errors
/// One error for all variables that are missing or wrong.
pub fn of_environment(var: impl Fn(&str) -> Option<String>) -> Result<Client, ConfigError> {
    let set = |name: &str| var(name).filter(|value| !value.is_empty());
    let mut problems = Vec::new();
    let mut required = |name: &str| {
        set(name).unwrap_or_else(|| {
            problems.push(ConfigProblem::missing(name));
            String::new()
        })
    };
    let region = Region::new(required(REGION));
    let credentials = Credentials::new(required(KEY_ID), required(SECRET_KEY), set(SESSION_TOKEN), None, "environment");
    let endpoint = ENDPOINTS.iter().find_map(|name| Some((name, set(name)?)));
    if let Some((name, url)) = &endpoint
        && !is_http_url(url)
    {
        problems.push(ConfigProblem::invalid(**name, HTTP_URL));
    }
    ConfigError::check(problems)?;
    let endpoint = endpoint.map(|(_, url)| url);
    let http = http_client(endpoint.as_deref());
    let mut config = Config::builder().region(region).credentials_provider(credentials);
    config.set_endpoint_url(endpoint);
    Ok(client(config, http))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sdk_dynamodb::config::retry::RetryConfig;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn of<'a>(variables: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
    }

    const LAMBDA: [(&str, &str); 4] =
        [("AWS_REGION", "eu-central-1"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_SESSION_TOKEN", "token")];

    #[test]
    fn one_message_names_every_wrong_variable_and_shows_no_value() {
        let error = of_environment(of(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_ENDPOINT_URL", "p4ssw0rd")]));
        assert_eq!(
            error.unwrap_err().to_string(),
            "AWS_REGION is not set; AWS_SECRET_ACCESS_KEY is not set; AWS_ENDPOINT_URL is not a valid http or https URL"
        );
    }

    #[tokio::test]
    async fn the_client_never_retries_and_every_attempt_times_out() {
        let client = of_environment(of(&LAMBDA)).unwrap();
        let config = client.config();
        assert_eq!(config.retry_config().map(RetryConfig::max_attempts), Some(1));
        let timeouts = config.timeout_config().unwrap();
        assert_eq!(timeouts.operation_attempt_timeout(), Some(Duration::from_secs(3)));
        assert_eq!(timeouts.connect_timeout(), Some(Duration::from_secs(1)));
        assert_eq!(config.region().unwrap().as_ref(), "eu-central-1");
    }

    #[tokio::test]
    async fn a_request_to_a_server_that_never_answers_times_out() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let environment =
            [LAMBDA.as_slice(), &[("AWS_ENDPOINT_URL_DYNAMODB", url.as_str()), ("AWS_ENDPOINT_URL", "https://other")]].concat();
        let client = of_environment(of(&environment)).unwrap();
        // The kernel accepts the connection, but no program reads from it.
        let error = client.list_tables().send().await.unwrap_err();
        assert!(matches!(error, aws_sdk_dynamodb::error::SdkError::TimeoutError(_)), "{error:?}");
    }

    #[tokio::test]
    async fn an_https_endpoint_gets_tls_and_an_http_endpoint_does_not() {
        for (scheme, first) in [("https", 0x16), ("http", b'P')] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("{scheme}://{}", listener.local_addr().unwrap());
            let client = of_environment(of(&[LAMBDA.as_slice(), &[("AWS_ENDPOINT_URL", url.as_str())]].concat())).unwrap();
            let begin = async {
                let mut stream = listener.accept().await.unwrap().0;
                stream.read_u8().await.unwrap()
            };
            tokio::select! {
                // The first byte of a TLS handshake, or the P of POST.
                begin = begin => assert_eq!(begin, first, "{scheme}"),
                done = client.list_tables().send() => panic!("nobody answered: {done:?}"),
            }
        }
    }
}
