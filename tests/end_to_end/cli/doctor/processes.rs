//! What a worker with processes needs besides: somebody who ticks, permission to act, and the table of instances.

use projection_worker::internals::doctor::{Examination, examine, template};

use super::{account, found_at, own as own_without_processes};
use crate::support::{
    processes::{Poller, make_timers_due, requests},
    runtime_api::Lambda,
    template::{named_in, own, with},
    world::{World, included, registry},
};

fn examined(text: &str) -> Examination {
    examine(&template::read(text, &[], Some("WorkerFunction"), included()).expect("a template"), included())
}

const TICK: &str = r#"        Input: '{"tick":{}}'"#;
const ACT: &str = "Action: [\"dynamodb:PutItem\", \"dynamodb:UpdateItem\"]\n                Resource: !GetAtt EventStoreTable.Arn";
const WORKER: &str = "      Role: !GetAtt WorkerRole.Arn\n";

/// Ways to break the template: what is put in the place of what, and what is found then.
const DEFECTS: &[(&str, &str, &str)] = &[
    (TICK, "        Input: '{}'", r#"tick: schedules of WorkerFunction: none sends {"tick":{}}"#),
    (TICK, r#"        Input: 'tick'"#, r#"tick: schedules of WorkerFunction: none sends {"tick":{}}"#),
    (TICK, r#"        Input: '{"tick":{"all":true}}'"#, r#"tick: Tick.Input is not {"tick":{}}, so the function refuses it"#),
    (TICK, r#"        Input: '{"tick":1}'"#, r#"tick: Tick.Input is not {"tick":{}}, so the function refuses it"#),
    ("      GroupName: !Ref Ticks\n", "      State: DISABLED\n", "tick: Tick.State is DISABLED"),
    ("rate(1 minute)", "rate(1 hour)", "tick-rate: Tick.ScheduleExpression is rate(1 hour)"),
    ("rate(1 minute)", "cron(0/5 * * * ? *)", "tick-rate: Tick.ScheduleExpression is cron(0/5 * * * ? *)"),
    (
        WORKER,
        "      Role: !GetAtt WorkerRole.Arn\n      ReservedConcurrentExecutions: 1\n",
        "tick-concurrency: WorkerFunction.ReservedConcurrentExecutions is 1",
    ),
    (
        ACT,
        "Action: [\"dynamodb:GetItem\"]\n                Resource: !GetAtt EventStoreTable.Arn",
        "permissions: WorkerFunction.Role does not allow dynamodb:PutItem on the event store, dynamodb:UpdateItem on the event store",
    ),
    (
        ACT,
        "Action: [\"dynamodb:*\"]\n                Resource: !GetAtt ParkedTable.Arn",
        "permissions: WorkerFunction.Role does not allow dynamodb:PutItem on the event store, dynamodb:UpdateItem on the event store",
    ),
    (
        "index/timers-by-due\"",
        "index/timers\"",
        "permissions: WorkerFunction.Role does not allow dynamodb:Query on the index timers-by-due of process-status",
    ),
    (
        "        PROCESS_STATUS_TABLE: !Ref ProcessStatusTable\n",
        "",
        "environment: WorkerFunction.Environment.PROCESS_STATUS_TABLE is not set",
    ),
    ("        TRANSFERS_TABLE: !Ref TransfersTable\n", "", "environment: WorkerFunction.Environment.TRANSFERS_TABLE is not set"),
    ("IndexName: timers-by-due", "IndexName: timers", "index: ProcessStatusTable.GlobalSecondaryIndexes.timers-by-due does not exist"),
    (
        "            - {AttributeName: process, KeyType: HASH}\n",
        "",
        "index: ProcessStatusTable.GlobalSecondaryIndexes.instances-by-status has the keys status and startedAt, id, but should have process, status and startedAt, id",
    ),
    ("        - {AttributeName: timer, KeyType: RANGE}\n", "", "keys: ProcessStatusTable.KeySchema is id, but should be id and timer"),
];

#[test]
fn each_defect_is_named_and_nothing_else() {
    assert_eq!(named_in(&examined(&own())), [""; 0]);
    assert!(examined(&own()).unseen.is_empty(), "{:?}", examined(&own()).unseen);
    for (old, new, expected) in DEFECTS {
        assert_eq!(named_in(&examined(&with(&own(), old, new))), [*expected], "{new}");
    }
}

#[test]
fn a_worker_without_processes_needs_none_of_it() {
    for (old, new, _) in DEFECTS.iter().filter(|(.., finding)| ["tick", "permissions"].iter().any(|check| finding.starts_with(check))) {
        let deployment = template::read(&with(&own_without_processes(), old, new), &[], None, registry()).expect("a template");
        assert_eq!(named_in(&examine(&deployment, registry())), [""; 0], "{new}");
    }
}

/// Other ways to do it, each with what cannot be judged then.
#[test]
fn what_works_has_no_finding() {
    let without_tick = with(&own(), TICK, "        Input: '{}'");
    let with_event = |text: &str, function: &str, event: &str| {
        let role = format!("      Role: !GetAtt {function}Role.Arn\n");
        with(text, &role, &format!("{role}      Events: {{Every: {event}}}\n"))
    };
    let rule = "  EachMinute:
    Type: AWS::Events::Rule
    Properties:
      ScheduleExpression: cron(* * * * ? *)
      Targets: [{Id: worker, Arn: !GetAtt WorkerFunction.Arn, Input: '{\"tick\": {}}'}]
  TickRole:";
    let of_sam = |policies: &str| with(&own(), WORKER, &format!("      Policies: {policies}\n"));
    let crud = |table: &str| format!("{{DynamoDBCrudPolicy: {{TableName: !Ref {table}}}}}");
    let managed =
        "AssumeRolePolicyDocument:\n        Version: \"2012-10-17\"\n        Statement: [{Effect: Allow, Principal: {Service: lambda";
    let unknown = "its role has policies or conditions that cannot be judged from the template alone";
    let beside = "  WorkerFunction:\n    Type: AWS::Serverless::Function\n";
    let removed = with(&own(), ACT, "Action: [\"dynamodb:GetItem\"]\n                Resource: !GetAtt EventStoreTable.Arn");
    for (name, text, unseen) in [
        (
            "an event of the serverless transform",
            with_event(
                &without_tick,
                "Worker",
                r#"{Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 minute), Input: '{"tick":{}}'}}"#,
            ),
            None,
        ),
        (
            "an older one",
            with_event(
                &without_tick,
                "Worker",
                r#"{Type: Schedule, Properties: {Schedule: rate(1 minute), Enabled: true, Input: '{"tick":{}}'}}"#,
            ),
            None,
        ),
        (
            "another function ticks",
            with_event(&without_tick, "Operations", r#"{Type: Schedule, Properties: {Schedule: rate(1 minute), Input: '{"tick":{}}'}}"#),
            None,
        ),
        ("a rule", with(&without_tick, "  TickRole:", rule), None),
        ("an input that only a deployment knows", with(&own(), TICK, "        Input: !ImportValue tick"), Some("ticks")),
        ("a role of another stack", with(&own(), WORKER, "      Role: !ImportValue worker\n"), Some("WorkerFunction.Role")),
        ("policy templates", of_sam(&format!("[{}, {}]", crud("EventStoreTable"), crud("ProcessStatusTable"))), None),
        ("a policy of the account", of_sam("[arn:aws:iam::111122223333:policy/worker]"), Some("WorkerFunction.Role")),
        (
            "a policy beside the role",
            with(
                &removed,
                beside,
                &format!(
                    "  More: {{Type: AWS::IAM::RolePolicy, Properties: {{PolicyName: more, RoleName: !Ref WorkerRole, PolicyDocument: {{Statement: {{Effect: Allow, Action: 'dynamodb:*', Resource: !GetAtt EventStoreTable.Arn}}}}}}}}\n{beside}"
                ),
            ),
            None,
        ),
        (
            "by the table's name",
            with(
                &own(),
                ACT,
                "Action: ['dynamodb:*Item']\n                Resource: !Sub \"arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${Stage}-event-store\"",
            ),
            None,
        ),
        ("everything", with(&own(), ACT, "Action: '*'\n                Resource: '*'"), None),
        (
            "a managed policy",
            with(&removed, managed, &format!("ManagedPolicyArns: [arn:aws:iam::aws:policy/AmazonDynamoDBFullAccess]\n      {managed}")),
            Some("WorkerFunction.Role"),
        ),
    ] {
        let examination = examined(&text);
        assert_eq!(named_in(&examination), [""; 0], "{name}");
        assert_eq!(examination.unseen.keys().map(String::as_str).collect::<Vec<_>>(), Vec::from_iter(unseen), "{name}");
        if name.contains("polic") && unseen.is_some() {
            assert_eq!(examination.unseen["WorkerFunction.Role"], unknown, "{name}");
        }
    }
    // It has only what the log needs.
    let basic = of_sam("[AWSLambdaBasicExecutionRole, {S3ReadPolicy: {BucketName: x}}]");
    let findings = named_in(&examined(&basic));
    assert!(
        findings.len() == 1 && findings[0].starts_with("permissions: WorkerFunction.Role does not allow dynamodb:PutItem"),
        "{findings:?}"
    );
}

#[test]
fn what_no_alarm_watches_is_unknown() {
    let silent = own()
        .replace("SUM(Stuck)", "SUM(Parked)")
        .replace("MAX(OldestOpenAge)", "MAX(LagMs)")
        .replace("MetricName: OldestOpenAge", "MetricName: LagMs");
    let why = &examined(&silent).unseen["alarms"];
    assert!(why.contains("stuck instances (Stuck), instances that do not end, and ticks that stop (OldestOpenAge)"), "{why}");
}

#[tokio::test]
async fn timers_that_are_overdue_show_that_nobody_ticks() {
    let world = World::new().await;
    let mut lambda = Lambda::start(&world).await;
    requests(&world, "x").await;
    Poller::default().deliver(&world, &mut lambda).await;
    let good = account(&world).await;
    assert_eq!(found_at(&world, good.clone()).await.0, [""; 0], "they run, and are not due");
    make_timers_due(&world).await;
    let expected = "tick: timers of order-fulfilment: one was due at 2026-01-01T00:00:00.000Z, and no tick has let it run out";
    assert_eq!(found_at(&world, good.clone()).await.0, [expected]);
    let mut closed = good;
    let refusal = serde_json::json!({ "__type": "com.amazon.coral.service#AccessDeniedException", "Message": "only-aws-may-say-this" });
    closed.tables.insert("Query", refusal);
    let (found, unseen) = found_at(&world, closed).await;
    assert_eq!((found, &unseen["ticks"]), (vec![], &serde_json::json!("Query of timers failed (AccessDeniedException)")));
    lambda.stop().await;
}
