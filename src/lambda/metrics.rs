//! What an invocation came to, as metrics of CloudWatch: lines of the log in its embedded metric format. CloudWatch makes metrics of them,
//! so an invocation calls nothing and waits for nothing
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).
//!
//! Ours, for the format is one JSON object and what goes into it stands in [`Report`] already. Of the crates that write it,
//! `metrics_cloudwatch_embedded` 0.10 is a recorder for the whole process, set once, which counts everything a second time;
//! `metrique-writer-format-emf` 0.1 has no such state, and brings 32 crates along.
//!
//! Dimensions are the stage and the projection, never an id: each combination is a metric of its own, and is paid for.

use projection_vocabulary::{Registry, Timestamp};
use serde_json::{Value as Json, json};

use crate::{
    engine::report::{Report, Tally},
    store::Usage,
};

const NAMESPACE: &str = "ProjectionWorker";
const STAGE_VAR: &str = "STAGE";
/// Where nobody says otherwise: nobody is called at night for it.
const STAGE_DEFAULT: &str = "dev";
/// CloudWatch takes 1,024; no stage needs them.
const STAGE_LEN_MAX: usize = 64;

/// Which deployment it is: `dev`, `prod`. One of the two dimensions.
pub struct Stage(String);

impl Stage {
    /// The stage that the environment names.
    ///
    /// # Errors
    /// It is no plain word.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let stage = var(STAGE_VAR).filter(|stage| !stage.is_empty()).unwrap_or_else(|| STAGE_DEFAULT.to_owned());
        let plain = stage.len() <= STAGE_LEN_MAX && stage.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if plain { Ok(Self(stage)) } else { Err(format!("{STAGE_VAR} is no plain word (1 to {STAGE_LEN_MAX} of a-z A-Z 0-9 _ - .)")) }
    }
}

/// A line for each projection, also of one that nothing concerned: a zero ends an alarm, and no value at all does not.
pub fn of_projections(stage: &Stage, registry: Registry, report: &Report, now: &Timestamp) -> Vec<String> {
    let lines = registry.projections().iter().map(|rule| {
        let tally = report.projections.get(rule.name()).copied().unwrap_or_default();
        let Tally { applied, duplicate, healed, gaps, parked, failed, reprojected, oldest_ms: _ } = tally;
        let mut metrics = vec![
            count("Applied", applied),
            count("Duplicate", duplicate),
            count("Healed", healed),
            count("Gaps", gaps),
            count("Parked", parked),
            count("Failed", failed),
            count("Reprojected", reprojected),
        ];
        if let Some(lag_ms) = tally.lag_ms(now) {
            metrics.push(Metric { name: "LagMs", unit: "Milliseconds", value: json!(lag_ms) });
        }
        line(now, &[("stage", &stage.0), ("projection", rule.name())], &metrics)
    });
    lines.collect()
}

/// What a task came to.
#[derive(Clone, Copy)]
pub enum Done {
    /// A rebuild: the rows that were put in place now.
    Rebuilt(u64),
    /// Catching up: the aggregates that were behind.
    CaughtUp(u64),
    /// A verification: the rows and sums that are not right.
    Verified(u64),
}

/// The line of a task's projection.
pub fn of_task(stage: &Stage, projection: &str, done: Done, now: &Timestamp) -> String {
    let metrics = [match done {
        Done::Rebuilt(rows) => count("Reprojected", rows),
        Done::CaughtUp(aggregates) => count("CaughtUp", aggregates),
        Done::Verified(differing) => count("Differing", differing),
    }];
    line(now, &[("stage", &stage.0), ("projection", projection)], &metrics)
}

/// What an invocation was, as far as it is known.
pub struct Invocation {
    /// Records delivered and those of them with nothing to project; `None` if it was no batch.
    pub batch: Option<(u64, u64)>,
    /// Records that wait, those that name no event among them, which no projection counts.
    pub parked: u64,
    /// Records to deliver again; 1 for whatever else failed.
    pub failed: u64,
    /// What it cost.
    pub usage: Usage,
}

/// The line of the invocation as a whole.
pub fn of_invocation(stage: &Stage, invocation: &Invocation, now: &Timestamp) -> String {
    let Usage { requests, write_units, read_units, retries, conflicts } = invocation.usage;
    let units = |name, units: f64| Metric { name, unit: "Count", value: json!(units) };
    let mut metrics = Vec::new();
    if let Some((records, ignored)) = invocation.batch {
        metrics.extend([count("BatchSize", records), count("Ignored", ignored)]);
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
        Stage::from_env(|name| (name == "STAGE").then(|| value.to_owned())).map(|Stage(stage)| stage)
    }

    #[test]
    fn a_stage_is_a_plain_word_and_dev_unless_it_is_named() {
        assert_eq!(Stage::from_env(|_| None).map(|Stage(stage)| stage), Ok("dev".to_owned()));
        assert_eq!((stage(""), stage("prod.eu-1")), (Ok("dev".to_owned()), Ok("prod.eu-1".to_owned())));
        for odd in ["a b", "größe", "a\"b", &"x".repeat(65)] {
            assert_eq!(stage(odd).unwrap_err(), "STAGE is no plain word (1 to 64 of a-z A-Z 0-9 _ - .)");
        }
    }

    #[test]
    fn a_line_is_what_cloudwatch_reads() {
        let usage = Usage { requests: 3, write_units: 4.5, read_units: 0.5, retries: 2, conflicts: 1 };
        let now = Timestamp::parse("2026-01-05T09:00:00Z").unwrap();
        let told = |batch| of_invocation(&Stage("prod".to_owned()), &Invocation { batch, parked: 3, failed: 1, usage }, &now);
        let literal = r#"{"BatchSize":20,"Conflicts":1,"Failed":1,"Ignored":4,"Parked":3,"ReadUnits":0.5,"Requests":3,"Retries":2,"WriteUnits":4.5,"_aws":{"CloudWatchMetrics":[{"Dimensions":[["stage"]],"Metrics":[{"Name":"BatchSize","Unit":"Count"},{"Name":"Ignored","Unit":"Count"},{"Name":"Parked","Unit":"Count"},{"Name":"Failed","Unit":"Count"},{"Name":"Requests","Unit":"Count"},{"Name":"WriteUnits","Unit":"Count"},{"Name":"ReadUnits","Unit":"Count"},{"Name":"Retries","Unit":"Count"},{"Name":"Conflicts","Unit":"Count"}],"Namespace":"ProjectionWorker"}],"Timestamp":1767603600000},"stage":"prod"}"#;
        assert_eq!(told(Some((20, 4))), literal);
        assert!(!told(None).contains("BatchSize"), "a task has no size, and a zero would lower the average");
    }

    #[test]
    fn lag_is_that_of_the_oldest_and_never_negative() {
        let now = Timestamp::parse("2026-01-05T09:00:00Z").unwrap();
        let lag_ms = |oldest: Option<i64>| Tally { oldest_ms: oldest, ..Tally::default() }.lag_ms(&now);
        assert_eq!(lag_ms(None), None, "a redelivery says nothing of it");
        assert_eq!(lag_ms(Some(now.epoch_ms() - 1500)), Some(1500));
        assert_eq!(lag_ms(Some(now.epoch_ms() + 1500)), Some(0), "a writer's clock may be ahead");
    }
}
