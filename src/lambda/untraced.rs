//! Stands in for `traces` without the feature `opentelemetry`: nothing is traced.

use lambda_runtime::{Diagnostic, LambdaEvent};
use projection_vocabulary::Timestamp;

use super::logs;
use crate::{engine::report::Report, store::Usage};

/// No traces.
pub struct Traces;

/// Starts logging.
pub fn start(var: impl Fn(&str) -> Option<String>) -> Traces {
    logs::start(var, tracing_subscriber::registry());
    Traces
}

impl Traces {
    /// Does the work of an invocation.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn follow<E, T, F>(&self, event: LambdaEvent<E>, work: impl FnOnce(LambdaEvent<E>) -> F) -> Result<T, Diagnostic>
    where
        F: Future<Output = Result<T, Diagnostic>>,
    {
        work(event).await
    }
}

/// Records nothing.
pub fn record(_: Option<&Report>, _: Usage, _: &Timestamp) {}
