//! The command line with the projections of this repository.

use std::process::ExitCode;

use projection_vocabulary::{Deciders, Registry};
use projections::samples;

fn main() -> ExitCode {
    projection_worker::cli::run(Registry::new(projections::ALL), Deciders::new(projections::AGGREGATES), samples::ALL)
}
