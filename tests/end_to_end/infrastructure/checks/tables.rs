//! The tables are those that the code creates, and what exists nowhere else is kept.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::{super::code::Code, differ, members_differ};
use crate::support::template::Template;

/// Keys, attributes, indexes and stream are exactly those of the code.
pub fn definitions(template: &Template, code: &Code) -> Vec<String> {
    let mut problems = Vec::new();
    let mut known = BTreeSet::new();
    for (name, table) in &code.tables {
        let Some(id) = template.table(name) else {
            problems.push(format!("no table is named ${{Stage}}-{name}"));
            continue;
        };
        known.insert(id);
        let properties = template.properties(id);
        problems.extend(members_differ(id, &definition(properties), &table.definition));
        // Nobody knows beforehand what is appended, and an idle stage costs nothing.
        problems.extend(differ(&format!("BillingMode of {id}"), &properties["BillingMode"], &json!("PAY_PER_REQUEST")));
    }
    let all: BTreeSet<_> = template.of_kind("AWS::DynamoDB::Table").map(|(id, _)| id).collect();
    problems.extend(all.difference(&known).map(|id| format!("{id} is not a table of the code")));
    problems
}

/// The stack tells what the command line needs: the name of each table, as the value of its variable.
pub fn outputs(template: &Template, code: &Code) -> Vec<String> {
    let told = |table: &str, variable: &str| {
        let is = |output: &Json| output["Value"]["Ref"].as_str() == template.table(table) && described(output).starts_with(variable);
        template.outputs().as_object().into_iter().flatten().any(|(_, output)| is(output))
    };
    let untold = code.tables.iter().filter(|(name, table)| !told(name, &table.variable));
    untold.map(|(name, table)| format!("no output has {name} for {}", table.variable)).collect()
}

fn described(output: &Json) -> &str {
    output["Description"].as_str().unwrap_or_default()
}

/// In the order that [`Code`] has.
fn definition(properties: &Json) -> Json {
    let mut attributes = properties["AttributeDefinitions"].as_array().cloned().unwrap_or_default();
    attributes.sort_by_key(ToString::to_string);
    let indexes = properties["GlobalSecondaryIndexes"].as_array().cloned().unwrap_or_default();
    json!({
        "AttributeDefinitions": attributes,
        "GlobalSecondaryIndexes": indexes,
        "KeySchema": properties["KeySchema"],
        "StreamViewType": properties["StreamSpecification"]["StreamViewType"],
    })
}

/// Neither deleting the stack nor replacing a resource deletes what cannot be rebuilt. Recovery and deletion protection are checked by
/// `projector doctor`.
pub fn kept(template: &Template) -> Vec<String> {
    let of = |id: &str| {
        ["DeletionPolicy", "UpdateReplacePolicy"]
            .into_iter()
            .filter_map(|policy| differ(&format!("{policy} of {id}"), template.attribute(id, policy), &json!("Retain")))
            .collect::<Vec<_>>()
    };
    let mut problems: Vec<_> = ["EventStoreTable", "ParkedTable", "OnFailureBucket"].into_iter().flat_map(of).collect();
    // Its objects hold event data.
    let rules = template.properties("OnFailureBucket")["LifecycleConfiguration"]["Rules"].as_array();
    let expires = |rule: &Json| rule["Status"] == "Enabled" && !rule["ExpirationInDays"].is_null() && rule["Prefix"].is_null();
    if !rules.into_iter().flatten().any(expires) {
        problems.push("OnFailureBucket keeps event data forever".to_owned());
    }
    problems
}
