//! Somebody is called when something fails, and every metric of the code is watched.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::{super::code::Code, differ};
use crate::support::template::Template;

const NAMESPACE: &str = "ProjectionWorker";
/// What every stage must call somebody for: namespace and metric.
const ALARMED: [(&str, &str); 18] = [
    ("AWS/DynamoDB", "WriteThrottleEvents"),
    ("AWS/Lambda", "AsyncEventsDropped"),
    ("AWS/Lambda", "DestinationDeliveryFailures"),
    ("AWS/Lambda", "DroppedEventCount"),
    ("AWS/Lambda", "Errors"),
    ("AWS/Lambda", "FailedInvokeEventCount"),
    ("AWS/Lambda", "IteratorAge"),
    ("AWS/Lambda", "OnFailureDestinationDeliveredEventCount"),
    ("AWS/Lambda", "PolledEventCount"),
    ("AWS/Lambda", "Throttles"),
    ("AWS/Scheduler", "InvocationDroppedCount"),
    ("AWS/Scheduler", "TargetErrorCount"),
    ("AWS/States", "ExecutionsFailed"),
    ("AWS/States", "ExecutionsTimedOut"),
    (NAMESPACE, "LagMs"),
    (NAMESPACE, "OldestOpenAge"),
    (NAMESPACE, "Parked"),
    (NAMESPACE, "Stuck"),
];
/// Alarms of what has stopped, and the metrics that are absent then.
const STOPPED: [&str; 2] = ["PollerStoppedAlarm", "TicksStoppedAlarm"];
const ABSENT: [&str; 2] = ["OldestOpenAge", "PolledEventCount"];
/// The type of resource that a dimension names.
const NAMED_BY: [(&str, &str); 5] = [
    ("EventSourceMappingUUID", "AWS::Lambda::EventSourceMapping"),
    ("FunctionName", "AWS::Serverless::Function"),
    ("ScheduleGroup", "AWS::Scheduler::ScheduleGroup"),
    ("StateMachineArn", "AWS::Serverless::StateMachine"),
    ("TableName", "AWS::DynamoDB::Table"),
];
/// Metrics that need no place on the dashboard: Lambda's own `FailedInvokeEventCount` and `Errors` are there.
const NOT_SHOWN: [(&[&str], &str); 1] = [(&["stage"], "Failed")];

/// Each alarm calls, compares and watches what it is for.
pub fn alarms(template: &Template) -> Vec<String> {
    let mut problems = Vec::new();
    let (mut alarmed, mut stops) = (BTreeSet::new(), BTreeSet::new());
    for (id, alarm) in template.of_kind("AWS::CloudWatch::Alarm") {
        let metrics = metrics_of(alarm);
        let watches = |names: &[&str]| metrics.iter().any(|metric| names.contains(&metric.name.as_str()));
        // An idle poller reports 0, and one that has stopped reports nothing; so do ticks.
        let stopped = STOPPED.contains(&id);
        let threshold = match id {
            _ if watches(&["IteratorAge", "LagMs"]) => json!("<LagAlarmMs>"),
            "OpenTooLongAlarm" => json!("<OpenAgeAlarmSeconds>"),
            _ => json!(0),
        };
        for (property, wanted) in [
            ("AlarmActions", json!(["<AlarmTopicArn>"])),
            ("OKActions", json!(["<AlarmTopicArn>"])),
            ("TreatMissingData", json!(if stopped { "breaching" } else { "notBreaching" })),
            ("ComparisonOperator", json!(if stopped { "LessThanThreshold" } else { "GreaterThanThreshold" })),
            ("Threshold", threshold),
        ] {
            problems.extend(differ(&format!("{property} of {id}"), &alarm[property], &wanted));
        }
        stops.extend(metrics.iter().filter(|_| stopped).map(|metric| metric.name.clone()));
        for Metric { namespace, name, dimensions } in metrics {
            for (dimension, value) in dimensions.iter().filter(|_| namespace != NAMESPACE) {
                let kind = value.strip_prefix("${").and_then(|id| template.resources.get(id.strip_suffix('}')?)).map(|of| of.kind.as_str());
                let wanted = NAMED_BY.iter().find(|(named, _)| named == dimension).map(|(_, kind)| *kind);
                problems.extend(differ(&format!("{dimension} of {id} names"), &kind, &wanted));
            }
            alarmed.insert((namespace, name));
        }
    }
    let alarmed: BTreeSet<_> = alarmed.iter().map(|(namespace, name)| (namespace.as_str(), name.as_str())).collect();
    problems.extend(BTreeSet::from(ALARMED).difference(&alarmed).map(|(namespace, name)| format!("no alarm watches {namespace} {name}")));
    problems.extend(differ("metrics whose absence is alarmed", &stops, &ABSENT.map(str::to_owned).into()));
    problems
}

/// The alarms and the dashboard show all that the code counts, under its dimensions, and nothing that it does not count.
pub fn metrics(template: &Template, code: &Code) -> Vec<String> {
    let mut problems = Vec::new();
    let mut shown: Vec<_> = template.of_kind("AWS::CloudWatch::Alarm").flat_map(|(_, alarm)| metrics_of(alarm)).collect();
    match dashboard(template) {
        Ok(metrics) => shown.extend(metrics),
        Err(error) => problems.push(error),
    }
    let shown: BTreeSet<_> = shown
        .into_iter()
        .filter(|metric| metric.namespace == NAMESPACE)
        .map(|metric| {
            let mut dimensions: Vec<_> = metric.dimensions.into_iter().map(|(name, _)| name).collect();
            dimensions.sort();
            (dimensions, metric.name)
        })
        .collect();
    problems.extend(shown.difference(&code.metrics).map(|metric| format!("{} is shown, and the code does not count it", named(metric))));
    let hidden = NOT_SHOWN.map(|(dimensions, name)| (dimensions.iter().map(ToString::to_string).collect(), name.to_owned()));
    let missing = code.metrics.difference(&shown).filter(|metric| !hidden.contains(metric));
    problems.extend(missing.map(|metric| format!("the code counts {}, and neither an alarm nor the dashboard shows it", named(metric))));
    problems
}

/// Each table that the code writes is watched for throttles, and the dashboard shows how much is written to it.
pub fn tables(template: &Template, code: &Code) -> Vec<String> {
    let of_tables = |metrics: Vec<Metric>| -> BTreeSet<_> {
        let of_table = |metric: Metric| match metric.dimensions.as_slice() {
            [(name, table)] if name == "TableName" => Some((metric.name, table.clone())),
            _ => None,
        };
        metrics.into_iter().filter_map(of_table).collect()
    };
    let alarmed = of_tables(template.of_kind("AWS::CloudWatch::Alarm").flat_map(|(_, alarm)| metrics_of(alarm)).collect());
    let shown = of_tables(dashboard(template).unwrap_or_default());
    let mut problems = Vec::new();
    // Nothing is parked in the usual case, so only throttles of the parking table are of interest.
    for table in code.tables.keys() {
        let of = |name: &str| (name.to_owned(), format!("${{{}}}", template.table(table).unwrap_or(table)));
        let throttles = of("WriteThrottleEvents");
        if !alarmed.contains(&throttles) {
            problems.push(format!("no alarm watches the throttles of {table}"));
        }
        if !shown.contains(&throttles) {
            problems.push(format!("the dashboard does not show the throttles of {table}"));
        }
        if table != "parked" && !shown.contains(&of("ConsumedWriteCapacityUnits")) {
            problems.push(format!("the dashboard does not show what is written to {table}"));
        }
    }
    problems
}

fn named((dimensions, name): &(Vec<String>, String)) -> String {
    format!("{name} by {}", dimensions.join(" and "))
}

struct Metric {
    namespace: String,
    name: String,
    dimensions: Vec<(String, String)>,
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn metrics_of(alarm: &Json) -> Vec<Metric> {
    let parts = || alarm["Metrics"].as_array().into_iter().flatten();
    let plain = parts().map(|part| &part["MetricStat"]["Metric"]).chain([alarm]).filter(|metric| !metric["MetricName"].is_null());
    let plain = plain.map(|metric| {
        let dimensions = metric["Dimensions"].as_array().into_iter().flatten();
        let dimensions = dimensions.map(|dimension| (text(&dimension["Name"]), text(&dimension["Value"]))).collect();
        Metric { namespace: text(&metric["Namespace"]), name: text(&metric["MetricName"]), dimensions }
    });
    let queried = parts().map(|part| text(&part["Expression"])).filter(|expression| expression.starts_with("SELECT"));
    plain.chain(queried.map(|query| of_query(&query))).collect()
}

/// The metric of a query of Metrics Insights. One that cannot be read is a metric that nobody counts.
fn of_query(query: &str) -> Metric {
    let read = || {
        let rest = query.trim().strip_prefix("SELECT ")?;
        let rest = rest.strip_prefix("SUM(").or_else(|| rest.strip_prefix("MAX("))?;
        let (name, rest) = rest.split_once(") FROM SCHEMA(\"ProjectionWorker\", ")?;
        let (dimensions, rest) = rest.split_once(") WHERE stage = '<Stage>'")?;
        let dimensions = dimensions.split(", ").map(|name| (name.to_owned(), String::new())).collect();
        matches!(rest, "" | " GROUP BY projection").then(|| (name.to_owned(), dimensions))
    };
    let (name, dimensions) = read().unwrap_or_else(|| (query.to_owned(), Vec::new()));
    Metric { namespace: NAMESPACE.to_owned(), name, dimensions }
}

/// The metrics that the dashboard draws
/// (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html>).
fn dashboard(template: &Template) -> Result<Vec<Metric>, String> {
    let body = template.of_kind("AWS::CloudWatch::Dashboard").map(|(_, dashboard)| text(&dashboard["DashboardBody"])).next();
    let body: Json = serde_json::from_str(&body.unwrap_or_default()).map_err(|error| format!("the dashboard is not JSON: {error}"))?;
    let mut metrics = Vec::new();
    for widget in body["widgets"].as_array().into_iter().flatten() {
        let mut before: Vec<String> = Vec::new();
        for metric in widget["properties"]["metrics"].as_array().into_iter().flatten().filter_map(Json::as_array) {
            if let Some(expression) = metric.first().and_then(|first| first["expression"].as_str()) {
                metrics.push(of_query(expression));
                continue;
            }
            let mut names: Vec<_> = metric.iter().filter_map(Json::as_str).map(str::to_owned).collect();
            // `...` repeats the metric before except for the last parts, and `.` one part of it.
            if names.first().is_some_and(|first| first == "...") {
                let repeated = (before.len() + 1).saturating_sub(names.len());
                names = before[..repeated].iter().cloned().chain(names.split_off(1)).collect();
            }
            for (at, name) in names.iter_mut().enumerate().filter(|(_, name)| *name == ".") {
                name.clone_from(before.get(at).ok_or("the dashboard repeats nothing")?);
            }
            let [namespace, name, dimensions @ ..] = names.as_slice() else { return Err(format!("not a metric: {metric:?}")) };
            let dimensions = dimensions.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned().unwrap_or_default())).collect();
            metrics.push(Metric { namespace: namespace.clone(), name: name.clone(), dimensions });
            before = names;
        }
    }
    Ok(metrics)
}
