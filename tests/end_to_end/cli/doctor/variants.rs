//! Variants of a good template, by small edits: exactly which findings come, and that good variants have none.

use serde_json::json;

use super::{examined, found};
use crate::support::template::with;

/// A worker as a team writes it down: everything in one template, with an alarm for each failure.
const GOOD: &str = include_str!("good.yaml");

const NO_FINDINGS: &[&str] = &[];
/// In front of the mapping, for resources to be added.
const BEFORE_STREAM: &str = "  Stream:
    Type: AWS::Lambda::EventSourceMapping
";
const PATTERN: &str = r#"{"eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#;
const STREAM_ARN: &str = "!GetAtt Events.StreamArn";
const FUNCTION: &str = "FunctionName: !GetAtt Worker.Arn";

type Edit = (&'static str, &'static str);

/// A version and an alias of the worker, and what the mapping invokes.
fn qualified(name: &str) -> String {
    // First, because the alias names the worker in the same words.
    let text = with(GOOD, FUNCTION, &format!("FunctionName: {name}"));
    with(
        &text,
        BEFORE_STREAM,
        &format!(
            "  WorkerVersion: {{Type: AWS::Lambda::Version, Properties: {{FunctionName: !Ref Worker}}}}
  ByName: {{Type: AWS::Lambda::Version, Properties: {{FunctionName: worker}}}}
  WorkerLive:
    Type: AWS::Lambda::Alias
    Properties: {{Name: live, FunctionName: !GetAtt Worker.Arn, FunctionVersion: !GetAtt WorkerVersion.Version}}
{BEFORE_STREAM}"
        ),
    )
}

#[test]
fn a_function_is_known_by_each_of_its_names() {
    let judged = examined(GOOD, &[]).judged;
    assert_eq!(found(GOOD), NO_FINDINGS);
    assert!(examined(GOOD, &[]).unseen.is_empty(), "{:?}", examined(GOOD, &[]).unseen);
    for name in [
        "!Ref Worker",
        "worker",
        "worker:live",
        "worker:7",
        "worker:$LATEST",
        "function:worker",
        "111122223333:function:worker",
        "111122223333:function:worker:live",
        "arn:aws:lambda:eu-west-1:111122223333:function:worker",
        "arn:aws-cn:lambda:cn-north-1:111122223333:function:worker:live",
        "!Ref WorkerLive",
        "!Ref WorkerVersion",
        "!Ref ByName",
        "!GetAtt WorkerLive.AliasArn",
        "{Ref: WorkerLive}",
        "{'Fn::GetAtt': [Worker, Arn]}",
        "{'Fn::GetAtt': Worker.Arn}",
        "!GetAtt [Worker, Arn]",
        "!Sub '${Worker}'",
        "!Sub '${Worker}:live'",
        "!Sub '${Worker.Arn}:live'",
        "!Sub '${WorkerLive}'",
        "!Sub '${AWS::AccountId}:function:${Worker}'",
        "!Sub 'arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${Worker}'",
        "!Sub 'arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:worker:live'",
        "!Sub ['${of}:${alias}', {of: !Ref Worker, alias: live}]",
        "!Join [':', [!GetAtt Worker.Arn, live]]",
        "!Join ['', ['arn:aws:lambda:', !Ref AWS::Region, ':', !Ref AWS::AccountId, ':function:', !Ref Worker, ':live']]",
    ] {
        let examination = examined(&qualified(name), &[]);
        assert_eq!((found(&qualified(name)), examination.judged), (vec![], judged), "{name}");
    }
    for name in
        ["Worker", "worker", "WorkerLive", "WorkerVersion", "worker:live", "arn:aws:lambda:eu-west-1:111122223333:function:worker:7"]
    {
        assert_eq!(super::refused(&qualified("!Ref WorkerLive"), Some(name)), None, "{name}");
    }
    assert!(super::refused(&qualified("!Ref WorkerLive"), Some("live")).is_some());
    // Another function, and an alias of another.
    for name in ["other", "worker2", "arn:aws:lambda:eu-west-1:111122223333:function:other:worker", "worker-live"] {
        assert_eq!(found(&qualified(name)), ["mapping: event source mappings of Worker: no DynamoDB stream invokes it"], "{name}");
    }
    // A name that only a deployment knows may be the worker's.
    let parameter = with(&qualified("dev-worker:live"), "Resources:\n", "Parameters: {Stage: {Type: String}}\nResources:\n");
    let unknown = with(&parameter, "FunctionName: worker\n      Runtime", "FunctionName: !Sub '${Stage}-worker'\n      Runtime");
    let unknown = with(&unknown, "Value: worker}", "Value: !Ref Worker}");
    assert_eq!(found(&unknown), NO_FINDINGS);
    // Made up by CloudFormation.
    let unnamed = with(&qualified("stack-Worker-1A2B3C:live"), "      FunctionName: worker\n", "");
    let unnamed = with(&unnamed, "Value: worker}", "Value: !Ref Worker}");
    assert_eq!(found(&unnamed), NO_FINDINGS);
}

/// What is edited, and exactly what is found.
const VARIANTS: &[(&[Edit], &[&str])] = &[
    // What else invokes the worker.
    (
        &[(
            BEFORE_STREAM,
            "  Queue: {Type: AWS::Lambda::EventSourceMapping, Properties: {FunctionName: !Ref Worker, EventSourceArn: 'arn:aws:sqs:eu-west-1:111122223333:queue'}}\n  Stream:\n    Type: AWS::Lambda::EventSourceMapping\n",
        )],
        &["mapping: Queue of Worker: sqs is not a DynamoDB stream"],
    ),
    (
        &[(
            BEFORE_STREAM,
            "  Orders: {Type: AWS::Kinesis::Stream}\n  Second: {Type: AWS::Lambda::EventSourceMapping, Properties: {FunctionName: 'worker:live', EventSourceArn: !GetAtt Orders.Arn, StartingPosition: LATEST}}\n  Stream:\n    Type: AWS::Lambda::EventSourceMapping\n",
        )],
        &["mapping: Second of Worker: kinesis is not a DynamoDB stream"],
    ),
    (
        &[(
            BEFORE_STREAM,
            "  Kafka: {Type: AWS::Lambda::EventSourceMapping, Properties: {FunctionName: worker, SelfManagedEventSource: {Endpoints: {KafkaBootstrapServers: ['b:9092']}}, StartingPosition: LATEST, Topics: [t]}}\n  Stream:\n    Type: AWS::Lambda::EventSourceMapping\n",
        )],
        &["mapping: Kafka of Worker: its source is not a DynamoDB stream"],
    ),
    (
        &[(
            BEFORE_STREAM,
            "  Foreign: {Type: AWS::Lambda::EventSourceMapping, Properties: {FunctionName: other, EventSourceArn: 'arn:aws:sqs:eu-west-1:111122223333:queue'}}\n  Stream:\n    Type: AWS::Lambda::EventSourceMapping\n",
        )],
        NO_FINDINGS,
    ),
    (
        &[(
            BEFORE_STREAM,
            "  Open: {Type: AWS::Lambda::Permission, Properties: {FunctionName: !Ref Worker, Action: 'lambda:InvokeFunction', Principal: sns.amazonaws.com}}\n  Stream:\n    Type: AWS::Lambda::EventSourceMapping\n",
        )],
        &["mapping: Open of Worker: sns is not a DynamoDB stream"],
    ),
    (
        &[(
            BEFORE_STREAM,
            "  Address: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: !GetAtt Worker.Arn, AuthType: AWS_IAM}}\n  Stream:\n    Type: AWS::Lambda::EventSourceMapping\n",
        )],
        &["mapping: Address of Worker: a URL is not a DynamoDB stream"],
    ),
    // A schedule may send a task.
    (
        &[(
            BEFORE_STREAM,
            "  Daily: {Type: AWS::Lambda::Permission, Properties: {FunctionName: !Ref Worker, Action: 'lambda:InvokeFunction', Principal: events.amazonaws.com}}\n  Stream:\n    Type: AWS::Lambda::EventSourceMapping\n",
        )],
        NO_FINDINGS,
    ),
    // The stream, written out.
    (
        &[(STREAM_ARN, "arn:aws:dynamodb:eu-west-1:111122223333:table/events/stream/2026-03-01T00:00:00.000")],
        &["wiring-fixed: Stream.EventSourceArn names a stream of Events by its time"],
    ),
    (
        &[(
            STREAM_ARN,
            "!Sub 'arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${Events}/stream/2026-03-01T00:00:00.000'",
        )],
        &["wiring-fixed: Stream.EventSourceArn names a stream of Events by its time"],
    ),
    (
        &[(STREAM_ARN, "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-03-01T00:00:00.000")],
        &[
            "wiring: Stream.EventSourceArn is arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-03-01T00:00:00.000, not the stream of Events",
        ],
    ),
    (
        &[
            ("      TableName: events\n", ""),
            (STREAM_ARN, "arn:aws:dynamodb:eu-west-1:111122223333:table/stack-Events-1A2B/stream/2026-03-01T00:00:00.000"),
        ],
        &["wiring-fixed: Stream.EventSourceArn names a stream of Events by its time"],
    ),
    (
        &[
            ("      TableName: events\n", ""),
            (STREAM_ARN, "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-03-01T00:00:00.000"),
        ],
        &[
            "wiring: Stream.EventSourceArn is arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-03-01T00:00:00.000, not the stream of Events",
        ],
    ),
    (&[(STREAM_ARN, "{'Fn::GetAtt': Events.StreamArn}")], NO_FINDINGS),
    (&[(STREAM_ARN, "{'Fn::GetAtt': [Events, StreamArn]}")], NO_FINDINGS),
    (&[(STREAM_ARN, "!Sub '${Events.StreamArn}'")], NO_FINDINGS),
    (&[(STREAM_ARN, "!ImportValue stream")], NO_FINDINGS),
    // An output of a nested stack.
    (
        &[
            (STREAM_ARN, "!GetAtt Tables.Outputs.EventStream"),
            ("  Failed: ", "  Tables: {Type: AWS::CloudFormation::Stack, Properties: {TemplateURL: u}}\n  Failed: "),
        ],
        NO_FINDINGS,
    ),
    // Tables known by the stream alone.
    (
        &[
            ("          EVENT_STORE_TABLE: !Ref Events\n", ""),
            ("StreamViewType: NEW_IMAGE", "StreamViewType: OLD_IMAGE"),
            ("AttributeName: SK, KeyType: RANGE", "AttributeName: at, KeyType: RANGE"),
        ],
        &[
            "environment: Worker.Environment.EVENT_STORE_TABLE is not set",
            "keys: Events.KeySchema is PK and at, but should be PK and SK",
            "stream-view: Events.StreamSpecification is OLD_IMAGE",
        ],
    ),
    (
        &[
            (
                "      Environment:\n        Variables:\n          EVENT_STORE_TABLE: !Ref Events\n          PARKED_TABLE: !Ref Parked\n          ACCOUNT_SUMMARY_TABLE: !Ref Accounts\n          FORUM_COUNTERS_TABLE: !Ref Forum\n",
                "",
            ),
            ("IndexName: GSI1", "IndexName: GSI2"),
        ],
        &[
            "environment: Worker.Environment.EVENT_STORE_TABLE is not set",
            "environment: Worker.Environment.PARKED_TABLE is not set",
            "environment: Worker.Environment.ACCOUNT_SUMMARY_TABLE is not set",
            "environment: Worker.Environment.FORUM_COUNTERS_TABLE is not set",
            "index: Events.GlobalSecondaryIndexes.GSI1 does not exist",
        ],
    ),
    (&[("EVENT_STORE_TABLE: !Ref Events", "EVENT_STORE_TABLE: !GetAtt Events.Arn")], NO_FINDINGS),
    (&[("EVENT_STORE_TABLE: !Ref Events", "EVENT_STORE_TABLE: arn:aws:dynamodb:eu-west-1:111122223333:table/events")], NO_FINDINGS),
    // Concurrency.
    (
        &[("      Timeout: 60\n", "      Timeout: 60\n      ReservedConcurrentExecutions: 0\n")],
        &["concurrency: Worker.ReservedConcurrentExecutions is 0"],
    ),
    (
        &[("      Timeout: 60\n", "      Timeout: 60\n      ReservedConcurrentExecutions: '0'\n")],
        &["concurrency: Worker.ReservedConcurrentExecutions is 0"],
    ),
    (&[("      Timeout: 60\n", "      Timeout: 60\n      ReservedConcurrentExecutions: 4\n")], NO_FINDINGS),
    // Replicas.
    (
        &[(
            "  Events:\n    Type: AWS::DynamoDB::Table\n    Properties:\n",
            "  Events:\n    Type: AWS::DynamoDB::GlobalTable\n    Properties:\n      Replicas: [{Region: eu-west-1, DeletionProtectionEnabled: true, PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}}, {Region: us-east-1, DeletionProtectionEnabled: true, PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}}]\n",
        )],
        &["replicas: Events.Replicas has 2 regions, eu-west-1, us-east-1, with eventual consistency"],
    ),
    (
        &[(
            "  Forum:\n    Type: AWS::DynamoDB::Table\n    Properties:\n",
            "  Forum:\n    Type: AWS::DynamoDB::GlobalTable\n    Properties:\n      MultiRegionConsistency: STRONG\n      Replicas: [{Region: a}, {Region: b}, {Region: !Ref AWS::Region}]\n",
        )],
        &["replicas: Forum.Replicas has 3 regions, a, b, ${AWS::Region}, with strong consistency"],
    ),
    (
        &[(
            "  Accounts:\n    Type: AWS::DynamoDB::Table\n    Properties:\n",
            "  Accounts:\n    Type: AWS::DynamoDB::GlobalTable\n    Properties:\n      Replicas: [{Region: eu-west-1}]\n",
        )],
        NO_FINDINGS,
    ),
    (
        &[(
            "  Failed: ",
            "  Copy: {Type: 'Custom::DynamoDBReplica', Properties: {ServiceToken: t, TableName: !Ref Parked, Region: us-east-1}}\n  Failed: ",
        )],
        &["replicas: Parked.Replicas has 2 regions, its own, us-east-1, with eventual consistency"],
    ),
    // Filters.
    (
        &[(
            PATTERN,
            r#"{"$or":[{"eventName":["INSERT"]},{"eventName":["MODIFY"]}],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#,
        )],
        &["filter-wide: Stream.FilterCriteria passes MODIFY records of an event"],
    ),
    (
        &[(
            PATTERN,
            r#"{"$or":[{"eventName":["MODIFY"]},{"eventName":["REMOVE"]}],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#,
        )],
        &[
            "filter: Stream.FilterCriteria withholds events, for example one of version 1 and type `Opened`",
            "filter-wide: Stream.FilterCriteria passes MODIFY records of an event",
        ],
    ),
    (
        &[(PATTERN, r#"{"eventName":"INSERT","dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#)],
        &["filter-pattern: Stream.FilterCriteria has a pattern that Lambda refuses, number 1: the value of `eventName` is not a list"],
    ),
    (
        &[(PATTERN, r#"{"eventName":["INSERT"],"dynamodb":{"StreamViewType":["NEW_IMAGE"],"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#)],
        NO_FINDINGS,
    ),
    (
        &[(
            PATTERN,
            r#"{"eventName":["INSERT"],"dynamodb":{"StreamViewType":["NEW_AND_OLD_IMAGES"],"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#,
        )],
        &["filter: Stream.FilterCriteria withholds events, for example one of version 1 and type `Opened`"],
    ),
    // Alternatives, all of them good.
    (
        &[(PATTERN, r#"{"$or":[{"eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}},{"eventName":["NONE"]}]}"#)],
        NO_FINDINGS,
    ),
    (
        &[(
            PATTERN,
            r#"{"eventName":["INSERT"],"userIdentity":{"type":[{"exists":false}]},"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#,
        )],
        NO_FINDINGS,
    ),
    (
        &[(PATTERN, r#"{"$or":[{"eventName":["MODIFY"]},{"eventName":["REMOVE"]}]}"#)],
        &[
            "filter: Stream.FilterCriteria withholds events, for example one of version 1 and type `Opened`",
            "filter-wide: Stream.FilterCriteria passes MODIFY records of an aggregate's VERSION item",
        ],
    ),
    (&[(PATTERN, "{")], &["filter-pattern: Stream.FilterCriteria has a pattern that Lambda refuses, number 1: it is not JSON"]),
    // A stream that is written out tells its region.
    (
        &[
            (STREAM_ARN, "arn:aws:dynamodb:eu-west-1:111122223333:table/events/stream/2026-03-01T00:00:00.000"),
            (PATTERN, r#"{"awsRegion":["us-east-1"],"eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#),
        ],
        &[
            "filter: Stream.FilterCriteria withholds events, for example one of version 1 and type `Opened`",
            "wiring-fixed: Stream.EventSourceArn names a stream of Events by its time",
        ],
    ),
    // A region that only a deployment knows: unknown, and no finding.
    (
        &[(PATTERN, r#"{"awsRegion":["eu-west-1"],"eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#)],
        NO_FINDINGS,
    ),
    // Alarms that cannot fire.
    (
        &[("      MetricName: IteratorAge\n", "      ActionsEnabled: false\n      MetricName: IteratorAge\n")],
        &["alarm: Late.ActionsEnabled is false"],
    ),
    (&[("Threshold: 300000", "Threshold: 86400000")], &["alarm: Late.Threshold is 86400000 ms; the stream keeps records for 24 hours"]),
    (&[("Statistic: Maximum", "Statistic: SampleCount")], &["alarm: Late.Threshold compares a time with a number of samples"]),
    (
        &[(
            "ComparisonOperator: GreaterThanThreshold\n      Threshold: 300000",
            "ComparisonOperator: LessThanThreshold\n      Threshold: 0",
        )],
        &["alarm: Late.Threshold never compares: LessThanThreshold 0"],
    ),
    (&[("DatapointsToAlarm: 3", "DatapointsToAlarm: 6")], &["alarm: Late.EvaluationPeriods is 5, and DatapointsToAlarm is 6"]),
    (
        &[(
            "Period: 60\n      EvaluationPeriods: 5\n      DatapointsToAlarm: 3",
            "Period: 10\n      EvaluationPeriods: 5\n      DatapointsToAlarm: 3",
        )],
        &["alarm: Late.EvaluationPeriods needs 3 periods of 10 s; AWS/Lambda has data once a minute"],
    ),
    (
        &[(
            "Period: 60\n      EvaluationPeriods: 5\n      DatapointsToAlarm: 3",
            "Period: 86400\n      EvaluationPeriods: 5\n      DatapointsToAlarm: 3",
        )],
        &["alarm: Late.EvaluationPeriods needs 3 periods of 86400 s; the stream keeps records for 24 hours"],
    ),
    (
        &[("MetricName: IteratorAge", "MetricName: IteratorAges")],
        &["alarm: Late.Dimensions watch AWS/Lambda IteratorAges by FunctionName, which nobody publishes"],
    ),
    (
        &[("Name: FunctionName, Value: !Ref Worker", "Name: Function, Value: !Ref Worker")],
        &["alarm: Late.Dimensions give Function as ${Worker}, which is the value of FunctionName"],
    ),
    (
        &[("Name: FunctionName, Value: !Ref Worker", "Name: FunctionName, Value: !GetAtt Worker.Arn")],
        &["alarm: Late.Dimensions give FunctionName as ${Worker.Arn}, which is an ARN and not the name"],
    ),
    (
        &[("Name: FunctionName, Value: !Ref Worker", "Name: FunctionName, Value: !Ref Stream")],
        &["alarm: Late.Dimensions give FunctionName as ${Stream}, which is the value of EventSourceMappingUUID"],
    ),
    (
        &[(
            "      Statistic: Sum\n      Period: 60\n      EvaluationPeriods: 5\n      ComparisonOperator: GreaterThanOrEqualToThreshold\n      Threshold: 1",
            "      Statistic: Average\n      Period: 60\n      EvaluationPeriods: 5\n      ComparisonOperator: GreaterThanThreshold\n      Threshold: 1",
        )],
        &["alarm: Failing.Threshold is 1; Average of Errors is at most 1"],
    ),
    (
        &[("SELECT SUM(Parked)", "SELECT SUM(ParkedEvents)")],
        &["alarm: Parking.Dimensions watch ProjectionWorker ParkedEvents by stage, which nobody publishes"],
    ),
    (&[("stage = ''dev''", "stage = ''prod''")], &["alarm: Parking.Dimensions watch stage `prod`, and the function's STAGE is another"]),
    (&[("+ FILL(dropped, 0)", "")], &["alarm: GivenUp.Metrics do not use `dropped`"]),
    (&[("FILL(dropped, 0)", "FILL(lost, 0)")], &["alarm: GivenUp.Metrics use `lost`, which does not exist"]),
    (
        &[("        - Id: delivered\n          ReturnData: false\n", "        - Id: delivered\n")],
        &["alarm: GivenUp.Metrics return 2 values; an alarm compares exactly one"],
    ),
    (
        &[("      MetricsConfig: {Metrics: [EventCount]}\n", "")],
        &[
            "alarm: GivenUp.Dimensions watch AWS/Lambda OnFailureDestinationDeliveredEventCount by EventSourceMappingUUID, which Lambda publishes only if MetricsConfig of Stream has EventCount",
            "alarm: Stopped.Dimensions watch AWS/Lambda PolledEventCount by EventSourceMappingUUID, which Lambda publishes only if MetricsConfig of Stream has EventCount",
        ],
    ),
    (
        &[("TreatMissingData: breaching", "TreatMissingData: notBreaching")],
        &["alarm: Stopped.Threshold never compares: LessThanThreshold 0"],
    ),
    (
        &[("Namespace: AWS/Lambda\n      MetricName: IteratorAge", "Namespace: AWS/lambda\n      MetricName: IteratorAge")],
        &["alarm: Late.Dimensions watch AWS/lambda IteratorAge by FunctionName, which is not in AWS/Lambda"],
    ),
    (
        &[(
            "Namespace: AWS/Lambda\n      MetricName: Errors\n      Dimensions: [{Name: FunctionName, Value: worker}]",
            "Namespace: AWS/DynamoDB\n      MetricName: ThrottledRequests\n      Dimensions: [{Name: TableName, Value: !Ref Parked}]",
        )],
        &["alarm: Failing.Dimensions watch AWS/DynamoDB ThrottledRequests by TableName, which nobody publishes"],
    ),
    // A composite alarm acts for those that do not.
    (
        &[
            ("      MetricName: IteratorAge\n", "      ActionsEnabled: false\n      MetricName: IteratorAge\n"),
            ("  Failing:\n", "  Any: {Type: AWS::CloudWatch::CompositeAlarm, Properties: {AlarmRule: 'ALARM(Late)'}}\n  Failing:\n"),
        ],
        NO_FINDINGS,
    ),
    // Alarms of others, and further good ones.
    (
        &[
            ("FunctionName, Value: !Ref Worker}]\n      Statistic: Maximum", "FunctionName, Value: other}]\n      Statistic: Maximum"),
            ("Threshold: 300000", "Threshold: 999999999"),
        ],
        NO_FINDINGS,
    ),
    (
        &[(
            "Period: 60\n      EvaluationPeriods: 5\n      DatapointsToAlarm: 3",
            "Period: 30\n      EvaluationPeriods: 5\n      DatapointsToAlarm: 2",
        )],
        NO_FINDINGS,
    ),
    (
        &[(
            "Expression: \"FILL(delivered, 0) + FILL(dropped, 0)\"",
            "Expression: \"IF(delivered > dropped, delivered, FILL(dropped, 0))\"",
        )],
        NO_FINDINGS,
    ),
];

#[test]
fn each_variant_has_exactly_its_findings() {
    for (edits, expected) in VARIANTS {
        let text = edits.iter().fold(GOOD.to_owned(), |text, (old, new)| with(&text, old, new));
        assert_eq!(found(&text), *expected, "{edits:?}");
    }
    let good = VARIANTS.iter().filter(|(_, expected)| expected.is_empty()).count();
    assert!(VARIANTS.len() >= 60 && good >= 15, "{} variants, {good} of them good", VARIANTS.len());
}

#[test]
fn what_is_not_known_is_said() {
    let unseen = |old: &str, new: &str| examined(&with(GOOD, old, new), &[]).unseen;
    let region =
        unseen(PATTERN, r#"{"awsRegion":["eu-west-1"],"eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#);
    assert_eq!(region["Stream.FilterCriteria"], "the filter depends on awsRegion, which is unknown here");
    let variable = unseen("          PARKED_TABLE: !Ref Parked\n", "");
    assert_eq!(variable["PARKED_TABLE"], "the variable is not set, so its table is not checked");
    let nested = with(GOOD, "  Failed: ", "  Tables: {Type: AWS::CloudFormation::Stack, Properties: {TemplateURL: u}}\n  Failed: ");
    let nested = examined(&with(&nested, STREAM_ARN, "!GetAtt Tables.Outputs.EventStream"), &[]).unseen;
    assert_eq!(nested["Stream.EventSourceArn"], "what Tables returns cannot be determined from the template alone");
    // Alarms are often kept elsewhere.
    let start = GOOD.find("  Late:\n").expect("the first alarm");
    assert_eq!(found(&GOOD[..start]), NO_FINDINGS);
    assert_eq!(
        examined(&GOOD[..start], &[]).unseen["alarms"],
        "the template has none for a worker that falls behind (IteratorAge), parked aggregates (Parked), records given up \
         (OnFailureDestinationDeliveredEventCount), a worker that fails (Errors); if they are elsewhere, check that they can fire"
    );
    let without = unseen("SELECT SUM(Parked)", "SELECT SUM(Applied)");
    assert_eq!(without["alarms"], "the template has none for parked aggregates (Parked); if they are elsewhere, check that they can fire");
}

/// The size of a template bounds neither what its functions produce nor how long its conditions take.
#[test]
fn a_template_that_grows_without_bound_is_refused_at_once() {
    let doubling = (0..30).fold(json!("x"), |inner, _| json!({ "Fn::Sub": ["${a}${a}", { "a": inner }] })).to_string();
    let of = |value: &str| format!("{GOOD}  Bomb: {{Type: AWS::S3::Bucket, Properties: {{BucketName: {value}}}}}\n");
    assert_eq!(super::refused(&of(&doubling), None).as_deref(), Some("becomes too large when its functions are resolved"));
    // A large default of a parameter, used many times.
    let uses = "!Ref Big,".repeat(20_000);
    let large = format!("Parameters: {{Big: {{Type: String, Default: {}}}}}\n{}", "x".repeat(200_000), of(&format!("[{uses}]")));
    assert_eq!(super::refused(&large, None).as_deref(), Some("becomes too large when its functions are resolved"));
    // Conditions that use each other twice.
    let conditions =
        (1..60).map(|at| format!("  C{at}: !And [!Condition C{}, !Condition C{}]\n", at - 1, at - 1)).collect::<Vec<_>>().concat();
    let conditional = format!("Conditions:\n  C0: !Equals [a, a]\n{conditions}{}", with(GOOD, "Timeout: 60", "Timeout: !If [C59, 60, 3]"));
    assert_eq!(found(&conditional), NO_FINDINGS);
    let nested = (0..45).fold(json!({ "Fn::Equals": ["a", "a"] }), |inner, _| json!({ "Fn::And": [inner, { "Fn::Equals": ["a", "a"] }] }));
    let conditional = format!("Conditions:\n  C: {nested}\n{}", with(GOOD, "Timeout: 60", "Timeout: !If [C, 60, 3]"));
    assert_eq!(found(&conditional), NO_FINDINGS);
    let many = (0..1_001).map(|at| format!("  B{at}: {{Type: AWS::S3::Bucket}}\n")).collect::<Vec<_>>().concat();
    assert_eq!(
        super::refused(&format!("{GOOD}{many}"), None).as_deref(),
        Some("has more than 1000 resources, which CloudFormation refuses")
    );
    for text in ["[".repeat(200_000), "{".repeat(200_000), "- ".repeat(200_000), "x".repeat(2_000_000)] {
        assert!(super::refused(&text, None).is_some_and(|refused| refused.len() < 200));
    }
}
