//! Clients of an address: DynamoDB Local, an emulator, a VPC endpoint.

use aws_sdk_dynamodb::config::{Credentials, Region};

use super::{HTTP_URL, KEY_ID, REGION, SECRET_KEY, SESSION_TOKEN, client, http_client, is_http_url, lambda_client, streams_client};
use crate::config::{ConfigError, ConfigProblem};

/// The region, for tools that do not run inside AWS.
const DEFAULT_REGION: &str = "AWS_DEFAULT_REGION";

/// A client of the DynamoDB at this address. Emulators require credentials but do not check them, so without any in the
/// environment the client sends dummy ones.
///
/// # Errors
/// The address is not a valid URL, or the environment has only half of a credential.
pub fn of_endpoint(url: &str) -> Result<aws_sdk_dynamodb::Client, ConfigError> {
    let Identity { region, credentials } = Identity::for_url(url)?;
    let config = aws_sdk_dynamodb::Config::builder().region(region).credentials_provider(credentials).endpoint_url(url);
    Ok(client(config, http_client(Some(url))))
}

/// A client of the DynamoDB streams at this address.
///
/// # Errors
/// Those of [`of_endpoint`].
pub fn streams_of_endpoint(url: &str) -> Result<aws_sdk_dynamodbstreams::Client, ConfigError> {
    let Identity { region, credentials } = Identity::for_url(url)?;
    let config = aws_sdk_dynamodbstreams::Config::builder().region(region).credentials_provider(credentials).endpoint_url(url);
    Ok(streams_client(config, http_client(Some(url))))
}

/// A client of the Lambda service at this address, which emulators of all of AWS provide.
///
/// # Errors
/// Those of [`of_endpoint`].
pub fn lambda_of_endpoint(url: &str) -> Result<aws_sdk_lambda::Client, ConfigError> {
    let Identity { region, credentials } = Identity::for_url(url)?;
    let config = aws_sdk_lambda::Config::builder().region(region).credentials_provider(credentials).endpoint_url(url);
    Ok(lambda_client(config, http_client(Some(url))))
}

/// Where, and as whom, requests are signed.
struct Identity {
    region: Region,
    credentials: Credentials,
}

impl Identity {
    fn for_url(url: &str) -> Result<Self, ConfigError> {
        if !is_http_url(url) {
            return Err(ConfigProblem::invalid(format!("`{url}`"), HTTP_URL).into());
        }
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let credentials = match (set(KEY_ID), set(SECRET_KEY)) {
            (Some(id), Some(secret)) => Credentials::new(id, secret, set(SESSION_TOKEN), None, "environment"),
            (None, None) => Credentials::new("none", "none", None, None, "dummy"),
            (Some(_), None) => return Err(ConfigProblem::HalfSet { set: KEY_ID, missing: SECRET_KEY }.into()),
            (None, Some(_)) => return Err(ConfigProblem::HalfSet { set: SECRET_KEY, missing: KEY_ID }.into()),
        };
        let region = set(REGION).or_else(|| set(DEFAULT_REGION)).unwrap_or_else(|| "us-east-1".to_owned());
        Ok(Self { region: Region::new(region), credentials })
    }
}
