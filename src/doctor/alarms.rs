//! The alarms: can they fire? One that cannot is worse than none, because everybody relies on it.
//!
//! Only alarms on the worker, its mappings, its tables and its own metrics are judged, and only for what makes them silent. Which alarms a
//! team wants is its own affair; what no alarm of a template watches is listed as unknown, since alarms are often kept elsewhere.

use std::collections::BTreeSet;

use projection_vocabulary::Registry;

use super::{Check, Deployment, Examination, Setting, Severity};

/// An alarm of CloudWatch.
#[derive(Debug)]
pub struct Alarm {
    /// Its logical id.
    pub name: String,
    /// Whether it tells anybody.
    pub actions_enabled: Setting<bool>,
    /// `GreaterThanThreshold`
    pub comparison: Setting<String>,
    /// What the value is compared with.
    pub threshold: Setting<f64>,
    /// How many periods it looks at.
    pub periods: Setting<i64>,
    /// How many of them must breach the threshold.
    pub datapoints: Setting<i64>,
    /// What a period without data counts for: `notBreaching`.
    pub missing: Setting<String>,
    /// What it watches; unseen if it cannot be read.
    pub watched: Setting<Vec<Watched>>,
}

/// A metric, a query or an expression of an alarm.
#[derive(Debug)]
pub struct Watched {
    /// Its name in expressions; empty for the only metric of an alarm.
    pub id: String,
    /// Whether the alarm compares its value.
    pub returned: bool,
    /// The expression or query, unless it is a metric.
    pub expression: Option<String>,
    /// The metric.
    pub metric: Option<Metric>,
}

/// A metric and its statistic.
#[derive(Clone, Debug)]
pub struct Metric {
    /// `AWS/Lambda`
    pub namespace: String,
    /// `Errors`
    pub name: String,
    /// What it is about.
    pub dimensions: Vec<Dimension>,
    /// `Sum`
    pub statistic: Setting<String>,
    /// The length of a period, in seconds.
    pub period_s: Setting<i64>,
}

/// A dimension of a metric.
#[derive(Clone, Debug)]
pub struct Dimension {
    /// `FunctionName`
    pub name: String,
    /// Its value.
    pub value: String,
    /// What the value refers to.
    pub target: Target,
}

/// What the value of a dimension refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The worker, by its name.
    Worker,
    /// An event source mapping of the worker with this name, by its UUID.
    Mapping(String),
    /// A table of the worker, by its name.
    Table,
    /// One of these, but not as metrics name it: by its ARN.
    ByArn,
    /// Something else, or nobody knows.
    Other,
}

/// A stream keeps records this long, in seconds (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Streams.html>).
const STREAM_KEEPS_S: f64 = 86_400.0;
const LAMBDA: &str = "AWS/Lambda";
const DYNAMODB: &str = "AWS/DynamoDB";
const OWN: &str = "ProjectionWorker";
/// The worker's own metrics (`lambda/metrics.rs`) by stage, and by stage and projection.
const OF_STAGE: [&str; 10] =
    ["BatchSize", "Ignored", "Rewritten", "Parked", "Failed", "Requests", "WriteUnits", "ReadUnits", "Retries", "Conflicts"];
const OF_PROJECTION: [&str; 11] =
    ["Applied", "Duplicate", "Healed", "Gaps", "Parked", "Failed", "Reprojected", "LagMs", "CaughtUp", "Differing", "Settled"];
/// Those that it has for processes alone.
const OF_PROCESS: [&str; 11] =
    ["Started", "Sent", "Accepted", "Refused", "TimedOut", "Undoing", "Stuck", "Completed", "Undone", "Resolved", "OldestOpenAge"];
/// What Lambda publishes for a function and for an event source mapping
/// (<https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html>).
const OF_FUNCTION: [&str; 21] = [
    "AsyncEventAge",
    "AsyncEventsDropped",
    "AsyncEventsReceived",
    "ConcurrentExecutions",
    "DeadLetterErrors",
    "DestinationDeliveryFailures",
    "Duration",
    "Errors",
    "Invocations",
    "IteratorAge",
    "OffsetLag",
    "OversizedRecordCount",
    "PostRuntimeExtensionsDuration",
    "ProvisionedConcurrencyInvocations",
    "ProvisionedConcurrencySpilloverInvocations",
    "ProvisionedConcurrencyUtilization",
    "ProvisionedConcurrentExecutions",
    "RecursiveInvocationsDropped",
    "SignatureValidationErrors",
    "Throttles",
    "UnreservedConcurrentExecutions",
];
const OF_MAPPING: [&str; 9] = [
    "DeletedEventCount",
    "DroppedEventCount",
    "EventPollerUnit",
    "FailedInvokeEventCount",
    "FilteredOutEventCount",
    "InvokedEventCount",
    "OnFailureDestinationDeliveredEventCount",
    "PolledEventCount",
    "ProvisionedPollers",
];
/// Metrics of DynamoDB that have data only for a table and an operation
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/metrics-dimensions.html>).
const OF_OPERATION: [&str; 4] = ["ReturnedItemCount", "SuccessfulRequestLatency", "SystemErrors", "ThrottledRequests"];
/// Metrics in milliseconds.
const TIMES: [&str; 2] = ["IteratorAge", "LagMs"];
/// Metrics that are 0 or 1 for each invocation: only their sum exceeds 1.
const FLAGS: [&str; 3] = ["Errors", "Throttles", "DeadLetterErrors"];
/// What somebody must be told of, and the metrics that show it.
const SIGNALS: [(&str, &[&str]); 4] = [
    ("a worker that falls behind", &["IteratorAge", "LagMs"]),
    ("parked aggregates", &["Parked"]),
    ("records given up", &["OnFailureDestinationDeliveredEventCount", "DroppedEventCount"]),
    ("a worker that fails", &["Errors", "FailedInvokeEventCount", "Failed"]),
];

/// The same for processes.
const SIGNALS_OF_PROCESSES: [(&str, &[&str]); 2] =
    [("stuck instances", &["Stuck"]), ("instances that do not end, and ticks that stop", &["OldestOpenAge"])];

static ALARM: Check = Check {
    name: "alarm",
    severity: Severity::Warning,
    why: "The alarm cannot fire, so nobody is told when events are late, parked or given up, until it is too late to replay them.",
    fix: "an alarm that fires; infra/template.yaml has one for each failure",
};

/// All checks of this module.
pub(super) static CHECKS: &[&Check] = &[&ALARM];

pub(super) fn examine(deployment: &Deployment, registry: Registry, examination: &mut Examination) {
    let alarms = match &deployment.alarms {
        Setting::Value(alarms) => alarms.as_slice(),
        Setting::Unset => &[],
        Setting::Unseen(why) => {
            examination.unseen.insert("alarms".to_owned(), why.clone());
            return;
        }
    };
    let mut watched = BTreeSet::new();
    for alarm in alarms {
        let read = alarm.watched.as_ref().and_then(|parts| {
            let metrics = metrics_of(parts);
            if metrics.iter().any(Metric::is_of_worker) { Setting::Value(metrics) } else { Setting::Unset }
        });
        let metrics = match read {
            Setting::Value(metrics) => metrics,
            Setting::Unset => continue,
            Setting::Unseen(why) => {
                examination.unseen.insert(alarm.name.clone(), why);
                continue;
            }
        };
        watched.extend(metrics.iter().map(|metric| metric.name.clone()));
        for (property, found) in silent(alarm, &metrics, deployment, registry) {
            examination.judge(&ALARM, format!("{}.{property}", alarm.name), &Setting::Value(found), |found| found?.clone());
        }
    }
    let of_processes = if registry.processes().next().is_some() { &SIGNALS_OF_PROCESSES[..] } else { &[] };
    let unwatched: Vec<_> =
        SIGNALS.iter().chain(of_processes).filter(|(_, names)| !names.iter().any(|name| watched.contains(*name))).collect();
    if !unwatched.is_empty() {
        let signals: Vec<_> = unwatched.iter().map(|(signal, names)| format!("{signal} ({})", names[0])).collect();
        let why = format!("the template has none for {}; if they are elsewhere, check that they can fire", signals.join(", "));
        examination.unseen.insert("alarms".to_owned(), why);
    }
}

/// What would keep the alarm silent: each property, and what is wrong with it, if anything.
fn silent(alarm: &Alarm, metrics: &[Metric], deployment: &Deployment, registry: Registry) -> Vec<(&'static str, Option<String>)> {
    let off = alarm.actions_enabled == Setting::Value(false);
    let mut found = vec![("ActionsEnabled", off.then(|| "is false".to_owned()))];
    let dimensions = metrics.iter().find_map(|metric| unpublished(metric, deployment, registry));
    found.push(("Dimensions", dimensions));
    found.push(("Metrics", alarm.watched.as_ref().value::<()>().ok().and_then(|parts| wrong_expression(parts))));
    let compared = match metrics {
        [metric] => wrong_comparison(alarm, Some(metric)),
        _ => wrong_comparison(alarm, None),
    };
    found.push(("Threshold", compared));
    found.push(("EvaluationPeriods", wrong_periods(alarm, metrics)));
    found
}

/// The metrics of an alarm, with those that it queries.
fn metrics_of(parts: &[Watched]) -> Vec<Metric> {
    parts.iter().filter_map(|part| part.metric.clone().or_else(|| of_query(part.expression.as_deref()?))).collect()
}

/// The metric of a query of Metrics Insights: `SELECT SUM(Parked) FROM SCHEMA("ProjectionWorker", stage) WHERE stage = 'dev'`.
fn of_query(query: &str) -> Option<Metric> {
    let (statistic, rest) = query.trim().strip_prefix("SELECT ")?.split_once('(')?;
    let (name, rest) = rest.split_once(") FROM ")?;
    let (schema, rest) = rest.strip_prefix("SCHEMA(")?.split_once(')')?;
    let mut schema = schema.split(',').map(|part| part.trim().trim_matches('"'));
    let namespace = schema.next()?.to_owned();
    let of_stage = rest.split_once("stage = '").and_then(|(_, rest)| rest.split_once('\'')).map_or("", |(stage, _)| stage);
    let dimensions = schema.map(|name| Dimension {
        name: name.to_owned(),
        value: if name == "stage" { of_stage.to_owned() } else { String::new() },
        target: Target::Other,
    });
    Some(Metric {
        namespace,
        name: name.trim_matches('"').to_owned(),
        dimensions: dimensions.collect(),
        statistic: Setting::Value(match statistic {
            "SUM" => "Sum".to_owned(),
            "MAX" => "Maximum".to_owned(),
            other => other.to_owned(),
        }),
        period_s: Setting::Unset,
    })
}

impl Metric {
    fn is_of_worker(&self) -> bool {
        self.namespace == OWN || self.dimensions.iter().any(|dimension| dimension.target != Target::Other)
    }

    fn full_name(&self) -> String {
        let by: Vec<_> = self.dimensions.iter().map(|dimension| dimension.name.as_str()).collect();
        if by.is_empty() {
            format!("{} {}", self.namespace, self.name)
        } else {
            format!("{} {} by {}", self.namespace, self.name, by.join(" and "))
        }
    }
}

/// Why a metric has no data, if it has none.
fn unpublished(metric: &Metric, deployment: &Deployment, registry: Registry) -> Option<String> {
    // Anybody may name the dimensions of other namespaces as they like.
    let of_aws = metric.dimensions.iter().filter(|_| metric.namespace.starts_with("AWS/"));
    for Dimension { name, value, target } in of_aws {
        let (namespace, wanted) = match target {
            Target::Worker => (LAMBDA, &["FunctionName", "Resource", "ExecutedVersion"][..]),
            Target::Mapping(_) => (LAMBDA, &["EventSourceMappingUUID"][..]),
            Target::Table => (DYNAMODB, &["TableName"][..]),
            Target::ByArn => return Some(format!("give {name} as {value}, which is an ARN and not the name")),
            Target::Other => continue,
        };
        if !wanted.contains(&name.as_str()) {
            return Some(format!("give {name} as {value}, which is the value of {}", wanted[0]));
        }
        if metric.namespace != namespace {
            return Some(format!("watch {}, which is not in {namespace}", metric.full_name()));
        }
    }
    let has = |name: &str| metric.dimensions.iter().any(|dimension| dimension.name == name);
    let names: BTreeSet<_> = metric.dimensions.iter().map(|dimension| dimension.name.as_str()).collect();
    let published = match metric.namespace.as_str() {
        LAMBDA if has("EventSourceMappingUUID") => OF_MAPPING.contains(&metric.name.as_str()),
        LAMBDA if has("FunctionName") => OF_FUNCTION.contains(&metric.name.as_str()),
        DYNAMODB if has("TableName") && !has("Operation") => !OF_OPERATION.contains(&metric.name.as_str()),
        OWN if names == BTreeSet::from(["stage"]) => OF_STAGE.contains(&metric.name.as_str()),
        OWN if names == BTreeSet::from(["projection", "stage"]) => {
            OF_PROJECTION.contains(&metric.name.as_str()) || OF_PROCESS.contains(&metric.name.as_str())
        }
        OWN => false,
        _ => true,
    };
    if !published {
        return Some(format!("watch {}, which nobody publishes", metric.full_name()));
    }
    for Dimension { name, value, target } in &metric.dimensions {
        if let Target::Mapping(id) = target {
            let mapping = deployment.mappings.iter().find(|mapping| mapping.name == *id)?;
            let counts = match &mapping.metrics {
                Setting::Value(groups) => groups.iter().any(|group| group == "EventCount"),
                Setting::Unset => false,
                Setting::Unseen(_) => true,
            };
            if !counts {
                return Some(format!("watch {}, which Lambda publishes only if MetricsConfig of {id} has EventCount", metric.full_name()));
            }
        }
        let stage = deployment.function.variable("STAGE").or("dev".to_owned());
        if metric.namespace == OWN && name == "stage" && stage.and_then(|stage| Setting::Value(stage != *value)) == Setting::Value(true) {
            return Some(format!("watch stage `{value}`, and the function's STAGE is another"));
        }
        if metric.namespace == OWN && name == "projection" && !value.is_empty() && !value.contains("${") {
            let known = registry.projections().iter().any(|rule| rule.name() == value);
            if !known {
                return Some(format!("watch the projection `{value}`, which does not exist"));
            }
        }
    }
    None
}

/// What an expression leaves out, or asks for in vain.
fn wrong_expression(parts: &[Watched]) -> Option<String> {
    if parts.iter().any(|part| part.id.is_empty()) {
        return None;
    }
    match parts.iter().filter(|part| part.returned).count() {
        1 => {}
        count => return Some(format!("return {count} values; an alarm compares exactly one")),
    }
    let ids: BTreeSet<_> = parts.iter().map(|part| part.id.as_str()).collect();
    let mut used = BTreeSet::new();
    for part in parts {
        let Some(expression) = part.expression.as_deref() else { continue };
        if expression.trim_start().starts_with("SELECT") || expression.contains("SEARCH(") || expression.contains("METRICS(") {
            // They name what they use in other ways.
            return None;
        }
        for name in names_in(expression) {
            if !ids.contains(name) {
                return Some(format!("use `{name}`, which does not exist"));
            }
            used.insert(name);
        }
    }
    let unused = parts.iter().find(|part| !part.returned && !used.contains(part.id.as_str()));
    unused.map(|part| format!("do not use `{}`", part.id))
}

/// The ids in an expression: words that begin with a small letter and are not called. Texts in quotation marks are not ids.
fn names_in(expression: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, unquoted) in expression.split(['"', '\'']).enumerate() {
        if at % 2 == 0 {
            let words = unquoted.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            names.extend(words.filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase())));
        }
    }
    names
}

/// Why the comparison cannot hold, if it cannot. No metric here is negative. `metric` is the only one, if there is only one.
fn wrong_comparison(alarm: &Alarm, metric: Option<&Metric>) -> Option<String> {
    let (Setting::Value(comparison), Setting::Value(threshold)) = (&alarm.comparison, &alarm.threshold) else { return None };
    let threshold = *threshold;
    let never = || Some(format!("never compares: {comparison} {threshold}"));
    match comparison.as_str() {
        "LessThanThreshold" if threshold > 0.0 => None,
        "LessThanOrEqualToThreshold" if threshold >= 0.0 => None,
        // Then it fires when there is no data.
        "LessThanThreshold" | "LessThanOrEqualToThreshold" if alarm.missing == Setting::Value("breaching".to_owned()) => None,
        "LessThanThreshold" | "LessThanOrEqualToThreshold" => never(),
        "GreaterThanThreshold" | "GreaterThanOrEqualToThreshold" => {
            let metric = metric?;
            let Setting::Value(statistic) = &metric.statistic else { return None };
            let name = metric.name.as_str();
            let is_time = TIMES.contains(&name);
            if is_time && statistic == "SampleCount" {
                return Some("compares a time with a number of samples".to_owned());
            }
            if is_time && threshold >= STREAM_KEEPS_S * 1_000.0 {
                return Some(format!("is {threshold} ms; the stream keeps records for 24 hours"));
            }
            let at_most_1 = FLAGS.contains(&name) && !["Sum", "SampleCount"].contains(&statistic.as_str());
            let above = if comparison == "GreaterThanThreshold" { threshold >= 1.0 } else { threshold > 1.0 };
            (at_most_1 && above).then(|| format!("is {threshold}; {statistic} of {name} is at most 1"))
        }
        _ => None,
    }
}

/// Why the periods are too many or too short, if they are.
#[expect(clippy::cast_precision_loss, reason = "numbers of periods and seconds that people write into templates")]
fn wrong_periods(alarm: &Alarm, metrics: &[Metric]) -> Option<String> {
    let Setting::Value(periods) = alarm.periods else { return None };
    let datapoints = match alarm.datapoints {
        Setting::Value(datapoints) => datapoints,
        Setting::Unset => periods,
        Setting::Unseen(_) => return None,
    };
    if datapoints > periods {
        return Some(format!("is {periods}, and DatapointsToAlarm is {datapoints}"));
    }
    for metric in metrics {
        let Setting::Value(seconds) = metric.period_s else { continue };
        let length_s = datapoints as f64 * seconds as f64;
        if length_s >= STREAM_KEEPS_S {
            return Some(format!("needs {datapoints} periods of {seconds} s; the stream keeps records for 24 hours"));
        }
        // AWS publishes these each minute, so shorter periods are mostly empty.
        let minutes = (periods as f64 * seconds as f64 / 60.0).ceil();
        let empty_is_good = alarm.missing == Setting::Value("notBreaching".to_owned());
        if metric.namespace.starts_with("AWS/") && seconds < 60 && empty_is_good && datapoints as f64 > minutes {
            return Some(format!("needs {datapoints} periods of {seconds} s; {} has data once a minute", metric.namespace));
        }
    }
    None
}
