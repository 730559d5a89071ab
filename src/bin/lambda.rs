//! The Lambda function with the projections of this repository.

use std::process::ExitCode;

use projection_vocabulary::Registry;

fn main() -> ExitCode {
    projection_worker::lambda::run(Registry::new(projections::ALL))
}
