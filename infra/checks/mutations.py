"""Ways to break the template, the state machine and what the function answers: (what, file, old text, new text). A check must
report each.

Mutations that the Rust checks report are in tests/end_to_end/infrastructure/mutations.rs.
"""

from pathlib import Path

TEMPLATE, MACHINE, TASKS = "template.yaml", "rebuild.asl.json", "checks/tasks.json"

# Reported by linters, by running the state machine or by deploying the template.
MUTATIONS = [
    # The state machine.
    ("a segment ends before it is done", MACHINE, "{% $states.input.done %}", "{% true %}"),
    ("the answer is not the next task", MACHINE, '"Output": "{% $states.result.Payload %}"', '"Output": "{% $states.input %}"'),
    ("the first segment is forgotten", MACHINE, "[0..$segments - 1]", "[1..$segments - 1]"),
    ("a child uses a variable of its parent", MACHINE, '"Payload": { "rebuild": "{% $states.input %}" }', '"Payload": { "rebuild": "{% $merge([$states.input, {\'projection\': $projection}]) %}" }'),
    ("parked aggregates are ignored", MACHINE, "$states.input.rebuilt.parked + $states.input.rebuilt.stopped > 0", "$states.input.rebuilt.parked > 0"),
    ("rows that differ are ignored", MACHINE, "$not($states.input.verified.clean)", "false"),
    ("a passing error ends a rebuild", MACHINE, '["Unfinished", "Lambda.Unknown", "Runtime.ExitError", "Sandbox.Timedout", "States.Timeout"]', '["States.Timeout"]'),
    ("an invalid task is retried", MACHINE, '"ErrorEquals": ["Unfinished", "Lambda.Unknown", "Runtime.ExitError", "Sandbox', '"ErrorEquals": ["InvalidTask", "Unfinished", "Lambda.Unknown", "Runtime.ExitError", "Sandbox'),
    ("nothing is verified", MACHINE, '"Next": "Verify"', '"Next": "Judge"'),
    ("only a part is verified", MACHINE, '"Condition": "{% $states.input.verified.done %}"', '"Condition": "{% true %}"'),
    ("each part verifies from the beginning", MACHINE, '"run": "{% $run %}"', '"run": null'),
    ("a verification that is killed is not retried", MACHINE, '["Unfinished", "Lambda.Unknown", "Runtime.ExitError", "Sandbox.Timedout", "States.Timeout"],\n          "IntervalSeconds": 15', '["Unfinished"],\n          "IntervalSeconds": 15'),
    ("the counts of a rebuild are lost", MACHINE, '"rebuilt": "{% $states.input.rebuilt %}"', '"rebuilt": "{% $states.input %}"'),
    ("a state is misspelt", MACHINE, '"Default": "RebuildSegment"', '"Default": "RebuildSegments"'),
    ("a field of the language is misspelt", MACHINE, '"ToleratedFailureCount": 0', '"ToleratedFailures": 0'),
    # The function answers something else.
    ("an answer has another name", TASKS, '"clean"', '"isClean"'),
    ("a count has another name", TASKS, '"stopped"', '"halted"'),
    ("a task has another member", TASKS, '"sample"', '"percent"'),
    ("an error has another name", TASKS, '"Unfinished"', '"OutOfTime"'),
    # Settings that only linters know.
    ("the bucket may become public", TEMPLATE, "BlockPublicPolicy: true", "BlockPublicPolicy: false"),
    ("a property of a function is misspelt", TEMPLATE, "MemorySize: 512", "MemorySizes: 512"),
    ("a property of the mapping is misspelt", TEMPLATE, "MaximumBatchingWindowInSeconds:", "MaximumBatchingWindow:"),
    ("a parameter does not exist", TEMPLATE, "BatchSize: !Ref BatchSize", "BatchSize: !Ref RecordsMax"),
    ("a statistic does not exist", TEMPLATE, "Statistic: Maximum", "Statistic: Most"),
    # A relation of several values.
    ("the window is as long as the period", TEMPLATE, "Default: 26h", "Default: 24h"),
    ("a late start leaves a gap", TEMPLATE, "Default: 26h", "Default: 25h"),
    ("a catch-up runs once a week", TEMPLATE, "Default: rate(1 day)", "Default: rate(7 days)"),
    ("a catch-up may start hours late", TEMPLATE, "MaximumWindowInMinutes: 30", "MaximumWindowInMinutes: 720"),
    ("ticks overlap", TEMPLATE, "      Timeout: 60\n", "      Timeout: 120\n"),
    ("the worker ticks once an hour", TEMPLATE, "rate(1 minute)", "rate(1 hour)"),
    ("a tick is sent after the next one", TEMPLATE, "RetryPolicy: {MaximumRetryAttempts: 1, MaximumEventAgeInSeconds: 60}", "RetryPolicy: {MaximumRetryAttempts: 1, MaximumEventAgeInSeconds: 3600}"),
    ("Lambda keeps ticks for hours", TEMPLATE, "      MaximumEventAgeInSeconds: 60\n      MaximumRetryAttempts: 0\n", "      MaximumEventAgeInSeconds: 21600\n      MaximumRetryAttempts: 0\n"),
    # Wiring that a deployment shows.
    ("a table has another key", TEMPLATE, "AttributeName: accountId", "AttributeName: PK"),
    ("timers have no index", TEMPLATE, "IndexName: timers-by-due", "IndexName: timers"),
    ("watermarks have another key", TEMPLATE, "AttributeName: aggregateId, AttributeType: S}\n      KeySchema: # watermarks only: what an instance knows is in the event store\n        - {AttributeName: aggregateId,", "AttributeName: id, AttributeType: S}\n      KeySchema:\n        - {AttributeName: id,"),
]


def of_alarm(name, old, new):
    """Changes a property of one alarm: what stands behind its name."""
    text = (Path(__file__).parent.parent / TEMPLATE).read_text()
    begin = text.index(f"  {name}:")
    end = text.index(old, begin) + len(old)
    return TEMPLATE, text[begin:end], text[begin : end - len(old)] + new


WORKER = "      Description: Advances read models and processes by the events in the event store's stream, and ticks.\n"
STREAM = "      FunctionName: !GetAtt WorkerFunction.Arn\n"
SCHEDULE = "      ScheduleExpression: !Ref CatchUpSchedule\n"
TRUST_OF_STATES = "Principal: {Service: states.amazonaws.com}\n            Action: \"sts:AssumeRole\"\n            Condition: {StringEquals: {\"aws:SourceAccount\": !Ref AWS::AccountId}}\n"
TRUST_OF_LAMBDA = 'Statement: [{Effect: Allow, Principal: {Service: lambda.amazonaws.com}, Action: "sts:AssumeRole"}]'
PARKED = "      TableName: !Sub \"${Stage}-parked\"\n"
RESOURCES = "Resources:\n"
SECOND_BUCKET_RULE = "          - Id: event-data-expires\n"
PUBLIC = "          - Sid: OnlyOverTls\n"

TICK = "      ScheduleExpression: rate(1 minute)\n"
ACT = '                Action: ["dynamodb:PutItem", "dynamodb:UpdateItem"]\n                Resource: !GetAtt EventStoreTable.Arn\n'
TIMERS = '                Resource: [!Sub "${ProcessStatusTable.Arn}/index/instances-by-status", !Sub "${ProcessStatusTable.Arn}/index/timers-by-due"]\n'

READ_ROWS = '            Action: ["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query"]\n'
FRESH = "          - Sid: ReadEventsThatNoRowCounts\n            Effect: Allow\n            Action: [\"dynamodb:Query\"]\n            Resource: !GetAtt EventStoreTable.Arn\n"
COMMANDS = '            Action: ["dynamodb:ConditionCheckItem", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem"]\n'
CLAIMS = '            Condition: {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["CLAIM#*"]}}\n'

# Valid, and wrong: reported because what was reviewed is something else.
OF_REVIEWED = [
    # Nothing runs.
    ("the worker has no concurrency", TEMPLATE, WORKER, WORKER + "      ReservedConcurrentExecutions: 0\n"),
    ("both functions have no concurrency", TEMPLATE, "    Runtime: provided.al2023\n", "    Runtime: provided.al2023\n    ReservedConcurrentExecutions: 0\n"),
    ("one shard waits for another", TEMPLATE, WORKER, WORKER + "      ReservedConcurrentExecutions: 1\n"),
    ("the stream is not read", TEMPLATE, "Enabled: !Ref StreamEnabled", "Enabled: false"),
    ("the stream is paused by default", TEMPLATE, 'Default: "true"', 'Default: "false"'),
    ("the schedules are off", TEMPLATE, SCHEDULE, SCHEDULE + "      State: DISABLED\n"),
    ("the schedules end", TEMPLATE, SCHEDULE, SCHEDULE + '      EndDate: "2030-01-01T00:00:00.000Z"\n'),
    ("a table writes one unit a second", TEMPLATE, PARKED + "      BillingMode: PAY_PER_REQUEST\n", PARKED + "      BillingMode: PROVISIONED\n      ProvisionedThroughput: {ReadCapacityUnits: 1, WriteCapacityUnits: 1}\n"),
    ("a table has a limit of throughput", TEMPLATE, PARKED, PARKED + "      OnDemandThroughput: {MaxReadRequestUnits: 1, MaxWriteRequestUnits: 1}\n"),
    ("the worker is never created", TEMPLATE, "  WorkerStream:\n    Type: AWS::Lambda::EventSourceMapping\n", "  WorkerStream:\n    Type: AWS::Lambda::EventSourceMapping\n    Condition: HasAlarmTopic\n"),
    ("a filter of another table's events", TEMPLATE, '[{"prefix":"EVENT#"}]', '[{"prefix":"EVENTS#"}]'),
    ("the poller waits for five minutes", TEMPLATE, "MaximumBatchingWindowInSeconds: !Ref BatchingWindowSeconds", "MaximumBatchingWindowInSeconds: 300"),
    ("a batch is retried once", TEMPLATE, "MaximumRetryAttempts: !Ref MaxRetryAttempts", "MaximumRetryAttempts: 1"),
    ("the worker has too little memory", TEMPLATE, "MemorySize: 512", "MemorySize: 128"),
    ("the worker is cut off", TEMPLATE, "Timeout: 60\n", "Timeout: 16\n"),
    ("another program is deployed", TEMPLATE, "CodeUri: ../target/lambda/lambda/bootstrap.zip", "CodeUri: ../target/lambda/projector/bootstrap.zip"),
    ("a macro changes the template", TEMPLATE, "Transform: AWS::Serverless-2016-10-31", "Transform: [AWS::Serverless-2016-10-31, Local]"),
    # Alarms that cannot fire.
    ("an alarm tells nobody", *of_alarm("LagAlarm", "    Properties:\n", "    Properties:\n      ActionsEnabled: false\n")),
    ("an alarm has no topic", *of_alarm("GivenUpAlarm", "      AlarmActions: !If [HasAlarmTopic, [!Ref AlarmTopicArn], !Ref AWS::NoValue]\n", "")),
    ("alarms never have a topic", TEMPLATE, "HasAlarmTopic: !Not [!Equals", "HasAlarmTopic: !Equals [!Ref Stage, never] #"),
    ("the lowest lag counts", *of_alarm("IteratorAgeAlarm", "Statistic: Maximum", "Statistic: Minimum")),
    ("errors are averaged", *of_alarm("WorkerErrorsAlarm", "Statistic: Sum", "Statistic: Average")),
    ("an hour is one period", *of_alarm("FailedRecordsAlarm", "Period: 60", "Period: 3600")),
    ("an alarm looks at a day", *of_alarm("IteratorAgeAlarm", "EvaluationPeriods: 5", "EvaluationPeriods: 1440")),
    ("all periods must breach", *of_alarm("WorkerErrorsAlarm", "DatapointsToAlarm: 2", "DatapointsToAlarm: 5")),
    ("a sum is taken times nothing", *of_alarm("GivenUpAlarm", '"FILL(delivered, 0) + FILL(dropped, 0) + FILL(undelivered, 0)"', '"(FILL(delivered, 0) + FILL(dropped, 0) + FILL(undelivered, 0)) * 0"')),
    ("a metric is left out of a sum", *of_alarm("RebuildFailedAlarm", '"FILL(failed, 0) + FILL(late, 0)"', '"FILL(failed, 0)"')),
    ("a missing value hides the others", *of_alarm("GivenUpAlarm", "FILL(delivered, 0)", "delivered")),
    ("a sum becomes a minimum", *of_alarm("ParkedAlarm", "SELECT SUM(Parked)", "SELECT MIN(Parked)")),
    ("a query is of another stage", *of_alarm("LagAlarm", "WHERE stage = '${Stage}'", "WHERE stage = 'prod'")),
    ("a threshold nobody reaches", *of_alarm("OperationsErrorsAlarm", "Threshold: 0", "Threshold: 1000")),
    ("lag is allowed for a day", TEMPLATE, "Default: 300000", "Default: 86400000"),
    ("a comparison is turned round", *of_alarm("ParkedAlarm", "ComparisonOperator: GreaterThanThreshold", "ComparisonOperator: LessThanThreshold")),
    ("a stopped poller is good news", *of_alarm("PollerStoppedAlarm", "TreatMissingData: breaching", "TreatMissingData: ignore")),
    ("missing data has no treatment", *of_alarm("ParkedAlarm", "      TreatMissingData: notBreaching\n", "")),
    ("an alarm watches the other function", *of_alarm("WorkerErrorsAlarm", "!Ref WorkerFunction", "!Ref OperationsFunction")),
    ("an alarm watches a version", *of_alarm("WorkerThrottlesAlarm", "Dimensions: [{Name: FunctionName, Value: !Ref WorkerFunction}]", 'Dimensions: [{Name: FunctionName, Value: !Ref WorkerFunction}, {Name: ExecutedVersion, Value: "1"}]')),
    ("a table is left out of the alarm", *of_alarm("TableThrottlesAlarm", "FILL(shop, 0) + ", "")),
    ("an alarm watches another table", *of_alarm("TableThrottlesAlarm", "!Ref ForumCountersTable", "!Ref AccountSummaryTable")),
    ("an alarm is missing", *of_alarm("RebuildFailedAlarm", "Type: AWS::CloudWatch::Alarm", "Type: AWS::CloudWatch::Alarm\n    Condition: HasAlarmTopic")),
    ("the dashboard is of another region", TEMPLATE, '"title":"Cost","region":"${AWS::Region}"', '"title":"Cost","region":"us-east-1"'),
    # Who may.
    ("anybody's state machine may use the role", TEMPLATE, TRUST_OF_STATES, TRUST_OF_STATES.split("            Condition")[0]),
    ("another account's schedules may use the role", TEMPLATE, 'Principal: {Service: scheduler.amazonaws.com}\n            Action: "sts:AssumeRole"\n            Condition: {StringEquals: {"aws:SourceAccount": !Ref AWS::AccountId}}', 'Principal: {Service: scheduler.amazonaws.com}\n            Action: "sts:AssumeRole"\n            Condition: {StringLike: {"aws:SourceAccount": "*"}}'),
    ("an account may use the functions' roles", TEMPLATE, TRUST_OF_LAMBDA, TRUST_OF_LAMBDA.replace("Principal: {Service: lambda.amazonaws.com}", 'Principal: {AWS: "arn:aws:iam::111122223333:root"}')),
    ("everybody may use the functions' roles", TEMPLATE, TRUST_OF_LAMBDA, TRUST_OF_LAMBDA.replace("Principal: {Service: lambda.amazonaws.com}", 'Principal: "*"')),
    ("a second service may use the roles", TEMPLATE, TRUST_OF_LAMBDA, TRUST_OF_LAMBDA.replace("Service: lambda.amazonaws.com", "Service: [lambda.amazonaws.com, ec2.amazonaws.com]")),
    ("a managed policy", TEMPLATE, "  WorkerRole:\n    Type: AWS::IAM::Role\n    Properties:\n", "  WorkerRole:\n    Type: AWS::IAM::Role\n    Properties:\n      ManagedPolicyArns: [!Sub 'arn:${AWS::Partition}:iam::aws:policy/AmazonDynamoDBFullAccess']\n"),
    ("a policy beside the role", TEMPLATE, RESOURCES, RESOURCES + "  More: {Type: AWS::IAM::RolePolicy, Properties: {PolicyName: more, RoleName: !Ref WorkerRole, PolicyDocument: {Version: '2012-10-17', Statement: [{Effect: Allow, Action: 'dynamodb:Scan', Resource: !GetAtt EventStoreTable.Arn}]}}}\n"),
    ("a wildcard in a resource", TEMPLATE, 'Resource: !Sub "${OnFailureBucket.Arn}/aws/lambda/*"', 'Resource: !Sub "${OnFailureBucket.Arn}/*"'),
    ("a wildcard in an action", TEMPLATE, 'Action: ["s3:PutObject"]', 'Action: ["s3:Put*"]'),
    ("everything but one action", TEMPLATE, 'Action: ["s3:PutObject"]', 'NotAction: ["s3:DeleteObject"]'),
    ("a bucket of another account", TEMPLATE, '                Condition: {StringEquals: {"s3:ResourceAccount": !Ref AWS::AccountId}}\n', ""),
    ("a condition is turned round", TEMPLATE, 'Condition: {StringEquals: {"s3:ResourceAccount"', 'Condition: {StringNotEquals: {"s3:ResourceAccount"'),
    ("the worker has an address", TEMPLATE, WORKER, WORKER + "      FunctionUrlConfig: {AuthType: NONE}\n"),
    ("everybody may invoke the worker", TEMPLATE, RESOURCES, RESOURCES + '  Open: {Type: AWS::Lambda::Permission, Properties: {FunctionName: !Ref WorkerFunction, Action: "lambda:InvokeFunction", Principal: "*"}}\n'),
    ("a queue invokes the worker", TEMPLATE, RESOURCES, RESOURCES + "  Queue: {Type: AWS::SQS::Queue}\n  FromQueue: {Type: AWS::Lambda::EventSourceMapping, Properties: {FunctionName: !Ref WorkerFunction, EventSourceArn: !GetAtt Queue.Arn}}\n"),
    ("another account may read the parking table", TEMPLATE, PARKED, PARKED + '      ResourcePolicy: {PolicyDocument: {Version: "2012-10-17", Statement: [{Effect: Allow, Principal: {AWS: "111122223333"}, Action: "dynamodb:Scan", Resource: "*"}]}}\n'),
    ("a layer runs beside the program", TEMPLATE, WORKER, WORKER + "      Layers: ['arn:aws:lambda:eu-west-1:111122223333:layer:more:1']\n"),
    # The bucket of event data.
    ("the bucket's policy allows", TEMPLATE, "Effect: Deny", "Effect: Allow"),
    ("the bucket's policy spares reading", TEMPLATE, 'Action: "s3:*"', 'Action: "s3:Put*"'),
    ("the bucket's policy has another condition", TEMPLATE, '"aws:SecureTransport": "false"', '"aws:SecureTransport": "true"'),
    ("the bucket's policy spares the objects", TEMPLATE, 'Resource: [!GetAtt OnFailureBucket.Arn, !Sub "${OnFailureBucket.Arn}/*"]', "Resource: !GetAtt OnFailureBucket.Arn"),
    ("another account may read the bucket", TEMPLATE, PUBLIC, '          - {Sid: Share, Effect: Allow, Principal: {AWS: "111122223333"}, Action: "s3:GetObject", Resource: !Sub "${OnFailureBucket.Arn}/*"}\n' + PUBLIC),
    ("the policy is of another bucket", TEMPLATE, "      Bucket: !Ref OnFailureBucket\n", "      Bucket: !Sub '${Stage}-other'\n"),
    ("access control lists are public", TEMPLATE, "BlockPublicAcls: true", "BlockPublicAcls: false"),
    ("access control lists count", TEMPLATE, "ObjectOwnership: BucketOwnerEnforced", "ObjectOwnership: ObjectWriter"),
    ("a key that Lambda may not use", TEMPLATE, "{SSEAlgorithm: AES256}", "{SSEAlgorithm: 'aws:kms'}"),
    ("deleted objects are gone", TEMPLATE, "VersioningConfiguration: {Status: Enabled}", "VersioningConfiguration: {Status: Suspended}"),
    ("event data never expires", TEMPLATE, "            Status: Enabled\n", "            Status: Disabled\n"),
    ("old versions never expire", TEMPLATE, "            NoncurrentVersionExpiration: {NoncurrentDays: 7}\n", ""),
    ("event data expires at once", TEMPLATE, SECOND_BUCKET_RULE, "          - {Id: sooner, Status: Enabled, ExpirationInDays: 1}\n" + SECOND_BUCKET_RULE),
    ("only some event data expires", TEMPLATE, SECOND_BUCKET_RULE, SECOND_BUCKET_RULE + "            Prefix: other/\n"),
    ("event data is replicated", TEMPLATE, "      VersioningConfiguration:", "      ReplicationConfiguration: {Role: !GetAtt WorkerRole.Arn, Rules: [{Status: Enabled, Destination: {Bucket: 'arn:aws:s3:::other'}}]}\n      VersioningConfiguration:"),
    ("the bucket goes when it is replaced", TEMPLATE, "    Type: AWS::S3::Bucket\n    DeletionPolicy: Retain\n    UpdateReplacePolicy: Retain", "    Type: AWS::S3::Bucket\n    DeletionPolicy: Retain\n    UpdateReplacePolicy: Delete"),
    # Indexes.
    ("orders sort by one attribute", TEMPLATE, "            - {AttributeName: placedAt, KeyType: RANGE}\n", ""),
    ("orders sort by their ids first", TEMPLATE, "            - {AttributeName: placedAt, KeyType: RANGE}\n            - {AttributeName: id, KeyType: RANGE}\n", "            - {AttributeName: id, KeyType: RANGE}\n            - {AttributeName: placedAt, KeyType: RANGE}\n"),
    # What applications take.
    ("readers may scan", TEMPLATE, READ_ROWS, READ_ROWS.replace('"]', '", "dynamodb:Scan"]')),
    ("readers may write rows", TEMPLATE, READ_ROWS, READ_ROWS.replace('"]', '", "dynamodb:UpdateItem"]')),
    ("readers may not read many rows", TEMPLATE, READ_ROWS, READ_ROWS.replace('"dynamodb:BatchGetItem", ', "")),
    ("readers may read any table", TEMPLATE, '              - !Sub "${ForumCountersTable.Arn}/index/*"\n', '              - "*"\n'),
    ("readers miss an index", TEMPLATE, '              - !Sub "${TopicPostsTable.Arn}/index/*"\n', ""),
    ("readers may not read events", TEMPLATE, FRESH, ""),
    ("readers may read events by their types", TEMPLATE, FRESH, FRESH.replace("!GetAtt EventStoreTable.Arn", '[!GetAtt EventStoreTable.Arn, !Sub "${EventStoreTable.Arn}/index/*"]')),
    ("commands may do anything", TEMPLATE, COMMANDS, '            Action: ["dynamodb:*"]\n'),
    ("commands may not check", TEMPLATE, COMMANDS, COMMANDS.replace('"dynamodb:ConditionCheckItem", ', "")),
    ("commands may put items in batches, without conditions", TEMPLATE, COMMANDS, COMMANDS.replace('"]', '", "dynamodb:BatchWriteItem"]')),
    ("commands may delete events", TEMPLATE, CLAIMS, ""),
    ("commands may delete any item", TEMPLATE, '["CLAIM#*"]', '["*"]'),
    ("commands may give up no claims", TEMPLATE, '["CLAIM#*"]', '["CLAIMS#*"]'),
    ("commands may write rows", TEMPLATE, COMMANDS + "            Resource: !GetAtt EventStoreTable.Arn\n", COMMANDS + "            Resource: [!GetAtt EventStoreTable.Arn, !GetAtt AccountSummaryTable.Arn]\n"),
    ("the worker takes a policy of applications", TEMPLATE, "  CommandPolicy:\n    Type: AWS::IAM::ManagedPolicy\n    Properties:\n", "  CommandPolicy:\n    Type: AWS::IAM::ManagedPolicy\n    Properties:\n      Roles: [!Ref WorkerRole]\n"),
    ("readers are given the policy of commands", TEMPLATE, "Value: !Ref ReaderPolicy", "Value: !Ref CommandPolicy"),
    ("a policy is exported for one stage", TEMPLATE, '"${Stage}-projection-command-policy"', '"projection-command-policy-${Stage}"'),
    # Processes.
    ("nothing ticks", TEMPLATE, TICK, TICK + "      State: DISABLED\n"),
    ("ticks end", TEMPLATE, TICK, TICK + '      EndDate: "2030-01-01T00:00:00.000Z"\n'),
    ("a tick may be late by minutes", TEMPLATE, '{Mode: "OFF"}', "{Mode: FLEXIBLE, MaximumWindowInMinutes: 15}"),
    ("the schedule sends another task", TEMPLATE, """'{"tick":{}}'""", """'{"tick":{"all":true}}'"""),
    ("the wrong function ticks", TEMPLATE, "        Arn: !GetAtt WorkerFunction.Arn\n        RoleArn: !GetAtt TickRole.Arn", "        Arn: !GetAtt OperationsFunction.Arn\n        RoleArn: !GetAtt CatchUpRole.Arn"),
    ("ticks are in the group of all schedules", TEMPLATE, "      GroupName: !Ref Ticks\n", ""),
    ("a failed tick is repeated beside the next", TEMPLATE, "      MaximumEventAgeInSeconds: 60\n      MaximumRetryAttempts: 0\n", "      MaximumEventAgeInSeconds: 60\n      MaximumRetryAttempts: 2\n"),
    ("Lambda keeps ticks of a version", TEMPLATE, "Qualifier: $LATEST", 'Qualifier: "1"'),
    ("another account's schedules may tick", TEMPLATE, 'Action: "sts:AssumeRole"\n            Condition: {StringEquals: {"aws:SourceAccount": !Ref AWS::AccountId}}\n      Policies:\n        - PolicyName: tick', 'Action: "sts:AssumeRole"\n      Policies:\n        - PolicyName: tick'),
    ("a schedule may invoke any function", TEMPLATE, "[{Sid: Tick, Effect: Allow, Action: [\"lambda:InvokeFunction\"], Resource: !GetAtt WorkerFunction.Arn}]", '[{Sid: Tick, Effect: Allow, Action: ["lambda:InvokeFunction"], Resource: "*"}]'),
    ("processes may not append", TEMPLATE, ACT, ""),
    ("processes may delete events", TEMPLATE, ACT, ACT.replace('"]', '", "dynamodb:DeleteItem"]')),
    ("processes may put items in batches, without conditions", TEMPLATE, ACT, ACT.replace('"]', '", "dynamodb:BatchWriteItem"]')),
    ("processes may append to any table", TEMPLATE, ACT, ACT.replace("!GetAtt EventStoreTable.Arn", '"*"')),
    ("a tick finds no timers", TEMPLATE, TIMERS, '                Resource: [!Sub "${ProcessStatusTable.Arn}/index/instances-by-status"]\n'),
    ("a tick may read every index", TEMPLATE, TIMERS, '                Resource: !Sub "${EventStoreTable.Arn}/index/*"\n'),
    ("readers may read watermarks", TEMPLATE, READ_ROWS + "            Resource:\n", READ_ROWS + "            Resource:\n              - !GetAtt TransfersTable.Arn\n"),
    ("instances are listed without their process", TEMPLATE, "            - {AttributeName: process, KeyType: HASH}\n", ""),
    ("instances are listed in no order", TEMPLATE, "            - {AttributeName: startedAt, KeyType: RANGE}\n            - {AttributeName: id, KeyType: RANGE}\n          Projection: {ProjectionType: INCLUDE, NonKeyAttributes: [endedAt", "            - {AttributeName: id, KeyType: RANGE}\n            - {AttributeName: startedAt, KeyType: RANGE}\n          Projection: {ProjectionType: INCLUDE, NonKeyAttributes: [endedAt"),
    ("counting rewrites an index", TEMPLATE, "NonKeyAttributes: [endedAt, why, stuckBecause]", "NonKeyAttributes: [endedAt, why, stuckBecause, received]"),
    ("instances expire", TEMPLATE, '      TableName: !Sub "${Stage}-process-status"\n', '      TableName: !Sub "${Stage}-process-status"\n      TimeToLiveSpecification: {AttributeName: endedAt, Enabled: true}\n'),
    ("a process is not caught up", TEMPLATE, '{"catchUp":{"projection":"transfers"', '{"catchUp":{"projection":"order-fulfilment"'),
    ("the fewest stuck instances count", *of_alarm("StuckAlarm", "SELECT SUM(Stuck)", "SELECT MIN(Stuck)")),
    ("ten stuck instances are nothing", *of_alarm("StuckAlarm", "Threshold: 0", "Threshold: 10")),
    ("the youngest instance counts", *of_alarm("OpenTooLongAlarm", "SELECT MAX(OldestOpenAge)", "SELECT MIN(OldestOpenAge)")),
    ("instances may be open for a year", TEMPLATE, "Default: 345600", "Default: 31536000"),
    ("a day of old instances is nothing", *of_alarm("OpenTooLongAlarm", "EvaluationPeriods: 1\n      DatapointsToAlarm: 1", "EvaluationPeriods: 288\n      DatapointsToAlarm: 288")),
    ("a tick that is refused is nothing", *of_alarm("TicksFailedAlarm", '"FILL(refused, 0) + FILL(dropped, 0) + FILL(expired, 0)"', '"FILL(dropped, 0) + FILL(expired, 0)"')),
    ("ticks of another group are watched", *of_alarm("TicksFailedAlarm", "Value: !Ref Ticks", "Value: default")),
    ("ticks that stop are good news", *of_alarm("TicksStoppedAlarm", "TreatMissingData: breaching", "TreatMissingData: notBreaching")),
    ("ticks of another stage are watched", *of_alarm("TicksStoppedAlarm", "Value: !Ref Stage", "Value: prod")),
    ("no process stands for all", *of_alarm("TicksStoppedAlarm", "{Name: projection, Value: order-fulfilment}, ", "")),
    ("the event store's throttles are left out", *of_alarm("ProcessThrottlesAlarm", "FILL(events, 0) + ", "")),
    # The state machine.
    ("lost segments are tolerated", MACHINE, '"ToleratedFailureCount": 0', '"ToleratedFailureCount": 1'),
    ("a share of lost segments is tolerated", MACHINE, '"ToleratedFailureCount": 0', '"ToleratedFailureCount": 0, "ToleratedFailurePercentage": 50'),
    ("errors of segments are swallowed", MACHINE, '"Output": "{% $states.result.Payload %}",\n            "Next": "IsSegmentDone"', '"Catch": [{ "ErrorEquals": ["States.ALL"], "Next": "SegmentDone" }],\n            "Output": "{% $states.result.Payload %}",\n            "Next": "IsSegmentDone"'),
    ("errors of verifying are swallowed", MACHINE, '      "Next": "IsVerified"', '      "Catch": [{ "ErrorEquals": ["States.ALL"], "Next": "Rebuilt" }],\n      "Next": "IsVerified"'),
    ("a rebuild has an hour", MACHINE, '"TimeoutSeconds": 604800', '"TimeoutSeconds": 3600'),
    ("the machine gives up before the function", MACHINE, '"TimeoutSeconds": 930', '"TimeoutSeconds": 600'),
    ("a heartbeat that nobody sends", MACHINE, '"TimeoutSeconds": 930', '"TimeoutSeconds": 930, "HeartbeatSeconds": 60'),
    ("segments run one by one", MACHINE, '"{% ${Concurrency} %}"', "1"),
    ("no limit of concurrency", MACHINE, '      "MaxConcurrency": "{% ${Concurrency} %}",\n', ""),
    ("children end after five minutes", MACHINE, '"ExecutionType": "STANDARD"', '"ExecutionType": "EXPRESS"'),
    ("retries come at once", MACHINE, '"IntervalSeconds": 15, "MaxAttempts": 5, "BackoffRate": 2', '"IntervalSeconds": 1, "MaxAttempts": 5, "BackoffRate": 1'),
    ("a rebuild is express", TEMPLATE, "      Type: STANDARD\n", "      Type: EXPRESS\n"),
    # Catching up.
    ("a failed catch-up is not tried again", TEMPLATE, "MaximumRetryAttempts: 5", "MaximumRetryAttempts: 0"),
    # What is kept.
    ("rows are protected in vain", TEMPLATE, "  AccountSummaryTable:\n    Type: AWS::DynamoDB::Table\n    DeletionPolicy: Delete", "  AccountSummaryTable:\n    Type: AWS::DynamoDB::Table\n    DeletionPolicy: Retain"),
    ("logs are kept for a day", TEMPLATE, "    Default: 30\n    AllowedValues: [1,", "    Default: 1\n    AllowedValues: [1,"),
    ("records are given up after a minute", TEMPLATE, "Default: 43200", "Default: 60"),
]
