"""What template and code must agree upon, and what no linter knows. Each check yields what is wrong."""

import json
import re
from itertools import chain

import permissions
from moto.events.models import EventPattern

# Who sets each variable that the Lambda can read.
TEMPLATE, LAMBDA, NOBODY = "the template", "Lambda", "nobody: it is for tests and other places"
VARIABLES = {
    "STAGE": TEMPLATE,
    "EVENT_STORE_TABLE": TEMPLATE,
    "PARKED_TABLE": TEMPLATE,
    "AWS_LAMBDA_LOG_LEVEL": LAMBDA,  # from LoggingConfig
    "AWS_REGION": LAMBDA,
    "AWS_ACCESS_KEY_ID": LAMBDA,
    "AWS_SECRET_ACCESS_KEY": LAMBDA,
    "AWS_SESSION_TOKEN": LAMBDA,
    "AWS_LAMBDA_FUNCTION_NAME": LAMBDA,
    "AWS_DEFAULT_REGION": NOBODY,
    "AWS_ENDPOINT_URL": NOBODY,
    "AWS_ENDPOINT_URL_DYNAMODB": NOBODY,
    "OTEL_SERVICE_NAME": NOBODY,  # and others that the OpenTelemetry crates read: for a build with traces
    "RUST_LOG": NOBODY,
    # No variables: words of other kinds.
    "CARGO_CRATE_NAME": NOBODY,
    "CARGO_PKG_NAME": NOBODY,
    "ERROR": NOBODY,
    "FATAL": NOBODY,
}

# The metrics that alarms and the dashboard rest on, by their dimensions: names that the code must have.
NAMESPACE = "ProjectionWorker"
METRICS = {
    ("stage", "projection"): {
        "Applied", "Duplicate", "Gaps", "Healed", "Parked", "Failed", "LagMs", "Reprojected", "CaughtUp", "Differing",
    },
    ("stage",): {"BatchSize", "Ignored", "Parked", "Requests", "WriteUnits", "ReadUnits", "Retries", "Conflicts"},
}

# What every stage must wake somebody for: (namespace, metric).
ALARMED = {
    ("AWS/Lambda", "IteratorAge"),
    (NAMESPACE, "LagMs"),
    (NAMESPACE, "Parked"),
    ("AWS/Lambda", "OnFailureDestinationDeliveredEventCount"),
    ("AWS/Lambda", "DroppedEventCount"),
    ("AWS/Lambda", "DestinationDeliveryFailures"),
    ("AWS/Lambda", "FailedInvokeEventCount"),
    ("AWS/Lambda", "PolledEventCount"),
    ("AWS/Lambda", "Errors"),
    ("AWS/Lambda", "Throttles"),
    ("AWS/DynamoDB", "WriteThrottleEvents"),
    ("AWS/States", "ExecutionsFailed"),
    ("AWS/States", "ExecutionsTimedOut"),
}

# What a dimension's value names.
NAMED_BY = {
    "EventSourceMappingUUID": "AWS::Lambda::EventSourceMapping",
    "FunctionName": "AWS::Lambda::Function",
    "StateMachineArn": "AWS::StepFunctions::StateMachine",
    "TableName": "AWS::DynamoDB::Table",
}

STREAM_KEEPS_SECONDS = 24 * 60 * 60
# What Lambda does in a function's name.
STREAM = {"dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams"}
LOG = {"logs:CreateLogStream", "logs:PutLogEvents"}
FUNCTIONS = {"WorkerFunction": "WorkerRole", "OperationsFunction": "OperationsRole"}


def differ(what, is_, should):
    if is_ != should:
        yield f"{what}: {is_!r}, and should be {should!r}"


# ------------------------------------------------------------------------------------------------------------------ tables


def tables(subject, source):
    """Keys and indexes are those of the code; what cannot be made again is kept."""
    event_store, parked, by_type, image = source.tables()
    resources = subject.resources
    seen = set()

    def keys(schema):
        return [key["AttributeName"] for key in sorted(schema, key=lambda key: key["KeyType"])]

    def one(name, wanted_keys, wanted_indexes):
        seen.add(name)
        table = resources[name]["Properties"]
        indexes = {
            index["IndexName"]: (
                *keys(index["KeySchema"]),
                index["Projection"]["ProjectionType"],
                index["Projection"].get("NonKeyAttributes", []),
            )
            for index in table.get("GlobalSecondaryIndexes", [])
        }
        yield from differ(f"keys of {name}", keys(table["KeySchema"]), wanted_keys)
        yield from differ(f"indexes of {name}", indexes, wanted_indexes)
        typed = {definition["AttributeName"]: definition["AttributeType"] for definition in table["AttributeDefinitions"]}
        used = {key for key in chain(wanted_keys, *(index[:2] for index in wanted_indexes.values()))}
        yield from differ(f"attributes of {name}", typed, dict.fromkeys(used, "S"))
        yield from differ(f"billing of {name}", table["BillingMode"], "PAY_PER_REQUEST")
        yield from differ(f"time to live of {name}", table.get("TimeToLiveSpecification"), None)

    index, partition, sort, kind = by_type
    yield from one("EventStoreTable", list(event_store), {index: (partition, sort, kind.upper(), [])})
    yield from one("ParkedTable", list(parked), {})
    for projection, (key, indexes) in source.projections().items():
        wanted = {name: (partition, sort, "INCLUDE" if include else "KEYS_ONLY", include) for name, partition, sort, include in indexes}
        yield from one(table_of(projection), [key], wanted)
    yield from differ("tables", set(subject.of_type("AWS::DynamoDB::Table")), seen)

    stream = resources["EventStoreTable"]["Properties"]["StreamSpecification"]["StreamViewType"]
    yield from differ("stream", stream.replace("_", "").lower(), image.lower())
    for name in ("EventStoreTable", "ParkedTable"):
        properties = resources[name]["Properties"]
        yield from differ(f"deletion protection of {name}", properties.get("DeletionProtectionEnabled"), True)
        recovery = properties.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled")
        yield from differ(f"point-in-time recovery of {name}", recovery, True)
    for name in ("EventStoreTable", "ParkedTable", "OnFailureBucket"):
        policies = [resources[name].get("DeletionPolicy"), resources[name].get("UpdateReplacePolicy")]
        yield from differ(f"what becomes of {name}", policies, ["Retain", "Retain"])


def table_of(projection):
    return "".join(word.capitalize() for word in projection.split("-")) + "Table"


# --------------------------------------------------------------------------------------------------------------- functions


def environment(subject, source):
    """Each variable that the Lambda can read has somebody who sets it, and none is set that it does not read."""
    projections = {source.table_variable(projection): projection for projection in source.projections()}
    if unknown := source.variables() - VARIABLES.keys():
        yield f"the code reads variables that checks/contract.py does not know: {sorted(unknown)}"
    if gone := VARIABLES.keys() - source.variables():
        yield f"the code no longer reads variables that checks/contract.py knows: {sorted(gone)}"
    wanted = {name: {"Ref": table_of(projection)} for name, projection in projections.items()}
    wanted |= {"EVENT_STORE_TABLE": {"Ref": "EventStoreTable"}, "PARKED_TABLE": {"Ref": "ParkedTable"}, "STAGE": {"Ref": "Stage"}}
    yield from differ("variables of the template", {name for name, who in VARIABLES.items() if who is TEMPLATE} - wanted.keys(), set())
    for name in FUNCTIONS:
        yield from differ(f"environment of {name}", subject.resources[name]["Properties"]["Environment"]["Variables"], wanted)


def functions(subject, source):
    """Both are the one program that cargo-lambda builds, have time enough, and logs that end."""
    yield from differ("functions", set(subject.of_type("AWS::Lambda::Function")), set(FUNCTIONS))
    shortest = source.shortest_timeout_seconds()
    for name, role in FUNCTIONS.items():
        function = subject.resources[name]["Properties"]
        runs = [function["Runtime"], function["Architectures"], function["Handler"]]
        yield from differ(f"what runs {name}", runs, ["provided.al2023", ["arm64"], "bootstrap"])
        yield from differ(f"role of {name}", function["Role"], {"Fn::GetAtt": [role, "Arn"]})
        if function["Timeout"] < shortest:
            yield f"the timeout of {name} is {function['Timeout']} s: attempts under way need {shortest:.0f} s"
        logging = function["LoggingConfig"]
        group = logging["LogGroup"]["Ref"]
        yield from differ(f"log format of {name}", logging["LogFormat"], "JSON")
        yield from differ(f"log level of {name}", logging["ApplicationLogLevel"], {"Ref": "LogLevel"})
        if not subject.resources.get(group, {}).get("Properties", {}).get("RetentionInDays"):
            yield f"the logs of {name} are kept for ever"
    levels = subject.template["Parameters"]["LogLevel"]["AllowedValues"]
    yield from differ("log levels", levels, ["TRACE", "DEBUG", "INFO"])  # Lambda drops metrics above INFO
    yield from differ("what is deployed", subject.sam["Globals"]["Function"]["CodeUri"], "../target/lambda/lambda/bootstrap.zip")
    operations = subject.resources["OperationsFunction"]["Properties"]["Timeout"]
    for state in ("RebuildSegment", "Verify"):
        waits = subject.state(state)["TimeoutSeconds"]
        if waits <= operations:
            yield f"the state machine gives {state} up after {waits} s, while the function works for {operations} s"


def mapping(subject, source):
    """The worker gets every event, in order, and what it cannot do is kept."""
    (stream,) = subject.of_type("AWS::Lambda::EventSourceMapping").values()
    wanted = {
        "EventSourceArn": {"Fn::GetAtt": ["EventStoreTable", "StreamArn"]},
        "FunctionName": {"Fn::GetAtt": ["WorkerFunction", "Arn"]},
        "StartingPosition": "TRIM_HORIZON",
        "ParallelizationFactor": 1,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "BisectBatchOnFunctionError": True,
        "DestinationConfig": {"OnFailure": {"Destination": {"Fn::GetAtt": ["OnFailureBucket", "Arn"]}}},
        "MetricsConfig": {"Metrics": ["EventCount"]},
        "MaximumRetryAttempts": {"Ref": "MaxRetryAttempts"},
        "MaximumRecordAgeInSeconds": {"Ref": "MaxRecordAgeSeconds"},
    }
    for name, value in wanted.items():
        yield from differ(f"{name} of the mapping", stream.get(name), value)
    yield from differ("what else the mapping does", "TumblingWindowInSeconds" in stream, False)
    parameters = subject.template["Parameters"]
    age, retries = parameters["MaxRecordAgeSeconds"], parameters["MaxRetryAttempts"]
    if not (60 <= age["MinValue"] <= age["Default"] <= age["MaxValue"] < STREAM_KEEPS_SECONDS):
        yield "records may grow older than the stream keeps them, and are lost"
    if not (0 < retries["MinValue"] <= retries["Default"] <= retries["MaxValue"]):
        yield "retries are not bounded"
    rules = subject.resources["OnFailureBucket"]["Properties"].get("LifecycleConfiguration", {}).get("Rules", [])
    if not any(rule["Status"] == "Enabled" and "ExpirationInDays" in rule and "Prefix" not in rule for rule in rules):
        yield "event data stays in the bucket for ever"


def filters(subject, source):
    """The filter lets through every event of the captured streams, and nothing else. The matcher is moto's."""
    (stream,) = subject.of_type("AWS::Lambda::EventSourceMapping").values()
    patterns = [EventPattern.load(each["Pattern"]) for each in stream["FilterCriteria"]["Filters"]]
    for fixture in ("bank", "forum", "version-items", "changed-events", "unknown-types", "big-amounts"):
        passed, kept_back = {}, []
        folder = source.root / "tests/fixtures" / fixture
        for batch in sorted(folder.glob("batch-*.json")):
            for record in json.loads(batch.read_text())["Records"]:
                image = record["dynamodb"].get("NewImage", {})
                if any(pattern.matches_event(record) for pattern in patterns):
                    versions = passed.setdefault(image.get("aggregateId", {}).get("S"), set())
                    versions.add(int(image.get("eventVersion", {"N": 0})["N"]))
                elif record["eventName"] == "INSERT" and "eventVersion" in image:
                    kept_back.append(record["dynamodb"]["Keys"]["SK"]["S"])
        yield from differ(f"events of {fixture} that the filter keeps back", kept_back, [])
        if None in passed:
            yield f"the filter lets through records of {fixture} that are no events"
        # An account's row is at the last of its events: what the rows say they saw must have passed.
        for row in json.loads((folder / "expected.json").read_text())["rows"]["account-summary"]:
            missing = set(range(1, row["version"] + 1)) - passed.get(row["accountId"], set())
            yield from differ(f"versions of {row['accountId']} in {fixture} that the filter keeps back", missing, set())


# ------------------------------------------------------------------------------------------------------------- permissions


def allowed(subject, source):
    """Each role may do what its code comes to, there, and nothing else."""
    yield from permissions.problems_of_table(source)
    rows = {table_of(projection) for projection in source.projections()}
    named = {
        permissions.EVENTS: {"EventStoreTable.Arn"},
        permissions.INDEX: {f"${{EventStoreTable.Arn}}/index/{source.tables()[2][0]}"},
        permissions.ROWS: {f"{table}.Arn" for table in rows},
        permissions.PARKED: {"ParkedTable.Arn"},
    }
    of_machine = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:%s:${Stage}-projection-rebuild%s"
    children = {"states:DescribeExecution", "states:RedriveExecution", "states:StopExecution"}
    wanted = {
        "WorkerRole": {
            "EventStoreTable.StreamArn": STREAM,
            "${OnFailureBucket.Arn}/aws/lambda/*": {"s3:PutObject"},
            "OnFailureBucket.Arn": {"s3:ListBucket"},
            "WorkerLogs.Arn": LOG,
        },
        "OperationsRole": {"OperationsLogs.Arn": LOG},
        "RebuildRole": {
            "OperationsFunction.Arn": {"lambda:InvokeFunction"},
            of_machine % ("stateMachine", ""): {"states:StartExecution"},
            of_machine % ("execution", ":*"): children,
            of_machine % ("execution", f"/{subject.machine['States']['Rebuild']['Label']}:*"): children,
        },
        "CatchUpRole": {"OperationsFunction.Arn": {"lambda:InvokeFunction"}},
    }
    for role in FUNCTIONS.values():
        for table, actions in permissions.needed(source, role).items():
            for arn in named[table]:
                wanted[role].setdefault(arn, set()).update(actions)
    yield from differ("roles", set(subject.of_type("AWS::IAM::Role")), set(wanted))
    for role, may in wanted.items():
        granted = {}
        properties = subject.resources[role]["Properties"]
        yield from differ(f"managed policies of {role}", properties.get("ManagedPolicyArns", []), [])
        for policy in properties["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                yield from differ(f"effect of {statement['Sid']}", statement["Effect"], "Allow")
                for resource in listed(statement["Resource"]):
                    granted.setdefault(arn_of(resource), set()).update(listed(statement["Action"]))
        for arn in sorted(may.keys() | granted.keys()):
            for action in sorted(granted.get(arn, set()) - may.get(arn, set())):
                yield f"{role} may {action} on {arn}, and nothing in the code does"
            for action in sorted(may.get(arn, set()) - granted.get(arn, set())):
                yield f"{role} may not {action} on {arn}, and the code does"
    machine = subject.resources["RebuildStateMachine"]["Properties"]
    yield from differ("the machine's name", machine["StateMachineName"], {"Fn::Sub": "${Stage}-projection-rebuild"})
    yield from differ("role of the machine", machine["RoleArn"], {"Fn::GetAtt": ["RebuildRole", "Arn"]})


def listed(value):
    return value if isinstance(value, list) else [value]


def arn_of(resource):
    if isinstance(resource, str):
        return resource
    return ".".join(resource["Fn::GetAtt"]) if "Fn::GetAtt" in resource else resource["Fn::Sub"]


# ------------------------------------------------------------------------------------------------ schedules, alarms, metrics


def schedules(subject, source):
    """Every projection is caught up with, by a task that the code understands, over a span longer than between two runs."""
    tasks = {}
    for name, schedule in subject.of_type("AWS::Scheduler::Schedule").items():
        target = schedule["Target"]
        yield from differ(f"target of {name}", target["Arn"], {"Fn::GetAtt": ["OperationsFunction", "Arn"]})
        task = json.loads(target["Input"]["Fn::Sub"])["catchUp"]
        yield from differ(f"task of {name}", set(task), set(source.fields("src/lambda/tasks.rs", "CatchUp")))
        tasks[task.get("projection")] = task.get("since")
    yield from differ("what is caught up with", tasks, dict.fromkeys(source.projections(), "${CatchUpSince}"))
    parameters = subject.template["Parameters"]
    units = "".join(re.findall(r'^\s+"(\w)" =>', source.text("src/sweep.rs"), flags=re.M))
    yield from differ("ages that the code reads", parameters["CatchUpSince"]["AllowedPattern"], f"^[0-9]{{1,5}}[{units}]$")
    every, since = parameters["CatchUpSchedule"]["Default"], parameters["CatchUpSince"]["Default"]
    if every != "rate(1 day)" or since[-1] != "h" or int(since[:-1]) <= 24:
        yield f"to catch up with the last {since} at {every} leaves times out, or this check has to learn of other units"


def alarms(subject, source):
    """Somebody is called for each trouble, and what is called for is what the code counts."""
    found = set()
    for name, alarm in subject.of_type("AWS::CloudWatch::Alarm").items():
        actions = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
        yield from differ(f"actions of {name}", [alarm.get("AlarmActions"), alarm.get("OKActions")], [actions, actions])
        stopped = alarm.get("MetricName") == "PolledEventCount"
        yield from differ(f"missing data of {name}", alarm["TreatMissingData"], "breaching" if stopped else "notBreaching")
        compared = "LessThanThreshold" if stopped else "GreaterThanThreshold"
        yield from differ(f"comparison of {name}", alarm["ComparisonOperator"], compared)
        age = bool({metric for _, metric in metrics_of(alarm)} & {"IteratorAge", "LagMs"})
        yield from differ(f"threshold of {name}", alarm["Threshold"], {"Ref": "LagAlarmMs"} if age else 0)
        found |= metrics_of(alarm)
        for namespace, _, dimension, value in plain_metrics(alarm):
            yield from differ(f"whose {namespace} {name} watches", subject.resources[value["Ref"]]["Type"], NAMED_BY[dimension])
    yield from differ("what nobody is called for", ALARMED - found, set())


def metrics_of(alarm):
    queries = [metric["Expression"]["Fn::Sub"] for metric in alarm.get("Metrics", []) if "Fn::Sub" in str(metric.get("Expression"))]
    return {(namespace, metric) for namespace, metric, *_ in plain_metrics(alarm)} | {(found[1], found[0]) for found in map(queried, queries)}


def plain_metrics(alarm):
    plain = [metric["MetricStat"]["Metric"] for metric in alarm.get("Metrics", []) if "MetricStat" in metric]
    for metric in plain + ([alarm] if "MetricName" in alarm else []):
        (dimension,) = metric["Dimensions"]
        yield metric["Namespace"], metric["MetricName"], dimension["Name"], dimension["Value"]


def queried(query):
    """Metric, namespace and dimensions of a query of Metrics Insights."""
    shape = r"SELECT (?:SUM|MAX)\((\w+)\) FROM SCHEMA\(\"(\w+)\", ([\w, ]+)\) WHERE stage = '\$\{Stage\}'(?: GROUP BY projection)?"
    found = re.fullmatch(shape, query.strip())
    assert found, f"this is no query as the check reads them: {query}"
    return found[1], found[2], tuple(sorted(found[3].split(", ")))


def metrics(subject, source):
    """Whatever is queried or drawn of the worker's own metrics is counted by the code, under these dimensions."""
    namespace, counted = source.metrics()
    yield from differ("namespace", namespace, NAMESPACE)
    for dimensions, names in METRICS.items():
        if missing := names - counted.get(dimensions, set()):
            yield f"the code no longer counts by {dimensions}: {sorted(missing)}"
    known = {(name, NAMESPACE, tuple(sorted(dimensions))) for dimensions, names in METRICS.items() for name in names}
    shown = set()
    for alarm in subject.of_type("AWS::CloudWatch::Alarm").values():
        for metric in alarm.get("Metrics", []):
            if "Fn::Sub" in str(metric.get("Expression")):
                shown.add(queried(metric["Expression"]["Fn::Sub"]))
    for widget in subject.dashboard["widgets"]:
        previous = []
        for metric in widget["properties"].get("metrics", []):
            if isinstance(metric[0], dict):
                shown.add(queried(metric[0]["expression"]))
                continue
            names = [name for name in metric if isinstance(name, str)]
            if names[0] == "...":
                names = previous[: len(previous) - len(names) + 1] + names[1:]
            names = [before if name == "." else name for name, before in zip(names, previous + names[len(previous) :])]
            previous = names
            if names[0] == NAMESPACE:
                shown.add((names[1], names[0], tuple(sorted(names[2::2]))))
    for metric in sorted(shown - known):
        yield f"{metric} is shown or alarmed, and not in checks/contract.py"
    for metric in sorted(known - shown):
        yield f"{metric} is in checks/contract.py, and neither shown nor alarmed"


CHECKS = [tables, environment, functions, mapping, filters, allowed, schedules, alarms, metrics]
