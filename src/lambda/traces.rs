//! Where the time of an invocation went, as OpenTelemetry spans: one for the invocation, with the counts of its batch, and below it one
//! for each request to DynamoDB (see `store::spans`). The one user of the OpenTelemetry crates.
//!
//! Spans are sent by OTLP over plain HTTP, because the collector is an extension of the same function and listens on localhost. If no
//! variable names a collector, nothing is recorded. A failing collector never fails an invocation, and never delays its answer by more
//! than [`EXPORT_TIME`] or half of the time left.
//!
//! **Why spans are kept here until the invocation ends.** Lambda freezes the process between invocations, so spans must be sent before
//! the answer. The SDK has three processors, and each blocks the thread that ends a span or flushes; here that is the only thread, and it
//! drives all HTTP. The simple processor would wait for itself; the batching one exports from its own thread, which has no runtime, so
//! hyper panics; the one with a runtime in its own thread is experimental and takes as many lines. So [`EndedSpans`] keeps spans that
//! ended, and `follow` awaits the export as it awaits DynamoDB: cancelled when its time is up.
//!
//! **Why not the layer of `lambda_runtime`** (its feature `opentelemetry`). It flushes with a function that cannot wait, knows neither
//! X-Ray's parent nor whether an invocation was a batch, and depends on an older version of the conventions.

use std::{
    cell::Cell,
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use opentelemetry::{
    KeyValue,
    trace::{SpanContext, SpanKind, TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_aws::{detector::LambdaResourceDetector, trace::xray_propagator::span_context_from_str};
use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_TIMEOUT,
    RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{SdkTracerProvider, Span as SdkSpan, SpanData, SpanExporter as _, SpanProcessor},
};
use projection_vocabulary::Timestamp;
use tracing::{Instrument as _, Span, Subscriber, field::Empty, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer as _, filter::Targets, layer::SubscriberExt as _, registry::LookupSpan};

use super::{logs, time_left};
use crate::{
    config::{ConfigError, ConfigProblem},
    engine::report::{Report, Tally},
    store::{Usage, spans},
};

/// How long sending spans may delay an invocation's answer, unless a variable says otherwise. A collector on the same machine accepts
/// them in milliseconds; one that forwards them first has to connect, too. The standard's 10 s suit exports that nobody waits for.
const EXPORT_TIME: Duration = Duration::from_secs(1);
/// How long nothing is sent to a collector that timed out: a hanging collector would delay every batch.
const HUNG_PAUSE: Duration = Duration::from_mins(1);
/// How many request spans are kept per invocation: as many as the SDK's own processor queues. A span takes about 1 KB.
const REQUESTS_MAX: usize = 2_048;

/// Traces, if a collector is configured.
pub struct Traces(Option<Export>);

struct Export {
    ended: EndedSpans,
    exporter: SpanExporter,
    time_max: Duration,
    /// Kept because spans end when it is dropped.
    provider: SdkTracerProvider,
    /// Whether an invocation has been followed.
    warm: Cell<bool>,
    /// Whether a failed export has been logged. It is logged only once, as it would recur with every batch.
    warned: Cell<bool>,
    /// When to retry a collector that timed out.
    paused_until: Cell<Option<Instant>>,
}

/// Starts logging, and tracing if a collector is configured.
pub fn start(var: impl Fn(&str) -> Option<String>) -> Traces {
    let (traces, error) = match Traces::from_env(&var) {
        Ok(traces) => (traces, None),
        Err(error) => (Traces(None), Some(error)),
    };
    logs::start(var, traces.registry());
    if let Some(error) = error {
        tracing::warn!("nothing is traced: {error}");
    }
    traces
}

impl Traces {
    /// Traces to the collector that the standard variables name. The SDK and the exporter read those for the sampler, attributes and
    /// headers themselves.
    ///
    /// # Errors
    /// These variables are wrong. Log it and continue: the Lambda works without traces.
    fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, Box<dyn Error>> {
        let set = |name| var(name).filter(|value| !value.is_empty()).map(|value| (name, value));
        let endpoint = [OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT].into_iter().find_map(set);
        let Some((name, url)) = endpoint else { return Ok(Self(None)) };
        if url.strip_prefix("http://").is_none_or(str::is_empty) {
            return Err(ConfigError::from(ConfigProblem::invalid(name, "a valid http URL of a collector on this machine")).into());
        }
        let time_max = export_time(&var);
        // Its retries would take too long, and its timeout would fire before ours, which detects a hanging collector.
        let exporter = SpanExporter::builder().with_http().with_retry_policy(RetryPolicy::disabled()).with_timeout(2 * time_max).build();
        let (mut exporter, resource) = (exporter?, resource(&var));
        exporter.set_resource(&resource);
        let ended = EndedSpans::default();
        let provider = SdkTracerProvider::builder().with_span_processor(ended.clone()).with_resource(resource).build();
        let (warm, warned, paused_until) = Default::default();
        Ok(Self(Some(Export { ended, exporter, time_max, provider, warm, warned, paused_until })))
    }

    /// A registry that turns spans into traces. Warnings and errors become events of their spans, with the same text as in the logs.
    fn registry(&self) -> impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync + use<> {
        let layer = self.0.as_ref().map(|export| {
            let targets =
                Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::WARN).with_target(spans::TARGET, LevelFilter::TRACE);
            tracing_opentelemetry::layer()
                .with_tracer(export.provider.tracer(env!("CARGO_PKG_NAME")))
                // Nothing here reads OpenTelemetry's current context, and maintaining it costs time for each span.
                .with_context_activation(false)
                .with_location(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_threads(false)
                .with_filter(targets)
        });
        tracing_subscriber::registry().with(layer)
    }

    /// Runs an invocation's work inside its span, then sends the invocation's spans.
    ///
    /// # Errors
    /// Those of the work.
    ///
    /// # Panics
    /// If the work panics.
    pub async fn follow<E, T, F>(&self, event: LambdaEvent<E>, work: impl FnOnce(LambdaEvent<E>) -> F) -> Result<T, Diagnostic>
    where
        F: Future<Output = Result<T, Diagnostic>>,
    {
        let Some(export) = &self.0 else { return work(event).await };
        let (span, ends) = (export.span(&event.context), event.context.deadline());
        // A panic is traced, too, then resumed unchanged.
        let worked = AssertUnwindSafe(work(event).instrument(span.clone())).catch_unwind().await;
        let error_type = match &worked {
            Ok(Ok(_)) => None,
            Ok(Err(Diagnostic { error_type, .. })) => Some(error_type.as_str()),
            Err(_) => Some("panic"),
        };
        if let Some(error_type) = error_type {
            span.record("error.type", error_type).record("otel.status_code", "ERROR");
        }
        drop(span);
        export.send(export.time_max.min(time_left(ends) / 2)).await;
        worked.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// Records an invocation's results on its span, which must be the current one.
pub fn record(batch: Option<&Report>, usage: Usage, now: &Timestamp) {
    let span = Span::current();
    for (name, count) in [("requests", usage.requests), ("retries", usage.retries), ("conflicts", usage.conflicts)] {
        span.record(name, number(count));
    }
    span.record("faas.trigger", if batch.is_some() { "datasource" } else { "other" });
    let Some(report) = batch else { return };
    let Tally { applied, duplicate, healed, gaps, parked, failed, reprojected, instances: _, oldest_ms: _ } = report.total;
    let counts = [
        ("batch.records", report.records),
        ("batch.ignored", report.ignored_total()),
        ("batch.applied", applied),
        ("batch.duplicate", duplicate),
        ("batch.healed", healed),
        ("batch.gaps", gaps),
        ("batch.parked", parked),
        ("batch.failed", failed),
        ("batch.reprojected", reprojected),
    ];
    for (name, count) in counts {
        span.record(name, number(count));
    }
    if let Some(lag_ms) = report.total.lag_ms(now) {
        span.record("batch.lag_ms", number(lag_ms));
    }
    if failed > 0 {
        span.record("otel.status_code", "ERROR").record("otel.status_description", "records failed");
    }
}

/// A signed number: an unsigned one would become text in a trace.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Export {
    /// The span of an invocation, with the span in X-Ray's header as its parent, named by the conventions
    /// (<https://opentelemetry.io/docs/specs/semconv/faas/aws-lambda/>).
    fn span(&self, context: &Context) -> Span {
        let span = tracing::trace_span!(
            target: spans::TARGET,
            "invocation",
            otel.name = context.env_config.function_name,
            otel.kind = "server",
            otel.status_code = Empty,
            otel.status_description = Empty,
            error.type = Empty,
            faas.invocation_id = context.request_id,
            faas.coldstart = !self.warm.replace(true),
            faas.trigger = Empty,
            aws.lambda.invoked_arn = context.invoked_function_arn,
            requests = Empty,
            retries = Empty,
            conflicts = Empty,
            batch.records = Empty,
            batch.ignored = Empty,
            batch.applied = Empty,
            batch.duplicate = Empty,
            batch.healed = Empty,
            batch.gaps = Empty,
            batch.parked = Empty,
            batch.failed = Empty,
            batch.reprojected = Empty,
            batch.lag_ms = Empty,
        );
        if let Some(parent) = context.xray_trace_id.as_deref().and_then(parent) {
            // This fails only if the process already has another subscriber, which then decides about spans.
            let _ = span.set_parent(parent);
        }
        span
    }

    /// Sends the spans that have ended, within this time.
    async fn send(&self, time: Duration) {
        let spans = self.ended.take();
        if spans.is_empty() || time.is_zero() || self.paused_until.get().is_some_and(|until| Instant::now() < until) {
            return;
        }
        let error = match tokio::time::timeout(time, self.exporter.export(spans)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                self.paused_until.set(Some(Instant::now() + HUNG_PAUSE));
                "the collector did not answer in time".to_owned()
            }
        };
        if !self.warned.replace(true) {
            tracing::warn!("traces are lost; further losses are not logged: {error}");
        }
    }
}

fn export_time(var: impl Fn(&str) -> Option<String>) -> Duration {
    let names = [OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT];
    names.iter().find_map(|name| var(name)?.parse().ok()).map_or(EXPORT_TIME, Duration::from_millis)
}

/// The span that X-Ray's header names. Without a valid one, the invocation begins a trace.
fn parent(header: &str) -> Option<opentelemetry::Context> {
    let parent = span_context_from_str(header).filter(SpanContext::is_valid)?;
    Some(opentelemetry::Context::new().with_remote_span_context(parent))
}

/// The origin of the traces: the function as Lambda's variables describe it, unless the standard variables override them. The service
/// is named after the function by default.
fn resource(var: impl Fn(&str) -> Option<String>) -> Resource {
    let service = |name| var(name).filter(|service| !service.is_empty());
    let mut resource = Resource::builder_empty()
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(LambdaResourceDetector)])
        .with_service_name(service("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned()))
        .with_detector(Box::new(EnvResourceDetector::new()));
    if let Some(service) = service("OTEL_SERVICE_NAME") {
        resource = resource.with_service_name(service);
    }
    resource.build()
}

/// Spans that have ended and are not yet sent.
#[derive(Clone, Default)]
struct EndedSpans(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    spans: Vec<SpanData>,
    /// The number of request spans dropped for lack of room.
    left_out: i64,
}

impl EndedSpans {
    /// Takes all spans. The number of dropped ones is put on the invocation's span.
    fn take(&self) -> Vec<SpanData> {
        let Kept { mut spans, left_out } = std::mem::take(&mut *self.kept());
        if let Some(invocation) = spans.iter_mut().rfind(|span| left_out > 0 && span.span_kind == SpanKind::Server) {
            invocation.attributes.push(KeyValue::new("requests.left_out", left_out));
        }
        spans
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for EndedSpans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndedSpans").field("spans", &self.kept().spans.len()).finish()
    }
}

impl SpanProcessor for EndedSpans {
    fn on_start(&self, _: &mut SdkSpan, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let mut kept = self.kept();
        // There is always room for the one span of the invocation itself.
        if kept.spans.len() < REQUESTS_MAX || span.span_kind == SpanKind::Server {
            kept.spans.push(span);
        } else {
            kept.left_out += 1;
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        // Only `send` exports, and it does not use this.
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use opentelemetry::{
        InstrumentationScope,
        trace::{SpanId, Status, TraceFlags, TraceId, TraceState},
    };
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

    use super::*;

    #[test]
    fn an_answer_waits_at_most_a_second_unless_a_variable_says_otherwise() {
        let time = |variables: &[(&str, &str)]| {
            export_time(|name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())).as_millis()
        };
        assert_eq!(time(&[]), 1000);
        assert_eq!(time(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "250")]), 250);
        assert_eq!(time(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "250"), ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "3000")]), 3000);
        for odd in ["", "1s", "-1", "99999999999999999999"] {
            assert_eq!(time(&[("OTEL_EXPORTER_OTLP_TIMEOUT", odd)]), 1000, "{odd}");
        }
    }

    #[test]
    fn x_rays_header_names_the_parent_and_an_invalid_header_begins_a_trace() {
        let root = "Root=1-5759e988-bd862e3fe1be46a994272793";
        for (rest, sampled) in [(";Sampled=1", true), (";Sampled=0", false), ("", false), (";Sampled=1;Lineage=1:a87bd80c:0", true)] {
            let parent = parent(&format!("{root};Parent=53995c3f42cd8ad8{rest}")).expect("a parent");
            let span = parent.span().span_context().clone();
            assert_eq!((span.trace_id().to_string().as_str(), span.is_remote()), ("5759e988bd862e3fe1be46a994272793", true));
            assert_eq!((span.span_id().to_string().as_str(), span.is_sampled()), ("53995c3f42cd8ad8", sampled), "{rest}");
        }
        let zeros = "Root=1-00000000-000000000000000000000000;Parent=53995c3f42cd8ad8;Sampled=1";
        for bad in ["", ";", "=", "Root", "größe", root, "Parent=53995c3f42cd8ad8;Sampled=1", zeros] {
            assert!(parent(bad).is_none(), "{bad}");
        }
        for bad in ["", "x", "0000000000000000", "53995c3f42cd8ad8ff", "größe"] {
            assert!(parent(&format!("{root};Parent={bad};Sampled=1")).is_none(), "{bad}");
        }
        for bad in ["", "1", "1-5759e988", "1-x-y", "1-5759e988-bd862e3fe1be46a994272793ff", "1-5759e988-bd862e3fe1be46a994272793-1"] {
            assert!(parent(&format!("Root={bad};Parent=53995c3f42cd8ad8;Sampled=1")).is_none(), "{bad}");
        }
    }

    fn span(span_kind: SpanKind, flags: TraceFlags) -> SpanData {
        SpanData {
            span_context: SpanContext::new(TraceId::from(1_u128), SpanId::from(1_u64), flags, false, TraceState::NONE),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind,
            name: "span".into(),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    #[test]
    fn dropped_request_spans_are_counted_on_the_invocation() {
        let ended = EndedSpans::default();
        for _ in 0..REQUESTS_MAX + 3 {
            ended.on_end(span(SpanKind::Client, TraceFlags::SAMPLED));
        }
        ended.on_end(span(SpanKind::Server, TraceFlags::SAMPLED));
        let taken = ended.take();
        assert_eq!(taken.len(), REQUESTS_MAX + 1);
        assert_eq!(taken[REQUESTS_MAX].attributes, [KeyValue::new("requests.left_out", 3)]);

        ended.on_end(span(SpanKind::Server, TraceFlags::default()));
        assert_eq!(ended.take(), [], "it is not sampled");
        ended.on_end(span(SpanKind::Server, TraceFlags::SAMPLED));
        assert_eq!(ended.take()[0].attributes, [], "the earlier invocation leaves nothing behind");
    }
}
