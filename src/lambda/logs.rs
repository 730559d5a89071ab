//! Log lines in Lambda's JSON format: one object per line, with `timestamp` and `level`, on the standard output.
//!
//! No line holds event data. The worker never logs any, and crates below it that would are filtered out.

use std::{io, panic};

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, registry::LookupSpan, util::SubscriberInitExt as _};

use crate::{escape, store::spans};

/// Starts logging, panics included, on top of this registry. If the process already has a subscriber, that one stays.
pub fn start(var: impl Fn(&str) -> Option<String>, registry: impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync) {
    let lines = fmt::layer()
        .json()
        .flatten_event(true)
        // The invocation's span has the request id, and it has no parent.
        .with_current_span(true)
        .with_span_list(false)
        .with_ansi(false)
        .with_writer(|| StandardOutput)
        // A filter of this layer only: traces are made of spans that the logs leave out.
        .with_filter(targets(level(var)));
    if registry.with(lines).try_init().is_ok() {
        // The place only: a panic's message may quote event data.
        panic::set_hook(Box::new(|panic| {
            let location = panic.location().map(ToString::to_string);
            tracing::error!(location, "panicked: a bug in the worker or in a rule");
        }));
    }
}

/// The standard output, by whole lines of JSON.
struct StandardOutput;

impl io::Write for StandardOutput {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        io::stdout().write_all(escape::lines(&String::from_utf8_lossy(lines)).as_bytes())?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// The level in the function's logging configuration, or else a plain word in `RUST_LOG`, or else INFO.
pub(super) fn level(var: impl Fn(&str) -> Option<String>) -> LevelFilter {
    let word = ["AWS_LAMBDA_LOG_LEVEL", "RUST_LOG"].iter().find_map(|name| var(name).filter(|word| !word.is_empty()));
    match word.as_deref() {
        // Lambda has one level more than `tracing`.
        Some("FATAL") => LevelFilter::ERROR,
        Some(word) => word.parse().unwrap_or(LevelFilter::INFO),
        None => LevelFilter::INFO,
    }
}

fn targets(level: LevelFilter) -> Targets {
    Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), level)
        // These spans would replace the invocation's, and its request id, in the lines.
        .with_target(spans::TARGET, LevelFilter::OFF)
        // Below INFO, the runtime logs whole events, and the SDK whole requests and answers.
        .with_default(level.min(LevelFilter::INFO))
        // The runtime creates the span with the request id at INFO; errors need the id most.
        .with_target("lambda_runtime::layers", LevelFilter::INFO)
        // It would log each error and each panic a second time.
        .with_target("lambda_runtime::layers::panic", LevelFilter::OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level_of(variables: &[(&str, &str)]) -> LevelFilter {
        level(|name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn lambdas_own_level_takes_precedence_over_rust_log() {
        assert_eq!(level_of(&[]), LevelFilter::INFO);
        assert_eq!(level_of(&[("AWS_LAMBDA_LOG_LEVEL", ""), ("RUST_LOG", "debug")]), LevelFilter::DEBUG);
        assert_eq!(level_of(&[("AWS_LAMBDA_LOG_LEVEL", "WARN"), ("RUST_LOG", "debug")]), LevelFilter::WARN);
        assert_eq!(level_of(&[("AWS_LAMBDA_LOG_LEVEL", "FATAL")]), LevelFilter::ERROR);
        assert_eq!(level_of(&[("RUST_LOG", "hyper=debug,info")]), LevelFilter::INFO);
    }
}
