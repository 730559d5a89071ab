//! Clients of AWS, configured where every AWS tool looks: environment, profiles (including IAM Identity Center and credential
//! processes), web identity, container, instance. The one user of `aws-config`.

use aws_sdk_dynamodb::config::{BehaviorVersion, SharedHttpClient};

use super::{client, http_client, lambda_client, streams_client};

/// A client of DynamoDB on AWS. If a setting is missing, the first call fails.
pub async fn of_credential_chain() -> aws_sdk_dynamodb::Client {
    let (config, http) = load().await;
    client(aws_sdk_dynamodb::config::Builder::from(&config), http)
}

/// A client of DynamoDB streams on AWS. If a setting is missing, the first call fails.
pub async fn streams_of_credential_chain() -> aws_sdk_dynamodbstreams::Client {
    let (config, http) = load().await;
    streams_client(aws_sdk_dynamodbstreams::config::Builder::from(&config), http)
}

/// A client of the Lambda service on AWS. If a setting is missing, the first call fails.
pub async fn lambda_of_credential_chain() -> aws_sdk_lambda::Client {
    let (config, http) = load().await;
    lambda_client(aws_sdk_lambda::config::Builder::from(&config), http)
}

async fn load() -> (aws_config::SdkConfig, SharedHttpClient) {
    // The credential chain and the client share one HTTP client: it also speaks plain HTTP, which containers and instances use to
    // hand out credentials.
    let http = http_client(None);
    (aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone()).load().await, http)
}
