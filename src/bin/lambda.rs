//! The Lambda function with the projections of this repository.

use std::process::ExitCode;

use projection_vocabulary::Registry;
use projection_worker::lambda;

/// One thread: the work is waiting for DynamoDB, and below 1,769 MB of memory a function has less than one processor
/// (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>).
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match lambda::run(Registry::new(projections::ALL)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
