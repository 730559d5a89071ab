//! `projector doctor`: bad templates, each defect by its name, and what is deployed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use axum::{
    Json as Body, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use projection_worker::internals::doctor::{Examination, checks, examine, template};
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;

use crate::support::{
    projector::projector,
    template::{self as templates, named_in, own_path, with},
    world::{World, registry},
};

mod processes;
mod variants;

/// The template of this repository as a program without processes has it: its alarm on ticks watches a process by name.
fn own() -> String {
    with(&templates::own(), "{Name: projection, Value: order-fulfilment}", "{Name: projection, Value: account-summary}")
}

fn examined(text: &str, parameters: &[(&str, &str)]) -> Examination {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    examine(&template::read(text, &parameters, None, registry()).expect("a template"), registry())
}

fn found(text: &str) -> Vec<String> {
    named_in(&examined(text, &[]))
}

/// Why a template is refused, if it is.
fn refused(text: &str, function: Option<&str>) -> Option<String> {
    template::read(text, &[], function, registry()).err().map(|error| error.to_string())
}

/// Ways to break the template: what is put in the place of what, and what is found then.
const DEFECTS: &[(&str, &str, &str)] = &[
    (
        "      FunctionResponseTypes: [ReportBatchItemFailures]\n",
        "",
        "response-type: WorkerStream.FunctionResponseTypes does not have ReportBatchItemFailures",
    ),
    (
        "FunctionResponseTypes: [ReportBatchItemFailures]",
        "FunctionResponseTypes: []",
        "response-type: WorkerStream.FunctionResponseTypes does not have ReportBatchItemFailures",
    ),
    ("ParallelizationFactor: 1", "ParallelizationFactor: 10", "parallelization: WorkerStream.ParallelizationFactor is 10"),
    (
        "      DestinationConfig: {OnFailure: {Destination: !GetAtt OnFailureBucket.Arn}}\n",
        "",
        "on-failure: WorkerStream.DestinationConfig.OnFailure is not set",
    ),
    (
        "Destination: !GetAtt OnFailureBucket.Arn",
        "Destination: !Sub 'arn:${AWS::Partition}:sqs:${AWS::Region}:${AWS::AccountId}:given-up'",
        "on-failure-kind: WorkerStream.DestinationConfig.OnFailure is sqs",
    ),
    (
        "Destination: !GetAtt OnFailureBucket.Arn",
        "Destination: arn:aws:sns:eu-central-1:123456789012:given-up",
        "on-failure-kind: WorkerStream.DestinationConfig.OnFailure is sns",
    ),
    ("StartingPosition: TRIM_HORIZON", "StartingPosition: LATEST", "starting-position: WorkerStream.StartingPosition is LATEST"),
    (
        r#""S":[{"prefix":"EVENT#"}]"#,
        r#""S":["EVENT#"]"#,
        "filter: WorkerStream.FilterCriteria withholds events, for example one of version 1 and type `Opened`",
    ),
    (
        r#""Keys":{"SK""#,
        r#""NewImage":{"eventType":{"S":["Opened","EVENT#"]}},"Keys":{"SK""#,
        "filter: WorkerStream.FilterCriteria withholds events, for example one of version 2 and type `Closed`",
    ),
    (
        r#""S":[{"prefix":"EVENT#"}]"#,
        r#""S":[{"prefix":"EVENT#000"}]"#,
        "filter: WorkerStream.FilterCriteria withholds events, for example one of version 9999999999 and type `EVENT#`",
    ),
    (
        r#""eventName":["INSERT"]"#,
        r#""eventName":["INSERT","REMOVE"]"#,
        "filter-wide: WorkerStream.FilterCriteria passes REMOVE records of an event",
    ),
    (
        r#""S":[{"prefix":"EVENT#"}]"#,
        r#""S":[{"exists":true}]"#,
        "filter-wide: WorkerStream.FilterCriteria passes INSERT records of an aggregate's VERSION item",
    ),
    (
        "      MaximumRetryAttempts: !Ref MaxRetryAttempts\n",
        "      MaximumRetryAttempts: 0\n",
        "retries: WorkerStream.MaximumRetryAttempts is 0",
    ),
    ("      MaximumRecordAgeInSeconds: !Ref MaxRecordAgeSeconds\n", "", "record-age: WorkerStream.MaximumRecordAgeInSeconds is not set"),
    (
        "MaximumRecordAgeInSeconds: !Ref MaxRecordAgeSeconds",
        "MaximumRecordAgeInSeconds: -1",
        "record-age: WorkerStream.MaximumRecordAgeInSeconds is -1",
    ),
    (
        "MaximumRecordAgeInSeconds: !Ref MaxRecordAgeSeconds",
        "MaximumRecordAgeInSeconds: '604800'",
        "record-age: WorkerStream.MaximumRecordAgeInSeconds is 604800",
    ),
    (
        "MaximumRecordAgeInSeconds: !Ref MaxRecordAgeSeconds",
        "MaximumRecordAgeInSeconds: 300",
        "record-age-short: WorkerStream.MaximumRecordAgeInSeconds is 300",
    ),
    ("      BisectBatchOnFunctionError: true\n", "", "bisect: WorkerStream.BisectBatchOnFunctionError is false"),
    (
        "      MaximumBatchingWindowInSeconds: !Ref BatchingWindowSeconds\n",
        "",
        "batch-window: WorkerStream.MaximumBatchingWindowInSeconds is 0, for batches of 1000",
    ),
    (
        "      BatchSize: !Ref BatchSize\n",
        "      BatchSize: !Ref BatchSize\n      TumblingWindowInSeconds: 60\n",
        "tumbling-window: WorkerStream.TumblingWindowInSeconds is 60",
    ),
    ("Enabled: !Ref StreamEnabled", "Enabled: false", "state: WorkerStream.Enabled is Disabled"),
    (
        "EventSourceArn: !GetAtt EventStoreTable.StreamArn",
        "EventSourceArn: !GetAtt ParkedTable.StreamArn",
        "wiring: WorkerStream.EventSourceArn is ${ParkedTable.StreamArn}, not the stream of EventStoreTable",
    ),
    ("Timeout: 60", "Timeout: 14", "timeout: WorkerFunction.Timeout is 14 s; 15 s are needed"),
    ("      Timeout: 60\n", "", "timeout: WorkerFunction.Timeout is 3 s; 15 s are needed"),
    ("        PARKED_TABLE: !Ref ParkedTable\n", "", "environment: WorkerFunction.Environment.PARKED_TABLE is not set"),
    (
        "ApplicationLogLevel: !Ref LogLevel",
        "ApplicationLogLevel: WARN",
        "log-level: WorkerFunction.LoggingConfig.ApplicationLogLevel is WARN",
    ),
    (
        "StreamSpecification: {StreamViewType: NEW_IMAGE}",
        "StreamSpecification: {StreamViewType: KEYS_ONLY}",
        "stream-view: EventStoreTable.StreamSpecification is KEYS_ONLY",
    ),
    ("      StreamSpecification: {StreamViewType: NEW_IMAGE}\n", "", "stream-view: EventStoreTable.StreamSpecification is not set"),
    (
        "      PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}\n",
        "",
        "recovery: EventStoreTable.PointInTimeRecoverySpecification is false",
    ),
    (
        "DeletionProtectionEnabled: true",
        "DeletionProtectionEnabled: false",
        "deletion-protection: EventStoreTable.DeletionProtectionEnabled is false",
    ),
    (
        "      TableName: !Sub \"${Stage}-parked\"\n",
        "      TableName: !Sub \"${Stage}-parked\"\n      TimeToLiveSpecification: {AttributeName: until, Enabled: true}\n",
        "time-to-live: ParkedTable.TimeToLiveSpecification is true",
    ),
    (
        "        - {AttributeName: SK, KeyType: RANGE}\n",
        "        - {AttributeName: version, KeyType: RANGE}\n",
        "keys: EventStoreTable.KeySchema is PK and version, but should be PK and SK",
    ),
    (
        "{AttributeName: accountId, KeyType: HASH}",
        "{AttributeName: PK, KeyType: HASH}",
        "keys: AccountSummaryTable.KeySchema is PK, but should be accountId",
    ),
    ("IndexName: GSI1\n", "IndexName: by-type\n", "index: EventStoreTable.GlobalSecondaryIndexes.GSI1 does not exist"),
    (
        "NonKeyAttributes: [title, authorId]",
        "NonKeyAttributes: [title]",
        "index: ForumCountersTable.GlobalSecondaryIndexes.topics-by-category does not contain authorId",
    ),
    (
        "- {AttributeName: categoryId, KeyType: HASH}\n            - {AttributeName: id, KeyType: RANGE}",
        "- {AttributeName: categoryId, KeyType: HASH}",
        "index: ForumCountersTable.GlobalSecondaryIndexes.topics-by-category has the keys categoryId, but should have categoryId and id",
    ),
    (
        "- {AttributeName: categoryId, KeyType: HASH}\n            - {AttributeName: id, KeyType: RANGE}",
        "- {AttributeName: categoryId, KeyType: HASH}\n            - {AttributeName: authorId, KeyType: HASH}\n            - {AttributeName: id, KeyType: RANGE}",
        "index: ForumCountersTable.GlobalSecondaryIndexes.topics-by-category has the keys categoryId, authorId and id, but should have categoryId and id",
    ),
    (
        "- {AttributeName: categoryId, AttributeType: S}",
        "- {AttributeName: categoryId, AttributeType: N}",
        "index: ForumCountersTable.GlobalSecondaryIndexes.topics-by-category has the keys categoryId (N) and id, but should have categoryId and id",
    ),
];

/// Of what takes more than one change, and of what no template can say, other tests tell; of the rest those of variants.
const ELSEWHERE: [&str; 14] = [
    "alarm",
    "batch-time",
    "concurrency",
    "filter-pattern",
    "last-result",
    "mapping",
    "memory",
    "permissions",
    "replicas",
    "table",
    "tick",
    "tick-concurrency",
    "tick-rate",
    "wiring-fixed",
];

#[test]
fn each_defect_of_a_template_is_named_and_nothing_else() {
    assert_eq!(found(&own()), [""; 0]);
    for (old, new, expected) in DEFECTS {
        assert_eq!(found(&with(&own(), old, new)), [*expected], "{new}");
    }
    let named: BTreeSet<_> = DEFECTS.iter().filter_map(|(.., finding)| finding.split(':').next()).chain(ELSEWHERE).collect();
    assert_eq!(named, checks().map(|check| check.name).collect(), "a test for each check");
}

#[test]
fn time_and_memory_are_held_against_the_batch() {
    let batch = [("BatchSize", "10000")];
    let of = |memory: &str, timeout: &str| {
        let text = with(&own(), "MemorySize: 512\n      Timeout: 60", &format!("MemorySize: {memory}\n      Timeout: {timeout}"));
        named_in(&examined(&text, &batch))
    };
    assert_eq!(of("512", "60"), [""; 0]);
    let slow = |working: u32, needed: u32, memory: u32| {
        format!(
            "batch-time: WorkerFunction.Timeout leaves {working} s of working time; 10000 events of different aggregates take about {needed} s with {memory} MB"
        )
    };
    assert_eq!(of("512", "30"), [slow(24, 29, 512)]);
    assert_eq!(of("1769", "30"), [""; 0], "processors come with memory");
    let memory = "memory: WorkerFunction.MemorySize is 128 MB; a batch of 10000 takes up to 145 MB".to_owned();
    assert_eq!(of("128", "60"), [memory, slow(48, 91, 128)]);
}

#[tokio::test]
async fn a_template_with_ten_defects_has_each_of_them_named() {
    let (mut text, mut expected) = (own(), BTreeSet::new());
    for at in [0, 2, 5, 6, 7, 12, 17, 18, 22, 28, 30, 31] {
        let (old, new, finding) = DEFECTS[at];
        assert!(text.contains(old), "defects must not overlap: {old}");
        text = text.replacen(old, new, 1);
        expected.insert(finding.to_owned());
    }
    assert!(expected.len() >= 10);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bad.yaml");
    fs::write(&path, text).expect("written");
    let path = path.to_str().expect("UTF-8");

    let (code, lines, said) = projector(&["doctor", path, "--json"]).await;
    assert_eq!(code, 1, "{said}");
    let lines: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (total, findings) = lines.split_last().expect("a total");
    let text = |line: &Json, name: &str| line[name].as_str().expect("a text").to_owned();
    let named = findings.iter().map(|line| format!("{}: {} {}", text(line, "check"), text(line, "subject"), text(line, "found")));
    assert_eq!(named.collect::<BTreeSet<_>>(), expected);
    assert_eq!(total["total"]["findings"], expected.len());

    // The same for people, with the reasons; errors come first.
    let (code, table, _) = projector(&["doctor", path]).await;
    assert_eq!(code, 1);
    // A pattern stays whole, to be copied.
    assert!(table.lines().all(|line| line.chars().count() <= 80 || !line.trim().contains(' ')), "{table}");
    let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
    for line in findings {
        let [severity, check, why, fix] = ["severity", "check", "why", "fix"].map(|name| text(line, name));
        assert!(words.contains(&format!("{severity} {check}: ")) && words.contains(&format!("why: {why} fix: {fix}")), "{words}");
    }
    let severities: Vec<_> = findings.iter().map(|line| text(line, "severity")).collect();
    assert!(severities.is_sorted() && severities.first() != severities.last(), "{severities:?}");

    // What is meant so is let pass.
    let allowed: Vec<_> = findings.iter().flat_map(|line| ["--allow".to_owned(), text(line, "check")]).collect();
    let arguments: Vec<_> = ["doctor", path].into_iter().chain(allowed.iter().map(String::as_str)).collect();
    let (code, out, said) = projector(&arguments).await;
    assert_eq!(code, 0, "{out}{said}");
    assert_eq!(projector(&["doctor", path, "--allow", "everything"]).await.0, 2);
}

/// A worker as others write it down: SAM's events, globals, conditions, mappings and lists of parameters.
const SAM: &str = r#"
Transform: AWS::Serverless-2016-10-31
Parameters:
  Stage: {Type: String}
  Sizes: {Type: CommaDelimitedList, Default: "10, 500"}
Conditions:
  InProduction: !Equals [!Ref Stage, prod]
  Elsewhere: !Not [!Condition InProduction]
Mappings:
  Age: {seconds: {prod: 43200, test: 7200}}
Globals:
  Function:
    Timeout: 30
    MemorySize: 1024
    Environment:
      Variables: {EVENT_STORE_TABLE: !Ref Events, PARKED_TABLE: !Ref Parked}
Resources:
  Projector:
    Type: AWS::Serverless::Function
    Properties:
      Environment:
        Variables:
          ACCOUNT_SUMMARY_TABLE: !Sub "${Stage}-accounts"
          FORUM_COUNTERS_TABLE: !Join ["-", [!Ref Stage, forum]]
      Events:
        Stream:
          Type: DynamoDB
          Properties:
            Stream: !GetAtt Events.StreamArn
            StartingPosition: TRIM_HORIZON
            BatchSize: !Select [1, !Ref Sizes]
            MaximumBatchingWindowInSeconds: !If [InProduction, 1, 0]
            MaximumRecordAgeInSeconds: !FindInMap [Age, seconds, !Ref Stage]
            MaximumRetryAttempts: !If [Elsewhere, 3, !Ref AWS::NoValue]
            BisectBatchOnFunctionError: yes
            FunctionResponseTypes: [
              ReportBatchItemFailures
          ]
            FilterCriteria: {Filters: [{Pattern: '{"eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}'}]}
            DestinationConfig: {OnFailure: {Type: S3, Destination: !Sub "arn:${AWS::Partition}:s3:::${Stage}-given-up"}}
        Tick: {Type: Schedule, Properties: {Schedule: rate(1 day)}}
  Audit:
    Type: AWS::Serverless::Function
    Condition: Elsewhere
    Properties:
      Environment: {Variables: {PARKED_TABLE: !Ref AWS::NoValue}}
      Events: {Stream: {Type: DynamoDB, Properties: {Stream: !GetAtt Events.StreamArn, StartingPosition: LATEST}}}
  Events:
    Type: AWS::DynamoDB::Table
    Properties:
      StreamSpecification: {StreamViewType: NEW_AND_OLD_IMAGES}
      KeySchema: [{AttributeName: PK, KeyType: HASH}, {AttributeName: SK, KeyType: RANGE}]
      GlobalSecondaryIndexes:
        - IndexName: GSI1
          KeySchema: [{AttributeName: GSI1PK, KeyType: HASH}, {AttributeName: GSI1SK, KeyType: RANGE}]
          Projection: {ProjectionType: ALL}
      DeletionProtectionEnabled: !If [InProduction, true, false]
      PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: "true"}
  Parked:
    Type: AWS::DynamoDB::Table
    Properties:
      KeySchema: [{AttributeName: aggregateId, KeyType: HASH}, {AttributeName: projection, KeyType: RANGE}]
      DeletionProtectionEnabled: true
      PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}
  Accounts:
    Type: AWS::DynamoDB::Table
    Properties:
      TableName: !Sub "${Stage}-accounts"
      KeySchema: [{AttributeName: accountId, KeyType: HASH}]
"#;

fn names(examination: &Examination) -> Vec<&'static str> {
    examination.findings.iter().map(|finding| finding.check.name).collect()
}

#[test]
fn templates_are_read_as_cloudformation_reads_them() {
    let production = examined(SAM, &[("Stage", "prod")]);
    assert_eq!(names(&production), [""; 0]);
    assert_eq!(production.unseen["FORUM_COUNTERS_TABLE"], "the table is not in this template");
    assert!(production.unseen.keys().eq(["FORUM_COUNTERS_TABLE", "alarms"]), "{:?}", production.unseen);

    let elsewhere = examined(SAM, &[("Stage", "test")]);
    assert_eq!(names(&elsewhere), ["deletion-protection", "retries", "batch-window"], "and Audit, which parks nothing, is not the worker");
    assert!(elsewhere.findings.iter().all(|finding| !finding.subject.starts_with("Audit")));

    // Without the stage little is known, and what is not known is said, and not found.
    let somewhere = examined(SAM, &[]);
    assert_eq!(names(&somewhere), [""; 0]);
    for (subject, why) in [
        ("ProjectorStream.MaximumRecordAgeInSeconds", "Fn::FindInMap cannot be resolved from the template alone"),
        ("ProjectorStream.MaximumRetryAttempts", "Fn::If cannot be resolved from the template alone"),
        ("Projector.Environment.ACCOUNT_SUMMARY_TABLE", "Fn::Sub cannot be resolved from the template alone"),
    ] {
        assert_eq!(somewhere.unseen.get(subject).map(String::as_str), Some(why), "{:?}", somewhere.unseen);
    }

    // As the AWS CDK writes tables: each replica is protected, or none is.
    let replica = |protected: bool| json!({ "DeletionProtectionEnabled": protected, "PointInTimeRecoverySpecification": { "PointInTimeRecoveryEnabled": true } });
    for (protected, expected) in [(true, &["replicas"][..]), (false, &["deletion-protection", "replicas"])] {
        let parked = json!({
            "KeySchema": [{ "AttributeName": "aggregateId", "KeyType": "HASH" }, { "AttributeName": "projection", "KeyType": "RANGE" }],
            "Replicas": [replica(true), replica(protected)],
        });
        let start = SAM.find("  Parked:\n").expect("the table");
        let end = SAM.find("  Accounts:\n").expect("the next");
        let global = format!("{}  Parked: {{Type: AWS::DynamoDB::GlobalTable, Properties: {parked}}}\n{}", &SAM[..start], &SAM[end..]);
        assert_eq!(names(&examined(&global, &[("Stage", "prod")])), expected);
    }

    let json = serde_json::to_string_pretty(&json!({ "Resources": {
        "Worker": { "Type": "AWS::Lambda::Function", "Properties": { "FunctionName": "worker" } },
        "Mapping": { "Type": "AWS::Lambda::EventSourceMapping", "Properties": {
            "FunctionName": "arn:aws:lambda:eu-central-1:123456789012:function:worker",
            "EventSourceArn": { "Fn::ImportValue": "stream" }, "StartingPosition": "LATEST", "FilterCriteria": { "Filters": [{ "Pattern": "{" }] },
        } },
        "Queue": { "Type": "AWS::Lambda::EventSourceMapping", "Properties": {
            "FunctionName": "worker", "EventSourceArn": "arn:aws:sqs:eu-central-1:123456789012:queue",
        } },
    } })).expect("JSON");
    let bare = examined(&json, &[]);
    let expected = [
        "mapping",
        "response-type",
        "on-failure",
        "starting-position",
        "filter-pattern",
        "record-age",
        "environment",
        "environment",
        "environment",
        "environment",
        "timeout",
        "bisect",
        "batch-window",
    ];
    assert_eq!(names(&bare), expected);
    let unseen = ["ACCOUNT_SUMMARY_TABLE", "EVENT_STORE_TABLE", "FORUM_COUNTERS_TABLE", "PARKED_TABLE", "alarms"];
    assert!(bare.unseen.keys().eq(unseen), "{:?}", bare.unseen);
}

#[test]
fn what_cannot_be_examined_is_refused_in_words() {
    let refused = |text: &str, parameters: &[(String, String)], function: Option<&str>| {
        template::read(text, parameters, function, registry()).expect_err("it is refused").to_string()
    };
    assert_eq!(
        refused("a: [", &[], None),
        "is neither YAML nor JSON: while parsing a node, did not find expected node content at line 2 column 1"
    );
    assert_eq!(refused("a: 1", &[], None), "is not a CloudFormation template: it has no Resources");
    assert_eq!(refused("", &[], None), "is not a CloudFormation template: it has no Resources");
    assert_eq!(refused("Resources: {}", &[], None), "has no function that a DynamoDB stream invokes: name the worker with --function");
    assert_eq!(refused(SAM, &[("Stag".to_owned(), "prod".to_owned())], None), "has no parameter `Stag`");
    assert_eq!(refused(SAM, &[], Some("Worker")), "has no function `Worker`");
    let two = SAM.replace("PARKED_TABLE: !Ref AWS::NoValue", "PARKED_TABLE: !Ref Parked");
    let stage = [("Stage".to_owned(), "test".to_owned())];
    assert_eq!(refused(&two, &stage, None), "has several functions that may be the worker: name one with --function (Audit, Projector)");
    let neither = SAM.replace("PARKED_TABLE: !Ref Parked", "STAGE: test");
    assert_eq!(
        refused(&neither, &stage, None),
        "has several functions that may be the worker: name one with --function (Audit, Projector)"
    );
    let named = template::read(&two, &stage, Some("Audit"), registry()).expect("it is named");
    assert_eq!(named.mappings.iter().map(|mapping| mapping.name.as_str()).collect::<Vec<_>>(), ["AuditStream"]);
    // A worker that nothing invokes, and circles.
    let unwired =
        with(&own(), "EventSourceArn: !GetAtt EventStoreTable.StreamArn", "EventSourceArn: arn:aws:sqs:eu-central-1:123456789012:queue");
    assert_eq!(
        refused(&unwired, &[], None),
        "has several functions that may be the worker: name one with --function (OperationsFunction, WorkerFunction)"
    );
    let unwired = template::read(&unwired, &[], Some("WorkerFunction"), registry()).expect("it is named");
    assert_eq!(
        named_in(&examine(&unwired, registry())),
        [
            "mapping: event source mappings of WorkerFunction: no DynamoDB stream invokes it",
            "mapping: WorkerStream of WorkerFunction: sqs is not a DynamoDB stream"
        ]
    );
    let circle = SAM.replace("InProduction: !Equals [!Ref Stage, prod]", "InProduction: !Not [!Condition Elsewhere]");
    assert!(examined(&circle, &[("Stage", "prod")]).unseen.contains_key("ProjectorStream.MaximumRetryAttempts"));
}

/// What AWS says of a deployment: its answers, in the shapes of the API reference, to whoever asks in the shapes of the SDK.
#[derive(Clone)]
struct Account {
    function: Json,
    mappings: Vec<Json>,
    /// The answer to `GetFunctionConcurrency`.
    reserved: Json,
    /// What is answered for a table in place of what the database answers, by operation.
    tables: BTreeMap<&'static str, Json>,
}

/// <https://docs.aws.amazon.com/lambda/latest/api/API_ListEventSourceMappings.html> and
/// <https://docs.aws.amazon.com/lambda/latest/api/API_GetFunctionConfiguration.html>, of a deployment as it should be.
async fn account(world: &World) -> Account {
    let stream = world.worker.store().event_store_stream().await.expect("a table").expect("a stream");
    let function = json!({
        "FunctionName": "dev-projection-worker", "FunctionArn": "arn:aws:lambda:us-east-1:123456789012:function:dev-projection-worker",
        "Runtime": "provided.al2023", "Timeout": 60, "MemorySize": 512, "State": "Active", "LastUpdateStatus": "Successful",
        "Environment": { "Variables": {
            "EVENT_STORE_TABLE": "event-store", "PARKED_TABLE": "parked", "ACCOUNT_SUMMARY_TABLE": "account-summary",
            "ACCOUNT_STATEMENT_TABLE": "account-statement", "FORUM_COUNTERS_TABLE": "forum-counters", "TOPIC_POSTS_TABLE": "topic-posts",
            "USERS_AND_ORDERS_TABLE": "users-and-orders", "TRANSFERS_TABLE": "transfers",
            "ORDER_FULFILMENT_TABLE": "order-fulfilment", "PROCESS_STATUS_TABLE": "process-status", "STAGE": "dev",
        } },
        "LoggingConfig": { "LogFormat": "JSON", "ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO", "LogGroup": "/aws/lambda/worker" },
    });
    let mapping = json!({
        "UUID": "14e0db71-5d35-4eb5-b481-8945cf9d10c2", "StartingPosition": "TRIM_HORIZON", "BatchSize": 1000,
        "MaximumBatchingWindowInSeconds": 1, "ParallelizationFactor": 1, "EventSourceArn": stream, "FunctionArn": function["FunctionArn"],
        "LastModified": 1_764_000_000.0, "LastProcessingResult": "OK", "State": "Enabled", "StateTransitionReason": "User action",
        "DestinationConfig": { "OnFailure": { "Destination": "arn:aws:s3:::given-up" } }, "MaximumRecordAgeInSeconds": 43200,
        "BisectBatchOnFunctionError": true, "MaximumRetryAttempts": 1000, "TumblingWindowInSeconds": 0,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "FilterCriteria": { "Filters": [{ "Pattern": r#"{"eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"# }] },
    });
    let recovery = json!({ "ContinuousBackupsDescription": {
        "ContinuousBackupsStatus": "ENABLED", "PointInTimeRecoveryDescription": { "PointInTimeRecoveryStatus": "ENABLED" },
    } });
    // The embedded DynamoDB knows of no protection.
    let table = json!({ "DeletionProtectionEnabled": true });
    Account {
        function,
        mappings: vec![mapping],
        reserved: json!({}),
        tables: [("DescribeContinuousBackups", recovery), ("DescribeTable", table)].into(),
    }
}

/// Serves them, and returns the address.
async fn serve(world: &World, account: Account) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let api = Router::new()
        .route("/2015-03-31/functions/{name}/configuration", get(configuration))
        .route("/2019-09-30/functions/{name}/concurrency", get(concurrency))
        .route("/2015-03-31/event-source-mappings", get(mappings))
        .route("/", post(tables))
        .with_state(Arc::new((account, world.embedded.database().clone())));
    tokio::spawn(async move { axum::serve(listener, api).await });
    url
}

type Served = State<Arc<(Account, dynoxide::Database)>>;

async fn configuration(State(served): Served, Path(name): Path<String>) -> Response {
    if served.0.function["FunctionName"] == name {
        return Body(served.0.function.clone()).into_response();
    }
    let error = json!({ "Type": "User", "Message": format!("Function not found: {name}") });
    (StatusCode::NOT_FOUND, [("x-amzn-errortype", "ResourceNotFoundException")], Body(error)).into_response()
}

async fn concurrency(State(served): Served, Path(name): Path<String>) -> Response {
    assert_eq!(served.0.function["FunctionName"], name);
    if served.0.reserved.is_null() {
        let error = json!({ "Type": "User", "Message": "only-aws-may-say-this" });
        return (StatusCode::FORBIDDEN, [("x-amzn-errortype", "AccessDeniedException")], Body(error)).into_response();
    }
    Body(served.0.reserved.clone()).into_response()
}

/// One a page. A mapping is listed for exactly the ARN that it invokes.
async fn mappings(State(served): Served, Query(asked): Query<BTreeMap<String, String>>) -> Response {
    let of = |name: &str, member: &str| {
        served.0.mappings.iter().filter(|of| asked.get(name).is_none_or(|arn| of[member] == **arn)).collect::<Vec<_>>()
    };
    let by_source = of("EventSourceArn", "EventSourceArn");
    let found: Vec<_> = of("FunctionName", "FunctionArn").into_iter().filter(|of| by_source.contains(of)).collect();
    let at = asked.get("Marker").map_or(0, |marker| marker.parse::<usize>().expect("a marker that was given"));
    let page: Vec<_> = found.iter().skip(at).take(1).collect();
    let next = (at + 1 < found.len()).then(|| (at + 1).to_string());
    Body(json!({ "EventSourceMappings": page, "NextMarker": next })).into_response()
}

async fn tables(State(served): Served, headers: HeaderMap, body: String) -> Response {
    let (account, database) = &*served;
    let operation = headers["x-amz-target"].to_str().expect("ASCII").rsplit('.').next().expect("a name").to_owned();
    let instead = account.tables.get(operation.as_str());
    if let Some(refusal) = instead.filter(|instead| instead.get("__type").is_some()) {
        return (StatusCode::BAD_REQUEST, Body(refusal.clone())).into_response();
    }
    let described = match operation.as_str() {
        "DescribeTable" => database.describe_table(serde_json::from_str(&body).expect("a request")).map(|table| json!(table)),
        "DescribeTimeToLive" => database.describe_time_to_live(serde_json::from_str(&body).expect("a request")).map(|of| json!(of)),
        "DescribeContinuousBackups" => Ok(json!({})),
        "Query" => database.query(serde_json::from_str(&body).expect("a request")).map(|page| json!(page)),
        other => panic!("nobody needs {other} of a table"),
    };
    match described {
        Ok(mut described) => {
            for (name, value) in instead.and_then(Json::as_object).into_iter().flatten() {
                let object = if operation == "DescribeTable" { &mut described["Table"] } else { &mut described };
                object[name] = value.clone();
            }
            Body(described).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_json()).into_response(),
    }
}

/// What is found in what is deployed, and what is not judged.
async fn found_at(world: &World, account: Account) -> (Vec<String>, Json) {
    let url = serve(world, account).await;
    let (code, lines, said) = projector(&["--endpoint-url", &url, "doctor", "--function", "dev-projection-worker", "--json"]).await;
    let lines: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (total, findings) = lines.split_last().unwrap_or_else(|| panic!("{said}"));
    assert_eq!(code, i32::from(!findings.is_empty()), "{said}");
    let text = |line: &Json, name: &str| line[name].as_str().expect("a text").to_owned();
    let named = findings.iter().map(|line| format!("{}: {} {}", text(line, "check"), text(line, "subject"), text(line, "found")));
    (named.collect(), total["total"]["notJudged"].clone())
}

#[tokio::test]
async fn what_is_deployed_is_judged_by_the_same_checks() {
    let world = World::new().await;
    let good = account(&world).await;
    let role = "its policies are not read: only those of a template are checked";
    let only_alarms = json!({ "alarms": "only those of a template are checked", "dev-projection-worker.Role": role });
    assert_eq!(found_at(&world, good.clone()).await, (vec![], only_alarms.clone()));

    let of = "14e0db71-5d35-4eb5-b481-8945cf9d10c2";
    let mut bad = good.clone();
    let mapping = &mut bad.mappings[0];
    let earlier = format!("{}-earlier", mapping["EventSourceArn"].as_str().expect("an ARN"));
    for (name, value) in [
        ("FunctionResponseTypes", json!([])),
        ("StartingPosition", json!("LATEST")),
        ("DestinationConfig", json!({ "OnFailure": {} })),
        ("MaximumRecordAgeInSeconds", json!(-1)),
        ("LastProcessingResult", json!("PROBLEM: Function call failed")),
        ("State", json!("Disabled")),
        ("EventSourceArn", json!(earlier)),
        ("FilterCriteria", Json::Null),
    ] {
        mapping[name] = value;
    }
    bad.function["Timeout"] = json!(3);
    bad.function["Environment"]["Variables"]["PARKED_TABLE"] = json!("nowhere");
    let (found, unseen) = found_at(&world, bad).await;
    let own = good.mappings[0]["EventSourceArn"].as_str().expect("an ARN");
    let expected = [
        format!("state: {of}.Enabled is Disabled"),
        format!("last-result: {of}.LastProcessingResult is PROBLEM: Function call failed"),
        format!("response-type: {of}.FunctionResponseTypes does not have ReportBatchItemFailures"),
        format!("on-failure: {of}.DestinationConfig.OnFailure is not set"),
        format!("starting-position: {of}.StartingPosition is LATEST"),
        format!("record-age: {of}.MaximumRecordAgeInSeconds is -1"),
        "timeout: dev-projection-worker.Timeout is 3 s; 15 s are needed".to_owned(),
        format!("wiring: {of}.EventSourceArn is {own}-earlier, not the stream of event-store"),
        "table: PARKED_TABLE names a table that does not exist".to_owned(),
        format!("filter-wide: {of}.FilterCriteria passes INSERT records of an aggregate's VERSION item"),
    ];
    assert_eq!((found, unseen), (expected.to_vec(), only_alarms));

    // Two read the same shards.
    let mut twice = good.clone();
    twice.mappings.push(twice.mappings[0].clone());
    twice.mappings[1]["UUID"] = json!("24e0db71-5d35-4eb5-b481-8945cf9d10c2");
    let there_are_2 = ["mapping: event source mappings of dev-projection-worker: there are 2"];
    assert_eq!(found_at(&world, twice.clone()).await.0, there_are_2);

    // An alias is the function. Lambda lists its mappings for the stream only.
    let alias = json!(format!("{}:live", good.function["FunctionArn"].as_str().expect("an ARN")));
    twice.mappings[1]["FunctionArn"] = alias.clone();
    assert_eq!(found_at(&world, twice).await.0, there_are_2);
    let mut aliased = good.clone();
    aliased.mappings[0]["FunctionArn"] = alias;
    assert_eq!(found_at(&world, aliased.clone()).await.0, [""; 0]);
    aliased.mappings[0]["StartingPosition"] = json!("LATEST");
    assert_eq!(found_at(&world, aliased).await.0, [format!("starting-position: {of}.StartingPosition is LATEST")]);

    // A queue on the worker, nothing to run it with, and replicas.
    let mut more = good.clone();
    more.mappings.push(json!({
        "UUID": "0c0ffee0-0000-0000-0000-000000000000", "EventSourceArn": "arn:aws:sqs:us-east-1:123456789012:queue", "State": "Enabled",
        "FunctionArn": good.function["FunctionArn"], "BatchSize": 10, "LastModified": 1_764_000_000.0,
    }));
    more.reserved = json!({ "ReservedConcurrentExecutions": 0 });
    more.tables.get_mut("DescribeTable").expect("the table")["Replicas"] =
        json!([{ "RegionName": "eu-west-1", "ReplicaStatus": "ACTIVE" }]);
    let replicas = |table: &str| format!("replicas: {table}.Replicas has 2 regions, its own, eu-west-1, with eventual consistency");
    let expected = [
        "mapping: 0c0ffee0-0000-0000-0000-000000000000 of dev-projection-worker: sqs is not a DynamoDB stream".to_owned(),
        "concurrency: dev-projection-worker.ReservedConcurrentExecutions is 0".to_owned(),
        replicas("event-store"),
        replicas("parked"),
        replicas("account-summary"),
        replicas("account-statement"),
        replicas("forum-counters"),
        replicas("topic-posts"),
        replicas("users-and-orders"),
        replicas("transfers"),
        replicas("order-fulfilment"),
        replicas("process-status"),
    ];
    assert_eq!(found_at(&world, more).await.0, expected);

    // Without the variables the stream shows the event store.
    let mut bare = good.clone();
    bare.function["Environment"] = json!({ "Variables": {} });
    bare.tables.get_mut("DescribeTable").expect("the table")["DeletionProtectionEnabled"] = json!(false);
    let (found, unseen) = found_at(&world, bare).await;
    assert_eq!(found.last().map(String::as_str), Some("deletion-protection: event-store.DeletionProtectionEnabled is false"));
    assert_eq!(unseen["PARKED_TABLE"], "the variable is not set, so its table is not checked");

    // What must not be asked is not judged, and said.
    let mut closed = good;
    let refusal = json!({ "__type": "com.amazon.coral.service#AccessDeniedException", "Message": "only-aws-may-say-this" });
    closed.tables.insert("DescribeContinuousBackups", refusal.clone());
    closed.tables.insert("DescribeTimeToLive", refusal);
    closed.reserved = Json::Null;
    closed.function["Environment"] = json!({ "Error": { "ErrorCode": "AccessDeniedException", "Message": "KMS" } });
    let (found, unseen) = found_at(&world, closed.clone()).await;
    let why = "Lambda does not show them (AccessDeniedException)";
    assert_eq!((found, &unseen["PARKED_TABLE"]), (vec![], &json!(why)), "{unseen}");
    closed.function["Environment"] = account(&world).await.function["Environment"].clone();
    let (found, unseen) = found_at(&world, closed).await;
    assert_eq!(found, [""; 0]);
    assert_eq!(unseen["parked.PointInTimeRecoverySpecification"], "DescribeContinuousBackups failed (AccessDeniedException)");
    assert_eq!(unseen["forum-counters.TimeToLiveSpecification"], "DescribeTimeToLive failed (AccessDeniedException)");
    assert_eq!(unseen["dev-projection-worker.ReservedConcurrentExecutions"], "GetFunctionConcurrency failed (AccessDeniedException)");
    assert!(!unseen.to_string().contains("only-aws-may-say-this"));
}

#[tokio::test]
async fn a_function_that_is_not_there_is_unusable() {
    let world = World::new().await;
    let url = serve(&world, account(&world).await).await;
    let (code, out, said) = projector(&["--endpoint-url", &url, "doctor", "--function", "other"]).await;
    let error = said.lines().last().expect("an error");
    assert_eq!((code, out.as_str(), error), (2, "", "error: GetFunctionConfiguration of `other` failed (ResourceNotFoundException)"));
    for (arguments, expected) in [
        (&["doctor"][..], "<TEMPLATE>"),
        (&["doctor", "--function", "worker"], "name the function's location"),
        (&["--aws", "doctor", "x.yaml"], "omit --aws"),
        (&["doctor", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (&["doctor", &own_path(), "--parameter", "Stage"], "write NAME=VALUE"),
    ] {
        let (code, _, said) = projector(arguments).await;
        assert!(code == 2 && said.contains(expected), "{code} {said}");
    }
}
