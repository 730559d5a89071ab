"""Deploys the translated template to moto: the resources are created, refer to each other, and are what the worker expects."""

import io
import json
import logging
import os
import warnings
import zipfile

STAGE, REGION = "smoke", "eu-west-1"
ARTIFACT = {"Bucket": "artifacts", "Key": "bootstrap.zip"}


def deploy(subject):
    # No real account may be in reach.
    os.environ.update(AWS_ACCESS_KEY_ID="none", AWS_SECRET_ACCESS_KEY="none", AWS_SESSION_TOKEN="none", AWS_DEFAULT_REGION=REGION)
    import boto3
    from moto import mock_aws

    # moto warns about what it does not support (alarms, schedules, the bucket's policy) and skips it.
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with mock_aws():
        client = lambda service: boto3.client(service, region_name=REGION)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("bootstrap", "")
        client("s3").create_bucket(Bucket=ARTIFACT["Bucket"], CreateBucketConfiguration={"LocationConstraint": REGION})
        client("s3").put_object(**ARTIFACT, Body=archive.getvalue())
        client("s3").put_object(Bucket=ARTIFACT["Bucket"], Key="template.json", Body=json.dumps(subject.template))
        stacks = client("cloudformation")
        stacks.create_stack(
            StackName=STAGE,
            TemplateURL=f"https://{ARTIFACT['Bucket']}.s3.amazonaws.com/template.json",
            Parameters=[{"ParameterKey": "Stage", "ParameterValue": STAGE}],
            Capabilities=["CAPABILITY_IAM"],
        )
        yield from _problems(client, stacks)


def _problems(client, stacks):
    (stack,) = stacks.describe_stacks(StackName=STAGE)["Stacks"]
    if stack["StackStatus"] != "CREATE_COMPLETE":
        yield f"the stack is {stack['StackStatus']}"
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    tables = client("dynamodb")
    wanted = {
        "EventStoreTableName": (["PK", "SK"], ["GSI1"]),
        "ParkedTableName": (["aggregateId", "projection"], []),
        "AccountSummaryTableName": (["accountId"], []),
        "AccountStatementTableName": (["accountId", "movement"], []),
        "ForumCountersTableName": (["id"], ["topics-by-category", "topics-by-author"]),
        "TopicPostsTableName": (["topicId", "postId"], ["posts-by-author"]),
        "UsersAndOrdersTableName": (["id"], ["users-by-email", "orders-by-user", "orders-by-status"]),
        "TransfersTableName": (["aggregateId"], []),
        "OrderFulfilmentTableName": (["aggregateId"], []),
        "ProcessStatusTableName": (["id", "timer"], ["instances-by-status", "timers-by-due"]),
    }
    for output, (keys, indexes) in wanted.items():
        table = tables.describe_table(TableName=outputs[output])["Table"]
        found = [key["AttributeName"] for key in table["KeySchema"]], [index["IndexName"] for index in table.get("GlobalSecondaryIndexes", [])]
        if found != (keys, indexes):
            yield f"{output} has {found}"
    event_store = tables.describe_table(TableName=outputs["EventStoreTableName"])["Table"]
    if event_store.get("StreamSpecification") != {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}:
        yield f"the event store's stream is {event_store.get('StreamSpecification')}"

    mappings = client("lambda").list_event_source_mappings()["EventSourceMappings"]
    joined = [(each["EventSourceArn"], each["FunctionArn"].split(":")[6], each["BatchSize"]) for each in mappings]
    if joined != [(event_store["LatestStreamArn"], f"{STAGE}-projection-worker", 1000)]:
        yield f"event source mappings: {joined}"
    environment = client("lambda").get_function_configuration(FunctionName=f"{STAGE}-projection-operations")["Environment"]["Variables"]
    if environment.get("EVENT_STORE_TABLE") != f"{STAGE}-event-store" or environment.get("STAGE") != STAGE:
        yield f"the environment is {environment}"
    machines = [machine["name"] for machine in client("stepfunctions").list_state_machines()["stateMachines"]]
    if machines != [f"{STAGE}-projection-rebuild"]:
        yield f"state machines: {machines}"
