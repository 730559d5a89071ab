//! Where an invocation's time went, as spans of OpenTelemetry: one for the invocation, with the numbers of its batch, and below it one for
//! each request to DynamoDB (see `store::spans`). The one user of the OpenTelemetry crates.
//!
//! They are sent by OTLP in plain HTTP, for the collector is an extension of the same function and listens on its localhost. If nobody
//! says where it is, nothing is recorded. No failure of it is one of the invocation, and none holds it up for longer than
//! [`EXPORT_TIME`], or than half of the time it has left.
//!
//! **Why spans are kept here until the invocation is through.** Lambda freezes the process between two invocations, so what is to be
//! sent is sent before the answer. The SDK has three processors, and each blocks the thread that ends a span or flushes: the only one
//! here, which drives all HTTP. The simple one would wait for itself; the batching one exports from a thread of its own, where no
//! runtime is and hyper panics; the one with a runtime on a thread of its own is experimental, and takes as many lines. So [`Ended`]
//! keeps what has ended, and `follow` awaits the export as it awaits DynamoDB: cancelled when its time is up.
//!
//! **Why not the layer of `lambda_runtime`** (its feature `opentelemetry`). It flushes by a function that cannot wait, knows neither
//! X-Ray's parent nor whether an invocation was a batch, and brings an older version of the conventions along.

use std::{
    cell::Cell,
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
    engine::report::{Report, Tally},
    store::{Usage, spans},
};

/// How long sending the spans of an invocation may hold up its answer if no variable says it. A collector on the same machine takes them
/// in milliseconds; one that passes them on first has to connect, too. The standard's 10 s are for those that nobody waits for.
const EXPORT_TIME: Duration = Duration::from_secs(1);
/// How long nothing is sent to a collector that let that time pass: one that hangs would cost every batch as much.
const HUNG_PAUSE: Duration = Duration::from_mins(1);
/// How many requests' spans are kept of an invocation: as many as the SDK's own processor queues. A span has about 1 KB.
const REQUESTS_MAX: usize = 2_048;

/// Traces, if somebody listens to them.
pub struct Traces(Option<Export>);

struct Export {
    ended: Ended,
    exporter: SpanExporter,
    time_max: Duration,
    /// It ends with this value, and spans with it.
    provider: SdkTracerProvider,
    /// Whether an invocation has been followed.
    warm: Cell<bool>,
    /// Whether it was told that something is not exported: once, for it would be every batch.
    told: Cell<bool>,
    /// When a collector that hung is tried again.
    paused_until: Cell<Option<Instant>>,
}

/// Begins to write logs, and traces if somebody listens to them.
pub fn start(var: impl Fn(&str) -> Option<String>) -> Traces {
    let (traces, wrong) = match Traces::from_env(&var) {
        Ok(traces) => (traces, None),
        Err(wrong) => (Traces(None), Some(wrong)),
    };
    logs::start(var, traces.registry());
    if let Some(wrong) = wrong {
        tracing::warn!("nothing is traced: {wrong}");
    }
    traces
}

impl Traces {
    /// Traces to the collector that the standard variables name. Those of sampler, attributes and headers are read by the SDK and the
    /// exporter.
    ///
    /// # Errors
    /// What is wrong with these variables: the Lambda works without traces.
    fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let set = |name| var(name).filter(|value| !value.is_empty()).map(|value| (name, value));
        let endpoint = [OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT].into_iter().find_map(set);
        let Some((name, url)) = endpoint else { return Ok(Self(None)) };
        if url.strip_prefix("http://").is_none_or(str::is_empty) {
            return Err(format!("{name} is no http URL: traces go to a collector on this machine"));
        }
        let time_max = export_time(&var);
        // Its retries would take longer than there is time, and its time-out would come before ours, by which a collector is known to hang.
        let exporter = SpanExporter::builder().with_http().with_retry_policy(RetryPolicy::disabled()).with_timeout(2 * time_max).build();
        let (mut exporter, resource) = (exporter.map_err(|error| error.to_string())?, resource(&var));
        exporter.set_resource(&resource);
        let ended = Ended::default();
        let provider = SdkTracerProvider::builder().with_span_processor(ended.clone()).with_resource(resource).build();
        let (warm, told, paused_until) = Default::default();
        Ok(Self(Some(Export { ended, exporter, time_max, provider, warm, told, paused_until })))
    }

    /// A registry that makes traces of spans, and of warnings and errors in them what logs have of these.
    fn registry(&self) -> impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync + use<> {
        let layer = self.0.as_ref().map(|export| {
            let told =
                Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::WARN).with_target(spans::TARGET, LevelFilter::TRACE);
            tracing_opentelemetry::layer()
                .with_tracer(export.provider.tracer(env!("CARGO_PKG_NAME")))
                // Nobody asks for it, and without it a span is entered for nothing.
                .with_context_activation(false)
                .with_location(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_threads(false)
                .with_filter(told)
        });
        tracing_subscriber::registry().with(layer)
    }

    /// Does the work of an invocation in its span, and sends what was traced of it.
    ///
    /// # Errors
    /// Those of the work.
    ///
    /// # Panics
    /// As the work does.
    pub async fn follow<E, T, F>(&self, event: LambdaEvent<E>, work: impl FnOnce(LambdaEvent<E>) -> F) -> Result<T, Diagnostic>
    where
        F: Future<Output = Result<T, Diagnostic>>,
    {
        let Some(export) = &self.0 else { return work(event).await };
        let (span, ends) = (export.span(&event.context), event.context.deadline());
        // A panic has a trace, too. It goes on as it came.
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

/// Notes on the invocation's span, which must be the current one, what it came to.
pub fn note(batch: Option<&Report>, usage: Usage, now: &Timestamp) {
    let span = Span::current();
    for (name, count) in [("requests", usage.requests), ("retries", usage.retries), ("conflicts", usage.conflicts)] {
        span.record(name, number(count));
    }
    span.record("faas.trigger", if batch.is_some() { "datasource" } else { "other" });
    let Some(report) = batch else { return };
    let Tally { applied, duplicate, healed, gaps, parked, failed, reprojected, oldest_ms: _ } = report.total;
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

/// A number as traces have them: with a sign. One without is taken for a text.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Export {
    /// The span of an invocation, below the one that X-Ray's header names, as the conventions want it
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
            // Refused only where others have set up logs, and with them what becomes of spans.
            let _ = span.set_parent(parent);
        }
        span
    }

    /// Sends what has ended, if that can be done within this time.
    async fn send(&self, time: Duration) {
        let spans = self.ended.take();
        if spans.is_empty() || time.is_zero() || self.paused_until.get().is_some_and(|until| Instant::now() < until) {
            return;
        }
        let failed = match tokio::time::timeout(time, self.exporter.export(spans)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                self.paused_until.set(Some(Instant::now() + HUNG_PAUSE));
                "the collector has not answered in time".to_owned()
            }
        };
        if !self.told.replace(true) {
            tracing::warn!("traces are lost, and no more is said of it: {failed}");
        }
    }
}

fn export_time(var: impl Fn(&str) -> Option<String>) -> Duration {
    let names = [OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT];
    names.iter().find_map(|name| var(name)?.parse().ok()).map_or(EXPORT_TIME, Duration::from_millis)
}

/// The span that this header of X-Ray names; none if it names none that there can be, and the invocation begins a trace.
fn parent(header: &str) -> Option<opentelemetry::Context> {
    let parent = span_context_from_str(header).filter(SpanContext::is_valid)?;
    Some(opentelemetry::Context::new().with_remote_span_context(parent))
}

/// What the traces come from: what the variables of Lambda say of the function, unless the standard variables say otherwise. Without a
/// name of its own the service has the function's.
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
struct Ended(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    spans: Vec<SpanData>,
    /// Requests there was no room for.
    left_out: i64,
}

impl Ended {
    /// All of them. What was left out stands on the span of its invocation.
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

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").field("spans", &self.kept().spans.len()).finish()
    }
}

impl SpanProcessor for Ended {
    fn on_start(&self, _: &mut SdkSpan, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let mut kept = self.kept();
        // An invocation has one span of its own, and there is always room for it.
        if kept.spans.len() < REQUESTS_MAX || span.span_kind == SpanKind::Server {
            kept.spans.push(span);
        } else {
            kept.left_out += 1;
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        // Nobody but `send` sends, and it does not wait for this.
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
    fn an_answer_waits_a_second_at_most_unless_a_variable_says_otherwise() {
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
    fn x_rays_header_names_the_parent_and_what_is_none_begins_a_trace() {
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
    fn what_there_is_no_room_for_is_counted_on_the_invocation() {
        let ended = Ended::default();
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
        assert_eq!(ended.take()[0].attributes, [], "nothing is left of the invocation before");
    }
}
