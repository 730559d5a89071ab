//! Each role, and each policy that applications take, allows what its code does and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::{
    super::code::{Calls, Code, Place},
    differ,
};
use crate::support::template::Template;

/// Actions by resource.
type Actions = BTreeMap<String, BTreeSet<String>>;

/// What Lambda does under a function's role: it reads the stream and writes the log.
const STREAM: [&str; 4] = ["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams"];
const LOG: [&str; 2] = ["logs:CreateLogStream", "logs:PutLogEvents"];
const INVOKE: [&str; 1] = ["lambda:InvokeFunction"];
/// What a distributed map does with its child executions.
const CHILDREN: [&str; 3] = ["states:DescribeExecution", "states:RedriveExecution", "states:StopExecution"];
/// A condition that restricts a statement to items, which are then a resource of their own.
const KEYS: [&str; 2] = ["ForAllValues:StringLike", "dynamodb:LeadingKeys"];
const MACHINE: &str = "<Stage>-projection-rebuild";

/// The actions of each role are exactly those that were seen, or that AWS takes in its name.
pub fn roles(template: &Template, code: &Code) -> Vec<String> {
    let mut problems = Vec::new();
    let wanted = wanted(template, code);
    let roles: BTreeSet<_> = template.of_kind("AWS::IAM::Role").map(|(id, _)| id).collect();
    problems.extend(differ("roles", &roles, &wanted.keys().copied().collect()));
    for (role, wanted) in wanted {
        let properties = template.properties(role);
        problems.extend(differ(&format!("ManagedPolicyArns of {role}"), &properties["ManagedPolicyArns"], &Json::Null));
        let policies = properties["Policies"].as_array().into_iter().flatten();
        problems.extend(actions_differ(role, &wanted, &granted(policies.map(|policy| &policy["PolicyDocument"]))));
    }
    let machine = template.properties("RebuildStateMachine");
    problems.extend(differ("Name of RebuildStateMachine", &machine["Name"], &json!(MACHINE)));
    problems.extend(differ("Role of RebuildStateMachine", &machine["Role"], &json!("${RebuildRole.Arn}")));
    problems
}

/// The actions of each policy that applications take are exactly those that were seen, and nothing in the template has it.
pub fn policies(template: &Template, code: &Code) -> Vec<String> {
    let mut problems = Vec::new();
    let wanted = [("CommandPolicy", &code.commands), ("ReaderPolicy", &code.queries)];
    let watermarks: BTreeSet<_> = code.processes.iter().filter_map(|process| template.table(process)).collect();
    let policies: BTreeSet<_> = template.of_kind("AWS::IAM::ManagedPolicy").map(|(id, _)| id).collect();
    problems.extend(differ("policies", &policies, &wanted.map(|(policy, _)| policy).into()));
    for (policy, calls) in wanted {
        let properties = template.properties(policy);
        let mut wanted = called(template, code, calls);
        // A process has no rows to read.
        wanted.retain(|resource, _| !watermarks.iter().any(|table| *resource == format!("${{{table}.Arn}}")));
        problems.extend(actions_differ(policy, &wanted, &granted([&properties["PolicyDocument"]])));
        for takers in ["Groups", "Roles", "Users"] {
            problems.extend(differ(&format!("{takers} of {policy}"), &properties[takers], &Json::Null));
        }
    }
    problems
}

fn actions_differ(of: &str, wanted: &Actions, granted: &Actions) -> Vec<String> {
    let (mut problems, none) = (Vec::new(), BTreeSet::new());
    for resource in wanted.keys().chain(granted.keys()).collect::<BTreeSet<_>>() {
        let (wanted, granted) = (wanted.get(resource).unwrap_or(&none), granted.get(resource).unwrap_or(&none));
        let missing = wanted.difference(granted).map(|action| format!("{of} may not {action} on {resource}, which the code does"));
        let superfluous = granted.difference(wanted).map(|action| format!("{of} may {action} on {resource}, which nothing does"));
        problems.extend(missing.chain(superfluous));
    }
    problems
}

fn wanted<'a>(template: &Template, code: &Code) -> BTreeMap<&'a str, Actions> {
    let all = |actions: &[&str]| actions.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let mut worker = called(template, code, &code.worker);
    worker.insert("${EventStoreTable.StreamArn}".to_owned(), all(&STREAM));
    worker.insert("${OnFailureBucket.Arn}/aws/lambda/*".to_owned(), all(&["s3:PutObject"]));
    // Lambda asks for it before it accepts a bucket as destination.
    worker.insert("${OnFailureBucket.Arn}".to_owned(), all(&["s3:ListBucket"]));
    worker.insert("${WorkerLogs.Arn}".to_owned(), all(&LOG));
    let mut operations = called(template, code, &code.operations);
    operations.insert("${OperationsLogs.Arn}".to_owned(), all(&LOG));
    let of_machine =
        |kind: &str, rest: &str| format!("arn:${{AWS::Partition}}:states:${{AWS::Region}}:${{AWS::AccountId}}:{kind}:{MACHINE}{rest}");
    let label = template.state("Rebuild")["Label"].as_str().unwrap_or_default();
    let rebuild = Actions::from([
        ("${OperationsFunction.Arn}".to_owned(), all(&INVOKE)),
        (of_machine("stateMachine", ""), all(&["states:StartExecution"])),
        (of_machine("execution", ":*"), all(&CHILDREN)),
        (of_machine("execution", &format!("/{label}:*")), all(&CHILDREN)),
    ]);
    let catch_up = Actions::from([("${OperationsFunction.Arn}".to_owned(), all(&INVOKE))]);
    let tick = Actions::from([("${WorkerFunction.Arn}".to_owned(), all(&INVOKE))]);
    BTreeMap::from([
        ("WorkerRole", worker),
        ("OperationsRole", operations),
        ("RebuildRole", rebuild),
        ("CatchUpRole", catch_up),
        ("TickRole", tick),
    ])
}

/// The recorded calls, by the resources of the template.
fn called(template: &Template, code: &Code, calls: &Calls) -> Actions {
    let arn = |table: &str| format!("${{{}.Arn}}", template.table(table).unwrap_or(table));
    let mut actions = Actions::new();
    for (action, place) in calls {
        let resources = match place {
            Place::EventStore => vec![arn("event-store")],
            Place::Index(index) => vec![format!("{}/index/{index}", arn("event-store"))],
            Place::Parked => vec![arn("parked")],
            Place::Claims => vec![format!("{} CLAIM#*", arn("event-store"))],
            Place::Rows => code.projections.iter().map(|projection| arn(projection)).collect(),
            Place::InstanceIndex(index) => vec![format!("{}/index/{index}", arn("process-status"))],
            Place::RowIndexes => {
                let has_indexes = |projection: &&String| code.tables[*projection].definition["GlobalSecondaryIndexes"] != json!([]);
                code.projections.iter().filter(has_indexes).map(|projection| format!("{}/index/*", arn(projection))).collect()
            }
        };
        for resource in resources {
            actions.entry(resource).or_default().insert(action.clone());
        }
    }
    actions
}

fn granted<'a>(documents: impl IntoIterator<Item = &'a Json>) -> Actions {
    let list = |value: &Json| match value {
        Json::Array(values) => values.clone(),
        one => vec![one.clone()],
    };
    let text = |value: Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut actions = Actions::new();
    for statement in documents.into_iter().flat_map(|document| list(&document["Statement"])) {
        let keys = &statement["Condition"][KEYS[0]][KEYS[1]];
        let items =
            if keys.is_null() { String::new() } else { list(keys).into_iter().flat_map(|key| [" ".to_owned(), text(key)]).collect() };
        for resource in list(&statement["Resource"]) {
            // A refusal is not a permission: it appears as an action that nothing takes.
            let allowed = statement["Effect"] == "Allow";
            let of = list(&statement["Action"]).into_iter().map(text).map(|action| if allowed { action } else { format!("not {action}") });
            actions.entry(text(resource) + &items).or_default().extend(of);
        }
    }
    actions
}
