//! Ways to break the template, the state machine and the code. The checks must report each.
//!
//! Mutations that only linters or a running state machine can detect are in `infra/checks/mutations.py`; those of settings that any
//! worker needs are in the tests of `projector doctor`.

use serde_json::json;

use super::code::{Code, Place};

pub enum File {
    Template,
    Machine,
}

use File::{Machine, Template};

/// Its name, the file, the text that is replaced and its replacement, and a part of what the checks report.
pub const OF_FILES: &[(&str, File, &str, &str, &str)] = &[
    (
        "the stream carries keys only",
        Template,
        "StreamViewType: NEW_IMAGE",
        "StreamViewType: KEYS_ONLY",
        r#"StreamViewType of EventStoreTable: is "KEYS_ONLY""#,
    ),
    (
        "a read model has another key",
        Template,
        "KeySchema:\n        - {AttributeName: accountId, KeyType: HASH}",
        "KeySchema:\n        - {AttributeName: PK, KeyType: HASH}",
        "KeySchema of AccountSummaryTable: is",
    ),
    (
        "child rows have another sort key",
        Template,
        "{AttributeName: movement, KeyType: RANGE}",
        "{AttributeName: SK, KeyType: RANGE}",
        "KeySchema of AccountStatementTable: is",
    ),
    (
        "the index by category lacks a column",
        Template,
        "NonKeyAttributes: [title, authorId]",
        "NonKeyAttributes: [title]",
        "GlobalSecondaryIndexes of ForumCountersTable: is",
    ),
    (
        "the event store's index is keys only",
        Template,
        "Projection: {ProjectionType: ALL}",
        "Projection: {ProjectionType: KEYS_ONLY}",
        "GlobalSecondaryIndexes of EventStoreTable: is",
    ),
    (
        "an attribute is defined that is not a key",
        Template,
        "        - {AttributeName: GSI1SK, AttributeType: S}\n",
        "        - {AttributeName: GSI1SK, AttributeType: S}\n        - {AttributeName: more, AttributeType: S}\n",
        "AttributeDefinitions of EventStoreTable: is",
    ),
    (
        "tables may be deleted",
        Template,
        "DeletionProtectionEnabled: true",
        "DeletionProtectionEnabled: false",
        "deletion-protection: EventStoreTable",
    ),
    (
        "parked entries expire",
        Template,
        "      TableName: !Sub \"${Stage}-parked\"\n",
        "      TableName: !Sub \"${Stage}-parked\"\n      TimeToLiveSpecification: {AttributeName: expiresAt, Enabled: true}\n",
        "time-to-live: ParkedTable",
    ),
    (
        "the bucket goes with the stack",
        Template,
        "    Type: AWS::S3::Bucket\n    DeletionPolicy: Retain",
        "    Type: AWS::S3::Bucket\n    DeletionPolicy: Delete",
        r#"DeletionPolicy of OnFailureBucket: is "Delete""#,
    ),
    (
        "event data stays in the bucket forever",
        Template,
        "            ExpirationInDays: !Ref OnFailureRetentionDays\n",
        "",
        "OnFailureBucket keeps event data forever",
    ),
    ("the filter matches no prefix", Template, r#"[{"prefix":"EVENT#"}]"#, r#"["EVENT#"]"#, "the filter keeps back an event of bank"),
    (
        "the filter lets VERSION items through",
        Template,
        r#""S":[{"prefix":"EVENT#"}]"#,
        r#""S":[{"exists":true}]"#,
        "the filter passes a record of version-items that is not an event",
    ),
    (
        "the filter lets changes through",
        Template,
        r#""eventName":["INSERT"]"#,
        r#""eventName":["INSERT","MODIFY","REMOVE"]"#,
        "the filter passes a record of changed-events that is not an event",
    ),
    (
        "the filter names one event type",
        Template,
        r#""Keys":{"SK""#,
        r#""NewImage":{"eventType":{"S":["MoneyDeposited"]}},"Keys":{"SK""#,
        "the filter keeps back versions of account-alice in bank",
    ),
    (
        "the filter keeps back what processes send",
        Template,
        r#""Keys":{"SK""#,
        r#""NewImage":{"eventType":{"S":[{"anything-but":["ProcessSent"]}]}},"Keys":{"SK""#,
        "the filter keeps back an event of processes",
    ),
    (
        "the filter lets answers to commands through",
        Template,
        r#"[{"prefix":"EVENT#"}]"#,
        r#"[{"prefix":"EVENT#"},{"prefix":"COMMAND#"}]"#,
        "the filter passes a record of processes that is not an event",
    ),
    (
        "the stream is read from its end",
        Template,
        "StartingPosition: TRIM_HORIZON",
        "StartingPosition: LATEST",
        r#"StartingPosition of the event source mapping: is "LATEST""#,
    ),
    (
        "partial failures are ignored",
        Template,
        "      FunctionResponseTypes: [ReportBatchItemFailures]\n",
        "",
        "FunctionResponseTypes of the event source mapping: is null",
    ),
    (
        "several invocations work on one shard at once",
        Template,
        "ParallelizationFactor: 1",
        "ParallelizationFactor: 4",
        "ParallelizationFactor of the event source mapping: is 4",
    ),
    (
        "records that were given up are forgotten",
        Template,
        "      DestinationConfig: {OnFailure: {Destination: !GetAtt OnFailureBucket.Arn}}\n",
        "",
        "DestinationConfig of the event source mapping: is null",
    ),
    ("records may outlive the stream", Template, "MaxValue: 82800", "MaxValue: 604800", "MaxRecordAgeSeconds: records may grow older"),
    (
        "the mapping counts nothing",
        Template,
        "      MetricsConfig: {Metrics: [EventCount]}\n",
        "",
        "MetricsConfig of the event source mapping: is null",
    ),
    (
        "a property of the mapping is misspelt",
        Template,
        "MaximumBatchingWindowInSeconds:",
        "MaximumBatchingWindow:",
        "MaximumBatchingWindow of the event source mapping: is",
    ),
    (
        "the mapping names a parameter that does not exist",
        Template,
        "BatchSize: !Ref BatchSize",
        "BatchSize: !Ref RecordsMax",
        "WorkerStream: there is no RecordsMax",
    ),
    (
        "a variable is misspelt",
        Template,
        "PARKED_TABLE: !Ref",
        "PARKED_EVENTS_TABLE: !Ref",
        "PARKED_EVENTS_TABLE of the variables of WorkerFunction: is",
    ),
    (
        "a variable names another table",
        Template,
        "FORUM_COUNTERS_TABLE: !Ref ForumCountersTable",
        "FORUM_COUNTERS_TABLE: !Ref AccountSummaryTable",
        "FORUM_COUNTERS_TABLE of the variables of WorkerFunction: is",
    ),
    (
        "the worker has no time to finish",
        Template,
        "      Timeout: 60\n",
        "      Timeout: 10\n",
        "timeout: WorkerFunction.Timeout is 10 s; 15 s are needed",
    ),
    (
        "the wrong processor",
        Template,
        "Architectures: [arm64]",
        "Architectures: [x86_64]",
        r#"Architectures of WorkerFunction: is ["x86_64"]"#,
    ),
    ("logs are kept forever", Template, "      RetentionInDays: !Ref LogRetentionDays\n", "", "the logs of WorkerFunction never expire"),
    (
        "a log level that drops metrics",
        Template,
        "AllowedValues: [TRACE, DEBUG, INFO]",
        "AllowedValues: [TRACE, DEBUG, INFO, WARN]",
        "AllowedValues of LogLevel: is",
    ),
    (
        "the worker may scan",
        Template,
        "Action: [\"dynamodb:Query\"]\n                Resource: !GetAtt EventStoreTable.Arn",
        "Action: [\"dynamodb:Query\", \"dynamodb:Scan\"]\n                Resource: !GetAtt EventStoreTable.Arn",
        "WorkerRole may dynamodb:Scan on ${EventStoreTable.Arn}, which nothing does",
    ),
    (
        "the worker may not park",
        Template,
        "Action: [\"dynamodb:PutItem\", \"dynamodb:UpdateItem\"]\n                Resource: !GetAtt ParkedTable.Arn",
        "Action: [\"dynamodb:UpdateItem\"]\n                Resource: !GetAtt ParkedTable.Arn",
        "WorkerRole may not dynamodb:PutItem on ${ParkedTable.Arn}",
    ),
    (
        "a wildcard of actions",
        Template,
        r#"Action: ["dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem"]"#,
        r#"Action: ["dynamodb:*"]"#,
        "WorkerRole may dynamodb:* on ${AccountSummaryTable.Arn}",
    ),
    (
        "a wildcard of resources",
        Template,
        "Resource: !GetAtt WorkerLogs.Arn",
        r#"Resource: "*""#,
        "WorkerRole may logs:PutLogEvents on *, which nothing does",
    ),
    (
        "Lambda may not see the bucket",
        Template,
        r#"["s3:ListBucket"]"#,
        r#"["s3:GetObject"]"#,
        "WorkerRole may not s3:ListBucket on ${OnFailureBucket.Arn}",
    ),
    (
        "readers may scan",
        Template,
        r#"Action: ["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query"]"#,
        r#"Action: ["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query", "dynamodb:Scan"]"#,
        "ReaderPolicy may dynamodb:Scan on ${UsersAndOrdersTable.Arn}, which nothing does",
    ),
    (
        "readers may not read many rows",
        Template,
        r#"Action: ["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query"]"#,
        r#"Action: ["dynamodb:GetItem", "dynamodb:Query"]"#,
        "ReaderPolicy may not dynamodb:BatchGetItem on ${AccountSummaryTable.Arn}",
    ),
    (
        "readers miss an index",
        Template,
        "              - !Sub \"${TopicPostsTable.Arn}/index/*\"\n",
        "",
        "ReaderPolicy may not dynamodb:Query on ${TopicPostsTable.Arn}/index/*",
    ),
    (
        "commands may not check",
        Template,
        r#"Action: ["dynamodb:ConditionCheckItem", "#,
        "Action: [",
        "CommandPolicy may not dynamodb:ConditionCheckItem on ${EventStoreTable.Arn}",
    ),
    (
        "commands may delete events",
        Template,
        "            Condition: {\"ForAllValues:StringLike\": {\"dynamodb:LeadingKeys\": [\"CLAIM#*\"]}}\n",
        "",
        "CommandPolicy may dynamodb:DeleteItem on ${EventStoreTable.Arn}, which nothing does",
    ),
    (
        "the worker takes the policy of commands",
        Template,
        "  CommandPolicy:\n    Type: AWS::IAM::ManagedPolicy\n    Properties:\n",
        "  CommandPolicy:\n    Type: AWS::IAM::ManagedPolicy\n    Properties:\n      Roles: [!Ref WorkerRole]\n",
        "Roles of CommandPolicy: is",
    ),
    (
        "orders sort by one attribute",
        Template,
        "            - {AttributeName: placedAt, KeyType: RANGE}\n",
        "",
        "GlobalSecondaryIndexes of UsersAndOrdersTable: is",
    ),
    (
        "the functions share a role",
        Template,
        "Role: !GetAtt OperationsRole.Arn",
        "Role: !GetAtt WorkerRole.Arn",
        r#"Role of OperationsFunction: is "${WorkerRole.Arn}""#,
    ),
    (
        "segments may not be started",
        Template,
        r#"Action: ["states:StartExecution"]"#,
        r#"Action: ["states:StartSyncExecution"]"#,
        "RebuildRole may not states:StartExecution on arn:",
    ),
    (
        "a projection is not caught up",
        Template,
        r#"{"catchUp":{"projection":"forum-counters""#,
        r#"{"catchUp":{"projection":"account-summary""#,
        "projections that are caught up: is",
    ),
    (
        "catching up leaves gaps",
        Template,
        "Default: 26h",
        "Default: 12h",
        "CatchUpSince: the times that two runs catch up with must overlap",
    ),
    (
        "a schedule sends a task that the function does not know",
        Template,
        r#"{"catchUp":{"projection":"account-summary","since""#,
        r#"{"catchUp":{"projection":"account-summary","from""#,
        r#"task of AccountSummaryCatchUp: is ["from","projection"]"#,
    ),
    (
        "an alarm queries a metric that does not exist",
        Template,
        "SELECT SUM(Parked)",
        "SELECT SUM(EventsParked)",
        "EventsParked by stage is shown, and the code does not count it",
    ),
    (
        "nobody is called when the poller stops",
        Template,
        "TreatMissingData: breaching",
        "TreatMissingData: notBreaching",
        r#"TreatMissingData of PollerStoppedAlarm: is "notBreaching""#,
    ),
    (
        "an alarm watches the wrong resource",
        Template,
        "MetricName: IteratorAge\n      Dimensions: [{Name: FunctionName, Value: !Ref WorkerFunction}]",
        "MetricName: IteratorAge\n      Dimensions: [{Name: FunctionName, Value: !Ref WorkerStream}]",
        r#"FunctionName of IteratorAgeAlarm names: is "AWS::Lambda::EventSourceMapping""#,
    ),
    (
        "nobody watches the throttles of a table",
        Template,
        "Dimensions: [{Name: TableName, Value: !Ref UsersAndOrdersTable}]",
        "Dimensions: [{Name: TableName, Value: !Ref TopicPostsTable}]",
        "no alarm watches the throttles of users-and-orders",
    ),
    (
        "the dashboard leaves out a table",
        Template,
        "            [\"...\",\"${UsersAndOrdersTable}\"],\n",
        "",
        "the dashboard does not show what is written to users-and-orders",
    ),
    (
        "an output names another table",
        Template,
        "{Description: USERS_AND_ORDERS_TABLE, Value: !Ref UsersAndOrdersTable}",
        "{Description: USERS_AND_ORDERS_TABLE, Value: !Ref TopicPostsTable}",
        "no output has users-and-orders for USERS_AND_ORDERS_TABLE",
    ),
    (
        "a process has no watermarks",
        Template,
        "TableName: !Sub \"${Stage}-transfers\"",
        "TableName: !Sub \"${Stage}-transfer\"",
        "no table is named ${Stage}-transfers",
    ),
    (
        "instances are listed by status alone",
        Template,
        "            - {AttributeName: process, KeyType: HASH}\n",
        "",
        "GlobalSecondaryIndexes of ProcessStatusTable: is",
    ),
    (
        "timers do not say what started them",
        Template,
        "NonKeyAttributes: [startedBy]",
        "NonKeyAttributes: [why]",
        "GlobalSecondaryIndexes of ProcessStatusTable: is",
    ),
    (
        "a process has the watermarks of another",
        Template,
        "ORDER_FULFILMENT_TABLE: !Ref OrderFulfilmentTable",
        "ORDER_FULFILMENT_TABLE: !Ref TransfersTable",
        "ORDER_FULFILMENT_TABLE of the variables of WorkerFunction: is",
    ),
    (
        "the worker may not act for processes",
        Template,
        "Action: [\"dynamodb:PutItem\", \"dynamodb:UpdateItem\"]\n                Resource: !GetAtt EventStoreTable.Arn",
        "Action: [\"dynamodb:PutItem\"]\n                Resource: !GetAtt EventStoreTable.Arn",
        "WorkerRole may not dynamodb:UpdateItem on ${EventStoreTable.Arn}",
    ),
    (
        "the worker may delete events",
        Template,
        "Action: [\"dynamodb:PutItem\", \"dynamodb:UpdateItem\"]\n                Resource: !GetAtt EventStoreTable.Arn",
        "Action: [\"dynamodb:DeleteItem\", \"dynamodb:PutItem\", \"dynamodb:UpdateItem\"]\n                Resource: !GetAtt EventStoreTable.Arn",
        "WorkerRole may dynamodb:DeleteItem on ${EventStoreTable.Arn}, which nothing does",
    ),
    (
        "a tick may not read timers",
        Template,
        "${ProcessStatusTable.Arn}/index/timers-by-due",
        "${ProcessStatusTable.Arn}/index/timers",
        "WorkerRole may not dynamodb:Query on ${ProcessStatusTable.Arn}/index/timers-by-due",
    ),
    (
        "a tick may not read instances",
        Template,
        "[!Sub \"${ProcessStatusTable.Arn}/index/instances-by-status\", ",
        "[",
        "WorkerRole may not dynamodb:Query on ${ProcessStatusTable.Arn}/index/instances-by-status",
    ),
    (
        "nothing may tick",
        Template,
        "{Sid: Tick, Effect: Allow, Action: [\"lambda:InvokeFunction\"], Resource: !GetAtt WorkerFunction.Arn}",
        "{Sid: Tick, Effect: Allow, Action: [\"lambda:InvokeFunction\"], Resource: !GetAtt OperationsFunction.Arn}",
        "TickRole may not lambda:InvokeFunction on ${WorkerFunction.Arn}",
    ),
    (
        "readers read watermarks",
        Template,
        "              - !GetAtt ProcessStatusTable.Arn\n          - Sid: ReadIndexes",
        "              - !GetAtt ProcessStatusTable.Arn\n              - !GetAtt TransfersTable.Arn\n          - Sid: ReadIndexes",
        "ReaderPolicy may dynamodb:Query on ${TransfersTable.Arn}, which nothing does",
    ),
    ("nothing ticks", Template, r#"'{"tick":{}}'"#, r#"'{"tock":{}}'"#, "schedules that tick: is [], and should be"),
    (
        "a tick says more than the function reads",
        Template,
        r#"'{"tick":{}}'"#,
        r#"'{"tick":{"process":"transfers"}}'"#,
        "Input of Tick: is",
    ),
    ("ticks are rare", Template, "rate(1 minute)", "rate(5 minutes)", r#"ScheduleExpression of Tick: is "rate(5 minutes)""#),
    (
        "ticks are off",
        Template,
        "      GroupName: !Ref Ticks\n",
        "      GroupName: !Ref Ticks\n      State: DISABLED\n",
        r#"State of Tick: is "DISABLED""#,
    ),
    (
        "the wrong function ticks",
        Template,
        "        Arn: !GetAtt WorkerFunction.Arn\n        RoleArn: !GetAtt TickRole.Arn",
        "        Arn: !GetAtt OperationsFunction.Arn\n        RoleArn: !GetAtt TickRole.Arn",
        r#"Arn of Tick: is "${OperationsFunction.Arn}""#,
    ),
    (
        "one tick meets the next",
        Template,
        "      Timeout: 60\n",
        "      Timeout: 61\n",
        "WorkerFunction may work on one tick when the next begins",
    ),
    (
        "a tick is sent when it is late",
        Template,
        "{MaximumRetryAttempts: 1, MaximumEventAgeInSeconds: 60}",
        "{MaximumRetryAttempts: 1, MaximumEventAgeInSeconds: 86400}",
        "RetryPolicy of Tick: a tick is sent after the next one",
    ),
    (
        "Lambda repeats ticks",
        Template,
        "      MaximumEventAgeInSeconds: 60\n      MaximumRetryAttempts: 0\n",
        "      MaximumEventAgeInSeconds: 60\n      MaximumRetryAttempts: 2\n",
        "Lambda keeps ticks, or repeats them, after the next one",
    ),
    (
        "Lambda keeps ticks of another function only",
        Template,
        "      FunctionName: !Ref WorkerFunction\n      Qualifier",
        "      FunctionName: !Ref OperationsFunction\n      Qualifier",
        "Lambda keeps ticks of an outage for hours: limit their age",
    ),
    (
        "a process is not caught up",
        Template,
        r#"{"catchUp":{"projection":"order-fulfilment""#,
        r#"{"catchUp":{"projection":"transfers""#,
        "projections that are caught up: is",
    ),
    (
        "nobody is called for stuck instances",
        Template,
        "SELECT SUM(Stuck) FROM SCHEMA(\"ProjectionWorker\", projection, stage) WHERE stage = '${Stage}'\n",
        "SELECT SUM(Parked) FROM SCHEMA(\"ProjectionWorker\", projection, stage) WHERE stage = '${Stage}'\n",
        "no alarm watches ProjectionWorker Stuck",
    ),
    (
        "nobody is called for old instances",
        Template,
        "Threshold: !Ref OpenAgeAlarmSeconds",
        "Threshold: !Ref LagAlarmMs",
        r#"Threshold of OpenTooLongAlarm: is "<LagAlarmMs>""#,
    ),
    (
        "nobody is called when ticks stop",
        Template,
        "MetricName: OldestOpenAge\n",
        "MetricName: TimedOut\n",
        r#"metrics whose absence is alarmed: is ["PolledEventCount","TimedOut"]"#,
    ),
    (
        "nobody is called when ticks are refused",
        Template,
        "MetricName: TargetErrorCount, Dimensions",
        "MetricName: InvocationAttemptCount, Dimensions",
        "no alarm watches AWS/Scheduler TargetErrorCount",
    ),
    (
        "the alarm on ticks names no group",
        Template,
        "Dimensions: [{Name: ScheduleGroup, Value: !Ref Ticks}]",
        "Dimensions: [{Name: ScheduleGroup, Value: !Ref Tick}]",
        r#"ScheduleGroup of TicksFailedAlarm names: is "AWS::Scheduler::Schedule""#,
    ),
    (
        "nobody watches the throttles of the event store",
        Template,
        "Dimensions: [{Name: TableName, Value: !Ref EventStoreTable}]",
        "Dimensions: [{Name: TableName, Value: !Ref TransfersTable}]",
        "no alarm watches the throttles of event-store",
    ),
    (
        "the dashboard leaves out what processes do",
        Template,
        "SELECT SUM(Undone) FROM",
        "SELECT SUM(Resolved) FROM",
        "the code counts Undone by projection and stage, and neither an alarm nor the dashboard shows it",
    ),
    ("the dashboard is not JSON", Template, r#"{"widgets":["#, r#"{"widgets":[,"#, "the dashboard is not JSON"),
    (
        "a passing error ends a rebuild",
        Machine,
        r#"["Unfinished", "Lambda.Unknown", "Runtime.ExitError", "Sandbox.Timedout", "States.Timeout"]"#,
        r#"["States.Timeout"]"#,
        r#"RebuildSegment does not retry "Unfinished""#,
    ),
    (
        "an invalid task is retried",
        Machine,
        r#""ErrorEquals": ["Unfinished", "Lambda.Unknown", "Runtime.ExitError", "Sandbox"#,
        r#""ErrorEquals": ["InvalidTask", "Unfinished", "Lambda.Unknown", "Runtime.ExitError", "Sandbox"#,
        r#"RebuildSegment retries "InvalidTask", which no retry can help"#,
    ),
];

type Change = fn(&mut Code);

/// Its name, what the code becomes, and a part of what the checks report about a template that did not follow.
pub const OF_CODE: &[(&str, Change, &str)] = &[
    (
        "a table's variable is renamed",
        |code| rename_variable(code, "PARKED_TABLE", "PARKING_TABLE"),
        "PARKING_TABLE of the variables of WorkerFunction: is null",
    ),
    (
        "another variable is read",
        |code| _ = code.variables.insert("SHARDS_MAX".to_owned()),
        "the code reads SHARDS_MAX, which nothing sets",
    ),
    ("a variable is no longer read", |code| _ = code.variables.remove("STAGE"), "STAGE is set, and the code does not read it"),
    (
        "a read model has another key",
        |code| code.tables.get_mut("account-summary").expect("the table").definition["KeySchema"][0]["AttributeName"] = json!("id"),
        "KeySchema of AccountSummaryTable: is",
    ),
    ("another projection is registered", another_projection, "no table is named ${Stage}-other"),
    (
        "the worker makes another call",
        |code| _ = code.worker.insert(call("DeleteItem", Place::Parked)),
        "WorkerRole may not dynamodb:DeleteItem on ${ParkedTable.Arn}",
    ),
    (
        "the worker scans rows",
        |code| _ = code.worker.insert(call("Scan", Place::Rows)),
        "WorkerRole may not dynamodb:Scan on ${AccountSummaryTable.Arn}",
    ),
    (
        "the worker scans",
        |code| _ = code.worker.insert(call("Scan", Place::EventStore)),
        "WorkerRole may not dynamodb:Scan on ${EventStoreTable.Arn}",
    ),
    (
        "the worker reads an index",
        |code| _ = code.worker.insert(call("Query", Place::Index("GSI1".to_owned()))),
        "WorkerRole may not dynamodb:Query on ${EventStoreTable.Arn}/index/GSI1",
    ),
    (
        "the tasks no longer read single rows",
        |code| _ = code.operations.remove(&call("GetItem", Place::Rows)),
        "OperationsRole may dynamodb:GetItem on ${AccountSummaryTable.Arn}, which nothing does",
    ),
    (
        "queries read an index of events",
        |code| _ = code.queries.insert(call("Query", Place::Index("GSI1".to_owned()))),
        "ReaderPolicy may not dynamodb:Query on ${EventStoreTable.Arn}/index/GSI1",
    ),
    (
        "queries no longer read events",
        |code| _ = code.queries.remove(&call("Query", Place::EventStore)),
        "ReaderPolicy may dynamodb:Query on ${EventStoreTable.Arn}, which nothing does",
    ),
    (
        "a read model has its first index",
        |code| {
            let index = code.tables["topic-posts"].definition["GlobalSecondaryIndexes"].clone();
            code.tables.get_mut("account-summary").expect("the table").definition["GlobalSecondaryIndexes"] = index;
        },
        "ReaderPolicy may not dynamodb:Query on ${AccountSummaryTable.Arn}/index/*",
    ),
    (
        "commands delete an event",
        |code| _ = code.commands.insert(call("DeleteItem", Place::EventStore)),
        "CommandPolicy may not dynamodb:DeleteItem on ${EventStoreTable.Arn}",
    ),
    (
        "commands have no claims",
        |code| _ = code.commands.remove(&call("DeleteItem", Place::Claims)),
        "CommandPolicy may dynamodb:DeleteItem on ${EventStoreTable.Arn} CLAIM#*, which nothing does",
    ),
    (
        "a task has another member",
        |code| code.tasks["verify"]["task"]["percent"] = json!(5),
        r#"members of verify: is ["projection","run","sample"]"#,
    ),
    (
        "a process claims values",
        |code| _ = code.worker.insert(call("DeleteItem", Place::Claims)),
        "WorkerRole may not dynamodb:DeleteItem on ${EventStoreTable.Arn} CLAIM#*",
    ),
    (
        "a catch-up no longer acts for processes",
        |code| _ = code.operations.remove(&call("UpdateItem", Place::EventStore)),
        "OperationsRole may dynamodb:UpdateItem on ${EventStoreTable.Arn}, which nothing does",
    ),
    (
        "a tick reads another index",
        |code| _ = code.worker.insert(call("Query", Place::InstanceIndex("instances-by-age".to_owned()))),
        "WorkerRole may not dynamodb:Query on ${ProcessStatusTable.Arn}/index/instances-by-age",
    ),
    ("no process is left", |code| code.processes.clear(), r#"schedules that tick: is ["Tick"], and should be []"#),
    ("another process is registered", another_process, "no table is named ${Stage}-refunds"),
    ("a tick has a member", |code| code.tasks["tick"]["task"]["process"] = json!("transfers"), "Input of Tick: is"),
    ("an error has another name", |code| code.tasks["errors"]["unfinished"] = json!("Late"), r#"RebuildSegment does not retry "Late""#),
    ("an age may have another unit", |code| code.age_units.push('w'), "units of CatchUpSince: is"),
    (
        "a metric is renamed",
        |code| {
            code.metrics = std::mem::take(&mut code.metrics)
                .into_iter()
                .map(|(dimensions, name)| (dimensions, if name == "Healed" { "HealedEvents".to_owned() } else { name }))
                .collect();
        },
        "the code counts HealedEvents by projection and stage",
    ),
];

fn call(operation: &str, place: Place) -> (String, Place) {
    (format!("dynamodb:{operation}"), place)
}

fn rename_variable(code: &mut Code, old: &str, new: &str) {
    for table in code.tables.values_mut().filter(|table| table.variable == old) {
        new.clone_into(&mut table.variable);
    }
    code.variables.remove(old);
    code.variables.insert(new.to_owned());
}

fn another_process(code: &mut Code) {
    let mut table = code.tables["transfers"].clone();
    "REFUNDS_TABLE".clone_into(&mut table.variable);
    code.variables.insert(table.variable.clone());
    code.tables.insert("refunds".to_owned(), table);
    code.projections.push("refunds".to_owned());
    code.processes.insert("refunds".to_owned());
}

fn another_projection(code: &mut Code) {
    let mut table = code.tables["account-summary"].clone();
    "OTHER_TABLE".clone_into(&mut table.variable);
    code.variables.insert(table.variable.clone());
    code.tables.insert("other".to_owned(), table);
    code.projections.push("other".to_owned());
}
