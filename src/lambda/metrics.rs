//! The results of an invocation as CloudWatch metrics: log lines in the embedded metric format. CloudWatch extracts the metrics from the
//! log, so an invocation makes no call and waits for nothing
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).
//!
//! Written by hand, because the format is one JSON object and [`Report`] already holds its values. Of the crates that write it,
//! `metrics_cloudwatch_embedded` 0.10 is a global recorder, set once per process, which would count everything a second time;
//! `metrique-writer-format-emf` 0.1 has no such state but brings in 32 crates.
//!
//! The dimensions are the stage and the projection, never an id: each combination is a separate metric with its own price.

use projection_vocabulary::{Registry, Timestamp};
use serde_json::{Value as Json, json};

use crate::{
    config::{ConfigError, ConfigProblem},
    engine::{
        act::InstanceCounts,
        report::{Report, Tally},
    },
    store::Usage,
};

const NAMESPACE: &str = "ProjectionWorker";
const STAGE_VAR: &str = "STAGE";
/// The default: a stage that pages nobody at night.
const STAGE_DEFAULT: &str = "dev";
/// CloudWatch accepts 1,024 characters; no stage needs that many.
const STAGE_LEN_MAX: usize = 64;

/// The deployment: `dev` or `prod`, for example. One of the two dimensions.
pub struct Stage(String);

impl Stage {
    /// The stage that the environment names.
    ///
    /// # Errors
    /// It is not a plain word.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let stage = var(STAGE_VAR).filter(|stage| !stage.is_empty()).unwrap_or_else(|| STAGE_DEFAULT.to_owned());
        let plain = stage.len() <= STAGE_LEN_MAX && stage.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        let expected = || format!("a plain word (1 to {STAGE_LEN_MAX} of a-z A-Z 0-9 _ - .)");
        if plain { Ok(Self(stage)) } else { Err(ConfigProblem::invalid(STAGE_VAR, expected()).into()) }
    }
}

/// One line for each projection, even if no record concerned it: a zero ends an alarm, a missing value does not.
pub fn of_projections(stage: &Stage, registry: Registry, report: &Report, now: &Timestamp) -> Vec<String> {
    let lines = registry.projections().iter().map(|rule| {
        let tally = report.projections.get(rule.name()).copied().unwrap_or_default();
        let Tally { applied, duplicate, healed, gaps, parked, failed, reprojected, instances, oldest_ms: _ } = tally;
        let mut metrics = vec![
            count("Applied", applied),
            count("Duplicate", duplicate),
            count("Healed", healed),
            count("Gaps", gaps),
            count("Parked", parked),
            count("Failed", failed),
            count("Reprojected", reprojected),
        ];
        if rule.process().is_some() {
            metrics.extend(of_instances(instances));
        }
        if let Some(lag_ms) = tally.lag_ms(now) {
            metrics.push(Metric { name: "LagMs", unit: "Milliseconds", value: json!(lag_ms) });
        }
        line(now, &[("stage", &stage.0), ("projection", rule.name())], &metrics)
    });
    lines.collect()
}

fn of_instances(instances: InstanceCounts) -> Vec<Metric> {
    let InstanceCounts { started, sent, accepted, refused, timed_out, failed, stuck, completed, undone, resolved } = instances;
    vec![
        count("Started", started),
        count("Sent", sent),
        count("Accepted", accepted),
        count("Refused", refused),
        count("TimedOut", timed_out),
        count("Undoing", failed),
        count("Stuck", stuck),
        count("Completed", completed),
        count("Undone", undone),
        count("Resolved", resolved),
    ]
}

/// What a task counts, named as its metrics.
#[derive(Clone, Copy)]
pub enum TaskCount {
    /// Rows that this invocation of a rebuild replaced or created.
    Reprojected(u64),
    /// Aggregates that a catch-up found behind.
    CaughtUp(u64),
    /// Attributes of shared rows that were settled.
    Settled(u64),
    /// Rows and attributes of shared rows that a verification found wrong.
    Differing(u64),
    /// What time-outs made of a process's instances, and the age in seconds of the oldest that has not ended.
    Ticked(InstanceCounts, u64),
}

/// The line of a task's projection.
pub fn of_task(stage: &Stage, projection: &str, task: TaskCount, now: &Timestamp) -> String {
    let metrics = match task {
        TaskCount::Reprojected(rows) => vec![count("Reprojected", rows)],
        TaskCount::CaughtUp(aggregates) => vec![count("CaughtUp", aggregates)],
        TaskCount::Settled(attributes) => vec![count("Settled", attributes)],
        TaskCount::Differing(differing) => vec![count("Differing", differing)],
        TaskCount::Ticked(instances, oldest_s) => {
            let age = Metric { name: "OldestOpenAge", unit: "Seconds", value: json!(oldest_s) };
            of_instances(instances).into_iter().chain([age]).collect()
        }
    };
    line(now, &[("stage", &stage.0), ("projection", projection)], &metrics)
}

/// The totals of an invocation, of whatever kind.
pub struct Invocation {
    /// The number of records, of those with nothing to project, and of those by which an event was changed or deleted; `None` if it
    /// was not a batch.
    pub batch: Option<(u64, u64, u64)>,
    /// Parked records, including strays, which no projection counts.
    pub parked: u64,
    /// Records to redeliver; 1 if a task failed or the payload was not a batch.
    pub failed: u64,
    /// Requests and capacity spent.
    pub usage: Usage,
}

/// The line of the invocation as a whole.
pub fn of_invocation(stage: &Stage, invocation: &Invocation, now: &Timestamp) -> String {
    let Usage { requests, write_units, read_units, retries, conflicts } = invocation.usage;
    let units = |name, units: f64| Metric { name, unit: "Count", value: json!(units) };
    let mut metrics = Vec::new();
    if let Some((records, ignored, rewritten)) = invocation.batch {
        metrics.extend([count("BatchSize", records), count("Ignored", ignored), count("Rewritten", rewritten)]);
    }
    metrics.extend([
        count("Parked", invocation.parked),
        count("Failed", invocation.failed),
        count("Requests", requests),
        units("WriteUnits", write_units),
        units("ReadUnits", read_units),
        count("Retries", retries),
        count("Conflicts", conflicts),
    ]);
    line(now, &[("stage", &stage.0)], &metrics)
}

struct Metric {
    name: &'static str,
    unit: &'static str,
    value: Json,
}

fn count(name: &'static str, value: u64) -> Metric {
    Metric { name, unit: "Count", value: json!(value) }
}

fn line(now: &Timestamp, dimensions: &[(&'static str, &str)], metrics: &[Metric]) -> String {
    let names: Vec<_> = dimensions.iter().map(|(name, _)| name).collect();
    let defined: Vec<_> = metrics.iter().map(|Metric { name, unit, .. }| json!({ "Name": name, "Unit": unit })).collect();
    let directive = json!({ "Namespace": NAMESPACE, "Dimensions": [names], "Metrics": defined });
    let mut line = json!({ "_aws": { "Timestamp": now.epoch_ms(), "CloudWatchMetrics": [directive] } });
    for (name, value) in dimensions {
        line[name] = json!(value);
    }
    for Metric { name, value, .. } in metrics {
        line[name] = value.clone();
    }
    line.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(value: &str) -> Result<String, String> {
        Stage::from_env(|name| (name == "STAGE").then(|| value.to_owned())).map(|Stage(stage)| stage).map_err(|error| error.to_string())
    }

    #[test]
    fn a_stage_is_a_plain_word_and_dev_by_default() {
        assert_eq!(Stage::from_env(|_| None).map(|Stage(stage)| stage), Ok("dev".to_owned()));
        assert_eq!((stage(""), stage("prod.eu-1")), (Ok("dev".to_owned()), Ok("prod.eu-1".to_owned())));
        for odd in ["a b", "größe", "a\"b", &"x".repeat(65)] {
            assert_eq!(stage(odd).unwrap_err(), "STAGE is not a plain word (1 to 64 of a-z A-Z 0-9 _ - .)");
        }
    }

    #[test]
    fn a_line_has_the_format_that_cloudwatch_reads() {
        let usage = Usage { requests: 3, write_units: 4.5, read_units: 0.5, retries: 2, conflicts: 1 };
        let now = Timestamp::parse("2026-01-05T09:00:00Z").unwrap();
        let line = |batch| of_invocation(&Stage("prod".to_owned()), &Invocation { batch, parked: 3, failed: 1, usage }, &now);
        let literal = r#"{"BatchSize":20,"Conflicts":1,"Failed":1,"Ignored":4,"Parked":3,"ReadUnits":0.5,"Requests":3,"Retries":2,"Rewritten":1,"WriteUnits":4.5,"_aws":{"CloudWatchMetrics":[{"Dimensions":[["stage"]],"Metrics":[{"Name":"BatchSize","Unit":"Count"},{"Name":"Ignored","Unit":"Count"},{"Name":"Rewritten","Unit":"Count"},{"Name":"Parked","Unit":"Count"},{"Name":"Failed","Unit":"Count"},{"Name":"Requests","Unit":"Count"},{"Name":"WriteUnits","Unit":"Count"},{"Name":"ReadUnits","Unit":"Count"},{"Name":"Retries","Unit":"Count"},{"Name":"Conflicts","Unit":"Count"}],"Namespace":"ProjectionWorker"}],"Timestamp":1767603600000},"stage":"prod"}"#;
        assert_eq!(line(Some((20, 4, 1))), literal);
        assert!(!line(None).contains("BatchSize"), "a task has no batch size, and a zero would lower the average");
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_event_and_never_negative() {
        let now = Timestamp::parse("2026-01-05T09:00:00Z").unwrap();
        let lag_ms = |oldest: Option<i64>| Tally { oldest_ms: oldest, ..Tally::default() }.lag_ms(&now);
        assert_eq!(lag_ms(None), None, "a redelivery has no lag");
        assert_eq!(lag_ms(Some(now.epoch_ms() - 1500)), Some(1500));
        assert_eq!(lag_ms(Some(now.epoch_ms() + 1500)), Some(0), "a writer's clock may be ahead");
    }
}
