//! Both functions run the one program, with its variables, and their logs expire.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::{super::code::Code, differ, members_differ};
use crate::support::template::Template;

/// The functions and their roles.
pub const FUNCTIONS: [(&str, &str); 2] = [("WorkerFunction", "WorkerRole"), ("OperationsFunction", "OperationsRole")];
/// Variables that Lambda sets (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>); the level comes from
/// `LoggingConfig`.
const SET_BY_LAMBDA: [&str; 6] =
    ["AWS_ACCESS_KEY_ID", "AWS_LAMBDA_LOG_LEVEL", "AWS_LAMBDA_MAX_CONCURRENCY", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
/// Variables for tests and for other places than Lambda.
const SET_ELSEWHERE: [&str; 5] = ["AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB", "RUST_LOG", "SSL_CERT_FILE"];

/// The template sets the variables that the code reads, each to the right table, and no others.
pub fn environment(template: &Template, code: &Code) -> Vec<String> {
    let mut problems = Vec::new();
    let mut wanted = BTreeMap::from([("STAGE", json!("<Stage>"))]);
    for (name, table) in &code.tables {
        wanted.insert(&table.variable, template.table(name).map_or(Json::Null, |id| json!(format!("${{{id}}}"))));
    }
    for (function, _) in FUNCTIONS {
        let variables = &template.properties(function)["Environment"]["Variables"];
        problems.extend(members_differ(&format!("the variables of {function}"), variables, &json!(wanted)));
    }
    let set: BTreeSet<_> = wanted.keys().copied().chain(SET_BY_LAMBDA).chain(SET_ELSEWHERE).map(str::to_owned).collect();
    problems.extend(code.variables.difference(&set).map(|name| format!("the code reads {name}, which nothing sets")));
    problems.extend(set.difference(&code.variables).map(|name| format!("{name} is set, and the code does not read it")));
    problems
}

/// What runs, as whom, and where it logs. Timeouts and log levels that lose something are checked by `projector doctor`.
pub fn settings(template: &Template) -> Vec<String> {
    let mut problems = Vec::new();
    let functions: BTreeSet<_> = template.of_kind("AWS::Serverless::Function").map(|(id, _)| id).collect();
    problems.extend(differ("functions", &functions, &FUNCTIONS.map(|(function, _)| function).into()));
    for (function, role) in FUNCTIONS {
        let properties = template.properties(function);
        let logging = &properties["LoggingConfig"];
        for (what, found, wanted) in [
            ("CodeUri", &properties["CodeUri"], json!("../target/lambda/lambda/bootstrap.zip")),
            ("Runtime", &properties["Runtime"], json!("provided.al2023")),
            ("Architectures", &properties["Architectures"], json!(["arm64"])),
            ("Handler", &properties["Handler"], json!("bootstrap")),
            ("Role", &properties["Role"], json!(format!("${{{role}.Arn}}"))),
            ("LogFormat", &logging["LogFormat"], json!("JSON")),
            ("ApplicationLogLevel", &logging["ApplicationLogLevel"], json!("<LogLevel>")),
        ] {
            problems.extend(differ(&format!("{what} of {function}"), found, &wanted));
        }
        let group = logging["LogGroup"].as_str().and_then(|group| group.strip_prefix("${")?.strip_suffix('}')).unwrap_or_default();
        if template.properties(group)["RetentionInDays"].is_null() {
            problems.push(format!("the logs of {function} never expire"));
        }
    }
    // Lambda takes the lines that carry metrics for INFO.
    let levels = &template.parameter("LogLevel")["AllowedValues"];
    problems.extend(differ("AllowedValues of LogLevel", levels, &json!(["TRACE", "DEBUG", "INFO"])));
    problems
}
