//! The metric lines that a process wrote, checked against the specification of the format
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Output,
    time::SystemTime,
};

use serde_json::Value as Json;

/// The units of the specification's schema that the worker uses.
const UNITS: [&str; 3] = ["Count", "Milliseconds", "Seconds"];
/// The metrics that are times, with their units.
const TIMES: [(&str, &str); 2] = [("LagMs", "Milliseconds"), ("OldestOpenAge", "Seconds")];

/// One metric line.
pub struct MetricLine {
    pub dimensions: BTreeMap<String, String>,
    pub values: BTreeMap<String, f64>,
}

impl MetricLine {
    pub fn projection(&self) -> Option<&str> {
        self.dimensions.get("projection").map(String::as_str)
    }
}

/// The metric lines in a process's output. Fails unless each is valid and has no other members.
pub fn metric_lines(output: &Output) -> Vec<MetricLine> {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    lines.filter(|line| line.get("_aws").is_some()).map(|line| metric_line(&line)).collect()
}

fn metric_line(line: &Json) -> MetricLine {
    let members = line.as_object().expect("an object");
    let aws = line["_aws"].as_object().expect("metadata");
    assert_eq!(aws.keys().collect::<Vec<_>>(), ["CloudWatchMetrics", "Timestamp"], "{line}");
    let written_ms = aws["Timestamp"].as_i64().expect("whole milliseconds");
    // CloudWatch accepts metrics up to two weeks old and up to two hours ahead.
    assert!((0..120_000).contains(&(now_ms() - written_ms)), "{line}");
    let [directive] = aws["CloudWatchMetrics"].as_array().expect("directives").as_slice() else { panic!("one directive: {line}") };
    assert_eq!(directive["Namespace"], "ProjectionWorker");
    let [names] = directive["Dimensions"].as_array().expect("sets of dimensions").as_slice() else { panic!("one set: {line}") };
    let names: Vec<_> = names.as_array().expect("a set").iter().map(|name| name.as_str().expect("a name")).collect();
    assert!((1..=30).contains(&names.len()), "{line}");
    let dimension = |name: &&str| ((*name).to_owned(), members[*name].as_str().expect("a dimension's value is text").to_owned());
    let dimensions: BTreeMap<_, _> = names.iter().map(dimension).collect();
    assert!(dimensions.values().all(|value| (1..=1024).contains(&value.len()) && value.is_ascii()), "{line}");
    let metrics = directive["Metrics"].as_array().expect("metrics");
    assert!((1..=100).contains(&metrics.len()), "{line}");
    let mut values = BTreeMap::new();
    for metric in metrics {
        assert_eq!(metric.as_object().expect("a definition").len(), 2, "{line}");
        let (name, unit) = (metric["Name"].as_str().expect("a name"), metric["Unit"].as_str().expect("a unit"));
        assert!(UNITS.contains(&unit), "{line}");
        assert_eq!(unit, TIMES.iter().find(|(time, _)| *time == name).map_or("Count", |(_, unit)| unit), "{line}");
        let value = members[name].as_f64().expect("a metric's value is a number");
        assert!(value >= 0.0 && values.insert(name.to_owned(), value).is_none(), "{line}");
    }
    let expected: BTreeSet<_> = dimensions.keys().chain(values.keys()).map(String::as_str).chain(["_aws"]).collect();
    assert_eq!(members.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected, "a metric line holds no id and no data");
    MetricLine { dimensions, values }
}

pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("it fits")
}
