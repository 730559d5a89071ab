//! Log lines as Lambda's JSON format has them: one object a line, with `timestamp` and `level`, on the standard output.
//!
//! Event data is in none of them. The worker writes none, and of the crates below it those that would are not heard.

use std::{io, panic};

use tracing::{Subscriber, level_filters::LevelFilter};

use tracing_subscriber::{Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, registry::LookupSpan, util::SubscriberInitExt as _};

use crate::store::spans;

/// Begins to write logs, panics included, of what this registry takes note of.
///
/// Whoever has set up logs before keeps them.
pub fn start(var: impl Fn(&str) -> Option<String>, registry: impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync) {
    let lines = fmt::layer()
        .json()
        .flatten_event(true)
        // The span of the invocation has its request id; there is none above it.
        .with_current_span(true)
        .with_span_list(false)
        .with_ansi(false)
        .with_writer(io::stdout)
        // Of its own, for traces are made of what logs leave out.
        .with_filter(heard(level(var)));
    if registry.with(lines).try_init().is_ok() {
        // Where, but not what: a message may quote the data that a rule stumbled over.
        panic::set_hook(Box::new(|panic| {
            let location = panic.location().map(ToString::to_string);
            tracing::error!(location, "panicked: a bug in the worker or in a rule");
        }));
    }
}

/// The level that the function's logging configuration sets, or a plain word in `RUST_LOG`, or INFO.
fn level(var: impl Fn(&str) -> Option<String>) -> LevelFilter {
    let word = ["AWS_LAMBDA_LOG_LEVEL", "RUST_LOG"].iter().find_map(|name| var(name).filter(|word| !word.is_empty()));
    match word.as_deref() {
        // Lambda knows one level more than `tracing` does.
        Some("FATAL") => LevelFilter::ERROR,
        Some(word) => word.parse().unwrap_or(LevelFilter::INFO),
        None => LevelFilter::INFO,
    }
}

fn heard(level: LevelFilter) -> Targets {
    Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), level)
        // They would push the request id out of the lines.
        .with_target(spans::TARGET, LevelFilter::OFF)
        // Below INFO the runtime logs whole events, and the SDK requests and answers.
        .with_default(level.min(LevelFilter::INFO))
        // At INFO it makes the span that tells the request id, which errors need most.
        .with_target("lambda_runtime::layers", LevelFilter::INFO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level_of(variables: &[(&str, &str)]) -> LevelFilter {
        level(|name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn lambdas_own_level_goes_before_rust_log() {
        assert_eq!(level_of(&[]), LevelFilter::INFO);
        assert_eq!(level_of(&[("AWS_LAMBDA_LOG_LEVEL", ""), ("RUST_LOG", "debug")]), LevelFilter::DEBUG);
        assert_eq!(level_of(&[("AWS_LAMBDA_LOG_LEVEL", "WARN"), ("RUST_LOG", "debug")]), LevelFilter::WARN);
        assert_eq!(level_of(&[("AWS_LAMBDA_LOG_LEVEL", "FATAL")]), LevelFilter::ERROR);
        assert_eq!(level_of(&[("RUST_LOG", "hyper=debug,info")]), LevelFilter::INFO);
    }
}
