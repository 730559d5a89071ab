//! The command line: `projector`.
//!
//! A team's own binary is one call of [`run`] with its own registry.

mod capture;
mod catch_up;
mod doctor;
mod events;
mod generate;
mod parked;
mod pretty_json;
mod rate_limit;
mod rebuild;
mod replay;
mod runner;
mod snapshot;
mod status;
mod stores;
mod terminal;
mod verify;

use std::{path::PathBuf, process::ExitCode};

use clap::{Arg, ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use projection_vocabulary::{Registry, sample::Sample};

/// Everything was applied.
const EXIT_OK: u8 = 0;
/// Rows differ from what was expected, or something was parked or failed.
const EXIT_FINDINGS: u8 = 1;
/// The command line or the input cannot be understood.
const EXIT_USAGE: u8 = 2;
/// Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// Projects DynamoDB event streams into read models, exactly once.
#[derive(Parser)]
#[command(name = "projector", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Projector {
    #[command(flatten)]
    store: StoreOptions,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Without a store option everything happens in a DynamoDB inside this process, in memory.

Exit codes: 0 all applied, 1 a difference or something parked or failed, 2 usage or unreadable input, 130 interrupted.";

/// Which DynamoDB to work on.
#[derive(Args)]
#[command(next_help_heading = "Store")]
struct StoreOptions {
    /// Keep the DynamoDB of this process in a file
    #[arg(long, global = true, value_name = "PATH", conflicts_with_all = ["endpoint_url", "aws"])]
    data: Option<PathBuf>,
    /// Use the DynamoDB at this address
    #[arg(long, global = true, value_name = "URL", conflicts_with = "aws")]
    endpoint_url: Option<String>,
    /// Use DynamoDB on AWS, with the usual chain of credentials; table names come from the environment
    #[arg(long, global = true)]
    aws: bool,
}

impl StoreOptions {
    /// Into how many segments to cut a scan unless told: one after the other inside this process, a few at once over a network.
    fn segments(&self) -> u32 {
        if self.is_remote() { 4 } else { 1 }
    }

    /// Whether it lies outside this process.
    fn is_remote(&self) -> bool {
        self.aws || self.endpoint_url.is_some()
    }
}

#[derive(Subcommand)]
enum Command {
    /// Project captured stream JSON and show what became of it
    Replay(replay::Options),
    /// Append to the event store, import into it, look into it
    #[command(subcommand)]
    Events(events::Command),
    /// Record the event store's stream into files that `replay` takes
    Capture(capture::Options),
    /// Show what could not be applied, and take it up again
    #[command(subcommand)]
    Parked(parked::Command),
    /// Show how many rows each projection has, what is parked, and whether rows are outdated or behind the event store
    ///
    /// It looks at the newest event of each type alone; `verify` looks at all. Exit code 0 if nothing is parked, outdated or behind.
    #[command(verbatim_doc_comment)]
    Status(status::Options),
    /// Judge a template, or what is deployed, by what correctness needs: each finding says why it matters and the fix
    ///
    /// Of a template: `projector doctor infra/template.yaml`. Of a deployed function: `projector --aws doctor --function NAME`.
    /// Exit code 0 if nothing is found.
    #[command(verbatim_doc_comment)]
    Doctor(doctor::Options),
    /// Compare every row of a projection with the event store, also while the worker runs
    ///
    /// Exit code 0 only if all that was looked at is as it must be, or was mended.
    #[command(verbatim_doc_comment)]
    Verify(verify::Options),
    /// Bring every row of a projection to today's revision of its rule, while the worker goes on: in place, or into a table beside
    RebuildProjection(rebuild::Options),
    /// Advance the aggregates that are behind the event store
    CatchUp(catch_up::Options),
    /// Write a made-up history as stream JSON, with the rows expected of it
    Generate(generate::Options),
    /// Manage the tables
    #[command(subcommand)]
    Tables(Tables),
}

#[derive(Subcommand)]
enum Tables {
    /// Create the tables that are missing
    Create,
}

/// Runs the command line of this process.
#[must_use]
pub fn run(registry: Registry, samples: &'static [Sample]) -> ExitCode {
    terminal::log_to_stderr();
    let matches = command(samples).get_matches();
    let chosen =
        matches.subcommand_matches("generate").and_then(|matches| samples.iter().skip(1).find(|sample| matches.get_flag(sample.name)));
    let projector = Projector::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result =
        runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(projector.run(registry, chosen.or(samples.first()))));
    ExitCode::from(result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        EXIT_USAGE
    }))
}

/// The sample domains are the caller's, so their flags are made here.
fn command(samples: &[Sample]) -> clap::Command {
    let flags = samples.iter().skip(1).map(|sample| {
        Arg::new(sample.name).long(sample.name).action(ArgAction::SetTrue).help(format!("Make up a history of the {} domain", sample.name))
    });
    Projector::command().mut_subcommand("generate", |generate| generate.args(flags))
}

impl Projector {
    async fn run(self, registry: Registry, sample: Option<&'static Sample>) -> anyhow::Result<u8> {
        if let Command::Generate(options) = self.command {
            let sample = sample.ok_or_else(|| anyhow::anyhow!("this program has no sample domain to generate from"))?;
            return generate::run(&options, registry, sample);
        }
        if let Command::RebuildProjection(options) = self.command {
            return Box::pin(rebuild::run(&options, &self.store, registry)).await;
        }
        if let Command::Capture(options) = self.command {
            return Box::pin(capture::run(&options, &self.store, registry)).await;
        }
        if let Command::Doctor(options) = self.command {
            return doctor::run(&options, &self.store, registry).await;
        }
        let store = stores::open(&self.store, registry, matches!(self.command, Command::Tables(_))).await?;
        match self.command {
            Command::Replay(options) => Box::pin(replay::run(&options, store, registry)).await,
            Command::Events(command) => events::run(command, &store).await,
            Command::Parked(command) => parked::run(command, store, registry).await,
            Command::Status(options) => status::run(&options, &self.store, store, registry).await,
            Command::Verify(options) => verify::run(&options, &self.store, store, registry).await,
            Command::CatchUp(options) => Box::pin(catch_up::run(&options, &self.store, store, registry)).await,
            Command::Tables(Tables::Create) => stores::create(&store, registry).await,
            Command::Generate(_) | Command::RebuildProjection(_) | Command::Capture(_) | Command::Doctor(_) => {
                unreachable!("handled above: with no store, or one of its own")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command(&[]).debug_assert();
    }
}
