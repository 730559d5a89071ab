"""What must be in the template and in the state machine, and nothing else, each value with its reason.

Linters know what is valid, not what is right: a concurrency of 0, an alarm with another threshold, one more policy or one more resource
are all valid. So the template, as SAM translates it, is compared as a whole. A value that differs, and a property, resource or section
that nobody has reviewed, is a problem. Who changes the template also changes this file, and with it the reason.

A reason holds for its value and for everything below that has none of its own. Descriptions are only required to exist.
Whether names, keys, variables, permissions, tasks and metrics are those of the code is checked in Rust:
tests/end_to_end/infrastructure.rs.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Callable


@dataclass(frozen=True)
class Because:
    """A value that must be there, and why."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Holds:
    """A value that is not compared but tested; `problem` returns what is wrong with it, or nothing."""

    problem: Callable[[Any], str | None]


TEXT = Holds(lambda value: None if isinstance(value, str) and value.strip() else "is no text")


def ref(name):
    return {"Ref": name}


def arn(name, attribute="Arn"):
    return {"Fn::GetAtt": [name, attribute]}


def sub(text):
    return {"Fn::Sub": text}


# ------------------------------------------------------------------------------------------------------------------ the parts

KEPT = {
    "DeletionPolicy": Because("Retain", "its content exists nowhere else and must outlive the stack"),
    "UpdateReplacePolicy": Because("Retain", "its content exists nowhere else and must outlive a replacement"),
}
DELETED = {
    "DeletionPolicy": Because("Delete", "it can be made again, and would block the next deployment of the stage"),
    "UpdateReplacePolicy": Because("Delete", "it can be made again"),
}


def table(name, keys, more=None, kept=False):
    """A table with its keys: ((attribute, kind), ...)."""
    properties = {
        "TableName": Because(sub("${Stage}-" + name), "a fixed name keeps CloudFormation from replacing the table by an empty one"),
        "BillingMode": Because("PAY_PER_REQUEST", "nobody knows the load beforehand, a provisioned unit would stop everything, and an idle stage is free"),
        "KeySchema": Because([{"AttributeName": key, "KeyType": kind} for key, kind in keys], "the keys of the code"),
        **(more or {}),
    }
    if kept:
        properties["DeletionProtectionEnabled"] = Because(True, "one call would delete what exists nowhere else")
        properties["PointInTimeRecoverySpecification"] = Because({"PointInTimeRecoveryEnabled": True}, "a mistake with the table can be undone")
        return {"Type": "AWS::DynamoDB::Table", **KEPT, "Properties": properties}
    skipped = {"checkov": {"skip": [{"id": "CKV_AWS_28", "comment": TEXT}]}}
    return {"Type": "AWS::DynamoDB::Table", **DELETED, "Metadata": skipped, "Properties": properties}


def watermarks(process):
    """The table of a process: a watermark for each aggregate, and nothing to read."""
    return table(process, [("aggregateId", "HASH")], {"AttributeDefinitions": attributes("aggregateId")})


def index(name, partition, sort, include):
    """An index of a read model: its keys, several if they are in a list, and the attributes that it has besides."""
    partition = partition if isinstance(partition, list) else [partition]
    keys = [*((attribute, "HASH") for attribute in partition), *((attribute, "RANGE") for attribute in sort)]
    return {
        "IndexName": name,
        "KeySchema": [{"AttributeName": key, "KeyType": kind} for key, kind in keys],
        "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": include},
    }


def attributes(*names):
    return Because([{"AttributeName": name, "AttributeType": "S"} for name in names], "the keys are texts")


def logs(name):
    return {
        "Type": "AWS::Logs::LogGroup",
        **DELETED,
        "Properties": {
            "LogGroupName": Because(sub(f"/aws/lambda/${{Stage}}-{name}"), "where the function's role may write"),
            "RetentionInDays": Because(ref("LogRetentionDays"), "logs that never expire cost more each month"),
        },
    }


def function(name, role, log_group, memory, timeout):
    return {
        "Type": "AWS::Lambda::Function",
        # Without ReservedConcurrentExecutions: 0 stops the function, and 1 lets one shard wait for another.
        # Without layers, VPC, dead-letter queue, URL or tracing: each needs permissions or is a way in.
        "Properties": {
            "FunctionName": sub(f"${{Stage}}-{name}"),
            "Description": TEXT,
            "Code": Because({"S3Bucket": "artifacts", "S3Key": "bootstrap.zip"}, "both functions run the one program"),
            "Runtime": Because("provided.al2023", "the program is a binary that needs no runtime"),
            "Architectures": Because(["arm64"], "the program is built for it"),
            "Handler": Because("bootstrap", "what the archive contains"),
            "Role": Because(arn(role), "each function may do only what its own code does"),
            "MemorySize": memory,
            "Timeout": timeout,
            "Environment": Because(
                {
                    "Variables": {
                        "STAGE": ref("Stage"),
                        "EVENT_STORE_TABLE": ref("EventStoreTable"),
                        "PARKED_TABLE": ref("ParkedTable"),
                        "ACCOUNT_SUMMARY_TABLE": ref("AccountSummaryTable"),
                        "ACCOUNT_STATEMENT_TABLE": ref("AccountStatementTable"),
                        "FORUM_COUNTERS_TABLE": ref("ForumCountersTable"),
                        "TOPIC_POSTS_TABLE": ref("TopicPostsTable"),
                        "USERS_AND_ORDERS_TABLE": ref("UsersAndOrdersTable"),
                        "TRANSFERS_TABLE": ref("TransfersTable"),
                        "ORDER_FULFILMENT_TABLE": ref("OrderFulfilmentTable"),
                        "PROCESS_STATUS_TABLE": ref("ProcessStatusTable"),
                    }
                },
                "the variables that the program reads, and no others",
            ),
            "LoggingConfig": {
                "LogGroup": Because(ref(log_group), "the group that expires"),
                "LogFormat": Because("JSON", "the log level applies to JSON only"),
                "ApplicationLogLevel": Because(ref("LogLevel"), "its allowed values keep the lines that carry metrics"),
                "SystemLogLevel": Because("INFO", "the report of each invocation, with its time and memory"),
            },
            "Tags": Because([{"Key": "lambda:createdBy", "Value": "SAM"}], "SAM adds it"),
        },
    }


def trust(service, condition=None):
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    if condition:
        statement["Condition"] = Because(condition, "without it, another account's resource could make the service use the role")
    return Because({"Version": "2012-10-17", "Statement": [statement]}, "who may use the role: this service and nobody else")


OF_ACCOUNT = {"StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")}}


def allowed(statements):
    """(sid, actions, resources, condition), the last of them if there is one."""
    return [
        {
            "Sid": sid,
            "Effect": "Allow",
            "Action": actions,
            "Resource": resources,
            **({"Condition": condition[0]} if condition else {}),
        }
        for sid, actions, resources, *condition in statements
    ]


def policy(*statements):
    """A policy that applications attach to roles of their own."""
    return {
        "Type": "AWS::IAM::ManagedPolicy",
        # Without Roles, Users and Groups: whoever takes it says so. Without ManagedPolicyName and Description, which cannot be changed.
        "Properties": {
            "PolicyDocument": Because(
                {"Version": "2012-10-17", "Statement": allowed(statements)}, "exactly what the code calls in a service, on exactly these resources"
            ),
        },
    }


def role(trusted, policy, *statements):
    """A role with one policy of its own; (sid, actions, resources, condition)."""
    return {
        "Type": "AWS::IAM::Role",
        # Without managed policies, which allow more than is needed and change without notice.
        "Properties": {
            "AssumeRolePolicyDocument": trusted,
            "Policies": Because(
                [
                    {
                        "PolicyName": policy,
                        "PolicyDocument": {
                            "Version": "2012-10-17",
                            "Statement": allowed(statements),
                        },
                    }
                ],
                "exactly what its code calls, on exactly these resources",
            ),
        },
    }


PARK = ("Park", ["dynamodb:PutItem", "dynamodb:UpdateItem"], arn("ParkedTable"))
OF_CLAIMS = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["CLAIM#*"]}}
# Statements of the worker and of operations.
ACT = ("ActForProcesses", ["dynamodb:PutItem", "dynamodb:UpdateItem"], arn("EventStoreTable"))
READ_MODELS = [
    arn(table)
    for table in ["AccountSummaryTable", "AccountStatementTable", "ForumCountersTable", "TopicPostsTable", "UsersAndOrdersTable", "ProcessStatusTable"]
]
ROWS = [*READ_MODELS, arn("TransfersTable"), arn("OrderFulfilmentTable")]
OWN_BUCKET = {"StringEquals": {"s3:ResourceAccount": ref("AWS::AccountId")}}


def log(group):
    return ("Log", ["logs:CreateLogStream", "logs:PutLogEvents"], arn(group))


def of_machine(kind, rest=""):
    return sub(f"arn:${{AWS::Partition}}:states:${{AWS::Region}}:${{AWS::AccountId}}:{kind}:${{Stage}}-projection-rebuild{rest}")


INVOKE = (["lambda:InvokeFunction"], arn("OperationsFunction"))


def schedule(projection):
    return {
        "Type": "AWS::Scheduler::Schedule",
        # Without State, StartDate and EndDate: it is enabled, at once and for ever.
        "Properties": {
            "Description": TEXT,
            "ScheduleExpression": Because(ref("CatchUpSchedule"), "the time between two runs, which CatchUpSince has to exceed"),
            "FlexibleTimeWindow": Because({"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 30}, "the projections do not start at the same time"),
            "Target": {
                "Arn": Because(arn("OperationsFunction"), "the function that knows the task"),
                "RoleArn": Because(arn("CatchUpRole"), "it may invoke that function"),
                "Input": Because(
                    sub('{"catchUp":{"projection":"' + projection + '","since":"${CatchUpSince}"}}'), "the task that catches this projection up"
                ),
                "RetryPolicy": Because({"MaximumRetryAttempts": 5, "MaximumEventAgeInSeconds": 3600}, "a passing failure does not skip a day"),
            },
        },
    }


NOTIFY = Because({"Fn::If": ["HasAlarmTopic", [ref("AlarmTopicArn")], ref("AWS::NoValue")]}, "somebody is told, if there is a topic")
ABOVE_0 = {"comparison": "GreaterThanThreshold", "threshold": 0}


def alarm(watched, periods, datapoints, why, comparison="GreaterThanThreshold", threshold=0, missing="notBreaching"):
    return {
        "Type": "AWS::CloudWatch::Alarm",
        # Without ActionsEnabled: an alarm that tells nobody is none.
        "Properties": {
            "AlarmDescription": TEXT,
            **watched,
            "EvaluationPeriods": Because(periods, why),
            "DatapointsToAlarm": Because(datapoints, why),
            "ComparisonOperator": Because(comparison, why),
            "Threshold": Because(threshold, why),
            "TreatMissingData": Because(missing, "no data is good news, except for a poller and for ticks, which always report"),
            "AlarmActions": NOTIFY,
            "OKActions": NOTIFY,
        },
    }


def dimensions(name, of):
    return Because([{"Name": name, "Value": ref(of)}], "a metric has data only under exactly its dimensions")


def metric(namespace, name, statistic, period, dimension, of):
    return {
        "Namespace": namespace,
        "MetricName": Because(name, "what is watched"),
        "Dimensions": dimensions(dimension, of),
        "Statistic": Because(statistic, "counts are summed, times have a maximum"),
        "Period": Because(period, "AWS publishes each minute"),
    }


def of_lambda(name, statistic="Sum", period=60, of="WorkerFunction"):
    return metric("AWS/Lambda", name, statistic, period, "FunctionName", of)


def of_ticks(name):
    return ("AWS/Scheduler", name, "ScheduleGroup", "Ticks")


def of_stream(name, period=60):
    return metric("AWS/Lambda", name, "Sum", period, "EventSourceMappingUUID", "WorkerStream")


def query(text, period):
    """A metric of the worker's own, over all projections."""
    whole = {"Id": "all", "Period": period, "Expression": sub(text + " WHERE stage = '${Stage}'")}
    return {"Metrics": Because([whole], "the metric that the code counts, of this stage")}


def total(period, **metrics):
    """The sum of several metrics: (namespace, name, dimension, of) by id."""
    parts = [{"Id": "all", "Expression": " + ".join(f"FILL({id}, 0)" for id in metrics)}]
    for id, (namespace, name, dimension, of) in metrics.items():
        stat = {
            "Stat": "Sum",
            "Period": period,
            "Metric": {"Namespace": namespace, "MetricName": name, "Dimensions": dimensions(dimension, of)},
        }
        parts.append({"Id": id, "ReturnData": False, "MetricStat": stat})
    return {"Metrics": Because(parts, "each of these is a failure, and a sum with missing data is missing unless it is filled")}


def given_up(name):
    return ("AWS/Lambda", name, "EventSourceMappingUUID", "WorkerStream")


def throttled(of):
    return ("AWS/DynamoDB", "WriteThrottleEvents", "TableName", of)


def rebuilds(name):
    return ("AWS/States", name, "StateMachineArn", "RebuildStateMachine")


# The widgets of the dashboard: title, statistic, and the metrics.
DASHBOARD = {
    "How far behind (ms)": ("Maximum", ["IteratorAge", "LagMs"]),
    "Events by outcome": ("Sum", ["Applied", "Duplicate", "Gaps", "Healed", "Reprojected", "Settled"]),
    "Parked, failed, caught up, differing": ("Sum", ["Parked", "Failed", "CaughtUp", "Differing"]),
    "Records of the stream": (
        "Sum",
        ["PolledEventCount", "FilteredOutEventCount", "InvokedEventCount", "FailedInvokeEventCount", "OnFailureDestinationDeliveredEventCount", "DroppedEventCount"],
    ),
    "Batches": ("Sum", ["BatchSize", "Ignored", "Rewritten"]),
    "Cost": ("Sum", ["Requests", "WriteUnits", "ReadUnits", "Retries", "Conflicts"]),
    "Functions": ("Sum", ["Duration", "Errors", "Throttles", "Errors"]),
    "Tables": ("Sum", ["ConsumedWriteCapacityUnits", "WriteThrottleEvents"]),
    "Instances of processes": ("Sum", ["Started", "Sent", "Accepted", "Refused", "TimedOut", "Undoing", "Stuck", "Completed", "Undone", "Resolved"]),
    "Oldest open instance (s), ticks that do not arrive": (
        "Maximum",
        ["OldestOpenAge", "TargetErrorCount", "InvocationDroppedCount", "AsyncEventsDropped"],
    ),
    "Warnings and errors": (None, []),
}


def dashboard(body):
    shown = {}
    for widget in json.loads(body["Fn::Sub"])["widgets"]:
        properties = widget["properties"]
        if properties["region"] != "${AWS::Region}":
            return f"the widget {properties['title']!r} is of another region"
        if widget["type"] == "metric" and (properties["period"], properties["view"]) != (60, "timeSeries"):
            return f"the widget {properties['title']!r} is not drawn by the minute"
        names = []
        for drawn in properties.get("metrics", []):
            if isinstance(drawn[0], dict):
                names += re.findall(r"^SELECT (?:SUM|MAX)\((\w+)\)", drawn[0]["expression"])
            elif drawn[0] != "...":
                names.append(drawn[1])
        shown[properties["title"]] = (properties.get("stat"), names)
    return None if shown == DASHBOARD else f"shows {shown}, and should show {DASHBOARD}"


# ---------------------------------------------------------------------------------------------------------------- the template

STREAM_FILTER = '{"eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}'

RESOURCES = {
    "EventStoreTable": table(
        "event-store",
        [("PK", "HASH"), ("SK", "RANGE")],
        {
            "StreamSpecification": Because({"StreamViewType": "NEW_IMAGE"}, "the worker reads events from new images"),
            "AttributeDefinitions": attributes("PK", "SK", "GSI1PK", "GSI1SK"),
            "GlobalSecondaryIndexes": Because(
                [
                    {
                        "IndexName": "GSI1",
                        "KeySchema": [{"AttributeName": "GSI1PK", "KeyType": "HASH"}, {"AttributeName": "GSI1SK", "KeyType": "RANGE"}],
                        "Projection": {"ProjectionType": "ALL"},
                    }
                ],
                "catch-up finds recent events by their type",
            ),
        },
        kept=True,
    ),
    # Without TimeToLiveSpecification: parked records wait for an operator.
    "ParkedTable": table(
        "parked", [("aggregateId", "HASH"), ("projection", "RANGE")], {"AttributeDefinitions": attributes("aggregateId", "projection")}, kept=True
    ),
    "AccountSummaryTable": table("account-summary", [("accountId", "HASH")], {"AttributeDefinitions": attributes("accountId")}),
    # Child rows sort after their home row.
    "AccountStatementTable": table(
        "account-statement", [("accountId", "HASH"), ("movement", "RANGE")], {"AttributeDefinitions": attributes("accountId", "movement")}
    ),
    "TopicPostsTable": table(
        "topic-posts",
        [("topicId", "HASH"), ("postId", "RANGE")],
        {
            "AttributeDefinitions": attributes("topicId", "postId", "authorId", "at"),
            "GlobalSecondaryIndexes": Because(
                [index("posts-by-author", "authorId", ["at", "postId"], ["text"])], "an author's posts by time; no two posts have the same keys"
            ),
        },
    ),
    "ForumCountersTable": table(
        "forum-counters",
        [("id", "HASH")],
        {
            "AttributeDefinitions": attributes("authorId", "categoryId", "id"),
            "GlobalSecondaryIndexes": Because(
                [
                    index("topics-by-category", "categoryId", ["id"], ["title", "authorId"]),
                    index("topics-by-author", "authorId", ["id"], ["title", "categoryId"]),
                ],
                "no counter is in them, so that counting does not rewrite an index",
            ),
        },
    ),
    "UsersAndOrdersTable": table(
        "users-and-orders",
        [("id", "HASH")],
        {
            "AttributeDefinitions": attributes("id", "email", "userId", "status", "placedAt"),
            "GlobalSecondaryIndexes": Because(
                [
                    index("users-by-email", "email", ["id"], ["name"]),
                    index("orders-by-user", "userId", ["placedAt", "id"], ["status", "total"]),
                    index("orders-by-status", "status", ["placedAt", "id"], ["userId", "total"]),
                ],
                "orders by time, without their items; no two orders have the same keys",
            ),
        },
    ),
    # Deleted with the stack: what an instance knows and did is in the event store, so that events that are delivered again do nothing.
    "TransfersTable": watermarks("transfers"),
    "OrderFulfilmentTable": watermarks("order-fulfilment"),
    # Timers sort after the row of their instance.
    "ProcessStatusTable": table(
        "process-status",
        [("id", "HASH"), ("timer", "RANGE")],
        {
            "AttributeDefinitions": attributes("id", "timer", "process", "status", "startedAt", "timersOf", "due"),
            "GlobalSecondaryIndexes": Because(
                [
                    index("instances-by-status", ["process", "status"], ["startedAt", "id"], ["endedAt", "why", "stuckBecause"]),
                    index("timers-by-due", "timersOf", ["due"], ["startedBy"]),
                ],
                "a tick reads what is due, and the oldest instance of each status; no count is in them, so that counting does not rewrite an index",
            ),
        },
    ),
    "OnFailureBucket": {
        "Type": "AWS::S3::Bucket",
        **KEPT,
        # Without website, CORS, replication, notifications or access points: its objects are event data.
        "Properties": {
            "BucketEncryption": Because(
                {"ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]},
                "event data is encrypted; with a key of KMS, Lambda and replay would need permissions on it",
            ),
            "PublicAccessBlockConfiguration": Because(
                {"BlockPublicAcls": True, "BlockPublicPolicy": True, "IgnorePublicAcls": True, "RestrictPublicBuckets": True},
                "event data is never public",
            ),
            "OwnershipControls": Because({"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}, "no access control lists"),
            "VersioningConfiguration": Because({"Status": "Enabled"}, "an object that was deleted before its replay can be restored"),
            "LifecycleConfiguration": Because(
                {
                    "Rules": [
                        {
                            "Id": "event-data-expires",
                            "Status": "Enabled",
                            "ExpirationInDays": ref("OnFailureRetentionDays"),
                            "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
                            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                        }
                    ]
                },
                "event data is kept as long as promised, all of it and no longer",
            ),
        },
    },
    "OnFailureBucketPolicy": {
        "Type": "AWS::S3::BucketPolicy",
        "Properties": {
            "Bucket": ref("OnFailureBucket"),
            "PolicyDocument": Because(
                {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Sid": "OnlyOverTls",
                            "Effect": "Deny",
                            "Principal": "*",
                            "Action": "s3:*",
                            "Resource": [arn("OnFailureBucket"), sub("${OnFailureBucket.Arn}/*")],
                            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                        }
                    ],
                },
                "it refuses everybody who comes without TLS, and allows nobody anything",
            ),
        },
    },
    "WorkerLogs": logs("projection-worker"),
    "WorkerRole": role(
        trust("lambda.amazonaws.com"),
        "worker",
        (
            "ReadStream",
            ["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams"],
            arn("EventStoreTable", "StreamArn"),
        ),
        ("ReadMissingEvents", ["dynamodb:Query"], arn("EventStoreTable")),
        # Without DeleteItem: no kind of aggregate that a process commands has claims, and events are never deleted.
        ACT,
        (
            "FindTimersAndOpenInstances",
            ["dynamodb:Query"],
            [sub("${ProcessStatusTable.Arn}/index/instances-by-status"), sub("${ProcessStatusTable.Arn}/index/timers-by-due")],
        ),
        (
            "AdvanceRows",
            ["dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem"],
            ROWS,
        ),
        PARK,
        ("KeepRecordsGivenUp", ["s3:PutObject"], sub("${OnFailureBucket.Arn}/aws/lambda/*"), OWN_BUCKET),
        ("ListBucket", ["s3:ListBucket"], arn("OnFailureBucket"), OWN_BUCKET),
        log("WorkerLogs"),
    ),
    "WorkerFunction": function(
        "projection-worker",
        "WorkerRole",
        "WorkerLogs",
        Because(512, "a batch of 10,000 takes up to 145 MB, and processor time comes with memory"),
        Because(60, "requests in progress need 3 s in the last fifth, a full batch of 10,000 about 29 s, and a tick ends before the next"),
    ),
    "TickRole": role(
        trust("scheduler.amazonaws.com", OF_ACCOUNT), "tick", ("Tick", ["lambda:InvokeFunction"], arn("WorkerFunction"))
    ),
    "Ticks": {
        "Type": "AWS::Scheduler::ScheduleGroup",
        "Properties": {"Name": Because(sub("${Stage}-projection-ticks"), "metrics of schedules are those of their group")},
    },
    "Tick": {
        "Type": "AWS::Scheduler::Schedule",
        # Without State, StartDate and EndDate: it is enabled, at once and for ever. Without a dead-letter queue: a tick that is lost is made
        # up for by the next, and nobody would send it again.
        "Properties": {
            "Description": TEXT,
            "GroupName": Because(ref("Ticks"), "its failures are alarmed, and not those of other schedules"),
            "ScheduleExpression": Because("rate(1 minute)", "timers run out to the minute; the scheduler knows no shorter time"),
            "FlexibleTimeWindow": Because({"Mode": "OFF"}, "a minute is late enough"),
            "Target": {
                "Arn": Because(arn("WorkerFunction"), "it may do what processes do, and its timeout ends a tick before the next"),
                "RoleArn": Because(arn("TickRole"), "it may invoke that function"),
                "Input": Because('{"tick":{}}', "the task that lets timers run out"),
                "RetryPolicy": Because({"MaximumRetryAttempts": 1, "MaximumEventAgeInSeconds": 60}, "the next tick does what this one could not do"),
            },
        },
    },
    "TickInvocations": {
        "Type": "AWS::Lambda::EventInvokeConfig",
        "Properties": {
            "FunctionName": Because(ref("WorkerFunction"), "only ticks invoke it asynchronously: the poller waits for its answers"),
            "Qualifier": Because("$LATEST", "the schedule names no version"),
            "MaximumEventAgeInSeconds": Because(60, "after an outage one tick is enough; six hours of them would be kept"),
            "MaximumRetryAttempts": Because(0, "the next tick is the retry"),
        },
    },
    "WorkerStream": {
        "Type": "AWS::Lambda::EventSourceMapping",
        "Properties": {
            "EventSourceArn": Because(arn("EventStoreTable", "StreamArn"), "the events"),
            "FunctionName": Because(arn("WorkerFunction"), "the worker"),
            "Enabled": Because(ref("StreamEnabled"), "it can be paused, and is not by default"),
            "StartingPosition": Because("TRIM_HORIZON", "LATEST misses events while the mapping is created"),
            "ParallelizationFactor": Because(1, "above 1 an aggregate's events arrive out of order"),
            "BatchSize": ref("BatchSize"),
            "MaximumBatchingWindowInSeconds": ref("BatchingWindowSeconds"),
            "FilterCriteria": Because({"Filters": [{"Pattern": STREAM_FILTER}]}, "each event and nothing else"),
            "FunctionResponseTypes": Because(["ReportBatchItemFailures"], "otherwise every answer is full success"),
            "BisectBatchOnFunctionError": Because(True, "a batch that kills the process does not block its shard"),
            "MaximumRetryAttempts": ref("MaxRetryAttempts"),
            "MaximumRecordAgeInSeconds": ref("MaxRecordAgeSeconds"),
            "DestinationConfig": Because({"OnFailure": {"Destination": arn("OnFailureBucket")}}, "only S3 receives the records"),
            "MetricsConfig": Because({"Metrics": ["EventCount"]}, "the alarms on the poller have no data without it"),
        },
    },
    "OperationsLogs": logs("projection-operations"),
    "OperationsRole": role(
        trust("lambda.amazonaws.com"),
        "operations",
        ("ReadHistories", ["dynamodb:BatchGetItem", "dynamodb:Query", "dynamodb:Scan"], arn("EventStoreTable")),
        # Catching up a process delivers what the stream lost, and carries out what was sent.
        ACT,
        ("ReadRecentEvents", ["dynamodb:Query"], sub("${EventStoreTable.Arn}/index/GSI1")),
        (
            "ReplaceAndVerifyRows",
            [
                "dynamodb:BatchGetItem",
                "dynamodb:DeleteItem",
                "dynamodb:GetItem",
                "dynamodb:PutItem",
                "dynamodb:Query",
                "dynamodb:Scan",
                "dynamodb:UpdateItem",
            ],
            ROWS,
        ),
        ("ParkAndKeepVerifications", ["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"], arn("ParkedTable")),
        log("OperationsLogs"),
    ),
    "OperationsFunction": function(
        "projection-operations",
        "OperationsRole",
        "OperationsLogs",
        Because(1024, "a rebuild folds whole histories, and processor time comes with memory"),
        Because(900, "as long as Lambda allows; the state machine waits 30 s longer"),
    ),
    "RebuildRole": role(
        trust("states.amazonaws.com", OF_ACCOUNT),
        "rebuild",
        ("Work", *INVOKE),
        ("StartSegments", ["states:StartExecution"], of_machine("stateMachine")),
        (
            "WatchSegments",
            ["states:DescribeExecution", "states:RedriveExecution", "states:StopExecution"],
            [of_machine("execution", ":*"), of_machine("execution", "/Segments:*")],
        ),
    ),
    "RebuildStateMachine": {
        "Type": "AWS::StepFunctions::StateMachine",
        "Metadata": {"checkov": {"skip": [{"id": "CKV_AWS_284", "comment": TEXT}, {"id": "CKV_AWS_285", "comment": TEXT}]}},
        "Properties": {
            "StateMachineName": Because(sub("${Stage}-projection-rebuild"), "the role names its executions"),
            "StateMachineType": Because("STANDARD", "an express execution ends after 5 minutes"),
            "RoleArn": arn("RebuildRole"),
            "DefinitionString": Holds(lambda definition: None),  # compared below, as it is written
            "DefinitionSubstitutions": Because(
                {
                    "Partition": ref("AWS::Partition"),
                    "OperationsFunction": arn("OperationsFunction"),
                    "Segments": ref("RebuildSegments"),
                    "Concurrency": ref("RebuildConcurrency"),
                },
                "what the definition leaves open",
            ),
            "Tags": Because([{"Key": "stateMachine:createdBy", "Value": "SAM"}], "SAM adds it"),
        },
    },
    "CatchUpRole": role(trust("scheduler.amazonaws.com", OF_ACCOUNT), "catch-up", ("CatchUp", *INVOKE)),
    "AccountSummaryCatchUp": schedule("account-summary"),
    "AccountStatementCatchUp": schedule("account-statement"),
    "ForumCountersCatchUp": schedule("forum-counters"),
    "TopicPostsCatchUp": schedule("topic-posts"),
    "UsersAndOrdersCatchUp": schedule("users-and-orders"),
    "TransfersCatchUp": schedule("transfers"),
    "OrderFulfilmentCatchUp": schedule("order-fulfilment"),
    "ProcessStatusCatchUp": schedule("process-status"),
    "ReaderPolicy": policy(
        ("ReadRows", ["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query"], READ_MODELS),
        (
            "ReadIndexes",
            ["dynamodb:Query"],
            [sub(f"${{{table}.Arn}}/index/*") for table in ["ForumCountersTable", "TopicPostsTable", "UsersAndOrdersTable", "ProcessStatusTable"]],
        ),
        ("ReadEventsThatNoRowCounts", ["dynamodb:Query"], arn("EventStoreTable")),
    ),
    "CommandPolicy": policy(
        (
            "DecideAndAppend",
            ["dynamodb:ConditionCheckItem", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem"],
            arn("EventStoreTable"),
        ),
        ("GiveUpClaims", ["dynamodb:DeleteItem"], arn("EventStoreTable"), OF_CLAIMS),
    ),
    "IteratorAgeAlarm": alarm(
        of_lambda("IteratorAge", "Maximum"), 5, 3, "late for minutes, and not for one batch", threshold=ref("LagAlarmMs")
    ),
    "LagAlarm": alarm(
        query('SELECT MAX(LagMs) FROM SCHEMA("ProjectionWorker", projection, stage)', 60),
        5,
        3,
        "late for minutes, and not for one batch",
        threshold=ref("LagAlarmMs"),
    ),
    "ParkedAlarm": alarm(query('SELECT SUM(Parked) FROM SCHEMA("ProjectionWorker", stage)', 300), 1, 1, "one parked aggregate waits for somebody"),
    "GivenUpAlarm": alarm(
        total(
            60,
            delivered=given_up("OnFailureDestinationDeliveredEventCount"),
            dropped=given_up("DroppedEventCount"),
            undelivered=("AWS/Lambda", "DestinationDeliveryFailures", "FunctionName", "WorkerFunction"),
        ),
        1,
        1,
        "one record given up waits for somebody",
    ),
    "FailedRecordsAlarm": alarm(of_stream("FailedInvokeEventCount"), 15, 10, "failures for minutes: retries help against the rest"),
    "PollerStoppedAlarm": alarm(
        of_stream("PolledEventCount", 300),
        3,
        3,
        "no value is below 0, so it fires only without data: an idle poller reports 0",
        comparison="LessThanThreshold",
        missing="breaching",
    ),
    "WorkerErrorsAlarm": alarm(of_lambda("Errors"), 5, 2, "one error is retried, two in five minutes are not chance"),
    "WorkerThrottlesAlarm": alarm(of_lambda("Throttles"), 5, 3, "throttled for minutes, and not by one burst"),
    "OperationsErrorsAlarm": alarm(of_lambda("Errors", period=300, of="OperationsFunction"), 1, 1, "one failed catch-up leaves rows behind"),
    "TableThrottlesAlarm": alarm(
        total(
            60,
            accounts=throttled("AccountSummaryTable"),
            statements=throttled("AccountStatementTable"),
            forum=throttled("ForumCountersTable"),
            posts=throttled("TopicPostsTable"),
            shop=throttled("UsersAndOrdersTable"),
            parked=throttled("ParkedTable"),
        ),
        10,
        5,
        "throttled for minutes: retries help against the rest",
    ),
    "ProcessThrottlesAlarm": alarm(
        total(
            60,
            events=throttled("EventStoreTable"),
            transfers=throttled("TransfersTable"),
            fulfilment=throttled("OrderFulfilmentTable"),
            status=throttled("ProcessStatusTable"),
        ),
        10,
        5,
        "throttled for minutes: retries help against the rest",
    ),
    "StuckAlarm": alarm(
        query('SELECT SUM(Stuck) FROM SCHEMA("ProjectionWorker", projection, stage)', 300), 1, 1, "one stuck instance waits for somebody"
    ),
    "OpenTooLongAlarm": alarm(
        query('SELECT MAX(OldestOpenAge) FROM SCHEMA("ProjectionWorker", projection, stage)', 300),
        1,
        1,
        "an age only grows until the instance ends",
        threshold=ref("OpenAgeAlarmSeconds"),
    ),
    "TicksFailedAlarm": alarm(
        total(
            60,
            refused=of_ticks("TargetErrorCount"),
            dropped=of_ticks("InvocationDroppedCount"),
            expired=("AWS/Lambda", "AsyncEventsDropped", "FunctionName", "WorkerFunction"),
        ),
        10,
        5,
        "for minutes: the next tick makes up for one",
    ),
    "TicksStoppedAlarm": alarm(
        {
            "Namespace": "ProjectionWorker",
            "MetricName": Because("OldestOpenAge", "only ticks report it, each time for every process"),
            "Dimensions": Because(
                [{"Name": "projection", "Value": "order-fulfilment"}, {"Name": "stage", "Value": ref("Stage")}],
                "a metric has data only under exactly its dimensions; one process stands for all",
            ),
            "Statistic": "Maximum",
            "Period": Because(300, "five ticks"),
        },
        3,
        3,
        "no value is below 0, so it fires only without data: a tick reports 0 if no instance is open",
        comparison="LessThanThreshold",
        missing="breaching",
    ),
    "RebuildFailedAlarm": alarm(total(300, failed=rebuilds("ExecutionsFailed"), late=rebuilds("ExecutionsTimedOut")), 1, 1, "one failed rebuild"),
    "Dashboard": {
        "Type": "AWS::CloudWatch::Dashboard",
        "Properties": {"DashboardName": sub("${Stage}-projections"), "DashboardBody": Holds(dashboard)},
    },
}


def number(default, least, most, reason):
    return Because({"Type": "Number", "Default": default, "MinValue": least, "MaxValue": most, "Description": TEXT}, reason)


PARAMETERS = {
    "Stage": Because(
        {"Type": "String", "Default": "dev", "AllowedPattern": "^[a-z][a-z0-9-]{0,14}$", "Description": TEXT},
        "a name that every kind of resource takes, and no longer than the function takes",
    ),
    "AlarmTopicArn": Because(
        {"Type": "String", "Default": "", "AllowedPattern": "^(arn:[a-z-]+:sns:.+)?$", "Description": TEXT}, "a topic, or none"
    ),
    "LogRetentionDays": Because(
        {"Type": "Number", "Default": 30, "AllowedValues": [1, 3, 7, 14, 30, 60, 90, 180, 365]}, "values that CloudWatch takes"
    ),
    "LogLevel": Because(
        {"Type": "String", "Default": "INFO", "AllowedValues": ["TRACE", "DEBUG", "INFO"], "Description": TEXT},
        "a stricter level drops the lines that carry metrics",
    ),
    "BatchSize": number(1000, 1, 10000, "large batches cost less, and the function has time and memory for 10,000"),
    "BatchingWindowSeconds": number(1, 1, 300, "Lambda requires a second for batches above 10, and more is delay"),
    "MaxRetryAttempts": number(1000, 1, 10000, "the age limit decides, and not the retries"),
    "MaxRecordAgeSeconds": number(43200, 60, 82800, "the stream keeps 24 hours: half of it to mend, an hour to deliver what is given up"),
    "StreamEnabled": Because(
        {"Type": "String", "Default": "true", "AllowedValues": ["true", "false"], "Description": TEXT}, "the stream is read unless somebody pauses it"
    ),
    "OnFailureRetentionDays": number(30, 2, 365, "long enough to replay, and bounded, because it is event data"),
    "RebuildSegments": number(16, 1, 1000, "more segments than work at once, so that one large segment does not delay the rest"),
    "RebuildConcurrency": number(8, 1, 1000, "half of what a new table takes"),
    "CatchUpSchedule": Because(
        {"Type": "String", "Default": "rate(1 day)", "AllowedPattern": "^(rate|cron)\\(.+\\)$", "Description": TEXT}, "each row is right within a day"
    ),
    "CatchUpSince": Because(
        {"Type": "String", "Default": "26h", "AllowedPattern": "^[0-9]{1,5}[smhd]$", "Description": TEXT}, "two runs overlap"
    ),
    "LagAlarmMs": Because(
        {"Type": "Number", "Default": 300000, "MinValue": 1000, "Description": TEXT}, "five minutes is an outage, and far from 24 hours"
    ),
    "OpenAgeAlarmSeconds": Because(
        {"Type": "Number", "Default": 345600, "MinValue": 60, "Description": TEXT},
        "four days: an order waits three days for its shipment, and is then undone",
    ),
}

CONDITIONS = {"HasAlarmTopic": Because({"Fn::Not": [{"Fn::Equals": [ref("AlarmTopicArn"), ""]}]}, "alarms notify if there is a topic")}

OUTPUTS = {
    **{
        name: {"Description": TEXT, "Value": ref(of)}
        for name, of in [
            ("EventStoreTableName", "EventStoreTable"),
            ("ParkedTableName", "ParkedTable"),
            ("AccountSummaryTableName", "AccountSummaryTable"),
            ("AccountStatementTableName", "AccountStatementTable"),
            ("ForumCountersTableName", "ForumCountersTable"),
            ("TopicPostsTableName", "TopicPostsTable"),
            ("UsersAndOrdersTableName", "UsersAndOrdersTable"),
            ("TransfersTableName", "TransfersTable"),
            ("OrderFulfilmentTableName", "OrderFulfilmentTable"),
            ("ProcessStatusTableName", "ProcessStatusTable"),
            ("OnFailureBucketName", "OnFailureBucket"),
            ("WorkerStreamId", "WorkerStream"),
        ]
    },
    "OperationsFunctionName": {"Value": ref("OperationsFunction")},
    "RebuildStateMachineArn": {"Value": ref("RebuildStateMachine")},
    **{
        output: {"Description": TEXT, "Value": ref(of), "Export": {"Name": Because(sub("${Stage}-projection-" + name), "stacks of applications import it")}}
        for output, of, name in [
            ("ReaderPolicyArn", "ReaderPolicy", "reader-policy"),
            ("CommandPolicyArn", "CommandPolicy", "command-policy"),
        ]
    },
}

TEMPLATE = {
    "AWSTemplateFormatVersion": "2010-09-09",
    "Description": TEXT,
    "Parameters": PARAMETERS,
    "Conditions": CONDITIONS,
    "Resources": RESOURCES,
    "Outputs": OUTPUTS,
}

# What the translation does not show: it is given another archive, and the definition by value.
SOURCE = {
    "Transform": Because("AWS::Serverless-2016-10-31", "a macro could change anything"),
    "CodeUri": Because("../target/lambda/lambda/bootstrap.zip", "where the build puts the Lambda"),
    "DefinitionUri": Because("rebuild.asl.json", "the definition that is checked here"),
    "Definition": Because(None, "the definition is a file of its own"),
}

# ----------------------------------------------------------------------------------------------------------- the state machine

INVOKED = Because("arn:${Partition}:states:::lambda:invoke", "a task is one invocation")
WAITS = Because(930, "longer than the function works, so that its own answer decides")
OF_SERVICE = Because(
    {
        "ErrorEquals": ["Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException", "Lambda.TooManyRequestsException"],
        "IntervalSeconds": 2,
        "MaxAttempts": 10,
        "BackoffRate": 2,
        "MaxDelaySeconds": 60,
        "JitterStrategy": "FULL",
    },
    "errors of the service pass",
)
GOES_ON = Because(
    {
        "ErrorEquals": ["Unfinished", "Lambda.Unknown", "Runtime.ExitError", "Sandbox.Timedout", "States.Timeout"],
        "IntervalSeconds": 15,
        "MaxAttempts": 5,
        "BackoffRate": 2,
        "MaxDelaySeconds": 300,
        "JitterStrategy": "FULL",
    },
    "it goes on where it stopped; the same error five times is no chance",
)
WHOLE = "machine.js runs it; what it says is reviewed here"

# No state has a Catch: an error that no retry helps ends the execution, and RebuildFailedAlarm fires.
MACHINE = {
    "Comment": TEXT,
    "QueryLanguage": "JSONata",
    "TimeoutSeconds": Because(604800, "a week: a large store takes days"),
    "StartAt": "Plan",
    "States": {
        "Plan": Because(
            {
                "Type": "Pass",
                "Assign": {
                    "projection": "{% $states.input.projection %}",
                    "segments": "{% $exists($states.input.segments) ? $states.input.segments : ${Segments} %}",
                    "sample": "{% $exists($states.input.sample) ? $states.input.sample : null %}",
                    "run": None,
                },
                "Next": "Rebuild",
            },
            WHOLE,
        ),
        "Rebuild": {
            "Type": "Map",
            "Label": Because("Segments", "the role names the executions of segments by it"),
            "Items": Because("{% [0..$segments - 1] %}", WHOLE),
            "ItemSelector": Because(
                {"projection": "{% $projection %}", "segment": "{% $states.context.Map.Item.Value %}", "segments": "{% $segments %}"}, WHOLE
            ),
            "MaxConcurrency": Because("{% ${Concurrency} %}", "a rebuild leaves capacity to the worker"),
            "ToleratedFailureCount": Because(0, "a rebuild without one of its segments is no rebuild"),
            "ItemProcessor": {
                "ProcessorConfig": Because({"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}, "an express child ends after 5 minutes"),
                "StartAt": "RebuildSegment",
                "States": {
                    "RebuildSegment": {
                        "Type": "Task",
                        "Resource": INVOKED,
                        "Arguments": Because(
                            {"FunctionName": "${OperationsFunction}", "Payload": {"rebuild": "{% $states.input %}"}}, "the last answer is the next task"
                        ),
                        "TimeoutSeconds": WAITS,
                        "Retry": [
                            OF_SERVICE,
                            GOES_ON,
                        ],
                        "Output": Because("{% $states.result.Payload %}", WHOLE),
                        "Next": "IsSegmentDone",
                    },
                    "IsSegmentDone": Because(
                        {
                            "Type": "Choice",
                            "Choices": [{"Condition": "{% $states.input.done %}", "Next": "SegmentDone"}],
                            "Default": "RebuildSegment",
                        },
                        WHOLE,
                    ),
                    "SegmentDone": Because({"Type": "Succeed", "Output": "{% $states.input.counts %}"}, WHOLE),
                },
            },
            "Output": Because(
                {
                    count: "{% $sum($states.result." + count + ") %}"
                    for count in ["events", "aggregates", "replaced", "created", "changed", "caughtUp", "parked", "stopped"]
                },
                "each count of each segment",
            ),
            "Next": "Settle",
        },
        "Settle": {
            "Type": "Task",
            "Resource": INVOKED,
            "Arguments": Because(
                {"FunctionName": "${OperationsFunction}", "Payload": {"settle": {"projection": "{% $projection %}"}}},
                "once, after all segments: each would have to read the whole read model",
            ),
            "TimeoutSeconds": WAITS,
            "Retry": [
                OF_SERVICE,
                Because(
                    {"ErrorEquals": ["Unfinished", "Lambda.Unknown", "Runtime.ExitError"], "IntervalSeconds": 60, "MaxAttempts": 1},
                    "settling begins anew, so a second time is enough",
                ),
            ],
            "Output": Because({"rebuilt": "{% $states.input %}"}, "the counts of the rebuild"),
            "Next": "Verify",
        },
        "Verify": {
            "Type": "Task",
            "Resource": INVOKED,
            "Arguments": Because(
                {
                    "FunctionName": "${OperationsFunction}",
                    "Payload": {"verify": {"projection": "{% $projection %}", "sample": "{% $sample %}", "run": "{% $run %}"}},
                },
                WHOLE,
            ),
            "TimeoutSeconds": WAITS,
            "Retry": [
                OF_SERVICE,
                GOES_ON,
            ],
            "Assign": Because({"run": "{% $states.result.Payload.run %}"}, WHOLE),
            "Output": Because({"rebuilt": "{% $states.input.rebuilt %}", "verified": "{% $states.result.Payload %}"}, WHOLE),
            "Next": "IsVerified",
        },
        "IsVerified": Because(
            {
                "Type": "Choice",
                "Choices": [{"Condition": "{% $states.input.verified.done %}", "Next": "Judge"}],
                "Default": "Verify",
            },
            WHOLE,
        ),
        "Judge": Because(
            {
                "Type": "Choice",
                "Choices": [
                    {"Condition": "{% $states.input.rebuilt.parked + $states.input.rebuilt.stopped > 0 %}", "Next": "Parked"},
                    {"Condition": "{% $not($states.input.verified.clean) %}", "Next": "NotClean"},
                ],
                "Default": "Rebuilt",
            },
            "a rebuild that leaves rows wrong has failed",
        ),
        "Parked": {"Type": "Fail", "Error": "Parked", "Cause": TEXT},
        "NotClean": {"Type": "Fail", "Error": "NotClean", "Cause": TEXT},
        "Rebuilt": {"Type": "Succeed"},
    },
}

# -------------------------------------------------------------------------------------------------------------- the comparison

# Lists whose order means nothing.
SETS = {"Action", "AllowedValues", "AttributeDefinitions", "ErrorEquals", "NonKeyAttributes", "NotAction", "Resource", "Statement"}


def plain(wanted):
    """What is wanted, without its reasons."""
    if isinstance(wanted, Because):
        return plain(wanted.value)
    if isinstance(wanted, dict):
        return {name: plain(value) for name, value in wanted.items()}
    if isinstance(wanted, list):
        return [plain(value) for value in wanted]
    return "a text" if isinstance(wanted, Holds) else wanted


def shown(value):
    text = json.dumps(plain(value), sort_keys=True)
    return text if len(text) <= 160 else text[:157] + "..."


def sorted_set(values):
    return sorted(values, key=lambda value: json.dumps(plain(value), sort_keys=True))


def differences(path, found, wanted, reason=""):
    """What differs from what is wanted, in words."""
    if isinstance(wanted, Because):
        yield from differences(path, found, wanted.value, wanted.reason)
        return
    why = f" ({reason})" if reason else ""
    if isinstance(wanted, Holds):
        try:
            problem = wanted.problem(found)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            problem = f"cannot be read: {type(error).__name__}"
        if problem:
            yield f"{path} {problem}{why}"
    elif isinstance(wanted, dict) and isinstance(found, dict):
        for name, value in found.items():
            if name not in wanted:
                yield f"{path}.{name} is {shown(value)}, and nobody has reviewed it"
        for name, value in wanted.items():
            if name in found:
                yield from differences(f"{path}.{name}", found[name], value, reason)
            else:
                own = f" ({value.reason})" if isinstance(value, Because) else why
                yield f"{path}.{name} is missing, and should be {shown(value)}{own}"
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        if path.rsplit(".", 1)[-1] in SETS:
            found, wanted = sorted_set(found), sorted_set(wanted)
        for at, (one, other) in enumerate(zip(found, wanted)):
            yield from differences(f"{path}[{at}]", one, other, reason)
    # CloudFormation takes "true" for true and "5" for 5.
    elif isinstance(wanted, (dict, list)) or isinstance(found, (dict, list)) or str(found).lower() != str(wanted).lower():
        yield f"{path} is {shown(found)}, and should be {shown(wanted)}{why}"


def ticks(template):
    """A tick ends before the next one begins, and none is kept until then. This relates values, so it also holds after somebody has reviewed
    another one of them."""
    resources = template["Resources"]
    minutes = re.fullmatch(r"rate\((\d+) minutes?\)", resources["Tick"]["Properties"]["ScheduleExpression"])
    if not minutes:
        yield "the worker does not tick each minute"
        return
    every, lasts = int(minutes[1]) * 60, resources["WorkerFunction"]["Properties"]["Timeout"]
    if lasts > every:
        yield f"a tick may take {lasts} s, and the next one begins after {every} s"
    for what, kept in [("the schedule", resources["Tick"]["Properties"]["Target"]["RetryPolicy"]), ("Lambda", resources["TickInvocations"]["Properties"])]:
        if kept["MaximumEventAgeInSeconds"] > every:
            yield f"{what} keeps a tick for {kept['MaximumEventAgeInSeconds']} s, and the next one begins after {every} s"


UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "minute": 60, "hour": 3_600, "day": 86_400}


def seconds(age):
    return int(age[:-1]) * UNITS[age[-1]]


def overlaps(template):
    """Each catch-up looks back to before the one before it started, however late it starts itself. This relates three values, so it
    also holds after somebody has reviewed another one of them."""
    parameters = template["Parameters"]
    every, unit = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", parameters["CatchUpSchedule"]["Default"]).groups()
    since = seconds(parameters["CatchUpSince"]["Default"])
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Scheduler::Schedule" and resource["Properties"]["ScheduleExpression"] == ref("CatchUpSchedule"):
            properties = resource["Properties"]
            late = properties["FlexibleTimeWindow"].get("MaximumWindowInMinutes", 0) * 60
            late += properties["Target"]["RetryPolicy"]["MaximumEventAgeInSeconds"]
            if since < int(every) * UNITS[unit] + late:
                yield f"CatchUpSince is {since} s, and two runs of {name} may start {int(every) * UNITS[unit] + late} s apart"


def problems(sam, translated, machine):
    """What differs in the template as it is written, as SAM translates it, and in the state machine."""
    of_machine = sam["Resources"].get("RebuildStateMachine", {}).get("Properties", {})
    source = {
        "Transform": sam.get("Transform"),
        "CodeUri": sam.get("Globals", {}).get("Function", {}).get("CodeUri"),
        "DefinitionUri": of_machine.get("DefinitionUri"),
        "Definition": of_machine.get("Definition"),
    }
    yield from differences("the template", source, SOURCE)
    yield from differences("the template", translated, TEMPLATE)
    yield from differences("the state machine", machine, MACHINE)
