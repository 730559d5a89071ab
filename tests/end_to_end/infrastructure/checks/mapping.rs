//! The worker gets every event, in order, and what it cannot process is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::LazyLock,
};

use projection_worker::internals::doctor::cloudformation::integer;
use quamina::Quamina;
use serde_json::{Value as Json, json};

use super::{
    super::code::{Code, captured},
    members_differ,
};
use crate::support::template::Template;

/// Captured streams in which the filter must tell events from everything else.
const STREAM_NAMES: [&str; 6] = ["bank", "forum", "version-items", "changed-events", "unknown-types", "big-amounts"];
/// What the stream keeps (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Streams.html>).
const STREAM_KEEPS_SECONDS: i64 = 24 * 60 * 60;

fn the_one(template: &Template) -> &Json {
    template.of_kind("AWS::Lambda::EventSourceMapping").next().map_or(&Json::Null, |(_, properties)| properties)
}

/// `projector doctor` accepts whatever is correct; this template has exactly these settings.
pub fn settings(template: &Template) -> Vec<String> {
    let mapping = the_one(template);
    let wanted = json!({
        "EventSourceArn": "${EventStoreTable.StreamArn}",
        "FunctionName": "${WorkerFunction.Arn}",
        "Enabled": "<StreamEnabled>",
        "StartingPosition": "TRIM_HORIZON",
        "ParallelizationFactor": 1,
        "BatchSize": "<BatchSize>",
        "MaximumBatchingWindowInSeconds": "<BatchingWindowSeconds>",
        "FilterCriteria": mapping["FilterCriteria"],
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "BisectBatchOnFunctionError": true,
        "MaximumRetryAttempts": "<MaxRetryAttempts>",
        "MaximumRecordAgeInSeconds": "<MaxRecordAgeSeconds>",
        "DestinationConfig": { "OnFailure": { "Destination": "${OnFailureBucket.Arn}" } },
        "MetricsConfig": { "Metrics": ["EventCount"] },
    });
    let mut problems = members_differ("the event source mapping", mapping, &wanted);
    let bounds = |name: &str| ["MinValue", "Default", "MaxValue"].map(|bound| integer(&template.parameter(name)[bound]).unwrap_or(-1));
    let [min, default, max] = bounds("MaxRecordAgeSeconds");
    if !(60 <= min && min <= default && default <= max && max < STREAM_KEEPS_SECONDS) {
        problems.push("MaxRecordAgeSeconds: records may grow older than the stream keeps them".to_owned());
    }
    let [min, default, max] = bounds("MaxRetryAttempts");
    if !(0 < min && min <= default && default <= max) {
        problems.push("MaxRetryAttempts: retries are not bounded".to_owned());
    }
    problems
}

/// The filter passes every event of the captured streams and of one behind processes, and nothing else: what instances append must come
/// back to the worker, and answers to commands must not.
pub fn filter(template: &Template, code: &Code) -> Vec<String> {
    let mut matcher = Quamina::new();
    for filter in the_one(template)["FilterCriteria"]["Filters"].as_array().into_iter().flatten() {
        let pattern = filter["Pattern"].as_str().unwrap_or_default();
        if let Err(error) = matcher.add_pattern((), pattern) {
            return vec![format!("the pattern {pattern} cannot be read: {error}")];
        }
    }
    let records = code.stream.iter().map(|record| (record.to_string(), record.clone())).collect();
    let of_processes = Stream { name: "processes", records, versions: BTreeMap::new() };
    STREAMS.iter().chain([&of_processes]).flat_map(|stream| filtered(&matcher, stream)).collect()
}

/// A captured stream: its records, each with its text, and the versions that the rows show to have been in it, by account.
struct Stream {
    name: &'static str,
    records: Vec<(String, Json)>,
    versions: BTreeMap<String, u64>,
}

static STREAMS: LazyLock<Vec<Stream>> = LazyLock::new(|| {
    let read = |name: &'static str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let batches = captured(&folder).into_iter().map(|batch| serde_json::from_str::<Json>(&batch).expect("JSON"));
        let records = batches.flat_map(|mut batch| batch["Records"].take().as_array().cloned().expect("records"));
        let expected: Json = serde_json::from_str(&fs::read_to_string(folder.join("expected.json")).expect("rows")).expect("JSON");
        let rows = expected["rows"]["account-summary"].as_array().expect("rows");
        let version = |row: &Json| (row["accountId"].as_str().expect("an account").to_owned(), row["version"].as_u64().unwrap_or_default());
        Stream { name, records: records.map(|record| (record.to_string(), record)).collect(), versions: rows.iter().map(version).collect() }
    };
    STREAM_NAMES.into_iter().map(read).collect()
});

fn filtered(matcher: &Quamina<()>, stream: &Stream) -> Vec<String> {
    let name = stream.name;
    let mut problems = Vec::new();
    let mut seen: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for (text, record) in &stream.records {
        let passes = matcher.has_matches(text.as_bytes()).expect("a record is JSON");
        let image = &record["dynamodb"]["NewImage"];
        let version = image["eventVersion"]["N"].as_str().and_then(|version| version.parse().ok());
        match (passes, record["eventName"] == "INSERT", image["aggregateId"]["S"].as_str(), version) {
            (true, _, Some(aggregate), Some(version)) => _ = seen.entry(aggregate).or_default().insert(version),
            (true, ..) => problems.push(format!("the filter passes a record of {name} that is not an event")),
            (false, true, Some(_), Some(_)) => problems.push(format!("the filter keeps back an event of {name}")),
            (false, ..) => {}
        }
    }
    for (account, last) in &stream.versions {
        if (1..=*last).any(|version| seen.get(account.as_str()).is_none_or(|versions| !versions.contains(&version))) {
            problems.push(format!("the filter keeps back versions of {account} in {name}"));
        }
    }
    problems
}
