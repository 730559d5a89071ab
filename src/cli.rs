//! The command line: `projector`.
//!
//! A team's own binary is one call of [`run`] with its own registry.

// All output passes through `out` and `terminal`, which escape it.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod capture;
mod catch_up;
mod command;
mod complaints;
mod corrections;
mod dev;
mod doctor;
mod events;
mod explain;
mod format;
mod generate;
mod json_lines;
mod manual;
mod out;
mod parked;
mod pretty_json;
mod preview;
mod process;
mod rate_limit;
mod readable;
mod rebuild;
mod replay;
mod report;
mod row_tables;
mod rows;
mod runner;
mod segments;
mod serve;
mod status;
mod stores;
mod summary;
mod terminal;
mod text;
mod verify;
mod verify_aggregates;

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use projection_vocabulary::{Deciders, DynProjection, Registry, sample::Sample};

use crate::{Calls, Worker, escape, operations::error::find_projection, store::Store};
use out::Out;

/// Everything was applied.
const EXIT_OK: u8 = 0;
/// Rows differ from the expected ones, or something was parked or failed.
const EXIT_FINDINGS: u8 = 1;
/// The command line or the input cannot be understood, or the output cannot be written.
const EXIT_USAGE: u8 = 2;
/// Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;
/// The records say that the event store is not append-only.
const EXIT_REWRITTEN: u8 = 3;

/// Help is wrapped at the terminal's width, but lines longer than this are hard to read.
const HELP_COLUMNS_MAX: usize = 100;

/// Projects DynamoDB event streams into read models, exactly once
#[derive(Parser)]
#[command(name = "projector", arg_required_else_help = true, after_help = EXAMPLE, after_long_help = EXIT_CODES)]
struct Projector {
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "\
Example: projector --data demo.db replay captured/

Without a store, `replay`, `serve` and `dev` work in memory. More: projector --help, projector COMMAND --help";

const EXIT_CODES: &str = "\
Example: projector --data demo.db replay captured/

Without a store option, PROJECTOR_STORE names the store: `aws`, a URL, or a file. Without either, `replay`, `serve` \
and `dev` work in memory, and other commands refuse to run.

Exit codes:
  0    success: everything was applied, or nothing was found
  1    findings: a difference, or something is parked or failed
  2    usage error, unreadable input, or an output that cannot be written
  3    replay: all is well, but events were changed or deleted after they were appended; run verify
  130  interrupted by Ctrl-C; run the command again, nothing is counted twice
A reader that closes the output early (`| head`) changes neither the work nor the exit code.

Colours are off if NO_COLOR is set, TERM is dumb, or the output is not a terminal.";

/// Which DynamoDB to work on.
#[derive(Args)]
#[command(next_help_heading = "Store")]
struct StoreOptions {
    /// Keep this process's DynamoDB in a file
    #[arg(long, global = true, value_name = "PATH", conflicts_with_all = ["endpoint_url", "aws"])]
    data: Option<PathBuf>,
    /// Use the DynamoDB at this address
    #[arg(long, global = true, value_name = "URL", conflicts_with = "aws")]
    endpoint_url: Option<String>,
    /// Use DynamoDB on AWS with the default credential chain; the environment names the tables
    #[arg(long, global = true)]
    aws: bool,
}

impl StoreOptions {
    /// Whether it lies outside this process.
    fn is_remote(&self) -> bool {
        self.aws || self.endpoint_url.is_some()
    }

    /// Whether it ends with this process.
    fn is_in_memory(&self) -> bool {
        !self.is_remote() && self.data.is_none()
    }
}

/// How much to say on the standard error output.
#[derive(Args)]
#[command(next_help_heading = "Log")]
struct Verbosity {
    /// Show errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Show more of the log; twice for all of it
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Project captured stream JSON and show the outcome
    #[command(after_help = "Example: projector replay captured/ --expect captured/expected.json")]
    Replay(replay::Options),
    /// Show rows
    #[command(subcommand)]
    Rows(rows::Command),
    /// Tell an aggregate to do something
    ///
    /// Its decider refuses the command, or decides what happens; the events are appended exactly once. Exit code 1 if the command is refused or
    /// the aggregate is not at the expected version.
    #[command(after_help = "Example: projector --data demo.db command {kind} ID '{command}' --id REQUEST")]
    #[command(name = "command")]
    Tell(command::Options),
    /// Append events, import them, or show them
    #[command(subcommand)]
    Events(events::Command),
    /// Record the event store's stream for `replay`
    #[command(after_help = "Example: projector --aws capture --out captured --gzip")]
    Capture(capture::Options),
    /// List, show or retry what could not be applied
    #[command(subcommand)]
    Parked(parked::Command),
    /// List process instances, show one, and retry or resolve those that are stuck
    #[command(subcommand)]
    Process(process::Command),
    /// Let the timers of processes that are due run out
    ///
    /// A schedule invokes the Lambda for this each minute. It is safe to run it at any time, and at several places at once.
    #[command(after_help = "Example: projector --data demo.db tick")]
    Tick(process::TickOptions),
    /// Show row counts, and what is parked, outdated or behind
    ///
    /// It checks the newest event of each type only; `verify` checks all. Exit code 0 if nothing is parked, outdated or behind.
    #[command(after_help = "Example: projector --data demo.db status")]
    Status(status::Options),
    /// Check a deployment for settings that lose or delay events
    ///
    /// It checks a template, or a deployed function with --function. Each finding explains why it matters and how to fix it. Exit code
    /// 0 if nothing is found.
    #[command(after_help = "Example: projector doctor infra/template.yaml")]
    Doctor(doctor::Options),
    /// Compare every row of a projection with the event store
    ///
    /// It is safe to run this while the worker runs. Exit code 0 only if every row that was checked is right, or was repaired.
    #[command(after_help = "Example: projector --data demo.db verify {projection} --repair")]
    Verify(verify::Options),
    /// Tell what each event of an aggregate did to its row, and what the row was then
    ///
    /// It folds the history by the rules of this program, and compares the end with the row that is stored. With --attribute it names the aggregates
    /// that made an attribute of a row that they share, by a scan of the rows. It writes nothing, and prints data of events. Exit code 1 if an event cannot
    /// be applied, or if the stored row is not what its events make.
    #[command(after_help = "Example: projector --data demo.db explain alice --projection {projection} --at 7")]
    Explain(explain::Options),
    /// Tell what the rule of this program would make of the rows, without writing
    ///
    /// Each row is compared with the fold of its history, attribute by attribute. It prints data of events. Exit code 1 if a row would change or
    /// appear, or cannot be worked out because its aggregate would be parked.
    #[command(after_help = "Example: projector --aws preview {projection} --sample 5")]
    Preview(preview::Options),
    /// Compare the snapshots and claims of aggregates with their events
    ///
    /// It is safe to run this while commands are carried out. Exit code 0 only if all are right, or were repaired.
    #[command(after_help = "Example: projector --data demo.db verify-aggregates --repair")]
    VerifyAggregates(verify_aggregates::Options),
    /// Rebuild every row of a projection with the current rule
    ///
    /// It is safe to run this while the worker runs. Rows are replaced in place, or built in a separate table with --into.
    #[command(after_help = "Example: projector --data demo.db rebuild-projection {projection} --dry-run")]
    RebuildProjection(rebuild::Options),
    /// Advance rows that are behind the event store
    #[command(after_help = "Example: projector --aws catch-up {projection} --since 26h")]
    CatchUp(catch_up::Options),
    /// Make up a history as stream JSON, with its expected rows
    #[command(after_help = "Example: projector generate --events 10000 --aggregates 100 --out history")]
    Generate(generate::Options),
    /// Create the tables
    #[command(subcommand)]
    Tables(Tables),
    /// Serve the embedded DynamoDB over HTTP
    ///
    /// For the AWS CLI, SDKs and other tools. Only programs on this machine can connect: it listens on 127.0.0.1 and refuses requests of web pages, DNS rebinding included.
    /// It checks no credentials. While it runs, other commands reach the data with --endpoint-url instead of --data.
    #[command(after_help = "Example: projector --data demo.db serve --port 8000")]
    Serve(serve::Options),
    /// Run the whole loop on this machine, with a page that shows it
    ///
    /// The embedded DynamoDB over HTTP, as `serve` has it; its stream, delivered as Lambda delivers it; the worker with all projections and processes; and a page with
    /// what becomes of each record, rows, histories, commands and parked entries. Its buttons deliver again, out of order and to a function that dies, beside a naive
    /// handler whose rows go wrong. It checks no credentials.
    #[command(after_help = "Example: projector dev")]
    Dev(dev::Options),
    /// Print a completion script for a shell
    #[command(after_help = "Example: projector completions bash > ~/.local/share/bash-completion/completions/projector")]
    Completions(manual::CompletionsOptions),
    /// Write manual pages
    #[command(after_help = "Example: projector man --out ~/.local/share/man/man1")]
    Man(manual::ManOptions),
}

#[derive(Subcommand)]
enum Tables {
    /// Create the tables that are missing
    #[command(after_help = "Example: projector --endpoint-url http://127.0.0.1:8000 tables create")]
    Create {
        #[command(flatten)]
        format: format::Format,
    },
}

/// What every command works with.
struct Context {
    store: StoreOptions,
    registry: Registry,
    deciders: Deciders,
    samples: &'static [Sample],
    calls: Calls,
    /// The projections as the next deployment would have them.
    next: Option<Registry>,
    out: Out,
}

impl Context {
    /// Opens the store that the command line names. Without a name it is in memory.
    async fn open_store(&self) -> anyhow::Result<Store> {
        stores::open(&self.store, self.registry, stores::Use::Try).await
    }

    /// Opens a store that must have a name, and that must exist.
    async fn open_existing_store(&self) -> anyhow::Result<Store> {
        stores::open(&self.store, self.registry, stores::Use::Existing).await
    }

    /// Opens a store that must have a name. Its file is created if it is missing.
    async fn open_store_to_fill(&self) -> anyhow::Result<Store> {
        stores::open(&self.store, self.registry, stores::Use::Fill).await
    }

    /// A worker for this program's projections on a store.
    fn worker(&self, store: Store) -> Worker {
        Worker::new(store, self.registry).with_calls(self.calls.clone())
    }

    /// The projection of this name.
    fn rule(&self, name: &str) -> anyhow::Result<&'static dyn DynProjection> {
        Ok(find_projection(self.registry, name)?)
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn run(registry: Registry, deciders: Deciders, samples: &'static [Sample]) -> ExitCode {
    Program::new(registry, deciders, samples).run()
}

/// The command line of a team's own binary.
#[derive(Clone)]
pub struct Program {
    registry: Registry,
    deciders: Deciders,
    samples: &'static [Sample],
    calls: Calls,
    next: Option<Registry>,
}

impl Program {
    /// A command line for these projections and aggregates. Histories can be made up of the samples.
    #[must_use]
    pub fn new(registry: Registry, deciders: Deciders, samples: &'static [Sample]) -> Self {
        Self { registry, deciders, samples, calls: Calls::new(), next: None }
    }

    /// With the functions that the processes of this program call.
    #[must_use]
    pub fn with_calls(mut self, calls: Calls) -> Self {
        self.calls = calls;
        self
    }

    /// With the projections as the next deployment would have them: `dev` shows what becomes of a history under either.
    #[must_use]
    pub fn with_next(mut self, next: Registry) -> Self {
        self.next = Some(next);
        self
    }

    /// Runs the command line of this process.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let Self { registry, deciders, samples, .. } = self;
        let matches = match command(registry, deciders, samples).try_get_matches() {
            Ok(matches) => matches,
            Err(error) => return exit_with(&error),
        };
        match Projector::from_arg_matches(&matches) {
            Ok(projector) => self.run_command(projector, chosen_sample(&matches, samples)),
            Err(error) => exit_with(&error),
        }
    }

    fn run_command(self, Projector { store, verbosity, command }: Projector, sample: Option<&Sample>) -> ExitCode {
        let Self { registry, deciders, samples, calls, next } = self;
        terminal::set_up(verbosity.quiet, verbosity.verbose);
        // What these do must not depend on a variable: `doctor FILE` is offline, and the others use no store.
        let takes_no_store = matches!(command, Command::Doctor(_) | Command::Generate(_) | Command::Completions(_) | Command::Man(_));
        let store = if takes_no_store { store } else { store.or_of_environment() };
        let mut cx = Context { store, registry, deciders, samples, calls, next, out: Out::stdout() };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(command.run(sample, &mut cx)));
        let exit = result.unwrap_or_else(|error| {
            terminal::error(format_args!("{error:#}"));
            EXIT_USAGE
        });
        ExitCode::from(match cx.out.finish() {
            Ok(()) => exit,
            Err(error) => {
                terminal::error(unwritable(&error));
                EXIT_USAGE
            }
        })
    }
}

/// Prints help, the version or a usage error.
fn exit_with(error: &clap::Error) -> ExitCode {
    // It quotes arguments, and a script may have taken them from events.
    let text = error.render().to_string();
    if escape::lines(&text) != text {
        terminal::error(text.trim_start_matches("error: ").trim_end());
        return ExitCode::from(EXIT_USAGE);
    }
    match error.print() {
        Err(failed) if !error.use_stderr() && failed.kind() != ErrorKind::BrokenPipe => {
            terminal::error(unwritable(&failed));
            ExitCode::from(EXIT_USAGE)
        }
        _ => u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from),
    }
}

fn unwritable(error: &io::Error) -> String {
    format!("cannot write to the standard output: {error}")
}

/// The sample domain that a flag of `generate` names, else the first.
fn chosen_sample(matches: &ArgMatches, samples: &'static [Sample]) -> Option<&'static Sample> {
    let generate = matches.subcommand_matches("generate");
    let named = generate.and_then(|matches| samples.iter().skip(1).find(|sample| matches.get_flag(sample.name)));
    named.or(samples.first())
}

/// The definition of the command line. The sample domains are the caller's, so their flags are added here.
fn command(registry: Registry, deciders: Deciders, samples: &[Sample]) -> clap::Command {
    let flags = samples.iter().skip(1).map(|sample| {
        Arg::new(sample.name).long(sample.name).action(ArgAction::SetTrue).help(format!("Make up a history of the {} domain", sample.name))
    });
    let command = with_negative_numbers(Projector::command()).version(version()).max_term_width(HELP_COLUMNS_MAX);
    with_examples_of(registry, deciders, command.mut_subcommand("generate", |generate| generate.args(flags)))
}

/// Takes `-1` for a value, so that the error names the values that there are, and not an option.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| if arg.get_action().takes_values() { arg.allow_negative_numbers(true) } else { arg });
    command.mut_subcommands(with_negative_numbers)
}

/// Examples name a projection, an event type and a command of this very program.
fn with_examples_of(registry: Registry, deciders: Deciders, command: clap::Command) -> clap::Command {
    let first = registry.projections().first();
    let projection = first.map_or("NAME", |projection| projection.name());
    let event_type = first.and_then(|projection| projection.event_types().first()).unwrap_or(&"TYPE");
    let (kind, told) =
        deciders.all().first().map_or(("KIND", "COMMAND".to_owned()), |decider| (decider.kind(), command::first_of(*decider)));
    let filled = |help: &clap::builder::StyledStr| {
        let help = help.to_string().replace("{projection}", projection).replace("{event-type}", event_type);
        help.replace("{kind}", kind).replace("{command}", &told)
    };
    let example = command.get_after_help().map(filled);
    let command = if let Some(example) = example { command.after_help(example) } else { command };
    command.mut_subcommands(|subcommand| with_examples_of(registry, deciders, subcommand))
}

/// `0.1.0 (2425037)`; without the commit if it was not built from a checkout (see `src/build.rs`).
fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    option_env!("PROJECTOR_COMMIT").map_or_else(|| version.to_owned(), |commit| format!("{version} ({commit})"))
}

impl Command {
    async fn run(self, sample: Option<&Sample>, cx: &mut Context) -> anyhow::Result<u8> {
        match &self {
            Self::Replay(options) => Box::pin(replay::run(options, cx)).await,
            Self::Rows(command) => rows::run(command, cx).await,
            Self::Tell(options) => Box::pin(command::run(options, cx)).await,
            Self::Events(command) => events::run(command, cx).await,
            Self::Capture(options) => Box::pin(capture::run(options, cx)).await,
            Self::Parked(command) => parked::run(command, cx).await,
            Self::Process(command) => process::run(command, cx).await,
            Self::Tick(options) => process::tick(options, cx).await,
            Self::Status(options) => status::run(options, cx).await,
            Self::Doctor(options) => doctor::run(options, cx).await,
            Self::Verify(options) => verify::run(options, cx).await,
            Self::Explain(options) => Box::pin(explain::run(options, cx)).await,
            Self::Preview(options) => Box::pin(preview::run(options, cx)).await,
            Self::VerifyAggregates(options) => Box::pin(verify_aggregates::run(options, cx)).await,
            Self::RebuildProjection(options) => Box::pin(rebuild::run(options, cx)).await,
            Self::CatchUp(options) => Box::pin(catch_up::run(options, cx)).await,
            Self::Generate(options) => generate::run(options, sample, cx),
            Self::Tables(Tables::Create { format }) => stores::create_tables(*format, cx).await,
            Self::Serve(options) => serve::run(options, cx).await,
            Self::Dev(options) => Box::pin(dev::run(options, cx)).await,
            Self::Completions(options) => manual::completions(options, command(cx.registry, cx.deciders, cx.samples), cx),
            Self::Man(options) => manual::man(options, command(cx.registry, cx.deciders, cx.samples), cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command(Registry::new(&[]), Deciders::NONE, &[]).debug_assert();
    }
}
